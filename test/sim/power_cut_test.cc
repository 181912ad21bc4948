// Power cuts and process deaths at random moments, in virtual time: what was acknowledged as durable is on
// the medium, and what was acknowledged at all outlives the process.
//
// KEEL_SEED: the first seed (printed by every run). KEEL_ROUNDS: how many rounds, each with the next seed.

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "testing/block_rig.h"
#include "workload.h"

namespace {

using simulation::block_bytes;
using simulation::blocks;
using simulation::Kind;
using simulation::Remains;
using simulation::Server;
using simulation::Statistics;
using simulation::Workload;
using testing::SimKernel;

struct Disk {
    bool ignores_sync = false;
    bool ignores_durable = false;
};

// A medium that needs no disk.
class MemoryFile {
  public:
    MemoryFile() : descriptor_(memfd_create("medium", MFD_CLOEXEC)) {}
    MemoryFile(const MemoryFile&) = delete;
    MemoryFile& operator=(const MemoryFile&) = delete;
    ~MemoryFile() { close(descriptor_); }
    std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

  private:
    int descriptor_;
};

enum class Faults : std::uint8_t { none, interruptions, errors, count };

class Round {
  public:
    Round(std::uint64_t seed, Disk disk, Statistics& statistics)
        : seed_(seed),
          disk_(disk),
          statistics_(statistics),
          faults_(static_cast<Faults>(seed % static_cast<std::uint64_t>(Faults::count))),
          fault_random_(seed ^ 0xFA),
          pool_(Remains::pool_bytes),
          workload_(seed, faults_ == Faults::errors, statistics) {}

    std::vector<std::string> run() {
        const std::uint64_t lives = 2 + workload_.random(3);
        for (std::uint64_t life = 0; life < lives && workload_.violations().empty(); ++life) {
            live(seed_ * 16 + life, life + 1 == lives);
        }
        return workload_.violations();
    }

  private:
    SimKernel::Options options(std::uint64_t seed) {
        SimKernel::Options options;
        options.seed = seed;
        options.short_transfers_percent = 25;
        options.ignores_sync = disk_.ignores_sync;
        options.ignores_durable = disk_.ignores_durable;
        options.fault = [this](const SimKernel::Attempt& attempt) { return fault(attempt); };
        return options;
    }

    int fault(const SimKernel::Attempt& attempt) {
        if (!faults_on_ || faults_ == Faults::none || fault_random_() % 16 != 0) {
            return 0;
        }
        if (faults_ == Faults::interruptions) {
            return EINTR;
        }
        const bool writes = attempt.step != SimKernel::Step::read && attempt.step != SimKernel::Step::sync;
        return writes && fault_random_() % 2 == 0 ? ENOSPC : EIO;
    }

    // From power on to power off.
    void live(std::uint64_t seed, bool last) {
        SimKernel kernel(options(seed));
        Remains remains;
        auto server = std::make_unique<Server>(kernel, remains, pool_.span(), medium_.path());
        server->connect_hosts();
        const bool cut_while_checking = !last && workload_.random(3) == 0;
        check_medium(*server, cut_while_checking ? workload_.random(blocks) : blocks);
        if (cut_while_checking) {
            ++statistics_.cuts_while_checking;
        } else {
            faults_on_ = true;
            const std::uint64_t steps = 20 + workload_.random(200);
            for (std::uint64_t step = 0; step < steps && workload_.violations().empty(); ++step) {
                workload_.send_random(*server);
                server->run(workload_.random(60) * base::microsecond);
                workload_.collect(*server);
                if (workload_.random(80) == 0) {
                    server = after_death(kernel, std::move(server), remains);
                }
            }
            if (last) {
                finish(*server);
            }
            faults_on_ = false;
        }
        ++statistics_.cuts;
        kernel.cut_power();
        workload_.power_lost();
    }

    // All blocks are read, many at once, until `limit` of them are known.
    void check_medium(Server& server, std::uint64_t limit) {
        std::uint64_t known = 0;
        std::uint32_t next = 0;
        for (int i = 0; i < 100'000 && known < limit; ++i) {
            while (next < blocks && workload_.in_flight() < 16) {
                workload_.send_read(server, next++);
            }
            server.run(20 * base::microsecond);
            workload_.collect(server, [&](std::uint32_t block, const std::vector<std::uint64_t>& sectors) {
                workload_.found(block, sectors);
                ++known;
            });
        }
        if (known < limit) {
            workload_.violate("the medium cannot be read");
        }
    }

    void finish(Server& server) {
        for (int i = 0; i < 100'000 && workload_.busy(); ++i) {
            server.run(base::millisecond);
            workload_.collect(server);
        }
        if (workload_.busy()) {
            workload_.violate("a command is never answered");
        }
    }

    // The process dies and another one takes over its hosts.
    std::unique_ptr<Server> after_death(SimKernel& kernel, std::unique_ptr<Server> server, Remains& remains) {
        ++statistics_.deaths;
        statistics_.resumed += workload_.in_flight();
        kernel.end_process();
        const Remains left = remains;
        const std::vector<std::byte> memory(pool_.span().begin(), pool_.span().end());
        server.reset();
        remains = left;
        std::copy(memory.begin(), memory.end(), pool_.data());
        kernel.begin_process();
        server = std::make_unique<Server>(kernel, remains, pool_.span(), medium_.path());
        if (!server->take_over()) {
            workload_.violate("a connection is not taken over");
        }
        return server;
    }

    std::uint64_t seed_;
    Disk disk_;
    Statistics& statistics_;
    Faults faults_;
    bool faults_on_ = false;
    std::mt19937_64 fault_random_;
    MemoryFile medium_;
    testing::Pages pool_;
    Workload workload_;
};

std::uint64_t number(const char* variable, std::uint64_t otherwise) {
    const char* const text = std::getenv(variable);
    return text != nullptr && *text != 0 ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

TEST_CASE("what was acknowledged as durable survives power cuts, what was acknowledged survives deaths") {
    const std::uint64_t seed = number("KEEL_SEED", std::random_device{}());
    const std::uint64_t rounds = number("KEEL_ROUNDS", 60);
    std::printf("power cuts: KEEL_SEED=%llu KEEL_ROUNDS=%llu\n", static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(rounds));
    std::fflush(stdout);
    Statistics statistics;
    for (std::uint64_t round = 0; round < rounds; ++round) {
        CAPTURE(seed + round);
        const auto violations = Round(seed + round, {}, statistics).run();
        for (const std::string& violation : violations) {
            FAIL_CHECK("KEEL_SEED=" << seed + round << " KEEL_ROUNDS=1: " << violation);
        }
        if (!violations.empty()) {
            break;
        }
    }
    std::printf(
        "%llu cuts (%llu while checking), %llu deaths with %llu commands in flight, %llu failed commands, "
        "%llu sectors left open, %llu torn blocks\n",
        static_cast<unsigned long long>(statistics.cuts),
        static_cast<unsigned long long>(statistics.cuts_while_checking),
        static_cast<unsigned long long>(statistics.deaths),
        static_cast<unsigned long long>(statistics.resumed),
        static_cast<unsigned long long>(statistics.failed),
        static_cast<unsigned long long>(statistics.uncertain),
        static_cast<unsigned long long>(statistics.torn));
    if (rounds >= 30) {
        for (const std::uint64_t acknowledged : statistics.acknowledged) {
            CHECK(acknowledged > 0);
        }
        CHECK(statistics.compare_failures > 0);
        CHECK(statistics.failed > 0);
        CHECK(statistics.cuts_while_checking > 0);
        CHECK(statistics.resumed > 0);
        CHECK(statistics.uncertain > 0);
        CHECK(statistics.torn > 0);
    }
}

TEST_CASE("a disk that ignores flushes, or force unit access, is found out") {
    const std::uint64_t seed = number("KEEL_SEED", std::random_device{}());
    for (const Disk disk : {Disk{.ignores_sync = true}, Disk{.ignores_durable = true}}) {
        CAPTURE(disk.ignores_sync);
        CAPTURE(seed);
        constexpr std::uint64_t rounds_max = 40;
        std::uint64_t round = 0;
        Statistics statistics;
        while (round < rounds_max && Round(seed + round, disk, statistics).run().empty()) {
            ++round;
        }
        CHECK(round < rounds_max);
    }
}

TEST_CASE("the same seed makes the same round") {
    const auto run = [](std::uint64_t seed) {
        Statistics statistics;
        CHECK(Round(seed, {}, statistics).run().empty());
        return std::vector<std::uint64_t>{
            statistics.cuts, statistics.deaths,    statistics.failed,          statistics.resumed,
            statistics.torn, statistics.uncertain, statistics.acknowledged[0], statistics.acknowledged[1]};
    };
    CHECK(run(5) == run(5));
    CHECK(run(5) != run(6));
}
