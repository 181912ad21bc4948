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
    region_targets_ &= ~leg.bit();  // what is being copied just now was begun for the leg that it was before
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
    retry_soon();
}

}  // namespace block::mirror
