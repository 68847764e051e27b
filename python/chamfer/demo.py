"""`chamfer demo`: questions about Python's standard library, answered exactly and through encodings, side by side.

Centring needs a mean of queries, and learning some queries. So that no question has a part in its own encoding, each
half of the questions is searched with encodings fitted to the other half, and to all documents, which an index knows.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from chamfer import FixedDimensionalEncoder, Index, best_isa
from chamfer.data import DemoCollection, document_text, load_stdlib
from chamfer.data.matches import matched_words
from chamfer.evaluation import (
    MeasuredSearch,
    draw_recall_against_latency,
    evaluate,
    make_run,
    measure_searches,
    recall_against_exact,
)

EXACT, PUBLISHED, CENTRED, LEARNED = "exact MaxSim", "FDE as published", "FDE centred", "learned"

_K = 10
# Documents are short here (39 tokens), so 8 partitions do: 2,560 numbers a document. The default's 32 partitions
# (10,240 numbers) take longer to scan than these few documents take to score exactly, for a recall of 0.85 instead of
# 0.80 from 100 candidates.
_ENCODER: dict[str, Any] = {"num_repetitions": 20, "num_simhash_projections": 3, "projection_dimension": 16}
_CURVE = (10, 25, 50, 100, 200, 300, 400, 600)
_SHOWN_CANDIDATES = (50, 100)
_BUILD_SHARE = 0.1  # of the work, for each kind of encoding
_ROUNDS = 2

# Shown first: four that go well, and one as they go on average, its nDCG@10 near the mean: the answer comes second.
_SHOWCASE = (
    "run a command and capture its output",
    "where is a program installed on the search path",
    "a log file that starts anew when it gets too big",
    "derive an encryption key from a password",
    "apply a function to many items using several processes",
)
_NUM_MATCHES = 5


@dataclass(frozen=True)
class Row:
    """One way to search: recall and nDCG at 10, median milliseconds per query, bytes per token, seconds to build."""

    name: str
    num_candidates: int | None
    recall: float
    ndcg: float
    milliseconds: float
    bytes_per_token: float
    build_seconds: float


@dataclass(frozen=True)
class Example:
    """A question, its best three documents (name, text, grade), and matched words (query's, document's, similarity)."""

    question: str
    answers: list[tuple[str, str, int]]
    matches: list[tuple[str, str, float]]


@dataclass(frozen=True)
class Report:
    """What the demo found: the collection, the rows of the table, recall against latency by name, and examples."""

    collection: dict[str, Any]
    rows: list[Row]
    curves: dict[str, list[Row]]
    examples: list[Example]


@dataclass(frozen=True)
class _Searcher:
    """An index per half of the questions: number h serves the questions row % 2 == h and was fitted to the others.

    `build_seconds` are those of the index that reranks, also where this is the one that shows its candidates.
    """

    halves: list[Index]
    build_seconds: float
    collection: DemoCollection

    def search(self, row: int, **options: Any) -> Any:
        return self.halves[row % 2].search(self.collection.queries[row], _K, num_threads=1, **options)


def measure(num_questions: int = len(_SHOWCASE), advance: Callable[[float], object] = lambda _: None) -> Report:
    """Build the demo's indexes, answer all questions in each way, and compare.

    Args:
        num_questions: examples to prepare; at most all questions.
        advance: called with the share of the work done since the last call; the shares add up to 1.

    Returns:
        The report that `show`, `draw` and `chamfer demo --json` present.

    Raises:
        ModuleNotFoundError: ir-measures is not installed.
    """
    collection = load_stdlib()
    searchers: dict[tuple[str, bool], _Searcher] = {}
    for name in (PUBLISHED, CENTRED, LEARNED):
        searchers[name, True] = _build(collection, name)
        searchers[name, False] = _without_rerank(searchers[name, True])
        advance(_BUILD_SHARE)
    best = searchers[LEARNED, True]
    searches: dict[tuple[str, int | None], Callable[[int], Any]] = {(EXACT, None): partial(best.search, exact=True)}
    for (name, rerank), searcher in searchers.items():
        for n in _CURVE if rerank else (None,):
            searches[name, n] = partial(searcher.search, num_candidates=n)
    steps = _ROUNDS * len(collection.questions) * len(searches)
    keys = {f"{name}, {n}": (name, n) for name, n in searches}
    measured = measure_searches(
        {key: searches[name_n] for key, name_n in keys.items()},
        len(collection.questions),
        rounds=_ROUNDS,
        advance=lambda: advance((1 - 3 * _BUILD_SHARE) / steps),
    )
    exact = measured[f"{EXACT}, None"]
    by_key = {}
    for key, (name, n) in keys.items():
        searcher = best if name == EXACT else searchers[name, n is not None]
        by_key[name, n] = _row(collection, name, n, measured[key], exact, searcher)
    shown = [(name, None) for name in (EXACT, PUBLISHED, CENTRED, LEARNED)] + [(LEARNED, n) for n in _SHOWN_CANDIDATES]
    return Report(
        collection={
            "documents": len(collection.documents),
            "tokens": collection.documents.num_tokens,
            "dim": collection.documents.dim,
            "questions": len(collection.questions),
            "embedded_python": collection.python_version,
            "running_python": platform.python_version(),
            "encoding_dimension": searchers[PUBLISHED, True].halves[0].reducer.output_dimension,
            "learned_dimension": best.halves[0].reducer.output_dimension,
            "learned_bytes": best.halves[0].reducer.nbytes,
            "isa": best_isa(),
        },
        rows=[by_key[key] for key in shown],
        curves={name: [by_key[name, n] for n in _CURVE] for name in (PUBLISHED, CENTRED, LEARNED)},
        examples=[_example(collection, row, best) for row in _example_rows(collection, num_questions)],
    )


def show(report: Report, console: Console) -> None:
    """Print the report: what is shown, the table, how to read it, and the examples."""
    about = report.collection
    console.print(
        "chamfer searches documents that are sets of vectors, one per token (late interaction, ColBERT). Here they are "
        f"{about['documents']:,} functions and classes of Python's standard library, name and docstring, "
        f"{about['tokens']:,} token vectors of {about['dim']} dims, and {about['questions']} questions with judged "
        "answers. Exact MaxSim compares all tokens. An FDE (MUVERA) is one vector of "
        f"{about['encoding_dimension']:,} 8-bit numbers per document, which any vector index can search for "
        f"candidates; a learned encoding, fitted to these documents, has {about['learned_dimension']} of 4 bits. "
        "Rerank N scores the best N of them by MaxSim, by codes first and the best of these exactly.",
        markup=False,
        highlight=False,
    )
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("recall@10", "nDCG@10", "ms/query", "bytes/token", "build s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        rerank = f" + rerank {row.num_candidates}" if row.num_candidates else ""
        build = f"{row.build_seconds:.2f}" if row.build_seconds else "-"
        numbers = (
            f"{row.recall:.3f}",
            f"{row.ndcg:.3f}",
            f"{row.milliseconds:.2f}",
            f"{row.bytes_per_token:.0f}",
            build,
        )
        table.add_row(row.name + rerank, *numbers, style="bold green" if rerank else "")
    console.print(table)
    console.print(
        "recall@10: share of exact MaxSim's top 10 that was found. nDCG@10: by the judged answers. ms/query: median of "
        f"single queries, one thread, {about['isa']}. bytes/token: encodings, codes and token vectors, as the "
        f"search needs; what makes learned encodings takes {about['learned_bytes'] / 1e6:.0f} MB more. "
        "Centred: documents less their mean, queries less theirs. Each half of the "
        "questions is searched with what was fitted to the other half, so that none has a part in its own encoding. "
        "With so few and short documents exact search is quick; its time grows with every token, that of candidates "
        "with documents only.",
        style="dim",
        markup=False,
        highlight=False,
    )
    for example in report.examples:
        console.print(Text(f"\n{example.question}", style="bold"))
        for place, (name, text, grade) in enumerate(example.answers, start=1):
            line = Text(f"  {place}. {name}", style="green" if grade == 2 else "")
            line.append({2: "  (answer)", 1: "  (helps)", 0: ""}[grade])
            line.append(f"  {text}", style="dim")
            console.print(line, no_wrap=True, overflow="ellipsis")
        matches = [Text(f"{word} -> {match} {value:.2f}", style="cyan") for word, match, value in example.matches]
        console.print(Padding(Columns(matches, padding=(0, 3)), (0, 0, 0, 5), expand=False))
    if report.examples:
        console.print(
            "\n(answer), (helps): judged so beforehand. Below the three, words of the question -> the words of the "
            "first document that they match best, and how similar the two vectors are.",
            markup=False,
            style="dim",
            highlight=False,
        )


def draw(report: Report, path: Path) -> None:
    """Draw recall against milliseconds per query as a picture; needs matplotlib.

    Args:
        report: what `measure` returned.
        path: the file, its ending one that matplotlib knows (.png, .svg, .pdf).

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: an ending that matplotlib does not know.
        OSError: the file cannot be written.
    """
    about = report.collection
    draw_recall_against_latency(
        path,
        {
            f"{name}, then rerank": [(p.milliseconds, p.recall, str(p.num_candidates)) for p in report.curves[name]]
            for name in (LEARNED, CENTRED, PUBLISHED)
        },
        report.rows[0].milliseconds,
        title=f"{about['documents']:,} docstrings of Python's standard library; numbers are candidates reranked",
    )


def _build(collection: DemoCollection, name: str) -> _Searcher:
    questions = np.arange(len(collection.queries))
    fde = partial(FixedDimensionalEncoder, collection.documents.dim, center=name == CENTRED, **_ENCODER)
    begin = time.perf_counter()
    halves = [
        Index.build(
            collection.documents,
            collection.ids,
            reducer="auto" if name == LEARNED else fde(),
            candidates="auto" if name == LEARNED else "SQ8",
            rerank="auto" if name == LEARNED else "exact",
            queries=None if name == PUBLISHED else collection.queries.select(questions % 2 != half),
        )
        for half in ((0,) if name == PUBLISHED else (0, 1))
    ]
    seconds = (time.perf_counter() - begin) / len(halves)
    return _Searcher(halves * (2 // len(halves)), seconds, collection)


def _without_rerank(searcher: _Searcher) -> _Searcher:
    collection = searcher.collection
    halves = [
        Index.build(
            collection.documents,
            collection.ids,
            reducer=index.reducer,
            candidates=index.stats()["candidates"],
            rerank=None,
        )
        for index in searcher.halves
    ]
    return _Searcher(halves, searcher.build_seconds, collection)


def _row(
    collection: DemoCollection,
    name: str,
    n: int | None,
    found: MeasuredSearch,
    exact: MeasuredSearch,
    searcher: _Searcher,
) -> Row:
    held = {part: size for part, size in searcher.halves[0].stats()["bytes_per_token"].items() if part != "reducer"}
    return Row(
        name=name,
        num_candidates=n,
        recall=recall_against_exact(found.ids, exact.ids),
        ndcg=evaluate(make_run(collection.query_ids, found.ids, found.scores), collection.qrels)["nDCG@10"],
        milliseconds=found.milliseconds["total"],
        bytes_per_token=sum(held.values()) if n else held["token_vectors" if name == EXACT else "candidates"],
        build_seconds=0 if name == EXACT else searcher.build_seconds,
    )


def _example_rows(collection: DemoCollection, num_questions: int) -> list[int]:
    first = [collection.questions.index(question) for question in _SHOWCASE]
    return (first + [row for row in range(len(collection.questions)) if row not in first])[:num_questions]


def _example(collection: DemoCollection, row: int, searcher: _Searcher) -> Example:
    names = searcher.search(row, num_candidates=_SHOWN_CANDIDATES[-1]).ids[0][:3].tolist()
    grades = collection.qrels[collection.query_ids[row]]
    answers = [(name, _first_sentence(name), grades.get(name, 0)) for name in names]
    return Example(
        collection.questions[row], answers, matched_words(collection, row, collection.ids.index(names[0]), _NUM_MATCHES)
    )


def _first_sentence(name: str) -> str:
    try:
        return document_text(name).removeprefix(f"{name} ").partition(". ")[0].removesuffix(".")
    except LookupError:  # a later Python dropped it
        return ""
