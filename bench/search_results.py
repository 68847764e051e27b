"""What searches found, compared with the exact answer: rows, figures to reach, and the table of `bench search`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from bench import record

if TYPE_CHECKING:
    from bench.data import Data
    from bench.search import Point

K = 10
"""Results of a timed search."""
DEPTH = 100
"""Results of the deep search, which only recall is taken of."""

_RECALL = f"recall@{K}"


def row_of(point: Point, system: dict[str, Any], data: Data, exact: NDArray[np.int64]) -> dict[str, Any]:
    """Return one row: a system at a point with a number of threads.

    Milliseconds are of searches for the best 10, one query at a time; recalls over the queries that were asked.
    """
    ms, tokens = np.array(point.seconds[K]) * 1e3, data.documents.num_tokens
    resident = system.get("resident_bytes", {}).get(str(point.num_threads))
    batch = np.median(point.batch_seconds) / len(data.queries) * 1e3 if point.batch_seconds else None
    return {
        "system": point.system,
        "version": system["version"],
        "point": label(point.arguments),
        "arguments": point.arguments,
        "threads": point.num_threads,
        "num_queries": len(point.queries),
        **{f"recall@{k}": overlap(point.rows[k], exact[point.queries, :k].tolist()) for k in (K, DEPTH)},
        f"ndcg@{K}": ndcg(data, point.queries, point.rows[K]),
        "median_ms": float(np.median(ms)),
        "p99_ms": float(np.percentile(ms, 99)),
        f"median_ms_of_{DEPTH}": float(np.median(point.seconds[DEPTH]) * 1e3),
        "batch_ms_per_query": None if batch is None else float(batch),
        "build_seconds": system["build_seconds"],
        "open_seconds": system["open_seconds"][str(point.num_threads)],
        "resident_bytes_per_token": None if resident is None else resident / tokens,
        "disk_bytes_per_token": system["disk_bytes"] / tokens,
    }


def label(arguments: dict[str, Any]) -> str:
    """Return a point's arguments in short: "num_candidates=100" is "100"."""
    values = [str(value) for value in arguments.values()]
    return " / ".join(values) if values else "all"


def overlap(found: list[list[int]], wanted: list[list[int]]) -> float:
    """Return the mean share of each row of `wanted` that is in that row of `found`; -1 does not count."""
    shares = []
    for mine, exact in zip(found, wanted, strict=True):
        there = set(exact) - {-1}
        shares.append(len(there & set(mine)) / len(there))
    return float(np.mean(shares))


def ndcg(data: Data, queries: list[int], rows: list[list[int]]) -> float | None:
    """Return nDCG@10 over the judged ones of these queries by ir-measures; None without judgements or ir-measures."""
    try:
        import ir_measures
    except ImportError:
        return None
    names = [data.query_ids[i] for i in queries]
    qrels = {name: data.qrels[name] for name in names if name in data.qrels}
    if not qrels:
        return None
    run = {
        name: {data.document_ids[row]: float(-rank) for rank, row in enumerate(found) if row >= 0}
        for name, found in zip(names, rows, strict=True)
    }
    return float(ir_measures.calc_aggregate([ir_measures.nDCG @ K], qrels, run)[ir_measures.nDCG @ K])


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many times as fast chamfer is at the recall of each other system, where it is so least.

    At each point of theirs, chamfer's fastest one with at least that recall counts, the exact one among them.
    """
    found = []
    for threads in dict.fromkeys(row["threads"] for row in rows):
        there = [row for row in rows if row["threads"] == threads]
        ours = [row for row in there if is_ours(row["system"])]
        for system in dict.fromkeys(row["system"] for row in there if not is_ours(row["system"])):
            times = {}
            for theirs in (row for row in there if row["system"] == system):
                as_good = [row["median_ms"] for row in ours if row[_RECALL] >= theirs[_RECALL]]
                if as_good:
                    times[theirs["median_ms"] / min(as_good)] = theirs[_RECALL]
            if times:
                least = min(times)
                name = f"times as fast as {system} with {threads} threads, least at recall {times[least]:.3f}"
                found.append({"name": name, "measured": least, "target": ">= 1", "met": least >= 1})
    return found


def is_ours(system: str) -> bool:
    """Return whether a system is chamfer in one way or another."""
    return "chamfer" in system


def print_search(result: dict[str, Any]) -> None:
    """Print a table for each number of threads, and what was skipped."""
    out = record.console()
    record.print_head(result, out)
    out.print(f"{result['settings']['data']}: {result['shapes']}")
    for threads in dict.fromkeys(row["threads"] for row in result["rows"]):
        load = next(x for x in result["loads"] if x["threads"] == threads)
        title = f"{threads} threads on {load['cpus']} CPUs, one query at a time"
        title += f"; load {_load(load['before'])} before, {_load(load['after'])} after"
        table = Table(title=title)
        for name in ("system", "point", f"recall@{K}", f"@{DEPTH}", f"nDCG@{K}", "ms", "p99", "ms in batch"):
            table.add_column(name, justify="left" if name in ("system", "point") else "right")
        for name in ("build s", "B/token in RAM", "on disk"):
            table.add_column(name, justify="right")
        system = None
        for row in (row for row in result["rows"] if row["threads"] == threads):
            few = "" if row["num_queries"] == result["shapes"]["num_queries"] else f" ({row['num_queries']} queries)"
            first = row["system"] != system
            system = row["system"]
            sizes = [(row["build_seconds"], 1), (row["resident_bytes_per_token"], 0), (row["disk_bytes_per_token"], 0)]
            table.add_row(
                f"{system} {row['version']}" if first else "",
                row["point"] + few,
                *[_number(row[name], 3) for name in (f"recall@{K}", f"recall@{DEPTH}", f"ndcg@{K}")],
                *[_number(row[name], 2) for name in ("median_ms", "p99_ms", "batch_ms_per_query")],
                *[_number(value, digits) if first else "" for value, digits in sizes],
            )
        out.print(table)
    for skip in result["skipped"]:
        out.print(f"skipped: {skip['name']}: {skip['reason']}", markup=False)
    record.print_figures(result, out)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _load(load: list[float] | None) -> str:
    return "unknown" if load is None else f"{load[0]:.1f}"
