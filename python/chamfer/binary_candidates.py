"""Candidates by binary codes: encodings as codes of a RecurrentBinarizer, found by SDC or by Hamming distance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from chamfer import _core
from chamfer._archives import read_archive, write_archive
from chamfer._runtime import resolve_isa
from chamfer.binary import RecurrentCodes, sdc_topk
from chamfer.candidates import (
    EF_SEARCH,
    QUERIES_AT_A_TIME,
    add_in_order,
    default_nprobe,
    faiss_threads,
    looking_at,
    most_are_found,
    near_the_top,
    on_threads,
    rows_of_lists,
    translated,
)
from chamfer.errors import CorruptIndexError
from chamfer.recurrent import RecurrentBinarizer, check_matrix

_KIND = re.compile(r"(?:IVF(?P<lists>[1-9]\d{0,8}),|HNSW(?P<links>[1-9]\d{0,3}),)?(?P<distance>SDC|Hamming)")

_FORMAT = "chamfer.BinaryCandidates"
_FORMAT_VERSION = 1
_BINARIZER = "binarizer."  # begins the names of its arrays

# FAISS fits the centre of a list to no more encodings.
_TRAINING_PER_LIST = 256

# Encodings whose products with all centres are held at once.
_ASSIGNED_AT_A_TIME = 1024

# A list of so many codes is scanned where it lies; shorter ones are copied together.
_FEWEST_IN_PLACE = 4096
_BLOCK = 32  # codes that are packed together

# Codes that a scan is asked for beyond those wanted, to see ties with the last.
_MORE = 64


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
        ValueError: no such kind.
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
        self._held: _Held
        if parts["distance"] == "SDC":
            self._held = _RecurrentLists(binarizer, num_lists)
        else:
            self._held = _SignIndex(binarizer, num_lists, int(parts["links"] or 0))

    def __repr__(self) -> str:
        """Name kind and sizes."""
        return f"BinaryCandidates({self.description}, {self.num_documents} documents)"

    @property
    def description(self) -> str:
        """The kind, and what a code takes: "IVF256,SDC of 1024 bits"; Hamming distances are of signs alone."""
        is_recurrent = isinstance(self._held, _RecurrentLists)
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
        held = self._held.rows()
        if not self.is_trained:
            raise ValueError(f"encodings: expected `train` before they are added to {self.kind!r}")
        if rows is None:
            begin = int(held.max(initial=-1)) + 1
            new = np.arange(begin, begin + len(checked), dtype=np.int64)
        else:
            new = np.asarray(rows, np.int64)
            if new.shape != (len(checked),):
                raise ValueError(f"rows: expected shape ({len(checked)},), one per encoding, got {new.shape}")
            if new.min(initial=0) < 0 or len(np.unique(new)) < len(new) or np.isin(new, held).any():
                raise ValueError("rows: expected rows from 0, each once, that are not held yet")
        with translated("add encodings", self.kind):
            self._held.add(checked, new, num_threads, in_order=rows is not None)

    def remove(self, rows: NDArray[np.int64]) -> int:
        """Take out encodings; the others keep their rows.

        Args:
            rows: any rows; those that are not held are passed over.

        Returns:
            How many were held.

        Raises:
            ValueError: a graph, which FAISS cannot remove from.
        """
        with translated("remove encodings", self.kind):
            return self._held.remove(np.unique(np.asarray(rows, np.int64)))

    def holds(self, encodings: NDArray[np.float32], rows: NDArray[np.int64]) -> bool:
        """Tell whether encodings find themselves: most do, near the top.

        Args:
            encodings: shape (n, dim).
            rows: shape (n,): where they are taken to be.
        """
        checked = self._checked(encodings)
        _, found = self._held.search(checked, self.binarizer.encode, near_the_top(self.num_documents), 1, None)
        return most_are_found(found, rows)

    def search(
        self, encodings: NDArray[np.float32], num_candidates: int, num_threads: int, nprobe: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the rows whose codes are the most similar to those of each query.

        Args:
            encodings: of queries, shape (num_queries, dim).
            num_candidates: rows to find per query.
            num_threads: threads to use; the result does not depend on it.
            nprobe: inverted lists to look into, if there are such; None means a quarter of them.

        Returns:
            Scores and rows, (num_queries, num_candidates), best first; -inf and -1 fill the end.
        """
        checked = self._checked(encodings)
        with translated("search", self.kind):
            return self._held.search(checked, self.binarizer.encode_queries, num_candidates, num_threads, nprobe)

    def _checked(self, encodings: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(check_matrix(encodings, "encodings", self.dim), np.float32)

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, path: Path) -> None:
        """Write all, the binarizer too, to one file, atomically.

        Args:
            path: the file, an .npz of any name; replaced if it exists.
        """
        parameters = {"kind": self.kind, "binarizer": self.binarizer._parameters}
        arrays = {_BINARIZER + name: array for name, array in self.binarizer._arrays.items()}
        write_archive(path, _FORMAT, _FORMAT_VERSION, parameters, arrays | self._held.arrays())

    @classmethod
    def load(cls, path: Path, dim: int, description: str) -> BinaryCandidates:
        """Read what `save` wrote.

        Args:
            path: the file given to `save`.
            dim: numbers of an encoding, as expected.
            description: as expected.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptIndexError: the file is damaged, or its dim or description is another.
            ValueError: a newer chamfer wrote it.
        """
        parameters, arrays = read_archive(path, _FORMAT, _FORMAT_VERSION)
        try:
            of_binarizer = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_BINARIZER)}
            named = {name.removeprefix(_BINARIZER): array for name, array in of_binarizer.items()}
            self = cls(RecurrentBinarizer._of(parameters["binarizer"], named), parameters["kind"])
            self._held.read(arrays)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CorruptIndexError(f"{path}: its contents do not fit together ({error})") from None
        if (self.dim, self.description) != (dim, description):
            raise CorruptIndexError(
                f"{path}: expected {description!r} of {dim} dims, got {self.description!r} of {self.dim}"
            )
        return self


class _Encode(Protocol):
    """`encode` or `encode_queries` of a binarizer."""

    def __call__(self, x: NDArray[np.float32], /, *, num_threads: int) -> RecurrentCodes:
        """Return codes."""


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

    def rows(self) -> NDArray[np.int64]:
        """Return all rows, in any order."""

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """Fit the lists, if there are such."""

    def add(self, encodings: NDArray[np.float32], rows: NDArray[np.int64], num_threads: int, *, in_order: bool) -> None:
        """Add the codes of encodings, one after the other if in_order."""

    def remove(self, rows: NDArray[np.int64]) -> int:
        """Remove rows, each given once, and return how many there were."""

    def search(
        self, encodings: NDArray[np.float32], encode: _Encode, num_candidates: int, num_threads: int, nprobe: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and rows, best first, of queries, which `encode` turns into codes."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `read` takes."""

    def read(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Hold what `arrays` returned; ValueError, KeyError or RuntimeError if it does not fit together."""


# ── recurrent codes ─────────────────────────────────────────────────────────────────────────────────────────────────


class _RecurrentLists:
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
        return sum(map(len, self._rows))

    @property
    def is_trained(self) -> bool:
        return self.num_lists is None or self._centres is not None

    @property
    def nbytes(self) -> int:
        centres = 0 if self._centres is None else self._centres.nbytes
        return centres + sum(array.nbytes for some in (self._codes, self._rows) for array in some)

    def rows(self) -> NDArray[np.int64]:
        return np.concatenate(self._rows)

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        if self.num_lists is None or self._centres is not None:
            return  # as FAISS's lists, which are trained once
        dim = encodings.shape[1]
        lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, self.num_lists, faiss.METRIC_INNER_PRODUCT)
        with faiss_threads(num_threads):
            lists.train(encodings)  # by spherical k-means, this metric being the inner product
        centres = faiss.downcast_index(lists.quantizer).reconstruct_n(0, self.num_lists)
        self._centres = np.ascontiguousarray(centres, np.float32)

    def add(
        self,
        encodings: NDArray[np.float32],
        rows: NDArray[np.int64],
        num_threads: int,
        *,
        in_order: bool,  # noqa: ARG002  # what is scanned has no order but that of rows
    ) -> None:
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
        before = self.num_documents
        for i, held in enumerate(self._rows):
            staying = np.flatnonzero(~np.isin(held, rows))
            if len(staying) < len(held):
                self._rows[i], self._codes[i] = held[staying], self._codes[i]._select(staying)
        return before - self.num_documents

    def search(
        self, encodings: NDArray[np.float32], encode: _Encode, num_candidates: int, num_threads: int, nprobe: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        queries = encode(encodings, num_threads=num_threads)
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
                best, best_rows = self._scan(probed[i].tolist(), levels[i : i + 1], queries.bits, scale, num_candidates)
                scores[i, : len(best)], rows[i, : len(best)] = best, best_rows

        on_threads(search_stretch, range(0, len(encodings), QUERIES_AT_A_TIME), num_threads)
        return scores, rows

    def _scan(
        self,
        lists: list[int],
        levels: NDArray[np.uint8],
        query_bits: int,
        scale: NDArray[np.float32] | None,
        number: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the best scores of a query in these lists, best first, and rows; fewer than number if there are."""

        def scan(
            codes: NDArray[np.uint8], scales: NDArray[np.float32] | None, size: int, number: int
        ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            found = _core.sdc_topk(
                levels,
                codes,
                size,
                number,
                bits=self._codes[0].bits,
                query_bits=query_bits,
                query_scales=scale,
                scales=scales,
                num_threads=1,
                isa=resolve_isa(None),
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

        A scan takes some 60 µs however short it is: 100,000 codes in 300 lists are scanned three times as fast so.
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


# ── signs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _SignIndex:
    """Signs of codes in one of FAISS's binary indexes."""

    def __init__(self, binarizer: RecurrentBinarizer, num_lists: int | None, links: int) -> None:
        self.num_lists = num_lists
        self._binarizer = binarizer
        self._nbytes: int | None = None
        num_bits = -(-binarizer.output_dimension // 8) * 8  # FAISS wants whole bytes; what is beyond never differs
        flat = faiss.IndexBinaryFlat(num_bits)
        self._index: Any
        if num_lists is not None:
            self._index = faiss.IndexBinaryIVF(flat, num_bits, num_lists)
        elif links:
            graph = faiss.IndexBinaryHNSW(num_bits, links)
            graph.hnsw.efSearch = EF_SEARCH
            self._index = faiss.IndexBinaryIDMap(graph)
        else:
            self._index = faiss.IndexBinaryIDMap(flat)

    @property
    def num_documents(self) -> int:
        return int(self._index.ntotal)

    @property
    def is_trained(self) -> bool:
        return bool(self._index.is_trained)

    @property
    def nbytes(self) -> int:
        if self._nbytes is None:
            self._nbytes = faiss.serialize_index_binary(self._index).nbytes
        return self._nbytes

    def rows(self) -> NDArray[np.int64]:
        if self.num_lists is None:
            return np.asarray(faiss.vector_to_array(self._index.id_map), np.int64)
        return np.concatenate(rows_of_lists(self._index.invlists))

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        if self.num_lists is not None:
            bits = self._binarizer.encode(encodings, num_threads=num_threads).to_bits()
            with faiss_threads(num_threads):
                self._index.train(bits)

    def add(self, encodings: NDArray[np.float32], rows: NDArray[np.int64], num_threads: int, *, in_order: bool) -> None:
        self._nbytes = None
        bits = self._binarizer.encode(encodings, num_threads=num_threads).to_bits()
        with faiss_threads(num_threads):
            if in_order:
                add_in_order(self._index, bits, rows)
            else:
                self._index.add_with_ids(bits, rows)

    def remove(self, rows: NDArray[np.int64]) -> int:
        self._nbytes = None
        with faiss_threads(1):
            return int(self._index.remove_ids(rows))

    def search(
        self, encodings: NDArray[np.float32], encode: _Encode, num_candidates: int, num_threads: int, nprobe: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        bits = encode(encodings, num_threads=num_threads).to_bits()
        distances = np.empty((len(bits), num_candidates), np.int32)
        rows = np.empty((len(bits), num_candidates), np.int64)

        def search_stretch(begin: int) -> None:
            part = slice(begin, begin + QUERIES_AT_A_TIME)
            distances[part], rows[part] = self._nearest(bits[part], num_candidates, nprobe)

        on_threads(search_stretch, range(0, len(bits), QUERIES_AT_A_TIME), num_threads)
        distances[rows < 0] = np.iinfo(np.int32).max
        order = np.lexsort((rows, distances), axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        scores = self._binarizer.output_dimension - 2 * np.take_along_axis(distances, order, axis=1).astype(np.float32)
        scores[rows < 0] = -np.inf
        return scores, rows

    def _nearest(
        self, bits: NDArray[np.uint8], num_candidates: int, nprobe: int | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        found: tuple[NDArray[np.int32], NDArray[np.int64]]
        if self.num_lists is None:
            inside: Any = faiss.downcast_IndexBinary(self._index.index)
            if isinstance(inside, faiss.IndexBinaryHNSW):
                found = self._index.search(bits, num_candidates, params=looking_at(inside.hnsw, num_candidates))
            else:
                found = self._index.search(bits, num_candidates)
            return found
        if nprobe is None:
            nprobe = default_nprobe(self.num_lists)
        nprobe = min(nprobe, self.num_lists)
        to_lists, lists = self._index.quantizer.search(bits, nprobe)
        distances = np.empty((len(bits), num_candidates), np.int32)
        rows = np.empty((len(bits), num_candidates), np.int64)
        # FAISS's own `search` takes nprobe from the index, which other searches share.
        self._index.search_preassigned_c(
            len(bits),
            faiss.swig_ptr(bits),
            num_candidates,
            *map(faiss.swig_ptr, (lists, to_lists, distances, rows)),
            False,
            getattr(faiss, "SearchParametersIVF")(nprobe=nprobe),  # noqa: B009  # its stubs do not know its arguments
        )
        return distances, rows

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"faiss": faiss.serialize_index_binary(self._index)}

    def read(self, arrays: dict[str, NDArray[Any]]) -> None:
        if arrays["faiss"].dtype != np.uint8:
            raise ValueError("no FAISS index")
        index: Any = faiss.deserialize_index_binary(arrays["faiss"])
        if type(index) is not type(self._index) or index.d != self._index.d:
            raise ValueError(f"a {type(index).__name__} of {index.d} bits")
        if self.num_lists not in (None, getattr(index, "nlist", None)):
            raise ValueError(f"{index.nlist} inverted lists")
        self._index = index
