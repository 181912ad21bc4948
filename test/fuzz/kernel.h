// The kernel of the connection fuzzer: two sockets in memory whose bytes arrive and leave in pieces of the
// script's choice, and a clock that moves when the script says so.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "reactor/kernel.h"

namespace fuzz {

struct Socket {
    std::vector<std::uint8_t> incoming;  // what the host has sent
    std::size_t taken = 0;
    std::size_t receive_max = ~std::size_t{0};
    std::size_t send_max = ~std::size_t{0};
    bool host_closed = false;            // FIN after what is in `incoming`
    int error = 0;                       // instead of any further transfer
    bool shut_down = false;              // by the server, both ways
    std::vector<std::uint8_t> outgoing;  // what the server has sent and the host has not looked at

    msghdr* receiving = nullptr;
    reactor::Operation* receive_operation = nullptr;
    const msghdr* sending = nullptr;
    reactor::Operation* send_operation = nullptr;
};

class Kernel final : public reactor::Kernel {
  public:
    static constexpr int socket_count = 2;
    // Numbers that are no descriptors of this process.
    static constexpr int first_descriptor = 1 << 20;

    Socket& socket(int descriptor) {
        return sockets_.at(static_cast<std::size_t>(descriptor - first_descriptor));
    }
    void pass(base::Nanoseconds duration) { now_ += duration; }

    void receive(int descriptor, msghdr& message, int, reactor::Operation& operation) override {
        Socket& s = socket(descriptor);
        require(s.receive_operation == nullptr, "one receive at a time");
        std::size_t room = 0;
        for (std::size_t i = 0; i < message.msg_iovlen; ++i) {
            room += message.msg_iov[i].iov_len;
        }
        require(room != 0, "a receive without room looks like the end of the stream");
        s.receiving = &message;
        s.receive_operation = &operation;
    }

    void send(int descriptor, const msghdr& message, int, reactor::Operation& operation) override {
        Socket& s = socket(descriptor);
        require(s.send_operation == nullptr, "one send at a time");
        s.sending = &message;
        s.send_operation = &operation;
    }

    void wait(base::Nanoseconds) override {
        for (Socket& s : sockets_) {
            complete_send(s);
            complete_receive(s);
        }
    }

    base::Nanoseconds now() override { return now_; }
    void wake() override {}
    bool register_memory(std::span<std::byte>) override { return false; }
    void cancel(reactor::Operation&) override { unexpected(); }
    void accept(int, reactor::Operation&) override { unexpected(); }
    void connect(int, const sockaddr&, socklen_t, reactor::Operation&) override { unexpected(); }
    void read(int, std::span<std::byte>, std::uint64_t, reactor::Operation&) override { unexpected(); }
    void write(int, std::span<const std::byte>, std::uint64_t, bool, reactor::Operation&) override {
        unexpected();
    }
    void sync(int, reactor::Operation&) override { unexpected(); }
    void allocate(int, int, std::uint64_t, std::uint64_t, reactor::Operation&) override { unexpected(); }
    void discard(int, std::uint64_t, std::uint64_t, reactor::Operation&) override { unexpected(); }
    void poll(int, std::uint32_t, reactor::Operation&) override { unexpected(); }

    static void require(bool condition, const char* what) {
        if (!condition) {
            std::fprintf(stderr, "violated: %s\n", what);
            std::abort();
        }
    }

  private:
    static void unexpected() { require(false, "no operation of this kind without files"); }

    static void complete_send(Socket& s) {
        if (s.send_operation == nullptr) {
            return;
        }
        std::int32_t result = 0;
        if (s.shut_down || s.error != 0) {
            result = s.error != 0 ? -s.error : -EPIPE;
        } else {
            std::size_t left = s.send_max;
            for (std::size_t i = 0; i < s.sending->msg_iovlen && left != 0; ++i) {
                const auto* data = static_cast<const std::uint8_t*>(s.sending->msg_iov[i].iov_base);
                const std::size_t bytes = std::min(left, s.sending->msg_iov[i].iov_len);
                s.outgoing.insert(s.outgoing.end(), data, data + bytes);
                left -= bytes;
                result += static_cast<std::int32_t>(bytes);
            }
            if (result == 0) {
                return;  // blocked
            }
        }
        reactor::Operation& operation = *s.send_operation;
        s.send_operation = nullptr;
        operation.complete(operation, result);
    }

    static void complete_receive(Socket& s) {
        if (s.receive_operation == nullptr) {
            return;
        }
        std::int32_t result = 0;
        const bool ended = s.shut_down || s.error != 0;
        if (!ended && s.taken != s.incoming.size()) {
            std::size_t left = std::min(s.receive_max, s.incoming.size() - s.taken);
            for (std::size_t i = 0; i < s.receiving->msg_iovlen && left != 0; ++i) {
                const std::size_t bytes = std::min(left, s.receiving->msg_iov[i].iov_len);
                std::memcpy(s.receiving->msg_iov[i].iov_base, s.incoming.data() + s.taken, bytes);
                s.taken += bytes;
                left -= bytes;
                result += static_cast<std::int32_t>(bytes);
            }
        } else if (s.error != 0) {
            result = -s.error;
        } else if (!s.shut_down && !s.host_closed) {
            return;  // nothing is here
        }
        reactor::Operation& operation = *s.receive_operation;
        s.receive_operation = nullptr;
        operation.complete(operation, result);
    }

    std::array<Socket, socket_count> sockets_;
    base::Nanoseconds now_ = 1'000 * base::second;
};

}  // namespace fuzz
