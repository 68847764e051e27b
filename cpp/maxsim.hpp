// Exact MaxSim of float queries against float32 or float16 documents.
//
//   score(Q, D) = Σ_q weight_q · max_{d ∈ D} <q, d>      (ColBERT, arXiv 2004.12832, eq. 3; MUVERA's Chamfer similarity)
//
// An empty document scores -inf for every query and never appears in a top k. An empty query scores 0 against any other
// document. Similarities are those of product.hpp; their sum is taken in double, in the order of the query tokens, and
// rounded once. So a score does not depend on num_threads, on the other queries and documents of the call, or on which
// of avx2, avx512, neon computes it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"
#include "parallel.hpp"
#include "ragged.hpp"

namespace chamfer {

// Preconditions (partly asserted; all checked by the bindings): queries are float32 and of the documents' dim; query_weights, if not
// null, has one entry per query token; a candidate is a document's row or -1 (none); num_threads >= 1.
struct MaxSimInput {
    TokenVectors queries;
    TokenVectors documents;
    const float* query_weights;  // null: every query token counts 1
    Threads num_threads;
    Isa isa;
};

// scores: (queries.size, documents.size).
void maxsim(const MaxSimInput& input, float* scores);

// candidates, scores: (queries.size, num_candidates). The score of candidate -1 is -inf.
void maxsim_candidates(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates, float* scores);

// scores, rows: (queries.size, k), best first, ties by lower row; -inf and -1 where there are fewer. The scan keeps k
// documents per query and never holds all scores.
void maxsim_topk(const MaxSimInput& input, size_t k, float* scores, int64_t* rows);

// The same among the candidates of each query, (queries.size, num_candidates); a row named twice counts once.
void maxsim_topk_candidates(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates, size_t k,
                            float* scores, int64_t* rows);

// One query (queries.size == 1) and one document: similarities[q] = max_d <q, d> and the first document token that reaches
// it; -inf and -1 for an empty document. Returns the score.
float maxsim_alignment(const MaxSimInput& input, float* similarities, int64_t* document_tokens);

}  // namespace chamfer
