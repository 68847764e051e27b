// MaxSim for Python.
#include "bindings.hpp"

#include <optional>

#include "isa.hpp"
#include "maxsim.hpp"

namespace chamfer::bindings {
namespace {

MaxSimInput maxsim_input(const py::array& query_vectors, const Array<int64_t>& query_offsets, const py::array& vectors,
                         const Array<int64_t>& offsets, const std::optional<Array<float>>& weights, int64_t num_threads,
                         const std::string& isa) {
    MaxSimInput input{token_vectors(query_vectors, query_offsets, "queries"),
                      token_vectors(vectors, offsets, "documents"), nullptr, interruptible(num_threads),
                      parse_isa(isa, "isa")};
    require(input.queries.dtype == Dtype::float32, "queries: expected float32");
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

size_t check_candidates(const Array<int64_t>& candidates, const MaxSimInput& input) {
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

}  // namespace

void bind_maxsim(py::module_& module) {
    module.def("maxsim", &maxsim, "query_vectors"_a.noconvert(), "query_offsets"_a.noconvert(), "vectors"_a.noconvert(),
               "offsets"_a.noconvert(), py::kw_only(), "query_weights"_a.noconvert() = py::none(),
               "candidates"_a.noconvert() = py::none(), "num_threads"_a, "isa"_a);
    module.def("maxsim_topk", &maxsim_topk, "query_vectors"_a.noconvert(), "query_offsets"_a.noconvert(),
               "vectors"_a.noconvert(), "offsets"_a.noconvert(), "k"_a, py::kw_only(),
               "query_weights"_a.noconvert() = py::none(), "candidates"_a.noconvert() = py::none(), "num_threads"_a,
               "isa"_a);
    module.def("maxsim_alignment", &maxsim_alignment, "query"_a.noconvert(), "document"_a.noconvert(), py::kw_only(),
               "isa"_a);
}

}  // namespace chamfer::bindings
