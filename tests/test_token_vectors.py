"""TokenVectors: what it takes, what it refuses and how it says so."""

import numpy as np
import pytest

from chamfer import TokenVectors
from samples import Dlpack

OFFSETS = [0, 2, 2, 5]  # items of 2, 0 and 3 vectors


def matrix(dtype=np.float32):
    return np.arange(1, 21).reshape(5, 4).astype(dtype)


class Bfloat16(Dlpack):
    """What a bfloat16 tensor does when NumPy asks."""

    def __dlpack__(self, **keywords):
        raise BufferError("bfloat16 has no NumPy dtype")


class Subclass(np.ndarray):
    pass


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[:] = array
    assert not view.flags.aligned
    return view


def read_only(array):
    array.flags.writeable = False
    return array


LAYOUTS = {
    "contiguous": lambda a: a,
    "Fortran order": np.asfortranarray,
    "transposed view": lambda a: np.ascontiguousarray(a.T).T,
    "negative row stride": lambda a: a[::-1].copy()[::-1],
    "negative column stride": lambda a: a[:, ::-1].copy()[:, ::-1],
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every second column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "middle of a larger array": lambda a: np.pad(a, 3)[(slice(3, -3),) * a.ndim],
    "unaligned": unaligned,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": read_only,
    "subclass of ndarray": lambda a: a.view(Subclass),
    "DLPack": Dlpack,
}


# ── accepted ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_gives_the_values_of_a_contiguous_copy(layout, dtype):
    tv = TokenVectors(LAYOUTS[layout](matrix(dtype)), OFFSETS)
    np.testing.assert_array_equal(tv.vectors, matrix(dtype), strict=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_is_held_contiguous_aligned_and_native(layout):
    vectors = TokenVectors(LAYOUTS[layout](matrix()), OFFSETS).vectors
    assert type(vectors) is np.ndarray
    assert vectors.flags.c_contiguous
    assert vectors.flags.aligned
    assert vectors.dtype.isnative


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_3d_array_of_any_layout_is_its_items(layout):
    cube = np.stack([matrix(), matrix() + 100])
    tv = TokenVectors.from_list(LAYOUTS[layout](cube.copy()))
    assert [item.tolist() for item in tv] == cube.tolist()


@pytest.mark.parametrize("layout", ["contiguous", "read-only", "subclass of ndarray"])
def test_a_contiguous_array_is_not_copied(layout):
    array = LAYOUTS[layout](matrix())
    assert np.shares_memory(TokenVectors(array, OFFSETS).vectors, array)


def test_a_dlpack_object_is_not_copied():
    array = matrix()
    assert np.shares_memory(TokenVectors(Dlpack(array), OFFSETS).vectors, array)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_memory_map_stays_on_disk(tmp_path, mode):
    np.save(tmp_path / "vectors.npy", matrix())
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode=mode)
    assert np.shares_memory(TokenVectors(mapped, OFFSETS).vectors, mapped)


@pytest.mark.parametrize(
    "arrays",
    [
        [matrix()[:2], matrix()[2:]],
        (matrix()[:2], matrix()[2:]),
        [matrix()[:2].tolist(), matrix()[2:].tolist()],
        [matrix()[:2].astype(int).tolist(), matrix()[2:].tolist()],
        [Dlpack(matrix()[:2]), matrix()[2:]],
        [np.asfortranarray(matrix()[:2]), matrix()[4:1:-1][::-1]],
        [matrix()[:2].astype(np.float16), matrix()[2:]],
        [matrix()[:2].astype(">f4"), matrix()[2:].astype("<f4")],
    ],
    ids=["list", "tuple", "floats", "ints and floats", "DLPack", "strided", "float16 and float32", "both byte orders"],
)
def test_a_list_of_arrays_is_a_collection_of_float32(arrays):
    tv = TokenVectors.from_list(arrays)
    assert tv.offsets.tolist() == [0, 2, 5]
    np.testing.assert_array_equal(tv.vectors, matrix(), strict=True)


def test_a_list_of_float16_arrays_stays_float16():
    assert TokenVectors.from_list([matrix(np.float16)]).dtype == np.float16


@pytest.mark.parametrize("value", [np.finfo(np.float16).max, np.finfo(np.float16).smallest_subnormal, -0.0])
def test_extreme_float16_values_are_kept(value):
    assert TokenVectors(np.array([[value]], np.float16), [0, 1]).vectors[0, 0] == np.float16(value)


@pytest.mark.parametrize("change", ["same", "transpose", "float16"])
def test_a_torch_tensor_is_taken(change):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.tensor(matrix())
    tensor = {"same": tensor, "transpose": tensor.T.contiguous().T, "float16": tensor.half()}[change]
    np.testing.assert_array_equal(TokenVectors(tensor, OFFSETS).vectors, matrix())


@pytest.mark.parametrize("change", ["gradient", "bfloat16", "float64"])
def test_a_torch_tensor_that_numpy_cannot_share_is_refused(change):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.tensor(matrix())
    tensor = {"gradient": tensor.requires_grad_(), "bfloat16": tensor.bfloat16(), "float64": tensor.double()}[change]
    with pytest.raises(TypeError, match="vectors: "):
        TokenVectors(tensor, OFFSETS)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.uint64, ">i8"])
def test_offsets_of_any_integer_type_become_int64(dtype):
    np.testing.assert_array_equal(
        TokenVectors(matrix(), np.array(OFFSETS, dtype)).offsets, np.array(OFFSETS), strict=True
    )


@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [0, 5], [5, 0], [2, 0, 0, 3], [0, 1, 0, 4, 0]])
def test_empty_items_may_stand_anywhere(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=int)])
    tv = TokenVectors(matrix()[: offsets[-1]], offsets)
    assert tv.lengths.tolist() == lengths
    assert [len(item) for item in tv] == lengths


@pytest.mark.parametrize("empty", [np.empty((0, 4), np.float32), np.empty(0, np.float32), []])
def test_a_list_may_hold_empty_items(empty):
    assert TokenVectors.from_list([empty, matrix(), empty]).lengths.tolist() == [0, 5, 0]


@pytest.mark.parametrize(("shape", "lengths"), [((0, 3, 4), []), ((3, 0, 4), [0, 0, 0])])
def test_a_3d_array_may_be_empty(shape, lengths):
    tv = TokenVectors.from_list(np.empty(shape, np.float32))
    assert (tv.lengths.tolist(), tv.dim) == (lengths, 4)


# ── refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "dtype", ["f8", "g", "i4", "i8", "u1", "?", "O", "F", "D", "U1", "M8[s]", [("a", "f4")]], ids=str
)
def test_vectors_of_another_dtype_are_refused_with_the_way_out(dtype):
    with pytest.raises(TypeError, match=r"^vectors: expected float32 or float16, got .*\.astype\(np\.float32\)"):
        TokenVectors(np.zeros((5, 4), dtype), OFFSETS)


@pytest.mark.parametrize("value", [None, 3, "text", b"bytes", {1: 2}, {1, 2}, object(), iter([matrix()])], ids=repr)
def test_what_is_no_array_is_refused(value):
    with pytest.raises(TypeError, match=r"^arrays: expected "):
        TokenVectors.from_list(value)


def test_a_tensor_that_numpy_cannot_share_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"^vectors: this Bfloat16 cannot be shared .*float\(\)\.cpu\(\)"):
        TokenVectors(Bfloat16(matrix()), OFFSETS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("row", "dim", "place"), [(0, 0, "item 0, token 0"), (3, 2, "item 2, token 1"), (4, 3, "item 2, token 2")]
)
def test_a_number_that_is_not_finite_is_named_by_row_item_and_token(row, dim, place, dtype, bad):
    vectors = matrix(dtype)
    vectors[row, dim] = bad
    with pytest.raises(
        ValueError, match=rf"^vectors: expected finite .* {bad} in row {row} \({place}\), dimension {dim}$"
    ):
        TokenVectors(vectors, OFFSETS)


def test_the_first_row_that_is_not_finite_is_named_in_a_large_collection():
    vectors = np.zeros((100_000, 3), np.float32)  # large enough for several threads
    vectors[[4_321, 70_000, 99_999], 1] = np.nan
    with pytest.raises(ValueError, match="in row 4321 "):
        TokenVectors(vectors, [0, 100_000])


@pytest.mark.parametrize("shape", [(), (5,), (0,), (1, 5, 4), (1, 1, 5, 4)])
def test_vectors_of_another_rank_are_refused(shape):
    with pytest.raises(ValueError, match=r"^vectors: expected shape \(num_tokens, dim\)"):
        TokenVectors(np.zeros(shape, np.float32), OFFSETS)


@pytest.mark.parametrize("shape", [(5, 0), (0, 0)])
def test_vectors_of_no_dimensions_are_refused(shape):
    with pytest.raises(ValueError, match="at least one dimension"):
        TokenVectors(np.zeros(shape, np.float32), [0, shape[0]])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 5], r"^offsets: expected to start at 0, got 1$"),
        ([-1, 5], r"^offsets: expected to start at 0, got -1$"),
        ([0, 3, 2, 5], r"^offsets: expected never to decrease, got 3 then 2 at 2$"),
        ([0, 2**62, -(2**62), 5], r"^offsets: expected never to decrease"),
        ([0, 4], r"^offsets: expected to end at 5 \(rows of vectors\), got 4$"),
        ([0, 6], r"^offsets: expected to end at 5 \(rows of vectors\), got 6$"),
        ([0], r"^offsets: expected to end at 5 \(rows of vectors\), got 0$"),
        ([[0, 5]], r"^offsets: expected shape \(n \+ 1,\), got \(1, 2\)$"),
        (5, r"^offsets: expected shape \(n \+ 1,\), got \(\)$"),
        (np.empty(0, np.int64), r"^offsets: expected shape \(n \+ 1,\), got \(0,\)$"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(offsets, message):
    with pytest.raises(ValueError, match=message):
        TokenVectors(matrix(), offsets)


@pytest.mark.parametrize("offsets", [[0.0, 5.0], [False, True], ["0", "5"], None, []], ids=repr)
def test_offsets_that_are_not_integers_are_refused(offsets):
    with pytest.raises(TypeError, match=r"^offsets: expected integers, got "):
        TokenVectors(matrix(), offsets)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([], "at least one array of shape"),
        ([np.empty(0, np.float32)], "at least one array of shape"),
        ([matrix(), matrix()[:, :3]], r"^arrays\[1\]: expected dim 4 .* got 3$"),
        ([matrix(), matrix()[0]], r"^arrays\[1\]: expected shape \(n_i, dim\), got \(4,\)$"),
        ([matrix(), matrix()[None]], r"^arrays\[1\]: expected shape \(n_i, dim\), got \(1, 5, 4\)$"),
        ([[[1.0, 2.0], [3.0]]], r"^arrays\[0\]: .*ragged"),
        ([np.empty((2, 0), np.float32)], "at least one dimension"),
        (matrix()[0], r"^arrays: expected a list of 2-D arrays, or one of shape \(n, t, dim\), got \(4,\)$"),
        (np.empty((2, 3, 0), np.float32), "at least one dimension"),
    ],
)
def test_lists_that_are_no_collection_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        TokenVectors.from_list(arrays)


@pytest.mark.parametrize(
    "item", [matrix(np.float64), matrix(np.int32), [[True]], None], ids=["f8", "i4", "bool", "None"]
)
def test_an_item_of_another_dtype_is_named_by_its_place(item):
    with pytest.raises(TypeError, match=r"^arrays\[1\]: expected "):
        TokenVectors.from_list([matrix(), item])


def test_a_python_float_too_large_for_float32_is_refused():
    with pytest.raises(ValueError, match="finite"):
        TokenVectors.from_list([[[1e300, 0.0]]])
