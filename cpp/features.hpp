// What a learned reduction of sets of vectors computes: a sum of nonlinear features over a query, and plain projections.
//
// LEMUR, arXiv 2601.21853: MaxSim(Q, D) = Σ_{x in Q} <φ(x), w_D>, nearly, φ being one hidden layer and w_D fitted to
// each document. The features of a query are summed once, and any number of documents is then one inner product each.
#pragma once

#include <cstddef>
#include <vector>

#include "aligned.hpp"
#include "isa.hpp"
#include "parallel.hpp"
#include "product.hpp"
#include "ragged.hpp"

namespace chamfer {

// φ_f(x) = h(<w_f, x>) - center[f], where h(z) = z · (t · (0.75 - t² · 0.25) + 0.5), t = min(max(0.4 z, -1), 1): a GELU
// without a transcendental function, so that every platform can give the same bits. It has a continuous derivative,
// and is 0 below -2.5 and z above 2.5. (Straight between -1.25 and 1.25 it is as fast and finds less: R10@100 on SciFact
// 0.909 against 0.925, GELU 0.926.)
class FeatureMap {
public:
    // weights: (num_features, dim), center: (num_features,). Both are copied.
    FeatureMap(const float* weights, const float* center, size_t num_features, size_t dim, Isa isa);

    size_t num_features() const { return num_features_; }
    size_t dim() const { return dim_; }

    // out[i, f] = Σ_x φ_f(x), x being the vectors of item i, float32 or float16, one after the other; zeros for an empty
    // item. Every operation rounds to float32 but the multiply-adds of products, which are those of ProductKernels:
    // avx2, avx512 and neon give the same bits, whatever the other items and threads. Memory per thread beyond `out`:
    // 6 KB, and 240 vectors of float16 items as float32.
    void sum(const TokenVectors& items, const Threads& num_threads, float* out) const;

private:
    struct Worker;
    void sum_items(const TokenVectors& items, size_t first_item, size_t end_item, size_t first_block, size_t end_block,
                   Worker& worker, float* out) const;

    size_t num_features_, dim_;
    Isa isa_;
    std::vector<OwnedColumns> blocks_;  // of kBlockFeatures features, the last padded to whole registers with zeros
    FloatBuffer center_;                // padded likewise
};

// out[i, j] = <rows[i], matrix[j]>. rows: (num_rows, width); matrix: (num_columns, width), float32 or float16, whose
// numbers are converted exactly; width >= 1.
//
// One order of summation whatever num_rows and num_threads, and with avx2, avx512 and neon the same bits: in each stretch
// of 1024 numbers, number i is multiplied and added, fused, to partial sum i % 16; partial sums s and s + 8 are added,
// then s and s + 4, s + 2, s + 1; stretches are added in their order. The scalar kernel rounds after multiplication.
// |error| <= (width / 1024 + 70) · 2^-24 · Σ|x_i y_i| but for subnormal products. Memory per thread beyond `out`:
// 256 KB.
void project(const float* rows, size_t num_rows, size_t width, const void* matrix, Dtype dtype, size_t num_columns,
             const Threads& num_threads, Isa isa, float* out);

}  // namespace chamfer
