"""Candidates: what an index asks of them, and single-vector search over encodings with any FAISS index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from chamfer._containers import file_checksum
from chamfer._sampling import spread
from chamfer.errors import CorruptIndexError
from chamfer.faiss_parts import (
    QUERIES_AT_A_TIME,
    add_in_order,
    candidate_parameters,
    cause_of,
    clear_unused,
    faiss_threads,
    id_keeper,
    innermost,
    inside,
    keeping_ids,
    moves_codes,
    on_threads,
    read_index,
    row_after,
    selector_of,
    translated,
    widen,
    writer_to,
)

# Encodings that a fast scan's codebooks, of 16 levels each, are fitted to.
_FAST_SCAN_TRAINING = 2_048

# Those that FAISS tells of a selector. IndexPQ and the fast scans refuse it.
# Graphs take it, but stop where few of those that they look at are allowed.
_SELECTING = (faiss.IndexFlat, faiss.IndexScalarQuantizer, faiss.IndexIVF)

# A local intrinsic dimension is estimated from the distances to so many nearest neighbours.
_NEIGHBOURS = 20

# Squared distances below this share of the encodings' mean square are those of equal ones, and rounding.
_NO_DISTANCE = 1e-5


class Candidates(Protocol):
    """What an index asks of candidates, whose ids are document rows."""

    @property
    def description(self) -> str:
        """What they are, in a word."""

    @property
    def num_documents(self) -> int:
        """Encodings that are held."""

    @property
    def is_trained(self) -> bool:
        """Whether encodings can be added."""

    @property
    def num_lists(self) -> int | None:
        """Inverted lists, None if there are no such."""

    @property
    def most_training(self) -> int | None:
        """Encodings that are enough to train, None if the more the better."""

    @property
    def nbytes(self) -> int:
        """Bytes of all that `save` writes."""

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """Fit to sample encodings, shape (n, dim)."""

    def add(self, encodings: NDArray[np.float32], num_threads: int, rows: NDArray[np.int64] | None = None) -> None:
        """Append encodings, shape (n, dim); they become the next rows, or these, inserted in the order given."""

    def remove(self, rows: NDArray[np.int64]) -> int:
        """Take out the encodings of these rows, and return how many there were; the others keep their rows."""

    def holds(self, encodings: NDArray[np.float32], rows: NDArray[np.int64]) -> bool:
        """Whether these encodings, taken at these rows, find themselves."""

    @property
    def takes_allowed(self) -> bool:
        """Whether `search` takes `allowed`."""

    def search(
        self,
        encodings: NDArray[np.float32],
        num_candidates: int,
        num_threads: int,
        nprobe: int | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores, the higher the better, and rows, (num_queries, num_candidates); -inf and -1 fill the end.

        Of inverted lists `nprobe` are looked into; with `allowed`, one bool per row, only those rows are found.
        """

    def empty_copy(self) -> Candidates:
        """Return the same, trained as these are, without encodings."""

    def joined(self, parts: Sequence[tuple[Candidates, NDArray[np.int64]]]) -> Candidates | None:
        """Return encodings of several, trained as these are, as one: these rows of each, which become 0, 1, 2, ...

        None where that needs the encodings themselves.
        """

    def save(self, path: Path) -> None:
        """Write all to one file."""


def default_nprobe(num_lists: int) -> int:
    """Return how many inverted lists a search looks into that does not say: a quarter."""
    return max(1, num_lists // 4)


def near_the_top(num_documents: int) -> int:
    """Return how many results an encoding is to find itself among, whatever holds it."""
    return min(max(3, num_documents // 20), num_documents)


def most_are_found(found: NDArray[np.int64], rows: NDArray[np.int64]) -> bool:
    """Return whether more than half of the rows are among what was found for each."""
    return bool((found == rows[:, None]).any(axis=1).mean() > 0.5)


class FaissCandidates:
    """A FAISS inner-product index whose ids are document rows.

    Args:
        index: a FAISS factory string ("Flat", "IVF256,SQfp16", "HNSW32", ...) or a FAISS index of metric inner product,
            empty or already holding the encodings of all documents in order.
        dim: numbers per encoding.

    An IVF index made from a string probes a quarter of its lists, if `search` does not say. Any HNSW graph, a ready one
    too, is searched with an efSearch of at least the number of candidates: FAISS alone stops at its own.

    HNSW links encodings by inner product, as FAISS does. Linking them by distance, made equally long by one more
    coordinate, finds fewer: of Flat's best 500 on 40,000 documents 0.953 instead of 0.986 (`python -m bench
    candidates`).

    Raises:
        TypeError: neither a string nor a FAISS index.
        ValueError: FAISS does not know the string, or the index has another dim or metric.
    """

    _next_row: int | None = None  # of the next encoding; None until it is looked up

    def __init__(self, index: Any, dim: int) -> None:
        if isinstance(index, str):
            if re.search(r"HNSW[01](\D|$)", index):  # FAISS crashes on these
                raise ValueError(f"candidates: expected at least 2 links per node in HNSW, got {index!r}")
            if re.search(
                r"(?<!_)HNSW\d*(,|_|_\d+\+)PQ", index
            ):  # the first two are L2 only; training the third never ends
                raise ValueError(f"candidates: expected HNSW without PQ, which FAISS links by L2 only, got {index!r}")
            try:
                made = faiss.index_factory(dim, index, faiss.METRIC_INNER_PRODUCT)
            except RuntimeError as error:
                raise ValueError(
                    f"candidates: FAISS cannot make an index of {dim} dims from {index!r}: {cause_of(error)}"
                ) from None
            self.description = index
            ivf = faiss.try_extract_index_ivf(made)
            if ivf is not None:
                if ivf.nlist < 1:
                    raise ValueError(f"candidates: expected at least one inverted list, got {index!r}")
                ivf.nprobe = default_nprobe(ivf.nlist)
            widen(made)
        elif isinstance(index, faiss.Index):
            # What is still empty will be filled: in a copy, so that the caller's can serve again.
            try:
                made = faiss.clone_index(index) if index.ntotal == 0 else index
            except RuntimeError as error:
                raise ValueError(
                    f"candidates: FAISS cannot copy an empty {type(index).__name__}, fill it first: {cause_of(error)}"
                ) from None
            self.description = type(index).__name__
        else:
            raise TypeError(
                "candidates: expected 'auto', a FAISS factory string, a FAISS index or BinaryCandidates, "
                f"got {type(index).__name__}"
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
    def num_lists(self) -> int | None:
        """Inverted lists, None if there are no such."""
        inner = self._index
        while (wrapped := inside(inner)) is not None:
            inner = wrapped
        return int(inner.nlist) if isinstance(inner, faiss.IndexIVF) else None

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

        faiss.write_index(self._index, writer_to(count))
        self._nbytes = total
        return total

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """Fit the index (its centroids, ranges or codebooks) to sample encodings, shape (n, dim)."""
        if self.most_training is not None:
            # Its codebooks are fitted one after the other, and threads wait for each other at each step: on a busy
            # machine two take thirty times as long as one (512 codebooks of 16 levels: 93 s and 3 s).
            num_threads = 1
            encodings = encodings[spread(len(encodings), self.most_training)]
        with self._translated(f"train on {len(encodings)} encodings"):
            if isinstance(self._index, faiss.IndexIVFPQFastScan):
                # Its lists first, on all threads, then its codebooks, on one.
                with faiss_threads(num_threads):
                    level_1: Any = self._index  # a part of it that FAISS's stubs do not know
                    level_1.train_q1(len(encodings), faiss.swig_ptr(encodings), False, self._index.metric_type)
                num_threads = 1
            with faiss_threads(num_threads):
                self._index.train(encodings)

    def add(self, encodings: NDArray[np.float32], num_threads: int, rows: NDArray[np.int64] | None = None) -> None:
        """Append encodings, shape (n, dim); they become the next rows, or these, inserted in the order given."""
        if self._next_row is None:
            self._next_row = row_after(self._index)
        with self._translated("add encodings"), faiss_threads(num_threads):
            if rows is not None:
                self._index = keeping_ids(self._index)
                add_in_order(self._index, encodings, rows)
            elif self._next_row == self._index.ntotal and not isinstance(self._index, faiss.IndexIDMap):
                self._index.add(encodings)
            else:  # some were removed, or came with rows
                self._index.add_with_ids(encodings, np.arange(self._next_row, self._next_row + len(encodings)))
        after = self._next_row + len(encodings) if rows is None else int(rows.max(initial=-1)) + 1
        self._next_row = max(self._next_row, after)
        self._nbytes = None

    def remove(self, rows: NDArray[np.int64]) -> int:
        """Take out the encodings of these rows, and return how many there were; the others keep their rows.

        Raises:
            ValueError: FAISS cannot remove from such an index: a graph, one that refines ("RFlat"), or a fast scan in
                blocks of other than 32 ("PQ64x4fs_64").
        """
        if not moves_codes(self._index):
            raise ValueError(f"candidates: FAISS cannot remove from {self.description!r}; choose blocks of 32 codes")
        index = keeping_ids(self._index)  # without ids, FAISS moves up the rows that follow
        if self._next_row is None:
            self._next_row = row_after(self._index)
        with self._translated("remove encodings"), faiss_threads(1):
            num_removed = int(index.remove_ids(np.unique(rows).astype(np.int64)))
            clear_unused(index)
        self._index, self._nbytes = index, None
        return num_removed

    def holds(self, encodings: NDArray[np.float32], rows: NDArray[np.int64]) -> bool:
        """Whether these encodings, taken at these rows, find themselves: most do, near the top, whatever the index."""
        _, found = self.search(encodings, near_the_top(self.num_documents), 1)
        return most_are_found(found, rows)

    def joined(self, parts: Sequence[tuple[Candidates, NDArray[np.int64]]]) -> FaissCandidates | None:
        """Return encodings of several, trained as these are, as one: these rows of each, which become 0, 1, 2, ...

        None where FAISS cannot: graphs, inverted lists of which some rows are left out, and fast scans in blocks of
        other than 32.
        """
        if not moves_codes(self._index):
            return None
        made = self.empty_copy()
        keeps_ids = id_keeper(made._index) is not None
        for part, rows in parts:
            assert isinstance(part, FaissCandidates)
            left_out = np.setdiff1d(np.arange(part.num_documents), rows)
            if isinstance(part._index, faiss.IndexIDMap) or (keeps_ids and len(left_out)):
                return None
            if part.num_documents == 0:
                continue
            try:
                codes = faiss.clone_index(part._index)
                if len(left_out):
                    codes.remove_ids(left_out)  # type: ignore[arg-type]  # its stub is SWIG's
                made._index.merge_from(codes, made._index.ntotal if keeps_ids else 0)
            except RuntimeError:
                return None
        clear_unused(made._index)
        made._next_row = None
        return made if made.num_documents == sum(len(rows) for _, rows in parts) else None

    @property
    def takes_allowed(self) -> bool:
        """Whether FAISS finds what it is told it may: not scans of product quantizers, fast or not, nor graphs."""
        return isinstance(innermost(self._index), _SELECTING)

    def empty_copy(self) -> FaissCandidates:
        """Return the same, trained as these are, without encodings.

        Raises:
            ValueError: FAISS cannot copy or empty such an index.
        """
        with self._translated("empty a copy"):
            index = faiss.clone_index(self._index)
            index.reset()
        made = FaissCandidates(index, int(index.d))
        made.description = self.description
        return made

    def search(
        self,
        encodings: NDArray[np.float32],
        num_candidates: int,
        num_threads: int,
        nprobe: int | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return inner products and rows, (num_queries, num_candidates), best first; -inf and -1 fill the end.

        Of inverted lists, if there are such, `nprobe` are looked into; None stands for the index's own number. With
        `allowed`, one bool per row, only those rows are found.
        """
        scores = np.empty((len(encodings), num_candidates), np.float32)
        rows = np.empty((len(encodings), num_candidates), np.int64)
        selector = None
        if allowed is not None:
            selector = selector_of(np.packbits(allowed, bitorder="little"))

        def search_stretch(begin: int) -> None:
            end = min(begin + QUERIES_AT_A_TIME, len(encodings))
            # Of its own: an IndexIDMap puts another selector in while it searches.
            wide = candidate_parameters(self._index, num_candidates, nprobe, selector)
            self._index.search(
                encodings[begin:end], num_candidates, params=wide, D=scores[begin:end], I=rows[begin:end]
            )

        with self._translated("search"):
            on_threads(search_stretch, range(0, len(encodings), QUERIES_AT_A_TIME), num_threads)
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
                faiss.write_index(self._index, writer_to(write))
            except Exception:
                if failure:
                    raise failure[0] from None
                raise

    def _translated(self, doing: str) -> AbstractContextManager[None]:
        return translated(doing, self.description)

    @classmethod
    def load(cls, path: Path, dim: int, description: str) -> FaissCandidates:
        """Read what `save` wrote.

        Raises:
            CorruptIndexError: FAISS cannot read the file, or it does not fit the reducer.
            OSError: nobody can.
        """
        try:
            try:
                index = read_index(path)
            except RuntimeError:
                # FAISS does not tell a disk that fails from contents that do not fit: this raises OSError then.
                file_checksum(path)
                index = read_index(path)
            self = cls(index, dim)
        except (RuntimeError, ValueError) as error:
            raise CorruptIndexError(f"{path}: not a FAISS index of {dim} dims ({cause_of(error)})") from None
        self.description = description
        return self


def local_dimensions(
    encodings: NDArray[np.float32], sample: NDArray[np.float32], num_threads: int
) -> NDArray[np.float64]:
    """Return the local intrinsic dimension at each encoding: the maximum-likelihood estimate from its neighbours.

    Args:
        encodings: shape (n, dim).
        sample: shape (m, dim): where neighbours are looked for. Equal encodings are not neighbours.
        num_threads: threads to use.

    Returns:
        Shape (n,), 0 where fewer than two neighbours are at different distances.
    """
    flat = faiss.IndexFlatL2(sample.shape[1])
    flat.add(sample)
    with faiss_threads(num_threads):
        squares, _ = flat.search(encodings, min(_NEIGHBOURS + 1, len(sample)))
    least = _NO_DISTANCE * float(np.mean(np.einsum("ij,ij->i", sample, sample)))
    is_neighbour = squares > least
    # How far the others are of the farthest; squares have twice the logarithms of distances.
    shares = np.divide(squares, squares[:, -1:], out=np.ones(squares.shape), where=is_neighbour)
    total = -0.5 * np.log(shares).sum(axis=1)
    found: NDArray[np.float64] = np.divide(is_neighbour.sum(axis=1), total, out=np.zeros(len(total)), where=total > 0)
    return found
