"""Candidates by binary codes: encodings as codes of a RecurrentBinarizer, found by SDC or by Hamming distance."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chamfer._archives import read_archive, write_archive
from chamfer.binary import RecurrentCodes
from chamfer.candidates import Candidates, most_are_found, near_the_top
from chamfer.errors import CorruptIndexError
from chamfer.faiss_parts import translated
from chamfer.recurrent import RecurrentBinarizer, check_matrix
from chamfer.recurrent_lists import RecurrentLists
from chamfer.sign_index import SignIndex

_KIND = re.compile(r"(?:IVF(?P<lists>[1-9]\d{0,8}),|HNSW(?P<links>[1-9]\d{0,3}),)?(?P<distance>SDC|Hamming)")

_FORMAT = "chamfer.BinaryCandidates"
_FORMAT_VERSION = 1
_BINARIZER = "binarizer."  # begins the names of its arrays

# FAISS fits the centre of a list to no more encodings.
_TRAINING_PER_LIST = 256

# Rows that are noted together.
_PAGE_BITS = 16


class BinaryCandidates:
    """Candidates whose encodings are kept as codes of a binarizer; ids are document rows.

    Give one to `Index.build(candidates=...)`, empty: it is the pattern of the index's own, and stays empty.

    Args:
        binarizer: makes the codes; its dim is the reducer's output_dimension.
        kind: "SDC", a scan of recurrent codes; "IVF256,SDC", the same in 256 inverted lists, whose centres are those of
            float encodings; "Hamming", "IVF256,Hamming" or "HNSW32,Hamming", FAISS's binary indexes of the signs of
            codes, their first stage alone. A quarter of the lists is probed if `search` does not say.

    Scores are similarities: of SDC those of `sdc_topk`; of Hamming signs that agree less signs that differ. Ties go to
    the lower row; of those that tie with the last of a search by Hamming distance, any may be found.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: no such kind, or one that this FAISS lacks: "HNSW32,Hamming" needs faiss-cpu 1.14.
    """

    def __init__(self, binarizer: RecurrentBinarizer, kind: str = "SDC") -> None:
        if not isinstance(binarizer, RecurrentBinarizer):
            raise TypeError(f"binarizer: expected a RecurrentBinarizer, got {type(binarizer).__name__}")
        if not isinstance(kind, str):
            raise TypeError(f"kind: expected a str, got {type(kind).__name__}")
        parts = _KIND.fullmatch(kind)
        if parts is None or (parts["links"] and (parts["distance"] == "SDC" or int(parts["links"]) < 2)):
            raise ValueError(
                "kind: expected SDC, IVF<lists>,SDC, Hamming, IVF<lists>,Hamming or HNSW<links from 2>,Hamming, "
                f"got {kind!r}"
            )
        self.binarizer = binarizer
        self.kind = kind
        num_lists = int(parts["lists"]) if parts["lists"] else None
        self._rows: _Rows | None = None  # once they are asked for
        self._held: _Held
        if parts["distance"] == "SDC":
            self._held = RecurrentLists(binarizer, num_lists)
        else:
            self._held = SignIndex(binarizer, num_lists, int(parts["links"] or 0))

    def __repr__(self) -> str:
        """Name kind and sizes."""
        return f"BinaryCandidates({self.description}, {self.num_documents} documents)"

    @property
    def description(self) -> str:
        """The kind, and what a code takes: "IVF256,SDC of 1024 bits"; Hamming distances are of signs alone."""
        is_recurrent = isinstance(self._held, RecurrentLists)
        return f"{self.kind} of {self.binarizer.bits if is_recurrent else self.binarizer.output_dimension} bits"

    @property
    def dim(self) -> int:
        """Numbers of an encoding."""
        return self.binarizer.dim

    @property
    def num_documents(self) -> int:
        """Encodings that are held."""
        return self._held.num_documents

    @property
    def is_trained(self) -> bool:
        """Whether encodings can be added."""
        return self._held.is_trained

    @property
    def num_lists(self) -> int | None:
        """Inverted lists, None if there are no such."""
        return self._held.num_lists

    @property
    def most_training(self) -> int | None:
        """Encodings that are enough to train."""
        return None if self.num_lists is None else _TRAINING_PER_LIST * self.num_lists

    @property
    def nbytes(self) -> int:
        """Bytes of codes, rows, lists and the binarizer."""
        return self.binarizer.nbytes + self._held.nbytes

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """Fit the centres of inverted lists, if there are such.

        Args:
            encodings: a sample, shape (n, dim); as many as lists, or more.
            num_threads: threads to use.

        Raises:
            ValueError: another shape, or too few encodings.
        """
        with translated(f"train on {len(encodings)} encodings", self.kind):
            self._held.train(self._checked(encodings), num_threads)

    def add(self, encodings: NDArray[np.float32], num_threads: int, rows: NDArray[np.int64] | None = None) -> None:
        """Append encodings.

        Args:
            encodings: shape (n, dim).
            num_threads: threads to use.
            rows: shape (n,): their rows, inserted in the order given; None means the rows after the highest there is.

        Raises:
            ValueError: shapes do not fit, lists are not trained, or a row is negative, repeats, or is held already.
        """
        checked = self._checked(encodings)
        if not self.is_trained:
            raise ValueError(f"encodings: expected `train` before they are added to {self.kind!r}")
        held = self._held_rows()
        if rows is None:
            begin = held.next
            new = np.arange(begin, begin + len(checked), dtype=np.int64)
        else:
            new = np.asarray(rows, np.int64)
            if new.shape != (len(checked),):
                raise ValueError(f"rows: expected shape ({len(checked)},), one per encoding, got {new.shape}")
            if new.min(initial=0) < 0 or len(np.unique(new)) < len(new) or held.has_any(new):
                raise ValueError("rows: expected rows from 0, each once, that are not held yet")
        with translated("add encodings", self.kind):
            self._rows = None  # unless all goes well
            self._held.add(checked, new, num_threads, in_order=rows is not None)
            held.add(new)
            self._rows = held

    def remove(self, rows: NDArray[np.int64]) -> int:
        """Take out encodings; the others keep their rows.

        Args:
            rows: any rows; those that are not held are passed over.

        Returns:
            How many were held.

        Raises:
            ValueError: a graph, which FAISS cannot remove from.
        """
        gone = np.unique(np.asarray(rows, np.int64))
        with translated("remove encodings", self.kind):
            removed = self._held.remove(gone)
        if self._rows is not None:
            self._rows.remove(gone)
        return removed

    def holds(self, encodings: NDArray[np.float32], rows: NDArray[np.int64]) -> bool:
        """Tell whether encodings find themselves: most do, near the top.

        Args:
            encodings: shape (n, dim).
            rows: shape (n,): where they are taken to be.
        """
        checked = self._checked(encodings)
        codes = self.binarizer.encode(checked, num_threads=1)
        _, found = self._held.search(checked, codes, near_the_top(self.num_documents), 1, None)
        return most_are_found(found, rows)

    def empty_copy(self) -> BinaryCandidates:
        """Return the same, trained as these are, without encodings."""
        made = BinaryCandidates(self.binarizer, self.kind)
        made._held = self._held.empty_copy()
        return made

    def joined(self, parts: Sequence[tuple[Candidates, NDArray[np.int64]]]) -> BinaryCandidates | None:
        """Return the codes of several, trained as these are, as one; None for FAISS's, which are made anew.

        Args:
            parts: candidates, and the rows of each that are kept, ascending; they become 0, 1, 2, ...
        """
        if not isinstance(self._held, RecurrentLists):
            return None
        made = self.empty_copy()
        assert isinstance(made._held, RecurrentLists)
        for part, rows in parts:
            assert isinstance(part, BinaryCandidates)
            assert isinstance(part._held, RecurrentLists)
            made._held.append(part._held, rows)
        return made if made.num_documents == sum(len(rows) for _, rows in parts) else None

    @property
    def takes_allowed(self) -> bool:
        """Whether `search` takes `allowed`: no."""
        return False

    def search(
        self,
        encodings: NDArray[np.float32],
        num_candidates: int,
        num_threads: int,
        nprobe: int | None = None,
        allowed: NDArray[np.bool_] | None = None,
        query_binarizer: RecurrentBinarizer | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the rows whose codes are the most similar to those of each query.

        Args:
            encodings: of queries, shape (num_queries, dim).
            num_candidates: rows to find per query.
            num_threads: threads to use; the result does not depend on it.
            nprobe: inverted lists to look into, if there are such; None means a quarter of them.
            allowed: None; see `takes_allowed`.
            query_binarizer: codes the queries, which are then encodings of its dim: one that was fitted with
                compatible_with the binarizer of these candidates, such as of a newer encoder. None means their own.

        Returns:
            Scores and rows, (num_queries, num_candidates), best first; -inf and -1 fill the end.

        Raises:
            TypeError: query_binarizer is no RecurrentBinarizer.
            ValueError: shapes do not fit, or query_binarizer was not fitted to search these codes.
        """
        assert allowed is None
        if query_binarizer is None:
            query_binarizer = self.binarizer
        elif not isinstance(query_binarizer, RecurrentBinarizer):
            raise TypeError(f"query_binarizer: expected a RecurrentBinarizer, got {type(query_binarizer).__name__}")
        elif self.binarizer.fingerprint not in (query_binarizer.fingerprint, *query_binarizer.searches):
            raise ValueError(
                f"query_binarizer: expected {self.binarizer!r}, of the candidates, or one fitted to search its codes "
                f"(compatible_with=), got {query_binarizer!r}"
            )
        queries = np.ascontiguousarray(check_matrix(encodings, "encodings", query_binarizer.dim), np.float32)
        codes = query_binarizer.encode_queries(queries, num_threads=num_threads)
        with translated("search", self.kind):
            return self._held.search(queries, codes, num_candidates, num_threads, nprobe)

    def _held_rows(self) -> _Rows:
        if self._rows is None:
            self._rows = _Rows()
            self._rows.add(self._held.rows())
        return self._rows

    def _checked(self, encodings: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(check_matrix(encodings, "encodings", self.dim), np.float32)

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all, the binarizer too, to one file, atomically.

        Args:
            path: the file, an .npz of any name; replaced if it exists.
        """
        parameters = {"kind": self.kind, "binarizer": self.binarizer._parameters}
        arrays = {_BINARIZER + name: array for name, array in self.binarizer._arrays.items()}
        write_archive(Path(path), _FORMAT, _FORMAT_VERSION, parameters, arrays | self._held.arrays())

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], dim: int | None = None, description: str | None = None
    ) -> BinaryCandidates:
        """Read what `save` wrote.

        Args:
            path: the file given to `save`.
            dim: numbers of an encoding, as expected; None takes any.
            description: as expected; None takes any.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptIndexError: the file is damaged, or its dim or description is another.
            ValueError: a newer chamfer wrote it.
        """
        path = Path(path)
        parameters, arrays = read_archive(path, _FORMAT, _FORMAT_VERSION)
        try:
            of_binarizer = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_BINARIZER)}
            named = {name.removeprefix(_BINARIZER): array for name, array in of_binarizer.items()}
            self = cls(RecurrentBinarizer._of(parameters["binarizer"], named), parameters["kind"])
            self._held.read(arrays)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CorruptIndexError(f"{path}: its contents do not fit together ({error})") from None
        wanted = (self.dim if dim is None else dim, self.description if description is None else description)
        if wanted != (self.dim, self.description):
            raise CorruptIndexError(
                f"{path}: expected {wanted[1]!r} of {wanted[0]} dims, got {self.description!r} of {self.dim}"
            )
        return self


class _Rows:
    """Which rows are held, a byte for each in pages, so that a batch is looked up without a look at all."""

    def __init__(self) -> None:
        self._pages: dict[int, NDArray[np.bool_]] = {}

    @property
    def next(self) -> int:
        """The row after the highest."""
        if not self._pages:
            return 0
        page = max(self._pages)
        return (page << _PAGE_BITS) + int(np.flatnonzero(self._pages[page])[-1]) + 1

    def has_any(self, rows: NDArray[np.int64]) -> bool:
        """Tell whether one of these is held."""
        return any(page in self._pages and bool(self._pages[page][places].any()) for page, places in _by_page(rows))

    def add(self, rows: NDArray[np.int64]) -> None:
        """Note rows."""
        for page, places in _by_page(rows):
            self._pages.setdefault(page, np.zeros(1 << _PAGE_BITS, np.bool_))[places] = True

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Forget rows."""
        for page, places in _by_page(rows):
            if page in self._pages:
                self._pages[page][places] = False
                if not self._pages[page].any():
                    del self._pages[page]


def _by_page(rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the pages of rows, and the places of theirs in each."""
    ordered = np.sort(rows)
    pages, begins = np.unique(ordered >> _PAGE_BITS, return_index=True)
    for page, begin, end in zip(pages.tolist(), begins, [*begins[1:], len(ordered)], strict=False):
        yield page, ordered[begin:end] & ((1 << _PAGE_BITS) - 1)


class _Held(Protocol):
    """Codes by rows, and how they are searched; arguments are checked."""

    num_lists: int | None

    @property
    def num_documents(self) -> int:
        """Codes that are held."""

    @property
    def is_trained(self) -> bool:
        """Whether codes can be added."""

    @property
    def nbytes(self) -> int:
        """Bytes of `arrays`, about."""

    def empty_copy(self) -> _Held:
        """Return the same, trained as this is, without codes."""

    def rows(self) -> NDArray[np.int64]:
        """Return all rows, in any order."""

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """Fit the lists, if there are such."""

    def add(self, encodings: NDArray[np.float32], rows: NDArray[np.int64], num_threads: int, *, in_order: bool) -> None:
        """Add the codes of encodings, one after the other if in_order."""

    def remove(self, rows: NDArray[np.int64]) -> int:
        """Remove rows, each given once, and return how many there were."""

    def search(
        self,
        encodings: NDArray[np.float32],
        queries: RecurrentCodes,
        num_candidates: int,
        num_threads: int,
        nprobe: int | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and rows, best first, of queries: their encodings, and the codes of these."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `read` takes."""

    def read(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Hold what `arrays` returned; ValueError, KeyError or RuntimeError if it does not fit together."""
