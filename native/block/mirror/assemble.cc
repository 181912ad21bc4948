// Which of its legs a mirror may be served from, decided from what was read of them. The rules: verdict.h.

#include <algorithm>

#include "block/mirror/mirror.h"

namespace block::mirror {

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
    // It may have grown, and nobody was told.
    const bool size_differs = spec_.known.size_bytes > newest.geometry.data_bytes;
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
    const bool resized = geometry_.grows_to(newest.geometry) || newest.geometry.grows_to(geometry_);
    if (!ever_served_ || (geometry_ != newest.geometry && !resized)) {
        map_.reset(newest.geometry);
    } else if (resized) {
        map_.resize(newest.geometry);
        region_ = 0;
        region_open_ = false;
    }
    geometry_ = newest.geometry;
    sums_.reset(geometry_);
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
        // One that had no time to record that the volume has grown does that now.
        const bool grows = leg.found && leg.found->geometry.grows_to(geometry_);
        const bool shaped = leg.found && (grows || leg.found->geometry == geometry_);
        const int slot = shaped ? newest.slot_of(leg.found->leg) : -1;
        const auto layout = shaped ? layout_for(leg) : std::nullopt;
        if (slot < 0 || !layout) {
            continue;
        }
        leg.slot = slot;
        leg.layout = *layout;
        leg.map_needed = grows && judgement.verdicts[i] == Verdict::up;
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

}  // namespace block::mirror
