"""TokenVectors: the one ragged container. What it holds has been checked; everything after it may assume so."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chamfer import _core
from chamfer._runtime import resolve_num_threads

# Inner products of numbers below it stay finite in float32 (at any dim below 2^27): no score is NaN, and -inf means an
# empty document.
MAGNITUDE_LIMIT = 2.0**50

FloatArray: TypeAlias = "NDArray[np.float32] | NDArray[np.float16]"
# What a function takes where it wants a collection: TokenVectors, a list of 2-D arrays, a 3-D or 2-D array, torch or
# DLPack tensors.
TokenVectorsLike: TypeAlias = "TokenVectors | ArrayLike | Sequence[Any] | Any"


class TokenVectors:
    """A collection of sets of vectors: one flat array of vectors, and where each set begins.

    Item i is `vectors[offsets[i]:offsets[i + 1]]`; it may be empty. The arrays are kept as given when they are
    C-contiguous, aligned and in native byte order, memory maps included; any other layout is copied once, here. They
    are not to be changed afterwards: the check for NaN would no longer hold.

    Args:
        vectors: float32 or float16, shape (num_tokens, dim); dim is at least 1. NumPy array, memory map, torch tensor
            or any CPU object with `__dlpack__`.
        offsets: integers, shape (n + 1,), first 0, never decreasing, last num_tokens. Kept as int64.

    Raises:
        TypeError: vectors are not float32 or float16 (convert with `.astype(np.float32)`), or offsets not integers.
        ValueError: a wrong rank, offsets that do not fit, or a NaN, an infinity or a number of 2^50 and more in
            `vectors`, named with its item and row.
    """

    __slots__ = ("_core_view", "_offsets", "_vectors")

    def __init__(self, vectors: Any, offsets: ArrayLike) -> None:
        self._fill(vectors, offsets, "vectors")

    @classmethod
    def from_list(cls, arrays: Any) -> TokenVectors:
        """Make a collection of n arrays of shape (n_i, dim), or of one array of shape (n, t, dim).

        Args:
            arrays: a sequence of 2-D arrays (NumPy, torch, DLPack; float32 or float16; an item of shape (0, dim) or
                (0,) is an empty item) or lists of lists of Python floats; or one 3-D array. Mixed dtypes give float32,
                exactly.

        Raises:
            TypeError: an item is not float32 or float16.
            ValueError: the items differ in dim, an item is not 2-D, or there is no item to tell the dim (then call
                `TokenVectors(np.empty((0, dim), np.float32), [0])`).
        """
        return cls._from_items(arrays, "arrays")

    def _fill(self, vectors: Any, offsets: ArrayLike, argument: str) -> None:
        """Check and keep the arrays; errors about vectors name `argument`."""
        array = _float_array(vectors, argument)
        if array.ndim != 2:
            raise ValueError(
                f"{argument}: expected shape (num_tokens, dim), got {array.shape}; "
                "use TokenVectors.from_list for a list or 3-D array"
            )
        if not 1 <= array.shape[1] < 2**27:
            raise ValueError(f"{argument}: expected at least one dimension per vector (below 2^27), got {array.shape}")
        self._vectors: FloatArray = _contiguous(array)
        self._offsets = _check_offsets(offsets, len(array))
        self._core_view: _core.Collection | None = None
        row = _core.first_row_out_of_range(self._vectors, resolve_num_threads(None))
        if row >= 0:
            item = int(np.searchsorted(self._offsets, row, side="right")) - 1
            values = self._vectors[row].astype(np.float32)
            dim = int(np.flatnonzero(~(np.abs(values) < MAGNITUDE_LIMIT))[0])
            raise ValueError(
                f"{argument}: expected {'numbers below 2^50' if np.isfinite(values[dim]) else 'finite numbers'}, "
                f"got {values[dim]} in row {row} "
                f"(item {item}, token {row - int(self._offsets[item])}), dimension {dim}"
            )

    @classmethod
    def _from_items(cls, arrays: Any, argument: str) -> TokenVectors:
        self = cls.__new__(cls)
        if not isinstance(arrays, (list, tuple)):
            array = _float_array(arrays, argument)
            if array.ndim == 2:
                self._fill(array, [0, len(array)], argument)
                return self
            if array.ndim != 3:
                raise ValueError(
                    f"{argument}: expected a list of 2-D arrays, or one of shape (n, t, dim), got {array.shape}"
                )
            n, num_tokens, dim = array.shape
            flat = _contiguous(array).reshape(n * num_tokens, dim)
            self._fill(flat, np.arange(n + 1, dtype=np.int64) * num_tokens, argument)
            return self
        items = [_float_array(item, f"{argument}[{i}]") for i, item in enumerate(arrays)]
        dim = next((item.shape[1] for item in items if item.ndim == 2), 0)
        if not any(item.ndim == 2 for item in items):
            raise ValueError(
                f"{argument}: expected at least one array of shape (n_i, dim) to tell the dim; "
                "an empty collection is TokenVectors(np.empty((0, dim), np.float32), [0])"
            )
        for i, item in enumerate(items):
            if item.ndim == 1 and item.size == 0:
                items[i] = item.reshape(0, dim)
            elif item.ndim != 2:
                raise ValueError(f"{argument}[{i}]: expected shape (n_i, dim), got {item.shape}")
            elif item.shape[1] != dim:
                raise ValueError(f"{argument}[{i}]: expected dim {dim} as the items before it, got {item.shape[1]}")
        offsets = offsets_of([len(item) for item in items])
        self._fill(items[0] if len(items) == 1 else np.concatenate(items), offsets, argument)
        return self

    @classmethod
    def _trusted(cls, vectors: FloatArray, offsets: NDArray[np.int64]) -> TokenVectors:
        """Wrap arrays that hold every promise already, without reading them (a memory map stays on disk)."""
        self = cls.__new__(cls)
        self._vectors = vectors
        self._offsets = offsets
        self._core_view = None
        return self

    def _run(self, begin: int, end: int) -> TokenVectors:
        """Return items begin to end - 1 without copying their vectors."""
        first, last = self._offsets[begin], self._offsets[end]
        return TokenVectors._trusted(self._vectors[first:last], self._offsets[begin : end + 1] - first)

    def _core_collection(self) -> _core.Collection:
        """Return what the core takes: made, and its offsets checked for the core's sake, at the first use."""
        if self._core_view is None:
            self._core_view = _core.Collection(self._vectors, self._offsets)
        return self._core_view

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenVectors._trusted, (np.asarray(self._vectors), self._offsets)

    @property
    def vectors(self) -> FloatArray:
        """All vectors, float32 or float16, shape (num_tokens, dim), C-contiguous."""
        return self._vectors

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each item begins, int64, shape (n + 1,)."""
        return self._offsets

    @property
    def dim(self) -> int:
        """Numbers per vector."""
        return int(self._vectors.shape[1])

    @property
    def num_tokens(self) -> int:
        """Vectors in all items together."""
        return len(self._vectors)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Vectors per item, int64, shape (n,)."""
        return np.diff(self._offsets)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float16."""
        return self._vectors.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of vectors and offsets."""
        return int(self._vectors.nbytes + self._offsets.nbytes)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> FloatArray:
        """Return the vectors of item i, shape (n_i, dim), a view; a negative i counts from the end."""
        if not isinstance(i, (int, np.integer)) or isinstance(i, bool):
            raise TypeError(
                f"TokenVectors indices must be integers, got {type(i).__name__}; use select(rows) for several items"
            )
        i = operator.index(i)  # NumPy's small integers would overflow below
        if not -len(self) <= i < len(self):
            raise IndexError(f"item {i} is out of range for a collection of {len(self)}")
        i %= len(self)
        return self._vectors[self._offsets[i] : self._offsets[i + 1]]

    def __iter__(self) -> Iterator[FloatArray]:
        return (self[i] for i in range(len(self)))

    def select(self, rows: ArrayLike) -> TokenVectors:
        """Return the items of these rows, in this order, copied.

        Args:
            rows: integers, shape (m,), each from -n to n - 1, repeats allowed; or a boolean mask of shape (n,).

        Raises:
            TypeError: rows are neither integers nor booleans.
            IndexError: a row is out of range, or a mask has another length.
        """
        chosen = chosen_rows(rows, len(self))
        lengths = self.lengths[chosen]
        offsets = offsets_of(lengths)
        if len(chosen) and np.array_equal(chosen, np.arange(chosen[0], chosen[0] + len(chosen))):
            return TokenVectors._trusted(self._run(int(chosen[0]), int(chosen[-1]) + 1).vectors.copy(), offsets)
        source = np.arange(offsets[-1]) + np.repeat(self._offsets[chosen] - offsets[:-1], lengths)
        taken: Any = self._vectors[source]  # NumPy's types lose the dtype here
        return TokenVectors._trusted(taken, offsets)

    def __repr__(self) -> str:
        return f"TokenVectors({len(self)} items, {self.num_tokens} vectors of {self.dim} dims, {self.dtype})"


def offsets_of(lengths: ArrayLike) -> NDArray[np.int64]:
    """Return the offsets, int64, shape (n + 1,), of items of these n lengths."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def chosen_rows(rows: ArrayLike, size: int) -> NDArray[np.int64]:
    """Return rows 0 to size - 1 out of integers, negative ones counting from the end, or a boolean mask."""
    chosen = np.asarray(rows)
    if chosen.size == 0 and chosen.dtype != bool:
        chosen = chosen.astype(np.int64)  # NumPy's dtype of an empty list is float64
    if chosen.dtype == bool and chosen.shape != (size,):
        raise IndexError(f"rows: expected a mask of shape ({size},), got {chosen.shape}")
    if chosen.ndim != 1 or chosen.dtype.kind not in "iub":
        raise TypeError(
            f"rows: expected a list of integers or a boolean mask, got {chosen.dtype} of shape {chosen.shape}"
        )
    taken: NDArray[np.int64] = np.arange(size)[chosen]
    return taken


def as_token_vectors(value: TokenVectorsLike, argument: str) -> TokenVectors:
    """Return `value` as TokenVectors; one 2-D array is a collection of one. Errors name `argument`."""
    return value if isinstance(value, TokenVectors) else TokenVectors._from_items(value, argument)


def _float_array(value: Any, argument: str) -> FloatArray:
    """Return `value` as a float32 or float16 ndarray of any rank and layout, shared where possible."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{argument}: expected no masked array; its mask would be ignored, use .filled() or .compressed()"
        )
    if isinstance(value, np.ndarray):
        array = value
    elif isinstance(value, TokenVectors):
        raise TypeError(f"{argument}: expected arrays, got TokenVectors")
    elif hasattr(value, "__dlpack__"):
        if getattr(value, "is_neg", bool)():  # torch negates lazily, and DLPack would hand over the numbers before
            value = value.resolve_neg()
        try:
            array = np.from_dlpack(value)
        except Exception as error:
            raise TypeError(
                f"{argument}: this {type(value).__name__} cannot be shared with NumPy ({error}); "
                "pass a float32 or float16 CPU tensor, such as tensor.detach().float().cpu()"
            ) from None
    elif isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
        try:
            array = np.asarray(value)
        except ValueError:
            raise ValueError(f"{argument}: expected rows of equal length, got a ragged list") from None
        if not hasattr(value, "__array__") and array.dtype.kind in "fiu":
            with np.errstate(over="ignore"):  # becomes an infinity, which is refused by its row
                array = array.astype(np.float32)  # Python's numbers have no dtype to respect
    else:
        raise TypeError(f"{argument}: expected an array, a tensor or a list of them, got {type(value).__name__}")
    if array.dtype.newbyteorder("=") not in (np.float32, np.float16):
        raise TypeError(
            f"{argument}: expected float32 or float16, got {array.dtype}; "
            "convert with .astype(np.float32) if the loss is wanted"
        )
    return array


def _contiguous(array: FloatArray) -> FloatArray:
    """Return `array` C-contiguous, aligned and in native byte order: itself where it is, else the one copy."""
    wanted = np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
    return wanted.view(np.ndarray) if type(wanted) is not np.ndarray else wanted


def _check_offsets(offsets: ArrayLike, num_tokens: int) -> NDArray[np.int64]:
    array = np.asarray(offsets)
    if array.dtype.kind not in "iu":
        raise TypeError(f"offsets: expected integers, got {array.dtype}")
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"offsets: expected shape (n + 1,), got {array.shape}")
    array = np.require(array, np.int64, ["C", "A"])
    if array[0] != 0:
        raise ValueError(f"offsets: expected to start at 0, got {array[0]}")
    falls = np.flatnonzero(array[1:] < array[:-1])
    if len(falls):
        i = int(falls[0])
        raise ValueError(f"offsets: expected never to decrease, got {array[i]} then {array[i + 1]} at {i + 1}")
    if array[-1] != num_tokens:
        raise ValueError(f"offsets: expected to end at {num_tokens} (rows of vectors), got {array[-1]}")
    return array
