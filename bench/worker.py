"""A system in a process of its own, with its own Python, threads and memory: both ends of the conversation.

The child (`python -m bench.worker CONFIG`) needs NumPy and the system's library, nothing else; it reads one JSON
request a line and answers each with one line. Vectors travel as .npy files. What hangs is killed, what crashes has a
reason, and neither costs more than its own rows.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import ONE_THREAD

_ROOT = Path(__file__).parent.parent

THREAD_SETTINGS = (*ONE_THREAD, "TOKIO_WORKER_THREADS", "LANCE_CPU_THREADS", "NUMEXPR_NUM_THREADS")
"""Environment that sets the threads of a system; besides, it may run on so many CPUs only."""


class WorkerError(Exception):
    """A system that cannot go on: its message is the reason, for people."""


# ── this end ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Worker:
    """A system in its process; every question has a time limit."""

    def __init__(self, python: str, system: str, data: Path, folder: Path, num_threads: int) -> None:
        self._log = (folder.parent / f"{folder.name}.{num_threads}.log").open("w+", encoding="utf-8", errors="replace")
        config = {"system": system, "data": str(data), "folder": str(folder), "num_threads": num_threads}
        environment = {**os.environ, **dict.fromkeys(THREAD_SETTINGS, str(num_threads))}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, "-m", "bench.worker", json.dumps(config)],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._received = b""

    def ask(self, call: str, seconds: float, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the answer; WorkerError if it fails, or does not come within so many seconds."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: _line tells how
            self._process.stdin.write((json.dumps({"call": call, **arguments}) + "\n").encode())
            self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line(call, seconds))
        if "error" in answer:
            self.close()
            raise WorkerError(without_paths(answer["error"]))
        return answer

    def _line(self, call: str, seconds: float) -> bytes:
        assert self._process.stdout is not None
        limit = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, limit - time.monotonic())):
                    self.close()
                    raise WorkerError(f"{call}: stopped after {seconds:.0f} s")
                piece = os.read(self._process.stdout.fileno(), 2**20)
                if not piece:
                    raise WorkerError(f"{call}: {self._end()}")
                self._received += piece
        line, self._received = self._received.split(b"\n", 1)
        return line

    def _end(self) -> str:
        """Say how the process ended, with the last words of its log."""
        code = self._process.wait()
        how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended ({code})"
        self._log.seek(0)
        words = [line.strip() for line in self._log if line.strip()][-1:]
        return without_paths(": ".join([how, *words])[:300])

    def close(self) -> None:
        """End the process and what it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def without_paths(text: str) -> str:
    """Return text with each path cut to its last part: where somebody keeps things is no part of a result."""
    return re.sub(r"(?<![\w:/])/(?:[\w.@+=-]+/)+", "", text)


# ── the child's end ─────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints goes to the log
    config = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus(config["num_threads"]))
    from bench.systems import UnavailableError  # NumPy's threads, which it starts, are bound too

    serve = _Serve(config)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(serve, request.pop("call"))(**request)
        except UnavailableError as error:
            answer = {"error": str(error)}
        except ImportError as error:
            answer = {"error": f"not installed: {error}"}
        except Exception as error:  # whatever a library raises is an answer
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def cpus(num_threads: int) -> set[int]:
    """Return the CPUs for so many threads: the last ones, since interrupts tend to come to the first."""
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return set(sorted(here)[-num_threads:])


class _Serve:
    """The calls that a request can name."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._folder = Path(config["folder"])
        self._opened: Any = None
        self._before: int | None = None

    def _system(self) -> tuple[Any, Any]:
        from bench.systems import Collection
        from bench.systems_peers import SYSTEMS

        return SYSTEMS[self._config["system"]](), Collection(Path(self._config["data"]))

    def build(self) -> dict[str, Any]:
        system, data = self._system()
        system.load()
        self._folder.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        system.build(data, self._folder, self._config["num_threads"])
        return {
            "build_seconds": time.perf_counter() - begin,
            "peak_bytes": memory_bytes("VmHWM"),
            "disk_bytes": sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
            + sum((data.folder / name).stat().st_size for name in system.reads),
            "version": system.version(),
        }

    def open(self) -> dict[str, Any]:
        system, data = self._system()
        system.load()
        self._before = memory_bytes("RssAnon")
        begin = time.perf_counter()
        system.open(data, self._folder, self._config["num_threads"])
        seconds = time.perf_counter() - begin
        self._opened = (system, data)
        return {"open_seconds": seconds, "points": system.points(data), "has_batch": hasattr(system, "search_batch")}

    def search(self, point: dict[str, Any], queries: list[int], k: int) -> dict[str, Any]:
        """Search one query at a time."""
        system, data = self._opened
        seconds, found = [], []
        for i in queries:
            query = data.query(i)
            begin = time.perf_counter()
            rows = system.search(query, k, **point)
            seconds.append(time.perf_counter() - begin)
            found.append(row_list(rows, data.num_documents)[:k])
        return {"seconds": seconds, "rows": found}

    def batch(self, point: dict[str, Any], k: int) -> dict[str, Any]:
        """Search all queries in one call."""
        system, data = self._opened
        queries, offsets = data.queries, data.query_offsets
        begin = time.perf_counter()
        system.search_batch(queries, offsets, k, **point)
        return {"seconds": time.perf_counter() - begin}

    def memory(self) -> dict[str, Any]:
        """Say what opening and searching added to the memory that only this process can free."""
        now = memory_bytes("RssAnon")
        return {"resident_bytes": None if now is None or self._before is None else now - self._before}


def row_list(rows: Any, num_documents: int) -> list[int]:
    """Return a system's answer as plain integers, -1 for whatever it put where it found nothing."""
    return [int(row) if 0 <= row < num_documents else -1 for row in rows]


def memory_bytes(kind: str) -> int | None:
    """Return this process's resident memory without mapped files, RssAnon, or its peak, VmHWM; None without /proc."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return int(next(line for line in status.splitlines() if line.startswith(kind)).split()[1]) * 1024


if __name__ == "__main__":
    main()
