// The receiving half of an NVMe/TCP connection: where bytes go, and what a PDU means.
//
// Capsules that arrived as a whole are taken from the stream buffer. The data of a PDU that did not arrive as
// a whole is received right into the command's buffer: the receive that follows has two targets, the rest of
// the data and the stream buffer behind it, so the place of every byte is known before it arrives.

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/crash_point.h"
#include "base/crc32c.h"
#include "transport/tcp_connection.h"

namespace transport {

namespace {

constexpr std::uint32_t stream_room_min = 16 * 1024;  // less free space than this: move to the buffer's start
constexpr std::uint32_t r2t_piece_bytes = 256 * 1024;      // of a transfer, where the host allows several R2T
constexpr std::uint32_t capsules_before_connect_max = 32;  // so that the first transmit ring does not wrap
static_assert(limits::transfer_bytes_max / r2t_piece_bytes <= 1u << tag_piece_bits);

std::uint32_t digest_of(const std::byte* data, std::size_t bytes) {
    return base::crc32c(std::span<const std::byte>(data, bytes));
}

std::uint32_t load_digest(const std::byte* at) {
    base::le32 value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

// Damaged data is not fatal to the connection: the command fails once all of it was taken, and the host may
// retry it. Stored with the record before the PDU is consumed, so that a successor does not execute the
// command.
void reject_data(nvme::CommandRecord& record) {
    record.status = wire::status::transient_transport_error.value;
    record.status_flags = 0;
    record.in_capsule |= nvme::data_rejected;
}

}  // namespace

void TcpConnection::commit(const ReceiveState& state) {
    EK_CRASH_POINT("tcp.receive.before_commit");
    record_.receive.store(state);
    EK_CRASH_POINT("tcp.receive.after_commit");
}

void TcpConnection::arm_receive() {
    if (receive_armed_ || ending_ || stalled_ || !around_.reads) {
        return;
    }
    ReceiveState state = record_.receive.current();
    std::size_t segments = 0;
    std::uint64_t stream_position = received_;
    if (state.phase == ReceivePhase::data) {
        const std::uint64_t data_end = state.consumed + state.remaining;
        if (received_ < data_end) {
            nvme::CommandRecord& command = slots_.commands[state.command];
            receive_segments_[segments++] = iovec{
                data_at(command) + state.data_position + (received_ - state.consumed), data_end - received_};
            stream_position = data_end;
        } else if (slots_.stream.size() - (state.base_address + (received_ - state.base_stream)) <
                   wire::digest_bytes) {
            move_to_start(state);
        }
    } else {
        const std::uint64_t used = state.base_address + (received_ - state.base_stream);
        if (used + stream_room_min > slots_.stream.size() || (received_ == state.consumed && used != 0)) {
            move_to_start(state);
        }
    }
    const std::uint64_t place = state.base_address + (stream_position - state.base_stream);
    if (place < slots_.stream.size()) {
        receive_segments_[segments++] = iovec{slots_.stream.data() + place, slots_.stream.size() - place};
    }
    receive_message_.msg_iov = receive_segments_;
    receive_message_.msg_iovlen = segments;
    receive_armed_ = true;
    around_.reactor.kernel().receive(socket_, receive_message_, 0, receive_operation_);
    watch_progress();
}

// What is left of the stream buffer is less than one header: it moves to the buffer's start, over bytes that
// were consumed.
void TcpConnection::move_to_start(ReceiveState& state) {
    const std::uint64_t left = received_ - state.consumed;
    EK_CHECK(state.remaining == 0 || state.phase == ReceivePhase::skip, "data has its own place");
    EK_CHECK(left == 0 || left <= state.base_address + (state.consumed - state.base_stream),
             "the move must not overlap");
    std::memcpy(slots_.stream.data(), stream_at(state, state.consumed), left);
    state.base_stream = state.consumed;
    state.base_address = 0;
    commit(state);
}

void TcpConnection::received(std::int32_t result) {
    receive_armed_ = false;
    if (ending_) {
        finish_ending();
        return;
    }
    if (result == -EAGAIN || result == -EINTR || result == -ENOBUFS || result == -ECANCELED) {
        arm_receive();
        return;
    }
    if (result <= 0) {
        begin_ending(result == 0 ? "closed by the host" : "reset by the host");
        return;
    }
    received_ += static_cast<std::uint64_t>(result);
    counters_.received_bytes += static_cast<std::uint64_t>(result);
    last_received_at_ = around_.reactor.now();
    EK_CRASH_POINT("tcp.receive.arrived");
    parse();
}

void TcpConnection::parse() {
    ReceiveState state = record_.receive.current();
    Step step = Step::again;
    while (step == Step::again && !ending_) {
        step = parse_one(state);
    }
    if (step == Step::need_more) {
        arm_receive();
    }
}

TcpConnection::Step TcpConnection::parse_one(ReceiveState& state) {
    switch (state.phase) {
        case ReceivePhase::handshake:
        case ReceivePhase::header: return parse_header(state);
        case ReceivePhase::data: return take_data(state);
        case ReceivePhase::skip: return take_skip(state);
        case ReceivePhase::closing:
            if (state.consumed != received_) {
                state.consumed = received_;
                commit(state);
            }
            return Step::need_more;
    }
    return Step::stop;
}

TcpConnection::Step TcpConnection::parse_header(ReceiveState& state) {
    const std::uint64_t available = received_ - state.consumed;
    if (available < sizeof(wire::CommonHeader)) {
        return Step::need_more;
    }
    const std::byte* pdu = stream_at(state, state.consumed);
    wire::CommonHeader header;
    std::memcpy(&header, pdu, sizeof header);

    const bool initialized = state.phase == ReceivePhase::header;
    // The digest comes first: a damaged header is reported as such, not by what its damage looks like.
    // Termination requests carry none.
    if (initialized && record_.header_digest != 0) {
        const std::size_t bytes = wire::header_length(header.type);
        if (bytes != 0 && header.type != static_cast<std::uint8_t>(wire::PduType::h2c_term_req)) {
            if (available < bytes + wire::digest_bytes) {
                return Step::need_more;
            }
            const std::uint32_t digest = load_digest(pdu + bytes);
            if (digest_of(pdu, bytes) != digest) {
                return fail_pdu(state, {wire::FatalErrorStatus::header_digest_error, digest}, pdu, bytes);
            }
        }
    }
    const bool admin = !queue_.connected() || queue_.qid() == 0;
    const nvme::TransportTraits& traits = around_.options.traits;
    const wire::ReceiveRules rules{
        .receiver = wire::Receiver::controller,
        .initialized = initialized,
        .digests = {record_.header_digest != 0, record_.data_digest != 0},
        .pda = 0,
        .capsule_data_bytes_max = admin ? traits.in_capsule_bytes_admin : traits.in_capsule_bytes_io,
        .data_pdu_bytes_max = limits::max_h2c_data_bytes,
    };
    const wire::PduCheck check = wire::check_common_header(header, rules);
    if (check.verdict == wire::PduVerdict::close) {
        return end_without_word("malformed termination request");
    }
    if (!check.ok()) {
        const std::size_t known =
            std::clamp<std::size_t>(wire::header_length(header.type), sizeof header, available);
        return fail_pdu(state, check.error, pdu, known);
    }
    const wire::PduLayout& layout = check.layout;
    if (available <
        std::uint64_t{layout.header_bytes} + layout.header_digest_bytes + layout.padding_bytes()) {
        return Step::need_more;
    }
    switch (layout.type) {
        case wire::PduType::ic_req: return take_ic_req(state, pdu);
        case wire::PduType::capsule_cmd: return take_capsule(state, pdu, layout, available);
        case wire::PduType::h2c_data: return take_h2c_data(state, pdu, layout);
        case wire::PduType::h2c_term_req:
            record_flight(layout.type, 0, 0, layout.pdu_bytes, state.consumed, 0);
            return end_without_word("terminated by the host");
        default:
            // check_common_header lets nothing else through to a controller.
            return end_without_word("unexpected PDU");
    }
}

TcpConnection::Step TcpConnection::take_ic_req(ReceiveState& state, const std::byte* pdu) {
    wire::IcReq request;
    std::memcpy(&request, pdu, sizeof request);
    wire::PduError error = wire::check_ic_req(request);
    const bool wants_header = (request.dgst & wire::digest_enable::header) != 0;
    const bool wants_data = (request.dgst & wire::digest_enable::data) != 0;
    if (error == wire::PduError{} && ((policies_.header == DigestPolicy::required && !wants_header) ||
                                      (policies_.data == DigestPolicy::required && !wants_data))) {
        error = {wire::FatalErrorStatus::unsupported_parameter, offsetof(wire::IcReq, dgst)};
    }
    if (!(error == wire::PduError{})) {
        return fail_pdu(state, error, pdu, sizeof request);
    }
    record_flight(wire::PduType::ic_req, 0, 0, sizeof request, state.consumed, request.dgst);
    record_.header_digest = wants_header && policies_.header != DigestPolicy::off;
    record_.data_digest = wants_data && policies_.data != DigestPolicy::off;
    record_.host_alignment = request.hpda;
    record_.outstanding_r2t = std::min<std::uint32_t>(request.maxr2t, 7) + 1;

    wire::IcResp response;
    const wire::PduLayout layout = wire::plan_pdu(wire::PduType::ic_resp, 0, {}, 0);
    response.common = wire::make_header(layout);
    response.pfv = wire::pdu_format_version;
    response.cpda = 0;
    response.dgst = static_cast<std::uint8_t>((record_.header_digest != 0 ? wire::digest_enable::header : 0) |
                                              (record_.data_digest != 0 ? wire::digest_enable::data : 0));
    response.maxh2cdata = limits::max_h2c_data_bytes;
    std::memcpy(record_.control + control_ic_resp, &response, sizeof response);

    state.phase = ReceivePhase::header;
    state.consumed += sizeof request;
    commit(state);
    queue_control(control_ic_resp, sizeof response);
    return Step::again;
}

TcpConnection::Step TcpConnection::take_capsule(ReceiveState& state, const std::byte* pdu,
                                                const wire::PduLayout& layout, std::uint64_t available) {
    if (!queue_.connected() && state.capsules >= capsules_before_connect_max) {
        return end_without_word("too many commands before Connect");
    }
    nvme::Command* command = queue_.take_slot();
    if (command == nullptr) {
        return fail_pdu(state, {wire::FatalErrorStatus::pdu_sequence_error, 0}, pdu, layout.header_bytes);
    }
    nvme::CommandRecord& record = *command->record;
    std::memcpy(&record.sqe, pdu + sizeof(wire::CommonHeader), sizeof record.sqe);
    record.stream_offset = state.consumed;
    record.response_sequence = ~std::uint64_t{0};
    const nvme::Admission admission = queue_.admit(*command, layout.data_bytes);
    const bool accepted = admission.status.ok();
    const bool to_controller = accepted && admission.direction == nvme::DataDirection::to_controller;
    const bool in_capsule = layout.data_bytes != 0;
    const std::uint32_t transfer_bytes = in_capsule ? layout.data_bytes : admission.length;
    const bool from_stream =
        in_capsule && to_controller && available >= layout.pdu_bytes && queue_.writes_inline(*command);
    const std::uint32_t buffer_bytes =
        to_controller && !from_stream ? std::max(transfer_bytes, admission.buffer_bytes) : 0;
    record.buffer_wanted = buffer_bytes;
    if (buffer_bytes != 0 && in_capsule) {
        const auto buffer = queue_.buffers().allocate_for_stream(buffer_bytes);
        if (!buffer) {
            queue_.release(*command);
            stalled_ = true;
            queue_.buffers().wait_for_stream(common_waiter_, *this);
            return Step::stop;
        }
        record.data_region = MemoryRegions::data_pool;
        record.data_offset = *buffer;
        record.buffer_bytes = buffer_bytes;
        command->data = queue_.buffers().at(*buffer);
    }
    record.data_length = accepted ? admission.length : 0;
    record.direction = accepted ? admission.direction : nvme::DataDirection::none;
    if (in_capsule) {
        record.in_capsule = nvme::data_in_capsule;
    }
    if (!accepted) {
        record.in_capsule |= nvme::data_rejected;
        record.status = admission.status.value;
        record.status_flags = admission.dnr ? nvme::status_flag_dnr : 0;
    }
    // A generation in the upper bits, so that a late PDU for the slot's previous command is noticed.
    record.transfer_tag = static_cast<std::uint16_t>(
        ((state.capsules & 3) << (tag_slot_bits + tag_piece_bits)) | command->slot);
    ++counters_.commands;
    record_flight(wire::PduType::capsule_cmd, record.sqe.cid, record.sqe.opcode, layout.pdu_bytes,
                  state.consumed, record.sqe.cdw10);

    state.capsules += 1;
    if (state.command != no_command) {
        state.command = no_command;
    }

    if (!in_capsule) {
        const bool wants_data = buffer_bytes != 0;
        durable::commit(record.state, wants_data ? nvme::CommandState::receiving : nvme::CommandState::ready);
        state.consumed += layout.pdu_bytes;
        commit(state);
        if (wants_data) {
            go_on_receiving(*command);
        } else {
            start(*command);
        }
        return Step::again;
    }

    if (available >= layout.pdu_bytes) {
        const std::byte* data = pdu + layout.data_offset;
        if (layout.data_digest_bytes != 0 && accepted &&
            digest_of(data, layout.data_bytes) != load_digest(data + layout.data_bytes)) {
            reject_data(record);
        } else if (from_stream) {
            state.consumed += layout.pdu_bytes;
            execute_from_stream(
                *command,
                stream_at(state, record.stream_offset) + layout.data_offset + admission.in_capsule_offset,
                state);
            return Step::again;
        }
        if (command->data != nullptr) {
            const std::uint32_t begin = admission.in_capsule_offset;
            std::memcpy(command->data, data + begin, layout.data_bytes - begin);
        }
        record.progress = 0;
        durable::commit(record.state, nvme::CommandState::ready);
        state.consumed += layout.pdu_bytes;
        commit(state);
        start(*command);
        return Step::again;
    }

    durable::commit(record.state, nvme::CommandState::receiving);
    state.command = command->slot;
    state.has_digest = layout.data_digest_bytes != 0;
    state.consumed += layout.data_offset;
    if (command->data == nullptr) {  // rejected, or data that the command has no use for
        state.phase = ReceivePhase::skip;
        state.remaining = layout.data_bytes + layout.data_digest_bytes;
        commit(state);
        return Step::again;
    }
    state.phase = ReceivePhase::data;
    state.data_position = 0;
    state.pdu_data_begin = 0;
    state.pdu_data_bytes = layout.data_bytes;
    state.remaining = layout.data_bytes;
    begin_data(state);
    return Step::again;
}

// The command's data is not requested yet: first a buffer for it, then the request.
void TcpConnection::go_on_receiving(nvme::Command& command) {
    if (ending_ || draining_after_error() || !queue_.allocate_to_receive(command)) {
        return;
    }
    EK_CRASH_POINT("tcp.receive.buffer");
    command.requested_at = around_.reactor.now();
    if (requests_open_++ == 0) {
        last_received_at_ = around_.reactor.now();  // until now the host owed nothing
    }
    request_data(command);
    watch_progress();
}

// A write whose data need not be moved to a buffer first. The device takes it from the stream buffer, and
// only then is the capsule consumed: `done`, `state`, the response, in this order (respond() stores `state`).
// A successor that finds the capsule not consumed executes it again, which has the same effect, because
// nothing else was executed since.
void TcpConnection::execute_from_stream(nvme::Command& command, const std::byte* data,
                                        const ReceiveState& state) {
    command.data = const_cast<std::byte*>(data);
    consuming_ = &state;
    EK_CRASH_POINT("tcp.receive.from_stream");
    queue_.execute(command);
    EK_CHECK(consuming_ == nullptr, "a command that writes inline has ended");
}

// The data's first bytes are in the stream buffer: they move to the command's buffer, the rest follows by
// itself.
void TcpConnection::begin_data(ReceiveState& state) {
    const auto present =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(received_ - state.consumed, state.remaining));
    std::memcpy(data_at(slots_.commands[state.command]) + state.data_position,
                stream_at(state, state.consumed), present);
    state.consumed += present;
    state.data_position += present;
    state.remaining -= present;
    if (state.consumed == received_) {
        // Nothing of the stream buffer is in use: what follows the data starts at its beginning.
        state.base_stream = state.consumed + state.remaining;
        state.base_address = 0;
    }
    commit(state);
}

TcpConnection::Step TcpConnection::take_data(ReceiveState& state) {
    const std::uint64_t digest = state.has_digest != 0 ? wire::digest_bytes : 0;
    if (received_ - state.consumed < state.remaining + digest) {
        return Step::need_more;
    }
    nvme::Command& command = queue_.commands()[state.command];
    nvme::CommandRecord& record = *command.record;
    bool digest_ok = true;
    if (state.has_digest != 0) {
        const std::uint32_t expected = load_digest(stream_at(state, state.consumed + state.remaining));
        digest_ok = digest_of(data_at(record) + state.pdu_data_begin, state.pdu_data_bytes) == expected;
    }
    if (!digest_ok) {
        reject_data(record);
    }
    const std::uint32_t received_bytes = state.pdu_data_begin + state.pdu_data_bytes;
    state.consumed += state.remaining + digest;
    state.remaining = 0;
    state.phase = ReceivePhase::header;
    state.command_received = received_bytes;
    commit(state);
    if ((record.in_capsule & nvme::data_in_capsule) != 0) {
        capsule_data_complete(command, digest_ok);
    } else {
        h2c_data_complete(command, received_bytes);
    }
    return Step::again;
}

void TcpConnection::capsule_data_complete(nvme::Command& command, bool digest_ok) {
    nvme::CommandRecord& record = *command.record;
    record.received_bytes = record.buffer_bytes;
    const auto offset = static_cast<std::uint32_t>(record.sqe.dptr.address);
    if (offset != 0 && digest_ok && command.data != nullptr) {
        std::memmove(command.data, command.data + offset, record.data_length);
        record.sqe.dptr.address = 0;
    }
    make_ready(command);
}

void TcpConnection::h2c_data_complete(nvme::Command& command, std::uint32_t received_bytes) {
    nvme::CommandRecord& record = *command.record;
    record.received_bytes = received_bytes;
    if (received_bytes < record.data_length) {
        request_data(command);
        return;
    }
    --requests_open_;
    make_ready(command);
}

// All data of a command that was `receiving` is in place.
void TcpConnection::make_ready(nvme::Command& command) {
    nvme::CommandRecord& record = *command.record;
    record.progress = 0;
    record.response_sequence = ~std::uint64_t{0};
    durable::commit(record.state, nvme::CommandState::ready);
    EK_CRASH_POINT("tcp.receive.ready");
    start(command);
}

void TcpConnection::start(nvme::Command& command) {
    const nvme::CommandRecord& record = *command.record;
    if ((record.in_capsule & nvme::data_rejected) != 0) {
        queue_.fail(command, wire::Status{record.status}, (record.status_flags & nvme::status_flag_dnr) != 0);
        return;
    }
    queue_.execute(command);
}

TcpConnection::Step TcpConnection::take_skip(ReceiveState& state) {
    const auto present =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(received_ - state.consumed, state.remaining));
    state.consumed += present;
    state.remaining -= present;
    if (state.remaining != 0) {
        commit(state);
        return Step::need_more;
    }
    nvme::Command& command = queue_.commands()[state.command];
    state.phase = ReceivePhase::header;
    state.command_received = command.record->data_length;
    commit(state);
    make_ready(command);
    return Step::again;
}

std::uint32_t TcpConnection::r2t_bytes(const nvme::CommandRecord& command) const {
    return record_.outstanding_r2t > 1 ? r2t_piece_bytes : command.data_length;
}

TcpConnection::Step TcpConnection::take_h2c_data(ReceiveState& state, const std::byte* pdu,
                                                 const wire::PduLayout& layout) {
    wire::H2cData data;
    std::memcpy(&data, pdu, sizeof data);
    using wire::FatalErrorStatus;
    const auto fail = [&](FatalErrorStatus fes, std::size_t fei) {
        return fail_pdu(state, {fes, static_cast<std::uint32_t>(fei)}, pdu, sizeof data);
    };
    if (const wire::PduError error = wire::check_h2c_data(data, layout); !(error == wire::PduError{})) {
        return fail_pdu(state, error, pdu, sizeof data);
    }
    const std::uint32_t tag = data.ttag;
    const std::uint32_t slot = tag & ((1u << tag_slot_bits) - 1);
    const std::uint32_t piece = (tag >> tag_slot_bits) & ((1u << tag_piece_bits) - 1);
    if (slot >= queue_.commands().size()) {
        return fail(FatalErrorStatus::invalid_pdu_header_field, offsetof(wire::H2cData, ttag));
    }
    nvme::Command& command = queue_.commands()[slot];
    nvme::CommandRecord& record = *command.record;
    const std::uint32_t generation_mask = ~(((1u << tag_piece_bits) - 1) << tag_slot_bits);
    if (record.state != nvme::CommandState::receiving || (record.in_capsule & nvme::data_in_capsule) != 0 ||
        (tag & generation_mask) != record.transfer_tag || piece >= record.progress) {
        return fail(FatalErrorStatus::invalid_pdu_header_field, offsetof(wire::H2cData, ttag));
    }
    if (data.cccid != record.sqe.cid) {
        return fail(FatalErrorStatus::invalid_pdu_header_field, offsetof(wire::H2cData, cccid));
    }
    const std::uint32_t piece_bytes = r2t_bytes(record);
    const std::uint32_t piece_begin = piece * piece_bytes;
    const std::uint32_t piece_end = std::min(piece_begin + piece_bytes, record.data_length);
    if (data.datao < piece_begin || data.datao > piece_end || data.datal > piece_end - data.datao) {
        return fail(FatalErrorStatus::data_transfer_out_of_range, 0);
    }
    if (data.datao != record.received_bytes) {  // within an R2T and from one to the next, data comes in order
        return fail(FatalErrorStatus::data_transfer_out_of_range, 0);
    }
    const bool last = (data.common.flags & wire::pdu_flags::last_pdu) != 0;
    if (last != (data.datao + data.datal == piece_end)) {
        return fail(FatalErrorStatus::invalid_pdu_header_field, offsetof(wire::CommonHeader, flags));
    }
    record_flight(wire::PduType::h2c_data, data.cccid, record.sqe.opcode, layout.pdu_bytes, state.consumed,
                  data.datao);

    state.command = static_cast<std::uint16_t>(slot);
    state.has_digest = layout.data_digest_bytes != 0;
    state.data_position = data.datao;
    state.pdu_data_begin = data.datao;
    state.pdu_data_bytes = data.datal;
    state.remaining = data.datal;
    state.phase = ReceivePhase::data;
    state.consumed += layout.data_offset;
    begin_data(state);
    return Step::again;
}

TcpConnection::Step TcpConnection::fail_pdu(ReceiveState& state, wire::PduError error, const std::byte* pdu,
                                            std::size_t bytes) {
    const char* name = wire::name_of(error.fes);
    reason_ = std::string("protocol error: ") + (name != nullptr ? name : "unknown") + ", field " +
              std::to_string(error.fei) + ", PDU type " + std::to_string(static_cast<unsigned>(pdu[0]));
    const auto quoted =
        static_cast<std::uint32_t>(std::min<std::size_t>(bytes, wire::term_req_data_bytes_max));
    const wire::TermReq request = wire::make_term_req(wire::PduType::c2h_term_req, error, quoted);
    std::memcpy(record_.control + control_term_req, &request, sizeof request);
    std::memcpy(record_.control + control_term_req + sizeof request, pdu, quoted);
    state.phase = ReceivePhase::closing;
    state.consumed = received_;
    commit(state);
    queue_control(control_term_req, static_cast<std::uint32_t>(sizeof request) + quoted);
    draining_ = true;
    return Step::again;
}

TcpConnection::Step TcpConnection::end_without_word(const char* reason) {
    begin_ending(reason);
    return Step::stop;
}

// Memory for the capsule at `consumed` may be there now.
void TcpConnection::buffer_available() {
    stalled_ = false;
    last_received_at_ = reads_since_ = around_.reactor.now();  // the host waited for us
    if (!ending_) {
        parse();
    }
    if (!stalled_) {
        queue_.buffers().stop_waiting_for_stream(common_waiter_, *this);  // in the other pool's line
    }
}

bool TcpConnection::host_owes_bytes() const {
    const ReceiveState& state = record_.receive.current();
    return state.phase == ReceivePhase::data || state.phase == ReceivePhase::skip ||
           received_ != state.consumed || requests_open_ != 0;
}

}  // namespace transport
