#include "sdc.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <vector>

#include "aligned.hpp"
#include "scan.hpp"
#include "target.hpp"

#if CHAMFER_X86
#include <immintrin.h>
#elif CHAMFER_ARM
#include <arm_neon.h>
// GCC knows dot products inside a region; clang, before its version 16, only where all of the build has them, as
// Apple's.
#if !defined(__clang__)
#define CHAMFER_DOTPROD_TARGET "arch=armv8.2-a+dotprod"
#elif defined(__ARM_FEATURE_DOTPROD)
#define CHAMFER_DOTPROD_TARGET "dotprod"
#endif
#endif

// ── scalar: the definitions ─────────────────────────────────────────────────────────────────────────────────────────

namespace chamfer {
namespace {

CHAMFER_INLINE uint32_t differing_bits(const uint8_t* x, const uint8_t* y, size_t num_bytes) {
    uint32_t count = 0;
    for (; num_bytes >= 8; x += 8, y += 8, num_bytes -= 8) {
        uint64_t a, b;
        std::memcpy(&a, x, 8);
        std::memcpy(&b, y, 8);
        count += static_cast<uint32_t>(std::popcount(a ^ b));
    }
    for (; num_bytes; ++x, ++y, --num_bytes) {
        count += static_cast<uint32_t>(std::popcount(static_cast<uint8_t>(*x ^ *y)));
    }
    return count;
}

}  // namespace
}  // namespace chamfer

namespace chamfer::scalar {
namespace {

#include "sdc_loops.inl"

// add(query, position, byte, sums): what the two nibbles of a byte at a position add to the sums of their codes.
template <class Add>
void add_up(const SdcSumsInput& input, int32_t* sums, size_t stride, const Add& add) {
    const size_t num_positions = input.shape.num_positions();
    for (size_t q = 0; q < input.num_queries; ++q) {
        for (size_t code = 0; code < input.num_codes; code += kBlockCodes) {
            const uint8_t* block = input.codes + code / kBlockCodes * num_positions * 16;
            int32_t* of_block = sums + q * stride + code;
            std::fill_n(of_block, kBlockCodes, -input.offsets[q]);
            for (size_t position = 0; position < num_positions; ++position) {
                for (size_t j = 0; j < 16; ++j) {
                    const uint8_t byte = block[position * 16 + j];
                    of_block[j] += 2 * add(q, position, byte & 15);
                    of_block[j + 16] += 2 * add(q, position, byte >> 4);
                }
            }
        }
    }
}

void integer(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    const size_t num_positions = input.shape.num_positions(), bits = input.shape.bits;
    add_up(input, sums, stride, [&](size_t query, size_t position, int32_t nibble) {
        const uint8_t* weights = input.operands + query * 4 / bits * num_positions + position;
        int32_t sum = 0;
        for (size_t field = 0; field * bits < 4; ++field) {
            const int32_t level = nibble >> (field * bits) & input.shape.max_level();
            sum += static_cast<int8_t>(weights[field * num_positions]) * level;
        }
        return sum;
    });
}

void table(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    const size_t num_positions = input.shape.num_positions();
    add_up(input, sums, stride, [&](size_t query, size_t position, int32_t nibble) {
        return int32_t{input.operands[(query * num_positions + position) * 16 + static_cast<size_t>(nibble)]};
    });
}

constexpr SdcKernels kKernels{bitwise, integer, table, scale_sums};

}  // namespace
}  // namespace chamfer::scalar

#if CHAMFER_X86

// ── AVX2 ────────────────────────────────────────────────────────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx2,popcnt")
namespace chamfer::avx2 {
namespace {

struct V {
    using Reg = __m256i;
    static constexpr size_t kBytes = 32, kTableQueries = 2;  // of 16 registers 12 for a tile of tables
    static CHAMFER_INLINE Reg zero() { return _mm256_setzero_si256(); }
    static CHAMFER_INLINE Reg load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static CHAMFER_INLINE Reg low_nibbles(Reg x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
    static CHAMFER_INLINE Reg high_nibbles(Reg x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }
    static CHAMFER_INLINE Reg look_up(Reg table, Reg nibbles) { return _mm256_shuffle_epi8(table, nibbles); }
    static CHAMFER_INLINE Reg add_bytes(Reg a, Reg b) { return _mm256_add_epi8(a, b); }
    static CHAMFER_INLINE Reg add_pairs(Reg a, Reg b) { return _mm256_add_epi16(a, b); }
    static CHAMFER_INLINE Reg odd_bytes(Reg x) { return _mm256_srli_epi16(x, 8); }
    static CHAMFER_INLINE void add_twice(Reg pairs, Reg odd, int32_t* sums) {
        const Reg even = _mm256_sub_epi16(pairs, _mm256_slli_epi16(odd, 8));
        add_both_lanes(_mm256_unpacklo_epi16(even, odd), sums);
        add_both_lanes(_mm256_unpackhi_epi16(even, odd), sums + 8);
    }
    // sums[i] += 2 (x[i] + x[i + 8]), i < 8.
    static CHAMFER_INLINE void add_both_lanes(Reg x, int32_t* sums) {
        add_twice_32(_mm256_add_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
                                      _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))),
                     sums);
    }
    static CHAMFER_INLINE void add_twice_32(Reg x, int32_t* sums) {
        __m256i* out = reinterpret_cast<__m256i*>(sums);
        _mm256_storeu_si256(out, _mm256_add_epi32(_mm256_loadu_si256(out), _mm256_add_epi32(x, x)));
    }

    // Two positions of a code side by side. Their products are at most 2 · 15 · 15 in all, less for the fields of smaller
    // levels; 64 of them fit in 16 bits.
    using Levels = Reg;
    using Weights = Reg;
    using Products = Reg;
    static constexpr size_t kPositions = 2, kMaxProducts = 64, kIntegerQueries = 4;
    static CHAMFER_INLINE Products no_products() { return zero(); }
    static CHAMFER_INLINE Levels load_levels(const uint8_t* p) {
        const Reg pairs = _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 0, 8, 1, 9, 2, 10, 3,
                                           11, 4, 12, 5, 13, 6, 14, 7, 15);
        return _mm256_shuffle_epi8(_mm256_permute4x64_epi64(load(p), 0xd8), pairs);
    }
    template <size_t kBits, size_t kShift>
    static CHAMFER_INLINE Levels field(Levels x) {
        return _mm256_and_si256(_mm256_srli_epi16(x, kShift), _mm256_set1_epi8((1 << kBits) - 1));
    }
    static CHAMFER_INLINE Weights load_weights(const uint8_t* p) {
        int16_t two;
        std::memcpy(&two, p, 2);
        return _mm256_set1_epi16(two);
    }
    static CHAMFER_INLINE Products multiply_add(Products sums, Levels levels, Weights weights) {
        return _mm256_add_epi16(sums, _mm256_maddubs_epi16(levels, weights));
    }
    static CHAMFER_INLINE void add_twice(Products products, int32_t* sums) {
        add_twice_32(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(products)), sums);
        add_twice_32(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(products, 1)), sums + 8);
    }
};

#include "sdc_loops.inl"
#include "sdc_tile.inl"

constexpr SdcKernels kKernels{bitwise, integer, table, scale_sums};

}  // namespace
}  // namespace chamfer::avx2
CHAMFER_TARGET_END

// ── AVX-512 ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,popcnt")
namespace chamfer::avx512 {
namespace {

struct V {
    using Reg = __m512i;
    static constexpr size_t kBytes = 64, kTableQueries = 4;  // of 32 registers 24 for a tile of tables
    static CHAMFER_INLINE Reg zero() { return _mm512_setzero_si512(); }
    static CHAMFER_INLINE Reg load(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static CHAMFER_INLINE Reg low_nibbles(Reg x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
    static CHAMFER_INLINE Reg high_nibbles(Reg x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }
    static CHAMFER_INLINE Reg look_up(Reg table, Reg nibbles) { return _mm512_shuffle_epi8(table, nibbles); }
    static CHAMFER_INLINE Reg add_bytes(Reg a, Reg b) { return _mm512_add_epi8(a, b); }
    static CHAMFER_INLINE Reg add_pairs(Reg a, Reg b) { return _mm512_add_epi16(a, b); }
    static CHAMFER_INLINE Reg odd_bytes(Reg x) { return _mm512_srli_epi16(x, 8); }
    static CHAMFER_INLINE void add_twice(Reg pairs, Reg odd, int32_t* sums) {
        const Reg even = _mm512_sub_epi16(pairs, _mm512_slli_epi16(odd, 8));
        add_four_lanes(_mm512_unpacklo_epi16(even, odd), sums);
        add_four_lanes(_mm512_unpackhi_epi16(even, odd), sums + 8);
    }
    // sums[i] += 2 (x[i] + x[i + 8] + x[i + 16] + x[i + 24]), i < 8.
    static CHAMFER_INLINE void add_four_lanes(Reg x, int32_t* sums) {
        const Reg two = _mm512_add_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(x)),
                                         _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(x, 1)));
        const __m256i one = _mm256_add_epi32(_mm512_castsi512_si256(two), _mm512_extracti64x4_epi64(two, 1));
        __m256i* out = reinterpret_cast<__m256i*>(sums);
        _mm256_storeu_si256(out, _mm256_add_epi32(_mm256_loadu_si256(out), _mm256_add_epi32(one, one)));
    }

    // Four positions of a code side by side, multiplied and added up to 32 bits by one instruction.
    using Levels = Reg;
    using Weights = Reg;
    using Products = Reg;
    static constexpr size_t kPositions = 4, kMaxProducts = SIZE_MAX / 64, kIntegerQueries = 8;
    static CHAMFER_INLINE Products no_products() { return zero(); }
    // Of 4 positions × 4 quads of codes the transpose, then of each quad of codes × 4 positions.
    static CHAMFER_INLINE Levels load_levels(const uint8_t* p) {
        const Reg quads = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const Reg codes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quads, load(p)), codes);
    }
    template <size_t kBits, size_t kShift>
    static CHAMFER_INLINE Levels field(Levels x) {
        return _mm512_and_si512(_mm512_srli_epi16(x, kShift), _mm512_set1_epi8((1 << kBits) - 1));
    }
    static CHAMFER_INLINE Weights load_weights(const uint8_t* p) {
        int32_t four;
        std::memcpy(&four, p, 4);
        return _mm512_set1_epi32(four);
    }
    static CHAMFER_INLINE Products multiply_add(Products sums, Levels levels, Weights weights) {
        return _mm512_dpbusd_epi32(sums, levels, weights);
    }
    static CHAMFER_INLINE void add_twice(Products products, int32_t* sums) {
        _mm512_storeu_si512(sums, _mm512_add_epi32(_mm512_loadu_si512(sums), _mm512_add_epi32(products, products)));
    }
};

namespace by_word {
#include "sdc_loops.inl"
}
#include "sdc_tile.inl"
#include "sum_lanes.inl"

// Where planes are whole words, a row is a vector of words, each of one plane: 16 instructions per 64 bytes of codes of
// 4 bits, of which 4 xor and 4 count.
template <size_t kBits>
CHAMFER_INLINE __m512i weighted_bits(const uint8_t* query, const uint8_t* code, size_t row_bytes) {
    __m512i sums = _mm512_setzero_si512();
    for (size_t byte = 0; byte < row_bytes; byte += 64) {
        const size_t left = row_bytes - byte;
        const __mmask64 mask = left < 64 ? (__mmask64{1} << left) - 1 : ~__mmask64{0};
        const __m512i row = _mm512_maskz_loadu_epi8(mask, code + byte);
        __m512i counts = _mm512_setzero_si512();
        CHAMFER_UNROLL
        for (size_t i = 0; i < kBits; ++i) {
            const size_t bit = kBits - 1 - i;
            const __m512i plane = _mm512_maskz_loadu_epi8(mask, query + bit * row_bytes + byte);
            counts =
                _mm512_add_epi64(_mm512_add_epi64(counts, counts), _mm512_popcnt_epi64(_mm512_xor_si512(plane, row)));
        }
        const __m512i place = _mm512_maskz_loadu_epi8(mask, query + kBits * row_bytes + byte);
        sums = _mm512_add_epi64(sums, _mm512_sllv_epi64(counts, place));
    }
    return sums;
}

template <size_t kBits>
void bitwise_words(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    const size_t row_bytes = input.shape.row_bytes();
    for (size_t q = 0; q < input.num_queries; ++q) {
        const uint8_t* query = input.operands + q * (kBits + 1) * row_bytes;
        const __m512i offset = _mm512_set1_epi32(input.offsets[q]);
        const auto weighted = [&](size_t i) {
            return weighted_bits<kBits>(query, input.codes + (i < input.num_codes ? i : 0) * row_bytes, row_bytes);
        };
        for (size_t i = 0; i < input.num_codes; i += 16) {
            if (input.bytes_ahead) {
                for (size_t byte = 0; byte < 16 * row_bytes; byte += 64)
                    CHAMFER_PREFETCH(reinterpret_cast<uintptr_t>(input.codes) + i * row_bytes + byte +
                                     input.bytes_ahead);
            }
            __m512i pairs[8];
            for (size_t pair = 0; pair < 8; ++pair)
                pairs[pair] = interleave(weighted(i + 2 * pair), weighted(i + 2 * pair + 1));
            const __m512i sum = sum_lanes(pairs);
            _mm512_storeu_si512(sums + q * stride + i, _mm512_sub_epi32(offset, _mm512_add_epi32(sum, sum)));
        }
    }
}

void bitwise(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    if (input.shape.plane_bytes() % 8) return by_word::bitwise(input, sums, stride);
    if (input.shape.bits == 4) return bitwise_words<4>(input, sums, stride);
    if (input.shape.bits == 2) return bitwise_words<2>(input, sums, stride);
    bitwise_words<1>(input, sums, stride);
}

constexpr SdcKernels kKernels{bitwise, integer, table, by_word::scale_sums};

}  // namespace
}  // namespace chamfer::avx512
CHAMFER_TARGET_END

#endif

// ── NEON ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#if CHAMFER_ARM

namespace chamfer::neon {
namespace {

struct V {
    using Reg = uint8x16_t;
    static constexpr size_t kBytes = 16, kTableQueries = 4;  // of 32 registers 24 for a tile of tables
    static CHAMFER_INLINE Reg zero() { return vdupq_n_u8(0); }
    static CHAMFER_INLINE Reg load(const uint8_t* p) { return vld1q_u8(p); }
    static CHAMFER_INLINE Reg low_nibbles(Reg x) { return vandq_u8(x, vdupq_n_u8(15)); }
    static CHAMFER_INLINE Reg high_nibbles(Reg x) { return vshrq_n_u8(x, 4); }
    static CHAMFER_INLINE Reg look_up(Reg table, Reg nibbles) { return vqtbl1q_u8(table, nibbles); }
    static CHAMFER_INLINE Reg add_bytes(Reg a, Reg b) { return vaddq_u8(a, b); }
    static CHAMFER_INLINE Reg add_pairs(Reg a, Reg b) {
        return vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
    }
    static CHAMFER_INLINE Reg odd_bytes(Reg x) { return vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(x), 8)); }
    static CHAMFER_INLINE void add_twice(Reg pairs, Reg odd, int32_t* sums) {
        const uint16x8_t odds = vreinterpretq_u16_u8(odd);
        const uint16x8_t even = vsubq_u16(vreinterpretq_u16_u8(pairs), vshlq_n_u16(odds, 8));
        const uint16x8_t low = vzip1q_u16(even, odds), high = vzip2q_u16(even, odds);
        add_twice_32(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), sums);
        add_twice_32(vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))), sums + 4);
        add_twice_32(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), sums + 8);
        add_twice_32(vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high))), sums + 12);
    }
    static CHAMFER_INLINE void add_twice_32(int32x4_t x, int32_t* sums) {
        vst1q_s32(sums, vaddq_s32(vld1q_s32(sums), vaddq_s32(x, x)));
    }

    // One position of 16 codes. A product is at most 15 · 15; 128 of them fit in 16 bits.
    using Levels = int8x16_t;
    using Weights = int8x8_t;
    struct Products {
        int16x8_t first, second;
    };
    static constexpr size_t kPositions = 1, kMaxProducts = 128, kIntegerQueries = 4;
    static CHAMFER_INLINE Products no_products() { return {vdupq_n_s16(0), vdupq_n_s16(0)}; }
    static CHAMFER_INLINE Levels load_levels(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
    template <size_t kBits, size_t kShift>
    static CHAMFER_INLINE Levels field(Levels nibbles) {
        uint8x16_t x = vreinterpretq_u8_s8(nibbles);
        if constexpr (kShift > 0) x = vshrq_n_u8(x, kShift);
        if constexpr (kShift + kBits < 8) x = vandq_u8(x, vdupq_n_u8((1 << kBits) - 1));
        return vreinterpretq_s8_u8(x);
    }
    static CHAMFER_INLINE Weights load_weights(const uint8_t* p) { return vreinterpret_s8_u8(vld1_dup_u8(p)); }
    static CHAMFER_INLINE Products multiply_add(Products sums, Levels levels, Weights weights) {
        return {vmlal_s8(sums.first, vget_low_s8(levels), weights),
                vmlal_s8(sums.second, vget_high_s8(levels), weights)};
    }
    static CHAMFER_INLINE void add_twice(Products products, int32_t* sums) {
        add_twice_32(vmovl_s16(vget_low_s16(products.first)), sums);
        add_twice_32(vmovl_s16(vget_high_s16(products.first)), sums + 4);
        add_twice_32(vmovl_s16(vget_low_s16(products.second)), sums + 8);
        add_twice_32(vmovl_s16(vget_high_s16(products.second)), sums + 12);
    }
};

#include "sdc_loops.inl"
#include "sdc_tile.inl"

constexpr SdcKernels kKernels{bitwise, integer, table, scale_sums};

}  // namespace
}  // namespace chamfer::neon

// ── NEON with dot products ──────────────────────────────────────────────────────────────────────────────────────────

#if defined(CHAMFER_DOTPROD_TARGET)

CHAMFER_TARGET_BEGIN(CHAMFER_DOTPROD_TARGET)
namespace chamfer::neon_dotprod {
namespace {

// Four positions of a code side by side, in four registers of four codes.
struct V : neon::V {
    struct Levels {
        uint8x16_t codes[4];
    };
    using Weights = int8x16_t;
    struct Products {
        int32x4_t codes[4];
    };
    static constexpr size_t kPositions = 4, kMaxProducts = SIZE_MAX / 64, kIntegerQueries = 2;
    using neon::V::add_twice;
    static CHAMFER_INLINE Products no_products() {
        const int32x4_t zero = vdupq_n_s32(0);
        return {{zero, zero, zero, zero}};
    }
    static CHAMFER_INLINE Levels load_levels(const uint8_t* p) {
        const uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16), c = vld1q_u8(p + 32), d = vld1q_u8(p + 48);
        const uint16x8_t ab = vreinterpretq_u16_u8(vzip1q_u8(a, b)), cd = vreinterpretq_u16_u8(vzip1q_u8(c, d));
        const uint16x8_t ab2 = vreinterpretq_u16_u8(vzip2q_u8(a, b)), cd2 = vreinterpretq_u16_u8(vzip2q_u8(c, d));
        return {{vreinterpretq_u8_u16(vzip1q_u16(ab, cd)), vreinterpretq_u8_u16(vzip2q_u16(ab, cd)),
                 vreinterpretq_u8_u16(vzip1q_u16(ab2, cd2)), vreinterpretq_u8_u16(vzip2q_u16(ab2, cd2))}};
    }
    template <size_t kBits, size_t kShift>
    static CHAMFER_INLINE Levels field(const Levels& x) {
        Levels levels;
        CHAMFER_UNROLL
        for (size_t i = 0; i < 4; ++i) {
            levels.codes[i] = x.codes[i];
            if constexpr (kShift > 0) levels.codes[i] = vshrq_n_u8(levels.codes[i], kShift);
            if constexpr (kShift + kBits < 8) levels.codes[i] = vandq_u8(levels.codes[i], vdupq_n_u8((1 << kBits) - 1));
        }
        return levels;
    }
    static CHAMFER_INLINE Weights load_weights(const uint8_t* p) {
        int32_t four;
        std::memcpy(&four, p, 4);
        return vreinterpretq_s8_s32(vdupq_n_s32(four));
    }
    static CHAMFER_INLINE Products multiply_add(Products sums, const Levels& levels, Weights weights) {
        CHAMFER_UNROLL
        for (size_t i = 0; i < 4; ++i)
            sums.codes[i] = vdotq_s32(sums.codes[i], vreinterpretq_s8_u8(levels.codes[i]), weights);
        return sums;
    }
    static CHAMFER_INLINE void add_twice(const Products& products, int32_t* sums) {
        for (size_t i = 0; i < 4; ++i) add_twice_32(products.codes[i], sums + 4 * i);
    }
};

#include "sdc_tile.inl"

constexpr SdcKernels kKernels{neon::bitwise, integer, table, neon::scale_sums};

}  // namespace
}  // namespace chamfer::neon_dotprod
CHAMFER_TARGET_END

#endif
#endif

// ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────

namespace chamfer {

const SdcKernels& sdc_kernels(Isa isa) {
    switch (isa) {
#if CHAMFER_X86
        case Isa::avx2: return avx2::kKernels;
        case Isa::avx512:
        case Isa::avx512_bf16: return avx512::kKernels;
#elif CHAMFER_ARM
#if defined(CHAMFER_DOTPROD_TARGET)
        case Isa::neon_dotprod: return neon_dotprod::kKernels;
#else
        case Isa::neon_dotprod:
#endif
        case Isa::neon: return neon::kKernels;
#endif
        default: return scalar::kKernels;
    }
}

// Instructions for 64 bytes of packed codes (128 nibbles): to unpack them once for a tile of queries, and for each
// query.
//                  4 bits: integer  table      2 bits: integer  table
//   avx512                 5 + 2    3 + 8              9 + 4    3 + 4.4
//   avx2                  10 + 8    6 + 16            18 + 16   6 + 8.9
//   neon                   8 + 16   8 + 32            24 + 32   8 + 17.7
//   neon_dotprod          16 + 8    8 + 32            32 + 16   8 + 17.7
// For 1 bit the table costs no more, the integers twice as much again. Measured with 64 queries on one core of a Zen 5,
// in 10^9 bytes of codes × queries a second, integer and table: 4 bits 96 and 39 on avx512, 58 and 22 on avx2; 2 bits
// 81 and 96 on avx512, 29 and 50 on avx2.
SdcFormula fastest_sdc_formula(size_t bits) { return bits == 4 ? SdcFormula::integer : SdcFormula::table; }

// ── layouts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

namespace {

// Calls f(byte, shift, code, dim) for every dim of every code: where its level lies in the layout of blocks.
template <class F>
void for_each_level(const RecurrentShape& shape, size_t num_codes, F&& f) {
    for (size_t first = 0; first < num_codes; first += kBlockCodes) {
        const size_t block = first / kBlockCodes * shape.block_bytes();
        for (size_t lane = 0; lane < std::min(kBlockCodes, num_codes - first); ++lane) {
            size_t byte = block + lane % 16;
            for (size_t i = 0; i < shape.dim; byte += 16) {
                size_t shift = lane / 16 * 4;
                for (size_t end = std::min(i + shape.dims_per_nibble(), shape.dim); i < end; ++i, shift += shape.bits)
                    f(byte, shift, first + lane, i);
            }
        }
    }
}

}  // namespace

size_t packed_bytes(const RecurrentShape& shape, SdcFormula formula, size_t num_codes) {
    if (formula == SdcFormula::bitwise) return num_codes * shape.row_bytes();
    return (num_codes + kBlockCodes - 1) / kBlockCodes * shape.block_bytes();
}

void pack_levels(const RecurrentShape& shape, SdcFormula formula, const uint8_t* levels, size_t num_codes,
                 uint8_t* packed) {
    std::fill_n(packed, packed_bytes(shape, formula, num_codes), uint8_t{0});
    if (formula == SdcFormula::bitwise) {
        for (size_t code = 0; code < num_codes; ++code) {
            for (size_t i = 0; i < shape.dim; ++i) {
                uint8_t* byte = packed + code * shape.row_bytes() + i / 8;
                for (size_t bit = 0; bit < shape.bits; ++bit)
                    byte[bit * shape.plane_bytes()] |=
                        static_cast<uint8_t>((levels[code * shape.dim + i] >> bit & 1) << i % 8);
            }
        }
        return;
    }
    for_each_level(shape, num_codes, [&](size_t byte, size_t shift, size_t code, size_t i) {
        packed[byte] |= static_cast<uint8_t>(levels[code * shape.dim + i] << shift);
    });
}

void unpack_levels(const RecurrentShape& shape, const uint8_t* packed, size_t num_codes, uint8_t* levels) {
    for_each_level(shape, num_codes, [&](size_t byte, size_t shift, size_t code, size_t i) {
        levels[code * shape.dim + i] = static_cast<uint8_t>(packed[byte] >> shift & shape.max_level());
    });
}

size_t operand_bytes(const RecurrentShape& shape, SdcFormula formula) {
    switch (formula) {
        case SdcFormula::bitwise: return (shape.bits + 1) * shape.row_bytes();
        case SdcFormula::integer: return shape.dims_per_nibble() * shape.num_positions();
        default: return 16 * shape.num_positions();
    }
}

int32_t prepare_operand(const RecurrentShape& shape, size_t query_bits, SdcFormula formula, const uint8_t* levels,
                        uint8_t* operand) {
    assert(query_bits >= shape.bits && query_bits <= 4);
    assert(query_bits == shape.bits || formula != SdcFormula::bitwise);
    const size_t num_positions = shape.num_positions(), bits = shape.bits;
    const int32_t max_level = shape.max_level();
    std::fill_n(operand, operand_bytes(shape, formula), uint8_t{0});
    const int32_t query_max_level = (1 << query_bits) - 1;
    const auto weight = [&](size_t i) { return 2 * levels[i] - query_max_level; };
    if (formula == SdcFormula::bitwise) {
        // Each plane once for every plane of a code, so that a row of them lies beside a row of the code's; after them,
        // for each byte of a row, by how much the counts of its plane are shifted (read only where planes are words).
        const size_t plane_bytes = shape.plane_bytes(), row_bytes = shape.row_bytes();
        for (size_t i = 0; i < shape.dim; ++i) {
            for (size_t bit = 0; bit < bits; ++bit) {
                for (size_t copy = 0; copy < bits; ++copy)
                    operand[bit * row_bytes + copy * plane_bytes + i / 8] |=
                        static_cast<uint8_t>((levels[i] >> bit & 1) << i % 8);
            }
        }
        for (size_t byte = 0; byte < row_bytes; byte += 8)
            operand[bits * row_bytes + byte] = static_cast<uint8_t>(byte / plane_bytes);
        return max_level * max_level * static_cast<int32_t>(shape.dim);
    }
    int32_t sum = 0, magnitude = 0;
    for (size_t i = 0; i < shape.dim; ++i) {
        sum += weight(i);
        magnitude += std::abs(weight(i));
        const size_t position = i / shape.dims_per_nibble(), field = i % shape.dims_per_nibble();
        if (formula == SdcFormula::integer) {
            operand[field * num_positions + position] = static_cast<uint8_t>(static_cast<int8_t>(weight(i)));
        } else {
            for (int32_t nibble = 0; nibble < 16; ++nibble) {
                const int32_t w = 2 * (nibble >> (field * bits) & max_level) - max_level;
                operand[position * 16 + static_cast<size_t>(nibble)] +=
                    static_cast<uint8_t>((weight(i) * w + max_level * std::abs(weight(i))) / 2);
            }
        }
    }
    return max_level * (formula == SdcFormula::integer ? sum : magnitude);
}

// ── the scan ────────────────────────────────────────────────────────────────────────────────────────────────────────

namespace {

// Codes that one tile of queries after the other scans while they are in the L1 cache, and their sums.
constexpr size_t kTileBytes = 16 * 1024, kMaxTileCodes = 512;
// Queries whose operands stay in the L2 cache, with a run of codes that comes from memory once for all of them.
constexpr size_t kRunBytes = 256 * 1024, kOperandBytes = 256 * 1024, kMaxGroupQueries = 64;
// Queries whose sums wait side by side: a multiple of the largest tile.
constexpr size_t kBatchQueries = 8;
constexpr size_t kBytesAhead = 4096;  // as for Hamming distances

using ByteBuffer = std::vector<uint8_t, CacheAligned<uint8_t>>;

// One per worker: the operands of the group that it scans for.
struct Group {
    size_t first_query = SIZE_MAX;
    ByteBuffer operands;
    std::vector<int32_t> offsets;
};

}  // namespace

void sdc_topk(const SdcInput& input, size_t k, float* similarities, int64_t* rows) {
    const RecurrentShape& shape = input.shape;
    assert(shape.dim >= 1 && shape.dim < size_t{1} << 20 && input.num_threads.count >= 1);
    const SdcKernels& kernels = sdc_kernels(input.isa);
    const SelectKernels& selects = select_kernels(input.isa);
    const auto sums_of = input.formula == SdcFormula::bitwise   ? kernels.bitwise
                         : input.formula == SdcFormula::integer ? kernels.integer
                                                                : kernels.table;
    const size_t block_bytes = packed_bytes(shape, input.formula, kBlockCodes);
    const size_t operand_size = operand_bytes(shape, input.formula);
    const size_t tile_codes = std::clamp(kTileBytes / block_bytes * kBlockCodes, kBlockCodes, kMaxTileCodes);
    const ScanShape scan{
        input.num_queries, input.num_codes,
        std::clamp(kOperandBytes / operand_size / kBatchQueries * kBatchQueries, kBatchQueries, kMaxGroupQueries),
        std::max(tile_codes, kRunBytes / block_bytes * kBlockCodes)};
    const float unit = std::ldexp(1.0f, 2 - static_cast<int>(input.query_bits + shape.bits));
    std::vector<Group> groups(num_workers(scan, input.num_threads));
    scan_topk<float>(
        scan, k, input.num_threads, similarities, rows,
        [&](size_t worker, size_t first_query, size_t end_query, size_t first_row, size_t end_row,
            RunBest<float>* best) {
            Group& group = groups[worker];
            if (group.first_query != first_query) {
                group.first_query = first_query;
                group.operands.resize((end_query - first_query) * operand_size);
                group.offsets.resize(end_query - first_query);
                for (size_t i = 0; i < group.offsets.size(); ++i) {
                    group.offsets[i] = prepare_operand(shape, input.query_bits, input.formula,
                                                       input.query_levels + (first_query + i) * shape.dim,
                                                       group.operands.data() + i * operand_size);
                }
            }
            int32_t sums[kBatchQueries * kMaxTileCodes];
            float scaled[kMaxTileCodes];
            uint32_t positions[kMaxTileCodes];
            for (size_t row = first_row; row < end_row; row += tile_codes) {
                const size_t num_codes = std::min(tile_codes, end_row - row);
                for (size_t i = 0; i < group.offsets.size(); i += kBatchQueries) {
                    const size_t num_queries = std::min(kBatchQueries, group.offsets.size() - i);
                    sums_of(
                        {shape, input.query_bits, group.operands.data() + i * operand_size, group.offsets.data() + i,
                         num_queries, input.codes + row / kBlockCodes * block_bytes, num_codes, i ? 0 : kBytesAhead},
                        sums, kMaxTileCodes);
                    for (size_t q = 0; q < num_queries; ++q) {
                        const float query_scale = input.query_scales ? input.query_scales[first_query + i + q] : 1.0f;
                        kernels.scale_sums(sums + q * kMaxTileCodes, num_codes, unit, query_scale,
                                           input.scales ? input.scales + row : nullptr, scaled);
                        const size_t num_high = selects.above(scaled, num_codes, best[i + q].limit(), positions);
                        for (size_t j = 0; j < num_high; ++j)
                            best[i + q].push(scaled[positions[j]], static_cast<int64_t>(row + positions[j]));
                    }
                }
            }
        });
}

}  // namespace chamfer
