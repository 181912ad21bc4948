// What changes a mirror: writes, zeroes, deallocation; and flushes.
//
//   piece → range alone → intent on all legs → all legs → who failed is recorded → answer
//
// A leg that fails where another one succeeds is stale. Where none succeeds nobody is: the host gets the
// error, and the regions count as different until they were made equal.

#include <algorithm>
#include <bit>
#include <cstring>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr std::uint64_t write_piece_bytes = limits::transfer_bytes_max;
constexpr std::uint64_t zero_piece_bytes = 64u << 20;

}  // namespace

void Mirror::begin_change(Op& op) {
    const Request& above = *op.above;
    const std::uint64_t limit = above.action == Action::write ? write_piece_bytes : zero_piece_bytes;
    op.offset = above.offset + op.done_bytes;
    op.length = std::min(limit, above.length - op.done_bytes);
    op.failure = Status::ok;
    op.hold.granted = [](ExtentHold& hold) {
        Op& granted = *static_cast<OpHold&>(hold).op;
        Mirror& self = static_cast<Mirror&>(*granted.above->device);
        self.waiting_extent_.remove(granted);
        self.extent_held(granted);
    };
    if (extents_.acquire(op.hold, op.offset, op.length)) {
        extent_held(op);
    } else {
        waiting_extent_.append(op);
    }
}

void Mirror::extent_held(Op& op) {
    if (!serving_) {
        release_piece(op);
        park_or_fail(op);
        return;
    }
    if (!pages_here(op)) {
        return;
    }
    op.regions = map_.range_of(op.offset, op.length);
    op.counted = true;
    const std::uint32_t stale = stale_mask();
    bool all_settled = true;
    for (std::uint32_t i = op.regions.first; i <= op.regions.last; ++i) {
        RegionMap::Region& region = map_.at(i);
        ++region.writers;
        region.set(RegionMap::touched);
        region.clear(RegionMap::sweeping);
        // What a stale leg misses is on the legs in the same write as the intent. Where the intent is there
        // already it stands for it, see maps_read.
        map_.set_intent(i, stale);
        all_settled = all_settled && region.has(RegionMap::settled);
    }
    if (all_settled) {
        send_change(op);
    } else {
        joining_.append(op);
        schedule_batch();
    }
}

void Mirror::send_change(Op& op) {
    const Request& above = *op.above;
    const std::uint32_t targets = writable_mask();
    const std::uint32_t stale = stale_mask();
    for (std::uint32_t i = op.regions.first; i <= op.regions.last && stale != 0; ++i) {
        map_.set_missing(i, stale);  // since the intent was written one more may have gone
    }
    op.sent = op.ok = op.alive_failures = 0;
    op.failure = Status::ok;
    Buffer* buffer = nullptr;
    op.outstanding = 1;
    if (sums_.enabled()) {
        if (above.action == Action::write) {
            sums_.set_data(op.offset, {op.data(), op.length});
        } else {
            sums_.set_zeroes(op.offset, op.length);
        }
        if (above.force_unit_access) {
            join_sums(op);
        }
    }
    for (std::uint32_t left = targets; left != 0; left &= left - 1) {
        const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
        Leg* const leg = leg_of_slot(slot);
        if (leg == nullptr || !leg->writable()) {
            continue;  // failed by one that was asked before it
        }
        Wish wish{.action = above.action,
                  .offset = op.offset,
                  .length = op.length,
                  .data = op.data(),
                  .force_unit_access = above.force_unit_access,
                  .may_deallocate = above.may_deallocate};
        if (above.action == Action::write && !leg->claim.device()->writes_inline()) {
            if (buffer == nullptr) {
                buffer = buffers_.try_take(op.length);
                if (buffer != nullptr) {
                    std::memcpy(buffer->data, op.data(), op.length);
                }
            }
            if (buffer != nullptr) {
                wish.data = buffer->data;
                wish.buffer = buffer;
            }
        }
        op.sent |= 1u << slot;
        ++op.outstanding;
        ask(*leg, wish, [this, &op](Leg& asked, Status status) { change_ended(op, asked, status); });
    }
    if (buffer != nullptr) {
        buffers_.release(*buffer);
    }
    if (--op.outstanding == 0) {
        finish_change(op);
    }
}

void Mirror::begin_flush(Op& op) {
    op.sent = op.ok = op.alive_failures = 0;
    op.failure = Status::ok;
    op.outstanding = 1;
    if (sums_.enabled()) {
        join_sums(op);
    }
    for (std::uint32_t left = writable_mask(); left != 0; left &= left - 1) {
        Leg* const leg = leg_of_slot(static_cast<std::uint32_t>(std::countr_zero(left)));
        if (leg == nullptr || !leg->writable()) {
            continue;
        }
        op.sent |= leg->bit();
        ++op.outstanding;
        ask(*leg, {.action = Action::flush},
            [this, &op](Leg& asked, Status status) { change_ended(op, asked, status); });
    }
    if (--op.outstanding == 0) {
        finish_change(op);
    }
}

void Mirror::change_ended(Op& op, Leg& leg, Status status) {
    if (status == Status::ok) {
        op.ok |= leg.bit();
    } else {
        ++leg.write_errors;
        op.failure = op.failure == Status::ok || op.failure == Status::gone ? status : op.failure;
        op.alive_failures |= status != Status::gone ? leg.bit() : 0;
    }
    if (--op.outstanding == 0) {
        finish_change(op);
    }
}

void Mirror::finish_change(Op& op) {
    const bool answered = judge_failures(op);
    release_piece(op);
    if (!answered) {
        park_or_fail(op);
        if (serving_) {
            run_parked();
        }
        return;
    }
    if (op.failure == Status::ok && op.above->action != Action::flush) {
        op.done_bytes += op.length;
        if (op.done_bytes < op.above->length) {
            environment_.reactor.post([this, &op] { begin(op); });
            return;
        }
    }
    finish_op(op, op.failure);
}

// Decides what becomes of legs that failed, and of the request: `failure` is what the host gets. False: no
// leg is left that could tell; it is to be done again when one is there.
bool Mirror::judge_failures(Op& op) {
    const std::uint32_t failed = op.sent & ~op.ok;
    const std::uint32_t up = mask_of(LegState::up);
    if ((op.ok & up) != 0) {
        const std::string reason =
            failed != 0 ? std::string(block::name_of(op.above->action)) + ": " + block::name_of(op.failure)
                        : "";
        for (std::uint32_t left = failed; left != 0; left &= left - 1) {
            if (Leg* const leg = leg_of_slot(static_cast<std::uint32_t>(std::countr_zero(left)))) {
                fail_leg(*leg, reason);
            }
        }
        op.failure = Status::ok;
        return true;
    }
    const std::uint32_t alive = failed & up & op.alive_failures;
    const std::uint32_t gone = failed & ~alive;
    for (std::uint32_t left = gone; left != 0; left &= left - 1) {
        if (Leg* const leg = leg_of_slot(static_cast<std::uint32_t>(std::countr_zero(left)))) {
            fail_leg(*leg, std::string(block::name_of(op.above->action)) + ": " + block::name_of(op.failure));
        }
    }
    if (alive == 0 || !serving_) {
        return false;
    }
    // None of those that are left has it for certain, and what they have may differ.
    if (op.counted) {
        // One that is being recorded as up is looked at no more, and would lack this.
        for (const auto& leg : legs_) {
            if (leg->state == LegState::promoting) {
                fail_leg(*leg, "a change failed on the others while it was taken back");
            }
        }
        const std::uint32_t others = writable_mask() & ~mask_of(LegState::up);
        for (std::uint32_t i = op.regions.first; i <= op.regions.last; ++i) {
            map_.set_missing(i, others);
            disturb_region(i);
            if (up_count() > 1 || sums_.enabled()) {
                map_.set_unequal(i);
                map_.at(i).clear(RegionMap::failed);
            }
        }
        if (sums_.enabled()) {
            sums_.forget(op.offset, op.length);
        }
        kick_resync();
    }
    return true;
}

void Mirror::release_piece(Op& op) {
    if (op.counted) {
        op.counted = false;
        for (std::uint32_t i = op.regions.first; i <= op.regions.last; ++i) {
            RegionMap::Region& region = map_.at(i);
            --region.writers;
            region.set(RegionMap::touched);
        }
        restart_sweep_timer();
    }
    extents_.release(op.hold);
}

// What changed something is acknowledged when all legs that are up know which ones lack it.
void Mirror::finish_op(Op& op, Status status) {
    if (serving_ && !settled() && op.above->action != Action::read) {
        op.failure = status;
        waiting_commit_.append(op);
        return;
    }
    if (!serving_ && !settled() && op.above->action != Action::read) {
        park_or_fail(op);
        return;
    }
    end_op(op, status);
}

}  // namespace block::mirror
