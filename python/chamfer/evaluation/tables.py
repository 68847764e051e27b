"""How results are printed: a table for a person at a terminal, tab-separated lines for a pipe, JSON for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_rows(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; where no terminal reads it, tab-separated lines, which are never cut or wrapped."""
    if console.is_terminal:
        table = Table(*headings, box=None)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # an id may look like markup
        console.print(table)
        return
    sys.stdout.writelines("\t".join(row) + "\n" for row in (headings, *rows))


def print_facts(console: Console, facts: Mapping[str, Any], as_json: bool) -> None:
    """Print a line for each fact, named, lists and mappings of numbers on one line; or all of them as JSON."""
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        text = value
        if isinstance(value, dict):
            text = ", ".join(f"{part} {_fact(number)}" for part, number in value.items())
        elif isinstance(value, list):
            text = ", ".join(map(str, value))
        elif isinstance(value, float):
            text = f"{value:.2f}"
        console.print(f"{name.replace('_', ' '):16} {text}", markup=False, highlight=False, soft_wrap=True)


def _fact(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else "auto" if value is None else str(value)


def print_json(value: Any) -> None:
    """Print a value, dataclasses as mappings, as JSON and nothing else on standard output."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    sys.stdout.write(json.dumps(plain, indent=1, allow_nan=False) + "\n")
