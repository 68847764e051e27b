"""Binary codes beside what others keep in as few bytes: `python -m bench binary DATA...`.

Four parts: codes of learned encodings, of FDEs, and of token vectors, each found by codes alone and compared with the
exact top 10 by MaxSim; and whole searches, by the fewest candidates that reach a recall of 0.95 after reranking.
Everything is fitted, encoded and searched on one thread; what learns of queries learns of others than are asked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import chamfer as ch
from bench import binary_index, binary_methods, binary_tokens, record
from bench.binary_methods import DEPTHS
from bench.data import Data, load
from bench.search_results import K

MOST_QUERIES = 300
BUDGETS = (512, 1024)
"""Bits of a code in all, of codes that may have any size."""

# Of FDEs of 1,024 numbers, since peers and binarizers fit matrices of their square: R10@100 on SciFact is 0.637, and
# 0.430 of the default of 10,240 numbers projected to as many.
_FDE = {"num_repetitions": 8, "num_simhash_projections": 3, "projection_dimension": 16}
_EPOCHS = 10  # of fit_binarizer, its default

Named = TypeVar("Named", binary_methods.Method, binary_tokens.TokenMethod)


def run(*, data: list[Path], parts: list[str], only: list[str] | None, quick: bool, output: Path | None) -> None:
    """Measure each collection, print its tables and write a JSON file for each."""
    if output is not None and len(data) > 1 and output.suffix:
        raise SystemExit(f"--output: expected a folder for {len(data)} collections, got {output.name}")
    for folder in data:
        name = folder.resolve().name
        to = output / f"binary_{name}.json" if output is not None and len(data) > 1 else output
        result = measure(folder, name, parts, only, quick=quick)
        print_binary(result)
        is_whole = not (quick or only) and len(parts) == 4
        record.finish(result, to, f"binary_{name}" if is_whole else None)


def measure(folder: Path, name: str, parts: list[str], only: list[str] | None, *, quick: bool) -> dict[str, Any]:
    """Return rows of one collection, and what they were measured on."""
    data = load(folder, 20 if quick else MOST_QUERIES)
    if data.sample_queries is None:
        raise SystemExit(f"{name}: expected 3 queries or more, one of three to learn from, got {len(data.queries)}")
    settings = {
        "data": name,
        "k": K,
        "depths": DEPTHS,
        "budgets": _budgets(quick),
        "target_recall": binary_index.TARGET,
    }
    result = record.begin("binary", settings | {"sample_from": data.sample_from, "parts": parts, "quick": quick})
    result["shapes"] = {
        "num_documents": len(data.documents),
        "num_tokens": data.documents.num_tokens,
        "dim": data.documents.dim,
        "num_queries": len(data.queries),
        "num_sample_queries": len(data.sample_queries),
    }
    result |= {"rows": [], "tokens": [], "index": [], "skipped": []}
    exact = ch.maxsim_topk(data.queries, data.documents, K, num_threads=1)[1]
    for part in ("learned", "fde"):
        if part in parts:
            for row in vector_rows(part, data, exact, only, result["skipped"], quick=quick):
                result["rows"].append({"vectors": part, **row})
                _say(name, part, row)
    if "tokens" in parts:
        for method in _chosen(binary_tokens.token_methods(data.documents.dim), only):
            result["tokens"].append(binary_tokens.row_of(method, data, exact))
            _say(name, "tokens", result["tokens"][-1])
    if "index" in parts:
        try:
            result["index"] = index_rows(data, quick=quick)
        except ModuleNotFoundError as error:  # torch
            result["skipped"].append({"name": "index", "reason": str(error)})
    return result


def _say(name: str, part: str, row: dict[str, Any]) -> None:
    shown = ("method", "bits", "queries", "bytes_per_document", *(f"R{K}@{n}" for n in DEPTHS), "fit_seconds")
    print(name, part, {key: row[key] for key in shown if key in row}, file=sys.stderr, flush=True)


def _chosen(methods: Iterator[Named], only: list[str] | None) -> Iterator[Named]:
    return (method for method in methods if only is None or any(part in method.name for part in only))


def _budgets(quick: bool) -> tuple[int, ...]:
    return (32, 64) if quick else BUDGETS


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def vector_rows(
    part: str,
    data: Data,
    exact: NDArray[np.int64],
    only: list[str] | None,
    skipped: list[dict[str, str]],
    *,
    quick: bool,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each method on the encodings of one reducer."""
    reducer = _learned(data, quick=quick) if part == "learned" else _fde(data, quick=quick)
    assert data.sample_queries is not None
    documents = reducer.encode_documents(data.documents, num_threads=1)
    queries, sample = (reducer.encode_queries(asked, num_threads=1) for asked in (data.queries, data.sample_queries))
    nearest = binary_methods.top_rows(queries, documents, K)
    methods = binary_methods.methods(documents.shape[1], _budgets(quick), 1 if quick else _EPOCHS)
    for method in _chosen(methods, only):
        try:
            yield binary_methods.rows_of(method, documents, queries, sample, exact, nearest)
        except ModuleNotFoundError as error:  # noqa: PERF203  # torch
            skipped.append({"name": f"{part}: {method.name}", "reason": str(error)})


def _learned(data: Data, *, quick: bool) -> ch.LearnedReducer:
    few = {"output_dimension": 64, "num_features": 256, "num_samples": 2_048} if quick else {}
    return ch.LearnedReducer(data.documents.dim, **few).fit(data.documents, data.sample_queries, num_threads=1)


def _fde(data: Data, *, quick: bool) -> ch.FixedDimensionalEncoder:
    shape: dict[str, Any] = dict.fromkeys(_FDE, 2) | {"projection_dimension": 8} if quick else _FDE
    encoder = ch.FixedDimensionalEncoder(data.documents.dim, **shape)
    return encoder.fit(data.documents, data.sample_queries)


def index_rows(data: Data, *, quick: bool) -> list[dict[str, Any]]:
    """Return a row for each kind of candidates of learned encodings."""
    reducer = _learned(data, quick=quick)
    assert data.sample_queries is not None
    documents = reducer.encode_documents(data.documents, num_threads=1)
    sample = reducer.encode_queries(data.sample_queries, num_threads=1)
    binarizers = []
    for bits in _budgets(quick):
        loops = int(bits > documents.shape[1])  # a bit a number as long as there are numbers
        codes = binary_methods.RecurrentBits(bits, loops, 1 if quick else _EPOCHS)
        codes.fit(documents, sample)
        binarizers.append(codes.binarizer)
    candidates = binary_index.kinds(documents.shape[1], len(documents), binarizers)
    return binary_index.rows_of(reducer, documents, candidates, data)


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def print_binary(result: dict[str, Any]) -> None:
    """Print a table for each part, and what was skipped."""
    out = record.console()
    record.print_head(result, out)
    shapes, depths = result["shapes"], [f"R{K}@{n}" for n in DEPTHS]
    head = f"{result['settings']['data']}: {shapes['num_documents']:,} documents, {shapes['num_queries']} queries; "
    for part in dict.fromkeys(row["vectors"] for row in result["rows"]):
        columns = ("method", "bits", "queries", "bytes", "shared kB", *depths, f"floats' {K}", "fit s", "s/1,000", "ms")
        table = _table(head + f"{part} encodings by codes alone", columns)
        for row in (row for row in result["rows"] if row["vectors"] == part):
            table.add_row(
                row["method"],
                "" if row["bits"] is None else f"{row['bits']:,}",
                row["queries"],
                f"{row['bytes_per_document']:,}",
                f"{row['shared_bytes'] / 1e3:,.0f}",
                *[f"{row[name]:.3f}" for name in (*depths, "agreement")],
                f"{row['fit_seconds']:.1f}",
                f"{row['encode_seconds_per_1000']:.3f}",
                f"{row['search_ms']:.3f}",
            )
        out.print(table)
    if result["tokens"]:
        columns = ("method", "queries", "bytes/token", *depths, "fit, encode s/1,000", "ms")
        table = _table(head + "all scored by codes of token vectors alone; no ms where decoded vectors are", columns)
        for row in result["tokens"]:
            table.add_row(
                row["method"],
                row["queries"],
                f"{row['bytes_per_token']:.1f}",
                *[f"{row[name]:.3f}" for name in depths],
                f"{row['fit_and_encode_seconds_per_1000']:.4f}",
                "" if row["search_ms"] is None else f"{row['search_ms']:.1f}",
            )
        out.print(table)
    if result["index"]:
        target = f"{head}fewest candidates for recall@{K} >= {binary_index.TARGET} after reranking; bytes a document"
        columns = (
            "candidates",
            "bytes",
            "shared kB",
            "number",
            f"recall@{K}",
            "ms",
            "saved",
            "shared too",
            "50 % from",
        )
        table = _table(target, columns)
        for row in result["index"]:
            least = row["saved_from_documents"]
            table.add_row(
                row["candidates"] + ("" if row["nprobe"] is None else f" probing {row['nprobe']}"),
                f"{row['bytes_per_document']:.0f}",
                f"{row['shared_bytes'] / 1e3:,.0f}",
                f"{row['num_candidates']:,}",
                f"{row[f'recall@{K}']:.3f}",
                f"{row['median_ms']:.2f}",
                f"{row['saved']:.0%}",
                f"{row['saved_with_shared']:.0%}",
                "" if least is None else f"{least:,}",
            )
        out.print(table)
    for skip in result["skipped"]:
        out.print(f"skipped: {skip['name']}: {skip['reason']}", markup=False)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="left" if name in ("method", "queries", "candidates") else "right")
    return table
