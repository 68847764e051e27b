// What the bindings share: checks of memory safety, and calls into the core without the GIL.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.hpp"
#include "ragged.hpp"

namespace chamfer::bindings {

namespace py = pybind11;
using namespace py::literals;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

[[noreturn]] inline void fail(const std::string& message) { throw std::invalid_argument(message); }

// For a check that is made once a call: `message` is made whether it is needed or not.
inline void require(bool condition, const std::string& message) {
    if (!condition) fail(message);
}

inline std::string shape_of(const py::array& array) {
    std::string text = "(";
    for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
    return text + ")";
}

inline size_t extent(const py::array& array, py::ssize_t axis) { return static_cast<size_t>(array.shape(axis)); }

inline void require_contiguous(const py::array& array, const std::string& name) {
    require((array.flags() & py::array::c_style) != 0, name + ": expected a C-contiguous array");
    require(reinterpret_cast<uintptr_t>(array.data()) % static_cast<uintptr_t>(array.itemsize()) == 0,
            name + ": expected aligned memory");
}

inline Dtype float_dtype(const py::array& array, const std::string& name) {
    if (py::isinstance<py::array_t<float>>(array)) return Dtype::float32;
    const py::dtype dtype = array.dtype();
    if (dtype.kind() == 'f' && dtype.itemsize() == 2 && dtype.byteorder() == '=') return Dtype::float16;
    throw py::type_error(name + ": expected float32 or float16, got " + py::str(array.dtype()).cast<std::string>());
}

inline TokenVectors token_vectors(const py::array& vectors, const Array<int64_t>& offsets, const std::string& name) {
    require(vectors.ndim() == 2, name + ": expected shape (num_tokens, dim), got " + shape_of(vectors));
    require(offsets.ndim() == 1 && offsets.size() >= 1,
            name + ": offsets must have shape (n + 1,), got " + shape_of(offsets));
    const Dtype dtype = float_dtype(vectors, name);
    require_contiguous(vectors, name);
    require_contiguous(offsets, name + " offsets");
    const int64_t* values = offsets.data();
    const size_t size = extent(offsets, 0) - 1;
    require(values[0] == 0, name + ": offsets must start at 0, got " + std::to_string(values[0]));
    for (size_t i = 0; i < size; ++i) {
        if (values[i] > values[i + 1]) fail(name + ": offsets must not decrease, at " + std::to_string(i + 1));
    }
    require(values[size] == vectors.shape(0), name + ": offsets must end at " + std::to_string(vectors.shape(0)) +
                                                  ", got " + std::to_string(values[size]));
    return {vectors.data(), dtype, values, size, extent(vectors, 1)};
}

inline size_t positive(int64_t value, const char* name) {
    require(value >= 1, std::string(name) + ": expected at least 1, got " + std::to_string(value));
    return static_cast<size_t>(value);
}

// Ctrl-C and other signals: Python's handlers run in the calling thread, every tenth of a second at most. The error
// that one raises waits in the thread while `Interrupted` unwinds the core.
struct Interrupted {};

class InterruptiblePoll {
public:
    void operator()() {
        const auto now = std::chrono::steady_clock::now();
        if (now < next_) return;
        next_ = now + std::chrono::milliseconds(100);
        const py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw Interrupted();
    }

private:
    std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
};

inline Threads interruptible(int64_t num_threads) {
    return {positive(num_threads, "num_threads"), InterruptiblePoll()};
}

// Runs a call of the core without the GIL.
template <class F>
void run_core(F&& call) {
    try {
        const py::gil_scoped_release release;
        call();
    } catch (const Interrupted&) {
        throw py::error_already_set();
    }
}

template <class T>
Array<T> empty(std::initializer_list<size_t> shape) {
    return Array<T>(std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

// A collection with the arrays that it points into. Checked once, when it is made: the offsets are copied, so that
// nobody can change them afterwards.
struct Collection {
    TokenVectors view;
    std::shared_ptr<const std::vector<int64_t>> offsets;
    std::vector<py::array> arrays;
};

// Each adds the functions of one topic to chamfer._core.
void bind_collections(py::module_& module);
void bind_maxsim(py::module_& module);
void bind_fde(py::module_& module);
void bind_features(py::module_& module);
void bind_peaks(py::module_& module);
void bind_binary(py::module_& module);

}  // namespace chamfer::bindings
