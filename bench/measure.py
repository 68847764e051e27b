"""Fair timing on a machine that is not quiet: contestants take turns, ratios are taken within a turn."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from bench.roofline import Roofline

Item = TypeVar("Item")

# A relative error from which an answer is no answer; its contestant is timed once and compared with nobody.
_WRONG = 0.2

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass
class Contestant:
    """One thing to time, and the yardsticks to judge its time by.

    Attributes:
        operation, dtype, engine, shape: the row's name is `operation_dtype_engine[shape]`; the engine is an instruction
            set of chamfer, or another library.
        call: does the work once and returns its result.
        check: takes that result, once, and returns how wrong it is, by name.
        library: whose it is; "limit" for the loops of roofline.py.
        items: documents scored or sets encoded by one call.
        operations: what the formula asks for, by the kind of instruction that does it fastest (roofline.COMPUTE), in
            what that kind counts.
        bytes_read: bytes of input that one call reads, by where they lie (roofline.MEMORY).
        codes: pairs of a query's code and a stored code that one call compares; 0 if that is not what it does.
        num_threads: threads of the call; its limits are so many times those of one.
    """

    operation: str
    dtype: str
    engine: str
    shape: str
    call: Callable[[], Any]
    items: int
    check: Callable[[Any], dict[str, float]] = field(default=lambda _: {})
    library: str = "chamfer"
    operations: Mapping[str, float] = field(default_factory=dict)
    bytes_read: Mapping[str, float] = field(default_factory=dict)
    codes: float = 0.0
    num_threads: int = 1

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.operation}_{self.dtype}_{self.engine}[{self.shape}]"

    def rate(self, seconds: float) -> tuple[float, str]:
        """Return how fast a call of so many seconds is, in 10^9 a second, and the unit."""
        operations, num_bytes = sum(self.operations.values()), sum(self.bytes_read.values())
        if self.codes:
            return self.codes / seconds / 1e9, "Gcodes/s"
        if operations:
            (kind,) = self.operations
            return operations / seconds / 1e9, {"dot_i8": "Gop/s", "popcount": "Gbit/s"}.get(kind, "GFLOP/s")
        return num_bytes / seconds / 1e9, "GB/s"


@dataclass(frozen=True)
class Budget:
    """How long to measure: `rounds` turns for each contestant, each of at least `min_seconds`."""

    rounds: int
    min_seconds: float
    peak_rounds: int = 100_000
    read_bytes: int = 0  # at most so many for a loop that reads; 0: as large as its cache asks for

    @classmethod
    def of(cls, *, quick: bool, rounds: int | None) -> Budget:
        """Return the usual budget, or that of a quick run; with so many rounds."""
        usual = cls(2, 0.0, peak_rounds=1_000, read_bytes=2**20) if quick else cls(15, 0.02)
        return usual if rounds is None else replace(usual, rounds=rounds)


def cache_bytes(level: int) -> int:
    """Return the size of this core's data cache of a level, or a usual size where the system does not tell."""
    with suppress(OSError, ValueError):
        for index in sorted(_CACHES.glob("index*")):
            if int((index / "level").read_text()) == level and (index / "type").read_text().strip() != "Instruction":
                text = (index / "size").read_text().strip()
                return int(text.rstrip("KMG")) * {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1)
    return {1: 32 * 2**10, 2: 2**20}.get(level, 32 * 2**20)


def bytes_from(num_bytes: float) -> dict[str, float]:
    """Return where a call's input lies if it is read once and again at each call: the nearest place that holds it."""
    if num_bytes <= cache_bytes(2):
        return {"l2": num_bytes}
    return {"l3" if num_bytes <= cache_bytes(3) else "dram": num_bytes}


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
    group: str, contestants: list[Contestant], roofline: Roofline, budget: Budget, baseline: str
) -> list[dict[str, Any]]:
    """Time contestants by turns with the loops that bound them, and return one row for each of both.

    Args:
        group: name of the comparison.
        contestants: what to time.
        roofline: whose loops are timed in the same rounds.
        budget: how long.
        baseline: name of the contestant that the others' `times_baseline` refers to.
    """
    errors = {c.name: c.check(c.call()) for c in contestants}
    wrong = {c.name for c in contestants if errors[c.name].get("max_relative", 0.0) > _WRONG}
    yardsticks = roofline.yardsticks(contestants)
    for yardstick in yardsticks:
        yardstick.call()
    right = [c for c in [*contestants, *yardsticks] if c.name not in wrong]
    seconds = round_robin({c.name: c.call for c in right}, budget, group)
    seconds |= {c.name: _once(c.call) for c in contestants if c.name in wrong}
    rows = []
    for c in [*contestants, *yardsticks]:
        mine = seconds[c.name]
        limit, bound = roofline.limit(c, seconds) or (None, None)
        ratios = mine / seconds[baseline]
        rate, unit = c.rate(float(mine.min()))
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
                "operations": dict(c.operations),
                "bytes_read": dict(c.bytes_read),
                "rate": rate,
                "unit": unit,
                "limit": limit,
                "limit_us_per_item": None if bound is None else float(np.median(bound) / c.items * 1e6),
                "fraction_of_limit": None if bound is None else float(np.median(bound / mine)),
                "times_baseline": float(np.median(ratios)),
                "times_baseline_range": [float(ratios.min()), float(ratios.max())],
                "baseline": baseline,
                "errors": errors.get(c.name, {}),
                "wrong": c.name in wrong,
                "seconds": mine.tolist(),
            }
        )
    return rows
