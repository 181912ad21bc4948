// All NVMe/TCP connections of a reactor: listeners, acceptance within limits, the slots in the arena, ends.
//
// Without a keeper it accepts by itself and its sockets die with the process. With one, sockets arrive by
// `take` and `adopt`, and `closed` tells the keeper when to forget one.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "durable/arena.h"
#include "nvme/target.h"
#include "reactor/data_buffers.h"
#include "reactor/reactor.h"
#include "transport/memory_regions.h"
#include "transport/tcp_connection.h"

namespace transport {

struct ListenerSpec {
    std::string id;
    std::string address;
    std::string family;      // "ipv4", "ipv6"
    std::uint16_t port = 0;  // 0: any free one
    bool discovery_only = false;
    std::string advertise;  // what discovery says instead of `address`; empty: the address
    DigestPolicies digests;
    int descriptor = -1;  // a listening socket that somebody else owns; it is duplicated
    bool kept = false;    // a keeper accepts, connections come by `take`
};

struct ListenerStatus {
    std::string id, address, family;
    std::uint16_t port = 0;
    bool discovery_only = false;
};

struct TransportLimits {
    std::uint32_t connections = limits::connections_max;
    std::uint32_t connections_per_address = limits::connections_max;
};

struct ConnectionStatus {
    std::uint32_t slot = 0;
    std::uint64_t id = 0;
    nvme::Endpoint endpoint;
    bool header_digest = false, data_digest = false;
    const char* state = "";
    TcpCounters counters;
    const nvme::QueueRecord* queue = nullptr;
    std::uint32_t commands_in_flight = 0;
};

class TcpTransport {
  public:
    // Positions of the arena regions that this transport uses.
    struct Regions {
        std::size_t connections, commands, transmit, stream;
    };

    TcpTransport(reactor::Reactor& reactor, nvme::Target& target, reactor::DataBuffers& buffers,
                 const MemoryRegions& memory, durable::Arena& arena, const Regions& regions,
                 const TcpOptions& options, const TransportLimits& transport_limits);
    ~TcpTransport();
    TcpTransport(const TcpTransport&) = delete;
    TcpTransport& operator=(const TcpTransport&) = delete;

    // E_PORT_IN_USE, E_INVALID (address), E_DENIED (a privileged port), E_IO, E_EXISTS
    base::Result<ListenerStatus> add_listener(const ListenerSpec& spec);
    // What may change without closing the port: `advertise` and `digests`, for hosts that come from now on.
    // E_NOT_FOUND
    base::Result<void> set_listener(const ListenerSpec& spec);
    // Connections that came through it stay. E_NOT_FOUND
    base::Result<void> remove_listener(const std::string& id);
    std::vector<ListenerStatus> listeners() const;
    // Its listening socket, or -1. Stays this transport's.
    int listener_socket(const std::string& id) const;
    bool is_discovery_listener(const std::string& id) const;

    // A connection that a keeper accepted; owned by this transport from here on, also if it is refused.
    bool take(int socket, std::uint64_t id, bool discovery_only);
    // A connection that a dead process may have used. Goes on with it if its record is there. `unread`:
    // nothing of it was read yet, it is to be begun by `take` after forget_unadopted. `refused`: closed,
    // `why` says the reason.
    enum class Adoption : std::uint8_t { carried, unread, refused };
    // `veto` looks at the record first; a text is the reason to refuse.
    using Veto = std::function<std::string(const ConnectionRecord& record)>;
    Adoption adopt(int socket, std::uint64_t id, bool discovery_only, const Veto& veto, std::string& why);
    // After all were adopted: forgets the records of connections that nobody holds any more.
    void forget_unadopted();
    // After the devices are free of the dead process. Answers how many commands were executed again. What
    // hosts sent meanwhile is read in the next iteration, so that what was left to say goes out first.
    std::uint32_t execute_adopted();

    // For a planned replacement (tcp_carry.cc). After `stop_reading`, once `receives` has become false, no
    // byte is taken from any socket until `go_on_reading`.
    void stop_reading();
    void go_on_reading();
    bool receives() const;

    // Ends all connections, then calls `closed`. Listeners stop first.
    void shut_down(std::function<void()> closed);
    // Ends the connections of a host (all its subsystems, or one); answers how many.
    std::uint32_t disconnect(const std::function<bool(TcpConnection&)>& matches, const char* reason);

    // Whether any connection has still bytes of this memory to send.
    bool sends_from(std::uint16_t region);

    std::vector<ConnectionStatus> connections();
    TcpConnection* connection(std::uint32_t slot) {
        return slot < connections_.size() ? connections_[slot].get() : nullptr;
    }

    // Told once for each connection after its socket was closed: (id, reason).
    std::function<void(std::uint64_t, const std::string&)> closed;
    std::function<void(const std::string& level, const std::string& message)> log;

    base::Nanoseconds first_sent_at() const { return around_.first_sent_at; }
    std::uint64_t accepted() const { return accepted_; }
    std::uint64_t refused() const { return refused_; }
    const std::map<std::string, std::uint64_t>& end_reasons() const { return end_reasons_; }

  private:
    struct Listener;
    void accept_next(Listener& listener);
    void accepted_one(Listener& listener, std::int32_t result);
    base::Result<int> open_listener(const ListenerSpec& spec);
    TcpSlots slots_of(std::uint32_t number);
    bool admit_address(const std::string& address);
    // What connections from one address have together.
    struct OfAddress {
        std::uint32_t connections = 0;
        std::shared_ptr<reactor::HostBuffers> buffers;
    };
    OfAddress& of_address(const std::string& address);
    void forget_address(const std::string& address);
    DigestPolicies policies_for(const nvme::Endpoint& endpoint) const;
    void drop_listener(Listener& listener);
    void reap();
    void update_discovery();
    void check_shut_down();

    void read_adopted();

    reactor::Reactor& reactor_;
    nvme::Target& target_;
    durable::Arena& arena_;
    Regions regions_;
    TcpOptions options_;
    TransportLimits limits_;
    TcpConnection::Surroundings around_;
    std::vector<std::unique_ptr<TcpConnection>> connections_;  // by slot
    std::vector<std::uint32_t> free_slots_;
    std::map<std::string, OfAddress> by_address_;
    std::vector<std::unique_ptr<Listener>> listeners_;
    std::vector<std::unique_ptr<Listener>> closing_listeners_;
    std::vector<TcpConnection*> ended_;
    reactor::MemberTimer<&TcpTransport::read_adopted> adopted_reads_;  // of the connections that were adopted
    reactor::MemberDeferred<&TcpTransport::reap> reap_;
    std::map<std::string, std::uint64_t> end_reasons_;
    std::uint64_t accepted_ = 0;
    std::uint64_t refused_ = 0;
    std::uint64_t next_id_ = 1;
    bool shutting_down_ = false;
    std::function<void()> shut_down_done_;
};

}  // namespace transport
