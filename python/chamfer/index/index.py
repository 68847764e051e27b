"""Index: build, search, change, save and open a collection."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chamfer._containers import mapped_array
from chamfer._files import locked_file, make_folder
from chamfer._runtime import check_positive_int, resolve_num_threads
from chamfer.index import catalogue, legacy, storage
from chamfer.index.building import Wish, build_all, build_in_parts, check_budget
from chamfer.index.filling import check_insertion_order
from chamfer.index.filters import check_metadata
from chamfer.index.ids import check_ids, check_some_ids
from chamfer.index.reducing import Reducer
from chamfer.index.reranking import resolve_stages
from chamfer.index.searching import SearchResult, check_filter, explain_rows, most_found, search, timed
from chamfer.index.segments import ids_array
from chamfer.index.settings import SearchSettings
from chamfer.index.snapshot import Snapshot, check_settings, fitting_settings
from chamfer.index.tuning import check_recall, split_queries, tune
from chamfer.index.tuning_report import TuningReport
from chamfer.index.writing import Writer
from chamfer.token_vectors import FloatArray, TokenVectors, TokenVectorsLike, as_token_vectors


def _folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder of an index, wherever the process goes later."""
    return Path(path).absolute()


class Index:
    """A searchable collection of token vectors; make one with `build` or `open`.

    A search encodes the query to one vector, takes the documents with the nearest encodings as candidates, and scores
    those by MaxSim: with codes first, the best of them exactly. Searches may run in many threads at once, and while
    documents are added or deleted: each sees the state of when it began. One writer at a time, in one process, may
    change an index; see docs/index.md for what is promised.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        settings: SearchSettings | None = None,
        path: Path | None = None,
        mode: Literal["r", "a"] = "a",
    ) -> None:
        settings = settings or SearchSettings()
        check_settings(settings, snapshot)
        self._writer = Writer(snapshot, path, settings)
        self._mode = mode
        self._is_closed = False
        self.tuning_report: TuningReport | None = None  # of the last `tune`, or of `build` with a target

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
        metadata: Sequence[dict[str, Any] | None] | None = None,
        queries: TokenVectorsLike | None = None,
        target_recall: float | None = None,
        memory_budget: int | str | None = None,
        num_threads: int | None = None,
        progress: bool = False,
    ) -> Index:
        """Make an index of a collection.

        Args:
            documents: a collection of documents, float32 or float16; kept in that precision, not copied.
            ids: one per document, all different: integers from 0 or strings. None means the rows, 0 to n - 1.
            path: folder to save the index in, see `save`; token vectors are mapped from there, codes too.
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
            metadata: a dict per document, or None for it, of str, int, float, bool and None by keys that are
                identifiers; what `search(filter=)` asks about.
            queries: sample queries, a hundred or more, to fit the reducer; without them recall is lower (see
                `LearnedReducer.fit`). Codes are fitted to them too, also where the reducer is fitted already.
            target_recall: call `tune` at the end, k = 10, and keep its report in `tuning_report`: with every other of
                the queries, which the fit then does not see; or, without queries, with passages of documents, whose
                recall is only near that of real queries.
            memory_budget: bytes, or such as "1GB", that building may take, at least 256 MiB; needs a path. The
                collection, best one that is memory-mapped, is then encoded and written in parts, and these are merged
                if their encodings fit into an eighth of the budget and can be joined (graphs cannot), and the disk has
                room for both (else there is a RuntimeWarning). If not, they stay segments, and each costs a search some
                time. None holds all codes and encodings until they are written.
            num_threads: threads to use; None means the CPUs of this process.
            progress: show progress bars (needs tqdm: pip install "chamfer[cli]").

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: no vector at all, ids that repeat or do not fit, an encoder of another dim, candidates that do
                not fit the encoder, or an insertion_order for those that are filled.
            OSError: as `save`.
        """
        if path is not None:
            storage.refuse_foreign(_folder(path))  # now rather than when all the work is done
            storage.refuse_locked(_folder(path))
        budget = check_budget(memory_budget)
        if budget is not None and path is None:
            raise ValueError("memory_budget: expected a path with it, since what does not fit into memory is on disk")
        collection = as_token_vectors(documents, "documents")
        if collection.num_tokens == 0:
            raise ValueError("documents: expected at least one document with a vector, got none")
        checked_ids = check_ids(ids, len(collection))
        found_ids = ids_array(checked_ids, are_strings=bool(checked_ids) and isinstance(checked_ids[0], str))
        rows = check_metadata(metadata, len(collection))
        check_insertion_order(insertion_order)
        resolve_stages(rerank, collection)
        threads = resolve_num_threads(num_threads)
        target_recall = None if target_recall is None else check_recall(target_recall)
        if target_recall is not None and rerank is None:
            raise ValueError("target_recall: expected None, since nothing is reranked that could be tuned")
        queries, held_out = split_queries(queries, collection) if target_recall is not None else (queries, None)
        sample = None if queries is None else as_token_vectors(queries, "queries")
        wish = Wish(reducer, candidates, rerank, sample, insertion_order)
        if budget is None:
            index = cls(Snapshot(*build_all(wish, collection, found_ids, rows, threads, progress)))
            if path is not None and target_recall is None:
                index.save(path)
        else:
            if insertion_order != "input":
                raise ValueError("insertion_order: expected 'input' where memory_budget is given")
            folder = _folder(path or "")
            make_folder(folder)
            with locked_file(folder / storage.LOCK):
                made = build_in_parts(wish, collection, found_ids, rows, threads, progress, budget, folder)
                snapshot = storage.write_whole(folder, Snapshot(*made), SearchSettings())
            index = cls(snapshot, None, folder)
        if target_recall is not None and held_out is not None:
            index.tune(held_out, target_recall, num_threads=threads, progress=progress)
            if path is not None:
                index.save(path)
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a folder, replacing an index there in one step; readers of the old one keep it.

        An index without a folder lives in this one from now on; of one that has a folder another gets a copy. To its
        own only `settings` are written, all else being there already.
        If another index was saved there in the meantime, or this one was changed by another writer, that one stays.

        Args:
            path: a folder: new, empty, or holding an index.

        Raises:
            FileExistsError: the folder holds something else, or a state that came after this one.
            LockedIndexError: somebody else is writing to this folder.
            OSError: the disk is full or not writable; an index that was there is still there.
        """
        folder = _folder(path)
        writer = self._writer
        is_own = writer.path is not None and writer.path.resolve() == folder.resolve()
        if is_own and storage.is_present(folder) and storage.is_whole(folder, self._snapshot):
            try:
                writer.store_settings(self.settings)
            finally:
                if self._mode == "r" or self._is_closed:
                    writer.close()
            return
        storage.refuse_foreign(folder)
        make_folder(folder)
        writer.write_to(folder, is_own=is_own)

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: Literal["r", "a"] = "r", *, verify: bool = False) -> Index:
        """Open a saved index; token vectors and codes stay on disk and are memory-mapped.

        Nobody may change or truncate the files while the index is open: writers add files and never do.

        Args:
            path: the folder given to `save` or `build`.
            mode: "r", read, as many as like; "a", read and change, one at a time, until `close`.
            verify: check the token vectors' checksums too, which reads them all. All else is always checked.

        Raises:
            FileNotFoundError: there is no index at this path.
            CorruptIndexError: a file is missing, cut short or changed; see `chamfer verify`.
            LockedIndexError: mode "a", and somebody else has it open so.
            ValueError: a newer chamfer wrote it, or another mode.
        """
        if mode not in ("r", "a"):
            raise ValueError(f"mode: expected 'r' to read or 'a' to change too, got {mode!r}")
        folder = _folder(path)
        if not storage.is_present(folder):
            index = cls(*legacy.read(folder, verify=verify), folder, mode)
            if mode == "r":
                return index
            index.save(folder)  # and read again, as any other
        if mode == "r":
            return cls(*storage.open_snapshot(folder, verify=verify), folder, mode)
        with ExitStack() as held:
            held.enter_context(locked_file(folder / storage.LOCK))  # before it is read, lest another changes it first
            index = cls(*storage.open_snapshot(folder, verify=verify), folder, mode)
            index._writer.hold(held.pop_all())
            index._writer.remove_unused()
        return index

    def refresh(self) -> bool:
        """See what writers have committed since this index was opened or refreshed, and return whether it changed.

        Costs a read of a small file if nothing has; segments that are open stay so. Searches that are under way keep
        the state they began with.

        Raises:
            FileNotFoundError: the index is no more.
            CorruptIndexError: as `open`.
        """
        path, snapshot = self._writer.path, self._snapshot
        if self._mode != "r" or path is None or snapshot.manifest is None:
            return False
        index_id, least = catalogue.generation(path)
        if index_id == snapshot.manifest.index_id and least <= snapshot.manifest.generation:
            return False
        found, settings = storage.open_snapshot(path, verify=False, known=snapshot)
        return self._writer.see(found, settings)

    def close(self) -> None:
        """Let another writer have the index. Files that are mapped are let go when nothing refers to them any more."""
        self._writer.close()
        self._is_closed = True

    def __enter__(self) -> Index:
        """Return the index itself; it is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the index."""
        self.close()

    # ── change ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(
        self,
        documents: TokenVectorsLike | Iterator[Any],
        ids: Iterable[int] | Iterable[str],
        metadata: Iterable[dict[str, Any] | None] | None = None,
        *,
        num_threads: int | None = None,
    ) -> int:
        """Add documents; one whose id is there already takes that document's place, with its metadata.

        All of them are there when this returns, on disk and synced if the index has a folder; after an error none is,
        and after a crash all or none (an OSError of the disk's may come after the last step: then all are). To add the
        same again changes nothing.

        Args:
            documents: a collection; or an iterator of documents, arrays of shape (n_i, dim), of which some 65,000
                vectors are held at a time.
            ids: one per document, all different, int or str as those of the index.
            metadata: one dict or None per document, as in `build`.
            num_threads: threads to use; None means the CPUs of this process.

        Returns:
            How many ids were new.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: another dim than the index's, vectors that are not finite, ids that repeat, lengths that differ,
                or the index was opened to read.
            LockedIndexError: another process is changing the index.
            OSError: the disk is full or not writable.
        """
        return self._change(documents, ids, metadata, num_threads, must_exist=False, keep_metadata=False)

    def update(
        self,
        documents: TokenVectorsLike | Iterator[Any],
        ids: Iterable[int] | Iterable[str],
        metadata: Iterable[dict[str, Any] | None] | None = None,
        *,
        num_threads: int | None = None,
    ) -> None:
        """Replace documents that are there; all or none, as `add`.

        Args:
            documents: as in `add`.
            ids: one per document, all different, all there.
            metadata: one dict or None per document, as in `build`; None keeps what there is.
            num_threads: threads to use; None means the CPUs of this process.

        Raises:
            KeyError: no document has this id; then none is replaced.
            TypeError, ValueError, LockedIndexError, OSError: as `add`.
        """
        self._change(documents, ids, metadata, num_threads, must_exist=True, keep_metadata=metadata is None)

    def _change(self, documents: Any, ids: Any, metadata: Any, num_threads: int | None, **how: bool) -> int:
        self._check_writable()
        return self._writer.add(documents, ids, metadata, resolve_num_threads(num_threads), **how)

    def delete(self, ids: int | str | Iterable[int] | Iterable[str]) -> int:
        """Delete documents; no search that begins after this returns finds them. `compact` reclaims their room.

        Args:
            ids: of documents, one or many; those that are not there are passed over, so that it can be done again.

        Returns:
            How many were there.

        Raises:
            TypeError: ids of another type than the index's.
            ValueError: the index was opened to read.
            LockedIndexError: another process is changing the index.
            OSError: the disk is full or not writable.
        """
        self._check_writable()
        some = [ids] if isinstance(ids, (int, str, np.integer)) else ids
        return self._writer.delete(sorted(check_some_ids(some, "ids", are_strings=self._snapshot.are_strings)))

    def compact(
        self, *, memory_budget: int | str | None = None, num_threads: int | None = None, progress: bool = False
    ) -> None:
        """Merge segments into one, drop deleted documents, reclaim their room on disk.

        If the collection has more than doubled since reducer, codecs and candidates were fitted, and all three were
        chosen by name, they are fitted anew, with the sample queries that `build` had; `settings` for other stages or
        candidates than there are then are the defaults again. Readers go on with what they have open.

        Args:
            memory_budget: as in `build`, where the model is fitted anew: segments may be left.
            num_threads: threads to use; None means the CPUs of this process.
            progress: show progress bars (needs tqdm: pip install "chamfer[cli]").

        Raises:
            ValueError: the index was opened to read, or a budget out of range.
            LockedIndexError: another process is changing the index.
            OSError: the disk is full: merging needs room for the merged segment beside the old ones, fitting anew for
                the token vectors once more, with a memory_budget twice more.
        """
        self._check_writable()
        self._writer.compact(resolve_num_threads(num_threads), progress, check_budget(memory_budget))

    def _check_writable(self) -> None:
        if self._is_closed:
            raise ValueError("this index is closed; open it again")
        if self._mode == "r":
            raise ValueError("this index was opened to read; open it with mode='a' to change it")

    @property
    def _snapshot(self) -> Snapshot:
        return self._writer.snapshot

    @property
    def settings(self) -> SearchSettings:
        """What `search` takes where its arguments leave it open; to be replaced as a whole, and kept by `save`."""
        return self._writer.search

    @settings.setter
    def settings(self, settings: SearchSettings) -> None:
        if not isinstance(settings, SearchSettings):
            raise TypeError(f"settings: expected SearchSettings, got {type(settings).__name__}")
        check_settings(settings, self._snapshot)
        self._writer.search = settings

    # ── search ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def search(
        self,
        queries: TokenVectorsLike,
        k: int = 10,
        *,
        num_candidates: int | None = None,
        filter: str | Iterable[int] | Iterable[str] | NDArray[np.bool_] | None = None,  # noqa: A002  # as everywhere
        exact: bool = False,
        explain: bool = False,
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
            filter: what may be returned: a condition on metadata, such as "year >= 2020 and venue in ('SIGIR', 'ECIR')"
                (see `chamfer.index.filters.Condition`); ids, of which those that are not there are passed over; or a
                mask, one bool per document in the order of `ids`. Few documents are all reranked; of many, candidates
                are found.
            exact: score every document by MaxSim and skip the candidates: the answer that the others approximate.
            explain: tell how each document matches, in `explanations`; reads its token vectors once more.
            carving_threshold: rerank with queries shortened by `ball_carving` at this threshold; faster, scores
                approximate. None reranks with all query tokens.
            num_threads: threads to use; None means the CPUs of this process. The result does not depend on it. The
                candidates of up to 32 queries are found on one thread.

        Returns:
            A SearchResult.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: another dim than the index's, vectors that are not finite, k below 1, num_candidates below k, a
                carving_threshold where nothing is reranked, a filter that is no condition or a mask of another length,
                or a condition with a key that no document has.
        """
        query_vectors = self._check_queries(queries)
        k = check_positive_int(k, "k")
        if num_candidates is not None and check_positive_int(num_candidates, "num_candidates") < k:
            raise ValueError(f"num_candidates: expected at least k = {k}, got {num_candidates}")
        threads = resolve_num_threads(num_threads)
        begin = time.perf_counter()
        timings: dict[str, float] = {}
        snapshot = self._snapshot
        if carving_threshold is not None and (exact or snapshot.cascade is None):
            raise ValueError("carving_threshold: expected None, since this search does not rerank")
        wanted = check_filter(filter, are_strings=snapshot.are_strings)
        allowed = None
        if wanted is not None:
            with timed(timings, "filter"):
                allowed = wanted.rows(snapshot)
        if exact:
            with timed(timings, "exact"):
                scores, rows = snapshot.exact(query_vectors, k, allowed, threads)
            kept = {"exact": most_found(rows)}
        else:
            settings = fitting_settings(self.settings, snapshot)  # they may have been replaced since
            if num_candidates is not None:
                settings = SearchSettings(num_candidates, nprobe=settings.nprobe)
            elif settings.k is not None and k > settings.k:
                settings = SearchSettings(nprobe=settings.nprobe)
            scores, rows, stages, kept = search(
                snapshot, query_vectors, k, settings, allowed, carving_threshold, threads
            )
            timings |= stages
        explanations = None
        if explain:
            with timed(timings, "explain"):
                explanations = explain_rows(snapshot, query_vectors, rows)
        ids = snapshot.ids_of(rows)
        timings["total"] = time.perf_counter() - begin
        return SearchResult(ids, scores, timings, kept, explanations)

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
        if self._snapshot.cascade is None:
            raise ValueError("tune: this index was built with rerank=None, nothing can be tuned")
        if query_vectors.num_tokens == 0:
            raise ValueError("queries: expected at least one query with a vector, got none")
        if not len(self):
            raise ValueError("tune: this index has no document")
        threads = resolve_num_threads(num_threads)
        report = tune(self._snapshot, query_vectors, check_recall(target_recall), k, threads, progress)
        self.settings = report.settings
        self.tuning_report = report
        return report

    @property
    def reducer(self) -> Reducer:
        """What makes one vector of a document; `stats` of a learned one tells when documents have drifted.

        A copy: to fit it anew does not change the index, whose encodings are there already.
        """
        return copy.copy(self._snapshot.model.reducer)

    def _check_queries(self, queries: TokenVectorsLike) -> TokenVectors:
        query_vectors = as_token_vectors(queries, "queries")
        dim = self._snapshot.documents.dim
        if query_vectors.dim != dim:
            raise ValueError(f"queries: expected dim {dim} (the index's), got {query_vectors.dim}")
        return query_vectors

    # ── inspect ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def __len__(self) -> int:
        return self._snapshot.num_documents

    @property
    def ids(self) -> NDArray[Any]:
        """The ids of all documents, int64 or object of str, in the order that a mask of `search(filter=)` has."""
        snapshot = self._snapshot
        return snapshot.ids_of(snapshot.live_rows())

    def __contains__(self, id: object) -> bool:  # noqa: A002  # the word of the interface
        """Return whether a document has this id."""
        is_id = isinstance(id, (int, str, np.integer)) and not isinstance(id, bool)
        return is_id and self._snapshot.row_of(id) is not None  # type: ignore[arg-type]

    def get(self, id: int | str) -> FloatArray:  # noqa: A002  # the word of the interface
        """Return the token vectors of a document, shape (num_tokens, dim), in the stored precision.

        Args:
            id: as given to `build` or `add`.

        Raises:
            KeyError: no document has this id.
            TypeError: neither an int nor a str.
        """
        snapshot, row = self._find(id)
        return snapshot.vectors_of(row)

    def get_metadata(self, id: int | str) -> dict[str, Any]:  # noqa: A002  # the word of the interface
        """Return the metadata of a document, empty if it has none.

        Args:
            id: as given to `build` or `add`.

        Raises:
            KeyError, TypeError: as `get`.
        """
        snapshot, row = self._find(id)
        segment, local = snapshot.place_of(row)
        return segment.metadata.of(local)

    def _find(self, id: int | str) -> tuple[Snapshot, int]:  # noqa: A002
        if isinstance(id, bool) or not isinstance(id, (int, str, np.integer)):
            raise TypeError(f"id: expected an int or str as given to build, got {type(id).__name__}")
        snapshot = self._snapshot
        row = snapshot.row_of(id)
        if row is None:
            raise KeyError(f"id: no document {id!r} in this index of {len(self)}")
        return snapshot, row

    def stats(self) -> dict[str, Any]:
        """Return documents, vectors, dtype, reducer, candidates, stages, segments, path, and the bytes per token.

        "bytes_per_token" has "token_vectors", "candidates", and "codes scalar:2" and the like, deleted documents
        counted too; "on_disk" names those of them that are memory-mapped, and take no memory but what the system has
        cached. "num_deleted" are documents whose room `compact` reclaims, "num_fitted" those that reducer, codecs and
        candidates were fitted to; "disk_bytes" what the folder takes.
        """
        snapshot = self._snapshot
        documents, model = snapshot.documents, snapshot.model
        tokens = max(1, documents.num_tokens)
        stages = () if snapshot.cascade is None else snapshot.cascade.stages
        codes = {f"codes {stage.name}": stage.documents.nbytes / tokens for stage in stages if stage.codec is not None}
        candidates = sum(segment.candidates.nbytes for segment in snapshot.segments)
        mapped = ["token_vectors", *codes] if mapped_array(snapshot.segments[0].documents.vectors) is not None else []
        return {
            "num_documents": len(self),
            "num_deleted": sum(segment.num_deleted for segment in snapshot.segments),
            "num_fitted": model.num_documents,
            "num_segments": len(snapshot.segments),
            "num_tokens": documents.num_tokens,
            "dim": documents.dim,
            "dtype": ", ".join(sorted({str(segment.documents.dtype) for segment in snapshot.segments})),
            "reducer": repr(model.reducer),
            "candidates": snapshot.candidates.description,
            "rerank": None if snapshot.cascade is None else list(snapshot.cascade.names),
            "path": None if self._writer.path is None else str(self._writer.path),
            "disk_bytes": None if snapshot.manifest is None else snapshot.manifest.num_bytes,
            "bytes_per_token": {
                "token_vectors": documents.nbytes / tokens,
                "reducer": model.reducer.nbytes / tokens,
                "candidates": candidates / tokens,
                **codes,
            },
            "on_disk": mapped,
            "settings": self.settings.to_json(),
        }

    def __repr__(self) -> str:
        documents = self._snapshot.documents
        return (
            f"Index({len(self)} documents, {documents.num_tokens} vectors of {documents.dim} dims, "
            f"{self._snapshot.segments[0].documents.dtype}, candidates {self._snapshot.candidates.description!r})"
        )
