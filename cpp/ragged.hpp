// Views of ragged collections: the core owns no input.
#pragma once

#include <cstddef>
#include <cstdint>

namespace chamfer {

enum class Dtype { float32, float16 };

// A collection of sets of vectors. Item i is rows offsets[i] .. offsets[i + 1] of `vectors`, (offsets[size], dim)
// row-major. Precondition, checked by the bindings: offsets start at 0, never decrease and end at the number of rows.
struct TokenVectors {
    const void* vectors;
    Dtype dtype;
    const int64_t* offsets;
    size_t size;
    size_t dim;

    size_t length(size_t i) const { return static_cast<size_t>(offsets[i + 1] - offsets[i]); }
    size_t num_tokens() const { return static_cast<size_t>(offsets[size]); }
    const float* float32_rows(size_t row) const { return static_cast<const float*>(vectors) + row * dim; }
    const uint16_t* float16_rows(size_t row) const { return static_cast<const uint16_t*>(vectors) + row * dim; }
};

// The first row that holds a NaN, an infinity or a number of magnitude 2^50 or more, or -1. vectors: (num_rows, dim).
// Below that no inner product overflows, so no score is NaN and -inf means an empty document.
int64_t first_row_out_of_range(const void* vectors, Dtype dtype, size_t num_rows, size_t dim, size_t num_threads);

}  // namespace chamfer
