"""The index: token vectors, a reducer, candidates and exact rerank behind one search."""

from chamfer.index.index import Index, SearchResult

__all__ = ["Index", "SearchResult"]
