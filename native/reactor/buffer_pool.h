// Data buffers for commands: a buddy allocator over one span of memory that outlives the process. The
// bookkeeping is private to the process; after a restart it is rebuilt with `reserve` from what the command
// records name.
//
// Sizes are rounded up to a power of two between limits::data_block_bytes_min and _max, and every buffer is
// aligned to its size. When memory runs out, who asked waits in line: nothing grows.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/limits.h"

namespace reactor {

class BufferShare;
class Deferred;

// Someone who waits for memory. Intrusive, first come first served. `buffer_available` is called from within
// `serve_waiters`, must allocate again itself and, if that fails, wait again: it then keeps its place in
// line.
class BufferWaiter {
  public:
    virtual void buffer_available() = 0;
    bool waits_for_buffer() const { return waiting_; }

  protected:
    ~BufferWaiter() = default;

  private:
    friend class BufferPool;
    friend class BufferShare;
    BufferWaiter* next_ = nullptr;
    BufferWaiter* previous_ = nullptr;
    BufferShare* share_ = nullptr;  // on whose behalf it waits, if any
    bool waiting_ = false;
    bool parked_ = false;  // waits in its share, not in the pool's line
};

class BufferPool {
  public:
    // `begin`: the offset of the memory's first byte (a multiple of limits::data_block_bytes_max), for a pool
    // that is a part of something larger.
    explicit BufferPool(std::span<std::byte> memory, std::uint64_t begin = 0);
    ~BufferPool();
    BufferPool(const BufferPool&) = delete;
    BufferPool& operator=(const BufferPool&) = delete;

    // Offset of a buffer of at least `bytes` (1 … limits::data_block_bytes_max), or nothing. Never overtakes
    // waiters: while somebody waits, only `allocate` from within buffer_available() succeeds.
    std::optional<std::uint64_t> allocate(std::uint32_t bytes);
    void release(std::uint64_t offset, std::uint32_t bytes);
    // Takes the buffer that a predecessor had allocated. False if it is not a possible buffer or already
    // taken: the record that named it is corrupt.
    bool reserve(std::uint64_t offset, std::uint32_t bytes);

    void wait(BufferWaiter& waiter);
    // Behind all others, and asked again soon even if nothing came back.
    void wait_last(BufferWaiter& waiter);
    void stop_waiting(BufferWaiter& waiter);
    // Work to schedule when memory came back and somebody waits: calls serve_waiters. Set once, outlives the
    // pool's use.
    void serve_with(Deferred& service) { service_ = &service; }
    // Calls waiters in order while memory is there; run at the end of an iteration (serve_with).
    void serve_waiters();
    bool has_waiters() const { return first_waiter_ != nullptr; }
    bool serving() const { return serving_; }
    // What a buffer of `bytes` takes from the pool.
    static std::uint64_t size_of(std::uint32_t bytes) {
        return std::bit_ceil(std::max(bytes, limits::data_block_bytes_min));
    }

    std::byte* at(std::uint64_t offset) { return memory_.data() + (offset - begin_); }
    std::span<std::byte> memory() { return memory_; }
    std::uint64_t bytes_in_use() const { return bytes_in_use_; }
    std::uint64_t bytes_total() const { return memory_.size(); }

  private:
    struct FreeList {
        std::uint32_t first;
        std::uint32_t count;
    };

    struct Links {
        std::uint32_t next;
        std::uint32_t previous;
    };

    static constexpr std::uint32_t orders = std::bit_width(limits::data_block_bytes_max / limits::page_bytes);

    static std::uint32_t order_of(std::uint32_t bytes);
    void append(BufferWaiter& waiter);
    void unlink(BufferWaiter& waiter);
    void push(FreeList& list, std::uint32_t page, std::uint8_t state);
    std::uint32_t pop(FreeList& list);
    void unlink(FreeList& list, std::uint32_t page);
    std::uint32_t split(std::uint32_t page, std::uint32_t from, std::uint32_t to, std::uint32_t wanted);
    void merge(std::uint32_t page, std::uint32_t order);
    bool merge_recent();
    std::optional<std::uint32_t> take(std::uint32_t order);

    std::span<std::byte> memory_;
    std::uint64_t begin_;
    std::uint32_t pages_;
    FreeList free_[orders];     // merged free blocks, per order
    FreeList recent_[orders];   // blocks released lately, not merged: given out again first, still warm
    std::vector<Links> links_;  // per page: its place in its list
    std::vector<std::uint8_t> state_;  // per page: what starts here, see buffer_pool.cc
    std::uint64_t bytes_in_use_ = 0;
    Deferred* service_ = nullptr;
    bool serving_ = false;
    bool served_in_vain_ = false;  // the waiter that is being served was refused
    bool released_ = false;        // something came back since a waiter was refused
    std::uint32_t waiters_ = 0;
    BufferWaiter* first_waiter_ = nullptr;
    BufferWaiter* last_waiter_ = nullptr;
};

}  // namespace reactor
