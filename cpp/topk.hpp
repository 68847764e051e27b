// The k best of a stream of (score, row): higher score first, ties by lower row.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace chamfer {

template <class Score>
struct Scored {
    Score score;
    int64_t row;
};
using ScoredRow = Scored<float>;

// The score of nothing, below all others: -inf, and the lowest of the integers.
template <class Score>
inline constexpr Score kNoScore = std::numeric_limits<Score>::has_infinity ? -std::numeric_limits<Score>::infinity()
                                                                           : std::numeric_limits<Score>::lowest();

// A total order on distinct rows, so the k best are the same set whatever order they arrive in: results cannot depend
// on threads.
template <class Score>
bool ranks_before(const Scored<Score>& a, const Scored<Score>& b) {
    return (a.score > b.score) | ((a.score == b.score) & (a.row < b.row));  // no branch: nobody can foretell it
}

template <class Score>
class TopKOf {
public:
    explicit TopKOf(size_t k) : k_(k) {}

    // kNoScore (an empty document, no candidate) never enters; neither does NaN, which compares false.
    void push(Score score, int64_t row) {
        if (!(score > kNoScore<Score>) || k_ == 0) return;
        const Scored<Score> item{score, row};
        if (full()) {
            if (ranks_before(item, heap_.front())) sift_down(item, heap_.size());
        } else {
            heap_.push_back(item);
            std::push_heap(heap_.begin(), heap_.end(), ranks_before<Score>);
        }
    }

    // The k-th best so far, which a newcomer must rank before; kNoScore and -1 while there are fewer.
    Scored<Score> last() const { return full() ? heap_.front() : Scored<Score>{kNoScore<Score>, -1}; }

    // For n items at once.
    void reserve(size_t n) { heap_.reserve(std::min(n, k_)); }

    // Writes k scores and rows, best first; what is missing is kNoScore and -1.
    void write(Score* scores, int64_t* rows) {
        for (size_t end = heap_.size(); end > 1; --end) {
            const Scored<Score> last = heap_[end - 1];
            heap_[end - 1] = heap_.front();
            sift_down(last, end - 1);
        }
        for (size_t i = 0; i < k_; ++i) {
            const bool found = i < heap_.size();
            scores[i] = found ? heap_[i].score : kNoScore<Score>;
            rows[i] = found ? heap_[i].row : -1;
        }
    }

private:
    bool full() const { return k_ > 0 && heap_.size() == k_; }

    // Puts an item in the place of the first of n >= 1: one way down, where std::pop_heap and push_heap go down and up
    // twice.
    void sift_down(const Scored<Score>& item, size_t n) {
        size_t hole = 0;
        for (size_t child; (child = 2 * hole + 1) < n; hole = child) {
            if (child + 1 < n) child += ranks_before(heap_[child], heap_[child + 1]);
            if (!ranks_before(item, heap_[child])) break;
            heap_[hole] = heap_[child];
        }
        heap_[hole] = item;
    }

    size_t k_;
    std::vector<Scored<Score>> heap_;  // the worst in front
};

using TopK = TopKOf<float>;

}  // namespace chamfer
