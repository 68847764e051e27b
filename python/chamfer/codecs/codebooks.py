"""Codebooks: what a codec learns from a collection, and the levels of its codes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from chamfer._rotation import STEPS, rotation_to_levels
from chamfer.codecs.token_codes import Codebook

# Levels of least mean square error for a normal distribution of unit variance (Max, "Quantizing for minimum
# distortion", 1960, table 1): the positive half.
_NORMAL_LEVELS = {
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0691, 2.7326),
    2: (0.4528, 1.5104),
    1: (0.7979,),
}

_MAX_ROTATION_TOKENS = 2**14  # four times as many find as much, and take four times as long
_BLOCK_TOKENS = 2**14


def plain_codebook(
    bits: int, dim: int, center: NDArray[np.float32] | None = None, rotation: NDArray[np.float32] | None = None
) -> Codebook:
    """Return a codebook without direction and scales; with a rotation, of equally spaced levels."""
    zeros = np.zeros(dim, np.float32)
    if rotation is None:
        half = np.array(_NORMAL_LEVELS.get(bits, (1.0,)))
        levels_per_rms = 127 / half[-1]
        numbers = np.rint(np.concatenate([-half[::-1], half]) / half[-1] * 127).astype(np.int64)
    else:
        highest = 2**bits - 1
        unit = 127 // highest
        levels_per_rms = 2 * unit / STEPS[bits]
        numbers = (2 * np.arange(2**bits) - highest) * unit
    levels = np.full(16, 255, np.uint8)
    levels[: len(numbers)] = numbers + 128
    return Codebook(
        bits=bits,
        center=zeros if center is None else center,
        direction=zeros,
        stretch=1.0,
        levels=levels,
        levels_per_rms=levels_per_rms,
        dim_scales=np.ones(dim, np.float32),
        rotation=rotation,
    )


def query_codebook(sample: NDArray[np.float32] | NDArray[np.float16]) -> Codebook:
    """Return the codebook of signs about the mean, whose scales count in units of the largest magnitude."""
    center = mean_of(sample)
    scales = np.full(len(center), np.abs(sample).max() or 1.0, np.float32)
    return Codebook(**{**plain_codebook(1, len(center), center).__dict__, "dim_scales": scales})


def fitted_rotation(
    sample: NDArray[np.float32] | NDArray[np.float16], center: NDArray[np.float32], bits: int
) -> NDArray[np.float32]:
    """Return the rotation that is best for the directions of vectors about their mean, its own direction left out."""
    random = np.random.default_rng(0)
    rest = sample[random.permutation(len(sample))[:_MAX_ROTATION_TOKENS]].astype(np.float64) - center
    direction = center.astype(np.float64) / (np.linalg.norm(center.astype(np.float64)) or 1.0)
    rest -= np.outer(rest @ direction, direction)
    lengths = np.linalg.norm(rest, axis=1)
    rest /= np.where(lengths > 0, lengths, 1.0)[:, None]
    return rotation_to_levels(rest.astype(np.float32), len(center), bits, random)


def blocks(num_tokens: int) -> Iterator[slice]:
    """Yield slices that cover all vectors, so many at a time that little memory is needed."""
    return (slice(begin, min(begin + _BLOCK_TOKENS, num_tokens)) for begin in range(0, num_tokens, _BLOCK_TOKENS))


def mean_of(vectors: NDArray[np.float32] | NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the mean of vectors, summed in double precision."""
    total = sum(vectors[block].sum(axis=0, dtype=np.float64) for block in blocks(len(vectors)))
    return np.asarray(total / len(vectors), np.float32)


def spreads_of(
    vectors: NDArray[np.float32] | NDArray[np.float16], center: NDArray[np.float32], direction: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the root mean square along the direction, and of each dimension across it (positive)."""
    along, squares = 0.0, np.zeros(len(center))
    for block in blocks(len(vectors)):
        rest = vectors[block].astype(np.float64) - center
        products = rest @ direction
        along += float(products @ products)
        rest -= products[:, None] * direction
        squares += np.einsum("ij,ij->j", rest, rest)
    along = float(np.sqrt(along / len(vectors)))
    spread = np.sqrt(squares / len(vectors))
    # Of vectors that are multiples of one, nothing is across it but rounding: that of the direction to float32.
    least = max(float(spread.max()) * 1e-3, along * 1e-6)
    return along, np.maximum(spread, least if least > 0 else 1.0)
