"""The benchmarks run, and what they write has the fields that a reader needs."""
# ruff: noqa: E402 - rich, which the benchmarks import, is asked for first

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

from bench.cases import isas_of
from bench.figures import figures
from bench.measure import Budget, Contestant, bytes_from, cache_bytes
from bench.picture import run as run_picture
from bench.roofline import COMPUTE, MEMORY, Roofline
from bench.systems import OURS


def run_bench(*arguments: str | Path, output: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench", *map(str, arguments), "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert arguments[0] == "roofline" or "Figures to reach" in done.stdout
    return json.loads(output.read_text(encoding="utf-8"))


def check_environment(result: dict[str, Any]) -> None:
    environment = result["environment"]
    assert environment["available_isas"] == list(ch.available_isas())
    assert environment["best_isa"] == ch.best_isa()
    assert environment["numpy"] == np.__version__
    assert environment["thread_settings"]["OPENBLAS_NUM_THREADS"] == "1"
    for key in ("cpu", "cpu_flags", "commit", "dirty", "python", "cache_bytes", "peers"):
        assert key in environment
    for key in ("date", "command", "settings", "load_before", "load_after", "rows"):
        assert key in result


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_bench("kernels", "--quick", "--peers", output=tmp_path_factory.mktemp("bench") / "kernels.json")


def test_kernels_record_tells_what_ran_where(kernels: dict[str, Any]) -> None:
    check_environment(kernels)
    assert kernels["settings"]["quick"] is True


def test_kernels_time_every_isa_and_numpy_beside_their_limits(kernels: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in kernels["rows"]}
    for dtype in ("f32", "f16"):
        for engine in (*isas_of(dtype), "numpy-q@d.T", "numpy-d@q.T", "numpy-loop"):
            row = rows[f"maxsim_{dtype}_{engine}[32x128, 20x12x128]"]
            assert 0 < row["best_seconds"] <= row["median_seconds"]
            assert row["rate"] > 0
            assert row["unit"] == "GFLOP/s"
            assert row["limit"] in (*COMPUTE, *MEMORY)
            assert row["fraction_of_limit"] > 0
            assert row["times_baseline"] > 0
    for isa in isas_of("f32"):
        assert any(name.startswith(f"fde_documents_f32_{isa}[") for name in rows)
        assert any(name.startswith(f"fde_queries_f32_{isa}[") for name in rows)
    assert rows["import_chamfer"]["median_seconds"] > 0
    assert any(row["group"] == "memory" for row in rows.values())


def test_every_row_of_chamfer_says_its_limit(kernels: dict[str, Any]) -> None:
    for row in kernels["rows"]:
        if row.get("library") == "chamfer":
            assert row["limit"] in (*COMPUTE, *MEMORY), row["name"]
            assert any(y["group"] == row["group"] and row["limit"] in y["name"] for y in limits(kernels)), row["name"]


def limits(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row.get("library") == "limit"]


def test_what_is_skipped_has_a_name_and_a_reason(kernels: dict[str, Any]) -> None:
    for skip in kernels["skipped"]:
        assert skip["name"]
        assert skip["reason"]


# How far a score of a storage may be from the float64 score of what is stored: queries of codes are rounded too.
TOLERANCES = {"f32": 1e-5, "f16": 1e-5, "bf16": 1e-2, "i8": 2e-2, "i8x4bit": 2e-2, "i8x2bit": 2e-2, "i8x1bit": 2e-2}


def test_chamfer_is_right_in_every_row(kernels: dict[str, Any]) -> None:
    checked = [row for row in kernels["rows"] if row.get("library") == "chamfer"]
    assert checked
    for row in checked:
        errors, tolerance = row["errors"], TOLERANCES.get(row["dtype"], 1e-5)
        if "int8 documents" in row["shape"] or "float16 documents" in row["shape"]:
            tolerance = 1e-2
        assert errors.get("max_relative", 0.0) < tolerance, row["name"]
        for exact in ("lost_sources", "differing_scores", "wrong_distances"):
            assert errors.get(exact, 0.0) == 0.0, row["name"]


def test_only_some_kernels_may_be_measured(tmp_path: Path) -> None:
    result = run_bench("kernels", "--quick", "--only", "sdc formulas", output=tmp_path / "some.json")
    assert {row["group"].partition(",")[0] for row in result["rows"]} == {"sdc formulas"}
    assert result["figures"]
    assert all("times as fast as bitwise" in figure["name"] for figure in result["figures"])


def test_an_absent_peer_is_reported_not_fatal(kernels: dict[str, Any]) -> None:
    libraries = {row.get("library") for row in kernels["rows"]}
    for name, version in kernels["environment"]["peers"].items():
        assert (version == "not installed") or name in libraries, name
        assert not (version == "not installed" and name in libraries)


# ── search ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_bench("search", "demo", "--quick", output=tmp_path_factory.mktemp("search") / "search.json")


def test_search_compares_whole_systems(searched: dict[str, Any]) -> None:
    check_environment(searched)
    assert searched["skipped"] == []
    assert {row["system"] for row in searched["rows"]} == set(OURS) == set(searched["systems"])
    assert {row["threads"] for row in searched["rows"]} == {1, 2}
    assert [load["threads"] for load in searched["loads"]] == [1, 2]
    for row in searched["rows"]:
        assert 0 <= row["recall@10"] <= 1
        assert 0 <= row["recall@100"] <= 1
        assert 0 < row["median_ms"] <= row["p99_ms"]
        assert row["num_queries"] == searched["shapes"]["num_queries"] == 10
        assert row["disk_bytes_per_token"] >= 4 * searched["shapes"]["dim"]
        if row["resident_bytes_per_token"] is not None:
            assert row["resident_bytes_per_token"] > 0


def test_what_is_exact_finds_everything(searched: dict[str, Any]) -> None:
    for row in searched["rows"]:
        if row["system"].startswith("exact"):
            assert row["recall@10"] == row["recall@100"] == 1.0


def test_more_candidates_find_more_and_threads_find_the_same(searched: dict[str, Any]) -> None:
    recalls: dict[tuple[str, int], list[float]] = {}
    for row in searched["rows"]:
        recalls.setdefault((row["system"], row["threads"]), []).append(row["recall@10"])
    assert recalls["chamfer", 1] == sorted(recalls["chamfer", 1])
    assert recalls["chamfer", 1] == recalls["chamfer", 2]


def test_chamfer_is_compared_with_the_others(searched: dict[str, Any]) -> None:
    names = [figure["name"].split(" with ")[0] for figure in searched["figures"]]
    assert names == ["times as fast as exact, NumPy"] * 2


def test_a_peer_that_fails_costs_its_own_rows_only(tmp_path: Path) -> None:
    # TACHIOM is not there, or it is, and then this collection has no vocabulary ids: either is a reason.
    arguments = ("search", "demo", "--quick", "--peers", "--threads", "1", "--only", "numpy", "tachiom")
    result = run_bench(*arguments, output=tmp_path / "search.json")
    assert {row["system"] for row in result["rows"]} == {"exact, NumPy"}
    (skip,) = result["skipped"]
    assert skip["name"] == "TACHIOM"
    assert skip["reason"].startswith(("not installed: ", "needs "))


# ── limits and figures ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_peaks_of_every_isa_are_measured(tmp_path: Path) -> None:
    result = run_bench("roofline", "--quick", output=tmp_path / "roofline.json")
    check_environment(result)
    kinds = {row["kind"] for row in result["rows"]}
    assert {"read_l2", "read_l3", "read_dram"} <= kinds
    for row in result["rows"]:
        assert 0 < row["median_rate"] <= row["best_rate"], row["name"]
    if ch.best_isa() != "scalar":
        assert {"fma_f32", "dot_i8", "popcount"} <= kinds


def made(isa: str, **counted: Any) -> Contestant:
    return Contestant("maxsim", "f32", isa, "made", lambda: None, items=1, **counted)


@pytest.fixture(scope="module")
def roofline() -> Roofline:
    return Roofline(Budget.of(quick=True, rounds=None))


def seconds_of(roofline: Roofline, contestant: Contestant, rate: dict[str, float]) -> dict[str, Any]:
    """Return times of the loops that bound a contestant if they run at these rates."""
    found = {}
    for y in roofline.yardsticks([contestant]):
        amount = sum(y.operations.values()) + sum(y.bytes_read.values())
        found[y.name] = np.full(2, amount / rate[y.dtype])
    return found


RATES = {"fma_f32": 100.0, "dot_bf16": 200.0, "dot_i8": 400.0, "popcount": 1000.0, "read_l2": 50.0, "read_dram": 10.0}


@pytest.mark.skipif(ch.best_isa() == "scalar", reason="this machine has no vector instructions that chamfer knows")
def test_the_limit_is_the_slowest_of_the_things_that_must_be_done(roofline: Roofline) -> None:
    isa = isas_of("f32")[-1]
    for operations, num_bytes, kind, least in ((1000.0, 50.0, "fma_f32", 10.0), (1000.0, 200.0, "dram", 20.0)):
        contestant = made(isa, operations={"fma_f32": operations}, bytes_read={"dram": num_bytes})
        limit, bound = roofline.limit(contestant, seconds_of(roofline, contestant, RATES))
        assert limit == kind
        assert bound.tolist() == pytest.approx([least, least])


@pytest.mark.skipif(ch.best_isa() == "scalar", reason="this machine has no vector instructions that chamfer knows")
def test_two_threads_may_be_twice_as_fast(roofline: Roofline) -> None:
    contestant = made(isas_of("f32")[-1], operations={"dot_i8": 800.0}, num_threads=2)
    assert roofline.limit(contestant, seconds_of(roofline, contestant, RATES))[1][0] == pytest.approx(1.0)


@pytest.mark.skipif("avx2" not in ch.available_isas(), reason="needs avx2")
def test_a_level_without_bfloat16_products_is_judged_by_float32(roofline: Roofline) -> None:
    contestant = made("avx2", operations={"dot_bf16": 1000.0})
    limit, bound = roofline.limit(contestant, seconds_of(roofline, contestant, RATES))
    assert (limit, bound[0]) == ("fma_f32", pytest.approx(10.0))


def test_input_lies_in_the_nearest_memory_that_holds_it() -> None:
    assert bytes_from(cache_bytes(2)) == {"l2": cache_bytes(2)}
    assert bytes_from(cache_bytes(2) + 1) == {"l3": cache_bytes(2) + 1}
    assert bytes_from(cache_bytes(3) + 1) == {"dram": cache_bytes(3) + 1}


def made_row(group: str, dtype: str, library: str = "chamfer", **changed: Any) -> dict[str, Any]:
    row = {
        "group": group,
        "operation": "maxsim",
        "dtype": dtype,
        "library": library,
        "engine": isas_of(dtype)[-1] if library == "chamfer" else library,
        "shape": "made",
        "limit": "fma_f32",
        "fraction_of_limit": 0.9,
        "times_baseline": 1.0,
        "best_us_per_item": 2.0,
        "num_threads": 1,
        "errors": {"max_relative": 1e-7},
        "wrong": False,
    }
    return row | changed


def test_figures_compare_with_the_fastest_way_of_each_library() -> None:
    rows = [
        made_row("one query", "f32"),
        made_row("one query", "f32", "numpy", times_baseline=4.0),
        made_row("one query", "f32", "numpy", times_baseline=1.5),
        made_row("one query", "f32", "maxsim-cpu", times_baseline=0.1, wrong=True),
        made_row("one query", "bf16", times_baseline=0.5),
    ]
    found = {figure["name"]: figure for figure in figures(rows)}
    assert found["maxsim f32: fraction of the FMA peak"]["met"]
    numpy = found["maxsim f32: times as fast as numpy"]
    assert (numpy["measured"], numpy["met"]) == (1.5, False)
    assert "maxsim f32: times as fast as maxsim-cpu" not in found
    assert found["maxsim bf16: times as fast as own f32"]["measured"] == 2.0


def test_figures_ask_two_threads_of_every_batch_call() -> None:
    rows = [
        made_row(group, "f32", num_threads=n, times_baseline=1 / speed ** (n - 1))
        for group, speed in (("two threads, hamming", 1.9), ("two threads, sdc", 1.2))
        for n in (1, 2)
    ]
    met = {figure["name"]: figure["met"] for figure in figures(rows)}
    assert met == {
        "two threads, hamming: times as fast as one": True,
        "two threads, sdc: times as fast as one": False,
    }


def test_the_picture_is_drawn_from_the_results(kernels: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "kernels.json").write_text(json.dumps(kernels), encoding="utf-8")
    run_picture(results=[tmp_path / "kernels.json"], output=tmp_path / "kernels.png")
    assert (tmp_path / "kernels.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "kernels.png").stat().st_size < 100_000


@pytest.mark.parametrize("arguments", [["--help"], ["kernels", "--help"], ["search", "--help"], ["roofline", "--help"]])
def test_help_is_there(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0
    assert "usage: python -m bench" in done.stdout
