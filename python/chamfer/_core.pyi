"""Typed contract of the compiled module. Arrays must be C-contiguous; nothing is converted."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float32] | NDArray[np.float16]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
UInt8Array = NDArray[np.uint8]
SdcFormula = Literal["bitwise", "integer", "table"]
Layout = Literal["google", "paper"]
DenseOutput = Literal["float32", "float16", "int8", "bits"]
# Rows in the form asked for; the scales of int8 rows, else None; the first row too large for float16, or -1.
ConvertedRows = tuple[NDArray[Any], Float32Array | None, int]

__version__: str
ASSERTIONS: bool

def available_isas() -> list[str]: ...
def check_isa(name: str, argument: str) -> None: ...
def first_row_out_of_range(vectors: FloatArray, num_threads: int) -> int: ...
def run_peak(peak: Literal["fma_f32", "dot_bf16", "dot_i8", "popcount"], rounds: int, *, isa: str) -> int: ...
def read_memory(buffer: UInt8Array, prefetch_bytes: int, *, isa: str) -> int: ...
def maxsim(
    queries: Collection,
    documents: Collection,
    *,
    query_weights: Float32Array | None = None,
    candidates: Int64Array | None = None,
    screen: Collection | None = None,
    num_threads: int,
    isa: str,
) -> Float32Array: ...
def maxsim_topk(
    queries: Collection,
    documents: Collection,
    k: int,
    *,
    query_weights: Float32Array | None = None,
    candidates: Int64Array | None = None,
    screen: Collection | None = None,
    num_threads: int,
    isa: str,
) -> tuple[Float32Array, Int64Array]: ...
def maxsim_alignment(
    query: Collection, document: Collection, *, isa: str
) -> tuple[float, Float32Array, Int64Array]: ...
def encode_bfloat16(items: Collection, *, num_threads: int) -> UInt8Array: ...

# Codes; scales, errors and norms of each item.
def encode_codes8(
    items: Collection, *, center: Float32Array, direction: Float32Array, stretch: float, num_threads: int
) -> tuple[UInt8Array, Float32Array, Float32Array, Float32Array]: ...

# Codes; scale and shift of each vector.
def encode_codes(
    items: Collection,
    *,
    bits: int,
    center: Float32Array,
    direction: Float32Array,
    levels: UInt8Array,
    levels_per_rms: float,
    dim_scales: Float32Array,
    num_threads: int,
) -> tuple[UInt8Array, Float32Array]: ...
def draw_fde_matrices(
    layout: Layout,
    seed: int,
    *,
    dim: int,
    num_repetitions: int,
    num_simhash_projections: int,
    projection_dimension: int,
) -> tuple[Float32Array, Float32Array]: ...
def draw_count_sketch(
    seed: int, num_coordinates: int, final_projection_dimension: int
) -> tuple[Int32Array, Float32Array]: ...
def draw_final_bits(seed: int, num_coordinates: int, final_projection_dimension: int) -> UInt8Array: ...
def project_signs(
    encodings: Float32Array,
    final_bits: UInt8Array,
    final_projection_dimension: int,
    *,
    num_threads: int,
    isa: str,
) -> Float32Array: ...

# out[i, j] = <rows[i], matrix[j]>, float16 numbers converted exactly; the same bits for a row alone and among others.
def project(rows: Float32Array, matrix: FloatArray, *, isa: str, num_threads: int) -> Float32Array: ...
def convert_rows(rows: Float32Array, *, output: DenseOutput, num_threads: int, isa: str) -> ConvertedRows: ...
def hamming_topk(
    query_codes: UInt8Array, codes: UInt8Array, k: int, *, num_threads: int, isa: str
) -> tuple[Int32Array, Int64Array]: ...
def packed_bytes(dim: int, bits: int, formula: SdcFormula, num_codes: int) -> int: ...
def pack_levels(levels: UInt8Array, bits: int, formula: SdcFormula, packed: UInt8Array) -> None: ...
def unpack_levels(packed: UInt8Array, dim: int, bits: int, num_codes: int) -> UInt8Array: ...
def sdc_topk(
    query_levels: UInt8Array,
    packed: UInt8Array,
    num_codes: int,
    k: int,
    *,
    bits: int,
    query_scales: Float32Array | None = None,
    scales: Float32Array | None = None,
    formula: SdcFormula | None = None,
    query_bits: int | None = None,
    num_threads: int,
    isa: str,
) -> tuple[Float32Array, Int64Array]: ...
def sdc_topk_of_lists(
    query_levels: UInt8Array,
    lists: Sequence[tuple[UInt8Array, Float32Array | None, Int64Array]],
    k: int,
    *,
    bits: int,
    query_scale: float = 1.0,
    query_bits: int | None = None,
    isa: str,
) -> tuple[Float32Array, Int64Array]: ...

class Collection:
    def __init__(self, vectors: FloatArray, offsets: Int64Array) -> None: ...
    @staticmethod
    def bfloat16(codes: UInt8Array, offsets: Int64Array, dim: int, like: Collection | None = None) -> Collection: ...
    @staticmethod
    def codes8(
        codes: UInt8Array,
        offsets: Int64Array,
        dim: int,
        like: Collection | None = None,
        *,
        center: Float32Array,
        direction: Float32Array,
        stretch: float,
        scales: Float32Array,
        errors: Float32Array,
        norms: Float32Array,
    ) -> Collection: ...
    @staticmethod
    def short_codes(
        codes: UInt8Array,
        offsets: Int64Array,
        dim: int,
        like: Collection | None = None,
        *,
        bits: int,
        center: Float32Array,
        direction: Float32Array,
        levels: UInt8Array,
        levels_per_rms: float,
        dim_scales: Float32Array,
        token_terms: NDArray[np.float16],
    ) -> Collection: ...

class FdeEncoder:
    def __init__(
        self,
        *,
        layout: Layout,
        simhash: Float32Array,
        projections: Float32Array,
        fill_empty_partitions: bool,
        sketch_columns: Int32Array | None = None,
        sketch_signs: Float32Array | None = None,
        final_projection_dimension: int = 0,
        isa: str,
    ) -> None: ...
    @property
    def output_dimension(self) -> int: ...
    def encode(
        self,
        vectors: FloatArray,
        offsets: Int64Array,
        *,
        mean: Float32Array | None = None,
        documents: bool,
        output: DenseOutput = "float32",
        num_threads: int,
    ) -> ConvertedRows: ...
    def encode_sparse(
        self,
        vectors: FloatArray,
        offsets: Int64Array,
        *,
        mean: Float32Array | None = None,
        documents: bool,
        num_threads: int,
    ) -> tuple[Float32Array, Int32Array, Int64Array]: ...

class FeatureMap:
    def __init__(self, weights: Float32Array, center: Float32Array, *, isa: str) -> None: ...
    # Of each item, the sum over its vectors x of h(weights @ x) - center, h(z) = z * (0.5 + t * (0.75 - t * t / 4)),
    # t = clip(0.4 * z, -1, 1).
    def sum(self, items: Collection, *, num_threads: int) -> Float32Array: ...
