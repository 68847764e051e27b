"""Upgrades of an encoder: docs/upgrade.md runs and does what it says, and real vectors keep what was found."""

import re

import numpy as np
import pytest
from bench.data import load

import chamfer as ch
from conftest import REPOSITORY

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def fit_binarizer():
    pytest.importorskip("torch", reason="torch is not installed")
    from chamfer.training import fit_binarizer

    return fit_binarizer


def recall(exact, found):
    return float(np.mean([np.isin(best, some).mean() for best, some in zip(exact, found, strict=True)]))


def test_the_page_runs_and_new_queries_find_what_old_ones_did(fit_binarizer, capsys):
    page = (REPOSITORY / "docs" / "upgrade.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "docs/upgrade.md", "exec"), names)
    print(shown := capsys.readouterr().out)
    assert "query_binarizer: expected RecurrentBinarizer(dim=96" in shown
    found, exact = names["old_found"], names["exact"]
    assert recall(exact, names["rows"]) >= 0.95 * recall(exact, found)
    assert recall(exact, names["search_both"](names["asked"], 100)) >= 0.95 * recall(exact, found)
    assert recall(exact, names["found"]) >= 0.95 * recall(exact, found)  # of more bits


def test_queries_of_reduced_vectors_search_the_codes_of_whole_ones(shared, fit_binarizer):
    """Cranfield; the new encoder is the old one's 64 principal components, less half of the mean."""
    data = load(shared / "data" / "cranfield")
    mean = data.documents.vectors.mean(axis=0)
    components = np.linalg.svd(data.documents.vectors[::50] - mean, full_matrices=False)[2][:64]

    def reduced(items):
        vectors = (items.vectors - mean / 2) @ components.T
        return ch.TokenVectors(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), items.offsets)

    sides = []
    for of in (lambda items: items, reduced):
        documents, queries, sample = map(of, (data.documents, data.queries, data.sample_queries))
        reducer = ch.LearnedReducer(documents.dim, output_dimension=128, num_features=1024, num_samples=8192)
        reducer.fit(documents, queries=sample, num_threads=1)
        encoded = reducer.encode_documents(documents, num_threads=1), reducer.encode_queries(queries, num_threads=1)
        sides.append((*encoded, ch.maxsim_topk(queries, documents, 10, num_threads=1)[1]))
    (old_x, old_queries, _), (new_x, new_queries, exact) = sides
    arguments = {"bits": 256, "epochs": 2, "num_threads": 1}
    old = fit_binarizer(old_x, **arguments)
    new = fit_binarizer(new_x, compatible_with=old, old_x=old_x, **arguments)
    # Of one seed both would start from one random rotation, and their codes agree as far as their principal axes do.
    free = fit_binarizer(new_x, seed=1, **arguments)
    codes = old.encode(old_x)
    strange = free.encode_queries(new_queries)
    strange.fingerprint = None  # or sdc_topk refuses
    asked = {"old": old.encode_queries(old_queries), "new": new.encode_queries(new_queries), "strange": strange}
    found = {name: recall(exact, ch.sdc_topk(queries, codes, 100)[1]) for name, queries in asked.items()}
    print(found)
    assert found["new"] >= 0.95 * found["old"]
    assert found["strange"] < 0.3 * found["old"]
