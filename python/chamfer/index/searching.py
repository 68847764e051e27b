"""Searching one state of an index: candidates, reranking, and what the caller is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer.index.filters import Condition
from chamfer.index.ids import check_some_ids
from chamfer.index.settings import SearchSettings
from chamfer.index.snapshot import Snapshot
from chamfer.reducers import ball_carving
from chamfer.scoring import Alignment, maxsim_alignment
from chamfer.token_vectors import TokenVectors

# Documents that a search reranks when num_candidates is None, or ten per result if that is more. On SciFact 500 of
# 5,183 candidates hold 0.95 of the exact top 10.
_DEFAULT_NUM_CANDIDATES = 500
_DEFAULT_CANDIDATES_PER_RESULT = 10

# A filter that leaves no more documents than this many times the candidates: all of them are reranked instead. That is
# as fast, and finds what reranking finds.
_RERANK_ALL = 1.5


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and what each stage took.

    Attributes:
        ids: shape (num_queries, k), best first: int64, -1 where fewer than k were found; or, if ids are strings, an
            object array of str, None where fewer were found. An inverted index may find fewer documents than there are.
        scores: float32, shape (num_queries, k), those of the last stage: MaxSim, exact or with codes, or the encodings'
            inner product if the index does not rerank; -inf where there are fewer.
        timings: seconds for the whole batch by stage ("encode", "candidates", "carve" if asked for, "rerank scalar:2",
            "rerank exact" and so on; or "exact"; "filter" if there is one), and "total".
        kept: documents that each stage handed on, by stage, for the query with the most.
        explanations: if asked for, of each query a list with an `Alignment` per document found: the similarity of each
            query token and the document token that gave it, at the stored precision.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]
    timings: dict[str, float] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    explanations: list[list[Alignment]] | None = None


@dataclass(frozen=True)
class Filter:
    """What a search may return, as `Index.search` was asked; see `check_filter`.

    Attributes:
        condition: on metadata.
        ids: of documents.
        mask: one bool per document, in the order of `Index.ids`.
    """

    condition: Condition | None = None
    ids: frozenset[int | str] | None = None
    mask: NDArray[np.bool_] | None = None

    def rows(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """Return which rows of a snapshot may be returned."""
        chosen = None
        if self.ids is not None:
            found = [row for one in self.ids if (row := snapshot.row_of(one)) is not None]
            chosen = np.zeros(len(snapshot.documents), bool)
            chosen[found] = True
        elif self.mask is not None:
            if len(self.mask) != snapshot.num_documents:
                raise ValueError(
                    f"filter: expected a mask of shape ({snapshot.num_documents},), one bool per document in the "
                    f"order of `ids`, got {self.mask.shape}"
                )
            chosen = np.zeros(len(snapshot.documents), bool)
            chosen[snapshot.live_rows()[self.mask]] = True
        allowed = snapshot.allowed(self.condition, chosen)
        assert allowed is not None  # since there is a condition or a choice
        return allowed


def check_filter(value: Any, *, are_strings: bool) -> Filter | None:
    """Return a filter of ids, a mask or a condition; None if there is none.

    Raises:
        TypeError, ValueError: as `Index.search`.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return Filter(condition=Condition(value))
    if isinstance(value, np.ndarray) and value.dtype == bool:
        if value.ndim != 1:
            raise ValueError(f"filter: expected a mask of one dimension, got shape {value.shape}")
        return Filter(mask=value)
    if isinstance(value, (bytes, dict)) or not isinstance(value, (Iterable, np.ndarray)):
        raise TypeError(f"filter: expected ids, a mask of bools or a condition, got {type(value).__name__}")
    ids = value.tolist() if isinstance(value, np.ndarray) else list(value)
    if len(ids) and all(isinstance(one, (bool, np.bool_)) for one in ids):
        return Filter(mask=np.array(ids, bool))
    return Filter(ids=check_some_ids(ids, "filter", are_strings=are_strings))


def search(
    snapshot: Snapshot,
    queries: TokenVectors,
    k: int,
    settings: SearchSettings,
    allowed: NDArray[np.bool_] | None,
    carving_threshold: float | None,
    num_threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, float], dict[str, int]]:
    """Return scores, rows, timings and kept of a search by candidates; arguments are checked."""
    timings: dict[str, float] = {}
    kept: dict[str, int] = {}
    num_candidates = settings.num_candidates or 0
    if num_candidates < k:
        num_candidates = max(_DEFAULT_NUM_CANDIDATES, _DEFAULT_CANDIDATES_PER_RESULT * k)
    cascade = snapshot.cascade
    if allowed is None and snapshot.is_sparse:  # deletions are a filter too
        allowed = snapshot.allowed(None, None)
    num_allowed = snapshot.num_documents if allowed is None else int(allowed.sum())
    if cascade is not None and allowed is not None and num_allowed <= _RERANK_ALL * num_candidates:
        some = np.flatnonzero(allowed)
        rows = np.repeat(some[None], len(queries), axis=0)
        scores = np.empty((len(queries), 0), np.float32)
    else:
        with timed(timings, "encode"):
            encodings = snapshot.model.reducer.encode_queries(queries, num_threads=num_threads)
        with timed(timings, "candidates"):
            width = min(k if cascade is None else num_candidates, len(snapshot.documents))
            scores, rows = snapshot.find(encodings, width, num_threads, settings.nprobe, allowed)
    kept["candidates"] = most_found(rows)
    if cascade is not None:
        if carving_threshold is not None:
            with timed(timings, "carve"):
                queries = ball_carving(queries, carving_threshold)
        budgets = cascade.default_budgets(k)
        if settings.budgets is not None:  # those for fewer results than k give way
            budgets = tuple(b if b >= k else d for b, d in zip(settings.budgets, budgets, strict=True))
        found = cascade.run(queries, rows, k, budgets=budgets, margin=settings.margin, num_threads=num_threads)
        scores, rows = found.scores, found.rows
        timings |= found.timings
        kept |= found.kept
    if rows.shape[1] < k:
        missing = ((0, 0), (0, k - rows.shape[1]))
        scores = np.pad(scores, missing, constant_values=-np.inf)
        rows = np.pad(rows, missing, constant_values=-1)
    return scores, rows, timings, kept


def explain_rows(snapshot: Snapshot, queries: TokenVectors, rows: NDArray[np.int64]) -> list[list[Alignment]]:
    """Return how each query matches each of its documents."""
    return [
        [maxsim_alignment(queries[i], snapshot.vectors_of(row)) for row in some if row >= 0]
        for i, some in enumerate(rows.tolist())
    ]


def most_found(rows: NDArray[np.int64]) -> int:
    """Return how many rows there are for the query with the most."""
    return int((rows >= 0).sum(axis=1).max(initial=0))


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Note the seconds that a block takes."""
    begin = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - begin
