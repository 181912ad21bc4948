// Slots, admission and completion of commands: what all commands have in common.
//
// Invariant: a command is completed once. Every end goes through finish(): status and result first, then
// `done`, then what the end sets free (CID, partner, waiting Aborts), then the response.

#include "nvme/queue_pair.h"

#include <atomic>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/crash_point.h"
#include "nvme/admin_commands.h"
#include "nvme/controller.h"
#include "nvme/fabrics.h"
#include "nvme/io_commands.h"
#include "nvme/io_steps.h"
#include "nvme/namespace.h"
#include "nvme/target.h"
#include "wire/nvme_fabrics.h"
#include "wire/nvme_io.h"

namespace nvme {

namespace {

constexpr std::uint16_t no_slot = 0xFFFF;
static_assert(limits::queue_entries_max * 2 < no_slot);

std::size_t bucket_of(std::uint16_t cid, std::size_t buckets) {
    return (cid ^ (cid >> 12)) & (buckets - 1);  // Linux puts a generation into the upper four bits
}

wire::Status ana_status(AnaState state) {
    switch (state) {
        case AnaState::optimized:
        case AnaState::non_optimized: return wire::status::success;
        case AnaState::inaccessible: return wire::status::ana_inaccessible;
        case AnaState::persistent_loss: return wire::status::ana_persistent_loss;
        case AnaState::change: return wire::status::ana_transition;
    }
    return wire::status::internal_error;
}

Admission refusal(wire::Status status, bool dnr = true) {
    Admission admission;
    admission.status = status;
    admission.dnr = dnr;
    return admission;
}

// While the host has switched the volatile write cache off, what is written is on the medium when its command
// ends, as if each of these commands said so.
void force_unit_access_without_cache(const Controller& controller, wire::Sqe& sqe) {
    const auto opcode = static_cast<wire::IoOpcode>(sqe.opcode);
    const bool writes = opcode == wire::IoOpcode::write || opcode == wire::IoOpcode::write_zeroes ||
                        opcode == wire::IoOpcode::copy;
    static_assert(wire::io_cdw12::fua.mask == wire::copy_cdw12::fua.mask);
    if (writes && !wire::feature_volatile_write_cache::wce.test(controller.features().volatile_write_cache)) {
        sqe.cdw12 = sqe.cdw12 | wire::io_cdw12::fua.mask;
    }
}

// A command that was stopped is no error of anybody's.
bool worth_logging(wire::Status status) {
    return status != wire::status::abort_requested && status != wire::status::aborted_sq_deletion;
}

// Statuses whose cause passes by itself: hosts that asked for it are told to wait a moment before they retry.
bool worth_a_delay(wire::Status status) {
    return status == wire::status::command_interrupted || status == wire::status::namespace_not_ready;
}

// The record counts already: a successor believes the place if there is a size.
void own_buffer(CommandRecord& record, std::uint64_t offset, std::uint32_t bytes) {
    record.data_region = 0;
    record.data_offset = offset;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    record.buffer_bytes = bytes;
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace

void Command::buffer_available() { queue->resume(*this); }

// --- life ---

QueuePair::QueuePair(Target& target, Connection& connection, reactor::Reactor& reactor,
                     reactor::BufferPool& buffers, QueueRecord& record,
                     std::span<CommandRecord> command_records)
    : target_(target),
      connection_(connection),
      reactor_(reactor),
      buffers_(std::make_shared<reactor::HostBuffers>(buffers)),
      record_(record),
      records_(command_records.size() < no_slot ? command_records : command_records.first(no_slot - 1)) {
    void* const memory = target_.command_memory().take(sizeof(Command) * records_.size());
    EK_CHECK(memory != nullptr || records_.empty(), "no memory for the commands of a queue");
    commands_ = static_cast<Command*>(memory);
    free_slots_.reserve(records_.size());
    if (record_.entries < limits::queue_entries_min || record_.entries > limits::queue_entries_max) {
        record_.entries = limits::admin_queue_entries_min;
    }
    grow_to(std::uint32_t{record_.entries} * 2);
    target_.connection_opened();
}

QueuePair::~QueuePair() {
    target_.cancel_questions(*this);
    for (std::uint32_t i = 0; i < command_count_; ++i) {
        buffers_->stop_waiting(commands_[i]);
        commands_[i].Command::~Command();
    }
    std::free(commands_);
    target_.connection_closed();
}

void QueuePair::draw_from(std::shared_ptr<reactor::HostBuffers> buffers) {
    EK_CHECK(buffers_->bytes_held() == 0, "a queue changes its buffers while it holds some");
    buffers_ = std::move(buffers);
}

// Twice the queue's entries: a slot is free only after its response was sent, and a quick host has then used
// the queue entry again.
void QueuePair::grow_to(std::uint32_t slots) {
    if (slots > records_.size()) {
        slots = static_cast<std::uint32_t>(records_.size());
    }
    if (slots <= command_count_) {
        return;
    }
    const std::uint32_t before = command_count_;
    for (; command_count_ < slots; ++command_count_) {
        Command& command = *new (&commands_[command_count_]) Command;
        command.record = &records_[command_count_];
        command.queue = this;
        command.slot = static_cast<std::uint16_t>(command_count_);
    }
    // Low slots are taken first, so that memory stays warm.
    std::vector<std::uint16_t> free;
    free.reserve(records_.size());
    for (std::uint32_t i = slots; i > before; --i) {
        free.push_back(static_cast<std::uint16_t>(i - 1));
    }
    free.insert(free.end(), free_slots_.begin(), free_slots_.end());
    free_slots_ = std::move(free);

    std::size_t buckets = 64;
    while (buckets < slots) {
        buckets *= 2;
    }
    const std::vector<std::uint16_t> old_heads = std::move(cid_heads_);
    const std::vector<std::uint16_t> old_next = std::move(cid_next_);
    cid_heads_.assign(buckets, no_slot);
    cid_next_.assign(slots, no_slot);
    for (const std::uint16_t head : old_heads) {
        for (std::uint16_t slot = head; slot != no_slot; slot = old_next[slot]) {
            remember_cid(commands_[slot]);
        }
    }
}

void QueuePair::remember_cid(Command& command) {
    std::uint16_t& head = cid_heads_[bucket_of(command.sqe().cid, cid_heads_.size())];
    cid_next_[command.slot] = head;
    head = command.slot;
}

void QueuePair::forget_cid(const Command& command) {
    std::uint16_t* link = &cid_heads_[bucket_of(command.sqe().cid, cid_heads_.size())];
    while (*link != no_slot && *link != command.slot) {
        link = &cid_next_[*link];
    }
    if (*link == command.slot) {
        *link = cid_next_[command.slot];
        cid_next_[command.slot] = no_slot;
    }
}

Command* QueuePair::find(std::uint16_t cid) {
    std::uint16_t slot = cid_heads_[bucket_of(cid, cid_heads_.size())];
    while (slot != no_slot && commands_[slot].sqe().cid != cid) {
        slot = cid_next_[slot];
    }
    return slot != no_slot ? &commands_[slot] : nullptr;
}

// --- slots ---

Command* QueuePair::take_slot() {
    // Slots beyond what the queue has entries for are left over from the time before Connect.
    const std::size_t in_use = command_count_ - free_slots_.size();
    if (free_slots_.empty() || in_use >= std::size_t{record_.entries} * 2) {
        return nullptr;
    }
    Command& command = commands_[free_slots_.back()];
    free_slots_.pop_back();
    command.abort_requested = false;
    command.executing = false;
    command.again = false;
    command.waits_to_send = false;
    command.waits_for_partner = false;
    command.pair_status = 0;
    command.error_location = 0xFFFF;
    command.data = nullptr;
    command.ns = nullptr;
    command.partner = nullptr;
    command.next = nullptr;
    command.received_at = reactor_.now();
    command.requested_at = 0;
    command.children = 0;
    command.step = 0;
    command.after_done = nullptr;
    // Everything behind the SQE; `state` is free already.
    CommandRecord& record = *command.record;
    constexpr std::size_t from = offsetof(CommandRecord, stream_offset);
    std::memset(reinterpret_cast<std::byte*>(&record) + from, 0, sizeof(CommandRecord) - from);
    record.data_region = no_data_region;
    return &command;
}

void QueuePair::release(Command& command) {
    CommandRecord& record = *command.record;
    buffers_->stop_waiting(command);
    if (command.ns != nullptr) {  // data was sent from the device's own memory
        Namespace& ns = *command.ns;
        command.ns = nullptr;
        ns.release();
    }
    const std::uint64_t offset = record.data_offset;
    const std::uint32_t bytes = record.buffer_bytes;
    if (record.state != CommandState::done) {  // finish() has forgotten it
        forget_cid(command);
    }
    if (record.state == CommandState::free) {
        forget_admission(command);
    }
    unlink_partner(command);
    store_state(record, CommandState::free);
    EK_CRASH_POINT("command_freed");
    record.buffer_bytes = 0;
    if (bytes != 0) {
        buffers_->release(offset, bytes);
    }
    command.data = nullptr;
    free_slots_.push_back(command.slot);
}

bool QueuePair::allocate_data(Command& command, std::uint32_t bytes) {
    CommandRecord& record = *command.record;
    if (record.buffer_bytes == 0) {
        const auto offset = buffers_->allocate(bytes);
        if (!offset) {
            buffers_->wait(command);
            return false;
        }
        own_buffer(record, *offset, bytes);
    }
    EK_CHECK(record.buffer_bytes >= bytes, "a command wants a larger buffer than it has");
    record.data_length = bytes;
    command.data = buffers_->at(record.data_offset);
    return true;
}

bool QueuePair::allocate_to_receive(Command& command) {
    CommandRecord& record = *command.record;
    const auto offset = buffers_->allocate(record.buffer_wanted);
    if (!offset) {
        buffers_->wait(command);
        return false;
    }
    command.data = buffers_->at(*offset);
    own_buffer(record, *offset, record.buffer_wanted);
    return true;
}

// --- admission ---

Admission QueuePair::admit(Command& command, std::uint32_t capsule_data_bytes) {
    const wire::Sqe& sqe = command.sqe();
    if (controller_ != nullptr) {
        controller_->contact();
    }
    if (find(sqe.cid) != nullptr) {
        return refusal(wire::status::command_id_conflict);
    }
    remember_cid(command);
    return admit_first(command, capsule_data_bytes);
}

// Each of these functions fills the one Admission of its caller (one name, or none, for what it returns):
// copies of fields that were just stored cost more than the checks.
Admission QueuePair::admit_first(Command& command, std::uint32_t capsule_data_bytes) {
    const wire::Sqe& sqe = command.sqe();
    Admission admission = admit_checked(sqe);
    if (admission.length > limits::transfer_bytes_max && record_.qid != 0 && admission.status.ok()) {
        admission.status = wire::status::invalid_field;
    }
    if (admission.status.ok()) {
        admission.status = check_sgl(sqe, admission, capsule_data_bytes);
    }
    if (pair_phase_ != PairPhase::none || sqe.fuse() != wire::Fuse::normal) {
        admit_pair(command, admission);
    }
    return admission;
}

Admission QueuePair::admit_checked(const wire::Sqe& sqe) {
    if (disconnected_ || (controller_ != nullptr && controller_->terminating())) {
        return refusal(wire::status::aborted_sq_deletion, false);
    }
    if (is_fabrics(sqe)) {
        return admit_fabrics(*this, sqe);
    }
    if (controller_ == nullptr || record_.connect_done == 0 || !controller_->enabled() ||
        !controller_->ready()) {
        return refusal(wire::status::command_sequence_error);
    }
    if (sqe.psdt() == wire::Psdt::prp || sqe.psdt() == wire::Psdt::reserved) {
        return refusal(wire::status::invalid_field);  // NVMe over Fabrics: SGLs only
    }
    if (record_.qid == 0) {
        if (sqe.fuse() != wire::Fuse::normal) {
            return refusal(wire::status::invalid_field);
        }
        const AdminCommandRow* const row = find_admin_command(*controller_, sqe.opcode);
        return row != nullptr ? row->admit(*controller_, sqe) : refusal(wire::status::invalid_opcode);
    }
    if (!controller_->accepts_io()) {
        return refusal(wire::status::command_sequence_error);
    }
    if (sqe.fuse() == wire::Fuse::reserved) {
        return refusal(wire::status::invalid_field);
    }
    const IoCommandRow* const row = find_io_command(sqe.opcode);
    if (row == nullptr) {
        return refusal(wire::status::invalid_opcode);
    }
    if (const wire::Status status = ana_status(controller_->subsystem().ana_state()); !status.ok()) {
        return refusal(status, false);
    }
    return row->admit(*this, sqe);
}

// NVMe/TCP 1.0 §3.2 (SGLs in commands): data to the controller in the capsule or by data PDUs, data to the
// host by data PDUs only. The SGL may describe more than the command transfers, never less.
wire::Status QueuePair::check_sgl(const wire::Sqe& sqe, Admission& admission,
                                  std::uint32_t capsule_data_bytes) const {
    if (admission.direction == DataDirection::none || admission.length == 0) {
        return wire::status::success;
    }
    const wire::Sgl& sgl = sqe.dptr;
    const std::uint32_t length = sgl.length;
    if (sgl.identifier == wire::sgl_in_capsule && admission.direction == DataDirection::to_controller) {
        const TransportTraits& traits = connection_.traits();
        const std::uint32_t room =
            record_.qid == 0 || is_fabrics(sqe) ? traits.in_capsule_bytes_admin : traits.in_capsule_bytes_io;
        const std::uint64_t offset = sgl.address;
        if (offset > room || offset > capsule_data_bytes) {
            return wire::status::sgl_offset_invalid;
        }
        const auto start = static_cast<std::uint32_t>(offset);
        if (length > room - start || length > capsule_data_bytes - start || length < admission.length) {
            return wire::status::data_sgl_length_invalid;
        }
        admission.in_capsule = true;
        admission.in_capsule_offset = start;
        return wire::status::success;
    }
    if (sgl.identifier != wire::sgl_transport) {
        return wire::status::sgl_descriptor_type_invalid;
    }
    return length < admission.length ? wire::status::data_sgl_length_invalid : wire::status::success;
}

// --- execution ---

bool QueuePair::writes_inline(const Command& command) const {
    const wire::Sqe& sqe = command.sqe();
    if (record_.qid == 0 || controller_ == nullptr ||
        sqe.opcode != static_cast<std::uint8_t>(wire::IoOpcode::write) || sqe.fuse() != wire::Fuse::normal) {
        return false;
    }
    Namespace* const ns = controller_->find_namespace(sqe.nsid);
    return ns != nullptr && !ns->removing() && ns->ranges.is_open() && ns->device().writes_inline();
}

void QueuePair::execute(Command& command) {
    EK_CHECK(!command.executing, "a command is executed twice");
    command.executing = true;
    ++executing_;
    const bool io = record_.qid != 0 && controller_ != nullptr && !is_fabrics(command.sqe());
    if (io) {
        controller_->subsystem().io_started(reactor_.now());
        force_unit_access_without_cache(*controller_, command.record->sqe);
    }
    if (command.abort_requested) {
        complete(command, wire::status::abort_requested);
        return;
    }
    if (io) {
        if (command.pair_status != 0) {
            complete(command, wire::Status{command.pair_status}, true);
            return;
        }
        const wire::Fuse fuse = command.sqe().fuse();
        if (fuse == wire::Fuse::first || (fuse == wire::Fuse::second && command.partner != nullptr)) {
            Command* const partner = command.partner;
            if (partner == nullptr || !partner->waits_for_partner) {
                command.waits_for_partner = true;
                return;
            }
            partner->waits_for_partner = false;
            dispatch(fuse == wire::Fuse::first ? command : *partner);
            return;
        }
    }
    dispatch(command);
}

void QueuePair::dispatch(Command& command) {
    const wire::Sqe& sqe = command.sqe();
    if (is_fabrics(sqe)) {
        execute_fabrics(*this, command);
        return;
    }
    if (controller_ == nullptr) {
        complete(command, wire::status::aborted_sq_deletion);
        return;
    }
    if (record_.qid == 0) {
        const AdminCommandRow* const row = find_admin_command(*controller_, sqe.opcode);
        if (row == nullptr) {
            complete(command, wire::status::invalid_opcode, true);
            return;
        }
        row->execute(*controller_, *this, command);
        return;
    }
    const IoCommandRow* const row = find_io_command(sqe.opcode);
    if (row == nullptr) {
        complete(command, wire::status::invalid_opcode, true);
        return;
    }
    row->execute(*this, command);
}

void QueuePair::resume(Command& command) {
    if (command.record->state == CommandState::receiving) {
        connection_.go_on_receiving(command);
    } else if (command.executing && command.record->state == CommandState::ready) {
        dispatch(command);
    }
}

// --- the end of a command ---

void QueuePair::complete(Command& command, wire::Status status, bool dnr) {
    EK_CHECK(command.executing, "a command is completed that is not executing");
    command.executing = false;
    command.waits_for_partner = false;
    --executing_;
    if (record_.qid != 0 && controller_ != nullptr && !is_fabrics(command.sqe())) {
        controller_->subsystem().io_ended(reactor_.now());
        if (status.ok()) {
            count_io(command);
        }
    }
    finish(command, status, dnr);
}

void QueuePair::fail(Command& command, wire::Status status, bool dnr) {
    if (command.ns != nullptr && !command.executing) {  // reclaim_io_command gave it what execution holds
        command.executing = true;
        ++executing_;
        controller_->subsystem().io_started(reactor_.now());
        nvme::finish(command, status, dnr);
        return;
    }
    finish(command, status, dnr);
}

void QueuePair::finish(Command& command, wire::Status status, bool dnr) {
    CommandRecord& record = *command.record;
    record.status = status.value;
    std::uint8_t flags = dnr ? status_flag_dnr : std::uint8_t{0};
    const bool log = !status.ok() && controller_ != nullptr && worth_logging(status);
    if (log) {
        flags = static_cast<std::uint8_t>(flags | status_flag_more);
    }
    if (!dnr && controller_ != nullptr && controller_->features().host_behavior[0] != 0 &&
        worth_a_delay(status)) {
        flags = static_cast<std::uint8_t>(flags | status_flag_delay);
    }
    record.status_flags = flags;
    EK_CRASH_POINT("command_before_done");
    store_state(record, CommandState::done);
    EK_CRASH_POINT("command_done");
    forget_cid(command);
    if (!status.ok()) {
        fail_partner(command);
    }
    if (log) {
        controller_->log_error(command, status_field_of(record));
    }
    if (command.after_done != nullptr) {
        void (*const after)(Command&) = command.after_done;
        command.after_done = nullptr;
        after(command);
    }
    if (command.abort_requested && controller_ != nullptr) {
        controller_->abort_target_ended(command);
    }
    if (disconnected_) {
        release(command);
        finish_if_idle();
        return;
    }
    connection_.respond(command);
}

void QueuePair::count_io(const Command& command) {
    SubsystemRecord& totals = controller_->subsystem().record();
    const auto opcode = static_cast<wire::IoOpcode>(command.sqe().opcode);
    if (opcode == wire::IoOpcode::read || opcode == wire::IoOpcode::compare) {
        ++totals.read_commands;
        totals.read_bytes += command.record->data_length;
    } else if (opcode == wire::IoOpcode::write) {
        ++totals.write_commands;
        totals.written_bytes += command.record->data_length;
    }
}

// --- binding ---

void QueuePair::bind(Controller& controller, std::uint16_t qid, std::uint16_t entries,
                     bool flow_control_off) {
    record_.qid = qid;
    record_.entries = entries;
    record_.flow_control_off = flow_control_off ? 1 : 0;
    record_.connect_done = 0;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    record_.controller = controller.slot() + 1;
    EK_CRASH_POINT("queue_bound");
    controller_ = &controller;
    grow_to(std::uint32_t{entries} * 2);
    connection_.queue_sized(entries);
    controller.attach(*this, qid);
}

void QueuePair::unbind() {
    controller_ = nullptr;
    record_.controller = 0;
}

}  // namespace nvme
