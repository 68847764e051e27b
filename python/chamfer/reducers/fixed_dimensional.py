"""FixedDimensionalEncoder: MUVERA's data-oblivious encodings, by the paper or by Google's code, with centring."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray

from chamfer import _core
from chamfer._archives import read_archive, write_archive
from chamfer._runtime import check_positive_int, resolve_isa, resolve_num_threads
from chamfer.errors import CorruptIndexError
from chamfer.reducers.encodings import (
    DenseOutput,
    Encodings,
    Int8Encodings,
    Output,
    SparseEncodings,
    check_halves,
    check_output,
    dense_encodings,
    empty_encodings,
)
from chamfer.token_vectors import TokenVectors, TokenVectorsLike, as_token_vectors

# Numbers of an encoding; a document then takes up to 8 GB, far past any use, and every size fits the core's arithmetic.
_MAX_ENCODING_DIMENSION = 2**31

_FORMAT = "chamfer.FixedDimensionalEncoder"
_FORMAT_VERSION = 1

# Bytes of encodings that wait for the paper's final projection.
_FINAL_BATCH_BYTES = 16 * 2**20


class FixedDimensionalEncoder:
    """Turn a set of vectors into one vector, so that the inner product of two approximates their MaxSim.

    The sum over repetitions is not divided: an inner product approximates num_repetitions times MaxSim. Similarities of
    modern encoders all lie close together, and as published the method finds few of the wanted documents then;
    `center=True` removes the documents' mean from documents and the queries' mean from queries first, which shifts a
    query's scores of all documents by (nearly) a constant. On SciFact it took recall of the exact top 10 among 100
    candidates from 0.17 to 0.79.

    Args:
        dim: numbers per vector.
        num_repetitions: independent encodings side by side. More: better recall, longer encodings, slower.
        num_simhash_projections: k hyperplanes cut space into 2^k partitions, 0 to 30. More: finer, longer by powers of
            two.
        projection_dimension: numbers per partition, by a random projection; None keeps all dims.
        final_projection_dimension: if given, project the whole encoding to this many numbers. "google" uses a count
            sketch (one addition per number), "paper" a dense ±1 matrix (output times encoding multiply-adds and as many
            bits).
        fill_empty_partitions: give a document's empty partition the vector whose partition differs in the fewest bits,
            the first of equals. False leaves zeros: a query token there then scores 0.
        layout: "paper", as published: dense ±1/√projection_dimension, partitions in the order of their bit strings;
            projection_dimension equal to dim means no projection. "google", the numbers of google/graph-mining: a
            sparse ±1 projection of one entry per input dimension, partitions in prefix-XOR order, its random streams.
        center: subtract means, which `fit` takes from data; see above. False encodes vectors as they are and needs no
            `fit`.
        seed: of all random matrices, 0 to 2^32 - 1; the same on every platform.

    Raises:
        TypeError: a parameter has a wrong type.
        ValueError: a parameter is out of range.

    Source: MUVERA (arXiv 2405.19504), section 2; google/graph-mining, sketching/point_cloud; centring is chamfer's own.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_repetitions: int = 20,
        num_simhash_projections: int = 5,
        projection_dimension: int | None = 16,
        final_projection_dimension: int | None = None,
        fill_empty_partitions: bool = True,
        layout: Literal["paper", "google"] = "paper",
        center: bool = True,
        seed: int = 42,
    ) -> None:
        self._set_parameters(
            dim,
            num_repetitions=num_repetitions,
            num_simhash_projections=num_simhash_projections,
            projection_dimension=projection_dimension,
            final_projection_dimension=final_projection_dimension,
            fill_empty_partitions=fill_empty_partitions,
            layout=layout,
            center=center,
            seed=seed,
        )
        self._document_mean: NDArray[np.float32] | None = None
        self._query_mean: NDArray[np.float32] | None = None
        self._set_matrices(self._draw_matrices())

    # ── shape ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _projected_dimension(self) -> int:
        """Numbers that each partition is projected to; 0 if it is not."""
        if self.projection_dimension is None or (self.layout == "paper" and self.projection_dimension == self.dim):
            return 0
        return self.projection_dimension

    @property
    def is_fitted(self) -> bool:
        """Whether vectors can be encoded: centring is off, or `fit` has been called."""
        return not self.center or self._document_mean is not None

    @property
    def encoding_dimension(self) -> int:
        """Numbers of an encoding before the final projection."""
        block = self.projection_dimension if self.projection_dimension is not None else self.dim
        return self.num_repetitions * (1 << self.num_simhash_projections) * block

    @property
    def output_dimension(self) -> int:
        """Numbers of an encoding: final_projection_dimension, or encoding_dimension where it is None."""
        return self.final_projection_dimension or self.encoding_dimension

    # ── the four verbs ────────────────────────────────────────────────────────────────────────────────────────────────

    def fit(self, documents: TokenVectorsLike, queries: TokenVectorsLike | None = None) -> FixedDimensionalEncoder:
        """Take the means that `center=True` subtracts.

        Args:
            documents: the collection, or a sample of it.
            queries: sample queries; without them the documents' mean serves both sides, which recalls less.

        Returns:
            The encoder itself.

        Raises:
            TypeError, ValueError: not token vectors of this dim, or no vector to take a mean of.
        """
        document_mean = self._mean(documents, "documents")
        query_mean = document_mean if queries is None else self._mean(queries, "queries")
        self._document_mean, self._query_mean = document_mean, query_mean
        return self

    @overload
    def encode_documents(
        self,
        documents: TokenVectorsLike,
        *,
        output: Literal["float32"] = ...,
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> NDArray[np.float32]: ...

    @overload
    def encode_documents(
        self,
        documents: TokenVectorsLike,
        *,
        output: Literal["float16"],
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> NDArray[np.float16]: ...

    @overload
    def encode_documents(
        self,
        documents: TokenVectorsLike,
        *,
        output: Literal["int8"],
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> Int8Encodings: ...

    @overload
    def encode_documents(
        self,
        documents: TokenVectorsLike,
        *,
        output: Literal["bits"],
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> NDArray[np.uint8]: ...

    @overload
    def encode_documents(
        self,
        documents: TokenVectorsLike,
        *,
        output: Literal["sparse"],
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> SparseEncodings: ...

    def encode_documents(
        self,
        documents: TokenVectorsLike,
        *,
        output: Output = "float32",
        num_threads: int | None = None,
        isa: str | None = None,
    ) -> Encodings:
        """Encode documents: the mean of the vectors of each partition.

        Args:
            documents: a collection of documents of this dim, float32 or float16.
            output: the form of the encodings, "float32" if not given. No form but that takes the memory of float32
                encodings on the way. "float16": to the nearest. "int8": codes with one scale per document. "bits": what
                is above 0, to search by Hamming distance. "sparse": without empty partitions; it needs an encoder with
                fill_empty_partitions=False (else no partition is empty) and without final projection.
            num_threads: threads to use; None means the CPUs of this process. The numbers do not depend on it.
            isa: instruction set, one of `available_isas()`; None means `best_isa()`. A vector within rounding of a
                hyperplane may fall into another partition on another instruction set.

        Returns:
            "float32" and "float16": that dtype, shape (num_documents, output_dimension). "int8": `Int8Encodings`.
            "bits": uint8, shape (num_documents, ceil(output_dimension / 8)), bit i % 8 of byte i // 8 for number i.
            "sparse": `SparseEncodings`. An empty document is all zeros.

        Raises:
            TypeError: documents have a wrong type or dtype.
            ValueError: another dim than the encoder's, center=True and `fit` was not called, an output that is unknown
                or that this encoder cannot give, or output="float16" and an encoding with a magnitude of 65520 or more.
        """
        return self._encode(documents, "documents", output, num_threads, isa)

    @overload
    def encode_queries(
        self,
        queries: TokenVectorsLike,
        *,
        output: Literal["float32"] = ...,
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> NDArray[np.float32]: ...

    @overload
    def encode_queries(
        self,
        queries: TokenVectorsLike,
        *,
        output: Literal["float16"],
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> NDArray[np.float16]: ...

    @overload
    def encode_queries(
        self,
        queries: TokenVectorsLike,
        *,
        output: Literal["int8"],
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> Int8Encodings: ...

    @overload
    def encode_queries(
        self,
        queries: TokenVectorsLike,
        *,
        output: Literal["bits"],
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> NDArray[np.uint8]: ...

    @overload
    def encode_queries(
        self,
        queries: TokenVectorsLike,
        *,
        output: Literal["sparse"],
        num_threads: int | None = ...,
        isa: str | None = ...,
    ) -> SparseEncodings: ...

    def encode_queries(
        self,
        queries: TokenVectorsLike,
        *,
        output: Output = "float32",
        num_threads: int | None = None,
        isa: str | None = None,
    ) -> Encodings:
        """Encode queries: the sum of the vectors of each partition; empty partitions stay zero.

        Args:
            queries: a collection of queries of this dim, float32 or float16; one 2-D array is one query.
            output: as in `encode_documents`; "sparse" needs an encoder without final projection only, and takes at
                most num_query_tokens * num_repetitions blocks of projection_dimension numbers (MUVERA, section 2).
            num_threads: as in `encode_documents`.
            isa: as in `encode_documents`.

        Returns:
            As `encode_documents`, for queries. An empty query is all zeros.

        Raises:
            TypeError: queries have a wrong type or dtype.
            ValueError: as in `encode_documents`.
        """
        return self._encode(queries, "queries", output, num_threads, isa)

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, means, matrices, seed and format version to one file, atomically.

        Args:
            path: the file, an .npz of any name; replaced if it exists.
        """
        arrays: dict[str, NDArray[Any]] = dict(self._matrices)
        if self._document_mean is not None and self._query_mean is not None:
            arrays |= {"document_mean": self._document_mean, "query_mean": self._query_mean}
        write_archive(Path(path), _FORMAT, _FORMAT_VERSION, self._parameters, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FixedDimensionalEncoder:
        """Read an encoder that `save` wrote; it gives the same numbers, from the stored matrices.

        Args:
            path: the file given to `save`.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptIndexError: the file is damaged (parameters and arrays carry a checksum) or not an encoder.
            ValueError: a newer chamfer wrote it.
        """
        parameters, arrays = read_archive(Path(path), _FORMAT, _FORMAT_VERSION)
        self = cls.__new__(cls)
        try:
            self._set_parameters(**parameters)
            self._document_mean = arrays.pop("document_mean", None)
            self._query_mean = arrays.pop("query_mean", None)
            held = {name: (array.dtype.type, array.shape) for name, array in arrays.items()}
            if held != self._expected_arrays():
                raise ValueError(f"expected arrays {self._expected_arrays()}, got {held}")
            means = [mean for mean in (self._document_mean, self._query_mean) if mean is not None]
            if len(means) == 1 or any(mean.shape != (self.dim,) or mean.dtype != np.float32 for mean in means):
                raise ValueError("its means do not fit")
            self._set_matrices(arrays)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptIndexError(f"{path}: its contents do not fit together ({error})") from None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_encoders"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_matrices(self._matrices)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _set_parameters(
        self,
        dim: int,
        *,
        num_repetitions: int,
        num_simhash_projections: int,
        projection_dimension: int | None,
        final_projection_dimension: int | None,
        fill_empty_partitions: bool,
        layout: Literal["paper", "google"],
        center: bool,
        seed: int,
    ) -> None:
        self.dim = check_positive_int(dim, "dim")
        self.num_repetitions = check_positive_int(num_repetitions, "num_repetitions")
        self.num_simhash_projections = _check_range(num_simhash_projections, "num_simhash_projections", 30)
        self.projection_dimension = (
            None if projection_dimension is None else check_positive_int(projection_dimension, "projection_dimension")
        )
        self.final_projection_dimension = (
            None
            if final_projection_dimension is None
            else check_positive_int(final_projection_dimension, "final_projection_dimension")
        )
        self.fill_empty_partitions = bool(fill_empty_partitions)
        if layout not in ("paper", "google"):
            raise ValueError(f"layout: expected 'paper' or 'google', got {layout!r}")
        self.layout: Literal["paper", "google"] = layout
        self.center = bool(center)
        self.seed = _check_range(seed, "seed", 2**32 - 1)
        if self.encoding_dimension > _MAX_ENCODING_DIMENSION:
            raise ValueError(
                "num_repetitions * 2^num_simhash_projections * projection_dimension: "
                f"expected at most {_MAX_ENCODING_DIMENSION} numbers, got {self.encoding_dimension}"
            )
        if (self.final_projection_dimension or 1) > _MAX_ENCODING_DIMENSION - 1:
            raise ValueError(f"final_projection_dimension: expected below {_MAX_ENCODING_DIMENSION}")

    @property
    def _parameters(self) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "num_repetitions": self.num_repetitions,
            "num_simhash_projections": self.num_simhash_projections,
            "projection_dimension": self.projection_dimension,
            "final_projection_dimension": self.final_projection_dimension,
            "fill_empty_partitions": self.fill_empty_partitions,
            "layout": self.layout,
            "center": self.center,
            "seed": self.seed,
        }

    def _expected_arrays(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        """Return dtype and shape of every array that a saved encoder of these parameters holds."""
        projections = (self.num_repetitions, self._projected_dimension, self.dim)
        expected: dict[str, tuple[type, tuple[int, ...]]] = {
            "simhash": (np.float32, (self.num_repetitions, self.num_simhash_projections, self.dim)),
            "projections": (np.float32, projections),
        }
        if self.final_projection_dimension is not None and self.layout == "google":
            expected["sketch_columns"] = (np.int32, (self.encoding_dimension,))
            expected["sketch_signs"] = (np.float32, (self.encoding_dimension,))
        elif self.final_projection_dimension is not None:
            expected["final_bits"] = (np.uint8, (self.encoding_dimension, -(-self.final_projection_dimension // 8)))
        return expected

    def _draw_matrices(self) -> dict[str, NDArray[Any]]:
        simhash, projections = _core.draw_fde_matrices(
            self.layout,
            self.seed,
            dim=self.dim,
            num_repetitions=self.num_repetitions,
            num_simhash_projections=self.num_simhash_projections,
            projection_dimension=self._projected_dimension,
        )
        matrices: dict[str, NDArray[Any]] = {"simhash": simhash, "projections": projections}
        final = self.final_projection_dimension
        if final is not None and self.layout == "google":
            columns, signs = _core.draw_count_sketch(self.seed, self.encoding_dimension, final)
            matrices |= {"sketch_columns": columns, "sketch_signs": signs}
        elif final is not None:
            matrices["final_bits"] = _core.draw_final_bits(self.seed, self.encoding_dimension, final)
        return matrices

    def _set_matrices(self, matrices: dict[str, NDArray[Any]]) -> None:
        self._matrices = matrices
        self._encoders: dict[str, _core.FdeEncoder] = {}
        self._core_encoder(resolve_isa(None))  # now, so that threads find it made

    def _core_encoder(self, isa: str) -> _core.FdeEncoder:
        """Return the compiled encoder of one instruction set, its matrices packed once."""
        if isa not in self._encoders:
            sketched = "sketch_columns" in self._matrices
            self._encoders[isa] = _core.FdeEncoder(
                layout=self.layout,
                simhash=self._matrices["simhash"],
                projections=self._matrices["projections"],
                fill_empty_partitions=self.fill_empty_partitions,
                sketch_columns=self._matrices["sketch_columns"] if sketched else None,
                sketch_signs=self._matrices["sketch_signs"] if sketched else None,
                final_projection_dimension=cast(int, self.final_projection_dimension) if sketched else 0,
                isa=isa,
            )
        return self._encoders[isa]

    def _mean(self, vectors: TokenVectorsLike, argument: str) -> NDArray[np.float32]:
        collection = self._check(vectors, argument)
        if collection.num_tokens == 0:
            raise ValueError(f"{argument}: expected at least one vector to take the mean of, got none")
        mean: NDArray[np.float32] = collection.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def _check(self, vectors: TokenVectorsLike, argument: str) -> TokenVectors:
        collection = as_token_vectors(vectors, argument)
        if collection.dim != self.dim:
            raise ValueError(f"{argument}: expected dim {self.dim} (the encoder's), got {collection.dim}")
        return collection

    def _encode(
        self,
        vectors: TokenVectorsLike,
        side: Literal["documents", "queries"],
        output: Output,
        num_threads: int | None,
        isa: str | None,
    ) -> Encodings:
        collection = self._check(vectors, side)
        check_output(output)
        mean = None
        if self.center:
            mean = self._document_mean if side == "documents" else self._query_mean
            if mean is None:
                raise ValueError(
                    "center=True needs the means of your data: call fit(documents) or fit(documents, queries) first, "
                    "or make the encoder with center=False"
                )
        isa = resolve_isa(isa)
        encoder, threads = self._core_encoder(isa), resolve_num_threads(num_threads)
        arguments: dict[str, Any] = {"mean": mean, "documents": side == "documents", "num_threads": threads}
        if output == "sparse":
            self._check_sparse(side)
            return SparseEncodings(*encoder.encode_sparse(collection.vectors, collection.offsets, **arguments))
        if "final_bits" not in self._matrices:
            rows, scales, first_too_large = encoder.encode(
                collection.vectors, collection.offsets, output=output, **arguments
            )
            check_halves(first_too_large, side)
            return dense_encodings(rows, scales)

        return self._encode_finally(collection, side, output, encoder, arguments, isa)

    def _encode_finally(
        self,
        collection: TokenVectors,
        side: Literal["documents", "queries"],
        output: DenseOutput,
        encoder: _core.FdeEncoder,
        arguments: dict[str, Any],
        isa: str,
    ) -> Encodings:
        """Encode in batches, each projected by the paper's dense matrix and converted before the next."""
        batch = max(1, _FINAL_BATCH_BYTES // (4 * max(self.encoding_dimension, self.output_dimension)))
        threads, bits = arguments["num_threads"], self._matrices["final_bits"]
        rows, scales = empty_encodings(len(collection), self.output_dimension, output)
        for begin in range(0, len(collection), batch):
            end = min(begin + batch, len(collection))
            items = collection._run(begin, end)
            encodings, _, _ = encoder.encode(items.vectors, items.offsets, **arguments)
            projected = _core.project_signs(encodings, bits, self.output_dimension, num_threads=threads, isa=isa)
            converted = _core.convert_rows(projected, output=output, num_threads=threads, isa=isa)
            rows[begin:end], part, first_too_large = converted
            if part is not None:
                scales[begin:end] = part
            check_halves(first_too_large + begin if first_too_large >= 0 else -1, side)
        return dense_encodings(rows, scales if output == "int8" else None)

    def _check_sparse(self, side: Literal["documents", "queries"]) -> None:
        if self.final_projection_dimension is not None:
            raise ValueError(
                "output='sparse': a final projection leaves no zeros; make the encoder with "
                "final_projection_dimension=None, or take another output"
            )
        if side == "documents" and self.fill_empty_partitions:
            raise ValueError(
                "output='sparse': documents have no empty partitions with fill_empty_partitions=True; take another "
                "output, or make the encoder with fill_empty_partitions=False"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the random matrices and means."""
        means = (self._document_mean, self._query_mean)
        return sum(array.nbytes for array in (*self._matrices.values(), *means) if array is not None)

    def __repr__(self) -> str:
        dim, *rest = self._parameters.items()
        return f"FixedDimensionalEncoder({', '.join([repr(dim[1]), *(f'{name}={value!r}' for name, value in rest)])})"


def _check_range(value: int, argument: str, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument}: expected an int, got {type(value).__name__}")
    if not 0 <= value <= highest:
        raise ValueError(f"{argument}: expected 0 to {highest}, got {value}")
    return int(value)
