// A load for NVMe/TCP targets: measures, and judges if asked to.
//
// One thread drives any number of connections, each with its own depth; a completion is followed at once by
// the next command of its place. With `verify` each write carries a pattern (pattern.h), each read is held
// against what may be there (shadow.h), and all that was written is read once more at the end. Nothing is
// forgiven: a lost connection, an error status or a wrong byte ends up in the result as text.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/initiator/controller.h"

namespace block::initiator {

struct LoadProgress {
    double seconds = 0;
    std::uint64_t completed = 0;  // I/Os since the start
    std::uint64_t errors = 0;
    const char* phase = "";
    double longest_latency_ms = 0;  // of what completed since the last report
    double longest_gap_ms = 0;      // between two completions since then
};

struct LoadOptions {
    ControllerOptions target;
    std::uint32_t io_bytes = 4096;
    std::uint32_t read_percent = 100;
    bool sequential = false;
    bool force_unit_access = false;  // writes
    double seconds = 10;             // 0: until `count`
    double warmup_seconds = 0;       // not measured, in addition
    std::uint64_t count = 0;         // I/Os; 0: until `seconds`
    std::uint64_t rate = 0;          // I/Os per second in all; 0: as fast as possible
    std::uint64_t range_offset = 0;  // bytes
    std::uint64_t range_bytes = 0;   // 0: to the end; with `verify` at most verify_bytes_default
    std::uint64_t seed = 0;          // 0: a random one
    bool verify = false;
    bool fill = false;                        // writes the whole range before the measurement
    bool final_check = true;                  // with `verify`: reads all that was written at the end
    std::uint32_t flush_every = 0;            // a Flush after this many writes; 0: none
    std::string shadow_path;                  // with `verify`: keeps the map in a file, see shadow.h
    bool after_power_cut = false;             // with `shadow_path`: what was not flushed may be lost
    double stall_timeout_seconds = 60;        // without any completion
    std::uint32_t pause_threshold_ms = 5;     // longer gaps between completions are listed
    std::uint32_t errors_max = 16;            // the load ends after as many
    const std::atomic<bool>* stop = nullptr;  // ends the load soon when it becomes true
    std::function<void(const LoadProgress&)> progress;  // every 200 ms, on the load's thread
};

inline constexpr std::uint64_t verify_bytes_default = 1ull << 30;

struct LatencySummary {
    std::uint64_t count = 0;
    double mean_us = 0, p50_us = 0, p99_us = 0, p999_us = 0, p9999_us = 0, max_us = 0;
};

struct LoadResult {
    double seconds = 0;  // measured
    double iops = 0;
    std::uint64_t reads = 0, writes = 0, flushes = 0;  // measured
    std::uint64_t read_bytes = 0, written_bytes = 0;
    LatencySummary all, read, write, flush;
    double longest_gap_ms = 0;      // between two completions while commands were outstanding
    std::vector<double> pauses_ms;  // gaps above the threshold, in order of time; at most 65536
    std::uint64_t errors = 0;
    std::vector<std::string> error_texts;
    std::uint64_t verified_blocks = 0;
    std::uint64_t unverifiable_blocks = 0;  // read where nothing had been written
    std::uint64_t keep_alives = 0, events = 0;
    std::uint64_t sends = 0, receives = 0, r2t = 0, success_flags = 0;
    double cpu_user_seconds = 0, cpu_system_seconds = 0;  // of this thread, while measuring
    std::uint64_t seed = 0;
    std::uint64_t namespace_bytes = 0;
    std::uint32_t block_bytes = 0;

    bool ok() const { return errors == 0; }
};

// Runs in the calling thread with a reactor and an io_uring of its own. E_INVALID for options that make no
// sense, E_IO without io_uring; everything that the target does is in the result instead.
base::Result<LoadResult> run_load(const LoadOptions& options);

}  // namespace block::initiator
