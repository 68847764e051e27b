// The loops of features.cpp, written once against `V`, 16 floats in the registers of one instruction set. It includes
// this file inside each target region, where V is defined.

// The first `left` < 16 numbers, zeros past them. Not inlined: a tile would hold many copies of it.
template <class Number>
V::Reg load_rest(const Number* numbers, size_t left) {
    Number rest[16] = {};
    for (size_t j = 0; j < left; ++j) rest[j] = numbers[j];
    return V::load(rest);
}

// h(z) - center, operations in the order of features.hpp.
CHAMFER_INLINE V::Reg feature(V::Reg product, V::Reg center) {
    const V::Reg t = V::min(V::max(V::multiply(product, V::set(0.4f)), V::set(-1.0f)), V::set(1.0f));
    const V::Reg slope = V::subtract(V::set(0.75f), V::multiply(V::multiply(t, t), V::set(0.25f)));
    const V::Reg gate = V::add(V::multiply(t, slope), V::set(0.5f));
    return V::subtract(V::multiply(gate, product), center);
}

// N registers of every row of products.
template <size_t N>
CHAMFER_INLINE void add_stretch(const float* products, size_t num_rows, size_t stride, const float* center,
                                V::Reg (&sums)[N]) {
    for (size_t r = 0; r < num_rows; ++r) {
        CHAMFER_UNROLL
        for (size_t j = 0; j < N; ++j) {
            const V::Reg product = V::load(products + r * stride + 16 * j);
            sums[j] = V::add(sums[j], feature(product, V::load(center + 16 * j)));
        }
    }
}

void add_features(const float* products, size_t num_rows, size_t stride, const float* center, size_t num_features,
                  bool begins, float* sums) {
    constexpr size_t N = 2;  // chains of additions enough to hide their latency behind the other operations
    size_t f = 0;
    for (; f + 16 * N <= num_features; f += 16 * N) {
        V::Reg of_features[N];
        CHAMFER_UNROLL
        for (size_t j = 0; j < N; ++j) of_features[j] = begins ? V::set(0.0f) : V::load(sums + f + 16 * j);
        add_stretch(products + f, num_rows, stride, center + f, of_features);
        CHAMFER_UNROLL
        for (size_t j = 0; j < N; ++j) V::store(sums + f + 16 * j, of_features[j]);
    }
    for (; f < num_features; f += 16) {
        const size_t left = num_features - f < 16 ? num_features - f : 16;
        V::Reg of_features[1] = {begins ? V::set(0.0f) : load_rest(sums + f, left)};
        add_stretch(products + f, num_rows, stride, center + f, of_features);
        float numbers[16];
        V::store(numbers, of_features[0]);
        for (size_t j = 0; j < left; ++j) sums[f + j] = numbers[j];
    }
}

// T rows × W columns of the result, of one stretch of the sum.
template <size_t T, size_t W, class Number>
void project_tile(const float* rows, size_t row_stride, const Number* matrix, size_t matrix_stride, size_t length,
                  bool begins, float* out, size_t out_stride) {
    V::Reg sums[T][W];
    CHAMFER_UNROLL
    for (size_t t = 0; t < T; ++t) {
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) sums[t][w] = V::set(0.0f);
    }
    size_t i = 0;
    for (; i + 16 <= length; i += 16) {
        V::Reg columns[W];
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) columns[w] = V::load(matrix + w * matrix_stride + i);
        CHAMFER_UNROLL
        for (size_t t = 0; t < T; ++t) {
            const V::Reg row = V::load(rows + t * row_stride + i);
            CHAMFER_UNROLL
            for (size_t w = 0; w < W; ++w) sums[t][w] = V::multiply_add(row, columns[w], sums[t][w]);
        }
    }
    if (i < length) {
        V::Reg columns[W];
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) columns[w] = load_rest(matrix + w * matrix_stride + i, length - i);
        CHAMFER_UNROLL
        for (size_t t = 0; t < T; ++t) {
            const V::Reg row = load_rest(rows + t * row_stride + i, length - i);
            CHAMFER_UNROLL
            for (size_t w = 0; w < W; ++w) sums[t][w] = V::multiply_add(row, columns[w], sums[t][w]);
        }
    }
    CHAMFER_UNROLL
    for (size_t t = 0; t < T; ++t) {
        CHAMFER_UNROLL
        for (size_t w = 0; w < W; ++w) {
            float& to = out[t * out_stride + w];
            to = (begins ? 0.0f : to) + V::sum(sums[t][w]);
        }
    }
}

// T rows and all columns. Meanwhile the next `next` rows are prefetched, a few lines beside each tile: rows that lie far
// apart begin a new page each, where the machine's own prefetcher starts anew.
template <size_t T, class Number>
void project_rows(const float* rows, size_t row_stride, const Number* matrix, size_t matrix_stride, size_t num_columns,
                  size_t length, size_t next, bool begins, float* out, size_t out_stride) {
    constexpr size_t W = T == 1 ? V::kColumnsOfOneRow : V::kColumns;
    const size_t lines_of_row = length / 16, lines = lines_of_row * next;
    const size_t lines_at_once = lines * W / num_columns + 1;
    size_t c = 0, line = 0;
    for (; c + W <= num_columns; c += W) {
        for (const size_t end = line + lines_at_once; line < end && line < lines; ++line)
            CHAMFER_PREFETCH(rows + (T + line / lines_of_row) * row_stride + line % lines_of_row * 16);
        project_tile<T, W>(rows, row_stride, matrix + c * matrix_stride, matrix_stride, length, begins, out + c,
                           out_stride);
    }
    for (; c < num_columns; ++c) {
        project_tile<T, 1>(rows, row_stride, matrix + c * matrix_stride, matrix_stride, length, begins, out + c,
                           out_stride);
    }
}

template <class Number>
void project_stretch(const float* rows, size_t num_rows, size_t row_stride, const void* matrix, size_t matrix_stride,
                     size_t num_columns, size_t length, bool begins, float* out, size_t out_stride) {
    const auto* numbers = static_cast<const Number*>(matrix);
    const auto project_next = [&]<size_t T>(std::integral_constant<size_t, T>) {
        const size_t left = num_rows - T, next = left < V::kRows ? left : V::kRows;
        project_rows<T>(rows, row_stride, numbers, matrix_stride, num_columns, length, next, begins, out, out_stride);
        rows += T * row_stride;
        out += T * out_stride;
        num_rows = left;
    };
    constexpr size_t kHalf = (V::kRows + 1) / 2;
    while (num_rows >= V::kRows) project_next(std::integral_constant<size_t, V::kRows>());
    while (num_rows >= kHalf) project_next(std::integral_constant<size_t, kHalf>());
    while (num_rows) project_next(std::integral_constant<size_t, 1>());
}

constexpr FeatureKernels kKernels{add_features, project_stretch<float>, project_stretch<uint16_t>};
