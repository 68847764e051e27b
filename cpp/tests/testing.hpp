// What every test file uses: checks that say where they failed, and inputs that are the same everywhere.
//
// A test says at() what it is, then CHECKs. A claim that fails is printed with that situation, and the tests go on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <new>
#include <random>
#include <vector>

#include "isa.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define HEAP_BUFFERS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEAP_BUFFERS 1
#endif
#endif
#if defined(_WIN32)
#define HEAP_BUFFERS 1
#endif
#ifndef HEAP_BUFFERS
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace chamfer::testing {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity(),
                       kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr double kRounding = 0x1p-24;  // relative error of one float operation

inline bool quick = false;  // fewer shapes: --quick
inline size_t num_checks = 0, num_failures = 0;
inline char situation[256] = "start";

template <class... Values>
void at(const char* format, Values... values) {
    if constexpr (sizeof...(values) == 0) {
        std::snprintf(situation, sizeof situation, "%s", format);
    } else {
        std::snprintf(situation, sizeof situation, format, values...);
    }
}

inline void check(bool holds, const char* claim, const char* expression) {
    ++num_checks;
    if (holds || ++num_failures > 50) return;
    std::printf("FAILED: %s\n    at %s\n    %s\n", claim, situation, expression);
}
#define CHECK(claim, ...) ::chamfer::testing::check((__VA_ARGS__), claim, #__VA_ARGS__)

// ── inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

// An array that ends at a multiple of 64 bytes and where one element more is out of bounds: by AddressSanitizer's red
// zone, else by an unmapped page. The page also stops what AddressSanitizer does not see, such as GCC's broadcast
// loads.
template <class T>
class Exact {
public:
    explicit Exact(size_t n, T fill = T{}) : size_(n), bytes_((n * sizeof(T) + 63) / 64 * 64) {
#ifdef HEAP_BUFFERS
        base_ = static_cast<char*>(::operator new(bytes_, std::align_val_t{64}));
        data_ = reinterpret_cast<T*>(base_ + bytes_) - n;
#else
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        bytes_ = (bytes_ + page - 1) / page * page;
        auto& unused = pool()[bytes_];
        if (unused.empty()) {
            void* pages = mmap(nullptr, bytes_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (pages == MAP_FAILED) throw std::bad_alloc();
            unused.push_back(static_cast<char*>(pages));
            mprotect(unused.back() + bytes_, page, PROT_NONE);
        }
        base_ = unused.back();
        unused.pop_back();
        data_ = reinterpret_cast<T*>(base_ + bytes_) - n;
#endif
        std::fill(begin(), end(), fill);
    }
    explicit Exact(const std::vector<T>& values) : Exact(values.size()) {
        std::copy(values.begin(), values.end(), begin());
    }
    Exact(const Exact&) = delete;
    Exact& operator=(const Exact&) = delete;
    ~Exact() {
#ifdef HEAP_BUFFERS
        ::operator delete(base_, std::align_val_t{64});
#else
        pool()[bytes_].push_back(base_);
#endif
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    T* begin() { return data_; }
    T* end() { return data_ + size_; }
    const T* begin() const { return data_; }
    const T* end() const { return data_ + size_; }
    size_t size() const { return size_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }

private:
    static std::map<size_t, std::vector<char*>>& pool() {
        static std::map<size_t, std::vector<char*>> unused;
        return unused;
    }
    size_t size_, bytes_;
    char* base_;
    T* data_;
};

// Integer arithmetic on mt19937's words: the same numbers on every platform, as no std:: distribution would be.
class Random {
public:
    explicit Random(uint32_t seed) : words_(seed) {}
    size_t below(size_t n) { return words_() % n; }
    float number() { return static_cast<float>(static_cast<int32_t>(words_() >> 8) - (1 << 23)) * 0x1p-23f; }
    uint16_t half() { return static_cast<uint16_t>(words_() & 0xbbff); }  // any of magnitude below 2
    std::vector<float> numbers(size_t n) {
        std::vector<float> drawn(n);
        for (float& x : drawn) x = number();
        return drawn;
    }

private:
    std::mt19937 words_;
};

inline double half_value(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const double magnitude = exponent == 31  ? (fraction ? kNan : kInfinity)
                             : exponent == 0 ? std::ldexp(fraction, -24)
                                             : std::ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

template <class T>
bool same_bits(const T* a, const T* b, size_t n) {
    return n == 0 || std::memcmp(a, b, n * sizeof(T)) == 0;
}

// A dot product, and what each instruction set must make of it, to the bit.
struct Dot {
    double exact = 0.0, bound = 0.0;
    float fused = 0.0f, rounded = 0.0f;
    float by(Isa isa) const { return isa == Isa::scalar ? rounded : fused; }
};

inline Dot dot(const float* x, const float* y, size_t dim) {
    Dot result;
    for (size_t i = 0; i < dim; ++i) {
        const double product = static_cast<double>(x[i]) * static_cast<double>(y[i]);
        result.exact += product;
        result.bound += std::abs(product);
        result.fused = std::fma(x[i], y[i], result.fused);
        result.rounded += x[i] * y[i];
    }
    result.bound *= static_cast<double>(dim) * kRounding;
    return result;
}

inline bool within_bound(const Dot& d) {
    return std::abs(static_cast<double>(d.fused) - d.exact) <= d.bound &&
           std::abs(static_cast<double>(d.rounded) - d.exact) <= d.bound;
}

// ── the tests, by file ──────────────────────────────────────────────────────────────────────────────────────────────

// product_test.cpp
void test_products(const std::vector<Isa>& isas);
void test_sum_rows(Isa isa);
void test_half_to_float(Isa isa);

// words_test.cpp
void test_words(Isa isa);
void test_fold_scaled(Isa isa);
void test_rows_reaching(Isa isa);
void test_expand(Isa isa);

// codes_test.cpp
void test_to_bfloat16();
void test_codes();

// convert_test.cpp
void test_convert(Isa isa);
void test_convert_rows(Isa isa);

// maxsim_test.cpp
void test_maxsim(const std::vector<Isa>& isas);

// scorer_test.cpp
void test_storages(const std::vector<Isa>& isas);
void test_screen(const std::vector<Isa>& isas);

// fde_test.cpp
void test_fde(const std::vector<Isa>& isas);
void test_project_signs(Isa isa);
void test_google_encoding(Isa isa);
void test_random_streams();

// features_test.cpp
void test_sum_features(const std::vector<Isa>& isas);
void test_project(Isa isa);

// binary_test.cpp
void test_hamming(const std::vector<Isa>& isas);
void test_sdc(const std::vector<Isa>& isas);
void test_select(Isa isa);
void test_run_best();
void test_highest_first();

// small_parts_test.cpp
void test_peaks();
void test_topk();
void test_parallel_for();
void test_first_row_out_of_range();
void test_parse_isa();

}  // namespace chamfer::testing
