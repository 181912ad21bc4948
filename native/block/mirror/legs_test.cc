// Which legs a mirror takes, and what is done with them by command. What is said of legs that fail while it
// serves is in mirror_test.cc.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "block/mirror/witness_memory.h"
#include "testing/mirror_volume.h"
#include "testing/sim_kernel.h"

namespace {

using block::Action;
using block::DeviceSpec;
using block::Status;
using testing::Pages;
using Volume = testing::MirrorVolume;

constexpr auto data_bytes = Volume::data_bytes;
constexpr auto region_bytes = Volume::region_bytes;

}  // namespace

TEST_CASE(
    "a leg that failed and is well again is taken back without being asked, one that was detached is not") {
    testing::SimKernel kernel(testing::SimKernel::Options{});
    Volume v(3, &kernel);
    const auto fails = [](std::uint64_t count) {
        return [count](DeviceSpec& spec) {
            spec.error_actions = {"write"};
            spec.error_offset = 1 << 20;
            spec.error_length = 4096;
            spec.error_count = count;
        };
    };
    v.put_between("b", "error", fails(3));
    v.open_serving();
    CHECK(v.ask("detach", {{"leg", "c"}}).empty());
    CHECK(v.write(1 << 20, 4096, 0x22) == Status::ok);
    CHECK(v.state("zb") == "stale");
    const base::Nanoseconds failed = kernel.now();
    // The copy fails twice more; each time it waits longer.
    CHECK(
        v.rig.run_until([&] { return v.state("zb") == "up" || kernel.now() > failed + 18 * base::second; }));
    CHECK(v.state("zb") != "up");
    CHECK(v.write(0, 4096, 0x23) == Status::ok);
    for (int i = 0; i < 4 && v.state("zb") != "up"; ++i) {
        v.rig.run_until([&] { return v.state("zb") == "up"; });
    }
    CHECK(v.state("zb") == "up");
    CHECK(kernel.now() >= failed + 5 * base::second + 10 * base::second + 20 * base::second);
    CHECK(v.state("c") == "detached");
    CHECK(v.legs_are_equal("a", "b"));
}

TEST_CASE("what a leg missed is remembered when the mirror is made anew") {
    Volume v;
    v.open_serving();
    CHECK(v.ask("detach", {{"leg", "b"}}).empty());
    CHECK(v.state("b") == "detached");
    CHECK(v.write(3 << 20, 8192, 0x31) == Status::ok);
    v.close();
    v.open_serving();
    CHECK(v.health() == "degraded");
    CHECK(v.state("b") == "detached");
    CHECK(v.reads(3 << 20, 8192, 0x31));
    CHECK(v.ask("attach", {{"leg", "b"}}).empty());
    CHECK(v.becomes("ok"));
    CHECK(v.legs_are_equal("a", "b"));
    CHECK(v.detail("resync.done_bytes") == std::to_string(region_bytes));
}

TEST_CASE("a leg with other content is refused untouched, and overwritten if somebody insists") {
    Volume v;
    Pages memory(4096);
    std::memset(memory.data(), 0x66, 4096);
    REQUIRE(v.rig.run(v.rig.device("b"), Action::write, 0, 4096, memory.data()) == Status::ok);
    v.open();
    CHECK(v.becomes("foreign"));
    CHECK(v.reads(0, 4096, 0x66, "b"));
    CHECK(v.rig.device(v.mirror.name).describe().size_bytes == 0);
    // There is no volume yet: what the leg holds becomes the volume's content.
    CHECK(v.ask("attach", {{"leg", "b"}, {"force", "yes"}}).empty());
    CHECK(v.becomes("ok"));
    CHECK(v.reads(0, 4096, 0x66));
    CHECK(v.reads(0, 4096, 0x66, "a"));
}

TEST_CASE("a leg of another volume is refused") {
    Volume v;
    v.open_serving();
    v.close();
    v.make_ram("c");
    v.mirror.mirror.volume.fill(9);
    v.mirror.parts = {{"c", 0, 0}, {"b", 0, 0}};
    v.open();
    CHECK(v.becomes("foreign"));
    CHECK(v.state("b") == "refused");
    CHECK(v.ask("attach", {{"leg", "b"}}) == "E_INVALID");
}

TEST_CASE("an empty medium in the place of a leg gets everything") {
    Volume v;
    v.open_serving();
    CHECK(v.write(0, 8192, 0x71) == Status::ok);
    v.close();
    v.make_ram("c");
    v.mirror.parts[1].device = "c";
    v.open_serving();
    CHECK(v.reads(0, 8192, 0x71));
    CHECK(v.becomes("ok"));
    CHECK(v.legs_are_equal("a", "c"));
    CHECK(v.detail("resync.done_bytes") == std::to_string(data_bytes));
    // The old leg comes back: it is no longer one of this volume.
    v.close();
    v.mirror.parts.push_back({"b", 0, 0});
    v.open_serving();
    CHECK(v.rig.run_until([&] { return v.state("b") == "refused"; }));
}

TEST_CASE("legs that went on without each other are not joined before somebody decides") {
    Volume v;
    v.open_serving();
    CHECK(v.write(0, 4096, 1) == Status::ok);
    v.close();
    const auto blind = [](DeviceSpec& spec) { spec.error_actions = {"read"}; };
    v.put_between("a", "error", blind);
    v.put_between("b", "error", blind);
    const auto alone = [&](const std::string& one, const std::string& other, int value) {
        v.mirror.parts = {{one, 0, 0}, {"z" + other, 0, 0}};
        v.rig.close("z" + one);
        v.open();
        CHECK(v.becomes("frozen"));
        CHECK(v.ask("detach", {{"leg", "z" + other}}).empty());
        CHECK(v.becomes("degraded"));
        CHECK(v.write(4096, 4096, value) == Status::ok);
        v.close();
        v.put_between(one, "error", blind);
    };
    alone("a", "b", 2);
    alone("b", "a", 3);
    v.rig.close("za");
    v.rig.close("zb");
    v.mirror.parts = {{"a", 0, 0}, {"b", 0, 0}};
    v.open();
    CHECK(v.becomes("diverged"));
    CHECK(v.ask("attach", {{"leg", "b"}, {"force", "yes"}}).empty());
    CHECK(v.becomes("degraded"));
    CHECK(v.reads(4096, 4096, 3));
    CHECK(v.state("a") == "diverged");
    CHECK(v.reads(4096, 4096, 2, "a"));  // nothing is overwritten before that is decided, too
    CHECK(v.ask("attach", {{"leg", "a"}}) == "E_INVALID");
    CHECK(v.ask("attach", {{"leg", "a"}, {"force", "yes"}}).empty());
    CHECK(v.becomes("ok"));
    CHECK(v.reads(4096, 4096, 3));
    CHECK(v.legs_are_equal("a", "b"));
}

TEST_CASE("a leg that may be behind is not served from alone") {
    Volume v;
    v.open_serving();
    CHECK(v.write(0, 4096, 1) == Status::ok);
    v.close();
    DeviceSpec gone;
    v.put_between("b", "error", [](DeviceSpec& spec) { spec.error_actions = {"read"}; });
    v.open();
    CHECK(v.becomes("frozen"));
    CHECK(v.rig.device(v.mirror.name).describe().size_bytes == 0);
    // Whoever knows better may say so.
    CHECK(v.ask("attach", {{"leg", "a"}, {"force", "yes"}}).empty());
    CHECK(v.reads(0, 4096, 1));
    CHECK(v.health() == "degraded");
}

TEST_CASE("after a kill the legs that are there go on at once, after a close they wait for all") {
    for (const bool killed : {true, false}) {
        CAPTURE(killed);
        Volume v;
        v.open_serving();
        CHECK(v.write(0, 4096, 1) == Status::ok);
        const auto witness = [&](int life) {
            return v.rig.environment.memory("zz" + std::to_string(life) + "@witness", 4096).value().memory;
        };
        const std::span<std::byte> left = witness(1);
        const std::vector<std::byte> memory(left.begin(), left.end());
        v.close();
        if (killed) {
            std::copy(memory.begin(), memory.end(), witness(2).begin());
        }
        v.put_between("b", "error", [](DeviceSpec& spec) { spec.error_actions = {"read"}; });
        v.open();
        CHECK(v.becomes(killed ? "degraded" : "frozen"));
        if (killed) {
            CHECK(v.reads(0, 4096, 1));
            CHECK(v.write(0, 4096, 2) == Status::ok);
        }
    }
}

TEST_CASE("a witness is believed while it is young, whole and of this volume") {
    std::vector<std::byte> memory(block::mirror::WitnessMemory::bytes);
    block::mirror::Uuid volume{};
    volume.fill(3);
    block::mirror::WitnessMemory kept;
    kept.use(memory, volume);
    CHECK_FALSE(kept.load(0));
    block::mirror::Witness witness;
    witness.events = 12;
    witness.slots[2].leg.fill(9);
    witness.slots[2].role = block::mirror::Role::up;
    witness.slots[2].next = 77;
    constexpr base::Nanoseconds now = 100 * base::second;
    kept.store(witness, now);
    const auto loaded = kept.load(now + 29 * base::second);
    REQUIRE(loaded);
    CHECK(loaded->events == 12);
    CHECK(loaded->slots == witness.slots);
    CHECK_FALSE(kept.load(now + 31 * base::second));
    CHECK_FALSE(kept.load(now - base::second));
    kept.beat(now + 20 * base::second);
    CHECK(kept.load(now + 40 * base::second));
    for (std::size_t at = 0; at < 16 + 16 + 8 + 32 * 8; ++at) {
        if (at >= 8 && at < 16) {
            continue;  // the beat
        }
        memory[at] ^= std::byte{1};
        CHECK_FALSE(kept.load(now + 20 * base::second));
        memory[at] ^= std::byte{1};
    }
    block::mirror::WitnessMemory other;
    volume.fill(4);
    other.use(memory, volume);
    CHECK_FALSE(other.load(now + 20 * base::second));
    kept.store(std::nullopt, now);
    CHECK_FALSE(kept.load(now + 20 * base::second));
}

TEST_CASE("legs are added, replaced and removed while it serves") {
    Volume v;
    v.open_serving();
    CHECK(v.write(0, 65536, 0x81) == Status::ok);
    v.make_ram("c");
    CHECK(v.ask("add_leg", {{"device", "c"}}).empty());
    CHECK(v.becomes("ok"));
    CHECK(v.legs_are_equal("a", "c"));
    CHECK(v.ask("remove_leg", {{"leg", "a"}}).empty());
    CHECK(v.rig.run_until([&] { return v.rig.device("a").claimed_by().empty(); }));
    CHECK(v.write(4096, 4096, 0x82) == Status::ok);
    CHECK(v.reads(4096, 4096, 0x81, "a"));
    v.make_ram("d");
    CHECK(v.ask("replace_leg", {{"leg", "b"}, {"device", "d"}}).empty());
    CHECK(v.rig.run_until([&] { return v.state("b") == "there is no leg.b.state"; }));
    CHECK(v.becomes("ok"));
    CHECK(v.legs_are_equal("c", "d"));
    v.make_ram("small", 1 << 20);
    CHECK(v.ask("add_leg", {{"device", "small"}}) == "E_INVALID");
    CHECK(v.rig.run_until([&] { return v.rig.device("small").claimed_by().empty(); }));
    CHECK(v.ask("remove_leg", {{"leg", "nobody"}}) == "E_NOT_FOUND");
    CHECK(v.ask("dance") == "E_UNSUPPORTED");
    CHECK(v.ask("remove_leg", {{"leg", "d"}}).empty());
    CHECK(v.ask("remove_leg", {{"leg", "c"}}) == "E_BUSY");
    CHECK(v.ask("detach", {{"leg", "c"}}) == "E_BUSY");
}

TEST_CASE("invalidate copies everything, mark_clean nothing") {
    Volume v;
    v.open_serving();
    CHECK(v.ask("invalidate", {{"leg", "b"}}).empty());
    CHECK(v.becomes("ok"));
    CHECK(v.detail("resync.done_bytes") == std::to_string(data_bytes));
    CHECK(v.ask("detach", {{"leg", "b"}}).empty());
    CHECK(v.write(0, 4096, 5) == Status::ok);
    CHECK(v.ask("mark_clean", {{"leg", "b"}}).empty());
    CHECK(v.detail("leg.b.dirty_bytes") == "0");
    CHECK(v.ask("set_rate", {{"bytes_per_second", "ten"}}) == "E_INVALID");
    CHECK(v.ask("set_rate", {{"bytes_per_second", "1000000"}}).empty());
}
