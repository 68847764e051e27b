"""Which instruction set and how many threads a call uses: the defaults of `isa` and `num_threads` everywhere."""

from __future__ import annotations

import operator
import os

from chamfer import _core


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that this CPU and this build have, lowest first.

    Returns:
        A tuple out of "scalar", "avx2", "avx512", "avx512_bf16", "neon", "neon_dotprod"; "scalar" is always there.
    """
    return tuple(_core.available_isas())


# Read once: a process computes with one instruction set unless a call names another.
_forced_isa = os.environ.get("CHAMFER_ISA") or None
if _forced_isa is not None:
    _core.check_isa(_forced_isa, "CHAMFER_ISA")
_best_isa = _forced_isa or _core.available_isas()[-1]


def best_isa() -> str:
    """Return the instruction set of calls whose `isa` is None: the highest, or what CHAMFER_ISA named at import."""
    return _best_isa


def resolve_isa(isa: str | None) -> str:
    """Return the name to hand to the core; raises TypeError or ValueError for what this machine cannot run."""
    if isa is None:
        return _best_isa
    if not isinstance(isa, str):
        raise TypeError(f"isa: expected one of {', '.join(available_isas())} or None, got {type(isa).__name__}")
    _core.check_isa(isa, "isa")
    return isa


def resolve_num_threads(num_threads: int | None) -> int:
    """Return a positive thread count; None means the CPUs that this process may run on."""
    if num_threads is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    return check_positive_int(num_threads, "num_threads")


def check_positive_int(value: int, argument: str) -> int:
    """Return `value` as int; TypeError if it is none (a bool is none), ValueError if it is below 1."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{argument}: expected an int, got {type(value).__name__}") from None
    if number < 1:
        raise ValueError(f"{argument}: expected at least 1, got {number}")
    if number >= 2**31:
        raise ValueError(f"{argument}: expected below 2^31, got {number}")
    return number
