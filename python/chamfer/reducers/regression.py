"""The fit of a LearnedReducer: sample vectors, their best similarities in each document, ridge regression, SVD.

For one vector x, let g_D(x) = max_{d in D} <x, d>; then MaxSim(Q, D) = Σ_{x in Q} g_D(x). With features φ(x), the last
of which is 1, ridge regression over a sample finds w_D with <φ(x), w_D> near g_D(x), so that
MaxSim(Q, D) is near <Σ φ(x), w_D> (LEMUR, arXiv 2601.21853, section 3). What is chamfer's own:

- The sample is made of sets: queries, and passages of documents. Rows of the regression are its vectors *and*
  the sums over its sets: errors of the vectors of one query are alike, and add up. On SciFact R10@100 in 512 dims rises
  from 0.87 to 0.93.
- From every g_D(x) the mean over the documents is taken: it does not change how documents rank.
- A passage's own document is compared with the passage cut out: no query finds itself word by word.
- Passages are shifted together, a little, in a random direction: queries have another mean than documents, and without
  sample queries nobody knows which. Without queries R10@100 rises from 0.848 to 0.862.
- The rank is reduced where queries look: with A = L Lᵀ the matrix of the regression, the left singular vectors of
  U = Lᵀ W minimise the error over the sample, and split evenly the singular values leave numbers that 8 and 4 bits
  hold without loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chamfer._sampling import spread
from chamfer.codecs import TokenCodes
from chamfer.scoring import maxsim
from chamfer.token_vectors import FloatArray, TokenVectors

# Weight of a row that is the sum over a set, beside the rows of its vectors. Of 0, 0.3, 1, 3 and 10, 0.3 to 1 are best,
# with and without queries.
SET_WEIGHT = 0.3

# Ridge, in parts of the mean diagonal. 1e-5 to 1e-3 make no difference.
_RIDGE = 1e-4

_PASSAGE_LENGTH = 8

# Length of the shift in parts of the vectors' root mean square length; the means of SciFact's queries and documents
# differ by 0.146. Twice as much costs 0.02, none 0.015.
_SHIFT = 0.15

_SPREAD_TOKENS = 20_000
_OVERSAMPLING = 32
_SUBSPACE_ITERATIONS = 4

# Singular values below this part of the largest are rounding errors of float32.
_LEAST_SINGULAR_VALUE = 1e-6

# Large matrices are read and written so many rows or columns at a time, where a copy of the whole would be needed.
_STRIPE = 512


@dataclass(frozen=True)
class Sample:
    """Sets of vectors to regress on.

    Attributes:
        sets: queries, then passages of documents.
        num_queries: how many of the sets are queries.
        own_documents: int64, shape (num_passages,): row of the document that a passage was cut out of.
        own_targets: float32, shape (num_passage_tokens,): g of the own document without the passage.
    """

    sets: TokenVectors
    num_queries: int
    own_documents: NDArray[np.int64]
    own_targets: NDArray[np.float32]


@dataclass(frozen=True)
class Maps:
    """What a fit finds.

    Attributes:
        query_map: float32, shape (r, num_features): r(Q) = query_map · Σ φ(x).
        document_map: float32, shape (r, num_sample_tokens): r(D) = document_map · (g_D(sample) - token_means).
        token_means: float32, shape (num_sample_tokens,): of each g over the documents; what encodings leave out.
    """

    query_map: NDArray[np.float32]
    document_map: NDArray[np.float32]
    token_means: NDArray[np.float32]


Features = Callable[[TokenVectors], NDArray[np.float32]]  # φ of each vector, (num_tokens, num_features), the last 1


def draw_sample(
    documents: TokenVectors, queries: TokenVectors | None, num_tokens: int, random: np.random.Generator
) -> Sample:
    """Return queries, drawn until they have half of `num_tokens`, the last one cut, and passages for what is left."""
    sets: list[NDArray[np.float32]] = []
    left = max(2, num_tokens)
    if queries is not None:
        fewest_left = left - left // 2
        for row in random.permutation(np.flatnonzero(queries.lengths)).tolist():
            if left == fewest_left:
                break
            sets.append(np.asarray(queries[row][: left - fewest_left], np.float32))
            left -= len(sets[-1])
    num_queries = len(sets)
    passages, own_documents, own_targets = _draw_passages(documents, left, random)
    sets += passages
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in sets])]).astype(np.int64)
    return Sample(
        TokenVectors(np.concatenate(sets), offsets),
        num_queries,
        np.array(own_documents, np.int64),
        np.concatenate(own_targets),
    )


def _draw_passages(
    documents: TokenVectors, num_tokens: int, random: np.random.Generator
) -> tuple[list[NDArray[np.float32]], list[int], list[NDArray[np.float32]]]:
    vectors = np.asarray(documents.vectors[spread(documents.num_tokens, _SPREAD_TOKENS)], np.float32)
    length = float(np.sqrt(np.mean(np.einsum("ij,ij->i", vectors, vectors))))
    # Shifts point where the vectors vary. (bias: a single vector has a covariance, zero)
    covariance = np.cov(vectors, rowvar=False, bias=True).reshape(documents.dim, documents.dim)
    values, axes = np.linalg.eigh(covariance)
    to_shift = axes * np.sqrt(np.maximum(values, 0.0))
    lengths = documents.lengths
    eligible = np.flatnonzero(lengths >= 2) if (lengths >= 2).any() else np.flatnonzero(lengths)
    passages, own_documents, own_targets = [], [], []
    order: list[int] = []
    while num_tokens > 0:
        if not order:
            order = random.permutation(eligible).tolist()
        row = order.pop()
        document = np.asarray(documents[row], np.float32)
        size = min(_PASSAGE_LENGTH, max(1, len(document) // 2), num_tokens)
        begin = int(random.integers(0, len(document) - size + 1))
        shift = to_shift @ random.standard_normal(documents.dim)
        norm = float(np.linalg.norm(shift))
        passage = document[begin : begin + size].astype(np.float64)
        norms = np.linalg.norm(passage, axis=1, keepdims=True)
        if norm > 0:
            passage += shift * (_SHIFT * length / norm)
        shifted = np.linalg.norm(passage, axis=1, keepdims=True)
        passage *= np.divide(norms, shifted, out=np.ones_like(norms), where=shifted > 0)
        passages.append(passage.astype(np.float32))
        rest = np.concatenate([document[:begin], document[begin + size :]])
        own_documents.append(row)
        own_targets.append((passages[-1] @ (rest if len(rest) else document).T).max(axis=1))
        num_tokens -= size
    return passages, own_documents, own_targets


def check_seed(seed: int) -> int:
    """Return a seed as int; TypeError if it is none, ValueError if it does not fit into 32 bits."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed: expected an int, got {type(seed).__name__}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected 0 to 2^32 - 1, got {seed}")
    return int(seed)


def sample_size(num_samples: int, documents: TokenVectors) -> int:
    """Return how many vectors to draw where so many are asked for: few documents do not tell more for more of them."""
    return min(num_samples, max(2048, 4 * documents.num_tokens))


def draw_weights(num_features: int, vectors: FloatArray, random: np.random.Generator) -> NDArray[np.float32]:
    """Return random weights of features, (num_features, dim): products with vectors as long as these are normal."""
    length = float(np.sqrt(np.einsum("ij,ij->", vectors, vectors, dtype=np.float64) / len(vectors))) or 1.0
    return (random.standard_normal((num_features, vectors.shape[1])) / length).astype(np.float32)


def one_by_one(vectors: FloatArray) -> TokenVectors:
    """Return each vector as an item."""
    return TokenVectors._trusted(vectors, np.arange(len(vectors) + 1))


def best_similarities(vectors: FloatArray, documents: TokenCodes, num_threads: int) -> NDArray[np.float32]:
    """Return g_D(x) for each vector x and document D, (n, num_documents): MaxSim of queries of one vector."""
    return maxsim(one_by_one(vectors), documents, num_threads=num_threads)


def fit_maps(
    sample: Sample,
    documents: TokenCodes,
    features: Features,
    rank: int,
    memory_budget: int,
    num_threads: int,
    random: np.random.Generator,
    advance: Callable[[int], object],
) -> Maps:
    """Regress, whiten and reduce.

    Args:
        sample: of these documents.
        documents: those that the fit looks at, as vectors or codes; `sample.own_documents` counts in them, -1 where
            a passage's document is not among them.
        features: φ.
        rank: r, numbers of a reduced vector; those past the rank of the regression are zero.
        memory_budget: bytes for the blocks of features and similarities. Beside them there are at most two float64
            and one float32 matrix of (num_features, num_features), and one float32 of (num_features, num_documents).
        num_threads: threads of the core; NumPy's products use those of its BLAS.
        random: for the start of the subspace iteration.
        advance: called with the number of sample vectors done, twice over all of them.
    """
    num_documents = len(documents)
    num_features = features(sample.sets._run(0, 0)).shape[1]
    a = np.zeros((num_features, num_features))
    b = np.zeros((num_features, num_documents), np.float32)
    token_means = np.empty(sample.sets.num_tokens, np.float32)
    block_tokens = max(256, memory_budget // (4 * (2 * num_features + num_documents)))
    for block in _blocks_of_sets(sample.sets, block_tokens):
        rows = slice(int(sample.sets.offsets[block.start]), int(sample.sets.offsets[block.stop]))
        part = sample.sets._run(block.start, block.stop)
        z = features(part)
        sums = _set_sums(z, part)
        # Zᵀ Z̃, as two products of a matrix with itself, which take half the time.
        a += z.T @ z
        a += SET_WEIGHT * (sums.T @ sums)
        _add_set_rows(z, sums, part)
        targets = best_similarities(part.vectors, documents, num_threads)
        cut_own(targets, sample, block)
        token_means[rows] = targets.mean(axis=1)
        targets -= token_means[rows, None]
        for begin in range(0, num_documents, _STRIPE):
            b[:, begin : begin + _STRIPE] += z.T @ targets[:, begin : begin + _STRIPE]
        del z, sums, targets  # before those of the next block are made
        advance(part.num_tokens)
    inverse = _factor(a)
    del a
    _invert_lower(inverse)  # L⁻¹
    u = b  # L⁻¹ b, from the last rows on, which no others need
    factors = inverse.astype(np.float32)
    for end in range(num_features, 0, -_STRIPE):
        begin = max(0, end - _STRIPE)
        u[begin:end] = factors[begin:end, :end] @ b[:end]
    del factors
    axes, values = left_singular(u, min(rank, *u.shape), random)
    del u, b
    split = np.sqrt(values)
    # r(Q) = (V √s)ᵀ L⁻¹ φ and r(D) = (V / √s)ᵀ L⁻¹ Z̃ᵀ g: at full rank their product is φᵀ A⁻¹ Z̃ᵀ g.
    query_map = np.zeros((rank, num_features), np.float32)
    query_map[: len(values)] = (axes * split).T @ inverse
    to_documents = (inverse.T @ (axes / split)).astype(np.float32)
    del inverse
    document_map = np.zeros((rank, sample.sets.num_tokens), np.float32)
    for block in _blocks_of_sets(sample.sets, block_tokens):
        rows = slice(int(sample.sets.offsets[block.start]), int(sample.sets.offsets[block.stop]))
        part = sample.sets._run(block.start, block.stop)
        z = features(part)
        _add_set_rows(z, _set_sums(z, part), part)
        document_map[: len(values), rows] = (z @ to_documents).T
        del z
        advance(part.num_tokens)
    return Maps(query_map, document_map, token_means)


def _factor(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return L of A + ridge = L Lᵀ; A is changed.

    Where one sample vector is a million times as long as another, rounding is more than the ridge: then it is raised.
    """
    diagonal = np.diag_indices(len(a))
    ridge = max(_RIDGE * float(np.trace(a[:-1, :-1])) / max(1, len(a) - 1), float(np.finfo(np.float32).tiny))
    for _ in range(4):
        a[diagonal] += ridge
        try:
            return np.linalg.cholesky(a).astype(np.float64, copy=False)
        except np.linalg.LinAlgError:
            ridge *= 30
    raise ValueError("documents: expected vectors of like magnitudes to regress on; take a FixedDimensionalEncoder")


def _blocks_of_sets(sets: TokenVectors, num_tokens: int) -> Iterator[slice]:
    """Yield runs of whole sets with at most so many vectors, or one set."""
    begin = 0
    while begin < len(sets):
        end = int(np.searchsorted(sets.offsets, sets.offsets[begin] + num_tokens, side="right")) - 1
        end = max(begin + 1, end)
        yield slice(begin, end)
        begin = end


def _set_sums(z: NDArray[np.float32], part: TokenVectors) -> NDArray[np.float32]:
    """Return the sum of the rows of each set; no set is empty."""
    sums: NDArray[np.float32] = np.add.reduceat(z, part.offsets[:-1], axis=0)
    return sums


def _add_set_rows(z: NDArray[np.float32], sums: NDArray[np.float32], part: TokenVectors) -> None:
    """Turn Z into Z̃ in place: to each row of features, add SET_WEIGHT times the sum over its set. Scales the sums."""
    sums *= np.float32(SET_WEIGHT)
    sets = np.repeat(np.arange(len(part)), part.lengths)
    for begin in range(0, len(z), _STRIPE):
        z[begin : begin + _STRIPE] += sums[sets[begin : begin + _STRIPE]]


def cut_own(targets: NDArray[np.float32], sample: Sample, block: slice) -> None:
    """Write what passages of these sets find in their own documents without themselves."""
    begin = int(sample.sets.offsets[block.start])
    base = int(sample.sets.offsets[sample.num_queries])
    for i in range(max(block.start, sample.num_queries), block.stop):
        document = sample.own_documents[i - sample.num_queries]
        if document >= 0:
            first, last = int(sample.sets.offsets[i]), int(sample.sets.offsets[i + 1])
            targets[first - begin : last - begin, document] = sample.own_targets[first - base : last - base]


def _invert_lower(lower: NDArray[np.float64]) -> None:
    """Replace a lower triangular matrix by its inverse, with a quarter of the operations of `numpy.linalg.inv`."""
    size = len(lower)
    if size <= 64:
        lower[:] = np.tril(np.linalg.inv(lower))
        return
    half = size // 2
    _invert_lower(lower[:half, :half])
    _invert_lower(lower[half:, half:])
    lower[half:, :half] = -(lower[half:, half:] @ lower[half:, :half]) @ lower[:half, :half]


def left_singular(
    u: NDArray[np.float32], rank: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return left singular vectors (m, n) and values, the first ones, by subspace iteration (Halko et al., 2011).

    They are `rank`, or fewer where the matrix has fewer that are no rounding errors.
    """
    largest = max(float(u.max()), -float(u.min()))
    if largest == 0:
        return np.zeros((len(u), 0)), np.zeros(0)
    width = min(u.shape[0], u.shape[1], rank + _OVERSAMPLING)
    basis = np.linalg.qr(u @ random.standard_normal((u.shape[1], width), np.float32))[0]
    for _ in range(_SUBSPACE_ITERATIONS):
        basis = np.linalg.qr(u @ (u.T @ basis / np.float32(largest)))[0]  # products of u's numbers might overflow
    small = (u.T @ basis).astype(np.float64) / largest
    squares, vectors = np.linalg.eigh(small.T @ small)
    order = np.argsort(-squares, kind="stable")[:rank]
    values = np.sqrt(np.maximum(squares[order], 0.0))
    kept = order[values > _LEAST_SINGULAR_VALUE * values[0]]
    axes = basis.astype(np.float64) @ vectors[:, kept]
    return axes, values[: len(kept)] * largest
