"""An index beside the exact answer and beside judgements, at several numbers of candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from chamfer.evaluation.latency import measure_searches
from chamfer.evaluation.measures import evaluate, make_run, recall_against_exact
from chamfer.token_vectors import TokenVectors

if TYPE_CHECKING:
    from chamfer.index import Index


def compare_with_exact(
    index: Index,
    queries: TokenVectors,
    k: int = 10,
    *,
    num_candidates: Sequence[int] | None = None,
    query_ids: Sequence[Any] | None = None,
    qrels: Mapping[str, Mapping[str, int]] | None = None,
    measures: Sequence[str] | None = None,
    num_threads: int = 1,
    advance: Callable[[float], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Answer queries one at a time, exactly and with several numbers of candidates, and compare.

    Args:
        index: the index to judge.
        queries: a collection of queries of its dim, at least one.
        k: documents per query.
        num_candidates: numbers to try, each at least k. None means 1, 5, 10 and 50 times k. What exceeds the number of
            documents counts as that number.
        query_ids: one per query, as the judgements name them; None means the rows, 0 to n - 1.
        qrels: grades by query id and document id; None leaves the judged measures out.
        measures: names as ir-measures spells them; None means nDCG@10 and R@k.
        num_threads: threads of one search.
        advance: called with the share of the work done since the last call; the shares add up to 1.

    Returns:
        A row per kind of search, the exact one first: "candidates" ("exact", "as tuned" if the index has settings, or
        the number), "recall@k", the judged measures, and median milliseconds by stage ("encode ms", "total ms", ...).

    Raises:
        ModuleNotFoundError: qrels are given and ir-measures is not installed.
        ValueError: an argument does not fit the index, or no query is judged.
    """
    tried = sorted({min(n, len(index)) for n in num_candidates or (k, 5 * k, 10 * k, 50 * k)} - set(range(k)))
    refused = [n for n in num_candidates or () if n < k]
    if refused:
        raise ValueError(f"num_candidates: expected at least k = {k}, got {refused[0]}")
    search = partial(_search, index, queries, k, num_threads)
    searches = {"exact": partial(search, exact=True)}
    if index.settings.num_candidates is not None:
        searches["as tuned"] = search
    searches |= {str(n): partial(search, num_candidates=n) for n in tried}
    steps = len(searches) * len(queries)
    measured = measure_searches(searches, len(queries), advance=lambda: advance(1 / steps))
    names = range(len(queries)) if query_ids is None else query_ids
    rows = []
    for name, found in measured.items():
        row = {"candidates": name, f"recall@{k}": recall_against_exact(found.ids, measured["exact"].ids)}
        if qrels is not None:
            row |= evaluate(make_run(names, found.ids, found.scores), qrels, measures or ("nDCG@10", f"R@{k}"))
        rows.append(row | {f"{stage} ms": value for stage, value in found.milliseconds.items()})
    return rows


def _search(index: Index, queries: TokenVectors, k: int, num_threads: int, row: int, **options: Any) -> Any:
    return index.search(queries[row], k, num_threads=num_threads, **options)
