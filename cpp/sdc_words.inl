// The bitwise formula where planes are whole words, for AVX-512 target regions: a row is a vector of words, each of one
// plane. The lower planes' counts weigh less: of 4 bits, 4 xor, 4 counts, 6 to add up by Horner's rule, and a shift by
// the plane of the word, 16 instructions for 64 bytes of codes with the last addition.

#include "sum_lanes.inl"

// A row of the query's planes and of the shifts: in registers if it is kRegs of them, loaded again for each code if 0.
template <size_t kBits, size_t kRegs>
struct WordsOfQuery {
    WordsOfQuery(const uint8_t* operand, size_t bytes) : data(operand), row_bytes(bytes) {
        CHAMFER_UNROLL
        for (size_t i = 0; i < kRegs; ++i) {
            CHAMFER_UNROLL
            for (size_t bit = 0; bit < kBits; ++bit)
                planes[i][bit] = _mm512_loadu_si512(data + bit * row_bytes + 64 * i);
            places[i] = _mm512_loadu_si512(data + kBits * row_bytes + 64 * i);
        }
    }

    // Eight sums of one code.
    CHAMFER_INLINE __m512i weighted_bits(const uint8_t* code) const {
        if constexpr (kRegs > 0) {
            __m512i sums[kRegs];
            CHAMFER_UNROLL
            for (size_t i = 0; i < kRegs; ++i)
                sums[i] = _mm512_sllv_epi64(counts(planes[i], _mm512_loadu_si512(code + 64 * i)), places[i]);
            CHAMFER_UNROLL
            for (size_t i = 1; i < kRegs; ++i) sums[0] = _mm512_add_epi64(sums[0], sums[i]);
            return sums[0];
        } else {
            __m512i sums = _mm512_setzero_si512();
            for (size_t byte = 0; byte < row_bytes; byte += 64) {
                const size_t left = row_bytes - byte;
                const __mmask64 mask = left < 64 ? (__mmask64{1} << left) - 1 : ~__mmask64{0};
                __m512i of_row[kBits];
                CHAMFER_UNROLL
                for (size_t bit = 0; bit < kBits; ++bit)
                    of_row[bit] = _mm512_maskz_loadu_epi8(mask, data + bit * row_bytes + byte);
                const __m512i place = _mm512_maskz_loadu_epi8(mask, data + kBits * row_bytes + byte);
                const __m512i row = _mm512_maskz_loadu_epi8(mask, code + byte);
                sums = _mm512_add_epi64(sums, _mm512_sllv_epi64(counts(of_row, row), place));
            }
            return sums;
        }
    }

    static CHAMFER_INLINE __m512i counts(const __m512i (&of_row)[kBits], __m512i row) {
        __m512i sums = _mm512_popcnt_epi64(_mm512_xor_si512(of_row[kBits - 1], row));
        CHAMFER_UNROLL
        for (size_t i = 1; i < kBits; ++i) {
            const __m512i next = _mm512_popcnt_epi64(_mm512_xor_si512(of_row[kBits - 1 - i], row));
            sums = _mm512_add_epi64(_mm512_add_epi64(sums, sums), next);
        }
        return sums;
    }

    const uint8_t* data;
    size_t row_bytes;
    __m512i planes[kRegs + 1][kBits], places[kRegs + 1];
};

template <size_t kBits, size_t kRegs>
void bitwise_words(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    const size_t row_bytes = input.shape.row_bytes();
    for (size_t q = 0; q < input.num_queries; ++q) {
        const WordsOfQuery<kBits, kRegs> query(input.operands + q * (kBits + 1) * row_bytes, row_bytes);
        const __m512i offset = _mm512_set1_epi32(input.offsets[q]);
        const auto weighted = [&](size_t i) {
            return query.weighted_bits(input.codes + (i < input.num_codes ? i : 0) * row_bytes);
        };
        for (size_t i = 0; i < input.num_codes; i += 16) {
            if (input.bytes_ahead) {
                for (size_t byte = 0; byte < 16 * row_bytes; byte += 64)
                    CHAMFER_PREFETCH(reinterpret_cast<uintptr_t>(input.codes) + i * row_bytes + byte +
                                     input.bytes_ahead);
            }
            __m512i pairs[8];
            CHAMFER_UNROLL
            for (size_t pair = 0; pair < 8; ++pair)
                pairs[pair] = interleave(weighted(i + 2 * pair), weighted(i + 2 * pair + 1));
            const __m512i sum = sum_lanes(pairs);
            _mm512_storeu_si512(sums + q * stride + i, _mm512_sub_epi32(offset, _mm512_add_epi32(sum, sum)));
        }
    }
}

template <size_t kBits>
void bitwise_of(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    const size_t row_bytes = input.shape.row_bytes();
    const auto by_size = row_bytes == 64    ? bitwise_words<kBits, 1>
                         : row_bytes == 128 ? bitwise_words<kBits, 2>
                         : row_bytes == 256 ? bitwise_words<kBits, 4>
                                            : bitwise_words<kBits, 0>;
    by_size(input, sums, stride);
}

void bitwise(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    if (input.shape.plane_bytes() % 8) return by_word::bitwise(input, sums, stride);
    if (input.shape.bits == 4) return bitwise_of<4>(input, sums, stride);
    if (input.shape.bits == 2) return bitwise_of<2>(input, sums, stride);
    bitwise_of<1>(input, sums, stride);
}
