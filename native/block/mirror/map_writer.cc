// How the map of regions gets onto the legs, and how intents are taken back.
//
// Map pages go out in batches, one at a time: whoever comes while one is under way is in the next. So a page
// is never written twice at once, and one write serves all that wait.

#include <algorithm>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

// A region that was not written for one to two of these is flushed and taken off the map.
constexpr base::Nanoseconds sweep_interval = base::second;

}  // namespace

void Mirror::schedule_batch() { batch_start_.schedule(); }

void Mirror::run_batch() {
    batch_start_.cancel();
    if (batching_ || growth_holds_records()) {
        return;  // its end begins the next
    }
    const bool whole =
        std::any_of(legs_.begin(), legs_.end(), [](const auto& leg) { return leg->map_needed; });
    if (!starting_ && !whole && !map_.any_dirty() && joining_.empty()) {
        finish_close();
        return;
    }
    batching_ = true;
    batch_epoch_ = epoch_;
    batch_sent_ = batch_failed_ = batch_whole_ = 0;
    batch_failure_ = Status::ok;
    in_batch_ = joining_;
    joining_ = {};
    for (Op* op = in_batch_.first; op != nullptr; op = op->next) {
        op->list = &in_batch_;
    }
    for (const auto& leg : legs_) {
        if (leg->keeps_metadata()) {
            batch_sent_ |= leg->bit();
            batch_whole_ |= leg->map_needed ? leg->bit() : 0;
        }
        leg->map_needed = false;
    }
    ++batch_outstanding_;
    for (std::uint32_t page = 0; page < map_.pages() && batch_epoch_ == epoch_; ++page) {
        const bool dirty = map_.page_dirty(page);
        if (!dirty && batch_whole_ == 0) {
            continue;
        }
        map_.mark_clean(page);
        Buffer* const buffer = buffers_.take(map_page_bytes);
        map_.encode(page, std::span<std::byte, map_page_bytes>(buffer->data, map_page_bytes));
        for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
            Leg* const leg = leg_of_slot(slot);
            const std::uint32_t bit = 1u << slot;
            const bool wants = (batch_sent_ & bit) != 0 && (dirty || (batch_whole_ & bit) != 0);
            if (!wants || leg == nullptr || !leg->keeps_metadata()) {
                batch_failed_ |= wants ? bit : 0;
                continue;
            }
            ++batch_outstanding_;
            ask(*leg,
                {.action = Action::write,
                 .offset = leg->layout.map_offset + std::uint64_t{page} * map_page_bytes,
                 .length = map_page_bytes,
                 .data = buffer->data,
                 .buffer = buffer,
                 .force_unit_access = true},
                [this, slot](Leg&, Status status) {
                    if (status != Status::ok) {
                        batch_failed_ |= 1u << slot;
                        batch_failure_ = status;
                    }
                    if (--batch_outstanding_ == 0) {
                        batch_done();
                    }
                });
        }
        buffers_.release(*buffer);
    }
    if (--batch_outstanding_ == 0) {
        batch_done();
    }
}

void Mirror::batch_done() {
    for (std::uint32_t slot = 0; slot < legs_max && batch_epoch_ == epoch_; ++slot) {
        Leg* const leg = leg_of_slot(slot);
        if ((batch_failed_ & (1u << slot)) != 0 && leg != nullptr) {
            leg->write_errors += leg->keeps_metadata() ? 1 : 0;
            fail_leg(*leg, std::string("its map cannot be written: ") + block::name_of(batch_failure_));
        } else if (leg != nullptr && (batch_whole_ & (1u << slot)) != 0) {
            leg->map_written = true;
        }
    }
    batching_ = false;
    OpList ready = in_batch_;
    in_batch_ = {};
    const bool in_force = batch_epoch_ == epoch_;
    std::vector<Op*>& ops = batch_ops_;
    for (Op* op = ready.first; op != nullptr; op = op->next) {
        op->list = nullptr;
        ops.push_back(op);
    }
    // A region is settled if it was in this batch; all those of the waiting requests were.
    for (Op* op : ops) {
        for (std::uint32_t region = op->regions.first; region <= op->regions.last && in_force; ++region) {
            map_.at(region).set(RegionMap::settled);
        }
    }
    for (std::size_t i = 0; i < ops.size(); ++i) {
        if (in_force && serving_) {
            send_change(*ops[i]);
        } else {
            release_piece(*ops[i]);
            park_or_fail(*ops[i]);
        }
    }
    ops.clear();
    if (starting_ && in_force) {
        table_changed();
    }
    const bool whole =
        std::any_of(legs_.begin(), legs_.end(), [](const auto& leg) { return leg->map_needed; });
    if (!joining_.empty() || whole) {
        schedule_batch();
    }
    kick_resync();
    continue_growth();
    finish_close();
}

// --- The sweep

void Mirror::restart_sweep_timer() {
    const bool wanted = map_.intents() != 0 || sums_.any_dirty();
    if (serving_ && !read_only() && !closing() && wanted && !sweep_timer_.running() && !sweeping_) {
        sweep_timer_.start_after(sweep_interval);
    }
}

// Regions at rest are flushed and their checksums written; then they are taken off the map.
void Mirror::sweep() {
    if (!serving_ || sweeping_) {
        return;
    }
    if (growth_holds_records()) {
        restart_sweep_timer();
        return;
    }
    if (sums_.any_dirty()) {
        schedule_sums();
    }
    std::uint32_t candidates = 0;
    for (std::uint32_t i = 0; i < map_.count() && map_.intents() != 0; ++i) {
        RegionMap::Region& region = map_.at(i);
        if (!region.intent()) {
            continue;
        }
        const bool rests = (!region.has(RegionMap::touched) || closing_now_) && region.writers == 0 &&
                           !region.has(RegionMap::unequal);
        region.clear(RegionMap::touched);
        if (rests) {
            region.set(RegionMap::sweeping);
            ++candidates;
        } else {
            region.clear(RegionMap::sweeping);
        }
    }
    if (candidates == 0) {
        restart_sweep_timer();
        return;
    }
    sweeping_ = sweep_ok_ = true;
    sweep_epoch_ = epoch_;
    ++sweep_outstanding_;
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        Leg* const leg = leg_of_slot(slot);
        if (leg == nullptr || !leg->writable() || !leg->claim.device()->describe().volatile_cache) {
            continue;
        }
        ++sweep_outstanding_;
        ask(*leg, {.action = Action::flush}, [this, slot](Leg&, Status status) {
            Leg* const flushed = leg_of_slot(slot);
            if (status != Status::ok) {
                // While it is up nothing may be taken back; if another one has everything it is stale now.
                sweep_ok_ = false;
                const bool last = flushed != nullptr && flushed->state == LegState::up && up_count() == 1;
                if (flushed != nullptr && sweep_epoch_ == epoch_ && !last) {
                    ++flushed->write_errors;
                    fail_leg(*flushed, std::string("it cannot flush: ") + block::name_of(status));
                }
            }
            if (--sweep_outstanding_ == 0) {
                sweep_flushed();
            }
        });
    }
    if (sums_.enabled()) {
        ++sweep_outstanding_;
        sweep_wants_sums_ = true;
        schedule_sums();
    }
    if (--sweep_outstanding_ == 0) {
        sweep_flushed();
    }
}

void Mirror::sweep_flushed() {
    sweeping_ = false;
    for (std::uint32_t i = 0; i < map_.count() && sweep_epoch_ == epoch_; ++i) {
        RegionMap::Region& region = map_.at(i);
        const bool still = region.has(RegionMap::sweeping) && region.writers == 0 && sweep_ok_ &&
                           !region.has(RegionMap::touched) && !region.has(RegionMap::unequal);
        region.clear(RegionMap::sweeping);
        if (still) {
            map_.clear_intent(i);
        }
    }
    if (map_.any_dirty() && serving_) {
        schedule_batch();
    }
    restart_sweep_timer();
    continue_growth();
    finish_close();
}

}  // namespace block::mirror
