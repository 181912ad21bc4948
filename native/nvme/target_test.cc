// Configuration while hosts are connected.

#include <doctest/doctest.h>

#include "testing/scripted_host.h"

using testing::number_at;
using testing::ScriptedHost;
using testing::TargetRig;

namespace {

nvme::SubsystemSpec valid_spec() {
    nvme::SubsystemSpec spec;
    spec.nqn = "nqn.2026-01.test:another";
    spec.serial = "1";
    return spec;
}

template <typename Change>
std::string refusal(TargetRig& rig, Change change) {
    nvme::SubsystemSpec spec = valid_spec();
    change(spec);
    const auto result = rig.target->add_subsystem(spec);
    return result.ok() ? "" : result.error().code;
}

}  // namespace

TEST_CASE("target: subsystems that cannot be are refused") {
    TargetRig rig;
    rig.with_subsystem();
    using Spec = nvme::SubsystemSpec;
    CHECK(refusal(rig, [](Spec& spec) { spec.nqn = testing::test_subsystem; }) == "E_EXISTS");
    CHECK(refusal(rig, [](Spec& spec) { spec.nqn = ""; }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec& spec) { spec.nqn = std::string(224, 'x'); }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec& spec) { spec.nqn = "nqn.2014-08.org.nvmexpress.discovery"; }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec& spec) { spec.serial = ""; }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec& spec) { spec.serial = std::string(21, '1'); }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec& spec) { spec.model = "\x01"; }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec& spec) { spec.firmware = "123456789"; }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec& spec) { spec.cntlid_min = 0; }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec& spec) { spec.cntlid_max = 0xFFF0; }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec& spec) { spec.max_namespaces = 0; }) == "E_INVALID");
    CHECK(refusal(rig, [](Spec&) {}) == "");
    for (int i = 0; i < 14; ++i) {
        CHECK(refusal(rig, [&](Spec& spec) { spec.nqn += std::to_string(i); }) == "");
    }
    CHECK(refusal(rig, [](Spec& spec) { spec.nqn += "x"; }) == "E_LIMIT");
}

TEST_CASE("target: namespaces that cannot be are refused") {
    TargetRig rig;
    rig.with_subsystem();
    const auto add = [&](const std::string& nqn, const nvme::NamespaceSpec& spec, block::Device& device) {
        const auto result = rig.target->add_namespace(nqn, spec, device);
        return result.ok() ? std::string() : result.error().code;
    };
    auto& free_disk = rig.disk(9);
    const std::string nqn = testing::test_subsystem;
    CHECK(add("nqn.2026-01.test:unknown", rig.namespace_spec(9), free_disk) == "E_NOT_FOUND");
    CHECK(add(nqn, rig.namespace_spec(0), free_disk) == "E_INVALID");
    CHECK(add(nqn, rig.namespace_spec(33), free_disk) == "E_INVALID");
    CHECK(add(nqn, rig.namespace_spec(1), free_disk) == "E_EXISTS");
    auto spec = rig.namespace_spec(9);
    spec.nguid = rig.namespace_spec(1).nguid;
    CHECK(add(nqn, spec, free_disk) == "E_EXISTS");
    spec = rig.namespace_spec(9);
    spec.uuid = rig.namespace_spec(1).uuid;
    CHECK(add(nqn, spec, free_disk) == "E_EXISTS");
    spec = rig.namespace_spec(9);
    spec.nguid.fill(0);
    CHECK(add(nqn, spec, free_disk) == "E_INVALID");
    CHECK(add(nqn, rig.namespace_spec(9), rig.disk(1)) == "E_BUSY");
    CHECK(add(nqn, rig.namespace_spec(9), free_disk) == "");
}

TEST_CASE("target: a namespace goes when its last command has ended, and its device is free again") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(1).holding = true;
    rig.disk(1).cancellable = false;
    const auto read = host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    bool removed = false;
    REQUIRE(rig.target->remove_namespace(testing::test_subsystem, 1, [&] { removed = true; }).ok());
    CHECK(!rig.target->remove_namespace(testing::test_subsystem, 1, nullptr).ok());
    rig.run();
    CHECK(!removed);
    CHECK(host.send(queue, ScriptedHost::read_entry(1, 0, 1, 4096))->status().value == 0x00B);
    CHECK(!block::Claim::take(rig.disk(1), block::Access::read_write, "test").ok());
    rig.disk(1).finish_held();
    rig.run();
    CHECK(removed);
    CHECK(queue.take(read)->status().ok());
    CHECK(block::Claim::take(rig.disk(1), block::Access::read_write, "test").ok());
    rig.disk(1).holding = false;
    rig.add_namespace(1);
    CHECK(host.send(queue, ScriptedHost::read_entry(1, 0, 1, 4096))->status().ok());
}

TEST_CASE("target: a read-only namespace refuses writes, and can be opened for writing") {
    TargetRig rig;
    rig.with_subsystem();
    auto spec = rig.namespace_spec(5);
    spec.read_only = true;
    REQUIRE(rig.target->add_namespace(testing::test_subsystem, spec, rig.disk(5)).ok());
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    const auto write = [&] {
        return host.send(queue, ScriptedHost::write_entry(5, 0, 1, 4096), testing::filled(4096, 1))
            ->status()
            .value;
    };
    CHECK(write() == 0x020);
    {
        auto reader = block::Claim::take(rig.disk(5), block::Access::read_only, "a reader");
        REQUIRE(reader.ok());
        const auto result = rig.target->set_namespace_read_only(testing::test_subsystem, 5, false);
        REQUIRE(!result.ok());
        CHECK(result.error().code == "E_BUSY");
        CHECK(write() == 0x020);
    }
    CHECK(rig.target->set_namespace_read_only(testing::test_subsystem, 5, false).ok());
    CHECK(write() == 0);
    CHECK(rig.target->set_namespace_read_only(testing::test_subsystem, 5, true).ok());
    CHECK(write() == 0x020);
}

TEST_CASE("target: hosts that are no longer allowed are disconnected, others are not") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    ScriptedHost other(rig, {testing::test_subsystem, "nqn.2026-01.test:other", 2});
    host.bring_up();
    other.bring_up();
    transport::LoopConnection& queue = host.io(1);
    REQUIRE(rig.target->set_hosts(testing::test_subsystem, false, {"nqn.2026-01.test:other"}).ok());
    rig.run();
    CHECK(host.admin->idle());
    CHECK(queue.idle());
    CHECK(host.admin->reason() == "the host is no longer allowed");
    CHECK(!other.admin->closed());
    CHECK(rig.count(nvme::TargetEventKind::host_disallowed) == 1);
    CHECK(rig.target->controller_status().size() == 1);
}

TEST_CASE("target: a subsystem goes with its hosts, commands and namespaces, and can come back") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(3).holding = true;
    rig.disk(3).cancellable = false;
    host.start(queue, ScriptedHost::read_entry(3, 0, 1, 512));
    bool removed = false;
    REQUIRE(rig.target->remove_subsystem(testing::test_subsystem, [&] { removed = true; }).ok());
    CHECK(!rig.target->remove_subsystem(testing::test_subsystem, nullptr).ok());
    rig.run();
    CHECK(host.admin->idle());
    CHECK(!removed);
    ScriptedHost late(rig);
    CHECK(late.connect().status().value == 0x181);
    rig.disk(3).finish_held();
    rig.run();
    CHECK(removed);
    CHECK(queue.idle());
    CHECK(rig.target->find(testing::test_subsystem) == nullptr);
    rig.disk(3).holding = false;
    rig.with_subsystem();
    ScriptedHost again(rig);
    again.bring_up();
    CHECK(again.io(1).queue().connected());
}

TEST_CASE("target: status says what there is") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up(5000);
    transport::LoopConnection& queue = host.io(1);
    host.park();
    REQUIRE(
        host.send(queue, ScriptedHost::write_entry(1, 0, 2, 8192), testing::filled(8192, 1))->status().ok());
    rig.advance(base::second);
    const auto controllers = rig.target->controller_status();
    REQUIRE(controllers.size() == 1);
    CHECK(controllers[0].cntlid == host.cntlid);
    CHECK(controllers[0].parked_event_requests == 1);
    CHECK(controllers[0].idle_ms == 1000);
    CHECK(controllers[0].queues.size() == 2);
    CHECK(controllers[0].queues[1].entries == 32);
    const auto subsystems = rig.target->subsystem_status();
    REQUIRE(subsystems.size() == 1);
    CHECK(subsystems[0].controllers == 1);
    CHECK(subsystems[0].written_bytes == 8192);
    REQUIRE(subsystems[0].namespaces.size() == 2);
    CHECK(subsystems[0].namespaces[0].counters.written_bytes == 8192);
    CHECK(subsystems[0].namespaces[0].write_latency->total() == 1);
    CHECK(subsystems[0].namespaces[1].block_bytes == 512);
}
