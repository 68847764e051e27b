"""Candidates of an index: which FAISS index "auto" is, how they are trained and filled, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer._progress import progress_bar
from chamfer._sampling import spread
from chamfer.binary_candidates import BinaryCandidates
from chamfer.candidates import Candidates, FaissCandidates, local_dimensions
from chamfer.index.reducing import Reducer
from chamfer.reducers import LearnedReducer
from chamfer.token_vectors import TokenVectors

# "auto": a scan of 8-bit encodings up to this many documents (10 KB each by default), inverted lists beyond. On SciFact
# 8 bits cost no recall (R10@100 0.797 against 0.798 in float32) and a quarter of 288 lists costs 0.01 at a third of the
# time.
_LARGEST_SCAN = 20_000

# Learned encodings: 4 bits a number, 16 levels fitted to each, by FAISS's fast scan. On SciFact that finds what 8 bits
# and float32 find (R10@100 0.933 each) in a seventh of the time. FAISS wants 39 sample encodings per level.
_FEWEST_FOR_FAST_SCAN = 624
_LARGEST_FAST_SCAN = 1_000_000

# Encodings of so many bytes are made and handed to FAISS at a time, and at most so many serve to train it.
_BATCH_BYTES = 64 * 2**20
_TRAINING_BYTES = 2**30

# Encodings that neighbours are looked for in, where documents are ordered by the dimension around them.
_NEIGHBOURHOOD = 16_384

# Documents that are copied at a time to be encoded in another order than theirs.
_ORDERED_BATCH = 2_048

# Of so many documents the encodings are held at once, and not made twice: for training, and to be added.
_FEW = 20_000

_FAISS_FILE, _BINARY_FILE = "candidates.faiss", "candidates.npz"


INSERTION_ORDERS = ("input", "random", "lid_desc", "lid_asc")
"""Orders in which encodings may be added."""


def check_insertion_order(insertion_order: str) -> str:
    """Return the order; ValueError if there is no such."""
    if insertion_order not in INSERTION_ORDERS:
        wanted = ", ".join(map(repr, INSERTION_ORDERS))
        raise ValueError(f"insertion_order: expected one of {wanted}, got {insertion_order!r}")
    return insertion_order


def make_candidates(
    candidates: Any,
    encoder: Reducer,
    documents: TokenVectors,
    num_threads: int,
    progress: bool,
    insertion_order: str = "input",
) -> Candidates:
    """Return the candidates of these documents: made, trained and filled, or filled ones, checked.

    Raises:
        TypeError, ValueError: as `Index.build`.
    """
    found = _resolve_for(candidates, encoder, len(documents))
    if found.num_documents not in (0, len(documents)):
        raise ValueError(
            f"candidates: expected an empty index or one of {len(documents)} encodings, got {found.num_documents}"
        )
    if found.num_documents == 0:
        _fill(found, encoder, documents, num_threads, progress, insertion_order)
        return found
    if insertion_order != "input":
        raise ValueError(
            f"insertion_order: expected 'input', since candidates are filled already, got {insertion_order!r}"
        )
    rows = np.flatnonzero(documents.lengths)
    rows = rows[spread(len(rows), 64)]
    encodings = encoder.encode_documents(documents.select(rows), num_threads=num_threads)
    if not found.holds(encodings, rows):
        raise ValueError(
            "candidates: expected encodings of these documents, in order, in the filled index; "
            "most documents do not find themselves in it"
        )
    return found


def trained_candidates(
    candidates: Any, encoder: Reducer, documents: TokenVectors, num_threads: int, num_documents: int | None = None
) -> Candidates:
    """Return candidates trained on these documents, but empty; of a kind for as many, or for num_documents.

    Raises:
        TypeError, ValueError: as `Index.build`; those given are filled.
    """
    found = _resolve_for(candidates, encoder, num_documents or len(documents))
    if found.num_documents:
        raise ValueError("candidates: expected an empty index where memory_budget is given, got a filled one")
    if not found.is_trained:
        sample = documents.select(spread(len(documents), _sample_size(found, encoder, len(documents))))
        found.train(encoder.encode_documents(sample, num_threads=num_threads), num_threads)
    return found


def _resolve_for(candidates: Any, encoder: Reducer, num_documents: int) -> Candidates:
    if isinstance(candidates, str) and candidates == "auto":
        candidates = auto_candidates(num_documents, encoder)
    return _resolve(candidates, encoder.output_dimension)


def _sample_size(candidates: Candidates, encoder: Reducer, num_documents: int) -> int:
    """Return how many documents candidates are trained on."""
    size = _training_size(num_documents, encoder.output_dimension)
    if candidates.most_training is not None and num_documents > _FEW:
        size = min(size, candidates.most_training)
    return size


def more_candidates(
    template: Candidates, encoder: Reducer, documents: TokenVectors, num_threads: int, progress: bool = False
) -> Candidates:
    """Return candidates of these documents, trained as those of the template are."""
    found = template.empty_copy()
    _fill(found, encoder, documents, num_threads, progress, "input", starts_drift=False)
    return found


def _resolve(candidates: Any, encoding_dimension: int) -> Candidates:
    if not isinstance(candidates, BinaryCandidates):
        return FaissCandidates(candidates, encoding_dimension)
    if candidates.dim != encoding_dimension:
        raise ValueError(
            f"candidates: expected a binarizer of {encoding_dimension} dims (the reducer's), got {candidates.dim}"
        )
    # What is still empty will be filled: another, so that the caller's can serve again.
    is_empty = candidates.num_documents == 0
    return BinaryCandidates(candidates.binarizer, candidates.kind) if is_empty else candidates


def candidates_file(candidates: Candidates) -> str:
    """Return the name of the file that candidates are saved in; it tells `load_candidates` what they are."""
    return _BINARY_FILE if isinstance(candidates, BinaryCandidates) else _FAISS_FILE


def load_candidates(folder: Path, dim: int, description: str) -> Candidates:
    """Read the candidates of a saved index, whose encodings have so many dims.

    Raises:
        CorruptIndexError: the file is damaged or does not fit.
        ValueError: a newer chamfer wrote it.
    """
    if (folder / _BINARY_FILE).exists():
        return BinaryCandidates.load(folder / _BINARY_FILE, dim, description)
    return FaissCandidates.load(folder / _FAISS_FILE, dim, description)


def auto_candidates(num_documents: int, encoder: Reducer) -> str:
    """Return the factory string that "auto" stands for."""
    encoding_dimension = encoder.output_dimension
    codes, largest_scan = "SQ8", _LARGEST_SCAN
    if isinstance(encoder, LearnedReducer) and num_documents >= _FEWEST_FOR_FAST_SCAN:
        codes, largest_scan = f"PQ{encoding_dimension}x4fs", _LARGEST_FAST_SCAN
    if num_documents <= largest_scan:
        return codes
    # FAISS wants 39 sample encodings per list.
    num_lists = min(int(4 * num_documents**0.5), max(1, _training_size(num_documents, encoding_dimension) // 39))
    return f"IVF{num_lists},{codes}"


def _training_size(num_documents: int, encoding_dimension: int) -> int:
    return min(num_documents, max(1, _TRAINING_BYTES // (4 * encoding_dimension)))


def _fill(
    candidates: Candidates,
    encoder: Reducer,
    documents: TokenVectors,
    num_threads: int,
    progress: bool,
    insertion_order: str,
    *,
    starts_drift: bool = True,
) -> None:
    """Encode the documents in batches and add them, after training on documents spread over the collection."""
    order = _insertion_rows(insertion_order, encoder, documents, num_threads, progress)
    with progress_bar(len(documents), "encode documents", progress) as advance:
        if not candidates.is_trained:
            size = _sample_size(candidates, encoder, len(documents))
            is_all = size == len(documents) and order is None
            sample = documents if is_all else documents.select(spread(len(documents), size))
            encodings = encoder.encode_documents(sample, num_threads=num_threads)
            candidates.train(encodings, num_threads)
            if is_all:
                candidates.add(encodings, num_threads)
                advance(size)
                documents = documents._run(0, 0)
        batch = _batch_size(encoder) if order is None else min(_batch_size(encoder), _ORDERED_BATCH)
        for begin in range(0, len(documents), batch):
            end = min(begin + batch, len(documents))
            rows = None if order is None else order[begin:end]
            part = documents._run(begin, end) if rows is None else documents.select(rows)
            candidates.add(encoder.encode_documents(part, num_threads=num_threads), num_threads, rows)
            advance(end - begin)
    if starts_drift and isinstance(encoder, LearnedReducer):
        encoder.forget_drift()  # what comes now is compared with these documents


def _batch_size(encoder: Reducer) -> int:
    return max(1, _BATCH_BYTES // (4 * encoder.output_dimension))


def _insertion_rows(
    insertion_order: str, encoder: Reducer, documents: TokenVectors, num_threads: int, progress: bool
) -> NDArray[np.int64] | None:
    """Return rows in the order they are to be added in, None if that is theirs.

    An order by local intrinsic dimension encodes every document once more: encodings are never all held.
    """
    if insertion_order == "input":
        return None
    if insertion_order == "random":
        return np.random.default_rng(0).permutation(len(documents))
    rows = spread(len(documents), min(_NEIGHBOURHOOD, _training_size(len(documents), encoder.output_dimension)))
    sample = encoder.encode_documents(documents.select(rows), num_threads=num_threads)
    dimensions = np.empty(len(documents))
    with progress_bar(len(documents), "order documents", progress) as advance:
        for begin in range(0, len(documents), _batch_size(encoder)):
            end = min(begin + _batch_size(encoder), len(documents))
            encodings = encoder.encode_documents(documents._run(begin, end), num_threads=num_threads)
            dimensions[begin:end] = local_dimensions(encodings, sample, num_threads)
            advance(end - begin)
    return np.argsort(dimensions if insertion_order == "lid_asc" else -dimensions, kind="stable")
