"""Signs of codes in FAISS's binary indexes: what BinaryCandidates of the kinds with Hamming hold."""

from __future__ import annotations

import copy
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from chamfer.binary import RecurrentCodes
from chamfer.candidates import default_nprobe
from chamfer.faiss_parts import (
    EF_SEARCH,
    QUERIES_AT_A_TIME,
    add_in_order,
    faiss_threads,
    looking_at,
    on_threads,
    rows_of_lists,
    search_parameters,
)
from chamfer.recurrent import RecurrentBinarizer

# The first FAISS whose binary graphs take search parameters; before it a search can look no wider than the graph says,
# which all searches share.
_FIRST_WITH_GRAPHS = (1, 14)


class SignIndex:
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
            _require_search_parameters_of_graphs()
            graph = faiss.IndexBinaryHNSW(num_bits, links)
            graph.hnsw.efSearch = EF_SEARCH
            self._index = faiss.IndexBinaryIDMap(graph)
        else:
            self._index = faiss.IndexBinaryIDMap(flat)

    @property
    def num_documents(self) -> int:
        """Codes that are held."""
        return int(self._index.ntotal)

    @property
    def is_trained(self) -> bool:
        """Whether codes can be added."""
        return bool(self._index.is_trained)

    @property
    def nbytes(self) -> int:
        """Bytes of `arrays`, about."""
        if self._nbytes is None:
            self._nbytes = faiss.serialize_index_binary(self._index).nbytes
        return self._nbytes

    def empty_copy(self) -> SignIndex:
        """Return the same, trained as this is, without codes."""
        made = copy.copy(self)
        made._nbytes = None
        made._index = faiss.deserialize_index_binary(faiss.serialize_index_binary(self._index))
        made._index.reset()
        return made

    def rows(self) -> NDArray[np.int64]:
        """Return all rows, in any order."""
        if self.num_lists is None:
            return np.asarray(faiss.vector_to_array(self._index.id_map), np.int64)
        return np.concatenate(rows_of_lists(self._index.invlists))

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """Fit the lists, if there are such."""
        if self.num_lists is not None:
            bits = self._binarizer.encode(encodings, num_threads=num_threads).to_bits()
            with faiss_threads(num_threads):
                self._index.train(bits)

    def add(self, encodings: NDArray[np.float32], rows: NDArray[np.int64], num_threads: int, *, in_order: bool) -> None:
        """Add the codes of encodings, one after the other if in_order."""
        self._nbytes = None
        bits = self._binarizer.encode(encodings, num_threads=num_threads).to_bits()
        with faiss_threads(num_threads):
            if in_order:
                add_in_order(self._index, bits, rows)
            else:
                self._index.add_with_ids(bits, rows)

    def remove(self, rows: NDArray[np.int64]) -> int:
        """Remove rows, each given once, and return how many there were."""
        self._nbytes = None
        with faiss_threads(1):
            return int(self._index.remove_ids(rows))

    def search(
        self,
        encodings: NDArray[np.float32],  # noqa: ARG002  # lists are those of signs too
        queries: RecurrentCodes,
        num_candidates: int,
        num_threads: int,
        nprobe: int | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and rows, best first, of queries: their encodings, and the codes of these."""
        if queries.dim > self._binarizer.output_dimension:  # as RecurrentCodes._searching
            queries = queries._first(self._binarizer.output_dimension)
        bits = queries.to_bits()
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
            search_parameters("SearchParametersIVF", nprobe=nprobe),
        )
        return distances, rows

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `read` takes."""
        return {"faiss": faiss.serialize_index_binary(self._index)}

    def read(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Hold what `arrays` returned; ValueError, KeyError or RuntimeError if it does not fit together."""
        if arrays["faiss"].dtype != np.uint8:
            raise ValueError("no FAISS index")
        index: Any = faiss.deserialize_index_binary(arrays["faiss"])
        if type(index) is not type(self._index) or index.d != self._index.d:
            raise ValueError(f"a {type(index).__name__} of {index.d} bits")
        if self.num_lists not in (None, getattr(index, "nlist", None)):
            raise ValueError(f"{index.nlist} inverted lists")
        self._index = index


def _require_search_parameters_of_graphs() -> None:
    version = tuple(int(number) for number in faiss.__version__.split(".")[:2])
    if version < _FIRST_WITH_GRAPHS:
        raise ValueError(
            f"kind: HNSW<links>,Hamming needs faiss-cpu 1.14 or later, got {faiss.__version__}; upgrade it, or take "
            "IVF<lists>,Hamming"
        )
