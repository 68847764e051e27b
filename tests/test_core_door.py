"""The compiled module called directly: whatever it is given, it raises and never reads or writes outside an array."""

import numpy as np
import pytest

from chamfer import _core
from door import (
    BAD_CANDIDATES,
    BAD_OFFSETS,
    BAD_VECTORS,
    BAD_WEIGHTS,
    HUGE,
    OFFSETS,
    REFUSED,
    VECTORS,
    F,
    bfloat16,
    codes8,
    collection,
    maxsim,
    short_codes,
)

FUNCTIONS = pytest.mark.parametrize("function", ["maxsim", "maxsim_topk"])


# ── MaxSim ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@FUNCTIONS
def test_the_arguments_that_these_tests_spoil_are_good(function):
    maxsim(function, candidates=np.array([[2], [-1]]), query_weights=np.ones(3, F), screen=codes8())


@FUNCTIONS
@pytest.mark.parametrize("argument", ["queries", "documents", "screen"])
@pytest.mark.parametrize(
    "value", [VECTORS, VECTORS.tolist(), (VECTORS, OFFSETS), 3, "x"], ids=lambda x: type(x).__name__
)
def test_what_is_no_collection_is_refused(function, argument, value):
    with pytest.raises(TypeError):
        maxsim(function, **{argument: value})


@FUNCTIONS
@pytest.mark.parametrize("argument", ["queries", "documents"])
def test_none_is_no_collection(function, argument):
    with pytest.raises(TypeError):
        maxsim(function, **{argument: None})


OTHER_DIM = collection(np.ones((6, 5), F))


@FUNCTIONS
@pytest.mark.parametrize(
    "queries", [collection(VECTORS.astype(np.float16)), codes8(), short_codes(), bfloat16(), OTHER_DIM]
)
def test_queries_that_are_no_float32_vectors_of_this_dim_are_refused(function, queries):
    with pytest.raises(ValueError, match=r"^queries: "):
        maxsim(function, queries=queries)


@FUNCTIONS
@pytest.mark.parametrize("documents", [collection(), codes8(), short_codes(), bfloat16()])
def test_codes_of_queries_against_other_documents_are_refused(function, documents):
    with pytest.raises(ValueError, match=r"^queries: "):
        maxsim(function, queries=short_codes(bits=1), documents=documents)


@FUNCTIONS
@pytest.mark.parametrize(
    "changed",
    [
        {"screen": collection()},
        {"screen": short_codes()},
        {"screen": bfloat16()},
        {"screen": codes8(offsets=np.array([0, 2, 3, 6]))},
        {"screen": codes8(offsets=np.array([0, 6]), scales=np.ones(1, F), errors=np.ones(1, F), norms=np.ones(1, F))},
        {"screen": codes8(dim=3, center=np.zeros(3, F), direction=np.zeros(3, F))},
        {"screen": codes8(), "documents": codes8()},
        {"screen": codes8(), "documents": short_codes()},
        {"screen": codes8(), "documents": bfloat16()},
    ],
    ids=["vectors", "4 bits", "bfloat16", "offsets", "size", "dim", "of codes", "of short codes", "of bfloat16"],
)
def test_a_screen_that_does_not_fit_is_refused(function, changed):
    with pytest.raises(ValueError, match=r"^screen: "):
        maxsim(function, **changed)


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


@pytest.mark.parametrize("argument", ["query", "document"])
@pytest.mark.parametrize(
    "value",
    [
        collection(),
        collection(VECTORS[:0], np.array([0])),
        collection(np.ones((6, 5), F), np.array([0, 6])),
        VECTORS,
        None,
    ],
    ids=["three items", "no item", "other dim", "array", "None"],
)
def test_alignment_refuses_what_is_not_one_item_of_this_dim(argument, value):
    one = collection(VECTORS, np.array([0, 6]))
    with pytest.raises(REFUSED):
        _core.maxsim_alignment(**{"query": one, "document": one, "isa": "scalar", argument: value})


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
    for output in ("float32", "float16", "int8", "bits"):
        rows, _, _ = encoder.encode(vectors, np.array([0, 3]), documents=True, output=output, num_threads=1)
        assert rows.shape == (1, 1 if output == "bits" else 7)


@pytest.mark.parametrize("output", ["", "float64", "sparse", "bits\0", None, 8])
def test_an_encoder_refuses_a_form_that_it_does_not_know(encoder, output):
    with pytest.raises(REFUSED):
        encoder.encode(VECTORS, OFFSETS, documents=True, output=output, num_threads=1)


@pytest.fixture(scope="module")
def plain_encoder():
    names = ("sketch_columns", "sketch_signs", "final_projection_dimension")
    return _core.FdeEncoder(**{name: value for name, value in ENCODER.items() if name not in names})


def test_the_arguments_of_sparse_encodings_that_these_tests_spoil_are_good(plain_encoder):
    for documents, num_blocks in ((False, 2), (True, 2 * 8)):  # equal vectors: one partition, or all filled
        values, indices, offsets = plain_encoder.encode_sparse(VECTORS, OFFSETS, documents=documents, num_threads=1)
        assert len(values) == len(indices) == offsets[-1]
        assert offsets.tolist() == [0, 5 * num_blocks, 5 * num_blocks, 2 * 5 * num_blocks]


def test_an_encoder_with_a_sketch_refuses_sparse_encodings(encoder):
    with pytest.raises(ValueError, match="without final projection"):
        encoder.encode_sparse(VECTORS, OFFSETS, documents=False, num_threads=1)


@pytest.mark.parametrize(
    "changed",
    [
        *({"vectors": vectors} for vectors in BAD_VECTORS.values()),
        *({"offsets": offsets} for offsets in BAD_OFFSETS.values()),
        *({"mean": mean} for mean in (np.ones(3, F), np.ones((1, 4), F), np.ones(4), np.ones(8, F)[::2], F(1))),
        *({"num_threads": number} for number in (0, -1, 2**64, None)),
    ],
    ids=[*BAD_VECTORS, *(f"offsets {name}" for name in BAD_OFFSETS), *["mean"] * 5, *["num_threads"] * 4],
)
def test_sparse_encodings_refuse_what_does_not_fit(plain_encoder, changed):
    arguments = {"vectors": VECTORS, "offsets": OFFSETS, "documents": False, "num_threads": 1}
    with pytest.raises(REFUSED):
        plain_encoder.encode_sparse(**arguments | changed)


CONVERT = {"rows": VECTORS, "output": "int8", "num_threads": 1, "isa": "scalar"}


def test_the_arguments_of_conversions_that_these_tests_spoil_are_good():
    rows, scales, first_too_large = _core.convert_rows(**CONVERT)
    assert rows.shape == (6, 4)
    assert scales.shape == (6,)
    assert first_too_large == -1


@pytest.mark.parametrize(
    "changed",
    [
        *({"rows": rows} for name, rows in BAD_VECTORS.items() if name not in ("other dim", "no dim", "too few rows")),
        *({"output": output} for output in ("", "float64", "sparse", None)),
        *({"num_threads": number} for number in (0, -1, 2**64, None)),
        *({"isa": isa} for isa in ("", "sse9", None)),
    ],
    ids=lambda changed: f"{next(iter(changed))} {str(next(iter(changed.values())))[:20]!r}",
)
def test_conversions_refuse_what_does_not_fit(changed):
    with pytest.raises(REFUSED):
        _core.convert_rows(**CONVERT | changed)


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


BYTES = np.zeros(2048, np.uint8)


@pytest.mark.parametrize(
    "buffer",
    [BYTES[:1000], BYTES[::2], BYTES.view(np.int8), np.zeros((2, 2048), np.uint8)[:, :1024], BYTES.tolist(), None],
    ids=["not whole blocks", "strided", "int8", "rows apart", "list", "None"],
)
def test_reading_refuses_a_bad_buffer(buffer, isa):
    with pytest.raises(REFUSED):
        _core.read_memory(buffer, 0, isa=isa)


@pytest.mark.parametrize("prefetch_bytes", [-1, 2**64, 1.5, None])
def test_reading_refuses_an_impossible_distance(prefetch_bytes):
    with pytest.raises(REFUSED):
        _core.read_memory(BYTES, prefetch_bytes, isa="scalar")


def test_reading_far_ahead_reads_nothing_there(isa):
    assert _core.read_memory(BYTES, HUGE, isa=isa) == 0


@pytest.mark.parametrize("arguments", [("fma", 1), ("fma_f32", 0), ("fma_f32", -1), (None, 1)], ids=str)
def test_a_peak_that_is_none_is_not_measured(arguments):
    with pytest.raises(REFUSED):
        _core.run_peak(*arguments, isa="scalar")


# ── binary codes ────────────────────────────────────────────────────────────────────────────────────────────────────

CODES = np.zeros((6, 4), np.uint8)
BAD_CODES = {
    "1-D": CODES[0],
    "3-D": CODES[None],
    "0-D": np.uint8(1),
    "int8": CODES.astype(np.int8),
    "bool": CODES.astype(bool),
    "float": CODES.astype(float),
    "Fortran order": np.asfortranarray(CODES),
    "negative stride": CODES[::-1],
    "every second column": np.zeros((6, 8), np.uint8)[:, ::2],
    "broadcast": np.broadcast_to(np.uint8(1), (6, 4)),
    "no bytes": np.zeros((6, 0), np.uint8),
    "other width": np.zeros((6, 5), np.uint8),
    "list": CODES.tolist(),
    "None": None,
}
PACKED = np.zeros(64, np.uint8)  # 6 codes of 4 dims of 4 bits: a block of 4 positions
RUN = {"num_threads": 1, "isa": "scalar"}
BAD_RUNS = [
    {"k": 0},
    {"k": 2**64},
    {"k": None},
    {"num_threads": 0},
    {"num_threads": -HUGE},
    {"isa": "sse9"},
    {"isa": None},
]


def hamming_topk(**changed):
    return _core.hamming_topk(**{"query_codes": CODES[:2], "codes": CODES, "k": 2, **RUN} | changed)


def sdc_topk(**changed):
    good = {"query_levels": CODES[:2], "packed": PACKED, "num_codes": 6, "k": 2, "bits": 4, **RUN}
    return _core.sdc_topk(**good | changed)


@pytest.mark.parametrize("formula", [None, "integer", "table"])
def test_the_codes_that_these_tests_spoil_are_good(formula):
    hamming_topk()
    sdc_topk(formula=formula, query_scales=np.ones(2, F), scales=np.ones(6, F))


@pytest.mark.parametrize("argument", ["query_codes", "codes"])
@pytest.mark.parametrize("name", BAD_CODES)
def test_codes_that_do_not_fit_are_refused(argument, name):
    with pytest.raises(REFUSED):
        hamming_topk(**{argument: BAD_CODES[name]})


def test_lists_of_another_size_are_refused():
    packed, rows = np.zeros(_core.packed_bytes(8, 4, "integer", 6), np.uint8), np.arange(6)
    query = np.zeros(8, np.uint8)
    assert _core.sdc_topk_of_lists(query, [(packed, None, rows)], 2, bits=4, isa="scalar")[1].tolist() == [0, 1]
    assert _core.sdc_topk_of_lists(query, [], 2, bits=4, isa="scalar")[1].tolist() == [-1, -1]
    for wrong in (
        (packed[:-1], None, rows),
        (packed, np.ones(5, F), rows),
        (packed, None, np.arange(33)),
        (packed.reshape(1, -1), None, rows),
        (packed, None, rows.reshape(1, -1)),
    ):
        with pytest.raises(ValueError, match="lists: expected packed codes"):
            _core.sdc_topk_of_lists(query, [wrong], 2, bits=4, isa="scalar")
    with pytest.raises(ValueError, match="query_levels: expected levels up to 15"):
        _core.sdc_topk_of_lists(query + 16, [(packed, None, rows)], 2, bits=4, isa="scalar")
    for query_bits in (0, 1, 2, 3, 8, -1):
        with pytest.raises(ValueError, match="query_bits: expected 1, 2 or 4, at least bits"):
            _core.sdc_topk_of_lists(query, [], 2, bits=4, query_bits=query_bits, isa="scalar")


@pytest.mark.parametrize("function", [hamming_topk, sdc_topk])
@pytest.mark.parametrize("changed", BAD_RUNS, ids=str)
def test_a_run_over_codes_that_cannot_be_is_refused(function, changed):
    with pytest.raises((*REFUSED, MemoryError)):
        function(**changed)


@pytest.mark.parametrize("num_threads", [1000, 2**31, HUGE])
def test_codes_do_not_need_the_threads_they_are_offered(num_threads):
    assert hamming_topk(num_threads=num_threads)[1].tolist() == [[0, 1], [0, 1]]
    assert sdc_topk(num_threads=num_threads)[1].tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    "changed",
    [
        *({"query_levels": value} for value in BAD_CODES.values()),
        {"query_levels": np.full((2, 4), 16, np.uint8)},
        {"packed": PACKED[:-1]},
        {"packed": PACKED[None]},
        {"packed": np.zeros(128, np.uint8)[::2]},
        {"packed": PACKED.astype(np.int8)},
        {"packed": None},
        {"formula": "bitwise"},  # 12 bytes would fit
        {"formula": "other"},
        *({"num_codes": value} for value in (33, -1, HUGE, 2**64, 1.5, None)),
        *({"bits": value} for value in (0, 3, 8, -1, 2**64, None)),
        *({"query_bits": value} for value in (0, 1, 2, 3, 8, -1, 2**64, 1.5)),
        *({"scales": value} for value in (np.ones(5, F), np.ones((6, 1), F), np.ones(6), np.ones(12, F)[::2])),
        *({"query_scales": value} for value in (np.ones(3, F), np.ones((2, 1), F), np.ones(2), np.ones(4, F)[::2])),
    ],
    ids=lambda changed: str({name: getattr(value, "shape", value) for name, value in changed.items()}),
)
def test_packed_codes_that_do_not_fit_are_refused(changed):
    with pytest.raises(REFUSED):
        sdc_topk(**changed)


READ_ONLY = PACKED.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "changed",
    [
        *({"levels": value} for value in BAD_CODES.values() if np.shape(value) != (6, 5)),
        {"levels": np.full((6, 4), 16, np.uint8)},
        {"levels": np.zeros((33, 4), np.uint8)},
        {"packed": PACKED[:-1]},
        {"packed": np.zeros(128, np.uint8)[::2]},
        {"packed": READ_ONLY},
        {"packed": PACKED.tolist()},
        {"bits": 3},
        {"formula": "other"},
        {"formula": "bitwise"},
    ],
    ids=lambda changed: str({name: getattr(value, "shape", value) for name, value in changed.items()}),
)
def test_levels_that_do_not_fit_are_not_packed(changed):
    with pytest.raises(REFUSED):
        _core.pack_levels(**{"levels": CODES, "bits": 4, "formula": "integer", "packed": PACKED.copy()} | changed)


@pytest.mark.parametrize(
    "arguments",
    [(PACKED[:-1], 4, 4, 6), (PACKED[None], 4, 4, 6), (PACKED, 0, 4, 6), (PACKED, 4, 4, 33), (PACKED, 4, 4, -1)],
    ids=lambda arguments: str(arguments[1:]),
)
def test_packed_codes_of_another_size_are_not_unpacked(arguments):
    with pytest.raises(REFUSED):
        _core.unpack_levels(*arguments)


@pytest.mark.parametrize("arguments", [(0, 4, "table", 1), (2**20, 4, "table", 1), (4, 3, "table", 1), (4, 4, "x", 1)])
def test_codes_of_impossible_shapes_have_no_size(arguments):
    with pytest.raises(REFUSED):
        _core.packed_bytes(*arguments)
