"""Index on disk: what was saved opens, what is damaged or foreign is refused, and a save is whole or nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import chamfer as ch
from chamfer import candidates as candidates_module
from chamfer.index import SearchSettings, catalogue
from samples import off_centre_collection

GOLDEN = Path(__file__).parent / "data"


def small_reducer(dim=24):
    return ch.FixedDimensionalEncoder(dim, num_repetitions=4, num_simhash_projections=2, projection_dimension=8)


def build(documents, path, **options):
    return ch.Index.build(documents, path=path, **{"reducer": small_reducer(documents.dim), **options})


@pytest.fixture
def index(documents):
    return build(documents, None)


@pytest.fixture
def some(documents):
    return documents.select(range(30))


def folders(path):
    return sorted(entry for entry in path.iterdir() if entry.is_dir())


def kinds(path):
    """What lies in a folder, names that are drawn shortened; a reader of SQLite's may leave an empty log."""
    names = {entry.name for entry in path.iterdir()} - {"catalogue.sqlite-wal", "catalogue.sqlite-shm"}
    return sorted(name.partition("-")[0] for name in names)


def find(path, name):
    (file,) = path.rglob(name)
    return file


def assert_same_answers(one, other, queries, *options):
    for how in options or ({}, {"exact": True}, {"num_candidates": 12}):
        before, after = one.search(queries, **how), other.search(queries, **how)
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.scores, after.scores)
        assert before.kept == after.kept


# ── saved and opened ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("candidates", ["Flat", "IVF4,SQ8"])
def test_an_opened_index_answers_as_the_saved_one(tmp_path, queries, dtype, candidates):
    documents = off_centre_collection(np.random.default_rng(3), [5, 0, 9, 30, 1, 7] * 30, dtype)
    index = ch.Index.build(documents, candidates=candidates, queries=queries)
    index.save(tmp_path / "deep" / "index")
    opened = ch.Index.open(tmp_path / "deep" / "index", verify=True)
    again = ch.Index.build(documents, candidates=candidates, path=tmp_path / "built", queries=queries)
    assert_same_answers(index, opened, queries)
    assert_same_answers(again, opened, queries)
    assert opened.get(3).dtype == dtype
    assert len(opened) == len(documents)
    assert opened.stats() == index.stats()


def test_any_name_of_a_folder_will_do(tmp_path, some, queries):
    path = tmp_path / "é #1?mode=memory%20&'\" x"
    with build(some, path) as index:
        index.delete(3)
    assert_same_answers(index, ch.Index.open(str(path), verify=True), queries)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are any bytes on Linux only")
def test_a_name_need_not_be_text(tmp_path, some, queries):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9"))
    index = build(some, path)
    assert_same_answers(index, ch.Index.open(path, verify=True), queries)


def test_token_vectors_and_codes_of_an_opened_index_stay_on_disk(tmp_path, some):
    build(some, tmp_path, rerank=["int8", "float16", "exact"])
    opened = ch.Index.open(tmp_path)
    (segment,) = opened._snapshot.segments
    int8, half = segment.codes["int8"], segment.codes["float16"]
    for array in (opened.get(0), segment.documents.vectors, int8.codes, *int8.terms.values(), half.vectors):
        base = array
        while base.base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
        assert not array.flags.writeable
    assert opened.stats()["on_disk"] == ["token_vectors", "codes int8", "codes float16"]


def test_saving_again_replaces_the_index_and_open_readers_keep_the_old_one(tmp_path, documents, queries):
    build(documents, tmp_path)
    reader = ch.Index.open(tmp_path)
    before = reader.search(queries, exact=True)
    build(documents.select(range(50)), tmp_path)
    assert len(ch.Index.open(tmp_path)) == 50
    np.testing.assert_array_equal(reader.search(queries, exact=True).ids, before.ids)
    assert len(folders(tmp_path)) == 2  # those of the old one are gone


def test_an_opened_index_can_be_saved_over_itself(tmp_path, documents, queries):
    build(documents, tmp_path)
    for mode in ("r", "a"):
        with ch.Index.open(tmp_path, mode) as opened:
            before = opened.search(queries)
            opened.save(tmp_path)
            np.testing.assert_array_equal(ch.Index.open(tmp_path, verify=True).search(queries).ids, before.ids)


def test_saving_to_the_same_folder_writes_settings_only(tmp_path, documents):
    index = build(documents, tmp_path / "index")
    before = [file.stat().st_ino for folder in folders(tmp_path / "index") for file in folder.iterdir()]
    index.settings = SearchSettings(40)
    index.save(tmp_path / "index" / ".." / "index")
    index.close()
    opened = ch.Index.open(tmp_path / "index", verify=True)
    assert opened.settings == SearchSettings(40)
    opened.settings = SearchSettings(50)
    opened.save(tmp_path / "index")
    after = [file.stat().st_ino for folder in folders(tmp_path / "index") for file in folder.iterdir()]
    assert after == before
    assert ch.Index.open(tmp_path / "index", "a").settings == SearchSettings(50)
    opened.save(tmp_path / "copy")
    assert len(ch.Index.open(tmp_path / "copy", verify=True)) == len(documents)


def test_changes_and_settings_are_kept_by_a_copy(tmp_path, some, queries):
    index = build(some, None, metadata=[{"x": i} for i in range(30)])
    index.delete([3, 4])
    index.add(some.select([0, 1]), [50, 51], [None, {"y": "é"}])
    index.settings = SearchSettings(17)
    index.save(tmp_path / "a")
    ch.Index.open(tmp_path / "a").save(tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    for name in "abc":
        opened = ch.Index.open(tmp_path / name, verify=True)
        assert_same_answers(index, opened, queries)
        assert opened.ids.tolist() == index.ids.tolist()
        assert opened.settings == SearchSettings(17)
        assert [opened.get_metadata(i) for i in (0, 50, 51)] == [{"x": 0}, {}, {"y": "é"}]


def test_an_index_saved_in_the_meantime_stays(tmp_path, documents):
    old = build(documents, tmp_path)
    opened = ch.Index.open(tmp_path)
    build(documents.select(range(50)), tmp_path)
    for one in (old, opened):
        with pytest.raises(FileExistsError, match="holds another index, or a later state, saved since this one was"):
            one.save(tmp_path)
    assert len(ch.Index.open(tmp_path, verify=True)) == 50


@pytest.mark.parametrize(
    "name", ["documents.chamfer", "candidates.faiss", "reducer.npz", "codec-int8.npz", "m-*", "s-*"]
)
@pytest.mark.parametrize("damage", ["removed", "cut", "changed"])
def test_a_damaged_index_is_written_whole_again(tmp_path, some, queries, name, damage):
    index = build(some, tmp_path, rerank=["int8", "exact"])
    file = find(tmp_path, name)
    if file.is_dir():
        shutil.rmtree(file)
    elif damage == "removed":
        file.unlink()
    else:
        content = file.read_bytes()
        file.unlink()  # the index has mapped it
        changed = bytes([content[60] ^ 1])
        file.write_bytes(content[:-1] if damage == "cut" else content[:60] + changed + content[61:])
    with pytest.raises(ch.CorruptIndexError):
        ch.Index.open(tmp_path)
    index.save(tmp_path)
    assert_same_answers(index, ch.Index.open(tmp_path, verify=True), queries)
    assert len(folders(tmp_path)) == 2


STAGES = [["exact"], ["int8"], ["scalar:2", "exact"], ["binary", "scalar:4", "exact"], ["float16"], ["bfloat16"]]


@pytest.mark.parametrize("stages", [*STAGES, None], ids=str)
def test_stages_come_back_bit_for_bit(tmp_path, documents, queries, stages):
    index = build(documents, tmp_path, rerank=stages, queries=queries)
    index.settings = SearchSettings(40, None if stages is None else (20,) * (len(stages) - 1), 2.5)
    index.save(tmp_path)
    opened = ch.Index.open(tmp_path, verify=True)
    assert_same_answers(index, opened, queries, {"k": 5}, {"k": 5, "num_candidates": 60}, {"k": 5, "exact": True})
    assert opened.settings == index.settings
    opened.save(tmp_path / "again")
    again = ch.Index.open(tmp_path / "again")
    assert_same_answers(index, again, queries, {"k": 5})
    # The codecs go on as they began: what is added gets the same codes.
    index.add(documents.select([5, 6]), [1000, 1001])
    index.close()
    with ch.Index.open(tmp_path / "again", "a") as other:
        other.add(documents.select([5, 6]), [1000, 1001])
    assert_same_answers(index, other, queries, {"k": 5})


def test_settings_that_are_not_json_come_back(tmp_path, index):
    for settings in (SearchSettings(), SearchSettings(margin=float("inf")), SearchSettings(17, (), 0.1)):
        index.settings = settings
        index.save(tmp_path)
        assert ch.Index.open(tmp_path).settings == settings


def rewrite(path, change):
    """Change what a manifest says, its checksum right."""
    with closing(sqlite3.connect(path / "catalogue.sqlite")) as connection:
        number, body = connection.execute("SELECT generation, body FROM manifest").fetchone()
        parts = json.loads(body)
        change(parts)
        body = json.dumps(parts)
        values = (body, catalogue._manifest_checksum(number, body))
        connection.execute("UPDATE manifest SET body = ?, checksum = ?", values)
        connection.commit()


@pytest.mark.parametrize(
    "changes",
    [
        {"rerank": [{"name": "scalar:4", "error": 0.1}, {"name": "exact", "error": 0.0}]},  # has no file
        {"rerank": [{"name": "exact", "error": 0.0}, {"name": "scalar:2", "error": 0.1}]},
        {"rerank": [{"name": "scalar:2", "error": -1}]},
        {"rerank": [{"name": "scalar:2"}]},
        {"rerank": [{"name": "exact", "error": 0.0}]},  # of which there are codes
        {"rerank": []},
        {"rerank": "exact"},
        {"search": {"num_candidates": 0, "budgets": None, "margin": None}},
        {"search": {"num_candidates": 10, "budgets": [10, 10], "margin": None}},
        {"search": {"num_candidates": 10, "budgets": None, "margin": "wide"}},
        {"search": {"num_candidates": 10, "budgets": None, "margin": None, "nprobe": 4}},
        {"search": {}},
        {"search": None},
        {"reducer": "LinearMap"},
        {"dim": 23},
        {"dim": None},
        {"strings": True},
        {"asked": None},
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_corrupt(tmp_path, some, changes):
    build(some, tmp_path, rerank=["scalar:2", "exact"])
    ch.Index.open(tmp_path)
    rewrite(tmp_path, lambda parts: parts["settings"].update(changes))
    if changes in ({"rerank": [{"name": "exact", "error": 0.0}]}, {"asked": None}):
        assert ch.Index.open(tmp_path).stats()["num_documents"] == 30  # the rest is not looked at
        return
    with pytest.raises(ch.CorruptIndexError, match=str(tmp_path)):
        ch.Index.open(tmp_path)


def test_a_catalogue_of_no_segments_is_corrupt(tmp_path, some):
    build(some, tmp_path)
    rewrite(tmp_path, lambda parts: parts["segments"].clear())
    with pytest.raises(ch.CorruptIndexError, match="expected the segments of its manifest"):
        ch.Index.open(tmp_path)


def test_segments_of_another_index_are_corrupt(tmp_path, documents):
    for name, rows in (("a", range(30)), ("b", range(30, 60))):
        build(documents.select(rows), tmp_path / name, rerank=["int8"])
    for name in ("documents.chamfer", "candidates.faiss", "reducer.npz", "codec-int8.npz"):
        kept = find(tmp_path / "b", name).read_bytes()
        shutil.copy(find(tmp_path / "a", name), find(tmp_path / "b", name))
        with pytest.raises(ch.CorruptIndexError, match=name):
            ch.Index.open(tmp_path / "b")
        find(tmp_path / "b", name).write_bytes(kept)
    shutil.copy(tmp_path / "a" / "HEAD", tmp_path / "b" / "HEAD")
    ch.Index.open(tmp_path / "b", verify=True)


# ── saves that fail ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("first", [False, True], ids=["over an index", "into a new folder"])
def test_a_failed_save_leaves_the_old_index(tmp_path, documents, index, monkeypatch, first):
    path = tmp_path / "index"
    if not first:
        build(documents.select(range(40)), path)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(candidates_module.FaissCandidates, "save", no_space)
        with pytest.raises(OSError, match="No space left"):
            index.save(path)
    if first:
        assert not folders(path)
        with pytest.raises(FileNotFoundError, match="no index here"):
            ch.Index.open(path)
    else:
        assert len(ch.Index.open(path, verify=True)) == 40
        assert len(folders(path)) == 2
    index.save(path)
    assert len(ch.Index.open(path, verify=True)) == len(documents)


KILL = """
import os, sys, numpy as np, chamfer as ch
from chamfer.index import catalogue
def kill(*_):
    os.kill(os.getpid(), 9)
if sys.argv[3] == "before":
    catalogue._replace_state = kill
else:
    catalogue.sync_folder = kill
data = np.load(sys.argv[1])
reducer = ch.FixedDimensionalEncoder(24, num_repetitions=4, num_simhash_projections=2, projection_dimension=8)
ch.Index.build(ch.TokenVectors(data['vectors'], data['offsets']), path=sys.argv[2], reducer=reducer)
"""


@pytest.mark.skipif(os.name == "nt", reason="no signal 9")
@pytest.mark.parametrize("step", ["before", "after"])
@pytest.mark.parametrize("first", [False, True], ids=["over an index", "into a new folder"])
def test_a_save_that_is_killed_leaves_the_old_index_or_the_new_one(tmp_path, documents, step, first):
    path = tmp_path / "index"
    if not first:
        build(documents.select(range(40)), path)
    np.savez(tmp_path / "more.npz", vectors=documents.vectors, offsets=documents.offsets)
    died = subprocess.run([sys.executable, "-c", KILL, tmp_path / "more.npz", path, step], check=False)
    assert died.returncode == -9
    if step == "after":
        assert len(ch.Index.open(path, verify=True)) == len(documents)
    elif first:
        with pytest.raises(FileNotFoundError, match="no index here"):
            ch.Index.open(path)
    else:
        assert len(ch.Index.open(path, verify=True)) == 40
    build(documents.select(range(60)), path)  # the next save removes what the killed one left
    assert len(ch.Index.open(path, verify=True)) == 60
    assert kinds(path) == ["HEAD", "catalogue.sqlite", "lock", "m", "s"]


@pytest.mark.parametrize(
    "names",
    [
        [".catalogue.sqlite.new"],
        [".catalogue.sqlite.0123456789ab", "lock"],
        [".catalogue.sqlite.new-journal", "s-0123456789ab/documents.chamfer"],
        ["m-0123456789ab/reducer.npz", ".HEAD.new", "..HEAD.new.0123456789ab"],
        [".manifest.json.0123456789ab", "g-0123456789ab/ids.json"],
    ],
    ids=str,
)
def test_what_a_killed_first_save_left_does_not_block_the_next(tmp_path, index, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    with pytest.raises(FileNotFoundError, match="no index here"):
        ch.Index.open(tmp_path)
    index.save(tmp_path)
    assert len(ch.Index.open(tmp_path)) == len(index)
    assert kinds(tmp_path) == ["HEAD", "catalogue.sqlite", "lock", "m", "s"]


def test_an_empty_catalogue_is_of_a_first_save(tmp_path, index):
    catalogue.create(tmp_path)
    with pytest.raises(FileNotFoundError, match="no index here"):
        ch.Index.open(tmp_path)
    index.save(tmp_path)
    assert len(ch.Index.open(tmp_path)) == len(index)


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────────

FILES = [
    "catalogue.sqlite",
    "HEAD",
    "documents.chamfer",
    "candidates.faiss",
    "reducer.npz",
    "codec-scalar-2.npz",
    "queries.chamfer",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "remove", "empty"])
def test_damaged_files_are_named_and_refused(tmp_path, some, queries, name, damage):
    build(some, tmp_path, rerank=["scalar:2", "exact"], queries=queries, metadata=[{"x": "y" * 500}] * 30)
    file = find(tmp_path, name)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[content.index(b"settings") if name == "catalogue.sqlite" else len(content) * 2 // 3] ^= 4
    elif damage == "truncate":
        del content[len(content) // 2 :]
    elif damage == "extend":
        content += b"\0"
    elif damage == "empty":
        content.clear()
    file.write_bytes(content)
    if damage == "remove":
        file.unlink()
    if (name, damage) == ("catalogue.sqlite", "extend"):
        assert len(ch.Index.open(tmp_path, verify=True)) == 30  # SQLite looks at as many pages as there are
        return
    for save in (None, lambda: build(some, tmp_path)):
        if save is None:
            with pytest.raises(ch.CorruptIndexError, match=name):
                ch.Index.open(tmp_path, verify=True)
            with pytest.raises(ch.CorruptIndexError, match=name):
                ch.Index.open(tmp_path, "a", verify=True)
        elif name in ("catalogue.sqlite", "HEAD"):
            with pytest.raises(FileExistsError, match=f"holds a damaged index .*{name}"):
                save()


def test_every_byte_of_a_catalogue_is_checked_or_means_nothing(tmp_path, some):
    path = tmp_path / "index"
    with build(some, path, ids=[f"d{i}" for i in range(30)], metadata=[{"x": i} for i in range(30)]) as index:
        index.delete(["d3", "d5"])
    wanted = (index.ids.tolist(), [index.get_metadata(one) for one in index.ids])
    file = path / "catalogue.sqlite"
    content = bytearray(file.read_bytes())
    refused = 0
    for place in [*range(100), *np.random.default_rng(0).integers(0, len(content), 150)]:
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        content[place] ^= 1 << place % 8
        try:
            opened = ch.Index.open(path)
        except ValueError:  # damaged, or of a version to come
            refused += 1
        else:
            assert (opened.ids.tolist(), [opened.get_metadata(one) for one in opened.ids]) == wanted
    assert refused > 20


@pytest.mark.parametrize("name", ["-wal", "-shm"])
def test_a_lost_log_is_noticed(tmp_path, some, name):
    """A copy of the folder without its write-ahead log would be an older state."""
    index = build(some, tmp_path / "index")
    # A reader keeps the log alive.
    with closing(sqlite3.connect(tmp_path / "index" / "catalogue.sqlite", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM manifest").fetchall()
        index.delete([1, 2, 3])
        shutil.copytree(tmp_path / "index", tmp_path / "copy")
        reader.execute("ROLLBACK")
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "copy", whole)
    assert len(ch.Index.open(whole)) == 27
    (tmp_path / "copy" / f"catalogue.sqlite{name}").unlink()
    if name == "-shm":  # is made anew
        assert len(ch.Index.open(tmp_path / "copy")) == 27
        return
    with pytest.raises(ch.CorruptIndexError, match="is older than the 2 that HEAD names: its write-ahead log"):
        ch.Index.open(tmp_path / "copy")
    with pytest.raises(FileExistsError, match="holds a damaged index"):
        build(some, tmp_path / "copy")


def test_a_writer_whose_folder_is_gone_makes_no_other(tmp_path, some):
    index = build(some, tmp_path / "index")
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(FileNotFoundError):
        index.delete(1)
    assert not (tmp_path / "index").exists()
    index.save(tmp_path / "index")  # all of it is still mapped
    assert len(ch.Index.open(tmp_path / "index", verify=True)) == 30
    index.delete(1)
    (tmp_path / "index" / "catalogue.sqlite").unlink()
    with pytest.raises(OSError, match=r"catalogue.sqlite: unable to open"):
        index.delete(2)
    assert not (tmp_path / "index" / "catalogue.sqlite").exists()


# ── what is not an index ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_no_index_is_not_opened(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        for mode in ("r", "a"):
            with pytest.raises(FileNotFoundError, match="no index here"):
                ch.Index.open(path, mode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    with pytest.raises(FileExistsError, match="is a file; choose a new or empty folder"):
        ch.Index.build([np.ones((1, 4), np.float32)], path=tmp_path / "file")


@pytest.mark.parametrize(
    "names",
    [
        ["thesis.tex"],
        ["manifest.json", "g-photos/x.jpg"],
        ["g-photos/x.jpg"],
        ["manifest.json"],
        ["lock2"],
        ["HEAD"],
        ["HEAD", "config", "objects/x"],
        ["catalogue.sqlite"],
        ["catalogue.sqlite", "HEAD"],
        ["catalogueXsqlite"],
        [".vimrc.new"],
        [".HEADphones"],
        ["s-photos/x.jpg"],
        ["catalogue.sqlite.bak"],
    ],
    ids=str,
)
def test_other_programs_files_are_never_removed(tmp_path, some, index, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"name": "a web app"}')
    for save in (index.save, lambda path: build(some, path)):
        with pytest.raises(FileExistsError, match=r"choose a new or empty folder"):
            save(tmp_path)
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()) == sorted(names)


def test_another_programs_database_is_never_removed(tmp_path, some):
    with closing(sqlite3.connect(tmp_path / "catalogue.sqlite")) as connection:
        connection.execute("CREATE TABLE manifest (generation, body)")
    before = (tmp_path / "catalogue.sqlite").read_bytes()
    with pytest.raises(FileExistsError, match="damaged, or not chamfer's"):
        build(some, tmp_path)
    assert (tmp_path / "catalogue.sqlite").read_bytes() == before


def test_an_index_of_a_newer_format_asks_for_an_upgrade(tmp_path, some, index):
    index.save(tmp_path)
    index.close()
    with closing(sqlite3.connect(tmp_path / "catalogue.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("DROP TABLE manifest")  # whatever it has in its place
        connection.commit()
    for use in (ch.Index.open, lambda path: ch.Index.open(path, "a"), lambda path: build(some, path)):
        with pytest.raises(
            ValueError, match="format version 99, this chamfer reads up to 3; upgrade chamfer"
        ) as caught:
            use(tmp_path)
        assert not isinstance(caught.value, ch.CorruptIndexError)


# ── several at a time ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_save_at_the_same_time_is_refused(tmp_path, some, index, monkeypatch):
    index.save(tmp_path)
    other = ch.Index.open(tmp_path)
    save = candidates_module.FaissCandidates.save
    refused = []

    def save_meanwhile(self, path):
        for use in (other.save, index.save, lambda path: ch.Index.open(path, "a")):
            with pytest.raises(ch.LockedIndexError, match="somebody else is writing to it"):
                use(tmp_path)
            refused.append(use)
        save(self, path)

    monkeypatch.setattr(candidates_module.FaissCandidates, "save", save_meanwhile)
    build(some, tmp_path)
    assert len(refused) == 3
    assert len(ch.Index.open(tmp_path, verify=True)) == 30


def test_open_while_another_saves_always_finds_an_index(tmp_path, documents):
    sizes, path = (40, 50), tmp_path / "index"
    for n in sizes:
        build(documents.select(range(n)), tmp_path / str(n)).save(path)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(lambda: [ch.Index.open(tmp_path / str(n)).save(path) for _ in range(8) for n in sizes])
        opened = 0
        while not saving.done():
            assert len(ch.Index.open(path)) in sizes
            opened += 1
        saving.result()
    assert opened > 5


def test_there_are_two_modes(tmp_path, index):
    index.save(tmp_path)
    assert len(ch.Index.open(tmp_path, "r")) == len(index)
    with pytest.raises(ValueError, match="mode: expected 'r' to read or 'a' to change too, got 'w'"):
        ch.Index.open(tmp_path, mode="w")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_an_oserror(tmp_path, index):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="denied"):
        index.save(tmp_path / "index")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("was_read", [False, True])
def test_a_folder_that_nobody_may_write_to_is_read(tmp_path, some, queries, was_read):
    path = tmp_path / "index"
    index = build(some, path)
    if was_read:  # SQLite may leave an empty log then
        ch.Index.open(path)
    for entry in [*path.rglob("*"), path]:
        entry.chmod(0o500 if entry.is_dir() else 0o400)
    try:
        assert_same_answers(index, ch.Index.open(path, verify=True), queries)
        assert not ch.Index.open(path).refresh()
        with pytest.raises(OSError, match="denied"):
            ch.Index.open(path, "a")
    finally:
        for entry in [path, *path.rglob("*")]:
            entry.chmod(0o700)
