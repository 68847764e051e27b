"""How building and searching grow with the collection: `python -m bench scale DATA`.

Parts of a collection, drawn at random, and collections grown from it are built and searched, each in processes of their
own: seconds and memory at its highest of building, milliseconds of a search as it comes and as tuned for recall@10 of
0.95, of the latter also with the token vectors out of the system's cache, and the exponents with which they grow.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import chamfer as ch
from bench import record
from bench.data import load
from bench.search_results import K, overlap
from bench.worker import THREAD_SETTINGS, memory_bytes

SIZES = (2_500, 5_000, 10_000, 20_000, 40_000)
TARGET = 0.95
_MOST_QUERIES = 300
_EXACT_TOKENS = 2e9  # document tokens times queries that the exact answer is found for
_CHUNK = 4_000
_COLD_QUERIES = 40


def run(*, data: Path, documents: list[int] | None, threads: int, quick: bool, output: Path | None) -> dict[str, Any]:
    """Measure each size, print a table, write a JSON file."""
    name = data.resolve().name
    collection = load(data)
    sizes = documents or [size for size in SIZES if size <= len(collection.documents)] or [len(collection.documents)]
    if quick:
        sizes = [100, 200]
    result = record.begin("scale", {"data": name, "k": K, "target_recall": TARGET, "build_threads": threads})
    result["rows"] = []
    with tempfile.TemporaryDirectory(prefix="chamfer-scale-") as scratch:
        for size in sizes:
            folder = Path(scratch) / str(size)
            folder.mkdir()
            write_part(collection.documents, size, folder)
            for side in ("queries", "sample_queries"):
                items = getattr(collection, side)
                if items is not None:
                    np.save(folder / f"{side}.npy", items.vectors)
                    np.save(folder / f"{side}.offsets.npy", items.offsets)
            row = {"documents": size, "grown": size > len(collection.documents)}
            for step in ("build", "search"):
                arguments = json.dumps({"step": step, "folder": str(folder), "threads": threads})
                command = [sys.executable, "-m", "bench.scale", arguments]
                environment = {**os.environ, **dict.fromkeys(THREAD_SETTINGS, str(threads))}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                row |= json.loads(done.stdout)
                print(size, step, row, file=sys.stderr, flush=True)
            result["rows"].append(row)
            for file in folder.rglob("*"):
                if file.is_file():
                    file.unlink()
    result["exponents"] = exponents(result["rows"])
    print_scale(result)
    record.finish(result, output, None if quick else f"scale_{name}")
    return result


def write_part(documents: ch.TokenVectors, size: int, folder: Path) -> None:
    """Write `size` documents in half precision: drawn from these, or, if these are too few, grown from them.

    A grown document has 40 to 100 % of the tokens of one, up to 40 % of them exchanged for those of another, and noise
    of a tenth of their length. Memory is that of one chunk.
    """
    random = np.random.default_rng(0)
    grows = size > len(documents)
    rows = (
        random.choice(np.flatnonzero(documents.lengths), size)
        if grows
        else np.sort(random.permutation(len(documents))[:size])
    )
    lengths = documents.lengths[rows]
    if grows:
        lengths = np.maximum(1, np.rint(lengths * random.uniform(0.4, 1.0, size))).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shape = (int(offsets[-1]), documents.dim)
    out = np.lib.format.open_memmap(folder / "documents.npy", "w+", np.float16, shape)  # type: ignore[no-untyped-call]
    for begin in range(0, size, _CHUNK):
        part = rows[begin : begin + _CHUNK]
        chunk = (
            [_grown(documents, row, n, random) for row, n in zip(part, lengths[begin:], strict=False)]
            if grows
            else [documents[int(row)] for row in part]
        )
        out[offsets[begin] : offsets[begin + len(part)]] = np.concatenate(chunk)
    out.flush()
    np.save(folder / "offsets.npy", offsets)


def _grown(documents: ch.TokenVectors, row: int, length: int, random: np.random.Generator) -> Any:
    vectors = np.asarray(documents[int(row)], np.float32)
    vectors = vectors[np.sort(random.permutation(len(vectors))[:length])]
    other = documents[int(random.integers(0, len(documents)))]
    exchanged = min(len(other), int(random.uniform(0, 0.4) * len(vectors)))
    vectors[random.permutation(len(vectors))[:exchanged]] = other[random.permutation(len(other))[:exchanged]]
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors += random.standard_normal(vectors.shape, np.float32) * norms * np.float32(0.1 / vectors.shape[1] ** 0.5)
    return vectors * (norms / np.linalg.norm(vectors, axis=1, keepdims=True))


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the slope of the logarithm of each measurement over that of the number of documents."""
    if len(rows) < 2:
        return {}
    sizes = np.log([row["documents"] for row in rows])
    names = ("build_seconds", "build_peak_bytes", "default_ms", "tuned_ms", "exact_ms")
    return {name: float(np.polyfit(sizes, np.log([row[name] for row in rows]), 1)[0]) for name in names}


def print_scale(result: dict[str, Any]) -> None:
    """Print the table."""
    out = record.console()
    record.print_head(result, out)
    table = Table(title=f"{result['settings']['data']}: searches of one query at a time on one thread")
    columns = (
        "documents",
        "tokens",
        "build s",
        "peak GB",
        "B/token in RAM",
        "default ms",
        "recall",
        "tuned ms",
        "recall",
        "cold ms",
    )
    for name in (*columns, "candidates", "exact ms"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        numbers = [f"{row['documents']:,}{' grown' if row['grown'] else ''}", f"{row['tokens']:,}"]
        numbers += [
            f"{row['build_seconds']:.0f}",
            f"{row['build_peak_bytes'] / 1e9:.2f}",
            f"{row['bytes_per_token']:.1f}",
        ]
        for kind in ("default", "tuned"):
            numbers += [f"{row[f'{kind}_ms']:.2f}", f"{row[f'{kind}_recall']:.3f}"]
        numbers.append("-" if row["cold_ms"] is None else f"{row['cold_ms']:.1f}")
        table.add_row(*numbers, str(row["tuned_candidates"]), f"{row['exact_ms']:.1f}")
    slopes = result["exponents"]
    if slopes:
        table.add_row(
            *["exponent", "", f"{slopes['build_seconds']:.2f}", f"{slopes['build_peak_bytes']:.2f}", ""],
            *[f"{slopes['default_ms']:.2f}", "", f"{slopes['tuned_ms']:.2f}", "", "", "", f"{slopes['exact_ms']:.2f}"],
        )
    out.print(table)


# ── a process of its own for each step ──────────────────────────────────────────────────────────────────────────────


def _read(folder: Path, name: str) -> ch.TokenVectors | None:
    if not (folder / f"{name}.npy").exists():
        return None
    return ch.TokenVectors(np.load(folder / f"{name}.npy"), np.load(folder / f"{name}.offsets.npy"))


def _build(folder: Path, threads: int) -> dict[str, Any]:
    vectors = np.load(folder / "documents.npy", mmap_mode="r").view(np.ndarray)
    documents = ch.TokenVectors(vectors, np.load(folder / "offsets.npy"))
    begin = time.perf_counter()
    ch.Index.build(documents, queries=_read(folder, "sample_queries"), path=folder / "index", num_threads=threads)
    return {
        "tokens": documents.num_tokens,
        "build_seconds": time.perf_counter() - begin,
        "build_peak_bytes": memory_bytes("VmHWM"),
    }


def _search(folder: Path, threads: int) -> dict[str, Any]:
    index = ch.Index.open(folder / "index")
    queries = _read(folder, "queries")
    assert queries is not None
    stats = index.stats()
    most = int(min(_MOST_QUERIES, max(40, _EXACT_TOKENS // stats["num_tokens"])))
    queries = queries.select(np.random.default_rng(1).permutation(len(queries))[:most])
    half = len(queries) // 2
    to_tune, to_test = queries.select(np.arange(half)), queries.select(np.arange(half, len(queries)))
    exact = index.search(to_test, K, exact=True, num_threads=threads).ids
    found: dict[str, Any] = {
        "queries": len(to_test),
        "bytes_per_token": sum(v for name, v in stats["bytes_per_token"].items() if name != "token_vectors"),
        "exact_ms": _median_ms(index, to_test.select(np.arange(min(5, len(to_test)))), exact=True),
    }
    for kind in ("default", "tuned"):
        if kind == "tuned":
            report = index.tune(to_tune, TARGET, K, num_threads=threads)
            found |= {"tuned_candidates": report.settings.num_candidates, "reached": report.reached}
        result = index.search(to_test, K, num_threads=threads)
        found[f"{kind}_recall"] = overlap(result.ids.tolist(), exact.tolist())
        found[f"{kind}_ms"] = _median_ms(index, to_test)
    found["cold_ms"] = _cold_ms(index, folder / "index", to_test.select(np.arange(min(_COLD_QUERIES, len(to_test)))))
    return found


def _cold_ms(index: ch.Index, path: Path, queries: ch.TokenVectors) -> float | None:
    """Return the median with no token vector in memory: it is read from the disk. None where a system cannot forget."""
    (file,) = path.rglob("documents.chamfer")
    mapped: Any = index.get(index.search(queries.select([0]), 1).ids[0, 0])
    while not isinstance(mapped, mmap.mmap):
        mapped = mapped.obj if isinstance(mapped, memoryview) else mapped.base
    if not hasattr(os, "posix_fadvise") or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    seconds = []
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        for i in range(len(queries)):
            mapped.madvise(mmap.MADV_DONTNEED)  # the cache keeps what is mapped
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            begin = time.perf_counter()
            index.search(queries.select([i]), K, num_threads=1)
            seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)) * 1e3


def _median_ms(index: ch.Index, queries: ch.TokenVectors, **arguments: Any) -> float:
    seconds = []
    for i in range(len(queries)):
        query = queries.select([i])
        begin = time.perf_counter()
        index.search(query, K, num_threads=1, **arguments)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)) * 1e3


if __name__ == "__main__":
    _arguments = json.loads(sys.argv[1])
    _steps = {"build": _build, "search": _search}
    print(json.dumps(_steps[_arguments["step"]](Path(_arguments["folder"]), _arguments["threads"])))
