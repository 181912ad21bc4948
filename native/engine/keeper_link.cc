#include "engine/keeper_link.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include <utility>

namespace engine {

namespace {

constexpr base::Nanoseconds begin_timeout = 10 * base::second;
constexpr std::string_view device_prefix = "ram:";
constexpr off_t text_bytes_max = 64 << 20;

}  // namespace

base::Result<std::unique_ptr<KeeperLink>> KeeperLink::open(const std::string& version) {
    const int channel = KeeperClient::channel_from_environment();
    if (channel < 0) {
        return std::unique_ptr<KeeperLink>();
    }
    std::unique_ptr<KeeperLink> link(new KeeperLink(channel));
    auto start = link->client_.begin(version, base::monotonic_now() + begin_timeout);
    if (!start) {
        return start.error();
    }
    link->standby_ = start.value().standby;
    for (const KeeperItem& item : start.value().memory) {
        link->hold_memory(item);
    }
    return link;
}

KeeperLink::~KeeperLink() {
    for (const auto& [name, descriptor] : memory_) {
        close(descriptor);
    }
    for (const auto& [name, descriptor] : listeners_) {
        close(descriptor);
    }
    for (const Connection& connection : connections_) {
        close(connection.socket);
    }
}

int KeeperLink::memory(const std::string& name) const {
    const auto found = memory_.find(name);
    return found == memory_.end() ? -1 : found->second;
}

void KeeperLink::forget_memories(const std::function<bool(const std::string&)>& which) {
    for (auto held = memory_.begin(); held != memory_.end();) {
        if (which(held->first)) {
            client_.forget_memory(held->first);
            close(held->second);
            held = memory_.erase(held);
        } else {
            ++held;
        }
    }
}

void KeeperLink::hold_memory(const KeeperItem& item) {
    int& held = memory_.try_emplace(item.name, -1).first->second;
    if (held >= 0) {
        close(held);
    }
    held = item.descriptor;
    if (memories_ != nullptr && item.name.starts_with(device_prefix)) {
        memories_->offer(item.name.substr(device_prefix.size()), item.descriptor);
    }
}

void KeeperLink::attach(reactor::Reactor& reactor, Memories& memories) {
    memories_ = &memories;
    for (const auto& [name, descriptor] : memory_) {
        if (name.starts_with(device_prefix)) {
            memories.offer(name.substr(device_prefix.size()), descriptor);
        }
    }
    memories.created = [this](const std::string& name, int descriptor) {
        client_.store_memory(device_memory_name(name), descriptor, true);
    };
    memories.forgotten = [this](const std::string& name) {
        const std::string stored = device_memory_name(name);
        client_.forget_memory(stored);
        if (const auto found = memory_.find(stored); found != memory_.end()) {
            close(found->second);
            memory_.erase(found);
        }
    };
    client_.attach(reactor, *this);
}

std::string KeeperLink::stored_text(const std::string& name) const {
    const int descriptor = memory(name);
    struct stat info {};
    if (descriptor < 0 || fstat(descriptor, &info) != 0 || info.st_size <= 0 ||
        info.st_size > text_bytes_max) {
        return {};
    }
    std::string text(static_cast<std::size_t>(info.st_size), '\0');
    const ssize_t got = pread(descriptor, text.data(), text.size(), 0);
    return got == info.st_size ? text : std::string();
}

// A new file each time: the old text stays whole until the keeper has the new one.
base::Result<void> KeeperLink::store_text(const std::string& name, const std::string& text) {
    const int descriptor = memfd_create(name.c_str(), MFD_CLOEXEC);
    if (descriptor < 0 || text.size() > static_cast<std::size_t>(text_bytes_max) ||
        pwrite(descriptor, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
        const int number = errno;
        if (descriptor >= 0) {
            close(descriptor);
        }
        return base::Error{"E_NO_MEMORY",
                           "cannot keep \"" + name + "\" of " + std::to_string(text.size()) + " bytes",
                           number};
    }
    client_.store_memory(name, descriptor, true);
    KeeperItem item;
    item.kind = KeeperItem::Kind::memory;
    item.name = name;
    item.descriptor = descriptor;
    hold_memory(item);
    return {};
}

void KeeperLink::stop(std::function<void()> stopped) { client_.stop(std::move(stopped)); }

int KeeperLink::listener(const std::string& name) const {
    const auto found = listeners_.find(name);
    return found == listeners_.end() ? -1 : found->second;
}

// As long as any process has it open, hosts connect to it and nobody answers.
void KeeperLink::forget_listener(const std::string& name) {
    if (const auto found = listeners_.find(name); found != listeners_.end()) {
        close(found->second);
        listeners_.erase(found);
    }
    client_.forget_listener(name);
}

void KeeperLink::forget_listeners_but(const std::set<std::string>& used) {
    std::vector<std::string> unused;
    for (const auto& [name, descriptor] : listeners_) {
        if (!used.contains(name)) {
            unused.push_back(name);
        }
    }
    for (const std::string& name : unused) {
        forget_listener(name);
    }
}

std::vector<KeeperLink::Connection> KeeperLink::take_connections() { return std::exchange(connections_, {}); }

void KeeperLink::ask_info(std::function<void(const KeeperInfo&)> answer) {
    info_waiters_.push_back(std::move(answer));
    if (!client_.request_info()) {
        keeper_info({});
    }
}

void KeeperLink::keeper_go(const KeeperGo& go) {
    gone_ = true;
    go_ = go;
}

void KeeperLink::keeper_item(const KeeperItem& item) {
    switch (item.kind) {
        case KeeperItem::Kind::memory: hold_memory(item); break;
        case KeeperItem::Kind::listener: {
            int& held = listeners_.try_emplace(item.name, -1).first->second;
            if (held >= 0) {
                close(held);
            }
            held = item.descriptor;
            break;
        }
        case KeeperItem::Kind::connection:
            connections_.push_back({item.descriptor, item.id, item.name});
            break;
    }
}

void KeeperLink::keeper_items_complete() {
    if (gone_ && on_go) {
        std::exchange(on_go, nullptr)(go_);
    }
}

void KeeperLink::keeper_connection(const KeeperItem& connection) {
    const Connection accepted{connection.descriptor, connection.id, connection.name};
    if (on_connection) {
        on_connection(accepted);
    } else {
        connections_.push_back(accepted);
    }
}

// A standby holds what the server that lives has: what that one forgets must not come back. (To who serves
// it is the answer to its own request.)
void KeeperLink::keeper_forgotten(const std::string& kind, const std::string& name) {
    const auto found = memory_.find(name);
    if (gone_ || kind != "memory" || found == memory_.end()) {
        return;
    }
    close(found->second);
    memory_.erase(found);
    if (memories_ != nullptr && name.starts_with(device_prefix)) {
        memories_->withdraw(name.substr(device_prefix.size()));
    }
}

void KeeperLink::keeper_refused(const std::string& what, const std::string& reason) {
    if (on_restart_failed && what == "RESTART") {
        on_restart_failed(reason);
    }
}

void KeeperLink::keeper_quiesce(base::Nanoseconds deadline, bool describe) {
    if (on_quiesce) {
        on_quiesce(deadline, describe);
    } else {
        client_.quiesced();
    }
}

void KeeperLink::keeper_restart_failed(const std::string& reason) {
    if (on_restart_failed) {
        on_restart_failed(reason);
    }
}

void KeeperLink::keeper_info(const KeeperInfo& info) {
    for (auto& answer : std::exchange(info_waiters_, {})) {
        answer(info);
    }
}

void KeeperLink::keeper_lost() {
    keeper_info({});
    if (on_lost) {
        on_lost();
    }
}

}  // namespace engine
