// The sending half of an NVMe/TCP connection: completed commands become entries of the transmit queue, and
// what is queued at the end of an iteration leaves with one system call.
//
// An entry exists once transmit_tail says so; it is gone once the socket has taken its last byte. The queue
// has no head in the arena, because a successor reads the position off the socket.

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "base/crash_point.h"
#include "base/crc32c.h"
#include "transport/tcp_connection.h"

namespace transport {

namespace {

constexpr std::uint32_t c2h_data_bytes_max = 256 * 1024;  // of one C2HData PDU
constexpr std::uint32_t c2h_data_pieces_max = limits::transfer_bytes_max / c2h_data_bytes_max;
constexpr std::byte zeroes[128]{};  // padding

// See fetch_lent_memory. The figures are those at which the gain was measured.
constexpr std::uint64_t fetch_ahead_bytes = 2 * 1024 * 1024;       // of what one connection sends next
constexpr std::uint64_t fetch_unsent_bytes_max = 6 * 1024 * 1024;  // of all connections
constexpr std::size_t near_memory_bytes = 4 * 1024 * 1024;         // stays in the cache by itself
constexpr std::size_t cache_line_bytes = 64;

}  // namespace

TransmitEntry& TcpConnection::next_entry(std::uint32_t ahead, std::uint64_t stream_offset) {
    TransmitEntry& next = entry(record_.transmit_tail + ahead);
    next.stream_offset = stream_offset;
    next.data_offset = 0;
    next.data_bytes = 0;
    next.data_region = nvme::no_data_region;
    next.command = no_command;
    next.header_bytes = 0;
    next.padding_bytes = 0;
    next.trailer_bytes = 0;
    return next;
}

// Headers are written where they lie: to copy one that was just written costs more than to write it.
template <typename Pdu>
Pdu& TcpConnection::header_in(TransmitEntry& entry) {
    static_assert(sizeof(Pdu) + wire::digest_bytes <= sizeof entry.header && alignof(Pdu) == 1);
    return *new (entry.header) Pdu;
}

// The header is complete; its digest follows where the connection uses it.
void TcpConnection::end_header(TransmitEntry& entry, std::size_t bytes) {
    entry.header_bytes = static_cast<std::uint8_t>(bytes);
    if (record_.header_digest != 0) {
        const base::le32 digest = base::crc32c(std::span<const std::byte>(entry.header, bytes));
        std::memcpy(entry.header + bytes, &digest, sizeof digest);
        entry.header_bytes = static_cast<std::uint8_t>(bytes + sizeof digest);
    }
}

void TcpConnection::publish(std::uint64_t new_tail, std::uint64_t new_end) {
    queued_end_ = new_end;
    EK_CRASH_POINT("tcp.transmit.before_tail");
    durable::commit(record_.transmit_tail, new_tail);
    EK_CRASH_POINT("tcp.transmit.after_tail");
    flush_.schedule();
}

// ICResp or a termination request, from the connection's own record. There is always room for these: the
// ICResp is the first entry, and what a termination request would follow may be cut off.
void TcpConnection::queue_control(std::uint32_t control_offset, std::uint32_t bytes) {
    if (!room_for(1)) {
        end_requested_ = true;
        flush_.schedule();
        return;
    }
    TransmitEntry& next = next_entry(0, queued_end_);
    next.data_region = control_region;
    next.data_offset = control_offset;
    next.data_bytes = bytes;
    const auto type = static_cast<wire::PduType>(record_.control[control_offset]);
    record_flight(type, 0, 0, bytes, queued_end_, 0);
    publish(record_.transmit_tail + 1, next.end());
}

// Asks for as much of the command's data as the host allows to be outstanding.
void TcpConnection::request_data(nvme::Command& command) {
    nvme::CommandRecord& record = *command.record;
    const std::uint32_t piece_bytes = r2t_bytes(record);
    const std::uint32_t pieces = (record.data_length + piece_bytes - 1) / piece_bytes;
    const std::uint32_t complete = record.received_bytes / piece_bytes;
    while (record.progress < pieces && record.progress < complete + record_.outstanding_r2t) {
        if (!room_for(1)) {
            append_waiting(command);
            return;
        }
        const std::uint32_t begin = record.progress * piece_bytes;
        const wire::PduLayout layout = wire::plan_pdu(wire::PduType::r2t, 0, digests(), 0);
        TransmitEntry& next = next_entry(0, queued_end_);
        auto& pdu = header_in<wire::R2t>(next);
        pdu.common = wire::make_header(layout);
        pdu.cccid = record.sqe.cid;
        pdu.ttag = static_cast<std::uint16_t>(record.transfer_tag | (record.progress << tag_slot_bits));
        pdu.r2to = begin;
        pdu.r2tl = std::min(piece_bytes, record.data_length - begin);
        end_header(next, sizeof pdu);
        record_flight(wire::PduType::r2t, record.sqe.cid, record.sqe.opcode, layout.pdu_bytes, queued_end_,
                      begin);
        // If the process dies before the tail is stored, the sequence number tells that the last request was
        // not made.
        record.progress += 1;
        durable::commit(record.response_sequence,
                        (record_.transmit_tail << r2t_count_bits) | record.progress);
        publish(record_.transmit_tail + 1, next.end());
    }
}

void TcpConnection::respond(nvme::Command& command) {
    if (consuming_ != nullptr) {
        commit(*std::exchange(consuming_, nullptr));
    }
    if (ending_ || draining_after_error()) {
        queue_.release(command);
        return;
    }
    if (waiting_first_ != nullptr || !try_respond(command)) {
        append_waiting(command);
    }
}

void TcpConnection::append_waiting(nvme::Command& command) {
    if (command.waits_to_send) {
        return;  // data of one request has come while the next one still waits here
    }
    command.waits_to_send = true;
    command.next = nullptr;
    if (waiting_last_ != nullptr) {
        waiting_last_->next = &command;
    } else {
        waiting_first_ = &command;
    }
    waiting_last_ = &command;
}

void TcpConnection::serve_waiting() {
    const bool after_error = draining_after_error();  // nothing follows a termination request
    while (waiting_first_ != nullptr && (after_error || room_for(c2h_data_pieces_max + 1))) {
        nvme::Command* command = waiting_first_;
        waiting_first_ = command->next;
        if (waiting_first_ == nullptr) {
            waiting_last_ = nullptr;
        }
        command->next = nullptr;
        command->waits_to_send = false;
        const bool receiving = command->record->state == nvme::CommandState::receiving;
        if (after_error) {
            if (!receiving) {
                queue_.release(*command);
            }
        } else if (receiving) {
            request_data(*command);
        } else {
            EK_CHECK(try_respond(*command), "there is room for any response");
        }
    }
}

// Data to the host and the completion become true together.
bool TcpConnection::try_respond(nvme::Command& command) {
    nvme::CommandRecord& record = *command.record;
    const bool data = durable::load_alone(record.direction) == nvme::DataDirection::to_host &&
                      durable::load_alone(record.status) == 0 && record.data_length != 0;
    const std::uint32_t pieces =
        data ? (record.data_length + c2h_data_bytes_max - 1) / c2h_data_bytes_max : 0;
    const bool success_flag = data && queue_.flow_control_off() && record.result0 == 0 && record.result1 == 0;
    const std::uint32_t entries = pieces + (success_flag ? 0 : 1);
    if (!room_for(entries)) {
        return false;
    }
    std::uint64_t end = queued_end_;
    for (std::uint32_t piece = 0; piece < pieces; ++piece) {
        const std::uint32_t begin = piece * c2h_data_bytes_max;
        const std::uint32_t bytes = std::min(c2h_data_bytes_max, record.data_length - begin);
        const bool last = piece + 1 == pieces;
        const wire::PduLayout layout =
            wire::plan_pdu(wire::PduType::c2h_data, bytes, digests(), record_.host_alignment);
        TransmitEntry& next = next_entry(piece, end);
        auto& pdu = header_in<wire::C2hData>(next);
        pdu.common = wire::make_header(
            layout,
            static_cast<std::uint8_t>(
                last ? wire::pdu_flags::last_pdu | (success_flag ? wire::pdu_flags::success : 0) : 0));
        pdu.cccid = record.sqe.cid;
        pdu.datao = begin;
        pdu.datal = bytes;
        end_header(next, sizeof pdu);
        next.padding_bytes = static_cast<std::uint8_t>(layout.padding_bytes());
        next.data_region = record.data_region;
        next.data_offset = record.data_offset + begin;
        next.data_bytes = bytes;
        if (layout.data_digest_bytes != 0) {
            const base::le32 digest =
                base::crc32c(std::span<const std::byte>(data_at(record) + begin, bytes));
            std::memcpy(next.trailer, &digest, sizeof digest);
            next.trailer_bytes = wire::digest_bytes;
        }
        if (last && success_flag) {
            next.command = command.slot;
        }
        record_flight(wire::PduType::c2h_data, record.sqe.cid, record.sqe.opcode, layout.pdu_bytes, end,
                      begin);
        end = next.end();
    }
    if (!success_flag) {
        const wire::PduLayout layout = wire::plan_pdu(wire::PduType::capsule_resp, 0, digests(), 0);
        TransmitEntry& next = next_entry(pieces, end);
        auto& pdu = header_in<wire::CapsuleResp>(next);
        pdu.common = wire::make_header(layout);
        pdu.cqe.dw0 = record.result0;
        pdu.cqe.dw1 = record.result1;
        // The head as it is now: a command that took long must not report an old one.
        pdu.cqe.sqhd = queue_.flow_control_off() ? std::uint16_t{0}
                                                 : queue_.sq_head_after(record_.receive.current().capsules);
        pdu.cqe.sqid = 0;
        pdu.cqe.cid = record.sqe.cid;
        pdu.cqe.status = nvme::status_field_of(record);
        end_header(next, sizeof pdu);
        next.command = command.slot;
        record_flight(wire::PduType::capsule_resp, record.sqe.cid, record.sqe.opcode, layout.pdu_bytes, end,
                      record.status);
        end = next.end();
    }
    // Of the last entry: the slot is free once this one was sent.
    record.response_sequence = record_.transmit_tail + entries - 1;
    publish(record_.transmit_tail + entries, end);
    return true;
}

const std::byte* TcpConnection::entry_data(const TransmitEntry& entry) const {
    if (entry.data_region == control_region) {
        return record_.control + entry.data_offset;
    }
    return around_.regions.at(entry.data_region, entry.data_offset);
}

bool TcpConnection::sends_from(std::uint16_t region) {
    for (std::uint64_t sequence = first_unsent_; sequence != record_.transmit_tail; ++sequence) {
        if (entry(sequence).data_bytes != 0 && entry(sequence).data_region == region) {
            return true;
        }
    }
    for (const nvme::Command* waiting = waiting_first_; waiting != nullptr; waiting = waiting->next) {
        if (waiting->record->data_region == region) {
            return true;
        }
    }
    return false;
}

std::size_t TcpConnection::gather(std::span<iovec> segments) {
    std::size_t count = 0;
    std::uint64_t skip = 0;
    if (first_unsent_ != record_.transmit_tail) {
        skip = sent_position_ - entry(first_unsent_).stream_offset;
    }
    const auto add = [&](const std::byte* data, std::uint64_t bytes) {
        if (skip >= bytes) {
            skip -= bytes;
            return;
        }
        segments[count++] = iovec{const_cast<std::byte*>(data) + skip, bytes - skip};
        skip = 0;
    };
    std::uint64_t sequence = first_unsent_;
    // Five segments at most for one entry: header, padding, kept block, data, trailer.
    for (; sequence != record_.transmit_tail && count + 5 <= segments.size(); ++sequence) {
        TransmitEntry& next = entry(sequence);
        add(next.header, next.header_bytes);
        if (next.padding_bytes != 0) {
            add(zeroes, next.padding_bytes);
        }
        if (next.data_bytes != 0) {
            const std::byte* data = entry_data(next);
            const SplitBlock& split = record_.split;
            if (split.sequence == sequence + 1) {
                add(data, split.begin);
                add(split_memory(), split.bytes);
                add(data + split.begin + split.bytes, next.data_bytes - split.begin - split.bytes);
            } else {
                add(data, next.data_bytes);
            }
        }
        if (next.trailer_bytes != 0) {
            add(next.trailer, next.trailer_bytes);
        }
    }
    return count;
}

void TcpConnection::count_unsent(std::uint64_t bytes) {
    around_.unsent_bytes += bytes - unsent_counted_;
    unsent_counted_ = bytes;
}

bool TcpConnection::sends_lent_memory(const TransmitEntry& entry) const {
    return entry.data_bytes != 0 && entry.data_region != MemoryRegions::data_pool &&
           entry.data_region < control_region;
}

// Loads what is sent next from a device's memory into the processor's cache, faster than the kernel's copy
// would. Without that a host on the same machine is as fast as the copy: it sleeps before each segment and
// has to be woken. Where more is under way than a cache holds, hosts do not wait, and what was loaded would
// be gone again.
void TcpConnection::fetch_lent_memory() {
    if (record_.data_digest != 0 || around_.unsent_bytes > fetch_unsent_bytes_max) {
        return;
    }
    const std::uint64_t limit = sent_position_ + fetch_ahead_bytes;
    for (fetched_ = std::max(fetched_, first_unsent_); fetched_ != record_.transmit_tail; ++fetched_) {
        const TransmitEntry& next = entry(fetched_);
        if (next.stream_offset >= limit) {
            return;
        }
        if (!sends_lent_memory(next) || around_.regions.bytes(next.data_region) <= near_memory_bytes) {
            continue;
        }
        const volatile std::byte* data = entry_data(next);
        for (std::size_t offset = 0; offset < next.data_bytes; offset += cache_line_bytes) {
            static_cast<void>(data[offset]);
        }
    }
}

void TcpConnection::flush() {
    if (end_requested_) {
        begin_ending(reason_.empty() ? "ended" : reason_.c_str());
        return;
    }
    if (send_armed_ || ending_) {
        return;
    }
    if (!send_segments_) {
        send_segments_ = std::make_unique<iovec[]>(limits::transmit_segments_per_send);
    }
    const std::size_t segments = gather({send_segments_.get(), limits::transmit_segments_per_send});
    if (segments == 0) {
        if (draining_) {
            drained();
        }
        return;
    }
    count_unsent(queued_end_ - sent_position_);
    fetch_lent_memory();
    send_message_.msg_iov = send_segments_.get();
    send_message_.msg_iovlen = segments;
    send_armed_ = true;
    last_sent_at_ =
        around_.reactor.now();  // the host's time begins now, however long there was nothing to send
    if (sent_position_ >= send_goal_) {
        send_goal_ = queued_end_;
        send_goal_since_ = last_sent_at_;
    }
    around_.reactor.kernel().send(socket_, send_message_, MSG_NOSIGNAL, send_operation_);
    watch_progress();
}

void TcpConnection::sent(std::int32_t result) {
    send_armed_ = false;
    if (ending_) {
        finish_ending();
        return;
    }
    if (result < 0 && result != -EAGAIN && result != -EINTR && result != -ENOBUFS) {
        begin_ending("the host takes no more bytes");
        return;
    }
    if (result > 0) {
        counters_.sent_bytes += static_cast<std::uint64_t>(result);
        last_sent_at_ = around_.reactor.now();
        if (around_.first_sent_at == 0) [[unlikely]] {
            around_.first_sent_at = last_sent_at_;
        }
        EK_CRASH_POINT("tcp.transmit.sent");
        advance_sent(sent_position_ + static_cast<std::uint64_t>(result));
        count_unsent(queued_end_ - sent_position_);
        keep_split_block();
        serve_waiting();
    }
    if (first_unsent_ != record_.transmit_tail || draining_) {
        flush_.schedule();
    }
}

// The socket has taken everything before `position`.
void TcpConnection::advance_sent(std::uint64_t position) {
    sent_position_ = position;
    while (first_unsent_ != record_.transmit_tail) {
        TransmitEntry& first = entry(first_unsent_);
        if (first.end() > position) {
            break;
        }
        const std::uint16_t slot = first.command;
        ++first_unsent_;
        if (slot != no_command) {
            queue_.release(queue_.commands()[slot]);
        }
    }
}

// Memory that a device lends may change between two sends. Inside of a logical block it must not: the rest of
// the block that went out in part is kept as it is now.
void TcpConnection::keep_split_block() {
    if (first_unsent_ == record_.transmit_tail) {
        return;
    }
    const TransmitEntry& first = entry(first_unsent_);
    if (!sends_lent_memory(first)) {
        return;
    }
    const std::uint64_t before = std::uint64_t{first.header_bytes} + first.padding_bytes;
    const std::uint64_t done = sent_position_ - first.stream_offset;
    if (done <= before || done >= before + first.data_bytes) {
        return;
    }
    const auto begin = static_cast<std::uint32_t>(done - before);
    const std::uint64_t within = (first.data_offset + begin) % split_bytes_max;
    if (within == 0) {
        return;
    }
    SplitBlock& split = record_.split;
    if (split.sequence == first_unsent_ + 1 && begin >= split.begin && begin < split.begin + split.bytes) {
        return;  // still inside of the block that is kept
    }
    const auto bytes = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(split_bytes_max - within, first.data_bytes - begin));
    durable::commit(split.sequence, std::uint64_t{0});
    std::memcpy(split_memory(), entry_data(first) + begin, bytes);
    split.begin = begin;
    split.bytes = bytes;
    durable::commit(split.sequence, first_unsent_ + 1);
}

}  // namespace transport
