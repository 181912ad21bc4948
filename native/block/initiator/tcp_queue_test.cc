// The host-side queue against a controller that is scripted byte by byte: what it sends, and that it forgives
// nothing.

#include "block/initiator/tcp_queue.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/crc32c.h"
#include "reactor/uring_kernel.h"

namespace {

using block::initiator::Completion;
using block::initiator::HostCommand;
using block::initiator::QueueOptions;
using block::initiator::TcpQueue;
using Bytes = std::vector<std::uint8_t>;

void put(Bytes& bytes, std::size_t at, std::uint64_t value, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
        bytes[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
    }
}

std::uint32_t get(const Bytes& bytes, std::size_t at, std::size_t size) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
        value |= std::uint32_t{bytes[at + i]} << (8 * i);
    }
    return value;
}

std::uint32_t crc(const std::uint8_t* data, std::size_t size) {
    return base::crc32c({reinterpret_cast<const std::byte*>(data), size});
}

constexpr std::uint8_t type_icresp = 1, type_response = 5, type_c2h = 7, type_r2t = 9, type_c2h_term = 3;
constexpr std::uint8_t last = 4, success = 8;

// The other end of the connection: an encoder of its own.
class Script {
  public:
    Script() {
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(listen(listener_, 1) == 0);
        socklen_t length = sizeof address;
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
        std::memcpy(&address_, &address, sizeof address);
    }
    ~Script() {
        close(listener_);
        hang_up();
    }

    const sockaddr_storage& address() const { return address_; }
    bool connected() {
        if (peer_ < 0) {
            peer_ = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        }
        return peer_ >= 0;
    }
    void hang_up() {
        if (peer_ >= 0) {
            close(peer_);
            peer_ = -1;
        }
    }

    // The next PDU, once it is there as a whole.
    std::optional<Bytes> next() {
        std::uint8_t buffer[65536];
        for (ssize_t count = 0; (count = recv(peer_, buffer, sizeof buffer, MSG_DONTWAIT)) > 0;) {
            received_.insert(received_.end(), buffer, buffer + count);
        }
        if (received_.size() < 8 || received_.size() < get(received_, 4, 4)) {
            return std::nullopt;
        }
        const auto end = received_.begin() + static_cast<std::ptrdiff_t>(get(received_, 4, 4));
        Bytes pdu(received_.begin(), end);
        received_.erase(received_.begin(), end);
        return pdu;
    }

    void send_bytes(const Bytes& bytes) {
        CHECK(send(peer_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
    }

    Bytes ic_resp() const {
        Bytes pdu(128);
        pdu[0] = type_icresp;
        pdu[2] = 128;
        put(pdu, 4, 128, 4);
        pdu[10] = cpda;
        pdu[11] = static_cast<std::uint8_t>((header_digest ? 1 : 0) | (data_digest ? 2 : 0));
        put(pdu, 12, max_h2c, 4);
        return pdu;
    }
    Bytes response(std::uint32_t cid, std::uint32_t status = 0) const {
        Bytes pdu(24);
        pdu[0] = type_response;
        put(pdu, 20, cid, 2);
        put(pdu, 22, status, 2);
        return finish(pdu, {});
    }
    Bytes r2t(std::uint32_t cid, std::uint32_t offset, std::uint32_t length, std::uint32_t tag = 5) const {
        Bytes pdu(24);
        pdu[0] = type_r2t;
        put(pdu, 8, cid, 2);
        put(pdu, 10, tag, 2);
        put(pdu, 12, offset, 4);
        put(pdu, 16, length, 4);
        return finish(pdu, {});
    }
    Bytes data(std::uint32_t cid, std::uint32_t offset, const Bytes& payload, std::uint8_t flags) const {
        Bytes pdu(24);
        pdu[0] = type_c2h;
        pdu[1] = flags;
        put(pdu, 8, cid, 2);
        put(pdu, 12, offset, 4);
        put(pdu, 16, payload.size(), 4);
        return finish(pdu, payload);
    }

    bool header_digest = false;
    bool data_digest = false;
    std::uint8_t cpda = 0;
    std::uint32_t max_h2c = 4096;
    std::uint32_t alignment = 4;  // of C2H data: HPDA

  private:
    Bytes finish(Bytes pdu, const Bytes& payload) const {
        const std::size_t header = pdu.size();
        pdu[2] = static_cast<std::uint8_t>(header);
        pdu[1] = static_cast<std::uint8_t>(pdu[1] | (header_digest ? 1 : 0) |
                                           (data_digest && !payload.empty() ? 2 : 0));
        std::size_t end = header + (header_digest ? 4 : 0);
        if (!payload.empty()) {
            end = (end + alignment - 1) / alignment * alignment;
            pdu[3] = static_cast<std::uint8_t>(end);
        }
        const std::size_t total = end + payload.size() + (data_digest && !payload.empty() ? 4 : 0);
        put(pdu, 4, total, 4);
        const std::uint32_t digest = crc(pdu.data(), header);
        pdu.resize(total);
        if (header_digest) {
            put(pdu, header, digest, 4);
        }
        std::copy(payload.begin(), payload.end(), pdu.begin() + static_cast<std::ptrdiff_t>(end));
        if (data_digest && !payload.empty()) {
            put(pdu, end + payload.size(), crc(payload.data(), payload.size()), 4);
        }
        return pdu;
    }

    int listener_ = -1;
    int peer_ = -1;
    sockaddr_storage address_{};
    Bytes received_;
};

struct TestCommand : HostCommand {
    explicit TestCommand(std::uint32_t bytes = 0, wire::DataDirection way = wire::DataDirection::none)
        : memory(bytes) {
        sqe.opcode = static_cast<std::uint8_t>(
            way == wire::DataDirection::to_controller ? wire::IoOpcode::write : wire::IoOpcode::read);
        direction = way;
        length = bytes;
        data = memory.data();
        done = [](HostCommand& command, const Completion& completion_) {
            auto& self = static_cast<TestCommand&>(command);
            ++self.completed;
            self.completion = completion_;
        };
    }
    std::vector<std::byte> memory;
    int completed = 0;
    Completion completion;
};

class Bench : block::initiator::QueueOwner {
  public:
    Bench() {
        options.address = script.address();
        options.address_bytes = sizeof(sockaddr_in);
        options.qid = 1;
        options.entries = 9;
        options.flow_control = false;
        options.hostnqn = "nqn.h";
        options.subnqn = "nqn.s";
    }
    ~Bench() { finish(); }
    // Ends the queue; commands that it has must outlive this.
    void finish() {
        if (queue != nullptr) {
            queue->close();
            CHECK(until([&] { return closed; }));
        }
    }

    template <typename Condition>
    bool until(Condition condition) {
        const auto deadline = kernel->now() + 10 * base::second;
        while (!condition()) {
            if (kernel->now() > deadline) {
                return false;
            }
            reactor.run_once(kernel->now() + base::millisecond);
        }
        return true;
    }

    Bytes next() {
        std::optional<Bytes> pdu;
        REQUIRE(until([&] { return (pdu = script.next()).has_value(); }));
        return *pdu;
    }

    void start() {
        block::initiator::QueueOwner& owner = *this;
        queue = std::make_unique<TcpQueue>(reactor, options, owner);
        queue->open();
    }
    // Up to the answer of ICReq.
    void dial() {
        script.header_digest = options.header_digest;
        script.data_digest = options.data_digest;
        script.alignment = (options.host_alignment + 1u) * 4;
        start();
        REQUIRE(until([&] { return script.connected(); }));
        ic_req = next();
    }
    // Up to a queue that is ready.
    void open() {
        dial();
        script.send_bytes(script.ic_resp());
        connect = next();
        Bytes answer = script.response(get(connect, 8 + 2, 2));
        put(answer, 8, 0x1234, 2);
        if (options.header_digest) {
            put(answer, 24, crc(answer.data(), 24), 4);
        }
        script.send_bytes(answer);
        REQUIRE(until([&] { return opened; }));
    }
    std::uint32_t submit(TestCommand& command) {
        REQUIRE(queue->submit(command));
        capsule = next();
        return get(capsule, 8 + 2, 2);
    }

    std::unique_ptr<reactor::UringKernel> kernel = reactor::UringKernel::make().take();
    reactor::Reactor reactor{*kernel};
    Script script;
    QueueOptions options;
    std::unique_ptr<TcpQueue> queue;
    bool opened = false, closed = false;
    std::uint16_t cntlid = 0;
    std::string failure;
    Bytes ic_req, connect, capsule;

  private:
    void queue_opened(TcpQueue&, std::uint16_t id) override {
        opened = true;
        cntlid = id;
    }
    void queue_failed(TcpQueue&, const std::string& reason) override { failure = reason; }
    void queue_closed(TcpQueue&) override { closed = true; }
};

Bytes pattern(std::size_t size) {
    Bytes bytes(size);
    for (std::size_t i = 0; i < size; ++i) {
        bytes[i] = static_cast<std::uint8_t>(i * 7 + i / 256);
    }
    return bytes;
}

constexpr auto reads = wire::DataDirection::from_controller;
constexpr auto writes = wire::DataDirection::to_controller;

}  // namespace

TEST_CASE("the queue introduces itself as the standard says") {
    Bench bench;
    bench.options.header_digest = true;
    bench.options.host_alignment = 3;
    bench.options.entries = 33;
    bench.options.kato_ms = 7000;
    bench.open();
    CHECK(bench.ic_req.size() == 128);
    CHECK(bench.ic_req[0] == 0);
    CHECK(get(bench.ic_req, 8, 2) == 0);
    CHECK(bench.ic_req[10] == 3);
    CHECK(bench.ic_req[11] == 1);
    const Bytes& pdu = bench.connect;
    CHECK(pdu[0] == 4);
    CHECK(get(pdu, 4, 4) == 72 + 4 + 1024);
    CHECK(pdu[3] == 76);
    CHECK(pdu[8] == 0x7F);
    CHECK(pdu[12] == 0x01);
    CHECK(get(pdu, 8 + 42, 2) == 1);
    CHECK(get(pdu, 8 + 44, 2) == 32);
    CHECK(pdu[8 + 46] == 4);
    CHECK(get(pdu, 8 + 48, 4) == 7000);
    CHECK(crc(pdu.data(), 72) == get(pdu, 72, 4));
    CHECK(std::memcmp(pdu.data() + 76 + 256, "nqn.s", 6) == 0);
    CHECK(std::memcmp(pdu.data() + 76 + 512, "nqn.h", 6) == 0);
    CHECK(bench.cntlid == 0x1234);
}

TEST_CASE("a read takes its data in pieces, split anywhere, and ends with a response or with SUCCESS") {
    for (const bool digests : {false, true}) {
        for (const bool by_success : {false, true}) {
            Bench bench;
            bench.options.header_digest = bench.options.data_digest = digests;
            bench.options.host_alignment = digests ? 7 : 0;
            bench.open();
            TestCommand read(9000, reads);
            const std::uint32_t cid = bench.submit(read);
            const Bytes payload = pattern(9000);
            Bytes stream = bench.script.data(cid, 0, {payload.begin(), payload.begin() + 5000}, 0);
            const Bytes second = bench.script.data(cid, 5000, {payload.begin() + 5000, payload.end()},
                                                   by_success ? last | success : last);
            stream.insert(stream.end(), second.begin(), second.end());
            if (!by_success) {
                const Bytes answer = bench.script.response(cid);
                stream.insert(stream.end(), answer.begin(), answer.end());
            }
            for (std::size_t at = 0; at < stream.size(); at += 777) {
                const std::size_t end = std::min(at + 777, stream.size());
                CHECK(read.completed == 0);
                bench.script.send_bytes({stream.begin() + static_cast<std::ptrdiff_t>(at),
                                         stream.begin() + static_cast<std::ptrdiff_t>(end)});
                bench.reactor.run_once(bench.kernel->now() + base::millisecond);
            }
            REQUIRE(bench.until([&] { return read.completed != 0; }));
            CHECK(read.completion.ok());
            CHECK(std::memcmp(read.memory.data(), payload.data(), payload.size()) == 0);
        }
    }
}

TEST_CASE("a small write goes in the capsule, a large one in H2CData no larger than the controller takes") {
    for (const bool digests : {false, true}) {
        Bench bench;
        bench.options.header_digest = bench.options.data_digest = digests;
        bench.script.cpda = digests ? 5 : 0;
        bench.open();
        const Bytes payload = pattern(20'000);
        TestCommand small(8192, writes);
        std::memcpy(small.memory.data(), payload.data(), small.memory.size());
        const std::uint32_t small_cid = bench.submit(small);
        const std::size_t begin = bench.capsule[3];
        CHECK(begin % (digests ? 24 : 4) == 0);
        CHECK(std::memcmp(bench.capsule.data() + begin, payload.data(), 8192) == 0);
        CHECK(bench.capsule[8 + 24 + 15] == 0x01);
        CHECK(get(bench.capsule, 8 + 24 + 8, 4) == 8192);
        if (digests) {
            CHECK(get(bench.capsule, begin + 8192, 4) == crc(payload.data(), 8192));
        }
        bench.script.send_bytes(bench.script.response(small_cid, 0x02 << 1 | 0x8000));
        REQUIRE(bench.until([&] { return small.completed != 0; }));
        CHECK(small.completion.status == wire::status::invalid_field);
        CHECK(small.completion.do_not_retry);

        TestCommand large(20'000, writes);
        std::memcpy(large.memory.data(), payload.data(), large.memory.size());
        const std::uint32_t cid = bench.submit(large);
        CHECK(bench.capsule.size() == (digests ? 76 : 72));
        CHECK(bench.capsule[8 + 24 + 15] == 0x5A);
        std::uint32_t next = 0;
        for (const std::uint32_t end : {12'000u, 20'000u}) {
            bench.script.send_bytes(bench.script.r2t(cid, next, end - next, end));
            while (next < end) {
                const Bytes pdu = bench.next();
                CHECK(pdu[0] == 6);
                CHECK(get(pdu, 8, 2) == cid);
                CHECK(get(pdu, 10, 2) == end);
                CHECK(get(pdu, 12, 4) == next);
                const std::uint32_t bytes = get(pdu, 16, 4);
                CHECK(bytes == std::min(4096u, end - next));
                CHECK(std::memcmp(pdu.data() + pdu[3], payload.data() + next, bytes) == 0);
                next += bytes;
                CHECK(((pdu[1] & last) != 0) == (next == end));
            }
        }
        bench.script.send_bytes(bench.script.response(cid));
        REQUIRE(bench.until([&] { return large.completed != 0; }));
        CHECK(large.completion.ok());
        CHECK(large.completed == 1);
    }
}

TEST_CASE("as many commands as the queue has entries but one, in the order of submission") {
    Bench bench;
    bench.open();
    std::vector<TestCommand> commands;
    commands.reserve(9);
    for (int i = 0; i < 9; ++i) {
        commands.emplace_back();
        commands.back().sqe.cdw15 = static_cast<std::uint32_t>(i);
        CHECK(bench.queue->submit(commands.back()) == (i < 8));
    }
    for (std::uint32_t i = 0; i < 8; ++i) {
        CHECK(get(bench.next(), 8 + 60, 4) == i);
    }
    bench.finish();
    for (std::size_t i = 0; i < commands.size(); ++i) {
        CHECK(commands[i].completed == (i < 8 ? 1 : 0));
    }
}

TEST_CASE("whatever a controller does against the rules fails the queue, and every command ends once") {
    struct Row {
        const char* name;
        std::function<Bytes(Bench&, std::uint32_t read, std::uint32_t write)> bytes;
        const char* text;
    };
    const auto both = [](Bytes a, const Bytes& b) {
        a.insert(a.end(), b.begin(), b.end());
        return a;
    };
    const Row rows[] = {
        {"a response to nobody", [](Bench& b, auto, auto) { return b.script.response(0x3F); },
         "not outstanding"},
        {"an old generation", [](Bench& b, std::uint32_t r, auto) { return b.script.response(r ^ 0x400); },
         "not outstanding"},
        {"a response before the data that was asked for",
         [&](Bench& b, auto, std::uint32_t w) {
             return both(b.script.r2t(w, 0, 8), b.script.response(w, 4));
         },
         "while requested data is still being sent"},
        {"success without data", [](Bench& b, std::uint32_t r, auto) { return b.script.response(r); },
         "success after 0 of 8192"},
        {"success without a last C2HData",
         [&](Bench& b, std::uint32_t r, auto) {
             return both(b.script.data(r, 0, pattern(8192), 0), b.script.response(r));
         },
         "without a last"},
        {"SUCCESS too early",
         [](Bench& b, std::uint32_t r, auto) { return b.script.data(r, 0, pattern(8), 12); },
         "SUCCESS after 8 of 8192"},
        {"SUCCESS without LAST",
         [](Bench& b, std::uint32_t r, auto) { return b.script.data(r, 0, pattern(8192), 8); },
         "header of a PDU"},
        {"data out of order",
         [](Bench& b, std::uint32_t r, auto) { return b.script.data(r, 4, pattern(8), 0); },
         "where 0 is next"},
        {"more data than asked for",
         [](Bench& b, std::uint32_t r, auto) { return b.script.data(r, 0, pattern(8196), 4); },
         "more data than the command asked for"},
        {"data after the last",
         [&](Bench& b, std::uint32_t r, auto) {
             return both(b.script.data(r, 0, pattern(8), 4), b.script.data(r, 8, pattern(8), 4));
         },
         "after the last data"},
        {"data for a write",
         [](Bench& b, auto, std::uint32_t w) { return b.script.data(w, 0, pattern(8), 4); }, "reads nothing"},
        {"R2T for a read", [](Bench& b, std::uint32_t r, auto) { return b.script.r2t(r, 0, 8); },
         "no data to send"},
        {"R2T of nothing", [](Bench& b, auto, std::uint32_t w) { return b.script.r2t(w, 0, 0); },
         "does not have"},
        {"R2T over the end", [](Bench& b, auto, std::uint32_t w) { return b.script.r2t(w, 0, 16'385); },
         "does not have"},
        {"R2T that leaves something out",
         [](Bench& b, auto, std::uint32_t w) { return b.script.r2t(w, 8, 8); }, "where 0 is next"},
        {"R2T for data that was sent",
         [&](Bench& b, auto, std::uint32_t w) { return both(b.script.r2t(w, 0, 8), b.script.r2t(w, 0, 8)); },
         "a second R2T"},
        {"success of a write that was never asked for",
         [](Bench& b, auto, std::uint32_t w) { return b.script.response(w); }, "only 0 of 16384 bytes"},
        {"a second ICResp", [](Bench& b, auto, auto) { return b.script.ic_resp(); }, "header of a PDU"},
        {"a PDU that hosts send", [](Bench&, auto, auto) { return Bytes{4, 0, 72, 0, 72, 0, 0, 0}; },
         "header of a PDU"},
        {"nonsense", [](Bench&, auto, auto) { return Bytes(64, 0xFF); }, "header of a PDU"},
        {"a termination request",
         [](Bench&, auto, auto) {
             Bytes pdu(24);
             pdu[0] = type_c2h_term;
             pdu[2] = 24;
             put(pdu, 4, 24, 4);
             put(pdu, 8, 2, 2);
             return pdu;
         },
         "terminates the connection: PDU Sequence Error"},
    };
    for (const Row& row : rows) {
        INFO(row.name);
        Bench bench;
        bench.open();
        TestCommand read(8192, reads), write(16'384, writes);
        const std::uint32_t read_cid = bench.submit(read);
        const std::uint32_t write_cid = bench.submit(write);
        bench.script.send_bytes(row.bytes(bench, read_cid, write_cid));
        REQUIRE(bench.until([&] { return bench.closed; }));
        CHECK(bench.failure.find(row.text) != std::string::npos);
        CHECK(bench.failure != "");
        CHECK(read.completed == 1);
        CHECK(write.completed == 1);
        CHECK_FALSE(write.completion.answered);
        TestCommand late;
        CHECK_FALSE(bench.queue->submit(late));
    }
}

TEST_CASE("a write that is answered before the socket has taken its data ends after that, or unanswered") {
    for (const bool reads_on : {true, false}) {
        CAPTURE(reads_on);
        Bench bench;
        bench.options.transfer_bytes_max = 32u << 20;
        bench.script.max_h2c = 64u << 20;
        bench.open();
        TestCommand write(32u << 20, writes);  // more than sockets hold
        TestCommand small(64, reads);
        const std::uint32_t cid = bench.submit(write);
        const std::uint32_t small_cid = bench.submit(small);
        bench.script.send_bytes(bench.script.r2t(cid, 0, write.length));
        REQUIRE(bench.until([&] { return bench.queue->statistics().r2t == 1; }));
        bench.script.send_bytes(bench.script.response(cid));
        bench.script.send_bytes(bench.script.data(small_cid, 0, Bytes(64), last | success));
        REQUIRE(bench.until([&] { return small.completed == 1; }));  // the response came before
        CHECK(write.completed == 0);
        if (reads_on) {
            CHECK(bench.next().size() == 24 + write.length);
            REQUIRE(bench.until([&] { return write.completed == 1; }));
            CHECK(write.completion.ok());
        } else {
            bench.script.send_bytes(bench.script.response(cid));  // once more
            REQUIRE(bench.until([&] { return bench.closed; }));
            CHECK(bench.failure.find("not outstanding") != std::string::npos);
            CHECK(write.completed == 1);
            CHECK_FALSE(write.completion.answered);
            CHECK(write.completion.sent);
        }
    }
}

TEST_CASE("a second completion of a command is noticed, also after its slot was used again") {
    Bench bench;
    bench.open();
    TestCommand command;
    const std::uint32_t first = bench.submit(command);
    bench.script.send_bytes(bench.script.response(first));
    REQUIRE(bench.until([&] { return command.completed == 1; }));
    const std::uint32_t again = bench.submit(command);
    CHECK(again != first);
    bench.script.send_bytes(bench.script.response(first));
    REQUIRE(bench.until([&] { return bench.closed; }));
    CHECK(bench.failure.find("not outstanding") != std::string::npos);
    CHECK(command.completed == 2);
    CHECK_FALSE(command.completion.answered);
}

TEST_CASE("wrong digests and wrong negotiation fail the queue") {
    SUBCASE("header digest") {
        Bench bench;
        bench.options.header_digest = true;
        bench.open();
        TestCommand command;
        Bytes answer = bench.script.response(bench.submit(command));
        answer.back() ^= 1;
        bench.script.send_bytes(answer);
        REQUIRE(bench.until([&] { return bench.closed; }));
        CHECK(bench.failure.find("wrong header digest") != std::string::npos);
    }
    SUBCASE("data digest") {
        Bench bench;
        bench.options.data_digest = true;
        bench.open();
        TestCommand read(512, reads);
        Bytes data = bench.script.data(bench.submit(read), 0, pattern(512), last);
        data[100] ^= 1;
        bench.script.send_bytes(data);
        REQUIRE(bench.until([&] { return bench.closed; }));
        CHECK(bench.failure.find("wrong data digest") != std::string::npos);
    }
    SUBCASE("other digests than asked for") {
        Bench bench;
        bench.dial();
        bench.script.data_digest = true;
        bench.script.send_bytes(bench.script.ic_resp());
        REQUIRE(bench.until([&] { return bench.closed; }));
        CHECK(bench.failure.find("other digests") != std::string::npos);
    }
    SUBCASE("MAXH2CDATA too small") {
        Bench bench;
        bench.dial();
        bench.script.max_h2c = 2048;
        bench.script.send_bytes(bench.script.ic_resp());
        REQUIRE(bench.until([&] { return bench.closed; }));
        CHECK(bench.failure.find("ICResp, wrong at byte 12") != std::string::npos);
    }
    SUBCASE("Connect refused") {
        Bench bench;
        bench.dial();
        bench.script.send_bytes(bench.script.ic_resp());
        const Bytes connect = bench.next();
        bench.script.send_bytes(bench.script.response(get(connect, 10, 2), 0x184 << 1));
        REQUIRE(bench.until([&] { return bench.closed; }));
        CHECK(bench.failure.find("Connect Invalid Host") != std::string::npos);
    }
    SUBCASE("hanging up") {
        Bench bench;
        bench.open();
        TestCommand command;
        bench.submit(command);
        bench.script.hang_up();
        REQUIRE(bench.until([&] { return bench.closed; }));
        CHECK(command.completed == 1);
        CHECK_FALSE(command.completion.answered);
    }
}

TEST_CASE("nobody listens") {
    Bench bench;
    reinterpret_cast<sockaddr_in&>(bench.options.address).sin_port = htons(1);
    bench.start();
    REQUIRE(bench.until([&] { return bench.closed; }));
    CHECK(bench.failure.find("Connection refused") != std::string::npos);
}
