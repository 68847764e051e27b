// Memory that starts on a cache line.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace chamfer {

// Scratch memory of the kernels starts on a cache line, so that no full-width load crosses two.
template <class T>
struct CacheAligned {
    using value_type = T;
    static constexpr std::align_val_t kAlignment{64};
    CacheAligned() = default;
    template <class U>
    CacheAligned(const CacheAligned<U>&) {}
    T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
    void deallocate(T* p, size_t) { ::operator delete(p, kAlignment); }
    friend bool operator==(const CacheAligned&, const CacheAligned&) { return true; }
};

using FloatBuffer = std::vector<float, CacheAligned<float>>;

}  // namespace chamfer
