// The product that MaxSim and FDE share: many rows (token vectors, or their codes) times a few packed columns (query
// tokens, hyperplanes, a projection), finished in registers by one of a few endings.
//
// Columns lie in lanes: column c of every row is computed in the same SIMD lane, so a maximum over rows is one
// instruction per register and nothing is ever reduced across lanes. A row is a sequence of 32-bit words; a word is
// loaded once, broadcast, and multiplied into all columns of the tile. What a word holds, and what multiplying is,
// makes the kinds of product:
//
//   float32   one number. Each product is one chain of fused multiply-adds over the dimensions in order, whatever the
//             tile: avx2, avx512 and neon give the same bits for it, in any batch (but a maximum that is zero may have
//             either sign). The scalar kernels round after the multiplication; |error| of a product is at most dim ·
//             2^-24 · Σ|x_i y_i| for all of them, but for subnormal products.
//   bfloat16  two numbers, VDPBF16PS; avx512_bf16 only. The same bound holds but for subnormal numbers, which count as
//             zero.
//   int8      four unsigned bytes of the row times four signed bytes of the column, summed in int32 (VNNI, SDOT). avx2
//             and neon lack the instruction that does not saturate: there a word holds two int16.
//   bits      32 bits; the product is the number of bits that differ, and less is better.
//
// The last two are exact: every instruction set gives the same integers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "aligned.hpp"
#include "isa.hpp"

namespace chamfer {

// Columns in the layout of one instruction set: blocks of registers side by side, each block [num_words][its lanes],
// zero-padded lanes.
struct PackedColumns {
    const uint32_t* data;
    size_t num_lanes;  // a multiple of the instruction set's lanes, >= the number of columns
    size_t num_words;
};

// Memory that will be read soon: while a kernel works on row r it prefetches from address rows + r * row_bytes on, one
// line for every words_per_line words, a power of two. The machine's own prefetcher does not follow a dozen rows read
// side by side. Nothing need be at the addresses.
struct Ahead {
    uintptr_t rows;
    size_t row_bytes;
    size_t words_per_line;
    // Prefetches one line, over and over.
    static Ahead none(const void* line) { return {reinterpret_cast<uintptr_t>(line), 0, size_t{1} << 62}; }
};

// Rows of words. A row may lie in several planes: its first words in the first plane, the next so many in the second.
struct Rows {
    const uint32_t* data;
    size_t stride;     // words from a row to the next
    size_t num_words;  // of one plane
    size_t num_planes = 1;
    size_t plane_stride = 0;  // words from a plane to the next

    static Rows of_floats(const float* rows, size_t stride, size_t dim) {
        return {reinterpret_cast<const uint32_t*>(rows), stride, dim};
    }
};

// Kernels are pure: no allocation, no throw, no globals. rows.num_words * rows.num_planes == columns.num_words.
struct WordKernels {
    // best[c] = the better of best[c] and the best product of a row with columns[c], c < num_lanes: float32 or int32,
    // the highest but for bits, where it is the lowest. num_rows may be 0.
    void (*fold)(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead& ahead, void* best);
    // The same, and products[r * num_lanes + c] = the product of row r with columns[c].
    void (*fold_and_store)(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead& ahead,
                           void* best, void* products);
};

struct ProductKernels {
    size_t lanes;  // words in one register; 4 for scalar

    // Lanes that `num_columns` columns take, and their packing. Word i of column c is columns[c * column_stride + i *
    // word_stride].
    size_t (*num_lanes)(size_t num_columns);
    void (*pack)(const uint32_t* columns, size_t num_columns, size_t column_stride, size_t word_stride,
                 size_t num_words, uint32_t* packed);

    WordKernels float32, bfloat16, int8, bits;  // bfloat16: null but for avx512_bf16
    // best[c] = max(best[c], x · row_terms[2 r] + lane_shifts[c] · row_terms[2 r + 1]), where x is the int8 product of
    // row r with columns[c] less lane_offsets[c], as float32; each operation rounds, so that the bits are the same
    // everywhere (but a maximum that is zero may have either sign).
    void (*fold_scaled)(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead& ahead,
                        const float* row_terms, const int32_t* lane_offsets, const float* lane_shifts, float* best);

    // Bit c of bits[r * words_per_row ...] (bit c % 32 of word c / 32) = <rows[r], columns[c]> > 0. Words must be zero
    // on entry. `rows` is num_rows rows of floats, `row_stride` floats apart.
    void (*sign_bits)(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride,
                      uint32_t* bits, size_t words_per_row);
    // out[r * num_lanes + c] = <rows[r], columns[c]>.
    void (*multiply)(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, float* out);

    // Writes the numbers of the rows in which any of `lanes` int32 products, num_lanes from row to row, is at least
    // its threshold; returns how many. Reads and writes num_rows entries at most.
    size_t (*rows_reaching)(const int32_t* products, size_t num_rows, size_t num_lanes, const int32_t* thresholds,
                            uint32_t* rows);

    // out[i] = scale · Σ_t rows[indexes[t] * row_stride + i], i < width; width and row_stride multiples of 16, pointers
    // to 64 bytes.
    void (*sum_rows)(const float* rows, size_t row_stride, const uint32_t* indexes, size_t num_indexes, size_t width,
                     float scale, float* out);
    // IEEE half precision and bfloat16 to float32, exact (a NaN stays a NaN, its payload may change).
    void (*half_to_float)(const uint16_t* half, size_t n, float* out);
    void (*bfloat16_to_float)(const uint16_t* numbers, size_t n, float* out);

    // Codes of 8, 4, 2 or 1 bits to words of an int8 product. Code j of byte i, its lowest bits being code 0, becomes
    // number i of plane j, which is levels[code], or the byte itself for 8 bits. A number takes int8_bytes bytes.
    // Planes are plane_bytes apart, a multiple of 64 that is at least num_bytes * int8_bytes, and may be written to the
    // end.
    void (*expand)(const uint8_t* codes, size_t num_bytes, unsigned bits, const uint8_t* levels, uint8_t* out,
                   size_t plane_bytes);
    size_t int8_bytes;    // of one number in a word of an int8 product: 1 or 2
    int int8_row_offset;  // what an int8 product takes off each number of a row: 128 where both sides are signed
    bool int8_in_place;   // codes of 8 bits are words of an int8 product as they are
};

const ProductKernels& product_kernels(Isa isa);

// Columns with the memory that they live in.
class OwnedColumns {
public:
    OwnedColumns() = default;
    // Packs columns c = 0 .. num_columns: word i at columns[c * column_stride + i * word_stride].
    void assign(const ProductKernels& kernels, const uint32_t* columns, size_t num_columns, size_t column_stride,
                size_t word_stride, size_t num_words);
    void assign(const ProductKernels& kernels, const float* columns, size_t num_columns, size_t column_stride,
                size_t element_stride, size_t dim) {
        assign(kernels, reinterpret_cast<const uint32_t*>(columns), num_columns, column_stride, element_stride, dim);
    }
    PackedColumns view() const { return {data_.data(), num_lanes_, num_words_}; }

private:
    std::vector<uint32_t, CacheAligned<uint32_t>> data_;
    size_t num_lanes_ = 0, num_words_ = 0;
};

}  // namespace chamfer
