"""Ways to keep single vectors in few bytes, each fitted, filled and searched alike, for `python -m bench binary`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

import chamfer as ch
from bench.search_results import K, overlap

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

DEPTHS = (10, 50, 100)
_FEWEST_PAIRS = 64  # that fit_binarizer takes
_ITQ_ITERATIONS = 50  # as in the paper, and in FAISS
_TIMED_QUERIES = 100


class Codes(Protocol):
    """Vectors in a few bytes each.

    Attributes:
        queries: what a query is compared as: "float32", "8 bit tables", "4 bits" a number, "signs" or "codes".
    """

    queries: str

    def fit(self, vectors: Floats, sample: Floats) -> None:
        """Learn from the vectors to be kept, and from sample queries."""

    def add(self, vectors: Floats) -> None:
        """Encode and keep all vectors."""

    def settle(self, vectors: Floats, sample: Floats) -> None:
        """Choose how to search by what sample queries find, once all vectors are kept."""

    def search(self, queries: Floats, k: int) -> Rows:
        """Return the k best rows of each query."""

    def sizes(self) -> tuple[float, int]:
        """Return bytes of a vector, and those of what all vectors share."""


@dataclass(frozen=True)
class Method:
    """A line of the picture at one size; bits is the budget that it was given, None for a size of its own."""

    name: str
    bits: int | None
    make: Callable[[], Codes]


def rows_of(
    method: Method, vectors: Floats, queries: Floats, sample: Floats, exact: Rows, nearest: Rows
) -> dict[str, Any]:
    """Fit, fill and search one method on one thread, and return its row.

    Args:
        method: what to measure.
        vectors: encodings of documents.
        queries: encodings of queries.
        sample: encodings of other queries, to learn from.
        exact: rows of the exact top 10 by MaxSim of each query.
        nearest: rows of the top 10 by the encodings' own inner products.
    """
    codes = method.make()
    begin = time.perf_counter()
    codes.fit(vectors, sample)
    fitted = time.perf_counter()
    codes.add(vectors)
    added = time.perf_counter()
    codes.settle(vectors, sample)
    settled = time.perf_counter()
    found = codes.search(queries, max(DEPTHS))
    num_bytes, shared = codes.sizes()
    return {
        "method": method.name,
        "bits": method.bits,
        "queries": codes.queries,
        "bytes_per_document": num_bytes,
        "shared_bytes": shared,
        **{f"R{K}@{n}": overlap(found[:, :n].tolist(), exact.tolist()) for n in DEPTHS},
        "agreement": overlap(found[:, :K].tolist(), nearest.tolist()),
        "fit_seconds": fitted - begin + settled - added,
        "encode_seconds_per_1000": (added - fitted) / len(vectors) * 1e3,
        "search_ms": median_ms(lambda query: codes.search(query, max(DEPTHS)), list(queries[:, None])),
    }


def median_ms(search: Callable[[Any], Any], queries: list[Any]) -> float:
    """Return the median of searches of one query at a time, of up to 100 queries."""
    seconds = []
    for query in queries[:_TIMED_QUERIES]:
        begin = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)) * 1e3


def methods(dim: int, budgets: tuple[int, ...], epochs: int) -> Iterator[Method]:
    """Yield all methods for vectors of so many numbers, at each budget of bits."""
    for name, factory in (("float32", "Flat"), ("float16", "SQfp16"), ("int8", "SQ8"), ("int4", "SQ4")):
        yield Method(name, None, partial(FaissCodes, factory))
    for bits in budgets:
        if bits == dim:
            yield Method("sign", bits, partial(SignCodes, np.eye(dim, dtype=np.float32)))
        yield Method("random rotation + sign", bits, partial(_randomly_rotated, bits, dim))
        yield Method("ITQ", bits, partial(SignCodes, bits))
        yield Method("RaBitQ", bits, partial(FaissCodes, f"RR{bits},RaBitQ"))
        yield Method("RaBitQ, 2 bits", bits, partial(FaissCodes, f"RR{bits // 2},RaBitQ2"))
        for name, part, queries in (("4fs", 4, "8 bit tables"), ("8", 8, "float32")):
            # np: without polysemous codes, whose training takes twenty times as long and changes no distance
            factory = f"PQ{bits // part}x{name}" + ("np" if part == 8 else "")
            yield Method(f"PQ x{name}", bits, partial(FaissCodes, factory, queries))
            yield Method(f"OPQ x{name}", bits, partial(FaissCodes, f"OPQ{bits // part},{factory}", queries))
        for loops in range(4):
            yield Method(f"BEBR u={loops}", bits, partial(RecurrentBits, bits, loops, epochs, fine_queries=False))
        for loops in range(2):
            yield Method(f"BEBR u={loops}, fine queries", bits, partial(RecurrentBits, bits, loops, epochs))


# ── the methods ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Centred:
    """Codes of vectors less their mean; what is taken off queries is what finds most for sample queries."""

    _center: Floats
    _query_center: Floats

    def search(self, queries: Floats, k: int) -> Rows:
        """As Codes."""
        return self._search(queries - self._query_center, k)

    def settle(self, vectors: Floats, sample: Floats) -> None:
        """As Codes: nothing, half of the queries' mean, all of it, or the vectors' mean; the first of equals."""
        nearest, mean = top_rows(sample, vectors, K).tolist(), sample.mean(axis=0)
        centers = [np.zeros_like(mean), mean / 2, mean, self._center]
        self._query_center = max(
            centers, key=lambda center: overlap(self._search(sample - center, K).tolist(), nearest)
        )

    def _search(self, centred: Floats, k: int) -> Rows:
        raise NotImplementedError


class FaissCodes(_Centred):
    """A FAISS index of inner products."""

    def __init__(self, factory: str, queries: str = "float32") -> None:
        self.queries = queries
        self._factory = factory

    def fit(self, vectors: Floats, sample: Floats) -> None:  # noqa: ARG002  # FAISS learns of vectors alone
        """As Codes."""
        self._center = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._index: Any = faiss.index_factory(vectors.shape[1], self._factory, faiss.METRIC_INNER_PRODUCT)
        quantizers = [_quantizer_of(self._index)]
        if self._factory.startswith("OPQ"):
            # FAISS fits the rotation to codes of 8 bits unless it is told those that follow.
            rotation: Any = faiss.downcast_VectorTransform(self._index.chain.at(0))
            product = quantizers[0]
            self._kept = faiss.ProductQuantizer(product.d, product.M, product.nbits)
            rotation.pq = self._kept
            quantizers.append(self._kept)
        for quantizer in quantizers:
            if quantizer is not None:
                quantizer.cp.min_points_per_centroid = 1  # no warnings
        self._index.train(vectors - self._center)
        self._empty_bytes = faiss.serialize_index(self._index).nbytes

    def add(self, vectors: Floats) -> None:
        """As Codes."""
        self._index.add(vectors - self._center)

    def _search(self, centred: Floats, k: int) -> Rows:
        rows: Rows = self._index.search(centred, k)[1]
        return rows

    def sizes(self) -> tuple[float, int]:
        """As Codes."""
        stored = faiss.serialize_index(self._index).nbytes - self._empty_bytes
        return round(stored / self._index.ntotal), self._empty_bytes + self._center.nbytes


def _quantizer_of(index: Any) -> Any:
    """Return the product quantizer of an index; None if it has none."""
    inside = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    return getattr(inside, "pq", None)


class SignCodes(_Centred):
    """Signs of rotated vectors, by Hamming distance.

    Args:
        rotation: shape (bits, dim), or bits: then iterative quantization fits it, of the principal components.
    """

    queries = "signs"

    def __init__(self, rotation: Floats | int) -> None:
        self._rotation = rotation

    def fit(self, vectors: Floats, sample: Floats) -> None:  # noqa: ARG002  # of vectors alone
        """As Codes."""
        self._center = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        if isinstance(self._rotation, int):
            self._rotation = iterative_quantization(vectors - self._center, self._rotation)

    def add(self, vectors: Floats) -> None:
        """As Codes."""
        self._codes = self._bits(vectors - self._center)

    def _search(self, centred: Floats, k: int) -> Rows:
        return ch.hamming_topk(self._bits(centred), self._codes, k, num_threads=1)[1]

    def sizes(self) -> tuple[float, int]:
        """As Codes."""
        assert not isinstance(self._rotation, int)
        return self._codes.shape[1], self._rotation.nbytes + 2 * self._center.nbytes

    def _bits(self, centred: Floats) -> NDArray[np.uint8]:
        assert not isinstance(self._rotation, int)
        return np.packbits(centred @ self._rotation.T > 0, axis=1)


def _randomly_rotated(bits: int, dim: int) -> SignCodes:
    return SignCodes(_random_rotation(bits, dim))


def _random_rotation(bits: int, dim: int) -> Floats:
    size = (max(bits, dim), min(bits, dim))
    columns = np.linalg.qr(np.random.default_rng(0).standard_normal(size))[0].astype(np.float32)
    return columns if bits >= dim else np.ascontiguousarray(columns.T)


def iterative_quantization(centred: Floats, bits: int) -> Floats:
    """Return directions, shape (bits, dim), whose signs tell the most of the vectors' principal components.

    More bits than dims take a rotation with that many rows, as random rotations do. Source: Gong and Lazebnik (2011).
    """
    components = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :bits]
    numbers = centred @ components
    rotation = _random_rotation(bits, components.shape[1])
    for _ in range(_ITQ_ITERATIONS):
        signs = np.where(numbers @ rotation.T > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(signs.T @ numbers, full_matrices=False)
        rotation = left @ right
    return np.asarray(rotation @ components.T, np.float32)


class RecurrentBits:
    """The package's binarizer, and SDC; queries in 4 bits a number, or, as in the paper, as what they search."""

    def __init__(self, bits: int, loops: int, epochs: int, *, fine_queries: bool = True) -> None:
        self.queries = "4 bits" if fine_queries else "codes"
        self._bits, self._loops, self._epochs = bits - bits % (loops + 1), loops, epochs
        self._fine_queries = fine_queries

    def fit(self, vectors: Floats, sample: Floats) -> None:
        """As Codes."""
        from chamfer.training import fit_binarizer

        found = vectors[top_rows(sample, vectors, 1)[:, 0]]
        self.binarizer = fit_binarizer(
            vectors,
            bits=self._bits,
            loops=self._loops,
            fine_queries=self._fine_queries,
            pairs=(sample, found) if len(sample) >= _FEWEST_PAIRS else None,
            epochs=self._epochs,
            num_threads=1,
        )

    def add(self, vectors: Floats) -> None:
        """As Codes."""
        self._codes = self.binarizer.encode(vectors, num_threads=1)

    def settle(self, vectors: Floats, sample: Floats) -> None:
        """As Codes; `fit` chose."""

    def search(self, queries: Floats, k: int) -> Rows:
        """As Codes."""
        codes = self.binarizer.encode_queries(queries, num_threads=1)
        return ch.sdc_topk(codes, self._codes, k, num_threads=1)[1]

    def sizes(self) -> tuple[float, int]:
        """As Codes."""
        scale = 0 if self._codes.scales is None else self._codes.scales.itemsize
        return self._codes.code_size + scale, self.binarizer.nbytes


def top_rows(queries: Floats, vectors: Floats, k: int) -> Rows:
    """Return the rows of the k highest inner products with each query, best first."""
    products = queries @ vectors.T
    best = np.argpartition(products, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(products, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)
