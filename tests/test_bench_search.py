"""The parts of `bench search`: collections, adapters, processes, results, picture. test_bench.py has the command."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chamfer as ch

pytest.importorskip("rich")
pytest.importorskip("faiss")

from bench import data as bench_data
from bench import search, search_picture, search_results, systems
from bench.systems import OURS
from bench.systems_peers import PEERS, SYSTEMS
from bench.worker import Worker, WorkerError, row_list, without_paths

from reference import maxsim as reference_maxsim

# ── collections ─────────────────────────────────────────────────────────────────────────────────────────────────────


def write_side(folder: Path, lengths: list[int], prefix: str, rng: np.random.Generator, *, int8: bool) -> None:
    folder.mkdir(parents=True)
    vectors = rng.standard_normal((sum(lengths), 16))
    if int8:
        np.save(folder / "tokens.i8.npy", np.round(vectors * 20).clip(-127, 127).astype(np.int8))
    else:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(folder / "tokens.npy", vectors.astype(np.float16))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    (folder / "ids.json").write_text(json.dumps([f"{prefix}{i}" for i in range(len(lengths))]))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    write_side(tmp_path / "tiny" / "docs", list(rng.integers(3, 20, 60)), "d", rng, int8=True)
    write_side(tmp_path / "tiny" / "queries", [4, 7, 5], "q", rng, int8=False)
    (tmp_path / "tiny" / "qrels.tsv").write_text("q0\td3\t1\nq1\td7\t2\nq2\td0\t0\n")
    return tmp_path / "tiny"


def test_queries_to_learn_from_are_no_test_queries(tiny: Path) -> None:
    data = bench_data.load(tiny)
    assert data.query_ids == ["q0", "q1"]
    assert data.sample_queries is not None
    assert data.sample_queries.lengths.tolist() == [5]
    assert data.sample_from == "every third query"
    assert set(data.qrels) == {"q0", "q1"}

    write_side(tiny / "queries.train", [3, 3], "t", np.random.default_rng(1), int8=False)
    data = bench_data.load(tiny, num_queries=1)
    assert data.query_ids == ["q0"]
    assert data.sample_queries is not None
    assert data.sample_queries.lengths.tolist() == [3, 3]
    assert data.sample_from == "queries.train"


def test_systems_read_what_was_written(tiny: Path, tmp_path: Path) -> None:
    data = bench_data.load(tiny)
    bench_data.write_files(data, tmp_path / "files")
    read = systems.Collection(tmp_path / "files")
    assert read.num_documents == 60
    np.testing.assert_array_equal(read.vectors, data.documents.vectors)
    np.testing.assert_array_equal(read.query(1), data.queries[1])
    assert read.sample is not None
    np.testing.assert_array_equal(read.sample[1], [0, 5])
    with pytest.raises(systems.UnavailableError, match="vocabulary ids"):
        read.token_ids()


# ── what the adapters compute themselves ────────────────────────────────────────────────────────────────────────────


def test_numpy_scores_and_reranks_as_defined(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path) -> None:
    data = bench_data.load(tiny)
    bench_data.write_files(data, tmp_path / "files")
    read, query = systems.Collection(tmp_path / "files"), data.queries[0]
    expected = np.array([reference_maxsim(query, document) for document in data.documents])
    for block in (1, 50, 10**6):  # a document alone, several products, one product
        monkeypatch.setattr(systems, "_BLOCK_TOKENS", block)
        scores = systems.maxsim_scores(query, read.vectors, read.offsets)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    some = np.array([40, 3, 17, 59])
    assert systems.rerank(query, read, some, 2).tolist() == some[np.argsort(-expected[some])[:2]].tolist()


def test_the_best_are_in_order_and_ties_go_to_the_lower_row() -> None:
    scores = np.array([1.0, 3.0, 2.0, 3.0, 2.0])
    assert systems.best(scores, 3).tolist() == [1, 3, 2]
    assert systems.best(scores, 9).tolist() == [1, 3, 2, 4, 0]


def test_points_leave_out_as_many_candidates_as_there_are_documents() -> None:
    assert [point["num_candidates"] for point in systems.candidate_points(1000)] == [100, 200, 500]
    assert systems.candidate_points(60) == [{"num_candidates": 60}]


def test_every_system_says_whose_environment_it_needs(tmp_path: Path) -> None:
    python = tmp_path / "tachiom" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    pattern = str(tmp_path / "{name}" / "bin" / "python")
    assert search.python_of("TACHIOM", pattern) == str(python)
    assert search.python_of("LEMUR", pattern) == sys.executable
    assert search.python_of("chamfer", pattern) == sys.executable
    assert search.python_of("TACHIOM", None) == sys.executable
    assert all(SYSTEMS[name]().peer for name in PEERS)
    assert not any(SYSTEMS[name]().peer for name in OURS)


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def worker_of(python: Path, tmp_path: Path) -> Worker:
    return Worker(str(python), "exact, NumPy", tmp_path, tmp_path / "index", 1)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


def test_a_system_that_hangs_is_stopped(tmp_path: Path) -> None:
    worker = worker_of(script(tmp_path / "hangs", "import time; time.sleep(100)"), tmp_path)
    begin = time.monotonic()
    with pytest.raises(WorkerError, match=r"build: stopped after 0 s"):
        worker.ask("build", 0.2)
    assert time.monotonic() - begin < 20
    worker.close()


def test_a_system_that_crashes_has_a_reason(tmp_path: Path) -> None:
    text = "import os, sys; print('at /a/b/c.rs: no', file=sys.stderr, flush=True); os.abort()"
    worker = worker_of(script(tmp_path / "crashes", text), tmp_path)
    with pytest.raises(WorkerError, match=r"open: crashed \(SIGABRT\): at c.rs: no"):
        worker.ask("open", 60)
    worker.close()


def test_an_error_of_a_library_is_an_answer(tmp_path: Path) -> None:
    worker = worker_of(Path(sys.executable), tmp_path)
    with pytest.raises(WorkerError, match="FileNotFoundError"):  # there is no collection
        worker.ask("build", 60)
    worker.close()


def test_what_stands_for_nothing_found_is_no_row() -> None:
    assert row_list(np.array([3, 2**32 - 1, 0], np.uint32), 4) == [3, -1, 0]
    assert row_list([-1, 4], 4) == [-1, -1]


def test_reasons_have_no_paths_of_the_machine() -> None:
    assert without_paths("no '/home/me/peers/x.so': https://a.b/c/d and a/b") == "no 'x.so': https://a.b/c/d and a/b"


# ── results ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def made_row(system: str, recall: float, ms: float, **changed: Any) -> dict[str, Any]:
    return {"system": system, "threads": 1, "point": "100", "recall@10": recall, "median_ms": ms} | changed


MADE = {
    "settings": {"data": "made"},
    "shapes": {"num_documents": 5, "num_tokens": 50},
    "rows": [
        made_row("chamfer", 0.8, 1.0),
        made_row("chamfer", 0.95, 2.0),
        made_row("exact, chamfer", 1.0, 20.0),
        made_row("Peer", 0.9, 6.0),
        made_row("Peer", 0.85, 3.0),
        made_row("Poor", 0.2, 1.0),
        made_row("exact, NumPy", 1.0, 50.0),
    ],
}


def test_figures_compare_at_the_recall_where_chamfer_is_least_ahead() -> None:
    found = {figure["name"].split(" with ")[0]: figure["measured"] for figure in search_results.figures(MADE["rows"])}
    prefix = "times as fast as "
    assert found == {f"{prefix}Peer": 1.5, f"{prefix}Poor": 1.0, f"{prefix}exact, NumPy": 2.5}


def test_overlap_is_the_share_of_the_exact_answer() -> None:
    assert search_results.overlap([[1, 2], [5, 6]], [[2, 3], [6, -1]]) == 0.75


def test_turns_ask_every_query_once() -> None:
    assert sorted(i for turn in search.turns(23) for i in turn) == list(range(23))


class Slow:
    """Stands for a worker whose every search takes a second."""

    def ask(self, _call: str, _seconds: float, *, queries: list[int], k: int, **_: Any) -> dict[str, Any]:
        return {"seconds": [1.0] * len(queries), "rows": [list(range(k)) for _ in queries]}


@pytest.mark.parametrize(("limit", "asked"), [(0.1, 1), (9.0, 4), (1000.0, 20)])
def test_a_slow_point_is_asked_what_fits_its_time_and_one_query_at_least(limit: float, asked: int) -> None:
    point = search.Point("slow", {}, 1)
    point.warm(Slow())
    for queries in search.turns(20):
        point.take(Slow(), queries, limit)
    assert len(point.queries) == len(point.rows[10]) == len(point.rows[100]) == asked
    assert point.spent() == 2.0 * asked


def test_labels_that_would_overlap_are_moved_apart() -> None:
    moved = search_picture.apart([1.0, 5.0, 1.1], 0.5, highest=5.0)
    assert moved[2] - moved[0] == pytest.approx(0.5)
    assert moved[1] == 5.0
    assert search_picture.apart([1.0, 1.0, 1.0], 0.5, highest=1.0) == pytest.approx([0.0, 0.5, 1.0])


def test_recalls_have_the_height_of_their_nines() -> None:
    found = np.array([0.0, 0.9, 0.99, 1.0])
    np.testing.assert_allclose(search_picture.recalls(search_picture.nines(found)), found, atol=1e-9)
    assert (np.diff(search_picture.nines(found)) > 0.5).all()


def test_the_picture_has_a_panel_for_each_collection(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert list(search_picture.lines(MADE, 1)) == ["chamfer", "Peer", "Poor"]
    assert search_picture.lines(MADE, 1)["Peer"] == [(3.0, 0.85, "100"), (6.0, 0.9, "100")]
    search_picture.draw([MADE, MADE], tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "search.png").stat().st_size < 200_000


def test_ndcg_is_that_of_the_asked_queries(tiny: Path) -> None:
    pytest.importorskip("ir_measures")
    data = bench_data.load(tiny)
    assert search_results.ndcg(data, [1], [[7, 3, -1]]) == 1.0
    assert search_results.ndcg(data, [0], [[7, 3, -1]]) == pytest.approx(1 / np.log2(3))
    assert isinstance(data.documents, ch.TokenVectors)
