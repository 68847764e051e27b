"""Codecs: codes are those of their definition, on every storage and shape; what they refuse, and how they say it."""

from math import erf, exp, pi, sqrt

import numpy as np
import pytest

import reference
from chamfer import TokenVectors, codec
from samples import off_centre_collection, ragged, unit_vectors

NOT_ROTATED = ("float16", "bfloat16", "int8", "scalar:4", "scalar:2", "binary")
ROTATED = ("recurrent:4", "recurrent:2", "recurrent:1")
NAMES = (*NOT_ROTATED, *ROTATED)
BITS = dict(zip(NAMES, (16, 16, 8, 4, 2, 1, 4, 2, 1), strict=True))
FITTED = NAMES[2:]
SHORT = NAMES[3:]
DIMS = [*range(1, 71), 96, 128, 129, 300, 1024]


def collection(dim, dtype=np.float32, scale=1.0, lengths=(3, 0, 1, 11, 0)):
    """Off-centre vectors in a few documents, two of them empty."""
    items = off_centre_collection(np.random.default_rng(dim), list(lengths), dim=dim)
    return TokenVectors((items.vectors * np.float32(scale)).astype(dtype), items.offsets)


def assert_codes_are_defined(name, documents, codes):
    """Compare all that encode returns with the definition, given the codebook."""
    bits, book = BITS[name], codes._codebook
    if name == "bfloat16":
        numbers = codes.codes.view(np.uint16).astype(np.uint32) << 16
        np.testing.assert_array_equal(
            numbers.view(np.float32)[:, : documents.dim], reference.bfloat16(documents.vectors)
        )
        assert not numbers[:, documents.dim :].any()
    elif name == "int8":
        for i, document in enumerate(documents):
            expected, scale = reference.encode_int8(document, book)
            found = codes.codes[codes.offsets[i] : codes.offsets[i + 1]]
            np.testing.assert_array_equal(found[:, : documents.dim], expected)
            assert not found[:, documents.dim :].any()
            assert codes.terms["scales"][i] == scale
    else:
        expected, scales, shifts = reference.encode_short(book.rotated(documents.vectors.astype("f4")), bits, book)
        np.testing.assert_array_equal(codes.codes, reference.packed(expected, bits))
        terms = np.stack([scales, shifts], axis=1).astype(np.float32).astype(np.float16)
        np.testing.assert_allclose(codes.terms["token_terms"], terms, rtol=2.0**-10, atol=2.0**-24)


# ── against the definition ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", NAMES[1:])
def test_codes_are_those_of_the_definition_in_every_dim(name, dtype):
    for dim in DIMS[:-1] if name in ROTATED else DIMS:  # a rotation of 1,024 takes half a minute
        documents = collection(dim, dtype)
        assert_codes_are_defined(name, documents, codec(name, dim).fit(documents).encode(documents))


@pytest.mark.parametrize("scale", [2.0**40, 1e-30])
@pytest.mark.parametrize("name", NAMES[1:])
def test_codes_are_those_of_the_definition_at_every_magnitude(name, scale):
    documents = collection(33, scale=scale)
    assert_codes_are_defined(name, documents, codec(name, 33).fit(documents).encode(documents))


def special_documents(kind):
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(19).astype(np.float32)
    vectors = {
        "one token": vector[None],
        "equal tokens": np.tile(vector, (8, 1)),
        "zeros": np.zeros((5, 19), np.float32),
        "zeros among others": np.concatenate([np.zeros((3, 19), np.float32), unit_vectors(rng, 4, 19)]),
        "one dimension only": np.eye(19, dtype=np.float32)[[4] * 6] * np.arange(1, 7, dtype=np.float32)[:, None],
        "multiples of one vector": vector * np.array([[1], [2], [-5], [8], [9.5]], np.float32),
        "a constant dimension": np.concatenate([unit_vectors(rng, 9, 18), np.ones((9, 1), np.float32)], axis=1),
        "opposite": np.concatenate([vector[None], -vector[None]]),
        "far apart": unit_vectors(rng, 9, 19) * np.float32(10) ** np.arange(-4, 5, dtype=np.float32)[:, None],
    }[kind]
    return TokenVectors(vectors, [0, 1, len(vectors)])


SPECIAL = pytest.mark.parametrize(
    "kind",
    [
        "one token",
        "equal tokens",
        "zeros",
        "zeros among others",
        "one dimension only",
        "multiples of one vector",
        "a constant dimension",
        "opposite",
        "far apart",
    ],
)


@SPECIAL
@pytest.mark.parametrize("name", ["bfloat16", "int8"])
def test_codes_of_special_vectors_are_those_of_the_definition(name, kind):
    documents = special_documents(kind)
    assert_codes_are_defined(name, documents, codec(name, 19).fit(documents).encode(documents))


@SPECIAL
@pytest.mark.parametrize("name", FITTED)
def test_special_vectors_come_back_from_codes_of_their_own_codec(name, kind):
    """What a vector is off by is less than what all are off their mean by, half of it for 8 and 4 bits."""
    documents = special_documents(kind)
    coder = codec(name, 19).fit(documents)
    decoded = coder.decode(coder.encode(documents)).vectors.astype(float)
    errors = np.linalg.norm(decoded - documents.vectors, axis=1)
    spread = np.linalg.norm(documents.vectors - documents.vectors.mean(axis=0, dtype=float), axis=1)
    allowed = {8: 0.05, 4: 0.5, 2: 1.0, 1: 1.5}[BITS[name]]
    limit = spread.max() if name == "int8" else spread  # int8: one scale per document
    assert (errors <= allowed * limit + 1e-3 * np.abs(documents.vectors).max()).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_levels_are_the_best_for_a_normal_distribution(bits):
    """Each level is the mean of what is rounded to it (Lloyd's condition)."""
    half = np.array(reference.NORMAL_LEVELS[bits])
    levels = np.concatenate([-half[::-1], half])
    borders = np.concatenate([[-9], (levels[1:] + levels[:-1]) / 2, [9]])
    density = np.array([exp(-(b**2) / 2) / sqrt(2 * pi) for b in borders])
    below = np.array([erf(b / sqrt(2)) / 2 for b in borders])
    np.testing.assert_allclose((density[:-1] - density[1:]) / np.diff(below), levels, atol=1e-4)


def test_bfloat16_is_the_nearest_with_ties_to_even():
    halves = np.arange(0, 2**16, dtype=np.uint32) << 16  # each bfloat16, and what lies between it and the next
    x = np.concatenate([halves + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(np.uint32)
    x = x.view(np.float32)
    x = x[np.abs(x) < 2.0**50][:, None]
    codes = codec("bfloat16", 1).encode(TokenVectors(x, [0, len(x)]))
    assert_codes_are_defined("bfloat16", TokenVectors(x, [0, len(x)]), codes)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_float16_codes_are_vectors_rounded(dtype):
    documents = collection(17, dtype)
    codes = codec("float16", 17).fit(documents).encode(documents)
    assert isinstance(codes, TokenVectors)
    np.testing.assert_array_equal(codes.vectors, documents.vectors.astype(np.float16), strict=True)
    np.testing.assert_array_equal(codes.offsets, documents.offsets)


@pytest.mark.parametrize("scale", [1.0, 2.0**40, 1e-30])
@pytest.mark.parametrize("dim", [1, 7, 32, 33, 129])
def test_codes_of_queries_are_the_signs_about_the_mean_of_queries(dim, scale):
    documents, queries = collection(dim, scale=scale), collection(dim + 200, scale=scale).vectors[:, :dim].copy()
    for sample in (queries, None):
        codes = codec("binary", dim).fit(documents, sample).encode_queries(queries)
        mean = (documents.vectors if sample is None else queries).mean(axis=0, dtype=float).astype(np.float32)
        signs = (queries.astype(float) - mean > 0).astype(int)
        np.testing.assert_array_equal(codes.codes, reference.packed(signs, 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 2, 3, 31, 33, 129])
def test_decoding_gives_what_codes_stand_for(name, dim):
    documents = collection(dim)
    coder = codec(name, dim).fit(documents)
    codes = coder.encode(documents)
    decoded = coder.decode(codes)
    if name == "float16":
        expected = documents.vectors.astype(np.float16).astype(float)
    elif name == "bfloat16":
        expected = reference.bfloat16(documents.vectors)
    elif name == "int8":
        scales = np.repeat(codes.terms["scales"], codes.lengths)
        rows = zip(codes.codes[:, None, :dim], scales, strict=True)
        expected = np.concatenate([reference.decode_int8(row, scale, codes._codebook) for row, scale in rows])
    else:
        book = codes._codebook
        numbers, _, _ = reference.encode_short(book.rotated(documents.vectors), BITS[name], book)
        scale, shift = codes.terms["token_terms"].astype(float).T
        expected = reference.decode_short(numbers, scale, shift, BITS[name], codes._codebook)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded.offsets, documents.offsets)
    np.testing.assert_allclose(decoded.vectors, expected, rtol=1e-6, atol=1e-7)


def test_more_bits_are_off_by_less():
    documents = ragged(unit_vectors, np.random.default_rng(0), [50] * 20, 96)
    errors = []
    for name in NOT_ROTATED:
        coder = codec(name, 96).fit(documents)
        errors.append(np.mean((coder.decode(coder.encode(documents)).vectors - documents.vectors) ** 2) * 96)
    assert errors == sorted(errors)
    # Of a normal distribution 16, 4 and 2 levels lose 0.0095, 0.1175 and 0.3634 (Max, table 1); RaBitQ's scale, made
    # for inner products, loses a little more.
    assert errors[2] < 5e-4
    assert np.all(np.array(errors[3:]) < np.array([0.0095, 0.1175, 0.3634]) * [1.2, 1.2, 1.7])


def test_scale_makes_the_inner_product_with_the_vector_itself_right():
    documents = collection(64)
    for name in SHORT:
        codes = codec(name, 64).fit(documents).encode(documents)
        book = codes._codebook
        rotated = book.rotated(documents.vectors)
        rest = reference.across(rotated.astype(float) - book.center, book.direction) / book.dim_scales
        numbers, _, _ = reference.encode_short(rotated, BITS[name], book)
        levels = codes.terms["token_terms"][:, :1].astype(float) * reference.levels_of(BITS[name], book)[0][numbers]
        np.testing.assert_allclose(np.sum(rest * levels, axis=1), np.sum(rest**2, axis=1), rtol=2.0**-10)


# ── rotations ───────────────────────────────────────────────────────────────────────────────────────────────────────


def clustered(rng, num_tokens=4000, dim=24):
    """Vectors about a few directions, as those of real encoders are: what a rotation can fit."""
    centres = rng.standard_normal((16, dim))
    vectors = centres[rng.integers(0, 16, num_tokens)] + 0.3 * rng.standard_normal((num_tokens, dim)) + 1
    return TokenVectors(vectors.astype(np.float32), np.arange(0, num_tokens + 1, 40))


@pytest.mark.parametrize("name", ROTATED)
@pytest.mark.parametrize("dim", [1, 2, 33, 129])
def test_vectors_are_rotated(name, dim):
    documents = collection(dim)
    book = codec(name, dim).fit(documents)._codebook
    rotation = book.rotation.astype(float)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(dim), atol=1e-5)
    np.testing.assert_allclose(book.rotated(documents.vectors), documents.vectors @ rotation.T, atol=1e-5)


@pytest.mark.parametrize(("name", "plain"), [("recurrent:2", "scalar:2"), ("recurrent:1", "binary")])
def test_a_fitted_rotation_loses_less_of_vectors_in_clusters(name, plain):
    documents = clustered(np.random.default_rng(0))
    errors = []
    for each in (name, plain):
        coder = codec(each, documents.dim).fit(documents)
        errors.append(np.mean((coder.decode(coder.encode(documents)).vectors - documents.vectors) ** 2))
    print(name, errors)
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("name", ROTATED)
def test_a_vector_has_the_same_codes_alone_and_among_others(name):
    """More than are rotated at once."""
    documents = clustered(np.random.default_rng(0), num_tokens=2**14 + 96)
    coder = codec(name, documents.dim).fit(documents)
    codes = coder.encode(documents)
    for row in (0, len(documents) - 1):
        alone, among = coder.encode(documents.select([row])), codes.select([row])
        np.testing.assert_array_equal(alone.codes, among.codes)
        np.testing.assert_array_equal(alone.terms["token_terms"], among.terms["token_terms"])


@pytest.mark.parametrize("name", ROTATED)
def test_vectors_of_many_dims_are_not_rotated(name):
    with pytest.raises(
        ValueError, match=rf"^dim: expected at most 1024 for '{name}', which rotates vectors, got 1025$"
    ):
        codec(name, 1025)


# ── the bounds of 8 bits ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("fitted_to", ["themselves", "others", "zeros", "far away"])
def test_errors_and_norms_of_8_bits_are_bounds(fitted_to, dtype):
    for dim in (1, 2, 17, 96, 300, 1024):
        documents = collection(dim, dtype, lengths=[1, 0, 30, 5, 200])
        sample = {
            "themselves": documents,
            "others": -collection(dim + 2000).vectors[:, :dim],
            "zeros": np.zeros((2, dim), np.float32),
            "far away": np.full((1, dim), 1e6, np.float32),
        }[fitted_to]
        codes = codec("int8", dim).fit(sample).encode(documents)
        for i, document in enumerate(documents):
            y = reference.stretched(document, codes._codebook)
            rows = codes.codes[codes.offsets[i] : codes.offsets[i + 1], :dim]
            rounded = (rows.astype(float) - 128) * float(codes.terms["scales"][i])
            error = np.linalg.norm(y - rounded, axis=1).max(initial=0)
            norm = np.linalg.norm(rounded, axis=1).max(initial=0)
            assert error <= codes.terms["errors"][i] <= error * 1.00001 + 1e-37
            assert norm <= codes.terms["norms"][i] <= norm * 1.00001 + 1e-37


# ── fit ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FITTED)
def test_fit_takes_mean_direction_and_spread(name):
    documents = collection(24, lengths=[100, 0, 33])
    book = codec(name, 24).fit(documents)._codebook
    x = book.rotated(documents.vectors).astype(float)
    mean = x.mean(axis=0)
    unit = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(book.center, mean, rtol=1e-6)
    if name == "int8":
        np.testing.assert_allclose(book.direction, unit, rtol=1e-6)
        assert book.stretch == 3
    else:
        rest = x - mean
        np.testing.assert_allclose(book.direction, unit * np.sqrt(np.mean((rest @ unit) ** 2)), rtol=1e-5)
        across = reference.across(rest, unit)
        np.testing.assert_allclose(book.dim_scales, np.sqrt(np.mean(across**2, axis=0)), rtol=1e-5)


def test_fit_returns_the_codec_itself():
    documents = collection(5)
    for name in NAMES:
        coder = codec(name, 5)
        assert coder.fit(documents) is coder


def test_fit_reads_a_sample_of_a_large_collection_that_no_period_of_it_fools():
    for period in (2, 3, 4, 32):
        vectors = (np.arange(2**18 * 3 + 1) % period == 0).astype(np.float32)[:, None]
        book = codec("int8", 1).fit(TokenVectors(vectors, [0, len(vectors)]))._codebook
        assert book.center[0] == pytest.approx(vectors.mean(dtype=float), rel=0.02)


def test_codes_are_the_same_each_time_and_for_any_number_of_threads():
    documents = off_centre_collection(np.random.default_rng(0), [int(n) for n in np.arange(90) % 7], dim=24)
    for name in NAMES[1:]:
        first = codec(name, 24).fit(documents).encode(documents, num_threads=1)
        for num_threads in (1, 2, 3, None):
            again = codec(name, 24).fit(documents).encode(documents, num_threads=num_threads)
            np.testing.assert_array_equal(again.codes, first.codes)
            assert again.terms.keys() == first.terms.keys()
            for term, array in first.terms.items():
                np.testing.assert_array_equal(again.terms[term], array)


@pytest.mark.parametrize("name", ["scalar:4", "binary", "int8", "recurrent:4", "recurrent:1"])
def test_multiples_of_one_vector_fit_their_own_codec(name):
    """Nothing is across the common direction but rounding, which must not count as a vector's spread."""
    rng = np.random.default_rng(0)
    for dim in range(2, 40):
        vector = rng.integers(-9, 10, dim).astype(np.float32)
        vectors = vector * rng.integers(1, 40, (8, 1)).astype(np.float32)
        coder = codec(name, dim).fit(vectors)
        decoded = coder.decode(coder.encode(vectors)).vectors
        np.testing.assert_allclose(decoded, vectors, atol=0.04 * np.abs(vectors).max())
