"""`bench candidates`: encodings made equally long, what a graph leads to, and that the command runs."""

import json
import os
import subprocess
import sys

import faiss
import numpy as np
import pytest
from bench import candidates
from bench.candidates import EquallyLong, Kind, built, unreachable

from chamfer.candidates import FaissCandidates
from chamfer.index.filling import INSERTION_ORDERS
from conftest import REPOSITORY


@pytest.fixture
def encodings():
    rng = np.random.default_rng(0)
    return rng.standard_normal((600, 24)).astype(np.float32) * rng.uniform(0.1, 2, (600, 1)).astype(np.float32)


@pytest.mark.parametrize("order", INSERTION_ORDERS)
def test_equally_long_encodings_have_the_same_inner_products(encodings, order):
    queries = np.random.default_rng(1).standard_normal((5, 24)).astype(np.float32)
    products = queries @ encodings.T
    for description in ("Flat", "HNSW32"):
        scores, rows = built(Kind(description, equal_length=True, order=order), encodings).search(queries, 20, 1)
        np.testing.assert_allclose(scores, np.take_along_axis(products, rows, 1), atol=1e-4)
        if description == "Flat":
            np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :20], atol=1e-4)


def test_zero_and_equal_encodings_may_be_made_equally_long():
    for odd in (np.zeros((3, 8), np.float32), np.ones((3, 8), np.float32)):
        scores, rows = built(Kind("HNSW8", equal_length=True), odd).search(odd, 3, 1)
        assert sorted(rows[0]) == [0, 1, 2]
        np.testing.assert_allclose(scores[0], odd[0] @ odd[0], atol=1e-5)


def test_what_has_no_links_is_unreachable(encodings):
    candidates = FaissCandidates("HNSW8", 24)
    candidates.add(encodings, 1)
    before = unreachable(candidates)
    graph = candidates._index.hnsw
    links = faiss.vector_to_array(graph.neighbors)
    victim = (graph.entry_point + 1) % len(encodings)
    links[links == victim] = graph.entry_point
    faiss.copy_array_to_vector(links, graph.neighbors)
    assert before < unreachable(candidates) <= before + 0.1
    assert unreachable(FaissCandidates("Flat", 24)) is None
    assert isinstance(built(Kind("HNSW8", equal_length=True), encodings), EquallyLong)


def test_auto_is_among_the_kinds():
    assert [kind.description for kind in candidates.kinds(1_000, 64, "SQ8")].count("SQ8") == 1
    assert "IVF9,SQ8" in [kind.description for kind in candidates.kinds(1_000, 64, "IVF9,SQ8")]


def test_the_command_runs(tmp_path):
    output = tmp_path / "candidates.json"
    command = [sys.executable, "-m", "bench", "candidates", "demo", "--quick", "--output", str(output)]
    command += ["--reducers", "learned", "fde"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=environment, timeout=240)
    rows = json.loads(output.read_text("utf-8"))["rows"]
    assert {row["reducer"] for row in rows} == {"learned", "fde"}
    for row in rows:
        assert row["median_ms"] > 0
        assert 0 < row["recall@100"] <= row["recall@500"] <= 1
        assert (row["unreachable"] is None) == ("HNSW" not in row["kind"])
    flat = [row for row in rows if row["kind"] == "Flat"]
    assert [row["agreement"] for row in flat] == [row["recall@500"] for row in flat] == [1, 1]
