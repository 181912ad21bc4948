// The witness of a mirror in memory that outlives the process: a successor of a killed server, with a leg out
// of reach, knows that nobody else went on with that leg, and need not wait for it.
//
// It is believed only by the same volume, only if it is whole (a process may die while it writes it), and
// only for half a minute after the last beat: a server that was dead for longer may have been replaced by
// another one that served the same legs. A mirror that is closed leaves none.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/clock.h"
#include "block/mirror/verdict.h"

namespace block::mirror {

// The memory is kept under the device's name with this at its end.
inline constexpr const char* witness_suffix = "@witness";

class WitnessMemory {
  public:
    static constexpr std::uint64_t bytes = 4096;
    static constexpr base::Nanoseconds beat_every = base::second;
    static constexpr base::Nanoseconds believed_for = 30 * base::second;

    // `memory` empty: nothing is kept.
    void use(std::span<std::byte> memory, const Uuid& volume);
    bool used() const { return !memory_.empty(); }
    std::optional<Witness> load(base::Nanoseconds now) const;
    // Null: there is none from here on.
    void store(const std::optional<Witness>& witness, base::Nanoseconds now);
    void beat(base::Nanoseconds now);

  private:
    struct Content {
        std::uint8_t volume[16];
        std::uint64_t events;
        struct {
            std::uint8_t leg[16];
            std::uint64_t role;
            std::uint64_t next;
        } slots[legs_max];
    };
    // `seal` is 0 while the content changes, otherwise 1 << 32 and the checksum of the content.
    struct Record {
        std::uint64_t seal;
        std::uint64_t beat;
        Content content;
    };
    static std::uint64_t seal_of(const Content& content);
    Record& record() const { return *reinterpret_cast<Record*>(memory_.data()); }

    std::span<std::byte> memory_;
    Uuid volume_{};
};

}  // namespace block::mirror
