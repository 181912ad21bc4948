// The inside of a load (load.h): its places for commands, its phases, its state. load.cc brings it up and
// ends it, load_commands.cc chooses, sends and judges the commands.
#pragma once

#include <sys/mman.h>
#include <sys/resource.h>

#include <cstdint>
#include <string>
#include <vector>

#include "block/initiator/controller.h"
#include "block/initiator/histogram.h"
#include "block/initiator/load.h"
#include "block/initiator/shadow.h"
#include "reactor/reactor.h"

namespace block::initiator {

inline constexpr std::size_t pauses_max = 65536;

// xoshiro256**: quick, and the same everywhere for one seed.
class LoadRandom {
  public:
    explicit LoadRandom(std::uint64_t seed) {
        for (std::uint64_t& word : state_) {
            seed += 0x9e3779b97f4a7c15;
            std::uint64_t mixed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9;
            mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
            word = mixed ^ (mixed >> 31);
        }
    }
    std::uint64_t next() {
        const std::uint64_t result = rotate(state_[1] * 5, 7) * 9;
        const std::uint64_t shifted = state_[1] << 17;
        state_[2] ^= state_[0];
        state_[3] ^= state_[1];
        state_[1] ^= state_[2];
        state_[0] ^= state_[3];
        state_[2] ^= shifted;
        state_[3] = rotate(state_[3], 45);
        return result;
    }
    std::uint64_t below(std::uint64_t bound) {
        return static_cast<std::uint64_t>((static_cast<unsigned __int128>(next()) * bound) >> 64);
    }

  private:
    static std::uint64_t rotate(std::uint64_t value, int by) { return (value << by) | (value >> (64 - by)); }
    std::uint64_t state_[4];
};

struct CpuTime {
    double user = 0;
    double system = 0;

    static CpuTime now() {
        rusage usage{};
        getrusage(RUSAGE_THREAD, &usage);
        const auto seconds = [](const timeval& time) {
            return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
        };
        return {seconds(usage.ru_utime), seconds(usage.ru_stime)};
    }
};

enum class LoadKind : std::uint8_t { read, write, flush };

class LoadRun;

// A place for one command with its buffer; as many per queue as its depth.
struct LoadIo : HostCommand {
    LoadRun* load = nullptr;
    TcpQueue* queue = nullptr;
    LoadKind kind = LoadKind::read;
    std::uint64_t unit = 0;
    std::uint32_t oldest = 0;      // read: generation that must be there at least
    std::uint32_t generation = 0;  // write
    std::uint64_t flush_mark = 0;
    base::Nanoseconds issued_at = 0;
    LoadIo* next_idle = nullptr;
};

enum class LoadPhase : std::uint8_t {
    connecting,  // the controller is being brought up
    filling,     // writes every unit once
    warming,     // the load, not measured
    measuring,   // the load
    draining,    // the last commands end
    checking,    // reads every unit that was written
    leaving,     // the controller is being closed
    finished,
};

class LoadRun final : private ControllerOwner {
  public:
    LoadRun(reactor::Reactor& reactor, const LoadOptions& options, std::uint64_t seed)
        : reactor_(reactor),
          options_(options),
          random_(seed),
          controller_(reactor, options.target, owner()),
          watch_(reactor, *this),
          pace_(reactor, *this) {
        result_.seed = seed;
        result_.error_texts.reserve(options.errors_max + 1);
        result_.pauses_ms.reserve(pauses_max);
    }
    ~LoadRun() {
        if (buffers_ != nullptr) {
            munmap(buffers_, buffers_bytes_);
        }
    }

    base::Result<void> start() {
        begun_at_ = reactor_.now();
        last_completion_ = begun_at_;
        watch_.start_after(watch_interval);
        return controller_.open();
    }
    bool finished() const { return phase_ == LoadPhase::finished; }
    LoadResult take_result();

  private:
    static constexpr base::Nanoseconds watch_interval = 200 * base::millisecond;

    ControllerOwner& owner() { return *this; }
    void controller_ready() override;
    void controller_failed(const std::string& reason) override { error(reason); }
    void controller_closed() override {
        watch_.stop();
        pace_.stop();
        phase_ = LoadPhase::finished;
    }

    bool prepare();
    void enter(LoadPhase phase);
    void next_phase();
    void issue(LoadIo& io);
    bool choose(LoadIo& io);
    bool choose_of_load(LoadIo& io);
    bool choose_unit_to_write(std::uint64_t& unit);
    void fill_in(LoadIo& io);
    void completed(LoadIo& io, const Completion& completion);
    void measure(const LoadIo& io, base::Nanoseconds now);
    void check_read(LoadIo& io);
    void make_idle(LoadIo& io);
    void wake_idle();
    void error(std::string text);
    void watch();
    void pace();
    std::uint64_t lba_of(std::uint64_t unit) const { return first_block_ + unit * blocks_per_unit_; }

    reactor::Reactor& reactor_;
    const LoadOptions& options_;
    LoadRandom random_;
    Controller controller_;
    reactor::MemberTimer<&LoadRun::watch> watch_;
    reactor::MemberTimer<&LoadRun::pace> pace_;
    LoadResult result_;
    LoadPhase phase_ = LoadPhase::connecting;
    bool stopping_ = false;

    std::uint32_t block_bytes_ = 0;
    std::uint32_t blocks_per_unit_ = 0;
    std::uint64_t first_block_ = 0;
    std::uint64_t units_ = 0;
    Shadow shadow_;
    void* buffers_ = nullptr;
    std::size_t buffers_bytes_ = 0;
    std::vector<LoadIo> ios_;
    LoadIo* idle_ = nullptr;
    std::uint32_t outstanding_ = 0;
    std::uint64_t cursor_ = 0;  // filling, checking, sequential load
    std::uint64_t issued_ = 0;  // of the load
    std::uint32_t writes_since_flush_ = 0;
    base::Nanoseconds next_issue_ = 0;  // with a rate

    base::Nanoseconds begun_at_ = 0;
    base::Nanoseconds phase_began_ = 0;
    base::Nanoseconds phase_ends_ = 0;
    base::Nanoseconds last_completion_ = 0;
    std::uint64_t completed_ = 0;
    CpuTime cpu_at_start_;
    std::uint64_t longest_gap_ = 0;
    std::uint64_t latest_gap_ = 0;      // the longest since the last report of progress
    std::uint64_t latest_latency_ = 0;  // likewise
    Histogram all_, reads_, writes_, flushes_;
};

}  // namespace block::initiator
