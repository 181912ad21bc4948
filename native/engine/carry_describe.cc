// Writing the description: see carry.h.

#include <algorithm>
#include <cstring>

#include "engine/arena_layout.h"
#include "engine/carry.h"
#include "engine/carry_fields.h"

namespace engine {

namespace {

using nvme::CommandRecord;
using nvme::CommandState;
using nvme::DataDirection;
using transport::ConnectionRecord;
using transport::ReceivePhase;
using transport::ReceiveState;
using transport::TransmitEntry;

class Describer {
  public:
    explicit Describer(const CarrySource& source) : source_(source) {}

    std::string all() {
        begin("arena");
        out_.number("mark", source_.mark);
        out_.text("pool", source_.pool_name);
        out_.number("discovery_generation", source_.arena.header().counters[counter_generation]);
        memories();
        restarts();
        subsystems();
        controllers();
        for (std::uint32_t slot = 0; slot < source_.options.connections_max; ++slot) {
            if (transport::TcpConnection* live = source_.transport.connection(slot); live != nullptr) {
                connection(*live);
            }
        }
        return out_.finish();
    }

  private:
    void begin(const char* kind) { out_.begin(kind); }

    template <typename Record>
    void fields(const Record& record) {
        each_field(write_, record);
    }

    template <typename Record>
    std::span<Record> region(Region number, std::uint32_t count) {
        return records<Record>(source_.arena, number, count);
    }

    void memories();
    void restarts();
    void subsystems();
    void controllers();
    void connection(transport::TcpConnection& live);
    void stream(const transport::TcpConnection& live, const ReceiveState& state);
    void command(const CommandRecord& record, std::uint16_t slot, const ReceiveState& state,
                 std::uint64_t received);
    static const TransmitEntry& entry(const transport::TcpConnection& live, std::uint64_t sequence) {
        return live.slots().transmit[sequence & (live.record().transmit_slots - 1)];
    }

    const CarrySource& source_;
    CarryWriter out_;
    FieldWriter write_{out_};
};

void Describer::memories() {
    const auto all = region<MemoryRecord>(Region::memories, limits::devices_max);
    for (std::size_t slot = 0; slot < all.size(); ++slot) {
        if (all[slot].state != 0) {
            begin("memory");
            out_.number("region", first_device_region + slot);
            fields(all[slot]);
        }
    }
}

void Describer::restarts() {
    const auto& area = source_.arena.slot<RestartArea>(Region::restarts, 0);
    begin("restarts");
    fields(area.totals);
    const std::vector<RestartRecord> history = restarts_of(area);
    for (auto record = history.rbegin(); record != history.rend(); ++record) {
        begin("restart");
        fields(*record);
    }
}

void Describer::subsystems() {
    const auto all = region<nvme::SubsystemRecord>(Region::subsystems, limits::subsystems_max);
    for (std::size_t slot = 0; slot < all.size(); ++slot) {
        if (all[slot].state == nvme::RecordState::in_use) {
            begin("subsystem");
            out_.number("slot", slot);
            fields(all[slot]);
        }
    }
    for (const auto& record : region<nvme::NamespaceRecord>(Region::namespaces, namespace_records)) {
        if (record.state == nvme::RecordState::in_use && record.subsystem != 0) {
            begin("namespace");
            out_.number("of_subsystem", record.subsystem - 1);
            fields(record);
        }
    }
}

void Describer::controllers() {
    const auto all = region<nvme::ControllerRecord>(Region::controllers, source_.options.controllers_max);
    for (std::size_t slot = 0; slot < all.size(); ++slot) {
        const nvme::ControllerRecord& record = all[slot];
        if (record.state != nvme::RecordState::in_use) {
            continue;
        }
        begin("controller");
        out_.number("slot", slot);
        fields(record);
        const std::uint64_t kept = std::min<std::uint64_t>(record.errors_logged, limits::error_log_entries);
        for (std::uint64_t back = kept; back != 0; --back) {  // oldest first
            begin("error");
            fields(record.errors[(record.errors_logged - back) % limits::error_log_entries]);
        }
    }
}

void Describer::connection(transport::TcpConnection& live) {
    const ConnectionRecord& record = live.record();
    const ReceiveState& state = record.receive.current();
    if (live.ending() || state.phase == ReceivePhase::closing || live.receives()) {
        begin("lost");
        out_.number("id", record.id);
        out_.text("reason", live.receives() ? "its last receive did not end" : "it was being closed");
        return;
    }
    begin("connection");
    fields(record);
    fields(state);
    out_.number("of_controller", record.queue.controller);  // slot + 1
    out_.number("received", live.received_position());
    stream(live, state);
    out_.bytes("control", std::as_bytes(std::span(record.control)));
    if (record.transmit_tail != 0) {
        out_.number("queue_end", entry(live, record.transmit_tail - 1).end());
    }
    if (record.split.sequence > live.first_unsent()) {
        out_.bytes("split", live.kept_block().first(record.split.bytes));
    }
    for (nvme::Command& each : live.queue().commands()) {
        const CommandRecord& found = *each.record;
        const bool answered =
            found.state == CommandState::done && found.response_sequence < live.first_unsent();
        if (found.state != CommandState::free && !answered) {
            command(found, each.slot, state, live.received_position());
        }
    }
    for (std::uint64_t sequence = live.first_unsent(); sequence != record.transmit_tail; ++sequence) {
        const TransmitEntry& unsent = entry(live, sequence);
        begin("send");
        out_.number("sequence", sequence);
        fields(unsent);
        out_.bytes("header", std::span(unsent.header).first(unsent.header_bytes));
        out_.bytes("trailer", std::span(unsent.trailer).first(unsent.trailer_bytes));
    }
}

// Bytes that were received and not consumed, but for data that lies in its command's buffer.
void Describer::stream(const transport::TcpConnection& live, const ReceiveState& state) {
    const std::uint64_t begins =
        state.phase == ReceivePhase::data ? state.consumed + state.remaining : state.consumed;
    if (live.received_position() > begins) {
        const std::uint64_t place = state.base_address + (begins - state.base_stream);
        out_.bytes("unread", live.slots().stream.subspan(place, live.received_position() - begins));
    }
}

// How many bytes at the beginning of a command's buffer the successor needs.
std::uint32_t bytes_that_count(const CommandRecord& record, std::uint16_t slot, const ReceiveState& state,
                               std::uint64_t received) {
    std::uint64_t bytes = 0;
    switch (record.state) {
        case CommandState::free: break;
        case CommandState::receiving:
            if (state.command == slot && state.phase == ReceivePhase::data) {
                bytes =
                    state.data_position + std::min<std::uint64_t>(received - state.consumed, state.remaining);
            } else if ((record.in_capsule & nvme::data_in_capsule) != 0) {
                bytes = record.buffer_bytes;
            } else if (state.command == slot) {
                bytes = std::max(record.received_bytes, state.command_received);
            } else {
                bytes = record.received_bytes;
            }
            break;
        case CommandState::ready:
            bytes = record.progress != 0                               ? record.buffer_bytes
                    : record.direction == DataDirection::to_controller ? record.data_length
                                                                       : 0;
            break;
        case CommandState::done:
            bytes = record.direction == DataDirection::to_host && record.status == 0 ? record.data_length : 0;
            break;
    }
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes, record.buffer_bytes));
}

void Describer::command(const CommandRecord& record, std::uint16_t slot, const ReceiveState& state,
                        std::uint64_t received) {
    begin("command");
    out_.number("slot", slot);
    fields(record);
    out_.number("bytes_that_count", bytes_that_count(record, slot, state, received));
}

}  // namespace

std::string describe(const CarrySource& source) { return Describer(source).all(); }

}  // namespace engine
