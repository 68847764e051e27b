"""Fixed-dimensional encodings in use: centring, batches and threads, memory layouts, errors."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from chamfer import FixedDimensionalEncoder, TokenVectors
from samples import positive_vectors, ragged, unit_vectors

SMALL = {"num_repetitions": 3, "num_simhash_projections": 3, "projection_dimension": 4}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return ragged(positive_vectors, rng, [5, 0, 17], 9), ragged(positive_vectors, rng, [1, 40, 0, 13, 70], 9)


def shifted(collection, mean):
    return TokenVectors(collection.vectors - mean, collection.offsets)


def mean_of(collection):
    return collection.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)


# ── centring ────────────────────────────────────────────────────────────────────────────────────────────────────────

# Subtracting inside or outside the encoder is one float32 subtraction in both; the sums after it may round differently.
ERROR = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("final", [None, 20])
@pytest.mark.parametrize("layout", ["paper", "google"])
def test_centring_documents_is_encoding_them_less_their_mean(isa, data, layout, final, dtype):
    shape = SMALL | {"final_projection_dimension": final, "layout": layout}
    documents = TokenVectors(data[1].vectors.astype(dtype), data[1].offsets)
    centred = FixedDimensionalEncoder(9, **shape).fit(documents).encode_documents(documents, isa=isa)
    plain = FixedDimensionalEncoder(9, **shape, center=False)
    outside = shifted(documents, mean_of(documents))
    np.testing.assert_allclose(centred, plain.encode_documents(outside, isa=isa), **ERROR)


def test_centring_queries_is_encoding_them_less_their_own_mean(isa, data):
    queries, documents = data
    centred = FixedDimensionalEncoder(9, **SMALL).fit(documents, queries).encode_queries(queries, isa=isa)
    outside = shifted(queries, mean_of(queries))
    plain = FixedDimensionalEncoder(9, **SMALL, center=False).encode_queries(outside, isa=isa)
    np.testing.assert_allclose(centred, plain, **ERROR)


def test_without_queries_the_mean_of_documents_serves_both_sides(data):
    queries, documents = data
    one, both = (FixedDimensionalEncoder(9, **SMALL).fit(documents, sample) for sample in (None, documents))
    np.testing.assert_array_equal(one.encode_queries(queries), both.encode_queries(queries))


def test_fit_returns_the_encoder(data):
    encoder = FixedDimensionalEncoder(9, **SMALL)
    assert encoder.fit(data[1]) is encoder


def test_fit_again_replaces_the_means(data):
    queries, documents = data
    encoder = FixedDimensionalEncoder(9, **SMALL).fit(queries).fit(documents)
    expected = FixedDimensionalEncoder(9, **SMALL).fit(documents).encode_documents(documents)
    np.testing.assert_array_equal(encoder.encode_documents(documents), expected)


def test_an_empty_document_stays_zero_when_centred(isa, data):
    encodings = FixedDimensionalEncoder(9, **SMALL).fit(data[1]).encode_documents(data[1], isa=isa)
    assert encodings.any(axis=1).tolist() == [True, True, False, True, True]


def test_the_mean_of_many_float16_vectors_is_exact():
    documents = np.full((1, 70_000, 1), 1.001, np.float16)  # their sum is past float16, and past float32's integers
    encoder = FixedDimensionalEncoder(1, num_repetitions=1, num_simhash_projections=0, projection_dimension=None)
    assert encoder.fit(documents).encode_documents(documents).tolist() == [[0.0]]


@pytest.mark.parametrize("verb", ["encode_documents", "encode_queries"])
def test_centring_needs_fit_and_says_so(data, verb):
    with pytest.raises(ValueError, match=r"call fit\(documents\).*center=False"):
        getattr(FixedDimensionalEncoder(9, **SMALL), verb)(data[0])


def test_fit_refuses_a_collection_without_vectors(data):
    empty = TokenVectors(np.empty((0, 9), np.float32), [0, 0])
    with pytest.raises(ValueError, match=r"^documents: expected at least one vector"):
        FixedDimensionalEncoder(9, **SMALL).fit(empty)
    with pytest.raises(ValueError, match=r"^queries: expected at least one vector"):
        FixedDimensionalEncoder(9, **SMALL).fit(data[1], empty)


def test_a_refused_fit_leaves_the_encoder_as_it_was(data):
    encoder = FixedDimensionalEncoder(9, **SMALL).fit(data[1])
    before = encoder.encode_documents(data[1])
    with pytest.raises(ValueError, match=r"^queries: "):
        encoder.fit(data[0], np.ones((2, 8), np.float32))
    np.testing.assert_array_equal(encoder.encode_documents(data[1]), before)


# ── equal bits ──────────────────────────────────────────────────────────────────────────────────────────────────────

ENCODERS = [
    FixedDimensionalEncoder(33, **SMALL, layout=layout, final_projection_dimension=final, center=False)
    for layout in ("paper", "google")
    for final in (None, 300)
]


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: f"{e.layout}-{e.final_projection_dimension}")
@pytest.mark.parametrize("num_threads", [2, 3, 7])
@pytest.mark.parametrize("verb", ["encode_documents", "encode_queries"])
def test_encodings_do_not_depend_on_the_number_of_threads(isa, encoder, verb, num_threads):
    collection = ragged(unit_vectors, np.random.default_rng(0), [5, 0, 60, 1, 32, 200, 17], 33)
    encode = getattr(encoder, verb)
    expected = encode(collection, num_threads=1, isa=isa)
    np.testing.assert_array_equal(encode(collection, num_threads=num_threads, isa=isa), expected)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: f"{e.layout}-{e.final_projection_dimension}")
@pytest.mark.parametrize("verb", ["encode_documents", "encode_queries"])
def test_items_are_encoded_together_as_one_by_one(isa, encoder, verb):
    collection = ragged(unit_vectors, np.random.default_rng(0), [5, 0, 60, 1, 32, 200, 17], 33)
    one_by_one = [getattr(encoder, verb)(item, isa=isa)[0] for item in collection]
    np.testing.assert_array_equal(getattr(encoder, verb)(collection, isa=isa), one_by_one)


ENCODE_AND_SUM = """
import zlib, numpy as np, chamfer
documents = np.random.default_rng(0).standard_normal((100, 30, 96)).astype(np.float32)
encoder = chamfer.FixedDimensionalEncoder(96, layout={!r}, final_projection_dimension=512, center=False)
print(zlib.crc32(encoder.encode_documents(documents, num_threads=1).tobytes()))
"""


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_final_projections_do_not_depend_on_the_threads_of_blas(layout):
    command, checksums = [sys.executable, "-c", ENCODE_AND_SUM.format(layout)], set()
    for num_threads in "12":
        environment = os.environ | {"OPENBLAS_NUM_THREADS": num_threads}
        checksums.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(checksums) == 1


def test_many_python_threads_get_the_same_encodings():
    collection = ragged(unit_vectors, np.random.default_rng(0), [5, 0, 60, 1, 32, 200, 17], 33)
    encoder = FixedDimensionalEncoder(33, **SMALL, center=False)
    expected = encoder.encode_documents(collection, num_threads=1)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: encoder.encode_documents(collection, num_threads=n % 3 + 1), range(48)))
    assert all(np.array_equal(answer, expected) for answer in answers)


def test_float16_documents_are_encoded_as_their_float32_values(isa):
    documents = unit_vectors(np.random.default_rng(0), 60, 33).astype(np.float16)
    expected = ENCODERS[0].encode_documents(documents.astype(np.float32), isa=isa)
    np.testing.assert_array_equal(ENCODERS[0].encode_documents(documents, isa=isa), expected)


@pytest.mark.parametrize(
    "view",
    [np.asfortranarray, lambda a: a[::-1].copy()[::-1], lambda a: np.repeat(a, 2, axis=1)[:, ::2]],
    ids=["Fortran", "negative stride", "every second column"],
)
def test_strided_inputs_are_encoded_as_contiguous_ones(isa, view):
    document = unit_vectors(np.random.default_rng(0), 60, 33)
    expected = ENCODERS[0].encode_documents(document, isa=isa)
    np.testing.assert_array_equal(ENCODERS[0].encode_documents(view(document), isa=isa), expected)


# ── refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("parameter", "value", "error"),
    [
        ("dim", 0, ValueError),
        ("dim", -3, ValueError),
        ("dim", 2.0, TypeError),
        ("dim", True, TypeError),
        ("num_repetitions", 0, ValueError),
        ("num_repetitions", "3", TypeError),
        ("num_simhash_projections", -1, ValueError),
        ("num_simhash_projections", 31, ValueError),
        ("num_simhash_projections", 2.0, TypeError),
        ("num_simhash_projections", None, TypeError),
        ("projection_dimension", 0, ValueError),
        ("projection_dimension", -1, ValueError),
        ("projection_dimension", 4.5, TypeError),
        ("final_projection_dimension", 0, ValueError),
        ("final_projection_dimension", 2**31, ValueError),
        ("final_projection_dimension", 4.5, TypeError),
        ("layout", "faiss", ValueError),
        ("layout", None, ValueError),
        ("seed", -1, ValueError),
        ("seed", 2**32, ValueError),
        ("seed", 1.0, TypeError),
        ("seed", None, TypeError),
    ],
)
def test_a_parameter_out_of_place_is_named(parameter, value, error):
    with pytest.raises(error, match=rf"^{parameter}: expected "):
        FixedDimensionalEncoder(**{"dim": 9} | SMALL | {parameter: value})


@pytest.mark.parametrize("shape", [(2**12, 16, 16), (1, 30, 3), (2**31, 1, 1), (2**62, 30, 2**62)], ids=str)
def test_an_encoding_too_long_for_memory_is_refused(shape):
    repetitions, simhash, projection = shape
    with pytest.raises(ValueError, match=r"expected (at most 2147483648 numbers|below 2\^31), got "):
        FixedDimensionalEncoder(
            9, num_repetitions=repetitions, num_simhash_projections=simhash, projection_dimension=projection
        )


@pytest.mark.parametrize("verb", ["encode_documents", "encode_queries", "fit"])
def test_another_dim_is_refused(verb):
    with pytest.raises(ValueError, match=r"^(documents|queries): expected dim 33 \(the encoder's\), got 32$"):
        getattr(ENCODERS[0], verb)(np.ones((2, 32), np.float32))


@pytest.mark.parametrize(("verb", "argument"), [("encode_documents", "documents"), ("encode_queries", "queries")])
def test_vectors_of_another_dtype_are_refused_by_name(verb, argument):
    with pytest.raises(TypeError, match=rf"^{argument}: expected float32 or float16, got float64"):
        getattr(ENCODERS[0], verb)(np.ones((2, 33)))


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"isa": "sse9"}, ValueError),
        ({"isa": 2}, TypeError),
        ({"num_threads": 0}, ValueError),
        ({"num_threads": 1.0}, TypeError),
    ],
    ids=str,
)
def test_a_wrong_isa_or_number_of_threads_is_refused(keywords, error):
    with pytest.raises(error, match=f"^{next(iter(keywords))}: "):
        ENCODERS[0].encode_documents(np.ones((2, 33), np.float32), **keywords)
