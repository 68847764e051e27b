"""Soak: one process writes, eight read, for as long as asked; nothing may fail, differ or grow.

The changes follow from a seed, so that every process can tell what each state holds. One document is always there, and
comes anew with every change that adds some, with its number in vectors and metadata; what a reader sees at once must be
one state, and none from before what it saw last.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import chamfer as ch
from torture.processes import Ending, Findings, run_children
from torture.state import DIM, Document, Operation, State, build, find_difference, random_operation, random_state

NUM_READERS = 8

_PLAN = "coded"
_BEACON = "beacon"
_SAMPLES = 60  # of memory, by each process
_GROWTH = 1.1, 16 * 2**20  # of memory, from the second quarter to the last: a share, and bytes
_MORE_MAPS = 1.5, 30  # and of maps and file descriptors
_REOPENED_EVERY = 40
_LATE = 120.0


def run(count: int, seed: int, progress: Any) -> dict[str, Any]:
    """Read and write for so many seconds, and return figures; `progress` is called with seconds."""
    with tempfile.TemporaryDirectory(prefix="chamfer-soak-") as folder:
        path = Path(folder) / "index"
        first = build(path, _PLAN, random_state(_PLAN, np.random.default_rng(seed)))
        operation = _with_beacon(Operation("add", {}), 0)
        with ch.Index.open(path, "a") as index:
            operation.run(index)
        first = operation.after(first)
        begin = time.monotonic()
        end = begin + count
        works = [lambda tell: _write(path, first, seed, end, tell)]
        works += [
            lambda tell, number=number: _read(path, first, seed, number, end, tell) for number in range(NUM_READERS)
        ]
        seen = [0]

        def on_told(child: int, told: Any) -> None:
            passed = min(count, int(time.monotonic() - begin))
            progress(passed - seen[0])
            seen[0] = passed

        endings = run_children(works, count + _LATE, on_told)
    return _figures(endings, count, seed)


def _figures(endings: list[Ending], seconds: int, seed: int) -> dict[str, Any]:
    findings = Findings()
    counts: Counter[str] = Counter()
    memory = {}
    for i, ending in enumerate(endings):
        name = "writer" if i == 0 else f"reader {i}"
        if ending.has_hung or ending.signal or ending.error:
            findings.append(f"seed {seed}, {name}: signal {ending.signal}, has hung: {ending.has_hung}\n{ending.error}")
        samples = [told["sample"] for told in ending.told if "sample" in told]
        for told in ending.told:
            counts.update(told.get("counts", {}))
        if len(samples) < 8:
            continue
        table = np.array(samples)
        early = table[len(table) // 4 : len(table) // 2].max(axis=0)
        late = table[-(len(table) // 4) :].max(axis=0)
        memory[name] = (early, late)
        if late[0] > _GROWTH[0] * early[0] + _GROWTH[1]:
            findings.append(f"seed {seed}, {name}: memory grew from {early[0]:,} to {late[0]:,} bytes")
        for column, what in ((1, "file descriptors"), (2, "maps")):
            if late[column] > _MORE_MAPS[0] * early[column] + _MORE_MAPS[1]:
                findings.append(f"seed {seed}, {name}: from {early[column]} to {late[column]} {what}")
    grown = {name: int(late[0] - early[0]) for name, (early, late) in memory.items()}
    return {
        **dict(sorted(counts.items())),
        "errors": len(findings),
        "largest growth of memory in bytes": max(grown.values(), default=0),
        "most memory of a reader in bytes": max(
            (int(late[0]) for name, (_, late) in memory.items() if name != "writer"), default=0
        ),
        "most memory of the writer in bytes": int(memory["writer"][1][0]) if "writer" in memory else 0,
        "most file descriptors": max((int(late[1]) for _, late in memory.values()), default=0),
        "most maps": max((int(late[2]) for _, late in memory.values()), default=0),
        "seconds": seconds,
        "findings": findings,
    }


# ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_beacon(operation: Operation, number: int) -> Operation:
    """Return an operation with the document that carries its number, if it adds any; else without."""
    documents = {one: document for one, document in operation.documents.items() if one != _BEACON}
    if operation.kind.startswith("add"):
        vectors = np.full((3, DIM), number % 1000 / 1000, np.float32)
        documents[_BEACON] = Document(vectors, {"year": 2000, "change": number})
    return Operation(operation.kind if documents else "compact", documents)


def _history(first: State, seed: int) -> Iterator[tuple[Operation, State]]:
    """Yield changes, and the state after each, for ever; the same for one seed."""
    rng = np.random.default_rng(seed)
    state, number = first, 0
    while True:
        number += 1
        operation = _with_beacon(random_operation(rng, state, _PLAN), number)
        state = operation.after(state)
        yield operation, state


class _Sampler:
    """Tells what memory a process has, so often as to make some samples in all."""

    def __init__(self, end: float, tell: Callable[[Any], None]) -> None:
        self._interval = (end - time.monotonic()) / _SAMPLES
        self._next = time.monotonic()
        self._tell = tell

    def __call__(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        status = Path("/proc/self/status").read_text()
        # Pages of files that are mapped are the system's, which drops them when it needs the room.
        anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
        num_files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a folder that changes while it is read
        num_maps = Path("/proc/self/maps").read_text().count("\n")
        self._tell({"sample": [anonymous * 1024, num_files, num_maps]})


def _write(path: Path, first: State, seed: int, end: float, tell: Callable[[Any], None]) -> None:
    counts: Counter[str] = Counter()
    sample = _Sampler(end, tell)
    history = _history(first, seed)
    while time.monotonic() < end:
        with ch.Index.open(path, "a") as index:
            for _ in range(_REOPENED_EVERY):
                operation, _ = next(history)
                operation.run(index)
                counts[f"changes: {operation.kind}"] += 1
                sample()
                if time.monotonic() >= end:
                    break
    tell({"counts": counts})


def _read(path: Path, first: State, seed: int, number: int, end: float, tell: Callable[[Any], None]) -> None:
    rng = np.random.default_rng([seed, number])
    counts: Counter[str] = Counter()
    sample = _Sampler(end, tell)
    history = _history(first, seed)
    states = deque([(0, first)])  # what may be seen: from what was seen last, to before the next that adds
    index = ch.Index.open(path)
    while time.monotonic() < end:
        if rng.random() < 1 / _REOPENED_EVERY:
            index.close()
            index = ch.Index.open(path, verify=bool(rng.random() < 0.5))
            counts["reopened"] += 1
        else:
            counts["refreshed to another state"] += index.refresh()
        change = index.get_metadata(_BEACON)["change"]
        while states[-1][0] <= change:
            _, state = next(history)
            last = state[_BEACON].metadata["change"]
            states.append((last, state))
        while states[0][0] < change:
            states.popleft()
        assert states[0][0] == change, f"change {change} was seen after change {states[0][0]}"
        differences = []
        # Of the states with this number, those that were seen already are gone.
        for i in range(sum(last == change for last, _ in states)):
            difference = find_difference(index, states[i][1], rng)
            if difference is None:
                for _ in range(i):
                    states.popleft()
                break
            differences.append(difference)
        else:
            raise AssertionError(f"after change {change}, none of {len(differences)} states: {differences}")
        counts["readings of a whole state"] += 1
        sample()
    tell({"counts": counts})
