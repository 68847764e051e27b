#include "isa.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>

#include "target.hpp"

#if CHAMFER_X86
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif CHAMFER_ARM
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

namespace chamfer {
namespace {

#if CHAMFER_X86

struct CpuidWords {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidWords cpuid(uint32_t leaf, uint32_t subleaf = 0) {
    CpuidWords words;
#if defined(_MSC_VER)
    int highest[4], out[4];
    __cpuid(highest, 0);
    if (static_cast<uint32_t>(highest[0]) < leaf) return words;
    __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
    words = {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]),
             static_cast<uint32_t>(out[3])};
#else
    __get_cpuid_count(leaf, subleaf, &words.eax, &words.ebx, &words.ecx, &words.edx);
#endif
    return words;
}

// XCR0: the register states that the operating system saves. A CPU may have AVX-512 while the system would lose its
// registers.
uint64_t enabled_register_states() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

std::vector<Isa> detect() {
    std::vector<Isa> found{Isa::scalar};
    const auto all = [](uint32_t word, std::initializer_list<int> bits) {
        return std::all_of(bits.begin(), bits.end(), [&](int bit) { return (word >> bit) & 1U; });
    };
    const CpuidWords leaf1 = cpuid(1), leaf7 = cpuid(7);
    if (!all(leaf1.ecx, {27})) return found;  // OSXSAVE: xgetbv exists
    const uint64_t states = enabled_register_states();
    const bool ymm = (states & 0x06) == 0x06, zmm = (states & 0xe6) == 0xe6;
    // leaf 1 ecx: FMA 12, POPCNT 23, AVX 28, F16C 29; leaf 7 ebx: AVX2 5
    if (!ymm || !all(leaf1.ecx, {12, 23, 28, 29}) || !all(leaf7.ebx, {5})) return found;
    found.push_back(Isa::avx2);
    // leaf 7 ebx: F 16, DQ 17, BW 30, VL 31; ecx: VNNI 11, VPOPCNTDQ 14
    if (!zmm || !all(leaf7.ebx, {16, 17, 30, 31}) || !all(leaf7.ecx, {11, 14})) return found;
    found.push_back(Isa::avx512);
    // leaf 7.1 eax: AVX512_BF16 5
    if (all(cpuid(7, 1).eax, {5})) found.push_back(Isa::avx512_bf16);
    return found;
}

#elif CHAMFER_ARM

bool has_dot_product() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) >> 20) & 1U;  // HWCAP_ASIMDDP
#elif defined(__APPLE__)
    int32_t value = 0;
    size_t size = sizeof(value);
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
#else
    return false;
#endif
}

std::vector<Isa> detect() {
    std::vector<Isa> found{Isa::scalar, Isa::neon};
    if (has_dot_product()) found.push_back(Isa::neon_dotprod);
    return found;
}

#else

std::vector<Isa> detect() { return {Isa::scalar}; }

#endif

constexpr std::array<const char*, 6> kNames{"scalar", "avx2", "avx512", "avx512_bf16", "neon", "neon_dotprod"};

}  // namespace

const std::vector<Isa>& available_isas() {
    static const std::vector<Isa> isas = detect();
    return isas;
}

const char* isa_name(Isa isa) { return kNames[static_cast<size_t>(isa)]; }

Isa parse_isa(std::string_view name, const char* argument) {
    std::string choices;
    for (const Isa isa : available_isas()) {
        if (name == isa_name(isa)) return isa;
        choices += (choices.empty() ? "" : ", ") + std::string(isa_name(isa));
    }
    const bool known = std::find(kNames.begin(), kNames.end(), name) != kNames.end();
    throw std::invalid_argument(std::string(argument) + ": '" + std::string(name) +
                                (known ? "' is not supported by this CPU" : "' is not an instruction set") +
                                "; available: " + choices);
}

}  // namespace chamfer
