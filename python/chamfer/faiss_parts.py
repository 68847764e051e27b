"""Inside FAISS's indexes: what they wrap, how their searches are told what to look at, and their threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

# FAISS shuffles what it is handed at a time: an order is kept by handing over a 50th of what is there, or so many.
_STRETCH_SHARE = 50
_STRETCH = 64

QUERIES_AT_A_TIME = 32
"""Queries that one FAISS call takes; each call runs on one thread: what a query finds cannot depend on num_threads."""

EF_SEARCH = 128
"""Nodes that a search of an HNSW graph looks at, or more (FAISS: 16).

FAISS's 40 stay for building it: 200 take four times as long, find 0.992 instead of 0.986 of Flat's best 500 on 40,000
documents, and fewer where encodings differ much in length (0.92 instead of 0.99 of 300 where norms spread by a factor
of e): more nodes seen, more links pruned.
"""


# ── inside a FAISS index ────────────────────────────────────────────────────────────────────────────────────────────


_FAST_SCANS: Any = (faiss.IndexFastScan,)
_FAST_SCANS_IN_LISTS: Any = (faiss.IndexIVFFastScan,)
_BLOCK = 32  # codes, of a fast scan whose factory string names no other


def inside(index: Any) -> Any:
    """Return what a FAISS index wraps (a transform, ids, a refinement), by its own class; None if it wraps nothing."""
    if isinstance(index, (faiss.IndexPreTransform, faiss.IndexIDMap)):
        return faiss.downcast_index(index.index)
    return faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else None


def widen(index: Any) -> None:
    """Let searches of a new index look wider in its HNSW graph, be it of encodings or of the centres of lists."""
    inner = inside(index)
    if inner is not None:
        widen(inner)
    elif isinstance(index, faiss.IndexHNSW):
        index.hnsw.efSearch = EF_SEARCH
    elif isinstance(index, faiss.IndexIVF):
        quantizer = faiss.downcast_index(index.quantizer)
        if isinstance(quantizer, faiss.IndexHNSW):
            quantizer.hnsw.efSearch = max(EF_SEARCH, index.nprobe)


def candidate_parameters(index: Any, num_candidates: int, nprobe: int | None, selector: Any = None) -> Any:
    """Return search parameters for an HNSW graph to look at as many as are wanted, and so many lists to be probed.

    None where the index's own do. FAISS stops when efSearch of those it has seen are nearer than what is left to look
    at, fewer than wanted or not. With a selector, only ids that it takes are found.
    """
    if isinstance(index, faiss.IndexHNSW):
        return looking_at(index.hnsw, num_candidates, selector)
    if isinstance(index, faiss.IndexIVF):
        return _probing_parameters(index, nprobe, selector)
    inner = inside(index)
    if inner is None:
        return None if selector is None else search_parameters("SearchParameters", sel=selector)
    if isinstance(index, faiss.IndexRefine):
        within = candidate_parameters(inner, int(num_candidates * index.k_factor), nprobe, selector)
        return within and search_parameters(
            "IndexRefineSearchParameters", k_factor=index.k_factor, base_index_params=within
        )
    within = candidate_parameters(inner, num_candidates, nprobe, selector)
    if isinstance(index, faiss.IndexPreTransform):
        return within and search_parameters("SearchParametersPreTransform", index_params=within)
    return within


def _probing_parameters(index: Any, nprobe: int | None, selector: Any) -> Any:
    if nprobe is None and selector is None:
        return None
    nprobe = min(index.nprobe if nprobe is None else nprobe, int(index.nlist))
    quantizer = faiss.downcast_index(index.quantizer)
    own = {"nprobe": nprobe, "max_codes": index.max_codes}
    if isinstance(quantizer, faiss.IndexHNSW):
        own["quantizer_params"] = looking_at(quantizer.hnsw, nprobe)
    if selector is not None:
        own["sel"] = selector
    return search_parameters("SearchParametersIVF", **own)


def looking_at(graph: Any, num_nodes: int, selector: Any = None) -> Any:
    """Return search parameters: an HNSW graph's own, but for an efSearch of at least so many."""
    own = {} if selector is None else {"sel": selector}
    return search_parameters(
        "SearchParametersHNSW",
        efSearch=max(graph.efSearch, num_nodes),
        check_relative_distance=graph.check_relative_distance,
        bounded_queue=graph.search_bounded_queue,
        **own,
    )


def search_parameters(kind: str, **values: Any) -> Any:
    """Return search parameters of a kind of FAISS's: its stubs do not know how these are made."""
    return getattr(faiss, kind)(**values)


def selector_of(bits: NDArray[np.uint8]) -> Any:
    """Return what takes the ids whose bits are set, the lowest first."""
    return faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg,arg-type]  # its stub is SWIG's, not that of FAISS's wrapper


def innermost(index: Any) -> Any:
    """Return what is inside all that wraps it, by its own class."""
    while (wrapped := inside(index)) is not None:
        index = wrapped
    return index


def moves_codes(index: Any) -> bool:
    """Whether FAISS can remove and join codes: of fast scans in blocks of other than 32 it makes others of them."""
    scan = innermost(index)
    return not isinstance(scan, _FAST_SCANS + _FAST_SCANS_IN_LISTS) or scan.bbs == _BLOCK


def clear_unused(index: Any) -> None:
    """Zero what a fast scan's last blocks hold beyond their codes: FAISS leaves removed codes there, and adds by OR."""
    scan: Any = innermost(index)
    if isinstance(scan, _FAST_SCANS):
        codes: Any = faiss.rev_swig_ptr(scan.codes.data(), scan.codes.size())
        _clear_last_block(scan.get_CodePacker(), codes, int(scan.ntotal))
    elif isinstance(scan, _FAST_SCANS_IN_LISTS):
        packer, lists = scan.get_CodePacker(), scan.invlists
        for i in range(scan.nlist):
            size = int(lists.list_size(i))
            if size:
                num_bytes = -(-size // packer.nvec) * packer.block_size
                _clear_last_block(packer, faiss.rev_swig_ptr(lists.get_codes(i), num_bytes), size)


def _clear_last_block(packer: Any, codes: NDArray[np.uint8], size: int) -> None:
    block, used = divmod(size, packer.nvec)
    if used:
        last = codes[block * packer.block_size :][: packer.block_size][None]
        nothing = np.zeros(packer.code_size, np.uint8)
        for place in range(used, packer.nvec):
            packer.pack_1(nothing, place, last)


def id_keeper(index: Any) -> Any:
    """Return what keeps ids in an index: inverted lists have them beside the codes; None if nothing does."""
    core = inside(index) if isinstance(index, faiss.IndexPreTransform) else index
    return core if isinstance(core, (faiss.IndexIVF, faiss.IndexIDMap)) else None


def keeping_ids(index: Any) -> Any:
    """Return an index that keeps ids: this one, or one around it, whose ids so far are 0, 1, 2, ..."""
    if id_keeper(index) is not None:
        return index
    if index.ntotal == 0:
        return faiss.IndexIDMap(index)
    # FAISS makes one around an empty index only.
    around: Any = faiss.IndexIDMap(faiss.IndexFlat(index.d, index.metric_type))
    owned = index.thisown
    around.index, around.ntotal, around.is_trained = index, index.ntotal, index.is_trained
    index.thisown = owned  # which setting it as a member took away
    around.referenced_objects = [index]
    faiss.copy_array_to_vector(np.arange(index.ntotal), around.id_map)
    return around


def row_after(index: Any) -> int:
    """Return the row after the highest in an index."""
    keeper = id_keeper(index)
    if keeper is None or index.ntotal == 0:
        return int(index.ntotal)
    if isinstance(keeper, faiss.IndexIDMap):
        return int(faiss.vector_to_array(keeper.id_map).max()) + 1
    return 1 + max(int(rows.max(initial=-1)) for rows in rows_of_lists(keeper.invlists))


def rows_of_lists(lists: Any) -> list[NDArray[np.int64]]:
    """Return the ids in each of FAISS's inverted lists."""
    sizes = [lists.list_size(i) for i in range(lists.nlist)]
    return [faiss.rev_swig_ptr(lists.get_ids(i), size).astype(np.int64) for i, size in enumerate(sizes)]


def trained_centres(encodings: NDArray[np.float32], num_lists: int, num_threads: int) -> NDArray[np.float32]:
    """Return the centres of inverted lists, shape (num_lists, dim): spherical k-means, for the inner product."""
    dim = encodings.shape[1]
    lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_lists, faiss.METRIC_INNER_PRODUCT)
    with faiss_threads(num_threads):
        lists.train(encodings)
    return np.ascontiguousarray(faiss.downcast_index(lists.quantizer).reconstruct_n(0, num_lists), np.float32)


def add_in_order(index: Any, codes: NDArray[Any], rows: NDArray[np.int64]) -> None:
    """Add encodings, or binary codes, to an index that keeps ids, in the order given as near as FAISS allows."""
    begin = 0
    while begin < len(rows):
        end = begin + max(_STRETCH, index.ntotal // _STRETCH_SHARE)
        index.add_with_ids(codes[begin:end], rows[begin:end])
        begin = end


def read_index(path: Path) -> Any:
    """Return a FAISS index from a file of any name: FAISS's own reader, which is faster, takes what is UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            return faiss.read_index(faiss.PyCallbackIOReader(file.read))  # type: ignore[attr-defined]  # not in its stubs
    return faiss.read_index(str(path))


def writer_to(write: Callable[[bytes], int]) -> Any:
    """Return a FAISS writer that calls write(bytes)."""
    return faiss.PyCallbackIOWriter(write)  # type: ignore[attr-defined]  # not in its stubs


_in_forked_child = False


def _mark_forked_child() -> None:
    global _in_forked_child
    _in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked_child)


@contextmanager
def faiss_threads(num_threads: int) -> Iterator[None]:
    """Let FAISS use so many threads in this block: OpenMP's number, which belongs to the calling thread."""
    before = faiss.omp_get_max_threads()
    # The parent's OpenMP threads do not exist in a forked child, where waiting for them would take for ever.
    faiss.omp_set_num_threads(1 if _in_forked_child else num_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def on_threads(work: Callable[[int], None], items: Sequence[int], num_threads: int) -> None:
    """Call work(item) for each item, with FAISS on one thread in each of ours."""
    if num_threads == 1 or len(items) < 2:
        with faiss_threads(1):
            for item in items:
                work(item)
        return
    workers = min(num_threads, len(items))
    with ThreadPoolExecutor(workers, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        list(pool.map(work, items))


@contextmanager
def translated(doing: str, description: str) -> Iterator[None]:
    """Turn FAISS's errors into ValueError that names the argument."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"candidates: FAISS cannot {doing} with {description!r}: {cause_of(error)}") from None


def cause_of(error: Exception) -> str:
    """Return the part of FAISS's message that speaks to a user: it starts with the C++ function, file and line."""
    return str(error).rsplit(": ", 1)[-1].strip() or str(error)
