// Fixed-dimensional encodings: a set of vectors becomes one vector, and <FDE(Q), FDE(D)> approximates MaxSim(Q, D).
//
// MUVERA, arXiv 2405.19504, §2. Per repetition, num_simhash_projections hyperplanes cut space into 2^k partitions; a
// query's block of a partition is the sum of its vectors there, a document's the mean; each block is projected to
// projection_dimension numbers. An empty partition of a document may be filled with the vector whose partition differs
// in the fewest bits (the first of equals).
//
// One product gives the partitions of all repetitions; vectors are summed before they are projected (both are linear),
// so each non-empty partition is projected once; the nearest vector of every empty partition comes from one pass over
// the k-cube.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "convert.hpp"
#include "isa.hpp"
#include "parallel.hpp"
#include "product.hpp"
#include "ragged.hpp"

namespace chamfer {

struct FdeShape {
    size_t dim;
    size_t num_repetitions;
    size_t num_simhash_projections;  // 0: one partition
    size_t projection_dimension;     // 0: blocks keep all dims
    bool fill_empty_partitions;      // documents only: filling a query would count its vectors several times
    bool gray_order;  // block order of google/graph-mining: the prefix XOR of the bit string; else the bit string

    size_t num_partitions() const { return size_t{1} << num_simhash_projections; }
    size_t block_dimension() const { return projection_dimension ? projection_dimension : dim; }
    size_t encoding_dimension() const { return num_repetitions * num_partitions() * block_dimension(); }
};

// Random matrices: simhash (num_repetitions, k, dim), normal; projections (num_repetitions, projection_dimension, dim).
// google: seeds, order and sparse ±1 projection of google/graph-mining, of which one entry per input dimension is not
// zero. paper: dense ±1/√projection_dimension; streams of independent seeds.
void draw_google_matrices(const FdeShape& shape, uint32_t seed, float* simhash, float* projections);
void draw_paper_matrices(const FdeShape& shape, uint32_t seed, float* simhash, float* projections);

// google/graph-mining's final count sketch: coordinate i adds signs[i] times itself to output columns[i] <
// final_projection_dimension.
void draw_count_sketch(uint32_t seed, size_t num_coordinates, uint32_t final_projection_dimension, int32_t* columns,
                       float* signs);

// The paper's final projection, a dense matrix S of ±1 (num_coordinates, final_projection_dimension), kept as bits:
// bits (num_coordinates, ⌈final_projection_dimension / 8⌉), most significant first, set for +1.
void draw_final_bits(uint32_t seed, size_t num_coordinates, size_t final_projection_dimension, uint8_t* final_bits);

// out[i] = rows[i] · S / √final_projection_dimension. rows: (num_rows, width), width >= 1 the coordinates of
// final_bits; out: (num_rows, final_projection_dimension). Sums run in an order of their own, whatever num_rows and
// num_threads.
void project_signs(const float* rows, size_t num_rows, size_t width, const uint8_t* final_bits,
                   size_t final_projection_dimension, const Threads& num_threads, Isa isa, float* out);

class FdeEncoder {
public:
    // `projections` may be null iff shape.projection_dimension is 0; `sketch_columns` and `sketch_signs`
    // (encoding_dimension entries) iff final_projection_dimension is 0. The matrices are copied.
    FdeEncoder(const FdeShape& shape, const float* simhash, const float* projections, const int32_t* sketch_columns,
               const float* sketch_signs, size_t final_projection_dimension, Isa isa);

    const FdeShape& shape() const { return shape_; }
    bool has_final_projection() const { return final_projection_dimension_ != 0; }
    size_t output_dimension() const {
        return final_projection_dimension_ ? final_projection_dimension_ : shape_.encoding_dimension();
    }

    enum class Side { query, document };

    // Writes one row of output_dimension numbers per item, an empty item's of zeros. `mean`, if not null, is subtracted
    // from every vector first. Returns the first item with a number too large for out.format == float16, or -1. Memory
    // per thread beyond `out`: the longest item as float32 and its bits, 12 bytes per partition of one repetition, one
    // encoding unless it is written to `out` as it is and, with a final projection, one more.
    int64_t encode(const TokenVectors& items, const float* mean, Side side, const Threads& num_threads,
                   const RowsOut& out) const;

    // The blocks of partitions that are not empty, as the rows of a sparse matrix: numbers values[i] at columns
    // indices[i], ascending, for offsets[item] <= i < offsets[item + 1]. offsets: (items.size + 1,); `allocate` is
    // called once, with offsets[items.size], for the other two. No final projection. Memory beyond: that of `encode`,
    // and the bits of all vectors.
    using SparseArrays = std::pair<float*, int32_t*>;
    void encode_sparse(const TokenVectors& items, const float* mean, Side side, const Threads& num_threads,
                       int64_t* offsets, const std::function<SparseArrays(size_t)>& allocate) const;

private:
    struct Worker;
    void load_vectors(const TokenVectors& items, size_t item, const float* mean, Worker& worker) const;
    // Of the vectors loaded: words_ words of bits each, zero on entry.
    void find_partitions(size_t num_vectors, const Worker& worker, uint32_t* bits) const;
    size_t count_blocks(size_t num_vectors, const uint32_t* bits, Side side, Worker& worker) const;
    bool fills(Side side) const { return side == Side::document && shape_.fill_empty_partitions; }
    template <class Blocks>
    void encode_item(size_t num_vectors, const uint32_t* bits, Side side, Worker& worker, Blocks& blocks) const;
    template <class Blocks>
    void encode_repetition(size_t repetition, size_t num_vectors, const uint32_t* bits, Side side, Worker& worker,
                           Blocks& blocks) const;
    template <class Blocks>
    void flush(size_t repetition, Worker& worker, Blocks& blocks) const;

    FdeShape shape_;
    size_t final_projection_dimension_;
    const ProductKernels& kernels_;
    const ConvertKernels& conversions_;
    size_t row_stride_;  // floats; a multiple of 16, so that sum_rows needs no tail
    size_t words_;       // of the bits of a vector: one more than they fill, since extract_bits reads pairs
    OwnedColumns simhash_;
    std::vector<OwnedColumns> projections_;  // one per repetition
    std::vector<int32_t> sketch_columns_;
    std::vector<float> sketch_signs_;
};

}  // namespace chamfer
