// product.hpp: the products of words, and what turns codes into words, of every instruction set.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "fixtures.hpp"
#include "linear.hpp"
#include "product.hpp"
#include "testing.hpp"

namespace chamfer::testing {

namespace {

constexpr int32_t kLeast = std::numeric_limits<int32_t>::min(), kGreatest = std::numeric_limits<int32_t>::max();
constexpr size_t kRows = 37, kColumns = 70;

uint32_t any_word(Random& random) { return static_cast<uint32_t>(random.below(size_t{1} << 32)); }

// ── kinds of product: words drawn at random, and what a product of two sequences of them is ──

struct Float32Kind {
    using Number = float;
    static constexpr bool kMisaligned = false;  // rows of float32 are aligned at the door
    static constexpr float kWorst = -kInfinity;
    static const char* name() { return "float32"; }
    static const WordKernels& of(const ProductKernels& kernels) { return kernels.float32; }
    static uint32_t row_word(Random& random, const ProductKernels&) { return std::bit_cast<uint32_t>(random.number()); }
    static uint32_t column_word(Random& random, const ProductKernels&) {
        return std::bit_cast<uint32_t>(random.number());
    }
    static bool holds(Isa isa, const ProductKernels&, const uint32_t* row, const uint32_t* column, size_t num_words,
                      float product) {
        float fused = 0.0f, rounded = 0.0f;
        for (size_t i = 0; i < num_words; ++i) {
            const float x = std::bit_cast<float>(row[i]), y = std::bit_cast<float>(column[i]);
            fused = std::fma(x, y, fused);
            rounded += x * y;
        }
        return product == (isa == Isa::scalar ? rounded : fused);
    }
    static float better(float a, float b) { return std::max(a, b); }
};

struct Bfloat16Kind {
    using Number = float;
    static constexpr bool kMisaligned = true;
    static constexpr float kWorst = -kInfinity;
    static const char* name() { return "bfloat16"; }
    static const WordKernels& of(const ProductKernels& kernels) { return kernels.bfloat16; }
    static uint32_t row_word(Random& random, const ProductKernels&) {
        const uint32_t low = to_bfloat16(random.number());
        return low | static_cast<uint32_t>(to_bfloat16(random.number())) << 16;
    }
    static uint32_t column_word(Random& random, const ProductKernels& kernels) { return row_word(random, kernels); }
    static bool holds(Isa, const ProductKernels&, const uint32_t* row, const uint32_t* column, size_t num_words,
                      float product) {
        double exact = 0.0, magnitude = 0.0;
        for (size_t i = 0; i < 2 * num_words; ++i) {
            const double x = static_cast<double>(from_bfloat16(static_cast<uint16_t>(row[i / 2] >> i % 2 * 16)));
            const double y = static_cast<double>(from_bfloat16(static_cast<uint16_t>(column[i / 2] >> i % 2 * 16)));
            exact += x * y;
            magnitude += std::abs(x * y);
        }
        const double bound = static_cast<double>(2 * num_words) * kRounding * magnitude;
        return std::abs(static_cast<double>(product) - exact) <= bound;
    }
    static float better(float a, float b) { return std::max(a, b); }
};

// Number i of a sequence of words of an int8 product: of a row unsigned but for its offset, of a column signed.
int32_t row_number(const ProductKernels& kernels, const uint32_t* words, size_t i) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(words);
    if (kernels.int8_bytes == 2) return bytes[2 * i] + 256 * bytes[2 * i + 1];
    return kernels.int8_row_offset ? static_cast<int8_t>(bytes[i]) : bytes[i];
}
int32_t column_number(const ProductKernels& kernels, const uint32_t* words, size_t i) {
    return static_cast<int8_t>(reinterpret_cast<const uint8_t*>(words)[kernels.int8_bytes * i]);
}
uint32_t int8_row_word(const ProductKernels& kernels, const uint8_t* numbers) {
    uint32_t word = 0;
    for (size_t i = 0; i < 4 / kernels.int8_bytes; ++i) {
        const uint32_t number = static_cast<uint8_t>(numbers[i] - kernels.int8_row_offset);
        word |= number << (8 * kernels.int8_bytes * i);
    }
    return word;
}
uint32_t int8_column_word(const ProductKernels& kernels, const int8_t* numbers) {
    uint32_t word = 0;
    const uint32_t mask = kernels.int8_bytes == 2 ? 0xffff : 0xff;
    for (size_t i = 0; i < 4 / kernels.int8_bytes; ++i)
        word |= (static_cast<uint32_t>(int32_t{numbers[i]}) & mask) << (8 * kernels.int8_bytes * i);
    return word;
}

struct Int8Kind {
    using Number = int32_t;
    static constexpr bool kMisaligned = true;
    static constexpr int32_t kWorst = kLeast;
    static const char* name() { return "int8"; }
    static const WordKernels& of(const ProductKernels& kernels) { return kernels.int8; }
    // One word of eight has the extremes only: pairs of them overflow 16 bits.
    static uint32_t row_word(Random& random, const ProductKernels& kernels) {
        const bool extreme = random.below(8) == 0;
        uint8_t numbers[4];
        for (uint8_t& x : numbers) x = static_cast<uint8_t>(extreme ? random.below(2) * 255 : random.below(256));
        return int8_row_word(kernels, numbers);
    }
    static uint32_t column_word(Random& random, const ProductKernels& kernels) {
        const bool extreme = random.below(8) == 0;
        int8_t numbers[4];
        for (int8_t& x : numbers)
            x = static_cast<int8_t>(extreme ? static_cast<int>(random.below(2)) * 255 - 128
                                            : static_cast<int>(random.below(256)) - 128);
        return int8_column_word(kernels, numbers);
    }
    static int32_t product(const ProductKernels& kernels, const uint32_t* row, const uint32_t* column,
                           size_t num_words) {
        int64_t sum = 0;
        for (size_t i = 0; i < num_words * 4 / kernels.int8_bytes; ++i)
            sum += row_number(kernels, row, i) * column_number(kernels, column, i);
        return static_cast<int32_t>(sum);
    }
    static bool holds(Isa, const ProductKernels& kernels, const uint32_t* row, const uint32_t* column, size_t num_words,
                      int32_t x) {
        return x == product(kernels, row, column, num_words);
    }
    static int32_t better(int32_t a, int32_t b) { return std::max(a, b); }
};

struct BitsKind {
    using Number = int32_t;
    static constexpr bool kMisaligned = true;
    static constexpr int32_t kWorst = kGreatest;
    static const char* name() { return "bits"; }
    static const WordKernels& of(const ProductKernels& kernels) { return kernels.bits; }
    static uint32_t row_word(Random& random, const ProductKernels&) { return any_word(random); }
    static uint32_t column_word(Random& random, const ProductKernels&) { return any_word(random); }
    static bool holds(Isa, const ProductKernels&, const uint32_t* row, const uint32_t* column, size_t num_words,
                      int32_t product) {
        int32_t differing = 0;
        for (size_t i = 0; i < num_words; ++i) differing += std::popcount(row[i] ^ column[i]);
        return product == differing;
    }
    static int32_t better(int32_t a, int32_t b) { return std::min(a, b); }
};

// ── rows and columns in memory as awkward as the contract allows ──

// Rows of several planes, with garbage between rows and planes. They end at the end of the buffer, or lie at odd
// addresses a few bytes before it.
struct PlacedRows {
    PlacedRows(const uint32_t* words, size_t num_rows, size_t words_per_plane, size_t num_planes, size_t row_gap,
               size_t plane_gap, size_t misalignment) {
        const size_t stride = words_per_plane + row_gap;
        const size_t of_plane = num_rows ? (num_rows - 1) * stride + words_per_plane : 0;
        const size_t plane_stride = of_plane + plane_gap;
        const size_t num_words = num_rows ? (num_planes - 1) * plane_stride + of_plane : 0;
        bytes.emplace(num_words * 4 + misalignment, uint8_t{0xff});
        uint8_t* base = bytes->data();
        for (size_t r = 0; r < num_rows; ++r) {
            for (size_t p = 0; p < num_planes; ++p) {
                std::memcpy(base + (p * plane_stride + r * stride) * 4, words + (r * num_planes + p) * words_per_plane,
                            words_per_plane * 4);
            }
        }
        rows = {reinterpret_cast<const uint32_t*>(base), stride, words_per_plane, num_planes, plane_stride};
    }
    std::optional<Exact<uint8_t>> bytes;
    Rows rows{};
};

// Columns packed from rows or columns of words with gaps, at odd addresses where the kind allows.
struct PackedWords {
    PackedWords(const ProductKernels& kernels, const uint32_t* words, size_t num_columns, size_t num_words,
                size_t misalignment) {
        const size_t layout = num_columns % 3, word_stride = layout == 2 ? num_columns : 1;
        const size_t column_stride = layout == 2 ? 1 : num_words + 3 * layout;
        const size_t extent = (num_columns - 1) * column_stride + (num_words - 1) * word_stride + 1;
        Exact<uint8_t> source(extent * 4 + misalignment, uint8_t{0xff});
        for (size_t c = 0; c < num_columns; ++c) {
            for (size_t i = 0; i < num_words; ++i)
                std::memcpy(source.data() + (c * column_stride + i * word_stride) * 4, words + c * num_words + i, 4);
        }
        const size_t num_lanes = kernels.num_lanes(num_columns);
        packed.emplace(num_lanes * num_words, 0xffffffff);
        kernels.pack(reinterpret_cast<const uint32_t*>(source.data()), num_columns, column_stride, word_stride,
                     num_words, packed->data());
        view = {packed->data(), num_lanes, num_words};
    }
    std::optional<Exact<uint32_t>> packed;
    PackedColumns view{};
};

template <class Kind>
struct Words {
    Words(const ProductKernels& kernels, size_t words_in_all) : num_words(words_in_all) {
        Random random(static_cast<uint32_t>(num_words));
        rows.resize(kRows * num_words);
        columns.resize((kColumns + 16) * num_words);  // zeros from kColumns on: lanes without a column
        for (uint32_t& word : rows) word = Kind::row_word(random, kernels);
        for (size_t i = 0; i < kColumns * num_words; ++i) columns[i] = Kind::column_word(random, kernels);
    }
    size_t num_words;
    std::vector<uint32_t> rows, columns;
};

template <class Kind>
void check_words(Isa isa, const Words<Kind>& words, size_t num_planes, size_t num_rows, size_t num_columns) {
    using Number = typename Kind::Number;
    const ProductKernels& kernels = product_kernels(isa);
    const size_t num_words = words.num_words, misalignment = Kind::kMisaligned ? (num_rows + num_columns) % 4 : 0;
    at("isa %s, %s, %zu rows, %zu columns, %zu words in %zu planes, %zu bytes misaligned", isa_name(isa), Kind::name(),
       num_rows, num_columns, num_words, num_planes, misalignment);
    const PlacedRows placed(words.rows.data(), num_rows, num_words / num_planes, num_planes, num_rows % 3,
                            num_columns % 5, misalignment);
    const PackedWords packed(kernels, words.columns.data(), num_columns, num_words, misalignment);
    const size_t num_lanes = packed.view.num_lanes;
    Exact<Number> best(num_lanes), best_too(num_lanes), products(num_rows * num_lanes);
    for (size_t c = 0; c < num_lanes; ++c) best[c] = best_too[c] = c % 3 ? Kind::kWorst : Number{1};
    std::vector<Number> expected(best.begin(), best.end());
    // Prefetches may go anywhere.
    const Ahead ahead{reinterpret_cast<uintptr_t>(placed.bytes->end()) - 3, 4 * num_words + 1, 4};
    Kind::of(kernels).fold(packed.view, placed.rows, num_rows, ahead, best.data());
    Kind::of(kernels).fold_and_store(packed.view, placed.rows, num_rows, ahead, best_too.data(), products.data());
    bool holds = true;
    for (size_t r = 0; r < num_rows; ++r) {
        for (size_t c = 0; c < num_lanes; ++c) {
            const uint32_t* column = &words.columns[(c < num_columns ? c : kColumns) * num_words];
            const Number x = products[r * num_lanes + c];
            holds = holds && Kind::holds(isa, kernels, &words.rows[r * num_words], column, num_words, x);
            expected[c] = Kind::better(expected[c], x);
        }
    }
    CHECK("fold_and_store gives every product by its definition", holds);
    CHECK("fold_and_store keeps the best product and what was there",
          std::equal(expected.begin(), expected.end(), best_too.begin()));
    CHECK("fold keeps the best product and what was there", std::equal(expected.begin(), expected.end(), best.begin()));
}

template <class Kind>
void check_kind(Isa isa) {
    const ProductKernels& kernels = product_kernels(isa);
    if (!Kind::of(kernels).fold) return;
    const size_t lanes = kernels.lanes;
    const std::vector<size_t> all_rows{0, 1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, kRows};
    const std::vector<size_t> all_columns{1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1, 33, kColumns};
    const std::vector<size_t> some_rows{1, 13}, some_columns{lanes - 1, 33}, few_rows{0, 1, 5, 12, kRows};
    struct Length {
        size_t num_words, num_planes;
    };
    std::vector<Length> lengths;
    for (const size_t n : std::vector<size_t>{1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 257})
        if (!quick || n == 1 || n == 17 || n == 33) lengths.push_back({n, 1});
    for (size_t planes = 2; planes <= 8; ++planes)
        for (const size_t n : std::vector<size_t>{1, 3, 17, 32})
            if (!quick || (n == 17 && planes % 6 == 2)) lengths.push_back({n, planes});
    for (const auto& [num_words, num_planes] : lengths) {
        const Words<Kind> words(kernels, num_words * num_planes);
        const bool long_one = words.num_words > 64 || (quick && words.num_words > 17);
        for (const size_t num_columns : long_one ? some_columns : all_columns)
            for (const size_t num_rows : long_one ? some_rows : quick ? few_rows : all_rows)
                check_words<Kind>(isa, words, num_planes, num_rows, num_columns);
    }
}

// ── the ends of ranges ──

template <class Kind>
void check_equal_words(Isa isa, size_t num_words, uint32_t row_word, uint32_t column_word, int32_t expected) {
    const ProductKernels& kernels = product_kernels(isa);
    const std::vector<uint32_t> row_words(13 * num_words, row_word), column_words(33 * num_words, column_word);
    for (const size_t num_columns : {kernels.lanes, size_t{33}}) {
        at("isa %s, %s, %zu words %08x times %08x, %zu columns", isa_name(isa), Kind::name(), num_words, row_word,
           column_word, num_columns);
        const PlacedRows placed(row_words.data(), 13, num_words, 1, 0, 0, 0);
        const PackedWords packed(kernels, column_words.data(), num_columns, num_words, 0);
        std::vector<int32_t> best(packed.view.num_lanes, Kind::kWorst), products(13 * packed.view.num_lanes);
        Kind::of(kernels).fold_and_store(packed.view, placed.rows, 13, Ahead::none(row_words.data()), best.data(),
                                         products.data());
        bool holds = true;
        for (size_t i = 0; i < products.size(); ++i)
            holds = holds && (i % packed.view.num_lanes >= num_columns || products[i] == expected);
        CHECK("the largest products neither saturate nor overflow",
              holds && std::all_of(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(num_columns),
                                   [&](int32_t x) { return x == expected; }));
    }
}

void check_extremes(Isa isa) {
    const ProductKernels& kernels = product_kernels(isa);
    for (const size_t dim : std::vector<size_t>{4, 64, 128, 1024, 65536}) {  // no codes have more dimensions
        if (quick && dim > 128) continue;
        for (const int column : {-128, -127, 127}) {
            const uint8_t highest[4] = {255, 255, 255, 255};
            const auto x = static_cast<int8_t>(column);
            const int8_t columns[4] = {x, x, x, x};
            const auto expected =
                static_cast<int64_t>(255 - kernels.int8_row_offset) * column * static_cast<int64_t>(dim);
            if (expected < kLeast) continue;
            check_equal_words<Int8Kind>(isa, dim * kernels.int8_bytes / 4, int8_row_word(kernels, highest),
                                        int8_column_word(kernels, columns), static_cast<int32_t>(expected));
        }
    }
    for (const size_t n : std::vector<size_t>{1, 15, 16, 17, 31, 32, 33, 48, 64, 257, 2048}) {
        if (quick && n > 257) continue;
        check_equal_words<BitsKind>(isa, n, 0xffffffff, 0, static_cast<int32_t>(32 * n));
        check_equal_words<BitsKind>(isa, n, 0x55555555, 0xaaaaaaaa, static_cast<int32_t>(32 * n));
        check_equal_words<BitsKind>(isa, n, 0x80000001, 0x80000001, 0);
    }
}

// ── what else is made of int8 products ──

void check_fold_scaled(Isa isa, size_t num_words, size_t num_planes, size_t num_rows, size_t num_columns) {
    const ProductKernels& kernels = product_kernels(isa);
    at("isa %s, %zu rows, %zu columns, %zu words in %zu planes", isa_name(isa), num_rows, num_columns, num_words,
       num_planes);
    const Words<Int8Kind> words(kernels, num_words);
    Random random(static_cast<uint32_t>(num_words + num_rows));
    const PlacedRows placed(words.rows.data(), num_rows, num_words / num_planes, num_planes, 0, num_rows % 2, 0);
    const PackedWords packed(kernels, words.columns.data(), num_columns, num_words, 0);
    const size_t num_lanes = packed.view.num_lanes;
    Exact<float> row_terms(random.numbers(2 * num_rows)), shifts(random.numbers(num_lanes));
    for (size_t r = 0; r < num_rows; r += 5) row_terms[2 * r] = 0.0f;
    Exact<int32_t> offsets(num_lanes);
    // Differences of more than 24 bits, too: converting them rounds.
    for (int32_t& x : offsets)
        x = static_cast<int32_t>(random.below(1 << 10 << 2 * random.below(9))) - static_cast<int32_t>(random.below(99));
    Exact<float> best(num_lanes, -kInfinity);
    std::vector<float> expected(num_lanes, -kInfinity);
    if (num_lanes > 1) best[1] = expected[1] = 1e30f;
    kernels.fold_scaled(packed.view, placed.rows, num_rows, Ahead::none(words.rows.data()), row_terms.data(),
                        offsets.data(), shifts.data(), best.data());
    for (size_t r = 0; r < num_rows; ++r) {
        for (size_t c = 0; c < num_lanes; ++c) {
            const uint32_t* column = &words.columns[(c < num_columns ? c : kColumns) * num_words];
            const int32_t product = Int8Kind::product(kernels, &words.rows[r * num_words], column, num_words);
            const volatile float whole = static_cast<float>(product - offsets[c]);
            const volatile float scaled = whole * row_terms[2 * r], shift = shifts[c] * row_terms[2 * r + 1];
            expected[c] = std::max(expected[c], scaled + shift);
        }
    }
    CHECK("fold_scaled rounds every operation, in the order stated",  // == but for the sign of a zero
          std::equal(expected.begin(), expected.end(), best.begin()));
}

void check_rows_reaching(Isa isa) {
    const ProductKernels& kernels = product_kernels(isa);
    const size_t lanes = kernels.lanes;
    Random random(5);
    enum Choice { none, all, some, one_lane, lowest, highest, above_lowest };
    for (const size_t num_rows : std::vector<size_t>{0, 1, 2, 37}) {
        for (const size_t num_lanes : {lanes, 3 * lanes}) {
            for (const Choice choice : {none, all, some, one_lane, lowest, highest, above_lowest}) {
                at("isa %s, %zu rows, %zu lanes, choice %d", isa_name(isa), num_rows, num_lanes, int{choice});
                Exact<int32_t> products(num_rows ? (num_rows - 1) * num_lanes + lanes : 0, kGreatest);
                Exact<int32_t> thresholds(lanes);
                for (int32_t& x : thresholds) {
                    x = choice == none || choice == one_lane || choice == highest ? kGreatest
                        : choice == all || choice == lowest                       ? kLeast
                        : choice == above_lowest ? kLeast + 1
                                                 : static_cast<int32_t>(random.below(2000)) - 1000;
                }
                if (choice == one_lane) thresholds[random.below(lanes)] = -7;
                std::vector<uint32_t> expected;
                for (size_t r = 0; r < num_rows; ++r) {
                    bool reaches = false;
                    for (size_t c = 0; c < lanes; ++c) {
                        int32_t& x = products[r * num_lanes + c];
                        x = choice == lowest || choice == above_lowest ? kLeast
                            : choice == highest && r % 3 == 1 && c == r % lanes
                                ? kGreatest
                                : static_cast<int32_t>(random.below(2000)) - (choice == some ? 1900 : 1990);
                        reaches = reaches || x >= thresholds[c];
                    }
                    if (reaches) expected.push_back(static_cast<uint32_t>(r));
                }
                Exact<uint32_t> found(num_rows, 99);
                const size_t num_found =
                    kernels.rows_reaching(products.data(), num_rows, num_lanes, thresholds.data(), found.data());
                CHECK("rows_reaching names the rows with a product that is at least its threshold, in order",
                      num_found == expected.size() && std::equal(expected.begin(), expected.end(), found.begin()));
            }
        }
    }
}

void check_expand(Isa isa) {
    const ProductKernels& kernels = product_kernels(isa);
    Random random(6);
    Exact<uint8_t> levels(16);
    for (size_t i = 0; i < 16; ++i) levels[i] = static_cast<uint8_t>(17 * i);
    for (const unsigned bits : {8U, 4U, 2U, 1U}) {
        for (size_t num_bytes = 0; num_bytes <= 130; num_bytes += quick ? 13 : 1) {
            for (const size_t gap : std::vector<size_t>{0, 64, 192}) {
                const size_t least = (num_bytes * kernels.int8_bytes + 63) / 64 * 64, plane_bytes = least + gap;
                at("isa %s, %zu bytes of codes of %u bits, planes %zu bytes apart", isa_name(isa), num_bytes, bits,
                   plane_bytes);
                const size_t num_planes = 8 / bits, misalignment = gap / 64;
                Exact<uint8_t> codes(num_bytes + misalignment), out(num_planes * plane_bytes, uint8_t{0xee});
                for (uint8_t& code : codes) code = static_cast<uint8_t>(random.below(256));
                // Codes of 8 bits have no levels.
                kernels.expand(codes.data(), num_bytes, bits, bits == 8 ? nullptr : levels.data(), out.data(),
                               plane_bytes);
                bool holds = true;
                for (size_t plane = 0; plane < num_planes; ++plane) {
                    for (size_t i = 0; i < num_bytes; ++i) {
                        const unsigned code = codes[i] >> plane * bits & ((1U << bits) - 1);
                        const uint8_t level = bits == 8 ? static_cast<uint8_t>(code) : levels[code];
                        const uint8_t* number = out.data() + plane * plane_bytes + i * kernels.int8_bytes;
                        holds = holds && number[0] == static_cast<uint8_t>(level - kernels.int8_row_offset) &&
                                (kernels.int8_bytes == 1 || number[1] == 0);
                    }
                }
                CHECK("expand puts the level of code j of byte i at number i of plane j", holds);
            }
        }
    }
}

void check_bfloat16_to_float(Isa isa) {
    for (const size_t n : std::vector<size_t>{0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 70, 65536}) {
        at("isa %s, %zu numbers of bfloat16", isa_name(isa), n);
        Exact<uint16_t> numbers(n);
        for (size_t i = 0; i < n; ++i) numbers[i] = static_cast<uint16_t>(n < 65536 ? 977 * i : i);
        Exact<float> out(n);
        product_kernels(isa).bfloat16_to_float(numbers.data(), n, out.data());
        bool holds = true;
        for (size_t i = 0; i < n; ++i) {
            uint32_t bits;
            std::memcpy(&bits, out.data() + i, 4);
            holds = holds && bits == static_cast<uint32_t>(numbers[i]) << 16;
        }
        CHECK("bfloat16_to_float moves the bits up", holds);
    }
}

// Subnormal numbers may count as zero, and nothing else may happen to them.
void check_subnormal_bfloat16(Isa isa) {
    const ProductKernels& kernels = product_kernels(isa);
    if (!kernels.bfloat16.fold) return;
    at("isa %s", isa_name(isa));
    const uint32_t row = 0x00010040, column = 0x3f803f80;  // subnormal numbers times one
    const PackedWords packed(kernels, &column, 1, 1, 0);
    std::vector<float> best(packed.view.num_lanes, -kInfinity);
    kernels.bfloat16.fold(packed.view, {&row, 1, 1}, 1, Ahead::none(&row), best.data());
    CHECK("subnormal numbers of bfloat16 count as zero", best[0] == 0.0f);
}

}  // namespace

void test_words(Isa isa) {
    check_kind<Float32Kind>(isa);
    check_kind<Bfloat16Kind>(isa);
    check_kind<Int8Kind>(isa);
    check_kind<BitsKind>(isa);
    check_extremes(isa);
    check_subnormal_bfloat16(isa);
}

void test_fold_scaled(Isa isa) {
    for (const size_t num_words : std::vector<size_t>{8, 24, 136}) {
        for (const size_t num_planes : std::vector<size_t>{1, 2, 4, 8}) {
            if (quick && num_planes != num_words / 8) continue;
            for (const size_t num_rows : std::vector<size_t>{0, 1, 5, 12, 13, kRows})
                for (const size_t num_columns : std::vector<size_t>{1, 15, 17, 33, kColumns})
                    check_fold_scaled(isa, num_words, num_planes, num_rows, num_columns);
        }
    }
}

void test_expand(Isa isa) {
    check_expand(isa);
    check_bfloat16_to_float(isa);
}

void test_rows_reaching(Isa isa) { check_rows_reaching(isa); }

}  // namespace chamfer::testing
