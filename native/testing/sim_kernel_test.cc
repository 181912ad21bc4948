#include "testing/sim_kernel.h"

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "testing/block_media.h"
#include "testing/block_rig.h"

namespace {

using block::Action;
using block::Device;
using block::DeviceSpec;
using block::Status;
using testing::BlockRig;
using testing::Pages;
using testing::SimKernel;
using testing::TestRequest;

constexpr std::uint64_t blocks = 64;
constexpr std::uint64_t block_bytes = 4096;

struct Counted : reactor::Operation {
    Counted() {
        complete = [](reactor::Operation& operation, std::int32_t result_) {
            auto& self = static_cast<Counted&>(operation);
            ++self.completed;
            self.result = result_;
        };
    }
    int completed = 0;
    std::int32_t result = 0;
};

SimKernel::Options seeded(std::uint64_t seed) {
    SimKernel::Options options;
    options.seed = seed;
    return options;
}

DeviceSpec file_at(const std::string& path) {
    DeviceSpec spec;
    spec.name = "disk";
    spec.kind = "file";
    spec.path = path;
    spec.create = true;
    spec.size_bytes = blocks * block_bytes;
    return spec;
}

// Every 8 bytes of a block hold the same value, so a torn block shows.
void stamp(std::byte* block, std::uint64_t value) {
    for (std::uint64_t i = 0; i < block_bytes; i += 8) {
        std::memcpy(block + i, &value, 8);
    }
}

TEST_CASE("virtual time jumps to what happens next") {
    SimKernel kernel(seeded(1));
    const base::Nanoseconds start = kernel.now();
    kernel.wait(start + 3600 * base::second);
    CHECK(kernel.now() == start + 3600 * base::second);
    kernel.wake();
    kernel.wait(reactor::no_deadline);
    CHECK(kernel.now() == start + 3600 * base::second);
    kernel.wait(reactor::no_deadline);
    CHECK(kernel.now() > start + 3600 * base::second);
}

TEST_CASE("the same seed gives the same run, another seed another one") {
    const auto run = [](std::uint64_t seed) {
        testing::TemporaryFolder folder;
        SimKernel kernel(seeded(seed));
        BlockRig rig(&kernel);
        Device& device = *rig.make(file_at(folder.file("disk"))).value();
        Pages memory(blocks * block_bytes);
        std::string order;
        struct Logged : TestRequest {
            std::string* log = nullptr;
            char name = 0;
        };
        std::vector<Logged> requests(26);
        for (std::size_t i = 0; i < requests.size(); ++i) {
            Logged& request = requests[i];
            request.action = Action::write;
            request.offset = i * block_bytes;
            request.length = block_bytes;
            request.data = memory.data() + request.offset;
            request.log = &order;
            request.name = static_cast<char>('a' + i);
            request.done = [](block::Request& r, Status) {
                static_cast<Logged&>(r).log->push_back(static_cast<Logged&>(r).name);
            };
            device.submit(request);
        }
        REQUIRE(rig.run_until([&] { return order.size() == requests.size(); }));
        return order + std::to_string(kernel.now());
    };
    CHECK(run(1) == run(1));
    CHECK(run(1) != run(2));
}

TEST_CASE("after a power cut flushed blocks are there, others are old, new or torn, never anything else") {
    const auto first_seed = std::random_device{}();
    int lost = 0;
    int kept = 0;
    int torn = 0;
    for (std::uint64_t seed = first_seed; seed < first_seed + 60; ++seed) {
        CAPTURE(seed);
        testing::TemporaryFolder folder;
        const DeviceSpec spec = file_at(folder.file("disk"));
        Pages memory(blocks * block_bytes);
        std::mt19937_64 random(seed);
        std::uint64_t durable[blocks] = {};          // at least this
        std::vector<std::uint64_t> written[blocks];  // since then, acknowledged or not
        {
            SimKernel kernel(seeded(seed));
            BlockRig rig(&kernel);
            Device& device = *rig.make(spec).value();
            std::uint64_t stamp_next = 1;
            const std::uint64_t rounds = 1 + random() % 12;
            for (std::uint64_t round = 0; round < rounds; ++round) {
                // One request per block at a time, many blocks at once.
                std::vector<TestRequest> requests(16);
                const std::uint64_t first = random() % blocks;
                const bool cut_here = round + 1 == rounds;
                for (std::size_t i = 0; i < requests.size(); ++i) {
                    const std::uint64_t block = (first + i) % blocks;
                    TestRequest& request = requests[i];
                    request.action = Action::write;
                    request.force_unit_access = random() % 4 == 0;
                    request.offset = block * block_bytes;
                    request.length = block_bytes;
                    request.data = memory.data() + request.offset;
                    stamp(request.data, stamp_next);
                    written[block].push_back(stamp_next++);
                    device.submit(request);
                }
                const auto done = [&] {
                    return std::count_if(requests.begin(), requests.end(),
                                         [](const TestRequest& r) { return r.completed == 1; });
                };
                const auto wanted = cut_here ? static_cast<long>(random() % 16) : 16;
                REQUIRE(rig.run_until([&] { return done() >= wanted; }));
                for (TestRequest& request : requests) {
                    const std::uint64_t block = request.offset / block_bytes;
                    if (request.completed == 1 && request.force_unit_access) {
                        durable[block] = written[block].back();
                        written[block].clear();
                    }
                }
                if (cut_here) {
                    kernel.cut_power();
                    REQUIRE(rig.run_until([&] { return done() == 16; }));
                    for (const TestRequest& request : requests) {
                        CHECK((request.status == Status::ok || request.status == Status::medium_error));
                    }
                    CHECK(rig.run(device, Action::flush) != Status::ok);
                } else if (random() % 2 == 0) {
                    REQUIRE(rig.run(device, Action::flush) == Status::ok);
                    for (std::uint64_t block = 0; block < blocks; ++block) {
                        if (!written[block].empty()) {
                            durable[block] = written[block].back();
                            written[block].clear();
                        }
                    }
                }
            }
        }
        SimKernel kernel(seeded(seed + 1));
        BlockRig rig(&kernel);
        Device& device = *rig.make(spec).value();
        REQUIRE(rig.run(device, Action::read, 0, memory.size(), memory.data()) == Status::ok);
        for (std::uint64_t block = 0; block < blocks; ++block) {
            std::uint64_t first_value = 0;
            bool mixed = false;
            for (std::uint64_t at = 0; at < block_bytes; at += 8) {
                std::uint64_t value = 0;
                std::memcpy(&value, memory.data() + block * block_bytes + at, 8);
                first_value = at == 0 ? value : first_value;
                mixed = mixed || value != first_value;
                const bool known = value == durable[block] ||
                                   std::count(written[block].begin(), written[block].end(), value) > 0;
                REQUIRE(known);
            }
            torn += mixed ? 1 : 0;
            if (!written[block].empty() && !mixed) {
                (first_value == durable[block] ? lost : kept) += 1;
            }
        }
    }
    CHECK(torn > 0);
    CHECK(lost + kept > 0);
}

TEST_CASE("faults hit the steps that the test chooses, and short transfers go on") {
    testing::TemporaryFolder folder;
    int faults = 0;
    SimKernel::Options options = seeded(7);
    options.short_transfers_percent = 90;
    options.fault = [&](const SimKernel::Attempt& attempt) {
        if (attempt.step == SimKernel::Step::write && attempt.offset == 8 * block_bytes) {
            ++faults;
            return EIO;
        }
        // Interruptions are nobody's fault and must not be seen.
        return attempt.step == SimKernel::Step::read && faults++ % 3 == 0 ? EINTR : 0;
    };
    SimKernel kernel(options);
    BlockRig rig(&kernel);
    Device& device = *rig.make(file_at(folder.file("disk"))).value();
    Pages memory(blocks * block_bytes);
    Pages copy(blocks * block_bytes);
    for (std::uint64_t block = 0; block < blocks; ++block) {
        stamp(memory.data() + block * block_bytes, block + 1);
    }
    CHECK(rig.run(device, Action::write, 0, 8 * block_bytes, memory.data()) == Status::ok);
    CHECK(rig.run(device, Action::write, 8 * block_bytes, block_bytes, memory.data()) ==
          Status::medium_error);
    CHECK(rig.run(device, Action::write, 9 * block_bytes, 55 * block_bytes,
                  memory.data() + 9 * block_bytes) == Status::ok);
    CHECK(rig.run(device, Action::write_zeroes, 20 * block_bytes, block_bytes) == Status::ok);
    CHECK(rig.run(device, Action::read, 0, memory.size(), copy.data()) == Status::ok);
    std::memset(memory.data() + 8 * block_bytes, 0, block_bytes);
    std::memset(memory.data() + 20 * block_bytes, 0, block_bytes);
    CHECK(std::memcmp(memory.data(), copy.data(), memory.size()) == 0);
}

TEST_CASE("bytes through simulated sockets arrive whole and in order, in pieces of any size") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        SimKernel::Options options = seeded(seed);
        options.short_transfers_percent = 60;
        SimKernel kernel(options);
        int ends[2];
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        std::string sent(300'000, ' ');
        for (std::size_t i = 0; i < sent.size(); ++i) {
            sent[i] = static_cast<char>(i * 7 + i / 256);
        }
        std::string received(sent.size(), ' ');
        std::size_t out = 0;
        std::size_t in = 0;
        Counted sending;
        Counted receiving;
        iovec out_buffer{};
        iovec in_buffer{};
        msghdr out_message{};
        msghdr in_message{};
        out_message.msg_iov = &out_buffer;
        in_message.msg_iov = &in_buffer;
        out_message.msg_iovlen = in_message.msg_iovlen = 1;
        const auto send = [&] {
            out_buffer = {sent.data() + out, sent.size() - out};
            kernel.send(ends[0], out_message, 0, sending);
        };
        const auto receive = [&] {
            in_buffer = {received.data() + in, received.size() - in};
            kernel.receive(ends[1], in_message, 0, receiving);
        };
        send();
        receive();
        for (int step = 0; step < 10'000 && in < sent.size(); ++step) {
            kernel.wait(reactor::no_deadline);
            if (sending.completed == 1) {
                sending.completed = 0;
                out += static_cast<std::size_t>(sending.result);
                if (out < sent.size()) {
                    send();
                }
            }
            if (receiving.completed == 1) {
                receiving.completed = 0;
                in += static_cast<std::size_t>(receiving.result);
                if (in < sent.size()) {
                    receive();
                }
            }
        }
        CHECK(received == sent);
        CHECK(kernel.pending() == 0);
        receive();
        kernel.cancel(receiving);
        kernel.wait(reactor::no_deadline);
        CHECK(receiving.result == -ECANCELED);
        close(ends[0]);
        close(ends[1]);
    }
}

}  // namespace
