// The core against its definitions, written out here in double precision.
//
//   kernels_test [scalar|avx2|avx512|neon] [--quick] [--digest FILE]
//
// Without a name, every instruction set of this CPU runs. --quick takes fewer shapes, for emulators and sanitizers.
// --digest writes hashes of results that must be the same bits on every platform.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>

#include "fde.hpp"
#include "maxsim.hpp"
#include "parallel.hpp"
#include "random_streams.hpp"
#include "topk.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define HEAP_BUFFERS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEAP_BUFFERS 1
#endif
#endif
#if defined(_WIN32)
#define HEAP_BUFFERS 1
#endif
#ifndef HEAP_BUFFERS
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace {

using namespace chamfer;

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kRounding = 0x1p-24;  // relative error of one float operation

bool quick = false;
size_t num_checks = 0, num_failures = 0;
char situation[256] = "start";

template <class... Values>
void at(const char* format, Values... values) {
    if constexpr (sizeof...(values) == 0) {
        std::snprintf(situation, sizeof situation, "%s", format);
    } else {
        std::snprintf(situation, sizeof situation, format, values...);
    }
}

void check(bool holds, const char* claim, const char* expression) {
    ++num_checks;
    if (holds || ++num_failures > 50) return;
    std::printf("FAILED: %s\n    at %s\n    %s\n", claim, situation, expression);
}
#define CHECK(claim, ...) check((__VA_ARGS__), claim, #__VA_ARGS__)

[[maybe_unused]] void report_fault(int) {
    std::printf("FAILED: a kernel stays inside its buffers\n    at %s\n", situation);
    std::fflush(stdout);
    std::_Exit(1);
}

// ── inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

// An array that ends at a multiple of 64 bytes and where one element more is out of bounds: by AddressSanitizer's red
// zone, else by an unmapped page. The page also stops what AddressSanitizer does not see, such as GCC's broadcast
// loads.
template <class T>
class Exact {
public:
    explicit Exact(size_t n, T fill = T{}) : size_(n), bytes_((n * sizeof(T) + 63) / 64 * 64) {
#ifdef HEAP_BUFFERS
        base_ = static_cast<char*>(::operator new(bytes_, std::align_val_t{64}));
        data_ = reinterpret_cast<T*>(base_ + bytes_) - n;
#else
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        bytes_ = (bytes_ + page - 1) / page * page;
        auto& unused = pool()[bytes_];
        if (unused.empty()) {
            void* pages = mmap(nullptr, bytes_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (pages == MAP_FAILED) throw std::bad_alloc();
            unused.push_back(static_cast<char*>(pages));
            mprotect(unused.back() + bytes_, page, PROT_NONE);
        }
        base_ = unused.back();
        unused.pop_back();
        data_ = reinterpret_cast<T*>(base_ + bytes_) - n;
#endif
        std::fill(begin(), end(), fill);
    }
    explicit Exact(const std::vector<T>& values) : Exact(values.size()) {
        std::copy(values.begin(), values.end(), begin());
    }
    Exact(const Exact&) = delete;
    Exact& operator=(const Exact&) = delete;
    ~Exact() {
#ifdef HEAP_BUFFERS
        ::operator delete(base_, std::align_val_t{64});
#else
        pool()[bytes_].push_back(base_);
#endif
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    T* begin() { return data_; }
    T* end() { return data_ + size_; }
    const T* begin() const { return data_; }
    const T* end() const { return data_ + size_; }
    size_t size() const { return size_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }

private:
    static std::map<size_t, std::vector<char*>>& pool() {
        static std::map<size_t, std::vector<char*>> unused;
        return unused;
    }
    size_t size_, bytes_;
    char* base_;
    T* data_;
};

// Integer arithmetic on mt19937's words: the same numbers on every platform, as no std:: distribution would be.
class Random {
public:
    explicit Random(uint32_t seed) : words_(seed) {}
    size_t below(size_t n) { return words_() % n; }
    float number() { return static_cast<float>(static_cast<int32_t>(words_() >> 8) - (1 << 23)) * 0x1p-23f; }
    uint16_t half() { return static_cast<uint16_t>(words_() & 0xbbff); }  // any of magnitude below 2
    std::vector<float> numbers(size_t n) {
        std::vector<float> drawn(n);
        for (float& x : drawn) x = number();
        return drawn;
    }

private:
    std::mt19937 words_;
};

double half_value(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const double magnitude = exponent == 31  ? (fraction ? kNan : kInfinity)
                             : exponent == 0 ? std::ldexp(fraction, -24)
                                             : std::ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

template <class T>
bool same_bits(const T* a, const T* b, size_t n) {
    return n == 0 || std::memcmp(a, b, n * sizeof(T)) == 0;
}

// A dot product, and what each instruction set must make of it, to the bit.
struct Dot {
    double exact = 0.0, bound = 0.0;
    float fused = 0.0f, rounded = 0.0f;
    float by(Isa isa) const { return isa == Isa::scalar ? rounded : fused; }
};

Dot dot(const float* x, const float* y, size_t dim) {
    Dot result;
    for (size_t i = 0; i < dim; ++i) {
        const double product = static_cast<double>(x[i]) * static_cast<double>(y[i]);
        result.exact += product;
        result.bound += std::abs(product);
        result.fused = std::fma(x[i], y[i], result.fused);
        result.rounded += x[i] * y[i];
    }
    result.bound *= static_cast<double>(dim) * kRounding;
    return result;
}

bool within_bound(const Dot& d) {
    return std::abs(static_cast<double>(d.fused) - d.exact) <= d.bound &&
           std::abs(static_cast<double>(d.rounded) - d.exact) <= d.bound;
}

// ── product.hpp ─────────────────────────────────────────────────────────────────────────────────────────────────────

constexpr size_t kMaxRows = 180, kMaxColumns = 160;

struct Products {
    explicit Products(size_t vector_dim, size_t num_rows = kMaxRows) : dim(vector_dim) {
        Random random(static_cast<uint32_t>(dim));
        rows = random.numbers(num_rows * dim);
        columns = random.numbers(kMaxColumns * dim);
        std::fill_n(columns.begin() + static_cast<std::ptrdiff_t>(3 * dim), dim, 0.0f);  // its products are not > 0
        dots.resize(num_rows * kMaxColumns);
        for (size_t i = 0; i < dots.size(); ++i) {
            dots[i] = dot(&rows[i / kMaxColumns * dim], &columns[i % kMaxColumns * dim], dim);
        }
    }
    const Dot& of(size_t row, size_t column) const { return dots[row * kMaxColumns + column]; }

    size_t dim;
    std::vector<float> rows, columns;
    std::vector<Dot> dots;
};

struct Packed {
    Packed(Isa isa, const Products& p, size_t num_columns) : kernels(product_kernels(isa)) {
        // Row-major, row-major with a gap, and column-major.
        const size_t layout = num_columns % 3, dim = p.dim;
        const size_t column_stride = layout == 2 ? 1 : dim + 3 * layout, element_stride = layout == 2 ? num_columns : 1;
        Exact<float> source((num_columns - 1) * column_stride + (dim - 1) * element_stride + 1, kNan);
        for (size_t c = 0; c < num_columns; ++c) {
            for (size_t i = 0; i < dim; ++i) source[c * column_stride + i * element_stride] = p.columns[c * dim + i];
        }
        num_lanes = kernels.num_lanes(num_columns);
        CHECK("lanes are the fewest whole registers that hold all columns",
              num_lanes % kernels.lanes == 0 && num_lanes >= num_columns && num_lanes < num_columns + kernels.lanes);
        data.emplace(num_lanes * dim, kNan);
        kernels.pack(source.data(), num_columns, column_stride, element_stride, dim, data->data());
    }
    PackedColumns view(size_t dim) const { return {data->data(), num_lanes, dim}; }

    const ProductKernels& kernels;
    size_t num_lanes;
    std::optional<Exact<float>> data;
};

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
    const Ahead ahead{reinterpret_cast<const char*>(rows.end()), stride * 4, 4};  // out of bounds: prefetches may be
    packed.kernels.fold_max(packed.view(dim), rows.data(), num_rows, stride, ahead, maxima.data());
    CHECK("fold_max keeps the largest product of each column and what was there",
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

// ── maxsim.hpp ──────────────────────────────────────────────────────────────────────────────────────────────────────

struct Ragged {
    Ragged(Random& random, const std::vector<size_t>& lengths, size_t vector_dim, bool of_halves)
        : dim(vector_dim), offsets(lengths.size() + 1) {
        for (size_t i = 0; i < lengths.size(); ++i) offsets[i + 1] = offsets[i] + static_cast<int64_t>(lengths[i]);
        const size_t size = static_cast<size_t>(offsets[lengths.size()]) * dim;
        floats.emplace(size);
        halves.emplace(of_halves ? size : 0);
        for (size_t i = 0; i < size; ++i) of_halves ? set(i, random.half(), 0.0f) : set(i, 0, random.number());
    }
    // Makes token `to` equal to token `from`.
    void repeat(size_t from, size_t to) {
        for (size_t i = 0; i < dim; ++i) {
            set(to * dim + i, halves->size() ? (*halves)[from * dim + i] : uint16_t{0}, (*floats)[from * dim + i]);
        }
    }
    TokenVectors view(Dtype dtype = Dtype::float32) const {
        const void* vectors = dtype == Dtype::float32 ? static_cast<const void*>(floats->data()) : halves->data();
        return {vectors, dtype, offsets.data(), offsets.size() - 1, dim};
    }
    const float* token(size_t i) const { return floats->data() + i * dim; }

    size_t dim;
    Exact<int64_t> offsets;
    std::optional<Exact<float>> floats;
    std::optional<Exact<uint16_t>> halves;  // the same numbers

private:
    void set(size_t i, uint16_t half, float number) {
        if (halves->size()) (*halves)[i] = half;
        (*floats)[i] = halves->size() ? static_cast<float>(half_value(half)) : number;
    }
};

// k best of (row, score) by their definition: sort all, drop the repeated and the impossible.
void best_of(std::vector<ScoredRow> all, size_t k, float* scores, int64_t* rows) {
    std::set<int64_t> seen;
    std::erase_if(all, [&](const ScoredRow& x) { return x.score == -kInfinity || !seen.insert(x.row).second; });
    std::sort(all.begin(), all.end(), [](const ScoredRow& a, const ScoredRow& b) {
        return a.score != b.score ? a.score > b.score : a.row < b.row;
    });
    all.resize(std::max(k, all.size()), {-kInfinity, -1});
    for (size_t i = 0; i < k; ++i) scores[i] = all[i].score, rows[i] = all[i].row;
}

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
            CHECK("maxsim_topk_candidates counts a candidate once",
                  check_best(
                      [&](float* s, int64_t* r) {
                          maxsim_topk_candidates(input, candidates.data(), num_candidates, k, s, r);
                      },
                      of_query, k));
        }
    }
}

void check_alignment(Isa isa, const Ragged& query, const Ragged& document, Dtype dtype) {
    const size_t num_tokens = query.view().num_tokens();
    Exact<float> similarities(num_tokens, kNan);
    Exact<int64_t> tokens(num_tokens, -7);
    maxsim_alignment({query.view(), document.view(dtype), nullptr, 1, isa}, similarities.data(), tokens.data());
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
                        check_scan({queries.view(), documents.view(dtype), weight, num_threads, isa}, scores);
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

// ── fde.hpp ─────────────────────────────────────────────────────────────────────────────────────────────────────────

struct Matrices {
    Matrices(const FdeShape& shape, uint32_t seed, bool google)
        : simhash(shape.num_repetitions * shape.num_simhash_projections * shape.dim),
          projections(shape.num_repetitions * shape.projection_dimension * shape.dim) {
        (google ? draw_google_matrices : draw_paper_matrices)(shape, seed, simhash.data(), projections.data());
    }
    Exact<float> simhash, projections;
};

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
                const size_t width = encoder.output_dimension();
                CHECK("the output has as many dimensions as promised",
                      width == (sketched ? final_dimension : dimension));
                const auto encode = [&](Dtype dtype, size_t num_threads) {
                    const auto method = document ? &FdeEncoder::encode_documents : &FdeEncoder::encode_queries;
                    std::optional<Exact<float>> out(std::in_place, lengths.size() * width, kNan);
                    (encoder.*method)(items.view(dtype), centred ? center.data() : nullptr, num_threads, out->data());
                    return std::vector<float>(out->begin(), out->end());
                };
                const std::vector<float> out = encode(Dtype::float32, 1);
                CHECK("an encoding does not depend on threads and on the dtype of equal numbers",
                      out == encode(Dtype::float16, 3));
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
        (encoder.*(query ? &FdeEncoder::encode_queries : &FdeEncoder::encode_documents))(items, nullptr, 1, out.data());
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

// libstdc++ takes the logarithm in float: measured on 20 million draws, 0.3% differ, 14 of them by 3 units of the last
// place and none by more.
bool same_normal(float a, float b) { return std::abs(a - b) <= 3 * 0x1p-23f * std::abs(b); }

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

// ── topk.hpp, parallel.hpp, ragged.hpp ──────────────────────────────────────────────────────────────────────────────

void test_topk() {
    Random random(17);
    for (const size_t k : std::vector<size_t>{0, 1, 3, 10, 100}) {
        at("k %zu", k);
        TopK best(k);
        std::vector<ScoredRow> all;
        for (const int64_t row : {5, 2, 9, 0, 7, 1, 8, 3, 6, 4, 10, 11, 12}) {
            const float score = row == 3 ? -kInfinity : row == 10 ? kInfinity : static_cast<float>(random.below(3)) - 1;
            best.push(score, row);
            best.push(kNan, row);  // never enters
            all.push_back({score, row});
        }
        Exact<float> scores(k, kNan);
        Exact<int64_t> rows(k, -7);
        best.write(scores.data(), rows.data());
        std::vector<float> best_scores(k);
        std::vector<int64_t> best_rows(k);
        best_of(all, k, best_scores.data(), best_rows.data());
        CHECK("TopK keeps the best, ties by lower row, never NaN or -inf",
              same_bits(scores.data(), best_scores.data(), k) && same_bits(rows.data(), best_rows.data(), k));
    }
}

void test_parallel_for() {
    for (const size_t n : std::vector<size_t>{0, 1, 2, 7, 1000}) {
        for (const size_t num_threads : std::vector<size_t>{1, 3, 64}) {
            at("%zu items, %zu threads", n, num_threads);
            std::vector<std::atomic<int>> visits(n);
            std::atomic<bool> workers_hold{true};
            parallel_for(n, num_threads, [&](size_t worker, size_t i) {
                ++visits[i];
                if (worker >= workers_for(n, num_threads)) workers_hold = false;
            });
            CHECK("parallel_for visits every index once",
                  std::all_of(visits.begin(), visits.end(), [](const auto& v) { return v == 1; }));
            CHECK("a worker's number is below workers_for", workers_hold);
            if (n < 7) continue;
            std::string message;
            std::atomic<size_t> after{0};
            try {
                parallel_for(n, num_threads, [&](size_t, size_t i) {
                    if (i == 5) throw std::runtime_error("item 5");
                    if (i > 5) ++after;
                });
            } catch (const std::runtime_error& error) {
                message = error.what();
            }
            CHECK("parallel_for rethrows what an item throws", message == "item 5");
            CHECK("one thread stops at the item that throws", num_threads > 1 || after == 0);
        }
    }
}

void test_first_row_out_of_range() {
    const size_t num_rows = 20000, dim = 3;
    for (const Dtype dtype : {Dtype::float32, Dtype::float16}) {
        for (const size_t num_threads : std::vector<size_t>{1, 3}) {
            at("%s, %zu threads", dtype == Dtype::float16 ? "float16" : "float32", num_threads);
            Exact<float> floats(num_rows * dim, -0x1.fffffep49f);
            Exact<uint16_t> halves(num_rows * dim, 0xfbff);
            const auto first = [&](size_t rows) {
                const void* vectors = dtype == Dtype::float32 ? static_cast<const void*>(floats.data()) : halves.data();
                return first_row_out_of_range(vectors, dtype, rows, dim, num_threads);
            };
            CHECK("numbers below 2^50 and all finite halves are in range", first(num_rows) == -1);
            CHECK("no rows hold nothing", first(0) == -1);
            const std::pair<size_t, float> bad[] = {
                {19999, kNan}, {12000, -kInfinity}, {5001, kInfinity}, {5000, kNan}};
            for (const auto& [row, value] : bad) {
                floats[row * dim + 2] = value;
                halves[row * dim + 2] = std::isnan(value) ? 0x7c01 : value < 0 ? 0xfc00 : 0x7c00;
                CHECK("the first row out of range is found", first(num_rows) == static_cast<int64_t>(row));
            }
        }
    }
}

void test_parse_isa() {
    at("available_isas");
    for (const Isa isa : available_isas()) CHECK("a name names its level", parse_isa(isa_name(isa), "isa") == isa);
    std::string message;
    try {
        parse_isa("mmx", "isa");
    } catch (const std::invalid_argument& error) {
        message = error.what();
    }
    CHECK("an unknown name is refused with the choices",
          message.find("isa: 'mmx' is not an instruction set; available: scalar") == 0);
}

// ── digests: what every platform must agree on ──────────────────────────────────────────────────────────────────────

class Hash {  // FNV-1a over the bits of the numbers, lowest byte first
public:
    template <class Range>
    void add(const Range& numbers) {
        for (const float x : numbers) {
            uint32_t bits;
            std::memcpy(&bits, &x, 4);
            for (int shift = 0; shift < 32; shift += 8) value_ = (value_ ^ (bits >> shift & 255)) * 0x100000001b3ULL;
        }
    }
    unsigned long long value() const { return value_; }

private:
    unsigned long long value_ = 0xcbf29ce484222325ULL;
};

Hash digest_products(Isa isa) {
    Hash hash;
    for (const auto& [dim, num_rows, num_columns] :
         {std::array<size_t, 3>{1, 5, 3}, {128, 37, 70}, {129, 13, 33}, {1024, 12, 17}}) {
        const Products p(dim, num_rows);
        const Packed packed(isa, p, num_columns);
        std::vector<float> maxima(packed.num_lanes, -kInfinity), out(num_rows * packed.num_lanes);
        packed.kernels.fold_max(packed.view(dim), p.rows.data(), num_rows, dim, Ahead::none(p.rows.data()),
                                maxima.data());
        packed.kernels.multiply(packed.view(dim), p.rows.data(), num_rows, dim, out.data());
        maxima.resize(num_columns);
        hash.add(maxima);
        for (size_t r = 0; r < num_rows; ++r)
            for (size_t c = 0; c < num_columns; ++c) hash.add(std::array{out[r * packed.num_lanes + c]});
    }
    return hash;
}

Hash digest_scores(Isa isa) {
    Random random(19);
    const Ragged queries(random, {32, 5, 1}, 128, false), documents(random, {60, 0, 7, 180}, 128, true);
    const Exact<float> weights(random.numbers(38));
    Exact<float> scores(12);
    maxsim({queries.view(), documents.view(Dtype::float16), weights.data(), 2, isa}, scores.data());
    Hash hash;
    hash.add(scores);
    return hash;
}

Hash digest_matrices(bool google) {
    Hash hash;
    for (const uint32_t seed : {0U, 1U, 42U, 0xffffffffU}) {
        const Matrices matrices({128, 20, 5, 16, true, google}, seed, google);
        hash.add(matrices.simhash);
        hash.add(matrices.projections);
    }
    return hash;
}

// Saved encodings are worth nothing beside new ones if a seed ever gives other matrices.
void test_matrices_stay() {
    at("%s", "128 dims, 20 repetitions, 5 hyperplanes, projection 16, four seeds");
    CHECK("a seed gives Google's matrices as it always did", digest_matrices(true).value() == 0x802db52b24c7b062ULL);
    CHECK("a seed gives the paper's matrices as it always did",
          digest_matrices(false).value() == 0x7e033956f92a1558ULL);
}

void write_digest(const char* path) {
    std::FILE* file = std::fopen(path, "w");
    if (!file) throw std::runtime_error(std::string("cannot write ") + path);
    for (const Isa isa : available_isas()) {
        if (isa == Isa::scalar) continue;  // rounds after the multiplication
        std::fprintf(file, "products %s %016llx\n", isa_name(isa), digest_products(isa).value());
        std::fprintf(file, "scores %s %016llx\n", isa_name(isa), digest_scores(isa).value());
    }
    std::fprintf(file, "matrices google %016llx\n", digest_matrices(true).value());
    std::fprintf(file, "matrices paper %016llx\n", digest_matrices(false).value());
    std::fclose(file);
}

}  // namespace

int main(int argc, char** argv) {
#ifndef HEAP_BUFFERS
    std::signal(SIGSEGV, report_fault);
    std::signal(SIGBUS, report_fault);
#endif
    std::vector<Isa> isas = available_isas();
    const char* digest = nullptr;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument == "--quick") {
            quick = true;
        } else if (argument == "--digest" && i + 1 < argc) {
            digest = argv[++i];
        } else {
            try {
                isas = {parse_isa(argument, "kernels_test")};
            } catch (const std::invalid_argument& error) {
                std::fprintf(stderr, "%s\n", error.what());
                return 2;
            }
        }
    }
    const std::pair<const char*, std::function<void()>> tests[] = {
        {"products", [&] { test_products(isas); }},
        {"sum_rows", [&] { std::for_each(isas.begin(), isas.end(), test_sum_rows); }},
        {"half_to_float", [&] { std::for_each(isas.begin(), isas.end(), test_half_to_float); }},
        {"maxsim", [&] { test_maxsim(isas); }},
        {"fde", [&] { test_fde(isas); }},
        {"project_signs", [&] { std::for_each(isas.begin(), isas.end(), test_project_signs); }},
        {"google's encodings", [&] { std::for_each(isas.begin(), isas.end(), test_google_encoding); }},
        {"random streams", test_random_streams},
        {"matrices", test_matrices_stay},
        {"topk", test_topk},
        {"parallel_for", test_parallel_for},
        {"first_row_out_of_range", test_first_row_out_of_range},
        {"parse_isa", test_parse_isa},
    };
    for (const auto& [name, test] : tests) {
        const size_t checks = num_checks, failures = num_failures;
        const auto start = std::chrono::steady_clock::now();
        test();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        std::printf("%-20s %7zu checks, %zu failed, %.2f s\n", name, num_checks - checks, num_failures - failures,
                    seconds.count());
        std::fflush(stdout);
    }
    if (digest) write_digest(digest);
    std::printf("isa:");
    for (const Isa isa : isas) std::printf(" %s", isa_name(isa));
    std::printf("\n%zu checks, %zu failed\n", num_checks, num_failures);
    return num_failures ? 1 : 0;
}
