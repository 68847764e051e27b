// MaxSim for Python.
#include "bindings.hpp"

#include <algorithm>
#include <optional>

#include "codes.hpp"
#include "isa.hpp"
#include "maxsim.hpp"

namespace chamfer::bindings {
namespace {

MaxSimInput maxsim_input(const Collection& queries, const Collection& documents,
                         const std::optional<Array<float>>& weights, const Collection* screen, int64_t num_threads,
                         const std::string& isa) {
    const TokenVectors &q = queries.view, &d = documents.view;
    MaxSimInput input{q, d, nullptr, nullptr, interruptible(num_threads), parse_isa(isa, "isa")};
    require(q.dtype == Dtype::float32 || (q.dtype == Dtype::codes1 && d.dtype == Dtype::codes1),
            "queries: expected float32, or codes of 1 bit as the documents");
    require(q.dim == d.dim,
            "queries: expected dim " + std::to_string(d.dim) + " as the documents, got " + std::to_string(q.dim));
    if (weights) {
        require_contiguous(*weights, "query_weights");
        require(weights->ndim() == 1 && extent(*weights, 0) == q.num_tokens(),
                "query_weights: expected shape (" + std::to_string(q.num_tokens()) + ",), got " + shape_of(*weights));
        input.query_weights = weights->data();
    }
    if (screen) {
        const TokenVectors& codes = screen->view;
        require(codes.dtype == Dtype::codes8, "screen: expected codes of 8 bits");
        require(d.dtype == Dtype::float32 || d.dtype == Dtype::float16, "screen: expected documents that are vectors");
        require(codes.dim == d.dim && codes.size == d.size &&
                    (codes.offsets == d.offsets || std::equal(d.offsets, d.offsets + d.size + 1, codes.offsets)),
                "screen: expected codes of these documents");
        require(are_codes_of(codes, d), "screen: expected the codes of these very documents, got those of others");
        input.screen = &codes;
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

Array<float> maxsim(const Collection& queries, const Collection& documents, const std::optional<Array<float>>& weights,
                    const std::optional<Array<int64_t>>& candidates, const Collection* screen, int64_t num_threads,
                    const std::string& isa) {
    const auto input = maxsim_input(queries, documents, weights, screen, num_threads, isa);
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

py::tuple maxsim_topk(const Collection& queries, const Collection& documents, int64_t k,
                      const std::optional<Array<float>>& weights, const std::optional<Array<int64_t>>& candidates,
                      const Collection* screen, int64_t num_threads, const std::string& isa) {
    const auto input = maxsim_input(queries, documents, weights, screen, num_threads, isa);
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

py::tuple maxsim_alignment(const Collection& query, const Collection& document, const std::string& isa) {
    const auto input = maxsim_input(query, document, std::nullopt, nullptr, 1, isa);
    require(input.queries.size == 1 && input.documents.size == 1, "query, document: expected one item each");
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
    module.def("maxsim", &maxsim, "queries"_a, "documents"_a, py::kw_only(), "query_weights"_a.noconvert() = py::none(),
               "candidates"_a.noconvert() = py::none(), "screen"_a = py::none(), "num_threads"_a, "isa"_a);
    module.def("maxsim_topk", &maxsim_topk, "queries"_a, "documents"_a, "k"_a, py::kw_only(),
               "query_weights"_a.noconvert() = py::none(), "candidates"_a.noconvert() = py::none(),
               "screen"_a = py::none(), "num_threads"_a, "isa"_a);
    module.def("maxsim_alignment", &maxsim_alignment, "query"_a, "document"_a, py::kw_only(), "isa"_a);
}

}  // namespace chamfer::bindings
