#include "engine/carry.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/byte_order.h"
#include "base/crc32c.h"
#include "engine/arena_layout.h"
#include "engine/carry_fields.h"

namespace engine {

namespace {

std::uint64_t seed() {
    const char* text = std::getenv("KEEL_SEED");
    const std::uint64_t value = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device{}();
    std::fprintf(stderr, "seed: KEEL_SEED=%lu\n", value);
    return value;
}

CarryText parsed(const std::string& text) {
    auto result = CarryText::parse(text);
    REQUIRE(result.ok());
    return result.take();
}

// Makes the checksum right again.
std::string sealed(std::string text) {
    const std::size_t body = text.size() - sizeof(base::le32);
    const base::le32 sum = base::crc32c(std::as_bytes(std::span(text).first(body)));
    std::memcpy(text.data() + body, &sum, sizeof sum);
    return text;
}

// --- one record with all its fields ---

using Places = std::vector<std::pair<std::size_t, std::size_t>>;  // offset, bytes

// All bytes of a record but those that the description leaves out come back, whatever they were.
template <typename Record>
void check_carried(std::mt19937_64& random, const Places& texts, const Places& left_out) {
    Record before{};
    auto* bytes = reinterpret_cast<unsigned char*>(&before);
    for (std::size_t i = 0; i < sizeof before; ++i) {
        bytes[i] = static_cast<unsigned char>(1 + random() % 255);
    }
    for (const auto& [offset, size] : texts) {
        std::memset(bytes + offset + size / 2, 0, size - size / 2);
    }
    CarryWriter out;
    out.begin("record");
    FieldWriter writer{out};
    each_field(writer, std::as_const(before));
    const CarryText text = parsed(out.finish());
    REQUIRE(text.size() == 1);
    const CarryRecord in = text.at(0);
    Record after{};
    FieldReader reader{in};
    each_field(reader, after);
    CHECK(reader.good);
    const auto* back = reinterpret_cast<const unsigned char*>(&after);
    for (std::size_t i = 0; i < sizeof before; ++i) {
        bool expected = true;
        for (const auto& [offset, size] : left_out) {
            expected = expected && (i < offset || i >= offset + size);
        }
        const bool same = back[i] == bytes[i];
        CHECK_MESSAGE((same || !expected), "the byte at offset " << i << " is not carried");
        CHECK_MESSAGE((!same || expected), "the byte at offset " << i << " is carried after all");
    }
}

#define PLACE(Record, member) \
    std::pair<std::size_t, std::size_t> { offsetof(Record, member), sizeof(std::declval<Record&>().member) }

// --- a description of one of everything ---

constexpr std::uint64_t connection_id = 77;
constexpr std::uint64_t taken = 10'000;  // bytes from its socket

Options options() {
    Options some;
    some.connections_max = 3;
    some.controllers_max = 3;
    return some;
}

template <typename Record>
void write(CarryWriter& out, const Record& record) {
    FieldWriter writer{out};
    each_field(writer, record);
}

void write_connection(CarryWriter& out) {
    out.begin("connection");
    transport::ConnectionRecord record{};
    record.id = connection_id;
    record.outstanding_r2t = 1;
    record.transmit_slots = 128;
    record.transmit_tail = 9;
    record.queue.qid = 1;
    record.queue.entries = 32;
    record.queue.connect_done = 1;
    record.split = {8 + 1, 100, 3};
    write(out, record);
    transport::ReceiveState state{};
    state.consumed = 9'000;
    state.remaining = 900;
    state.data_position = 512;
    state.phase = transport::ReceivePhase::data;
    state.command = 2;
    write(out, state);
    out.number("of_controller", 5 + 1);
    out.number("received", taken);
    out.number("queue_end", 5'000);
    out.text("unread", std::string(100, 'u'));
    out.text("control", std::string(transport::control_bytes, 'c'));
    out.text("split", "xyz");
    const auto command = [&](std::uint16_t slot, nvme::CommandState is, nvme::DataDirection direction,
                             std::uint64_t place, std::uint32_t bytes_that_count) {
        nvme::CommandRecord one{};
        one.sqe.cid = static_cast<std::uint16_t>(100 + slot);
        one.stream_offset = 100u * slot;
        one.state = is;
        one.direction = direction;
        one.data_length = one.buffer_bytes = 4096;
        one.data_region = transport::MemoryRegions::data_pool;
        one.data_offset = place;
        out.begin("command");
        out.number("slot", slot);
        write(out, one);
        out.number("bytes_that_count", bytes_that_count);
    };
    command(0, nvme::CommandState::ready, nvme::DataDirection::to_host, 0, 0);
    command(1, nvme::CommandState::done, nvme::DataDirection::to_host, 4096, 4096);
    command(2, nvme::CommandState::receiving, nvme::DataDirection::to_controller, 8192, 612);
    transport::TransmitEntry entry{};
    entry.stream_offset = 5'000 - 24 - 4096;
    entry.data_bytes = 4096;
    entry.data_region = transport::MemoryRegions::data_pool;
    entry.data_offset = 4096;
    entry.command = 1;
    out.begin("send");
    out.number("sequence", 8);
    write(out, entry);
    out.text("header", std::string(24, 'h'));
}

std::string sample() {
    CarryWriter out;
    out.begin("arena");
    out.number("mark", 5);
    out.text("pool", "data-old");
    out.number("discovery_generation", 12);
    MemoryRecord memory{};
    std::strcpy(memory.name, "disk");
    out.begin("memory");
    out.number("region", first_device_region + 3);
    write(out, memory);
    RestartTotals totals{};
    totals.restarts = 70;
    out.begin("restarts");
    write(out, totals);
    RestartRecord restart{};
    restart.number = 70;
    out.begin("restart");
    write(out, restart);
    nvme::SubsystemRecord subsystem{};
    std::strcpy(subsystem.nqn, "nqn.one");
    out.begin("subsystem");
    out.number("slot", 4);
    write(out, subsystem);
    nvme::NamespaceRecord ns{};
    ns.nsid = 6;
    out.begin("namespace");
    out.number("of_subsystem", 4);
    write(out, ns);
    nvme::ControllerRecord controller{};
    std::strcpy(controller.subsystem_nqn, "nqn.one");
    std::strcpy(controller.host_nqn, "nqn.host");
    controller.cntlid = 3;
    controller.kind = nvme::ControllerKind::io;
    controller.errors_logged = 1'000;
    out.begin("controller");
    out.number("slot", 5);
    write(out, controller);
    for (std::uint64_t count = 999; count <= 1'000; ++count) {
        nvme::ErrorRecord error{};
        error.count = count;
        out.begin("error");
        write(out, error);
    }
    write_connection(out);
    out.begin("lost");
    out.number("id", 78);
    out.text("reason", "it was being closed");
    return out.finish();
}

struct Successor {
    Successor() {
        for (std::size_t i = 0; i < old_pool.size(); ++i) {
            old_pool[i] = static_cast<std::byte>(i / 4096 + 1);
        }
    }
    CarryResult take(const CarryText& text) {
        return restore(text, {.arena = arena,
                              .options = set,
                              .buffers = buffers,
                              .old_pool = old_pool,
                              .received = [](std::uint64_t id) {
                                  return id == connection_id ? std::optional(taken) : std::nullopt;
                              }});
    }

    Options set = options();
    durable::Arena arena = durable::Arena::open(-1, regions_for(set)).take();
    std::vector<std::byte> old_pool = std::vector<std::byte>(3 * 4096);
    std::vector<std::byte> memory = std::vector<std::byte>(4 << 20);
    reactor::DataBuffers buffers{memory};
};

}  // namespace

TEST_CASE("carry: what is unknown is passed over, what is missing has its default") {
    CarryWriter out;
    out.begin("from the future");
    out.number("anything", 1);
    out.begin("command");
    out.number("result0", 17);
    out.text("new field", "with a value");
    const CarryText text = parsed(out.finish());
    REQUIRE(text.size() == 2);
    CHECK(text.at(0).kind() == "from the future");
    const CarryRecord in = text.at(1);
    nvme::CommandRecord record{};
    FieldReader reader{in};
    each_field(reader, record);
    CHECK(reader.good);
    CHECK(record.result0 == 17);
    CHECK(record.data_length == 0);
    CHECK(in.number("absent", 5) == 5);
    CHECK(in.number("new field") == std::nullopt);

    Successor successor;
    CHECK(successor.take(text).connections == 0);
}

TEST_CASE("carry: a value that does not fit its field is noticed") {
    CarryWriter out;
    out.begin("command");
    out.number("data_region", 0x10000);
    out.begin("controller");
    out.text("host_nqn", std::string(nvme::record_nqn_bytes, 'x'));
    out.begin("controller");
    out.text("changed_namespaces", "seven b");
    const CarryText text = parsed(out.finish());
    const CarryRecord in = text.at(0);
    nvme::CommandRecord command{};
    FieldReader reader{in};
    each_field(reader, command);
    CHECK(!reader.good);
    for (const std::size_t index : {std::size_t{1}, std::size_t{2}}) {
        const CarryRecord other = text.at(index);
        nvme::ControllerRecord controller{};
        FieldReader of_controller{other};
        each_field(of_controller, controller);
        CHECK(!of_controller.good);
    }
}

TEST_CASE("carry: every field of every record is described") {
    std::mt19937_64 random(seed());
    using nvme::CommandRecord;
    using nvme::ControllerRecord;
    using nvme::NamespaceRecord;
    using nvme::SubsystemRecord;
    using transport::ConnectionRecord;
    using transport::ReceiveState;
    using transport::TransmitEntry;
    check_carried<CommandRecord>(random, {}, {PLACE(CommandRecord, reserved0)});
    check_carried<ReceiveState>(
        random, {},
        {PLACE(ReceiveState, base_stream), PLACE(ReceiveState, base_address), PLACE(ReceiveState, reserved0),
         PLACE(ReceiveState, reserved1), PLACE(ReceiveState, reserved2), PLACE(ReceiveState, reserved3)});
    check_carried<TransmitEntry>(
        random, {},
        {PLACE(TransmitEntry, header_bytes), PLACE(TransmitEntry, trailer_bytes),
         PLACE(TransmitEntry, header), PLACE(TransmitEntry, trailer), PLACE(TransmitEntry, reserved)});
    check_carried<ConnectionRecord>(
        random, {},
        {PLACE(ConnectionRecord, state), PLACE(ConnectionRecord, reserved0),
         PLACE(ConnectionRecord, queue.controller), PLACE(ConnectionRecord, queue.reserved),
         PLACE(ConnectionRecord, split.bytes), PLACE(ConnectionRecord, receive),
         PLACE(ConnectionRecord, control), PLACE(ConnectionRecord, flight_count),
         PLACE(ConnectionRecord, flight)});
    check_carried<ControllerRecord>(
        random, {PLACE(ControllerRecord, subsystem_nqn), PLACE(ControllerRecord, host_nqn)},
        {PLACE(ControllerRecord, state), PLACE(ControllerRecord, admin_connection),
         PLACE(ControllerRecord, reserved0), PLACE(ControllerRecord, reserved1),
         PLACE(ControllerRecord, reserved2), PLACE(ControllerRecord, errors)});
    check_carried<nvme::ErrorRecord>(random, {}, {PLACE(nvme::ErrorRecord, reserved)});
    check_carried<SubsystemRecord>(random, {PLACE(SubsystemRecord, nqn)},
                                   {PLACE(SubsystemRecord, state), PLACE(SubsystemRecord, reserved)});
    check_carried<NamespaceRecord>(
        random, {},
        {PLACE(NamespaceRecord, state), PLACE(NamespaceRecord, subsystem), PLACE(NamespaceRecord, reserved)});
    check_carried<MemoryRecord>(random, {PLACE(MemoryRecord, name)},
                                {PLACE(MemoryRecord, state), PLACE(MemoryRecord, reserved)});
    check_carried<RestartRecord>(random, {PLACE(RestartRecord, reason), PLACE(RestartRecord, exit)}, {});
    check_carried<RestartTotals>(random, {}, {});
}

TEST_CASE("carry: a description is rebuilt into the records of a fresh arena") {
    const CarryText text = parsed(sample());
    const CarryOrigin origin = origin_of(text);
    CHECK(origin.mark == 5);
    CHECK(origin.pool_name == "data-old");
    Successor successor;
    const CarryResult result = successor.take(text);
    CHECK(result.connections == 1);
    CHECK(result.discovery_generation == 12);
    REQUIRE(result.lost.size() == 1);
    CHECK(result.lost[0] == std::pair<std::uint64_t, std::string>(78, "it was being closed"));

    const auto& memory = successor.arena.slot<MemoryRecord>(Region::memories, 3);
    CHECK(memory.state == 1);
    CHECK(std::string(memory.name) == "disk");
    const auto& restarts = successor.arena.slot<RestartArea>(Region::restarts, 0);
    CHECK(restarts.totals.restarts == 70);
    CHECK(restarts_of(restarts).front().number == 70);
    const auto& subsystem = successor.arena.slot<nvme::SubsystemRecord>(Region::subsystems, 0);
    CHECK(subsystem.state == nvme::RecordState::in_use);
    const auto& ns = successor.arena.slot<nvme::NamespaceRecord>(Region::namespaces, 0);
    CHECK(ns.subsystem == 1);
    CHECK(ns.nsid == 6);
    const auto& controller = successor.arena.slot<nvme::ControllerRecord>(Region::controllers, 0);
    CHECK(controller.state == nvme::RecordState::in_use);
    CHECK(controller.errors_logged == 2);
    CHECK(controller.errors[1].count == 1'000);

    const auto& record = successor.arena.slot<transport::ConnectionRecord>(Region::connections, 0);
    CHECK(record.state == transport::ConnectionState::open);
    CHECK(record.id == connection_id);
    CHECK(record.queue.controller == 1);
    CHECK(record.split.bytes == 3);
    const transport::ReceiveState& state = record.receive.current();
    CHECK(state.command == 2);
    CHECK(state.base_stream == 9'900);
    CHECK(state.base_address == 0);
    CHECK(std::memcmp(&successor.arena.slot<char>(Region::stream, 0), std::string(100, 'u').data(), 100) ==
          0);
    const auto* commands = &successor.arena.slot<nvme::CommandRecord>(Region::commands, 0);
    CHECK(commands[0].buffer_bytes == 0);  // will be allocated again
    CHECK(commands[0].data_region == nvme::no_data_region);
    CHECK(commands[1].sqe.cid == 101);
    CHECK(successor.memory[commands[1].data_offset] == std::byte{2});
    CHECK(successor.memory[commands[1].data_offset + 4095] == std::byte{2});
    CHECK(successor.memory[commands[2].data_offset + 611] == std::byte{3});
    CHECK(successor.memory[commands[2].data_offset + 612] == std::byte{0});
    const auto* entries = &successor.arena.slot<transport::TransmitEntry>(Region::transmit, 0);
    CHECK(entries[8].end() == 5'000);
    CHECK(entries[8].data_offset == commands[1].data_offset);
    // Free again, so that adoption can reserve them.
    CHECK(successor.buffers.bytes_in_use() == 0);
    CHECK(successor.buffers.common().reserve(commands[1].data_offset, 4096));
    CHECK(successor.buffers.common().reserve(commands[2].data_offset, 4096));
}

TEST_CASE("carry: a connection whose socket was read further is not rebuilt") {
    std::string body = sample();
    Successor successor;
    CarryResult result =
        restore(parsed(body), {.arena = successor.arena,
                               .options = successor.set,
                               .buffers = successor.buffers,
                               .old_pool = successor.old_pool,
                               .received = [](std::uint64_t) { return std::optional(taken + 1); }});
    CHECK(result.connections == 0);
    REQUIRE(result.lost.size() == 2);
    CHECK(result.lost[0].first == connection_id);
    CHECK(result.lost[0].second == "its socket was read after it had been described");
    CHECK(successor.arena.slot<transport::ConnectionRecord>(Region::connections, 0).state ==
          transport::ConnectionState::free);
}

TEST_CASE("carry: what is cut off, damaged or of another version is not believed") {
    const std::string whole = sample();
    for (std::size_t size = 0; size < whole.size(); ++size) {
        CHECK(!CarryText::parse(std::string_view(whole).substr(0, size)).ok());
    }
    std::mt19937_64 random(seed());
    for (int round = 0; round < 2'000; ++round) {
        std::string damaged = whole;
        damaged[random() % damaged.size()] ^= static_cast<char>(1u << random() % 8);
        CHECK(!CarryText::parse(damaged).ok());
    }
    std::string other = whole;
    other[std::string("keel-carry ").size()] = '2';
    const auto result = CarryText::parse(sealed(other));
    REQUIRE(!result.ok());
    CHECK(result.error().message.find("version") != std::string::npos);
}

TEST_CASE("carry: no description, however wrong, does more than lose connections") {
    std::mt19937_64 random(seed());
    const std::string whole = sample();
    const std::size_t begin = whole.find('\n') + 1;
    const std::size_t end = whole.size() - 13;
    std::uint64_t understood = 0;
    for (int round = 0; round < 5'000; ++round) {
        std::string wrong = whole;
        for (std::uint64_t count = 1 + random() % 4; count != 0; --count) {
            wrong[begin + random() % (end - begin)] = static_cast<char>(random());
        }
        if (const auto text = CarryText::parse(sealed(wrong)); text.ok()) {
            Successor successor;
            understood += 1;
            CHECK(successor.take(text.value()).connections <= 1);
            CHECK(successor.buffers.bytes_in_use() == 0);
        }
    }
    CHECK(understood > 1'000);
}

TEST_CASE("carry: records with any values in known fields are survived") {
    std::mt19937_64 random(seed());
    const CarryText whole = parsed(sample());
    const auto any = [&]() -> std::uint64_t {
        constexpr std::uint64_t interesting[] = {
            0,       1, 2, 31, 32, 127, 128, 4095, 4096, ~0ull, 8192, 65535, 65536, 131072, (1ull << 32) - 1,
            1u << 31};
        return random() % 3 == 0 ? random() : interesting[random() % std::size(interesting)];
    };
    std::uint64_t rebuilt = 0;
    for (int round = 0; round < 5'000; ++round) {
        CarryWriter out;
        const std::uint64_t changes_one_in = 10 + random() % 100;
        for (std::size_t index = 0; index < whole.size(); ++index) {
            const CarryRecord record = whole.at(index);
            for (std::uint64_t copies = random() % 50 == 0 ? random() % 3 : 1; copies != 0; --copies) {
                out.begin(record.kind());
                for (const char* name : {"sqe",
                                         "stream_offset",
                                         "response_sequence",
                                         "data_offset",
                                         "data_length",
                                         "buffer_bytes",
                                         "buffer_wanted",
                                         "received_bytes",
                                         "result0",
                                         "progress",
                                         "data_region",
                                         "status",
                                         "state",
                                         "direction",
                                         "in_capsule",
                                         "transfer_tag",
                                         "slot",
                                         "bytes_that_count",
                                         "id",
                                         "transmit_slots",
                                         "transmit_tail",
                                         "split_sequence",
                                         "split_begin",
                                         "qid",
                                         "entries",
                                         "outstanding_r2t",
                                         "host_alignment",
                                         "consumed",
                                         "capsules",
                                         "remaining",
                                         "data_position",
                                         "pdu_data_begin",
                                         "pdu_data_bytes",
                                         "phase",
                                         "receiving_command",
                                         "of_controller",
                                         "received",
                                         "queue_end",
                                         "unread",
                                         "control",
                                         "split",
                                         "sequence",
                                         "data_bytes",
                                         "command",
                                         "padding_bytes",
                                         "header",
                                         "trailer",
                                         "region",
                                         "name",
                                         "nqn",
                                         "of_subsystem",
                                         "subsystem_nqn",
                                         "host_nqn",
                                         "cntlid",
                                         "kind",
                                         "errors_logged",
                                         "count",
                                         "changed_count",
                                         "number",
                                         "restarts"}) {
                    if (random() % changes_one_in == 0) {
                        out.number(name, any());
                    } else if (random() % changes_one_in == 0) {
                        out.text(name, std::string(any() % 70'000, 'z'));
                    } else if (const auto value = record.find(name)) {
                        out.text(name, *value);
                    }
                }
            }
        }
        Successor successor;
        rebuilt += successor.take(parsed(out.finish())).connections;
        CHECK(successor.buffers.bytes_in_use() == 0);
    }
    CHECK(rebuilt > 0);
}

}  // namespace engine
