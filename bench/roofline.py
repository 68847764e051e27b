"""What this core can do at best, and how near a kernel comes to it.

The loops are in cpp/peaks.hpp: one kind of instruction and nothing else, or only reading. They are timed in the same
rounds as the kernels, so that a clock that changes or a neighbour that takes memory bandwidth changes both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chamfer as ch
from bench import record
from bench.measure import Budget, Contestant, cache_bytes, round_robin

COMPUTE = ("fma_f32", "dot_bf16", "dot_i8", "popcount")
"""The loops of arithmetic; they count a multiply-add as two operations, a bit as one."""

MEMORY = ("l2", "l3", "dram")
"""Where a kernel's input lies while it runs, nearest first."""

# A level without such an instruction works in float32, which a bfloat16 becomes by a shift.
_INSTEAD = {"dot_bf16": "fma_f32"}
# The levels that add one instruction to the level below, whose loops serve for everything else.
_ADDS = {"avx512_bf16": ("avx512", "dot_bf16"), "neon_dotprod": ("neon", "dot_i8")}
# Bytes ahead of the loads; 0 leaves that to the machine. The faster one is the limit.
_PREFETCHES = (0, 4096)
_MIN_DRAM_BYTES = 256 * 2**20


class Roofline:
    """The loops as contestants, and limits from their times."""

    def __init__(self, budget: Budget) -> None:
        sizes = {
            "l2": cache_bytes(2) // 2,
            "l3": cache_bytes(3) // 2,
            "dram": max(_MIN_DRAM_BYTES, 4 * cache_bytes(3)),
        }
        self._buffers = {
            place: np.ones(min(size, budget.read_bytes or size) // 1024 * 1024, np.uint8)
            for place, size in sizes.items()
        }
        self._rounds = budget.peak_rounds

    def yardsticks(self, contestants: Iterable[Contestant]) -> list[Contestant]:
        """Return the loops that bound these contestants, each once."""
        loops = dict.fromkeys(loop for contestant in contestants for loop in self._asked(contestant))
        return [yardstick for loop in loops for yardstick in self._loop(*loop)]

    def every(self) -> list[Contestant]:
        """Return all loops of this machine."""
        isas = [isa for isa in ch.available_isas() if isa != "scalar"] or ["scalar"]
        loops = [(kind, _level(kind, isa)) for kind in COMPUTE for isa in isas if _has(kind, isa)]
        loops += [(place, _level(place, isa)) for place in MEMORY for isa in isas]
        return [yardstick for loop in dict.fromkeys(loops) for yardstick in self._loop(*loop)]

    def limit(
        self, contestant: Contestant, seconds: Mapping[str, NDArray[np.float64]]
    ) -> tuple[str, NDArray[np.float64]] | None:
        """Return what binds a contestant and the least seconds it allows, per round; None for the loops.

        Bounds are not added up: a core computes while it reads. So many threads may have so many times the rate of one,
        of memory too.
        """
        asked = {} if contestant.library == "limit" else self._asked(contestant)
        bounds = {}
        for loop, amount in asked.items():
            fastest = np.min([seconds[y.name] / _amount(y) for y in self._loop(*loop)], axis=0)
            bounds[loop[0]] = amount * fastest / contestant.num_threads
        if not bounds:
            return None
        binding = max(bounds, key=lambda kind: float(np.median(bounds[kind])))
        return binding, bounds[binding]

    def _asked(self, contestant: Contestant) -> dict[tuple[str, str], float]:
        """Return the loops (kind or place, instruction set) that bound a contestant, and how much it asks of each."""
        own, best = contestant.engine, ch.best_isa()
        # Scalar kernels and other libraries are judged by what the core can do at best.
        isas = [own, best] if contestant.library == "chamfer" and own in ch.available_isas()[1:] else [best]
        found: dict[tuple[str, str], float] = {}
        for kind, amount in contestant.operations.items():
            candidates = ((k, _level(k, isa)) for isa in isas for k in (kind, _INSTEAD.get(kind)) if k is not None)
            loop = next((c for c in candidates if _has(*c)), None)
            if loop is not None:
                found[loop] = found.get(loop, 0.0) + amount
        return found | {(place, _level(place, isas[0])): amount for place, amount in contestant.bytes_read.items()}

    def _loop(self, kind: str, isa: str) -> list[Contestant]:
        """Return the contestants that time a loop: one of arithmetic, one of reading for each way to prefetch."""
        if kind in COMPUTE:
            return [
                Contestant(
                    "peak",
                    kind,
                    isa,
                    "registers",
                    partial(ch._core.run_peak, kind, self._rounds, isa=isa),
                    items=1,
                    library="limit",
                    operations={kind: float(ch._core.run_peak(kind, 1, isa=isa)) * self._rounds},
                )
            ]
        buffer = self._buffers[kind]
        return [
            Contestant(
                "peak",
                f"read_{kind}",
                isa,
                f"{buffer.nbytes >> 10} KiB" + (f", prefetch {ahead}" if ahead else ""),
                partial(ch._core.read_memory, buffer, ahead, isa=isa),
                items=1,
                library="limit",
                bytes_read={kind: float(buffer.nbytes)},
            )
            for ahead in _PREFETCHES
        ]


def _level(kind: str, isa: str) -> str:
    """Return the level whose loop of a kind this one has."""
    below, added = _ADDS.get(isa, (isa, kind))
    return isa if kind == added else below


def _has(kind: str, isa: str) -> bool:
    return ch._core.run_peak(kind, 1, isa=isa) > 0


def _amount(yardstick: Contestant) -> float:
    return sum(yardstick.operations.values()) + sum(yardstick.bytes_read.values())


def run(*, quick: bool, rounds: int | None, output: Path | None) -> dict[str, Any]:
    """Measure this core's peaks, print them, write them if asked to; return what was written."""
    budget = Budget.of(quick=quick, rounds=rounds)
    result = record.begin("roofline", {"quick": quick, "budget": vars(budget)})
    yardsticks = Roofline(budget).every()
    for yardstick in yardsticks:
        yardstick.call()
    seconds = round_robin({y.name: y.call for y in yardsticks}, budget, "peaks")
    result["rows"] = [
        {
            "name": y.name,
            "kind": y.dtype,
            "isa": y.engine,
            "median_rate": y.rate(float(np.median(seconds[y.name])))[0],
            "best_rate": y.rate(float(seconds[y.name].min()))[0],
            "unit": y.rate(1.0)[1],
        }
        for y in yardsticks
    ]
    record.print_peaks(result)
    record.finish(result, output, None)
    return result
