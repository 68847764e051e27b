// The Python module chamfer._core: memory safety checked, the GIL released, one call into the core; no arithmetic.
//
// Types, finiteness and everything that deserves a sentence for the user are checked in Python before; whoever calls
// this module directly still cannot make it read or write outside an array. Arrays are bound without conversion:
// nothing is copied in silence.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "fde.hpp"
#include "isa.hpp"
#include "maxsim.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

// For a check that is made once a call: `message` is made whether it is needed or not.
void require(bool condition, const std::string& message) {
    if (!condition) fail(message);
}

std::string shape_of(const py::array& array) {
    std::string text = "(";
    for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
    return text + ")";
}

size_t extent(const py::array& array, py::ssize_t axis) { return static_cast<size_t>(array.shape(axis)); }

void require_contiguous(const py::array& array, const std::string& name) {
    require((array.flags() & py::array::c_style) != 0, name + ": expected a C-contiguous array");
    require(reinterpret_cast<uintptr_t>(array.data()) % static_cast<uintptr_t>(array.itemsize()) == 0,
            name + ": expected aligned memory");
}

chamfer::Dtype float_dtype(const py::array& array, const std::string& name) {
    if (py::isinstance<py::array_t<float>>(array)) return chamfer::Dtype::float32;
    const py::dtype dtype = array.dtype();
    if (dtype.kind() == 'f' && dtype.itemsize() == 2 && dtype.byteorder() == '=') return chamfer::Dtype::float16;
    throw py::type_error(name + ": expected float32 or float16, got " + py::str(array.dtype()).cast<std::string>());
}

chamfer::TokenVectors token_vectors(const py::array& vectors, const Array<int64_t>& offsets, const std::string& name) {
    require(vectors.ndim() == 2, name + ": expected shape (num_tokens, dim), got " + shape_of(vectors));
    require(offsets.ndim() == 1 && offsets.size() >= 1,
            name + ": offsets must have shape (n + 1,), got " + shape_of(offsets));
    const chamfer::Dtype dtype = float_dtype(vectors, name);
    require_contiguous(vectors, name);
    require_contiguous(offsets, name + " offsets");
    const int64_t* values = offsets.data();
    const size_t size = extent(offsets, 0) - 1;
    require(values[0] == 0, name + ": offsets must start at 0, got " + std::to_string(values[0]));
    for (size_t i = 0; i < size; ++i) {
        if (values[i] > values[i + 1]) fail(name + ": offsets must not decrease, at " + std::to_string(i + 1));
    }
    require(values[size] == vectors.shape(0), name + ": offsets must end at " + std::to_string(vectors.shape(0)) +
                                                  ", got " + std::to_string(values[size]));
    return {vectors.data(), dtype, values, size, extent(vectors, 1)};
}

size_t positive(int64_t value, const char* name) {
    require(value >= 1, std::string(name) + ": expected at least 1, got " + std::to_string(value));
    return static_cast<size_t>(value);
}

// Ctrl-C and other signals: Python's handlers run in the calling thread, every tenth of a second at most. The error that
// one raises waits in the thread while `Interrupted` unwinds the core.
struct Interrupted {};

class InterruptiblePoll {
public:
    void operator()() {
        const auto now = std::chrono::steady_clock::now();
        if (now < next_) return;
        next_ = now + std::chrono::milliseconds(100);
        const py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw Interrupted();
    }

private:
    std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
};

chamfer::Threads interruptible(int64_t num_threads) {
    return {positive(num_threads, "num_threads"), InterruptiblePoll()};
}

// Runs a call of the core without the GIL.
template <class F>
void run_core(F&& call) {
    try {
        const py::gil_scoped_release release;
        call();
    } catch (const Interrupted&) {
        throw py::error_already_set();
    }
}

template <class T>
Array<T> empty(std::initializer_list<size_t> shape) {
    return Array<T>(std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

// ── MaxSim ──────────────────────────────────────────────────────────────────────────────────────────────

chamfer::MaxSimInput maxsim_input(const py::array& query_vectors, const Array<int64_t>& query_offsets,
                                  const py::array& vectors, const Array<int64_t>& offsets,
                                  const std::optional<Array<float>>& weights, int64_t num_threads,
                                  const std::string& isa) {
    chamfer::MaxSimInput input{token_vectors(query_vectors, query_offsets, "queries"),
                               token_vectors(vectors, offsets, "documents"), nullptr, interruptible(num_threads),
                               chamfer::parse_isa(isa, "isa")};
    require(input.queries.dtype == chamfer::Dtype::float32, "queries: expected float32");
    require(input.queries.dim == input.documents.dim, "queries: expected dim " + std::to_string(input.documents.dim) +
                                                          " as the documents, got " +
                                                          std::to_string(input.queries.dim));
    if (weights) {
        require_contiguous(*weights, "query_weights");
        require(weights->ndim() == 1 && extent(*weights, 0) == input.queries.num_tokens(),
                "query_weights: expected shape (" + std::to_string(input.queries.num_tokens()) + ",), got " +
                    shape_of(*weights));
        input.query_weights = weights->data();
    }
    return input;
}

size_t check_candidates(const Array<int64_t>& candidates, const chamfer::MaxSimInput& input) {
    require_contiguous(candidates, "candidates");
    require(candidates.ndim() == 2 && extent(candidates, 0) == input.queries.size,
            "candidates: expected shape (" + std::to_string(input.queries.size) + ", m), got " + shape_of(candidates));
    const int64_t* rows = candidates.data();
    const auto num_documents = static_cast<int64_t>(input.documents.size);
    for (py::ssize_t i = 0; i < candidates.size(); ++i) {
        if (rows[i] < -1 || rows[i] >= num_documents) {
            fail("candidates: rows must be -1 (none) or below " + std::to_string(num_documents) + ", got " +
                 std::to_string(rows[i]));
        }
    }
    return extent(candidates, 1);
}

Array<float> maxsim(const py::array& query_vectors, const Array<int64_t>& query_offsets, const py::array& vectors,
                    const Array<int64_t>& offsets, const std::optional<Array<float>>& weights,
                    const std::optional<Array<int64_t>>& candidates, int64_t num_threads, const std::string& isa) {
    const auto input = maxsim_input(query_vectors, query_offsets, vectors, offsets, weights, num_threads, isa);
    const size_t width = candidates ? check_candidates(*candidates, input) : input.documents.size;
    auto scores = empty<float>({input.queries.size, width});
    float* out = scores.mutable_data();
    const int64_t* rows = candidates ? candidates->data() : nullptr;
    run_core([&] {
        if (rows) {
            chamfer::maxsim_candidates(input, rows, width, out);
        } else {
            chamfer::maxsim(input, out);
        }
    });
    return scores;
}

py::tuple maxsim_topk(const py::array& query_vectors, const Array<int64_t>& query_offsets, const py::array& vectors,
                      const Array<int64_t>& offsets, int64_t k, const std::optional<Array<float>>& weights,
                      const std::optional<Array<int64_t>>& candidates, int64_t num_threads, const std::string& isa) {
    const auto input = maxsim_input(query_vectors, query_offsets, vectors, offsets, weights, num_threads, isa);
    const size_t num_best = positive(k, "k"), width = candidates ? check_candidates(*candidates, input) : 0;
    auto scores = empty<float>({input.queries.size, num_best});
    auto rows = empty<int64_t>({input.queries.size, num_best});
    float* out_scores = scores.mutable_data();
    int64_t* out_rows = rows.mutable_data();
    const int64_t* candidate_rows = candidates ? candidates->data() : nullptr;
    run_core([&] {
        if (candidate_rows) {
            chamfer::maxsim_topk_candidates(input, candidate_rows, width, num_best, out_scores, out_rows);
        } else {
            chamfer::maxsim_topk(input, num_best, out_scores, out_rows);
        }
    });
    return py::make_tuple(scores, rows);
}

py::tuple maxsim_alignment(const py::array& query, const py::array& document, const std::string& isa) {
    require(query.ndim() == 2 && document.ndim() == 2, "query, document: expected shape (num_tokens, dim)");
    auto query_offsets = empty<int64_t>({2}), offsets = empty<int64_t>({2});
    query_offsets.mutable_at(0) = offsets.mutable_at(0) = 0;
    query_offsets.mutable_at(1) = query.shape(0);
    offsets.mutable_at(1) = document.shape(0);
    const auto input = maxsim_input(query, query_offsets, document, offsets, std::nullopt, 1, isa);
    auto similarities = empty<float>({input.queries.num_tokens()});
    auto tokens = empty<int64_t>({input.queries.num_tokens()});
    float* out_similarities = similarities.mutable_data();
    int64_t* out_tokens = tokens.mutable_data();
    float score = 0.0f;
    {
        const py::gil_scoped_release release;
        score = chamfer::maxsim_alignment(input, out_similarities, out_tokens);
    }
    return py::make_tuple(score, similarities, tokens);
}

// ── fixed-dimensional encodings ─────────────────────────────────────────────────────────────────────────

chamfer::FdeShape fde_shape(int64_t dim, int64_t num_repetitions, int64_t num_simhash_projections,
                            int64_t projection_dimension, bool fill, const std::string& layout) {
    require(num_simhash_projections >= 0 && num_simhash_projections <= 30,
            "num_simhash_projections: expected 0 to 30, got " + std::to_string(num_simhash_projections));
    require(projection_dimension >= 0, "projection_dimension: expected 0 (identity) or more");
    require(layout == "google" || layout == "paper", "layout: expected 'google' or 'paper', got '" + layout + "'");
    chamfer::FdeShape shape{positive(dim, "dim"),
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

std::unique_ptr<chamfer::FdeEncoder> make_fde_encoder(const std::string& layout, const Array<float>& simhash,
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
    return std::make_unique<chamfer::FdeEncoder>(
        shape, simhash.data(), projections.data(), final_projection_dimension ? sketch_columns->data() : nullptr,
        final_projection_dimension ? sketch_signs->data() : nullptr, static_cast<size_t>(final_projection_dimension),
        chamfer::parse_isa(isa, "isa"));
}

Array<float> fde_encode(const chamfer::FdeEncoder& encoder, const py::array& vectors, const Array<int64_t>& offsets,
                        const std::optional<Array<float>>& mean, bool documents, int64_t num_threads) {
    const auto items = token_vectors(vectors, offsets, documents ? "documents" : "queries");
    require(items.dim == encoder.shape().dim,
            "vectors: expected dim " + std::to_string(encoder.shape().dim) + ", got " + std::to_string(items.dim));
    if (mean) {
        require_contiguous(*mean, "mean");
        require(mean->ndim() == 1 && extent(*mean, 0) == items.dim,
                "mean: expected shape (" + std::to_string(items.dim) + ",)");
    }
    const chamfer::Threads threads = interruptible(num_threads);
    auto encodings = empty<float>({items.size, encoder.output_dimension()});
    float* out = encodings.mutable_data();
    const float* mean_data = mean ? mean->data() : nullptr;
    run_core([&] {
        (encoder.*(documents ? &chamfer::FdeEncoder::encode_documents : &chamfer::FdeEncoder::encode_queries))(
            items, mean_data, threads, out);
    });
    return encodings;
}

Array<float> project_signs(const Array<float>& encodings, const Array<uint8_t>& final_bits,
                           int64_t final_projection_dimension, int64_t num_threads, const std::string& isa) {
    const size_t final_size = positive(final_projection_dimension, "final_projection_dimension");
    const chamfer::Threads threads = interruptible(num_threads);
    require(encodings.ndim() == 2 && final_bits.ndim() == 2, "encodings, final_bits: expected 2-D arrays");
    require(extent(encodings, 1) >= 1, "encodings: expected at least one column");
    require_contiguous(encodings, "encodings");
    require_contiguous(final_bits, "final_bits");
    require(extent(final_bits, 0) == extent(encodings, 1) && extent(final_bits, 1) == (final_size + 7) / 8,
            "final_bits: expected shape (" + std::to_string(extent(encodings, 1)) + ", " +
                std::to_string((final_size + 7) / 8) + "), got " + shape_of(final_bits));
    const chamfer::Isa level = chamfer::parse_isa(isa, "isa");
    auto projected = empty<float>({extent(encodings, 0), final_size});
    const float* rows = encodings.data();
    const uint8_t* bits = final_bits.data();
    float* out = projected.mutable_data();
    const size_t num_rows = extent(encodings, 0), width = extent(encodings, 1);
    run_core([&] { chamfer::project_signs(rows, num_rows, width, bits, final_size, threads, level, out); });
    return projected;
}

// ── input checks that would need a temporary array in NumPy ─────────────────────────────────────────────

int64_t first_row_out_of_range(const py::array& vectors, int64_t num_threads) {
    require(vectors.ndim() == 2, "vectors: expected shape (num_tokens, dim), got " + shape_of(vectors));
    require_contiguous(vectors, "vectors");
    const chamfer::Dtype dtype = float_dtype(vectors, "vectors");
    const size_t num_rows = extent(vectors, 0), dim = extent(vectors, 1),
                 threads = positive(num_threads, "num_threads");
    const void* data = vectors.data();
    const py::gil_scoped_release release;
    return chamfer::first_row_out_of_range(data, dtype, num_rows, dim, threads);
}

}  // namespace

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
    module.doc() = "The compiled core of chamfer. Its functions check memory safety only: use the package's own.";
    module.attr("__version__") = CHAMFER_VERSION;
#ifdef NDEBUG
    module.attr("ASSERTIONS") = false;
#else
    module.attr("ASSERTIONS") = true;
#endif

    module.def("available_isas", [] {
        std::vector<std::string> names;
        for (const auto isa : chamfer::available_isas()) names.emplace_back(chamfer::isa_name(isa));
        return names;
    });
    module.def(
        "check_isa",
        [](const std::string& name, const std::string& argument) { chamfer::parse_isa(name, argument.c_str()); },
        "name"_a, "argument"_a);
    module.def("first_row_out_of_range", &first_row_out_of_range, "vectors"_a.noconvert(), "num_threads"_a);

    module.def("maxsim", &maxsim, "query_vectors"_a.noconvert(), "query_offsets"_a.noconvert(), "vectors"_a.noconvert(),
               "offsets"_a.noconvert(), py::kw_only(), "query_weights"_a.noconvert() = py::none(),
               "candidates"_a.noconvert() = py::none(), "num_threads"_a, "isa"_a);
    module.def("maxsim_topk", &maxsim_topk, "query_vectors"_a.noconvert(), "query_offsets"_a.noconvert(),
               "vectors"_a.noconvert(), "offsets"_a.noconvert(), "k"_a, py::kw_only(),
               "query_weights"_a.noconvert() = py::none(), "candidates"_a.noconvert() = py::none(), "num_threads"_a,
               "isa"_a);
    module.def("maxsim_alignment", &maxsim_alignment, "query"_a.noconvert(), "document"_a.noconvert(), py::kw_only(),
               "isa"_a);

    module.def("draw_fde_matrices", &draw_fde_matrices, "layout"_a, "seed"_a, py::kw_only(), "dim"_a,
               "num_repetitions"_a, "num_simhash_projections"_a, "projection_dimension"_a);
    module.def("draw_count_sketch", &draw_count_sketch, "seed"_a, "num_coordinates"_a, "final_projection_dimension"_a);
    module.def("draw_final_bits", &draw_final_bits, "seed"_a, "num_coordinates"_a, "final_projection_dimension"_a);
    module.def("project_signs", &project_signs, "encodings"_a.noconvert(), "final_bits"_a.noconvert(),
               "final_projection_dimension"_a, py::kw_only(), "num_threads"_a, "isa"_a);
    py::class_<chamfer::FdeEncoder>(module, "FdeEncoder")
        .def(py::init(&make_fde_encoder), py::kw_only(), "layout"_a, "simhash"_a.noconvert(),
             "projections"_a.noconvert(), "fill_empty_partitions"_a, "sketch_columns"_a.noconvert() = py::none(),
             "sketch_signs"_a.noconvert() = py::none(), "final_projection_dimension"_a = 0, "isa"_a)
        .def_property_readonly("output_dimension", &chamfer::FdeEncoder::output_dimension)
        .def("encode", &fde_encode, "vectors"_a.noconvert(), "offsets"_a.noconvert(), py::kw_only(),
             "mean"_a.noconvert() = py::none(), "documents"_a, "num_threads"_a);
}
