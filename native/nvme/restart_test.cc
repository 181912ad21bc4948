// What a target finds in the records of one that was killed: hosts go on as if nothing had happened.

#include <doctest/doctest.h>

#include <functional>

#include "testing/scripted_host.h"

using testing::Entry;
using testing::number_at;
using testing::ScriptedHost;
using testing::TargetRig;

namespace {

// Ends the target as a kill would, and starts another one on the same records with the same configuration.
// `begun`: the connections, in the order in which they were opened.
struct Successor {
    explicit Successor(TargetRig& rig, std::size_t connections, bool configure = true)
        : Successor(rig, connections, [&rig, configure] {
              if (configure) {
                  rig.with_subsystem();
              }
          }) {}
    Successor(TargetRig& rig, std::size_t connections, const std::function<void()>& configure) : rig_(rig) {
        rig.stop();
        rig.restart();
        configure();
        rig.target->adopt_controllers();
        for (std::size_t slot = 0; slot < connections; ++slot) {
            transport::LoopConnection& connection = rig.open(slot);
            adopted.push_back(connection.adopt());
            queues.push_back(&connection);
        }
        rig.target->drop_orphans();
        for (std::size_t slot = 0; slot < connections; ++slot) {
            if (adopted[slot]) {
                queues[slot]->resume();
            }
        }
        rig.run();
    }
    TargetRig& rig_;
    std::vector<bool> adopted;
    std::vector<transport::LoopConnection*> queues;
};

}  // namespace

TEST_CASE("restart: controllers, queues and features are those of the predecessor") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up(5000);
    host.io(1);
    REQUIRE(host.set_feature(0x0B, 0x100).status().ok());
    REQUIRE(host.set_feature(0x01, 0x05).status().ok());
    REQUIRE(host.set_feature(0x07, 0).status().value == 0x00C);
    host.identify(0xFF);
    const auto parked = host.park();
    const std::uint16_t cntlid = host.cntlid;
    rig.advance(4 * base::second);

    Successor after(rig, 2);
    CHECK(after.adopted == std::vector<bool>{true, true});
    host.admin = after.queues[0];
    const auto controllers = rig.target->controller_status();
    REQUIRE(controllers.size() == 1);
    CHECK(controllers[0].cntlid == cntlid);
    CHECK(controllers[0].adopted);
    CHECK(controllers[0].parked_event_requests == 1);
    CHECK(host.property(0x1C) == 1);
    CHECK(host.get_feature(0x01).cqe.dw0.value() == 5);
    CHECK(number_at(host.identify(0x01).data, 78, 2) == cntlid);
    CHECK(number_at(host.log(0x01, 64).data, 0, 8) >= 1);
    CHECK(number_at(host.log(0x02, 512).data, 112, 8) == 2);  // power cycles
    REQUIRE(host.send(*after.queues[1], ScriptedHost::read_entry(1, 0, 1, 4096))->status().ok());
    // The parked request still reports events.
    rig.add_namespace(5);
    rig.run();
    CHECK(host.admin->take(parked)->cqe.dw0.value() == 0x00040002);
    // The keep alive timer starts anew with the whole time.
    rig.advance(4'900 * base::millisecond);
    CHECK(!host.admin->closed());
    rig.advance(base::second);
    CHECK(host.admin->closed());
}

TEST_CASE("restart: what was set for a namespace is kept for it, not for another one in its place") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    REQUIRE(host.set_feature(0x05, 0x10, 1).status().ok());
    REQUIRE(host.set_feature(0x05, 0x20, 3).status().ok());

    Successor after(rig, 1, [&] {
        nvme::SubsystemSpec spec;
        spec.nqn = testing::test_subsystem;
        spec.serial = "SERIAL01";
        spec.model = "Model";
        spec.firmware = "7.1";
        spec.allow_any_host = true;
        spec.max_namespaces = 32;
        REQUIRE(rig.target->add_subsystem(spec).ok());
        rig.add_namespace(1);
        nvme::NamespaceSpec another = rig.namespace_spec(3);
        another.nguid[0] ^= 0xFF;
        REQUIRE(rig.target->add_namespace(testing::test_subsystem, another, rig.disk(3)).ok());
        rig.target->set_loading(false);
    });
    REQUIRE(after.adopted[0]);
    host.admin = after.queues[0];
    CHECK(host.get_feature(0x05, 0, 0, 1).cqe.dw0.value() == 0x10);
    CHECK(host.get_feature(0x05, 0, 0, 3).cqe.dw0.value() == 0);
}

TEST_CASE("restart: new controllers do not get the ids of old ones") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    Successor after(rig, 1);
    ScriptedHost other(rig);
    other.bring_up();
    CHECK(other.cntlid != host.cntlid);
    rig.connections[0]->close();
    rig.run();
    ScriptedHost third(rig);
    third.bring_up();
    CHECK(third.cntlid != host.cntlid);
    CHECK(third.cntlid != other.cntlid);
}

TEST_CASE("restart: a command that was executing is executed again, one that was done is answered") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(1).holding = true;
    const auto write = host.start(queue, ScriptedHost::write_entry(1, 3, 1, 4096), testing::filled(4096, 8));
    const auto read = host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    CHECK(rig.disk(1).held.size() == 2);
    // The predecessor's device requests end with it.
    for (nvme::CommandRecord& record : rig.slots[1].commands) {
        CHECK(record.state != nvme::CommandState::done);
    }
    const std::vector<nvme::CommandRecord> killed = rig.slots[1].commands;
    rig.disk(1).finish_held(block::Status::aborted);
    rig.run();
    rig.stop();
    rig.slots[1].commands = killed;
    rig.disk(1).holding = false;
    Successor after(rig, 2);
    REQUIRE(after.adopted[1]);
    CHECK(after.queues[1]->take(write)->status().ok());
    CHECK(after.queues[1]->take(read)->status().ok());
    CHECK(rig.disk(1).content()[3 * 4096] == std::byte{8});
    CHECK(rig.buffers->bytes_in_use() == 0);
}

TEST_CASE("restart: a Connect that was bound but not answered is answered with its controller") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    const auto cid = host.start(*host.admin, ScriptedHost::connect_entry(0, 31), host.connect_data(0xFFFF));
    const auto first = host.admin->take(cid);
    REQUIRE(first.has_value());
    // As it was before `done`: the command ready, its data still there, the queue bound.
    rig.stop();
    nvme::CommandRecord* connect = nullptr;
    for (nvme::CommandRecord& record : rig.slots[0].commands) {
        if (record.sqe.opcode == 0x7F) {
            connect = &record;
        }
    }
    REQUIRE(connect != nullptr);
    connect->state = nvme::CommandState::ready;
    connect->status = 0;
    connect->buffer_bytes = 1024;
    rig.slots[0].queue.connect_done = 0;
    Successor after(rig, 1);
    REQUIRE(after.adopted[0]);
    const auto again = after.queues[0]->take(cid);
    REQUIRE(again.has_value());
    CHECK(again->status().ok());
    CHECK(again->cqe.dw0.value() == first->cqe.dw0.value());
    CHECK(rig.target->controller_status().size() == 1);
    host.admin = after.queues[0];
    CHECK(host.set_cc(0x00460001).status().ok());
}

TEST_CASE("restart: a controller without its admin queue ends, a queue without its controller is refused") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    host.io(1);
    rig.stop();
    rig.slots[0].queue = nvme::QueueRecord{};
    {
        Successor after(rig, 2);
        CHECK(after.adopted == std::vector<bool>{true, true});
        rig.run();
        CHECK(after.queues[1]->closed());
        CHECK(rig.target->controller_status().empty());
    }
    rig.stop();
    rig.slots[1].queue.controller = 5;
    Successor after(rig, 2);
    CHECK(after.adopted == std::vector<bool>{true, false});
    rig.slots[1].queue = nvme::QueueRecord{};
}

TEST_CASE(
    "restart: controllers of subsystems that are no longer configured, and damaged records, are dropped") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    ScriptedHost other(rig);
    other.bring_up();
    rig.stop();
    std::memset(rig.controller_records[1].host_nqn, 'x', sizeof(rig.controller_records[1].host_nqn));
    {
        Successor after(rig, 2);
        CHECK(after.adopted == std::vector<bool>{true, false});
        CHECK(rig.count(nvme::TargetEventKind::adoption_refused) == 1);
    }
    Successor after(rig, 2, false);
    CHECK(after.adopted == std::vector<bool>{false, false});
    CHECK(rig.controller_records[0].state == nvme::RecordState::free);
}

TEST_CASE("restart: namespaces that changed meanwhile are told as an overflow of the list") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    REQUIRE(host.set_feature(0x0B, 0x100).status().ok());
    const auto parked = host.park();
    rig.stop();
    REQUIRE(rig.disk(1).resize(1u << 21).ok());
    Successor after(rig, 1);
    host.admin = after.queues[0];
    const auto event = host.admin->take(parked);
    REQUIRE(event.has_value());
    CHECK(event->cqe.dw0.value() == 0x00040002);
    CHECK(number_at(host.log(0x04, 4096).data, 0, 4) == 0xFFFFFFFF);
}

TEST_CASE("restart: a watching discovery host hears of what changed, and the generation never goes back") {
    TargetRig rig;
    rig.with_subsystem();
    rig.target->set_discovery_generation(100);
    ScriptedHost host(rig, {"nqn.2014-08.org.nvmexpress.discovery", testing::test_host, 1});
    host.bring_up(30000);
    REQUIRE(host.set_feature(0x0B, 0x80000000).status().ok());
    const auto parked = host.park();
    {
        Successor same(rig, 1);
        host.admin = same.queues[0];
        CHECK(!host.admin->take(parked).has_value());
        CHECK(rig.target->discovery_generation() == 100);
    }
    rig.stop();
    rig.restart();
    rig.target->set_listeners({{"tcp", "ipv4", "0.0.0.0", "4420", 1, false}});
    rig.target->adopt_controllers();
    transport::LoopConnection& connection = rig.open(0);
    REQUIRE(connection.adopt());
    rig.target->drop_orphans();
    connection.resume();
    rig.with_subsystem();
    rig.run();
    CHECK(connection.take(parked)->cqe.dw0.value() == 0x0070F002);
    CHECK(rig.target->discovery_generation() == 101);
}

TEST_CASE("restart: a reset that was under way is finished") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    host.io(1);
    rig.stop();
    rig.controller_records[0].cc = 0x00460000;  // EN cleared, RDY not yet
    Successor after(rig, 2);
    host.admin = after.queues[0];
    rig.run();
    CHECK(after.queues[1]->closed());
    CHECK(host.property(0x1C) == 0);
    CHECK(host.set_cc(0x00460001).status().ok());
    CHECK(host.property(0x1C) == 1);
}

TEST_CASE("restart: hosts that are not allowed any more are disconnected") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    rig.stop();
    rig.restart();
    rig.with_subsystem();
    REQUIRE(rig.target->set_hosts(testing::test_subsystem, false, {}).ok());
    rig.target->adopt_controllers();
    transport::LoopConnection& connection = rig.open(0);
    CHECK(connection.adopt());
    rig.target->drop_orphans();
    rig.run();
    CHECK(connection.idle());
    CHECK(rig.target->controller_status().empty());
}
