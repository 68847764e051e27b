"""The peers: one function per library and task, which imports it. What is not installed is reported as such.

    pip install maxsim-cpu numkong muvera-python fastembed torch

muvera-rs installs over muvera-python (both are the module `muvera`) and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from typing import Any

import numpy as np

from bench.cases import NUM_REPETITIONS, NUM_SIMHASH_PROJECTIONS, PROJECTION_DIMENSION, FdeCase, MaxSimCase
from bench.measure import Contestant

PEERS = ("maxsim-cpu", "numkong", "torch", "muvera-python", "fastembed")


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


def numpy_maxsim(case: MaxSimCase) -> Iterator[Contestant]:
    """NumPy, three ways: one product either way round, or one per document; float16 is converted at every call."""
    query, documents, length = case.query, case.documents, case.document_length
    offsets, num_documents = documents.offsets, len(documents)

    def flat_query_first() -> Any:
        similarities = query @ documents.vectors.astype(np.float32, copy=False).T
        if length is None:
            return np.maximum.reduceat(similarities, offsets[:-1], axis=1).sum(axis=0)
        return similarities.reshape(len(query), num_documents, length).max(axis=2).sum(axis=0)

    def flat_documents_first() -> Any:
        similarities = documents.vectors.astype(np.float32, copy=False) @ query.T
        if length is None:
            return np.maximum.reduceat(similarities, offsets[:-1], axis=0).sum(axis=1)
        return similarities.reshape(num_documents, length, len(query)).max(axis=1).sum(axis=1)

    def loop() -> Any:
        return np.array([(query @ d.astype(np.float32, copy=False).T).max(axis=1).sum() for d in documents])

    for engine, call in (
        ("numpy-q@d.T", flat_query_first),
        ("numpy-d@q.T", flat_documents_first),
        ("numpy-loop", loop),
    ):
        yield case.contestant(engine, call, library="numpy")


def maxsim_cpu(case: MaxSimCase) -> Iterator[Contestant]:
    """maxsim-cpu (mixedbread), both entry points; float32 only."""
    import maxsim_cpu as library

    query, documents, length = case.query, case.documents, case.document_length
    if documents.dtype != np.float32:
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

    It sums angular distances, 1 - cosine; vectors here have unit length.
    """
    import numkong as library

    query, dtype = case.query, case.documents.dtype
    packed = [library.maxsim_pack(document) for document in case.documents]

    def call() -> Any:
        packed_query = library.maxsim_pack(query.astype(dtype, copy=False))
        distances = [library.maxsim_packed(packed_query, document) for document in packed]
        return len(query) - np.array(distances)

    yield case.contestant("numkong", call, library="numkong")


def torch(case: MaxSimCase) -> Iterator[Contestant]:
    """PyTorch on the CPU: one product, then the maximum per document; documents of one length, float32."""
    import torch as library

    length = case.document_length
    if length is None or case.documents.dtype != np.float32:
        return
    library.set_num_threads(1)
    query, flat = library.from_numpy(case.query), library.from_numpy(case.documents.vectors)

    def call() -> Any:
        similarities = (flat @ query.T).view(-1, length, len(query))
        return similarities.amax(dim=1).sum(dim=1).numpy()

    yield case.contestant("torch", call, library="torch")


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
FDE_PEERS = (muvera_python, fastembed)
