"""Kinds of FAISS index on the same encodings: `python -m bench candidates DATA...`.

Each kind is trained, filled and searched for 500 candidates, one query at a time on one thread, and its candidates are
compared with the exact answer and with those of Flat. HNSW graphs are linked as chamfer's are, by inner product, and by
distance over encodings made equally long by one more coordinate, each in every order of insertion.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import chamfer as ch
from bench import record
from bench.data import Data, load
from bench.search_results import K, overlap
from chamfer.candidates import FaissCandidates, local_dimensions
from chamfer.index.filling import INSERTION_ORDERS, auto_candidates

WIDTHS = (100, 500)
"""Candidates that recall is taken of; the most are searched for."""

# One more coordinate, and zeros, so that FAISS's loops over 8 or 16 numbers have no rest.
_MORE = 16
_NEIGHBOURHOOD = 16_384


@dataclass(frozen=True)
class Kind:
    """An index to measure: a factory string, lists to probe, how its graph is linked and filled."""

    description: str
    probes: tuple[int, ...] = ()
    equal_length: bool = False
    order: str = "input"

    @property
    def name(self) -> str:
        """What the table calls it."""
        order = "" if self.order == "input" else f", {self.order}"
        return self.description + (" by distance" if self.equal_length else "") + order


def run(
    *, data: list[Path], reducers: list[str], num_queries: int, threads: int, quick: bool, output: Path | None
) -> list[dict[str, Any]]:
    """Measure each collection, print a table for each reducer, write a JSON file."""
    results = []
    for folder in data:
        name = folder.resolve().name
        collection = load(folder, 20 if quick else None)
        settings = {"data": name, "k": K, "widths": WIDTHS, "fit_threads": threads, "num_queries": num_queries}
        result = record.begin("candidates", settings)
        documents = collection.documents.select(np.arange(400)) if quick else collection.documents
        # Queries of a joined collection come in its parts' order.
        chosen = np.random.default_rng(1).permutation(len(collection.queries))[:num_queries]
        queries = collection.queries.select(chosen)
        _, exact = ch.maxsim_topk(queries, documents, K, num_threads=threads)
        result["shapes"] = {"documents": len(documents), "tokens": documents.num_tokens, "queries": len(queries)}
        result["rows"] = []
        for reducer in reducers:
            encoder = _fitted(reducer, documents, collection, threads, quick)
            encodings = encoder.encode_documents(documents, num_threads=threads)
            asked = encoder.encode_queries(queries, num_threads=threads)
            auto = auto_candidates(len(documents), encoder)
            result["rows"] += [{"reducer": reducer, **row} for row in rows_of(encodings, asked, exact, auto)]
        print_candidates(result)
        several = output is not None and len(data) > 1
        record.finish(
            result, output / f"candidates_{name}.json" if several else output, None if quick else f"candidates_{name}"
        )
        results.append(result)
    return results


def _fitted(reducer: str, documents: ch.TokenVectors, collection: Data, threads: int, quick: bool) -> Any:
    if reducer == "fde":
        small = {"num_repetitions": 1, "num_simhash_projections": 3} if quick else {}
        return ch.FixedDimensionalEncoder(documents.dim, **small).fit(documents, collection.sample_queries)
    few = {"output_dimension": 64, "num_features": 256, "num_samples": 2_048} if quick else {}
    encoder = ch.LearnedReducer(documents.dim, **few)
    return encoder.fit(documents, collection.sample_queries, num_threads=threads)


def kinds(num_documents: int, dim: int, auto: str) -> list[Kind]:
    """Return what is measured on so many encodings; what "auto" stands for is among them."""
    num_lists = max(1, min(int(4 * num_documents**0.5), num_documents // 39))
    probes = tuple(dict.fromkeys(max(1, num_lists // part) for part in (16, 8, 4)))
    scans = ["Flat", "SQfp16", "SQ8", "SQ4", f"PQ{dim}x4fs", f"PQ{dim // 2}x4fs", "RaBitQ"]
    found = [Kind(scan) for scan in scans]
    found += [Kind(auto)] if auto not in scans else []
    found.append(Kind(f"IVF{num_lists},PQ{dim}x4fs", probes))
    for equal_length in (False, True):
        found += [Kind("HNSW32", equal_length=equal_length, order=order) for order in INSERTION_ORDERS]
        found.append(Kind("HNSW32,SQ8", equal_length=equal_length))
    return found


def rows_of(
    encodings: NDArray[np.float32], asked: NDArray[np.float32], exact: NDArray[np.int64], auto: str
) -> Iterator[dict[str, Any]]:
    """Return a row for each kind, and for each number of lists that it probes."""
    flat: list[list[int]] = []
    most = min(WIDTHS[-1], len(encodings))
    for kind in kinds(len(encodings), encodings.shape[1], auto):
        begin = time.perf_counter()
        candidates = built(kind, encodings)
        build_seconds = time.perf_counter() - begin
        for probes in kind.probes or (None,):
            found, ms = _searched(candidates, asked, most, probes)
            flat = flat or found  # the first kind
            yield {
                "kind": kind.name,
                "nprobe": probes,
                "auto": kind.description == auto,
                "bytes_per_document": candidates.nbytes / len(encodings),
                "build_seconds": build_seconds,
                "median_ms": ms,
                **{f"recall@{width}": overlap([row[:width] for row in found], exact.tolist()) for width in WIDTHS},
                "agreement": overlap([row[: WIDTHS[0]] for row in found], [row[: WIDTHS[0]] for row in flat]),
                "agreement_of_all": overlap(found, flat),
                "unreachable": unreachable(candidates),
            }


def _searched(
    candidates: FaissCandidates, asked: NDArray[np.float32], most: int, nprobe: int | None
) -> tuple[list[list[int]], float]:
    """Return the rows of each query, and the median of milliseconds."""
    found, seconds = [], []
    candidates.search(asked[:1], most, 1, nprobe)
    for i in range(len(asked)):
        begin = time.perf_counter()
        _, rows = candidates.search(asked[i : i + 1], most, 1, nprobe)
        seconds.append(time.perf_counter() - begin)
        found.append(rows[0].tolist())
    return found, float(np.median(seconds)) * 1e3


def built(kind: Kind, encodings: NDArray[np.float32]) -> FaissCandidates:
    """Return a kind trained and filled on one thread."""
    dim = encodings.shape[1]
    candidates = (
        EquallyLong(kind.description, encodings) if kind.equal_length else FaissCandidates(kind.description, dim)
    )
    if not candidates.is_trained:
        candidates.train(encodings, 1)
    if kind.order == "input":
        candidates.add(encodings, 1)
    else:
        rows = insertion_rows(kind.order, encodings)
        candidates.add(encodings[rows], 1, rows)
    return candidates


def insertion_rows(order: str, encodings: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return rows in an order as `Index.build` inserts them in."""
    if order == "random":
        return np.random.default_rng(0).permutation(len(encodings))
    sample = encodings[np.linspace(0, len(encodings) - 1, min(len(encodings), _NEIGHBOURHOOD)).astype(np.int64)]
    dimensions = local_dimensions(encodings, sample, 1)
    return np.argsort(dimensions if order == "lid_asc" else -dimensions, kind="stable")


class EquallyLong(FaissCandidates):
    """A FAISS index of L2 distances, nearest being largest in inner product: all encodings have one length R.

    An encoding x gets one more coordinate, sqrt(R² - |x|²), R being the largest length, and a query q gets 0: their
    squared distance is |q|² + R² - 2 q·x.
    """

    def __init__(self, description: str, encodings: NDArray[np.float32]) -> None:
        self.description = description
        self._index = faiss.index_factory(encodings.shape[1] + _MORE, description, faiss.METRIC_L2)
        self._nbytes = None
        self._square = float(_squares(encodings).max())

    def train(self, encodings: NDArray[np.float32], num_threads: int) -> None:
        """As FaissCandidates."""
        super().train(self._lengthened(encodings), num_threads)

    def add(self, encodings: NDArray[np.float32], num_threads: int, rows: NDArray[np.int64] | None = None) -> None:
        """As FaissCandidates."""
        super().add(self._lengthened(encodings), num_threads, rows)

    def search(
        self, encodings: NDArray[np.float32], num_candidates: int, num_threads: int, nprobe: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As FaissCandidates."""
        distances, rows = super().search(np.pad(encodings, ((0, 0), (0, _MORE))), num_candidates, num_threads, nprobe)
        scores = (_squares(encodings)[:, None] + np.float32(self._square) - distances) / 2
        return np.where(rows < 0, -np.inf, scores), rows

    def _lengthened(self, encodings: NDArray[np.float32]) -> NDArray[np.float32]:
        longer = np.pad(encodings, ((0, 0), (0, _MORE)))
        longer[:, encodings.shape[1]] = np.sqrt(np.maximum(self._square - _squares(encodings), 0))
        return longer


def _squares(encodings: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.einsum("ij,ij->i", encodings, encodings)


def unreachable(candidates: FaissCandidates) -> float | None:
    """Return the share of documents that links of the lowest level do not lead to from the entry; None: no graph."""
    index = candidates._index
    if isinstance(index, faiss.IndexIDMap):
        index = faiss.downcast_index(index.index)
    if not isinstance(index, faiss.IndexHNSW):
        return None
    graph = index.hnsw
    begins = faiss.vector_to_array(graph.offsets)[:-1].astype(np.int64)
    links = faiss.vector_to_array(graph.neighbors)[begins[:, None] + np.arange(graph.nb_neighbors(0))]
    reached = np.zeros(len(links), bool)
    border = np.array([graph.entry_point])
    while len(border):
        reached[border] = True
        border = np.unique(links[border])
        border = border[border >= 0]
        border = border[~reached[border]]
    return float((~reached).mean())


def print_candidates(result: dict[str, Any]) -> None:
    """Print a table for each reducer."""
    out = record.console()
    record.print_head(result, out)
    out.print(f"{result['settings']['data']}: {result['shapes']}")
    for reducer in dict.fromkeys(row["reducer"] for row in result["rows"]):
        table = Table(title=f"{reducer}: {WIDTHS[-1]} candidates of one query at a time on one thread")
        columns = ["B/document", "build s", "ms", *(f"R{K}@{width}" for width in WIDTHS)]
        table.add_column("candidates")
        for name in (*columns, f"as Flat's {WIDTHS[0]}", f"{WIDTHS[-1]}", "unreachable"):
            table.add_column(name, justify="right")
        for row in (row for row in result["rows"] if row["reducer"] == reducer):
            probes = "" if row["nprobe"] is None else f" probing {row['nprobe']}"
            table.add_row(
                row["kind"] + probes + (" (auto)" if row["auto"] else ""),
                f"{row['bytes_per_document']:.0f}",
                f"{row['build_seconds']:.1f}",
                f"{row['median_ms']:.3f}",
                *[f"{row[f'recall@{width}']:.3f}" for width in WIDTHS],
                f"{row['agreement']:.3f}",
                f"{row['agreement_of_all']:.3f}",
                "" if row["unreachable"] is None else f"{row['unreachable']:.2%}",
            )
        out.print(table)
