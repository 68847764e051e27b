"""Evaluation: recall against the exact answer, TREC files, measures by ir-measures."""

from __future__ import annotations

import numpy as np
import pytest

from chamfer.evaluation import evaluate, make_run, read_qrels, recall_against_exact, write_run


def test_recall_is_the_mean_share_found_whatever_the_order():
    assert recall_against_exact([[3, 1, 9], [7, 8, 5]], [[1, 2], [5, 7]]) == (0.5 + 1.0) / 2


def test_missing_entries_do_not_count():
    assert recall_against_exact([[1, -1], [-1, -1]], [[1, -1], [-1, -1]]) == 1.0  # the second query has no answer
    assert recall_against_exact([["a", None]], np.array([["a", "b"]], object)) == 0.5


@pytest.mark.parametrize(
    ("found", "exact", "message"),
    [
        ([1, 2], [[1, 2]], r"found_ids: expected shape \(num_queries, k\), got \(2,\)"),
        ([[1]], [[1], [2]], "found_ids: expected 2 queries as exact_ids, got 1"),
        ([[1]], [[-1]], "exact_ids: expected at least one query with an answer"),
    ],
)
def test_recall_refuses_what_does_not_fit(found, exact, message):
    with pytest.raises(ValueError, match=message):
        recall_against_exact(found, exact)


def test_a_run_leaves_missing_documents_out():
    run = make_run(["q", 7], [[4, -1], [5, 6]], [[2.0, -np.inf], [3.0, 1.0]])
    assert run == {"q": {"4": 2.0}, "7": {"5": 3.0, "6": 1.0}}
    with pytest.raises(ValueError, match="query_ids: expected all different, got 'q' twice"):
        make_run(["q", "q"], [[1], [2]], [[1.0], [2.0]])
    with pytest.raises(ValueError, match=r"ids: expected shape \(1, k\)"):
        make_run(["q"], [[1], [2]], [[1.0], [2.0]])


@pytest.mark.parametrize(
    "text",
    ["q1 0 d1 2\nq1 0 d 3\n", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td\t3\n", "\ufeffq1\td1\t2\n\nq1\td\t3"],
    ids=["TREC", "BEIR with a heading", "byte order mark and empty line"],
)
def test_qrels_of_both_kinds_are_read(tmp_path, text):
    (tmp_path / "qrels").write_text(text, "utf-8")
    assert read_qrels(tmp_path / "qrels") == {"q1": {"d1": 2, "d": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 d1\n", "line 1: expected 3 or 4 columns"),
        ("q1 0 d1 1\nq1 0 d2 high\n", "line 2: expected an integer grade, got 'high'"),
        ("", "expected judgements, got none"),
    ],
)
def test_bad_qrels_are_refused(tmp_path, text, message):
    (tmp_path / "qrels").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_qrels(tmp_path / "qrels")


def test_a_written_run_ranks_by_score(tmp_path):
    write_run(tmp_path / "run", {"q": {"low": 1.0, "high": 2.5}}, "mine")
    assert (tmp_path / "run").read_text() == "q Q0 high 1 2.5 mine\nq Q0 low 2 1 mine\n"
    with pytest.raises(ValueError, match="document id without blanks"):
        write_run(tmp_path / "run", {"q": {"a b": 1.0}})


def test_measures_are_those_of_ir_measures():
    pytest.importorskip("ir_measures")
    qrels = {"q": {"a": 2, "b": 1}}
    perfect, reversed_ = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1.0, "b": 2.0}}
    assert evaluate(perfect, qrels, ["nDCG@10", "RR@10"]) == {"nDCG@10": 1.0, "RR@10": 1.0}
    ideal, found = 2 + 1 / np.log2(3), 1 + 2 / np.log2(3)
    assert evaluate(reversed_, qrels)["nDCG@10"] == pytest.approx(found / ideal)
    with pytest.raises(ValueError, match="measures: expected names such as nDCG@10, got 'nonsense'"):
        evaluate(perfect, qrels, ["nonsense"])
    with pytest.raises(ValueError, match="qrels: expected judgements of the run's queries"):
        evaluate({"other": {"a": 1.0}}, qrels)
