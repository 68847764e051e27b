"""SearchSettings: how wide a search looks where nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chamfer._runtime import check_positive_int
from chamfer.cascade import check_budgets, check_margin


@dataclass(frozen=True)
class SearchSettings:
    """What a search of an index takes where its arguments leave it open; None means chamfer's defaults.

    Attributes:
        num_candidates: documents to rerank per query.
        budgets: documents per query that each stage of reranking but the last hands on.
        margin: how many errors of a stage a document may be behind the k-th of it; see `Cascade.run`.
        k: results that these settings are for. A search for more takes the defaults. None: as many as
            there is room for.
        nprobe: inverted lists to look into, if the candidates have such. None: as many as they were made with.

    Raises:
        TypeError: a value has a wrong type.
        ValueError: a value is out of range.
    """

    num_candidates: int | None = None
    budgets: tuple[int, ...] | None = None
    margin: float | None = None
    k: int | None = None
    nprobe: int | None = None

    def __post_init__(self) -> None:
        if self.num_candidates is not None:
            object.__setattr__(self, "num_candidates", check_positive_int(self.num_candidates, "num_candidates"))
        if self.budgets is not None:
            object.__setattr__(self, "budgets", check_budgets(self.budgets))
        if self.k is not None:
            object.__setattr__(self, "k", check_positive_int(self.k, "k"))
        if self.nprobe is not None:
            object.__setattr__(self, "nprobe", check_positive_int(self.nprobe, "nprobe"))
        if self.margin is not None:
            object.__setattr__(self, "margin", check_margin(self.margin))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "num_candidates": self.num_candidates,
            "budgets": None if self.budgets is None else list(self.budgets),
            "k": self.k,
            "nprobe": self.nprobe,
            "margin": None if self.margin is None else repr(self.margin),  # JSON has no infinity
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SearchSettings:
        """Read what `to_json` returned.

        Raises:
            TypeError, ValueError, KeyError: it is something else.
        """
        margin = stored["margin"]
        k, nprobe = stored.get("k"), stored.get("nprobe")  # not stored before they were known
        return cls(stored["num_candidates"], stored["budgets"], None if margin is None else float(margin), k, nprobe)
