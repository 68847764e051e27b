"""Ball carving: groups of similar query vectors become their sums (MUVERA, section C.3)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import chamfer
import reference
from chamfer import TokenVectors
from samples import integer_vectors, ragged, unit_vectors


@given(
    query=npst.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(3)), elements=st.integers(-3, 3)),
    threshold=st.integers(-5, 20),
)
def test_it_is_the_greedy_clustering_of_the_paper(query, threshold):
    # integers: inner products and sums are exact, so the threshold decides alike on both sides
    np.testing.assert_array_equal(chamfer.ball_carving(query, threshold)[0], reference.ball_carving(query, threshold))


def test_the_default_threshold_suits_modern_encoders():
    query = unit_vectors(np.random.default_rng(0), 30, 3)
    np.testing.assert_array_equal(chamfer.ball_carving(query).vectors, chamfer.ball_carving(query, 0.95).vectors)


def test_a_vector_at_the_threshold_joins():
    assert chamfer.ball_carving(np.array([[1, 0], [0.5, 1]], np.float32), 0.5)[0].tolist() == [[1.5, 1.0]]


def test_each_query_is_carved_by_itself():
    queries = ragged(integer_vectors, np.random.default_rng(0), [4, 0, 9, 1], 3)
    carved = chamfer.ball_carving(queries, 2)
    assert [item.tolist() for item in carved] == [reference.ball_carving(q, 2).tolist() for q in queries]


@pytest.mark.parametrize("threshold", [-np.inf, np.inf])
def test_the_sum_of_a_query_is_kept_at_the_ends_of_the_range(threshold):
    query = integer_vectors(np.random.default_rng(0), 9, 3)
    carved = chamfer.ball_carving(query, threshold)
    assert len(carved[0]) == (1 if threshold < 0 else 9)
    np.testing.assert_array_equal(carved[0].sum(axis=0), query.sum(axis=0))


def test_merging_equal_vectors_changes_no_score():
    rng = np.random.default_rng(0)
    query = np.repeat(np.eye(8, dtype=np.float32), 4, axis=0)
    documents = ragged(integer_vectors, rng, [1, 5, 12], 8)
    np.testing.assert_array_equal(
        chamfer.maxsim(chamfer.ball_carving(query, 1.0), documents), chamfer.maxsim(query, documents)
    )


def test_float16_queries_give_float32():
    assert chamfer.ball_carving(np.ones((2, 4), np.float16), 0.7).dtype == np.float32


def test_an_empty_collection_stays_empty():
    carved = chamfer.ball_carving(TokenVectors(np.empty((0, 4), np.float32), [0]))
    assert (len(carved), carved.dim) == (0, 4)


@pytest.mark.parametrize("threshold", ["0.7", None, True, [0.7]], ids=repr)
def test_a_threshold_that_is_no_number_is_refused(threshold):
    with pytest.raises(TypeError, match=r"^threshold: expected a number, got "):
        chamfer.ball_carving(np.ones((2, 4), np.float32), threshold)


def test_a_threshold_of_nan_is_refused():
    with pytest.raises(ValueError, match=r"^threshold: expected a number, got nan$"):
        chamfer.ball_carving(np.ones((2, 4), np.float32), np.nan)


def test_queries_of_another_dtype_are_refused():
    with pytest.raises(TypeError, match=r"^queries: expected float32 or float16, got float64"):
        chamfer.ball_carving(np.ones((2, 4)))
