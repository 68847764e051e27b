"""Candidates: single-vector search over encodings with any FAISS index. The only module that imports faiss."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from chamfer.errors import CorruptIndexError

# Queries that one FAISS call takes. Fixed, and each call runs on one thread: what a query finds cannot depend on
# num_threads.
_QUERIES_AT_A_TIME = 64


class FaissCandidates:
    """A FAISS inner-product index whose ids are document rows.

    Args:
        index: a FAISS factory string ("Flat", "IVF256,SQfp16", "HNSW32", ...) or a FAISS index of metric inner product,
            empty or already holding the encodings of all documents in order.
        dim: numbers per encoding.

    An IVF index made from a string probes a quarter of its lists; give a ready index, its nprobe set, for another
    choice.

    Raises:
        TypeError: neither a string nor a FAISS index.
        ValueError: FAISS does not know the string, or the index has another dim or metric.
    """

    def __init__(self, index: Any, dim: int) -> None:
        if isinstance(index, str):
            try:
                made = faiss.index_factory(dim, index, faiss.METRIC_INNER_PRODUCT)
            except RuntimeError as error:
                raise ValueError(
                    f"candidates: FAISS cannot make an index of {dim} dims from {index!r}: {_cause(error)}"
                ) from None
            self.description = index
            ivf = faiss.try_extract_index_ivf(made)
            if ivf is not None:
                ivf.nprobe = max(1, ivf.nlist // 4)
        elif isinstance(index, faiss.Index):
            made = index
            self.description = type(index).__name__
        else:
            raise TypeError(
                f"candidates: expected 'auto', a FAISS factory string or a FAISS index, got {type(index).__name__}"
            )
        if made.d != dim:
            raise ValueError(f"candidates: expected a FAISS index of {dim} dims (the reducer's), got {made.d}")
        if made.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(
                "candidates: expected a FAISS index of METRIC_INNER_PRODUCT: "
                "encodings approximate MaxSim by inner products"
            )
        self._index = made

    @property
    def num_documents(self) -> int:
        """Encodings in the index."""
        return int(self._index.ntotal)

    @property
    def is_trained(self) -> bool:
        """Whether encodings can be added."""
        return bool(self._index.is_trained)

    @property
    def nbytes(self) -> int:
        """Bytes of the index when written."""
        total = 0

        def count(data: bytes) -> int:
            nonlocal total
            total += len(data)
            return len(data)

        writer = faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(count))  # type: ignore[attr-defined]  # not in its stubs
        faiss.write_index(self._index, writer)
        del writer  # flushes
        return total

    def train(self, encodings: NDArray[np.float32]) -> None:
        """Fit the index (its centroids, ranges or codebooks) to sample encodings, shape (n, dim)."""
        try:
            self._index.train(encodings)
        except RuntimeError as error:
            raise ValueError(
                f"candidates: FAISS cannot train {self.description!r} on {len(encodings)} encodings: {_cause(error)}"
            ) from None

    def add(self, encodings: NDArray[np.float32]) -> None:
        """Append encodings, shape (n, dim); they become the next rows."""
        self._index.add(encodings)

    def search(
        self, encodings: NDArray[np.float32], num_candidates: int, num_threads: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return inner products and rows, (num_queries, num_candidates), best first; -inf and -1 fill the end."""
        scores = np.empty((len(encodings), num_candidates), np.float32)
        rows = np.empty((len(encodings), num_candidates), np.int64)

        def search_stretch(begin: int) -> None:
            end = min(begin + _QUERIES_AT_A_TIME, len(encodings))
            self._index.search(encodings[begin:end], num_candidates, D=scores[begin:end], I=rows[begin:end])

        _on_threads(search_stretch, range(0, len(encodings), _QUERIES_AT_A_TIME), num_threads)
        scores[rows < 0] = -np.inf
        return scores, rows

    def save(self, path: Path) -> None:
        """Write the FAISS index to a file."""
        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path, dim: int, description: str) -> FaissCandidates:
        """Read what `save` wrote.

        Raises:
            CorruptIndexError: FAISS cannot read the file, or it does not fit the reducer.
        """
        try:
            self = cls(faiss.read_index(str(path)), dim)
        except (RuntimeError, ValueError) as error:
            raise CorruptIndexError(f"{path}: not a FAISS index of {dim} dims ({_cause(error)})") from None
        self.description = description
        return self


def _on_threads(work: Any, items: Iterable[int], num_threads: int) -> None:
    """Call work(item) for each item, FAISS on one thread: OpenMP's number of threads is the calling thread's own."""
    items = list(items)
    if num_threads == 1 or len(items) < 2:
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            for item in items:
                work(item)
        finally:
            faiss.omp_set_num_threads(before)
        return
    workers = min(num_threads, len(items))
    with ThreadPoolExecutor(workers, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        list(pool.map(work, items))


def _cause(error: Exception) -> str:
    """Return the part of FAISS's message that speaks to a user: it starts with the C++ function, file and line."""
    return str(error).rsplit(": ", 1)[-1].strip() or str(error)
