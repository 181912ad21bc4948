// How a mirror grows once its legs have. See format.h for where things lie.
//
// A leg's device grows (or becomes what it was before): superblocks that point to the records where they are
// go to its new end with the next commit; until that is there, the ones at the old end are found by looking
// (read_leg.cc).
//
// The volume grows, by command, when every leg that is up has room:
//
//   copying    the checksums are copied to where the new records will lie; those that change go to both
//   settling   no new batch of records begins, those under way end
//   writing    the whole new map is written: in the new regions the legs may differ
//   recording  a commit of the table, with the new size, switches each leg to its new records
//   cleaning   what lies in the new part of the volume of the old records becomes zeroes
//
// Until the commit is on a leg, its old records are whole and in force, and so is the old size; nobody is
// told of the new one before all legs that are up have it. If the process ends while some have recorded it
// and others have not, the ones that have are believed, and the others, whose new records are complete,
// follow at the next start (assemble.cc). Legs that are not there meanwhile follow when they come back, if
// they have room. Writes that need no new intent go on all the time; the others wait from `settling` to
// `cleaning`.

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/crash_point.h"
#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr std::uint64_t piece_bytes = 256u << 10;

}  // namespace

// --- A leg's device

void Mirror::move_superblocks_of(Leg& leg) {
    const std::uint64_t bytes = leg.claim.device()->describe().size_bytes;
    const bool other = bytes / 4096 != leg.bytes / 4096 && bytes != 0;
    if (!serving_ || read_only() || growth_.active() || !leg.keeps_metadata() || !other) {
        return;
    }
    const auto moved = move_superblocks({leg.bytes, geometry_, leg.layout}, bytes);
    if (!moved) {
        return;  // too near; or it has shrunk, and the next write there fails
    }
    leg.left.push_back({leg.layout.superblock_offset, superblocks * superblock_bytes});
    leg.bytes = bytes;
    leg.layout = *moved;
    EK_CRASH_POINT("mirror.leg.grown");
    table_changed();
}

// --- The volume

// No batch of map pages or checksums may begin: what is written now is the whole of it.
bool Mirror::growth_holds_records() const {
    const bool holds = growth_.phase == Growth::Phase::settling || growth_.phase == Growth::Phase::writing ||
                       growth_.phase == Growth::Phase::recording;
    return holds && growth_.trouble.empty();
}

// Checksums that change go to where they will lie as well.
bool Mirror::growth_copies_to(std::uint32_t slot) const {
    const bool copies = growth_.phase == Growth::Phase::copying || growth_.phase == Growth::Phase::settling;
    return copies && growth_.trouble.empty() && (growth_.slots & (1u << slot)) != 0;
}

void Mirror::grow(CommandDone done) {
    const auto fail = [&](const char* code, const std::string& text) {
        done(base::Error{code, describe_device(spec_) + text});
    };
    if (!serving_ || read_only() || growth_.active()) {
        fail(growth_.active() ? "E_BUSY" : "E_NOT_READY",
             growth_.active() ? "it is growing" : "it can grow when it is served, for writing");
        return;
    }
    for (const auto& leg : legs_) {
        move_superblocks_of(*leg);
    }
    std::vector<Carrier> carriers;
    std::string sizes;
    for (const auto& leg : legs_) {
        const bool coming = leg->keeps_metadata() && leg->state != LegState::up;
        if (coming || leg->state == LegState::reading) {
            fail("E_BUSY", "\"" + leg->name + "\" is being given what it misses; it can grow after that");
            return;
        }
        if (leg->state == LegState::up) {
            carriers.push_back({leg->bytes, geometry_, leg->layout});
            sizes += (sizes.empty() ? "" : ", ") + leg->name + " has " + std::to_string(leg->bytes);
        }
    }
    const Geometry geometry = choose_growth(geometry_, carriers);
    if (geometry == geometry_) {
        fail("E_INVALID", "its legs have no room for more than " + std::to_string(geometry_.data_bytes) +
                              " bytes and the records of a larger volume (" + sizes + " bytes)");
        return;
    }
    growth_.geometry = geometry;
    growth_.before = geometry_.data_bytes;
    growth_.slots = mask_of(LegState::up);
    for (std::uint32_t left = growth_.slots; left != 0; left &= left - 1) {
        const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
        const Leg& leg = *leg_of_slot(slot);
        growth_.layouts[slot] = *place_beside(geometry, {leg.bytes, geometry_, leg.layout});
    }
    growth_.copied = 0;
    growth_.trouble.clear();
    growth_.waiter = std::move(done);
    growth_.phase = Growth::Phase::copying;
    EK_CRASH_POINT("mirror.grow.begun");
    continue_growth();
}

// Whatever it waited for may have ended.
void Mirror::continue_growth() {
    if (growth_.outstanding != 0) {
        return;
    }
    if (growth_.active() && !growth_.trouble.empty()) {
        end_growth();
    } else if (growth_.phase == Growth::Phase::copying) {
        copy_sums();
    } else if (growth_.phase == Growth::Phase::settling) {
        const bool quiet =
            !batching_ && !committing_ && settled() && !sums_writing_ && !sweeping_ && !sweep_wants_sums_;
        if (quiet) {
            write_grown_map();
        }
    }
}

// A leg that is let go of, or the volume is lost: as long as nothing was recorded the volume stays as it is.
void Mirror::disturb_growth(const std::string& reason) {
    const bool undecided = growth_.phase == Growth::Phase::copying ||
                           growth_.phase == Growth::Phase::settling ||
                           growth_.phase == Growth::Phase::writing;
    if (!undecided || !growth_.trouble.empty()) {
        return;
    }
    growth_.trouble = reason;
    schedule_batch();
    schedule_sums();
    if (growth_.outstanding == 0) {
        end_growth();
    }
}

// One piece at a time, in turn with the batches of checksums that changed: a piece that was read before such
// a batch must not be written after it.
void Mirror::copy_sums() {
    if (sums_writing_) {
        return;
    }
    if (growth_.copied >= geometry_.checksum_bytes()) {
        growth_.phase = Growth::Phase::settling;
        EK_CRASH_POINT("mirror.grow.copied");
        continue_growth();
        return;
    }
    growth_.copying_piece = true;
    growth_.outstanding = 1;
    const std::uint64_t length = std::min(piece_bytes, geometry_.checksum_bytes() - growth_.copied);
    for (std::uint32_t left = growth_.slots; left != 0; left &= left - 1) {
        const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
        Leg* const leg = leg_of_slot(slot);
        if (leg == nullptr || leg->state != LegState::up) {
            continue;
        }
        Buffer* const buffer = buffers_.take(length);
        ++growth_.outstanding;
        ask(*leg,
            {.offset = leg->layout.checksum_offset + growth_.copied,
             .length = length,
             .data = buffer->data,
             .buffer = buffer},
            [this, buffer](Leg& asked, Status status) { sums_piece_read(asked, *buffer, status); });
    }
    sums_piece_ended();
}

void Mirror::sums_piece_read(Leg& leg, Buffer& buffer, Status status) {
    if (status != Status::ok || leg.slot < 0 || !growth_.trouble.empty()) {
        buffers_.release(buffer);
        disturb_growth("the checksums of \"" + leg.name + "\" cannot be read");
        sums_piece_ended();
        return;
    }
    const Layout& to = growth_.layouts[static_cast<std::size_t>(leg.slot)];
    ask(leg,
        {.action = Action::write,
         .offset = to.checksum_offset + growth_.copied,
         .length = std::min(piece_bytes, geometry_.checksum_bytes() - growth_.copied),
         .data = buffer.data,
         .buffer = &buffer,
         .force_unit_access = true},
        [this](Leg& asked, Status result) {
            if (result != Status::ok) {
                disturb_growth("\"" + asked.name + "\" cannot be written");
            }
            sums_piece_ended();
        });
    buffers_.release(buffer);
}

void Mirror::sums_piece_ended() {
    if (--growth_.outstanding != 0) {
        return;
    }
    growth_.copying_piece = false;
    growth_.copied += piece_bytes;
    schedule_sums();  // its end goes on with the next piece, if there is nothing to write as well
}

void Mirror::write_grown_map() {
    growth_.phase = Growth::Phase::writing;
    EK_CRASH_POINT("mirror.grow.writing");
    RegionMap map = map_;
    map.resize(growth_.geometry);
    doubt_new_regions(map);
    growth_.outstanding = 1;
    for (std::uint32_t page = 0; page < map.pages(); ++page) {
        Buffer* const buffer = buffers_.take(map_page_bytes);
        map.encode(page, std::span<std::byte, map_page_bytes>(buffer->data, map_page_bytes));
        for (std::uint32_t left = growth_.slots; left != 0; left &= left - 1) {
            const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
            Leg* const leg = leg_of_slot(slot);
            if (leg == nullptr || leg->state != LegState::up) {
                continue;
            }
            ++growth_.outstanding;
            ask(*leg,
                {.action = Action::write,
                 .offset = growth_.layouts[slot].map_offset + std::uint64_t{page} * map_page_bytes,
                 .length = map_page_bytes,
                 .data = buffer->data,
                 .buffer = buffer,
                 .force_unit_access = true},
                [this](Leg& asked, Status status) {
                    if (status != Status::ok) {
                        disturb_growth("\"" + asked.name + "\" cannot be written");
                    }
                    grown_map_written();
                });
        }
        buffers_.release(*buffer);
    }
    grown_map_written();
}

// What lies there on the legs is what was there before. Who is not there misses it.
void Mirror::doubt_new_regions(RegionMap& map) const {
    const bool differ = std::popcount(growth_.slots) > 1;
    const auto first = static_cast<std::uint32_t>(growth_.before / growth_.geometry.region_bytes);
    for (std::uint32_t region = first; region < map.count(); ++region) {
        if (differ) {
            map.set_intent(region, stale_mask());
            map.set_unequal(region);
        } else {
            map.set_missing(region, stale_mask());
        }
    }
}

void Mirror::grown_map_written() {
    if (--growth_.outstanding != 0) {
        return;
    }
    if (!growth_.trouble.empty()) {
        end_growth();
        return;
    }
    growth_.phase = Growth::Phase::recording;
    ++growth_.generation;
    for (std::uint32_t left = growth_.slots; left != 0; left &= left - 1) {
        const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
        if (Leg* const leg = leg_of_slot(slot)) {
            leg->left.push_back({leg->layout.checksum_offset, geometry_.records_bytes()});
            leg->layout = growth_.layouts[slot];
        }
    }
    map_.resize(growth_.geometry);
    doubt_new_regions(map_);
    disturb_region(geometry_.regions() - 1);
    sums_.grow(growth_.geometry);
    geometry_ = growth_.geometry;
    EK_CRASH_POINT("mirror.grow.recording");
    table_changed();
}

// The table is on all legs that are up.
void Mirror::growth_recorded() {
    if (growth_.phase != Growth::Phase::recording || !settled()) {
        return;
    }
    EK_CRASH_POINT("mirror.grow.recorded");
    growth_.phase = Growth::Phase::cleaning;
    const auto first = static_cast<std::uint32_t>(growth_.before / geometry_.region_bytes);
    for (std::uint32_t region = first; region < map_.count(); ++region) {
        if (map_.at(region).intent()) {
            map_.at(region).set(RegionMap::settled);  // it was in the map that is in force now
        }
    }
    schedule_batch();
    schedule_sums();
    growth_.outstanding = 1;
    environment_.reactor.post([this] { clean_piece(); });
}

void Mirror::clean_piece() {
    growth_.outstanding = 0;
    if (growth_.phase != Growth::Phase::cleaning) {
        end_growth();
        finish_close();
        return;
    }
    for (const auto& leg : legs_) {
        while (!leg->left.empty() && leg->state == LegState::up) {
            Leg::Range& range = leg->left.back();
            const std::uint64_t end = std::min(range.offset + range.length, geometry_.data_bytes);
            range.offset = std::max(range.offset, growth_.before);
            if (range.offset >= end) {
                leg->left.pop_back();
                continue;
            }
            const std::uint64_t length = std::min(piece_bytes, end - range.offset);
            Buffer* const buffer = buffers_.take(length);
            std::memset(buffer->data, 0, length);
            const std::uint64_t offset = range.offset;
            range.offset += length;
            range.length -= std::min(range.length, length);
            growth_.outstanding = 1;
            ask(*leg,
                {.action = Action::write,
                 .offset = offset,
                 .length = length,
                 .data = buffer->data,
                 .buffer = buffer},
                [this](Leg& asked, Status status) {
                    if (status != Status::ok && asked.keeps_metadata()) {
                        ++asked.write_errors;
                        fail_leg(asked, std::string("it cannot be written: ") + block::name_of(status));
                    }
                    environment_.reactor.post([this] { clean_piece(); });
                });
            buffers_.release(*buffer);
            return;
        }
    }
    EK_CRASH_POINT("mirror.grow.cleaned");
    end_growth();
}

void Mirror::end_growth() {
    const bool grown = growth_.phase == Growth::Phase::cleaning && serving_;
    growth_.phase = Growth::Phase::idle;
    if (grown) {
        growth_.trouble.clear();
    } else if (growth_.trouble.empty()) {
        growth_.trouble = "it was lost";
    }
    for (const auto& leg : legs_) {
        move_superblocks_of(*leg);
        const bool waits = leg->state == LegState::absent || leg->state == LegState::stale;
        if (waits && !leg->detached && leg->came_back) {
            begin_reading(*leg);
        }
        leg->came_back = false;
    }
    schedule_batch();
    schedule_sums();
    if (grown) {
        Description description = description_;
        description.size_bytes = geometry_.data_bytes;
        set_description(description);
        changed_.schedule();
    }
    restart_sweep_timer();
    kick_resync();
    CommandDone waiter = std::exchange(growth_.waiter, nullptr);
    if (waiter) {
        waiter(grown ? base::Result<void>()
                     : base::Error{"E_IO", describe_device(spec_) + "it has not grown: " + growth_.trouble});
    }
}

// No leg is left, or it is closed. What the legs have recorded decides at the next start.
void Mirror::abandon_growth(const std::string& reason) {
    if (!growth_.active()) {
        return;
    }
    growth_.trouble = reason;
    growth_.phase = growth_.outstanding == 0 ? growth_.phase : Growth::Phase::ending;
    if (growth_.outstanding == 0) {
        end_growth();
    }
}

}  // namespace block::mirror
