// The memory for the data of commands, in two pools, and what one host may have of it.
//
// A host sends data that it is asked for behind all that it has sent before. A connection that stops reading
// because its next command has no buffer would therefore wait for buffers that come back only when it has
// read on. Two rules keep that circle open:
//   - Whoever can wait beside the stream does: a command whose data is still to be asked for, or goes to the
//     host, takes its slot and waits in the line of the common pool, which is fair and which nobody
//     overtakes.
//   - Data that lies in the stream already (in a capsule) has a reserve that nothing else may take. What is
//     in it comes back by itself, unless a host is slow to send the rest of a capsule, or a device to take
//     it: a connection that waits for it stands in the common pool's line as well.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "reactor/buffer_pool.h"
#include "reactor/buffer_share.h"

namespace reactor {

class DataBuffers {
  public:
    // `memory`: whole pages. The common pool has whole pieces of limits::data_block_bytes_max, at least one;
    // the rest, at least `reserve_bytes`, is the reserve.
    DataBuffers(std::span<std::byte> memory, std::uint64_t reserve_bytes);
    // With a sixteenth in reserve, but at least two of the largest buffers: one host has one of them at most.
    explicit DataBuffers(std::span<std::byte> memory);

    BufferPool& common() { return common_; }
    BufferPool& reserve() { return reserve_; }
    BufferPool& pool_of(std::uint64_t offset) { return offset < common_.bytes_total() ? common_ : reserve_; }

    std::span<std::byte> memory() { return memory_; }
    std::byte* at(std::uint64_t offset) { return memory_.data() + offset; }
    std::uint64_t bytes_total() const { return memory_.size(); }
    std::uint64_t bytes_in_use() const { return common_.bytes_in_use() + reserve_.bytes_in_use(); }

    // As the functions of a pool, for both.
    void serve_with(Deferred& service);
    void serve_waiters();

  private:
    std::span<std::byte> memory_;
    BufferPool common_;
    BufferPool reserve_;
};

// One host's part: at most half of each pool.
class HostBuffers {
  public:
    explicit HostBuffers(DataBuffers& buffers);
    // All of `pool`, without a reserve.
    explicit HostBuffers(BufferPool& pool) : common_(pool) {}

    // --- for commands: waits beside the stream -------------------------------------------------------------

    std::optional<std::uint64_t> allocate(std::uint32_t bytes) { return common_.allocate(bytes); }
    void wait(BufferWaiter& waiter) { common_.wait(waiter); }
    void stop_waiting(BufferWaiter& waiter) { common_.stop_waiting(waiter); }

    // --- for connections: data that lies in the stream -----------------------------------------------------

    std::optional<std::uint64_t> allocate_for_stream(std::uint32_t bytes);
    // After allocate_for_stream refused. Both are told when they may ask again, and both keep their places
    // until the connection has what it wants and stops waiting.
    void wait_for_stream(BufferWaiter& of_common, BufferWaiter& of_reserve) {
        common_.wait(of_common);
        if (reserve_) {
            reserve_->wait(of_reserve);
        }
    }
    void stop_waiting_for_stream(BufferWaiter& of_common, BufferWaiter& of_reserve) {
        common_.stop_waiting(of_common);
        if (reserve_) {
            reserve_->stop_waiting(of_reserve);
        }
    }

    // --- for both ------------------------------------------------------------------------------------------

    void release(std::uint64_t offset, std::uint32_t bytes) { share_of(offset).release(offset, bytes); }
    // As BufferPool::reserve.
    bool reserve(std::uint64_t offset, std::uint32_t bytes) {
        return share_of(offset).reserve(offset, bytes);
    }
    std::byte* at(std::uint64_t offset) { return share_of(offset).at(offset); }
    std::uint64_t bytes_held() const {
        return common_.bytes_held() + (reserve_ ? reserve_->bytes_held() : 0);
    }

  private:
    BufferShare& share_of(std::uint64_t offset) {
        return reserve_ && offset >= reserve_begin_ ? *reserve_ : common_;
    }

    BufferShare common_;
    std::optional<BufferShare> reserve_;
    std::uint64_t reserve_begin_ = 0;
};

}  // namespace reactor
