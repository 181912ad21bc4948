// The load against a whole engine in this process: that it finds nothing where all is right, and everything
// else.

#include "block/initiator/load.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <fstream>
#include <future>

#include "block/initiator/histogram.h"
#include "block/initiator/pattern.h"
#include "block/initiator/shadow.h"
#include "engine/engine.h"
#include "testing/block_media.h"

namespace {

using block::initiator::Histogram;
using block::initiator::LoadOptions;
using block::initiator::LoadResult;
using block::initiator::PatternVerdict;
using block::initiator::Shadow;

// An engine that serves a RAM disk of 8 MiB as namespace 1 and what stands on another one as namespace 2.
class Server {
  public:
    explicit Server(block::DeviceSpec upper = {}) : engine_(engine::Engine::make({}).take()) {
        engine_->start([this](engine::Event&& event) {
            if (event.kind == engine::Event::Kind::connect) {
                engine_->admit(event.request, true, "");
            }
        });
        std::promise<void> ready;
        engine_->post([&] {
            nvme::SubsystemSpec subsystem;
            subsystem.nqn = nqn;
            subsystem.serial = "1";
            subsystem.allow_any_host = true;
            CHECK(engine_->target().add_subsystem(subsystem).ok());
            block::DeviceSpec ram;
            ram.kind = "ram";
            ram.size_bytes = 8 << 20;
            ram.name = "one";
            add(1, ram);
            if (!upper.kind.empty()) {
                ram.name = "below";
                CHECK(engine_->add_device(ram, -1).ok());
                upper.name = "two";
                upper.base = "below";
                add(2, upper);
            }
            engine_->target().set_loading(false);
            transport::ListenerSpec listener;
            listener.id = "l";
            listener.address = "127.0.0.1";
            listener.family = "ipv4";
            const auto status = engine_->transport().add_listener(listener);
            CHECK(status.ok());
            port = status.value().port;
            ready.set_value();
        });
        ready.get_future().wait();
    }
    ~Server() {
        std::promise<void> stopped;
        engine_->stop([&] { stopped.set_value(); });
        stopped.get_future().wait();
        engine_->join();
    }

    LoadOptions options() const {
        LoadOptions options;
        options.target.address = "127.0.0.1";
        options.target.port = port;
        options.target.subnqn = nqn;
        options.target.hostnqn = "nqn.2024-01.example:load";
        options.target.hostid[0] = 1;
        options.target.depth = 16;
        options.seconds = 0;
        options.count = 4000;
        options.verify = true;
        options.read_percent = 50;
        return options;
    }

    void drop_hosts() {
        engine_->post([this] { (void)engine_->disconnect_host("nqn.2024-01.example:load", nqn); });
    }

    std::uint16_t port = 0;
    const std::string nqn = "nqn.2024-01.example:target";

  private:
    void add(std::uint32_t nsid, const block::DeviceSpec& spec) {
        CHECK(engine_->add_device(spec, -1).ok());
        nvme::NamespaceSpec ns;
        ns.nsid = nsid;
        ns.device = spec.name;
        ns.nguid[0] = ns.uuid[0] = static_cast<std::uint8_t>(nsid);
        CHECK(engine_->add_namespace(nqn, ns).ok());
    }

    std::unique_ptr<engine::Engine> engine_;
};

LoadResult run(const LoadOptions& options) {
    auto result = block::initiator::run_load(options);
    REQUIRE(result.ok());
    return result.take();
}

bool mentions(const LoadResult& result, const char* text) {
    for (const std::string& error : result.error_texts) {
        if (error.find(text) != std::string::npos) {
            return true;
        }
    }
    return false;
}

}  // namespace

TEST_CASE("a load on a target that is right verifies what it wrote, in every manner of transfer") {
    Server server;
    struct Row {
        const char* name;
        void (*change)(LoadOptions&);
    };
    const Row rows[] = {
        {"small", [](LoadOptions&) {}},
        {"filled first", [](LoadOptions& o) { o.fill = true; }},
        {"digests and flow control",
         [](LoadOptions& o) {
             o.target.header_digest = o.target.data_digest = o.target.flow_control = true;
         }},
        {"by R2T, several queues",
         [](LoadOptions& o) {
             o.io_bytes = 128 << 10;
             o.target.io_queues = 3;
             o.count = 600;
         }},
        {"all by R2T", [](LoadOptions& o) { o.target.in_capsule_bytes = 0; }},
        {"one at a time, in order",
         [](LoadOptions& o) {
             o.target.depth = 1;
             o.sequential = true;
             o.count = 500;
         }},
        {"with flushes", [](LoadOptions& o) { o.flush_every = 7; }},
        {"at a rate",
         [](LoadOptions& o) {
             o.rate = 2000;
             o.count = 400;
         }},
        {"an alignment of 64 bytes", [](LoadOptions& o) { o.target.host_alignment = 15; }},
    };
    for (const Row& row : rows) {
        INFO(row.name);
        LoadOptions options = server.options();
        row.change(options);
        const LoadResult result = run(options);
        const std::string first_error = result.error_texts.empty() ? "" : result.error_texts.front();
        INFO(first_error);
        CHECK(result.ok());
        CHECK(result.reads + result.writes + result.flushes == options.count);
        CHECK(result.writes > 0);
        CHECK(result.verified_blocks > 0);
        CHECK((options.flush_every == 0) == (result.flushes == 0));
        CHECK(result.all.count == options.count);
        CHECK(result.all.p50_us <= result.all.p99_us);
        CHECK(result.all.p99_us <= result.all.max_us);
    }
}

TEST_CASE("a load for a time ends in time") {
    Server server;
    LoadOptions options = server.options();
    options.seconds = 0.3;
    options.warmup_seconds = 0.1;
    options.count = 0;
    const LoadResult result = run(options);
    CHECK(result.ok());
    CHECK(result.seconds > 0.2);
    CHECK(result.seconds < 0.35);
    CHECK(result.iops > 0);
}

TEST_CASE("the load notices blocks that somebody else wrote, that are older than they may be, or newer") {
    Server server;
    testing::TemporaryFolder folder;
    LoadOptions options = server.options();
    options.shadow_path = folder.file("shadow");
    options.fill = true;
    CHECK(run(options).ok());
    options.fill = false;
    options.read_percent = 100;
    CHECK(run(options).ok());

    const auto change_map = [&](auto&& change) {
        std::fstream file(options.shadow_path, std::ios::in | std::ios::out | std::ios::binary);
        block::initiator::ShadowUnit unit;
        file.seekg(4096);
        file.read(reinterpret_cast<char*>(&unit), sizeof unit);
        change(unit);
        file.seekp(4096);
        file.write(reinterpret_cast<const char*>(&unit), sizeof unit);
    };
    SUBCASE("somebody else") {
        LoadOptions other = server.options();
        other.count = 50;
        other.read_percent = 0;
        CHECK(run(other).ok());
        CHECK(mentions(run(options), "reads foreign"));
    }
    SUBCASE("older") {
        change_map([](auto& unit) { unit.acknowledged = ++unit.issued; });
        CHECK(mentions(run(options), "LBA 0 reads stale"));
    }
    SUBCASE("newer") {
        options.read_percent = 0;
        options.sequential = true;
        options.count = 1;
        block::initiator::ShadowUnit before;
        change_map([&](auto& unit) { before = unit; });
        CHECK(run(options).ok());
        change_map([&](auto& unit) { unit = before; });
        options.read_percent = 100;
        options.count = 4000;
        CHECK(mentions(run(options), "LBA 0 reads future"));
    }
    SUBCASE("a write that may or may not have happened may be old or new") {
        change_map([](auto& unit) { ++unit.issued; });
        CHECK(run(options).ok());
    }
}

TEST_CASE("errors of commands are told and do not end the load before there are too many") {
    block::DeviceSpec spec;
    spec.kind = "error";
    spec.error_actions = {"write"};
    spec.error_count = 3;
    Server server(spec);
    LoadOptions options = server.options();
    options.target.nsid = 2;
    const LoadResult result = run(options);
    CHECK(result.errors == 3);
    CHECK(mentions(result, "Write Fault"));
    CHECK(result.all.count == options.count);
}

TEST_CASE("a lost connection is an error, whatever happens later") {
    Server server;
    LoadOptions options = server.options();
    options.count = 0;
    options.seconds = 20;
    bool dropped = false;
    options.progress = [&](const block::initiator::LoadProgress& progress) {
        if (progress.completed > 0 && !dropped) {
            dropped = true;
            server.drop_hosts();
        }
    };
    const LoadResult result = run(options);
    CHECK(dropped);
    CHECK_FALSE(result.ok());
    CHECK(mentions(result, "queue"));
}

TEST_CASE("a target that does not answer ends the load with an error") {
    block::DeviceSpec spec;
    spec.kind = "delay";
    spec.read_delay_us = 60'000'000;
    Server server(spec);
    LoadOptions options = server.options();
    options.target.nsid = 2;
    options.read_percent = 100;
    options.stall_timeout_seconds = 0.5;
    CHECK(mentions(run(options), "no completion for"));
}

TEST_CASE("pauses are seen from the host's side") {
    block::DeviceSpec spec;
    spec.kind = "delay";
    spec.write_delay_us = 30'000;
    Server server(spec);
    LoadOptions options = server.options();
    options.target.nsid = 2;
    options.target.depth = 1;
    options.read_percent = 0;
    options.count = 5;
    const LoadResult result = run(options);
    CHECK(result.longest_gap_ms >= 30);
    CHECK(result.pauses_ms.size() == 5);
}

TEST_CASE("options that make no sense are refused by name") {
    LoadOptions options;
    options.io_bytes = 1000;
    CHECK(block::initiator::run_load(options).error().code == "E_INVALID");
    options.io_bytes = 4096;
    options.target.subnqn = options.target.hostnqn = "nqn.x";
    options.target.address = "somewhere";
    CHECK(block::initiator::run_load(options).error().message.find("somewhere") != std::string::npos);
    Server server;
    options = server.options();
    options.target.nsid = 9;
    CHECK(mentions(run(options), "is not active"));
    options = server.options();
    options.io_bytes = 512;  // blocks of 4096
    CHECK(mentions(run(options), "do not fit"));
}

TEST_CASE("a pattern is told apart from every other block") {
    std::vector<std::byte> block(512), other(512);
    block::initiator::write_pattern(block, 1, 7, 3);
    const auto reading = block::initiator::read_pattern(block, 1, 7);
    CHECK(reading.verdict == PatternVerdict::right);
    CHECK(reading.generation == 3);
    CHECK(block::initiator::read_pattern(block, 1, 8).verdict == PatternVerdict::misplaced);
    CHECK(block::initiator::read_pattern(block, 2, 7).verdict == PatternVerdict::foreign);
    CHECK(block::initiator::read_pattern(other, 1, 7).verdict == PatternVerdict::foreign);
    for (const std::size_t at : {8u, 16u, 20u, 24u, 511u}) {
        block[at] ^= std::byte{0x10};
        CHECK(block::initiator::read_pattern(block, 1, 7).verdict == PatternVerdict::corrupt);
        block[at] ^= std::byte{0x10};
    }
    block::initiator::write_pattern(other, 1, 7, 4);
    std::copy(other.begin() + 256, other.end(), block.begin() + 256);  // torn
    CHECK(block::initiator::read_pattern(block, 1, 7).verdict == PatternVerdict::corrupt);
}

TEST_CASE("a flush makes durable what was acknowledged before it began, and no more") {
    Shadow shadow = Shadow::open("", {1, 0, 4, 1, 4096}, false).take();
    shadow.begin_write(0);
    shadow.end_write(0, true, false);
    shadow.begin_write(1);
    const std::uint64_t mark = shadow.begin_flush();
    shadow.end_write(1, true, false);
    shadow.begin_write(2);
    shadow.end_write(2, true, true);
    shadow.end_flush(mark);
    CHECK(shadow.unit(0).durable == 1);
    CHECK(shadow.unit(1).durable == 0);
    CHECK(shadow.unit(2).durable == 1);
    CHECK(shadow.begin_write(3) == 1);
    shadow.end_write(3, false, false);
    CHECK(shadow.unit(3).acknowledged == 0);
    CHECK(shadow.begin_write(3) == 2);
}

TEST_CASE("quantiles are right within a bucket") {
    Histogram histogram;
    for (std::uint64_t i = 1; i <= 100'000; ++i) {
        histogram.add(i);
    }
    for (const double fraction : {0.5, 0.9, 0.99, 0.999}) {
        CHECK(static_cast<double>(histogram.quantile(fraction)) ==
              doctest::Approx(fraction * 1e5).epsilon(0.04));
    }
    CHECK(histogram.quantile(1) == 100'000);
    CHECK(histogram.maximum() == 100'000);
    CHECK(histogram.mean() == doctest::Approx(50'000.5));
}
