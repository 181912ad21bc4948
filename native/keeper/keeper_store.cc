// Listeners, connections, and the copies that systemd holds.

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "keeper/keeper.h"
#include "keeper/watched.h"

namespace keeper {

namespace {

constexpr int accepts_per_turn = 32;
constexpr base::Nanoseconds accept_pause = 100 * base::millisecond;  // when there are no descriptors left
constexpr base::Nanoseconds systemd_retry = 5 * base::millisecond;
constexpr std::size_t systemd_texts_max = 16;
// The names must fit into one environment variable (128 KiB) when systemd gives everything back.
constexpr std::size_t systemd_name_bytes_max = 120'000;

bool has_ended(int connection) {
    tcp_info info{};
    socklen_t length = sizeof info;
    if (getsockopt(connection, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) {
        return false;
    }
    switch (info.tcpi_state) {
        case TCP_CLOSE:
        case TCP_CLOSE_WAIT:
        case TCP_LAST_ACK:
        case TCP_CLOSING:
        case TCP_TIME_WAIT: return true;
        default: return false;
    }
}

}  // namespace

bool Keeper::watch_listener(std::uint64_t id, Item& item) {
    const int flags = fcntl(item.descriptor, F_GETFL);
    if (flags < 0 || fcntl(item.descriptor, F_SETFL, flags | O_NONBLOCK) != 0) {
        return false;
    }
    return watch(item.descriptor, resume_accept_at_ == never ? static_cast<std::uint32_t>(EPOLLIN) : 0u,
                 watched(Watched::listener, id));
}

// Everything is prepared before a connection is accepted: a keeper that is killed before systemd has the
// connection loses it, so only two system calls lie between.
void Keeper::accept_some(std::uint64_t listener_id) {
    for (int i = 0; i < accepts_per_turn; ++i) {
        const Item* listener = store_.at(listener_id);
        if (listener == nullptr || resume_accept_at_ != never) {
            return;
        }
        Ledger& ledger = store_.ledger();
        const bool full = store_.count(Kind::connection) >= options_.connections_max;
        Item item;
        item.kind = Kind::connection;
        item.name = listener->name;
        item.listener = listener_id;
        const std::string name = Store::systemd_name(ledger.next_id, item);
        const bool fits = systemd_name_bytes_ + name.size() + 1 <= systemd_name_bytes_max;
        const std::string text = Systemd::store_text(name);
        // The accepted socket blocks: io_uring must wait for it, and the flag would outlive every server.
        item.descriptor = accept4(listener->descriptor, nullptr, nullptr, SOCK_CLOEXEC);
        if (item.descriptor < 0) {
            if (!accept_failed(*listener, errno)) {
                return;
            }
            continue;
        }
        if (full) {
            close(item.descriptor);
            if (ledger.refused++ % 1000 == 0) {
                log_.write(Level::warning, "more than %u connections: a new one was closed",
                           options_.connections_max);
            }
            continue;
        }
        item.in_systemd = systemd_.present() && fits && systemd_.notify(text, item.descriptor);
        ++ledger.accepted;
        const bool stored = item.in_systemd;
        const std::uint64_t id = store_.add(std::move(item));
        if (stored) {
            systemd_name_bytes_ += name.size() + 1;
        } else {
            systemd_store_.insert(id);
            push_to_systemd();
        }
        if (active_) {
            feed(*active_);
        }
    }
}

// True if the next connection may be better.
bool Keeper::accept_failed(const Item& listener, int error) {
    switch (error) {
        case EAGAIN: return false;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
            log_.write(Level::error, "cannot accept: %s; again in 100 ms", std::strerror(error));
            pause_listeners();
            return false;
        case EBADF:
        case EINVAL:
        case ENOTSOCK:
        case EOPNOTSUPP:
            log_.write(Level::error, "listener %s is out of use: %s", listener.name.c_str(),
                       std::strerror(error));
            epoll_ctl(epoll_, EPOLL_CTL_DEL, listener.descriptor, nullptr);
            return false;
        default: return true;  // what happened to that one connection
    }
}

void Keeper::pause_listeners() {
    resume_accept_at_ = base::monotonic_now() + accept_pause;
    for (auto& [id, item] : store_.items()) {
        if (item.kind == Kind::listener) {
            epoll_event event{};
            event.data.u64 = watched(Watched::listener, id);
            epoll_ctl(epoll_, EPOLL_CTL_MOD, item.descriptor, &event);
        }
    }
}

void Keeper::resume_listeners() {
    for (auto& [id, item] : store_.items()) {
        if (item.kind == Kind::listener) {
            epoll_event event{};
            event.events = EPOLLIN;
            event.data.u64 = watched(Watched::listener, id);
            epoll_ctl(epoll_, EPOLL_CTL_MOD, item.descriptor, &event);
        }
    }
}

// Without a server nobody else notices that a peer is gone.
void Keeper::drop_ended_connections() {
    std::vector<std::uint64_t> ended;
    for (auto& [id, item] : store_.items()) {
        if (item.kind == Kind::connection && has_ended(item.descriptor)) {
            ended.push_back(id);
        }
    }
    for (const std::uint64_t id : ended) {
        remove_item(id);
    }
    if (!ended.empty()) {
        log_.write(Level::info, "%zu connections ended while there was no server", ended.size());
        push_to_systemd();
    }
}

void Keeper::remove_item(std::uint64_t id) {
    Item& item = *store_.at(id);
    if (item.kind == Kind::listener) {
        // Closing does not end the watch while somebody else has the socket open.
        epoll_ctl(epoll_, EPOLL_CTL_DEL, item.descriptor, nullptr);
    }
    systemd_store_.erase(id);
    if (item.in_systemd) {
        systemd_forget_.push_back(Store::systemd_name(id, item));
        systemd_name_bytes_ -= systemd_forget_.back().size() + 1;
    }
    store_.remove(id);
}

void Keeper::tell_systemd(const std::string& text) {
    if (!systemd_.present()) {
        return;
    }
    const bool must = text == "READY=1" || text == "STOPPING=1";
    if (must || systemd_texts_.size() < systemd_texts_max) {
        systemd_texts_.push_back(text);
    }
    push_to_systemd();
}

// As far as the manager takes it; the rest a little later. Nothing waits for it: a manager that is busy must
// not stop the service.
void Keeper::push_to_systemd() {
    if (!systemd_.present()) {
        systemd_forget_.clear();
        systemd_store_.clear();
        return;
    }
    bool taken = true;
    if (!ledger_in_systemd_) {
        taken = ledger_in_systemd_ = systemd_.store(Store::systemd_ledger_name(), store_.ledger_descriptor());
    }
    std::size_t forgotten = 0;
    while (taken && forgotten < systemd_forget_.size()) {
        taken = systemd_.forget(systemd_forget_[forgotten]);
        forgotten += taken ? 1 : 0;
    }
    systemd_forget_.erase(systemd_forget_.begin(),
                          systemd_forget_.begin() + static_cast<std::ptrdiff_t>(forgotten));
    while (taken && !systemd_store_.empty()) {
        const std::uint64_t id = *systemd_store_.begin();
        Item& item = *store_.at(id);
        const std::string name = Store::systemd_name(id, item);
        if (systemd_name_bytes_ + name.size() + 1 > systemd_name_bytes_max) {
            log_.write(Level::error, "%s %s: systemd cannot hold more; it is lost if the keeper ends",
                       name_of(item.kind), item.name.c_str());
            systemd_store_.erase(id);
            continue;
        }
        taken = systemd_.store(name, item.descriptor);
        if (taken) {
            item.in_systemd = true;
            systemd_name_bytes_ += name.size() + 1;
            systemd_store_.erase(id);
        }
    }
    std::size_t told = 0;
    while (taken && told < systemd_texts_.size()) {
        taken = systemd_.notify(systemd_texts_[told]);
        told += taken ? 1 : 0;
    }
    systemd_texts_.erase(systemd_texts_.begin(), systemd_texts_.begin() + static_cast<std::ptrdiff_t>(told));
    systemd_retry_at_ = taken ? never : base::monotonic_now() + systemd_retry;
    if (systemd_.errors() != systemd_errors_reported_) {
        systemd_errors_reported_ = systemd_.errors();
        log_.write(Level::error, "systemd cannot be told: %s", std::strerror(systemd_.last_errno()));
    }
}

}  // namespace keeper
