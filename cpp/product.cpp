#include "product.hpp"

#include <algorithm>
#include <cstring>

#include "target.hpp"

#if CHAMFER_X86
#include <immintrin.h>
#elif CHAMFER_ARM
#include <arm_neon.h>
#endif

// ── scalar: the definition, in plain loops (a compiler may use the baseline's registers for them) ───────

namespace chamfer::scalar {
namespace {

constexpr size_t kLanes = 4;  // a block is 4 columns

size_t num_lanes(size_t num_columns) { return (num_columns + kLanes - 1) / kLanes * kLanes; }

void pack(const float* columns, size_t num_columns, size_t column_stride, size_t element_stride, size_t dim,
          float* packed) {
    for (size_t c = 0; c < num_lanes(num_columns); ++c) {
        for (size_t i = 0; i < dim; ++i) {
            packed[(c / kLanes * dim + i) * kLanes + c % kLanes] =
                c < num_columns ? columns[c * column_stride + i * element_stride] : 0.0f;
        }
    }
}

template <class Ending>
void for_each_product(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride,
                      Ending ending) {
    for (size_t lane = 0; lane < columns.num_lanes; lane += kLanes) {
        const float* block = columns.data + lane * columns.dim;
        for (size_t r = 0; r < num_rows; ++r) {
            float sums[kLanes] = {};
            for (size_t i = 0; i < columns.dim; ++i) {
                for (size_t c = 0; c < kLanes; ++c) sums[c] += rows[r * row_stride + i] * block[i * kLanes + c];
            }
            for (size_t c = 0; c < kLanes; ++c) ending(r, lane + c, sums[c]);
        }
    }
}

void fold_max(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, const Ahead&,
              float* maxima) {
    for_each_product(columns, rows, num_rows, row_stride,
                     [&](size_t, size_t c, float x) { maxima[c] = std::max(maxima[c], x); });
}

void sign_bits(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, uint32_t* bits,
               size_t words_per_row) {
    for_each_product(columns, rows, num_rows, row_stride, [&](size_t r, size_t c, float x) {
        if (x > 0.0f) bits[r * words_per_row + c / 32] |= 1U << (c % 32);
    });
}

void multiply(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, float* out) {
    for_each_product(columns, rows, num_rows, row_stride,
                     [&](size_t r, size_t c, float x) { out[r * columns.num_lanes + c] = x; });
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

constexpr ProductKernels kKernels{kLanes, num_lanes, pack, fold_max, sign_bits, multiply, sum_rows, half_to_float};

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
    static CHAMFER_INLINE Reg zero() { return _mm256_setzero_ps(); }
    static CHAMFER_INLINE Reg set(float x) { return _mm256_set1_ps(x); }
    static CHAMFER_INLINE Reg load(const float* p) { return _mm256_loadu_ps(p); }
    static CHAMFER_INLINE Reg load_half(const uint16_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static CHAMFER_INLINE Reg broadcast(const float* p) { return _mm256_broadcast_ss(p); }
    static CHAMFER_INLINE void store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
    static CHAMFER_INLINE Reg multiply_add(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
    static CHAMFER_INLINE Reg multiply(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
    static CHAMFER_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
    static CHAMFER_INLINE Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
    static CHAMFER_INLINE uint32_t positive(Reg x) {
        return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, zero(), _CMP_GT_OQ)));
    }
};

#include "product_tile.inl"

}  // namespace
}  // namespace chamfer::avx2
CHAMFER_TARGET_END

// ── AVX-512 ─────────────────────────────────────────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace chamfer::avx512 {
namespace {

struct V {
    using Reg = __m512;
    static constexpr size_t kLanes = 16;
    static constexpr size_t kRows[3] = {12, 12, 8};  // 32 registers: up to 24 accumulators, the columns, broadcasts
    static CHAMFER_INLINE Reg zero() { return _mm512_setzero_ps(); }
    static CHAMFER_INLINE Reg set(float x) { return _mm512_set1_ps(x); }
    static CHAMFER_INLINE Reg load(const float* p) { return _mm512_loadu_ps(p); }
    static CHAMFER_INLINE Reg load_half(const uint16_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static CHAMFER_INLINE Reg broadcast(const float* p) { return _mm512_set1_ps(*p); }
    static CHAMFER_INLINE void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
    static CHAMFER_INLINE Reg multiply_add(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
    static CHAMFER_INLINE Reg multiply(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
    static CHAMFER_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
    static CHAMFER_INLINE Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
    static CHAMFER_INLINE uint32_t positive(Reg x) { return _mm512_cmp_ps_mask(x, zero(), _CMP_GT_OQ); }
};

#include "product_tile.inl"

}  // namespace
}  // namespace chamfer::avx512
CHAMFER_TARGET_END

#endif

// ── NEON ────────────────────────────────────────────────────────────────────────────────────────────────

#if CHAMFER_ARM

namespace chamfer::neon {
namespace {

struct V {
    using Reg = float32x4_t;
    static constexpr size_t kLanes = 4;
    static constexpr size_t kRows[3] = {12, 12, 8};  // 32 registers, as AVX-512
    static CHAMFER_INLINE Reg zero() { return vdupq_n_f32(0.0f); }
    static CHAMFER_INLINE Reg set(float x) { return vdupq_n_f32(x); }
    static CHAMFER_INLINE Reg load(const float* p) { return vld1q_f32(p); }
    static CHAMFER_INLINE Reg load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
    static CHAMFER_INLINE Reg broadcast(const float* p) { return vld1q_dup_f32(p); }
    static CHAMFER_INLINE void store(float* p, Reg x) { vst1q_f32(p, x); }
    static CHAMFER_INLINE Reg multiply_add(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
    static CHAMFER_INLINE Reg multiply(Reg a, Reg b) { return vmulq_f32(a, b); }
    static CHAMFER_INLINE Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
    static CHAMFER_INLINE Reg max(Reg a, Reg b) { return vmaxq_f32(a, b); }
    static CHAMFER_INLINE uint32_t positive(Reg x) {
        static constexpr uint32_t kBits[4] = {1, 2, 4, 8};
        return vaddvq_u32(vandq_u32(vcgtq_f32(x, zero()), vld1q_u32(kBits)));
    }
};

#include "product_tile.inl"

}  // namespace
}  // namespace chamfer::neon

#endif

// ── the table ───────────────────────────────────────────────────────────────────────────────────────────

namespace chamfer {

const ProductKernels& product_kernels(Isa isa) {
    switch (isa) {
#if CHAMFER_X86
        case Isa::avx2: return avx2::kKernels;
        case Isa::avx512:
        case Isa::avx512_bf16: return avx512::kKernels;
#elif CHAMFER_ARM
        case Isa::neon:
        case Isa::neon_dotprod: return neon::kKernels;
#endif
        default: return scalar::kKernels;
    }
}

void OwnedColumns::assign(const ProductKernels& kernels, const float* columns, size_t num_columns, size_t column_stride,
                          size_t element_stride, size_t dim) {
    num_lanes_ = kernels.num_lanes(num_columns);
    dim_ = dim;
    data_.resize(num_lanes_ * dim_);
    kernels.pack(columns, num_columns, column_stride, element_stride, dim, data_.data());
}

}  // namespace chamfer
