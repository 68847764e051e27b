// Collections of token vectors and of their codes, for Python.
#include "bindings.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "codes.hpp"

namespace chamfer::bindings {
namespace {

std::shared_ptr<const std::vector<int64_t>> copied_offsets(const Array<int64_t>& offsets, py::ssize_t num_rows) {
    require(offsets.ndim() == 1 && offsets.size() >= 1, "offsets: expected shape (n + 1,), got " + shape_of(offsets));
    require_contiguous(offsets, "offsets");
    const auto size = static_cast<size_t>(offsets.size());
    auto copy = std::make_shared<std::vector<int64_t>>(offsets.data(), offsets.data() + size);
    const std::vector<int64_t>& values = *copy;
    require(values[0] == 0, "offsets: expected to start at 0, got " + std::to_string(values[0]));
    for (size_t i = 0; i + 1 < size; ++i) {
        if (values[i] > values[i + 1]) fail("offsets: expected never to decrease, at " + std::to_string(i + 1));
    }
    require(values.back() == num_rows,
            "offsets: expected to end at " + std::to_string(num_rows) + ", got " + std::to_string(values.back()));
    return copy;
}

std::unique_ptr<Collection> make_vectors(const py::array& vectors, const Array<int64_t>& offsets) {
    require(vectors.ndim() == 2, "vectors: expected shape (num_tokens, dim), got " + shape_of(vectors));
    require(vectors.shape(1) >= 1, "vectors: expected at least one dimension, got " + shape_of(vectors));
    const Dtype dtype = float_dtype(vectors, "vectors");
    require_contiguous(vectors, "vectors");
    auto made = std::make_unique<Collection>();
    made->offsets = copied_offsets(offsets, vectors.shape(0));
    made->view = {vectors.data(), dtype, made->offsets->data(), made->offsets->size() - 1, extent(vectors, 1)};
    made->arrays = {vectors};
    return made;
}

// A 1-D array of so many numbers, which the collection keeps.
template <class T>
const T* kept(Collection& made, const Array<T>& array, size_t size, const char* name) {
    require_contiguous(array, name);
    require(array.ndim() == 1 && extent(array, 0) == size,
            std::string(name) + ": expected shape (" + std::to_string(size) + ",), got " + shape_of(array));
    made.arrays.push_back(array);
    return array.data();
}

// What every kind of codes begins with. A collection `like` this one, if given, shares its offsets: a screen of it then
// needs no comparison.
struct Rows {
    const Array<uint8_t>& codes;
    const Array<int64_t>& offsets;
    int64_t dim;
    const Collection* like;

    std::unique_ptr<Collection> make(Dtype dtype) const {
        auto made = std::make_unique<Collection>();
        require(codes.ndim() == 2, "codes: expected shape (num_tokens, code_size), got " + shape_of(codes));
        made->offsets = copied_offsets(offsets, codes.shape(0));
        if (like && *like->offsets == *made->offsets) made->offsets = like->offsets;
        made->view = {codes.data(), dtype, made->offsets->data(), made->offsets->size() - 1, positive(dim, "dim")};
        require(made->view.dim <= 65536, "dim: expected at most 65536 for codes, got " + std::to_string(dim));
        require_contiguous(codes, "codes");
        require(reinterpret_cast<uintptr_t>(codes.data()) % 4 == 0, "codes: expected memory aligned to 4 bytes");
        require(extent(codes, 1) == made->view.row_bytes(), "codes: expected shape (num_tokens, " +
                                                                std::to_string(made->view.row_bytes()) + "), got " +
                                                                shape_of(codes));
        made->arrays = {codes};
        return made;
    }
};

void check_stretch(float stretch) { require(stretch >= 1.0f && stretch <= 1024.0f, "stretch: expected 1 to 1024"); }

void check_finite(const float* numbers, size_t size, const char* name) {
    if (!std::all_of(numbers, numbers + size, [](float x) { return std::isfinite(x); }))
        fail(std::string(name) + ": expected finite numbers");
}

// Numbers that the integer arithmetic of screens relies on.
void check_terms(const float* numbers, size_t size, bool may_be_zero, const char* name) {
    for (size_t i = 0; i < size; ++i) {
        if (!(std::isfinite(numbers[i]) && (numbers[i] > 0.0f || (may_be_zero && numbers[i] == 0.0f))))
            fail(std::string(name) + ": expected finite numbers " + (may_be_zero ? "of at least 0" : "above 0") +
                 ", got " + std::to_string(numbers[i]) + " at " + std::to_string(i));
    }
}

struct Frame {  // what 8-bit and shorter codes share
    const Array<float>&center, &direction;
    void keep(Collection& made) const {
        made.view.codebook.center = kept(made, center, made.view.dim, "center");
        made.view.codebook.direction = kept(made, direction, made.view.dim, "direction");
        check_finite(center.data(), made.view.dim, "center");
        check_finite(direction.data(), made.view.dim, "direction");
    }
};

std::unique_ptr<Collection> make_bfloat16(const Array<uint8_t>& codes, const Array<int64_t>& offsets, int64_t dim,
                                          const Collection* like) {
    return Rows{codes, offsets, dim, like}.make(Dtype::bfloat16);
}

std::unique_ptr<Collection> make_codes8(const Array<uint8_t>& codes, const Array<int64_t>& offsets, int64_t dim,
                                        const Collection* like, const Array<float>& center,
                                        const Array<float>& direction, float stretch, const Array<float>& scales,
                                        const Array<float>& errors, const Array<float>& norms) {
    auto made = Rows{codes, offsets, dim, like}.make(Dtype::codes8);
    Frame{center, direction}.keep(*made);
    check_stretch(stretch);
    Codebook& book = made->view.codebook;
    book.stretch = stretch;
    book.scales = kept(*made, scales, made->view.size, "scales");
    book.errors = kept(*made, errors, made->view.size, "errors");
    book.norms = kept(*made, norms, made->view.size, "norms");
    check_terms(book.scales, made->view.size, false, "scales");
    check_terms(book.errors, made->view.size, true, "errors");
    check_terms(book.norms, made->view.size, true, "norms");
    return made;
}

Dtype dtype_of_bits(int bits) {
    require(bits == 4 || bits == 2 || bits == 1, "bits: expected 4, 2 or 1, got " + std::to_string(bits));
    return bits == 4 ? Dtype::codes4 : bits == 2 ? Dtype::codes2 : Dtype::codes1;
}

void keep_levels(Collection& made, const Array<uint8_t>& levels, float levels_per_rms, const Array<float>& dim_scales) {
    made.view.codebook.levels = kept(made, levels, 16, "levels");
    made.view.codebook.levels_per_rms = levels_per_rms;
    made.view.codebook.dim_scales = kept(made, dim_scales, made.view.dim, "dim_scales");
    check_terms(dim_scales.data(), made.view.dim, false, "dim_scales");
}

std::unique_ptr<Collection> make_short_codes(const Array<uint8_t>& codes, const Array<int64_t>& offsets, int64_t dim,
                                             const Collection* like, int bits, const Array<float>& center,
                                             const Array<float>& direction, const Array<uint8_t>& levels,
                                             float levels_per_rms, const Array<float>& dim_scales,
                                             const py::array& token_terms) {
    auto made = Rows{codes, offsets, dim, like}.make(dtype_of_bits(bits));
    Frame{center, direction}.keep(*made);
    keep_levels(*made, levels, levels_per_rms, dim_scales);
    require(float_dtype(token_terms, "token_terms") == Dtype::float16, "token_terms: expected float16");
    require_contiguous(token_terms, "token_terms");
    require(token_terms.ndim() == 2 && extent(token_terms, 0) == extent(codes, 0) && extent(token_terms, 1) == 2,
            "token_terms: expected shape (" + std::to_string(extent(codes, 0)) + ", 2), got " + shape_of(token_terms));
    made->view.codebook.token_terms = static_cast<const uint16_t*>(token_terms.data());
    made->arrays.push_back(token_terms);
    return made;
}

// ── encoding ────────────────────────────────────────────────────────────────────────────────────────────

void require_floats(const Collection& items) {
    require(items.view.dtype == Dtype::float32 || items.view.dtype == Dtype::float16,
            "items: expected token vectors, got codes");
}

Array<uint8_t> encode_bfloat16(const Collection& items, int64_t num_threads) {
    require_floats(items);
    const TokenVectors coded{nullptr, Dtype::bfloat16, nullptr, 0, items.view.dim};
    auto codes = empty<uint8_t>({items.view.num_tokens(), coded.row_bytes()});
    uint8_t* out = codes.mutable_data();
    const Threads threads = interruptible(num_threads);
    run_core([&] { chamfer::encode_bfloat16(items.view, threads, out); });
    return codes;
}

py::tuple encode_codes8(const Collection& items, const Array<float>& center, const Array<float>& direction,
                        float stretch, int64_t num_threads) {
    require_floats(items);
    Collection made;
    made.view = {nullptr, Dtype::codes8, nullptr, 0, items.view.dim};
    Frame{center, direction}.keep(made);
    check_stretch(stretch);
    made.view.codebook.stretch = stretch;
    auto codes = empty<uint8_t>({items.view.num_tokens(), made.view.row_bytes()});
    auto scales = empty<float>({items.view.size}), errors = empty<float>({items.view.size}),
         norms = empty<float>({items.view.size});
    uint8_t* out = codes.mutable_data();
    float *out_scales = scales.mutable_data(), *out_errors = errors.mutable_data(), *out_norms = norms.mutable_data();
    const Threads threads = interruptible(num_threads);
    run_core([&] {
        chamfer::encode_codes8(items.view, made.view.codebook, threads, out, out_scales, out_errors, out_norms);
    });
    return py::make_tuple(codes, scales, errors, norms);
}

py::tuple encode_codes(const Collection& items, int bits, const Array<float>& center, const Array<float>& direction,
                       const Array<uint8_t>& levels, float levels_per_rms, const Array<float>& dim_scales,
                       int64_t num_threads) {
    require_floats(items);
    Collection made;
    made.view = {nullptr, dtype_of_bits(bits), nullptr, 0, items.view.dim};
    Frame{center, direction}.keep(made);
    keep_levels(made, levels, levels_per_rms, dim_scales);
    auto codes = empty<uint8_t>({items.view.num_tokens(), made.view.row_bytes()});
    auto token_terms = empty<float>({items.view.num_tokens(), 2});
    uint8_t* out = codes.mutable_data();
    float* out_terms = token_terms.mutable_data();
    const Threads threads = interruptible(num_threads);
    run_core([&] { chamfer::encode_codes(items.view, made.view.codebook, made.view.dtype, threads, out, out_terms); });
    return py::make_tuple(codes, token_terms);
}

}  // namespace

void bind_collections(py::module_& module) {
    py::class_<Collection>(module, "Collection")
        .def(py::init(&make_vectors), "vectors"_a.noconvert(), "offsets"_a.noconvert())
        .def_static("bfloat16", &make_bfloat16, "codes"_a.noconvert(), "offsets"_a.noconvert(), "dim"_a,
                    "like"_a = py::none())
        .def_static("codes8", &make_codes8, "codes"_a.noconvert(), "offsets"_a.noconvert(), "dim"_a,
                    "like"_a = py::none(), py::kw_only(), "center"_a.noconvert(), "direction"_a.noconvert(),
                    "stretch"_a, "scales"_a.noconvert(), "errors"_a.noconvert(), "norms"_a.noconvert())
        .def_static("short_codes", &make_short_codes, "codes"_a.noconvert(), "offsets"_a.noconvert(), "dim"_a,
                    "like"_a = py::none(), py::kw_only(), "bits"_a, "center"_a.noconvert(), "direction"_a.noconvert(),
                    "levels"_a.noconvert(), "levels_per_rms"_a, "dim_scales"_a.noconvert(),
                    "token_terms"_a.noconvert());
    module.def("encode_bfloat16", &encode_bfloat16, "items"_a, py::kw_only(), "num_threads"_a);
    module.def("encode_codes8", &encode_codes8, "items"_a, py::kw_only(), "center"_a.noconvert(),
               "direction"_a.noconvert(), "stretch"_a, "num_threads"_a);
    module.def("encode_codes", &encode_codes, "items"_a, py::kw_only(), "bits"_a, "center"_a.noconvert(),
               "direction"_a.noconvert(), "levels"_a.noconvert(), "levels_per_rms"_a, "dim_scales"_a.noconvert(),
               "num_threads"_a);
}

}  // namespace chamfer::bindings
