// Learned features and projections for Python.
#include "bindings.hpp"

#include <memory>

#include "features.hpp"
#include "isa.hpp"

namespace chamfer::bindings {
namespace {

std::unique_ptr<FeatureMap> make_feature_map(const Array<float>& weights, const Array<float>& center,
                                             const std::string& isa) {
    require(weights.ndim() == 2, "weights: expected shape (num_features, dim), got " + shape_of(weights));
    require(extent(weights, 0) >= 1 && extent(weights, 1) >= 1,
            "weights: expected at least one feature and one dimension, got " + shape_of(weights));
    require_contiguous(weights, "weights");
    require(center.ndim() == 1 && extent(center, 0) == extent(weights, 0),
            "center: expected shape (" + std::to_string(extent(weights, 0)) + ",), got " + shape_of(center));
    require_contiguous(center, "center");
    return std::make_unique<FeatureMap>(weights.data(), center.data(), extent(weights, 0), extent(weights, 1),
                                        parse_isa(isa, "isa"));
}

Array<float> sum_features(const FeatureMap& features, const Collection& items, int64_t num_threads) {
    const Threads threads = interruptible(num_threads);
    require(items.view.dtype == Dtype::float32 || items.view.dtype == Dtype::float16,
            "items: expected token vectors, got codes");
    require(items.view.dim == features.dim(), "items: expected vectors of dim " + std::to_string(features.dim()) +
                                                  ", got " + std::to_string(items.view.dim));
    auto sums = empty<float>({items.view.size, features.num_features()});
    float* out = sums.mutable_data();
    run_core([&] { features.sum(items.view, threads, out); });
    return sums;
}

Array<float> project(const Array<float>& rows, const py::array& matrix, const std::string& isa, int64_t num_threads) {
    const Threads threads = interruptible(num_threads);
    require(rows.ndim() == 2, "rows: expected a 2-D array, got " + shape_of(rows));
    require(matrix.ndim() == 2, "matrix: expected a 2-D array, got " + shape_of(matrix));
    const Dtype dtype = float_dtype(matrix, "matrix");
    const size_t num_rows = extent(rows, 0), width = extent(rows, 1), num_columns = extent(matrix, 0);
    require(width >= 1, "rows: expected at least one column");
    require(extent(matrix, 1) == width,
            "matrix: expected rows of " + std::to_string(width) + " numbers, got " + shape_of(matrix));
    require_contiguous(rows, "rows");
    require_contiguous(matrix, "matrix");
    const Isa level = parse_isa(isa, "isa");
    auto projected = empty<float>({num_rows, num_columns});
    const float* numbers = rows.data();
    const void* factors = matrix.data();
    float* out = projected.mutable_data();
    run_core([&] { chamfer::project(numbers, num_rows, width, factors, dtype, num_columns, threads, level, out); });
    return projected;
}

}  // namespace

void bind_features(py::module_& module) {
    py::class_<FeatureMap>(module, "FeatureMap")
        .def(py::init(&make_feature_map), "weights"_a.noconvert(), "center"_a.noconvert(), py::kw_only(), "isa"_a)
        .def("sum", &sum_features, "items"_a, py::kw_only(), "num_threads"_a);
    module.def("project", &project, "rows"_a.noconvert(), "matrix"_a.noconvert(), py::kw_only(), "isa"_a,
               "num_threads"_a);
}

}  // namespace chamfer::bindings
