"""Pictures from the results in bench/results: of `search` and `binary` (their *_picture.py), and of `kernels --peers`.

That of `kernels` shows MaxSim over every storage beside the peers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import binary_picture, search_picture

_ROOT = Path(__file__).parent.parent
_RESULTS = _ROOT / "bench" / "results"
_GROUP = "one query"
_TITLES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "i8x4bit": "4 bits",
    "i8x2bit": "2 bits",
    "i8x1bit": "int8 × 1 bit",
    "1bit": "1 bit × 1 bit",
}
_LIMITS = {"fma_f32": "FMA", "dot_bf16": "BF16", "dot_i8": "int8 dot", "popcount": "popcount"}
# Seen on white and on GitHub's dark page alike; the first is chamfer's.
_OURS, _THEIRS, _TEXT = "#d2691e", "#8795a8", "#6e7b89"


def bars(rows: list[dict[str, Any]]) -> dict[str, list[tuple[str, float, str]]]:
    """Return, by storage, (who, µs a document, what stands at the bar): chamfer first, then peers, the fastest first.

    chamfer's instruction sets each have a bar, a library its fastest way; wrong answers have none.
    """
    found: dict[str, list[tuple[str, float, str]]] = {}
    for storage in _TITLES:
        there = [
            row
            for row in rows
            if row["group"] == _GROUP and row["dtype"] == storage and row["operation"] == "maxsim" and not row["wrong"]
        ]
        ours = sorted((row for row in there if row["library"] == "chamfer"), key=_time)
        fastest: dict[str, dict[str, Any]] = {}
        for row in sorted((row for row in there if row["library"] != "chamfer"), key=_time):
            fastest.setdefault(row["library"], row)
        if ours or fastest:
            found[storage] = [
                (f"chamfer {row['engine']}", _time(row), f"{_time(row):.3g} µs, {_fraction(row)}") for row in ours
            ] + [(library, _time(row), f"{_time(row):.3g} µs") for library, row in fastest.items()]
    return found


def _time(row: dict[str, Any]) -> float:
    return float(row["median_us_per_item"])


def _fraction(row: dict[str, Any]) -> str:
    limit = row["limit"]
    return f"{row['fraction_of_limit']:.0%} of {_LIMITS.get(limit, f'reading {limit.upper()}')}"


def run(*, results: list[Path] | None, output: Path | None) -> None:
    """Draw the picture of these results, or all pictures from all there are."""
    every = [path for pattern in ("search", "binary") for path in sorted(_RESULTS.glob(f"{pattern}_*.json"))]
    found = [json.loads(path.read_text("utf-8")) for path in results or [_RESULTS / "kernels.json", *every]]
    searches = [result for result in found if "systems" in result]
    codes = [result for result in found if "tokens" in result]
    for result in found:
        if result not in searches and result not in codes:
            draw(result, output)
    if searches:
        search_picture.draw(searches, output)
    if codes:
        binary_picture.draw(codes, output)


def draw(result: dict[str, Any], output: Path | None) -> None:
    """Draw the bars of `kernels`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    storages = bars(result["rows"])
    if not storages:
        raise SystemExit(f"the results have no group {_GROUP!r}: run python -m bench kernels --peers")
    height = 0.21 * sum(len(found) + 0.8 for found in storages.values()) + 0.5
    figure = Figure(figsize=(8.6, height), dpi=110)
    axes = figure.add_subplot()
    labels: dict[float, str] = {}
    place = 0.0
    for storage, found in storages.items():
        sideways = axes.get_yaxis_transform()
        axes.text(-0.36, place, _TITLES[storage], transform=sideways, va="center", weight="bold", color=_TEXT)
        for who, microseconds, text in found:
            colour, weight = (_OURS, "bold") if who.startswith("chamfer") else (_THEIRS, "normal")
            axes.barh(place, microseconds, height=0.82, color=colour)
            colour = _OURS if who.startswith("chamfer") else _TEXT
            axes.text(microseconds * 1.05, place, text, va="center", fontsize=8.5, color=colour, weight=weight)
            labels[place] = who
            place += 1
        place += 0.8
    times = [microseconds for found in storages.values() for _, microseconds, _ in found]
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.6, max(times) * 2.2)
    axes.set_ylim(place - 1.2, -0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(list(labels), list(labels.values()), fontsize=8.5)
    shape = next(row["shape"] for row in result["rows"] if row["group"] == _GROUP)
    axes.set_xlabel(f"µs a document on one thread, logarithmic [{shape}]", color=_TEXT, fontsize=9)
    axes.tick_params(colors=_TEXT, which="both")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_TEXT)
    figure.subplots_adjust(left=0.285, right=0.99, top=1 - 0.02 / height, bottom=0.5 / height)
    output = output or _ROOT / "docs" / "kernels.png"
    figure.savefig(output, transparent=True)
    print(f"written to {output}")
