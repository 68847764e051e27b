// MaxSim of queries against documents of any storage (scorer.hpp says what a similarity is for each).
//
//   score(Q, D) = Σ_q weight_q · max_{d ∈ D} <q, d>      (ColBERT, arXiv 2004.12832, eq. 3; MUVERA's Chamfer similarity)
//
// An empty document scores -inf for every query and never appears in a top k. An empty query scores 0 against any other
// document. Similarities are summed in double, in the order of the query tokens, and rounded once. So a score does not
// depend on num_threads, on the other queries and documents of the call, or (but for bfloat16) on which of avx2,
// avx512, neon computes it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"
#include "parallel.hpp"
#include "ragged.hpp"

namespace chamfer {

// Preconditions (partly asserted; all checked by the bindings): queries are float32, or codes1 if the documents are,
// and of their dim; query_weights, if not null, has one entry per query token; a candidate is a document's row or -1
// (none); num_threads >= 1; a screen is the documents' codes of 8 bits with errors and norms, of the same offsets, and
// the documents are float32 or float16.
//
// A screen of codes made of exactly these documents changes no score, only the time: it tells which tokens cannot be a
// maximum, and which documents cannot be among the best, with a proven bound on what its rounding can hide
// (screen.hpp).
struct MaxSimInput {
    TokenVectors queries;
    TokenVectors documents;
    const float* query_weights;  // null: every query token counts 1
    const TokenVectors* screen;  // or null
    Threads num_threads;
    Isa isa;
};

// scores: (queries.size, documents.size).
void maxsim(const MaxSimInput& input, float* scores);

// candidates, scores: (queries.size, num_candidates). The score of candidate -1 is -inf.
void maxsim_candidates(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates, float* scores);

// scores, rows: (queries.size, k), best first, ties by lower row; -inf and -1 where there are fewer. The scan keeps k
// documents per query and never holds all scores; with a screen it holds upper bounds, 4 bytes a document, of as many
// queries as fit into 64 MB.
void maxsim_topk(const MaxSimInput& input, size_t k, float* scores, int64_t* rows);

// The same among the candidates of each query, (queries.size, num_candidates); a row named twice counts once.
void maxsim_topk_candidates(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates, size_t k,
                            float* scores, int64_t* rows);

// One query (queries.size == 1) and one document: similarities[q] = max_d <q, d> and the first document token that
// reaches it; -inf and -1 for an empty document. Returns the score.
float maxsim_alignment(const MaxSimInput& input, float* similarities, int64_t* document_tokens);

}  // namespace chamfer
