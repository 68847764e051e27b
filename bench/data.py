"""Collections of real token vectors, laid out as bench/__init__.py says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import chamfer as ch


@dataclass(frozen=True)
class Data:
    """A collection with its queries and judgements."""

    documents: ch.TokenVectors
    document_ids: list[str]
    queries: ch.TokenVectors
    query_ids: list[str]
    sample_queries: ch.TokenVectors
    qrels: dict[str, dict[str, int]]


def load(folder: Path, dtype: str, num_queries: int | None) -> Data:
    """Read a collection laid out as bench/__init__.py says."""
    documents, document_ids = _load_side(folder / "docs", dtype)
    queries, query_ids = _load_side(folder / "queries", "float32")
    if num_queries is not None:
        queries, query_ids = queries.select(np.arange(min(num_queries, len(queries)))), query_ids[:num_queries]
    train = folder / "queries.train"
    sample = _load_side(train, "float32")[0] if train.is_dir() else queries
    qrels: dict[str, dict[str, int]] = {}
    if (folder / "qrels.tsv").is_file():
        for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines():
            query, document, grade = line.split("\t")[:3]
            if query in set(query_ids) and grade.isdecimal():
                qrels.setdefault(query, {})[document] = int(grade)
    return Data(documents, document_ids, queries, query_ids, sample, qrels)


def _load_side(folder: Path, dtype: str) -> tuple[ch.TokenVectors, list[str]]:
    codes = folder / "tokens.i8.npy"
    vectors = np.load(codes if codes.exists() else folder / "tokens.npy").astype(np.float32)
    if codes.exists():
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    return ch.TokenVectors(vectors.astype(dtype, copy=False), np.load(folder / "offsets.npy")), ids
