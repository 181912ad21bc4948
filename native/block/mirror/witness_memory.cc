#include "block/mirror/witness_memory.h"

#include <atomic>
#include <cstring>

#include "base/crc32c.h"

namespace block::mirror {

namespace {

// Who dies at any point leaves what was stored before, in this order.
void set(std::uint64_t& word, std::uint64_t value) {
    std::atomic_ref(word).store(value, std::memory_order_seq_cst);
}

}  // namespace

void WitnessMemory::use(std::span<std::byte> memory, const Uuid& volume) {
    memory_ = memory.size() < sizeof(Record) ? std::span<std::byte>() : memory;
    volume_ = volume;
}

std::uint64_t WitnessMemory::seal_of(const Content& content) {
    return std::uint64_t{1} << 32 | base::crc32c(std::as_bytes(std::span(&content, 1)));
}

std::optional<Witness> WitnessMemory::load(base::Nanoseconds now) const {
    if (!used()) {
        return std::nullopt;
    }
    const Record copy = record();
    const auto at = static_cast<std::uint64_t>(now);
    const bool recent = copy.beat <= at && at - copy.beat <= static_cast<std::uint64_t>(believed_for);
    if (copy.seal != seal_of(copy.content) || !recent ||
        std::memcmp(copy.content.volume, volume_.data(), volume_.size()) != 0) {
        return std::nullopt;
    }
    Witness witness;
    witness.events = copy.content.events;
    for (std::size_t i = 0; i < legs_max; ++i) {
        std::memcpy(witness.slots[i].leg.data(), copy.content.slots[i].leg, sizeof(Uuid));
        const bool up = copy.content.slots[i].role == static_cast<std::uint64_t>(Role::up);
        witness.slots[i].role = up ? Role::up : Role::none;
        witness.slots[i].next = copy.content.slots[i].next;
    }
    return witness;
}

void WitnessMemory::store(const std::optional<Witness>& witness, base::Nanoseconds now) {
    if (!used()) {
        return;
    }
    Record& out = record();
    set(out.seal, 0);
    if (!witness) {
        return;
    }
    Content content{};
    std::memcpy(content.volume, volume_.data(), volume_.size());
    content.events = witness->events;
    for (std::size_t i = 0; i < legs_max; ++i) {
        std::memcpy(content.slots[i].leg, witness->slots[i].leg.data(), sizeof(Uuid));
        content.slots[i].role = static_cast<std::uint64_t>(witness->slots[i].role);
        content.slots[i].next = witness->slots[i].next;
    }
    std::memcpy(&out.content, &content, sizeof(content));
    beat(now);
    set(out.seal, seal_of(content));
}

void WitnessMemory::beat(base::Nanoseconds now) {
    if (used()) {
        set(record().beat, static_cast<std::uint64_t>(now));
    }
}

}  // namespace block::mirror
