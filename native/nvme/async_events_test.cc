// Asynchronous events and the changed namespace list [NVM Express Base 2.0 §5.2, §5.16.1.5].

#include <doctest/doctest.h>

#include <cstdlib>
#include <random>
#include <set>

#include "testing/scripted_host.h"

using testing::number_at;
using testing::ScriptedHost;
using testing::TargetRig;

namespace {

constexpr std::uint32_t namespace_event = 0x00040002;  // notice, 00h, log page 04h
constexpr std::uint32_t ana_event = 0x000C0302;
constexpr std::uint32_t retain = 1u << 15;

// Dword 0 of an event request's completion, 0 if there is none.
std::uint32_t event_of(ScriptedHost& host, std::uint16_t cid) {
    const auto completion = host.admin->take(cid);
    return completion ? completion->cqe.dw0.value() : 0;
}

}  // namespace

TEST_CASE("events: a new namespace is told once, and again after the list was read") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    REQUIRE(host.set_feature(0x0B, 0x100).status().ok());
    const auto first = host.park();
    const auto second = host.park();
    rig.add_namespace(5);
    rig.run();
    CHECK(event_of(host, first) == namespace_event);
    rig.add_namespace(4);
    rig.run();
    CHECK(event_of(host, second) == 0);  // quiet until the host has looked
    auto list = host.log(0x04, 4096, 0, retain);
    CHECK(number_at(list.data, 0, 4) == 4);
    CHECK(number_at(list.data, 4, 4) == 5);
    CHECK(number_at(list.data, 8, 4) == 0);
    rig.add_namespace(6);
    rig.run();
    CHECK(event_of(host, second) == 0);
    list = host.log(0x04, 4096);
    CHECK(number_at(list.data, 8, 4) == 6);
    CHECK(number_at(host.log(0x04, 4096).data, 0, 4) == 0);
    rig.add_namespace(7);
    rig.run();
    CHECK(event_of(host, second) == namespace_event);
}

TEST_CASE("events: removal and resize are told, with the new size") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    REQUIRE(host.set_feature(0x0B, 0x100).status().ok());
    const auto first = host.park();
    REQUIRE(rig.disk(1).resize(1u << 21).ok());
    rig.run();
    CHECK(event_of(host, first) == namespace_event);
    CHECK(number_at(host.log(0x04, 4096).data, 0, 4) == 1);
    CHECK(number_at(host.identify(0x00, 1).data, 0, 8) == 512);
    CHECK(rig.count(nvme::TargetEventKind::namespace_resized) == 1);
    const auto second = host.park();
    bool removed = false;
    REQUIRE(rig.target->remove_namespace(testing::test_subsystem, 1, [&] { removed = true; }).ok());
    rig.run();
    CHECK(removed);
    CHECK(event_of(host, second) == namespace_event);
    CHECK(number_at(host.log(0x04, 4096).data, 0, 4) == 1);
    CHECK(number_at(host.identify(0x02).data, 0, 4) == 3);
}

TEST_CASE("events: what is not enabled is not told, but listed") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto cid = host.park();
    rig.add_namespace(5);
    CHECK(rig.target->set_ana_state(testing::test_subsystem, nvme::AnaState::non_optimized).ok());
    rig.run();
    CHECK(event_of(host, cid) == 0);
    CHECK(number_at(host.log(0x04, 4096).data, 0, 4) == 5);
    REQUIRE(host.set_feature(0x0B, 0x900).status().ok());
    CHECK(rig.target->set_ana_state(testing::test_subsystem, nvme::AnaState::optimized).ok());
    rig.run();
    CHECK(event_of(host, cid) == ana_event);
}

TEST_CASE("events: several wait for requests, one of each kind, in a fixed order") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    REQUIRE(host.set_feature(0x0B, 0x902).status().ok());
    rig.target->set_temperature(400);
    CHECK(rig.target->set_ana_state(testing::test_subsystem, nvme::AnaState::non_optimized).ok());
    rig.add_namespace(5);
    rig.add_namespace(6);
    CHECK(event_of(host, host.park()) == namespace_event);
    CHECK(event_of(host, host.park()) == ana_event);
    CHECK(event_of(host, host.park()) == 0x00020101);  // SMART, temperature
    const auto waiting = host.park();
    CHECK(event_of(host, waiting) == 0);
    host.log(0x0C, 64);
    CHECK(rig.target->set_ana_state(testing::test_subsystem, nvme::AnaState::optimized).ok());
    rig.run();
    CHECK(event_of(host, waiting) == ana_event);
}

TEST_CASE("events: more requests than the limit are refused") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    for (int i = 0; i < 4; ++i) {
        CHECK(!host.admin->take(host.park()).has_value());
    }
    const auto fifth = host.admin->take(host.park());
    REQUIRE(fifth.has_value());
    CHECK(fifth->status().value == 0x105);
}

TEST_CASE("events: more changes than the list holds are an overflow") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    nvme::Controller& controller = *rig.target->controller_at(0);
    for (std::uint32_t nsid = 1; nsid <= 1024; ++nsid) {
        controller.namespace_changed(nsid);
    }
    CHECK(number_at(host.log(0x04, 4096, 0, retain).data, 4092, 4) == 1024);
    controller.namespace_changed(7);
    CHECK(number_at(host.log(0x04, 4096, 0, retain).data, 0, 4) == 1);
    controller.namespace_changed(1025);
    const auto list = host.log(0x04, 4096);
    CHECK(number_at(list.data, 0, 4) == 0xFFFFFFFF);
    CHECK(number_at(list.data, 4, 4) == 0);
    CHECK(number_at(host.log(0x04, 4096).data, 0, 4) == 0);
}

TEST_CASE("abort: a parked event request ends, and is no longer counted") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto parked = host.park();
    const auto abort = host.command(testing::Entry(0x08).dword(10, std::uint32_t{parked} << 16));
    CHECK(abort.status().ok());
    CHECK(abort.cqe.dw0.value() == 0);
    const auto aborted = host.admin->take(parked);
    REQUIRE(aborted.has_value());
    CHECK(aborted->status().value == 0x007);
    for (int i = 0; i < 4; ++i) {
        CHECK(!host.admin->take(host.park()).has_value());
    }
}

TEST_CASE("abort: a command at its device is cancelled, and its end comes first") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(1).holding = true;
    const auto read = host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    const auto abort = host.command(testing::Entry(0x08).dword(10, 1 | (std::uint32_t{read} << 16)));
    CHECK(abort.status().ok());
    CHECK(abort.cqe.dw0.value() == 0);
    CHECK(queue.take(read)->status().value == 0x007);
    CHECK(rig.disk(1).held.empty());
}

TEST_CASE("abort: what a device does not give up goes on, and the Abort does not wait for it") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(1).holding = true;
    rig.disk(1).cancellable = false;
    const auto read = host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    const auto abort =
        host.start(*host.admin, testing::Entry(0x08).dword(10, 1 | (std::uint32_t{read} << 16)));
    CHECK(!host.admin->take(abort).has_value());
    rig.advance(1'100 * base::millisecond);
    const auto answer = host.admin->take(abort);
    REQUIRE(answer.has_value());
    CHECK(answer->cqe.dw0.value() == 1);
    rig.disk(1).finish_held();
    rig.run();
    CHECK(queue.take(read)->status().ok());
}

TEST_CASE("abort: unknown commands and queues are not aborted, and there is a limit") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    CHECK(host.command(testing::Entry(0x08).dword(10, 1 | (999u << 16))).cqe.dw0.value() == 1);
    CHECK(host.command(testing::Entry(0x08).dword(10, 7 | (1u << 16))).cqe.dw0.value() == 1);
    CHECK(host.command(testing::Entry(0x08).dword(10, 0xFFFF | (1u << 16))).cqe.dw0.value() == 1);
    rig.disk(1).holding = true;
    rig.disk(1).cancellable = false;
    const auto read = host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    const auto entry = testing::Entry(0x08).dword(10, 1 | (std::uint32_t{read} << 16));
    std::vector<std::uint16_t> waiting;
    for (int i = 0; i < 4; ++i) {
        waiting.push_back(host.start(*host.admin, entry));
    }
    const auto fifth = host.send(*host.admin, entry);
    REQUIRE(fifth.has_value());
    CHECK(fifth->status().value == 0x103);
    rig.disk(1).finish_held(block::Status::aborted);
    rig.run();
    for (const std::uint16_t cid : waiting) {
        CHECK(host.admin->take(cid)->cqe.dw0.value() == 0);
    }
}

TEST_CASE("abort: a command whose data is not here yet ends when it comes") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    REQUIRE(queue.submit(ScriptedHost::write_entry(1, 0, 1, 4096).cid(500).sqe(), {}, true));
    const auto abort = host.start(*host.admin, testing::Entry(0x08).dword(10, 1 | (500u << 16)));
    REQUIRE(queue.supply(500, testing::filled(4096, 9)));
    rig.run();
    CHECK(queue.take(500)->status().value == 0x007);
    CHECK(host.admin->take(abort)->cqe.dw0.value() == 0);
    CHECK(rig.disk(1).content()[0] == std::byte{0});
}

TEST_CASE("events: a host that looks only when it is told knows every namespace in the end") {
    const char* const given = std::getenv("KEEL_TEST_SEED");
    const auto seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    INFO("KEEL_TEST_SEED=", seed);
    std::mt19937_64 random(seed);
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    REQUIRE(host.set_feature(0x0B, 0x100).status().ok());

    // As Linux does: one event request; after its completion the log is read, which makes room for the next
    // event, and then the active list. The request is renewed at any time beside that.
    std::set<std::uint32_t> present{1, 3};
    std::set<std::uint32_t> known = present;
    std::optional<std::uint16_t> parked = host.park();
    bool told = false;
    bool log_was_read = false;
    const auto host_goes_on = [&] {
        if (parked && event_of(host, *parked) != 0) {
            parked.reset();
            told = true;
        } else if (!parked && random() % 2 == 0) {
            parked = host.park();
        } else if (log_was_read) {
            const auto list = host.identify(0x02);
            known.clear();
            for (std::size_t at = 0; number_at(list.data, at, 4) != 0; at += 4) {
                known.insert(static_cast<std::uint32_t>(number_at(list.data, at, 4)));
            }
            log_was_read = false;
        } else if (told) {
            told = false;
            host.log(0x04, 4096);
            log_was_read = true;
        }
    };
    for (int step = 0; step < 5000; ++step) {
        const auto nsid = static_cast<std::uint32_t>(4 + random() % 8);
        if (random() % 3 != 0) {
            host_goes_on();
        } else if (present.insert(nsid).second) {
            rig.add_namespace(nsid);
        } else {
            present.erase(nsid);
            REQUIRE(rig.target->remove_namespace(testing::test_subsystem, nsid, nullptr).ok());
        }
        rig.run();
    }
    for (int step = 0; step < 100; ++step) {
        host_goes_on();
    }
    CHECK(known == present);
}
