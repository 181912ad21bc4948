// What a server says and is told. Nothing that it says may harm the keeper.

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "keeper/keeper.h"
#include "keeper/watched.h"

namespace keeper {

namespace {

using durable::KeeperMessage;
using durable::KeeperReceive;
using durable::KeeperSend;

constexpr std::uint32_t messages_per_turn = 64;
constexpr std::uint32_t messages_per_drain = 8192;  // more than a channel can hold
constexpr std::uint32_t memory_files_max = 8192;
constexpr std::uint32_t listeners_max = 256;
constexpr std::uint64_t malformed_reported = 5;  // per server; more would only fill the log
constexpr std::uint64_t refused_reported = 50;
constexpr base::Nanoseconds feed_retry = 2 * base::millisecond;

bool is_memory(int descriptor) {
    struct stat file {};
    return fstat(descriptor, &file) == 0 && S_ISREG(file.st_mode);
}

bool is_listener(int descriptor) {
    int listening = 0;
    socklen_t length = sizeof listening;
    return getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0 && listening != 0;
}

// The same open socket or file, whatever its number.
bool is_same(int left, int right) {
    struct stat a {};
    struct stat b {};
    return fstat(left, &a) == 0 && fstat(right, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

KeeperMessage described(const char* verb, const KeeperMessage& about) {
    return KeeperMessage(verb).add("kind", about.value("kind")).add("name", about.value("name"));
}

}  // namespace

void Keeper::channel_ready(Child& child, std::uint32_t events) {
    if (child.channel() < 0 || child.channel_lost_at != 0) {
        return;
    }
    if ((events & EPOLLOUT) != 0) {
        feed(child);
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) {
        receive(child, messages_per_turn);
    }
    update_watch(child);
}

void Keeper::receive(Child& child, std::uint32_t messages_max) {
    for (std::uint32_t i = 0; i < messages_max && (child.dead || !child.outbox_full()); ++i) {
        KeeperReceive received = durable::receive_keeper_message(child.channel());
        switch (received.outcome) {
            case KeeperReceive::Outcome::nothing: return;
            case KeeperReceive::Outcome::closed:
                // It is about to die, or it is mad: then the watchdog ends it.
                if (child.channel_lost_at == 0) {
                    child.channel_lost_at = base::monotonic_now();
                    epoll_ctl(epoll_, EPOLL_CTL_DEL, child.channel(), nullptr);
                }
                return;
            case KeeperReceive::Outcome::malformed:
                if (++child.malformed <= malformed_reported) {
                    log_.write(Level::warning, "server %d sent something that is no message: ignored",
                               child.pid());
                }
                break;
            case KeeperReceive::Outcome::message:
                message(child, *received.message, received.descriptor);
                break;
        }
    }
}

void Keeper::drain(Child& child) {
    if (child.channel() >= 0 && (child.dead || child.channel_lost_at == 0)) {
        receive(child, messages_per_drain);
    }
}

void Keeper::message(Child& child, const KeeperMessage& message, int descriptor) {
    const std::string_view verb = message.verb();
    const bool alive = !child.dead;
    if (verb == "STORE") {
        on_store(child, message, descriptor);
        return;
    }
    if (descriptor >= 0) {
        close(descriptor);
    }
    if (verb == "FORGET") {
        on_forget(child, message);
    } else if (verb == "STOPPING") {
        child.stopping = child.go_sent;
    } else if (verb == "READY" && alive) {
        on_ready(child);
    } else if (verb == "HELLO" && alive) {
        child.hello = true;
    } else if (verb == "STANDBY" && alive) {
        on_standby(child, message);
    } else if (verb == "ALIVE" && alive) {
        on_alive(child, message);
    } else if (verb == "INFO" && alive) {
        on_info(child);
    } else if (verb == "STATUS" && alive && child.go_sent) {
        status_text_ = message.value("text");
        report_status();
    } else if (verb == "RESTART" && alive && child.go_sent) {
        if (const char* problem = begin_upgrade(message.value("reason"))) {
            child.send(KeeperMessage("REFUSED").add("verb", "RESTART").add("reason", problem));
        }
    } else if (verb == "QUIESCED" && alive && child.go_sent) {
        if (stopping_ && keep_on_stop_) {
            child.kill(KillReason::stop, base::monotonic_now());
        } else if (upgrade_ == Upgrade::quiescing) {
            upgrade_by_ = never;
            child.rested_at = base::monotonic_now();
            child.kill(KillReason::upgrade, child.rested_at);
        }
    }
}

void Keeper::refuse(Child& child, const KeeperMessage& about, const char* reason) {
    if (++child.refused <= refused_reported) {
        log_.write(Level::warning, "server %d: %s %s %s refused: %s", child.pid(),
                   std::string(about.verb()).c_str(), about.value("kind").c_str(),
                   about.value("name").c_str(), reason);
    }
    if (!child.dead) {
        child.send(described("REFUSED", about).add("verb", about.verb()).add("reason", reason));
    }
}

void Keeper::on_store(Child& child, const KeeperMessage& message, int descriptor) {
    Item item;
    const std::string kind = message.value("kind");
    item.kind = kind == "listener" ? Kind::listener : Kind::memory;
    item.descriptor = descriptor;
    item.name = message.value("name");
    item.origin = child.generation();
    const std::uint64_t older = durable::keeper_name_valid(item.name) ? store_.find(item.kind, item.name) : 0;
    const std::uint32_t count_max = item.kind == Kind::listener ? listeners_max : memory_files_max;
    const char* problem = nullptr;
    if (!child.go_sent) {
        problem = "a standby stores nothing";
    } else if (kind != "memory" && kind != "listener") {
        problem = "kind is neither memory nor listener";
    } else if (!durable::keeper_name_valid(item.name)) {
        problem = "the name is empty or too long";
    } else if (descriptor < 0) {
        problem = "no descriptor came with it";
    } else if (item.kind == Kind::memory ? !is_memory(descriptor) : !is_listener(descriptor)) {
        problem = "the descriptor is of another kind";
    } else if (older != 0 && message.number("replace").value_or(0) == 0) {
        problem = "exists";
    } else if (older == 0 && store_.count(item.kind) >= count_max) {
        problem = "too many are stored";
    }
    if (older != 0 && child.go_sent && descriptor >= 0 && is_same(store_.at(older)->descriptor, descriptor)) {
        close(descriptor);  // a successor stores what it was given
        return;
    }
    if (problem != nullptr) {
        if (descriptor >= 0) {
            close(descriptor);
        }
        refuse(child, message, problem);
        return;
    }
    const Kind stored = item.kind;
    const std::uint64_t id = store_.add(std::move(item));
    if (stored == Kind::listener && !watch_listener(id, *store_.at(id))) {
        store_.remove(id);
        refuse(child, message, std::strerror(errno));
        return;
    }
    systemd_store_.insert(id);
    if (older != 0) {
        remove_item(older);
    }
    push_to_systemd();
    if (standby_) {
        feed(*standby_);
    }
}

void Keeper::on_forget(Child& child, const KeeperMessage& message) {
    if (!child.go_sent) {
        refuse(child, message, "a standby forgets nothing");
        return;
    }
    const std::string kind = message.value("kind");
    if (kind == "connection") {
        const std::uint64_t id = message.number("id").value_or(0);
        const Item* item = store_.at(id);
        if (item != nullptr && item->kind == Kind::connection) {
            remove_item(id);
            push_to_systemd();
        }
        return;
    }
    const std::uint64_t id = kind == "memory"     ? store_.find(Kind::memory, message.value("name"))
                             : kind == "listener" ? store_.find(Kind::listener, message.value("name"))
                                                  : 0;
    if (id == 0) {
        refuse(child, message, "not stored");
        return;
    }
    remove_item(id);
    push_to_systemd();
    if (!child.dead) {
        child.send(described("FORGOTTEN", message));
    }
    if (standby_ && kind == "memory") {
        standby_->send(described("FORGOTTEN", message));
        update_watch(*standby_);
    }
}

void Keeper::on_ready(Child& child) {
    if (!child.go_sent || child.ready_at != 0) {
        return;
    }
    child.ready_at = base::monotonic_now();
    log_.write(Level::info, "server %d is ready, %llu ms after its start", child.pid(),
               static_cast<unsigned long long>((child.ready_at - child.started_at) / base::millisecond));
    if (!std::exchange(was_ready_, true)) {
        tell_systemd("READY=1");
    }
    report_status();
    if (std::exchange(hangup_pending_, false)) {
        child.signal(SIGHUP);
    }
    schedule_standby(child.ready_at + options_.standby_delay);
}

void Keeper::on_standby(Child& child, const KeeperMessage& message) {
    if (child.go_sent || child.warm) {
        return;
    }
    child.warm = true;
    child.other_layout = message.value("layout") == "other";
    child.raise_priority(Priority::full);
    log_.write(
        Level::info, "standby server %d is warm, %llu ms after its start", child.pid(),
        static_cast<unsigned long long>((base::monotonic_now() - child.started_at) / base::millisecond));
    if (upgrade_ == Upgrade::warming && active_) {
        quiesce_active();
    } else if (child.other_layout) {
        upgrade_to_standby();
    }
}

void Keeper::on_alive(Child& child, const KeeperMessage& message) {
    const std::string source = message.value("source");
    const std::size_t index = source == "main" ? 1 : 0;
    if (source == "main" || source == "reactor") {
        child.sources[index].armed = true;
        child.sources[index].last = base::monotonic_now();
    }
}

void Keeper::on_info(Child& child) {
    const Ledger& ledger = store_.ledger();
    child.send(KeeperMessage("KEEPER-INFO")
                   .add("pid", static_cast<std::uint64_t>(getpid()))
                   .add("since_ms", ledger.since_ms)
                   .add("keeper_starts", ledger.keeper_starts)
                   .add("restarts", ledger.restarts)
                   .add("last_reason", ledger.last_reason)
                   .add("memory", store_.count(Kind::memory))
                   .add("listeners", store_.count(Kind::listener))
                   .add("connections", store_.count(Kind::connection))
                   .add("accepted", ledger.accepted)
                   .add("refused", ledger.refused)
                   .add("standby", !standby_        ? "none"
                                   : standby_->warm ? "warm"
                                                    : "starting")
                   .add("standby_pid", standby_ ? static_cast<std::uint64_t>(standby_->pid()) : 0)
                   .add("systemd", systemd_.present() ? 1 : 0)
                   .add("systemd_errors", systemd_.errors()));
}

// Sends what waits: messages first, then items that this server has not got and may have.
void Keeper::feed(Child& child) {
    if (child.channel() < 0 || child.channel_lost_at != 0 || child.dead) {
        return;
    }
    child.output_blocked = !child.flush();
    bool complete = !child.output_blocked;
    for (const Kind kind : kinds) {
        complete = complete && (kind == Kind::memory || child.go_sent) && feed_kind(child, kind);
        if (complete && kind == Kind::memory && !std::exchange(child.memory_end_sent, true)) {
            child.send(KeeperMessage("END").add("of", "memory").add("count", child.items_sent));
        }
    }
    if (complete && !std::exchange(child.end_sent, true)) {
        child.send(KeeperMessage("END").add("of", "all").add("count", child.items_sent));
    }
    update_watch(child);
}

// False if some must wait.
bool Keeper::feed_kind(Child& child, Kind kind) {
    std::uint64_t& done = child.sent_up_to[static_cast<std::size_t>(kind)];
    auto& items = store_.items();
    for (auto next = items.upper_bound(done); next != items.end(); ++next) {
        const auto& [id, item] = *next;
        if (item.kind == kind && item.origin != child.generation()) {
            const bool is_new = child.end_sent && kind == Kind::connection;
            KeeperMessage message(is_new ? "CONNECTION" : "ITEM");
            if (!is_new) {
                message.add("kind", name_of(kind));
            }
            message.add("name", item.name).add("id", id);
            const KeeperSend outcome =
                durable::send_keeper_message(child.channel(), message, item.descriptor);
            if (outcome == KeeperSend::again) {
                // A full socket becomes writable; for anything else that is short, there is no event.
                child.output_blocked = errno == EAGAIN;
                if (!child.output_blocked) {
                    feed_retry_at_ = base::monotonic_now() + feed_retry;
                }
                return false;
            }
            if (outcome == KeeperSend::closed) {
                return true;
            }
            if (outcome == KeeperSend::failed) {
                log_.write(Level::error, "%s %s cannot be sent: %s", name_of(kind), item.name.c_str(),
                           std::strerror(errno));
            } else if (!is_new) {
                ++child.items_sent;
            }
        }
        done = id;
    }
    return true;
}

void Keeper::update_watch(Child& child) {
    if (child.channel() < 0 || child.channel_lost_at != 0) {
        return;
    }
    const bool waits = child.output_blocked || child.outbox_waits();
    const std::uint32_t wanted = (child.outbox_full() ? 0u : static_cast<std::uint32_t>(EPOLLIN)) |
                                 (waits ? static_cast<std::uint32_t>(EPOLLOUT) : 0u);
    if (wanted == child.watched) {
        return;
    }
    epoll_event event{};
    event.events = wanted;
    event.data.u64 = watched(Watched::channel, child.generation());
    if (epoll_ctl(epoll_, EPOLL_CTL_MOD, child.channel(), &event) == 0) {
        child.watched = wanted;
    }
}

}  // namespace keeper
