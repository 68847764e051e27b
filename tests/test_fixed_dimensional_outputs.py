"""The forms of encodings: each is the float32 encoding converted by its definition, to the bit."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from chamfer import FixedDimensionalEncoder, Int8Encodings, SparseEncodings, TokenVectors, available_isas
from chamfer.reducers import fixed_dimensional
from samples import ragged, unit_vectors

DIM = 19
LENGTHS = [5, 0, 60, 1, 32, 0, 17, *[3, 1] * 9]  # more items than one hand-out of work
FINALS = [None, 50, 64]
DENSE = ["float32", "float16", "int8", "bits"]
VERBS = ["encode_documents", "encode_queries"]


def make(layout="paper", **keywords):
    defaults = {"num_repetitions": 3, "num_simhash_projections": 3, "projection_dimension": 5, "center": False}
    return FixedDimensionalEncoder(DIM, layout=layout, **(defaults | keywords))


def collection(dtype=np.float32, lengths=LENGTHS):
    return ragged(unit_vectors, np.random.default_rng(0), lengths, DIM, dtype)


def by_definition(output, rows):
    return {
        "float32": lambda: rows,
        "float16": lambda: rows.astype(np.float16),
        "int8": lambda: reference.int8_rows(rows),
        "bits": lambda: reference.sign_bits(rows),
    }[output]()


def assert_same(encodings, expected):
    """Equal dtypes, shapes and bits, of arrays or tuples of them."""
    if isinstance(expected, tuple):
        assert len(encodings) == len(expected)
        for part, expected_part in zip(encodings, expected, strict=True):
            assert_same(part, expected_part)
        return
    assert encodings.dtype == expected.dtype
    assert encodings.shape == expected.shape
    assert encodings.tobytes() == expected.tobytes()


def to_dense(sparse, encoder):
    """Make the float32 matrix whose columns a sparse encoding lists."""
    rows = np.zeros((len(sparse.offsets) - 1, encoder.output_dimension), np.float32)
    row = np.repeat(np.arange(len(rows)), np.diff(sparse.offsets))
    rows[row, sparse.indices] = sparse.values
    return rows


# ── dense forms ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("final", FINALS)
@pytest.mark.parametrize("layout", ["paper", "google"])
@pytest.mark.parametrize("output", DENSE)
def test_a_form_is_the_float32_encoding_converted(isa, output, layout, final, verb, dtype):
    encode = getattr(make(layout, final_projection_dimension=final), verb)
    items = collection(dtype)
    assert_same(encode(items, output=output, isa=isa), by_definition(output, encode(items, isa=isa)))


@pytest.mark.parametrize("shape", [(1, 0, None), (1, 0, 1), (2, 1, 7), (7, 4, 16), (20, 5, 16)], ids=str)
@pytest.mark.parametrize("output", DENSE)
def test_encodings_of_any_length_are_converted(isa, output, shape):
    repetitions, simhash, projection = shape
    encoder = make(num_repetitions=repetitions, num_simhash_projections=simhash, projection_dimension=projection)
    rows = encoder.encode_queries(collection(), isa=isa)
    assert_same(encoder.encode_queries(collection(), output=output, isa=isa), by_definition(output, rows))


@pytest.mark.parametrize("output", [*DENSE, "sparse"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_centred_form_is_the_centred_encoding_converted(output, verb):
    encoder = make(center=True, fill_empty_partitions=False).fit(collection(), collection(lengths=[40]))
    encodings, rows = getattr(encoder, verb)(collection(), output=output), getattr(encoder, verb)(collection())
    if output == "sparse":
        assert_same(to_dense(encodings, encoder), rows)
    else:
        assert_same(encodings, by_definition(output, rows))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("layout", ["paper", "google"])
@pytest.mark.parametrize(("output", "final"), [*((o, f) for o in DENSE for f in (None, 50)), ("sparse", None)])
def test_a_form_does_not_depend_on_the_number_of_threads(output, layout, final, verb):
    encode = getattr(make(layout, final_projection_dimension=final, fill_empty_partitions=False), verb)
    one = encode(collection(), output=output, num_threads=1)
    for num_threads in (2, 3):
        assert_same(encode(collection(), output=output, num_threads=num_threads), one)


@pytest.mark.parametrize("output", DENSE)
def test_batches_of_the_papers_final_projection_are_put_together(monkeypatch, output):
    encoder = make(final_projection_dimension=50)
    whole = encoder.encode_documents(collection(), output=output)
    monkeypatch.setattr(fixed_dimensional, "_FINAL_BATCH_BYTES", 4 * 120 * 4)  # four documents
    assert_same(encoder.encode_documents(collection(), output=output), whole)


@pytest.mark.parametrize("final", FINALS)
@pytest.mark.parametrize("layout", ["paper", "google"])
@pytest.mark.parametrize("output", DENSE)
def test_an_empty_collection_has_no_rows(layout, final, output):
    encoder = make(layout, final_projection_dimension=final)
    rows = np.empty((0, encoder.output_dimension), np.float32)
    encodings = encoder.encode_documents(collection(lengths=[]), output=output)
    assert_same(encodings, by_definition(output, rows))


def test_an_empty_document_has_zeros_and_scale_0(isa):
    codes, scales = make().encode_documents(collection(lengths=[0, 2]), output="int8", isa=isa)
    assert not codes[0].any()
    assert scales[0] == 0
    assert scales[1] > 0


def test_forms_with_parts_are_named_tuples():
    encoder = make()
    assert isinstance(encoder.encode_queries(collection(), output="int8"), Int8Encodings)
    assert isinstance(encoder.encode_queries(collection(), output="sparse"), SparseEncodings)


@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-140, 40), length=st.integers(1, 12))
@pytest.mark.parametrize("isa", available_isas())
def test_no_number_is_off_by_more_than_half_of_the_scale(isa, seed, exponent, length):
    vectors = unit_vectors(np.random.default_rng(seed), length, DIM) * np.float32(2.0) ** np.float32(exponent)
    rows = make().encode_documents(vectors, isa=isa).astype(np.float64)
    codes, scales = make().encode_documents(vectors, output="int8", isa=isa)
    exact = np.abs(rows).max() / 127
    # A scale among subnormal numbers is itself rounded by up to 2^-150, and each code multiplies that.
    slack = 127 * 2.0**-149 + 127 * 2.0**-23 * exact
    assert np.abs(codes * scales[:, None].astype(np.float64) - rows).max() <= exact / 2 + slack


def test_int8_products_are_near_the_exact_ones():
    encoder = make(num_repetitions=20)
    q, d = encoder.encode_queries(collection()), encoder.encode_documents(collection())
    q8, d8 = encoder.encode_queries(collection(), output="int8"), encoder.encode_documents(collection(), output="int8")
    products = q8.codes.astype(np.int32) @ d8.codes.astype(np.int32).T * np.outer(q8.scales, d8.scales)
    bound = (
        np.outer(q8.scales / 2, np.abs(d).sum(axis=1))
        + np.outer(np.abs(q).sum(axis=1), d8.scales / 2)
        + np.outer(q8.scales, d8.scales) / 4 * encoder.output_dimension
    )
    assert np.all(np.abs(products - q @ d.T) <= bound * 1.0001)


# ── numbers past float16 ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("layout", "final"), [("paper", None), ("google", None), ("google", 50), ("paper", 50)])
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("verb", VERBS)
def test_a_number_past_float16_names_the_first_item(isa, layout, final, num_threads, verb):
    items = collection()
    vectors = items.vectors.copy()
    for item in (13, 6, 20):
        vectors[items.offsets[item]] = 1e6
    encode = getattr(make(layout, final_projection_dimension=final), verb)
    noun = verb.removeprefix("encode_")
    with pytest.raises(ValueError, match=rf"^output='float16': .* item 6 of {noun}; .*output='float32'"):
        encode(TokenVectors(vectors, items.offsets), output="float16", num_threads=num_threads, isa=isa)


def test_the_item_past_float16_is_counted_over_batches(monkeypatch):
    monkeypatch.setattr(fixed_dimensional, "_FINAL_BATCH_BYTES", 4 * 120 * 4)  # four documents
    documents = np.ones((11, 2, DIM), np.float32)
    documents[9] = 1e6
    with pytest.raises(ValueError, match="item 9 of documents"):
        make(final_projection_dimension=50).encode_documents(documents, output="float16")


@pytest.mark.parametrize(("number", "fits"), [(65519.99, True), (65520.0, False)])
def test_the_largest_float16_is_met_by_rounding(isa, number, fits):
    encoder = make(num_repetitions=1, num_simhash_projections=0, projection_dimension=None)
    query = np.full((1, DIM), number, np.float32)
    if fits:
        assert encoder.encode_queries(query, output="float16", isa=isa).tolist() == [[65504.0] * DIM]
    else:
        with pytest.raises(ValueError, match="below 65520"):
            encoder.encode_queries(query, output="float16", isa=isa)


# ── sparse ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("projection", [None, 5, 16])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("layout", ["paper", "google"])
def test_sparse_encodings_list_the_blocks_of_partitions_that_hold_a_vector(isa, layout, verb, projection, dtype):
    encoder = make(layout, projection_dimension=projection, fill_empty_partitions=False)
    rows = getattr(encoder, verb)(collection(dtype), isa=isa)
    block = projection or DIM
    touched = rows.reshape(len(rows), -1, block).any(axis=2).repeat(block, axis=1)
    values, columns, offsets = reference.sparse_rows(rows, touched)
    sparse = getattr(encoder, verb)(collection(dtype), output="sparse", isa=isa)
    assert_same(sparse, (values, columns.astype(np.int32), offsets.astype(np.int64)))


def test_a_block_is_listed_whole_zeros_too(isa):
    encoder = make(num_repetitions=2, num_simhash_projections=2, projection_dimension=None)
    query = np.zeros((1, DIM), np.float32)
    query[0, 3] = 1
    sparse = encoder.encode_queries(query, output="sparse", isa=isa)
    assert len(sparse.values) == 2 * DIM
    assert np.count_nonzero(sparse.values) == 2


def test_a_vector_of_zeros_has_a_block(isa):
    sparse = make().encode_queries(np.zeros((1, DIM), np.float32), output="sparse", isa=isa)
    assert sparse.offsets.tolist() == [0, 3 * 5]
    assert not sparse.values.any()


def test_queries_are_sparse_whatever_is_done_with_documents(isa):
    encoder = make(fill_empty_partitions=True)
    sparse = encoder.encode_queries(collection(), output="sparse", isa=isa)
    assert_same(to_dense(sparse, encoder), encoder.encode_queries(collection(), isa=isa))


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]], ids=str)
def test_nothing_makes_an_empty_sparse_matrix(lengths):
    sparse = make().encode_queries(collection(lengths=lengths), output="sparse")
    expected = np.empty(0, np.float32), np.empty(0, np.int32), np.zeros(len(lengths) + 1, np.int64)
    assert_same(sparse, expected)


lengths_of_items = st.lists(st.integers(0, 9), min_size=1, max_size=12)


@given(lengths_of_items, st.integers(0, 6), st.integers(1, 4), st.sampled_from(["paper", "google"]), st.integers(0, 99))
def test_a_sparse_product_is_the_dense_one(lengths, simhash, repetitions, layout, seed):
    encoder = make(layout, num_repetitions=repetitions, num_simhash_projections=simhash, seed=seed)
    queries = ragged(unit_vectors, np.random.default_rng(seed), lengths, DIM)
    documents = encoder.encode_documents(collection())
    dense, sparse = encoder.encode_queries(queries), encoder.encode_queries(queries, output="sparse")
    products = [
        sparse.values[begin:end].astype(float) @ documents[:, sparse.indices[begin:end]].T.astype(float)
        for begin, end in zip(sparse.offsets[:-1], sparse.offsets[1:], strict=True)
    ]
    np.testing.assert_allclose(products, dense.astype(float) @ documents.T.astype(float), rtol=0, atol=1e-12)


@given(lengths_of_items, st.integers(0, 8), st.integers(1, 4), st.integers(0, 99))
def test_a_query_takes_at_most_a_block_for_each_vector_and_repetition(lengths, simhash, repetitions, seed):
    encoder = make(num_repetitions=repetitions, num_simhash_projections=simhash, seed=seed)
    queries = ragged(unit_vectors, np.random.default_rng(seed), lengths, DIM)
    sizes = np.diff(encoder.encode_queries(queries, output="sparse").offsets)
    assert np.all(sizes <= np.minimum(lengths, 2**simhash) * repetitions * 5)
    assert np.all(sizes % 5 == 0)


def test_scipy_takes_a_sparse_encoding_as_it_is():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    encoder = make()
    sparse = encoder.encode_queries(collection(), output="sparse")
    matrix = scipy_sparse.csr_array(sparse, shape=(len(LENGTHS), encoder.output_dimension))
    matrix.check_format(full_check=True)
    np.testing.assert_array_equal(matrix.toarray(), encoder.encode_queries(collection()))


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("output", "share"), [("float16", 0.5), ("int8", 0.251), ("bits", 0.032), ("sparse", 0.04)])
def test_no_matrix_of_float32_is_made_on_the_way(output, share):
    encoder = make(num_repetitions=20, num_simhash_projections=6)
    queries = collection(lengths=[1] * 400)
    tracemalloc.start()  # NumPy's arrays are in it, the core's scratch memory is not
    encoder.encode_queries(queries, output=output)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 400 * encoder.output_dimension * 4 * share + 20_000


# ── refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("output", ["", "float64", "FLOAT16", "sparse ", "int8\0"])
def test_an_unknown_output_is_refused_with_the_choices(verb, output):
    with pytest.raises(
        ValueError, match=r"^output: expected one of 'float32', 'float16', 'int8', 'bits', 'sparse', got"
    ):
        getattr(make(), verb)(collection(), output=output)


@pytest.mark.parametrize("output", [None, 8, np.float16, np.dtype("float32"), b"bits"])
def test_an_output_that_is_no_text_is_refused(output):
    with pytest.raises(TypeError, match=r"^output: expected a str, got "):
        make().encode_queries(collection(), output=output)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("layout", ["paper", "google"])
def test_a_final_projection_has_no_sparse_form(layout, verb):
    encoder = make(layout, final_projection_dimension=50, fill_empty_partitions=False)
    with pytest.raises(ValueError, match=r"^output='sparse': a final projection .* final_projection_dimension=None"):
        getattr(encoder, verb)(collection(), output="sparse")


def test_filled_documents_have_no_sparse_form():
    with pytest.raises(ValueError, match=r"^output='sparse': documents .* fill_empty_partitions=False"):
        make().encode_documents(collection(), output="sparse")


@pytest.mark.parametrize("output", ["int8", "sparse"])
def test_centring_needs_fit_whatever_the_output(output):
    with pytest.raises(ValueError, match=r"call fit\(documents\)"):
        make(center=True).encode_queries(collection(), output=output)
