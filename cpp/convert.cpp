#include "convert.hpp"

#include <algorithm>
#include <cstring>

#include "target.hpp"

#if CHAMFER_X86
#include <immintrin.h>
#elif CHAMFER_ARM
#include <arm_neon.h>
#endif

// ── scalar: the definition, in plain loops ──────────────────────────────────────────────────────────────

namespace chamfer::scalar {
namespace {

uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

uint16_t half_of(float x) {
    const uint32_t bits = bits_of(x), sign = bits & 0x80000000U, magnitude = bits ^ sign;
    uint32_t half;
    if (magnitude >= 143U << 23) {  // 2^16 and more, infinity, NaN
        half = magnitude > 0x7f800000U ? 0x7e00 : 0x7c00;
    } else if (magnitude < 113U << 23) {  // below 2^-14
        // The last bit of a float from 1/2 to 1 is 2^-24, that of a subnormal half: the sum rounds to it.
        half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    } else {
        // The exponent's bias goes from 127 to 15. Just under half of the last bit kept, and one more if that bit is
        // odd, carry where the bits cut off are more than a half of it, or a half beside an odd one.
        half = (magnitude - (112U << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    }
    return static_cast<uint16_t>(sign >> 16 | half);
}

struct V {
    struct Reg {
        float lanes[16];
    };
    static Reg load(const float* p) {
        Reg x;
        std::copy_n(p, 16, x.lanes);
        return x;
    }
    static void store(float* p, const Reg& x) { std::copy_n(x.lanes, 16, p); }
    static Reg set(float x) {
        Reg all;
        std::fill_n(all.lanes, 16, x);
        return all;
    }
    static bool all_below(const Reg& x, float limit) {
        return std::all_of(x.lanes, x.lanes + 16,
                           [&](float lane) { return float_of(bits_of(lane) & 0x7fffffffU) < limit; });
    }
    static Reg max_magnitude(Reg largest, const Reg& x) {
        for (size_t j = 0; j < 16; ++j)
            largest.lanes[j] = std::max(largest.lanes[j], float_of(bits_of(x.lanes[j]) & 0x7fffffffU));
        return largest;
    }
    static void store_half(uint16_t* p, const Reg& x) { std::transform(x.lanes, x.lanes + 16, p, half_of); }
    static void store_int8(int8_t* p, const Reg& x, const Reg& divisor) {
        // Around 1.5 · 2^23 the floats are the integers: the sum rounds half to even.
        constexpr float kIntegers = 12582912.0f;
        for (size_t j = 0; j < 16; ++j) {
            const float code = std::max(-127.0f, std::min(127.0f, x.lanes[j] / divisor.lanes[j]));
            p[j] = static_cast<int8_t>((code + kIntegers) - kIntegers);
        }
    }
    static uint32_t positive(const Reg& x) {
        uint32_t bits = 0;
        for (size_t j = 0; j < 16; ++j) bits |= static_cast<uint32_t>(x.lanes[j] > 0.0f) << j;
        return bits;
    }
};

#include "convert_row.inl"

}  // namespace
}  // namespace chamfer::scalar

// ── AVX2 ────────────────────────────────────────────────────────────────────────────────────────────────

#if CHAMFER_X86

CHAMFER_TARGET_BEGIN("avx2,fma,f16c,popcnt")
namespace chamfer::avx2 {
namespace {

struct V {
    struct Reg {
        __m256 low, high;
    };
    static CHAMFER_INLINE Reg load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static CHAMFER_INLINE void store(float* p, Reg x) {
        _mm256_storeu_ps(p, x.low);
        _mm256_storeu_ps(p + 8, x.high);
    }
    static CHAMFER_INLINE Reg set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static CHAMFER_INLINE __m256 magnitude(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
    static CHAMFER_INLINE bool all_below(Reg x, float limit) {
        const __m256 limits = _mm256_set1_ps(limit);
        const __m256 below = _mm256_and_ps(_mm256_cmp_ps(magnitude(x.low), limits, _CMP_LT_OQ),
                                           _mm256_cmp_ps(magnitude(x.high), limits, _CMP_LT_OQ));
        return _mm256_movemask_ps(below) == 255;
    }
    static CHAMFER_INLINE Reg max_magnitude(Reg largest, Reg x) {
        return {_mm256_max_ps(largest.low, magnitude(x.low)), _mm256_max_ps(largest.high, magnitude(x.high))};
    }
    static CHAMFER_INLINE void store_half(uint16_t* p, Reg x) {
        constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.low, kNearestEven));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.high, kNearestEven));
    }
    static CHAMFER_INLINE __m256i code(__m256 x, __m256 divisor) {
        const __m256 quotient = _mm256_min_ps(_mm256_div_ps(x, divisor), _mm256_set1_ps(127.0f));
        return _mm256_cvtps_epi32(_mm256_max_ps(quotient, _mm256_set1_ps(-127.0f)));
    }
    static CHAMFER_INLINE void store_int8(int8_t* p, Reg x, Reg divisor) {
        const __m256i pairs = _mm256_packs_epi32(code(x.low, divisor.low), code(x.high, divisor.high));
        // packs works within 128 bits: its quarters lie as 0 2 1 3.
        const __m256i ordered = _mm256_permute4x64_epi64(pairs, 0xd8);
        const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes);
    }
    static CHAMFER_INLINE uint32_t positive(Reg x) { return sign_mask(x.low) | sign_mask(x.high) << 8; }
    static CHAMFER_INLINE uint32_t sign_mask(__m256 x) {
        return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ)));
    }
};

#include "convert_row.inl"

}  // namespace
}  // namespace chamfer::avx2
CHAMFER_TARGET_END

// ── AVX-512 ─────────────────────────────────────────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace chamfer::avx512 {
namespace {

struct V {
    using Reg = __m512;
    static CHAMFER_INLINE Reg load(const float* p) { return _mm512_loadu_ps(p); }
    static CHAMFER_INLINE void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
    static CHAMFER_INLINE Reg set(float x) { return _mm512_set1_ps(x); }
    static CHAMFER_INLINE bool all_below(Reg x, float limit) {
        return _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(limit), _CMP_LT_OQ) == 0xffff;
    }
    static CHAMFER_INLINE Reg max_magnitude(Reg largest, Reg x) { return _mm512_max_ps(largest, _mm512_abs_ps(x)); }
    static CHAMFER_INLINE void store_half(uint16_t* p, Reg x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    static CHAMFER_INLINE void store_int8(int8_t* p, Reg x, Reg divisor) {
        const Reg quotient = _mm512_min_ps(_mm512_div_ps(x, divisor), _mm512_set1_ps(127.0f));
        const __m512i codes = _mm512_cvtps_epi32(_mm512_max_ps(quotient, _mm512_set1_ps(-127.0f)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(codes));
    }
    static CHAMFER_INLINE uint32_t positive(Reg x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ); }
};

#include "convert_row.inl"

}  // namespace
}  // namespace chamfer::avx512
CHAMFER_TARGET_END

#endif

// ── NEON ────────────────────────────────────────────────────────────────────────────────────────────────

#if CHAMFER_ARM

namespace chamfer::neon {
namespace {

struct V {
    using Reg = float32x4x4_t;
    static CHAMFER_INLINE Reg load(const float* p) { return vld1q_f32_x4(p); }
    static CHAMFER_INLINE void store(float* p, Reg x) { vst1q_f32_x4(p, x); }
    static CHAMFER_INLINE Reg set(float x) {
        const float32x4_t all = vdupq_n_f32(x);
        return {{all, all, all, all}};
    }
    static CHAMFER_INLINE bool all_below(Reg x, float limit) {
        const float32x4_t limits = vdupq_n_f32(limit);
        const uint32x4_t below = vandq_u32(vandq_u32(vcaltq_f32(x.val[0], limits), vcaltq_f32(x.val[1], limits)),
                                           vandq_u32(vcaltq_f32(x.val[2], limits), vcaltq_f32(x.val[3], limits)));
        return vminvq_u32(below) != 0;
    }
    static CHAMFER_INLINE Reg max_magnitude(Reg largest, Reg x) {
        CHAMFER_UNROLL
        for (size_t j = 0; j < 4; ++j) largest.val[j] = vmaxq_f32(largest.val[j], vabsq_f32(x.val[j]));
        return largest;
    }
    static CHAMFER_INLINE void store_half(uint16_t* p, Reg x) {
        CHAMFER_UNROLL
        for (size_t j = 0; j < 4; ++j) vst1_u16(p + 4 * j, vreinterpret_u16_f16(vcvt_f16_f32(x.val[j])));
    }
    static CHAMFER_INLINE int32x4_t code(float32x4_t x, float32x4_t divisor) {
        const float32x4_t quotient = vminq_f32(vdivq_f32(x, divisor), vdupq_n_f32(127.0f));
        return vcvtnq_s32_f32(vmaxq_f32(quotient, vdupq_n_f32(-127.0f)));  // n: half to even
    }
    static CHAMFER_INLINE void store_int8(int8_t* p, Reg x, Reg divisor) {
        const int16x8_t low =
            vcombine_s16(vqmovn_s32(code(x.val[0], divisor.val[0])), vqmovn_s32(code(x.val[1], divisor.val[1])));
        const int16x8_t high =
            vcombine_s16(vqmovn_s32(code(x.val[2], divisor.val[2])), vqmovn_s32(code(x.val[3], divisor.val[3])));
        vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
    }
    static CHAMFER_INLINE uint32_t positive(Reg x) {
        static constexpr uint32_t kBits[4] = {1, 2, 4, 8};
        uint32_t bits = 0;
        CHAMFER_UNROLL
        for (size_t j = 0; j < 4; ++j) bits |= vaddvq_u32(vandq_u32(vcgtzq_f32(x.val[j]), vld1q_u32(kBits))) << 4 * j;
        return bits;
    }
};

#include "convert_row.inl"

}  // namespace
}  // namespace chamfer::neon

#endif

// ── the table, rows ─────────────────────────────────────────────────────────────────────────────────────

namespace chamfer {

const ConvertKernels& convert_kernels(Isa isa){CHAMFER_KERNELS_BY_REGISTERS(isa, kKernels)}

size_t RowsOut::row_bytes() const {
    switch (format) {
        case RowFormat::float16: return width * 2;
        case RowFormat::int8: return width;
        case RowFormat::bits: return (width + 7) / 8;
        default: return width * 4;
    }
}

bool RowsOut::write(const ConvertKernels& kernels, size_t i, const float* numbers) const {
    switch (format) {
        case RowFormat::float16: return kernels.float_to_half(numbers, width, static_cast<uint16_t*>(row(i)));
        case RowFormat::int8: scales[i] = kernels.float_to_int8(numbers, width, static_cast<int8_t*>(row(i))); break;
        case RowFormat::bits: kernels.float_to_bits(numbers, width, static_cast<uint8_t*>(row(i))); break;
        default: std::memcpy(row(i), numbers, row_bytes());
    }
    return true;
}

int64_t convert_rows(const float* rows, size_t num_rows, const Threads& num_threads, Isa isa, const RowsOut& out) {
    const ConvertKernels& kernels = convert_kernels(isa);
    LowestRow too_large;
    parallel_for(num_rows, num_threads, [&](size_t, size_t i) {
        if (!out.write(kernels, i, rows + i * out.width)) too_large.report(i);
    });
    return too_large.get();
}

}  // namespace chamfer
