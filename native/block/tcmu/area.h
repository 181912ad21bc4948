// The memory that the server shares with the process of one tcmu handler: facts about the device, two rings,
// and the data of requests in flight. The server makes it (a sealed memory file, so that nobody can make it
// smaller) and passes it on.
//
// Each ring has one writer. A writer fills the entry, then raises the tail; the reader keeps its own head.
// The server never reads what it has written here, and takes what the other side writes once, compares it,
// and only then uses it (block/tcmu/channel.h). A request is in flight in one slot; the slot's generation
// rises with each use, so that a completion names one request and no other.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace block::tcmu {

inline constexpr std::uint32_t area_magic = 0x7463'6d75;
inline constexpr std::uint32_t area_version = 1;
inline constexpr std::uint32_t slots_max = 128;         // requests in flight
inline constexpr std::uint32_t ring_entries = 256;      // a power of two
inline constexpr std::uint32_t data_bytes = 16u << 20;  // of all requests in flight together
inline constexpr std::uint32_t piece_bytes_max = 1u << 20;
inline constexpr std::uint32_t text_bytes = 512;

// What the handler's process inherits, under fixed numbers.
inline constexpr int lifeline_descriptor = 0;  // its end: the server wants it to end, or is gone
inline constexpr int log_descriptor = 2;       // lines that begin with "<n>", as the journal takes them
inline constexpr int area_descriptor = 3;
inline constexpr int requests_descriptor = 4;     // eventfd: the requests' tail has risen
inline constexpr int completions_descriptor = 5;  // eventfd: the completions' tail or the stage has risen
inline constexpr int descriptors_end = 6;

enum class Stage : std::uint32_t {
    starting,          // loads the handler, checks the configuration
    waiting_for_lock,  // another process has the same medium open: `text` names it
    opening,           // the handler opens the medium
    serving,           // the facts hold
    refused,           // it ends: `text` says why
};

enum class Operation : std::uint32_t {
    read,
    write,
    flush,
    unmap,
    write_same,  // one block of data, repeated over the range
};

// What the handler said when it opened the medium.
struct Facts {
    std::uint64_t size_bytes;
    std::uint32_t block_bytes;
    std::uint32_t unmap_bytes_max;  // 0: any
    std::uint8_t can_flush;
    std::uint8_t can_unmap;
    std::uint8_t can_write_same;
    std::uint8_t write_cache;
    std::uint8_t rotational;
    std::uint8_t read_only;
    std::uint8_t reserved[2];
};
static_assert(sizeof(Facts) == 24);

struct RequestEntry {
    std::uint32_t slot;
    std::uint32_t generation;
    Operation operation;
    std::uint32_t data_length;  // read: the length; write_same: one block; 0: no data
    std::uint64_t offset;       // of the medium, in bytes
    std::uint64_t length;
    std::uint64_t data_offset;  // in the data area
};
static_assert(sizeof(RequestEntry) == 40);

struct CompletionEntry {
    std::uint32_t slot;
    std::uint32_t generation;
    std::int32_t status;  // the handler's TCMU_STS_… code
    std::uint32_t reserved;
};
static_assert(sizeof(CompletionEntry) == 16);

struct Area {
    // Written by the server.
    std::uint32_t magic;
    std::uint32_t version;
    alignas(64) std::atomic<std::uint32_t> requests_tail;
    alignas(64) RequestEntry requests[ring_entries];
    // Written by the handler's process.
    alignas(64) std::atomic<std::uint32_t> completions_tail;
    std::atomic<Stage> stage;
    Facts facts;
    char text[text_bytes];
    alignas(64) CompletionEntry completions[ring_entries];

    alignas(4096) std::byte data[data_bytes];
};
static_assert(sizeof(Area) % 4096 == 0);
static_assert(offsetof(Area, data) % 4096 == 0);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(slots_max < ring_entries, "a ring never fills up");

}  // namespace block::tcmu
