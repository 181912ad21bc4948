// Reads of a mirror: from the leg that has least to do, and from another one where that fails. What a leg
// could not read is written back to it from one that could; a leg that refuses that, too, is stale. With
// checksums every block that was read is compared with its own, and examined (examine.cc) if it does not fit.

#include <algorithm>
#include <bit>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr std::size_t repairs_max = 64;  // in line; what comes beyond is found by the next scrub
constexpr std::uint64_t repair_piece_bytes = limits::transfer_bytes_max;

}  // namespace

void Mirror::begin_read(Op& op) {
    op.offset = op.above->offset;
    op.length = op.above->length;
    if (!pages_here(op)) {
        return;
    }
    if (sums_.enabled() && !sums_.all_known(op.offset, op.length)) {
        examine_for(op);
        return;
    }
    Leg* const leg = choose_leg(op.offset, op.length, op.tried);
    if (leg == nullptr) {
        end_op(op, op.failure == Status::ok ? Status::medium_error : op.failure);
        return;
    }
    leg->next_sequential = op.offset + op.length;
    ask_io(
        *leg, {.action = Action::read, .offset = op.offset, .length = op.length, .data = op.data()},
        [this, &op](Leg& asked, Status status) { read_ended(op, asked, status); }, &op.reading);
}

// Where legs may differ the source alone counts, as long as it can be read.
Leg* Mirror::choose_leg(std::uint64_t offset, std::uint64_t length, std::uint32_t except) {
    if (map_.unequal_regions() != 0 && source_ != nullptr && (except & source_->bit()) == 0) {
        const RegionRange range = map_.range_of(offset, length);
        for (std::uint32_t i = range.first; i <= range.last; ++i) {
            if (map_.at(i).has(RegionMap::unequal)) {
                return source_;
            }
        }
    }
    Leg* best = nullptr;
    bool best_follows = false;
    const std::size_t count = legs_.size();
    ++turn_;
    for (std::size_t i = 0; i < count; ++i) {
        Leg& leg = *legs_[(i + turn_) % count];
        if (leg.state != LegState::up || (except & leg.bit()) != 0) {
            continue;
        }
        const bool follows = leg.next_sequential == offset;
        const bool better = best == nullptr || leg.in_flight < best->in_flight ||
                            (leg.in_flight == best->in_flight && follows && !best_follows);
        if (better) {
            best = &leg;
            best_follows = follows;
        }
    }
    return best;
}

void Mirror::read_ended(Op& op, Leg& leg, Status status) {
    op.reading = nullptr;
    const bool lost = !serving_ || (sums_.enabled() && !sums_.has(op.offset, op.length));
    // A leg that is stale by now may have been asked before, and read after, it lost what it had.
    const bool fits =
        status == Status::ok && (sums_.enabled() ? !lost && sums_.fits(op.offset, {op.data(), op.length})
                                                 : leg.state == LegState::up || !serving_);
    if (fits) {
        end_op(op, Status::ok);
        return;
    }
    if (op.cancelled) {
        end_op(op, Status::aborted);
        return;
    }
    if (sums_.enabled() && !lost && status != Status::gone) {
        // Corrupt, or a write came between: with the range locked it will be seen.
        leg.read_errors += status != Status::ok ? 1 : 0;
        examine_for(op);
        return;
    }
    if (status == Status::ok && sums_.enabled()) {
        begin(op);
        return;
    }
    if (leg.state == LegState::up) {
        ++leg.read_errors;
        op.tried |= leg.bit();
        op.failure = status;
        if (status == Status::gone) {
            fail_leg(leg, "read: gone");
        } else if (status == Status::medium_error) {
            want_repair(leg, op.offset, op.length);
        }
    }
    if (!serving_) {
        op.tried = 0;
        op.failure = Status::ok;
        park_or_fail(op);
        return;
    }
    begin_read(op);
}

// --- Repair
// ----------------------------------------------------------------------------------------------------

void Mirror::want_repair(Leg& leg, std::uint64_t offset, std::uint64_t length) {
    if (read_only() || up_count() < 2) {
        return;
    }
    for (std::uint64_t done = 0; done < length && repairs_.size() < repairs_max; done += repair_piece_bytes) {
        repairs_.push_back({&leg, offset + done, std::min(repair_piece_bytes, length - done)});
    }
    repair_next();
}

void Mirror::repair_next() {
    if (repair_lane_.busy || repairs_.empty() || !serving_ || closing()) {
        return;
    }
    const Repair repair = repairs_.front();
    repairs_.erase(repairs_.begin());
    Lane& lane = repair_lane_;
    lane.offset = repair.offset;
    lane.length = repair.length;
    lane.targets = repair.leg->bit();
    lane.tried = repair.leg->bit();
    lane.ended = &Mirror::repaired;
    start_piece(lane);
}

void Mirror::repaired(Lane& lane) {
    for (std::uint32_t left = lane.targets & ~lane.failed; left != 0 && !lane.source_failed;
         left &= left - 1) {
        if (Leg* const leg = leg_of_slot(static_cast<std::uint32_t>(std::countr_zero(left)))) {
            ++leg->repaired;
        }
    }
    repair_next();
}

}  // namespace block::mirror
