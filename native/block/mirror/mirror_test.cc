// A mirror in the small: what happens when legs fail, come back, hang, are replaced or hold something else.
// What happens when the power fails at any moment is in test/sim/mirror_test.cc.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "block/mirror/format.h"
#include "block/mirror/witness_memory.h"
#include "testing/block_media.h"
#include "testing/block_rig.h"
#include "testing/details.h"
#include "testing/sim_kernel.h"

namespace {

using block::Action;
using block::Device;
using block::DeviceSpec;
using block::Status;
using testing::BlockRig;
using testing::Pages;
using testing::TestRequest;

constexpr std::uint64_t data_bytes = 4 << 20;
constexpr std::uint32_t region_bytes = 65536;
const std::uint64_t leg_bytes = block::mirror::leg_bytes_for(data_bytes, region_bytes, 4096, false);

// Legs in memory, each below a device that can be told to fail or to be slow.
class Volume {
  public:
    explicit Volume(std::size_t legs = 2, reactor::Kernel* kernel = nullptr) : rig(kernel) {
        mirror.name = "v";
        mirror.kind = "mirror";
        mirror.mirror.volume.fill(7);
        mirror.mirror.region_bytes = region_bytes;
        mirror.mirror.assume_clean = true;
        for (std::size_t i = 0; i < legs; ++i) {
            const std::string name(1, static_cast<char>('a' + i));
            make_ram(name);
            mirror.parts.push_back({name, 0, 0});
        }
    }

    void make_ram(const std::string& name, std::uint64_t bytes = leg_bytes) {
        DeviceSpec spec;
        spec.name = name;
        spec.kind = "ram";
        spec.size_bytes = bytes;
        REQUIRE(rig.make(spec).ok());
    }

    // A device between the mirror and its leg, which begins with what `prepare` says.
    template <typename Prepare>
    void put_between(const std::string& leg, const std::string& kind, Prepare prepare) {
        DeviceSpec spec;
        spec.name = "z" + leg;  // is closed before what it stands on
        spec.kind = kind;
        spec.base = leg;
        prepare(spec);
        const auto made = rig.make(spec);
        REQUIRE_MESSAGE(made.ok(), made.error().message);
        for (auto& part : mirror.parts) {
            part.device = part.device == leg ? spec.name : part.device;
        }
    }

    Device& open() {
        mirror.name = "zz" + std::to_string(++opened_);
        const auto made = rig.make(mirror);
        REQUIRE_MESSAGE(made.ok(), made.error().message);
        return *made.value();
    }
    void close() { rig.close(mirror.name); }

    Device& open_serving() {
        Device& device = open();
        REQUIRE(rig.run_until([&] { return device.describe().size_bytes != 0; }));
        return device;
    }

    std::string detail(const std::string& key) { return testing::detail(rig.device(mirror.name), key); }
    std::string state(const std::string& leg) { return detail("leg." + leg + ".state"); }
    std::string health() { return rig.device(mirror.name).health().state; }
    bool becomes(const std::string& wanted) {
        return rig.run_until([&] { return health() == wanted; });
    }

    // The answer's code; empty: it went well.
    std::string ask(const std::string& verb, std::map<std::string, std::string> arguments = {}) {
        std::string code = "no answer";
        rig.device(mirror.name).command({verb, std::move(arguments)}, [&](base::Result<void> result) {
            code = result.ok() ? "" : result.error().code;
        });
        CHECK(rig.run_until([&] { return code != "no answer"; }));
        return code;
    }

    Status write(std::uint64_t offset, std::uint64_t length, int value) {
        std::memset(memory_.data(), value, length);
        return rig.run(rig.device(mirror.name), Action::write, offset, length, memory_.data());
    }
    bool reads(std::uint64_t offset, std::uint64_t length, int value, const std::string& device = "") {
        Device& from = rig.device(device.empty() ? mirror.name : device);
        if (rig.run(from, Action::read, offset, length, memory_.data()) != Status::ok) {
            return false;
        }
        const std::span<std::byte> read = memory_.span().first(length);
        return std::all_of(read.begin(), read.end(),
                           [&](std::byte byte) { return byte == static_cast<std::byte>(value); });
    }
    // Behind the mirror's back.
    void corrupt(const std::string& leg, std::uint64_t offset) {
        Pages block(4096);
        std::memset(block.data(), 0xEE, 4096);
        REQUIRE(rig.run(rig.device(leg), Action::write, offset, 4096, block.data()) == Status::ok);
    }
    // The legs' data, without the mirror.
    bool legs_are_equal(const std::string& a, const std::string& b) {
        Pages other(data_bytes);
        return rig.run(rig.device(a), Action::read, 0, data_bytes, memory_.data()) == Status::ok &&
               rig.run(rig.device(b), Action::read, 0, data_bytes, other.data()) == Status::ok &&
               std::memcmp(memory_.data(), other.data(), data_bytes) == 0;
    }

    BlockRig rig;
    DeviceSpec mirror;

  private:
    Pages memory_{data_bytes};
    int opened_ = 0;
};

TEST_CASE("a mirror of empty legs begins equal, writes to both, and finds itself again") {
    Volume v;
    v.open_serving();
    CHECK(v.becomes("ok"));
    CHECK(v.rig.device(v.mirror.name).describe().size_bytes == data_bytes);
    CHECK(v.write(65536, 8192, 0x11) == Status::ok);
    CHECK(v.reads(65536, 8192, 0x11, "a"));
    CHECK(v.reads(65536, 8192, 0x11, "b"));
    v.close();
    v.mirror.parts = {{"b", 0, 0}, {"a", 0, 0}};  // the order does not matter
    v.open_serving();
    CHECK(v.becomes("ok"));
    CHECK(v.reads(65536, 8192, 0x11));
    CHECK(v.reads(0, 65536, 0));
}

TEST_CASE("without assume_clean the second leg gets everything first") {
    Volume v;
    v.mirror.mirror.assume_clean = false;
    v.open_serving();
    CHECK(v.state("a") == "up");
    CHECK(v.state("b") != "up");
    CHECK(v.becomes("ok"));
    CHECK(v.state("b") == "up");
    CHECK(v.legs_are_equal("a", "b"));
}

TEST_CASE("a leg that fails a write is stale, and gets only what it missed when it is taken back") {
    Volume v;
    v.put_between("b", "error", [](DeviceSpec& spec) {
        spec.error_actions = {"write"};
        spec.error_offset = 1 << 20;
        spec.error_length = 4096;
        spec.error_count = 1;
    });
    v.open_serving();
    CHECK(v.write(0, 4096, 0x21) == Status::ok);
    CHECK(v.health() == "ok");
    CHECK(v.write(1 << 20, 4096, 0x22) == Status::ok);
    CHECK(v.health() == "degraded");
    CHECK(v.state("zb") == "stale");
    CHECK(v.write(2 << 20, 4096, 0x23) == Status::ok);
    CHECK(v.reads(1 << 20, 4096, 0x22));
    CHECK_FALSE(v.reads(2 << 20, 4096, 0x23, "b"));
    CHECK(v.detail("leg.zb.dirty_bytes") == std::to_string(3 * region_bytes));  // one was under way
    CHECK(v.ask("attach", {{"leg", "zb"}}).empty());
    CHECK(v.becomes("ok"));
    CHECK(v.legs_are_equal("a", "b"));
    CHECK(v.detail("resync.done_bytes") == std::to_string(3 * region_bytes));
}

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

TEST_CASE("a read that one leg cannot do comes from the other, and the block is written back") {
    Volume v;
    v.put_between("a", "error", [](DeviceSpec& spec) {
        spec.error_actions = {"read"};
        spec.error_offset = 1 << 20;
        spec.error_length = 4096;
        spec.error_count = 1;
    });
    v.open_serving();
    CHECK(v.write(1 << 20, 4096, 0x41) == Status::ok);
    for (int i = 0; i < 4; ++i) {
        CHECK(v.reads(1 << 20, 4096, 0x41));
    }
    CHECK(v.rig.run_until([&] { return v.detail("leg.za.repaired") == "1"; }));
    CHECK(v.detail("leg.za.read_errors") == "1");
    CHECK(v.health() == "ok");
}

TEST_CASE("a write that no leg can do is an error, and the legs are made equal again") {
    Volume v;
    const auto fails_once = [](DeviceSpec& spec) {
        spec.error_actions = {"write"};
        spec.error_offset = 1 << 20;
        spec.error_length = 4096;
        spec.error_count = 1;
    };
    v.put_between("a", "error", fails_once);
    v.put_between("b", "error", fails_once);
    v.open_serving();
    CHECK(v.write(1 << 20, 4096, 0x42) == Status::medium_error);
    CHECK(v.state("za") == "up");
    CHECK(v.state("zb") == "up");
    CHECK(v.becomes("ok"));
    CHECK(v.legs_are_equal("a", "b"));
}

TEST_CASE("a leg that hangs slows the mirror until it is detached") {
    Volume v;
    v.put_between("b", "delay", [](DeviceSpec& spec) { spec.write_delay_us = 3'000'000; });
    v.open();
    // Its superblock takes as long as every write.
    REQUIRE(v.rig.run_until([&] { return v.rig.device(v.mirror.name).describe().size_bytes != 0; }));
    Pages memory(4096);
    TestRequest request;
    request.action = Action::write;
    request.length = 4096;
    request.data = memory.data();
    v.rig.device(v.mirror.name).submit(request);
    const base::Nanoseconds begun = v.rig.kernel.now();
    v.rig.reactor.run_once(begun + base::millisecond);
    CHECK(request.completed == 0);
    CHECK(v.ask("detach", {{"leg", "zb"}}).empty());
    CHECK(v.rig.run_until([&] { return request.completed == 1; }));
    CHECK(request.status == Status::ok);
    CHECK(v.write(8192, 4096, 0x51) == Status::ok);
    CHECK(v.state("zb") == "detached");
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

TEST_CASE("when_lost: a mirror without legs fails requests, or holds them until a leg is back") {
    for (const bool fails : {false, true}) {
        CAPTURE(fails);
        Volume v;
        v.mirror.mirror.when_lost =
            fails ? block::MirrorSpec::WhenLost::fail : block::MirrorSpec::WhenLost::freeze;
        const auto goes_away = [](DeviceSpec& spec) {
            spec.error_actions = {"write"};
            spec.error_status = "gone";
            spec.error_offset = 1 << 20;
            spec.error_length = 4096;
            spec.error_count = 2;
        };
        v.put_between("a", "error", goes_away);
        v.put_between("b", "error", goes_away);
        v.open_serving();
        CHECK(v.write(0, 4096, 0x61) == Status::ok);
        CHECK(v.write(1 << 20, 4096, 0x62) == (fails ? Status::gone : Status::ok));
        // The leg that failed first misses the copy of that region, too.
        CHECK(v.rig.run_until([&] { return v.health() == "ok" || v.health() == "degraded"; }));
        CHECK(v.rig.run_until([&] {
            return v.ask("attach", {{"leg", "za"}}).empty() && v.health() == "ok";
        }));
        CHECK(v.reads(0, 4096, 0x61));
        if (!fails) {
            CHECK(v.reads(1 << 20, 4096, 0x62));
        }
        CHECK(v.legs_are_equal("a", "b"));
    }
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

TEST_CASE("a scrub finds and repairs what differs") {
    Volume v(3);
    v.open_serving();
    CHECK(v.write(0, 1 << 20, 0x91) == Status::ok);
    v.close();
    Pages memory(4096);
    REQUIRE(v.rig.run(v.rig.device("a"), Action::write, 8192, 4096, memory.data()) == Status::ok);
    v.open_serving();
    CHECK(v.becomes("ok"));
    CHECK(v.ask("scrub", {{"repair", "no"}}).empty());
    CHECK(v.rig.run_until([&] { return v.detail("scrub.runs") == "1"; }));
    CHECK(v.detail("scrub.different_blocks") == "1");
    CHECK(v.reads(8192, 4096, 0, "a"));
    CHECK(v.ask("scrub", {{"repair", "yes"}}).empty());
    CHECK(v.rig.run_until([&] { return v.detail("scrub.runs") == "2"; }));
    CHECK(v.detail("scrub.repaired_blocks") == "1");
    CHECK(v.reads(8192, 4096, 0x91, "a"));  // two of three said so
}

TEST_CASE("with checksums a corrupt block comes from the other leg, and is counted and mended") {
    Volume v;
    v.mirror.mirror.checksums = true;
    v.open_serving();
    CHECK(v.detail("checksums") == "yes");
    CHECK(v.write(1 << 20, 65536, 0xA1) == Status::ok);
    v.corrupt("a", (1 << 20) + 8192);
    for (int i = 0; i < 4; ++i) {
        CHECK(v.reads(1 << 20, 65536, 0xA1));
    }
    CHECK(v.detail("leg.a.corruptions") == "1");
    CHECK(v.detail("leg.a.repaired") == "1");
    CHECK(v.detail("leg.b.corruptions") == "0");
    CHECK(v.reads(1 << 20, 65536, 0xA1, "a"));
    CHECK(v.health() == "ok");
    v.close();
    // The same after a restart, when the checksums come from the legs.
    v.corrupt("b", (1 << 20) + 4096);
    v.open_serving();
    for (int i = 0; i < 4; ++i) {
        CHECK(v.reads(1 << 20, 65536, 0xA1));
    }
    CHECK(v.detail("leg.b.corruptions") == "1");
    CHECK(v.reads(1 << 20, 65536, 0xA1, "b"));
    CHECK(v.detail("resync.done_bytes") == "0");
}

TEST_CASE("what is corrupt on every leg is an error, until it is written") {
    Volume v;
    v.mirror.mirror.checksums = true;
    v.open_serving();
    CHECK(v.write(0, 65536, 0xA2) == Status::ok);
    v.corrupt("a", 4096);
    v.corrupt("b", 4096);
    Pages memory(65536);
    Device& device = v.rig.device(v.mirror.name);
    CHECK(v.rig.run(device, Action::read, 0, 65536, memory.data()) == Status::medium_error);
    CHECK(v.rig.run(device, Action::read, 4096, 4096, memory.data()) == Status::medium_error);
    CHECK(v.reads(0, 4096, 0xA2));
    CHECK(v.reads(8192, 4096, 0xA2));
    CHECK(v.detail("checksums.lost_blocks") != "0");
    CHECK(v.write(4096, 4096, 0xA3) == Status::ok);
    CHECK(v.reads(4096, 4096, 0xA3));
    CHECK(v.legs_are_equal("a", "b"));
}

TEST_CASE("with checksums a scrub knows which of two legs is wrong") {
    Volume v;
    v.mirror.mirror.checksums = true;
    v.open_serving();
    CHECK(v.write(0, 1 << 20, 0xA4) == Status::ok);
    v.corrupt("a", 8192);
    v.corrupt("b", 16384);
    CHECK(v.ask("scrub", {{"repair", "no"}}).empty());
    CHECK(v.rig.run_until([&] { return v.detail("scrub.runs") == "1"; }));
    CHECK(v.detail("scrub.different_blocks") == "2");
    CHECK(v.detail("scrub.repaired_blocks") == "0");
    CHECK_FALSE(v.legs_are_equal("a", "b"));
    CHECK(v.ask("scrub", {{"repair", "yes"}}).empty());
    CHECK(v.rig.run_until([&] { return v.detail("scrub.runs") == "2"; }));
    CHECK(v.detail("scrub.repaired_blocks") == "2");
    CHECK(v.reads(0, 1 << 20, 0xA4, "a"));
    CHECK(v.reads(0, 1 << 20, 0xA4, "b"));
}

TEST_CASE("a leg that gets everything gets the checksums, too") {
    Volume v;
    v.mirror.mirror.checksums = true;
    v.open_serving();
    CHECK(v.write(0, 1 << 20, 0xA5) == Status::ok);
    v.make_ram("c");
    CHECK(v.ask("replace_leg", {{"leg", "a"}, {"device", "c"}}).empty());
    CHECK(v.rig.run_until([&] { return v.state("a") == "there is no leg.a.state"; }));
    CHECK(v.becomes("ok"));
    v.close();
    v.mirror.parts = {{"c", 0, 0}, {"b", 0, 0}};
    v.open_serving();
    v.corrupt("b", 4096);
    CHECK(v.reads(0, 1 << 20, 0xA5));
    CHECK(v.reads(0, 1 << 20, 0xA5));
    CHECK(v.detail("leg.b.corruptions") == "1");
    CHECK(v.detail("leg.c.corruptions") == "0");
    // Alone it still tells.
    CHECK(v.ask("remove_leg", {{"leg", "b"}}).empty());
    v.corrupt("c", 12288);
    Pages memory(4096);
    CHECK(v.rig.run(v.rig.device(v.mirror.name), Action::read, 12288, 4096, memory.data()) ==
          Status::medium_error);
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

TEST_CASE("overlapping writes in flight end with equal legs") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    Volume v;
    v.put_between("a", "delay", [](DeviceSpec& spec) { spec.write_delay_us = 300; });
    v.open_serving();
    constexpr std::size_t count = 32;
    Pages memory(count * 16384);
    TestRequest requests[count];
    for (int round = 0; round < 5; ++round) {
        for (std::size_t i = 0; i < count; ++i) {
            TestRequest& request = requests[i];
            request.completed = 0;
            request.action = Action::write;
            request.offset = random() % 8 * 4096;
            request.length = (1 + random() % 4) * 4096;
            request.data = memory.data() + i * 16384;
            std::memset(request.data, static_cast<int>(random() % 256), 16384);
            v.rig.device(v.mirror.name).submit(request);
        }
        REQUIRE(v.rig.run_until([&] {
            return std::all_of(requests, requests + count,
                               [](const TestRequest& r) { return r.completed == 1; });
        }));
        CHECK(v.legs_are_equal("a", "b"));
    }
}

}  // namespace
