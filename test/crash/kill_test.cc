// SIGKILL under load: the server dies at random and at every marked step, is replaced, and the initiator sees
// no lost connection, no error, no wrong byte and each command completed once.
//
// KEEL_KILLS sets the number of random kills (default 60), KEEL_SEED the seed; both are printed.

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "keeper_stand_in.h"
#include "loads.h"

namespace crash {

namespace {

void kill_at_random(KeeperStandIn& keeper, std::uint64_t random_seed, std::uint64_t kills) {
    std::mt19937_64 random(random_seed);
    REQUIRE(keeper.start(""));
    Loads loads(keeper.port());
    loads.wait_for_traffic();
    std::uint64_t done = 0;
    for (; done < kills && !loads.any_ended(); ++done) {
        usleep(static_cast<useconds_t>(random() % 30'000));
        REQUIRE(keeper.kill_and_reap());
        // Now and then recovery itself is killed.
        if (random() % 8 == 0) {
            std::thread killer;
            const std::string point = "*:" + std::to_string(1 + random() % 200);
            if (!keeper.start(point)) {
                (void)keeper.wait_for_death(1000);
                REQUIRE(keeper.start(""));
            }
        } else {
            REQUIRE(keeper.start(""));
        }
    }
    usleep(100'000);
    if (!keeper.alive()) {
        REQUIRE(keeper.start(""));
    }
    loads.check();
    for (const std::string& text : keeper.refused) {
        std::fprintf(stderr, "refused: %s\n", text.c_str());
    }
    CHECK(keeper.refused.empty());
    CHECK(done == kills);
    CHECK(keeper.executed > 0);
    std::fprintf(stderr, "random kills %lu, connections carried %lu, commands executed again %lu\n", done,
                 keeper.carried, keeper.executed);
}

}  // namespace

TEST_CASE("hosts notice nothing when the server is killed at random") {
    KeeperStandIn keeper;
    kill_at_random(keeper, seed(), from_environment("KEEL_KILLS", 60));
}

TEST_CASE("hosts notice nothing when the server is killed at random while commands wait for memory") {
    KeeperStandIn keeper(data_bytes_short);
    kill_at_random(keeper, seed() + 3, from_environment("KEEL_KILLS", 60) / 2);
}

TEST_CASE("hosts notice nothing when the server dies at a marked step") {
    std::mt19937_64 random(seed() + 1);
    const char* points[] = {
        "tcp.receive.before_commit",
        "tcp.receive.after_commit",
        "tcp.receive.arrived",
        "tcp.receive.ready",
        "tcp.receive.buffer",
        "tcp.receive.from_stream",
        "tcp.transmit.before_tail",
        "tcp.transmit.after_tail",
        "tcp.transmit.sent",
        "tcp.recovery.command",
        "tcp.recovery.execute",
        "engine.adopt.connection",
        "command_before_done",
        "command_done",
        "command_freed",
    };
    KeeperStandIn keeper(data_bytes_short);
    REQUIRE(keeper.start(""));
    Loads loads(keeper.port());
    loads.wait_for_traffic();
    std::uint64_t died = 0;
    const std::uint64_t rounds = from_environment("KEEL_POINT_ROUNDS", 3);
    for (std::uint64_t round = 0; round < rounds && !loads.any_ended(); ++round) {
        for (const char* point : points) {
            REQUIRE(keeper.kill_and_reap());
            const std::uint64_t limit = std::string(point).find("recovery") != std::string::npos ||
                                                std::string(point).find("adopt") != std::string::npos
                                            ? 8
                                            : 3000;
            const bool started =
                keeper.start(std::string(point) + ":" + std::to_string(1 + random() % limit));
            // It dies, or so much was done without it that this step is not reached now.
            const std::uint64_t enough = loads.completed() + 20'000;
            bool dead = keeper.wait_for_death(started ? 400 : 20'000);
            for (int more = 0; started && !dead && more < 50 && loads.completed() < enough; ++more) {
                dead = keeper.wait_for_death(200);
            }
            if (dead) {
                ++died;
                REQUIRE(keeper.start(""));
            } else if (!started) {
                FAIL("the server did not start");
            }
        }
    }
    if (!keeper.alive()) {
        REQUIRE(keeper.start(""));
    }
    loads.check();
    CHECK(keeper.refused.empty());
    CHECK(died > rounds * std::size(points) / 2);
    std::fprintf(stderr, "deaths at marked steps %lu\n", died);
}

TEST_CASE("a block that is being written when the server dies is never seen half written") {
    std::mt19937_64 random(seed() + 2);
    KeeperStandIn keeper;
    REQUIRE(keeper.start(""));
    Loads loads(keeper.port(), true);
    loads.wait_for_traffic();
    const std::uint64_t rounds = 40 * from_environment("KEEL_POINT_ROUNDS", 3);
    std::uint64_t died = 0;
    for (std::uint64_t round = 0; round < rounds && !loads.any_ended(); ++round) {
        REQUIRE(keeper.kill_and_reap());
        const bool started = keeper.start("ram.write.half:" + std::to_string(1 + random() % 2000));
        if (keeper.wait_for_death(20'000)) {
            ++died;
            REQUIRE(keeper.start(""));
        } else if (!started) {
            FAIL("the server did not start");
        }
    }
    loads.check();
    CHECK(keeper.refused.empty());
    CHECK(died == rounds);
    std::fprintf(stderr, "deaths within a write %lu\n", died);
}

}  // namespace crash
