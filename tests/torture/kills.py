"""Kills: SIGKILL at a random moment of a change, or at the n-th call on a file; then the index is opened and compared.

A child opens the index, and changes it, or saves another in its place, or the first; it tells before and after each
change. What it told as done must be there, the change that was under way must be there as a whole or not at all, and
nothing else may be.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import chamfer as ch
from torture import shim
from torture.processes import Findings, run_child
from torture.state import PLANS, Operation, State, build, find_difference, random_operation, random_state

_MOST_CHANGES = 3
_TIMEOUT = 120.0


def run(count: int, seed: int, progress: Any) -> dict[str, Any]:
    """Kill so many times, and return figures; `progress` is called after each."""
    figures: Counter[str] = Counter()
    findings = Findings()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chamfer-kills-") as folder:
        rng = np.random.default_rng(seed)
        states = {plan: build(Path(folder) / plan, plan, random_state(plan, rng)) for plan in PLANS}
        durations = dict.fromkeys(PLANS, 0.1)
        while figures["kills"] < count:
            plan = PLANS[figures["rounds"] % len(PLANS)]
            path = Path(folder) / plan
            one = int(rng.integers(2**31))
            figures["rounds"] += 1
            before = figures["kills"]
            try:
                states[plan] = _round(path, plan, states[plan], one, durations, figures)
            except AssertionError as error:
                findings.append(f"seed {seed}, round {figures['rounds']} ({plan}): {error}")
                shutil.rmtree(path, ignore_errors=True)
                states[plan] = build(path, plan, random_state(plan, rng))
            progress(figures["kills"] - before)
    return {
        **dict(sorted(figures.items())),
        "seconds": round(time.monotonic() - begin, 1),
        "at file calls": shim.missing() or "yes",
        "findings": findings,
    }


def _round(path: Path, plan: str, state: State, seed: int, durations: dict[str, float], figures: Counter[str]) -> State:
    """Let a child change the index and kill it; return the state that is there, or raise AssertionError."""
    rng = np.random.default_rng(seed)
    states: list[State | None] = [state]
    operations = []
    if rng.random() < 0.15:
        operations = [Operation("save", random_state(plan, rng))]
        states.append(operations[0].documents)
        if rng.random() < 0.3:
            shutil.rmtree(path)
            states[0] = None
    else:
        for _ in range(_MOST_CHANGES):
            operations.append(random_operation(rng, states[-1], plan))
            states.append(operations[-1].after(states[-1]))
    victim = int(rng.integers(len(operations)))
    at_a_call = shim.is_loaded() and rng.random() < 0.6
    action = int(rng.choice([shim.KILL_BEFORE, shim.KILL_AFTER, shim.KILL_WITHIN]))
    # A few calls of every change, and of the end of the process, are the ones that matter: low numbers more often.
    number = int(rng.integers(1, 90))
    calls = shim.WRITE | shim.SYNC | shim.RENAME | shim.TRUNCATE | shim.UNLINK | shim.MKDIR

    def work(tell: Any) -> None:
        if shim.is_loaded():
            shim.arm(path, 0, 0, shim.COUNT)
        index = None if operations[0].kind == "save" else ch.Index.open(path, "a")
        for i, operation in enumerate(operations):
            if at_a_call and i == victim:
                shim.arm(path, calls, number, action)
            tell(["begin", i])
            if index is None:
                build(path, plan, operation.documents)
            else:
                operation.run(index)
            tell(["end", i])
        if index is not None:
            index.close()

    clock: dict[int, float] = {}

    def on_told(child: int, message: Any) -> None:
        what, i = message
        if what == "begin":
            clock[i] = time.monotonic()
            if i == victim and not at_a_call:
                time.sleep(float(rng.uniform(0, 1.2 * durations[plan])))
                os.kill(child, signal.SIGKILL)
        else:
            durations[plan] += 0.1 * (time.monotonic() - clock[i] - durations[plan])

    ending = run_child(work, _TIMEOUT, on_told)
    assert not ending.has_hung, "a change did not end"
    assert not ending.error, f"a change raised\n{ending.error}"
    assert ending.signal in (0, signal.SIGKILL), f"signal {ending.signal}"
    if ending.signal:
        figures["kills"] += 1
        figures["kills of a save"] += operations[0].kind == "save"
        figures["kills at a file call" if at_a_call else "kills at a random time"] += 1
        if path.joinpath("catalogue.sqlite-wal").exists():
            figures["with a log left behind"] += 1
    begun = sum(what == "begin" for what, _ in ending.told)
    done = sum(what == "end" for what, _ in ending.told)
    figures["acknowledged changes"] += done
    if states[0] is None and done == 0 and not (path / "HEAD").exists():
        return build(path, plan, random_state(plan, rng))  # over what the first one left
    try:
        with ch.Index.open(path, "a" if rng.random() < 0.3 else "r", verify=True) as index:
            differences = []
            for i in range(done, begun + 1):
                wanted = states[i]
                difference = "is there" if wanted is None else find_difference(index, wanted, rng)
                if wanted is not None and difference is None:
                    if ending.signal and begun > done:
                        figures[f"in flight: {'kept' if i > done else 'undone'}"] += 1
                    return wanted
                differences.append(f"after change {i}: {difference}")
    except Exception as error:
        raise AssertionError(f"cannot be opened: {error!r}") from error
    kinds = [operation.kind for operation in operations]
    raise AssertionError(f"changes {kinds}, {done} acknowledged, {begun} begun; {'; '.join(differences)}")
