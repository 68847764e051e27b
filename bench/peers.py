"""The peers: one function per library and task, which imports it. What is not installed is reported as such.

    pip install maxsim-cpu numkong muvera-python fastembed torch usearch

muvera-rs installs over muvera-python (both are the module `muvera`) and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cases import NUM_REPETITIONS, NUM_SIMHASH_PROJECTIONS, PROJECTION_DIMENSION, FdeCase, MaxSimCase
from bench.measure import Contestant
from bench.searches import HammingCase, K, SdcCase

PEERS = ("faiss-cpu", "maxsim-cpu", "numkong", "torch", "usearch", "muvera-python", "fastembed")


def versions() -> dict[str, str]:
    """Return the version of each peer, or "not installed"."""
    return {name: version(name) for name in PEERS}


def version(package: str) -> str:
    """Return the installed version of a package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def contestants(functions: tuple[Callable[[Any], Iterator[Any]], ...], case: Any) -> list[Any]:
    """Return what these peers bring to a case; a library that cannot be imported brings nothing."""
    found: list[Any] = []
    for peer in functions:
        with suppress(ImportError):  # versions() tells
            found.extend(peer(case))
    return found


# ── MaxSim of one query ─────────────────────────────────────────────────────────────────────────────────────────────


def int8_codes(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    """Return vectors times the returned scale, rounded to int8: one scale for all, as the peers have no other."""
    scale = 127.0 / float(np.abs(vectors).max())
    return np.round(vectors * scale).astype(np.int8), scale


def numpy_maxsim(case: MaxSimCase) -> Iterator[Contestant]:
    """NumPy: one float32 product either way round, or one per document; what is not float32 is converted at every call.

    One bit: exclusive or and population count over 64-bit words.
    """
    query, offsets, length, num_documents = (
        case.query,
        case.documents.offsets,
        case.document_length,
        len(case.documents),
    )
    if case.storage == "1bit":
        yield _numpy_bits(case)
    if case.storage not in ("f32", "f16", "i8"):
        return
    factor, num_bytes, vectors = 1.0, None, case.documents.vectors
    if case.storage == "f16":
        vectors = vectors.astype(np.float16)
        num_bytes = vectors.nbytes
    if case.storage == "i8":
        vectors, factor = int8_codes(vectors)
        num_bytes = vectors.nbytes

    def flat_query_first() -> Any:
        similarities = query @ vectors.astype(np.float32, copy=False).T
        if length is None:
            return np.maximum.reduceat(similarities, offsets[:-1], axis=1).sum(axis=0) / factor
        return similarities.reshape(len(query), num_documents, length).max(axis=2).sum(axis=0) / factor

    def flat_documents_first() -> Any:
        similarities = vectors.astype(np.float32, copy=False) @ query.T
        if length is None:
            return np.maximum.reduceat(similarities, offsets[:-1], axis=0).sum(axis=1) / factor
        return similarities.reshape(num_documents, length, len(query)).max(axis=1).sum(axis=1) / factor

    def loop() -> Any:
        documents = (vectors[i:j] for i, j in pairwise(offsets))
        each = [(query @ d.astype(np.float32, copy=False).T).max(axis=1).sum() for d in documents]
        return np.array(each) / factor

    for engine, call in (
        ("numpy-q@d.T", flat_query_first),
        ("numpy-d@q.T", flat_documents_first),
        ("numpy-loop", loop),
    ):
        expected = (lambda: case.exact) if case.storage == "i8" else None
        yield case.contestant(engine, call, library="numpy", expected=expected, num_bytes=num_bytes)


def numpy_gemm(size: int) -> Contestant:
    """OpenBLAS at its best, on a square product: what MaxSim's float32 rate is often compared with."""
    square = np.random.default_rng(0).random((size, size), np.float32)
    product = np.empty_like(square)
    return Contestant(
        "gemm",
        "f32",
        "numpy",
        f"{size}x{size}x{size}",
        lambda: np.matmul(square, square, out=product),
        items=1,
        library="numpy",
        operations={"fma_f32": 2.0 * size**3},
    )


def _numpy_bits(case: MaxSimCase) -> Contestant:
    query, documents = (np.packbits(v > 0, axis=1).view(np.uint64) for v in (case.query, case.documents.vectors))
    dim, offsets = case.documents.dim, case.documents.offsets

    def call() -> Any:
        distances = np.stack([np.bitwise_count(documents ^ q).sum(axis=1, dtype=np.int32) for q in query])
        return (dim - 2 * np.minimum.reduceat(distances, offsets[:-1], axis=1)).sum(axis=0)

    return case.contestant("numpy", call, library="numpy", expected=lambda: case.of_signs, num_bytes=documents.nbytes)


def maxsim_cpu(case: MaxSimCase) -> Iterator[Contestant]:
    """maxsim-cpu (mixedbread), both entry points; float32 only."""
    import maxsim_cpu as library

    query, documents, length = case.query, case.documents, case.document_length
    if case.storage != "f32":
        return
    arrays = list(documents)
    if length is not None:
        stacked = documents.vectors.reshape(len(documents), length, documents.dim)
        yield case.contestant("maxsim-cpu", lambda: library.maxsim_scores(query, stacked), library="maxsim-cpu")
    yield case.contestant(
        "maxsim-cpu-variable", lambda: library.maxsim_scores_variable(query, arrays), library="maxsim-cpu"
    )


def numkong(case: MaxSimCase) -> Iterator[Contestant]:
    """NumKong: one packed query and one packed document a call, documents packed beforehand; inexact, see its errors.

    It sums angular distances, 1 - cosine; vectors here have unit length. One bit: all distances to all documents in one
    call, then NumPy.
    """
    import numkong as library

    query, documents = case.query, case.documents
    if case.storage == "1bit":
        bits = np.packbits(documents.vectors > 0, axis=1)
        packed_bits, query_bits = library.hammings_pack(bits), np.packbits(query > 0, axis=1)

        def hammings() -> Any:
            distances = np.asarray(library.hammings_packed(query_bits, packed_bits))
            nearest = np.minimum.reduceat(distances, documents.offsets[:-1], axis=1).astype(np.int64)
            return (documents.dim - 2 * nearest).sum(axis=0)

        yield case.contestant(
            "numkong", hammings, library="numkong", expected=lambda: case.of_signs, num_bytes=bits.nbytes
        )
    if case.storage not in ("f32", "f16", "bf16"):
        return
    dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[case.storage]

    def pack(vectors: NDArray[np.float32]) -> Any:
        return library.maxsim_pack(library.Tensor(vectors).astype(dtype), dtype=case.storage)

    packed = [pack(document) for document in documents]

    def call() -> Any:
        packed_query = pack(query)
        distances = [library.maxsim_packed(packed_query, document) for document in packed]
        return len(query) - np.array(distances)

    num_bytes = documents.vectors.size * (4 if case.storage == "f32" else 2)
    yield case.contestant("numkong", call, library="numkong", expected=lambda: case.exact, num_bytes=num_bytes)


def torch(case: MaxSimCase) -> Iterator[Contestant]:
    """PyTorch on the CPU: one product, then the maximum per document; documents of one length."""
    import torch as library

    length = case.document_length
    if length is None or case.storage not in ("f32", "bf16", "i8"):
        return
    library.set_num_threads(1)
    query, flat, factor = library.from_numpy(case.query), library.from_numpy(case.documents.vectors), 1.0
    if case.storage == "i8":
        query_codes, query_scale = int8_codes(case.query)
        codes, scale = int8_codes(case.documents.vectors)
        query, flat, factor = library.from_numpy(query_codes), library.from_numpy(codes), scale * query_scale
    elif case.storage == "bf16":
        query, flat = query.to(library.bfloat16), flat.to(library.bfloat16)

    def call() -> Any:
        similarities = library._int_mm(flat, query.T) if case.storage == "i8" else flat @ query.T
        best = similarities.view(-1, length, len(query)).amax(dim=1)
        return best.sum(dim=1, dtype=library.float32).numpy() / factor

    yield case.contestant(
        "torch", call, library="torch", expected=lambda: case.exact, num_bytes=flat.numel() * flat.element_size()
    )


# ── codes of single vectors ─────────────────────────────────────────────────────────────────────────────────────────


def numpy_hamming(case: HammingCase) -> Iterator[Contestant]:
    """NumPy: exclusive or, population count, the k smallest."""

    def call() -> Any:
        return (np.stack([np.sort(np.partition(case.distances(query), K)[:K]) for query in case.queries]),)

    yield case.contestant("numpy", call, library="numpy")


def faiss_hamming(case: HammingCase) -> Iterator[Contestant]:
    """FAISS: all distances; and RaBitQ, one bit a dim and a float correction, on the same bits as ±1."""
    import faiss

    faiss.omp_set_num_threads(1)
    dim = case.codes.shape[1] * 8
    flat = faiss.IndexBinaryFlat(dim)
    flat.add(case.codes)
    yield case.contestant("faiss-IndexBinaryFlat", lambda: flat.search(case.queries, K), library="faiss-cpu")
    if not hasattr(faiss, "IndexRaBitQFastScan"):
        return

    def signs(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.unpackbits(codes, axis=1).astype(np.float32) * 2 - 1

    rabitq, queries, chunk = faiss.IndexRaBitQFastScan(dim, faiss.METRIC_INNER_PRODUCT), signs(case.queries), 20_000
    rabitq.train(signs(case.codes[:chunk]))
    for i in range(0, len(case.codes), chunk):
        rabitq.add(signs(case.codes[i : i + chunk]))

    def lost(found: Any) -> dict[str, float]:
        pairs = zip(case.queries, found[1], case.expected, strict=True)
        far = [(case.distances(query)[rows] > nearest[-1]).mean() for query, rows, nearest in pairs]
        return {"lost_neighbours": float(np.mean(far))}

    yield case.contestant(
        "faiss-IndexRaBitQFastScan", lambda: rabitq.search(queries, K), library="faiss-cpu", check=lost
    )


def usearch(case: HammingCase) -> Iterator[Contestant]:
    """Usearch: its exact search, one thread."""
    from usearch.index import MetricKind, ScalarKind, search

    def call() -> Any:
        found = search(
            case.codes, case.queries, K, metric=MetricKind.Hamming, exact=True, threads=1, dtype=ScalarKind.B1
        )
        return (found.distances,)

    yield case.contestant("usearch", call, library="usearch")


def numkong_hamming(case: HammingCase) -> Iterator[Contestant]:
    """NumKong: all distances to packed codes, then the k smallest by NumPy."""
    import numkong as library

    packed = library.hammings_pack(case.codes)

    def call() -> Any:
        distances = np.asarray(library.hammings_packed(case.queries, packed))
        return (np.sort(np.partition(distances, K, axis=1)[:, :K], axis=1),)

    yield case.contestant("numkong", call, library="numkong")


def faiss_fast_scan(case: SdcCase) -> Iterator[Contestant]:
    """FAISS's 4-bit fast scan with the levels' values as centroids, so that its codes are these codes.

    It rounds its look-up tables to 8 bits, see its errors.
    """
    import faiss

    if case.bits != 4:
        return
    faiss.omp_set_num_threads(1)
    dim, chunk = case.levels.shape[1], 20_000
    index = faiss.IndexPQFastScan(dim, dim, 4, faiss.METRIC_INNER_PRODUCT)
    values = case.values(np.arange(16, dtype=np.uint8))
    faiss.copy_array_to_vector(np.tile(values, dim), index.pq.centroids)
    index.is_trained = True
    for i in range(0, len(case.levels), chunk):
        index.add(case.values(case.levels[i : i + chunk]))
    queries = case.values(case.query_levels)
    yield case.contestant("faiss-IndexPQFastScan", lambda: index.search(queries, K), library="faiss-cpu")


def numpy_sdc(case: SdcCase) -> Iterator[Contestant]:
    """NumPy: a float32 product of the values, made at every call from the levels, in chunks."""

    def call() -> Any:
        return (SdcCase(case.query_levels, case.levels, case.bits).expected,)

    yield case.contestant("numpy", call, library="numpy")


# ── fixed-dimensional encodings ─────────────────────────────────────────────────────────────────────────────────────


def muvera_python(case: FdeCase) -> Iterator[tuple[Contestant, Contestant]]:
    """muvera-python (Rust), whole batches, sparse ±1 projection as Google's."""
    from muvera import Muvera

    encoder = Muvera(
        NUM_REPETITIONS,
        NUM_SIMHASH_PROJECTIONS,
        case.documents.dim,
        projection_type="ams_sketch",
        projection_dimension=PROJECTION_DIMENSION,
        fill_empty_partitions=True,
    )
    documents, queries = list(case.documents), list(case.queries)
    yield case.contestants(
        "muvera-python",
        "google",
        lambda: encoder.encode_documents(documents),
        lambda: encoder.encode_queries(queries),
        library="muvera-python",
    )


def fastembed(case: FdeCase) -> Iterator[tuple[Contestant, Contestant]]:
    """Qdrant's fastembed, one item a call, dense ±1 projection as in the paper."""
    from fastembed.postprocess import Muvera

    encoder = Muvera(
        dim=case.documents.dim,
        k_sim=NUM_SIMHASH_PROJECTIONS,
        dim_proj=PROJECTION_DIMENSION,
        r_reps=NUM_REPETITIONS,
    )
    yield case.contestants(
        "fastembed",
        "paper",
        lambda: np.stack([encoder.process_document(document) for document in case.documents]),
        lambda: np.stack([encoder.process_query(query) for query in case.queries]),
        library="fastembed",
    )


MAXSIM_PEERS = (maxsim_cpu, numkong, torch)
HAMMING_PEERS = (numpy_hamming, faiss_hamming, usearch, numkong_hamming)
SDC_PEERS = (numpy_sdc, faiss_fast_scan)
FDE_PEERS = (muvera_python, fastembed)
