"""TokenVectors in use: items, selections, and what functions make of their arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import chamfer
from chamfer import TokenVectors
from samples import Dlpack

OFFSETS = [0, 2, 2, 5]  # items of 2, 0 and 3 vectors


def matrix(dtype=np.float32):
    return np.arange(1, 21).reshape(5, 4).astype(dtype)


# ── the collection ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tv():
    return TokenVectors(matrix(), OFFSETS)


def test_it_tells_its_sizes(tv):
    assert (len(tv), tv.dim, tv.num_tokens, tv.lengths.tolist(), tv.dtype) == (3, 4, 5, [2, 0, 3], np.float32)


def test_nbytes_counts_vectors_and_offsets(tv):
    assert tv.nbytes == 5 * 4 * 4 + 4 * 8


def test_repr_tells_size_and_dtype(tv):
    assert repr(tv) == "TokenVectors(3 items, 5 vectors of 4 dims, float32)"


@pytest.mark.parametrize("i", [0, 1, 2, -1, -3, np.int64(2), np.uint8(2)])
def test_an_item_is_its_vectors(tv, i):
    expected = [matrix()[:2], matrix()[2:2], matrix()[2:]][int(i)]
    np.testing.assert_array_equal(tv[i], expected, strict=True)


def test_an_item_is_a_view(tv):
    assert np.shares_memory(tv[2], tv.vectors)


@pytest.mark.parametrize("i", [3, -4, 2**40])
def test_an_item_out_of_range_is_refused(tv, i):
    with pytest.raises(IndexError, match=f"item {i} is out of range for a collection of 3"):
        tv[i]


@pytest.mark.parametrize("i", [True, 1.0, "1", None, slice(2), [0, 1]], ids=repr)
def test_an_index_that_is_no_integer_is_refused(tv, i):
    with pytest.raises(TypeError, match="use select"):
        tv[i]


def test_iteration_gives_each_item_in_order(tv):
    assert [item.tolist() for item in tv] == [tv[i].tolist() for i in range(3)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([1, 2], [1, 2]),
        ([2, 0], [2, 0]),
        ([-1, -3], [2, 0]),
        ([-3, -2], [0, 1]),
        ([2, 2, 1, 2], [2, 2, 1, 2]),
        ([], []),
        (np.array([], np.int64), []),
        (np.array([2, 0], np.uint8), [2, 0]),
        ([True, False, True], [0, 2]),
        ([False, False, False], []),
    ],
    ids=repr,
)
def test_select_gives_the_items_of_the_rows_in_their_order(tv, rows, expected):
    assert [item.tolist() for item in tv.select(rows)] == [tv[i].tolist() for i in expected]


@pytest.mark.parametrize("rows", [[0, 1], [2, 0], [1]], ids=repr)
def test_select_copies(tv, rows):
    assert not np.shares_memory(tv.select(rows).vectors, tv.vectors)


def test_select_of_nothing_keeps_dim_and_dtype(tv):
    chosen = tv.select([])
    assert (len(chosen), chosen.dim, chosen.dtype, chosen.offsets.tolist()) == (0, 4, np.float32, [0])


@pytest.mark.parametrize(
    "rows",
    [[3], [-4], [0, 2**40], [True, False], [True] * 4, np.array([], bool)],
    ids=["3", "-4", "huge", "short", "long", "empty mask"],
)
def test_select_refuses_rows_out_of_range_and_masks_of_another_length(tv, rows):
    with pytest.raises(IndexError):
        tv.select(rows)


@pytest.mark.parametrize("rows", [[0.0], [[0, 1]], 1, ["0"], None], ids=repr)
def test_select_refuses_what_is_no_list_of_rows(tv, rows):
    with pytest.raises(TypeError, match="rows: expected a list of integers or a boolean mask"):
        tv.select(rows)


@given(
    dtype=st.sampled_from([np.float32, np.float16]),
    dim=st.integers(1, 5),
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    data=st.data(),
)
def test_items_come_back_as_they_were_given(dtype, dim, lengths, data):
    limit = 2.0**49 if dtype is np.float32 else 65504.0  # larger ones are refused
    finite = npst.from_dtype(np.dtype(dtype), min_value=-limit, max_value=limit, allow_nan=False)
    arrays = [data.draw(npst.arrays(dtype, (length, dim), elements=finite)) for length in lengths]
    for given_array, item in zip(arrays, TokenVectors.from_list(arrays), strict=True):
        np.testing.assert_array_equal(item, given_array, strict=True)


@given(rows=st.lists(st.integers(-3, 2), max_size=8))
def test_select_is_indexing_item_by_item(rows):
    tv = TokenVectors(matrix(), OFFSETS)
    assert [item.tolist() for item in tv.select(rows)] == [tv[i].tolist() for i in rows]


# ── where a function takes a collection ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("documents", "num_documents"),
    [(matrix(), 1), (matrix()[None], 1), (np.stack([matrix()] * 3), 3), ([matrix()] * 2, 2), (Dlpack(matrix()), 1)],
    ids=["2-D", "3-D of one", "3-D", "list", "DLPack"],
)
def test_functions_take_whatever_makes_a_collection(documents, num_documents):
    assert chamfer.maxsim(matrix(), documents).shape == (1, num_documents)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (matrix(np.float64), TypeError, "expected float32 or float16, got float64"),
        ([matrix(), matrix(np.int32)], TypeError, r"expected float32 or float16, got int32"),
        (matrix()[0], ValueError, r"got \(4,\)"),
        (matrix() * np.float32("nan"), ValueError, "expected finite numbers, got nan in row 0"),
        ([], ValueError, "at least one array"),
        (None, TypeError, "got NoneType"),
    ],
    ids=["float64", "int32 item", "1-D", "NaN", "empty list", "None"],
)
@pytest.mark.parametrize("argument", ["queries", "documents"])
def test_functions_name_their_argument_when_they_refuse(argument, value, error, message):
    arguments = {"queries": matrix(), "documents": matrix()} | {argument: value}
    with pytest.raises(error, match=rf"^{argument}(\[1\])?: .*{message}"):
        chamfer.maxsim(**arguments)
