#include "block/tcmu/device.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "base/check.h"
#include "block/tcmu/find_handler.h"

namespace block {

namespace tcmu {

namespace {

constexpr std::uint8_t deaths_max = 3;
constexpr base::Nanoseconds back_off_first = 10 * base::millisecond;
constexpr base::Nanoseconds back_off_longest = 5 * base::second;
constexpr base::Nanoseconds steady = 10 * base::second;               // after so long a death is a first one
constexpr base::Nanoseconds orderly_end_longest = 12 * base::second;  // the process itself stops at 10
constexpr std::uint64_t log_burst = 40;
constexpr std::uint64_t log_lines_per_second = 5;

}  // namespace

Tcmu::Tcmu(const Environment& environment, const DeviceSpec& spec, std::string program, std::string library)
    : Device(spec.name, spec.kind),
      environment_(environment),
      spec_(spec),
      program_(std::move(program)),
      library_(std::move(library)),
      restart_timer_(environment.reactor, *this),
      deadline_timer_(environment.reactor, *this) {
    description_.size_bytes = spec.known.size_bytes;
    description_.block_bytes = spec.known.size_bytes != 0 ? spec.known.block_bytes : spec.block_bytes;
    description_.read_only = spec.read_only;
    // Until the handler is heard: all that it may be able to do.
    description_.volatile_cache = true;
    description_.can_deallocate = true;
    description_.can_write_zeroes = true;  // by whatever means
}

Tcmu::~Tcmu() = default;

// --- The process
// --------------------------------------------------------------------------------------------------

base::Result<void> Tcmu::start() {
    auto started = start_process();
    if (!started.ok()) {
        return base::Error{started.error().code, describe_device(spec_) + started.error().message};
    }
    return {};
}

void Tcmu::start_again() {
    if (const auto started = start_process(); !started.ok()) {
        ended(started.error().message);
    }
}

base::Result<void> Tcmu::start_process() {
    auto channel = Channel::make();
    if (!channel.ok()) {
        return channel.error();
    }
    channel_ = channel.take();
    const std::vector<std::string> arguments = {"serve",
                                                spec_.tcmu.handler,
                                                library_,
                                                spec_.tcmu.configuration,
                                                std::to_string(spec_.block_bytes),
                                                std::to_string(spec_.size_bytes),
                                                spec_.name,
                                                std::to_string(getpid())};
    auto process = Process::start(environment_.reactor, program_, arguments, channel_->descriptor(), *this);
    if (!process.ok()) {
        return process.error();
    }
    process_ = process.take();
    ++starts_;
    state_ = State::opening;
    opening_deadline_ = environment_.reactor.now() + spec_.tcmu.timeout_ms * base::millisecond;
    check_deadlines();
    return {};
}

void Tcmu::noticed() {
    const State before = state_;
    if (state_ == State::opening) {
        look_at_stage();
    }
    Channel::Completion completion;
    Channel::Outcome outcome = Channel::Outcome::none;
    while (state_ == State::serving &&
           (outcome = channel_->take(completion)) == Channel::Outcome::completed) {
        answered(completion.slot, completion.status);
    }
    if (outcome == Channel::Outcome::violation) {
        lose("the handler's process broke the rules: " + channel_->why());
        return;
    }
    pump();
    if (state_ != before) {
        tell_changed();
    }
}

void Tcmu::look_at_stage() {
    std::string problem;
    switch (channel_->stage()) {
        case Stage::starting: return;
        case Stage::waiting_for_lock:
            reason_ = channel_->text();
            opening_deadline_ = reactor::no_deadline;
            return;
        case Stage::opening:
            reason_ = failure_;  // of the attempt before: this one may take long
            opening_deadline_ = environment_.reactor.now() + spec_.tcmu.timeout_ms * base::millisecond;
            return;
        case Stage::refused: lose(channel_->text()); return;
        case Stage::serving: break;
    }
    const auto facts = channel_->facts(problem);
    if (!facts) {
        lose("the handler says something impossible: " + problem);
    } else if (adopt(*facts)) {
        reason_.clear();
        failure_.clear();
        state_ = State::serving;
        served_ = true;
        serving_since_ = environment_.reactor.now();
    }
}

bool Tcmu::adopt(const Facts& facts) {
    const bool known = description_.size_bytes != 0;
    foreign_ = known &&
               (facts.size_bytes != description_.size_bytes || facts.block_bytes != description_.block_bytes);
    if (foreign_) {
        lose("the medium has " + std::to_string(facts.size_bytes) + " bytes in blocks of " +
             std::to_string(facts.block_bytes) + "; the device is known with " +
             std::to_string(description_.size_bytes) + " bytes in blocks of " +
             std::to_string(description_.block_bytes));
        return false;
    }
    facts_ = facts;
    Description description = description_;
    description.size_bytes = facts.size_bytes;
    description.block_bytes = facts.block_bytes;
    description.physical_block_bytes = std::max(facts.block_bytes, limits::page_bytes);
    description.volatile_cache = facts.can_flush != 0 && facts.write_cache != 0;
    description.can_deallocate = facts.can_unmap != 0;
    description.rotational = facts.rotational != 0;
    description.read_only = spec_.read_only || facts.read_only != 0;
    set_description(description);
    return true;
}

void Tcmu::lose(std::string reason) {
    if (state_ == State::ending) {
        return;
    }
    state_ = State::ending;
    lost_reason_ = std::move(reason);
    process_->kill();
}

void Tcmu::ended(const std::string& how) {
    if (lost_reason_.empty() && state_ == State::opening && channel_->stage() == Stage::refused) {
        lost_reason_ = channel_->text();  // its end was heard before its words
    }
    const std::string reason = lost_reason_.empty() ? "the handler's process " + how : lost_reason_;
    lost_reason_.clear();
    process_.reset();
    deadline_timer_.stop();
    const bool lasted = state_ == State::serving && environment_.reactor.now() - serving_since_ >= steady;
    state_ = State::waiting;
    failure_ = reason_ = reason;
    settle_in_flight();
    channel_.reset();
    if (closed_) {
        environment_.reactor.post(std::exchange(closed_, nullptr));
        return;
    }
    if (closing()) {
        fail_line(Status::gone);
        return;
    }
    log("error", reason);
    failed_ = true;
    if (fails_when_lost()) {
        fail_line(Status::internal_error);
    }
    back_off_ = lasted || back_off_ == 0 ? back_off_first : std::min(2 * back_off_, back_off_longest);
    restart_timer_.start_after(back_off_);
    tell_changed();
}

void Tcmu::check_deadlines() {
    const base::Nanoseconds now = environment_.reactor.now();
    const base::Nanoseconds timeout = spec_.tcmu.timeout_ms * base::millisecond;
    if (state_ == State::opening && now >= opening_deadline_) {
        lose("the handler did not open its medium within " + std::to_string(spec_.tcmu.timeout_ms) + " ms");
        return;
    }
    for (const Slot& slot : slots_) {
        if (state_ == State::serving && slot.in_use && now >= slot.deadline) {
            lose("the handler did not answer within " + std::to_string(spec_.tcmu.timeout_ms) + " ms");
            return;
        }
    }
    if (state_ == State::ending && now >= ending_deadline_) {
        process_->kill();
    }
    if (process_) {
        deadline_timer_.start_after(std::clamp(timeout / 8, base::millisecond, base::second));
    }
}

// The process is reaped: nothing reads or writes the area any more.
void Tcmu::settle_in_flight() {
    std::vector<Slot*> lost;
    for (Slot& slot : slots_) {
        if (slot.in_use && slot.transfer != nullptr) {
            lost.push_back(&slot);
        }
    }
    std::sort(lost.begin(), lost.end(), [](const Slot* a, const Slot* b) { return a->order > b->order; });
    std::vector<Transfer*> failing;
    for (const Slot* slot : lost) {  // the latest first, each to the head of the line
        Transfer& transfer = *slot->transfer;
        suspects_ += transfer.deaths == 0 ? 1 : 0;
        ++transfer.deaths;
        transfer.done_bytes = 0;  // what it had taken may have been in its memory only
        transfer.step = Step::data;
        if (closing() || fails_when_lost() || transfer.deaths >= deaths_max) {
            failing.push_back(&transfer);
        } else {
            enter_line(transfer, true);
        }
    }
    slots_.fill(Slot{});
    for (Transfer* transfer : failing) {
        finish(*transfer, closing() ? Status::gone : Status::internal_error);
    }
}

void Tcmu::fail_line(Status status) {
    while (first_ != nullptr) {
        Transfer& transfer = *first_;
        leave_line(transfer);
        finish(transfer, status);
    }
}

// Before the first process has opened its medium, or failed to, requests wait for it in any case.
bool Tcmu::fails_when_lost() const {
    return (served_ || failed_) && spec_.tcmu.when_lost == TcmuSpec::WhenLost::fail;
}

// --- The rest of the contract
// -------------------------------------------------------------------------------------

base::Result<std::uint64_t> Tcmu::resize(std::optional<std::uint64_t> bytes) {
    if (bytes && *bytes != description_.size_bytes) {
        return base::Error{"E_UNSUPPORTED", describe_device(spec_) +
                                                "the size is the medium's; change it there, with the "
                                                "tools of its format"};
    }
    return description_.size_bytes;
}

void Tcmu::closing_checked() {
    restart_timer_.stop();
    // What waits has had no effect yet. A long transfer between two pieces ends here, too.
    fail_line(Status::gone);
    if (state_ == State::opening && process_) {
        process_->end_in_order();
    }
}

void Tcmu::close_checked(std::function<void()> closed) {
    if (!process_) {
        environment_.reactor.post(std::move(closed));
        return;
    }
    closed_ = std::move(closed);
    if (state_ == State::opening) {
        lose("closed");  // nothing was begun
    } else if (state_ == State::serving) {
        // It flushes and closes its medium; if it takes too long it ends itself.
        state_ = State::ending;
        lost_reason_ = "closed";
        ending_deadline_ = environment_.reactor.now() + orderly_end_longest;
        process_->end_in_order();
    }
}

Device::Health Tcmu::health() const {
    if (state_ == State::serving || closing()) {
        return {};
    }
    const std::string& reason = lost_reason_.empty() ? reason_ : lost_reason_;
    if (foreign_) {
        return {"foreign", reason};
    }
    if (state_ == State::opening && channel_->stage() == Stage::waiting_for_lock) {
        return {"waiting for lock", reason_};
    }
    if (starts_ > 1 || state_ != State::opening) {
        return {served_ ? "restarting" : "failed", reason};
    }
    return {"starting", "the handler \"" + spec_.tcmu.handler + "\" opens " + spec_.tcmu.configuration};
}

void Tcmu::tell(Details& details) const {
    details.emplace_back("handler", spec_.tcmu.handler);
    details.emplace_back("library", library_);
    details.emplace_back("configuration", spec_.tcmu.configuration);
    details.emplace_back("process", process_ ? static_cast<std::uint64_t>(process_->pid()) : 0);
    details.emplace_back("starts", starts_);
    details.emplace_back("in_flight", std::uint64_t{channel_ ? channel_->in_flight() : 0});
}

// --- Log
// ---------------------------------------------------------------------------------------------------------

// A handler that says something with every request must not fill the server's log.
void Tcmu::said(char level, const std::string& line) {
    const base::Nanoseconds now = environment_.reactor.now();
    const std::uint64_t earned = (now - log_refilled_) / (base::second / log_lines_per_second);
    if (earned > 0) {
        log_tokens_ = std::min(log_burst, log_tokens_ + earned);
        log_refilled_ = now;
    }
    if (log_tokens_ == 0) {
        ++log_lines_left_out_;
        return;
    }
    --log_tokens_;
    if (const std::uint64_t left_out = std::exchange(log_lines_left_out_, 0); left_out > 0) {
        log("warn", std::to_string(left_out) + " lines of the handler were left out");
    }
    log(level <= '3' ? "error" : level == '4' ? "warn" : level <= '6' ? "info" : "debug", line);
}

void Tcmu::log(const char* level, const std::string& message) {
    if (environment_.log) {
        environment_.log(level, "tcmu", "device \"" + name() + "\": " + message);
    }
}

}  // namespace tcmu

MadeDevice make_tcmu(Environment& environment, const DeviceSpec& spec) {
    if (spec.tcmu.handler.empty() || spec.tcmu.handler.find('/') != std::string::npos) {
        return base::Error{"E_INVALID", describe_device(spec) + "\"" + spec.tcmu.handler +
                                            "\" is not the name of a handler"};
    }
    if (spec.tcmu.timeout_ms == 0) {
        return base::Error{"E_INVALID", describe_device(spec) + "a timeout of 0 ms leaves no time to answer"};
    }
    if (spec.known.size_bytes != 0 && spec.known.block_bytes != 512 && spec.known.block_bytes != 4096) {
        return base::Error{"E_INVALID", describe_device(spec) + "a known block has 512 or 4096 bytes, not " +
                                            std::to_string(spec.known.block_bytes)};
    }
    if (spec.size_bytes != 0) {
        if (const auto size = check_size(spec, spec.size_bytes); !size.ok()) {
            return size.error();
        }
    }
    std::string program =
        environment.tcmu_program.empty() ? tcmu::default_program() : environment.tcmu_program;
    auto library = tcmu::find_handler(spec, program);
    if (!library.ok()) {
        return library.error();
    }
    auto device = std::make_unique<tcmu::Tcmu>(environment, spec, std::move(program), library.take());
    if (const auto started = device->start(); !started.ok()) {
        return started.error();
    }
    return std::unique_ptr<Device>(std::move(device));
}

}  // namespace block
