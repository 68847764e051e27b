"""Whole search systems on the same vectors in one run: recall, milliseconds, memory, and what it takes to build them.

Each system builds, and then searches, in a process of its own with a number of threads that it cannot exceed (see
bench/worker.py). Searches are timed by turns, a few queries each, so that what slows the machine down for a while slows
all of them. What is found is compared with the exact answer, chamfer's, which the tests compare with float64.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chamfer as ch
from bench import PEER_PYTHON, record
from bench.data import Data, load, write_files
from bench.measure import progress
from bench.search_picture import draw
from bench.search_results import DEPTH, K, figures, print_search, row_of
from bench.systems import OURS
from bench.systems_peers import PEERS, SYSTEMS
from bench.worker import THREAD_SETTINGS, Worker, WorkerError, cpus

_QUERIES_A_TURN = 10
_BATCH_TURNS = 3
_ANSWER_SECONDS = 300.0  # within which a system must have answered any one request of a search


@dataclass(frozen=True)
class Options:
    """What is measured, how long.

    Attributes:
        names: the systems.
        threads: numbers of threads to search with.
        python: pattern of a peer's Python, see bench/__init__.py.
        point_seconds: a point that has searched for so long, with so many threads, is asked no further queries.
        build_seconds: a system that has not built within so long is given up.
        quick: two points a system, few queries.
    """

    names: list[str]
    threads: list[int]
    python: str | None
    point_seconds: float
    build_seconds: float
    quick: bool


@dataclass
class Point:
    """One system at one operating point, with so many threads: what it has answered so far."""

    system: str
    arguments: dict[str, Any]
    num_threads: int
    seconds: dict[int, list[float]] = field(default_factory=lambda: {K: [], DEPTH: []})
    rows: dict[int, list[list[int]]] = field(default_factory=lambda: {K: [], DEPTH: []})
    queries: list[int] = field(default_factory=list)
    warm_seconds: float = 0.0
    batch_seconds: list[float] = field(default_factory=list)

    def warm(self, worker: Worker) -> None:
        """Let code and caches get warm, and see how long a search takes."""
        for _ in range(2):
            answer = worker.ask("search", _ANSWER_SECONDS, point=self.arguments, queries=[0], k=K)
            (self.warm_seconds,) = answer["seconds"]

    def take(self, worker: Worker, queries: list[int], limit: float) -> None:
        """Ask these queries, one at a time, for the best few and for many; as many as fit into so many seconds in all.

        A point has one query at least, however slow.
        """
        fitting = int((limit - self.spent()) / (2 * self.warm_seconds))
        asked = queries[: fitting if self.queries else max(1, fitting)]
        if not asked:
            return
        request = {"point": self.arguments, "queries": asked}
        answers = {k: worker.ask("search", _ANSWER_SECONDS, k=k, **request) for k in (K, DEPTH)}
        for k, answer in answers.items():  # all or nothing: a system may fail between the two
            self.seconds[k] += answer["seconds"]
            self.rows[k] += answer["rows"]
        self.queries += asked

    def spent(self) -> float:
        """Return the seconds of all searches so far."""
        return sum(map(sum, self.seconds.values()))


def run(
    *,
    data: list[Path],
    peers: bool,
    only: list[str] | None,
    peer_python: str | None,
    threads: list[int],
    num_queries: int | None,
    point_seconds: float | None,
    build_seconds: float,
    quick: bool,
    output: Path | None,
) -> list[dict[str, Any]]:
    """Measure every collection, print each, write it, and draw all; return the results.

    Without `output` a whole run goes to where the repository keeps results; a quick one, or of some systems, nowhere.
    """
    if output is not None and len(data) > 1 and output.suffix:
        raise SystemExit(f"--output: expected a folder for {len(data)} collections, got {output.name}")
    names = [name for name in (SYSTEMS if peers else OURS) if not only or any(x.lower() in name.lower() for x in only)]
    seconds = point_seconds or 60.0
    options = Options(names, threads, peer_python or os.environ.get(PEER_PYTHON), seconds, build_seconds, quick)
    results = []
    for folder in data:
        name = folder.resolve().name
        result = compare(load(folder, min(num_queries or 10, 10) if quick else num_queries), name, options)
        print_search(result)
        path = output / f"search_{name}.json" if output is not None and len(data) > 1 else output
        record.finish(result, path, None if quick or only else f"search_{name}")
        results.append(result)
    drawn = [result for result in results if result["rows"]]
    if drawn and not quick and find_spec("matplotlib") and (output is not None or not only):
        several = output / "search.png" if output is not None and len(data) > 1 else None
        draw(drawn, several if output is None or several else output.with_suffix(".png"))
    return results


def compare(data: Data, name: str, options: Options) -> dict[str, Any]:
    """Build all systems on one collection, search with them by turns, and return the result."""
    settings: dict[str, Any] = {"data": name, "k": K, "depth": DEPTH, **asdict(options)}
    del settings["python"]
    settings |= {"build_threads": build_threads(options), "thread_settings": THREAD_SETTINGS}
    result = record.begin("search", settings)
    result["shapes"] = shapes(data)
    exact = ch.maxsim_topk(data.queries, data.documents, DEPTH)[1]
    with tempfile.TemporaryDirectory(prefix="chamfer-bench-") as scratch, ExitStack() as stack:
        race = Race(Path(scratch), options)
        stack.callback(race.stop)
        write_files(data, race.data)
        for system in progress(options.names, f"{name}: build"):
            race.build(system)
        result["loads"] = []
        for num_threads in options.threads:
            load = {"threads": num_threads, "cpus": len(cpus(num_threads)), "before": record.load_average()}
            race.search(num_threads, len(data.queries))
            result["loads"].append(load | {"after": record.load_average()})
    result |= {"systems": race.systems, "skipped": race.skipped}
    result["rows"] = [row_of(point, race.systems[point.system], data, exact) for point in race.points if point.queries]
    result["figures"] = figures(result["rows"])
    return result


def shapes(data: Data) -> dict[str, Any]:
    """Return the sizes that a result depends on."""
    return {
        "num_documents": len(data.documents),
        "num_tokens": data.documents.num_tokens,
        "dim": data.documents.dim,
        "num_queries": len(data.queries),
        "query_lengths": [int(data.queries.lengths.min()), int(data.queries.lengths.max())],
        "sample_queries": 0 if data.sample_queries is None else len(data.sample_queries),
        "sample_from": data.sample_from,
    }


def build_threads(options: Options) -> int:
    """Return the threads that indexes are built with: the most that are searched with and that have a CPU each."""
    return len(cpus(max(options.threads)))


def _tell(text: str) -> None:
    """Say how far a run is, which takes the better part of an hour."""
    print(text, file=sys.stderr, flush=True)


def python_of(system: str, pattern: str | None) -> str:
    """Return the Python of a peer's environment, if the pattern names one that is there, otherwise this one."""
    peer = SYSTEMS[system]().peer if system in PEERS else ""
    own = Path(pattern.replace("{name}", peer)).absolute() if pattern and peer else None
    return str(own) if own is not None and own.exists() else sys.executable


def turns(num_queries: int) -> list[list[int]]:
    """Return all queries in a random order that is always the same, a few at a time."""
    order: NDArray[np.int64] = np.random.default_rng(0).permutation(num_queries)
    return [order[i : i + _QUERIES_A_TURN].tolist() for i in range(0, num_queries, _QUERIES_A_TURN)]


class Race:
    """Systems on one collection; one that fails is out from there on, and its name and reason are kept.

    Attributes:
        data: folder for the collection's files.
        systems: what building and opening told of each system that was built.
        points: what they answered.
        skipped: names and reasons.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self.data = folder / "data"
        self.systems: dict[str, dict[str, Any]] = {}
        self.points: list[Point] = []
        self.skipped: list[dict[str, str]] = []
        self._folder, self._options = folder, options
        self._workers: dict[str, Worker] = {}

    @contextmanager
    def _worker(self, system: str, title: str) -> Iterator[Worker]:
        """Give a system's process; if it fails, end it and keep the reason."""
        try:
            yield self._workers[system]
        except WorkerError as error:
            self._workers.pop(system).close()
            self.skipped.append({"name": title, "reason": str(error)})
            _tell(f"{title}: {error}")

    def _start(self, system: str, num_threads: int) -> None:
        folder = self._folder / system.replace(" ", "_").replace(",", "")
        self._workers[system] = Worker(python_of(system, self._options.python), system, self.data, folder, num_threads)

    def stop(self) -> None:
        """End all processes."""
        for system in list(self._workers):
            self._workers.pop(system).close()

    def build(self, system: str) -> None:
        """Build a system's index."""
        self._start(system, build_threads(self._options))
        with self._worker(system, system) as worker:
            self.systems[system] = worker.ask("build", self._options.build_seconds)
            _tell(f"{system}: built in {self.systems[system]['build_seconds']:.1f} s")
        self.stop()

    def search(self, num_threads: int, num_queries: int) -> None:
        """Search by turns with every system that was built, at all its points."""
        points: dict[str, list[Point]] = {}
        with_batch: list[str] = []
        titles = {system: f"{system}, {num_threads} threads" for system in self.systems}
        for system, title in titles.items():
            self._start(system, num_threads)
            with self._worker(system, title) as worker:
                opened = worker.ask("open", _ANSWER_SECONDS)
                self.systems[system].setdefault("open_seconds", {})[str(num_threads)] = opened["open_seconds"]
                points[system] = [Point(system, arguments, num_threads) for arguments in opened["points"]]
                if self._options.quick:
                    points[system] = points[system][:1] + points[system][1:][-1:]
                for point in points[system]:
                    point.warm(worker)
                with_batch += [system] if opened["has_batch"] else []
        for turn, queries in enumerate(progress(turns(num_queries), f"searches, {num_threads} threads")):
            for system in self._in_turn(turn):
                with self._worker(system, titles[system]) as worker:
                    for point in points[system]:
                        point.take(worker, queries, self._options.point_seconds)
        for system in self._in_turn(0):
            with self._worker(system, titles[system]) as worker:
                resident = worker.ask("memory", _ANSWER_SECONDS)["resident_bytes"]
                self.systems[system].setdefault("resident_bytes", {})[str(num_threads)] = resident
        for turn in range(1 if self._options.quick else _BATCH_TURNS):
            for system in self._in_turn(turn):
                if system in with_batch:
                    with self._worker(system, titles[system]) as worker:
                        self._batch(worker, points[system], num_queries)
        self.stop()
        self.points += [point for asked in points.values() for point in asked]

    def _in_turn(self, turn: int) -> list[str]:
        """Return the systems that are left, every other turn in reverse."""
        return list(self._workers)[:: 1 if turn % 2 == 0 else -1]

    def _batch(self, worker: Worker, points: list[Point], num_queries: int) -> None:
        """Search all queries in one call at each point that is not too slow for it."""
        for point in points:
            if float(np.median(point.seconds[K])) * num_queries <= self._options.point_seconds:
                answer = worker.ask("batch", _ANSWER_SECONDS, point=point.arguments, k=K)
                point.batch_seconds.append(answer["seconds"])
