#include "nvme/scratch_pool.h"

#include <sys/mman.h>

#include "base/check.h"

namespace nvme {

ScratchPool::ScratchPool() {
    constexpr std::size_t bytes = std::size_t{chunk_bytes} * chunk_count;
    void* const memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EK_CHECK(memory != MAP_FAILED, "no address space for scratch memory");
    memory_ = static_cast<std::byte*>(memory);
    for (std::uint32_t i = chunk_count; i-- > 0;) {
        free_[free_count_++] = memory_ + std::size_t{i} * chunk_bytes;
    }
}

ScratchPool::~ScratchPool() {
    EK_CHECK(free_count_ == chunk_count && first_ == nullptr, "a scratch pool goes while commands use it");
    munmap(memory_, std::size_t{chunk_bytes} * chunk_count);
}

bool ScratchPool::acquire(ScratchWaiter& waiter) {
    EK_CHECK(waiter.memory == nullptr && !waiter.waiting, "scratch memory is acquired once");
    if (free_count_ != 0 && first_ == nullptr) {
        waiter.memory = free_[--free_count_];
        return true;
    }
    waiter.waiting = true;
    waiter.next = nullptr;
    (last_ != nullptr ? last_->next : first_) = &waiter;
    last_ = &waiter;
    return false;
}

void ScratchPool::release(ScratchWaiter& waiter) {
    if (waiter.waiting) {
        ScratchWaiter* previous = nullptr;
        ScratchWaiter* at = first_;
        while (at != &waiter) {
            previous = at;
            at = at->next;
        }
        (previous != nullptr ? previous->next : first_) = waiter.next;
        last_ = last_ == &waiter ? previous : last_;
        waiter.waiting = false;
    } else if (waiter.memory != nullptr) {
        free_[free_count_++] = waiter.memory;
        waiter.memory = nullptr;
    }
    serve();
}

// Iterative for the same reason as RangeLock::serve().
void ScratchPool::serve() {
    if (serving_) {
        return;
    }
    serving_ = true;
    while (first_ != nullptr && free_count_ != 0) {
        ScratchWaiter& waiter = *first_;
        first_ = waiter.next;
        last_ = first_ == nullptr ? nullptr : last_;
        waiter.waiting = false;
        waiter.memory = free_[--free_count_];
        waiter.granted(waiter);
    }
    serving_ = false;
}

}  // namespace nvme
