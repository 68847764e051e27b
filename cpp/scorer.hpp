// One document against a batch of queries: what maxsim.cpp loops over. Knows every storage of documents:
//
//   float32, float16          queries as they are; float16 is converted a section at a time, exactly.
//   bfloat16                  queries rounded to bfloat16, VDPBF16PS where there is one, else float32 products.
//   codes of 8 bits           queries in 8 bits, one scale per query token; integer products.
//   codes of 4, 2, 1 bits     the same, each product times the scale of its document token, plus a multiple of its shift.
//   codes of 1 bit, queries too   dim - 2 · bits that differ.
//
// With codes (Codebook in ragged.hpp) the similarity of query token q and document token d is, with 8 bits,
//
//   <q, center> + q_scale · scales[D] · <p8, code - 128>,   p = L⁻¹ q,   q_scale = max |p| / 127,   p8 = round(p / q_scale),
//
// and with fewer
//
//   <q, center> + <q, m> · shift_d + q_scale · scale_d · <p8, levels[code] - 128>,   p = dim_scales ⊙ P q.
//
// The integers are exact, and every other operation rounds in a stated order: a score has the same bits on every
// instruction set. (float32 scores have the same bits wherever there are fused multiply-adds; so have bfloat16 scores
// but for avx512_bf16.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "product.hpp"
#include "ragged.hpp"

namespace chamfer {

struct QueryBatch {
    size_t begin, end;  // queries
};

// What decides how documents are multiplied.
enum class Arithmetic { float32, bfloat16, int8, int8_scaled, bits };
Arithmetic arithmetic_of(Dtype queries, Dtype documents, const ProductKernels& kernels);

// The tokens of a batch of queries, packed for documents of one storage.
class QueryColumns {
public:
    // query_weights: one per token of all queries, or null.
    void load(const TokenVectors& queries, const float* query_weights, QueryBatch batch, const TokenVectors& documents,
              const ProductKernels& kernels);

    size_t num_queries() const { return starts_.size() - 1; }
    size_t num_tokens() const { return starts_.back(); }
    PackedColumns columns() const { return columns_.view(); }
    const int32_t* lane_offsets() const { return lane_offsets_.data(); }
    const float* lane_shifts() const { return lane_shifts_.data(); }

    // The similarity of token t whose best product with document tokens is `best`; document_scale is 1 but for codes.
    double similarity(size_t t, double best, double document_scale) const {
        return constants_[t] + document_scale * factors_[t] * (best - offsets_[t]);
    }
    // scores[i * stride] of query i of the batch: the weighted sum of similarities.
    template <class Number>
    void sum(const Number* best, double document_scale, float* scores, size_t stride) const;

    // 8-bit codes only. The smallest integer product that a token of the document can have and still be the maximum of
    // query token t: by steps 1 and 3 of screen.hpp, given the best product or a similarity that is reached.
    void least_products(const int32_t* best, const Codebook& book, size_t document, int32_t* least) const;
    void least_products(const float* best, const Codebook& book, size_t document, int32_t* least) const;
    // How far the score of query i may be from that of float32 documents.
    double score_bound(size_t i, const Codebook& book, size_t document) const {
        return score_bounds_[i].of(book.errors[document], book.norms[document]);
    }

private:
    // |<q, d> - approximation| <= |p| · error + |p - q_scale p8| · norm + rounding · (|center| + error + norm).
    //
    // The first two: with ŷ what the codes stand for and p̂ = q_scale p8, <p, y> - <p̂, ŷ> = <p, y - ŷ> + <p - p̂, ŷ>,
    // and Cauchy and Schwarz; <p, y> = <q, d - center> because p = L⁻¹ q, y = L (d - center) and L is symmetric. The
    // last: a float32 product loses at most dim · u · |q| |d|, u = 2^-24 (Jeannerod and Rump, 2013), with |d| <=
    // |center| + |y|. `rounding` is twice that and 2 u more; what is over pays for the rounding of scores to float32 (u
    // each) and for everything that is done in double here and in codes.cpp, the rounding of p and y among it.
    struct Bound {
        double of_error = 0.0, of_norm = 0.0, constant = 0.0;
        double of(float error, float norm) const {
            return of_error * static_cast<double>(error) + of_norm * static_cast<double>(norm) + constant;
        }
    };
    void quantize(const float* rows, const TokenVectors& documents, const ProductKernels& kernels);

    std::vector<size_t> starts_{0};  // (num_queries + 1,) tokens
    OwnedColumns columns_;
    std::vector<double> constants_, factors_, offsets_;  // (num_tokens,)
    std::vector<double> reciprocal_factors_;             // int8: (num_tokens,)
    std::vector<double> weighted_factors_;               // (num_tokens,)
    std::vector<double> weighted_constants_;             // (num_queries,) summed
    std::vector<Bound> bounds_, score_bounds_;           // int8: (num_tokens,), (num_queries,)
    std::vector<int32_t> lane_offsets_;                  // int8_scaled: (num_lanes,)
    std::vector<float> lane_shifts_;                     // int8_scaled: (num_lanes,)
};

// Folds documents, one after the other. One per worker: its buffers are allocated once.
class Scorer {
public:
    Scorer(const TokenVectors& queries, const TokenVectors& documents, Isa isa);

    // scores[i * stride] of query i of the batch; -inf if the document is empty. `next` is the document that will be
    // scored next, if known; else any.
    void score(const QueryColumns& queries, size_t document, size_t next, float* scores, size_t stride);

    // The best products of the documents' tokens [begin, end) with each column. Tokens from row `next` on are fetched
    // from memory at the end, as the tokens ahead are all along. `products`, if not null, receives all of them,
    // (end - begin, num_lanes); not for int8_scaled. The rows at the addresses `also`, as long as float32 rows of the
    // queries' dim, are fetched little by little.
    void fold(const QueryColumns& queries, size_t begin, size_t end, size_t next, int32_t* products = nullptr,
              const std::vector<uintptr_t>* also = nullptr);
    const int32_t* best_integers() const { return reinterpret_cast<const int32_t*>(best_.data()); }
    double best(size_t t) const {
        return of_integers() ? static_cast<double>(best_integers()[t]) : static_cast<double>(best_floats()[t]);
    }
    double scale(size_t document) const {
        return arithmetic_ == Arithmetic::int8 ? static_cast<double>(documents_.codebook.scales[document]) : 1.0;
    }
    const ProductKernels& kernels() const { return kernels_; }

private:
    bool of_integers() const { return arithmetic_ == Arithmetic::int8 || arithmetic_ == Arithmetic::bits; }
    const float* best_floats() const { return reinterpret_cast<const float*>(best_.data()); }

    const TokenVectors& documents_;
    const ProductKernels& kernels_;
    Arithmetic arithmetic_;
    bool converts_;                       // rows are not multiplied as they are stored
    size_t row_bytes_, words_per_plane_;  // stored; multiplied
    size_t num_planes_, words_per_line_, section_rows_, rows_ahead_;
    std::vector<uint8_t, CacheAligned<uint8_t>> best_, converted_;
    std::vector<float> row_terms_;
};

}  // namespace chamfer
