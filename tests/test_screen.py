"""Exact screening: it changes the time, never a score or a row, whatever the vectors and whatever it was fitted to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chamfer import TokenVectors, available_isas, codec, maxsim, maxsim_topk
from samples import integer_vectors, off_centre_collection, positive_vectors, ragged, unit_vectors

DIMS = [*range(1, 40), 63, 64, 65, 96, 128, 129, 300, 1024]
QUERY_LENGTHS = [0, 1, 15, 16, 17, 35, 70]
DOCUMENT_LENGTHS = [0, 1, 2, 13, 40, 0, 181]


def int8(documents, sample=None):
    return codec("int8", documents.dim).fit(documents if sample is None else sample).encode(documents)


def assert_screened_alike(queries, documents, screen, isa=None, ks=(1, 5, 1000), **options):
    """Compare the bits of all scores, and of the best of all and of candidates, with and without the screen."""
    scores = maxsim(queries, documents, isa=isa, **options)
    found = maxsim(queries, documents, screen=screen, isa=isa, **options)
    np.testing.assert_array_equal(found.view(np.uint32), scores.view(np.uint32))
    for k in ks:
        expected = maxsim_topk(queries, documents, k, isa=isa, **options)
        screened = maxsim_topk(queries, documents, k, screen=screen, isa=isa, **options)
        np.testing.assert_array_equal(screened[1], expected[1])
        np.testing.assert_array_equal(screened[0].view(np.uint32), expected[0].view(np.uint32))


def assert_candidates_screened_alike(queries, documents, screen, isa=None, seed=0, **options):
    for width in (1, 7, 300):
        rows = np.random.default_rng(seed).integers(-1, len(documents), (len(queries), width))
        assert_screened_alike(queries, documents, screen, isa, (1, 3), candidates=rows, **options)


# ── every shape ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_screen_changes_nothing_in_any_dim(isa, dtype):
    for dim in DIMS:
        rng = np.random.default_rng(dim)
        documents = off_centre_collection(rng, [3, 0, 20, 7], dtype, dim)
        assert_screened_alike(off_centre_collection(rng, [1, 20], dim=dim), documents, int8(documents), isa, (1,))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_screen_changes_nothing_at_any_length(isa, dtype, num_threads):
    rng = np.random.default_rng(0)
    documents = off_centre_collection(rng, DOCUMENT_LENGTHS * 30, dtype, 33)
    queries = off_centre_collection(rng, QUERY_LENGTHS * 3, dim=33)
    options = {"num_threads": num_threads}
    assert_screened_alike(queries, documents, int8(documents), isa, (1, 2, 10, 150, 210), **options)
    assert_candidates_screened_alike(queries, documents, int8(documents), isa, **options)


@pytest.mark.parametrize("weights", ["normal", "zeros and ones", "negative", "zero", "far apart", "huge"])
def test_a_screen_changes_nothing_under_any_weights(isa, weights):
    rng = np.random.default_rng(0)
    documents = off_centre_collection(rng, DOCUMENT_LENGTHS * 5, dim=48)
    queries = off_centre_collection(rng, QUERY_LENGTHS, dim=48)
    drawn = rng.standard_normal(queries.num_tokens)
    weights = {
        "normal": drawn,
        "zeros and ones": drawn > 0,
        "negative": -np.abs(drawn),
        "zero": drawn * 0,
        "far apart": 10 ** (4 * drawn),
        "huge": drawn * 2.0**46,
    }[weights]
    options = {"query_weights": weights.astype(np.float32)}
    assert_screened_alike(queries, documents, int8(documents), isa, (1, 5, 20), **options)
    assert_candidates_screened_alike(queries, documents, int8(documents), isa, **options)


def test_a_screen_changes_nothing_for_float16_queries(isa):
    rng = np.random.default_rng(0)
    documents = off_centre_collection(rng, DOCUMENT_LENGTHS * 5, np.float16)
    assert_screened_alike(off_centre_collection(rng, [9, 33], np.float16), documents, int8(documents), isa)


def test_a_screen_of_one_document_or_query_changes_nothing(isa):
    rng = np.random.default_rng(0)
    documents, queries = off_centre_collection(rng, DOCUMENT_LENGTHS), off_centre_collection(rng, QUERY_LENGTHS)
    for i in range(len(documents)):
        one = documents.select([i])
        assert_screened_alike(queries, one, int8(one, documents), isa, (1, 2))
    for i in range(len(queries)):
        assert_screened_alike(queries.select([i]), documents, int8(documents), isa, (1, 2))


@pytest.mark.parametrize(("num_queries", "num_documents"), [(0, 0), (0, 3), (3, 0)])
def test_empty_collections_may_be_screened(isa, num_queries, num_documents):
    queries = TokenVectors(np.ones((num_queries, 4), np.float32), np.arange(num_queries + 1))
    documents = TokenVectors(np.ones((num_documents, 4), np.float32), np.arange(num_documents + 1))
    screen = int8(documents, np.ones((1, 4), np.float32))
    assert maxsim(queries, documents, screen=screen, isa=isa).shape == (num_queries, num_documents)
    assert maxsim_topk(queries, documents, 2, screen=screen, isa=isa)[1].tolist() == [[-1, -1]] * num_queries


# ── adversaries ─────────────────────────────────────────────────────────────────────────────────────────────────────

LENGTHS = [1, 0, 17, 40, 3, 64]


def nearly_equal(rng, dim):
    """All tokens of all documents within the error of their codes."""
    one = unit_vectors(rng, 1, dim)
    return one * (1 + rng.integers(-3, 4, (sum(LENGTHS), dim)).astype(np.float32) * np.float32(2.0**-22))


ADVERSARIES = {
    "nearly equal": nearly_equal,
    "equal": lambda rng, dim: np.tile(unit_vectors(rng, 1, dim), (sum(LENGTHS), 1)),
    "few, repeated": lambda rng, dim: unit_vectors(rng, 3, dim)[rng.integers(0, 3, sum(LENGTHS))],
    "integers": lambda rng, dim: integer_vectors(rng, sum(LENGTHS), dim),
    "zeros": lambda _, dim: np.zeros((sum(LENGTHS), dim), np.float32),
    "zeros and one": lambda _, dim: np.eye(sum(LENGTHS), dim, dtype=np.float32),
    "one far larger": lambda rng, dim: (
        unit_vectors(rng, sum(LENGTHS), dim)
        * np.where(np.arange(sum(LENGTHS)) % 20, 1, 2**30).astype(np.float32)[:, None]
    ),
    "far apart": lambda rng, dim: (
        unit_vectors(rng, sum(LENGTHS), dim) * 10.0 ** rng.uniform(-12, 12, (sum(LENGTHS), 1))
    ),
    "dims far apart": lambda rng, dim: unit_vectors(rng, sum(LENGTHS), dim) * 10.0 ** rng.uniform(-12, 12, dim),
    "huge": lambda rng, dim: unit_vectors(rng, sum(LENGTHS), dim) * 2.0**49,
    "tiny": lambda rng, dim: unit_vectors(rng, sum(LENGTHS), dim) * 1e-30,
    "subnormal": lambda rng, dim: unit_vectors(rng, sum(LENGTHS), dim) * 1e-42,
    "opposite": lambda rng, dim: unit_vectors(rng, 1, dim) * (1 - 2 * rng.integers(0, 2, (sum(LENGTHS), 1))),
    "one axis": lambda rng, dim: np.eye(dim)[[0] * sum(LENGTHS)] * rng.standard_normal((sum(LENGTHS), 1)),
}
SAMPLES = {
    "themselves": lambda documents: documents,
    "others": lambda documents: positive_vectors(np.random.default_rng(9), 30, documents.dim),
    "far away": lambda documents: np.full((1, documents.dim), 2.0**30, np.float32),
    "far beyond": lambda documents: np.full((1, documents.dim), -(2.0**49), np.float32),
    "zeros": lambda documents: np.zeros((3, documents.dim), np.float32),
    "no direction": lambda documents: np.concatenate([np.eye(documents.dim), -np.eye(documents.dim)]).astype(
        np.float32
    ),
    "tiny": lambda documents: np.full((2, documents.dim), 1e-30, np.float32),
}


@pytest.mark.parametrize("fitted_to", SAMPLES)
@pytest.mark.parametrize("kind", ADVERSARIES)
def test_no_vectors_and_no_fit_deceive_a_screen(isa, kind, fitted_to):
    for dim in (1, 2, 33, 96):
        rng = np.random.default_rng(dim)
        vectors = ADVERSARIES[kind](rng, dim).astype(np.float32)
        documents = TokenVectors(vectors, np.concatenate([[0], np.cumsum(LENGTHS)]))
        screen = int8(documents, SAMPLES[fitted_to](documents))
        queries = ragged(unit_vectors, rng, [3, 18], dim)
        assert_screened_alike(queries, documents, screen, isa, (1, 3))
        own = TokenVectors(vectors[:20].copy(), [0, 20])  # the documents' tokens look for themselves
        assert_screened_alike(own, documents, screen, isa, (1, 3))


@pytest.mark.parametrize("magnitude", [2.0**49, 1e-15, 1e-30, 1e-40])
def test_queries_of_any_magnitude_are_screened_alike(isa, magnitude):
    rng = np.random.default_rng(0)
    documents = off_centre_collection(rng, LENGTHS)
    queries = ragged(unit_vectors, rng, [3, 18], documents.dim)
    queries = TokenVectors(queries.vectors * np.float32(magnitude), queries.offsets)
    assert_screened_alike(queries, documents, int8(documents), isa)


def test_queries_along_the_common_direction_are_screened_alike(isa):
    rng = np.random.default_rng(0)
    documents = off_centre_collection(rng, LENGTHS)
    screen = int8(documents)
    along = screen._codebook.direction * np.float32([[1], [-1], [1e-6], [3]])
    assert_screened_alike(along, documents, screen, isa)
    basis = np.linalg.svd(along[:1].astype(float))[2][1:].astype(np.float32)  # and across it
    assert_screened_alike(basis, documents, screen, isa)


@pytest.mark.parametrize("k", [1, 2, 5, 19, 20, 21])
def test_ties_between_documents_go_to_the_lower_row(isa, k):
    rng = np.random.default_rng(0)
    one, other = unit_vectors(rng, 9, 32), unit_vectors(rng, 9, 32)
    documents = TokenVectors(np.concatenate([one, other] * 150), np.arange(301) * 9)
    screen = int8(documents)
    rows = maxsim_topk(one, documents, k, screen=screen, isa=isa)[1]
    np.testing.assert_array_equal(rows[0], np.arange(k) * 2)
    shuffled = rng.permutation(300)[None]
    rows = maxsim_topk(one, documents, k, candidates=shuffled, screen=screen, isa=isa, num_threads=2)[1]
    np.testing.assert_array_equal(rows[0], np.arange(k) * 2)


def test_scores_past_float32_are_screened_alike(isa):
    rng = np.random.default_rng(0)
    documents = TokenVectors(unit_vectors(rng, 60, 8) * np.float32(2.0**49), [0, 20, 20, 60])
    queries = TokenVectors(unit_vectors(rng, 5, 8) * np.float32(2.0**49), [0, 5])
    for sign in (1, -1):
        weights = np.full(5, sign * 2.0**49, np.float32)
        assert_screened_alike(queries, documents, int8(documents), isa, query_weights=weights)


def test_products_below_the_smallest_normal_number_are_screened_alike(isa):
    rng = np.random.default_rng(0)
    for dim in range(2, 40):
        for product in (1e-46, 1e-45, 3e-45, 1e-44):
            vectors = rng.standard_normal((60, dim)).astype(np.float32) * np.float32(1e-24)
            documents = TokenVectors(vectors, [0, 20, 20, 60])
            queries = rng.standard_normal((3, dim)).astype(np.float32) * np.float32(product / 1e-24)
            assert_screened_alike(queries, documents, int8(documents), isa, (1,))


@st.composite
def tasks(draw):
    """Queries, documents and a sample, of one magnitude or of many."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dim = draw(st.integers(1, 70))
    make = draw(st.sampled_from([unit_vectors, integer_vectors, positive_vectors]))
    lengths = st.lists(st.integers(0, 30), min_size=1, max_size=6)
    queries, documents = ragged(make, rng, draw(lengths), dim), ragged(make, rng, draw(lengths), dim)
    spread = draw(st.sampled_from([0, 0, 1, 6]))
    factors = 10.0 ** rng.uniform(-spread, spread, (documents.num_tokens, 1))
    documents = TokenVectors((documents.vectors * factors).astype(np.float32), documents.offsets)
    if draw(st.booleans()):
        documents = TokenVectors(np.clip(documents.vectors, -6e4, 6e4).astype(np.float16), documents.offsets)
    sample = ragged(make, rng, [draw(st.integers(1, 5))], dim).vectors * np.float32(10.0 ** draw(st.integers(-8, 8)))
    return queries, documents, int8(documents, sample), rng


@settings(max_examples=200)
@given(task=tasks(), k=st.integers(1, 8), weighted=st.booleans(), isa_seed=st.integers(0, 100))
def test_a_screen_changes_nothing(task, k, weighted, isa_seed):
    queries, documents, screen, rng = task
    isa = available_isas()[isa_seed % len(available_isas())]
    weights = rng.standard_normal(queries.num_tokens).astype(np.float32) if weighted else None
    assert_screened_alike(queries, documents, screen, isa, (k,), query_weights=weights)
    assert_candidates_screened_alike(queries, documents, screen, isa, query_weights=weights)


# ── refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────

FUNCTIONS = pytest.mark.parametrize(
    "function",
    [maxsim, lambda queries, documents, screen: maxsim_topk(queries, documents, 3, screen=screen)],
    ids=["maxsim", "topk"],
)


@FUNCTIONS
@pytest.mark.parametrize("name", ["bfloat16", "scalar:4", "scalar:2", "binary", "float16", None])
def test_a_screen_that_is_no_int8_codes_is_refused(function, name):
    documents = off_centre_collection(np.random.default_rng(0), [3, 4])
    screen = codec(name, 24).fit(documents).encode(documents) if name else documents.vectors
    with pytest.raises(TypeError, match=r'^screen: expected codes of codec\("int8", dim\), got '):
        function(documents, documents, screen=screen)


@FUNCTIONS
@pytest.mark.parametrize("lengths", [[3, 4, 0], [7], [4, 3], [3, 5]], ids=str)
def test_a_screen_of_other_documents_is_refused(function, lengths):
    documents = off_centre_collection(np.random.default_rng(0), [3, 4])
    with pytest.raises(ValueError, match=r"^screen: expected codes of these documents"):
        function(documents, documents, screen=int8(off_centre_collection(np.random.default_rng(0), lengths)))


@FUNCTIONS
def test_a_screen_of_another_dim_is_refused(function):
    rng = np.random.default_rng(0)
    documents, others = off_centre_collection(rng, [3, 4]), off_centre_collection(rng, [3, 4], dim=23)
    with pytest.raises(ValueError, match=r"^screen: expected codes of these documents.*23 dims"):
        function(documents, documents, screen=int8(others))


@FUNCTIONS
@pytest.mark.parametrize("name", ["int8", "binary", "bfloat16"])
def test_codes_are_not_screened(function, name):
    documents = off_centre_collection(np.random.default_rng(0), [3, 4])
    codes = codec(name, 24).fit(documents).encode(documents)
    with pytest.raises(
        ValueError, match=r"^screen: expected documents that are vectors; codes are scored as they are$"
    ):
        function(documents, codes, screen=int8(documents))


# ── real vectors ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def mini(shared_file):
    """Queries and documents of data/mini, float16."""
    folders = (shared_file(f"data/mini/{side}/tokens.npy").parent for side in ("queries", "docs"))
    return tuple(TokenVectors(np.load(f / "tokens.npy"), np.load(f / "offsets.npy")) for f in folders)


def test_a_screen_of_real_vectors_changes_nothing(isa, mini):
    queries, documents = mini
    few = queries.select(np.arange(6))
    assert_screened_alike(few, documents, int8(documents), isa, (10,))
    assert_candidates_screened_alike(few, documents, int8(documents), isa)
