"""How long a search takes: queries one at a time, as a user's come in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the index brings faiss, which whoever searches has loaded already
    from chamfer.index import SearchResult


@dataclass(frozen=True)
class MeasuredSearch:
    """What a kind of search answered, and how long it took.

    Attributes:
        ids: shape (num_queries, k), as in `SearchResult.ids`.
        scores: float32, shape (num_queries, k).
        milliseconds: median over the queries by stage, and "total", the whole call.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]
    milliseconds: dict[str, float]


def measure_searches(
    searches: Mapping[str, Callable[[int], SearchResult]],
    num_queries: int,
    *,
    rounds: int = 1,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, MeasuredSearch]:
    """Answer all queries one at a time by several kinds of search, and take the median time.

    Args:
        searches: by name, a function that searches for the query of a row and returns a result of one row.
        num_queries: rows 0 to num_queries - 1 are searched for.
        rounds: how often; the kinds take turns, so that what else the machine does falls on all of them.
        advance: called after each search, for a progress bar: rounds * num_queries * len(searches) times.

    Returns:
        Answers and times by name of the search.

    Raises:
        ValueError: there is no query.
    """
    if num_queries < 1:
        raise ValueError("queries: expected at least one, got none")
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in searches}
    results: dict[str, list[SearchResult]] = {name: [] for name in searches}
    for _ in range(rounds):
        for name, search in searches.items():
            search(0)  # brings its data into the caches
            results[name] = []
            for row in range(num_queries):
                begin = time.perf_counter()
                result = search(row)
                total = time.perf_counter() - begin
                seconds[name].append({**result.timings, "total": total})
                results[name].append(result)
                advance()
    return {
        name: MeasuredSearch(
            np.concatenate([result.ids for result in results[name]]),
            np.concatenate([result.scores for result in results[name]]),
            {stage: 1000 * float(np.median([s[stage] for s in seconds[name]])) for stage in seconds[name][0]},
        )
        for name in searches
    }
