// Planned replacements under load, with the real keeper: by the same version, by one whose arena has another
// layout, by one that fails; and kills in between. The hosts see no lost connection, no error, no wrong byte.
//
// KEEL_UPGRADES sets the number of replacements (default 50), KEEL_SEED the seed.

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "loads.h"
#include "real_keeper.h"

namespace crash {

namespace {

using Ready = RealKeeper::Ready;

bool can_run() {
    if (const std::string missing = RealKeeper::missing(); !missing.empty()) {
        MESSAGE("not run, because it was not built: " << missing);
        return false;
    }
    return true;
}

void pause_at_random(std::mt19937_64& random) { usleep(static_cast<useconds_t>(random() % 50'000)); }

struct Pauses {
    std::vector<std::uint64_t> us;  // from the death of the old process until service went on
    std::uint64_t executed = 0;
    void print() {
        std::sort(us.begin(), us.end());
        std::fprintf(stderr,
                     "replacements %zu: without a server %.1f ms (median), %.1f ms (longest); commands "
                     "executed again %lu\n",
                     us.size(), static_cast<double>(us[us.size() / 2]) / 1000,
                     static_cast<double>(us.back()) / 1000, executed);
    }
};

void check_refused(const RealKeeper& keeper) {
    for (const std::string& text : keeper.refused) {
        std::fprintf(stderr, "%s\n", text.c_str());
    }
    CHECK(keeper.refused.empty());
}

// `other_layout`: each replacement has the layout that its predecessor has not.
void replace_under_load(const std::vector<std::string>& options, std::uint64_t random_seed,
                        std::uint64_t upgrades, bool other_layout) {
    std::mt19937_64 random(random_seed);
    RealKeeper keeper(options);
    keeper.install(1);
    REQUIRE(keeper.start());
    Loads loads(keeper.port());
    loads.wait_for_traffic();
    Pauses pauses;
    for (std::uint64_t done = 0; done < upgrades && !loads.any_ended(); ++done) {
        pause_at_random(random);
        const int layout = other_layout && done % 2 == 0 ? 2 : 1;
        if (other_layout) {
            keeper.install(layout);
        }
        keeper.ask_for_upgrade();
        Ready ready;
        REQUIRE(keeper.wait_ready(ready));
        CHECK(ready.layout == layout);
        CHECK(ready.carried == 12);
        CHECK(ready.restarts == done + 1);
        pauses.us.push_back(ready.pause_us);
        pauses.executed += ready.executed;
    }
    loads.check();
    check_refused(keeper);
    CHECK(pauses.us.size() == upgrades);
    pauses.print();
    loads.print_pauses(upgrades);
}

}  // namespace

TEST_CASE("hosts notice nothing when the server is replaced by a version with another layout") {
    if (can_run()) {
        replace_under_load({"--standby=off"}, seed(), from_environment("KEEL_UPGRADES", 50), true);
    }
}

TEST_CASE("hosts notice nothing when the server is replaced by the same version") {
    if (can_run()) {
        replace_under_load({"--standby=on", "--standby-delay=0.1"}, seed() + 1,
                           from_environment("KEEL_UPGRADES", 50) / 2, false);
    }
}

TEST_CASE("a version that fails, before it serves or while it takes over, costs the hosts nothing") {
    if (!can_run()) {
        return;
    }
    std::mt19937_64 random(seed() + 2);
    RealKeeper keeper({"--standby=off", "--warm-time=5", "--short-life=0"});
    keeper.install(1);
    REQUIRE(keeper.start());
    Loads loads(keeper.port());
    loads.wait_for_traffic();
    const char* points[] = {"engine.go.rebuilt:1",       "engine.go.between_stores:1",
                            "engine.adopt.connection:1", "engine.adopt.connection:7",
                            "tcp.recovery.command:3",    "tcp.recovery.execute:1"};
    int layout = 1;
    for (const char* point : points) {
        pause_at_random(random);
        keeper.install(3 - layout, "", true);
        keeper.ask_for_upgrade();
        REQUIRE(keeper.wait_failed());
        pause_at_random(random);
        layout = 3 - layout;
        keeper.install(layout, point);
        keeper.ask_for_upgrade();
        Ready ready;
        REQUIRE(keeper.wait_ready(ready));
        CHECK(ready.layout == layout);
        CHECK(ready.carried == 12);
    }
    loads.check();
    check_refused(keeper);
    CHECK(keeper.failed.size() == std::size(points));
}

TEST_CASE("kills at any moment of a replacement by the same version cost the hosts nothing") {
    if (!can_run()) {
        return;
    }
    std::mt19937_64 random(seed() + 3);
    const std::uint64_t rounds = from_environment("KEEL_UPGRADES", 50) / 2;
    RealKeeper keeper({"--standby=off", "--short-life=0"});
    keeper.install(1);
    REQUIRE(keeper.start());
    Loads loads(keeper.port());
    loads.wait_for_traffic();
    Ready ready;
    keeper.ask_for_upgrade();
    REQUIRE(keeper.wait_ready(ready));
    for (std::uint64_t round = 0; round < rounds && !loads.any_ended(); ++round) {
        pause_at_random(random);
        keeper.ask_for_upgrade();
        usleep(static_cast<useconds_t>(random() % 40'000));
        keeper.kill_server(ready.pid);
        REQUIRE(keeper.wait_ready(ready));
        while (keeper.wait_ready(ready, 200)) {  // the one that was killed may have been replaced already
        }
    }
    loads.check();
    check_refused(keeper);
}

TEST_CASE("a version with another layout that was installed and not restarted takes over in time") {
    if (!can_run()) {
        return;
    }
    RealKeeper keeper({"--standby=on", "--standby-delay=0.1", "--short-life=0"});
    keeper.install(1);
    REQUIRE(keeper.start());
    Ready ready;
    keeper.ask_for_upgrade();
    REQUIRE(keeper.wait_ready(ready));
    Loads loads(keeper.port());
    loads.wait_for_traffic();
    REQUIRE(keeper.wait_standby());
    int layout = 1;
    for (int round = 0; round < 4 && !loads.any_ended(); ++round) {
        layout = 3 - layout;
        keeper.install(layout);
        keeper.kill_server(ready.pid);
        REQUIRE(keeper.wait_ready(ready));  // the standby of the version that was there
        CHECK(ready.layout == 3 - layout);
        CHECK(ready.carried == 12);
        REQUIRE(keeper.wait_ready(ready));  // and at once the other one
        CHECK(ready.layout == layout);
        CHECK(ready.carried == 12);
        REQUIRE(keeper.wait_standby());
    }
    loads.check();
    check_refused(keeper);
}

TEST_CASE("without a description, a version with another layout refuses the connections and says why") {
    if (!can_run()) {
        return;
    }
    RealKeeper keeper({"--standby=off", "--short-life=0"});
    keeper.install(1);
    REQUIRE(keeper.start());
    Ready ready;
    keeper.ask_for_upgrade();
    REQUIRE(keeper.wait_ready(ready));
    Loads loads(keeper.port());
    loads.wait_for_traffic();
    keeper.install(2);
    keeper.kill_server(ready.pid);
    REQUIRE(keeper.wait_ready(ready));
    CHECK(ready.layout == 2);
    CHECK(ready.carried == 0);
    CHECK(keeper.refused.size() == 12);
    for (const std::string& text : keeper.refused) {
        CHECK(text.find("another layout") != std::string::npos);
    }
    for (auto& load : loads.all) {
        const LoadResult& result = load->finish();
        CHECK(result.errors != 0);
        for (const std::string& text : result.error_texts) {
            CHECK_MESSAGE(text.find("connection") != std::string::npos, text);
        }
    }
}

}  // namespace crash
