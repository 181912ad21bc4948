// A peer with a volatile cache that is lost between two connections: what a mirror makes of it, and when
// there was nothing to lose.

#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <string>

#include "block/mirror/format.h"
#include "testing/block_rig.h"
#include "testing/details.h"
#include "testing/scripted_target.h"

namespace {

using block::Action;
using block::Device;
using block::Status;
using testing::BlockRig;
using testing::detail;
using testing::Pages;
using testing::ScriptedTarget;
using Facts = ScriptedTarget::Facts;
using Fate = ScriptedTarget::Fate;
using Io = ScriptedTarget::Io;

constexpr std::uint32_t page = ScriptedTarget::block_bytes;
constexpr std::uint8_t written = 0x55;
constexpr std::uint8_t older = 0xEE;

}  // namespace

TEST_CASE("a mirror's remote leg that may have lost its cache is given anew what was not flushed") {
    ScriptedTarget target;
    std::atomic<bool> keeps_cache{true};
    std::atomic<std::uint64_t> cached{0};  // where the write of the test lies on the leg
    target.set_hook([&](Io& io) {
        if (keeps_cache) {
            return Fate::serve;
        }
        if (io.fabrics && io.admin && cached != 0) {  // a new association: the peer was without power
            target.overwrite(cached.exchange(0), page, older);
        }
        return !io.admin && io.opcode == 0 && cached != 0 ? Fate::done : Fate::serve;  // no flush in between
    });
    BlockRig rig;
    block::DeviceSpec near;
    near.name = "near";
    near.kind = "ram";
    near.size_bytes = ScriptedTarget::blocks_default * page;
    REQUIRE(rig.make(near).ok());
    block::DeviceSpec far = target.device("far");
    far.remote.timeout_ms = 10'000;
    far.known = {near.size_bytes, page, ""};
    Device& remote = *rig.make(far).value();
    block::DeviceSpec spec;
    spec.name = "volume";
    spec.kind = "mirror";
    spec.mirror.volume.fill(7);
    spec.mirror.region_bytes = 65536;
    spec.mirror.assume_clean = true;
    spec.parts = {{"near", 0, 0}, {"far", 0, 0}};
    Device& mirror = *rig.make(spec).value();
    const auto up = [&] { return detail(mirror, "leg.far.state") == "up"; };
    const bool serves = rig.run_until([&] {
        return up() && detail(mirror, "leg.near.state") == "up" && mirror.describe().size_bytes != 0;
    });
    const std::string state = mirror.health().state + " " + mirror.health().reason + " " +
                              detail(mirror, "leg.far.state") + std::to_string(mirror.describe().size_bytes);
    INFO(state);
    REQUIRE(serves);
    Pages memory(page);
    std::memset(memory.data(), written, page);
    constexpr std::uint64_t at = 1 << 20;
    cached = at;
    keeps_cache = false;
    CHECK(rig.run(mirror, Action::write, at, page, memory.data()) == Status::ok);
    CHECK(target.content(at) == written);
    target.cut();
    bool truth = true;
    REQUIRE(rig.run_until([&] {
        if (cached == 0) {
            std::memset(memory.data(), 0, page);
            truth = rig.run(mirror, Action::read, at, page, memory.data()) == Status::ok &&
                    memory.data()[0] == std::byte{written} && truth;
        }
        return cached == 0 && target.content(at) == written && up();
    }));
    CHECK(truth);
    CHECK(remote.losses() == 1);
    CHECK(rig.run(mirror, Action::flush) == Status::ok);
}

TEST_CASE("a cache counts as lost only if there is one, and something was in it") {
    struct Row {
        const char* name;
        std::uint8_t vwc;
        bool writes, through, flushes;
        std::uint64_t losses;
    };
    for (const Row& row :
         {Row{"nothing written", 1, false, false, false, 0}, Row{"written", 1, true, false, false, 1},
          Row{"flushed", 1, true, false, true, 0}, Row{"written through", 1, true, true, false, 0},
          Row{"no cache", 0, true, false, false, 0}}) {
        const std::string name = row.name;
        CAPTURE(name);
        ScriptedTarget target;
        Facts facts;
        facts.vwc = row.vwc;
        target.set_facts(facts);
        BlockRig rig;
        Device& device = *rig.make(target.device("far")).value();
        const auto serves = [&] { return device.health().state == "ok"; };
        REQUIRE(rig.run_until(serves));
        Pages memory(page);
        if (row.writes) {
            CHECK(rig.run(device, Action::write, 0, page, memory.data(), row.through) == Status::ok);
        }
        if (row.flushes) {
            CHECK(rig.run(device, Action::flush) == Status::ok);
        }
        target.cut();
        REQUIRE(rig.run_until([&] { return target.associations() >= 2 && serves(); }));
        CHECK(device.losses() == row.losses);
    }
}

TEST_CASE("a migration to a peer that may have lost its cache copies everything again") {
    ScriptedTarget target;
    std::atomic<bool> without_power{false};
    constexpr std::uint64_t at = 1 << 20;
    target.set_hook([&](Io& io) {
        if (without_power && io.fabrics && io.admin) {
            without_power = false;
            target.overwrite(at, page, older);
        }
        return Fate::serve;
    });
    BlockRig rig;
    block::DeviceSpec near;
    near.name = "near";
    near.kind = "ram";
    near.size_bytes = ScriptedTarget::blocks_default * page;
    Device& source = *rig.make(near).value();
    Pages memory(page);
    std::memset(memory.data(), written, page);
    CHECK(rig.run(source, Action::write, at, page, memory.data()) == Status::ok);
    block::DeviceSpec far = target.device("far");
    far.remote.timeout_ms = 10'000;
    Device& remote = *rig.make(far).value();
    REQUIRE(rig.serves(remote));
    block::DeviceSpec spec;
    spec.name = "volume";
    spec.kind = "migration";
    spec.migration.source = "near";
    spec.migration.destination = "far";
    spec.migration.fresh = true;
    Device& migration = *rig.make(spec).value();
    const auto copied = [&] { return detail(migration, "state") == "copied"; };
    REQUIRE(rig.run_until(copied));
    CHECK(target.content(at) == written);
    without_power = true;
    target.cut();
    REQUIRE(rig.run_until([&] { return remote.losses() == 1; }));
    CHECK_FALSE(without_power);
    REQUIRE(rig.run_until(copied));
    CHECK(target.content(at) == written);
    CHECK(migration.health().state == "ok");
}
