#include "block/mirror/mirror.h"

#include <sys/random.h>

#include <algorithm>
#include <bit>

namespace block {

namespace mirror {

const char* name_of(LegState state) {
    switch (state) {
        case LegState::absent: return "absent";
        case LegState::reading: return "reading";
        case LegState::found: return "found";
        case LegState::refused: return "refused";
        case LegState::diverged: return "diverged";
        case LegState::stale: return "stale";
        case LegState::joining: return "joining";
        case LegState::resyncing: return "resyncing";
        case LegState::promoting: return "promoting";
        case LegState::up: return "up";
        case LegState::leaving: return "leaving";
    }
    return "?";
}

Uuid new_uuid() {
    Uuid uuid{};
    while (getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size()) || uuid == Uuid{}) {
    }
    uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0F) | 0x40);
    uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3F) | 0x80);
    return uuid;
}

Mirror::Mirror(const Environment& environment, const DeviceSpec& spec)
    : Device(spec.name, spec.kind),
      environment_(environment),
      spec_(spec),
      rate_(spec.mirror.resync_bytes_per_second),
      changed_(environment_.reactor, *this),
      batch_start_(environment_.reactor, *this),
      sums_start_(environment_.reactor, *this),
      arrived_(environment_.reactor, *this),
      sweep_timer_(environment_.reactor, *this),
      resync_timer_(environment_.reactor, *this),
      retry_timer_(environment_.reactor, *this),
      scrub_timer_(environment_.reactor, *this),
      beat_timer_(environment_.reactor, *this) {
    for (Lane& lane : lanes_) {
        lane.mirror = this;
        lane.hold.lane = &lane;
    }
    for (Lane& lane : examinations_) {
        lane.mirror = this;
        lane.hold.lane = &lane;
    }
    for (Lane* lane : {&repair_lane_, &scrub_.lane}) {
        lane->mirror = this;
        lane->hold.lane = lane;
    }
    description_.block_bytes = spec.known.block_bytes != 0 ? spec.known.block_bytes : spec.block_bytes;
    description_.size_bytes = spec.known.size_bytes;
    description_.read_only = spec.read_only;
    waiting_for_ = "the legs have not been read yet";
}

Mirror::~Mirror() = default;

base::Result<Leg*> Mirror::add_leg_object(const std::string& device) {
    Device* const found = environment_.find(device);
    if (found == nullptr) {
        return base::Error{"E_NOT_FOUND", describe_device(spec_) + "there is no device \"" + device +
                                              "\" to be a leg; create it first"};
    }
    auto claim =
        Claim::take(*found, read_only() ? Access::read_only : Access::read_write, "device " + spec_.name);
    if (!claim.ok()) {
        return claim.error();
    }
    legs_.push_back(std::make_unique<Leg>());
    Leg& leg = *legs_.back();
    leg.claim = claim.take();
    leg.name = device;
    leg.losses = found->losses();
    leg.claim.on_change([this, &leg] { leg_changed(leg); });
    return &leg;
}

base::Result<void> Mirror::start() {
    for (const PartSpec& part : spec_.parts) {
        if (auto leg = add_leg_object(part.device); !leg.ok()) {
            return leg.error();
        }
    }
    describe_from_legs();
    if (environment_.memory && !read_only()) {
        if (auto memory = environment_.memory(spec_.name + witness_suffix, WitnessMemory::bytes)) {
            witness_memory_.use(memory.value().memory, spec_.mirror.volume);
            witness_ = witness_memory_.load(environment_.reactor.now());
        }
    }
    patient_until_ = environment_.reactor.now() + patience;
    for (const auto& leg : legs_) {
        begin_reading(*leg);
    }
    return {};
}

Leg* Mirror::leg_named(const std::string& name) {
    for (const auto& leg : legs_) {
        const bool is = leg->name == name || leg->claim.device()->name() == name;
        if (is && leg->state != LegState::leaving) {
            return leg.get();
        }
    }
    return nullptr;
}

Leg* Mirror::leg_of_slot(std::uint32_t slot) {
    for (const auto& leg : legs_) {
        if (leg->slot == static_cast<int>(slot)) {
            return leg.get();
        }
    }
    return nullptr;
}

std::uint32_t Mirror::mask_of(LegState state) const {
    std::uint32_t mask = 0;
    for (const auto& leg : legs_) {
        mask |= leg->state == state ? leg->bit() : 0;
    }
    return mask;
}

std::uint32_t Mirror::writable_mask() const {
    return mask_of(LegState::up) | mask_of(LegState::resyncing) | mask_of(LegState::promoting);
}

// Every slot whose leg does not get the host's writes.
std::uint32_t Mirror::stale_mask() const {
    std::uint32_t mask = 0;
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        mask |= table_[slot].role != Role::none ? 1u << slot : 0;
    }
    return mask & ~writable_mask();
}

std::uint32_t Mirror::up_count() const {
    return static_cast<std::uint32_t>(std::popcount(mask_of(LegState::up)));
}

// What all legs can do; their sizes are the business of the superblock. What was promised once stays
// promised.
void Mirror::describe_from_legs() {
    Description description = description_;
    description.physical_block_bytes = description.block_bytes;
    description.volatile_cache = false;
    description.can_deallocate = description.deallocated_reads_zero = description.can_write_zeroes = true;
    description.optimal_io_bytes = 0;
    description.data_alignment = 1;
    for (const auto& leg : legs_) {
        const Description& below = leg->claim.device()->describe();
        description.physical_block_bytes =
            std::max({description.physical_block_bytes, below.physical_block_bytes});
        description.volatile_cache = description.volatile_cache || below.volatile_cache;
        // What is not defined after it would differ between the legs.
        description.can_deallocate =
            description.can_deallocate && below.can_deallocate && below.deallocated_reads_zero;
        description.can_write_zeroes = description.can_write_zeroes && below.can_write_zeroes;
        description.optimal_io_bytes = std::max(description.optimal_io_bytes, below.optimal_io_bytes);
        description.data_alignment = std::max(description.data_alignment, below.data_alignment);
        description.rotational = description.rotational || below.rotational;
        if (!ever_served_ && spec_.known.block_bytes == 0 && below.size_bytes != 0) {
            description.block_bytes = std::max(description.block_bytes, below.block_bytes);
        }
    }
    description.deallocated_reads_zero = description.can_deallocate;
    set_description(description);
}

}  // namespace mirror

MadeDevice make_mirror(Environment& environment, const DeviceSpec& spec) {
    if (spec.parts.empty() || spec.parts.size() > mirror::legs_max) {
        return base::Error{"E_INVALID", describe_device(spec) + "a mirror has 1 to " +
                                            std::to_string(mirror::legs_max) + " legs, not " +
                                            std::to_string(spec.parts.size())};
    }
    for (std::size_t i = 0; i < spec.parts.size(); ++i) {
        for (std::size_t other = 0; other < i; ++other) {
            if (spec.parts[i].device == spec.parts[other].device) {
                return base::Error{"E_INVALID", describe_device(spec) + "\"" + spec.parts[i].device +
                                                    "\" is named twice as a leg"};
            }
        }
    }
    const std::uint32_t region = spec.mirror.region_bytes;
    if (region != 0 && (!std::has_single_bit(region) || region < mirror::region_bytes_min ||
                        region > mirror::region_bytes_max)) {
        return base::Error{"E_INVALID", describe_device(spec) +
                                            "a region has a power of two of bytes between 4096 and 2^30, "
                                            "not " +
                                            std::to_string(region)};
    }
    auto device = std::make_unique<mirror::Mirror>(environment, spec);
    if (auto started = device->start(); !started.ok()) {
        return started.error();
    }
    return std::unique_ptr<Device>(std::move(device));
}

}  // namespace block
