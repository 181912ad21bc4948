#include "engine/memories.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "durable/commit.h"

namespace engine {

namespace {

// Room to grow in place: 16 times the size, between 64 GiB and 1 TiB, and the size itself if that is more.
std::uint64_t address_space_for(std::uint64_t bytes) {
    constexpr std::uint64_t gib = 1ull << 30;
    return std::max(bytes,
                    std::clamp(bytes < (1024 * gib) / 16 ? bytes * 16 : 1024 * gib, 64 * gib, 1024 * gib));
}

}  // namespace

Memories::Memories(std::span<MemoryRecord> records, transport::MemoryRegions& regions)
    : records_(records), regions_(regions) {}

void Memories::offer(const std::string& name, int descriptor) { offers_[name] = descriptor; }

void Memories::withdraw(const std::string& name) { offers_.erase(name); }

base::Result<std::uint32_t> Memories::slot_for(const std::string& name) {
    if (name.size() >= sizeof(MemoryRecord::name)) {
        return base::Error{"E_INVALID", "the device name \"" + name + "\" is longer than " +
                                            std::to_string(sizeof(MemoryRecord::name) - 1) + " characters"};
    }
    std::uint32_t free_slot = ~0u;
    for (std::uint32_t slot = 0; slot < records_.size(); ++slot) {
        const MemoryRecord& record = records_[slot];
        if (record.state != 0 && name == std::string(record.name, strnlen(record.name, sizeof record.name))) {
            return slot;
        }
        if (record.state == 0 && free_slot == ~0u) {
            free_slot = slot;
        }
    }
    if (free_slot == ~0u) {
        return base::Error{"E_LIMIT",
                           "no more than " + std::to_string(records_.size()) + " devices in memory"};
    }
    MemoryRecord& record = records_[free_slot];
    std::memset(record.name, 0, sizeof record.name);
    std::memcpy(record.name, name.data(), name.size());
    durable::commit(record.state, 1u);
    return free_slot;
}

base::Result<block::PersistentMemory> Memories::get(const std::string& name, std::uint64_t bytes) {
    const auto slot = slot_for(name);
    if (!slot) {
        return slot.error();
    }
    auto found = memories_.find(name);
    if (found == memories_.end()) {
        const auto offer = offers_.find(name);
        auto file = durable::MemoryFile::open(offer == offers_.end() ? -1 : offer->second, "keel-" + name,
                                              bytes, address_space_for(bytes));
        if (!file) {
            durable::commit(records_[slot.value()].state, 0u);
            return file.error();
        }
        found = memories_.emplace(name, Memory{file.take(), slot.value()}).first;
        if (offer == offers_.end() && created) {
            created(name, found->second.file.descriptor());
        }
    } else if (found->second.file.memory().size() != bytes) {
        if (auto resized = found->second.file.resize(bytes); !resized) {
            return resized.error();
        }
    }
    Memory& memory = found->second;
    durable::commit(records_[memory.slot].bytes, bytes);
    const auto region = static_cast<std::uint16_t>(first_device_region + memory.slot);
    regions_.set(region, memory.file.mapped());
    return block::PersistentMemory{memory.file.descriptor(), memory.file.memory(), region};
}

std::uint16_t Memories::region_of(const std::string& name) const {
    const auto found = memories_.find(name);
    return found == memories_.end() ? std::uint16_t{0}
                                    : static_cast<std::uint16_t>(first_device_region + found->second.slot);
}

int Memories::descriptor_of(const std::string& name) const {
    const auto found = memories_.find(name);
    return found == memories_.end() ? -1 : found->second.file.descriptor();
}

void Memories::forget(const std::string& name) {
    const auto found = memories_.find(name);
    if (found == memories_.end()) {
        return;
    }
    const std::uint32_t slot = found->second.slot;
    regions_.set(static_cast<std::uint16_t>(first_device_region + slot), {});
    memories_.erase(found);
    offers_.erase(name);
    durable::commit(records_[slot].state, 0u);
    if (forgotten) {
        forgotten(name);
    }
}

void Memories::forget_unused(const std::function<bool(const std::string& name)>& which) {
    for (auto offer = offers_.begin(); offer != offers_.end();) {
        const std::string name = offer->first;
        if (memories_.contains(name) || !which(name)) {
            ++offer;
            continue;
        }
        offer = offers_.erase(offer);
        for (MemoryRecord& record : records_) {
            if (record.state != 0 &&
                name == std::string(record.name, strnlen(record.name, sizeof record.name))) {
                durable::commit(record.state, 0u);
            }
        }
        if (forgotten) {
            forgotten(name);
        }
    }
}

}  // namespace engine
