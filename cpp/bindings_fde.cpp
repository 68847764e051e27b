// Fixed-dimensional encodings for Python.
#include "bindings.hpp"

#include <memory>
#include <optional>

#include "fde.hpp"
#include "isa.hpp"

namespace chamfer::bindings {
namespace {

FdeShape fde_shape(int64_t dim, int64_t num_repetitions, int64_t num_simhash_projections, int64_t projection_dimension,
                   bool fill, const std::string& layout) {
    require(num_simhash_projections >= 0 && num_simhash_projections <= 30,
            "num_simhash_projections: expected 0 to 30, got " + std::to_string(num_simhash_projections));
    require(projection_dimension >= 0, "projection_dimension: expected 0 (identity) or more");
    require(layout == "google" || layout == "paper", "layout: expected 'google' or 'paper', got '" + layout + "'");
    FdeShape shape{positive(dim, "dim"),
                   positive(num_repetitions, "num_repetitions"),
                   static_cast<size_t>(num_simhash_projections),
                   static_cast<size_t>(projection_dimension),
                   fill,
                   layout == "google"};
    // Each factor stays below 2^31, so the product of any two fits; the bound keeps every size in bytes far from
    // overflow.
    require(shape.dim < (size_t{1} << 31) && shape.num_repetitions < (size_t{1} << 31) &&
                shape.projection_dimension < (size_t{1} << 31),
            "dim, num_repetitions, projection_dimension: expected below 2^31");
    const double encoding = static_cast<double>(shape.num_repetitions) * static_cast<double>(shape.num_partitions()) *
                            static_cast<double>(shape.block_dimension());
    require(encoding <= static_cast<double>(size_t{1} << 31),
            "num_repetitions * 2^num_simhash_projections * projection_dimension: "
            "expected at most 2^31 numbers, got " +
                std::to_string(encoding));
    return shape;
}

py::tuple draw_fde_matrices(const std::string& layout, uint32_t seed, int64_t dim, int64_t num_repetitions,
                            int64_t num_simhash_projections, int64_t projection_dimension) {
    const auto shape = fde_shape(dim, num_repetitions, num_simhash_projections, projection_dimension, false, layout);
    auto simhash = empty<float>({shape.num_repetitions, shape.num_simhash_projections, shape.dim});
    auto projections = empty<float>({shape.num_repetitions, shape.projection_dimension, shape.dim});
    const auto draw = shape.gray_order ? chamfer::draw_google_matrices : chamfer::draw_paper_matrices;
    float *out_simhash = simhash.mutable_data(), *out_projections = projections.mutable_data();
    {
        const py::gil_scoped_release release;
        draw(shape, seed, out_simhash, out_projections);
    }
    return py::make_tuple(simhash, projections);
}

py::tuple draw_count_sketch(uint32_t seed, int64_t num_coordinates, int64_t final_projection_dimension) {
    require(final_projection_dimension >= 1 && final_projection_dimension < (int64_t{1} << 31),
            "final_projection_dimension: expected 1 to 2^31 - 1");
    auto columns = empty<int32_t>({positive(num_coordinates, "num_coordinates")});
    auto signs = empty<float>({extent(columns, 0)});
    int32_t* out_columns = columns.mutable_data();
    float* out_signs = signs.mutable_data();
    const size_t size = extent(columns, 0);
    {
        const py::gil_scoped_release release;
        chamfer::draw_count_sketch(seed, size, static_cast<uint32_t>(final_projection_dimension), out_columns,
                                   out_signs);
    }
    return py::make_tuple(columns, signs);
}

Array<uint8_t> draw_final_bits(uint32_t seed, int64_t num_coordinates, int64_t final_projection_dimension) {
    const size_t final_size = positive(final_projection_dimension, "final_projection_dimension");
    auto bits = empty<uint8_t>({positive(num_coordinates, "num_coordinates"), (final_size + 7) / 8});
    uint8_t* out = bits.mutable_data();
    const size_t size = extent(bits, 0);
    const py::gil_scoped_release release;
    chamfer::draw_final_bits(seed, size, final_size, out);
    return bits;
}

std::unique_ptr<FdeEncoder> make_fde_encoder(const std::string& layout, const Array<float>& simhash,
                                             const Array<float>& projections, bool fill_empty_partitions,
                                             const std::optional<Array<int32_t>>& sketch_columns,
                                             const std::optional<Array<float>>& sketch_signs,
                                             int64_t final_projection_dimension, const std::string& isa) {
    require(simhash.ndim() == 3 && projections.ndim() == 3, "simhash, projections: expected 3-D arrays");
    require_contiguous(simhash, "simhash");
    require_contiguous(projections, "projections");
    const auto shape = fde_shape(simhash.shape(2), simhash.shape(0), simhash.shape(1), projections.shape(1),
                                 fill_empty_partitions, layout);
    require(extent(projections, 0) == shape.num_repetitions && extent(projections, 2) == shape.dim,
            "projections: expected shape (" + std::to_string(shape.num_repetitions) + ", p, " +
                std::to_string(shape.dim) + "), got " + shape_of(projections));
    require(final_projection_dimension >= 0, "final_projection_dimension: expected 0 (none) or more");
    if (final_projection_dimension) {
        require(sketch_columns && sketch_signs && extent(*sketch_columns, 0) == shape.encoding_dimension() &&
                    extent(*sketch_signs, 0) == shape.encoding_dimension() && sketch_columns->ndim() == 1 &&
                    sketch_signs->ndim() == 1,
                "sketch_columns, sketch_signs: expected shape (" + std::to_string(shape.encoding_dimension()) + ",)");
        require_contiguous(*sketch_columns, "sketch_columns");
        require_contiguous(*sketch_signs, "sketch_signs");
        for (size_t i = 0; i < shape.encoding_dimension(); ++i) {
            const int32_t column = sketch_columns->data()[i];
            if (column < 0 || column >= final_projection_dimension) {
                fail("sketch_columns: expected 0 to final_projection_dimension - 1, got " + std::to_string(column));
            }
        }
    }
    return std::make_unique<FdeEncoder>(shape, simhash.data(), projections.data(),
                                        final_projection_dimension ? sketch_columns->data() : nullptr,
                                        final_projection_dimension ? sketch_signs->data() : nullptr,
                                        static_cast<size_t>(final_projection_dimension), parse_isa(isa, "isa"));
}

TokenVectors fde_items(const FdeEncoder& encoder, const py::array& vectors, const Array<int64_t>& offsets,
                       const std::optional<Array<float>>& mean, bool documents) {
    const auto items = token_vectors(vectors, offsets, documents ? "documents" : "queries");
    require(items.dim == encoder.shape().dim,
            "vectors: expected dim " + std::to_string(encoder.shape().dim) + ", got " + std::to_string(items.dim));
    if (mean) {
        require_contiguous(*mean, "mean");
        require(mean->ndim() == 1 && extent(*mean, 0) == items.dim,
                "mean: expected shape (" + std::to_string(items.dim) + ",)");
    }
    return items;
}

FdeEncoder::Side fde_side(bool documents) { return documents ? FdeEncoder::Side::document : FdeEncoder::Side::query; }

// New arrays for rows, and for their scales or None.
struct NewRows {
    RowsOut out;
    py::array rows;
    py::object scales = py::none();
};

NewRows new_rows(const std::string& output, size_t num_rows, size_t width) {
    if (output == "float32") {
        auto rows = empty<float>({num_rows, width});
        return {{RowFormat::float32, width, rows.mutable_data(), nullptr}, rows};
    }
    if (output == "float16") {
        py::array rows(py::dtype("float16"), std::vector<size_t>{num_rows, width});
        return {{RowFormat::float16, width, rows.mutable_data(), nullptr}, rows};
    }
    if (output == "int8") {
        auto rows = empty<int8_t>({num_rows, width});
        auto scales = empty<float>({num_rows});
        return {{RowFormat::int8, width, rows.mutable_data(), scales.mutable_data()}, rows, scales};
    }
    require(output == "bits", "output: expected 'float32', 'float16', 'int8' or 'bits', got '" + output + "'");
    auto rows = empty<uint8_t>({num_rows, (width + 7) / 8});
    return {{RowFormat::bits, width, rows.mutable_data(), nullptr}, rows};
}

py::tuple fde_encode(const FdeEncoder& encoder, const py::array& vectors, const Array<int64_t>& offsets,
                     const std::optional<Array<float>>& mean, bool documents, const std::string& output,
                     int64_t num_threads) {
    const auto items = fde_items(encoder, vectors, offsets, mean, documents);
    const Threads threads = interruptible(num_threads);
    const NewRows encodings = new_rows(output, items.size, encoder.output_dimension());
    const float* mean_data = mean ? mean->data() : nullptr;
    int64_t too_large = -1;
    run_core([&] { too_large = encoder.encode(items, mean_data, fde_side(documents), threads, encodings.out); });
    return py::make_tuple(encodings.rows, encodings.scales, too_large);
}

py::tuple fde_encode_sparse(const FdeEncoder& encoder, const py::array& vectors, const Array<int64_t>& offsets,
                            const std::optional<Array<float>>& mean, bool documents, int64_t num_threads) {
    require(!encoder.has_final_projection(), "encode_sparse: expected an encoder without final projection");
    const auto items = fde_items(encoder, vectors, offsets, mean, documents);
    const Threads threads = interruptible(num_threads);
    auto out_offsets = empty<int64_t>({items.size + 1});
    Array<float> values;
    Array<int32_t> indices;
    const float* mean_data = mean ? mean->data() : nullptr;
    int64_t* out = out_offsets.mutable_data();
    run_core([&] {
        encoder.encode_sparse(items, mean_data, fde_side(documents), threads, out, [&](size_t size) {
            const py::gil_scoped_acquire acquire;
            values = empty<float>({size});
            indices = empty<int32_t>({size});
            return FdeEncoder::SparseArrays(values.mutable_data(), indices.mutable_data());
        });
    });
    return py::make_tuple(values, indices, out_offsets);
}

py::tuple convert_rows(const Array<float>& rows, const std::string& output, int64_t num_threads,
                       const std::string& isa) {
    const Threads threads = interruptible(num_threads);
    require(rows.ndim() == 2, "rows: expected a 2-D array");
    require_contiguous(rows, "rows");
    const Isa level = parse_isa(isa, "isa");
    const size_t num_rows = extent(rows, 0);
    const NewRows converted = new_rows(output, num_rows, extent(rows, 1));
    const float* numbers = rows.data();
    int64_t too_large = -1;
    run_core([&] { too_large = chamfer::convert_rows(numbers, num_rows, threads, level, converted.out); });
    return py::make_tuple(converted.rows, converted.scales, too_large);
}

Array<float> project_signs(const Array<float>& encodings, const Array<uint8_t>& final_bits,
                           int64_t final_projection_dimension, int64_t num_threads, const std::string& isa) {
    const size_t final_size = positive(final_projection_dimension, "final_projection_dimension");
    const Threads threads = interruptible(num_threads);
    require(encodings.ndim() == 2 && final_bits.ndim() == 2, "encodings, final_bits: expected 2-D arrays");
    require(extent(encodings, 1) >= 1, "encodings: expected at least one column");
    require_contiguous(encodings, "encodings");
    require_contiguous(final_bits, "final_bits");
    require(extent(final_bits, 0) == extent(encodings, 1) && extent(final_bits, 1) == (final_size + 7) / 8,
            "final_bits: expected shape (" + std::to_string(extent(encodings, 1)) + ", " +
                std::to_string((final_size + 7) / 8) + "), got " + shape_of(final_bits));
    const Isa level = parse_isa(isa, "isa");
    auto projected = empty<float>({extent(encodings, 0), final_size});
    const float* rows = encodings.data();
    const uint8_t* bits = final_bits.data();
    float* out = projected.mutable_data();
    const size_t num_rows = extent(encodings, 0), width = extent(encodings, 1);
    run_core([&] { chamfer::project_signs(rows, num_rows, width, bits, final_size, threads, level, out); });
    return projected;
}

}  // namespace

void bind_fde(py::module_& module) {
    module.def("draw_fde_matrices", &draw_fde_matrices, "layout"_a, "seed"_a, py::kw_only(), "dim"_a,
               "num_repetitions"_a, "num_simhash_projections"_a, "projection_dimension"_a);
    module.def("draw_count_sketch", &draw_count_sketch, "seed"_a, "num_coordinates"_a, "final_projection_dimension"_a);
    module.def("draw_final_bits", &draw_final_bits, "seed"_a, "num_coordinates"_a, "final_projection_dimension"_a);
    module.def("project_signs", &project_signs, "encodings"_a.noconvert(), "final_bits"_a.noconvert(),
               "final_projection_dimension"_a, py::kw_only(), "num_threads"_a, "isa"_a);
    module.def("convert_rows", &convert_rows, "rows"_a.noconvert(), py::kw_only(), "output"_a, "num_threads"_a,
               "isa"_a);
    py::class_<FdeEncoder>(module, "FdeEncoder")
        .def(py::init(&make_fde_encoder), py::kw_only(), "layout"_a, "simhash"_a.noconvert(),
             "projections"_a.noconvert(), "fill_empty_partitions"_a, "sketch_columns"_a.noconvert() = py::none(),
             "sketch_signs"_a.noconvert() = py::none(), "final_projection_dimension"_a = 0, "isa"_a)
        .def_property_readonly("output_dimension", &FdeEncoder::output_dimension)
        .def("encode", &fde_encode, "vectors"_a.noconvert(), "offsets"_a.noconvert(), py::kw_only(),
             "mean"_a.noconvert() = py::none(), "documents"_a, "output"_a = "float32", "num_threads"_a)
        .def("encode_sparse", &fde_encode_sparse, "vectors"_a.noconvert(), "offsets"_a.noconvert(), py::kw_only(),
             "mean"_a.noconvert() = py::none(), "documents"_a, "num_threads"_a);
}

}  // namespace chamfer::bindings
