#include "peaks.hpp"

#include <cassert>
#include <cstring>

#include "target.hpp"

#if CHAMFER_X86
#include <immintrin.h>
#elif CHAMFER_ARM
#include <arm_neon.h>
#endif

namespace chamfer {
namespace {

// One level's loops; a null one is an instruction that the level lacks.
struct PeakLoops {
    using Loop = uint64_t (*)(uint64_t rounds, const uint8_t* factors, uint8_t* state);
    Loop fma_f32, dot_bf16, dot_i8, popcount;
    uint64_t (*read)(const uint8_t* buffer, size_t num_bytes, size_t prefetch_bytes);
};

}  // namespace
}  // namespace chamfer

// ── scalar: reads only, since no kernel's limit is a scalar instruction ─────────────────────────────────

namespace chamfer::scalar {
namespace {

struct V {
    using Word = uint64_t;
    static CHAMFER_INLINE Word load_words(const uint8_t* p) {
        Word word;
        std::memcpy(&word, p, sizeof(word));
        return word;
    }
    static CHAMFER_INLINE Word add_words(Word a, Word b) { return a + b; }
};

#include "peaks_loops.inl"

constexpr PeakLoops kLoops{nullptr, nullptr, nullptr, nullptr, read_all};

}  // namespace
}  // namespace chamfer::scalar

#if CHAMFER_X86

// ── AVX2 ────────────────────────────────────────────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx2,fma,f16c,popcnt")
namespace chamfer::avx2 {
namespace {

struct V {
    using Word = __m256i;
    static CHAMFER_INLINE Word load_words(const uint8_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static CHAMFER_INLINE Word add_words(Word a, Word b) { return _mm256_add_epi64(a, b); }
};

struct FmaF32 {
    using Reg = __m256;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 16;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg b) { return _mm256_fmadd_ps(chain, a, b); }
};

// Without VNNI: pairs of 16-bit products, then a sum.
struct DotI8 {
    using Reg = __m256i;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 32;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg) {
        return _mm256_add_epi32(chain, _mm256_madd_epi16(chain, a));
    }
};

// Two look-ups of four bits each. Kernels also sum the bytes now and then, which is not counted here.
struct Popcount {
    using Reg = __m256i;
    static constexpr size_t kChains = 6;
    static constexpr uint64_t kOperations = 256;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg) {
        const __m256i table_u8x32 = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                                     0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
        const __m256i low_four = _mm256_set1_epi8(0x0f), differing = _mm256_xor_si256(chain, a);
        const __m256i low = _mm256_and_si256(differing, low_four);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(differing, 4), low_four);
        return _mm256_add_epi8(
            chain, _mm256_add_epi8(_mm256_shuffle_epi8(table_u8x32, low), _mm256_shuffle_epi8(table_u8x32, high)));
    }
};

#include "peaks_loops.inl"

constexpr PeakLoops kLoops{run_loop<FmaF32>, nullptr, run_loop<DotI8>, run_loop<Popcount>, read_all};

}  // namespace
}  // namespace chamfer::avx2
CHAMFER_TARGET_END

// ── AVX-512 ─────────────────────────────────────────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,fma")
namespace chamfer::avx512 {
namespace {

struct V {
    using Word = __m512i;
    static CHAMFER_INLINE Word load_words(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static CHAMFER_INLINE Word add_words(Word a, Word b) { return _mm512_add_epi64(a, b); }
};

struct FmaF32 {
    using Reg = __m512;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 32;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg b) { return _mm512_fmadd_ps(chain, a, b); }
};

struct DotI8 {
    using Reg = __m512i;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 128;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg b) { return _mm512_dpbusd_epi32(chain, a, b); }
};

struct Popcount {
    using Reg = __m512i;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 512;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg) {
        return _mm512_add_epi64(chain, _mm512_popcnt_epi64(_mm512_xor_si512(chain, a)));
    }
};

#include "peaks_loops.inl"

constexpr PeakLoops kLoops{run_loop<FmaF32>, nullptr, run_loop<DotI8>, run_loop<Popcount>, read_all};

}  // namespace
}  // namespace chamfer::avx512
CHAMFER_TARGET_END

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,fma")
namespace chamfer::avx512_bf16 {
namespace {

using avx512::V;

struct DotBf16 {
    using Reg = __m512;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 64;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg b) {
        __m512bh a_bf16x32, b_bf16x32;
        std::memcpy(&a_bf16x32, &a, sizeof(a));
        std::memcpy(&b_bf16x32, &b, sizeof(b));
        return _mm512_dpbf16_ps(chain, a_bf16x32, b_bf16x32);
    }
};

#include "peaks_loops.inl"

constexpr PeakLoops kLoops{avx512::kLoops.fma_f32, run_loop<DotBf16>, avx512::kLoops.dot_i8, avx512::kLoops.popcount,
                           read_all};

}  // namespace
}  // namespace chamfer::avx512_bf16
CHAMFER_TARGET_END

#endif

#if CHAMFER_ARM

// ── NEON ────────────────────────────────────────────────────────────────────────────────────────────────

namespace chamfer::neon {
namespace {

struct V {
    using Word = uint64x2_t;
    static CHAMFER_INLINE Word load_words(const uint8_t* p) { return vreinterpretq_u64_u8(vld1q_u8(p)); }
    static CHAMFER_INLINE Word add_words(Word a, Word b) { return vaddq_u64(a, b); }
};

struct FmaF32 {
    using Reg = float32x4_t;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 8;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg b) { return vfmaq_f32(b, chain, a); }
};

struct DotI8 {
    using Reg = int8x16_t;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 16;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg) {
        const int16x8_t products = vmull_s8(vget_low_s8(chain), vget_low_s8(a));
        return vreinterpretq_s8_s32(vpadalq_s16(vreinterpretq_s32_s8(chain), products));
    }
};

struct Popcount {
    using Reg = uint8x16_t;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 128;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg) { return vaddq_u8(chain, vcntq_u8(veorq_u8(chain, a))); }
};

#include "peaks_loops.inl"

constexpr PeakLoops kLoops{run_loop<FmaF32>, nullptr, run_loop<DotI8>, run_loop<Popcount>, read_all};

}  // namespace
}  // namespace chamfer::neon

// GCC 12 refuses target("+dotprod"), clang refuses "arch=" in an attribute without a plus.
#if defined(__clang__)
CHAMFER_TARGET_BEGIN("dotprod")
#else
CHAMFER_TARGET_BEGIN("arch=armv8.2-a+dotprod")
#endif
namespace chamfer::neon_dotprod {
namespace {

using neon::V;

struct DotI8 {
    using Reg = int32x4_t;
    static constexpr size_t kChains = 12;
    static constexpr uint64_t kOperations = 32;
    static CHAMFER_INLINE Reg step(Reg chain, Reg a, Reg b) {
        return vdotq_s32(chain, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
    }
};

#include "peaks_loops.inl"

constexpr PeakLoops kLoops{neon::kLoops.fma_f32, nullptr, run_loop<DotI8>, neon::kLoops.popcount, read_all};

}  // namespace
}  // namespace chamfer::neon_dotprod
CHAMFER_TARGET_END

#endif

// ── the table ───────────────────────────────────────────────────────────────────────────────────────────

namespace chamfer {
namespace {

const PeakLoops& peak_loops(Isa isa){CHAMFER_KERNELS_BY_ISA(isa, kLoops)}

PeakLoops::Loop loop_of(const PeakLoops& loops, Peak peak) {
    switch (peak) {
        case Peak::fma_f32: return loops.fma_f32;
        case Peak::dot_bf16: return loops.dot_bf16;
        case Peak::dot_i8: return loops.dot_i8;
        case Peak::popcount: return loops.popcount;
    }
    return nullptr;
}

}  // namespace

uint64_t run_peak(Peak peak, Isa isa, uint64_t rounds) {
    const PeakLoops::Loop loop = loop_of(peak_loops(isa), peak);
    if (loop == nullptr) return 0;
    // Numbers that stay finite and normal whatever the loop does with them; no two chains start alike.
    constexpr size_t kFactors = 2 * 16, kChains = 16 * 16;
    alignas(64) uint8_t factors[kFactors * 4], state[kChains * 4];
    for (size_t i = 0; i < kFactors; ++i) {
        const float factor = i < 16 ? 0.9375f : 0.0625f;
        std::memcpy(factors + 4 * i, &factor, sizeof(factor));
    }
    for (size_t i = 0; i < kChains; ++i) {
        const float start = 1.0f + static_cast<float>(i) / kChains;
        std::memcpy(state + 4 * i, &start, sizeof(start));
    }
    return loop(rounds, factors, state);
}

uint64_t read_memory(const void* buffer, size_t num_bytes, size_t prefetch_bytes, Isa isa) {
    assert(num_bytes % 1024 == 0);
    return peak_loops(isa).read(static_cast<const uint8_t*>(buffer), num_bytes, prefetch_bytes);
}

}  // namespace chamfer
