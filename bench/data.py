"""Collections of real token vectors, laid out as bench/__init__.py says, and the one that chamfer brings."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chamfer as ch

DEMO = "demo"
"""Stands for the packaged collection where a folder is asked for."""

_SET_ASIDE = 3  # every third query, where there are no others to learn from


@dataclass(frozen=True)
class Data:
    """A collection with its queries and judgements.

    Attributes:
        sample_queries: queries to learn from, none of them in `queries`; None if there are too few.
        sample_from: what they are: "queries.train", or "every third query".
        token_ids: the documents' vocabulary ids, one a token, if they are known.
    """

    documents: ch.TokenVectors
    document_ids: list[str]
    queries: ch.TokenVectors
    query_ids: list[str]
    sample_queries: ch.TokenVectors | None
    sample_from: str
    qrels: dict[str, dict[str, int]]
    token_ids: NDArray[np.uint32] | None = None


def load(folder: Path, num_queries: int | None = None) -> Data:
    """Read a collection laid out as bench/__init__.py says, or the packaged one; at most so many test queries.

    Without queries.train every third query is set aside to learn from, and is no test query.
    """
    data = _load_demo() if str(folder) == DEMO and not folder.exists() else _load_folder(folder)
    if data.sample_queries is None and len(data.queries) >= _SET_ASIDE:
        rows = np.arange(len(data.queries))
        data = replace(_of_queries(data, rows % _SET_ASIDE != _SET_ASIDE - 1), sample_from="every third query")
    return _of_queries(data, np.arange(len(data.queries)) < (num_queries or len(data.queries)))


def _of_queries(data: Data, kept: NDArray[np.bool_]) -> Data:
    """Return the collection with some of its queries; the others are to learn from, unless there are such already."""
    ids = [name for name, is_kept in zip(data.query_ids, kept, strict=True) if is_kept]
    return replace(
        data,
        queries=data.queries.select(np.flatnonzero(kept)),
        query_ids=ids,
        sample_queries=data.sample_queries or (None if kept.all() else data.queries.select(np.flatnonzero(~kept))),
        qrels={name: judged for name, judged in data.qrels.items() if name in set(ids)},
    )


def _load_demo() -> Data:
    from chamfer.data import load_stdlib

    demo = load_stdlib()
    return Data(demo.documents, demo.ids, demo.queries, demo.query_ids, None, "", demo.qrels)


def _load_folder(folder: Path) -> Data:
    documents, document_ids = _load_side(folder / "docs")
    queries, query_ids = _load_side(folder / "queries")
    train, vocabulary = folder / "queries.train", folder / "docs" / "token_ids.npy"
    sample = _load_side(train)[0] if train.is_dir() else None
    qrels: dict[str, dict[str, int]] = {}
    if (folder / "qrels.tsv").is_file():
        for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines():
            query, document, grade = line.split("\t")[:3]
            if query in set(query_ids) and grade.isdecimal():
                qrels.setdefault(query, {})[document] = int(grade)
    token_ids = np.load(vocabulary).astype(np.uint32) if vocabulary.exists() else None
    return Data(documents, document_ids, queries, query_ids, sample, "queries.train", qrels, token_ids)


def _load_side(folder: Path) -> tuple[ch.TokenVectors, list[str]]:
    codes = folder / "tokens.i8.npy"
    vectors = np.load(codes if codes.exists() else folder / "tokens.npy").astype(np.float32)
    if codes.exists():
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    return ch.TokenVectors(vectors, np.load(folder / "offsets.npy")), ids


def write_files(data: Data, folder: Path) -> None:
    """Write what bench/systems.py reads in any environment: .npy of float32 vectors, int64 offsets, uint32 ids."""
    folder.mkdir(parents=True)
    sides = {"documents": ("documents", "offsets"), "queries": ("queries", "query_offsets")}
    arrays: dict[str, NDArray[Any]] = {}
    for side, (vectors, offsets) in sides.items():
        arrays |= {vectors: getattr(data, side).vectors, offsets: getattr(data, side).offsets}
    if data.sample_queries is not None:
        arrays |= {"sample": data.sample_queries.vectors, "sample_offsets": data.sample_queries.offsets}
    if data.token_ids is not None:
        arrays["token_ids"] = data.token_ids
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
