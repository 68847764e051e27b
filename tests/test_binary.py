"""Hamming distances and SDC against their definitions, to the bit, on every instruction set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chamfer
import reference
from chamfer import RecurrentCodes, _core

SIZES = [0, 1, 7, 8, 9, 15, 16, 17, 19, 31, 32, 33, 35, 67]  # around the 8, 16 and 32 codes that kernels take at once
CODE_SIZES = [*range(1, 71, 2), 8, 16, 32, 48, 64, 96, 128, 192, 256, 300, 2000]
DIMS = [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 256, 300, 384, 511, 512, 1023, 1024]


def random_codes(rng, n, code_size):
    return rng.integers(0, 256, (n, code_size), np.uint8)


def random_levels(rng, n, dim, bits):
    return rng.integers(0, 2**bits, (n, dim), np.uint8)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def sdc_reference(query_levels, levels, bits, k, query_scales=None, scales=None, query_bits=None):
    similarities = reference.sdc_similarities(query_levels, levels, bits, query_scales, scales, query_bits)
    best = [reference.topk(line, k) for line in similarities]
    found = [np.array([line[i] for line in best]).reshape(len(query_levels), k) for i in range(2)]
    return found[0].astype(np.float32), found[1].astype(np.int64)


# ── Hamming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code_size", CODE_SIZES)
def test_hamming_topk_matches_its_definition_in_every_code_size(isa, code_size):
    rng = np.random.default_rng(code_size)
    queries, codes = random_codes(rng, 3, code_size), random_codes(rng, 35, code_size)
    assert_same(chamfer.hamming_topk(queries, codes, 35, isa=isa), reference.hamming_topk(queries, codes, 35))


@pytest.mark.parametrize("num_queries", [0, 1, 3, 65])
@pytest.mark.parametrize("size", SIZES)
def test_hamming_topk_matches_its_definition_in_every_number_of_codes(isa, size, num_queries):
    rng = np.random.default_rng(size)
    queries, codes = random_codes(rng, num_queries, 13), random_codes(rng, size, 13)
    assert_same(chamfer.hamming_topk(queries, codes, 17, isa=isa), reference.hamming_topk(queries, codes, 17))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("code_size", [1, 3, 64])
def test_hamming_topk_of_many_ties_takes_the_lower_rows_for_any_number_of_threads(isa, code_size, num_threads):
    rng = np.random.default_rng(0)
    queries, codes = random_codes(rng, 5, code_size), random_codes(rng, 300, code_size)
    codes = codes[rng.integers(0, 300, 600_000 // code_size)]  # several runs of 256 KB
    found = chamfer.hamming_topk(queries, codes, 50, num_threads=num_threads, isa=isa)
    assert_same(found, reference.hamming_topk(queries, codes, 50))


@pytest.mark.parametrize("code_size", [5, 40, 128])
def test_hamming_topk_reads_unaligned_codes(isa, code_size):
    rng = np.random.default_rng(0)
    memory = rng.integers(0, 256, 21 * code_size + 1, np.uint8)
    codes = memory[1:].reshape(21, code_size)
    assert_same(chamfer.hamming_topk(codes[:2], codes, 5, isa=isa), reference.hamming_topk(codes[:2], codes, 5))


@pytest.mark.parametrize(
    "view",
    [np.asfortranarray, lambda a: a[::-1].copy()[::-1], lambda a: np.repeat(a, 2, axis=1)[:, ::2]],
    ids=["Fortran", "negative stride", "every second column"],
)
def test_strided_codes_are_compared_as_contiguous_ones(view):
    codes = random_codes(np.random.default_rng(0), 20, 9)
    assert_same(chamfer.hamming_topk(view(codes[:3]), view(codes), 4), reference.hamming_topk(codes[:3], codes, 4))


@given(st.integers(0, 40), st.integers(1, 80), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_hamming_topk_is_its_definition_for_any_shape(size, code_size, k, seed):
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, size, code_size) & rng.integers(0, 256, code_size, np.uint8)
    queries = random_codes(rng, 2, code_size)
    assert_same(chamfer.hamming_topk(queries, codes, k), reference.hamming_topk(queries, codes, k))


def test_a_code_is_nearest_to_itself_and_farthest_from_its_complement(isa):
    code = random_codes(np.random.default_rng(0), 1, 37)
    distances, rows = chamfer.hamming_topk(code, np.vstack([~code, code]), 2, isa=isa)
    assert (distances.tolist(), rows.tolist()) == ([[0, 8 * 37]], [[1, 0]])


@pytest.mark.parametrize(
    ("queries", "codes", "error", "message"),
    [
        (np.zeros((1, 4)), np.zeros((2, 4), np.uint8), TypeError, r"^query_codes: expected uint8, got float64$"),
        (np.zeros((1, 4), np.uint8), np.zeros((2, 4), bool), TypeError, r"^codes: expected uint8, got bool$"),
        (
            np.zeros(4, np.uint8),
            np.zeros((2, 4), np.uint8),
            ValueError,
            r"^query_codes: expected shape \(n, code_size\)",
        ),
        (np.zeros((1, 0), np.uint8), np.zeros((2, 0), np.uint8), ValueError, r"^codes: expected .* got \(2, 0\)$"),
        (
            np.zeros((1, 3), np.uint8),
            np.zeros((2, 4), np.uint8),
            ValueError,
            r"^query_codes: expected code_size 4 .* 3$",
        ),
    ],
    ids=["float", "bool", "1-D", "no bytes", "other size"],
)
def test_codes_that_do_not_fit_are_refused(queries, codes, error, message):
    with pytest.raises(error, match=message):
        chamfer.hamming_topk(queries, codes, 1)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k):
    code = np.zeros((1, 4), np.uint8)
    with pytest.raises(ValueError, match=f"^k: expected at least 1, got {k}$"):
        chamfer.hamming_topk(code, code, k)
    recurrent = RecurrentCodes.from_levels(code, 1)
    with pytest.raises(ValueError, match=f"^k: expected at least 1, got {k}$"):
        chamfer.sdc_topk(recurrent, recurrent, k)


# ── recurrent codes ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dim", DIMS)
def test_levels_come_back_as_they_were_packed(dim, bits):
    levels = random_levels(np.random.default_rng(dim), 35, dim, bits)
    codes = RecurrentCodes.from_levels(levels, bits)
    np.testing.assert_array_equal(codes.levels(), levels)
    assert (len(codes), codes.dim, codes.bits, codes.scales) == (35, dim, bits, None)
    assert codes.code_size == -(-dim * bits // 16) * 2
    assert codes.nbytes == 64 * codes.code_size


@pytest.mark.parametrize("size", SIZES)
def test_any_number_of_codes_comes_back_as_packed(size):
    levels = random_levels(np.random.default_rng(0), size, 5, 4)
    np.testing.assert_array_equal(RecurrentCodes.from_levels(np.asfortranarray(levels), 4).levels(), levels)


def test_recurrent_codes_copy_what_they_are_given():
    levels, scales = np.ones((3, 4), np.uint8), np.ones(3, np.float32)
    codes = RecurrentCodes.from_levels(levels, 2, scales)
    levels[:], scales[:] = 0, 0
    assert codes.levels().min() == 1
    assert codes.scales.tolist() == [1, 1, 1]
    assert repr(codes) == "RecurrentCodes(3 codes, dim=4, bits=2, with scales)"
    with pytest.raises(ValueError, match="read-only"):
        codes.scales[0] = 2


@pytest.mark.parametrize(
    ("levels", "bits", "scales", "error", "message"),
    [
        (np.zeros((2, 4), np.uint8), 3, None, ValueError, r"^bits: expected 1, 2 or 4, got 3$"),
        (np.zeros((2, 4), np.uint8), 2.0, None, TypeError, r"^bits: expected an int, got float$"),
        (np.zeros((2, 4)), 2, None, TypeError, r"^levels: expected uint8, got float64$"),
        (np.zeros(4, np.uint8), 2, None, ValueError, r"^levels: expected shape \(n, dim\), .* got \(4,\)$"),
        (np.zeros((2, 0), np.uint8), 2, None, ValueError, r"^levels: expected shape \(n, dim\), dim from 1"),
        (np.full((2, 4), 4, np.uint8), 2, None, ValueError, r"^levels: expected at most 3 \(bits=2\), got 4$"),
        (
            np.zeros((2, 4), np.uint8),
            2,
            [1.0],
            ValueError,
            r"^scales: expected shape \(2,\), one per code, got \(1,\)$",
        ),
        (np.zeros((2, 4), np.uint8), 2, [1, np.nan], ValueError, r"^scales: expected finite numbers, got nan$"),
        (np.zeros((2, 4), np.uint8), 2, [1, 1e30], ValueError, r"^scales: expected numbers below 2\^50, got"),
        (np.zeros((2, 4), np.uint8), 2, ["a", "b"], TypeError, r"^scales: expected numbers, got <U1$"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value[:12],
)
def test_levels_and_scales_that_do_not_fit_are_refused(levels, bits, scales, error, message):
    with pytest.raises(error, match=message):
        RecurrentCodes.from_levels(levels, bits, scales)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_that_follow_others_and_some_of_them_are_those_of_their_levels(bits):
    rng = np.random.default_rng(0)
    for size in SIZES:
        for more in SIZES:
            levels, scales = random_levels(rng, size + more, 11, bits), rng.standard_normal(size + more, np.float32)
            whole = RecurrentCodes.from_levels(levels, bits, scales)
            first = RecurrentCodes.from_levels(levels[:size], bits, scales[:size])
            first.fingerprint = "f"
            joined = first._followed_by(RecurrentCodes.from_levels(levels[size:], bits, scales[size:]))
            assert_same((joined._packed, joined.scales), (whole._packed, whole.scales))
            assert (len(joined), joined.fingerprint) == (size + more, "f")
            rows = rng.permutation(size + more)[:size]
            some = joined._select(rows)
            assert_same((some.levels(), some.scales), (levels[rows], scales[rows]))
            assert some.fingerprint == "f"


# ── SDC ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def formula_topk(formula, query_levels, levels, bits, k, isa, query_bits=None):
    packed = np.empty(_core.packed_bytes(levels.shape[1], bits, formula, len(levels)), np.uint8)
    _core.pack_levels(levels, bits, formula, packed)
    run = {"query_bits": query_bits, "num_threads": 1, "isa": isa}
    return _core.sdc_topk(query_levels, packed, len(levels), k, bits=bits, formula=formula, **run)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dim", DIMS)
def test_all_formulas_of_sdc_give_its_definition_in_every_dim(isa, dim, bits):
    rng = np.random.default_rng(dim)
    query_levels, levels = random_levels(rng, 3, dim, bits), random_levels(rng, 35, dim, bits)
    expected = sdc_reference(query_levels, levels, bits, 35)
    for formula in ("bitwise", "integer", "table"):
        assert_same(formula_topk(formula, query_levels, levels, bits, 35, isa), expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("formula", ["bitwise", "integer", "table"])
def test_the_largest_sums_do_not_overflow(isa, formula, bits):
    dim = 20_000  # 16-bit sums would need several turns
    levels = np.zeros((33, dim), np.uint8)
    levels[::2] = 2**bits - 1
    expected = sdc_reference(levels[:2], levels, bits, 33)
    assert_same(formula_topk(formula, levels[:2], levels, bits, 33, isa), expected)


FINER = [(1, 2), (1, 4), (2, 4)]  # bits of codes and of queries


@pytest.mark.parametrize(("bits", "query_bits"), FINER)
@pytest.mark.parametrize("dim", DIMS)
def test_queries_may_keep_more_bits_in_every_dim(isa, dim, bits, query_bits):
    rng = np.random.default_rng(dim)
    query_levels, levels = random_levels(rng, 3, dim, query_bits), random_levels(rng, 35, dim, bits)
    expected = sdc_reference(query_levels, levels, bits, 35, query_bits=query_bits)
    for formula in ("integer", "table"):
        assert_same(formula_topk(formula, query_levels, levels, bits, 35, isa, query_bits), expected)
    queries, codes = RecurrentCodes.from_levels(query_levels, query_bits), RecurrentCodes.from_levels(levels, bits)
    assert_same(chamfer.sdc_topk(queries, codes, 35, isa=isa), expected)


@pytest.mark.parametrize(("bits", "query_bits"), FINER)
@pytest.mark.parametrize("formula", ["integer", "table"])
def test_the_largest_sums_of_queries_of_more_bits_do_not_overflow(isa, formula, bits, query_bits):
    levels = np.zeros((33, 20_000), np.uint8)
    levels[::2] = 2**bits - 1
    queries = np.zeros((2, 20_000), np.uint8)
    queries[0] = 2**query_bits - 1
    expected = sdc_reference(queries, levels, bits, 33, query_bits=query_bits)
    assert_same(formula_topk(formula, queries, levels, bits, 33, isa, query_bits), expected)


@pytest.mark.parametrize("num_queries", [0, 1, 2, 3, 7, 8, 13, 71])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_sdc_topk_matches_its_definition_for_any_number_of_queries(isa, num_queries, bits):
    rng = np.random.default_rng(num_queries)
    query_levels, levels = random_levels(rng, num_queries, 19, bits), random_levels(rng, 67, 19, bits)
    queries, codes = (RecurrentCodes.from_levels(some, bits) for some in (query_levels, levels))
    assert_same(chamfer.sdc_topk(queries, codes, 9, isa=isa), sdc_reference(query_levels, levels, bits, 9))


@pytest.mark.parametrize("size", SIZES)
def test_sdc_topk_matches_its_definition_in_every_number_of_codes(isa, size):
    rng = np.random.default_rng(size)
    query_levels, levels = random_levels(rng, 2, 9, 4), random_levels(rng, size, 9, 4)
    queries, codes = (RecurrentCodes.from_levels(some, 4) for some in (query_levels, levels))
    assert_same(chamfer.sdc_topk(queries, codes, 17, isa=isa), sdc_reference(query_levels, levels, 4, 17))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("bits", "query_bits"), [(1, 1), (2, 2), (4, 4), *FINER])
def test_codes_in_lists_are_found_as_those_side_by_side(isa, bits, query_bits, scaled):
    rng = np.random.default_rng(bits)
    query_levels, levels = random_levels(rng, 1, 5, query_bits), random_levels(rng, 1400, 5, bits)  # ties by the dozen
    scales = rng.integers(1, 3, 1400).astype(np.float32) if scaled else None
    factor = 0.5 if scaled else 1.0
    of_list = rng.choice([0, 1, 2, 4], 1400, p=[0.02, 0.1, 0.38, 0.5])  # and nothing in list 3
    lists = []
    for i in rng.permutation(5):
        rows = np.flatnonzero(of_list == i)
        codes = RecurrentCodes.from_levels(levels[rows], bits, None if scales is None else scales[rows])
        lists.append((codes._packed, codes.scales, rows))
    for k in (1, 7, 60, 900, 1500):
        run = {"bits": bits, "query_bits": None if query_bits == bits else query_bits, "isa": isa}
        found = _core.sdc_topk_of_lists(query_levels[0], lists, k, query_scale=factor, **run)
        query_scales = np.array([factor], np.float32)
        expected = sdc_reference(query_levels, levels, bits, k, query_scales, scales, query_bits)
        assert_same(found, [part[0] for part in expected])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_scales_of_either_side_multiply_similarities(isa, bits):
    rng = np.random.default_rng(bits)
    query_levels, levels = random_levels(rng, 3, 40, bits), random_levels(rng, 50, 40, bits)
    query_scales, scales = rng.standard_normal(3, np.float32), rng.standard_normal(50, np.float32)
    for of_query in (None, query_scales):
        for of_codes in (None, scales):
            queries = RecurrentCodes.from_levels(query_levels, bits, of_query)
            codes = RecurrentCodes.from_levels(levels, bits, of_codes)
            expected = sdc_reference(query_levels, levels, bits, 50, of_query, of_codes)
            assert_same(chamfer.sdc_topk(queries, codes, 50, isa=isa), expected)


def test_scales_of_one_over_the_norm_give_cosines(isa):
    levels = random_levels(np.random.default_rng(0), 30, 64, 2)
    norms = np.linalg.norm(reference.recurrent_values(levels, 2), axis=1)
    codes = RecurrentCodes.from_levels(levels, 2, 1 / norms)
    similarities, rows = chamfer.sdc_topk(codes, codes, 1, isa=isa)
    np.testing.assert_allclose(similarities, 1, rtol=1e-6)
    np.testing.assert_array_equal(rows[:, 0], np.arange(30))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_sdc_topk_of_many_ties_takes_the_lower_rows_for_any_number_of_threads(isa, bits, num_threads):
    rng = np.random.default_rng(0)
    few = random_levels(rng, 40, 64 // bits, bits)
    levels = few[rng.integers(0, 40, 70_000)]  # several runs of 256 KB
    queries, codes = RecurrentCodes.from_levels(few[:3], bits), RecurrentCodes.from_levels(levels, bits)
    found = chamfer.sdc_topk(queries, codes, 2000, num_threads=num_threads, isa=isa)
    similarities = reference.sdc_similarities(few[:3], levels, bits)
    rows = np.argsort(-similarities, axis=1, kind="stable")[:, :2000]
    assert_same(found, (np.take_along_axis(similarities, rows, axis=1), rows))


@given(st.integers(0, 70), st.integers(1, 70), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1))
def test_sdc_topk_is_its_definition_for_any_shape(size, dim, bits, seed):
    rng = np.random.default_rng(seed)
    query_levels, levels = random_levels(rng, 2, dim, bits), random_levels(rng, size, dim, bits)
    queries, codes = (RecurrentCodes.from_levels(some, bits) for some in (query_levels, levels))
    assert_same(chamfer.sdc_topk(queries, codes, 5), sdc_reference(query_levels, levels, bits, 5))


def test_sdc_of_one_bit_orders_codes_as_hamming_distance_does(isa):
    rng = np.random.default_rng(0)
    levels = random_levels(rng, 100, 72, 1)
    codes = RecurrentCodes.from_levels(levels, 1)
    packed = np.packbits(levels, axis=1)
    distances, near = chamfer.hamming_topk(packed[:4], packed, 100, isa=isa)
    similarities, rows = chamfer.sdc_topk(RecurrentCodes.from_levels(levels[:4], 1), codes, 100, isa=isa)
    np.testing.assert_array_equal(rows, near)
    np.testing.assert_array_equal(similarities, 72 - 2 * distances)


@pytest.mark.parametrize(
    ("queries", "error", "message"),
    [
        (np.zeros((1, 4), np.uint8), TypeError, r"^query_codes: expected RecurrentCodes, got ndarray; .*from_levels"),
        (RecurrentCodes.from_levels(np.zeros((1, 4), np.uint8), 1), ValueError, r"^query_codes: expected bits 2 .* 1$"),
        (RecurrentCodes.from_levels(np.zeros((1, 5), np.uint8), 2), ValueError, r"^query_codes: expected dim 4 .* 5$"),
    ],
    ids=["array", "bits", "dim"],
)
def test_queries_of_another_kind_are_refused(queries, error, message):
    codes = RecurrentCodes.from_levels(np.zeros((3, 4), np.uint8), 2)
    with pytest.raises(error, match=message):
        chamfer.sdc_topk(queries, codes, 1)


def test_signs_of_recurrent_codes_are_searched_as_their_bits():
    rng = np.random.default_rng(8)
    codes = chamfer.RecurrentCodes.from_levels(rng.integers(0, 4, (40, 20), dtype=np.uint8), 2)
    queries = chamfer.RecurrentCodes.from_levels(rng.integers(0, 16, (3, 20), dtype=np.uint8), 4)
    for found, expected in zip(
        chamfer.hamming_topk(queries, codes, 5),
        chamfer.hamming_topk(queries.to_bits(), codes.to_bits(), 5),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    others = chamfer.RecurrentCodes.from_levels(rng.integers(0, 4, (40, 21), dtype=np.uint8), 2)
    with pytest.raises(ValueError, match="query_codes: expected dim 21 as the codes, got 20"):
        chamfer.hamming_topk(queries, others, 5)
