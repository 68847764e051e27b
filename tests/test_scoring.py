"""MaxSim against its definition, on every instruction set: shapes, dtypes, empties, weights, candidates, top k."""

import numpy as np
import pytest

import chamfer
import reference
from chamfer import TokenVectors
from samples import integer_vectors, positive_vectors, ragged, unit_vectors

DIMS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 96, 127, 128, 129, 1000, 1024]
DOCUMENT_LENGTHS = [0, 1, 2, 3, 5, 11, 12, 13, 23, 25, 179, 180, 181, 600]

# float32 sums of at most 1024 products of one sign: their rounding errors add up to about √1024 · 2^-24 = 2e-6.
RELATIVE_ERROR = 1e-5


def rounding_bound(query, document, tokens):
    """The documented bound of each inner product: dim · 2^-24 · Σ|q_i d_i|."""
    return query.shape[1] * 2.0**-24 * np.sum(np.abs(query.astype(float) * document[tokens].astype(float)), axis=1)


# ── against the definition ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dim", DIMS)
def test_maxsim_matches_its_definition_in_every_dim(isa, dim, dtype):
    rng = np.random.default_rng(dim)
    queries = ragged(positive_vectors, rng, [1, 16, 33], dim)
    documents = ragged(positive_vectors, rng, [0, 1, 11, 12, 13, 40], dim, dtype)
    scores = chamfer.maxsim(queries, documents, isa=isa)
    np.testing.assert_allclose(scores, reference.maxsim_all(queries, documents), rtol=RELATIVE_ERROR)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_maxsim_matches_its_definition_at_every_length(isa, dtype):
    rng = np.random.default_rng(0)
    queries = ragged(positive_vectors, rng, [*range(71), 160, 1030], 33)
    documents = ragged(positive_vectors, rng, DOCUMENT_LENGTHS, 33, dtype)
    scores = chamfer.maxsim(queries, documents, isa=isa)
    np.testing.assert_allclose(scores, reference.maxsim_all(queries, documents), rtol=RELATIVE_ERROR)


@pytest.mark.parametrize("num_query_tokens", [0, 1, 15, 17, 32, 70, 1030])
def test_maxsim_is_exact_where_float32_is(isa, num_query_tokens):
    rng = np.random.default_rng(num_query_tokens)
    queries = ragged(integer_vectors, rng, [num_query_tokens, 3], 37)
    documents = ragged(integer_vectors, rng, DOCUMENT_LENGTHS, 37, np.float16)
    scores = chamfer.maxsim(queries, documents, isa=isa)
    np.testing.assert_array_equal(scores, reference.maxsim_all(queries, documents))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dim", DIMS)
def test_each_similarity_keeps_the_documented_bound(isa, dim, dtype):
    rng = np.random.default_rng(dim)
    query, document = unit_vectors(rng, 35, dim), unit_vectors(rng, 50, dim).astype(dtype)
    _, similarities, tokens = chamfer.maxsim_alignment(query, document, isa=isa)
    exact = np.sum(query.astype(float) * document[tokens].astype(float), axis=1)
    assert np.all(np.abs(similarities - exact) <= rounding_bound(query, document, tokens))


@pytest.mark.parametrize("dim", DIMS)
def test_each_aligned_token_is_the_best_within_the_documented_bound(isa, dim):
    rng = np.random.default_rng(dim)
    query, document = unit_vectors(rng, 35, dim), unit_vectors(rng, 50, dim)
    _, similarities, _ = chamfer.maxsim_alignment(query, document, isa=isa)
    best, tokens = reference.alignment(query, document)
    assert np.all(similarities >= best - rounding_bound(query, document, tokens))


@pytest.mark.parametrize("num_document_tokens", [1, 2, 11, 12, 13, 25, 600])
def test_alignment_names_the_first_of_equal_tokens(isa, num_document_tokens):
    rng = np.random.default_rng(num_document_tokens)
    query, document = integer_vectors(rng, 70, 3), integer_vectors(rng, num_document_tokens, 3)
    _, tokens = reference.alignment(query, document)
    np.testing.assert_array_equal(chamfer.maxsim_alignment(query, document, isa=isa).document_tokens, tokens)


def test_alignment_score_is_bit_identical_to_maxsim(isa):
    rng = np.random.default_rng(0)
    query, document = unit_vectors(rng, 67, 96), unit_vectors(rng, 50, 96)
    assert chamfer.maxsim_alignment(query, document, isa=isa).score == chamfer.maxsim(query, document, isa=isa)[0, 0]


def test_alignment_takes_float16_on_both_sides(isa):
    rng = np.random.default_rng(0)
    query, document = integer_vectors(rng, 9, 5), integer_vectors(rng, 7, 5)
    halves = chamfer.maxsim_alignment(query.astype(np.float16), document.astype(np.float16), isa=isa)
    np.testing.assert_array_equal(halves.similarities, reference.alignment(query, document)[0])


def test_similarities_below_zero_are_kept(isa):
    query, document = np.full((17, 5), 1, np.float32), np.full((13, 5), -2, np.float32)
    assert chamfer.maxsim(query, document, isa=isa)[0, 0] == -170


def test_float16_queries_are_computed_as_float32(isa):
    rng = np.random.default_rng(0)
    queries, documents = unit_vectors(rng, 20, 96).astype(np.float16), unit_vectors(rng, 30, 96)
    expected = chamfer.maxsim(queries.astype(np.float32), documents, isa=isa)
    np.testing.assert_array_equal(chamfer.maxsim(queries, documents, isa=isa), expected)


def test_float16_documents_score_as_their_float32_values(isa):
    rng = np.random.default_rng(0)
    queries, documents = unit_vectors(rng, 20, 97), unit_vectors(rng, 30, 97).astype(np.float16)
    expected = chamfer.maxsim(queries, documents.astype(np.float32), isa=isa)
    np.testing.assert_array_equal(chamfer.maxsim(queries, documents, isa=isa), expected)


def test_every_float16_value_is_read_as_it_is(isa):
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values)]
    documents = TokenVectors(values[:, None], np.arange(len(values) + 1))
    scores = chamfer.maxsim(np.ones((1, 1), np.float32), documents, isa=isa)
    np.testing.assert_array_equal(scores[0], values.astype(np.float32))


@pytest.mark.parametrize(
    "view",
    [np.asfortranarray, lambda a: a[::-1].copy()[::-1], lambda a: np.repeat(a, 2, axis=1)[:, ::2]],
    ids=["Fortran", "negative stride", "every second column"],
)
def test_strided_inputs_score_as_contiguous_ones(isa, view):
    rng = np.random.default_rng(0)
    query, document = integer_vectors(rng, 20, 9), integer_vectors(rng, 30, 9)
    assert chamfer.maxsim(view(query), view(document), isa=isa)[0, 0] == reference.maxsim(query, document)


# ── empty things ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("num_queries", "num_documents"), [(0, 0), (0, 3), (3, 0)])
def test_empty_collections_give_empty_scores(isa, num_queries, num_documents):
    queries = TokenVectors(np.ones((2 * num_queries, 4), np.float32), np.arange(num_queries + 1) * 2)
    documents = TokenVectors(np.ones((2 * num_documents, 4), np.float32), np.arange(num_documents + 1) * 2)
    assert chamfer.maxsim(queries, documents, isa=isa).shape == (num_queries, num_documents)


@pytest.mark.parametrize("lengths", [[0, 2, 2], [2, 0, 2], [2, 2, 0], [0, 0, 0]])
def test_an_empty_document_scores_minus_infinity(isa, lengths):
    documents = ragged(integer_vectors, np.random.default_rng(0), lengths, 4)
    scores = chamfer.maxsim(np.ones((3, 4), np.float32), documents, isa=isa)
    np.testing.assert_array_equal(scores[0] == -np.inf, np.array(lengths) == 0)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_an_empty_document_scores_minus_infinity_whatever_the_weights(isa, weight):
    documents = TokenVectors(np.ones((1, 4), np.float32), [0, 0, 1])
    scores = chamfer.maxsim(np.ones((2, 4), np.float32), documents, query_weights=[weight, weight], isa=isa)
    assert scores[0, 0] == -np.inf


def test_an_empty_query_scores_zero(isa):
    queries = TokenVectors(np.ones((2, 4), np.float32), [0, 0, 2])
    assert chamfer.maxsim(queries, -np.ones((3, 4), np.float32), isa=isa)[0, 0] == 0


def test_topk_never_returns_an_empty_document(isa):
    queries = TokenVectors(-np.ones((1, 4), np.float32), [0, 1, 1])  # scores below zero, and an empty query
    documents = TokenVectors(np.ones((2, 4), np.float32), [0, 0, 1, 1, 2, 2])
    _, rows = chamfer.maxsim_topk(queries, documents, 5, isa=isa)
    assert rows.tolist() == [[1, 3, -1, -1, -1], [1, 3, -1, -1, -1]]


def test_topk_of_empty_documents_is_filled(isa):
    documents = TokenVectors(np.empty((0, 4), np.float32), [0, 0, 0])
    scores, rows = chamfer.maxsim_topk(np.ones((2, 4), np.float32), documents, 3, isa=isa)
    assert (scores.tolist(), rows.tolist()) == ([[-np.inf] * 3], [[-1] * 3])


def test_alignment_with_an_empty_document_has_no_tokens(isa):
    score, similarities, tokens = chamfer.maxsim_alignment(
        np.ones((2, 4), np.float32), np.empty((0, 4), np.float32), isa=isa
    )
    assert (score, similarities.tolist(), tokens.tolist()) == (-np.inf, [-np.inf, -np.inf], [-1, -1])


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_multiply_the_similarity_of_their_token(isa):
    rng = np.random.default_rng(0)
    queries = ragged(integer_vectors, rng, [5, 0, 70], 9)
    documents = ragged(integer_vectors, rng, [1, 13, 40], 9)
    weights = rng.integers(-2, 3, queries.num_tokens)  # zero and negative ones among them; all products exact
    scores = chamfer.maxsim(queries, documents, query_weights=weights, isa=isa)
    split = np.split(weights, queries.offsets[1:-1])
    expected = [[reference.maxsim(q, d, w) for d in documents] for q, w in zip(queries, split, strict=True)]
    np.testing.assert_array_equal(scores, expected)


def test_topk_uses_weights(isa):
    query = np.array([[1, 0], [0, 1]], np.float32)
    _, rows = chamfer.maxsim_topk(query, query[:, None], 1, query_weights=[0.5, 2], isa=isa)
    assert rows.tolist() == [[1]]


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0], ValueError, r"^query_weights: expected shape \(2,\), .* got \(1,\)$"),
        ([[1.0, 1.0]], ValueError, r"^query_weights: expected shape \(2,\), .* got \(1, 2\)$"),
        ([1.0, np.nan], ValueError, r"^query_weights: expected finite numbers, got nan$"),
        ([np.inf, 1.0], ValueError, r"^query_weights: expected finite numbers, got inf$"),
        (["1", "2"], TypeError, r"^query_weights: expected numbers, got <U1$"),
        ([True, False], TypeError, r"^query_weights: expected numbers, got bool$"),
        ([1j, 1], TypeError, r"^query_weights: expected numbers, got complex128$"),
    ],
    ids=repr,
)
def test_weights_that_do_not_fit_are_refused(weights, error, message):
    with pytest.raises(error, match=message):
        chamfer.maxsim(np.ones((2, 4), np.float32), np.ones((3, 4), np.float32), query_weights=weights)


def test_a_weight_too_large_for_float32_is_refused():
    with pytest.raises(ValueError, match=r"^query_weights: "):
        chamfer.maxsim(np.ones((1, 4), np.float32), np.ones((3, 4), np.float32), query_weights=[1e300])


# ── candidates ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tied():
    """Queries and documents whose scores are small integers, many of them equal; two documents are empty."""
    rng = np.random.default_rng(1)
    queries = ragged(integer_vectors, rng, [2, 17, 0, 40], 2)
    documents = ragged(integer_vectors, rng, [*rng.integers(1, 4, 60), 0, 13, 0, 40], 2)
    return queries, documents


def test_candidates_are_scored_in_their_place(isa, tied):
    queries, documents = tied
    candidates = np.random.default_rng(2).integers(-1, len(documents), (len(queries), 90))  # repeats and -1 among them
    all_scores = np.hstack([reference.maxsim_all(queries, documents), np.full((len(queries), 1), -np.inf)])
    scores = chamfer.maxsim(queries, documents, candidates=candidates, isa=isa)
    np.testing.assert_array_equal(scores, np.take_along_axis(all_scores, candidates, axis=1))


def test_topk_of_candidates_is_topk_among_them_each_counted_once(isa, tied):
    queries, documents = tied
    candidates = np.random.default_rng(3).integers(-1, len(documents), (len(queries), 30))
    _, rows = chamfer.maxsim_topk(queries, documents, 10, candidates=candidates, isa=isa)
    all_scores = reference.maxsim_all(queries, documents)
    for scores, chosen, found in zip(all_scores, candidates, rows, strict=True):
        among = np.where(np.isin(np.arange(len(documents)), chosen), scores, -np.inf)
        np.testing.assert_array_equal(found, reference.topk(among, 10)[1])


@pytest.mark.parametrize("candidates", [np.empty((1, 0), np.int64), [[]], [[-1, -1]]], ids=["(1, 0)", "[[]]", "none"])
def test_topk_of_no_candidates_is_filled(isa, candidates):
    ones = np.ones((2, 4), np.float32)
    assert chamfer.maxsim_topk(ones, ones, 2, candidates=candidates, isa=isa)[1].tolist() == [[-1, -1]]


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, ">i8"])
def test_candidates_may_have_any_integer_type(dtype):
    ones = np.ones((2, 4), np.float32)
    assert chamfer.maxsim(ones, ones, candidates=np.array([[0]], dtype)).tolist() == [[8]]


@pytest.mark.parametrize("function", [chamfer.maxsim, lambda q, d, **kw: chamfer.maxsim_topk(q, d, 1, **kw)])
@pytest.mark.parametrize(
    ("candidates", "error", "message"),
    [
        ([[3]], ValueError, r"^candidates: expected rows from -1 \(none\) to 2, got 3$"),
        ([[0, -2]], ValueError, r"^candidates: expected rows from -1 \(none\) to 2, got -2$"),
        (np.array([[2**64 - 1]], np.uint64), ValueError, r"^candidates: expected rows from -1 \(none\) to 2"),
        ([0], ValueError, r"^candidates: expected shape \(1, m\), a row per query, got \(1,\)$"),
        ([[0], [1]], ValueError, r"^candidates: expected shape \(1, m\), a row per query, got \(2, 1\)$"),
        ([[0.0]], TypeError, r"^candidates: expected integers .* got float64$"),
        ([[True]], TypeError, r"^candidates: expected integers .* got bool$"),
        ([["0"]], TypeError, r"^candidates: expected integers .* got <U1$"),
    ],
    ids=["too high", "-2", "uint64 beyond int64", "1-D", "two rows", "float", "bool", "str"],
)
def test_candidates_that_do_not_fit_are_refused(function, candidates, error, message):
    with pytest.raises(error, match=message):
        function(np.ones((1, 4), np.float32), np.ones((3, 1, 4), np.float32), candidates=candidates)


# ── top k ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("k", [1, 2, 10, 62, 64, 100, 1000])
def test_topk_is_the_order_of_exact_scores_ties_to_the_lower_row(isa, tied, k):
    queries, documents = tied
    scores, rows = chamfer.maxsim_topk(queries, documents, k, isa=isa)
    expected = [reference.topk(line, k) for line in reference.maxsim_all(queries, documents)]
    np.testing.assert_array_equal(rows, [line[1] for line in expected])
    np.testing.assert_array_equal(scores, [line[0] for line in expected])


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k):
    with pytest.raises(ValueError, match=f"^k: expected at least 1, got {k}$"):
        chamfer.maxsim_topk(np.ones((1, 4), np.float32), np.ones((3, 4), np.float32), k)


@pytest.mark.parametrize("k", [1.0, "1", None, True, [1]], ids=repr)
def test_k_that_is_no_integer_is_refused(k):
    with pytest.raises(TypeError, match=r"^k: expected an int, got "):
        chamfer.maxsim_topk(np.ones((1, 4), np.float32), np.ones((3, 4), np.float32), k)


# ── refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("function", [chamfer.maxsim, chamfer.maxsim_alignment])
def test_dims_that_differ_are_named(function):
    with pytest.raises(ValueError, match=r"^(queries|query): expected dim 5 as the documents?, got 4$"):
        function(np.ones((1, 4), np.float32), np.ones((3, 5), np.float32))


@pytest.mark.parametrize("argument", ["query", "document"])
def test_alignment_refuses_more_than_one_item(argument):
    arguments = {"query": np.ones((1, 4), np.float32), "document": np.ones((1, 4), np.float32)}
    with pytest.raises(ValueError, match=f"^{argument}: expected one item, .* got a collection of 2$"):
        chamfer.maxsim_alignment(**arguments | {argument: np.ones((2, 1, 4), np.float32)})


@pytest.mark.parametrize(
    ("num_threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_wrong_number_of_threads_is_refused(num_threads, error):
    with pytest.raises(error, match=r"^num_threads: expected "):
        chamfer.maxsim(np.ones((1, 4), np.float32), np.ones((3, 4), np.float32), num_threads=num_threads)
