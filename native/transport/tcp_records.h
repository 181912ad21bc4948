// What a TCP connection must remember to survive the process: plain data in the arena.
//
// The kernel is the witness of both streams. Received bytes: their place is a function of their stream offset
// (ReceiveState). Sent bytes: the transmit queue has a tail but no head; how far it went out is what the
// socket says. Every change is made true by one aligned store (durable/commit.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/limits.h"
#include "durable/commit.h"
#include "nvme/command.h"
#include "nvme/queue_pair.h"
#include "wire/nvme_tcp.h"

namespace transport {

enum class ReceivePhase : std::uint8_t {
    handshake = 0,  // an ICReq is expected
    header = 1,     // the next bytes are a PDU header
    data = 2,       // the next `remaining` bytes are data of `command`
    skip = 3,       // the next `remaining` bytes belong to a command that was rejected already
    closing = 4,    // what comes is discarded; the connection ends when the transmit queue is empty
};

inline constexpr std::uint16_t no_command = 0xFFFF;

// TTAG of an R2T: a generation (2 bits), the piece of the transfer, the command's slot.
inline constexpr std::uint32_t tag_slot_bits = 11;
inline constexpr std::uint32_t tag_piece_bits = 3;
static_assert(limits::command_slots_max <= 1u << tag_slot_bits);

// While a command is `receiving`, CommandRecord::progress is the number of R2T PDUs queued for it, and
// response_sequence says the same together with the queue entry of the last one, so that one store tells
// both; all ones: none yet.
inline constexpr std::uint32_t r2t_count_bits = 8;

// In `data`, stream byte consumed + i, i < remaining, lies in the command's data at data_position + i. Every
// other byte s ≥ base_stream lies in the stream buffer at base_address + (s − base_stream).
struct ReceiveState {
#if KEEL_TEST_LAYOUT == 2
    std::uint64_t reserved4;
#endif
    std::uint64_t consumed;  // stream offset: everything before has had its effect
    std::uint64_t base_stream;
    std::uint64_t capsules;  // command capsules consumed so far; gives SQHD
    std::uint32_t base_address;
    std::uint32_t remaining;
    std::uint32_t data_position;   // data: offset in the command's data of the byte at `consumed`
    std::uint32_t pdu_data_begin;  // data: where this PDU's data began in the command's data
    std::uint32_t pdu_data_bytes;
    std::uint32_t command_received;  // of `command`, when this state was stored in phase header: bytes of its
                                     // data in place
    ReceivePhase phase;
    std::uint8_t has_digest;  // data: a digest follows
    std::uint8_t reserved0[2];
    std::uint16_t command;  // slot, or no_command
    std::uint16_t reserved1;
    std::uint32_t reserved2;
    std::uint32_t reserved3;
};
static_assert(sizeof(ReceiveState) == 64 || KEEL_TEST_LAYOUT == 2);

// One piece of the stream to the host: header bytes, padding (zeroes), data, digest.
struct TransmitEntry {
#if KEEL_TEST_LAYOUT == 2
    std::uint64_t data_offset;
    std::uint64_t stream_offset;
#else
    std::uint64_t stream_offset;  // where it begins
    std::uint64_t data_offset;    // in data_region
#endif
    std::uint32_t data_bytes;
    std::uint16_t data_region;  // or control_region
    std::uint16_t command;      // slot that is free once this entry was sent, or no_command
    std::uint8_t header_bytes;
    std::uint8_t padding_bytes;  // before the data, as HPDA wants it
    std::uint8_t trailer_bytes;  // 0 or 4
    std::uint8_t reserved[5];
    std::byte header[28];
    std::byte trailer[4];

    std::uint64_t end() const {
        return stream_offset + header_bytes + padding_bytes + data_bytes + trailer_bytes;
    }
};
static_assert(sizeof(TransmitEntry) == 64);

// ICResp and C2HTermReq lie in the connection's own record.
inline constexpr std::uint16_t control_region = 0xFFFE;
inline constexpr std::uint32_t control_bytes = 288;
inline constexpr std::uint32_t control_ic_resp = 0;
inline constexpr std::uint32_t control_term_req = 128;
static_assert(control_term_req + sizeof(wire::TermReq) + wire::term_req_data_bytes_max <= control_bytes);

// The rest of a block that was sent in part, from memory that may change: kept as it was. Counts for the
// entry `sequence` only.
struct SplitBlock {
    std::uint64_t sequence;  // + 1; 0: none
    std::uint32_t begin;     // offset in the entry's data of the first byte kept
    std::uint32_t bytes;
};

// For people after a crash: the last PDUs, newest last. Not read by recovery.
struct FlightEntry {
    std::uint64_t time_ns;  // monotonic
    std::uint64_t stream_offset;
    std::uint32_t pdu_bytes;
    std::uint32_t detail;  // H2CData, C2HData, R2T: data offset; capsule: low half of SLBA; response: status
    std::uint16_t cid;
    std::uint8_t type;  // wire::PduType
    std::uint8_t opcode;
    std::uint32_t reserved;
};
static_assert(sizeof(FlightEntry) == 32);
inline constexpr std::uint32_t flight_entries = 64;

enum class ConnectionState : std::uint32_t { free = 0, open = 1 };

struct ConnectionRecord {
#if KEEL_TEST_LAYOUT == 2
    std::uint64_t reserved1;
#endif
    ConnectionState state;    // stored last when a connection begins
    std::uint32_t listener;   // index of its listener's name, for people
    std::uint64_t id;         // never used twice; names the descriptor in a keeper's store
    std::uint64_t opened_ms;  // realtime
    std::uint8_t header_digest;
    std::uint8_t data_digest;
    std::uint8_t host_alignment;  // HPDA
    std::uint8_t discovery_only;
    std::uint32_t outstanding_r2t;  // MAXR2T + 1
    std::uint32_t transmit_slots;   // power of two; size of the ring in use
    std::uint32_t reserved0;
    nvme::QueueRecord queue;
    std::uint64_t
        transmit_tail;  // sequence number of the next entry; entry n lies in slot n mod transmit_slots
    SplitBlock split;
    durable::Pair<ReceiveState> receive;
    std::byte control[control_bytes];
    std::uint64_t flight_count;
    FlightEntry flight[flight_entries];
};
static_assert(sizeof(ConnectionRecord) <= 4096);

inline constexpr std::uint32_t connection_stride = 8192;  // the record and, behind it, the kept block
inline constexpr std::uint32_t split_bytes_max = 4096;
inline constexpr std::uint32_t split_data_offset = 4096;
inline constexpr std::uint32_t command_stride = limits::command_slots_max * sizeof(nvme::CommandRecord);
inline constexpr std::uint32_t transmit_stride = limits::transmit_entries_max * sizeof(TransmitEntry);
inline constexpr std::uint32_t tcp_records_version = 1 + KEEL_TEST_LAYOUT;

}  // namespace transport
