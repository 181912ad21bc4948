// What a medium may hold, told from what a host sent and heard: the judge of the power-cut simulation.
//
// For each sector it keeps every change that a host asked for, with the moments of its submission and of its
// end. A change A is certainly older than a change B if A ended before B was submitted; changes that overlap
// may land in either order. A change is durable if its own Force Unit Access was acknowledged, or if it was
// acknowledged before a Flush was submitted that succeeded. A medium may hold any change that is not
// certainly older than a durable one, whether acknowledged or not; a read, any that is not certainly older
// than one that was acknowledged before the read was submitted. A change that failed may have landed all the
// same.
//
// NVM Express Base 2.0 §7.1 (Flush), NVM Command Set 1.0 §3.2.6 (Force Unit Access), §2.1.4.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace simulation {

class DurabilityModel {
  public:
    using Moment = std::uint64_t;
    static constexpr Moment never = ~Moment{0};

    struct Place {
        std::uint32_t sector;
        std::uint32_t index;
    };

    // All sectors hold 0, durably.
    explicit DurabilityModel(std::uint32_t sectors) : sectors_(sectors) {
        for (auto& changes : sectors_) {
            changes.push_back(known(0));
        }
    }

    Moment tick() { return ++moment_; }

    Place submitted(std::uint32_t sector, std::uint64_t value, Moment moment) {
        sectors_[sector].push_back({value, moment, never, false, false, false});
        return {sector, static_cast<std::uint32_t>(sectors_[sector].size() - 1)};
    }
    void ended(Place place, Moment moment, bool acknowledged, bool durable) {
        Change& change = at(place);
        change.ended = moment;
        change.acknowledged = acknowledged;
        change.durable = acknowledged && durable;
    }
    // It is certain that this change had no effect.
    void withdrawn(Place place) { at(place).withdrawn = true; }

    void flushed(Moment flush_submitted) {
        for (auto& changes : sectors_) {
            for (Change& change : changes) {
                change.durable = change.durable || (change.acknowledged && change.ended < flush_submitted);
            }
        }
    }
    void power_lost() {
        const Moment moment = tick();
        for (auto& changes : sectors_) {
            for (Change& change : changes) {
                change.ended = change.ended == never ? moment : change.ended;
            }
        }
    }
    // After a power cut: this is on the medium, and nothing else.
    void found(std::uint32_t sector, std::uint64_t value) { sectors_[sector] = {known(value)}; }

    bool may_be_on_medium(std::uint32_t sector, std::uint64_t value) const {
        return any(sector, [&](const Change& change) {
            return change.value == value &&
                   !older_than_any(change, sector, [](const Change& newer) { return newer.durable; });
        });
    }
    bool may_be_read(std::uint32_t sector, std::uint64_t value, Moment read_submitted) const {
        return any(sector, [&](const Change& change) {
            return change.value == value && is_current(change, sector, read_submitted);
        });
    }
    bool may_differ(std::uint32_t sector, std::uint64_t value, Moment read_submitted) const {
        return any(sector, [&](const Change& change) {
            return change.value != value && is_current(change, sector, read_submitted);
        });
    }
    // The only value that a read submitted now can return, if there is only one.
    std::optional<std::uint64_t> settled(std::uint32_t sector) const {
        std::optional<std::uint64_t> value;
        for (const Change& change : sectors_[sector]) {
            if (change.withdrawn || !is_current(change, sector, moment_ + 1)) {
                continue;
            }
            if (change.ended == never || (value && *value != change.value)) {
                return std::nullopt;
            }
            value = change.value;
        }
        return value;
    }
    // How many values the medium may hold there.
    std::size_t choices_on_medium(std::uint32_t sector) const {
        std::size_t count = 0;
        any(sector, [&](const Change& change) {
            count += may_be_on_medium(sector, change.value) ? 1u : 0u;
            return false;
        });
        return count;
    }

  private:
    struct Change {
        std::uint64_t value;
        Moment submitted;
        Moment ended;
        bool acknowledged;
        bool durable;
        bool withdrawn;
    };

    Change known(std::uint64_t value) const { return {value, moment_, moment_, true, true, false}; }
    Change& at(Place place) { return sectors_[place.sector][place.index]; }

    template <typename Condition>
    bool any(std::uint32_t sector, Condition condition) const {
        for (const Change& change : sectors_[sector]) {
            if (!change.withdrawn && condition(change)) {
                return true;
            }
        }
        return false;
    }
    template <typename Condition>
    bool older_than_any(const Change& change, std::uint32_t sector, Condition condition) const {
        return any(sector,
                   [&](const Change& newer) { return change.ended < newer.submitted && condition(newer); });
    }
    bool is_current(const Change& change, std::uint32_t sector, Moment read_submitted) const {
        return !older_than_any(change, sector, [&](const Change& newer) {
            return newer.acknowledged && newer.ended < read_submitted;
        });
    }

    std::vector<std::vector<Change>> sectors_;
    Moment moment_ = 1;
};

}  // namespace simulation
