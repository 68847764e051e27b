"""Segments of an index: merged, fitted anew, built in bounded memory, and answering as one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import chamfer as ch
from chamfer.candidates import FaissCandidates
from chamfer.index import SearchSettings, building, storage
from samples import off_centre_collection, random_binarizer
from small_indexes import DIM, QUERIES, Expected, build, folders, small_reducer, some_documents

RNG = np.random.default_rng(0)


# ── segments ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_segments_stay_few_and_answers_the_same(place):
    index, documents = build(8, place)
    model = Expected(range(8), documents)
    most = 0
    for i in range(60):
        new = some_documents(RNG, 1 + i % 3)
        ids = range(100 + 10 * i, 100 + 10 * i + len(new))
        index.add(new, ids)
        model.put(ids, new, [None] * len(new))
        most = max(most, index.stats()["num_segments"])
    assert 2 < most <= 4
    model.check(index)
    assert place is None or len(folders(place)) == index.stats()["num_segments"] + 1


def test_compacting_reclaims_the_room_of_deleted_documents(tmp_path):
    index, documents = build(200, tmp_path, metadata=[{"x": i} for i in range(200)])
    before = index.stats()
    index.delete(range(100))
    assert index.stats()["num_deleted"] == 100
    assert index.stats()["disk_bytes"] == before["disk_bytes"]
    index.compact()
    after = index.stats()
    assert after["num_deleted"] == 0
    assert after["num_tokens"] == sum(map(len, documents[100:]))
    assert after["disk_bytes"] < before["disk_bytes"]
    files = [file for folder in folders(tmp_path) for file in (tmp_path / folder).iterdir()]
    assert sum(file.stat().st_size for file in files) == after["disk_bytes"]
    Expected(range(100, 200), documents[100:], [{"x": i} for i in range(100, 200)]).check(index)
    there = folders(tmp_path)
    index.compact()  # nothing to do
    assert folders(tmp_path) == there


def test_an_index_that_has_grown_is_fitted_anew(tmp_path):
    rng = np.random.default_rng(0)
    first, more = (off_centre_collection(rng, [2] * n, dim=4) for n in (200, 900))
    queries = off_centre_collection(rng, [3] * 30, dim=4)
    index = ch.Index.build(first, path=tmp_path, queries=queries)
    index.settings = SearchSettings(50, ())
    index.add(first, range(1000, 1200))
    index.compact()  # twice as many are not more than twice as many
    assert index.stats()["num_fitted"] == 200
    assert isinstance(index.reducer, ch.FixedDimensionalEncoder)
    index.add(more, range(2000, 2900))
    index.delete(range(1000, 1200))
    index.compact()
    stats = index.stats()
    assert isinstance(index.reducer, ch.LearnedReducer)
    assert (stats["num_documents"], stats["num_fitted"], stats["num_segments"]) == (1100, 1100, 1)
    assert stats["rerank"] == ["int8", "exact"]
    assert stats["candidates"] == "PQ256x4fs" or "x4fs" in stats["candidates"]
    assert index.settings == SearchSettings()  # those were of another model
    assert sorted(name[0] for name in folders(tmp_path)) == ["m", "s"]
    opened = ch.Index.open(tmp_path, verify=True)
    for one in (index, opened):
        assert one.ids.tolist() == [*range(200), *range(2000, 2900)]
        np.testing.assert_array_equal(one.get(2001), more[1])
        exact = one.search(queries, 10, exact=True).ids
        found = one.search(queries, 10).ids
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]) > 0.9
    np.testing.assert_array_equal(opened._snapshot.model.queries.vectors, queries.vectors.astype(np.float16))


def test_a_reducer_that_was_given_stays(tmp_path):
    index, _ = build(5, tmp_path)
    encoder = index.reducer
    index.add(some_documents(RNG, 40), range(10, 50))
    index.compact()
    assert index.stats()["num_fitted"] == 5
    again = index.reducer.encode_queries(QUERIES)
    np.testing.assert_array_equal(again, encoder.encode_queries(QUERIES))


@pytest.mark.parametrize("share", [8, 2**21], ids=["one part", "many parts"])
def test_a_model_is_fitted_anew_in_bounded_memory(tmp_path, monkeypatch, share):
    monkeypatch.setattr(building, "_SHARE_OF_BUDGET", share)
    made = parts_made(monkeypatch)
    rng = np.random.default_rng(0)
    documents = off_centre_collection(rng, [2] * 90, dim=4)
    index = ch.Index.build(documents._run(0, 40), path=tmp_path, reducer="fde", candidates="Flat")
    index.add(documents._run(40, 90), range(40, 90))
    made.clear()
    index.compact(memory_budget="256MiB")
    assert len(made) > 1 if share > 8 else len(made) == 1
    assert index.stats()["num_segments"] == 1
    assert len(folders(tmp_path)) == 2
    assert index.stats()["num_fitted"] == 90
    exact = ch.maxsim_topk(documents[3], documents, 5)[1]
    np.testing.assert_array_equal(index.search(documents[3], 5, exact=True).ids, exact)


@pytest.mark.parametrize("kind", ["IVF16,Flat", "HNSW8", "IVF16,PQ12x4fs"])
@pytest.mark.parametrize("how", ["filter", "delete"])
def test_what_lies_in_few_clusters_is_found(kind, how):
    """Inverted lists and graphs look near the query, where nothing may be allowed."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((16, DIM)).astype(np.float32)
    labels = np.arange(1600) % 16
    documents = [centres[i] + 0.1 * random.standard_normal((2, DIM)).astype(np.float32) for i in labels]
    reducer = ch.FixedDimensionalEncoder(DIM, num_repetitions=2, num_simhash_projections=1, projection_dimension=None)
    metadata = [{"cluster": int(label)} for label in labels]
    index = ch.Index.build(documents, reducer=reducer, candidates=kind, rerank="exact", metadata=metadata)
    options = {"filter": "cluster in (13, 15)"}
    if how == "delete":
        index.delete(np.flatnonzero(~np.isin(labels, (13, 15))))
        options = {}
    queries = [centres[[i, i]] for i in range(8)]
    found = index.search(queries, 10, num_candidates=40, **options).ids
    assert (found >= 0).all()
    assert np.isin(labels[found], (13, 15)).all()


def test_what_a_crash_left_goes_when_a_writer_comes(tmp_path):
    build(5, tmp_path)[0].close()
    for name in ("s-aaaaaaaaaaaa", "m-aaaaaaaaaaaa"):
        (tmp_path / name).mkdir()
    ch.Index.open(tmp_path, "a").close()
    assert not {"s-aaaaaaaaaaaa", "m-aaaaaaaaaaaa"} & {*folders(tmp_path)}


@pytest.mark.parametrize("candidates", ["Flat", "PQ12x4fs", "SDC", "IVF3,SDC"])
def test_merging_encodes_nothing_again(tmp_path, monkeypatch, candidates):
    reducer = small_reducer()
    if "SDC" in candidates:
        candidates = ch.BinaryCandidates(random_binarizer(dim=reducer.output_dimension), candidates)
    index = build(40, tmp_path, reducer=reducer, candidates=candidates, rerank=["int8", "exact"])[0]
    more = some_documents(RNG, 20)
    index.add(more, range(100, 120))
    index.delete([3, 101])
    model = Expected(index.ids.tolist(), [index.get(one) for one in index.ids])

    def encode(*_, **__):
        raise AssertionError("documents are encoded")

    monkeypatch.setattr(ch.FixedDimensionalEncoder, "encode_documents", encode)
    index.compact()
    assert index.stats()["num_segments"] == 1
    monkeypatch.undo()
    for one in (index, ch.Index.open(tmp_path, verify=True)):
        one.settings = SearchSettings(nprobe=3 if one.stats()["candidates"].startswith("IVF") else None)
        model.check(one)


def test_merging_shows_how_far_it_is(tmp_path, capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    index, documents = build(10, tmp_path)
    index.add(documents, range(100, 110))
    capsys.readouterr()
    index.compact(progress=True)
    shown = capsys.readouterr().err
    assert "merge segments: 100%" in shown
    index.compact(progress=True)  # nothing is left to do
    index = build(10, None)[0]
    index.add(documents, range(100, 110))
    index.compact(progress=True)  # in memory, at once
    assert not capsys.readouterr().err


# ── bounded memory ────────────────────────────────────────────────────────────────────────────────────────────────────


def parts_made(monkeypatch):
    """Return a list to which every part of a build will be added."""
    made, new_segment = [], building.new_segment

    def make(*arguments):
        made.append(new_segment(*arguments))
        return made[-1]

    monkeypatch.setattr(building, "new_segment", make)
    return made


def twenty_documents():
    """A collection, and its exact best for QUERIES."""
    collection = off_centre_collection(np.random.default_rng(3), [3, 0, 5, 1, 2] * 4, dim=DIM)
    return collection, ch.maxsim_topk(QUERIES, collection, 6)[1]


def build_in_parts(path, monkeypatch, collection, **options):
    monkeypatch.setattr(building, "_SHARE_OF_BUDGET", 2**21)  # 32 bytes of vectors a segment, and of the sample
    monkeypatch.setattr(building, "_FEWEST_FITTED", 7)
    options = {"reducer": small_reducer(), "candidates": "Flat", "rerank": "exact", **options}
    return ch.Index.build(collection, path=path, memory_budget="256MiB", **options)


@pytest.mark.parametrize("mode", ["r", "c", None])
def test_an_index_is_built_in_parts_where_memory_is_bounded(tmp_path, monkeypatch, mode):
    collection = twenty_documents()[0]
    if mode is not None:
        np.save(tmp_path / "vectors.npy", collection.vectors)
        collection = ch.TokenVectors(np.load(tmp_path / "vectors.npy", mmap_mode=mode), collection.offsets)
    if mode == "c":
        collection.vectors[0] = 0.5  # in memory only: it must not be let go
    before = np.array(collection.vectors)
    metadata = [{"n": i} for i in range(20)]
    made = parts_made(monkeypatch)
    options = {"ids": [f"d{i}" for i in range(20)], "rerank": ["int8", "exact"], "metadata": metadata}
    index = build_in_parts(tmp_path / "index", monkeypatch, collection, **options)
    np.testing.assert_array_equal(collection.vectors, before)
    assert index.stats()["num_segments"] == 1
    assert len(made) > 4
    assert len(folders(tmp_path / "index")) == 2  # and the model
    rows = ch.maxsim_topk(QUERIES, collection, 6)[1]
    for one in (index, ch.Index.open(tmp_path / "index", verify=True)):
        assert one.ids.tolist() == [f"d{i}" for i in range(20)]
        assert one.get_metadata("d7") == {"n": 7}
        assert one.search(QUERIES, 6, exact=True).ids.tolist() == [[f"d{row}" for row in some] for some in rows]
        assert one.search(QUERIES, 6).ids.tolist() == [[f"d{row}" for row in some] for some in rows]
    assert index.stats()["num_fitted"] == 20
    index.close()


@pytest.mark.parametrize("why", ["a graph cannot be joined", "encodings outgrow the budget"])
def test_parts_that_cannot_be_merged_are_an_index_too(tmp_path, monkeypatch, why):
    made = parts_made(monkeypatch)
    if why == "encodings outgrow the budget":
        monkeypatch.setattr(building, "_SHARE_TO_JOIN", 2**28)
    collection, rows = twenty_documents()
    candidates = "HNSW8" if why == "a graph cannot be joined" else "Flat"
    index = build_in_parts(tmp_path, monkeypatch, collection, candidates=candidates)
    assert index.stats()["num_segments"] == len(made) > 4
    assert len(folders(tmp_path)) == len(made) + 1
    for one in (index, ch.Index.open(tmp_path, verify=True)):
        assert one.search(QUERIES, 6).ids.tolist() == rows.tolist()
    monkeypatch.undo()
    index.compact()
    assert index.stats()["num_segments"] == 1
    assert index.search(QUERIES, 6).ids.tolist() == rows.tolist()


NO_SPACE = OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [NO_SPACE, MemoryError(), KeyboardInterrupt()], ids=["disk", "memory", "Ctrl-C"])
@pytest.mark.parametrize("where", ["joined", "save"])
def test_a_merge_of_parts_that_fails_leaves_them_and_nothing_else(tmp_path, monkeypatch, where, error):
    made = parts_made(monkeypatch)
    original, join, is_merging = getattr(FaissCandidates, where), building._joined_segment, False

    def merge(*arguments):
        nonlocal is_merging
        is_merging = True
        return join(*arguments)

    def fail(*arguments):
        if where == "joined" or is_merging:
            raise error
        return original(*arguments)

    monkeypatch.setattr(building, "_joined_segment", merge)
    monkeypatch.setattr(FaissCandidates, where, fail)
    collection, rows = twenty_documents()
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            build_in_parts(tmp_path, monkeypatch, collection)
        assert not folders(tmp_path)
        return
    with pytest.warns(RuntimeWarning, match=r"segments are not merged \((\[Errno 28\]|out of memory)"):
        index = build_in_parts(tmp_path, monkeypatch, collection)
    assert index.stats()["num_segments"] == len(made) > 4
    assert len(folders(tmp_path)) == len(made) + 1
    assert index.search(QUERIES, 6).ids.tolist() == rows.tolist()


def test_many_parts_are_merged_on_the_way(tmp_path, monkeypatch):
    """The map of each takes a file descriptor."""
    made, most = parts_made(monkeypatch), 0
    new_segment = building.new_segment

    def count(*arguments):
        nonlocal most
        most = max(most, len(folders(tmp_path)))
        return new_segment(*arguments)

    monkeypatch.setattr(building, "new_segment", count)
    monkeypatch.setattr(building, "_MOST_PARTS", 3)
    collection, rows = twenty_documents()
    index = build_in_parts(tmp_path, monkeypatch, collection)
    assert len(made) > 9
    assert most <= 3 + len(made) // 3
    assert index.stats()["num_segments"] == 1
    assert index.ids.tolist() == [*range(20)]
    assert index.search(QUERIES, 6).ids.tolist() == rows.tolist()


def test_what_was_merged_goes_at_once(tmp_path, monkeypatch):
    seen, write_whole = [], storage.write_whole

    def write(*arguments):
        seen.append(folders(tmp_path))
        return write_whole(*arguments)

    monkeypatch.setattr(storage, "write_whole", write)
    build_in_parts(tmp_path, monkeypatch, twenty_documents()[0])
    assert [len(names) for names in seen] == [1]


@pytest.mark.parametrize(
    ("budget", "error", "message"),
    [
        ("1 parsec", ValueError, "memory_budget: expected bytes, or such as '1GB'"),
        ("100MB", ValueError, "memory_budget: expected at least 256 MiB"),
        (-1, ValueError, "memory_budget: expected"),
        (0.5, TypeError, "memory_budget: expected"),
    ],
)
def test_a_wrong_budget_is_named(tmp_path, budget, error, message):
    with pytest.raises(error, match=message):
        ch.Index.build(some_documents(RNG, 5), path=tmp_path, memory_budget=budget)
    assert not [*tmp_path.iterdir()]


def test_a_budget_needs_a_folder_and_the_order_of_input(tmp_path):
    with pytest.raises(ValueError, match="memory_budget: expected a path with it"):
        ch.Index.build(some_documents(RNG, 5), memory_budget="1GB")
    with pytest.raises(ValueError, match="insertion_order: expected 'input' where memory_budget is given"):
        ch.Index.build(some_documents(RNG, 5), path=tmp_path, memory_budget="1GB", insertion_order="random")
    assert not folders(tmp_path)


def test_a_build_in_parts_that_fails_leaves_nothing(tmp_path, monkeypatch):
    save, calls = FaissCandidates.save, itertools.count()

    def no_space(self, path):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        save(self, path)

    monkeypatch.setattr(FaissCandidates, "save", no_space)
    with pytest.raises(OSError, match="No space left"):
        build_in_parts(tmp_path, monkeypatch, twenty_documents()[0])
    assert not folders(tmp_path)
