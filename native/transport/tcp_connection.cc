// Life of an NVMe/TCP connection: beginning, timeouts, end. See tcp_connection.h for the model.

#include "transport/tcp_connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/crash_point.h"

namespace transport {

TcpConnection::TcpConnection(Surroundings& surroundings, int socket, const TcpSlots& slots,
                             nvme::Endpoint endpoint, DigestPolicies policies,
                             std::shared_ptr<reactor::HostBuffers> buffers)
    : around_(surroundings),
      socket_(socket),
      slots_(slots),
      record_(*slots.record),
      endpoint_(std::move(endpoint)),
      policies_(policies),
      queue_(surroundings.target, *this, surroundings.reactor, surroundings.buffers.common(),
             slots.record->queue, slots.commands),
      flush_(surroundings.reactor, *this),
      progress_(surroundings.reactor, *this) {
    queue_.draw_from(std::move(buffers));
    common_waiter_.connection = this;
    receive_operation_.connection = this;
    receive_operation_.complete = [](reactor::Operation& operation, std::int32_t result) {
        static_cast<SocketOperation&>(operation).connection->received(result);
    };
    send_operation_.connection = this;
    send_operation_.complete = [](reactor::Operation& operation, std::int32_t result) {
        static_cast<SocketOperation&>(operation).connection->sent(result);
    };
    opened_at_ = last_received_at_ = last_sent_at_ = surroundings.reactor.now();
}

TcpConnection::~TcpConnection() {
    EK_CHECK(!receive_armed_ && !send_armed_, "a connection ends after its operations");
    queue_.buffers().stop_waiting_for_stream(common_waiter_, *this);
    count_unsent(0);
}

namespace {

// The smallest ring that holds a data and a response entry for each command, and some requests for data.
std::uint32_t transmit_slots_for(std::uint32_t entries) {
    return std::min<std::uint32_t>(std::bit_ceil(entries * 2 + 64), limits::transmit_entries_max);
}

}  // namespace

void TcpConnection::open(std::uint64_t id) {
    record_.id = id;
    record_.opened_ms = base::realtime_now_ms();
    record_.header_digest = 0;
    record_.data_digest = 0;
    record_.host_alignment = 0;
    record_.discovery_only = endpoint_.discovery_only;
    record_.outstanding_r2t = 1;
    record_.transmit_slots = transmit_slots_for(limits::admin_queue_entries_min);
    record_.transmit_tail = 0;
    record_.split = SplitBlock{};
    record_.queue = nvme::QueueRecord{};
    record_.queue.entries = limits::admin_queue_entries_min;
    record_.flight_count = 0;
    ReceiveState start{};
    start.command = no_command;
    record_.receive.store(start);
    EK_CRASH_POINT("tcp.open.before_state");
    durable::commit(record_.state, ConnectionState::open);
    arm_receive();
}

// The ring grows once, when Connect told the queue's size. Few entries were queued until then, so sequence
// number n lies in slot n of both the smaller and the larger ring.
void TcpConnection::queue_sized(std::uint16_t entries) {
    const std::uint32_t wanted = transmit_slots_for(entries);
    if (wanted <= record_.transmit_slots) {
        return;
    }
    EK_CHECK(record_.transmit_tail <= record_.transmit_slots, "Connect is the first command of a connection");
    durable::commit(record_.transmit_slots, wanted);
}

void TcpConnection::disconnect(bool drain, const char* reason) {
    if (ending_) {
        return;
    }
    if (reason_.empty()) {
        reason_ = reason;
    }
    if (drain) {
        draining_ = true;
    } else {
        end_requested_ = true;
    }
    flush_.schedule();
}

// Everything that was queued before the end was sent.
void TcpConnection::drained() {
    const bool after_error = draining_after_error();
    if (!after_error) {
        begin_ending(reason_.empty() ? "ended" : reason_.c_str());
        return;
    }
    if (!half_closed_) {
        // The host reads the termination request and closes. Closing with unread bytes would reset the
        // connection and take the request away from it.
        half_closed_ = true;
        half_closed_at_ = around_.reactor.now();
        ::shutdown(socket_, SHUT_WR);
        progress_.start(half_closed_deadline());
    }
}

void TcpConnection::begin_ending(const char* reason) {
    if (ending_) {
        return;
    }
    ending_ = true;
    if (reason_.empty()) {
        reason_ = reason;
    }
    stalled_ = false;
    queue_.buffers().stop_waiting_for_stream(common_waiter_, *this);
    flush_.cancel();
    progress_.stop();
    waiting_first_ = waiting_last_ = nullptr;
    keep_receiving_buffer();
    // Completes the receive and the send that are in flight.
    ::shutdown(socket_, SHUT_RDWR);
    queue_.disconnected([this] {
        queue_idle_ = true;
        finish_ending();
    });
}

// The receive that is in flight takes what lies in the socket even after the shutdown: its command's buffer
// goes back when it has ended, and not with the command.
void TcpConnection::keep_receiving_buffer() {
    const ReceiveState& state = record_.receive.current();
    if (!receive_armed_ || state.phase != ReceivePhase::data) {
        return;
    }
    nvme::CommandRecord& record = slots_.commands[state.command];
    receiving_offset_ = record.data_offset;
    receiving_bytes_ = std::exchange(record.buffer_bytes, 0u);
}

void TcpConnection::finish_ending() {
    if (!receive_armed_ && receiving_bytes_ != 0) {
        queue_.buffers().release(receiving_offset_, std::exchange(receiving_bytes_, 0u));
    }
    if (receive_armed_ || send_armed_ || !queue_idle_) {
        return;
    }
    EK_CRASH_POINT("tcp.end.before_state");
    durable::commit(record_.state, ConnectionState::free);
    around_.ended(*this);
}

// Runs while somebody owes progress; otherwise the timer rests.
void TcpConnection::watch_progress() {
    if (!progress_.running()) {
        progress_check();
    }
}

void TcpConnection::progress_check() {
    if (ending_) {
        return;
    }
    const base::Nanoseconds now = around_.reactor.now();
    if (half_closed_) {
        if (!progress_.running()) {
            if (now >= half_closed_deadline()) {
                begin_ending("the host did not close");
                return;
            }
            progress_.start(half_closed_deadline());
        }
        return;
    }
    base::Nanoseconds deadline = reactor::no_deadline;
    const char* what = nullptr;
    const auto consider = [&](base::Nanoseconds since, base::Nanoseconds timeout, const char* text) {
        if (since + timeout < deadline) {
            deadline = since + timeout;
            what = text;
        }
    };
    if (!record_.queue.connect_done) {
        consider(opened_at_, around_.options.connect_timeout, "no Connect in time");
    }
    const base::Nanoseconds timeout = around_.options.transfer_timeout;
    if (!stalled_ && host_owes_bytes()) {
        consider(last_received_at_, timeout, "the host owes data and sends none");
        constexpr const char* slow = "the host sends its data too slowly";
        const ReceiveState& state = record_.receive.current();
        if (const std::uint64_t end = state.consumed + state.remaining; end != pdu_end_) {
            pdu_end_ = end;
            pdu_since_ = now;
        }
        if (state.remaining != 0 || received_ != state.consumed) {
            consider(std::max(pdu_since_, reads_since_), slow_transfers * timeout, slow);
        }
        if (requests_open_ != 0) {
            consider(std::max(oldest_request(), reads_since_), slow_transfers * timeout, slow);
        }
    }
    if (send_armed_) {
        consider(last_sent_at_, timeout, "the host takes no bytes");
        consider(send_goal_since_, slow_transfers * timeout, "the host takes its data too slowly");
    }
    if (deadline == reactor::no_deadline) {
        return;
    }
    if (now >= deadline) {
        begin_ending(what);
        return;
    }
    progress_.start(deadline);
}

// When the host was asked for the data that it owes longest; there is such.
base::Nanoseconds TcpConnection::oldest_request() {
    base::Nanoseconds oldest = around_.reactor.now();
    for (const nvme::Command& command : queue_.commands()) {
        if (command.record->state == nvme::CommandState::receiving && command.requested_at != 0) {
            oldest = std::min<base::Nanoseconds>(oldest, command.requested_at);
        }
    }
    return oldest;
}

void TcpConnection::record_flight(wire::PduType type, std::uint16_t cid, std::uint8_t opcode,
                                  std::uint32_t pdu_bytes, std::uint64_t stream_offset,
                                  std::uint32_t detail) {
    FlightEntry& entry = record_.flight[record_.flight_count % flight_entries];
    entry.time_ns = around_.reactor.now();
    entry.stream_offset = stream_offset;
    entry.pdu_bytes = pdu_bytes;
    entry.detail = detail;
    entry.cid = cid;
    entry.type = static_cast<std::uint8_t>(type);
    entry.opcode = opcode;
    ++record_.flight_count;
}

}  // namespace transport
