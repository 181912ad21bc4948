#include "reactor/buffer_pool.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "reactor/buffer_share.h"
#include "reactor/reactor.h"

namespace reactor {

namespace {

constexpr std::uint32_t no_page = ~0u;
constexpr std::uint32_t page_shift = std::countr_zero(limits::page_bytes);

// So many blocks of each order stay unmerged, so that a steady load neither splits nor merges.
constexpr std::uint32_t recent_max = 256;

// state_ of a page: what starts here, with the order in the low bits.
constexpr std::uint8_t inside = 0;  // nothing starts here: inside a block
constexpr std::uint8_t free_block = 0x10;
constexpr std::uint8_t recent_block = 0x20;
constexpr std::uint8_t used_block = 0x30;

constexpr std::uint8_t state(std::uint8_t what, std::uint32_t order) {
    return static_cast<std::uint8_t>(what | order);
}

}  // namespace

static_assert(limits::data_block_bytes_min == limits::page_bytes, "the bookkeeping counts in pages");

BufferPool::BufferPool(std::span<std::byte> memory, std::uint64_t begin)
    : memory_(memory), begin_(begin), pages_(static_cast<std::uint32_t>(memory.size() >> page_shift)) {
    EK_CHECK(begin % limits::data_block_bytes_max == 0, "the largest buffer is aligned to its size");
    EK_CHECK(memory.size() % limits::page_bytes == 0, "the pool is made of whole pages");
    EK_CHECK(memory.size() >> page_shift < no_page, "page numbers have 32 bits");
    links_.resize(pages_, {no_page, no_page});
    state_.resize(pages_, inside);
    for (std::uint32_t order = 0; order < orders; ++order) {
        free_[order] = {no_page, 0};
        recent_[order] = {no_page, 0};
    }
    // From the end, so that the first page is the first to be given out.
    for (std::uint32_t end = pages_; end > 0;) {
        const std::uint32_t order = std::min(static_cast<std::uint32_t>(std::countr_zero(end)), orders - 1);
        end -= 1u << order;
        push(free_[order], end, state(free_block, order));
    }
}

BufferPool::~BufferPool() { EK_CHECK(first_waiter_ == nullptr, "somebody waits for a pool that goes away"); }

std::uint32_t BufferPool::order_of(std::uint32_t bytes) {
    EK_CHECK(bytes > 0 && bytes <= limits::data_block_bytes_max,
             "a buffer has 1 to data_block_bytes_max bytes");
    return static_cast<std::uint32_t>(std::bit_width((bytes - 1) >> page_shift));
}

// --- Lists
// -----------------------------------------------------------------------------------------------------

void BufferPool::push(FreeList& list, std::uint32_t page, std::uint8_t new_state) {
    links_[page] = {list.first, no_page};
    if (list.first != no_page) {
        links_[list.first].previous = page;
    }
    list.first = page;
    ++list.count;
    state_[page] = new_state;
}

void BufferPool::unlink(FreeList& list, std::uint32_t page) {
    const auto [next, previous] = links_[page];
    (previous != no_page ? links_[previous].next : list.first) = next;
    if (next != no_page) {
        links_[next].previous = previous;
    }
    --list.count;
    state_[page] = inside;
}

std::uint32_t BufferPool::pop(FreeList& list) {
    const std::uint32_t page = list.first;
    unlink(list, page);
    return page;
}

// --- Blocks
// ----------------------------------------------------------------------------------------------------

// Halves the unlinked block `page` of order `from` until the part of order `to` that contains `wanted` is
// left.
std::uint32_t BufferPool::split(std::uint32_t page, std::uint32_t from, std::uint32_t to,
                                std::uint32_t wanted) {
    while (from > to) {
        --from;
        const std::uint32_t upper = page + (1u << from);
        const bool keep_upper = wanted >= upper;
        push(free_[from], keep_upper ? page : upper, state(free_block, from));
        page = keep_upper ? upper : page;
    }
    return page;
}

// Makes the unlinked block free, together with its buddies as far as they are free.
void BufferPool::merge(std::uint32_t page, std::uint32_t order) {
    while (order + 1 < orders) {
        const std::uint32_t buddy = page ^ (1u << order);
        if (buddy >= pages_ || state_[buddy] != state(free_block, order)) {
            break;
        }
        unlink(free_[order], buddy);
        page = std::min(page, buddy);
        ++order;
    }
    push(free_[order], page, state(free_block, order));
}

// False if there was nothing to merge.
bool BufferPool::merge_recent() {
    bool any = false;
    for (std::uint32_t order = 0; order < orders; ++order) {
        while (recent_[order].first != no_page) {
            merge(pop(recent_[order]), order);
            any = true;
        }
    }
    return any;
}

std::optional<std::uint32_t> BufferPool::take(std::uint32_t order) {
    if (recent_[order].first != no_page) {
        return pop(recent_[order]);
    }
    do {
        for (std::uint32_t from = order; from < orders; ++from) {
            if (free_[from].first != no_page) {
                const std::uint32_t page = pop(free_[from]);
                return split(page, from, order, page);
            }
        }
    } while (merge_recent());
    return std::nullopt;
}

std::optional<std::uint64_t> BufferPool::allocate(std::uint32_t bytes) {
    const std::uint32_t order = order_of(bytes);
    if (first_waiter_ != nullptr && !serving_) {
        return std::nullopt;
    }
    const std::optional<std::uint32_t> page = take(order);
    if (!page) {
        served_in_vain_ = true;
        return std::nullopt;
    }
    state_[*page] = state(used_block, order);
    bytes_in_use_ += std::uint64_t{limits::page_bytes} << order;
    return begin_ + (std::uint64_t{*page} << page_shift);
}

void BufferPool::release(std::uint64_t offset, std::uint32_t bytes) {
    const std::uint32_t order = order_of(bytes);
    EK_CHECK(offset % limits::page_bytes == 0 && offset >= begin_ && offset - begin_ < memory_.size(),
             "not a buffer of this pool");
    const auto page = static_cast<std::uint32_t>((offset - begin_) >> page_shift);
    EK_CHECK(state_[page] == state(used_block, order), "released what was not allocated with this size");
    bytes_in_use_ -= std::uint64_t{limits::page_bytes} << order;
    released_ = true;
    if (first_waiter_ != nullptr && service_ != nullptr) {
        service_->schedule();
    }
    if (recent_[order].count < recent_max) {
        push(recent_[order], page, state(recent_block, order));
    } else {
        state_[page] = inside;
        merge(page, order);
    }
}

bool BufferPool::reserve(std::uint64_t offset, std::uint32_t bytes) {
    if (bytes == 0 || bytes > limits::data_block_bytes_max || offset < begin_ ||
        offset - begin_ >= memory_.size()) {
        return false;
    }
    const std::uint32_t order = order_of(bytes);
    const std::uint64_t size = std::uint64_t{limits::page_bytes} << order;
    if (offset % size != 0 || size > memory_.size() - (offset - begin_)) {
        return false;
    }
    merge_recent();
    const auto page = static_cast<std::uint32_t>((offset - begin_) >> page_shift);
    for (std::uint32_t from = order; from < orders; ++from) {
        const std::uint32_t start = page & ~((1u << from) - 1);
        if (state_[start] == state(free_block, from)) {
            unlink(free_[from], start);
            state_[split(start, from, order, page)] = state(used_block, order);
            bytes_in_use_ += size;
            return true;
        }
    }
    return false;
}

// --- Waiters
// ---------------------------------------------------------------------------------------------------

void BufferPool::wait(BufferWaiter& waiter) {
    if (waiter.waiting_) {
        return;
    }
    if (!serving_ || !served_in_vain_) {
        append(waiter);
        return;
    }
    waiter.waiting_ = true;  // it keeps its place
    ++waiters_;
    waiter.next_ = first_waiter_;
    waiter.previous_ = nullptr;
    (first_waiter_ != nullptr ? first_waiter_->previous_ : last_waiter_) = &waiter;
    first_waiter_ = &waiter;
}

void BufferPool::append(BufferWaiter& waiter) {
    waiter.waiting_ = true;
    ++waiters_;
    waiter.next_ = nullptr;
    waiter.previous_ = last_waiter_;
    (last_waiter_ != nullptr ? last_waiter_->next_ : first_waiter_) = &waiter;
    last_waiter_ = &waiter;
}

void BufferPool::wait_last(BufferWaiter& waiter) {
    append(waiter);
    released_ = true;
    if (service_ != nullptr) {
        service_->schedule();
    }
}

void BufferPool::stop_waiting(BufferWaiter& waiter) {
    if (!waiter.waiting_) {
        return;
    }
    unlink(waiter);
    released_ = true;  // the next in line may want less
    if (first_waiter_ != nullptr && service_ != nullptr) {
        service_->schedule();
    }
}

void BufferPool::unlink(BufferWaiter& waiter) {
    waiter.waiting_ = false;
    --waiters_;
    (waiter.previous_ != nullptr ? waiter.previous_->next_ : first_waiter_) = waiter.next_;
    (waiter.next_ != nullptr ? waiter.next_->previous_ : last_waiter_) = waiter.previous_;
}

void BufferPool::serve_waiters() {
    if (first_waiter_ == nullptr || !released_ || serving_) {
        return;
    }
    serving_ = true;
    bool refused = false;
    for (std::uint32_t left = waiters_; left > 0 && first_waiter_ != nullptr && !refused; --left) {
        BufferWaiter& waiter = *first_waiter_;
        unlink(waiter);
        served_in_vain_ = false;
        released_ = false;
        BufferShare* const share = std::exchange(waiter.share_, nullptr);
        waiter.buffer_available();
        if (share != nullptr && !waiter.waiting_) {
            share->was_asked();
        }
        refused = served_in_vain_ && first_waiter_ == &waiter;
    }
    // Not stopped by a refusal: who is left has not been asked about what is there now.
    released_ = released_ || !refused;
    serving_ = false;
}

}  // namespace reactor
