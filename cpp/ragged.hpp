// Views of ragged collections: the core owns no input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

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

// Scratch memory of the kernels starts on a cache line, so that no full-width load crosses two.
template <class T>
struct CacheAligned {
    using value_type = T;
    static constexpr std::align_val_t kAlignment{64};
    CacheAligned() = default;
    template <class U>
    CacheAligned(const CacheAligned<U>&) {}
    T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
    void deallocate(T* p, size_t) { ::operator delete(p, kAlignment); }
    friend bool operator==(const CacheAligned&, const CacheAligned&) { return true; }
};

// The first row that holds a NaN, an infinity or a number of magnitude 2^50 or more, or -1. vectors: (num_rows, dim).
// Below that no inner product overflows, so no score is NaN and -inf means an empty document.
int64_t first_row_out_of_range(const void* vectors, Dtype dtype, size_t num_rows, size_t dim, size_t num_threads);

using FloatBuffer = std::vector<float, CacheAligned<float>>;

}  // namespace chamfer
