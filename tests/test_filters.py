"""Filters: conditions mean what plain Python means by them, and searches return nothing but what they let through."""

from __future__ import annotations

import string

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chamfer as ch
from chamfer.index import filters
from chamfer.index.filters import Condition, check_metadata
from chamfer.index.segments import SegmentMetadata, encode_metadata
from samples import off_centre_collection

DIM = 8
KEYS = ("a", "b", "year")
VALUES = (None, True, False, 0, 1, 2, -3, 10**30, 0.5, 1.0, -0.0, "", "1", "a", "b", "é'\"\\\n")

# ── what a condition means ────────────────────────────────────────────────────────────────────────────────────────────


class Plain:
    """A value as a condition sees it: None fits no comparison, and strings and numbers do not compare."""

    def __init__(self, value):
        self.value = value

    def compare(self, how, other):
        if self.value is None:
            return False
        if isinstance(self.value, str) != isinstance(other, str):
            return how == "!="
        value = self.value
        return {
            "==": lambda: value == other,
            "!=": lambda: value != other,
            "<": lambda: value < other,
            "<=": lambda: value <= other,
            ">": lambda: value > other,
            ">=": lambda: value >= other,
        }[how]()


FLIPPED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
keys = st.sampled_from(KEYS)
constants = st.sampled_from([value for value in VALUES if value is not None])


def show(value):
    return repr(value) if isinstance(value, (bool, str)) or value >= 0 else f"-{-value!r}"


def leaf(draw_key, how, constant, flipped):
    text = f"{show(constant)} {FLIPPED[how]} {draw_key}" if flipped else f"{draw_key} {how} {show(constant)}"
    return text, lambda row: Plain(row.get(draw_key)).compare(how, constant)


def between(key, low, high):
    def fits(row):
        value = Plain(row.get(key))
        return value.compare(">", low) and value.compare("<=", high)

    return f"{show(low)} < {key} <= {show(high)}", fits


def membership(key, some, negated, brackets):
    inside = "".join(f"{show(one)}, " for one in some)
    text = f"{key} {'not in' if negated else 'in'} {brackets[0]}{inside}{brackets[1]}"
    return text, lambda row: row.get(key) is not None and (row[key] in some) != negated


def presence(key, negated):
    return f"{key} is {'not ' if negated else ''}None", lambda row: (row.get(key) is None) != negated


def joined(word, parts):
    text = f" {word} ".join(f"({text})" for text, _ in parts)
    join = all if word == "and" else any
    return text, lambda row: join(fits(row) for _, fits in parts)


leaves = st.one_of(
    st.builds(leaf, keys, st.sampled_from(sorted(FLIPPED)), constants, st.booleans()),
    st.builds(between, keys, constants, constants),
    st.builds(membership, keys, st.lists(constants, max_size=4), st.booleans(), st.sampled_from(["()", "[]"])),
    st.builds(presence, keys, st.booleans()),
    keys.map(lambda key: (key, lambda row: bool(row.get(key)))),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(joined, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)),
        inner.map(lambda one: (f"not ({one[0]})", lambda row: not one[1](row))),
    ),
    max_leaves=8,
)
rows = st.one_of(st.none(), st.dictionaries(keys, st.sampled_from(VALUES)))


@given(st.lists(rows, max_size=12), st.lists(conditions, min_size=1, max_size=4))
def test_a_condition_is_what_plain_python_makes_of_it(metadata, some):
    stored = SegmentMetadata(encode_metadata(check_metadata(metadata, len(metadata))))
    for text, fits in some:
        mask = Condition(text)(stored, len(metadata))
        assert mask.dtype == bool
        assert mask.tolist() == [bool(fits(row or {})) for row in metadata], text
        assert Condition(text)(stored, len(metadata)) is mask  # found again


def test_what_lacks_a_key_fits_no_comparison():
    stored = SegmentMetadata(encode_metadata([{"x": None}, None, {}, {"x": 3}, {"x": "3"}]))

    def fitting(text):
        return np.flatnonzero(Condition(text)(stored, 5)).tolist()

    assert fitting("x != 5") == [3, 4]
    assert fitting("x not in (5,)") == [3, 4]
    assert fitting("x == 3") == [3]
    assert fitting("x < 5 or x >= 5") == [3]
    assert fitting("not x == 3") == [0, 1, 2, 4]
    assert fitting("x is None") == [0, 1, 2]
    assert fitting("x == '3' and x > ''") == [4]
    assert fitting("x is None or x in (3, 4)") == [0, 1, 2, 3]


def test_kept_masks_are_few(monkeypatch):
    monkeypatch.setattr(filters, "_KEPT", 3)
    stored = SegmentMetadata(encode_metadata([{"x": i} for i in range(5)]))
    for i in [*range(5), 0]:
        assert Condition(f"x == {i}")(stored, 5).tolist() == [j == i for j in range(5)]
        assert len(stored.columns[filters._MASKS]) <= 3


@pytest.mark.parametrize(
    "text",
    [
        "print('x')",
        "__import__('os').system('true')",
        "a.b == 1",
        "a[0] == 1",
        "lambda: a",
        "a < b",
        "a == a",
        "a + 1 == 2",
        "-a == 1",
        "a == f'x'",
        "a == b'x'",
        "a == 1j",
        "a == ...",
        "a == None",
        "a in (None, 3)",
        "a in b",
        "a in 'text'",
        "'x' in a",
        "a in [*b]",
        "a in {1: 2}",
        "a in [x for x in ()]",
        "a is 5",
        "1 < 2",
        "1 < 2 < a",
        "True",
        "(a := 1)",
        "a if b else c",
        "a == 1, b == 2",
        "a; b",
        "a = 1",
        "import os",
        "yield a",
        "await a",
        "",
        "   ",
        "a == '\0'",
        "a == '\ud800'",
        "a == " + "9" * 5000,
        "(" * 500 + "a" + ")" * 500,
        "not " * 101 + "a",
        "not " * 24_000 + "a",
        "(a or " * 101 + "a" + ")" * 101,
        "a or " * 30_000 + "a",
    ],
    ids=lambda text: repr(text[:30]),
)
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ValueError, match="filter: ") as caught:
        Condition(text)
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 800


@given(st.text(string.printable + "é∑", max_size=30))
def test_no_text_is_more_than_a_value_error(text):
    message = "filter: "
    try:
        Condition(text)
    except ValueError as error:
        message = str(error)
    assert message.startswith("filter: ")


def test_conditions_may_be_long_and_nested():
    stored = SegmentMetadata(encode_metadata([{"x": 39_999}, {"x": 40_000}]))
    assert Condition(f"x in ({', '.join(map(str, range(0, 40_000, 3)))})")(stored, 2).tolist() == [True, False]
    assert Condition(" or ".join(f"x == {i}" for i in range(30_000, 35_000)))(stored, 2).tolist() == [False] * 2

    def deep(n):  # in a stack that is nearly full
        return deep(n - 1) if n else Condition("not " * 100 + "x")(stored, 2).tolist()

    assert deep(500) == [True, True]


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ([{}], ValueError, "metadata: expected 2, one per document, got 1"),
        ({"a": 1}, TypeError, "metadata: expected a list of dicts, one per document, got dict"),
        ("ab", TypeError, "metadata: expected a list of dicts, one per document, got str"),
        ([{}, 5], TypeError, r"metadata\[1\]: expected a dict or None, got int"),
        ([{}, {1: 2}], TypeError, r"metadata\[1\]: expected keys of type str, got 1"),
        ([{}, {"a b": 2}], ValueError, r"metadata\[1\]: expected keys that a condition can name, .* got 'a b'"),
        ([{}, {"in": 2}], ValueError, r"metadata\[1\]: expected keys that a condition can name, .* got 'in'"),
        ([{}, {"None": 2}], ValueError, r"metadata\[1\]: expected keys that a condition can name, .* got 'None'"),
        ([{}, {"ﬁ": 2}], ValueError, r"metadata\[1\]: expected keys that a condition can name, .* got 'ﬁ'"),
        ([{}, {"a": [1]}], TypeError, r"metadata\[1\]\['a'\]: expected str, int, float, bool or None, got list"),
        ([{}, {"a": b"x"}], TypeError, r"metadata\[1\]\['a'\]: expected str, .* got bytes"),
        ([{}, {"a": -(10**5000)}], ValueError, r"metadata\[1\]\['a'\]: expected up to 1024 bits, got 16610"),
        ([{}, {"a": float("nan")}], ValueError, r"metadata\[1\]\['a'\]: expected a finite number, got nan"),
        ([{}, {"a": np.float32("inf")}], ValueError, r"metadata\[1\]\['a'\]: expected a finite number, got inf"),
    ],
)
def test_bad_metadata_is_refused(metadata, error, message):
    with pytest.raises(error, match=message):
        ch.Index.build([np.ones((1, DIM), np.float32)] * 2, metadata=metadata)


# ── searches ──────────────────────────────────────────────────────────────────────────────────────────────────────────

NUM_DOCUMENTS = 700
CANDIDATES = ["Flat", "SQ8", "PQ16x4fs", "IVF8,Flat", "IVF8,PQ16x4fs", "HNSW16", "IDMap,Flat", "PQ8x4"]


def small_reducer():
    return ch.FixedDimensionalEncoder(DIM, num_repetitions=2, num_simhash_projections=1, projection_dimension=None)


@pytest.fixture(scope="module")
def queries():
    return off_centre_collection(np.random.default_rng(1), [3, 1, 5, 8, 2], dim=DIM)


@pytest.fixture(scope="module")
def collection():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 5, NUM_DOCUMENTS)
    lengths[[3, 650]] = 0
    return off_centre_collection(rng, lengths.tolist(), dim=DIM)


@pytest.fixture(scope="module", params=CANDIDATES)
def filtered(request, collection):
    """An index of three segments, 70 documents of it deleted, and which rows are left."""
    candidates = faiss.index_factory(32, request.param, faiss.METRIC_INNER_PRODUCT)
    if hasattr(candidates, "nprobe"):
        candidates.nprobe = 8
    metadata = [{"row": i, "tenth": i % 10} for i in range(NUM_DOCUMENTS)]
    index = ch.Index.build(
        collection._run(0, 640), range(640), reducer=small_reducer(), candidates=candidates, metadata=metadata[:640]
    )
    index.add(collection._run(640, 660), range(640, 660), metadata[640:660])
    index.add(collection._run(660, 700), range(660, 700), metadata[660:])
    index.delete(range(0, NUM_DOCUMENTS, 10))
    return index


def check(index, documents, queries, allowed, k, value, **options):
    """Compare a filtered search with all of what is allowed as candidates, and exact, with brute force."""
    rows = np.array(sorted(allowed), np.int64)
    wanted = np.full((len(queries), k), -1)
    if len(rows):
        best = ch.maxsim_topk(queries, documents.select(rows), k)[1]
        wanted = np.where(best < 0, -1, rows[best])
    for how in ({"exact": True}, {"num_candidates": NUM_DOCUMENTS}, options):
        found = index.search(queries, k, filter=value, **how)
        if how.get("exact") or how:
            np.testing.assert_array_equal(found.ids, wanted)
        assert set(found.ids[found.ids >= 0].tolist()) <= set(allowed)
        assert np.isneginf(found.scores[found.ids < 0]).all()
    return wanted


@pytest.mark.parametrize("tenths", [1, 2, 5, 9, 10])
def test_filters_of_every_kind_find_what_brute_force_finds(filtered, collection, queries, tenths):
    live = [i for i in range(NUM_DOCUMENTS) if i % 10]
    allowed = [i for i in live if i % 10 <= tenths and len(collection[i])]
    mask = np.array([i % 10 <= tenths for i in live])
    ids = [i for i in range(NUM_DOCUMENTS) if i % 10 <= tenths]  # deleted ones are passed over
    for value in (f"tenth <= {tenths}", mask, mask.tolist(), ids, np.array(ids), set(ids), (i for i in ids)):
        if hasattr(value, "send"):
            found = filtered.search(queries, 10, filter=value, exact=True).ids
            np.testing.assert_array_equal(found, filtered.search(queries, 10, filter=ids, exact=True).ids)
        else:
            check(filtered, collection, queries, allowed, 10, value, num_candidates=NUM_DOCUMENTS)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_few_candidates_are_all_of_what_is_allowed(filtered, collection, queries, share):
    live = np.flatnonzero(np.arange(NUM_DOCUMENTS) % 10)
    chosen = np.random.default_rng(int(share * 10)).random(len(live)) < share
    allowed = {int(i) for i in live[chosen] if len(collection[i])}
    width = 25  # fewer than what is allowed: the candidates have to choose
    assert len(allowed) > 1.5 * width
    found = filtered.search(queries, 10, filter=chosen, num_candidates=width)
    assert found.kept["candidates"] == width
    assert set(found.ids.ravel().tolist()) <= allowed
    for query, ids, scores in zip(queries, found.ids, found.scores, strict=True):
        np.testing.assert_array_equal(scores, ch.maxsim(query, collection.select(ids))[0])


def test_candidates_of_a_filter_are_the_nearest_allowed_encodings(collection, queries):
    """rerank=None returns them: of a flat scan they are those of brute force, in every way FAISS is asked."""
    allowed = np.arange(NUM_DOCUMENTS) % 7 < 3
    allowed_rows = np.flatnonzero(allowed & (collection.lengths > 0))
    encoder = small_reducer().fit(collection)
    products = encoder.encode_queries(queries) @ encoder.encode_documents(collection.select(allowed_rows)).T
    expected = allowed_rows[np.argsort(-products, axis=1, kind="stable")[:, :20]]
    for candidates in ("Flat", "IDMap,Flat", "HNSW32", "IVF4,Flat"):
        made = faiss.index_factory(32, candidates, faiss.METRIC_INNER_PRODUCT)
        if hasattr(made, "nprobe"):
            made.nprobe = 4
        index = ch.Index.build(collection, reducer=encoder, candidates=made, rerank=None)
        found = index.search(queries, 20, filter=allowed)
        share = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found.ids.tolist(), expected.tolist(), strict=True)])
        assert share == 1 if candidates != "HNSW32" else share > 0.9, candidates
        if candidates == "HNSW32":  # a graph that is filtered does not reach all
            continue
        few = index.search(queries, 400, filter=allowed).ids  # more than there are
        assert [sorted(row[row >= 0].tolist()) for row in few] == [allowed_rows.tolist()] * len(queries)


@pytest.mark.parametrize("rerank", ["exact", ["int8", "exact"], None], ids=str)
def test_k_may_be_larger_than_what_is_allowed(collection, queries, rerank):
    index = ch.Index.build(collection, reducer=small_reducer(), rerank=rerank)
    for ids in ([], [5], [3], [699, 5, 12, 3, 10_000]):
        there = {one for one in ids if one < NUM_DOCUMENTS and len(collection[one])}
        for options in ({}, {"exact": True}, {"num_candidates": 40}):
            found = index.search(queries, 40, filter=ids, **options)
            assert found.ids.shape == found.scores.shape == (len(queries), 40)
            assert [set(row.tolist()) - {-1} for row in found.ids] == [there] * len(queries)
            assert (found.ids[:, len(there) :] == -1).all()
            assert np.isneginf(found.scores[:, len(there) :]).all()


def test_nothing_allowed_is_nothing_found(collection, queries):
    index = ch.Index.build(collection, reducer=small_reducer(), metadata=[{"x": 1}] * NUM_DOCUMENTS)
    for value in ("x != 1", [], np.zeros(NUM_DOCUMENTS, bool), [10**6]):
        for options in ({}, {"exact": True}, {"explain": True}, {"carving_threshold": 0.9}):
            found = index.search(queries, 3, filter=value, **options)
            assert (found.ids == -1).all()
            assert np.isneginf(found.scores).all()
    empty = ch.TokenVectors(np.empty((0, DIM), np.float32), [0])
    assert index.search(empty, 3, filter=[1, 2]).ids.shape == (0, 3)


def test_the_time_of_a_filter_is_told(collection, queries):
    index = ch.Index.build(collection, reducer=small_reducer(), metadata=[{"x": 1}] * NUM_DOCUMENTS)
    assert next(iter(index.search(queries, filter="x == 1").timings)) == "filter"
    assert "filter" not in index.search(queries).timings


def test_string_ids_filter_as_numbers_do(collection, queries):
    names = [f"d{i}" for i in range(NUM_DOCUMENTS)]
    index = ch.Index.build(collection, names, reducer=small_reducer())
    wanted = [f"d{i}" for i in range(0, NUM_DOCUMENTS, 9)]
    for value in (wanted, np.array(wanted), set(wanted), tuple(wanted), iter(wanted)):
        found = index.search(queries, 5, filter=value)
        assert set(found.ids.ravel().tolist()) <= set(wanted)
        assert (found.scores > -np.inf).all()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            "year == 1 and month == 2",
            ValueError,
            "filter: no document has 'month', 'year'; keys of this index: lang, x",
        ),
        ("x ==", ValueError, "filter: invalid syntax"),
        (np.ones(3, bool), ValueError, r"filter: expected a mask of shape \(4,\), one bool per document .* got \(3,\)"),
        ([True] * 5, ValueError, r"filter: expected a mask of shape \(4,\)"),
        (np.ones((4, 1), bool), ValueError, r"filter: expected a mask of one dimension, got shape \(4, 1\)"),
        (["a"], TypeError, "filter: expected ids of type int, as the index has them, got 'a'"),
        ([1, True], TypeError, "filter: expected ids of type int, as the index has them, got True"),
        ([1.0], TypeError, "filter: expected ids of type int, as the index has them, got 1.0"),
        (np.ones((2, 2), int), TypeError, r"filter: expected ids of type int, as the index has them, got \[1, 1\]"),
        (5, TypeError, "filter: expected ids, a mask of bools or a condition, got int"),
        (b"x == 1", TypeError, "filter: expected ids, a mask of bools or a condition, got bytes"),
        ({"x": 1}, TypeError, "filter: expected ids, a mask of bools or a condition, got dict"),
    ],
)
def test_bad_filters_are_refused(value, error, message):
    index = ch.Index.build(
        [np.ones((1, DIM), np.float32)] * 4, reducer=small_reducer(), metadata=[{"x": 1}, None, {"lang": "de"}, {}]
    )
    for options in ({}, {"exact": True}):
        with pytest.raises(error, match=message):
            index.search(np.ones((1, DIM), np.float32), filter=value, **options)


def test_an_index_without_metadata_says_so(collection, queries):
    index = ch.Index.build(collection, reducer=small_reducer())
    with pytest.raises(ValueError, match="filter: no document has 'x'; keys of this index: none"):
        index.search(queries, filter="x == 1")
