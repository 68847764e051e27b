"""Cascade: what each stage hands on, what it leaves behind, and that nothing but the speed is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chamfer as ch
from chamfer import cascade as cascade_module
from chamfer.cascade import Cascade, CascadeStage
from chamfer.parts import Parts
from samples import integer_vectors, off_centre_collection, ragged

PLAIN = ("int8", "scalar:4", "scalar:2", "binary")
ROTATED = ("recurrent:4", "recurrent:2", "recurrent:1")
CODED = ("float16", "bfloat16", *PLAIN, *ROTATED)


def all_rows(queries, documents):
    """Every document as a candidate of every query."""
    return np.tile(np.arange(len(documents), dtype=np.int64), (len(queries), 1))


def oracle(cascade, queries, rows, k, budgets, margin):
    """The definition, from all scores of each stage: rows and scores of each query, and the survivors of each stage."""
    left = [sorted({int(row) for row in some if row >= 0}) for some in rows]
    survivors = []
    for number, stage in enumerate(cascade.stages):
        scores = np.concatenate([ch.maxsim(queries, part) for part in stage.documents.parts], axis=1)
        ranked = [
            sorted((r for r in some if scores[q, r] > -np.inf), key=lambda r: (-scores[q, r], r))
            for q, some in enumerate(left)
        ]
        if number == len(cascade.stages) - 1:
            left = [some[:k] for some in ranked]
        else:
            left = []
            for q, some in enumerate(ranked):
                kept = some[: budgets[number]]
                if len(kept) >= k and np.isfinite(margin):
                    least = float(scores[q, kept[k - 1]]) - margin * (stage.error * int(queries.lengths[q]))
                    kept = [r for r in kept if scores[q, r] >= least]
                left.append(kept)
        survivors.append(left)
    return survivors, scores


def check(cascade, queries, rows, k, budgets, margin):
    survivors, scores = oracle(cascade, queries, rows, k, budgets, margin)
    found = cascade.run(queries, rows, k, budgets=budgets, margin=margin)
    assert found.scores.shape == found.rows.shape == (len(queries), k)
    for q, expected in enumerate(survivors[-1]):
        filled = expected + [-1] * (k - len(expected))
        assert found.rows[q].tolist() == filled
        np.testing.assert_array_equal(found.scores[q, : len(expected)], scores[q, expected])
        assert np.isneginf(found.scores[q, len(expected) :]).all()
    names = [f"rerank {name}" for name in cascade.names]
    assert list(found.timings) == list(found.kept) == names
    assert list(found.kept.values()) == [max((len(some) for some in left), default=0) for left in survivors]
    return found


# ── against the definition ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("margin", [0, 1, 4, np.inf])
@pytest.mark.parametrize(
    "names",
    [
        ("exact",),
        ("int8",),
        ("scalar:2", "exact"),
        ("binary", "int8", "exact"),
        ("scalar:4", "float16"),
        ("recurrent:1", "recurrent:4", "exact"),
        ("recurrent:2", "scalar:4"),
    ],
)
def test_stages_hand_on_what_the_definition_says(documents, queries, names, margin):
    cascade = Cascade.build(documents, names, queries)
    rng = np.random.default_rng(4)
    rows = np.stack([rng.permutation(len(documents))[:80] for _ in range(len(queries))])
    rows[rng.random(rows.shape) < 0.1] = -1
    check(cascade, queries, rows, 5, [40, 20][: len(names) - 1], margin)


@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    k=st.integers(1, 9),
    extra=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    margin=st.sampled_from([0.0, 0.3, 2.0, np.inf]),
    names=st.sampled_from([("scalar:2", "int8", "exact"), ("binary", "exact"), ("exact",), ("bfloat16",)]),
)
def test_ties_empty_documents_missing_and_repeated_candidates(seed, lengths, k, extra, margin, names):
    rng = np.random.default_rng(seed)
    documents = ragged(integer_vectors, rng, [*lengths, 1], 3)  # scores of small integers tie often
    queries = ragged(integer_vectors, rng, [2, 0, 1], 3)
    rows = rng.integers(-1, len(documents), (3, int(rng.integers(0, 15))))
    check(Cascade.build(documents, names), queries, rows, k, [k + more for more in extra][: len(names) - 1], margin)


def test_an_exact_last_stage_is_maxsim_topk_of_the_survivors(documents, queries):
    cascade = Cascade.build(documents, ["scalar:2", "exact"], queries)
    rows = all_rows(queries, documents)
    survivors = cascade.stages[0].documents.topk(queries, 30, candidates=rows, num_threads=1)[1]
    scores, best = ch.maxsim_topk(queries, documents, 7, candidates=survivors)
    found = cascade.run(queries, rows, 7, budgets=[30], margin=np.inf)
    np.testing.assert_array_equal(found.rows, best)
    np.testing.assert_array_equal(found.scores, scores)


def test_one_exact_stage_is_maxsim_topk(documents, queries):
    rows = all_rows(queries, documents)
    found = Cascade.build(documents, ["exact"]).run(queries, rows, 11)
    scores, best = ch.maxsim_topk(queries, documents, 11)
    np.testing.assert_array_equal(found.rows, best)
    np.testing.assert_array_equal(found.scores, scores)


def test_codes_alone_give_the_scores_of_codes(documents, queries):
    found = Cascade.build(documents, ["int8"]).run(queries, all_rows(queries, documents), 6)
    scores, best = ch.maxsim_topk(queries, ch.codec("int8", documents.dim).fit(documents).encode(documents), 6)
    np.testing.assert_array_equal(found.rows, best)
    np.testing.assert_array_equal(found.scores, scores)


def test_margin_0_hands_on_the_first_k_and_what_ties_with_them():
    documents = ch.TokenVectors(np.array([[4], [3], [3], [3], [1], [-4]], np.float32), range(7))
    queries = ch.TokenVectors(np.ones((1, 1), np.float32), [0, 1])
    parts = Parts([documents])
    cascade = Cascade([CascadeStage("float16", parts, None, 0.5), CascadeStage("exact", parts)])
    kept = {
        margin: cascade.run(queries, all_rows(queries, documents), 2, budgets=[6], margin=margin).kept
        for margin in (0, 3.9, 4, np.inf)
    }
    assert [kept[margin]["rerank float16"] for margin in kept] == [4, 4, 5, 6]


@pytest.mark.parametrize("names", [("scalar:2", "exact"), ("binary", "int8", "exact"), ("scalar:4",)])
def test_results_do_not_depend_on_num_threads_or_the_batch(documents, queries, names):
    cascade = Cascade.build(documents, names, queries, num_threads=1)
    other = Cascade.build(documents, names, queries, num_threads=3)
    assert [stage.error for stage in cascade.stages] == [stage.error for stage in other.stages]
    rows = all_rows(queries, documents)
    one, three = (c.run(queries, rows, 10, num_threads=n) for c, n in ((cascade, 1), (other, 3)))
    np.testing.assert_array_equal(one.rows, three.rows)
    np.testing.assert_array_equal(one.scores, three.scores)
    for q in (0, 33):
        alone = cascade.run(queries.select([q]), rows[q : q + 1], 10)
        np.testing.assert_array_equal(alone.rows[0], one.rows[q])
        np.testing.assert_array_equal(alone.scores[0], one.scores[q])


def test_float16_queries_and_documents_are_answered(documents, queries):
    halves, asked = (ch.TokenVectors(side.vectors.astype(np.float16), side.offsets) for side in (documents, queries))
    cascade = Cascade.build(halves, ["scalar:2", "exact"])
    as_floats = ch.TokenVectors(asked.vectors.astype(np.float32), asked.offsets)
    rows = all_rows(queries, documents)
    found, expected = cascade.run(asked, rows, 5), cascade.run(as_floats, rows, 5)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_no_queries_and_no_candidates_give_nothing(documents, queries):
    cascade = Cascade.build(documents, ["scalar:2", "exact"])
    none = cascade.run(queries.select([]), np.empty((0, 9), np.int64), 3)
    assert none.rows.shape == (0, 3)
    assert none.kept == {"rerank scalar:2": 0, "rerank exact": 0}
    for rows in (np.empty((2, 0), np.int64), np.full((2, 4), -1)):
        assert (cascade.run(queries.select([0, 1]), rows, 3).rows == -1).all()


# ── errors and defaults ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("with_queries", [True, False])
@pytest.mark.parametrize("name", CODED)
def test_the_error_is_what_its_definition_says(documents, queries, name, with_queries):
    (stage,) = Cascade.build(documents, [name], queries if with_queries else None).stages
    filled = np.flatnonzero(documents.lengths)
    sample = filled[np.linspace(0, len(filled) - 1, 256).astype(int)]
    if with_queries:
        asked = queries.select(np.linspace(0, len(queries) - 1, 64).astype(int))
    else:
        asked = documents.select(filled[np.linspace(0, len(filled) - 1, 64).astype(int)])  # shorter than 32 vectors
    differences = (
        ch.maxsim(asked, stage.documents.parts[0])[:, sample].astype(float) - ch.maxsim(asked, documents)[:, sample]
    )
    differences -= differences.mean(axis=1, keepdims=True)
    expected = np.sqrt(((differences / asked.lengths[:, None]) ** 2).sum() / (64 * 255))
    assert stage.error == pytest.approx(expected, rel=1e-6)
    assert stage.error > 0


@pytest.mark.parametrize("names", [PLAIN, ROTATED])
def test_errors_grow_as_codes_shrink(documents, queries, names):
    errors = [Cascade.build(documents, [name], queries).stages[0].error for name in names]
    assert errors == sorted(errors)


def test_passages_are_32_vectors_from_the_middle():
    documents = off_centre_collection(np.random.default_rng(1), [50, 3])
    passages = cascade_module.document_passages(documents, np.array([0, 1]))
    np.testing.assert_array_equal(passages[0], documents[0][9:41])
    np.testing.assert_array_equal(passages[1], documents[1])


def test_a_collection_of_one_or_without_queries_to_measure_with_builds(documents):
    assert Cascade.build(documents.select([0]), ["scalar:2", "exact"]).stages[0].error == 0
    empty = ch.TokenVectors(np.empty((0, documents.dim), np.float32), [0, 0])
    without = Cascade.build(documents, ["binary", "exact"])
    assert Cascade.build(documents, ["binary", "exact"], empty).stages[0].error == without.stages[0].error


def test_default_budgets_are_at_least_k_and_widest_for_the_shortest_codes(documents):
    cascade = Cascade.build(documents, ["binary", "recurrent:1", "recurrent:2", "recurrent:4", "int8", "exact"])
    for k in (1, 10, 1000):
        budgets = cascade.default_budgets(k)
        assert k <= budgets[-1] < budgets[-2]
        assert list(budgets) == sorted(set(budgets), reverse=True)
    assert cascade.default_budgets(10) == (140, 60, 34, 24, 22)
    assert Cascade.build(documents, ["scalar:2", "scalar:4", "exact"]).default_budgets(10) == (50, 24)


def test_defaults_find_the_exact_top_10_of_real_vectors():
    from chamfer.data import load_stdlib

    demo = load_stdlib()
    queries = demo.queries.select(range(0, len(demo.queries), 4))
    rows = all_rows(queries, demo.documents)
    best = ch.maxsim_topk(queries, demo.documents, 10)[1]
    for name in (*PLAIN, *ROTATED):
        names = (name, "exact")
        found = Cascade.build(demo.documents, names).run(queries, rows, 10)
        share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.rows, best, strict=True)])
        assert share > 0.985, names


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], ValueError, "names: expected at least one stage"),
        (["exact", "int8"], ValueError, "names: .*in the order binary, .*exact; got"),
        (["int8", "scalar:4", "exact"], ValueError, "names: .*in the order binary, .*exact; got"),
        (["recurrent:2", "scalar:2", "exact"], ValueError, "names: .*scalar:2, recurrent:2, .*; got"),
        (["int8", "int8"], ValueError, "names: .*none twice"),
        (["int9"], ValueError, "names: expected stages out of .*got 'int9'"),
        ([8], TypeError, "names: expected names of stages, got int"),
    ],
)
def test_bad_stages_are_refused(documents, names, error, message):
    with pytest.raises(error, match=message):
        Cascade.build(documents, names)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: expected at least 1"),
        ({"budgets": [9]}, ValueError, "budgets: expected at least k = 10 each, got 9"),
        ({"budgets": []}, ValueError, "budgets: expected 1, one for each stage but the last, got 0"),
        ({"budgets": [10, 10]}, ValueError, "budgets: expected 1, .* got 2"),
        ({"budgets": 10}, TypeError, "budgets: expected a list of ints, got int"),
        ({"budgets": [10.5]}, TypeError, r"budgets\[0\]: expected an int, got float"),
        ({"margin": -1}, ValueError, "margin: expected at least 0, got -1"),
        ({"margin": float("nan")}, ValueError, "margin: expected at least 0, got nan"),
        ({"margin": "wide"}, TypeError, "margin: expected a number, got str"),
        ({"rows": np.full((70, 2), 300)}, ValueError, "candidates: expected rows from -1 .none. to 299, got 300"),
        ({"rows": np.zeros((3, 2), np.int64)}, ValueError, "candidates: expected shape"),
    ],
)
def test_bad_options_are_refused(documents, queries, options, error, message):
    cascade = Cascade.build(documents, ["scalar:2", "exact"])
    arguments = {"rows": all_rows(queries, documents), "k": 10} | options
    with pytest.raises(error, match=message):
        cascade.run(queries, arguments.pop("rows"), arguments.pop("k"), **arguments)
