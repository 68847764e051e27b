"""TuningReport: what tuning found, as a table and a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from chamfer.index.settings import SearchSettings


@dataclass(frozen=True)
class TuningPoint:
    """What one setting gives.

    Attributes:
        settings: of the search.
        recall: the mean share of the exact top k that is found.
        low, high: the 95 % interval of that mean (Wilson's, for as many yes or no as vary like these recalls). Of the
            kept point it is a little narrow, since this point was chosen by the same queries.
        milliseconds: median time of a query on one thread, searched alone.
        stages: median milliseconds by stage.
        num_scored: mean number of documents that each stage scores.
    """

    settings: SearchSettings
    recall: float
    low: float
    high: float
    milliseconds: float
    stages: dict[str, float] = field(default_factory=dict)
    num_scored: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TuningReport:
    """What `Index.tune` found.

    Attributes:
        target_recall: as asked for.
        k: results per query.
        num_queries: that recall was measured on.
        points: from low recall to high.
        chosen: which of them the index keeps.
        reached: whether its recall is at least the target.
        exact_milliseconds: median time of an exact search of all documents, one thread.
    """

    target_recall: float
    k: int
    num_queries: int
    points: tuple[TuningPoint, ...]
    chosen: int
    reached: bool
    exact_milliseconds: float

    @property
    def settings(self) -> SearchSettings:
        """The settings that the index keeps."""
        return self.points[self.chosen].settings

    def __str__(self) -> str:
        head = (
            f"recall@{self.k} against exact search, {self.num_queries} queries, target {self.target_recall:g}: "
            f"{'reached' if self.reached else 'NOT reached'}; exact search {self.exact_milliseconds:.2f} ms a query"
        )
        lines = [
            head,
            f"{'recall':>8} {'95 % interval':>15} {'ms':>7} {'candidates':>10}  budgets, margin: stages in ms",
        ]
        for i, point in enumerate(self.points):
            settings = point.settings
            stages = ", ".join(f"{name} {value:.2f}" for name, value in point.stages.items())
            budgets = "/".join(map(str, settings.budgets or ())) or "-"
            lists = "" if settings.nprobe is None else f" of {settings.nprobe} lists"
            margin = "-" if settings.margin is None else f"{settings.margin:g}"
            kept = "  <- kept" if i == self.chosen else ""
            lines.append(
                f"{point.recall:8.3f} {f'{point.low:.3f} to {point.high:.3f}':>15} {point.milliseconds:7.2f} "
                f"{settings.num_candidates:10d}{lists}  {budgets}, {margin}: {stages}{kept}"
            )
        return "\n".join(lines)

    def picture(self, path: str | os.PathLike[str]) -> None:
        """Draw recall against latency, the stages stacked.

        Args:
            path: of the picture, .png or .svg.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ModuleNotFoundError('a picture needs matplotlib: pip install "chamfer[plot]"') from None
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        names = list(dict.fromkeys(name for point in self.points for name in point.stages))
        left = np.zeros(len(self.points))
        places = np.arange(len(self.points))
        for name in names:
            widths = np.array([point.stages.get(name, 0.0) for point in self.points])
            axes.barh(places, widths, left=left, label=name)
            left += widths
        for place, point in enumerate(self.points):
            text = f"{point.milliseconds:.2f} ms, {point.settings.num_candidates} candidates"
            weight = "bold" if place == self.chosen else "normal"
            axes.text(left[place], place, f"  {text}", va="center", fontweight=weight)
        labels = [f"{p.recall:.3f}" + (" (kept)" if i == self.chosen else "") for i, p in enumerate(self.points)]
        axes.set_yticks(places, labels)
        axes.set_xlim(0, float(left.max(initial=0.0)) * 1.45 or 1.0)
        axes.set_ylabel(f"recall@{self.k} against exact search")
        axes.set_xlabel(f"ms a query, one thread (exact search: {self.exact_milliseconds:.2f})")
        axes.legend(loc="lower right")
        axes.set_title(f"target {self.target_recall:g}, {self.num_queries} queries")
        figure.savefig(path, dpi=120)
