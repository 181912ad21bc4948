// A mirror in the small: what happens when legs fail, hang and come back. Other themes are in legs_test.cc,
// checksums_test.cc and grow_test.cc; what happens when the power fails at any moment is in
// test/sim/mirror_test.cc.

#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "testing/mirror_volume.h"

namespace {

using block::Action;
using block::DeviceSpec;
using block::Status;
using testing::Pages;
using testing::TestRequest;
using Volume = testing::MirrorVolume;

constexpr auto data_bytes = Volume::data_bytes;
constexpr auto region_bytes = Volume::region_bytes;

}  // namespace

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
