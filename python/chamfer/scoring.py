"""Exact MaxSim: all documents, given candidates, the best k, and which tokens matched."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chamfer import _core
from chamfer._runtime import check_positive_int, resolve_isa, resolve_num_threads
from chamfer.token_vectors import MAGNITUDE_LIMIT, TokenVectors, TokenVectorsLike, as_one_item, as_token_vectors


class Alignment(NamedTuple):
    """How one query matched one document.

    Attributes:
        score: the MaxSim score, equal to that of `maxsim`.
        similarities: float32, shape (num_query_tokens,): the largest inner product of each query token with the
            document.
        document_tokens: int64, shape (num_query_tokens,): the document token that gave it, the first of equals; -1 if
            the document is empty.
    """

    score: float
    similarities: NDArray[np.float32]
    document_tokens: NDArray[np.int64]


def maxsim(
    queries: TokenVectorsLike,
    documents: TokenVectorsLike,
    *,
    candidates: ArrayLike | None = None,
    query_weights: ArrayLike | None = None,
    num_threads: int | None = None,
    isa: str | None = None,
) -> NDArray[np.float32]:
    """Score queries against documents by MaxSim: query tokens' largest inner products with the document, summed.

    Inner products are float32, each a chain of fused multiply-adds (off by at most dim · 2⁻²⁴ · Σ|q_i d_i|); their
    weighted sum is taken in double. A score is the same for any `num_threads`, any batch, and on avx2, avx512 and neon;
    "scalar" may differ within that bound. An empty document scores -inf; an empty query
    scores 0 against any other.

    Args:
        queries: a collection of queries (see TokenVectors), or one 2-D array, one query. float16 is computed as
            float32.
        documents: a collection of documents of the same dim, float32 or float16.
        candidates: int64, shape (num_queries, m): score only these documents of each query; -1 stands for none. None
            scores all.
        query_weights: float32, shape (query tokens of all queries,): factor of each query token's similarity. None
            means 1.
        num_threads: threads to use; None means the CPUs of this process.
        isa: instruction set, one of `available_isas()`; None means `best_isa()`.

    Returns:
        float32, shape (num_queries, num_documents), or (num_queries, m) with candidates, -inf where the candidate is
        -1.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: dims differ, vectors are not finite, or a candidate is out of range.

    Source: ColBERT (arXiv 2004.12832), equation 3.
    """
    q, d = _collections(queries, documents)
    return _core.maxsim(
        q.vectors,  # type: ignore[arg-type]  # _collections made it float32
        q.offsets,
        d.vectors,
        d.offsets,
        query_weights=_check_weights(query_weights, q),
        candidates=_check_candidates(candidates, q, d),
        num_threads=resolve_num_threads(num_threads),
        isa=resolve_isa(isa),
    )


def maxsim_topk(
    queries: TokenVectorsLike,
    documents: TokenVectorsLike,
    k: int,
    *,
    candidates: ArrayLike | None = None,
    query_weights: ArrayLike | None = None,
    num_threads: int | None = None,
    isa: str | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k documents with the highest MaxSim of each query; ties go to the lower row.

    Memory grows with k, not with the number of documents. Empty documents are never returned; a candidate named twice
    counts once.

    Args:
        queries: as in `maxsim`.
        documents: as in `maxsim`.
        k: documents to return per query, at least 1; may exceed the number of documents.
        candidates: as in `maxsim`.
        query_weights: as in `maxsim`.
        num_threads: as in `maxsim`.
        isa: as in `maxsim`.

    Returns:
        scores, float32, and rows, int64, both of shape (num_queries, k), best first; -inf and -1 where there are fewer
        than k.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: dims differ, k is below 1, vectors are not finite, or a candidate is out of range.
    """
    q, d = _collections(queries, documents)
    return _core.maxsim_topk(
        q.vectors,  # type: ignore[arg-type]  # _collections made it float32
        q.offsets,
        d.vectors,
        d.offsets,
        check_positive_int(k, "k"),
        query_weights=_check_weights(query_weights, q),
        candidates=_check_candidates(candidates, q, d),
        num_threads=resolve_num_threads(num_threads),
        isa=resolve_isa(isa),
    )


def maxsim_alignment(query: TokenVectorsLike, document: TokenVectorsLike, *, isa: str | None = None) -> Alignment:
    """Explain a MaxSim score: the best similarity of each query token and the document token that gave it.

    Args:
        query: one query, float32 or float16, shape (num_query_tokens, dim).
        document: one document, float32 or float16, shape (num_document_tokens, dim).
        isa: instruction set, one of `available_isas()`; None means `best_isa()`.

    Returns:
        An Alignment (score, similarities, document_tokens). The similarities sum to the score of `maxsim`.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: dims differ, vectors are not finite, or an argument holds more than one item.
    """
    q = as_one_item(query, "query").astype(np.float32, copy=False)
    d = as_one_item(document, "document")
    _check_dims(q.shape[1], d.shape[1], "query", "document")
    return Alignment(*_core.maxsim_alignment(q, d, isa=resolve_isa(isa)))


def _collections(queries: TokenVectorsLike, documents: TokenVectorsLike) -> tuple[TokenVectors, TokenVectors]:
    q = as_token_vectors(queries, "queries")
    d = as_token_vectors(documents, "documents")
    _check_dims(q.dim, d.dim)
    if q.dtype != np.float32:
        q = TokenVectors._trusted(q.vectors.astype(np.float32), q.offsets)
    return q, d


def _check_dims(query_dim: int, document_dim: int, queries: str = "queries", documents: str = "documents") -> None:
    if query_dim != document_dim:
        raise ValueError(f"{queries}: expected dim {document_dim} as the {documents}, got {query_dim}")


def _check_weights(query_weights: ArrayLike | None, queries: TokenVectors) -> NDArray[np.float32] | None:
    if query_weights is None:
        return None
    weights = np.asarray(query_weights)
    if weights.dtype.kind not in "fiu":
        raise TypeError(f"query_weights: expected numbers, got {weights.dtype}")
    if weights.shape != (queries.num_tokens,):
        raise ValueError(
            f"query_weights: expected shape ({queries.num_tokens},), one per token of all queries, got {weights.shape}"
        )
    with np.errstate(over="ignore"):  # becomes an infinity, which is refused
        weights = np.require(weights, np.float32, ["C", "A"])
    fitting = np.abs(weights) < MAGNITUDE_LIMIT  # False for NaN
    if not fitting.all():
        wrong = weights[~fitting][0]
        wanted = "numbers below 2^50" if np.isfinite(wrong) else "finite numbers"
        raise ValueError(f"query_weights: expected {wanted}, got {wrong}")
    return weights


def _check_candidates(
    candidates: ArrayLike | None, queries: TokenVectors, documents: TokenVectors
) -> NDArray[np.int64] | None:
    if candidates is None:
        return None
    rows = np.asarray(candidates)
    if rows.size == 0 and rows.dtype.kind == "f":
        rows = rows.astype(np.int64)  # NumPy's dtype of an empty list
    if rows.dtype.kind not in "iu":
        raise TypeError(f"candidates: expected integers (document rows, -1 for none), got {rows.dtype}")
    if rows.ndim != 2 or len(rows) != len(queries):
        raise ValueError(f"candidates: expected shape ({len(queries)}, m), a row per query, got {rows.shape}")
    if rows.size and (rows.min() < -1 or rows.max() >= len(documents)):
        wrong = rows[(rows < -1) | (rows >= len(documents))][0]
        raise ValueError(f"candidates: expected rows from -1 (none) to {len(documents) - 1}, got {wrong}")
    return np.require(rows, np.int64, ["C", "A"])
