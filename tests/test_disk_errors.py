"""What tests/torture found, each by itself: errors of the disk and damage are told apart, and named."""

import errno
import os
import re
import sqlite3
import zipfile

import numpy as np
import pytest

import chamfer as ch
from chamfer import _archives, _containers, _files, candidates
from chamfer.index import catalogue
from chamfer.token_files import read_token_vectors


def failing(error, times=1, then=None):
    """Return a function that raises an error so many times, and then calls another."""
    left = [times]

    def call(*arguments, **keywords):
        if left[0]:
            left[0] -= 1
            raise error
        return then(*arguments, **keywords)

    return call


@pytest.fixture
def saved(tmp_path, documents):
    ch.Index.build(documents.select(range(20)), path=tmp_path / "index")
    return tmp_path / "index"


# ── errors of the disk are no damage ──────────────────────────────────────────────────────────────────────────────────


def test_an_archive_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "one.npz"
    _archives.write_archive(path, "chamfer.Test", 1, {}, {"a": np.arange(3)})
    for name in ("_EndRecData", "ZipFile"):  # in the place where zipfile makes BadZipFile of it, and before
        with monkeypatch.context() as patch:
            patch.setattr(zipfile, name, failing(OSError(errno.EIO, "bad disk"), 9))
            with pytest.raises(OSError, match="bad disk"):
                _archives.read_archive(path, "chamfer.Test", 1)
            with pytest.raises(OSError, match="bad disk"):
                _archives.read_archive(path, "chamfer.Test", 1, mapped=("a",))
    with pytest.raises(ch.CorruptIndexError, match="damaged, or not a saved Test"):
        _archives.read_archive(path, "chamfer.Test", 1, mapped=("b",))


def test_a_faiss_file_that_could_not_be_opened_once_is_read_again(saved, documents, monkeypatch):
    read = candidates.faiss.read_index
    monkeypatch.setattr(candidates.faiss, "read_index", failing(RuntimeError("could not open"), 1, read))
    assert len(ch.Index.open(saved)) == 20


def test_a_faiss_file_on_a_bad_disk_is_not_called_damaged(saved, monkeypatch):
    monkeypatch.setattr(candidates.faiss, "read_index", failing(RuntimeError("read error"), 9))
    monkeypatch.setattr(candidates, "file_checksum", failing(OSError(errno.EIO, "bad disk"), 9))
    with pytest.raises(OSError, match="bad disk"):
        ch.Index.open(saved)


def test_a_catalogue_that_cannot_be_read_is_not_called_damaged(saved, monkeypatch):
    (saved / catalogue.CATALOGUE).write_bytes(b"no database" * 1000)
    with pytest.raises(ch.CorruptIndexError, match="not a database"):
        ch.Index.open(saved)
    monkeypatch.setattr(catalogue, "file_checksum", failing(OSError(errno.EIO, "bad disk"), 9))
    with pytest.raises(OSError, match="bad disk"):
        ch.Index.open(saved)


# ── a save that failed can be repeated ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", range(8))
def test_a_first_save_that_failed_can_be_repeated(tmp_path, documents, monkeypatch, number):
    index = ch.Index.build(documents.select(range(20)))
    calls = []

    def sync(handle):
        calls.append(handle)
        if len(calls) == number + 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        with pytest.raises(OSError, match="No space left"):
            index.save(tmp_path / "index")
    index.save(tmp_path / "index")
    assert len(ch.Index.open(tmp_path / "index", verify=True)) == 20


def test_a_catalogue_that_cannot_be_made_raises_oserror_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_SCHEMA", "no SQL")
    with pytest.raises(OSError, match="syntax error"):
        catalogue.create(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_new_folders_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(_files, "sync_folder", synced.append)
    _files.make_folder(tmp_path / "a" / "b")
    _files.make_folder(tmp_path / "a" / "b")
    assert sorted(synced) == [tmp_path, tmp_path / "a"]


# ── damage has one name ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_version_that_changed_is_damage_and_not_a_newer_chamfer(saved):
    with sqlite3.connect(saved / catalogue.CATALOGUE) as connection:
        connection.execute(f"PRAGMA user_version = {catalogue.FORMAT_VERSION + 2**17}")
    connection.close()
    with pytest.raises(ch.CorruptIndexError, match="its manifest is damaged"):
        ch.Index.open(saved)


def test_segments_without_a_name_are_damage(saved):
    with sqlite3.connect(saved / catalogue.CATALOGUE) as connection:
        for _ in range(2):
            connection.execute("INSERT INTO segments VALUES (NULL, x'', x'')")
    connection.close()
    with pytest.raises(ch.CorruptIndexError, match="expected the segments of its manifest"):
        ch.Index.open(saved)


def test_a_container_without_a_checksum_is_damaged(tmp_path, monkeypatch):
    dumps = _containers.json.dumps
    monkeypatch.setattr(_containers.json, "dumps", lambda header: dumps(header).replace("checksum", "checkout"))
    _containers.write_container(tmp_path / "file", "chamfer.Test", 1, {}, {"a": [np.arange(3)]})
    with pytest.raises(ch.CorruptIndexError, match="its header does not fit"):
        _containers.Container(tmp_path / "file", "chamfer.Test", 1)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("vectors.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (3, 4" + b"\n" * 118),
        ("vectors.npy", b"\x93NUMPY\x01\x00v\x00{'descr': }" + b" " * 118),
        ("ids.json", b"\xff\xfe\xfd"),
        ("ids.json", b"[1, 2"),
    ],
)
def test_a_damaged_file_of_token_vectors_is_named(tmp_path, name, contents):
    np.save(tmp_path / "vectors.npy", np.ones((3, 4), np.float32))
    np.save(tmp_path / "offsets.npy", np.array([0, 1, 3]))
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        read_token_vectors(tmp_path)
