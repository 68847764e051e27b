// What this core can do at best, for the benchmarks.
#include <string>

#include "bindings.hpp"
#include "isa.hpp"
#include "peaks.hpp"

namespace chamfer::bindings {
namespace {

Peak parse_peak(const std::string& name) {
    if (name == "fma_f32") return Peak::fma_f32;
    if (name == "dot_bf16") return Peak::dot_bf16;
    if (name == "dot_i8") return Peak::dot_i8;
    if (name == "popcount") return Peak::popcount;
    fail("peak: expected fma_f32, dot_bf16, dot_i8 or popcount, got '" + name + "'");
}

uint64_t run_peak(const std::string& peak, int64_t rounds, const std::string& isa) {
    const Peak which = parse_peak(peak);
    const Isa level = parse_isa(isa, "isa");
    const size_t count = positive(rounds, "rounds");
    const py::gil_scoped_release release;
    return chamfer::run_peak(which, level, count);
}

uint64_t read_memory(const Array<uint8_t>& buffer, int64_t prefetch_bytes, const std::string& isa) {
    const Isa level = parse_isa(isa, "isa");
    require_contiguous(buffer, "buffer");
    const size_t num_bytes = static_cast<size_t>(buffer.size());
    require(num_bytes % 1024 == 0, "buffer: expected a multiple of 1024 bytes, got " + std::to_string(num_bytes));
    require(prefetch_bytes >= 0, "prefetch_bytes: expected at least 0, got " + std::to_string(prefetch_bytes));
    const void* data = buffer.data();
    const py::gil_scoped_release release;
    return chamfer::read_memory(data, num_bytes, static_cast<size_t>(prefetch_bytes), level);
}

}  // namespace

void bind_peaks(py::module_& module) {
    module.def("run_peak", &run_peak, "peak"_a, "rounds"_a, py::kw_only(), "isa"_a);
    module.def("read_memory", &read_memory, "buffer"_a.noconvert(), "prefetch_bytes"_a, py::kw_only(), "isa"_a);
}

}  // namespace chamfer::bindings
