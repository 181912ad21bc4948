// The child's half of the crash tests; see recovery_server.h.

#include "recovery_server.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "engine/engine.h"

namespace crash {

namespace {

void must(bool good, const char* what) {
    if (!good) {
        std::fprintf(stderr, "crash server: %s failed\n", what);
        _exit(3);
    }
}

template <typename T>
void must(const base::Result<T>& result, const char* what) {
    if (!result) {
        std::fprintf(stderr, "crash server: %s: %s\n", what, result.error().message.c_str());
        _exit(3);
    }
}

Kept parse(const std::string& text) {
    Kept kept;
    std::istringstream in(text);
    in >> kept.control >> kept.arena >> kept.data >> kept.ram >> kept.slow >> kept.data_bytes >> kept.file;
    Kept::Connection connection{};
    while (in >> connection.socket >> connection.id) {
        kept.connections.push_back(connection);
    }
    return kept;
}

}  // namespace

std::string describe(const Kept& kept) {
    std::ostringstream out;
    out << kept.control << ' ' << kept.arena << ' ' << kept.data << ' ' << kept.ram << ' ' << kept.slow << ' '
        << kept.data_bytes << ' ' << kept.file;
    for (const auto& connection : kept.connections) {
        out << ' ' << connection.socket << ' ' << connection.id;
    }
    return out.str();
}

void serve(const std::string& description) {
    const Kept kept = parse(description);
    const auto nofile = fcntl(kept.control, F_SETFD, FD_CLOEXEC);
    must(nofile == 0, "control descriptor");

    engine::Options options;
    options.arena_descriptor = kept.arena;
    options.data_descriptor = kept.data;
    options.data_pool_bytes = kept.data_bytes;
    options.connections_max = 64;
    options.controllers_max = 32;
    auto made = engine::Engine::make(options);
    must(made, "engine");
    auto* engine = made.take().release();
    engine->start([](engine::Event&& event) {
        if (event.kind == engine::Event::Kind::connect) {
            return;  // no admission hook is wanted here, but the sink brings one: see below
        }
        if (event.kind == engine::Event::Kind::log && event.level == "warn") {
            std::fprintf(stderr, "crash server: %s\n", event.message.c_str());
        }
    });
    engine->post([engine, kept] {
        engine->target().set_admission_hook(nullptr);
        engine->target().set_loading(true);
        block::DeviceSpec ram;
        ram.name = "ram";
        ram.kind = "ram";
        ram.size_bytes = ram_bytes;
        must(engine->add_device(ram, kept.ram), "ram");
        block::DeviceSpec file;
        file.name = "file";
        file.kind = "file";
        file.path = kept.file;
        file.size_bytes = file_bytes;
        file.create = true;
        must(engine->add_device(file, -1), "file");
        block::DeviceSpec slow;
        slow.name = "slow";
        slow.kind = "ram";
        slow.size_bytes = 8ull << 20;
        must(engine->add_device(slow, kept.slow), "slow");
        block::DeviceSpec delay;
        delay.name = "delay";
        delay.kind = "delay";
        delay.base = "slow";
        delay.read_delay_us = 500;
        delay.write_delay_us = 500;
        must(engine->add_device(delay, -1), "delay");

        nvme::SubsystemSpec subsystem;
        subsystem.nqn = subsystem_nqn;
        subsystem.serial = "CRASH";
        subsystem.allow_any_host = true;
        must(engine->target().add_subsystem(subsystem), "subsystem");
        const char* devices[] = {"ram", "file", "delay"};
        for (std::uint32_t nsid = 1; nsid <= 3; ++nsid) {
            nvme::NamespaceSpec ns;
            ns.nsid = nsid;
            ns.device = devices[nsid - 1];
            ns.nguid[0] = ns.uuid[0] = static_cast<std::uint8_t>(nsid);
            must(engine->add_namespace(subsystem_nqn, ns), "namespace");
        }
        for (const auto& connection : kept.connections) {
            engine->offer_connection(connection.socket, connection.id, false);
        }
        const engine::Adoption adoption = engine->adopt();
        engine->target().set_loading(false);
        engine->transport().closed = [control = kept.control](std::uint64_t id, const std::string& reason) {
            const std::string text = "C" + std::to_string(id) + " " + reason;
            (void)send(control, text.data(), text.size(), MSG_NOSIGNAL);
        };
        for (const std::string& refused : adoption.refused) {
            const std::string text = says_refused + refused;
            (void)send(kept.control, text.data(), text.size(), MSG_NOSIGNAL);
        }
        const std::string ready = std::string(1, says_ready) + std::to_string(adoption.carried) + " " +
                                  std::to_string(adoption.executed);
        (void)send(kept.control, ready.data(), ready.size(), MSG_NOSIGNAL);
    });

    // New connections, until the parent is gone or this process is killed.
    for (;;) {
        std::uint64_t id = 0;
        char space[CMSG_SPACE(sizeof(int))];
        iovec vector{&id, sizeof id};
        msghdr message{};
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        message.msg_control = space;
        message.msg_controllen = sizeof space;
        const ssize_t got = recvmsg(kept.control, &message, MSG_CMSG_CLOEXEC);
        if (got <= 0) {
            _exit(0);
        }
        const cmsghdr* header = CMSG_FIRSTHDR(&message);
        if (got != static_cast<ssize_t>(sizeof id) || header == nullptr) {
            continue;
        }
        int socket = -1;
        std::memcpy(&socket, CMSG_DATA(header), sizeof socket);
        engine->post([engine, socket, id] { engine->transport().take(socket, id, false); });
    }
}

TEST_CASE("(server process)" * doctest::skip()) {
    const char* description = std::getenv("KEEL_TEST_SERVER");
    if (description != nullptr) {
        serve(description);
    }
}

}  // namespace crash
