"""How good an answer is: against the exact one, and against judgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from chamfer.evaluation.trec import Run


def recall_against_exact(found_ids: ArrayLike, exact_ids: ArrayLike) -> float:
    """Return the mean share of the exact top k that was found.

    Args:
        found_ids: shape (num_queries, m), int64 with -1 for none, or str with None for none; the order does not matter.
        exact_ids: shape (num_queries, k), likewise, the `ids` of a search with `exact=True`. With m larger than k this
            is the recall of the top k among m candidates.

    Returns:
        A number from 0 to 1. A query whose exact answer is empty does not count.

    Raises:
        ValueError: an array is not 2-D, the numbers of queries differ, or no query has an exact answer.
    """
    found, exact = np.asarray(found_ids), np.asarray(exact_ids)
    for name, array in (("found_ids", found), ("exact_ids", exact)):
        if array.ndim != 2:
            raise ValueError(f"{name}: expected shape (num_queries, k), got {array.shape}")
    if len(found) != len(exact):
        raise ValueError(f"found_ids: expected {len(exact)} queries as exact_ids, got {len(found)}")
    shares = []
    for found_row, exact_row in zip(found, exact, strict=True):
        wanted = _present(exact_row)
        if wanted:
            shares.append(len(wanted & _present(found_row)) / len(wanted))
    if not shares:
        raise ValueError("exact_ids: expected at least one query with an answer, got none")
    return float(np.mean(shares))


def make_run(query_ids: Sequence[Any], ids: ArrayLike, scores: ArrayLike) -> Run:
    """Return a search's answers as scores by query id and document id, all ids as str.

    Args:
        query_ids: one per query.
        ids: shape (num_queries, k), as in `SearchResult.ids`; -1 and None are left out.
        scores: shape (num_queries, k), as in `SearchResult.scores`.

    Raises:
        ValueError: shapes differ, or a query id comes twice.
    """
    id_rows, score_rows = np.asarray(ids), np.asarray(scores)
    if id_rows.ndim != 2 or id_rows.shape != score_rows.shape or len(query_ids) != len(id_rows):
        raise ValueError(
            f"ids: expected shape ({len(query_ids)}, k), one row per query id, and scores alike, "
            f"got {id_rows.shape} and {score_rows.shape}"
        )
    run: Run = {}
    for query_id, row, values in zip(query_ids, id_rows.tolist(), score_rows.tolist(), strict=True):
        if str(query_id) in run:
            raise ValueError(f"query_ids: expected all different, got {query_id!r} twice")
        run[str(query_id)] = {str(i): value for i, value in zip(row, values, strict=True) if i is not None and i != -1}
    return run


def evaluate(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = ("nDCG@10",),
) -> dict[str, float]:
    """Return measures of a run by judgements, computed by ir-measures.

    Args:
        run: scores by query id and document id, see `make_run`.
        qrels: grades by query id and document id, see `read_qrels`.
        measures: names as ir-measures spells them, such as "nDCG@10", "RR@10", "R@100", "AP".

    Returns:
        The mean over the judged queries by measure; one that the run lacks counts as 0.

    Raises:
        ModuleNotFoundError: ir-measures is not installed.
        ValueError: an unknown measure, or no query of the run is judged (the ids do not fit).
    """
    try:
        import ir_measures
    except ImportError:
        raise ModuleNotFoundError('evaluate needs ir-measures: pip install "chamfer[cli]"') from None
    if not any(query_id in qrels for query_id in run):
        known, given = next(iter(qrels), None), next(iter(run), None)
        raise ValueError(f"qrels: expected judgements of the run's queries (such as {given!r}), got others ({known!r})")
    parsed = []
    for name in measures:
        try:
            parsed.append(ir_measures.parse_measure(name))
        except (NameError, ValueError, SyntaxError) as error:  # noqa: PERF203  # names which one
            raise ValueError(f"measures: expected names such as nDCG@10, got {name!r} ({error})") from None
    values = ir_measures.calc_aggregate(parsed, qrels, run)
    return {name: float(values[measure]) for name, measure in zip(measures, parsed, strict=True)}


def _present(ids: Any) -> set[Any]:
    return {i for i in ids.tolist() if i is not None and i != -1}
