"""Rotations after which levels tell most: iterative quantization, for codes of more than one bit too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ITERATIONS = 30

STEPS = {1: 1.596, 2: 0.9957, 3: 0.586, 4: 0.3352}
"""By bits, the distance of neighbouring levels that codes normal numbers of variance 1 with the least error.

Source: Max, "Quantizing for minimum distortion" (1960), table 2.
"""


def rotation_to_levels(
    numbers: NDArray[np.float32], size: int, bits: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return the rotation of rows after which equally spaced levels tell most of them.

    By turns the levels of the rotated numbers, and the best rotation to them (Procrustes).

    Args:
        numbers: shape (n, m), centred.
        size: of rotated rows, at least m.
        bits: of a level, 1 to 4.
        random: what it begins with.

    Returns:
        float32, shape (size, m), with orthonormal columns.

    Source: iterative quantization (Gong and Lazebnik, CVPR 2011), which does it for signs.
    """
    rotation = np.linalg.qr(random.standard_normal((size, numbers.shape[1])))[0].astype(np.float32)
    highest = np.float32(2 ** (bits - 1) - 0.5)
    for _ in range(_ITERATIONS):
        rotated = numbers @ rotation.T
        step = np.float32(STEPS[bits] * np.sqrt(np.mean(rotated**2)))
        if step == 0:
            break
        values = np.clip(np.floor(rotated / step) + np.float32(0.5), -highest, highest)
        left, _, right = np.linalg.svd(values.T @ numbers, full_matrices=False)
        rotation = left @ right
    return rotation
