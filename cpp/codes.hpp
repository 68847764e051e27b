// Token vectors to codes (Codebook in ragged.hpp says what codes stand for).
#pragma once

#include <cstddef>
#include <cstdint>

#include "parallel.hpp"
#include "ragged.hpp"

namespace chamfer {

// `items` are float32 or float16; rows of `codes` are those of a collection of so many bits, all bytes written.

// bfloat16: the nearest, ties to even; what rounds past the largest stays the largest.
void encode_bfloat16(const TokenVectors& items, const Threads& num_threads, uint8_t* codes);

// 8 bits, one scale per item: y = L (d - center), code = 128 + y / scale rounded to the nearest, scale = max |y| / 127.
// scales, errors, norms: (items.size,). errors[i] bounds the Euclidean norm of y less what its code stands for,
// norms[i] that of what its code stands for, over all y of the item, rounded up; the rounding of y itself is in
// QueryColumns::Bound.
void encode_codes8(const TokenVectors& items, const Codebook& codebook, const Threads& num_threads, uint8_t* codes,
                   float* scales, float* errors, float* norms);

// 4, 2 or 1 bits and two numbers per vector: r = d - center, shift = <r, m> / <m, m>, z = (r - shift m) / dim_scales; a
// code is the level nearest to z / rms(z), and scale = <z, z> / <z, level>, which makes <z, scale · level> right
// (RaBitQ, arXiv 2405.12497). token_terms: (num_tokens, 2), scale and shift.
void encode_codes(const TokenVectors& items, const Codebook& codebook, Dtype dtype, const Threads& num_threads,
                  uint8_t* codes, float* token_terms);

// Whether codes of 8 bits are those of these documents, both of the same offsets, as far as the first vectors of a few
// show: to catch mistakes, not to prove it.
bool are_codes_of(const TokenVectors& codes, const TokenVectors& documents);

}  // namespace chamfer
