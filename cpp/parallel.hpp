// Threads live here, one level above the kernels.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace chamfer {

// How many threads a call uses, and what its own thread does between two items: a caller that can be interrupted throws
// there.
struct Threads {
    Threads(size_t threads, std::function<void()> between_items = {})  // NOLINT: a number is enough for most
        : count(threads), poll(std::move(between_items)) {}
    size_t count;
    std::function<void()> poll;
};

inline size_t workers_for(size_t n, size_t num_threads) { return std::max<size_t>(1, std::min(n, num_threads)); }

// Calls f(worker, i) for every i in [0, n), each once, with worker in [0, workers_for(n, num_threads)). Items are
// handed out in order by an atomic counter; the calling thread is worker 0, so one thread means no spawn. The first
// exception ends the hand-out and is rethrown after all workers have stopped. Threads are spawned per call (65 µs for
// two): no pool survives a fork.
template <class F>
void parallel_for(size_t n, const Threads& threads, F&& f) {
    const size_t workers = workers_for(n, threads.count);
    std::atomic<size_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto work = [&](size_t worker) {
        try {
            for (size_t i; (i = next.fetch_add(1)) < n;) {
                f(worker, i);
                if (worker == 0 && threads.poll) threads.poll();
            }
        } catch (...) {
            next = n;
            const std::lock_guard lock(error_mutex);
            if (!error) error = std::current_exception();
        }
    };
    std::vector<std::thread> spawned;
    spawned.reserve(workers - 1);
    try {
        for (size_t worker = 1; worker < workers; ++worker) spawned.emplace_back(work, worker);
    } catch (...) {  // the system refuses more threads: those that started, and this one, do all the work
    }
    work(0);
    for (auto& thread : spawned) thread.join();
    if (error) std::rethrow_exception(error);
}

// The lowest of the rows that threads report.
class LowestRow {
public:
    void report(size_t row) {
        int64_t lowest = lowest_.load();
        const auto candidate = static_cast<int64_t>(row);
        while ((lowest < 0 || candidate < lowest) && !lowest_.compare_exchange_weak(lowest, candidate)) {
        }
    }
    int64_t get() const { return lowest_.load(); }  // -1: none

private:
    std::atomic<int64_t> lowest_{-1};
};

}  // namespace chamfer
