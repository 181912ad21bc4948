#include "reactor/buffer_share.h"

#include "base/check.h"

namespace reactor {

BufferShare::BufferShare(BufferPool& pool, std::uint64_t bytes_max) : pool_(pool), bytes_max_(bytes_max) {
    EK_CHECK(bytes_max >= limits::data_block_bytes_max, "a share has room for the largest buffer");
}

BufferShare::~BufferShare() { EK_CHECK(first_ == nullptr, "somebody waits for a share that goes away"); }

bool BufferShare::reserve(std::uint64_t offset, std::uint32_t bytes) {
    if (!pool_.reserve(offset, bytes)) {
        return false;
    }
    held_ += BufferPool::size_of(bytes);
    return true;
}

void BufferShare::wait(BufferWaiter& waiter) {
    if (waiter.waits_for_buffer()) {
        return;
    }
    waiter.share_ = this;
    if (!refused_) {
        pool_.wait(waiter);
        return;
    }
    // Who is being served was the first of those who wait here, and stays it.
    const bool keeps_place = pool_.serving();
    waiter.waiting_ = true;
    waiter.parked_ = true;
    waiter.next_ = keeps_place ? first_ : nullptr;
    waiter.previous_ = keeps_place ? nullptr : last_;
    (waiter.next_ != nullptr ? waiter.next_->previous_ : last_) = &waiter;
    (waiter.previous_ != nullptr ? waiter.previous_->next_ : first_) = &waiter;
}

void BufferShare::stop_waiting(BufferWaiter& waiter) {
    if (!waiter.waits_for_buffer()) {
        return;
    }
    if (waiter.parked_) {
        unpark(waiter);
    } else {
        pool_.stop_waiting(waiter);
    }
    waiter.share_ = nullptr;
    readmit_first();  // it may have stood there for those who wait here, or the next one wants less
}

void BufferShare::unpark(BufferWaiter& waiter) {
    waiter.waiting_ = false;
    waiter.parked_ = false;
    (waiter.previous_ != nullptr ? waiter.previous_->next_ : first_) = waiter.next_;
    (waiter.next_ != nullptr ? waiter.next_->previous_ : last_) = waiter.previous_;
}

void BufferShare::readmit() {
    BufferWaiter& waiter = *first_;
    unpark(waiter);
    pool_.wait_last(waiter);
}

}  // namespace reactor
