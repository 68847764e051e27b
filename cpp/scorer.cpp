#include "scorer.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

#include "linear.hpp"
#include "target.hpp"

namespace chamfer {
namespace {

// Rows that a pass takes before it moves to the next query columns: they stay in L2, or in L1 if they had to be
// converted, until the last columns have seen them.
constexpr size_t kSectionBytes = 128 * 1024;
constexpr size_t kConvertedBytes = 12 * 1024;

// What lies between the row that is computed and the one that is fetched from memory: two of the tallest tiles of
// float32, and as many bytes of shorter rows, which are computed faster.
constexpr size_t kRowsAhead = 24;
constexpr size_t kBytesAhead = 8 * 1024;

// Rows between two fetches of what else is wanted: more at a time would wait for one another.
constexpr size_t kRowsOfAlso = 24;

// Weights may lift a sum past float32: the largest number stands for it, since infinities mean an empty document.
float to_score(double sum) {
    constexpr double kLargest = std::numeric_limits<float>::max();
    return static_cast<float>(std::clamp(sum, -kLargest, kLargest));
}

}  // namespace

Arithmetic arithmetic_of(Dtype queries, Dtype documents, const ProductKernels& kernels) {
    if (queries == Dtype::codes1) return Arithmetic::bits;
    if (is_codes(documents)) return documents == Dtype::codes8 ? Arithmetic::int8 : Arithmetic::int8_scaled;
    return documents == Dtype::bfloat16 && kernels.bfloat16.fold ? Arithmetic::bfloat16 : Arithmetic::float32;
}

void QueryColumns::load(const TokenVectors& queries, const float* query_weights, QueryBatch batch,
                        const TokenVectors& documents, const ProductKernels& kernels) {
    const size_t first = static_cast<size_t>(queries.offsets[batch.begin]);
    starts_.assign(1, 0);
    for (size_t query = batch.begin; query < batch.end; ++query)
        starts_.push_back(starts_.back() + queries.length(query));
    const size_t dim = queries.dim, tokens = num_tokens();
    constants_.assign(tokens, 0.0);
    factors_.assign(tokens, 1.0);
    offsets_.assign(tokens, 0.0);
    bounds_.clear();
    switch (arithmetic_of(queries.dtype, documents.dtype, kernels)) {
        case Arithmetic::bits: {
            const size_t num_words = queries.row_bytes() / 4;
            columns_.assign(kernels, reinterpret_cast<const uint32_t*>(queries.row(first)), tokens, num_words, 1,
                            num_words);
            constants_.assign(tokens, static_cast<double>(dim));
            factors_.assign(tokens, -2.0);
            break;
        }
        case Arithmetic::int8:
        case Arithmetic::int8_scaled: quantize(queries.float32_rows(first), documents, kernels); break;
        case Arithmetic::bfloat16: {
            const size_t num_words = (dim + 1) / 2;
            std::vector<uint32_t> words(tokens * num_words);
            for (size_t t = 0; t < tokens; ++t) {
                const float* row = queries.float32_rows(first + t);
                for (size_t i = 0; i < dim; ++i) {
                    words[t * num_words + i / 2] |= static_cast<uint32_t>(to_bfloat16(row[i])) << (i % 2 * 16);
                }
            }
            columns_.assign(kernels, words.data(), tokens, num_words, 1, num_words);
            break;
        }
        case Arithmetic::float32: {
            if (documents.dtype != Dtype::bfloat16) {
                columns_.assign(kernels, queries.float32_rows(first), tokens, dim, 1, dim);
                break;
            }
            std::vector<float> rounded(queries.float32_rows(first), queries.float32_rows(first + tokens));
            for (float& x : rounded) x = from_bfloat16(to_bfloat16(x));
            columns_.assign(kernels, rounded.data(), tokens, dim, 1, dim);
            break;
        }
    }
    weighted_factors_ = factors_;
    weighted_constants_.assign(num_queries(), 0.0);
    score_bounds_.assign(num_queries(), {});
    for (size_t i = 0; i < num_queries(); ++i) {
        for (size_t t = starts_[i]; t < starts_[i + 1]; ++t) {
            const double weight = query_weights ? static_cast<double>(query_weights[first + t]) : 1.0;
            weighted_factors_[t] *= weight;
            weighted_constants_[i] += weight * constants_[t];
            if (bounds_.empty()) continue;
            const double magnitude = std::abs(weight);
            score_bounds_[i].of_error += magnitude * bounds_[t].of_error;
            score_bounds_[i].of_norm += magnitude * bounds_[t].of_norm;
            score_bounds_[i].constant += magnitude * bounds_[t].constant;
        }
    }
}

void QueryColumns::quantize(const float* rows, const TokenVectors& documents, const ProductKernels& kernels) {
    const Codebook& book = documents.codebook;
    const bool scaled = documents.dtype != Dtype::codes8;
    const size_t dim = documents.dim, codes_per_byte = 8 / bits_of(documents.dtype);
    const size_t row_bytes = documents.row_bytes(), number_bytes = kernels.int8_bytes;
    const size_t num_words = row_bytes * number_bytes / 4 * codes_per_byte;
    std::vector<uint32_t> words(num_tokens() * num_words);
    std::vector<double> p(dim);
    std::vector<int32_t> sums(num_tokens());
    bounds_.assign(num_tokens(), {});
    reciprocal_factors_.resize(num_tokens());
    double center_norm = 0.0;
    for (size_t i = 0; i < dim; ++i)
        center_norm += static_cast<double>(book.center[i]) * static_cast<double>(book.center[i]);
    center_norm = std::sqrt(center_norm) * (1.0 + 1e-9);
    std::vector<float> shifts(num_tokens());
    for (size_t t = 0; t < num_tokens(); ++t) {
        const float* row = rows + t * dim;
        const double along = along_direction(row, book.direction, dim);
        const double taken = scaled ? along : along * (1.0 - 1.0 / static_cast<double>(book.stretch));
        double largest = 0.0, squared_direction = 0.0;
        for (size_t i = 0; i < dim; ++i) {
            const double direction = static_cast<double>(book.direction[i]);
            constants_[t] += static_cast<double>(row[i]) * static_cast<double>(book.center[i]);
            p[i] = static_cast<double>(row[i]) - taken * direction;
            if (scaled) p[i] *= static_cast<double>(book.dim_scales[i]);
            largest = std::max(largest, std::abs(p[i]));
            squared_direction += direction * direction;
        }
        // A query token along m alone has nothing left to quantize: its shift must not overflow.
        largest = std::max(largest, std::abs(along) * squared_direction * 1e-20);
        factors_[t] = largest > 0.0 ? largest / 127.0 : 1.0;
        reciprocal_factors_[t] = 1.0 / factors_[t];
        auto* column = reinterpret_cast<uint8_t*>(words.data() + t * num_words);
        double squared_query = 0.0, squared_p = 0.0, squared_error = 0.0;
        for (size_t i = 0; i < dim; ++i) {
            const auto number = static_cast<int16_t>(round_to_even(p[i] / factors_[t]));
            const double error = p[i] - number * factors_[t];
            sums[t] += number;
            squared_query += static_cast<double>(row[i]) * static_cast<double>(row[i]);
            squared_p += p[i] * p[i];
            squared_error += error * error;
            // As expand() orders the codes: code j of byte b is number b of plane j.
            const size_t at = i % codes_per_byte * row_bytes + i / codes_per_byte;
            std::memcpy(column + at * number_bytes, &number, number_bytes);
        }
        // What subnormal products lose is no fraction of them: 2^-149 each, or 2^-126 where they are flushed to zero.
        const double rounding = (2.0 * static_cast<double>(dim) + 2.0) * 0x1p-24 * std::sqrt(squared_query);
        bounds_[t] = {std::sqrt(squared_p) * (1.0 + 1e-9) + rounding,
                      std::sqrt(squared_error) * (1.0 + 1e-9) + rounding,
                      rounding * center_norm + static_cast<double>(dim) * 0x1p-125};
        // A level is 128 above the number that it stands for, and the product counts it int8_row_offset too low.
        sums[t] *= 128 - kernels.int8_row_offset;
        shifts[t] = static_cast<float>(along * squared_direction / factors_[t]);
    }
    columns_.assign(kernels, words.data(), num_tokens(), num_words, 1, num_words);
    if (scaled) {
        lane_offsets_ = sums;
        lane_offsets_.resize(columns_.view().num_lanes);
        lane_shifts_ = shifts;
        lane_shifts_.resize(columns_.view().num_lanes);
    } else {
        offsets_.assign(sums.begin(), sums.end());
    }
}

namespace {

// Truncation may round up by less than one; another one is for the last operations in double, and what constants_ has
// lost is within the bound.
int32_t least_integer(double product) {
    return static_cast<int32_t>(std::clamp(product, -2147483600.0, 2147483600.0)) - 2;
}

}  // namespace

void QueryColumns::least_products(const int32_t* best, const Codebook& book, size_t document, int32_t* least) const {
    // The similarity of the best product is at least its approximation less the bound; that of another is at most its
    // own and the bound.
    const double two_over_scale = 2.0 / static_cast<double>(book.scales[document]);
    for (size_t t = 0; t < num_tokens(); ++t) {
        const double bound = bounds_[t].of(book.errors[document], book.norms[document]);
        least[t] = least_integer(static_cast<double>(best[t]) - bound * reciprocal_factors_[t] * two_over_scale);
    }
}

void QueryColumns::least_products(const float* best, const Codebook& book, size_t document, int32_t* least) const {
    const double one_over_scale = 1.0 / static_cast<double>(book.scales[document]);
    for (size_t t = 0; t < num_tokens(); ++t) {
        const double bound = bounds_[t].of(book.errors[document], book.norms[document]);
        const double lowest = static_cast<double>(best[t]) - bound - constants_[t];
        least[t] = least_integer(lowest * reciprocal_factors_[t] * one_over_scale + offsets_[t]);
    }
}

template <class Number>
void QueryColumns::sum(const Number* best, double document_scale, float* scores, size_t stride) const {
    for (size_t i = 0; i < num_queries(); ++i) {
        double total = 0.0;
        for (size_t t = starts_[i]; t < starts_[i + 1]; ++t)
            total += weighted_factors_[t] * (static_cast<double>(best[t]) - offsets_[t]);
        scores[i * stride] = to_score(weighted_constants_[i] + document_scale * total);
    }
}

template void QueryColumns::sum(const float*, double, float*, size_t) const;
template void QueryColumns::sum(const int32_t*, double, float*, size_t) const;

Scorer::Scorer(const TokenVectors& queries, const TokenVectors& documents, Isa isa)
    : documents_(documents),
      kernels_(product_kernels(isa)),
      arithmetic_(arithmetic_of(queries.dtype, documents.dtype, kernels_)),
      converts_(false),
      row_bytes_(std::max<size_t>(1, documents.row_bytes())),
      words_per_plane_(documents.row_bytes() / 4),
      num_planes_(1) {
    if (arithmetic_ == Arithmetic::float32) {
        converts_ = documents.dtype != Dtype::float32;
        words_per_plane_ = documents.dim;
    } else if (arithmetic_ == Arithmetic::int8 || arithmetic_ == Arithmetic::int8_scaled) {
        converts_ = arithmetic_ == Arithmetic::int8_scaled || !kernels_.int8_in_place;
        words_per_plane_ = documents.row_bytes() * kernels_.int8_bytes / 4;
        num_planes_ = 8 / bits_of(documents.dtype);
    }
    const size_t num_words = std::max<size_t>(1, words_per_plane_ * num_planes_);
    words_per_line_ = std::bit_floor(std::max<size_t>(1, num_words * 64 / row_bytes_));
    section_rows_ = std::max<size_t>(kRowsAhead, (converts_ ? kConvertedBytes : kSectionBytes) / (num_words * 4));
    rows_ahead_ = converts_ ? section_rows_ : std::max(kRowsAhead, kBytesAhead / row_bytes_);
    if (converts_) converted_.resize(num_planes_ * ((section_rows_ * words_per_plane_ * 4 + 63) / 64 * 64));
}

void Scorer::fold(const QueryColumns& queries, size_t begin, size_t end, size_t next, int32_t* products,
                  const std::vector<uintptr_t>* also) {
    const PackedColumns columns = queries.columns();
    best_.resize(columns.num_lanes * 4);
    uint32_t worst = std::bit_cast<uint32_t>(-std::numeric_limits<float>::infinity());
    const WordKernels* kernels = &kernels_.float32;
    if (arithmetic_ == Arithmetic::bfloat16) kernels = &kernels_.bfloat16;
    if (arithmetic_ == Arithmetic::int8) {
        kernels = &kernels_.int8;
        worst = std::bit_cast<uint32_t>(std::numeric_limits<int32_t>::min());
    }
    if (arithmetic_ == Arithmetic::bits) {
        kernels = &kernels_.bits;
        worst = std::bit_cast<uint32_t>(std::numeric_limits<int32_t>::max());
    }
    for (size_t i = 0; i < best_.size(); i += 4) std::memcpy(best_.data() + i, &worst, 4);

    const auto address = [&](size_t row) { return reinterpret_cast<uintptr_t>(documents_.vectors) + row * row_bytes_; };
    size_t fetched = 0;
    for (size_t row = begin; row < end;) {
        const size_t left = end - row;
        const bool in_one_run = left > rows_ahead_ || next == end;
        // The last rows of a document that is followed by a distant one are a section of their own: theirs are the
        // fetches of the next.
        const size_t limit = !converts_ && next != end && left > rows_ahead_ ? left - rows_ahead_ : left;
        const size_t num_rows = std::min(also ? std::min(section_rows_, kRowsOfAlso) : section_rows_, limit);
        const Ahead ahead{address(in_one_run ? row + rows_ahead_ : next), row_bytes_, words_per_line_};
        const uint8_t* stored = documents_.row(row);
        Rows rows{reinterpret_cast<const uint32_t*>(stored), words_per_plane_, words_per_plane_, num_planes_, 0};
        if (converts_) {
            rows.data = reinterpret_cast<const uint32_t*>(converted_.data());
            auto* floats = reinterpret_cast<float*>(converted_.data());
            if (is_codes(documents_.dtype)) {
                const size_t plane_bytes = (num_rows * words_per_plane_ * 4 + 63) / 64 * 64;
                rows.plane_stride = plane_bytes / 4;
                kernels_.expand(stored, num_rows * row_bytes_, bits_of(documents_.dtype), documents_.codebook.levels,
                                converted_.data(), plane_bytes);
            } else if (documents_.dtype == Dtype::float16) {
                kernels_.half_to_float(documents_.float16_rows(row), num_rows * documents_.dim, floats);
            } else {
                for (size_t r = 0; r < num_rows; ++r) {
                    const auto* numbers = reinterpret_cast<const uint16_t*>(documents_.row(row + r));
                    kernels_.bfloat16_to_float(numbers, documents_.dim, floats + r * documents_.dim);
                }
            }
        }
        if (arithmetic_ == Arithmetic::int8_scaled) {
            row_terms_.resize(2 * num_rows);
            kernels_.half_to_float(documents_.codebook.token_terms + 2 * row, 2 * num_rows, row_terms_.data());
            kernels_.fold_scaled(columns, rows, num_rows, ahead, row_terms_.data(), queries.lane_offsets(),
                                 queries.lane_shifts(), reinterpret_cast<float*>(best_.data()));
        } else if (products) {
            kernels->fold_and_store(columns, rows, num_rows, ahead, best_.data(), products);
            products += num_rows * columns.num_lanes;
        } else {
            kernels->fold(columns, rows, num_rows, ahead, best_.data());
        }
        row += num_rows;
        if (also) {  // their share: the row is on its way before the stream of its lines is
            for (const size_t stop = also->size() * (row - begin) / (end - begin); fetched < stop; ++fetched) {
                for (size_t byte = 0; byte < documents_.dim * sizeof(float); byte += 64)
                    CHAMFER_PREFETCH((*also)[fetched] + byte);
            }
        }
    }
}

void Scorer::score(const QueryColumns& queries, size_t document, size_t next, float* scores, size_t stride) {
    if (documents_.length(document) == 0) {
        for (size_t i = 0; i < queries.num_queries(); ++i) scores[i * stride] = -std::numeric_limits<float>::infinity();
        return;
    }
    const int64_t* offsets = documents_.offsets;
    fold(queries, static_cast<size_t>(offsets[document]), static_cast<size_t>(offsets[document + 1]),
         static_cast<size_t>(offsets[next]));
    if (of_integers()) {
        queries.sum(best_integers(), scale(document), scores, stride);
    } else {
        queries.sum(best_floats(), 1.0, scores, stride);
    }
}

}  // namespace chamfer
