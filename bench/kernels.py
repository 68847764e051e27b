"""The kernels, one thread: MaxSim and FDE beside NumPy and the peers, what they take of memory, what importing takes.

Run with `python -m bench kernels --peers`. Within a group all contestants and the roofs take turns, so ratios hold on a
busy machine while seconds may not.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    FdeCase,
    MaxSimCase,
    astype,
    collection,
    fde_float64,
    short,
)
from bench.measure import Budget, Contestant, Roofs, measure_group

DIM = 128


@dataclass(frozen=True)
class Sizes:
    """The shapes; these are what the figures to reach are stated for."""

    num_documents: int = 1_000
    document_length: int = 180
    shortest: int = 60
    longest: int = 300
    query_length: int = 32
    query_lengths: tuple[int, ...] = (5, 32, 33, 48, 100, 160)
    num_queries: int = 16
    fde_items: int = 200
    fde_document_length: int = 120
    memory_items: int = 20_000
    import_rounds: int = 9


QUICK = Sizes(
    num_documents=20,
    document_length=12,
    shortest=4,
    longest=20,
    query_lengths=(5, 33),
    num_queries=3,
    fde_items=10,
    fde_document_length=20,
    memory_items=200,
    import_rounds=1,
)


def run(*, peers: bool, quick: bool, rounds: int | None, output: Path | None) -> dict[str, Any]:
    """Measure everything, print it, write it; return what was written."""
    sizes = QUICK if quick else Sizes()
    budget = Budget(2, 0.0, gemm_size=128, read_bytes=2**20) if quick else Budget(15, 0.02)
    if rounds is not None:
        budget = Budget(rounds, budget.min_seconds, budget.gemm_size, budget.read_bytes)
    result = record.begin("kernels", {"quick": quick, "peers": peers, "sizes": vars(sizes), "budget": vars(budget)})
    roofs = Roofs(budget)
    rows: list[dict[str, Any]] = []
    for group, contestants, baseline in groups(sizes, peers):
        rows += measure_group(group, contestants, roofs, budget, baseline)
    rows += processes.memory_rows(sizes.memory_items, sizes.fde_document_length, DIM)
    rows += processes.import_rows(sizes.import_rounds)
    result |= {"rows": rows, "figures": figures(rows)}
    record.print_kernels(result)
    record.finish(result, output, None if quick else "kernels")
    return result


def groups(sizes: Sizes, with_peers: bool) -> Iterator[tuple[str, list[Contestant], str]]:
    """Yield (name, contestants, name of the baseline); the baseline is chamfer's best instruction set."""
    best = ch.best_isa()
    rng = np.random.default_rng(0)
    query = collection(rng, [sizes.query_length], DIM)
    documents = collection(rng, [sizes.document_length] * sizes.num_documents, DIM)
    of_documents = f"{sizes.num_documents}x{sizes.document_length}x{DIM}"

    case = MaxSimCase(query, documents, f"{sizes.query_length}x{DIM}, {of_documents}")
    contestants = [*single_query(case, with_peers), *single_query(case.with_dtype("float16"), with_peers)]
    yield "one query", contestants, f"maxsim_f32_{best}[{case.shape}]"

    lengths = rng.integers(sizes.shortest, sizes.longest + 1, sizes.num_documents)
    shape = f"{sizes.query_length}x{DIM}, {sizes.num_documents}x{sizes.shortest}-{sizes.longest}x{DIM}"
    case = MaxSimCase(query, collection(rng, lengths, DIM), shape)
    contestants = [*single_query(case, with_peers), *single_query(case.with_dtype("float16"), with_peers)]
    yield "one query, ragged documents", contestants, f"maxsim_f32_{best}[{case.shape}]"

    for length in sizes.query_lengths:
        case = MaxSimCase(collection(rng, [length], DIM), documents, f"{length}x{DIM}, {of_documents}")
        contestants = [*single_query(case, with_peers, (best,)), chamfer_maxsim(case.with_dtype("float16"), best)]
        yield f"query of {length} tokens", contestants, f"maxsim_f32_{best}[{case.shape}]"

    lengths = rng.integers(32, 161, sizes.num_queries)
    shape = f"{sizes.num_queries}x32-160x{DIM}, {of_documents}"
    case = MaxSimCase(collection(rng, lengths, DIM), documents, shape)
    contestants = [chamfer_maxsim(case, best), chamfer_maxsim(case.with_dtype("float16"), best), numpy_batch(case)]
    yield "ragged queries", contestants, f"maxsim_f32_{best}[{case.shape}]"

    batch = collection(rng, [sizes.query_length] * sizes.num_queries, DIM)
    case = MaxSimCase(batch, documents, f"{sizes.num_queries}x{sizes.query_length}x{DIM}, {of_documents}")
    contestants = [chamfer_maxsim(case, best, num_threads=n) for n in (1, 2)]
    yield "threads, batch", contestants, contestants[0].name
    case = MaxSimCase(query, documents, f"{sizes.query_length}x{DIM}, {of_documents}")
    contestants = [chamfer_maxsim(case, best, num_threads=n) for n in (1, 2)]
    yield "threads, one query", contestants, contestants[0].name

    for index, group in enumerate(("fde documents", "fde queries")):
        pairs = encoders(sizes, with_peers)
        contestants = [pair[index] for pair in pairs]
        yield group, contestants, contestants[0].name


def single_query(case: MaxSimCase, with_peers: bool, isas: tuple[str, ...] = ch.available_isas()) -> list[Contestant]:
    """Return chamfer on each instruction set, NumPy, and the peers."""
    contestants = [chamfer_maxsim(case, isa) for isa in isas]
    contestants += peers.numpy_maxsim(case)
    if with_peers:
        contestants += peers.contestants(peers.MAXSIM_PEERS, case)
    return contestants


def chamfer_maxsim(case: MaxSimCase, isa: str, num_threads: int | None = None) -> Contestant:
    call = partial(ch.maxsim, case.queries, case.documents, num_threads=num_threads or 1, isa=isa)
    shape = f"{case.shape}, {num_threads} threads" if num_threads else case.shape
    return case.contestant(isa, call, num_threads=num_threads or 1, shape=shape)


def numpy_batch(case: MaxSimCase) -> Contestant:
    """NumPy query by query: one product for the whole batch would need gigabytes."""
    each = [MaxSimCase(case.queries.select([i]), case.documents, "") for i in range(len(case.queries))]
    calls = [next(c for c in peers.numpy_maxsim(one) if c.engine == "numpy-q@d.T").call for one in each]
    return case.contestant("numpy-q@d.T", lambda: np.stack([call() for call in calls]), library="numpy")


def encoders(sizes: Sizes, with_peers: bool) -> list[tuple[Contestant, Contestant]]:
    """Return (documents, queries) contestants, the best instruction set on the paper's layout first."""
    case = FdeCase.make(
        sizes.fde_items, sizes.fde_document_length, min(sizes.query_length, sizes.fde_document_length), DIM
    )
    half = FdeCase(astype(case.documents, "float16"), astype(case.queries, "float16"))
    best, pairs = ch.best_isa(), []
    for layout in ("paper", "google"):
        pairs += [chamfer_encoder(case, layout, isa, center=False) for isa in reversed(ch.available_isas())]
    pairs.append(chamfer_encoder(case, "paper", best, center=True))
    pairs.append(chamfer_encoder(half, "paper", best, center=False))
    if with_peers:
        pairs += peers.contestants(peers.FDE_PEERS, case)
    pairs.sort(key=lambda pair: pair[0].engine != best)  # stable: the baseline leads
    return pairs


def chamfer_encoder(case: FdeCase, layout: Any, isa: str, *, center: bool) -> tuple[Contestant, Contestant]:
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
    return case.contestants(
        isa,
        f"{layout}, centred" if center else layout,
        partial(encoder.encode_documents, case.documents, num_threads=1, isa=isa),
        partial(encoder.encode_queries, case.queries, num_threads=1, isa=isa),
        expected=lambda items, is_documents: fde_float64(
            items, is_documents, simhash=simhash, projections=projections, layout=layout, mean=means[is_documents]
        ),
    )


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures to reach beside what was measured: a library by its fastest way, an absent one not at all."""
    best = ch.best_isa()

    def of(group: str, **wanted: Any) -> list[dict[str, Any]]:
        return [r for r in rows if r["group"] == group and all(r[key] == value for key, value in wanted.items())]

    found: list[dict[str, Any]] = []

    def figure(name: str, measured: list[float], op: str, target: float, pick: Any = min) -> None:
        if measured:
            value = pick(measured)
            met = value >= target if op == ">=" else value <= target
            found.append({"name": name, "measured": value, "target": f"{op} {target:g}", "met": bool(met)})

    for library, target in (("numpy", 2.0), ("maxsim-cpu", 2.5)):
        rivals = of("one query", library=library, dtype="f32", operation="maxsim", wrong=False)
        figure(f"maxsim f32: times as fast as {library}", [r["times_baseline"] for r in rivals], ">=", target)
    chamfer = of("one query", library="chamfer", engine=best)
    figure("maxsim f32: largest relative error", [r["errors"]["max_relative"] for r in chamfer], "<=", 1e-5, max)
    half = [r["times_baseline"] for r in chamfer if r["dtype"] == short("float16")]
    figure("maxsim f16: time as a multiple of f32", half, "<=", 1.0)
    for group, target in (("fde documents", 100.0), ("fde queries", 60.0)):
        for layout in ("paper", "google"):
            mine = of(group, library="chamfer", engine=best, dtype="f32")
            times = [r["best_us_per_item"] for r in mine if r["shape"].endswith(f", {layout}")]
            figure(f"{group}, {layout}: us each (best)", times, "<=", target)
    memory = [r["extra_bytes"] / 1e6 for r in of("memory") if r["extra_bytes"] is not None]
    figure("fde documents: MB beyond input and output", memory, "<=", 64.0, max)
    figure("import chamfer: s (median)", [r["median_seconds"] for r in of("import", name="import_chamfer")], "<=", 0.25)
    return found
