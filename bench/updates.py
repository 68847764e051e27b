"""What a changing index costs: `python -m bench updates DATA`.

Documents are added in batches to an index on disk, deleted, and searched meanwhile; an index that has grown tenfold is
compared with one that is built anew; filters of several selectivities are compared with exact search under the same
filter. With --file-bytes a token file of that size is grown from the collection, and built in bounded memory. Each step
runs in a process of its own, and adds on one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import chamfer as ch
from bench import record
from bench.data import Data, load
from bench.scale import write_part
from bench.search_results import K, overlap
from bench.worker import THREAD_SETTINGS, memory_bytes

SELECTIVITIES = (0.001, 0.01, 0.1, 0.5)
_BATCH = 256
_GROWTH = 10
_DELETED = 10_000
_SEARCH_SECONDS = 10.0
_MOST_QUERIES = 300


def run(*, data: Path, file_bytes: int | None, budget: str, quick: bool, output: Path | None) -> dict[str, Any]:
    """Measure, print tables, write a JSON file."""
    name = data.resolve().name
    result = record.begin("updates", {"data": name, "k": K, "batch": _BATCH, "budget": budget})
    with tempfile.TemporaryDirectory(prefix="chamfer-updates-") as scratch:
        steps = ["add_fde", "add_learned", "delete", "open", "filters", "meanwhile", "growth"]
        for step in steps:
            result[step] = _in_a_process(step, data, Path(scratch), quick)
        if file_bytes is not None:
            collection = load(data)
            tokens_each = collection.documents.num_tokens / len(collection.documents) * 0.7  # as write_part makes them
            size = int(file_bytes / (2 * collection.documents.dim * tokens_each))
            write_part(collection.documents, size, Path(scratch))
            if collection.sample_queries is not None:
                np.save(Path(scratch) / "sample.npy", collection.sample_queries.vectors)
                np.save(Path(scratch) / "sample.offsets.npy", collection.sample_queries.offsets)
            result["bounded"] = _in_a_process("bounded", data, Path(scratch), quick, budget)
    print_updates(result)
    record.finish(result, output, None if quick else f"updates_{name}")
    return result


def _in_a_process(step: str, data: Path, scratch: Path, quick: bool, budget: str = "") -> Any:
    arguments = json.dumps({"step": step, "data": str(data), "scratch": str(scratch), "quick": quick, "budget": budget})
    environment = {**os.environ, **dict.fromkeys(THREAD_SETTINGS, "2" if step == "bounded" else "1")}
    command = [sys.executable, "-m", "bench.updates", arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    print(step, found, file=sys.stderr, flush=True)
    return found


def print_updates(result: dict[str, Any]) -> None:
    """Print the tables."""
    out = record.console()
    record.print_head(result, out)
    table = Table(title=f"{result['settings']['data']}: an index that changes, one thread")
    for column in ("what", "measured"):
        table.add_column(column)
    for reducer in ("fde", "learned"):
        row = result[f"add_{reducer}"]
        what = f"add {row['documents']:,} documents, {_BATCH} at a time, {reducer} reducer"
        table.add_row(what, f"{row['tokens_per_second']:,.0f} tokens/s, {row['segments']} segments left")
    table.add_row(f"delete {result['delete']['documents']:,} ids", f"{result['delete']['seconds'] * 1e3:.0f} ms")
    table.add_row(f"open {result['open']['tokens']:,} tokens", f"{result['open']['milliseconds']:.1f} ms")
    row = result["meanwhile"]
    table.add_row("search p50, nobody writing", f"{row['idle_ms']:.2f} ms")
    table.add_row(
        f"search p50 while a process adds ({row['changes']} changes)",
        f"{row['busy_ms']:.2f} ms, {row['busy_ms'] / row['idle_ms']:.2f} times",
    )
    row = result["growth"]
    table.add_row(
        f"recall@{K} grown {_GROWTH} times by appends / compacted / built anew",
        f"{row['grown']:.3f} / {row['compacted']:.3f} / {row['anew']:.3f}",
    )
    if "bounded" in result:
        row = result["bounded"]
        table.add_row(
            f"build {row['bytes'] / 1e9:.2f} GB of vectors within {result['settings']['budget']}",
            f"peak {row['peak_bytes'] / 1e9:.2f} GB ({row['anonymous_bytes'] / 1e9:.2f} not mapped), "
            f"{row['seconds']:.0f} s, {row['segments']} segments",
        )
    out.print(table)
    table = Table(title="filters")
    for column in ("attribute", "selectivity", f"recall@{K}", "ms", "unfiltered ms", "times"):
        table.add_column(column, justify="right")
    for row in result["filters"]:
        table.add_row(
            row["attribute"],
            f"{row['selectivity']:.2%}",
            f"{row['recall']:.3f}",
            f"{row['ms']:.2f}",
            f"{row['unfiltered_ms']:.2f}",
            f"{row['ms'] / row['unfiltered_ms']:.2f}",
        )
    out.print(table)


# ── the steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _add(data: Data, scratch: Path, reducer: str) -> dict[str, Any]:
    """Build an index of a tenth, and add the rest in batches."""
    documents = data.documents
    first = max(1, len(documents) // _GROWTH)
    index = ch.Index.build(
        documents._run(0, first),
        path=scratch / f"add-{reducer}",
        reducer=reducer,
        num_threads=1,  # type: ignore[arg-type]
    )
    begin = time.perf_counter()
    for row in range(first, len(documents), _BATCH):
        end = min(row + _BATCH, len(documents))
        index.add(documents._run(row, end), range(row, end), num_threads=1)
    seconds = time.perf_counter() - begin
    tokens = documents.num_tokens - int(documents.offsets[first])
    return {
        "documents": len(documents) - first,
        "tokens_per_second": tokens / seconds,
        "segments": index.stats()["num_segments"],
    }


def _delete(_data: Data, scratch: Path) -> dict[str, Any]:
    with ch.Index.open(scratch / "add-fde", "a") as index:
        ids = np.random.default_rng(0).permutation(len(index))[: min(_DELETED, len(index) // 2)]
        begin = time.perf_counter()
        index.delete(ids)
        return {"documents": len(ids), "seconds": time.perf_counter() - begin}


def _whole(data: Data, scratch: Path) -> ch.Index:
    path = scratch / "whole"
    if not path.exists():
        numbers = _attributes(data.documents)
        ch.Index.build(data.documents, path=path, queries=data.sample_queries, metadata=numbers)
    return ch.Index.open(path)


def _open(data: Data, scratch: Path) -> dict[str, Any]:
    tokens = _whole(data, scratch).stats()["num_tokens"]
    seconds = []
    for _ in range(9):
        begin = time.perf_counter()
        ch.Index.open(scratch / "whole")
        seconds.append(time.perf_counter() - begin)
    return {"tokens": tokens, "milliseconds": float(np.median(seconds)) * 1e3}


def _p50(index: ch.Index, queries: ch.TokenVectors, seconds: float, **arguments: Any) -> float:
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < len(queries) or time.perf_counter() - began < seconds:
        query = queries.select([len(taken) % len(queries)])
        begin = time.perf_counter()
        index.refresh()
        index.search(query, K, num_threads=1, **arguments)
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken)) * 1e3


def _meanwhile(data: Data, scratch: Path, seconds: float) -> dict[str, Any]:
    """Search, refreshing before each query, while another process adds."""
    index = _whole(data, scratch)
    idle = _p50(index, data.queries, seconds)
    script = (
        "import sys, time, numpy as np, chamfer as ch\n"
        "index = ch.Index.open(sys.argv[1], 'a'); size = len(index); begin = time.perf_counter(); n = 0\n"
        f"while time.perf_counter() - begin < {seconds + 1}:\n"
        "    rows = [(64 * n + i) % size for i in range(64)]\n"
        "    index.add([index.get(row) for row in rows], [10**6 + 64 * n + i for i in range(64)], num_threads=1)\n"
        "    n += 1\n"
        "print(n)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, scratch / "whole"], stdout=subprocess.PIPE, text=True)
    time.sleep(2.0)  # until it has opened the index
    busy = _p50(index, data.queries, seconds - 1)
    changes = int(writer.communicate()[0])
    return {"idle_ms": idle, "busy_ms": busy, "changes": changes, "generations_seen": index.stats()["num_segments"]}


def _growth(data: Data, scratch: Path) -> dict[str, Any]:
    """Grow an index tenfold by appends, compact it, and compare with one built anew."""
    documents = data.documents
    order = np.random.default_rng(0).permutation(len(documents))
    size = len(order) // _GROWTH
    queries = data.queries.select(np.arange(min(_MOST_QUERIES, len(data.queries))))
    index = ch.Index.build(
        documents.select(order[:size]), order[:size], queries=data.sample_queries, path=scratch / "growing"
    )
    for begin in range(size, len(order), size):
        some = order[begin : begin + size]
        index.add(documents.select(some), some)
    exact = index.search(queries, K, exact=True).ids.tolist()
    found = {"documents": size, "grown": overlap(index.search(queries, K).ids.tolist(), exact)}
    begin_time = time.perf_counter()
    index.compact()
    found["compact_seconds"] = time.perf_counter() - begin_time
    found["compacted"] = overlap(index.search(queries, K).ids.tolist(), exact)
    anew = ch.Index.build(documents, queries=data.sample_queries)
    found["anew"] = overlap(anew.search(queries, K).ids.tolist(), exact)
    return found


def _attributes(documents: ch.TokenVectors) -> list[dict[str, Any]]:
    """Return what is real of any collection, how long documents are, as a rank; and a number drawn for each."""
    ranks = np.argsort(np.argsort(documents.lengths, kind="stable")) / len(documents)
    drawn = np.random.default_rng(0).permutation(len(documents)) / len(documents)
    return [{"length": float(a), "drawn": float(b)} for a, b in zip(ranks, drawn, strict=True)]


def _filters(data: Data, scratch: Path) -> list[dict[str, Any]]:
    index = _whole(data, scratch)
    queries = data.queries.select(np.arange(min(_MOST_QUERIES, len(data.queries))))
    unfiltered = _p50(index, queries, 0)
    rows = []
    for attribute in ("length", "drawn"):
        for share in SELECTIVITIES:
            condition = f"{attribute} >= 0.4 and {attribute} < {0.4 + share}"
            exact = index.search(queries, K, exact=True, filter=condition).ids
            found = index.search(queries, K, filter=condition).ids
            hits = [np.isin(a[a >= 0], b).mean() for a, b in zip(exact, found, strict=True) if (a >= 0).any()]
            rows.append(
                {
                    "attribute": attribute,
                    "selectivity": share,
                    "recall": float(np.mean(hits)),
                    "ms": _p50(index, queries, 0, filter=condition),
                    "unfiltered_ms": unfiltered,
                }
            )
    return rows


def _bounded(scratch: Path, budget: str) -> dict[str, Any]:
    """Build from a mapped file; nothing else is read into this process, whose memory is measured."""
    queries = None
    if (scratch / "sample.npy").exists():
        queries = ch.TokenVectors(np.load(scratch / "sample.npy"), np.load(scratch / "sample.offsets.npy"))
    vectors = np.load(scratch / "documents.npy", mmap_mode="r").view(np.ndarray)
    documents = ch.TokenVectors._trusted(vectors, np.load(scratch / "offsets.npy"))  # type: ignore[arg-type]
    begin = time.perf_counter()
    index = ch.Index.build(documents, path=scratch / "bounded", queries=queries, memory_budget=budget)
    return {
        "bytes": int(vectors.nbytes),
        "tokens": documents.num_tokens,
        "seconds": time.perf_counter() - begin,
        "peak_bytes": memory_bytes("VmHWM"),
        "anonymous_bytes": memory_bytes("RssAnon"),
        "segments": index.stats()["num_segments"],
    }


def _main(step: str, data: str, scratch: str, quick: bool, budget: str) -> Any:
    folder = Path(scratch)
    if step == "bounded":
        return _bounded(folder, budget)
    collection = load(Path(data), 20 if quick else None)
    if quick:
        collection = replace(collection, documents=collection.documents._run(0, min(400, len(collection.documents))))
    if step.startswith("add_"):
        return _add(collection, folder, step.removeprefix("add_"))
    if step == "meanwhile":
        return _meanwhile(collection, folder, 2.0 if quick else _SEARCH_SECONDS)
    steps = {"delete": _delete, "open": _open, "growth": _growth, "filters": _filters}
    return steps[step](collection, folder)


if __name__ == "__main__":
    print(json.dumps(_main(**json.loads(sys.argv[1]))))
