"""Tuning: the cheapest search settings that reach a wanted recall, found by comparison with exact search.

One wide search tells where the exact top k stand among the candidates, and how each stage of codes scores them. From
that the recall of every setting of the rerank follows without running it. A few are then run, for their times and for
the recall that is reported: an index that searches wider for more candidates, as a graph does, finds others with fewer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chamfer._progress import progress_bar
from chamfer._sampling import spread
from chamfer.cascade import Cascade, document_passages
from chamfer.index.searching import search
from chamfer.index.settings import SearchSettings
from chamfer.index.snapshot import Snapshot
from chamfer.index.tuning_report import TuningPoint, TuningReport
from chamfer.token_vectors import TokenVectors, TokenVectorsLike, as_token_vectors

_MAX_QUERIES = 512
_TIMED_QUERIES = 48
_EXACT_AT_A_TIME = 32
_NUM_PASSAGES = 256

# Settings that are tried. Numbers of candidates lie 12 % apart; budgets are parts of k.
_STEP = 1.12
_MAX_CANDIDATES = 20_000
_PARTS_OF_LISTS = (1, 2, 4, 8, 16, 32, 64)
_PARTS_OF_K = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0)
_MARGINS = (1.5, 2.0, 3.0, 4.0, 20.0)  # the last drops next to nothing

# Recall that wider candidates have to gain to be worth it, where lists limit them.
_LEAST_GAIN = 0.001

# Parts of what a search may lose, 1 - target: candidates are tried that lose so much of it, and the codes the rest.
_CANDIDATES_LOSE = (0.2, 1.0)

_NUM_POINTS = 7
_MOST_TRIED = 6  # settings, in search of one that is measured to reach the target

_NUM_FOLDS = 10
_MOST_LUCK = 0.03
_LUCK_STEP = 0.0005


@dataclass(frozen=True)
class _Simulation:
    """A wide search of all queries, from which every narrower one follows.

    Attributes:
        k: results per query.
        rows: int64, shape (num_queries, width): candidates, best first.
        wanted: bool, the same shape: which are among the exact top k.
        num_wanted: shape (num_queries,): documents of the exact top k, found or not.
        scores: of each stage but an exact last one, the scores of the candidates; -inf where there is none.
        errors: of each of these, the error in score of each query, shape (num_queries,).
        ends_exact: whether the last stage is exact.
    """

    k: int
    rows: NDArray[np.int64]
    wanted: NDArray[np.bool_]
    num_wanted: NDArray[np.int64]
    scores: list[NDArray[np.float32]]
    errors: list[NDArray[np.float64]]
    ends_exact: bool
    _kept: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = field(default_factory=dict, repr=False)

    def recalls(
        self, num_candidates: int, budgets: Sequence[int], margin: float
    ) -> tuple[NDArray[np.float64], list[float]]:
        """Return the recall of each query, and the mean number of documents that each stage scores."""
        if not self.scores:
            alive = self.rows[:, :num_candidates] >= 0
            return self._shares((alive & self.wanted[:, :num_candidates]).sum(axis=1)), [
                float(alive.sum(axis=1).mean())
            ]
        widths = []
        columns, scores = self._first_stage(num_candidates)
        for stage in range(len(self.scores)):
            if stage > 0:
                columns, scores = self._ranked(stage, columns, np.isfinite(scores))
            widths.append(float(np.isfinite(scores).sum(axis=1).mean()))
            is_last = stage == len(self.scores) - 1 and not self.ends_exact
            kept = self.k if is_last else max(self.k, budgets[stage])
            columns, scores = columns[:, :kept], scores[:, :kept]
            if not is_last and np.isfinite(margin) and scores.shape[1] >= self.k:
                least = scores[:, self.k - 1].astype(np.float64) - margin * self.errors[stage]
                scores = np.where(scores >= least[:, None], scores, np.float32(-np.inf))
        alive = np.isfinite(scores)
        if self.ends_exact:
            widths.append(float(alive.sum(axis=1).mean()))
        return self._shares((alive & np.take_along_axis(self.wanted, columns, axis=1)).sum(axis=1)), widths

    def _shares(self, found: NDArray[np.int64]) -> NDArray[np.float64]:
        return found / np.maximum(self.num_wanted, 1)

    def _first_stage(self, num_candidates: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return what the first stage makes of so many candidates, kept for the next setting: many have as many."""
        if num_candidates not in self._kept:
            self._kept.clear()
            alive = self.rows[:, :num_candidates] >= 0
            everything = np.broadcast_to(np.arange(num_candidates), alive.shape)
            self._kept[num_candidates] = self._ranked(0, everything, alive)
        return self._kept[num_candidates]

    def _ranked(
        self, stage: int, columns: NDArray[np.int64], alive: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return columns of candidates, best first, and their scores; -inf where they are not alive."""
        scores = np.where(alive, np.take_along_axis(self.scores[stage], columns, axis=1), np.float32(-np.inf))
        # Ties go to the lower row in a search; here, to the earlier candidate: no matter for a mean.
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(columns, order, axis=1), np.take_along_axis(scores, order, axis=1)


def check_recall(target_recall: float) -> float:
    """Return a recall as a float above 0 and at most 1."""
    if isinstance(target_recall, bool) or not isinstance(target_recall, (int, float, np.integer, np.floating)):
        raise TypeError(f"target_recall: expected a number, got {type(target_recall).__name__}")
    if not 0 < target_recall <= 1:
        raise ValueError(f"target_recall: expected above 0 and at most 1, got {target_recall}")
    return float(target_recall)


def split_queries(
    queries: TokenVectorsLike | None, documents: TokenVectors
) -> tuple[TokenVectors | None, TokenVectors]:
    """Return what to fit to and what to tune with: every other query each; or None, and passages of documents."""
    if queries is None:
        return None, document_passages(documents, _some(documents, _NUM_PASSAGES))
    given = as_token_vectors(queries, "queries")
    filled = np.flatnonzero(given.lengths)
    if len(filled) < 2:
        raise ValueError(f"queries: expected at least 2 with vectors to fit and to tune, got {len(filled)}")
    return given.select(filled[::2]), given.select(filled[1::2])


def tune(
    snapshot: Snapshot, queries: TokenVectors, target_recall: float, k: int, num_threads: int, progress: bool
) -> TuningReport:
    """Find settings; see `Index.tune`."""
    cascade = snapshot.cascade
    assert cascade is not None
    queries = queries.select(_some(queries, _MAX_QUERIES))
    with progress_bar(len(queries), "search exactly", progress, unit="query") as advance:
        exact = _exact_rows(snapshot, queries, k, num_threads, advance)
    encodings = snapshot.model.reducer.encode_queries(queries, num_threads=num_threads)
    nprobes = _nprobes(snapshot)
    tried: list[_Tried] = []
    costs: list[float] = []
    with progress_bar(len(nprobes), "try settings", progress, unit="nprobe") as advance:
        for nprobe in nprobes:
            simulation, grid = _simulate(
                snapshot, cascade, queries, encodings, exact, target_recall, nprobe, num_threads
            )
            costs = costs or _costs(cascade, queries, simulation)
            seconds = [_candidate_seconds(snapshot, encodings, number, nprobe) for number in (grid[0], grid[-1])]
            tried += _try_all(simulation, grid, costs, seconds, nprobe)
            advance(1)
    tried.sort(key=lambda one: (one.seconds, -one.recalls.mean()))
    settled = _frontier(tried)
    means = [float(one.recalls.mean()) for one in settled]
    wanted = _cross_validated(tried, target_recall)
    chosen = next((i for i, mean in enumerate(means) if mean >= wanted), len(settled) - 1)
    timed = spread(len(queries), _TIMED_QUERIES)
    # A narrow search may find others than a wide one that is cut, and a little fewer: then a few more are tried.
    dearer = spread(len(settled) - chosen, _MOST_TRIED) + chosen
    shown = sorted({chosen, *spread(len(settled), _NUM_POINTS).tolist()})
    measured: dict[int, TuningPoint] = {}
    with progress_bar(len(shown), "measure settings", progress, unit="setting") as advance:
        for i in shown:
            measured[i] = _measure(snapshot, queries, exact, settled[i], timed, num_threads)
            advance(1)
        for i in dearer.tolist():
            if i not in measured:
                measured[i] = _measure(snapshot, queries, exact, settled[i], timed, num_threads)
            if measured[i].recall >= target_recall:
                kept = measured[i]
                break
        else:
            kept = max(measured.values(), key=lambda point: point.recall)
    points = sorted(measured.values(), key=lambda point: (point.recall, point.milliseconds))
    exact_seconds = [
        _seconds(lambda: snapshot.exact(queries.select([row]), k, None, 1))  # noqa: B023
        for row in timed[:8].tolist()
    ]
    reached = kept.recall >= target_recall
    milliseconds = float(np.median(exact_seconds)) * 1e3
    chosen = points.index(kept)
    return TuningReport(target_recall, k, len(queries), tuple(points), chosen, reached, milliseconds)


def _exact_rows(
    snapshot: Snapshot, queries: TokenVectors, k: int, num_threads: int, advance: Callable[[int], object]
) -> NDArray[np.int64]:
    """Return the rows of each query's exact top k, shape (num_queries, k), -1 where there are fewer."""
    rows = []
    for begin in range(0, len(queries), _EXACT_AT_A_TIME):
        some = queries._run(begin, min(begin + _EXACT_AT_A_TIME, len(queries)))
        rows.append(snapshot.exact(some, k, None, num_threads)[1])
        advance(len(some))
    return np.concatenate(rows)


def _nprobes(snapshot: Snapshot) -> list[int | None]:
    """Return how many inverted lists are worth trying; None alone where there are no lists."""
    num_lists = snapshot.candidates.num_lists
    if num_lists is None:
        return [None]
    return [*sorted({max(1, num_lists // part) for part in _PARTS_OF_LISTS})]


def _simulate(
    snapshot: Snapshot,
    cascade: Cascade,
    queries: TokenVectors,
    encodings: NDArray[np.float32],
    exact: NDArray[np.int64],
    target_recall: float,
    nprobe: int | None,
    num_threads: int,
) -> tuple[_Simulation, list[int]]:
    """Return the simulation, and the numbers of candidates worth trying, ascending."""
    k = exact.shape[1]
    num_wanted = (exact >= 0).sum(axis=1)
    most = min(len(snapshot.documents), _MAX_CANDIDATES)
    width = min(most, max(256, 20 * k))
    may_lose = 1.0 - target_recall
    before = -1.0
    while True:
        rows = snapshot.find(encodings, width, num_threads, nprobe)[1]
        wanted = np.zeros(rows.shape, bool)
        for i in range(len(rows)):
            wanted[i] = np.isin(rows[i], exact[i][exact[i] >= 0])
        reached = np.cumsum(wanted, axis=1) / np.maximum(num_wanted, 1)[:, None]
        by_width = reached.mean(axis=0)
        enough = by_width >= 1.0 - _CANDIDATES_LOSE[0] * may_lose
        # Few lists may not hold what is wanted: then more of their documents are no use.
        if enough.any() or width == most or (nprobe is not None and by_width[-1] < before + _LEAST_GAIN):
            break
        before = float(by_width[-1])
        width = min(most, 4 * width)
    if not enough.any():
        enough = by_width >= by_width[-1] - _LEAST_GAIN
    last = int(np.argmax(enough)) + 1
    first = int(np.argmax(by_width >= 1.0 - _CANDIDATES_LOSE[1] * may_lose)) + 1
    # Below the target too: the report shows what less recall would cost.
    grid, number = [], float(max(k, min(first, last) // 3))
    while number < last:
        grid.append(int(number))
        number = max(number * _STEP, number + 1)
    grid.append(max(k, last))
    grid = sorted({min(n, rows.shape[1]) for n in grid})
    rows, wanted = np.ascontiguousarray(rows[:, : grid[-1]]), wanted[:, : grid[-1]]
    scores, errors = [], []
    for stage in cascade.stages:
        if stage.codec is not None:
            scores.append(stage.documents.maxsim(queries, rows, num_threads))
            errors.append(stage.error * queries.lengths.astype(np.float64))
    ends_exact = cascade.stages[-1].codec is None
    return _Simulation(k, rows, wanted, num_wanted, scores, errors, ends_exact), grid


def _costs(cascade: Cascade, queries: TokenVectors, simulation: _Simulation) -> list[float]:
    """Return seconds a document of each stage, of queries alone on one thread."""
    costs = []
    for stage in cascade.stages:
        seconds = []
        for i in spread(len(queries), 12).tolist():
            query, rows = queries.select([i]), simulation.rows[i : i + 1, :200]
            seconds.append(
                _seconds(lambda: stage.documents.topk(query, 1, candidates=rows, num_threads=1))  # noqa: B023
                / max(1, int((rows >= 0).sum()))
            )
        costs.append(float(np.median(seconds)))
    return costs


def _candidate_seconds(
    snapshot: Snapshot, encodings: NDArray[np.float32], num_candidates: int, nprobe: int | None
) -> float:
    """Return seconds to find candidates for a query alone on one thread."""
    seconds = [
        _seconds(lambda: snapshot.find(encodings[[i]], num_candidates, 1, nprobe))  # noqa: B023
        for i in spread(len(encodings), 12).tolist()
    ]
    return float(np.median(seconds))


class _Tried(NamedTuple):
    """A setting, the recall of each query, the seconds of a query that it costs, and documents that stages score."""

    settings: SearchSettings
    recalls: NDArray[np.float64]
    seconds: float
    num_scored: list[float]


def _try_all(
    simulation: _Simulation, grid: list[int], costs: list[float], candidate_seconds: list[float], nprobe: int | None
) -> list[_Tried]:
    """Return all settings; `candidate_seconds` are those of the fewest and of the most candidates."""
    k, num_budgets = simulation.k, len(costs) - 1
    choices = sorted({int(np.ceil(part * k)) for part in _PARTS_OF_K}) if num_budgets else [k]
    found = []
    for number, budget, margin in itertools.product(grid, choices, _MARGINS if num_budgets else (float("inf"),)):
        if num_budgets and budget >= number and budget != choices[0]:
            continue
        # Each stage is finer than the one before, and hands on less.
        budgets = tuple(max(k, budget // 2**i) for i in range(num_budgets))
        recalls, widths = simulation.recalls(number, budgets, margin)
        seconds = float(np.interp(number, (grid[0], grid[-1]), candidate_seconds))
        seconds += sum(width * cost for width, cost in zip(widths, costs, strict=True))
        settings = SearchSettings(max(number, k), budgets or None, margin if num_budgets else None, k, nprobe)
        found.append(_Tried(settings, recalls, seconds, widths))
    return found


def _frontier(tried: list[_Tried]) -> list[_Tried]:
    """Return the settings that no other beats in recall and seconds, by ascending recall."""
    best: list[_Tried] = []
    for one in tried:
        if not best or one.recalls.mean() > best[-1].recalls.mean():
            best.append(one)
    return best


def _cross_validated(tried: list[_Tried], target_recall: float) -> float:
    """Return the recall to ask of the queries at hand, so that others can expect `target_recall`.

    The cheapest of many settings to reach a recall owes some of it to luck: on SciFact 0.95 asked of 150 queries was
    0.946 on 150 others. Settings chosen without a tenth of the queries, and asked of that tenth, tell how much.
    """
    recalls = np.stack([one.recalls for one in tried])  # the cheapest first
    num_folds = min(_NUM_FOLDS, recalls.shape[1])
    if num_folds < 2:
        return target_recall
    fold_of = np.arange(recalls.shape[1]) % num_folds
    held_out = np.stack([recalls[:, fold_of == fold].sum(axis=1) for fold in range(num_folds)], axis=1)
    sizes = np.bincount(fold_of)
    seen = (held_out.sum(axis=1, keepdims=True) - held_out) / (recalls.shape[1] - sizes)
    best = np.argmax(seen, axis=0)
    folds = np.arange(num_folds)
    for wanted in target_recall + np.arange(0.0, _MOST_LUCK, _LUCK_STEP):
        reaching = seen >= wanted
        chosen = np.where(reaching.any(axis=0), np.argmax(reaching, axis=0), best)
        if held_out[chosen, folds].sum() / recalls.shape[1] >= target_recall:
            break
    return min(1.0, float(wanted))


def _measure(
    snapshot: Snapshot,
    queries: TokenVectors,
    exact: NDArray[np.int64],
    tried: _Tried,
    timed: NDArray[np.int64],
    num_threads: int,
) -> TuningPoint:
    settings, k = tried.settings, exact.shape[1]
    rows = search(snapshot, queries, k, settings, None, None, num_threads)[1]
    hits = [np.isin(mine[mine >= 0], wanted).sum() for mine, wanted in zip(rows, exact, strict=True)]
    recalls = np.array(hits) / np.maximum((exact >= 0).sum(axis=1), 1)
    low, high = _interval(recalls)
    seconds, stages = [], []
    for row in timed.tolist():
        query = queries.select([row])
        begin = time.perf_counter()
        timings = search(snapshot, query, k, settings, None, None, 1)[2]
        seconds.append(time.perf_counter() - begin)
        stages.append(timings)
    assert snapshot.cascade is not None
    return TuningPoint(
        settings,
        float(recalls.mean()),
        low,
        high,
        float(np.median(seconds)) * 1e3,
        {name: float(np.median([each[name] for each in stages])) * 1e3 for name in stages[0]},
        {f"rerank {name}": width for name, width in zip(snapshot.cascade.names, tried.num_scored, strict=True)},
    )


def _interval(recalls: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of shares, by Wilson: of few, or of equal ones, it is no point.

    Shares vary less than a yes or no of the same mean does: by so much more each of them counts.
    """
    n, mean = len(recalls), float(recalls.mean())
    variance = float(recalls.var(ddof=1)) if n > 1 else 0.0
    worth = n * max(1.0, mean * (1 - mean) / variance) if variance > 0 else float(n)
    z = 1.96**2 / worth
    centre, half = (mean + z / 2) / (1 + z), (z * (mean * (1 - mean) + z / 4)) ** 0.5 / (1 + z)
    return max(0.0, centre - half), min(1.0, centre + half)


def _some(items: TokenVectors, size: int) -> NDArray[np.int64]:
    """Return at most so many of the rows of items with vectors, spread evenly."""
    rows = np.flatnonzero(items.lengths)
    return rows[spread(len(rows), size)]


def _seconds(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
