// The server's side of the shared area, with another side that writes whatever it likes.

#include "block/tcmu/channel.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <vector>

namespace {

using block::tcmu::Area;
using block::tcmu::Channel;
using block::tcmu::CompletionEntry;
using block::tcmu::Facts;
using block::tcmu::Operation;
using block::tcmu::RequestEntry;
using block::tcmu::Stage;
using Outcome = Channel::Outcome;

// The other side: the same memory, mapped again.
struct Other {
    explicit Other(const Channel& channel)
        : area(static_cast<Area*>(
              mmap(nullptr, sizeof(Area), PROT_READ | PROT_WRITE, MAP_SHARED, channel.descriptor(), 0))) {}
    Other(const Other&) = delete;
    Other& operator=(const Other&) = delete;
    ~Other() { munmap(area, sizeof(Area)); }

    void complete(std::uint32_t slot, std::uint32_t generation, std::int32_t status = 0) {
        const std::uint32_t tail = area->completions_tail.load();
        area->completions[tail % block::tcmu::ring_entries] = {slot, generation, status, 0};
        area->completions_tail.store(tail + 1);
    }
    void complete(const RequestEntry& entry) { complete(entry.slot, entry.generation); }
    const RequestEntry& request(std::uint32_t number) const {
        return area->requests[number % block::tcmu::ring_entries];
    }

    Area* area;
};

std::unique_ptr<Channel> made() {
    auto channel = Channel::make();
    REQUIRE(channel.ok());
    return channel.take();
}

RequestEntry a_flush() {
    RequestEntry entry{};
    entry.operation = Operation::flush;
    return entry;
}

TEST_CASE("a tcmu request is completed by its slot and generation, in any order, and frees its slot") {
    const auto channel = made();
    Other other(*channel);
    std::mt19937_64 random(1);
    for (std::uint32_t round = 0; round < 40; ++round) {
        std::vector<RequestEntry> requests;
        while (channel->has_free_slot()) {
            const std::uint32_t number = other.area->requests_tail.load();
            const std::uint32_t slot = channel->submit(a_flush());
            requests.push_back(other.request(number));
            REQUIRE(requests.back().slot == slot);
        }
        REQUIRE(requests.size() == block::tcmu::slots_max);
        std::shuffle(requests.begin(), requests.end(), random);
        for (const RequestEntry& request : requests) {
            other.complete(request);
        }
        Channel::Completion completion;
        for (const RequestEntry& request : requests) {
            REQUIRE(channel->take(completion) == Outcome::completed);
            CHECK(completion.slot == request.slot);
        }
        CHECK(channel->take(completion) == Outcome::none);
        CHECK(channel->in_flight() == 0);
    }
}

TEST_CASE("a tcmu completion that names no request in flight is a violation and completes nothing") {
    struct Row {
        const char* what;
        void (*spoil)(Other&, const RequestEntry&);
        std::uint32_t completed;  // before the violation
    };
    const Row rows[] = {
        {"a slot beyond the last",
         [](Other& o, const RequestEntry&) { o.complete(block::tcmu::slots_max, 1); }, 0},
        {"the largest number", [](Other& o, const RequestEntry&) { o.complete(~0u, ~0u); }, 0},
        {"a slot that is free",
         [](Other& o, const RequestEntry& r) { o.complete((r.slot + 1) % block::tcmu::slots_max, 1); }, 0},
        {"an older generation", [](Other& o, const RequestEntry& r) { o.complete(r.slot, r.generation - 1); },
         0},
        {"a later generation", [](Other& o, const RequestEntry& r) { o.complete(r.slot, r.generation + 1); },
         0},
        {"the same one twice",
         [](Other& o, const RequestEntry& r) {
             o.complete(r);
             o.complete(r);
         },
         0},
        {"more than there are", [](Other& o, const RequestEntry&) { o.area->completions_tail.store(2); }, 0},
        {"a tail that went back", [](Other& o, const RequestEntry&) { o.area->completions_tail.store(~0u); },
         0},
    };
    for (const Row& row : rows) {
        CAPTURE(row.what);
        const auto channel = made();
        Other other(*channel);
        channel->submit(a_flush());
        row.spoil(other, other.request(0));
        Channel::Completion completion;
        CHECK(channel->take(completion) == Outcome::violation);
        CHECK_FALSE(channel->why().empty());
        CHECK(channel->in_flight() == 1);
    }
}

TEST_CASE("a tcmu completion that comes again after its request has ended is a violation") {
    const auto channel = made();
    Other other(*channel);
    channel->submit(a_flush());
    const RequestEntry first = other.request(0);
    other.complete(first);
    Channel::Completion completion;
    REQUIRE(channel->take(completion) == Outcome::completed);
    other.complete(first);
    CHECK(channel->take(completion) == Outcome::violation);
    // Its slot is in use again, by another request.
    const auto fresh = made();
    Other again(*fresh);
    fresh->submit(a_flush());
    const RequestEntry old = again.request(0);
    again.complete(old);
    REQUIRE(fresh->take(completion) == Outcome::completed);
    REQUIRE(fresh->submit(a_flush()) == old.slot);
    again.complete(old);
    CHECK(fresh->take(completion) == Outcome::violation);
    CHECK(fresh->in_flight() == 1);
}

TEST_CASE("whatever stands in the tcmu area, no request completes twice and nothing breaks") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (int round = 0; round < 300; ++round) {
        const auto channel = made();
        Other other(*channel);
        std::uint32_t submitted = 0;
        std::uint32_t completed = 0;
        for (int step = 0; step < 200; ++step) {
            const auto choice = random() % 6;
            if (choice < 2 && channel->has_free_slot()) {
                channel->submit(a_flush());
                ++submitted;
            } else if (choice == 2) {
                other.complete(other.request(static_cast<std::uint32_t>(random() % 64)));
            } else if (choice == 3 && random() % 8 == 0) {
                other.complete(static_cast<std::uint32_t>(random() % 140),
                               static_cast<std::uint32_t>(random() % 4));
            } else if (choice == 4 && random() % 32 == 0) {
                // All that is not data.
                auto* bytes = reinterpret_cast<std::uint8_t*>(other.area);
                const std::size_t end = offsetof(Area, data);
                for (std::size_t at = random() % 64; at < end; at += 1 + random() % 512) {
                    bytes[at] = static_cast<std::uint8_t>(random());
                }
            }
            Channel::Completion completion;
            Outcome outcome = channel->take(completion);
            while (outcome == Outcome::completed) {
                ++completed;
                REQUIRE(completion.slot < block::tcmu::slots_max);
                outcome = channel->take(completion);
            }
            REQUIRE(submitted == completed + channel->in_flight());
            std::string problem;
            const auto facts = channel->facts(problem);
            CHECK((!facts || facts->size_bytes % facts->block_bytes == 0));
            CHECK(channel->stage() <= Stage::refused);
            CHECK(channel->text().size() <= block::tcmu::text_bytes);
            if (outcome == Outcome::violation) {
                break;
            }
        }
    }
}

TEST_CASE("facts of a tcmu handler that cannot be are refused with the reason") {
    const auto channel = made();
    Other other(*channel);
    const Facts good{1 << 20, 512, 0, 1, 1, 1, 1, 0, 0, {}};
    std::string problem;
    other.area->facts = good;
    CHECK(channel->facts(problem).has_value());
    const auto refused = [&](Facts facts, const char* reason) {
        other.area->facts = facts;
        problem.clear();
        CHECK_FALSE(channel->facts(problem).has_value());
        CHECK(problem.find(reason) != std::string::npos);
    };
    Facts facts = good;
    facts.block_bytes = 0;
    refused(facts, "a block has 0 bytes");
    facts.block_bytes = 1024;
    refused(facts, "1024");
    facts = good;
    facts.size_bytes = 0;
    refused(facts, "size 0");
    facts.size_bytes = 1000;
    refused(facts, "1000");
    facts.size_bytes = ~std::uint64_t{0} - 511;
    refused(facts, "size");
    facts = good;
    facts.unmap_bytes_max = 100;
    refused(facts, "unmaps of 100");
}

TEST_CASE("text from a tcmu handler ends somewhere and has no control characters") {
    const auto channel = made();
    Other other(*channel);
    std::memset(other.area->text, 'x', block::tcmu::text_bytes);
    CHECK(channel->text().size() == block::tcmu::text_bytes);
    std::strcpy(other.area->text, "a\x1b[31m\nb");
    CHECK(channel->text() == "a [31m b");
}

TEST_CASE("the tcmu area cannot be made smaller or larger by who it is shared with") {
    const auto channel = made();
    CHECK(ftruncate(channel->descriptor(), 4096) != 0);
    CHECK(ftruncate(channel->descriptor(), sizeof(Area) * 2) != 0);
}

}  // namespace
