// The kernels on blocks, written once against the few operations of `V` (the registers of one instruction set). sdc.cpp
// includes this file inside each target region, where V is defined.
//
// A block is unpacked once for a tile of queries, whose sums stay in registers.

// Splits the queries into tiles of kTile and of the powers of two below. f.template operator()<Q>(query) does Q of
// them.
template <size_t kTile, class F>
CHAMFER_INLINE void for_each_tile(size_t num_queries, size_t query, const F& f) {
    for (; query + kTile <= num_queries; query += kTile) f.template operator()<kTile>(query);
    if constexpr (kTile > 1) {
        if (query < num_queries) for_each_tile<kTile / 2>(num_queries, query, f);
    }
}

template <size_t Q>
CHAMFER_INLINE void start_sums(const int32_t* offsets, int32_t* sums, size_t stride) {
    for (size_t q = 0; q < Q; ++q) {
        for (size_t i = 0; i < kBlockCodes; ++i) sums[q * stride + i] = -offsets[q];
    }
}

// Weights: for each dim of a nibble one signed byte per position. Every field of bits, moved to the lowest place of its
// byte, is multiplied with them.
template <size_t Q, size_t kBits, size_t kField = 0>
CHAMFER_INLINE void multiply_fields(const V::Levels& nibbles, const uint8_t* weights, size_t num_positions,
                                    size_t operand_size, V::Products (&low)[Q], V::Products (&high)[Q]) {
    const V::Levels levels_low = V::field<kBits, kField * kBits>(nibbles);
    const V::Levels levels_high = V::field<kBits, 4 + kField * kBits>(nibbles);
    CHAMFER_UNROLL
    for (size_t q = 0; q < Q; ++q) {
        const V::Weights w = V::load_weights(weights + q * operand_size);
        low[q] = V::multiply_add(low[q], levels_low, w);
        high[q] = V::multiply_add(high[q], levels_high, w);
    }
    if constexpr ((kField + 1) * kBits < 4) {
        multiply_fields<Q, kBits, kField + 1>(nibbles, weights + num_positions, num_positions, operand_size, low, high);
    }
}

// The sums of one query after the other, of the low nibbles' codes and of the high ones'.
template <size_t Q>
struct ProductsOfTile {
    V::Products low[Q], high[Q];

    CHAMFER_INLINE void clear() {
        CHAMFER_UNROLL
        for (size_t q = 0; q < Q; ++q) low[q] = high[q] = V::no_products();
    }
    template <size_t kBits>
    CHAMFER_INLINE void add_up(const uint8_t* operands, size_t operand_size, size_t num_positions, size_t position,
                               const uint8_t* block, size_t bytes_ahead) {
        if (bytes_ahead) CHAMFER_PREFETCH(reinterpret_cast<uintptr_t>(block) + position * 16 + bytes_ahead);
        multiply_fields<Q, kBits>(V::load_levels(block + position * 16), operands + position, num_positions,
                                  operand_size, low, high);
        CHAMFER_UNROLL
        for (size_t q = 0; q < Q; ++q) {
            V::keep(low[q]);
            V::keep(high[q]);
        }
    }
};

template <size_t Q, size_t kBits>
CHAMFER_INLINE void integer_block(const uint8_t* operands, size_t operand_size, size_t num_positions,
                                  const uint8_t* block, const SdcSumsInput& input, int32_t* sums, size_t stride) {
    for (size_t position = 0; position < num_positions;) {
        const size_t left = (num_positions - position) / V::kPositions;
        const size_t end = position + V::kPositions * (left < V::kMaxProducts ? left : V::kMaxProducts);
        ProductsOfTile<Q> products;
        products.clear();
        // The sums of a few queries would wait for one another: every kSets-th positions have sums of their own.
        constexpr size_t kSets = 2 * Q < V::kChains ? V::kChains / (2 * Q) : 1;
        if constexpr (kSets > 1) {
            ProductsOfTile<Q> more[kSets - 1];
            CHAMFER_UNROLL
            for (size_t set = 1; set < kSets; ++set) more[set - 1].clear();
            for (; position + kSets * V::kPositions <= end; position += kSets * V::kPositions) {
                products.template add_up<kBits>(operands, operand_size, num_positions, position, block,
                                                input.bytes_ahead);
                CHAMFER_UNROLL
                for (size_t set = 1; set < kSets; ++set) {
                    more[set - 1].template add_up<kBits>(operands, operand_size, num_positions,
                                                         position + set * V::kPositions, block, input.bytes_ahead);
                }
            }
            CHAMFER_UNROLL
            for (size_t set = 1; set < kSets; ++set) {
                CHAMFER_UNROLL
                for (size_t q = 0; q < Q; ++q) {
                    products.low[q] = V::add(products.low[q], more[set - 1].low[q]);
                    products.high[q] = V::add(products.high[q], more[set - 1].high[q]);
                }
            }
        }
        for (; position < end; position += V::kPositions)
            products.template add_up<kBits>(operands, operand_size, num_positions, position, block, input.bytes_ahead);
        CHAMFER_UNROLL
        for (size_t q = 0; q < Q; ++q) {
            V::add_twice(products.low[q], sums + q * stride);
            V::add_twice(products.high[q], sums + q * stride + 16);
        }
    }
}

template <size_t kBits>
void integer_of(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    const size_t num_positions = input.shape.num_positions(), operand_size = 4 / kBits * num_positions;
    for (size_t code = 0; code < input.num_codes; code += kBlockCodes) {
        const uint8_t* block = input.codes + code / kBlockCodes * num_positions * 16;
        for_each_tile<V::kIntegerQueries>(input.num_queries, 0, [&]<size_t Q>(size_t query) {
            int32_t* tile = sums + query * stride + code;
            start_sums<Q>(input.offsets + query, tile, stride);
            integer_block<Q, kBits>(input.operands + query * operand_size, operand_size, num_positions, block, input,
                                    tile, stride);
        });
    }
}

void integer(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    if (input.shape.bits == 4) return integer_of<4>(input, sums, stride);
    if (input.shape.bits == 2) return integer_of<2>(input, sums, stride);
    integer_of<1>(input, sums, stride);
}

// A register of entries for each register of the block. kAdded of them, at most 255 in all, are added up as bytes. Sums
// of pairs of bytes are kept as 16-bit numbers, low byte + 256 · high byte modulo 2^16, beside those of the high bytes
// alone: the difference is exact as long as either sum is below 2^16, 256 additions.
template <size_t Q, size_t kAdded>
CHAMFER_INLINE void table_block(const uint8_t* operands, size_t num_positions, const uint8_t* block,
                                const SdcSumsInput& input, int32_t* sums, size_t stride) {
    const size_t num_bytes = num_positions * 16;
    for (size_t byte = 0; byte < num_bytes;) {
        V::Reg pairs[Q][2], odd[Q][2];
        CHAMFER_UNROLL
        for (size_t q = 0; q < Q; ++q) pairs[q][0] = pairs[q][1] = odd[q][0] = odd[q][1] = V::zero();
        for (size_t addition = 0; addition < 256 && byte < num_bytes; ++addition) {
            V::Reg entries[Q][2];
            const size_t end = byte + kAdded * V::kBytes < num_bytes ? byte + kAdded * V::kBytes : num_bytes;
            CHAMFER_UNROLL
            for (size_t q = 0; q < Q; ++q) entries[q][0] = entries[q][1] = V::zero();
            for (; byte < end; byte += V::kBytes) {
                if (input.bytes_ahead) CHAMFER_PREFETCH(reinterpret_cast<uintptr_t>(block) + byte + input.bytes_ahead);
                const V::Reg nibbles = V::load(block + byte);
                const V::Reg low = V::low_nibbles(nibbles), high = V::high_nibbles(nibbles);
                CHAMFER_UNROLL
                for (size_t q = 0; q < Q; ++q) {
                    const V::Reg table = V::load(operands + q * num_bytes + byte);
                    entries[q][0] = V::add_bytes(entries[q][0], V::look_up(table, low));
                    entries[q][1] = V::add_bytes(entries[q][1], V::look_up(table, high));
                }
            }
            CHAMFER_UNROLL
            for (size_t q = 0; q < Q; ++q) {
                CHAMFER_UNROLL
                for (size_t half = 0; half < 2; ++half) {
                    pairs[q][half] = V::add_pairs(pairs[q][half], entries[q][half]);
                    odd[q][half] = V::add_pairs(odd[q][half], V::odd_bytes(entries[q][half]));
                }
            }
        }
        CHAMFER_UNROLL
        for (size_t q = 0; q < Q; ++q) {
            CHAMFER_UNROLL
            for (size_t half = 0; half < 2; ++half)
                V::add_twice(pairs[q][half], odd[q][half], sums + q * stride + 16 * half);
        }
    }
}

template <size_t kAdded>
void table_of(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    const size_t num_positions = input.shape.num_positions(), block_bytes = num_positions * 16;
    for (size_t code = 0; code < input.num_codes; code += kBlockCodes) {
        const uint8_t* block = input.codes + code / kBlockCodes * block_bytes;
        for_each_tile<V::kTableQueries>(input.num_queries, 0, [&]<size_t Q>(size_t query) {
            int32_t* tile = sums + query * stride + code;
            start_sums<Q>(input.offsets + query, tile, stride);
            table_block<Q, kAdded>(input.operands + query * block_bytes, num_positions, block, input, tile, stride);
        });
    }
}

void table(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    // Entries are at most 225 for one dim of 4 bits, 18 for two of 2 bits, 4 for four of 1 bit; of queries of 4 bits 90
    // and 60 for the last two, of 2 bits 12 for the last.
    if (input.shape.bits == 4) return table_of<1>(input, sums, stride);
    if (input.query_bits == 4)
        return input.shape.bits == 2 ? table_of<2>(input, sums, stride) : table_of<4>(input, sums, stride);
    table_of<14>(input, sums, stride);
}
