"""Filters: which documents a search may return, by ids, by a mask, or by a condition on their metadata.

A condition is parsed by Python's own grammar, of which comparisons, `and`, `or`, `not`, `in`, `is None`, names and
constants are taken; it is evaluated on columns of metadata, and never becomes code or SQL.
"""

from __future__ import annotations

import ast
import keyword
import operator
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer.index.segments import SegmentMetadata

_LONGEST = 100_000
_DEEPEST = 100  # levels of and, or, not: a search may stand deep in the caller's stack
_SHOWN = 200  # characters of a condition, in an error
_MOST_BITS = 1_024  # of an int; those of a float at most, and far from where Python refuses to print one
_KEPT = 16  # masks of conditions, kept for each segment
_MASKS = "masks of conditions"  # no key of metadata: those are identifiers

_Mask = NDArray[np.bool_]

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}


def check_metadata(metadata: Any, num_documents: int) -> list[dict[str, Any] | None]:
    """Return metadata as one dict or None per document.

    Raises:
        TypeError: not a list of dicts, a key that is no str, or a value that is not str, int, float, bool or None.
        ValueError: another number of them, a key that is no identifier, or a number that is not finite.
    """
    if metadata is None:
        return [None] * num_documents
    if isinstance(metadata, (str, bytes, dict)) or not isinstance(metadata, Sequence):
        raise TypeError(f"metadata: expected a list of dicts, one per document, got {type(metadata).__name__}")
    if len(metadata) != num_documents:
        raise ValueError(f"metadata: expected {num_documents}, one per document, got {len(metadata)}")
    return [_check_row(row, i) for i, row in enumerate(metadata)]


def _check_row(row: Any, i: int) -> dict[str, Any] | None:
    if row is None:
        return None
    if not isinstance(row, dict):
        raise TypeError(f"metadata[{i}]: expected a dict or None, got {type(row).__name__}")
    checked = {}
    for key, value in row.items():
        if not isinstance(key, str):
            raise TypeError(f"metadata[{i}]: expected keys of type str, got {key!r}")
        if not key.isidentifier() or keyword.iskeyword(key) or unicodedata.normalize("NFKC", key) != key:
            raise ValueError(f"metadata[{i}]: expected keys that a condition can name, such as 'year', got {key!r}")
        if isinstance(value, np.generic):
            value = value.item()
        if not (value is None or isinstance(value, (str, int, float))):
            raise TypeError(
                f"metadata[{i}][{key!r}]: expected str, int, float, bool or None, got {type(value).__name__}"
            )
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise ValueError(f"metadata[{i}][{key!r}]: expected up to {_MOST_BITS} bits, got {value.bit_length()}")
        if isinstance(value, float) and not np.isfinite(value):
            raise ValueError(f"metadata[{i}][{key!r}]: expected a finite number, got {value}")
        checked[str.__str__(key)] = str.__str__(value) if isinstance(value, str) else value
    return checked


class Condition:
    """A condition on metadata, such as "year >= 2020 and venue in ('SIGIR', 'ECIR')".

    Keys are compared with constants (numbers, strings, True, False) by == != < <= > >=, `in` and `not in` a list of
    them, `is None` and `is not None`; a key alone asks whether its value is true. `and`, `or`, `not` and parentheses
    join them. A document that lacks the key, or has None, fits no comparison, `!=` and `not in` neither, but `is None`;
    so `not year == 2020` fits it, and `year != 2020` does not; a string and a number are never equal, nor one below the
    other.

    Args:
        text: the condition.

    Raises:
        ValueError: the text is no such condition.
    """

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise ValueError(f"filter: expected a condition of up to {_LONGEST} characters, got {len(text)}")
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            self.keys: set[str] = set()
            self._check(self._tree, 0)
        except SyntaxError as error:
            raise ValueError(f"filter: {error.msg} at character {error.offset} of {_shown(text)}") from None
        except UnicodeEncodeError as error:
            raise ValueError(f"filter: {error.reason} at character {error.start} of {_shown(text)}") from None
        except (RecursionError, MemoryError):
            raise ValueError(f"filter: expected a condition nested up to {_DEEPEST} levels deep, got more") from None

    def __call__(self, metadata: SegmentMetadata, size: int) -> _Mask:
        """Return which of the documents of a segment fit."""
        with metadata.lock:
            masks: dict[str, _Mask] = metadata.columns.setdefault(_MASKS, {})
            if self.text not in masks:
                while len(masks) >= _KEPT:
                    masks.pop(next(iter(masks)))
                masks[self.text] = self._evaluate(self._tree, metadata, size)
            return masks[self.text]

    # ── what is allowed ───────────────────────────────────────────────────────────────────────────────────────────────

    def _check(self, node: ast.expr, depth: int) -> None:
        if depth > _DEEPEST:
            raise RecursionError
        if isinstance(node, ast.BoolOp):
            for part in node.values:
                self._check(part, depth + 1)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self._check(node.operand, depth + 1)
        elif isinstance(node, ast.Name):
            self.keys.add(node.id)
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, how, right in zip(sides, node.ops, sides[1:], strict=False):
                self._check_comparison(left, how, right)
        else:
            raise self._refused(node)

    def _check_comparison(self, left: ast.expr, how: ast.cmpop, right: ast.expr) -> None:
        if isinstance(right, ast.Name) and not isinstance(left, ast.Name) and type(how) in _FLIPPED:
            left, right = right, left
        if not isinstance(left, ast.Name):
            raise self._refused(left)
        self.keys.add(left.id)
        if isinstance(how, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
                raise self._refused(right, "a list of constants, such as ('a', 'b')")
            if any(self._constant(one) is None for one in right.elts):
                raise self._refused(right, "constants other than None in a list; ask `is None` besides")
        elif isinstance(how, (ast.Is, ast.IsNot)):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._refused(right, "None behind `is`")
        elif self._constant(right) is None:
            raise self._refused(right, "`is None` or `is not None`")

    def _constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            number = node.operand.value if isinstance(node.operand, ast.Constant) else None
            if type(number) in (int, float):
                return -number  # type: ignore[operator]
        if isinstance(node, ast.Constant) and (node.value is None or type(node.value) in (str, int, float, bool)):
            return node.value
        raise self._refused(node, "a number, a string, True or False")

    def _refused(
        self, node: ast.AST, wanted: str = "comparisons of keys with constants, and, or, not, in"
    ) -> ValueError:
        found = ast.get_source_segment(self.text.strip(), node) or type(node).__name__
        return ValueError(f"filter: expected {wanted}, got {_shown(found)} in {_shown(self.text)}")

    # ── evaluation ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _evaluate(self, node: ast.expr, metadata: SegmentMetadata, size: int) -> _Mask:
        if isinstance(node, ast.BoolOp):
            parts = [self._evaluate(part, metadata, size) for part in node.values]
            joined: _Mask = (np.logical_and if isinstance(node.op, ast.And) else np.logical_or).reduce(parts)
            return joined
        if isinstance(node, ast.UnaryOp):
            return ~self._evaluate(node.operand, metadata, size)
        if isinstance(node, ast.Name):
            return _column(metadata, node.id, size).where(bool)
        assert isinstance(node, ast.Compare)
        fits: _Mask = np.ones(size, bool)
        sides = [node.left, *node.comparators]
        for left, how, right in zip(sides, node.ops, sides[1:], strict=False):
            fits = fits & self._compared(left, how, right, metadata, size)
        return fits

    def _compared(self, left: ast.expr, how: ast.cmpop, right: ast.expr, metadata: SegmentMetadata, size: int) -> _Mask:
        kind = type(how)
        if not isinstance(left, ast.Name):
            left, right, kind = right, left, _FLIPPED[kind]
        assert isinstance(left, ast.Name)
        column = _column(metadata, left.id, size)
        if kind in (ast.Is, ast.IsNot):
            return column.is_none if kind is ast.Is else ~column.is_none
        if kind in (ast.In, ast.NotIn):
            assert isinstance(right, (ast.Tuple, ast.List, ast.Set))
            some = {self._constant(one) for one in right.elts}
            return column.where(lambda value: (value in some) == (kind is ast.In))
        constant, compare = self._constant(right), _COMPARE[kind]

        def fits(value: Any) -> bool:
            if isinstance(value, str) != isinstance(constant, str):
                return kind is ast.NotEq
            return bool(compare(value, constant))

        return column.where(fits)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


class _Column:
    """The values of one key: each different one once, so that a condition looks at as few as there are."""

    def __init__(self, values: Sequence[Any]) -> None:
        places: dict[tuple[type, Any], int] = {}
        self._codes = np.array([places.setdefault((type(value), value), len(places)) for value in values], np.int32)
        self._values = [value for _, value in places]
        self.is_none: _Mask = self._mask([value is None for value in self._values])

    def where(self, fits: Callable[[Any], bool]) -> _Mask:
        """Return where there is a value, and it fits."""
        return self._mask([value is not None and fits(value) for value in self._values])

    def _mask(self, by_value: Iterable[bool]) -> _Mask:
        found: _Mask = np.fromiter(by_value, bool)[self._codes] if len(self._codes) else np.zeros(0, bool)
        return found


def _column(metadata: SegmentMetadata, key: str, size: int) -> _Column:
    if key not in metadata.columns:
        rows = metadata.rows or [None] * size
        metadata.columns[key] = _Column([None if row is None else row.get(key) for row in rows])
    column: _Column = metadata.columns[key]
    return column
