"""If only one test file is run, then this is the one: each wheel runs it, with pytest and NumPy alone."""

import numpy as np
import pytest

import chamfer

# Tiny encodings of google/graph-mining's C++ (libstdc++): dim 4, 2 repetitions, 2 projections, seed 1.
POINTS = np.array([[1, 0, 0, 0], [0, 0.6, 0.8, 0], [-0.5, 0.5, -0.5, 0.5]], np.float32)
SUM, MEAN = [-0.5, 1.1, 0.3, 0.5], [-0.25, 0.55, 0.15, 0.25]
A, B, Z = [1, 0, 0, 0], [0, 0.6, 0.8, 0], [0, 0, 0, 0]
GOLDEN_QUERY = [*SUM, *Z, *Z, *A, *A, *Z, *Z, *SUM]
GOLDEN_DOCUMENT = [*MEAN, *B, *A, *A, *A, *A, *B, *MEAN]

pytestmark = pytest.mark.parametrize("isa", chamfer.available_isas())


@pytest.fixture
def collections():
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((3, 33, 96)), rng.standard_normal((20, 50, 96))
    return queries.astype(np.float32), documents.astype(np.float32)


def google_encoder():
    shape = {"num_repetitions": 2, "num_simhash_projections": 2, "projection_dimension": None}
    return chamfer.FixedDimensionalEncoder(4, **shape, layout="google", center=False, seed=1)


def test_maxsim_is_the_sum_of_best_inner_products(isa, collections):
    queries, documents = collections
    expected = np.einsum("qid,njd->qnij", *collections).max(axis=3).sum(axis=2)
    # float32 sums of 96 products, in another order than NumPy's
    np.testing.assert_allclose(chamfer.maxsim(queries, documents, isa=isa), expected, rtol=1e-5)


def test_topk_is_the_order_of_maxsim(isa, collections):
    queries, documents = collections
    order = np.argsort(-chamfer.maxsim(queries, documents, isa=isa), axis=1, kind="stable")
    np.testing.assert_array_equal(chamfer.maxsim_topk(queries, documents, 5, isa=isa)[1], order[:, :5])


def test_query_encoding_has_googles_numbers(isa):
    # numbers of one decimal, stored in float32
    np.testing.assert_allclose(google_encoder().encode_queries(POINTS, isa=isa)[0], GOLDEN_QUERY, atol=1e-6)


def test_document_encoding_has_googles_numbers(isa):
    np.testing.assert_allclose(google_encoder().encode_documents(POINTS, isa=isa)[0], GOLDEN_DOCUMENT, atol=1e-6)
