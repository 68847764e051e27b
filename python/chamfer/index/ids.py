"""The ids of an index: one per document, all int or all str, none twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_ids(ids: Sequence[int] | Sequence[str] | NDArray[Any] | None, num_documents: int) -> list[int] | list[str]:
    """Return the ids as Python's int or str; None gives the rows."""
    if ids is None:
        return list(range(num_documents))
    if isinstance(ids, (str, bytes)) or not isinstance(ids, (Sequence, np.ndarray)):
        raise TypeError(f"ids: expected a list of int or str, got {type(ids).__name__}")
    values: list[Any] = list(ids.tolist() if isinstance(ids, np.ndarray) else ids)
    if len(values) != num_documents:
        raise ValueError(f"ids: expected {num_documents}, one per document, got {len(values)}")
    strings = bool(values) and isinstance(values[0], str)
    for row, value in enumerate(values):
        fits = (
            isinstance(value, str) if strings else isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        )
        if not fits:
            raise TypeError(f"ids[{row}]: expected all int or all str, got {type(value).__name__}")
        if not strings and not 0 <= value < 2**63:
            raise ValueError(f"ids[{row}]: expected 0 to 2^63 - 1, got {value}")
    # str.__str__: a subclass, such as an enum's member, may call itself something else
    checked: list[Any] = [str.__str__(value) if strings else int(value) for value in values]
    if len(set(checked)) < len(checked):
        repeated, _ = Counter(checked).most_common(1)[0]
        raise ValueError(f"ids: expected all different, got {repeated!r} twice")
    return checked


def check_some_ids(ids: Any, argument: str, *, are_strings: bool) -> frozenset[int | str]:
    """Return ids of any number and order, whether documents have them or not.

    Raises:
        TypeError: they are none, or not of the index's type.
    """
    if isinstance(ids, (str, bytes, dict)) or not isinstance(ids, (Iterable, np.ndarray)):
        raise TypeError(f"{argument}: expected ids, got {type(ids).__name__}")
    found = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    wanted = str if are_strings else (int, np.integer)
    for one in found:
        if not isinstance(one, wanted) or isinstance(one, bool):
            kind = "str" if are_strings else "int"
            raise TypeError(f"{argument}: expected ids of type {kind}, as the index has them, got {one!r}")
    return frozenset(found)
