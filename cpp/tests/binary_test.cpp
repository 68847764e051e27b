// hamming.hpp, sdc.hpp and scan.hpp: distances and sums bit by bit and level by level, in buffers of the exact size.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "fixtures.hpp"
#include "hamming.hpp"
#include "scan.hpp"
#include "sdc.hpp"
#include "testing.hpp"

namespace chamfer::testing {

namespace {

constexpr SdcFormula kFormulas[] = {SdcFormula::bitwise, SdcFormula::integer, SdcFormula::table};
constexpr const char* kFormulaNames[] = {"bitwise", "integer", "table"};

int32_t count_differing_bits(const uint8_t* x, const uint8_t* y, size_t num_bytes) {
    int32_t count = 0;
    for (size_t i = 0; i < 8 * num_bytes; ++i) count += (x[i / 8] >> i % 8 & 1) != (y[i / 8] >> i % 8 & 1);
    return count;
}

std::vector<uint8_t> random_bytes(Random& random, size_t n, size_t limit) {
    std::vector<uint8_t> bytes(n);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.below(limit));
    return bytes;
}

// Where the scan's results are asked for: some of k and threads.
const std::pair<size_t, size_t> kScans[] = {{1, 1}, {7, 3}, {40, 2}};

void check_hamming(const std::vector<Isa>& isas, size_t code_size, size_t num_codes) {
    constexpr size_t kNumQueries = 3;
    Random random(static_cast<uint32_t>(code_size));
    const Exact<uint8_t> queries(random_bytes(random, kNumQueries * code_size, 256));
    const Exact<uint8_t> codes(random_bytes(random, num_codes * code_size, 256));
    std::vector<int32_t> expected;
    for (size_t q = 0; q < kNumQueries; ++q) {
        for (size_t i = 0; i < num_codes; ++i) {
            expected.push_back(
                count_differing_bits(queries.data() + q * code_size, codes.data() + i * code_size, code_size));
        }
    }
    for (const Isa isa : isas) {
        at("isa %s, %zu codes of %zu bytes", isa_name(isa), num_codes, code_size);
        for (size_t q = 0; q < kNumQueries; ++q) {
            Exact<int32_t> distances(num_codes, -7);
            hamming_kernels(isa).distances(queries.data() + q * code_size, codes.data(), num_codes, code_size, q * 4096,
                                           distances.data());
            CHECK("distances count the differing bits",
                  same_bits(distances.data(), expected.data() + q * num_codes, num_codes));
        }
        for (const auto& [k, num_threads] : kScans) {
            Exact<int32_t> distances(kNumQueries * k, -7);
            Exact<int64_t> rows(kNumQueries * k, -7);
            hamming_topk({queries.data(), codes.data(), kNumQueries, num_codes, code_size, num_threads, isa}, k,
                         distances.data(), rows.data());
            bool holds = true;
            for (size_t q = 0; q < kNumQueries; ++q) {
                std::vector<std::pair<int32_t, int64_t>> all;
                for (size_t i = 0; i < num_codes; ++i)
                    all.push_back({expected[q * num_codes + i], static_cast<int64_t>(i)});
                std::sort(all.begin(), all.end());
                all.resize(std::max(k, num_codes), {std::numeric_limits<int32_t>::max(), -1});
                for (size_t i = 0; i < k; ++i)
                    holds = holds && all[i] == std::pair(distances[q * k + i], rows[q * k + i]);
            }
            CHECK("hamming_topk gives the nearest codes, ties by lower row", holds);
        }
    }
}

// Levels of both sides, and the sums of their products.
struct Levels {
    Levels(const RecurrentShape& of, size_t bits_of_query, size_t queries, size_t codes)
        : shape(of),
          query_bits(bits_of_query),
          num_queries(queries),
          num_codes(codes),
          random(static_cast<uint32_t>(of.dim)),
          query_levels(random_bytes(random, queries * of.dim, size_t{1} << query_bits)),
          levels(random_bytes(random, codes * of.dim, static_cast<size_t>(of.max_level()) + 1)) {
        for (size_t i = 0; i < shape.dim; ++i) {  // the largest sum
            if (num_codes && num_queries) {
                query_levels[i] = static_cast<uint8_t>((1 << query_bits) - 1);
                levels[i] = static_cast<uint8_t>(shape.max_level());
            }
        }
        for (size_t q = 0; q < num_queries; ++q) {
            for (size_t code = 0; code < num_codes; ++code) {
                int32_t sum = 0;
                for (size_t i = 0; i < shape.dim; ++i)
                    sum += weight(query_levels[q * shape.dim + i], query_bits) *
                           weight(levels[code * shape.dim + i], shape.bits);
                sums.push_back(sum);
            }
        }
    }
    static int32_t weight(uint8_t level, size_t bits) { return 2 * level - ((1 << bits) - 1); }

    RecurrentShape shape;
    size_t query_bits, num_queries, num_codes;
    Random random;
    Exact<uint8_t> query_levels, levels;
    std::vector<int32_t> sums;
};

void check_sums(Isa isa, size_t formula_number, const Levels& l, const Exact<uint8_t>& packed) {
    const SdcFormula formula = kFormulas[formula_number];
    const SdcKernels& kernels = sdc_kernels(isa);
    const auto kernel = formula == SdcFormula::bitwise   ? kernels.bitwise
                        : formula == SdcFormula::integer ? kernels.integer
                                                         : kernels.table;
    const size_t operand_size = operand_bytes(l.shape, formula);
    const size_t stride = (l.num_codes + kBlockCodes - 1) / kBlockCodes * kBlockCodes;
    Exact<uint8_t> operands(l.num_queries * operand_size);
    Exact<int32_t> offsets(l.num_queries), sums(l.num_queries * stride, -7);
    for (size_t q = 0; q < l.num_queries; ++q) {
        offsets[q] = prepare_operand(l.shape, l.query_bits, formula, l.query_levels.data() + q * l.shape.dim,
                                     operands.data() + q * operand_size);
    }
    kernel({l.shape, l.query_bits, operands.data(), offsets.data(), l.num_queries, packed.data(), l.num_codes, 4096},
           sums.data(), stride);
    bool holds = true;
    for (size_t i = 0; i < l.sums.size(); ++i)
        holds = holds && sums[i / l.num_codes * stride + i % l.num_codes] == l.sums[i];
    CHECK("each formula gives the sum of products", holds);
}

void check_sdc_topk(Isa isa, SdcFormula formula, const Levels& l, const Exact<uint8_t>& packed) {
    Random random(7);
    const Exact<float> query_scales(random.numbers(l.num_queries)), scales(random.numbers(l.num_codes));
    const float unit = std::ldexp(1.0f, 2 - static_cast<int>(l.query_bits + l.shape.bits));
    for (const auto& [k, num_threads] : kScans) {
        for (const bool scaled : {false, true}) {
            Exact<float> similarities(l.num_queries * k, kNan);
            Exact<int64_t> rows(l.num_queries * k, -7);
            sdc_topk({l.shape, l.query_bits, formula, l.query_levels.data(), scaled ? query_scales.data() : nullptr,
                      l.num_queries, packed.data(), scaled ? scales.data() : nullptr, l.num_codes, num_threads, isa},
                     k, similarities.data(), rows.data());
            std::vector<float> best(l.num_queries * k);
            std::vector<int64_t> best_rows(l.num_queries * k);
            for (size_t q = 0; q < l.num_queries; ++q) {
                std::vector<ScoredRow> all;
                for (size_t i = 0; i < l.num_codes; ++i) {
                    const float similarity = static_cast<float>(l.sums[q * l.num_codes + i]) * unit;
                    all.push_back(
                        {scaled ? similarity * (query_scales[q] * scales[i]) : similarity, static_cast<int64_t>(i)});
                }
                best_of(all, k, best.data() + q * k, best_rows.data() + q * k);
            }
            CHECK("sdc_topk gives the most similar codes, ties by lower row",
                  same_bits(rows.data(), best_rows.data(), rows.size()) &&
                      std::equal(best.begin(), best.end(), similarities.begin()));  // a zero may have either sign
            if (l.num_queries == 0) continue;
            // The same codes as a list whose rows are others, between two empty ones.
            Exact<int64_t> rows_of_list(l.num_codes);
            for (size_t i = 0; i < l.num_codes; ++i) rows_of_list[i] = 3 * static_cast<int64_t>(i) + 5;
            const SdcList lists[] = {
                {nullptr, nullptr, nullptr, 0},
                {packed.data(), scaled ? scales.data() : nullptr, rows_of_list.data(), l.num_codes},
                {nullptr, nullptr, nullptr, 0}};
            Exact<float> of_lists(k, kNan);
            Exact<int64_t> rows_found(k, -7);
            sdc_topk_of_lists(
                {l.shape, l.query_bits, formula, l.query_levels.data(), scaled ? query_scales[0] : 1.0f, lists, 3, isa},
                k, of_lists.data(), rows_found.data());
            bool holds = same_bits(of_lists.data(), similarities.data(), k);
            for (size_t i = 0; i < k; ++i) holds = holds && rows_found[i] == (rows[i] < 0 ? -1 : 3 * rows[i] + 5);
            CHECK("sdc_topk_of_lists gives the rows of lists", holds);
        }
    }
}

}  // namespace

void test_hamming(const std::vector<Isa>& isas) {
    for (size_t code_size = 1; code_size <= (quick ? 40 : 140); code_size += quick ? 3 : 1)
        check_hamming(isas, code_size, 35);
    for (const size_t code_size : std::vector<size_t>{64, 65, 128, 192, 255, 256, 300, 1000, 1023})
        check_hamming(isas, code_size, 17);
    for (const size_t num_codes : std::vector<size_t>{0, 1, 7, 8, 9, 15, 16, 19}) check_hamming(isas, 33, num_codes);
    for (const size_t code_size : std::vector<size_t>{8, 16, 32}) {
        for (size_t num_codes = 1; num_codes <= 19; ++num_codes) check_hamming(isas, code_size, num_codes);
    }
    check_hamming(isas, quick ? 300 : 3, quick ? 1000 : 100'000);  // several runs: threads share a query
}

void test_sdc(const std::vector<Isa>& isas) {
    std::vector<std::array<size_t, 3>> shapes;  // dim, queries, codes
    for (const size_t dim :
         std::vector<size_t>{1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 127, 128, 256, 300, 384, 512, 1024})
        shapes.push_back({dim, 3, 35});
    for (const size_t num_queries : std::vector<size_t>{0, 1, 2, 7, 8, 15}) shapes.push_back({33, num_queries, 33});
    for (const size_t num_codes : std::vector<size_t>{0, 1, 15, 16, 17, 31, 32, 33, 67})
        shapes.push_back({33, 2, num_codes});
    shapes.push_back({5000, 1, 3});  // 16-bit sums overflow
    if (!quick) shapes.push_back({70, 2, 20'000});
    for (const auto& [dim, num_queries, num_codes] : shapes) {
        for (const auto& [bits, query_bits] :
             std::vector<std::array<size_t, 2>>{{1, 1}, {2, 2}, {4, 4}, {1, 2}, {1, 4}, {2, 4}}) {
            const Levels l({dim, bits}, query_bits, num_queries, num_codes);
            for (size_t formula = 0; formula < 3; ++formula) {
                if (bits != query_bits && kFormulas[formula] == SdcFormula::bitwise) continue;
                at("%zu codes of %zu dims, %zu bits, formula %s", num_codes, dim, bits, kFormulaNames[formula]);
                Exact<uint8_t> packed(packed_bytes(l.shape, kFormulas[formula], num_codes), 255);
                pack_levels(l.shape, kFormulas[formula], l.levels.data(), num_codes, packed.data());
                if (formula) {
                    Exact<uint8_t> unpacked(num_codes * dim, 255);
                    unpack_levels(l.shape, packed.data(), num_codes, unpacked.data());
                    CHECK("levels come back as they were packed",
                          same_bits(unpacked.data(), l.levels.data(), unpacked.size()));
                }
                for (const Isa isa : isas) {
                    at("isa %s, %zu queries of %zu bits, %zu codes of %zu dims, %zu bits, formula %s", isa_name(isa),
                       num_queries, query_bits, num_codes, dim, bits, kFormulaNames[formula]);
                    check_sums(isa, formula, l, packed);
                    if (dim == 33 || dim == 70) check_sdc_topk(isa, kFormulas[formula], l, packed);
                }
            }
        }
    }
}

void test_run_best() {
    for (const size_t k : std::vector<size_t>{1, 2, 3, 10, 100}) {
        for (const uint32_t num_scores : {1, 5, 1000}) {  // ties, and few of them
            at("k %zu, %u scores", k, num_scores);
            Random random(num_scores);
            constexpr size_t kRun = 400, kTile = 70;
            std::vector<ScoredRow> all;
            std::vector<float> scores;
            for (size_t i = 0; i < 3 * kRun; ++i) {
                scores.push_back(i % 11 == 3 ? kNan : static_cast<float>(random.below(num_scores)) - 2);
                if (!std::isnan(scores[i])) all.push_back({scores[i], static_cast<int64_t>(i)});
            }
            TopK so_far(k);
            RunBest<float> best(k);
            for (const size_t run : {1, 0, 2}) {  // threads finish runs in any order
                best.start(so_far, static_cast<int64_t>(run * kRun));
                for (size_t tile = run * kRun; tile < (run + 1) * kRun; tile += kTile) {
                    best.add_tile(std::min(kTile, (run + 1) * kRun - tile), [&](size_t begin, size_t end, float limit) {
                        for (size_t i = tile + begin; i < tile + end; ++i) {
                            if (scores[i] > limit) best.push(scores[i], static_cast<int64_t>(i));
                        }
                    });
                }
                best.finish(so_far);
            }
            std::vector<float> found(k), expected(k);
            std::vector<int64_t> rows(k), expected_rows(k);
            so_far.write(found.data(), rows.data());
            best_of(all, k, expected.data(), expected_rows.data());
            CHECK("RunBest gives the best rows, ties by lower row", rows == expected_rows && found == expected);
        }
    }
}

void test_highest_first() {
    for (const size_t n : std::vector<size_t>{1, 2, 3, 4, 17, 300}) {
        for (const int order : {0, 1, 2, 3}) {  // random, ascending, descending, a peak
            std::vector<uint64_t> keys(n);
            Random random(static_cast<uint32_t>(n));
            for (size_t i = 0; i < n; ++i) {
                const size_t place = order == 0   ? (random.below(1 << 20) << 20) + i
                                     : order == 1 ? i
                                     : order == 2 ? n - i
                                                  : (i < n / 2 ? 2 * i : 2 * (n - i) - 1);
                keys[i] = uint64_t{place} << 24;
            }
            std::vector<uint64_t> sorted = keys;
            std::sort(sorted.rbegin(), sorted.rend());
            bool holds = true;
            for (size_t k = 1; k <= n; ++k) {
                std::vector<uint64_t> found = keys;
                highest_first(found.data(), n, k);
                holds = holds && found[k - 1] == sorted[k - 1];
                std::sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(k), std::greater<>());
                holds =
                    holds && std::equal(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(k), sorted.begin());
            }
            at("%zu keys in order %d", n, order);
            CHECK("highest_first puts the highest k first, the lowest of them last", holds);
        }
    }
}

void test_select(Isa isa) {
    for (const size_t n : std::vector<size_t>{0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 35}) {
        at("isa %s, %zu values", isa_name(isa), n);
        Random random(static_cast<uint32_t>(n));
        Exact<int32_t> distances(n);
        Exact<float> similarities(n);
        for (size_t i = 0; i < n; ++i) {
            distances[i] = static_cast<int32_t>(random.below(9));
            similarities[i] = i % 5 == 1 ? kNan : -static_cast<float>(distances[i]);
        }
        for (const int32_t limit : {0, 1, 5, 100}) {
            Exact<uint32_t> below(n), above(n);
            std::vector<uint32_t> expected_below, expected_above;
            for (uint32_t i = 0; i < n; ++i) {
                if (distances[i] < limit) expected_below.push_back(i);
                if (distances[i] < limit && i % 5 != 1) expected_above.push_back(i);
            }
            const size_t num_below = select_kernels(isa).below(distances.data(), n, limit, below.data());
            const size_t num_above =
                select_kernels(isa).above(similarities.data(), n, -static_cast<float>(limit), above.data());
            CHECK("below gives the positions of lower values, in order",
                  num_below == expected_below.size() && same_bits(below.data(), expected_below.data(), num_below));
            CHECK("above gives the positions of higher values, in order, never of NaN",
                  num_above == expected_above.size() && same_bits(above.data(), expected_above.data(), num_above));
        }
    }
}

}  // namespace chamfer::testing
