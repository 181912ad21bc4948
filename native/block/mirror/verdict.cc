#include "block/mirror/verdict.h"

namespace block::mirror {

namespace {

bool witnessed(const Superblock& superblock, const Witness& witness) {
    for (const Superblock::Slot& slot : witness.slots) {
        if (slot.role == Role::up && slot.leg == superblock.leg) {
            return superblock.events + 1 >= witness.events;
        }
    }
    return false;
}

}  // namespace

Verdict judge_leg(const Superblock& leg, const Superblock& newest) {
    const int slot = newest.slot_of(leg.leg);
    if (slot < 0) {
        return Verdict::removed;
    }
    const Superblock::Slot& recorded = newest.slots[static_cast<std::size_t>(slot)];
    const Role role = recorded.role;
    if (role == Role::up) {
        const bool same = leg.events == newest.events && leg.commit == newest.commit;
        const bool one_behind = leg.events + 1 == newest.events && leg.commit == newest.previous;
        if (same || one_behind) {
            return Verdict::up;
        }
        return leg.events + 1 < newest.events ? Verdict::old : Verdict::diverged;
    }
    const int own = leg.slot_of(leg.leg);
    const bool was_up = leg.slots[static_cast<std::size_t>(own)].role == Role::up;
    const bool may_have_next =
        leg.events == recorded.agreed + 1 && recorded.next != 0 && leg.commit == recorded.next;
    if (was_up && leg.events > recorded.agreed && !may_have_next) {
        return Verdict::diverged;
    }
    return role == Role::detached ? Verdict::detached : Verdict::stale;
}

Judgement judge_legs(std::span<const Superblock* const> found, const std::optional<Witness>& witness,
                     std::uint32_t believe) {
    Judgement judgement;
    for (std::size_t i = 0; i < found.size(); ++i) {
        // With a witness only those count that it knows to have everything.
        if (found[i] == nullptr || (witness && !witnessed(*found[i], *witness))) {
            continue;
        }
        if (judgement.newest < 0 ||
            found[i]->events > found[static_cast<std::size_t>(judgement.newest)]->events) {
            judgement.newest = static_cast<int>(i);
        }
    }
    if (judgement.newest < 0) {
        return judgement;
    }
    const Superblock& newest = *found[static_cast<std::size_t>(judgement.newest)];
    std::uint32_t here = believe;
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (found[i] == nullptr) {
            continue;
        }
        judgement.verdicts[i] = judge_leg(*found[i], newest);
        if (judgement.verdicts[i] == Verdict::diverged) {
            judgement.diverged = true;
        }
        if (const int slot = newest.slot_of(found[i]->leg); slot >= 0) {
            here |= 1u << slot;
        }
    }
    judgement.proven = true;
    for (std::size_t slot = 0; slot < legs_max && !witness; ++slot) {
        if (newest.slots[slot].role == Role::up && (here & (1u << slot)) == 0) {
            judgement.proven = false;
            judgement.missing_slot = static_cast<int>(slot);
        }
    }
    return judgement;
}

}  // namespace block::mirror
