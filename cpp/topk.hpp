// The k best of a stream of (score, row): higher score first, ties by lower row.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace chamfer {

struct ScoredRow {
    float score;
    int64_t row;
};

// A total order on distinct rows, so the k best are the same set whatever order they arrive in: results cannot depend
// on threads.
inline bool ranks_before(const ScoredRow& a, const ScoredRow& b) {
    return a.score > b.score || (a.score == b.score && a.row < b.row);
}

class TopK {
public:
    explicit TopK(size_t k) : k_(k) {}

    // -inf (an empty document, no candidate) never enters; neither does NaN, which compares false.
    void push(float score, int64_t row) {
        if (!(score > -std::numeric_limits<float>::infinity()) || k_ == 0) return;
        const ScoredRow item{score, row};
        if (heap_.size() == k_) {
            if (!ranks_before(item, heap_.front())) return;
            std::pop_heap(heap_.begin(), heap_.end(), ranks_before);
            heap_.back() = item;
        } else {
            heap_.push_back(item);
        }
        std::push_heap(heap_.begin(), heap_.end(), ranks_before);
    }

    // Writes k scores and rows, best first; what is missing is -inf and -1.
    void write(float* scores, int64_t* rows) {
        std::sort_heap(heap_.begin(), heap_.end(), ranks_before);
        for (size_t i = 0; i < k_; ++i) {
            const bool found = i < heap_.size();
            scores[i] = found ? heap_[i].score : -std::numeric_limits<float>::infinity();
            rows[i] = found ? heap_[i].row : -1;
        }
    }

private:
    size_t k_;
    std::vector<ScoredRow> heap_;  // the worst in front
};

}  // namespace chamfer
