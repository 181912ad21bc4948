// The kernel of the initiator fuzzer: connections that exist only in memory, whose other end is the script's.
// Bytes arrive and leave in pieces of its choice, and the clock moves when it says so.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "reactor/kernel.h"

namespace fuzz {

inline void require(bool condition, const char* what) {
    if (!condition) {
        std::fprintf(stderr, "violated: %s\n", what);
        std::abort();
    }
}

// One connection, from the host's connect on. It stays when the host has closed it.
struct Link {
    std::vector<std::uint8_t> to_host;
    std::size_t taken = 0;
    std::vector<std::uint8_t> from_host;  // that the peer has not looked at
    std::size_t receive_max = ~std::size_t{0};
    std::size_t send_max = ~std::size_t{0};
    bool ended = false;  // FIN after what is in `to_host`
    int error = 0;       // instead of any further transfer
    bool gone = false;   // the host has ended it

    msghdr* receiving = nullptr;
    reactor::Operation* receive_operation = nullptr;
    const msghdr* sending = nullptr;
    reactor::Operation* send_operation = nullptr;  // or connecting
    bool receive_cancelled = false;
    bool send_cancelled = false;
};

class PeerKernel final : public reactor::Kernel {
  public:
    std::vector<std::unique_ptr<Link>> links;  // in the order in which the host made them
    bool refuses = false;                      // connections

    void pass(base::Nanoseconds duration) { now_ += duration; }

    void connect(int descriptor, const sockaddr&, socklen_t, reactor::Operation& operation) override {
        links.push_back(std::make_unique<Link>());
        Link& link = *links.back();
        present_[descriptor] = &link;
        link.error = refuses ? ECONNREFUSED : 0;
        link.send_operation = &operation;
    }
    void receive(int descriptor, msghdr& message, int, reactor::Operation& operation) override {
        Link& link = *present_.at(descriptor);
        require(link.receive_operation == nullptr, "one receive at a time");
        std::size_t room = 0;
        for (std::size_t i = 0; i < message.msg_iovlen; ++i) {
            room += message.msg_iov[i].iov_len;
        }
        require(room != 0, "a receive without room looks like the end of the stream");
        link.receiving = &message;
        link.receive_operation = &operation;
    }
    void send(int descriptor, const msghdr& message, int, reactor::Operation& operation) override {
        Link& link = *present_.at(descriptor);
        require(link.send_operation == nullptr, "one send at a time");
        link.sending = &message;
        link.send_operation = &operation;
    }
    void cancel(reactor::Operation& target) override {
        for (const auto& link : links) {
            if (link->receive_operation == &target) {
                link->receive_cancelled = link->gone = true;
            }
            if (link->send_operation == &target) {
                link->send_cancelled = link->gone = true;
            }
        }
    }
    void wait(base::Nanoseconds) override {
        for (std::size_t i = 0; i < links.size(); ++i) {  // who is told may connect
            Link& link = *links[i];
            complete_send(link);
            complete_receive(link);
        }
    }

    base::Nanoseconds now() override { return now_; }
    void wake() override {}
    bool register_memory(std::span<std::byte>) override { return false; }
    void accept(int, reactor::Operation&) override { unexpected(); }
    void read(int, std::span<std::byte>, std::uint64_t, reactor::Operation&) override { unexpected(); }
    void write(int, std::span<const std::byte>, std::uint64_t, bool, reactor::Operation&) override {
        unexpected();
    }
    void sync(int, reactor::Operation&) override { unexpected(); }
    void allocate(int, int, std::uint64_t, std::uint64_t, reactor::Operation&) override { unexpected(); }
    void discard(int, std::uint64_t, std::uint64_t, reactor::Operation&) override { unexpected(); }
    void poll(int, std::uint32_t, reactor::Operation&) override { unexpected(); }

  private:
    static void unexpected() { require(false, "an initiator needs sockets only"); }

    static void complete_send(Link& link) {
        if (link.send_operation == nullptr) {
            return;
        }
        std::int32_t result = 0;
        if (link.send_cancelled) {
            result = -ECANCELED;
        } else if (link.error != 0) {
            result = -link.error;
        } else if (link.sending != nullptr) {
            std::size_t left = link.send_max;
            for (std::size_t i = 0; i < link.sending->msg_iovlen && left != 0; ++i) {
                const auto* data = static_cast<const std::uint8_t*>(link.sending->msg_iov[i].iov_base);
                const std::size_t bytes = std::min(left, link.sending->msg_iov[i].iov_len);
                link.from_host.insert(link.from_host.end(), data, data + bytes);
                left -= bytes;
                result += static_cast<std::int32_t>(bytes);
            }
            if (result == 0) {
                return;  // blocked
            }
        }
        reactor::Operation& operation = *link.send_operation;
        link.send_operation = nullptr;
        link.sending = nullptr;
        operation.complete(operation, result);
    }

    static void complete_receive(Link& link) {
        if (link.receive_operation == nullptr) {
            return;
        }
        std::int32_t result = 0;
        if (link.receive_cancelled) {
            result = -ECANCELED;
        } else if (link.error != 0) {
            result = -link.error;
        } else if (link.taken != link.to_host.size()) {
            std::size_t left = std::min(link.receive_max, link.to_host.size() - link.taken);
            for (std::size_t i = 0; i < link.receiving->msg_iovlen && left != 0; ++i) {
                const std::size_t bytes = std::min(left, link.receiving->msg_iov[i].iov_len);
                std::memcpy(link.receiving->msg_iov[i].iov_base, link.to_host.data() + link.taken, bytes);
                link.taken += bytes;
                left -= bytes;
                result += static_cast<std::int32_t>(bytes);
            }
        } else if (!link.ended) {
            return;  // nothing is here
        }
        reactor::Operation& operation = *link.receive_operation;
        link.receive_operation = nullptr;
        operation.complete(operation, result);
    }

    std::map<int, Link*> present_;  // by descriptor
    base::Nanoseconds now_ = 1'000 * base::second;
};

}  // namespace fuzz
