#include "scan.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

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

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,popcnt")
namespace chamfer::avx512 {
namespace {

// Positions of a register's values are pressed together and stored whole: what is beyond those found is overwritten
// later, or lies before the end.
template <class Value, class Passing>
CHAMFER_INLINE size_t select_sixteen(const Value* values, size_t n, uint32_t* positions, const Passing& passing) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    size_t found = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        const __mmask16 mask = passing(values + i, 0xffff);
        if (mask == 0) continue;
        const __m512i places = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int32_t>(i)));
        _mm512_storeu_si512(positions + found, _mm512_maskz_compress_epi32(mask, places));
        found += static_cast<size_t>(std::popcount(static_cast<uint16_t>(mask)));
    }
    for (unsigned rest = passing(values + i, static_cast<__mmask16>((1U << (n - i)) - 1)); rest; rest &= rest - 1)
        positions[found++] = static_cast<uint32_t>(i) + static_cast<uint32_t>(std::countr_zero(rest));
    return found;
}

size_t below(const int32_t* values, size_t n, int32_t limit, uint32_t* positions) {
    const __m512i limits = _mm512_set1_epi32(limit);
    return select_sixteen(values, n, positions, [=](const int32_t* x, __mmask16 mask) {
        return _mm512_mask_cmplt_epi32_mask(mask, _mm512_maskz_loadu_epi32(mask, x), limits);
    });
}

size_t above(const float* values, size_t n, float limit, uint32_t* positions) {
    const __m512 limits = _mm512_set1_ps(limit);
    return select_sixteen(values, n, positions, [=](const float* x, __mmask16 mask) {
        return _mm512_mask_cmp_ps_mask(mask, _mm512_maskz_loadu_ps(mask, x), limits, _CMP_GT_OQ);
    });
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

void highest_first(uint64_t* keys, size_t n, size_t k) {
    size_t begin = 0, end = n;  // of those between, some belong before k and some after
    for (auto rounds = 2 * std::bit_width(n); begin + 1 < end; --rounds) {
        if (rounds == 0) return std::nth_element(keys + begin, keys + k - 1, keys + end, std::greater<>());
        const size_t middle = begin + (end - begin) / 2;
        uint64_t &first = keys[begin], &last = keys[end - 1];
        if (first > keys[middle]) std::swap(first, keys[middle]);
        if (last > keys[middle]) std::swap(last, keys[middle]);
        if (last < first) std::swap(last, first);
        const uint64_t pivot = last;  // the median of the three
        size_t higher = begin;
        for (size_t i = begin; i + 1 < end; ++i) {
            const uint64_t key = keys[i];
            keys[i] = keys[higher];
            keys[higher] = key;
            higher += key > pivot;
        }
        std::swap(keys[higher], keys[end - 1]);
        if (higher == k - 1) return;
        if (higher < k - 1) {
            begin = higher + 1;
        } else {
            end = higher;
        }
    }
}

}  // namespace chamfer
