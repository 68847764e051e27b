#include "sdc.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "aligned.hpp"
#include "scan.hpp"

namespace chamfer {

// Instructions for 64 bytes of packed codes (128 nibbles): to unpack them once for a tile of queries, and for each
// query.
//                  4 bits: integer  table      2 bits: integer  table
//   avx512                 5 + 2    3 + 8              9 + 4    3 + 4.4
//   avx2                  10 + 8    6 + 16            18 + 16   6 + 8.9
//   neon                   8 + 16   8 + 32            24 + 32   8 + 17.7
//   neon_dotprod          16 + 8    8 + 32            32 + 16   8 + 17.7
// For 1 bit the table costs no more, the integers twice as much again. Measured with 32 queries on one core of a Zen 5
// at 4 GHz, in 10^9 bytes of codes × queries a second, integer and table: 4 bits 225 and 67 on avx512, 71 and 26 on avx2;
// 2 bits 110 and 126 on avx512, 35 and 73 on avx2. Integers of 4 bits on avx512 take 2.3 cycles for 128 bytes, of which
// four products, two a cycle, are 2.0; the bitwise formula takes 8.9 for 33 instructions, four a cycle, and from memory
// one query of either waits for its bytes. Tables of queries of 4 bits are widened more often: a batch takes 1.1 times
// as long for codes of 1 bit, 1.4 times for codes of 2 (1.5 on avx2, where integers would still take 2.0; 1.2 on avx512).
SdcFormula fastest_sdc_formula(size_t bits) { return bits == 4 ? SdcFormula::integer : SdcFormula::table; }

// ── layouts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

namespace {

// Calls f(byte, shift, code, dim) for every dim of every code: where its level lies in the layout of blocks.
template <class F>
void for_each_level(const RecurrentShape& shape, size_t num_codes, F&& f) {
    for (size_t first = 0; first < num_codes; first += kBlockCodes) {
        const size_t block = first / kBlockCodes * shape.block_bytes();
        for (size_t lane = 0; lane < std::min(kBlockCodes, num_codes - first); ++lane) {
            size_t byte = block + lane % 16;
            for (size_t i = 0; i < shape.dim; byte += 16) {
                size_t shift = lane / 16 * 4;
                for (size_t end = std::min(i + shape.dims_per_nibble(), shape.dim); i < end; ++i, shift += shape.bits)
                    f(byte, shift, first + lane, i);
            }
        }
    }
}

}  // namespace

size_t packed_bytes(const RecurrentShape& shape, SdcFormula formula, size_t num_codes) {
    if (formula == SdcFormula::bitwise) return num_codes * shape.row_bytes();
    return (num_codes + kBlockCodes - 1) / kBlockCodes * shape.block_bytes();
}

void pack_levels(const RecurrentShape& shape, SdcFormula formula, const uint8_t* levels, size_t num_codes,
                 uint8_t* packed) {
    std::fill_n(packed, packed_bytes(shape, formula, num_codes), uint8_t{0});
    if (formula == SdcFormula::bitwise) {
        for (size_t code = 0; code < num_codes; ++code) {
            for (size_t i = 0; i < shape.dim; ++i) {
                uint8_t* byte = packed + code * shape.row_bytes() + i / 8;
                for (size_t bit = 0; bit < shape.bits; ++bit)
                    byte[bit * shape.plane_bytes()] |=
                        static_cast<uint8_t>((levels[code * shape.dim + i] >> bit & 1) << i % 8);
            }
        }
        return;
    }
    for_each_level(shape, num_codes, [&](size_t byte, size_t shift, size_t code, size_t i) {
        packed[byte] |= static_cast<uint8_t>(levels[code * shape.dim + i] << shift);
    });
}

void unpack_levels(const RecurrentShape& shape, const uint8_t* packed, size_t num_codes, uint8_t* levels) {
    for_each_level(shape, num_codes, [&](size_t byte, size_t shift, size_t code, size_t i) {
        levels[code * shape.dim + i] = static_cast<uint8_t>(packed[byte] >> shift & shape.max_level());
    });
}

size_t operand_bytes(const RecurrentShape& shape, SdcFormula formula) {
    switch (formula) {
        case SdcFormula::bitwise: return (shape.bits + 1) * shape.row_bytes();
        case SdcFormula::integer: return shape.dims_per_nibble() * shape.num_positions();
        default: return 16 * shape.num_positions();
    }
}

namespace {

// Each plane once for every plane of a code, so that a row of them lies beside a row of the code's; after them, for
// each byte of a row, by how much the counts of its plane are shifted (read only where planes are words).
void prepare_planes(const RecurrentShape& shape, const uint8_t* levels, uint8_t* operand) {
    const size_t plane_bytes = shape.plane_bytes(), row_bytes = shape.row_bytes();
    for (size_t bit = 0; bit < shape.bits; ++bit) {
        uint8_t* plane = operand + bit * row_bytes;
        for (size_t i = 0; i < shape.dim; ++i) plane[i / 8] |= static_cast<uint8_t>((levels[i] >> bit & 1) << i % 8);
        for (size_t copy = 1; copy < shape.bits; ++copy) std::memcpy(plane + copy * plane_bytes, plane, plane_bytes);
    }
    for (size_t byte = 0; byte < row_bytes; byte += 8)
        operand[shape.bits * row_bytes + byte] = static_cast<uint8_t>(byte / plane_bytes);
}

void prepare_weights(const RecurrentShape& shape, int32_t query_max_level, const uint8_t* levels, uint8_t* operand) {
    const size_t fields = shape.dims_per_nibble();
    for (size_t field = 0; field < fields; ++field) {
        uint8_t* weights = operand + field * shape.num_positions();
        for (size_t i = field; i < shape.dim; i += fields)
            *weights++ = static_cast<uint8_t>(2 * levels[i] - query_max_level);
    }
}

// What a dim of a nibble adds to the 16 entries of a table, by its place in the nibble and the query's level.
template <size_t kBits, size_t kQueryBits>
constexpr auto entries_of_levels() {
    std::array<std::array<std::array<uint8_t, 16>, size_t{1} << kQueryBits>, 4 / kBits> entries{};
    constexpr int32_t kMaxLevel = (1 << kBits) - 1, kQueryMaxLevel = (1 << kQueryBits) - 1;
    for (size_t field = 0; field < 4 / kBits; ++field) {
        for (int32_t level = 0; level <= kQueryMaxLevel; ++level) {
            const int32_t weight = 2 * level - kQueryMaxLevel, magnitude = weight < 0 ? -weight : weight;
            for (int32_t nibble = 0; nibble < 16; ++nibble) {
                const int32_t other = 2 * (nibble >> (field * kBits) & kMaxLevel) - kMaxLevel;
                entries[field][static_cast<size_t>(level)][static_cast<size_t>(nibble)] =
                    static_cast<uint8_t>((weight * other + kMaxLevel * magnitude) / 2);
            }
        }
    }
    return entries;
}

// Sixteen entries at once, as two words: none of their sums passes 255. One entry after the other took 50 µs for 512
// dims, of which a scan of 100 codes takes one.
template <size_t kBits, size_t kQueryBits>
void prepare_tables(const RecurrentShape& shape, const uint8_t* levels, uint8_t* operand) {
    static constexpr auto kEntries = entries_of_levels<kBits, kQueryBits>();
    constexpr size_t kFields = 4 / kBits;
    for (size_t begin = 0; begin < shape.dim; begin += kFields, operand += 16) {
        uint64_t sums[2] = {0, 0};
        for (size_t field = 0; field < std::min(kFields, shape.dim - begin); ++field) {
            uint64_t words[2];
            std::memcpy(words, kEntries[field][levels[begin + field]].data(), 16);
            sums[0] += words[0];
            sums[1] += words[1];
        }
        std::memcpy(operand, sums, 16);
    }
}

}  // namespace

int32_t prepare_operand(const RecurrentShape& shape, size_t query_bits, SdcFormula formula, const uint8_t* levels,
                        uint8_t* operand) {
    assert(query_bits >= shape.bits && query_bits <= 4 && (query_bits == shape.bits || formula != SdcFormula::bitwise));
    const int32_t max_level = shape.max_level(), query_max_level = (1 << query_bits) - 1;
    std::fill_n(operand, operand_bytes(shape, formula), uint8_t{0});
    if (formula == SdcFormula::bitwise) {
        prepare_planes(shape, levels, operand);
        return max_level * max_level * static_cast<int32_t>(shape.dim);
    }
    int32_t sum = 0, magnitude = 0;
    for (size_t i = 0; i < shape.dim; ++i) {
        const int32_t weight = 2 * levels[i] - query_max_level;
        sum += weight;
        magnitude += std::abs(weight);
    }
    if (formula == SdcFormula::integer) {
        prepare_weights(shape, query_max_level, levels, operand);
        return max_level * sum;
    }
    const auto prepare = shape.bits == 4   ? prepare_tables<4, 4>
                         : shape.bits == 2 ? (query_bits == 4 ? prepare_tables<2, 4> : prepare_tables<2, 2>)
                         : query_bits == 4 ? prepare_tables<1, 4>
                         : query_bits == 2 ? prepare_tables<1, 2>
                                           : prepare_tables<1, 1>;
    prepare(shape, levels, operand);
    return max_level * magnitude;
}

// ── the scan ────────────────────────────────────────────────────────────────────────────────────────────────────────

namespace {

// Codes that one tile of queries after the other scans while they are in the L1 cache, and their sums.
constexpr size_t kTileBytes = 32 * 1024, kMaxTileCodes = 512;
// Queries whose operands stay in the L2 cache, with a run of codes that comes from memory once for all of them.
constexpr size_t kRunBytes = 256 * 1024, kOperandBytes = 256 * 1024, kMaxGroupQueries = 64;
// Queries whose sums wait side by side: a multiple of the largest tile.
constexpr size_t kBatchQueries = 8;
constexpr size_t kBytesAhead = 4096;  // as for Hamming distances

using ByteBuffer = std::vector<uint8_t, CacheAligned<uint8_t>>;

// One per worker: the operands of the group that it scans for.
struct Group {
    size_t first_query = SIZE_MAX;
    ByteBuffer operands;
    std::vector<int32_t> offsets;
};

// What codes are scanned with.
struct Scanner {
    Scanner(const RecurrentShape& shape, size_t query_bits, SdcFormula formula, Isa isa)
        : kernels(sdc_kernels(isa)),
          selects(select_kernels(isa)),
          sums_of(formula == SdcFormula::bitwise   ? kernels.bitwise
                  : formula == SdcFormula::integer ? kernels.integer
                                                   : kernels.table),
          block_bytes(packed_bytes(shape, formula, kBlockCodes)),
          operand_size(operand_bytes(shape, formula)),
          tile_codes(std::clamp(kTileBytes / block_bytes * kBlockCodes, kBlockCodes, kMaxTileCodes)),
          unit(std::ldexp(1.0f, 2 - static_cast<int>(query_bits + shape.bits))) {}

    // Offers the similarities of a tile's codes, whose rows begin so, to the best of a query.
    void offer(const int32_t* sums, size_t num_codes, float query_scale, const float* scales, size_t row,
               RunBest<float>& best) const {
        float scaled[kMaxTileCodes];
        uint32_t positions[kMaxTileCodes];
        kernels.scale_sums(sums, num_codes, unit, query_scale, scales, scaled);
        best.add_tile(num_codes, [&](size_t begin, size_t end, float limit) {
            const size_t num_high = selects.above(scaled + begin, end - begin, limit, positions);
            for (size_t j = 0; j < num_high; ++j) {
                const size_t place = begin + positions[j];
                best.push(scaled[place], static_cast<int64_t>(row + place));
            }
        });
    }

    const SdcKernels& kernels;
    const SelectKernels& selects;
    void (*sums_of)(const SdcSumsInput& input, int32_t* sums, size_t stride);
    size_t block_bytes, operand_size, tile_codes;
    float unit;
};

}  // namespace

void sdc_topk(const SdcInput& input, size_t k, float* similarities, int64_t* rows) {
    const RecurrentShape& shape = input.shape;
    assert(shape.dim >= 1 && shape.dim < size_t{1} << 20 && input.num_threads.count >= 1);
    const Scanner scanner(shape, input.query_bits, input.formula, input.isa);
    const size_t block_bytes = scanner.block_bytes, operand_size = scanner.operand_size;
    const size_t tile_codes = scanner.tile_codes;
    const ScanShape scan{
        input.num_queries, input.num_codes,
        std::clamp(kOperandBytes / operand_size / kBatchQueries * kBatchQueries, kBatchQueries, kMaxGroupQueries),
        std::max(tile_codes, kRunBytes / block_bytes * kBlockCodes)};
    std::vector<Group> groups(num_workers(scan, input.num_threads));
    scan_topk<float>(
        scan, k, input.num_threads, similarities, rows,
        [&](size_t worker, size_t first_query, size_t end_query, size_t first_row, size_t end_row,
            RunBest<float>* best) {
            Group& group = groups[worker];
            if (group.first_query != first_query) {
                group.first_query = first_query;
                group.operands.resize((end_query - first_query) * operand_size);
                group.offsets.resize(end_query - first_query);
                for (size_t i = 0; i < group.offsets.size(); ++i) {
                    group.offsets[i] = prepare_operand(shape, input.query_bits, input.formula,
                                                       input.query_levels + (first_query + i) * shape.dim,
                                                       group.operands.data() + i * operand_size);
                }
            }
            int32_t sums[kBatchQueries * kMaxTileCodes];
            for (size_t row = first_row; row < end_row; row += tile_codes) {
                const size_t num_codes = std::min(tile_codes, end_row - row);
                for (size_t i = 0; i < group.offsets.size(); i += kBatchQueries) {
                    const size_t num_queries = std::min(kBatchQueries, group.offsets.size() - i);
                    scanner.sums_of(
                        {shape, input.query_bits, group.operands.data() + i * operand_size, group.offsets.data() + i,
                         num_queries, input.codes + row / kBlockCodes * block_bytes, num_codes, i ? 0 : kBytesAhead},
                        sums, kMaxTileCodes);
                    for (size_t q = 0; q < num_queries; ++q) {
                        const float query_scale = input.query_scales ? input.query_scales[first_query + i + q] : 1.0f;
                        scanner.offer(sums + q * kMaxTileCodes, num_codes, query_scale,
                                      input.scales ? input.scales + row : nullptr, row, best[i + q]);
                    }
                }
            }
        });
}

void sdc_topk_of_lists(const SdcListsInput& input, size_t k, float* similarities, int64_t* rows) {
    const Scanner scanner(input.shape, input.query_bits, input.formula, input.isa);
    ByteBuffer operand(scanner.operand_size);
    const int32_t offset =
        prepare_operand(input.shape, input.query_bits, input.formula, input.query_levels, operand.data());
    TopK best(k);
    RunBest<float> of_list(k);
    int32_t sums[kMaxTileCodes];
    for (size_t i = 0; i < input.num_lists; ++i) {
        const SdcList& list = input.lists[i];
        if (list.num_codes == 0) continue;
        assert(list.num_codes < size_t{1} << 32);
        of_list.start(best, list.rows[0]);
        for (size_t place = 0; place < list.num_codes; place += scanner.tile_codes) {
            const size_t num_codes = std::min(scanner.tile_codes, list.num_codes - place);
            scanner.sums_of({input.shape, input.query_bits, operand.data(), &offset, 1,
                             list.codes + place / kBlockCodes * scanner.block_bytes, num_codes, kBytesAhead},
                            sums, kMaxTileCodes);
            scanner.offer(sums, num_codes, input.query_scale, list.scales ? list.scales + place : nullptr,
                          static_cast<size_t>(list.rows[0]) + place, of_list);
        }
        of_list.finish(best, [&](uint32_t place) { return list.rows[place]; });
    }
    best.write(similarities, rows);
}

}  // namespace chamfer
