// Exact scores from codes: the maxima of the float32 kernel, found by looking at few tokens in full precision.
//
// For a query token, let a(d) be the similarity of document token d by codes of 8 bits, f(d) that of the float32
// kernel, and e the bound of QueryColumns: |a(d) - f(d)| <= e for all d of the document. Let b be the best by codes.
//
//   1. f(d) >= f(b) needs a(d) + e >= a(b) - e: only tokens within 2 e of the best by codes are kept.
//   2. The best of all query tokens are multiplied in float32. The greatest of these, F, is at most the maximum.
//   3. f(d) >= F needs a(d) + e >= F: only tokens within e of F are multiplied as well.
//
// Each product is the same chain of operations that a scan without a screen would do, so the maximum has the same bits.
// A document whose score by codes and their bound is below the k-th best score is not looked at (upper_bounds).
//
// All of this holds for codes that were made of exactly these documents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scorer.hpp"

namespace chamfer {

// A batch of queries: their columns for codes and for float32 products.
struct ScreenedQueries {
    void load(const TokenVectors& queries, const float* query_weights, QueryBatch batch, const TokenVectors& documents,
              const TokenVectors& codes, const ProductKernels& kernels);
    QueryColumns by_codes, by_floats;
    std::vector<OwnedColumns> groups;  // the tokens of one register each, for float32 products
};

// One per worker: its buffers are allocated once.
class Screen {
public:
    Screen(const TokenVectors& queries, const TokenVectors& documents, const TokenVectors& codes, Isa isa)
        : documents_(documents), codes_(codes), scorer_(queries, codes, isa), plain_(queries, documents, isa) {}

    // As Scorer::score of the documents, to the bit; but the scores are written one or two calls later, or by finish(),
    // so that what a document needs of the vectors is on its way from memory while the next one's codes are multiplied.
    void score(const ScreenedQueries& queries, size_t document, size_t next, float* scores, size_t stride);
    void finish();

    // upper[i * stride]: a number that the score of query i is not above; -inf for an empty document.
    void upper_bounds(const ScreenedQueries& queries, size_t document, size_t next, float* upper, size_t stride);

private:
    // A document on its way through three steps, one for each call.
    struct Pending {
        const ScreenedQueries* queries = nullptr;  // null: none
        size_t document = 0, stride = 0;
        float* scores = nullptr;
        std::vector<uint32_t> rows;  // that may hold a maximum, of one group of query tokens after the other
        std::vector<size_t> ends;    // of the groups' rows
        std::vector<int32_t, CacheAligned<int32_t>> products;  // of `rows` with their group
        std::vector<uint32_t> best_rows;                       // the best of any query token, ascending
        FloatBuffer best;                                      // similarities
    };
    // Multiplies the codes: rows, products, best_rows.
    void begin(Pending& pending, size_t next);
    // Multiplies best_rows in float32; of `rows`, those stay that may be better.
    void narrow(Pending& pending);
    // Multiplies what is left and writes the scores.
    void end(Pending& pending);

    // Products of document tokens first + rows[i] with `columns`, folded into best.
    void rescore(const PackedColumns& columns, size_t first, const uint32_t* rows, size_t num_rows, float* best);

    const TokenVectors &documents_, &codes_;
    Scorer scorer_, plain_;  // of codes, of documents
    Pending begun_, narrowed_, spare_;
    std::vector<int32_t, CacheAligned<int32_t>> products_, least_, best_products_;
    FloatBuffer gathered_;
    std::vector<uint32_t> places_;
    std::vector<uintptr_t> ahead_;  // rows that the next step of begun_ and narrowed_ reads
};

}  // namespace chamfer
