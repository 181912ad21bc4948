#include "engine/keeper_client.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "reactor/uring_kernel.h"

namespace {

using durable::KeeperMessage;
using durable::KeeperReceive;
using durable::KeeperSend;
using engine::KeeperClient;
using engine::KeeperGo;
using engine::KeeperInfo;
using engine::KeeperItem;

constexpr base::Nanoseconds patience = 10 * base::second;

struct Recorder : engine::KeeperEvents {
    void keeper_go(const KeeperGo& go) override {
        heard.push_back("go " + go.reason + " " + go.exit + " " + std::to_string(go.died_ns) + " " +
                        std::to_string(go.previous_pid) + " " + std::to_string(go.restarts) +
                        (go.killed ? " killed" : ""));
    }
    void keeper_item(const KeeperItem& item) override { take("item", item); }
    void keeper_items_complete() override { heard.push_back("complete"); }
    void keeper_connection(const KeeperItem& connection) override { take("connection", connection); }
    void keeper_forgotten(const std::string& kind, const std::string& name) override {
        heard.push_back("forgotten " + kind + " " + name);
    }
    void keeper_refused(const std::string& what, const std::string& reason) override {
        heard.push_back("refused " + what + ": " + reason);
    }
    void keeper_quiesce(base::Nanoseconds deadline, bool describe) override {
        heard.push_back(deadline <= base::monotonic_now() ? "quiesce late"
                        : describe                        ? "quiesce"
                                                          : "quiesce undescribed");
    }
    void keeper_restart_failed(const std::string& reason) override { heard.push_back("failed " + reason); }
    void keeper_info(const KeeperInfo& info) override {
        heard.push_back("info " + std::to_string(info.pid) + " " + info.standby + " " + info.last_reason);
    }
    void keeper_lost() override { heard.push_back("lost"); }

    void take(const char* what, const KeeperItem& item) {
        heard.push_back(std::string(what) + " " + std::to_string(static_cast<int>(item.kind)) + " " +
                        item.name + " " + std::to_string(item.id));
        CHECK(fcntl(item.descriptor, F_GETFD) == FD_CLOEXEC);
        close(item.descriptor);
    }
    bool has(const std::string& text) const {
        return std::find(heard.begin(), heard.end(), text) != heard.end();
    }
    std::vector<std::string> heard;
};

struct Fixture {
    Fixture() {
        int ends[2];
        REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
        keeper = ends[0];
        client = std::make_unique<KeeperClient>(ends[1]);
    }
    ~Fixture() {
        bool stopped = false;
        client->stop([&] { stopped = true; });
        CHECK(run_until([&] { return stopped; }));
        client.reset();
        if (keeper >= 0) {
            close(keeper);
        }
    }

    template <typename Condition>
    bool run_until(Condition condition) {
        const base::Nanoseconds deadline = base::monotonic_now() + patience;
        while (!condition()) {
            if (base::monotonic_now() > deadline) {
                return false;
            }
            reactor.run_once(base::monotonic_now() + 10 * base::millisecond);
        }
        return true;
    }

    void say(const KeeperMessage& message, bool with_descriptor = false) {
        const int file = with_descriptor ? memfd_create("test", MFD_CLOEXEC) : -1;
        REQUIRE(durable::send_keeper_message(keeper, message, file) == KeeperSend::sent);
        if (file >= 0) {
            close(file);
        }
    }
    KeeperMessage item(const char* kind, const char* name, std::uint64_t id) {
        return KeeperMessage("ITEM").add("kind", kind).add("name", name).add("id", id);
    }
    // The next message other than ALIVE, with "+" if a descriptor came with it; empty if there is none.
    std::string heard_by_keeper() {
        for (;;) {
            const KeeperReceive received = durable::receive_keeper_message(keeper);
            if (received.outcome != KeeperReceive::Outcome::message) {
                return "";
            }
            if (received.descriptor >= 0) {
                close(received.descriptor);
            }
            if (received.message->verb() != "ALIVE") {
                return std::string(received.message->packet()) + (received.descriptor >= 0 ? " +" : "");
            }
        }
    }

    std::unique_ptr<reactor::UringKernel> kernel = reactor::UringKernel::make().take();
    reactor::Reactor reactor{*kernel};
    Recorder recorder;
    int keeper = -1;
    std::unique_ptr<KeeperClient> client;
};

TEST_CASE_FIXTURE(Fixture, "begin gives role and memory; what came with them is told after attach") {
    say(KeeperMessage("ROLE").add("role", "active").add("generation", 7));
    say(KeeperMessage("GO")
            .add("reason", "crash")
            .add("exit", "signal:9")
            .add("died_ns", 5)
            .add("killed", 1)
            .add("previous_pid", 3)
            .add("restarts", 2));
    say(item("memory", "arena", 1), true);
    say(item("memory", "ram a", 4), true);
    say(KeeperMessage("END").add("of", "memory").add("count", 2));
    say(item("listener", "main", 2), true);
    say(item("connection", "main", 3), true);
    say(KeeperMessage("END").add("of", "all").add("count", 4));
    auto begun = client->begin("1.0", base::monotonic_now() + patience);
    REQUIRE(begun);
    CHECK_FALSE(begun.value().standby);
    CHECK(begun.value().generation == 7);
    REQUIRE(begun.value().memory.size() == 2);
    CHECK(begun.value().memory[1].name == "ram a");
    for (const KeeperItem& memory : begun.value().memory) {
        CHECK(close(memory.descriptor) == 0);
    }
    CHECK(heard_by_keeper().starts_with("HELLO "));
    client->attach(reactor, recorder);
    CHECK(run_until([&] { return recorder.has("complete"); }));
    const std::vector<std::string> expected = {"go crash signal:9 5 3 2 killed", "item 1 main 2",
                                               "item 2 main 3", "complete"};
    CHECK(recorder.heard == expected);
}

TEST_CASE_FIXTURE(Fixture, "begin fails when the keeper says nothing or leaves") {
    say(KeeperMessage("ROLE").add("role", "standby"));
    const auto silent = client->begin("1.0", base::monotonic_now() + 20 * base::millisecond);
    REQUIRE_FALSE(silent);
    CHECK(silent.error().code == "E_TIMEOUT");
    say(item("memory", "arena", 1), true);
    close(keeper);
    keeper = -1;
    const auto left = client->begin("1.0", base::monotonic_now() + patience);
    REQUIRE_FALSE(left);
    CHECK(left.error().code == "E_IO");
}

TEST_CASE_FIXTURE(Fixture, "every message of the keeper reaches its callback, garbage none") {
    client->attach(reactor, recorder);
    REQUIRE(send(keeper, "garbage", 7, 0) == 7);
    say(KeeperMessage("UNKNOWN").add("a", "b"), true);
    say(KeeperMessage("ITEM").add("kind", "memory").add("name", "without"));
    say(KeeperMessage("CONNECTION").add("id", 9).add("name", "main"), true);
    say(item("memory", "new", 10), true);
    say(KeeperMessage("FORGOTTEN").add("kind", "listener").add("name", "main"));
    say(KeeperMessage("REFUSED")
            .add("verb", "STORE")
            .add("kind", "memory")
            .add("name", "x")
            .add("reason", "exists"));
    say(KeeperMessage("REFUSED").add("verb", "RESTART").add("reason", "under way"));
    say(KeeperMessage("QUIESCE").add("deadline_ms", 5000));
    say(KeeperMessage("QUIESCE").add("deadline_ms", 5000).add("describe", 0));
    say(KeeperMessage("RESTART-FAILED").add("reason", "it ended"));
    say(KeeperMessage("KEEPER-INFO").add("pid", 5).add("standby", "warm").add("last_reason", "crash"));
    close(keeper);
    keeper = -1;
    CHECK(run_until([&] { return recorder.has("lost"); }));
    const std::vector<std::string> expected = {"connection 2 main 9",        "item 0 new 10",
                                               "forgotten listener main",    "refused STORE memory x: exists",
                                               "refused RESTART: under way", "quiesce",
                                               "quiesce undescribed",        "failed it ended",
                                               "info 5 warm crash",          "lost"};
    CHECK(recorder.heard == expected);
    CHECK_FALSE(client->connected());
    CHECK_FALSE(client->ready());
}

TEST_CASE_FIXTURE(Fixture, "what the server says arrives as it is") {
    client->attach(reactor, recorder);
    const int file = memfd_create("test", MFD_CLOEXEC);
    CHECK(client->store_memory("ram a", file, true));
    CHECK(client->store_listener("main", file));
    CHECK(client->forget_memory("ram a"));
    CHECK(client->forget_listener("main"));
    CHECK(client->forget_connection(12));
    CHECK(client->standby(true));
    CHECK(client->ready());
    CHECK(client->status("all well"));
    CHECK(client->restart("new version"));
    CHECK(client->quiesced());
    CHECK(client->stopping());
    CHECK(client->request_info());
    close(file);
    CHECK(heard_by_keeper() == "STORE kind=memory name=ram%20a replace=1 +");
    CHECK(heard_by_keeper() == "STORE kind=listener name=main +");
    CHECK(heard_by_keeper() == "FORGET kind=memory name=ram%20a");
    CHECK(heard_by_keeper() == "FORGET kind=listener name=main");
    CHECK(heard_by_keeper() == "FORGET kind=connection id=12");
    CHECK(heard_by_keeper() == "STANDBY layout=other");
    CHECK(heard_by_keeper() == "READY");
    CHECK(heard_by_keeper() == "STATUS text=all%20well");
    CHECK(heard_by_keeper() == "RESTART reason=new%20version");
    CHECK(heard_by_keeper() == "QUIESCED");
    CHECK(heard_by_keeper() == "STOPPING");
    CHECK(heard_by_keeper() == "INFO");
    CHECK(heard_by_keeper().empty());
}

TEST_CASE_FIXTURE(Fixture,
                  "messages that the keeper does not take at once wait, with their descriptors, in order") {
    client->attach(reactor, recorder);
    const int file = memfd_create("test", MFD_CLOEXEC);
    constexpr int count = 2000;
    for (int i = 0; i < count; ++i) {
        REQUIRE(client->store_memory(std::to_string(i), file, false));
    }
    close(file);
    int next = 0;
    CHECK(run_until([&] {
        for (std::string heard = heard_by_keeper(); !heard.empty(); heard = heard_by_keeper()) {
            CHECK(heard == "STORE kind=memory name=" + std::to_string(next++) + " replace=0 +");
        }
        return next == count;
    }));
}

TEST_CASE_FIXTURE(Fixture, "a keeper that reads nothing costs bounded memory") {
    client->attach(reactor, recorder);
    int taken = 0;
    while (client->status("x") && taken < 100'000) {
        ++taken;
    }
    CHECK(taken < 10'000);
    CHECK(client->lost_messages() == 1);
    // The descriptor queue and its poll are given up in order by the fixture.
}

TEST_CASE_FIXTURE(Fixture, "the reactor says that it is alive, about once a second") {
    client->attach(reactor, recorder);
    const auto alive = [&] {
        const KeeperReceive received = durable::receive_keeper_message(keeper);
        return received.outcome == KeeperReceive::Outcome::message &&
               received.message->packet() == "ALIVE source=reactor";
    };
    CHECK(run_until(alive));
    const base::Nanoseconds first = base::monotonic_now();
    CHECK(run_until(alive));
    CHECK(base::monotonic_now() - first > 500 * base::millisecond);
}

TEST_CASE_FIXTURE(Fixture, "stopping right after attaching leaves nothing behind") {
    client->attach(reactor, recorder);  // the fixture stops it before the reactor ran at all
}

TEST_CASE("the channel comes from the environment once, and no child gets it") {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
    setenv("KEEL_KEEPER_FD", std::to_string(ends[1]).c_str(), 1);
    CHECK(KeeperClient::channel_from_environment() == ends[1]);
    CHECK(fcntl(ends[1], F_GETFD) == FD_CLOEXEC);
    CHECK(KeeperClient::channel_from_environment() == -1);
    for (const char* wrong : {"", "x", "3x", "-1", "1", "99999", "99999999999999999999"}) {
        setenv("KEEL_KEEPER_FD", wrong, 1);
        CHECK(KeeperClient::channel_from_environment() == -1);
    }
    close(ends[0]);
    close(ends[1]);
}

}  // namespace
