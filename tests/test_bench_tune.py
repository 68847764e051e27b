"""`bench tune`: the half that did not tune is what is measured, and the command runs."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from bench import tune

import chamfer as ch
from conftest import REPOSITORY


class Recording:
    """An index that remembers who tuned it and who searched it; it finds 9 of 10, whoever asks."""

    def __init__(self):
        self.tuned, self.searched = [], []

    def tune(self, queries, target, *_, **__):
        self.tuned.append(queries.vectors[:, 0].tolist())
        point = SimpleNamespace(recall=target, milliseconds=1.0)
        return SimpleNamespace(points=[point], chosen=0, reached=True)

    def search(self, queries, *_, **__):
        self.searched.append(queries.vectors[:, 0].tolist())
        return SimpleNamespace(ids=np.tile(np.r_[np.arange(9), 99], (len(queries), 1)))


def test_each_query_either_tunes_or_is_searched():
    queries = ch.TokenVectors(np.arange(20, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32), np.arange(21))
    index = Recording()
    row = tune._row(index, queries, np.tile(np.arange(10), (20, 1)), 0.95, splits=3, threads=1)
    assert len(index.tuned) == len(index.searched) == 3
    for tuned, searched in zip(index.tuned, index.searched, strict=True):
        assert sorted(tuned + searched) == list(range(20))
        assert len(tuned) == len(searched)
    assert len({tuple(sorted(tuned)) for tuned in index.tuned}) > 1
    assert [row["landed"], row["landed_low"], row["landed_high"]] == pytest.approx([0.9] * 3)
    assert row["root_mean_square_miss"] == pytest.approx(0.05)
    assert row["within_tolerance"] == 0
    assert row["claimed"] == pytest.approx(0.95)


def test_the_command_runs(tmp_path):
    output = tmp_path / "tune.json"
    command = [sys.executable, "-m", "bench", "tune", "demo", "--quick", "--output", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=environment, timeout=240)
    (row,) = json.loads(output.read_text("utf-8"))["rows"]
    assert row["data"] == "demo"
    assert row["reached"] == 1
    assert row["claimed"] >= row["target"] == 0.95
    assert row["landed"] > 0.8
    assert row["standard_error"] > 0
