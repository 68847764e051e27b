"""Containers: what was written is mapped again, and what changed on the way is refused."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import xxhash

import chamfer as ch
from chamfer import _containers
from chamfer._containers import Container, file_checksum, write_container

FORMAT = "chamfer.Test"
RNG = np.random.default_rng(0)
ARRAYS = {
    "float16": RNG.standard_normal((7, 3)).astype(np.float16),
    "float32": RNG.standard_normal((5, 2, 3)).astype(np.float32),
    "int64": RNG.integers(-(2**62), 2**62, 11),
    "uint8": RNG.integers(0, 256, (4, 5)).astype(np.uint8),
    "no rows": np.empty((0, 3), np.float32),
    "no columns": np.empty((4, 0), np.uint8),
}


def write(path, arrays=ARRAYS, version=1, parameters=None):
    write_container(path, FORMAT, version, parameters or {}, {name: [array] for name, array in arrays.items()})
    return path


def read(path):
    """Open a container and check all of it."""
    container = Container(path, FORMAT, 1)
    container.verify(list(container.arrays))
    return container


def rewrite_header(path, **changes):
    """Change a header, its checksum right, without moving the arrays."""
    stored = path.read_bytes()
    _, layout, size, _ = _containers._PREFIX.unpack(stored[: _containers._PREFIX.size])
    begin = _containers._PREFIX.size
    text = json.dumps(json.loads(stored[begin : begin + size]) | changes).encode()
    assert begin + len(text) <= _containers._PAGE
    prefix = _containers._PREFIX.pack(_containers._MAGIC, layout, len(text), xxhash.xxh3_64_intdigest(text))
    path.write_bytes((prefix + text).ljust(_containers._PAGE, b"\0") + stored[_containers._PAGE :])


# ── round trips ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_arrays_and_parameters_come_back(tmp_path):
    parameters = {"é": [1, None, "\ud800"], "deep": {"x": 0.1}}
    container = read(write(tmp_path / "file", parameters=parameters))
    assert container.parameters == parameters
    assert list(container.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        found = container.arrays[name]
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)


def test_arrays_are_mapped_aligned_and_read_only(tmp_path):
    container = read(write(tmp_path / "file"))
    for name in ("float16", "float32", "int64", "uint8"):
        array = container.arrays[name]
        assert type(array) is np.ndarray
        assert isinstance(array.base, np.memmap)
        assert array.__array_interface__["data"][0] % _containers._PAGE == 0
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_parts_are_written_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(_containers, "_CHUNK", 64)  # several stretches of each part
    whole = RNG.standard_normal((40, 3)).astype(np.float32)
    swapped = whole[30:].astype(">f4")  # neither contiguous nor of this machine's order
    parts = [whole[:0], whole[:7], np.asfortranarray(whole[7:30]), swapped]
    write_container(tmp_path / "parts", FORMAT, 1, {}, {"x": parts})
    write_container(tmp_path / "whole", FORMAT, 1, {}, {"x": [whole]})
    np.testing.assert_array_equal(read(tmp_path / "parts").arrays["x"], whole)
    assert file_checksum(tmp_path / "parts") == file_checksum(tmp_path / "whole")


def mapped_bytes():
    """What this process's memory holds of files."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_what_is_written_of_a_map_does_not_stay_in_memory(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((40, 2**20), np.uint8))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    before = mapped_bytes()
    write(tmp_path / "file", {"x": mapped})
    assert mapped_bytes() - before < 10e6
    assert mapped.all()
    assert mapped_bytes() - before > 30e6  # as long as nobody lets it go
    _containers.release(mapped)
    assert mapped_bytes() - before < 10e6


@pytest.mark.skipif(sys.platform != "linux", reason="memory is locked as Linux does it")
def test_a_map_that_is_locked_in_memory_is_written(tmp_path):
    np.save(tmp_path / "x.npy", ARRAYS["float32"])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    if ctypes.CDLL(None).mlock(ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(mapped.nbytes)):
        pytest.skip("this process may not lock memory")
    np.testing.assert_array_equal(read(write(tmp_path / "file", {"x": mapped})).arrays["x"], ARRAYS["float32"])


@pytest.mark.parametrize("arrays", [{}, {"x": np.empty((0, 3), np.float32)}], ids=["none", "empty"])
def test_a_container_may_hold_nothing(tmp_path, arrays):
    assert list(read(write(tmp_path / "file", arrays)).arrays) == list(arrays)


def test_a_file_that_exists_is_not_written_over(tmp_path):
    write(tmp_path / "file")
    with pytest.raises(FileExistsError):
        write(tmp_path / "file", {})
    assert list(read(tmp_path / "file").arrays) == list(ARRAYS)


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_flipped_bit_is_refused_or_lies_in_padding(tmp_path):
    arrays = {"x": ARRAYS["float32"], "y": ARRAYS["int64"]}
    content = bytearray(write(tmp_path / "file", arrays).read_bytes())
    header = _containers._PREFIX.size + int.from_bytes(content[12:16], "little")
    used = set(range(header))
    for i, array in enumerate(arrays.values()):
        used |= set(range(_containers._PAGE * (i + 1), _containers._PAGE * (i + 1) + array.nbytes))
    padding = sorted(set(range(len(content))) - used)
    path = tmp_path / "flipped"
    for place in [*sorted(used), *padding[:3], *padding[-3:]]:
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        content[place] ^= 1 << place % 8
        if place in used:
            with pytest.raises(ch.CorruptIndexError, match="flipped"):
                read(path)
        else:
            for name, array in read(path).arrays.items():
                np.testing.assert_array_equal(array, arrays[name])


def test_every_length_but_its_own_is_refused(tmp_path):
    content = write(tmp_path / "file").read_bytes()
    header = _containers._PREFIX.size + int.from_bytes(content[12:16], "little")
    path = tmp_path / "cut"
    for length in [*range(0, header + 1, 7), _containers._PAGE, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ch.CorruptIndexError, match="cut"):
            Container(path, FORMAT, 1)
    for more in (b"\0", content):
        path.write_bytes(content + more)
        with pytest.raises(ch.CorruptIndexError, match=f"cut: expected {len(content)} bytes, got "):
            Container(path, FORMAT, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "chamfer.Other"}, "its format is 'chamfer.Other'"),
        ({"format": None}, "its format is None"),
        ({"version": "x"}, "damaged"),
        ({"length": "1000"}, "expected 4096 bytes, got 4108"),
        ({"length": None}, "damaged"),
        ({"arrays": []}, "does not fit"),
        ({"arrays": {"x": {}}}, "does not fit"),
        ({"arrays": {"x": {"dtype": "O8", "shape": [1], "offset": "0"}}}, "does not fit"),
        ({"arrays": {"x": {"dtype": "f4", "shape": [-1], "offset": "0"}}}, "does not fit"),
        ({"arrays": {"x": {"dtype": "f4", "shape": [2**62, 2**62], "offset": "0"}}}, "does not fit"),
        ({"arrays": {"x": {"dtype": "f4", "shape": [1.5], "offset": "0"}}}, "does not fit"),
        ({"arrays": {"x": {"dtype": "f4", "shape": [1], "offset": "-8"}}}, "does not fit"),
        ({"arrays": {"x": {"dtype": "f4", "shape": [1], "offset": "fffffff"}}}, "does not fit"),
    ],
    ids=str,
)
def test_headers_that_do_not_fit_are_refused(tmp_path, changes, message):
    path = write(tmp_path / "file", {"x": np.zeros(3, np.float32)})
    rewrite_header(path, **changes)
    with pytest.raises(ch.CorruptIndexError, match=message):
        Container(path, FORMAT, 1)


def test_a_newer_version_asks_for_an_upgrade(tmp_path):
    write(tmp_path / "file", version=7)
    with pytest.raises(ValueError, match="format version 7, this chamfer reads up to 1; upgrade chamfer") as caught:
        Container(tmp_path / "file", FORMAT, 1)
    assert not isinstance(caught.value, ch.CorruptIndexError)
    assert Container(tmp_path / "file", FORMAT, 7).parameters == {}


def test_other_files_are_no_containers(tmp_path):
    with pytest.raises(FileNotFoundError):
        Container(tmp_path / "missing", FORMAT, 1)
    np.savez(tmp_path / "archive.npz", x=np.zeros(3))
    with pytest.raises(ch.CorruptIndexError, match=r"archive.npz: damaged, or not a chamfer.Test"):
        Container(tmp_path / "archive.npz", FORMAT, 1)
