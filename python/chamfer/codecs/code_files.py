"""What of a codec goes into a file, and what has to hold of it when it comes back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer.codecs.token_codes import Codebook, TokenCodes
from chamfer.token_vectors import TokenVectors

_Arrays = dict[str, NDArray[Any]]

_BOOK_ARRAYS = ("center", "direction", "levels", "dim_scales")
_MOST_SKEW = 1e-3  # of a rotation: inner products of rows are off those of unit vectors by no more
_TERMS = {16: (), 8: ("scales", "errors", "norms"), 4: ("token_terms",), 2: ("token_terms",), 1: ("token_terms",)}


def codebook_parts(book: Codebook, prefix: str) -> tuple[dict[str, float], _Arrays]:
    """Return the numbers of a codebook, and its arrays, their names with a prefix."""
    numbers = {"stretch": float(book.stretch), "levels_per_rms": float(book.levels_per_rms)}
    arrays = {name: getattr(book, name) for name in _BOOK_ARRAYS}
    if book.rotation is not None:
        arrays["rotation"] = book.rotation
    return numbers, {prefix + name: array for name, array in arrays.items()}


def codebook_of_parts(
    numbers: dict[str, float], arrays: _Arrays, prefix: str, bits: int, dim: int, *, rotates: bool
) -> Codebook:
    """Take a codebook's arrays out of `arrays`, checked.

    Raises:
        ValueError, KeyError, TypeError: a part is missing, of a wrong dtype or shape, or no number that can be used.
    """
    kinds: dict[str, tuple[type, tuple[int, ...]]] = dict.fromkeys(_BOOK_ARRAYS, (np.float32, (dim,)))
    kinds["levels"] = (np.uint8, (16,))
    if rotates:
        kinds["rotation"] = (np.float32, (dim, dim))
    taken = {name: arrays.pop(prefix + name) for name in kinds}
    for name, array in taken.items():
        _check(array, prefix + name, *kinds[name])
    if not (taken["dim_scales"] > 0).all():
        raise ValueError(f"{prefix}dim_scales: expected numbers above 0")
    if rotates and np.abs(taken["rotation"] @ taken["rotation"].T - np.eye(dim)).max() > _MOST_SKEW:
        raise ValueError(f"{prefix}rotation: expected orthonormal rows")
    stretch, levels_per_rms = float(numbers["stretch"]), float(numbers["levels_per_rms"])
    if not (1 <= stretch <= 1024 and 0 < levels_per_rms < np.inf):
        raise ValueError(f"{prefix}stretch {stretch}, {prefix}levels_per_rms {levels_per_rms}")
    return Codebook(bits=bits, stretch=stretch, levels_per_rms=levels_per_rms, **taken)


def codes_parts(codes: TokenCodes | TokenVectors) -> _Arrays:
    """Return the arrays of codes without their codebook."""
    if isinstance(codes, TokenVectors):
        return {"vectors": codes.vectors, "offsets": codes.offsets}
    return {"codes": codes.codes, "offsets": codes.offsets, **codes.terms}


def codes_of_parts(arrays: _Arrays, book: Codebook, dim: int, *, halves: bool) -> TokenCodes | TokenVectors:
    """Take codes out of `arrays`, checked, by the core too: no kernel reads what is not there.

    Raises:
        ValueError, KeyError, TypeError: a part is missing, or does not fit the others.
    """
    offsets = arrays.pop("offsets")
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) == 0:
        raise ValueError(f"offsets: expected int64 of shape (n + 1,), got {offsets.dtype} of shape {offsets.shape}")
    if halves:
        vectors = arrays.pop("vectors")
        if vectors.dtype != np.float16 or vectors.ndim != 2 or vectors.shape[1] != dim:
            raise ValueError(
                f"vectors: expected float16 of shape (n, {dim}), got {vectors.dtype} of shape {vectors.shape}"
            )
        return TokenVectors(vectors, offsets)
    codes = arrays.pop("codes")
    terms = {name: arrays.pop(name) for name in _TERMS[book.bits]}
    for name, array in terms.items():
        if name == "token_terms":
            _check(array, name, np.float16, (len(codes), 2))
        else:
            _check(array, name, np.float32, (len(offsets) - 1,))
    made = TokenCodes(codes, terms, offsets, dim, book)
    made._core_collection()
    return made


def same_codebook(one: Codebook, other: Codebook) -> bool:
    """Return whether codes of one are codes of the other."""
    return all(np.array_equal(getattr(one, part.name), getattr(other, part.name)) for part in fields(Codebook))


def _check(array: NDArray[Any], name: str, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name}: expected {np.dtype(dtype)} of shape {shape}, got {array.dtype} of {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers")
