"""TREC's text files: judgements (qrels) and results (runs)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

# query id -> document id -> grade (0: not relevant), and query id -> document id -> score
Qrels: TypeAlias = dict[str, dict[str, int]]
Run: TypeAlias = dict[str, dict[str, float]]


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Read judgements from a file of TREC's four columns or of three columns.

    Args:
        path: lines of "query_id iteration document_id grade", as TREC has it, or of "query_id document_id grade", as
            BEIR has it, between blanks or tabs; a first line whose grade is no number is taken for a heading.

    Returns:
        Grades by query id and document id, all ids as str.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line has other columns, a grade is no integer, or there is no judgement at all.
    """
    qrels: Qrels = {}
    text = Path(path).read_text("utf-8-sig")
    for number, line in enumerate(text.splitlines(), start=1):
        # ids of tab-separated files may hold blanks
        columns = line.split("\t") if line.count("\t") in (2, 3) else line.split()
        if not line.strip():
            continue
        if len(columns) not in (3, 4):
            raise ValueError(
                f"{path}, line {number}: expected 3 or 4 columns (query_id [iteration] document_id grade), "
                f"got {len(columns)}"
            )
        query_id, document_id, grade = columns[0].strip(), columns[-2].strip(), columns[-1].strip()
        try:
            qrels.setdefault(query_id, {})[document_id] = int(grade)
        except ValueError:
            if number > 1:
                raise ValueError(f"{path}, line {number}: expected an integer grade, got {grade!r}") from None
            qrels.clear()
    if not qrels:
        raise ValueError(f"{path}: expected judgements, got none")
    return qrels


def write_run(path: str | os.PathLike[str], run: Mapping[str, Mapping[str, float]], name: str = "chamfer") -> None:
    """Write results as a TREC run: lines of "query_id Q0 document_id rank score name".

    Args:
        path: the file; replaced if it exists.
        run: scores by query id and document id, see `make_run`; ranks follow the scores, equal ones in the order given.
        name: of the run, the last column.

    Raises:
        OSError: the file cannot be written.
        ValueError: an id or the name is empty or holds a blank, which the format cannot express.
    """
    lines = []
    _check_word(name, "name")
    for query_id, scores in run.items():
        _check_word(query_id, "query id")
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        for rank, (document_id, score) in enumerate(ranked, start=1):
            _check_word(document_id, "document id")
            lines.append(f"{query_id} Q0 {document_id} {rank} {score:.9g} {name}\n")  # 9 digits tell all float32 apart
    Path(path).write_text("".join(lines), "utf-8")


def _check_word(value: str, what: str) -> None:
    if len(value.split()) != 1 or value.split()[0] != value:
        raise ValueError(f"run: expected a {what} without blanks, got {value!r}; TREC's format separates by blanks")
