#include "maxsim.hpp"

#include <algorithm>
#include <cassert>
#include <limits>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "product.hpp"
#include "topk.hpp"

namespace chamfer {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Queries whose tokens share the lanes of one pass over a document: it is read once for all of them, and a query whose
// length is not a multiple of the lanes leaves none idle but the last. Half of a 256 KB L2 for the packed columns; the
// rest is the document's.
constexpr size_t kBatchBytes = 128 * 1024;
constexpr size_t kBatchQueries = 1024;  // however short: their scores of a chunk of documents wait in memory

// Rows that a pass takes before it moves to the next query columns: they stay in L2, or in L1 if they had to be
// converted, until the last columns have seen them.
constexpr size_t kSectionBytes = 128 * 1024;
constexpr size_t kConvertedBytes = 16 * 1024;

// Rows between the one that is computed and the one that is fetched from memory: two of the tallest tiles.
constexpr size_t kRowsAhead = 24;

// Documents in one item of work.
constexpr size_t kChunkDocuments = 128;

// Weights may lift a sum past float32: the largest number stands for it, since infinities mean an empty document.
float to_score(double sum) {
    constexpr double kLargest = std::numeric_limits<float>::max();
    return static_cast<float>(std::clamp(sum, -kLargest, kLargest));
}

struct QueryBatch {
    size_t begin, end;  // queries
};

std::vector<QueryBatch> batch_queries(const TokenVectors& queries) {
    const size_t max_tokens = std::max<size_t>(1, kBatchBytes / sizeof(float) / std::max<size_t>(1, queries.dim));
    std::vector<QueryBatch> batches;
    for (size_t q = 0, tokens = 0; q < queries.size; ++q) {
        if (batches.empty() || tokens + queries.length(q) > max_tokens || q - batches.back().begin == kBatchQueries) {
            batches.push_back({q, q});
            tokens = 0;
        }
        batches.back().end = q + 1;
        tokens += queries.length(q);
    }
    return batches;
}

// Scores one document after the other against one batch of queries. One per worker: its buffers are allocated once.
class Scorer {
public:
    explicit Scorer(const MaxSimInput& input) : input_(input), kernels_(product_kernels(input.isa)) {
        const bool converts = input.documents.dtype == Dtype::float16;
        const size_t row_bytes = std::max<size_t>(1, input.documents.dim) * sizeof(float);
        section_rows_ = std::max<size_t>(kRowsAhead, (converts ? kConvertedBytes : kSectionBytes) / row_bytes);
        rows_ahead_ = converts ? section_rows_ : kRowsAhead;
        if (converts) converted_.resize(section_rows_ * input.documents.dim);
    }

    void load(QueryBatch batch) {
        if (batch.begin == batch_.begin && batch.end == batch_.end) return;
        batch_ = batch;
        const auto [first, last] = tokens(batch);
        columns_.assign(kernels_, input_.queries.float32_rows(first), last - first, input_.queries.dim, 1,
                        input_.queries.dim);
        maxima_.resize(columns_.view().num_lanes);
    }

    // scores[i * stride] of query batch.begin + i. `next` is the document that will be scored next, if known; else any.
    void score(size_t document, size_t next, float* scores, size_t stride) {
        const size_t num_queries = batch_.end - batch_.begin;
        if (input_.documents.length(document) == 0) {
            for (size_t i = 0; i < num_queries; ++i) scores[i * stride] = kMinusInfinity;
            return;
        }
        const int64_t* offsets = input_.documents.offsets;
        fold_tokens(static_cast<size_t>(offsets[document]), static_cast<size_t>(offsets[document + 1]),
                    static_cast<size_t>(offsets[next]));
        const size_t first = tokens(batch_).first;
        for (size_t i = 0; i < num_queries; ++i) {
            double sum = 0.0;
            const auto [begin, end] = tokens({batch_.begin + i, batch_.begin + i + 1});
            for (size_t token = begin; token < end; ++token) {
                const double similarity = maxima_[token - first];
                sum +=
                    input_.query_weights ? similarity * static_cast<double>(input_.query_weights[token]) : similarity;
            }
            scores[i * stride] = to_score(sum);
        }
    }

    // The maxima of the documents' tokens [begin, end), per query token of the batch. Tokens from row `next` on are
    // fetched from memory at the end, as the tokens ahead are all along.
    const float* fold_tokens(size_t begin, size_t end, size_t next) {
        const TokenVectors& documents = input_.documents;
        const bool converts = documents.dtype == Dtype::float16;
        const size_t row_bytes = documents.dim * (converts ? 2 : 4);
        const auto address = [&](size_t row) {
            return reinterpret_cast<uintptr_t>(documents.vectors) + row * row_bytes;
        };
        std::fill(maxima_.begin(), maxima_.end(), kMinusInfinity);
        for (size_t row = begin; row < end;) {
            const size_t left = end - row;
            const bool in_one_run = left > rows_ahead_ || next == end;
            // The last rows of a document that is followed by a distant one are a section of their own: theirs are the
            // fetches of the next.
            const size_t limit = !converts && next != end && left > rows_ahead_ ? left - rows_ahead_ : left;
            const size_t num_rows = std::min(section_rows_, limit);
            const Ahead ahead{address(in_one_run ? row + rows_ahead_ : next), row_bytes, row_bytes / documents.dim};
            const float* rows = converted_.data();
            if (converts) {
                kernels_.half_to_float(documents.float16_rows(row), num_rows * documents.dim, converted_.data());
            } else {
                rows = documents.float32_rows(row);
            }
            kernels_.fold_max(columns_.view(), rows, num_rows, documents.dim, ahead, maxima_.data());
            row += num_rows;
        }
        return maxima_.data();
    }

private:
    std::pair<size_t, size_t> tokens(QueryBatch batch) const {
        return {static_cast<size_t>(input_.queries.offsets[batch.begin]),
                static_cast<size_t>(input_.queries.offsets[batch.end])};
    }

    const MaxSimInput& input_;
    const ProductKernels& kernels_;
    size_t section_rows_, rows_ahead_;
    QueryBatch batch_{0, 0};  // none: a batch has a query
    OwnedColumns columns_;
    FloatBuffer maxima_, converted_;
};

// Calls f(scorer, item) for every item, with the scorer of the worker that has it.
template <class F>
void for_each_item(const MaxSimInput& input, size_t num_items, F&& f) {
    std::vector<std::unique_ptr<Scorer>> scorers(workers_for(num_items, input.num_threads.count));
    parallel_for(num_items, input.num_threads, [&](size_t worker, size_t item) {
        if (!scorers[worker]) scorers[worker] = std::make_unique<Scorer>(input);
        f(*scorers[worker], item);
    });
}

// Calls f(scorer, batch, first document, end) for every batch of queries and chunk of documents.
template <class F>
void for_each_chunk(const MaxSimInput& input, F&& f) {
    const std::vector<QueryBatch> batches = batch_queries(input.queries);
    const size_t num_chunks = (input.documents.size + kChunkDocuments - 1) / kChunkDocuments;
    for_each_item(input, batches.size() * num_chunks, [&](Scorer& scorer, size_t item) {
        const QueryBatch batch = batches[item / num_chunks];
        const size_t begin = item % num_chunks * kChunkDocuments;
        scorer.load(batch);
        f(scorer, batch, begin, std::min(begin + kChunkDocuments, input.documents.size));
    });
}

void check([[maybe_unused]] const MaxSimInput& input) {
    assert(input.queries.dtype == Dtype::float32);
    assert(input.queries.dim == input.documents.dim || input.queries.size == 0 || input.documents.size == 0);
    assert(input.num_threads.count >= 1);
}

}  // namespace

void maxsim(const MaxSimInput& input, float* scores) {
    check(input);
    const size_t num_documents = input.documents.size;
    for_each_chunk(input, [&](Scorer& scorer, QueryBatch batch, size_t begin, size_t end) {
        for (size_t document = begin; document < end; ++document) {
            scorer.score(document, document + 1, scores + batch.begin * num_documents + document, num_documents);
        }
    });
}

void maxsim_candidates(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates, float* scores) {
    check(input);
    const size_t num_chunks = (num_candidates + kChunkDocuments - 1) / kChunkDocuments;
    for_each_item(input, input.queries.size * num_chunks, [&](Scorer& scorer, size_t item) {
        const size_t query = item / num_chunks, begin = item % num_chunks * kChunkDocuments;
        scorer.load({query, query + 1});
        const size_t end = std::min(begin + kChunkDocuments, num_candidates);
        const int64_t* documents = candidates + query * num_candidates;
        float* query_scores = scores + query * num_candidates;
        for (size_t i = begin; i < end; ++i) {
            assert(documents[i] >= -1 && documents[i] < static_cast<int64_t>(input.documents.size));
            if (documents[i] < 0) {
                query_scores[i] = kMinusInfinity;
                continue;
            }
            const size_t document = static_cast<size_t>(documents[i]);
            const bool followed = i + 1 < end && documents[i + 1] >= 0;
            scorer.score(document, followed ? static_cast<size_t>(documents[i + 1]) : document + 1, query_scores + i,
                         1);
        }
    });
}

void maxsim_topk(const MaxSimInput& input, size_t k, float* scores, int64_t* rows) {
    check(input);
    std::vector<TopK> best(input.queries.size, TopK(k));
    std::vector<std::mutex> locks(input.queries.size);
    for_each_chunk(input, [&](Scorer& scorer, QueryBatch batch, size_t begin, size_t end) {
        const size_t num_documents = end - begin;
        std::vector<float> chunk_scores((batch.end - batch.begin) * num_documents);
        for (size_t document = begin; document < end; ++document) {
            scorer.score(document, document + 1, chunk_scores.data() + document - begin, num_documents);
        }
        for (size_t query = batch.begin; query < batch.end; ++query) {
            const float* query_scores = chunk_scores.data() + (query - batch.begin) * num_documents;
            const std::lock_guard lock(locks[query]);
            for (size_t i = 0; i < num_documents; ++i)
                best[query].push(query_scores[i], static_cast<int64_t>(begin + i));
        }
    });
    parallel_for(input.queries.size, input.num_threads,
                 [&](size_t, size_t query) { best[query].write(scores + query * k, rows + query * k); });
}

void maxsim_topk_candidates(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates, size_t k,
                            float* scores, int64_t* rows) {
    std::vector<float> candidate_scores(input.queries.size * num_candidates);
    maxsim_candidates(input, candidates, num_candidates, candidate_scores.data());
    parallel_for(input.queries.size, input.num_threads, [&](size_t, size_t query) {
        const size_t first = query * num_candidates;
        std::vector<ScoredRow> found(num_candidates);
        for (size_t i = 0; i < num_candidates; ++i) found[i] = {candidate_scores[first + i], candidates[first + i]};
        std::sort(found.begin(), found.end(), [](const ScoredRow& a, const ScoredRow& b) { return a.row < b.row; });
        TopK best(k);
        for (size_t i = 0; i < num_candidates; ++i) {
            if (i == 0 || found[i].row != found[i - 1].row) best.push(found[i].score, found[i].row);
        }
        best.write(scores + query * k, rows + query * k);
    });
}

float maxsim_alignment(const MaxSimInput& input, float* similarities, int64_t* document_tokens) {
    check(input);
    assert(input.queries.size == 1 && input.documents.size == 1);
    const size_t num_query_tokens = input.queries.num_tokens();
    Scorer scorer(input);
    scorer.load({0, 1});
    std::fill(similarities, similarities + num_query_tokens, kMinusInfinity);
    std::fill(document_tokens, document_tokens + num_query_tokens, -1);
    // A token at a time: the same kernel, hence the same bits as the score, and the first of equals wins.
    for (size_t token = 0; token < input.documents.num_tokens(); ++token) {
        const float* products = scorer.fold_tokens(token, token + 1, token + 1);
        for (size_t q = 0; q < num_query_tokens; ++q) {
            if (products[q] > similarities[q]) {
                similarities[q] = products[q];
                document_tokens[q] = static_cast<int64_t>(token);
            }
        }
    }
    if (input.documents.num_tokens() == 0) return kMinusInfinity;
    double sum = 0.0;
    for (size_t q = 0; q < num_query_tokens; ++q) sum += static_cast<double>(similarities[q]);
    return to_score(sum);
}

}  // namespace chamfer
