"""Indexes that chamfer saved in versions 1 and 2: folders that it still reads, and writes no more.

- `PATH/manifest.json`: format version, settings, and name, size and checksum of every file of the current generation.
- `PATH/g-<12 hex digits>/`: that generation, with vectors.npy, offsets.npy, ids.json, reducer.npz, candidates.faiss (or
  candidates.npz, if they are binary codes), and codes-*.npz of each coded stage of reranking.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chamfer.cascade import EXACT, FittedStage, check_stage_names
from chamfer.codecs import load_codes
from chamfer.errors import CorruptIndexError
from chamfer.index.filling import load_candidates
from chamfer.index.ids import check_ids
from chamfer.index.model import Model
from chamfer.index.reducing import load_reducer
from chamfer.index.segments import Segment, SegmentMetadata, ids_array
from chamfer.index.settings import SearchSettings
from chamfer.index.snapshot import Snapshot, check_settings
from chamfer.parts import Collection
from chamfer.token_vectors import TokenVectors

MANIFEST = "manifest.json"

_FORMAT = "chamfer.Index"
_LAST_VERSION = 2
_FILES = frozenset({"vectors.npy", "offsets.npy", "ids.json", "reducer.npz"})
_CANDIDATES = frozenset({"candidates.faiss", "candidates.npz"})  # one of them
_MAPPED = frozenset({"vectors.npy"})
_CODES = re.compile(r"codes-[a-z0-9-]+\.npz")
_GENERATION = re.compile(r"g-[0-9a-f]{12}")
_LEFT_BEHIND = re.compile(r"\.manifest\.json\.[0-9a-f]{12}")  # of a save that was killed


def is_own(name: str) -> bool:
    """Return whether a file or folder of this name is one of an index of these versions."""
    return name == MANIFEST or any(pattern.fullmatch(name) for pattern in (_GENERATION, _LEFT_BEHIND))


def remove(path: Path) -> None:
    """Remove an index of these versions from a folder, if there is one."""
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name != MANIFEST):
        if is_own(entry.name):
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


def read(path: Path, *, verify: bool) -> tuple[Snapshot, SearchSettings]:
    """Return the index in a folder; token vectors are mapped, and checked if `verify`.

    Raises:
        FileNotFoundError: there is no such index.
        CorruptIndexError: a file is missing, cut short or changed.
    """
    manifest = read_manifest(path)
    if manifest["version"] not in range(1, _LAST_VERSION + 1):
        raise ValueError(
            f"{path}: format version {manifest['version']}, this chamfer does not know it; upgrade chamfer"
        )
    generation = path / manifest["generation"]
    others = set(manifest["files"]) ^ _FILES
    unknown = {name for name in others - _CANDIDATES if name in _FILES or not _CODES.fullmatch(name)}
    if unknown or len(others & _CANDIDATES) != 1:
        raise CorruptIndexError(
            f"{path}: expected files {sorted(_FILES)} and one of {sorted(_CANDIDATES)}, got {sorted(manifest['files'])}"
        )
    _check_files(generation, manifest["files"], verify, _MAPPED)
    return _load(_upgraded(manifest["settings"], manifest["version"]), generation)


def _load(settings: dict[str, Any], generation: Path) -> tuple[Snapshot, SearchSettings]:
    reducer = load_reducer(generation / "reducer.npz", settings.get("reducer", ""))
    candidates = load_candidates(generation, reducer.output_dimension, settings.get("candidates", ""))
    try:
        vectors = np.load(generation / "vectors.npy", mmap_mode="r", allow_pickle=False)
        offsets = np.load(generation / "offsets.npy", allow_pickle=False)
        ids = json.loads((generation / "ids.json").read_bytes())
        if vectors.ndim != 2 or vectors.shape[1] != reducer.dim or int(offsets[-1]) != len(vectors):
            raise ValueError(f"vectors {vectors.shape}, offsets to {offsets[-1]}, reducer of dim {reducer.dim}")
        if not len(offsets) - 1 == len(ids) == candidates.num_documents:
            raise ValueError(f"{len(offsets) - 1} documents, {len(ids)} ids, {candidates.num_documents} encodings")
        documents = TokenVectors._trusted(vectors.view(np.ndarray), offsets)
        checked = check_ids(ids, len(ids))
        found = ids_array(checked, are_strings=bool(checked) and isinstance(checked[0], str))
        stages, codes = _stages(settings, generation, documents)
        model = Model(reducer, stages, None, {}, len(documents))
        segment = Segment(documents, codes, candidates, found, SegmentMetadata(b""))
        snapshot, search = Snapshot(model, [segment]), SearchSettings.from_json(settings["search"])
        check_settings(search, snapshot)
        return snapshot, search
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, CorruptIndexError):
            raise
        raise CorruptIndexError(f"{generation}: its files do not fit together ({error})") from None


def _stages(
    settings: Mapping[str, Any], generation: Path, documents: TokenVectors
) -> tuple[tuple[FittedStage, ...] | None, dict[str, Collection]]:
    stored = settings["rerank"]
    if stored is None:
        return None, {}
    stages: list[FittedStage] = []
    codes: dict[str, Collection] = {}
    for name in check_stage_names([stage["name"] for stage in stored], "rerank"):
        error = float(stored[len(stages)]["error"])
        if not 0 <= error < np.inf:
            raise ValueError(f"error {error} of its stage {name!r}")
        if name == EXACT:
            stages.append(FittedStage(name, None, error))
            continue
        path = generation / f"codes-{name.replace(':', '-')}.npz"
        made, codes[name] = load_codes(path)
        if made.name != name or made.dim != documents.dim or not np.array_equal(codes[name].offsets, documents.offsets):
            raise CorruptIndexError(f"{path}: expected codes {name!r} of {documents!r}, got {made!r}")
        stages.append(FittedStage(name, made, error))
    return tuple(stages), codes


def _upgraded(settings: dict[str, Any], version: int) -> dict[str, Any]:
    """Return settings as the present version has them."""
    if version == _LAST_VERSION:
        return settings
    return settings | {
        "reducer": "FixedDimensionalEncoder",
        "rerank": [{"name": "exact", "error": 0.0}] if settings.get("rerank") else None,
        "search": {"num_candidates": None, "budgets": None, "margin": None},
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """Return what the manifest says, checked.

    Raises:
        FileNotFoundError: there is none.
        CorruptIndexError: it is damaged, or another program's.
    """
    try:
        stored = (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no index here") from None
    try:
        envelope = json.loads(stored)
        if _text_hash(envelope["manifest"]) != envelope["checksum"]:
            raise ValueError("its checksum differs")
        manifest: dict[str, Any] = json.loads(envelope["manifest"])
        if manifest["format"] != _FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}")
        if not _GENERATION.fullmatch(manifest["generation"]):
            raise ValueError("it names a folder outside the index")
        for part in ("version", "settings", "files"):
            manifest[part]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptIndexError(f"{path / MANIFEST}: damaged, or not chamfer's ({error})") from None
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


def _text_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _hash(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
