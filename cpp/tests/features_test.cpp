// features.hpp: sums of features and projections against their definitions.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "features.hpp"
#include "fixtures.hpp"
#include "testing.hpp"

namespace chamfer::testing {

namespace {

// The sum of one feature over vectors of an item, in the order that features.hpp states.
float sum_by_definition(const float* weights, float center, const Ragged& items, size_t item, Isa isa) {
    float sum = 0.0f;
    for (auto t = static_cast<size_t>(items.offsets[item]); t < static_cast<size_t>(items.offsets[item + 1]); ++t) {
        const float z = dot(weights, items.token(t), items.dim).by(isa);
        const float scaled = 0.4f * z, ramp = std::min(std::max(scaled, -1.0f), 1.0f);
        const float square = ramp * ramp, quarter = square * 0.25f, slope = 0.75f - quarter;
        const float rise = ramp * slope, gate = rise + 0.5f, activation = gate * z, feature = activation - center;
        sum += feature;
    }
    return sum;
}

// <x, y> in the order that features.hpp states.
float project_by_definition(const float* x, const float* y, size_t width, Isa isa) {
    float total = 0.0f;
    for (size_t begin = 0; begin < width; begin += 1024) {
        float sums[16] = {};
        for (size_t i = begin; i < std::min(begin + 1024, width); ++i) {
            float& sum = sums[(i - begin) % 16];
            sum = isa == Isa::scalar ? sum + x[i] * y[i] : std::fma(x[i], y[i], sum);
        }
        for (size_t half = 8; half; half /= 2) {
            for (size_t s = 0; s < half; ++s) sums[s] += sums[s + half];
        }
        total += sums[0];
    }
    return total;
}

}  // namespace

void test_sum_features(const std::vector<Isa>& isas) {
    const std::vector<std::vector<size_t>> collections{
        {}, {0, 0}, {1}, {5, 0, 1, 1, 0, 30, 23, 1, 0}, {0, 250, 1, 40, 0, 300}};
    for (const size_t dim : std::vector<size_t>{1, 3, 96, 1024}) {
        for (const size_t num_features : std::vector<size_t>{1, 15, 16, 64, 100, 600}) {
            if (quick && dim * num_features > 10000) continue;
            Random random(static_cast<uint32_t>(dim + num_features));
            const Exact<float> weights(random.numbers(num_features * dim)), center(random.numbers(num_features));
            for (const auto& lengths : collections) {
                const Ragged items(random, lengths, dim, true);
                if (items.view().num_tokens() * dim * num_features > (quick ? 300000 : 3000000)) continue;
                for (const Isa isa : isas) {
                    at("isa %s, dim %zu, %zu features, %zu items", isa_name(isa), dim, num_features, lengths.size());
                    const FeatureMap features(weights.data(), center.data(), num_features, dim, isa);
                    Exact<float> out(lengths.size() * num_features, kNan), of_halves(out.size(), kNan);
                    features.sum(items.view(), 1, out.data());
                    features.sum(items.view(Dtype::float16), 3, of_halves.data());
                    bool holds = true;
                    for (size_t i = 0; i < out.size(); ++i) {
                        const size_t feature = i % num_features;
                        const float expected =
                            sum_by_definition(&weights[feature * dim], center[feature], items, i / num_features, isa);
                        holds = holds && same_bits(&out[i], &expected, 1);
                    }
                    CHECK("features are summed in the order stated, to the bit", holds);
                    CHECK("a sum does not depend on threads and on the dtype of equal numbers",
                          same_bits(out.data(), of_halves.data(), out.size()));
                }
            }
        }
    }
}

void test_project(Isa isa) {
    for (const size_t width : std::vector<size_t>{1, 15, 16, 100, 1024, 1025, 2100}) {
        for (const size_t num_rows : std::vector<size_t>{0, 1, 3, 7, 8, 20, 300}) {
            for (const size_t num_columns : std::vector<size_t>{0, 1, 5, 64, 70, 130}) {
                if (width * num_rows * num_columns > (quick ? 400000 : 4000000)) continue;
                at("isa %s, %zu rows, width %zu, to %zu", isa_name(isa), num_rows, width, num_columns);
                Random random(static_cast<uint32_t>(width + num_rows + num_columns));
                const Exact<float> rows(random.numbers(num_rows * width));
                const Ragged matrix(random, {num_columns}, width, true);
                Exact<float> out(num_rows * num_columns, kNan), of_halves(out.size(), kNan), alone(num_columns, kNan);
                project(rows.data(), num_rows, width, matrix.floats->data(), Dtype::float32, num_columns, 1, isa,
                        out.data());
                project(rows.data(), num_rows, width, matrix.halves->data(), Dtype::float16, num_columns, 3, isa,
                        of_halves.data());
                bool holds = true, within = true;
                for (size_t i = 0; i < out.size(); ++i) {
                    const float *x = &rows[i / num_columns * width], *y = matrix.token(i % num_columns);
                    const float expected = project_by_definition(x, y, width, isa);
                    holds = holds && same_bits(&out[i], &expected, 1);
                    const Dot exact = dot(x, y, width);  // its bound is of `width` operations
                    const auto of_width = static_cast<double>(width);
                    const double bound = exact.bound / of_width * (of_width / 1024 + 70);
                    within = within && std::abs(static_cast<double>(out[i]) - exact.exact) <= bound;
                }
                CHECK("a projection adds in the order stated, to the bit", holds);
                CHECK("the error of a projection is bounded as stated", within);
                CHECK("a projection does not depend on threads and on the dtype of equal numbers",
                      same_bits(out.data(), of_halves.data(), out.size()));
                if (num_rows == 0) continue;
                project(&rows[(num_rows - 1) * width], 1, width, matrix.halves->data(), Dtype::float16, num_columns, 1,
                        isa, alone.data());
                CHECK("a projection does not depend on the other rows",
                      same_bits(alone.data(), out.data() + (num_rows - 1) * num_columns, num_columns));
            }
        }
    }
}

}  // namespace chamfer::testing
