"""Recurrent codes in inverted lists, scanned by SDC: what BinaryCandidates of the kinds with SDC hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer import _core
from chamfer._runtime import resolve_isa
from chamfer.binary import RecurrentCodes, sdc_topk
from chamfer.candidates import default_nprobe
from chamfer.faiss_parts import QUERIES_AT_A_TIME, on_threads, trained_centres
from chamfer.recurrent import RecurrentBinarizer

# Encodings whose products with all centres are held at once.
_ASSIGNED_AT_A_TIME = 1024


class RecurrentLists:
    """Recurrent codes in lists, scanned by SDC; rows ascend in each list, so that ties go to the lower one.

    An encoding lies in the list whose centre has the greatest inner product with it, as in FAISS's inverted files.
    """

    def __init__(self, binarizer: RecurrentBinarizer, num_lists: int | None) -> None:
        self.num_lists = num_lists
        self._binarizer = binarizer
        self._centres: NDArray[np.float32] | None = None
        nothing = binarizer.encode(np.empty((0, binarizer.dim), np.float32), num_threads=1)
        self._codes: list[RecurrentCodes] = [nothing] * (num_lists or 1)
        self._rows: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * (num_lists or 1)

    @property
    def num_documents(self) -> int:
        """Codes that are held."""
        return sum(map(len, self._rows))

    @property
    def is_trained(self) -> bool:
        """Whether codes can be added."""
        return self.num_lists is None or self._centres is not None

    @property
    def nbytes(self) -> int:
        """Bytes of `arrays`, about."""
        centres = 0 if self._centres is None else self._centres.nbytes
        return centres + sum(array.nbytes for some in (self._codes, self._rows) for array in some)

    def empty_copy(self) -> RecurrentLists:
        """Return the same lists without codes."""
        made = RecurrentLists(self._binarizer, self.num_lists)
        made._centres = self._centres
        return made

    def rows(self) -> NDArray[np.int64]:
        """Return all rows, in any order."""
        return np.concatenate(self._rows)

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """Fit the lists, if there are such."""
        if self.num_lists is None or self._centres is not None:
            return  # as FAISS's lists, which are trained once
        self._centres = trained_centres(encodings, self.num_lists, num_threads)

    def add(
        self,
        encodings: NDArray[np.float32],
        rows: NDArray[np.int64],
        num_threads: int,
        *,
        in_order: bool,  # noqa: ARG002  # what is scanned has no order but that of rows
    ) -> None:
        """Add the codes of encodings."""
        codes = self._binarizer.encode(encodings, num_threads=num_threads)
        lists = np.zeros(len(rows), np.int64)
        if self._centres is not None:
            lists = self._nearest_lists(encodings, 1, num_threads)[:, 0]
        order = np.lexsort((rows, lists))
        begins = np.searchsorted(lists[order], np.arange(len(self._rows) + 1))
        levels = codes.levels()
        for i in np.unique(lists).tolist():
            part = order[begins[i] : begins[i + 1]]
            joined = np.concatenate([self._rows[i], rows[part]])
            held = self._codes[i]._followed_by(
                RecurrentCodes.from_levels(
                    levels[part], codes.bits, None if codes.scales is None else codes.scales[part]
                )
            )
            if len(joined) > len(part) and joined[-len(part)] < joined[-len(part) - 1]:
                ascending = np.argsort(joined)
                joined, held = joined[ascending], held._select(ascending)
            self._rows[i], self._codes[i] = joined, held

    def append(self, others: RecurrentLists, kept: NDArray[np.int64]) -> None:
        """Add these rows, ascending, of lists that were trained as these; after n rows here they are n, n + 1, ..."""
        begin = self.num_documents
        for i, (rows, codes) in enumerate(zip(others._rows, others._codes, strict=True)):
            places = np.searchsorted(kept, rows)
            staying = np.flatnonzero(kept[np.minimum(places, len(kept) - 1)] == rows) if len(kept) else rows[:0]
            if len(staying) == 0:
                continue
            more = codes if len(staying) == len(rows) else codes._select(staying)
            self._rows[i] = np.concatenate([self._rows[i], begin + places[staying]])
            self._codes[i] = self._codes[i]._followed_by(more)

    def remove(self, rows: NDArray[np.int64]) -> int:
        """Remove rows, each given once, and return how many there were."""
        before = self.num_documents
        for i, held in enumerate(self._rows):
            staying = np.flatnonzero(~np.isin(held, rows))
            if len(staying) < len(held):
                self._rows[i], self._codes[i] = held[staying], self._codes[i]._select(staying)
        return before - self.num_documents

    def search(
        self,
        encodings: NDArray[np.float32],
        queries: RecurrentCodes,
        num_candidates: int,
        num_threads: int,
        nprobe: int | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and rows, best first, of queries: their encodings, and the codes of these."""
        queries = queries._searching(self._codes[0])
        if self.num_lists is None:
            scores, rows = sdc_topk(queries, self._codes[0], num_candidates, num_threads=num_threads)
            found = rows >= 0
            rows[found] = self._rows[0][rows[found]]
            return scores, rows
        scores = np.empty((len(encodings), num_candidates), np.float32)
        rows = np.empty((len(encodings), num_candidates), np.int64)
        if nprobe is None:
            nprobe = default_nprobe(self.num_lists)
        nprobe = min(nprobe, self.num_lists)
        if queries.fingerprint == self._binarizer.fingerprint:
            probed = self._nearest_lists(encodings, nprobe, num_threads)
        else:  # of another space than the centres; their codes are of the codes' own
            assert self._centres is not None
            centres = self._binarizer.encode(self._centres, num_threads=num_threads)
            probed = sdc_topk(queries, centres, nprobe, num_threads=num_threads)[1]
        levels, bits, isa = queries.levels(), self._codes[0].bits, resolve_isa(None)
        scales = [1.0] * len(encodings) if queries.scales is None else queries.scales.tolist()
        parts = [(codes._packed, codes.scales, held) for codes, held in zip(self._codes, self._rows, strict=True)]

        def search_stretch(begin: int) -> None:
            for i in range(begin, min(begin + QUERIES_AT_A_TIME, len(encodings))):
                some = [parts[number] for number in probed[i].tolist()]
                scores[i], rows[i] = _core.sdc_topk_of_lists(
                    levels[i],
                    some,
                    num_candidates,
                    bits=bits,
                    query_scale=scales[i],
                    query_bits=queries.bits,
                    isa=isa,
                )

        on_threads(search_stretch, range(0, len(encodings), QUERIES_AT_A_TIME), num_threads)
        return scores, rows

    def _nearest_lists(self, encodings: NDArray[np.float32], number: int, num_threads: int) -> NDArray[np.int64]:
        """Return the lists of the greatest inner products, in any order, shape (n, number)."""
        assert self._centres is not None
        nearest = np.empty((len(encodings), number), np.int64)
        for begin in range(0, len(encodings), _ASSIGNED_AT_A_TIME):
            part = slice(begin, begin + _ASSIGNED_AT_A_TIME)
            # Not by BLAS, whose sums depend on how many encodings there are.
            products = _core.project(encodings[part], self._centres, isa=resolve_isa(None), num_threads=num_threads)
            nearest[part] = np.argpartition(-products, number - 1, axis=1)[:, :number]
        return nearest

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `read` takes."""
        arrays: dict[str, NDArray[Any]] = {
            "rows": np.concatenate(self._rows),
            "lengths": np.array([len(rows) for rows in self._rows], np.int64),
            "codes": np.concatenate([codes._packed for codes in self._codes]),
        }
        scales = [codes.scales for codes in self._codes if codes.scales is not None]
        if scales:
            arrays["scales"] = np.concatenate(scales)
        if self._centres is not None:
            arrays["centres"] = self._centres
        return arrays

    def read(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Hold what `arrays` returned; ValueError, KeyError or RuntimeError if it does not fit together."""
        nothing, lengths = self._codes[0], arrays["lengths"]
        dim, bits = nothing.dim, nothing.bits
        sizes = [_core.packed_bytes(dim, bits, "integer", int(n)) for n in lengths]
        total = int(lengths.sum())
        wanted: dict[str, tuple[tuple[int, ...], type]] = {
            "rows": ((total,), np.int64),
            "lengths": ((len(self._rows),), np.int64),
            "codes": ((sum(sizes),), np.uint8),
        }
        if nothing.scales is not None:
            wanted["scales"] = ((total,), np.float32)
        if self.num_lists is not None and (total or "centres" in arrays):
            wanted["centres"] = ((self.num_lists, self._binarizer.dim), np.float32)
        if {name: (array.shape, array.dtype.type) for name, array in arrays.items()} != wanted:
            raise ValueError("its arrays are not those of its lists")
        ends, code_ends = np.cumsum(lengths), np.cumsum(sizes)
        for i in range(len(self._rows)):
            part, bytes_of = slice(ends[i] - lengths[i], ends[i]), slice(code_ends[i] - sizes[i], code_ends[i])
            scales = None if nothing.scales is None else arrays["scales"][part]
            self._rows[i] = arrays["rows"][part].copy()
            self._codes[i] = RecurrentCodes._of_packed(arrays["codes"][bytes_of], int(lengths[i]), dim, bits, scales)
            self._codes[i].fingerprint = nothing.fingerprint
        self._centres = arrays.get("centres")
