"""The file of a FixedDimensionalEncoder: parameters and arrays in an .npz, under a checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chamfer._files import replace_file
from chamfer.errors import CorruptIndexError

_FORMAT = "chamfer.FixedDimensionalEncoder"
_FORMAT_VERSION = 1


def write_encoder(path: Path, parameters: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write parameters, arrays, their checksum and the format version to one file, atomically."""
    header = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "parameters": parameters,
        "checksum": _checksum(parameters, arrays),
    }
    with replace_file(path) as file:
        np.savez(file, **{"header": np.array(json.dumps(header)), **arrays})  # type: ignore[arg-type]


def read_encoder(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return parameters and arrays that `write_encoder` wrote, with the checksum verified and nothing else.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptIndexError: the file is damaged, or not an encoder.
        ValueError: a newer chamfer wrote it.
    """
    with path.open("rb") as stream:
        try:
            header, arrays = _read_npz(stream)
            version = int(header["version"])
        except Exception as error:  # zipfile and NumPy raise a dozen kinds for damaged bytes
            raise CorruptIndexError(f"{path}: damaged, or not a saved FixedDimensionalEncoder ({error})") from None
    if version != _FORMAT_VERSION:
        raise ValueError(f"{path}: format version {version}, this chamfer reads {_FORMAT_VERSION}; upgrade chamfer")
    try:
        intact = _checksum(header["parameters"], arrays) == header["checksum"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptIndexError(f"{path}: its contents do not fit together ({error})") from None
    if not intact:
        raise CorruptIndexError(f"{path}: its contents do not fit together (checksum differs)")
    return header["parameters"], arrays


def _checksum(parameters: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(json.dumps(parameters, sort_keys=True).encode(), digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _read_npz(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with np.load(stream, allow_pickle=False) as file:
        header = json.loads(str(file["header"]))
        arrays = {name: np.ascontiguousarray(file[name]) for name in file.files if name != "header"}
    if header["format"] != _FORMAT:
        raise ValueError(f"its format is {header['format']!r}")
    return header, arrays
