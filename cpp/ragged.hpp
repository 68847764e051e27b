// Views of ragged collections: the core owns no input.
#pragma once

#include <cstddef>
#include <cstdint>

namespace chamfer {

// float32, float16 and bfloat16 numbers, or codes of so many bits for a number.
enum class Dtype { float32, float16, bfloat16, codes8, codes4, codes2, codes1 };

inline unsigned bits_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float32: return 32;
        case Dtype::float16:
        case Dtype::bfloat16: return 16;
        case Dtype::codes8: return 8;
        case Dtype::codes4: return 4;
        case Dtype::codes2: return 2;
        default: return 1;
    }
}
inline bool is_codes(Dtype dtype) { return bits_of(dtype) <= 8; }

// What codes stand for. The direction m is what the vectors share much of, and queries even more; or zeros.
//
// 8 bits: d = center + L⁻¹ (scales[D] · (code - 128)), L = I + (stretch - 1) m mᵀ / <m, m>. With one scale per document
// the greatest integer is the greatest similarity. Stretched along m, codes are finest where queries look most.
//
// 4, 2, 1 bits: d = center + shift m + P (scale · dim_scales ⊙ (levels[code] - 128)), P = I - m mᵀ / <m, m>, with shift
// and scale of each vector.
struct Codebook {
    const float* center = nullptr;          // (dim,)
    const float* direction = nullptr;       // (dim,)
    float stretch = 1.0f;                   // 8 bits
    const float* scales = nullptr;          // 8 bits: (size,)
    const float* errors = nullptr;          // 8 bits: (size,), see codes.hpp
    const float* norms = nullptr;           // 8 bits: (size,), see codes.hpp
    const uint8_t* levels = nullptr;        // fewer: (16,), ascending
    float levels_per_rms = 1.0f;            // fewer: the level that stands for one rms, less 128
    const float* dim_scales = nullptr;      // fewer: (dim,), positive
    const uint16_t* token_terms = nullptr;  // fewer: (num_tokens, 2) float16, scale and shift
};

// A collection of sets of vectors. Item i is rows offsets[i] .. offsets[i + 1] of `vectors`, (offsets[size], dim)
// row-major; rows of bfloat16 and of codes are padded with zeros to whole words of 32 bits, and code j of a byte is in
// its bits from j * bits on. Precondition, checked by the bindings: offsets start at 0, never decrease and end at the
// number of rows.
struct TokenVectors {
    const void* vectors;
    Dtype dtype;
    const int64_t* offsets;
    size_t size;
    size_t dim;
    Codebook codebook = {};  // of codes

    size_t length(size_t i) const { return static_cast<size_t>(offsets[i + 1] - offsets[i]); }
    size_t num_tokens() const { return static_cast<size_t>(offsets[size]); }
    size_t row_bytes() const {
        const size_t bits = dim * bits_of(dtype);
        return dtype == Dtype::float32 || dtype == Dtype::float16 ? bits / 8 : (bits + 31) / 32 * 4;
    }
    const uint8_t* row(size_t i) const { return static_cast<const uint8_t*>(vectors) + i * row_bytes(); }
    const float* float32_rows(size_t row) const { return static_cast<const float*>(vectors) + row * dim; }
    const uint16_t* float16_rows(size_t row) const { return static_cast<const uint16_t*>(vectors) + row * dim; }
};

// The first row that holds a NaN, an infinity or a number of magnitude 2^50 or more, or -1. vectors: (num_rows, dim),
// float32 or float16. Below that no inner product overflows, so no score is NaN and -inf means an empty document.
int64_t first_row_out_of_range(const void* vectors, Dtype dtype, size_t num_rows, size_t dim, size_t num_threads);

}  // namespace chamfer
