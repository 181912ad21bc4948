#include "block/initiator/load.h"

#include <algorithm>
#include <memory>
#include <random>
#include <utility>

#include "base/check.h"
#include "block/initiator/load_run.h"
#include "block/initiator/pattern.h"
#include "reactor/uring_kernel.h"

namespace block::initiator {

namespace {

constexpr std::size_t page_bytes = 4096;

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

const char* name_of(LoadPhase phase) {
    switch (phase) {
        case LoadPhase::connecting: return "connecting";
        case LoadPhase::filling: return "filling";
        case LoadPhase::warming: return "warming";
        case LoadPhase::measuring: return "measuring";
        case LoadPhase::draining: return "draining";
        case LoadPhase::checking: return "checking";
        case LoadPhase::leaving: return "leaving";
        case LoadPhase::finished: return "finished";
    }
    return "unknown";
}

}  // namespace

// --- preparation -------------------------------------------------------------------------------------------

void LoadRun::controller_ready() {
    if (!prepare()) {
        phase_ = LoadPhase::leaving;
        controller_.close();
        return;
    }
    last_completion_ = reactor_.now();
    enter(options_.fill ? LoadPhase::filling : LoadPhase::warming);
}

bool LoadRun::prepare() {
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
        LoadIo& io = ios_[i];
        io.load = this;
        io.queue = &controller_.io_queue(static_cast<std::uint16_t>(i / options_.target.depth));
        io.data = static_cast<std::byte*>(memory) + i * stride;
        io.done = [](HostCommand& command, const Completion& completion) {
            auto& ended = static_cast<LoadIo&>(command);
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

void LoadRun::enter(LoadPhase phase) {
    phase_ = phase;
    phase_began_ = reactor_.now();
    const auto duration = [this](double seconds) {
        return seconds > 0 ? phase_began_ + static_cast<base::Nanoseconds>(seconds * 1e9)
                           : reactor::no_deadline;
    };
    phase_ends_ = reactor::no_deadline;
    switch (phase) {
        case LoadPhase::filling:
        case LoadPhase::checking: cursor_ = 0; break;
        case LoadPhase::warming:
            cursor_ = 0;
            if (options_.warmup_seconds <= 0) {
                enter(LoadPhase::measuring);
                return;
            }
            phase_ends_ = duration(options_.warmup_seconds);
            next_issue_ = phase_began_;
            break;
        case LoadPhase::measuring:
            phase_ends_ = duration(options_.seconds);
            next_issue_ = phase_began_;
            issued_ = 0;
            cpu_at_start_ = CpuTime::now();
            last_completion_ = phase_began_;
            break;
        case LoadPhase::draining: {
            const CpuTime cpu = CpuTime::now();
            result_.cpu_user_seconds = cpu.user - cpu_at_start_.user;
            result_.cpu_system_seconds = cpu.system - cpu_at_start_.system;
            break;
        }
        case LoadPhase::leaving: controller_.close(); return;
        case LoadPhase::connecting:
        case LoadPhase::finished: return;
    }
    wake_idle();
}

// Called when all places are idle and the phase has no more to do.
void LoadRun::next_phase() {
    switch (phase_) {
        case LoadPhase::filling: enter(stopping_ ? LoadPhase::leaving : LoadPhase::warming); break;
        case LoadPhase::warming:
        case LoadPhase::measuring: enter(LoadPhase::draining); break;
        case LoadPhase::draining:
            enter(options_.verify && options_.final_check && result_.errors < options_.errors_max
                      ? LoadPhase::checking
                      : LoadPhase::leaving);
            break;
        case LoadPhase::checking: enter(LoadPhase::leaving); break;
        case LoadPhase::connecting:
        case LoadPhase::leaving:
        case LoadPhase::finished: break;
    }
}

void LoadRun::make_idle(LoadIo& io) {
    io.next_idle = idle_;
    idle_ = &io;
}

void LoadRun::wake_idle() {
    LoadIo* list = idle_;
    idle_ = nullptr;
    while (list != nullptr) {
        LoadIo& io = *list;
        list = io.next_idle;
        issue(io);
    }
    if (outstanding_ == 0 && !pace_.running() && phase_ != LoadPhase::leaving) {
        next_phase();
    }
}

// --- time and the end --------------------------------------------------------------------------------------

void LoadRun::pace() { wake_idle(); }

void LoadRun::error(std::string text) {
    ++result_.errors;
    if (result_.error_texts.size() < options_.errors_max) {
        const double at = static_cast<double>(reactor_.now() - begun_at_) / 1e9;
        result_.error_texts.push_back("after " + std::to_string(at) + " s: " + std::move(text));
    }
    stopping_ = stopping_ || result_.errors >= options_.errors_max;
}

void LoadRun::watch() {
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
    if (outstanding_ != 0 && phase_ != LoadPhase::leaving &&
        static_cast<double>(now - std::min(now, last_completion_)) / 1e9 > options_.stall_timeout_seconds) {
        error("no completion for " + std::to_string(options_.stall_timeout_seconds) + " s with " +
              std::to_string(outstanding_) + " commands outstanding");
        phase_ = LoadPhase::leaving;
        controller_.close(false);
        return;
    }
    // An idle load (stopped, or paced when its time ended) has no completion that would take it on.
    if (outstanding_ == 0 && phase_ != LoadPhase::connecting && phase_ != LoadPhase::leaving &&
        (stopping_ || now >= phase_ends_)) {
        pace_.stop();
        next_phase();
    }
    if (phase_ == LoadPhase::connecting && stopping_) {
        controller_.close(false);
    }
}

LoadResult LoadRun::take_result() {
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

namespace {

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
    const auto load = std::make_unique<LoadRun>(reactor, options, seed);
    if (auto started = load->start(); !started) {
        return started.error();
    }
    while (!load->finished()) {
        reactor.run_once(reactor.now() + base::second);
    }
    return load->take_result();
}

}  // namespace block::initiator
