// What can be asked of a mirror while it serves. See mirror.h for the list.

#include <algorithm>
#include <charconv>
#include <cstring>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

const std::string* argument(const Command& command, const char* name) {
    const auto found = command.arguments.find(name);
    return found == command.arguments.end() ? nullptr : &found->second;
}

bool says_yes(const Command& command, const char* name) {
    const std::string* const text = argument(command, name);
    return text != nullptr && (*text == "yes" || *text == "true");
}

}  // namespace

void Mirror::command(const Command& command, CommandDone done) {
    using LegVerb = void (Mirror::*)(Leg&, CommandDone);
    struct Row {
        const char* verb;
        LegVerb run;
    };
    static constexpr Row leg_verbs[] = {
        {"detach", &Mirror::detach},
        {"invalidate", &Mirror::invalidate},
        {"mark_clean", &Mirror::mark_clean},
        {"remove_leg", &Mirror::remove_leg},
    };
    const auto fail = [&](const char* code, const std::string& text) {
        done(base::Error{code, describe_device(spec_) + text});
    };
    if (closing()) {
        fail("E_BUSY", "it is being closed");
        return;
    }
    const std::string* const leg_name = argument(command, "leg");
    Leg* const leg = leg_name != nullptr ? leg_named(*leg_name) : nullptr;
    const bool wants_leg = command.verb == "attach" || command.verb == "replace_leg" ||
                           std::any_of(std::begin(leg_verbs), std::end(leg_verbs),
                                       [&](const Row& row) { return command.verb == row.verb; });
    if (wants_leg && leg == nullptr) {
        std::string names;
        for (const auto& one : legs_) {
            names += (names.empty() ? "" : ", ") + one->name;
        }
        fail("E_NOT_FOUND", leg_name == nullptr ? "\"" + command.verb + "\" needs the name of a leg"
                                                : "\"" + *leg_name + "\" is no leg; the legs are " + names);
        return;
    }
    if (wants_leg && read_only()) {
        fail("E_INVALID", "it is read-only, and so are its legs");
        return;
    }
    const bool other_legs =
        (wants_leg && command.verb != "detach") || command.verb == "add_leg" || command.verb == "replace_leg";
    if (other_legs && growth_.active()) {
        fail("E_BUSY", "it is growing; its legs can be changed after that");
        return;
    }
    for (const Row& row : leg_verbs) {
        if (command.verb == row.verb) {
            (this->*row.run)(*leg, std::move(done));
            return;
        }
    }
    if (command.verb == "attach") {
        attach(*leg, says_yes(command, "force"), std::move(done));
    } else if (command.verb == "add_leg" || command.verb == "replace_leg") {
        const std::string* const device = argument(command, "device");
        if (device == nullptr || !serving_ || read_only() || legs_.size() >= legs_max) {
            fail("E_INVALID", device == nullptr ? "\"" + command.verb + "\" needs the name of a device"
                              : legs_.size() >= legs_max
                                  ? "it has all the legs that it can have"
                                  : "it does not serve, so its legs cannot be changed");
            return;
        }
        auto added = add_leg_object(*device);
        if (!added.ok()) {
            done(added.error());
            return;
        }
        Leg& fresh = *added.value();
        fresh.newcomer = true;
        fresh.forced = says_yes(command, "force");
        fresh.replaces = command.verb == "replace_leg" ? leg : nullptr;
        fresh.waiter = [this, &fresh, done = std::move(done)](base::Result<void> result) {
            if (!result.ok()) {  // refused: it is no leg, and nothing was written to it
                leave(fresh);
            }
            done(std::move(result));
        };
        begin_reading(fresh);
    } else if (command.verb == "grow") {
        grow(std::move(done));
    } else if (command.verb == "scrub") {
        if (!serving_ || scrub_.running) {
            fail("E_BUSY", scrub_.running ? "a scrub is running" : "it does not serve");
            return;
        }
        start_scrub(says_yes(command, "repair") && !read_only());
        done({});
    } else if (command.verb == "scrub_stop") {
        stop_scrub();
        done({});
    } else if (command.verb == "set_rate") {
        const std::string* const text = argument(command, "bytes_per_second");
        std::uint64_t rate = 0;
        const char* const end = text == nullptr ? nullptr : text->data() + text->size();
        if (text == nullptr || std::from_chars(text->data(), end, rate).ptr != end || text->empty()) {
            fail("E_INVALID", "\"set_rate\" needs bytes_per_second, a number");
            return;
        }
        rate_ = rate;
        resync_not_before_ = 0;
        kick_resync();
        done({});
    } else {
        Device::command(command, std::move(done));
    }
}

// Answers once all that was changed so far is on the legs.
void Mirror::when_settled(CommandDone done) {
    if (settled() || !serving_) {
        done({});
    } else {
        settling_.emplace_back(wanted_version_, std::move(done));
    }
}

void Mirror::detach(Leg& leg, CommandDone done) {
    if (leg.state == LegState::up && up_count() == 1) {
        done(base::Error{
            "E_BUSY", describe_device(spec_) + "\"" + leg.name + "\" is the last leg that has everything"});
        return;
    }
    leg.detached = true;
    if (serving_ || starting_) {
        fail_leg(leg, "detached");
        if (leg.slot >= 0 && table_[static_cast<std::size_t>(leg.slot)].role == Role::stale) {
            table_[static_cast<std::size_t>(leg.slot)].role = Role::detached;
            table_changed();
        }
    }
    const bool reading = leg.state == LegState::reading;
    if (leg.state != LegState::stale || !serving_) {
        leg.state = serving_ ? LegState::stale : LegState::absent;
    }
    leg.reason = "detached";
    abandon(leg);
    if (reading) {
        leg.state = serving_ ? LegState::stale : LegState::absent;
    }
    if (!serving_ && !starting_) {
        try_start();
    }
    when_settled(std::move(done));
}

void Mirror::attach(Leg& leg, bool force, CommandDone done) {
    if (leg.keeps_metadata() && serving_) {
        done({});
        return;
    }
    if (leg.waiter) {
        done(base::Error{"E_BUSY", describe_device(spec_) + "\"" + leg.name + "\" is being attached"});
        return;
    }
    for (std::uint32_t i = 0; i < map_.count(); ++i) {
        map_.at(i).clear(RegionMap::failed);
    }
    leg.detached = false;
    leg.wanted = true;
    leg.forced = force;
    if (leg.in_flight != 0 && leg.state != LegState::reading) {
        done(base::Error{"E_BUSY", describe_device(spec_) + "\"" + leg.name +
                                       "\" still has requests from before; it is taken back when they end"});
        leg.join_later = true;
        return;
    }
    leg.waiter = std::move(done);
    if (leg.state != LegState::reading) {
        leg.state = LegState::absent;
        begin_reading(leg);
    }
}

void Mirror::invalidate(Leg& leg, CommandDone done) {
    if (!serving_ || leg.slot < 0 || (leg.state == LegState::up && up_count() == 1)) {
        done(
            base::Error{"E_BUSY", describe_device(spec_) + "\"" + leg.name +
                                      "\" is the only leg that has everything, or the volume is not served"});
        return;
    }
    const bool active = leg.keeps_metadata();
    fail_leg(leg, "declared invalid");
    map_.miss_everything(leg.bit());
    disturb_region(region_);
    schedule_batch();
    if (active) {
        leg.join_later = leg.in_flight != 0;
        if (!leg.join_later) {
            begin_reading(leg);
        }
    }
    when_settled(std::move(done));
}

// Somebody knows that it has everything, and takes the blame.
void Mirror::mark_clean(Leg& leg, CommandDone done) {
    if (!serving_ || leg.slot < 0 || leg.state == LegState::up || leg.state == LegState::promoting) {
        done(base::Error{"E_INVALID", describe_device(spec_) + "\"" + leg.name +
                                          "\" misses nothing, or the volume is not served"});
        return;
    }
    map_.forget_missing(leg.bit());
    schedule_batch();
    kick_resync();
    when_settled(std::move(done));
}

void Mirror::remove_leg(Leg& leg, CommandDone done) {
    const bool last = leg.state == LegState::up && up_count() == 1;
    if (!serving_ || last || legs_.size() == 1) {
        done(
            base::Error{"E_BUSY", describe_device(spec_) + "\"" + leg.name +
                                      "\" is the last leg that has everything, or the volume is not served"});
        return;
    }
    fail_leg(leg, "removed");
    if (leg.slot >= 0) {
        const auto slot = static_cast<std::size_t>(leg.slot);
        table_[slot] = {};
        map_.forget_missing(leg.bit());
        leg.slot = -1;
        table_changed();
    }
    leave(leg);
    when_settled(std::move(done));
}

// It goes as soon as nothing is under way on it.
void Mirror::leave(Leg& leg) {
    std::erase_if(repairs_, [&leg](const Repair& repair) { return repair.leg == &leg; });
    for (const auto& other : legs_) {
        other->replaces = other->replaces == &leg ? nullptr : other->replaces;
    }
    leg.waiter = nullptr;
    leg.slot = -1;
    abandon(leg);
    leg.state = LegState::leaving;
    if (leg.in_flight == 0) {
        leg_ran_dry(leg);
    }
}

}  // namespace block::mirror
