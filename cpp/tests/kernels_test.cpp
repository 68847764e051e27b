// The core against its definitions, written out here in double precision.
//
//   kernels_test [scalar|avx2|avx512|neon] [--quick] [--digest FILE]
//
// Without a name, every instruction set of this CPU runs. --quick takes fewer shapes, for emulators and sanitizers.
// --digest writes hashes of results that must be the same bits on every platform.
#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fde.hpp"
#include "fixtures.hpp"
#include "maxsim.hpp"
#include "product.hpp"
#include "testing.hpp"

namespace {

using namespace chamfer;
using namespace chamfer::testing;

// ── digests: what every platform must agree on ──────────────────────────────────────────────────────────────────────

class Hash {  // FNV-1a over the bits of the numbers, lowest byte first
public:
    template <class Range>
    void add(const Range& numbers) {
        for (const float x : numbers) {
            uint32_t bits;
            std::memcpy(&bits, &x, 4);
            for (int shift = 0; shift < 32; shift += 8) value_ = (value_ ^ (bits >> shift & 255)) * 0x100000001b3ULL;
        }
    }
    unsigned long long value() const { return value_; }

private:
    unsigned long long value_ = 0xcbf29ce484222325ULL;
};

Hash digest_products(Isa isa) {
    Hash hash;
    for (const auto& [dim, num_rows, num_columns] :
         {std::array<size_t, 3>{1, 5, 3}, {128, 37, 70}, {129, 13, 33}, {1024, 12, 17}}) {
        const Products p(dim, num_rows);
        const Packed packed(isa, p, num_columns);
        std::vector<float> maxima(packed.num_lanes, -kInfinity), out(num_rows * packed.num_lanes);
        packed.kernels.fold_max(packed.view(dim), p.rows.data(), num_rows, dim, Ahead::none(p.rows.data()),
                                maxima.data());
        packed.kernels.multiply(packed.view(dim), p.rows.data(), num_rows, dim, out.data());
        maxima.resize(num_columns);
        hash.add(maxima);
        for (size_t r = 0; r < num_rows; ++r)
            for (size_t c = 0; c < num_columns; ++c) hash.add(std::array{out[r * packed.num_lanes + c]});
    }
    return hash;
}

Hash digest_scores(Isa isa) {
    Random random(19);
    const Ragged queries(random, {32, 5, 1}, 128, false), documents(random, {60, 0, 7, 180}, 128, true);
    const Exact<float> weights(random.numbers(38));
    Exact<float> scores(12);
    maxsim({queries.view(), documents.view(Dtype::float16), weights.data(), 2, isa}, scores.data());
    Hash hash;
    hash.add(scores);
    return hash;
}

Hash digest_matrices(bool google) {
    Hash hash;
    for (const uint32_t seed : {0U, 1U, 42U, 0xffffffffU}) {
        const Matrices matrices({128, 20, 5, 16, true, google}, seed, google);
        hash.add(matrices.simhash);
        hash.add(matrices.projections);
    }
    return hash;
}

// Saved encodings are worth nothing beside new ones if a seed ever gives other matrices.
void test_matrices_stay() {
    at("%s", "128 dims, 20 repetitions, 5 hyperplanes, projection 16, four seeds");
    CHECK("a seed gives Google's matrices as it always did", digest_matrices(true).value() == 0x802db52b24c7b062ULL);
    CHECK("a seed gives the paper's matrices as it always did",
          digest_matrices(false).value() == 0x7e033956f92a1558ULL);
}

void write_digest(const char* path) {
    std::FILE* file = std::fopen(path, "w");
    if (!file) throw std::runtime_error(std::string("cannot write ") + path);
    for (const Isa isa : available_isas()) {
        if (isa == Isa::scalar) continue;  // rounds after the multiplication
        std::fprintf(file, "products %s %016llx\n", isa_name(isa), digest_products(isa).value());
        std::fprintf(file, "scores %s %016llx\n", isa_name(isa), digest_scores(isa).value());
    }
    std::fprintf(file, "matrices google %016llx\n", digest_matrices(true).value());
    std::fprintf(file, "matrices paper %016llx\n", digest_matrices(false).value());
    std::fclose(file);
}

#ifndef HEAP_BUFFERS
void report_fault(int) {
    std::printf("FAILED: a kernel stays inside its buffers\n    at %s\n", situation);
    std::fflush(stdout);
    std::_Exit(1);
}
#endif

}  // namespace

int main(int argc, char** argv) {
#ifndef HEAP_BUFFERS
    std::signal(SIGSEGV, report_fault);
    std::signal(SIGBUS, report_fault);
#endif
    std::vector<Isa> isas = available_isas();
    const char* digest = nullptr;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument == "--quick") {
            quick = true;
        } else if (argument == "--digest" && i + 1 < argc) {
            digest = argv[++i];
        } else {
            try {
                isas = {parse_isa(argument, "kernels_test")};
            } catch (const std::invalid_argument& error) {
                std::fprintf(stderr, "%s\n", error.what());
                return 2;
            }
        }
    }
    const std::pair<const char*, std::function<void()>> tests[] = {
        {"products", [&] { test_products(isas); }},
        {"sum_rows", [&] { std::for_each(isas.begin(), isas.end(), test_sum_rows); }},
        {"half_to_float", [&] { std::for_each(isas.begin(), isas.end(), test_half_to_float); }},
        {"maxsim", [&] { test_maxsim(isas); }},
        {"fde", [&] { test_fde(isas); }},
        {"project_signs", [&] { std::for_each(isas.begin(), isas.end(), test_project_signs); }},
        {"google's encodings", [&] { std::for_each(isas.begin(), isas.end(), test_google_encoding); }},
        {"random streams", test_random_streams},
        {"matrices", test_matrices_stay},
        {"topk", test_topk},
        {"parallel_for", test_parallel_for},
        {"first_row_out_of_range", test_first_row_out_of_range},
        {"parse_isa", test_parse_isa},
    };
    for (const auto& [name, test] : tests) {
        const size_t checks = num_checks, failures = num_failures;
        const auto start = std::chrono::steady_clock::now();
        test();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        std::printf("%-20s %7zu checks, %zu failed, %.2f s\n", name, num_checks - checks, num_failures - failures,
                    seconds.count());
        std::fflush(stdout);
    }
    if (digest) write_digest(digest);
    std::printf("isa:");
    for (const Isa isa : isas) std::printf(" %s", isa_name(isa));
    std::printf("\n%zu checks, %zu failed\n", num_checks, num_failures);
    return num_failures ? 1 : 0;
}
