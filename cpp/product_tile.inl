// The tile of the product, written once against the few operations of `Op` (one kind of product on the registers of one
// instruction set). product.cpp includes this file inside each target region; a template outside could not inline the
// intrinsics.
//
// A tile is T rows × W registers of columns: T·W accumulators, W column registers and a broadcast word of the row.
// Op::kRows[W - 1] is the largest T for W that leaves no accumulator in memory and enough of them to hide the latency
// of a multiply-add.
//
// Op: Reg, kLanes, kRows; zero, load, store, broadcast, step (one word multiplied and added) and better. Where one word
// too many would overflow what step adds up, kWordsPerFlush of them are added up at a time and flush() takes the sum of
// it all; 0 means there is no such limit.

// Register blocks: pairs, the last a triple or a single when the number of registers is odd (a triple keeps more
// accumulators busy).
CHAMFER_INLINE size_t block_width(size_t registers_left) {
    return registers_left == 1 || registers_left == 3 ? registers_left : 2;
}

template <class Op, size_t T, size_t W>
CHAMFER_INLINE void flush_sums(typename Op::Reg (&sums)[T][W], typename Op::Reg (&totals)[T][W]) {
    CHAMFER_UNROLL
    for (size_t t = 0; t < T; ++t) {
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) {
            totals[t][w] = Op::flush(sums[t][w], totals[t][w]);
            sums[t][w] = Op::zero();
        }
    }
}

template <class Op, size_t T, size_t W>
CHAMFER_INLINE void multiply_tile(const uint32_t* block, const Rows& rows, size_t row, const Ahead& ahead,
                                  typename Op::Reg (&sums)[T][W]) {
    typename Op::Reg totals[Op::kWordsPerFlush ? T : 1][W];
    CHAMFER_UNROLL
    for (size_t t = 0; t < T; ++t) {
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) {
            sums[t][w] = Op::zero();
            if constexpr (Op::kWordsPerFlush != 0) totals[t][w] = Op::zero();
        }
    }
    const uint32_t* plane = rows.data + row * rows.stride;
    uintptr_t line = ahead.rows + row * ahead.row_bytes;
    size_t word = 0;  // of all planes
    for (size_t p = 0; p < rows.num_planes; ++p, plane += rows.plane_stride) {
        for (size_t i = 0; i < rows.num_words; ++i, ++word) {
            if ((word & (ahead.words_per_line - 1)) == 0) {
                CHAMFER_UNROLL
                for (size_t t = 0; t < T; ++t) CHAMFER_PREFETCH(line + t * ahead.row_bytes);
                line += 64;
            }
            if constexpr (Op::kWordsPerFlush != 0) {
                if (word != 0 && word % Op::kWordsPerFlush == 0) flush_sums<Op>(sums, totals);
            }
            typename Op::Reg columns[W];
            CHAMFER_UNROLL
            for (size_t w = 0; w < W; ++w) columns[w] = Op::load(block + (word * W + w) * Op::kLanes);
            CHAMFER_UNROLL
            for (size_t t = 0; t < T; ++t) {
                const typename Op::Reg element = Op::broadcast(plane + t * rows.stride + i);
                CHAMFER_UNROLL
                for (size_t w = 0; w < W; ++w) sums[t][w] = Op::step(sums[t][w], element, columns[w]);
            }
        }
    }
    if constexpr (Op::kWordsPerFlush != 0) {
        flush_sums<Op>(sums, totals);
        CHAMFER_UNROLL
        for (size_t t = 0; t < T; ++t) {
            CHAMFER_UNROLL
            for (size_t w = 0; w < W; ++w) sums[t][w] = totals[t][w];
        }
    }
}

// ── endings: what becomes of a tile's products ──

struct Fold {
    uint32_t* best;
    template <class Op, size_t T, size_t W>
    CHAMFER_INLINE void finish(size_t, size_t lane, typename Op::Reg (&sums)[T][W]) const {
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) {
            typename Op::Reg of_column = Op::load(best + lane + w * Op::kLanes);
            CHAMFER_UNROLL
            for (size_t t = 0; t < T; ++t) of_column = Op::better(of_column, sums[t][w]);
            Op::store(best + lane + w * Op::kLanes, of_column);
        }
    }
};

struct Store {
    uint32_t* out;
    size_t num_lanes;
    template <class Op, size_t T, size_t W>
    CHAMFER_INLINE void finish(size_t row, size_t lane, typename Op::Reg (&sums)[T][W]) const {
        CHAMFER_UNROLL
        for (size_t t = 0; t < T; ++t) {
            CHAMFER_UNROLL
            for (size_t w = 0; w < W; ++w) Op::store(out + (row + t) * num_lanes + lane + w * Op::kLanes, sums[t][w]);
        }
    }
};

struct FoldAndStore {
    Fold fold;
    Store store;
    template <class Op, size_t T, size_t W>
    CHAMFER_INLINE void finish(size_t row, size_t lane, typename Op::Reg (&sums)[T][W]) const {
        fold.template finish<Op, T, W>(row, lane, sums);
        store.template finish<Op, T, W>(row, lane, sums);
    }
};

struct SignBits {
    uint32_t* bits;
    size_t words_per_row;
    template <class Op, size_t T, size_t W>
    CHAMFER_INLINE void finish(size_t row, size_t lane, typename Op::Reg (&sums)[T][W]) const {
        CHAMFER_UNROLL
        for (size_t t = 0; t < T; ++t) {
            CHAMFER_UNROLL
            for (size_t w = 0; w < W; ++w) {
                const size_t bit = lane + w * Op::kLanes;
                if (bit / 32 < words_per_row)
                    bits[(row + t) * words_per_row + bit / 32] |= Op::positive(sums[t][w]) << (bit % 32);
            }
        }
    }
};

// ── a product: blocks of columns × tiles of rows ──

template <class Op, size_t T, size_t W, class Ending>
void run_tile(const uint32_t* block, const Rows& rows, const Ahead& ahead, size_t row, size_t lane,
              const Ending& ending) {
    typename Op::Reg sums[T][W];
    multiply_tile<Op, T, W>(block, rows, row, ahead, sums);
    CHAMFER_UNROLL
    for (size_t t = 0; t < T; ++t) {
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) CHAMFER_IN_REGISTER(sums[t][w]);
    }
    ending.template finish<Op, T, W>(row, lane, sums);
}

// Calls the tile of exactly `num_rows` <= T rows.
template <class Op, size_t T, size_t W, class Ending>
CHAMFER_INLINE void pick_tile(size_t num_rows, const uint32_t* block, const Rows& rows, const Ahead& ahead, size_t row,
                              size_t lane, const Ending& ending) {
    if constexpr (T > 1) {
        if (num_rows < T) return pick_tile<Op, T - 1, W>(num_rows, block, rows, ahead, row, lane, ending);
    }
    run_tile<Op, T, W>(block, rows, ahead, row, lane, ending);
}

// Splits the rows into tiles whose heights differ by one at most: a last tile of one row would leave most of the core
// idle.
template <class Op, size_t W, class Ending>
void run_block(const uint32_t* block, const Rows& rows, size_t num_rows, const Ahead& ahead, size_t lane,
               const Ending& ending) {
    constexpr size_t T = Op::kRows[W - 1];
    const size_t num_tiles = (num_rows + T - 1) / T;
    for (size_t tile = 0, row = 0; tile < num_tiles; ++tile) {
        const size_t height = (num_rows - row + num_tiles - tile - 1) / (num_tiles - tile);
        pick_tile<Op, T, W>(height, block, rows, ahead, row, lane, ending);
        row += height;
    }
}

template <class Op, class Ending>
void run_product(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead& ahead,
                 const Ending& ending) {
    for (size_t lane = 0; lane < columns.num_lanes;) {
        const uint32_t* block = columns.data + lane * columns.num_words;
        const size_t width = block_width((columns.num_lanes - lane) / Op::kLanes);
        if (width == 1) run_block<Op, 1>(block, rows, num_rows, ahead, lane, ending);
        if (width == 2) run_block<Op, 2>(block, rows, num_rows, ahead, lane, ending);
        if (width == 3) run_block<Op, 3>(block, rows, num_rows, ahead, lane, ending);
        lane += width * Op::kLanes;
    }
}

template <class Op>
void fold(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead& ahead, void* best) {
    run_product<Op>(columns, rows, num_rows, ahead, Fold{static_cast<uint32_t*>(best)});
}

template <class Op>
void fold_and_store(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead& ahead, void* best,
                    void* products) {
    run_product<Op>(
        columns, rows, num_rows, ahead,
        FoldAndStore{{static_cast<uint32_t*>(best)}, {static_cast<uint32_t*>(products), columns.num_lanes}});
}

template <class Op>
constexpr WordKernels kWordKernels{fold<Op>, fold_and_store<Op>};
