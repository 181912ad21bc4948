// What the control plane says to make a device. Validated and completed by TypeScript (ts/config): here every
// field has its final value. The table of kinds in block/kinds.cc says which kind reads which field.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/result.h"
#include "block/device.h"
#include "reactor/reactor.h"

namespace block {

// A part of a volume: a range of another device.
struct PartSpec {
    std::string device;
    std::uint64_t start_bytes = 0;  // linear: where in the part's device the range begins
    std::uint64_t size_bytes = 0;   // linear: 0: from the start to the end of the device
};

struct MirrorSpec {
    std::array<std::uint8_t, 16> volume{};  // identity of the volume: a leg of another one is foreign
    std::uint32_t region_bytes = 0;         // one bit of the dirty bitmap; 0: chosen by the size
    bool checksums = false;                 // CRC32C per block, kept on each leg
    bool assume_clean = false;  // legs that are all empty are taken as equal: nothing is copied at first
    // What becomes of requests when no leg that is up to date is left.
    enum class WhenLost : std::uint8_t { fail, freeze } when_lost = WhenLost::freeze;
    std::uint64_t resync_bytes_per_second = 0;  // 0: as fast as the legs allow
};

struct RemoteSpec {
    std::vector<std::string> addresses;  // "10.0.0.9:4420", "[fd00::9]:4420": tried in turn
    std::string subnqn;
    std::string hostnqn;
    std::array<std::uint8_t, 16> hostid{};
    std::uint32_t nsid = 1;
    bool header_digest = false;
    bool data_digest = false;
    std::uint16_t io_queues = 1;
    std::uint16_t depth = 128;
    std::uint32_t kato_ms = 5000;
    std::uint32_t ping_ms = 1000;        // idle for so long: ask whether it is still there
    std::uint32_t timeout_ms = 5000;     // an answer that takes longer ends the connection
    std::uint64_t deadline_ms = 60'000;  // a request is sent again for so long after it came; then:
    enum class WhenLost : std::uint8_t { fail, freeze } when_lost = WhenLost::fail;
};

struct TcmuSpec {
    std::string handler;        // the subtype: "qcow", "rbd", "file", "ram"
    std::string library;        // path of the handler's shared object; empty: looked for by its subtype
    std::string configuration;  // what follows the subtype in the handler's configuration string
    std::uint32_t timeout_ms =
        30'000;  // a request without an answer for so long: the helper is started again
    enum class WhenLost : std::uint8_t { resend, fail } when_lost = WhenLost::resend;
};

struct MigrationSpec {
    std::string source;  // devices, made before
    std::string destination;
    std::uint64_t bytes_per_second = 0;  // 0: as fast as both allow
    bool fresh = false;  // it begins now: nothing is copied, and a destination that does not fit is refused
};

// What was found out when the device was first opened, given back at each later start: a device whose medium
// is not reachable then has its size all the same, and recognises another medium when it comes.
struct KnownFacts {
    std::uint64_t size_bytes = 0;  // 0: never seen
    std::uint32_t block_bytes = 0;
    std::string identity;  // of the medium, as `Device::identity` told it; empty: none
};

struct DeviceSpec {
    std::string name;              // unique in the server
    std::string kind;              // one of the table in block/kinds.cc
    std::uint64_t size_bytes = 0;  // ram, null; file: 0 takes the file's size, else created or grown to this
    std::uint32_t block_bytes = 4096;  // 512 or 4096
    bool read_only = false;
    std::string path;     // file, blockdev
    bool create = false;  // file: create if absent
    // file, blockdev: if another process holds the lock, wait for it in the background; else fail with
    // E_BUSY.
    bool wait_for_lock = true;
    std::string base;  // delay, error: the name of the device below
    // delay: added to each request of the action.
    std::uint64_t read_delay_us = 0;
    std::uint64_t write_delay_us = 0;
    std::uint64_t flush_delay_us = 0;
    // error: requests of these actions (names) that touch the range end with `status` (name), `count` times
    // (0: always).
    std::vector<std::string> error_actions;
    std::string error_status = "medium_error";
    std::uint64_t error_offset = 0;
    std::uint64_t error_length = 0;  // 0: to the end
    std::uint64_t error_count = 0;
    std::vector<PartSpec> parts;    // linear, stripe, mirror
    std::uint64_t chunk_bytes = 0;  // stripe
    MirrorSpec mirror;              // mirror
    RemoteSpec remote;              // nvme
    TcmuSpec tcmu;                  // tcmu
    MigrationSpec migration;        // migration
    // ram: the name under which its memory is kept, where that is not the device's (it was renamed).
    std::string memory_name;
    KnownFacts known;
    bool suspended = false;  // begins suspended
};

// Under which name a ram device's memory is kept.
inline const std::string& memory_name(const DeviceSpec& spec) {
    return spec.memory_name.empty() ? spec.name : spec.memory_name;
}

// Memory that a device lives in and that outlives the process; given out by the engine.
struct PersistentMemory {
    int descriptor = -1;  // the memory file
    std::span<std::byte> memory;
    std::uint16_t region = 0;  // for MemoryReference
};

// What a kind may use of its surroundings.
struct Environment {
    reactor::Reactor& reactor;
    std::function<Device*(const std::string& name)> find;
    // ram: memory of this size under this name (memory_name); the same content again after a restart.
    // Asked again with another size it resizes: the content stays as far as both sizes reach, the rest is
    // zeroes.
    std::function<base::Result<PersistentMemory>(const std::string& name, std::uint64_t bytes)> memory;
    std::function<void(const std::string& name)> forget_memory;
    // null: a region of zeroes of at least limits::transfer_bytes_max.
    MemoryReference zeroes;
    // A line for the server's log; none if nobody listens.
    std::function<void(const char* level, const char* area, std::string message)> log{};
    // tcmu: the program that runs a handler; empty: keel-tcmu beside this code.
    std::string tcmu_program{};
};

// Makes and opens a device. Synchronous parts (path, type, size) fail here with E_… codes; the lock on a file
// or block device that a dead predecessor's I/O may still hold is awaited in the background: until it is
// granted, requests wait inside the device (Health says so).
base::Result<std::unique_ptr<Device>> make_device(Environment& environment, const DeviceSpec& spec);

}  // namespace block
