// The server's half of the upgrade tests; see kept_server.h. Lines of its log:
//   ready PID LAYOUT CARRIED BEGUN EXECUTED PAUSE_US RESTARTS   serves; the pause began with the death
//   warm PID                                           waits to be needed
//   refused TEXT                                       a connection could not be taken over
//   failed TEXT                                        a replacement did not come about

#include "kept_server.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "engine/engine.h"
#include "recovery_server.h"

namespace crash {

namespace {

template <typename T>
void must(const base::Result<T>& result, const char* what) {
    if (!result) {
        std::fprintf(stderr, "kept server: %s: %s\n", what, result.error().message.c_str());
        _exit(3);
    }
}

void note(int log, const std::string& text) {
    const std::string line = text + "\n";
    if (write(log, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
        _exit(3);
    }
}

void configure(engine::Engine& engine, const KeptSetup& setup) {
    const auto add = [&](const char* name, const char* kind, std::uint64_t bytes, const char* base) {
        block::DeviceSpec spec;
        spec.name = name;
        spec.kind = kind;
        spec.size_bytes = bytes;
        spec.base = base;
        spec.path = spec.kind == "file" ? setup.file : "";
        spec.create = spec.kind == "file";
        spec.read_delay_us = spec.write_delay_us = spec.kind == "delay" ? 500 : 0;
        must(engine.add_device(spec, -1), name);
    };
    add("ram", "ram", ram_bytes, "");
    add("file", "file", file_bytes, "");
    add("slow", "ram", 8ull << 20, "");
    add("delay", "delay", 0, "slow");
    nvme::SubsystemSpec subsystem;
    subsystem.nqn = subsystem_nqn;
    subsystem.serial = "CRASH";
    subsystem.allow_any_host = true;
    must(engine.target().add_subsystem(subsystem), "subsystem");
    const char* devices[] = {"ram", "file", "delay"};
    for (std::uint32_t nsid = 1; nsid <= 3; ++nsid) {
        nvme::NamespaceSpec ns;
        ns.nsid = nsid;
        ns.device = devices[nsid - 1];
        ns.nguid[0] = ns.uuid[0] = static_cast<std::uint8_t>(nsid);
        must(engine.add_namespace(subsystem_nqn, ns), "namespace");
    }
    transport::ListenerSpec listener;
    listener.id = "listener";
    listener.address = "127.0.0.1";
    listener.family = "ipv4";
    listener.port = setup.port;
    must(engine.add_listener(listener), "listener");
}

[[noreturn]] void serve_kept(const KeptSetup& setup) {
    const int log = open(setup.log.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    auto link = engine::KeeperLink::open("test");
    must(link, "keeper");
    engine::Options options;
    // Short: see data_bytes_short.
    options.data_pool_bytes = (KEEL_TEST_LAYOUT == 2 ? 5ull : 4ull) << 20;
    options.connections_max = KEEL_TEST_LAYOUT == 2 ? 48 : 64;
    options.controllers_max = KEEL_TEST_LAYOUT == 2 ? 40 : 32;
    auto made = engine::Engine::make(options, link.take());
    must(made, "engine");
    auto* engine = made.take().release();
    engine->start([log](engine::Event&& event) {
        if (event.kind == engine::Event::Kind::restart_failed) {
            note(log, "failed " + event.reason);
        } else if (event.kind == engine::Event::Kind::log && event.level != "info") {
            std::fprintf(stderr, "kept server %d: %s\n", getpid(), event.message.c_str());
        }
    });
    engine->post([engine, log, setup] {
        if (engine->standby()) {
            note(log, "warm " + std::to_string(getpid()));
        }
        engine->take_over([engine, log, setup](const engine::Takeover&) {
            engine->target().set_admission_hook(nullptr);
            engine->target().set_loading(true);
            configure(*engine, setup);
            const engine::Adoption adoption = engine->adopt();
            engine->target().set_loading(false);
            for (const std::string& text : adoption.refused) {
                note(log, "refused " + text);
            }
            const auto history = engine::restarts_of(engine->restart_area());
            const std::uint64_t pause =
                history.empty() ? 0 : (history.front().served_ns - history.front().died_ns) / 1000;
            note(log, "ready " + std::to_string(getpid()) + " " + std::to_string(KEEL_TEST_LAYOUT) + " " +
                          std::to_string(adoption.carried) + " " + std::to_string(adoption.begun) + " " +
                          std::to_string(adoption.executed) + " " + std::to_string(pause) + " " +
                          std::to_string(engine->restart_area().totals.restarts));
        });
        engine->be_warm();
    });
    for (;;) {
        pause();
    }
}

}  // namespace

std::string describe(const KeptSetup& setup) {
    return std::to_string(setup.port) + " " + setup.file + " " + setup.log;
}

TEST_CASE("(kept server process)" * doctest::skip()) {
    if (const char* description = std::getenv("KEEL_TEST_KEPT")) {
        std::istringstream in(description);
        KeptSetup setup;
        in >> setup.port >> setup.file >> setup.log;
        serve_kept(setup);
    }
}

}  // namespace crash
