"""Mutations: one file of a saved index is damaged; then it opens and is the same, or raises CorruptIndexError.

There are two folders: one as a writer leaves it that ends well, and one whose writer was killed, with SQLite's
write-ahead log. Every kind of file has the same share of the damage, however small it is.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import chamfer as ch
from torture import shim
from torture.processes import Findings, run_child
from torture.state import DIM, Document, State, build, find_difference, random_operation, random_state, read_state

_TIMEOUT = 60.0
_MOST_MEMORY = 2**30  # that opening a damaged file may take more


def run(count: int, seed: int, progress: Any) -> dict[str, Any]:
    """Damage so many files, and return figures; `progress` is called after each."""
    figures: Counter[str] = Counter()
    findings = Findings()
    begin = time.monotonic()
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="chamfer-mutations-", dir=shim.fast_folder()) as folder:
        originals = []
        for name, plan in (("closed", "coded"), ("killed", "coded"), ("closed", "plain")):
            original = Path(folder) / f"{name} {plan}"
            state = _collection(original, plan, rng, is_killed=name == "killed")
            shutil.copytree(original, Path(folder) / "pristine")
            originals.append((original, state, _answers(Path(folder) / "pristine")))
            shutil.rmtree(Path(folder) / "pristine")
        for number in range(count):
            original, state, answers = originals[int(rng.choice(3, p=[0.5, 0.25, 0.25]))]
            one = int(rng.integers(2**31))
            path = Path(folder) / "index"
            shutil.copytree(original, path)
            what, kind = damage(path, np.random.default_rng(one))
            verify = bool(rng.random() < 0.7)
            try:
                figures[_try(path, state, answers, verify)] += 1
            except AssertionError as error:
                findings.append(f"seed {seed}, number {number} ({original.name}, verify={verify}), {what}: {error}")
            figures[f"of {kind}"] += 1
            shutil.rmtree(path)
            progress(1)
    return {
        "damaged": count,
        **dict(sorted(figures.items())),
        "seconds": round(time.monotonic() - begin, 1),
        "findings": findings,
    }


def _collection(path: Path, plan: str, rng: np.random.Generator, *, is_killed: bool) -> State:
    """Save an index of several segments, with deleted documents."""
    state = build(path, plan, random_state(plan, rng))
    operations = []
    after = state
    for kind in ("add", "update", "add", "delete"):
        operations.append(random_operation(rng, after, plan, kind))
        after = operations[-1].after(after)

    def work(tell: Callable[[Any], None]) -> None:
        reader = ch.Index.open(path)
        index = ch.Index.open(path, "a")
        for operation in operations:
            operation.run(index)
        if is_killed:  # while somebody else reads, so that the log stays
            import sqlite3

            with sqlite3.connect(path / "catalogue.sqlite") as connection:
                connection.execute("SELECT * FROM manifest").fetchall()
                operations[-1].run(index)
                index.add([np.ones((1, DIM), np.float32)], [next(iter(after))], num_threads=1)
                os.kill(os.getpid(), signal.SIGKILL)
        index.close()
        reader.close()

    ending = run_child(work, _TIMEOUT)
    assert not ending.error, ending.error
    if is_killed:
        first = next(iter(after))
        after = after | {first: Document(np.ones((1, DIM), np.float32), {})}
        assert (path / "catalogue.sqlite-wal").stat().st_size > 0
    return after


def _answers(path: Path) -> Any:
    """Return what searches of an index find, to the bit."""
    with ch.Index.open(path) as index:
        return _found(index)


def _found(index: ch.Index) -> Any:
    queries = np.random.default_rng(0).standard_normal((4, 3, DIM)).astype(np.float32)
    results = [
        index.search(list(queries), 9, num_threads=1),
        index.search(list(queries), 9, exact=True, num_threads=1),
        index.search(list(queries), 9, filter="year >= 2005", num_threads=1),
    ]
    return [(result.ids.tolist(), result.scores.tolist()) for result in results], index.stats()["rerank"]


def _try(path: Path, state: State, answers: Any, verify: bool) -> str:
    """Open a damaged index in a child, and return what came of it; AssertionError tells what is wrong."""

    def work(tell: Callable[[Any], None]) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_MEMORY,) * 2)
        try:
            index = ch.Index.open(path, verify=verify)
        except ch.CorruptIndexError:
            tell("raised CorruptIndexError")
            return
        except FileNotFoundError as error:
            # Without HEAD there is no index; nothing else may be missing without being called damage.
            assert not (path / "HEAD").exists(), f"raised {error!r}"
            tell("raised FileNotFoundError")
            return
        if verify:
            difference = find_difference(index, state, np.random.default_rng(0))
            assert difference is None, difference
            assert _found(index) == answers, "searches find something else, or with other scores"
        else:
            found = read_state(index)
            assert found.keys() == state.keys(), f"{found.keys() ^ state.keys()} lost or too many"
            for one, document in state.items():
                assert found[one].metadata == document.metadata, f"the metadata of {one!r} differ"
                assert found[one].vectors.shape == document.vectors.shape, f"the shape of {one!r} differs"
            _found(index)  # whatever it is
        # What can be read can be changed, or says why not.
        index.close()
        try:
            with ch.Index.open(path, "a", verify=verify) as writer:
                first = next(iter(state))
                writer.add([np.ones((1, DIM), np.float32)], [first], num_threads=1)
            with ch.Index.open(path, verify=verify) as reopened:
                if verify:
                    after = state | {first: Document(np.ones((1, DIM), np.float32), {})}
                    difference = find_difference(reopened, after, np.random.default_rng(0))
                    assert difference is None, f"after one document more: {difference}"
        except (ch.CorruptIndexError, OSError):  # such as a database whose header says that it is not to be written
            tell("opened right, and cannot be changed")
            return
        tell("opened right")

    ending = run_child(work, _TIMEOUT)
    assert not ending.has_hung, "hangs"
    assert not ending.signal, f"signal {ending.signal}"
    assert not ending.error, f"\n{ending.error}"
    return str(ending.told[0])


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def damage(path: Path, rng: np.random.Generator) -> tuple[str, str]:
    """Damage a file in a folder, and return what was done, and the kind of the file."""
    kinds: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            kinds.setdefault(re.sub(r"-int8", "", file.name), []).append(file)
    kind = str(rng.choice(sorted(kinds)))
    file = kinds[kind][int(rng.integers(len(kinds[kind])))]
    name = file.relative_to(path)
    data = bytearray(file.read_bytes())
    how = str(rng.choice(["flip", "flip", "flip", "overwrite", "overwrite", "cut", "extend", "swap", "delete", "zero"]))
    if how == "delete":
        file.unlink()
        return f"{name} deleted", kind
    if how == "swap":
        others = [other for other in path.rglob("*") if other.is_file() and other != file]
        same = [other for other in others if other.name == file.name]
        some = same if same and rng.random() < 0.7 else others
        other = some[int(rng.integers(len(some)))]
        file.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return f"{name} swapped with {other.relative_to(path)}", kind
    if how == "extend" or not data:
        more = int(rng.choice([1, 7, 512, 4096, 65536]))
        file.write_bytes(data + rng.bytes(more))
        return f"{name} longer by {more} bytes", kind
    # Headers and ends matter most.
    size = len(data)
    place = [int(rng.integers(size)), int(rng.integers(min(size, 200))), size - 1 - int(rng.integers(min(size, 200)))]
    begin = place[int(rng.choice(3, p=[0.5, 0.35, 0.15]))]
    if how == "cut":
        file.write_bytes(data[:begin])
        return f"{name} cut to {begin} bytes", kind
    if how == "flip":
        bits = [(begin + int(rng.integers(64)) * i) % size for i in range(int(rng.choice([1, 1, 1, 3])))]
        for one in bits:
            data[one] ^= 1 << int(rng.integers(8))
        what = f"bits flipped at {bits}"
    else:
        end = min(size, begin + int(rng.choice([1, 4, 8, 64, 512, 4096])))
        data[begin:end] = bytes(end - begin) if how == "zero" else rng.bytes(end - begin)
        what = f"bytes {begin} to {end} {'zeroed' if how == 'zero' else 'overwritten'}"
    file.write_bytes(data)
    return f"{name}: {what}", kind
