"""Whether tuning keeps its word on queries that it did not see: `python -m bench tune DATA`.

An index is built with the sample queries; the test queries are parted at random, many times. Each time one half tunes
for a recall, and the other half is searched: how far from the target that lands, in the mean and by part, and how much
of that is chance, which any choice of so few queries has.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import chamfer as ch
from bench import record
from bench.data import load
from bench.search_results import K

TARGETS = (0.9, 0.95, 0.98)
TOLERANCE = 0.01


def run(*, data: list[Path], splits: int, threads: int, quick: bool, output: Path | None) -> dict[str, Any]:
    """Measure each collection, print a table, write a JSON file."""
    settings = {"data": [folder.resolve().name for folder in data], "k": K, "splits": splits}
    result = record.begin("tune", settings | {"threads": threads})
    result["rows"] = []
    for folder in data:
        collection = load(folder, 40 if quick else None)
        index = ch.Index.build(collection.documents, queries=collection.sample_queries, num_threads=threads)
        exact = index.search(collection.queries, K, exact=True, num_threads=threads).ids
        for target in TARGETS[1:2] if quick else TARGETS:
            row = _row(index, collection.queries, exact, target, 2 if quick else splits, threads)
            result["rows"].append({"data": folder.resolve().name, **row})
            print(result["rows"][-1], file=sys.stderr, flush=True)
    _print(result)
    record.finish(result, output, None if quick else "tune")
    return result


def _row(index: ch.Index, queries: ch.TokenVectors, exact: Any, target: float, splits: int, threads: int) -> Any:
    random = np.random.default_rng(0)
    claimed, landed, errors, milliseconds, reached = [], [], [], [], []
    for _ in range(splits):
        order = random.permutation(len(queries))
        mine, other = np.split(order, [len(queries) // 2])
        report = index.tune(queries.select(mine), target, K, num_threads=threads)
        found = index.search(queries.select(other), K, num_threads=threads).ids
        recalls = np.array([np.isin(exact[row], ids).mean() for row, ids in zip(other, found, strict=True)])
        claimed.append(report.points[report.chosen].recall)
        milliseconds.append(report.points[report.chosen].milliseconds)
        reached.append(report.reached)
        landed.append(float(recalls.mean()))
        errors.append(float(recalls.std(ddof=1)) / len(other) ** 0.5)
    misses = np.array(landed) - target
    return {
        "target": target,
        "queries": len(queries),
        "reached": float(np.mean(reached)),
        "claimed": float(np.mean(claimed)),
        "landed": float(np.mean(landed)),
        "landed_low": float(np.min(landed)),
        "landed_high": float(np.max(landed)),
        "within_tolerance": float((np.abs(misses) <= TOLERANCE).mean()),
        "root_mean_square_miss": float(np.sqrt((misses**2).mean())),
        "standard_error": float(np.mean(errors)),
        "median_ms": float(np.median(milliseconds)),
    }


def _print(result: dict[str, Any]) -> None:
    out = record.console()
    record.print_head(result, out)
    table = Table(title=f"recall@{K} of the half that did not tune, {result['settings']['splits']} random halves")
    columns = ("data", "target", "queries", "claimed", "landed", "lowest", "highest")
    for name in (*columns, f"within {TOLERANCE:g}", "rms miss", "its standard error", "ms"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        shown = [row["data"], f"{row['target']:g}", str(row["queries"])]
        shown += [f"{row[name]:.3f}" for name in ("claimed", "landed", "landed_low", "landed_high")]
        shown += [f"{row['within_tolerance']:.0%}", f"{row['root_mean_square_miss']:.4f}"]
        table.add_row(*shown, f"{row['standard_error']:.4f}", f"{row['median_ms']:.2f}")
    out.print(table)
