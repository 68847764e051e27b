// The k best rows of a scan, found while it runs: scores stay in cache, and the few that can still rank are picked out.
#pragma once

#include <algorithm>
#include <bit>
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

// Puts the k highest of n distinct keys first, the lowest of them at k - 1; 1 <= k <= n. As std::nth_element, but no
// branch depends on the keys.
void highest_first(uint64_t* keys, size_t n, size_t k);

// The best of a query in one run of fewer than 2^32 rows: what the run adds to the best so far. Rows that pass are
// piled up, and now and then the best k are kept, which takes fewer and more foreseeable steps than a heap: with
// k = 100 a scan of 5,000 codes spent six times as long on that as on codes.
template <class Score>
class RunBest {
public:
    explicit RunBest(size_t k) : k_(k) {}  // at least 1

    // Calls add(begin, end, limit) for parts of the next n rows, in order: it pushes those whose scores are higher than
    // the limit; one that is equal ranks after, rows being ascending. A part has no more rows than were seen before it,
    // or most of the first tile would pass; of a run that starts with a limit it is the whole tile.
    template <class Add>
    void add_tile(size_t n, const Add& add) {
        for (size_t begin = 0, end; begin < n; begin = end) {
            if (keys_.size() >= 2 * k_) keep_best();
            end = begin + std::min(n - begin, std::max((2 * k_ + 15) / 16 * 16, num_seen_));
            add(begin, end, std::max(floor_, limit_));
            num_seen_ += end - begin;
        }
    }
    // The score is no NaN; -0 becomes 0.
    void push(Score score, int64_t row) {
        const uint32_t place = ~static_cast<uint32_t>(row - first_row_);  // the lower row ranks before
        keys_.push_back(uint64_t{ordered_bits(score)} << 32 | place);
    }

    // `so_far` may hold later rows, which lose a tie.
    void start(const TopKOf<Score>& so_far, int64_t first_row) {
        const Scored<Score> last = so_far.last();
        floor_ = last.row < first_row ? last.score : just_below(last.score);
        limit_ = kNoScore<Score>;
        first_row_ = first_row;
        num_seen_ = floor_ > kNoScore<Score> ? SIZE_MAX / 2 : 0;
    }
    void finish(TopKOf<Score>& so_far) {
        finish(so_far, [this](uint32_t place) { return first_row_ + place; });
    }
    // Rows other than those pushed, in the same order: row_of(number in the run).
    template <class RowOf>
    void finish(TopKOf<Score>& so_far, const RowOf& row_of) {
        if (keys_.size() > k_) keep_best();
        so_far.reserve(keys_.size());
        for (const uint64_t key : keys_) so_far.push(score_of(key), row_of(static_cast<uint32_t>(~key)));
        keys_.clear();
    }

private:
    // Integers that are ordered as scores are.
    static uint32_t ordered_bits(Score score) {
        if constexpr (std::is_floating_point_v<Score>) {
            const uint32_t bits = std::bit_cast<uint32_t>(score + Score{0});
            return bits >> 31 ? ~bits : bits | 0x80000000;
        } else {
            return static_cast<uint32_t>(score) ^ 0x80000000;
        }
    }
    static Score score_of(uint64_t key) {
        const uint32_t bits = static_cast<uint32_t>(key >> 32);
        if constexpr (std::is_floating_point_v<Score>) {
            return std::bit_cast<Score>(bits >> 31 ? bits & 0x7fffffff : ~bits);
        } else {
            return static_cast<Score>(bits ^ 0x80000000);
        }
    }
    static Score just_below(Score score) {
        if constexpr (std::is_floating_point_v<Score>) {
            return std::nextafter(score, kNoScore<Score>);
        } else {
            return score - 1;
        }
    }
    // With k keys or more.
    void keep_best() {
        highest_first(keys_.data(), keys_.size(), k_);
        keys_.resize(k_);
        limit_ = score_of(keys_.back());
    }

    size_t k_;
    std::vector<uint64_t> keys_;
    int64_t first_row_ = 0;
    size_t num_seen_ = 0;
    Score floor_ = kNoScore<Score>, limit_ = kNoScore<Score>;
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
