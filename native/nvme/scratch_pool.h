// Memory for bytes that a command looks at and does not transfer: the medium's side of a Compare, the data of
// a Verify, zeroes for a device that cannot write them itself.
//
// It is apart from the data pool on purpose. A command that holds a data buffer and waits for another one
// could wait for ever once all memory belongs to such commands; who holds scratch memory waits only for the
// device. And it is private to the process: what a dead predecessor's reads still write cannot land here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nvme {

struct Command;

struct ScratchWaiter {
    Command* command = nullptr;
    void (*granted)(ScratchWaiter& waiter) = nullptr;
    std::byte* memory = nullptr;  // ScratchPool::chunk_bytes, page-aligned; null: none held
    bool waiting = false;
    ScratchWaiter* next = nullptr;
};

class ScratchPool {
  public:
    static constexpr std::uint32_t chunk_bytes = 128 * 1024;
    static constexpr std::uint32_t chunk_count = 8;

    ScratchPool();
    ~ScratchPool();
    ScratchPool(const ScratchPool&) = delete;
    ScratchPool& operator=(const ScratchPool&) = delete;

    // True if `waiter.memory` is set when the call returns; otherwise `waiter.granted` is called later, from
    // within somebody's release().
    bool acquire(ScratchWaiter& waiter);
    // Gives the memory back, or the place in line. Nothing happens if the waiter has neither.
    void release(ScratchWaiter& waiter);

  private:
    void serve();

    std::byte* memory_;  // reserved address space; pages come with the first use
    std::byte* free_[chunk_count];
    std::uint32_t free_count_ = 0;
    ScratchWaiter* first_ = nullptr;
    ScratchWaiter* last_ = nullptr;
    bool serving_ = false;
};

}  // namespace nvme
