"""Codec: fitted to a collection, it turns token vectors into codes that are scored without decoding."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer import _core
from chamfer._archives import read_archive, write_archive
from chamfer._runtime import check_positive_int, resolve_num_threads
from chamfer.codecs.code_files import (
    codebook_of_parts,
    codebook_parts,
    codes_of_parts,
    codes_parts,
    same_codebook,
)
from chamfer.codecs.codebooks import blocks, fitted_rotation, mean_of, plain_codebook, query_codebook, spreads_of
from chamfer.codecs.token_codes import Codebook, TokenCodes
from chamfer.errors import CorruptIndexError
from chamfer.token_vectors import TokenVectors, TokenVectorsLike, as_token_vectors

_ROTATED = {"recurrent:4": 4, "recurrent:2": 2, "recurrent:1": 1}
_BITS = {"float16": 16, "bfloat16": 16, "int8": 8, "scalar:4": 4, "scalar:2": 2, "binary": 1, **_ROTATED}
_FITTED = ("int8", "scalar:4", "scalar:2", "binary", *_ROTATED)

# How much finer 8-bit codes are along the common direction. With 3, the tokens that a screen cannot rule out are fewest
# on SciFact (2 and 5 leave a tenth more), and the exact top 10 is kept best.
_STRETCH = 3.0

_FORMAT = "chamfer.Codec"
_FORMAT_VERSION = 1

_MAX_FIT_TOKENS = 2**18
_MAX_ROTATED_DIM = 1024


def codec(name: str, dim: int) -> Codec:
    """Return a codec of this name for vectors of `dim` numbers; see `Codec`.

    Args:
        name: "float16", "bfloat16", "int8", "scalar:4", "scalar:2", "binary", "recurrent:4", "recurrent:2" or
            "recurrent:1".
        dim: numbers per vector, at most 65,536; of "recurrent" at most 1,024.

    Raises:
        TypeError: dim is not an integer.
        ValueError: an unknown name, or dim out of range.
    """
    return Codec(name, dim)


class Codec:
    """Turns token vectors into codes: fit, encode, and `maxsim(queries, codes)`; decode shows what is left.

    The vectors of modern encoders share a large common part, and queries lie along it even more. So codes hold
    what is left after the collection's mean is taken off, and treat the direction of the mean apart:

    | name       | bytes a vector | what is stored                                                                |
    |------------|----------------|-------------------------------------------------------------------------------|
    | "float16"  | 2 dim          | half precision: encode gives TokenVectors                                     |
    | "bfloat16" | 2 dim          | 8 bits of mantissa; queries are rounded to bfloat16 too                       |
    | "int8"     | dim            | 8 bits, one scale per document, three times finer along the common direction  |
    | "scalar:4" | dim / 2 + 4    | 4 bits, 16 levels for a normal distribution, and two float16 per vector:      |
    | "scalar:2" | dim / 4 + 4    | its scale, and how much of the common direction is in it                      |
    | "binary"   | dim / 8 + 4    | signs, and the same two numbers                                               |

    "recurrent:4", "recurrent:2" and "recurrent:1" take the same bytes as the last three, and find more with one and two
    bits: vectors are rotated first, as is best for their levels (iterative quantization of up to 16,384 vectors, a
    second), which are equally spaced: code c stands for 2c - M, M = 2^bits - 1, as in `RecurrentCodes`. Queries are
    rotated with them. Of SciFact's exact top 10 (1.2 million vectors of 96 numbers), codes alone find within 10 and 50:

    | bits | bytes a vector | rotated, R10@10 | R10@50 | not rotated, R10@10 | R10@50 |
    |------|----------------|-----------------|--------|---------------------|--------|
    | 1    | 16             | 0.785           | 0.996  | 0.739               | 0.981  |
    | 2    | 28             | 0.886           | 1.000  | 0.852               | 0.998  |
    | 4    | 52             | 0.941           | 1.000  | 0.941               | 1.000  |

    Rows are padded to a multiple of four bytes. Queries stay vectors: they are taken in 8 bits with one scale per query
    token. "binary" also codes queries (`encode_queries`); then a score is Σ_q max_d (dim - 2 · bits that differ).

    The two numbers per vector follow RaBitQ (arXiv 2405.12497): codes times scale have the right inner product with the
    vector itself.

    Args:
        name: one of the above.
        dim: numbers per vector, at most 65,536; of "recurrent" at most 1,024.

    Raises:
        TypeError: dim is not an integer.
        ValueError: an unknown name, or dim out of range.
    """

    def __init__(self, name: str, dim: int) -> None:
        if not isinstance(name, str) or name not in _BITS:
            raise ValueError(f"name: expected one of {', '.join(map(repr, _BITS))}, got {name!r}")
        self.name = name
        self.dim = check_positive_int(dim, "dim")
        if self.dim > 65_536:
            raise ValueError(f"dim: expected at most 65536, got {dim}")
        if name in _ROTATED and self.dim > _MAX_ROTATED_DIM:
            raise ValueError(f"dim: expected at most {_MAX_ROTATED_DIM} for {name!r}, which rotates vectors, got {dim}")
        self._codebook = None if name in _FITTED else plain_codebook(_BITS[name], self.dim)
        self._query_codebook: Codebook | None = None

    @classmethod
    def _int8(cls, center: NDArray[np.float32], direction: NDArray[np.float32]) -> Codec:
        """Return a fitted codec of 8 bits."""
        self = cls("int8", len(center))
        self._codebook = replace(plain_codebook(8, len(center), center), direction=direction, stretch=_STRETCH)
        return self

    def fit(self, documents: TokenVectorsLike, queries: TokenVectorsLike | None = None) -> Codec:
        """Take mean, common direction and spread from a collection; "float16" and "bfloat16" need no fit.

        Args:
            documents: the collection, or a sample of it; of more than 262,144 vectors, so many at most are
                read, drawn evenly.
            queries: sample queries; their mean centres `encode_queries` of "binary", otherwise the documents' does.

        Returns:
            The codec itself.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: dims differ, or there is no vector to fit to.
        """
        sample = self._sample(documents, "documents")
        query_sample = None if queries is None else self._sample(queries, "queries")
        if self.name not in _FITTED:
            return self
        center, rotation = mean_of(sample), None
        if self.name in _ROTATED:
            rotation = fitted_rotation(sample, center, _BITS[self.name])
            plain = plain_codebook(_BITS[self.name], self.dim, center, rotation)
            sample = plain.rotated(sample.astype(np.float32, copy=False))
            center = mean_of(sample)
        length = float(np.linalg.norm(center.astype(np.float64)))
        direction = center.astype(np.float64) / length if length > 0 else np.zeros(self.dim)
        along, spread = spreads_of(sample, center, direction)
        bits = _BITS[self.name]
        codebook = plain_codebook(bits, self.dim, center, rotation)
        if bits == 8:
            codebook = replace(codebook, direction=direction.astype(np.float32), stretch=_STRETCH)
        else:
            # A shift counts in units of this vector: it must fit into float16 whatever the magnitude of the vectors,
            # and for vectors that hardly vary along it.
            along = max(along, 1e-3 * length)
            codebook = replace(
                codebook,
                direction=(direction * (along if along > 0 else 1.0)).astype(np.float32),
                dim_scales=spread.astype(np.float32),
            )
        if self.name == "binary":
            self._query_codebook = query_codebook(sample if query_sample is None else query_sample)
        self._codebook = codebook
        return self

    def encode(self, documents: TokenVectorsLike, *, num_threads: int | None = None) -> TokenCodes | TokenVectors:
        """Return the codes of a collection.

        Args:
            documents: a collection of documents of this dim, float32 or float16.
            num_threads: threads to use; None means the CPUs of this process.

        Returns:
            TokenCodes; of "float16", TokenVectors.

        Raises:
            TypeError: documents have a wrong type or dtype.
            ValueError: dims differ, the codec is not fitted, or a number is out of the range of the codec.
        """
        items = self._items(documents, "documents")
        threads = resolve_num_threads(num_threads)
        if self.name == "float16":
            with np.errstate(over="ignore"):
                halves = items.vectors.astype(np.float16)
            if not np.isfinite(halves).all():
                raise ValueError(
                    "documents: expected numbers below 65520, the range of float16; use codec('bfloat16', …)"
                )
            return TokenVectors._trusted(halves, items.offsets)
        book = self._fitted_codebook()
        core_items = items._core_collection()
        if book.bits == 16:
            return TokenCodes(
                _core.encode_bfloat16(core_items, num_threads=threads), {}, items.offsets, self.dim, book, core_items
            )
        if book.bits == 8:
            codes, scales, errors, norms = _core.encode_codes8(
                core_items, center=book.center, direction=book.direction, stretch=book.stretch, num_threads=threads
            )
            terms = {"scales": scales, "errors": errors, "norms": norms}
            return TokenCodes(codes, terms, items.offsets, self.dim, book, core_items)
        return _short_codes(items, book, threads, "documents")

    def encode_queries(self, queries: TokenVectorsLike, *, num_threads: int | None = None) -> TokenCodes:
        """Return the signs of queries, for "binary" documents: scores are then integers, and fastest.

        Args:
            queries: a collection of queries of this dim, float32 or float16.
            num_threads: as in `encode`.

        Raises:
            TypeError: queries have a wrong type or dtype.
            ValueError: dims differ, or the codec is another or not fitted.
        """
        if self.name != "binary":
            raise ValueError(f"encode_queries: only 'binary' codes queries; pass vectors to maxsim for {self.name!r}")
        items = self._items(queries, "queries")
        self._fitted_codebook()
        assert self._query_codebook is not None
        return _short_codes(items, self._query_codebook, resolve_num_threads(num_threads), "queries")

    def decode(self, codes: TokenCodes | TokenVectors) -> TokenVectors:
        """Return the vectors that codes stand for, float32.

        Args:
            codes: what `encode` returned.

        Raises:
            TypeError: codes are no codes.
            ValueError: codes are of another dim or number of bits.
        """
        if isinstance(codes, TokenVectors):
            return TokenVectors._trusted(codes.vectors.astype(np.float32), codes.offsets)
        if not isinstance(codes, TokenCodes):
            raise TypeError(f"codes: expected TokenCodes, got {type(codes).__name__}")
        if codes.dim != self.dim or codes.bits != _BITS[self.name]:
            raise ValueError(
                f"codes: expected {_BITS[self.name]} bits a dimension and dim {self.dim} as the codec, got {codes!r}"
            )
        vectors = np.empty((codes.num_tokens, codes.dim), np.float32)
        for block in blocks(codes.num_tokens):
            vectors[block] = _decode_block(codes, block)
        return TokenVectors._trusted(vectors, codes.offsets)

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, path: str | os.PathLike[str], codes: TokenCodes | TokenVectors | None = None) -> None:
        """Write the codec, fitted or not, to one file, atomically; codes of its own may go with it.

        Args:
            path: the file, an .npz of any name; replaced if it exists.
            codes: what `encode` of this codec returned, to be read by `load_codes`. None writes the codec only.

        Raises:
            TypeError: codes are no codes.
            ValueError: codes are of another codec, or of another fit.
            OSError: the disk is full or not writable; a file that was there is still there.
        """
        parameters: dict[str, Any] = {"name": self.name, "dim": self.dim, "holds_codes": codes is not None}
        arrays: dict[str, NDArray[Any]] = {}
        for part, book in (("codebook", self._codebook), ("query_codebook", self._query_codebook)):
            parameters[part] = None
            if book is not None:
                parameters[part], of_book = codebook_parts(book, f"{part}_")
                arrays |= of_book
        if codes is not None:
            self._check_own(codes)
            arrays |= codes_parts(codes)
        write_archive(Path(path), _FORMAT, _FORMAT_VERSION, parameters, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codec:
        """Read a codec that `save` wrote; it gives the same codes. Codes in the file are left aside.

        Args:
            path: the file given to `save`.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptIndexError: the file is damaged (parameters and arrays carry a checksum) or not a codec.
            ValueError: a newer chamfer wrote it.
        """
        return cls._read(Path(path))[0]

    @classmethod
    def _read(cls, path: Path) -> tuple[Codec, TokenCodes | TokenVectors | None]:
        parameters, arrays = read_archive(path, _FORMAT, _FORMAT_VERSION)
        codes = None
        try:
            self = cls(parameters["name"], parameters["dim"])
            books: dict[str, Codebook | None] = {"codebook": None, "query_codebook": None}
            for part in books:
                if parameters[part] is not None:
                    books[part] = codebook_of_parts(
                        parameters[part],
                        arrays,
                        f"{part}_",
                        _BITS[self.name],
                        self.dim,
                        rotates=self.name in _ROTATED,
                    )
            book = books["codebook"]
            fits = book is not None or self.name in _FITTED
            if not fits or (books["query_codebook"] is not None) != (self.name == "binary" and book is not None):
                raise ValueError("its codebooks do not fit")
            self._codebook, self._query_codebook = book, books["query_codebook"]
            if parameters["holds_codes"]:
                codes = codes_of_parts(arrays, self._fitted_codebook(), self.dim, halves=self.name == "float16")
            if arrays:
                raise ValueError(f"arrays that nothing needs: {', '.join(arrays)}")
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptIndexError(f"{path}: its contents do not fit together ({error})") from None
        return self, codes

    def _codes_of(self, arrays: dict[str, NDArray[Any]], offsets: NDArray[np.int64]) -> TokenCodes | TokenVectors:
        """Return the codes that these arrays are, "codes" or "vectors" and their terms by name, checked.

        Raises:
            ValueError, KeyError, TypeError: they do not fit this codec.
        """
        arrays = arrays | {"offsets": offsets}
        codes = codes_of_parts(arrays, self._fitted_codebook(), self.dim, halves=self.name == "float16")
        if arrays:
            raise ValueError(f"arrays that nothing needs: {', '.join(arrays)}")
        return codes

    def _check_own(self, codes: TokenCodes | TokenVectors) -> None:
        if not isinstance(codes, (TokenCodes, TokenVectors)):
            raise TypeError(f"codes: expected what encode returned, got {type(codes).__name__}")
        book = self._fitted_codebook()
        if isinstance(codes, TokenVectors):
            own = self.name == "float16" and codes.dtype == np.float16 and codes.dim == self.dim
        else:
            own = self.name != "float16" and codes.dim == self.dim and same_codebook(codes._codebook, book)
        if not own:
            raise ValueError(f"codes: expected codes that this codec made, {self!r}, got {codes!r}")

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def __repr__(self) -> str:
        return f"Codec({self.name!r}, {self.dim}{'' if self._codebook is not None else ', not fitted'})"

    def _items(self, value: TokenVectorsLike, argument: str) -> TokenVectors:
        items = as_token_vectors(value, argument)
        if items.dim != self.dim:
            raise ValueError(f"{argument}: expected dim {self.dim} as the codec, got {items.dim}")
        return items

    def _sample(self, value: TokenVectorsLike, argument: str) -> NDArray[np.float32] | NDArray[np.float16]:
        items = self._items(value, argument)
        if items.num_tokens == 0:
            raise ValueError(f"{argument}: expected at least one vector to fit to, got none")
        step = -(-items.num_tokens // _MAX_FIT_TOKENS)
        if step == 1:
            return items.vectors
        # One of every `step`, drawn: documents of one length would show the same places of theirs to a fixed stride.
        begins = np.arange(0, items.num_tokens, step)
        drawn = np.random.default_rng(0).integers(0, step, len(begins))
        rows = np.minimum(begins + drawn, items.num_tokens - 1)
        return items.vectors[rows]  # type: ignore[no-any-return]  # NumPy's types lose the dtype

    def _fitted_codebook(self) -> Codebook:
        if self._codebook is None:
            raise ValueError(f"codec {self.name!r} is not fitted: call fit(documents) first")
        return self._codebook


def load_codes(path: str | os.PathLike[str]) -> tuple[Codec, TokenCodes | TokenVectors]:
    """Read a codec and its codes, as `Codec.save(path, codes)` wrote them.

    Args:
        path: the file given to `save`.

    Returns:
        The codec, and its codes: TokenCodes; of "float16", TokenVectors.

    Raises:
        FileNotFoundError, CorruptIndexError: as `Codec.load`.
        ValueError: a newer chamfer wrote it, or the file holds a codec only.
    """
    read, codes = Codec._read(Path(path))
    if codes is None:
        raise ValueError(f"{path}: expected codes beside the codec, got none; write them by codec.save(path, codes)")
    return read, codes


def _short_codes(items: TokenVectors, book: Codebook, num_threads: int, argument: str) -> TokenCodes:
    core_items = items._core_collection()

    def coded(vectors: _core.Collection) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        return _core.encode_codes(
            vectors,
            bits=book.bits,
            center=book.center,
            direction=book.direction,
            levels=book.levels,
            levels_per_rms=book.levels_per_rms,
            dim_scales=book.dim_scales,
            num_threads=num_threads,
        )

    if book.rotation is None or items.num_tokens == 0:
        codes, numbers = coded(core_items)
    else:  # by blocks, so that no rotated copy of the collection is held
        parts = []
        for block in blocks(items.num_tokens):
            vectors = book.rotated(items.vectors[block].astype(np.float32, copy=False), num_threads)
            parts.append(coded(_core.Collection(vectors, np.array([0, len(vectors)], np.int64))))
        codes, numbers = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    with np.errstate(over="ignore"):
        token_terms = numbers.astype(np.float16)
    if not np.isfinite(token_terms).all():
        row = int(np.flatnonzero(~np.isfinite(token_terms).all(axis=1))[0])
        raise ValueError(
            f"{argument}: the vector in row {row} is far longer than those that the codec was fitted "
            "to; fit it to vectors of this kind"
        )
    return TokenCodes(codes, {"token_terms": token_terms}, items.offsets, items.dim, book, core_items)


def _decode_block(codes: TokenCodes, block: slice) -> NDArray[np.float64] | NDArray[np.float32]:
    book, dim = codes._codebook, codes.dim
    rows = codes.codes[block]
    if book.bits == 16:
        bits = rows.view(np.uint16)[:, :dim].astype(np.uint32) << 16
        return bits.view(np.float32)
    center, direction = book.center.astype(np.float64), book.direction.astype(np.float64)
    square = float(direction @ direction) or 1.0
    if book.bits == 8:
        item = np.searchsorted(codes.offsets, np.arange(block.start, block.stop), side="right") - 1
        stretched = (rows[:, :dim].astype(np.float64) - 128) * codes.terms["scales"].astype(np.float64)[item, None]
        along = stretched @ direction / square
        return np.asarray(center + stretched - (1 - 1 / book.stretch) * along[:, None] * direction)
    per_byte = 8 // book.bits
    shifts = np.arange(per_byte) * book.bits
    unpacked = (rows[:, :, None] >> shifts & (2**book.bits - 1)).reshape(len(rows), -1)[:, :dim]
    scale, shift = codes.terms["token_terms"][block].astype(np.float64).T
    across = scale[:, None] * book.dim_scales * (book.levels[unpacked].astype(np.float64) - 128)
    across -= (across @ direction / square)[:, None] * direction
    found = center + shift[:, None] * direction + across
    return np.asarray(found if book.rotation is None else found @ book.rotation)
