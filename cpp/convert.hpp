// Rows of float32 to the compact forms that encodings are kept in: half precision, int8 with a scale, sign bits.
//
// Every instruction set gives the same bits. Numbers must be finite; others give unspecified codes, but are safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"
#include "parallel.hpp"

namespace chamfer {

// Kernels are pure: no allocation, no throw, no globals. No alignment is needed, and nothing past n is touched.
struct ConvertKernels {
    // out[i] = the half nearest to x[i], the even one of two, subnormal halves included. Returns whether all are finite
    // halves: |x[i]| < 65520.
    bool (*float_to_half)(const float* x, size_t n, uint16_t* out);
    // codes[i] = x[i] / scale, rounded half to even, -127 to 127, where scale = max |x[i]| / 127 is what is returned;
    // all codes are 0 where it is 0. Both divisions are float32's.
    float (*float_to_int8)(const float* x, size_t n, int8_t* codes);
    // Bit i % 8 of bits[i / 8] = x[i] > 0; bits past n in the last byte are 0.
    void (*float_to_bits)(const float* x, size_t n, uint8_t* bits);
};

const ConvertKernels& convert_kernels(Isa isa);

enum class RowFormat { float32, float16, int8, bits };

// Where rows of `width` numbers are written to: (number of rows, row_bytes()) bytes and, for int8, one scale per row.
struct RowsOut {
    RowFormat format;
    size_t width;
    void* rows;
    float* scales;

    size_t row_bytes() const;
    void* row(size_t i) const { return static_cast<char*>(rows) + i * row_bytes(); }
    // Writes row i, a copy for float32. Returns false if a number is too large for a half.
    bool write(const ConvertKernels& kernels, size_t i, const float* numbers) const;
};

// Converts num_rows rows of out.width numbers. Returns the first row with a number too large for a half, or -1.
int64_t convert_rows(const float* rows, size_t num_rows, const Threads& num_threads, Isa isa, const RowsOut& out);

}  // namespace chamfer
