"""Typed contract of the compiled module. Arrays must be C-contiguous; nothing is converted."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float32] | NDArray[np.float16]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Layout = Literal["google", "paper"]

__version__: str
ASSERTIONS: bool

def available_isas() -> list[str]: ...
def check_isa(name: str, argument: str) -> None: ...
def first_row_out_of_range(vectors: FloatArray, num_threads: int) -> int: ...
def maxsim(
    query_vectors: Float32Array,
    query_offsets: Int64Array,
    vectors: FloatArray,
    offsets: Int64Array,
    *,
    query_weights: Float32Array | None = None,
    candidates: Int64Array | None = None,
    num_threads: int,
    isa: str,
) -> Float32Array: ...
def maxsim_topk(
    query_vectors: Float32Array,
    query_offsets: Int64Array,
    vectors: FloatArray,
    offsets: Int64Array,
    k: int,
    *,
    query_weights: Float32Array | None = None,
    candidates: Int64Array | None = None,
    num_threads: int,
    isa: str,
) -> tuple[Float32Array, Int64Array]: ...
def maxsim_alignment(
    query: Float32Array, document: FloatArray, *, isa: str
) -> tuple[float, Float32Array, Int64Array]: ...
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
def draw_final_bits(seed: int, num_coordinates: int, final_projection_dimension: int) -> NDArray[np.uint8]: ...
def project_signs(
    encodings: Float32Array,
    final_bits: NDArray[np.uint8],
    final_projection_dimension: int,
    *,
    num_threads: int,
    isa: str,
) -> Float32Array: ...

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
        num_threads: int,
    ) -> Float32Array: ...
