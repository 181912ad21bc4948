// The kernel of the fuzzers: sockets that exist only in memory. Bytes arrive and leave in pieces of the
// script's choice, and the clock moves when the script says so. Nothing but sockets works.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "reactor/kernel.h"

namespace fuzz {

inline void require(bool condition, const char* what) {
    if (!condition) {
        std::fprintf(stderr, "violated: %s\n", what);
        std::abort();
    }
}

// The end of a connection that the code under test has; the other end is the script's.
struct Socket {
    std::vector<std::uint8_t> incoming;  // what the script has sent
    std::size_t taken = 0;               // of it
    std::vector<std::uint8_t> outgoing;  // what the script has not looked at
    std::size_t receive_max = ~std::size_t{0};
    std::size_t send_max = ~std::size_t{0};
    bool ended = false;      // FIN after what is in `incoming`
    int error = 0;           // instead of any further transfer
    bool shut_down = false;  // by the code under test, both ways

    msghdr* receiving = nullptr;
    reactor::Operation* receive_operation = nullptr;
    bool receive_cancelled = false;
    const msghdr* sending = nullptr;               // null: connecting
    reactor::Operation* send_operation = nullptr;  // or of the connecting
    bool send_cancelled = false;
};

class SocketKernel : public reactor::Kernel {
  public:
    void pass(base::Nanoseconds duration) { now_ += duration; }
    // Whether memory may be given to somebody else.
    std::function<bool(const void*)> is_free;

    void receive(int descriptor, msghdr& message, int, reactor::Operation& operation) final {
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
    void send(int descriptor, const msghdr& message, int, reactor::Operation& operation) final {
        Socket& s = socket(descriptor);
        require(s.send_operation == nullptr, "one send at a time");
        s.sending = &message;
        s.send_operation = &operation;
    }

    base::Nanoseconds now() final { return now_; }
    void wake() final {}
    bool register_memory(std::span<std::byte>) final { return false; }
    void cancel(reactor::Operation&) override { unexpected(); }
    void connect(int, const sockaddr&, socklen_t, reactor::Operation&) override { unexpected(); }
    void accept(int, reactor::Operation&) final { unexpected(); }
    void read(int, std::span<std::byte>, std::uint64_t, reactor::Operation&) final { unexpected(); }
    void write(int, std::span<const std::byte>, std::uint64_t, bool, reactor::Operation&) final {
        unexpected();
    }
    void sync(int, reactor::Operation&) final { unexpected(); }
    void allocate(int, int, std::uint64_t, std::uint64_t, reactor::Operation&) final { unexpected(); }
    void discard(int, std::uint64_t, std::uint64_t, reactor::Operation&) final { unexpected(); }
    void poll(int, std::uint32_t, reactor::Operation&) final { unexpected(); }

  protected:
    virtual Socket& socket(int descriptor) = 0;

    // Ends what can end by now.
    void serve(Socket& s) {
        complete_send(s);
        complete_receive(s);
    }

  private:
    static void unexpected() { require(false, "no operation of this kind without files"); }

    static void complete_send(Socket& s) {
        if (s.send_operation == nullptr) {
            return;
        }
        std::int32_t result = 0;
        if (s.send_cancelled) {
            result = -ECANCELED;
        } else if (s.error != 0) {
            result = -s.error;
        } else if (s.shut_down) {
            result = -EPIPE;
        } else if (s.sending != nullptr) {
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
        s.sending = nullptr;
        operation.complete(operation, result);
    }

    void complete_receive(Socket& s) {
        if (s.receive_operation == nullptr) {
            return;
        }
        std::int32_t result = 0;
        if (s.receive_cancelled) {
            result = -ECANCELED;
        } else if (s.error != 0) {
            result = -s.error;
        } else if (s.taken != s.incoming.size()) {  // what has arrived is taken even after a shutdown
            std::size_t left = std::min(s.receive_max, s.incoming.size() - s.taken);
            for (std::size_t i = 0; i < s.receiving->msg_iovlen && left != 0; ++i) {
                const std::size_t bytes = std::min(left, s.receiving->msg_iov[i].iov_len);
                require(!is_free || !is_free(s.receiving->msg_iov[i].iov_base),
                        "nothing is received into memory that was given back");
                std::memcpy(s.receiving->msg_iov[i].iov_base, s.incoming.data() + s.taken, bytes);
                s.taken += bytes;
                left -= bytes;
                result += static_cast<std::int32_t>(bytes);
            }
        } else if (!s.shut_down && !s.ended) {
            return;  // nothing is here
        }
        reactor::Operation& operation = *s.receive_operation;
        s.receive_operation = nullptr;
        operation.complete(operation, result);
    }

    base::Nanoseconds now_ = 1'000 * base::second;
};

}  // namespace fuzz
