"""Changes of an index: what is added, replaced, deleted and merged, against a plain dict of what there is."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import chamfer as ch
from chamfer.candidates import FaissCandidates
from chamfer.index import SearchSettings, building, catalogue, segments, writing
from samples import off_centre_collection

DIM = 6
RNG = np.random.default_rng(0)
QUERIES = off_centre_collection(np.random.default_rng(1), [3, 1, 4], dim=DIM)


def small_reducer():
    return ch.FixedDimensionalEncoder(DIM, num_repetitions=2, num_simhash_projections=1, projection_dimension=None)


def some_documents(rng, n, least=1):
    if n == 0:
        return []
    collection = off_centre_collection(rng, [int(m) for m in rng.integers(least, 5, n)], dim=DIM)
    return [collection[i] for i in range(n)]


def build(n=20, path=None, ids=None, **options):
    documents = some_documents(np.random.default_rng(n), n)
    options = {"reducer": small_reducer(), "candidates": "Flat", **options}
    return ch.Index.build(documents, ids, path=path, **options), documents


def folders(path):
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


class Model:
    """What an index should hold: vectors and metadata by id."""

    def __init__(self, ids, documents, metadata=None):
        self.documents = dict(zip(ids, documents, strict=True))
        self.metadata = dict(zip(ids, metadata or [{}] * len(ids), strict=True))

    def put(self, ids, documents, metadata):
        for one, document, row in zip(ids, documents, metadata, strict=True):
            self.documents[one], self.metadata[one] = document, row or {}

    def delete(self, ids):
        for one in ids:
            self.documents.pop(one, None)
            self.metadata.pop(one, None)

    def best(self, k, ids=None):
        """Return ids and scores of the k best of each query, by brute force."""
        names = [one for one in self.documents if ids is None or one in ids]
        filled = [one for one in names if len(self.documents[one])]
        if not filled:
            return [[] for _ in QUERIES], [[] for _ in QUERIES]
        scores = ch.maxsim(QUERIES, ch.TokenVectors.from_list([self.documents[one] for one in filled]))
        order = np.argsort(-scores, axis=1)[:, :k]
        return [[filled[i] for i in row] for row in order], np.take_along_axis(scores, order, 1).tolist()

    def check(self, index):
        assert len(index) == len(self.documents)
        assert set(index.ids.tolist()) == set(self.documents)
        assert len(index.ids) == len(self.documents)
        stats = index.stats()
        assert stats["num_documents"] == len(self.documents)
        assert stats["num_segments"] <= writing._MOST_SEGMENTS + 1
        for one, document in self.documents.items():
            assert one in index
            np.testing.assert_array_equal(index.get(one), document)
            assert index.get_metadata(one) == self.metadata[one]
        assert "nobody" not in index
        assert 10**9 not in index
        for k, options in ((3, {"exact": True}), (7, {}), (200, {}), (200, {"exact": True})):
            self._compare(index, k, None, options)
        some = set(list(self.documents)[::3])
        self._compare(index, 5, some, {"filter": some, "exact": True})
        self._compare(index, 5, some, {"filter": [one in some for one in index.ids.tolist()] or []})

    def _compare(self, index, k, some, options):
        found = index.search(QUERIES, k, **options)
        ids, scores = self.best(k, some)
        nothing = None if index.ids.dtype == object else -1
        for i in range(len(QUERIES)):
            missing = k - len(ids[i])
            assert found.ids[i].tolist() == ids[i] + [nothing] * missing
            assert found.scores[i].tolist() == scores[i] + [-np.inf] * missing


# ── any order of changes ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("on_disk", "strings", "rerank", "candidates", "seed"),
    [
        (False, False, "exact", "Flat", 0),
        (False, True, ["int8", "exact"], "IVF2,SQ8", 1),
        (True, True, "exact", "Flat", 2),
        (True, False, ["binary", "scalar:2", "exact"], "HNSW16", 3),
        (True, False, ["float16", "exact"], "PQ12x4fs", 4),
    ],
    ids=str,
)
def test_a_walk_of_changes_is_that_of_a_dict(tmp_path, monkeypatch, on_disk, strings, rerank, candidates, seed):
    monkeypatch.setattr(writing, "_BATCH_TOKENS", 12)
    rng = np.random.default_rng(seed)
    path = tmp_path / "index" if on_disk else None

    def names(some):
        return [f"é{i}" for i in some] if strings else [int(i) for i in some]

    ids, documents = names(range(30)), some_documents(rng, 30, least=0)
    metadata = [{"x": i, "late": False} if i % 3 else None for i in range(30)]
    index = ch.Index.build(
        documents,
        ids,
        path=path,
        reducer=small_reducer(),
        candidates=candidates,
        rerank=rerank,
        metadata=metadata,
    )
    num_coded = 0 if rerank == "exact" else len(rerank) - 1
    index.settings = SearchSettings(500, (500,) * num_coded, float("inf"), nprobe=2 if "IVF" in candidates else None)
    if on_disk:
        index.save(path)
    model = Model(ids, documents, [row or {} for row in metadata])
    reader = ch.Index.open(path) if on_disk else None
    model.check(index)
    for _ in range(25 if on_disk else 60):
        step = rng.choice(
            ["add", "iterate", "update", "delete", "compact", "again", "reopen"],
            p=[0.3, 0.1, 0.15, 0.2, 0.05, 0.1, 0.1],
        )
        some = names(np.unique(rng.integers(0, 60, rng.integers(0, 12))))
        rng.shuffle(some)
        new = some_documents(rng, len(some), least=0)
        rows = [None if rng.random() < 0.3 else {"x": int(rng.integers(5)), "late": True} for _ in some]
        before = set(model.documents)
        if step in ("add", "iterate"):
            as_given = (iter(new), iter(some), iter(rows)) if step == "iterate" else (new, some, rows)
            assert index.add(*as_given) == len(set(some) - before)
            model.put(some, new, rows)
        elif step == "update":
            known = [i for i, one in enumerate(some) if one in before]
            kept = rng.random() < 0.5
            if known:
                chosen, made = [some[i] for i in known], [new[i] for i in known]
                changed = [model.metadata[one] for one in chosen] if kept else [rows[i] for i in known]
                index.update(made, chosen, None if kept else changed)
                model.put(chosen, made, changed)
        elif step == "delete":
            assert index.delete(some) == len(set(some) & before)
            model.delete(some)
        elif step == "compact":
            index.compact()
            assert index.stats()["num_segments"] == 1
            assert index.stats()["num_deleted"] == 0
        elif step == "again" and before:
            chosen = sorted(before)[::4]
            assert (
                index.add([model.documents[one] for one in chosen], chosen, [model.metadata[one] for one in chosen])
                == 0
            )
        elif step == "reopen" and on_disk:
            index.close()
            index = ch.Index.open(path, mode="a", verify=True)
        model.check(index)
        if reader is not None:
            reader.refresh()
            assert not reader.refresh()
            model.check(reader)
    if on_disk:
        index.close()
        model.check(ch.Index.open(path, verify=True))
        ch.Index.open(path).save(tmp_path / "copy")
        model.check(ch.Index.open(tmp_path / "copy", verify=True))


# ── add, update, delete ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=[False, True], ids=["in memory", "on disk"])
def place(request, tmp_path):
    return tmp_path / "index" if request.param else None


def test_to_add_twice_is_to_add_once(place):
    index, _ = build(path=place)
    more = some_documents(RNG, 3)
    assert index.add(more, [50, 51, 52], [{"x": 1}, None, {}]) == 3
    before = index.search(QUERIES, exact=True)
    assert index.add(more, [50, 51, 52], [{"x": 1}, None, {}]) == 0
    after = index.search(QUERIES, exact=True)
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert len(index) == 23


def test_ids_and_metadata_may_come_in_any_order_that_is_one(place):
    index, documents = build(5, place)
    model = Model(range(5), documents)
    new = some_documents(RNG, 3)
    rows = {50: {"x": 1}, 51: {"x": 2}, 52: None}
    collection = ch.TokenVectors.from_list(new)
    for ids, metadata in (
        (rows.keys(), rows.values()),
        (iter(rows), (row for row in rows.values())),
        (tuple(rows), list(rows.values())),
        (range(50, 53), tuple(rows.values())),
        (np.arange(50, 53), list(rows.values())),
        (np.arange(50, 53).astype(object), iter(rows.values())),
    ):
        for given in (new, collection, iter(new)):
            if isinstance(ids, Iterator) or isinstance(metadata, Iterator):
                ids, metadata = list(rows), list(rows.values())
                index.add(new, iter(ids), iter(metadata))
            else:
                index.add(given, ids, metadata)
            model.put(list(rows), new, list(rows.values()))
            model.check(index)
            index.delete(rows.keys())
    assert index.add([], []) == index.add((), [], []) == index.add(iter([]), iter([])) == 0


def test_an_update_keeps_metadata_unless_given(place):
    index, _ = build(4, place, metadata=[{"x": i} for i in range(4)])
    new = some_documents(RNG, 2)
    index.update(new, [3, 1])
    assert [index.get_metadata(i) for i in range(4)] == [{"x": 0}, {"x": 1}, {"x": 2}, {"x": 3}]
    np.testing.assert_array_equal(index.get(3), new[0])
    index.update(iter(new), iter([3, 1]), iter([None, {"y": 2}]))
    assert [index.get_metadata(i) for i in range(4)] == [{"x": 0}, {"y": 2}, {"x": 2}, {}]
    index.add(new[:1], [2])
    assert index.get_metadata(2) == {}  # takes the place with all there is to it


def test_an_update_of_unknown_documents_changes_nothing(place):
    index, documents = build(path=place)
    there = None if place is None else folders(place)
    for given in (some_documents(RNG, 3), iter(some_documents(RNG, 3))):
        with pytest.raises(KeyError, match="no document 77 to update; `add` takes new ones"):
            index.update(given, [5, 77, 6])
    Model(range(20), documents).check(index)
    assert place is None or folders(place) == there


def test_deleting_is_of_what_is_there(place):
    index, documents = build(path=place)
    assert index.delete([3, 4, 99, 3]) == 2
    assert index.delete(3) == 0
    assert index.delete(np.int64(5)) == 1
    assert index.delete(np.array([6, 7], np.uint8)) == 2
    assert index.delete(i for i in (8, 9)) == 2
    assert index.delete(range(10, 12)) == 2
    assert index.delete([]) == index.delete(np.array([])) == index.delete(set()) == 0
    model = Model(range(20), documents)
    model.delete(range(3, 12))
    model.check(index)
    for gone in (3, 11):
        with pytest.raises(KeyError, match=f"no document {gone} in this index of 11"):
            index.get(gone)


def test_all_may_be_deleted_and_others_added(place):
    index, _ = build(path=place, rerank=["int8", "exact"], metadata=[{"x": 1}] * 20)
    assert index.delete(range(20)) == 20
    empty = Model([], [])
    empty.check(index)
    index.compact()
    empty.check(index)
    assert index.stats()["num_segments"] == 1
    if place is not None:
        empty.check(ch.Index.open(place, verify=True))
    new = some_documents(RNG, 5)
    assert index.add(new, [5, 6, 7, 100, 200]) == 5
    Model([5, 6, 7, 100, 200], new).check(index)
    index.compact()
    Model([5, 6, 7, 100, 200], new).check(index)


def test_only_empty_documents_may_be_left(place):
    index, _ = build(2, place)
    nothing = [np.empty((0, DIM), np.float32)] * 9
    index.add(nothing, range(10, 19))
    index.delete([0, 1])
    index.compact()
    Model(range(10, 19), nothing).check(index)


def test_documents_may_be_of_the_other_precision(place):
    index, documents = build(path=place)
    half = [one.astype(np.float16) for one in some_documents(RNG, 2)]
    index.add(half, [30, 31])
    assert index.get(30).dtype == np.float16
    assert index.stats()["dtype"] == "float16, float32"
    index.compact()
    assert index.get(30).dtype == np.float32  # exactly
    np.testing.assert_array_equal(index.get(30), half[0])
    np.testing.assert_array_equal(index.get(3), documents[3])


def test_numpy_integers_and_str_subclasses_are_ids(place):
    class Name(str):
        def __str__(self):
            return "other"

    index, _ = build(3, place, [Name("a"), "b", np.str_("c")])
    index.add(some_documents(RNG, 1), [Name("d")])
    assert [type(one) for one in index.ids.tolist()] == [str] * 4
    assert index.ids.tolist() == ["a", "b", "c", "d"]
    numbers, documents = build(3, None, np.array([5, 6, 7], np.int32))
    numbers.add(documents[:2], [np.uint16(9), np.int64(5)])
    assert sorted(numbers.ids.tolist()) == [5, 6, 7, 9]
    assert np.int8(9) in numbers
    assert numbers.ids.dtype == np.int64


def test_the_callers_arrays_are_the_callers(place):
    index, _ = build(3, place)
    buffer = some_documents(RNG, 1)[0]
    first = buffer.copy()
    index.add([buffer], [10])
    buffer[:] = 0.5

    def reused():
        for i in range(3):
            buffer[:] = i + 1
            yield buffer

    index.add(reused(), [20, 21, 22])
    buffer[:] = 9
    np.testing.assert_array_equal(index.get(10), first)
    assert [index.get(i)[0, 0] for i in (20, 21, 22)] == [1, 2, 3]


def test_iterators_are_read_in_batches(place, monkeypatch):
    monkeypatch.setattr(writing, "_BATCH_TOKENS", 10)
    index, documents = build(3, place)
    made = []
    original = writing.new_segment

    def new_segment(folder, model, candidates, part, *more):
        made.append((part.num_tokens, taken["documents"], taken["ids"], taken["metadata"]))
        return original(folder, model, candidates, part, *more)

    monkeypatch.setattr(writing, "new_segment", new_segment)
    taken = {"documents": 0, "ids": 0, "metadata": 0}

    def count(values, name):
        for value in values:
            taken[name] += 1
            yield value

    more = [np.full((4, DIM), i + 1, np.float32) for i in range(10)]
    rows = [{"x": i} for i in range(10)]
    assert index.add(count(more, "documents"), count(range(50, 60), "ids"), count(rows, "metadata")) == 10
    assert made == [(12, 3, 3, 3), (12, 6, 6, 6), (12, 9, 9, 9), (4, 10, 10, 10)]
    model = Model(range(3), documents)
    model.put(range(50, 60), more, rows)
    model.check(index)


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────

ONE = np.ones((2, DIM), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([np.ones((2, 5), np.float32)], [50]), ValueError, r"documents: expected dim 6 \(the index's\), got 5"),
        (([np.full((2, DIM), np.nan, np.float32)], [50]), ValueError, "documents: expected finite numbers, got nan"),
        (([ONE.astype(np.float64)], [50]), TypeError, r"documents\[0\]: expected float32 or float16, got float64"),
        (("text", [50]), TypeError, "documents: expected an array, a tensor or a list"),
        (([ONE], ["a"]), TypeError, "ids: expected int, as the index has them, got 'a'"),
        (([ONE, ONE], [50, "a"]), TypeError, r"ids\[1\]: expected all int or all str, got str"),
        (([ONE, ONE], [50, 50]), ValueError, "ids: expected all different, got 50 twice"),
        (([ONE], [True]), TypeError, r"ids\[0\]: expected all int or all str, got bool"),
        (([ONE], [-1]), ValueError, r"ids\[0\]: expected 0 to 2\^63 - 1, got -1"),
        (([ONE], [50.0]), TypeError, r"ids\[0\]: expected all int or all str, got float"),
        (([ONE], [50, 51]), ValueError, "ids: expected 1, one per document, got 2"),
        (([ONE, ONE], [50]), ValueError, "ids: expected 2, one per document, got 1"),
        (([ONE], None), TypeError, "ids: expected one per document, got None"),
        (([ONE], 50), TypeError, "ids: expected a list of int or str, got int"),
        (([ONE], {50}), TypeError, "ids: expected a list of int or str, got set"),
        (([ONE], [50], {"x": 1}), TypeError, "metadata: expected a list of dicts, one per document, got dict"),
        (([ONE], [50], [{}, {}]), ValueError, "metadata: expected 1, one per document, got 2"),
        (([ONE], [50], [{"x": []}]), TypeError, r"metadata\[0\]\['x'\]: expected str, int"),
    ],
)
@pytest.mark.parametrize("iterate", [False, True], ids=["collection", "iterator"])
def test_what_cannot_be_added_is_refused_and_nothing_changed(place, arguments, error, message, iterate):
    index, documents = build(5, place)
    there = None if place is None else folders(place)
    documents_given, ids, *rest = arguments
    if iterate:
        if isinstance(documents_given, str):
            message = "documents"
        elif ids is None or isinstance(ids, (int, set)):
            message = "ids: expected one per document, in order, got "
        elif len(ids) > len(documents_given):
            message = "ids: expected one per document, got more"
        elif rest and isinstance(rest[0], dict):
            message = "metadata: expected one per document, in order, got dict"
        elif rest and len(rest[0]) > 1:
            message = "metadata: expected one per document, got more"
        documents_given = iter(documents_given)
    with pytest.raises(error, match=message):
        index.add(documents_given, ids, *rest)
    Model(range(5), documents).check(index)
    assert place is None or folders(place) == there


@pytest.mark.parametrize(
    "ids", ["a", ["a"], [True], True, 1.5, None, {1: 2}, b"x", [1.0], [None], np.ones(5, bool)], ids=repr
)
def test_what_is_no_id_is_not_deleted(ids):
    index, _ = build(5)
    with pytest.raises(TypeError, match="ids: expected "):
        index.delete(ids)
    assert len(index) == 5


def test_a_batch_that_fails_late_leaves_no_files(place, monkeypatch):
    monkeypatch.setattr(writing, "_BATCH_TOKENS", 4)
    index, documents = build(5, place)
    there = None if place is None else folders(place)

    def failing():
        yield from some_documents(RNG, 6)
        raise RuntimeError("the network is gone")

    with pytest.raises(RuntimeError, match="the network is gone"):
        index.add(failing(), iter(range(50, 70)))
    with pytest.raises(ValueError, match="ids: expected all different, got 53 twice"):
        index.add(iter(some_documents(RNG, 6)), [50, 51, 52, 53, 54, 53])
    with pytest.raises(ValueError, match=r"ids: expected .*, one per document, got "):
        index.add(iter(some_documents(RNG, 6)), range(50, 53))
    with pytest.raises(TypeError, match="documents: expected an iterator of 2-D arrays, got one of float"):
        index.add(iter([1.0, 2.0]), [50, 51])
    Model(range(5), documents).check(index)
    assert place is None or folders(place) == there
    index.add(documents[:1], [50])
    assert len(index) == 6


@pytest.mark.parametrize("broken", ["write_container", "save", "write"])
def test_a_disk_that_fails_leaves_the_old_state(tmp_path, monkeypatch, broken):
    index, documents = build(5, tmp_path)
    there = folders(tmp_path)

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    target = {"write_container": segments, "save": FaissCandidates, "write": catalogue}[broken]
    changes = (
        lambda: index.add(documents[:2], [50, 51]),
        lambda: index.update(documents[:1], [3]),
        lambda: index.delete([1]) if broken == "write" else no_space(),
    )
    for change in changes:
        with monkeypatch.context() as patch:
            patch.setattr(target, broken, no_space)
            with pytest.raises(OSError, match="No space left"):
                change()
        Model(range(5), documents).check(index)
        Model(range(5), documents).check(ch.Index.open(tmp_path, verify=True))
    assert index.delete([77]) == 0  # the next change looks again, and removes what was left
    assert folders(tmp_path) == there
    assert index.add(documents[:2], [50, 51]) == 2
    assert len(ch.Index.open(tmp_path, verify=True)) == 7


def test_a_disk_that_fails_after_the_last_step_shows_the_new_state(tmp_path, monkeypatch):
    index, documents = build(5, tmp_path)
    model = Model(range(5), documents)
    new = some_documents(RNG, 2)
    index.delete(77)

    def broken(*_):
        raise OSError(5, "Input/output error")

    for change, apply in (
        (lambda: index.add(new, [50, 51]), lambda: model.put([50, 51], new, [None] * 2)),
        (lambda: index.delete([1]), lambda: model.delete([1])),
        (index.compact, lambda: None),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(catalogue, "sync_folder", broken)
            with pytest.raises(OSError, match="Input/output error"):
                change()
        apply()
        model.check(index)
        model.check(ch.Index.open(tmp_path, verify=True))
        assert len(folders(tmp_path)) == 1 + index.stats()["num_segments"]


def test_no_room_for_merging_is_no_failure_to_add(tmp_path, monkeypatch):
    index, documents = build(5, tmp_path)
    model = Model(range(5), documents)

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "merged_segment", no_space)
        for i in range(50, 60):
            new = some_documents(RNG, 1)
            index.add(new, [i])
            model.put([i], new, [None])
    assert index.stats()["num_segments"] == 11
    index.add(new, [59])
    assert index.stats()["num_segments"] < 11
    model.check(ch.Index.open(tmp_path, verify=True))
    index.compact()
    model.check(index)


def test_a_change_within_a_change_is_refused(place):
    index, documents = build(5, place)

    def adding():
        yield documents[0]
        index.add(documents[1:2], [60])

    with pytest.raises(ValueError, match="this index is being changed by what its documents come from"):
        index.add(adding(), [50, 51])
    Model(range(5), documents).check(index)
    assert index.add((index.get(i) for i in range(3)), [50, 51, 52]) == 3  # to read is free


def test_a_closed_index_answers_and_is_not_changed(place):
    index, documents = build(5, place)
    with index as same:
        assert same is index
        index.add(documents[:1], [50])
    for change in (lambda: index.add(documents[:1], [51]), lambda: index.delete(1), index.compact):
        with pytest.raises(ValueError, match="this index is closed; open it again"):
            change()
    assert len(index) == len(index.search(QUERIES, 6, exact=True).ids[0]) == 6
    index.close()


def test_an_index_opened_to_read_is_not_changed(tmp_path):
    _, documents = build(5, tmp_path)
    reader = ch.Index.open(tmp_path)
    for change in (
        lambda: reader.add(documents[:1], [50]),
        lambda: reader.update(documents[:1], [1]),
        lambda: reader.delete(1),
        reader.compact,
    ):
        with pytest.raises(ValueError, match="this index was opened to read; open it with mode='a' to change it"):
            change()
    assert len(ch.Index.open(tmp_path)) == 5


# ── segments ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_segments_stay_few_and_answers_the_same(place):
    index, documents = build(8, place)
    model = Model(range(8), documents)
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
    Model(range(100, 200), documents[100:], [{"x": i} for i in range(100, 200)]).check(index)
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


def test_a_model_is_fitted_anew_in_bounded_memory(tmp_path):
    rng = np.random.default_rng(0)
    documents = off_centre_collection(rng, [2] * 90, dim=4)
    index = ch.Index.build(documents._run(0, 40), path=tmp_path, reducer="fde", candidates="Flat")
    index.add(documents._run(40, 90), range(40, 90))
    index.compact(memory_budget="256MiB")
    assert index.stats()["num_fitted"] == 90
    exact = ch.maxsim_topk(documents[3], documents, 5)[1]
    np.testing.assert_array_equal(index.search(documents[3], 5, exact=True).ids, exact)


# ── readers and writers ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reader_keeps_its_state_until_it_refreshes(tmp_path):
    index, documents = build(30, tmp_path, rerank=["int8", "exact"], metadata=[{"x": i} for i in range(30)])
    old = Model(range(30), documents, [{"x": i} for i in range(30)])
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
    model = Model(range(5), documents)
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


# ── what reviews found ────────────────────────────────────────────────────────────────────────────────────────────────


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


def test_an_endless_iterator_of_ids_is_not_read_to_its_end():
    index, documents = build(5, None)
    with pytest.raises(ValueError, match="ids: expected 2, one per document, got 3"):
        index.add(documents[:2], itertools.count(1000))


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


def test_an_index_without_documents_cannot_be_tuned():
    index, documents = build(5, None)
    index.delete(index.ids)
    with pytest.raises(ValueError, match="tune: this index has no document"):
        index.tune(documents[:3], 0.9)


# ── bounded memory ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["r", "c", None])
def test_an_index_is_built_in_parts_where_memory_is_bounded(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(building, "_SHARE_OF_BUDGET", 2**21)  # 32 bytes of vectors a segment, and of the sample
    monkeypatch.setattr(building, "_FEWEST_FITTED", 7)
    collection = off_centre_collection(RNG, [3, 0, 5, 1, 2] * 4, dim=DIM)
    if mode is not None:
        np.save(tmp_path / "vectors.npy", collection.vectors)
        collection = ch.TokenVectors(np.load(tmp_path / "vectors.npy", mmap_mode=mode), collection.offsets)
    if mode == "c":
        collection.vectors[0] = 0.5  # in memory only: it must not be let go
    before = np.array(collection.vectors)
    metadata = [{"n": i} for i in range(20)]
    index = ch.Index.build(
        collection,
        [f"d{i}" for i in range(20)],
        reducer=small_reducer(),
        rerank=["int8", "exact"],
        metadata=metadata,
        path=tmp_path / "index",
        memory_budget="256MiB",
    )
    np.testing.assert_array_equal(collection.vectors, before)
    assert index.stats()["num_segments"] > 4
    assert index.stats()["num_fitted"] == 20
    rows = ch.maxsim_topk(QUERIES, collection, 6)[1]
    for one in (index, ch.Index.open(tmp_path / "index", verify=True)):
        assert one.ids.tolist() == [f"d{i}" for i in range(20)]
        assert one.get_metadata("d7") == {"n": 7}
        assert one.search(QUERIES, 6, exact=True).ids.tolist() == [[f"d{row}" for row in some] for some in rows]
        assert one.search(QUERIES, 6).ids.tolist() == [[f"d{row}" for row in some] for some in rows]
    index.compact()
    assert index.stats()["num_segments"] == 1


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


def test_a_budget_needs_a_folder_and_an_order():
    with pytest.raises(ValueError, match="memory_budget: expected a path with it"):
        ch.Index.build(some_documents(RNG, 5), memory_budget="1GB")


def test_a_build_in_parts_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "_SHARE_OF_BUDGET", 2**21)
    monkeypatch.setattr(building, "_FEWEST_FITTED", 7)
    save, calls = FaissCandidates.save, itertools.count()

    def no_space(self, path):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        save(self, path)

    monkeypatch.setattr(FaissCandidates, "save", no_space)
    with pytest.raises(OSError, match="No space left"):
        ch.Index.build(some_documents(RNG, 30), reducer=small_reducer(), path=tmp_path, memory_budget="256MiB")
    assert not folders(tmp_path)
