// codes.hpp and linear.hpp: token vectors to bfloat16 and to codes of 8, 4, 2 and 1 bits.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "codes.hpp"
#include "fixtures.hpp"
#include "linear.hpp"
#include "testing.hpp"

namespace chamfer::testing {

namespace {

// y = L (d - center) of one token, in the longest type there is.
std::vector<long double> stretched(const float* token, const Codebook& book, size_t dim) {
    std::vector<long double> y(dim);
    long double product = 0.0L, square = 0.0L;
    for (size_t i = 0; i < dim; ++i) {
        const auto m = static_cast<long double>(book.direction[i]);
        y[i] = static_cast<long double>(token[i]) - static_cast<long double>(book.center[i]);
        product += y[i] * m;
        square += m * m;
    }
    const long double along = square > 0.0L ? (static_cast<long double>(book.stretch) - 1.0L) * product / square : 0.0L;
    for (size_t i = 0; i < dim; ++i) y[i] += along * static_cast<long double>(book.direction[i]);
    return y;
}

void check_codes8(const Ragged& items, Dtype dtype, const Codebook& book, size_t num_threads) {
    const TokenVectors view = items.view(dtype);
    const size_t dim = items.dim, row_bytes = (dim + 3) / 4 * 4, num_tokens = view.num_tokens();
    Exact<uint8_t> codes(num_tokens * row_bytes, uint8_t{0xee});
    Exact<float> scales(view.size, kNan), errors(view.size, kNan), norms(view.size, kNan);
    encode_codes8(view, book, num_threads, codes.data(), scales.data(), errors.data(), norms.data());
    bool nearest = true, scaled = true, padded = true, errors_bound = true, norms_bound = true, tight = true;
    for (size_t item = 0; item < view.size; ++item) {
        const auto scale = static_cast<long double>(scales[item]);
        long double largest = 0.0L, error = 0.0L, norm = 0.0L, magnitude = 0.0L;
        for (int64_t row = view.offsets[item]; row < view.offsets[item + 1]; ++row) {
            const auto t = static_cast<size_t>(row);
            const std::vector<long double> y = stretched(items.token(t), book, dim);
            long double error_of_row = 0.0L, norm_of_row = 0.0L;
            for (size_t i = 0; i < dim; ++i) {
                const int number = codes[t * row_bytes + i] - 128;
                const long double rounded = scale * number, difference = y[i] - rounded;
                nearest = nearest && std::abs(number) <= 127 && std::abs(difference) <= scale * 0.5001L;
                largest = std::max(largest, std::abs(y[i]));
                error_of_row += difference * difference;
                norm_of_row += rounded * rounded;
                magnitude += std::abs(y[i]);
            }
            for (size_t i = dim; i < row_bytes; ++i) padded = padded && codes[t * row_bytes + i] == 0;
            error = std::max(error, std::sqrt(error_of_row));
            norm = std::max(norm, std::sqrt(norm_of_row));
        }
        const long double expected = std::max(largest / 127.0L, 0x1p-126L);
        scaled = scaled && std::abs(scale - expected) <= expected * 1e-7L;
        errors_bound = errors_bound && static_cast<long double>(errors[item]) >= error;
        norms_bound = norms_bound && static_cast<long double>(norms[item]) >= norm;
        tight = tight && static_cast<long double>(errors[item]) <= error * 1.00001L + magnitude * 1e-15L + 1e-44L &&
                static_cast<long double>(norms[item]) <= norm * 1.00001L + 1e-44L;
    }
    CHECK("codes of 8 bits are the nearest", nearest);
    CHECK("the scale takes the largest number to 127", scaled);
    CHECK("rows of codes are padded with zeros", padded);
    CHECK("errors bound what rounding loses", errors_bound);
    CHECK("norms bound what codes stand for", norms_bound);
    CHECK("the bounds are no more than a little above", tight);
}

void check_short_codes(const Ragged& items, Dtype dtype, const Codebook& book, Dtype codes_dtype, size_t num_threads) {
    const TokenVectors view = items.view(dtype);
    const size_t dim = items.dim, bits = bits_of(codes_dtype), row_bytes = (dim * bits + 31) / 32 * 4;
    const size_t num_tokens = view.num_tokens(), num_levels = size_t{1} << bits;
    Exact<uint8_t> codes(num_tokens * row_bytes, uint8_t{0xee});
    Exact<float> terms(2 * num_tokens, kNan);
    encode_codes(view, book, codes_dtype, num_threads, codes.data(), terms.data());
    bool nearest = true, padded = true, shifts_hold = true, scales_hold = true;
    for (size_t t = 0; t < num_tokens; ++t) {
        std::vector<long double> z(dim);
        long double product = 0.0L, square = 0.0L, length = 0.0L, squares = 0.0L, along_levels = 0.0L;
        for (size_t i = 0; i < dim; ++i) {
            const auto m = static_cast<long double>(book.direction[i]);
            z[i] = static_cast<long double>(items.token(t)[i]) - static_cast<long double>(book.center[i]);
            product += z[i] * m;
            length += std::abs(z[i]);
            square += m * m;
        }
        const long double shift = square > 0.0L ? product / square : 0.0L;
        for (size_t i = 0; i < dim; ++i) {
            z[i] -= shift * static_cast<long double>(book.direction[i]);
            z[i] /= static_cast<long double>(book.dim_scales[i]);
            squares += z[i] * z[i];
        }
        const long double rms = std::sqrt(squares / static_cast<long double>(dim));
        for (size_t i = 0; i < row_bytes * 8 / bits; ++i) {
            const size_t code = codes[t * row_bytes + i * bits / 8] >> i * bits % 8 & (num_levels - 1);
            if (i >= dim) {
                padded = padded && code == 0;
                continue;
            }
            const auto distance = [&](size_t c) {
                const long double level = (book.levels[c] - 128) / static_cast<long double>(book.levels_per_rms);
                return std::abs((rms > 0.0L ? z[i] / rms : 0.0L) - level);
            };
            for (size_t c = 0; c < num_levels; ++c) nearest = nearest && distance(code) <= distance(c) + 1e-9L;
            along_levels += z[i] * (book.levels[code] - 128);
        }
        const long double scale = along_levels > 0.0L ? squares / along_levels : 0.0L;
        scales_hold = scales_hold && std::abs(static_cast<long double>(terms[2 * t]) - scale) <= scale * 1e-6L + 1e-44L;
        const long double most = square > 0.0L ? length / std::sqrt(square) : 0.0L;
        shifts_hold =
            shifts_hold && std::abs(static_cast<long double>(terms[2 * t + 1]) - shift) <= most * 1e-6L + 1e-44L;
    }
    CHECK("a code is the level nearest to the number over the rms", nearest);
    CHECK("rows of codes are padded with zeros", padded);
    CHECK("the scale makes the product of a vector with its code right", scales_hold);
    CHECK("the shift is how much of the direction is in a vector", shifts_hold);
}

void check_bfloat16(const Ragged& items, Dtype dtype, size_t num_threads) {
    const size_t dim = items.dim, row_bytes = (dim + 1) / 2 * 4, num_tokens = items.view().num_tokens();
    Exact<uint8_t> codes(num_tokens * row_bytes, uint8_t{0xee});
    encode_bfloat16(items.view(dtype), num_threads, codes.data());
    bool holds = true, padded = true;
    for (size_t t = 0; t < num_tokens; ++t) {
        for (size_t i = 0; i < row_bytes / 2; ++i) {
            uint16_t number;
            std::memcpy(&number, codes.data() + t * row_bytes + 2 * i, 2);
            if (i < dim) holds = holds && number == to_bfloat16(items.token(t)[i]);
            if (i >= dim) padded = padded && number == 0;
        }
    }
    CHECK("encode_bfloat16 rounds every number", holds);
    CHECK("rows of bfloat16 are padded with zeros", padded);
}

}  // namespace

void test_to_bfloat16() {
    bool low_holds = true, ties_hold = true, high_holds = true, exact = true;
    for (uint32_t number = 0; number < 0x7f80; ++number) {  // every finite one
        const uint32_t next = number == 0x7f7f ? number : number + 1;
        for (const uint32_t sign : {0U, 0x8000U}) {
            const uint32_t bits = (sign | number) << 16;
            const auto rounded = [&](uint32_t rest) { return to_bfloat16(std::bit_cast<float>(bits | rest)); };
            exact = exact && rounded(0) == (sign | number) &&
                    std::bit_cast<uint32_t>(from_bfloat16(static_cast<uint16_t>(sign | number))) == bits;
            low_holds = low_holds && rounded(1) == (sign | number) && rounded(0x7fff) == (sign | number);
            ties_hold = ties_hold && rounded(0x8000) == (sign | (number % 2 ? next : number));
            high_holds = high_holds && rounded(0x8001) == (sign | next) && rounded(0xffff) == (sign | next);
        }
    }
    at("every finite bfloat16, and the floats between");
    CHECK("numbers of bfloat16 stay", exact);
    CHECK("less than half a step rounds down", low_holds);
    CHECK("ties round to even, and the largest stays", ties_hold);
    CHECK("more than half a step rounds up, and past the largest to it", high_holds);
}

void test_codes() {
    constexpr float kHuge = 0x1.fffffep49f;
    const std::vector<size_t> dims =
        quick ? std::vector<size_t>{1, 3, 33} : std::vector<size_t>{1, 2, 3, 7, 8, 31, 33, 128, 300};
    for (const size_t dim : dims) {
        Random random(static_cast<uint32_t>(dim));
        std::vector<size_t> lengths{0, 1, 5, 0, 2, 0};
        for (size_t i = 0; i < (quick ? 13 : 40); ++i) lengths.push_back(i % 4);  // more than are handed out at a time
        for (const Dtype dtype : {Dtype::float32, Dtype::float16}) {
            Ragged items(random, lengths, dim, dtype == Dtype::float16);
            if (dtype == Dtype::float32) {  // tokens: 0 zero, 1 and 2 of the ends of the range, 3 subnormal
                for (size_t i = 0; i < dim; ++i) {
                    (*items.floats)[i] = 0.0f;
                    (*items.floats)[dim + i] = i % 2 ? kHuge : -kHuge;
                    (*items.floats)[7 * dim + i] *= 1e-44f;
                    (*items.floats)[9 * dim + i] *= 1e-30f;
                }
            }
            for (const size_t num_threads : std::vector<size_t>{1, 3}) {
                at("dim %zu, %s to bfloat16, %zu threads", dim, dtype == Dtype::float16 ? "float16" : "float32",
                   num_threads);
                check_bfloat16(items, dtype, num_threads);
            }
            for (const bool centred : {false, true}) {
                const Exact<float> zeros(dim), center(centred ? random.numbers(dim) : std::vector<float>(dim));
                const Exact<float> direction(random.numbers(dim));
                Exact<float> dim_scales(random.numbers(dim));
                for (float& x : dim_scales) x = centred ? std::abs(x) + 0.01f : 1.0f;
                Exact<uint8_t> levels(16);
                Codebook book;
                book.center = center.data();
                book.dim_scales = dim_scales.data();
                book.levels = levels.data();
                for (const float* m : {zeros.data(), direction.data()}) {
                    const size_t num_threads = centred ? 3 : 1;
                    book.direction = m;
                    for (const float stretch : {1.0f, 6.5f, 1000.0f}) {
                        at("dim %zu, %s to 8 bits, %s, %s, stretch %g", dim,
                           dtype == Dtype::float16 ? "float16" : "float32", centred ? "center" : "no center",
                           m == zeros.data() ? "no direction" : "direction", static_cast<double>(stretch));
                        book.stretch = stretch;
                        check_codes8(items, dtype, book, num_threads);
                    }
                    for (const Dtype codes : {Dtype::codes4, Dtype::codes2, Dtype::codes1}) {
                        if (dim == 1 && m == direction.data()) continue;  // leaves nothing but what rounding leaves
                        const size_t num_levels = size_t{1} << bits_of(codes);
                        for (size_t c = 0; c < num_levels; ++c)
                            levels[c] = static_cast<uint8_t>(9 + 238 * c / (num_levels - 1));
                        book.levels_per_rms = num_levels == 2 ? 119.0f : 45.0f;
                        at("dim %zu, %s to %u bits, %s, %s", dim, dtype == Dtype::float16 ? "float16" : "float32",
                           bits_of(codes), centred ? "center" : "no center",
                           m == zeros.data() ? "no direction" : "direction");
                        check_short_codes(items, dtype, book, codes, num_threads);
                    }
                }
            }
        }
    }
}

}  // namespace chamfer::testing
