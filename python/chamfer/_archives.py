"""Archives: parameters and arrays in one .npz, under a format name, a version and a checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chamfer._files import replace_file
from chamfer.errors import CorruptIndexError


def write_archive(
    path: Path, format_name: str, version: int, parameters: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> None:
    """Write parameters, arrays, their checksum and the format to one file, atomically.

    Args:
        path: the file, replaced if it exists.
        format_name: what the file holds, such as "chamfer.Codec".
        version: of that format.
        parameters: what JSON can hold.
        arrays: by name; any but "header".
    """
    header = {
        "format": format_name,
        "version": version,
        "parameters": parameters,
        "checksum": checksum(parameters, arrays),
    }
    with replace_file(path) as file:
        np.savez(file, **{"header": np.array(json.dumps(header)), **arrays})  # type: ignore[arg-type]


def read_archive(
    path: Path, format_name: str, version: int, *, mapped: Sequence[str] | None = None
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return parameters and arrays that `write_archive` wrote, with the checksum verified and nothing else.

    Args:
        path: the file.
        format_name: what it is to hold.
        version: of that format.
        mapped: arrays to map where they lie instead of reading them, if the caller has checked the file as a whole; the
            checksum is then left aside. They need not be aligned.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptIndexError: the file is damaged, or of another format.
        ValueError: a newer chamfer wrote it.
    """
    with path.open("rb") as stream:
        try:
            header, arrays = _read_npz(stream, format_name, mapped or ())
            arrays |= {name: _map_array(path, stream, name) for name in mapped or ()}
            found = int(header["version"])
        except Exception as error:  # zipfile and NumPy raise a dozen kinds for damaged bytes
            raise_disk_error(error)
            kind = format_name.removeprefix("chamfer.")
            raise CorruptIndexError(f"{path}: damaged, or not a saved {kind} ({error})") from None
    if found != version:
        raise ValueError(f"{path}: format version {found}, this chamfer reads {version}; upgrade chamfer")
    try:
        intact = mapped is not None or checksum(header["parameters"], arrays) == header["checksum"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptIndexError(f"{path}: its contents do not fit together ({error})") from None
    if not intact:
        raise CorruptIndexError(f"{path}: its contents do not fit together (checksum differs)")
    return header["parameters"], arrays


def checksum(parameters: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    """Return a hash of parameters and arrays, 32 hexadecimal digits."""
    digest = hashlib.blake2b(json.dumps(parameters, sort_keys=True).encode(), digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)  # not tobytes, which copies: codes may take gigabytes
    return digest.hexdigest()


def _map_array(path: Path, stream: IO[bytes], name: str) -> NDArray[Any]:
    with zipfile.ZipFile(stream) as archive:
        info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    stream.seek(info.header_offset + 26)
    stream.seek(sum(struct.unpack("<HH", stream.read(4))), os.SEEK_CUR)  # file name and extra field
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return np.memmap(path, dtype, "r", stream.tell(), shape).view(np.ndarray)


def raise_disk_error(error: Exception) -> None:
    """Raise the disk's own error where there is one: zipfile makes a bad file of it."""
    cause = error.__context__ if isinstance(error, zipfile.BadZipFile) else error
    if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL):  # EINVAL: a seek to nowhere
        raise cause from None


def _read_npz(
    stream: IO[bytes], format_name: str, left_out: Sequence[str]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with np.load(stream, allow_pickle=False) as file:
        header = json.loads(str(file["header"]))
        arrays = {name: np.ascontiguousarray(file[name]) for name in file.files if name not in ("header", *left_out)}
    if header["format"] != format_name:
        raise ValueError(f"its format is {header['format']!r}")
    return header, arrays
