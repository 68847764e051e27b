"""Index.tune: what it predicts is what a search does, and the target is reached where it can be."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

import chamfer as ch
from chamfer.index import SearchSettings, tuning
from chamfer.index.searching import search
from samples import off_centre_collection


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(5)
    lengths = [int(n) for n in rng.integers(3, 20, 700)]
    lengths[11] = lengths[400] = 0
    return off_centre_collection(rng, lengths)


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(6)
    return off_centre_collection(rng, [int(n) for n in rng.integers(2, 12, 60)])


def recall(index, queries, k=10):
    exact = index.search(queries, k, exact=True).ids
    found = index.search(queries, k).ids
    return np.array([np.isin(wanted, mine).mean() for wanted, mine in zip(exact, found, strict=True)])


STAGES = [["exact"], ["scalar:2", "exact"], ["binary", "int8", "exact"], ["binary", "int8"], ["int8"]]


@pytest.mark.parametrize("stages", STAGES, ids=" ".join)
@pytest.mark.parametrize("k", [1, 10])
def test_every_setting_finds_what_the_simulation_says(documents, queries, stages, k):
    index = ch.Index.build(documents, reducer="fde", rerank=stages)
    rows = tuning._exact_rows(index._snapshot, queries, k, 1, lambda _: None)
    encodings = index.reducer.encode_queries(queries)
    simulation, grid = tuning._simulate(
        index._snapshot, index._snapshot.cascade, queries, encodings, rows, 0.8, None, 1
    )
    assert grid == sorted(set(grid))
    assert min(grid) >= k
    exact = index.search(queries, k, exact=True).ids
    for number in (grid[0], grid[len(grid) // 2], grid[-1]):
        for budget in (k, 3 * k):
            for margin in (0.0, 1.0, 20.0):
                budgets = (budget,) * (len(stages) - 1)
                predicted, widths = simulation.recalls(number, budgets, margin)
                settings = SearchSettings(number, budgets or None, margin, k)
                found = search(index._snapshot, queries, k, settings, None, None, 1)[1]
                measured = [np.isin(wanted, mine).mean() for wanted, mine in zip(exact, found, strict=True)]
                np.testing.assert_allclose(predicted, measured)
                assert len(widths) == len(stages)
                assert widths == sorted(widths, reverse=True)


def test_the_target_is_reached_and_kept(documents, queries, tmp_path):
    index = ch.Index.build(documents, reducer="fde", rerank=["scalar:2", "exact"])
    report = index.tune(queries, 0.9)
    assert report.reached
    assert index.settings == report.settings
    assert index.tuning_report is report
    point = report.points[report.chosen]
    assert recall(index, queries).mean() == pytest.approx(point.recall)
    assert point.low <= 0.9 <= point.recall <= point.high
    assert [p.recall for p in report.points] == sorted(p.recall for p in report.points)
    # The cheapest that others can expect to reach it by: what is cheaper is luck, or less.
    assert all(p.recall < point.recall for p in report.points[: report.chosen])
    assert point.recall < 0.93
    assert set(point.stages) == {"encode", "candidates", "rerank scalar:2", "rerank exact"}
    assert set(point.num_scored) == {"rerank scalar:2", "rerank exact"}
    index.save(tmp_path / "index")
    opened = ch.Index.open(tmp_path / "index")
    assert opened.settings == report.settings
    np.testing.assert_array_equal(opened.search(queries).ids, index.search(queries).ids)


def test_a_higher_target_takes_no_fewer_candidates_or_budget(documents, queries):
    index = ch.Index.build(documents, reducer="fde")
    recalls = []
    for target in (0.7, 0.95, 1.0):
        report = index.tune(queries, target)
        recalls.append(report.points[report.chosen].recall)
        assert report.reached
        assert recalls[-1] >= target
    assert recalls == sorted(recalls)
    np.testing.assert_array_equal(index.search(queries).ids, index.search(queries, exact=True).ids)


def test_what_codes_alone_cannot_reach_is_said(documents, queries):
    index = ch.Index.build(documents, reducer="fde", rerank="binary")
    report = index.tune(queries, 1.0)
    assert not report.reached
    assert report.chosen == len(report.points) - 1
    assert "NOT reached" in str(report)


def test_the_report_prints_draws_and_goes_through_json(documents, queries, tmp_path):
    pytest.importorskip("matplotlib")
    report = ch.Index.build(documents, reducer="fde").tune(queries, 0.9)
    text = str(report)
    assert "<- kept" in text
    assert len(text.splitlines()) == 2 + len(report.points)
    report.picture(tmp_path / "tuning.png")
    assert (tmp_path / "tuning.png").stat().st_size > 10_000
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["k"] == 10


def test_tuned_settings_give_way_to_a_wider_search(documents, queries):
    index = ch.Index.build(documents, reducer="fde", rerank=["scalar:2", "exact"])
    index.tune(queries, 0.8, k=1)
    found = index.search(queries, 100)
    assert (found.ids >= 0).all()
    wide = ch.Index.build(documents, reducer="fde", rerank=["scalar:2", "exact"])
    np.testing.assert_array_equal(found.ids, wide.search(queries, 100).ids)
    # So does a search that says how many candidates: it asked for more recall, or less, not for tuned budgets.
    named, untuned = index.search(queries, 1, num_candidates=300), wide.search(queries, 1, num_candidates=300)
    np.testing.assert_array_equal(named.ids, untuned.ids)


@pytest.mark.parametrize("given", [True, False])
def test_build_tunes_when_asked_for_a_target(documents, queries, given):
    index = ch.Index.build(documents, reducer="fde", queries=queries if given else None, target_recall=0.9)
    assert index.settings.num_candidates is not None
    assert recall(index, queries).mean() > 0.8


def test_few_queries_and_empty_ones_are_enough(documents, queries):
    some = ch.TokenVectors(queries.vectors, np.concatenate([[0], queries.offsets]))
    assert ch.Index.build(documents, reducer="fde").tune(some, 0.9).num_queries == len(queries)
    report = ch.Index.build(documents, reducer="fde").tune(queries.select([0]), 0.5)
    assert report.num_queries == 1
    assert report.points[report.chosen].low <= report.points[report.chosen].recall


def test_fewer_documents_than_k(queries, documents):
    index = ch.Index.build(documents.select(np.arange(4)))
    report = index.tune(queries, 1.0, k=10)
    assert report.reached


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target_recall": 0}, ValueError, "target_recall: expected above 0 and at most 1, got 0"),
        ({"target_recall": 1.5}, ValueError, "target_recall: expected above 0 and at most 1, got 1.5"),
        ({"target_recall": "0.9"}, TypeError, "target_recall: expected a number, got str"),
        ({"target_recall": float("nan")}, ValueError, "target_recall: expected above 0"),
        ({"k": 0}, ValueError, "k: expected at least 1"),
        ({"queries": np.ones((2, 5), np.float32)}, ValueError, "queries: expected dim"),
        ({"queries": ch.TokenVectors(np.ones((0, 16), np.float32), [0, 0])}, ValueError, "queries: expected at least"),
    ],
)
def test_bad_input_is_named(documents, queries, arguments, error, message):
    index = ch.Index.build(documents, reducer="fde")
    arguments = {"queries": queries} | arguments
    if isinstance(arguments["queries"], ch.TokenVectors) and arguments["queries"].dim != index._snapshot.documents.dim:
        arguments["queries"] = ch.TokenVectors(np.ones((0, index._snapshot.documents.dim), np.float32), [0, 0])
    with pytest.raises(error, match=message.replace("[", r"\[")):
        index.tune(**arguments)
    assert index.settings == SearchSettings()


def test_an_index_that_does_not_rerank_cannot_be_tuned(documents, queries):
    with pytest.raises(ValueError, match="rerank=None"):
        ch.Index.build(documents, reducer="fde", rerank=None).tune(queries)
    with pytest.raises(ValueError, match="target_recall: expected None"):
        ch.Index.build(documents, reducer="fde", rerank=None, target_recall=0.9)


def test_a_report_is_of_the_settings_it_kept(documents, queries):
    index = ch.Index.build(documents, reducer="fde", rerank=["scalar:2", "exact"])
    report = index.tune(queries, 0.9)
    for point in report.points:
        index.settings = point.settings
        assert recall(index, queries).mean() == pytest.approx(point.recall)
    assert report.points[report.chosen].settings == report.settings


def test_an_interval_of_few_is_wide_and_of_many_is_that_of_their_mean():
    assert tuning._interval(np.ones(1))[0] < 0.3
    assert tuning._interval(np.ones(100))[0] == pytest.approx(0.963, abs=0.001)  # Wilson's, of a hundred yes
    shares = np.random.default_rng(0).beta(9, 1, 2000)
    low, high = tuning._interval(shares)
    half = 1.96 * shares.std(ddof=1) / 2000**0.5
    assert low == pytest.approx(shares.mean() - half, abs=2e-4)
    assert high == pytest.approx(shares.mean() + half, abs=2e-4)


def test_luck_is_not_promised():
    """The cheapest of many settings to reach a recall is a lucky one: other queries find less by it."""
    random = np.random.default_rng(0)
    promised, landed = [], []
    for _ in range(60):
        goodness = np.linspace(0.8, 1.0, 41)  # by cost; each setting errs for each query by itself
        seen = np.clip(goodness[:, None] + random.normal(0, 0.2, (41, 100)), 0, None)
        tried = [tuning._Tried(SearchSettings(i + 10), recalls, float(i), []) for i, recalls in enumerate(seen)]
        for asked, found in ((0.9, promised), (tuning._cross_validated(tried, 0.9), landed)):
            found.append(goodness[next(i for i, recalls in enumerate(seen) if recalls.mean() >= asked)])
    assert np.mean(promised) < 0.888  # what the queries at hand promise is not kept by others
    assert abs(np.mean(landed) - 0.9) < 0.004
    assert tuning._cross_validated(tried[:1], 0.5) == 0.5


def test_inverted_lists_are_a_knob(documents, queries, tmp_path):
    index = ch.Index.build(documents, reducer="fde", candidates="IVF16,Flat", rerank=["scalar:2", "exact"])
    report = index.tune(queries, 0.9)
    assert report.reached
    probed = [point.settings.nprobe for point in report.points]
    assert set(probed) <= {1, 2, 4, 8, 16}
    assert len(set(probed)) > 1
    assert f"of {report.settings.nprobe} lists" in str(report)
    # What is kept is what a search looks into, also after it was saved.
    found = index.search(queries)
    index.settings = replace(report.settings, nprobe=1)
    few = index.search(queries)
    assert recall_of(few, index, queries) < recall_of(found, index, queries)
    index.settings = replace(report.settings, nprobe=1000)  # all there are
    assert recall_of(index.search(queries), index, queries) >= recall_of(found, index, queries)
    index.settings = report.settings
    index.save(tmp_path / "index")
    opened = ch.Index.open(tmp_path / "index")
    assert opened.settings.nprobe == report.settings.nprobe
    np.testing.assert_array_equal(opened.search(queries).ids, found.ids)


def recall_of(found, index, queries):
    exact = index.search(queries, found.ids.shape[1], exact=True).ids
    return np.mean([np.isin(wanted, mine).mean() for wanted, mine in zip(exact, found.ids, strict=True)])
