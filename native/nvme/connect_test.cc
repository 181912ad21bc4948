// Connect, as a host that gets it wrong in every way sees it [NVM Express Base 2.0 §6.3].

#include <doctest/doctest.h>

#include <string>

#include "testing/scripted_host.h"

using testing::Entry;
using testing::ScriptedHost;
using testing::TargetRig;

namespace {

struct Rejection {
    const char* what;
    std::uint16_t status;  // SCT and SC
    std::uint32_t dw0;     // IATTR in bit 16, IPO in bits 15:0
    bool dnr;
};

void check(const std::optional<ScriptedHost::Completion>& completion, const Rejection& expected) {
    CAPTURE(expected.what);
    REQUIRE(completion.has_value());
    CHECK(completion->status().value == expected.status);
    CHECK(completion->cqe.dw0.value() == expected.dw0);
    CHECK(completion->dnr() == expected.dnr);
}

}  // namespace

TEST_CASE("connect: an admin queue gets a controller and its id") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    const auto completion = host.connect(5000);
    CHECK(completion.status().ok());
    CHECK(host.cntlid >= 1);
    CHECK((completion.cqe.dw0.value() >> 16) == 0);  // no authentication required
    CHECK(completion.cqe.sqhd.value() == 1);
    const auto controllers = rig.target->controller_status();
    REQUIRE(controllers.size() == 1);
    CHECK(controllers[0].host_nqn == testing::test_host);
    CHECK(controllers[0].kato_ms == 5000);
    CHECK(rig.count(nvme::TargetEventKind::controller_created) == 1);
}

TEST_CASE("connect: every wrong parameter is refused at its place") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    const auto good = host.connect_data(0xFFFF);
    const auto changed = [&](std::size_t at, std::size_t size, std::uint8_t value) {
        auto data = good;
        std::fill_n(data.begin() + static_cast<std::ptrdiff_t>(at), size, std::byte{value});
        return data;
    };
    const auto try_with = [&](const Entry& entry, const std::vector<std::byte>& data) {
        return host.send(rig.open(), entry, data);
    };
    const Entry entry = ScriptedHost::connect_entry(0, 31);
    check(try_with(Entry(entry).put16(40, 1), good), {"record format", 0x180, 0, true});
    check(try_with(Entry(entry).put16(44, 0), good), {"SQSIZE 0", 0x182, 44, true});
    check(try_with(Entry(entry).put16(44, 1024), good), {"SQSIZE too large", 0x182, 44, true});
    check(try_with(entry, changed(16, 2, 0)), {"static controller id", 0x182, 0x10000 | 16, true});
    check(try_with(entry, changed(256, 256, 0)), {"empty subsystem NQN", 0x182, 0x10000 | 256, true});
    check(try_with(entry, changed(256, 256, 'x')), {"endless subsystem NQN", 0x182, 0x10000 | 256, true});
    check(try_with(entry, changed(260, 1, '\n')), {"control character", 0x182, 0x10000 | 256, true});
    check(try_with(entry, changed(512, 256, 0)), {"empty host NQN", 0x182, 0x10000 | 512, true});
    check(try_with(entry, changed(512, 224, 'x')), {"host NQN too long", 0x182, 0x10000 | 512, true});
    check(try_with(entry, changed(260, 1, 'X')), {"unknown subsystem", 0x182, 0x10000 | 256, true});
    CHECK(rig.target->controller_status().empty());
    CHECK(rig.count(nvme::TargetEventKind::connect_rejected) == 10);
}

TEST_CASE("connect: too little data and a wrong descriptor are refused before execution") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    const auto data = host.connect_data(0xFFFF);
    const Entry entry = ScriptedHost::connect_entry(0, 31);
    check(host.send(rig.open(), Entry(entry).put32(32, 1023), data), {"short SGL", 0x00F, 0, true});
    check(host.send(rig.open(), entry, std::span(data).first(1000)), {"short capsule", 0x00F, 0, true});
    check(host.send(rig.open(), Entry(entry).put8(39, 0x00), data), {"address SGL", 0x011, 0, true});
    check(host.send(rig.open(), Entry(entry).put64(24, 8193), data), {"offset", 0x016, 0, true});
}

TEST_CASE("connect: commands before it and a second one are out of sequence") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    check(host.send(*host.admin, Entry(0x06).dword(10, 1).length(4096)), {"Identify", 0x00C, 0, true});
    check(host.send(*host.admin, ScriptedHost::property_get(0x1C, false)), {"Property Get", 0x00C, 0, true});
    check(host.send(*host.admin, Entry(0x7F).put8(4, 0x08)), {"Disconnect", 0x00C, 0, true});
    CHECK(host.connect().status().ok());
    check(host.send(*host.admin, ScriptedHost::connect_entry(0, 31), host.connect_data(0xFFFF)),
          {"second Connect", 0x00C, 0, true});
    check(host.send(*host.admin, Entry(0x06).dword(10, 1).length(4096)), {"CC.EN is 0", 0x00C, 0, true});
    check(host.send(*host.admin, Entry(0x7F).put8(4, 0x77)), {"unknown Fabrics type", 0x001, 0, true});
}

TEST_CASE("connect: hosts that are not allowed are told so") {
    TargetRig rig;
    rig.with_subsystem();
    CHECK(rig.target->set_hosts(testing::test_subsystem, false, {"nqn.2026-01.test:other"}).ok());
    ScriptedHost host(rig);
    check(host.connect(), {"not in the list", 0x184, 0x10000 | 512, true});
    CHECK(rig.target->set_hosts(testing::test_subsystem, false, {testing::test_host}).ok());
    CHECK(host.connect().status().ok());
}

TEST_CASE("connect: nobody is turned away for good while the configuration is loading") {
    TargetRig rig;
    rig.with_subsystem();
    CHECK(rig.target->set_hosts(testing::test_subsystem, false, {}).ok());
    rig.target->set_loading(true);
    ScriptedHost host(rig);
    check(host.connect(), {"host", 0x184, 0x10000 | 512, false});
    ScriptedHost other(rig, {"nqn.2026-01.test:later", testing::test_host, 1});
    check(other.connect(), {"subsystem", 0x182, 0x10000 | 256, false});
    rig.target->set_loading(false);
    check(other.connect(), {"subsystem", 0x182, 0x10000 | 256, true});
}

TEST_CASE("connect: a discovery-only listener serves discovery alone") {
    TargetRig rig;
    rig.with_subsystem();
    rig.endpoint.discovery_only = true;
    ScriptedHost host(rig);
    check(host.connect(), {"NVM subsystem", 0x182, 0x10000 | 256, true});
    ScriptedHost explorer(rig, {"nqn.2014-08.org.nvmexpress.discovery", testing::test_host, 1});
    CHECK(explorer.connect().status().ok());
}

TEST_CASE("connect: I/O queues belong to their controller") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    const auto attempt = [&](const Entry& entry, const std::vector<std::byte>& data) {
        return host.send(rig.open(), entry, data);
    };
    const Entry first = ScriptedHost::connect_entry(1, 127);
    REQUIRE(host.connect().status().ok());
    check(attempt(first, host.connect_data(host.cntlid)), {"not enabled yet", 0x182, 42, false});
    REQUIRE(host.set_cc(0x00460001).status().ok());
    check(attempt(first, host.connect_data(777)), {"unknown controller", 0x182, 0x10000 | 16, false});
    check(attempt(ScriptedHost::connect_entry(65, 127), host.connect_data(host.cntlid)),
          {"queue id beyond the limit", 0x182, 42, true});
    auto data = host.connect_data(host.cntlid);
    data[3] = std::byte{0x01};
    check(attempt(first, data), {"other host identifier", 0x182, 0x10000 | 0, true});
    data = host.connect_data(host.cntlid);
    data[515] = std::byte{'X'};
    check(attempt(first, data), {"other host NQN", 0x182, 0x10000 | 512, true});
    const auto accepted = attempt(first, host.connect_data(host.cntlid));
    REQUIRE(accepted.has_value());
    CHECK(accepted->status().ok());
    CHECK(accepted->cqe.dw0.value() == host.cntlid);
    check(attempt(first, host.connect_data(host.cntlid)), {"queue exists", 0x101, 0, false});
    // Granted fewer queues than the limit: those beyond are refused.
    ScriptedHost modest(rig);
    modest.bring_up();
    CHECK(modest.set_feature(0x07, 0x00010001).cqe.dw0.value() == 0x00010001);
    check(modest.send(rig.open(), ScriptedHost::connect_entry(3, 31), modest.connect_data(modest.cntlid)),
          {"more than granted", 0x182, 42, true});
    CHECK(modest.io(2).queue().qid() == 2);
}

TEST_CASE("connect: a queue that was lost can be connected again") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    queue.close();
    rig.run();
    CHECK(queue.idle());
    CHECK(host.io(1).queue().connected());
}

TEST_CASE("connect: limits per host and in all are momentary refusals") {
    TargetRig rig;
    rig.with_subsystem();
    nvme::TargetLimits limits;
    limits.controllers_per_host = 1;
    rig.target->set_limits(limits);
    ScriptedHost host(rig);
    CHECK(host.connect().status().ok());
    ScriptedHost again(rig);
    check(again.connect(), {"controllers per host", 0x181, 0, false});
    ScriptedHost other(rig, {testing::test_subsystem, "nqn.2026-01.test:other", 2});
    CHECK(other.connect().status().ok());
    limits.controllers_per_host = 8;
    limits.connections_per_host = 1;
    rig.target->set_limits(limits);
    check(again.connect(), {"connections per host", 0x181, 0, false});
    limits.connections_per_host = 8;
    limits.connections = 2;
    rig.target->set_limits(limits);
    check(again.connect(), {"connections", 0x181, 0, false});
}

TEST_CASE("connect: one address has half of all controllers, whatever its hosts call themselves") {
    TargetRig rig;
    rig.with_subsystem();
    const auto connect = [&](std::size_t number) {
        const auto id = static_cast<std::uint8_t>(1 + number);
        ScriptedHost host(rig, {testing::test_subsystem, "nqn.2026-01.test:h" + std::to_string(number), id});
        return host.connect();
    };
    const std::size_t half = rig.controller_records.size() / 2;
    for (std::size_t number = 0; number < half; ++number) {
        CHECK(connect(number).status().ok());
    }
    check(connect(half), {"half of all controllers", 0x181, 0, false});
    rig.endpoint.peer_address = "192.0.2.77";
    CHECK(connect(half + 1).status().ok());
}

TEST_CASE("connect: controller ids are unique and not used again soon") {
    TargetRig rig;
    nvme::SubsystemSpec spec;
    spec.nqn = testing::test_subsystem;
    spec.serial = "1";
    spec.allow_any_host = true;
    spec.cntlid_min = 10;
    spec.cntlid_max = 12;
    CHECK(rig.target->add_subsystem(spec).ok());
    rig.target->set_loading(false);
    ScriptedHost a(rig);
    ScriptedHost b(rig);
    CHECK(a.connect().status().ok());
    CHECK(a.cntlid == 10);
    CHECK(b.connect().status().ok());
    CHECK(b.cntlid == 11);
    a.admin->close();
    rig.run();
    ScriptedHost c(rig);
    CHECK(c.connect().status().ok());
    CHECK(c.cntlid == 12);
    ScriptedHost d(rig);
    CHECK(d.connect().status().ok());
    CHECK(d.cntlid == 10);
    ScriptedHost e(rig);
    check(e.connect(), {"no id left", 0x181, 0, false});
}

TEST_CASE("connect: the admission hook decides admin queues, later and only once") {
    TargetRig rig;
    rig.with_subsystem();
    std::vector<nvme::AdmissionAnswer> waiting;
    std::vector<nvme::ConnectRequest> asked;
    rig.target->set_admission_hook([&](const nvme::ConnectRequest& request, nvme::AdmissionAnswer answer) {
        asked.push_back(request);
        waiting.push_back(std::move(answer));
    });
    ScriptedHost host(rig);
    const auto cid = host.start(*host.admin, ScriptedHost::connect_entry(0, 31), host.connect_data(0xFFFF));
    CHECK(!host.admin->take(cid).has_value());
    REQUIRE(asked.size() == 1);
    CHECK(asked[0].subsystem_nqn == testing::test_subsystem);
    CHECK(asked[0].host_nqn == testing::test_host);
    CHECK(asked[0].endpoint.peer_address == "192.0.2.9");
    CHECK(!asked[0].discovery);
    waiting[0](true, "");
    rig.run();
    const auto completion = host.admin->take(cid);
    REQUIRE(completion.has_value());
    CHECK(completion->status().ok());
    waiting[0](false, "too late");
    rig.run();
    CHECK(rig.target->controller_status().size() == 1);

    ScriptedHost refused(rig);
    const auto second =
        refused.start(*refused.admin, ScriptedHost::connect_entry(0, 31), refused.connect_data(0xFFFF));
    waiting[1](false, "quota");
    rig.run();
    check(refused.admin->take(second), {"refused by the hook", 0x184, 0x10000 | 512, true});

    ScriptedHost gone(rig);
    gone.start(*gone.admin, ScriptedHost::connect_entry(0, 31), gone.connect_data(0xFFFF));
    gone.admin->close();
    rig.run();
    CHECK(gone.admin->idle());
    waiting[2](true, "");
    rig.run();
    CHECK(rig.target->controller_status().size() == 1);
}

TEST_CASE("connect: a hook that does not answer in time is a momentary refusal") {
    TargetRig rig;
    rig.with_subsystem();
    rig.target->set_admission_hook([](const nvme::ConnectRequest&, nvme::AdmissionAnswer) {});
    ScriptedHost host(rig);
    const auto cid = host.start(*host.admin, ScriptedHost::connect_entry(0, 31), host.connect_data(0xFFFF));
    rig.advance(2'900 * base::millisecond);
    CHECK(!host.admin->take(cid).has_value());
    rig.advance(200 * base::millisecond);
    check(host.admin->take(cid), {"deadline", 0x181, 0, false});
    rig.target->set_admission_hook(nullptr);
    CHECK(host.connect().status().ok());
}

TEST_CASE("connect: Disconnect deletes an I/O queue, never the admin queue") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    check(host.send(*host.admin, Entry(0x7F).put8(4, 0x08)), {"admin queue", 0x185, 0, true});
    check(host.send(queue, Entry(0x7F).put8(4, 0x08).put16(40, 7)), {"record format", 0x180, 0, true});
    rig.disk(1).holding = true;
    const auto read = host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    const auto completion = host.send(queue, Entry(0x7F).put8(4, 0x08));
    REQUIRE(completion.has_value());
    CHECK(completion->status().ok());
    const auto aborted = queue.take(read);
    REQUIRE(aborted.has_value());
    CHECK(aborted->status().value == 0x007);
    CHECK(queue.idle());
    CHECK(!host.admin->closed());
    rig.disk(1).holding = false;
    CHECK(host.io(1).queue().connected());
}
