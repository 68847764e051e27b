"""Recall against latency as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

# Colours that the colour-blind tell apart (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def draw_recall_against_latency(
    path: str | os.PathLike[str],
    curves: Mapping[str, Sequence[tuple[float, float, str]]],
    exact_milliseconds: float,
    *,
    title: str = "",
    recall_label: str = "recall@10 against exact MaxSim",
) -> None:
    """Draw recall against milliseconds per query, exact search as a star.

    Args:
        path: the file, its ending one that matplotlib knows (.png, .svg, .pdf).
        curves: points (milliseconds, recall, label) by name of the curve, at most four curves; a label is, say, the
            number of candidates.
        exact_milliseconds: of exact search, whose recall is 1.
        title: above the picture.
        recall_label: of the vertical axis.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: an ending that matplotlib does not know.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ModuleNotFoundError('the picture needs matplotlib: pip install "chamfer[plot]"') from None
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, ((name, points), colour) in enumerate(zip(curves.items(), _COLOURS, strict=False)):
        axes.plot(*zip(*[p[:2] for p in points], strict=True), "o-", color=colour, lw=2, ms=5, label=name)
        # The first curve is the upper one: its labels go above left, where no line runs, the others' below right.
        offset, side = ((-6, 5), "right") if place == 0 else ((7, -10), "left")
        for milliseconds, recall, label in points:
            axes.annotate(
                label,
                (milliseconds, recall),
                textcoords="offset points",
                xytext=offset,
                ha=side,
                fontsize=8,
                color=colour,
            )
    axes.plot([exact_milliseconds], [1.0], "*", color="black", ms=15, ls="none", label="exact MaxSim of all documents")
    axes.set_xlim(left=0)
    axes.set_ylim(-0.06, 1.1)
    axes.set_xlabel("milliseconds per query (median, one thread)")
    axes.set_ylabel(recall_label)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(Path(path))
