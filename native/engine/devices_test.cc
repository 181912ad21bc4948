// Devices that are suspended, replaced and migrated under a load that verifies every byte: hosts see no error
// and lose nothing.

#include <doctest/doctest.h>

#include <atomic>
#include <future>
#include <set>
#include <thread>

#include "block/initiator/load.h"
#include "engine/engine.h"
#include "testing/block_media.h"
#include "testing/details.h"

namespace {

using block::initiator::LoadOptions;
using block::initiator::LoadResult;
using Outcome = base::Result<void>;

constexpr std::uint64_t size_bytes = 16 << 20;
constexpr auto patience = std::chrono::seconds(60);

block::DeviceSpec ram_of(std::uint64_t bytes, const std::string& memory = "") {
    block::DeviceSpec spec;
    spec.kind = "ram";
    spec.size_bytes = bytes;
    spec.memory_name = memory;
    return spec;
}

block::DeviceSpec file_at(const std::string& path, std::uint64_t bytes) {
    block::DeviceSpec spec;
    spec.kind = "file";
    spec.path = path;
    spec.create = true;
    spec.size_bytes = bytes;
    return spec;
}

block::DeviceSpec named(const std::string& name, block::DeviceSpec spec) {
    spec.name = name;
    return spec;
}

// An engine that serves the device "n" to a load that runs beside the test.
class Server {
  public:
    explicit Server(const block::DeviceSpec& device) : engine_(engine::Engine::make({}).take()) {
        engine_->start([this](engine::Event&& event) {
            if (event.kind == engine::Event::Kind::connect) {
                engine_->admit(event.request, true, "");
            } else if (event.kind == engine::Event::Kind::device) {
                events_ += event.device + " " + event.state + " " + event.reason + "\n";
            }
        });
        in([&] {
            nvme::SubsystemSpec subsystem;
            subsystem.nqn = nqn;
            subsystem.serial = "1";
            subsystem.allow_any_host = true;
            CHECK(engine_->target().add_subsystem(subsystem).ok());
            CHECK(engine_->add_device(named("n", device), -1).ok());
            nvme::NamespaceSpec ns;
            ns.nsid = 1;
            ns.device = "n";
            ns.nguid[0] = ns.uuid[0] = 1;
            CHECK(engine_->add_namespace(nqn, ns).ok());
            engine_->target().set_loading(false);
            transport::ListenerSpec listener;
            listener.id = "l";
            listener.address = "127.0.0.1";
            listener.family = "ipv4";
            port_ = engine_->transport().add_listener(listener).take().port;
        });
    }
    ~Server() {
        if (load_.joinable()) {
            (void)end_load();
        }
        std::promise<void> stopped;
        engine_->stop([&] { stopped.set_value(); });
        stopped.get_future().wait();
        engine_->join();
    }

    // On the reactor's thread.
    template <typename Work>
    void in(Work work) {
        std::promise<void> done;
        engine_->post([&] {
            work();
            done.set_value();
        });
        done.get_future().wait();
    }
    // An operation that answers later.
    Outcome ask(const std::function<void(engine::Engine&, engine::Engine::Done)>& operation) {
        std::promise<Outcome> answer;
        engine_->post(
            [&] { operation(*engine_, [&](const Outcome& outcome) { answer.set_value(outcome); }); });
        auto future = answer.get_future();
        REQUIRE(future.wait_for(patience) == std::future_status::ready);
        return future.get();
    }
    Outcome begin(const block::DeviceSpec& destination, std::uint64_t rate = 0) {
        return ask([&](engine::Engine& engine, engine::Engine::Done done) {
            engine.begin_migration("n", destination, rate, std::move(done));
        });
    }
    Outcome prepare() {
        return ask([](engine::Engine& engine, engine::Engine::Done done) {
            engine.prepare_migration("n", std::move(done));
        });
    }
    Outcome commit() {
        return ask([](engine::Engine& engine, engine::Engine::Done done) {
            engine.commit_migration("n", std::move(done));
        });
    }
    Outcome cancel() {
        return ask([](engine::Engine& engine, engine::Engine::Done done) {
            engine.cancel_migration("n", std::move(done));
        });
    }
    Outcome replace(const block::DeviceSpec& spec) {
        return ask([&](engine::Engine& engine, engine::Engine::Done done) {
            engine.replace_device(named("n", spec), std::move(done));
        });
    }

    engine::DeviceStatus device(const std::string& name) {
        engine::DeviceStatus found;
        in([&] {
            for (const engine::DeviceStatus& status : engine_->status().devices) {
                if (status.name == name) {
                    found = status;
                }
            }
        });
        return found;
    }
    std::set<std::string> devices() {
        std::set<std::string> names;
        in([&] {
            for (const engine::DeviceStatus& status : engine_->status().devices) {
                names.insert(status.name);
            }
        });
        return names;
    }
    std::string detail(const std::string& key) { return testing::detail(device("n").details, key); }
    template <typename Condition>
    bool until(Condition condition) {
        const auto limit = std::chrono::steady_clock::now() + patience;
        while (!condition()) {
            if (std::chrono::steady_clock::now() > limit) {
                return false;
            }
            std::this_thread::yield();
        }
        return true;
    }
    bool becomes(const std::string& state) {
        return until([&] { return detail("state") == state; });
    }
    std::string events() {
        std::string copy;
        in([&] { copy = events_; });
        return copy;
    }

    void begin_load() {
        stop_ = false;
        completed_ = 0;
        load_ = std::thread([this] {
            LoadOptions options;
            options.target.address = "127.0.0.1";
            options.target.port = port_;
            options.target.subnqn = nqn;
            options.target.hostnqn = "nqn.2024-01.example:load";
            options.target.hostid[0] = 1;
            options.target.depth = 8;
            options.target.io_queues = 2;
            options.seconds = 600;
            options.io_bytes = 16384;
            options.read_percent = 40;
            options.verify = true;
            options.flush_every = 50;
            options.stop = &stop_;
            options.progress = [this](const block::initiator::LoadProgress& progress) {
                completed_ = progress.completed;
            };
            result_ = block::initiator::run_load(options).take();
        });
    }
    bool load_goes_on() {
        const std::uint64_t before = completed_;
        return until([&] { return completed_ > before; });
    }
    LoadResult end_load() {
        stop_ = true;
        load_.join();
        for (const std::string& text : result_.error_texts) {
            MESSAGE(text);
        }
        CHECK(result_.ok());
        CHECK(result_.verified_blocks > 0);
        return result_;
    }

    engine::Engine& engine() { return *engine_; }

  private:
    const std::string nqn = "nqn.2024-01.example:target";
    std::unique_ptr<engine::Engine> engine_;
    std::uint16_t port_ = 0;
    std::string events_;
    std::atomic<bool> stop_{false};
    std::atomic<std::uint64_t> completed_{0};
    std::thread load_;
    LoadResult result_;
};

TEST_CASE("a device is migrated under load again and again, to memory and to files, and nothing is lost") {
    testing::TemporaryFolder folder;
    Server server(ram_of(size_bytes));
    server.begin_load();
    REQUIRE(server.load_goes_on());
    for (int round = 0; round < 4; ++round) {
        CAPTURE(round);
        const bool to_file = round % 2 == 0;
        const auto destination = to_file ? file_at(folder.file(std::to_string(round)), size_bytes)
                                         : ram_of(size_bytes, "memory" + std::to_string(round));
        REQUIRE(server.begin(destination).ok());
        CHECK(server.devices() == std::set<std::string>{"n", "n@source", "n@destination"});
        CHECK(server.device("n").parts == std::vector<std::string>{"n@source", "n@destination"});
        REQUIRE(server.becomes("copied"));
        CHECK(server.load_goes_on());
        REQUIRE(server.prepare().ok());
        REQUIRE(server.commit().ok());
        CHECK(server.devices() == std::set<std::string>{"n"});
        CHECK(server.device("n").kind == (to_file ? "file" : "ram"));
        CHECK(server.load_goes_on());
    }
    CHECK(server.events().find("n ok copied") != std::string::npos);
    (void)server.end_load();
}

TEST_CASE("a migration is cancelled at any time, goes at the rate that it was given, and can begin again") {
    Server server(ram_of(size_bytes));
    server.begin_load();
    REQUIRE(server.load_goes_on());
    REQUIRE(server.begin(ram_of(size_bytes, "slow"), 1 << 20).ok());
    CHECK(server.begin(ram_of(size_bytes, "other")).error().code == "E_BUSY");
    CHECK(server.prepare().error().code == "E_NOT_READY");
    CHECK(server.commit().error().code == "E_NOT_READY");
    REQUIRE(server.until([&] { return server.detail("copied_bytes") != "0"; }));
    CHECK(server.detail("state") == "copying");
    CHECK(server.detail("limit_bytes_per_second") == "1048576");
    CHECK(server.load_goes_on());
    REQUIRE(server.cancel().ok());
    CHECK(server.devices() == std::set<std::string>{"n"});
    CHECK(server.cancel().error().code == "E_UNSUPPORTED");
    CHECK(server.load_goes_on());
    REQUIRE(server.begin(ram_of(2 * size_bytes, "larger")).ok());
    REQUIRE(server.becomes("copied"));
    REQUIRE(server.prepare().ok());
    REQUIRE(server.cancel().ok());
    CHECK(server.load_goes_on());
    REQUIRE(server.begin(ram_of(2 * size_bytes, "larger")).ok());
    REQUIRE(server.becomes("copied"));
    REQUIRE(server.prepare().ok());
    server.in([&] { CHECK(server.engine().resume_device("n").ok()); });  // the caller could not store it
    CHECK(server.load_goes_on());
    CHECK(server.commit().error().code == "E_NOT_READY");
    REQUIRE(server.prepare().ok());
    REQUIRE(server.commit().ok());
    CHECK(server.device("n").description.size_bytes == 2 * size_bytes);
    CHECK(server.load_goes_on());
    (void)server.end_load();
}

TEST_CASE("a destination that cannot be is refused with the reason, and nothing has changed") {
    testing::TemporaryFolder folder;
    Server server(ram_of(size_bytes));
    const auto refused = [&](const block::DeviceSpec& spec, const std::string& code,
                             const std::string& text) {
        const Outcome outcome = server.begin(spec);
        REQUIRE_FALSE(outcome.ok());
        CHECK(outcome.error().code == code);
        CHECK_MESSAGE(outcome.error().message.find(text) != std::string::npos, outcome.error().message);
        CHECK(server.devices() == std::set<std::string>{"n"});
        CHECK(server.device("n").kind == "ram");
    };
    refused(ram_of(size_bytes / 2, "m"), "E_INVALID", std::to_string(size_bytes / 2));
    block::DeviceSpec spec = ram_of(size_bytes, "m");
    spec.block_bytes = 512;
    refused(spec, "E_INVALID", "blocks of 512");
    refused(ram_of(size_bytes, "n"), "E_EXISTS", "belongs to another device");
    refused(file_at("/nowhere/at/all", size_bytes), "E_NOT_FOUND", "/nowhere");
    spec = {};
    spec.kind = "delay";
    spec.base = "n";
    refused(spec, "E_INVALID", "stands on it itself");
    spec.read_only = true;
    CHECK(server
              .ask([](engine::Engine& engine, engine::Engine::Done done) {
                  engine.begin_migration("nobody", {}, 0, std::move(done));
              })
              .error()
              .code == "E_NOT_FOUND");
}

TEST_CASE("a destination that fails stops the migration, and the hosts do not notice") {
    Server server(ram_of(size_bytes));
    server.in([&] { CHECK(server.engine().add_device(named("below", ram_of(size_bytes)), -1).ok()); });
    block::DeviceSpec bad;
    bad.kind = "error";
    bad.base = "below";
    bad.error_actions = {"write"};
    bad.error_offset = size_bytes / 2;
    server.begin_load();
    REQUIRE(server.begin(bad).ok());
    REQUIRE(server.becomes("failed"));
    CHECK(server.detail("reason").find("the destination cannot write at block") != std::string::npos);
    CHECK(server.device("n").state == "failed");
    CHECK(server.load_goes_on());
    CHECK(server.prepare().error().code == "E_NOT_READY");
    REQUIRE(server.cancel().ok());
    CHECK(server.device("n").state == "ok");
    CHECK(server.load_goes_on());
    (void)server.end_load();
}

TEST_CASE("a source that cannot be read somewhere stops the migration there, and serves the rest") {
    Server server(named("n", ram_of(size_bytes)));
    server.in([&] { CHECK(server.engine().add_device(named("m", ram_of(size_bytes)), -1).ok()); });
    block::DeviceSpec bad;
    bad.kind = "error";
    bad.base = "m";
    bad.error_actions = {"read"};
    bad.error_length = 4096;
    // The first and the last block of a step, and one within it.
    for (const std::uint64_t offset : {size_bytes / 2, size_bytes / 2 - 4096, std::uint64_t{1000} * 4096}) {
        bad.error_offset = offset;
        REQUIRE(server.replace(bad).ok());
        REQUIRE(server.begin(ram_of(size_bytes, "to" + std::to_string(offset))).ok());
        REQUIRE(server.becomes("failed"));
        CHECK(server.detail("reason") == "the source cannot be read at block " +
                                             std::to_string(offset / 4096) + " (byte " +
                                             std::to_string(offset) + "): medium_error");
        REQUIRE(server.cancel().ok());
        CHECK(server.device("n").kind == "error");
    }
    // A block that can be read again after a while costs nothing but the smaller steps.
    bad.error_count = 8;
    REQUIRE(server.replace(bad).ok());
    REQUIRE(server.begin(ram_of(size_bytes, "again")).ok());
    REQUIRE(server.becomes("copied"));
    REQUIRE(server.prepare().ok());
    REQUIRE(server.commit().ok());
    CHECK(server.device("n").kind == "ram");
}

TEST_CASE("a device is replaced under load; one that cannot take its place leaves it as it was") {
    testing::TemporaryFolder folder;
    Server server(file_at(folder.file("a"), size_bytes));
    server.begin_load();
    REQUIRE(server.load_goes_on());
    for (int round = 0; round < 3; ++round) {
        REQUIRE(server.replace(file_at(folder.file("a"), size_bytes)).ok());
        CHECK(server.load_goes_on());
    }
    CHECK(server.replace(file_at("/nowhere/at/all", size_bytes)).error().code == "E_NOT_FOUND");
    CHECK(server.load_goes_on());
    CHECK(server.replace(ram_of(size_bytes / 2, "small")).error().code == "E_INVALID");
    CHECK(server.device("n").kind == "file");
    CHECK(server.load_goes_on());
    (void)server.end_load();
}

TEST_CASE("a suspended device holds its hosts back until it is resumed, through a migration too") {
    Server server(ram_of(size_bytes));
    server.begin_load();
    REQUIRE(server.load_goes_on());
    server.in([&] { CHECK(server.engine().suspend_device("n").ok()); });
    CHECK(server.device("n").suspended);
    REQUIRE(server.until([&] { return server.device("n").counters.in_flight >= 8; }));
    // A migration begins and ends meanwhile: the suspension stays the volume's.
    REQUIRE(server.begin(ram_of(size_bytes, "to")).ok());
    CHECK(server.device("n").suspended);
    CHECK_FALSE(server.device("n@source").suspended);
    REQUIRE(server.becomes("copied"));
    CHECK(server.device("n").counters.completed[1] == 0);
    REQUIRE(server.prepare().ok());
    REQUIRE(server.commit().ok());
    CHECK(server.device("n").suspended);
    CHECK(server.device("n").counters.in_flight >= 8);
    server.in([&] { CHECK(server.engine().resume_device("n").ok()); });
    CHECK(server.load_goes_on());
    (void)server.end_load();
    server.in([&] {
        CHECK(server.engine().suspend_device("nobody").error().code == "E_NOT_FOUND");
        CHECK(server.engine().resume_device("nobody").error().code == "E_NOT_FOUND");
    });
}

TEST_CASE("a server stops in the middle of a migration, and with one that is prepared") {
    for (const bool prepared : {false, true}) {
        CAPTURE(prepared);
        Server server(ram_of(size_bytes));
        REQUIRE(server.begin(ram_of(size_bytes, "to"), prepared ? 0 : 1 << 20).ok());
        if (prepared) {
            REQUIRE(server.becomes("copied"));
            REQUIRE(server.prepare().ok());
        }
    }
}

TEST_CASE("a device of another kind knows no verbs of a linear volume, and the engine passes commands on") {
    Server server(ram_of(size_bytes));
    server.in([&] {
        CHECK(server.engine().add_device(named("a", ram_of(size_bytes)), -1).ok());
        CHECK(server.engine().add_device(named("b", ram_of(size_bytes)), -1).ok());
        block::DeviceSpec linear;
        linear.name = "v";
        linear.kind = "linear";
        linear.parts = {{"a", 0, 0}};
        CHECK(server.engine().add_device(linear, -1).ok());
    });
    const auto grow = [&](const std::string& name) {
        return server.ask([&](engine::Engine& engine, engine::Engine::Done done) {
            engine.device_command(name, {"grow", {{"device", "b"}}}, std::move(done));
        });
    };
    CHECK(grow("n").error().code == "E_UNSUPPORTED");
    CHECK(grow("nobody").error().code == "E_NOT_FOUND");
    CHECK(grow("v").ok());
    CHECK(server.device("v").description.size_bytes == 2 * size_bytes);
    CHECK(server.device("v").parts == std::vector<std::string>{"a", "b"});
    CHECK(server.device("a").claimed_by == std::vector<std::string>{"device v"});
}

}  // namespace
