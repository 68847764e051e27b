// Plain loops that a compiler makes registers of, included in each target region.

void bitwise(const SdcSumsInput& input, int32_t* sums, size_t stride) {
    const size_t bits = input.shape.bits, plane_bytes = input.shape.plane_bytes(), row_bytes = bits * plane_bytes;
    for (size_t q = 0; q < input.num_queries; ++q) {
        const uint8_t* query = input.operands + q * (bits + 1) * row_bytes;
        for (size_t i = 0; i < input.num_codes; ++i) {
            const uint8_t* code = input.codes + i * row_bytes;
            int32_t weighted = 0;
            for (size_t query_bit = 0; query_bit < bits; ++query_bit) {
                for (size_t bit = 0; bit < bits; ++bit) {
                    weighted += static_cast<int32_t>(differing_bits(query + query_bit * row_bytes,
                                                                    code + bit * plane_bytes, plane_bytes))
                                << (query_bit + bit);
                }
            }
            sums[q * stride + i] = input.offsets[q] - 2 * weighted;
        }
    }
}

void scale_sums(const int32_t* sums, size_t n, float unit, float query_scale, const float* scales,
                float* similarities) {
    if (scales) {
        for (size_t i = 0; i < n; ++i)
            similarities[i] = (static_cast<float>(sums[i]) * unit) * (query_scale * scales[i]);
    } else {
        for (size_t i = 0; i < n; ++i) similarities[i] = (static_cast<float>(sums[i]) * unit) * query_scale;
    }
}
