"""Indexes of formats 1 and 2: read for ever, refused where damaged, and turned into format 3 by whoever writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import chamfer as ch
from chamfer import candidates as candidates_module
from chamfer.index import legacy
from samples import read_npz

GOLDEN = Path(__file__).parent / "data"
FILES = ["manifest.json", "vectors.npy", "offsets.npy", "ids.json", "reducer.npz", "candidates.faiss"]
CODES = [f"codes-{name}.npz" for name in ("binary", "scalar-2", "scalar-4", "int8", "bfloat16", "float16")]


@pytest.fixture(params=[1, 2])
def golden(request, tmp_path):
    """A copy of the golden index of a format, and a query."""
    folder = GOLDEN / f"index_v{request.param}"
    shutil.copytree(folder / "index", tmp_path / "index")
    return tmp_path / "index", read_npz(folder / "expected.npz")["query"]


@pytest.fixture
def second(tmp_path):
    shutil.copytree(GOLDEN / "index_v2" / "index", tmp_path / "second")
    return tmp_path / "second"


def answers(index, query):
    found = [index.search(query, 3), index.search(query, 5, exact=True), index.search(query, 2, num_candidates=6)]
    return [(one.ids.tolist(), one.scores.tolist(), one.kept) for one in found]


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def rewrite(path, change):
    """Change a manifest, its checksum right."""
    envelope = json.loads((path / "manifest.json").read_text())
    manifest = json.loads(envelope["manifest"])
    change(manifest)
    text = json.dumps(manifest)
    (path / "manifest.json").write_text(json.dumps({"manifest": text, "checksum": legacy._text_hash(text)}))


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [*FILES, *CODES])
@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "remove", "empty"])
def test_damaged_files_are_named_and_refused(golden, name, damage):
    path, _ = golden
    files = [file for file in path.rglob("*") if file.name == name]
    if not files:
        assert name in CODES  # format 1 has none
        return
    (file,) = files
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) * 2 // 3] ^= 4
    elif damage == "truncate":
        del content[len(content) // 2 :]
    elif damage == "extend":
        content += b"\0"
    elif damage == "empty":
        content.clear()
    file.write_bytes(content)
    if damage == "remove":
        file.unlink()
    before = contents(path)
    is_gone = (name, damage) == ("manifest.json", "remove")
    for mode in ("r", "a"):
        with pytest.raises(
            FileNotFoundError if is_gone else ch.CorruptIndexError, match="no index" if is_gone else name
        ):
            ch.Index.open(path, mode, verify=True)
    assert contents(path) == before


@pytest.mark.parametrize("change", ["two kinds of candidates", "none", "another file", "a needed file"])
def test_an_index_of_other_files_is_corrupt(second, change):
    def change_files(manifest):
        files = manifest["files"]
        if change == "none":
            del files["candidates.faiss"]
        elif change == "a needed file":
            del files["ids.json"]
        else:
            files["notes.txt" if change == "another file" else "candidates.npz"] = files["candidates.faiss"]

    rewrite(second, change_files)
    with pytest.raises(
        ch.CorruptIndexError, match=r"expected files .* and one of \['candidates.faiss', 'candidates.npz'"
    ):
        ch.Index.open(second)


@pytest.mark.parametrize(
    "changes",
    [
        {"rerank": [{"name": "centroid", "error": 0.1}]},
        {"rerank": [{"name": "exact", "error": 0.0}, {"name": "scalar:2", "error": 0.1}]},
        {"rerank": [{"name": "scalar:2", "error": -1}]},
        {"rerank": [{"name": "scalar:2"}]},
        {"rerank": []},
        {"rerank": "exact"},
        {"search": {"num_candidates": 0, "budgets": None, "margin": None}},
        {"search": {"num_candidates": 10, "budgets": [10, 10], "margin": None}},
        {"search": {"num_candidates": 10, "budgets": None, "margin": None, "nprobe": 3}},
        {"search": {}},
        {"reducer": "LinearMap"},
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_corrupt(second, changes):
    rewrite(second, lambda manifest: manifest["settings"].update(changes))
    with pytest.raises(ch.CorruptIndexError, match=r"g-[0-9a-f]{12}"):
        ch.Index.open(second)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{}", "damaged, or not chamfer's"),
        ('{"manifest": "{}", "checksum": "0"}', "its checksum differs"),
        ("[" * 100_000, "damaged, or not chamfer's"),
        ("null", "damaged, or not chamfer's"),
    ],
    ids=["empty", "checksum", "deep", "null"],
)
def test_other_manifests_are_refused(tmp_path, manifest, message):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ch.CorruptIndexError, match=message):
        ch.Index.open(tmp_path)
    with pytest.raises(FileExistsError, match="holds a damaged index"):
        ch.Index.build([np.ones((1, 4), np.float32)], path=tmp_path)
    assert (tmp_path / "manifest.json").read_text() == manifest


def test_a_generation_outside_the_folder_is_not_read(second):
    rewrite(second, lambda manifest: manifest.update(generation="../index"))
    with pytest.raises(ch.CorruptIndexError, match="it names a folder outside the index"):
        ch.Index.open(second)


def test_a_version_of_which_nothing_is_known_is_refused(second):
    rewrite(second, lambda manifest: manifest.update(version=99))
    with pytest.raises(ValueError, match="format version 99, this chamfer does not know it; upgrade chamfer") as caught:
        ch.Index.open(second)
    assert not isinstance(caught.value, ch.CorruptIndexError)


# ── to format 3 ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reading_changes_nothing(golden):
    path, query = golden
    before = contents(path)
    index = ch.Index.open(path)
    answers(index, query)
    assert not index.refresh()
    with pytest.raises(ValueError, match="opened to read"):
        index.delete(0)
    assert contents(path) == before


def test_opened_to_change_it_becomes_format_3(golden):
    path, query = golden
    reader = ch.Index.open(path)
    wanted = answers(reader, query)
    vectors = {one: np.array(reader.get(one)) for one in reader.ids.tolist()}
    with ch.Index.open(path, "a", verify=True) as index:
        assert not list(path.glob("manifest.json"))
        assert not list(path.glob("g-*"))
        assert (path / "catalogue.sqlite").exists()
        assert answers(index, query) == wanted
        with pytest.raises(ch.LockedIndexError):
            ch.Index.open(path, "a")
        name = index.ids.tolist()[0]
        index.delete(name)
        new = "new" if isinstance(name, str) else 10_000
        index.add([np.ones((2, query.shape[1]), np.float32)], [new], [{"x": 1}])
    opened = ch.Index.open(path, verify=True)
    assert opened.settings == reader.settings
    assert set(opened.ids.tolist()) == {*vectors, new} - {name}
    for one in set(vectors) - {name}:
        np.testing.assert_array_equal(opened.get(one), vectors[one])
    assert opened.get_metadata(new) == {"x": 1}
    assert answers(reader, query) == wanted  # of files that are gone by now
    with ch.Index.open(path, "a") as index:
        index.compact()
        assert set(index.ids.tolist()) == {*vectors, new} - {name}


def test_saved_over_itself_or_elsewhere_it_becomes_format_3(golden, tmp_path):
    path, query = golden
    index = ch.Index.open(path)
    wanted = answers(index, query)
    before = contents(path)
    index.save(tmp_path / "copy")
    assert contents(path) == before
    stale = ch.Index.open(path)
    other = ch.Index.open(path)
    other.save(path)
    for folder in (path, tmp_path / "copy"):
        assert not (folder / "manifest.json").exists()
        assert answers(ch.Index.open(folder, verify=True), query) == wanted
    with pytest.raises(FileExistsError, match="holds another index, or a later state"):
        stale.save(path)  # what was changed since would be lost
    assert answers(stale, query) == wanted


def test_another_index_may_be_saved_over_it(golden):
    path, query = golden
    reader = ch.Index.open(path)
    wanted = answers(reader, query)
    documents = [np.ones((2, 8), np.float32), np.zeros((1, 8), np.float32)]
    ch.Index.build(documents, path=path)
    assert len(ch.Index.open(path, verify=True)) == 2
    assert {entry.name.partition("-")[0] for entry in path.iterdir() if entry.is_dir()} == {"m", "s"}
    assert not (path / "manifest.json").exists()
    assert answers(reader, query) == wanted


def test_where_it_cannot_become_format_3_it_stays(golden, monkeypatch):
    path, query = golden
    wanted = answers(ch.Index.open(path), query)
    before = contents(path)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(candidates_module.FaissCandidates, "save", no_space)
        with pytest.raises(OSError, match="No space left"):
            ch.Index.open(path, "a")
    after = contents(path)
    assert {name: after[name] for name in before} == before
    assert answers(ch.Index.open(path, verify=True), query) == wanted
    with ch.Index.open(path, "a") as index:
        assert answers(index, query) == wanted


def test_what_is_left_of_it_beside_format_3_is_removed_by_the_next_writer(golden, tmp_path):
    path, query = golden
    shutil.copytree(path, tmp_path / "old")
    ch.Index.open(path, "a").close()
    shutil.copytree(tmp_path / "old", path, dirs_exist_ok=True)  # as if the process had been killed before
    wanted = answers(ch.Index.open(tmp_path / "old"), query)
    index = ch.Index.open(path)
    assert answers(index, query) == wanted
    index.save(path)
    assert not (path / "manifest.json").exists()
    assert not list(path.glob("g-*"))
    assert answers(ch.Index.open(path, verify=True), query) == wanted
