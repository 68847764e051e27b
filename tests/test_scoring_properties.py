"""What MaxSim promises beyond its value: equal bits in any batch, thread count and vector width; the laws it obeys."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import chamfer
from chamfer import TokenVectors
from samples import ragged, unit_vectors

QUERY_LENGTHS = [0, 1, 7, 15, 16, 17, 32, 33, 48, 70, 160]
DOCUMENT_LENGTHS = [0, 1, 2, 11, 12, 13, 25, 60, 181]


@pytest.fixture(params=[(1, np.float32), (17, np.float32), (96, np.float16), (129, np.float32)], ids=str)
def collections(request):
    dim, dtype = request.param
    rng = np.random.default_rng(dim)
    return ragged(unit_vectors, rng, QUERY_LENGTHS, dim), ragged(unit_vectors, rng, DOCUMENT_LENGTHS * 3, dim, dtype)


# ── equal bits ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scores_are_bit_identical_on_every_isa_but_scalar(fused_isas, collections):
    first, *others = [chamfer.maxsim(*collections, isa=isa) for isa in fused_isas]
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_alignments_are_bit_identical_on_every_isa_but_scalar(fused_isas, collections):
    queries, documents = collections
    first, *others = [chamfer.maxsim_alignment(queries[-1], documents[-1], isa=isa) for isa in fused_isas]
    for other in others:
        np.testing.assert_array_equal(other.similarities, first.similarities)
        np.testing.assert_array_equal(other.document_tokens, first.document_tokens)


@pytest.mark.parametrize("num_threads", [2, 3, 7])
def test_scores_do_not_depend_on_the_number_of_threads(isa, collections, num_threads):
    expected = chamfer.maxsim(*collections, isa=isa, num_threads=1)
    np.testing.assert_array_equal(chamfer.maxsim(*collections, isa=isa, num_threads=num_threads), expected)


@pytest.mark.parametrize("num_threads", [2, 3, 7])
def test_scores_of_one_query_do_not_depend_on_the_number_of_threads(isa, collections, num_threads):
    queries, documents = collections
    expected = chamfer.maxsim(queries[-1], documents, isa=isa, num_threads=1)
    np.testing.assert_array_equal(chamfer.maxsim(queries[-1], documents, isa=isa, num_threads=num_threads), expected)


@pytest.mark.parametrize("num_threads", [1, 2, 3, 7])
def test_topk_has_the_bits_of_maxsim_for_any_number_of_threads(isa, collections, num_threads):
    scores = chamfer.maxsim(*collections, isa=isa, num_threads=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    found, rows = chamfer.maxsim_topk(*collections, 20, isa=isa, num_threads=num_threads)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(found, np.take_along_axis(scores, order, axis=1))


@pytest.mark.parametrize("num_threads", [1, 2, 3, 7])
def test_candidates_have_the_bits_of_maxsim_for_any_number_of_threads(isa, collections, num_threads):
    queries, documents = collections
    candidates = np.random.default_rng(0).integers(0, len(documents), (len(queries), 40))
    expected = np.take_along_axis(chamfer.maxsim(queries, documents, isa=isa, num_threads=1), candidates, axis=1)
    scores = chamfer.maxsim(queries, documents, candidates=candidates, isa=isa, num_threads=num_threads)
    np.testing.assert_array_equal(scores, expected)


def test_queries_score_together_as_one_by_one(isa, collections):
    queries, documents = collections
    one_by_one = [chamfer.maxsim(query, documents, isa=isa)[0] for query in queries]
    np.testing.assert_array_equal(chamfer.maxsim(queries, documents, isa=isa), one_by_one)


def test_documents_score_together_as_one_by_one(isa, collections):
    queries, documents = collections
    one_by_one = [chamfer.maxsim(queries, document, isa=isa)[:, 0] for document in documents]
    np.testing.assert_array_equal(chamfer.maxsim(queries, documents, isa=isa).T, one_by_one)


def test_a_permutation_of_documents_permutes_the_scores(isa, collections):
    queries, documents = collections
    order = np.random.default_rng(0).permutation(len(documents))
    expected = chamfer.maxsim(queries, documents, isa=isa)[:, order]
    np.testing.assert_array_equal(chamfer.maxsim(queries, documents.select(order), isa=isa), expected)


def test_a_permutation_of_document_tokens_keeps_the_score(isa, collections):
    queries, documents = collections
    document = documents[-1]
    shuffled = np.random.default_rng(0).permutation(document)
    expected = chamfer.maxsim(queries, document, isa=isa)
    np.testing.assert_array_equal(chamfer.maxsim(queries, shuffled, isa=isa), expected)


def test_many_python_threads_get_the_same_answer(collections):
    expected = chamfer.maxsim(*collections, num_threads=1)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: chamfer.maxsim(*collections, num_threads=n % 3 + 1), range(48)))
    assert all(np.array_equal(answer, expected) for answer in answers)


def test_scoring_writes_to_none_of_its_inputs(isa, collections):
    queries, documents = collections
    before = queries.vectors.copy(), documents.vectors.copy()
    chamfer.maxsim(queries, documents, isa=isa)
    np.testing.assert_array_equal(queries.vectors, before[0])
    np.testing.assert_array_equal(documents.vectors, before[1])


# ── laws ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num_tokens", [1, 13, 32, 100])
def test_maxsim_of_a_document_of_unit_vectors_with_itself_is_num_tokens(isa, num_tokens):
    document = unit_vectors(np.random.default_rng(num_tokens), num_tokens, 96)
    # unit vectors are so within 2^-23, their products within 96 · 2^-24 at the worst
    assert chamfer.maxsim(document, document, isa=isa)[0, 0] == pytest.approx(num_tokens, rel=1e-5)


matrices = npst.arrays(
    np.float32, npst.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.floats(-4, 4, width=16)
)


@given(query=matrices, data=st.data())
def test_adding_a_token_never_lowers_a_score(query, data):
    document = data.draw(npst.arrays(np.float32, (13, query.shape[1]), elements=st.floats(-4, 4, width=16)))
    before, after = chamfer.maxsim(query, TokenVectors(np.concatenate([document[:-1], document]), [0, 12, 25]))[0]
    assert after >= before


@given(query=matrices, exponent=st.integers(-20, 20))
def test_scaling_the_query_by_a_power_of_two_scales_the_score(query, exponent):
    scale = np.float32(2.0**exponent)  # exact: only exponents change
    document = np.flip(query)
    assert chamfer.maxsim(query * scale, document)[0, 0] == chamfer.maxsim(query, document)[0, 0] * scale


@given(query=matrices, num_copies=st.integers(1, 5))
def test_repeating_document_tokens_changes_nothing(query, num_copies):
    document = np.flip(query)
    np.testing.assert_array_equal(
        chamfer.maxsim(query, np.tile(document, (num_copies, 1))), chamfer.maxsim(query, document)
    )


@given(query=matrices)
def test_a_zero_dimension_more_changes_nothing(query):
    wider = np.pad(query, ((0, 0), (0, 1)))
    expected = chamfer.maxsim(query, query[::-1])
    np.testing.assert_array_equal(chamfer.maxsim(wider, wider[::-1]), expected)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_signal_ends_a_long_call(num_threads):
    """Ctrl-C must not wait for minutes of scoring."""
    rng = np.random.default_rng(0)
    documents = unit_vectors(rng, 200_000, 128)
    queries = TokenVectors(unit_vectors(rng, 64_000, 128), np.arange(2001) * 32)  # 3 Tflop: many seconds on any core

    class AlarmError(Exception):
        pass

    def ring(*_):
        raise AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        begin = time.perf_counter()
        with pytest.raises(AlarmError):
            chamfer.maxsim_topk(queries, documents.reshape(1000, 200, 128), 5, num_threads=num_threads)
        assert time.perf_counter() - begin < 2.5  # the alarm, the poll's tenth of a second, and the items under way
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
