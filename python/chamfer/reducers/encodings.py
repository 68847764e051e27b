"""The forms that encodings are given out in: float32, float16, int8 with scales, sign bits, sparse."""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

DenseOutput: TypeAlias = Literal["float32", "float16", "int8", "bits"]
Output: TypeAlias = Literal[DenseOutput, "sparse"]


class Int8Encodings(NamedTuple):
    """Encodings in a quarter of the memory: row i of an encoding is about scales[i] * codes[i].

    <q, d> is about scale_q * scale_d * <codes_q, codes_d>, of which the last is a sum of integers.

    Attributes:
        codes: int8, shape (n, output_dimension): each number over the scale of its row, rounded half to even, -127 to
            127. No number is off by more than half of the scale, but for float32's rounding.
        scales: float32, shape (n,): the largest magnitude of each row over 127; 0 for a row of zeros.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


class SparseEncodings(NamedTuple):
    """Encodings without their empty partitions, the arrays of a matrix in compressed sparse rows.

    `scipy.sparse.csr_array(encodings, shape=(len(encodings.offsets) - 1, output_dimension))` takes them as they are.

    Attributes:
        values: float32, shape (nnz,): the blocks of all partitions that hold a vector, whole, zeros within them too.
        indices: int32, shape (nnz,): the column of each value, ascending within a row.
        offsets: int64, shape (n + 1,): row i is values[offsets[i]:offsets[i + 1]].
    """

    values: NDArray[np.float32]
    indices: NDArray[np.int32]
    offsets: NDArray[np.int64]


# What encode_documents and encode_queries return, whatever `output` is.
Encodings: TypeAlias = "NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint8] | Int8Encodings | SparseEncodings"


def check_output(output: str) -> None:
    """Raise TypeError or ValueError if `output` is none of the forms."""
    choices = (*get_args(DenseOutput), "sparse")
    if not isinstance(output, str):
        raise TypeError(f"output: expected a str, got {type(output).__name__}")
    if output not in choices:
        raise ValueError(f"output: expected one of {', '.join(map(repr, choices))}, got {output!r}")


def check_halves(first_too_large: int, argument: str) -> None:
    """Raise ValueError, naming the item, if the core met a number that no half-precision number is near to."""
    if first_too_large >= 0:
        raise ValueError(
            f"output='float16': expected encodings of magnitude below 65520, got a larger one for item "
            f"{first_too_large} of {argument}; scale the vectors down or take output='float32'"
        )


def empty_encodings(n: int, dimension: int, output: DenseOutput) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return arrays to fill with n encodings: rows of that form, and scales."""
    shape = (n, (dimension + 7) // 8) if output == "bits" else (n, dimension)
    return np.empty(shape, np.uint8 if output == "bits" else output), np.empty(n, np.float32)


def dense_encodings(rows: NDArray[Any], scales: NDArray[np.float32] | None) -> Encodings:
    """Return rows as the core converted them: with their scales if they have any."""
    return rows if scales is None else Int8Encodings(rows, scales)
