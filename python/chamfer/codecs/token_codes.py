"""TokenCodes: the coded counterpart of TokenVectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chamfer import _core
from chamfer._runtime import resolve_isa
from chamfer.token_vectors import TokenVectors, chosen_rows, offsets_of


@dataclass(frozen=True)
class Codebook:
    """What the codes of one codec stand for; see `Codec`. Arrays are float32 and of shape (dim,) unless said.

    Attributes:
        bits: bits of a code: 16 (bfloat16), 8, 4, 2 or 1.
        center: subtracted before coding.
        direction: what the vectors share much of: their mean's direction.
        stretch: 8 bits: how much finer codes are along the direction.
        levels: fewer bits: uint8, shape (16,), the number of each code, 128 standing for 0.
        levels_per_rms: fewer bits: the level of one root mean square.
        dim_scales: fewer bits: what is divided by.
        rotation: shape (dim, dim): turns vectors and queries before all else; None does not.
    """

    bits: int
    center: NDArray[np.float32]
    direction: NDArray[np.float32]
    stretch: float
    levels: NDArray[np.uint8]
    levels_per_rms: float
    dim_scales: NDArray[np.float32]
    rotation: NDArray[np.float32] | None = None

    def rotated(self, vectors: NDArray[np.float32], num_threads: int = 1) -> NDArray[np.float32]:
        """Return vectors as the other parts take them; each is the same bits alone and among others."""
        if self.rotation is None:
            return vectors
        return _core.project(vectors, self.rotation, isa=resolve_isa(None), num_threads=num_threads)


class TokenCodes:
    """A collection of sets of coded vectors, made by `Codec.encode`; `maxsim` takes it for documents.

    Its arrays are read-only.
    """

    __slots__ = ("_codebook", "_codes", "_core_view", "_dim", "_offsets", "_terms")

    def __init__(
        self,
        codes: NDArray[np.uint8],
        terms: dict[str, NDArray[Any]],
        offsets: NDArray[np.int64],
        dim: int,
        codebook: Codebook,
        like: _core.Collection | None = None,
    ) -> None:
        self._codes = codes
        self._terms = terms
        self._offsets = offsets
        self._dim = dim
        self._codebook = codebook
        arrays: list[NDArray[Any]] = [codes, *terms.values()]
        for array in arrays:
            array.setflags(write=False)
        self._core_view: _core.Collection | None = None
        if like is not None:
            self._core_view = self._make_core_view(like)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenCodes, (self._codes, self._terms, self._offsets, self._dim, self._codebook)

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The codes of each vector, uint8, shape (num_tokens, code_size), zero-padded to whole words of 4 bytes."""
        return self._codes

    @property
    def terms(self) -> Mapping[str, NDArray[Any]]:
        """The numbers that go with codes, by name.

        Of 8 bits, float32 of shape (n,): "scales", "errors" and "norms"; of fewer, float16 of shape (num_tokens, 2):
        "token_terms", scale and shift; of bfloat16, none.
        """
        return MappingProxyType(self._terms)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each item begins, int64, shape (n + 1,)."""
        return self._offsets

    @property
    def dim(self) -> int:
        """Numbers per vector."""
        return self._dim

    @property
    def bits(self) -> int:
        """Bits of one code: 16 (bfloat16), 8, 4, 2 or 1."""
        return self._codebook.bits

    @property
    def code_size(self) -> int:
        """Bytes of one vector's codes."""
        return int(self.codes.shape[1])

    @property
    def num_tokens(self) -> int:
        """Coded vectors in all items together."""
        return len(self.codes)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Coded vectors per item, int64, shape (n,)."""
        return np.diff(self.offsets)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, their terms and offsets; the codebook, which all share, is not counted."""
        return int(self.codes.nbytes + sum(array.nbytes for array in self.terms.values()) + self.offsets.nbytes)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def select(self, rows: ArrayLike) -> TokenCodes:
        """Return the items of these rows, in this order, copied.

        Args:
            rows: as in `TokenVectors.select`.

        Raises:
            TypeError: rows are neither integers nor booleans.
            IndexError: a row is out of range, or a mask has another length.
        """
        chosen = chosen_rows(rows, len(self))
        lengths = self.lengths[chosen]
        offsets = offsets_of(lengths)
        tokens = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        terms = {name: array[tokens if name == "token_terms" else chosen] for name, array in self.terms.items()}
        return TokenCodes(self.codes[tokens], terms, offsets, self.dim, self._codebook)

    @property
    def _are_signs(self) -> bool:
        """Whether codes of queries can be compared with them."""
        return self.bits == 1 and self._codebook.rotation is None

    def _rotated(self, queries: TokenVectors) -> TokenVectors:
        """Return float32 queries as the core multiplies them with the codes."""
        if self._codebook.rotation is None:
            return queries
        queries._core_collection()  # refuses numbers that are not finite, by their row
        return TokenVectors._trusted(self._codebook.rotated(np.asarray(queries.vectors, np.float32)), queries.offsets)

    def _core_collection(self) -> _core.Collection:
        """Return what the core takes, made at the first use."""
        if self._core_view is None:
            self._core_view = self._make_core_view(None)
        return self._core_view

    def _make_core_view(self, like: _core.Collection | None) -> _core.Collection:
        book = self._codebook
        if book.bits == 16:
            return _core.Collection.bfloat16(self.codes, self.offsets, self.dim, like)
        if book.bits == 8:
            return _core.Collection.codes8(
                self.codes,
                self.offsets,
                self.dim,
                like,
                center=book.center,
                direction=book.direction,
                stretch=book.stretch,
                scales=self.terms["scales"],
                errors=self.terms["errors"],
                norms=self.terms["norms"],
            )
        return _core.Collection.short_codes(
            self.codes,
            self.offsets,
            self.dim,
            like,
            bits=book.bits,
            center=book.center,
            direction=book.direction,
            levels=book.levels,
            levels_per_rms=book.levels_per_rms,
            dim_scales=book.dim_scales,
            token_terms=self.terms["token_terms"],
        )

    def __repr__(self) -> str:
        return (
            f"TokenCodes({len(self)} items, {self.num_tokens} vectors of {self.dim} dims, {self.bits} bits a dimension)"
        )
