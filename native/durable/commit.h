// How a change to shared memory becomes true: everything else first, then one aligned store.
//
// The reader is a successor process after this one was reaped, so the processor's own ordering does not
// matter; only the compiler must not move the other stores past the committing one (or drop them).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace durable {

template <typename T>
inline void commit(T& target, T value) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    __atomic_store(&target, &value, __ATOMIC_RELAXED);
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

// A field read by itself. Compilers join comparisons of neighbouring fields into one wide load, which waits
// for the narrower stores that came just before it.
template <typename T>
inline T load_alone(const T& field) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
    T value;
    __atomic_load(&field, &value, __ATOMIC_RELAXED);
    return value;
}

// A record too large for one store: two copies and the index of the one that counts.
template <typename T>
struct Pair {
    static_assert(std::is_trivially_copyable_v<T>);
    T copies[2];
    std::uint32_t active;
    std::uint32_t reserved;

    const T& current() const { return copies[active & 1]; }
    // Copied in words of eight bytes: the caller has just stored some of the fields, and a processor makes a
    // wider load wait until all of them have left its store buffer.
    void store(const T& value) {
        static_assert(sizeof(T) % sizeof(std::uint64_t) == 0 && alignof(T) >= alignof(std::uint64_t));
        const std::uint32_t next = (active & 1) ^ 1;
        const auto* const from = reinterpret_cast<const volatile std::uint64_t*>(&value);
        auto* const to = reinterpret_cast<std::uint64_t*>(&copies[next]);
        for (std::size_t i = 0; i < sizeof(T) / sizeof(std::uint64_t); ++i) {
            to[i] = from[i];
        }
        commit(active, next);
    }
};

}  // namespace durable
