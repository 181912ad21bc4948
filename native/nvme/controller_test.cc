// The life of a controller: properties, reset, shutdown, keep alive [NVM Express Base 2.0 §3.1.3, §3.5 to
// §3.9].

#include <doctest/doctest.h>

#include "testing/scripted_host.h"

using testing::Entry;
using testing::ScriptedHost;
using testing::TargetRig;

TEST_CASE("controller: properties say what the controller is") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    REQUIRE(host.connect().status().ok());
    const std::uint64_t cap = host.property(0x00, true);
    CHECK((cap & 0xFFFF) == 1023);        // MQES
    CHECK(((cap >> 16) & 1) == 1);        // CQR
    CHECK(((cap >> 24) & 0xFF) == 30);    // TO
    CHECK(((cap >> 37) & 0xFF) == 0x41);  // CSS: NVM, selectable command sets
    CHECK(((cap >> 48) & 0xFF) == 0);     // MPSMIN, MPSMAX
    CHECK(((cap >> 59) & 3) == 1);        // CRMS: ready with media
    CHECK(host.property(0x08) == 0x00020000);
    CHECK(host.property(0x14) == 0);
    CHECK(host.property(0x1C) == 0);
    CHECK(host.property(0x68) == 30);  // CRTO.CRWMT
}

TEST_CASE("controller: properties that do not exist or have another size are invalid fields") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    REQUIRE(host.connect().status().ok());
    const auto get = [&](std::uint32_t offset, std::uint8_t size) {
        return host.command(ScriptedHost::property_get(offset, false).put8(40, size)).status().value;
    };
    CHECK(get(0x00, 0) == 0x002);
    CHECK(get(0x1C, 1) == 0x002);
    CHECK(get(0x1C, 2) == 0x002);
    CHECK(get(0x20, 0) == 0x002);
    CHECK(get(0x1D, 0) == 0x002);
    CHECK(get(0xFFFFFFFF, 0) == 0x002);
    CHECK(host.command(ScriptedHost::property_set(0x1C, 1)).status().value == 0x002);
    CHECK(host.command(ScriptedHost::property_set(0x00, 1, true)).status().value == 0x002);
    CHECK(host.command(ScriptedHost::property_set(0x14, 1, true)).status().value == 0x002);
    CHECK(host.property(0x14) == 0);
}

TEST_CASE("controller: properties are not for I/O queues") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto completion = host.send(host.io(1), ScriptedHost::property_get(0x1C, false));
    REQUIRE(completion.has_value());
    CHECK(completion->status().value == 0x185);
}

TEST_CASE("controller: a configuration that cannot work is a fatal status") {
    TargetRig rig;
    rig.with_subsystem();
    const std::uint32_t wrong[] = {
        0x00450001,  // IOSQES 5
        0x00360001,  // IOCQES 3
        0x00460081,  // MPS 1
        0x00460801,  // AMS 1
        0x00460011,  // CSS 1
        0x00460071,  // CSS 7: admin only is not offered
    };
    for (const std::uint32_t cc : wrong) {
        CAPTURE(cc);
        ScriptedHost host(rig);
        REQUIRE(host.connect().status().ok());
        REQUIRE(host.set_cc(cc).status().ok());
        CHECK(host.property(0x1C) == 2);
        CHECK(host.command(Entry(0x18)).status().value == 0x00C);
        REQUIRE(host.set_cc(0).status().ok());
        CHECK(host.property(0x1C) == 0);
        REQUIRE(host.set_cc(0x00460061).status().ok());  // CSS 6: all command sets
        CHECK(host.property(0x1C) == 1);
    }
}

TEST_CASE("controller: a reset ends commands and I/O queues and keeps the association") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    CHECK(host.set_feature(0x01, 0x03).status().ok());
    transport::LoopConnection& queue = host.io(1);
    const auto parked = host.park();
    rig.disk(1).holding = true;
    rig.disk(1).cancellable = false;
    host.start(queue, ScriptedHost::write_entry(1, 0, 1, 4096), testing::filled(4096, 1));
    REQUIRE(rig.disk(1).held.size() == 1);

    REQUIRE(host.set_cc(0x00460000).status().ok());
    CHECK(queue.closed());
    CHECK(queue.reason() == "controller reset");
    const auto aborted = host.admin->take(parked);
    REQUIRE(aborted.has_value());
    CHECK(aborted->status().value == 0x007);
    // Not before the device has given up the last request: nothing old may land later.
    CHECK(host.property(0x1C) == 1);
    CHECK(!queue.idle());
    rig.disk(1).finish_held();
    rig.run();
    CHECK(queue.idle());
    CHECK(host.property(0x1C) == 0);
    rig.disk(1).holding = false;

    REQUIRE(host.set_cc(0x00460001).status().ok());
    CHECK(host.property(0x1C) == 1);
    CHECK(host.get_feature(0x01).cqe.dw0.value() == 0);  // features are as after a reset
    CHECK(host.io(1).queue().connected());
    CHECK(rig.count(nvme::TargetEventKind::controller_reset) == 1);
}

TEST_CASE(
    "controller: a host that enables again without waiting gets its controller when the old commands are "
    "gone") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(1).holding = true;
    rig.disk(1).cancellable = false;
    host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    REQUIRE(host.set_cc(0x00460000).status().ok());
    REQUIRE(host.set_cc(0x00460001).status().ok());
    rig.disk(1).finish_held();
    rig.run();
    CHECK(host.property(0x1C) == 1);
    rig.disk(1).holding = false;
    CHECK(host.io(1).queue().connected());
}

TEST_CASE("controller: a shutdown flushes every namespace before it is complete") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(3).holding = true;
    REQUIRE(host.set_cc(0x00464001).status().ok());  // SHN normal
    CHECK((host.property(0x1C) & 0x0C) == 0x04);
    CHECK(queue.closed());
    CHECK(rig.disk(1).flushes == 1);
    rig.disk(3).finish_held();
    rig.run();
    CHECK(rig.disk(3).flushes == 1);
    CHECK((host.property(0x1C) & 0x0C) == 0x08);
    const auto late =
        host.send(rig.open(), ScriptedHost::connect_entry(1, 31), host.connect_data(host.cntlid));
    REQUIRE(late.has_value());
    CHECK(!late->status().ok());
    host.admin->close();
    rig.run();
    CHECK(rig.target->controller_status().empty());
    CHECK(rig.subsystem_records[0].unsafe_shutdowns == 0);
    CHECK(rig.count(nvme::TargetEventKind::controller_shutdown) == 1);
}

TEST_CASE("controller: an abrupt shutdown is complete as well, and a reset brings the controller back") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    REQUIRE(host.set_cc(0x00468001).status().ok());
    rig.run();
    CHECK((host.property(0x1C) & 0x0C) == 0x08);
    REQUIRE(host.set_cc(0x00460000).status().ok());
    CHECK(host.property(0x1C) == 0);
    REQUIRE(host.set_cc(0x00460001).status().ok());
    CHECK(host.property(0x1C) == 1);
}

TEST_CASE("controller: without its admin queue it ends, and its I/O queues with it") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(1).holding = true;
    rig.disk(1).cancellable = false;
    host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    host.admin->close();
    rig.run();
    CHECK(queue.closed());
    CHECK(!queue.idle());
    CHECK(rig.target->controller_status().size() == 1);
    rig.disk(1).finish_held();
    rig.run();
    CHECK(queue.idle());
    CHECK(rig.target->controller_status().empty());
    CHECK(rig.controller_records[0].state == nvme::RecordState::free);
    CHECK(rig.subsystem_records[0].unsafe_shutdowns == 1);
    CHECK(rig.count(nvme::TargetEventKind::controller_ended) == 1);
}

TEST_CASE("keep alive: a silent host loses its controller, at its time and not before") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up(5000);
    transport::LoopConnection& queue = host.io(1);
    rig.advance(4'900 * base::millisecond);
    CHECK(!host.admin->closed());
    rig.advance(200 * base::millisecond);
    CHECK(host.admin->closed());
    CHECK(host.admin->reason() == "keep alive timer expired");
    CHECK(queue.closed());
    CHECK(rig.count(nvme::TargetEventKind::keep_alive_expired) == 1);
    CHECK(rig.target->controller_status().empty());
}

TEST_CASE("keep alive: any command of any queue counts") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up(5000);
    transport::LoopConnection& queue = host.io(1);
    for (int i = 0; i < 4; ++i) {
        rig.advance(4 * base::second);
        REQUIRE(host.send(queue, ScriptedHost::read_entry(1, 0, 1, 4096)).has_value());
    }
    for (int i = 0; i < 4; ++i) {
        rig.advance(4 * base::second);
        CHECK(host.command(Entry(0x18)).status().ok());
    }
    CHECK(!host.admin->closed());
    rig.advance(5'100 * base::millisecond);
    CHECK(host.admin->closed());
}

TEST_CASE("keep alive: zero switches the timer off, the feature switches it on, rounded up to a second") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up(0);
    rig.advance(3600 * base::second);
    CHECK(!host.admin->closed());
    CHECK(host.set_feature(0x0F, 1500).status().ok());
    CHECK(host.get_feature(0x0F).cqe.dw0.value() == 2000);
    rig.advance(1'900 * base::millisecond);
    CHECK(!host.admin->closed());
    rig.advance(200 * base::millisecond);
    CHECK(host.admin->closed());
}

TEST_CASE("keep alive: a discovery controller without a timer ends after two minutes of silence") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig, {"nqn.2014-08.org.nvmexpress.discovery", testing::test_host, 1});
    host.bring_up(0);
    rig.advance(119 * base::second);
    CHECK(!host.admin->closed());
    rig.advance(2 * base::second);
    CHECK(host.admin->closed());
}
