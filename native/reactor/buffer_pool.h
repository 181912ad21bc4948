// Data buffers for commands: a buddy allocator over one span of memory that outlives the process. The bookkeeping
// is private to the process; after a restart it is rebuilt with `reserve` from what the command records name.
//
// Sizes are rounded up to a power of two between limits::data_block_bytes_min and _max, and every buffer is
// aligned to its size. When memory runs out, who asked waits in line: nothing grows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace reactor {

// Someone who waits until `bytes_` can be had. Intrusive, first come first served. `retry` is called from within
// `release`'s caller's iteration (deferred), and must allocate again itself.
class BufferWaiter {
public:
    virtual void buffer_available() = 0;

protected:
    ~BufferWaiter() = default;

private:
    friend class BufferPool;
    BufferWaiter* next_ = nullptr;
    BufferWaiter* previous_ = nullptr;
    bool waiting_ = false;
};

class BufferPool {
public:
    explicit BufferPool(std::span<std::byte> memory);
    ~BufferPool();
    BufferPool(const BufferPool&) = delete;
    BufferPool& operator=(const BufferPool&) = delete;

    // Offset of a buffer of at least `bytes` (1 … limits::data_block_bytes_max), or nothing. Never overtakes
    // waiters: while somebody waits, only `allocate` from within buffer_available() succeeds.
    std::optional<std::uint64_t> allocate(std::uint32_t bytes);
    void release(std::uint64_t offset, std::uint32_t bytes);
    // Takes the buffer that a predecessor had allocated. False if it is not a possible buffer or already taken:
    // the record that named it is corrupt.
    bool reserve(std::uint64_t offset, std::uint32_t bytes);

    void wait(BufferWaiter& waiter);
    void stop_waiting(BufferWaiter& waiter);
    // Calls waiters in order while memory is there; run by the engine at the end of an iteration.
    void serve_waiters();
    bool has_waiters() const { return first_waiter_ != nullptr; }

    std::byte* at(std::uint64_t offset) { return memory_.data() + offset; }
    std::span<std::byte> memory() { return memory_; }
    std::uint64_t bytes_in_use() const { return bytes_in_use_; }
    std::uint64_t bytes_total() const { return memory_.size(); }

private:
    struct Block;  // see buffer_pool.cc
    std::span<std::byte> memory_;
    std::vector<std::uint32_t> free_heads_;     // per order: first free block, by page number
    std::vector<std::uint32_t> links_;          // per page: next and previous of the free list, interleaved
    std::vector<std::uint8_t> state_;           // per page: order and whether a free or used block starts here
    std::uint64_t bytes_in_use_ = 0;
    bool serving_ = false;
    BufferWaiter* first_waiter_ = nullptr;
    BufferWaiter* last_waiter_ = nullptr;
};

}  // namespace reactor
