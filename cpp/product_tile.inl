// The product's kernels, written once against the few operations of `V` (the registers of one instruction set).
// product.cpp includes this file inside each target region, where V is defined; a template outside could not inline V's
// intrinsics.
//
// A tile is T rows × W registers of columns: T·W accumulators, W column registers and a broadcast row element.
// V::kRows[W - 1] is the largest T for W that leaves no accumulator in memory and enough of them to hide the latency of
// a fused multiply-add.

// Register blocks: pairs, the last a triple or a single when the number of registers is odd (a triple keeps more
// accumulators busy).
CHAMFER_INLINE size_t block_width(size_t registers_left) {
    return registers_left == 1 || registers_left == 3 ? registers_left : 2;
}

// The rows of a tile, and the memory that the tile asks for while it computes: each row ahead, once per 16 dims.
struct Rows {
    const float* data;
    size_t stride;
    Ahead ahead;
    CHAMFER_INLINE Rows from(size_t row) const {
        return {
            data + row * stride, stride, {ahead.rows + row * ahead.row_bytes, ahead.row_bytes, ahead.element_bytes}};
    }
};

template <size_t T, size_t W>
CHAMFER_INLINE void multiply_tile(const float* block, const Rows& rows, size_t dim, V::Reg (&sums)[T][W]) {
    CHAMFER_UNROLL
    for (size_t t = 0; t < T; ++t) {
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) sums[t][w] = V::zero();
    }
    for (size_t i = 0; i < dim; ++i) {
        if (i % 16 == 0) {
            CHAMFER_UNROLL
            for (size_t t = 0; t < T; ++t)
                CHAMFER_PREFETCH(rows.ahead.rows + t * rows.ahead.row_bytes + i * rows.ahead.element_bytes);
        }
        V::Reg columns[W];
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) columns[w] = V::load(block + (i * W + w) * V::kLanes);
        CHAMFER_UNROLL
        for (size_t t = 0; t < T; ++t) {
            const V::Reg element = V::broadcast(rows.data + t * rows.stride + i);
            CHAMFER_UNROLL
            for (size_t w = 0; w < W; ++w) sums[t][w] = V::multiply_add(element, columns[w], sums[t][w]);
        }
    }
}

struct FoldMax {
    float* maxima;
    template <size_t T, size_t W>
    CHAMFER_INLINE void finish(size_t, size_t lane, V::Reg (&sums)[T][W]) const {
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) {
            V::Reg best = V::load(maxima + lane + w * V::kLanes);
            CHAMFER_UNROLL
            for (size_t t = 0; t < T; ++t) best = V::max(best, sums[t][w]);
            V::store(maxima + lane + w * V::kLanes, best);
        }
    }
};

struct SignBits {
    uint32_t* bits;
    size_t words_per_row;
    template <size_t T, size_t W>
    CHAMFER_INLINE void finish(size_t row, size_t lane, V::Reg (&sums)[T][W]) const {
        CHAMFER_UNROLL
        for (size_t t = 0; t < T; ++t) {
            CHAMFER_UNROLL
            for (size_t w = 0; w < W; ++w) {
                const size_t bit = lane + w * V::kLanes;
                if (bit / 32 < words_per_row)
                    bits[(row + t) * words_per_row + bit / 32] |= V::positive(sums[t][w]) << (bit % 32);
            }
        }
    }
};

struct StoreLanes {
    float* out;
    size_t num_lanes;
    template <size_t T, size_t W>
    CHAMFER_INLINE void finish(size_t row, size_t lane, V::Reg (&sums)[T][W]) const {
        CHAMFER_UNROLL
        for (size_t t = 0; t < T; ++t) {
            CHAMFER_UNROLL
            for (size_t w = 0; w < W; ++w) V::store(out + (row + t) * num_lanes + lane + w * V::kLanes, sums[t][w]);
        }
    }
};

template <size_t T, size_t W, class Ending>
void run_tile(const float* block, const Rows& rows, size_t dim, size_t row, size_t lane, const Ending& ending) {
    V::Reg sums[T][W];
    multiply_tile<T, W>(block, rows.from(row), dim, sums);
    ending.template finish<T, W>(row, lane, sums);
}

// Calls the tile of exactly `num_rows` <= T rows.
template <size_t T, size_t W, class Ending>
CHAMFER_INLINE void pick_tile(size_t num_rows, const float* block, const Rows& rows, size_t dim, size_t row,
                              size_t lane, const Ending& ending) {
    if constexpr (T > 1) {
        if (num_rows < T) return pick_tile<T - 1, W>(num_rows, block, rows, dim, row, lane, ending);
    }
    run_tile<T, W>(block, rows, dim, row, lane, ending);
}

// Splits the rows into tiles whose heights differ by one at most: a last tile of one row would leave most of the core
// idle.
template <size_t W, class Ending>
void run_block(const float* block, const Rows& rows, size_t num_rows, size_t dim, size_t lane, const Ending& ending) {
    constexpr size_t T = V::kRows[W - 1];
    const size_t num_tiles = (num_rows + T - 1) / T;
    for (size_t tile = 0, row = 0; tile < num_tiles; ++tile) {
        const size_t height = (num_rows - row + num_tiles - tile - 1) / (num_tiles - tile);
        pick_tile<T, W>(height, block, rows, dim, row, lane, ending);
        row += height;
    }
}

template <class Ending>
void run_product(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ending& ending) {
    for (size_t lane = 0; lane < columns.num_lanes;) {
        const float* block = columns.data + lane * columns.dim;
        const size_t width = block_width((columns.num_lanes - lane) / V::kLanes);
        if (width == 1) run_block<1>(block, rows, num_rows, columns.dim, lane, ending);
        if (width == 2) run_block<2>(block, rows, num_rows, columns.dim, lane, ending);
        if (width == 3) run_block<3>(block, rows, num_rows, columns.dim, lane, ending);
        lane += width * V::kLanes;
    }
}

size_t num_lanes(size_t num_columns) { return (num_columns + V::kLanes - 1) / V::kLanes * V::kLanes; }

void pack(const float* columns, size_t num_columns, size_t column_stride, size_t element_stride, size_t dim,
          float* packed) {
    const size_t total = num_lanes(num_columns);
    for (size_t lane = 0; lane < total;) {
        const size_t block_lanes = block_width((total - lane) / V::kLanes) * V::kLanes;
        float* block = packed + lane * dim;
        for (size_t c = 0; c < block_lanes; ++c) {
            const bool padding = lane + c >= num_columns;
            for (size_t i = 0; i < dim; ++i) {
                block[i * block_lanes + c] = padding ? 0.0f : columns[(lane + c) * column_stride + i * element_stride];
            }
        }
        lane += block_lanes;
    }
}

void fold_max(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, const Ahead& ahead,
              float* maxima) {
    run_product(columns, {rows, row_stride, ahead}, num_rows, FoldMax{maxima});
}

void sign_bits(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, uint32_t* bits,
               size_t words_per_row) {
    run_product(columns, {rows, row_stride, Ahead::none(rows)}, num_rows, SignBits{bits, words_per_row});
}

void multiply(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, float* out) {
    run_product(columns, {rows, row_stride, Ahead::none(rows)}, num_rows, StoreLanes{out, columns.num_lanes});
}

// One stretch of sum_rows: N registers of every row.
template <size_t N>
CHAMFER_INLINE void sum_stretch(const float* rows, size_t row_stride, const uint32_t* indexes, size_t num_indexes,
                                float scale, float* out) {
    const V::Reg factor = V::set(scale);
    V::Reg sums[N];
    CHAMFER_UNROLL
    for (size_t j = 0; j < N; ++j) sums[j] = V::zero();
    for (size_t t = 0; t < num_indexes; ++t) {
        const float* row = rows + indexes[t] * row_stride;
        CHAMFER_UNROLL
        for (size_t j = 0; j < N; ++j) sums[j] = V::add(sums[j], V::load(row + j * V::kLanes));
    }
    CHAMFER_UNROLL
    for (size_t j = 0; j < N; ++j) V::store(out + j * V::kLanes, V::multiply(sums[j], factor));
}

void sum_rows(const float* rows, size_t row_stride, const uint32_t* indexes, size_t num_indexes, size_t width,
              float scale, float* out) {
    constexpr size_t kWide = V::kLanes == 16 ? 64 : 32;  // floats: enough registers to keep the load units busy
    size_t begin = 0;
    for (; begin + kWide <= width; begin += kWide) {
        sum_stretch<kWide / V::kLanes>(rows + begin, row_stride, indexes, num_indexes, scale, out + begin);
    }
    for (; begin < width; begin += 16) {
        sum_stretch<16 / V::kLanes>(rows + begin, row_stride, indexes, num_indexes, scale, out + begin);
    }
}

void half_to_float(const uint16_t* half, size_t n, float* out) {
    size_t i = 0;
    for (; i + 4 * V::kLanes <= n; i += 4 * V::kLanes) {
        V::Reg x[4];
        CHAMFER_UNROLL
        for (size_t j = 0; j < 4; ++j) x[j] = V::load_half(half + i + j * V::kLanes);
        CHAMFER_UNROLL
        for (size_t j = 0; j < 4; ++j) V::store(out + i + j * V::kLanes, x[j]);
    }
    for (; i + V::kLanes <= n; i += V::kLanes) V::store(out + i, V::load_half(half + i));
    if (i < n) {
        uint16_t rest[V::kLanes] = {};
        float converted[V::kLanes];
        for (size_t j = 0; i + j < n; ++j) rest[j] = half[i + j];
        V::store(converted, V::load_half(rest));
        for (size_t j = 0; i + j < n; ++j) out[i + j] = converted[j];
    }
}

constexpr ProductKernels kKernels{V::kLanes, num_lanes, pack, fold_max, sign_bits, multiply, sum_rows, half_to_float};
