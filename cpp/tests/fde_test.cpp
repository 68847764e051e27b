// fde.hpp and random_streams.hpp: encodings against MUVERA's definition, random numbers against libstdc++'s.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "fde.hpp"
#include "fixtures.hpp"
#include "random_streams.hpp"
#include "testing.hpp"

namespace chamfer::testing {

namespace {

struct Encoding {
    std::vector<double> values, bounds;
};

// MUVERA §2.1, one output position after the other. `vectors`: (num_vectors, dim), the mean subtracted.
Encoding encode_by_definition(const FdeShape& s, const Matrices& m, const std::vector<float>& vectors, bool document,
                              Isa isa) {
    const size_t num_vectors = vectors.size() / s.dim, k = s.num_simhash_projections;
    Encoding out;
    for (size_t r = 0; num_vectors && r < s.num_repetitions; ++r) {
        std::vector<size_t> strings(num_vectors);
        for (size_t t = 0; t < num_vectors; ++t) {
            for (size_t j = 0; j < k; ++j) {
                const bool bit = dot(&m.simhash[(r * k + j) * s.dim], &vectors[t * s.dim], s.dim).by(isa) > 0.0f;
                strings[t] = strings[t] * 2 + bit;
            }
        }
        for (size_t position = 0; position < s.num_partitions(); ++position) {
            const size_t string = s.gray_order ? position ^ (position >> 1) : position;
            std::vector<size_t> members;
            for (size_t t = 0; t < num_vectors; ++t) {
                if (strings[t] == string) members.push_back(t);
            }
            if (members.empty() && document && s.fill_empty_partitions) {
                const auto distance = [&](size_t of) { return std::popcount(of ^ string); };
                members.push_back(static_cast<size_t>(
                    std::min_element(strings.begin(), strings.end(),
                                     [&](size_t a, size_t b) { return distance(a) < distance(b); }) -
                    strings.begin()));
            }
            const double scale = document && !members.empty() ? 1.0 / static_cast<double>(members.size()) : 1.0;
            for (size_t j = 0; j < s.block_dimension(); ++j) {
                double sum = 0.0, magnitude = 0.0;
                for (const size_t t : members) {
                    for (size_t i = 0; i < s.dim; ++i) {
                        const size_t entry = (r * s.projection_dimension + j) * s.dim + i;
                        const float factor = s.projection_dimension ? m.projections[entry] : i == j ? 1.0f : 0.0f;
                        const double term = static_cast<double>(vectors[t * s.dim + i]) * static_cast<double>(factor);
                        sum += term;
                        magnitude += std::abs(term);
                    }
                }
                out.values.push_back(scale * sum);
                out.bounds.push_back(static_cast<double>(members.size() + s.dim + 3) * kRounding * scale * magnitude);
            }
        }
    }
    return out;
}

}  // namespace

void test_fde(const std::vector<Isa>& isas) {
    const std::vector<FdeShape> shapes{
        // dim, repetitions, hyperplanes, projection, fill, Gray order
        {5, 1, 0, 0, true, false},   {3, 2, 1, 0, false, true},    {16, 4, 3, 8, true, true},
        {33, 20, 5, 8, true, false}, {33, 7, 5, 0, true, true},    {128, 3, 4, 20, true, true},
        {17, 2, 6, 1, true, true},   {16, 2, 3, 16, false, false}, {129, 1, 0, 33, true, true}};
    std::vector<size_t> lengths{1, 0, 5, 60};
    for (size_t i = 0; i < (quick ? 6 : 20); ++i) lengths.push_back(i % 7);  // more items than one hand-out of work
    for (const FdeShape& shape : shapes) {
        Random random(static_cast<uint32_t>(shape.dim));
        const Ragged items(random, lengths, shape.dim, true);
        const Matrices matrices(shape, 5, shape.gray_order);
        const size_t final_dimension = 16, dimension = shape.encoding_dimension();
        Exact<int32_t> columns(dimension);
        Exact<float> signs(dimension);
        draw_count_sketch(9, dimension, final_dimension, columns.data(), signs.data());
        Exact<float> center(random.numbers(shape.dim));
        for (float& x : center) x *= 0.25f;
        for (const Isa isa : isas) {
            const float* projections = shape.projection_dimension ? matrices.projections.data() : nullptr;
            const FdeEncoder plain(shape, matrices.simhash.data(), projections, nullptr, nullptr, 0, isa);
            const FdeEncoder sketching(shape, matrices.simhash.data(), projections, columns.data(), signs.data(),
                                       final_dimension, isa);
            for (const unsigned mode : {0U, 1U, 2U, 3U, 4U, 5U, 6U, 7U}) {
                const bool document = mode & 1, centred = mode & 2, sketched = mode & 4;
                at("isa %s, dim %zu, %zu repetitions, %zu hyperplanes, projection %zu, fill %d, %s order, %s%s%s",
                   isa_name(isa), shape.dim, shape.num_repetitions, shape.num_simhash_projections,
                   shape.projection_dimension, shape.fill_empty_partitions, shape.gray_order ? "Gray" : "binary",
                   document ? "documents" : "queries", centred ? ", mean" : "", sketched ? ", sketch" : "");
                const FdeEncoder& encoder = sketched ? sketching : plain;
                const auto side = document ? FdeEncoder::Side::document : FdeEncoder::Side::query;
                const float* mean = centred ? center.data() : nullptr;
                const size_t width = encoder.output_dimension();
                CHECK("the output has as many dimensions as promised",
                      width == (sketched ? final_dimension : dimension));
                const auto encode = [&](Dtype dtype, size_t num_threads) {
                    std::optional<Exact<float>> out(std::in_place, lengths.size() * width, kNan);
                    encoder.encode(items.view(dtype), mean, side, num_threads,
                                   {RowFormat::float32, width, out->data(), nullptr});
                    return std::vector<float>(out->begin(), out->end());
                };
                const std::vector<float> out = encode(Dtype::float32, 1);
                CHECK("an encoding does not depend on threads and on the dtype of equal numbers",
                      out == encode(Dtype::float16, 3));
                Exact<int8_t> codes(out.size()), converted(out.size());
                Exact<float> scales(lengths.size(), kNan), converted_scales(lengths.size());
                encoder.encode(items.view(Dtype::float32), mean, side, 2,
                               {RowFormat::int8, width, codes.data(), scales.data()});
                convert_rows(out.data(), lengths.size(), 1, isa,
                             {RowFormat::int8, width, converted.data(), converted_scales.data()});
                CHECK("an encoding of another form is the float32 encoding converted",
                      same_bits(codes.data(), converted.data(), codes.size()) &&
                          same_bits(scales.data(), converted_scales.data(), scales.size()));
                for (const size_t num_threads : std::vector<size_t>{1, 3}) {
                    if (sketched) continue;
                    Exact<int64_t> offsets(lengths.size() + 1, int64_t{-1});
                    std::optional<Exact<float>> values;
                    std::optional<Exact<int32_t>> indices;
                    encoder.encode_sparse(items.view(Dtype::float32), mean, side, num_threads, offsets.data(),
                                          [&](size_t size) {
                                              values.emplace(size, kNan);
                                              indices.emplace(size, -1);
                                              return FdeEncoder::SparseArrays(values->data(), indices->data());
                                          });
                    std::vector<float> dense(out.size());
                    bool ascending = offsets[0] == 0 && offsets[lengths.size()] == int64_t(values->size());
                    for (size_t item = 0; item < lengths.size(); ++item) {
                        for (size_t i = static_cast<size_t>(offsets[item]); int64_t(i) < offsets[item + 1]; ++i) {
                            ascending = ascending && (int64_t(i) == offsets[item] || (*indices)[i - 1] < (*indices)[i]);
                            dense[item * width + static_cast<size_t>((*indices)[i])] = (*values)[i];
                        }
                    }
                    CHECK("a sparse encoding names each column once, in order", ascending);
                    CHECK("a sparse encoding holds all that is not zero", dense == out);
                }
                bool holds = true;
                for (size_t item = 0; item < lengths.size(); ++item) {
                    const size_t first = static_cast<size_t>(items.offsets[item]) * shape.dim;
                    std::vector<float> vectors(items.floats->begin() + first,
                                               items.floats->begin() + first + lengths[item] * shape.dim);
                    for (size_t i = 0; centred && i < vectors.size(); ++i) vectors[i] -= center[i % shape.dim];
                    Encoding expected = encode_by_definition(shape, matrices, vectors, document, isa);
                    expected.values.resize(dimension);  // an empty item gives zeros
                    expected.bounds.resize(dimension);
                    if (sketched) {
                        Encoding sums{std::vector<double>(width), std::vector<double>(width)};
                        for (size_t i = 0; i < dimension; ++i) {
                            const size_t column = static_cast<size_t>(columns[i]);
                            const double slack = static_cast<double>(dimension) * kRounding;
                            sums.values[column] += static_cast<double>(signs[i]) * expected.values[i];
                            sums.bounds[column] += expected.bounds[i] + slack * std::abs(expected.values[i]);
                        }
                        expected = sums;
                    }
                    for (size_t i = 0; i < width; ++i) {
                        const double error = static_cast<double>(out[item * width + i]) - expected.values[i];
                        holds = holds && std::abs(error) <= expected.bounds[i];
                    }
                }
                CHECK("an encoding is MUVERA's sum or mean of each partition, projected", holds);
            }
        }
    }
}

void test_project_signs(Isa isa) {
    Random random(23);
    const size_t num_rows = 29;  // more than one call of the kernel
    for (const size_t width : std::vector<size_t>{1, 512, 700}) {
        for (const size_t final_dimension : std::vector<size_t>{1, 8, 13, 64, 70}) {
            at("isa %s, %zu rows, width %zu, to %zu", isa_name(isa), num_rows, width, final_dimension);
            const size_t bytes_per_row = (final_dimension + 7) / 8;
            const Exact<float> rows(random.numbers(num_rows * width));
            Exact<uint8_t> bits(width * bytes_per_row);
            for (uint8_t& byte : bits) byte = static_cast<uint8_t>(random.below(256));
            Exact<float> out(num_rows * final_dimension, kNan), alone(final_dimension, kNan);
            project_signs(rows.data(), num_rows, width, bits.data(), final_dimension, 3, isa, out.data());
            bool holds = true;
            for (size_t cell = 0; cell < out.size(); ++cell) {
                const size_t row = cell / final_dimension, column = cell % final_dimension;
                double sum = 0.0, magnitude = 0.0;
                for (size_t i = 0; i < width; ++i) {
                    const double x = static_cast<double>(rows[row * width + i]);
                    sum += bits[i * bytes_per_row + column / 8] << column % 8 & 128 ? x : -x;
                    magnitude += std::abs(x);
                }
                const double scale = 1.0 / std::sqrt(static_cast<double>(final_dimension));
                const double error = static_cast<double>(out[cell]) - scale * sum;
                holds = holds && std::abs(error) <= static_cast<double>(width + 4) * kRounding * scale * magnitude;
            }
            CHECK("project_signs multiplies by the signs, over the root of their number", holds);
            project_signs(&rows[(num_rows - 1) * width], 1, width, bits.data(), final_dimension, 1, isa, alone.data());
            CHECK("a projection depends neither on the other rows nor on threads",
                  same_bits(alone.data(), &out[(num_rows - 1) * final_dimension], final_dimension));
        }
    }
}

// What google/graph-mining's encoder, built with libstdc++, gives for three small vectors and seed 1.
void test_google_encoding(Isa isa) {
    at("isa %s, google/graph-mining's numbers", isa_name(isa));
    const std::vector<float> vectors{1, 0, 0, 0, 0, 0.6f, 0.8f, 0, -0.5f, 0.5f, -0.5f, 0.5f};
    const std::vector<int64_t> offsets{0, 3};
    const auto encodes_to = [&](size_t num_repetitions, size_t projection, bool fill, size_t final_dimension,
                                bool query, const std::vector<float>& expected) {
        const FdeShape shape{4, num_repetitions, 2, projection, fill, true};
        const Matrices matrices(shape, 1, true);
        std::vector<int32_t> columns(shape.encoding_dimension());
        std::vector<float> signs(columns.size()), out(expected.size(), kNan);
        draw_count_sketch(1, columns.size(), static_cast<uint32_t>(std::max<size_t>(1, final_dimension)),
                          columns.data(), signs.data());
        const FdeEncoder encoder(shape, matrices.simhash.data(), matrices.projections.data(), columns.data(),
                                 signs.data(), final_dimension, isa);
        const TokenVectors items{vectors.data(), Dtype::float32, offsets.data(), 1, 4};
        encoder.encode(items, nullptr, query ? FdeEncoder::Side::query : FdeEncoder::Side::document, 1,
                       {RowFormat::float32, encoder.output_dimension(), out.data(), nullptr});
        return std::equal(out.begin(), out.end(), expected.begin(),
                          [](float a, float b) { return std::abs(a - b) <= 1e-6f; });
    };
    CHECK("a query's partitions are summed",
          encodes_to(2, 0, false, 0, true, {-.5f, 1.1f, .3f, .5f, 0, 0, 0, 0, 0, 0, 0, 0, 1,    0,    0,   0,
                                            1,    0,    0,   0,   0, 0, 0, 0, 0, 0, 0, 0, -.5f, 1.1f, .3f, .5f}));
    CHECK("a document's partitions are averaged",
          encodes_to(2, 0, false, 0, false, {-.25f, .55f, .15f, .25f, 0, 0, 0, 0, 0, 0, 0, 0,     1,    0,    0,   0, 1,
                                             0,     0,    0,    0,    0, 0, 0, 0, 0, 0, 0, -.25f, .55f, .15f, .25f}));
    CHECK("a document's empty partitions take the nearest vector",
          encodes_to(2, 0, true, 0, false,
                     {-.25f, .55f, .15f, .25f, 0, .6f, .8f, 0, 1, 0,   0,   0, 1,     0,    0,    0,
                      1,     0,    0,    0,    1, 0,   0,   0, 0, .6f, .8f, 0, -.25f, .55f, .15f, .25f}));
    CHECK("vectors are projected", encodes_to(1, 2, true, 0, false, {.65f, .55f, .8f, .6f, -1, 0, -1, 0}));
    CHECK("the final projection is a count sketch",
          encodes_to(2, 0, true, 8, false, {.75f, .8f, .4f, .7f, .8f, -.6f, -.8f, -.45f}));
}

// ── random_streams.hpp and the matrices ─────────────────────────────────────────────────────────────────────────────

namespace {

// libstdc++ takes the logarithm in float: measured on 20 million draws, 0.3% differ, 14 of them by 3 units of the last
// place and none by more.
bool same_normal(float a, float b) { return std::abs(a - b) <= 3 * 0x1p-23f * std::abs(b); }

}  // namespace

void test_random_streams() {
    at("golden numbers of libstdc++, see algorithms.md 1.6");
    const std::vector<float> golden[2] = {
        {0.306399673f, 0.156065688f, -0.424386233f, -0.568039775f, -0.204546675f, -0.8062886f, -0.42873764f,
         -1.20004416f},
        {1.22192132f, -0.516964138f, 0.86963594f, 0.721332669f, 1.58855629f, 1.61821711f, -0.187124684f, -1.18830872f}};
    // Row i of the AMS sketch has its sign in this column; likewise coordinate i of the count sketch.
    using Entries = std::vector<int>;  // column + 1, with the sign
    const auto sketch_of = [](uint32_t seed, size_t num_columns) {
        const FdeShape shape{12, 2, 1, num_columns, false, true};
        const Matrices matrices(shape, seed - 1, true);  // repetition 1 uses the next seed
        Entries entries(shape.dim);
        for (size_t i = 0; i < num_columns * shape.dim; ++i) {
            const int sign = static_cast<int>(matrices.projections[num_columns * shape.dim + i]);
            if (sign) entries[i % shape.dim] += sign * static_cast<int>(i / shape.dim + 1);
        }
        return entries;
    };
    const auto count_sketch_of = [](uint32_t seed, uint32_t final_dimension) {
        Exact<int32_t> columns(12);
        Exact<float> signs(12);
        draw_count_sketch(seed, 12, final_dimension, columns.data(), signs.data());
        Entries entries;
        for (size_t i = 0; i < 12; ++i) entries.push_back((columns[i] + 1) * static_cast<int>(signs[i]));
        return entries;
    };
    for (const uint32_t seed : {1U, 42U}) {
        const Matrices first({8, 1, 1, 0, false, true}, seed, true), second({8, 2, 1, 0, false, true}, seed - 1, true);
        const std::vector<float>& normals = golden[seed == 42];
        CHECK("hyperplanes are libstdc++'s normals, but for the last bits",
              std::equal(normals.begin(), normals.end(), first.simhash.begin(), same_normal));
        CHECK("repetition r draws from seed + r", same_bits(first.simhash.data(), &second.simhash[8], 8));
    }
    CHECK("the AMS sketch is Google's", sketch_of(1, 8) == Entries{-4, 8, 3, 2, 2, -6, 5, -3, -2, -2, 6, 4});
    CHECK("the AMS sketch is Google's", sketch_of(1, 16) == Entries{-7, 15, 5, 4, 3, -11, 9, -6, -4, -4, 11, 8});
    CHECK("the AMS sketch is Google's", sketch_of(42, 8) == Entries{-3, -2, 5, 4, -1, 3, 6, -1, 7, -1, 2, 5});
    CHECK("the AMS sketch is Google's", sketch_of(42, 16) == Entries{-6, -3, 10, 8, -1, 6, 12, -1, 14, -1, 3, 10});
    CHECK("the count sketch is Google's",
          count_sketch_of(1, 1024) == Entries{-428, 955, 310, 242, 191, -686, 552, -321, -210, -236, 687, 469});
    CHECK("the count sketch is Google's",
          count_sketch_of(1, 1000) == Entries{-418, 933, 303, 237, 187, -670, 539, -314, -205, -230, 671, 458});
    CHECK("the count sketch is Google's",
          count_sketch_of(42, 1024) == Entries{-384, -188, 614, 457, -60, 342, 726, -58, 853, -1, 188, 627});
    const FdeShape paper{12, 3, 4, 5, false, false};
    const Matrices matrices(paper, 1, false);
    CHECK("the paper's projections are dense",
          std::all_of(matrices.projections.begin(), matrices.projections.end(),
                      [](float x) { return std::abs(x) == 1.0f / std::sqrt(5.0f); }));
#ifdef __GLIBCXX__  // the library whose streams these are
    std::mt19937 ours(3), theirs(3);
    NormalStream normals(ours);
    std::normal_distribution<float> normal;
    bool normals_equal = true, coins_equal = true, integers_equal = true;
    for (int i = 0; i < 20000; ++i) normals_equal &= same_normal(normals.draw(), normal(theirs));
    for (uint32_t i = 0; i < 20000; ++i) {
        const uint32_t range = i % 2 ? i : 0xc0000000U + i;  // the second rejects every fourth word
        coins_equal &= draw_coin(ours) == std::bernoulli_distribution(0.5)(theirs);
        integers_equal &= draw_below(ours, range) == std::uniform_int_distribution<uint32_t>(0, range - 1)(theirs);
    }
    CHECK("normals are libstdc++'s, but for the last bits", normals_equal);
    CHECK("coins are libstdc++'s", coins_equal);
    CHECK("integers below a range are libstdc++'s", integers_equal);
#endif
}

}  // namespace chamfer::testing
