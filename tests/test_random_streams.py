"""The random streams: Google's as libstdc++ draws them, the paper's fair signs; the same on every platform."""

import numpy as np
import pytest

import reference
from chamfer import _core

# Drawn by google/graph-mining's code, compiled with GCC 12 and libstdc++: algorithms.md, section 1.6.
WORDS = {1: [1791095845, 4282876139, 3093770124, 4005303368], 42: [1608637542, 3421126067, 4083286876, 787846414]}
NORMALS = {
    1: [0.306399673, 0.156065688, -0.424386233, -0.568039775, -0.204546675, -0.8062886, -0.42873764, -1.20004416],
    42: [1.22192132, -0.516964138, 0.86963594, 0.721332669, 1.58855629, 1.61821711, -0.187124684, -1.18830872],
}
AMS = {
    (1, 8): "3:-1 7:+1 2:+1 1:+1 1:+1 5:-1 4:+1 2:-1 1:-1 1:-1 5:+1 3:+1",
    (1, 16): "6:-1 14:+1 4:+1 3:+1 2:+1 10:-1 8:+1 5:-1 3:-1 3:-1 10:+1 7:+1",
    (42, 8): "2:-1 1:-1 4:+1 3:+1 0:-1 2:+1 5:+1 0:-1 6:+1 0:-1 1:+1 4:+1",
    (42, 16): "5:-1 2:-1 9:+1 7:+1 0:-1 5:+1 11:+1 0:-1 13:+1 0:-1 2:+1 9:+1",
}
COUNT_SKETCH = {
    (1, 1024): "427:-1 954:+1 309:+1 241:+1 190:+1 685:-1 551:+1 320:-1 209:-1 235:-1 686:+1 468:+1",
    (1, 1000): "417:-1 932:+1 302:+1 236:+1 186:+1 669:-1 538:+1 313:-1 204:-1 229:-1 670:+1 457:+1",
    (42, 1024): "383:-1 187:-1 613:+1 456:+1 59:-1 341:+1 725:+1 57:-1 852:+1 0:-1 187:+1 626:+1",
}

# A normal may differ from libstdc++'s in its last bit, 2^-24 of numbers below 4 (the core rounds a double logarithm).
NORMAL_ERROR = {"rtol": 3e-7, "atol": 0}


def written(columns, signs):
    return " ".join(f"{column}:{int(sign):+d}" for column, sign in zip(columns, signs, strict=True))


def drawn_google(seed, dim, *, repetitions=1, simhash=0, projection=0):
    return _core.draw_fde_matrices(
        "google",
        seed,
        dim=dim,
        num_repetitions=repetitions,
        num_simhash_projections=simhash,
        projection_dimension=projection,
    )


def drawn_ams(seed, dim, projection):
    matrix = drawn_google(seed, dim, projection=projection)[1][0]
    columns = np.abs(matrix).argmax(axis=0)
    return written(columns, matrix[columns, np.arange(dim)])


# ── golden ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", WORDS)
def test_reference_words_are_those_of_mt19937(seed):
    assert reference.words(seed, 4).tolist() == WORDS[seed]


@pytest.mark.parametrize("seed", NORMALS)
def test_reference_normals_are_libstdcxxs(seed):
    np.testing.assert_allclose(reference.normals(seed, 8), NORMALS[seed], **NORMAL_ERROR)


@pytest.mark.parametrize("seed", NORMALS)
def test_simhash_normals_are_libstdcxxs(seed):
    simhash, _ = drawn_google(seed, 4, simhash=2)  # each projection's dims in turn
    np.testing.assert_allclose(simhash.ravel(), NORMALS[seed], **NORMAL_ERROR)


@pytest.mark.parametrize(("seed", "projection"), AMS)
def test_ams_rows_are_googles(seed, projection):
    assert drawn_ams(seed, 12, projection) == AMS[seed, projection]


@pytest.mark.parametrize(("seed", "final"), COUNT_SKETCH)
def test_count_sketch_is_googles(seed, final):
    assert written(*_core.draw_count_sketch(seed, 12, final)) == COUNT_SKETCH[seed, final]


@pytest.mark.parametrize(("seed", "final"), COUNT_SKETCH)
def test_reference_count_sketch_is_googles(seed, final):
    assert written(*reference.columns_and_signs(seed, 12, final)) == COUNT_SKETCH[seed, final]


# ── against the recipe, further along the streams ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_google_matrices_follow_the_recipe_in_every_repetition(seed):
    simhash, projections = drawn_google(seed, 67, repetitions=3, simhash=5, projection=9)
    expected_simhash, expected_projections = reference.google_matrices(seed, 67, 3, 5, 9)
    np.testing.assert_allclose(simhash, expected_simhash, **NORMAL_ERROR)
    np.testing.assert_array_equal(projections, expected_projections)


@pytest.mark.parametrize("final", [1, 3, 1000, 2**31 - 1])
def test_count_sketch_follows_the_recipe(final):
    columns, signs = _core.draw_count_sketch(5, 2000, final)
    expected_columns, expected_signs = reference.columns_and_signs(5, 2000, final)
    # Lemire's rejection, which the reference leaves out, would take another word: none of these 2,000 draws needs it
    np.testing.assert_array_equal(columns, expected_columns)
    np.testing.assert_array_equal(signs, expected_signs)


# ── the paper's ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def paper():
    return _core.draw_fde_matrices(
        "paper", 3, dim=64, num_repetitions=50, num_simhash_projections=6, projection_dimension=16
    )


def test_paper_projections_are_signs_over_the_root_of_their_number(paper):
    np.testing.assert_array_equal(np.abs(paper[1]), np.float32(1 / 4))  # 1/√16


def test_paper_signs_are_fair(paper):
    # 51,200 fair coins: a mean beyond 5/√51,200 has probability 6e-7
    assert abs(np.sign(paper[1]).mean()) < 5 / np.sqrt(paper[1].size)


def test_paper_normals_have_mean_0_and_variance_1(paper):
    # 19,200 normals: five standard errors of the mean and of the variance
    assert abs(paper[0].mean()) < 5 / np.sqrt(paper[0].size)
    assert abs(paper[0].var() - 1) < 5 * np.sqrt(2 / paper[0].size)


@pytest.mark.parametrize("which", [0, 1], ids=["simhash", "projections"])
def test_paper_repetitions_are_uncorrelated(paper, which):
    rows = paper[which].reshape(len(paper[which]), -1)
    correlations = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
    # 1,225 pairs of at least 384 numbers: six standard errors
    assert np.abs(correlations).max() < 6 / np.sqrt(rows.shape[1])


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_another_seed_draws_other_matrices(layout):
    shape = {"dim": 8, "num_repetitions": 1, "num_simhash_projections": 2, "projection_dimension": 4}
    first, other = (_core.draw_fde_matrices(layout, seed, **shape) for seed in (1, 2))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])
