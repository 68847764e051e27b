"""Writing: the one writer of an index, who turns one snapshot into the next, in memory or in a folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, KeysView, Sequence, ValuesView
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer._files import locked_file
from chamfer.candidates import Candidates
from chamfer.index import storage
from chamfer.index.building import Wish, build_all, build_in_parts, live_metadata, merged_segment, new_segment
from chamfer.index.filters import check_metadata
from chamfer.index.ids import check_ids
from chamfer.index.model import Model
from chamfer.index.segments import Segment, ids_array, live_arrays, remove_segments, temporary_documents, with_deleted
from chamfer.index.settings import SearchSettings
from chamfer.index.snapshot import Snapshot, fitting_settings
from chamfer.token_vectors import TokenVectors, TokenVectorsLike, as_token_vectors

# Token vectors of a segment that comes from an iterator: 32 MB of float32 at 128 dims.
_BATCH_TOKENS = 2**16

# With more segments than this the last ones are merged, from the first that is no larger than all after it together:
# so a document is copied about as often as the collection doubles.
_MOST_SEGMENTS = 4

# A model is fitted anew when the collection has grown by this factor.
_REFIT_GROWTH = 2.0


class Writer:
    """The one who changes an index. Its methods wait for each other; searches wait for none.

    Args:
        snapshot: the present state.
        path: the folder, None if there is none.
        search: the settings to be stored.
    """

    def __init__(self, snapshot: Snapshot, path: Path | None, search: SearchSettings) -> None:
        self.snapshot = snapshot
        self.path = path
        self.search = search
        self._mutex = threading.RLock()
        self._held = ExitStack()
        self._holder: int | None = None  # process that has the lock: a forked child has not, whatever it inherits
        self._is_changing = False
        self._is_unsure = False  # whether the last change failed, so that the folder's state is not known
        self._empty: tuple[Model, Candidates] | None = None

    # ── the lock ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def lock(self) -> None:
        """Take the folder's lock, and keep it until `close`.

        Raises:
            LockedIndexError: somebody else has it.
        """
        if self.path is None or self._is_locked:
            return
        self.hold(locked_file(self.path / storage.LOCK))

    def hold(self, lock: AbstractContextManager[Any]) -> None:
        """Take this lock, which is the folder's, and keep it until `close`."""
        held = ExitStack()
        held.enter_context(lock)
        self._held, self._holder = held, os.getpid()

    @property
    def _is_locked(self) -> bool:
        return self._holder == os.getpid()

    def close(self) -> None:
        """Give the lock back."""
        with self._mutex:
            if self._is_locked:
                self._held.close()
                self._holder = None

    @contextmanager
    def changing(self) -> Iterator[Snapshot]:
        """Hold what a change needs, and give the state to change."""
        with self._mutex:
            if self._is_changing:
                raise ValueError("this index is being changed by what its documents come from; read it there only")
            was_locked = self._is_locked
            self.lock()
            if self.path is not None and (self._is_unsure or not was_locked):
                try:
                    self._read_again(may_differ=self._is_unsure)
                except BaseException:
                    if not was_locked:  # or the next change would not read again
                        self.close()
                    raise
            self._is_changing = True
            try:
                yield self.snapshot
            except BaseException:
                if self._is_unsure:  # show what lies there, the old state or the new one
                    with suppress(Exception):
                        self._read_again(may_differ=True)
                raise
            finally:
                self._is_changing = False

    def _read_again(self, *, may_differ: bool) -> None:
        assert self.path is not None
        assert self.snapshot.manifest is not None
        before = self.snapshot.manifest
        found, _ = storage.open_snapshot(self.path, verify=False, known=self.snapshot)
        assert found.manifest is not None
        if found.manifest.index_id != before.index_id or (
            not may_differ and found.manifest.generation != before.generation
        ):
            raise FileExistsError(f"{self.path}: was changed by somebody else since it was opened; open it again")
        self.snapshot, self._is_unsure = found, False
        storage.remove_unused(self.path, found.manifest)

    def _become(self, after: Snapshot) -> None:
        """Make a snapshot the state."""
        if self.path is not None:
            try:
                assert self.snapshot.manifest is not None
                after = storage.commit(self.path, self.snapshot.manifest, self.snapshot.model, after, self.search)
            except BaseException:
                self._is_unsure = True
                raise
        self.snapshot = after

    @contextmanager
    def _new_segments(self) -> Iterator[list[Segment]]:
        """Give a list for segments that are written; their files go if the block fails before they are in use."""
        made: list[Segment] = []
        try:
            yield made
        except BaseException:
            if self.path is not None and not self._is_unsure:
                remove_segments(self.path, made)
            raise

    # ── changes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def see(self, found: Snapshot, search: SearchSettings) -> bool:
        """Become what a reader has read, and return whether that is another state; its own settings stay."""
        with self._mutex:
            mine = self.snapshot.manifest
            assert mine is not None
            assert found.manifest is not None
            if mine.index_id == found.manifest.index_id:
                if mine.generation >= found.manifest.generation:
                    return False
                if mine.settings["search"] == found.manifest.settings["search"]:
                    search = fitting_settings(self.search, found)
            self.snapshot, self.search = found, search
            return True

    def write_to(self, folder: Path, *, is_own: bool) -> None:
        """Write all to a folder: a copy if it is another than the index's own; else the index lives there then."""
        with self._mutex:
            if self._is_changing:
                raise ValueError("this index is being changed by what its documents come from; read it there only")
            if is_own:
                self.close()
            with locked_file(folder / storage.LOCK):
                if is_own:
                    storage.refuse_newer(folder, self.snapshot)
                written = storage.write_whole(folder, storage.detached(self.snapshot), self.search)
            if is_own or self.path is None:
                self.snapshot, self.path, self._is_unsure = written, folder, False

    def _template(self, snapshot: Snapshot) -> Candidates:
        """Return candidates that are trained as those of a snapshot, and empty: kept, since a copy takes its time."""
        if self._empty is None or self._empty[0] is not snapshot.model:
            self._empty = (snapshot.model, snapshot.candidates.empty_copy())
        return self._empty[1]

    def add(
        self, documents: Any, ids: Any, metadata: Any, num_threads: int, *, must_exist: bool, keep_metadata: bool
    ) -> int:
        """Add documents, those of ids that are there taking their place, and return how many ids were new."""
        with self.changing() as before, self._new_segments() as made:
            replaced: list[int] = []
            num_new = 0
            seen: set[int | str] = set()
            for part, some_ids, some_metadata in batches(documents, ids, metadata, before, seen):
                known = [row for one in some_ids if (row := before.row_of(one)) is not None]
                if must_exist and len(known) < len(some_ids):
                    unknown = next(one for one in some_ids if before.row_of(one) is None)
                    raise KeyError(f"ids: no document {unknown!r} to update; `add` takes new ones")
                if keep_metadata:
                    some_metadata = [_metadata(before, row) for row in known]
                replaced += known
                num_new += len(some_ids) - len(known)
                array = ids_array(some_ids, are_strings=before.are_strings)
                made.append(
                    new_segment(
                        self.path, before.model, self._template(before), part, array, some_metadata, num_threads
                    )
                )
            if not made:
                return 0
            segments = _without(before, np.array(replaced, np.int64))
            self._become(Snapshot(before.model, [*segments, *made], before.manifest))
        if len(self.snapshot.segments) > _MOST_SEGMENTS:
            # The documents are there: that they cannot be merged too is no failure of adding them.
            with suppress(Exception), self.changing() as before:
                self._merge(before, _first_to_merge(before.segments), num_threads, progress=False)
        return num_new

    def delete(self, ids: Sequence[int | str]) -> int:
        """Delete documents, and return how many of the ids were there."""
        with self.changing() as before:
            rows = [row for one in ids if (row := before.row_of(one)) is not None]
            if rows:
                self._become(Snapshot(before.model, _without(before, np.array(rows)), before.manifest))
            return len(rows)

    def compact(self, num_threads: int, progress: bool, memory_budget: int | None) -> None:
        """Merge all segments, drop what is deleted, fit the model anew if the collection has outgrown it."""
        with self.changing() as before:
            wish = Wish.of(before.model)
            has_grown = before.num_documents > _REFIT_GROWTH * max(1, before.model.num_documents)
            if wish is not None and has_grown:
                self._refit(before, wish, num_threads, progress, memory_budget)
            elif len(before.segments) > 1 or before.segments[0].num_deleted:
                self._merge(before, 0, num_threads, progress)
            else:
                self.remove_unused()

    def store_settings(self, search: SearchSettings) -> None:
        """Store search settings."""
        with self.changing() as before:
            self.search = search
            self._become(before)

    def _merge(self, before: Snapshot, first: int, num_threads: int, progress: bool) -> None:
        with self._new_segments() as made:
            made.append(merged_segment(self.path, before.model, before.segments[first:], num_threads, progress))
            self._become(Snapshot(before.model, [*before.segments[:first], *made], before.manifest))
        self.remove_unused()

    def _refit(self, before: Snapshot, wish: Wish, num_threads: int, progress: bool, memory_budget: int | None) -> None:
        ids = before.ids_of(before.live_rows())
        metadata = live_metadata(before.segments)
        with self._new_segments() as made, temporary_documents(self.path, live_arrays(before.segments)) as documents:
            if self.path is None or memory_budget is None:
                model, segments = build_all(wish, documents, ids, metadata, num_threads, progress)
                if self.path is not None:
                    segments = [storage.copied(self.path, segment, model) for segment in segments]
            else:
                model, segments = build_in_parts(
                    wish, documents, ids, metadata, num_threads, progress, memory_budget, self.path
                )
            made += segments
            after = Snapshot(model, segments, before.manifest)
            search = self.search
            # Settings were measured on the old model.
            is_like = after.candidates.description == before.candidates.description and (
                [stage.name for stage in model.stages or ()] == [stage.name for stage in before.model.stages or ()]
            )
            self.search = fitting_settings(search, after) if is_like else SearchSettings()
            try:
                self._become(after)
            except BaseException:
                self.search = search
                raise
        self.remove_unused()

    def remove_unused(self) -> None:
        """Remove from the folder what interrupted changes left there. The lock is held."""
        if self.path is not None and self.snapshot.manifest is not None:
            with suppress(OSError):  # the change is made; what is left the next writer removes
                storage.remove_unused(self.path, self.snapshot.manifest)


def _without(snapshot: Snapshot, rows: NDArray[np.int64]) -> list[Segment]:
    """Return the segments of a snapshot, with these rows deleted too."""
    segments = []
    for segment, base in zip(snapshot.segments, snapshot.bases[:-1].tolist(), strict=True):
        own = rows[(rows >= base) & (rows < base + len(segment))] - base
        if len(own):
            deleted = np.zeros(len(segment), bool) if segment.deleted is None else segment.deleted.copy()
            deleted[own] = True
            segment = with_deleted(segment, deleted)
        segments.append(segment)
    return segments


def _first_to_merge(segments: Sequence[Segment]) -> int:
    sizes = np.array([segment.documents.num_tokens for segment in segments])
    after = np.cumsum(sizes[::-1])[::-1] - sizes
    fitting = np.flatnonzero(sizes[:-1] <= after[:-1])
    return int(fitting[0]) if len(fitting) else len(segments) - 2


def _metadata(snapshot: Snapshot, row: int) -> dict[str, Any]:
    segment, local = snapshot.place_of(row)
    return segment.metadata.of(local)


# ── what comes in ─────────────────────────────────────────────────────────────────────────────────────────────────────


def batches(
    documents: TokenVectorsLike | Iterator[Any],
    ids: Any,
    metadata: Any,
    snapshot: Snapshot,
    seen: set[int | str],
) -> Iterator[tuple[TokenVectors, list[Any], list[Any]]]:
    """Yield documents with ids and metadata, checked, at once if they are a collection, else in batches.

    Raises:
        TypeError, ValueError: as `Index.add`.
    """
    if isinstance(documents, (list, tuple)) and not documents:
        documents = iter(())  # no document tells a dim; that of the index is known
    if not isinstance(documents, Iterator):
        collection = as_token_vectors(documents, "documents")
        ids, metadata = _listed(ids, len(collection)), _listed(metadata, len(collection))
        checked = _checked_ids(ids, len(collection), snapshot, seen)
        rows = check_metadata(metadata, len(collection))
        _check_dim(collection, snapshot)
        if snapshot.manifest is None and not isinstance(documents, TokenVectors):
            # It stays in memory, and the caller may fill the same array again.
            collection = TokenVectors._trusted(collection.vectors.copy(), collection.offsets)
        if len(collection):
            yield collection, checked, rows
        return
    more_ids = _iterator(ids, "ids")
    more_metadata = None if metadata is None else _iterator(metadata, "metadata")
    batch: list[Any] = []
    num_tokens = 0
    for document in documents:
        if not hasattr(document, "__len__"):
            raise TypeError(f"documents: expected an iterator of 2-D arrays, got one of {type(document).__name__}")
        # A copy: the next document may come in the same array.
        batch.append(document.copy() if isinstance(document, np.ndarray) else document)
        num_tokens += len(document)
        if num_tokens >= _BATCH_TOKENS:
            yield _gathered(batch, more_ids, more_metadata, snapshot, seen)
            batch, num_tokens = [], 0
    if batch:
        yield _gathered(batch, more_ids, more_metadata, snapshot, seen)
    for rest, name in ((more_ids, "ids"), (more_metadata, "metadata")):
        if rest is not None and next(rest, rest) is not rest:
            raise ValueError(f"{name}: expected one per document, got more")


def _gathered(
    batch: list[Any], ids: Iterator[Any], metadata: Iterator[Any] | None, snapshot: Snapshot, seen: set[int | str]
) -> tuple[TokenVectors, list[Any], list[Any]]:
    collection = as_token_vectors(batch, "documents")
    _check_dim(collection, snapshot)
    some = [one for _, one in zip(batch, ids, strict=False)]
    rows = None if metadata is None else [one for _, one in zip(batch, metadata, strict=False)]
    return collection, _checked_ids(some, len(batch), snapshot, seen), check_metadata(rows, len(batch))


def _listed(values: Any, size: int) -> Any:
    """Return what an iterator yields as a list, no more than one more than wanted: it may never end."""
    return list(islice(values, size + 1)) if isinstance(values, (Iterator, KeysView, ValuesView)) else values


def _iterator(values: Any, argument: str) -> Iterator[Any]:
    if isinstance(values, (str, bytes, set, frozenset, dict)) or not isinstance(values, (Iterable, np.ndarray)):
        raise TypeError(f"{argument}: expected one per document, in order, got {type(values).__name__}")
    return iter(values.tolist() if isinstance(values, np.ndarray) else values)


def _checked_ids(ids: Any, num_documents: int, snapshot: Snapshot, seen: set[int | str]) -> list[Any]:
    if ids is None:
        raise TypeError("ids: expected one per document, got None")
    checked: list[Any] = list(check_ids(ids, num_documents))
    if checked and isinstance(checked[0], str) != snapshot.are_strings:
        kind = "str" if snapshot.are_strings else "int"
        raise TypeError(f"ids: expected {kind}, as the index has them, got {checked[0]!r}")
    if not seen.isdisjoint(checked):
        repeated = next(one for one in checked if one in seen)
        raise ValueError(f"ids: expected all different, got {repeated!r} twice")
    seen.update(checked)
    return checked


def _check_dim(collection: TokenVectors, snapshot: Snapshot) -> None:
    if collection.dim != snapshot.documents.dim:
        raise ValueError(f"documents: expected dim {snapshot.documents.dim} (the index's), got {collection.dim}")
