// product.hpp: every kernel of every instruction set.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fixtures.hpp"
#include "product.hpp"
#include "testing.hpp"

namespace chamfer::testing {

namespace {

void check_product(Isa isa, const Products& p, const Packed& packed, size_t num_rows, size_t num_columns) {
    const size_t dim = p.dim, stride = dim + num_rows % 3, num_lanes = packed.num_lanes;
    at("isa %s, %zu rows %zu apart, %zu columns, dim %zu", isa_name(isa), num_rows, stride, num_columns, dim);
    Exact<float> rows(num_rows ? (num_rows - 1) * stride + dim : 0, kNan);  // NaN between the rows
    for (size_t r = 0; r < num_rows; ++r) std::copy_n(&p.rows[r * dim], dim, &rows[r * stride]);
    const auto product = [&](size_t r, size_t c) { return c < num_columns ? p.of(r, c).by(isa) : 0.0f; };

    Exact<float> out(num_rows * num_lanes, kNan);
    packed.kernels.multiply(packed.view(dim), rows.data(), num_rows, stride, out.data());
    std::vector<float> products(num_rows * num_lanes);
    for (size_t i = 0; i < products.size(); ++i) products[i] = product(i / num_lanes, i % num_lanes);
    CHECK("multiply gives the chain of multiply-adds in order, to the bit",
          same_bits(out.data(), products.data(), products.size()));

    Exact<float> maxima(num_lanes);
    for (size_t c = 0; c < num_lanes; ++c) maxima[c] = c % 3 ? -kInfinity : 0.125f;
    std::vector<float> largest(maxima.begin(), maxima.end());
    for (size_t i = 0; i < products.size(); ++i) {
        largest[i % num_lanes] = std::max(largest[i % num_lanes], products[i]);
    }
    const Ahead ahead{reinterpret_cast<uintptr_t>(rows.end()), stride * 4, 16};  // out of bounds: prefetches may be
    packed.kernels.float32.fold(packed.view(dim), Rows::of_floats(rows.data(), stride, dim), num_rows, ahead,
                                maxima.data());
    CHECK("fold keeps the largest product of each column and what was there",
          same_bits(maxima.data(), largest.data(), num_lanes));

    const size_t words = (num_columns + 31) / 32 + num_rows % 2;
    Exact<uint32_t> bits(num_rows * words);
    packed.kernels.sign_bits(packed.view(dim), rows.data(), num_rows, stride, bits.data(), words);
    bool signs_hold = true;
    for (size_t r = 0; r < num_rows; ++r) {
        for (size_t c = 0; c < words * 32; ++c) {
            const bool positive = c < num_columns && product(r, c) > 0.0f;
            signs_hold = signs_hold && (bits[r * words + c / 32] >> c % 32 & 1) == positive;
        }
    }
    CHECK("sign_bits sets bit c of a row where its product with column c is positive", signs_hold);
}

}  // namespace

// All heights and widths at short dims: the tiles depend on these two alone. Longer dims take the edges of tiles.
void test_products(const std::vector<Isa>& isas) {
    std::vector<size_t> all_rows, all_columns;
    for (size_t n = 0; n <= 40; ++n) all_rows.push_back(n);
    for (size_t n = 1; n <= 70; ++n) all_columns.push_back(n);
    const std::vector<size_t> some_rows{0, 1, 4, 5, 12, 13, 25, 37}, some_columns{1, 3, 8, 9, 16, 17, 33, 48, 70, 100};
    for (const size_t dim : std::vector<size_t>{1, 2, 3, 5, 8, 16, 17, 33, 96, 127, 128, 129, 1024}) {
        const bool thorough = quick ? dim == 3 : dim <= 17;
        const Products p(dim, quick ? 40 : kMaxRows);
        at("dim %zu", dim);
        CHECK("the error of a dot product is at most dim 2^-24 sum |x y|",
              std::all_of(p.dots.begin(), p.dots.end(), within_bound));
        for (const Isa isa : isas) {
            for (const size_t num_columns : thorough ? all_columns : some_columns) {
                const Packed packed(isa, p, num_columns);
                for (const size_t num_rows : thorough ? all_rows : some_rows) {
                    check_product(isa, p, packed, num_rows, num_columns);
                }
            }
            if (quick) continue;
            for (const size_t num_columns : std::vector<size_t>{100, 160}) {
                check_product(isa, p, Packed(isa, p, num_columns), kMaxRows, num_columns);
            }
        }
    }
}

void test_sum_rows(Isa isa) {
    Random random(7);
    for (const size_t width : std::vector<size_t>{16, 32, 48, 64, 80, 96, 112, 128, 144, 1024}) {
        for (const size_t num_indexes : std::vector<size_t>{0, 1, 2, 9, 40}) {
            const size_t stride = width + num_indexes % 2 * 16, num_rows = 20;
            at("isa %s, %zu indexes, width %zu, %zu apart", isa_name(isa), num_indexes, width, stride);
            const Exact<float> rows(random.numbers((num_rows - 1) * stride + width));
            Exact<uint32_t> indexes(num_indexes, uint32_t{num_rows - 1});
            for (size_t t = 1; t < num_indexes; ++t) indexes[t] = static_cast<uint32_t>(random.below(num_rows));
            Exact<float> out(width, kNan);
            product_kernels(isa).sum_rows(rows.data(), stride, indexes.data(), num_indexes, width, 0.3f, out.data());
            bool holds = true;
            for (size_t i = 0; i < width; ++i) {
                double sum = 0.0, magnitude = 0.0;
                for (const uint32_t index : indexes) {
                    sum += static_cast<double>(rows[index * stride + i]);
                    magnitude += std::abs(static_cast<double>(rows[index * stride + i]));
                }
                const double scale = static_cast<double>(0.3f), error = static_cast<double>(out[i]) - scale * sum;
                holds = holds && std::abs(error) <= static_cast<double>(num_indexes) * kRounding * scale * magnitude;
            }
            CHECK("sum_rows gives the scaled sum of the rows named", holds);
        }
    }
}

void test_half_to_float(Isa isa) {
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    const auto convert = [&](size_t first, size_t n) {
        at("isa %s, %zu halves from 0x%zx", isa_name(isa), n, first);
        const Exact<uint16_t> halves(std::vector<uint16_t>(all.begin() + static_cast<std::ptrdiff_t>(first),
                                                           all.begin() + static_cast<std::ptrdiff_t>(first + n)));
        Exact<float> out(n, kNan);
        product_kernels(isa).half_to_float(halves.data(), n, out.data());
        return std::all_of(out.begin(), out.end(), [&, half = halves.begin()](float x) mutable {
            const float expected = static_cast<float>(half_value(*half++));
            return std::isnan(expected) ? std::isnan(x) : same_bits(&x, &expected, 1);
        });
    };
    CHECK("half_to_float is exact for every half", convert(0, all.size()));
    for (size_t n = 0; n <= 40; ++n) CHECK("half_to_float takes any number of halves", convert(0x3bf0 + n, n));
}

}  // namespace chamfer::testing
