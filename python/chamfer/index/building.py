"""Building: from a collection to a model and segments, all at once or in bounded memory."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer._containers import release
from chamfer._progress import progress_bar
from chamfer._runtime import check_positive_int
from chamfer._sampling import spread
from chamfer.candidates import Candidates
from chamfer.cascade import EXACT, FittedStage, fit_stages
from chamfer.index.filling import make_candidates, more_candidates, trained_candidates
from chamfer.index.model import Model, words
from chamfer.index.reducing import Reducer, resolve_reducer
from chamfer.index.reranking import resolve_stages
from chamfer.index.segments import (
    Metadata,
    Segment,
    SegmentMetadata,
    arrays_of,
    encode_metadata,
    live_arrays,
    make_segment,
    remove_segments,
)
from chamfer.token_vectors import TokenVectors, offsets_of

# Sample queries that are kept for the day the model is fitted anew.
_MOST_QUERIES = 500

# Of a memory budget, what the vectors of a segment may take as float32 while it is encoded; the rest is for the model,
# for codes and encodings, and for what is mapped.
_SHARE_OF_BUDGET = 8
_LEAST_BUDGET = 256 * 2**20

# Of the same, what encodings may take that are joined: those of the parts, what FAISS copies and what becomes of them
# are held at once, three times as many.
_SHARE_TO_JOIN = 8

# Parts are merged when there are so many, since the map of each takes a file descriptor; and all at the end.
_MOST_PARTS = 64

# In bounded memory a model is fitted to a sample that takes the same share, of this many documents or more, read some
# at a time: what is read of a map counts as this process's memory until it is let go.
_FEWEST_FITTED = 1_000
_SAMPLED_AT_A_TIME = 256

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True)
class Wish:
    """What `Index.build` was asked for."""

    reducer: Any
    candidates: Any
    rerank: Any
    queries: TokenVectors | None
    insertion_order: str = "input"

    def asked(self) -> dict[str, Any]:
        """Return what `Model.asked` keeps: words, and whether they say all."""
        said = {"reducer": words(self.reducer), "candidates": words(self.candidates), "rerank": words(self.rerank)}
        return {**said, "is_all": said["reducer"] is not None and said["candidates"] is not None}

    @classmethod
    def of(cls, model: Model) -> Wish | None:
        """Return what a model was asked for, None if nobody can tell."""
        asked: Mapping[str, Any] = model.asked
        if not asked.get("is_all"):
            return None
        return cls(asked["reducer"], asked["candidates"], asked["rerank"], model.queries)


def check_budget(memory_budget: int | str | None) -> int | None:
    """Return a budget in bytes.

    Raises:
        TypeError, ValueError: it is none, or less than 256 MiB.
    """
    if memory_budget is None:
        return None
    number = memory_budget
    if isinstance(number, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?)?B?\s*", number.upper())
        if match is None:
            raise ValueError(f"memory_budget: expected bytes, or such as '1GB' or '512MiB', got {memory_budget!r}")
        number = int(float(match[1]) * _UNITS[match[2] or ""])
    checked = check_positive_int(number, "memory_budget")
    if checked < _LEAST_BUDGET:
        raise ValueError(f"memory_budget: expected at least 256 MiB, got {memory_budget!r}")
    return checked


def build_all(
    wish: Wish,
    documents: TokenVectors,
    ids: NDArray[Any],
    metadata: Sequence[Metadata | None],
    num_threads: int,
    progress: bool,
) -> tuple[Model, list[Segment]]:
    """Return a model of a collection, and the collection as one segment in memory."""
    reducer = resolve_reducer(wish.reducer, documents, wish.queries, num_threads, progress)
    candidates = make_candidates(wish.candidates, reducer, documents, num_threads, progress, wish.insertion_order)
    names = resolve_stages(wish.rerank, documents)
    try:
        model = _model(wish, reducer, names, documents, num_threads)
        codes = model.encode(documents, num_threads)
    except ValueError:  # all else is checked: numbers of very different magnitude, or too many dims
        if not (isinstance(wish.rerank, str) and wish.rerank == "auto"):
            raise
        model = _model(wish, reducer, (EXACT,), documents, num_threads)
        codes = {}
    stored = SegmentMetadata(encode_metadata(metadata))
    segment = make_segment(None, arrays_of(documents, codes), model.codecs, ids, stored, lambda _: candidates)
    return model, [segment]


def build_in_parts(
    wish: Wish,
    documents: TokenVectors,
    ids: NDArray[Any],
    metadata: Sequence[Metadata | None],
    num_threads: int,
    progress: bool,
    budget: int,
    folder: Path,
) -> tuple[Model, list[Segment]]:
    """Return a model of a collection, and the collection as a segment in a folder, made in parts of the budget.

    Where parts cannot be merged within the budget, there are several; see `_Parts`.
    """
    sample = _sample(documents, budget // _SHARE_OF_BUDGET)
    reducer = resolve_reducer(wish.reducer, sample, wish.queries, num_threads, progress)
    template = trained_candidates(wish.candidates, reducer, sample, num_threads, len(documents))
    model = _model(wish, reducer, resolve_stages(wish.rerank, documents), sample, num_threads)
    model = replace(model, num_documents=len(documents))
    del sample
    most = max(1, budget // (_SHARE_OF_BUDGET * 4 * documents.dim))
    parts = _Parts(folder, model, template, budget, progress)
    begin = 0
    try:
        with progress_bar(len(documents), "index documents", progress) as advance:
            while begin < len(documents):
                last = int(documents.offsets[begin]) + most
                end = max(begin + 1, int(np.searchsorted(documents.offsets, last, side="right")) - 1)
                part = documents._run(begin, end)
                made = new_segment(folder, model, template, part, ids[begin:end], metadata[begin:end], num_threads)
                release(documents.vectors)
                release(made.documents.vectors)
                parts.add(made)
                advance(end - begin)
                begin = end
        parts.merge(0)
    except BaseException:
        remove_segments(folder, parts.segments)
        raise
    return model, parts.segments


class _Parts:
    """The segments of a build in parts, merged where that is possible, since a search asks each.

    They stay as they are if their encodings outgrow the budget or would have to be made again; and, with a warning, if
    disk or memory does not suffice: parts are an index too.
    """

    def __init__(self, folder: Path, model: Model, template: Candidates, budget: int, progress: bool) -> None:
        self.segments: list[Segment] = []
        self._num_merged = 0  # of these, the first ones
        self._can_merge = True
        self._folder, self._model, self._template = folder, model, template
        self._budget, self._progress = budget, progress

    def add(self, segment: Segment) -> None:
        """Append one; all since the last merged one become one when there are many."""
        self.segments.append(segment)
        if len(self.segments) - self._num_merged >= _MOST_PARTS:
            self.merge(self._num_merged)

    def merge(self, first: int) -> None:
        """Merge all from the first on."""
        old = self.segments[first:]
        if not self._can_merge or len(old) == 1:
            return
        whole = self._merged(old)
        self._can_merge = whole is not None
        if whole is None:
            return
        self.segments.append(whole)
        remove_segments(self._folder, old)
        self.segments[first:] = [whole]
        self._num_merged = len(self.segments)

    def _merged(self, parts: Sequence[Segment]) -> Segment | None:
        kept = [(part.candidates, part.live_rows()) for part in parts]
        size = sum(candidates.nbytes - self._template.nbytes for candidates, _ in kept)
        if size > self._budget // _SHARE_TO_JOIN:
            return None
        try:
            joined = self._template.joined(kept)
            if joined is None:
                return None
            return _joined_segment(self._folder, self._model, parts, lambda _: joined, self._progress)
        except (OSError, MemoryError) as error:
            warnings.warn(
                f"{self._folder}: {len(parts)} segments are not merged ({str(error) or 'out of memory'}), which makes "
                "searches slower; `compact` the index when there is room",
                RuntimeWarning,
                stacklevel=6,  # who called Index.build
            )
            return None


def _sample(documents: TokenVectors, num_bytes: int) -> TokenVectors:
    """Return documents spread over the collection, in memory, whose vectors take about so many bytes, or fewer."""
    share = min(1.0, num_bytes / max(1, documents.vectors.nbytes))
    rows = spread(len(documents), max(_FEWEST_FITTED, int(share * len(documents))))
    parts = []
    for begin in range(0, len(rows), _SAMPLED_AT_A_TIME):
        parts.append(documents.select(rows[begin : begin + _SAMPLED_AT_A_TIME]))
        release(documents.vectors)
    vectors: Any = np.concatenate([part.vectors for part in parts])
    return TokenVectors._trusted(vectors, offsets_of(np.concatenate([part.lengths for part in parts])))


def _model(
    wish: Wish, reducer: Reducer, names: tuple[str, ...] | None, documents: TokenVectors, num_threads: int
) -> Model:
    queries = wish.queries
    if queries is not None and queries.dim != documents.dim:
        raise ValueError(f"queries: expected dim {documents.dim} (the documents'), got {queries.dim}")
    stages: tuple[FittedStage, ...] | None = None
    if names is not None:
        stages = fit_stages(documents, names, queries, num_threads)
    kept = None
    if queries is not None and len(queries):
        kept = _halved(queries.select(spread(len(queries), _MOST_QUERIES)))
    return Model(reducer, stages, kept, wish.asked(), len(documents))


def _halved(queries: TokenVectors) -> TokenVectors:
    """Return queries in half precision, which is plenty to fit to, if their numbers are in its range."""
    with np.errstate(over="ignore"):
        halves = queries.vectors.astype(np.float16)
    return TokenVectors._trusted(halves, queries.offsets) if np.isfinite(halves).all() else queries


def new_segment(
    folder: Path | None,
    model: Model,
    template: Candidates,
    documents: TokenVectors,
    ids: NDArray[Any],
    metadata: Sequence[Metadata | None],
    num_threads: int,
) -> Segment:
    """Return documents as a segment of an index, in memory or in its folder."""
    arrays = arrays_of(documents, model.encode(documents, num_threads))
    stored = SegmentMetadata(encode_metadata(metadata))

    def fill(documents: TokenVectors) -> Candidates:
        return more_candidates(template, model.reducer, documents, num_threads)

    return make_segment(folder, arrays, model.codecs, ids, stored, fill)


def merged_segment(
    folder: Path | None, model: Model, segments: Sequence[Segment], num_threads: int, progress: bool
) -> Segment:
    """Return the documents of several segments that are not deleted as one."""
    template = segments[0].candidates
    kept = [(segment.candidates, segment.live_rows()) for segment in segments]

    def fill(documents: TokenVectors) -> Candidates:
        return template.joined(kept) or more_candidates(template, model.reducer, documents, num_threads, progress)

    return _joined_segment(folder, model, segments, fill, progress)


def _joined_segment(
    folder: Path | None,
    model: Model,
    segments: Sequence[Segment],
    fill: Callable[[TokenVectors], Candidates],
    progress: bool,
) -> Segment:
    ids = np.concatenate([segment.ids[segment.live_rows()] for segment in segments])
    metadata = SegmentMetadata(_live_metadata(segments))
    arrays = live_arrays(segments)
    size = sum(part.nbytes for parts in arrays.values() for part in parts)
    with ExitStack() as shown:
        advance = shown.enter_context(progress_bar(size, "merge segments", progress and folder is not None, "B"))

        def fill_after(documents: TokenVectors) -> Candidates:
            shown.close()  # all is written
            return fill(documents)

        return make_segment(folder, arrays, model.codecs, ids, metadata, fill_after, advance)


def _live_metadata(segments: Sequence[Segment]) -> bytes:
    if not any(segment.metadata.stored for segment in segments):
        return b""
    return encode_metadata(live_metadata(segments))


def live_metadata(segments: Sequence[Segment]) -> list[Metadata | None]:
    """Return the metadata of the documents that are not deleted."""
    return [
        segment.metadata.rows[row] if segment.metadata.rows else None
        for segment in segments
        for row in segment.live_rows().tolist()
    ]
