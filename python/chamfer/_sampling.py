"""Rows that stand for all: spread evenly, the same ones each time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread(n: int, size: int) -> NDArray[np.int64]:
    """Return up to `size` of the rows 0 to n - 1, spread evenly, none twice, ascending."""
    return np.linspace(0, n - 1, min(n, size)).astype(np.int64)
