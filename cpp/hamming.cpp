#include "hamming.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <vector>

#include "scan.hpp"
#include "target.hpp"

#if CHAMFER_X86
#include <immintrin.h>
#elif CHAMFER_ARM
#include <arm_neon.h>
#endif

namespace chamfer {
namespace {

// What is left of a code after whole registers, where loads have no mask: the first n <= 16 bytes at p, zeros above. Of
// two loads that overlap, the second gives only what the first left.
struct Words {
    uint64_t low = 0, high = 0;
};

CHAMFER_INLINE Words load_up_to_16(const uint8_t* p, size_t n) {
    Words words;
    if (n >= 8) {
        std::memcpy(&words.low, p, 8);
        if (n > 8) {
            std::memcpy(&words.high, p + n - 8, 8);
            words.high >>= 8 * (16 - n);
        }
    } else if (n >= 4) {
        uint32_t low, high;
        std::memcpy(&low, p, 4);
        std::memcpy(&high, p + n - 4, 4);
        words.low = low | uint64_t{high} >> 8 * (8 - n) << 32;
    } else {
        for (size_t i = 0; i < n; ++i) words.low |= uint64_t{p[i]} << (8 * i);
    }
    return words;
}

CHAMFER_INLINE void prefetch(const uint8_t* p, size_t num_bytes, size_t bytes_ahead) {
    if (bytes_ahead == 0) return;
    for (size_t byte = 0; byte < num_bytes; byte += 64)
        CHAMFER_PREFETCH(reinterpret_cast<uintptr_t>(p) + bytes_ahead + byte);
}

}  // namespace
}  // namespace chamfer

// ── scalar: the definition ──────────────────────────────────────────────────────────────────────────────────────────

namespace chamfer::scalar {
namespace {

void distances(const uint8_t* query, const uint8_t* codes, size_t num_codes, size_t code_size, size_t,
               int32_t* distances) {
    const size_t whole = code_size / 8 * 8, rest = code_size % 8;
    const uint64_t query_rest = load_up_to_16(query + whole, rest).low;
    for (size_t i = 0; i < num_codes; ++i) {
        const uint8_t* code = codes + i * code_size;
        int32_t distance = std::popcount(query_rest ^ load_up_to_16(code + whole, rest).low);
        for (size_t byte = 0; byte < whole; byte += 8) {
            uint64_t x, y;
            std::memcpy(&x, query + byte, 8);
            std::memcpy(&y, code + byte, 8);
            distance += std::popcount(x ^ y);
        }
        distances[i] = distance;
    }
}

constexpr HammingKernels kKernels{distances};

}  // namespace
}  // namespace chamfer::scalar

#if CHAMFER_X86

// ── AVX2: bits counted four at a time by a table of 16 ──────────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx2,popcnt")
namespace chamfer::avx2 {
namespace {

CHAMFER_INLINE __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// The first n < 32 bytes.
CHAMFER_INLINE __m256i load_rest(const uint8_t* p, size_t n) {
    const size_t first = n < 16 ? n : 16;
    const Words low = load_up_to_16(p, first), high = load_up_to_16(p + first, n - first);
    return _mm256_set_epi64x(static_cast<int64_t>(high.high), static_cast<int64_t>(high.low),
                             static_cast<int64_t>(low.high), static_cast<int64_t>(low.low));
}

CHAMFER_INLINE __m256i count_bits_of_bytes(__m256i x) {
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1,
                                            2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    return _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(x, nibble)),
                           _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble)));
}

// Four sums of one code. Bytes hold the counts of 31 registers, at most 8 each, before they are widened.
CHAMFER_INLINE __m256i differing_bits(const uint8_t* query, __m256i query_rest, const uint8_t* code, size_t code_size) {
    const size_t whole = code_size / 32 * 32;
    __m256i sums = _mm256_setzero_si256();
    for (size_t byte = 0; byte < whole;) {
        const size_t end = byte + 31 * 32 < whole ? byte + 31 * 32 : whole;
        __m256i counts = _mm256_setzero_si256();
        for (; byte < end; byte += 32) {
            counts =
                _mm256_add_epi8(counts, count_bits_of_bytes(_mm256_xor_si256(load(query + byte), load(code + byte))));
        }
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(counts, _mm256_setzero_si256()));
    }
    if (code_size > whole) {
        const __m256i rest = load_rest(code + whole, code_size - whole);
        sums = _mm256_add_epi64(
            sums, _mm256_sad_epu8(count_bits_of_bytes(_mm256_xor_si256(query_rest, rest)), _mm256_setzero_si256()));
    }
    return sums;
}

void distances(const uint8_t* query, const uint8_t* codes, size_t num_codes, size_t code_size, size_t bytes_ahead,
               int32_t* distances) {
    const __m256i query_rest = load_rest(query + code_size / 32 * 32, code_size % 32);
    for (size_t i = 0; i < num_codes; i += 8) {
        prefetch(codes + i * code_size, 8 * code_size, bytes_ahead);
        // The sums of two codes in one register, then a tree over the lanes.
        __m256i pairs[4];
        CHAMFER_UNROLL
        for (size_t pair = 0; pair < 4; ++pair) {
            const size_t even = i + 2 * pair < num_codes ? i + 2 * pair : i;
            const size_t odd = i + 2 * pair + 1 < num_codes ? i + 2 * pair + 1 : i;
            pairs[pair] = _mm256_or_si256(
                differing_bits(query, query_rest, codes + even * code_size, code_size),
                _mm256_slli_epi64(differing_bits(query, query_rest, codes + odd * code_size, code_size), 32));
        }
        const __m256i low =
            _mm256_add_epi32(_mm256_unpacklo_epi64(pairs[0], pairs[1]), _mm256_unpackhi_epi64(pairs[0], pairs[1]));
        const __m256i high =
            _mm256_add_epi32(_mm256_unpacklo_epi64(pairs[2], pairs[3]), _mm256_unpackhi_epi64(pairs[2], pairs[3]));
        const __m256i eight =
            _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
        if (i + 8 <= num_codes) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(distances + i), eight);
        } else {
            int32_t last[8];
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(last), eight);
            for (size_t j = 0; i + j < num_codes; ++j) distances[i + j] = last[j];
        }
    }
}

constexpr HammingKernels kKernels{distances};

}  // namespace
}  // namespace chamfer::avx2
CHAMFER_TARGET_END

// ── AVX-512: one instruction counts the bits of eight words ─────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")
namespace chamfer::avx512 {
namespace {

#include "sum_lanes.inl"

CHAMFER_INLINE __mmask64 first_bytes(size_t n) { return n < 64 ? (__mmask64{1} << n) - 1 : ~__mmask64{0}; }

// Eight sums of one code. Whole registers kWhole (any number if 0), the query's held in registers, and a masked one if
// kRest: xor, count and add for each, 1.8 more to add up the lanes, so 6.8 instructions for a code of 128 bytes.
template <size_t kWhole, bool kRest>
struct Query {
    Query(const uint8_t* query, size_t code_size)
        : data(query), num_whole(kWhole ? kWhole : code_size / 64), mask(first_bytes(code_size % 64)) {
        CHAMFER_UNROLL
        for (size_t i = 0; i < kWhole; ++i) whole[i] = _mm512_loadu_si512(query + 64 * i);
        rest = _mm512_maskz_loadu_epi8(mask, query + 64 * num_whole);
    }
    CHAMFER_INLINE __m512i differing_bits(const uint8_t* code) const {
        __m512i sums = _mm512_setzero_si512();
        if constexpr (kRest) {
            sums = _mm512_popcnt_epi64(
                _mm512_xor_si512(rest, _mm512_maskz_loadu_epi8(mask, code + 64 * (kWhole ? kWhole : num_whole))));
        }
        if constexpr (kWhole > 0) {
            CHAMFER_UNROLL
            for (size_t i = 0; i < kWhole; ++i) sums = add(sums, whole[i], code + 64 * i);
        } else {
            for (size_t i = 0; i < num_whole; ++i) sums = add(sums, _mm512_loadu_si512(data + 64 * i), code + 64 * i);
        }
        return sums;
    }
    static CHAMFER_INLINE __m512i add(__m512i sums, __m512i query, const uint8_t* code) {
        return _mm512_add_epi64(sums, _mm512_popcnt_epi64(_mm512_xor_si512(query, _mm512_loadu_si512(code))));
    }

    const uint8_t* data;
    size_t num_whole;
    __mmask64 mask;
    __m512i whole[kWhole + 1], rest;
};

template <size_t kWhole, bool kRest>
void distances_of(const uint8_t* query_code, const uint8_t* codes, size_t num_codes, size_t code_size,
                  size_t bytes_ahead, int32_t* distances) {
    const Query<kWhole, kRest> query(query_code, code_size);
    for (size_t i = 0; i < num_codes; i += 16) {
        const size_t left = num_codes - i;
        __m512i pairs[8];
        if (left >= 16) {
            const uint8_t* code = codes + i * code_size;
            prefetch(code, 16 * code_size, bytes_ahead);
            CHAMFER_UNROLL
            for (size_t pair = 0; pair < 8; ++pair) {
                pairs[pair] = interleave(query.differing_bits(code + 2 * pair * code_size),
                                         query.differing_bits(code + (2 * pair + 1) * code_size));
            }
            _mm512_storeu_si512(distances + i, sum_lanes(pairs));
        } else {
            for (size_t j = 0; j < left; ++j) {
                distances[i + j] =
                    static_cast<int32_t>(_mm512_reduce_add_epi64(query.differing_bits(codes + (i + j) * code_size)));
            }
        }
    }
}

// Codes of kLanes words, 8 / kLanes of them in a register: 0.4, 0.9 and 1.9 instructions for a code of 8, 16 and 32
// bytes. Of 16 codes the words that are not added up yet lie in different registers, as in sum_lanes().
template <size_t kLanes>
void distances_of_words(const uint8_t* query, const uint8_t* codes, size_t num_codes, size_t, size_t bytes_ahead,
                        int32_t* distances) {
    constexpr size_t kCodeSize = 8 * kLanes, kPairs = kLanes;
    const __m512i repeated = [&] {
        alignas(64) uint8_t bytes[64];
        for (size_t i = 0; i < 64; ++i) bytes[i] = query[i % kCodeSize];
        return _mm512_load_si512(bytes);
    }();
    const __m512i order = kLanes == 4   ? _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15)
                          : kLanes == 2 ? _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
                                        : _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    for (size_t i = 0; i < num_codes; i += 16) {
        const size_t left = (num_codes - i) * kCodeSize;
        const uint8_t* code = codes + i * kCodeSize;
        prefetch(code, 16 * kCodeSize, bytes_ahead);
        const auto differing_bits = [&](size_t reg) {
            const size_t begin = 64 * reg;
            const __m512i x = left >= begin + 64 ? _mm512_loadu_si512(code + begin)
                              : left > begin     ? _mm512_maskz_loadu_epi8(first_bytes(left - begin), code + begin)
                                                 : _mm512_setzero_si512();
            return _mm512_popcnt_epi64(_mm512_xor_si512(x, repeated));
        };
        __m512i sums[kPairs];
        CHAMFER_UNROLL
        for (size_t pair = 0; pair < kPairs; ++pair)
            sums[pair] = interleave(differing_bits(2 * pair), differing_bits(2 * pair + 1));
        if constexpr (kLanes > 1) {
            CHAMFER_UNROLL
            for (size_t j = 0; j < kPairs / 2; ++j) sums[j] = sum_neighbours(sums[2 * j], sums[2 * j + 1]);
        }
        if constexpr (kLanes > 2) sums[0] = sum_next_neighbours(sums[0], sums[1]);
        const __m512i sixteen = _mm512_permutexvar_epi32(order, sums[0]);
        const size_t num = num_codes - i;
        _mm512_mask_storeu_epi32(distances + i, static_cast<__mmask16>(num < 16 ? (1U << num) - 1 : 0xffff), sixteen);
    }
}

void distances(const uint8_t* query, const uint8_t* codes, size_t num_codes, size_t code_size, size_t bytes_ahead,
               int32_t* distances) {
    static constexpr decltype(HammingKernels::distances) kBySize[2][5] = {
        {distances_of<0, false>, distances_of<1, false>, distances_of<2, false>, distances_of<3, false>,
         distances_of<4, false>},
        {distances_of<0, true>, distances_of<1, true>, distances_of<2, true>, distances_of<3, true>,
         distances_of<4, true>}};
    const size_t num_whole = code_size / 64;
    const auto by_size = code_size == 8    ? distances_of_words<1>
                         : code_size == 16 ? distances_of_words<2>
                         : code_size == 32 ? distances_of_words<4>
                                           : kBySize[code_size % 64 != 0][num_whole <= 4 ? num_whole : 0];
    by_size(query, codes, num_codes, code_size, bytes_ahead, distances);
}

constexpr HammingKernels kKernels{distances};

}  // namespace
}  // namespace chamfer::avx512
CHAMFER_TARGET_END

#endif

// ── NEON ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#if CHAMFER_ARM

namespace chamfer::neon {
namespace {

// The first n < 16 bytes.
CHAMFER_INLINE uint8x16_t load_rest(const uint8_t* p, size_t n) {
    const Words words = load_up_to_16(p, n);
    return vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(words.low), vcreate_u64(words.high)));
}

// xor, count and add for 16 bytes. Bytes hold the counts of 31 registers, at most 8 each, before they are added up.
void distances(const uint8_t* query, const uint8_t* codes, size_t num_codes, size_t code_size, size_t bytes_ahead,
               int32_t* distances) {
    const size_t whole = code_size / 16 * 16, rest = code_size % 16;
    const uint8x16_t query_rest = load_rest(query + whole, rest);
    for (size_t i = 0; i < num_codes; ++i) {
        const uint8_t* code = codes + i * code_size;
        prefetch(code, code_size, bytes_ahead);
        uint32_t distance = 0;
        for (size_t byte = 0; byte < whole;) {
            const size_t end = byte + 31 * 16 < whole ? byte + 31 * 16 : whole;
            uint8x16_t counts = vdupq_n_u8(0);
            for (; byte < end; byte += 16) {
                counts = vaddq_u8(counts, vcntq_u8(veorq_u8(vld1q_u8(query + byte), vld1q_u8(code + byte))));
            }
            distance += vaddlvq_u8(counts);
        }
        if (rest) distance += vaddlvq_u8(vcntq_u8(veorq_u8(query_rest, load_rest(code + whole, rest))));
        distances[i] = static_cast<int32_t>(distance);
    }
}

constexpr HammingKernels kKernels{distances};

}  // namespace
}  // namespace chamfer::neon

#endif

// ── the table, and the scan ─────────────────────────────────────────────────────────────────────────────────────────

namespace chamfer {

const HammingKernels& hamming_kernels(Isa isa) { CHAMFER_KERNELS_BY_REGISTERS(isa, kKernels) }

namespace {

// What a kernel asks of memory ahead of its place. One code of 128 bytes takes fewer cycles than its way from memory;
// without this one query runs at 75 % of the bandwidth, from 2 to 8 KB ahead at 92 % and more.
constexpr size_t kBytesAhead = 4096;
// Codes that one query after the other scans while they are in the L1 cache, and their distances with them.
constexpr size_t kTileBytes = 16 * 1024, kMaxTileCodes = 1024;
// An item of work: each code comes from memory once for all queries of a group.
constexpr size_t kRunBytes = 256 * 1024, kGroupQueries = 64;

}  // namespace

void hamming_topk(const HammingInput& input, size_t k, int32_t* distances, int64_t* rows) {
    assert(input.code_size >= 1 && input.num_threads.count >= 1);
    const HammingKernels& kernels = hamming_kernels(input.isa);
    const SelectKernels& selects = select_kernels(input.isa);
    const size_t code_size = input.code_size;
    const size_t tile_codes = std::clamp<size_t>(kTileBytes / code_size / 16 * 16, 16, kMaxTileCodes);
    const ScanShape shape{input.num_queries, input.num_codes, kGroupQueries,
                          std::max(tile_codes, kRunBytes / code_size)};
    // Scores rank higher first, so a score is the complement of a distance.
    scan_topk<int32_t>(
        shape, k, input.num_threads, distances, rows,
        [&](size_t, size_t first_query, size_t end_query, size_t first_row, size_t end_row, RunBest<int32_t>* best) {
            int32_t tile[kMaxTileCodes];
            uint32_t positions[kMaxTileCodes];
            for (size_t row = first_row; row < end_row; row += tile_codes) {
                const size_t num_codes = std::min(tile_codes, end_row - row);
                for (size_t query = first_query; query < end_query; ++query) {
                    RunBest<int32_t>& found = best[query - first_query];
                    kernels.distances(input.query_codes + query * code_size, input.codes + row * code_size, num_codes,
                                      code_size, query == first_query ? kBytesAhead : 0, tile);
                    found.add_tile(num_codes, [&](size_t begin, size_t end, int32_t limit) {
                        const size_t num_near = selects.below(tile + begin, end - begin, ~limit, positions);
                        for (size_t i = 0; i < num_near; ++i) {
                            const size_t place = begin + positions[i];
                            found.push(~tile[place], static_cast<int64_t>(row + place));
                        }
                    });
                }
            }
        });
    std::transform(distances, distances + input.num_queries * k, distances, [](int32_t score) { return ~score; });
}

}  // namespace chamfer
