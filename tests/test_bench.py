"""The benchmarks run, and what they write has the fields that a reader needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chamfer as ch

ROOT = Path(__file__).parent.parent

pytest.importorskip("rich")


def run_bench(*arguments: str | Path, output: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench", *map(str, arguments), "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Figures to reach" in done.stdout
    return json.loads(output.read_text(encoding="utf-8"))


def check_environment(result: dict[str, Any]) -> None:
    environment = result["environment"]
    assert environment["available_isas"] == list(ch.available_isas())
    assert environment["best_isa"] == ch.best_isa()
    assert environment["numpy"] == np.__version__
    assert environment["thread_settings"]["OPENBLAS_NUM_THREADS"] == "1"
    for key in ("cpu", "cpu_flags", "commit", "dirty", "python", "faiss", "peers"):
        assert key in environment
    for key in ("date", "command", "settings", "load_before", "load_after", "figures"):
        assert key in result


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


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_bench("kernels", "--quick", "--peers", output=tmp_path_factory.mktemp("bench") / "kernels.json")


def test_kernels_record_tells_what_ran_where(kernels: dict[str, Any]) -> None:
    check_environment(kernels)
    assert kernels["settings"]["quick"] is True


def test_kernels_time_every_isa_and_numpy(kernels: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in kernels["rows"]}
    for dtype in ("f32", "f16"):
        for engine in (*ch.available_isas(), "numpy-q@d.T", "numpy-d@q.T", "numpy-loop"):
            row = rows[f"maxsim_{dtype}_{engine}[32x128, 20x12x128]"]
            assert 0 < row["best_seconds"] <= row["median_seconds"]
            assert row["gflops"] > 0
            assert row["limit"] in ("compute", "memory")
            assert row["fraction_of_limit"] > 0
            assert row["times_baseline"] > 0
    for isa in ch.available_isas():
        assert any(name.startswith(f"fde_documents_f32_{isa}[") for name in rows)
        assert any(name.startswith(f"fde_queries_f32_{isa}[") for name in rows)
    assert rows["import_chamfer"]["median_seconds"] > 0
    assert any(row["group"] == "memory" for row in rows.values())


def test_chamfer_is_right_in_every_row(kernels: dict[str, Any]) -> None:
    checked = [row for row in kernels["rows"] if row.get("library") == "chamfer"]
    assert checked
    for row in checked:
        assert row["errors"]["max_relative"] < 1e-5, row["name"]
        assert row["errors"].get("lost_sources", 0.0) == 0.0, row["name"]


def test_an_absent_peer_is_reported_not_fatal(kernels: dict[str, Any]) -> None:
    libraries = {row.get("library") for row in kernels["rows"]}
    for name, version in kernels["environment"]["peers"].items():
        assert (version == "not installed") or name in libraries
        assert not (version == "not installed" and name in libraries)


def test_search_measures_a_collection(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    write_side(tmp_path / "tiny" / "docs", list(rng.integers(3, 20, 60)), "d", rng, int8=True)
    write_side(tmp_path / "tiny" / "queries", [4, 7, 5], "q", rng, int8=False)
    (tmp_path / "tiny" / "qrels.tsv").write_text("q0\td3\t1\nq1\td7\t2\nq2\td0\t0\n")
    result = run_bench("search", tmp_path / "tiny", output=tmp_path / "search.json")

    check_environment(result)
    assert result["shapes"]["num_documents"] == 60
    assert result["shapes"]["queries_mean_from"] == "test queries"
    assert result["exact"]["ms_per_query"] > 0
    assert [(row["layout"], row["center"]) for row in result["rows"]] == [
        ("paper", False),
        ("paper", True),
        ("google", False),
        ("google", True),
    ]
    for row in result["rows"]:
        assert row["R10@100"] == row["R10@500"] == 1.0  # 60 documents
        assert row["encode_documents_us"] > 0
        for search in row["searches"]:
            assert search["recall@10"] == 1.0
            assert 0 <= search["median_ms"] <= search["p99_ms"]
            assert search["same_with_two_threads"]


@pytest.mark.parametrize("arguments", [["--help"], ["kernels", "--help"], ["search", "--help"]])
def test_help_is_there(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0
    assert "usage: python -m bench" in done.stdout
