// What encoding documents and quantizing queries must do alike.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace chamfer {

// <x, m> / <m, m>: how much of m is in x; 0 if m is zero.
template <class Number>
double along_direction(const Number* x, const float* m, size_t dim) {
    double product = 0.0, square = 0.0;
    for (size_t i = 0; i < dim; ++i) {
        product += static_cast<double>(x[i]) * static_cast<double>(m[i]);
        square += static_cast<double>(m[i]) * static_cast<double>(m[i]);
    }
    return square > 0.0 ? product / square : 0.0;
}

// The nearest integer, ties to even; |x| < 2^51. (std::nearbyint is a call without SSE4.1.)
inline double round_to_even(double x) {
    constexpr double kUnitInTheLastPlace = 0x1.8p52;  // numbers of this size are integers
    return (x + kUnitInTheLastPlace) - kUnitInTheLastPlace;
}

// The nearest bfloat16, ties to even. x is finite; what rounds past the largest stays the largest.
inline uint16_t to_bfloat16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffff;
    const uint32_t rounded = std::min(magnitude + 0x7fff + ((magnitude >> 16) & 1), 0x7f7fffffU);
    return static_cast<uint16_t>(rounded >> 16 | bits >> 31 << 15);
}

inline float from_bfloat16(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

}  // namespace chamfer
