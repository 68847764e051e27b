"""The command line: parse, call the engine, print.

Machines take --json: pure JSON on standard output, all else on standard error.
"""

from __future__ import annotations

import errno
import functools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata as installed
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

import chamfer
from chamfer._runtime import resolve_num_threads
from chamfer.evaluation.tables import print_facts, print_json, print_rows
from chamfer.token_files import FORMATS, read_token_vectors

app = typer.Typer(
    help="Late-interaction retrieval on CPUs. Token vectors are " + FORMATS + ".",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out, _err = Console(), Console(stderr=True)

_Vectors = Annotated[Path, typer.Argument(help="Token vectors: " + FORMATS + ".")]
_Folder = Annotated[Path, typer.Argument(help="Folder of an index that `chamfer index` wrote.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]
_Threads = Annotated[int | None, typer.Option(help="Threads to use; all CPUs of the process if not given.")]
_Metadata = Annotated[Path | None, typer.Option(help="A JSON object per line and document, to filter by.")]
_K = Annotated[int, typer.Option("-k", help="Documents per query.")]

_EXPECTED_ERRORS = (TypeError, ValueError, KeyError, OSError, EOFError, ModuleNotFoundError)

# Queries that one step of the progress bar searches for.
_QUERIES_AT_A_TIME = 256


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; its expected errors are one line on standard error and exit status 1, no traceback."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except _EXPECTED_ERRORS as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader, such as `head`, has seen enough; typer ends quietly
            _err.print(f"chamfer: {_message(error)}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    name = function.__name__.removesuffix("_")
    app.command(name)(run)
    return run


@_command
def demo(
    json_: _Json = False,
    picture: Annotated[
        Path | None,
        typer.Option(help="File to draw recall against latency in.", show_default="chamfer-demo.png; none with --json"),
    ] = None,
    questions: Annotated[int, typer.Option(min=0, help="Questions to show with their answers.")] = 5,
) -> None:
    """Search Python's standard library: exact MaxSim, encodings as published and centred, with rerank.

    Example: chamfer demo --questions 10
    """
    from chamfer import demo as demo_module

    with _progress("answering the questions in each way") as advance:
        report = demo_module.measure(questions, advance)
    if json_:
        if picture is not None:
            demo_module.draw(report, picture)
        print_json(report)
        return
    demo_module.show(report, _out)
    picture = picture or Path("chamfer-demo.png")
    try:
        demo_module.draw(report, picture)
        _out.print(f"\nRecall against latency: {picture.resolve()}", markup=False, highlight=False, soft_wrap=True)
    except ModuleNotFoundError as error:
        _out.print(f"\n{error}", markup=False, highlight=False, soft_wrap=True)


@_command
def index(
    vectors: _Vectors,
    out: Annotated[Path, typer.Option(help="Folder to write the index to; an index there is replaced.")],
    ids: Annotated[Path | None, typer.Option(help="Document ids, .json or .npy, if not in VECTORS.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Sample queries to fit to: better recall.")] = None,
    candidates: Annotated[str, typer.Option(help="FAISS factory string, such as Flat, SQ8, IVF256,SQ8.")] = "auto",
    rerank: Annotated[
        str, typer.Option(help="Stages from cheap to exact, such as binary,int8,exact; none: candidates as found.")
    ] = "auto",
    reducer: Annotated[
        str, typer.Option(help="auto, learned (fitted to the collection) or fde (MUVERA's encodings).")
    ] = "auto",
    target_recall: Annotated[
        float | None, typer.Option(help="Tune for this recall@10, with every other of the queries.")
    ] = None,
    metadata: _Metadata = None,
    memory_budget: Annotated[
        str | None, typer.Option(help="Memory that building may take, such as 1GB; VECTORS best as .npy, then mapped.")
    ] = None,
    threads: _Threads = None,
    json_: _Json = False,
) -> None:
    """Build an index of token vectors and save it.

    Example: chamfer index corpus.npz --out corpus.index --queries train_queries.npz
    """
    documents, known_ids = read_token_vectors(vectors)
    if ids is not None:
        known_ids = _read_ids(ids)
    begin = time.perf_counter()
    built = chamfer.Index.build(
        documents,
        known_ids,
        path=out,
        reducer=reducer,  # type: ignore[arg-type]  # checked there
        candidates=candidates,
        rerank=None if rerank == "none" else "auto" if rerank == "auto" else rerank.split(","),
        queries=None if queries is None else read_token_vectors(queries)[0],
        target_recall=target_recall,
        metadata=_read_metadata(metadata),
        memory_budget=memory_budget,
        num_threads=threads,
        progress=sys.stderr.isatty(),
    )
    facts = built.stats() | {"build_seconds": time.perf_counter() - begin}
    report = built.tuning_report
    if report is not None:
        facts |= {f"recall@{report.k}": report.points[report.chosen].recall, "target_reached": report.reached}
        if not report.reached:
            _err.print(f"the target recall of {target_recall:g} was not reached", highlight=False)
    print_facts(_out, facts, json_)


@_command
def add(
    folder: _Folder,
    vectors: _Vectors,
    ids: Annotated[Path | None, typer.Option(help="Document ids, .json or .npy, if not in VECTORS.")] = None,
    metadata: _Metadata = None,
    threads: _Threads = None,
) -> None:
    """Add documents to an index; those whose id is there already are replaced.

    Example: chamfer add corpus.index more.npz --ids more_ids.json
    """
    documents, known_ids = read_token_vectors(vectors)
    if ids is not None:
        known_ids = _read_ids(ids)
    if known_ids is None:
        raise ValueError(f"{vectors}: expected ids in it, or --ids")
    with chamfer.Index.open(folder, "a") as opened:
        num_new = opened.add(documents, known_ids, _read_metadata(metadata), num_threads=threads)
        _err.print(f"{num_new} added, {len(known_ids) - num_new} replaced: {len(opened)} documents", highlight=False)


@_command
def delete(folder: _Folder, ids: Annotated[list[str], typer.Argument(help="Ids of documents.")]) -> None:
    """Delete documents from an index; ids that are not there are passed over.

    Example: chamfer delete corpus.index 17 4711
    """
    with chamfer.Index.open(folder, "a") as opened:
        are_strings = opened.ids.dtype == object
        num_deleted = opened.delete(ids if are_strings else [int(one) for one in ids])
        _err.print(f"{num_deleted} deleted: {len(opened)} documents", highlight=False)


@_command
def compact(
    folder: _Folder,
    memory_budget: Annotated[str | None, typer.Option(help="Memory that fitting anew may take, such as 1GB.")] = None,
    threads: _Threads = None,
    json_: _Json = False,
) -> None:
    """Merge an index's segments, and reclaim the room of deleted documents.

    Example: chamfer compact corpus.index
    """
    with chamfer.Index.open(folder, "a") as opened:
        opened.compact(memory_budget=memory_budget, num_threads=threads, progress=sys.stderr.isatty())
        print_facts(_out, opened.stats(), json_)


@_command
def verify(
    folder: _Folder,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what can be without loss.")] = False,
    json_: _Json = False,
) -> None:
    """Check all of an index: every checksum, and that all fits together; exits with 1 if something is wrong.

    Example: chamfer verify corpus.index --repair
    """
    from chamfer.index import verify as verify_index

    findings = verify_index(folder, repair=repair, progress=sys.stderr.isatty())
    can_be = bool(findings) and all(finding.repair for finding in findings)
    if json_:
        print_json({"findings": [vars(finding) for finding in findings], "repaired": repair and can_be})
    else:
        for finding in findings:
            how = "cannot be repaired: restore a copy" if finding.repair is None else finding.repair
            _out.print(f"{finding.problem}\n    {how}", markup=False, highlight=False, soft_wrap=True)
        _out.print("all is well" if not findings else "repaired" if repair and can_be else "not repaired")
    if findings and not (repair and can_be):
        raise typer.Exit(1)


@_command
def tune(
    folder: _Folder,
    queries: _Vectors,
    target_recall: Annotated[float, typer.Option(help="Share of the exact top k to find.")] = 0.95,
    k: _K = 10,
    picture: Annotated[Path | None, typer.Option(help="File to draw recall against latency in.")] = None,
    threads: _Threads = None,
    json_: _Json = False,
) -> None:
    """Find the cheapest settings that reach a recall, and keep them in the index.

    Example: chamfer tune corpus.index queries.npz --target-recall 0.95 --picture tuning.png
    """
    opened = chamfer.Index.open(folder)
    given = _read_queries(queries)[0]
    report = opened.tune(given, target_recall, k, num_threads=threads, progress=sys.stderr.isatty())
    if json_:
        print_json(report)
    else:
        _out.print(str(report), markup=False, highlight=False, soft_wrap=True)
    opened.save(folder)
    if picture is not None:
        report.picture(picture)


@_command
def search(
    folder: _Folder,
    queries: _Vectors,
    k: _K = 10,
    num_candidates: Annotated[
        int | None, typer.Option(help="Documents to rerank; 500 or as tuned if not given.")
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", help="Condition on metadata: \"year >= 2020 and venue == 'ECIR'\".")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Score every document.")] = False,
    run: Annotated[Path | None, typer.Option(help="Write a TREC run to this file, print nothing.")] = None,
    threads: _Threads = None,
    json_: _Json = False,
) -> None:
    """Search an index for the queries' best documents.

    Example: chamfer search corpus.index queries.npz -k 10 --run results.trec
    """
    from chamfer.evaluation import make_run, write_run

    opened = chamfer.Index.open(folder)
    collection, query_ids = _read_queries(queries)
    parts, seconds = [], dict[str, float]()
    with _progress("searching") as advance:
        for begin in range(0, len(collection), _QUERIES_AT_A_TIME):
            some = collection.select(np.arange(begin, min(begin + _QUERIES_AT_A_TIME, len(collection))))
            part = opened.search(
                some, k, num_candidates=num_candidates, filter=filter_, exact=exact, num_threads=threads
            )
            seconds = {stage: seconds.get(stage, 0) + value for stage, value in part.timings.items()}
            parts.append(part)
            advance(len(some) / len(collection))
    found_ids, scores = np.concatenate([p.ids for p in parts]), np.concatenate([p.scores for p in parts])
    if run is not None:
        write_run(run, make_run(query_ids, found_ids, scores))
    if json_:
        nullable = scores.astype(object)
        nullable[np.isinf(scores)] = None  # JSON has no infinity
        columns = zip(query_ids, found_ids.tolist(), nullable.tolist(), strict=True)
        answers = [{"query": query, "ids": ids, "scores": row} for query, ids, row in columns]
        print_json({"answers": answers, "seconds": seconds, "kept": parts[0].kept})
        return
    if run is None:
        rows = [
            (query, str(rank), document, f"{score:.4f}")
            for query, answers in make_run(query_ids, found_ids, scores).items()
            for rank, (document, score) in enumerate(answers.items(), start=1)
        ]
        print_rows(_out, ("query", "rank", "id", "score"), rows)
    stages = ", ".join(f"{stage} {1000 * value:.1f}" for stage, value in seconds.items())
    _err.print(f"{len(collection)} queries, milliseconds in all: {stages}", highlight=False, soft_wrap=True)


@_command
def eval_(
    folder: _Folder,
    queries: _Vectors,
    qrels: Annotated[Path | None, typer.Option(help="Judgements: TREC's four columns, or three of BEIR.")] = None,
    k: _K = 10,
    num_candidates: Annotated[list[int] | None, typer.Option(help="Candidates to rerank; repeat for several.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of one search.")] = 1,
    json_: _Json = False,
) -> None:
    """Compare an index with exact MaxSim, and with judgements: recall, measures and milliseconds, query by query.

    Example: chamfer eval corpus.index queries.npz --qrels qrels.tsv
    """
    from chamfer.evaluation import compare_with_exact, read_qrels

    opened = chamfer.Index.open(folder)
    collection, query_ids = _read_queries(queries)
    with _progress("searching, one query at a time") as advance:
        rows = compare_with_exact(
            opened,
            collection,
            k,
            num_candidates=num_candidates,
            query_ids=query_ids,
            qrels=None if qrels is None else read_qrels(qrels),
            num_threads=threads,
            advance=advance,
        )
    if json_:
        print_json(rows)
        return
    headings = tuple(dict.fromkeys(heading for row in rows for heading in row))
    cells = [tuple(row.get(heading, "") for heading in headings) for row in rows]
    print_rows(_out, headings, [tuple(c if isinstance(c, str) else f"{c:.3f}" for c in row) for row in cells])
    _err.print(f"medians of {len(collection)} queries, one at a time, {threads} thread(s)", highlight=False)


@_command
def info(
    folder: Annotated[Path | None, typer.Argument(help="Folder of an index to describe.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every checksum, which reads all files.")] = False,
    json_: _Json = False,
) -> None:
    """Describe this installation or an index.

    Example: chamfer info corpus.index --verify
    """
    if folder is not None:
        stats = chamfer.Index.open(folder, verify=verify).stats()
        print_facts(_out, stats | {"verified": verify}, json_)
        return
    if verify:
        raise ValueError("--verify: expected the FOLDER of an index with it, got none")
    print_facts(
        _out,
        {
            "chamfer": chamfer.__version__,
            "instruction_sets": list(chamfer.available_isas()),
            "uses": chamfer.best_isa(),
            "cpus": resolve_num_threads(None),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "faiss": next((d.version for d in installed.distributions(name="faiss-cpu")), "unknown"),
        },
        json_,
    )


def _read_queries(path: Path) -> tuple[chamfer.TokenVectors, list[Any]]:
    collection, ids = read_token_vectors(path)
    if len(collection) == 0:
        raise ValueError(f"{path}: expected at least one query, got none")
    if ids is not None and len(ids) != len(collection):
        raise ValueError(f"{path}: expected {len(collection)} ids, one per query, got {len(ids)}")
    return collection, list(range(len(collection))) if ids is None else ids


def _read_metadata(path: Path | None) -> list[Any] | None:
    if path is None:
        return None
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path}: expected one JSON object per line ({error})") from None


def _read_ids(path: Path) -> list[Any]:
    try:
        ids = np.load(path).tolist() if path.suffix == ".npy" else json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected a .json list or an .npy of ids ({error})") from None
    if not isinstance(ids, list):
        raise ValueError(f"{path}: expected a list of ids, got {type(ids).__name__}")
    return ids


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


@contextmanager
def _progress(description: str) -> Iterator[Callable[[float], None]]:
    """Show a bar on standard error while the block runs; yields a function that takes shares of the work done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as progress:
        task = progress.add_task(description, total=1.0)
        yield lambda share: progress.advance(task, share)
