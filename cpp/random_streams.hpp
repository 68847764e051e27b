// The random streams of google/graph-mining's encoder, drawn the same on every platform.
//
// std::mt19937 is fixed by the C++ standard, its distributions are not: Google's numbers are those of libstdc++, so its
// three distributions are written out here. One deviation: the logarithm is taken in double and rounded, since logf
// differs between C libraries: of 20 million normals, 0.3 % differ from libstdc++'s on glibc, by 3 units in the last
// place at most.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>

namespace chamfer {

inline uint32_t draw_word(std::mt19937& words) { return static_cast<uint32_t>(words()); }

// std::uniform_int_distribution(0, range - 1): Lemire's multiplication, arXiv 1805.10941. One word, rarely more.
inline uint32_t draw_below(std::mt19937& words, uint32_t range) {
    uint64_t product = uint64_t{draw_word(words)} * range;
    if (static_cast<uint32_t>(product) < range) {
        const uint32_t threshold = (0U - range) % range;
        while (static_cast<uint32_t>(product) < threshold) product = uint64_t{draw_word(words)} * range;
    }
    return static_cast<uint32_t>(product >> 32);
}

// std::bernoulli_distribution(0.5): two words make (low + high · 2^32) / 2^64 in double; true below one half.
inline bool draw_coin(std::mt19937& words) {
    const double low = draw_word(words), high = draw_word(words);
    return (low + high * 4294967296.0) / 18446744073709551616.0 < 0.5;
}

// std::normal_distribution<float>(0, 1): Marsaglia's polar method, second deviate first.
class NormalStream {
public:
    explicit NormalStream(std::mt19937& words) : words_(words) {}

    float draw() {
        if (has_saved_) {
            has_saved_ = false;
            return saved_;
        }
        float x, y, squared_radius;
        do {
            x = 2.0f * uniform() - 1.0f;
            y = 2.0f * uniform() - 1.0f;
            squared_radius = x * x + y * y;
        } while (squared_radius > 1.0f || squared_radius == 0.0f);
        const float logarithm = static_cast<float>(std::log(static_cast<double>(squared_radius)));
        const float factor = std::sqrt(-2.0f * logarithm / squared_radius);
        saved_ = x * factor;
        has_saved_ = true;
        return y * factor;
    }

private:
    float uniform() {
        const float u = static_cast<float>(draw_word(words_)) / 4294967296.0f;
        return u < 1.0f ? u : 0x1.fffffep-1f;
    }

    std::mt19937& words_;
    float saved_ = 0.0f;
    bool has_saved_ = false;
};

}  // namespace chamfer
