#include "maxsim.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "scorer.hpp"
#include "screen.hpp"
#include "topk.hpp"

namespace chamfer {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Queries whose tokens share the lanes of one pass over a document: it is read once for all of them, and a query whose
// length is not a multiple of the lanes leaves none idle but the last. Half of a 256 KB L2 for the packed columns; the
// rest is the document's.
constexpr size_t kBatchBytes = 128 * 1024;
constexpr size_t kBatchQueries = 1024;  // however short: their scores of a chunk of documents wait in memory
constexpr size_t kScreenedTokens = 64;  // a screen keeps all products of a document with its batch

// Documents in one item of work.
constexpr size_t kChunkDocuments = 128;

// Upper bounds of all documents are kept for so many queries at a time, or one.
constexpr size_t kBoundBytes = 64 * 1024 * 1024;

// Queries whose candidates are walked together, so that a document of several is fetched once, and how many candidates
// of each at a time.
constexpr size_t kGroupQueries = 16;
constexpr size_t kGroupCandidates = 32;

std::vector<QueryBatch> batch_queries(const TokenVectors& queries, size_t first, size_t end, size_t max_tokens) {
    std::vector<QueryBatch> batches;
    for (size_t q = first, tokens = 0; q < end; ++q) {
        if (batches.empty() || tokens + queries.length(q) > max_tokens || q - batches.back().begin == kBatchQueries) {
            batches.push_back({q, q});
            tokens = 0;
        }
        batches.back().end = q + 1;
        tokens += queries.length(q);
    }
    return batches;
}

// What one worker scores with: its buffers, and the columns of the queries that it had last.
class Worker {
public:
    explicit Worker(const MaxSimInput& input) : input_(input), scorer_(input.queries, input.documents, input.isa) {
        if (input.screen) screen_.emplace(input.queries, input.documents, *input.screen, input.isa);
    }

    // The scores of a batch of queries, written at once or, with a screen, by finish(); and upper bounds of them.
    void score(QueryBatch batch, size_t document, size_t next, float* scores, size_t stride) {
        if (!screen_) return scorer_.score(columns_of(batch), document, next, scores, stride);
        screen_->score(screened(batch), document, next, scores, stride);
    }
    void upper_bounds(QueryBatch batch, size_t document, size_t next, float* upper, size_t stride) {
        screen_->upper_bounds(screened(batch), document, next, upper, stride);
    }
    void finish() {
        if (screen_) screen_->finish();
    }

private:
    // What was packed last; kGroupQueries of them, so that queries can take turns.
    struct Loaded {
        QueryBatch batch{0, 0}, screened_batch{0, 0};  // none: a batch has a query
        QueryColumns columns;
        ScreenedQueries screened;
    };
    static bool same(QueryBatch a, QueryBatch b) { return a.begin == b.begin && a.end == b.end; }
    const QueryColumns& columns_of(QueryBatch batch) {
        Loaded& loaded = loaded_[batch.begin % kGroupQueries];
        if (!same(loaded.batch, batch)) {
            loaded.columns.load(input_.queries, input_.query_weights, batch, input_.documents, scorer_.kernels());
            loaded.batch = batch;
        }
        return loaded.columns;
    }
    const ScreenedQueries& screened(QueryBatch batch) {
        Loaded& loaded = loaded_[batch.begin % kGroupQueries];
        if (!same(loaded.screened_batch, batch)) {
            finish();
            loaded.screened.load(input_.queries, input_.query_weights, batch, input_.documents, *input_.screen,
                                 scorer_.kernels());
            loaded.screened_batch = batch;
        }
        return loaded.screened;
    }

    const MaxSimInput& input_;
    Scorer scorer_;
    std::optional<Screen> screen_;
    std::array<Loaded, kGroupQueries> loaded_;
};

// Calls f(worker, item) for every item, with the state of the worker that has it.
template <class F>
void for_each_item(const MaxSimInput& input, size_t num_items, F&& f) {
    std::vector<std::unique_ptr<Worker>> workers(workers_for(num_items, input.num_threads.count));
    parallel_for(num_items, input.num_threads, [&](size_t worker, size_t item) {
        if (!workers[worker]) workers[worker] = std::make_unique<Worker>(input);
        f(*workers[worker], item);
    });
}

// Calls f(worker, batch, first document, end) for every batch of these queries and chunk of documents.
template <class F>
void for_each_chunk(const MaxSimInput& input, size_t first_query, size_t end_query, F&& f) {
    const size_t max_tokens = input.screen ? kScreenedTokens : kBatchBytes / sizeof(float) / input.queries.dim;
    const std::vector<QueryBatch> batches = batch_queries(input.queries, first_query, end_query, max_tokens);
    const size_t num_chunks = (input.documents.size + kChunkDocuments - 1) / kChunkDocuments;
    for_each_item(input, batches.size() * num_chunks, [&](Worker& worker, size_t item) {
        const QueryBatch batch = batches[item / num_chunks];
        const size_t begin = item % num_chunks * kChunkDocuments;
        f(worker, batch, begin, std::min(begin + kChunkDocuments, input.documents.size));
    });
}

// A candidate of a query: position in its row of candidates.
struct Candidate {
    size_t document, query, position;
};

// Calls f(worker, candidates) for all candidates but -1, a part of those of a few queries at a time: sorted by
// document, so that one that several queries share is fetched once, and every query's in the order of its row from call
// to call.
template <class F>
void for_each_group(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates, F&& f) {
    const size_t num_chunks = (num_candidates + kGroupCandidates - 1) / kGroupCandidates;
    const size_t num_groups = (input.queries.size + kGroupQueries - 1) / kGroupQueries;
    for_each_item(input, num_groups * num_chunks, [&](Worker& worker, size_t item) {
        const size_t first = item / num_chunks * kGroupQueries, begin = item % num_chunks * kGroupCandidates;
        std::vector<Candidate> group;
        for (size_t query = first; query < std::min(first + kGroupQueries, input.queries.size); ++query) {
            for (size_t i = begin; i < std::min(begin + kGroupCandidates, num_candidates); ++i) {
                const int64_t document = candidates[query * num_candidates + i];
                assert(document >= -1 && document < static_cast<int64_t>(input.documents.size));
                if (document >= 0) group.push_back({static_cast<size_t>(document), query, i});
            }
        }
        std::sort(group.begin(), group.end(), [](const Candidate& a, const Candidate& b) {
            return std::tie(a.document, a.query) < std::tie(b.document, b.query);
        });
        f(worker, group);
    });
}

// The document after the one of candidate i: what the scorer fetches ahead.
size_t next_document(const std::vector<Candidate>& group, size_t i) {
    const size_t document = group[i].document;
    while (i < group.size() && group[i].document == document) ++i;
    return i < group.size() ? group[i].document : document + 1;
}

// The best k of every query, which workers add to as they find them.
class BestOfQueries {
public:
    BestOfQueries(size_t num_queries, size_t k) : best_(num_queries, TopK(k)), locks_(num_queries) {}
    // The scores of documents first_document, first_document + 1, ...
    void push(size_t query, const float* scores, size_t num_scores, size_t first_document) {
        const std::lock_guard lock(locks_[query]);
        for (size_t i = 0; i < num_scores; ++i) best_[query].push(scores[i], static_cast<int64_t>(first_document + i));
    }
    void write(const Threads& num_threads, size_t k, float* scores, int64_t* rows) {
        parallel_for(best_.size(), num_threads,
                     [&](size_t, size_t query) { best_[query].write(scores + query * k, rows + query * k); });
    }

private:
    std::vector<TopK> best_;
    std::vector<std::mutex> locks_;
};

// Of documents that no score of a query is above bounds[i], the k best: the most promising are scored first, until no
// bound is left that reaches the k-th best score.
template <class DocumentOf>
void refine(Worker& worker, size_t query, const float* bounds, size_t num_bounds, DocumentOf document_of, TopK& best) {
    struct Promise {
        float bound;
        size_t document;
    };
    const auto worse = [](const Promise& a, const Promise& b) {
        return a.bound < b.bound || (a.bound == b.bound && a.document > b.document);
    };
    std::vector<Promise> promises;
    for (size_t i = 0; i < num_bounds; ++i)
        if (bounds[i] > kMinusInfinity) promises.push_back({bounds[i], document_of(i)});
    std::make_heap(promises.begin(), promises.end(), worse);
    // A score is there when two more documents have been begun.
    constexpr size_t kLate = 2;
    std::array<float, kLate + 1> scores{};
    std::array<size_t, kLate + 1> documents{};
    size_t num_begun = 0, num_scored = 0;
    const auto take = [&] {
        const size_t slot = num_scored++ % documents.size();
        best.push(scores[slot], static_cast<int64_t>(documents[slot]));
    };
    while (!promises.empty() && promises.front().bound >= best.last().score) {
        std::pop_heap(promises.begin(), promises.end(), worse);
        const size_t slot = num_begun++ % documents.size(), document = promises.back().document;
        promises.pop_back();
        documents[slot] = document;
        worker.score({query, query + 1}, document, promises.empty() ? document + 1 : promises.front().document,
                     &scores[slot], 1);
        if (num_begun - num_scored > kLate) take();
    }
    worker.finish();
    while (num_scored < num_begun) take();
}

void check([[maybe_unused]] const MaxSimInput& input) {
    assert(input.queries.dtype == Dtype::float32 ||
           (input.queries.dtype == Dtype::codes1 && input.documents.dtype == Dtype::codes1));
    assert(input.queries.dim == input.documents.dim || input.queries.size == 0 || input.documents.size == 0);
    assert(!input.screen || (!is_codes(input.documents.dtype) && input.screen->dtype == Dtype::codes8 &&
                             input.screen->size == input.documents.size && input.screen->dim == input.documents.dim));
    assert(input.num_threads.count >= 1);
}

// The best k of all documents by upper bounds first.
void screened_topk(const MaxSimInput& input, size_t k, float* scores, int64_t* rows) {
    const size_t num_documents = input.documents.size;
    const size_t queries_at_a_time =
        std::max<size_t>(1, kBoundBytes / sizeof(float) / std::max<size_t>(1, num_documents));
    std::vector<float> bounds;
    for (size_t begin = 0; begin < input.queries.size; begin += queries_at_a_time) {
        const size_t num_queries = std::min(queries_at_a_time, input.queries.size - begin);
        bounds.resize(num_queries * num_documents);
        for_each_chunk(input, begin, begin + num_queries,
                       [&](Worker& worker, QueryBatch batch, size_t first, size_t end) {
                           for (size_t document = first; document < end; ++document)
                               worker.upper_bounds(batch, document, document + 1,
                                                   bounds.data() + (batch.begin - begin) * num_documents + document,
                                                   num_documents);
                       });
        for_each_item(input, num_queries, [&](Worker& worker, size_t i) {
            TopK best(k);
            refine(
                worker, begin + i, bounds.data() + i * num_documents, num_documents, [](size_t d) { return d; }, best);
            best.write(scores + (begin + i) * k, rows + (begin + i) * k);
        });
    }
}

// Candidates without those that their row has named before: -1 instead.
std::vector<int64_t> distinct_candidates(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates) {
    std::vector<int64_t> distinct(candidates, candidates + input.queries.size * num_candidates);
    parallel_for(input.queries.size, input.num_threads, [&](size_t, size_t query) {
        int64_t* row = distinct.data() + query * num_candidates;
        std::vector<int64_t> sorted(row, row + num_candidates);
        std::sort(sorted.begin(), sorted.end());
        if (std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end()) return;
        std::unordered_set<int64_t> seen;
        for (size_t i = 0; i < num_candidates; ++i)
            if (!seen.insert(row[i]).second) row[i] = -1;
    });
    return distinct;
}

}  // namespace

void maxsim(const MaxSimInput& input, float* scores) {
    check(input);
    const size_t num_documents = input.documents.size;
    for_each_chunk(input, 0, input.queries.size, [&](Worker& worker, QueryBatch batch, size_t begin, size_t end) {
        for (size_t document = begin; document < end; ++document) {
            worker.score(batch, document, document + 1, scores + batch.begin * num_documents + document, num_documents);
        }
        worker.finish();
    });
}

void maxsim_candidates(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates, float* scores) {
    check(input);
    std::fill(scores, scores + input.queries.size * num_candidates, kMinusInfinity);
    for_each_group(input, candidates, num_candidates, [&](Worker& worker, const std::vector<Candidate>& group) {
        for (size_t i = 0; i < group.size(); ++i) {
            const auto [document, query, position] = group[i];
            const size_t next = next_document(group, i);
            worker.score({query, query + 1}, document, next, scores + query * num_candidates + position, 1);
        }
        worker.finish();
    });
}

void maxsim_topk(const MaxSimInput& input, size_t k, float* scores, int64_t* rows) {
    check(input);
    if (input.screen) return screened_topk(input, k, scores, rows);
    BestOfQueries best(input.queries.size, k);
    for_each_chunk(input, 0, input.queries.size, [&](Worker& worker, QueryBatch batch, size_t begin, size_t end) {
        const size_t num_queries = batch.end - batch.begin, num_documents = end - begin;
        std::vector<float> found(num_queries * num_documents);
        for (size_t document = begin; document < end; ++document)
            worker.score(batch, document, document + 1, found.data() + document - begin, num_documents);
        for (size_t i = 0; i < num_queries; ++i)
            best.push(batch.begin + i, found.data() + i * num_documents, num_documents, begin);
    });
    best.write(input.num_threads, k, scores, rows);
}

void maxsim_topk_candidates(const MaxSimInput& input, const int64_t* candidates, size_t num_candidates, size_t k,
                            float* scores, int64_t* rows) {
    check(input);
    const std::vector<int64_t> distinct = distinct_candidates(input, candidates, num_candidates);
    if (input.screen) {
        std::vector<float> bounds(distinct.size(), kMinusInfinity);
        for_each_group(input, distinct.data(), num_candidates,
                       [&](Worker& worker, const std::vector<Candidate>& group) {
                           for (size_t i = 0; i < group.size(); ++i) {
                               const auto [document, query, position] = group[i];
                               worker.upper_bounds({query, query + 1}, document, next_document(group, i),
                                                   bounds.data() + query * num_candidates + position, 1);
                           }
                       });
        return for_each_item(input, input.queries.size, [&](Worker& worker, size_t query) {
            const int64_t* of_query = distinct.data() + query * num_candidates;
            TopK best(k);
            refine(
                worker, query, bounds.data() + query * num_candidates, num_candidates,
                [&](size_t i) { return static_cast<size_t>(of_query[i]); }, best);
            best.write(scores + query * k, rows + query * k);
        });
    }
    BestOfQueries best(input.queries.size, k);
    for_each_group(input, distinct.data(), num_candidates, [&](Worker& worker, const std::vector<Candidate>& group) {
        for (size_t i = 0; i < group.size(); ++i) {
            const auto [document, query, position] = group[i];
            float score;
            worker.score({query, query + 1}, document, next_document(group, i), &score, 1);
            best.push(query, &score, 1, document);
        }
    });
    best.write(input.num_threads, k, scores, rows);
}

float maxsim_alignment(const MaxSimInput& input, float* similarities, int64_t* document_tokens) {
    check(input);
    assert(input.queries.size == 1 && input.documents.size == 1);
    const size_t num_query_tokens = input.queries.num_tokens(), num_tokens = input.documents.num_tokens();
    Scorer scorer(input.queries, input.documents, input.isa);
    QueryColumns queries;
    queries.load(input.queries, nullptr, {0, 1}, input.documents, scorer.kernels());
    std::fill(similarities, similarities + num_query_tokens, kMinusInfinity);
    std::fill(document_tokens, document_tokens + num_query_tokens, -1);
    // A token at a time: the same kernel, hence the same bits as the score, and the first of equals wins.
    for (size_t token = 0; token < num_tokens; ++token) {
        scorer.fold(queries, token, token + 1, token + 1);
        for (size_t q = 0; q < num_query_tokens; ++q) {
            const auto similarity = static_cast<float>(queries.similarity(q, scorer.best(q), scorer.scale(0)));
            if (similarity > similarities[q]) {
                similarities[q] = similarity;
                document_tokens[q] = static_cast<int64_t>(token);
            }
        }
    }
    float score = kMinusInfinity;
    scorer.score(queries, 0, 1, &score, 1);
    return score;
}

}  // namespace chamfer
