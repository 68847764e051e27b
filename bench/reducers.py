"""What reducers find by their encodings alone: `python -m bench reducers DATA`.

R10@n is how many of the exact top 10 by MaxSim are among the first n by inner products of encodings, kept as FAISS
codes of so many bytes a document: FDEs as published and centred, variants of them (see bench/fde_variants.py), and
learned encodings.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import chamfer as ch
from bench import record
from bench.data import Data, load
from bench.fde_variants import Shape, fit_variant
from bench.search_results import K, overlap
from chamfer.candidates import FaissCandidates

DEPTHS = (10, 50, 100, 500)
MOST_QUERIES = 300
_TIMED_QUERIES = 100
_TIMING_SECONDS = 2.0  # after which no further query is timed
_BITS = {"float32": ("Flat", 32), "8 bit": ("SQ8", 8), "4 bit": ("PQ{dim}x4fs", 4)}  # a number: FAISS's name, bits


class Encoder(Protocol):
    """What a row asks of a fitted reducer."""

    @property
    def output_dimension(self) -> int:
        """Numbers of an encoding."""

    def encode_documents(self, documents: ch.TokenVectors, *, num_threads: int = 1) -> NDArray[np.float32]:
        """Return an encoding per document."""

    def encode_queries(self, queries: ch.TokenVectors, *, num_threads: int = 1) -> NDArray[np.float32]:
        """Return an encoding per query."""


@dataclass(frozen=True)
class Contestant:
    """A reducer and the codes that its encodings are kept in.

    Attributes:
        name: of the row.
        fit: makes the reducer of a collection and its sample queries.
        codes: names out of _BITS, a row each.
        is_numpy: whether it is code of fde_variants.py, of which times tell nothing.
    """

    name: str
    fit: Callable[[Data], Encoder]
    codes: tuple[str, ...] = ("8 bit",)
    is_numpy: bool = False


def run(*, data: list[Path], only: list[str] | None, trained: bool, quick: bool, output: Path | None) -> None:
    """Measure each reducer on each collection, print a table and write a JSON file for each."""
    if output is not None and len(data) > 1 and output.suffix:
        raise SystemExit(f"--output: expected a folder for {len(data)} collections, got {output.name}")
    for folder in data:
        name = folder.resolve().name
        to = output / f"reducers_{name}.json" if output is not None and len(data) > 1 else output
        result = measure(folder, name, only, trained=trained, quick=quick)
        print_reducers(result)
        record.finish(result, to, None if quick or only else f"reducers_{name}")


def measure(folder: Path, name: str, only: list[str] | None, *, trained: bool, quick: bool) -> dict[str, Any]:
    """Return rows of one collection, and what they were measured on."""
    data = load(folder, 20 if quick else MOST_QUERIES)
    settings = {"data": name, "k": K, "depths": DEPTHS, "sample_from": data.sample_from, "quick": quick}
    result = record.begin("reducers", settings)
    result["shapes"] = {
        "num_documents": len(data.documents),
        "num_tokens": data.documents.num_tokens,
        "dim": data.documents.dim,
        "num_queries": len(data.queries),
        "num_query_tokens": data.queries.num_tokens,
        "num_sample_queries": len(data.sample_queries or ()),
    }
    exact = ch.maxsim_topk(data.queries, data.documents, K, num_threads=1)[1]
    result |= {"rows": [], "skipped": []}
    for contestant in contestants(data.documents.dim, trained=trained, quick=quick):
        if only is not None and not any(part in contestant.name for part in only):
            continue
        print(f"{name}: {contestant.name}", file=sys.stderr, flush=True)
        try:
            for row in rows_of(contestant, data, exact):
                result["rows"].append(row)
                print({key: row[key] for key in ("codes", *(f"R{K}@{n}" for n in DEPTHS))}, file=sys.stderr, flush=True)
        except ModuleNotFoundError as error:  # torch
            result["skipped"].append({"name": contestant.name, "reason": str(error)})
    return result


def rows_of(contestant: Contestant, data: Data, exact: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of code of a reducer."""
    begin = time.perf_counter()
    encoder = contestant.fit(data)
    fitted = time.perf_counter()
    documents = encoder.encode_documents(data.documents, num_threads=1)
    encoded = time.perf_counter()
    queries = encoder.encode_queries(data.queries, num_threads=1)
    times = {
        "fit_seconds": fitted - begin,
        "encode_us_per_document_token": (encoded - fitted) / data.documents.num_tokens * 1e6,
        "encode_us_per_query": _median_us(encoder, data.queries),
    }
    for codes in contestant.codes:
        factory, bits = _BITS[codes]
        candidates = FaissCandidates(factory.format(dim=encoder.output_dimension), encoder.output_dimension)
        if not candidates.is_trained:
            candidates.train(documents, 1)
        candidates.add(documents, 1)
        found = candidates.search(queries, max(DEPTHS), 1)[1]
        yield {
            "reducer": contestant.name,
            "codes": codes,
            "numbers": encoder.output_dimension,
            "bytes_per_document": -(-encoder.output_dimension * bits // 8),
            **{f"R{K}@{n}": overlap(found[:, :n].tolist(), exact.tolist()) for n in DEPTHS},
            **times,
            "engine": "NumPy" if contestant.is_numpy else "chamfer",
        }


def _median_us(encoder: Encoder, queries: ch.TokenVectors) -> float:
    seconds = []
    for i in range(min(_TIMED_QUERIES, len(queries))):
        query = queries.select([i])
        begin = time.perf_counter()
        encoder.encode_queries(query, num_threads=1)
        seconds.append(time.perf_counter() - begin)
        if sum(seconds) > _TIMING_SECONDS:
            break
    return float(np.median(seconds)) * 1e6


# ── what is measured ────────────────────────────────────────────────────────────────────────────────────────────────


_LARGE: Shape = (20, 5, 16)  # 10,240 numbers, the package's default
_SMALL: Shape = (8, 4, 16)  # 2,048

# FDEs of the package: shape, numbers of the final projection, codes.
_PLAIN: tuple[tuple[Shape, int | None, tuple[str, ...]], ...] = (
    (_LARGE, None, ("8 bit", "float32")),
    ((40, 5, 8), None, ("8 bit",)),
    ((20, 4, 32), None, ("8 bit",)),
    ((14, 3, 96), None, ("8 bit",)),
    (_SMALL, None, ("8 bit",)),
    ((32, 3, 8), None, ("8 bit",)),
    ((16, 2, 32), None, ("8 bit",)),
    (_LARGE, 2_048, ("8 bit",)),
    ((40, 5, 16), 2_048, ("8 bit",)),
    ((32, 4, 8), None, ("4 bit",)),
    ((8, 2, 16), None, ("8 bit",)),
)

# Variants: parts, shapes, codes; each alone beside the plain one of the same shape, then what pays together.
_VARIANTS: tuple[tuple[tuple[str, ...], tuple[Shape, ...], tuple[str, ...]], ...] = (
    *(
        ((part,), (_LARGE, _SMALL), ("8 bit",))
        for part in ("k-means", "whitened", "PCA", "orthogonal", "cell means", "fitted weights", "rarity")
    ),
    (("k-means",), ((20, 6, 8), (8, 5, 8)), ("8 bit",)),
    (("k-means", "orthogonal"), (_LARGE, _SMALL, (20, 6, 8), (8, 5, 8)), ("8 bit",)),
    (("k-means in 32 axes", "orthogonal"), ((20, 6, 8), (8, 5, 8)), ("8 bit",)),
    (("k-means", "orthogonal", "cell means"), (_LARGE, _SMALL, (20, 6, 8), (8, 5, 8), (4, 3, 16)), ("8 bit",)),
    (("k-means", "orthogonal", "fitted weights"), ((20, 6, 8), (8, 5, 8)), ("8 bit",)),
    (("k-means", "orthogonal", "cell means"), ((16, 5, 8),), ("4 bit",)),
)


def contestants(dim: int, *, trained: bool, quick: bool) -> list[Contestant]:
    """Return all reducers for vectors of so many dims; trained: those too whose features torch trains, in minutes."""
    return [*_fdes(dim, quick=quick), *_learned(dim, trained=trained, quick=quick)]


def _fdes(dim: int, *, quick: bool) -> Iterator[Contestant]:
    def fit(shape: Shape, *, queries: bool = True, **parameters: Any) -> Callable[[Data], Encoder]:
        num_repetitions, num_bits, num_rows = _tiny(shape) if quick else shape
        encoder = ch.FixedDimensionalEncoder(
            dim,
            num_repetitions=num_repetitions,
            num_simhash_projections=num_bits,
            projection_dimension=num_rows,
            **parameters,
        )
        return lambda data: encoder.fit(data.documents, data.sample_queries if queries else None)

    def fit_parts(parts: tuple[str, ...], shape: Shape, *, queries: bool = True) -> Callable[[Data], Encoder]:
        used = _tiny(shape) if quick else shape
        return lambda data: fit_variant(parts, used, data.documents, data.sample_queries if queries else None)

    yield Contestant(f"FDE as published {_label(_LARGE)}", fit(_LARGE, center=False), ("8 bit", "float32"))
    for shape, final, codes in _PLAIN:
        to = None if final is None or not quick else 8
        name = f"FDE {_label(shape)}" + (f" projected to {final:,}" if final else "")
        yield Contestant(name, fit(shape, final_projection_dimension=to or final), codes)
    yield Contestant(f"FDE {_label(_LARGE)}, no queries", fit(_LARGE, queries=False))
    for parts, shapes, codes in _VARIANTS:
        for shape in shapes:
            name = f"FDE {_label(shape)}, {', '.join(parts)}"
            yield Contestant(name, fit_parts(parts, shape), codes, is_numpy=True)
    best = ("k-means", "orthogonal")
    for shape in (_LARGE, (20, 6, 8)):
        name = f"FDE {_label(shape)}, {', '.join(best)}, no queries"
        yield Contestant(name, fit_parts(best, shape, queries=False), is_numpy=True)


def _label(shape: Shape) -> str:
    return f"{shape[0]}x2^{shape[1]}x{shape[2]}"


def _tiny(shape: Shape) -> Shape:
    return 2, min(shape[1], 2), min(shape[2], 4)


def _learned(dim: int, *, trained: bool, quick: bool) -> Iterator[Contestant]:
    shrink = 16 if quick else 1

    def fit(parameters: dict[str, int], *, queries: bool = True, train: bool = False) -> Callable[[Data], Encoder]:
        arguments: dict[str, Any] = {name: value // shrink for name, value in parameters.items()}

        def fitted(data: Data) -> Encoder:
            sample = data.sample_queries if queries else None
            features = _train(arguments["num_features"], data, sample, 2 if quick else 24) if train else None
            return ch.LearnedReducer(dim, features=features, **arguments).fit(data.documents, sample, num_threads=1)

        return fitted

    sizes = {"output_dimension": 512, "num_features": 4096, "num_samples": 32_768}
    for numbers in (256, 512, 1024):
        codes = ("4 bit", "8 bit", "float32") if numbers == 512 else ("4 bit", "8 bit")
        yield Contestant(f"learned {numbers}", fit(sizes | {"output_dimension": numbers}), codes)
    for numbers in (256, 512, 1024):
        name = f"learned {numbers}, no queries"
        yield Contestant(name, fit(sizes | {"output_dimension": numbers}, queries=False), ("4 bit",))
    few = sizes | {"num_features": 2048, "num_samples": 16_384}
    fewest = sizes | {"num_features": 1024}
    yield Contestant("learned 512, 1,024 features", fit(fewest), ("4 bit",))
    for queries, less in ((True, ""), (False, ", no queries")):
        name = f"learned 512, 2,048 features, 16,384 samples{less}"
        yield Contestant(name, fit(few, queries=queries), ("4 bit",))
        if trained:
            name = f"learned 512, 1,024 trained features{less}"
            yield Contestant(name, fit(fewest, queries=queries, train=True), ("4 bit",))


def _train(num_features: int, data: Data, queries: ch.TokenVectors | None, epochs: int) -> NDArray[np.float32]:
    from chamfer.training import fit_features

    return fit_features(data.documents, queries, num_features=num_features, epochs=epochs, num_threads=1)


def print_reducers(result: dict[str, Any]) -> None:
    """Print the table, and what was skipped."""
    out = record.console()
    record.print_head(result, out)
    shapes = result["shapes"]
    title = f"{result['settings']['data']}: {shapes['num_documents']:,} documents, {shapes['num_queries']} queries; "
    title += f"of the exact top {K} how many are among the first n; times of one thread, * of NumPy code"
    table = Table(title=title)
    for name in ("reducer", "codes", "numbers", "bytes", *(f"@{n}" for n in DEPTHS)):
        table.add_column(name, justify="left" if name in ("reducer", "codes") else "right")
    for name in ("fit s", "µs/token", "µs/query"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        star = "*" if row["engine"] == "NumPy" else ""
        table.add_row(
            row["reducer"],
            row["codes"],
            f"{row['numbers']:,}",
            f"{row['bytes_per_document']:,}",
            *[f"{row[f'R{K}@{n}']:.3f}" for n in DEPTHS],
            f"{row['fit_seconds']:.1f}",
            f"{row['encode_us_per_document_token']:.2f}{star}",
            f"{row['encode_us_per_query']:.0f}{star}",
        )
    out.print(table)
    for skip in result["skipped"]:
        out.print(f"skipped: {skip['name']}: {skip['reason']}", markup=False)
