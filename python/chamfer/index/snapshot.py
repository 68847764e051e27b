"""Snapshot: one state of an index, which never changes. A search sees one, whatever is added meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer.candidates import Candidates, default_nprobe
from chamfer.cascade import Cascade
from chamfer.index.catalogue import Manifest
from chamfer.index.filters import Condition
from chamfer.index.model import Model
from chamfer.index.segments import Segment
from chamfer.index.settings import SearchSettings
from chamfer.parts import Parts, merge_best
from chamfer.token_vectors import FloatArray, TokenVectors

# Candidates fetched at a time where some are to be dropped: 50 MB.
_FETCHED_AT_A_TIME = 4 * 2**20

# Where candidates cannot be told which rows are allowed, so many more are fetched as should be enough, and a little.
_SURPLUS = 1.25

_Found = tuple[NDArray[np.float32], NDArray[np.int64]]
_Mask = NDArray[np.bool_]


class Snapshot:
    """Segments, one after the other: row r of all is row r - bases[i] of segment i; and the model that made them.

    Args:
        model: what encodes.
        segments: at least one.
        manifest: of this state, if it lies on disk.
    """

    def __init__(self, model: Model, segments: Sequence[Segment], manifest: Manifest | None = None) -> None:
        self.model = model
        self.segments = tuple(segments)
        self.manifest = manifest
        collections = [segment.documents for segment in self.segments]
        self.documents = Parts(collections)
        self.bases = self.documents.bases
        self.cascade: Cascade | None = None
        if model.stages is not None:
            self.cascade = Cascade.of_parts(model.stages, collections, [segment.codes for segment in self.segments])
        self.num_documents = len(self.documents) - sum(segment.num_deleted for segment in self.segments)
        self._is_changed = any(segment.num_deleted for segment in self.segments)
        self._searchable: _Mask | None = None
        parts = [_searchable(segment) for segment in self.segments]
        if any(part is not None for part in parts):
            self._searchable = np.concatenate(
                [
                    np.ones(len(segment), bool) if part is None else part
                    for segment, part in zip(self.segments, parts, strict=True)
                ]
            )

    @property
    def candidates(self) -> Candidates:
        """The candidates of the first segment, which are of the kind of all."""
        return self.segments[0].candidates

    # ── ids ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def are_strings(self) -> bool:
        """Whether ids are strings."""
        return self.segments[0].ids.dtype == object

    def ids_of(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the ids of rows; None or -1 for row -1."""
        ids: NDArray[Any] = np.full(rows.shape, None if self.are_strings else -1, object if self.are_strings else None)
        for segment, base in zip(self.segments, self.bases[:-1], strict=True):
            own = (rows >= base) & (rows < base + len(segment))
            if own.any():
                ids[own] = segment.ids[rows[own] - base]
        return ids

    def live_rows(self) -> NDArray[np.int64]:
        """Return the rows that are not deleted, ascending."""
        parts = [segment.live_rows() + base for segment, base in zip(self.segments, self.bases[:-1], strict=True)]
        return np.concatenate(parts)

    def row_of(self, id: int | str) -> int | None:  # noqa: A002  # the word of the interface
        """Return the row of a document, None if there is none of this id."""
        for segment, base in zip(self.segments[::-1], self.bases[-2::-1].tolist(), strict=True):
            row = segment.row_of(id)
            if row is not None:
                return int(base) + row
        return None

    def place_of(self, row: int) -> tuple[Segment, int]:
        """Return the segment of a row, and its row there."""
        i = int(np.searchsorted(self.bases, row, side="right")) - 1
        return self.segments[i], row - int(self.bases[i])

    def vectors_of(self, row: int) -> FloatArray:
        """Return the token vectors of a document."""
        segment, local = self.place_of(row)
        return segment.documents[local]

    @cached_property
    def is_sparse(self) -> bool:
        """Whether more than half of the rows cannot be found, and candidates are looked for among many others."""
        return self._searchable is not None and 2 * int(self._searchable.sum()) < len(self._searchable)

    # ── what may be found ─────────────────────────────────────────────────────────────────────────────────────────────

    def allowed(self, condition: Condition | None, chosen: _Mask | None) -> _Mask | None:
        """Return which rows a search may return, None if all: not deleted, not empty, fitting and chosen."""
        mask = self._searchable
        if condition is not None:
            self._check_keys(condition)
            fits = np.concatenate([condition(segment.metadata, len(segment)) for segment in self.segments])
            mask = fits if mask is None else mask & fits
        if chosen is not None:
            mask = chosen if mask is None else mask & chosen
        return mask

    def _check_keys(self, condition: Condition) -> None:
        known = set().union(*(segment.metadata.keys for segment in self.segments))
        unknown = sorted(condition.keys - known)
        if unknown:
            raise ValueError(
                f"filter: no document has {', '.join(map(repr, unknown))}; keys of this index: "
                f"{', '.join(sorted(known)) or 'none'}"
            )

    def exact(self, queries: TokenVectors, k: int, allowed: _Mask | None, num_threads: int) -> _Found:
        """Return scores and rows of the k best by MaxSim of all documents that are allowed, as `find`."""
        allowed = self._searchable if allowed is None else allowed
        rows = None
        if allowed is not None and (self._is_changed or allowed is not self._searchable):
            rows = np.flatnonzero(allowed)
        return self.documents.topk(queries, k, candidates=rows, num_threads=num_threads)

    def find(
        self,
        encodings: NDArray[np.float32],
        width: int,
        num_threads: int,
        nprobe: int | None = None,
        allowed: _Mask | None = None,
    ) -> _Found:
        """Return scores and rows of candidates, (num_queries, width), best first; -inf and -1 fill the end.

        Args:
            encodings: of queries.
            width: candidates per query.
            num_threads: threads to use.
            nprobe: inverted lists to look into; None stands for the default.
            allowed: what `allowed` returned; None stands for that without condition.
        """
        allowed = self._searchable if allowed is None else allowed
        scores = [np.full((len(encodings), width), -np.inf, np.float32)]
        rows = [np.full((len(encodings), width), -1, np.int64)]
        for segment, base in zip(self.segments, self.bases[:-1].tolist(), strict=True):
            mask = None if allowed is None else allowed[base : base + len(segment)]
            num_allowed = len(segment) if mask is None else int(mask.sum())
            if num_allowed == 0:
                continue
            wanted = min(width, num_allowed)
            if mask is None or num_allowed == len(segment):
                found = segment.candidates.search(encodings, wanted, num_threads, nprobe)
            else:
                found = _search_more(segment.candidates, encodings, wanted, num_threads, nprobe, mask)
            if len(self.segments) == 1 and wanted == width:
                return found
            scores.append(found[0])
            rows.append(np.where(found[1] < 0, -1, found[1] + base))
        return merge_best(scores[1:] + scores[:1], rows[1:] + rows[:1], width)


def check_settings(settings: SearchSettings, snapshot: Snapshot) -> None:
    """Raise ValueError if search settings do not fit the stages or candidates of a snapshot."""
    num_budgets = 0 if snapshot.cascade is None else len(snapshot.cascade.stages) - 1
    if settings.budgets is not None and len(settings.budgets) != num_budgets:
        raise ValueError(
            f"settings: expected {num_budgets} budgets, one for each stage but the last, got {len(settings.budgets)}"
        )
    if settings.nprobe is not None and snapshot.candidates.num_lists is None:
        raise ValueError(f"settings: expected nprobe=None, since {snapshot.candidates.description!r} has no lists")


def fitting_settings(settings: SearchSettings, snapshot: Snapshot) -> SearchSettings:
    """Return search settings, or the defaults if they are those of other stages or candidates."""
    try:
        check_settings(settings, snapshot)
    except ValueError:
        return SearchSettings()
    return settings


def _searchable(segment: Segment) -> _Mask | None:
    """Return which documents can be found, None if all: encodings of empty ones are zero, which beats scores below."""
    filled: _Mask = segment.documents.lengths > 0
    if segment.deleted is not None:
        filled = filled & ~segment.deleted
    return None if filled.all() else filled


def _search_more(
    candidates: Candidates,
    encodings: NDArray[np.float32],
    width: int,
    num_threads: int,
    nprobe: int | None,
    allowed: _Mask,
) -> _Found:
    """Return the best allowed rows; where lists that were looked into hold too few of them, more lists are."""
    scores, rows = _search_allowed(candidates, encodings, width, num_threads, nprobe, allowed)
    num_lists = candidates.num_lists
    if num_lists is None:
        return scores, rows
    nprobe = default_nprobe(num_lists) if nprobe is None else nprobe
    while nprobe < num_lists:
        short = np.flatnonzero((rows < 0).any(axis=1))
        if not len(short):
            break
        nprobe = min(2 * nprobe, num_lists)
        scores[short], rows[short] = _search_allowed(candidates, encodings[short], width, num_threads, nprobe, allowed)
    return scores, rows


def _search_allowed(
    candidates: Candidates,
    encodings: NDArray[np.float32],
    width: int,
    num_threads: int,
    nprobe: int | None,
    allowed: _Mask,
) -> _Found:
    """Return the best allowed rows; of candidates that are not told which, more are fetched, and some dropped."""
    if candidates.takes_allowed:
        return candidates.search(encodings, width, num_threads, nprobe, allowed)
    size, num_allowed = len(allowed), int(allowed.sum())
    num_fetched = min(width + size - num_allowed, int(_SURPLUS * width * size / num_allowed) + 1)
    scores = np.full((len(encodings), width), -np.inf, np.float32)
    rows = np.full((len(encodings), width), -1, np.int64)
    left = np.arange(len(encodings))
    while len(left):
        num_fetched = min(num_fetched, size)
        batch = max(1, _FETCHED_AT_A_TIME // num_fetched)
        missing = []
        for begin in range(0, len(left), batch):
            part = left[begin : begin + batch]
            some_scores, some = candidates.search(encodings[part], num_fetched, num_threads, nprobe)
            fits = (some >= 0) & allowed[some]
            order = np.argsort(~fits, axis=1, kind="stable")[:, :width]
            found = np.take_along_axis(fits, order, 1)
            scores[part, : order.shape[1]] = np.where(found, np.take_along_axis(some_scores, order, 1), -np.inf)
            rows[part, : order.shape[1]] = np.where(found, np.take_along_axis(some, order, 1), -1)
            is_short = (fits.sum(axis=1) < width) & (some[:, -1] >= 0)  # lists that were looked into may hold no more
            missing.append(part[is_short])
        left = np.concatenate(missing) if num_fetched < size else left[:0]
        num_fetched *= 4
    return scores, rows
