"""The kernels, each beside its limit and its peers, one thread: MaxSim over every storage, codes, FDE, memory, import.

Run with `python -m bench kernels --peers`. Within a group all contestants and the loops that measure the core's limits
take turns, so ratios hold on a busy machine while seconds may not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import chamfer as ch
from bench import peers, processes, record
from bench.cases import (
    NUM_REPETITIONS,
    NUM_SIMHASH_PROJECTIONS,
    PROJECTION_DIMENSION,
    STORAGES,
    AbsentError,
    FdeCase,
    MaxSimCase,
    astype,
    collection,
    fde_float64,
    isas_of,
    or_skip,
)
from bench.figures import figures
from bench.measure import Budget, Contestant, measure_group
from bench.roofline import Roofline
from bench.searches import HammingCase, K, RerankCase, SdcCase, real_collection

DIM = 128

Group = tuple[str, list[Contestant], str]
"""Name, contestants, name of the baseline, which is chamfer's best instruction set."""


@dataclass(frozen=True)
class Sizes:
    """The shapes; these are what the figures to reach are stated for."""

    num_documents: int = 1_000
    document_length: int = 180
    short_length: int = 80
    shortest: int = 60
    longest: int = 300
    query_length: int = 32
    query_lengths: tuple[int, ...] = (5, 32, 33, 48, 100, 160)
    num_queries: int = 16
    num_batch_queries: int = 64
    real: str = "scifact"
    num_real_queries: int = 16
    num_recall_queries: int = 300
    num_codes: int = 1_000_000
    code_size: int = 128
    sdc_dim: int = 512
    sdc_bits: int = 4
    formula_dim: int = 256
    formula_codes: tuple[int, ...] = (5_183, 20_000, 1_000_000)
    formula_queries: tuple[int, ...] = (1, 32, 64)
    fde_items: int = 200
    fde_document_length: int = 120
    memory_items: int = 20_000
    import_rounds: int = 9
    gemm_size: int = 1024


QUICK = Sizes(
    num_documents=20,
    document_length=12,
    short_length=8,
    shortest=4,
    longest=20,
    query_lengths=(5, 33),
    num_queries=3,
    num_batch_queries=3,
    real="mini",
    num_real_queries=3,
    num_recall_queries=3,
    num_codes=2_000,
    formula_codes=(100, 2_000),
    formula_queries=(1, 3),
    fde_items=10,
    fde_document_length=20,
    memory_items=200,
    import_rounds=1,
    gemm_size=128,
)


def run(*, peers: bool, only: list[str] | None, quick: bool, rounds: int | None, output: Path | None) -> dict[str, Any]:
    """Measure everything, or only groups whose name contains one of these; print, write and return it."""
    sizes, budget = QUICK if quick else Sizes(), Budget.of(quick=quick, rounds=rounds)
    settings = {"quick": quick, "peers": peers, "only": only, "sizes": vars(sizes), "budget": vars(budget)}
    result = record.begin("kernels", settings)
    roofline = Roofline(budget)
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for group, contestants, baseline in groups(sizes, peers, skipped):
        if only is None or any(part in group for part in only):
            rows += measure_group(group, contestants, roofline, budget, baseline)
    if only is None:
        rows += recall_rows(sizes)
        rows += processes.memory_rows(sizes.memory_items, sizes.fde_document_length, DIM)
        rows += processes.import_rows(sizes.import_rounds)
    result |= {"rows": rows, "skipped": skipped, "figures": figures(rows)}
    record.print_kernels(result)
    record.finish(result, output, None if quick or only else "kernels")
    return result


def groups(sizes: Sizes, with_peers: bool, skipped: list[dict[str, str]]) -> Iterator[Group]:
    """Yield what is measured together; `skipped` takes what cannot be measured here, with the reason."""
    yield from maxsim_groups(sizes, with_peers)
    yield from code_groups(sizes, with_peers)
    yield from exact_groups(sizes, skipped)
    pairs = encoders(sizes, with_peers)
    for index, group in enumerate(("fde documents", "fde queries")):
        contestants = [pair[index] for pair in pairs]
        yield group, contestants, contestants[0].name
    for group, contestants in pairs_of_threads(sizes):
        yield f"two threads, {group}", contestants, contestants[0].name


# ── MaxSim ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def maxsim_groups(sizes: Sizes, with_peers: bool) -> Iterator[Group]:
    rng = np.random.default_rng(0)
    query = collection(rng, [sizes.query_length], DIM)
    documents = collection(rng, [sizes.document_length] * sizes.num_documents, DIM)
    short = collection(rng, [sizes.short_length] * sizes.num_documents, DIM)
    lengths = rng.integers(sizes.shortest, sizes.longest + 1, sizes.num_documents)
    ragged = collection(rng, lengths, DIM)
    of_documents = f"{sizes.num_documents}x{sizes.document_length}x{DIM}"

    for group, stored, shape, storages in (
        ("one query", documents, of_documents, tuple(STORAGES)),
        ("one query, short documents", short, f"{sizes.num_documents}x{sizes.short_length}x{DIM}", tuple(STORAGES)),
        (
            "one query, ragged documents",
            ragged,
            f"{sizes.num_documents}x{sizes.shortest}-{sizes.longest}x{DIM}",
            ("f32", "f16", "bf16", "i8", "1bit"),
        ),
    ):
        case = MaxSimCase(query, stored, f"{sizes.query_length}x{DIM}, {shape}")
        contestants = every_storage(case, storages, with_peers)
        if group == "one query":
            contestants.append(peers.numpy_gemm(sizes.gemm_size))
        yield group, contestants, _best_name(case)

    for length in sizes.query_lengths:
        case = MaxSimCase(collection(rng, [length], DIM), documents, f"{length}x{DIM}, {of_documents}")
        contestants = [chamfer_maxsim(case), *peers.numpy_maxsim(case)]
        if with_peers:
            contestants += peers.contestants(peers.MAXSIM_PEERS, case)
        for storage in ("f16", "bf16", "i8", "1bit"):
            contestants.append(chamfer_maxsim(case.stored(storage)))
        yield f"query of {length} tokens", contestants, contestants[0].name

    lengths = rng.integers(32, 161, sizes.num_queries)
    shape = f"{sizes.num_queries}x32-160x{DIM}, {of_documents}"
    case = MaxSimCase(collection(rng, lengths, DIM), documents, shape)
    contestants = [chamfer_maxsim(case), chamfer_maxsim(case.stored("f16")), numpy_batch(case)]
    yield "ragged queries", contestants, contestants[0].name


def every_storage(case: MaxSimCase, storages: Iterable[str], with_peers: bool) -> list[Contestant]:
    """Return, for each storage, chamfer on each instruction set, NumPy, and the peers."""
    found: list[Contestant] = []
    for storage in storages:
        part = case.stored(storage)
        found += [chamfer_maxsim(part, isa) for isa in isas_of(storage)]
        found += peers.numpy_maxsim(part)
        if with_peers:
            found += peers.contestants(peers.MAXSIM_PEERS, part)
    return found


def chamfer_maxsim(case: MaxSimCase, isa: str | None = None, num_threads: int | None = None) -> Contestant:
    """Return chamfer on an instruction set, the storage's best if none is named."""
    isa = isa or isas_of(case.storage)[-1]
    call = partial(ch.maxsim, *case.operands, num_threads=num_threads or 1, isa=isa)
    shape = f"{case.shape}, {num_threads} threads" if num_threads else case.shape
    return case.contestant(isa, call, num_threads=num_threads or 1, shape=shape)


def _best_name(case: MaxSimCase) -> str:
    return f"maxsim_{case.storage}_{isas_of(case.storage)[-1]}[{case.shape}]"


def numpy_batch(case: MaxSimCase) -> Contestant:
    """NumPy query by query: one product for the whole batch would need gigabytes."""
    each = [MaxSimCase(case.queries.select([i]), case.documents, "") for i in range(len(case.queries))]
    calls = [next(c for c in peers.numpy_maxsim(one) if c.engine == "numpy-q@d.T").call for one in each]
    return case.contestant("numpy-q@d.T", lambda: np.stack([call() for call in calls]), library="numpy")


# ── codes, reranking, screening ─────────────────────────────────────────────────────────────────────────────────────


def code_groups(sizes: Sizes, with_peers: bool) -> Iterator[Group]:
    hamming = HammingCase.make(1, sizes.num_codes, sizes.code_size)
    contestants = [hamming.chamfer(isa) for isa in reversed(isas_of("1bit"))]
    if with_peers:
        contestants += peers.contestants(peers.HAMMING_PEERS, hamming)
    yield "hamming", contestants, contestants[0].name

    sdc = SdcCase.make(1, sizes.num_codes, sizes.sdc_dim, sizes.sdc_bits)
    contestants = [sdc.chamfer(isa) for isa in reversed(isas_of("i8"))]
    contestants += [sdc.chamfer_formula(formula, isas_of("i8")[-1]) for formula in ("bitwise", "integer", "table")]
    if with_peers:
        contestants += peers.contestants(peers.SDC_PEERS, sdc)
    yield "sdc", contestants, contestants[0].name
    yield from formula_groups(sizes)


def formula_groups(sizes: Sizes) -> Iterator[Group]:
    """Yield SDC beside the bitwise formula of the same codes, (bits)² counts of differing bits weighed by their places.

    Codes lie in the L2 cache, the L3 cache and memory. For one query both formulas read as many bytes, and from memory
    neither can be faster than those; a batch reads them once for all of its queries, and arithmetic decides.
    """
    isa = isas_of("i8")[-1]
    for num_codes in sizes.formula_codes:
        for num_queries in sizes.formula_queries:
            case = SdcCase.make(num_queries, num_codes, sizes.formula_dim, sizes.sdc_bits)
            contestants = [case.chamfer(isa), case.chamfer_formula("bitwise", isa)]
            yield f"sdc formulas, {num_queries} of {num_codes} codes", contestants, contestants[0].name


def exact_groups(sizes: Sizes, skipped: list[dict[str, str]]) -> Iterator[Group]:
    """Yield exact scores and the best 10, with screening and without, of all documents and of candidates."""
    for case in rerank_cases(sizes, skipped):
        for group, build in (("exact screening", case.screening), ("top 10", case.search), ("rerank", case.rerank)):
            contestants = [build("f32", isas_of("f32")[-1])]
            contestants += [build("f32-screened", isa) for isa in reversed(isas_of("i8"))]
            yield f"{group}, {case.name}", contestants, contestants[0].name


def rerank_cases(sizes: Sizes, skipped: list[dict[str, str]]) -> list[RerankCase]:
    """Return the cases of exact scores: random vectors, which screening can tell apart least, and real ones."""

    def real() -> RerankCase:
        return RerankCase(*real_collection(sizes.real, sizes.num_real_queries), sizes.real)

    shape = (sizes.num_queries, sizes.query_length, sizes.num_documents, sizes.document_length, DIM)
    return [RerankCase.synthetic(*shape), *or_skip(skipped, f"exact scores of {sizes.real}", real)]


def recall_rows(sizes: Sizes) -> list[dict[str, Any]]:
    """Return, per storage, how many of the exact top 10 of real queries are among its first 10, 20, 50 and 100."""
    try:
        queries, documents = real_collection(sizes.real, sizes.num_recall_queries)
    except AbsentError:  # told already
        return []
    case = MaxSimCase(queries, documents, sizes.real)
    best = ch.maxsim_topk(queries, documents, K)[1]
    rows = []
    for storage in STORAGES:
        stored = case.stored(storage).operands
        found = ch.maxsim_topk(*stored, 100)[1]
        recall = {
            f"recall@{n}": float(np.mean([np.isin(best[i], found[i, :n]).mean() for i in range(len(best))]))
            for n in (10, 20, 50, 100)
        }
        name = f"recall_{storage}[{len(queries)} queries, {sizes.real}]"
        bytes_per_token = stored[1].nbytes / documents.num_tokens
        rows.append({"name": name, "group": "recall", "bytes_per_token": bytes_per_token, **recall})
    return rows


# ── two threads ─────────────────────────────────────────────────────────────────────────────────────────────────────


def pairs_of_threads(sizes: Sizes) -> Iterator[tuple[str, list[Contestant]]]:
    """Yield every batch call with one thread and with two."""
    rng = np.random.default_rng(0)
    batch = collection(rng, [sizes.query_length] * sizes.num_batch_queries, DIM)
    documents = collection(rng, [sizes.document_length] * sizes.num_documents, DIM)
    of_documents = f"{sizes.num_documents}x{sizes.document_length}x{DIM}"
    case = MaxSimCase(batch, documents, f"{sizes.num_batch_queries}x{sizes.query_length}x{DIM}, {of_documents}")
    calls: list[tuple[str, Any]] = [
        (f"maxsim {storage}", partial(chamfer_maxsim, case.stored(storage), None)) for storage in STORAGES
    ]
    hamming = HammingCase.make(sizes.num_batch_queries, sizes.num_codes, sizes.code_size)
    sdc = SdcCase.make(sizes.num_batch_queries, sizes.num_codes, sizes.sdc_dim, sizes.sdc_bits)
    calls += [
        ("hamming", partial(hamming.chamfer, isas_of("1bit")[-1])),
        ("sdc", partial(sdc.chamfer, isas_of("i8")[-1])),
    ]
    for rerank in rerank_cases(sizes, []):
        for storage in ("f32", "f32-screened"):
            isa = isas_of("f32" if storage == "f32" else "i8")[-1]
            calls.append((f"top 10 {storage}, {rerank.name}", partial(rerank.search, storage, isa)))
            calls.append((f"rerank {storage}, {rerank.name}", partial(rerank.rerank, storage, isa)))
    fde = FdeCase.make(5 * sizes.fde_items, sizes.fde_document_length, _fde_query_length(sizes), DIM)
    for index, side in enumerate(("documents", "queries")):
        calls.append((f"fde {side}", lambda n, index=index: chamfer_encoder(fde, "paper", num_threads=n)[index]))
    for name, build in calls:
        yield name, [build(num_threads) for num_threads in (1, 2)]


# ── fixed-dimensional encodings ─────────────────────────────────────────────────────────────────────────────────────


def _fde_query_length(sizes: Sizes) -> int:
    return min(sizes.query_length, sizes.fde_document_length)


def encoders(sizes: Sizes, with_peers: bool) -> list[tuple[Contestant, Contestant]]:
    """Return (documents, queries) contestants, the best instruction set on the paper's layout first."""
    case = FdeCase.make(sizes.fde_items, sizes.fde_document_length, _fde_query_length(sizes), DIM)
    half = FdeCase(astype(case.documents, "float16"), astype(case.queries, "float16"))
    isas, pairs = isas_of("f32")[::-1], []
    for layout in ("paper", "google"):
        pairs += [chamfer_encoder(case, layout, isa) for isa in isas]
    pairs.append(chamfer_encoder(case, "paper", center=True))
    pairs.append(chamfer_encoder(half, "paper"))
    for documents, queries in (("float16", "float16"), ("int8", "int8"), ("bits", "bits"), ("float32", "sparse")):
        pairs.append(chamfer_encoder(case, "paper", outputs=(documents, queries)))
    if with_peers:
        pairs += peers.contestants(peers.FDE_PEERS, case)
    pairs.sort(key=lambda pair: pair[0].engine != isas[0])  # stable: the baseline leads
    return pairs


def chamfer_encoder(
    case: FdeCase,
    layout: Any,
    isa: str | None = None,
    *,
    center: bool = False,
    outputs: tuple[str, str] | None = None,
    num_threads: int | None = None,
) -> tuple[Contestant, Contestant]:
    """Return chamfer's (documents, queries), with these outputs instead of float32."""
    isa = isa or isas_of("f32")[-1]
    encoder = ch.FixedDimensionalEncoder(
        DIM,
        num_repetitions=NUM_REPETITIONS,
        num_simhash_projections=NUM_SIMHASH_PROJECTIONS,
        projection_dimension=PROJECTION_DIMENSION,
        layout=layout,
        center=center,
    )
    means: dict[bool, Any] = {True: None, False: None}
    if center:
        encoder.fit(case.documents, case.queries)
        means = {True: case.documents.vectors.mean(axis=0), False: case.queries.vectors.mean(axis=0)}
    simhash, projections = ch._core.draw_fde_matrices(
        layout,
        encoder.seed,
        dim=DIM,
        num_repetitions=NUM_REPETITIONS,
        num_simhash_projections=NUM_SIMHASH_PROJECTIONS,
        projection_dimension=PROJECTION_DIMENSION,
    )
    kind, forms = layout + (", centred" if center else ""), ({}, {})
    if outputs is not None:
        kind += f", {outputs[0]} documents, {outputs[1]} queries"
        forms = tuple({"output": output} for output in outputs)
    if num_threads is not None:
        kind += f", {num_threads} threads"
    arguments: dict[str, Any] = {"num_threads": num_threads or 1, "isa": isa}
    return case.contestants(
        isa,
        kind,
        partial(encoder.encode_documents, case.documents, **arguments, **forms[0]),
        partial(encoder.encode_queries, case.queries, **arguments, **forms[1]),
        num_threads=num_threads or 1,
        # signs alone are no approximation of the numbers
        expected=None
        if outputs is not None and outputs[0] == "bits"
        else lambda items, is_documents: fde_float64(
            items, is_documents, simhash=simhash, projections=projections, layout=layout, mean=means[is_documents]
        ),
    )
