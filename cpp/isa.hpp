// Which instruction sets this CPU and this build have: the only place that asks the CPU.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "target.hpp"

namespace chamfer {

// Levels, lowest first on each architecture; each has all that the one before it has. avx2: AVX2, FMA, F16C, POPCNT
// (Haswell, Zen 1 and up). avx512: F, BW, DQ, VL, VNNI, VPOPCNTDQ (Ice Lake, Zen 4 and up; older AVX-512 parts, which
// lower their clock, take avx2). avx512_bf16: and BF16 (Sapphire Rapids, Zen 4 and up). neon: all of AArch64.
// neon_dotprod: and SDOT, UDOT (Neoverse N1, Apple M1 and up). An operation without a kernel of a level takes the
// next lower level's.
enum class Isa { scalar, avx2, avx512, avx512_bf16, neon, neon_dotprod };

// The levels that this CPU and its operating system support, lowest first; the last is the best.
const std::vector<Isa>& available_isas();

const char* isa_name(Isa isa);

// The level of that name. Throws std::invalid_argument, naming `argument` and the choices, if it is unknown or
// unsupported here.
Isa parse_isa(std::string_view name, const char* argument);

}  // namespace chamfer

// The body of a function that returns the kernels of an instruction set, `name` in the namespaces scalar, avx2 and so
// on, where those of bfloat16 and of dot products are no others than those of their registers.
#if CHAMFER_X86
#define CHAMFER_KERNELS_BY_REGISTERS(isa, name)     \
    switch (isa) {                                  \
        case Isa::avx2: return avx2::name;          \
        case Isa::avx512:                           \
        case Isa::avx512_bf16: return avx512::name; \
        default: return scalar::name;               \
    }
#define CHAMFER_KERNELS_BY_ISA(isa, name)                \
    switch (isa) {                                       \
        case Isa::avx2: return avx2::name;               \
        case Isa::avx512: return avx512::name;           \
        case Isa::avx512_bf16: return avx512_bf16::name; \
        default: return scalar::name;                    \
    }
#elif CHAMFER_ARM
#define CHAMFER_KERNELS_BY_REGISTERS(isa, name)    \
    switch (isa) {                                 \
        case Isa::neon:                            \
        case Isa::neon_dotprod: return neon::name; \
        default: return scalar::name;              \
    }
#define CHAMFER_KERNELS_BY_ISA(isa, name)                  \
    switch (isa) {                                         \
        case Isa::neon: return neon::name;                 \
        case Isa::neon_dotprod: return neon_dotprod::name; \
        default: return scalar::name;                      \
    }
#else
#define CHAMFER_KERNELS_BY_REGISTERS(isa, name) return (void)(isa), scalar::name;
#define CHAMFER_KERNELS_BY_ISA(isa, name) return (void)(isa), scalar::name;
#endif
