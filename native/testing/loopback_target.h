// A whole engine in this process that serves one device over NVMe/TCP on the loopback: a real peer for tests
// of hosts. Its thread is its own; `run` executes something there and waits.
#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <future>
#include <memory>
#include <string>

#include "engine/engine.h"

namespace testing {

class LoopbackTarget {
  public:
    static constexpr const char* nqn = "nqn.2024-01.example:target";

    // `port` 0: any free one. `identity` makes the NGUID.
    explicit LoopbackTarget(const block::DeviceSpec& device, std::uint8_t identity = 1,
                            std::uint16_t port = 0)
        : engine_(engine::Engine::make({}).take()) {
        engine_->start([this](engine::Event&& event) {
            if (event.kind == engine::Event::Kind::connect) {
                engine_->admit(event.request, true, "");
            }
        });
        run([&] {
            nvme::SubsystemSpec subsystem;
            subsystem.nqn = nqn;
            subsystem.serial = "1";
            subsystem.allow_any_host = true;
            REQUIRE(engine_->target().add_subsystem(subsystem).ok());
            const auto made = engine_->add_device(device, -1);
            REQUIRE_MESSAGE(made.ok(), made.error().message);
            nvme::NamespaceSpec ns;
            ns.nsid = 1;
            ns.device = device.name;
            ns.nguid[0] = ns.uuid[0] = identity;
            REQUIRE(engine_->add_namespace(nqn, ns).ok());
            engine_->target().set_loading(false);
            transport::ListenerSpec listener;
            listener.id = "l";
            listener.address = "127.0.0.1";
            listener.family = "ipv4";
            listener.port = port;
            const auto status = engine_->transport().add_listener(listener);
            REQUIRE_MESSAGE(status.ok(), status.error().message);
            port_ = status.value().port;
        });
    }
    LoopbackTarget(const LoopbackTarget&) = delete;
    LoopbackTarget& operator=(const LoopbackTarget&) = delete;
    ~LoopbackTarget() {
        std::promise<void> stopped;
        engine_->stop([&] { stopped.set_value(); });
        stopped.get_future().wait();
        engine_->join();
    }

    void run(const std::function<void()>& task) {
        std::promise<void> done;
        engine_->post([&] {
            task();
            done.set_value();
        });
        done.get_future().wait();
    }

    std::uint16_t port() const { return port_; }
    std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
    engine::Engine& engine() { return *engine_; }

    // Ends the connections of a host; how many there were.
    std::uint32_t disconnect(const std::string& host_nqn) {
        std::uint32_t count = 0;
        run([&] { count = engine_->disconnect_host(host_nqn, nqn); });
        return count;
    }

  private:
    std::unique_ptr<engine::Engine> engine_;
    std::uint16_t port_ = 0;
};

// How a device reaches such a target.
inline block::DeviceSpec remote_device(const LoopbackTarget& target, const std::string& name) {
    block::DeviceSpec spec;
    spec.name = name;
    spec.kind = "nvme";
    spec.remote.addresses = {target.address()};
    spec.remote.subnqn = LoopbackTarget::nqn;
    spec.remote.hostnqn = "nqn.2024-01.example:host-" + name;
    spec.remote.hostid[0] = 7;
    spec.remote.kato_ms = 1000;
    spec.remote.ping_ms = 200;
    spec.remote.timeout_ms = 2000;
    return spec;
}

}  // namespace testing
