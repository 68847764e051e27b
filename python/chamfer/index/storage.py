"""How an index lies on disk: a folder of files that is replaced in one step.

- `PATH/manifest.json`: format version, settings, and name, size and checksum of every file of the current generation.
- `PATH/g-<12 hex digits>/`: a generation, with vectors.npy, offsets.npy, ids.json, reducer.npz, candidates.faiss (or
  candidates.npz, if they are binary codes), and codes-*.npz of each coded stage of reranking.
- `PATH/lock`: held by the one who writes.

A save writes a new generation, syncs it, and then replaces manifest.json; that one rename is the moment of change. A
crash leaves the old index, and a folder that the next save removes.

Version 2 added codes, and to the settings the stages, the reducer's class and how wide a search looks. Version 1 still
opens.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from chamfer._files import locked_file, replace_file, sync_folder
from chamfer.errors import CorruptIndexError

_T = TypeVar("_T")

FORMAT = "chamfer.Index"
FORMAT_VERSION = 2
FILES = frozenset({"vectors.npy", "offsets.npy", "ids.json", "reducer.npz"})
CANDIDATES = frozenset({"candidates.faiss", "candidates.npz"})  # one of them

_CODES = re.compile(r"codes-[a-z0-9-]+\.npz")
_MANIFEST = "manifest.json"
_LOCK = "lock"
_GENERATION = re.compile(r"g-[0-9a-f]{12}")
_LEFT_BEHIND = re.compile(r"\.manifest\.json\.[0-9a-f]{12}")  # of a save that was killed


def refuse_foreign(path: Path) -> None:
    """Raise FileExistsError unless the folder is new, empty, or an index: a save replaces what is chamfer's own."""
    try:
        _read_manifest(path)
    except FileNotFoundError:
        if not path.exists():
            return
        own = (_GENERATION, _LEFT_BEHIND, re.compile(_LOCK))
        if all(any(pattern.fullmatch(entry.name) for pattern in own) for entry in path.iterdir()):
            return
    except CorruptIndexError:
        pass  # a damaged index, or another program's manifest: neither is to be lost in silence
    else:
        return
    raise FileExistsError(f"{path}: holds files that are not an index; choose a new or empty folder")


def write(
    path: Path,
    settings: Mapping[str, Any],
    writers: Mapping[str, Callable[[Path], None]],
    *,
    generation_read: str | None,
    mapped: frozenset[str],
) -> str:
    """Save a generation, and return its name: each writer gets the path of its file.

    If `generation_read`, what the caller has from this folder, is still there and whole, as `read` checks it with
    `mapped`, settings alone are written.

    Raises:
        FileExistsError: the folder holds something that is no index, or another generation than the one read.
        LockedIndexError: another save is under way.
    """
    refuse_foreign(path)
    path.mkdir(parents=True, exist_ok=True)
    with locked_file(path / _LOCK):
        if generation_read is not None and (path / _MANIFEST).exists():
            manifest = _read_manifest(path)
            if manifest["generation"] != generation_read:
                raise FileExistsError(
                    f"{path}: holds another index, saved since this one was opened or saved; "
                    "open that one, or save this one to another folder"
                )
            if manifest["version"] == FORMAT_VERSION and _is_whole(path / generation_read, manifest["files"], mapped):
                _write_manifest(path, manifest | {"settings": dict(settings)})
                return generation_read
        generation = path / f"g-{secrets.token_hex(6)}"
        generation.mkdir()
        try:
            files = {}
            for name, writer in writers.items():
                writer(generation / name)
                size = (generation / name).stat().st_size
                files[name] = {"bytes": size, "blake2b": _sync_and_hash(generation / name)}
            sync_folder(generation)
            sync_folder(path)
            manifest = {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "generation": generation.name,
                "settings": dict(settings),
                "files": files,
            }
            _write_manifest(path, manifest)
        except BaseException:
            shutil.rmtree(generation, ignore_errors=True)
            raise
        for entry in path.iterdir():
            if _LEFT_BEHIND.fullmatch(entry.name):
                entry.unlink(missing_ok=True)
            elif _GENERATION.fullmatch(entry.name) and entry != generation:
                shutil.rmtree(entry, ignore_errors=True)  # on Windows a mapped file stays until the next save
        return generation.name


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, indent=1)
    with replace_file(path / _MANIFEST) as file:
        file.write(json.dumps({"checksum": _text_hash(text), "manifest": text}).encode())


def read(path: Path, load: Callable[[dict[str, Any], Path], _T], *, verify: bool, mapped: frozenset[str]) -> _T:
    """Return load(settings, folder of the current generation), its files checked before.

    Sizes are always checked, checksums of all files but `mapped` ones, which `load` maps; `verify` checks those too.

    Raises:
        FileNotFoundError: there is no index at this path.
        CorruptIndexError: a file is missing, cut short or changed.
        ValueError: a newer chamfer wrote the index.
    """
    while True:
        manifest = _read_manifest(path)
        if manifest["version"] not in (1, FORMAT_VERSION):
            raise ValueError(
                f"{path}: format version {manifest['version']}, this chamfer reads up to {FORMAT_VERSION}; "
                "upgrade chamfer"
            )
        generation = path / manifest["generation"]
        try:
            others = set(manifest["files"]) ^ FILES
            unknown = {name for name in others - CANDIDATES if name in FILES or not _CODES.fullmatch(name)}
            if unknown or len(others & CANDIDATES) != 1:
                raise CorruptIndexError(
                    f"{path}: expected files {sorted(FILES)} and one of {sorted(CANDIDATES)}, "
                    f"got {sorted(manifest['files'])}"
                )
            _check_files(generation, manifest["files"], verify, mapped)
            return load(_upgraded(manifest["settings"], manifest["version"]), generation)
        except (CorruptIndexError, FileNotFoundError) as error:
            # A save may have replaced the index, and removed these files, while they were read.
            if _read_manifest(path)["generation"] == manifest["generation"]:
                raise CorruptIndexError(str(error)) from None


def _upgraded(settings: dict[str, Any], version: int) -> dict[str, Any]:
    """Return settings as the present version has them."""
    if version == FORMAT_VERSION:
        return settings
    return settings | {
        "reducer": "FixedDimensionalEncoder",
        "rerank": [{"name": "exact", "error": 0.0}] if settings.get("rerank") else None,
        "search": {"num_candidates": None, "budgets": None, "margin": None},
    }


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        stored = (path / _MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no index here (no {_MANIFEST})") from None
    try:
        envelope = json.loads(stored)
        if _text_hash(envelope["manifest"]) != envelope["checksum"]:
            raise ValueError("its checksum differs")
        manifest: dict[str, Any] = json.loads(envelope["manifest"])
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}")
        if not _GENERATION.fullmatch(manifest["generation"]):
            raise ValueError("it names a folder outside the index")
        for part in ("version", "settings", "files"):
            manifest[part]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptIndexError(f"{path / _MANIFEST}: damaged, or not chamfer's ({error})") from None
    return manifest


def _check_files(generation: Path, files: Mapping[str, Any], verify: bool, mapped: frozenset[str]) -> None:
    for name, expected in files.items():
        file = generation / name
        try:
            size = file.stat().st_size
            if size != expected["bytes"]:
                raise CorruptIndexError(f"{file}: expected {expected['bytes']} bytes, got {size}")
            if (verify or name not in mapped) and _hash(file) != expected["blake2b"]:
                raise CorruptIndexError(f"{file}: its contents changed since it was written (checksum differs)")
        except FileNotFoundError:
            raise CorruptIndexError(
                f"{file}: missing; restore the folder from a copy or build the index again"
            ) from None


def _is_whole(generation: Path, files: Mapping[str, Any], mapped: frozenset[str]) -> bool:
    try:
        _check_files(generation, files, verify=False, mapped=mapped)
    except (CorruptIndexError, OSError):
        return False
    return True


def _text_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _hash(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _sync_and_hash(file: Path) -> str:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
    return _hash(file)
