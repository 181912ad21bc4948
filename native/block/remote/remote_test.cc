// The remote device against a whole engine on the loopback, which is stopped, cut off and exchanged for
// others.

#include "block/remote/remote.h"

#include <doctest/doctest.h>

#include <optional>

#include "block/initiator/load.h"
#include "testing/block_media.h"
#include "testing/block_rig.h"
#include "testing/details.h"
#include "testing/loopback_target.h"

namespace {

using block::Action;
using block::Device;
using block::DeviceSpec;
using block::Status;
using testing::BlockRig;
using testing::LoopbackTarget;
using testing::number;
using testing::Pages;
using testing::TestRequest;

DeviceSpec ram(std::uint64_t bytes = 8 << 20, std::uint32_t block_bytes = 512) {
    DeviceSpec spec;
    spec.name = "disk";
    spec.kind = "ram";
    spec.size_bytes = bytes;
    spec.block_bytes = block_bytes;
    return spec;
}

DeviceSpec file(const testing::TemporaryFolder& folder) {
    DeviceSpec spec = ram();
    spec.kind = "file";
    spec.path = folder.file("disk");
    spec.create = true;
    return spec;
}

}  // namespace

TEST_CASE("a remote device takes size, blocks and identity from its peer and moves data in pieces") {
    LoopbackTarget target(ram(64 << 20, 4096), 0x42);
    BlockRig rig;
    DeviceSpec spec = testing::remote_device(target, "far");
    spec.remote.io_queues = 3;
    spec.remote.header_digest = spec.remote.data_digest = true;
    Device& device = *rig.make(spec).value();
    CHECK(device.describe().size_bytes == 0);
    CHECK(device.health().state == "connecting");
    REQUIRE(rig.serves(device));
    CHECK(device.describe().size_bytes == 64 << 20);
    CHECK(device.describe().block_bytes == 4096);
    CHECK(device.identity() == "nguid.42000000000000000000000000000000");
    CHECK(number(device, "queues") == 3);

    Pages out(9 << 20);
    Pages in(9 << 20);
    for (std::size_t i = 0; i < out.size(); i += 8) {
        std::memcpy(out.data() + i, &i, 8);
    }
    CHECK(rig.run(device, Action::write, 4096, out.size(), out.data(), true) == Status::ok);
    CHECK(rig.run(device, Action::flush) == Status::ok);
    CHECK(rig.run(device, Action::read, 4096, in.size(), in.data()) == Status::ok);
    CHECK(std::memcmp(in.data(), out.data(), out.size()) == 0);
    CHECK(rig.run(device, Action::write_zeroes, 0, 32 << 20) == Status::ok);
    CHECK(rig.run(device, Action::read, 4096, in.size(), in.data()) == Status::ok);
    CHECK(in.data()[0] == std::byte{0});
    CHECK(std::memcmp(in.data(), in.data() + 1, in.size() - 1) == 0);
    CHECK(rig.run(device, Action::deallocate, 0, 64 << 20) == Status::ok);
    CHECK(rig.run(device, Action::read, 64 << 20, 4096, in.data()) == Status::out_of_range);
}

TEST_CASE("what was in flight when the connection broke is sent again and completes once") {
    LoopbackTarget target(ram());
    BlockRig rig;
    Device& device = *rig.make(testing::remote_device(target, "far")).value();
    REQUIRE(rig.serves(device));
    constexpr std::size_t lanes = 64;
    constexpr std::uint8_t rounds = 8;
    Pages memory(lanes * 4096);
    std::uint64_t resent = 0;
    for (std::uint8_t round = 1; round <= rounds; ++round) {
        std::memset(memory.data(), round, memory.size());
        std::vector<TestRequest> requests(lanes);
        for (std::size_t i = 0; i < lanes; ++i) {
            requests[i].action = Action::write;
            // Another place each time: over the same one it would have to wait for what is in doubt.
            requests[i].offset = (round * lanes + i) * 4096;
            requests[i].length = 4096;
            requests[i].data = memory.data() + i * 4096;
            device.submit(requests[i]);
        }
        rig.reactor.run_once(rig.kernel.now());
        CHECK(target.disconnect("nqn.2024-01.example:host-far") > 0);
        CHECK(rig.run_until([&] {
            return std::all_of(requests.begin(), requests.end(),
                               [](const TestRequest& request) { return request.completed == 1; });
        }));
        for (const TestRequest& request : requests) {
            CHECK(request.status == Status::ok);
        }
        REQUIRE(rig.serves(device));
        resent = number(device, "resent");
        Pages in(4096);
        for (std::size_t i = 0; i < lanes; i += 7) {
            CHECK(rig.run(device, Action::read, requests[i].offset, 4096, in.data()) == Status::ok);
            CHECK(in.data()[0] == std::byte{round});
        }
    }
    CHECK(resent > 0);
    CHECK(number(device, "generation") >= rounds);
}

TEST_CASE("a newer change of a range in doubt waits until the peer cannot execute the older one any more") {
    LoopbackTarget target(ram());
    BlockRig rig;
    DeviceSpec spec = testing::remote_device(target, "far");
    spec.remote.deadline_ms = 1000;  // shorter than that wait, which does not count
    Device& device = *rig.make(spec).value();
    REQUIRE(rig.serves(device));
    Pages memory(4096);
    TestRequest first;
    bool in_doubt = false;
    base::Nanoseconds lost_at = 0;
    for (int round = 0; round < 50 && !in_doubt; ++round) {
        first = TestRequest();
        first.action = Action::write;
        first.offset = static_cast<std::uint64_t>(round) * 8192;
        first.length = 4096;
        first.data = memory.data();
        const std::uint64_t before = number(device, "resent");
        device.submit(first);
        rig.reactor.run_once(rig.kernel.now());
        lost_at = rig.kernel.now();
        target.disconnect("nqn.2024-01.example:host-far");
        REQUIRE(rig.run_until([&] { return first.completed == 1; }));
        REQUIRE(rig.serves(device));
        in_doubt = number(device, "resent") > before;
    }
    REQUIRE(in_doubt);
    CHECK(rig.run(device, Action::write, first.offset + 4096, 4096, memory.data()) == Status::ok);
    CHECK(rig.run(device, Action::read, first.offset, 4096, memory.data()) == Status::ok);
    CHECK(rig.kernel.now() - lost_at < 2 * base::second);
    CHECK(rig.run(device, Action::write, first.offset, 4096, memory.data()) == Status::ok);
    CHECK(rig.kernel.now() - lost_at >= 2 * base::second);
}

TEST_CASE("without a peer requests fail at their deadline, or wait for it when they are to freeze") {
    testing::TemporaryFolder folder;
    for (const bool freeze : {false, true}) {
        CAPTURE(freeze);
        auto target = std::make_optional<LoopbackTarget>(file(folder));
        BlockRig rig;
        DeviceSpec spec = testing::remote_device(*target, "far");
        spec.remote.deadline_ms = 300;
        spec.remote.when_lost =
            freeze ? block::RemoteSpec::WhenLost::freeze : block::RemoteSpec::WhenLost::fail;
        Device& device = *rig.make(spec).value();
        REQUIRE(rig.serves(device));
        const std::uint16_t port = target->port();
        target.reset();
        CHECK(rig.run_until([&] { return device.health().state == "lost"; }));
        Pages memory(4096);
        std::memset(memory.data(), 0x77, 4096);
        TestRequest request;
        request.action = Action::write;
        request.length = 4096;
        request.data = memory.data();
        const base::Nanoseconds begun = rig.kernel.now();
        device.submit(request);
        if (freeze) {
            rig.run_until([&] { return rig.kernel.now() - begun > base::second; });
            CHECK(request.completed == 0);
        } else {
            CHECK(rig.run_until([&] { return request.completed == 1; }));
            CHECK(request.status == Status::gone);
            CHECK(rig.kernel.now() - begun >= 300 * base::millisecond);
        }
        target.emplace(file(folder), std::uint8_t{1}, port);
        REQUIRE(rig.serves(device));
        if (freeze) {
            CHECK(rig.run_until([&] { return request.completed == 1; }));
            CHECK(request.status == Status::ok);
        }
        CHECK(rig.run(device, Action::read, 0, 4096, memory.data()) == Status::ok);
    }
}

TEST_CASE("another namespace or a smaller one under the same address is left alone") {
    struct Row {
        const char* name;
        std::uint8_t identity;
        std::uint64_t bytes;
        const char* words;
    };
    for (const Row& row : {Row{"another", 2, 8 << 20, "nguid.02"}, Row{"smaller", 1, 4 << 20, "4194304"}}) {
        CAPTURE(row.name);
        auto target = std::make_optional<LoopbackTarget>(ram());
        BlockRig rig;
        Device& device = *rig.make(testing::remote_device(*target, "far")).value();
        REQUIRE(rig.serves(device));
        const std::uint16_t port = target->port();
        target.reset();
        target.emplace(ram(row.bytes), row.identity, port);
        CHECK(rig.run_until([&] { return device.health().state == "foreign"; }));
        CHECK(device.health().reason.find(row.words) != std::string::npos);
        CHECK(device.describe().size_bytes == 8 << 20);
        target.reset();
        target.emplace(ram(16 << 20), std::uint8_t{1}, port);
        REQUIRE(rig.serves(device));
        CHECK(device.describe().size_bytes == 16 << 20);  // it may have grown
    }
}

TEST_CASE("a known device has its size while its peer is away, and closes in every state") {
    std::uint16_t port = 0;
    DeviceSpec spec;
    {
        LoopbackTarget target(ram());
        port = target.port();
        spec = testing::remote_device(target, "far");
    }
    spec.known = {8 << 20, 512, "nguid.01000000000000000000000000000000"};
    BlockRig rig;
    Device& device = *rig.make(spec).value();
    CHECK(device.describe().size_bytes == 8 << 20);
    Pages memory(4096);
    TestRequest waiting;
    waiting.action = Action::read;
    waiting.length = 4096;
    waiting.data = memory.data();
    device.submit(waiting);
    rig.run_until([&] { return device.health().reason.find("refused") != std::string::npos; });
    CHECK(waiting.completed == 0);
    TestRequest cancelled;
    cancelled.action = Action::write;
    cancelled.length = 4096;
    cancelled.data = memory.data();
    device.submit(cancelled);
    device.cancel(cancelled);
    CHECK(cancelled.completed == 1);
    CHECK(cancelled.status == Status::aborted);
    rig.close("far");
    CHECK(waiting.completed == 1);
    CHECK(waiting.status == Status::gone);
    LoopbackTarget again(ram(), 1, port);
    for (int i = 0; i < 12; ++i) {  // closes in the midst of connecting
        spec.known = {};
        Device& short_lived = *rig.make(spec).value();
        for (int steps = 0; steps < i; ++steps) {
            rig.reactor.run_once(rig.kernel.now() + base::millisecond);
        }
        (void)short_lived;
        rig.close("far");
    }
}

TEST_CASE("growth of the remote namespace is noticed while it serves") {
    LoopbackTarget target(ram());
    BlockRig rig;
    Device& device = *rig.make(testing::remote_device(target, "far")).value();
    REQUIRE(rig.serves(device));
    target.run([&] { CHECK(target.engine().resize_device("disk", 12 << 20).ok()); });
    CHECK(rig.run_until([&] { return device.describe().size_bytes == 12 << 20; }));
    CHECK(device.health().state == "ok");
}

TEST_CASE("hosts of a server notice nothing when the connections to its remote disk break") {
    testing::TemporaryFolder folder;
    LoopbackTarget behind(file(folder), 5);
    DeviceSpec spec = testing::remote_device(behind, "far");
    spec.remote.io_queues = 2;
    spec.remote.kato_ms = 200;
    spec.known = {8 << 20, 512, "nguid.05000000000000000000000000000000"};
    LoopbackTarget front(spec, 6);
    block::initiator::LoadOptions options;
    options.target.address = "127.0.0.1";
    options.target.port = front.port();
    options.target.subnqn = LoopbackTarget::nqn;
    options.target.hostnqn = "nqn.2024-01.example:load";
    options.target.hostid[0] = 1;
    options.target.depth = 16;
    options.seconds = 4;
    options.verify = true;
    options.read_percent = 50;
    options.flush_every = 50;
    auto load = std::async(std::launch::async, [&] { return block::initiator::run_load(options); });
    std::uint32_t cut = 0;
    while (load.wait_for(std::chrono::milliseconds(400)) != std::future_status::ready) {
        cut += behind.disconnect("nqn.2024-01.example:host-far");
    }
    const auto result = load.get();
    REQUIRE(result.ok());
    const std::string first_error =
        result.value().error_texts.empty() ? "" : result.value().error_texts.front();
    INFO(first_error);
    CHECK(result.value().ok());
    CHECK(result.value().verified_blocks > 0);
    CHECK(cut >= 6);
}
