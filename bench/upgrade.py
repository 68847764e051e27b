"""Upgrades without encoding documents again: `python -m bench upgrade DATA OTHER`.

DATA holds an old encoder's vectors of a collection, OTHER a new one's of the same documents and queries; dims may
differ. Each gets a learned reducer, and its encodings a binarizer. The new one's queries search the old one's codes: of
a binarizer that was fitted to be compatible, and of one that was not; and of half as many bits.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import chamfer as ch
from bench import record
from bench.data import Data, load
from bench.search_results import overlap
from chamfer.training import fit_binarizer

DEPTH = 100
_EXACT = 10  # of MaxSim, to be found
_SEED = 0
_OTHER_SEED = 1  # than the default of fit_binarizer
_QUICK_DOCUMENTS = 400


@dataclass(frozen=True)
class Side:
    """What one encoder gives: encodings by its own reducer, and the exact top 10 by MaxSim of its vectors."""

    documents: NDArray[np.float32]
    queries: NDArray[np.float32]
    sample: NDArray[np.float32]
    exact: list[list[int]]

    @property
    def pairs(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sample queries, and the document of the highest inner product of each."""
        return self.sample, self.documents[np.argmax(self.sample @ self.documents.T, axis=1)]


def run(
    *,
    data: Path,
    other: Path,
    bits: int,
    loops: int,
    output_dimension: int,
    threads: int,
    quick: bool,
    output: Path | None,
) -> None:
    """Measure, print a table and write a JSON file."""
    name = f"{data.resolve().name}_{other.resolve().name}"
    result = measure(data, other, 32 if quick else bits, loops, 64 if quick else output_dimension, threads, quick=quick)
    print_rows(result)
    record.finish(result, output, None if quick else f"upgrade_{name}")


def measure(
    data: Path, other: Path, bits: int, loops: int, output_dimension: int, threads: int, *, quick: bool
) -> dict[str, Any]:
    """Return rows of who searches what, and what they were measured on."""
    old_data, new_data = load(data), load(other)
    for part in ("document_ids", "query_ids", "sample_from"):
        if getattr(old_data, part) != getattr(new_data, part):
            raise SystemExit(f"OTHER: expected {part} as in DATA: the same documents and queries, by another encoder")
    if quick:
        old_data, new_data = (_first(part, _QUICK_DOCUMENTS) for part in (old_data, new_data))
    settings = {
        "data": data.resolve().name,
        "other": other.resolve().name,
        "bits": bits,
        "loops": loops,
        "output_dimension": output_dimension,
        "depth": DEPTH,
        "threads": threads,
        "quick": quick,
    }
    result = record.begin("upgrade", settings)
    result["shapes"] = {
        "num_documents": len(old_data.documents),
        "old_dim": old_data.documents.dim,
        "new_dim": new_data.documents.dim,
        "num_queries": len(old_data.queries),
        "num_sample_queries": len(old_data.sample_queries or ()),
    }
    judged = _judged(old_data) or _judged(new_data)
    old, new = (_side(part, output_dimension, threads, quick=quick) for part in (old_data, new_data))
    del old_data, new_data
    fitted_in: dict[str, float] = {}
    epochs = 1 if quick else 10

    def fit(what: str, side: Side, **arguments: Any) -> ch.RecurrentBinarizer:
        begin = time.perf_counter()
        binarizer = fit_binarizer(
            side.documents,
            pairs=side.pairs if len(side.sample) >= 64 else None,
            loops=loops,
            epochs=epochs,
            num_threads=threads,
            **arguments,
        )
        fitted_in[what] = time.perf_counter() - begin
        print(f"{what}: {fitted_in[what]:.0f} s", file=sys.stderr, flush=True)
        return binarizer

    first = fit("old", old, bits=bits)
    compatible = fit("new", new, bits=bits, compatible_with=first, old_x=old.documents)
    # Of one seed both would start from one random rotation, and their codes agree as far as their principal axes do.
    free = fit("new, not compatible", new, bits=bits, seed=_OTHER_SEED)
    half = fit("old of half the bits", old, bits=bits // 2)
    grown = fit("old encoder, all bits", old, bits=bits, compatible_with=half, old_x=old.documents)
    both = fit("new encoder, all bits", new, bits=bits, compatible_with=half, old_x=old.documents)

    def codes(binarizer: ch.RecurrentBinarizer, side: Side) -> ch.RecurrentCodes:
        return binarizer.encode(side.documents, num_threads=threads)

    def asked(binarizer: ch.RecurrentBinarizer, side: Side) -> ch.RecurrentCodes:
        return binarizer.encode_queries(side.queries, num_threads=threads)

    def found(queries: ch.RecurrentCodes, documents: ch.RecurrentCodes) -> NDArray[np.int64]:
        return ch.sdc_topk(queries, documents, DEPTH, num_threads=threads)[1]

    def strangers() -> NDArray[np.int64]:
        """Search codes that the queries' were not fitted to, which sdc_topk refuses."""
        queries = asked(free, new)
        queries.fingerprint = None
        return found(queries, codes(first, old))

    def mixed(share: float, *, standardized: bool = True) -> NDArray[np.int64]:
        parts = (codes(compatible, new), codes(first, old))
        return _mixed(asked(compatible, new), parts, share, threads, standardized=standardized)

    rows = {
        "old → old": found(asked(first, old), codes(first, old)),
        "new → old": found(asked(compatible, new), codes(first, old)),
        "new → new": found(asked(compatible, new), codes(compatible, new)),
        "new → a half new, a half old": mixed(0.5),
        "new → a tenth new, the rest old": mixed(0.1),
        "the same, as similarities are": mixed(0.1, standardized=False),
        "new, not compatible → old": strangers(),
        "new, not compatible → new": found(asked(free, new), codes(free, new)),
        f"old, {bits // 2} bits → old, {bits // 2} bits": found(asked(half, old), codes(half, old)),
        f"old, {bits} bits → old, {bits // 2} bits": found(asked(grown, old), codes(half, old)),
        f"old, {bits} bits → old, {bits} bits": found(asked(grown, old), codes(grown, old)),
        f"new, {bits} bits → old, {bits // 2} bits": found(asked(both, new), codes(half, old)),
        f"new, {bits} bits → new, {bits} bits": found(asked(both, new), codes(both, new)),
    }
    truths = {"old": old.exact, "new": new.exact}
    result["rows"] = [
        {
            "search": name,
            **{f"R10@{DEPTH} of {of}": overlap(best.tolist(), exact) for of, exact in truths.items()},
            f"judged@{DEPTH}": _found_judged(best, judged),
        }
        for name, best in rows.items()
    ]
    result["floats"] = {
        of: overlap(np.argsort(-(side.queries @ side.documents.T), axis=1)[:, :DEPTH].tolist(), side.exact)
        for of, side in (("old", old), ("new", new))
    }
    result["fit_seconds"] = fitted_in
    return result


def _first(data: Data, size: int) -> Data:
    return replace(
        data, documents=data.documents.select(np.arange(size)), document_ids=data.document_ids[:size], qrels={}
    )


def _side(data: Data, output_dimension: int, threads: int, *, quick: bool) -> Side:
    sizes = {"num_features": 512, "num_samples": 4096} if quick else {}
    reducer = ch.LearnedReducer(data.documents.dim, output_dimension=output_dimension, **sizes)
    reducer.fit(data.documents, queries=data.sample_queries, num_threads=threads)
    sample = np.empty((0, output_dimension), np.float32)
    if data.sample_queries is not None:
        sample = reducer.encode_queries(data.sample_queries, num_threads=threads)
    exact = ch.maxsim_topk(data.queries, data.documents, _EXACT, num_threads=threads)[1]
    documents = reducer.encode_documents(data.documents, num_threads=threads)
    return Side(documents, reducer.encode_queries(data.queries, num_threads=threads), sample, exact.tolist())


def _mixed(
    queries: ch.RecurrentCodes,
    parts: tuple[ch.RecurrentCodes, ch.RecurrentCodes],
    share: float,
    threads: int,
    *,
    standardized: bool,
) -> NDArray[np.int64]:
    """Return what is found when a random share of the documents has new codes, the first part, and the others old ones.

    Similarities with codes of two binarizers differ in mean and spread; standardized, each query's own are taken off.
    """
    is_new = np.random.default_rng(_SEED).permutation(len(parts[0])) < share * len(parts[0])
    scores, rows = [], []
    for codes, kept in zip(parts, (is_new, ~is_new), strict=True):
        places = np.flatnonzero(kept)
        all_scores, some = ch.sdc_topk(queries, codes._select(places), len(places), num_threads=threads)
        if standardized:
            all_scores -= all_scores.mean(axis=1, keepdims=True)
            all_scores /= all_scores.std(axis=1, keepdims=True)
        scores.append(all_scores[:, :DEPTH])
        rows.append(places[some[:, :DEPTH]])
    order = np.argsort(-np.concatenate(scores, axis=1), axis=1, kind="stable")[:, :DEPTH]
    return np.take_along_axis(np.concatenate(rows, axis=1), order, axis=1)


def _judged(data: Data) -> list[list[int]]:
    rows = {name: row for row, name in enumerate(data.document_ids)}
    return (
        [
            [rows[name] for name, grade in data.qrels.get(query, {}).items() if grade > 0 and name in rows]
            for query in data.query_ids
        ]
        if data.qrels
        else []
    )


def _found_judged(best: NDArray[np.int64], judged: list[list[int]]) -> float | None:
    some = [i for i, rows in enumerate(judged) if rows]
    return overlap(best[some].tolist(), [judged[i] for i in some]) if some else None


def print_rows(result: dict[str, Any]) -> None:
    settings = result["settings"]
    title = f"{settings['data']} → {settings['other']}, {settings['bits']} bits, {settings['loops'] + 1} a number"
    table = Table(title=title)
    for name in result["rows"][0]:
        table.add_column(name, justify="left" if name == "search" else "right")
    for row in result["rows"]:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value or "–") for value in row.values()))
    record.console().print(table)
