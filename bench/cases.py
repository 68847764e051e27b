"""The inputs of the kernel benchmarks and their answers in float64, straight from the definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import chamfer as ch
from bench.measure import Contestant, bytes_from
from chamfer import TokenVectors

NUM_REPETITIONS, NUM_SIMHASH_PROJECTIONS, PROJECTION_DIMENSION = 20, 5, 16


class AbsentError(Exception):
    """What a case needs is not here; the message names it."""


def or_skip(skipped: list[dict[str, str]], name: str, *builds: Callable[[], Any]) -> list[Any]:
    """Return what each of `builds` makes, or nothing where something is absent, which `skipped` then tells."""
    try:
        return [build() for build in builds]
    except AbsentError as reason:
        skipped.append({"name": name, "reason": str(reason)})
        return []


def unit_vectors(rng: np.random.Generator, num: int, dim: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((num, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def collection(rng: np.random.Generator, lengths: Sequence[int] | NDArray[Any], dim: int) -> TokenVectors:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenVectors(unit_vectors(rng, int(offsets[-1]), dim), offsets)


def astype(items: TokenVectors, dtype: str) -> TokenVectors:
    return TokenVectors(items.vectors.astype(dtype), items.offsets)


# ── MaxSim ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Storage:
    """How documents are kept: the codec's name ("" for plain vectors), and the instruction that scores them fastest."""

    codec: str
    kind: str


STORAGES = {
    "f32": Storage("", "fma_f32"),
    "f16": Storage("", "fma_f32"),
    "bf16": Storage("bfloat16", "dot_bf16"),
    "i8": Storage("int8", "dot_i8"),
    "i8x4bit": Storage("scalar:4", "dot_i8"),
    "i8x2bit": Storage("scalar:2", "dot_i8"),
    "i8x1bit": Storage("binary", "dot_i8"),
    "1bit": Storage("binary", "popcount"),
}
"""By the names in rows. The queries are float32, with codes int8 inside, and 1 bit in the last."""


def isas_of(storage: str) -> list[str]:
    """Return the instruction sets with a kernel of their own for a storage, lowest first; not scalar."""
    shared = {"avx512_bf16": storage != "bf16", "neon_dotprod": not storage.startswith("i8")}
    own = [isa for isa in ch.available_isas() if not shared.get(isa, False)]
    return own[1:] or own


def fitted_codec(name: str, documents: TokenVectors) -> ch.Codec:
    return ch.codec(name, documents.dim).fit(documents)


def maxsim_float64(queries: TokenVectors, documents: TokenVectors) -> NDArray[np.float64]:
    """Return Σ_q max_d <q, d>, shape (num_queries, num_documents)."""
    vectors = queries.vectors.astype(np.float64)
    best = np.stack([(vectors @ d.astype(np.float64).T).max(axis=1) for d in documents], axis=1)
    return np.add.reduceat(best, queries.offsets[:-1], axis=0)


@dataclass(frozen=True)
class MaxSimCase:
    """Queries against documents, both float32; `shape` is how the names of its rows tell the sizes."""

    queries: TokenVectors
    documents: TokenVectors
    shape: str
    storage: str = "f32"

    @property
    def query(self) -> NDArray[Any]:
        """The only query."""
        assert len(self.queries) == 1
        return self.queries[0]

    @property
    def document_length(self) -> int | None:
        """The length of every document, or None if they differ."""
        lengths = self.documents.lengths
        return int(lengths[0]) if (lengths == lengths[0]).all() else None

    def stored(self, storage: str) -> MaxSimCase:
        """Return the case with documents kept in another way."""
        return replace(self, storage=storage)

    @cached_property
    def codec(self) -> Any:
        """The fitted codec of the storage; None for plain vectors."""
        name = STORAGES[self.storage].codec
        return fitted_codec(name, self.documents) if name else None

    @cached_property
    def operands(self) -> tuple[Any, Any]:
        """Queries and documents as ch.maxsim takes them."""
        if self.codec is None:
            return self.queries, self.documents if self.storage == "f32" else astype(self.documents, "float16")
        queries = self.codec.encode_queries(self.queries) if self.storage == "1bit" else self.queries
        return queries, self.codec.encode(self.documents)

    @cached_property
    def exact(self) -> NDArray[np.float64]:
        """Scores of the vectors before they are stored."""
        return maxsim_float64(self.queries, self.documents)

    @cached_property
    def expected(self) -> NDArray[np.float64]:
        """Scores of what is stored, decoded; of one-bit codes against each other those of their signs, ±1."""
        if self.storage == "f32":
            return self.exact
        queries, documents = self.operands
        if self.storage == "1bit":
            queries, documents = (
                TokenVectors(np.where(unpacked[:, : items.dim], np.float32(1), np.float32(-1)), items.offsets)
                for items in (queries, documents)
                for unpacked in [np.unpackbits(items.codes, axis=1, bitorder="little")]
            )
        elif self.codec is not None:
            documents = self.codec.decode(documents)
        return maxsim_float64(queries, documents)

    @cached_property
    def of_signs(self) -> NDArray[np.float64]:
        """Scores of the vectors' signs, which is what other libraries' one-bit codes keep."""
        queries, documents = (
            TokenVectors(np.where(items.vectors > 0, np.float32(1), np.float32(-1)), items.offsets)
            for items in (self.queries, self.documents)
        )
        return maxsim_float64(queries, documents)

    def errors(self, scores: ArrayLike, expected: NDArray[np.float64]) -> dict[str, float]:
        """Return the largest differences from `expected`."""
        found = np.asarray(scores, np.float64).reshape(expected.shape)
        difference = np.abs(found - expected)
        return {
            "max_relative": float((difference / np.abs(expected)).max()),
            "max_absolute": float(difference.max()),
        }

    def contestant(
        self,
        engine: str,
        call: Callable[[], Any],
        *,
        library: str = "chamfer",
        num_threads: int = 1,
        shape: str = "",
        expected: Callable[[], NDArray[np.float64]] | None = None,
        num_bytes: int | None = None,
    ) -> Contestant:
        """Return what times `call`, which must return scores of this case.

        `expected` makes what to compare them with (of what is stored), `num_bytes` is what the stored documents take,
        if that is not what chamfer's do.
        """
        queries, documents, kind = self.queries, self.documents, STORAGES[self.storage].kind
        pairs = float(queries.num_tokens) * documents.num_tokens
        if num_bytes is None:
            stored = self.operands[1]
            num_bytes = (stored.vectors if isinstance(stored, TokenVectors) else stored).nbytes
        return Contestant(
            "maxsim",
            self.storage,
            engine,
            shape or self.shape,
            call,
            items=len(queries) * len(documents),
            check=lambda scores: self.errors(scores, self.expected if expected is None else expected()),
            library=library,
            # a counted bit is one operation, a multiply-add two
            operations={kind: pairs * documents.dim * (1 if kind == "popcount" else 2)},
            bytes_read=bytes_from(num_bytes),
            codes=pairs if kind == "popcount" else 0.0,
            num_threads=num_threads,
        )


# ── fixed-dimensional encodings ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class FdeCase:
    """Documents and, from each of the first of them, a query that any encoding must find its document with."""

    documents: TokenVectors
    queries: TokenVectors

    @classmethod
    def make(cls, num: int, document_length: int, query_length: int, dim: int) -> FdeCase:
        """Draw documents; queries are their first tokens, turned by about 27 degrees."""
        rng = np.random.default_rng(0)
        documents = collection(rng, [document_length] * num, dim)
        tokens = documents.vectors.reshape(num, document_length, dim)[:, :query_length].reshape(-1, dim)
        noisy = tokens + 0.5 * unit_vectors(rng, len(tokens), dim)
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        return cls(documents, TokenVectors(noisy, np.arange(num + 1) * query_length))

    def contestants(
        self,
        engine: str,
        kind: str,
        encode_documents: Callable[[], Any],
        encode_queries: Callable[[], Any],
        *,
        library: str = "chamfer",
        num_threads: int = 1,
        expected: Callable[[TokenVectors, bool], NDArray[np.float64]] | None = None,
    ) -> tuple[Contestant, Contestant]:
        """Return the contestants for documents and for queries of one encoder.

        Its errors: the share of queries that do not find their document by inner product, and against `expected(items,
        is_documents)` the largest difference relative to the largest number, of the first items.
        """
        document_encodings: list[NDArray[Any]] = []  # made once, for both checks

        def check(result: Any, items: TokenVectors, is_documents: bool) -> dict[str, float]:
            if not document_encodings:
                document_encodings.append(dense_encodings(encode_documents()))
            encodings = dense_encodings(result)
            queries = dense_encodings(encode_queries()) if is_documents else encodings
            found = (queries @ document_encodings[0].T).argmax(axis=1)
            errors = {"lost_sources": float((found != np.arange(len(found))).mean())}
            if expected is not None:
                some = items.select(np.arange(min(len(items), 8)))
                truth = expected(some, is_documents)
                errors["max_relative"] = float(np.abs(encodings[: len(some)] - truth).max() / np.abs(truth).max())
            return errors

        def contestant(operation: str, items: TokenVectors, call: Callable[[], Any]) -> Contestant:
            return Contestant(
                operation,
                "f16" if items.dtype == np.float16 else "f32",
                engine,
                f"{len(items)}x{items.lengths[0]}x{items.dim}, "
                f"R{NUM_REPETITIONS} k{NUM_SIMHASH_PROJECTIONS} d{PROJECTION_DIMENSION}, {kind}",
                call,
                items=len(items),
                check=lambda result: check(result, items, items is self.documents),
                library=library,
                # the product that no encoder can avoid; sums and projections are not counted
                operations={"fma_f32": 2.0 * items.num_tokens * items.dim * NUM_REPETITIONS * NUM_SIMHASH_PROJECTIONS},
                bytes_read=bytes_from(items.vectors.nbytes),
                num_threads=num_threads,
            )

        return (
            contestant("fde_documents", self.documents, encode_documents),
            contestant("fde_queries", self.queries, encode_queries),
        )


def dense_encodings(encodings: Any) -> NDArray[Any]:
    """Return encodings of any output as floats: int8 with scales, the signs of bits, compressed sparse rows."""
    if hasattr(encodings, "scales"):
        return np.asarray(encodings.codes * encodings.scales[:, None], np.float32)
    if hasattr(encodings, "indices"):
        rows = np.repeat(np.arange(len(encodings.offsets) - 1), np.diff(encodings.offsets))
        dim = NUM_REPETITIONS * 2**NUM_SIMHASH_PROJECTIONS * PROJECTION_DIMENSION
        dense = np.zeros((len(encodings.offsets) - 1, dim), np.float32)
        dense[rows, encodings.indices] = encodings.values
        return dense
    array = np.asarray(encodings)
    return np.unpackbits(array, axis=1).astype(np.float32) * 2 - 1 if array.dtype == np.uint8 else array


def fde_float64(
    items: TokenVectors,
    is_documents: bool,
    *,
    simhash: NDArray[np.float32],
    projections: NDArray[np.float32],
    layout: str,
    mean: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Return encodings by the definition (MUVERA, arXiv 2405.19504, section 2) with given matrices, in float64.

    simhash (repetitions, k, dim), projections (repetitions, projection dimension, dim). A document's partition holds
    the mean of its vectors there, an empty one the first vector whose bit string differs in the fewest bits; a query's
    holds the sum.
    """
    num_partitions = 2 ** simhash.shape[1]
    partitions = np.arange(num_partitions)
    bits_of_partition = (partitions[:, None] >> np.arange(simhash.shape[1])[::-1]) & 1
    if layout == "google":  # its order is the prefix XOR of the bits
        order = (np.bitwise_xor.accumulate(bits_of_partition, axis=1) << np.arange(simhash.shape[1])[::-1]).sum(axis=1)
    else:
        order = partitions
    encodings = np.zeros((len(items), len(simhash), num_partitions, projections.shape[1]))
    for i, item in enumerate(items):
        vectors = item.astype(np.float64) if mean is None else item.astype(np.float64) - mean
        for r, (hyperplanes, projection) in enumerate(zip(simhash, projections, strict=True)):
            bits = vectors @ hyperplanes.T.astype(np.float64) > 0
            differing = (bits[:, None, :] != bits_of_partition).sum(axis=2)  # (num_tokens, num_partitions)
            member = differing == 0
            sums = member.T @ vectors
            if is_documents:
                counts = member.sum(axis=0)
                sums[counts > 0] /= counts[counts > 0, None]
                sums[counts == 0] = vectors[differing.argmin(axis=0)[counts == 0]]
            encodings[i, r, order] = sums @ projection.T.astype(np.float64)
    return encodings.reshape(len(items), -1)
