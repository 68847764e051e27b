// maxsim.hpp: scores, scans and alignments against all pairs of tokens.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fixtures.hpp"
#include "maxsim.hpp"
#include "testing.hpp"

namespace chamfer::testing {

void check_scan(const MaxSimInput& input, const std::vector<float>& expected) {
    const size_t num_queries = input.queries.size, num_documents = input.documents.size;
    const auto check_best = [&](auto&& found, const auto& of_query, size_t k) {
        Exact<float> scores(num_queries * k, kNan);
        Exact<int64_t> rows(num_queries * k, -7);
        found(scores.data(), rows.data());
        std::vector<float> best_scores(num_queries * k);
        std::vector<int64_t> best_rows(num_queries * k);
        for (size_t q = 0; q < num_queries; ++q)
            best_of(of_query(q), k, best_scores.data() + q * k, best_rows.data() + q * k);
        return same_bits(scores.data(), best_scores.data(), scores.size()) &&
               same_bits(rows.data(), best_rows.data(), rows.size());
    };
    Exact<float> scores(num_queries * num_documents, kNan);
    maxsim(input, scores.data());
    CHECK("maxsim sums the largest products in double, whatever the threads and the batch",
          same_bits(scores.data(), expected.data(), expected.size()));
    for (const size_t k : {size_t{0}, size_t{7}, num_documents + 3}) {
        if (quick && k == 0) continue;
        CHECK("maxsim_topk gives the best documents, ties by lower row",
              check_best([&](float* s, int64_t* r) { maxsim_topk(input, k, s, r); },
                         [&](size_t q) {
                             std::vector<ScoredRow> all;
                             for (size_t d = 0; d < num_documents; ++d)
                                 all.push_back({expected[q * num_documents + d], static_cast<int64_t>(d)});
                             return all;
                         },
                         k));
    }

    Random random(11);
    for (const size_t num_candidates : {size_t{0}, size_t{5}, 2 * num_documents}) {
        Exact<int64_t> candidates(num_queries * num_candidates);
        Exact<float> candidate_scores(candidates.size(), kNan);
        std::vector<ScoredRow> all;
        for (size_t i = 0; i < candidates.size(); ++i) {  // some repeated, about one of each 17 absent
            const bool absent = num_documents == 0 || random.below(17) == 0;
            candidates[i] = absent ? -1 : static_cast<int64_t>(random.below(num_documents));
            const size_t cell = i / num_candidates * num_documents + static_cast<size_t>(candidates[i]);
            all.push_back({absent ? -kInfinity : expected[cell], candidates[i]});
        }
        maxsim_candidates(input, candidates.data(), num_candidates, candidate_scores.data());
        CHECK("maxsim_candidates gives the scan's scores and -inf for none",
              std::equal(all.begin(), all.end(), candidate_scores.begin(),
                         [](const ScoredRow& x, float score) { return same_bits(&x.score, &score, 1); }));
        const auto of_query = [&](size_t q) {
            const auto begin = all.begin() + static_cast<std::ptrdiff_t>(q * num_candidates);
            return std::vector<ScoredRow>(begin, begin + static_cast<std::ptrdiff_t>(num_candidates));
        };
        for (const size_t k : {size_t{0}, size_t{7}, num_candidates + 3}) {
            if (quick && k != 7 && num_candidates != 5) continue;
            CHECK("maxsim_topk_candidates counts a candidate once",
                  check_best(
                      [&](float* s, int64_t* r) {
                          maxsim_topk_candidates(input, candidates.data(), num_candidates, k, s, r);
                      },
                      of_query, k));
        }
    }
}

namespace {

// The largest product of every query token with every document's tokens, (tokens, documents).
std::vector<Dot> best_products(const Ragged& queries, const Ragged& documents) {
    std::vector<Dot> best;
    const TokenVectors d = documents.view();
    for (size_t i = 0; i < queries.view().num_tokens(); ++i) {
        for (size_t document = 0; document < d.size; ++document) {
            Dot top{-INFINITY, 0.0, -kInfinity, -kInfinity};
            for (int64_t j = d.offsets[document]; j < d.offsets[document + 1]; ++j) {
                const Dot next = dot(queries.token(i), documents.token(static_cast<size_t>(j)), d.dim);
                top = {std::max(top.exact, next.exact), std::max(top.bound, next.bound),
                       std::max(top.fused, next.fused), std::max(top.rounded, next.rounded)};
            }
            best.push_back(top);
        }
    }
    return best;
}

std::vector<float> score_by_definition(const std::vector<Dot>& best, const TokenVectors& queries,
                                       const TokenVectors& documents, const float* weights, Isa isa) {
    std::vector<float> scores;
    bool within_bound = true;
    for (size_t query = 0; query < queries.size; ++query) {
        for (size_t document = 0; document < documents.size; ++document) {
            double exact = 0.0, bound = 0.0, sum = 0.0;
            for (int64_t i = queries.offsets[query]; i < queries.offsets[query + 1]; ++i) {
                const Dot& top = best[static_cast<size_t>(i) * documents.size + document];
                const double weight = weights ? static_cast<double>(weights[i]) : 1.0;
                exact += weight * top.exact;
                bound += std::abs(weight) * top.bound;
                sum += weight * static_cast<double>(top.by(isa));
            }
            const bool empty = documents.length(document) == 0;
            scores.push_back(empty ? -kInfinity : static_cast<float>(sum));
            const double error = static_cast<double>(scores.back()) - exact, last_bit = std::abs(sum) * kRounding;
            within_bound &= empty || std::abs(error) <= (bound + last_bit) * 1.000001;  // the sums above round, too
        }
    }
    CHECK("the error of a score is that of its products and one rounding", within_bound);
    return scores;
}

void check_alignment(Isa isa, const Ragged& query, const Ragged& document, Dtype dtype) {
    const size_t num_tokens = query.view().num_tokens();
    Exact<float> similarities(num_tokens, kNan);
    Exact<int64_t> tokens(num_tokens, -7);
    maxsim_alignment({query.view(), document.view(dtype), nullptr, nullptr, 1, isa}, similarities.data(),
                     tokens.data());
    bool holds = true;
    for (size_t q = 0; q < num_tokens; ++q) {
        ScoredRow best{-kInfinity, -1};
        for (size_t d = 0; d < document.view().num_tokens(); ++d) {
            const float product = dot(query.token(q), document.token(d), query.dim).by(isa);
            if (product > best.score) best = {product, static_cast<int64_t>(d)};
        }
        holds = holds && same_bits(&similarities[q], &best.score, 1) && tokens[q] == best.row;
    }
    CHECK("maxsim_alignment names the first document token that reaches the maximum", holds);
}

}  // namespace

void test_maxsim(const std::vector<Isa>& isas) {
    const size_t few = quick ? 4 : 1;
    struct Shape {
        size_t dim, num_queries, num_documents, longest_document;
    };
    // More documents than a chunk, also when quick: threads then share a query. Longer ones than a section; more query
    // tokens than a batch; no document; no query.
    for (const Shape& shape : {Shape{5, 7, 300, 9}, Shape{128, 20 / few, 20 / few, 600 / few + 150},
                               Shape{1024, 5, 5, 70}, Shape{16, 3, 0, 9}, Shape{16, 0, 4, 9}}) {
        Random random(static_cast<uint32_t>(shape.dim));
        std::vector<size_t> query_lengths(shape.num_queries), document_lengths(shape.num_documents);
        for (size_t i = 0; i < query_lengths.size(); ++i) query_lengths[i] = i % 4 == 1 ? 0 : 1 + random.below(33);
        for (size_t& length : document_lengths) length = random.below(std::min<size_t>(shape.longest_document, 40));
        if (shape.num_documents) {
            document_lengths[0] = shape.longest_document;
            document_lengths[1] = document_lengths[2] = 4;
            document_lengths.back() = 0;
        }
        const Ragged queries(random, query_lengths, shape.dim, false);
        Ragged documents(random, document_lengths, shape.dim, true);
        for (size_t t = 0; shape.num_documents && t < 4; ++t)  // documents 1 and 2 tie
            documents.repeat(shape.longest_document + t, shape.longest_document + 4 + t);
        const Exact<float> weights(random.numbers(queries.view().num_tokens()));
        const std::vector<Dot> best = best_products(queries, documents);
        for (const float* weight : {static_cast<const float*>(nullptr), weights.data()}) {
            for (const Isa isa : isas) {
                at("isa %s, dim %zu, %zu documents", isa_name(isa), shape.dim, shape.num_documents);
                const std::vector<float> scores =
                    score_by_definition(best, queries.view(), documents.view(), weight, isa);
                for (const Dtype dtype : {Dtype::float32, Dtype::float16}) {
                    for (const size_t num_threads : std::vector<size_t>{1, 3}) {
                        if (quick && (num_threads == 3) != (dtype == Dtype::float16)) continue;
                        at("isa %s, dim %zu, %zu documents, %s%s, %zu threads", isa_name(isa), shape.dim,
                           shape.num_documents, dtype == Dtype::float16 ? "float16" : "float32",
                           weight ? ", weights" : "", num_threads);
                        check_scan({queries.view(), documents.view(dtype), weight, nullptr, num_threads, isa}, scores);
                    }
                }
            }
        }
    }
    for (const size_t num_document_tokens : std::vector<size_t>{0, 1, 300}) {
        Random random(13);
        const Ragged query(random, {33}, 128, false);
        Ragged document(random, {num_document_tokens}, 128, true);
        for (size_t t = 1; t < num_document_tokens; t += 2) document.repeat(t - 1, t);  // every maximum is a tie
        for (const Isa isa : isas) {
            at("isa %s, 33 query tokens, %zu document tokens, dim 128", isa_name(isa), num_document_tokens);
            for (const Dtype dtype : {Dtype::float32, Dtype::float16}) check_alignment(isa, query, document, dtype);
        }
    }
}

}  // namespace chamfer::testing
