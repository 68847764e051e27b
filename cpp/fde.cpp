#include "fde.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <memory>

#include "random_streams.hpp"

namespace chamfer {
namespace {

// Rows of one call of a projection: enough for full tiles.
constexpr size_t kPendingBlocks = 24;

// Items that a thread takes at once: the counter and the buffers are then nothing beside the work.
constexpr size_t kItemsAtATime = 8;

// Bits 32 i .. 32 i + 31 are word i; `count` <= 30 bits from bit `first` on. Reads one word past the last bit's.
uint32_t extract_bits(const uint32_t* words, size_t first, size_t count) {
    const uint64_t pair = words[first / 32] | (uint64_t{words[first / 32 + 1]} << 32);
    return static_cast<uint32_t>(pair >> (first % 32)) & ((1U << count) - 1);
}

// The bit string of the partition that google/graph-mining puts at a position. Its position is the prefix XOR of the
// bit string (bit j: the XOR of bits j and above), of which this is the inverse.
size_t bits_at_position(size_t position) { return position ^ (position >> 1); }

// splitmix64's finalizer: seeds of different purposes share no stream.
uint32_t derived_seed(uint32_t seed, uint32_t purpose, size_t index) {
    uint64_t z = seed + 0x9e3779b97f4a7c15ULL * (1 + ((static_cast<uint64_t>(purpose) << 32) | index));
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
}

void draw_normals(uint32_t seed, size_t n, float* out) {
    std::mt19937 words(seed);
    NormalStream normals(words);
    for (size_t i = 0; i < n; ++i) out[i] = normals.draw();
}

// Where the blocks of an item go, by the position of their partition among those of all repetitions, in ascending
// order. `put` is called for partitions that are not empty, `leave_empty` for the others.

// To their places in a row.
struct DenseBlocks {
    float* row;
    size_t block_dimension;
    void put(size_t position, const float* block) {
        std::memcpy(row + position * block_dimension, block, block_dimension * sizeof(float));
    }
    void leave_empty(size_t position) { std::fill_n(row + position * block_dimension, block_dimension, 0.0f); }
};

// One after the other, each number with its column.
struct SparseBlocks {
    float* value;
    int32_t* index;
    size_t block_dimension;
    void put(size_t position, const float* block) {
        value = std::copy_n(block, block_dimension, value);
        for (size_t i = 0; i < block_dimension; ++i) *index++ = static_cast<int32_t>(position * block_dimension + i);
    }
    void leave_empty(size_t) {}
};

}  // namespace

void draw_google_matrices(const FdeShape& shape, uint32_t seed, float* simhash, float* projections) {
    const size_t simhash_size = shape.num_simhash_projections * shape.dim,
                 projection_size = shape.projection_dimension * shape.dim;
    for (size_t r = 0; r < shape.num_repetitions; ++r) {
        draw_normals(seed + static_cast<uint32_t>(r), simhash_size, simhash + r * simhash_size);
        if (shape.projection_dimension == 0) continue;
        // The same seed again, as the reference does: its SimHash and its projection are not independent.
        std::mt19937 words(seed + static_cast<uint32_t>(r));
        float* projection = projections + r * projection_size;
        std::fill(projection, projection + projection_size, 0.0f);
        for (size_t i = 0; i < shape.dim; ++i) {
            const uint32_t column = draw_below(words, static_cast<uint32_t>(shape.projection_dimension));
            projection[column * shape.dim + i] = draw_coin(words) ? 1.0f : -1.0f;
        }
    }
}

void draw_paper_matrices(const FdeShape& shape, uint32_t seed, float* simhash, float* projections) {
    const size_t simhash_size = shape.num_simhash_projections * shape.dim,
                 projection_size = shape.projection_dimension * shape.dim;
    const float magnitude = 1.0f / std::sqrt(static_cast<float>(std::max<size_t>(1, shape.projection_dimension)));
    for (size_t r = 0; r < shape.num_repetitions; ++r) {
        draw_normals(derived_seed(seed, 0, r), simhash_size, simhash + r * simhash_size);
        std::mt19937 words(derived_seed(seed, 1, r));
        for (size_t i = 0; i < projection_size; ++i)
            projections[r * projection_size + i] = draw_coin(words) ? magnitude : -magnitude;
    }
}

void draw_count_sketch(uint32_t seed, size_t num_coordinates, uint32_t final_projection_dimension, int32_t* columns,
                       float* signs) {
    std::mt19937 words(seed);
    for (size_t i = 0; i < num_coordinates; ++i) {
        columns[i] = static_cast<int32_t>(draw_below(words, final_projection_dimension));
        signs[i] = draw_coin(words) ? 1.0f : -1.0f;
    }
}

void draw_final_bits(uint32_t seed, size_t num_coordinates, size_t final_projection_dimension, uint8_t* final_bits) {
    std::mt19937 words(derived_seed(seed, 2, 0));
    const size_t bytes_per_row = (final_projection_dimension + 7) / 8;
    for (size_t i = 0; i < num_coordinates; ++i) {
        for (size_t byte = 0; byte < bytes_per_row; ++byte) {
            // A word's top byte is eight fair coins; bits past the last column are zero.
            const size_t columns = std::min<size_t>(8, final_projection_dimension - byte * 8);
            final_bits[i * bytes_per_row + byte] =
                static_cast<uint8_t>((draw_word(words) >> 24) & (0xff00U >> columns));
        }
    }
}

void project_signs(const float* rows, size_t num_rows, size_t width, const uint8_t* final_bits,
                   size_t final_projection_dimension, const Threads& num_threads, Isa isa, float* out) {
    // A worker takes a slice of columns and unpacks their signs a stretch of coordinates at a time: 128 KB, which serve
    // all rows.
    constexpr size_t kSliceColumns = 64, kStretch = 512;
    const ProductKernels& kernels = product_kernels(isa);
    const float scale = 1.0f / std::sqrt(static_cast<float>(final_projection_dimension));
    const size_t bytes_per_row = (final_projection_dimension + 7) / 8;
    std::array<float, 256 * 8> signs_of_byte;
    for (size_t i = 0; i < signs_of_byte.size(); ++i) signs_of_byte[i] = ((i / 8) >> (7 - i % 8)) & 1 ? scale : -scale;
    parallel_for(
        (final_projection_dimension + kSliceColumns - 1) / kSliceColumns, num_threads, [&](size_t, size_t slice) {
            const size_t first = slice * kSliceColumns,
                         num_columns = std::min(kSliceColumns, final_projection_dimension - first);
            const size_t num_bytes = (num_columns + 7) / 8, stride = num_bytes * 8;
            FloatBuffer signs(kStretch * stride), products;
            OwnedColumns columns;
            for (size_t begin = 0; begin < width; begin += kStretch) {
                const size_t length = std::min(kStretch, width - begin);
                for (size_t i = 0; i < length; ++i) {
                    const uint8_t* bits = final_bits + (begin + i) * bytes_per_row + first / 8;
                    for (size_t byte = 0; byte < num_bytes; ++byte) {
                        std::memcpy(&signs[i * stride + 8 * byte], &signs_of_byte[8 * bits[byte]], 8 * sizeof(float));
                    }
                }
                columns.assign(kernels, signs.data(), num_columns, 1, stride, length);
                const size_t num_lanes = columns.view().num_lanes;
                products.resize(kPendingBlocks * num_lanes);
                for (size_t row = 0; row < num_rows; row += kPendingBlocks) {
                    const size_t height = std::min(kPendingBlocks, num_rows - row);
                    kernels.multiply(columns.view(), rows + row * width + begin, height, width, products.data());
                    for (size_t r = 0; r < height; ++r) {
                        float* sums = out + (row + r) * final_projection_dimension + first;
                        for (size_t c = 0; c < num_columns; ++c) {
                            sums[c] = (begin ? sums[c] : 0.0f) + products[r * num_lanes + c];
                        }
                    }
                }
            }
        });
}

FdeEncoder::FdeEncoder(const FdeShape& shape, const float* simhash, const float* projections,
                       const int32_t* sketch_columns, const float* sketch_signs, size_t final_projection_dimension,
                       Isa isa)
    : shape_(shape),
      final_projection_dimension_(final_projection_dimension),
      kernels_(product_kernels(isa)),
      conversions_(convert_kernels(isa)),
      row_stride_((shape.dim + 15) / 16 * 16),
      words_(shape.num_repetitions * shape.num_simhash_projections / 32 + 2),
      projections_(shape.projection_dimension ? shape.num_repetitions : 0) {
    const size_t k = shape.num_simhash_projections;
    // Within a repetition the first hyperplane becomes the highest bit: the bits, read as a number, are then the bit
    // string.
    FloatBuffer hyperplanes(shape.num_repetitions * k * shape.dim);
    for (size_t r = 0; r < shape.num_repetitions; ++r) {
        for (size_t j = 0; j < k; ++j) {
            std::copy_n(simhash + (r * k + j) * shape.dim, shape.dim,
                        hyperplanes.data() + (r * k + k - 1 - j) * shape.dim);
        }
    }
    simhash_.assign(kernels_, hyperplanes.data(), shape.num_repetitions * k, shape.dim, 1, shape.dim);
    for (size_t r = 0; r < projections_.size(); ++r) {
        projections_[r].assign(kernels_, projections + r * shape.projection_dimension * shape.dim,
                               shape.projection_dimension, shape.dim, 1, shape.dim);
    }
    if (final_projection_dimension) {
        sketch_columns_.assign(sketch_columns, sketch_columns + shape.encoding_dimension());
        sketch_signs_.assign(sketch_signs, sketch_signs + shape.encoding_dimension());
    }
}

// What one thread reuses from item to item.
struct FdeEncoder::Worker {
    FloatBuffer vectors;                   // the item, centred, (num_vectors, row_stride)
    std::vector<uint32_t> bits;            // (num_vectors, words_): the partitions of all repetitions
    std::vector<uint32_t> partition_of;    // (num_vectors,)
    std::vector<uint32_t> starts, order;   // vectors grouped by partition: order[starts[p] .. starts[p + 1]]
    std::vector<uint32_t> occupied;        // bit p: partition p holds a vector
    std::vector<uint64_t> nearest;         // (num_partitions,): bits that differ << 32 | vector
    FloatBuffer pending, projected;        // blocks to project, and the result
    std::vector<size_t> pending_position;  // of each pending block in the encoding
    std::vector<float> encoding;           // before the final projection
    std::vector<float> row;                // before the conversion to what is written
};

int64_t FdeEncoder::encode(const TokenVectors& items, const float* mean, Side side, const Threads& num_threads,
                           const RowsOut& out) const {
    assert(items.dim == shape_.dim && out.width == output_dimension());
    const size_t num_groups = (items.size + kItemsAtATime - 1) / kItemsAtATime;
    std::vector<std::unique_ptr<Worker>> workers(workers_for(num_groups, num_threads.count));
    LowestRow too_large;
    parallel_for(num_groups, num_threads, [&](size_t index, size_t group) {
        if (!workers[index]) workers[index] = std::make_unique<Worker>();
        Worker& worker = *workers[index];
        const bool as_it_is = out.format == RowFormat::float32;
        if (!as_it_is) worker.row.resize(out.width);
        if (final_projection_dimension_) worker.encoding.resize(shape_.encoding_dimension());
        for (size_t i = group * kItemsAtATime; i < std::min((group + 1) * kItemsAtATime, items.size); ++i) {
            float* row = as_it_is ? static_cast<float*>(out.row(i)) : worker.row.data();
            if (items.length(i) == 0) {
                std::fill_n(row, out.width, 0.0f);
            } else {
                DenseBlocks blocks{final_projection_dimension_ ? worker.encoding.data() : row,
                                   shape_.block_dimension()};
                load_vectors(items, i, mean, worker);
                worker.bits.assign(items.length(i) * words_, 0);
                find_partitions(items.length(i), worker, worker.bits.data());
                encode_item(items.length(i), worker.bits.data(), side, worker, blocks);
                if (final_projection_dimension_) {
                    std::fill_n(row, out.width, 0.0f);
                    for (size_t j = 0; j < shape_.encoding_dimension(); ++j)
                        row[sketch_columns_[j]] += sketch_signs_[j] * worker.encoding[j];
                }
            }
            if (!as_it_is && !out.write(conversions_, i, row)) too_large.report(i);
        }
    });
    return too_large.get();
}

void FdeEncoder::encode_sparse(const TokenVectors& items, const float* mean, Side side, const Threads& num_threads,
                               int64_t* offsets, const std::function<SparseArrays(size_t)>& allocate) const {
    assert(items.dim == shape_.dim && final_projection_dimension_ == 0);
    // Twice over the items: the bits, which stay, tell the number of blocks, so that these are written to their places.
    const size_t num_groups = (items.size + kItemsAtATime - 1) / kItemsAtATime;
    std::vector<std::unique_ptr<Worker>> workers(workers_for(num_groups, num_threads.count));
    std::vector<uint32_t> bits(items.num_tokens() * words_);
    offsets[0] = 0;
    parallel_for(num_groups, num_threads, [&](size_t worker, size_t group) {
        if (!workers[worker]) workers[worker] = std::make_unique<Worker>();
        for (size_t i = group * kItemsAtATime; i < std::min((group + 1) * kItemsAtATime, items.size); ++i) {
            uint32_t* item_bits = bits.data() + static_cast<size_t>(items.offsets[i]) * words_;
            load_vectors(items, i, mean, *workers[worker]);
            find_partitions(items.length(i), *workers[worker], item_bits);
            const size_t num_blocks = count_blocks(items.length(i), item_bits, side, *workers[worker]);
            offsets[i + 1] = static_cast<int64_t>(num_blocks * shape_.block_dimension());
        }
    });
    for (size_t i = 0; i < items.size; ++i) offsets[i + 1] += offsets[i];
    const SparseArrays arrays = allocate(static_cast<size_t>(offsets[items.size]));
    parallel_for(num_groups, num_threads, [&](size_t worker, size_t group) {
        if (!workers[worker]) workers[worker] = std::make_unique<Worker>();
        for (size_t i = group * kItemsAtATime; i < std::min((group + 1) * kItemsAtATime, items.size); ++i) {
            if (items.length(i) == 0) continue;
            SparseBlocks blocks{arrays.first + offsets[i], arrays.second + offsets[i], shape_.block_dimension()};
            load_vectors(items, i, mean, *workers[worker]);
            encode_item(items.length(i), bits.data() + static_cast<size_t>(items.offsets[i]) * words_, side,
                        *workers[worker], blocks);
        }
    });
}

void FdeEncoder::find_partitions(size_t num_vectors, const Worker& worker, uint32_t* bits) const {
    if (shape_.num_simhash_projections && num_vectors)
        kernels_.sign_bits(simhash_.view(), worker.vectors.data(), num_vectors, row_stride_, bits, words_);
}

size_t FdeEncoder::count_blocks(size_t num_vectors, const uint32_t* bits, Side side, Worker& worker) const {
    const size_t k = shape_.num_simhash_projections;
    if (num_vectors && fills(side)) return shape_.num_repetitions * shape_.num_partitions();
    size_t num_blocks = 0;
    for (size_t r = 0; r < shape_.num_repetitions; ++r) {
        worker.occupied.assign((shape_.num_partitions() + 31) / 32, 0);
        for (size_t t = 0; t < num_vectors; ++t) {
            const uint32_t partition = extract_bits(bits + t * words_, r * k, k);
            worker.occupied[partition / 32] |= 1U << (partition % 32);
        }
        for (const uint32_t word : worker.occupied) num_blocks += static_cast<size_t>(std::popcount(word));
    }
    return num_blocks;
}

template <class Blocks>
void FdeEncoder::encode_item(size_t num_vectors, const uint32_t* bits, Side side, Worker& worker,
                             Blocks& blocks) const {
    for (size_t r = 0; r < shape_.num_repetitions; ++r) encode_repetition(r, num_vectors, bits, side, worker, blocks);
}

void FdeEncoder::load_vectors(const TokenVectors& items, size_t item, const float* mean, Worker& worker) const {
    const size_t num_vectors = items.length(item), first = static_cast<size_t>(items.offsets[item]);
    worker.vectors.resize(num_vectors * row_stride_);
    for (size_t t = 0; t < num_vectors; ++t) {
        float* row = worker.vectors.data() + t * row_stride_;
        const float* numbers = row;
        if (items.dtype == Dtype::float16) {
            kernels_.half_to_float(items.float16_rows(first + t), shape_.dim, row);
        } else {
            numbers = items.float32_rows(first + t);
        }
        if (mean) {
            for (size_t i = 0; i < shape_.dim; ++i) row[i] = numbers[i] - mean[i];
        } else if (numbers != row) {
            std::memcpy(row, numbers, shape_.dim * sizeof(float));
        }
        std::fill(row + shape_.dim, row + row_stride_, 0.0f);
    }
}

template <class Blocks>
void FdeEncoder::encode_repetition(size_t repetition, size_t num_vectors, const uint32_t* bits, Side side,
                                   Worker& worker, Blocks& blocks) const {
    const size_t num_partitions = shape_.num_partitions(), k = shape_.num_simhash_projections;

    // Counting sort of the vectors by partition, stable, so that the first of a group is its lowest.
    worker.partition_of.resize(num_vectors);
    worker.order.resize(num_vectors);
    worker.starts.assign(num_partitions + 1, 0);
    for (size_t t = 0; t < num_vectors; ++t) {
        const uint32_t partition = extract_bits(bits + t * words_, repetition * k, k);
        worker.partition_of[t] = partition;
        ++worker.starts[partition];
    }
    // Counts become ends; the backward pass moves each to its group's start.
    for (size_t p = 1; p <= num_partitions; ++p) worker.starts[p] += worker.starts[p - 1];
    for (size_t t = num_vectors; t-- > 0;) {
        worker.order[--worker.starts[worker.partition_of[t]]] = static_cast<uint32_t>(t);
    }
    const std::vector<uint32_t>& starts = worker.starts;

    const bool filling = fills(side);
    if (filling) {
        worker.nearest.assign(num_partitions, ~uint64_t{0} >> 1);
        for (size_t p = 0; p < num_partitions; ++p) {
            if (starts[p] < starts[p + 1]) worker.nearest[p] = worker.order[starts[p]];
        }
        // Shortest paths along one axis of the cube after the other give, for every corner, the least (bits that
        // differ, vector) of all occupied corners: Hamming distance is the sum of its axes. O(k 2^k), whatever the
        // number of vectors.
        for (size_t bit = 1; bit < num_partitions; bit *= 2) {
            for (size_t begin = 0; begin < num_partitions; begin += 2 * bit) {
                for (size_t p = begin; p < begin + bit; ++p) {
                    const uint64_t one_more = uint64_t{1} << 32, low = worker.nearest[p],
                                   high = worker.nearest[p + bit];
                    worker.nearest[p] = std::min(low, high + one_more);
                    worker.nearest[p + bit] = std::min(high, low + one_more);
                }
            }
        }
    }

    worker.pending.resize(kPendingBlocks * row_stride_);
    worker.pending_position.clear();
    for (size_t position = 0; position < num_partitions; ++position) {
        const size_t p = shape_.gray_order ? bits_at_position(position) : position;
        const size_t size = starts[p + 1] - starts[p];
        if (size == 0 && !filling) {
            blocks.leave_empty(repetition * num_partitions + position);
            continue;
        }
        const uint32_t nearest = size ? 0 : static_cast<uint32_t>(worker.nearest[p]);
        const uint32_t* members = size ? worker.order.data() + starts[p] : &nearest;
        const size_t num_members = size ? size : 1;
        const float scale = side == Side::document ? 1.0f / static_cast<float>(num_members) : 1.0f;
        kernels_.sum_rows(worker.vectors.data(), row_stride_, members, num_members, row_stride_, scale,
                          worker.pending.data() + worker.pending_position.size() * row_stride_);
        worker.pending_position.push_back(repetition * num_partitions + position);
        if (worker.pending_position.size() == kPendingBlocks) flush(repetition, worker, blocks);
    }
    flush(repetition, worker, blocks);
}

// Projects the pending blocks and hands them on.
template <class Blocks>
void FdeEncoder::flush(size_t repetition, Worker& worker, Blocks& blocks) const {
    const size_t num_blocks = worker.pending_position.size();
    const float* numbers = worker.pending.data();
    size_t stride = row_stride_;
    if (shape_.projection_dimension) {
        const PackedColumns projection = projections_[repetition].view();
        stride = projection.num_lanes;
        worker.projected.resize(kPendingBlocks * stride);
        kernels_.multiply(projection, numbers, num_blocks, row_stride_, worker.projected.data());
        numbers = worker.projected.data();
    }
    for (size_t i = 0; i < num_blocks; ++i) blocks.put(worker.pending_position[i], numbers + i * stride);
    worker.pending_position.clear();
}

}  // namespace chamfer
