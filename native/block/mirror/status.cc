// What a mirror says about itself.

#include <cstdio>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

std::string text_of(const Uuid& uuid) {
    std::string text;
    for (const std::uint8_t byte : uuid) {
        char digits[3];
        std::snprintf(digits, sizeof(digits), "%02x", byte);
        text += digits;
    }
    return text;
}

}  // namespace

base::Result<std::uint64_t> Mirror::resize(std::optional<std::uint64_t> bytes) {
    if (bytes && *bytes != description_.size_bytes) {
        return base::Error{"E_UNSUPPORTED",
                           describe_device(spec_) + "a mirror grows to what its legs have; not to a size"};
    }
    return description_.size_bytes;
}

std::vector<std::string> Mirror::parts() const {
    std::vector<std::string> names;
    for (const auto& leg : legs_) {
        if (leg->claim.device() != nullptr) {
            names.push_back(leg->claim.device()->name());
        }
    }
    return names;
}

std::string Mirror::identity() const { return "uuid." + text_of(spec_.mirror.volume); }

Device::Health Mirror::health() const {
    if (!serving_) {
        if (foreign_) {
            return {"foreign", waiting_for_};
        }
        if (split_) {
            return {"diverged", waiting_for_};
        }
        if (!stuck_ && !ever_served_) {
            return {"reading metadata", waiting_for_};
        }
        const bool fails = spec_.mirror.when_lost == MirrorSpec::WhenLost::fail;
        return {fails ? "failed" : "frozen", waiting_for_};
    }
    std::string reason;
    bool degraded = false;
    bool resyncing = false;
    for (const auto& leg : legs_) {
        if (leg->state != LegState::up) {
            degraded = true;
            resyncing = resyncing || leg->writable() || leg->state == LegState::joining;
            reason += (reason.empty() ? "" : "; ") + leg->name + " is " + name_of(leg->state) +
                      (leg->reason.empty() ? "" : ": " + leg->reason);
        }
    }
    if (resyncing || in_doubt()) {
        return {"resyncing", reason.empty() ? "regions that were being written are made equal" : reason};
    }
    return {degraded ? "degraded" : "ok", reason};
}

void Mirror::tell(Details& details) const {
    details.emplace_back("volume", text_of(spec_.mirror.volume));
    details.emplace_back("events", events_);
    details.emplace_back("region_bytes", std::uint64_t{geometry_.region_bytes});
    details.emplace_back("dirty_bytes", std::uint64_t{map_.intents()} * geometry_.region_bytes);
    details.emplace_back("unequal_bytes", std::uint64_t{map_.unequal_regions()} * geometry_.region_bytes);
    const std::uint64_t left = serving_ ? resync_left() : 0;
    details.emplace_back("resync.left_bytes", left);
    details.emplace_back("resync.done_bytes", resynced_bytes_);
    details.emplace_back("resync.bytes_per_second_max", rate_);
    if (resync_active_ && resynced_bytes_ != 0) {
        const base::Nanoseconds taken = environment_.reactor.now() - resync_begun_;
        const double per_byte = static_cast<double>(taken) / static_cast<double>(resynced_bytes_);
        details.emplace_back("resync.seconds_left",
                             static_cast<std::uint64_t>(per_byte * static_cast<double>(left) / 1e9) + 1);
    }
    details.emplace_back("scrub.state", std::string(scrub_.running ? "running" : "idle"));
    details.emplace_back("scrub.runs", scrub_.runs);
    details.emplace_back("scrub.checked_bytes", scrub_.offset);
    details.emplace_back("scrub.different_blocks", scrub_.differences);
    details.emplace_back("scrub.repaired_blocks", scrub_.repaired);
    details.emplace_back("growing", std::string(growth_.active() ? "yes" : "no"));
    details.emplace_back("checksums", std::string(geometry_.checksums ? "yes" : "no"));
    details.emplace_back("checksums.unwritten_pages", sums_.dirty_pages() + (sums_writing_ ? 1 : 0));
    details.emplace_back("checksums.lost_blocks", hopeless_);
    for (const auto& leg : legs_) {
        const std::string prefix = "leg." + leg->name + ".";
        details.emplace_back(prefix + "state", std::string(leg->detached ? "detached" : name_of(leg->state)));
        details.emplace_back(prefix + "reason", leg->reason);
        details.emplace_back(prefix + "uuid", text_of(leg->uuid));
        const std::uint64_t age = leg->keeps_metadata() ? events_ : leg->found ? leg->found->events : 0;
        details.emplace_back(prefix + "events", age);
        const std::uint64_t missing =
            leg->slot < 0 || leg->state == LegState::up
                ? 0
                : map_.missing_regions(static_cast<std::uint32_t>(leg->slot)) * geometry_.region_bytes;
        details.emplace_back(prefix + "dirty_bytes", missing);
        details.emplace_back(prefix + "in_flight", std::uint64_t{leg->in_flight});
        details.emplace_back(prefix + "read_errors", leg->read_errors);
        details.emplace_back(prefix + "write_errors", leg->write_errors);
        details.emplace_back(prefix + "repaired", leg->repaired);
        details.emplace_back(prefix + "corruptions", leg->corruptions);
    }
}

}  // namespace block::mirror
