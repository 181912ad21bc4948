#include "keeper/keeper.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "keeper/proc.h"
#include "keeper/watched.h"

namespace keeper {

namespace {

constexpr int handled_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR2};
constexpr base::Nanoseconds ended_check_interval = base::second;
constexpr base::Nanoseconds channel_grace = 2 * base::second;  // a dying server closes its channel first
// On a busy machine what is idle would never get warm, and a lock of the kernel that it holds would not come
// free.
constexpr base::Nanoseconds idle_max = base::second;
constexpr base::Nanoseconds lateness_max = base::second;  // more: the keeper itself was not running
constexpr base::Nanoseconds reap_interval = 10 * base::millisecond;
constexpr char keeper_oom_score[] = "-900";

void raise_descriptor_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

bool may_lower_nice() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    return syscall(SYS_capget, &header, data) == 0 && (data[0].effective & (1u << CAP_SYS_NICE)) != 0;
}

int to_timeout(base::Nanoseconds now, base::Nanoseconds deadline) {
    if (deadline <= now) {
        return 0;
    }
    const base::Nanoseconds milliseconds = (deadline - now + base::millisecond - 1) / base::millisecond;
    return static_cast<int>(std::min<base::Nanoseconds>(milliseconds, 60'000));
}

}  // namespace

Keeper::Keeper(const Options& options, Log& log)
    : options_(options), log_(log), active_policy_(options.short_life), standby_policy_(options.short_life) {}

Keeper::~Keeper() {
    if (epoll_ >= 0) {
        close(epoll_);
    }
    if (signals_ >= 0) {
        close(signals_);
    }
}

bool Keeper::watch(int descriptor, std::uint32_t events, std::uint64_t what) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = what;
    return epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

bool Keeper::set_up() {
    raise_descriptor_limit();
    can_restore_priority_ = may_lower_nice();
    parent_oom_score_ = read_small_file("/proc/self/oom_score_adj");
    write_small_file("/proc/self/oom_score_adj", keeper_oom_score);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);  // ignored, children would vanish without a status
    sigset_t signals;
    sigemptyset(&signals);
    for (const int number : handled_signals) {
        sigaddset(&signals, number);
    }
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    signals_ = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (epoll_ < 0 || signals_ < 0 || !watch(signals_, EPOLLIN, watched(Watched::signals))) {
        log_.write(Level::error, "cannot start: %s", std::strerror(errno));
        return false;
    }
    restore_from_systemd();
    return store_.ledger_descriptor() >= 0;
}

void Keeper::restore_from_systemd() {
    for (auto& [descriptor, name] : systemd_.take_descriptors()) {
        if (!store_.restore(name, descriptor)) {
            log_.write(Level::warning, "descriptor \"%s\" from systemd is not one of ours: closed",
                       name.c_str());
            close(descriptor);
        }
    }
    systemd_forget_ = store_.finish_restore();
    ledger_in_systemd_ = store_.ledger_descriptor() >= 0;
    if (!store_.open_ledger()) {
        log_.write(Level::error, "cannot start: no memory file: %s", std::strerror(errno));
        return;
    }
    Ledger& ledger = store_.ledger();
    ++ledger.keeper_starts;
    for (auto& [id, item] : store_.items()) {
        systemd_name_bytes_ += Store::systemd_name(id, item).size() + 1;
        if (item.kind == Kind::listener && !watch_listener(id, item)) {
            log_.write(Level::error, "cannot watch listener %s: %s", item.name.c_str(), std::strerror(errno));
        }
    }
    if (store_.restored() > 0) {
        log_.write(Level::notice, "took over %u memory files, %u listeners, %u connections from systemd",
                   store_.count(Kind::memory), store_.count(Kind::listener), store_.count(Kind::connection));
        next_reason_ = "keeper";
        if (ledger.server_pid != 0) {
            end_predecessor(static_cast<pid_t>(ledger.server_pid), ledger.server_start_ticks);
        }
    }
    ledger.server_pid = 0;
}

// A server of the keeper before this one: it dies with its keeper, but only when it is dead may another use
// the connections.
void Keeper::end_predecessor(pid_t pid, std::uint64_t start_ticks) {
    const int process = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (process < 0) {
        return;
    }
    if (process_start_ticks(pid) == start_ticks) {
        syscall(SYS_pidfd_send_signal, process, SIGKILL, nullptr, 0);
        pollfd state{process, POLLIN, 0};
        while (poll(&state, 1, to_timeout(0, options_.reap_warning)) <= 0) {
            log_.write(
                Level::error,
                "server %d of the previous keeper cannot be killed; no other is started before its end", pid);
            systemd_.notify("STATUS=waiting for the end of server " + std::to_string(pid));
        }
    }
    close(process);
}

int Keeper::run() {
    if (!set_up()) {
        return 1;
    }
    if (systemd_.watchdog_interval() != 0) {
        systemd_watchdog_at_ = base::monotonic_now();
    }
    push_to_systemd();
    begin(next_reason_);
    epoll_event events[64];
    while (!ended_) {
        base::Nanoseconds now = base::monotonic_now();
        const base::Nanoseconds deadline = next_deadline();
        const int count = epoll_wait(epoll_, events, 64, to_timeout(now, deadline));
        if (count < 0 && errno != EINTR) {
            log_.write(Level::error, "epoll: %s", std::strerror(errno));
            return 1;
        }
        const base::Nanoseconds expected = deadline == never ? never : std::max(now, deadline);
        now = base::monotonic_now();
        if (now > expected && now - expected > lateness_max) {
            // A stopped machine or keeper: silence meanwhile says nothing about the servers.
            for (Child* child : {active_.get(), standby_.get()}) {
                for (std::size_t i = 0; child != nullptr && i < child->sources.size(); ++i) {
                    child->sources[i].last = now;
                }
            }
        }
        for (int i = 0; i < count && !ended_; ++i) {
            handle(events[i].data.u64, events[i].events);
        }
        if (!ended_) {
            run_deadlines(now);
        }
    }
    push_to_systemd();
    return exit_code_;
}

Child* Keeper::child_of(std::uint64_t generation) {
    for (Child* child : {active_.get(), standby_.get()}) {
        if (child != nullptr && child->generation() == generation) {
            return child;
        }
    }
    return nullptr;
}

void Keeper::handle(std::uint64_t what, std::uint32_t events) {
    const std::uint64_t id = watched_id(what);
    switch (watched_kind(what)) {
        case Watched::signals: handle_signal(); break;
        case Watched::process:
            if (active_ && active_->generation() == id) {
                process_ended(active_);
            } else if (standby_ && standby_->generation() == id) {
                process_ended(standby_);
            }
            break;
        case Watched::channel:
            if (Child* child = child_of(id)) {
                channel_ready(*child, events);
            }
            break;
        case Watched::listener: accept_some(id); break;
    }
}

void Keeper::handle_signal() {
    signalfd_siginfo info{};
    while (read(signals_, &info, sizeof info) == sizeof info) {
        const int number = static_cast<int>(info.ssi_signo);
        if (number == SIGHUP) {
            if (active_ && active_->ready_at != 0) {
                active_->signal(SIGHUP);
            } else {
                hangup_pending_ = true;
            }
        } else if (number == SIGUSR2) {
            begin_upgrade("signal USR2");
        } else {
            stop_service(number);
        }
    }
}

base::Nanoseconds Keeper::next_deadline() const {
    base::Nanoseconds first =
        std::min({start_at_, standby_at_, upgrade_by_, stop_by_, resume_accept_at_, ended_check_at_,
                  systemd_retry_at_, systemd_watchdog_at_, feed_retry_at_});
    for (const Child* child : {active_.get(), standby_.get()}) {
        if (child == nullptr) {
            continue;
        }
        if (child->reap_later) {
            first = std::min(first, base::monotonic_now() + reap_interval);
        }
        if (child->ending_at != 0) {
            first = child->reap_warned ? first : std::min(first, child->ending_at + options_.reap_warning);
            continue;
        }
        if (child->priority == Priority::idle) {
            first = std::min(first, child->started_at + idle_max);
        }
        if (!child->hello && options_.start_max != 0) {
            first = std::min(first, child->started_at + options_.start_max);
        }
        if (child->channel_lost_at != 0) {
            first = std::min(first, child->channel_lost_at + channel_grace);
        }
        const base::Nanoseconds limits[] = {options_.reactor_silence_max, options_.main_silence_max};
        for (std::size_t i = 0; i < child->sources.size(); ++i) {
            if (child->sources[i].armed && limits[i] != 0) {
                first = std::min(first, child->sources[i].last + limits[i]);
            }
        }
    }
    return first;
}

void Keeper::run_deadlines(base::Nanoseconds now) {
    const auto due = [now](base::Nanoseconds& at) {
        if (at > now) {
            return false;
        }
        at = never;
        return true;
    };
    for (Child* child : {active_.get(), standby_.get()}) {
        if (child != nullptr) {
            watch_silence(*child, now);
            watch_priority(*child, now);
        }
    }
    for (std::unique_ptr<Child>* slot : {&active_, &standby_}) {
        if (*slot && (*slot)->reap_later) {
            process_ended(*slot);
        }
    }
    if (due(stop_by_)) {
        for (Child* child : {active_.get(), standby_.get()}) {
            if (child != nullptr) {
                child->kill(KillReason::stop, now);
            }
        }
    }
    if (due(upgrade_by_)) {
        if (upgrade_ == Upgrade::quiescing && standby_ && standby_->other_layout) {
            standby_->kill(KillReason::failed, now);
            fail_upgrade("the old server did not come to rest, and the new one cannot go on without");
        } else if (upgrade_ == Upgrade::quiescing && active_) {
            log_.write(Level::warning, "server %d did not come to rest; it is replaced as it is",
                       active_->pid());
            active_->kill(KillReason::upgrade, now);
        } else if (upgrade_ != Upgrade::none) {
            if (standby_) {
                standby_->kill(KillReason::failed, now);
            }
            fail_upgrade("the new server was not warm in time");
        }
    }
    if (due(start_at_) && !active_) {
        begin(next_reason_);
    }
    if (due(standby_at_)) {
        start_standby();
    }
    if (due(resume_accept_at_)) {
        resume_listeners();
    }
    if (due(ended_check_at_) && !active_) {
        drop_ended_connections();
        ended_check_at_ = now + ended_check_interval;
    }
    if (due(feed_retry_at_)) {
        for (Child* child : {active_.get(), standby_.get()}) {
            if (child != nullptr) {
                feed(*child);
            }
        }
    }
    if (due(systemd_watchdog_at_)) {
        tell_systemd("WATCHDOG=1");
        systemd_watchdog_at_ = now + systemd_.watchdog_interval();
    }
    if (due(systemd_retry_at_)) {
        push_to_systemd();
    }
}

// Somebody waits for the end of a planned restart; nobody for a standby.
void Keeper::watch_priority(Child& child, base::Nanoseconds now) {
    if (child.priority == Priority::idle && now >= child.started_at + idle_max) {
        child.raise_priority(upgrade_ == Upgrade::warming ? Priority::full : Priority::nice);
    }
}

void Keeper::watch_silence(Child& child, base::Nanoseconds now) {
    if (child.ending_at != 0) {
        if (!child.reap_warned && now >= child.ending_at + options_.reap_warning) {
            child.reap_warned = true;
            log_.write(Level::error,
                       "server %d was killed and has not ended; everything is kept and no other server is "
                       "started before its end (is a debugger attached?)",
                       child.pid());
            report_status();
        }
        return;
    }
    std::string why;
    if (!child.hello && options_.start_max != 0 && now >= child.started_at + options_.start_max) {
        why = "it has not begun";
    }
    if (child.channel_lost_at != 0 && now >= child.channel_lost_at + channel_grace) {
        why = "it closed its channel to the keeper";
    }
    const base::Nanoseconds limits[] = {options_.reactor_silence_max, options_.main_silence_max};
    const char* const names[] = {"reactor", "main thread"};
    for (std::size_t i = 0; i < child.sources.size(); ++i) {
        const auto silent = [&] {
            return child.sources[i].armed && limits[i] != 0 && now >= child.sources[i].last + limits[i];
        };
        if (!silent()) {
            continue;
        }
        drain(child);  // what it said may wait here
        if (silent()) {
            why = std::string("nothing from its ") + names[i] + " for " +
                  std::to_string((now - child.sources[i].last) / base::millisecond) + " ms";
        }
    }
    if (!why.empty()) {
        log_.write(Level::error, "server %d hangs (%s): it is killed", child.pid(), why.c_str());
        child.kill(KillReason::watchdog, now);
    }
}

}  // namespace keeper
