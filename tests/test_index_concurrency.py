"""Many readers and one writer, in threads and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import chamfer as ch
from chamfer.index import SearchSettings
from small_indexes import QUERIES, Expected, build, folders, some_documents

RNG = np.random.default_rng(0)


# ── readers and writers ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reader_keeps_its_state_until_it_refreshes(tmp_path):
    index, documents = build(30, tmp_path, rerank=["int8", "exact"], metadata=[{"x": i} for i in range(30)])
    old = Expected(range(30), documents, [{"x": i} for i in range(30)])
    reader = ch.Index.open(tmp_path)
    assert not reader.refresh()
    index.add(some_documents(RNG, 3), [50, 51, 52])
    index.delete(range(10))
    index.compact()
    assert len(folders(tmp_path)) == 2  # what the reader has open is removed
    old.check(reader)
    assert reader.search(QUERIES, 3, explain=True).explanations
    old.check(reader)
    assert reader.refresh()
    assert not reader.refresh()
    assert len(reader) == 23
    index.settings = SearchSettings(99)
    index.save(tmp_path)
    assert reader.refresh()
    assert reader.settings == SearchSettings(99)
    assert not index.refresh()


def test_a_refresh_finds_another_index_in_the_folder(tmp_path):
    index, _ = build(5, tmp_path / "index")
    reader = ch.Index.open(tmp_path / "index")
    (tmp_path / "index").rename(tmp_path / "old")
    with pytest.raises(FileNotFoundError):
        reader.refresh()
    build(6, tmp_path / "index")
    assert reader.refresh()
    assert len(reader) == 6
    with pytest.raises(FileExistsError, match="was changed by somebody else since it was opened"):
        index.delete(1)
    with pytest.raises(FileExistsError, match="was changed by somebody else since it was opened"):
        index.delete(1)  # and once more: the lock was not kept
    ch.Index.open(tmp_path / "index", mode="a").close()


def test_searches_see_one_state_while_the_index_changes(place):
    """Documents come and go in pairs, 2 i and 2 i + 1: a search finds both or neither."""
    rng = np.random.default_rng(0)
    index, _ = build(20, place, metadata=[{"x": 1}] * 20)
    readers = [index] if place is None else [index, ch.Index.open(place)]
    stop = threading.Event()
    seen = set()

    def look(reader):
        while not stop.is_set():
            reader.refresh()
            for options in ({"exact": True}, {"num_candidates": 100}, {"filter": "x == 1"}, {"filter": range(40)}):
                found = reader.search(QUERIES, 100, **options).ids
                for row in found:
                    ids = set(row[row >= 0].tolist())
                    assert {one ^ 1 for one in ids} == ids
                seen.add(len(ids))

    with ThreadPoolExecutor(2) as pool:
        looking = [pool.submit(look, reader) for reader in readers]
        try:
            for i in range(30):
                pair = int(rng.integers(20)) * 2
                if i % 3 == 2:
                    index.delete([pair, pair + 1])
                else:
                    index.add(some_documents(rng, 2), [pair, pair + 1], [{"x": 1}] * 2)
                if i % 10 == 9:
                    index.compact()
                time.sleep(0.01)
        finally:
            stop.set()
        for one in looking:
            one.result()
    assert len(seen) > 2


def test_changes_from_many_threads_all_come_to_be(place):
    index, documents = build(5, place)
    new = some_documents(RNG, 32)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda i: index.add([new[i]], [100 + i]), range(32)))
    assert counts == [1] * 32
    model = Expected(range(5), documents)
    model.put(range(100, 132), new, [None] * 32)
    model.check(index)


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )


WRITE = """
import sys, numpy as np, chamfer as ch
try:
    with ch.Index.open(sys.argv[1], "a") as index:
        index.add([np.ones((2, 6), np.float32)], [int(sys.argv[2])])
except ch.LockedIndexError as error:
    print("locked:", error)
"""


def test_one_process_at_a_time_writes(tmp_path):
    index, documents = build(5, tmp_path)
    index.add(documents[:1], [50])
    refused = run(WRITE, tmp_path, 51)
    assert refused.stdout.startswith(f"locked: {tmp_path}: somebody else is writing to it"), refused.stderr
    with pytest.raises(ch.LockedIndexError, match="or has it open with mode='a'"):
        ch.Index.open(tmp_path, "a")
    index.close()
    assert run(WRITE, tmp_path, 51).returncode == 0
    assert 51 in ch.Index.open(tmp_path)
    # This object knows the state before: it does not write over the other's.
    stale = ch.Index.open(tmp_path)
    assert run(WRITE, tmp_path, 52).returncode == 0
    with pytest.raises(FileExistsError, match=r"holds another index, or a later state|was changed by somebody else"):
        stale.save(tmp_path)
    with ch.Index.open(tmp_path, "a") as again:
        assert again.delete([50, 51, 52]) == 3


def test_an_index_from_build_writes_where_nobody_else_did(tmp_path):
    index, documents = build(5, tmp_path)
    assert run(WRITE, tmp_path, 51).returncode == 0
    for _ in range(2):
        with pytest.raises(FileExistsError, match="was changed by somebody else since it was opened; open it again"):
            index.add(documents[:1], [50])
    assert run(WRITE, tmp_path, 52).returncode == 0  # the lock is free
    assert len(ch.Index.open(tmp_path)) == 7


FORK = """
import os, sys, numpy as np, chamfer as ch
path = sys.argv[1]
one = [np.ones((2, 6), np.float32)]
index = ch.Index.open(path, "a")
index.add(one, [50])
held, let_go = os.pipe()
child = os.fork()
if child == 0:
    assert len(index.search(one, 3, exact=True, num_threads=1).ids) == 1
    try:
        index.add(one, [60])
    except ch.LockedIndexError:
        print("child: locked", flush=True)
    index.close()  # is not the parent's
    del index
    os.close(let_go)
    os.read(held, 1)  # lives on with the inherited file
    os._exit(0)
os.close(held)
try:
    import time
    time.sleep(0.5)
    try:
        with ch.Index.open(path, "a"):
            print("parent: not locked")
    except ch.LockedIndexError:
        print("parent: locked", flush=True)
    index.add(one, [70])
    index.close()
    with ch.Index.open(path, "a") as again:
        print("again:", sorted(again.ids.tolist())[-2:])
finally:
    os.close(let_go)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_another_writer(tmp_path):
    build(5, tmp_path)
    done = run(FORK, tmp_path)
    assert sorted(done.stdout.splitlines()) == ["again: [50, 70]", "child: locked", "parent: locked"], done.stderr


def test_a_relative_path_is_of_when_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index, documents = build(5, "index")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    index.add(documents[:1], [50])
    index.save(tmp_path / "index")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert len(ch.Index.open(tmp_path / "index")) == 6


@pytest.mark.parametrize("has_folder", [False, True])
def test_a_save_loses_no_document_that_is_added_meanwhile(tmp_path, has_folder):
    index, _ = build(300, tmp_path / "own" if has_folder else None)
    added: list[int] = []
    stop = threading.Event()

    def add():
        while not stop.is_set():
            number = 1000 + len(added)
            index.add(some_documents(RNG, 1), [number])
            added.append(number)

    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(add)
        for i in range(5):
            index.save(tmp_path / f"copy{i}")
        stop.set()
        adding.result()
    assert added
    assert all(number in index for number in added)
    index.close()
    lives_in = tmp_path / ("own" if has_folder else "copy0")
    assert {*added} <= {*ch.Index.open(lives_in, verify=True).ids.tolist()}


def test_a_copy_leaves_the_index_where_it_lives(tmp_path):
    index, documents = build(10, tmp_path / "own")
    index.save(tmp_path / "copy")
    index.add(documents[:1], [77])
    index.close()
    assert 77 in ch.Index.open(tmp_path / "own")
    assert 77 not in ch.Index.open(tmp_path / "copy")


def test_a_reader_keeps_settings_of_its_own(tmp_path):
    index, documents = build(20, tmp_path)
    reader = ch.Index.open(tmp_path)
    reader.settings = SearchSettings(7)
    index.add(documents[:1], [500])
    assert reader.refresh()
    assert reader.settings == SearchSettings(7)
    index.settings = SearchSettings(9)
    index.save(tmp_path)
    assert reader.refresh()
    assert reader.settings == SearchSettings(9)
    assert not reader.refresh()
