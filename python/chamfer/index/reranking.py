"""The cascade of an index: which stages "auto" stands for, and how their codes are saved and opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chamfer.cascade import EXACT, Cascade, CascadeStage, check_stage_names
from chamfer.codecs import load_codes
from chamfer.errors import CorruptIndexError
from chamfer.token_vectors import TokenVectors, TokenVectorsLike, as_token_vectors

# "auto" scores a smaller collection exactly: there is little to save, and a search of it may have all documents as
# candidates, which then is the exact answer.
_SMALLEST_CODED = 1_000

# "auto": reranking 300 candidates of SciFact takes 3.2 ms exactly, 1.1 by int8 first, 1.5 by scalar:4 and 1.7 by
# scalar:2, for 96, 52 and 28 bytes a token at 96 dims; binary takes 2.3, since far more documents have to follow. So
# the fastest, int8, where its codes are small; and where memory counts the smallest.
_FAST = ("int8", EXACT)
_SMALL = ("scalar:2", EXACT)
_MOST_FAST_BYTES = 32 * 10**6


def resolve_stages(rerank: str | Sequence[str] | None, documents: TokenVectors) -> tuple[str, ...] | None:
    """Return the names of the stages that `rerank` asks for, None for none.

    Raises:
        TypeError, ValueError: it is no name, list of names or None, or an order that no cascade has.
    """
    if rerank is None:
        return None
    if isinstance(rerank, str) and rerank == "auto":
        if len(documents) < _SMALLEST_CODED:
            return (EXACT,)
        return _FAST if documents.num_tokens * documents.dim <= _MOST_FAST_BYTES else _SMALL
    return check_stage_names(rerank, "rerank")


def make_cascade(
    names: tuple[str, ...] | None,
    documents: TokenVectors,
    queries: TokenVectorsLike | None,
    num_threads: int,
    *,
    is_auto: bool,
) -> Cascade | None:
    """Return the cascade of these stages; of "auto", exact alone where no code can hold the documents."""
    if names is None:
        return None
    queries = None if queries is None else as_token_vectors(queries, "queries")
    if queries is not None and queries.dim != documents.dim:
        raise ValueError(f"queries: expected dim {documents.dim} (the documents'), got {queries.dim}")
    try:
        return Cascade.build(documents, names, queries, num_threads=num_threads)
    except ValueError:  # all else is checked: numbers of very different magnitude, or too many dims
        if not is_auto:
            raise
        return Cascade([CascadeStage(EXACT, documents)])


def stage_settings(cascade: Cascade | None) -> list[dict[str, Any]] | None:
    """Return the stages as JSON holds them; their codes go into files."""
    if cascade is None:
        return None
    return [{"name": stage.name, "error": stage.error} for stage in cascade.stages]


def code_writers(cascade: Cascade | None) -> dict[str, Callable[[Path], None]]:
    """Return, by name of the file, what writes the codes of each coded stage."""
    stages = () if cascade is None else cascade.stages
    return {_file_name(stage.name): _writer(stage) for stage in stages if stage.codec is not None}


def open_cascade(settings: Mapping[str, Any], generation: Path, documents: TokenVectors) -> Cascade | None:
    """Return the cascade that `stage_settings`, now settings["rerank"], and `code_writers` saved.

    Raises:
        FileNotFoundError: a file is missing.
        CorruptIndexError: a file is damaged, or of other documents.
        ValueError: a newer chamfer wrote the codes.
    """
    try:
        stored = settings["rerank"]
        if stored is None:
            return None
        names = check_stage_names([stage["name"] for stage in stored], "rerank")
        errors = [float(stage["error"]) for stage in stored]
        if not all(0 <= number < np.inf for number in errors):
            raise ValueError(f"errors of its stages {errors}")
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptIndexError(f"{generation}: its stages do not fit together ({error})") from None
    stages = []
    for name, score_error in zip(names, errors, strict=True):
        if name == EXACT:
            stages.append(CascadeStage(name, documents))
            continue
        path = generation / _file_name(name)
        made, codes = load_codes(path)
        if made.name != name or codes.dim != documents.dim or not np.array_equal(codes.offsets, documents.offsets):
            raise CorruptIndexError(f"{path}: expected codes {name!r} of {documents!r}, got {made!r} and {codes!r}")
        stages.append(CascadeStage(name, codes, made, score_error))
    return Cascade(stages)


def _file_name(name: str) -> str:
    return f"codes-{name.replace(':', '-')}.npz"  # no system forbids that


def _writer(stage: CascadeStage) -> Callable[[Path], None]:
    assert stage.codec is not None
    made = stage.codec
    return lambda path: made.save(path, stage.documents)
