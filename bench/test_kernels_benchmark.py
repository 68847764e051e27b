"""The kernels under pytest-benchmark: `pytest bench --benchmark-only --benchmark-enable`; otherwise each runs once.

For judgements use `python -m bench kernels`, which lets contestants take turns. This is for comparing two commits with
pytest-benchmark's --benchmark-autosave and --benchmark-compare.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import chamfer as ch
from bench.cases import FdeCase, MaxSimCase, collection
from bench.kernels import DIM, chamfer_encoder, chamfer_maxsim
from bench.measure import Contestant


def maxsim_case(num_documents: int, query_length: int) -> MaxSimCase:
    rng = np.random.default_rng(0)
    documents = collection(rng, [180] * num_documents, DIM)
    shape = f"{query_length}x{DIM}, {num_documents}x180x{DIM}"
    return MaxSimCase(collection(rng, [query_length], DIM), documents, shape)


def run(benchmark: Any, contestant: Contestant) -> None:
    """Measure a contestant under its own name, and see that its answer is right."""
    benchmark.name = contestant.name
    benchmark.group = f"{contestant.operation} [{contestant.shape}]"
    errors = contestant.check(benchmark(contestant.call))
    assert errors["max_relative"] < 1e-5
    assert errors.get("lost_sources", 0.0) == 0.0


@pytest.mark.parametrize("isa", ch.available_isas())
@pytest.mark.parametrize("storage", ["f32", "f16"])
@pytest.mark.parametrize("query_length", [5, 32, 100])
def test_maxsim(benchmark: Any, query_length: int, storage: str, isa: str) -> None:
    run(benchmark, chamfer_maxsim(maxsim_case(100, query_length).stored(storage), isa))


@pytest.mark.parametrize("isa", ch.available_isas())
@pytest.mark.parametrize("layout", ["paper", "google"])
@pytest.mark.parametrize("side", ["documents", "queries"])
def test_fde(benchmark: Any, side: str, layout: str, isa: str) -> None:
    pair = chamfer_encoder(FdeCase.make(20, 120, 32, DIM), layout, isa)
    run(benchmark, pair[side == "queries"])


@pytest.mark.parametrize("isa", ch.available_isas())
def test_maxsim_topk(benchmark: Any, isa: str) -> None:
    case = maxsim_case(100, 32)
    benchmark.name = f"maxsim_topk_f32_{isa}[{case.shape}, k10]"
    benchmark.group = "maxsim_topk"
    scores, rows = benchmark(partial(ch.maxsim_topk, case.queries, case.documents, 10, num_threads=1, isa=isa))
    assert rows[0].tolist() == np.argsort(-case.expected[0])[:10].tolist()
    np.testing.assert_allclose(scores[0], np.sort(case.expected[0])[::-1][:10], rtol=1e-5)
