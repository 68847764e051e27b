// topk.hpp, parallel.hpp, ragged.hpp, isa.hpp, peaks.hpp.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fixtures.hpp"
#include "isa.hpp"
#include "parallel.hpp"
#include "peaks.hpp"
#include "ragged.hpp"
#include "testing.hpp"
#include "topk.hpp"

namespace chamfer::testing {

void test_topk() {
    Random random(17);
    for (const size_t k : std::vector<size_t>{0, 1, 3, 10, 100}) {
        at("k %zu", k);
        TopK best(k);
        std::vector<ScoredRow> all;
        for (const int64_t row : {5, 2, 9, 0, 7, 1, 8, 3, 6, 4, 10, 11, 12}) {
            const float score = row == 3 ? -kInfinity : row == 10 ? kInfinity : static_cast<float>(random.below(3)) - 1;
            best.push(score, row);
            best.push(kNan, row);  // never enters
            all.push_back({score, row});
        }
        Exact<float> scores(k, kNan);
        Exact<int64_t> rows(k, -7);
        best.write(scores.data(), rows.data());
        std::vector<float> best_scores(k);
        std::vector<int64_t> best_rows(k);
        best_of(all, k, best_scores.data(), best_rows.data());
        CHECK("TopK keeps the best, ties by lower row, never NaN or -inf",
              same_bits(scores.data(), best_scores.data(), k) && same_bits(rows.data(), best_rows.data(), k));
    }
}

void test_parallel_for() {
    for (const size_t n : std::vector<size_t>{0, 1, 2, 7, 1000}) {
        for (const size_t num_threads : std::vector<size_t>{1, 3, 64}) {
            at("%zu items, %zu threads", n, num_threads);
            std::vector<std::atomic<int>> visits(n);
            std::atomic<bool> workers_hold{true};
            parallel_for(n, num_threads, [&](size_t worker, size_t i) {
                ++visits[i];
                if (worker >= workers_for(n, num_threads)) workers_hold = false;
            });
            CHECK("parallel_for visits every index once",
                  std::all_of(visits.begin(), visits.end(), [](const auto& v) { return v == 1; }));
            CHECK("a worker's number is below workers_for", workers_hold);
            if (n < 7) continue;
            std::string message;
            std::atomic<size_t> after{0};
            try {
                parallel_for(n, num_threads, [&](size_t, size_t i) {
                    if (i == 5) throw std::runtime_error("item 5");
                    if (i > 5) ++after;
                });
            } catch (const std::runtime_error& error) {
                message = error.what();
            }
            CHECK("parallel_for rethrows what an item throws", message == "item 5");
            CHECK("one thread stops at the item that throws", num_threads > 1 || after == 0);
        }
    }
}

void test_first_row_out_of_range() {
    const size_t num_rows = 20000, dim = 3;
    for (const Dtype dtype : {Dtype::float32, Dtype::float16}) {
        for (const size_t num_threads : std::vector<size_t>{1, 3}) {
            at("%s, %zu threads", dtype == Dtype::float16 ? "float16" : "float32", num_threads);
            Exact<float> floats(num_rows * dim, -0x1.fffffep49f);
            Exact<uint16_t> halves(num_rows * dim, 0xfbff);
            const auto first = [&](size_t rows) {
                const void* vectors = dtype == Dtype::float32 ? static_cast<const void*>(floats.data()) : halves.data();
                return first_row_out_of_range(vectors, dtype, rows, dim, num_threads);
            };
            CHECK("numbers below 2^50 and all finite halves are in range", first(num_rows) == -1);
            CHECK("no rows hold nothing", first(0) == -1);
            const std::pair<size_t, float> bad[] = {
                {19999, kNan}, {12000, -kInfinity}, {5001, kInfinity}, {5000, kNan}};
            for (const auto& [row, value] : bad) {
                floats[row * dim + 2] = value;
                halves[row * dim + 2] = std::isnan(value) ? 0x7c01 : value < 0 ? 0xfc00 : 0x7c00;
                CHECK("the first row out of range is found", first(num_rows) == static_cast<int64_t>(row));
            }
        }
    }
}

void test_parse_isa() {
    at("available_isas");
    for (const Isa isa : available_isas()) CHECK("a name names its level", parse_isa(isa_name(isa), "isa") == isa);
    std::string message;
    try {
        parse_isa("mmx", "isa");
    } catch (const std::invalid_argument& error) {
        message = error.what();
    }
    CHECK("an unknown name is refused with the choices",
          message.find("isa: 'mmx' is not an instruction set; available: scalar") == 0);
}

void test_peaks() {
    for (const Isa isa : available_isas()) {
        at("%s", isa_name(isa));
        for (const Peak peak : {Peak::fma_f32, Peak::dot_bf16, Peak::dot_i8, Peak::popcount}) {
            CHECK("operations grow with rounds", run_peak(peak, isa, 5) == 5 * run_peak(peak, isa, 1));
            const bool common = peak != Peak::dot_bf16;
            CHECK("scalar has no loop, bfloat16 one level, the others all",
                  (run_peak(peak, isa, 1) > 0) == (common ? isa != Isa::scalar : isa == Isa::avx512_bf16));
        }
        for (const size_t num_bytes : std::vector<size_t>{0, 1024, 5 * 1024}) {
            Exact<uint64_t> words(num_bytes / 8, 0);
            uint64_t sum = 0;
            for (size_t i = 0; i < num_bytes / 8; ++i) sum += words.data()[i] = 0x9e3779b97f4a7c15 * (i + 1);
            for (const size_t ahead : std::vector<size_t>{0, 4096}) {
                CHECK("every word is read once", read_memory(words.data(), num_bytes, ahead, isa) == sum);
            }
        }
    }
}

}  // namespace chamfer::testing
