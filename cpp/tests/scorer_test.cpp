// scorer.hpp and screen.hpp: scores of every storage against its formula, and exact scores from codes.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fixtures.hpp"
#include "linear.hpp"
#include "maxsim.hpp"
#include "scorer.hpp"
#include "screen.hpp"
#include "testing.hpp"

namespace chamfer::testing {

namespace {

struct Similarity {
    double value, rounding;
};

double product(const float* x, const float* y, size_t dim) {
    double sum = 0.0;
    for (size_t i = 0; i < dim; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    return sum;
}

unsigned code_of(const TokenVectors& documents, size_t token, size_t i) {
    const size_t bits = bits_of(documents.dtype);
    return documents.row(token)[i * bits / 8] >> i * bits % 8 & ((1U << bits) - 1);
}

// A query token as the formulas of scorer.hpp want it: rounded to bfloat16, or in 8 bits.
struct QueryToken {
    QueryToken(const float* token, const TokenVectors& documents) : row(token), numbers(documents.dim) {
        const size_t dim = documents.dim;
        const Codebook& book = documents.codebook;
        for (size_t i = 0; i < dim; ++i) {
            numbers[i] = static_cast<double>(row[i]);
            if (documents.dtype == Dtype::bfloat16)
                numbers[i] = static_cast<double>(from_bfloat16(to_bfloat16(row[i])));
        }
        if (documents.dtype == Dtype::bfloat16) return;
        const double square = product(book.direction, book.direction, dim);
        along_direction = product(row, book.direction, dim);
        double largest = 0.0;
        for (size_t i = 0; i < dim; ++i) {
            const double along = square > 0.0 ? along_direction / square * static_cast<double>(book.direction[i]) : 0.0;
            if (documents.dtype == Dtype::codes8) {
                numbers[i] -= (1.0 - 1.0 / static_cast<double>(book.stretch)) * along;
            } else {
                numbers[i] = (numbers[i] - along) * static_cast<double>(book.dim_scales[i]);
            }
            largest = std::max(largest, std::abs(numbers[i]));
        }
        scale = largest > 0.0 ? largest / 127.0 : 1.0;
        for (double& x : numbers) x = std::nearbyint(x / scale);
    }
    const float* row;
    std::vector<double> numbers;
    double along_direction = 0.0, scale = 1.0;
};

Similarity similarity(const QueryToken& q, const TokenVectors& documents, size_t document, size_t token) {
    const Codebook& book = documents.codebook;
    const size_t dim = documents.dim;
    double sum = 0.0, magnitude = 0.0;
    for (size_t i = 0; i < dim; ++i) {
        double number;
        if (documents.dtype == Dtype::bfloat16) {
            uint16_t bits;
            std::memcpy(&bits, documents.row(token) + 2 * i, 2);
            number = static_cast<double>(from_bfloat16(bits));
        } else {
            const unsigned code = code_of(documents, token, i);
            number = static_cast<int>(documents.dtype == Dtype::codes8 ? code : book.levels[code]) - 128;
        }
        sum += q.numbers[i] * number;
        magnitude += std::abs(q.numbers[i] * number);
    }
    if (documents.dtype == Dtype::bfloat16) return {sum, static_cast<double>(dim + 1) * kRounding * magnitude};
    const double of_center = product(q.row, book.center, dim);
    if (documents.dtype == Dtype::codes8) {
        return {of_center + q.scale * static_cast<double>(book.scales[document]) * sum, 1e-9 * std::abs(of_center)};
    }
    const double scaled = q.scale * half_value(book.token_terms[2 * token]) * sum;
    const double shifted = q.along_direction * half_value(book.token_terms[2 * token + 1]);
    // Converted, multiplied, added; the shift converted, multiplied.
    return {of_center + scaled + shifted,
            4 * kRounding * (std::abs(scaled) + std::abs(shifted)) + 1e-9 * std::abs(of_center)};
}

// maxsim's scores, after a comparison with their definition.
std::vector<float> check_scores(const MaxSimInput& input, const Ragged& queries) {
    const TokenVectors& documents = input.documents;
    const size_t num_queries = input.queries.size, num_documents = documents.size;
    std::vector<float> scores(num_queries * num_documents, kNan);
    maxsim(input, scores.data());
    bool holds = true;
    for (size_t query = 0; query < num_queries; ++query) {
        std::vector<double> sums(num_documents, 0.0), rounding(num_documents, 0.0);
        for (int64_t t = queries.offsets[query]; t < queries.offsets[query + 1]; ++t) {
            const QueryToken token(queries.token(static_cast<size_t>(t)), documents);
            const double weight = input.query_weights ? static_cast<double>(input.query_weights[t]) : 1.0;
            for (size_t document = 0; document < num_documents; ++document) {
                Similarity best{-INFINITY, 0.0};
                for (int64_t d = documents.offsets[document]; d < documents.offsets[document + 1]; ++d) {
                    const Similarity x = similarity(token, documents, document, static_cast<size_t>(d));
                    best = {std::max(best.value, x.value), std::max(best.rounding, x.rounding)};
                }
                sums[document] += weight * best.value;
                rounding[document] += std::abs(weight) * best.rounding;
            }
        }
        for (size_t document = 0; document < num_documents; ++document) {
            const float score = scores[query * num_documents + document];
            if (documents.length(document) == 0) {
                holds = holds && score == -kInfinity;
            } else {
                const double error = std::abs(static_cast<double>(score) - sums[document]);
                holds = holds && error <= rounding[document] + 1.01 * kRounding * std::abs(sums[document]) + 1e-9;
            }
        }
    }
    CHECK("scores of codes and of bfloat16 are those of their formulas", holds);
    return scores;
}

std::vector<float> check_scores_of_bits(const MaxSimInput& input) {
    const TokenVectors &queries = input.queries, &documents = input.documents;
    std::vector<float> scores(queries.size * documents.size, kNan), expected;
    maxsim(input, scores.data());
    for (size_t query = 0; query < queries.size; ++query) {
        for (size_t document = 0; document < documents.size; ++document) {
            double sum = 0.0;
            for (int64_t t = queries.offsets[query]; t < queries.offsets[query + 1]; ++t) {
                int best = -1 << 30;
                for (int64_t d = documents.offsets[document]; d < documents.offsets[document + 1]; ++d) {
                    int x = 0;
                    for (size_t i = 0; i < queries.dim; ++i) {
                        const bool same = code_of(queries, static_cast<size_t>(t), i) ==
                                          code_of(documents, static_cast<size_t>(d), i);
                        x += same ? 1 : -1;
                    }
                    best = std::max(best, x);
                }
                sum += (input.query_weights ? static_cast<double>(input.query_weights[t]) : 1.0) * best;
            }
            expected.push_back(documents.length(document) ? static_cast<float>(sum) : -kInfinity);
        }
    }
    bool holds = true;
    for (size_t i = 0; i < scores.size(); ++i) {
        holds = holds && (scores[i] == expected[i] || std::abs(scores[i] - expected[i]) <= 1e-6f * std::abs(scores[i]));
        holds = holds && (input.query_weights || scores[i] == expected[i]);
    }
    CHECK("a score of bits counts those that are equal less those that differ", holds);
    return scores;
}

void check_alignment(const MaxSimInput& input) {
    const size_t num_tokens = input.queries.num_tokens();
    Exact<float> similarities(num_tokens, kNan);
    Exact<int64_t> tokens(num_tokens, -7);
    const float score = maxsim_alignment(input, similarities.data(), tokens.data());
    double sum = 0.0, magnitude = 0.0;
    for (const float x : similarities) {
        sum += static_cast<double>(x);
        magnitude += std::abs(static_cast<double>(x));
    }
    CHECK("the similarities of an alignment add up to the score",
          std::abs(sum - static_cast<double>(score)) <= 4 * kRounding * magnitude);
    bool first = true;
    for (size_t q = 0; q < num_tokens; ++q) {
        for (int64_t t = 0; t <= tokens[q]; ++t) {  // documents of one token
            TokenVectors token = input.documents, query = input.queries;
            const int64_t one[2] = {0, 1};
            token.vectors = input.documents.row(static_cast<size_t>(t));
            token.codebook.token_terms += token.codebook.token_terms ? 2 * t : 0;
            query.vectors = input.queries.row(q);
            token.offsets = query.offsets = one;
            float alone;
            int64_t of_one;
            maxsim_alignment({query, token, nullptr, nullptr, 1, input.isa}, &alone, &of_one);
            first = first && (t < tokens[q] ? alone < similarities[q] : alone == similarities[q]);
        }
    }
    CHECK("an alignment names the first token that reaches the maximum", first);
}

}  // namespace

void test_storages(const std::vector<Isa>& isas) {
    const std::vector<size_t> dims =
        quick ? std::vector<size_t>{3, 128} : std::vector<size_t>{1, 2, 3, 16, 33, 128, 300};
    for (const size_t dim : dims) {
        Random random(static_cast<uint32_t>(dim));
        std::vector<size_t> lengths(dim == 3 ? 140 : 20);  // more than a chunk, so that threads share a query
        for (size_t& length : lengths) length = random.below(7);
        lengths[0] = quick ? 150 : 300;  // longer than a section
        lengths[1] = lengths.back() = 0;
        const Ragged queries(random, {5, 0, 33, 1, 2, 3}, dim, false), documents(random, lengths, dim, false);
        const Ragged query(random, {5}, dim, false), document(random, {9}, dim, false);
        const Exact<float> weights(random.numbers(queries.view().num_tokens()));
        for (const Dtype dtype : {Dtype::bfloat16, Dtype::codes8, Dtype::codes4, Dtype::codes2, Dtype::codes1}) {
            const Frame frame(random, dim, dtype, 0.5f, dim == 16 ? 0.0f : 1.0f);
            const Codebook book = frame.book(4.0f);
            const Coded coded(documents, dtype, book), coded_queries(queries, Dtype::codes1, book);
            const Coded aligned(document, dtype, book), aligned_query(query, Dtype::codes1, book);
            for (const bool of_bits : {false, true}) {
                if (of_bits && dtype != Dtype::codes1) continue;
                const float* weight = random.below(2) ? weights.data() : nullptr;
                std::vector<float> same_everywhere;
                for (const Isa isa : isas) {
                    at("isa %s, dim %zu, documents of %u bits, queries of %d%s", isa_name(isa), dim, bits_of(dtype),
                       of_bits ? 1 : 32, weight ? ", weights" : "");
                    MaxSimInput input{queries.view(), coded.view, weight, nullptr, 1, isa};
                    if (of_bits) input.queries = coded_queries.view;
                    const std::vector<float> scores =
                        of_bits ? check_scores_of_bits(input) : check_scores(input, queries);
                    if (dtype != Dtype::bfloat16) {
                        if (same_everywhere.empty()) same_everywhere = scores;
                        CHECK("scores of codes have the same bits on every instruction set",
                              same_bits(scores.data(), same_everywhere.data(), scores.size()));
                    }
                    input.num_threads = 3;
                    check_scan(input, scores);
                    check_alignment(
                        {of_bits ? aligned_query.view : query.view(), aligned.view, nullptr, nullptr, 1, isa});
                }
            }
        }
    }
}

// ── screens ─────────────────────────────────────────────────────────────────────────────────────────────────────────

namespace {

// What makes codes tell little.
enum Pattern {
    random_tokens,
    nearly_equal,
    equal,
    zeros,
    tiny,
    subnormal,
    smallest,
    one_is_large,
    one_number_is_large
};

void draw_pattern(Random& random, Ragged& items, Pattern pattern) {
    const size_t num_tokens = items.view().num_tokens(), dim = items.dim;
    const std::vector<float> shared = random.numbers(dim);
    for (size_t t = 0; t < num_tokens; ++t) {
        for (size_t i = 0; i < dim; ++i) {
            float x = random.number();
            switch (pattern) {
                case random_tokens: break;
                case nearly_equal: x = shared[i] + 0x1p-9f * x; break;
                case equal: x = shared[i]; break;
                case zeros: x = t % 3 ? 0.0f : -0.0f; break;
                case tiny: x *= 1e-5f; break;
                case subnormal: x *= 1e-22f; break;  // products with queries as small are
                case smallest: x *= 1e-40f; break;   // subnormal themselves
                case one_is_large: x = t % 7 ? 1e-3f * x : 100.0f * x; break;
                case one_number_is_large: x = i ? 1e-3f * x : 100.0f + x; break;
            }
            items.put(t * dim + i, x);
        }
    }
}

void check_upper_bounds(const MaxSimInput& input, const std::vector<float>& scores) {
    const size_t num_queries = input.queries.size, num_documents = input.documents.size;
    Screen screen(input.queries, input.documents, *input.screen, input.isa);
    ScreenedQueries queries;
    queries.load(input.queries, input.query_weights, {0, num_queries}, input.documents, *input.screen,
                 product_kernels(input.isa));
    bool holds = true;
    for (size_t document = 0; document < num_documents; ++document) {
        Exact<float> upper(num_queries, kNan);
        screen.upper_bounds(queries, document, document + 1, upper.data(), 1);
        for (size_t i = 0; i < num_queries; ++i) {
            const float score = scores[i * num_documents + document];
            holds = holds && upper[i] >= score && (upper[i] > -kInfinity) == (score > -kInfinity);
        }
    }
    CHECK("no score is above its upper bound", holds);
}

void check_screen(const std::vector<Isa>& isas, size_t dim, Pattern pattern, Dtype dtype) {
    Random random(static_cast<uint32_t>(100 * dim + pattern));
    const bool many = dim == 3 && (!quick || pattern == random_tokens);  // more than a chunk
    std::vector<size_t> lengths(many ? 140 : 16);
    for (size_t& length : lengths) length = random.below(quick ? 5 : 9);
    lengths[0] = quick ? 25 : 60;
    lengths[1] = lengths.back() = 0;
    Ragged documents(random, lengths, dim, dtype == Dtype::float16);
    draw_pattern(random, documents, pattern);
    Ragged queries(random, {5, 0, 70, 1, 17, 2}, dim, false);  // longer than a batch, and several in one
    for (size_t i = 0; i < queries.floats->size(); ++i) {
        if (pattern == subnormal) queries.put(i, 1e-22f * (*queries.floats)[i]);
        if (i < 2 * dim) queries.put(i, i < dim ? 0.0f : documents.token(0)[i - dim]);
    }
    Exact<float> weights(random.numbers(queries.view().num_tokens()));
    weights[3] = 1e30f;
    weights[4] = 0.0f;
    struct Fit {
        float center_size, direction_size, stretch;
    };
    for (const Fit& fit : {Fit{0.0f, 0.0f, 1.0f}, Fit{0.5f, 1.0f, 4.0f}, Fit{100.0f, 1e-3f, 1000.0f}}) {
        const Frame frame(random, dim, Dtype::codes8, fit.center_size, fit.direction_size);
        const Coded codes(documents, Dtype::codes8, frame.book(fit.stretch), dtype);
        const float* weight = random.below(2) ? weights.data() : nullptr;
        for (const Isa isa : isas) {
            at("isa %s, dim %zu, %s, pattern %d, center %g, direction %g, stretch %g%s", isa_name(isa), dim,
               dtype == Dtype::float16 ? "float16" : "float32", int{pattern}, static_cast<double>(fit.center_size),
               static_cast<double>(fit.direction_size), static_cast<double>(fit.stretch), weight ? ", weights" : "");
            MaxSimInput input{queries.view(), documents.view(dtype), weight, nullptr, 1, isa};
            std::vector<float> scores(queries.view().size * documents.view().size, kNan);
            maxsim(input, scores.data());
            input.screen = &codes.view;
            check_upper_bounds(input, scores);
            if (many) input.num_threads = 3;
            check_scan(input, scores);
        }
    }
}

}  // namespace

void test_screen(const std::vector<Isa>& isas) {
    const std::vector<size_t> dims = quick ? std::vector<size_t>{3, 33} : std::vector<size_t>{1, 3, 16, 33, 300};
    for (const size_t dim : dims) {
        for (const Pattern pattern : {random_tokens, nearly_equal, equal, zeros, tiny, subnormal, smallest,
                                      one_is_large, one_number_is_large}) {
            for (const Dtype dtype : {Dtype::float32, Dtype::float16}) {
                if (quick && (pattern % 2 == 0) != (dtype == Dtype::float32)) continue;
                check_screen(isas, dim, pattern, dtype);
            }
        }
    }
}

}  // namespace chamfer::testing
