// convert.hpp: every conversion of every instruction set, to the bit.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "convert.hpp"
#include "testing.hpp"

namespace chamfer::testing {

namespace {

// Rounding through double, in the unit of the last place of the half: exact steps and one rounding, half to even.
uint16_t half_by_definition(float x) {
    const double magnitude = std::abs(static_cast<double>(x));
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (magnitude >= 65520.0) return sign | 0x7c00;
    const int exponent = std::max(-14, magnitude > 0.0 ? std::ilogb(magnitude) : -14);
    const double units = std::nearbyint(std::ldexp(magnitude, 10 - exponent));
    // A thousand and twenty-four units are the next exponent's first number: the fields carry.
    return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + static_cast<int>(units));
}

// Around every half and around the middles between two: where rounding decides.
std::vector<float> numbers_near_halves() {
    std::vector<float> numbers;
    for (uint32_t half = 0; half < 0x7c00; half += quick ? 7 : 1) {
        const float low = static_cast<float>(half_value(static_cast<uint16_t>(half)));
        const float high = half == 0x7bff ? 65536.0f : static_cast<float>(half_value(static_cast<uint16_t>(half + 1)));
        const float middle = (low + high) / 2;
        for (const float x : {low, std::nextafter(middle, 0.0f), middle, std::nextafter(middle, kInfinity)}) {
            numbers.push_back(x);
            numbers.push_back(-x);
        }
    }
    for (const float x : {65519.996f, 1e-45f, 1e-38f, 0x1p-25f, 0x1.000002p-25f}) numbers.push_back(x);
    return numbers;
}

// Numbers of any magnitude: the bits of a float, infinity and NaN left out.
std::vector<float> any_numbers(Random& random, size_t n) {
    std::vector<float> numbers(n);
    for (float& x : numbers) {
        const uint32_t sign = static_cast<uint32_t>(random.below(2)) << 31;
        x = std::bit_cast<float>(sign | static_cast<uint32_t>(random.below(0x7f800000)));
    }
    return numbers;
}

void check_conversions(Isa isa, const std::vector<float>& numbers) {
    const size_t n = numbers.size();
    at("isa %s, %zu numbers", isa_name(isa), n);
    const ConvertKernels& kernels = convert_kernels(isa);
    const Exact<float> x(numbers);

    Exact<uint16_t> halves(n, uint16_t{0xffff});
    const bool fits = kernels.float_to_half(x.data(), n, halves.data());
    std::vector<uint16_t> nearest(n);
    std::transform(x.begin(), x.end(), nearest.begin(), half_by_definition);
    CHECK("float_to_half gives the nearest half, the even of two", same_bits(halves.data(), nearest.data(), n));
    CHECK("float_to_half tells whether all fit",
          fits == std::all_of(x.begin(), x.end(), [](float number) { return std::abs(number) < 65520.0f; }));

    Exact<int8_t> codes(n, int8_t{99});
    const float scale = kernels.float_to_int8(x.data(), n, codes.data());
    float magnitude = 0.0f;
    for (const float number : x) magnitude = std::max(magnitude, std::abs(number));
    const float divisor = magnitude / 127.0f;
    CHECK("float_to_int8 returns the largest magnitude over 127", same_bits(&scale, &divisor, 1));
    bool codes_hold = true;
    for (size_t i = 0; i < n; ++i) {
        const float code = divisor > 0.0f ? std::nearbyint(x[i] / divisor) : 0.0f;
        codes_hold = codes_hold && codes[i] == static_cast<int>(std::clamp(code, -127.0f, 127.0f));
    }
    CHECK("float_to_int8 rounds to the nearest code, the even of two", codes_hold);

    Exact<uint8_t> bits((n + 7) / 8, uint8_t{0xaa});
    kernels.float_to_bits(x.data(), n, bits.data());
    bool bits_hold = true;
    for (size_t i = 0; i < bits.size() * 8; ++i)
        bits_hold = bits_hold && (bits[i / 8] >> i % 8 & 1) == (i < n && x[i] > 0.0f);
    CHECK("float_to_bits sets the bits of positive numbers, the lowest first, and no others", bits_hold);
}

}  // namespace

void test_convert(Isa isa) {
    check_conversions(isa, numbers_near_halves());
    Random random(31);
    for (size_t n = 0; n <= 70; ++n) {
        check_conversions(isa, random.numbers(n));
        check_conversions(isa, any_numbers(random, n));
    }
    std::vector<float> middles(255);  // k + 1/2 where the scale is 1
    for (size_t i = 0; i < 254; ++i) middles[i] = static_cast<float>(i) - 126.5f;
    middles[254] = 127.0f;
    check_conversions(isa, middles);
    for (const float number : {0.0f, -0.0f, 1e-45f, 190e-45f, 3e-38f, 3e38f})
        check_conversions(isa, std::vector<float>(37, number));

    // Nothing is promised of them but that they are safe and that a half does not pass for finite.
    for (const float number : {kNan, kInfinity, -kInfinity}) {
        at("isa %s, 19 numbers, one of them %f", isa_name(isa), static_cast<double>(number));
        Exact<float> x(19, 1.0f);
        x[17] = number;
        Exact<uint16_t> halves(19);
        Exact<int8_t> codes(19);
        CHECK("float_to_half refuses what is not finite",
              !convert_kernels(isa).float_to_half(x.data(), 19, halves.data()));
        convert_kernels(isa).float_to_int8(x.data(), 19, codes.data());
    }
}

void test_convert_rows(Isa isa) {
    Random random(32);
    const size_t num_rows = 9, width = 21;
    Exact<float> rows(random.numbers(num_rows * width));
    for (const size_t num_threads : std::vector<size_t>{1, 3}) {
        at("isa %s, %zu threads", isa_name(isa), num_threads);
        Exact<uint8_t> whole(num_rows * width * 4);
        RowsOut out{RowFormat::float32, width, whole.data(), nullptr};
        CHECK("float32 rows are copied", convert_rows(rows.data(), num_rows, num_threads, isa, out) == -1 &&
                                             std::memcmp(whole.data(), rows.data(), whole.size()) == 0);
        Exact<int8_t> codes(num_rows * width), last(width);
        Exact<float> scales(num_rows);
        out = {RowFormat::int8, width, codes.data(), scales.data()};
        convert_rows(rows.data(), num_rows, num_threads, isa, out);
        const float scale = convert_kernels(isa).float_to_int8(&rows[(num_rows - 1) * width], width, last.data());
        CHECK("a row has its own scale", same_bits(&scale, &scales[num_rows - 1], 1) &&
                                             same_bits(last.data(), &codes[(num_rows - 1) * width], width));
        Exact<uint8_t> bits(num_rows * 3);
        out = {RowFormat::bits, width, bits.data(), nullptr};
        convert_rows(rows.data(), num_rows, num_threads, isa, out);
        CHECK("a row of bits starts at a byte", (bits[3] & 1) == (rows[width] > 0.0f));
        Exact<uint16_t> halves(num_rows * width);
        out = {RowFormat::float16, width, halves.data(), nullptr};
        CHECK("all rows fit", convert_rows(rows.data(), num_rows, num_threads, isa, out) == -1);
        const float kept[2] = {rows[5 * width], rows[7 * width]};
        rows[5 * width] = rows[7 * width] = 65520.0f;
        CHECK("the first row too large is named", convert_rows(rows.data(), num_rows, num_threads, isa, out) == 5);
        rows[5 * width] = kept[0];
        rows[7 * width] = kept[1];
    }
}

}  // namespace chamfer::testing
