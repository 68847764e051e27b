"""Which reducers an index may have. A further one is its import and its line in _REDUCERS; "auto" is chosen here."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from chamfer.errors import CorruptIndexError
from chamfer.reducers import FixedDimensionalEncoder, LearnedReducer
from chamfer.token_vectors import TokenVectors, TokenVectorsLike


class Reducer(Protocol):
    """What an index asks of a reducer."""

    dim: int

    @property
    def output_dimension(self) -> int:
        """Numbers of an encoding."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""

    @property
    def is_fitted(self) -> bool:
        """Whether it can encode."""

    def fit(self, documents: TokenVectorsLike, queries: TokenVectorsLike | None = None) -> Any:
        """Learn from a collection, and return the reducer itself."""

    def encode_documents(self, documents: TokenVectorsLike, *, num_threads: int | None = None) -> NDArray[np.float32]:
        """Return an encoding per document, shape (num_documents, output_dimension)."""

    def encode_queries(self, queries: TokenVectorsLike, *, num_threads: int | None = None) -> NDArray[np.float32]:
        """Return an encoding per query, shape (num_queries, output_dimension)."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the reducer to one file."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Any:
        """Read what `save` wrote."""


_REDUCERS: dict[str, type[Reducer]] = {
    "FixedDimensionalEncoder": FixedDimensionalEncoder,
    "LearnedReducer": LearnedReducer,
}

REDUCER_NAMES = ("auto", "fde", "learned")
"""What `Index.build(reducer=)` takes in place of a reducer."""

# "auto" learns from this many documents on. Below, the default search reranks all of them, and an FDE takes no time to
# fit. Above, learned encodings of 256 bytes find in 100 candidates what FDEs of 10 KB find in 500 (SciFact: R10@100
# 0.933 against 0.792); of 1,000 of its documents the default search finds 0.993 to 0.998 so, with FDEs 0.951 to 0.983.
_FEWEST_TO_LEARN = 500

# A collection of few documents does with half of the features and samples, for a fifth of the time.
_FEWEST_FOR_MANY_FEATURES = 4_000


def resolve_reducer(
    reducer: Reducer | Literal["auto", "fde", "learned"],
    documents: TokenVectors,
    queries: TokenVectorsLike | None,
    num_threads: int,
    progress: bool,
) -> Reducer:
    """Return the reducer of an index of these documents: a copy of the caller's, fitted if it was not.

    Raises:
        TypeError, ValueError: as `Index.build`.
    """
    wanted = f"{', '.join(map(repr, REDUCER_NAMES))}, or a {' or '.join(_REDUCERS)}"
    if isinstance(reducer, str):
        if reducer not in REDUCER_NAMES:
            raise ValueError(f"reducer: expected {wanted}, got {reducer!r}")
        reducer = _named_reducer(reducer, documents)
    if not isinstance(reducer, tuple(_REDUCERS.values())):
        raise TypeError(f"reducer: expected {wanted}, got {type(reducer).__name__}")
    if reducer.dim != documents.dim:
        raise ValueError(f"reducer: expected dim {documents.dim} (the documents'), got {reducer.dim}")
    own = copy.copy(reducer)  # a later fit of the caller's must not change what this index encodes queries with
    if isinstance(own, LearnedReducer) and not own.is_fitted:
        own.fit(documents, queries, num_threads=num_threads, progress=progress)
    elif not own.is_fitted:
        own.fit(documents, queries)
    return own


def _named_reducer(name: str, documents: TokenVectors) -> Reducer:
    if name == "fde" or (name == "auto" and len(documents) < _FEWEST_TO_LEARN):
        return FixedDimensionalEncoder(documents.dim)
    if len(documents) < _FEWEST_FOR_MANY_FEATURES:
        return LearnedReducer(documents.dim, num_features=2048, num_samples=16_384)
    return LearnedReducer(documents.dim)


def reducer_name(reducer: Reducer) -> str:
    """Return the name that `load_reducer` reads a saved reducer by."""
    return next(name for name, kind in _REDUCERS.items() if isinstance(reducer, kind))


def load_reducer(path: Path, name: str) -> Reducer:
    """Read the reducer of a saved index.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptIndexError: the file is damaged, or the name is of no reducer.
        ValueError: a newer chamfer wrote it.
    """
    if name not in _REDUCERS:
        raise CorruptIndexError(f"{path}: expected a reducer out of {', '.join(_REDUCERS)}, got {name!r}")
    if name == "LearnedReducer":
        return LearnedReducer._load(path, mapped=True)
    loaded: Reducer = _REDUCERS[name].load(path)
    return loaded
