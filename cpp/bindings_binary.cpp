// Binary codes for Python: Hamming distances and SDC.
#include "bindings.hpp"

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "hamming.hpp"
#include "isa.hpp"
#include "sdc.hpp"

namespace chamfer::bindings {
namespace {

// Above any array's extent, and low enough for the sums and sizes made of it.
constexpr int64_t kMaxCodes = int64_t{1} << 48, kMaxCodeSize = int64_t{1} << 24;

void require_matrix(const Array<uint8_t>& array, const std::string& name) {
    require(array.ndim() == 2, name + ": expected shape (n, width), got " + shape_of(array));
    require_contiguous(array, name);
    require(extent(array, 1) >= 1 && array.shape(1) <= kMaxCodeSize, name + ": expected a width from 1 to 2^24");
}

py::tuple hamming_topk(const Array<uint8_t>& query_codes, const Array<uint8_t>& codes, int64_t k, int64_t num_threads,
                       const std::string& isa) {
    require_matrix(query_codes, "query_codes");
    require_matrix(codes, "codes");
    require(query_codes.shape(1) == codes.shape(1), "query_codes: expected the code_size of codes");
    const HammingInput input{query_codes.data(),   codes.data(),     extent(query_codes, 0),
                             extent(codes, 0),     extent(codes, 1), interruptible(num_threads),
                             parse_isa(isa, "isa")};
    const size_t num_best = positive(k, "k");
    auto distances = empty<int32_t>({input.num_queries, num_best});
    auto rows = empty<int64_t>({input.num_queries, num_best});
    int32_t* out_distances = distances.mutable_data();
    int64_t* out_rows = rows.mutable_data();
    run_core([&] { chamfer::hamming_topk(input, num_best, out_distances, out_rows); });
    return py::make_tuple(distances, rows);
}

RecurrentShape recurrent_shape(int64_t dim, int64_t bits) {
    require(dim >= 1 && dim < 1 << 20, "dim: expected 1 to 2^20 - 1, got " + std::to_string(dim));
    require(bits == 1 || bits == 2 || bits == 4, "bits: expected 1, 2 or 4, got " + std::to_string(bits));
    return {static_cast<size_t>(dim), static_cast<size_t>(bits)};
}

SdcFormula parse_formula(const std::string& name) {
    if (name == "bitwise") return SdcFormula::bitwise;
    if (name == "integer") return SdcFormula::integer;
    require(name == "table", "formula: expected bitwise, integer or table, got '" + name + "'");
    return SdcFormula::table;
}

size_t count_of(int64_t num_codes) {
    require(num_codes >= 0 && num_codes <= kMaxCodes, "num_codes: expected 0 to 2^48");
    return static_cast<size_t>(num_codes);
}

void require_packed(const Array<uint8_t>& packed, const RecurrentShape& shape, SdcFormula formula, size_t num_codes) {
    require_contiguous(packed, "packed");
    require(packed.ndim() == 1 && extent(packed, 0) == chamfer::packed_bytes(shape, formula, num_codes),
            "packed: expected " + std::to_string(chamfer::packed_bytes(shape, formula, num_codes)) +
                " bytes in one dimension, got " + shape_of(packed));
}

void require_levels(const Array<uint8_t>& levels, int32_t max_level, const std::string& name) {
    const uint8_t* values = levels.data();
    const bool fits = std::all_of(values, values + levels.size(), [&](uint8_t x) { return x <= max_level; });
    require(fits, name + ": expected levels up to " + std::to_string(max_level));
}

const float* scales_of(const std::optional<Array<float>>& scales, size_t n, const std::string& name) {
    if (!scales) return nullptr;
    require_contiguous(*scales, name);
    require(scales->ndim() == 1 && extent(*scales, 0) == n,
            name + ": expected shape (" + std::to_string(n) + ",), got " + shape_of(*scales));
    return scales->data();
}

size_t packed_bytes(int64_t dim, int64_t bits, const std::string& formula, int64_t num_codes) {
    return chamfer::packed_bytes(recurrent_shape(dim, bits), parse_formula(formula), count_of(num_codes));
}

void pack_levels(const Array<uint8_t>& levels, int64_t bits, const std::string& formula, Array<uint8_t>& packed) {
    require_matrix(levels, "levels");
    const RecurrentShape shape = recurrent_shape(levels.shape(1), bits);
    const SdcFormula parsed = parse_formula(formula);
    const size_t num_codes = extent(levels, 0);
    require_packed(packed, shape, parsed, num_codes);
    require_levels(levels, shape.max_level(), "levels");
    uint8_t* out = packed.mutable_data();  // raises if it is read-only
    run_core([&] { chamfer::pack_levels(shape, parsed, levels.data(), num_codes, out); });
}

Array<uint8_t> unpack_levels(const Array<uint8_t>& packed, int64_t dim, int64_t bits, int64_t num_codes) {
    const RecurrentShape shape = recurrent_shape(dim, bits);
    const size_t n = count_of(num_codes);
    require_packed(packed, shape, SdcFormula::integer, n);
    auto levels = empty<uint8_t>({n, shape.dim});
    uint8_t* out = levels.mutable_data();
    run_core([&] { chamfer::unpack_levels(shape, packed.data(), n, out); });
    return levels;
}

// Bits of a query's level; those of codes if it is not given.
size_t query_bits_of(const std::optional<int64_t>& query_bits, const RecurrentShape& shape, SdcFormula formula) {
    const int64_t codes_bits = static_cast<int64_t>(shape.bits), bits = query_bits.value_or(codes_bits);
    const bool is_finer = bits > codes_bits && (bits == 2 || bits == 4) && formula != SdcFormula::bitwise;
    require(
        bits == codes_bits || is_finer,
        "query_bits: expected 1, 2 or 4, at least bits, and bits for the formula bitwise, got " + std::to_string(bits));
    return static_cast<size_t>(bits);
}

py::tuple sdc_topk(const Array<uint8_t>& query_levels, const Array<uint8_t>& packed, int64_t num_codes, int64_t k,
                   int64_t bits, const std::optional<Array<float>>& query_scales,
                   const std::optional<Array<float>>& scales, const std::optional<std::string>& formula,
                   const std::optional<int64_t>& query_bits, int64_t num_threads, const std::string& isa) {
    require_matrix(query_levels, "query_levels");
    const Isa level = parse_isa(isa, "isa");
    const RecurrentShape shape = recurrent_shape(query_levels.shape(1), bits);
    const SdcFormula parsed = formula ? parse_formula(*formula) : fastest_sdc_formula(shape.bits);
    const size_t n = count_of(num_codes), num_queries = extent(query_levels, 0), num_best = positive(k, "k");
    require_packed(packed, shape, parsed, n);
    const size_t bits_of_query = query_bits_of(query_bits, shape, parsed);
    require_levels(query_levels, (1 << bits_of_query) - 1, "query_levels");
    const SdcInput input{shape,
                         bits_of_query,
                         parsed,
                         query_levels.data(),
                         scales_of(query_scales, num_queries, "query_scales"),
                         num_queries,
                         packed.data(),
                         scales_of(scales, n, "scales"),
                         n,
                         interruptible(num_threads),
                         level};
    auto similarities = empty<float>({num_queries, num_best});
    auto rows = empty<int64_t>({num_queries, num_best});
    float* out_similarities = similarities.mutable_data();
    int64_t* out_rows = rows.mutable_data();
    run_core([&] { chamfer::sdc_topk(input, num_best, out_similarities, out_rows); });
    return py::make_tuple(similarities, rows);
}

py::tuple sdc_topk_of_lists(
    const Array<uint8_t>& query_levels,
    const std::vector<std::tuple<Array<uint8_t>, std::optional<Array<float>>, Array<int64_t>>>& lists, int64_t k,
    int64_t bits, float query_scale, const std::optional<int64_t>& query_bits, const std::string& isa) {
    require_contiguous(query_levels, "query_levels");
    require(query_levels.ndim() == 1, "query_levels: expected shape (dim,), got " + shape_of(query_levels));
    const Isa level = parse_isa(isa, "isa");
    const RecurrentShape shape = recurrent_shape(query_levels.shape(0), bits);
    const SdcFormula formula = fastest_sdc_formula(shape.bits);
    const size_t bits_of_query = query_bits_of(query_bits, shape, formula), num_best = positive(k, "k");
    require_levels(query_levels, (1 << bits_of_query) - 1, "query_levels");
    std::vector<SdcList> parsed;
    parsed.reserve(lists.size());
    for (const auto& [packed, scales, rows] : lists) {  // no message is made where nothing is wrong: lists are many
        const auto aligned = [](const void* data, size_t size) {
            return reinterpret_cast<uintptr_t>(data) % size == 0;
        };
        const bool fits = aligned(rows.data(), 8) && (!scales || aligned(scales->data(), 4)) && packed.ndim() == 1 &&
                          rows.ndim() == 1 && rows.size() < int64_t{1} << 32 &&
                          extent(packed, 0) == chamfer::packed_bytes(shape, formula, extent(rows, 0)) &&
                          (!scales || (scales->ndim() == 1 && scales->size() == rows.size()));
        if (!fits)
            fail("lists: expected packed codes, a scale for each or None, and a row for each, in aligned memory");
        parsed.push_back({packed.data(), scales ? scales->data() : nullptr, rows.data(), extent(rows, 0)});
    }
    auto similarities = empty<float>({num_best});
    auto rows = empty<int64_t>({num_best});
    float* out_similarities = similarities.mutable_data();
    int64_t* out_rows = rows.mutable_data();
    const SdcListsInput input{shape,       bits_of_query, formula,       query_levels.data(),
                              query_scale, parsed.data(), parsed.size(), level};
    run_core([&] { chamfer::sdc_topk_of_lists(input, num_best, out_similarities, out_rows); });
    return py::make_tuple(similarities, rows);
}

}  // namespace

void bind_binary(py::module_& module) {
    module.def("hamming_topk", &hamming_topk, "query_codes"_a.noconvert(), "codes"_a.noconvert(), "k"_a, py::kw_only(),
               "num_threads"_a, "isa"_a);
    module.def("packed_bytes", &packed_bytes, "dim"_a, "bits"_a, "formula"_a, "num_codes"_a);
    module.def("pack_levels", &pack_levels, "levels"_a.noconvert(), "bits"_a, "formula"_a, "packed"_a.noconvert());
    module.def("unpack_levels", &unpack_levels, "packed"_a.noconvert(), "dim"_a, "bits"_a, "num_codes"_a);
    module.def("sdc_topk", &sdc_topk, "query_levels"_a.noconvert(), "packed"_a.noconvert(), "num_codes"_a, "k"_a,
               py::kw_only(), "bits"_a, "query_scales"_a.noconvert() = py::none(), "scales"_a.noconvert() = py::none(),
               "formula"_a = py::none(), "query_bits"_a = py::none(), "num_threads"_a, "isa"_a);
    module.def("sdc_topk_of_lists", &sdc_topk_of_lists, "query_levels"_a.noconvert(), "lists"_a, "k"_a, py::kw_only(),
               "bits"_a, "query_scale"_a = 1.0f, "query_bits"_a = py::none(), "isa"_a);
}

}  // namespace chamfer::bindings
