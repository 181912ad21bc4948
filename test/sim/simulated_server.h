// A server on a simulated kernel: a Target with one namespace on a `file` device, and the connections of its
// hosts. What a process leaves behind when it dies (records, pool memory) lives in Remains; a Server is what
// is private to the process.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "block/spec.h"
#include "nvme/target.h"
#include "testing/scripted_host.h"
#include "testing/sim_kernel.h"
#include "transport/loop_connection.h"

namespace simulation {

inline constexpr std::uint32_t block_bytes = 4096;
inline constexpr std::uint32_t sectors_per_block = block_bytes / testing::SimKernel::sector_bytes;
inline constexpr std::uint32_t blocks = 48;
inline constexpr std::uint32_t hosts = 2;
inline constexpr std::uint32_t queues_per_host = 2;
inline constexpr std::uint32_t queues = hosts * queues_per_host;
inline constexpr std::uint32_t nsid = 1;

// Memory that outlives the process, as the arena does.
struct Remains {
    static constexpr std::size_t pool_bytes = std::size_t{16} << 20;
    struct Connection {
        nvme::QueueRecord queue{};
        std::vector<nvme::CommandRecord> commands = std::vector<nvme::CommandRecord>(128);
    };
    std::vector<nvme::ControllerRecord> controllers = std::vector<nvme::ControllerRecord>(4);
    std::vector<nvme::SubsystemRecord> subsystems = std::vector<nvme::SubsystemRecord>(2);
    std::vector<nvme::NamespaceRecord> namespaces = std::vector<nvme::NamespaceRecord>(4);
    std::vector<Connection> connections = std::vector<Connection>(hosts * (1 + std::size_t{queues_per_host}));
};

class Server {
  public:
    Server(testing::SimKernel& kernel, Remains& remains, std::span<std::byte> pool, const std::string& path)
        : kernel_(kernel), reactor_(kernel), buffers_(pool) {
        block::Environment environment{reactor_, {}, {}, {}, {}};
        block::DeviceSpec device;
        device.name = "disk";
        device.kind = "file";
        device.path = path;
        device.create = true;
        device.size_bytes = std::uint64_t{blocks} * block_bytes;
        device.block_bytes = block_bytes;
        auto made = block::make_device(environment, device);
        EK_CHECK(made.ok(), "the medium opens");
        device_ = made.take();
        target_ = std::make_unique<nvme::Target>(reactor_, buffers_,
                                                 nvme::Target::Records{.controllers = remains.controllers,
                                                                       .subsystems = remains.subsystems,
                                                                       .namespaces = remains.namespaces});
        nvme::SubsystemSpec subsystem;
        subsystem.nqn = testing::test_subsystem;
        subsystem.serial = "1";
        subsystem.allow_any_host = true;
        EK_CHECK(target_->add_subsystem(subsystem).ok(), "add_subsystem");
        nvme::NamespaceSpec space;
        space.nsid = nsid;
        space.device = device.name;
        space.nguid.fill(1);
        space.uuid.fill(2);
        EK_CHECK(target_->add_namespace(subsystem.nqn, space, *device_).ok(), "add_namespace");
        target_->set_loading(false);
        for (std::size_t slot = 0; slot < remains.connections.size(); ++slot) {
            connections_.push_back(std::make_unique<transport::LoopConnection>(
                *target_, reactor_, buffers_, remains.connections[slot].queue,
                remains.connections[slot].commands,
                transport::LoopConnection::Options{.slot = static_cast<std::uint32_t>(slot),
                                                   .endpoint = {"loop", "", "", "", "", "", false},
                                                   .traits = {}}));
        }
    }

    // Whatever still waits for the kernel must have ended: see SimKernel::cut_power and end_process.
    ~Server() {
        for (int i = 0; i < 100'000 && kernel_.pending() > 0; ++i) {
            run(0);
        }
        EK_CHECK(kernel_.pending() == 0, "the kernel has let go of everything");
        connections_.clear();
        target_.reset();
        bool closed = false;
        device_->close([&] { closed = true; });
        while (!closed) {
            run(0);
        }
    }

    // Hosts connect anew.
    void connect_hosts() {
        for (std::uint32_t host = 0; host < hosts; ++host) {
            transport::LoopConnection& admin = *connections_[host];
            const std::uint16_t cntlid = connect(admin, host, 0, 0xFFFF);
            constexpr std::uint32_t enable = 0x00460001;
            ask(admin, testing::ScriptedHost::property_set(0x14, enable), {});
            for (std::uint32_t i = 0; i < queues_per_host; ++i) {
                connect(queue(host * queues_per_host + i), host, static_cast<std::uint16_t>(i + 1), cntlid);
            }
        }
    }
    // Takes over what the process before had; false if it refuses.
    bool take_over() {
        target_->adopt_controllers();
        bool adopted = true;
        for (const auto& connection : connections_) {
            adopted = connection->adopt() && adopted;
        }
        target_->drop_orphans();
        for (const auto& connection : connections_) {
            connection->resume();
        }
        return adopted;
    }

    transport::LoopConnection& queue(std::uint32_t number) { return *connections_[hosts + number]; }
    bool any_closed() const {
        for (const auto& connection : connections_) {
            if (connection->closed()) {
                return true;
            }
        }
        return false;
    }

    void run(base::Nanoseconds duration) {
        reactor_.run_once(kernel_.now() + duration);
        buffers_.serve_waiters();
    }

  private:
    std::uint16_t connect(transport::LoopConnection& connection, std::uint32_t host, std::uint16_t qid,
                          std::uint16_t cntlid) {
        std::vector<std::byte> data(1024);
        std::memset(data.data(), static_cast<int>(host + 1), 16);
        data[16] = static_cast<std::byte>(cntlid & 0xFF);
        data[17] = static_cast<std::byte>(cntlid >> 8);
        const std::string subsystem = testing::test_subsystem;
        const std::string name = testing::test_host + std::to_string(host);
        std::memcpy(data.data() + 256, subsystem.data(), subsystem.size());
        std::memcpy(data.data() + 512, name.data(), name.size());
        const auto answer = ask(connection, testing::ScriptedHost::connect_entry(qid, 31), data);
        return static_cast<std::uint16_t>(answer.cqe.dw0.value() & 0xFFFF);
    }
    transport::LoopCompletion ask(transport::LoopConnection& connection, testing::Entry entry,
                                  std::span<const std::byte> data) {
        constexpr std::uint16_t cid = 0xF000;
        EK_CHECK(connection.submit(entry.cid(cid).sqe(), data), "submit");
        for (int i = 0; i < 100'000; ++i) {
            run(base::millisecond);
            if (auto completion = connection.take(cid)) {
                EK_CHECK(completion->status().ok(), "hosts can connect");
                return std::move(*completion);
            }
        }
        EK_CHECK(false, "an answer comes");
        return {};
    }

    testing::SimKernel& kernel_;
    reactor::Reactor reactor_;
    reactor::BufferPool buffers_;
    std::unique_ptr<block::Device> device_;
    std::unique_ptr<nvme::Target> target_;
    std::vector<std::unique_ptr<transport::LoopConnection>> connections_;
};

}  // namespace simulation
