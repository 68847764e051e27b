#include "codes.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "linear.hpp"
#include "product.hpp"

namespace chamfer {
namespace {

constexpr size_t kItemsAtATime = 16;

template <class F>
void for_each_item(const TokenVectors& items, const Threads& num_threads, F&& f) {
    const size_t num_stretches = (items.size + kItemsAtATime - 1) / kItemsAtATime;
    parallel_for(num_stretches, num_threads, [&](size_t, size_t stretch) {
        const size_t begin = stretch * kItemsAtATime, end = std::min(begin + kItemsAtATime, items.size);
        for (size_t item = begin; item < end; ++item) f(item);
    });
}

// A row of float32 or float16 as float32.
const float* float_row(const TokenVectors& items, size_t row, std::vector<float>& buffer) {
    if (items.dtype == Dtype::float32) return items.float32_rows(row);
    buffer.resize(items.dim);
    product_kernels(Isa::scalar).half_to_float(items.float16_rows(row), items.dim, buffer.data());
    return buffer.data();
}

// The float32 that is not below x and a little above, so that what went into x may have been rounded.
float not_below(double x) {
    return std::nextafter(static_cast<float>(x * (1.0 + 1e-6)), std::numeric_limits<float>::infinity());
}

// y = L (row - center).
void stretch(const float* row, const Codebook& codebook, size_t dim, double* y) {
    for (size_t i = 0; i < dim; ++i) y[i] = static_cast<double>(row[i]) - static_cast<double>(codebook.center[i]);
    const double along = (static_cast<double>(codebook.stretch) - 1.0) * along_direction(y, codebook.direction, dim);
    for (size_t i = 0; i < dim; ++i) y[i] += along * static_cast<double>(codebook.direction[i]);
}

}  // namespace

bool are_codes_of(const TokenVectors& codes, const TokenVectors& documents) {
    constexpr size_t kSamples = 64;
    const Codebook& book = codes.codebook;
    const size_t num_samples = std::min(kSamples, documents.size);
    std::vector<float> buffer;
    std::vector<double> y(documents.dim);
    for (size_t sample = 0; sample < num_samples; ++sample) {
        size_t document = sample * documents.size / num_samples;
        const size_t end = (sample + 1) * documents.size / num_samples;
        while (document < end && documents.length(document) == 0) ++document;
        if (document == end) continue;
        // Another place in every document: the first vectors are often alike.
        const size_t token = sample * 40503 % documents.length(document);
        const size_t row = static_cast<size_t>(documents.offsets[document]) + token;
        stretch(float_row(documents, row, buffer), book, documents.dim, y.data());
        double squares = 0.0;
        for (size_t i = 0; i < documents.dim; ++i) {
            const double number = (codes.row(row)[i] - 128) * static_cast<double>(book.scales[document]);
            squares += (y[i] - number) * (y[i] - number);
        }
        if (!(std::sqrt(squares) <= static_cast<double>(book.errors[document]))) return false;
    }
    return true;
}

void encode_bfloat16(const TokenVectors& items, const Threads& num_threads, uint8_t* codes) {
    const size_t row_bytes = TokenVectors{nullptr, Dtype::bfloat16, nullptr, 0, items.dim}.row_bytes();
    for_each_item(items, num_threads, [&](size_t item) {
        std::vector<float> buffer;
        for (auto row = static_cast<size_t>(items.offsets[item]); row < static_cast<size_t>(items.offsets[item + 1]);
             ++row) {
            const float* numbers = float_row(items, row, buffer);
            uint8_t* out = codes + row * row_bytes;
            std::fill(out, out + row_bytes, uint8_t{0});
            for (size_t i = 0; i < items.dim; ++i) {
                const uint16_t number = to_bfloat16(numbers[i]);
                std::memcpy(out + 2 * i, &number, 2);
            }
        }
    });
}

void encode_codes8(const TokenVectors& items, const Codebook& codebook, const Threads& num_threads, uint8_t* codes,
                   float* scales, float* errors, float* norms) {
    const size_t dim = items.dim;
    const size_t row_bytes = TokenVectors{nullptr, Dtype::codes8, nullptr, 0, dim}.row_bytes();
    for_each_item(items, num_threads, [&](size_t item) {
        const auto first = static_cast<size_t>(items.offsets[item]);
        const size_t length = items.length(item);
        std::vector<float> buffer;
        std::vector<double> stretched(length * dim);
        double largest = 0.0;
        for (size_t t = 0; t < length; ++t) {
            double* y = stretched.data() + t * dim;
            stretch(float_row(items, first + t, buffer), codebook, dim, y);
            for (size_t i = 0; i < dim; ++i) largest = std::max(largest, std::abs(y[i]));
        }
        // Subnormal scales would make the quotient overflow; what is that small rounds to zero, and `errors` tells.
        const float scale = std::max(static_cast<float>(largest / 127.0), std::numeric_limits<float>::min());
        double error = 0.0, norm = 0.0;
        for (size_t t = 0; t < length; ++t) {
            const double* y = stretched.data() + t * dim;
            uint8_t* out = codes + (first + t) * row_bytes;
            double error_of_row = 0.0, norm_of_row = 0.0;
            for (size_t i = 0; i < dim; ++i) {
                const double number = std::clamp(round_to_even(y[i] / static_cast<double>(scale)), -127.0, 127.0);
                const double rounded = number * static_cast<double>(scale), difference = y[i] - rounded;
                error_of_row += difference * difference;
                norm_of_row += rounded * rounded;
                out[i] = static_cast<uint8_t>(number + 128.0);
            }
            std::fill(out + dim, out + row_bytes, uint8_t{0});
            error = std::max(error, error_of_row);
            norm = std::max(norm, norm_of_row);
        }
        scales[item] = scale;
        errors[item] = not_below(std::sqrt(error));
        norms[item] = not_below(std::sqrt(norm));
    });
}

void encode_codes(const TokenVectors& items, const Codebook& codebook, Dtype dtype, const Threads& num_threads,
                  uint8_t* codes, float* token_terms) {
    const size_t dim = items.dim, bits = bits_of(dtype), num_levels = size_t{1} << bits;
    assert(bits < 8);
    const size_t row_bytes = TokenVectors{nullptr, dtype, nullptr, 0, dim}.row_bytes();
    // Levels ascend; a number belongs to the level between whose two borders it lies. Their unit is that of the rms.
    std::array<double, 16> borders{};
    for (size_t c = 0; c + 1 < num_levels; ++c)
        borders[c] =
            (codebook.levels[c] + codebook.levels[c + 1] - 256) / 2.0 / static_cast<double>(codebook.levels_per_rms);
    for_each_item(items, num_threads, [&](size_t item) {
        std::vector<float> buffer;
        std::vector<double> z(dim);
        for (auto row = static_cast<size_t>(items.offsets[item]); row < static_cast<size_t>(items.offsets[item + 1]);
             ++row) {
            const float* numbers = float_row(items, row, buffer);
            for (size_t i = 0; i < dim; ++i)
                z[i] = static_cast<double>(numbers[i]) - static_cast<double>(codebook.center[i]);
            const double shift = along_direction(z.data(), codebook.direction, dim);
            double squares = 0.0;
            for (size_t i = 0; i < dim; ++i) {
                z[i] = (z[i] - shift * static_cast<double>(codebook.direction[i])) /
                       static_cast<double>(codebook.dim_scales[i]);
                squares += z[i] * z[i];
            }
            const double rms = std::sqrt(squares / static_cast<double>(dim));
            uint8_t* out = codes + row * row_bytes;
            std::fill(out, out + row_bytes, uint8_t{0});
            double along_levels = 0.0;
            for (size_t i = 0; i < dim; ++i) {
                const double number = rms > 0.0 ? z[i] / rms : 0.0;
                unsigned code = 0;
                for (size_t c = 0; c + 1 < num_levels; ++c) code += number > borders[c];
                out[i * bits / 8] = static_cast<uint8_t>(out[i * bits / 8] | code << (i * bits % 8));
                along_levels += z[i] * (codebook.levels[code] - 128);
            }
            token_terms[2 * row] = static_cast<float>(along_levels > 0.0 ? squares / along_levels : 0.0);
            token_terms[2 * row + 1] = static_cast<float>(shift);
        }
    });
}

}  // namespace chamfer
