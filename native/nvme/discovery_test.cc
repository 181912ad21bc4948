// Discovery: what each host sees, and how it hears of changes [NVM Express Base 2.0 §4.5, §5.16.1.23].

#include <doctest/doctest.h>

#include "testing/scripted_host.h"

using testing::number_at;
using testing::ScriptedHost;
using testing::TargetRig;
using testing::text_at;

namespace {

constexpr const char* well_known = "nqn.2014-08.org.nvmexpress.discovery";

std::string padded(const std::string& text, std::size_t size) {
    return text + std::string(size - text.size(), ' ');
}

struct Seen {
    std::uint64_t generation = 0;
    std::vector<std::vector<std::byte>> entries;
};

Seen read_log(ScriptedHost& host) {
    Seen seen;
    const auto header = host.log(0x70, 1024);
    REQUIRE(header.status().ok());
    seen.generation = number_at(header.data, 0, 8);
    const std::uint64_t count = number_at(header.data, 8, 8);
    CHECK(number_at(header.data, 16, 2) == 0);
    for (std::uint64_t i = 0; i < count; ++i) {
        const auto entry = host.log(0x70, 1024, 1024 + i * 1024, 1u << 15);
        REQUIRE(entry.status().ok());
        seen.entries.push_back(entry.data);
    }
    return seen;
}

std::string nqn_of(std::span<const std::byte> entry) { return text_at(entry, 256, 256).c_str(); }

void add_subsystem(TargetRig& rig, const std::string& nqn, bool any, std::vector<std::string> hosts = {}) {
    nvme::SubsystemSpec spec;
    spec.nqn = nqn;
    spec.serial = "1";
    spec.allow_any_host = any;
    spec.hosts = std::move(hosts);
    REQUIRE(rig.target->add_subsystem(spec).ok());
}

const nvme::ListenerInfo wildcard{"tcp", "ipv4", "0.0.0.0", "4420", 1, false};
const nvme::ListenerInfo fixed{"tcp", "ipv6", "2001:db8::1", "4421", 2, false};
const nvme::ListenerInfo discovery_only{"tcp", "ipv4", "192.0.2.1", "8009", 3, true};

}  // namespace

TEST_CASE("discovery: itself, every allowed subsystem at every listener, and the referrals") {
    TargetRig rig;
    rig.target->set_listeners({wildcard, fixed, discovery_only});
    rig.target->set_referrals({{"tcp", "ipv4", "198.51.100.7", "8009", 9, ""}});
    add_subsystem(rig, "nqn.2026-01.test:a", true);
    add_subsystem(rig, "nqn.2026-01.test:b", false, {testing::test_host});
    add_subsystem(rig, "nqn.2026-01.test:c", false, {"nqn.2026-01.test:other"});
    rig.target->set_loading(false);
    ScriptedHost host(rig, {well_known, testing::test_host, 1});
    host.bring_up();
    const Seen seen = read_log(host);
    REQUIRE(seen.entries.size() == 3 + 2 * 2 + 1);
    // The service itself.
    CHECK(number_at(seen.entries[0], 0, 1) == 3);   // TCP
    CHECK(number_at(seen.entries[0], 1, 1) == 1);   // IPv4
    CHECK(number_at(seen.entries[0], 2, 1) == 3);   // current discovery subsystem
    CHECK(number_at(seen.entries[0], 10, 2) == 3);  // EFLAGS: the same on all ports, persistent connections
    CHECK(nqn_of(seen.entries[0]) == well_known);
    CHECK(text_at(seen.entries[0], 512, 256) == padded("192.0.2.1", 256));  // where this host came to
    CHECK(text_at(seen.entries[2], 32, 32) == padded("8009", 32));
    // Subsystems.
    const auto& a = seen.entries[3];
    CHECK(number_at(a, 2, 1) == 2);       // NVM subsystem
    CHECK(number_at(a, 3, 1) == 0x04);    // TREQ: secure channel not specified, flow control may be off
    CHECK(number_at(a, 4, 2) == 1);       // PORTID
    CHECK(number_at(a, 6, 2) == 0xFFFF);  // CNTLID: dynamic
    CHECK(number_at(a, 8, 2) == 1024);    // ASQSZ
    CHECK(text_at(a, 32, 32) == padded("4420", 32));
    CHECK(nqn_of(a) == "nqn.2026-01.test:a");
    CHECK(number_at(a, 768, 1) == 0);  // SECTYPE: none
    CHECK(nqn_of(seen.entries[4]) == "nqn.2026-01.test:a");
    CHECK(number_at(seen.entries[4], 1, 1) == 2);  // IPv6
    CHECK(text_at(seen.entries[4], 512, 256) == padded("2001:db8::1", 256));
    CHECK(nqn_of(seen.entries[5]) == "nqn.2026-01.test:b");
    // The referral.
    CHECK(number_at(seen.entries[7], 2, 1) == 1);
    CHECK(nqn_of(seen.entries[7]) == well_known);
    CHECK(text_at(seen.entries[7], 512, 256) == padded("198.51.100.7", 256));
    CHECK(number_at(seen.entries[7], 4, 2) == 9);
    // The whole page at once and odd pieces of it are the same bytes.
    const auto whole = host.log(0x70, 9 * 1024);
    CHECK(std::equal(a.begin(), a.end(), whole.data.begin() + 4 * 1024));
    const auto piece = host.log(0x70, 2000, 4 * 1024 - 100);
    CHECK(std::equal(piece.data.begin(), piece.data.end(), whole.data.begin() + 4 * 1024 - 100));
    CHECK(host.log(0x70, 4, 9 * 1024 + 4).status().value == 0x002);
}

TEST_CASE("discovery: the generation moves with every change and is told to who watches") {
    TargetRig rig;
    rig.target->set_discovery_generation(41);
    rig.with_subsystem();
    rig.target->set_listeners({wildcard});
    CHECK(rig.target->discovery_generation() == 42);
    ScriptedHost host(rig, {well_known, testing::test_host, 1});
    host.bring_up(30000);
    REQUIRE(host.set_feature(0x0B, 0x80000000).status().ok());
    CHECK(read_log(host).generation == 42);
    const auto cid = host.park();
    add_subsystem(rig, "nqn.2026-01.test:new", true);
    rig.run();
    const auto event = host.admin->take(cid);
    REQUIRE(event.has_value());
    CHECK(event->cqe.dw0.value() == 0x0070F002);
    CHECK(rig.events.back().kind == nvme::TargetEventKind::generation_changed);
    CHECK(rig.events.back().value == 43);
    Seen seen = read_log(host);
    CHECK(seen.generation == 43);
    CHECK(seen.entries.size() == 3);
    // Of what it may not see it does not hear.
    const auto next = host.park();
    add_subsystem(rig, "nqn.2026-01.test:private", false, {"nqn.2026-01.test:other"});
    rig.run();
    CHECK(!host.admin->take(next).has_value());
    CHECK(read_log(host).entries.size() == 3);
    REQUIRE(rig.target->set_hosts("nqn.2026-01.test:private", false, {testing::test_host}).ok());
    rig.run();
    CHECK(host.admin->take(next)->cqe.dw0.value() == 0x0070F002);
    CHECK(read_log(host).entries.size() == 4);
    const auto last = host.park();
    REQUIRE(rig.target->remove_subsystem("nqn.2026-01.test:private", nullptr).ok());
    rig.run();
    CHECK(host.admin->take(last).has_value());
    CHECK(read_log(host).entries.size() == 3);
    CHECK(read_log(host).generation == rig.target->discovery_generation());
}

TEST_CASE("discovery: loading the same configuration again is no change") {
    TargetRig rig;
    rig.with_subsystem();
    rig.target->set_listeners({wildcard});
    const std::uint64_t generation = rig.target->discovery_generation();
    rig.stop();
    rig.restart();
    rig.target->set_discovery_generation(generation);
    rig.target->set_listeners({wildcard});
    rig.with_subsystem();
    CHECK(rig.target->discovery_generation() == generation);
}

TEST_CASE("discovery: I/O queues cannot be connected to it") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig, {well_known, testing::test_host, 1});
    host.bring_up();
    const auto completion = host.connect_io(rig.open(), 1);
    REQUIRE(completion.has_value());
    CHECK(completion->status().value == 0x182);
    CHECK(completion->cqe.dw0.value() == 42);
}
