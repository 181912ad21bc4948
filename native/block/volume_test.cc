// Linear and striped volumes: where their bytes lie, what becomes of them when their parts change, and what
// is refused. That they keep data like any device is contract_test.cc's business.

#include <doctest/doctest.h>

#include <cstring>

#include "testing/block_rig.h"

namespace {

using block::Access;
using block::Action;
using block::Claim;
using block::Device;
using block::DeviceSpec;
using block::Status;
using testing::BlockRig;
using testing::Pages;
using testing::TestRequest;

constexpr std::uint64_t mib = 1 << 20;

DeviceSpec ram_named(const std::string& name, std::uint64_t bytes = mib) {
    DeviceSpec spec;
    spec.name = name;
    spec.kind = "ram";
    spec.size_bytes = bytes;
    return spec;
}

DeviceSpec volume(const std::string& kind, std::vector<block::PartSpec> parts) {
    DeviceSpec spec;
    spec.name = "v";
    spec.kind = kind;
    spec.parts = std::move(parts);
    spec.chunk_bytes = 65536;
    return spec;
}

bool mentions(const base::Error& error, const std::string& text) {
    return error.message.find(text) != std::string::npos;
}

// A device whose size becomes known later.
class Late final : public Device {
  public:
    explicit Late(const std::string& name) : Device(name, "late") {}
    base::Result<std::uint64_t> resize(std::optional<std::uint64_t>) override {
        return description_.size_bytes;
    }
    Health health() const override { return {state_, "far away"}; }
    void appear(std::uint64_t size_bytes) {
        state_ = "ok";
        block::Description description = description_;
        description.size_bytes = size_bytes;
        set_description(description);
    }
    void become(const std::string& state) {
        state_ = state;
        tell_changed();
    }

  protected:
    void submit_checked(block::Request& request) override { complete(request, Status::ok); }

  private:
    std::string state_ = "connecting";
};

TEST_CASE("a linear volume lays its parts one after the other, ranges of one device too") {
    BlockRig rig;
    REQUIRE(rig.make(ram_named("a")).ok());
    REQUIRE(rig.make(ram_named("b")).ok());
    Device& v =
        *rig.make(volume("linear", {{"a", 8192, 4096}, {"b", 0, 0}, {"a", 16384, 8192}, {"a", 65536, 0}}))
             .value();
    const std::uint64_t size = 4096 + mib + 8192 + (mib - 65536);
    CHECK(v.describe().size_bytes == size);
    CHECK(v.parts() == std::vector<std::string>{"a", "b", "a", "a"});
    Pages memory(size);
    for (std::uint64_t i = 0; i < size / 4096; ++i) {
        std::memset(memory.data() + i * 4096, static_cast<int>(i % 251), 4096);
    }
    CHECK(rig.run(v, Action::write, 0, size, memory.data()) == Status::ok);
    Pages back(mib);
    CHECK(rig.run(rig.device("b"), Action::read, 0, mib, back.data()) == Status::ok);
    CHECK(std::memcmp(back.data(), memory.data() + 4096, mib) == 0);
    CHECK(rig.run(rig.device("a"), Action::read, 0, mib, back.data()) == Status::ok);
    CHECK(back.data()[0] == std::byte{0});
    CHECK(std::memcmp(back.data() + 8192, memory.data(), 4096) == 0);
    CHECK(std::memcmp(back.data() + 16384, memory.data() + 4096 + mib, 8192) == 0);
    CHECK(std::memcmp(back.data() + 65536, memory.data() + 4096 + mib + 8192, mib - 65536) == 0);
    CHECK(rig.device("a").counters().completed[1] == 3);
    CHECK(rig.run(v, Action::flush) == Status::ok);
    CHECK(rig.device("b").counters().completed[2] == 1);
    rig.close("v");
}

TEST_CASE("a stripe deals its chunks to the parts in turn") {
    BlockRig rig;
    for (const char* name : {"a", "b", "c"}) {
        REQUIRE(rig.make(ram_named(name, name[0] == 'c' ? mib + 4096 : mib)).ok());
    }
    Device& v = *rig.make(volume("stripe", {{"a"}, {"b"}, {"c"}})).value();
    CHECK(v.describe().size_bytes == 3 * mib);
    CHECK(v.describe().optimal_io_bytes == 3 * 65536);
    Pages memory(3 * mib);
    for (std::uint64_t i = 0; i < 48; ++i) {
        std::memset(memory.data() + i * 65536, static_cast<int>(i + 1), 65536);
    }
    CHECK(rig.run(v, Action::write, 0, 3 * mib, memory.data()) == Status::ok);
    Pages back(mib);
    for (std::uint64_t part = 0; part < 3; ++part) {
        CHECK(rig.run(rig.device(std::string(1, static_cast<char>('a' + part))), Action::read, 0, mib,
                      back.data()) == Status::ok);
        for (std::uint64_t row = 0; row < 16; ++row) {
            CHECK(back.data()[row * 65536 + 65535] == static_cast<std::byte>(row * 3 + part + 1));
        }
    }
    rig.close("v");
}

TEST_CASE("what a volume cannot be is refused with the reason, and nothing is claimed") {
    BlockRig rig;
    REQUIRE(rig.make(ram_named("a")).ok());
    REQUIRE(rig.make(ram_named("b")).ok());
    const auto refused = [&](const std::string& kind, std::vector<block::PartSpec> parts,
                             const std::string& code, const std::string& text) {
        const auto made = rig.make(volume(kind, std::move(parts)));
        REQUIRE_FALSE(made.ok());
        CHECK(made.error().code == code);
        CHECK_MESSAGE(mentions(made.error(), text), made.error().message);
        CHECK(rig.device("a").claimed_by().empty());
    };
    refused("linear", {}, "E_INVALID", "at least one");
    refused("linear", {{"a"}, {"nobody"}}, "E_NOT_FOUND", "\"nobody\"");
    refused("linear", {{"a", 512, 0}}, "E_INVALID", "512");
    refused("linear", {{"b"}, {"a", 0, 2 * mib}}, "E_INVALID", "does not fit");
    refused("linear", {{"a", 4 * mib, 0}}, "E_INVALID", "does not fit");
    refused("linear", {{"a", ~std::uint64_t{4095}, 8192}}, "E_INVALID", "does not fit");
    refused("linear", {{"a", 0, 8192}, {"a", 4096, 8192}}, "E_BUSY", "from byte 0 to byte 8191");
    refused("stripe", {{"a"}}, "E_INVALID", "two");
    refused("stripe", {{"a"}, {"b", 4096, 0}}, "E_INVALID", "whole devices");
    DeviceSpec spec = volume("stripe", {{"a"}, {"b"}});
    spec.chunk_bytes = 1000;
    CHECK(mentions(rig.make(spec).error(), "1000"));
    spec.chunk_bytes = 2 * mib;
    CHECK(mentions(rig.make(spec).error(), "less than a chunk"));
    CHECK(rig.device("b").claimed_by().empty());
}

TEST_CASE("two volumes share a device by ranges that do not overlap") {
    BlockRig rig;
    REQUIRE(rig.make(ram_named("a")).ok());
    DeviceSpec low = volume("linear", {{"a", 0, 8192}});
    DeviceSpec high = volume("linear", {{"a", 8192, 0}});
    high.name = "w";
    REQUIRE(rig.make(low).ok());
    REQUIRE(rig.make(high).ok());
    CHECK(rig.device("a").claimed_by().size() == 2);
    high.name = "x";
    high.parts = {{"a", 4096, 4096}};
    CHECK(rig.make(high).error().code == "E_BUSY");
    rig.close("w");
    rig.close("v");
}

TEST_CASE("a linear volume grows at run time, never onto itself, and its users are told") {
    BlockRig rig;
    REQUIRE(rig.make(ram_named("a")).ok());
    REQUIRE(rig.make(ram_named("b")).ok());
    REQUIRE(rig.make(volume("linear", {{"a"}})).ok());
    Device& v = rig.device("v");
    DeviceSpec above;
    above.name = "above";
    above.kind = "delay";
    above.base = "v";
    REQUIRE(rig.make(above).ok());
    base::Result<void> answer;
    const auto command = [&](const std::string& verb, std::map<std::string, std::string> arguments) {
        v.command({verb, std::move(arguments)},
                  [&](base::Result<void> result) { answer = std::move(result); });
        return answer.ok() ? std::string() : answer.error().code;
    };
    CHECK(command("shrink", {}) == "E_UNSUPPORTED");
    CHECK(command("grow", {{"device", "nobody"}}) == "E_NOT_FOUND");
    CHECK(command("grow", {{"device", "above"}}) == "E_INVALID");
    CHECK(mentions(answer.error(), "stands on it itself"));
    CHECK(command("grow", {{"device", "b"}, {"size", "a lot"}}) == "E_INVALID");
    CHECK(command("grow", {{"device", "b"}, {"size", "18446744073709551616"}}) == "E_INVALID");
    CHECK(command("grow", {{"device", "a"}}) == "E_BUSY");
    CHECK(rig.device("above").describe().size_bytes == mib);
    CHECK(command("grow", {{"device", "b"}, {"start", "4096"}, {"size", "8192"}}).empty());
    CHECK(v.describe().size_bytes == mib + 8192);
    CHECK(rig.device("above").describe().size_bytes == mib + 8192);
    CHECK(v.identity() == "layout.1048576.8192");
    Pages memory(8192);
    std::memset(memory.data(), 7, 8192);
    CHECK(rig.run(rig.device("above"), Action::write, mib - 4096, 8192, memory.data()) == Status::ok);
    Pages back(4096);
    CHECK(rig.run(rig.device("b"), Action::read, 4096, 4096, back.data()) == Status::ok);
    CHECK(back.data()[0] == std::byte{7});
    CHECK(v.resize(4 * mib).error().code == "E_UNSUPPORTED");
    rig.close("above");
    rig.close("v");
}

TEST_CASE("a middle part that grew does not shift what follows, after a restart either") {
    BlockRig rig;
    REQUIRE(rig.make(ram_named("a")).ok());
    REQUIRE(rig.make(ram_named("b")).ok());
    DeviceSpec spec = volume("linear", {{"a"}, {"b"}});
    REQUIRE(rig.make(spec).ok());
    REQUIRE(rig.device("a").resize(2 * mib).ok());
    CHECK(rig.device("v").describe().size_bytes == 2 * mib);
    REQUIRE(rig.device("b").resize(2 * mib).ok());
    CHECK(rig.device("v").describe().size_bytes == 3 * mib);
    spec.known.identity = rig.device("v").identity();
    CHECK(spec.known.identity == "layout.1048576.2097152");
    rig.close("v");
    REQUIRE(rig.make(spec).ok());
    CHECK(rig.device("v").describe().size_bytes == 3 * mib);
    REQUIRE(rig.device("a").resize(mib / 2).ok());
    CHECK(rig.device("v").describe().size_bytes == 3 * mib);
    CHECK(rig.device("v").health().state == "failed");
    rig.close("v");
}

TEST_CASE("a volume takes its size when the last part whose size was unknown comes, and follows its health") {
    BlockRig rig;
    REQUIRE(rig.make(ram_named("a")).ok());
    Late late("late");
    const auto find = rig.environment.find;
    rig.environment.find = [&](const std::string& name) { return name == "late" ? &late : find(name); };
    for (const char* kind : {"linear", "stripe"}) {
        CAPTURE(kind);
        Device& v = *rig.make(volume(kind, {{"late"}, {"a"}})).value();
        if (std::string(kind) == "linear") {
            CHECK(v.describe().size_bytes == 0);
            CHECK(v.health().state == "connecting");
            CHECK(mentions({"", v.health().reason}, "far away"));
            TestRequest request;
            request.length = 4096;
            Pages memory(4096);
            request.data = memory.data();
            v.submit(request);
            CHECK(request.status == Status::out_of_range);
            late.appear(2 * mib);
        }
        CHECK(v.describe().size_bytes == (std::string(kind) == "linear" ? 3 * mib : 2 * mib));
        CHECK(v.health().state == "ok");
        auto claim = Claim::take(v, Access::read_write, "user").take();
        int told = 0;
        claim.on_change([&] { ++told; });
        late.become("lost");
        CHECK(told == 1);
        CHECK(v.health().state == "lost");
        late.become("ok");
        CHECK(told == 2);
        claim.release();
        rig.close("v");
    }
}

TEST_CASE(
    "cancelling reaches all pieces, a suspended part holds only what touches it, an exchanged one is "
    "followed") {
    BlockRig rig;
    REQUIRE(rig.make(ram_named("a")).ok());
    REQUIRE(rig.make(ram_named("b")).ok());
    REQUIRE(rig.make(ram_named("c", 2 * mib)).ok());
    Device& v = *rig.make(volume("linear", {{"a", 0, mib}, {"b", 0, mib}})).value();
    Pages memory(2 * mib);
    std::memset(memory.data(), 9, 2 * mib);
    Device& b = rig.device("b");
    b.suspend(Device::Hold::operators);
    TestRequest both, only_b;
    both.action = only_b.action = Action::write;
    both.data = only_b.data = memory.data();
    both.length = 2 * mib;
    only_b.offset = mib;
    only_b.length = 4096;
    v.submit(both);
    v.submit(only_b);
    CHECK(both.completed + only_b.completed == 0);
    CHECK(rig.run(v, Action::write, 0, mib, memory.data()) == Status::ok);
    v.cancel(both);
    CHECK(both.completed == 1);
    CHECK(both.status == Status::aborted);
    CHECK(only_b.completed == 0);
    bool closed = false;
    b.close_for_successor([&] { closed = true; });
    REQUIRE(rig.run_until([&] { return closed; }));
    b.hand_over(rig.device("c"));
    CHECK(v.parts() == std::vector<std::string>{"a", "c"});
    CHECK(v.describe().size_bytes == 2 * mib);
    rig.device("c").resume(Device::Hold::operators);
    CHECK(only_b.completed == 1);
    CHECK(only_b.status == Status::ok);
    CHECK(rig.device("c").counters().completed[1] == 1);
    rig.forget_device("b");
    rig.close("v");
}

}  // namespace
