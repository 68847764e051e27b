"""The figures to reach, from the rows of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bench.cases import isas_of

Row = dict[str, Any]


def figures(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the figures to reach beside what was measured: a library by its fastest way, what is absent not at all."""
    found: list[dict[str, Any]] = []

    def figure(name: str, measured: Iterable[float], target: str, pick: Callable[..., float] = min) -> None:
        values = list(measured)
        if not values:
            return
        value, (relation, bound) = pick(values), target.split()
        met = value >= float(bound) if relation == ">=" else value <= float(bound)
        found.append({"name": name, "measured": value, "target": target, "met": met})

    def of(group: str, **wanted: Any) -> list[Row]:
        """Return rows of a group with these values; a function is asked."""
        return [
            row
            for row in rows
            if row["group"] == group
            and all(value(row[key]) if callable(value) else row[key] == value for key, value in wanted.items())
        ]

    def mine(group: str, storage: str) -> list[Row]:
        return of(group, library="chamfer", dtype=storage, engine=isas_of(storage)[-1])

    one, short = "one query", "one query, short documents"
    floats = mine(one, "f32")
    compute = [row["fraction_of_limit"] for row in floats if row["limit"] == "fma_f32"]
    figure("maxsim f32: fraction of the FMA peak", compute, ">= 0.8")
    figure("maxsim f32: largest relative error", (row["errors"]["max_relative"] for row in floats), "<= 1e-5", max)
    for library, target in (("numpy", 2), ("maxsim-cpu", 3), ("numkong", 1)):
        rivals = of(one, library=library, dtype="f32", operation="maxsim", wrong=False)
        figure(f"maxsim f32: times as fast as {library}", (r["times_baseline"] for r in rivals), f">= {target}")
    for storage, target in (("bf16", "1.8"), ("f16", "1"), ("i8", "3.5"), ("i8x4bit", "2")):
        times = [1 / row["times_baseline"] for row in mine(one, storage)]
        figure(f"maxsim {storage}: times as fast as own f32", times, f">= {target}")
    for storage, target in (("i8x1bit", "2.5"), ("1bit", "0.8")):
        best = [row["best_us_per_item"] for row in mine(short, storage)]
        figure(f"maxsim {storage}, short documents: us each (best)", best, f"<= {target}")

    for group in dict.fromkeys(row["group"] for row in rows if row.get("dtype") == "f32-screened"):
        if group.startswith("two threads, "):
            continue
        screened = of(group, dtype="f32-screened", engine=isas_of("i8")[-1])
        differing = (row["errors"]["differing_scores"] for row in screened)
        figure(f"{group}, by int8 screening: share of scores that differ", differing, "<= 0", max)
        if not group.endswith(", random"):
            times = [1 / row["times_baseline"] for row in screened]
            figure(f"{group}, by int8 screening: times as fast as f32", times, ">= 2")

    scans = of("hamming", library="chamfer", engine=isas_of("1bit")[-1])
    from_memory = [row["fraction_of_limit"] for row in scans if row["limit"] in ("l2", "l3", "dram")]
    figure("hamming_topk: fraction of the read bandwidth", from_memory, ">= 0.85")
    if scans:
        flat = of("hamming", engine="faiss-IndexBinaryFlat")
        figure("hamming_topk: times as fast as faiss", (row["times_baseline"] for row in flat), ">= 1")
    if of("sdc", library="chamfer"):
        fast_scan = of("sdc", engine="faiss-IndexPQFastScan")
        figure("sdc_topk: times as fast as faiss fast scan", (row["times_baseline"] for row in fast_scan), ">= 1")
        bitwise = of("sdc", library="chamfer", engine=lambda name: name.endswith("-bitwise"))
        figure("sdc_topk: times as fast as own bitwise", (row["times_baseline"] for row in bitwise), ">= 1")
    for group in dict.fromkeys(row["group"] for row in rows if row["group"].startswith("sdc formulas, ")):
        bitwise = of(group, library="chamfer", engine=lambda name: name.endswith("-bitwise"))
        # Both formulas read as many bytes, which is what binds a query alone.
        target = ">= 1" if group.startswith("sdc formulas, 1 of ") else ">= 3"
        figure(f"{group}: times as fast as bitwise", (row["times_baseline"] for row in bitwise), target)

    for group, target in (("fde documents", "60"), ("fde queries", "30")):
        for layout in ("paper", "google"):
            times = [r["best_us_per_item"] for r in mine(group, "f32") if r["shape"].endswith(f", {layout}")]
            figure(f"{group}, {layout}: us each (best)", times, f"<= {target}")

    for group in dict.fromkeys(row["group"] for row in rows if row["group"].startswith("two threads, ")):
        both = [1 / row["times_baseline"] for row in of(group, num_threads=2)]
        figure(f"{group}: times as fast as one", both, ">= 1.85")

    memory = [row["extra_bytes"] / 1e6 for row in of("memory") if row["extra_bytes"] is not None]
    figure("fde documents: MB beyond input and output", memory, "<= 64", max)
    figure("import chamfer: s (median)", (r["median_seconds"] for r in of("import", name="import_chamfer")), "<= 0.25")
    return found
