#include "screen.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "target.hpp"

namespace chamfer {
namespace {

// Products that are kept, 64 MB: a document with more is scored without its codes.
constexpr size_t kMaxProducts = size_t{1} << 24;

}  // namespace

void ScreenedQueries::load(const TokenVectors& queries, const float* query_weights, QueryBatch batch,
                           const TokenVectors& documents, const TokenVectors& codes, const ProductKernels& kernels) {
    by_codes.load(queries, query_weights, batch, codes, kernels);
    by_floats.load(queries, query_weights, batch, documents, kernels);
    const size_t lanes = kernels.lanes, tokens = by_floats.num_tokens(), dim = queries.dim;
    const float* first = queries.float32_rows(static_cast<size_t>(queries.offsets[batch.begin]));
    groups.resize((tokens + lanes - 1) / lanes);
    for (size_t g = 0; g < groups.size(); ++g) {
        const size_t begin = g * lanes;
        groups[g].assign(kernels, first + begin * dim, std::min(lanes, tokens - begin), dim, 1, dim);
    }
}

void Screen::upper_bounds(const ScreenedQueries& queries, size_t document, size_t next, float* upper, size_t stride) {
    scorer_.score(queries.by_codes, document, next, upper, stride);
    if (codes_.length(document) == 0) return;
    for (size_t i = 0; i < queries.by_codes.num_queries(); ++i) {
        const double bound = queries.by_codes.score_bound(i, codes_.codebook, document);
        const double above = static_cast<double>(upper[i * stride]) + bound;
        constexpr float kLargest = std::numeric_limits<float>::max();  // no score is above it
        upper[i * stride] = above < static_cast<double>(kLargest)
                                ? std::nextafter(static_cast<float>(above), std::numeric_limits<float>::infinity())
                                : kLargest;
    }
}

void Screen::rescore(const PackedColumns& columns, size_t first, const uint32_t* rows, size_t num_rows, float* best) {
    const ProductKernels& kernels = scorer_.kernels();
    const size_t dim = documents_.dim;
    gathered_.resize(std::max(gathered_.size(), num_rows * dim));
    for (size_t i = 0; i < num_rows; ++i) {
        float* row = gathered_.data() + i * dim;
        if (documents_.dtype == Dtype::float16) {
            kernels.half_to_float(documents_.float16_rows(first + rows[i]), dim, row);
        } else {
            std::memcpy(row, documents_.float32_rows(first + rows[i]), dim * sizeof(float));
        }
    }
    kernels.float32.fold(columns, Rows::of_floats(gathered_.data(), dim, dim), num_rows, Ahead::none(gathered_.data()),
                         best);
}

void Screen::score(const ScreenedQueries& queries, size_t document, size_t next, float* scores, size_t stride) {
    const size_t length = documents_.length(document);
    const size_t num_products = length * queries.by_codes.columns().num_lanes;
    if (num_products == 0 || num_products > kMaxProducts) {
        finish();
        return plain_.score(queries.by_floats, document, next, scores, stride);
    }
    spare_.queries = &queries;
    spare_.document = document;
    spare_.scores = scores;
    spare_.stride = stride;
    begin(spare_, next);
    end(narrowed_);
    narrow(begun_);
    std::swap(narrowed_, begun_);
    std::swap(begun_, spare_);

    ahead_.clear();
    const auto fetch = [&](const Pending& pending, const std::vector<uint32_t>& rows, size_t num_rows) {
        const auto first = static_cast<size_t>(documents_.offsets[pending.document]);
        for (size_t i = 0; i < num_rows; ++i)
            ahead_.push_back(reinterpret_cast<uintptr_t>(documents_.row(first + rows[i])));
    };
    fetch(begun_, begun_.best_rows, begun_.best_rows.size());
    if (narrowed_.queries) fetch(narrowed_, narrowed_.rows, narrowed_.ends.back());
}

void Screen::finish() {
    end(narrowed_);
    narrow(begun_);
    end(begun_);
    ahead_.clear();
}

void Screen::begin(Pending& pending, size_t next) {
    const ProductKernels& kernels = scorer_.kernels();
    const ScreenedQueries& queries = *pending.queries;
    const QueryColumns& by_codes = queries.by_codes;
    const size_t length = documents_.length(pending.document), tokens = by_codes.num_tokens(), lanes = kernels.lanes;
    const size_t first = static_cast<size_t>(documents_.offsets[pending.document]);
    const size_t num_lanes = by_codes.columns().num_lanes, num_groups = queries.groups.size();
    products_.resize(std::max(products_.size(), length * num_lanes));
    scorer_.fold(by_codes, first, first + length, static_cast<size_t>(codes_.offsets[next]), products_.data(), &ahead_);
    // No product reaches the padding of the last group.
    constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
    least_.assign(num_groups * lanes, kNever);
    by_codes.least_products(scorer_.best_integers(), codes_.codebook, pending.document, least_.data());
    best_products_.assign(num_groups * lanes, kNever);
    std::copy_n(scorer_.best_integers(), tokens, best_products_.begin());

    pending.rows.resize(std::max(pending.rows.size(), num_groups * length));
    pending.products.resize(std::max(pending.products.size(), num_groups * length * lanes));
    pending.ends.clear();
    pending.best_rows.clear();
    places_.resize(std::max(places_.size(), length));
    size_t end = 0;
    for (size_t g = 0; g < num_groups; ++g) {
        const int32_t* products = products_.data() + g * lanes;
        uint32_t* rows = pending.rows.data() + end;
        const size_t num_rows = kernels.rows_reaching(products, length, num_lanes, least_.data() + g * lanes, rows);
        int32_t* kept = pending.products.data() + end * lanes;
        for (size_t i = 0; i < num_rows; ++i)
            std::memcpy(kept + i * lanes, products + rows[i] * num_lanes, lanes * sizeof(int32_t));
        const size_t num_best =
            kernels.rows_reaching(kept, num_rows, lanes, best_products_.data() + g * lanes, places_.data());
        for (size_t i = 0; i < num_best; ++i) pending.best_rows.push_back(rows[places_[i]]);
        pending.ends.push_back(end += num_rows);
    }
    std::sort(pending.best_rows.begin(), pending.best_rows.end());
    pending.best_rows.erase(std::unique(pending.best_rows.begin(), pending.best_rows.end()), pending.best_rows.end());
}

void Screen::narrow(Pending& pending) {
    if (!pending.queries) return;
    const ScreenedQueries& queries = *pending.queries;
    const ProductKernels& kernels = scorer_.kernels();
    const size_t lanes = kernels.lanes, num_groups = queries.groups.size();
    const size_t first = static_cast<size_t>(documents_.offsets[pending.document]);
    const std::vector<uint32_t>& done = pending.best_rows;
    pending.best.assign(num_groups * lanes, -std::numeric_limits<float>::infinity());
    rescore(queries.by_floats.columns(), first, done.data(), done.size(), pending.best.data());
    least_.assign(num_groups * lanes, std::numeric_limits<int32_t>::max());
    queries.by_codes.least_products(pending.best.data(), codes_.codebook, pending.document, least_.data());
    size_t num_left = 0;
    for (size_t g = 0, begin = 0; g < num_groups; ++g) {
        const size_t num_rows = pending.ends[g] - begin;
        const uint32_t* rows = pending.rows.data() + begin;
        const size_t num_reaching = kernels.rows_reaching(pending.products.data() + begin * lanes, num_rows, lanes,
                                                          least_.data() + g * lanes, places_.data());
        size_t next_done = 0;
        for (size_t i = 0; i < num_reaching; ++i) {
            const uint32_t row = rows[places_[i]];
            while (next_done < done.size() && done[next_done] < row) ++next_done;
            if (next_done == done.size() || done[next_done] != row) pending.rows[num_left++] = row;
        }
        begin = pending.ends[g];
        pending.ends[g] = num_left;
    }
}

void Screen::end(Pending& pending) {
    if (!pending.queries) return;
    const ScreenedQueries& queries = *pending.queries;
    const size_t lanes = scorer_.kernels().lanes;
    const size_t first = static_cast<size_t>(documents_.offsets[pending.document]);
    for (size_t g = 0, begin = 0; g < queries.groups.size(); begin = pending.ends[g++])
        rescore(queries.groups[g].view(), first, pending.rows.data() + begin, pending.ends[g] - begin,
                pending.best.data() + g * lanes);
    queries.by_floats.sum(pending.best.data(), 1.0, pending.scores, pending.stride);
    pending.queries = nullptr;
}

}  // namespace chamfer
