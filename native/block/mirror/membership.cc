// Legs of a mirror that is served come and go; and what it does when it has none left.

#include "base/check.h"
#include "block/mirror/mirror.h"

namespace block::mirror {

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
    const bool shaped =
        leg.found && (leg.found->geometry == geometry_ || leg.found->geometry.grows_to(geometry_));
    if (!shaped) {
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

// Where its superblocks and records are to lie. What it has of this volume stays whole until then.
std::optional<Layout> Mirror::layout_for(const Leg& leg) const {
    if (leg.found && leg.found->geometry.grows_to(geometry_)) {
        return place_beside(geometry_, {leg.bytes, leg.found->geometry, leg.found->layout});
    }
    if (leg.found && leg.found->geometry == geometry_) {
        const std::uint64_t end = leg.found->layout.superblock_offset + superblocks * superblock_bytes;
        return end == leg.bytes / 4096 * 4096
                   ? leg.found->layout
                   : move_superblocks({end, geometry_, leg.found->layout}, leg.bytes);
    }
    return place(geometry_, leg.bytes);
}

// What is to be written would lie over its superblocks, which are at an end that it had: they come to its
// present one first, as they are. False: they are there.
bool Mirror::carry_superblock(Leg& leg) {
    const auto moved =
        leg.found ? move_superblocks({0, leg.found->geometry, leg.found->layout}, leg.bytes) : std::nullopt;
    if (!moved || *moved == leg.found->layout) {
        return false;
    }
    Superblock superblock = *leg.found;
    superblock.layout = *moved;
    superblock.sequence = ++leg.sequence;
    Buffer* const buffer = buffers_.take(superblock_bytes);
    encode(superblock, leg.bytes, std::span<std::byte, superblock_bytes>(buffer->data, superblock_bytes));
    leg.state = LegState::reading;
    ask(leg,
        {.action = Action::write,
         .offset = moved->superblock_offset + superblock.sequence % superblocks * superblock_bytes,
         .length = superblock_bytes,
         .data = buffer->data,
         .buffer = buffer,
         .force_unit_access = true},
        [this](Leg& asked, Status status) {
            if (asked.state != LegState::reading) {
                return;
            }
            asked.state = LegState::absent;
            asked.reason = status == Status::ok
                               ? "its superblock was brought to its new end"
                               : std::string("its superblock cannot be written: ") + block::name_of(status);
            // Looked at again once this request is over.
            asked.join_later = status == Status::ok;
            retry_soon();
        });
    buffers_.release(*buffer);
    return true;
}

void Mirror::join(Leg& leg, bool everything) {
    auto layout = layout_for(leg);
    if (!layout && carry_superblock(leg)) {
        return;
    }
    if (!layout) {
        // Over the records that it has: nobody reads them any more. Without the new ones it is stale as
        // before.
        layout = place(geometry_, leg.bytes);
    }
    if (!layout) {
        const bool grew = leg.found && leg.found->geometry.grows_to(geometry_);
        const std::uint64_t needed = geometry_.data_bytes + geometry_.metadata_bytes();
        refuse(leg, "it is too small" + std::string(grew ? " since the volume has grown" : "") + ": " +
                        std::to_string(leg.bytes) + " bytes, and " + std::to_string(needed) + " are needed");
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
    if (leg.found && leg.found->geometry.grows_to(geometry_)) {
        sums_.write_all_again();  // it has none where they lie from now on
    }
    leg.forced = leg.wanted = leg.detached = false;
    leg.newcomer = false;
    leg.recorded = leg.found ? leg.recorded : leg.bytes;
    leg.state = LegState::joining;
    region_targets_ &= ~leg.bit();  // what is being copied just now was begun for the leg that it was before
    leg.reason.clear();
    leg.map_needed = true;
    leg.map_written = leg.table_written = false;
    Superblock::Slot& slot = table_[static_cast<std::size_t>(leg.slot)];
    if (slot.leg != leg.uuid) {
        slot = {leg.uuid, Role::stale, 0, 0, 0};
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
    retry_later(leg);
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
    disturb_growth("\"" + leg.name + "\" failed: " + reason);
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
    sums_.reset(geometry_);
    arrived_.schedule();
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
    abandon_growth(reason);
    retry_soon();
}

}  // namespace block::mirror
