r"""Containers: arrays in one file, each mapped where it lies, under a magic, a version, a length and checksums.

8 bytes   b"chamfer\n"
4 bytes   version of the layout, little-endian
4 bytes   length n of the header
8 bytes   xxh3_64 of the header
n bytes   JSON: format, length of the file, parameters, and of each array dtype, shape, offset and xxh3_64
...       the arrays, each at a multiple of 4,096 bytes, little-endian, in C order
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from chamfer.errors import CorruptIndexError

_MAGIC = b"chamfer\n"
_LAYOUT_VERSION = 1
_PREFIX = struct.Struct("<8sIIQ")
_PAGE = 4096
_CHUNK = 8 * 2**20
_LONGEST_HEADER = 2**24
_DTYPES = {"f2": "<f2", "f4": "<f4", "i8": "<i8", "u1": "|u1"}


def write_container(
    path: Path,
    format_name: str,
    version: int,
    parameters: Mapping[str, Any],
    arrays: Mapping[str, Sequence[NDArray[Any]]],
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Write a file, and sync it.

    Args:
        path: a file that does not exist.
        format_name: what the file holds, such as "chamfer.Segment".
        version: of that format.
        parameters: what JSON can hold.
        arrays: by name, each in parts that are written one after the other, at least one. They are read in stretches
            of 8 MB: parts may be memory maps of any size.
        advance: called with the bytes of each stretch.
    """
    entries: dict[str, dict[str, Any]] = {}
    header = {
        "format": format_name,
        "version": version,
        "length": "0" * 16,
        "parameters": dict(parameters),
        "arrays": entries,
    }
    for name, parts in arrays.items():
        shape = [sum(len(part) for part in parts), *parts[0].shape[1:]]
        widest = np.result_type(*parts)
        dtype = f"{widest.kind}{widest.itemsize}"
        entries[name] = {"dtype": dtype, "shape": shape, "offset": "0" * 16, "checksum": "0" * 16}
    size = len(json.dumps(header).encode())
    with path.open("xb") as file:
        end = _PREFIX.size + size
        for name, parts in arrays.items():
            begin = -(-end // _PAGE) * _PAGE
            file.seek(begin)
            digest = xxhash.xxh3_64()
            end = begin
            for part in parts:
                for stretch in _stretches(part):
                    chunk = _bytes(stretch, _DTYPES[entries[name]["dtype"]])
                    digest.update(chunk)
                    file.write(chunk)
                    end += len(chunk)
                    release(stretch)
                    advance(stretch.nbytes)
            entries[name] |= {"offset": f"{begin:016x}", "checksum": digest.hexdigest()}
        file.truncate(end)  # an array may be empty, and nothing written at its place
        header["length"] = f"{end:016x}"
        text = json.dumps(header).encode()
        file.seek(0)
        file.write(_PREFIX.pack(_MAGIC, _LAYOUT_VERSION, len(text), xxhash.xxh3_64_intdigest(text)) + text)
        file.flush()
        os.fsync(file.fileno())


class Container:
    """A file that `write_container` wrote, its header checked; its arrays are mapped, and checked by `verify`.

    Args:
        path: the file.
        format_name: what it is to hold.
        version: the highest of that format that is understood.

    Attributes:
        parameters: as written.
        arrays: by name, read-only maps of the file.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptIndexError: the file is damaged, cut short, or of another format.
        ValueError: a newer chamfer wrote it.
    """

    def __init__(self, path: Path, format_name: str, version: int) -> None:
        self.path = path
        try:
            header = self._read_header()
            if header["format"] != format_name:
                raise ValueError(f"its format is {header['format']!r}")
            found = int(header["version"])
            self._entries: dict[str, dict[str, Any]] = header["arrays"]
            self.parameters: dict[str, Any] = header["parameters"]
            length = int(header["length"], 16)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
            raise CorruptIndexError(f"{path}: damaged, or not a {format_name} ({error})") from None
        if found > version:
            raise ValueError(f"{path}: format version {found}, this chamfer reads up to {version}; upgrade chamfer")
        if (size := path.stat().st_size) != length:
            raise CorruptIndexError(f"{path}: expected {length} bytes, got {size}")
        try:
            whole = np.memmap(path, np.uint8, "r")  # once: each map of its own would keep a file descriptor
            self.arrays = {name: _view(whole, entry) for name, entry in self._entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise CorruptIndexError(f"{path}: its header does not fit its contents ({error})") from None

    def _read_header(self) -> dict[str, Any]:
        with self.path.open("rb") as file:
            magic, layout, size, checksum = _PREFIX.unpack(file.read(_PREFIX.size))
            if magic != _MAGIC:
                raise ValueError("it does not begin as chamfer's files do")
            if layout != _LAYOUT_VERSION or size > _LONGEST_HEADER:
                raise ValueError(f"its layout is {layout}, its header of {size} bytes")
            text = file.read(size)
        if xxhash.xxh3_64_intdigest(text) != checksum:
            raise ValueError("its header's checksum differs")
        header: dict[str, Any] = json.loads(text)
        return header

    def verify(self, names: Sequence[str]) -> None:
        """Compare these arrays with their checksums.

        Raises:
            CorruptIndexError: one differs.
        """
        for name in names:
            digest = xxhash.xxh3_64()
            for stretch in _stretches(self.arrays[name]):
                digest.update(_bytes(stretch, stretch.dtype.str))
            if digest.hexdigest() != self._entries[name]["checksum"]:
                raise CorruptIndexError(
                    f"{self.path}: {name} changed since they were written (checksum differs); "
                    "restore the folder from a copy, or see `chamfer verify`"
                )


def _view(whole: NDArray[np.uint8], entry: dict[str, Any]) -> NDArray[Any]:
    dtype, shape, begin = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"]), int(entry["offset"], 16)
    num_bytes = dtype.itemsize * int(np.prod(shape, dtype=object))
    if min(shape, default=0) < 0 or begin < 0 or begin % _PAGE or begin + num_bytes > len(whole):
        raise ValueError("an array lies outside the file")
    if not isinstance(entry["checksum"], str):
        raise TypeError("an array has no checksum")
    return np.ndarray(shape, dtype, whole, begin)


def mapped_array(array: Any) -> np.memmap[Any, Any] | None:
    """Return the memory map that an array is a view of, as it was opened; None if it lies in memory."""
    found = None
    while array is not None:
        found = array if isinstance(array, np.memmap) else found
        array = getattr(array, "base", None)
    return found


def advise(array: NDArray[Any], advice: str) -> None:
    """Tell the system how a mapped array is read, by the name of mmap's constant; nothing is done to another."""
    base: Any = mapped_array(array)
    mapped = getattr(base, "_mmap", None)
    option = getattr(mmap, advice, None)
    if mapped is None or option is None or array.nbytes == 0 or base.mode != "r":  # what was written would be lost
        return
    begin = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    begin -= begin % mmap.PAGESIZE
    with suppress(OSError):  # pages that are locked stay
        mapped.madvise(option, begin, min(array.nbytes, len(mapped) - begin))


def release(array: NDArray[Any]) -> None:
    """Let the system forget what was read of a map: it counts as this process's memory as long as it is there."""
    advise(array, "MADV_DONTNEED")


def header_checksum(path: Path) -> str:
    """Return xxh3_64 of a container's header as the file has it, 16 hexadecimal digits."""
    with path.open("rb") as file:
        return file.read(_PREFIX.size)[-8:][::-1].hex()  # little-endian, and what the prefix ends with


def file_checksum(path: Path) -> str:
    """Return xxh3_64 of a file, 16 hexadecimal digits."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _stretches(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = max(1, _CHUNK // max(1, array.nbytes // max(1, len(array))))
    for begin in range(0, len(array) if array.size else 0, rows):
        yield array[begin : begin + rows]


def _bytes(array: NDArray[Any], dtype: str) -> memoryview:
    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data
