// What one core can do at best: loops that do one kind of instruction and nothing else, or only read memory. The
// benchmarks time them beside the kernels, so that each kernel's time can be given as a fraction of its limit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"

namespace chamfer {

// fma_f32: float32 multiply-adds. dot_bf16: bfloat16 products summed in float32. dot_i8: int8 products summed in int32.
// popcount: bits of an exclusive or, counted and summed.
enum class Peak { fma_f32, dot_bf16, dot_i8, popcount };

// Runs `rounds` turns of the instruction set's best loop, all in registers. Returns the operations done: 2 a
// multiply-add, 1 a counted bit; 0 where the level has no such instruction (scalar has none of them).
uint64_t run_peak(Peak peak, Isa isa, uint64_t rounds);

// Reads `buffer` (num_bytes a multiple of 1024) once with the widest loads, prefetching `prefetch_bytes` ahead; 0
// leaves that to the machine. Returns the sum of its 64-bit words, so that no load can be left out.
uint64_t read_memory(const void* buffer, size_t num_bytes, size_t prefetch_bytes, Isa isa);

}  // namespace chamfer
