// The scrub: compares all legs that are up, piece by piece with the range locked, counts the blocks that
// differ and, if asked to, makes them equal: to what most legs have, or else to the first leg. The order of
// legs in the table decides between two. With checksums these say who is right, see examine.cc.

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr std::uint64_t piece_bytes = 256u << 10;
constexpr base::Nanoseconds growth_takes = 100 * base::millisecond;

}  // namespace

void Mirror::start_scrub(bool repair) {
    scrub_.running = true;
    scrub_.repair = repair;
    scrub_.stopping = false;
    scrub_.offset = scrub_.differences = scrub_.repaired = 0;
    scrub_timer_.start(environment_.reactor.now());
}

void Mirror::stop_scrub() {
    scrub_.stopping = true;
    if (!scrub_.lane.busy) {
        scrub_.running = false;
        scrub_timer_.stop();
    }
}

void Mirror::scrub_step() {
    if (!scrub_.running || scrub_.lane.busy) {
        return;
    }
    if (!serving_ || scrub_.stopping || closing()) {
        scrub_.running = false;
        return;
    }
    if (growth_.switched()) {
        scrub_timer_.start_after(growth_takes);
        return;
    }
    if (scrub_.offset >= geometry_.data_bytes) {
        scrub_.running = false;
        ++scrub_.runs;
        return;
    }
    Lane& lane = scrub_.lane;
    lane.busy = true;
    lane.offset = scrub_.offset;
    lane.length = std::min(piece_bytes, geometry_.data_bytes - scrub_.offset);
    lane.failed = lane.read_ok = lane.targets = 0;
    lane.epoch = epoch_;
    lane.begun = environment_.reactor.now();
    lane.ended = &Mirror::scrub_piece_ended;
    lane.hold.granted = [](ExtentHold& hold) {
        Lane& granted = *static_cast<LaneHold&>(hold).lane;
        granted.mirror->scrub_read(granted);
    };
    if (extents_.acquire(lane.hold, lane.offset, lane.length)) {
        scrub_read(lane);
    }
}

void Mirror::scrub_read(Lane& lane) {
    const RegionRange range = map_.range_of(lane.offset, lane.length);
    bool skip = !serving_ || lane.epoch != epoch_;
    for (std::uint32_t i = range.first; i <= range.last && !skip; ++i) {
        skip = map_.at(i).has(RegionMap::unequal);  // the resync is about to make it equal
    }
    if (sums_.enabled() && !skip) {
        lane.repair = scrub_.repair;
        examine(lane);
        return;
    }
    read_all_legs(lane, skip ? 0 : mask_of(LegState::up), &Mirror::unread_in_scrub, &Mirror::scrub_compare);
}

void Mirror::unread_in_scrub(Lane& lane, Leg& leg, Status status) {
    if (status == Status::gone) {
        fail_leg(leg, "read: gone");
    } else if (status == Status::medium_error && scrub_.repair) {
        want_repair(leg, lane.offset, lane.length);
    }
}

void Mirror::scrub_compare(Lane& lane) {
    const std::uint64_t block = geometry_.block_bytes;
    std::uint32_t wrong = 0;
    lane.read_ok &= mask_of(LegState::up);
    for (std::uint64_t at = 0; at < lane.length && std::popcount(lane.read_ok) > 1; at += block) {
        const auto same = [&](std::uint32_t a, std::uint32_t b) {
            return std::memcmp(lane.others[a]->data + at, lane.others[b]->data + at, block) == 0;
        };
        std::uint32_t best = 0;
        std::uint32_t best_votes = 0;
        std::uint32_t best_agree = 0;
        for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
            if ((lane.read_ok & (1u << slot)) == 0) {
                continue;
            }
            std::uint32_t agree = 0;
            for (std::uint32_t other = 0; other < legs_max; ++other) {
                const bool with = (lane.read_ok & (1u << other)) != 0 && same(slot, other);
                agree |= with ? 1u << other : 0;
            }
            const auto votes = static_cast<std::uint32_t>(std::popcount(agree));
            if (votes > best_votes) {
                best = slot;
                best_votes = votes;
                best_agree = agree;
            }
        }
        const std::uint32_t differing = lane.read_ok & ~best_agree;
        if (differing == 0) {
            continue;
        }
        ++scrub_.differences;
        wrong |= differing;
        for (std::uint32_t left = differing; left != 0; left &= left - 1) {
            const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
            std::memcpy(lane.others[slot]->data + at, lane.others[best]->data + at, block);
        }
        scrub_.repaired += scrub_.repair ? 1 : 0;
    }
    lane.outstanding = 1;
    for (std::uint32_t left = scrub_.repair ? wrong : 0; left != 0; left &= left - 1) {
        const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
        Leg* const leg = leg_of_slot(slot);
        if (leg == nullptr || leg->state != LegState::up || lane.epoch != epoch_) {
            continue;
        }
        ++lane.outstanding;
        ask(*leg,
            {.action = Action::write,
             .offset = lane.offset,
             .length = lane.length,
             .data = lane.others[slot]->data,
             .buffer = lane.others[slot]},
            [this, &lane](Leg& asked, Status status) {
                if (status != Status::ok) {
                    ++asked.write_errors;
                    fail_leg(asked, std::string("repairing it: ") + block::name_of(status));
                } else {
                    ++asked.repaired;
                }
                if (--lane.outstanding == 0) {
                    lane_done(lane);
                }
            });
    }
    if (--lane.outstanding == 0) {
        lane_done(lane);
    }
}

void Mirror::scrub_piece_ended(Lane& lane) {
    scrub_.differences += std::exchange(lane.different, 0);
    scrub_.repaired += std::exchange(lane.mended, 0);
    scrub_.offset += lane.length;
    const base::Nanoseconds now = environment_.reactor.now();
    base::Nanoseconds next = now;
    if (host_in_flight_ != 0) {
        next = now + std::min(now - lane.begun, base::second);
    }
    if (rate_ != 0) {
        next = std::max(next, lane.begun + static_cast<base::Nanoseconds>(static_cast<double>(lane.length) *
                                                                          1e9 / static_cast<double>(rate_)));
    }
    if (scrub_.stopping) {
        scrub_.running = false;
    } else if (!closing()) {
        scrub_timer_.start(next);
    }
}

}  // namespace block::mirror
