// The verifying loads of the crash tests: several hosts at once, with and without digests, small and large
// transfers, on every device of the server.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "block/initiator/load.h"
#include "recovery_server.h"

namespace crash {

using block::initiator::LoadOptions;
using block::initiator::LoadResult;

inline std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

inline std::uint64_t seed() {
    static const std::uint64_t value = [] {
        const std::uint64_t chosen = from_environment("KEEL_SEED", std::random_device{}());
        std::fprintf(stderr, "seed: KEEL_SEED=%lu\n", chosen);
        return chosen;
    }();
    return value;
}

// One verifying load on a thread of its own.
class Load {
  public:
    Load(std::uint16_t port, std::uint32_t nsid, bool digests, std::uint32_t io_bytes, std::uint16_t queues,
         std::uint16_t depth, std::uint64_t range_bytes, std::optional<std::uint64_t> range_offset = {}) {
        options_.target.address = "127.0.0.1";
        options_.target.port = port;
        options_.target.subnqn = subsystem_nqn;
        options_.target.hostnqn = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-0000000000" +
                                  std::to_string(10 + nsid * 2 + (digests ? 1 : 0));
        options_.target.hostid[0] = static_cast<std::uint8_t>(nsid * 2 + (digests ? 1 : 0));
        options_.target.nsid = nsid;
        // A host waits half of it for an answer; how long a busy machine needs for a process is not the
        // question.
        options_.target.kato_ms = 60'000;
        options_.target.header_digest = digests;
        options_.target.data_digest = digests;
        options_.target.flow_control = digests;
        options_.target.io_queues = queues;
        options_.target.depth = depth;
        options_.io_bytes = io_bytes;
        options_.read_percent = 50;
        options_.verify = true;
        options_.seconds = 0;
        options_.count = ~std::uint64_t{0};
        options_.range_bytes = range_bytes;
        options_.range_offset = range_offset.value_or(digests ? 32ull << 20 : 0);
        options_.flush_every = 64;
        options_.seed = seed() + nsid * 7919 + io_bytes;
        options_.pause_threshold_ms = 1;
        options_.stop = &stop_;
        options_.progress = [this](const block::initiator::LoadProgress& progress) {
            completed_ = progress.completed;
        };
        thread_ = std::thread([this] {
            auto result = block::initiator::run_load(options_);
            if (result) {
                result_ = result.take();
            } else {
                result_.errors = 1;
                result_.error_texts.push_back(result.error().message);
            }
            ended_ = true;
        });
    }

    LoadResult& finish() {
        stop_ = true;
        if (thread_.joinable()) {
            thread_.join();
        }
        return result_;
    }
    bool ended() const { return ended_; }
    std::uint64_t completed() const { return completed_; }

  private:
    LoadOptions options_;
    std::atomic<bool> stop_{false};
    std::atomic<bool> ended_{false};
    std::atomic<std::uint64_t> completed_{0};
    LoadResult result_;
    std::thread thread_;
};

struct Loads {
    std::vector<std::unique_ptr<Load>> all;
    // `few_blocks`: nearly every block is read and written at the same time.
    explicit Loads(std::uint16_t port, bool few_blocks = false) {
        const auto add = [&](std::uint32_t nsid, bool digests, std::uint32_t io, std::uint16_t queues,
                             std::uint16_t depth, std::uint64_t range) {
            all.push_back(std::make_unique<Load>(port, nsid, digests, io, queues, depth, range));
        };
        if (few_blocks) {
            add(1, false, 4096, 2, 16, 64 << 10);
            add(1, true, 4096, 2, 16, 64 << 10);
            add(3, false, 4096, 2, 16, 64 << 10);
            return;
        }
        add(1, false, 4096, 2, 32, 8 << 20);
        add(1, true, 65536, 1, 8, 16 << 20);
        add(2, false, 16384, 1, 16, 16 << 20);
        add(2, true, 4096, 2, 16, 8 << 20);
        add(3, false, 512 * 1024, 1, 4, 4 << 20);
    }
    void wait_for_traffic() {
        const base::Nanoseconds deadline = base::monotonic_now() + 20 * base::second;
        for (auto& load : all) {
            while (load->completed() == 0 && !load->ended() && base::monotonic_now() < deadline) {
                usleep(1000);
            }
        }
    }
    std::uint64_t completed() const {
        std::uint64_t sum = 0;
        for (const auto& load : all) {
            sum += load->completed();
        }
        return sum;
    }
    bool any_ended() const {
        for (const auto& load : all) {
            if (load->ended()) {
                return true;
            }
        }
        return false;
    }
    void check() {
        std::uint64_t commands = 0;
        std::uint64_t verified = 0;
        double longest = 0;
        for (auto& load : all) {
            LoadResult& result = load->finish();
            for (const std::string& text : result.error_texts) {
                std::fprintf(stderr, "load: %s\n", text.c_str());
            }
            CHECK(result.errors == 0);
            CHECK(result.verified_blocks > 0);
            commands += result.reads + result.writes + result.flushes;
            verified += result.verified_blocks;
            longest = std::max(longest, result.longest_gap_ms);
        }
        std::fprintf(stderr, "commands %lu, blocks verified %lu, longest pause %.1f ms\n", commands, verified,
                     longest);
    }
    // After `check`: the longest gaps between two completions of each load, as many as there were
    // replacements. Gaps that have another cause may be among them.
    void print_pauses(std::size_t replacements) {
        for (auto& load : all) {
            std::vector<double> pauses = load->finish().pauses_ms;
            std::sort(pauses.begin(), pauses.end(), std::greater<>());
            pauses.resize(std::min(pauses.size(), replacements));
            if (!pauses.empty()) {
                std::fprintf(stderr, "pauses of one load: %zu, median %.1f ms, longest %.1f ms\n",
                             pauses.size(), pauses[pauses.size() / 2], pauses.front());
            }
        }
    }
};

}  // namespace crash
