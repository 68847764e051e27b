// The Python module chamfer._core: memory safety checked, the GIL released, one call into the core; no arithmetic.
//
// Types, finiteness and everything that deserves a sentence for the user are checked in Python before; whoever calls
// this module directly still cannot make it read or write outside an array, unless another thread changes an argument
// meanwhile. Arrays are bound without conversion: nothing is copied in silence.
#include "bindings.hpp"

#include "isa.hpp"

namespace chamfer::bindings {
namespace {

// A check that would need a temporary array in NumPy.
int64_t first_row_out_of_range(const py::array& vectors, int64_t num_threads) {
    require(vectors.ndim() == 2, "vectors: expected shape (num_tokens, dim), got " + shape_of(vectors));
    require_contiguous(vectors, "vectors");
    const Dtype dtype = float_dtype(vectors, "vectors");
    const size_t num_rows = extent(vectors, 0), dim = extent(vectors, 1),
                 threads = positive(num_threads, "num_threads");
    const void* data = vectors.data();
    const py::gil_scoped_release release;
    return chamfer::first_row_out_of_range(data, dtype, num_rows, dim, threads);
}

}  // namespace

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
    module.doc() = "The compiled core of chamfer. Its functions check memory safety only: use the package's own.";
    module.attr("__version__") = CHAMFER_VERSION;
#ifdef NDEBUG
    module.attr("ASSERTIONS") = false;
#else
    module.attr("ASSERTIONS") = true;
#endif

    module.def("available_isas", [] {
        std::vector<std::string> names;
        for (const auto isa : available_isas()) names.emplace_back(isa_name(isa));
        return names;
    });
    module.def(
        "check_isa", [](const std::string& name, const std::string& argument) { parse_isa(name, argument.c_str()); },
        "name"_a, "argument"_a);
    module.def("first_row_out_of_range", &first_row_out_of_range, "vectors"_a.noconvert(), "num_threads"_a);

    bind_collections(module);
    bind_maxsim(module);
    bind_fde(module);
    bind_features(module);
    bind_peaks(module);
    bind_binary(module);
}

}  // namespace chamfer::bindings
