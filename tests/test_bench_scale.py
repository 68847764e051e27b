"""`bench scale`: parts and grown collections, exponents, and that the command runs."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from bench import scale

from conftest import REPOSITORY
from samples import off_centre_collection


def read(folder):
    return np.load(folder / "documents.npy").astype(np.float32), np.load(folder / "offsets.npy")


def test_a_part_is_documents_as_they_are(tmp_path):
    documents = off_centre_collection(np.random.default_rng(0), [3, 5, 2, 8, 1])
    scale.write_part(documents, 3, tmp_path)
    vectors, offsets = read(tmp_path)
    assert len(offsets) == 4
    originals = [documents[i].astype(np.float16).astype(np.float32).tolist() for i in range(5)]
    for begin, end in itertools.pairwise(offsets):
        assert vectors[begin:end].tolist() in originals


def test_a_grown_collection_is_like_its_source(tmp_path):
    documents = off_centre_collection(np.random.default_rng(0), [20, 30, 25])
    scale.write_part(documents, 50, tmp_path)
    vectors, offsets = read(tmp_path)
    lengths = np.diff(offsets)
    assert len(lengths) == 50
    assert 8 <= lengths.min() < lengths.max() <= 30
    norms = np.linalg.norm(documents.vectors, axis=1)
    grown = np.linalg.norm(vectors, axis=1)
    assert norms.min() * 0.99 <= grown.min()
    assert grown.max() <= norms.max() * 1.01
    cosines = (vectors / grown[:, None]) @ (documents.vectors / norms[:, None]).T
    assert cosines.max(axis=1).min() > 0.97  # each is near a vector of the source, and none is one
    assert cosines.max() < 1 - 1e-4


def test_exponents_are_slopes_of_logarithms():
    names = ("build_seconds", "build_peak_bytes", "default_ms", "tuned_ms", "exact_ms")
    rows = [{"documents": n, **dict.fromkeys(names, 3.0 * n**0.5)} for n in (100, 400, 900)]
    assert scale.exponents(rows) == pytest.approx(dict.fromkeys(names, 0.5))
    assert scale.exponents(rows[:1]) == {}


def test_the_command_runs(tmp_path):
    output = tmp_path / "scale.json"
    command = [sys.executable, "-m", "bench", "scale", "demo", "--quick", "--output", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=environment, timeout=240)
    result = json.loads(output.read_text("utf-8"))
    assert [row["documents"] for row in result["rows"]] == [100, 200]
    for row in result["rows"]:
        assert row["default_recall"] == 1
        assert row["tuned_recall"] > 0.8
        assert row["build_peak_bytes"] > row["tokens"]
        assert row["cold_ms"] is None or row["cold_ms"] > 0
