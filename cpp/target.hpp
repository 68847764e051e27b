// Target regions: compile a stretch of code for one instruction set, the rest of the file for the lowest.
//
// No file gets -mavx2 or the like: inline functions of the standard library, compiled with such a flag, may be the
// copies that the linker keeps for everyone, and crash on an older CPU. Open a region after every #include, outside
// namespaces.
#pragma once

#define CHAMFER_PRAGMA(text) _Pragma(#text)

#if defined(_MSC_VER) && !defined(__clang__)  // MSVC accepts any intrinsic anywhere
#define CHAMFER_TARGET_BEGIN(features)
#define CHAMFER_TARGET_END
#elif defined(__clang__)
#define CHAMFER_TARGET_BEGIN(features) \
    CHAMFER_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define CHAMFER_TARGET_END CHAMFER_PRAGMA(clang attribute pop)
#else
#define CHAMFER_TARGET_BEGIN(features) \
    CHAMFER_PRAGMA(GCC push_options)   \
    CHAMFER_PRAGMA(GCC target(features))
#define CHAMFER_TARGET_END CHAMFER_PRAGMA(GCC pop_options)
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define CHAMFER_INLINE __forceinline
#define CHAMFER_UNROLL
#define CHAMFER_PREFETCH(address) _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T0)
#else
#define CHAMFER_INLINE inline __attribute__((always_inline))
#define CHAMFER_PREFETCH(address) __builtin_prefetch(reinterpret_cast<const void*>(address))
#if defined(__clang__)
#define CHAMFER_UNROLL CHAMFER_PRAGMA(clang loop unroll(full))
#else
#define CHAMFER_UNROLL CHAMFER_PRAGMA(GCC unroll 32)
#endif
#endif

// Says that a value is wanted in a register here. GCC 12 otherwise spills all accumulators of some tiles in their inner
// loop, for the sake of what follows it.
#if defined(_MSC_VER) && !defined(__clang__)
#define CHAMFER_IN_REGISTER(value)
#elif defined(__x86_64__)
#define CHAMFER_IN_REGISTER(value) __asm__("" : "+v"(value))
#elif defined(__aarch64__)
#define CHAMFER_IN_REGISTER(value) __asm__("" : "+w"(value))
#else
#define CHAMFER_IN_REGISTER(value)
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define CHAMFER_X86 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define CHAMFER_ARM 1
#endif
