// How a change to shared memory becomes true: everything else first, then one aligned store.
//
// The reader is a successor process after this one was reaped, so the processor's own ordering does not
// matter; only the compiler must not move the other stores past the committing one (or drop them).
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace durable {

template <typename T>
inline void commit(T& target, T value) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    __atomic_store(&target, &value, __ATOMIC_RELAXED);
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

// A record too large for one store: two copies and the index of the one that counts.
template <typename T>
struct Pair {
    static_assert(std::is_trivially_copyable_v<T>);
    T copies[2];
    std::uint32_t active;
    std::uint32_t reserved;

    const T& current() const { return copies[active & 1]; }
    void store(const T& value) {
        const std::uint32_t next = (active & 1) ^ 1;
        std::memcpy(&copies[next], &value, sizeof value);
        commit(active, next);
    }
};

}  // namespace durable
