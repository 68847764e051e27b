// For AVX-512 target regions: the lanes of 16 registers added up, each register's on its own.

// Two registers of eight 64-bit sums below 2^32, the second's in the odd 32-bit lanes.
CHAMFER_INLINE __m512i interleave(__m512i even, __m512i odd) {
    return _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
}

// In each 128 bits the two halves of x added up, then those of y.
CHAMFER_INLINE __m512i sum_neighbours(__m512i x, __m512i y) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
}

// The same of 128 bits: the two of each half of x added up, then those of y.
CHAMFER_INLINE __m512i sum_next_neighbours(__m512i x, __m512i y) {
    return _mm512_add_epi32(_mm512_shuffle_i64x2(x, y, 0x88), _mm512_shuffle_i64x2(x, y, 0xdd));
}

// Lane i of the result is the sum over the eight lanes of register i: a tree of 8 + 7 * 3 instructions, interleave()
// counted.
CHAMFER_INLINE __m512i sum_lanes(const __m512i (&pairs)[8]) {
    __m512i fours[4];
    CHAMFER_UNROLL
    for (size_t i = 0; i < 4; ++i) fours[i] = sum_neighbours(pairs[2 * i], pairs[2 * i + 1]);
    return sum_next_neighbours(sum_next_neighbours(fours[0], fours[1]), sum_next_neighbours(fours[2], fours[3]));
}
