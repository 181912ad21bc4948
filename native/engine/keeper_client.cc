#include "engine/keeper_client.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "base/check.h"

namespace engine {

namespace {

using durable::KeeperMessage;
using durable::KeeperReceive;
using durable::KeeperSend;

constexpr base::Nanoseconds alive_interval = base::second;
constexpr base::Nanoseconds retry_interval = 2 * base::millisecond;

std::optional<KeeperItem::Kind> kind_of(const std::string& text) {
    if (text == "memory") {
        return KeeperItem::Kind::memory;
    }
    if (text == "listener") {
        return KeeperItem::Kind::listener;
    }
    if (text == "connection") {
        return KeeperItem::Kind::connection;
    }
    return std::nullopt;
}

KeeperGo go_of(const KeeperMessage& message) {
    KeeperGo go;
    go.reason = message.value("reason");
    go.exit = message.value("exit");
    go.died_ns = message.number("died_ns").value_or(0);
    go.started_ns = message.number("started_ns").value_or(0);
    go.killed = message.number("killed").value_or(0) != 0;
    go.previous_pid = message.number("previous_pid").value_or(0);
    go.restarts = message.number("restarts").value_or(0);
    return go;
}

KeeperInfo info_of(const KeeperMessage& message) {
    const auto number = [&](std::string_view key) { return message.number(key).value_or(0); };
    KeeperInfo info;
    info.pid = number("pid");
    info.since_ms = number("since_ms");
    info.keeper_starts = number("keeper_starts");
    info.restarts = number("restarts");
    info.last_reason = message.value("last_reason");
    info.memory = number("memory");
    info.listeners = number("listeners");
    info.connections = number("connections");
    info.accepted = number("accepted");
    info.refused = number("refused");
    info.standby = message.value("standby");
    info.standby_pid = number("standby_pid");
    info.systemd = number("systemd") != 0;
    return info;
}

}  // namespace

int KeeperClient::channel_from_environment() {
    const char* text = std::getenv("KEEL_KEEPER_FD");
    if (text == nullptr) {
        return -1;
    }
    char* end = nullptr;
    const long number = std::strtol(text, &end, 10);
    const bool valid = end != text && *end == '\0' && number > 2 && number < (1 << 30);
    unsetenv("KEEL_KEEPER_FD");
    const int descriptor = valid ? static_cast<int>(number) : -1;
    return fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 ? descriptor : -1;
}

KeeperClient::KeeperClient(int channel) : channel_(channel) {
    input_.client = output_.client = this;
    input_.complete = [](reactor::Operation& operation, std::int32_t) {
        Poll& poll = static_cast<Poll&>(operation);
        poll.armed = false;
        poll.client->receive();
    };
    output_.complete = [](reactor::Operation& operation, std::int32_t) {
        Poll& poll = static_cast<Poll&>(operation);
        poll.armed = false;
        poll.client->flush();
        poll.client->check_stopped();
    };
}

KeeperClient::~KeeperClient() {
    EK_CHECK(!input_.armed && !output_.armed, "the channel to the keeper is stopped first");
    for (const auto& [message, descriptor] : early_) {
        if (descriptor >= 0) {
            close(descriptor);
        }
    }
    lose();
}

base::Result<KeeperStart> KeeperClient::begin(const std::string& version, base::Nanoseconds deadline) {
    KeeperStart start;
    const auto failed = [&start](const char* code, std::string text) -> base::Result<KeeperStart> {
        for (const KeeperItem& item : start.memory) {
            close(item.descriptor);
        }
        return base::Error{code, "no agreement with the keeper: " + std::move(text)};
    };
    send(KeeperMessage("HELLO")
             .add("pid", static_cast<std::uint64_t>(getpid()))
             .add("protocol", durable::keeper_protocol_version)
             .add("version", version));
    bool has_role = false;
    for (;;) {
        KeeperReceive received = durable::receive_keeper_message(channel_);
        if (received.outcome == KeeperReceive::Outcome::closed) {
            return failed("E_IO", "it closed the channel");
        }
        if (received.outcome == KeeperReceive::Outcome::malformed) {
            continue;
        }
        if (received.outcome == KeeperReceive::Outcome::nothing) {
            const base::Nanoseconds now = base::monotonic_now();
            if (now >= deadline) {
                return failed("E_TIMEOUT", "it did not say everything in time");
            }
            pollfd state{channel_, POLLIN, 0};
            const base::Nanoseconds wait_ms = (deadline - now) / base::millisecond + 1;
            poll(&state, 1, static_cast<int>(std::min<base::Nanoseconds>(wait_ms, 1000)));
            continue;
        }
        KeeperMessage& message = *received.message;
        if (message.verb() == "ROLE") {
            has_role = true;
            start.standby = message.value("role") == "standby";
            start.generation = message.number("generation").value_or(0);
        } else if (message.verb() == "ITEM" && message.value("kind") == "memory" &&
                   received.descriptor >= 0) {
            start.memory.push_back({KeeperItem::Kind::memory, message.value("name"),
                                    message.number("id").value_or(0), received.descriptor});
        } else if (message.verb() == "END" && message.value("of") == "memory" && has_role) {
            return start;
        } else {
            early_.emplace_back(std::move(message), received.descriptor);
        }
    }
}

void KeeperClient::attach(reactor::Reactor& reactor, KeeperEvents& events) {
    EK_CHECK(reactor_ == nullptr, "attached once");
    reactor_ = &reactor;
    events_ = &events;
    alive_ = std::make_unique<reactor::MemberTimer<&KeeperClient::alive>>(reactor, *this);
    retry_ = std::make_unique<reactor::MemberTimer<&KeeperClient::flush>>(reactor, *this);
    alive();
    flush();
    start_posted_ = true;
    reactor.post([this] {
        start_posted_ = false;
        receive();
    });
}

void KeeperClient::stop(std::function<void()> stopped) {
    stopping_ = true;
    stopped_ = std::move(stopped);
    if (reactor_ != nullptr) {
        alive_->stop();
        retry_->stop();
        for (Poll* poll : {&input_, &output_}) {
            if (poll->armed) {
                reactor_->kernel().cancel(*poll);
            }
        }
    }
    check_stopped();
}

void KeeperClient::check_stopped() {
    if (stopping_ && !start_posted_ && !input_.armed && !output_.armed && stopped_) {
        std::exchange(stopped_, nullptr)();
    }
}

void KeeperClient::arm(Poll& poll, std::uint32_t events) {
    if (reactor_ != nullptr && !poll.armed && !stopping_ && channel_ >= 0) {
        poll.armed = true;
        reactor_->kernel().poll(channel_, events, poll);
    }
}

// The descriptor may be closed while a poll of the other direction is under way: it then completes too.
void KeeperClient::lose() {
    if (channel_ >= 0) {
        close(std::exchange(channel_, -1));
    }
    for (const Waiting& waiting : queue_) {
        if (waiting.descriptor >= 0) {
            close(waiting.descriptor);
        }
    }
    queue_.clear();
}

void KeeperClient::alive() {
    if (channel_ < 0 || stopping_) {
        return;
    }
    if (queue_.empty()) {
        send(KeeperMessage("ALIVE").add("source", "reactor"));
    }
    alive_->start_after(alive_interval);
}

bool KeeperClient::send(const KeeperMessage& message, int descriptor) {
    if (channel_ < 0 || queue_.size() >= queue_max) {
        ++lost_;
        return false;
    }
    int copy = -1;
    if (queue_.empty()) {
        switch (durable::send_keeper_message(channel_, message, descriptor)) {
            case KeeperSend::sent: return true;
            case KeeperSend::again: break;
            case KeeperSend::closed:
            case KeeperSend::failed: ++lost_; return false;
        }
    }
    if (descriptor >= 0) {
        copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
        if (copy < 0) {
            ++lost_;
            return false;
        }
    }
    queue_.push_back({message, copy});
    flush();
    return true;
}

void KeeperClient::flush() {
    while (!queue_.empty() && channel_ >= 0) {
        const Waiting& first = queue_.front();
        const KeeperSend outcome = durable::send_keeper_message(channel_, first.message, first.descriptor);
        if (outcome == KeeperSend::again) {
            // A full socket becomes writable; for anything else that is short, there is no event.
            if (errno == EAGAIN) {
                arm(output_, POLLOUT);
            } else if (retry_ && !stopping_) {
                retry_->start_after(retry_interval);
            }
            return;
        }
        lost_ += outcome == KeeperSend::sent ? 0 : 1;
        if (first.descriptor >= 0) {
            close(first.descriptor);
        }
        queue_.pop_front();
    }
}

void KeeperClient::receive() {
    for (auto& [message, descriptor] : std::exchange(early_, {})) {
        tell(message, descriptor);
    }
    for (std::uint32_t i = 0; i < receive_per_turn && channel_ >= 0 && !stopping_; ++i) {
        const KeeperReceive received = durable::receive_keeper_message(channel_);
        if (received.outcome == KeeperReceive::Outcome::nothing) {
            break;
        }
        if (received.outcome == KeeperReceive::Outcome::closed) {
            lose();
            if (!std::exchange(lost_told_, true)) {
                events_->keeper_lost();
            }
        } else if (received.outcome == KeeperReceive::Outcome::message) {
            tell(*received.message, received.descriptor);
        }
    }
    arm(input_, POLLIN);
    check_stopped();
}

void KeeperClient::converse(base::Nanoseconds deadline) {
    const base::Nanoseconds now = base::monotonic_now();
    if (channel_ < 0 || now >= deadline) {
        return;
    }
    pollfd state{channel_, static_cast<short>(queue_.empty() ? POLLIN : POLLIN | POLLOUT), 0};
    const base::Nanoseconds wait_ms = (deadline - now + base::millisecond - 1) / base::millisecond;
    poll(&state, 1, static_cast<int>(std::min<base::Nanoseconds>(wait_ms, 100)));
    flush();
    receive();
}

void KeeperClient::tell(const KeeperMessage& message, int descriptor) {
    const std::string_view verb = message.verb();
    const bool is_connection = verb == "CONNECTION";
    if ((verb == "ITEM" || is_connection) && descriptor >= 0) {
        const auto kind = is_connection ? KeeperItem::Kind::connection : kind_of(message.value("kind"));
        if (kind) {
            const KeeperItem item{*kind, message.value("name"), message.number("id").value_or(0), descriptor};
            is_connection ? events_->keeper_connection(item) : events_->keeper_item(item);
            return;
        }
    }
    if (descriptor >= 0) {
        close(descriptor);
    }
    if (verb == "GO") {
        events_->keeper_go(go_of(message));
    } else if (verb == "END" && message.value("of") == "all") {
        events_->keeper_items_complete();
    } else if (verb == "FORGOTTEN") {
        events_->keeper_forgotten(message.value("kind"), message.value("name"));
    } else if (verb == "REFUSED") {
        std::string what = message.value("verb");
        for (const char* key : {"kind", "name"}) {
            const std::string part = message.value(key);
            what += part.empty() ? "" : " " + part;
        }
        events_->keeper_refused(what, message.value("reason"));
    } else if (verb == "QUIESCE") {
        events_->keeper_quiesce(
            reactor_->now() + std::min<std::uint64_t>(message.number("deadline_ms").value_or(0), 3'600'000) *
                                  base::millisecond,
            message.number("describe").value_or(1) != 0);
    } else if (verb == "RESTART-FAILED") {
        events_->keeper_restart_failed(message.value("reason"));
    } else if (verb == "KEEPER-INFO") {
        events_->keeper_info(info_of(message));
    }
}

bool KeeperClient::store_memory(std::string_view name, int descriptor, bool replace) {
    return send(
        KeeperMessage("STORE").add("kind", "memory").add("name", name).add("replace", replace ? 1 : 0),
        descriptor);
}

bool KeeperClient::store_listener(std::string_view name, int descriptor) {
    return send(KeeperMessage("STORE").add("kind", "listener").add("name", name), descriptor);
}

bool KeeperClient::forget_memory(std::string_view name) {
    return send(KeeperMessage("FORGET").add("kind", "memory").add("name", name));
}

bool KeeperClient::forget_listener(std::string_view name) {
    return send(KeeperMessage("FORGET").add("kind", "listener").add("name", name));
}

bool KeeperClient::forget_connection(std::uint64_t id) {
    return send(KeeperMessage("FORGET").add("kind", "connection").add("id", id));
}

bool KeeperClient::ready() { return send(KeeperMessage("READY")); }
bool KeeperClient::standby(bool other_layout) {
    return send(KeeperMessage("STANDBY").add("layout", other_layout ? "other" : "same"));
}
bool KeeperClient::alive_main() { return send(KeeperMessage("ALIVE").add("source", "main")); }
bool KeeperClient::quiesced() { return send(KeeperMessage("QUIESCED")); }
bool KeeperClient::stopping() { return send(KeeperMessage("STOPPING")); }
bool KeeperClient::request_info() { return send(KeeperMessage("INFO")); }

bool KeeperClient::status(std::string_view text) { return send(KeeperMessage("STATUS").add("text", text)); }

bool KeeperClient::restart(std::string_view reason) {
    return send(KeeperMessage("RESTART").add("reason", reason));
}

}  // namespace engine
