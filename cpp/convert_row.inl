// The conversions, written once against `V`, 16 floats in the registers of one instruction set. convert.cpp includes
// this file inside each target region, where V is defined.

// The first 16 of `left` numbers, zeros past the last.
CHAMFER_INLINE V::Reg load_up_to_16(const float* x, size_t left) {
    if (left >= 16) return V::load(x);
    float rest[16] = {};
    for (size_t j = 0; j < left; ++j) rest[j] = x[j];
    return V::load(rest);
}

template <class T>
CHAMFER_INLINE void copy(const T* from, size_t n, T* to) {
    for (size_t j = 0; j < n; ++j) to[j] = from[j];
}

bool float_to_half(const float* x, size_t n, uint16_t* out) {
    bool fits = true;
    for (size_t i = 0; i < n; i += 16) {
        const V::Reg numbers = load_up_to_16(x + i, n - i);
        fits &= V::all_below(numbers, 65520.0f);
        if (n - i >= 16) {
            V::store_half(out + i, numbers);
        } else {
            uint16_t rest[16];
            V::store_half(rest, numbers);
            copy(rest, n - i, out + i);
        }
    }
    return fits;
}

float float_to_int8(const float* x, size_t n, int8_t* codes) {
    V::Reg largest = V::set(0.0f);
    for (size_t i = 0; i < n; i += 16) largest = V::max_magnitude(largest, load_up_to_16(x + i, n - i));
    float lanes[16], magnitude = 0.0f;
    V::store(lanes, largest);
    for (const float lane : lanes) magnitude = lane > magnitude ? lane : magnitude;
    const float scale = magnitude / 127.0f;
    if (!(scale > 0.0f)) {
        for (size_t i = 0; i < n; ++i) codes[i] = 0;
        return 0.0f;
    }
    const V::Reg divisor = V::set(scale);
    for (size_t i = 0; i < n; i += 16) {
        const V::Reg numbers = load_up_to_16(x + i, n - i);
        if (n - i >= 16) {
            V::store_int8(codes + i, numbers, divisor);
        } else {
            int8_t rest[16];
            V::store_int8(rest, numbers, divisor);
            copy(rest, n - i, codes + i);
        }
    }
    return scale;
}

void float_to_bits(const float* x, size_t n, uint8_t* bits) {
    for (size_t i = 0; i < n; i += 16) {
        const uint32_t positive = V::positive(load_up_to_16(x + i, n - i));
        bits[i / 8] = static_cast<uint8_t>(positive & 255);
        if (n - i > 8) bits[i / 8 + 1] = static_cast<uint8_t>(positive >> 8);
    }
}

constexpr ConvertKernels kKernels{float_to_half, float_to_int8, float_to_bits};
