#include "block/tcmu/channel.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace block::tcmu {

namespace {

// One read of memory that somebody else may be changing.
template <typename T>
T read_once(const T& place) {
    T copy;
    std::memcpy(&copy, &place, sizeof copy);
    asm volatile("" ::: "memory");
    return copy;
}

}  // namespace

base::Result<std::unique_ptr<Channel>> Channel::make() {
    const auto failed = [] {
        return base::Error{"E_NO_MEMORY",
                           std::string("no memory to share with a tcmu handler: ") + std::strerror(errno),
                           errno};
    };
    Descriptor memory(memfd_create("keel-tcmu", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory.open() || ftruncate(memory.number(), sizeof(Area)) != 0 ||
        fcntl(memory.number(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return failed();
    }
    void* place = mmap(nullptr, sizeof(Area), PROT_READ | PROT_WRITE, MAP_SHARED, memory.number(), 0);
    if (place == MAP_FAILED) {
        return failed();
    }
    auto& area = *static_cast<Area*>(place);  // all zeroes, which is a value of each member
    area.magic = area_magic;
    area.version = area_version;
    return std::unique_ptr<Channel>(new Channel(std::move(memory), area));
}

Channel::Channel(Descriptor memory, Area& area)
    : memory_(std::move(memory)), area_(area), data_(std::span(area.data)) {
    for (std::uint32_t i = 0; i < slots_max; ++i) {
        free_[i] = slots_max - 1 - i;
    }
}

Channel::~Channel() { munmap(&area_, sizeof(Area)); }

std::uint32_t Channel::submit(RequestEntry entry) {
    EK_CHECK(has_free_slot(), "more requests than slots");
    const std::uint32_t slot = free_[slots_max - 1 - in_flight_];
    ++in_flight_;
    slots_[slot].in_use = true;
    entry.slot = slot;
    entry.generation = ++slots_[slot].generation;
    area_.requests[requests_tail_ % ring_entries] = entry;
    area_.requests_tail.store(++requests_tail_, std::memory_order_release);
    return slot;
}

Channel::Outcome Channel::take(Completion& completion) {
    const std::uint32_t tail = area_.completions_tail.load(std::memory_order_acquire);
    const std::uint32_t waiting = tail - completions_head_;
    if (waiting == 0) {
        return Outcome::none;
    }
    if (waiting > in_flight_) {
        return violation("it completes " + std::to_string(waiting) + " requests where " +
                         std::to_string(in_flight_) + " are in flight");
    }
    const CompletionEntry entry = read_once(area_.completions[completions_head_ % ring_entries]);
    if (entry.slot >= slots_max || !slots_[entry.slot].in_use ||
        slots_[entry.slot].generation != entry.generation) {
        return violation("it completes a request that is not in flight (slot " + std::to_string(entry.slot) +
                         ")");
    }
    ++completions_head_;
    slots_[entry.slot].in_use = false;
    --in_flight_;
    free_[slots_max - 1 - in_flight_] = entry.slot;
    completion = {entry.slot, entry.status};
    return Outcome::completed;
}

Channel::Outcome Channel::violation(std::string why) {
    why_ = std::move(why);
    return Outcome::violation;
}

Stage Channel::stage() const {
    const Stage stage = area_.stage.load(std::memory_order_acquire);
    return stage > Stage::refused ? Stage::refused : stage;
}

std::string Channel::text() const { return printable(area_.text, text_bytes); }

std::optional<Facts> Channel::facts(std::string& problem) const {
    const Facts facts = read_once(area_.facts);
    if (facts.block_bytes != 512 && facts.block_bytes != 4096) {
        problem = "a block has " + std::to_string(facts.block_bytes) + " bytes, not 512 or 4096";
    } else if (facts.size_bytes == 0 || facts.size_bytes % facts.block_bytes != 0 ||
               facts.size_bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        problem = "the size " + std::to_string(facts.size_bytes) + " is not a positive multiple of the block";
    } else if (facts.unmap_bytes_max % facts.block_bytes != 0) {
        problem = "unmaps of " + std::to_string(facts.unmap_bytes_max) + " bytes are no whole blocks";
    } else {
        return facts;
    }
    return std::nullopt;
}

std::string printable(const char* text, std::size_t bytes_max) {
    std::string result;
    for (std::size_t i = 0; i < bytes_max; ++i) {
        const char c = read_once(text[i]);
        if (c == 0) {
            break;
        }
        const auto byte = static_cast<unsigned char>(c);
        result += byte < 0x20 || byte == 0x7f ? ' ' : c;
    }
    return result;
}

}  // namespace block::tcmu
