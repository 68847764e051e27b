"""Learned features and projections of the compiled module: their definitions, equal bits, and what is refused."""

import numpy as np
import pytest

import reference
from chamfer import TokenVectors, _core
from door import BAD_VECTORS, HUGE, REFUSED, VECTORS, F, bad_arrays, bfloat16, codes8, collection, short_codes, spoiled
from samples import ragged, unit_vectors

LENGTHS = {
    "no items": [],
    "one empty item": [0],
    "empty items among others": [0, 5, 1, 0, 0, 32, 1, 0],
    "one vector each": [1] * 61,
    "longer than a pass": [3, 521, 0, 2],
}
SHAPES = [(1, 1), (3, 15), (96, 64), (96, 100), (1024, 15), (7, 1000)]  # dim, number of features


def sample_weights(rng, num_features, dim):
    weights = rng.standard_normal((num_features, dim)) * 1.5
    return weights.astype(F), rng.standard_normal(num_features).astype(F)


def sum_features(weights, center, items, isa, num_threads=1):
    return _core.FeatureMap(weights, center, isa=isa).sum(items._core_collection(), num_threads=num_threads)


def bound_of_sums(vectors, weights, center):
    """Return the largest error of float32: h is Lipschitz with 1.5, each operation rounds to one part in 2^24."""
    magnitudes = np.abs(vectors.astype(float)) @ np.abs(weights.astype(float)).T
    terms = magnitudes + np.abs(center)
    return ((1.5 * weights.shape[1] + len(vectors) + 8) * 2.0**-24 * terms).sum(axis=0)


# ── sums of features ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("dim", "num_features"), SHAPES)
def test_sums_are_those_of_the_definition(isa, dim, num_features, lengths, dtype):
    rng = np.random.default_rng(dim + num_features)
    weights, center = sample_weights(rng, num_features, dim)
    items = ragged(unit_vectors, rng, LENGTHS[lengths], dim, dtype)
    sums = sum_features(weights, center, items, isa, 2)
    assert sums.dtype == F
    assert sums.shape == (len(items), num_features)
    for item, row in zip(items, sums, strict=True):
        expected = reference.sum_features(item, weights, center)
        assert (np.abs(row - expected) <= bound_of_sums(item, weights, center)).all()


def test_the_activation_is_0_below_its_gate_and_the_number_above(isa):
    numbers = np.array([-3, -2.5, -1.25, -0.0, 0, 1.25, 2.5, 3], F)
    items = TokenVectors(numbers[:, None], np.arange(len(numbers) + 1))
    sums = sum_features(np.ones((1, 1), F), np.zeros(1, F), items, isa)
    np.testing.assert_allclose(sums[:, 0], [0, 0, -1.25 * 0.15625, 0, 0, 1.25 * 0.84375, 2.5, 3], atol=1e-7)


def test_an_empty_item_has_no_features(isa):
    weights, center = sample_weights(np.random.default_rng(0), 100, 3)
    items = TokenVectors(np.ones((2, 3), F), np.array([0, 0, 2, 2]))
    sums = sum_features(weights, center, items, isa)
    np.testing.assert_array_equal(sums[[0, 2]], 0)
    assert sums[1].all()


@pytest.mark.parametrize(("dim", "num_features"), SHAPES)
def test_sums_have_the_same_bits_on_every_fused_isa(fused_isas, dim, num_features):
    rng = np.random.default_rng(1)
    weights, center = sample_weights(rng, num_features, dim)
    items = ragged(unit_vectors, rng, [33, 0, 1, 1, 300, 7], dim)
    sums = [sum_features(weights, center, items, name) for name in fused_isas]
    for others in sums[1:]:
        np.testing.assert_array_equal(others, sums[0])


def test_a_sum_depends_neither_on_other_items_nor_on_threads(isa):
    rng = np.random.default_rng(2)
    weights, center = sample_weights(rng, 700, 24)
    items = ragged(unit_vectors, rng, rng.integers(0, 60, 50), 24)
    sums = sum_features(weights, center, items, isa)
    np.testing.assert_array_equal(sum_features(weights, center, items, isa, 5), sums)
    for i in range(len(items)):
        alone = TokenVectors(items[i], np.array([0, len(items[i])]))
        np.testing.assert_array_equal(sum_features(weights, center, alone, isa)[0], sums[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_sums_take_vectors_that_lie_anywhere(isa, dtype):
    rng = np.random.default_rng(3)
    weights, center = sample_weights(rng, 20, 7)
    vectors = rng.standard_normal((9, 7)).astype(dtype)
    offsets = np.array([0, 4, 9])
    expected = sum_features(weights, center, TokenVectors(vectors, offsets), isa)
    wide = np.full((9, 15), np.nan, dtype)
    wide[:, 1::2] = vectors
    bytes_ = np.zeros(vectors.nbytes + 1, np.uint8)
    bytes_[1:] = vectors.view(np.uint8).ravel()
    off_by_one = np.concatenate([np.zeros(1, dtype), vectors.ravel()])[1:].reshape(9, 7)
    for same in (wide[:, 1::2], bytes_[1:].view(dtype).reshape(9, 7), off_by_one, np.asfortranarray(vectors)):
        np.testing.assert_array_equal(sum_features(weights, center, TokenVectors(same, offsets), isa), expected)


def test_a_feature_map_keeps_its_own_weights(isa):
    weights, center = sample_weights(np.random.default_rng(4), 20, 4)
    features = _core.FeatureMap(weights, center, isa=isa)
    before = features.sum(collection(), num_threads=1)
    weights[:], center[:] = np.nan, np.nan
    np.testing.assert_array_equal(features.sum(collection(), num_threads=1), before)


FEATURES = {"weights": np.ones((5, 4), F), "center": np.zeros(5, F), "isa": "scalar"}
BAD_FEATURES = [
    # Fewer weights than the center, more of them, and so on: only another dim makes another good map.
    *(case for case in bad_arrays("weights", FEATURES["weights"]) if case[1] not in ("too wide", "too narrow")),
    *bad_arrays("center", FEATURES["center"]),
    *(("weights", shape, np.ones(shape, F)) for shape in ((0, 4), (5, 0))),
    *(("isa", repr(isa), isa) for isa in ("", "sse9", None)),
]


@spoiled(BAD_FEATURES)
def test_weights_that_do_not_fit_make_no_feature_map(argument, value):
    _core.FeatureMap(**FEATURES)
    with pytest.raises(REFUSED):
        _core.FeatureMap(**FEATURES | {argument: value})


@pytest.mark.parametrize(
    "items",
    [codes8(), short_codes(), bfloat16(), VECTORS, None, collection(np.ones((6, 5), F))],
    ids=["codes8", "short_codes", "bfloat16", "an array", "None", "other dim"],
)
def test_features_of_what_are_no_vectors_of_this_dim_are_not_summed(items):
    with pytest.raises(REFUSED):
        _core.FeatureMap(**FEATURES).sum(items, num_threads=1)


@pytest.mark.parametrize("num_threads", [0, -1, -HUGE, 2**64, 1.5, None])
def test_features_are_not_summed_by_less_than_one_thread(num_threads):
    with pytest.raises(REFUSED):
        _core.FeatureMap(**FEATURES).sum(collection(), num_threads=num_threads)
    with pytest.raises(REFUSED):
        _core.project(VECTORS, VECTORS, isa="scalar", num_threads=num_threads)


# ── projections ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("width", [1, 3, 16, 96, 1024, 1025, 5000])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(0, 3), (3, 0), (1, 1), (1, 70), (5, 15), (25, 64), (250, 5)])
def test_projections_are_inner_products(isa, num_rows, num_columns, width, dtype):
    rng = np.random.default_rng(width + num_rows)
    rows = rng.standard_normal((num_rows, width)).astype(F)
    matrix = rng.standard_normal((num_columns, width)).astype(dtype)
    projected = _core.project(rows, matrix, isa=isa, num_threads=2)
    assert projected.dtype == F
    assert projected.shape == (num_rows, num_columns)
    bound = (width / 1024 + 70) * 2.0**-24 * reference.project(np.abs(rows), np.abs(matrix))
    assert (np.abs(projected - reference.project(rows, matrix)) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_projections_have_the_same_bits_on_every_fused_isa(fused_isas, dtype):
    rng = np.random.default_rng(5)
    for num_rows, num_columns, width in ((1, 70, 5000), (13, 130, 1500), (300, 9, 100)):
        rows = rng.standard_normal((num_rows, width)).astype(F)
        matrix = rng.standard_normal((num_columns, width)).astype(dtype)
        projected = [_core.project(rows, matrix, isa=name, num_threads=1) for name in fused_isas]
        for others in projected[1:]:
            np.testing.assert_array_equal(others, projected[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_projection_depends_neither_on_other_rows_nor_on_threads(isa, dtype):
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((260, 1100)).astype(F)
    matrix = rng.standard_normal((75, 1100)).astype(dtype)
    projected = _core.project(rows, matrix, isa=isa, num_threads=4)
    for stop in (1, 2, 3, 6, 7, 11, 100):
        some = _core.project(rows[:stop], matrix, isa=isa, num_threads=1)
        np.testing.assert_array_equal(some, projected[:stop])
    widened = _core.project(rows, matrix.astype(F), isa=isa, num_threads=1)
    np.testing.assert_array_equal(widened, projected)


PROJECT = {"rows": VECTORS, "matrix": np.ones((3, 4), F), "isa": "scalar", "num_threads": 1}


@spoiled(
    [
        *(("rows", name, rows) for name, rows in BAD_VECTORS.items() if name != "too few rows"),
        ("rows", "float16", VECTORS.astype(np.float16)),
        *(("matrix", name, matrix) for name, matrix in BAD_VECTORS.items() if name != "too few rows"),
        *(("isa", repr(isa), isa) for isa in ("", "sse9", None)),
    ]
)
def test_projections_refuse_what_does_not_fit(argument, value):
    _core.project(**PROJECT)
    with pytest.raises(REFUSED):
        _core.project(**PROJECT | {argument: value})


def test_projections_of_no_numbers_are_refused():
    with pytest.raises(REFUSED):
        _core.project(np.ones((2, 0), F), np.ones((3, 0), F), isa="scalar", num_threads=1)
