// The server's side of the area that it shares with one process of a handler: slots, rings, data memory.
// Nothing that the other side writes is believed: `take` and `report` compare every number and copy before
// they use, and say what is wrong. Who breaks the rules is ended by the caller.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "block/medium.h"
#include "block/tcmu/area.h"
#include "reactor/buffer_pool.h"

namespace block::tcmu {

class Channel {
  public:
    // Memory that starts empty; E_NO_MEMORY.
    static base::Result<std::unique_ptr<Channel>> make();
    ~Channel();
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;

    int descriptor() const { return memory_.number(); }

    // Memory for the data of one request; nothing while others use it all.
    std::optional<std::uint64_t> allocate(std::uint32_t bytes) { return data_.allocate(bytes); }
    void release(std::uint64_t offset, std::uint32_t bytes) { data_.release(offset, bytes); }
    std::byte* data_at(std::uint64_t offset) { return data_.at(offset); }

    bool has_free_slot() const { return in_flight_ < slots_max; }
    std::uint32_t in_flight() const { return in_flight_; }
    // Hands the request over; `entry`'s slot and generation are filled in. There must be a free slot.
    std::uint32_t submit(RequestEntry entry);

    struct Completion {
        std::uint32_t slot = 0;
        std::int32_t status = 0;
    };
    enum class Outcome : std::uint8_t {
        none,
        completed,  // the slot is free again
        violation,  // `why()`
    };
    Outcome take(Completion& completion);
    const std::string& why() const { return why_; }

    Stage stage() const;                                     // a value that is none becomes `refused`
    std::string text() const;                                // printable
    std::optional<Facts> facts(std::string& problem) const;  // nothing if they cannot be

  private:
    struct Slot {
        std::uint32_t generation = 0;
        bool in_use = false;
    };

    Channel(Descriptor memory, Area& area);
    Outcome violation(std::string why);

    Descriptor memory_;
    Area& area_;
    reactor::BufferPool data_;
    std::array<Slot, slots_max> slots_{};
    std::array<std::uint32_t, slots_max> free_{};
    std::uint32_t in_flight_ = 0;
    std::uint32_t requests_tail_ = 0;
    std::uint32_t completions_head_ = 0;
    std::string why_;
};

// What text from outside becomes before people see it: no control characters, at most `bytes_max` bytes.
std::string printable(const char* text, std::size_t bytes_max);

}  // namespace block::tcmu
