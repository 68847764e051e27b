#include "features.hpp"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "target.hpp"

#if CHAMFER_X86
#include <immintrin.h>
#elif CHAMFER_ARM
#include <arm_neon.h>
#endif

namespace chamfer {
namespace {

// Kernels are pure: no allocation, no throw, no globals. No alignment is needed.
struct FeatureKernels {
    // sums[f] = (begins ? 0 : sums[f]) + Σ_r φ_f of products[r * stride + f], the rows in their order. Reads products
    // and center up to the next multiple of 16 of num_features.
    void (*add_features)(const float* products, size_t num_rows, size_t stride, const float* center,
                         size_t num_features, bool begins, float* sums);
    // out[r * out_stride + c] = (begins ? 0 : that number) + <rows[r], matrix[c]> over `length` numbers, in 16 partial
    // sums.
    using ProjectStretch = void (*)(const float* rows, size_t num_rows, size_t row_stride, const void* matrix,
                                    size_t matrix_stride, size_t num_columns, size_t length, bool begins, float* out,
                                    size_t out_stride);
    ProjectStretch project_floats, project_halves;
};

}  // namespace
}  // namespace chamfer

// ── scalar: the definition, in plain loops ──────────────────────────────────────────────────────────────

namespace chamfer::scalar {
namespace {

struct V {
    struct Reg {
        float lanes[16];
    };
    static constexpr size_t kRows = 1, kColumns = 1, kColumnsOfOneRow = 1;
    static Reg load(const float* p) {
        Reg x;
        std::copy_n(p, 16, x.lanes);
        return x;
    }
    static Reg load(const uint16_t* p) {
        Reg x;
        product_kernels(Isa::scalar).half_to_float(p, 16, x.lanes);
        return x;
    }
    static void store(float* p, const Reg& x) { std::copy_n(x.lanes, 16, p); }
    static Reg set(float x) {
        Reg all;
        std::fill_n(all.lanes, 16, x);
        return all;
    }
    template <class F>
    static Reg by_lane(Reg a, const Reg& b, F operation) {
        for (size_t j = 0; j < 16; ++j) a.lanes[j] = operation(a.lanes[j], b.lanes[j]);
        return a;
    }
    static Reg add(const Reg& a, const Reg& b) {
        return by_lane(a, b, [](float x, float y) { return x + y; });
    }
    static Reg subtract(const Reg& a, const Reg& b) {
        return by_lane(a, b, [](float x, float y) { return x - y; });
    }
    static Reg multiply(const Reg& a, const Reg& b) {
        return by_lane(a, b, [](float x, float y) { return x * y; });
    }
    static Reg min(const Reg& a, const Reg& b) {
        return by_lane(a, b, [](float x, float y) { return std::min(x, y); });
    }
    static Reg max(const Reg& a, const Reg& b) {
        return by_lane(a, b, [](float x, float y) { return std::max(x, y); });
    }
    static Reg multiply_add(const Reg& a, const Reg& b, const Reg& sum) { return add(sum, multiply(a, b)); }
    static float sum(Reg x) {
        for (size_t width = 8; width; width /= 2) {
            for (size_t j = 0; j < width; ++j) x.lanes[j] += x.lanes[j + width];
        }
        return x.lanes[0];
    }
};

#include "features_loops.inl"

}  // namespace
}  // namespace chamfer::scalar

// ── AVX2 ────────────────────────────────────────────────────────────────────────────────────────────────

#if CHAMFER_X86

CHAMFER_TARGET_BEGIN("avx2,fma,f16c,popcnt")
namespace chamfer::avx2 {
namespace {

struct V {
    struct Reg {
        __m256 low, high;
    };
    static constexpr size_t kRows = 3, kColumns = 2, kColumnsOfOneRow = 4;  // 12 accumulators of 16 registers
    static CHAMFER_INLINE Reg load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static CHAMFER_INLINE Reg load(const uint16_t* p) {
        const auto* halves = reinterpret_cast<const __m128i*>(p);
        return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
    }
    static CHAMFER_INLINE void store(float* p, Reg x) {
        _mm256_storeu_ps(p, x.low);
        _mm256_storeu_ps(p + 8, x.high);
    }
    static CHAMFER_INLINE Reg set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static CHAMFER_INLINE Reg add(Reg a, Reg b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
    static CHAMFER_INLINE Reg subtract(Reg a, Reg b) {
        return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
    }
    static CHAMFER_INLINE Reg multiply(Reg a, Reg b) {
        return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
    }
    static CHAMFER_INLINE Reg min(Reg a, Reg b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
    static CHAMFER_INLINE Reg max(Reg a, Reg b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
    static CHAMFER_INLINE Reg multiply_add(Reg a, Reg b, Reg sum) {
        return {_mm256_fmadd_ps(a.low, b.low, sum.low), _mm256_fmadd_ps(a.high, b.high, sum.high)};
    }
    static CHAMFER_INLINE float sum(Reg x) {
        const __m256 eight = _mm256_add_ps(x.low, x.high);
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
};

#include "features_loops.inl"

}  // namespace
}  // namespace chamfer::avx2
CHAMFER_TARGET_END

// ── AVX-512 ─────────────────────────────────────────────────────────────────────────────────────────────

CHAMFER_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace chamfer::avx512 {
namespace {

struct V {
    using Reg = __m512;
    static constexpr size_t kRows = 6, kColumns = 4, kColumnsOfOneRow = 4;  // 24 accumulators of 32 registers
    static CHAMFER_INLINE Reg load(const float* p) { return _mm512_loadu_ps(p); }
    static CHAMFER_INLINE Reg load(const uint16_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static CHAMFER_INLINE void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
    static CHAMFER_INLINE Reg set(float x) { return _mm512_set1_ps(x); }
    static CHAMFER_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
    static CHAMFER_INLINE Reg subtract(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
    static CHAMFER_INLINE Reg multiply(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
    static CHAMFER_INLINE Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
    static CHAMFER_INLINE Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
    static CHAMFER_INLINE Reg multiply_add(Reg a, Reg b, Reg sum) { return _mm512_fmadd_ps(a, b, sum); }
    static CHAMFER_INLINE float sum(Reg x) {
        const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
};

#include "features_loops.inl"

}  // namespace
}  // namespace chamfer::avx512
CHAMFER_TARGET_END

#endif

// ── NEON ────────────────────────────────────────────────────────────────────────────────────────────────

#if CHAMFER_ARM

namespace chamfer::neon {
namespace {

struct V {
    struct Reg {
        float32x4_t val[4];
    };
    static constexpr size_t kRows = 3, kColumns = 2, kColumnsOfOneRow = 4;  // 24 accumulators of 32 registers
    template <class F>
    static CHAMFER_INLINE Reg by_quarter(F operation) {
        return {{operation(0), operation(1), operation(2), operation(3)}};
    }
    static CHAMFER_INLINE Reg load(const float* p) {
        return by_quarter([=](size_t j) { return vld1q_f32(p + 4 * j); });
    }
    static CHAMFER_INLINE Reg load(const uint16_t* p) {
        return by_quarter([=](size_t j) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * j))); });
    }
    static CHAMFER_INLINE void store(float* p, const Reg& x) {
        CHAMFER_UNROLL
        for (size_t j = 0; j < 4; ++j) vst1q_f32(p + 4 * j, x.val[j]);
    }
    static CHAMFER_INLINE Reg set(float x) {
        return by_quarter([=](size_t) { return vdupq_n_f32(x); });
    }
    static CHAMFER_INLINE Reg add(const Reg& a, const Reg& b) {
        return by_quarter([&](size_t j) { return vaddq_f32(a.val[j], b.val[j]); });
    }
    static CHAMFER_INLINE Reg subtract(const Reg& a, const Reg& b) {
        return by_quarter([&](size_t j) { return vsubq_f32(a.val[j], b.val[j]); });
    }
    static CHAMFER_INLINE Reg multiply(const Reg& a, const Reg& b) {
        return by_quarter([&](size_t j) { return vmulq_f32(a.val[j], b.val[j]); });
    }
    static CHAMFER_INLINE Reg min(const Reg& a, const Reg& b) {
        return by_quarter([&](size_t j) { return vminq_f32(a.val[j], b.val[j]); });
    }
    static CHAMFER_INLINE Reg max(const Reg& a, const Reg& b) {
        return by_quarter([&](size_t j) { return vmaxq_f32(a.val[j], b.val[j]); });
    }
    static CHAMFER_INLINE Reg multiply_add(const Reg& a, const Reg& b, const Reg& sum) {
        return by_quarter([&](size_t j) { return vfmaq_f32(sum.val[j], a.val[j], b.val[j]); });
    }
    static CHAMFER_INLINE float sum(const Reg& x) {
        const float32x4_t four = vaddq_f32(vaddq_f32(x.val[0], x.val[2]), vaddq_f32(x.val[1], x.val[3]));
        const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        return vget_lane_f32(vpadd_f32(two, two), 0);
    }
};

#include "features_loops.inl"

}  // namespace
}  // namespace chamfer::neon

#endif

// ── the table, the loops over items and rows, and their threads ─────────────────────────────────────────

namespace chamfer {
namespace {

const FeatureKernels& feature_kernels(Isa isa) { CHAMFER_KERNELS_BY_REGISTERS(isa, kKernels) }

// The weights of a block, the vectors of a group and their products stay in L1: 39 KB of 96 dims. A task's blocks and
// vectors stay in L2.
constexpr size_t kBlockFeatures = 64, kGroupVectors = 24, kTaskBlocks = 8, kTaskVectors = 240;

// Many rows: a stretch of some rows of the matrix is copied as float32, 256 KB that stay in L2 while so many rows pass by
// that the copy costs little; the stretches of a tile stay in L1. Read where it lies, a matrix whose rows are a power of
// two apart would fall into few sets of the caches. Few rows: a few rows of the matrix are read side by side, from end to
// end.
constexpr size_t kStretch = 1024, kBlockRows = 960, kBlockColumns = 64, kColumnsAtOnce = 4, kRowsWorthACopy = 8;

constexpr size_t whole_registers(size_t numbers) { return (numbers + 15) / 16 * 16; }

}  // namespace

FeatureMap::FeatureMap(const float* weights, const float* center, size_t num_features, size_t dim, Isa isa)
    : num_features_(num_features),
      dim_(dim),
      isa_(isa),
      blocks_((num_features + kBlockFeatures - 1) / kBlockFeatures),
      center_(whole_registers(num_features)) {
    std::copy_n(center, num_features, center_.data());
    FloatBuffer padded;
    for (size_t b = 0; b < blocks_.size(); ++b) {
        const size_t size = std::min(kBlockFeatures, num_features - b * kBlockFeatures);
        padded.assign(whole_registers(size) * dim, 0.0f);
        std::copy_n(weights + b * kBlockFeatures * dim, size * dim, padded.data());
        blocks_[b].assign(product_kernels(isa), padded.data(), whole_registers(size), dim, 1, dim);
    }
}

// What one thread reuses from task to task.
struct FeatureMap::Worker {
    FloatBuffer vectors, products;
};

void FeatureMap::sum(const TokenVectors& items, const Threads& num_threads, float* out) const {
    assert(items.dim == dim_ && (items.dtype == Dtype::float32 || items.dtype == Dtype::float16));
    // A task is a few blocks of features, of items with a few hundred vectors together: one item is work for several
    // threads, and so are many short ones.
    std::vector<size_t> starts{0};
    for (size_t i = 0; i < items.size; ++i) {
        const int64_t vectors = items.offsets[i + 1] - items.offsets[starts.back()];
        if (i + 1 == items.size || static_cast<size_t>(vectors) >= kTaskVectors) starts.push_back(i + 1);
    }
    const size_t tasks_per_item = (blocks_.size() + kTaskBlocks - 1) / kTaskBlocks;
    const size_t num_tasks = (starts.size() - 1) * tasks_per_item;
    std::vector<std::unique_ptr<Worker>> workers(workers_for(num_tasks, num_threads.count));
    parallel_for(num_tasks, num_threads, [&](size_t worker, size_t task) {
        if (!workers[worker]) workers[worker] = std::make_unique<Worker>();
        const size_t stretch = task / tasks_per_item, first_block = task % tasks_per_item * kTaskBlocks;
        sum_items(items, starts[stretch], starts[stretch + 1], first_block,
                  std::min(first_block + kTaskBlocks, blocks_.size()), *workers[worker], out);
    });
}

void FeatureMap::sum_items(const TokenVectors& items, size_t first_item, size_t end_item, size_t first_block,
                           size_t end_block, Worker& worker, float* out) const {
    const ProductKernels& products = product_kernels(isa_);
    const FeatureKernels& features = feature_kernels(isa_);
    const auto offset = [&](size_t item) { return static_cast<size_t>(items.offsets[item]); };
    const size_t first_feature = first_block * kBlockFeatures,
                 end_feature = std::min(end_block * kBlockFeatures, num_features_);
    for (size_t i = first_item; i < end_item; ++i) {
        if (items.length(i) == 0)
            std::fill(out + i * num_features_ + first_feature, out + i * num_features_ + end_feature, 0.0f);
    }
    worker.products.resize(kGroupVectors * kBlockFeatures);
    size_t item_of_pass = first_item;
    for (size_t pass = offset(first_item); pass < offset(end_item); pass += kTaskVectors) {
        const size_t end_pass = std::min(pass + kTaskVectors, offset(end_item));
        const float* vectors = nullptr;
        if (items.dtype == Dtype::float16) {
            worker.vectors.resize(kTaskVectors * dim_);
            products.half_to_float(items.float16_rows(pass), (end_pass - pass) * dim_, worker.vectors.data());
            vectors = worker.vectors.data();
        } else {
            vectors = items.float32_rows(pass);
        }
        while (offset(item_of_pass + 1) <= pass) ++item_of_pass;
        for (size_t b = first_block; b < end_block; ++b) {
            const PackedColumns weights = blocks_[b].view();
            const size_t feature = b * kBlockFeatures, size = std::min(kBlockFeatures, num_features_ - feature);
            size_t item = item_of_pass;
            // A group takes vectors of as many items as it finds: the product knows no items.
            for (size_t group = pass; group < end_pass; group += kGroupVectors) {
                const size_t end_group = std::min(group + kGroupVectors, end_pass);
                products.multiply(weights, vectors + (group - pass) * dim_, end_group - group, dim_,
                                  worker.products.data());
                for (size_t vector = group; vector < end_group;) {
                    while (offset(item + 1) <= vector) ++item;
                    const size_t end = std::min(end_group, offset(item + 1));
                    features.add_features(worker.products.data() + (vector - group) * weights.num_lanes, end - vector,
                                          weights.num_lanes, center_.data() + feature, size, vector == offset(item),
                                          out + item * num_features_ + feature);
                    vector = end;
                }
            }
        }
    }
}

void project(const float* rows, size_t num_rows, size_t width, const void* matrix, Dtype dtype, size_t num_columns,
             const Threads& num_threads, Isa isa, float* out) {
    assert(width >= 1 && (dtype == Dtype::float32 || dtype == Dtype::float16));
    const FeatureKernels& kernels = feature_kernels(isa);
    const auto* floats = static_cast<const float*>(matrix);
    const auto* halves = static_cast<const uint16_t*>(matrix);
    const size_t num_blocks = (num_columns + kBlockColumns - 1) / kBlockColumns;
    const size_t num_tasks = (num_rows + kBlockRows - 1) / kBlockRows * num_blocks;
    std::vector<FloatBuffer> copies(workers_for(num_tasks, num_threads.count));
    parallel_for(num_tasks, num_threads, [&](size_t worker, size_t task) {
        const size_t row = task / num_blocks * kBlockRows, height = std::min(kBlockRows, num_rows - row);
        const size_t first = task % num_blocks * kBlockColumns, end = std::min(first + kBlockColumns, num_columns);
        const bool copied = height >= kRowsWorthACopy;
        const size_t step = copied ? kBlockColumns : kColumnsAtOnce;
        for (size_t column = first; column < end; column += step) {
            const size_t columns = std::min(step, end - column);
            for (size_t begin = 0; begin < width; begin += kStretch) {
                const size_t length = std::min(kStretch, width - begin), at = column * width + begin;
                const float* numbers = rows + row * width + begin;
                float* sums = out + row * num_columns + column;
                if (copied) {
                    FloatBuffer& copy = copies[worker];
                    copy.resize(kBlockColumns * kStretch);
                    for (size_t c = 0; c < columns; ++c) {
                        if (dtype == Dtype::float32) {
                            std::copy_n(floats + at + c * width, length, copy.data() + c * kStretch);
                        } else {
                            product_kernels(isa).half_to_float(halves + at + c * width, length,
                                                               copy.data() + c * kStretch);
                        }
                    }
                    kernels.project_floats(numbers, height, width, copy.data(), kStretch, columns, length, begin == 0,
                                           sums, num_columns);
                } else if (dtype == Dtype::float32) {
                    kernels.project_floats(numbers, height, width, floats + at, width, columns, length, begin == 0,
                                           sums, num_columns);
                } else {
                    kernels.project_halves(numbers, height, width, halves + at, width, columns, length, begin == 0,
                                           sums, num_columns);
                }
            }
        }
    });
}

}  // namespace chamfer
