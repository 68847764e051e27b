// What product.cpp needs of an instruction set besides the tile, against the register operations of `V` (float32) and
// `B` (bytes).

size_t num_lanes(size_t num_columns) { return (num_columns + V::kLanes - 1) / V::kLanes * V::kLanes; }

void pack(const uint32_t* columns, size_t num_columns, size_t column_stride, size_t word_stride, size_t num_words,
          uint32_t* packed) {
    const size_t total = num_lanes(num_columns);
    for (size_t lane = 0; lane < total;) {
        const size_t block_lanes = block_width((total - lane) / V::kLanes) * V::kLanes;
        uint32_t* block = packed + lane * num_words;
        for (size_t c = 0; c < block_lanes; ++c) {
            const bool padding = lane + c >= num_columns;
            for (size_t i = 0; i < num_words; ++i) {
                uint32_t word = 0;
                if (!padding) std::memcpy(&word, columns + (lane + c) * column_stride + i * word_stride, 4);
                block[i * block_lanes + c] = word;
            }
        }
        lane += block_lanes;
    }
}

void sign_bits(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, uint32_t* bits,
               size_t words_per_row) {
    run_product<Float32>(columns, Rows::of_floats(rows, row_stride, columns.num_words), num_rows, Ahead::none(rows),
                         SignBits{bits, words_per_row});
}

void multiply(const PackedColumns& columns, const float* rows, size_t num_rows, size_t row_stride, float* out) {
    run_product<Float32>(columns, Rows::of_floats(rows, row_stride, columns.num_words), num_rows, Ahead::none(rows),
                         Store{reinterpret_cast<uint32_t*>(out), columns.num_lanes});
}

struct FoldScaled {
    float* best;
    const float* row_terms;
    const int32_t* lane_offsets;
    const float* lane_shifts;
    template <class Op, size_t T, size_t W>
    CHAMFER_INLINE void finish(size_t row, size_t lane, typename Op::Reg (&sums)[T][W]) const {
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) {
            const size_t at = lane + w * Op::kLanes;
            const auto offsets = Op::load(lane_offsets + at);
            const V::Reg shifts = V::load(lane_shifts + at);
            V::Reg of_column = V::load(best + at);
            CHAMFER_UNROLL
            for (size_t t = 0; t < T; ++t) {
                const V::Reg scale = V::set(row_terms[2 * (row + t)]), shift = V::set(row_terms[2 * (row + t) + 1]);
                const V::Reg scaled = V::multiply(V::from_int(Op::subtract(sums[t][w], offsets)), scale);
                of_column = Float32::better(of_column, V::add(scaled, V::multiply(shifts, shift)));
            }
            V::store(best + at, of_column);
        }
    }
};

void fold_scaled(const PackedColumns& columns, const Rows& rows, size_t num_rows, const Ahead& ahead,
                 const float* row_terms, const int32_t* lane_offsets, const float* lane_shifts, float* best) {
    run_product<Int8>(columns, rows, num_rows, ahead, FoldScaled{best, row_terms, lane_offsets, lane_shifts});
}

size_t rows_reaching(const int32_t* products, size_t num_rows, size_t num_lanes, const int32_t* thresholds,
                     uint32_t* rows) {
    const Int8::Reg least = Int8::load(thresholds);
    size_t found = 0;
    for (size_t r = 0; r < num_rows; ++r) {
        rows[found] = static_cast<uint32_t>(r);
        found += Int8::any_reaches(Int8::load(products + r * num_lanes), least);
    }
    return found;
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

void bfloat16_to_float(const uint16_t* numbers, size_t n, float* out) {
    for (size_t i = 0; i < n; ++i) {
        const uint32_t bits = static_cast<uint32_t>(numbers[i]) << 16;
        std::memcpy(out + i, &bits, 4);
    }
}

// One register of bytes at a time; a last one that is not full passes through memory of its own.
template <unsigned kBits>
void expand_codes(const uint8_t* codes, size_t num_bytes, const uint8_t* levels, uint8_t* out, size_t plane_bytes) {
    [[maybe_unused]] B::Levels table{};
    if constexpr (kBits < 8) table = B::load_levels(levels);  // codes of 8 bits have none
    const auto expand_register = [&](const uint8_t* source, size_t at) {
        const B::Reg x = B::load(source);
        uint8_t* target = out + at * B::kNumberBytes;
        if constexpr (kBits == 8) {
            B::store_numbers(target, x);
        } else {
            B::store_numbers(target, B::look_up(table, B::template field<kBits, 0>(x)));
            B::store_numbers(target + plane_bytes, B::look_up(table, B::template field<kBits, 1>(x)));
            if constexpr (kBits <= 2) {
                B::store_numbers(target + 2 * plane_bytes, B::look_up(table, B::template field<kBits, 2>(x)));
                B::store_numbers(target + 3 * plane_bytes, B::look_up(table, B::template field<kBits, 3>(x)));
            }
            if constexpr (kBits == 1) {
                B::store_numbers(target + 4 * plane_bytes, B::look_up(table, B::template field<kBits, 4>(x)));
                B::store_numbers(target + 5 * plane_bytes, B::look_up(table, B::template field<kBits, 5>(x)));
                B::store_numbers(target + 6 * plane_bytes, B::look_up(table, B::template field<kBits, 6>(x)));
                B::store_numbers(target + 7 * plane_bytes, B::look_up(table, B::template field<kBits, 7>(x)));
            }
        }
    };
    size_t i = 0;
    for (; i + B::kBytes <= num_bytes; i += B::kBytes) expand_register(codes + i, i);
    if (i < num_bytes) {
        uint8_t rest[B::kBytes] = {};
        std::memcpy(rest, codes + i, num_bytes - i);
        expand_register(rest, i);
    }
}

void expand(const uint8_t* codes, size_t num_bytes, unsigned bits, const uint8_t* levels, uint8_t* out,
            size_t plane_bytes) {
    switch (bits) {
        case 8: return expand_codes<8>(codes, num_bytes, levels, out, plane_bytes);
        case 4: return expand_codes<4>(codes, num_bytes, levels, out, plane_bytes);
        case 2: return expand_codes<2>(codes, num_bytes, levels, out, plane_bytes);
        default: return expand_codes<1>(codes, num_bytes, levels, out, plane_bytes);
    }
}

constexpr ProductKernels make_kernels(bool int8_in_place) {
    return {V::kLanes,
            num_lanes,
            pack,
            kWordKernels<Float32>,
            {},
            kWordKernels<Int8>,
            kWordKernels<Bits>,
            fold_scaled,
            sign_bits,
            multiply,
            rows_reaching,
            sum_rows,
            half_to_float,
            bfloat16_to_float,
            expand,
            B::kNumberBytes,
            B::kRowOffset,
            int8_in_place};
}
