// One host's share of the data buffers: what its connections hold together stays below a bound, so a host
// that asks for much and then neither sends nor takes anything leaves room for the others until its time is
// up.
//
// Used in place of the pool by whoever holds buffers on a host's behalf. Those whom the bound refuses wait
// here, first come first served, and not in the pool's line, where they would hold up others; when something
// of the share comes back, the first of them is put into the pool's line and asks again. Whatever becomes of
// it there, the next one follows: a waiter may have got its buffer elsewhere, or need none any more.
//
// Invariant: while somebody waits here, one of the share stands in the pool's line, or the share holds
// something whose release puts the first of them there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "reactor/buffer_pool.h"

namespace reactor {

class BufferShare {
  public:
    static constexpr std::uint64_t unbounded = std::numeric_limits<std::uint64_t>::max();

    // `bytes_max`: at least limits::data_block_bytes_max.
    explicit BufferShare(BufferPool& pool, std::uint64_t bytes_max = unbounded);
    ~BufferShare();
    BufferShare(const BufferShare&) = delete;
    BufferShare& operator=(const BufferShare&) = delete;

    // As the functions of the pool.
    std::optional<std::uint64_t> allocate(std::uint32_t bytes) {
        const std::uint64_t size = BufferPool::size_of(bytes);
        // Nobody overtakes those who wait; who was put into the pool's line asks while the pool serves it.
        refused_ = held_ + size > bytes_max_ || (first_ != nullptr && !pool_.serving());
        if (refused_) [[unlikely]] {
            return std::nullopt;
        }
        const std::optional<std::uint64_t> offset = pool_.allocate(bytes);
        if (offset) {
            held_ += size;
            readmit_first();
        }
        return offset;
    }
    void release(std::uint64_t offset, std::uint32_t bytes) {
        pool_.release(offset, bytes);
        held_ -= BufferPool::size_of(bytes);
        readmit_first();
    }
    bool reserve(std::uint64_t offset, std::uint32_t bytes);
    void wait(BufferWaiter& waiter);
    void stop_waiting(BufferWaiter& waiter);
    std::byte* at(std::uint64_t offset) { return pool_.at(offset); }

    std::uint64_t bytes_held() const { return held_; }

  private:
    friend class BufferPool;
    // One of the share stood in the pool's line, was asked, and does not wait any more.
    void was_asked() { readmit_first(); }
    void unpark(BufferWaiter& waiter);
    void readmit();
    void readmit_first() {
        if (first_ != nullptr && held_ < bytes_max_) [[unlikely]] {
            readmit();
        }
    }

    BufferPool& pool_;
    std::uint64_t bytes_max_;
    std::uint64_t held_ = 0;
    bool refused_ = false;  // the last allocation, by the bound
    BufferWaiter* first_ = nullptr;
    BufferWaiter* last_ = nullptr;
};

}  // namespace reactor
