// Migrations under random requests, with process deaths, power cuts and failing destinations at random
// moments, in virtual time: what was acknowledged is there, whichever side is the true one.
//
// The test plays the engine and the control plane: it keeps, durably, which side is true, and changes that
// between `prepare` and the switch. KEEL_SEED and KEEL_ROUNDS as in power_cut_test.cc.

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <string>

#include "durability_model.h"
#include "testing/block_rig.h"
#include "testing/details.h"
#include "testing/sim_kernel.h"

namespace {

using block::Action;
using block::DeviceSpec;
using block::Status;
using simulation::DurabilityModel;
using testing::BlockRig;
using testing::Pages;
using testing::SimKernel;
using testing::TestRequest;

constexpr std::uint32_t sector_bytes = SimKernel::sector_bytes;
constexpr std::uint64_t volume_bytes = 5 * (256 << 10) + 8192;  // the last region is short
constexpr std::uint32_t sectors = 40;                           // that the hosts use
constexpr std::uint32_t lanes = 6;

std::uint64_t place_of(std::uint32_t sector) {
    return volume_bytes / sectors / sector_bytes * sector_bytes * sector;
}

struct Totals {
    std::uint64_t begun = 0, committed = 0, cancelled = 0, failed = 0, deaths = 0, cuts = 0, continued = 0,
                  checked = 0;
};

// A medium that needs no disk.
struct Medium {
    Medium() : descriptor(memfd_create("medium", MFD_CLOEXEC)) {
        EK_CHECK(ftruncate(descriptor, volume_bytes) == 0, "memory for a test");
    }
    ~Medium() { close(descriptor); }
    Medium(const Medium&) = delete;
    Medium& operator=(const Medium&) = delete;
    std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor); }
    int descriptor;
};

class Round {
  public:
    Round(std::uint64_t seed, Totals& totals)
        : seed_(seed), totals_(totals), random_(seed), map_(1 << 16), memory_(lanes * 4096) {
        for (std::uint32_t lane = 0; lane < lanes; ++lane) {
            lanes_[lane].request.data = memory_.data() + std::size_t{lane} * 4096;
        }
    }

    std::vector<std::string> run() {
        const std::uint64_t machines = 2 + random_() % 3;
        for (std::uint64_t machine = 0; machine < machines && violations_.empty(); ++machine) {
            SimKernel::Options options;
            options.seed = seed_ * 16 + machine;
            options.fault = [this](const SimKernel::Attempt& attempt) { return fault(attempt); };
            SimKernel kernel(options);
            const std::uint64_t lives = 1 + random_() % 4;
            for (std::uint64_t life = 0; life < lives && violations_.empty(); ++life) {
                live(kernel, machine + 1 == machines && life + 1 == lives, life + 1 == lives);
            }
        }
        return violations_;
    }

  private:
    // What the control plane has stored.
    struct Truth {
        int source = 0;  // which medium
        bool migrating = false;
    };
    struct Lane {
        TestRequest request;
        std::uint32_t sector = 0;
        std::uint64_t value = 0;
        DurabilityModel::Moment moment = 0;
        DurabilityModel::Place place{};
        bool busy = false;
    };

    int fault(const SimKernel::Attempt& attempt) {
        if (!faults_on_ || random_() % 64 != 0) {
            return 0;
        }
        struct stat its {
        }, other{};
        if (fstat(attempt.descriptor, &its) != 0 ||
            fstat(media_[1 - truth_.source].descriptor, &other) != 0 || its.st_ino != other.st_ino) {
            return 0;
        }
        return attempt.step == SimKernel::Step::read ? 0 : EIO;
    }

    void violate(const std::string& what) { violations_.push_back(what); }

    block::Device* make(const std::string& name, int medium) {
        DeviceSpec spec;
        spec.name = name;
        spec.kind = "file";
        spec.path = media_[medium].path();
        spec.block_bytes = sector_bytes;
        auto made = rig_->make(spec);
        EK_CHECK(made.ok(), "a medium opens");
        return made.value();
    }
    block::Device* make_migration(bool fresh) {
        DeviceSpec spec;
        spec.name = "z";
        spec.kind = "migration";
        spec.block_bytes = sector_bytes;
        spec.migration = {"source", "destination", 0, fresh};
        auto made = rig_->make(spec);
        EK_CHECK(made.ok(), "the migration begins");
        return made.value();
    }
    void open(bool fresh) {
        device_ = make("source", truth_.source);
        if (truth_.migrating) {
            make("destination", 1 - truth_.source);
            device_ = make_migration(fresh);
        }
    }
    void close() {
        if (truth_.migrating) {
            rig_->close("z");
            rig_->close("destination");
        }
        rig_->close("source");
    }
    std::string state() const { return testing::detail(*device_, "state"); }

    // A process, from its start to its death; with the machine's power if `cut`.
    void live(SimKernel& kernel, bool last, bool cut) {
        rig_ = std::make_unique<BlockRig>(&kernel);
        rig_->environment.memory = [this](const std::string&, std::uint64_t bytes) {
            return bytes > map_.span().size()
                       ? base::Result<block::PersistentMemory>(base::Error{"E_NO_MEMORY", ""})
                       : base::Result<block::PersistentMemory>(
                             block::PersistentMemory{-1, map_.span().first(bytes), 3});
        };
        totals_.continued += truth_.migrating ? 1 : 0;
        open(false);
        check_all();
        faults_on_ = random_() % 4 == 0;
        const std::uint64_t steps = 20 + random_() % 300;
        for (std::uint64_t step = 0; step < steps && violations_.empty(); ++step) {
            send_random();
            rig_->reactor.run_once(kernel.now() + random_() % (60 * base::microsecond));
            if (random_() % 20 == 0 && !control()) {
                break;  // it dies in the middle of that
            }
        }
        faults_on_ = false;
        if (last) {
            settle();
            check_all();
        }
        die(kernel, cut);
    }

    void die(SimKernel& kernel, bool cut) {
        if (cut) {
            ++totals_.cuts;
            kernel.cut_power();
        } else {
            ++totals_.deaths;
            kernel.end_process();
        }
        std::vector<std::byte> left(map_.span().size());  // memory is gone with the power
        if (!cut) {
            std::memcpy(left.data(), map_.data(), left.size());
        }
        for (Lane& lane : lanes_) {  // what the dead process had is not acknowledged any more
            if (lane.busy && lane.request.completed == 0) {
                lane.request.device->cancel(lane.request);
            }
        }
        close();
        rig_.reset();
        std::memcpy(map_.data(), left.data(), left.size());
        for (Lane& lane : lanes_) {
            if (lane.busy) {
                lane.busy = false;
                if (lane.request.action == Action::write) {
                    model_.ended(lane.place, model_.tick(), false, false);
                }
            }
        }
        if (cut) {
            model_.power_lost();
        } else {
            kernel.begin_process();
        }
        powered_off_ = cut;
    }

    // One step of a migration. False: the process is to die now.
    bool control() {
        if (!truth_.migrating) {
            settle();
            close();
            truth_.migrating = true;
            ++totals_.begun;
            open(true);
            return true;
        }
        const std::string now = state();
        if (now == "failed") {
            ++totals_.failed;
        }
        if (now == "failed" || random_() % 8 == 0) {
            ++totals_.cancelled;
            settle();
            close();
            truth_.migrating = false;
            open(false);
            return true;
        }
        if (now != "copied") {
            return true;
        }
        settle();
        if (random_() % 4 == 0) {
            return false;
        }
        bool answered = false, prepared = false;
        device_->command({"prepare", {}}, [&](const base::Result<void>& result) {
            answered = true;
            prepared = result.ok();
        });
        if (!rig_->run_until([&] { return answered; })) {
            violate("prepare is never answered");
            return true;
        }
        if (!prepared) {
            return true;
        }
        if (random_() % 4 == 0) {
            return false;
        }
        close();
        truth_ = {1 - truth_.source, false};  // stored
        ++totals_.committed;
        open(false);
        return random_() % 4 != 0;
    }

    void send_random() {
        for (Lane& lane : lanes_) {
            collect(lane);
        }
        Lane& lane = lanes_[random_() % lanes];
        if (lane.busy) {
            return;
        }
        lane.sector = static_cast<std::uint32_t>(random_() % sectors);
        for (const Lane& other : lanes_) {
            if (other.busy && other.sector == lane.sector) {
                return;
            }
        }
        const std::uint64_t kind = random_() % 10;
        lane.request.action = kind < 6 ? Action::write : kind < 9 ? Action::read : Action::flush;
        lane.request.force_unit_access = kind < 2;
        send(lane);
    }
    void send(Lane& lane) {
        TestRequest& request = lane.request;
        request.offset = request.action == Action::flush ? 0 : place_of(lane.sector);
        request.length = request.action == Action::flush ? 0 : sector_bytes;
        request.completed = 0;
        lane.moment = model_.tick();
        if (request.action == Action::write) {
            lane.value = ++values_;
            for (std::uint32_t at = 0; at < sector_bytes; at += 8) {
                std::memcpy(request.data + at, &lane.value, 8);
            }
            lane.place = model_.submitted(lane.sector, lane.value, lane.moment);
        }
        lane.busy = true;
        device_->submit(request);
    }
    void collect(Lane& lane) {
        if (!lane.busy || lane.request.completed == 0) {
            return;
        }
        lane.busy = false;
        const TestRequest& request = lane.request;
        if (request.status != Status::ok) {
            violate(std::string("a host sees an error: ") + block::name_of(request.status));
            return;
        }
        if (request.action == Action::write) {
            model_.ended(lane.place, model_.tick(), true, request.force_unit_access);
        } else if (request.action == Action::flush) {
            model_.flushed(lane.moment);
        } else {
            const auto value = value_in(request.data);
            if (!value || !model_.may_be_read(lane.sector, *value, lane.moment)) {
                violate("a read returns what it must not, sector " + std::to_string(lane.sector));
            }
        }
    }
    static std::optional<std::uint64_t> value_in(const std::byte* data) {
        std::uint64_t first = 0;
        std::memcpy(&first, data, 8);
        for (std::uint32_t at = 0; at < sector_bytes; at += 8) {
            if (std::memcmp(data, data + at, 8) != 0) {
                return std::nullopt;
            }
        }
        return first;
    }

    void settle() {
        const bool ended = rig_->run_until([&] {
            for (Lane& lane : lanes_) {
                collect(lane);
            }
            return std::none_of(std::begin(lanes_), std::end(lanes_), [](const Lane& l) { return l.busy; });
        });
        if (!ended) {
            violate("a request never ends");
        }
    }

    // Every sector, and from then on it is known: who read a value does not find another one later.
    void check_all() {
        Lane& lane = lanes_[0];
        if (rig_->run(*device_, Action::flush) != Status::ok) {
            violate("a flush fails");
        }
        for (std::uint32_t sector = 0; sector < sectors && violations_.empty(); ++sector) {
            lane.sector = sector;
            lane.request.action = Action::read;
            lane.request.completed = 0;
            lane.request.offset = place_of(sector);
            lane.request.length = sector_bytes;
            const Status status = rig_->run(*device_, lane.request);
            const auto value = value_in(lane.request.data);
            ++totals_.checked;
            if (status != Status::ok || !value ||
                !(powered_off_ ? model_.may_be_on_medium(sector, *value)
                               : model_.may_be_read(sector, *value, model_.tick()))) {
                violate("sector " + std::to_string(sector) + " does not hold what it must after " +
                        (powered_off_ ? "a power cut" : "a death"));
                return;
            }
            model_.found(sector, *value);
        }
        powered_off_ = false;
    }

    std::uint64_t seed_;
    Totals& totals_;
    std::mt19937_64 random_;
    Pages map_;
    Pages memory_;
    Medium media_[2];
    Truth truth_;
    DurabilityModel model_{sectors};
    std::unique_ptr<BlockRig> rig_;
    block::Device* device_ = nullptr;
    Lane lanes_[lanes];
    std::uint64_t values_ = 0;
    bool faults_on_ = false;
    bool powered_off_ = false;
    std::vector<std::string> violations_;
};

std::uint64_t number(const char* variable, std::uint64_t otherwise) {
    const char* const text = std::getenv(variable);
    return text != nullptr && *text != 0 ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

TEST_CASE("what was acknowledged is there whenever a migration is cut short") {
    const std::uint64_t seed = number("KEEL_SEED", std::random_device{}());
    const std::uint64_t rounds = number("KEEL_ROUNDS", 100);
    std::printf("migrations: KEEL_SEED=%llu KEEL_ROUNDS=%llu\n", static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(rounds));
    std::fflush(stdout);
    Totals totals;
    for (std::uint64_t round = 0; round < rounds; ++round) {
        const auto violations = Round(seed + round, totals).run();
        for (const std::string& violation : violations) {
            FAIL_CHECK("KEEL_SEED=" << seed + round << " KEEL_ROUNDS=1: " << violation);
        }
        if (!violations.empty()) {
            break;
        }
    }
    std::printf(
        "migrations: %llu begun, %llu committed, %llu cancelled, %llu failed; %llu deaths, %llu power cuts, "
        "%llu continued; %llu sectors checked\n",
        static_cast<unsigned long long>(totals.begun), static_cast<unsigned long long>(totals.committed),
        static_cast<unsigned long long>(totals.cancelled), static_cast<unsigned long long>(totals.failed),
        static_cast<unsigned long long>(totals.deaths), static_cast<unsigned long long>(totals.cuts),
        static_cast<unsigned long long>(totals.continued), static_cast<unsigned long long>(totals.checked));
    if (rounds >= 100) {
        CHECK(totals.committed > 0);
        CHECK(totals.continued > 0);
        CHECK(totals.failed > 0);
    }
}
