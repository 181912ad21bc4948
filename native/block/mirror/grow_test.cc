// A mirror grows when its legs have. What a power cut at any moment of it leaves is in
// test/sim/mirror_test.cc.

#include <doctest/doctest.h>

#include <string>

#include "testing/mirror_volume.h"

namespace {

using block::Device;
using block::DeviceSpec;
using block::Status;
using Volume = testing::MirrorVolume;

constexpr auto data_bytes = Volume::data_bytes;
constexpr std::uint64_t more = 3 * data_bytes;

void resize(Volume& v, const std::string& leg, std::uint64_t bytes) {
    const auto resized = v.rig.device(leg).resize(bytes);
    REQUIRE_MESSAGE(resized.ok(), resized.error().message);
}

std::uint64_t size_of(Volume& v) { return v.rig.device(v.mirror.name).describe().size_bytes; }

// As the server does after a restart: the size is known, and it may be the one of before.
void open_again(Volume& v, std::uint64_t known_bytes) {
    v.mirror.known.size_bytes = known_bytes;
    v.mirror.known.block_bytes = 4096;
    v.open();
}

}  // namespace

TEST_CASE("a mirror grows when its legs have, while it is used, and is as large when it is opened again") {
    for (const bool checksums : {false, true}) {
        CAPTURE(checksums);
        Volume v;
        v.mirror.mirror.checksums = checksums;
        v.open_serving();
        const std::uint64_t before = size_of(v);
        CHECK(v.write(0, 65536, 0x11) == Status::ok);
        CHECK(v.write(before - 8192, 8192, 0x12) == Status::ok);
        CHECK(v.ask("grow") == "E_INVALID");
        resize(v, "a", more);
        CHECK(v.ask("grow") == "E_INVALID");  // one leg alone is not enough
        resize(v, "b", more + 12288);
        CHECK(v.becomes("ok"));
        CHECK(size_of(v) == before);
        std::uint64_t told = 0;
        auto claim = block::Claim::take(v.rig.device(v.mirror.name), block::Access::read_write, "a host");
        REQUIRE(claim.ok());
        claim.value().on_change([&] { told = size_of(v); });
        CHECK(v.ask("grow").empty());
        const std::uint64_t grown = size_of(v);
        CHECK(grown > before + data_bytes);
        CHECK(told == grown);
        CHECK(grown < more);
        CHECK(v.becomes("ok"));
        CHECK(v.legs_are_equal("a", "b", grown));
        CHECK(v.reads(0, 65536, 0x11));
        CHECK(v.reads(before - 8192, 8192, 0x12));
        CHECK(v.reads(before, grown - before, 0));
        CHECK(v.write(grown - 65536, 65536, 0x13) == Status::ok);
        CHECK(v.write(before - 4096, 8192, 0x14) == Status::ok);
        CHECK(v.ask("grow") == "E_INVALID");
        claim.value().release();
        v.close();
        open_again(v, grown);
        CHECK(v.becomes("ok"));
        CHECK(size_of(v) == grown);
        CHECK(v.reads(0, 65536, 0x11));
        CHECK(v.reads(before - 4096, 8192, 0x14));
        CHECK(v.reads(grown - 65536, 65536, 0x13));
        CHECK(v.legs_are_equal("a", "b", grown));
        CHECK(v.detail("leg.a.corruptions") == "0");
        CHECK(v.detail("leg.b.corruptions") == "0");
    }
}

TEST_CASE("legs that had room from the beginning are grown into, more than once") {
    for (const bool checksums : {false, true}) {
        CAPTURE(checksums);
        Volume v;
        v.mirror.mirror.checksums = checksums;
        v.make_ram("c", more);
        v.make_ram("d", more);
        v.open_serving();
        const std::uint64_t before = size_of(v);
        CHECK(v.write(65536, 65536, 0x21) == Status::ok);
        for (const char* leg : {"c", "d"}) {
            CHECK(v.ask("add_leg", {{"device", leg}}).empty());
            CHECK(v.becomes("ok"));
        }
        CHECK(v.ask("remove_leg", {{"leg", "a"}}).empty());
        CHECK(v.ask("remove_leg", {{"leg", "b"}}).empty());
        CHECK(v.ask("grow").empty());
        const std::uint64_t first = size_of(v);
        CHECK(first > before);
        CHECK(v.becomes("ok"));
        CHECK(v.write(first - 4096, 4096, 0x22) == Status::ok);
        resize(v, "c", more + data_bytes / 2);
        resize(v, "d", more + data_bytes / 2);
        CHECK(v.ask("grow").empty());
        const std::uint64_t second = size_of(v);
        CHECK(second > first);
        CHECK(v.becomes("ok"));
        v.close();
        v.mirror.parts = {{"d", 0, 0}, {"c", 0, 0}};
        open_again(v, first);  // nobody had time to record the new size
        CHECK(v.becomes("ok"));
        CHECK(size_of(v) == second);
        CHECK(v.reads(65536, 65536, 0x21));
        CHECK(v.reads(first - 4096, 4096, 0x22));
        CHECK(v.legs_are_equal("c", "d", second));
    }
}

TEST_CASE("legs whose devices grew while nobody looked are found, with what they have") {
    Volume v;
    v.open_serving();
    CHECK(v.write(0, 65536, 0x31) == Status::ok);
    CHECK(v.becomes("ok"));
    v.close();
    resize(v, "a", more);
    resize(v, "b", data_bytes * 2);
    open_again(v, data_bytes);
    CHECK(v.becomes("ok"));
    CHECK(v.reads(0, 65536, 0x31));
    CHECK(size_of(v) == data_bytes);
    v.close();
    open_again(v, data_bytes);  // their superblocks lie at the new ends now
    CHECK(v.becomes("ok"));
    CHECK(v.ask("grow").empty());
    CHECK(size_of(v) > data_bytes);
    CHECK(size_of(v) < 2 * data_bytes);
    CHECK(v.becomes("ok"));
    CHECK(v.legs_are_equal("a", "b", size_of(v)));
}

TEST_CASE("a leg that was away while the volume grew is refused until it has room, and gets the rest then") {
    for (const bool checksums : {false, true}) {
        CAPTURE(checksums);
        Volume v(3);
        v.mirror.mirror.checksums = checksums;
        v.open_serving();
        CHECK(v.write(0, 65536, 0x41) == Status::ok);
        CHECK(v.ask("detach", {{"leg", "c"}}).empty());
        resize(v, "a", more);
        resize(v, "b", more);
        CHECK(v.ask("grow").empty());
        const std::uint64_t grown = size_of(v);
        CHECK(v.write(grown - 65536, 65536, 0x42) == Status::ok);
        CHECK(v.write(65536, 65536, 0x43) == Status::ok);
        CHECK(v.ask("attach", {{"leg", "c"}}) == "E_INVALID");
        CHECK(v.state("c") == "refused");
        CHECK(v.detail("leg.c.reason").find("too small since the volume has grown") != std::string::npos);
        resize(v, "c", more);
        CHECK(v.ask("attach", {{"leg", "c"}}).empty());
        CHECK(v.becomes("ok"));
        CHECK(v.legs_are_equal("a", "c", grown));
        CHECK(v.reads(65536, 65536, 0x43, "c"));
        v.close();
        open_again(v, grown);
        CHECK(v.becomes("ok"));
        CHECK(v.detail("leg.c.corruptions") == "0");
    }
}

TEST_CASE("a leg that cannot be written ends the growth, and the volume goes on as it was") {
    Volume v;
    for (const char* leg : {"a", "b"}) {
        v.rig.close(leg);
        v.rig.environment.forget_memory(leg);
        v.make_ram(leg, more);
    }
    v.open_serving();
    v.close();
    v.make_ram("c");
    v.mirror.parts.push_back({"c", 0, 0});
    v.mirror.mirror.volume.fill(8);
    v.mirror.parts = {{"c", 0, 0}};
    v.open_serving();
    const std::uint64_t before = size_of(v);
    CHECK(v.write(0, 65536, 0x51) == Status::ok);
    v.close();
    resize(v, "c", more);
    v.put_between("c", "error", [&](DeviceSpec& spec) {
        spec.error_actions = {"write"};
        spec.error_offset = more - 8192 - 4096;  // where the map would lie
        spec.error_length = 4096;
        spec.error_count = 1;
    });
    open_again(v, before);
    CHECK(v.becomes("ok"));
    CHECK(v.ask("grow") == "E_IO");
    CHECK(size_of(v) == before);
    CHECK(v.health() == "ok");
    CHECK(v.reads(0, 65536, 0x51));
    CHECK(v.ask("grow").empty());  // it failed once only
    CHECK(size_of(v) > before);
    CHECK(v.reads(0, 65536, 0x51));
}

TEST_CASE("a leg whose device grew and is again what it was is still a leg") {
    Volume v;
    v.open_serving();
    CHECK(v.write(0, 65536, 0x61) == Status::ok);
    resize(v, "a", more);
    resize(v, "b", more);
    CHECK(v.becomes("ok"));
    resize(v, "a", Volume::leg_bytes());
    resize(v, "b", Volume::leg_bytes());
    CHECK(v.becomes("ok"));
    CHECK(v.write(65536, 65536, 0x62) == Status::ok);
    v.close();
    open_again(v, data_bytes);
    CHECK(v.becomes("ok"));
    CHECK(v.state("a") == "up");
    CHECK(v.state("b") == "up");
    CHECK(v.reads(65536, 65536, 0x62));
}
