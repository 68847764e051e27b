"""How an index lies on disk: a folder of files that is replaced in one step.

    PATH/manifest.json          format version, settings, name, size and checksum of every file of the current
    generation PATH/g-<random>/            one generation: vectors.npy, offsets.npy, ids.json, reducer.npz,
    candidates.faiss

A save writes a new generation, syncs it, and then replaces manifest.json; that one rename is the moment of change. A
crash leaves the old index, and a folder that the next save removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chamfer._files import replace_file, sync_folder
from chamfer.errors import CorruptIndexError

FORMAT = "chamfer.Index"
FORMAT_VERSION = 1

_MANIFEST = "manifest.json"


def write(path: Path, settings: Mapping[str, Any], writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Save a generation: each writer gets the path of its file.

    Raises:
        FileExistsError: the folder holds something that is no index.
    """
    path.mkdir(parents=True, exist_ok=True)
    if not (path / _MANIFEST).exists() and any(not entry.name.startswith("g-") for entry in path.iterdir()):
        raise FileExistsError(f"{path}: holds files that are not an index; choose a new or empty folder")
    generation = path / f"g-{secrets.token_hex(6)}"
    generation.mkdir()
    try:
        files = {}
        for name, writer in writers.items():
            writer(generation / name)
            files[name] = {"bytes": (generation / name).stat().st_size, "blake2b": _sync_and_hash(generation / name)}
        sync_folder(generation)
        sync_folder(path)
        manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "generation": generation.name,
            "settings": dict(settings),
            "files": files,
        }
        text = json.dumps(manifest, indent=1)
        with replace_file(path / _MANIFEST) as file:
            file.write(json.dumps({"checksum": _text_hash(text), "manifest": text}).encode())
    except BaseException:
        shutil.rmtree(generation, ignore_errors=True)
        raise
    for old in path.glob("g-*"):
        if old != generation:
            shutil.rmtree(old, ignore_errors=True)  # on Windows a mapped file stays until the next save


def read(path: Path, *, verify: bool, mapped: frozenset[str]) -> tuple[dict[str, Any], Path]:
    """Return the settings and the folder of the current generation, its files checked.

    Sizes are always checked, checksums of all files but `mapped` ones, which are not read here; `verify` checks those
    too.

    Raises:
        FileNotFoundError: there is no index at this path.
        CorruptIndexError: a file is missing, cut short or changed.
        ValueError: a newer chamfer wrote the index.
    """
    try:
        stored = (path / _MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no index here (no {_MANIFEST})") from None
    try:
        envelope = json.loads(stored)
        if _text_hash(envelope["manifest"]) != envelope["checksum"]:
            raise ValueError("its checksum differs")
        manifest = json.loads(envelope["manifest"])
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptIndexError(f"{path / _MANIFEST}: damaged, or not chamfer's ({error})") from None
    if manifest["version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {manifest['version']}, this chamfer reads {FORMAT_VERSION}; upgrade chamfer"
        )
    generation = path / manifest["generation"]
    for name, expected in manifest["files"].items():
        file = generation / name
        if not file.is_file():
            raise CorruptIndexError(f"{file}: missing; restore the folder from a copy or build the index again")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise CorruptIndexError(f"{file}: expected {expected['bytes']} bytes, got {size}")
        if (verify or name not in mapped) and _hash(file) != expected["blake2b"]:
            raise CorruptIndexError(f"{file}: its contents changed since it was written (checksum differs)")
    return manifest["settings"], generation


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
