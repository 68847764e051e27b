"""Recall and speed of a whole search on real token vectors.

DATA is laid out as bench/__init__.py says. Encodings of 20 repetitions, 5 hyperplanes, 16 dims: as published
(center=False) and centred, in both layouts. R10@N is the share of the exact MaxSim top 10 among the N documents with
the highest inner product of encodings.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import chamfer as ch
from bench import record
from bench.cases import NUM_REPETITIONS, NUM_SIMHASH_PROJECTIONS, PROJECTION_DIMENSION
from bench.data import Data, load
from bench.measure import progress

K = 10
NUM_CANDIDATES = (100, 500)
_NUMPY_QUERIES = 5


def run(*, data: Path, num_queries: int | None, dtype: str, quick: bool, output: Path | None) -> dict[str, Any]:
    """Measure everything, print it, write it; return what was written."""
    name = data.resolve().name
    if quick:
        num_queries = min(num_queries or 10, 10)
    settings = {"data": name, "num_queries": num_queries, "dtype": dtype, "quick": quick, "k": K}
    result = record.begin("search", settings)
    collection = load(data, dtype, num_queries)
    result["shapes"] = {
        "num_documents": len(collection.documents),
        "num_tokens": collection.documents.num_tokens,
        "dim": collection.documents.dim,
        "num_queries": len(collection.queries),
        "query_lengths": [int(collection.queries.lengths.min()), int(collection.queries.lengths.max())],
        "sample_queries": len(collection.sample_queries),
        "queries_mean_from": "test queries" if collection.sample_queries is collection.queries else "queries.train",
    }
    exact_rows = ch.maxsim_topk(collection.queries, collection.documents, K)[1]
    result["exact"] = measure_exact(collection, exact_rows)
    rows = []
    for layout, center in [("paper", True)] if quick else [(x, y) for x in ("paper", "google") for y in (False, True)]:
        title = f"fde {layout}, {'centred' if center else 'as published'}"
        rows.append(
            {
                "name": title,
                "layout": layout,
                "center": center,
                **measure_index(collection, exact_rows, fitted_encoder(collection, layout, center), title),
            }
        )
    result |= {"rows": rows, "figures": figures(rows)}
    print_search(result)
    record.finish(result, output, None if quick else f"search_{name}")
    return result


def fitted_encoder(data: Data, layout: Any, center: bool) -> ch.FixedDimensionalEncoder:
    """Return the encoder of one row, fitted."""
    encoder = ch.FixedDimensionalEncoder(
        data.documents.dim,
        num_repetitions=NUM_REPETITIONS,
        num_simhash_projections=NUM_SIMHASH_PROJECTIONS,
        projection_dimension=PROJECTION_DIMENSION,
        layout=layout,
        center=center,
    )
    return encoder.fit(data.documents, data.sample_queries) if center else encoder


# ── measurements ────────────────────────────────────────────────────────────────────────────────────────────────────


def measure_exact(data: Data, exact_rows: NDArray[np.int64]) -> dict[str, Any]:
    """Time exact search over all documents, chamfer and NumPy by turns, query by query, one thread."""
    seconds: dict[str, list[float]] = {"chamfer": [], "numpy": []}
    flat = data.documents.vectors.astype(np.float32, copy=False)

    def numpy_search(query: NDArray[Any]) -> NDArray[Any]:
        scores = np.maximum.reduceat(query @ flat.T, data.documents.offsets[:-1], axis=1).sum(axis=0)
        return np.argsort(-scores, kind="stable")[:K]

    some = min(len(data.queries), _NUMPY_QUERIES)
    for i in progress(range(some), "exact search, chamfer and NumPy"):
        query = data.queries.select([i])
        seconds["chamfer"].append(_seconds(lambda: ch.maxsim_topk(query, data.documents, K, num_threads=1)))  # noqa: B023
        seconds["numpy"].append(_seconds(lambda: numpy_search(query[0])))  # noqa: B023
    begin = time.perf_counter()
    ch.maxsim_topk(data.queries, data.documents, K, num_threads=1)
    batch = (time.perf_counter() - begin) / len(data.queries)
    return {
        "ms_per_query": float(np.median(seconds["chamfer"]) * 1e3),
        "ms_per_query_in_batch": batch * 1e3,
        "numpy_ms_per_query": float(np.median(seconds["numpy"]) * 1e3),
        "times_as_fast_as_numpy": float(np.median(np.divide(seconds["numpy"], seconds["chamfer"]))),
        "num_timed_queries": some,
        f"ndcg@{K}": ndcg(data, [[data.document_ids[row] for row in rows if row >= 0] for rows in exact_rows]),
    }


def measure_index(
    data: Data, exact_rows: NDArray[np.int64], encoder: ch.FixedDimensionalEncoder, title: str
) -> dict[str, Any]:
    """Build one index, search it by turns in all settings, and compare with the exact answer."""
    begin = time.perf_counter()
    encodings = encoder.encode_documents(data.documents, num_threads=1)
    encode_us = (time.perf_counter() - begin) / len(data.documents) * 1e6
    scores = encoder.encode_queries(data.queries, num_threads=1) @ encodings.T
    order = np.argsort(-scores, axis=1, kind="stable")
    recall = {f"R{K}@{n}": overlap(order[:, :n], exact_rows) for n in NUM_CANDIDATES}
    encoding_bytes = encodings.nbytes
    del encodings, scores

    begin = time.perf_counter()
    index = ch.Index.build(data.documents, data.document_ids, reducer=encoder)
    build_seconds = time.perf_counter() - begin
    single: dict[int, list[float]] = {n: [] for n in NUM_CANDIDATES}
    stages: dict[int, list[dict[str, float]]] = {n: [] for n in NUM_CANDIDATES}
    index.search(data.queries.select([0]), K, num_threads=1)
    for i in progress(range(len(data.queries)), title):
        query = data.queries.select([i])
        for n in NUM_CANDIDATES:
            begin = time.perf_counter()
            found = index.search(query, K, num_candidates=n, num_threads=1)
            single[n].append(time.perf_counter() - begin)
            stages[n].append(dict(found.timings))
    exact_ids = np.array(data.document_ids, object)[exact_rows]
    exact_ids[exact_rows < 0] = None
    searches = []
    for n in NUM_CANDIDATES:
        batches = {threads: _search(index, data, n, threads) for threads in (1, 2)}
        one, two = batches[1][1], batches[2][1]
        assert (one.ids == two.ids).all(), f"{title}: ids differ between 1 and 2 threads"
        assert (one.scores == two.scores).all(), f"{title}: scores differ between 1 and 2 threads"
        searches.append(
            {
                "num_candidates": n,
                f"recall@{K}": overlap(one.ids, exact_ids),
                f"ndcg@{K}": ndcg(data, one.ids.tolist()),
                "median_ms": float(np.median(single[n]) * 1e3),
                "p99_ms": float(np.percentile(single[n], 99) * 1e3),
                "stage_median_ms": {
                    stage: float(np.median([timings[stage] for timings in stages[n]]) * 1e3) for stage in stages[n][0]
                },
                "kept": dict(one.kept),
                "batch_ms_per_query": {str(threads): seconds * 1e3 for threads, (seconds, _) in batches.items()},
                "same_with_two_threads": True,
            }
        )
    return {
        **recall,
        "encode_documents_us": encode_us,
        "build_seconds": build_seconds,
        "bytes_per_token": index.stats()["bytes_per_token"],
        "encoding_bytes_per_document": encoding_bytes / len(data.documents),
        "candidates": index.stats()["candidates"],
        "searches": searches,
    }


def _search(index: Any, data: Data, num_candidates: int, num_threads: int) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = index.search(data.queries, K, num_candidates=num_candidates, num_threads=num_threads)
    return (time.perf_counter() - begin) / len(data.queries), found


def _seconds(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def overlap(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the mean share of each row of `wanted` that is in that row of `found`; -1 and None do not count."""
    shares = []
    for mine, exact in zip(found.tolist(), wanted.tolist(), strict=True):
        there = {item for item in exact if item not in (-1, None)}
        shares.append(len(there & set(mine)) / len(there))
    return float(np.mean(shares))


def ndcg(data: Data, ids: list[list[str]]) -> float | None:
    """Return nDCG@10 over the judged queries by ir-measures; None without judgements or without ir-measures."""
    try:
        import ir_measures
    except ImportError:
        return None
    if not data.qrels:
        return None
    run = {
        query: {document: float(-rank) for rank, document in enumerate(found) if document is not None}
        for query, found in zip(data.query_ids, ids, strict=True)
    }
    return float(ir_measures.calc_aggregate([ir_measures.nDCG @ K], data.qrels, run)[ir_measures.nDCG @ K])


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures to reach on SciFact beside what was measured here."""
    centred = [row for row in rows if row["center"]]
    found = []
    for name, values, target in (
        (f"centred FDE, the worse layout: R{K}@100", [row[f"R{K}@100"] for row in centred], 0.78),
        (
            f"Index.search, centred, rerank of 500, the worse layout: recall@{K}",
            [s[f"recall@{K}"] for row in centred for s in row["searches"] if s["num_candidates"] == 500],
            0.94,
        ),
    ):
        if values:
            worst = min(values)
            found.append({"name": name, "measured": worst, "target": f">= {target}", "met": worst >= target})
    return found


def print_search(result: dict[str, Any]) -> None:
    out = record.console()
    record.print_head(result, out)
    out.print(f"{result['settings']['data']}: {result['shapes']}")
    table = Table()
    for title in ("reducer", f"R{K}@100", f"R{K}@500", "rerank", f"recall@{K}", f"nDCG@{K}", "ms median", "p99"):
        table.add_column(title, justify="left" if title == "reducer" else "right")
    for title in ("ms in batch", "B/token vectors", "+ candidates", "build s"):
        table.add_column(title, justify="right")

    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    for row in result["rows"]:
        stored = row["bytes_per_token"]
        for i, s in enumerate(row["searches"]):
            head = [row["name"], number(row[f"R{K}@100"], 3), number(row[f"R{K}@500"], 3)] if i == 0 else [""] * 3
            tail = [number(v, 1) for v in (*stored.values(), row["build_seconds"])] if i == 0 else [""] * 3
            table.add_row(
                *head,
                str(s["num_candidates"]),
                number(s[f"recall@{K}"], 3),
                number(s[f"ndcg@{K}"], 3),
                number(s["median_ms"], 2),
                number(s["p99_ms"], 2),
                number(s["batch_ms_per_query"]["1"], 2),
                *tail,
            )
    exact = result["exact"]
    table.add_row(
        *["exact MaxSim", "1.000", "1.000", "all", "1.000", number(exact[f"ndcg@{K}"], 3)],
        *[number(exact["ms_per_query"], 2), "-", number(exact["ms_per_query_in_batch"], 2), "", "", ""],
    )
    table.add_row(
        "exact MaxSim, NumPy", *["1.000", "1.000", "all", "1.000", "", number(exact["numpy_ms_per_query"], 2)]
    )
    out.print(table)
    record.print_figures(result, out)
