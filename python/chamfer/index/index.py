"""Index: build, search, save and open a collection."""

from __future__ import annotations

import copy
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chamfer._runtime import check_positive_int, resolve_num_threads
from chamfer.candidates import FaissCandidates
from chamfer.errors import CorruptIndexError
from chamfer.index import storage
from chamfer.reducers import FixedDimensionalEncoder, ball_carving
from chamfer.scoring import maxsim_topk
from chamfer.token_vectors import FloatArray, TokenVectors, TokenVectorsLike, as_token_vectors

# Documents that a search scores exactly when num_candidates is None, or ten per result if that is more. On SciFact 500
# of 5,183 candidates hold 0.95 of the exact top 10.
_DEFAULT_NUM_CANDIDATES = 500
_DEFAULT_CANDIDATES_PER_RESULT = 10

# "auto": a scan of 8-bit encodings up to this many documents (10 KB each by default), inverted lists beyond. On SciFact
# 8 bits cost no recall (R10@100 0.797 against 0.798 in float32) and a quarter of 288 lists costs 0.01 at a third of the
# time.
_LARGEST_SCAN = 20_000

# Encodings of so many bytes are made and handed to FAISS at a time, and at most so many serve to train it.
_BATCH_BYTES = 64 * 2**20
_TRAINING_BYTES = 2**30

_MAPPED = frozenset({"vectors.npy"})


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and what each stage took.

    Attributes:
        ids: shape (num_queries, k), best first: int64, -1 where fewer than k were found; or, if ids are strings, an
            object array of str, None where fewer were found. An inverted index may find fewer documents than there are.
        scores: float32, shape (num_queries, k): MaxSim, or the encodings' inner product if the index does not rerank;
            -inf where there are fewer.
        timings: seconds for the whole batch by stage ("encode", "candidates", "carve" if asked for, "rerank"; or
            "exact"), and "total".
        kept: documents that each stage handed on, by stage, for the query with the most.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]
    timings: dict[str, float] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)


class Index:
    """A searchable collection of token vectors; make one with `build` or `open`.

    A search encodes the query to one vector, takes the documents with the nearest encodings as candidates, and scores
    those by exact MaxSim. Searches may run in many threads at once.
    """

    def __init__(
        self,
        documents: TokenVectors,
        ids: list[int] | list[str],
        reducer: FixedDimensionalEncoder,
        candidates: FaissCandidates,
        rerank: Literal["exact"] | None,
        path: Path | None = None,
    ) -> None:
        self._documents = documents
        self._ids = ids
        self._reducer = reducer
        self._candidates = candidates
        self._rerank = rerank
        self._path = path
        self._num_empty = int((documents.lengths == 0).sum())
        self._ids_by_row: NDArray[Any] = np.empty(len(ids), object if ids and isinstance(ids[0], str) else np.int64)
        self._ids_by_row[:] = ids
        self._row_of: dict[int | str, int] | None = None

    # ── build, save, open ─────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def build(
        cls,
        documents: TokenVectorsLike,
        ids: Sequence[int] | Sequence[str] | NDArray[Any] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        reducer: FixedDimensionalEncoder | Literal["auto"] = "auto",
        candidates: Any = "auto",
        rerank: Literal["auto", "exact"] | None = "auto",
        queries: TokenVectorsLike | None = None,
        num_threads: int | None = None,
        progress: bool = False,
    ) -> Index:
        """Make an index of a collection.

        Args:
            documents: a collection of documents, float32 or float16; kept in that precision, not copied.
            ids: one per document, all different: integers from 0 or strings. None means the rows, 0 to n - 1.
            path: folder to save the index in, see `save`.
            reducer: makes one vector of a document; the index keeps a copy, fitted to documents and queries if
                the reducer needs `fit` and has not had it. "auto" is FixedDimensionalEncoder(dim).
            candidates: a FAISS factory string, or a FAISS index of metric inner product, empty or filled in order.
                "auto" scans 8-bit encodings ("SQ8") up to 20,000 documents and uses inverted lists of them beyond.
            rerank: "auto" or "exact" scores candidates by exact MaxSim at the stored precision; None returns them as
                the encodings rank them.
            queries: sample queries, to fit the reducer; without them recall is lower (see FixedDimensionalEncoder.fit).
                Not to be given with a reducer that is fitted or needs no fit.
            num_threads: threads to use; None means the CPUs of this process.
            progress: show progress bars (needs tqdm: pip install "chamfer[cli]").

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: no vector at all, ids that repeat or do not fit, an encoder of another dim, or a FAISS index
                that does not fit the encoder.
            OSError: as `save`.
        """
        if path is not None:
            storage.refuse_foreign(Path(path))  # now rather than when all the work is done
        collection = as_token_vectors(documents, "documents")
        if collection.num_tokens == 0:
            raise ValueError("documents: expected at least one document with a vector, got none")
        checked_ids = _check_ids(ids, len(collection))
        encoder = _resolve_reducer(reducer, collection, queries)
        if rerank not in ("auto", "exact", None):
            raise ValueError(f"rerank: expected 'auto', 'exact' or None, got {rerank!r}")
        threads = resolve_num_threads(num_threads)
        if isinstance(candidates, str) and candidates == "auto":
            candidates = _auto_candidates(len(collection), encoder.output_dimension)
        found = FaissCandidates(candidates, encoder.output_dimension)
        if found.num_documents not in (0, len(collection)):
            raise ValueError(
                f"candidates: expected an empty FAISS index or one of {len(collection)} encodings, "
                f"got {found.num_documents}"
            )
        if found.num_documents == 0:
            _fill_candidates(found, encoder, collection, threads, progress)
        else:
            rows = np.flatnonzero(collection.lengths)
            rows = rows[_spread(len(rows), min(len(rows), 64))]
            encodings = encoder.encode_documents(collection.select(rows), num_threads=threads)
            if not found.holds(encodings, rows):
                raise ValueError(
                    "candidates: expected encodings of these documents, in order, in the filled FAISS index; "
                    "most documents do not find themselves in it"
                )
        index = cls(collection, checked_ids, encoder, found, "exact" if rerank else None)
        if path is not None:
            index.save(path)
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a folder, replacing an index there in one step; readers of the old one keep it.

        Args:
            path: a folder: new, empty, or holding an index.

        Raises:
            FileExistsError: the folder holds something else.
            LockedIndexError: another save to this folder is under way.
            OSError: the disk is full or not writable; an index that was there is still there.
        """
        folder = Path(path)
        storage.write(
            folder,
            {"rerank": self._rerank, "candidates": self._candidates.description},
            {
                "vectors.npy": lambda file: np.save(file, self._documents.vectors, allow_pickle=False),
                "offsets.npy": lambda file: np.save(file, self._documents.offsets, allow_pickle=False),
                "ids.json": lambda file: _write_json(file, self._ids),
                "reducer.npz": self._reducer.save,
                "candidates.faiss": self._candidates.save,
            },
        )
        self._path = folder

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: Literal["r"] = "r", *, verify: bool = False) -> Index:
        """Open a saved index; token vectors stay on disk and are memory-mapped.

        Nobody may change or truncate the files while the index is open: `save` replaces them, it never does.

        Args:
            path: the folder given to `save`.
            mode: "r", read; saved indexes cannot be changed yet.
            verify: check the memory-mapped vectors' checksum too, which reads them all. Other files are always checked.

        Raises:
            FileNotFoundError: there is no index at this path.
            CorruptIndexError: a file is missing, cut short or changed.
            ValueError: a newer chamfer wrote it, or another mode.
        """
        if mode != "r":
            raise ValueError(f"mode: expected 'r' (indexes cannot be changed in place yet), got {mode!r}")
        folder = Path(path)

        def load(settings: dict[str, Any], generation: Path) -> Index:
            reducer = FixedDimensionalEncoder.load(generation / "reducer.npz")
            try:
                vectors = np.load(generation / "vectors.npy", mmap_mode="r", allow_pickle=False)
                offsets = np.load(generation / "offsets.npy", allow_pickle=False)
                ids = json.loads((generation / "ids.json").read_bytes())
                name = settings["candidates"]
                candidates = FaissCandidates.load(generation / "candidates.faiss", reducer.output_dimension, name)
                if vectors.ndim != 2 or vectors.shape[1] != reducer.dim or int(offsets[-1]) != len(vectors):
                    raise ValueError(f"vectors {vectors.shape}, offsets to {offsets[-1]}, reducer of dim {reducer.dim}")
                if not len(offsets) - 1 == len(ids) == candidates.num_documents:
                    raise ValueError(
                        f"{len(offsets) - 1} documents, {len(ids)} ids, {candidates.num_documents} encodings"
                    )
                documents = TokenVectors._trusted(vectors.view(np.ndarray), offsets)
                return cls(documents, _check_ids(ids, len(ids)), reducer, candidates, settings["rerank"], folder)
            except CorruptIndexError:
                raise
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise CorruptIndexError(f"{generation}: its files do not fit together ({error})") from None

        return storage.read(folder, load, verify=verify, mapped=_MAPPED)

    # ── search ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def search(
        self,
        queries: TokenVectorsLike,
        k: int = 10,
        *,
        num_candidates: int | None = None,
        exact: bool = False,
        carving_threshold: float | None = None,
        num_threads: int | None = None,
    ) -> SearchResult:
        """Find the k best documents of each query.

        Args:
            queries: a collection of queries of the index's dim; one 2-D array is one query.
            k: documents to return per query, at least 1.
            num_candidates: documents to rerank per query, at least k; more: better recall, slower. None means 500, or
                10 k if that is more.
            exact: score every document by MaxSim and skip the candidates: the answer that the others approximate.
            carving_threshold: rerank with queries shortened by `ball_carving` at this threshold; faster, scores
                approximate. None reranks with all query tokens.
            num_threads: threads to use; None means the CPUs of this process. The result does not depend on it. The
                candidates of up to 32 queries are found on one thread.

        Returns:
            A SearchResult.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: another dim than the index's, vectors that are not finite, k below 1, num_candidates below k, or
                a carving_threshold where nothing is reranked.
        """
        query_vectors = as_token_vectors(queries, "queries")
        if query_vectors.dim != self._documents.dim:
            raise ValueError(f"queries: expected dim {self._documents.dim} (the index's), got {query_vectors.dim}")
        k = check_positive_int(k, "k")
        if num_candidates is None:
            num_candidates = max(_DEFAULT_NUM_CANDIDATES, _DEFAULT_CANDIDATES_PER_RESULT * k)
        elif check_positive_int(num_candidates, "num_candidates") < k:
            raise ValueError(f"num_candidates: expected at least k = {k}, got {num_candidates}")
        threads = resolve_num_threads(num_threads)
        timings: dict[str, float] = {}
        kept: dict[str, int] = {}
        if carving_threshold is not None and (exact or not self._rerank):
            raise ValueError("carving_threshold: expected None, since this search does not rerank")
        begin = time.perf_counter()
        if exact:
            with _timed(timings, "exact"):
                scores, rows = maxsim_topk(query_vectors, self._documents, k, num_threads=threads)
            kept["exact"] = _most_found(rows)
        else:
            with _timed(timings, "encode"):
                encodings = self._reducer.encode_queries(query_vectors, num_threads=threads)
            with _timed(timings, "candidates"):
                width = min(num_candidates if self._rerank else k, len(self))
                scores, rows = self._find_candidates(encodings, width, threads)
            kept["candidates"] = _most_found(rows)
            if self._rerank:
                if carving_threshold is not None:
                    with _timed(timings, "carve"):
                        query_vectors = ball_carving(query_vectors, carving_threshold)
                with _timed(timings, "rerank"):
                    scores, rows = maxsim_topk(query_vectors, self._documents, k, candidates=rows, num_threads=threads)
                kept["rerank"] = _most_found(rows)
            elif width < k:
                missing = ((0, 0), (0, k - width))
                scores = np.pad(scores, missing, constant_values=-np.inf)
                rows = np.pad(rows, missing, constant_values=-1)
        ids = self._ids_by_row[rows]
        ids[rows < 0] = None if ids.dtype == object else -1
        timings["total"] = time.perf_counter() - begin
        return SearchResult(ids, scores, timings, kept)

    def _find_candidates(
        self, encodings: NDArray[np.float32], width: int, num_threads: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        # Encodings of empty documents are zero, which beats negative scores: as many more are fetched, then dropped.
        num_fetched = min(width + self._num_empty, len(self))
        scores, rows = self._candidates.search(encodings, num_fetched, num_threads)
        if self._num_empty:
            offsets = self._documents.offsets
            lost = (rows >= 0) & (offsets[rows] == offsets[rows + 1])
            scores[lost], rows[lost] = -np.inf, -1
            order = np.argsort(rows < 0, axis=1, kind="stable")[:, :width]
            scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        return scores, rows

    # ── inspect ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def __len__(self) -> int:
        return len(self._documents)

    def get(self, id: int | str) -> FloatArray:  # noqa: A002  # the word of the interface
        """Return the token vectors of a document, shape (num_tokens, dim), in the stored precision.

        Args:
            id: as given to `build`.

        Raises:
            KeyError: no document has this id.
            TypeError: neither an int nor a str.
        """
        if isinstance(id, bool) or not isinstance(id, (int, str, np.integer)):
            raise TypeError(f"id: expected an int or str as given to build, got {type(id).__name__}")
        if self._row_of is None:
            self._row_of = dict(zip(self._ids, range(len(self)), strict=True))
        try:
            return self._documents[self._row_of[id]]
        except KeyError:
            raise KeyError(f"id: no document {id!r} in this index of {len(self)}") from None

    def stats(self) -> dict[str, Any]:
        """Return documents, vectors, dtype, reducer, candidates and path, and the bytes per token of each stage."""
        tokens = self._documents.num_tokens
        return {
            "num_documents": len(self),
            "num_tokens": tokens,
            "dim": self._documents.dim,
            "dtype": str(self._documents.dtype),
            "reducer": repr(self._reducer),
            "candidates": self._candidates.description,
            "rerank": self._rerank,
            "path": None if self._path is None else str(self._path),
            "bytes_per_token": {
                "token_vectors": self._documents.nbytes / tokens,
                "candidates": self._candidates.nbytes / tokens,
            },
        }

    def __repr__(self) -> str:
        return (
            f"Index({len(self)} documents, {self._documents.num_tokens} vectors of {self._documents.dim} dims, "
            f"{self._documents.dtype}, candidates {self._candidates.description!r})"
        )


def _most_found(rows: NDArray[np.int64]) -> int:
    return int((rows >= 0).sum(axis=1).max(initial=0))


def _check_ids(ids: Sequence[int] | Sequence[str] | NDArray[Any] | None, num_documents: int) -> list[int] | list[str]:
    if ids is None:
        return list(range(num_documents))
    if isinstance(ids, (str, bytes)) or not isinstance(ids, (Sequence, np.ndarray)):
        raise TypeError(f"ids: expected a list of int or str, got {type(ids).__name__}")
    values: list[Any] = list(ids.tolist() if isinstance(ids, np.ndarray) else ids)
    if len(values) != num_documents:
        raise ValueError(f"ids: expected {num_documents}, one per document, got {len(values)}")
    strings = bool(values) and isinstance(values[0], str)
    for row, value in enumerate(values):
        fits = (
            isinstance(value, str) if strings else isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        )
        if not fits:
            raise TypeError(f"ids[{row}]: expected all int or all str, got {type(value).__name__}")
        if not strings and not 0 <= value < 2**63:
            raise ValueError(f"ids[{row}]: expected 0 to 2^63 - 1, got {value}")
    # str.__str__: a subclass, such as an enum's member, may call itself something else
    checked: list[Any] = [str.__str__(value) if strings else int(value) for value in values]
    if len(set(checked)) < len(checked):
        repeated, _ = Counter(checked).most_common(1)[0]
        raise ValueError(f"ids: expected all different, got {repeated!r} twice")
    return checked


def _resolve_reducer(
    reducer: FixedDimensionalEncoder | Literal["auto"], documents: TokenVectors, queries: TokenVectorsLike | None
) -> FixedDimensionalEncoder:
    if isinstance(reducer, str):
        if reducer != "auto":
            raise ValueError(f"reducer: expected 'auto' or a FixedDimensionalEncoder, got {reducer!r}")
        return FixedDimensionalEncoder(documents.dim).fit(documents, queries)
    if not isinstance(reducer, FixedDimensionalEncoder):
        raise TypeError(f"reducer: expected 'auto' or a FixedDimensionalEncoder, got {type(reducer).__name__}")
    if reducer.dim != documents.dim:
        raise ValueError(f"reducer: expected dim {documents.dim} (the documents'), got {reducer.dim}")
    own = copy.copy(reducer)  # a later fit of the caller's must not change what this index encodes queries with
    if not own.is_fitted:
        return own.fit(documents, queries)
    if queries is not None:
        raise ValueError("queries: expected None, since this reducer is fitted already or needs no fit")
    return own


def _auto_candidates(num_documents: int, encoding_dimension: int) -> str:
    if num_documents <= _LARGEST_SCAN:
        return "SQ8"
    # FAISS wants 39 sample encodings per list.
    num_lists = min(int(4 * num_documents**0.5), max(1, _training_size(num_documents, encoding_dimension) // 39))
    return f"IVF{num_lists},SQ8"


def _training_size(num_documents: int, encoding_dimension: int) -> int:
    return min(num_documents, max(1, _TRAINING_BYTES // (4 * encoding_dimension)))


def _spread(n: int, size: int) -> NDArray[np.int64]:
    """Return `size` of the rows 0 to n - 1, spread evenly."""
    return np.linspace(0, n - 1, size).astype(np.int64)


def _fill_candidates(
    candidates: FaissCandidates,
    encoder: FixedDimensionalEncoder,
    documents: TokenVectors,
    num_threads: int,
    progress: bool,
) -> None:
    """Encode the documents in batches and add them; FAISS trains first, on documents spread over the collection."""
    with _progress_bar(len(documents), "encode documents", progress) as advance:
        if not candidates.is_trained:
            size = _training_size(len(documents), encoder.output_dimension)
            is_all = size == len(documents)
            sample = documents if is_all else documents.select(_spread(len(documents), size))
            encodings = encoder.encode_documents(sample, num_threads=num_threads)
            candidates.train(encodings, num_threads)
            if is_all:
                candidates.add(encodings, num_threads)
                advance(size)
                return
        batch = max(1, _BATCH_BYTES // (4 * encoder.output_dimension))
        for begin in range(0, len(documents), batch):
            end = min(begin + batch, len(documents))
            encodings = encoder.encode_documents(documents._run(begin, end), num_threads=num_threads)
            candidates.add(encodings, num_threads)
            advance(end - begin)


@contextmanager
def _progress_bar(total: int, description: str, shown: bool) -> Iterator[Any]:
    if not shown:
        yield lambda _: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ModuleNotFoundError('progress=True needs tqdm: pip install "chamfer[cli]"') from None
    with tqdm(total=total, desc=description, unit="doc") as bar:
        yield bar.update


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - begin


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))
