"""TokenCodes as a container, and what codecs refuse."""

import copy
import pickle

import numpy as np
import pytest

from chamfer import Codec, TokenCodes, TokenVectors, codec, maxsim, maxsim_alignment, maxsim_topk
from samples import off_centre_collection

NAMES = ("bfloat16", "int8", "scalar:4", "scalar:2", "recurrent:4", "recurrent:2", "recurrent:1", "binary")
BITS = dict(zip(NAMES, (16, 8, 4, 2, 4, 2, 1, 1), strict=True))
DIM = 19


@pytest.fixture(scope="module")
def documents():
    return off_centre_collection(np.random.default_rng(0), [3, 0, 1, 11, 0, 2], dim=DIM)


@pytest.fixture(scope="module")
def coders(documents):
    return {name: codec(name, DIM).fit(documents) for name in ("float16", *NAMES)}


@pytest.fixture(params=NAMES)
def codes(request, coders, documents):
    return coders[request.param].encode(documents)


def assert_equal_codes(found, expected):
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    assert found.terms.keys() == expected.terms.keys()
    for name, array in expected.terms.items():
        np.testing.assert_array_equal(found.terms[name], array, strict=True)
    assert (found.dim, found.bits) == (expected.dim, expected.bits)


# ── the container ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_padded_to_four_bytes(name):
    for dim in (1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 32, 33, 64, 65, 129):
        vectors = np.ones((2, dim), np.float32)
        codes = codec(name, dim).fit(vectors).encode(vectors)
        assert codes.code_size == (dim * BITS[name] + 31) // 32 * 4
        assert codes.codes.shape == (2, codes.code_size)


def test_codes_say_what_they_are(codes, documents):
    assert codes.dim == DIM
    assert len(codes) == len(documents)
    assert codes.num_tokens == documents.num_tokens
    np.testing.assert_array_equal(codes.lengths, documents.lengths)
    np.testing.assert_array_equal(codes.offsets, documents.offsets)
    assert repr(codes) == f"TokenCodes(6 items, 17 vectors of 19 dims, {codes.bits} bits a dimension)"


def test_nbytes_counts_codes_terms_and_offsets(codes):
    terms = {16: 0, 8: 6 * 3 * 4}.get(codes.bits, 17 * 4)
    assert codes.nbytes == 17 * codes.code_size + terms + 7 * 8


@pytest.mark.parametrize("name", ["float16", *NAMES])
def test_a_codec_says_what_it_is(name, coders):
    assert repr(coders[name]) == f"Codec({name!r}, 19)"
    fitted = "" if name in ("float16", "bfloat16") else ", not fitted"
    assert repr(codec(name, 3)) == f"Codec({name!r}, 3{fitted})"
    assert isinstance(coders[name], Codec)


@pytest.mark.parametrize(
    "rows",
    [[], [3], [5, 0, 3, 3], [-1, -6], range(6), np.array([True, False, True, True, False, True]), np.uint8([3, 1])],
    ids=str,
)
def test_selected_codes_are_those_of_the_selected_documents(codes, documents, rows):
    chosen = np.arange(6)[np.asarray(rows, dtype=None if len(rows) else int)]
    selected = codes.select(rows)
    taken = [codes.codes[codes.offsets[i] : codes.offsets[i + 1]] for i in chosen]
    np.testing.assert_array_equal(selected.codes, np.concatenate([codes.codes[:0], *taken]))
    np.testing.assert_array_equal(maxsim(documents[3], selected), maxsim(documents[3], codes)[:, chosen])


def test_selected_codes_screen_selected_documents(coders, documents):
    codes, rows = coders["int8"].encode(documents), [5, 3, 3, 1]
    expected = maxsim(documents, documents.select(rows))
    np.testing.assert_array_equal(maxsim(documents, documents.select(rows), screen=codes.select(rows)), expected)


@pytest.mark.parametrize(
    ("rows", "error"),
    [([6], IndexError), ([-7], IndexError), ([True], IndexError), ([0.5], TypeError), ([[0]], TypeError)],
)
def test_rows_that_do_not_fit_are_refused(codes, rows, error):
    with pytest.raises(error):
        codes.select(rows)


def test_selected_codes_are_copies(codes):
    assert not np.shares_memory(codes.select([0, 3]).codes, codes.codes)


def test_codes_are_read_only(codes):
    for array in (codes.codes, *codes.terms.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    "again", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_codes_can_be_pickled_and_copied(codes, documents, again):
    maxsim(documents, codes)
    assert_equal_codes(again(codes), codes)
    np.testing.assert_array_equal(maxsim(documents, again(codes)), maxsim(documents, codes))


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_codec_can_be_pickled_and_copied(coders, documents, again):
    for name in NAMES:
        assert_equal_codes(again(coders[name]).encode(documents), coders[name].encode(documents))


@pytest.mark.parametrize("name", ["float16", *NAMES])
def test_an_empty_collection_has_codes(coders, name):
    for offsets in ([0], [0, 0, 0]):
        empty = TokenVectors(np.empty((0, DIM), np.float32), offsets)
        codes = coders[name].encode(empty)
        assert (len(codes), codes.num_tokens) == (len(offsets) - 1, 0)
        assert coders[name].decode(codes).vectors.shape == (0, DIM)
        assert maxsim(np.ones((2, DIM), np.float32), codes).tolist() == [[-np.inf] * (len(offsets) - 1)]
    assert coders["binary"].encode_queries(TokenVectors(np.empty((0, DIM), np.float32), [0, 0])).num_tokens == 0


def test_encoding_writes_to_none_of_its_inputs(coders, documents):
    before = documents.vectors.copy()
    for name in NAMES:
        coders[name].encode(documents)
    coders["binary"].encode_queries(documents)
    np.testing.assert_array_equal(documents.vectors, before)


def test_a_codec_fitted_anew_leaves_its_earlier_codes_as_they_were(documents):
    coder = codec("scalar:4", DIM).fit(documents)
    codes = coder.encode(documents)
    scores, decoded = maxsim(documents, codes), coder.decode(codes).vectors
    coder.fit(documents.vectors * 5 + 1)
    np.testing.assert_array_equal(maxsim(documents, codes), scores)
    np.testing.assert_array_equal(coder.decode(codes).vectors, decoded)


# ── refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ONES = np.ones((2, DIM), np.float32)


@pytest.mark.parametrize("name", ["", "int4", "INT8", "scalar:8", None, 8, ["int8"], b"int8"], ids=repr)
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=r"^name: expected one of 'float16', .*, got "):
        codec(name, 4)


@pytest.mark.parametrize(
    ("dim", "error"), [(0, ValueError), (-1, ValueError), (65_537, ValueError), (1.0, TypeError), (None, TypeError)]
)
def test_a_dim_out_of_range_is_refused(dim, error):
    with pytest.raises(error, match=r"^dim: expected "):
        codec("int8", dim)


@pytest.mark.parametrize("name", ["float16", *NAMES])
@pytest.mark.parametrize("argument", ["documents", "queries"])
def test_fit_refuses_what_does_not_fit(name, argument):
    for value, error, message in (
        (np.ones((2, DIM + 1), np.float32), ValueError, f"expected dim {DIM} as the codec, got {DIM + 1}"),
        (np.empty((0, DIM), np.float32), ValueError, "expected at least one vector to fit to, got none"),
        (ONES.astype(float), TypeError, "expected float32 or float16, got float64"),
        (ONES * np.nan, ValueError, "expected finite numbers"),
        ("abc", TypeError, "expected an array"),
    ):
        with pytest.raises(error, match=rf"^{argument}: {message}"):
            codec(name, DIM).fit(**{"documents": ONES, argument: value})


@pytest.mark.parametrize("name", ["float16", *NAMES])
def test_encode_refuses_what_does_not_fit(coders, documents, name):
    for value, error, message in (
        (np.ones((2, DIM + 1), np.float32), ValueError, f"expected dim {DIM} as the codec, got {DIM + 1}"),
        (ONES.astype(float), TypeError, "expected float32 or float16, got float64"),
        (ONES * np.inf, ValueError, "expected finite numbers"),
        (ONES * np.float32(2.0**50), ValueError, "expected numbers below 2^50"),
        (coders["int8"].encode(documents), TypeError, "expected an array"),
    ):
        with pytest.raises(error, match=rf"^documents: {message.replace('^', r'.')}"):
            coders[name].encode(value)


@pytest.mark.parametrize("name", ["float16", *NAMES])
@pytest.mark.parametrize(
    ("num_threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_wrong_number_of_threads_is_refused(coders, name, num_threads, error):
    with pytest.raises(error, match=r"^num_threads: expected "):
        coders[name].encode(ONES, num_threads=num_threads)
    if name == "binary":
        with pytest.raises(error, match=r"^num_threads: expected "):
            coders[name].encode_queries(ONES, num_threads=num_threads)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_codec_that_is_not_fitted_says_so(name):
    with pytest.raises(ValueError, match=rf"^codec '{name}' is not fitted: call fit\(documents\) first$"):
        codec(name, DIM).encode(ONES)


def test_queries_of_a_codec_that_is_not_fitted_are_refused():
    with pytest.raises(ValueError, match=r"not fitted"):
        codec("binary", DIM).encode_queries(ONES)


@pytest.mark.parametrize("name", ["float16", *NAMES[:-1]])
def test_only_binary_codes_queries(coders, name):
    with pytest.raises(ValueError, match=rf"^encode_queries: only 'binary' codes queries; .* for '{name}'$"):
        coders[name].encode_queries(ONES)


def test_queries_of_another_dim_are_refused(coders):
    with pytest.raises(ValueError, match=r"^queries: expected dim 19 as the codec, got 4$"):
        coders["binary"].encode_queries(np.ones((2, 4), np.float32))


@pytest.mark.parametrize("number", [65520, -65520, 2.0**49])
def test_numbers_beyond_float16_are_refused(coders, number):
    with pytest.raises(ValueError, match=r"^documents: expected numbers below 65520"):
        coders["float16"].encode(np.full((1, DIM), number, np.float32))
    assert coders["float16"].encode(np.full((1, DIM), 65519, np.float32)).vectors.max() == 65504


@pytest.mark.parametrize("name", NAMES[2:])
def test_vectors_of_another_magnitude_than_the_sample_are_refused_by_their_row(coders, name):
    vectors = np.ones((5, DIM), np.float32)
    vectors[3] = np.arange(DIM, dtype=np.float32) * 2.0**40
    with pytest.raises(ValueError, match=r"^documents: the vector in row 3 is far longer than "):
        coders[name].encode(vectors)


@pytest.mark.parametrize("value", [ONES, None, "codes", [ONES]], ids=lambda x: type(x).__name__)
def test_decode_refuses_what_is_no_codes(coders, value):
    with pytest.raises(TypeError, match=r"^codes: expected TokenCodes, got "):
        coders["int8"].decode(value)


@pytest.mark.parametrize("function", [maxsim, lambda q, d: maxsim_topk(q, d, 1), maxsim_alignment])
def test_codes_of_queries_go_with_binary_documents_only(coders, documents, function):
    one = documents.select([3])
    query = coders["binary"].encode_queries(one)
    for name in ("float16", *NAMES[:-1]):
        with pytest.raises(ValueError, match=r"^quer(y|ies): codes of queries go with \"binary\" codes of document"):
            function(query, coders[name].encode(one))
    for name in NAMES[:-1]:
        with pytest.raises(ValueError, match=r"^quer(y|ies): codes of queries go with"):
            function(coders[name].encode(one), coders["binary"].encode(one))


def test_codes_of_another_dim_are_refused(coders, documents):
    codes = coders["int8"].encode(documents)
    with pytest.raises(ValueError, match=r"^queries: expected dim 19 as the documents, got 4$"):
        maxsim(np.ones((1, 4), np.float32), codes)
    assert isinstance(codes, TokenCodes)
