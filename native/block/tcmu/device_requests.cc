// The way of a request through the device: line, slot, answer.

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <utility>

#include "base/check.h"
#include "block/tcmu/device.h"

namespace block::tcmu {

namespace {

// The handler's codes, TCMU_STS_…, by number from -1; what is beyond means an error of the medium.
constexpr Status statuses[] = {
    Status::not_supported,   // NOT_HANDLED
    Status::ok,              // OK
    Status::busy,            // NO_RESOURCE
    Status::medium_error,    // PASSTHROUGH_ERR: it has described the error in SCSI's terms
    Status::busy,            // BUSY
    Status::medium_error,    // WR_ERR
    Status::medium_error,    // RD_ERR
    Status::medium_error,    // MISCOMPARE
    Status::not_supported,   // INVALID_CMD
    Status::internal_error,  // INVALID_CDB
    Status::internal_error,  // INVALID_PARAM_LIST
    Status::internal_error,  // INVALID_PARAM_LIST_LEN
    Status::busy,            // TIMEOUT
    Status::gone,            // FENCED
    Status::medium_error,    // HW_ERR
    Status::out_of_range,    // RANGE
};

Status status_of(std::int32_t code) {
    const auto row = static_cast<std::uint32_t>(code) + 1;
    return row < std::size(statuses) ? statuses[row] : Status::medium_error;
}

}  // namespace

void Tcmu::submit_checked(Request& request) {
    static_assert(sizeof(Transfer) <= sizeof(Request::scratch));
    static_assert(std::is_trivially_destructible_v<Transfer>);
    auto* transfer = ::new (static_cast<void*>(request.scratch)) Transfer{&request};
    if (state_ != State::serving && fails_when_lost()) {
        finish(*transfer, Status::internal_error);
        return;
    }
    enter_line(*transfer, false);
    pump();
}

void Tcmu::pump() {
    bool sent = false;
    while (state_ == State::serving && first_ != nullptr && channel_->has_free_slot() &&
           (suspects_ == 0 || channel_->in_flight() == 0)) {
        Transfer& transfer = *first_;
        const Action action = transfer.request->action;
        const bool flushes = action == Action::flush || transfer.step == Step::flush;
        if ((flushes && facts_.can_flush == 0) || (action == Action::deallocate && facts_.can_unmap == 0)) {
            leave_line(transfer);
            finish(transfer, Status::ok);  // nothing to flush; a range may stay as it is
            continue;
        }
        if (!send(transfer)) {
            break;
        }
        sent = true;
    }
    if (sent) {
        process_->wake();
    }
}

// False: no memory for its data now. It then keeps its place.
bool Tcmu::send(Transfer& transfer) {
    const Request& request = *transfer.request;
    const std::uint64_t left = request.length - transfer.done_bytes;
    const auto piece = std::min<std::uint64_t>(left, piece_bytes_max);
    RequestEntry entry{};
    entry.offset = request.offset + transfer.done_bytes;
    entry.length = piece;
    entry.data_length = static_cast<std::uint32_t>(piece);
    if (transfer.step == Step::flush || request.action == Action::flush) {
        entry.operation = Operation::flush;
        entry.offset = entry.length = entry.data_length = 0;
    } else if (request.action == Action::read) {
        entry.operation = Operation::read;
    } else if (request.action == Action::deallocate) {
        entry.operation = Operation::unmap;
        const std::uint64_t most = facts_.unmap_bytes_max != 0 ? facts_.unmap_bytes_max : 1u << 30;
        entry.length = std::min(left, most);
        entry.data_length = 0;
    } else if (request.action == Action::write_zeroes && facts_.can_write_same != 0) {
        entry.operation = Operation::write_same;
        entry.length = std::min<std::uint64_t>(left, 64u << 20);
        entry.data_length = description_.block_bytes;
    } else {
        entry.operation = Operation::write;
    }
    if (entry.data_length != 0) {
        const auto place = channel_->allocate(entry.data_length);
        if (!place) {
            return false;
        }
        entry.data_offset = *place;
        std::byte* const there = channel_->data_at(*place);
        if (request.action == Action::write) {
            std::memcpy(there, request.data + transfer.done_bytes, entry.data_length);
        } else if (request.action == Action::write_zeroes) {
            std::memset(there, 0, entry.data_length);
        }
    }
    leave_line(transfer);
    Slot& slot = slots_[channel_->submit(entry)];
    slot = {.transfer = &transfer,
            .order = next_order_++,
            .data_offset = entry.data_offset,
            .data_length = entry.data_length,
            .piece_bytes = entry.length,
            .deadline = environment_.reactor.now() + spec_.tcmu.timeout_ms * base::millisecond,
            .in_use = true};
    return true;
}

void Tcmu::answered(std::uint32_t number, std::int32_t code) {
    const Slot slot = std::exchange(slots_[number], Slot{});
    EK_CHECK(slot.in_use, "the channel knows which slots are in use");
    const Status status = status_of(code);
    if (slot.transfer != nullptr && status == Status::ok && slot.transfer->request->action == Action::read) {
        const Request& request = *slot.transfer->request;
        std::memcpy(request.data + slot.transfer->done_bytes, channel_->data_at(slot.data_offset),
                    slot.data_length);
    }
    if (slot.data_length != 0) {
        channel_->release(slot.data_offset, slot.data_length);
    }
    if (slot.transfer == nullptr) {
        return;
    }
    back_off_ = 0;  // it works
    if (status != Status::ok) {
        finish(*slot.transfer, status);
    } else {
        advance(*slot.transfer, slot.piece_bytes);
    }
}

void Tcmu::advance(Transfer& transfer, std::uint64_t piece_bytes) {
    const Request& request = *transfer.request;
    if (transfer.step == Step::flush || request.action == Action::flush) {
        finish(transfer, Status::ok);
        return;
    }
    transfer.done_bytes += piece_bytes;
    if (transfer.done_bytes < request.length) {
        enter_line(transfer, true);
    } else if (request.force_unit_access && facts_.can_flush != 0 && request.action != Action::read) {
        transfer.step = Step::flush;  // handlers know no other way to write through
        enter_line(transfer, true);
    } else {
        finish(transfer, Status::ok);
    }
}

void Tcmu::finish(Transfer& transfer, Status status) {
    suspects_ -= transfer.deaths != 0 ? 1 : 0;
    complete(*transfer.request, status);
}

void Tcmu::enter_line(Transfer& transfer, bool at_head) {
    transfer.in_line = true;
    transfer.next = at_head ? first_ : nullptr;
    transfer.previous = at_head ? nullptr : last_;
    (transfer.next != nullptr ? transfer.next->previous : last_) = &transfer;
    (transfer.previous != nullptr ? transfer.previous->next : first_) = &transfer;
}

void Tcmu::leave_line(Transfer& transfer) {
    transfer.in_line = false;
    (transfer.previous != nullptr ? transfer.previous->next : first_) = transfer.next;
    (transfer.next != nullptr ? transfer.next->previous : last_) = transfer.previous;
}

// A change under way is seen through: what it did could not be told. What has not begun, or only reads, ends.
void Tcmu::cancel_checked(Request& request) {
    auto& transfer = *std::launder(reinterpret_cast<Transfer*>(request.scratch));
    const bool changes = request.action != Action::read && request.action != Action::flush;
    if (transfer.in_line && (!changes || (transfer.done_bytes == 0 && transfer.deaths == 0))) {
        leave_line(transfer);
        finish(transfer, Status::aborted);
        pump();
        return;
    }
    if (transfer.in_line || changes) {
        return;
    }
    for (Slot& slot : slots_) {
        if (slot.transfer == &transfer) {
            slot.transfer = nullptr;  // its memory in the area stays taken until the handler has answered
            finish(transfer, Status::aborted);
            return;
        }
    }
}

}  // namespace block::tcmu
