"""How an index lies on disk: immutable segments, and a catalogue that says which of them are the index.

- `PATH/catalogue.sqlite`: the manifest (settings, names, sizes and checksums of all files), and of each segment ids,
  metadata and which documents are deleted. See catalogue.py.
- `PATH/HEAD`: index and generation of the last change, to be read in no time.
- `PATH/m-<12 hex digits>/`: the model: reducer.npz, codec-*.npz and, if it had sample queries, queries.chamfer.
- `PATH/s-<12 hex digits>/`: a segment: documents.chamfer (see _containers.py) and candidates.faiss or candidates.npz.
- `PATH/lock`: held by the one who writes.

A change writes new folders, syncs them, and then replaces the manifest by one transaction of SQLite; that is the moment
of change. A crash leaves the old state or the new one, and folders that the next writer removes. This is version 3;
versions 1 and 2 are read by legacy.py.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chamfer._files import locked_file, sync_file, sync_folder
from chamfer.errors import CorruptIndexError
from chamfer.index import catalogue, legacy
from chamfer.index.catalogue import Blobs, Manifest
from chamfer.index.model import Model
from chamfer.index.segments import (
    Segment,
    check_documents,
    check_files,
    decode_deleted,
    encode_deleted,
    files_of,
    live_arrays,
    make_segment,
    open_segment,
    segment_blobs,
    with_deleted,
)
from chamfer.index.settings import SearchSettings
from chamfer.index.snapshot import Snapshot, check_settings

LOCK = "lock"

_FOLDER = re.compile(r"[sm]-[0-9a-f]{12}")
_CATALOGUE = re.escape(catalogue.CATALOGUE)
_OWN = re.compile(rf"{_CATALOGUE}(-wal|-shm|-journal)?|{catalogue.HEAD}|{LOCK}|\.+({_CATALOGUE}|{catalogue.HEAD})\..+")


def refuse_foreign(path: Path) -> None:
    """Raise FileExistsError unless the folder is new, empty, or an index: a save replaces what is chamfer's own."""
    if not path.exists():
        return
    if not path.is_dir():
        raise FileExistsError(f"{path}: is a file; choose a new or empty folder")
    for entry in path.iterdir():
        if not (_OWN.fullmatch(entry.name) or _FOLDER.fullmatch(entry.name) or legacy.is_own(entry.name)):
            raise FileExistsError(
                f"{path}: holds files that are not an index ({entry.name}); choose a new or empty folder"
            )
    try:
        if is_present(path):
            catalogue.read(path)
        elif (path / legacy.MANIFEST).exists():
            legacy.read_manifest(path)
    except CorruptIndexError as error:  # not to be lost in silence
        raise FileExistsError(f"{path}: holds a damaged index ({error}); choose a new or empty folder") from None


def refuse_locked(path: Path) -> None:
    """Raise LockedIndexError if somebody is writing to a folder."""
    if (path / LOCK).exists():
        with locked_file(path / LOCK):
            pass


def is_present(path: Path) -> bool:
    """Return whether a folder holds an index of this version, or what is left of one."""
    if (path / catalogue.HEAD).exists():
        return True
    return (path / catalogue.CATALOGUE).exists() and not catalogue.is_unfinished(path)


def _settings(snapshot: Snapshot, search: SearchSettings) -> dict[str, Any]:
    """Return what the manifest holds besides files."""
    return {
        **snapshot.model.settings(),
        "dim": snapshot.documents.dim,
        "strings": snapshot.are_strings,
        "candidates": snapshot.candidates.description,
        "search": search.to_json(),
    }


def _write_model(path: Path, model: Model) -> tuple[str, dict[str, tuple[int, str]]]:
    """Write a model into a new folder, synced, and return its name and files."""
    name = f"m-{secrets.token_hex(6)}"
    folder = path / name
    folder.mkdir()
    model.save(folder)
    for file in model.files:
        sync_file(folder / file)
    sync_folder(folder)
    sync_folder(path)
    return name, files_of(folder, model.files)


def write_whole(path: Path, snapshot: Snapshot, search: SearchSettings) -> Snapshot:
    """Make a folder hold this index instead of what it holds, and return it as it lies there. The lock is held."""
    generation = 0
    if is_present(path):
        generation = catalogue.read(path)[0].generation
    else:
        for file in path.glob(f"{catalogue.CATALOGUE}*"):  # of a first build that was killed
            file.unlink()
        catalogue.create(path)
    segments: list[Segment] = []
    model = ""
    try:
        model, files = _write_model(path, snapshot.model)
        for segment in snapshot.segments:
            lies_there = segment.record is not None and (path / segment.record.name).exists()
            segments.append(segment if lies_there else copied(path, segment, snapshot.model))
        settings = _settings(snapshot, search)
        manifest = Manifest(generation, secrets.token_hex(8), settings, model, files, _records(segments))
        written = catalogue.write(path, manifest, {_name(segment): segment_blobs(segment) for segment in segments})
    except BaseException:
        # An error of the very last step may have come after the change: then these folders are the index.
        if not _names(path, model):
            for name in filter(None, (model, *map(_name, segments))):
                shutil.rmtree(path / name, ignore_errors=True)
        raise
    remove_unused(path, written)
    return Snapshot(snapshot.model, segments, written)


def is_whole(path: Path, snapshot: Snapshot) -> bool:
    """Return whether all files of a snapshot lie in a folder as they were written, token vectors by size only."""
    manifest = snapshot.manifest
    if manifest is None:
        return False
    try:
        check_files(path / manifest.model, manifest.model_files)
        for record in manifest.segments:
            check_files(path / record.name, record.files)
            check_documents(path / record.name)
    except (CorruptIndexError, OSError):
        return False
    return True


def detached(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot that is to be written anew, wherever it lies."""
    return Snapshot(snapshot.model, [replace(segment, record=None) for segment in snapshot.segments])


def refuse_newer(path: Path, snapshot: Snapshot) -> None:
    """Raise FileExistsError if a folder, which this state was read from, holds a later one."""
    if not is_present(path):
        return
    found, known = catalogue.read(path)[0], snapshot.manifest
    if known is None or (found.index_id, found.generation) != (known.index_id, known.generation):
        raise FileExistsError(
            f"{path}: holds another index, or a later state, saved since this one was opened or saved; "
            "open that one, or save this one to another folder"
        )


def _names(path: Path, model: str) -> bool:
    """Return whether the state of a folder is, or may be, of this model."""
    try:
        return bool(model) and catalogue.read(path)[0].model == model
    except FileNotFoundError:
        return False
    except Exception:  # a disk that fails does so again
        return True


def copied(path: Path, segment: Segment, model: Model) -> Segment:
    """Return a segment on disk with the contents of another; deleted documents stay, since candidates have them."""
    arrays = live_arrays([replace(segment, deleted=None)])
    made = make_segment(path, arrays, model.codecs, segment.ids, segment.metadata, lambda _: segment.candidates)
    return with_deleted(made, segment.deleted)


def commit(path: Path, before: Manifest, model: Model, after: Snapshot, search: SearchSettings) -> Snapshot:
    """Make a snapshot the state of a folder whose state was `before`, with this model. The lock is held.

    Its segments lie there already.

    Raises:
        As `catalogue.write`.
    """
    there = {record.name for record in before.segments}
    changed = {
        _name(one): Blobs(b"", b"", encode_deleted(one.deleted)) if _name(one) in there else segment_blobs(one)
        for one in after.segments
        if one.record not in before.segments
    }
    manifest = replace(before, settings=_settings(after, search), segments=_records(after.segments))
    if after.model is not model:
        name, files = _write_model(path, after.model)
        manifest = replace(manifest, model=name, model_files=files)
    return Snapshot(after.model, after.segments, catalogue.write(path, manifest, changed))


def _name(segment: Segment) -> str:
    assert segment.record is not None
    return segment.record.name


def _records(segments: Sequence[Segment]) -> tuple[catalogue.Record, ...]:
    records = [segment.record for segment in segments if segment.record is not None]
    assert len(records) == len(segments)
    return tuple(records)


def remove_unused(path: Path, manifest: Manifest) -> None:
    """Remove folders that the manifest does not name, of changes that were interrupted or are past."""
    used = {manifest.model, *(record.name for record in manifest.segments)}
    for entry in path.iterdir():
        if _FOLDER.fullmatch(entry.name) and entry.name not in used:
            shutil.rmtree(entry, ignore_errors=True)  # on Windows a mapped file stays until the next writer
        elif entry.name.startswith(".") and _OWN.fullmatch(entry.name):
            entry.unlink(missing_ok=True)
    legacy.remove(path)  # a crash may have come between the first save over it and this


def open_snapshot(path: Path, *, verify: bool, known: Snapshot | None = None) -> tuple[Snapshot, SearchSettings]:
    """Return the present state of a folder; segments and model that `known` has open are not opened again.

    Raises:
        FileNotFoundError: there is no index at this path.
        CorruptIndexError: a file is missing, cut short or changed.
        ValueError: a newer chamfer wrote it.
    """
    opened = {} if known is None or known.manifest is None else {_name(segment): segment for segment in known.segments}
    while True:
        manifest, blobs = catalogue.read(path, opened)
        try:
            return _open(path, manifest, blobs, opened, known, verify)
        except (CorruptIndexError, FileNotFoundError) as error:
            # A writer may have replaced the state, and removed these files, while they were read.
            if catalogue.read(path, opened)[0].generation == manifest.generation:
                text = str(error)
                if isinstance(error, FileNotFoundError):
                    text = f"{error.filename}: missing; restore the folder from a copy or build the index again"
                raise CorruptIndexError(text) from None


def _search_settings(path: Path, stored: Any, snapshot: Snapshot) -> SearchSettings:
    try:
        search = SearchSettings.from_json(stored)
        check_settings(search, snapshot)
    except ValueError as error:
        raise CorruptIndexError(f"{path}: its settings do not fit together ({error})") from None
    return search


def _open(
    path: Path,
    manifest: Manifest,
    blobs: Mapping[str, Blobs],
    opened: Mapping[str, Segment],
    known: Snapshot | None,
    verify: bool,
) -> tuple[Snapshot, SearchSettings]:
    try:
        settings = manifest.settings
        if known is not None and known.manifest is not None and known.manifest.model == manifest.model:
            model = known.model
        else:
            check_files(path / manifest.model, manifest.model_files)
            model = Model.load(path / manifest.model, settings)
        candidates = (settings["candidates"], model.reducer.output_dimension)
        dim, are_strings = settings["dim"], settings["strings"]
        segments = []
        for record in manifest.segments:
            own = blobs[record.name]
            before = opened.get(record.name)
            if before is None:
                segments.append(
                    open_segment(
                        path, record, own, model.codecs, dim, candidates, are_strings=are_strings, verify=verify
                    )
                )
            else:
                deleted = decode_deleted(own.deleted, len(before))
                segments.append(before if before.record == record else replace(before, deleted=deleted, record=record))
        if not segments or model.reducer.dim != dim:
            raise CorruptIndexError(
                f"{path}: its settings do not fit together "
                f"({len(segments)} segments of dim {dim}, reducer of dim {model.reducer.dim})"
            )
        snapshot = Snapshot(model, segments, manifest)
        return snapshot, _search_settings(path, settings["search"], snapshot)
    except (CorruptIndexError, FileNotFoundError):
        raise
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise CorruptIndexError(f"{path}: its settings do not fit together ({error})") from None
