"""`bench upgrade`: what is measured, that other collections are refused, and that the command runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench import upgrade

import chamfer as ch
from chamfer.data import load_stdlib
from conftest import REPOSITORY


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A folder with what stands for another encoder's vectors of the demo: its principal components, less the last."""
    pytest.importorskip("torch", reason="torch is not installed")
    folder = tmp_path_factory.mktemp("other")
    demo = load_stdlib()
    mean = demo.documents.vectors.mean(axis=0, dtype=np.float32)
    components = np.linalg.svd(demo.documents.vectors[::10] - mean, full_matrices=False)[2][:48]
    for side, items, ids in (("docs", demo.documents, demo.ids), ("queries", demo.queries, demo.query_ids)):
        vectors = (items.vectors - mean / 2) @ components.T
        (folder / side).mkdir()
        np.save(folder / side / "tokens.npy", vectors.astype(np.float16))
        np.save(folder / side / "offsets.npy", items.offsets)
        (folder / side / "ids.json").write_text(json.dumps(ids))
    return folder


def test_the_command_runs(other, tmp_path):
    output = tmp_path / "upgrade.json"
    command = [sys.executable, "-m", "bench", "upgrade", "demo", str(other), "--quick", "--output", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=environment, timeout=300)
    result = json.loads(output.read_text("utf-8"))
    rows = {row["search"]: row for row in result["rows"]}
    found = {name: row["R10@100 of new"] for name, row in rows.items()}
    assert found["new → old"] > 0.8 * found["old → old"]
    assert found["new, not compatible → old"] < 0.5 * found["new → old"]
    assert found["old, 32 bits → old, 16 bits"] > 0.8 * found["old, 16 bits → old, 16 bits"]
    assert all(0 <= row["R10@100 of old"] <= 1 for row in rows.values())
    assert result["shapes"]["new_dim"] == 48


def test_other_documents_are_refused(other, tmp_path):
    changed = tmp_path / "other"
    shutil.copytree(other, changed)
    ids = json.loads((changed / "docs" / "ids.json").read_text())
    (changed / "docs" / "ids.json").write_text(json.dumps(ids[::-1]))
    with pytest.raises(SystemExit, match="OTHER: expected document_ids as in DATA"):
        upgrade.measure(Path("demo"), changed, 32, 1, 64, 1, quick=True)


def test_a_mixed_collection_is_searched_in_both_parts():
    """Queries are the documents; new codes are the old ones, their similarities ten times as large."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 4, (300, 64)).astype(np.uint8)
    old = ch.RecurrentCodes.from_levels(levels, 2)
    new = ch.RecurrentCodes.from_levels(levels, 2, np.full(300, 10.0))
    exact = ch.sdc_topk(old, old, 10)[1]
    found = {
        standardized: upgrade._mixed(old, (new, old), 0.3, 1, standardized=standardized)
        for standardized in (True, False)
    }
    assert all(len(set(rows)) == upgrade.DEPTH for rows in found[True].tolist())
    shares = {way: upgrade.overlap(rows[:, :10].tolist(), exact.tolist()) for way, rows in found.items()}
    assert shares[True] > 0.8
    assert shares[False] < 0.5
