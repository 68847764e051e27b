"""The inputs of the kernel benchmarks and their answers in float64, straight from the definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.measure import Contestant
from chamfer import TokenVectors

NUM_REPETITIONS, NUM_SIMHASH_PROJECTIONS, PROJECTION_DIMENSION = 20, 5, 16


def unit_vectors(rng: np.random.Generator, num: int, dim: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((num, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def collection(rng: np.random.Generator, lengths: Sequence[int] | NDArray[Any], dim: int) -> TokenVectors:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenVectors(unit_vectors(rng, int(offsets[-1]), dim), offsets)


def astype(items: TokenVectors, dtype: str) -> TokenVectors:
    return TokenVectors(items.vectors.astype(dtype), items.offsets)


def short(dtype: Any) -> str:
    return {"float32": "f32", "float16": "f16"}[str(np.dtype(dtype))]


# ── MaxSim ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class MaxSimCase:
    """Queries against documents; `shape` is how the names of its rows tell the sizes."""

    queries: TokenVectors
    documents: TokenVectors
    shape: str

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

    def with_dtype(self, dtype: str) -> MaxSimCase:
        """Return the case with documents of this dtype."""
        return replace(self, documents=astype(self.documents, dtype))

    @cached_property
    def expected(self) -> NDArray[np.float64]:
        """Σ_q max_d <q, d> in float64, shape (num_queries, num_documents)."""
        queries = self.queries.vectors.astype(np.float64)
        best = np.stack([(queries @ d.astype(np.float64).T).max(axis=1) for d in self.documents], axis=1)
        return np.add.reduceat(best, self.queries.offsets[:-1], axis=0)

    def errors(self, scores: ArrayLike) -> dict[str, float]:
        """Return the largest differences from `expected`."""
        difference = np.abs(np.asarray(scores, np.float64).reshape(self.expected.shape) - self.expected)
        return {
            "max_relative": float((difference / np.abs(self.expected)).max()),
            "max_absolute": float(difference.max()),
        }

    def contestant(
        self, engine: str, call: Callable[[], Any], *, library: str = "chamfer", num_threads: int = 1, shape: str = ""
    ) -> Contestant:
        """Return what times `call`, which must return scores of this case."""
        queries, documents = self.queries, self.documents
        return Contestant(
            "maxsim",
            short(documents.dtype),
            engine,
            shape or self.shape,
            call,
            items=len(queries) * len(documents),
            check=self.errors,
            library=library,
            flops=2.0 * queries.num_tokens * documents.num_tokens * documents.dim,
            bytes_read=documents.vectors.nbytes,
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
        encode_documents: Callable[[], NDArray[Any]],
        encode_queries: Callable[[], NDArray[Any]],
        *,
        library: str = "chamfer",
        expected: Callable[[TokenVectors, bool], NDArray[np.float64]] | None = None,
    ) -> tuple[Contestant, Contestant]:
        """Return the contestants for documents and for queries of one encoder.

        Its errors: the share of queries that do not find their document by inner product, and against `expected(items,
        is_documents)` the largest difference relative to the largest number, of the first items.
        """
        document_encodings: list[NDArray[Any]] = []  # made once, for both checks

        def check(encodings: NDArray[Any], items: TokenVectors, is_documents: bool) -> dict[str, float]:
            if not document_encodings:
                document_encodings.append(np.asarray(encode_documents()))
            queries = np.asarray(encode_queries()) if is_documents else np.asarray(encodings)
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
                short(items.dtype),
                engine,
                f"{len(items)}x{items.lengths[0]}x{items.dim}, "
                f"R{NUM_REPETITIONS} k{NUM_SIMHASH_PROJECTIONS} d{PROJECTION_DIMENSION}, {kind}",
                call,
                items=len(items),
                check=lambda encodings: check(encodings, items, items is self.documents),
                library=library,
                # the product that no encoder can avoid; sums and projections are not counted
                flops=2.0 * items.num_tokens * items.dim * NUM_REPETITIONS * NUM_SIMHASH_PROJECTIONS,
                bytes_read=items.vectors.nbytes,
            )

        return (
            contestant("fde_documents", self.documents, encode_documents),
            contestant("fde_queries", self.queries, encode_queries),
        )


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
