// Taking a connection over from a dead process. The arena says what was committed, the socket says how far
// both streams went; together they say what is left to do. Whatever contradicts is refused: the connection is
// closed, nothing is guessed. Killed in the middle, this starts over: it changes nothing that it could not
// find again.

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/crash_point.h"
#include "nvme/controller.h"
#include "nvme/subsystem.h"
#include "transport/stream_position.h"
#include "transport/tcp_connection.h"
#include "transport/tcp_transport.h"

namespace transport {

bool TcpConnection::refuse(std::string why) {
    reason_ = "cannot be taken over: " + std::move(why);
    return false;
}

bool TcpConnection::adopt() {
    const StreamPosition position = read_stream_position(socket_);
    if (!position.alive) {
        return refuse("the host closed it");
    }
    if (record_.state != ConnectionState::open) {
        return refuse("its record is not in use");
    }
    const std::uint32_t ring = record_.transmit_slots;
    if (ring == 0 || ring > limits::transmit_entries_max || (ring & (ring - 1)) != 0 ||
        record_.outstanding_r2t == 0 || record_.outstanding_r2t > 8 || record_.receive.active > 1) {
        return refuse("its record is damaged");
    }
    ReceiveState state = record_.receive.current();
    const std::uint64_t room =
        slots_.stream.size() - std::min<std::uint64_t>(state.base_address, slots_.stream.size());
    if (position.received < state.consumed || state.base_address > slots_.stream.size()) {
        return refuse("the socket was read less far than the record says");
    }
    switch (state.phase) {
        case ReceivePhase::handshake:
        case ReceivePhase::header:
        case ReceivePhase::skip:
            if (state.consumed < state.base_stream || position.received > state.base_stream + room) {
                return refuse("bytes were received that have no place");
            }
            break;
        case ReceivePhase::data:
            if (state.base_stream > state.consumed + state.remaining) {
                return refuse("its data has no place");
            }
            if (position.received > state.base_stream + room) {
                return refuse("bytes were received that have no place");
            }
            break;
        case ReceivePhase::closing: return refuse("it was being closed");
        default: return refuse("its phase is unknown");
    }
    received_ = position.received;
    return adopt_transmit(position.sent) && adopt_commands(state);
}

// Which slots count, in the order of the stream, and what each of them still needs.
bool TcpConnection::adopt_commands(ReceiveState& state) {
    std::vector<std::uint16_t> live;
    const std::size_t entries = queue_.commands().size();
    for (std::uint32_t slot = 0; slot < entries; ++slot) {
        nvme::CommandRecord& command = slots_.commands[slot];
        if (command.state == nvme::CommandState::free) {
            continue;
        }
        if (command.stream_offset >= state.consumed &&
            !(state.phase == ReceivePhase::data && state.command == slot) &&
            !(state.phase == ReceivePhase::skip && state.command == slot)) {
            // Its capsule was not consumed: it will be parsed again.
            durable::commit(command.state, nvme::CommandState::free);
            continue;
        }
        if (command.state > nvme::CommandState::done || command.data_length > limits::transfer_bytes_max) {
            return refuse("a command slot is damaged");
        }
        live.push_back(static_cast<std::uint16_t>(slot));
    }
    std::sort(live.begin(), live.end(), [&](std::uint16_t left, std::uint16_t right) {
        return slots_.commands[left].stream_offset < slots_.commands[right].stream_offset;
    });
    // The last PDU's data may be in place although its command does not say so yet.
    if (state.phase == ReceivePhase::header && state.command != no_command && state.command < entries) {
        nvme::CommandRecord& command = slots_.commands[state.command];
        if (command.state == nvme::CommandState::receiving) {
            command.received_bytes = state.command_received;
        }
    }
    if (state.phase == ReceivePhase::data || state.phase == ReceivePhase::skip) {
        if (state.command >= entries ||
            slots_.commands[state.command].state != nvme::CommandState::receiving) {
            return refuse("the command that receives data is not in its slot");
        }
        const nvme::CommandRecord& command = slots_.commands[state.command];
        if (state.phase == ReceivePhase::data &&
            (std::uint64_t{state.data_position} + state.remaining > command.buffer_bytes ||
             std::uint64_t{state.pdu_data_begin} + state.pdu_data_bytes > command.buffer_bytes)) {
            return refuse("the data would not fit its buffer");
        }
    }
    for (const std::uint16_t slot : live) {
        const nvme::CommandRecord& command = slots_.commands[slot];
        if (command.buffer_bytes != 0 &&
            (command.buffer_bytes > limits::transfer_bytes_max ||
             !around_.regions.contains(MemoryRegions::data_pool, command.data_offset,
                                       command.buffer_bytes))) {
            return refuse("a command's buffer lies outside of the pool");
        }
        if (command.data_region != nvme::no_data_region && command.state == nvme::CommandState::done &&
            command.data_length != 0 &&
            !around_.regions.contains(command.data_region, command.data_offset, command.data_length)) {
            return refuse("a command's data lies in memory that is gone");
        }
    }
    if (!queue_.adopt(live)) {
        return refuse("its queue pair or controller is not what it was");
    }
    adopted_live_ = std::move(live);
    return true;
}

bool TcpConnection::adopt_transmit(std::uint64_t sent_position) {
    const std::uint64_t tail = record_.transmit_tail;
    first_unsent_ = tail;
    sent_position_ = sent_position;
    queued_end_ = tail == 0 ? 0 : entry(tail - 1).end();
    if (sent_position > queued_end_) {
        return refuse("more was sent than had been queued");
    }
    // Backwards to the entry that holds the position. Entries further back may be half overwritten: they are
    // not read.
    while (first_unsent_ != 0 && tail - first_unsent_ < record_.transmit_slots) {
        const TransmitEntry& last = entry(first_unsent_ - 1);
        if (last.end() <= sent_position) {
            break;
        }
        --first_unsent_;
        if (last.stream_offset <= sent_position) {
            break;
        }
    }
    if (first_unsent_ != tail && entry(first_unsent_).stream_offset > sent_position) {
        return refuse("the transmit queue does not reach back to what was sent");
    }
    for (std::uint64_t sequence = first_unsent_; sequence != tail; ++sequence) {
        const TransmitEntry& next = entry(sequence);
        const bool known =
            next.data_bytes == 0 ||
            (next.data_region == control_region
                 ? next.data_offset + next.data_bytes <= control_bytes
                 : around_.regions.contains(next.data_region, next.data_offset, next.data_bytes));
        if (!known || (next.command != no_command && next.command >= queue_.commands().size())) {
            return refuse("its transmit queue is damaged");
        }
    }
    keep_split_block();
    return true;
}

// Sends and receives again. Nothing here waits for a device.
void TcpConnection::resume() {
    const ReceiveState& state = record_.receive.current();
    if (state.phase == ReceivePhase::header && record_.transmit_tail == 0) {
        // The ICReq was consumed, its answer not queued.
        queue_control(control_ic_resp, sizeof(wire::IcResp));
    }
    for (const std::uint16_t slot : adopted_live_) {
        nvme::Command& command = queue_.commands()[slot];
        nvme::CommandRecord& record = *command.record;
        EK_CRASH_POINT("tcp.recovery.command");
        switch (record.state) {
            case nvme::CommandState::done:
                if (record.response_sequence < first_unsent_) {
                    queue_.release(command);
                } else if (record.response_sequence >= record_.transmit_tail) {
                    respond(command);
                }
                break;
            case nvme::CommandState::ready: adopted_ready_.push_back(slot); break;
            case nvme::CommandState::receiving: resume_receiving(command, state); break;
            case nvme::CommandState::free: break;
        }
    }
    adopted_live_.clear();
    flush_.schedule();
    // Reading waits until what was in flight is on its way again: see execute_adopted.
}

void TcpConnection::resume_receiving(nvme::Command& command, const ReceiveState& state) {
    nvme::CommandRecord& record = *command.record;
    const bool being_received = (state.phase == ReceivePhase::data || state.phase == ReceivePhase::skip) &&
                                state.command == command.slot;
    if ((record.in_capsule & nvme::data_in_capsule) != 0) {
        if (!being_received) {
            // All of the capsule is here, the slot was not made ready yet.
            ready_after_adoption(command, true);
        }
        return;
    }
    record.progress = 0;
    if (record.buffer_bytes == 0) {  // nothing was asked for
        record.received_bytes = 0;
        record.response_sequence = ~std::uint64_t{0};
        adopted_waiting_.push_back(command.slot);
        return;
    }
    if (record.response_sequence != ~std::uint64_t{0}) {
        const std::uint64_t last = record.response_sequence >> r2t_count_bits;
        const auto count =
            static_cast<std::uint32_t>(record.response_sequence & ((1u << r2t_count_bits) - 1));
        record.progress = last >= record_.transmit_tail && count != 0 ? count - 1 : count;
    }
    if (record.received_bytes >= record.data_length) {
        ready_after_adoption(command, false);
        return;
    }
    ++requests_open_;
    command.requested_at = around_.reactor.now();
    if (!being_received) {
        request_data(command);
    }
}

void TcpConnection::ready_after_adoption(nvme::Command& command, bool in_capsule) {
    nvme::CommandRecord& record = *command.record;
    const auto offset = static_cast<std::uint32_t>(record.sqe.dptr.address);
    if (in_capsule && offset != 0 && (record.in_capsule & nvme::data_rejected) == 0 &&
        command.data != nullptr) {
        std::memmove(command.data, command.data + offset, record.data_length);
        record.sqe.dptr.address = 0;
    }
    record.progress = 0;
    record.response_sequence = ~std::uint64_t{0};
    durable::commit(record.state, nvme::CommandState::ready);
    adopted_ready_.push_back(command.slot);
}

// The devices are free of the dead process: what was in flight is executed again, in the order of the stream.
std::uint32_t TcpConnection::execute_adopted(nvme::ReplayTurn turn) {
    using nvme::InFlight;
    const nvme::Controller* controller = queue_.controller();
    const InFlight policy = controller != nullptr && queue_.qid() != 0
                                ? controller->subsystem().spec().in_flight
                                : InFlight::replay;
    if (policy == InFlight::drop && !adopted_ready_.empty()) {
        adopted_ready_.clear();
        disconnect(false, "commands in flight are dropped by policy");
        return 0;
    }
    std::uint32_t count = 0;
    std::vector<std::uint16_t> later;
    for (const std::uint16_t slot : std::exchange(adopted_ready_, {})) {
        nvme::Command& command = queue_.commands()[slot];
        if (nvme::replay_turn(queue_, command.sqe()) != turn) {
            later.push_back(slot);
            continue;
        }
        EK_CRASH_POINT("tcp.recovery.execute");
        ++count;
        if (policy == InFlight::abort) {
            queue_.fail(command, wire::status::command_interrupted, false);
        } else {
            command.again = true;
            start(command);
        }
    }
    adopted_ready_ = std::move(later);
    reads_later_ = true;
    return count;
}

void TcpConnection::execute_interrupted() {
    ReceiveState state = record_.receive.current();
    wire::CapsuleCmd pdu;
    if (state.phase != ReceivePhase::header || received_ - state.consumed < sizeof pdu) {
        return;
    }
    std::memcpy(&pdu, stream_at(state, state.consumed), sizeof pdu);
    if (pdu.common.type == static_cast<std::uint8_t>(wire::PduType::capsule_cmd) &&
        nvme::replay_turn(queue_, pdu.sqe) == nvme::ReplayTurn::change) {
        (void)parse_one(state);
    }
}

void TcpConnection::read_adopted() {
    if (!std::exchange(reads_later_, false) || ending_) {
        return;
    }
    // Not earlier: buffers of connections that were taken over later had to be found free.
    for (const std::uint16_t slot : std::exchange(adopted_waiting_, {})) {
        go_on_receiving(queue_.commands()[slot]);
    }
    parse();
}

std::uint32_t TcpTransport::execute_adopted() {
    using nvme::ReplayTurn;
    std::uint32_t count = 0;
    const auto each = [this](const auto& act) {
        for (auto& connection : connections_) {
            if (connection && !connection->ending()) {
                act(*connection);
            }
        }
    };
    for (const ReplayTurn turn : {ReplayTurn::change, ReplayTurn::read_and_change, ReplayTurn::other}) {
        each([&](TcpConnection& connection) { count += connection.execute_adopted(turn); });
        if (turn == ReplayTurn::change) {
            each([](TcpConnection& connection) { connection.execute_interrupted(); });
        }
    }
    adopted_reads_.start_after(1);
    return count;
}

// All of them in one iteration: those that come first would be served again and again before the last.
void TcpTransport::read_adopted() {
    adopted_reads_.stop();
    for (auto& connection : connections_) {
        if (connection) {
            connection->read_adopted();
        }
    }
}

}  // namespace transport
