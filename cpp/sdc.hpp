// SDC: the symmetric distance calculation of BEBR (arXiv 2302.08714) on recurrent binary codes, both sides quantised;
// the query may keep more bits a dim.
//
// A code gives each dim a level c in 0 .. M, M = 2^bits - 1, which stands for v(c) = (2c - M) / 2^(bits - 1): the sum
// of the signs of all stages, each half of the one before. With the odd integers w = 2c - M, similarity is <q, d> =
// 2^(2 - query_bits - bits) · Σ w_q w_d, and the sum of integers is exact. Three formulas give it, M and bits being the
// code's; the first for equal bits only:
//   bitwise  w = Σ_j 2^j (2 b_j - 1) over the bits b_j of c, so Σ w_q w_d = M² dim - 2 Σ_ij 2^(i+j) popcount(q_i ^ d_j)
//            with the bits of one place i of all dims side by side: q_i, a plane.
//   integer  Σ w_q w_d = 2 Σ w_q c_d - M Σ w_q: products of bytes, the query's signed.
//   table    a nibble of d holds 4 / bits dims; the 16 values of (Σ w_q w_d + M Σ |w_q|) / 2 over them, 0 .. 225, are a
//            table in a register. Hence Σ w_q w_d = 2 Σ entries - M Σ |w_q|.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"
#include "parallel.hpp"

namespace chamfer {

enum class SdcFormula { bitwise, integer, table };

// The fastest on every machine; never bitwise, whose codes are laid out otherwise.
SdcFormula fastest_sdc_formula(size_t bits);

inline constexpr size_t kBlockCodes = 32;

// dim >= 1, below 2^20 (sums are int32); bits 1, 2 or 4.
struct RecurrentShape {
    size_t dim, bits;

    int32_t max_level() const { return (1 << bits) - 1; }
    size_t dims_per_nibble() const { return 4 / bits; }

    // For integer and table, one layout on every machine: blocks of 32 codes, in which each nibble position has 16
    // bytes; byte j holds the nibble of code j in its low half and that of code j + 16 in its high half. Dim i of a
    // nibble's dims lies at bit i · bits. Positions are a multiple of 4, four being a register of AVX-512; what is
    // beyond dim, or beyond the last code, is level 0.
    size_t num_positions() const { return (dim + 4 * dims_per_nibble() - 1) / (4 * dims_per_nibble()) * 4; }
    size_t block_bytes() const { return num_positions() * 16; }

    // For bitwise: a row per code, of `bits` planes, the lowest bit first. Bit i % 8 of byte i / 8 belongs to dim i.
    size_t plane_bytes() const { return (dim + 7) / 8; }
    size_t row_bytes() const { return bits * plane_bytes(); }
};

// The bytes of num_codes codes in the layout of a formula.
size_t packed_bytes(const RecurrentShape& shape, SdcFormula formula, size_t num_codes);
// levels: (num_codes, dim), each at most M.
void pack_levels(const RecurrentShape& shape, SdcFormula formula, const uint8_t* levels, size_t num_codes,
                 uint8_t* packed);
// The inverse for the layout of blocks.
void unpack_levels(const RecurrentShape& shape, const uint8_t* packed, size_t num_codes, uint8_t* levels);

// The query's side of a formula, read by its kernels.
size_t operand_bytes(const RecurrentShape& shape, SdcFormula formula);
// levels: (dim,), each at most 2^query_bits - 1; query_bits is 1, 2 or 4, at least shape.bits, and equal if bitwise.
// Returns the offset that the kernels take off: sum = 2 · what they add up - offset, or offset - 2 · that if bitwise.
int32_t prepare_operand(const RecurrentShape& shape, size_t query_bits, SdcFormula formula, const uint8_t* levels,
                        uint8_t* operand);

// Kernels are pure. sums[q * stride + i] = Σ w_q w_d of query q < num_queries and code i < num_codes; stride is
// num_codes or more, rounded up to whole blocks, and what is beyond num_codes may be overwritten. Operands lie side by
// side; any alignment will do, that of a cache line is fastest. While a kernel works it prefetches what lies
// bytes_ahead, unless 0.
struct SdcSumsInput {
    RecurrentShape shape;
    size_t query_bits;
    const uint8_t* operands;
    const int32_t* offsets;
    size_t num_queries;
    const uint8_t* codes;
    size_t num_codes, bytes_ahead;
};
struct SdcKernels {
    void (*bitwise)(const SdcSumsInput& input, int32_t* sums, size_t stride);
    void (*integer)(const SdcSumsInput& input, int32_t* sums, size_t stride);
    void (*table)(const SdcSumsInput& input, int32_t* sums, size_t stride);
    // similarities[i] = (float(sums[i]) · unit) · (query_scale · scales[i]), each operation rounded; the second factor
    // is query_scale if scales is null.
    void (*scale_sums)(const int32_t* sums, size_t n, float unit, float query_scale, const float* scales,
                       float* similarities);
};

const SdcKernels& sdc_kernels(Isa isa);

struct SdcInput {
    RecurrentShape shape;
    size_t query_bits;  // as of prepare_operand
    SdcFormula formula;
    const uint8_t* query_levels;  // (num_queries, dim), each at most 2^query_bits - 1
    const float* query_scales;    // (num_queries,), finite; null for 1
    size_t num_queries;
    const uint8_t* codes;  // packed for the formula
    const float* scales;   // (num_codes,), finite; null for 1
    size_t num_codes;
    Threads num_threads;
    Isa isa;
};

// The k codes most similar to each query, ties to the lower row: similarities and rows, (num_queries, k). What is
// missing is -inf and -1.
void sdc_topk(const SdcInput& input, size_t k, float* similarities, int64_t* rows);

// Codes of an inverted list: fewer than 2^32, packed for the formula, with their rows in ascending order.
struct SdcList {
    const uint8_t* codes;
    const float* scales;  // null for 1
    const int64_t* rows;
    size_t num_codes;
};

// The same of one query and the codes of some lists, each row in one of them; (k,). One call instead of one per list.
struct SdcListsInput {
    RecurrentShape shape;
    size_t query_bits;  // as of prepare_operand
    SdcFormula formula;
    const uint8_t* query_levels;  // (dim,), each at most 2^query_bits - 1
    float query_scale;            // finite
    const SdcList* lists;
    size_t num_lists;
    Isa isa;
};
void sdc_topk_of_lists(const SdcListsInput& input, size_t k, float* similarities, int64_t* rows);

}  // namespace chamfer
