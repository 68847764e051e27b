// The k best rows of a scan, found while it runs: scores stay in cache, and the few that can still rank are picked out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <type_traits>
#include <vector>

#include "isa.hpp"
#include "parallel.hpp"
#include "topk.hpp"

namespace chamfer {

// Kernels are pure. Each writes the positions i < n, in order, whose value passes, and returns how many: positions has
// room for n.
struct SelectKernels {
    size_t (*below)(const int32_t* values, size_t n, int32_t limit, uint32_t* positions);  // values[i] < limit
    size_t (*above)(const float* values, size_t n, float limit, uint32_t* positions);      // values[i] > limit
};

const SelectKernels& select_kernels(Isa isa);

// The best of a few queries in one run of rows: what the run adds to the best so far.
template <class Score>
class RunBest {
public:
    explicit RunBest(size_t k) : best_(k) {}

    // Rows of the run come in ascending order, hence a score must be higher than this: one that is equal ranks after.
    Score limit() const { return std::max(floor_, best_.last().score); }
    void push(Score score, int64_t row) { best_.push(score, row); }

    // `so_far` may hold later rows, which lose a tie.
    void start(const TopKOf<Score>& so_far, int64_t first_row) {
        const Scored<Score> last = so_far.last();
        floor_ = last.row < first_row ? last.score : just_below(last.score);
    }
    void finish(TopKOf<Score>& so_far) { best_.drain_into(so_far); }

private:
    static Score just_below(Score score) {
        if constexpr (std::is_floating_point_v<Score>) {
            return std::nextafter(score, kNoScore<Score>);
        } else {
            return score - 1;
        }
    }

    TopKOf<Score> best_;
    Score floor_ = kNoScore<Score>;
};

struct ScanShape {
    size_t num_queries, num_rows;
    size_t group_queries;  // queries that scan the same rows while these are in the L2 cache
    size_t run_rows;       // and those rows

    size_t num_groups() const { return (num_queries + group_queries - 1) / group_queries; }
    size_t num_runs() const { return (num_rows + run_rows - 1) / run_rows; }
};

inline size_t num_workers(const ScanShape& shape, const Threads& threads) {
    return workers_for(shape.num_groups() * shape.num_runs(), threads.count);
}

// Calls scan(worker, first query, end, first row, end, best) for every group of queries and run of rows, where best[i]
// is the RunBest of query first + i. Writes (num_queries, k) scores and rows, which depend on neither threads nor
// shape.
template <class Score, class Scan>
void scan_topk(const ScanShape& shape, size_t k, const Threads& threads, Score* scores, int64_t* rows, Scan&& scan) {
    const size_t num_runs = shape.num_runs();
    std::vector<TopKOf<Score>> best(shape.num_queries, TopKOf<Score>(k));
    std::vector<std::mutex> locks(shape.num_queries);
    std::vector<std::vector<RunBest<Score>>> run_best(num_workers(shape, threads));
    parallel_for(shape.num_groups() * num_runs, threads, [&](size_t worker, size_t item) {
        const size_t first_query = item / num_runs * shape.group_queries, first_row = item % num_runs * shape.run_rows;
        const size_t end_query = std::min(first_query + shape.group_queries, shape.num_queries);
        const size_t end_row = std::min(first_row + shape.run_rows, shape.num_rows);
        std::vector<RunBest<Score>>& found = run_best[worker];
        if (found.empty()) found.assign(std::min(shape.group_queries, shape.num_queries), RunBest<Score>(k));
        for (size_t query = first_query; query < end_query; ++query) {
            const std::lock_guard lock(locks[query]);
            found[query - first_query].start(best[query], static_cast<int64_t>(first_row));
        }
        scan(worker, first_query, end_query, first_row, end_row, found.data());
        for (size_t query = first_query; query < end_query; ++query) {
            const std::lock_guard lock(locks[query]);
            found[query - first_query].finish(best[query]);
        }
    });
    parallel_for(shape.num_queries, threads.count,
                 [&](size_t, size_t query) { best[query].write(scores + query * k, rows + query * k); });
}

}  // namespace chamfer
