// What a server does between QUIESCE and its end, or what follows instead: a keeper that is played here asks
// for rest, looks at what it gets, and then does not replace the server.
//
// KEEL_RESTS sets how often (default 10).

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "durable/arena.h"
#include "durable/keeper_protocol.h"
#include "engine/arena_layout.h"
#include "engine/carry.h"
#include "engine/engine.h"
#include "loads.h"

namespace crash {

namespace {

using durable::KeeperMessage;
using durable::KeeperReceive;

class PlayedKeeper {
  public:
    PlayedKeeper() {
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const int on = 1;
        setsockopt(listener_, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
        setsockopt(listener_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EK_CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "bind");
        EK_CHECK(listen(listener_, 128) == 0, "listen");
        socklen_t length = sizeof address;
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
        port = ntohs(address.sin_port);
        int pair[2];
        EK_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
        channel_ = pair[0];
        setenv("KEEL_KEEPER_FD", std::to_string(pair[1]).c_str(), 1);
        say(KeeperMessage("ROLE").add("role", "active").add("generation", 1));
        say(KeeperMessage("END").add("of", "memory").add("count", 0));
        say(KeeperMessage("GO").add("reason", "start"));
        say(KeeperMessage("END").add("of", "all").add("count", 0));
        acceptor_ = std::thread([this] { accept_all(); });
    }
    ~PlayedKeeper() {
        ::shutdown(listener_, SHUT_RDWR);
        acceptor_.join();
        for (const int descriptor : sockets_) {
            close(descriptor);
        }
        close(listener_);
        if (arena >= 0) {
            close(arena);
        }
        close(channel_);
    }

    void say(const KeeperMessage& message, int descriptor = -1) {
        EK_CHECK(durable::send_keeper_message(channel_, message, descriptor) == durable::KeeperSend::sent,
                 "the channel takes a message");
    }
    // Waits for a message of this verb (and name); what else comes is looked at and dropped.
    bool hear(std::string_view verb, std::string_view name = "") {
        const base::Nanoseconds deadline = base::monotonic_now() + 20 * base::second;
        while (base::monotonic_now() < deadline) {
            KeeperReceive received = durable::receive_keeper_message(channel_);
            if (received.outcome == KeeperReceive::Outcome::nothing) {
                pollfd wait{channel_, POLLIN, 0};
                poll(&wait, 1, 100);
                continue;
            }
            if (received.outcome != KeeperReceive::Outcome::message) {
                return false;
            }
            const bool stored = received.message->verb() == "STORE";
            const std::string what = received.message->value("name");
            if (stored && what == "carry") {
                struct stat info {};
                fstat(received.descriptor, &info);
                carry.resize(static_cast<std::size_t>(info.st_size));
                EK_CHECK(pread(received.descriptor, carry.data(), carry.size(), 0) == info.st_size, "read");
            }
            if (stored && what == "arena") {
                arena = received.descriptor;
            } else if (received.descriptor >= 0) {
                close(received.descriptor);
            }
            if (received.message->verb() == verb && (name.empty() || what == name)) {
                return true;
            }
        }
        return false;
    }
    std::uint64_t mark() const {
        const auto header = durable::Arena::peek(arena);
        return header ? header->counters[engine::counter_described] : 0;
    }

    std::uint16_t port = 0;
    int arena = -1;
    std::string carry;
    std::atomic<std::uint32_t> accepted{0};

  private:
    void accept_all() {
        for (;;) {
            const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            if (socket < 0) {
                return;
            }
            sockets_.push_back(socket);
            say(KeeperMessage("CONNECTION").add("id", ++accepted).add("name", "listener"), socket);
        }
    }

    int listener_ = -1;
    int channel_ = -1;
    std::vector<int> sockets_;
    std::thread acceptor_;
};

std::unique_ptr<engine::Engine> serve() {
    auto link = engine::KeeperLink::open("test");
    REQUIRE(link.ok());
    engine::Options options;
    options.data_pool_bytes = 64ull << 20;
    options.connections_max = 128;
    options.controllers_max = 32;
    auto made = engine::Engine::make(options, link.take());
    REQUIRE(made.ok());
    std::unique_ptr<engine::Engine> engine = made.take();
    engine->start([](engine::Event&&) {});
    engine::Engine* serving = engine.get();
    engine->post([serving] {
        serving->take_over([serving](const engine::Takeover&) {
            serving->target().set_admission_hook(nullptr);
            serving->target().set_loading(true);
            block::DeviceSpec disk;
            disk.name = "disk";
            disk.kind = "ram";
            disk.size_bytes = ram_bytes;
            EK_CHECK(serving->add_device(disk, -1).ok(), "disk");
            block::DeviceSpec delay;
            delay.name = "delay";
            delay.kind = "delay";
            delay.base = "disk";
            delay.read_delay_us = delay.write_delay_us = 500;
            EK_CHECK(serving->add_device(delay, -1).ok(), "delay");
            nvme::SubsystemSpec subsystem;
            subsystem.nqn = subsystem_nqn;
            subsystem.serial = "CRASH";
            subsystem.allow_any_host = true;
            EK_CHECK(serving->target().add_subsystem(subsystem).ok(), "subsystem");
            nvme::NamespaceSpec ns;
            ns.nsid = 1;
            ns.device = "delay";
            ns.nguid[0] = ns.uuid[0] = 1;
            EK_CHECK(serving->add_namespace(subsystem_nqn, ns).ok(), "namespace");
            (void)serving->adopt();
            serving->target().set_loading(false);
        });
    });
    return engine;
}

void stop(engine::Engine& engine) {
    engine.stop([] {});
    engine.join();
}

double milliseconds_since(base::Nanoseconds begin) {
    return static_cast<double>(base::monotonic_now() - begin) / 1e6;
}

}  // namespace

TEST_CASE("a replacement that fails after everything was described costs the hosts nothing") {
    PlayedKeeper keeper;
    auto engine = serve();
    REQUIRE(keeper.hear("READY"));
    std::vector<std::unique_ptr<Load>> loads;
    for (std::uint32_t i = 0; i < 4; ++i) {
        // 15 queues of depth 8, and the admin queue: 64 connections in all
        loads.push_back(std::make_unique<Load>(keeper.port, 1, i % 2 != 0, i < 2 ? 4096u : 16384u,
                                               std::uint16_t{15}, std::uint16_t{8}, 8 << 20,
                                               std::uint64_t{i} * (8 << 20)));
    }
    for (auto& load : loads) {
        while (load->completed() == 0 && !load->ended()) {
            usleep(1000);
        }
    }
    std::vector<double> rests;
    std::size_t bytes_max = 0;
    const std::uint64_t rounds = from_environment("KEEL_RESTS", 10);
    for (std::uint64_t round = 0; round < rounds; ++round) {
        for (auto& load : loads) {
            const std::uint64_t before = load->completed();
            while (load->completed() == before && !load->ended()) {
                usleep(1000);
            }
        }
        keeper.carry.clear();
        const base::Nanoseconds begin = base::monotonic_now();
        keeper.say(KeeperMessage("QUIESCE").add("deadline_ms", 2000));
        REQUIRE(keeper.hear("QUIESCED"));
        rests.push_back(milliseconds_since(begin));
        bytes_max = std::max(bytes_max, keeper.carry.size());
        const auto text = engine::CarryText::parse(keeper.carry);
        REQUIRE(text.ok());
        CHECK(engine::origin_of(text.value()).mark == keeper.mark());
        CHECK(keeper.mark() != 0);
        std::uint32_t connections = 0;
        for (std::size_t i = 0; i < text.value().size(); ++i) {
            connections += text.value().at(i).kind() == "connection" ? 1 : 0;
        }
        CHECK(connections == 64);
        keeper.say(KeeperMessage("RESTART-FAILED").add("reason", "a test"));
        REQUIRE(keeper.hear("FORGET", "carry"));
        CHECK(keeper.mark() == 0);
    }
    for (auto& load : loads) {
        const LoadResult& result = load->finish();
        for (const std::string& text : result.error_texts) {
            std::fprintf(stderr, "load: %s\n", text.c_str());
        }
        CHECK(result.errors == 0);
        CHECK(result.verified_blocks > 0);
    }
    std::sort(rests.begin(), rests.end());
    std::fprintf(stderr,
                 "64 connections: at rest and described after %.1f ms (median), %.1f ms (longest), %zu KiB\n",
                 rests[rests.size() / 2], rests.back(), bytes_max / 1024);
    stop(*engine);
}

TEST_CASE("a server that is asked to rest and then forgotten goes on by itself") {
    PlayedKeeper keeper;
    auto engine = serve();
    REQUIRE(keeper.hear("READY"));
    Load load(keeper.port, 1, false, 4096, 2, 8, 8 << 20);
    while (load.completed() == 0 && !load.ended()) {
        usleep(1000);
    }
    keeper.say(KeeperMessage("QUIESCE").add("deadline_ms", 2000));
    REQUIRE(keeper.hear("QUIESCED"));
    REQUIRE(keeper.hear("FORGET", "carry"));
    CHECK(keeper.mark() == 0);
    const std::uint64_t before = load.completed();
    const base::Nanoseconds deadline = base::monotonic_now() + 20 * base::second;
    while (load.completed() == before && base::monotonic_now() < deadline) {
        usleep(1000);
    }
    CHECK(load.completed() > before);
    CHECK(load.finish().errors == 0);
    stop(*engine);
}

}  // namespace crash
