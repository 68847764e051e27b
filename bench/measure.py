"""Fair timing on a machine that is not quiet: contestants take turns, ratios are taken within a turn."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")

_GEMM_SIZE = 1024
_MIN_READ_BYTES = 256 * 2**20
# A relative error from which an answer is no answer; its contestant is timed once and compared with nobody.
_WRONG = 0.2

_L3_SIZE_FILE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


@dataclass
class Contestant:
    """One thing to time, and the yardsticks to judge its time by.

    Attributes:
        operation, dtype, engine, shape: the row's name is `operation_dtype_engine[shape]`; the engine is an instruction
            set of chamfer, or another library.
        call: does the work once and returns its result.
        check: takes that result, once, and returns how wrong it is, by name.
        library: whose it is.
        items: documents scored or sets encoded by one call.
        flops: multiplications and additions of the formula; 0 if there is none.
        bytes_read: bytes of input that one call reads.
        num_threads: threads of the call; its compute roof is so many times that of one.
    """

    operation: str
    dtype: str
    engine: str
    shape: str
    call: Callable[[], Any]
    items: int
    check: Callable[[Any], dict[str, float]] = field(default=lambda _: {})
    library: str = "chamfer"
    flops: float = 0.0
    bytes_read: float = 0.0
    num_threads: int = 1

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.operation}_{self.dtype}_{self.engine}[{self.shape}]"


@dataclass(frozen=True)
class Budget:
    """How long to measure: `rounds` turns for each contestant, each of at least `min_seconds`."""

    rounds: int
    min_seconds: float
    gemm_size: int = _GEMM_SIZE
    read_bytes: int = 0  # 0: larger than the last cache


class Roofs:
    """What this core could do at best, measured by NumPy: float32 products (BLAS) and reading memory (BLAS dot)."""

    def __init__(self, budget: Budget) -> None:
        size = budget.gemm_size
        square = np.random.default_rng(0).random((size, size), np.float32)
        product = np.empty_like(square)
        buffer = np.ones((budget.read_bytes or max(_MIN_READ_BYTES, 4 * last_cache_bytes())) // 4, np.float32)
        self.contestants = [
            Contestant(
                "roof",
                "f32",
                "sgemm",
                f"{size}x{size}x{size}",
                lambda: np.matmul(square, square, out=product),
                items=1,
                library="numpy",
                flops=2.0 * size**3,
            ),
            Contestant(
                "roof",
                "f32",
                "read",
                f"{buffer.nbytes >> 20} MiB",
                lambda: np.dot(buffer, buffer),
                items=1,
                library="numpy",
                bytes_read=buffer.nbytes,
            ),
        ]


def last_cache_bytes() -> int:
    """Return the size of the last-level cache, or 32 MiB where the system does not tell."""
    try:
        text = _L3_SIZE_FILE.read_text().strip()
        return int(text.rstrip("KMG")) * {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1)
    except (OSError, ValueError):
        return 32 * 2**20


def round_robin(calls: Mapping[str, Callable[[], Any]], budget: Budget, title: str) -> dict[str, NDArray[np.float64]]:
    """Return seconds per call of each contestant, one number per round.

    Each call must have run once before. Every round visits every contestant, so that what slows the machine down for a
    while slows all of them, and the order alternates.
    """
    repeats = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        call()
        repeats[name] = max(1, math.ceil(budget.min_seconds / max(time.perf_counter() - begin, 1e-9)))
    seconds = {name: np.empty(budget.rounds) for name in calls}
    turns = [(i, name) for i in range(budget.rounds) for name in (list(calls) if i % 2 == 0 else list(calls)[::-1])]
    for i, name in progress(turns, title):
        call = calls[name]
        begin = time.perf_counter()
        for _ in range(repeats[name]):
            call()
        seconds[name][i] = (time.perf_counter() - begin) / repeats[name]
    return seconds


def progress(items: Sequence[Item], title: str) -> Iterable[Item]:
    """Return the items, with a progress bar if standard error is a terminal."""
    return track(items, title, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _once(call: Callable[[], Any]) -> NDArray[np.float64]:
    begin = time.perf_counter()
    call()
    return np.array([time.perf_counter() - begin])


def measure_group(
    group: str, contestants: list[Contestant], roofs: Roofs, budget: Budget, baseline: str
) -> list[dict[str, Any]]:
    """Time contestants and roofs by turns and return one row for each.

    Args:
        group: name of the comparison.
        contestants: what to time.
        roofs: timed in the same rounds.
        budget: how long.
        baseline: name of the contestant that the others' `times_baseline` refers to.
    """
    errors = {c.name: c.check(c.call()) for c in contestants}
    wrong = {c.name for c in contestants if errors[c.name].get("max_relative", 0.0) > _WRONG}
    for roof in roofs.contestants:
        roof.call()
    gemm, read = roofs.contestants
    right = [c for c in [*contestants, *roofs.contestants] if c.name not in wrong]
    seconds = round_robin({c.name: c.call for c in right}, budget, group)
    seconds |= {c.name: _once(c.call) for c in contestants if c.name in wrong}
    gemm_rate, read_rate = gemm.flops / seconds[gemm.name], read.bytes_read / seconds[read.name]
    rows = []
    for c in [*contestants, *roofs.contestants]:
        mine = seconds[c.name]
        compute = c.flops / (gemm_rate * c.num_threads)
        # what fits the last cache need not come from memory
        memory = (c.bytes_read if c.bytes_read > last_cache_bytes() else 0) / read_rate
        bound = np.maximum(compute, memory)
        ratios = mine / seconds[baseline]
        rows.append(
            {
                "name": c.name,
                "group": group,
                "operation": c.operation,
                "dtype": c.dtype,
                "engine": c.engine,
                "library": c.library,
                "shape": c.shape,
                "num_threads": c.num_threads,
                "items": c.items,
                "best_seconds": float(mine.min()),
                "median_seconds": float(np.median(mine)),
                "best_us_per_item": float(mine.min() / c.items * 1e6),
                "median_us_per_item": float(np.median(mine) / c.items * 1e6),
                "flops": c.flops,
                "bytes_read": c.bytes_read,
                "gflops": float(c.flops / mine.min() / 1e9),
                "gbytes_per_second": float(c.bytes_read / mine.min() / 1e9),
                "limit": ("compute" if np.median(compute) >= np.median(memory) else "memory") if bound.any() else None,
                "fraction_of_limit": float(np.median(bound / mine)) if bound.any() else None,
                "times_baseline": float(np.median(ratios)),
                "times_baseline_range": [float(ratios.min()), float(ratios.max())],
                "baseline": baseline,
                "errors": errors.get(c.name, {}),
                "wrong": c.name in wrong,
                "seconds": mine.tolist(),
            }
        )
    return rows
