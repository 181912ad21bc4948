// The table that says which legs have everything, in the superblocks of all of them.
//
// A change of the table is committed to all legs that keep metadata. Nothing that depends on it is answered
// before it is durable on all that are then up; a leg that fails to record it is stale itself, which is the
// next change. Legs that are not up (yet) get it after one that was up has it. So a leg becomes up only if
// one that was up before has recorded that: otherwise the old one, coming back alone after a power cut, would
// believe that it need not wait for the new one.

#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

std::uint64_t new_commit_id() {
    std::uint64_t id = 0;
    while (getrandom(&id, sizeof(id), 0) != static_cast<ssize_t>(sizeof(id)) || id == 0) {
    }
    return id;
}

}  // namespace

void Mirror::table_changed() {
    ++wanted_version_;
    if (!committing_) {
        commit();
    }
}

void Mirror::commit() {
    committing_ = true;
    commit_version_ = wanted_version_;
    commit_epoch_ = epoch_;
    commit_events_ = events_ + 1;
    ++events_;
    previous_id_ = std::exchange(commit_id_, new_commit_id());
    commit_old_up_ = mask_of(LegState::up);
    commit_promoting_ = mask_of(LegState::promoting);
    commit_sent_ = commit_ok_ = 0;
    for (const auto& leg : legs_) {
        if (leg->slot >= 0 && leg->keeps_metadata()) {
            table_[static_cast<std::size_t>(leg->slot)].bytes = leg->recorded;
        }
    }
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        const Superblock::Slot& before = commit_table_[slot];
        const bool was_up = before.role == Role::up && before.leg == table_[slot].leg;
        if (was_up && table_[slot].role != Role::up) {
            const Leg* const leg = leg_of_slot(slot);
            const bool known = leg != nullptr && leg->uuid == before.leg && leg->agreed != 0;
            table_[slot].agreed = known ? leg->agreed : start_events_;
            const bool witnessed = witness_ && witness_->slots[slot].leg == before.leg;
            table_[slot].next = known ? leg->next : witnessed ? witness_->slots[slot].next : 0;
        }
    }
    commit_table_ = table_;
    // Whatever becomes of this commit, a leg may have it from here on: whom it calls stale is no witness, and
    // who comes back with it did not go on alone.
    for (std::uint32_t slot = 0; slot < legs_max && witness_; ++slot) {
        if (commit_table_[slot].role != Role::up) {
            witness_->slots[slot].role = Role::none;
        } else if ((commit_old_up_ & (1u << slot)) != 0) {
            witness_->slots[slot].next = commit_id_;
        }
    }
    witness_memory_.store(witness_, environment_.reactor.now());
    commit_later_ = ~commit_old_up_;
    commit_to(~commit_later_);
}

void Mirror::beat_witness() {
    if (!closing() && witness_memory_.used()) {
        witness_memory_.beat(environment_.reactor.now());
        beat_timer_.start_after(WitnessMemory::beat_every);
    }
}

void Mirror::commit_to(std::uint32_t slots) {
    ++commit_outstanding_;
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        Leg* const leg = leg_of_slot(slot);
        const bool wanted = (slots & (1u << slot)) != 0 && leg != nullptr && leg->keeps_metadata();
        if (!wanted || commit_epoch_ != epoch_) {
            continue;
        }
        Superblock superblock = current_table();
        superblock.slots = commit_table_;
        superblock.events = commit_events_;
        superblock.leg = leg->uuid;
        superblock.layout = leg->layout;
        superblock.commit = commit_id_;
        superblock.previous = previous_id_;
        superblock.sequence = ++leg->sequence;
        leg->next = commit_id_;
        Buffer* const buffer = buffers_.take(superblock_bytes);
        encode(superblock, leg->bytes,
               std::span<std::byte, superblock_bytes>(buffer->data, superblock_bytes));
        const std::uint64_t copy = superblock.sequence % superblocks * superblock_bytes;
        commit_sent_ |= leg->bit();
        commit_bytes_[slot] = leg->bytes;
        ++commit_outstanding_;
        ask(*leg,
            {.action = Action::write,
             .offset = leg->layout.superblock_offset + copy,
             .length = superblock_bytes,
             .data = buffer->data,
             .buffer = buffer,
             .force_unit_access = true},
            [this, slot](Leg&, Status status) {
                commit_ok_ |= status == Status::ok ? 1u << slot : 0;
                if (--commit_outstanding_ == 0) {
                    commit_reached();
                }
            });
        buffers_.release(*buffer);
    }
    if (--commit_outstanding_ == 0) {
        commit_reached();
    }
}

// Legs that are not up yet know nothing that one that was up before has not recorded.
void Mirror::commit_reached() {
    const std::uint32_t later = std::exchange(commit_later_, 0);
    if (later != 0 && commit_epoch_ == epoch_ && (commit_old_up_ & commit_ok_) != 0) {
        commit_to(later);
    } else {
        committed();
    }
}

void Mirror::committed() {
    committing_ = false;
    if (commit_epoch_ == epoch_) {
        const std::uint32_t failed = commit_sent_ & ~commit_ok_;
        committing_ = true;  // what follows may change the table: it is committed below
        if ((commit_old_up_ & commit_ok_) == 0) {
            lose("no leg can record which legs have everything");
        }
        for (std::uint32_t slot = 0; slot < legs_max && commit_epoch_ == epoch_; ++slot) {
            Leg* const leg = leg_of_slot(slot);
            const std::uint32_t bit = 1u << slot;
            if (leg == nullptr || (commit_sent_ & bit) == 0) {
                continue;
            }
            if ((failed & bit) != 0) {
                ++leg->write_errors;
                fail_leg(*leg, "it could not record the state of the volume");
            } else {
                leg->table_written = true;
                leg->agreed = commit_events_;
                if (leg->recorded != commit_bytes_[slot]) {
                    leg->recorded = commit_bytes_[slot];
                    ++wanted_version_;  // the others are to know where it has them
                }
                leg->next = 0;
                if (leg->state == LegState::promoting && (commit_promoting_ & bit) != 0 &&
                    commit_table_[slot].role == Role::up) {
                    leg->state = LegState::up;
                    leg->reason.clear();
                    changed_.schedule();
                }
            }
        }
        committing_ = false;
    }
    if (commit_epoch_ == epoch_) {
        // A table that says of a leg what is no longer so is not in force.
        if (commit_version_ == wanted_version_) {
            durable_version_ = commit_version_;
            witness_ = Witness{events_, commit_table_};
            witness_memory_.store(witness_, environment_.reactor.now());
            beat_witness();
        }
    }
    if (!settled()) {
        commit();
    } else {
        commit_settled();
    }
    continue_growth();
    finish_close();
}

void Mirror::commit_settled() {
    if (starting_ && !batching_) {
        serve();
    }
    while (waiting_commit_.first != nullptr && settled()) {
        Op& op = *waiting_commit_.first;
        waiting_commit_.remove(op);
        end_op(op, op.failure);
    }
    while (!settling_.empty() && settled()) {
        const CommandDone done = std::move(settling_.front().second);
        settling_.erase(settling_.begin());
        done({});
    }
    std::vector<Leg*> gone;
    for (const auto& leg : legs_) {
        if (leg->state == LegState::up && leg->replaces != nullptr) {
            gone.push_back(std::exchange(leg->replaces, nullptr));
        }
    }
    for (Leg* leg : gone) {
        remove_leg(*leg, [](base::Result<void>) {});
    }
    growth_recorded();
    kick_resync();
}

}  // namespace block::mirror
