// The life of servers: starting, deaths, planned restarts, the end of the service.

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "keeper/keeper.h"
#include "keeper/proc.h"
#include "keeper/watched.h"

namespace keeper {

namespace {

constexpr std::uint64_t standby_memory_min = 1ull << 30;
constexpr base::Nanoseconds memory_check_interval = 60 * base::second;
constexpr base::Nanoseconds fork_retry = base::second;
constexpr base::Nanoseconds ended_check_first = base::second;

// Exit codes after which starting again cannot help: wrong usage or configuration (2), a port or state
// directory that belongs to somebody else (4), and what a shell answers if a command cannot be run.
constexpr int hopeless_codes[] = {2, 4, 126, 127};

double to_milliseconds(base::Nanoseconds time) {
    return static_cast<double>(time) / static_cast<double>(base::millisecond);
}

}  // namespace

bool Keeper::start_child(Role role) {
    Child::Setup setup;
    setup.command = options_.command;
    setup.role = role;
    setup.generation = store_.ledger().next_generation++;
    setup.in_background = role == Role::standby && can_restore_priority_;
    setup.oom_score_adj = parent_oom_score_;
    auto child = Child::start(setup);
    if (!child) {
        log_.write(Level::error, "cannot start a server: %s", std::strerror(errno));
        return false;
    }
    child->watched = EPOLLIN;
    if (!watch(child->process(), EPOLLIN, watched(Watched::process, setup.generation)) ||
        !watch(child->channel(), EPOLLIN, watched(Watched::channel, setup.generation))) {
        log_.write(Level::error, "cannot watch a server: %s", std::strerror(errno));
        child->end_unwatched();
        return false;
    }
    log_.write(Level::info, "%s server started: pid %d", role == Role::active ? "active" : "standby",
               child->pid());
    child->send(durable::KeeperMessage("ROLE")
                    .add("role", role == Role::active ? "active" : "standby")
                    .add("generation", setup.generation));
    Child& started = *child;
    (role == Role::active ? active_ : standby_) = std::move(child);
    if (role == Role::standby) {
        feed(started);
    }
    return true;
}

void Keeper::begin(const std::string& reason) {
    next_reason_ = reason;
    start_at_ = never;
    if (start_child(Role::active)) {
        activate();
    } else {
        start_at_ = base::monotonic_now() + fork_retry;
    }
}

// The active server may use everything from here on.
void Keeper::activate() {
    ended_check_at_ = never;
    Child& child = *active_;
    Ledger& ledger = store_.ledger();
    ledger.server_start_ticks = process_start_ticks(child.pid());
    ledger.server_pid = static_cast<std::uint64_t>(child.pid());
    durable::KeeperMessage go("GO");
    go.add("reason", next_reason_);
    if (previous_pid_ != 0) {
        go.add("exit", last_death_.text())
            .add("died_ns", last_death_.at)
            .add("killed", previous_killed_ ? 1 : 0)
            .add("previous_pid", static_cast<std::uint64_t>(previous_pid_));
    }
    go.add("restarts", ledger.restarts).add("started_ns", child.started_at);
    child.go_sent = true;
    child.send(std::move(go));
    feed(child);
    child.raise_priority(Priority::full);  // after the hand-over: it takes system calls per thread
}

void Keeper::process_ended(std::unique_ptr<Child>& slot) {
    Death death;
    if (!slot->reap(death)) {
        // The descriptor stays readable meanwhile.
        if (!std::exchange(slot->reap_later, true)) {
            epoll_ctl(epoll_, EPOLL_CTL_DEL, slot->process(), nullptr);
            slot->ending_at = slot->ending_at == 0 ? base::monotonic_now() : slot->ending_at;
        }
        return;
    }
    std::unique_ptr<Child> child = std::move(slot);
    child->dead = true;
    drain(*child);
    epoll_ctl(epoll_, EPOLL_CTL_DEL, child->process(), nullptr);
    epoll_ctl(epoll_, EPOLL_CTL_DEL, child->channel(), nullptr);
    child->close_channel();
    if (child->go_sent) {
        active_ended(std::move(child), death);
    } else {
        standby_ended(std::move(child), death);
    }
}

void Keeper::active_ended(std::unique_ptr<Child> child, const Death& death) {
    Ledger& ledger = store_.ledger();
    ledger.server_pid = 0;
    if (stopping_) {
        log_.write(Level::info, "server %d has ended (%s)", child->pid(), death.text().c_str());
        finish_stop();
        return;
    }
    const bool exited = !death.by_signal;
    if (child->stopping && exited && death.code == 0) {
        log_.write(Level::notice, "server %d has stopped in order: the service ends", child->pid());
        finish(0);
        return;
    }
    if (exited && death.code != 0 && static_cast<std::uint32_t>(death.code) == options_.final_code) {
        log_.write(Level::error, "server %d has ended for good (%s): the service ends", child->pid(),
                   death.text().c_str());
        finish(death.code);
        return;
    }
    const bool hopeless = std::count(std::begin(hopeless_codes), std::end(hopeless_codes), death.code) != 0;
    if (!was_ready_ && store_.restored() == 0 && exited && hopeless) {
        log_.write(Level::error, "the server cannot be started (%s)", death.text().c_str());
        finish(death.code);
        return;
    }
    const bool planned = child->killed == KillReason::upgrade || upgrade_ == Upgrade::quiescing;
    next_reason_ = planned ? "upgrade" : child->killed == KillReason::watchdog ? "watchdog" : "crash";
    previous_pid_ = child->pid();
    previous_killed_ = child->killed != KillReason::none;
    last_death_ = death;
    upgrade_ = Upgrade::none;
    upgrade_by_ = never;
    standby_at_ = never;
    ++ledger.restarts;
    note_reason(planned ? "upgrade (" + upgrade_reason_ + ")" : next_reason_ + " (" + death.text() + ")");
    const base::Nanoseconds served = child->ready_at == 0 ? 0 : death.at - child->ready_at;
    const base::Nanoseconds delay = planned ? 0 : active_policy_.died(served);
    const bool has_standby = standby_ && standby_->ending_at == 0;
    if (has_standby) {
        active_ = std::move(standby_);
        activate();
    } else if (delay == 0) {
        begin(next_reason_);
    } else {
        start_at_ = base::monotonic_now() + delay;
        ended_check_at_ = base::monotonic_now() + ended_check_first;
    }
    log_.write(planned ? Level::notice : Level::warning,
               "server %d has ended (%s, %s) with %u connections: %s", previous_pid_, next_reason_.c_str(),
               death.text().c_str(), store_.count(Kind::connection),
               has_standby  ? "the standby goes on"
               : delay == 0 ? "a new one is started"
                            : "the next one is started a little later");
    if (planned && child->rested_at != 0) {
        log_.write(Level::info,
                   "server %d was asked to rest, rested %.1f ms later, and had ended after %.1f more",
                   previous_pid_, to_milliseconds(child->rested_at - child->quiesced_at),
                   to_milliseconds(death.at - child->rested_at));
    }
    report_status();
}

void Keeper::standby_ended(std::unique_ptr<Child> child, const Death& death) {
    if (stopping_) {
        finish_stop();
        return;
    }
    if (upgrade_ == Upgrade::clearing) {
        start_candidate();
        return;
    }
    log_.write(Level::warning, "standby server %d has ended (%s)", child->pid(), death.text().c_str());
    if (upgrade_ != Upgrade::none) {
        fail_upgrade("the new server ended before it was warm (" + death.text() + ")");
    }
    const base::Nanoseconds delay = standby_policy_.died(child->warm ? death.at - child->started_at : 0);
    schedule_standby(death.at + std::max(delay, options_.standby_delay));
}

void Keeper::schedule_standby(base::Nanoseconds at) {
    if (options_.standby != Standby::off && !stopping_) {
        standby_at_ = at;
    }
}

void Keeper::start_standby() {
    // Otherwise the active server's READY, or the end of the restart, asks again.
    if (stopping_ || standby_ || upgrade_ != Upgrade::none || !active_ || active_->ready_at == 0) {
        return;
    }
    const base::Nanoseconds now = base::monotonic_now();
    if (options_.standby == Standby::automatic && memory_available_bytes() < standby_memory_min) {
        schedule_standby(now + memory_check_interval);
    } else if (!start_child(Role::standby)) {
        schedule_standby(now + memory_check_interval);
    }
}

// Null if it was begun, else why not.
const char* Keeper::begin_upgrade(const std::string& reason) {
    const char* problem = stopping_                   ? "the service is stopping"
                          : upgrade_ != Upgrade::none ? "a planned restart is under way"
                          : !active_                  ? "there is no server to replace"
                          : active_->ending_at != 0   ? "the server is being replaced"
                                                      : nullptr;
    if (problem != nullptr) {
        log_.write(Level::warning, "a planned restart (%s) is not begun: %s", reason.c_str(), problem);
        return problem;
    }
    log_.write(Level::notice, "planned restart: %s", reason.c_str());
    const base::Nanoseconds now = base::monotonic_now();
    upgrade_reason_ = reason;
    standby_at_ = never;
    upgrade_by_ = now + options_.warm_max;
    if (standby_) {
        upgrade_ = Upgrade::clearing;
        standby_->kill(KillReason::failed, now);  // it runs what was installed when it started
    } else {
        start_candidate();
    }
    return nullptr;
}

// A newer version was installed, and it lays out its memory differently. Should the active server die now,
// its connections would be lost with it, so it is replaced while it can still describe them.
void Keeper::upgrade_to_standby() {
    if (stopping_ || upgrade_ != Upgrade::none || !active_ || active_->ending_at != 0) {
        return;
    }
    upgrade_reason_ = "another version is installed";
    log_.write(Level::notice, "planned restart: %s, which cannot take over from a server that died",
               upgrade_reason_.c_str());
    standby_at_ = never;
    quiesce_active();
}

void Keeper::start_candidate() {
    upgrade_ = Upgrade::warming;
    if (!start_child(Role::standby)) {
        fail_upgrade("no process could be started");
    }
}

void Keeper::quiesce_active() {
    const base::Nanoseconds now = base::monotonic_now();
    upgrade_ = Upgrade::quiescing;
    if (!active_->hello || active_->channel_lost_at != 0) {
        upgrade_by_ = never;
        active_->kill(KillReason::upgrade, now);
        return;
    }
    upgrade_by_ = now + options_.quiesce_max;
    active_->quiesced_at = now;
    // What a version with the same layout finds in the arena need not be described; hosts wait meanwhile.
    active_->send(durable::KeeperMessage("QUIESCE")
                      .add("deadline_ms", options_.quiesce_max / base::millisecond)
                      .add("describe", !standby_ || standby_->other_layout ? 1 : 0));
    feed(*active_);
}

void Keeper::fail_upgrade(const std::string& reason) {
    upgrade_ = Upgrade::none;
    upgrade_by_ = never;
    log_.write(Level::error, "planned restart failed: %s; the old server goes on", reason.c_str());
    if (active_) {
        active_->send(durable::KeeperMessage("RESTART-FAILED").add("reason", reason));
        feed(*active_);
    }
    if (!standby_) {
        schedule_standby(base::monotonic_now() + options_.standby_delay);
    }
}

void Keeper::stop_service(int signal_number) {
    const base::Nanoseconds now = base::monotonic_now();
    const bool again = std::exchange(stopping_, true);
    start_at_ = standby_at_ = upgrade_by_ = ended_check_at_ = never;
    upgrade_ = Upgrade::none;
    tell_systemd("STOPPING=1");
    if (standby_) {
        standby_->kill(KillReason::stop, now);
    }
    if (active_ && (again || !active_->hello || active_->channel_lost_at != 0)) {
        active_->kill(KillReason::stop, now);
    } else if (active_ && systemd_.present()) {
        // Systemd keeps everything for the next keeper if this is a restart, and closes it if it is the end;
        // which of them it is, it does not say.
        keep_on_stop_ = true;
        stop_by_ = now + options_.quiesce_max;
        active_->send(
            durable::KeeperMessage("QUIESCE").add("deadline_ms", options_.quiesce_max / base::millisecond));
        feed(*active_);
    } else if (active_) {
        stop_by_ = now + options_.stop_max;
        active_->signal(signal_number);
    }
    finish_stop();
}

void Keeper::finish_stop() {
    if (!active_ && !standby_) {
        ended_ = true;
    }
}

void Keeper::finish(int code) {
    exit_code_ = code;
    stopping_ = true;
    start_at_ = standby_at_ = upgrade_by_ = never;
    tell_systemd("STOPPING=1");
    if (standby_) {
        standby_->kill(KillReason::stop, base::monotonic_now());
    }
    finish_stop();
}

void Keeper::note_reason(const std::string& reason) {
    Ledger& ledger = store_.ledger();
    const std::size_t bytes = std::min(reason.size(), sizeof ledger.last_reason - 1);
    std::memcpy(ledger.last_reason, reason.data(), bytes);
    ledger.last_reason[bytes] = '\0';
}

void Keeper::report_status() {
    std::string text = status_text_;
    if (active_ && active_->reap_warned) {
        text = "server " + std::to_string(active_->pid()) + " was killed and does not end";
    } else if (!active_) {
        text = "no server; the next one is started soon";
    }
    const std::uint64_t restarts = store_.ledger().restarts;
    if (restarts != 0) {
        text += (text.empty() ? "" : "; ") + std::to_string(restarts) + " restarts, last: ";
        text += store_.ledger().last_reason;
    }
    for (char& c : text) {
        c = c == '\n' ? ' ' : c;
    }
    tell_systemd("STATUS=" + text);
}

}  // namespace keeper
