"""Index on disk: what was saved opens, what is damaged or foreign is refused, and a save is whole or nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import chamfer as ch
from chamfer import candidates as candidates_module
from chamfer.index import SearchSettings, storage
from chamfer.index.reranking import open_cascade
from samples import off_centre_collection, read_npz

# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("candidates", ["Flat", "IVF4,SQ8"])
def test_an_opened_index_answers_as_the_saved_one(tmp_path, queries, dtype, candidates):
    documents = off_centre_collection(np.random.default_rng(3), [5, 0, 9, 30, 1, 7] * 30, dtype)
    index = ch.Index.build(documents, candidates=candidates, path=tmp_path / "deep" / "index", queries=queries)
    opened = ch.Index.open(tmp_path / "deep" / "index", verify=True)
    for options in ({}, {"exact": True}, {"num_candidates": 12}):
        before, after = index.search(queries, **options), opened.search(queries, **options)
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.scores, after.scores)
    assert opened.get(3).dtype == dtype
    assert len(opened) == len(documents)
    assert opened.stats() == index.stats() | {"on_disk": ["token_vectors"]}


def test_token_vectors_of_an_opened_index_stay_on_disk(tmp_path, index, documents):
    index.save(tmp_path)
    opened = ch.Index.open(tmp_path)
    base = opened.get(0)
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not opened.get(0).flags.writeable


def test_saving_again_replaces_the_index_and_open_readers_keep_the_old_one(tmp_path, documents, queries):
    ch.Index.build(documents, path=tmp_path)
    reader = ch.Index.open(tmp_path)
    before = reader.search(queries, exact=True)
    ch.Index.build(documents.select(range(50)), path=tmp_path)
    assert len(ch.Index.open(tmp_path)) == 50
    np.testing.assert_array_equal(reader.search(queries, exact=True).ids, before.ids)
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir()]) == 1  # the old generation is gone


def test_an_opened_index_can_be_saved_over_itself(tmp_path, documents, queries):
    ch.Index.build(documents, path=tmp_path)
    opened = ch.Index.open(tmp_path)
    before = opened.search(queries)
    opened.save(tmp_path)
    np.testing.assert_array_equal(ch.Index.open(tmp_path, verify=True).search(queries).ids, before.ids)


def test_saving_to_the_same_folder_writes_settings_only(tmp_path, documents, queries):
    index = ch.Index.build(documents, path=tmp_path / "index")
    (generation,) = (entry for entry in (tmp_path / "index").iterdir() if entry.is_dir())
    index.settings = SearchSettings(40)
    index.save(tmp_path / "index")
    assert generation.exists()
    opened = ch.Index.open(tmp_path / "index", verify=True)
    assert opened.settings == SearchSettings(40)
    opened.settings = SearchSettings(50)
    opened.save(tmp_path / "index")
    assert generation.exists()
    assert ch.Index.open(tmp_path / "index").settings == SearchSettings(50)
    opened.save(tmp_path / "copy")
    assert len(ch.Index.open(tmp_path / "copy", verify=True)) == len(documents)


def test_an_index_saved_in_the_meantime_stays(tmp_path, documents):
    old = ch.Index.build(documents, path=tmp_path)
    opened = ch.Index.open(tmp_path)
    ch.Index.build(documents.select(range(50)), path=tmp_path)
    for one in (old, opened):
        with pytest.raises(FileExistsError, match="holds another index, saved since this one was opened or saved"):
            one.save(tmp_path)
    assert len(ch.Index.open(tmp_path, verify=True)) == 50


@pytest.mark.parametrize("name", ["vectors.npy", "candidates.faiss", "ids.json"])
@pytest.mark.parametrize("damage", ["removed", "cut", "changed"])
def test_a_damaged_index_is_written_whole_again(tmp_path, documents, queries, name, damage):
    index = ch.Index.build(documents, path=tmp_path)
    (file,) = tmp_path.rglob(name)
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif name == "vectors.npy":
        return  # not read to the end, as by `open`
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    index.save(tmp_path)
    again = ch.Index.open(tmp_path, verify=True)
    np.testing.assert_array_equal(again.search(queries).ids, index.search(queries).ids)


STAGES = [["exact"], ["int8"], ["scalar:2", "exact"], ["binary", "scalar:4", "exact"], ["float16"], ["bfloat16"]]


@pytest.mark.parametrize("stages", [*STAGES, None], ids=str)
def test_stages_come_back_bit_for_bit(tmp_path, documents, queries, stages):
    index = ch.Index.build(documents, rerank=stages, path=tmp_path, queries=queries)
    index.settings = SearchSettings(40, None if stages is None else (20,) * (len(stages) - 1), 2.5)
    index.save(tmp_path)
    opened = ch.Index.open(tmp_path, verify=True)
    for options in ({}, {"num_candidates": 60}, {"exact": True}):
        before, after = index.search(queries, 5, **options), opened.search(queries, 5, **options)
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.scores, after.scores)
        assert before.kept == after.kept
    assert opened.settings == index.settings
    assert opened.stats() == index.stats() | {"on_disk": ["token_vectors"]}
    opened.save(tmp_path / "again")
    after = ch.Index.open(tmp_path / "again").search(queries, 5)
    np.testing.assert_array_equal(after.scores, index.search(queries, 5).scores)


def test_settings_that_are_not_json_come_back(tmp_path, index):
    for settings in (SearchSettings(), SearchSettings(margin=float("inf")), SearchSettings(17, (), 0.1)):
        index.settings = settings
        index.save(tmp_path)
        assert ch.Index.open(tmp_path).settings == settings
        json.loads((tmp_path / "manifest.json").read_text(), parse_constant=pytest.fail)


def rewrite_settings(path, **changes):
    """Change settings in a manifest, its checksum right."""
    envelope = json.loads((path / "manifest.json").read_text())
    manifest = json.loads(envelope["manifest"])
    manifest["settings"] |= changes
    text = json.dumps(manifest)
    (path / "manifest.json").write_text(json.dumps({"manifest": text, "checksum": storage._text_hash(text)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"rerank": [{"name": "scalar:4", "error": 0.1}, {"name": "exact", "error": 0.0}]},  # has no file
        {"rerank": [{"name": "exact", "error": 0.0}, {"name": "scalar:2", "error": 0.1}]},
        {"rerank": [{"name": "scalar:2", "error": -1}]},
        {"rerank": [{"name": "scalar:2"}]},
        {"rerank": []},
        {"rerank": "exact"},
        {"search": {"num_candidates": 0, "budgets": None, "margin": None}},
        {"search": {"num_candidates": 10, "budgets": [10, 10], "margin": None}},
        {"search": {}},
        {"reducer": "LinearMap"},
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_corrupt(tmp_path, documents, changes):
    ch.Index.build(documents.select(range(30)), rerank=["scalar:2", "exact"], path=tmp_path)
    ch.Index.open(tmp_path)
    rewrite_settings(tmp_path, **changes)
    with pytest.raises(ch.CorruptIndexError, match=r"g-[0-9a-f]{12}"):
        ch.Index.open(tmp_path)


def test_codes_of_other_documents_are_corrupt(tmp_path, documents):
    for name, rows in (("a", range(30)), ("b", range(30, 60))):
        ch.Index.build(documents.select(rows), rerank=["int8"], path=tmp_path / name)
    (generation,) = (tmp_path / "b").glob("g-*")
    others = ch.Index.open(tmp_path / "a")._documents
    with pytest.raises(ch.CorruptIndexError, match=r"codes-int8\.npz: expected codes 'int8' of"):
        open_cascade({"rerank": [{"name": "int8", "error": 0.1}]}, generation, others)


def test_a_failed_save_leaves_the_old_index(tmp_path, documents, index, monkeypatch):
    ch.Index.build(documents.select(range(40)), path=tmp_path)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(candidates_module.FaissCandidates, "save", no_space)
    with pytest.raises(OSError, match="No space left"):
        index.save(tmp_path)
    assert len(ch.Index.open(tmp_path, verify=True)) == 40
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir()]) == 1


def test_a_save_killed_before_its_last_step_leaves_the_old_index(tmp_path, documents):
    ch.Index.build(documents.select(range(40)), path=tmp_path / "index")
    np.savez(tmp_path / "more.npz", vectors=documents.vectors, offsets=documents.offsets)
    script = (
        "import os, sys, numpy as np, chamfer as ch\n"
        "from chamfer.index import storage\n"
        "storage.replace_file = lambda path: os.kill(os.getpid(), 9)\n"
        "data = np.load(sys.argv[1])\n"
        "ch.Index.build(ch.TokenVectors(data['vectors'], data['offsets']), path=sys.argv[2])\n"
    )
    died = subprocess.run([sys.executable, "-c", script, tmp_path / "more.npz", tmp_path / "index"], check=False)
    assert died.returncode == -9
    assert len(ch.Index.open(tmp_path / "index", verify=True)) == 40
    ch.Index.build(documents, path=tmp_path / "index")  # the next save removes what the killed one left
    assert len([entry for entry in (tmp_path / "index").iterdir() if entry.is_dir()]) == 1


def saved_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "vectors.npy",
        "offsets.npy",
        "ids.json",
        "reducer.npz",
        "candidates.faiss",
        "codes-scalar-2.npz",
    ],
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "remove", "empty"])
def test_damaged_files_are_named_and_refused(tmp_path, documents, name, damage):
    ch.Index.build(documents.select(range(30)), rerank=["scalar:2", "exact"], path=tmp_path)
    (file,) = [file for file in saved_files(tmp_path) if file.name == name]
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
    error = FileNotFoundError if (name, damage) == ("manifest.json", "remove") else ch.CorruptIndexError
    with pytest.raises(error, match=name):
        ch.Index.open(tmp_path, verify=True)


@pytest.mark.parametrize("change", ["two kinds of candidates", "none", "another file"])
def test_an_index_of_other_files_is_corrupt(tmp_path, documents, change):
    ch.Index.build(documents.select(range(30)), path=tmp_path)
    envelope = json.loads((tmp_path / "manifest.json").read_text())
    manifest = json.loads(envelope["manifest"])
    files = manifest["files"]
    if change == "none":
        del files["candidates.faiss"]
    else:
        files["notes.txt" if change == "another file" else "candidates.npz"] = files["candidates.faiss"]
    text = json.dumps(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps({"manifest": text, "checksum": storage._text_hash(text)}))
    with pytest.raises(
        ch.CorruptIndexError, match=r"expected files .* and one of \['candidates.faiss', 'candidates.npz'"
    ):
        ch.Index.open(tmp_path)


def test_what_is_no_index_is_not_opened(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="no index here"):
            ch.Index.open(path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ch.CorruptIndexError, match="damaged, or not chamfer's"):
        ch.Index.open(tmp_path)


def test_a_folder_with_other_files_is_not_overwritten(tmp_path, index):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds files that are not an index"):
        index.save(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_index_of_a_newer_format_asks_for_an_upgrade(tmp_path, index):
    index.save(tmp_path)
    envelope = json.loads((tmp_path / "manifest.json").read_text())
    manifest = json.loads(envelope["manifest"]) | {"version": 99}
    text = json.dumps(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps({"manifest": text, "checksum": storage._text_hash(text)}))
    with pytest.raises(ValueError, match="format version 99, this chamfer reads up to 2; upgrade chamfer"):
        ch.Index.open(tmp_path)


def test_the_golden_index_of_format_1_opens_for_ever(tmp_path):
    golden = Path(__file__).parent / "data" / "index_v1"
    shutil.copytree(golden / "index", tmp_path / "index")
    expected = read_npz(golden / "expected.npz")
    index = ch.Index.open(tmp_path / "index", verify=True)
    result = index.search(expected["query"], 5, num_candidates=8)
    assert result.ids[0].tolist() == expected["ids"].tolist()
    np.testing.assert_allclose(result.scores[0], expected["scores"], rtol=1e-6)  # the last bit may differ by machine


def test_the_golden_index_of_format_2_opens_for_ever(tmp_path):
    """One stage of each codec, and settings that decide which documents come through."""
    golden = Path(__file__).parent / "data" / "index_v2"
    shutil.copytree(golden / "index", tmp_path / "index")
    expected = read_npz(golden / "expected.npz")
    index = ch.Index.open(tmp_path / "index", verify=True)
    stages = ["binary", "scalar:2", "scalar:4", "int8", "bfloat16", "float16", "exact"]
    assert index.stats()["rerank"] == stages
    assert index.settings == SearchSettings(6, (6, 6, 5, 5, 4, 4), float("inf"))
    result = index.search(expected["query"], 3)
    assert result.ids[0].tolist() == expected["ids"].tolist()
    np.testing.assert_allclose(result.scores[0], expected["scores"], rtol=1e-6)
    assert list(result.kept.values()) == [6, 6, 6, 5, 5, 4, 4, 3]
    for stage in index._cascade.stages:
        scores = ch.maxsim(expected["query"], stage.documents)[0]
        np.testing.assert_allclose(scores, expected[stage.name.replace(":", "_")], rtol=1e-6)
        if stage.codec is not None:  # the codec goes on as it began
            again = ch.maxsim(expected["query"], stage.codec.encode(index._documents))[0]
            np.testing.assert_allclose(again, scores, rtol=1e-6)


@pytest.mark.parametrize(
    "names", [["manifest.json", "g-photos/x.jpg"], ["g-photos/x.jpg"], ["manifest.json"], ["lock2"]]
)
def test_other_programs_files_are_never_removed(tmp_path, documents, index, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"name": "a web app"}')
    for save in (index.save, lambda path: ch.Index.build(documents, path=path)):
        with pytest.raises(FileExistsError, match="holds files that are not an index"):
            save(tmp_path)
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()) == sorted(names)


def test_what_a_killed_first_save_left_does_not_block_the_next(tmp_path, index):
    (tmp_path / ".manifest.json.0123456789ab").write_text("half")
    (tmp_path / "g-0123456789ab").mkdir()
    index.save(tmp_path)
    assert len(ch.Index.open(tmp_path)) == len(index)
    assert sorted(entry.name.partition("-")[0] for entry in tmp_path.iterdir()) == ["g", "lock", "manifest.json"]


def test_a_second_save_at_the_same_time_is_refused(tmp_path, index, monkeypatch):
    index.save(tmp_path)
    other = ch.Index.open(tmp_path)
    save = candidates_module.FaissCandidates.save

    def save_meanwhile(self, path):
        with pytest.raises(ch.LockedIndexError, match="another save is under way"):
            other.save(tmp_path)
        save(self, path)

    monkeypatch.setattr(candidates_module.FaissCandidates, "save", save_meanwhile)
    index.save(tmp_path)
    assert len(ch.Index.open(tmp_path, verify=True)) == len(index)


def test_open_while_another_saves_always_finds_an_index(tmp_path, documents):
    sizes, path = (40, 50), tmp_path / "index"
    for n in sizes:
        ch.Index.build(documents.select(range(n)), path=tmp_path / str(n)).save(path)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(lambda: [ch.Index.open(tmp_path / str(n)).save(path) for _ in range(15) for n in sizes])
        opened = 0
        while not saving.done():
            assert len(ch.Index.open(path)) in sizes
            opened += 1
        saving.result()
    assert opened > 5


def test_only_mode_r_opens(tmp_path, index):
    index.save(tmp_path)
    assert len(ch.Index.open(tmp_path, "r")) == len(index)
    with pytest.raises(ValueError, match="mode: expected 'r'"):
        ch.Index.open(tmp_path, mode="a")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_an_oserror(tmp_path, index):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="denied"):
        index.save(tmp_path / "index")
