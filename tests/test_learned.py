"""Learned encodings: the regression by its definition, recall on a real collection, odd collections, drift, errors."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import reference
from chamfer import Codec, FixedDimensionalEncoder, LearnedReducer, TokenVectors, maxsim_topk
from chamfer.data import load_stdlib
from chamfer.reducers import regression
from samples import off_centre_collection, ragged, unit_vectors

SMALL = {"output_dimension": 16, "num_features": 48, "num_samples": 512}


@pytest.fixture(scope="module")
def fitted():
    """A reducer of 24 dims and its 150 documents."""
    documents = off_centre_collection(np.random.default_rng(0), [3, 0, 9, 1, 20] * 30)
    return LearnedReducer(24, **SMALL).fit(
        documents, off_centre_collection(np.random.default_rng(1), [7] * 30)
    ), documents


# ── the definition ──────────────────────────────────────────────────────────────────────────────────────────────────


def fit_and_keep_sample(monkeypatch, reducer, documents, queries):
    """Fit, and return the sample that was drawn."""
    kept, draw = [], regression.draw_sample
    with monkeypatch.context() as patch:
        patch.setattr(regression, "draw_sample", lambda *arguments: kept.append(draw(*arguments)) or kept[0])
        reducer.fit(documents, queries)
    return kept[0]


def best_similarities(vectors, documents, arrays):
    """g_D(x) of 8-bit codes, shape (n, num_documents)."""
    codec = Codec._int8(arrays["codec_center"], arrays["codec_direction"])
    codes, book = codec.encode(documents), codec._codebook
    best = []
    for document in documents:
        codes, scale = reference.encode_int8(document, book)
        best.append(reference.similarities_int8(vectors, codes, scale, book).max(axis=1))
    return np.stack(best, axis=1)


def test_at_full_rank_inner_products_are_the_ridge_regression(monkeypatch):
    rng = np.random.default_rng(0)
    documents, new = off_centre_collection(rng, [6, 2, 11, 1] * 20), off_centre_collection(rng, [5, 1, 30])
    queries = off_centre_collection(rng, [8, 3, 1, 12])
    reducer = LearnedReducer(24, output_dimension=40, num_features=30, num_samples=600)
    sample = fit_and_keep_sample(monkeypatch, reducer, documents, queries.select([0, 1]))
    arrays = reducer._found.arrays
    vectors = arrays["samples"].astype(np.float64) * arrays["sample_scales"][:, None]
    offsets = sample.sets.offsets
    g = best_similarities(vectors, documents, arrays)
    for i, (document, first) in enumerate(zip(sample.own_documents, offsets[sample.num_queries :], strict=False)):
        tokens = slice(first, offsets[sample.num_queries + i + 1])
        base = offsets[sample.num_queries]
        g[tokens, document] = sample.own_targets[tokens.start - base : tokens.stop - base]
    means = g.mean(axis=1, keepdims=True)
    phi = reference.features(vectors, arrays["weights"], arrays["center"])
    varying = best_similarities(vectors, new, arrays) - means
    a, b = reference.ridge_regression(phi, varying, offsets)
    of_queries = np.array([reference.features(q, arrays["weights"], arrays["center"]).sum(axis=0) for q in queries])
    expected = of_queries @ np.linalg.solve(a, b)
    found = reducer.encode_queries(queries).astype(float) @ reducer.encode_documents(new).T.astype(float)
    # Both maps are kept in half precision: an error of 2^-12 at most of each row's largest number, by chance of either
    # sign. In whitened space rows have length 1, so that it is some 2^-11 · |L⁻¹ φ| · |g - mean|.
    lengths = np.sqrt(np.sum(of_queries * np.linalg.solve(a, of_queries.T).T, axis=1))
    bound = 2.0**-10 * np.outer(lengths, np.linalg.norm(varying, axis=0))
    assert np.all(np.abs(found - expected) <= bound)
    assert np.abs(expected).max() > 20 * bound.max()  # the bound says something


def test_maps_at_full_rank_are_the_ridge_regression():
    # Without half precision: float32 sums of 300 rows, and a system of condition 1e4
    rng = np.random.default_rng(0)
    documents = off_centre_collection(rng, [6, 2, 11, 1] * 10)
    sample = regression.draw_sample(documents, None, 300, rng)
    weights, center = rng.standard_normal((20, 24)).astype(np.float32), rng.random(20).astype(np.float32)

    def features(part):
        return reference.features(part.vectors, weights, center).astype(np.float32)

    maps = regression.fit_maps(sample, documents, features, 21, 2**20, 1, rng, lambda _: None)
    phi = reference.features(sample.sets.vectors, weights, center)
    _, zg = reference.ridge_regression(phi, np.eye(len(phi)), sample.sets.offsets)
    a, _ = reference.ridge_regression(phi, np.eye(len(phi)), sample.sets.offsets)
    expected = phi @ np.linalg.solve(a, zg)
    found = phi @ maps.query_map.T.astype(float) @ maps.document_map
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_own_passages_do_not_find_themselves():
    documents = off_centre_collection(np.random.default_rng(0), [12] * 9)
    sample = regression.draw_sample(documents, None, 200, np.random.default_rng(0))
    for i, row in enumerate(sample.own_documents):
        passage = slice(*sample.sets.offsets[i : i + 2])
        whole = reference.alignment(sample.sets.vectors[passage], documents[row])[0]
        assert np.all(sample.own_targets[passage] <= whole + 1e-6)
        assert np.any(sample.own_targets[passage] < whole - 1e-3)


@pytest.mark.parametrize("size", [1, 2, 64, 65, 131, 300])
def test_a_triangle_is_inverted(size):
    rng = np.random.default_rng(0)
    lower = np.tril(rng.standard_normal((size, size))) / size + np.eye(size)
    inverse = lower.copy()
    regression._invert_lower(inverse)
    np.testing.assert_allclose(inverse @ lower, np.eye(size), atol=1e-12)
    assert not np.triu(inverse, 1).any()


# ── a real collection ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def real():
    """The packaged collection: documents, sample queries, other queries, the exact top 10 of these."""
    stdlib = load_stdlib()
    rows = np.arange(len(stdlib.queries))
    sample, others = stdlib.queries.select(rows[::2]), stdlib.queries.select(rows[1::2])
    return stdlib.documents, sample, others, maxsim_topk(others, stdlib.documents, 10)[1]


def recall(encoder, documents, queries, exact, candidates=50):
    """The part of the exact top 10 among the first candidates by encodings."""
    products = encoder.encode_queries(queries) @ encoder.encode_documents(documents).T
    found = np.argsort(-products, axis=1)[:, :candidates]
    return np.mean([np.isin(best, rows).mean() for best, rows in zip(exact, found, strict=True)])


def test_recall_is_far_above_that_of_fixed_encodings_of_the_same_size(real):
    documents, sample, queries, exact = real
    shape = {"num_repetitions": 4, "num_simhash_projections": 1, "projection_dimension": 16}  # the best of 128 numbers
    fixed = FixedDimensionalEncoder(96, **shape).fit(documents, sample)
    learned = LearnedReducer(96, output_dimension=128, num_features=512, num_samples=4096)
    assert fixed.output_dimension == learned.output_dimension
    of_fixed = recall(fixed, documents, queries, exact)
    assert recall(learned.fit(documents), documents, queries, exact) > of_fixed + 0.1
    with_queries = recall(learned.fit(documents, sample), documents, queries, exact)
    assert with_queries > of_fixed + 0.25
    assert with_queries > 0.75


def test_documents_that_were_not_seen_are_found_too(real):
    documents, sample, queries, exact = real
    half = documents.select(np.arange(0, len(documents), 2))
    learned = LearnedReducer(96, output_dimension=128, num_features=256, num_samples=4096).fit(half, sample)
    assert recall(learned, documents, queries, exact) > 0.65


# ── encodings ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["encode_documents", "encode_queries"])
def test_encodings_do_not_depend_on_batch_or_threads(fitted, verb, monkeypatch):
    reducer, documents = fitted
    encode = getattr(reducer, verb)
    expected = encode(documents, num_threads=1)
    np.testing.assert_array_equal(encode(documents, num_threads=3), expected)
    np.testing.assert_array_equal([encode(document)[0] for document in documents], expected)
    monkeypatch.setattr("chamfer.reducers.learned._BLOCK_BYTES", 1)  # one item a block
    np.testing.assert_array_equal(encode(documents), expected)


@pytest.mark.parametrize("verb", ["encode_documents", "encode_queries"])
def test_empty_items_are_zeros(fitted, verb):
    reducer, documents = fitted
    encodings = getattr(reducer, verb)(documents)
    assert encodings.dtype == np.float32
    np.testing.assert_array_equal(encodings.any(axis=1), documents.lengths > 0)
    assert getattr(reducer, verb)(TokenVectors(np.empty((0, 24), np.float32), [0])).shape == (0, 16)


def test_float16_vectors_are_encoded_as_their_float32_values(fitted):
    reducer, documents = fitted
    halves = TokenVectors(documents.vectors.astype(np.float16), documents.offsets)
    floats = TokenVectors(halves.vectors.astype(np.float32), documents.offsets)
    np.testing.assert_array_equal(reducer.encode_documents(halves), reducer.encode_documents(floats))
    np.testing.assert_array_equal(reducer.encode_queries(halves), reducer.encode_queries(floats))


def test_a_fit_to_float16_vectors_is_that_to_their_float32_values(fitted):
    halves = TokenVectors(fitted[1].vectors.astype(np.float16), fitted[1].offsets)
    floats = TokenVectors(halves.vectors.astype(np.float32), halves.offsets)
    first, other = (LearnedReducer(24, **SMALL).fit(x, x).encode_documents(x) for x in (halves, floats))
    np.testing.assert_array_equal(first, other)


def test_the_seed_decides(fitted):
    documents = fitted[1]
    first, same, other = (
        LearnedReducer(24, **SMALL, seed=seed).fit(documents).encode_documents(documents) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_empty_documents_do_not_change_the_fit(fitted):
    documents = fitted[1]
    filled = documents.select(documents.lengths > 0)
    first, other = (LearnedReducer(24, **SMALL).fit(x).encode_queries(filled) for x in (documents, filled))
    np.testing.assert_array_equal(first, other)


def test_several_blocks_give_nearly_the_same_maps():
    rng = np.random.default_rng(0)
    documents = off_centre_collection(rng, [15] * 1100)  # two stripes
    shape = {"output_dimension": 16, "num_features": 64, "num_samples": 3000}
    one, many = (LearnedReducer(24, **shape).fit(documents, memory_budget=n) for n in (2**40, 1))
    products = [r.encode_queries(documents) @ r.encode_documents(documents).T for r in (one, many)]
    # the sums differ in the last bits of float32, and then roundings to half precision
    np.testing.assert_allclose(products[1], products[0], atol=2e-3 * np.abs(products[0]).max())


def test_given_features_are_used_in_any_layout():
    documents = off_centre_collection(np.random.default_rng(0), [5] * 40)
    weights = np.random.default_rng(1).standard_normal((37, 24))
    encodings = []
    for given in (weights.astype(np.float32), np.asfortranarray(weights), weights.tolist()):
        reducer = LearnedReducer(24, output_dimension=8, num_samples=256, features=given).fit(documents)
        assert reducer.num_features == 37
        encodings.append(reducer.encode_queries(documents))
    np.testing.assert_array_equal(encodings[1:], [encodings[0]] * 2)


# ── odd collections ─────────────────────────────────────────────────────────────────────────────────────────────────


def fit_and_multiply(documents, **shape):
    """Fit, and return all inner products, centred; nothing overflows or divides by zero on the way."""
    reducer = LearnedReducer(documents.dim, **SMALL | shape)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        reducer.fit(documents)
        queries, encodings = reducer.encode_queries(documents), reducer.encode_documents(documents)
        assert np.isfinite(queries).all()
        assert np.isfinite(encodings).all()
        products = queries.astype(float) @ encodings.T
    return products - products.mean(axis=1, keepdims=True)


def agreement(products, documents):
    """The correlation with MaxSim, of what differs between documents."""
    exact = reference.maxsim_all(documents, documents)
    exact -= exact.mean(axis=1, keepdims=True)
    return np.corrcoef(products.ravel(), exact.ravel())[0, 1]


@pytest.mark.parametrize("scale", [1e-10, 1e-6, 1.0, 1e6, 1e12])
def test_any_magnitude_works_as_well(scale):
    documents = off_centre_collection(np.random.default_rng(0), [5, 9] * 25)
    documents = TokenVectors(documents.vectors * np.float32(scale), documents.offsets)
    assert agreement(fit_and_multiply(documents), documents) > 0.65  # 0.70 of any


@pytest.mark.parametrize("dim", [1, 2, 3, 96])
def test_any_dim_works(dim):
    documents = off_centre_collection(np.random.default_rng(0), [5, 9] * 25, dim=dim)
    assert agreement(fit_and_multiply(documents, output_dimension=48), documents) > 0.6


def test_1024_dims_work():
    documents = ragged(unit_vectors, np.random.default_rng(0), [3] * 20, 1024)
    fit_and_multiply(documents, num_samples=128)


@pytest.mark.parametrize("lengths", [[1], [7], [1, 1], [3, 4], [1] * 30], ids=str)
def test_small_collections_work(lengths):
    fit_and_multiply(off_centre_collection(np.random.default_rng(0), lengths))


def test_one_document_tells_nothing_and_is_zero():
    document = off_centre_collection(np.random.default_rng(0), [9])
    reducer = LearnedReducer(24, **SMALL).fit(document)
    assert not reducer.encode_documents(document).any()
    assert not reducer.encode_queries(document).any()


def test_documents_without_length_work():
    assert not fit_and_multiply(TokenVectors(np.zeros((30, 8), np.float32), np.arange(7) * 5)).any()


def test_identical_documents_get_identical_encodings():
    one = off_centre_collection(np.random.default_rng(0), [6])
    documents = TokenVectors(np.tile(one.vectors, (20, 1)), np.arange(21) * 6)
    encodings = LearnedReducer(24, **SMALL).fit(documents).encode_documents(documents)
    assert np.isfinite(encodings).all()
    np.testing.assert_array_equal(encodings, encodings[:1].repeat(20, axis=0))


@pytest.mark.parametrize(("num_documents", "num_features", "rank"), [(6, 48, 6), (60, 5, 6)])
def test_numbers_past_the_rank_are_zero(num_documents, num_features, rank):
    documents = off_centre_collection(np.random.default_rng(0), [6] * num_documents)
    reducer = LearnedReducer(24, output_dimension=100, num_features=num_features, num_samples=512).fit(documents)
    for encodings in (reducer.encode_documents(documents), reducer.encode_queries(documents)):
        assert encodings.shape == (num_documents, 100)
        assert np.isfinite(encodings).all()
        assert not encodings[:, rank:].any()


@pytest.mark.parametrize("num_samples", [1, 2, 7, 100])
def test_a_sample_is_as_large_as_asked_with_half_of_queries(num_samples):
    rng = np.random.default_rng(0)
    documents, queries = off_centre_collection(rng, [6, 30] * 30), off_centre_collection(rng, [4000, 0, 3000])
    sample = regression.draw_sample(documents, queries, num_samples, rng)
    assert sample.sets.num_tokens == max(2, num_samples)
    assert sample.sets.offsets[sample.num_queries] == max(2, num_samples) // 2
    LearnedReducer(24, output_dimension=4, num_features=8, num_samples=num_samples).fit(documents, queries)


def test_of_few_documents_fewer_samples_are_drawn():
    documents = off_centre_collection(np.random.default_rng(0), [5] * 40)
    reducer = LearnedReducer(24, output_dimension=4, num_features=8).fit(documents)
    assert len(reducer._found.arrays["samples"]) == 2048


# ── drift, copies, threads ──────────────────────────────────────────────────────────────────────────────────────────


def moved(documents, shift):
    """Documents whose vectors are shifted, at unit length."""
    vectors = documents.vectors + shift * unit_vectors(np.random.default_rng(0), 1, documents.dim)
    return TokenVectors(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), documents.offsets)


@pytest.mark.parametrize("num_features", [256, 1024])
def test_drift_is_told_of_other_documents_and_not_of_more_of_the_same(real, num_features):
    documents, queries, _, _ = real
    known, new = (documents.select(np.arange(first, len(documents), 2)) for first in (0, 1))
    fitted = LearnedReducer(96, output_dimension=128, num_features=num_features, num_samples=1024).fit(known, queries)
    assert np.isnan(fitted.stats()["missed_since"])

    def stats(*batches):
        reducer = copy.copy(fitted)  # counts anew
        for batch in batches:
            reducer.encode_documents(batch)
        assert reducer.stats()["missed_at_fit"] == fitted.stats()["missed_at_fit"]
        return reducer.stats()

    assert 0 < fitted.stats()["missed_at_fit"] < 1
    assert stats(new)["num_encoded"] == len(new)
    assert not stats(new)["refit_advised"]
    topic = [name.startswith(("os", "shutil", "pathlib")) for name in load_stdlib().ids]
    assert not stats(documents.select(np.array(topic)))["refit_advised"]
    random = ragged(unit_vectors, np.random.default_rng(0), new.lengths, 96)
    for others in (random, moved(new, 0.5)):
        assert not stats(others.select(np.arange(99)))["refit_advised"]  # too few to tell
        assert stats(others)["refit_advised"]
        assert stats(new, others)["refit_advised"]


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, lambda reducer: pickle.loads(pickle.dumps(reducer))])
def test_a_copy_gives_the_same_bits(fitted, copier):
    reducer, documents = fitted
    copied = copier(reducer)
    assert repr(copied) == repr(reducer)
    np.testing.assert_array_equal(copied.encode_documents(documents), reducer.encode_documents(documents))
    np.testing.assert_array_equal(copied.encode_queries(documents), reducer.encode_queries(documents))
    assert not copier(LearnedReducer(24)).is_fitted


def test_many_threads_get_the_same_encodings_and_all_are_counted(fitted):
    reducer, documents = copy.copy(fitted[0]), fitted[1]
    expected = [reducer.encode_documents(documents), reducer.encode_queries(documents)]
    with ThreadPoolExecutor(8) as pool:
        verbs = [reducer.encode_documents, reducer.encode_queries] * 20
        answers = list(pool.map(lambda verb: verb(documents, num_threads=2), verbs))
    assert all(np.array_equal(answer, expected[i % 2]) for i, answer in enumerate(answers))
    assert reducer.stats()["num_encoded"] == 21 * np.count_nonzero(documents.lengths)


@pytest.mark.parametrize("name", ["best_similarities", "draw_sample", "left_singular"])
def test_an_interrupted_fit_ends_at_once_and_leaves_the_reducer_as_it_was(fitted, monkeypatch, name):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    reducer, documents = copy.copy(fitted[0]), fitted[1]
    expected = reducer.encode_documents(documents)
    with monkeypatch.context() as patch:
        patch.setattr(regression, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            reducer.fit(documents.select([0, 2]))
    np.testing.assert_array_equal(reducer.encode_documents(documents), expected)


def test_a_fit_interrupted_at_its_end_leaves_the_reducer_unfitted(fitted, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    reducer = LearnedReducer(24, **SMALL)
    monkeypatch.setattr("chamfer.reducers.learned._Fit.encode_queries", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reducer.fit(fitted[1])
    assert not reducer.is_fitted


# ── refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("parameter", "value", "error"),
    [
        *((name, value, ValueError) for name in ("dim", "output_dimension", "num_features") for value in (0, 65_537)),
        *((name, value, TypeError) for name in ("dim", "num_samples", "num_features") for value in (2.0, True, "3")),
        ("num_samples", -1, ValueError),
        ("output_dimension", None, TypeError),
        ("seed", -1, ValueError),
        ("seed", 2**32, ValueError),
        ("seed", 1.0, TypeError),
        ("seed", True, TypeError),
        ("features", np.ones((4, 23)), ValueError),
        ("features", np.ones(24), ValueError),
        ("features", np.ones((0, 24)), ValueError),
        ("features", np.ones((1, 4, 24)), ValueError),
        ("features", np.full((4, 24), np.nan), ValueError),
        ("features", np.full((4, 24), 1e300), ValueError),
        ("features", [[1.0] * 24, [1.0]], ValueError),
        ("features", np.ones((4, 24), complex), TypeError),
        ("features", "abc", TypeError),
    ],
    ids=lambda value: str(getattr(value, "shape", value))[:20],
)
def test_a_parameter_out_of_place_is_named(parameter, value, error):
    with pytest.raises(error, match=rf"^{parameter}: expected "):
        LearnedReducer(**{"dim": 24} | SMALL | {parameter: value})


@pytest.mark.parametrize(
    ("value", "error"), [("1", TypeError), (None, TypeError), (2.0**30, TypeError), (True, TypeError), (0, ValueError)]
)
def test_a_wrong_memory_budget_is_named(fitted, value, error):
    with pytest.raises(error, match=r"^memory_budget: expected "):
        LearnedReducer(24, **SMALL).fit(fitted[1], memory_budget=value)


@pytest.mark.parametrize("verb", ["encode_documents", "encode_queries", "stats", "save"])
def test_what_needs_a_fit_says_so(verb, tmp_path):
    arguments = {"stats": [], "save": [tmp_path / "file"]}.get(verb, [np.ones((2, 24), np.float32)])
    with pytest.raises(ValueError, match=r"not fitted: call fit\(documents\) first"):
        getattr(LearnedReducer(24), verb)(*arguments)


@pytest.mark.parametrize(("verb", "argument"), [("encode_documents", "documents"), ("encode_queries", "queries")])
@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (np.ones((2, 23), np.float32), ValueError, r"expected dim 24 \(the reducer's\), got 23"),
        (np.ones((2, 24)), TypeError, "expected float32 or float16, got float64"),
        (np.full((2, 24), np.nan, np.float32), ValueError, "expected finite numbers"),
    ],
    ids=["dim", "dtype", "NaN"],
)
def test_wrong_vectors_are_named(fitted, verb, argument, vectors, error, message):
    with pytest.raises(error, match=f"^{argument}: {message}"):
        getattr(fitted[0], verb)(vectors)
    with pytest.raises(error, match=f"^{argument}: {message}"):
        LearnedReducer(24).fit(**{"documents": fitted[1]} | {argument: vectors})


def test_a_fit_needs_vectors(fitted):
    empty = TokenVectors(np.empty((0, 24), np.float32), [0, 0])
    with pytest.raises(ValueError, match=r"^documents: expected at least one vector"):
        LearnedReducer(24).fit(empty)
    with pytest.raises(ValueError, match=r"^queries: expected at least one vector"):
        LearnedReducer(24).fit(fitted[1], empty)
    with pytest.raises(ValueError, match=r"^num_threads: expected at least 1"):
        LearnedReducer(24).fit(fitted[1], num_threads=0)
