// The raw limit of the loopback: the bytes of an NVMe/TCP I/O without NVMe. The client sends `up` bytes for
// each I/O, the server answers each with `down` bytes; both batch as the target and keel-load do: what an
// iteration of the reactor produced leaves with one system call, and the depth bounds what is under way.
//
//   echo serve --port N --up BYTES --down BYTES [--memory BYTES]     prints READY
//   echo load  --port N --up BYTES --down BYTES --depth N --connections N --seconds N --warmup N [--progress]
//
// With --memory each answer comes from a random page of as much memory, as it does with a RAM disk; otherwise
// from one place that stays in the cache.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <vector>

#include "../measurement.h"
#include "base/check.h"
#include "reactor/reactor.h"
#include "reactor/uring_kernel.h"

namespace {

constexpr std::size_t receive_bytes = 256 * 1024;
constexpr std::size_t segments_max = 256;
constexpr std::size_t page = 4096;

// One direction's bytes: where a message comes from.
class Source {
  public:
    Source(std::size_t message_bytes, std::size_t memory_bytes) : bytes_(message_bytes) {
        pages_ = memory_bytes / page;
        const std::size_t total = std::max(memory_bytes, page) + message_bytes;
        void* const memory =
            mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        EK_CHECK(memory != MAP_FAILED, "no memory");
        memory_ = static_cast<std::byte*>(memory);
    }
    iovec next() { return {memory_ + (pages_ != 0 ? random_.below(pages_) * page : 0), bytes_}; }
    std::size_t bytes() const { return bytes_; }

  private:
    std::size_t bytes_;
    std::size_t pages_ = 0;
    std::byte* memory_ = nullptr;
    bench::Random random_;
};

// A connection that sends whole messages and counts whole messages that arrive.
class Connection {
  public:
    using Arrived = void (*)(Connection& connection, std::uint64_t messages);

    Connection(reactor::Reactor& reactor, int socket, Source& source, std::size_t incoming_bytes,
               Arrived arrived, void* owner)
        : owner_(owner),
          reactor_(reactor),
          socket_(socket),
          source_(source),
          incoming_bytes_(incoming_bytes),
          arrived_(arrived),
          buffer_(receive_bytes),
          flush_(reactor, *this) {
        receive_.connection = send_.connection = this;
        receive_.complete = [](reactor::Operation& operation, std::int32_t result) {
            static_cast<SocketOperation&>(operation).connection->received(result);
        };
        send_.complete = [](reactor::Operation& operation, std::int32_t result) {
            static_cast<SocketOperation&>(operation).connection->sent(result);
        };
        receive();
    }

    void queue(std::uint64_t messages) {
        queued_ += messages;
        flush_.schedule();
    }
    void* owner() const { return owner_; }

  private:
    struct SocketOperation : reactor::Operation {
        Connection* connection = nullptr;
    };
    struct Flush : reactor::Deferred {
        Flush(reactor::Reactor& reactor, Connection& owner)
            : Deferred(reactor, [](Deferred& work) { static_cast<Flush&>(work).connection.flush(); }),
              connection(owner) {}
        Connection& connection;
    };

    void receive() {
        receive_segment_ = {buffer_.data(), buffer_.size()};
        receive_message_.msg_iov = &receive_segment_;
        receive_message_.msg_iovlen = 1;
        reactor_.kernel().receive(socket_, receive_message_, 0, receive_);
    }
    void received(std::int32_t result) {
        if (result <= 0) {
            ::shutdown(socket_, SHUT_RDWR);
            return;  // the other side has ended; this program soon will
        }
        received_ += static_cast<std::uint64_t>(result);
        const std::uint64_t messages = received_ / incoming_bytes_;
        received_ -= messages * incoming_bytes_;
        if (messages != 0) {
            arrived_(*this, messages);
        }
        receive();
    }
    void flush() {
        if (sending_) {
            return;
        }
        while (queued_ != 0 && used_ < segments_max) {
            segments_[used_++] = source_.next();
            --queued_;
        }
        if (first_ == used_) {
            return;
        }
        send_message_.msg_iov = segments_ + first_;
        send_message_.msg_iovlen = used_ - first_;
        sending_ = true;
        reactor_.kernel().send(socket_, send_message_, MSG_NOSIGNAL, send_);
    }
    void sent(std::int32_t result) {
        sending_ = false;
        if (result <= 0) {
            return;
        }
        for (auto left = static_cast<std::size_t>(result); left != 0;) {
            iovec& segment = segments_[first_];
            const std::size_t part = std::min(left, segment.iov_len);
            segment.iov_base = static_cast<std::byte*>(segment.iov_base) + part;
            segment.iov_len -= part;
            left -= part;
            first_ += segment.iov_len == 0 ? 1 : 0;
        }
        if (first_ == used_) {
            first_ = used_ = 0;
        }
        if (used_ != 0 || queued_ != 0) {
            flush_.schedule();
        }
    }

    void* owner_;
    reactor::Reactor& reactor_;
    int socket_;
    Source& source_;
    std::size_t incoming_bytes_;
    Arrived arrived_;
    std::vector<std::byte> buffer_;
    std::uint64_t received_ = 0;
    std::uint64_t queued_ = 0;
    iovec segments_[segments_max];
    std::size_t first_ = 0, used_ = 0;
    bool sending_ = false;
    iovec receive_segment_{};
    msghdr receive_message_{}, send_message_{};
    SocketOperation receive_, send_;
    Flush flush_;
};

sockaddr_in address_of(const bench::Arguments& arguments) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(arguments.number("--port")));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int new_socket() {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return socket;
}

int serve(reactor::Reactor& reactor, const bench::Arguments& arguments) {
    Source source(arguments.number("--down"), arguments.number("--memory", "0"));
    const std::size_t up = arguments.number("--up");
    const int listener = new_socket();
    const sockaddr_in address = address_of(arguments);
    if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener, 1024) != 0) {
        std::perror("echo: cannot listen");
        return 1;
    }
    struct Acceptor : reactor::Operation {
        reactor::Reactor* reactor;
        Source* source;
        std::size_t up;
        int listener;
        std::vector<std::unique_ptr<Connection>> connections;
        void accept() { reactor->kernel().accept(listener, *this); }
    } acceptor;
    acceptor.reactor = &reactor;
    acceptor.source = &source;
    acceptor.up = up;
    acceptor.listener = listener;
    acceptor.complete = [](reactor::Operation& operation, std::int32_t socket) {
        auto& self = static_cast<Acceptor&>(operation);
        if (socket >= 0) {
            self.connections.push_back(std::make_unique<Connection>(
                *self.reactor, socket, *self.source, self.up,
                [](Connection& connection, std::uint64_t messages) { connection.queue(messages); }, nullptr));
        }
        self.accept();
    };
    acceptor.accept();
    std::puts("READY");
    std::fflush(stdout);
    for (;;) {
        reactor.run_once(reactor::no_deadline);
    }
}

int load(reactor::Reactor& reactor, const bench::Arguments& arguments) {
    Source source(arguments.number("--up"), 0);
    const auto depth = static_cast<std::uint32_t>(arguments.number("--depth"));
    bench::Measurement measurement(std::strtod(arguments.text("--warmup", "0").c_str(), nullptr),
                                   std::strtod(arguments.text("--seconds").c_str(), nullptr),
                                   arguments.has("--progress"));
    // Answers come in the order of the questions, so the times of issue are a ring.
    struct Client {
        std::unique_ptr<Connection> connection;
        std::vector<base::Nanoseconds> issued;
        std::size_t next = 0;
        bench::Measurement* measurement = nullptr;
        reactor::Reactor* reactor = nullptr;
        bool* running = nullptr;
    };
    bool running = true;
    std::vector<Client> clients(arguments.number("--connections", "1"));
    const sockaddr_in address = address_of(arguments);
    for (Client& client : clients) {
        const int socket = new_socket();
        if (connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
            std::perror("echo: cannot connect");
            return 1;
        }
        client.issued.assign(depth, reactor.now());
        client.measurement = &measurement;
        client.reactor = &reactor;
        client.running = &running;
        client.connection = std::make_unique<Connection>(
            reactor, socket, source, arguments.number("--down"),
            [](Connection& connection, std::uint64_t messages) {
                auto& self = *static_cast<Client*>(connection.owner());
                const base::Nanoseconds now = self.reactor->now();
                for (std::uint64_t i = 0; i < messages; ++i) {
                    base::Nanoseconds& issued = self.issued[self.next];
                    self.next = self.next + 1 == self.issued.size() ? 0 : self.next + 1;
                    *self.running = self.measurement->add(issued, now) && *self.running;
                    issued = now;
                }
                connection.queue(messages);
            },
            &client);
        client.connection->queue(depth);
    }
    while (running) {
        reactor.run_once(reactor::no_deadline);
    }
    measurement.print();
    std::fflush(stdout);
    std::_Exit(0);  // operations are under way
}

}  // namespace

int main(int argc, char** argv) {
    const bench::Arguments arguments(argc, argv);
    auto kernel = reactor::UringKernel::make();
    if (!kernel) {
        std::fprintf(stderr, "echo: %s\n", kernel.error().message.c_str());
        return 1;
    }
    reactor::Reactor reactor(*kernel.value());
    const std::string_view mode = argc > 1 ? argv[1] : "";
    if (mode == "serve") {
        return serve(reactor, arguments);
    }
    if (mode == "load") {
        return load(reactor, arguments);
    }
    std::fputs("usage: echo serve|load --port N --up BYTES --down BYTES …\n", stderr);
    return 2;
}
