"""The compiled module called directly: whatever it is given, it raises and never reads or writes outside an array."""

import numpy as np
import pytest

from chamfer import _core

F = np.float32
QUERIES, QUERY_OFFSETS = np.ones((3, 4), F), np.array([0, 1, 3])
VECTORS, OFFSETS = np.ones((6, 4), F), np.array([0, 2, 2, 6])
UNALIGNED = np.zeros(6 * 4 * 4 + 1, np.uint8)[1:].view(F).reshape(6, 4)
HUGE = 2**62
REFUSED = (ValueError, TypeError)

BAD_VECTORS = {
    "1-D": np.ones(4, F),
    "3-D": np.ones((1, 6, 4), F),
    "0-D": F(1),
    "float64": np.ones((6, 4)),
    "int32": np.ones((6, 4), np.int32),
    "uint16": np.ones((6, 4), np.uint16),
    "big-endian float32": VECTORS.astype(">f4"),
    "big-endian float16": VECTORS.astype(">f2"),
    "Fortran order": np.asfortranarray(VECTORS),
    "negative stride": VECTORS[::-1],
    "every second column": np.ones((6, 8), F)[:, ::2],
    "broadcast": np.broadcast_to(F(1), (6, 4)),
    "unaligned": UNALIGNED,
    "other dim": np.ones((6, 5), F),
    "no dim": np.ones((6, 0), F),
    "too few rows": np.ones((5, 4), F),
    "list": VECTORS.tolist(),
    "None": None,
}
BAD_OFFSETS = {
    "empty": np.empty(0, np.int64),
    "2-D": OFFSETS[None],
    "0-D": np.int64(6),
    "int32": OFFSETS.astype(np.int32),
    "uint64": OFFSETS.astype(np.uint64),
    "float": OFFSETS.astype(float),
    "big-endian": OFFSETS.astype(">i8"),
    "strided": np.repeat(OFFSETS, 2)[::2],
    "not from 0": np.array([1, 2, 2, 6]),
    "negative": np.array([0, -2, 2, 6]),
    "negative first": np.array([-HUGE, 2, 2, 6]),
    "huge between": np.array([0, HUGE, 2, 6]),
    "decreasing": np.array([0, 4, 2, 6]),
    "end too low": np.array([0, 2, 2, 5]),
    "end too high": np.array([0, 2, 2, 7]),
    "end huge": np.array([0, 2, 2, HUGE]),
    "list": OFFSETS.tolist(),
    "None": None,
}
BAD_CANDIDATES = {
    "too high": np.array([[3], [0]]),
    "huge": np.array([[HUGE], [0]]),
    "-2": np.array([[-2], [0]]),
    "lowest": np.array([[-(2**63)], [0]]),
    "too few rows": np.array([[0]]),
    "too many rows": np.array([[0]] * 3),
    "1-D": np.array([0, 1]),
    "3-D": np.zeros((2, 1, 1), np.int64),
    "int32": np.zeros((2, 1), np.int32),
    "strided": np.zeros((2, 4), np.int64)[:, ::2],
}
BAD_WEIGHTS = {
    "too few": np.ones(2, F),
    "too many": np.ones(4, F),
    "2-D": np.ones((3, 1), F),
    "float64": np.ones(3),
    "strided": np.ones(6, F)[::2],
}


def maxsim(function="maxsim", **changed):
    arguments = {
        "query_vectors": QUERIES,
        "query_offsets": QUERY_OFFSETS,
        "vectors": VECTORS,
        "offsets": OFFSETS,
        "num_threads": 1,
        "isa": "scalar",
    }
    if function == "maxsim_topk":
        arguments["k"] = 2
    return getattr(_core, function)(**arguments | changed)


FUNCTIONS = pytest.mark.parametrize("function", ["maxsim", "maxsim_topk"])


@FUNCTIONS
def test_the_arguments_that_these_tests_spoil_are_good(function):
    maxsim(function, candidates=np.array([[2], [-1]]), query_weights=np.ones(3, F))


# ── MaxSim ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@FUNCTIONS
@pytest.mark.parametrize("name", BAD_VECTORS)
def test_documents_that_are_no_matrix_are_refused(function, name):
    with pytest.raises(REFUSED):
        maxsim(function, vectors=BAD_VECTORS[name])


@FUNCTIONS
@pytest.mark.parametrize("name", [*BAD_VECTORS, "float16"])
def test_queries_that_are_no_float32_matrix_are_refused(function, name):
    with pytest.raises(REFUSED):
        maxsim(function, query_vectors=(BAD_VECTORS | {"float16": QUERIES.astype(np.float16)})[name])


@FUNCTIONS
@pytest.mark.parametrize("argument", ["offsets", "query_offsets"])
@pytest.mark.parametrize("name", BAD_OFFSETS)
def test_offsets_that_do_not_fit_are_refused(function, argument, name):
    matching = {"query_vectors": VECTORS} if argument == "query_offsets" else {}
    with pytest.raises(REFUSED):
        maxsim(function, **matching, **{argument: BAD_OFFSETS[name]})


@FUNCTIONS
@pytest.mark.parametrize("name", BAD_CANDIDATES)
def test_candidates_that_do_not_fit_are_refused(function, name):
    with pytest.raises(REFUSED):
        maxsim(function, candidates=BAD_CANDIDATES[name])


@FUNCTIONS
@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_refused(function, name):
    with pytest.raises(REFUSED):
        maxsim(function, query_weights=BAD_WEIGHTS[name])


@FUNCTIONS
@pytest.mark.parametrize("num_threads", [0, -1, -HUGE, 2**64, 1.5, None])
def test_a_number_of_threads_below_one_is_refused(function, num_threads):
    with pytest.raises(REFUSED):
        maxsim(function, num_threads=num_threads)


@FUNCTIONS
@pytest.mark.parametrize("isa", ["", "sse9", "AVX2", "scalar\0", None, 3])
def test_an_unknown_isa_is_refused(function, isa):
    with pytest.raises(REFUSED):
        maxsim(function, isa=isa)


@pytest.mark.parametrize("num_threads", [1000, 2**31, HUGE])
def test_more_threads_than_work_are_not_started(num_threads):
    np.testing.assert_array_equal(maxsim(num_threads=num_threads), maxsim())


@pytest.mark.parametrize("k", [0, -1, -HUGE, HUGE, 2**64, 1.5, None])
def test_a_k_that_no_array_can_have_is_refused(k):
    with pytest.raises((*REFUSED, MemoryError)):
        maxsim("maxsim_topk", k=k)


@pytest.mark.parametrize("name", set(BAD_VECTORS) - {"too few rows"})
def test_alignment_refuses_a_document_that_is_no_matrix(name):
    with pytest.raises(REFUSED):
        _core.maxsim_alignment(QUERIES, BAD_VECTORS[name], isa="scalar")


@pytest.mark.parametrize("name", set(BAD_VECTORS) - {"too few rows"})
def test_alignment_refuses_a_query_that_is_no_matrix(name):
    with pytest.raises(REFUSED):
        _core.maxsim_alignment(BAD_VECTORS[name], VECTORS, isa="scalar")


@pytest.mark.parametrize("name", set(BAD_VECTORS) - {"too few rows", "other dim", "no dim"})
def test_the_check_for_nan_refuses_what_is_no_matrix(name):
    with pytest.raises(REFUSED):
        _core.first_row_out_of_range(BAD_VECTORS[name], 1)


def test_the_check_for_nan_refuses_no_threads():
    with pytest.raises(ValueError, match="num_threads"):
        _core.first_row_out_of_range(VECTORS, 0)


# ── encodings ───────────────────────────────────────────────────────────────────────────────────────────────────────

ENCODER = {
    "layout": "google",
    "simhash": np.ones((2, 3, 4), F),
    "projections": np.ones((2, 5, 4), F),
    "fill_empty_partitions": True,
    "sketch_columns": np.zeros(80, np.int32),
    "sketch_signs": np.ones(80, F),
    "final_projection_dimension": 7,
    "isa": "scalar",
}


@pytest.mark.parametrize(
    "changed",
    [
        {"layout": "other"},
        {"layout": None},
        {"simhash": np.ones((3, 4), F)},
        {"simhash": np.ones((2, 3, 4))},
        {"simhash": np.ones((1, 3, 4), F)},
        {"simhash": np.ones((2, 3, 5), F)},
        {"simhash": np.ones((0, 3, 4), F)},
        {"simhash": np.ones((2, 3, 0), F)},
        {"simhash": np.ones((2, 31, 4), F)},
        {"simhash": np.ones((2, 30, 4), F)},
        {"simhash": np.ones((4, 3, 2), F).T},
        {"projections": np.ones((5, 4), F)},
        {"projections": np.ones((2, 5, 4))},
        {"projections": np.ones((1, 5, 4), F)},
        {"projections": np.ones((2, 5, 3), F)},
        {"projections": np.ones((2, 6, 4), F)},
        {"projections": np.ones((4, 5, 2), F).T},
        {"sketch_columns": None},
        {"sketch_signs": None},
        {"sketch_columns": np.zeros(79, np.int32)},
        {"sketch_columns": np.zeros(80, np.int64)},
        {"sketch_columns": np.zeros((80, 1), np.int32)},
        {"sketch_columns": np.int32(0)},
        {"sketch_columns": np.zeros(160, np.int32)[::2]},
        {"sketch_columns": np.full(80, 7, np.int32)},
        {"sketch_columns": np.full(80, -1, np.int32)},
        {"sketch_signs": np.ones(81, F)},
        {"sketch_signs": np.ones(80)},
        {"sketch_signs": F(1)},
        {"final_projection_dimension": -1},
        {"final_projection_dimension": 2**64},
        {"isa": "sse9"},
        {"isa": None},
    ],
    ids=lambda changed: str({name: getattr(value, "shape", value) for name, value in changed.items()}),
)
def test_matrices_that_do_not_fit_make_no_encoder(changed):
    with pytest.raises(REFUSED):
        _core.FdeEncoder(**ENCODER | changed)


@pytest.fixture(scope="module")
def encoder():
    return _core.FdeEncoder(**ENCODER)


@pytest.mark.parametrize("name", BAD_VECTORS)
def test_an_encoder_refuses_vectors_that_are_no_matrix(encoder, name):
    with pytest.raises(REFUSED):
        encoder.encode(BAD_VECTORS[name], OFFSETS, documents=True, num_threads=1)


@pytest.mark.parametrize("name", BAD_OFFSETS)
def test_an_encoder_refuses_offsets_that_do_not_fit(encoder, name):
    with pytest.raises(REFUSED):
        encoder.encode(VECTORS, BAD_OFFSETS[name], documents=True, num_threads=1)


@pytest.mark.parametrize("mean", [np.ones(3, F), np.ones((1, 4), F), np.ones(4), np.ones(8, F)[::2], F(1)], ids=str)
def test_an_encoder_refuses_a_mean_that_does_not_fit(encoder, mean):
    with pytest.raises(REFUSED):
        encoder.encode(VECTORS, OFFSETS, mean=mean, documents=True, num_threads=1)


@pytest.mark.parametrize("num_threads", [0, -1, 2**64, None])
def test_an_encoder_refuses_a_number_of_threads_below_one(encoder, num_threads):
    with pytest.raises(REFUSED):
        encoder.encode(VECTORS, OFFSETS, documents=True, num_threads=num_threads)


def test_an_encoder_survives_numbers_that_are_not_finite(encoder):
    vectors = np.array([[np.nan] * 4, [np.inf] * 4, [-np.inf] * 4], F)
    assert encoder.encode(vectors, np.array([0, 3]), documents=True, num_threads=1).shape == (1, 7)


DRAW = {"dim": 4, "num_repetitions": 2, "num_simhash_projections": 3, "projection_dimension": 5}


@pytest.mark.parametrize(
    "changed",
    [
        *({"dim": value} for value in (0, -1, HUGE, 2**64, 1.5)),
        *({"num_repetitions": value} for value in (0, -1, HUGE)),
        *({"num_simhash_projections": value} for value in (-1, 31, HUGE)),
        *({"projection_dimension": value} for value in (-1, HUGE)),
    ],
    ids=str,
)
def test_matrices_of_impossible_sizes_are_not_drawn(changed):
    with pytest.raises(REFUSED):
        _core.draw_fde_matrices("paper", 1, **DRAW | changed)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, None])
def test_matrices_of_impossible_seeds_are_not_drawn(seed):
    with pytest.raises(REFUSED):
        _core.draw_fde_matrices("paper", seed, **DRAW)


@pytest.mark.parametrize(
    "arguments", [(1, 0, 5), (1, -1, 5), (1, 5, 0), (1, 5, -1), (1, 5, 2**31), (-1, 5, 5), (2**32, 5, 5)], ids=str
)
def test_a_count_sketch_of_impossible_sizes_is_not_drawn(arguments):
    with pytest.raises(REFUSED):
        _core.draw_count_sketch(*arguments)
