// The engine alone as a program, without Node: for profilers, and to see what the control plane costs.
//
//   target [--port N] [--size BYTES] [--file PATH] [--private-memory]      prints READY and the port, serves
//   until killed
//
// With --private-memory what should outlive the process lies in private memory instead of the arena and the
// data pool, so that the cost of surviving can be told; RAM disks stay where they are.
//
// Subsystems nqn.2026-11.example.keel:bench-ram, -null and, with --file, -file: namespace 1 of each,
// 4096-byte blocks.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "engine/engine.h"

namespace {

struct Setting {
    std::uint16_t port = 0;
    std::uint64_t size_bytes = 512ull << 20;
    std::string file;
    bool private_memory = false;
};

[[noreturn]] void give_up(const std::string& text) {
    std::fprintf(stderr, "target: %s\n", text.c_str());
    std::_Exit(2);
}

template <typename T>
void must(const base::Result<T>& result) {
    if (!result) {
        give_up(result.error().message);
    }
}

Setting parse(int argc, char** argv) {
    Setting setting;
    for (int i = 1; i < argc; ++i) {
        const std::string_view flag = argv[i];
        if (flag == "--private-memory") {
            setting.private_memory = true;
            continue;
        }
        if (i + 1 == argc) {
            give_up("usage: target [--port N] [--size BYTES] [--file PATH] [--private-memory]");
        }
        const char* const value = argv[++i];
        if (flag == "--port") {
            setting.port = static_cast<std::uint16_t>(std::strtoul(value, nullptr, 10));
        } else if (flag == "--size") {
            setting.size_bytes = std::strtoull(value, nullptr, 10);
        } else if (flag == "--file") {
            setting.file = value;
        } else {
            give_up("unknown option " + std::string(flag));
        }
    }
    if (setting.private_memory && !setting.file.empty()) {
        give_up(
            "files are read and written through the pool's registered pages: no --file with "
            "--private-memory");
    }
    return setting;
}

void add_subsystem(engine::Engine& engine, const block::DeviceSpec& device, std::uint8_t number) {
    must(engine.add_device(device, -1));
    nvme::SubsystemSpec subsystem;
    subsystem.nqn = "nqn.2026-11.example.keel:bench-" + device.name;
    subsystem.serial = "BENCH" + std::to_string(number);
    subsystem.allow_any_host = true;
    must(engine.target().add_subsystem(subsystem));
    nvme::NamespaceSpec ns;
    ns.nsid = 1;
    ns.device = device.name;
    ns.nguid[0] = ns.uuid[0] = number;
    must(engine.add_namespace(subsystem.nqn, ns));
}

// Before anything uses them. The arena keeps what it holds already: its pages are copied when they are
// written.
void make_memory_private(engine::Engine& engine) {
    const durable::Arena& arena = engine.arena();
    void* const base = &arena.header();
    const std::span<std::byte> pool = engine.buffers().memory();
    constexpr int protection = PROT_READ | PROT_WRITE;
    if (mmap(base, arena.header().bytes, protection, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
             arena.descriptor(), 0) != base ||
        mmap(pool.data(), pool.size(), protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
            pool.data()) {
        give_up("cannot make the memory private");
    }
}

void configure(engine::Engine& engine, const Setting& setting) {
    if (setting.private_memory) {
        make_memory_private(engine);
    }
    engine.target().set_admission_hook(nullptr);
    std::uint8_t number = 0;
    for (const char* kind : {"ram", "null", "file"}) {
        block::DeviceSpec device;
        device.name = device.kind = kind;
        device.size_bytes = setting.size_bytes;
        if (device.kind == "file") {
            if (setting.file.empty()) {
                continue;
            }
            device.path = setting.file;
            device.create = true;
        }
        add_subsystem(engine, device, ++number);
    }
    engine.target().set_loading(false);
    transport::ListenerSpec listener;
    listener.id = "bench";
    listener.address = "127.0.0.1";
    listener.family = "ipv4";
    listener.port = setting.port;
    const auto listening = engine.transport().add_listener(listener);
    must(listening);
    std::printf("READY %u\n", listening.value().port);
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    const Setting setting = parse(argc, argv);
    engine::Options options;
    options.connections_max = 1040;
    auto made = engine::Engine::make(options);
    must(made);
    engine::Engine& engine = *made.value();
    engine.start([](engine::Event&& event) {
        if (event.kind == engine::Event::Kind::log && event.level != "info" && event.level != "debug") {
            std::fprintf(stderr, "target: %s\n", event.message.c_str());
        }
    });
    engine.post([&engine, &setting] { configure(engine, setting); });
    for (;;) {
        pause();
    }
}
