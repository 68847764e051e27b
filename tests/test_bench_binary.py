"""`bench binary`: the methods against their definitions, what is saved, the picture's lines, and that it all runs."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from bench import binary_index, binary_methods, binary_picture, binary_tokens
from bench.data import Data

import chamfer as ch
from conftest import REPOSITORY
from samples import off_centre_collection


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def vectors(rng):
    return (rng.standard_normal((600, 32)) * np.linspace(2, 0.2, 32) + 1).astype(np.float32)


@pytest.fixture
def sample(rng):
    return (rng.standard_normal((70, 32)) * np.linspace(2, 0.2, 32) - 1).astype(np.float32)


def share_found(codes, vectors, sample, queries):
    codes.fit(vectors, sample)
    codes.add(vectors)
    codes.settle(vectors, sample)
    found = codes.search(queries, 10)
    exact = binary_methods.top_rows(queries, vectors, 10)
    return np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])


def test_top_rows_are_the_highest_inner_products(vectors, sample):
    rows = binary_methods.top_rows(sample, vectors, 7)
    np.testing.assert_array_equal(rows, np.argsort(-(sample @ vectors.T), axis=1)[:, :7])


def test_centring_does_not_change_what_faiss_finds(vectors, sample):
    flat = binary_methods.FaissCodes("Flat")
    assert share_found(flat, vectors, sample, sample[:20]) == 1
    assert flat.sizes()[0] == 4 * 32


@pytest.mark.parametrize(("factory", "num_bytes"), [("SQ8", 32), ("PQ8x8np", 8), ("PQ16x4fs", 8), ("RR64,RaBitQ", 16)])
def test_bytes_are_those_that_a_vector_adds(vectors, sample, factory, num_bytes):
    codes = binary_methods.FaissCodes(factory)
    share_found(codes, vectors, sample, sample[:1])
    size, shared = codes.sizes()
    assert abs(size - num_bytes) <= 1  # fast scans pad to 32 vectors
    assert shared > 0


def test_a_rotation_for_product_quantization_is_fitted_to_its_own_codes(vectors, sample):
    codes = binary_methods.FaissCodes("OPQ16,PQ16x4fs", "8 bit tables")
    plain = binary_methods.FaissCodes("PQ16x4fs", "8 bit tables")
    assert share_found(codes, vectors, sample, sample[:20]) > share_found(plain, vectors, sample, sample[:20])
    assert codes._kept.nbits == 4


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_rotations_of_more_or_fewer_bits_keep_lengths_or_shorten(bits):
    rotation = binary_methods._random_rotation(bits, 32)
    assert rotation.shape == (bits, 32)
    product = rotation.T @ rotation if bits >= 32 else rotation @ rotation.T
    np.testing.assert_allclose(product, np.eye(min(bits, 32)), atol=1e-5)


def test_iterative_quantization_misses_less_than_a_random_rotation(vectors):
    centred = vectors - vectors.mean(axis=0)
    for bits in (16, 32):
        components = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :bits]
        fitted = binary_methods.iterative_quantization(centred, bits)
        np.testing.assert_allclose(fitted @ fitted.T, np.eye(bits), atol=1e-4)
        errors = []
        for directions in (binary_methods._random_rotation(bits, bits) @ components.T, fitted):
            numbers = centred @ directions.T
            errors.append(np.square(numbers - np.abs(numbers).mean() * np.sign(numbers)).mean())
        assert errors[1] < errors[0]


def test_sample_queries_choose_the_centre_of_queries(vectors, sample):
    rotation = np.eye(32, dtype=np.float32)
    codes = binary_methods.SignCodes(rotation)
    found = share_found(codes, vectors, sample, sample)
    assert codes.sizes()[0] == 4
    for center in (np.zeros(32, np.float32), vectors.mean(axis=0), sample.mean(axis=0), sample.mean(axis=0) / 2):
        codes._query_center = center
        other = codes.search(sample, 10)
        exact = binary_methods.top_rows(sample, vectors, 10)
        assert found >= np.mean([np.isin(a, b).mean() for a, b in zip(exact, other, strict=True)]) - 1e-6


def test_recurrent_bits_take_the_most_that_stages_divide(vectors, sample):
    pytest.importorskip("torch")
    codes = binary_methods.RecurrentBits(64, 2, 1)
    assert share_found(codes, vectors, sample, sample[:20]) > 0.3
    assert codes.binarizer.bits == 63
    assert codes.sizes()[0] == codes._codes.code_size + 4  # a scale


@pytest.fixture
def data(rng):
    documents, queries, more = (off_centre_collection(rng, lengths) for lengths in ([20, 7, 33] * 30, [5] * 8, [5] * 9))
    ids = [[str(i) for i in range(len(items))] for items in (documents, queries)]
    return Data(documents, ids[0], queries, ids[1], more, "", {})


def test_token_codes_stand_for_vectors_near_their_own(data):
    exact = ch.maxsim_topk(data.queries, data.documents, 10)[1]
    rows = [binary_tokens.row_of(method, data, exact) for method in binary_tokens.token_methods(data.documents.dim)]
    found = {(row["method"], row["queries"], row["bytes_per_token"]): row["R10@10"] for row in rows}
    names = {name for name, *_ in found}
    assert {*binary_tokens.CODECS, "uniform 4 bits", "PQ x8", "random rotation + sign"} <= names
    for row in rows:
        assert 0 < row["R10@10"] <= row["R10@50"] <= row["R10@100"] == 1  # of 90 documents
        assert (row["search_ms"] is None) == (row["engine"] == "decoded")
    dim = data.documents.dim
    uniform = [found["uniform 2 bits", "float32", dim / 4], found["uniform 4 bits", "float32", dim / 2]]
    assert uniform[0] < uniform[1] > 0.7
    (int8,) = (row["R10@10"] for row in rows if row["method"] == "int8")
    assert int8 > 0.9


def test_half_is_saved_from_so_many_documents_on():
    row = {"bytes_per_document": 30, "shared_bytes": 2_000}
    assert binary_index.break_even(row, 100) == 100
    assert 30 + 2_000 / 100 == 100 / 2
    assert binary_index.break_even(row | {"bytes_per_document": 50}, 100) is None


def test_ever_more_lists_are_probed():
    assert binary_index.probes(None) == (None,)
    assert binary_index.probes(27) == (7, 14, 27)


def test_the_fewest_candidates_that_reach_the_target_are_found():
    class Answers:
        def __len__(self):
            return 100

        def search(self, queries, k, *, num_candidates, num_threads):  # noqa: ARG002
            ids = np.where(np.arange(k) < num_candidates // 5, np.arange(k), -1)
            return type("Result", (), {"ids": np.tile(ids, (len(queries), 1))})()

    exact = np.tile(np.arange(10), (3, 1))
    assert binary_index.fewest_candidates(Answers(), [0, 1, 2], exact) == (50, 1.0)


def test_lines_of_the_picture():
    result = {
        "rows": [
            {"vectors": "learned", "method": name, "bytes_per_document": size, "R10@100": recall}
            for name, size, recall in (("int8", 512, 0.9), ("int4", 256, 0.8), ("BEBR u=1", 128, 0.7))
        ],
        "tokens": [
            {"method": name, "queries": queries, "engine": engine, "bytes_per_document": size, "R10@100": 0.5}
            for name, queries, engine, size in (
                ("int8", "8 bits", "chamfer", 9),
                ("binary", "8 bits", "chamfer", 1),
                ("recurrent:1", "8 bits", "chamfer", 1),
                ("binary", "signs", "chamfer", 1),
                ("uniform 2 bits", "float32", "decoded", 2),
            )
        ],
    }
    assert binary_picture.lines(result, "learned") == {
        "floats, int8, int4": [(256, 0.8), (512, 0.9)],
        "BEBR u=1": [(128, 0.7)],
    }
    assert binary_picture.lines(result, "fde") == {}
    assert list(binary_picture.lines(result, "tokens")) == [
        "chamfer's codecs",
        "chamfer's codecs, recurrent",
        "chamfer's codecs, query signs",
        "uniform",
    ]
    assert [binary_picture.is_ours(name) for name in ("BEBR u=1", "chamfer's codecs", "uniform")] == [True, True, False]


def test_the_command_runs(tmp_path):
    pytest.importorskip("torch")
    output, picture = tmp_path / "binary.json", tmp_path / "binary.png"
    command = [sys.executable, "-m", "bench", "binary", "demo", "--quick", "--output", str(output)]
    command += ["--only", "float32", "sign", "RaBitQ", "PQ x4fs", "BEBR u=1", "scalar", "uniform"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=environment, timeout=240)
    result = json.loads(output.read_text("utf-8"))
    assert result["skipped"] == []
    for vectors in ("learned", "fde"):
        rows = [row for row in result["rows"] if row["vectors"] == vectors]
        assert {row["method"] for row in rows} >= {"float32", "sign", "RaBitQ", "PQ x4fs", "OPQ x4fs", "BEBR u=1"}
        for row in rows:
            assert 0 <= row["R10@10"] <= row["R10@50"] <= row["R10@100"] <= 1
            assert row["search_ms"] > 0
            assert row["bytes_per_document"] > 0
            assert 0 < row["agreement"] <= (1 if row["method"] == "float32" else 0.9)
    assert {row["method"] for row in result["tokens"]} >= {"scalar:2", "uniform 4 bits", "sign"}
    kinds = [row["candidates"] for row in result["index"]]
    assert kinds[0] == binary_index.BASELINE
    assert "SDC of 64 bits" in kinds
    for row in result["index"]:
        assert row["recall@10"] >= binary_index.TARGET or row["num_candidates"] == result["shapes"]["num_documents"]
    command = [sys.executable, "-m", "bench", "picture", "--results", str(output), "--output", str(picture)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    assert picture.read_bytes()[:4] == b"\x89PNG"
