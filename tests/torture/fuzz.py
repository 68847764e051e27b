"""Fuzzing: atheris (libFuzzer) drives every reader, the grammar of filters, and the bindings of the C++ core.

Each target of fuzz_targets.py runs in a process of its own, from seeds that chamfer itself wrote, for as long as asked.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from torture import shim
from torture.processes import Findings

TARGETS = (
    "container",
    "catalogue",
    "head",
    "archive",
    "changed_archive",
    "faiss",
    "legacy",
    "tokens",
    "condition",
    "bindings",
)
_LATE = 300.0


def missing() -> str | None:
    """Return why nothing can be fuzzed; None if it can."""
    return None if importlib.util.find_spec("atheris") else "needs atheris (pip install atheris)"


def run(count: int, seed: int, progress: Any, names: tuple[str, ...] = TARGETS) -> dict[str, Any]:
    """Fuzz each target for so many seconds, and return figures."""
    if missing():
        return {"skipped": missing(), "findings": []}
    figures: dict[str, Any] = {}
    findings = Findings()
    begin = time.monotonic()
    for name in names:
        with tempfile.TemporaryDirectory(prefix="chamfer-fuzz-", dir=shim.fast_folder()) as folder:
            corpus = Path(folder) / "corpus"
            corpus.mkdir()
            command = [sys.executable, "-m", "torture.fuzz_targets", name, folder, str(corpus)]
            command += [f"-max_total_time={count}", f"-seed={seed + 1}", "-timeout=60", "-rss_limit_mb=6000"]
            command += [f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=0", "-max_len=65536"]
            ended = _run(command, count + _LATE)
            executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", ended)
            slowest = re.search(r"stat::slowest_unit_time_sec:\s*(\d+)", ended)
            figures[f"runs of {name}"] = int(executions[1]) if executions else 0
            figures["slowest run in seconds"] = max(
                figures.get("slowest run in seconds", 0), int(slowest[1]) if slowest else 0
            )
            artifacts = [file for file in Path(folder).iterdir() if re.match(r"(crash|timeout|oom|slow)", file.name)]
            artifacts = [file for file in artifacts if not file.name.startswith("slow")]
            if artifacts or not executions:
                data = artifacts[0].read_bytes() if artifacts else b""
                findings.append(f"seed {seed}, {name}: input {data[:4000]!r}\n{ended[-3000:]}")
        progress(count / len(names))
    return {**figures, "seconds": round(time.monotonic() - begin, 1), "findings": findings}


def _run(command: list[str], timeout: float) -> str:
    try:
        ended = subprocess.run(
            command,
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"hangs: did not end {timeout} s after it was to"
    lines = (ended.stdout + ended.stderr).decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if not line.startswith(("INFO:", "WARNING:")))
