// Which leg is right: reads a range from all legs that are up, with the range locked, judges each block by
// its checksum (checksums.h), and writes what is wrong anew from what is right.
//
// It is done for a read of the host that met something wrong or in doubt, for each piece of a resync and of a
// scrub. A block that is corrupt on every leg stays as it is; a read of it ends with an error.

#include <algorithm>
#include <bit>
#include <cstring>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr base::Nanoseconds tell_corruption_every = base::second;

}  // namespace

void Mirror::examine_for(Op& op) {
    waiting_examination_.append(op);
    next_examination();
}

void Mirror::next_examination() {
    while (waiting_examination_.first != nullptr) {
        Lane* const lane = std::find_if(std::begin(examinations_), std::end(examinations_),
                                        [](const Lane& one) { return !one.busy; });
        if (lane == std::end(examinations_)) {
            return;
        }
        Op& op = *waiting_examination_.first;
        waiting_examination_.remove(op);
        lane->op = &op;
        lane->offset = op.offset;
        lane->length = op.length;
        lane->targets = 0;
        lane->repair = !read_only();
        lane->ended = &Mirror::host_examined;
        start_piece(*lane);
    }
}

// The range is held. `lane`: offset, length, targets (legs that get all of it), repair, ended.
void Mirror::examine(Lane& lane) {
    lane.different = lane.mended = lane.hopeless = 0;
    lane.read_ok = lane.read_sent = 0;
    if (!serving_ || lane.epoch != epoch_) {
        lane.source_failed = true;
        lane_done(lane);
        return;
    }
    if (!sums_.has(lane.offset, lane.length)) {
        lane.waits_for_pages = true;
        load_pages(lane.offset, lane.length);
        return;
    }
    read_all_legs(lane, mask_of(LegState::up), &Mirror::unread_in_examination, &Mirror::examined);
}

// The range is held. `unread` is told of each leg that could not be read, `all_read` once all have answered;
// a volume that is lost meanwhile asks no further leg.
void Mirror::read_all_legs(Lane& lane, std::uint32_t slots, LaneUnread unread, LaneStep all_read) {
    lane.unread = unread;
    lane.all_read = all_read;
    lane.outstanding = 1;
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        Leg* const leg = leg_of_slot(slot);
        const bool wanted = (slots & (1u << slot)) != 0 && leg != nullptr && leg->state == LegState::up;
        if (!wanted || lane.epoch != epoch_) {
            continue;
        }
        lane.others[slot] = buffers_.take(lane.length);
        lane.read_sent |= leg->bit();
        ++lane.outstanding;
        ask(*leg,
            {.offset = lane.offset,
             .length = lane.length,
             .data = lane.others[slot]->data,
             .buffer = lane.others[slot]},
            [this, &lane](Leg& asked, Status status) {
                if (status == Status::ok) {
                    lane.read_ok |= asked.bit();
                } else {
                    ++asked.read_errors;
                    (this->*lane.unread)(lane, asked, status);
                }
                if (--lane.outstanding == 0) {
                    (this->*lane.all_read)(lane);
                }
            });
    }
    if (--lane.outstanding == 0) {
        (this->*lane.all_read)(lane);
    }
}

void Mirror::unread_in_examination(Lane& lane, Leg& leg, Status status) {
    if (status == Status::gone && lane.epoch == epoch_) {
        fail_leg(leg, "read: gone");
    }
}

void Mirror::examined(Lane& lane) {
    lane.read_ok &= mask_of(LegState::up);
    if (lane.read_ok == 0 || !serving_ || lane.epoch != epoch_) {
        lane.source_failed = true;
        lane_done(lane);
        return;
    }
    // What is right of each block comes to lie in one of the buffers.
    const Leg* const source = source_;
    const auto first = source != nullptr && (lane.read_ok & source->bit()) != 0
                           ? static_cast<std::size_t>(source->slot)
                           : static_cast<std::size_t>(std::countr_zero(lane.read_ok));
    lane.buffer = lane.others[first];
    buffers_.hold(*lane.buffer);
    std::uint64_t corrupt[legs_max];
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        const Leg* const leg = leg_of_slot(slot);
        corrupt[slot] = leg != nullptr ? leg->corruptions : 0;
    }
    lane.wrong.assign(lane.length / geometry_.block_bytes, 0);
    for (std::uint64_t at = 0; at < lane.length; at += geometry_.block_bytes) {
        judge_block(lane, at);
    }
    std::string names;
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        const Leg* const leg = leg_of_slot(slot);
        if (leg != nullptr && leg->corruptions != corrupt[slot]) {
            names += (names.empty() ? "" : ", ") + leg->name;
        }
    }
    const base::Nanoseconds now = environment_.reactor.now();
    if (!names.empty() && now >= corruption_told_ && environment_.log) {
        corruption_told_ = now + tell_corruption_every;
        environment_.log("warning", "mirror",
                         name() + ": data on " + names + " do not have their checksum, between bytes " +
                             std::to_string(lane.offset) + " and " +
                             std::to_string(lane.offset + lane.length) +
                             (lane.hopeless != 0 ? "; no leg has them right"
                              : lane.repair      ? "; they are written anew from another leg"
                                                 : ""));
    }
    mend(lane);
}

// One block: whose data are right, and whose are not.
void Mirror::judge_block(Lane& lane, std::uint64_t at) {
    const std::uint64_t size = geometry_.block_bytes;
    const std::uint64_t block = (lane.offset + at) / size;
    const std::uint32_t first = [&] {
        for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
            if (lane.others[slot] == lane.buffer) {
                return slot;
            }
        }
        return 0u;
    }();
    const auto data = [&](std::uint32_t slot) {
        return std::span<const std::byte>(lane.others[slot]->data + at, size);
    };
    const bool known = sums_.known(block);
    std::uint32_t right = lane.read_ok & (1u << first);
    std::uint32_t wrong = 0;
    const auto suits = [&](std::uint32_t slot) {
        const std::uint32_t sum = sum_of(data(slot));
        return known ? sums_.fits_block(block, sum) : sums_.recorded(block, sum);
    };
    std::uint32_t best = first;
    bool found = suits(first);
    for (std::uint32_t left = lane.read_ok & ~right; left != 0 && !found; left &= left - 1) {
        const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
        found = suits(slot);
        best = found ? slot : best;
    }
    if (known && !found) {
        ++lane.hopeless;
        ++lane.different;
        ++hopeless_;
        for (std::uint32_t left = lane.read_ok; left != 0; left &= left - 1) {
            ++leg_of_slot(static_cast<std::uint32_t>(std::countr_zero(left)))->corruptions;
        }
        return;
    }
    for (std::uint32_t left = lane.read_ok; left != 0; left &= left - 1) {
        const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
        if (slot == best || std::memcmp(data(slot).data(), data(best).data(), size) == 0) {
            right |= 1u << slot;
            continue;
        }
        right &= ~(1u << slot);
        wrong |= 1u << slot;
        if (known) {
            ++leg_of_slot(slot)->corruptions;
        }
    }
    lane.different += wrong != 0 ? 1 : 0;
    wrong |= lane.read_sent & ~lane.read_ok;  // what it could not read it gets back
    if (!known) {
        const auto region = map_.range_of(lane.offset + at, size).first;
        const bool covered = map_.at(region).has(RegionMap::settled) && map_.at(region).intent();
        if (wrong == 0 || (lane.repair && covered)) {
            sums_.set(block, sum_of(data(best)));
        } else if (lane.repair) {
            // The record waits for the intent: until the data are flushed a crash may undo them.
            map_.set_intent(region, stale_mask());
            schedule_batch();
        }
        if (wrong != 0 && lane.repair) {
            map_.at(region).set(RegionMap::touched);
            map_.at(region).clear(RegionMap::sweeping);
        }
    }
    if (best != first) {
        std::memcpy(lane.buffer->data + at, data(best).data(), size);
    }
    lane.wrong[at / size] = static_cast<std::uint8_t>(lane.repair ? wrong : 0);
    lane.mended += lane.wrong[at / size] != 0 ? 1 : 0;
}

// Legs that are up get what they have wrong, the targets everything.
void Mirror::mend(Lane& lane) {
    const std::uint64_t size = geometry_.block_bytes;
    if (lane.op != nullptr) {
        std::memcpy(lane.op->data(), lane.buffer->data, lane.length);
    }
    lane.outstanding = 1;
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        Leg* const leg = leg_of_slot(slot);
        const std::uint32_t bit = 1u << slot;
        if (leg == nullptr || !leg->writable() || lane.epoch != epoch_) {
            continue;
        }
        if (leg->state != LegState::up) {
            if ((lane.targets & bit) != 0) {
                mend_run(lane, *leg, 0, lane.length);
            }
            continue;
        }
        for (std::uint64_t at = 0; at < lane.length;) {
            std::uint64_t end = at;
            while (end < lane.length && (lane.wrong[end / size] & bit) != 0) {
                end += size;
            }
            if (end != at && leg->state == LegState::up && lane.epoch == epoch_) {
                mend_run(lane, *leg, at, end - at);
                leg->repaired += (end - at) / size;
            }
            at = std::max(end, at + size);
        }
    }
    restart_sweep_timer();
    if (--lane.outstanding == 0) {
        lane_done(lane);
    }
}

void Mirror::mend_run(Lane& lane, Leg& leg, std::uint64_t at, std::uint64_t length) {
    ++lane.outstanding;
    ask(leg,
        {.action = Action::write,
         .offset = lane.offset + at,
         .length = length,
         .data = lane.buffer->data + at,
         .buffer = lane.buffer},
        [this, &lane](Leg& asked, Status status) { piece_written(lane, asked, status); });
}

void Mirror::host_examined(Lane& lane) {
    Op& op = *lane.op;
    lane.op = nullptr;
    if (op.cancelled) {
        end_op(op, Status::aborted);
    } else if (!lane.source_failed) {
        end_op(op, lane.hopeless != 0 ? Status::medium_error : Status::ok);
    } else if (!serving_ || lane.epoch != epoch_) {
        begin(op);
    } else {
        end_op(op, Status::medium_error);
    }
    arrived_.schedule();
}

}  // namespace block::mirror
