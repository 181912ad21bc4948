// Get and Set Features: each value, its default, what cannot be set [NVM Express Base 2.0 §5.15, §5.27].

#include <doctest/doctest.h>

#include "testing/scripted_host.h"

using testing::Entry;
using testing::number_at;
using testing::ScriptedHost;
using testing::TargetRig;

namespace {

struct PlainFeature {
    std::uint8_t id;
    std::uint32_t default_value;
    std::uint32_t value;        // can be set
    std::uint32_t wrong_value;  // cannot
    std::uint32_t capabilities;
};

}  // namespace

TEST_CASE("features: plain values are kept, defaults and saved values stay") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const PlainFeature features[] = {
        {0x01, 0, 0x04030207, 0x00000008, 4},  // arbitration
        {0x06, 1, 0x00000000, 0x00000002, 4},  // volatile write cache
        {0x0A, 0, 0x00000001, 0x00000002, 4},  // write atomicity
        {0x0B, 0, 0x00000900, 0x00000400, 4},  // asynchronous events; telemetry is not there
    };
    for (const PlainFeature& feature : features) {
        CAPTURE(feature.id);
        CHECK(host.get_feature(feature.id).cqe.dw0.value() == feature.default_value);
        CHECK(host.set_feature(feature.id, feature.value).status().ok());
        CHECK(host.get_feature(feature.id).cqe.dw0.value() == feature.value);
        CHECK(host.get_feature(feature.id, 1).cqe.dw0.value() == feature.default_value);
        CHECK(host.get_feature(feature.id, 2).cqe.dw0.value() == feature.default_value);
        CHECK(host.get_feature(feature.id, 3).cqe.dw0.value() == feature.capabilities);
        CHECK(host.get_feature(feature.id, 4).status().value == 0x002);
        CHECK(host.set_feature(feature.id, feature.wrong_value).status().value == 0x002);
        CHECK(host.get_feature(feature.id).cqe.dw0.value() == feature.value);
        CHECK(host.set_feature(feature.id, feature.value, 0, {}, true).status().value == 0x10D);
    }
    CHECK(host.set_feature(0x02, 0x00000060).status().ok());
    CHECK(host.get_feature(0x02).cqe.dw0.value() == 0x60);
    CHECK(host.set_feature(0x02, 0x00000001).status().value == 0x002);  // power state 1
    CHECK(host.set_feature(0x19, 0).status().ok());
    CHECK(host.set_feature(0x19, 1).status().value == 0x12B);
}

TEST_CASE("features: error recovery is set for each namespace, or for all that are attached") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    ScriptedHost other(rig);
    other.bring_up();
    constexpr std::uint32_t all = 0xFFFFFFFF;
    const auto limit = [](ScriptedHost& of, std::uint32_t nsid, std::uint8_t select = 0) {
        const auto got = of.get_feature(0x05, select, 0, nsid);
        REQUIRE(got.status().ok());
        return got.cqe.dw0.value();
    };
    CHECK(host.set_feature(0x05, 0x10, 1).status().ok());
    CHECK(host.set_feature(0x05, 0xFFFF, 3).status().ok());
    CHECK(limit(host, 1) == 0x10);
    CHECK(limit(host, 3) == 0xFFFF);
    CHECK(limit(host, 1, 1) == 0);
    CHECK(limit(host, 1, 2) == 0);
    CHECK(limit(host, 1, 3) == 6);  // changeable, namespace specific, not saveable
    CHECK(limit(other, 1) == 0);
    CHECK(host.set_feature(0x05, 0x20, all).status().ok());
    CHECK(limit(host, 1) == 0x20);
    CHECK(limit(host, 3) == 0x20);
    CHECK(limit(other, 1) == 0);
    CHECK(host.set_feature(0x05, 0x10000, 1).status().value == 0x002);  // DULBE: NSFEAT says no
    CHECK(host.set_feature(0x05, 0x20000, all).status().value == 0x002);
    CHECK(host.set_feature(0x05, 0x30, 1, {}, true).status().value == 0x10D);
    for (const std::uint32_t nsid : {0u, 2u, 1025u}) {
        CAPTURE(nsid);
        CHECK(host.get_feature(0x05, 0, 0, nsid).status().value == 0x00B);
        CHECK(host.set_feature(0x05, 1, nsid).status().value == 0x00B);
    }
    CHECK(host.get_feature(0x05, 0, 0, all).status().value == 0x00B);
    CHECK(limit(host, 1) == 0x20);
}

TEST_CASE("features: error recovery begins anew with a namespace and with a reset of the controller") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto limit = [&](std::uint32_t nsid) {
        const auto got = host.get_feature(0x05, 0, 0, nsid);
        REQUIRE(got.status().ok());
        return got.cqe.dw0.value();
    };
    REQUIRE(host.set_feature(0x05, 0x10, 0xFFFFFFFF).status().ok());
    REQUIRE(rig.target->remove_namespace(testing::test_subsystem, 3, nullptr).ok());
    rig.run();
    CHECK(host.get_feature(0x05, 0, 0, 3).status().value == 0x00B);
    rig.add_namespace(3);
    rig.run();
    CHECK(limit(3) == 0);
    CHECK(limit(1) == 0x10);
    rig.add_namespace(5);
    CHECK(limit(5) == 0);
    REQUIRE(host.set_cc(0x00460000).status().ok());
    rig.run();
    REQUIRE(host.set_cc(0x00460001).status().ok());
    CHECK(limit(1) == 0);
}

TEST_CASE("features: without the write cache every write goes to the medium") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(1).holding = true;
    const auto durable = [&](const testing::Entry& entry, std::size_t bytes) {
        host.start(queue, entry, testing::filled(bytes, 1));
        REQUIRE(rig.disk(1).held.size() == 1);
        const bool forced = rig.disk(1).held[0]->force_unit_access;
        rig.disk(1).finish_held();
        rig.run();
        return forced;
    };
    const auto write = ScriptedHost::write_entry(1, 0, 1, 4096);
    const auto zeroes = testing::Entry(0x08).nsid(1);
    CHECK(!durable(write, 4096));
    CHECK(!durable(zeroes, 0));
    REQUIRE(host.set_feature(0x06, 0).status().ok());
    CHECK(durable(write, 4096));
    CHECK(durable(zeroes, 0));
    REQUIRE(host.set_feature(0x06, 1).status().ok());
    CHECK(!durable(write, 4096));
}

TEST_CASE("features: hosts that know of retry delays get one with what passes by itself") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(1).holding = true;
    const auto status_when_busy = [&] {
        const auto cid = host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
        rig.disk(1).finish_held(block::Status::busy);
        rig.run();
        return queue.take(cid)->cqe.status.value();
    };
    CHECK(((status_when_busy() >> 12) & 3) == 0);
    std::vector<std::byte> behavior(512);
    behavior[0] = std::byte{1};
    REQUIRE(host.set_feature(0x16, 0, 0, behavior).status().ok());
    const std::uint16_t field = status_when_busy();
    CHECK(((field >> 1) & 0x7FF) == 0x021);
    CHECK(((field >> 12) & 3) == 1);  // CRD: CRDT1
    CHECK((field >> 15) == 0);        // may be retried
}

TEST_CASE("features: temperature thresholds over and under") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    constexpr std::uint32_t under = 1u << 20;
    CHECK(host.get_feature(0x04).cqe.dw0.value() == 343);
    CHECK(host.get_feature(0x04, 0, under).cqe.dw0.value() == 0);
    CHECK(host.set_feature(0x04, 350).status().ok());
    CHECK(host.set_feature(0x04, under | 260).status().ok());
    CHECK(host.set_feature(0x04, (15u << 16) | 351).status().ok());
    CHECK(host.get_feature(0x04).cqe.dw0.value() == 351);
    CHECK(host.get_feature(0x04, 0, under).cqe.dw0.value() == 260);
    CHECK(host.get_feature(0x04, 1, under).cqe.dw0.value() == 0);
    CHECK(host.get_feature(0x04, 0, 1u << 16).status().value == 0x002);  // sensor 1
    CHECK(host.set_feature(0x04, (2u << 20) | 300).status().value == 0x002);
}

TEST_CASE("features: the number of queues is granted once, before there are any") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    CHECK(host.get_feature(0x07).cqe.dw0.value() == 0x003F003F);
    CHECK(host.set_feature(0x07, 0x0000FFFF).status().value == 0x002);
    CHECK(host.set_feature(0x07, 0xFFFF0000).status().value == 0x002);
    CHECK(host.set_feature(0x07, 0x00030007).cqe.dw0.value() == 0x00030007);
    CHECK(host.set_feature(0x07, 0x01000100).cqe.dw0.value() == 0x003F003F);
    CHECK(host.get_feature(0x07).cqe.dw0.value() == 0x003F003F);
    transport::LoopConnection& queue = host.io(1);
    CHECK(host.set_feature(0x07, 0).status().value == 0x00C);
    queue.close();
    rig.run();
    CHECK(host.set_feature(0x07, 0).cqe.dw0.value() == 0);
}

TEST_CASE("features: the timestamp goes on from what was set") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    rig.advance(2 * base::second);
    auto data = host.get_feature(0x0E, 0, 0, 0, 8).data;
    REQUIRE(data.size() == 8);
    CHECK(number_at(data, 0, 6) == 2000);
    CHECK(number_at(data, 6, 1) == 0);  // origin: cleared by a reset
    std::vector<std::byte> set(8);
    set[5] = std::byte{0x01};
    CHECK(host.set_feature(0x0E, 0, 0, set).status().ok());
    rig.advance(1'500 * base::millisecond);
    data = host.get_feature(0x0E, 0, 0, 0, 8).data;
    CHECK(number_at(data, 0, 6) == (1ull << 40) + 1500);
    CHECK(number_at(data, 6, 1) == 0x02);  // origin: Set Features
    CHECK(host.get_feature(0x0E, 0, 0, 0, 4).status().value == 0x00F);
    CHECK(host.get_feature(0x0E, 3).cqe.dw0.value() == 4);
}

TEST_CASE("features: host behavior support") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    std::vector<std::byte> behavior(512);
    behavior[0] = std::byte{1};
    CHECK(host.set_feature(0x16, 0, 0, behavior).status().ok());
    const auto data = host.get_feature(0x16, 0, 0, 0, 512).data;
    REQUIRE(data.size() == 512);
    CHECK(number_at(data, 0, 4) == 1);
    CHECK(number_at(host.get_feature(0x16, 1, 0, 0, 512).data, 0, 4) == 0);
    behavior[0] = std::byte{2};
    CHECK(host.set_feature(0x16, 0, 0, behavior).status().value == 0x002);
    CHECK(host.set_feature(0x16, 0, 0, std::span(behavior).first(511)).status().value == 0x00F);
}

TEST_CASE("features: the host identifier comes from Connect and cannot be set") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto completion = host.get_feature(0x81, 0, 1, 0, 16);
    REQUIRE(completion.data.size() == 16);
    CHECK(number_at(completion.data, 0, 8) == 0x5A5A5A5A5A5A5A5A);
    CHECK(completion.cqe.dw0.value() == 1);
    CHECK(host.get_feature(0x81, 0, 0, 0, 16).status().value == 0x002);
    CHECK(host.get_feature(0x81, 3).cqe.dw0.value() == 0);
    CHECK(host.set_feature(0x81, 1).status().value == 0x00C);
}

TEST_CASE("features: namespace write protection stops writes, is told and outlives the process") {
    TargetRig rig;
    rig.with_subsystem();
    {
        ScriptedHost host(rig);
        host.bring_up();
        transport::LoopConnection& queue = host.io(1);
        CHECK(host.get_feature(0x84, 0, 0, 1).cqe.dw0.value() == 0);
        CHECK(host.get_feature(0x84, 3, 0, 1).cqe.dw0.value() == 6);
        CHECK(host.set_feature(0x84, 1, 1).status().ok());
        CHECK(host.get_feature(0x84, 0, 0, 1).cqe.dw0.value() == 1);
        CHECK(host.get_feature(0x84, 0, 0, 3).cqe.dw0.value() == 0);
        const auto write =
            host.send(queue, ScriptedHost::write_entry(1, 0, 1, 4096), testing::filled(4096, 1));
        REQUIRE(write.has_value());
        CHECK(write->status().value == 0x020);
        CHECK(host.set_feature(0x84, 2, 1).status().value == 0x002);
        CHECK(host.set_feature(0x84, 3, 1).status().value == 0x002);
        CHECK(host.set_feature(0x84, 1, 2).status().value == 0x00B);
        CHECK(host.set_feature(0x84, 1, 0).status().value == 0x00B);
        CHECK(rig.count(nvme::TargetEventKind::write_protection_changed) == 1);
        CHECK(rig.events.back().value == 1);
    }
    rig.stop();
    rig.restart();
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    CHECK(host.get_feature(0x84, 0, 0, 1).cqe.dw0.value() == 1);
    CHECK(host.set_feature(0x84, 0, 1).status().ok());
    CHECK(host.get_feature(0x84, 0, 0, 1).cqe.dw0.value() == 0);
}

TEST_CASE("features: a write protection state holds, and is answered, once it is kept durably") {
    TargetRig rig;
    rig.with_subsystem();
    std::vector<nvme::ProtectionRequest> asked;
    std::vector<nvme::AdmissionAnswer> waiting;
    rig.target->set_protection_hook(
        [&](const nvme::ProtectionRequest& request, nvme::AdmissionAnswer answer) {
            asked.push_back(request);
            waiting.push_back(std::move(answer));
        });
    ScriptedHost host(rig);
    host.bring_up();
    const auto protect = [&](std::uint32_t state) {
        return host.start(*host.admin, Entry(0x09).nsid(1).dword(10, 0x84).dword(11, state));
    };
    const auto state = [&] { return host.get_feature(0x84, 0, 0, 1).cqe.dw0.value(); };

    const auto kept = protect(1);
    REQUIRE(asked.size() == 1);
    CHECK(asked[0].subsystem_nqn == testing::test_subsystem);
    CHECK(asked[0].nsid == 1);
    CHECK(asked[0].nguid == rig.namespace_spec(1).nguid);
    CHECK(asked[0].state == 1);
    CHECK(!host.admin->take(kept).has_value());
    CHECK(state() == 0);
    waiting[0](true, "");
    rig.run();
    CHECK(host.admin->take(kept)->status().ok());
    CHECK(state() == 1);
    CHECK(host.set_feature(0x84, 1, 1).status().ok());  // nothing to keep
    CHECK(asked.size() == 1);

    const auto failed = protect(0);
    waiting[1](false, "the disk is full");
    rig.run();
    CHECK(host.admin->take(failed)->status().value == 0x006);
    CHECK(state() == 1);

    const auto late = protect(0);
    rig.advance(4 * base::second);
    CHECK(host.admin->take(late)->status().value == 0x006);
    waiting[2](true, "too late");
    CHECK(state() == 1);

    const auto aborted = protect(0);
    CHECK(host.command(Entry(0x08).dword(10, std::uint32_t{aborted} << 16)).cqe.dw0.value() == 0);
    CHECK(host.admin->take(aborted)->status().value == 0x007);
    waiting[3](true, "");
    CHECK(state() == 1);

    protect(0);
    rig.target->find(testing::test_subsystem)->find_namespace(1)->set_write_protection(0);
    host.admin->disconnect(false, "the host went");
    rig.run();
    waiting[4](true, "");
    rig.run();
    CHECK(rig.target->controller_status().empty());
}

TEST_CASE("features: a namespace that the records do not know begins with the state that was kept") {
    TargetRig rig;
    rig.with_subsystem();
    nvme::NamespaceSpec spec = rig.namespace_spec(5);
    spec.write_protection = 1;
    REQUIRE(rig.target->add_namespace(testing::test_subsystem, spec, rig.disk(5)).ok());
    ScriptedHost host(rig);
    host.bring_up();
    CHECK(host.get_feature(0x84, 0, 0, 5).cqe.dw0.value() == 1);
}

TEST_CASE("features: unknown ones are invalid, and namespaces are named only where they are meant") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    for (const int id : {0x00, 0x03, 0x08, 0x09, 0x0C, 0x0D, 0x10, 0x17, 0x7E, 0x80, 0x82, 0xC0}) {
        CAPTURE(id);
        CHECK(host.get_feature(static_cast<std::uint8_t>(id)).status().value == 0x002);
        CHECK(host.set_feature(static_cast<std::uint8_t>(id), 0).status().value == 0x002);
    }
    CHECK(host.set_feature(0x01, 0, 1).status().value == 0x10F);
    CHECK(host.set_feature(0x01, 0, 2).status().value == 0x00B);
    CHECK(host.set_feature(0x01, 0, 0xFFFFFFFF).status().ok());
    CHECK(host.get_feature(0x01, 0, 0, 1).status().ok());
}

TEST_CASE("features: a discovery controller has those of its kind") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig, {"nqn.2014-08.org.nvmexpress.discovery", testing::test_host, 1});
    host.bring_up(30000);
    CHECK(host.get_feature(0x0F).cqe.dw0.value() == 30000);
    CHECK(host.set_feature(0x0B, 0x80000000).status().ok());
    CHECK(host.set_feature(0x0B, 0x00000100).status().value == 0x002);
    CHECK(host.get_feature(0x07).status().value == 0x002);
    CHECK(host.get_feature(0x06).status().value == 0x002);
}
