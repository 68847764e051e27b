"""Variants of FDEs in NumPy: other partitions, projections, means, weights. chamfer has none of them.

A `VariantEncoder` is FixedDimensionalEncoder (layout "paper", centred, filled) with its parts exchangeable: what tells
the partitions of a repetition, its projection, the means that are subtracted from queries, and a weight for each
partition. `fit_variant` makes one of the parts named in PARTS; those that learn, learn from centred vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import chamfer as ch
from chamfer._sampling import spread

PARTS = {
    "k-means": "partitions of centroids, others in each repetition, for SimHash",
    "k-means in 32 axes": "the same in the first 32 principal axes, for a third of the multiply-adds",
    "whitened": "SimHash of whitened vectors; what is projected stays as it is",
    "PCA": "the first principal axes for random projections",
    "orthogonal": "random projections whose rows are orthogonal, those of consecutive repetitions too",
    "cell means": "from queries half of the mean of each partition is subtracted too",
    "fitted weights": "of partitions, by least squares on exact MaxSim of a sample",
    "rarity": "weights of partitions, by 1 / sqrt(share of documents that have vectors there)",
}

Shape = tuple[int, int, int]
"""Repetitions, bits of a partition, numbers of a projection."""

Floats = NDArray[np.float32]

_CHUNK = 65_536  # vectors whose affinities are in memory at once
_ROUNDS = 10  # of k-means
_SAMPLES = 128  # vectors per centroid that k-means learns from
_MOST_SAMPLES = 65_536  # vectors of documents that parts learn from
_CELL_SHARE = 0.5  # of the mean of a partition; all of it gains more on Cranfield, and nothing on SciFact
_CELL_PRIOR = 20  # vectors without a mean of their own, that each partition has besides
_WEIGHT_QUERIES = 150
_WEIGHT_DOCUMENTS = 2_048
_WEIGHT_TARGETS = 100  # documents for each query of that sample: so many of the best, so many others
_WEIGHT_RIDGE = 0.3  # in parts of the mean square, towards equal weights


class Partitions(Protocol):
    """What cuts space into partitions."""

    def affinities(self, vectors: Floats) -> Floats:
        """Return how near each vector is to each partition, (n, num_partitions): it is in that of the first largest."""


class SimHash:
    """MUVERA's: 2^k partitions by k hyperplanes, (k, dim); affinity is the negative number of bits that differ."""

    def __init__(self, hyperplanes: Floats) -> None:
        self.hyperplanes = hyperplanes
        k = len(hyperplanes)
        bits = np.arange(1 << k)[:, None] >> np.arange(k)[::-1] & 1
        self._signs = (2 * bits - 1).astype(np.float32)

    def affinities(self, vectors: Floats) -> Floats:
        """Return how near each vector is to each partition."""
        signs = np.where(vectors @ self.hyperplanes.T > 0, np.float32(1), np.float32(-1))
        products: Floats = signs @ self._signs.T  # bits that agree less bits that differ
        return (products - np.float32(len(self.hyperplanes))) * np.float32(0.5)


class Centroids:
    """A partition for each centroid, (num_partitions, dim): affinity falls with the distance."""

    def __init__(self, centroids: Floats) -> None:
        self.centroids = centroids
        self._halves = np.einsum("ij,ij->i", centroids, centroids) * np.float32(0.5)

    def affinities(self, vectors: Floats) -> Floats:
        """Return how near each vector is to each partition."""
        affinities: Floats = vectors @ self.centroids.T - self._halves
        return affinities


class VariantEncoder:
    """FixedDimensionalEncoder of these parts.

    Args:
        partitions: one for each repetition, all of as many partitions.
        projections: (num_repetitions, p, dim).
        document_mean: is subtracted from the vectors of documents.
        query_mean: is subtracted from those of queries.
        cell_means: (num_repetitions, num_partitions, dim), are then subtracted from those of each partition, which
            drops a term of each document as subtracting query_mean does; None: zeros.
        weights: (num_repetitions, num_partitions), of the blocks of queries; None: all 1.
    """

    def __init__(
        self,
        partitions: Sequence[Partitions],
        projections: Floats,
        document_mean: Floats,
        query_mean: Floats,
        cell_means: Floats | None = None,
        weights: Floats | None = None,
    ) -> None:
        self.partitions, self.projections = partitions, projections
        self.cell_means, self.weights = cell_means, weights
        self.document_mean, self.query_mean = document_mean, query_mean
        dim = projections.shape[2]
        self.num_partitions = partitions[0].affinities(np.zeros((1, dim), np.float32)).shape[1]
        self.shape = (len(partitions), self.num_partitions, projections.shape[1])

    @property
    def output_dimension(self) -> int:
        """Numbers of an encoding."""
        return int(np.prod(self.shape))

    def encode_documents(self, documents: ch.TokenVectors, *, num_threads: int = 1) -> Floats:  # noqa: ARG002
        """Return the means of the projected vectors of each partition; an empty one has that of the nearest vector."""
        out = np.zeros((len(documents), *self.shape), np.float32)
        for items, part in _runs(documents):
            vectors = part.vectors - self.document_mean
            for r, (partitions, projection) in enumerate(zip(self.partitions, self.projections, strict=True)):
                affinities, payload = partitions.affinities(vectors), vectors @ projection.T
                sums, counts = cell_sums(affinities.argmax(axis=1), payload, part.offsets, self.num_partitions)
                blocks = sums / np.maximum(counts, 1)[..., None]
                for i in np.flatnonzero((counts == 0).any(axis=1) & (part.lengths > 0)):
                    empty, begin, end = np.flatnonzero(counts[i] == 0), part.offsets[i], part.offsets[i + 1]
                    blocks[i, empty] = payload[begin + affinities[begin:end, empty].argmax(axis=0)]
                out[items, r] = blocks
        return out.reshape(len(documents), -1)

    def encode_queries(self, queries: ch.TokenVectors, *, num_threads: int = 1) -> Floats:  # noqa: ARG002
        """Return the sums of the projected vectors of each partition, weighted."""
        out = np.zeros((len(queries), *self.shape), np.float32)
        for items, part in _runs(queries):
            vectors = part.vectors - self.query_mean
            for r, (partitions, projection) in enumerate(zip(self.partitions, self.projections, strict=True)):
                cells = partitions.affinities(vectors).argmax(axis=1)
                payload = vectors if self.cell_means is None else vectors - self.cell_means[r, cells]
                out[items, r] = cell_sums(cells, payload @ projection.T, part.offsets, self.num_partitions)[0]
        if self.weights is not None:
            out *= self.weights[..., None]
        return out.reshape(len(queries), -1)


def cell_sums(
    cells: NDArray[np.int64], payload: Floats, offsets: NDArray[np.int64], num_cells: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Return sums (n, num_cells, p) and numbers (n, num_cells) of the vectors of each partition of n items."""
    n = len(offsets) - 1
    keys = np.repeat(np.arange(n), np.diff(offsets)) * num_cells + cells
    counts = np.bincount(keys, minlength=n * num_cells)
    sums = np.zeros((len(counts), payload.shape[1]), np.float32)
    filled = np.flatnonzero(counts)
    if len(filled):
        begins = np.cumsum(counts)[filled] - counts[filled]
        sums[filled] = np.add.reduceat(payload[np.argsort(keys, kind="stable")], begins, axis=0)
    return sums.reshape(n, num_cells, -1), counts.reshape(n, num_cells)


def _runs(items: ch.TokenVectors) -> Iterator[tuple[slice, ch.TokenVectors]]:
    """Yield runs of items, of some _CHUNK vectors each, as slices and as collections."""
    begin = 0
    while begin < len(items):
        end = int(np.searchsorted(items.offsets, items.offsets[begin] + _CHUNK, side="right")) - 1
        end = max(begin + 1, end)
        rows = slice(int(items.offsets[begin]), int(items.offsets[end]))
        yield slice(begin, end), ch.TokenVectors(items.vectors[rows], items.offsets[begin : end + 1] - rows.start)
        begin = end


def fit_variant(
    parts: Collection[str],
    shape: Shape,
    documents: ch.TokenVectors,
    queries: ch.TokenVectors | None,
    seed: int = 42,
) -> VariantEncoder:
    """Return an encoder of these parts out of PARTS, in all else as FixedDimensionalEncoder fits it.

    Without queries vectors of documents stand for theirs.
    """
    num_repetitions, num_bits, num_rows = shape
    random, dim = np.random.default_rng(seed), documents.dim
    like_queries = documents if queries is None else queries
    document_mean, query_mean = (_mean(items.vectors) for items in (documents, like_queries))
    sample = documents.vectors[spread(documents.num_tokens, _MOST_SAMPLES)] - document_mean
    plain = ch.FixedDimensionalEncoder(
        dim,
        num_repetitions=num_repetitions,
        num_simhash_projections=num_bits,
        projection_dimension=num_rows,
        seed=seed,
    )
    hyperplanes, projections = drawn(plain)
    if "whitened" in parts:
        hyperplanes = hyperplanes @ whitening(sample)
    partitions: list[Partitions] = [SimHash(planes) for planes in hyperplanes]
    if "k-means" in parts:
        partitions = [centroids(sample, 1 << num_bits, random) for _ in range(num_repetitions)]
    if "k-means in 32 axes" in parts:
        axes = principal_axes(sample, 32)
        near: Floats = (sample @ axes.T @ axes).astype(np.float32)
        partitions = [centroids(near, 1 << num_bits, random) for _ in range(num_repetitions)]
    if "PCA" in parts:
        projections = np.tile(principal_axes(sample, num_rows), (num_repetitions, 1, 1))
    if "orthogonal" in parts:
        projections = orthogonal_projections(num_repetitions, num_rows, dim, random)
    encoder = VariantEncoder(partitions, projections, document_mean, query_mean)
    if "cell means" in parts:
        some = like_queries.vectors[spread(like_queries.num_tokens, _MOST_SAMPLES)]
        encoder.cell_means = np.float32(_CELL_SHARE) * cell_means(partitions, some - query_mean)
    if "rarity" in parts:
        encoder.weights = rarity(partitions, documents, document_mean)
    if "fitted weights" in parts:
        encoder.weights = fitted_weights(encoder, documents, like_queries, random)
    return encoder


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(encoder: ch.FixedDimensionalEncoder) -> tuple[Floats, Floats]:
    """Return hyperplanes (R, k, dim) and projections (R, p, dim) of an encoder of layout "paper"."""
    return ch._core.draw_fde_matrices(
        encoder.layout,
        encoder.seed,
        dim=encoder.dim,
        num_repetitions=encoder.num_repetitions,
        num_simhash_projections=encoder.num_simhash_projections,
        projection_dimension=encoder.projection_dimension or 0,
    )


def centroids(vectors: Floats, num_partitions: int, random: np.random.Generator) -> Centroids:
    """Return the centroids of Lloyd's k-means over a sample of these vectors; one that none is nearest to stays."""
    sample = vectors[random.permutation(len(vectors))[: _SAMPLES * num_partitions]]
    found = Centroids(sample[:num_partitions].copy())
    for _ in range(_ROUNDS):
        nearest = found.affinities(sample).argmax(axis=1)
        means = found.centroids.copy()
        for partition in np.unique(nearest):
            means[partition] = sample[nearest == partition].mean(axis=0)
        found = Centroids(means)
    return found


def whitening(vectors: Floats) -> Floats:
    """Return C^-1/2 of the covariance C of these vectors, its eigenvalues raised to a thousandth of the largest."""
    values, axes = np.linalg.eigh(np.cov(vectors, rowvar=False, dtype=np.float64))
    scales = np.maximum(values, values[-1] / 1000) ** -0.5
    whitened: Floats = ((axes * scales) @ axes.T).astype(np.float32)
    return whitened


def principal_axes(vectors: Floats, num_axes: int) -> Floats:
    """Return the first axes of the variance of these vectors, (num_axes, dim)."""
    axes = np.linalg.eigh(np.cov(vectors, rowvar=False, dtype=np.float64))[1]
    return np.ascontiguousarray(axes[:, ::-1][:, :num_axes].T, np.float32)


def orthogonal_projections(num_repetitions: int, num_rows: int, dim: int, random: np.random.Generator) -> Floats:
    """Return projections (R, num_rows, dim) whose rows are orthogonal, over as many repetitions as dim has room for.

    The rows of consecutive repetitions are those of one random rotation after the other, so that where a query vector
    meets the same document vector in all of them the errors of projections cancel.
    """
    num_rotations = -(-num_repetitions * num_rows // dim)
    rotations = [np.linalg.qr(random.standard_normal((dim, dim)))[0] for _ in range(num_rotations)]
    rows = np.concatenate(rotations)[: num_repetitions * num_rows] * np.sqrt(dim / num_rows)
    projections: Floats = rows.reshape(num_repetitions, num_rows, dim).astype(np.float32)
    return projections


def cell_means(partitions: Sequence[Partitions], vectors: Floats) -> Floats:
    """Return the mean of these vectors in each partition, (R, num_partitions, dim); drawn to 0 where they are few."""
    found = []
    for each in partitions:
        affinities = each.affinities(vectors)
        all_as_one = np.array([0, len(vectors)])
        sums, counts = cell_sums(affinities.argmax(axis=1), vectors, all_as_one, affinities.shape[1])
        found.append(sums[0] / (counts[0] + np.float32(_CELL_PRIOR))[:, None])
    return np.array(found, np.float32)


def rarity(partitions: Sequence[Partitions], documents: ch.TokenVectors, document_mean: Floats) -> Floats:
    """Return 1 / sqrt(share of documents that have a vector there) of each partition, (R, num_partitions)."""
    some = documents.select(spread(len(documents), _WEIGHT_DOCUMENTS))
    found = []
    for each in partitions:
        affinities = each.affinities(some.vectors - document_mean)
        counts = cell_sums(affinities.argmax(axis=1), affinities[:, :0], some.offsets, affinities.shape[1])[1]
        found.append(np.maximum((counts > 0).mean(axis=0), 1 / len(some)) ** -0.5)
    return np.array(found, np.float32)


def fitted_weights(
    encoder: VariantEncoder, documents: ch.TokenVectors, queries: ch.TokenVectors, random: np.random.Generator
) -> Floats:
    """Return the weights, (R, num_partitions), whose scores come nearest to exact MaxSim less its mean of each query.

    Of each sample query the best documents of a sample count, and as many others.
    """
    asked = queries.select(spread(len(queries), _WEIGHT_QUERIES))
    some = documents.select(spread(len(documents), _WEIGHT_DOCUMENTS))
    exact = ch.maxsim(asked, some, num_threads=1)
    num_blocks = encoder.shape[0] * encoder.shape[1]
    ours = encoder.encode_queries(asked).reshape(len(asked), num_blocks, -1)
    theirs = encoder.encode_documents(some).reshape(len(some), num_blocks, -1)
    squares, products = np.zeros((num_blocks, num_blocks)), np.zeros(num_blocks)
    for i, scores in enumerate(exact):
        best = np.argsort(-scores, kind="stable")[:_WEIGHT_TARGETS]
        rows = np.union1d(best, random.permutation(len(some))[:_WEIGHT_TARGETS])
        terms = np.einsum("bp,dbp->db", ours[i], theirs[rows])
        terms -= terms.mean(axis=0)
        squares += terms.T @ terms
        products += terms.T @ (scores[rows] - scores[rows].mean())
    ridge = _WEIGHT_RIDGE * np.trace(squares) / num_blocks
    equal = products.sum() / squares.sum()
    weights = np.linalg.solve(squares + ridge * np.eye(num_blocks), products + ridge * equal)
    fitted: Floats = weights.reshape(encoder.shape[:2]).astype(np.float32)
    return fitted


def _mean(vectors: NDArray[np.floating[Any]]) -> Floats:
    mean: Floats = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
