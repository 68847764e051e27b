"""Token vectors on disk, as the command line reads them: one .npz, a pair of .npy, or a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from chamfer._archives import raise_disk_error
from chamfer.token_vectors import TokenVectors

FORMATS = (
    "an .npz of vectors, offsets and, if wanted, ids; "
    "or NAME.npy with NAME.offsets.npy and, if wanted, NAME.ids.json beside it; "
    "or a folder of vectors.npy (or tokens.npy), offsets.npy and, if wanted, ids.json"
)


def read_token_vectors(path: Path) -> tuple[TokenVectors, list[Any] | None]:
    """Read a collection and its ids.

    Args:
        path: vectors float32 or float16, shape (num_tokens, dim); offsets integers, shape (n + 1,); ids a list of n
            strings or integers. One of: an .npz of these names; NAME.npy beside NAME.offsets.npy and, if there are ids,
            NAME.ids.json; a folder of vectors.npy or tokens.npy, offsets.npy and ids.json. Vectors in an .npy stay on
            disk, memory-mapped.

    Returns:
        The collection, and its ids or None.

    Raises:
        FileNotFoundError: the file, or what belongs beside it, is missing.
        TypeError, ValueError: the arrays are no token vectors (see TokenVectors), or a file is damaged; the path is
            named.
    """
    try:
        if path.is_dir():
            vectors = next((path / name for name in ("vectors.npy", "tokens.npy") if (path / name).exists()), None)
            if vectors is None:
                raise FileNotFoundError(f"{path}: expected vectors.npy or tokens.npy in this folder")
            return _read_pair(vectors, path / "offsets.npy", path / "ids.json")
        if path.suffix == ".npy":
            return _read_pair(path, path.with_suffix(".offsets.npy"), path.with_suffix(".ids.json"))
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or not {"vectors", "offsets"} <= set(archive.files):
                raise ValueError(f"expected {FORMATS}")
            ids = archive["ids"].tolist() if "ids" in archive.files else None
            return TokenVectors(archive["vectors"], archive["offsets"]), ids
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # zipfile, NumPy and JSON raise a dozen kinds for damaged bytes
        raise_disk_error(error)
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{path}: {error}") from None


def _read_pair(vectors: Path, offsets: Path, ids: Path) -> tuple[TokenVectors, list[Any] | None]:
    for file in (vectors, offsets):
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such file; expected {FORMATS}")
    collection = TokenVectors(np.load(vectors, mmap_mode="r"), np.load(offsets))
    return collection, json.loads(ids.read_text("utf-8")) if ids.exists() else None
