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
    return a.score > b.score || (a.score == b.score && a.row < b.row);
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
            if (!ranks_before(item, heap_.front())) return;
            std::pop_heap(heap_.begin(), heap_.end(), ranks_before<Score>);
            heap_.back() = item;
        } else {
            heap_.push_back(item);
        }
        std::push_heap(heap_.begin(), heap_.end(), ranks_before<Score>);
    }

    // The k-th best so far, which a newcomer must rank before; kNoScore and -1 while there are fewer.
    Scored<Score> last() const { return full() ? heap_.front() : Scored<Score>{kNoScore<Score>, -1}; }

    // Gives what it holds to another, and is empty.
    void drain_into(TopKOf& other) {
        for (const Scored<Score>& item : heap_) other.push(item.score, item.row);
        heap_.clear();
    }

    // Writes k scores and rows, best first; what is missing is kNoScore and -1.
    void write(Score* scores, int64_t* rows) {
        std::sort_heap(heap_.begin(), heap_.end(), ranks_before<Score>);
        for (size_t i = 0; i < k_; ++i) {
            const bool found = i < heap_.size();
            scores[i] = found ? heap_[i].score : kNoScore<Score>;
            rows[i] = found ? heap_[i].row : -1;
        }
    }

private:
    bool full() const { return k_ > 0 && heap_.size() == k_; }

    size_t k_;
    std::vector<Scored<Score>> heap_;  // the worst in front
};

using TopK = TopKOf<float>;

}  // namespace chamfer
