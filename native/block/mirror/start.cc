// From the decision which legs are up to a volume that is served: a volume is made where there is none, the
// maps of the legs are read and joined, and the table says what is so from now on.

#include <algorithm>
#include <bit>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr std::uint64_t maps_piece_bytes = 256u << 10;

}  // namespace

// There is no volume yet. Legs that hold something are taken only if somebody insists, and then are the
// source.
void Mirror::try_create() {
    if (read_only()) {
        stuck_ = true;
        waiting_for_ = "there is no volume yet, and none can be made read-only";
        run_parked();
        return;
    }
    std::uint64_t smallest = legs_.front()->bytes;
    std::uint32_t block_bytes = description_.block_bytes;
    Leg* source = nullptr;
    bool all_empty = true;
    for (const auto& leg : legs_) {
        smallest = std::min(smallest, leg->bytes);
        block_bytes = std::max(block_bytes, leg->claim.device()->describe().block_bytes);
        all_empty = all_empty && leg->empty;
        source = source == nullptr && !leg->empty ? leg.get() : source;
    }
    source = source == nullptr ? legs_.front().get() : source;
    const Geometry geometry =
        choose_geometry(smallest, spec_.mirror.region_bytes, block_bytes, spec_.mirror.checksums);
    if (geometry.data_bytes == 0) {
        stuck_ = true;
        waiting_for_ = "the legs are too small";
        run_parked();
        return;
    }
    geometry_ = geometry;
    map_.reset(geometry_);
    sums_.reset(geometry_);
    table_ = commit_table_ = {};
    events_ = commit_id_ = start_events_ = 0;
    std::uint32_t slot = 0;
    for (const auto& leg : legs_) {
        leg->slot = static_cast<int>(slot);
        leg->uuid = new_uuid();
        leg->layout = *place(geometry_, leg->bytes);
        leg->forced = false;
        leg->recorded = leg->bytes;
        const bool up = leg.get() == source || (all_empty && spec_.mirror.assume_clean);
        table_[slot] = {leg->uuid, up ? Role::up : Role::stale, 0, 0, 0};
        leg->state = up ? LegState::up : LegState::stale;
        if (!up) {
            map_.miss_everything(leg->bit());
        }
        ++slot;
    }
    created_ = starting_ = true;
    for (std::uint32_t page = 0; page < map_.pages(); ++page) {
        map_.mark_dirty(page);
    }
    maps_read();
}

// The maps of all legs that are up, together: an intent that reached only one of them counts.
void Mirror::read_maps() {
    ++maps_outstanding_;
    for (const auto& leg : legs_) {
        if (leg->state != LegState::up) {
            continue;
        }
        const std::uint64_t bytes = std::uint64_t{leg->found->geometry.map_pages()} * map_page_bytes;
        for (std::uint64_t at = 0; at < bytes; at += maps_piece_bytes) {
            const std::uint64_t length = std::min(maps_piece_bytes, bytes - at);
            Buffer* const buffer = buffers_.take(length);
            struct Reading {
                Leg* leg;
                Buffer* buffer;
                std::uint64_t at;
                std::uint64_t length;
            };
            ++maps_outstanding_;
            ask(*leg,
                {.offset = leg->found->layout.map_offset + at,
                 .length = length,
                 .data = buffer->data,
                 .buffer = buffer},
                [this, reading = Reading{leg.get(), buffer, at, length}](Leg&, Status status) {
                    if (status == Status::ok) {
                        for (std::uint64_t done = 0; done < reading.length; done += map_page_bytes) {
                            map_.merge(static_cast<std::uint32_t>((reading.at + done) / map_page_bytes),
                                       std::span<const std::byte, map_page_bytes>(reading.buffer->data + done,
                                                                                  map_page_bytes));
                        }
                    } else if (reading.leg->state == LegState::up) {
                        // What it has cannot be told from what it lacks.
                        reading.leg->state = LegState::absent;
                        reading.leg->reason =
                            std::string("its map cannot be read: ") + block::name_of(status);
                    }
                    buffers_.release(*reading.buffer);
                    if (--maps_outstanding_ == 0) {
                        maps_read();
                    }
                });
        }
    }
    if (--maps_outstanding_ == 0) {
        maps_read();
    }
}

void Mirror::maps_read() {
    if (closing()) {
        return;
    }
    for (const auto& leg : legs_) {
        const bool fell_out = leg->slot >= 0 && leg->state == LegState::absent &&
                              table_[static_cast<std::size_t>(leg->slot)].role == Role::up;
        if (fell_out) {
            table_[static_cast<std::size_t>(leg->slot)].role = Role::stale;
            map_.miss_everything(leg->bit());
        }
    }
    const std::uint32_t up = mask_of(LegState::up);
    if (up == 0) {
        lose("the map of no leg can be read");
        return;
    }
    // Where a leg that is up was being copied to, its checksums are not those of its data.
    for (std::uint32_t region = 0; region < map_.count() && geometry_.checksums; ++region) {
        if ((map_.at(region).missing() & up) != 0) {
            map_.set_unequal(region);
        }
    }
    // What the map says of legs that are up is from a time before; stale ones miss whatever was under way.
    map_.forget_missing(up);
    for (std::uint32_t page = 0; page < map_.pages() && ever_served_; ++page) {
        map_.mark_dirty(page);  // what of it reached the legs before they were lost is not known
    }
    map_.miss_intents(stale_mask());
    for (std::uint32_t region = 0; region < map_.count(); ++region) {
        if (map_.at(region).intent() && (std::popcount(up) > 1 || geometry_.checksums)) {
            map_.set_unequal(region);
        }
    }
    choose_source();
    if (read_only()) {
        serve();
        return;
    }
    // The map first: a leg whose table calls it up must have one.
    run_batch();
}

// Always the same one of those that are up: after two power cuts in a row what was seen in between is seen
// again.
void Mirror::choose_source() {
    source_ = nullptr;
    for (std::uint32_t slot = 0; slot < legs_max && source_ == nullptr; ++slot) {
        Leg* const leg = leg_of_slot(slot);
        source_ = leg != nullptr && leg->state == LegState::up ? leg : nullptr;
    }
}

void Mirror::serve() {
    starting_ = false;
    serving_ = ever_served_ = true;
    const bool made = created_;
    created_ = stuck_ = split_ = foreign_ = false;
    waiting_for_.clear();
    Description description = description_;
    description.size_bytes = geometry_.data_bytes;
    description.block_bytes = geometry_.block_bytes;
    set_description(description);
    describe_from_legs();
    for (std::uint32_t region = 0; region < map_.count(); ++region) {
        if (map_.at(region).intent()) {
            map_.at(region).set(RegionMap::settled);  // the map was just written to all legs that are up
        }
    }
    if (spec_.mirror.checksums != geometry_.checksums && environment_.log) {
        environment_.log("warning", "mirror",
                         name() + ": the volume was made " + (geometry_.checksums ? "with" : "without") +
                             " checksums; that cannot be changed, and what the configuration says is not so");
    }
    std::vector<Leg*> others;
    std::vector<Leg*> again;  // failed meanwhile, or the table says where else to look
    for (const auto& leg : legs_) {
        const bool unread =
            leg->found_nothing && (leg->state == LegState::refused || leg->state == LegState::found);
        const bool failed = leg->state == LegState::stale && !leg->detached;
        if (leg->state == LegState::up) {
            answer(*leg, {});
        } else if (!made && (unread || failed)) {
            again.push_back(leg.get());
        } else if (leg->state == LegState::found || failed) {
            others.push_back(leg.get());
        }
    }
    for (Leg* leg : others) {
        welcome(*leg);
    }
    for (Leg* leg : again) {
        begin_reading(*leg);
    }
    for (const auto& leg : legs_) {
        move_superblocks_of(*leg);  // its device may have grown since it was read
    }
    run_parked();
    changed_.schedule();
    restart_sweep_timer();
    kick_resync();
}

}  // namespace block::mirror
