#include "block/initiator/tcp_queue.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace block::initiator {

namespace {

constexpr std::size_t stream_bytes = 256 * 1024;
constexpr std::size_t batch_bytes = 64 * 1024;
constexpr std::size_t batch_segments = 512;

// A command identifier is a slot and how often the slot was used, so that an answer to an earlier command in
// the same slot is not taken for the present one's.
constexpr unsigned slot_bits = 10;
constexpr std::uint16_t slot_mask = (1u << slot_bits) - 1;
constexpr std::uint16_t generations = 63;  // one less than fits: FFFFh is no identifier

std::uint16_t cid_of(std::uint16_t slot, std::uint16_t generation) {
    return static_cast<std::uint16_t>(slot | (generation << slot_bits));
}

std::string text_of_errno(int error_number) { return std::strerror(error_number); }

}  // namespace

TcpQueue::TcpQueue(reactor::Reactor& reactor, QueueOptions options, QueueOwner& owner)
    : reactor_(reactor),
      options_(std::move(options)),
      owner_(owner),
      flush_(reactor, *this),
      end_(reactor, *this) {
    EK_CHECK(options_.entries >= 2 && options_.entries - 1 <= slot_mask,
             "a queue size that the caller checked");
    slots_.resize(static_cast<std::size_t>(options_.entries) - 1);
    free_slots_.reserve(slots_.size());
    for (std::size_t i = slots_.size(); i-- > 0;) {
        free_slots_.push_back(static_cast<std::uint16_t>(i));
    }
    for (Batch* batch : {&building_, &sending_}) {
        batch->bytes.resize(batch_bytes);
        batch->segments.reserve(batch_segments);
    }
    stream_.resize(stream_bytes);
    digests_ = {options_.header_digest, options_.data_digest};
    send_operation_.queue = receive_operation_.queue = this;
}

TcpQueue::~TcpQueue() {
    EK_CHECK(phase_ == Phase::idle || phase_ == Phase::closed, "a queue is closed before it is destroyed");
}

void TcpQueue::open() {
    EK_CHECK(phase_ == Phase::idle, "a queue is opened once");
    phase_ = Phase::connecting;
    socket_ = socket(options_.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (socket_ < 0) {
        fail("socket: " + text_of_errno(errno));
        return;
    }
    const int on = 1;
    (void)setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (options_.reset_on_close) {
        const linger discard{1, 0};
        (void)setsockopt(socket_, SOL_SOCKET, SO_LINGER, &discard, sizeof discard);
    }
    send_operation_.in_flight = true;
    send_operation_.complete = [](reactor::Operation& operation, std::int32_t result) {
        static_cast<SocketOperation&>(operation).queue->connected(result);
    };
    reactor_.kernel().connect(socket_, reinterpret_cast<const sockaddr&>(options_.address),
                              options_.address_bytes, send_operation_);
}

void TcpQueue::connected(std::int32_t result) {
    send_operation_.in_flight = false;
    if (phase_ == Phase::closing) {
        end_.schedule();
        return;
    }
    if (result < 0) {
        fail("connect: " + text_of_errno(-result));
        return;
    }
    send_operation_.complete = [](reactor::Operation& operation, std::int32_t sent_bytes) {
        static_cast<SocketOperation&>(operation).queue->sent(sent_bytes);
    };
    receive_operation_.complete = [](reactor::Operation& operation, std::int32_t received_bytes) {
        static_cast<SocketOperation&>(operation).queue->received(received_bytes);
    };
    phase_ = Phase::negotiating;
    wire::IcReq request;
    request.common = wire::make_header(wire::plan_pdu(wire::PduType::ic_req, 0, {}, 0));
    request.pfv = wire::pdu_format_version;
    request.hpda = options_.host_alignment;
    request.dgst = static_cast<std::uint8_t>((digests_.header ? wire::digest_enable::header : 0) |
                                             (digests_.data ? wire::digest_enable::data : 0));
    request.maxr2t = 0;  // one R2T at a time for a command
    std::memcpy(building_.take(sizeof request), &request, sizeof request);
    flush_.schedule();
    start_receive();
}

// ICResp was accepted: the Connect command is the first of the queue.
void TcpQueue::send_connect() {
    phase_ = Phase::joining;
    join_data_ = {};
    std::copy(options_.hostid.begin(), options_.hostid.end(), join_data_.hostid);
    join_data_.cntlid = options_.cntlid;
    options_.subnqn.copy(join_data_.subnqn, sizeof join_data_.subnqn - 1);
    options_.hostnqn.copy(join_data_.hostnqn, sizeof join_data_.hostnqn - 1);

    wire::ConnectCommand connect;
    connect.opcode = static_cast<std::uint8_t>(wire::IoOpcode::fabrics);
    connect.fctype = static_cast<std::uint8_t>(wire::FabricsType::connect);
    connect.recfmt = wire::connect_record_format;
    connect.qid = options_.qid;
    connect.sqsize = static_cast<std::uint16_t>(options_.entries - 1);
    connect.cattr = wire::connect_attribute::disable_sq_flow_control.put(options_.flow_control ? 0 : 1);
    connect.kato = options_.kato_ms;
    join_.sqe = reinterpret_cast<const wire::Sqe&>(connect);
    join_.direction = wire::DataDirection::to_controller;
    join_.data = reinterpret_cast<std::byte*>(&join_data_);
    join_.length = sizeof join_data_;
    join_.done = nullptr;  // complete() knows it
    EK_CHECK(enqueue(join_), "the first command finds a slot");
}

void TcpQueue::join_answered(const Completion& completion) {
    if (!completion.answered) {
        return;
    }
    if (!completion.status.ok()) {
        const char* name = wire::name_of_fabrics(completion.status);
        fail("Connect was refused: " + std::string(name != nullptr ? name : "unknown status") + " (" +
             std::to_string(completion.status.value) + ")");
        return;
    }
    phase_ = Phase::ready;
    const auto result = static_cast<std::uint32_t>(completion.result);
    owner_.queue_opened(*this, static_cast<std::uint16_t>(wire::connect_result::cntlid.get(result)));
}

bool TcpQueue::submit(HostCommand& command) { return phase_ == Phase::ready && enqueue(command); }

bool TcpQueue::enqueue(HostCommand& command) {
    if (free_slots_.empty()) {
        return false;
    }
    EK_CHECK(command.state == HostCommand::State::idle, "a command is submitted once at a time");
    EK_CHECK(command.length <= options_.transfer_bytes_max, "a transfer that the caller limited");
    const std::uint16_t index = free_slots_.back();
    free_slots_.pop_back();
    Slot& slot = slots_[index];
    slot.generation = static_cast<std::uint16_t>((slot.generation + 1) % generations);
    slot.command = &command;
    ++outstanding_;

    const std::uint32_t in_capsule_max =
        command.sqe.opcode == static_cast<std::uint8_t>(wire::IoOpcode::fabrics) ? sizeof(wire::ConnectData)
                                                                                 : options_.in_capsule_bytes;
    command.in_capsule = command.direction == wire::DataDirection::to_controller && command.length != 0 &&
                         command.length <= in_capsule_max;
    command.sqe.cid = cid_of(index, slot.generation);
    command.sqe.flags = wire::sqe_flags(command.sqe.fuse(), wire::Psdt::sgl_contiguous_metadata);
    command.sqe.dptr = wire::Sgl{};
    command.sqe.dptr.length = command.length;
    command.sqe.dptr.identifier = command.in_capsule ? wire::sgl_in_capsule : wire::sgl_transport;
    command.state = HostCommand::State::queued;
    command.last_seen = false;
    command.received = command.requested = command.given = 0;
    command.next = nullptr;
    (capsules_last_ != nullptr ? capsules_last_->next : capsules_first_) = &command;
    capsules_last_ = &command;
    flush_.schedule();
    return true;
}

HostCommand* TcpQueue::find(std::uint16_t cid) {
    const std::uint16_t index = cid & slot_mask;
    if (index >= slots_.size() || slots_[index].command == nullptr ||
        slots_[index].generation != cid >> slot_bits ||
        slots_[index].command->state != HostCommand::State::sent) {
        return nullptr;
    }
    return slots_[index].command;
}

// The controller has answered.
void TcpQueue::answer(HostCommand& command, const Completion& completion) {
    const std::uint64_t taken = send_operation_.in_flight ? batch_ - 2 : batch_ - 1;
    if (command.direction != wire::DataDirection::to_controller || command.batch <= taken) {
        complete(command, completion);
        return;
    }
    command.state = HostCommand::State::answered;
    command.answer = completion;
    command.next = nullptr;
    (answered_last_ != nullptr ? answered_last_->next : answered_first_) = &command;
    answered_last_ = &command;
}

// The socket has taken everything up to the batch that is being built.
void TcpQueue::complete_answered() {
    while (answered_first_ != nullptr && answered_first_->batch < batch_ && phase_ < Phase::closing) {
        HostCommand& command = *answered_first_;
        answered_first_ = command.next;
        answered_last_ = answered_first_ == nullptr ? nullptr : answered_last_;
        complete(command, command.answer);
    }
}

void TcpQueue::complete(HostCommand& command, const Completion& completion) {
    const std::uint16_t index = command.sqe.cid & slot_mask;
    slots_[index].command = nullptr;
    free_slots_.push_back(index);
    --outstanding_;
    command.state = HostCommand::State::idle;
    if (&command == &join_) {
        join_answered(completion);
    } else {
        command.done(command, completion);
    }
}

// --- the end -----------------------------------------------------------------------------------------------

void TcpQueue::close() {
    if (phase_ == Phase::idle) {
        phase_ = Phase::closed;
        return;
    }
    if (phase_ != Phase::closing && phase_ != Phase::closed) {
        end();
    }
}

void TcpQueue::fail(std::string reason) {
    if (phase_ == Phase::closing || phase_ == Phase::closed) {
        return;
    }
    failure_ = "queue " + std::to_string(options_.qid) + ": " + std::move(reason);
    report_failure_ = true;
    end();
}

// The controller broke the protocol: it is told so, if the socket takes it at once.
void TcpQueue::violation(const std::string& what, wire::FatalErrorStatus fes) {
    if (fes != wire::FatalErrorStatus::none && !send_operation_.in_flight && socket_ >= 0) {
        const wire::TermReq request = wire::make_term_req(wire::PduType::h2c_term_req, {fes, 0}, 0);
        (void)send(socket_, &request, sizeof request, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    fail("protocol violation: " + what);
}

void TcpQueue::end() {
    phase_ = Phase::closing;
    flush_.cancel();
    if (socket_ >= 0) {
        (void)shutdown(socket_, SHUT_RDWR);
    }
    if (receive_operation_.in_flight) {
        reactor_.kernel().cancel(receive_operation_);
    }
    if (send_operation_.in_flight) {
        reactor_.kernel().cancel(send_operation_);
    }
    end_.schedule();
}

// Runs at the end of an iteration, so that owners are never called from within their own calls.
void TcpQueue::finish_closing() {
    if (phase_ != Phase::closing || receive_operation_.in_flight || send_operation_.in_flight) {
        return;
    }
    if (socket_ >= 0) {
        ::close(socket_);
        socket_ = -1;
    }
    capsules_first_ = capsules_last_ = data_first_ = data_last_ = nullptr;
    answered_first_ = answered_last_ = nullptr;
    receiving_ = nullptr;
    phase_ = Phase::closed;
    for (Slot& slot : slots_) {
        if (slot.command != nullptr) {
            Completion unanswered;
            unanswered.sent = slot.command->state != HostCommand::State::queued;
            complete(*slot.command, unanswered);
        }
    }
    if (report_failure_) {
        report_failure_ = false;
        owner_.queue_failed(*this, failure_);
    }
    owner_.queue_closed(*this);
}

}  // namespace block::initiator
