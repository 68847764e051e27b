"""What `bench search` compares: the interface of a system, chamfer, and NumPy; bench/systems_peers.py has the others.

A system builds in a folder, opens it again, and answers queries. Its operating points stand beside it: one dictionary
of arguments of `search` for each. All this is read in the system's own environment (bench/worker.py), so that only
NumPy is imported at the top.
"""

from __future__ import annotations

from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_CANDIDATES = (100, 200, 500, 1000)
"""Documents that are scored exactly, of systems that choose candidates first: k = 100 needs a hundred."""

CHAMFER_POINTS = ((30, 15), (50, 20), (75, 25), (100, 25), (150, 30), (250, 35), (500, 40), (750, 50), (1000, 50))
"""Documents that chamfer's codes score for k = 10, and how many of these are scored exactly at most."""

_MARGIN = 2.5  # what tuning on SciFact and Cranfield takes for recalls of 0.9 to 0.99

_BLOCK_TOKENS = 16_384  # of documents in one product of NumPy's; more leave the caches, fewer cost calls


class UnavailableError(Exception):
    """Raised by a system that cannot be measured here, with the reason."""


class Collection:
    """The files that all systems read, memory-mapped where they are large."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Token vectors of the documents, mapped."""
        return np.load(self.folder / "documents.npy", mmap_mode="r").view(np.ndarray)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each document begins, and the last ends."""
        return np.load(self.folder / "offsets.npy")

    @cached_property
    def queries(self) -> NDArray[np.float32]:
        """Token vectors of all queries."""
        return np.load(self.folder / "queries.npy")

    @cached_property
    def query_offsets(self) -> NDArray[np.int64]:
        """Where each query begins, and the last ends."""
        return np.load(self.folder / "query_offsets.npy")

    @cached_property
    def sample(self) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """Other queries, vectors and offsets, if there are any."""
        if not (self.folder / "sample.npy").exists():
            return None
        return np.load(self.folder / "sample.npy"), np.load(self.folder / "sample_offsets.npy")

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.offsets) - 1

    def query(self, i: int) -> NDArray[np.float32]:
        """Return the vectors of one query."""
        return self.queries[self.query_offsets[i] : self.query_offsets[i + 1]]

    def token_ids(self) -> NDArray[np.uint32]:
        """Return the documents' vocabulary ids; UnavailableError if the collection has none."""
        if not (self.folder / "token_ids.npy").exists():
            raise UnavailableError("needs the documents' vocabulary ids, docs/token_ids.npy")
        return np.load(self.folder / "token_ids.npy")


class System:
    """What all systems share. One with `search_batch(queries, offsets, k, **point)` has a batch call.

    Attributes:
        package: whose version counts.
        peer: names its environment, see search.py; "" is chamfer's own.
        reads: files of the collection that a search reads beside the folder of `build`.
    """

    package = "numpy"
    peer = ""
    reads: tuple[str, ...] = ()

    def load(self) -> None:
        """Import the library: neither the time nor the memory of that is the index's."""

    def version(self) -> str:
        """Return the version of the library."""
        return metadata.version(self.package)

    def build(self, data: Collection, folder: Path, num_threads: int) -> None:
        """Make in the folder what `open` needs."""

    def open(self, data: Collection, folder: Path, num_threads: int) -> None:
        """Get ready to search with so many threads."""
        raise NotImplementedError

    def points(self, data: Collection) -> list[dict[str, Any]]:
        """Return the operating points, the fastest first."""
        return [{}]

    def search(self, query: NDArray[np.float32], k: int, **point: Any) -> Any:
        """Return the rows of the k best documents, best first."""
        raise NotImplementedError


def candidate_points(num_documents: int) -> list[dict[str, Any]]:
    """Return the points of a system that scores so many candidates exactly; all documents are no candidates."""
    return [{"num_candidates": n} for n in NUM_CANDIDATES if n < num_documents] or [{"num_candidates": num_documents}]


# ── chamfer ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Chamfer(System):
    """Index.build, Index.open, Index.search, all by default, of documents in half precision.

    Args:
        learns: whether the sample queries are given to `build`.
        rerank: its stages of reranking.
    """

    package = "chamfer"

    def __init__(self, *, learns: bool = True, rerank: Any = "auto") -> None:
        self._learns, self._rerank = learns, rerank

    def load(self) -> None:
        import chamfer

        self._chamfer, self._index_class = chamfer, chamfer.Index  # imports FAISS

    def build(self, data: Collection, folder: Path, num_threads: int) -> None:
        ch, sample = self._chamfer, data.sample
        documents = ch.TokenVectors(data.vectors.astype(np.float16), data.offsets)
        queries = ch.TokenVectors(*sample) if sample is not None and self._learns else None
        self._index_class.build(documents, queries=queries, rerank=self._rerank, path=folder, num_threads=num_threads)

    def open(self, data: Collection, folder: Path, num_threads: int) -> None:
        self._index, self._threads = self._index_class.open(folder), num_threads
        self._num_budgets = len(self._index.stats()["rerank"]) - 1  # none in a small collection

    def points(self, data: Collection) -> list[dict[str, Any]]:
        return [{"num_candidates": n, "budget": budget} for n, budget in CHAMFER_POINTS if n < data.num_documents]

    def _set(self, k: int, num_candidates: int, budget: int) -> None:
        """Set this point; asked for more results than it has room for, as many more candidates and exact scores."""
        from chamfer.index import SearchSettings

        budgets = (max(budget, k),) * self._num_budgets
        self._index.settings = SearchSettings(max(num_candidates, k), budgets, _MARGIN, k)

    def search(self, query: NDArray[np.float32], k: int, **point: int) -> Any:
        self._set(k, **point)
        return self._index.search(query, k, num_threads=self._threads).ids[0]

    def search_batch(self, queries: NDArray[Any], offsets: NDArray[Any], k: int, **point: int) -> Any:
        """Search all queries in one call."""
        self._set(k, **point)
        return self._index.search(self._chamfer.TokenVectors(queries, offsets), k, num_threads=self._threads).ids


class ChamferExact(System):
    """maxsim_topk of all documents, screened by int8 codes, which are made when it is opened; the answer is exact."""

    package = "chamfer"
    reads = ("documents.npy", "offsets.npy")

    def load(self) -> None:
        import chamfer

        self._chamfer = chamfer

    def open(self, data: Collection, folder: Path, num_threads: int) -> None:
        ch = self._chamfer
        self._documents = ch.TokenVectors(data.vectors, data.offsets)
        codec = ch.codec("int8", data.vectors.shape[1]).fit(self._documents)
        screen = codec.encode(self._documents, num_threads=num_threads)
        self._topk = partial(ch.maxsim_topk, documents=self._documents, screen=screen, num_threads=num_threads)

    def search(self, query: NDArray[np.float32], k: int, **point: Any) -> Any:
        return self._topk(query, k=k)[1][0]

    def search_batch(self, queries: NDArray[Any], offsets: NDArray[Any], k: int) -> Any:
        """Search all queries in one call."""
        return self._topk(self._chamfer.TokenVectors(queries, offsets), k=k)[1]


# ── NumPy ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def maxsim_scores(query: NDArray[Any], vectors: NDArray[Any], offsets: NDArray[Any]) -> NDArray[np.float32]:
    """Return the MaxSim of every document, none of them empty, by products of NumPy's as large as caches like."""
    found, first = [], 0
    while first < len(offsets) - 1:
        end = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _BLOCK_TOKENS, "right")) - 1)
        product = query @ vectors[offsets[first] : offsets[end]].T
        found.append(np.maximum.reduceat(product, offsets[first:end] - offsets[first], axis=1).sum(axis=0))
        first = end
    return np.concatenate(found)


def best(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return the places of the k highest scores, best first; ties go to the lower place."""
    if k < len(scores):
        bound = np.partition(scores, len(scores) - k)[len(scores) - k]
        among = np.flatnonzero(scores >= bound)
    else:
        among = np.arange(len(scores))
    return among[np.argsort(-scores[among], kind="stable")][:k]


def rerank(query: NDArray[Any], data: Collection, candidates: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return the k best of some documents by exact MaxSim, in NumPy."""
    documents = [data.vectors[data.offsets[row] : data.offsets[row + 1]] for row in candidates]
    offsets = np.concatenate([[0], np.cumsum([len(document) for document in documents])])
    return np.asarray(candidates)[best(maxsim_scores(query, np.concatenate(documents), offsets), k)]


class NumPyExact(System):
    """Exact MaxSim of all documents: float32 products by NumPy's BLAS, maxima by reduceat."""

    reads = ("documents.npy", "offsets.npy")

    def open(self, data: Collection, folder: Path, num_threads: int) -> None:
        self._data = data

    def search(self, query: NDArray[np.float32], k: int, **point: Any) -> Any:
        return best(maxsim_scores(query, self._data.vectors, self._data.offsets), k)


OURS: dict[str, Any] = {
    "chamfer": Chamfer,
    "chamfer, int8 codes": partial(Chamfer, rerank=("int8", "exact")),
    "chamfer, no sample queries": partial(Chamfer, learns=False),
    "exact, chamfer": ChamferExact,
    "exact, NumPy": NumPyExact,
}
