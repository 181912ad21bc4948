// Rebuilding an arena from a description: see carry.h. Numbers are compared before they are used, and a
// connection is written only when all of it made sense.

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>

#include "engine/arena_layout.h"
#include "engine/carry.h"
#include "engine/carry_fields.h"

namespace engine {

namespace {

using nvme::CommandRecord;
using nvme::CommandState;
using transport::ConnectionRecord;
using transport::MemoryRegions;
using transport::ReceivePhase;
using transport::ReceiveState;
using transport::TransmitEntry;

void put(void* to, std::string_view bytes) {
    if (!bytes.empty()) {
        std::memcpy(to, bytes.data(), bytes.size());
    }
}

// A connection while its records are read.
struct Draft {
    struct Slot {
        std::uint16_t number = 0;
        CommandRecord record{};
        std::uint32_t bytes_that_count = 0;
        std::uint64_t old_offset = 0;
        bool in_pool = false;  // owns a buffer that the successor needs
    };
    ConnectionRecord record{};
    ReceiveState state{};
    std::uint64_t received = 0;
    std::uint64_t of_controller = 0;
    std::uint64_t queue_end = 0;
    std::string_view unread, control, split;
    std::vector<Slot> commands;
    std::vector<std::pair<std::uint64_t, TransmitEntry>> sends;  // by sequence number
    const char* fault = nullptr;
};

class Restorer {
  public:
    explicit Restorer(const CarryTarget& target) : target_(target) {}

    CarryResult all(const CarryText& text) {
        for (std::size_t index = 0; index < text.size(); ++index) {
            record(text.at(index));
        }
        finish_connection();
        for (const auto& [offset, bytes] : buffers_) {
            target_.buffers.pool_of(offset).release(offset, bytes);
        }
        return std::move(result_);
    }

  private:
    template <typename Record>
    static bool read(const CarryRecord& in, Record& record) {
        FieldReader reader{in};
        each_field(reader, record);
        return reader.good;
    }

    template <typename Record>
    std::span<Record> region(Region number, std::uint32_t count) {
        return records<Record>(target_.arena, number, count);
    }

    void record(const CarryRecord& in);
    void memory(const CarryRecord& in);
    void restart(const CarryRecord& in);
    void subsystem(const CarryRecord& in);
    void name_space(const CarryRecord& in);
    void controller(const CarryRecord& in);
    void error(const CarryRecord& in);
    void begin_connection(const CarryRecord& in);
    void command(const CarryRecord& in);
    void send(const CarryRecord& in);
    void finish_connection();
    const char* check();
    const char* check_commands();
    const char* check_sends();
    bool copy_buffers();
    void write();

    const CarryTarget& target_;
    CarryResult result_;
    std::map<std::uint64_t, std::uint32_t> subsystems_, controllers_;  // old slot → new slot
    nvme::ControllerRecord* controller_ = nullptr;                     // that errors belong to
    std::uint32_t next_namespace_ = 0;
    std::uint32_t next_connection_ = 0;
    std::optional<Draft> draft_;
    std::vector<std::pair<std::uint64_t, std::uint32_t>> buffers_;  // taken from the pool while choosing
};

void Restorer::record(const CarryRecord& in) {
    const std::string_view kind = in.kind();
    if (kind == "command") {
        command(in);
        return;
    }
    if (kind == "send") {
        send(in);
        return;
    }
    if (kind == "error") {
        error(in);
        return;
    }
    constexpr std::pair<std::string_view, void (Restorer::*)(const CarryRecord&)> kinds[] = {
        {"memory", &Restorer::memory},
        {"restarts", &Restorer::restart},
        {"restart", &Restorer::restart},
        {"subsystem", &Restorer::subsystem},
        {"namespace", &Restorer::name_space},
        {"controller", &Restorer::controller},
        {"connection", &Restorer::begin_connection},
    };
    finish_connection();
    controller_ = nullptr;
    for (const auto& [name, function] : kinds) {
        if (kind == name) {
            (this->*function)(in);
        }
    }
    if (kind == "arena") {
        result_.discovery_generation = in.number("discovery_generation").value_or(0);
    } else if (kind == "lost") {
        result_.lost.emplace_back(in.number("id").value_or(0), in.text("reason"));
    }
}

void Restorer::memory(const CarryRecord& in) {
    const auto all = region<MemoryRecord>(Region::memories, limits::devices_max);
    const std::uint64_t number = in.number("region").value_or(0);
    MemoryRecord record{};
    if (number >= first_device_region && number - first_device_region < all.size() && read(in, record) &&
        record.name[0] != '\0') {
        record.state = 1;
        all[number - first_device_region] = record;
    }
}

void Restorer::restart(const CarryRecord& in) {
    auto& area = target_.arena.slot<RestartArea>(Region::restarts, 0);
    RestartRecord record{};
    if (in.kind() == "restarts") {
        RestartTotals totals{};
        area.totals = read(in, totals) ? totals : RestartTotals{};
    } else if (read(in, record) && record.number != 0) {
        area.records[(record.number - 1) % RestartArea::kept] = record;
    }
}

void Restorer::subsystem(const CarryRecord& in) {
    const auto all = region<nvme::SubsystemRecord>(Region::subsystems, limits::subsystems_max);
    const auto slot = static_cast<std::uint32_t>(subsystems_.size());
    nvme::SubsystemRecord record{};
    if (slot < all.size() && read(in, record) && record.nqn[0] != '\0' &&
        subsystems_.try_emplace(in.number("slot").value_or(0), slot).second) {
        record.state = nvme::RecordState::in_use;
        all[slot] = record;
    }
}

void Restorer::name_space(const CarryRecord& in) {
    const auto all = region<nvme::NamespaceRecord>(Region::namespaces, namespace_records);
    const auto owner = subsystems_.find(in.number("of_subsystem").value_or(~0ull));
    nvme::NamespaceRecord record{};
    if (owner != subsystems_.end() && next_namespace_ < all.size() && read(in, record)) {
        record.state = nvme::RecordState::in_use;
        record.subsystem = owner->second + 1;
        all[next_namespace_++] = record;
    }
}

void Restorer::controller(const CarryRecord& in) {
    const auto all = region<nvme::ControllerRecord>(Region::controllers, target_.options.controllers_max);
    const auto slot = static_cast<std::uint32_t>(controllers_.size());
    if (slot >= all.size() || !read(in, all[slot])) {
        if (slot < all.size()) {
            std::memset(static_cast<void*>(&all[slot]), 0, sizeof all[slot]);
        }
        return;
    }
    if (!controllers_.try_emplace(in.number("slot").value_or(0), slot).second) {
        return;
    }
    controller_ = &all[slot];
    controller_->state = nvme::RecordState::in_use;
    controller_->errors_logged = 0;  // the ring is written anew, entry by entry
}

void Restorer::error(const CarryRecord& in) {
    nvme::ErrorRecord record{};
    if (controller_ != nullptr && read(in, record)) {
        controller_->errors[controller_->errors_logged++ % limits::error_log_entries] = record;
    }
}

void Restorer::begin_connection(const CarryRecord& in) {
    Draft& draft = draft_.emplace();
    const bool good = read(in, draft.record) && read(in, draft.state);
    const auto received = in.number("received");
    const auto of_controller = in.number("of_controller");
    const auto queue_end = in.number("queue_end");
    draft.fault = good && received && of_controller && queue_end
                      ? nullptr
                      : "its description does not fit this version";
    draft.received = received.value_or(0);
    draft.of_controller = of_controller.value_or(0);
    draft.queue_end = queue_end.value_or(0);
    draft.unread = in.text("unread");
    draft.control = in.text("control");
    draft.split = in.text("split");
}

void Restorer::command(const CarryRecord& in) {
    if (!draft_) {
        return;
    }
    Draft::Slot& slot = draft_->commands.emplace_back();
    const std::uint64_t number = in.number("slot").value_or(~0ull);
    const std::uint64_t count = in.number("bytes_that_count").value_or(~0ull);
    if (!read(in, slot.record) || number >= limits::command_slots_max || count > slot.record.buffer_bytes) {
        draft_->fault = "a command's description does not fit this version";
        return;
    }
    slot.number = static_cast<std::uint16_t>(number);
    slot.bytes_that_count = static_cast<std::uint32_t>(count);
}

void Restorer::send(const CarryRecord& in) {
    if (!draft_) {
        return;
    }
    TransmitEntry entry{};
    const std::string_view header = in.text("header");
    const std::string_view trailer = in.text("trailer");
    const auto sequence = in.number("sequence");
    if (!read(in, entry) || !sequence || header.size() > sizeof entry.header ||
        (!trailer.empty() && trailer.size() != sizeof entry.trailer) || entry.padding_bytes > 127) {
        draft_->fault = "its transmit queue does not fit this version";
        return;
    }
    entry.header_bytes = static_cast<std::uint8_t>(header.size());
    entry.trailer_bytes = static_cast<std::uint8_t>(trailer.size());
    put(entry.header, header);
    put(entry.trailer, trailer);
    draft_->sends.emplace_back(*sequence, entry);
}

void Restorer::finish_connection() {
    if (!draft_) {
        return;
    }
    const char* fault = draft_->fault != nullptr ? draft_->fault : check();
    if (fault == nullptr && !copy_buffers()) {
        fault = "the data of its commands does not fit this version's pool";
    }
    if (fault == nullptr) {
        write();
        ++result_.connections;
    } else {
        result_.lost.emplace_back(draft_->record.id, fault);
    }
    draft_.reset();
}

const char* Restorer::check() {
    Draft& draft = *draft_;
    ConnectionRecord& record = draft.record;
    const ReceiveState& state = draft.state;
    if (next_connection_ >= target_.options.connections_max) {
        return "this version is set to fewer connections";
    }
    const auto received = target_.received(record.id);
    if (!received) {
        return "the keeper does not hold it";
    }
    if (*received != draft.received) {
        return "its socket was read after it had been described";
    }
    if (record.queue.entries < limits::queue_entries_min ||
        record.queue.entries > limits::queue_entries_max ||
        record.queue.qid > limits::io_queues_per_controller_max || record.host_alignment > 31) {
        return "its queue does not fit this version";
    }
    if (draft.of_controller != 0) {
        const auto found = controllers_.find(draft.of_controller - 1);
        if (found == controllers_.end()) {
            return "its controller was not described";
        }
        record.queue.controller = found->second + 1;
    }
    if (state.phase >= ReceivePhase::closing || state.consumed > draft.received) {
        return "what it receives is not understood";
    }
    const std::uint64_t begins =
        state.phase == ReceivePhase::data ? state.consumed + state.remaining : state.consumed;
    const std::uint64_t unread = draft.received > begins ? draft.received - begins : 0;
    if (unread != draft.unread.size() || unread > limits::receive_buffer_bytes) {
        return "its unread bytes do not fit this version";
    }
    if (const char* fault = check_commands()) {
        return fault;
    }
    return check_sends();
}

const char* Restorer::check_commands() {
    Draft& draft = *draft_;
    const std::uint32_t slots =
        std::min<std::uint32_t>(draft.record.queue.entries * 2u, limits::command_slots_max);
    for (Draft::Slot& slot : draft.commands) {
        CommandRecord& record = slot.record;
        if (slot.number >= slots || record.state == CommandState::free || record.state > CommandState::done ||
            record.direction > nvme::DataDirection::to_host ||
            record.data_length > limits::transfer_bytes_max ||
            record.buffer_bytes > limits::data_block_bytes_max) {
            return "a command does not fit this version";
        }
        slot.old_offset = record.data_offset;
        slot.in_pool = record.buffer_bytes != 0 &&
                       (slot.bytes_that_count != 0 || record.state == CommandState::receiving);
        if (slot.in_pool &&
            (record.data_region != MemoryRegions::data_pool || record.data_offset > target_.old_pool.size() ||
             slot.bytes_that_count > target_.old_pool.size() - record.data_offset)) {
            return "a command's data lies outside of the old pool";
        }
        if (!slot.in_pool) {  // a buffer whose content does not matter is allocated again when it is needed
            record.buffer_bytes = 0;
            if (record.data_region == MemoryRegions::data_pool) {
                record.data_region = nvme::no_data_region;
                record.data_offset = 0;
            }
        }
    }
    std::sort(draft.commands.begin(), draft.commands.end(),
              [](const Draft::Slot& left, const Draft::Slot& right) { return left.number < right.number; });
    for (std::size_t i = 1; i < draft.commands.size(); ++i) {
        if (draft.commands[i].number == draft.commands[i - 1].number) {
            return "two commands have one slot";
        }
    }
    return nullptr;
}

const char* Restorer::check_sends() {
    Draft& draft = *draft_;
    ConnectionRecord& record = draft.record;
    const std::uint32_t wanted =
        std::min<std::uint32_t>(std::bit_ceil(record.queue.entries * 2u + 64), limits::transmit_entries_max);
    if (record.transmit_slots > limits::transmit_entries_max) {
        record.transmit_slots = limits::transmit_entries_max;
    }
    record.transmit_slots = std::bit_ceil(std::max(record.transmit_slots, wanted));
    constexpr const char* fault = "its transmit queue does not fit this version";
    if (draft.sends.size() >= record.transmit_slots || draft.sends.size() > record.transmit_tail ||
        draft.control.size() > transport::control_bytes || draft.split.size() > transport::split_bytes_max) {
        return fault;
    }
    std::uint64_t sequence = record.transmit_tail - draft.sends.size();
    std::uint64_t end = draft.sends.empty() ? draft.queue_end : draft.sends.front().second.stream_offset;
    for (const auto& [number, entry] : draft.sends) {
        if (number != sequence++ || entry.stream_offset != end) {
            return fault;
        }
        end = entry.end();
    }
    return end == draft.queue_end ? nullptr : fault;
}

// New places in the pool, and what has to be there.
bool Restorer::copy_buffers() {
    std::map<std::uint64_t, const Draft::Slot*> by_old_offset;
    for (Draft::Slot& slot : draft_->commands) {
        if (!slot.in_pool) {
            continue;
        }
        auto offset = target_.buffers.common().allocate(slot.record.buffer_bytes);
        if (!offset) {
            offset = target_.buffers.reserve().allocate(slot.record.buffer_bytes);
        }
        if (!offset) {
            return false;
        }
        buffers_.emplace_back(*offset, slot.record.buffer_bytes);
        if (slot.bytes_that_count != 0) {
            std::memcpy(target_.buffers.at(*offset), target_.old_pool.data() + slot.old_offset,
                        slot.bytes_that_count);
        }
        slot.record.data_offset = *offset;
        if (!by_old_offset.emplace(slot.old_offset, &slot).second) {
            return false;
        }
    }
    for (auto& [sequence, entry] : draft_->sends) {
        if (entry.data_bytes == 0 || entry.data_region != MemoryRegions::data_pool) {
            continue;
        }
        auto found = by_old_offset.upper_bound(entry.data_offset);
        if (found == by_old_offset.begin()) {
            return false;
        }
        const auto& [old_offset, slot] = *--found;
        const std::uint64_t within = entry.data_offset - old_offset;
        if (within > slot->bytes_that_count || entry.data_bytes > slot->bytes_that_count - within) {
            return false;
        }
        entry.data_offset = slot->record.data_offset + within;
    }
    return true;
}

void Restorer::write() {
    Draft& draft = *draft_;
    const std::uint32_t slot = next_connection_++;
    auto& record = target_.arena.slot<ConnectionRecord>(Region::connections, slot);
    auto* const commands = &target_.arena.slot<CommandRecord>(Region::commands, slot);
    auto* const entries = &target_.arena.slot<TransmitEntry>(Region::transmit, slot);
    auto* const stream = &target_.arena.slot<std::byte>(Region::stream, slot);

    put(stream, draft.unread);
    draft.state.base_address = 0;
    draft.state.base_stream = draft.state.phase == ReceivePhase::data
                                  ? draft.state.consumed + draft.state.remaining
                                  : draft.state.consumed;
    for (const Draft::Slot& command : draft.commands) {
        commands[command.number] = command.record;
    }
    const std::uint32_t mask = draft.record.transmit_slots - 1;
    if (draft.sends.empty() && draft.record.transmit_tail != 0) {
        TransmitEntry last{};  // all of it was sent; it says where the queue ends
        last.stream_offset = draft.queue_end;
        last.command = transport::no_command;
        entries[(draft.record.transmit_tail - 1) & mask] = last;
    }
    for (const auto& [sequence, entry] : draft.sends) {
        entries[sequence & mask] = entry;
    }
    if (draft.split.empty()) {
        draft.record.split = transport::SplitBlock{};
    } else {
        draft.record.split.bytes = static_cast<std::uint32_t>(draft.split.size());
        put(reinterpret_cast<std::byte*>(&record) + transport::split_data_offset, draft.split);
    }
    put(draft.record.control, draft.control);
    draft.record.receive.store(draft.state);
    draft.record.state = transport::ConnectionState::open;
    std::memcpy(static_cast<void*>(&record), &draft.record, sizeof record);
}

}  // namespace

CarryOrigin origin_of(const CarryText& text) {
    for (std::size_t index = 0; index < text.size(); ++index) {
        if (const CarryRecord record = text.at(index); record.kind() == "arena") {
            return {record.number("mark").value_or(0), std::string(record.text("pool"))};
        }
    }
    return {};
}

CarryResult restore(const CarryText& text, const CarryTarget& target) { return Restorer(target).all(text); }

}  // namespace engine
