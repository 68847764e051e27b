"""Index: build, search, save and open a collection."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chamfer._runtime import check_positive_int, resolve_num_threads
from chamfer.candidates import Candidates
from chamfer.cascade import Cascade
from chamfer.errors import CorruptIndexError
from chamfer.index import storage
from chamfer.index.filling import candidates_file, check_insertion_order, load_candidates, make_candidates
from chamfer.index.ids import check_ids
from chamfer.index.reducing import Reducer, load_reducer, reducer_name, resolve_reducer
from chamfer.index.reranking import code_writers, make_cascade, open_cascade, resolve_stages, stage_settings
from chamfer.index.settings import SearchSettings
from chamfer.index.tuning import check_recall, split_queries, tune
from chamfer.index.tuning_report import TuningReport
from chamfer.reducers import ball_carving
from chamfer.scoring import maxsim_topk
from chamfer.token_vectors import FloatArray, TokenVectors, TokenVectorsLike, as_token_vectors

# Documents that a search reranks when num_candidates is None, or ten per result if that is more. On SciFact 500 of
# 5,183 candidates hold 0.95 of the exact top 10.
_DEFAULT_NUM_CANDIDATES = 500
_DEFAULT_CANDIDATES_PER_RESULT = 10

_MAPPED = frozenset({"vectors.npy"})

# Candidates fetched at a time where there are empty documents to drop: 50 MB.
_FETCHED_AT_A_TIME = 4 * 2**20


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and what each stage took.

    Attributes:
        ids: shape (num_queries, k), best first: int64, -1 where fewer than k were found; or, if ids are strings, an
            object array of str, None where fewer were found. An inverted index may find fewer documents than there are.
        scores: float32, shape (num_queries, k), those of the last stage: MaxSim, exact or with codes, or the encodings'
            inner product if the index does not rerank; -inf where there are fewer.
        timings: seconds for the whole batch by stage ("encode", "candidates", "carve" if asked for, "rerank scalar:2",
            "rerank exact" and so on; or "exact"), and "total".
        kept: documents that each stage handed on, by stage, for the query with the most.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]
    timings: dict[str, float] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)


class Index:
    """A searchable collection of token vectors; make one with `build` or `open`.

    A search encodes the query to one vector, takes the documents with the nearest encodings as candidates, and scores
    those by MaxSim: with codes first, the best of them exactly. Searches may run in many threads at once.
    """

    def __init__(
        self,
        documents: TokenVectors,
        ids: list[int] | list[str],
        reducer: Reducer,
        candidates: Candidates,
        cascade: Cascade | None,
        path: Path | None = None,
        settings: SearchSettings | None = None,
    ) -> None:
        self._documents = documents
        self._ids = ids
        self._reducer = reducer
        self._candidates = candidates
        self._cascade = cascade
        self._path = path
        self._generation: str | None = None  # the name of what lies at that path, if it is this index
        self.settings = settings or SearchSettings()
        self.tuning_report: TuningReport | None = None  # of the last `tune`, or of `build` with a target
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
        reducer: Reducer | Literal["auto", "fde", "learned"] = "auto",
        candidates: Any = "auto",
        insertion_order: Literal["input", "random", "lid_desc", "lid_asc"] = "input",
        rerank: str | Sequence[str] | None = "auto",
        queries: TokenVectorsLike | None = None,
        target_recall: float | None = None,
        num_threads: int | None = None,
        progress: bool = False,
    ) -> Index:
        """Make an index of a collection.

        Args:
            documents: a collection of documents, float32 or float16; kept in that precision, not copied.
            ids: one per document, all different: integers from 0 or strings. None means the rows, 0 to n - 1.
            path: folder to save the index in, see `save`.
            reducer: makes one vector of a document; the index keeps a copy, fitted to documents and queries if
                the reducer needs `fit` and has not had it. "learned" is a LearnedReducer of a size for this collection,
                "fde" is FixedDimensionalEncoder(dim), "auto" the former from 500 documents on, the latter below.
            candidates: a FAISS factory string, a FAISS index of metric inner product, or BinaryCandidates, which keep
                encodings as binary codes; empty or filled in order. "auto" scans encodings with FAISS: learned ones in
                4 bits a number ("PQ512x4fs"), others in 8 ("SQ8") up to 20,000 documents, with inverted lists beyond.
            insertion_order: the order in which encodings are added, which only changes what an HNSW graph finds:
                "input", "random", or by local intrinsic dimension, highest ("lid_desc") or lowest ("lid_asc") first
                (arXiv 2405.17813), which encodes documents twice. FAISS shuffles each batch of "input".
            rerank: the stages that score candidates, from cheap to exact: names of codecs (see `Codec`), and last, if
                wanted, "exact", MaxSim at the stored precision; such as ["binary", "int8", "exact"], or one name. Each
                stage hands its best on to the next; the index keeps the codes of each. "auto" is "exact" below 1,000
                documents, from there on ["int8", "exact"] while the codes take no more than 32 MB, and
                ["scalar:2", "exact"] beyond. None returns candidates as the encodings rank them.
            queries: sample queries, a hundred or more, to fit the reducer; without them recall is lower (see
                `LearnedReducer.fit`). Codes are fitted to them too, also where the reducer is fitted already.
            target_recall: call `tune` at the end, k = 10, and keep its report in `tuning_report`: with every other of
                the queries, which the fit then does not see; or, without queries, with passages of documents, whose
                recall is only near that of real queries.
            num_threads: threads to use; None means the CPUs of this process.
            progress: show progress bars (needs tqdm: pip install "chamfer[cli]").

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: no vector at all, ids that repeat or do not fit, an encoder of another dim, candidates that do
                not fit the encoder, or an insertion_order for those that are filled.
            OSError: as `save`.
        """
        if path is not None:
            storage.refuse_foreign(Path(path))  # now rather than when all the work is done
        collection = as_token_vectors(documents, "documents")
        if collection.num_tokens == 0:
            raise ValueError("documents: expected at least one document with a vector, got none")
        checked_ids = check_ids(ids, len(collection))
        check_insertion_order(insertion_order)
        stages = resolve_stages(rerank, collection)
        threads = resolve_num_threads(num_threads)
        target_recall = None if target_recall is None else check_recall(target_recall)
        if target_recall is not None and stages is None:
            raise ValueError("target_recall: expected None, since nothing is reranked that could be tuned")
        queries, held_out = split_queries(queries, collection) if target_recall is not None else (queries, None)
        encoder = resolve_reducer(reducer, collection, queries, threads, progress)
        found = make_candidates(candidates, encoder, collection, threads, progress, insertion_order)
        is_auto = isinstance(rerank, str) and rerank == "auto"
        cascade = make_cascade(stages, collection, queries, threads, is_auto=is_auto)
        index = cls(collection, checked_ids, encoder, found, cascade)
        if target_recall is not None and held_out is not None:
            index.tune(held_out, target_recall, num_threads=threads, progress=progress)
        if path is not None:
            index.save(path)
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a folder, replacing an index there in one step; readers of the old one keep it.

        To the folder that it was opened from or saved to last, only `settings` are written: nothing else can change.
        If another index was saved there in the meantime, that one stays.

        Args:
            path: a folder: new, empty, or holding an index.

        Raises:
            FileExistsError: the folder holds something else, or an index that was saved there since this one was.
            LockedIndexError: another save to this folder is under way.
            OSError: the disk is full or not writable; an index that was there is still there.
        """
        folder = Path(path)
        self._generation = storage.write(
            folder,
            {
                "reducer": reducer_name(self._reducer),
                "candidates": self._candidates.description,
                "rerank": stage_settings(self._cascade),
                "search": self._settings.to_json(),
            },
            {
                "vectors.npy": lambda file: np.save(file, self._documents.vectors, allow_pickle=False),
                "offsets.npy": lambda file: np.save(file, self._documents.offsets, allow_pickle=False),
                "ids.json": lambda file: _write_json(file, self._ids),
                "reducer.npz": self._reducer.save,
                candidates_file(self._candidates): self._candidates.save,
                **code_writers(self._cascade),
            },
            generation_read=self._generation if self._path == folder else None,
            mapped=_MAPPED,
        )
        self._path = folder

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: Literal["r"] = "r", *, verify: bool = False) -> Index:
        """Open a saved index; token vectors stay on disk and are memory-mapped, codes are read.

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
            reducer = load_reducer(generation / "reducer.npz", settings.get("reducer", ""))
            candidates = load_candidates(generation, reducer.output_dimension, settings.get("candidates", ""))
            try:
                vectors = np.load(generation / "vectors.npy", mmap_mode="r", allow_pickle=False)
                offsets = np.load(generation / "offsets.npy", allow_pickle=False)
                ids = json.loads((generation / "ids.json").read_bytes())
                if vectors.ndim != 2 or vectors.shape[1] != reducer.dim or int(offsets[-1]) != len(vectors):
                    raise ValueError(f"vectors {vectors.shape}, offsets to {offsets[-1]}, reducer of dim {reducer.dim}")
                if not len(offsets) - 1 == len(ids) == candidates.num_documents:
                    raise ValueError(
                        f"{len(offsets) - 1} documents, {len(ids)} ids, {candidates.num_documents} encodings"
                    )
                documents = TokenVectors._trusted(vectors.view(np.ndarray), offsets)
                checked_ids = check_ids(ids, len(ids))
            except CorruptIndexError:
                raise
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise CorruptIndexError(f"{generation}: its files do not fit together ({error})") from None
            cascade = open_cascade(settings, generation, documents)
            try:
                search = SearchSettings.from_json(settings["search"])
                index = cls(documents, checked_ids, reducer, candidates, cascade, folder, search)
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptIndexError(f"{generation}: its settings do not fit together ({error})") from None
            index._generation = generation.name
            return index

        return storage.read(folder, load, verify=verify, mapped=_MAPPED)

    @property
    def settings(self) -> SearchSettings:
        """What `search` takes where its arguments leave it open; to be replaced as a whole, and kept by `save`."""
        return self._settings

    @settings.setter
    def settings(self, settings: SearchSettings) -> None:
        if not isinstance(settings, SearchSettings):
            raise TypeError(f"settings: expected SearchSettings, got {type(settings).__name__}")
        num_budgets = 0 if self._cascade is None else len(self._cascade.stages) - 1
        if settings.budgets is not None and len(settings.budgets) != num_budgets:
            raise ValueError(
                f"settings: expected {num_budgets} budgets, one for each stage but the last, "
                f"got {len(settings.budgets)}"
            )
        if settings.nprobe is not None and self._candidates.num_lists is None:
            raise ValueError(f"settings: expected nprobe=None, since {self._candidates.description!r} has no lists")
        self._settings = settings

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
            num_candidates: documents to rerank per query, at least k, with the defaults of all other settings but
                `nprobe`; more: better recall, slower. None means the index's `settings` as a whole, or else 500, or
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
        query_vectors = self._check_queries(queries)
        k = check_positive_int(k, "k")
        if num_candidates is not None and check_positive_int(num_candidates, "num_candidates") < k:
            raise ValueError(f"num_candidates: expected at least k = {k}, got {num_candidates}")
        threads = resolve_num_threads(num_threads)
        if carving_threshold is not None and (exact or self._cascade is None):
            raise ValueError("carving_threshold: expected None, since this search does not rerank")
        if exact:
            timings: dict[str, float] = {}
            with _timed(timings, "exact"):
                scores, rows = maxsim_topk(query_vectors, self._documents, k, num_threads=threads)
            timings["total"] = timings["exact"]
            return SearchResult(self._ids_of(rows), scores, timings, {"exact": _most_found(rows)})
        settings = self._settings
        if num_candidates is not None:
            settings = SearchSettings(num_candidates, nprobe=settings.nprobe)
        elif settings.k is not None and k > settings.k:
            settings = SearchSettings(nprobe=settings.nprobe)
        return self._search(query_vectors, k, settings, carving_threshold, threads)

    def tune(
        self,
        queries: TokenVectorsLike,
        target_recall: float = 0.95,
        k: int = 10,
        *,
        num_threads: int | None = None,
        progress: bool = False,
    ) -> TuningReport:
        """Find the cheapest settings that reach a recall against exact search, and search with them from now on.

        They are kept by `save`, and serve searches for up to k results that do not name `num_candidates`. The report
        stays in `tuning_report`.

        Args:
            queries: queries like those to come, a hundred or more, that the reducer was not fitted to (it finds more
                for those it has seen); of more than 512, so many, spread evenly.
            target_recall: share of the exact top k to find, above 0, at most 1.
            k: results per query.
            num_threads: threads to use for the measurement; None means the CPUs of this process. Times in the report
                are of one thread.
            progress: show a progress bar (needs tqdm: pip install "chamfer[cli]").

        Returns:
            A TuningReport: print it for a table, `picture(path)` draws it. If no setting reaches the target, the index
            keeps the best, and `reached` is False.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: another dim than the index's, no query with a vector, a recall or k out of range, or an index
                that does not rerank.
        """
        query_vectors = self._check_queries(queries)
        k = check_positive_int(k, "k")
        if self._cascade is None:
            raise ValueError("tune: this index was built with rerank=None, nothing can be tuned")
        if query_vectors.num_tokens == 0:
            raise ValueError("queries: expected at least one query with a vector, got none")
        threads = resolve_num_threads(num_threads)
        report = tune(self, query_vectors, check_recall(target_recall), k, threads, progress)
        self.settings = report.settings
        self.tuning_report = report
        return report

    @property
    def reducer(self) -> Reducer:
        """What makes one vector of a document; `stats` of a learned one tells when documents have drifted.

        A copy: to fit it anew does not change the index, whose encodings are there already.
        """
        return copy.copy(self._reducer)

    def _check_queries(self, queries: TokenVectorsLike) -> TokenVectors:
        query_vectors = as_token_vectors(queries, "queries")
        if query_vectors.dim != self._documents.dim:
            raise ValueError(f"queries: expected dim {self._documents.dim} (the index's), got {query_vectors.dim}")
        return query_vectors

    def _search(
        self,
        query_vectors: TokenVectors,
        k: int,
        settings: SearchSettings,
        carving_threshold: float | None,
        num_threads: int,
    ) -> SearchResult:
        """Search by candidates; arguments are checked."""
        timings: dict[str, float] = {}
        kept: dict[str, int] = {}
        begin = time.perf_counter()
        num_candidates = settings.num_candidates or 0
        if num_candidates < k:
            num_candidates = max(_DEFAULT_NUM_CANDIDATES, _DEFAULT_CANDIDATES_PER_RESULT * k)
        with _timed(timings, "encode"):
            encodings = self._reducer.encode_queries(query_vectors, num_threads=num_threads)
        with _timed(timings, "candidates"):
            width = min(k if self._cascade is None else num_candidates, len(self))
            scores, rows = self._find_candidates(encodings, width, num_threads, settings.nprobe)
        kept["candidates"] = _most_found(rows)
        if self._cascade is not None:
            if carving_threshold is not None:
                with _timed(timings, "carve"):
                    query_vectors = ball_carving(query_vectors, carving_threshold)
            budgets = self._cascade.default_budgets(k)
            if settings.budgets is not None:  # those for fewer results than k give way
                budgets = tuple(b if b >= k else d for b, d in zip(settings.budgets, budgets, strict=True))
            found = self._cascade.run(
                query_vectors, rows, k, budgets=budgets, margin=settings.margin, num_threads=num_threads
            )
            scores, rows = found.scores, found.rows
            timings |= found.timings
            kept |= found.kept
        elif width < k:
            missing = ((0, 0), (0, k - width))
            scores = np.pad(scores, missing, constant_values=-np.inf)
            rows = np.pad(rows, missing, constant_values=-1)
        ids = self._ids_of(rows)
        timings["total"] = time.perf_counter() - begin
        return SearchResult(ids, scores, timings, kept)

    def _rows_of(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        row_of = self._known_rows()
        return np.array([[row_of.get(i, -1) for i in row] for row in ids.tolist()], np.int64).reshape(ids.shape)

    def _known_rows(self) -> dict[int | str, int]:
        if self._row_of is None:
            self._row_of = dict(zip(self._ids, range(len(self)), strict=True))
        return self._row_of

    def _ids_of(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        ids = self._ids_by_row[rows]
        ids[rows < 0] = None if ids.dtype == object else -1
        return ids

    def _find_candidates(
        self, encodings: NDArray[np.float32], width: int, num_threads: int, nprobe: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if not self._num_empty:
            return self._candidates.search(encodings, width, num_threads, nprobe)
        # Encodings of empty documents are zero, which beats negative scores: as many more are fetched, then dropped.
        num_fetched = min(width + self._num_empty, len(self))
        scores = np.empty((len(encodings), width), np.float32)
        rows = np.empty((len(encodings), width), np.int64)
        offsets = self._documents.offsets
        batch = max(1, _FETCHED_AT_A_TIME // num_fetched)
        for begin in range(0, len(encodings), batch):
            part = slice(begin, begin + batch)
            some_scores, some = self._candidates.search(encodings[part], num_fetched, num_threads, nprobe)
            lost = (some >= 0) & (offsets[some] == offsets[some + 1])
            some_scores[lost], some[lost] = -np.inf, -1
            order = np.argsort(some < 0, axis=1, kind="stable")[:, :width]
            scores[part] = np.take_along_axis(some_scores, order, 1)
            rows[part] = np.take_along_axis(some, order, 1)
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
        try:
            return self._documents[self._known_rows()[id]]
        except KeyError:
            raise KeyError(f"id: no document {id!r} in this index of {len(self)}") from None

    def stats(self) -> dict[str, Any]:
        """Return documents, vectors, dtype, reducer, candidates, stages, path, and the bytes per token of each part.

        "bytes_per_token" has "token_vectors", "candidates", and "codes scalar:2" and the like; "on_disk" names those of
        them that are memory-mapped, and take no memory but what the system has cached.
        """
        tokens = self._documents.num_tokens
        stages = () if self._cascade is None else self._cascade.stages
        codes = {f"codes {stage.name}": stage.documents.nbytes / tokens for stage in stages if stage.codec is not None}
        return {
            "num_documents": len(self),
            "num_tokens": tokens,
            "dim": self._documents.dim,
            "dtype": str(self._documents.dtype),
            "reducer": repr(self._reducer),
            "candidates": self._candidates.description,
            "rerank": None if self._cascade is None else list(self._cascade.names),
            "path": None if self._path is None else str(self._path),
            "bytes_per_token": {
                "token_vectors": self._documents.nbytes / tokens,
                "reducer": self._reducer.nbytes / tokens,
                "candidates": self._candidates.nbytes / tokens,
                **codes,
            },
            "on_disk": ["token_vectors"] if _is_mapped(self._documents.vectors) else [],
            "settings": self._settings.to_json(),
        }

    def __repr__(self) -> str:
        return (
            f"Index({len(self)} documents, {self._documents.num_tokens} vectors of {self._documents.dim} dims, "
            f"{self._documents.dtype}, candidates {self._candidates.description!r})"
        )


def _most_found(rows: NDArray[np.int64]) -> int:
    return int((rows >= 0).sum(axis=1).max(initial=0))


def _is_mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - begin


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))
