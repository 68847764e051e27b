// The product that MaxSim and FDE share: many rows (token vectors) times a few packed columns (query tokens,
// hyperplanes, a projection), finished in registers by one of three endings.
//
// Columns lie in lanes: column c of every row is computed in the same SIMD lane, so a maximum over rows is one
// instruction per register and nothing is ever reduced across lanes. A row's element is loaded once, broadcast, and
// multiplied into all columns of the tile. Each dot product is one chain of fused multiply-adds over the dimensions in
// order, whatever the tile: avx2, avx512 and neon give the same bits for it, in any batch (but a maximum that is zero
// may have either sign). The scalar kernels round after the multiplication; |error| of a dot product is at most dim ·
// 2^-24 · Σ|x_i y_i| for all of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "aligned.hpp"
#include "isa.hpp"

namespace chamfer {

// Columns in the layout of one instruction set: blocks of registers side by side, each block [dim][its lanes],
// zero-padded lanes.
struct PackedColumns {
    const float* data;
    size_t num_lanes;  // a multiple of the instruction set's lanes, >= the number of columns
    size_t dim;
};

// Memory that will be read soon: while a kernel works on row r it prefetches from address rows + r * row_bytes on,
// element_bytes for every dim. The machine's own prefetcher does not follow a dozen rows read side by side. Nothing
// need be at the addresses.
struct Ahead {
    uintptr_t rows;
    size_t row_bytes;
    size_t element_bytes;
    // Prefetches one line, over and over.
    static Ahead none(const void* line) { return {reinterpret_cast<uintptr_t>(line), 0, 0}; }
};

// Kernels are pure: no allocation, no throw, no globals. `rows` is num_rows rows of `columns.dim` floats, `row_stride`
// floats apart.
struct ProductKernels {
    size_t lanes;  // floats in one register; 4 for scalar

    // Lanes that `num_columns` columns take, and their packing. column c is columns[c * column_stride + i *
    // element_stride].
    size_t (*num_lanes)(size_t num_columns);
    void (*pack)(const float* columns, size_t num_columns, size_t column_stride, size_t element_stride, size_t dim,
                 float* packed);

    // maxima[c] = max(maxima[c], max_r <rows[r], columns[c]>), c < num_lanes. num_rows may be 0.
    void (*fold_max)(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride,
                     const Ahead& ahead, float* maxima);
    // Bit c of bits[r * words_per_row ...] (bit c % 32 of word c / 32) = <rows[r], columns[c]> > 0. Words must be zero
    // on entry.
    void (*sign_bits)(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride,
                      uint32_t* bits, size_t words_per_row);
    // out[r * num_lanes + c] = <rows[r], columns[c]>.
    void (*multiply)(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, float* out);

    // out[i] = scale · Σ_t rows[indexes[t] * row_stride + i], i < width; width and row_stride multiples of 16, pointers
    // to 64 bytes.
    void (*sum_rows)(const float* rows, size_t row_stride, const uint32_t* indexes, size_t num_indexes, size_t width,
                     float scale, float* out);
    // IEEE half precision to float32, exact (a NaN stays a NaN, its payload may change).
    void (*half_to_float)(const uint16_t* half, size_t n, float* out);
};

const ProductKernels& product_kernels(Isa isa);

// Columns with the memory that they live in.
class OwnedColumns {
public:
    OwnedColumns() = default;
    // Packs columns c = 0 .. num_columns: element i at columns[c * column_stride + i * element_stride].
    void assign(const ProductKernels& kernels, const float* columns, size_t num_columns, size_t column_stride,
                size_t element_stride, size_t dim);
    PackedColumns view() const { return {data_.data(), num_lanes_, dim_}; }

private:
    FloatBuffer data_;
    size_t num_lanes_ = 0, dim_ = 0;
};

}  // namespace chamfer
