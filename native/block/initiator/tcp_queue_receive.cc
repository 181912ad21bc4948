// What comes from the controller, and the checks of all of it.

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "block/initiator/tcp_queue.h"

namespace block::initiator {

namespace {

using Fes = wire::FatalErrorStatus;

template <typename Pdu>
Pdu read_as(const std::byte* bytes) {
    Pdu pdu;
    std::memcpy(&pdu, bytes, sizeof pdu);
    return pdu;
}

std::uint32_t read_digest(const std::byte* bytes) { return read_as<wire::le32>(bytes); }

}  // namespace

bool TcpQueue::refuse(const std::string& what, wire::FatalErrorStatus fes) {
    violation(what, fes);
    return false;
}

void TcpQueue::start_receive() {
    if (stream_begin_ == stream_end_) {
        stream_begin_ = stream_end_ = 0;
    } else if (stream_begin_ != 0) {
        // Less than one header: everything else was consumed.
        std::memmove(stream_.data(), stream_.data() + stream_begin_, stream_end_ - stream_begin_);
        stream_end_ -= stream_begin_;
        stream_begin_ = 0;
    }
    std::size_t count = 0;
    if (expect_ == Expect::data) {
        receive_segments_[count++] = {receiving_->data + receiving_->received, remaining_};
    }
    receive_segments_[count++] = {stream_.data() + stream_end_, stream_.size() - stream_end_};
    receive_message_ = {};
    receive_message_.msg_iov = receive_segments_;
    receive_message_.msg_iovlen = count;
    receive_operation_.in_flight = true;
    ++statistics_.receives;
    reactor_.kernel().receive(socket_, receive_message_, 0, receive_operation_);
}

void TcpQueue::received(std::int32_t result) {
    receive_operation_.in_flight = false;
    if (phase_ == Phase::closing) {
        end_.schedule();
        return;
    }
    if (result <= 0) {
        fail(result == 0 ? "the controller closed the connection"
                         : std::string("receive: ") + std::strerror(-result));
        return;
    }
    auto bytes = static_cast<std::uint32_t>(result);
    statistics_.bytes_received += bytes;
    if (expect_ == Expect::data) {
        const std::uint32_t direct = std::min(bytes, remaining_);
        receiving_->received += direct;
        remaining_ -= direct;
        bytes -= direct;
        if (remaining_ == 0 && !data_arrived()) {
            return;
        }
    }
    stream_end_ += bytes;
    if (parse() && phase_ != Phase::closing) {
        start_receive();
    }
}

// Consumes what is there. False: the queue has failed.
bool TcpQueue::parse() {
    for (;;) {
        if (phase_ == Phase::closing) {
            return false;
        }
        const std::size_t available = stream_end_ - stream_begin_;
        if (expect_ == Expect::header) {
            bool need_more = false;
            if (!parse_header(need_more)) {
                return false;
            }
            if (need_more) {
                return true;
            }
        } else if (expect_ == Expect::data) {
            const auto part = static_cast<std::uint32_t>(std::min<std::size_t>(available, remaining_));
            if (part == 0) {
                return true;
            }
            std::memcpy(receiving_->data + receiving_->received, stream_.data() + stream_begin_, part);
            stream_begin_ += part;
            receiving_->received += part;
            remaining_ -= part;
            if (remaining_ == 0 && !data_arrived()) {
                return false;
            }
        } else {
            if (available < wire::digest_bytes) {
                return true;
            }
            const std::byte* const data = receiving_->data + (receiving_->received - data_layout_.data_bytes);
            if (base::crc32c({data, data_layout_.data_bytes}) !=
                read_digest(stream_.data() + stream_begin_)) {
                return refuse("wrong data digest", Fes::none);
            }
            stream_begin_ += wire::digest_bytes;
            if (!data_finished()) {
                return false;
            }
        }
    }
}

bool TcpQueue::parse_header(bool& need_more) {
    const std::size_t available = stream_end_ - stream_begin_;
    const std::byte* const pdu = stream_.data() + stream_begin_;
    need_more = true;
    if (available < sizeof(wire::CommonHeader)) {
        return true;
    }
    wire::ReceiveRules rules;
    rules.receiver = wire::Receiver::host;
    rules.initialized = phase_ != Phase::negotiating;
    rules.digests = digests_;
    rules.pda = options_.host_alignment;
    rules.data_pdu_bytes_max = options_.transfer_bytes_max;
    const auto common = read_as<wire::CommonHeader>(pdu);
    const wire::PduCheck check = wire::check_common_header(common, rules);
    if (!check.ok()) {
        return refuse("header of a PDU of type " + std::to_string(common.type) + ", wrong at byte " +
                          std::to_string(check.error.fei),
                      check.verdict == wire::PduVerdict::report ? check.error.fes : Fes::none);
    }
    const wire::PduLayout& layout = check.layout;
    const bool whole = layout.type == wire::PduType::c2h_term_req;
    if (available < (whole ? layout.pdu_bytes : layout.data_offset)) {
        return true;
    }
    need_more = false;
    if (layout.header_digest_bytes != 0 &&
        base::crc32c({pdu, layout.header_bytes}) != read_digest(pdu + layout.header_bytes)) {
        return refuse("wrong header digest", Fes::header_digest_error);
    }
    stream_begin_ += whole ? layout.pdu_bytes : layout.data_offset;
    switch (layout.type) {
        case wire::PduType::ic_resp: return take_ic_resp(pdu);
        case wire::PduType::capsule_resp: return take_response(pdu);
        case wire::PduType::c2h_data: return take_data_header(pdu, layout);
        case wire::PduType::r2t: return take_r2t(pdu);
        case wire::PduType::c2h_term_req: return take_term_req(pdu, layout);
        default: return refuse("a PDU that only hosts send", Fes::pdu_sequence_error);
    }
}

bool TcpQueue::take_ic_resp(const std::byte* bytes) {
    const auto pdu = read_as<wire::IcResp>(bytes);
    if (const wire::PduError error = wire::check_ic_resp(pdu); error.fes != Fes::none) {
        return refuse("ICResp, wrong at byte " + std::to_string(error.fei), error.fes);
    }
    const bool header = (pdu.dgst & wire::digest_enable::header) != 0;
    const bool data = (pdu.dgst & wire::digest_enable::data) != 0;
    if (header != digests_.header || data != digests_.data) {
        return refuse("ICResp with other digests than were asked for", Fes::none);
    }
    controller_alignment_ = pdu.cpda;
    h2c_data_max_ = pdu.maxh2cdata;
    send_connect();
    return true;
}

bool TcpQueue::take_response(const std::byte* bytes) {
    const wire::Cqe cqe = read_as<wire::CapsuleResp>(bytes).cqe;
    HostCommand* const command = find(cqe.cid);
    if (command == nullptr) {
        return refuse("response to a command that is not outstanding, CID " + std::to_string(cqe.cid.value()),
                      Fes::none);
    }
    if ((cqe.status & 1) != 0) {
        return refuse("response with a phase tag", Fes::none);
    }
    if (options_.flow_control && phase_ == Phase::ready && cqe.sqhd >= options_.entries) {
        return refuse("response with a submission queue head beyond the queue", Fes::none);
    }
    const wire::Status status = wire::status_of(cqe.status);
    if (command->given != command->requested) {
        return refuse("response while requested data is still being sent", Fes::none);
    }
    if (status.ok() && command->direction == wire::DataDirection::from_controller &&
        (command->received != command->length || !command->last_seen)) {
        return refuse("success after " + std::to_string(command->received) + " of " +
                          std::to_string(command->length) + " bytes" +
                          (command->last_seen ? "" : " and without a last C2HData"),
                      Fes::none);
    }
    if (status.ok() && command->direction == wire::DataDirection::to_controller && !command->in_capsule &&
        command->given != command->length) {
        return refuse("success although only " + std::to_string(command->given) + " of " +
                          std::to_string(command->length) + " bytes were asked for",
                      Fes::none);
    }
    Completion completion;
    completion.answered = true;
    completion.status = status;
    completion.do_not_retry = wire::status_bits::do_not_retry.test(cqe.status);
    completion.retry_delay =
        static_cast<std::uint8_t>(wire::status_bits::command_retry_delay.get(cqe.status));
    completion.result = cqe.dw01();
    answer(*command, completion);
    return true;
}

bool TcpQueue::take_data_header(const std::byte* bytes, const wire::PduLayout& layout) {
    const auto pdu = read_as<wire::C2hData>(bytes);
    if (const wire::PduError error = wire::check_c2h_data(pdu, layout); error.fes != Fes::none) {
        return refuse("C2HData with a length that is not its own", error.fes);
    }
    HostCommand* const command = find(pdu.cccid);
    if (command == nullptr || command->direction != wire::DataDirection::from_controller) {
        return refuse("data for a command that reads nothing, CID " + std::to_string(pdu.cccid.value()),
                      Fes::invalid_pdu_header_field);
    }
    if (command->last_seen) {
        return refuse("data after the last data", Fes::pdu_sequence_error);
    }
    if (pdu.datao != command->received) {
        return refuse("data at offset " + std::to_string(pdu.datao.value()) + " where " +
                          std::to_string(command->received) + " is next",
                      Fes::data_transfer_out_of_range);
    }
    if (pdu.datal > command->length - command->received) {
        return refuse("more data than the command asked for", Fes::data_transfer_out_of_range);
    }
    if ((pdu.common.flags & wire::pdu_flags::success) != 0 && options_.flow_control) {
        return refuse("SUCCESS although flow control is in use", Fes::invalid_pdu_header_field);
    }
    receiving_ = command;
    data_layout_ = layout;
    data_flags_ = pdu.common.flags;
    remaining_ = layout.data_bytes;
    expect_ = Expect::data;
    return true;
}

bool TcpQueue::data_arrived() {
    if (data_layout_.data_digest_bytes != 0) {
        expect_ = Expect::digest;
        return true;
    }
    return data_finished();
}

bool TcpQueue::data_finished() {
    HostCommand& command = *receiving_;
    receiving_ = nullptr;
    expect_ = Expect::header;
    command.last_seen = (data_flags_ & wire::pdu_flags::last_pdu) != 0;
    if ((data_flags_ & wire::pdu_flags::success) == 0) {
        return true;
    }
    if (command.received != command.length) {
        return refuse("SUCCESS after " + std::to_string(command.received) + " of " +
                          std::to_string(command.length) + " bytes",
                      Fes::none);
    }
    ++statistics_.success_flags;
    Completion completion;
    completion.answered = true;
    complete(command, completion);
    return true;
}

bool TcpQueue::take_r2t(const std::byte* bytes) {
    const auto pdu = read_as<wire::R2t>(bytes);
    HostCommand* const command = find(pdu.cccid);
    if (command == nullptr || command->direction != wire::DataDirection::to_controller ||
        command->in_capsule) {
        return refuse("R2T for a command that has no data to send, CID " + std::to_string(pdu.cccid.value()),
                      Fes::invalid_pdu_header_field);
    }
    if (const wire::PduError error = wire::check_r2t(pdu, command->length); error.fes != Fes::none) {
        return refuse("R2T for a range that the command does not have", error.fes);
    }
    if (command->given != command->requested) {
        return refuse("a second R2T of a command", Fes::data_transfer_limit_exceeded);
    }
    if (pdu.r2to != command->requested) {
        return refuse("R2T at offset " + std::to_string(pdu.r2to.value()) + " where " +
                          std::to_string(command->requested) + " is next",
                      Fes::data_transfer_out_of_range);
    }
    ++statistics_.r2t;
    command->transfer_tag = pdu.ttag;
    command->requested += pdu.r2tl;
    command->next = nullptr;
    (data_last_ != nullptr ? data_last_->next : data_first_) = command;
    data_last_ = command;
    flush_.schedule();
    return true;
}

bool TcpQueue::take_term_req(const std::byte* bytes, const wire::PduLayout&) {
    const auto pdu = read_as<wire::TermReq>(bytes);
    const char* const name = wire::name_of(static_cast<wire::FatalErrorStatus>(pdu.fes.value()));
    fail("the controller terminates the connection: " +
         std::string(name != nullptr ? name : "unknown cause") + ", " + std::to_string(pdu.fei.value()));
    return false;
}

}  // namespace block::initiator
