#include "ragged.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace chamfer {
namespace {

// Exponent fields compare as the magnitudes do, and NaN and infinity have the highest. Whole stretches are tested by
// OR, which compilers vectorise; only a stretch that fails is looked at row by row.
template <class Word>
bool any_out_of_range(const Word* words, size_t n, Word exponent_mask, Word first_refused) {
    bool found = false;
    for (size_t i = 0; i < n; ++i) found |= (words[i] & exponent_mask) >= first_refused;
    return found;
}

}  // namespace

int64_t first_row_out_of_range(const void* vectors, Dtype dtype, size_t num_rows, size_t dim, size_t num_threads) {
    constexpr size_t kRowsAtATime = 4096;
    constexpr uint32_t kFloatExponent = 0x7f800000, kTwoToThe50 = (127 + 50) << 23;
    constexpr uint16_t kHalfExponent = 0x7c00;
    LowestRow first;
    const auto row_is_bad = [&](size_t row, size_t rows) {
        return dtype == Dtype::float32 ? any_out_of_range(static_cast<const uint32_t*>(vectors) + row * dim, rows * dim,
                                                          kFloatExponent, kTwoToThe50)
                                       : any_out_of_range(static_cast<const uint16_t*>(vectors) + row * dim, rows * dim,
                                                          kHalfExponent, kHalfExponent);
    };
    parallel_for((num_rows + kRowsAtATime - 1) / kRowsAtATime, num_threads, [&](size_t, size_t stretch) {
        const size_t begin = stretch * kRowsAtATime, rows = std::min(kRowsAtATime, num_rows - begin);
        if (!row_is_bad(begin, rows)) return;
        for (size_t row = begin; row < begin + rows; ++row) {
            if (!row_is_bad(row, 1)) continue;
            return first.report(row);
        }
    });
    return first.get();
}

}  // namespace chamfer
