"""`bench tune`: the half that did not tune is what is measured, and the command runs."""

import json
import os
import subprocess
import sys

from conftest import REPOSITORY


def test_the_command_runs(tmp_path):
    output = tmp_path / "tune.json"
    command = [sys.executable, "-m", "bench", "tune", "demo", "--quick", "--output", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=environment, timeout=240)
    (row,) = json.loads(output.read_text("utf-8"))["rows"]
    assert row["data"] == "demo"
    assert row["reached"] == 1
    assert row["claimed"] >= row["target"] == 0.95
    assert row["landed_low"] <= row["landed"] <= row["landed_high"]
    assert row["standard_error"] > 0
    assert 0 <= row["within_tolerance"] <= 1
    assert abs(row["landed"] - row["target"]) <= row["root_mean_square_miss"] + 1e-12
