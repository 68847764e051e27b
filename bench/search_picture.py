"""Recall against milliseconds as a picture, from the results of `python -m bench search`: a panel a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.search_results import K, is_ours

Lines = dict[str, list[tuple[float, float, str]]]
PICTURE = Path(__file__).parent.parent / "docs" / "search.png"

_RECALL = f"recall@{K}"
_EXACT = "exact, "
_BOLD = ("chamfer",)
_DOT = 110 / 72  # pixels of a point at 110 dots an inch
_ALL = 0.004  # how far recall 1 is from being infinitely high
_LOWEST = 0.5  # what finds less than half is left out and named below
# Seen on white and on GitHub's dark page alike; chamfer's first, then the peers' in the order that they come.
_OURS, _TEXT = "#d2691e", "#6e7b89"
_THEIRS = ("#4682b4", "#2e8b57", "#9370db", "#c71585", "#708090", "#20a0a0", "#b8860b")


def lines(result: dict[str, Any], threads: int) -> Lines:
    """Return (ms, recall, point) of each system that chooses candidates, the fastest first."""
    found: Lines = {}
    for row in result["rows"]:
        if row["threads"] == threads and not row["system"].startswith(_EXACT):
            found.setdefault(row["system"], []).append((row["median_ms"], row[_RECALL], row["point"]))
    return {system: sorted(points) for system, points in found.items()}


def exact_lines(result: dict[str, Any], threads: int) -> dict[str, float]:
    """Return the milliseconds of each exact system."""
    rows = [row for row in result["rows"] if row["threads"] == threads and row["system"].startswith(_EXACT)]
    return {row["system"]: row["median_ms"] for row in rows}


def apart(places: list[float], least: float, highest: float) -> list[float]:
    """Return the places moved so that neighbours are at least so far apart and none is too high, in the same order."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = [places[i] for i in order]
    for _ in range(200):
        for i in range(len(moved) - 1):
            lack = least - (moved[i + 1] - moved[i])
            if lack > 1e-9:
                moved[i] -= lack / 2
                moved[i + 1] += lack / 2
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], highest - least * (len(moved) - 1 - i))
    found = [0.0] * len(places)
    for i, place in zip(order, moved, strict=True):
        found[i] = place
    return found


def nines(recall: Any) -> Any:
    """Return the height of a recall: 0.9 and 0.99 are as far apart as 0 and 0.9, and 1 has a place too."""
    return -np.log10(1 + _ALL - np.minimum(recall, 1 + _ALL / 2))


def recalls(height: Any) -> Any:
    """Return the recall of a height, what `nines` undoes."""
    return 1 + _ALL - 10.0 ** -np.asarray(height)


def draw(results: list[dict[str, Any]], output: Path | None) -> None:
    """Draw one panel under the other, one thread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.1 * len(results)), dpi=110)
    panels = figure.subplots(len(results), 1, squeeze=False)[:, 0]
    names = dict.fromkeys(name for result in results for name in lines(result, _threads(result)))
    colours = dict(zip([name for name in names if not is_ours(name)], _THEIRS * 3, strict=False))
    height = 4.1 * len(results)
    figure.subplots_adjust(left=0.065, right=0.745, top=1 - 0.5 / height, bottom=0.5 / height, hspace=0.3)
    for axes, result in zip(panels, results, strict=True):
        _draw_panel(axes, result, colours)
    output = output or PICTURE
    figure.savefig(output, transparent=True)
    print(f"written to {output}")


def _threads(result: dict[str, Any]) -> int:
    return int(min(row["threads"] for row in result["rows"]))


def _draw_panel(axes: Any, result: dict[str, Any], colours: dict[str, str]) -> None:
    threads, shapes = _threads(result), result["shapes"]
    drawn, exact = lines(result, threads), exact_lines(result, threads)
    left_out = {system: points[-1][1] for system, points in drawn.items() if points[-1][1] < _LOWEST}
    drawn = {
        system: [point for point in points if point[1] >= _LOWEST]
        for system, points in drawn.items()
        if system not in left_out
    }
    times = [ms for points in drawn.values() for ms, *_ in points] + list(exact.values())
    _draw_axes(axes, times, [recall for points in drawn.values() for _, recall, _ in points])
    less = "".join(f"; {system} found {recall:.2f} at most" for system, recall in left_out.items())
    many = "s" if threads > 1 else ""
    axes.set_xlabel(f"ms a query on {threads} thread{many}; dotted: exact{less}", color=_TEXT, fontsize=8.5)
    title = f"{result['settings']['data']}: {shapes['num_documents']:,} documents, {shapes['num_tokens']:,} vectors"
    axes.set_title(title, color=_TEXT, fontsize=9.5, weight="bold", loc="left", pad=17)
    top = axes.get_ylim()[1]
    for system, ms in exact.items():
        colour, name = _OURS if is_ours(system) else _TEXT, system.replace(",", "")
        axes.axvline(ms, color=colour, linewidth=1, linestyle=":")
        axes.text(ms, top, f"{name} {_short(ms)}", color=colour, fontsize=7.5, ha="center", va="bottom")
    for system, points in drawn.items():
        width, dashes = (2.2, "-") if system in _BOLD else (1.2, "--" if is_ours(system) else "-")
        places = [ms for ms, *_ in points], [recall for _, recall, _ in points]
        axes.plot(*places, color=colours.get(system, _OURS), marker="o", markersize=3.5, lw=width, ls=dashes)
    _name_lines(axes, drawn, colours)
    _write_values(axes, drawn, colours)


def _draw_axes(axes: Any, times: list[float], found: list[float]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set_yscale("function", functions=(nines, recalls))
    lowest = nines(min(found, default=_LOWEST))
    axes.set_ylim(float(recalls(lowest - 0.08 * (nines(1) - lowest))), 1 + _ALL / 4)
    ticks = [tick for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1) if tick >= axes.get_ylim()[0]]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.4, max(times) * 1.4)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
    axes.set_ylabel("share of the exact top 10 found", color=_TEXT, fontsize=8.5)
    axes.tick_params(colors=_TEXT, which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_TEXT)
    axes.grid(visible=True, color=_TEXT, alpha=0.15, linewidth=0.6)


def _name_lines(axes: Any, drawn: Lines, colours: dict[str, str]) -> None:
    """Write each system at the right, with a thread to the end of its line."""
    low, high = (nines(limit) for limit in axes.get_ylim())
    ends = {system: points[-1] for system, points in drawn.items()}
    heights = [float((nines(recall) - low) / (high - low)) for _, recall, _ in ends.values()]
    for (system, end), height in zip(ends.items(), apart(heights, 0.055, 1.0), strict=True):
        colour = colours.get(system, _OURS)
        axes.annotate(
            system,
            end[:2],
            (1.02, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=colour,
            weight="bold" if system in _BOLD else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.4},
        )


def _write_values(axes: Any, drawn: Lines, colours: dict[str, str]) -> None:
    """Write recall and ms at each point where there is room, at best beside it where a rising line is not."""
    taken: list[tuple[float, float]] = []
    points = [(system, *point) for system, line in drawn.items() for point in line]
    marks = [axes.transData.transform((ms, recall)) for _, ms, recall, _ in points]
    for (system, ms, recall, _), (x, y) in zip(points, marks, strict=True):
        text = f"{recall:.{3 if recall > 0.985 else 2}f} at {_short(ms)}"
        for right, up in ((30, -7), (-30, 7), (0, -11), (0, 11)):
            place = (x + right * _DOT, y + up * _DOT)
            others = [mark for mark in marks if abs(mark[0] - x) > 1 or abs(mark[1] - y) > 1]
            inside = axes.bbox.x0 < place[0] - 30 * _DOT < axes.bbox.x1 - 60 * _DOT and place[1] < axes.bbox.y1
            if inside and _is_free(place, taken, 60, 10) and _is_free(place, others, 32, 7):
                taken.append(place)
                style = {"ha": "center", "va": "center", "fontsize": 6.5, "color": colours.get(system, _OURS)}
                axes.annotate(text, (ms, recall), (right, up), textcoords="offset points", zorder=4, **style)
                break


def _short(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:,.0f}"


def _is_free(place: tuple[float, float], others: Any, wide: float, high: float) -> bool:
    """Return whether no other place is within so many points to either side, and up or down."""
    return all(abs(place[0] - x) > wide * _DOT or abs(place[1] - y) > high * _DOT for x, y in others)
