"""Binary codes of single vectors: nearest by Hamming distance, and recurrent codes compared by SDC."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chamfer import _core
from chamfer._runtime import check_positive_int, resolve_isa, resolve_num_threads
from chamfer.token_vectors import MAGNITUDE_LIMIT

MAX_CODE_SIZE = 2**24
MAX_DIM = 2**20 - 1


def hamming_topk(
    query_codes: ArrayLike | RecurrentCodes,
    codes: ArrayLike | RecurrentCodes,
    k: int,
    *,
    num_threads: int | None = None,
    isa: str | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Find the k codes nearest to each query by Hamming distance; ties go to the lower row.

    Memory grows with k, not with the number of codes. Results are the same for any `num_threads` and on every `isa`.

    Args:
        query_codes: uint8, shape (num_queries, code_size): packed bits, as of numpy.packbits.
        codes: uint8, shape (n, code_size). Arrays that are not C-contiguous are copied. Or both are RecurrentCodes, as
            `sdc_topk` takes them: then their signs are compared, unpacked at each call; `to_bits` does that once.
        k: codes to return per query, at least 1; may exceed n.
        num_threads: threads to use; None means the CPUs of this process.
        isa: instruction set, one of `available_isas()`; None means `best_isa()`.

    Returns:
        distances, int32, and rows, int64, both of shape (num_queries, k), nearest first; 2³¹ - 1 and -1 where there are
        fewer than k.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes, code sizes or binarizers do not fit, or k is below 1.
    """
    if isinstance(query_codes, RecurrentCodes) and isinstance(codes, RecurrentCodes):
        query_codes, codes = _that_search(query_codes, codes).to_bits(), codes.to_bits()
    wanted = _as_codes(codes, "codes")
    queries = _as_codes(query_codes, "query_codes")
    if queries.shape[1] != wanted.shape[1]:
        raise ValueError(f"query_codes: expected code_size {wanted.shape[1]} as the codes, got {queries.shape[1]}")
    return _core.hamming_topk(
        queries,
        wanted,
        check_positive_int(k, "k"),
        num_threads=resolve_num_threads(num_threads),
        isa=resolve_isa(isa),
    )


class RecurrentCodes:
    """Recurrent binary codes of n vectors, packed for SDC: per dim a level c that stands for (2c - M) / 2^(bits - 1).

    M = 2^bits - 1 is the highest level, so that with 1 bit values are ±1, with 2 bits ±0.5 and ±1.5. Made by
    `RecurrentBinarizer` or `from_levels`. Read-only.

    Attributes:
        dim: dims of a code.
        bits: bits of a dim: 1, 2 or 4.
        scales: float32, shape (n,), or None: factor of each code's similarities; 1 / norm gives cosines.
        code_size: bytes of a code; dims are padded to whole groups of 16 bits.
        nbytes: bytes of all codes, padded to a multiple of 32 codes, and scales.
        fingerprint: of the binarizer that made the codes; None for codes made by hand.
        searches: fingerprints of binarizers whose codes these may search besides their own.

    Source: BEBR (arXiv 2302.08714), recurrent binarization.
    """

    __slots__ = ("_packed", "_size", "bits", "dim", "fingerprint", "scales", "searches")

    bits: int
    dim: int
    scales: NDArray[np.float32] | None
    fingerprint: str | None
    searches: tuple[str, ...]
    _packed: NDArray[np.uint8]
    _size: int

    @classmethod
    def from_levels(cls, levels: ArrayLike, bits: int, scales: ArrayLike | None = None) -> RecurrentCodes:
        """Pack levels.

        Args:
            levels: uint8, shape (n, dim), each at most 2^bits - 1.
            bits: bits of a level: 1, 2 or 4.
            scales: numbers, shape (n,): factor of each code's similarities; None means 1.

        Returns:
            The codes; the arguments are copied.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: shapes do not fit, a level is too high, or a scale is not finite.
        """
        bits = check_positive_int(bits, "bits")
        if bits not in (1, 2, 4):
            raise ValueError(f"bits: expected 1, 2 or 4, got {bits}")
        array = _as_bytes(levels, "levels", "dim", MAX_DIM)
        if array.size and array.max() >= 2**bits:
            raise ValueError(f"levels: expected at most {2**bits - 1} (bits={bits}), got {array.max()}")
        codes = cls.__new__(cls)
        codes.dim, codes.bits, codes._size = array.shape[1], bits, len(array)
        codes.scales = _as_scales(scales, len(array))
        codes.fingerprint, codes.searches = None, ()
        codes._packed = _cache_aligned(_core.packed_bytes(codes.dim, bits, "integer", len(array)))
        _core.pack_levels(array, bits, "integer", codes._packed)
        codes._packed.flags.writeable = False
        return codes

    @classmethod
    def _of_packed(
        cls, packed: NDArray[np.uint8], size: int, dim: int, bits: int, scales: NDArray[np.float32] | None
    ) -> RecurrentCodes:
        """Return codes from what another's `_packed` held; ValueError if there are not as many."""
        codes = cls.__new__(cls)
        codes.dim, codes.bits, codes._size = dim, bits, size
        codes.scales = _as_scales(scales, size)
        codes.fingerprint, codes.searches = None, ()
        codes._packed = _cache_aligned(_core.packed_bytes(dim, bits, "integer", size))
        codes._packed[:] = packed
        codes._packed.flags.writeable = False
        return codes

    def _first(self, dim: int) -> RecurrentCodes:
        """Return the first dims of each code, which stand for as long vectors as all do."""
        levels = self.levels()
        values = 2 * levels.astype(np.float32) - np.float32(2**self.bits - 1)
        longer = np.linalg.norm(values, axis=1) / np.linalg.norm(values[:, :dim], axis=1)
        scales = longer if self.scales is None else longer * self.scales
        codes = RecurrentCodes.from_levels(levels[:, :dim], self.bits, scales)
        codes.fingerprint, codes.searches = self.fingerprint, self.searches
        return codes

    def _searching(self, codes: RecurrentCodes) -> RecurrentCodes:
        """Return these codes as they search others: their first dims, if they were trained to search shorter codes."""
        if codes.fingerprint in self.searches and codes.dim < self.dim and codes.bits <= self.bits:
            return self._first(codes.dim)
        return self

    def _select(self, rows: NDArray[np.int64]) -> RecurrentCodes:
        """Return the codes at these rows, in their order."""
        scales = None if self.scales is None else self.scales[rows]
        codes = RecurrentCodes.from_levels(self.levels()[rows], self.bits, scales)
        codes.fingerprint, codes.searches = self.fingerprint, self.searches
        return codes

    def _followed_by(self, others: RecurrentCodes) -> RecurrentCodes:
        """Return these codes and then others of the same dim and bits, with scales if these have them."""
        block = 32 * self.code_size
        num_whole = len(self) // 32  # whole blocks stay as they are
        rest = _core.unpack_levels(self._packed[num_whole * block :], self.dim, self.bits, len(self) % 32)
        following = np.concatenate([rest, others.levels()])
        packed = np.empty(_core.packed_bytes(self.dim, self.bits, "integer", len(self) + len(others)), np.uint8)
        packed[: num_whole * block] = self._packed[: num_whole * block]
        _core.pack_levels(following, self.bits, "integer", packed[num_whole * block :])
        scales = None if self.scales is None else np.concatenate([self.scales, others.scales])
        codes = RecurrentCodes._of_packed(packed, len(self) + len(others), self.dim, self.bits, scales)
        codes.fingerprint, codes.searches = self.fingerprint, self.searches
        return codes

    def __len__(self) -> int:
        """Return the number of codes."""
        return self._size

    def __repr__(self) -> str:
        """Name what `from_levels` was given."""
        scales = "" if self.scales is None else ", with scales"
        return f"RecurrentCodes({self._size} codes, dim={self.dim}, bits={self.bits}{scales})"

    @property
    def code_size(self) -> int:
        """Bytes of one code."""
        return _core.packed_bytes(self.dim, self.bits, "integer", 1) // 32

    @property
    def nbytes(self) -> int:
        """Bytes of all codes and scales."""
        return self._packed.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def levels(self) -> NDArray[np.uint8]:
        """Unpack the levels.

        Returns:
            uint8, shape (n, dim), as given to `from_levels`.
        """
        return _core.unpack_levels(self._packed, self.dim, self.bits, self._size)

    def to_bits(self) -> NDArray[np.uint8]:
        """Pack the signs alone, the first stage of the codes: what `hamming_topk` takes.

        Returns:
            uint8, shape (n, ceil(dim / 8)): 1 for a value above 0, eight to a byte, the lowest bit first.
        """
        return np.packbits(self.levels() >> (self.bits - 1), axis=1, bitorder="little")


def sdc_topk(
    query_codes: RecurrentCodes,
    codes: RecurrentCodes,
    k: int,
    *,
    num_threads: int | None = None,
    isa: str | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k codes most similar to each query by SDC, inner products of what the codes stand for; ties: lower row.

    A similarity is Σ v(q_i) v(d_i), exact before one rounding to float32, times query scale times scale. Results are
    the same bits for any `num_threads` and on every `isa`. Memory grows with k, not with the number of codes.

    Args:
        query_codes: the queries' codes.
        codes: codes of the same dim, of as many bits or fewer, and of the same binarizer, or of one that the queries'
            was trained to search, which may be of fewer dims: the queries' first dims search those. Codes made by hand
            fit any.
        k: codes to return per query, at least 1; may exceed the number of codes.
        num_threads: threads to use; None means the CPUs of this process.
        isa: instruction set, one of `available_isas()`; None means `best_isa()`.

    Returns:
        similarities, float32, and rows, int64, both of shape (num_queries, k), best first; -inf and -1 where there are
        fewer than k.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: dims or binarizers differ, queries have fewer bits, or k is below 1.

    Source: BEBR (arXiv 2302.08714), symmetric distance calculation; queries of more bits are chamfer's own.
    """
    for value, name in ((query_codes, "query_codes"), (codes, "codes")):
        if not isinstance(value, RecurrentCodes):
            raise TypeError(
                f"{name}: expected RecurrentCodes, got {type(value).__name__}; RecurrentCodes.from_levels makes them"
            )
    query_codes = _that_search(query_codes, codes)
    if query_codes.bits < codes.bits:
        raise ValueError(f"query_codes: expected bits {codes.bits} as the codes, or more, got {query_codes.bits}")
    return _core.sdc_topk(
        query_codes.levels(),
        codes._packed,
        len(codes),
        check_positive_int(k, "k"),
        bits=codes.bits,
        query_bits=query_codes.bits,
        query_scales=query_codes.scales,
        scales=codes.scales,
        num_threads=resolve_num_threads(num_threads),
        isa=resolve_isa(isa),
    )


def _that_search(query_codes: RecurrentCodes, codes: RecurrentCodes) -> RecurrentCodes:
    """Return the queries' codes as they search others; ValueError if dims or binarizers do not fit."""
    query_codes = query_codes._searching(codes)
    if query_codes.dim != codes.dim:
        raise ValueError(f"query_codes: expected dim {codes.dim} as the codes, got {query_codes.dim}")
    made_by = codes.fingerprint
    if None not in (made_by, query_codes.fingerprint) and made_by not in (
        query_codes.fingerprint,
        *query_codes.searches,
    ):
        raise ValueError(
            f"query_codes: expected codes of binarizer {made_by}, as the codes, or of one fitted to search them "
            f"(compatible_with=), got codes of {query_codes.fingerprint}"
        )
    return query_codes


def _as_bytes(values: ArrayLike, argument: str, width: str, limit: int) -> NDArray[np.uint8]:
    array = np.asarray(values)
    if array.dtype != np.uint8:
        raise TypeError(f"{argument}: expected uint8, got {array.dtype}")
    if array.ndim != 2 or not 1 <= array.shape[1] <= limit:
        raise ValueError(f"{argument}: expected shape (n, {width}), {width} from 1 to {limit}, got {array.shape}")
    return np.ascontiguousarray(array)


def _as_codes(codes: ArrayLike | RecurrentCodes, argument: str) -> NDArray[np.uint8]:
    if isinstance(codes, RecurrentCodes):
        raise TypeError(f"{argument}: expected RecurrentCodes on both sides, or arrays; `to_bits` makes one of them")
    return _as_bytes(codes, argument, "code_size", MAX_CODE_SIZE)


def _as_scales(scales: ArrayLike | None, size: int) -> NDArray[np.float32] | None:
    if scales is None:
        return None
    array = np.asarray(scales)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"scales: expected numbers, got {array.dtype}")
    if array.shape != (size,):
        raise ValueError(f"scales: expected shape ({size},), one per code, got {array.shape}")
    with np.errstate(over="ignore"):  # becomes an infinity, which is refused
        array = np.array(array, np.float32, order="C")
    fitting = np.abs(array) < MAGNITUDE_LIMIT  # False for NaN
    if not fitting.all():
        wrong = array[~fitting][0]
        wanted = "numbers below 2^50" if np.isfinite(wrong) else "finite numbers"
        raise ValueError(f"scales: expected {wanted}, got {wrong}")
    array.flags.writeable = False
    return array


def _cache_aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + 63, np.uint8)
    start = -memory.ctypes.data % 64  # so that no full-width load crosses two cache lines
    return memory[start : start + size]
