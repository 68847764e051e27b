"""Changes of an index: what is added, replaced and deleted, against a plain dict of what there is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

import chamfer as ch
from chamfer.candidates import FaissCandidates
from chamfer.index import SearchSettings, catalogue, segments, writing
from small_indexes import DIM, QUERIES, Expected, build, folders, small_reducer, some_documents

RNG = np.random.default_rng(0)


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
    model = Expected(ids, documents, [row or {} for row in metadata])
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
    model = Expected(range(5), documents)
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
    Expected(range(20), documents).check(index)
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
    model = Expected(range(20), documents)
    model.delete(range(3, 12))
    model.check(index)
    for gone in (3, 11):
        with pytest.raises(KeyError, match=f"no document {gone} in this index of 11"):
            index.get(gone)


def test_all_may_be_deleted_and_others_added(place):
    index, _ = build(path=place, rerank=["int8", "exact"], metadata=[{"x": 1}] * 20)
    assert index.delete(range(20)) == 20
    empty = Expected([], [])
    empty.check(index)
    index.compact()
    empty.check(index)
    assert index.stats()["num_segments"] == 1
    if place is not None:
        empty.check(ch.Index.open(place, verify=True))
    new = some_documents(RNG, 5)
    assert index.add(new, [5, 6, 7, 100, 200]) == 5
    Expected([5, 6, 7, 100, 200], new).check(index)
    index.compact()
    Expected([5, 6, 7, 100, 200], new).check(index)


def test_only_empty_documents_may_be_left(place):
    index, _ = build(2, place)
    nothing = [np.empty((0, DIM), np.float32)] * 9
    index.add(nothing, range(10, 19))
    index.delete([0, 1])
    index.compact()
    Expected(range(10, 19), nothing).check(index)


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
    model = Expected(range(3), documents)
    model.put(range(50, 60), more, rows)
    model.check(index)


def test_an_endless_iterator_of_ids_is_not_read_to_its_end():
    index, documents = build(5, None)
    with pytest.raises(ValueError, match="ids: expected 2, one per document, got 3"):
        index.add(documents[:2], itertools.count(1000))


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
    Expected(range(5), documents).check(index)
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
    Expected(range(5), documents).check(index)
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
        Expected(range(5), documents).check(index)
        Expected(range(5), documents).check(ch.Index.open(tmp_path, verify=True))
    assert index.delete([77]) == 0  # the next change looks again, and removes what was left
    assert folders(tmp_path) == there
    assert index.add(documents[:2], [50, 51]) == 2
    assert len(ch.Index.open(tmp_path, verify=True)) == 7


def test_a_disk_that_fails_after_the_last_step_shows_the_new_state(tmp_path, monkeypatch):
    index, documents = build(5, tmp_path)
    model = Expected(range(5), documents)
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
    model = Expected(range(5), documents)

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
    Expected(range(5), documents).check(index)
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


def test_an_index_without_documents_cannot_be_tuned():
    index, documents = build(5, None)
    index.delete(index.ids)
    with pytest.raises(ValueError, match="tune: this index has no document"):
        index.tune(documents[:3], 0.9)
