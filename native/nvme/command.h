// A command of a host, from the moment its capsule was received until its response is on the wire.
//
// CommandRecord is the part that outlives the process: it lies in the arena, one array per connection, and
// says all that is needed to execute the command again. Command is the private part of the same slot.
//
// The life of a record (each arrow is one aligned store to `state`, after everything else it needs):
//   free → receiving → ready → done → free
// A record counts only if its capsule was consumed from the stream, that is stream_offset < the connection's
// `consumed`; otherwise the capsule will be parsed again. Whether a `done` command's response was queued
// follows from response_sequence and the transmit queue's tail.
//
// Handlers may be executed again after a kill until `done` is stored, so they must be idempotent up to there,
// or keep their progress in `progress`. Effects that consume state (clearing a log, taking an event) come
// after `done`: see Command::after_done.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/limits.h"
#include "block/request.h"
#include "nvme/range_lock.h"
#include "nvme/scratch_pool.h"
#include "reactor/buffer_pool.h"
#include "wire/nvme.h"

namespace nvme {

class QueuePair;
class Controller;
class Namespace;
struct Command;

enum class CommandState : std::uint8_t {
    free = 0,
    receiving = 1,  // the capsule is here; data from the host is still missing
    ready = 2,      // all is here: waiting, executing, or to be executed again after a restart
    done = 3,       // status and result are final; the response is to be queued or is queued
};

enum class DataDirection : std::uint8_t { none = 0, to_controller = 1, to_host = 2 };

inline constexpr std::uint16_t no_data_region = 0xFFFF;

// Bits of CommandRecord::in_capsule.
inline constexpr std::uint8_t data_in_capsule = 1;
inline constexpr std::uint8_t data_rejected = 2;  // the command fails with `status` once its data was taken

struct CommandRecord {
#if KEEL_TEST_LAYOUT == 2
    std::uint64_t reserved2;
#endif
    wire::Sqe sqe;                    // 0: as received
    std::uint64_t stream_offset;      // 64: where the capsule's PDU began
    std::uint64_t response_sequence;  // 72: transmit queue entry of the response, when done
    std::uint64_t data_offset;        // 80: in the region
    std::uint32_t data_length;        // 88: bytes that the transfer has
    std::uint32_t buffer_bytes;       // 92: bytes owned in the data pool, 0 if none (yet)
    std::uint32_t received_bytes;     // 96: receiving: bytes of the data that are in place and committed
    std::uint32_t result0;            // 100: completion dword 0
    std::uint32_t result1;            // 104: completion dword 1
    std::uint32_t progress;           // 108: of commands that are not idempotent; 0 at the start
    std::uint16_t data_region;        // 112
    std::uint16_t status;             // 114: SCT and SC as wire::Status, 0 = success
    std::uint16_t reserved0;          // 116
    CommandState state;               // 118
    DataDirection direction;          // 119
    std::uint8_t status_flags;        // 120: bit 0 DNR, bit 1 MORE
    std::uint8_t in_capsule;          // 121: whether the data came or comes in the capsule (bits above)
    std::uint16_t transfer_tag;       // 122: TTAG of the R2T that was sent
    std::uint32_t buffer_wanted;      // 124: receiving: size of the buffer that the data needs
};
static_assert(sizeof(CommandRecord) == 128 || KEEL_TEST_LAYOUT == 2);

// One store, after everything before it (single-thread ordering: the reader is a successor of this process).
inline void store_state(CommandRecord& record, CommandState state) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    __atomic_store_n(reinterpret_cast<std::uint8_t*>(&record.state), static_cast<std::uint8_t>(state),
                     __ATOMIC_RELEASE);
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

inline bool is_fabrics(const wire::Sqe& sqe) {
    return sqe.opcode == static_cast<std::uint8_t>(wire::AdminOpcode::fabrics);
}

inline constexpr std::uint8_t status_flag_dnr = 1;
inline constexpr std::uint8_t status_flag_more = 2;
inline constexpr std::uint8_t status_flag_delay = 4;  // CRD 1: retry after Identify Controller's CRDT1

// The Status Field of the record's completion.
inline std::uint16_t status_field_of(const CommandRecord& record) {
    return wire::status_field(wire::Status{record.status}, (record.status_flags & status_flag_dnr) != 0,
                              (record.status_flags & status_flag_delay) != 0 ? 1 : 0,
                              (record.status_flags & status_flag_more) != 0);
}

// A block request that knows whose it is.
struct CommandRequest : block::Request {
    Command* command = nullptr;
};

// An I/O command that takes several block requests, one after the other (io_steps.h).
struct CommandSteps {
    // Told how the last request ended, prepares the next one and says true, or finishes the command and says
    // false.
    bool (*advance)(QueuePair& queue, Command& command, block::Status last) = nullptr;
    std::uint64_t cursor = 0;  // how far the command came, in units of its own
    bool submitting = false;   // inside Device::submit: a completion there is noted, not acted upon
    block::Status noted = block::Status::ok;
};

// The private part. Lives as long as the connection; reused for one command after the other.
struct Command : public reactor::BufferWaiter {
    CommandRecord* record = nullptr;
    QueuePair* queue = nullptr;
    std::uint16_t slot = 0;  // index in the connection's array
    bool abort_requested = false;
    bool executing = false;                 // handed to a handler, not completed yet
    bool again = false;                     // a process before this one may have executed part of it
    bool waits_to_send = false;             // for room in the transmit queue
    bool waits_for_partner = false;         // half of a fused pair: ready, the other half is not
    std::uint16_t pair_status = 0;          // half of a fused pair: how it must end because of its partner
    std::uint16_t error_location = 0xFFFF;  // Parameter Error Location, for the error log
    std::byte* data = nullptr;              // where data_region/data_offset points, or null
    Namespace* ns = nullptr;                // held while executing (Namespace::hold/release)
    Command* partner = nullptr;             // the other half of a fused pair
    Command* next = nullptr;                // in whatever list the command waits
    std::uint64_t received_at = 0;          // monotonic ns, for latency
    std::uint64_t requested_at = 0;         // monotonic ns: when the host was asked for the data
    std::uint32_t children = 0;             // block requests in flight for this command
    std::uint32_t step = 0;                 // of handlers with several steps
    CommandRequest request;
    CommandSteps steps;
    RangeHold range;        // blocks that the command changes (range_lock.h)
    ScratchWaiter scratch;  // memory for what is read only to be looked at (scratch_pool.h)
    // Set by handlers: called right after `done` was stored, before the response is queued.
    void (*after_done)(Command& command) = nullptr;

    void buffer_available() override;  // resumes what waited for a buffer (queue_pair.cc)

    const wire::Sqe& sqe() const { return record->sqe; }
};

}  // namespace nvme
