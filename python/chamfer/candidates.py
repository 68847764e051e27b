"""Candidates: single-vector search over encodings with any FAISS index. The only module that imports faiss."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from chamfer._sampling import spread
from chamfer.errors import CorruptIndexError

# Queries that one FAISS call takes. Fixed, and each call runs on one thread: what a query finds cannot depend on
# num_threads.
_QUERIES_AT_A_TIME = 32

# Encodings that a fast scan's codebooks, of 16 levels each, are fitted to.
_FAST_SCAN_TRAINING = 2_048


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
            if re.search(r"HNSW[01](\D|$)", index):  # FAISS crashes on these
                raise ValueError(f"candidates: expected at least 2 links per node in HNSW, got {index!r}")
            try:
                made = faiss.index_factory(dim, index, faiss.METRIC_INNER_PRODUCT)
            except RuntimeError as error:
                raise ValueError(
                    f"candidates: FAISS cannot make an index of {dim} dims from {index!r}: {_cause(error)}"
                ) from None
            self.description = index
            ivf = faiss.try_extract_index_ivf(made)
            if ivf is not None:
                if ivf.nlist < 1:
                    raise ValueError(f"candidates: expected at least one inverted list, got {index!r}")
                ivf.nprobe = max(1, ivf.nlist // 4)
        elif isinstance(index, faiss.Index):
            # What is still empty will be filled: in a copy, so that the caller's can serve again.
            made = faiss.clone_index(index) if index.ntotal == 0 else index
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
        self._nbytes: int | None = None

    @property
    def num_documents(self) -> int:
        """Encodings in the index."""
        return int(self._index.ntotal)

    @property
    def is_trained(self) -> bool:
        """Whether encodings can be added."""
        return bool(self._index.is_trained)

    @property
    def most_training(self) -> int | None:
        """Encodings that are enough to train, None if the more the better."""
        return _FAST_SCAN_TRAINING if isinstance(self._index, faiss.IndexPQFastScan) else None

    @property
    def nbytes(self) -> int:
        """Bytes of the index when written; found by writing it to nowhere, once after each change."""
        if self._nbytes is not None:
            return self._nbytes
        total = 0

        def count(data: bytes) -> int:
            nonlocal total
            total += len(data)
            return len(data)

        faiss.write_index(self._index, _writer(count))
        self._nbytes = total
        return total

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """Fit the index (its centroids, ranges or codebooks) to sample encodings, shape (n, dim)."""
        if self.most_training is not None:
            # Its codebooks are fitted one after the other, and threads wait for each other at each step: on a busy
            # machine two take thirty times as long as one (512 codebooks of 16 levels: 93 s and 3 s).
            num_threads = 1
            encodings = encodings[spread(len(encodings), self.most_training)]
        with self._translated(f"train on {len(encodings)} encodings"), _faiss_threads(num_threads):
            self._index.train(encodings)

    def add(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """Append encodings, shape (n, dim); they become the next rows."""
        with self._translated("add encodings"), _faiss_threads(num_threads):
            self._index.add(encodings)
        self._nbytes = None

    def holds(self, encodings: NDArray[np.float32], rows: NDArray[np.int64]) -> bool:
        """Whether these encodings, taken at these rows, find themselves: most do, near the top, whatever the index."""
        closest = max(3, self.num_documents // 20)
        _, found = self.search(encodings, min(closest, self.num_documents), 1)
        return bool((found == rows[:, None]).any(axis=1).mean() > 0.5)

    def search(
        self, encodings: NDArray[np.float32], num_candidates: int, num_threads: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return inner products and rows, (num_queries, num_candidates), best first; -inf and -1 fill the end."""
        scores = np.empty((len(encodings), num_candidates), np.float32)
        rows = np.empty((len(encodings), num_candidates), np.int64)

        def search_stretch(begin: int) -> None:
            end = min(begin + _QUERIES_AT_A_TIME, len(encodings))
            self._index.search(encodings[begin:end], num_candidates, D=scores[begin:end], I=rows[begin:end])

        with self._translated("search"):
            _on_threads(search_stretch, range(0, len(encodings), _QUERIES_AT_A_TIME), num_threads)
        scores[rows < 0] = -np.inf
        return scores, rows

    def save(self, path: Path) -> None:
        """Write the FAISS index to a file.

        Raises:
            OSError: the disk is full or not writable. (FAISS's own writer does not always notice.)
        """
        failure: list[OSError] = []
        with path.open("wb") as file:

            def write(data: bytes) -> int:
                try:
                    return file.write(data)
                except OSError as error:
                    failure.append(error)
                    raise

            try:
                faiss.write_index(self._index, _writer(write))
            except Exception:
                if failure:
                    raise failure[0] from None
                raise

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Turn FAISS's errors into ValueError that names the argument."""
        try:
            yield
        except RuntimeError as error:
            raise ValueError(f"candidates: FAISS cannot {doing} with {self.description!r}: {_cause(error)}") from None

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


def _writer(write: Callable[[bytes], int]) -> Any:
    """Return a FAISS writer that calls write(bytes)."""
    return faiss.PyCallbackIOWriter(write)  # type: ignore[attr-defined]  # not in its stubs


_in_forked_child = False


def _mark_forked_child() -> None:
    global _in_forked_child
    _in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked_child)


@contextmanager
def _faiss_threads(num_threads: int) -> Iterator[None]:
    """Let FAISS use so many threads in this block: OpenMP's number, which belongs to the calling thread."""
    before = faiss.omp_get_max_threads()
    # The parent's OpenMP threads do not exist in a forked child, where waiting for them would take for ever.
    faiss.omp_set_num_threads(1 if _in_forked_child else num_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _on_threads(work: Callable[[int], None], items: Sequence[int], num_threads: int) -> None:
    """Call work(item) for each item, with FAISS on one thread in each of ours."""
    if num_threads == 1 or len(items) < 2:
        with _faiss_threads(1):
            for item in items:
                work(item)
        return
    workers = min(num_threads, len(items))
    with ThreadPoolExecutor(workers, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        list(pool.map(work, items))


def _cause(error: Exception) -> str:
    """Return the part of FAISS's message that speaks to a user: it starts with the C++ function, file and line."""
    return str(error).rsplit(": ", 1)[-1].strip() or str(error)
