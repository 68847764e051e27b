"""What codes find over their bytes as a picture, from the results of `python -m bench binary`: a row a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.search_picture import apart, nines, recalls
from bench.search_results import K

Lines = dict[str, list[tuple[float, float]]]
PICTURE = Path(__file__).parent.parent / "docs" / "binary.png"

_RECALL = f"R{K}@100"
_PANELS = {"learned": "learned encodings", "fde": "FDEs of 1,024 numbers", "tokens": "token vectors"}
_FLOATS = ("float32", "float16", "int8", "int4")
_SCALAR = "floats, int8, int4"
_FINE = ", fine queries"  # ends the names of the package's own way to use BEBR's codes
_CODECS = "chamfer's codecs"
_WIDTH, _HEIGHT = 5.4, 3.6  # inches of a panel and its names
_NAMES = 2.0
# Seen on white and on GitHub's dark page alike; chamfer's first, then the others' in the order that they come.
_OURS, _TEXT = "#d2691e", "#6e7b89"
_THEIRS = (
    *("#4682b4", "#2e8b57", "#9370db", "#c71585", "#708090", "#20a0a0", "#b8860b", "#6b8e23", "#cd5c5c", "#8b7d6b"),
    *("#5f6fd0", "#3fa34d", "#b565a7", "#a0522d"),
)


def lines(result: dict[str, Any], panel: str) -> Lines:
    """Return (bytes a document, R10@100) of each method of a panel, the smallest first."""
    found: Lines = {}
    if panel == "tokens":
        for row in result["tokens"]:
            name = _token_name(row)
            found.setdefault(name, []).append((row["bytes_per_document"], row[_RECALL]))
    else:
        for row in (row for row in result["rows"] if row["vectors"] == panel):
            name = _SCALAR if row["method"] in _FLOATS else row["method"]
            found.setdefault(name, []).append((row["bytes_per_document"], row[_RECALL]))
    return {name: sorted(points) for name, points in found.items()}


def _token_name(row: dict[str, Any]) -> str:
    if row["engine"] == "chamfer":
        turned = ", recurrent" if row["method"].startswith("recurrent:") else ""
        return _CODECS + turned + ("" if row["queries"] == "8 bits" else f", query {row['queries']}")
    name = "uniform" if row["method"].startswith("uniform") else row["method"]
    return name + ("" if row["queries"] == "float32" else f", query {row['queries']}")


def is_ours(name: str) -> bool:
    """Return whether a line is chamfer's."""
    return name.startswith(("BEBR", _CODECS))


def _is_bold(name: str) -> bool:
    return name.endswith(_FINE) or name == _CODECS


def draw(results: list[dict[str, Any]], output: Path | None) -> None:
    """Draw a row of panels for each collection, one for each part that was measured."""
    from matplotlib.figure import Figure

    panels = [panel for panel in _PANELS if any(lines(result, panel) for result in results)]
    if not panels:
        raise SystemExit("the results have no row of codes: run python -m bench binary DATA")
    width, height = _WIDTH * len(panels), _HEIGHT * len(results)
    figure = Figure(figsize=(width, height), dpi=110)
    grid = figure.subplots(len(results), len(panels), squeeze=False)
    names = dict.fromkeys(name for panel in panels for result in results for name in lines(result, panel))
    colours = dict(zip([name for name in names if not is_ours(name)], _THEIRS * 2, strict=False))
    left, between = 0.6, (_NAMES + 0.6) / (_WIDTH - _NAMES - 0.6)
    figure.subplots_adjust(left / width, 0.5 / height, 1 - _NAMES / width, 1 - 0.3 / height, between, 0.32)
    for row, result in zip(grid, results, strict=True):
        for axes, panel in zip(row, panels, strict=True):
            _draw_panel(axes, result, panel, colours)
    output = output or PICTURE
    figure.savefig(output, transparent=True)
    print(f"written to {output}")


def _draw_panel(axes: Any, result: dict[str, Any], panel: str, colours: dict[str, str]) -> None:
    drawn = lines(result, panel)
    axes.set_title(
        f"{result['settings']['data']}: {_PANELS[panel]}", color=_TEXT, fontsize=9.5, weight="bold", loc="left"
    )
    if not drawn:
        axes.set_axis_off()
        return
    for name, points in drawn.items():
        width, z = (2.2, 4) if _is_bold(name) else (1.1, 3)
        dashes = "--" if is_ours(name) and not _is_bold(name) else "-"
        places = zip(*points, strict=True)
        axes.plot(*places, color=colours.get(name, _OURS), marker="o", ms=3.5, lw=width, ls=dashes, zorder=z)
    _draw_axes(axes, drawn)
    low, high = (float(nines(limit)) for limit in axes.get_ylim())
    heights = [(float(nines(points[-1][1])) - low) / (high - low) for points in drawn.values()]
    for (name, points), height in zip(drawn.items(), apart(heights, 0.065, 1.0), strict=True):
        colour = colours.get(name, _OURS)
        axes.annotate(
            name,
            points[-1],
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=7.5,
            color=colour,
            weight="bold" if _is_bold(name) else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.5},
        )


def _draw_axes(axes: Any, drawn: Lines) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.set_yscale("function", functions=(nines, recalls))
    found = [recall for points in drawn.values() for _, recall in points]
    low, high = float(nines(min(found))), float(nines(max(found)))
    margin = 0.04 * (high - low)
    axes.set_ylim(float(recalls(low - margin)), float(recalls(high + margin)))
    bottom, top = axes.get_ylim()
    ticks = [tick for tick in (*np.arange(0, 0.9, 0.1), 0.9, 0.95, 0.98, 0.99, 1) if bottom <= tick <= top]
    axes.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xscale("log", base=2)
    sizes = [size for points in drawn.values() for size, _ in points]
    axes.set_xlim(min(sizes) / 1.15, max(sizes) * 1.15)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bytes a document", color=_TEXT, fontsize=8.5)
    axes.set_ylabel(f"{_RECALL}: of the exact top {K}, by codes alone", color=_TEXT, fontsize=8)
    axes.tick_params(colors=_TEXT, which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_TEXT)
    axes.grid(visible=True, color=_TEXT, alpha=0.15, linewidth=0.6)
