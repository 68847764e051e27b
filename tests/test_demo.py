"""The demo: its collection holds together, and its numbers say what the README says."""

from __future__ import annotations

import json
import sys
from importlib.resources import files

import numpy as np
import pytest

from chamfer.data import document_text, load_stdlib

pytest.importorskip("typer")
pytest.importorskip("ir_measures")


@pytest.fixture(scope="module")
def collection():
    return load_stdlib()


@pytest.fixture(scope="module")
def report():
    from chamfer import demo

    shares = []
    measured = demo.measure(3, shares.append)
    assert sum(shares) == pytest.approx(1.0)
    return measured


def test_the_collection_has_a_thousand_documents_and_eighty_questions(collection):
    assert len(collection.documents) == len(collection.ids) == len(set(collection.ids)) >= 1000
    assert len(collection.queries) == len(collection.questions) == len(collection.query_ids) >= 80


def test_every_question_has_a_judged_answer_in_the_collection(collection):
    known = set(collection.ids)
    assert set(collection.qrels) == set(collection.query_ids)
    for query_id, grades in collection.qrels.items():
        assert set(grades) <= known, query_id
        assert set(grades.values()) <= {1, 2}, query_id
        assert 2 in grades.values(), query_id


def test_vectors_have_unit_length(collection):
    for side in (collection.documents, collection.queries):
        np.testing.assert_allclose(np.linalg.norm(side.vectors, axis=1), 1.0, atol=1e-5)


def test_the_collection_is_at_most_5_mb():
    folder = files("chamfer.data")
    assert sum(len(entry.read_bytes()) for entry in folder.iterdir() if entry.is_file()) <= 5_000_000


def test_query_tokens_fit_the_query_vectors(collection):
    assert [len(tokens) for tokens in collection.query_tokens] == collection.queries.lengths.tolist()


def test_text_comes_from_the_running_interpreter(collection):
    assert document_text("shutil.which").startswith("shutil.which Given a command")
    texts = 0
    for name in collection.ids:
        try:
            texts += len(document_text(name)) > len(name)
        except LookupError:  # noqa: PERF203  # a later Python may drop a name
            continue
    assert texts > 0.95 * len(collection.ids)


@pytest.mark.parametrize("name", ["antigravity", "os._exit", "builtins.__import__", "no.such", "os.path; import x", ""])
def test_text_of_anything_else_is_refused(name):
    with pytest.raises(LookupError):
        document_text(name)


def test_matched_words_are_words_of_the_text(collection):
    row = collection.ids.index("shutil.which")
    words = {collection.matched_word(row, token).lower() for token in range(len(collection.documents[row]))}
    assert {"[cls]", "shutil", "which", "command"} <= words
    assert len(words - {"?"}) >= len(words) - 1


def test_exact_search_has_recall_1_and_rerank_comes_close(report):
    exact, published, centred, learned, *reranked = report.rows
    assert exact.recall == 1.0
    assert published.recall < 0.2 < centred.recall < learned.recall  # what the engine's default rests on
    assert learned.recall < reranked[0].recall < reranked[1].recall
    assert reranked[1].recall > 0.9
    assert abs(reranked[1].ndcg - exact.ndcg) < 0.03


def test_more_candidates_never_lose_recall(report):
    for name, curve in report.curves.items():
        recalls = [point.recall for point in curve]
        if name == "learned":  # codes come first
            assert (np.diff(recalls) > -0.005).all()
        else:
            assert recalls == sorted(recalls)


def test_the_documents_and_the_questions_need_what_the_table_says(report):
    exact, published, centred, learned, *reranked = report.rows
    assert round(exact.bytes_per_token) == 4 * report.collection["dim"]
    assert published.bytes_per_token == centred.bytes_per_token < exact.bytes_per_token
    assert learned.bytes_per_token < published.bytes_per_token / 5
    for row in reranked:  # and the codes
        assert row.bytes_per_token > exact.bytes_per_token + learned.bytes_per_token


def test_no_question_is_searched_with_a_mean_that_it_has_a_part_in(collection):
    from chamfer import demo

    searcher = demo._build(collection, demo.CENTRED)
    for half in (0, 1):
        others = collection.queries.select(np.arange(len(collection.queries)) % 2 != half)
        np.testing.assert_allclose(
            searcher.halves[half].reducer._query_mean, others.vectors.mean(axis=0, dtype=np.float64), atol=1e-6
        )


def test_without_matplotlib_the_picture_says_how_to_get_it(report, monkeypatch, tmp_path):
    from chamfer import demo

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "chamfer\[plot\]"'):
        demo.draw(report, tmp_path / "x.png")


def test_shown_matches_are_words_with_content(report):
    for example in report.examples:
        assert 2 <= len(example.matches) <= 5
        for asked, found, similarity in example.matches:
            assert asked in example.question.lower()
            assert found[0].isalnum()
            assert 0.3 < similarity <= 1.0 + 1e-5


def test_examples_show_answers_and_matched_words(report):
    example = report.examples[0]
    assert example.question == "run a command and capture its output"
    assert example.answers[0][0] == "subprocess.run"
    assert example.answers[0][2] == 2
    assert ("command", "command") in [(asked, found) for asked, found, _ in example.matches]


def test_the_picture_is_drawn(report, tmp_path):
    pytest.importorskip("matplotlib")
    from chamfer import demo

    demo.draw(report, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_json_holds_all_numbers(report, capsys):
    from chamfer.evaluation.tables import print_json

    print_json(report)
    numbers = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in numbers["rows"]] == [row.name for row in report.rows]
    assert numbers["rows"][0]["recall"] == 1.0
