#include "scan.hpp"

#include "target.hpp"

#if CHAMFER_X86
#include <immintrin.h>
#elif CHAMFER_ARM
#include <arm_neon.h>
#endif

namespace chamfer {
namespace {

// One value after the other: what is left of a row of registers, and all of it where there are none.
template <class Value, class Passes>
CHAMFER_INLINE size_t select_rest(const Value* values, size_t begin, size_t n, uint32_t* positions, size_t found,
                                  Passes passes) {
    for (size_t i = begin; i < n; ++i) {
        positions[found] = static_cast<uint32_t>(i);
        found += passes(values[i]);
    }
    return found;
}

size_t below_scalar(const int32_t* values, size_t n, int32_t limit, uint32_t* positions) {
    return select_rest(values, 0, n, positions, 0, [=](int32_t x) { return x < limit; });
}

size_t above_scalar(const float* values, size_t n, float limit, uint32_t* positions) {
    return select_rest(values, 0, n, positions, 0, [=](float x) { return x > limit; });
}

// kLanes values at a time: any(values + i) says whether one of them passes, which few do.
template <size_t kLanes, class Value, class Any, class Passes>
CHAMFER_INLINE size_t select(const Value* values, size_t n, uint32_t* positions, const Any& any, const Passes& passes) {
    size_t found = 0, i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        if (any(values + i)) found = select_rest(values, i, i + kLanes, positions, found, passes);
    }
    return select_rest(values, i, n, positions, found, passes);
}

}  // namespace

namespace scalar {
constexpr SelectKernels kKernels{below_scalar, above_scalar};
}
}  // namespace chamfer

#if CHAMFER_X86

CHAMFER_TARGET_BEGIN("avx2")
namespace chamfer::avx2 {
namespace {

size_t below(const int32_t* values, size_t n, int32_t limit, uint32_t* positions) {
    const __m256i limits = _mm256_set1_epi32(limit);
    return select<8>(
        values, n, positions,
        [=](const int32_t* x) {
            return _mm256_movemask_epi8(
                       _mm256_cmpgt_epi32(limits, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)))) != 0;
        },
        [=](int32_t x) { return x < limit; });
}

size_t above(const float* values, size_t n, float limit, uint32_t* positions) {
    const __m256 limits = _mm256_set1_ps(limit);
    return select<8>(
        values, n, positions,
        [=](const float* x) { return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x), limits, _CMP_GT_OQ)) != 0; },
        [=](float x) { return x > limit; });
}

constexpr SelectKernels kKernels{below, above};

}  // namespace
}  // namespace chamfer::avx2
CHAMFER_TARGET_END

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl")
namespace chamfer::avx512 {
namespace {

size_t below(const int32_t* values, size_t n, int32_t limit, uint32_t* positions) {
    const __m512i limits = _mm512_set1_epi32(limit);
    return select<16>(
        values, n, positions,
        [=](const int32_t* x) { return _mm512_cmplt_epi32_mask(_mm512_loadu_si512(x), limits) != 0; },
        [=](int32_t x) { return x < limit; });
}

size_t above(const float* values, size_t n, float limit, uint32_t* positions) {
    const __m512 limits = _mm512_set1_ps(limit);
    return select<16>(
        values, n, positions,
        [=](const float* x) { return _mm512_cmp_ps_mask(_mm512_loadu_ps(x), limits, _CMP_GT_OQ) != 0; },
        [=](float x) { return x > limit; });
}

constexpr SelectKernels kKernels{below, above};

}  // namespace
}  // namespace chamfer::avx512
CHAMFER_TARGET_END

#endif

#if CHAMFER_ARM

namespace chamfer::neon {
namespace {

size_t below(const int32_t* values, size_t n, int32_t limit, uint32_t* positions) {
    const int32x4_t limits = vdupq_n_s32(limit);
    return select<4>(
        values, n, positions, [=](const int32_t* x) { return vmaxvq_u32(vcltq_s32(vld1q_s32(x), limits)) != 0; },
        [=](int32_t x) { return x < limit; });
}

size_t above(const float* values, size_t n, float limit, uint32_t* positions) {
    const float32x4_t limits = vdupq_n_f32(limit);
    return select<4>(
        values, n, positions, [=](const float* x) { return vmaxvq_u32(vcgtq_f32(vld1q_f32(x), limits)) != 0; },
        [=](float x) { return x > limit; });
}

constexpr SelectKernels kKernels{below, above};

}  // namespace
}  // namespace chamfer::neon

#endif

namespace chamfer {

const SelectKernels& select_kernels(Isa isa) { CHAMFER_KERNELS_BY_REGISTERS(isa, kKernels) }

}  // namespace chamfer
