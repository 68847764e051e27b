"""`bench reducers`: variants of FDEs against the package's own, their parts, and that the command runs."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from bench import fde_variants

from chamfer import FixedDimensionalEncoder, TokenVectors, maxsim
from conftest import REPOSITORY
from samples import off_centre_collection

LENGTHS = [20, 1, 0, 7, 33, 5]


@pytest.fixture
def documents(rng):
    return off_centre_collection(rng, LENGTHS)


@pytest.fixture
def queries(rng):
    return off_centre_collection(rng, [4, 0, 9, 16])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def encodings(encoder, documents, queries):
    return [encoder.encode_documents(documents), encoder.encode_queries(queries)]


def assert_close(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


class AsCentroids(fde_variants.Centroids):
    """Partitions of SimHash, told by centroids: the ±1 vectors of all bit strings, of the signs of vectors."""

    def __init__(self, hyperplanes):
        bits = np.arange(1 << len(hyperplanes))[:, None] >> np.arange(len(hyperplanes))[::-1] & 1
        super().__init__((2 * bits - 1).astype(np.float32))
        self.hyperplanes = hyperplanes

    def affinities(self, vectors):
        return super().affinities(np.where(vectors @ self.hyperplanes.T > 0, np.float32(1), np.float32(-1)))


@pytest.mark.parametrize("partitions", [fde_variants.SimHash, AsCentroids])
@pytest.mark.parametrize("shape", [(3, 3, 8), (2, 0, 5), (4, 5, 4)])
def test_the_parts_of_the_package_give_its_numbers(documents, queries, shape, partitions):
    num_repetitions, num_bits, num_rows = shape
    encoder = FixedDimensionalEncoder(
        documents.dim,
        num_repetitions=num_repetitions,
        num_simhash_projections=num_bits,
        projection_dimension=num_rows,
    ).fit(documents, queries)
    hyperplanes, projections = fde_variants.drawn(encoder)
    means = (items.vectors.mean(axis=0, dtype=np.float64).astype(np.float32) for items in (documents, queries))
    variant = fde_variants.VariantEncoder([partitions(planes) for planes in hyperplanes], projections, *means)
    assert variant.output_dimension == encoder.output_dimension
    assert_close(encodings(variant, documents, queries), encodings(encoder, documents, queries))


def test_a_variant_without_parts_is_the_plain_encoder(documents, queries):
    variant = fde_variants.fit_variant((), (3, 2, 4), documents, queries, seed=7)
    parameters = {"num_repetitions": 3, "num_simhash_projections": 2, "projection_dimension": 4, "seed": 7}
    encoder = FixedDimensionalEncoder(documents.dim, **parameters).fit(documents, queries)
    np.testing.assert_allclose(
        variant.encode_queries(queries) @ variant.encode_documents(documents).T,
        encoder.encode_queries(queries) @ encoder.encode_documents(documents).T,
        rtol=1e-4,
        atol=1e-4,
    )


def test_runs_of_items_do_not_show(documents, queries, monkeypatch):
    variant = fde_variants.fit_variant(("k-means",), (2, 2, 4), documents, queries)
    whole = encodings(variant, documents, queries)
    monkeypatch.setattr(fde_variants, "_CHUNK", 10)
    assert_close(encodings(variant, documents, queries), whole)


def test_centroids_find_clusters(rng):
    centers = 10 * np.eye(4, dtype=np.float32)
    vectors = np.repeat(centers, 50, axis=0) + rng.standard_normal((200, 4)).astype(np.float32) / 10
    start = fde_variants.Centroids(centers + 1)
    assert start.affinities(vectors).argmax(axis=1).tolist() == np.repeat(np.arange(4), 50).tolist()
    inertias = []
    for seed in range(8):
        found = fde_variants.centroids(vectors, 4, np.random.default_rng(seed)).centroids
        inertias.append(float(((vectors[:, None] - found) ** 2).sum(axis=2).min(axis=1).mean()))
    assert min(inertias) < 0.1  # from one of the starts; the variance within a cluster is 0.04


def test_a_rotation_of_orthogonal_projections_loses_nothing(rng):
    projections = fde_variants.orthogonal_projections(6, 4, 24, rng)
    gram = np.einsum("rpi,rpj->ij", projections, projections)
    np.testing.assert_allclose(gram, 6 * np.eye(24), atol=1e-5)
    assert fde_variants.orthogonal_projections(5, 7, 24, rng).shape == (5, 7, 24)


def test_whitened_vectors_have_no_direction(rng):
    vectors = (rng.standard_normal((1000, 6)) * [1, 2, 3, 4, 5, 6]).astype(np.float32)
    whitened = vectors @ fde_variants.whitening(vectors)
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(6), atol=1e-3)
    axes = fde_variants.principal_axes(vectors, 2)
    assert np.abs(axes).argmax(axis=1).tolist() == [5, 4]


def test_cell_means_leave_nothing_of_many_vectors_in_the_sum_of_a_partition(rng, monkeypatch):
    monkeypatch.setattr(fde_variants, "_CELL_PRIOR", 0)
    monkeypatch.setattr(fde_variants, "_CELL_SHARE", 1)
    queries = off_centre_collection(rng, [300])
    variant = fde_variants.fit_variant(("cell means",), (2, 2, 4), queries, queries)
    np.testing.assert_allclose(variant.encode_queries(queries), 0, atol=1e-3)


def test_fitted_weights_come_nearer_to_maxsim(rng):
    documents = off_centre_collection(rng, [30] * 80)
    queries = off_centre_collection(rng, [8] * 40)
    exact = maxsim(queries, documents)
    exact -= exact.mean(axis=1, keepdims=True)
    errors = []
    for parts in ((), ("fitted weights",)):
        variant = fde_variants.fit_variant(parts, (4, 2, 24), documents, queries)
        scores = variant.encode_queries(queries) @ variant.encode_documents(documents).T
        scores -= scores.mean(axis=1, keepdims=True)
        scores *= (scores * exact).sum() / (scores * scores).sum()
        errors.append(float(np.square(scores - exact).mean()))
    assert errors[1] < errors[0]


def test_rare_partitions_weigh_more():
    hyperplanes = np.array([[1, 0]], np.float32)
    documents = TokenVectors(np.array([[1, 0], [-1, 0], [1, 0], [1, 0], [2, 0]], np.float32), [0, 2, 3, 4, 5])
    weights = fde_variants.rarity([fde_variants.SimHash(hyperplanes)], documents, np.zeros(2, np.float32))
    assert weights == pytest.approx(np.array([[2, 1]]))  # one document of four, and all of them


def test_the_command_runs(tmp_path):
    output = tmp_path / "reducers.json"
    command = [sys.executable, "-m", "bench", "reducers", "demo", "--quick", "--output", str(output)]
    command += ["--only", "published", "8x2^4x16", "learned 512, 1,024 features"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=environment, timeout=240)
    result = json.loads(output.read_text("utf-8"))
    names = [row["reducer"] for row in result["rows"]]
    assert names[0] == "FDE as published 20x2^5x16"
    assert names[-1] == "learned 512, 1,024 features"
    assert "FDE 8x2^4x16, k-means, orthogonal" in names
    for row in result["rows"]:
        recalls = [row[f"R10@{n}"] for n in (10, 50, 100, 500)]
        assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= recalls[3] <= 1
        assert recalls[3] > 0.4
        assert row["bytes_per_document"] == row["numbers"] * {"float32": 4, "8 bit": 1, "4 bit": 0.5}[row["codes"]]
