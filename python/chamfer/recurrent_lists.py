"""Recurrent codes in inverted lists, scanned by SDC: what BinaryCandidates of the kinds with SDC hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer import _core
from chamfer._runtime import resolve_isa
from chamfer.binary import RecurrentCodes, sdc_topk
from chamfer.candidates import QUERIES_AT_A_TIME, default_nprobe, on_threads, trained_centres
from chamfer.recurrent import RecurrentBinarizer

# Encodings whose products with all centres are held at once.
_ASSIGNED_AT_A_TIME = 1024

# A list of so many codes is scanned where it lies; shorter ones are copied together.
_FEWEST_IN_PLACE = 4096
_BLOCK = 32  # codes that are packed together

# Codes that a scan is asked for beyond those wanted, to see ties with the last.
_MORE = 64


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
        if self.num_lists is None:
            scores, rows = sdc_topk(queries, self._codes[0], num_candidates, num_threads=num_threads)
            found = rows >= 0
            rows[found] = self._rows[0][rows[found]]
            return scores, rows
        scores = np.full((len(encodings), num_candidates), -np.inf, np.float32)
        rows = np.full((len(encodings), num_candidates), -1, np.int64)
        if nprobe is None:
            nprobe = default_nprobe(self.num_lists)
        probed = self._nearest_lists(encodings, min(nprobe, self.num_lists), num_threads)
        levels = queries.levels()

        def search_stretch(begin: int) -> None:
            for i in range(begin, min(begin + QUERIES_AT_A_TIME, len(encodings))):
                scale = None if queries.scales is None else queries.scales[i : i + 1]
                best, best_rows = self._scan(probed[i].tolist(), levels[i : i + 1], scale, num_candidates)
                scores[i, : len(best)], rows[i, : len(best)] = best, best_rows

        on_threads(search_stretch, range(0, len(encodings), QUERIES_AT_A_TIME), num_threads)
        return scores, rows

    def _scan(
        self, lists: list[int], levels: NDArray[np.uint8], scale: NDArray[np.float32] | None, number: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the best scores of a query in these lists, best first, and rows; fewer than number if there are."""

        def scan(
            codes: NDArray[np.uint8], scales: NDArray[np.float32] | None, size: int, number: int
        ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            bits, isa = self._codes[0].bits, resolve_isa(None)
            found = _core.sdc_topk(
                levels, codes, size, number, bits=bits, query_scales=scale, scales=scales, num_threads=1, isa=isa
            )
            return found[0][0], found[1][0]

        found = []
        few = []
        for i in lists:
            codes, size = self._codes[i], len(self._rows[i])
            if size >= _FEWEST_IN_PLACE:
                some_scores, places = scan(codes._packed, codes.scales, size, min(number, size))
                found.append((some_scores, self._rows[i][places]))
            elif size:
                few.append(i)
        if few:
            packed, scales, rows = self._gathered(few)
            asked = min(number + int((rows < 0).sum()) + _MORE, len(rows))
            while True:
                some_scores, places = scan(packed, scales, len(rows), asked)
                some = rows[places]
                there = some[some >= 0], some_scores[some >= 0]
                # Not those of the lowest rows, which lie anywhere, if more than were asked for tie with the last.
                if asked == len(rows) or (len(there[0]) >= number and there[1][number - 1] > some_scores[-1]):
                    break
                asked = min(4 * asked, len(rows))
            found.append((there[1], there[0]))
        if not found:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        all_scores, all_rows = (np.concatenate([part[side] for part in found]) for side in (0, 1))
        return _best(all_scores, all_rows, number)

    def _gathered(self, lists: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None, NDArray[np.int64]]:
        """Return packed codes, scales and rows of some lists as of one; row -1 where a list leaves its block unfilled.

        A scan takes some 3 µs however short it is, and Python as much again several times over: 100,000 codes in 300
        lists are scanned 1.3 times as fast so for 100 rows, 2.8 times for 500.
        """
        sizes = [-(-len(self._rows[i]) // _BLOCK) * _BLOCK for i in lists]
        code_size = self._codes[0].code_size
        packed = np.empty(sum(sizes) * code_size, np.uint8)
        scales = None if self._codes[0].scales is None else np.zeros(sum(sizes), np.float32)
        rows = np.full(sum(sizes), -1, np.int64)
        begin = 0
        for i, size in zip(lists, sizes, strict=True):
            end = begin + len(self._rows[i])
            packed[begin * code_size : (begin + size) * code_size] = self._codes[i]._packed
            rows[begin:end] = self._rows[i]
            if scales is not None:
                scales[begin:end] = self._codes[i].scales
            begin += size
        return packed, scales, rows

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


def _best(
    scores: NDArray[np.float32], rows: NDArray[np.int64], number: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the best of a query's scores, best first, and their rows; ties: the lower row."""
    if len(scores) > number:
        kept = scores >= np.partition(scores, len(scores) - number)[len(scores) - number]
        scores, rows = scores[kept], rows[kept]
    order = np.lexsort((rows, -scores))[:number]
    return scores[order], rows[order]
