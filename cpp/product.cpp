#include "product.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "target.hpp"

#if CHAMFER_X86
#include <immintrin.h>
#elif CHAMFER_ARM
#include <arm_neon.h>
#endif

namespace chamfer {
namespace {

// A word of a row: rows of codes are bytes, their words need not be aligned.
CHAMFER_INLINE uint32_t load_word(const uint32_t* p) {
    uint32_t word;
    std::memcpy(&word, p, 4);
    return word;
}

}  // namespace
}  // namespace chamfer

// ── scalar: the definition, in plain loops (a compiler may use the baseline's registers for them) ───────

namespace chamfer::scalar {
namespace {

constexpr size_t kLanes = 4;  // a block is 4 columns

size_t num_lanes(size_t num_columns) { return (num_columns + kLanes - 1) / kLanes * kLanes; }

void pack(const uint32_t* columns, size_t num_columns, size_t column_stride, size_t word_stride, size_t num_words,
          uint32_t* packed) {
    for (size_t c = 0; c < num_lanes(num_columns); ++c) {
        for (size_t i = 0; i < num_words; ++i) {
            uint32_t& word = packed[(c / kLanes * num_words + i) * kLanes + c % kLanes];
            word = 0;
            if (c < num_columns) std::memcpy(&word, columns + c * column_stride + i * word_stride, 4);
        }
    }
}

struct Float32 {
    using Number = float;
    static float add(float sum, uint32_t row, uint32_t column) {
        return sum + std::bit_cast<float>(row) * std::bit_cast<float>(column);
    }
    static float better(float a, float b) { return std::max(a, b); }
};

struct Int8 {
    using Number = int32_t;
    static int32_t add(int32_t sum, uint32_t row, uint32_t column) {
        for (int shift = 0; shift < 32; shift += 8)
            sum += static_cast<uint8_t>(row >> shift) * static_cast<int8_t>(column >> shift);
        return sum;
    }
    static int32_t better(int32_t a, int32_t b) { return std::max(a, b); }
};

struct Bits {
    using Number = int32_t;
    static int32_t add(int32_t sum, uint32_t row, uint32_t column) { return sum + std::popcount(row ^ column); }
    static int32_t better(int32_t a, int32_t b) { return std::min(a, b); }
};

template <class Op, class Ending>
void for_each_product(const PackedColumns& columns, const Rows& rows, size_t num_rows, Ending ending) {
    for (size_t lane = 0; lane < columns.num_lanes; lane += kLanes) {
        const uint32_t* block = columns.data + lane * columns.num_words;
        for (size_t r = 0; r < num_rows; ++r) {
            typename Op::Number sums[kLanes] = {};
            for (size_t i = 0; i < columns.num_words; ++i) {
                const size_t plane = i / rows.num_words;
                uint32_t word;
                std::memcpy(&word, rows.data + plane * rows.plane_stride + r * rows.stride + i % rows.num_words, 4);
                for (size_t c = 0; c < kLanes; ++c) sums[c] = Op::add(sums[c], word, block[i * kLanes + c]);
            }
            for (size_t c = 0; c < kLanes; ++c) ending(r, lane + c, sums[c]);
        }
    }
}

template <class Op>
void fold(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead&, void* best) {
    auto* of_column = static_cast<typename Op::Number*>(best);
    for_each_product<Op>(columns, rows, num_rows,
                         [&](size_t, size_t c, auto x) { of_column[c] = Op::better(of_column[c], x); });
}

template <class Op>
void fold_and_store(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead&, void* best,
                    void* products) {
    auto* of_column = static_cast<typename Op::Number*>(best);
    auto* out = static_cast<typename Op::Number*>(products);
    for_each_product<Op>(columns, rows, num_rows, [&](size_t r, size_t c, auto x) {
        of_column[c] = Op::better(of_column[c], x);
        out[r * columns.num_lanes + c] = x;
    });
}

template <class Op>
constexpr WordKernels kWordKernels{fold<Op>, fold_and_store<Op>};

void fold_scaled(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead&, const float* row_terms,
                 const int32_t* lane_offsets, const float* lane_shifts, float* best) {
    for_each_product<Int8>(columns, rows, num_rows, [&](size_t r, size_t c, int32_t product) {
        const float scaled = static_cast<float>(product - lane_offsets[c]) * row_terms[2 * r];
        best[c] = std::max(best[c], scaled + lane_shifts[c] * row_terms[2 * r + 1]);
    });
}

void sign_bits(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, uint32_t* bits,
               size_t words_per_row) {
    for_each_product<Float32>(columns, Rows::of_floats(rows, row_stride, columns.num_words), num_rows,
                              [&](size_t r, size_t c, float x) {
                                  if (x > 0.0f) bits[r * words_per_row + c / 32] |= 1U << (c % 32);
                              });
}

void multiply(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, float* out) {
    for_each_product<Float32>(columns, Rows::of_floats(rows, row_stride, columns.num_words), num_rows,
                              [&](size_t r, size_t c, float x) { out[r * columns.num_lanes + c] = x; });
}

size_t rows_reaching(const int32_t* products, size_t num_rows, size_t num_lanes, const int32_t* thresholds,
                     uint32_t* rows) {
    size_t found = 0;
    for (size_t r = 0; r < num_rows; ++r) {
        bool reaches = false;
        for (size_t c = 0; c < kLanes; ++c) reaches |= products[r * num_lanes + c] >= thresholds[c];
        if (reaches) rows[found++] = static_cast<uint32_t>(r);
    }
    return found;
}

void sum_rows(const float* rows, size_t row_stride, const uint32_t* indexes, size_t num_indexes, size_t width,
              float scale, float* out) {
    std::fill(out, out + width, 0.0f);
    for (size_t t = 0; t < num_indexes; ++t) {
        for (size_t i = 0; i < width; ++i) out[i] += rows[indexes[t] * row_stride + i];
    }
    for (size_t i = 0; i < width; ++i) out[i] *= scale;
}

void half_to_float(const uint16_t* half, size_t n, float* out) {
    for (size_t i = 0; i < n; ++i) {
        const uint32_t sign = static_cast<uint32_t>(half[i] & 0x8000) << 16, magnitude = half[i] & 0x7fff;
        // The fields of a half, moved to those of a float, mean the same number times 2^-112 (bias 15 against 127); the
        // product with 2^112 also puts subnormal halves right. Infinity and NaN need the float's full exponent.
        const uint32_t moved = magnitude << 13, scale_bits = (127 + 112) << 23;
        float value, scale;
        std::memcpy(&value, &moved, 4);
        std::memcpy(&scale, &scale_bits, 4);
        value *= scale;
        uint32_t result;
        std::memcpy(&result, &value, 4);
        if (magnitude >= 0x7c00) result = moved | 0x7f800000;
        result |= sign;
        std::memcpy(out + i, &result, 4);
    }
}

void bfloat16_to_float(const uint16_t* numbers, size_t n, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = std::bit_cast<float>(static_cast<uint32_t>(numbers[i]) << 16);
}

void expand(const uint8_t* codes, size_t num_bytes, unsigned bits, const uint8_t* levels, uint8_t* out,
            size_t plane_bytes) {
    for (unsigned plane = 0; plane < 8 / bits; ++plane) {
        for (size_t i = 0; i < num_bytes; ++i) {
            const unsigned code = codes[i] >> (plane * bits) & ((1U << bits) - 1);
            out[plane * plane_bytes + i] = bits == 8 ? codes[i] : levels[code];
        }
    }
}

constexpr ProductKernels kKernels{kLanes,
                                  num_lanes,
                                  pack,
                                  kWordKernels<Float32>,
                                  {},
                                  kWordKernels<Int8>,
                                  kWordKernels<Bits>,
                                  fold_scaled,
                                  sign_bits,
                                  multiply,
                                  rows_reaching,
                                  sum_rows,
                                  half_to_float,
                                  bfloat16_to_float,
                                  expand,
                                  1,
                                  0,
                                  true};

}  // namespace
}  // namespace chamfer::scalar

// ── AVX2 ────────────────────────────────────────────────────────────────────────────────────────────────

#if CHAMFER_X86

CHAMFER_TARGET_BEGIN("avx2,fma,f16c,popcnt")
namespace chamfer::avx2 {
namespace {

struct V {
    using Reg = __m256;
    static constexpr size_t kLanes = 8;
    static constexpr size_t kRows[3] = {12, 6, 4};  // 16 registers: 12 accumulators, the columns, one broadcast
    static constexpr size_t kWordsPerFlush = 0;
    static CHAMFER_INLINE Reg zero() { return _mm256_setzero_ps(); }
    static CHAMFER_INLINE Reg set(float x) { return _mm256_set1_ps(x); }
    static CHAMFER_INLINE Reg load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
    static CHAMFER_INLINE Reg load_half(const uint16_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static CHAMFER_INLINE void store(void* p, Reg x) { _mm256_storeu_ps(static_cast<float*>(p), x); }
    static CHAMFER_INLINE Reg multiply(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
    static CHAMFER_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
    static CHAMFER_INLINE Reg from_int(__m256i x) { return _mm256_cvtepi32_ps(x); }
};

struct Float32 : V {
    static CHAMFER_INLINE Reg broadcast(const uint32_t* p) {
        return _mm256_broadcast_ss(reinterpret_cast<const float*>(p));
    }
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) { return _mm256_fmadd_ps(row, columns, sum); }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return _mm256_max_ps(a, b); }
    static CHAMFER_INLINE uint32_t positive(Reg x) {
        return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, zero(), _CMP_GT_OQ)));
    }
};

struct Int32Lanes {
    using Reg = __m256i;
    static constexpr size_t kLanes = 8;
    static CHAMFER_INLINE Reg zero() { return _mm256_setzero_si256(); }
    static CHAMFER_INLINE Reg load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    static CHAMFER_INLINE void store(void* p, Reg x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
    static CHAMFER_INLINE Reg broadcast(const uint32_t* p) { return _mm256_set1_epi32(static_cast<int>(load_word(p))); }
};

struct Int8 : Int32Lanes {
    static constexpr size_t kRows[3] = {12, 6, 4};
    static constexpr size_t kWordsPerFlush = 0;
    // Words of two int16: VPMADDUBSW on bytes would saturate.
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(row, columns));
    }
    static CHAMFER_INLINE Reg subtract(Reg a, Reg b) { return _mm256_sub_epi32(a, b); }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return _mm256_max_epi32(a, b); }
    static CHAMFER_INLINE size_t any_reaches(Reg x, Reg least) {
        return _mm256_movemask_epi8(_mm256_cmpgt_epi32(least, x)) != -1;
    }
};

struct Bits : Int32Lanes {
    static constexpr size_t kRows[3] = {8, 4, 3};
    static constexpr size_t kWordsPerFlush = 16;  // counts of a byte stay below 256
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) {
        const Reg counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1,
                                            2, 2, 3, 2, 3, 3, 4);
        const Reg low = _mm256_set1_epi8(15), differing = _mm256_xor_si256(row, columns);
        const Reg of_low = _mm256_shuffle_epi8(counts, _mm256_and_si256(differing, low));
        const Reg of_high = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(differing, 4), low));
        return _mm256_add_epi8(sum, _mm256_add_epi8(of_low, of_high));
    }
    static CHAMFER_INLINE Reg flush(Reg sum, Reg total) {
        const Reg pairs = _mm256_maddubs_epi16(sum, _mm256_set1_epi8(1));
        return _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return _mm256_min_epi32(a, b); }
};

struct B {
    using Reg = __m256i;
    using Levels = __m256i;
    static constexpr size_t kBytes = 32, kNumberBytes = 2;
    static constexpr int kRowOffset = 0;
    static CHAMFER_INLINE Reg load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static CHAMFER_INLINE Levels load_levels(const uint8_t* p) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    template <int kBits, int kField>
    static CHAMFER_INLINE Reg field(Reg x) {
        return _mm256_and_si256(_mm256_srli_epi16(x, kBits * kField), _mm256_set1_epi8((1 << kBits) - 1));
    }
    static CHAMFER_INLINE Reg look_up(Levels levels, Reg codes) { return _mm256_shuffle_epi8(levels, codes); }
    static CHAMFER_INLINE void store_numbers(uint8_t* p, Reg x) {
        auto* out = reinterpret_cast<__m256i*>(p);
        _mm256_storeu_si256(out, _mm256_cvtepu8_epi16(_mm256_castsi256_si128(x)));
        _mm256_storeu_si256(out + 1, _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1)));
    }
};

#include "product_tile.inl"
//
#include "product_rows.inl"

constexpr ProductKernels kKernels = make_kernels(false);

}  // namespace
}  // namespace chamfer::avx2
CHAMFER_TARGET_END

// ── AVX-512 ─────────────────────────────────────────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,fma")
namespace chamfer::avx512 {
namespace {

struct V {
    using Reg = __m512;
    static constexpr size_t kLanes = 16;
    static constexpr size_t kRows[3] = {12, 12, 8};  // 32 registers: up to 24 accumulators, the columns, broadcasts
    static constexpr size_t kWordsPerFlush = 0;
    static CHAMFER_INLINE Reg zero() { return _mm512_setzero_ps(); }
    static CHAMFER_INLINE Reg set(float x) { return _mm512_set1_ps(x); }
    static CHAMFER_INLINE Reg load(const void* p) { return _mm512_loadu_ps(p); }
    static CHAMFER_INLINE Reg load_half(const uint16_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static CHAMFER_INLINE void store(void* p, Reg x) { _mm512_storeu_ps(p, x); }
    static CHAMFER_INLINE Reg multiply(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
    static CHAMFER_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
    static CHAMFER_INLINE Reg from_int(__m512i x) { return _mm512_cvtepi32_ps(x); }
};

struct Float32 : V {
    static CHAMFER_INLINE Reg broadcast(const uint32_t* p) {
        return _mm512_set1_ps(*reinterpret_cast<const float*>(p));
    }
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) { return _mm512_fmadd_ps(row, columns, sum); }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return _mm512_max_ps(a, b); }
    static CHAMFER_INLINE uint32_t positive(Reg x) { return _mm512_cmp_ps_mask(x, zero(), _CMP_GT_OQ); }
};

struct Int32Lanes {
    using Reg = __m512i;
    static constexpr size_t kLanes = 16;
    static constexpr size_t kRows[3] = {12, 12, 8};
    static constexpr size_t kWordsPerFlush = 0;
    static CHAMFER_INLINE Reg zero() { return _mm512_setzero_si512(); }
    static CHAMFER_INLINE Reg load(const void* p) { return _mm512_loadu_si512(p); }
    static CHAMFER_INLINE void store(void* p, Reg x) { _mm512_storeu_si512(p, x); }
    static CHAMFER_INLINE Reg broadcast(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int>(load_word(p))); }
};

struct Int8 : Int32Lanes {
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) { return _mm512_dpbusd_epi32(sum, row, columns); }
    static CHAMFER_INLINE Reg subtract(Reg a, Reg b) { return _mm512_sub_epi32(a, b); }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return _mm512_max_epi32(a, b); }
    static CHAMFER_INLINE size_t any_reaches(Reg x, Reg least) { return _mm512_cmpge_epi32_mask(x, least) != 0; }
};

struct Bits : Int32Lanes {
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) {
        return _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_xor_si512(row, columns)));
    }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return _mm512_min_epi32(a, b); }
};

struct B {
    using Reg = __m512i;
    using Levels = __m512i;
    static constexpr size_t kBytes = 64, kNumberBytes = 1;
    static constexpr int kRowOffset = 0;
    static CHAMFER_INLINE Reg load(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static CHAMFER_INLINE Levels load_levels(const uint8_t* p) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    template <int kBits, int kField>
    static CHAMFER_INLINE Reg field(Reg x) {
        return _mm512_and_si512(_mm512_srli_epi16(x, kBits * kField), _mm512_set1_epi8((1 << kBits) - 1));
    }
    static CHAMFER_INLINE Reg look_up(Levels levels, Reg codes) { return _mm512_shuffle_epi8(levels, codes); }
    static CHAMFER_INLINE void store_numbers(uint8_t* p, Reg x) { _mm512_storeu_si512(p, x); }
};

#include "product_tile.inl"
//
#include "product_rows.inl"

constexpr ProductKernels kKernels = make_kernels(true);

}  // namespace
}  // namespace chamfer::avx512
CHAMFER_TARGET_END

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,fma")
namespace chamfer::avx512_bf16 {
namespace {

struct Bfloat16 {
    using Reg = __m512;
    static constexpr size_t kLanes = 16;
    static constexpr size_t kRows[3] = {12, 12, 8};
    static constexpr size_t kWordsPerFlush = 0;
    static CHAMFER_INLINE Reg zero() { return _mm512_setzero_ps(); }
    static CHAMFER_INLINE Reg load(const void* p) { return _mm512_loadu_ps(p); }
    static CHAMFER_INLINE void store(void* p, Reg x) { _mm512_storeu_ps(p, x); }
    static CHAMFER_INLINE Reg broadcast(const uint32_t* p) {
        return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(load_word(p))));
    }
    static CHAMFER_INLINE __m512bh pairs(Reg x) {
        __m512bh numbers;
        std::memcpy(&numbers, &x, sizeof(x));
        return numbers;
    }
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) {
        return _mm512_dpbf16_ps(sum, pairs(row), pairs(columns));
    }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return _mm512_max_ps(a, b); }
};

#include "product_tile.inl"

constexpr ProductKernels kKernels = [] {
    ProductKernels kernels = avx512::kKernels;
    kernels.bfloat16 = kWordKernels<Bfloat16>;
    return kernels;
}();

}  // namespace
}  // namespace chamfer::avx512_bf16
CHAMFER_TARGET_END

#endif

// ── NEON ────────────────────────────────────────────────────────────────────────────────────────────────

#if CHAMFER_ARM

// What both levels share.
namespace chamfer::neon_common {
namespace {

struct V {
    using Reg = float32x4_t;
    static constexpr size_t kLanes = 4;
    static constexpr size_t kRows[3] = {12, 12, 8};  // 32 registers, as AVX-512
    static constexpr size_t kWordsPerFlush = 0;
    static CHAMFER_INLINE Reg zero() { return vdupq_n_f32(0.0f); }
    static CHAMFER_INLINE Reg set(float x) { return vdupq_n_f32(x); }
    static CHAMFER_INLINE Reg load(const void* p) { return vld1q_f32(static_cast<const float*>(p)); }
    static CHAMFER_INLINE Reg load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
    static CHAMFER_INLINE void store(void* p, Reg x) { vst1q_f32(static_cast<float*>(p), x); }
    static CHAMFER_INLINE Reg multiply(Reg a, Reg b) { return vmulq_f32(a, b); }
    static CHAMFER_INLINE Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
    static CHAMFER_INLINE Reg from_int(int32x4_t x) { return vcvtq_f32_s32(x); }
};

struct Float32 : V {
    static CHAMFER_INLINE Reg broadcast(const uint32_t* p) { return vld1q_dup_f32(reinterpret_cast<const float*>(p)); }
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) { return vfmaq_f32(sum, row, columns); }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return vmaxq_f32(a, b); }
    static CHAMFER_INLINE uint32_t positive(Reg x) {
        static constexpr uint32_t kBits[4] = {1, 2, 4, 8};
        return vaddvq_u32(vandq_u32(vcgtq_f32(x, zero()), vld1q_u32(kBits)));
    }
};

struct Int32Lanes {
    using Reg = int32x4_t;
    static constexpr size_t kLanes = 4;
    static constexpr size_t kRows[3] = {12, 12, 8};
    static constexpr size_t kWordsPerFlush = 0;
    static CHAMFER_INLINE Reg zero() { return vdupq_n_s32(0); }
    static CHAMFER_INLINE Reg load(const void* p) { return vld1q_s32(static_cast<const int32_t*>(p)); }
    static CHAMFER_INLINE void store(void* p, Reg x) { vst1q_s32(static_cast<int32_t*>(p), x); }
    static CHAMFER_INLINE Reg broadcast(const uint32_t* p) { return vdupq_n_s32(static_cast<int32_t>(load_word(p))); }
    static CHAMFER_INLINE Reg subtract(Reg a, Reg b) { return vsubq_s32(a, b); }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return vmaxq_s32(a, b); }
    static CHAMFER_INLINE size_t any_reaches(Reg x, Reg least) { return vmaxvq_u32(vcgeq_s32(x, least)) != 0; }
};

struct Bits : Int32Lanes {
    static constexpr size_t kRows[3] = {12, 8, 4};  // half as many accumulators: flush() has its own
    static constexpr size_t kWordsPerFlush = 16;    // counts of a byte stay below 256
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) {
        const uint8x16_t differing = vreinterpretq_u8_s32(veorq_s32(row, columns));
        return vreinterpretq_s32_u8(vaddq_u8(vreinterpretq_u8_s32(sum), vcntq_u8(differing)));
    }
    static CHAMFER_INLINE Reg flush(Reg sum, Reg total) {
        const uint32x4_t counts = vpaddlq_u16(vpaddlq_u8(vreinterpretq_u8_s32(sum)));
        return vaddq_s32(total, vreinterpretq_s32_u32(counts));
    }
    static CHAMFER_INLINE Reg better(Reg a, Reg b) { return vminq_s32(a, b); }
};

struct Bytes {
    using Reg = uint8x16_t;
    using Levels = uint8x16_t;
    static constexpr size_t kBytes = 16;
    static CHAMFER_INLINE Reg load(const uint8_t* p) { return vld1q_u8(p); }
    static CHAMFER_INLINE Levels load_levels(const uint8_t* p) { return vld1q_u8(p); }
    template <int kBits, int kField>
    static CHAMFER_INLINE Reg field(Reg x) {
        const Reg mask = vdupq_n_u8((1 << kBits) - 1);
        if constexpr (kField == 0) {
            return vandq_u8(x, mask);
        } else {
            return vandq_u8(vshrq_n_u8(x, kBits * kField), mask);
        }
    }
    static CHAMFER_INLINE Reg look_up(Levels levels, Reg codes) { return vqtbl1q_u8(levels, codes); }
};

}  // namespace
}  // namespace chamfer::neon_common

namespace chamfer::neon {
namespace {

using namespace neon_common;

struct Int8 : Int32Lanes {
    // Words of two int16.
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) {
        const int16x8_t a = vreinterpretq_s16_s32(row), b = vreinterpretq_s16_s32(columns);
        return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)));
    }
};

struct B : Bytes {
    static constexpr size_t kNumberBytes = 2;
    static constexpr int kRowOffset = 0;
    static CHAMFER_INLINE void store_numbers(uint8_t* p, Reg x) {
        vst1q_u8(p, vreinterpretq_u8_u16(vmovl_u8(vget_low_u8(x))));
        vst1q_u8(p + 16, vreinterpretq_u8_u16(vmovl_high_u8(x)));
    }
};

#include "product_tile.inl"
//
#include "product_rows.inl"

constexpr ProductKernels kKernels = make_kernels(false);

}  // namespace
}  // namespace chamfer::neon

CHAMFER_TARGET_BEGIN("arch=armv8.2-a+dotprod")  // GCC 12 does not take "+dotprod" alone
namespace chamfer::neon_dotprod {
namespace {

using namespace neon_common;

struct Int8 : Int32Lanes {
    static CHAMFER_INLINE Reg step(Reg sum, Reg row, Reg columns) {
        return vdotq_s32(sum, vreinterpretq_s8_s32(row), vreinterpretq_s8_s32(columns));
    }
};

struct B : Bytes {
    static constexpr size_t kNumberBytes = 1;
    static constexpr int kRowOffset = 128;  // SDOT takes signed bytes on both sides
    static CHAMFER_INLINE void store_numbers(uint8_t* p, Reg x) { vst1q_u8(p, veorq_u8(x, vdupq_n_u8(128))); }
};

#include "product_tile.inl"
//
#include "product_rows.inl"

constexpr ProductKernels kKernels = make_kernels(false);

}  // namespace
}  // namespace chamfer::neon_dotprod
CHAMFER_TARGET_END

#endif

// ── the table ───────────────────────────────────────────────────────────────────────────────────────────

namespace chamfer {

const ProductKernels& product_kernels(Isa isa) { CHAMFER_KERNELS_BY_ISA(isa, kKernels) }

void OwnedColumns::assign(const ProductKernels& kernels, const uint32_t* columns, size_t num_columns,
                          size_t column_stride, size_t word_stride, size_t num_words) {
    num_lanes_ = kernels.num_lanes(num_columns);
    num_words_ = num_words;
    data_.resize(num_lanes_ * num_words_);
    kernels.pack(columns, num_columns, column_stride, word_stride, num_words, data_.data());
}

}  // namespace chamfer
