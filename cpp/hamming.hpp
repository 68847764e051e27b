// Hamming distances between packed binary codes, and the nearest codes of each query.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"
#include "parallel.hpp"

namespace chamfer {

// Kernels are pure: no allocation, no throw, no globals; they read no byte beyond the codes, at any alignment.
struct HammingKernels {
    // distances[i] = the number of bits in which `query` and codes[i] differ, i < num_codes. Codes are code_size >= 1
    // bytes (below 2^28) and lie side by side. What lies bytes_ahead of the code at work is prefetched, unless 0:
    // nothing need be there.
    void (*distances)(const uint8_t* query, const uint8_t* codes, size_t num_codes, size_t code_size,
                      size_t bytes_ahead, int32_t* distances);
};

const HammingKernels& hamming_kernels(Isa isa);

struct HammingInput {
    const uint8_t* query_codes;  // (num_queries, code_size)
    const uint8_t* codes;        // (num_codes, code_size)
    size_t num_queries, num_codes, code_size;
    Threads num_threads;
    Isa isa;
};

// The k codes nearest to each query, ties to the lower row: distances and rows, (num_queries, k). What is missing is
// the largest int32 and -1.
void hamming_topk(const HammingInput& input, size_t k, int32_t* distances, int64_t* rows);

}  // namespace chamfer
