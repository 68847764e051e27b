// The loops, for every target region; the region's V says what its registers are.

// Each loop has kChains registers, each one instruction group after another: enough of them to hide the latency, few
// enough to stay in registers beside the two factors. A step's result depends on its chain, and chains start from
// numbers that the compiler does not know (`state`, which also takes the results): no step can be moved out of the loop
// and no two chains be made one. `factors` is two times 64 bytes.
template <class Loop>
uint64_t run_loop(uint64_t rounds, const uint8_t* factors, uint8_t* state) {
    using Reg = typename Loop::Reg;
    constexpr size_t kSteps = 2;  // a round: compilers copy every chain at its end
    Reg chains[Loop::kChains], a, b;
    std::memcpy(&a, factors, sizeof(Reg));
    std::memcpy(&b, factors + 64, sizeof(Reg));
    CHAMFER_UNROLL
    for (size_t c = 0; c < Loop::kChains; ++c) {
        Reg first;  // a copy: an array whose address is taken would live in memory
        std::memcpy(&first, state + c * sizeof(Reg), sizeof(Reg));
        chains[c] = first;
    }
    for (uint64_t round = 0; round < rounds; ++round) {
        CHAMFER_UNROLL
        for (size_t i = 0; i < kSteps * Loop::kChains; ++i) {
            chains[i % Loop::kChains] = Loop::step(chains[i % Loop::kChains], a, b);
        }
    }
    CHAMFER_UNROLL
    for (size_t c = 0; c < Loop::kChains; ++c) {
        const Reg last = chains[c];
        std::memcpy(state + c * sizeof(Reg), &last, sizeof(Reg));
    }
    return rounds * kSteps * Loop::kChains * Loop::kOperations;
}

uint64_t read_all(const uint8_t* buffer, size_t num_bytes, size_t prefetch_bytes) {
    using Reg = typename V::Word;
    constexpr size_t kChunk = 1024;
    Reg sums[8] = {};
    for (size_t at = 0; at < num_bytes; at += kChunk) {
        const uint8_t* chunk = buffer + at;
        if (prefetch_bytes != 0) {
            CHAMFER_UNROLL
            for (size_t i = 0; i < kChunk; i += 64) {
                CHAMFER_PREFETCH(reinterpret_cast<uintptr_t>(chunk) + prefetch_bytes + i);
            }
        }
        CHAMFER_UNROLL
        for (size_t i = 0; i < kChunk / sizeof(Reg); ++i) {
            sums[i % 8] = V::add_words(sums[i % 8], V::load_words(chunk + i * sizeof(Reg)));
        }
    }
    uint64_t words[sizeof(sums) / 8], total = 0;
    std::memcpy(words, sums, sizeof(sums));
    for (const uint64_t word : words) total += word;
    return total;
}
