// What controllers, subsystems and namespaces must remember when the process dies: plain records in shared
// memory, handed in as spans. They hold no pointers and no lengths that are trusted without a look.
//
// A record counts only while its `state` says so: it is filled first, `state` is the last store, and freeing
// starts with `state`. Lists and rings are written entry first, count second, so a kill between two stores
// loses at most the newest entry. What follows from other records (which queues a controller has, which
// asynchronous event requests are parked) is not stored here again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/limits.h"

namespace nvme {

inline constexpr std::size_t record_nqn_bytes = 224;  // limits::nqn_bytes_max and a terminating zero
static_assert(record_nqn_bytes == limits::nqn_bytes_max + 1);

enum class RecordState : std::uint32_t { free = 0, in_use = 1 };

enum class ControllerKind : std::uint8_t { io = 1, discovery = 2 };

// Events that a controller can report, one bit each in the masks of ControllerRecord (1 << value).
// The order is the order in which pending ones are reported.
enum class AsyncEvent : std::uint8_t {
    namespace_attribute = 0,
    ana_change = 1,
    discovery_change = 2,
    persistent_internal_error = 3,
    temperature = 4,
    count = 5,
};

// Values of features that hosts can set and that hold for the whole controller [NVM Express Base 2.0
// §5.27.1]; each as in Command Dword 11 unless noted.
struct FeatureValues {
    std::uint32_t arbitration;
    std::uint32_t power_management;
    std::uint16_t temperature_over;  // kelvin, composite temperature
    std::uint16_t temperature_under;
    std::uint32_t volatile_write_cache;
    std::uint16_t queues_granted_sq;  // 0's based, as answered
    std::uint16_t queues_granted_cq;
    std::uint32_t queues_set;  // 1 once the host has asked
    std::uint32_t write_atomicity;
    std::uint32_t async_event_configuration;
    std::uint32_t interrupt_coalescing;
    std::uint32_t command_set_profile;  // I/O Command Set Profile: index of the combination
    std::uint64_t timestamp_ms;         // value that was set; 0 after a reset
    std::uint64_t timestamp_set_ns;     // monotonic time at which it was set
    std::uint8_t timestamp_origin;      // 0: since reset, 1: set by the host
    std::uint8_t host_behavior[7];      // the first bytes of the Host Behavior Support structure
};

// One entry of the error log, the essence of the 64 bytes on the wire.
struct ErrorRecord {
    std::uint64_t count;  // 1 is the first error of this controller; 0: empty
    std::uint64_t lba;
    std::uint32_t nsid;
    std::uint16_t qid;
    std::uint16_t cid;
    std::uint16_t status;    // Status Field as in the completion
    std::uint16_t location;  // Parameter Error Location
    std::uint32_t reserved;
    std::uint64_t command_specific;
};
static_assert(sizeof(ErrorRecord) == 40);

struct ControllerRecord {
    RecordState state;
    std::uint32_t generation;      // uses of this slot so far
    std::uint64_t subsystem_hash;  // of the NQN, to find it quickly; the NQN decides
#if KEEL_TEST_LAYOUT == 2
    char host_nqn[record_nqn_bytes];
    char subsystem_nqn[record_nqn_bytes];
#else
    char subsystem_nqn[record_nqn_bytes];
    char host_nqn[record_nqn_bytes];
#endif
    std::uint8_t host_id[16];
    std::uint16_t cntlid;
    ControllerKind kind;
    std::uint8_t keep_alive_expired;
    std::uint32_t admin_connection;  // connection slot of the admin queue + 1
    std::uint32_t kato_ms;           // 0: off
    std::uint32_t cc;
    std::uint32_t csts;
    std::uint32_t reserved0;
    std::uint64_t last_contact_ns;  // monotonic: the last command of any of its queues
    std::uint64_t created_ms;       // since the epoch
    FeatureValues features;

    std::uint32_t events_pending;        // AsyncEvent bits: happened, not reported yet
    std::uint32_t events_masked;         // reported; quiet until the host has read the log page
    std::uint64_t discovery_generation;  // last one that the host has read or was told of

    std::uint64_t error_count;
    std::uint64_t errors_logged;  // next place in the ring is errors_logged modulo its size
    // What the host knows, to find over a restart what it does not know.
    std::uint64_t namespace_digest;
    std::uint64_t discovery_digest;

    std::uint32_t changed_count;  // entries of changed_namespaces; above the maximum: overflow
    std::uint32_t reserved1;
    std::uint32_t changed_namespaces[limits::changed_namespaces_max];
    ErrorRecord errors[limits::error_log_entries];
    // Error Recovery of each namespace: TLER, at NSID − 1.
    std::uint16_t error_recovery[limits::namespaces_per_subsystem_max];
    std::uint8_t reserved2[248];
};
static_assert(std::is_trivially_copyable_v<ControllerRecord> && std::is_standard_layout_v<ControllerRecord>);
static_assert(sizeof(ControllerRecord) <= 16 * 1024 && sizeof(ControllerRecord) % 8 == 0);
static_assert(offsetof(ControllerRecord, last_contact_ns) % 8 == 0, "stored while hosts are served");

// A subsystem's share of the health information and what must not restart from zero.
struct SubsystemRecord {
    RecordState state;
    std::uint16_t cntlid_next;  // where the search for a free controller id goes on
    std::uint16_t ana_state;    // of ANA group 1; 0 in a new record means optimized
    char nqn[record_nqn_bytes];
    std::uint64_t ana_change_count;
    std::uint64_t read_bytes;
    std::uint64_t written_bytes;
    std::uint64_t read_commands;
    std::uint64_t write_commands;
    std::uint64_t media_errors;
    std::uint64_t error_entries;     // of all controllers, over their life
    std::uint64_t restarts;          // power cycles as hosts see them
    std::uint64_t unsafe_shutdowns;  // associations that ended without a shutdown notification
    std::uint64_t busy_ns;           // controller busy time
    std::uint64_t created_ms;
    std::uint8_t reserved[64];
};
static_assert(std::is_trivially_copyable_v<SubsystemRecord> && sizeof(SubsystemRecord) <= 512);

// What a host changed about a namespace.
struct NamespaceRecord {
    RecordState state;
    std::uint32_t nsid;
    std::uint32_t subsystem;         // slot of the subsystem's record + 1
    std::uint32_t write_protection;  // Namespace Write Protection state
    std::uint8_t nguid[16];          // another namespace with the same nsid starts afresh
    std::uint8_t reserved[32];
};
static_assert(std::is_trivially_copyable_v<NamespaceRecord> && sizeof(NamespaceRecord) == 64);

}  // namespace nvme
