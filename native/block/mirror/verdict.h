// Which legs of a volume may be served from, by what their superblocks say: a pure function.
//
// The newest superblock counts (most events). It says which legs have everything. A leg of which it says so
// is up if it took part in the last or the last but one change of the table: a change that reached only a
// part of the legs was never answered for. All legs that the newest one calls up must be here before any of
// them is believed: one that is away may have been told, after this one was lost, that this one misses
// something. Who knows that nobody else went on (a witness: this process, or the one before it, which had the
// volume; see witness_memory.h) need not wait.
//
// A leg that misses something, but has recorded a commit as one that is up which those that are up know
// nothing of, went on alone: the two histories have diverged, and only a person can choose.
#pragma once

#include <array>
#include <optional>
#include <span>

#include "block/mirror/format.h"

namespace block::mirror {

enum class Verdict : std::uint8_t {
    unknown,   // nothing was read from it
    up,        // has everything but what the map calls intended
    stale,     // misses what the map says
    old,       // misses nobody knows what: everything must be copied
    detached,  // stale, and to stay so
    removed,   // of this volume, but not in its table
    diverged,
};

// What was in force when the volume was last served here. A slot's `next`: a commit after that which its leg
// may have recorded.
struct Witness {
    std::uint64_t events = 0;
    std::array<Superblock::Slot, legs_max> slots{};
};

struct Judgement {
    int newest = -1;  // whose superblock counts; -1: there is none
    bool proven = false;
    bool diverged = false;
    int missing_slot = -1;  // why it is not proven: this slot is up and its leg is not here
    std::array<Verdict, legs_max> verdicts{};
};

// What becomes of one leg, `newest` being in force.
Verdict judge_leg(const Superblock& leg, const Superblock& newest);
// `found`: for each leg its superblock, of the same volume; null: none was read. At most legs_max.
// `believe`: a slot's leg that need not be here, as a mask by slot of the newest.
Judgement judge_legs(std::span<const Superblock* const> found, const std::optional<Witness>& witness,
                     std::uint32_t believe = 0);

}  // namespace block::mirror
