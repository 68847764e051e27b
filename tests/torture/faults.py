"""Faults: the n-th call on a file fails or is cut short, for each n until a change runs through.

What a change acknowledges must be synced, with a fault or without. After one that raises, the process goes on: the
index in memory answers as before or as after the change, the change can be made again, and the folder opens and equals
the model.
"""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import chamfer as ch
from chamfer.index import catalogue
from torture import shim
from torture.processes import Findings, run_child
from torture.state import KINDS, PLANS, Operation, State, build, find_difference, random_operation, random_state

_TIMEOUT = 120.0


@dataclass(frozen=True)
class Fault:
    """What goes wrong, in which calls."""

    name: str
    calls: int
    action: int
    error: int = 0
    is_lasting: bool = False


FAULTS = (
    Fault("disk full", shim.WRITE | shim.TRUNCATE | shim.MKDIR, shim.FAIL, errno.ENOSPC, is_lasting=True),
    Fault("disk full once", shim.WRITE | shim.TRUNCATE | shim.MKDIR, shim.FAIL, errno.ENOSPC),
    Fault("write error", shim.WRITE, shim.FAIL, errno.EIO),
    Fault("short write", shim.WRITE, shim.SHORT),
    Fault("sync error", shim.SYNC, shim.FAIL, errno.EIO),
    Fault("disk that syncs no more", shim.SYNC, shim.FAIL, errno.EIO, is_lasting=True),
    Fault("rename error", shim.RENAME, shim.FAIL, errno.EIO),
    Fault("read error", shim.READ, shim.FAIL, errno.EIO),
    Fault("short read", shim.READ, shim.SHORT),
    Fault("disk that reads no more", shim.READ, shim.FAIL, errno.EIO, is_lasting=True),
    Fault("no file descriptor", shim.OPEN, shim.FAIL, errno.EMFILE),
    Fault("no permission", shim.OPEN | shim.RENAME | shim.UNLINK | shim.MKDIR, shim.FAIL, errno.EACCES),
    Fault("no map", shim.MAP, shim.FAIL, errno.ENOMEM),
    Fault("disk gone", shim.ALL, shim.FAIL, errno.EIO, is_lasting=True),
)


Work = Callable[..., None]


def run(count: int, seed: int, progress: Any) -> dict[str, Any]:
    """Let so many calls fail, drawn from all, and return figures; `progress` is called after each."""
    if not shim.is_loaded():
        return {"skipped": shim.missing() or "needs its library loaded", "findings": []}
    figures: Counter[str] = Counter()
    findings = Findings()
    begin = time.monotonic()
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="chamfer-faults-", dir=shim.fast_folder()) as folder:
        cases: list[tuple[str, Path, Work, State, State, Fault, int]] = []
        for plan in PLANS:
            original = Path(folder) / f"{plan} original"
            state = _collection(original, plan, rng)
            changes: list[tuple[str, Work, State]] = []
            for kind in KINDS:
                operation = random_operation(rng, state, plan, kind)
                changes.append((kind, _change(operation, state), operation.after(state)))
            changes += [("save", _save(state), state), ("open", _open(state), state)]
            changes.append(("refresh", _refresh(state), state))
            for name, work, after in changes:
                counts = _count_calls(work, original)
                for fault in FAULTS:
                    num_calls = sum(number for call, number in counts.items() if call & fault.calls)
                    where = f"seed {seed}, {plan} index, {name}, {fault.name}"
                    cases += [(where, original, work, state, after, fault, 1 + i) for i in range(num_calls)]
        figures["calls that may fail"] = len(cases)
        for i in rng.permutation(len(cases))[:count]:
            where, original, *case, number = cases[i]
            path = Path(folder) / "index"
            shutil.copytree(original, path)
            try:
                _try(path, *case, number, figures)
            except AssertionError as error:
                findings.append(f"{where} at call {number}: {error}")
            finally:
                shutil.rmtree(path, ignore_errors=True)
                shutil.rmtree(path.with_name("copy"), ignore_errors=True)
            figures["faults"] += 1
            progress(1)
    return {**dict(sorted(figures.items())), "seconds": round(time.monotonic() - begin, 1), "findings": findings}


def _count_calls(work: Work, original: Path) -> dict[int, int]:
    """Return how many calls of each kind a change makes, when none fails."""
    path = original.with_name("index")
    shutil.copytree(original, path)

    def child(tell: Callable[[Any], None]) -> None:
        shim.arm(path.parent, 0, 0, shim.COUNT)
        work(path, lambda: shim.arm(path.parent, shim.ALL, 0, shim.COUNT), tell)

    ending = run_child(child, _TIMEOUT)
    shutil.rmtree(path)
    shutil.rmtree(path.with_name("copy"), ignore_errors=True)
    if ending.has_hung or ending.signal or ending.error:
        raise RuntimeError(f"without any fault: {ending}")
    return {int(call): number for call, number in dict(ending.told)["counts"].items()}


def _collection(path: Path, plan: str, rng: np.random.Generator) -> State:
    """Save an index of three segments, with deleted documents."""
    state = build(path, plan, random_state(plan, rng, 8))
    with ch.Index.open(path, "a") as index:
        for kind in ("add", "add", "delete"):
            operation = random_operation(rng, state, plan, kind)
            operation.run(index)
            state = operation.after(state)
    return state


def _try(path: Path, work: Work, before: State, after: State, fault: Fault, number: int, figures: Counter[str]) -> None:
    """Run one case in a child; AssertionError tells what is wrong."""

    def arm() -> None:
        shim.arm(path.parent, fault.calls, number, fault.action, fault.error, is_lasting=fault.is_lasting)

    def child(tell: Callable[[Any], None]) -> None:
        shim.arm(path.parent, 0, 0, shim.COUNT)
        work(path, arm, tell)

    ending = run_child(child, _TIMEOUT)
    assert not ending.has_hung, "hangs"
    assert not ending.signal, f"signal {ending.signal}"
    assert not ending.error, f"\n{ending.error}"
    told = dict(ending.told)
    figures["errors raised"] += bool(told["raised"])
    figures["went through all the same"] += not told["raised"] and told["calls"] >= number
    assert not told["raised"] or fault.action != shim.SHORT, (
        f"a short call, which is none's fault, raised {told['raised']}"
    )
    # FAISS takes a read that fails once, right after a good one of the same bytes, for wrong contents.
    is_honest = "CorruptIndexError" not in told["raised"] or fault.calls & shim.READ
    assert is_honest, f"raised {told['raised']}"
    figures["CorruptIndexError raised"] += "CorruptIndexError" in told["raised"]
    rng = np.random.default_rng(number)
    with ch.Index.open(path, "a", verify=True) as index:
        difference = find_difference(index, after, rng)
    assert difference is None, f"after it was repeated, in another process: {difference}"
    left = {entry.name for entry in path.iterdir() if entry.name.startswith(".")}
    assert not left, f"left behind: {left}"


_HONEST = (OSError, ch.CorruptIndexError)


def _attempt(act: Callable[[], Any], tell: Callable[[Any], None]) -> Any:
    """Call act() with the fault armed, tell what came of it, and return the error."""
    error = None
    try:
        act()
    except _HONEST as raised:
        error = raised
    tell(["calls", shim.disarm()])
    tell(["counts", shim.counts()])
    tell(["raised", repr(error) if error is not None else ""])
    return error


def _check_synced(path: Path) -> None:
    """Raise AssertionError if something of the state of a folder is not on disk; what no state has may be."""
    left = shim.unsynced(path)  # first: reading makes files of SQLite's
    manifest = catalogue.read(path)[0]
    used = {manifest.model, *(record.name for record in manifest.segments)}
    names = [name for name in left if not re.match("[sm]-", name) or name.split("/")[0] in used]
    assert not names, f"acknowledged, and not on disk: {names}"


def _change(operation: Operation, state: State) -> Work:
    """Return what makes a change in which a call fails, looks at the index, and makes the change again."""

    def work(path: Path, arm: Callable[[], None], tell: Callable[[Any], None]) -> None:
        rng = np.random.default_rng(0)
        after = operation.after(state)
        index = ch.Index.open(path, "a")
        arm()
        error = _attempt(lambda: operation.run(index), tell)
        assert not isinstance(error, ch.LockedIndexError), f"raised {error!r}, though nobody else writes"
        if error is None:
            _check_synced(path)
        wanted = [after] if error is None else [state, after]
        differences = [find_difference(index, one, rng) for one in wanted]
        assert None in differences, f"{error!r}; then the open index is wrong: {differences}"
        reader = ch.Index.open(path, verify=True)
        differences = [find_difference(reader, one, rng) for one in wanted]
        assert None in differences, f"{error!r}; then the folder is wrong: {differences}"
        operation.run(index)
        difference = find_difference(index, after, rng)
        assert difference is None, f"{error!r}; repeated, the open index is wrong: {difference}"
        reader.refresh()
        difference = find_difference(reader, after, rng)
        assert difference is None, f"{error!r}; repeated, a reader is wrong: {difference}"

    return work


def _save(state: State) -> Work:
    """Return what saves an index to another folder."""

    def work(path: Path, arm: Callable[[], None], tell: Callable[[Any], None]) -> None:
        rng = np.random.default_rng(0)
        index, copy = ch.Index.open(path), path.with_name("copy")
        arm()
        error = _attempt(lambda: index.save(copy), tell)
        if error is None:
            _check_synced(copy)
        difference = find_difference(index, state, rng)
        assert difference is None, f"{error!r}; then the open index is wrong: {difference}"
        index.save(copy)
        with ch.Index.open(copy, "a", verify=True) as reopened:
            difference = find_difference(reopened, state, rng)
        assert difference is None, f"{error!r}; saved again, the copy is wrong: {difference}"

    return work


def _open(state: State) -> Work:
    """Return what opens an index and looks at all of it."""

    def work(path: Path, arm: Callable[[], None], tell: Callable[[Any], None]) -> None:
        rng = np.random.default_rng(0)
        opened: list[ch.Index] = []
        arm()
        error = _attempt(lambda: opened.append(ch.Index.open(path, verify=True)), tell)
        assert not isinstance(error, ch.LockedIndexError), f"raised {error!r}, though nobody writes"
        if error is not None:
            opened.append(ch.Index.open(path, "a", verify=True))
        difference = find_difference(opened[0], state, rng)
        assert difference is None, f"{error!r}; then: {difference}"
        opened[0].close()

    return work


def _refresh(state: State) -> Work:
    """Return what refreshes a reader behind a writer that added and deleted again."""

    def work(path: Path, arm: Callable[[], None], tell: Callable[[Any], None]) -> None:
        rng = np.random.default_rng(0)
        reader = ch.Index.open(path)
        first = next(iter(state))
        with ch.Index.open(path, "a") as writer:
            writer.delete(first)
            writer.add([state[first].vectors], [first], [dict(state[first].metadata)], num_threads=1)
        arm()
        error = _attempt(reader.refresh, tell)
        difference = find_difference(reader, state, rng)
        assert difference is None, f"{error!r}; then the reader is wrong: {difference}"
        reader.refresh()
        difference = find_difference(reader, state, rng)
        assert difference is None, f"{error!r}; refreshed again, the reader is wrong: {difference}"

    return work
