// The core against its definitions, written out here in double precision.
//
//   kernels_test [ISA] [--quick] [--digest FILE]
//
// Without a name, every instruction set of this CPU runs. --quick takes fewer shapes, for emulators and sanitizers.
// --digest writes hashes of results that must be the same bits on every platform.
#include <algorithm>
#include <array>
#include <bit>
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
#include "features.hpp"
#include "fixtures.hpp"
#include "hamming.hpp"
#include "maxsim.hpp"
#include "product.hpp"
#include "sdc.hpp"
#include "testing.hpp"

namespace {

using namespace chamfer;
using namespace chamfer::testing;

// ── digests: what every platform must agree on ──────────────────────────────────────────────────────────────────────

class Hash {  // FNV-1a over the bits of the numbers, lowest byte first
public:
    template <class Range>
    void add(const Range& numbers) {
        for (const auto& x : numbers) {
            const auto bits = std::bit_cast<std::array<uint8_t, sizeof x>>(x);
            for (const uint8_t byte : bits) value_ = (value_ ^ byte) * 0x100000001b3ULL;
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
        packed.kernels.float32.fold(packed.view(dim), Rows::of_floats(p.rows.data(), dim, dim), num_rows,
                                    Ahead::none(p.rows.data()), maxima.data());
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
    maxsim({queries.view(), documents.view(Dtype::float16), weights.data(), nullptr, 2, isa}, scores.data());
    Hash hash;
    hash.add(scores);
    return hash;
}

Hash digest_hamming(Isa isa) {
    Random random(23);
    Hash hash;
    for (const size_t code_size : {size_t{1}, size_t{16}, size_t{33}, size_t{128}, size_t{300}}) {
        std::vector<uint8_t> codes(200 * code_size);
        for (uint8_t& byte : codes) byte = static_cast<uint8_t>(random.below(256));
        std::vector<int32_t> distances(3 * 50);
        std::vector<int64_t> rows(3 * 50);
        hamming_topk({codes.data(), codes.data(), 3, 200, code_size, 2, isa}, 50, distances.data(), rows.data());
        for (const int32_t distance : distances) hash.add(std::array{static_cast<float>(distance)});
        for (const int64_t row : rows) hash.add(std::array{static_cast<float>(row)});
    }
    return hash;
}

Hash digest_sdc(Isa isa) {
    Random random(29);
    Hash hash;
    for (const size_t bits : {size_t{1}, size_t{2}, size_t{4}}) {
        const RecurrentShape shape{77, bits};
        std::vector<uint8_t> levels(100 * shape.dim);
        for (uint8_t& level : levels) level = static_cast<uint8_t>(random.below(size_t{1} << bits));
        const std::vector<float> scales = random.numbers(100);
        for (const SdcFormula formula : {SdcFormula::bitwise, SdcFormula::integer, SdcFormula::table}) {
            std::vector<uint8_t> packed(packed_bytes(shape, formula, 100));
            pack_levels(shape, formula, levels.data(), 100, packed.data());
            std::vector<float> similarities(5 * 60);
            std::vector<int64_t> rows(5 * 60);
            sdc_topk({shape, bits, formula, levels.data(), scales.data(), 5, packed.data(), scales.data(), 100, 2, isa},
                     60, similarities.data(), rows.data());
            hash.add(similarities);
            for (const int64_t row : rows) hash.add(std::array{static_cast<float>(row)});
        }
    }
    return hash;
}

// Codes of every width, in planes, times columns of 8 bits; and bits that differ.
Hash digest_integers(Isa isa) {
    constexpr size_t kNumRows = 37, kNumColumns = 33, kRowBytes = 64;
    const ProductKernels& kernels = product_kernels(isa);
    Random random(21);
    Hash hash;
    const auto multiply = [&](const WordKernels& words, const OwnedColumns& columns, const Rows& rows, int32_t worst,
                              auto&& correction) {
        const size_t num_lanes = columns.view().num_lanes;
        std::vector<int32_t> best(num_lanes, worst), products(kNumRows * num_lanes);
        words.fold_and_store(columns.view(), rows, kNumRows, Ahead::none(rows.data), best.data(), products.data());
        for (size_t c = 0; c < kNumColumns; ++c) {
            hash.add(std::array{best[c] + correction(c)});
            for (size_t r = 0; r < kNumRows; ++r) hash.add(std::array{products[r * num_lanes + c] + correction(c)});
        }
    };
    std::vector<uint8_t> codes(kNumRows * kRowBytes), levels(16);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random.below(256));
    for (uint8_t& level : levels) level = static_cast<uint8_t>(random.below(256));
    for (const unsigned bits : {8U, 4U, 2U, 1U}) {
        const size_t num_planes = 8 / bits, plane_bytes = kNumRows * kRowBytes * kernels.int8_bytes;
        const size_t num_words = num_planes * kRowBytes * kernels.int8_bytes / 4;
        std::vector<uint8_t> expanded(num_planes * plane_bytes);
        kernels.expand(codes.data(), codes.size(), bits, levels.data(), expanded.data(), plane_bytes);
        std::vector<uint32_t> columns(kNumColumns * num_words);
        std::vector<int32_t> sums(kNumColumns);
        for (size_t i = 0; i < columns.size() * 4 / kernels.int8_bytes; ++i) {
            const auto number = static_cast<int16_t>(static_cast<int>(random.below(255)) - 127);
            std::memcpy(reinterpret_cast<uint8_t*>(columns.data()) + i * kernels.int8_bytes, &number,
                        kernels.int8_bytes);
            sums[i / (num_planes * kRowBytes)] += number;
        }
        OwnedColumns packed;
        packed.assign(kernels, columns.data(), kNumColumns, num_words, 1, num_words);
        const Rows rows{reinterpret_cast<const uint32_t*>(expanded.data()), num_words / num_planes,
                        num_words / num_planes, num_planes, plane_bytes / 4};
        multiply(kernels.int8, packed, rows, -1 << 30, [&](size_t c) { return kernels.int8_row_offset * sums[c]; });
    }
    std::vector<uint32_t> columns(kNumColumns * kRowBytes / 4);
    for (uint32_t& word : columns) word = static_cast<uint32_t>(random.below(size_t{1} << 32));
    OwnedColumns packed;
    packed.assign(kernels, columns.data(), kNumColumns, kRowBytes / 4, 1, kRowBytes / 4);
    multiply(kernels.bits, packed, {reinterpret_cast<const uint32_t*>(codes.data()), kRowBytes / 4, kRowBytes / 4},
             1 << 30, [](size_t) { return 0; });
    return hash;
}

// The bytes that documents of every storage are made of, and their scores.
struct StorageDigest {
    Hash codes, scores;
};

StorageDigest digest_storage(Isa isa, Dtype dtype, bool of_bits) {
    Random random(22);
    const Ragged queries(random, {32, 5, 0, 1}, 133, false), documents(random, {60, 0, 7, 180}, 133, false);
    const Exact<float> weights(random.numbers(38));
    const Frame frame(random, 133, dtype, 0.5f, 1.0f);
    const Coded coded(documents, dtype, frame.book(6.0f)), bits(queries, Dtype::codes1, frame.book(1.0f));
    Exact<float> scores(16);
    maxsim({of_bits ? bits.view : queries.view(), coded.view, weights.data(), nullptr, 2, isa}, scores.data());
    StorageDigest digest;
    digest.scores.add(scores);
    digest.codes.add(coded.codes);
    digest.codes.add(coded.scales);
    digest.codes.add(coded.errors);
    digest.codes.add(coded.norms);
    digest.codes.add(coded.token_terms);
    return digest;
}

Hash digest_screened(Isa isa) {
    Random random(23);
    const Ragged queries(random, {32, 5, 0, 1}, 128, false), documents(random, {60, 0, 7, 180, 3}, 128, true);
    const Frame frame(random, 128, Dtype::codes8, 0.5f, 1.0f);
    const Coded codes(documents, Dtype::codes8, frame.book(6.0f), Dtype::float16);
    const MaxSimInput input{queries.view(), documents.view(Dtype::float16), nullptr, &codes.view, 2, isa};
    Exact<float> scores(20), best(8);
    Exact<int64_t> rows(8);
    maxsim(input, scores.data());
    maxsim_topk(input, 2, best.data(), rows.data());
    Hash hash;
    hash.add(scores);
    hash.add(best);
    hash.add(rows);
    return hash;
}

Hash digest_features(Isa isa) {
    Random random(31);
    const size_t dim = 97, num_features = 150;
    const Ragged items(random, {32, 0, 1, 1, 270}, dim, true);
    const Exact<float> weights(random.numbers(num_features * dim)), center(random.numbers(num_features));
    Exact<float> sums(5 * num_features), projected(5 * 70);
    const FeatureMap features(weights.data(), center.data(), num_features, dim, isa);
    features.sum(items.view(Dtype::float16), 2, sums.data());
    const Ragged matrix(random, {70}, 1500, true);
    const Exact<float> rows(random.numbers(5 * 1500));
    project(rows.data(), 5, 1500, matrix.halves->data(), Dtype::float16, 70, 2, isa, projected.data());
    Hash hash;
    hash.add(sums);
    hash.add(projected);
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
    const auto write = [&](const char* kind, const char* name, const Hash& hash) {
        std::fprintf(file, "%s %s %016llx\n", kind, name, hash.value());
    };
    for (const Isa isa : available_isas()) {
        const char* name = isa_name(isa);
        write("integers", name, digest_integers(isa));
        write("codes8", name, digest_storage(isa, Dtype::codes8, false).scores);
        write("codes4", name, digest_storage(isa, Dtype::codes4, false).scores);
        write("codes2", name, digest_storage(isa, Dtype::codes2, false).scores);
        write("codes1", name, digest_storage(isa, Dtype::codes1, false).scores);
        write("hamming", name, digest_hamming(isa));
        write("sdc", name, digest_sdc(isa));
        write("bits", name, digest_storage(isa, Dtype::codes1, true).scores);
        if (isa == Isa::scalar) continue;  // rounds after the multiplication
        write("products", name, digest_products(isa));
        write("scores", name, digest_scores(isa));
        write("screened", name, digest_screened(isa));
        write("features", name, digest_features(isa));
        if (isa == Isa::avx512_bf16) continue;  // has an instruction that rounds otherwise
        write("bfloat16", name, digest_storage(isa, Dtype::bfloat16, false).scores);
    }
    write("encoded", "bfloat16", digest_storage(Isa::scalar, Dtype::bfloat16, false).codes);
    write("encoded", "codes8", digest_storage(Isa::scalar, Dtype::codes8, false).codes);
    write("encoded", "codes4", digest_storage(Isa::scalar, Dtype::codes4, false).codes);
    write("encoded", "codes2", digest_storage(Isa::scalar, Dtype::codes2, false).codes);
    write("encoded", "codes1", digest_storage(Isa::scalar, Dtype::codes1, false).codes);
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
        {"words", [&] { std::for_each(isas.begin(), isas.end(), test_words); }},
        {"fold_scaled", [&] { std::for_each(isas.begin(), isas.end(), test_fold_scaled); }},
        {"rows_reaching", [&] { std::for_each(isas.begin(), isas.end(), test_rows_reaching); }},
        {"expand", [&] { std::for_each(isas.begin(), isas.end(), test_expand); }},
        {"to_bfloat16", test_to_bfloat16},
        {"codes", test_codes},
        {"convert", [&] { std::for_each(isas.begin(), isas.end(), test_convert); }},
        {"convert_rows", [&] { std::for_each(isas.begin(), isas.end(), test_convert_rows); }},
        {"maxsim", [&] { test_maxsim(isas); }},
        {"storages", [&] { test_storages(isas); }},
        {"screen", [&] { test_screen(isas); }},
        {"fde", [&] { test_fde(isas); }},
        {"project_signs", [&] { std::for_each(isas.begin(), isas.end(), test_project_signs); }},
        {"google's encodings", [&] { std::for_each(isas.begin(), isas.end(), test_google_encoding); }},
        {"sum_features", [&] { test_sum_features(isas); }},
        {"project", [&] { std::for_each(isas.begin(), isas.end(), test_project); }},
        {"hamming", [&] { test_hamming(isas); }},
        {"sdc", [&] { test_sdc(isas); }},
        {"select", [&] { std::for_each(isas.begin(), isas.end(), test_select); }},
        {"run best", test_run_best},
        {"highest first", test_highest_first},
        {"random streams", test_random_streams},
        {"matrices", test_matrices_stay},
        {"peaks", test_peaks},
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
