"""RecurrentBinarizer: single vectors to recurrent binary codes, as trained by chamfer.training.fit_binarizer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chamfer import _core
from chamfer._archives import checksum, read_archive, write_archive
from chamfer._rotation import STEPS
from chamfer._runtime import resolve_isa, resolve_num_threads
from chamfer.binary import RecurrentCodes
from chamfer.errors import CorruptIndexError
from chamfer.token_vectors import MAGNITUDE_LIMIT

_FORMAT = "chamfer.RecurrentBinarizer"
_FORMAT_VERSION = 1
_PARAMETERS = ("dim", "output_dimension", "loops", "searches", "query_scale", "has_scales")
_FINE_QUERIES = "has_fine_queries"  # a parameter too, of those that have them

_QUERY_BITS = 4  # of fine queries: the most that SDC takes

_BLOCK_ROWS = 4096  # encoded at once, so that memory grows with the codes only

MAX_LOOPS = 3


class RecurrentBinarizer:
    """Turn vectors into binary codes that SDC compares, by networks trained on vectors like them.

    A vector x, less a centre, in parts of its length, becomes signs b₀ = sgn(W(x)); each loop adds the signs of what
    they miss, b ← b + 2^-(i+1) sgn(R_i(x - f)), where f = g_i B_i(b) / |B_i(b)|. W, B_i and R_i are each a linear map
    plus a hidden layer of rectified units. A number of a code takes as many bits as there are stages, loops + 1; three
    are stored in four. Codes of queries, which are not kept, may be finer: 4 bits of each number of W(x).

    Made by `chamfer.training.fit_binarizer` or `load`; needs no torch.

    Attributes:
        dim: numbers of a vector.
        output_dimension: numbers of a code.
        loops: residual loops, 0 to 3.
        bits: of a code in all: output_dimension · (loops + 1).
        fingerprint: hash of all that decides codes; codes carry it.
        searches: fingerprints of the binarizers whose codes the queries' codes were trained to search.

    Source: BEBR (arXiv 2302.08714); linear maps, centres, gains, scales and fine queries are chamfer's own.
    """

    dim: int
    output_dimension: int
    loops: int
    fingerprint: str
    searches: tuple[str, ...]
    _parameters: dict[str, Any]
    _arrays: dict[str, NDArray[np.float32]]

    @classmethod
    def _of(cls, parameters: dict[str, Any], arrays: dict[str, NDArray[np.float32]]) -> RecurrentBinarizer:
        """Return the binarizer of these parameters, all of _PARAMETERS, and arrays, those of `array_shapes`."""
        self = cls.__new__(cls)
        self._parameters = {name: parameters[name] for name in _PARAMETERS}
        if parameters.get(_FINE_QUERIES, False):  # fingerprints of binarizers from before there were such stay
            self._parameters[_FINE_QUERIES] = True
        self.dim, self.output_dimension = parameters["dim"], parameters["output_dimension"]
        self.loops, self.searches = parameters["loops"], tuple(parameters["searches"])
        if self.loops not in range(MAX_LOOPS + 1) or not np.isfinite(parameters["query_scale"]):
            raise ValueError("its parameters are out of range")
        hidden = arrays["signs.hidden"].shape[0]
        shapes = array_shapes(self.dim, self.output_dimension, self.loops, hidden)
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise ValueError("its arrays are not those of its parameters")
        self._arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
        self.fingerprint = checksum(self._parameters, self._arrays)
        return self

    def __repr__(self) -> str:
        """Name sizes and fingerprint."""
        return (
            f"RecurrentBinarizer(dim={self.dim}, output_dimension={self.output_dimension}, loops={self.loops}, "
            f"fingerprint={self.fingerprint[:8]})"
        )

    @property
    def bits(self) -> int:
        """Bits of a code in all, its scale not counted."""
        return self.output_dimension * (self.loops + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    # ── vectors to codes ──────────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, x: ArrayLike, *, num_threads: int | None = None) -> RecurrentCodes:
        """Encode vectors that are to be searched.

        Similarities of `sdc_topk` are about the vectors' inner products, less a number that is the same for all codes
        that a query searches; where training found that scales do not pay, they are those of vectors of length 1.

        Args:
            x: numbers, shape (n, dim).
            num_threads: threads to use; None means the CPUs of this process. Codes do not depend on it, nor on what
                else is encoded.

        Returns:
            The codes, with the fingerprint.

        Raises:
            TypeError: x has a wrong type.
            ValueError: another shape, or numbers that are not finite.
        """
        return self._encode(x, "document_center", num_threads)

    def encode_queries(self, x: ArrayLike, *, num_threads: int | None = None) -> RecurrentCodes:
        """Encode vectors that search: less another centre than those that are searched, and finer, if trained so.

        Args:
            x: numbers, shape (n, dim).
            num_threads: as in `encode`.

        Returns:
            The codes, with the fingerprint and those of the binarizers whose codes they may search.

        Raises:
            TypeError: x has a wrong type.
            ValueError: another shape, or numbers that are not finite.
        """
        codes = self._encode(x, "query_center", num_threads)
        codes.searches = self.searches
        return codes

    def _encode(self, x: ArrayLike, center: str, num_threads: int | None) -> RecurrentCodes:
        vectors = check_matrix(x, "x", self.dim)
        threads = resolve_num_threads(num_threads)
        is_query = center == "query_center"
        is_fine = is_query and _FINE_QUERIES in self._parameters
        stored_bits = _QUERY_BITS if is_fine else 4 if self.loops == 2 else self.loops + 1
        levels = np.empty((len(vectors), self.output_dimension), np.uint8)
        scales = np.empty(len(vectors), np.float32) if is_query or self._parameters["has_scales"] else None
        for begin in range(0, len(vectors), _BLOCK_ROWS):
            rows = slice(begin, begin + _BLOCK_ROWS)
            centered = as_floats(vectors[rows], "x", begin) - self._arrays[center]
            lengths = np.linalg.norm(centered, axis=1)
            directions = np.asarray(centered / np.maximum(lengths, TINY)[:, None], np.float32)
            values, levels[rows] = (self._fine if is_fine else self._stages)(directions, threads)
            if scales is not None:
                stands_for = np.linalg.norm(values, axis=1)
                if self.loops == 2 and not is_fine:
                    stands_for /= 2  # the stored level is of four bits, which halves what three stand for
                scales[rows] = lengths / stands_for * np.float32(self._parameters["query_scale"] if is_query else 1.0)
        if self.loops == 2 and not is_fine:
            levels += 4  # (2 (c + 4) - 15) / 8 is half of (2 c - 7) / 4
        codes = RecurrentCodes.from_levels(levels, stored_bits, scales)
        codes.fingerprint = self.fingerprint
        return codes

    def _stages(
        self, directions: NDArray[np.float32], num_threads: int
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return what codes of unit vectors stand for, and their levels of loops + 1 bits."""
        above = self._block("signs", directions, num_threads) > 0
        values, levels = np.where(above, np.float32(1), np.float32(-1)), above.astype(np.uint8)
        for i in range(self.loops):
            told = self._block(f"told{i}", values, num_threads)
            told *= (self._arrays["gains"][i] / np.maximum(np.linalg.norm(told, axis=1), TINY))[:, None]
            above = self._block(f"rest{i}", directions - told, num_threads) > 0
            values += np.where(above, np.float32(0.5 ** (i + 1)), np.float32(-(0.5 ** (i + 1))))
            levels = 2 * levels + above
        return values, levels

    def _fine(self, directions: NDArray[np.float32], num_threads: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return what fine codes of unit vectors stand for, and their levels, the signs being those of `_stages`."""
        numbers = self._block("signs", directions, num_threads)
        steps = np.float32(STEPS[_QUERY_BITS]) * np.sqrt(np.mean(np.square(numbers), axis=1, keepdims=True))
        half = 2 ** (_QUERY_BITS - 1)
        numbers /= np.maximum(steps, TINY)
        levels = np.clip(np.ceil(numbers, out=numbers) + np.float32(half - 1), 0, 2 * half - 1).astype(np.uint8)
        return (levels - np.float32(half - 0.5)) / np.float32(half / 2), levels

    def _block(self, name: str, rows: NDArray[np.float32], num_threads: int) -> NDArray[np.float32]:
        isa, arrays = resolve_isa(None), self._arrays
        hidden = _core.project(rows, arrays[f"{name}.hidden"], isa=isa, num_threads=num_threads)
        hidden += arrays[f"{name}.hidden_bias"]
        np.maximum(hidden, 0, out=hidden)
        output = _core.project(rows, arrays[f"{name}.linear"], isa=isa, num_threads=num_threads)
        output += _core.project(hidden, arrays[f"{name}.output"], isa=isa, num_threads=num_threads)
        output += arrays[f"{name}.bias"]
        return output

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, arrays and format version to one file, atomically.

        Args:
            path: the file, an .npz of any name; replaced if it exists.
        """
        write_archive(Path(path), _FORMAT, _FORMAT_VERSION, self._parameters, self._arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RecurrentBinarizer:
        """Read a binarizer that `save` wrote; it gives the same codes.

        Args:
            path: the file given to `save`.

        Returns:
            The binarizer, of the same fingerprint.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptIndexError: the file is damaged (parameters and arrays carry a checksum) or not a binarizer.
            ValueError: a newer chamfer wrote it.
        """
        parameters, arrays = read_archive(Path(path), _FORMAT, _FORMAT_VERSION)
        try:
            return cls._of(parameters, arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptIndexError(f"{path}: its contents do not fit together ({error})") from None


TINY = np.float32(1e-12)
"""What a length is divided by at least."""


def array_shapes(dim: int, output_dimension: int, loops: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a binarizer's arrays by name."""
    shapes: dict[str, tuple[int, ...]] = {"document_center": (dim,), "query_center": (dim,), "gains": (loops,)}
    for block, size_in, size_out in blocks(dim, output_dimension, loops):
        shapes |= {
            f"{block}.linear": (size_out, size_in),
            f"{block}.hidden": (hidden, size_in),
            f"{block}.hidden_bias": (hidden,),
            f"{block}.output": (size_out, hidden),
            f"{block}.bias": (size_out,),
        }
    return shapes


def blocks(dim: int, output_dimension: int, loops: int) -> list[tuple[str, int, int]]:
    """Return names, inputs and outputs of the networks in order of use: W, then B and R of each loop."""
    found = [("signs", dim, output_dimension)]
    for i in range(loops):
        found += [(f"told{i}", output_dimension, dim), (f"rest{i}", dim, output_dimension)]
    return found


def check_matrix(x: ArrayLike, argument: str, dim: int | None = None) -> NDArray[Any]:
    """Return a matrix of numbers, of rows of dim if that is known; TypeError or ValueError if it is none."""
    array = np.asarray(x)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{argument}: expected numbers, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] < 1 or dim not in (None, array.shape[1]):
        raise ValueError(f"{argument}: expected shape (n, {'dim' if dim is None else dim}), got {array.shape}")
    return array


def as_floats(rows: NDArray[Any], argument: str, first_row: int = 0) -> NDArray[np.float32]:
    """Return rows as C-contiguous float32; ValueError, which counts from first_row, if a number is not finite."""
    with np.errstate(over="ignore"):  # becomes an infinity, which is refused
        floats = np.ascontiguousarray(rows, np.float32)
    fitting = np.abs(floats) < MAGNITUDE_LIMIT  # False for NaN
    if not fitting.all():
        row = int(np.flatnonzero(~fitting.all(axis=1))[0])
        wrong = floats[row][~fitting[row]][0]
        wanted = "numbers below 2^50" if np.isfinite(wrong) else "finite numbers"
        raise ValueError(f"{argument}: expected {wanted}, got {wrong} in row {first_row + row}")
    return floats
