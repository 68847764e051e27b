"""What candidates in few bytes save where a whole search is to find as much, for `python -m bench binary`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chamfer as ch
from bench.binary_methods import median_ms
from bench.data import Data
from bench.search_results import K, overlap
from chamfer.candidates import FaissCandidates
from chamfer.index import SearchSettings

TARGET = 0.95
BASELINE = "SQfp16"
"""What savings are of: encodings in half precision."""

Filled = FaissCandidates | ch.BinaryCandidates


def rows_of(
    reducer: ch.LearnedReducer, encodings: NDArray[np.float32], candidates: list[Filled], data: Data
) -> list[dict[str, Any]]:
    """Return a row for each kind of candidates: the fewest that reach the target after reranking, bytes, ms.

    Args:
        reducer: fitted, of the encodings.
        encodings: of the documents.
        candidates: empty; filled here, so that all share the encodings.
        data: the collection; the test queries choose how many candidates, alike for all kinds.
    """
    exact = ch.maxsim_topk(data.queries, data.documents, K, num_threads=1)[1]
    rows: list[dict[str, Any]] = []
    for kind in candidates:
        if not kind.is_trained:
            kind.train(encodings, 1)
        kind.add(encodings, 1)
        held = kind if isinstance(kind, ch.BinaryCandidates) else kind._index
        index = ch.Index.build(
            data.documents, reducer=reducer, candidates=held, queries=data.sample_queries, num_threads=1
        )
        for nprobe in probes(kind.num_lists):
            index.settings = SearchSettings(nprobe=nprobe)
            fewest, recall = fewest_candidates(index, data.queries, exact)
            if recall >= TARGET:
                break
        asked = [data.queries.select([i]) for i in range(len(data.queries))]
        ms = median_ms(partial(index.search, k=K, num_candidates=fewest, num_threads=1), asked)
        shared = kind.binarizer.nbytes if isinstance(kind, ch.BinaryCandidates) else 0
        rows.append(
            {
                "candidates": kind.description,
                "nprobe": nprobe,
                "bytes_per_document": (kind.nbytes - shared) / len(encodings),
                "shared_bytes": shared,
                "num_candidates": fewest,
                f"recall@{K}": recall,
                "median_ms": ms,
            }
        )
    base = next((row for row in rows if row["candidates"] == BASELINE), rows[0])
    for row in rows:
        of_all = [r["bytes_per_document"] + r["shared_bytes"] / len(encodings) for r in (row, base)]
        row["saved"] = 1 - row["bytes_per_document"] / base["bytes_per_document"]
        row["saved_with_shared"] = 1 - of_all[0] / of_all[1]
        row["saved_from_documents"] = break_even(row, base["bytes_per_document"])
    return rows


def probes(num_lists: int | None) -> tuple[int | None, ...]:
    """Return how many lists to try, the fewest first: a quarter, as by default, half, all; None: there are no lists."""
    return (None,) if num_lists is None else tuple(-(-num_lists // part) for part in (4, 2, 1))


def break_even(row: dict[str, Any], base: float) -> int | None:
    """Return the documents from which half of the bytes are saved, what is shared counted; None: never."""
    spare = base / 2 - row["bytes_per_document"]
    return int(np.ceil(row["shared_bytes"] / spare)) if spare > 0 else None


def fewest_candidates(index: ch.Index, queries: ch.TokenVectors, exact: NDArray[np.int64]) -> tuple[int, float]:
    """Return the fewest candidates that reach the target, and the recall then; all, if none do."""

    def recall(num_candidates: int) -> float:
        found = index.search(queries, K, num_candidates=num_candidates, num_threads=1).ids
        return overlap(found.tolist(), exact.tolist())

    low, high = K, len(index)
    while low < high:  # the recall grows with the candidates, but for ties
        middle = (low + high) // 2
        low, high = (low, middle) if recall(middle) >= TARGET else (middle + 1, high)
    return low, recall(low)


def kinds(dim: int, num_documents: int, binarizers: list[ch.RecurrentBinarizer]) -> list[Filled]:
    """Return empty candidates: FAISS's scans, and codes of each binarizer, of the last also in inverted lists."""
    scans: list[Filled] = [
        FaissCandidates(name, dim) for name in (BASELINE, "SQ8", f"PQ{dim}x4fs", f"PQ{dim // 2}x4fs")
    ]
    num_lists = max(1, min(int(4 * num_documents**0.5), num_documents // 39))
    scans += [ch.BinaryCandidates(binarizer, "SDC") for binarizer in binarizers]
    return [*scans, ch.BinaryCandidates(binarizers[-1], f"IVF{num_lists},SDC")]
