#include "transport/tcp_transport.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/crash_point.h"
#include "transport/stream_position.h"

namespace transport {

namespace {

constexpr int listen_backlog = 1024;
constexpr base::Nanoseconds accept_pause =
    100 * base::millisecond;  // when the process has no descriptors left
constexpr std::size_t commands_before_connect = 2 * limits::admin_queue_entries_min;
constexpr std::size_t end_reasons_max = 64;  // distinct texts that are counted

void set_option(int socket, int level, int name, int value) {
    setsockopt(socket, level, name, &value, sizeof value);
}

struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t length = sizeof(sockaddr_storage);
    sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

std::string address_text(const SocketAddress& address) {
    char text[INET6_ADDRSTRLEN] = "";
    if (address.storage.ss_family == AF_INET) {
        inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address.storage).sin_addr, text,
                  sizeof text);
    } else if (address.storage.ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(address.storage).sin6_addr, text,
                  sizeof text);
    }
    return text;
}

std::uint16_t port_of(const SocketAddress& address) {
    if (address.storage.ss_family == AF_INET) {
        return ntohs(reinterpret_cast<const sockaddr_in&>(address.storage).sin_port);
    }
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address.storage).sin6_port);
}

// Whether a listening socket of a predecessor is what the configuration wants now.
bool listens_at(int socket, const ListenerSpec& spec) {
    SocketAddress local;
    if (getsockname(socket, local.get(), &local.length) != 0) {
        return false;
    }
    return address_text(local) == spec.address && (spec.port == 0 || port_of(local) == spec.port);
}

nvme::Endpoint endpoint_of(int socket, bool discovery_only) {
    SocketAddress local;
    SocketAddress peer;
    nvme::Endpoint endpoint;
    endpoint.transport = "tcp";
    endpoint.discovery_only = discovery_only;
    if (getsockname(socket, local.get(), &local.length) == 0) {
        endpoint.address_family = local.storage.ss_family == AF_INET6 ? "ipv6" : "ipv4";
        endpoint.local_address = address_text(local);
        endpoint.local_service = std::to_string(port_of(local));
    }
    if (getpeername(socket, peer.get(), &peer.length) == 0) {
        endpoint.peer_address = address_text(peer);
        endpoint.peer_service = std::to_string(port_of(peer));
    }
    return endpoint;
}

}  // namespace

struct TcpTransport::Listener {
    Listener(TcpTransport& owner, reactor::Reactor& reactor) : transport(owner), pause(reactor, *this) {
        operation.listener = this;
        operation.complete = [](reactor::Operation& base, std::int32_t result) {
            Listener& self = *static_cast<AcceptOperation&>(base).listener;
            self.transport.accepted_one(self, result);
        };
    }

    struct AcceptOperation : reactor::Operation {
        Listener* listener = nullptr;
    };
    void accept_next() { transport.accept_next(*this); }

    TcpTransport& transport;
    ListenerSpec spec;
    int socket = -1;
    std::uint16_t port = 0;
    bool armed = false;
    bool closing = false;
    AcceptOperation operation;
    reactor::MemberTimer<&Listener::accept_next> pause;
};

TcpTransport::TcpTransport(reactor::Reactor& reactor, nvme::Target& target, reactor::DataBuffers& buffers,
                           const MemoryRegions& memory, durable::Arena& arena, const Regions& regions,
                           const TcpOptions& options, const TransportLimits& transport_limits)
    : reactor_(reactor),
      target_(target),
      arena_(arena),
      regions_(regions),
      options_(options),
      limits_(transport_limits),
      around_{reactor,
              target,
              buffers,
              memory,
              options_,
              [this](TcpConnection& connection) {
                  ended_.push_back(&connection);
                  reap_.schedule();
              }},
      adopted_reads_(reactor, *this),
      reap_(reactor, *this) {
    const std::uint32_t slots = std::min(limits_.connections, limits::connections_max);
    connections_.resize(slots);
    for (std::uint32_t slot = slots; slot != 0; --slot) {
        free_slots_.push_back(slot - 1);
    }
}

TcpTransport::~TcpTransport() {
    for (auto& listener : listeners_) {
        EK_CHECK(!listener->armed, "listeners are shut down first");
    }
}

TcpSlots TcpTransport::slots_of(std::uint32_t number) {
    const auto slice = [&](std::size_t region, std::size_t stride) {
        return arena_.region(region).subspan(number * stride, stride);
    };
    const auto commands = slice(regions_.commands, command_stride);
    const auto transmit = slice(regions_.transmit, transmit_stride);
    return TcpSlots{
        .number = number,
        .record = reinterpret_cast<ConnectionRecord*>(slice(regions_.connections, connection_stride).data()),
        .commands = {reinterpret_cast<nvme::CommandRecord*>(commands.data()), limits::command_slots_max},
        .transmit = {reinterpret_cast<TransmitEntry*>(transmit.data()), limits::transmit_entries_max},
        .stream = slice(regions_.stream, limits::receive_buffer_bytes),
    };
}

base::Result<int> TcpTransport::open_listener(const ListenerSpec& spec) {
    SocketAddress address;
    if (spec.family == "ipv6") {
        auto& in6 = reinterpret_cast<sockaddr_in6&>(address.storage);
        in6.sin6_family = AF_INET6;
        in6.sin6_port = htons(spec.port);
        address.length = sizeof in6;
        if (inet_pton(AF_INET6, spec.address.c_str(), &in6.sin6_addr) != 1) {
            return base::Error{"E_INVALID", "\"" + spec.address + "\" is not an IPv6 address"};
        }
    } else {
        auto& in = reinterpret_cast<sockaddr_in&>(address.storage);
        in.sin_family = AF_INET;
        in.sin_port = htons(spec.port);
        address.length = sizeof in;
        if (inet_pton(AF_INET, spec.address.c_str(), &in.sin_addr) != 1) {
            return base::Error{"E_INVALID", "\"" + spec.address + "\" is not an IPv4 address"};
        }
    }
    const int socket = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (socket < 0) {
        return base::Error{"E_IO", std::string("cannot make a socket: ") + std::strerror(errno), errno};
    }
    set_option(socket, SOL_SOCKET, SO_REUSEADDR, 1);
    if (spec.family == "ipv6") {
        set_option(socket, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    }
    // Connections inherit these. OOBINLINE keeps the kernel's byte counts exact whatever a peer sends.
    set_option(socket, SOL_SOCKET, SO_OOBINLINE, 1);
    set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 30);
    set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 3);
    if (bind(socket, address.get(), address.length) != 0 || listen(socket, listen_backlog) != 0) {
        const int number = errno;
        ::close(socket);
        const std::string place = spec.address + " port " + std::to_string(spec.port);
        if (number == EADDRINUSE) {
            return base::Error{"E_PORT_IN_USE",
                               "cannot listen on " + place + ": something already listens there", number};
        }
        if (number == EACCES || number == EPERM) {
            return base::Error{"E_DENIED", "cannot listen on " + place + ": " + std::strerror(number),
                               number};
        }
        return base::Error{number == EADDRNOTAVAIL ? "E_INVALID" : "E_IO",
                           "cannot listen on " + place + ": " + std::strerror(number), number};
    }
    return socket;
}

base::Result<ListenerStatus> TcpTransport::add_listener(const ListenerSpec& spec) {
    for (const auto& listener : listeners_) {
        if (listener->spec.id == spec.id) {
            return base::Error{"E_EXISTS", "a listener \"" + spec.id + "\" is already there"};
        }
    }
    int socket = -1;
    if (spec.descriptor >= 0 && listens_at(spec.descriptor, spec)) {
        socket = fcntl(spec.descriptor, F_DUPFD_CLOEXEC, 3);
        if (socket < 0) {
            return base::Error{
                "E_IO", std::string("cannot use the listening socket: ") + std::strerror(errno), errno};
        }
    } else {
        auto opened = open_listener(spec);
        if (!opened) {
            return opened.error();
        }
        socket = opened.value();
    }
    auto listener = std::make_unique<Listener>(*this, reactor_);
    listener->spec = spec;
    listener->socket = socket;
    SocketAddress local;
    if (getsockname(socket, local.get(), &local.length) == 0) {
        listener->port = port_of(local);
    }
    const ListenerStatus status{spec.id, spec.address, spec.family, listener->port, spec.discovery_only};
    if (!spec.kept) {
        accept_next(*listener);
    }
    listeners_.push_back(std::move(listener));
    update_discovery();
    return status;
}

base::Result<void> TcpTransport::set_listener(const ListenerSpec& spec) {
    for (auto& listener : listeners_) {
        if (listener->spec.id == spec.id) {
            listener->spec.advertise = spec.advertise;
            listener->spec.digests = spec.digests;
            update_discovery();
            return {};
        }
    }
    return base::Error{"E_NOT_FOUND", "there is no listener \"" + spec.id + "\""};
}

base::Result<void> TcpTransport::remove_listener(const std::string& id) {
    const auto found = std::find_if(listeners_.begin(), listeners_.end(),
                                    [&](const auto& listener) { return listener->spec.id == id; });
    if (found == listeners_.end()) {
        return base::Error{"E_NOT_FOUND", "there is no listener \"" + id + "\""};
    }
    closing_listeners_.push_back(std::move(*found));
    listeners_.erase(found);
    drop_listener(*closing_listeners_.back());
    update_discovery();
    return {};
}

void TcpTransport::drop_listener(Listener& listener) {
    listener.closing = true;
    listener.pause.stop();
    if (listener.armed) {
        reactor_.kernel().cancel(listener.operation);
    } else {
        reap_.schedule();
    }
}

int TcpTransport::listener_socket(const std::string& id) const {
    for (const auto& listener : listeners_) {
        if (listener->spec.id == id) {
            return listener->socket;
        }
    }
    return -1;
}

bool TcpTransport::is_discovery_listener(const std::string& id) const {
    return std::any_of(listeners_.begin(), listeners_.end(), [&](const auto& listener) {
        return listener->spec.id == id && listener->spec.discovery_only;
    });
}

std::vector<ListenerStatus> TcpTransport::listeners() const {
    std::vector<ListenerStatus> all;
    for (const auto& listener : listeners_) {
        all.push_back({listener->spec.id, listener->spec.address, listener->spec.family, listener->port,
                       listener->spec.discovery_only});
    }
    return all;
}

void TcpTransport::update_discovery() {
    std::vector<nvme::ListenerInfo> infos;
    std::uint16_t port_id = 1;
    for (const auto& listener : listeners_) {
        infos.push_back({"tcp", listener->spec.family,
                         listener->spec.advertise.empty() ? listener->spec.address : listener->spec.advertise,
                         std::to_string(listener->port), port_id++, listener->spec.discovery_only});
    }
    target_.set_listeners(std::move(infos));
}

void TcpTransport::accept_next(Listener& listener) {
    if (listener.closing || listener.armed || shutting_down_) {
        return;
    }
    listener.armed = true;
    reactor_.kernel().accept(listener.socket, listener.operation);
}

void TcpTransport::accepted_one(Listener& listener, std::int32_t result) {
    listener.armed = false;
    if (listener.closing || shutting_down_) {
        if (result >= 0) {
            ::close(result);
        }
        reap_.schedule();
        return;
    }
    if (result >= 0) {
        take(result, next_id_++, listener.spec.discovery_only);
    } else if (result == -EMFILE || result == -ENFILE || result == -ENOMEM || result == -ENOBUFS) {
        if (log) {
            log("error", std::string("cannot accept a connection: ") + std::strerror(-result));
        }
        listener.pause.start_after(accept_pause);
        return;
    }
    accept_next(listener);
}

bool TcpTransport::admit_address(const std::string& address) {
    const auto found = by_address_.find(address);
    return !free_slots_.empty() &&
           (found == by_address_.end() || found->second.connections < limits_.connections_per_address);
}

TcpTransport::OfAddress& TcpTransport::of_address(const std::string& address) {
    OfAddress& found = by_address_[address];
    if (found.buffers == nullptr) {
        found.buffers = std::make_shared<reactor::HostBuffers>(around_.buffers);
    }
    return found;
}

// Unless a connection is left that comes from there.
void TcpTransport::forget_address(const std::string& address) {
    const auto found = by_address_.find(address);
    if (found != by_address_.end() && found->second.connections == 0) {
        by_address_.erase(found);
    }
}

// Of the listener whose place the connection came to: also for one that a keeper accepted, or a predecessor.
DigestPolicies TcpTransport::policies_for(const nvme::Endpoint& endpoint) const {
    const Listener* wildcard = nullptr;
    for (const auto& listener : listeners_) {
        const ListenerSpec& spec = listener->spec;
        if (spec.family != endpoint.address_family ||
            std::to_string(listener->port) != endpoint.local_service) {
            continue;
        }
        if (spec.address == endpoint.local_address) {
            return spec.digests;
        }
        if (spec.address == "0.0.0.0" || spec.address == "::") {
            wildcard = listener.get();
        }
    }
    return wildcard != nullptr ? wildcard->spec.digests : options_.digests;
}

bool TcpTransport::take(int socket, std::uint64_t id, bool discovery_only) {
    nvme::Endpoint endpoint = endpoint_of(socket, discovery_only);
    if (shutting_down_ || !admit_address(endpoint.peer_address)) {
        ++refused_;
        ::close(socket);
        if (closed) {
            closed(id, "too many connections");
        }
        return false;
    }
    ++accepted_;
    OfAddress& peer = of_address(endpoint.peer_address);
    ++peer.connections;
    const std::uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    next_id_ = std::max(next_id_, id + 1);
    const DigestPolicies policies = policies_for(endpoint);
    connections_[slot] = std::make_unique<TcpConnection>(around_, socket, slots_of(slot), std::move(endpoint),
                                                         policies, peer.buffers);
    connections_[slot]->open(id);
    return true;
}

TcpTransport::Adoption TcpTransport::adopt(int socket, std::uint64_t id, bool discovery_only,
                                           const Veto& veto, std::string& why) {
    next_id_ = std::max(next_id_, id + 1);
    for (std::uint32_t slot = 0; slot < connections_.size(); ++slot) {
        const TcpSlots slots = slots_of(slot);
        if (slots.record->state != ConnectionState::open || slots.record->id != id || connections_[slot]) {
            continue;
        }
        why = veto(*slots.record);
        if (!why.empty()) {
            break;
        }
        const nvme::Endpoint endpoint = endpoint_of(socket, discovery_only);
        auto connection =
            std::make_unique<TcpConnection>(around_, socket, slots, endpoint, policies_for(endpoint),
                                            of_address(endpoint.peer_address).buffers);
        if (!connection->adopt()) {
            why = connection->reason();
            connection.reset();
            forget_address(endpoint.peer_address);
            break;  // its slots stay as they are until forget_unadopted
        }
        std::erase(free_slots_, slot);
        ++of_address(endpoint.peer_address).connections;
        connections_[slot] = std::move(connection);
        set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);  // pushes what a dead MSG_MORE held back
        connections_[slot]->resume();
        return Adoption::carried;
    }
    const StreamPosition position = read_stream_position(socket);
    if (why.empty() && position.alive && position.received == 0 && position.sent == 0) {
        return Adoption::unread;
    }
    if (why.empty()) {
        why = position.alive ? "no record of it" : "the host closed it";
    }
    ::shutdown(socket, SHUT_RDWR);
    ::close(socket);
    if (closed) {
        closed(id, why);
    }
    return Adoption::refused;
}

void TcpTransport::forget_unadopted() {
    for (std::uint32_t slot = 0; slot < connections_.size(); ++slot) {
        const TcpSlots slots = slots_of(slot);
        if (connections_[slot] || slots.record->state == ConnectionState::free) {
            continue;
        }
        const std::size_t used =
            std::min<std::size_t>(std::size_t{slots.record->queue.entries} * 2, slots.commands.size());
        for (nvme::CommandRecord& command :
             slots.commands.first(std::max<std::size_t>(used, commands_before_connect))) {
            if (command.state != nvme::CommandState::free) {
                durable::commit(command.state, nvme::CommandState::free);
            }
        }
        slots.record->queue = nvme::QueueRecord{};
        durable::commit(slots.record->state, ConnectionState::free);
    }
}

void TcpTransport::reap() {
    for (TcpConnection* connection : std::exchange(ended_, {})) {
        const std::uint32_t slot = connection->connection_slot();
        const std::uint64_t id = connection->id();
        const int socket = connection->socket();
        const std::string reason = connection->reason();
        const std::string address = connection->endpoint().peer_address;
        connections_[slot].reset();
        EK_CRASH_POINT("tcp.end.before_close");
        ::close(socket);
        free_slots_.push_back(slot);
        --of_address(address).connections;
        forget_address(address);
        const std::string kind = reason.substr(0, reason.find(':'));
        if (end_reasons_.size() < end_reasons_max || end_reasons_.contains(kind)) {
            ++end_reasons_[kind];
        }
        if (closed) {
            closed(id, reason);
        }
    }
    std::erase_if(closing_listeners_, [](const auto& listener) {
        if (listener->armed) {
            return false;
        }
        ::close(listener->socket);
        return true;
    });
    check_shut_down();
}

void TcpTransport::shut_down(std::function<void()> done) {
    shutting_down_ = true;
    shut_down_done_ = std::move(done);
    for (auto& listener : std::exchange(listeners_, {})) {
        closing_listeners_.push_back(std::move(listener));
        drop_listener(*closing_listeners_.back());
    }
    for (auto& connection : connections_) {
        if (connection) {
            connection->disconnect(false, "the server stops");
        }
    }
    reap_.schedule();
}

void TcpTransport::check_shut_down() {
    if (!shutting_down_ || !shut_down_done_ || !closing_listeners_.empty() ||
        free_slots_.size() != connections_.size()) {
        return;
    }
    std::exchange(shut_down_done_, nullptr)();
}

std::uint32_t TcpTransport::disconnect(const std::function<bool(TcpConnection&)>& matches,
                                       const char* reason) {
    std::uint32_t count = 0;
    for (auto& connection : connections_) {
        if (connection && !connection->ending() && matches(*connection)) {
            connection->disconnect(false, reason);
            ++count;
        }
    }
    return count;
}

bool TcpTransport::sends_from(std::uint16_t region) {
    return std::any_of(connections_.begin(), connections_.end(),
                       [&](const auto& connection) { return connection && connection->sends_from(region); });
}

std::vector<ConnectionStatus> TcpTransport::connections() {
    std::vector<ConnectionStatus> all;
    for (auto& connection : connections_) {
        if (!connection) {
            continue;
        }
        ConnectionStatus status;
        status.slot = connection->connection_slot();
        status.id = connection->id();
        status.endpoint = connection->endpoint();
        status.header_digest = connection->record().header_digest != 0;
        status.data_digest = connection->record().data_digest != 0;
        status.state = connection->ending()               ? "closing"
                       : !connection->initialized()       ? "initializing"
                       : !connection->queue().connected() ? "connecting"
                       : connection->stalled()            ? "waiting for memory"
                                                          : "ready";
        status.counters = connection->counters();
        status.queue = &connection->record().queue;
        for (const nvme::Command& command : connection->queue().commands()) {
            status.commands_in_flight += command.record->state != nvme::CommandState::free ? 1 : 0;
        }
        all.push_back(std::move(status));
    }
    return all;
}

}  // namespace transport
