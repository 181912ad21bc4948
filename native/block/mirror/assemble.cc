// How a mirror finds out which of its legs may be served from, makes the volume where there is none, takes
// legs back, and what it does when it has none left. The rules: verdict.h.

#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr std::uint64_t superblocks_bytes = std::uint64_t{superblocks} * superblock_bytes;
// What is looked at to tell an empty leg from one that holds something.
constexpr std::uint64_t content_bytes = 64u << 10;
constexpr std::uint64_t maps_piece_bytes = 256u << 10;

bool all_zero(std::span<const std::byte> memory) {
    return std::all_of(memory.begin(), memory.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

Uuid new_uuid() {
    Uuid uuid{};
    while (getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size()) || uuid == Uuid{}) {
    }
    uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0F) | 0x40);
    uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3F) | 0x80);
    return uuid;
}

}  // namespace

// --- Reading a leg
// ---------------------------------------------------------------------------------------------

void Mirror::begin_reading(Leg& leg) {
    if (closing() || leg.state == LegState::reading || leg.keeps_metadata() ||
        leg.state == LegState::leaving) {
        return;
    }
    if (leg.in_flight != 0) {
        leg.join_later = true;  // an old write that lands later would destroy newer data
        leg.reason = "requests from before have not ended yet";
        return;
    }
    leg.bytes = leg.claim.device()->describe().size_bytes;
    if (leg.bytes == 0) {
        leg.state = LegState::absent;
        leg.reason = "its size is not known yet";
        return;
    }
    if (leg.bytes < superblocks_bytes + map_page_bytes + region_bytes_min ||
        leg.claim.device()->describe().block_bytes > 4096) {
        refuse(leg, "it is too small to be a leg");
        return;
    }
    leg.state = LegState::reading;
    leg.reason.clear();
    leg.found.reset();
    leg.empty = false;
    leg.sequence = 0;
    Buffer* const buffer = buffers_.take(superblocks_bytes);
    const std::uint64_t offset = leg.bytes / 4096 * 4096 - superblocks_bytes;
    ask(leg, {.offset = offset, .length = superblocks_bytes, .data = buffer->data, .buffer = buffer},
        [this, &leg, buffer](Leg&, Status status) { superblocks_read(leg, *buffer, status); });
    buffers_.release(*buffer);
}

void Mirror::superblocks_read(Leg& leg, Buffer& buffer, Status status) {
    if (status != Status::ok) {
        leg.state = LegState::absent;
        leg.reason = std::string("its superblock cannot be read: ") + block::name_of(status);
        leg_read(leg);
        return;
    }
    bool resembles = false;
    for (std::uint32_t i = 0; i < superblocks; ++i) {
        const auto copy = std::span<const std::byte, superblock_bytes>(
            buffer.data + std::size_t{i} * superblock_bytes, superblock_bytes);
        resembles = resembles || resembles_superblock(copy);
        const auto superblock = decode(copy, leg.bytes);
        leg.sequence = std::max(leg.sequence, superblock ? superblock->sequence : 0);
        if (superblock && (!leg.found || superblock->sequence > leg.found->sequence)) {
            leg.found = superblock;
        }
    }
    if (leg.found && leg.found->volume == spec_.mirror.volume) {
        leg.state = LegState::found;
        leg.uuid = leg.found->leg;
        leg_read(leg);
        return;
    }
    if (leg.found || resembles) {
        const bool other = leg.found.has_value();
        leg.found.reset();
        if (leg.forced) {
            leg.state = LegState::found;
            leg.empty = false;
        } else {
            refuse(leg, other ? "it is a leg of another volume" : "it holds a damaged superblock");
        }
        leg_read(leg);
        return;
    }
    leg.empty = all_zero({buffer.data, superblocks_bytes});
    Buffer* const content = buffers_.take(content_bytes);
    const std::uint64_t length = std::min(content_bytes, leg.bytes / 4096 * 4096);
    ask(leg, {.length = length, .data = content->data, .buffer = content},
        [this, &leg, content](Leg&, Status result) { content_read(leg, *content, result); });
    buffers_.release(*content);
}

void Mirror::content_read(Leg& leg, Buffer& buffer, Status status) {
    if (status != Status::ok) {
        leg.state = LegState::absent;
        leg.reason = std::string("it cannot be read: ") + block::name_of(status);
    } else {
        leg.state = LegState::found;
        leg.empty = leg.empty && all_zero({buffer.data, static_cast<std::size_t>(std::min(
                                                            content_bytes, leg.bytes / 4096 * 4096))});
        if (!leg.empty && !leg.forced) {
            refuse(leg, "it holds something, and no superblock of this volume");
        }
    }
    leg_read(leg);
}

void Mirror::refuse(Leg& leg, const std::string& reason) {
    leg.state = LegState::refused;
    leg.reason = reason;
    answer(leg, base::Error{"E_INVALID", describe_device(spec_) + "\"" + leg.name + "\": " + reason +
                                             "; to overwrite it, attach it with force"});
}

void Mirror::leg_read(Leg& leg) {
    if (closing()) {
        return;
    }
    if (serving_) {
        welcome(leg);
    } else if (!starting_) {
        try_start();
    }
    retry_soon();
}

// --- Starting
// --------------------------------------------------------------------------------------------------

void Mirror::try_start() {
    if (serving_ || starting_ || closing()) {
        return;
    }
    std::vector<Leg*> legs;
    std::vector<const Superblock*> found;
    std::uint32_t awaited = 0;
    bool all_read = true;
    split_ = foreign_ = false;
    Leg* forced = nullptr;
    for (const auto& leg : legs_) {
        const bool unknown = leg->state == LegState::absent && leg->bytes == 0;
        awaited += (leg->state == LegState::reading || unknown) && !leg->detached ? 1 : 0;
        all_read = all_read && (leg->state == LegState::found || leg->detached);
        if (leg->state != LegState::found) {
            foreign_ = foreign_ || leg->state == LegState::refused;
            continue;
        }
        const bool twin = leg->found && std::any_of(legs.begin(), legs.end(), [&](const Leg* other) {
                              return other->found && other->found->leg == leg->found->leg;
                          });
        if (twin) {
            refuse(*leg, "it is a copy of another leg");
            continue;
        }
        legs.push_back(leg.get());
        found.push_back(leg->found ? &*leg->found : nullptr);
        forced = leg->forced && leg->found ? leg.get() : forced;
    }
    const bool any =
        std::any_of(found.begin(), found.end(), [](const Superblock* one) { return one != nullptr; });
    if (!any) {
        if (spec_.known.size_bytes == 0 && !ever_served_ && all_read) {
            try_create();
            return;
        }
        stuck_ = awaited == 0;
        waiting_for_ = foreign_ ? "a leg is refused" : "no leg with this volume is here";
        for (const auto& leg : legs_) {
            waiting_for_ += leg->reason.empty() ? "" : "; " + leg->name + ": " + leg->reason;
        }
        if (stuck_) {
            run_parked();
        }
        return;
    }
    // Slots whose legs an operator has put aside need not be here; neither those of legs that are gone for
    // good, which is known when every leg was read and something empty stands in their place.
    const auto weigh = [&](const std::optional<Witness>& witness) {
        Judgement judgement = judge_legs(found, witness);
        if (judgement.newest < 0) {
            return judgement;
        }
        const Superblock& newest = *found[static_cast<std::size_t>(judgement.newest)];
        std::uint32_t believe = 0;
        int empty = 0;
        for (const auto& leg : legs_) {
            const int slot = leg->detached && leg->uuid != Uuid{} ? newest.slot_of(leg->uuid) : -1;
            believe |= slot >= 0 ? 1u << slot : 0;
            empty += leg->state == LegState::found && !leg->found ? 1 : 0;
            empty += leg->detached && leg->uuid == Uuid{} ? 1 : 0;
        }
        judgement = judge_legs(found, witness, believe);
        int lacking = 0;
        for (const Superblock::Slot& slot : newest.slots) {
            const bool here = std::any_of(legs_.begin(), legs_.end(), [&](const auto& leg) {
                return (leg->found || leg->detached) && leg->uuid == slot.leg;
            });
            lacking += slot.role == Role::up && !here ? 1 : 0;
        }
        judgement.proven = judgement.proven || (all_read && lacking <= empty);
        return judgement;
    };
    Judgement judgement = weigh(witness_);
    if (!judgement.proven && witness_) {
        // The legs may know more than we do, but not less.
        judgement = weigh(std::nullopt);
        const bool behind = judgement.newest < 0 ||
                            found[static_cast<std::size_t>(judgement.newest)]->events < witness_->events;
        judgement.proven = judgement.proven && !behind;
    }
    bool any_up = false;
    for (std::size_t i = 0; i < legs.size(); ++i) {
        if (judgement.verdicts[i] == Verdict::up && legs[i]->detached) {
            judgement.verdicts[i] = Verdict::detached;
        }
        any_up = any_up || judgement.verdicts[i] == Verdict::up;
    }
    judgement.proven = judgement.proven && any_up;
    if (forced != nullptr) {
        for (std::size_t i = 0; i < legs.size(); ++i) {
            judgement.newest = legs[i] == forced ? static_cast<int>(i) : judgement.newest;
        }
        judgement.proven = true;
        judgement.diverged = false;
        judgement.verdicts.fill(Verdict::old);
        judgement.verdicts[static_cast<std::size_t>(judgement.newest)] = Verdict::up;
    }
    // A leg that is about to be there need not become stale, and may have something to say.
    const bool soon = forced == nullptr && awaited != 0 && environment_.reactor.now() < patient_until_;
    if (judgement.newest < 0 || !judgement.proven || judgement.diverged || soon) {
        stuck_ = awaited == 0;
        split_ = judgement.diverged;
        if (judgement.diverged) {
            waiting_for_ = "legs went on without each other; attach the one to keep with force";
        } else {
            waiting_for_ = "a leg that may have newer data is not here";
            for (const auto& leg : legs_) {
                if (leg->state != LegState::found) {
                    waiting_for_ += "; " + leg->name + " is " + name_of(leg->state) +
                                    (leg->reason.empty() ? "" : ": " + leg->reason);
                }
            }
        }
        for (std::size_t i = 0; i < legs.size(); ++i) {
            if (judgement.verdicts[i] == Verdict::diverged) {
                legs[i]->reason = "went on without the others";
            }
        }
        if (stuck_) {
            run_parked();
        }
        return;
    }
    const Superblock newest = *found[static_cast<std::size_t>(judgement.newest)];
    const bool size_differs =
        spec_.known.size_bytes != 0 && spec_.known.size_bytes != newest.geometry.data_bytes;
    const bool blocks_differ =
        spec_.known.block_bytes != 0 && spec_.known.block_bytes != newest.geometry.block_bytes;
    if (size_differs || blocks_differ) {
        foreign_ = stuck_ = true;
        waiting_for_ = "the volume on the legs has " + std::to_string(newest.geometry.data_bytes) +
                       " bytes in blocks of " + std::to_string(newest.geometry.block_bytes) +
                       ", not what is known of it";
        run_parked();
        return;
    }
    // In memory the map may be ahead of what is on the legs.
    if (!ever_served_ || geometry_ != newest.geometry) {
        map_.reset(newest.geometry);
    }
    geometry_ = newest.geometry;
    table_ = newest.slots;
    std::uint64_t events = newest.events;
    for (const Superblock* superblock : found) {
        events = superblock != nullptr ? std::max(events, superblock->events) : events;
    }
    events_ = forced != nullptr ? events + 1 : events;
    start_events_ = newest.events;
    commit_id_ = newest.commit;
    commit_table_ = newest.slots;
    for (std::size_t i = 0; i < legs.size(); ++i) {
        Leg& leg = *legs[i];
        leg.slot = -1;
        const int slot = leg.found && leg.found->geometry == geometry_ ? newest.slot_of(leg.found->leg) : -1;
        if (slot < 0) {
            continue;
        }
        leg.slot = slot;
        leg.layout = *place(geometry_, leg.bytes);
        leg.agreed = leg.found->events;
        leg.next = 0;
        if (judgement.verdicts[i] == Verdict::up) {
            leg.state = LegState::up;
            leg.reason.clear();
            table_[static_cast<std::size_t>(slot)].role = Role::up;
        } else if (judgement.verdicts[i] == Verdict::old) {
            table_[static_cast<std::size_t>(slot)].role = Role::stale;
            map_.miss_everything(leg.bit());
        }
    }
    // Whoever is not here is so from now on in the table, too.
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        const Leg* const leg = leg_of_slot(slot);
        const bool same = leg != nullptr && leg->uuid == table_[slot].leg;
        if (table_[slot].role == Role::up && !(same && leg->state == LegState::up)) {
            table_[slot].role = same && leg->detached ? Role::detached : Role::stale;
        }
    }
    starting_ = true;
    if (forced != nullptr) {
        forced->forced = false;
    }
    read_maps();
}

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
    table_ = commit_table_ = {};
    events_ = commit_id_ = start_events_ = 0;
    std::uint32_t slot = 0;
    for (const auto& leg : legs_) {
        leg->slot = static_cast<int>(slot);
        leg->uuid = new_uuid();
        leg->layout = *place(geometry_, leg->bytes);
        leg->forced = false;
        const bool up = leg.get() == source || (all_empty && spec_.mirror.assume_clean);
        table_[slot] = {leg->uuid, up ? Role::up : Role::stale, 0, 0};
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
        const std::uint64_t bytes = std::uint64_t{map_.pages()} * map_page_bytes;
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
                {.offset = leg->layout.map_offset + at,
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
    // What the map says of legs that are up is from a time before; stale ones miss whatever was under way.
    map_.forget_missing(up);
    for (std::uint32_t page = 0; page < map_.pages() && ever_served_; ++page) {
        map_.mark_dirty(page);  // what of it reached the legs before they were lost is not known
    }
    map_.miss_intents(stale_mask());
    for (std::uint32_t region = 0; region < map_.count(); ++region) {
        if (map_.at(region).intent() && std::popcount(up) > 1) {
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
    created_ = stuck_ = split_ = foreign_ = false;
    waiting_for_.clear();
    Description description = description_;
    description.size_bytes = geometry_.data_bytes;
    description.block_bytes = geometry_.block_bytes;
    set_description(description);
    describe_from_legs();
    std::vector<Leg*> others;
    for (const auto& leg : legs_) {
        if (leg->state == LegState::up) {
            answer(*leg, {});
        } else if (leg->state == LegState::found || (leg->state == LegState::stale && !leg->detached)) {
            others.push_back(leg.get());
        }
    }
    for (Leg* leg : others) {
        welcome(*leg);
    }
    run_parked();
    changed_.schedule();
    restart_sweep_timer();
    kick_resync();
}

// --- Legs come and go
// ------------------------------------------------------------------------------------------

Superblock Mirror::current_table() const {
    Superblock superblock;
    superblock.events = events_;
    superblock.volume = spec_.mirror.volume;
    superblock.geometry = geometry_;
    superblock.slots = table_;
    return superblock;
}

// A leg that was read while the volume is served.
void Mirror::welcome(Leg& leg) {
    if (closing() || read_only() || (leg.state != LegState::found && leg.state != LegState::stale)) {
        if (leg.state == LegState::absent) {
            answer(leg, base::Error{"E_IO", describe_device(spec_) + "\"" + leg.name + "\": " + leg.reason});
        }
        return;
    }
    if (created_ || (leg.state == LegState::stale && leg.slot >= 0 && !leg.found)) {
        join(leg, false);  // the volume was just made: its slot and what it misses are known
        return;
    }
    if (!leg.found || leg.found->geometry != geometry_) {
        if (leg.found && !leg.forced) {
            refuse(leg, "it is of this volume, but of another size");
            return;
        }
        join(leg, true);
        return;
    }
    for (const auto& other : legs_) {
        if (other.get() != &leg && other->slot >= 0 && other->uuid == leg.found->leg) {
            refuse(leg, "it is a copy of \"" + other->name + "\"");
            return;
        }
    }
    const Superblock* const both[] = {&*leg.found};
    Superblock newest = current_table();
    const Verdict verdict = judge_leg(*both[0], newest);
    switch (verdict) {
        case Verdict::up:
        case Verdict::stale:
        case Verdict::unknown: join(leg, false); break;
        case Verdict::old: join(leg, true); break;
        case Verdict::detached:
            if (leg.detached || !(leg.wanted || leg.forced)) {
                leg.detached = true;
                leg.state = LegState::stale;
                leg.slot = newest.slot_of(leg.found->leg);
                leg.reason = "was detached; attach it to take it back";
            } else {
                join(leg, false);
            }
            break;
        case Verdict::removed:
            if (leg.forced) {
                join(leg, true);
            } else {
                refuse(leg, "it was removed from this volume");
            }
            break;
        case Verdict::diverged:
            if (leg.forced) {
                join(leg, true);
            } else {
                leg.state = LegState::diverged;
                leg.reason = "it went on without the others; attach it with force to overwrite it";
                answer(leg, base::Error{"E_INVALID",
                                        describe_device(spec_) + "\"" + leg.name + "\": " + leg.reason});
            }
            break;
    }
}

// A place in the table for a leg whose own is not in it.
bool Mirror::bind_slot(Leg& leg) {
    // The slot of a leg that is no more is used again; whether there is one is known when all were read.
    const bool all_known = std::none_of(legs_.begin(), legs_.end(), [](const auto& one) {
        return one->state == LegState::absent || one->state == LegState::reading;
    });
    int chosen = -1;
    for (std::uint32_t slot = 0; slot < legs_max && chosen < 0 && all_known; ++slot) {
        const Role role = table_[slot].role;
        const bool vacant = role != Role::none && role != Role::up && leg_of_slot(slot) == nullptr;
        chosen = vacant ? static_cast<int>(slot) : -1;
    }
    for (std::uint32_t slot = 0; slot < legs_max && chosen < 0; ++slot) {
        chosen = table_[slot].role == Role::none ? static_cast<int>(slot) : -1;
    }
    if (chosen < 0) {
        return false;
    }
    leg.slot = chosen;
    leg.uuid = new_uuid();
    return true;
}

void Mirror::join(Leg& leg, bool everything) {
    const auto layout = place(geometry_, leg.bytes);
    if (!layout) {
        refuse(leg, "it is too small: " + std::to_string(leg.bytes) + " bytes, and " +
                        std::to_string(geometry_.data_bytes + geometry_.metadata_bytes()) + " are needed");
        return;
    }
    const Description& below = leg.claim.device()->describe();
    if (below.read_only || below.block_bytes > geometry_.block_bytes ||
        (description_.can_deallocate && !(below.can_deallocate && below.deallocated_reads_zero)) ||
        (description_.can_write_zeroes && !below.can_write_zeroes)) {
        refuse(leg, "it cannot do what the volume has promised (block size, writing, zeroes, deallocation)");
        return;
    }
    if (leg.in_flight != 0) {
        leg.join_later = true;
        return;
    }
    if (leg.slot < 0) {
        leg.slot = leg.found ? current_table().slot_of(leg.found->leg) : -1;
        if (leg.slot < 0 && !bind_slot(leg)) {
            leg.slot = -1;
            refuse(leg, "the table of the volume is full");
            return;
        }
    } else if (!leg.found && everything && leg.state == LegState::found) {
        leg.uuid = new_uuid();  // another medium in the same place
    }
    leg.layout = *layout;
    leg.forced = leg.wanted = leg.detached = false;
    leg.state = LegState::joining;
    leg.reason.clear();
    leg.map_needed = true;
    leg.map_written = leg.table_written = false;
    Superblock::Slot& slot = table_[static_cast<std::size_t>(leg.slot)];
    if (slot.leg != leg.uuid) {
        slot = {leg.uuid, Role::stale, 0, 0};
        leg.agreed = leg.next = 0;
    }
    slot.role = Role::stale;
    if (everything) {
        map_.miss_everything(leg.bit());
    } else {
        map_.miss_intents(leg.bit());
    }
    schedule_batch();
    table_changed();
    answer(leg, {});
}

void Mirror::fail_leg(Leg& leg, const std::string& reason) {
    if (!leg.keeps_metadata()) {
        return;
    }
    if (leg.state == LegState::up && up_count() == 1) {
        lose("the last leg, " + leg.name + ", failed: " + reason);
        return;
    }
    leg.state = LegState::stale;
    leg.reason = reason;
    changed_.schedule();
    leg.found.reset();
    leg.map_needed = leg.flushing = false;
    map_.miss_intents(leg.bit());
    Superblock::Slot& slot = table_[static_cast<std::size_t>(leg.slot)];
    if (slot.role == Role::up) {
        slot.role = Role::stale;
        table_changed();
    }
    if (source_ == &leg) {
        choose_source();
    }
    schedule_batch();
}

// No leg is left that has everything. What the legs' tables say is the truth again; this process remembers
// that nobody went on without them.
void Mirror::lose(const std::string& reason) {
    serving_ = starting_ = false;
    changed_.schedule();
    patient_until_ = environment_.reactor.now() + patience;
    ++epoch_;
    stuck_ = true;
    waiting_for_ = reason;
    source_ = nullptr;
    for (const auto& leg : legs_) {
        const bool again = leg->keeps_metadata() || leg->state == LegState::found ||
                           (leg->state == LegState::stale && !leg->detached);
        if (again) {
            leg->state = LegState::absent;
            leg->reason = reason;
            leg->found.reset();
            leg->map_needed = leg->flushing = false;
        }
        answer(*leg, base::Error{"E_IO", describe_device(spec_) + reason});
    }
    wanted_version_ = durable_version_ = commit_version_;
    for (auto& [version, done] : settling_) {
        done(base::Error{"E_IO", describe_device(spec_) + reason});
    }
    settling_.clear();
    for (OpList* list : {&waiting_commit_, &joining_}) {
        while (list->first != nullptr) {
            Op& op = *list->first;
            list->remove(op);
            release_piece(op);
            if (op.done_bytes != 0 && op.done_bytes == op.above->length) {
                op.done_bytes -= op.length;  // its last piece was done, but not answered for
            }
            park_or_fail(op);
        }
    }
    if (spec_.mirror.when_lost == MirrorSpec::WhenLost::fail) {
        run_parked();
    }
    retry_soon();
}

}  // namespace block::mirror
