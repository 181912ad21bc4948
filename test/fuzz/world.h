// What the fuzzer talks to: a Target with namespaces of every kind that needs no files, and up to two
// NVMe/TCP connections to it, on the fuzzer's kernel. Its end checks that nothing was left behind.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "block/spec.h"
#include "host.h"
#include "kernel.h"
#include "nvme/target.h"
#include "reactor/data_buffers.h"
#include "reactor/reactor.h"
#include "transport/memory_regions.h"
#include "transport/tcp_connection.h"

namespace fuzz {

inline constexpr char subsystem_nqn[] = "nqn.2014-08.org.nvmexpress:fuzz";
inline constexpr char host_nqn[] = "nqn.2014-08.org.nvmexpress:host";

// Memory that is kept from run to run, so that a run costs no system calls. What a run reads of it, it or its
// set-up has written: records are zeroed, data buffers need not be.
struct Memory {
    static constexpr std::size_t command_slots = 128;
    static constexpr std::size_t controllers = 6;
    static constexpr std::size_t pool_bytes = std::size_t{4} << 20;
    static constexpr std::size_t ram_bytes = std::size_t{64} << 10;

    struct Connection {
        alignas(8) std::byte record[transport::connection_stride];
        nvme::CommandRecord commands[command_slots];
        transport::TransmitEntry transmit[limits::transmit_entries_max];
        std::byte stream[limits::receive_buffer_bytes];
    };
    Connection connections[Kernel::socket_count];
    nvme::ControllerRecord controller_records[controllers];
    nvme::SubsystemRecord subsystem_records[4];
    nvme::NamespaceRecord namespace_records[16];
    alignas(4096) std::byte pool[pool_bytes];
    alignas(4096) std::byte ram[4][2 * ram_bytes];
    alignas(4096) std::byte zeroes[limits::transfer_bytes_max];
};

struct Setup {
    wire::Digests digests;
    std::uint32_t maxr2t = 0;
    std::uint8_t alignment = 0;
    std::size_t pool_bytes = Memory::pool_bytes;
    std::size_t reserve_bytes = std::size_t{1} << 20;
    std::uint32_t in_capsule_bytes_io = limits::in_capsule_bytes_io_default;
    transport::DigestPolicy policy = transport::DigestPolicy::optional;
    bool flow_control_off = false;
    bool ask_admission = false;
};

struct Peer {
    std::unique_ptr<transport::TcpConnection> connection;
    Host host;
    bool ended = false;
};

class World {
  public:
    World(Memory& memory, const Setup& setup)
        : memory_(memory),
          setup_(setup),
          reactor(kernel),
          buffers({memory.pool, setup.pool_bytes}, setup.reserve_bytes),
          options_(options_of(setup)),
          environment_{reactor, {}, {}, {}, {}},
          target(clean(memory, reactor, buffers.common())),
          around_{reactor, target, buffers, regions_, options_, [this](transport::TcpConnection& connection) {
                      for (Peer& peer : peers) {
                          if (peer.connection.get() == &connection) {
                              peer.ended = true;
                          }
                      }
                  }} {
        kernel.is_free = [this](const void* place) { return is_free(place); };
        regions_.set(transport::MemoryRegions::data_pool, buffers.memory());
        regions_.set(zeroes_region, memory.zeroes);
        for (std::uint16_t i = 0; i < std::size(memory.ram); ++i) {
            regions_.set(static_cast<std::uint16_t>(ram_region + i), memory.ram[i]);
        }
        environment_.find = [this](const std::string& name) { return device(name); };
        environment_.memory = [this](const std::string& name, std::uint64_t bytes) {
            return ram(name, bytes);
        };
        environment_.forget_memory = [](const std::string&) {};
        environment_.zeroes = {zeroes_region, 0};
        if (setup.ask_admission) {
            target.set_admission_hook([this](const nvme::ConnectRequest&, nvme::AdmissionAnswer answer) {
                admissions.push_back(std::move(answer));
            });
        }
        nvme::TargetLimits bounds;
        bounds.controllers_per_host = 4;
        target.set_limits(bounds);
        make_devices();
        add_subsystem();
        for (std::uint32_t nsid = 1; nsid <= namespace_devices.size(); ++nsid) {
            add_namespace(nsid);
        }
        target.set_listeners({{.transport = "tcp",
                               .address_family = "ipv4",
                               .address = "0.0.0.0",
                               .service = "4420",
                               .port_id = 1,
                               .discovery_only = false}});
        target.set_loading(false);
    }

    static constexpr std::array<const char*, 5> namespace_devices{"a", "b", "zero", "slow", "faulty"};

    Socket& socket(std::size_t index) {
        return kernel.socket(Kernel::first_descriptor + static_cast<int>(index));
    }

    void open(std::size_t index, bool discovery_only) {
        Peer& peer = peers[index];
        if (peer.connection != nullptr) {
            return;
        }
        peer.ended = false;
        peer.host = Host{};
        socket(index) = Socket{};
        Memory::Connection& slots = memory_.connections[index];
        nvme::Endpoint endpoint{"tcp", "ipv4", "192.0.2.1", "4420", "192.0.2.2", "50000", discovery_only};
        auto* record = reinterpret_cast<transport::ConnectionRecord*>(slots.record);
        std::memset(slots.record, 0, sizeof(transport::ConnectionRecord));
        peer.connection = std::make_unique<transport::TcpConnection>(
            around_, Kernel::first_descriptor + static_cast<int>(index),
            transport::TcpSlots{.number = static_cast<std::uint32_t>(index),
                                .record = record,
                                .commands = slots.commands,
                                .transmit = slots.transmit,
                                .stream = slots.stream},
            endpoint, options_.digests, host_buffers_);
        peer.connection->open(next_id_++);
    }

    void run(unsigned iterations) {
        for (; iterations != 0; --iterations) {
            for (std::size_t i = 0; i < peers.size(); ++i) {
                if (peers[i].connection != nullptr && peers[i].connection->ending()) {
                    socket(i).shut_down = true;  // what shutdown(2) does to a real socket
                }
            }
            reactor.run_once(0);
            buffers.serve_waiters();
            for (std::size_t i = 0; i < peers.size(); ++i) {
                peers[i].host.look(socket(i));
                if (peers[i].ended) {
                    peers[i].connection.reset();
                    peers[i].ended = false;
                }
            }
        }
    }

    // Asked while a connection is ending only: the answer stirs up the pool.
    bool is_free(const void* place) {
        const bool asked = std::any_of(peers.begin(), peers.end(), [](const Peer& peer) {
            return peer.connection != nullptr && peer.connection->ending();
        });
        const auto offset = reinterpret_cast<std::uintptr_t>(place) -
                            reinterpret_cast<std::uintptr_t>(buffers.memory().data());
        const std::uint64_t page = offset / limits::page_bytes * limits::page_bytes;
        return asked && offset < buffers.bytes_total() && buffers.pool_of(page).reserve(page, 1);
    }

    void add_subsystem() {
        nvme::SubsystemSpec spec;
        spec.nqn = subsystem_nqn;
        spec.serial = "FUZZ";
        spec.allow_any_host = true;
        spec.max_namespaces = 8;
        (void)target.add_subsystem(spec);
    }

    void add_namespace(std::uint32_t nsid) {
        nvme::NamespaceSpec spec;
        spec.nsid = nsid;
        spec.device = namespace_devices[(nsid - 1) % namespace_devices.size()];
        spec.nguid.fill(static_cast<std::uint8_t>(nsid));
        spec.uuid.fill(static_cast<std::uint8_t>(nsid));
        (void)target.add_namespace(subsystem_nqn, spec, *device(spec.device));
    }

    block::Device* device(const std::string& name) {
        for (auto& [known, made] : devices_) {
            if (known == name) {
                return made.get();
            }
        }
        return nullptr;
    }

    // All hosts go away; then nothing may be left.
    void end() {
        for (auto& answer : std::exchange(admissions, {})) {
            answer(false, "the end");
        }
        for (std::size_t i = 0; i < peers.size(); ++i) {
            socket(i).error = ECONNRESET;
        }
        const auto open = [&] { return peers[0].connection != nullptr || peers[1].connection != nullptr; };
        for (int round = 0; round < 2000 && open(); ++round) {
            run(1);
            kernel.pass(base::millisecond);
        }
        require(!open(), "connections end once their host is gone");
        kernel.pass(300 * base::second);  // keep alive, idle discovery
        run(8);
        require(buffers.bytes_in_use() == 0, "no data buffer stays behind");
        for (const Memory::Connection& slots : memory_.connections) {
            for (const nvme::CommandRecord& command : slots.commands) {
                require(command.state == nvme::CommandState::free, "no command slot stays behind");
            }
        }
        for (const nvme::ControllerRecord& record : memory_.controller_records) {
            require(record.state == nvme::RecordState::free, "no controller stays behind");
        }
        require(target.connection_count() == 0, "the target counts no connection");
        bool removed = target.find(subsystem_nqn) == nullptr || target.find(subsystem_nqn)->removing();
        if (!removed) {
            removed = target.remove_subsystem(subsystem_nqn, [] {}).ok();
        }
        run(8);
        require(removed && target.find(subsystem_nqn) == nullptr, "the subsystem can be removed");
        for (auto it = devices_.rbegin(); it != devices_.rend(); ++it) {
            bool closed = false;
            it->second->close([&closed] { closed = true; });
            run(4);
            require(closed, "a device that nobody uses closes");
            it->second.reset();
        }
    }

  private:
    Memory& memory_;
    Setup setup_;

  public:
    Kernel kernel;
    reactor::Reactor reactor;
    reactor::DataBuffers buffers;
    std::vector<nvme::AdmissionAnswer> admissions;
    std::array<Peer, Kernel::socket_count> peers;

  private:
    static constexpr std::uint16_t zeroes_region = 1;
    static constexpr std::uint16_t ram_region = 2;
    static constexpr std::array<const char*, 4> ram_names{"a", "b", "below", "under"};

    static transport::TcpOptions options_of(const Setup& setup) {
        transport::TcpOptions options;
        options.traits.in_capsule_bytes_io = setup.in_capsule_bytes_io;
        options.digests = {setup.policy, setup.policy};
        return options;
    }

    // Devices and the target come after the records are clean.
    static nvme::Target::Records cleaned(Memory& memory) {
        std::memset(static_cast<void*>(memory.controller_records), 0, sizeof memory.controller_records);
        std::memset(static_cast<void*>(memory.subsystem_records), 0, sizeof memory.subsystem_records);
        std::memset(static_cast<void*>(memory.namespace_records), 0, sizeof memory.namespace_records);
        for (Memory::Connection& slots : memory.connections) {
            std::memset(static_cast<void*>(slots.commands), 0, sizeof slots.commands);
        }
        std::memset(memory.ram, 0, sizeof memory.ram);
        return {memory.controller_records, memory.subsystem_records, memory.namespace_records};
    }

    // All peers are one host.
    std::shared_ptr<reactor::HostBuffers> host_buffers_ = std::make_shared<reactor::HostBuffers>(buffers);

    struct CleanTarget : nvme::Target {
        using Target::Target;
    };
    static nvme::Target clean(Memory& memory, reactor::Reactor& reactor, reactor::BufferPool& buffers) {
        return nvme::Target(reactor, buffers, cleaned(memory));
    }

    base::Result<block::PersistentMemory> ram(const std::string& name, std::uint64_t bytes) {
        for (std::size_t i = 0; i < ram_names.size(); ++i) {
            if (name == ram_names[i] && bytes <= sizeof memory_.ram[i]) {
                return block::PersistentMemory{.descriptor = -1,
                                               .memory = {memory_.ram[i], static_cast<std::size_t>(bytes)},
                                               .region = static_cast<std::uint16_t>(ram_region + i)};
            }
        }
        return base::Error{"E_NO_MEMORY", name, 0};
    }

    void make(block::DeviceSpec spec) {
        auto made = block::make_device(environment_, spec);
        require(made.ok(), "the fuzzer's devices can be made");
        devices_.emplace_back(spec.name, made.take());
    }

    void make_devices() {
        for (const char* name : ram_names) {
            block::DeviceSpec spec;
            spec.name = name;
            spec.kind = "ram";
            spec.size_bytes = Memory::ram_bytes;
            spec.block_bytes = name[0] == 'b' && name[1] == 0 ? 512 : 4096;
            make(spec);
        }
        block::DeviceSpec zero;
        zero.name = "zero";
        zero.kind = "null";
        zero.size_bytes = std::uint64_t{1} << 40;
        make(zero);
        block::DeviceSpec slow;
        slow.name = "slow";
        slow.kind = "delay";
        slow.base = "below";
        slow.read_delay_us = slow.write_delay_us = slow.flush_delay_us = 5000;
        make(slow);
        block::DeviceSpec faulty;
        faulty.name = "faulty";
        faulty.kind = "error";
        faulty.base = "under";
        faulty.error_actions = {"read", "write", "flush", "write_zeroes", "deallocate"};
        faulty.error_offset = 8192;
        faulty.error_length = 8192;
        make(faulty);
    }

    transport::TcpOptions options_;
    transport::MemoryRegions regions_;
    std::vector<std::pair<std::string, std::unique_ptr<block::Device>>> devices_;
    block::Environment environment_;

  public:
    nvme::Target target;

  private:
    transport::TcpConnection::Surroundings around_;
    std::uint64_t next_id_ = 1;
};

}  // namespace fuzz
