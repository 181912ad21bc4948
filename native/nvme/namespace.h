// A namespace: a block device as the hosts of a subsystem see it, with stable identities.
//
// It owns the claim on its device and counts the commands that use it, so that it can be removed while hosts
// are busy: removal stops new commands, waits for those in flight and then lets go of the device.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "block/device.h"
#include "nvme/command.h"
#include "nvme/latency.h"
#include "nvme/range_lock.h"
#include "nvme/scratch_pool.h"

namespace nvme {

class Subsystem;

struct NamespaceSpec {
    std::uint32_t nsid = 0;
    std::string device;                    // name
    std::array<std::uint8_t, 16> nguid{};  // never all zero
    std::array<std::uint8_t, 16> uuid{};
    bool read_only = false;              // exported read-only whatever the device can
    std::uint32_t write_protection = 0;  // Namespace Write Protection state that a host had set
};

// Since the start of this process, for the metrics; what SMART shows is in the subsystem's record.
struct IoCounters {
    std::uint64_t read_commands = 0, write_commands = 0, other_commands = 0;
    std::uint64_t fua_commands = 0;  // of all these: with Force Unit Access
    std::uint64_t read_bytes = 0, written_bytes = 0;
    std::uint64_t errors = 0;
};

class Namespace {
  public:
    Namespace(Subsystem& subsystem, const NamespaceSpec& spec, block::Claim claim);
    ~Namespace();
    Namespace(const Namespace&) = delete;
    Namespace& operator=(const Namespace&) = delete;

    Subsystem& subsystem() { return subsystem_; }
    const NamespaceSpec& spec() const { return spec_; }
    std::uint32_t nsid() const { return spec_.nsid; }
    block::Device& device() { return *claim_.device(); }

    std::uint32_t block_bytes() const { return std::uint32_t{1} << block_shift_; }
    std::uint32_t block_shift() const { return block_shift_; }
    std::uint64_t blocks() const { return blocks_; }
    // By configuration, by the device, or by the host with the Namespace Write Protection feature.
    bool write_protected() const;
    std::uint32_t write_protection_state() const { return write_protection_; }
    void set_write_protection(std::uint32_t state) { write_protection_ = state; }
    // E_BUSY: others read the device and rely on nobody writing.
    base::Result<void> set_read_only(bool read_only);

    // A command that uses the namespace holds it; removal waits for the last release.
    void hold() { ++holders_; }
    void release();
    bool removing() const { return removing_; }
    void remove(std::function<void()> removed);

    // What makes a compare-and-write atomic for all hosts: every command that changes blocks holds its range
    // here.
    RangeLock ranges;
    ScratchPool scratch;

    IoCounters counters;
    LatencyHistogram read_latency, write_latency;

  private:
    void take_size();
    void device_changed();
    void leave();

    Subsystem& subsystem_;
    NamespaceSpec spec_;
    block::Claim claim_;
    std::uint32_t block_shift_ = 0;
    std::uint64_t blocks_ = 0;
    bool device_read_only_ = false;
    std::uint32_t write_protection_ = 0;
    std::uint32_t holders_ = 0;
    bool removing_ = false;
    std::function<void()> removed_;
};

}  // namespace nvme
