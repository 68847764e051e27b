// The kernels of sdc.hpp, by instruction set.
#include <algorithm>
#include <bit>
#include <cstring>

#include "sdc.hpp"
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
    static constexpr size_t kPositions = 2, kMaxProducts = 64, kIntegerQueries = 4, kChains = 1;
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
    static CHAMFER_INLINE Products add(Products a, Products b) { return _mm256_add_epi16(a, b); }
    static CHAMFER_INLINE void keep(Products& products) { CHAMFER_IN_REGISTER(products); }
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
    static constexpr size_t kPositions = 4, kMaxProducts = SIZE_MAX / 64, kIntegerQueries = 8, kChains = 8;
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
    static CHAMFER_INLINE Products add(Products a, Products b) { return _mm512_add_epi32(a, b); }
    static CHAMFER_INLINE void keep(Products& products) { CHAMFER_IN_REGISTER(products); }
    static CHAMFER_INLINE void add_twice(Products products, int32_t* sums) {
        _mm512_storeu_si512(sums, _mm512_add_epi32(_mm512_loadu_si512(sums), _mm512_add_epi32(products, products)));
    }
};

namespace by_word {
#include "sdc_loops.inl"
}
#include "sdc_tile.inl"
#include "sdc_words.inl"

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
    static constexpr size_t kPositions = 1, kMaxProducts = 128, kIntegerQueries = 4, kChains = 1;
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
    static CHAMFER_INLINE Products add(Products a, Products b) {
        return {vaddq_s16(a.first, b.first), vaddq_s16(a.second, b.second)};
    }
    static CHAMFER_INLINE void keep(Products& products) {
        CHAMFER_IN_REGISTER(products.first);
        CHAMFER_IN_REGISTER(products.second);
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
    static constexpr size_t kPositions = 4, kMaxProducts = SIZE_MAX / 64, kIntegerQueries = 2, kChains = 1;
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
    static CHAMFER_INLINE Products add(Products a, const Products& b) {
        for (size_t i = 0; i < 4; ++i) a.codes[i] = vaddq_s32(a.codes[i], b.codes[i]);
        return a;
    }
    static CHAMFER_INLINE void keep(Products& products) {
        for (size_t i = 0; i < 4; ++i) CHAMFER_IN_REGISTER(products.codes[i]);
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

}  // namespace chamfer
