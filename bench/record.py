"""What a result must carry to be judged later, and the tables on the terminal."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import chamfer as ch
from bench import BLAS_SETTINGS, ONE_THREAD, peers, removed_settings
from bench.measure import cache_bytes

_ROOT = Path(__file__).parent.parent
_RESULTS = Path(__file__).parent / "results"
_TELLING_FLAGS = {
    *("fma", "avx2", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_vpopcntdq"),
    *(
        "avx512_bf16",
        "avx512_fp16",
        "avx_vnni",
        "amx_tile",
        "asimd",
        "asimddp",
        "asimdhp",
        "sve",
        "sve2",
        "bf16",
        "i8mm",
    ),
}


def begin(command: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the head of a result: what ran, on what, of which versions, beside how much load."""
    return {
        "format": "chamfer-bench",
        "version": 2,
        # Paths end at their last part: where somebody keeps data is no part of a result.
        "command": f"python -m bench {' '.join([command, *(Path(part).name for part in sys.argv[2:])])}",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(),
        "settings": settings,
        "load_before": load_average(),
    }


def finish(result: dict[str, Any], output: Path | None, default: str | None) -> None:
    """Write the result to `output`, or by its default name in bench/results; neither: nowhere."""
    result["load_after"] = load_average()
    if output is None and default is not None:
        output = _RESULTS / f"{default}.json"
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        Console().print(f"written to {output}")


def environment() -> dict[str, Any]:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cpu_family_model": f"{_cpu_info('cpu family')}/{_cpu_info('model')}",
        "cpu_flags": sorted(_TELLING_FLAGS & set((_cpu_info("flags") or _cpu_info("Features")).split())),
        "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cache_bytes": {f"l{level}": cache_bytes(level) for level in (1, 2, 3)},
        "system": f"{platform.system()} {platform.machine()}",
        "available_isas": list(ch.available_isas()),
        "best_isa": ch.best_isa(),
        "chamfer": ch.__version__,
        "assertions": ch._core.ASSERTIONS,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", ".", ":!bench/results")),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numpy_blas": f"{blas.get('name')} {blas.get('version')}",
        "numpy_blas_kernels": _openblas_kernels(),
        "peers": peers.versions(),
        "thread_settings": {name: os.environ.get(name) for name in ONE_THREAD},
        "blas_settings": {name: os.environ.get(name) for name in BLAS_SETTINGS},
        "removed_settings": removed_settings,
    }


def _cpu_info(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((value.strip() for name, _, value in (x.partition(":") for x in lines) if name.strip() == key), "")


def _openblas_kernels() -> str | None:
    """Return the processor that NumPy's OpenBLAS runs for, which decides its speed; None if it does not tell."""
    for library in (Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas*"):
        try:
            corename = ctypes.CDLL(str(library)).scipy_openblas_get_corename64_
        except (OSError, AttributeError):
            continue
        corename.restype = ctypes.c_char_p
        return str(corename().decode())
    return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def load_average() -> list[float] | None:
    """Load averages over 1, 5 and 15 minutes; this run counts as one."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)


def print_head(result: dict[str, Any], out: Console) -> None:
    e = result["environment"]
    changed = " + changes" if e["dirty"] else ""
    out.print(f"{e['cpu']} ({e['cpu_family_model']}), {', '.join(e['available_isas'])}; commit {e['commit']}{changed}")
    absent = [name for name, version in e["peers"].items() if version == "not installed"]
    blas = f"{e['numpy_blas']}, kernels for {e['numpy_blas_kernels']}"
    out.print(f"numpy {e['numpy']} ({blas}), load {result['load_before']}, one thread unless a row says more")
    if absent and "systems" not in result:
        out.print(f"peers not installed: {', '.join(absent)}")


def print_kernels(result: dict[str, Any]) -> None:
    out = console()
    print_head(result, out)
    table = Table()
    table.add_column("operation_dtype_isa\\[shape]", overflow="fold")
    for title in ("best us/item", "median", "rate", "of its limit", "x baseline", "worst error"):
        table.add_column(title, justify="right")
    group = None
    for row in result["rows"]:
        if "median_us_per_item" not in row:
            continue
        if group not in (None, row["group"]):
            table.add_section()
        group = row["group"]
        fraction = row["fraction_of_limit"]
        table.add_row(
            row["name"].replace("[", "\\["),
            f"{row['best_us_per_item']:.4g}",
            f"{row['median_us_per_item']:.4g}",
            f"{row['rate']:.4g} {row['unit']}",
            "-" if fraction is None else f"{fraction:.0%} {row['limit']}",
            f"{row['times_baseline']:.2f}",
            _error(row),
        )
    out.print(table)
    for row in result["rows"]:
        if row["group"] == "recall":
            found = ", ".join(f"{value:.3f} @{n.removeprefix('recall@')}" for n, value in row.items() if "@" in n)
            out.print(f"{row['name']}: {row['bytes_per_token']:.0f} bytes a token, {found} of the top 10", markup=False)
        if row["group"] == "memory" and row["extra_bytes"] is not None:
            out.print(f"{row['name']}: {row['extra_bytes'] / 1e6:.1f} MB beyond input and output", markup=False)
        if row["group"] == "import":
            out.print(f"{row['name']}: median {row['median_seconds']:.3f} s, best {row['best_seconds']:.3f} s")
    for skip in result["skipped"]:
        out.print(f"skipped: {skip['name']}: {skip['reason']}", markup=False)
    print_figures(result, out)


def _error(row: dict[str, Any]) -> str:
    """Return the errors that a reader looks for; an absolute one goes beside a relative one in the file only."""
    names = {"max_relative": "", "lost_sources": "lost", "differing_scores": "differ"}
    names |= {"wrong_distances": "wrong", "lost_neighbours": "lost"}
    found = [
        f"{value:.0e}" if name == "max_relative" else f"{value:.0%} {names[name]}"
        for name, value in row["errors"].items()
        if name in names
    ]
    return " ".join(found + (["[bold red]WRONG[/]"] if row["wrong"] else []))


def print_peaks(result: dict[str, Any]) -> None:
    out = console()
    print_head(result, out)
    table = Table("loop", title="What this core can do at best")
    for title in ("median", "best", "unit"):
        table.add_column(title, justify="left" if title == "unit" else "right")
    for row in result["rows"]:
        name = row["name"].replace("[", "\\[")
        table.add_row(name, f"{row['median_rate']:.1f}", f"{row['best_rate']:.1f}", row["unit"])
    out.print(table)


def print_figures(result: dict[str, Any], out: Console) -> None:
    table = Table("figure", "measured", "target", "met", title="Figures to reach")
    for figure in result["figures"]:
        value = f"{figure['measured']:.3g}"
        table.add_row(figure["name"], value, figure["target"], "yes" if figure["met"] else "NO")
    out.print(table)
