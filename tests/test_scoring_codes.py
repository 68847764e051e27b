"""MaxSim against codes: its definition on every instruction set, whatever the shape; what all scores promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from chamfer import TokenCodes, TokenVectors, _core, available_isas, codec, maxsim, maxsim_alignment, maxsim_topk
from samples import off_centre_collection, ragged, unit_vectors

BITS = {"bfloat16": 16, "int8": 8, "scalar:4": 4, "scalar:2": 2, "binary": 1}
BITS |= {"recurrent:4": 4, "recurrent:2": 2, "recurrent:1": 1, "signs": 1}
STORAGES = pytest.mark.parametrize("storage", BITS)  # "signs": binary, queries coded too
DIMS = [*range(1, 71), 96, 128, 129, 300, 515, 1024]
QUERY_LENGTHS = [0, 1, 15, 16, 17, 35]
DOCUMENT_LENGTHS = [0, 1, 2, 13, 0, 40]

# float32 operations of a similarity of codes of few bits: two products, their sum, shift and terms rounded before.
SHORT_ERROR = 8 * 2.0**-24


def coded(storage, queries, documents):
    """What maxsim takes for queries and documents."""
    coder = codec("binary" if storage == "signs" else storage, documents.dim).fit(documents, queries)
    codes = coder.encode(documents)
    return (coder.encode_queries(queries) if storage == "signs" else queries), codes


def unpacked(codes):
    as_bits = np.unpackbits(codes.codes, axis=1, bitorder="little")[:, : codes.dim * codes.bits]
    return as_bits.reshape(codes.num_tokens, codes.dim, codes.bits) @ (1 << np.arange(codes.bits))


def similarities(storage, queries, codes, query, document):
    """Return the similarities of one query and one document by definition, and how far each may be off them."""
    q = slice(*queries.offsets[query : query + 2])
    d = slice(*codes.offsets[document : document + 2])
    if storage == "signs":
        exact = reference.similarities_signs(unpacked(queries)[q], unpacked(codes)[d])
        return exact, 0.0
    x = codes._codebook.rotated(queries.vectors[q]).astype(np.float64)
    if storage == "bfloat16":
        y = (codes.codes.view(np.uint16).astype(np.uint32) << 16).view(np.float32)[d, : codes.dim].astype(float)
        x = reference.bfloat16(x)
        return x @ y.T, codes.dim * 2.0**-24 * (np.abs(x) @ np.abs(y).T)
    if storage == "int8":
        exact = reference.similarities_int8(
            x, codes.codes[d, : codes.dim], codes.terms["scales"][document], codes._codebook
        )
        return exact, 2.0**-40 * np.abs(exact)
    scale, shift = codes.terms["token_terms"][d].astype(float).T
    exact, size = reference.similarities_short(x, unpacked(codes)[d], scale, shift, codes.bits, codes._codebook)
    return exact, SHORT_ERROR * size


def expected_scores(storage, queries, codes, weights=None):
    """Return scores by definition and how far each may be off them."""
    weights = np.ones(queries.num_tokens) if weights is None else np.asarray(weights, float)
    scores, bounds = np.empty((2, len(queries), len(codes)))
    for i in range(len(queries)):
        w = weights[slice(*queries.offsets[i : i + 2])]
        for j in range(len(codes)):
            exact, bound = similarities(storage, queries, codes, i, j)
            scores[i, j] = reference.maxsim_of_similarities(exact, w)
            size = np.abs(exact).max(axis=1, initial=0)
            bounds[i, j] = np.abs(w) @ (np.broadcast_to(bound, exact.shape).max(axis=1, initial=0) + 1e-12 * size)
            bounds[i, j] += 2.0**-24 * abs(scores[i, j]) if np.isfinite(scores[i, j]) else 0
    return scores, bounds


def assert_scores_are_defined(scores, storage, queries, codes, weights=None):
    expected, bounds = expected_scores(storage, queries, codes, weights)
    np.testing.assert_array_equal(np.isfinite(scores), np.isfinite(expected))
    finite = np.isfinite(expected)
    assert (np.abs(scores[finite].astype(float) - expected[finite]) <= bounds[finite]).all()


# ── against the definition ──────────────────────────────────────────────────────────────────────────────────────────


@STORAGES
def test_scores_are_those_of_the_definition_in_every_dim(isa, storage):
    for dim in DIMS[:-2] if storage.startswith("recurrent") else DIMS:  # large rotations take long to fit
        rng = np.random.default_rng(dim)
        vectors = off_centre_collection(rng, [1, 5], dim=dim)
        queries, codes = coded(storage, vectors, off_centre_collection(rng, [0, 1, 4, 13], dim=dim))
        assert_scores_are_defined(maxsim(queries, codes, isa=isa), storage, queries, codes)


@STORAGES
def test_scores_are_those_of_the_definition_at_every_length(isa, storage):
    rng = np.random.default_rng(0)
    vectors = off_centre_collection(rng, [*QUERY_LENGTHS, 71], dim=33)
    queries, codes = coded(storage, vectors, off_centre_collection(rng, [*DOCUMENT_LENGTHS, 181, 600], dim=33))
    assert_scores_are_defined(maxsim(queries, codes, isa=isa), storage, queries, codes)


@STORAGES
@pytest.mark.parametrize("scale", [2.0**40, 1e-30])
def test_scores_are_those_of_the_definition_at_every_magnitude(isa, storage, scale):
    rng = np.random.default_rng(0)
    queries, documents = off_centre_collection(rng, [5, 17]), off_centre_collection(rng, DOCUMENT_LENGTHS)
    documents = TokenVectors(documents.vectors * np.float32(scale), documents.offsets)
    queries, codes = coded(storage, queries, documents)
    assert_scores_are_defined(maxsim(queries, codes, isa=isa), storage, queries, codes)


@STORAGES
def test_weights_multiply_the_similarity_of_their_token(isa, storage):
    rng = np.random.default_rng(0)
    vectors = off_centre_collection(rng, QUERY_LENGTHS)
    queries, codes = coded(storage, vectors, off_centre_collection(rng, DOCUMENT_LENGTHS))
    for weights in (rng.standard_normal(queries.num_tokens), rng.integers(-1, 2, queries.num_tokens), -np.ones(84)):
        weights = weights.astype(np.float32)
        scores = maxsim(queries, codes, query_weights=weights, isa=isa)
        assert_scores_are_defined(scores, storage, queries, codes, weights)


def integer_collection(bits, dim, rng):
    """Codes whose numbers are integers: no scale, no shift, nothing subtracted."""
    zeros, terms = np.zeros(dim, np.float32), np.tile(np.float16([1, 0]), (sum(DOCUMENT_LENGTHS), 1))
    codes = rng.integers(0, 2**bits, (len(terms), dim))
    arguments = {"center": zeros, "direction": zeros}
    offsets = np.concatenate([[0], np.cumsum(DOCUMENT_LENGTHS)])
    packed = reference.packed(codes, bits)
    if bits == 8:
        ones = np.ones(len(DOCUMENT_LENGTHS), np.float32)
        arguments |= {"stretch": 1.0, "scales": ones, "errors": ones, "norms": ones}
        return codes - 128, _core.Collection.codes8(packed, offsets, dim, **arguments)
    levels = np.full(16, 255, np.uint8)
    levels[: 2**bits] = np.sort(rng.choice(256, 2**bits, replace=False))
    arguments |= {"bits": bits, "levels": levels, "levels_per_rms": 1.0, "dim_scales": zeros + 1, "token_terms": terms}
    return levels[codes].astype(int) - 128, _core.Collection.short_codes(packed, offsets, dim, **arguments)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_integer_products_are_exact(isa, bits):
    """All numbers of 8 bits, all codes: a query whose largest number is 127 is its own code."""
    for dim in [*range(1, 71), 96, 129, 300, 515, 1024]:
        rng = np.random.default_rng(dim)
        numbers, documents = integer_collection(bits, dim, rng)
        query = rng.integers(-127, 128, (35, dim))
        query[:, rng.integers(dim)] = np.where(rng.integers(0, 2, 35), 127, -127)
        alone = [_core.Collection(query[i : i + 1].astype(np.float32), np.array([0, 1])) for i in (0, 34)]
        products = query @ numbers.T
        ends = np.cumsum(DOCUMENT_LENGTHS)
        best = [
            products[:, e - n : e].max(axis=1) if n else np.full(35, -np.inf)
            for e, n in zip(ends, DOCUMENT_LENGTHS, strict=True)
        ]
        for i, one in zip((0, 34), alone, strict=True):
            scores = _core.maxsim(one, documents, num_threads=1, isa=isa)[0]
            np.testing.assert_array_equal(scores, np.array(best)[:, i].astype(np.float32))
        together = _core.Collection(query.astype(np.float32), np.arange(36))
        scores = _core.maxsim(together, documents, num_threads=1, isa=isa)
        np.testing.assert_array_equal(scores, np.array(best).T.astype(np.float32))


@pytest.mark.parametrize("bits", [8, 4])
def test_the_largest_products_do_not_overflow(isa, bits):
    dim = 65_536
    zeros = np.zeros(dim, np.float32)
    common = {"center": zeros, "direction": zeros}
    if bits == 8:
        one = np.ones(2, np.float32)
        codes = np.stack([np.full(dim, 255, np.uint8), np.full(dim, 1, np.uint8)])
        documents = _core.Collection.codes8(
            codes, np.arange(3), dim, stretch=1.0, scales=one, errors=one, norms=one, **common
        )
    else:
        codes, terms = (
            np.stack([np.full(dim // 2, 255, np.uint8), np.zeros(dim // 2, np.uint8)]),
            np.float16([[1, 0], [1, 0]]),
        )
        levels = np.linspace(1, 255, 16).astype(np.uint8)
        documents = _core.Collection.short_codes(
            codes,
            np.arange(3),
            dim,
            bits=4,
            levels=levels,
            levels_per_rms=1.0,
            dim_scales=zeros + 1,
            token_terms=terms,
            **common,
        )
    queries = _core.Collection(np.stack([zeros + 127, zeros - 127]), np.arange(3))
    largest = np.float32(127 * 127 * dim)
    scores = _core.maxsim(queries, documents, num_threads=1, isa=isa)
    np.testing.assert_array_equal(scores, [[largest, -largest], [-largest, largest]])


# ── what all scores promise ─────────────────────────────────────────────────────────────────────────────────────────


def everything(storage, isa, dim=33, num_threads=1, seed=0, **options):
    rng = np.random.default_rng(seed)
    vectors = off_centre_collection(rng, QUERY_LENGTHS * 4, dim=dim)
    queries, codes = coded(storage, vectors, off_centre_collection(rng, DOCUMENT_LENGTHS * 9, dim=dim))
    return queries, codes, maxsim(queries, codes, isa=isa, num_threads=num_threads, **options)


@pytest.mark.parametrize("storage", list(BITS)[1:])
def test_scores_have_the_same_bits_on_every_isa(storage):
    for dim in (1, 7, 33, 96, 129, 515):
        first, *others = [everything(storage, isa, dim)[2] for isa in available_isas()]
        for other in others:
            np.testing.assert_array_equal(other, first)


@STORAGES
@pytest.mark.parametrize("num_threads", [2, 3])
def test_scores_do_not_depend_on_the_number_of_threads(isa, storage, num_threads):
    expected = everything(storage, isa)[2]
    np.testing.assert_array_equal(everything(storage, isa, num_threads=num_threads)[2], expected)


@STORAGES
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("k", [1, 7, 54, 100])
def test_topk_is_the_order_of_scores_ties_to_the_lower_row(isa, storage, k, num_threads):
    queries, codes, scores = everything(storage, isa)
    found, rows = maxsim_topk(queries, codes, k, isa=isa, num_threads=num_threads)
    for line, some, of_query in zip(scores, found, rows, strict=True):
        expected = reference.topk(line, k)
        np.testing.assert_array_equal(some, expected[0])
        np.testing.assert_array_equal(of_query, expected[1])


@STORAGES
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("width", [0, 1, 130, 300])
def test_candidates_have_the_bits_of_all_scores(isa, storage, num_threads, width):
    queries, codes, scores = everything(storage, isa)
    candidates = np.random.default_rng(1).integers(-1, len(codes), (len(queries), width))
    expected = np.take_along_axis(np.pad(scores, ((0, 0), (0, 1)), constant_values=-np.inf), candidates, axis=1)
    found = maxsim(queries, codes, candidates=candidates, isa=isa, num_threads=num_threads)
    np.testing.assert_array_equal(found, expected)
    best, rows = maxsim_topk(queries, codes, 9, candidates=candidates, isa=isa, num_threads=num_threads)
    for i, line in enumerate(scores):
        among = reference.topk(np.where(np.isin(np.arange(len(codes)), candidates[i]), line, -np.inf), 9)
        np.testing.assert_array_equal(best[i], among[0])
        np.testing.assert_array_equal(rows[i], among[1])


@STORAGES
def test_queries_score_together_as_one_by_one(isa, storage):
    queries, codes, scores = everything(storage, isa)
    for i in range(0, len(queries), 5):
        np.testing.assert_array_equal(maxsim(queries.select([i]), codes, isa=isa)[0], scores[i])
    for i in range(0, len(codes), 5):
        np.testing.assert_array_equal(maxsim(queries, codes.select([i]), isa=isa)[:, 0], scores[:, i])


@STORAGES
def test_alignment_explains_the_score(isa, storage):
    queries, codes, scores = everything(storage, isa, dim=40)
    for i, j in ((1, 1), (2, 3), (4, 5), (5, 5), (5, 0), (0, 3)):
        score, best, tokens = maxsim_alignment(queries.select([i]), codes.select([j]), isa=isa)
        assert score == scores[i, j]
        if codes.lengths[j] == 0:
            assert (tokens == -1).all()
            assert (best == -np.inf).all()
            continue
        exact, bound = similarities(storage, queries, codes, i, j)
        bound = np.broadcast_to(bound, exact.shape) + 2.0**-23 * np.abs(exact)
        at = np.arange(len(tokens)), tokens
        assert np.sum(best, dtype=float) == pytest.approx(score, rel=1e-5, abs=1e-5)
        assert (np.abs(best - exact[at]) <= bound[at]).all()
        assert (exact[at] >= (exact - 2 * bound).max(axis=1, initial=-np.inf)).all()


@STORAGES
def test_alignment_names_the_first_of_equal_tokens(isa, storage):
    rng = np.random.default_rng(0)
    few = unit_vectors(rng, 4, 40)
    documents = TokenVectors(few[[2, 0, 1, 2, 3, 0, 1, 3]], [0, 8])
    queries, codes = coded(storage, TokenVectors(unit_vectors(rng, 20, 40), [0, 20]), documents)
    assert set(maxsim_alignment(queries, codes, isa=isa).document_tokens) <= {0, 1, 2, 4}


@pytest.mark.parametrize("storage", list(BITS)[:-1])
def test_float16_queries_are_computed_as_float32(isa, storage):
    queries, codes, _ = everything(storage, isa)
    halves = TokenVectors(queries.vectors.astype(np.float16), queries.offsets)
    floats = TokenVectors(halves.vectors.astype(np.float32), queries.offsets)
    np.testing.assert_array_equal(maxsim(halves, codes, isa=isa), maxsim(floats, codes, isa=isa))


@pytest.mark.parametrize("storage", list(BITS)[:-1])
def test_scores_are_near_those_of_the_vectors(isa, storage):
    rng = np.random.default_rng(0)
    queries, documents = off_centre_collection(rng, [32] * 5, dim=128), off_centre_collection(rng, [50] * 40, dim=128)
    exact = maxsim(queries, documents)
    errors = np.abs(maxsim(*coded(storage, queries, documents), isa=isa) - exact) / 32
    allowed = {16: 0.002, 8: 0.01, 4: 0.01, 2: 0.04, 1: 0.12}[BITS[storage]]
    assert errors.max() < allowed


# ── laws ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def tasks(draw):
    """A storage, queries, and documents of a few distinct lengths."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dim = draw(st.integers(1, 70))
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    documents = ragged(unit_vectors, rng, [*lengths, 2], dim)
    queries = ragged(unit_vectors, rng, draw(st.lists(st.integers(0, 18), min_size=1, max_size=4)), dim)
    if queries.num_tokens == 0:
        queries = ragged(unit_vectors, rng, [1], dim)
    return (*coded(draw(st.sampled_from(list(BITS))), queries, documents), rng)


def of_lengths(codes, tokens, lengths):
    """Codes of these tokens of the same scale (8 bits: of the first document), in documents of these lengths."""
    terms = {n: a[tokens] if n == "token_terms" else np.repeat(a[:1], len(lengths)) for n, a in codes.terms.items()}
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return TokenCodes(codes.codes[tokens], terms, offsets, codes.dim, codes._codebook)


@given(task=tasks())
def test_the_order_of_document_tokens_does_not_matter(task):
    queries, codes, rng = task
    all_tokens = np.arange(codes.num_tokens)
    one, other = (of_lengths(codes, tokens, [len(tokens)]) for tokens in (all_tokens, rng.permutation(all_tokens)))
    np.testing.assert_array_equal(maxsim(queries, one), maxsim(queries, other))


@given(task=tasks(), data=st.data())
def test_a_document_scores_no_higher_than_one_that_contains_it(task, data):
    queries, codes, rng = task
    count = data.draw(st.integers(1, codes.num_tokens))
    tokens = np.concatenate([np.arange(count), np.arange(codes.num_tokens)])
    both = of_lengths(codes, tokens, [count, codes.num_tokens])
    weights = rng.random(queries.num_tokens, np.float32)
    part, whole = maxsim(queries, both, query_weights=weights).T
    assert (part <= whole).all()
    part, whole = maxsim(queries, both, query_weights=-weights).T
    assert (part >= whole).all()


@given(task=tasks(), copies=st.integers(2, 4))
def test_repeating_document_tokens_changes_nothing(task, copies):
    queries, codes, _ = task
    all_tokens = np.arange(codes.num_tokens)
    repeated = of_lengths(codes, np.tile(all_tokens, copies), [copies * len(all_tokens)])
    np.testing.assert_array_equal(
        maxsim(queries, repeated), maxsim(queries, of_lengths(codes, all_tokens, [len(all_tokens)]))
    )


@given(task=tasks())
def test_topk_is_what_sorting_scores_gives(task):
    queries, codes, _ = task
    scores = maxsim(queries, codes)
    for line, found in zip(scores, maxsim_topk(queries, codes, 3)[1], strict=True):
        np.testing.assert_array_equal(found, reference.topk(line, 3)[1])
