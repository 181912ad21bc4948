#include "block/initiator/load.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <utility>

#include "base/check.h"
#include "block/initiator/histogram.h"
#include "block/initiator/pattern.h"
#include "block/initiator/shadow.h"
#include "reactor/uring_kernel.h"
#include "wire/nvme_io.h"

namespace block::initiator {

namespace {

constexpr std::size_t pauses_max = 65536;
constexpr std::uint32_t tries_for_a_free_unit = 64;
constexpr std::size_t page_bytes = 4096;

// xoshiro256**: quick, and the same everywhere for one seed.
class Random {
  public:
    explicit Random(std::uint64_t seed) {
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

LatencySummary summary_of(const Histogram& histogram) {
    const auto us = [&histogram](double fraction) {
        return static_cast<double>(histogram.quantile(fraction)) / 1000;
    };
    return {histogram.total(),
            histogram.mean() / 1000,
            us(0.5),
            us(0.99),
            us(0.999),
            us(0.9999),
            static_cast<double>(histogram.maximum()) / 1000};
}

enum class Kind : std::uint8_t { read, write, flush };

class Load;

// A place for one command with its buffer; as many per queue as its depth.
struct Io : HostCommand {
    Load* load = nullptr;
    TcpQueue* queue = nullptr;
    Kind kind = Kind::read;
    std::uint64_t unit = 0;
    std::uint32_t oldest = 0;      // read: generation that must be there at least
    std::uint32_t generation = 0;  // write
    std::uint64_t flush_mark = 0;
    base::Nanoseconds issued_at = 0;
    Io* next_idle = nullptr;
};

enum class Phase : std::uint8_t {
    connecting,  // the controller is being brought up
    filling,     // writes every unit once
    warming,     // the load, not measured
    measuring,   // the load
    draining,    // the last commands end
    checking,    // reads every unit that was written
    leaving,     // the controller is being closed
    finished,
};

const char* name_of(Phase phase) {
    switch (phase) {
        case Phase::connecting: return "connecting";
        case Phase::filling: return "filling";
        case Phase::warming: return "warming";
        case Phase::measuring: return "measuring";
        case Phase::draining: return "draining";
        case Phase::checking: return "checking";
        case Phase::leaving: return "leaving";
        case Phase::finished: return "finished";
    }
    return "unknown";
}

class Load final : private ControllerOwner {
  public:
    Load(reactor::Reactor& reactor, const LoadOptions& options, std::uint64_t seed)
        : reactor_(reactor),
          options_(options),
          random_(seed),
          controller_(reactor, options.target, owner()),
          watch_(reactor, *this, &Load::watch),
          pace_(reactor, *this, &Load::pace) {
        result_.seed = seed;
        result_.error_texts.reserve(options.errors_max + 1);
        result_.pauses_ms.reserve(pauses_max);
    }
    ~Load() {
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
    bool finished() const { return phase_ == Phase::finished; }
    LoadResult take_result();

  private:
    static constexpr base::Nanoseconds watch_interval = 200 * base::millisecond;

    struct LoadTimer : reactor::Timer {
        using Member = void (Load::*)();
        LoadTimer(reactor::Reactor& reactor, Load& l, Member m)
            : Timer(reactor,
                    [](Timer& timer) {
                        auto& self = static_cast<LoadTimer&>(timer);
                        (self.load.*self.member)();
                    }),
              load(l),
              member(m) {}
        Load& load;
        Member member;
    };

    ControllerOwner& owner() { return *this; }
    void controller_ready() override;
    void controller_failed(const std::string& reason) override { error(reason); }
    void controller_closed() override {
        watch_.stop();
        pace_.stop();
        phase_ = Phase::finished;
    }

    bool prepare();
    void enter(Phase phase);
    void next_phase();
    void issue(Io& io);
    bool choose(Io& io);
    bool choose_of_load(Io& io);
    bool choose_unit_to_write(std::uint64_t& unit);
    void fill_in(Io& io);
    void completed(Io& io, const Completion& completion);
    void measure(const Io& io, base::Nanoseconds now);
    void check_read(Io& io);
    void make_idle(Io& io);
    void wake_idle();
    void error(std::string text);
    void watch();
    void pace();
    std::uint64_t lba_of(std::uint64_t unit) const { return first_block_ + unit * blocks_per_unit_; }

    reactor::Reactor& reactor_;
    const LoadOptions& options_;
    Random random_;
    Controller controller_;
    LoadTimer watch_;
    LoadTimer pace_;
    LoadResult result_;
    Phase phase_ = Phase::connecting;
    bool stopping_ = false;

    std::uint32_t block_bytes_ = 0;
    std::uint32_t blocks_per_unit_ = 0;
    std::uint64_t first_block_ = 0;
    std::uint64_t units_ = 0;
    Shadow shadow_;
    void* buffers_ = nullptr;
    std::size_t buffers_bytes_ = 0;
    std::vector<Io> ios_;
    Io* idle_ = nullptr;
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

// --- preparation -------------------------------------------------------------------------------------------

void Load::controller_ready() {
    if (!prepare()) {
        phase_ = Phase::leaving;
        controller_.close();
        return;
    }
    last_completion_ = reactor_.now();
    enter(options_.fill ? Phase::filling : Phase::warming);
}

bool Load::prepare() {
    const NamespaceFacts& facts = controller_.facts();
    block_bytes_ = facts.block_bytes;
    result_.block_bytes = block_bytes_;
    result_.namespace_bytes = facts.blocks * block_bytes_;
    if (options_.io_bytes % block_bytes_ != 0 || options_.io_bytes > facts.transfer_bytes_max ||
        options_.range_offset % block_bytes_ != 0) {
        error("I/Os of " + std::to_string(options_.io_bytes) + " bytes at " +
              std::to_string(options_.range_offset) + " do not fit blocks of " +
              std::to_string(block_bytes_) + " and transfers of at most " +
              std::to_string(facts.transfer_bytes_max));
        return false;
    }
    blocks_per_unit_ = options_.io_bytes / block_bytes_;
    first_block_ = options_.range_offset / block_bytes_;
    std::uint64_t bytes = result_.namespace_bytes - std::min(result_.namespace_bytes, options_.range_offset);
    if (options_.range_bytes != 0) {
        bytes = std::min(bytes, options_.range_bytes);
    } else if (options_.verify) {
        bytes = std::min(bytes, verify_bytes_default);
    }
    units_ = bytes / options_.io_bytes;
    if (units_ == 0) {
        error("the range has no room for an I/O");
        return false;
    }
    if (options_.verify) {
        auto shadow = Shadow::open(options_.shadow_path,
                                   {result_.seed, first_block_, units_, blocks_per_unit_, block_bytes_},
                                   options_.after_power_cut);
        if (!shadow) {
            error(shadow.error().message);
            return false;
        }
        shadow_ = shadow.take();
        result_.seed = shadow_.shape().seed;
    }
    const std::size_t stride = (options_.io_bytes + page_bytes - 1) / page_bytes * page_bytes;
    const std::size_t places = std::size_t{controller_.io_queue_count()} * options_.target.depth;
    buffers_bytes_ = places * stride;
    void* const memory = mmap(nullptr, buffers_bytes_, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        error("no memory for " + std::to_string(buffers_bytes_) + " bytes of data");
        return false;
    }
    buffers_ = memory;
    ios_.resize(places);
    for (std::size_t i = 0; i < places; ++i) {
        Io& io = ios_[i];
        io.load = this;
        io.queue = &controller_.io_queue(static_cast<std::uint16_t>(i / options_.target.depth));
        io.data = static_cast<std::byte*>(memory) + i * stride;
        io.done = [](HostCommand& command, const Completion& completion) {
            auto& ended = static_cast<Io&>(command);
            ended.load->completed(ended, completion);
        };
        for (std::size_t at = 0; at + 8 <= stride; at += 8) {
            const std::uint64_t word = random_.next();
            std::memcpy(io.data + at, &word, sizeof word);
        }
    }
    // Neighbours in the idle list belong to different queues, so that all queues start.
    for (std::uint32_t place = 0; place < options_.target.depth; ++place) {
        for (std::size_t queue = 0; queue < controller_.io_queue_count(); ++queue) {
            make_idle(ios_[queue * options_.target.depth + place]);
        }
    }
    return true;
}

// --- phases ------------------------------------------------------------------------------------------------

void Load::enter(Phase phase) {
    phase_ = phase;
    phase_began_ = reactor_.now();
    const auto duration = [this](double seconds) {
        return seconds > 0 ? phase_began_ + static_cast<base::Nanoseconds>(seconds * 1e9)
                           : reactor::no_deadline;
    };
    phase_ends_ = reactor::no_deadline;
    switch (phase) {
        case Phase::filling:
        case Phase::checking: cursor_ = 0; break;
        case Phase::warming:
            cursor_ = 0;
            if (options_.warmup_seconds <= 0) {
                enter(Phase::measuring);
                return;
            }
            phase_ends_ = duration(options_.warmup_seconds);
            next_issue_ = phase_began_;
            break;
        case Phase::measuring:
            phase_ends_ = duration(options_.seconds);
            next_issue_ = phase_began_;
            issued_ = 0;
            cpu_at_start_ = CpuTime::now();
            last_completion_ = phase_began_;
            break;
        case Phase::draining: {
            const CpuTime cpu = CpuTime::now();
            result_.cpu_user_seconds = cpu.user - cpu_at_start_.user;
            result_.cpu_system_seconds = cpu.system - cpu_at_start_.system;
            break;
        }
        case Phase::leaving: controller_.close(); return;
        case Phase::connecting:
        case Phase::finished: return;
    }
    wake_idle();
}

// Called when all places are idle and the phase has no more to do.
void Load::next_phase() {
    switch (phase_) {
        case Phase::filling: enter(stopping_ ? Phase::leaving : Phase::warming); break;
        case Phase::warming:
        case Phase::measuring: enter(Phase::draining); break;
        case Phase::draining:
            enter(options_.verify && options_.final_check && result_.errors < options_.errors_max
                      ? Phase::checking
                      : Phase::leaving);
            break;
        case Phase::checking: enter(Phase::leaving); break;
        case Phase::connecting:
        case Phase::leaving:
        case Phase::finished: break;
    }
}

void Load::make_idle(Io& io) {
    io.next_idle = idle_;
    idle_ = &io;
}

void Load::wake_idle() {
    Io* list = idle_;
    idle_ = nullptr;
    while (list != nullptr) {
        Io& io = *list;
        list = io.next_idle;
        issue(io);
    }
    if (outstanding_ == 0 && !pace_.running() && phase_ != Phase::leaving) {
        next_phase();
    }
}

// --- commands ----------------------------------------------------------------------------------------------

void Load::issue(Io& io) {
    if (!choose(io)) {
        make_idle(io);
        return;
    }
    fill_in(io);
    ++outstanding_;
    io.issued_at = reactor_.now();
    if (!io.queue->submit(io)) {
        --outstanding_;
        if (io.kind == Kind::write && options_.verify) {
            shadow_.end_write(io.unit, false, false);
        }
        make_idle(io);  // the queue has failed, its controller says so
    }
}

// What the place does next; false: nothing now.
bool Load::choose(Io& io) {
    switch (phase_) {
        case Phase::filling:
            if (cursor_ == units_ || stopping_) {
                return false;
            }
            io.kind = Kind::write;
            io.unit = cursor_++;
            return true;
        case Phase::warming:
        case Phase::measuring: return choose_of_load(io);
        case Phase::checking:
            while (cursor_ < units_ && shadow_.unit(cursor_).issued == 0) {
                ++cursor_;
            }
            if (cursor_ == units_ || stopping_) {
                return false;
            }
            io.kind = Kind::read;
            io.unit = cursor_++;
            return true;
        case Phase::connecting:
        case Phase::draining:
        case Phase::leaving:
        case Phase::finished: return false;
    }
    return false;
}

bool Load::choose_of_load(Io& io) {
    const base::Nanoseconds now = reactor_.now();
    if (now >= phase_ends_ && phase_ == Phase::warming && !stopping_) {
        phase_ = Phase::measuring;
        phase_began_ = now;
        phase_ends_ = options_.seconds > 0 ? now + static_cast<base::Nanoseconds>(options_.seconds * 1e9)
                                           : reactor::no_deadline;
        issued_ = 0;
        cpu_at_start_ = CpuTime::now();
    }
    if (stopping_ || now >= phase_ends_ || (options_.count != 0 && issued_ >= options_.count)) {
        return false;
    }
    if (options_.rate != 0) {
        if (next_issue_ > now) {
            if (!pace_.running()) {
                pace_.start(next_issue_);
            }
            return false;
        }
        next_issue_ =
            std::max(next_issue_ + base::second / options_.rate, now > base::second ? now - base::second : 0);
    }
    if ((options_.flush_every != 0 && writes_since_flush_ >= options_.flush_every) ||
        (options_.flush_every != 0 && options_.verify && shadow_.flush_due())) {
        writes_since_flush_ = 0;
        io.kind = Kind::flush;
        ++issued_;
        return true;
    }
    io.kind =
        options_.read_percent >= 100 || random_.below(100) < options_.read_percent ? Kind::read : Kind::write;
    io.unit = options_.sequential ? cursor_++ % units_ : random_.below(units_);
    if (io.kind == Kind::write && options_.verify && !choose_unit_to_write(io.unit)) {
        io.kind = Kind::read;  // every unit that was tried is being written
    }
    writes_since_flush_ += io.kind == Kind::write ? 1 : 0;
    ++issued_;
    return true;
}

bool Load::choose_unit_to_write(std::uint64_t& unit) {
    for (std::uint32_t tries = 0; tries < tries_for_a_free_unit; ++tries) {
        if (!shadow_.writing(unit)) {
            return true;
        }
        unit = options_.sequential ? cursor_++ % units_ : random_.below(units_);
    }
    return false;
}

void Load::fill_in(Io& io) {
    io.sqe = wire::Sqe{};
    io.sqe.nsid = options_.target.nsid;
    if (io.kind == Kind::flush) {
        io.sqe.opcode = static_cast<std::uint8_t>(wire::IoOpcode::flush);
        io.direction = wire::DataDirection::none;
        io.length = 0;
        io.flush_mark = options_.verify ? shadow_.begin_flush() : 0;
        return;
    }
    const bool write = io.kind == Kind::write;
    io.sqe.opcode = static_cast<std::uint8_t>(write ? wire::IoOpcode::write : wire::IoOpcode::read);
    wire::set_starting_lba(io.sqe, lba_of(io.unit));
    io.sqe.cdw12 = wire::io_cdw12::nlb.put(blocks_per_unit_ - 1) |
                   wire::io_cdw12::fua.put(write && options_.force_unit_access ? 1 : 0);
    io.direction = write ? wire::DataDirection::to_controller : wire::DataDirection::from_controller;
    io.length = options_.io_bytes;
    if (!options_.verify) {
        return;
    }
    if (!write) {
        io.oldest = shadow_.unit(io.unit).acknowledged;
        return;
    }
    io.generation = shadow_.begin_write(io.unit);
    for (std::uint32_t block = 0; block < blocks_per_unit_; ++block) {
        write_pattern({io.data + std::size_t{block} * block_bytes_, block_bytes_}, result_.seed,
                      lba_of(io.unit) + block, io.generation);
    }
}

void Load::completed(Io& io, const Completion& completion) {
    --outstanding_;
    const base::Nanoseconds now = reactor_.now();
    const bool ok = completion.ok();
    if (completion.answered) {
        if (!ok) {
            const char* const name = wire::name_of(completion.status);
            const char* const what = io.kind == Kind::read    ? "read"
                                     : io.kind == Kind::write ? "write"
                                                              : "flush";
            error(std::string(what) + " of LBA " + std::to_string(lba_of(io.unit)) + ": " +
                  (name != nullptr ? name : "status " + std::to_string(completion.status.value)));
        }
        ++completed_;
        measure(io, now);
    }
    if (options_.verify) {
        if (io.kind == Kind::write) {
            shadow_.end_write(io.unit, ok, ok && options_.force_unit_access);
        } else if (io.kind == Kind::flush && ok) {
            shadow_.end_flush(io.flush_mark);
        } else if (io.kind == Kind::read && ok) {
            check_read(io);
        }
    }
    if (!completion.answered) {
        make_idle(io);
        return;
    }
    issue(io);
    if (outstanding_ == 0 && !pace_.running()) {
        next_phase();
    }
}

void Load::measure(const Io& io, base::Nanoseconds now) {
    const base::Nanoseconds gap = now - std::min(now, last_completion_);
    last_completion_ = now;
    if (phase_ != Phase::measuring && phase_ != Phase::draining) {
        return;
    }
    longest_gap_ = std::max(longest_gap_, gap);
    latest_gap_ = std::max(latest_gap_, gap);
    latest_latency_ = std::max(latest_latency_, now - io.issued_at);
    if (gap >= options_.pause_threshold_ms * base::millisecond && result_.pauses_ms.size() < pauses_max) {
        result_.pauses_ms.push_back(static_cast<double>(gap) / 1e6);
    }
    // What ends after the time counts for nothing but its latency's tail; what began before it does not count
    // either.
    if (io.issued_at < phase_began_ && phase_ == Phase::measuring) {
        return;
    }
    const std::uint64_t latency = now - io.issued_at;
    all_.add(latency);
    (io.kind == Kind::read ? reads_ : io.kind == Kind::write ? writes_ : flushes_).add(latency);
    if (phase_ == Phase::measuring && now <= phase_ends_) {
        result_.seconds = static_cast<double>(now - phase_began_) / 1e9;
        switch (io.kind) {
            case Kind::read:
                ++result_.reads;
                result_.read_bytes += io.length;
                break;
            case Kind::write:
                ++result_.writes;
                result_.written_bytes += io.length;
                break;
            case Kind::flush: ++result_.flushes; break;
        }
    }
}

void Load::check_read(Io& io) {
    const std::uint32_t newest = shadow_.unit(io.unit).issued;
    if (newest == 0) {
        result_.unverifiable_blocks += blocks_per_unit_;
        return;
    }
    for (std::uint32_t block = 0; block < blocks_per_unit_; ++block) {
        const std::uint64_t lba = lba_of(io.unit) + block;
        const PatternReading reading =
            read_pattern({io.data + std::size_t{block} * block_bytes_, block_bytes_}, result_.seed, lba);
        const bool right = reading.verdict == PatternVerdict::right && reading.generation >= io.oldest &&
                           reading.generation <= newest;
        // Before the first acknowledged write anything may be there.
        if (!right && !(io.oldest == 0 && reading.verdict == PatternVerdict::foreign)) {
            const char* const what = reading.verdict != PatternVerdict::right ? name_of(reading.verdict)
                                     : reading.generation < io.oldest         ? "stale"
                                                                              : "future";
            error("LBA " + std::to_string(lba) + " reads " + what + " (LBA " + std::to_string(reading.lba) +
                  ", generation " + std::to_string(reading.generation) + ") where generation " +
                  std::to_string(io.oldest) + " to " + std::to_string(newest) + " must be");
            return;
        }
        ++result_.verified_blocks;
    }
}

// --- time and the end --------------------------------------------------------------------------------------

void Load::pace() { wake_idle(); }

void Load::error(std::string text) {
    ++result_.errors;
    if (result_.error_texts.size() < options_.errors_max) {
        const double at = static_cast<double>(reactor_.now() - begun_at_) / 1e9;
        result_.error_texts.push_back("after " + std::to_string(at) + " s: " + std::move(text));
    }
    stopping_ = stopping_ || result_.errors >= options_.errors_max;
}

void Load::watch() {
    watch_.start_after(watch_interval);
    const base::Nanoseconds now = reactor_.now();
    if (options_.stop != nullptr && options_.stop->load(std::memory_order_relaxed)) {
        stopping_ = true;
    }
    if (options_.progress) {
        options_.progress({static_cast<double>(now - begun_at_) / 1e9, completed_, result_.errors,
                           name_of(phase_), static_cast<double>(std::exchange(latest_latency_, 0)) / 1e6,
                           static_cast<double>(std::exchange(latest_gap_, 0)) / 1e6});
    }
    if (outstanding_ != 0 && phase_ != Phase::leaving &&
        static_cast<double>(now - std::min(now, last_completion_)) / 1e9 > options_.stall_timeout_seconds) {
        error("no completion for " + std::to_string(options_.stall_timeout_seconds) + " s with " +
              std::to_string(outstanding_) + " commands outstanding");
        phase_ = Phase::leaving;
        controller_.close(false);
        return;
    }
    // An idle load (stopped, or paced when its time ended) has no completion that would take it on.
    if (outstanding_ == 0 && phase_ != Phase::connecting && phase_ != Phase::leaving &&
        (stopping_ || now >= phase_ends_)) {
        pace_.stop();
        next_phase();
    }
    if (phase_ == Phase::connecting && stopping_) {
        controller_.close(false);
    }
}

LoadResult Load::take_result() {
    result_.iops =
        result_.seconds > 0
            ? static_cast<double>(result_.reads + result_.writes + result_.flushes) / result_.seconds
            : 0;
    result_.all = summary_of(all_);
    result_.read = summary_of(reads_);
    result_.write = summary_of(writes_);
    result_.flush = summary_of(flushes_);
    result_.longest_gap_ms = static_cast<double>(longest_gap_) / 1e6;
    result_.keep_alives = controller_.keep_alives();
    result_.events = controller_.events();
    for (std::uint16_t i = 0; i < controller_.io_queue_count(); ++i) {
        const QueueStatistics& statistics = controller_.io_queue(i).statistics();
        result_.sends += statistics.sends;
        result_.receives += statistics.receives;
        result_.r2t += statistics.r2t;
        result_.success_flags += statistics.success_flags;
    }
    return std::move(result_);
}

base::Result<void> check(const LoadOptions& options) {
    const auto invalid = [](std::string message) { return base::Error{"E_INVALID", std::move(message), 0}; };
    if (options.io_bytes == 0 || options.io_bytes % 512 != 0) {
        return invalid("the size of an I/O is a multiple of 512, not " + std::to_string(options.io_bytes));
    }
    if (options.read_percent > 100) {
        return invalid("at most 100 percent of the I/Os can be reads, not " +
                       std::to_string(options.read_percent));
    }
    if (options.seconds <= 0 && options.count == 0) {
        return invalid("a load needs a number of seconds or a count of I/Os");
    }
    if (options.verify && options.io_bytes / 512 > 65536) {
        return invalid("an I/O has at most 65536 blocks");
    }
    return {};
}

}  // namespace

base::Result<LoadResult> run_load(const LoadOptions& options) {
    if (auto checked = check(options); !checked) {
        return checked.error();
    }
    auto kernel = reactor::UringKernel::make();
    if (!kernel) {
        return kernel.error();
    }
    std::uint64_t seed = options.seed;
    if (seed == 0) {
        std::random_device device;
        seed = (std::uint64_t{device()} << 32) | device();
    }
    reactor::Reactor reactor(*kernel.value());
    const auto load = std::make_unique<Load>(reactor, options, seed);
    if (auto started = load->start(); !started) {
        return started.error();
    }
    while (!load->finished()) {
        reactor.run_once(reactor.now() + base::second);
    }
    return load->take_result();
}

}  // namespace block::initiator
