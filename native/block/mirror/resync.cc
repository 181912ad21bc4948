// Copies from leg to leg: what a returning leg misses, regions that may differ after a crash, blocks that
// could not be read. Each piece is copied with its range locked against the host's writes, which go to all
// legs that are written anyway; so a region is equal once each of its pieces was copied, whatever was written
// meanwhile.
//
// While the host works one piece is under way at a time, and as long as it took nothing is done after it;
// otherwise there are several. A configured rate bounds both.

#include <algorithm>
#include <bit>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr std::uint64_t piece_bytes = 256u << 10;
constexpr base::Nanoseconds retry_failed_after = 5 * base::second;
// The host counts as working for so long after its last request.
constexpr base::Nanoseconds host_rests_after = 20 * base::millisecond;

}  // namespace

// --- One copy
// --------------------------------------------------------------------------------------------------

// `lane`: offset, length, targets, tried (whom not to read), ended.
void Mirror::start_piece(Lane& lane) {
    lane.busy = true;
    lane.failed = 0;
    lane.source_failed = false;
    lane.begun = environment_.reactor.now();
    lane.epoch = epoch_;
    lane.hold.granted = [](ExtentHold& hold) {
        Lane& granted = *static_cast<LaneHold&>(hold).lane;
        granted.mirror->copy_piece(granted);
    };
    if (extents_.acquire(lane.hold, lane.offset, lane.length)) {
        copy_piece(lane);
    }
}

void Mirror::copy_piece(Lane& lane) {
    lane.targets &= writable_mask();
    if (sums_.enabled()) {
        examine(lane);
        return;
    }
    Leg* const source = serving_ && lane.epoch == epoch_ && lane.targets != 0
                            ? choose_leg(lane.offset, lane.length, lane.tried | lane.targets)
                            : nullptr;
    if (source == nullptr) {
        lane.source_failed = true;
        lane_done(lane);
        return;
    }
    if (lane.buffer == nullptr) {
        lane.buffer = buffers_.take(lane.length);
    }
    ask(*source,
        {.offset = lane.offset, .length = lane.length, .data = lane.buffer->data, .buffer = lane.buffer},
        [this, &lane](Leg& leg, Status status) { piece_read(lane, leg, status); });
}

void Mirror::piece_read(Lane& lane, Leg& leg, Status status) {
    if (status != Status::ok || leg.state != LegState::up) {
        leg.read_errors += status != Status::ok ? 1 : 0;
        lane.tried |= leg.bit();
        if (status == Status::gone && lane.epoch == epoch_) {
            fail_leg(leg, "read: gone");
        }
        buffers_.release(*lane.buffer);  // its device may still write to it
        lane.buffer = nullptr;
        copy_piece(lane);
        return;
    }
    lane.outstanding = 1;
    for (std::uint32_t left = lane.targets & writable_mask(); left != 0; left &= left - 1) {
        Leg* const target = leg_of_slot(static_cast<std::uint32_t>(std::countr_zero(left)));
        if (target == nullptr || !target->writable() || lane.epoch != epoch_) {
            continue;
        }
        ++lane.outstanding;
        ask(*target,
            {.action = Action::write,
             .offset = lane.offset,
             .length = lane.length,
             .data = lane.buffer->data,
             .buffer = lane.buffer},
            [this, &lane](Leg& asked, Status result) { piece_written(lane, asked, result); });
    }
    if (--lane.outstanding == 0) {
        lane_done(lane);
    }
}

void Mirror::piece_written(Lane& lane, Leg& leg, Status status) {
    if (status != Status::ok) {
        lane.failed |= leg.bit();
        ++leg.write_errors;
        if (lane.epoch == epoch_) {
            fail_leg(leg, std::string("copying to it: ") + block::name_of(status));
        }
    }
    if (--lane.outstanding == 0) {
        lane_done(lane);
    }
}

void Mirror::lane_done(Lane& lane) {
    if (lane.buffer != nullptr) {
        buffers_.release(*lane.buffer);
        lane.buffer = nullptr;
    }
    for (Buffer*& buffer : lane.others) {
        if (buffer != nullptr) {
            buffers_.release(*buffer);
            buffer = nullptr;
        }
    }
    extents_.release(lane.hold);
    lane.busy = false;
    (this->*lane.ended)(lane);
    finish_close();
}

// --- The resync
// ------------------------------------------------------------------------------------------------

// Legs that have to be written before the region is as it should be, as a mask by slot.
std::uint32_t Mirror::needs(std::uint32_t region) const {
    const RegionMap::Region& at = map_.at(region);
    std::uint32_t targets = at.missing() & mask_of(LegState::resyncing);
    if (at.has(RegionMap::unequal) && source_ != nullptr) {
        targets |= mask_of(LegState::up) & ~(sums_.enabled() ? 0 : source_->bit());
    }
    return targets;
}

std::uint64_t Mirror::resync_left() const {
    std::uint64_t regions = in_doubt() ? map_.unequal_regions() : 0;
    for (const auto& leg : legs_) {
        const bool coming = leg->state == LegState::joining || leg->state == LegState::resyncing;
        regions += coming && leg->slot >= 0 ? map_.missing_regions(static_cast<std::uint32_t>(leg->slot)) : 0;
    }
    return regions * geometry_.region_bytes;
}

// Something may have to be copied, or may be done.
void Mirror::kick_resync() {
    if (!serving_ || read_only() || closing()) {
        return;
    }
    for (const auto& leg : legs_) {
        if (leg->state == LegState::joining && leg->map_written && leg->table_written) {
            leg->state = LegState::resyncing;
        }
    }
    if (!resync_timer_.running()) {
        resync_timer_.start(std::max(environment_.reactor.now(), resync_not_before_));
    }
}

bool Mirror::next_region() {
    bool any = in_doubt();
    for (const auto& leg : legs_) {
        any = any || (leg->state == LegState::resyncing &&
                      map_.missing_regions(static_cast<std::uint32_t>(leg->slot)) != 0);
    }
    for (std::uint32_t looked = 0; looked < map_.count() && any; ++looked) {
        const std::uint32_t region = (region_ + looked) % map_.count();
        const std::uint32_t targets = map_.at(region).has(RegionMap::failed) ? 0 : needs(region);
        if (targets == 0) {
            continue;
        }
        region_ = region;
        region_open_ = true;
        region_failed_ = region_again_ = false;
        region_offset_ = std::uint64_t{region} * geometry_.region_bytes;
        region_end_ = std::min(region_offset_ + geometry_.region_bytes, geometry_.data_bytes);
        region_targets_ = targets;
        region_source_ = source_;
        return true;
    }
    return false;
}

void Mirror::resync_step() {
    if (!serving_ || read_only() || closing() || growth_.switched()) {
        return;
    }
    const base::Nanoseconds now = environment_.reactor.now();
    const bool host_works = host_in_flight_ != 0 || now < host_seen_ + host_rests_after;
    const std::size_t depth = host_works ? 1 : lanes_max;
    for (std::size_t started = 0; started < lanes_max && lanes_busy_ < depth; ++started) {
        if (now < resync_not_before_) {
            resync_timer_.start(resync_not_before_);
            return;
        }
        if (!region_open_ && !next_region()) {
            resync_active_ = false;
            promote_ready();
            retry_failed_regions();
            return;
        }
        if (region_offset_ >= region_end_) {
            return;  // the last pieces of the region are under way
        }
        if (!resync_active_) {
            resync_active_ = true;
            resync_begun_ = now;
            resynced_bytes_ = 0;
        }
        Lane& lane =
            *std::find_if(std::begin(lanes_), std::end(lanes_), [](const Lane& one) { return !one.busy; });
        lane.offset = region_offset_;
        lane.length = std::min(piece_bytes, region_end_ - region_offset_);
        lane.targets = region_targets_;
        lane.tried = 0;
        lane.ended = &Mirror::resync_piece_ended;
        region_offset_ += lane.length;
        ++lanes_busy_;
        if (rate_ != 0) {
            const auto takes = static_cast<double>(lane.length) * 1e9 / static_cast<double>(rate_);
            resync_not_before_ = std::max(now, resync_not_before_) + static_cast<base::Nanoseconds>(takes);
        }
        start_piece(lane);
    }
    if (lanes_busy_ < depth && serving_) {
        resync_timer_.start(std::max(now, resync_not_before_));
    }
}

void Mirror::resync_piece_ended(Lane& lane) {
    --lanes_busy_;
    region_failed_ = region_failed_ || lane.source_failed;
    region_again_ = region_again_ || lane.epoch != epoch_;
    region_targets_ &= ~lane.failed;
    resynced_bytes_ += lane.length;
    if (region_open_ && region_offset_ >= region_end_ && lanes_busy_ == 0) {
        region_copied();
    }
    const base::Nanoseconds now = environment_.reactor.now();
    if (host_in_flight_ != 0) {
        resync_not_before_ = std::max(resync_not_before_, now + std::min(now - lane.begun, base::second));
    }
    if (serving_ && !closing()) {
        resync_timer_.start(std::max(now, resync_not_before_));
    }
}

// The region that is being copied is no longer as it was when the copy began.
void Mirror::disturb_region(std::uint32_t region) {
    region_again_ = region_again_ || (region_open_ && region == region_);
}

void Mirror::region_copied() {
    region_open_ = false;
    if (region_again_ || !serving_) {
        return;
    }
    RegionMap::Region& region = map_.at(region_);
    const std::uint32_t up = mask_of(LegState::up);
    if (region_failed_) {
        region.set(RegionMap::failed);
        any_failed_ = true;
        return;
    }
    // Until the copy is flushed the intent stands for what the leg missed, in the same sector of the map.
    const std::uint32_t done = region_targets_ & region.missing() & mask_of(LegState::resyncing);
    if (done != 0) {
        map_.set_intent(region_, stale_mask());
        region.set(RegionMap::touched);
        map_.clear_missing(region_, done);
        if (sums_.enabled()) {
            // Its checksums may have changed while the leg was away.
            const std::uint64_t offset = std::uint64_t{region_} * geometry_.region_bytes;
            sums_.write_again(offset, region_end_ - offset);
        }
        restart_sweep_timer();
    }
    const bool all =
        region_source_ == source_ && source_ != nullptr && (up & ~source_->bit() & ~region_targets_) == 0;
    if (all && region.has(RegionMap::unequal)) {
        map_.clear_unequal(region_);
        region.set(RegionMap::touched);
        restart_sweep_timer();
    }
}

// What could not be read anywhere is tried again, for as long as legs may differ there.
void Mirror::retry_failed_regions() {
    if (!any_failed_ || !serving_) {
        return;
    }
    any_failed_ = false;
    for (std::uint32_t i = 0; i < map_.count(); ++i) {
        map_.at(i).clear(RegionMap::failed);
    }
    resync_not_before_ = environment_.reactor.now() + retry_failed_after;
    resync_timer_.start(resync_not_before_);
}

void Mirror::promote_ready() {
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        Leg* const leg = leg_of_slot(slot);
        if (leg == nullptr || leg->state != LegState::resyncing) {
            continue;
        }
        if (map_.missing_regions(slot) != 0) {
            fail_leg(*leg, "no other leg can be read where it misses something");
            continue;
        }
        // What was copied must be on its medium before a table says that it has everything.
        leg->state = LegState::promoting;
        ask(*leg, {.action = Action::flush}, [this](Leg& flushed, Status status) {
            if (flushed.state != LegState::promoting) {
                return;
            }
            if (status != Status::ok) {
                ++flushed.write_errors;
                fail_leg(flushed, std::string("it cannot flush: ") + block::name_of(status));
                return;
            }
            table_[static_cast<std::size_t>(flushed.slot)].role = Role::up;
            table_changed();
        });
    }
}

}  // namespace block::mirror
