// What goes to the controller: capsules in the order of submission, and the data that it asked for.

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "block/initiator/tcp_queue.h"

namespace block::initiator {

namespace {

constexpr std::size_t pdu_overhead_max = 256;  // header, digests and padding of any PDU that we send
constexpr std::size_t pdu_segments_max = 3;

}  // namespace

void TcpQueue::Batch::clear() {
    segments.clear();
    used = 0;
    first = 0;
}

bool TcpQueue::Batch::has_room() const {
    return bytes.size() - used >= pdu_overhead_max &&
           segments.capacity() - segments.size() >= pdu_segments_max;
}

std::byte* TcpQueue::Batch::take(std::size_t count) {
    std::byte* const place = bytes.data() + used;
    used += count;
    std::memset(place, 0, count);
    refer(place, count);
    return place;
}

void TcpQueue::Batch::refer(std::byte* data, std::size_t count) {
    if (!segments.empty()) {
        iovec& last = segments.back();
        if (static_cast<std::byte*>(last.iov_base) + last.iov_len == data) {
            last.iov_len += count;
            return;
        }
    }
    segments.push_back({data, count});
}

// Header, its digest and the padding before the data.
void TcpQueue::put_header(Batch& batch, const wire::PduLayout& layout, void* pdu) {
    std::byte* const place = batch.take(layout.data_offset);
    std::memcpy(place, pdu, layout.header_bytes);
    if (layout.header_digest_bytes != 0) {
        const wire::le32 digest = base::crc32c({place, layout.header_bytes});
        std::memcpy(place + layout.header_bytes, &digest, sizeof digest);
    }
}

void TcpQueue::put_payload(Batch& batch, const wire::PduLayout& layout, std::byte* data) {
    if (!layout.has_data()) {
        return;
    }
    batch.refer(data, layout.data_bytes);
    if (layout.data_digest_bytes != 0) {
        const wire::le32 digest = base::crc32c({data, layout.data_bytes});
        std::memcpy(batch.take(sizeof digest), &digest, sizeof digest);
    }
}

void TcpQueue::put_capsule(Batch& batch, HostCommand& command) {
    const wire::PduLayout layout = wire::plan_pdu(
        wire::PduType::capsule_cmd, command.in_capsule ? command.length : 0, digests_, controller_alignment_);
    wire::CapsuleCmd pdu;
    pdu.common = wire::make_header(layout);
    pdu.sqe = command.sqe;
    put_header(batch, layout, &pdu);
    put_payload(batch, layout, command.data);
    command.state = HostCommand::State::sent;
    command.batch = batch_;
}

// One H2CData. True if it was the last that the R2T asked for.
bool TcpQueue::put_data(Batch& batch, HostCommand& command) {
    const std::uint32_t left = command.requested - command.given;
    const std::uint32_t bytes = std::min(left, h2c_data_max_);
    const wire::PduLayout layout =
        wire::plan_pdu(wire::PduType::h2c_data, bytes, digests_, controller_alignment_);
    wire::H2cData pdu;
    pdu.common = wire::make_header(layout, bytes == left ? wire::pdu_flags::last_pdu : std::uint8_t{0});
    pdu.cccid = command.sqe.cid;
    pdu.ttag = command.transfer_tag;
    pdu.datao = command.given;
    pdu.datal = bytes;
    put_header(batch, layout, &pdu);
    put_payload(batch, layout, command.data + command.given);
    command.given += bytes;
    command.batch = batch_;
    return bytes == left;
}

void TcpQueue::fill(Batch& batch) {
    while (data_first_ != nullptr && batch.has_room()) {
        HostCommand& command = *data_first_;
        if (put_data(batch, command)) {
            data_first_ = command.next;
            data_last_ = data_first_ == nullptr ? nullptr : data_last_;
        }
    }
    while (capsules_first_ != nullptr && batch.has_room()) {
        HostCommand& command = *capsules_first_;
        capsules_first_ = command.next;
        capsules_last_ = capsules_first_ == nullptr ? nullptr : capsules_last_;
        put_capsule(batch, command);
    }
}

void TcpQueue::flush() {
    if (send_operation_.in_flight || phase_ == Phase::connecting || phase_ >= Phase::closing) {
        return;
    }
    fill(building_);
    if (building_.empty()) {
        return;
    }
    std::swap(building_, sending_);
    ++batch_;
    start_send();
}

void TcpQueue::start_send() {
    send_message_.msg_iov = sending_.segments.data() + sending_.first;
    send_message_.msg_iovlen = sending_.segments.size() - sending_.first;
    send_operation_.in_flight = true;
    ++statistics_.sends;
    reactor_.kernel().send(socket_, send_message_, MSG_NOSIGNAL, send_operation_);
}

void TcpQueue::sent(std::int32_t result) {
    send_operation_.in_flight = false;
    if (phase_ == Phase::closing) {
        end_.schedule();
        return;
    }
    if (result <= 0) {
        fail(std::string("send: ") + std::strerror(-result));
        return;
    }
    auto left = static_cast<std::size_t>(result);
    statistics_.bytes_sent += left;
    while (left != 0) {
        iovec& segment = sending_.segments[sending_.first];
        const std::size_t part = std::min(left, segment.iov_len);
        segment.iov_base = static_cast<std::byte*>(segment.iov_base) + part;
        segment.iov_len -= part;
        left -= part;
        sending_.first += segment.iov_len == 0 ? 1 : 0;
    }
    if (!sending_.empty()) {
        start_send();
        return;
    }
    sending_.clear();
    complete_answered();
    if (phase_ < Phase::closing) {
        flush_.schedule();
    }
}

}  // namespace block::initiator
