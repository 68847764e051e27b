// Inputs and definitions that several test files share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "codes.hpp"
#include "convert.hpp"
#include "fde.hpp"
#include "maxsim.hpp"
#include "product.hpp"
#include "ragged.hpp"
#include "testing.hpp"
#include "topk.hpp"

namespace chamfer::testing {

// ── product.hpp ─────────────────────────────────────────────────────────────────────────────────────────────────────

inline constexpr size_t kMaxRows = 180, kMaxColumns = 160;

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
        kernels.pack(reinterpret_cast<const uint32_t*>(source.data()), num_columns, column_stride, element_stride, dim,
                     reinterpret_cast<uint32_t*>(data->data()));
    }
    PackedColumns view(size_t dim) const { return {reinterpret_cast<const uint32_t*>(data->data()), num_lanes, dim}; }

    const ProductKernels& kernels;
    size_t num_lanes;
    std::optional<Exact<float>> data;
};

// ── maxsim.hpp and topk.hpp ─────────────────────────────────────────────────────────────────────────────────────────

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
    // Number i of all tokens, rounded to a half if they are.
    void put(size_t i, float number) {
        uint16_t half = 0;
        if (halves->size()) convert_kernels(Isa::scalar).float_to_half(&number, 1, &half);
        set(i, half, number);
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

// What codes are made with: a center, a direction and the levels of codes of so many bits.
struct Frame {
    Frame(Random& random, size_t dim, Dtype codes, float center_size, float direction_size)
        : center(random.numbers(dim)), direction(random.numbers(dim)), dim_scales(random.numbers(dim)), levels(16) {
        for (float& x : center) x *= center_size;
        for (float& x : direction) x *= direction_size;
        for (float& x : dim_scales) x = std::abs(x) + 0.25f;
        const size_t num_levels = is_codes(codes) && codes != Dtype::codes8 ? size_t{1} << bits_of(codes) : 2;
        for (size_t c = 0; c < num_levels; ++c)
            levels[c] = static_cast<uint8_t>(9 + 238 * c * (c + num_levels) / (num_levels - 1) / (2 * num_levels - 1));
    }
    Codebook book(float stretch) const {
        Codebook made;
        made.center = center.data();
        made.direction = direction.data();
        made.dim_scales = dim_scales.data();
        made.levels = levels.data();
        made.levels_per_rms = 45.0f;
        made.stretch = stretch;
        return made;
    }
    Exact<float> center, direction, dim_scales;
    Exact<uint8_t> levels;
};

// Items in bfloat16 or in codes.
struct Coded {
    Coded(const Ragged& items, Dtype codes_dtype, const Codebook& codebook, Dtype items_dtype = Dtype::float32)
        : view{nullptr, codes_dtype, items.offsets.data(), items.view().size, items.dim, codebook},
          codes(view.num_tokens() * view.row_bytes(), uint8_t{0xee}),
          scales(view.size),
          errors(view.size),
          norms(view.size),
          token_terms(2 * view.num_tokens()) {
        view.vectors = codes.data();
        if (codes_dtype == Dtype::bfloat16) {
            encode_bfloat16(items.view(items_dtype), 1, codes.data());
        } else if (codes_dtype == Dtype::codes8) {
            encode_codes8(items.view(items_dtype), codebook, 1, codes.data(), scales.data(), errors.data(),
                          norms.data());
            view.codebook.levels = nullptr;
            view.codebook.dim_scales = nullptr;
            view.codebook.scales = scales.data();
            view.codebook.errors = errors.data();
            view.codebook.norms = norms.data();
        } else {
            std::vector<float> terms(token_terms.size());
            encode_codes(items.view(items_dtype), codebook, codes_dtype, 1, codes.data(), terms.data());
            convert_kernels(Isa::scalar).float_to_half(terms.data(), terms.size(), token_terms.data());
            view.codebook.token_terms = token_terms.data();
        }
    }
    TokenVectors view;
    Exact<uint8_t> codes;
    Exact<float> scales, errors, norms;
    Exact<uint16_t> token_terms;
};

// k best of (row, score) by their definition: sort all, drop the repeated and the impossible.
inline void best_of(std::vector<ScoredRow> all, size_t k, float* scores, int64_t* rows) {
    std::set<int64_t> seen;
    std::erase_if(all, [&](const ScoredRow& x) { return x.score == -kInfinity || !seen.insert(x.row).second; });
    std::sort(all.begin(), all.end(), [](const ScoredRow& a, const ScoredRow& b) {
        return a.score != b.score ? a.score > b.score : a.row < b.row;
    });
    all.resize(std::max(k, all.size()), {-kInfinity, -1});
    for (size_t i = 0; i < k; ++i) scores[i] = all[i].score, rows[i] = all[i].row;
}

// Everything that maxsim.hpp scores and finds, when `expected` are the scores, (queries, documents): in
// maxsim_test.cpp.
void check_scan(const MaxSimInput& input, const std::vector<float>& expected);

// ── fde.hpp ─────────────────────────────────────────────────────────────────────────────────────────────────────────

struct Matrices {
    Matrices(const FdeShape& shape, uint32_t seed, bool google)
        : simhash(shape.num_repetitions * shape.num_simhash_projections * shape.dim),
          projections(shape.num_repetitions * shape.projection_dimension * shape.dim) {
        (google ? draw_google_matrices : draw_paper_matrices)(shape, seed, simhash.data(), projections.data());
    }
    Exact<float> simhash, projections;
};

}  // namespace chamfer::testing
