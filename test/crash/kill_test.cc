// SIGKILL under load: the server dies at random and at every marked step, is replaced, and the initiator sees
// no lost connection, no error, no wrong byte and each command completed once.
//
// KEEL_KILLS sets the number of random kills (default 60), KEEL_SEED the seed; both are printed.

#include <doctest/doctest.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "block/initiator/load.h"
#include "keeper_stand_in.h"
#include "recovery_server.h"

namespace crash {

namespace {

using block::initiator::LoadOptions;
using block::initiator::LoadResult;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

std::uint64_t seed() {
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
         std::uint16_t depth, std::uint64_t range_bytes) {
        options_.target.address = "127.0.0.1";
        options_.target.port = port;
        options_.target.subnqn = subsystem_nqn;
        options_.target.hostnqn = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-0000000000" +
                                  std::to_string(10 + nsid * 2 + (digests ? 1 : 0));
        options_.target.hostid[0] = static_cast<std::uint8_t>(nsid * 2 + (digests ? 1 : 0));
        options_.target.nsid = nsid;
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
        options_.range_offset = digests ? 32ull << 20 : 0;
        options_.flush_every = 64;
        options_.seed = seed() + nsid * 7919 + io_bytes;
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
        thread_.join();
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
    explicit Loads(std::uint16_t port) {
        const auto add = [&](std::uint32_t nsid, bool digests, std::uint32_t io, std::uint16_t queues,
                             std::uint16_t depth, std::uint64_t range) {
            all.push_back(std::make_unique<Load>(port, nsid, digests, io, queues, depth, range));
        };
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
};

}  // namespace

TEST_CASE("hosts notice nothing when the server is killed at random") {
    const std::uint64_t kills = from_environment("KEEL_KILLS", 60);
    std::mt19937_64 random(seed());
    KeeperStandIn keeper;
    REQUIRE(keeper.start(""));
    Loads loads(keeper.port());
    loads.wait_for_traffic();
    std::uint64_t done = 0;
    for (; done < kills && !loads.any_ended(); ++done) {
        usleep(static_cast<useconds_t>(random() % 30'000));
        REQUIRE(keeper.kill_and_reap());
        // Now and then recovery itself is killed.
        if (random() % 8 == 0) {
            std::thread killer;
            const std::string point = "*:" + std::to_string(1 + random() % 200);
            if (!keeper.start(point)) {
                (void)keeper.wait_for_death(1000);
                REQUIRE(keeper.start(""));
            }
        } else {
            REQUIRE(keeper.start(""));
        }
    }
    usleep(100'000);
    if (!keeper.alive()) {
        REQUIRE(keeper.start(""));
    }
    loads.check();
    for (const std::string& text : keeper.refused) {
        std::fprintf(stderr, "refused: %s\n", text.c_str());
    }
    CHECK(keeper.refused.empty());
    CHECK(done == kills);
    CHECK(keeper.executed > 0);
    std::fprintf(stderr, "random kills %lu, connections carried %lu, commands executed again %lu\n", done,
                 keeper.carried, keeper.executed);
}

TEST_CASE("hosts notice nothing when the server dies at a marked step") {
    std::mt19937_64 random(seed() + 1);
    const char* points[] = {
        "tcp.receive.before_commit",
        "tcp.receive.after_commit",
        "tcp.receive.arrived",
        "tcp.receive.ready",
        "tcp.receive.from_stream",
        "tcp.transmit.before_tail",
        "tcp.transmit.after_tail",
        "tcp.transmit.sent",
        "tcp.recovery.command",
        "tcp.recovery.execute",
        "engine.adopt.connection",
        "command_before_done",
        "command_done",
        "command_freed",
    };
    KeeperStandIn keeper;
    REQUIRE(keeper.start(""));
    Loads loads(keeper.port());
    loads.wait_for_traffic();
    std::uint64_t died = 0;
    const std::uint64_t rounds = from_environment("KEEL_POINT_ROUNDS", 3);
    for (std::uint64_t round = 0; round < rounds && !loads.any_ended(); ++round) {
        for (const char* point : points) {
            REQUIRE(keeper.kill_and_reap());
            const std::uint64_t limit = std::string(point).find("recovery") != std::string::npos ||
                                                std::string(point).find("adopt") != std::string::npos
                                            ? 8
                                            : 3000;
            const bool started =
                keeper.start(std::string(point) + ":" + std::to_string(1 + random() % limit));
            if (keeper.wait_for_death(started ? 400 : 1000)) {
                ++died;
                REQUIRE(keeper.start(""));
            } else if (!started) {
                FAIL("the server did not start");
            }
        }
    }
    if (!keeper.alive()) {
        REQUIRE(keeper.start(""));
    }
    loads.check();
    CHECK(keeper.refused.empty());
    CHECK(died > rounds * std::size(points) / 2);
    std::fprintf(stderr, "deaths at marked steps %lu\n", died);
}

}  // namespace crash
