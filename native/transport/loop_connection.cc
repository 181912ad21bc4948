#include "transport/loop_connection.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "nvme/io_commands.h"

namespace transport {

LoopConnection::LoopConnection(nvme::Target& target, reactor::Reactor& reactor, reactor::BufferPool& buffers,
                               nvme::QueueRecord& record, std::span<nvme::CommandRecord> commands,
                               Options options)
    : buffers_(buffers),
      options_(std::move(options)),
      records_(commands),
      queue_(target, *this, reactor, buffers, record, commands),
      send_later_(reactor, *this) {}

// --- the host's side ---

bool LoopConnection::submit(const wire::Sqe& sqe, std::span<const std::byte> data, bool later) {
    nvme::Command* const command = ending_ ? nullptr : queue_.take_slot();
    if (command == nullptr) {
        return false;
    }
    nvme::CommandRecord& record = *command->record;
    record.sqe = sqe;
    record.stream_offset = capsules_;
    const bool in_capsule = sqe.dptr.identifier == wire::sgl_in_capsule;
    const auto capsule_bytes = static_cast<std::uint32_t>(in_capsule ? data.size() : 0);
    const nvme::Admission admission = queue_.admit(*command, capsule_bytes);
    record.direction = admission.direction;
    record.data_length = admission.length;
    ++capsules_;
    if (!admission.status.ok()) {
        record.state = nvme::CommandState::ready;
        queue_.fail(*command, admission.status, admission.dnr);
        return true;
    }
    if (admission.direction == nvme::DataDirection::to_controller && admission.length != 0) {
        const std::uint32_t bytes = std::max(admission.length, admission.buffer_bytes);
        const auto buffer = queue_.buffers().allocate(bytes);
        if (!buffer) {
            record.state = nvme::CommandState::ready;
            queue_.fail(*command, wire::status::transient_transport_error, false);
            return true;
        }
        record.data_offset = *buffer;
        record.data_region = 0;
        record.buffer_bytes = bytes;
        command->data = buffers_.at(*buffer);
        record.state = nvme::CommandState::receiving;
        if (later) {
            return true;
        }
        const std::size_t offset = in_capsule ? admission.in_capsule_offset : 0;
        return supply(sqe.cid, data.subspan(std::min(offset, data.size())));
    }
    record.state = nvme::CommandState::ready;
    queue_.execute(*command);
    return true;
}

bool LoopConnection::supply(std::uint16_t cid, std::span<const std::byte> data) {
    nvme::Command* const command = queue_.find(cid);
    if (command == nullptr || command->record->state != nvme::CommandState::receiving) {
        return false;
    }
    nvme::CommandRecord& record = *command->record;
    if (data.size() < record.data_length) {
        queue_.fail(*command, wire::status::data_transfer_error, false);
        return true;
    }
    std::memcpy(command->data, data.data(), record.data_length);
    record.received_bytes = record.data_length;
    record.state = nvme::CommandState::ready;
    queue_.execute(*command);
    return true;
}

std::optional<LoopCompletion> LoopConnection::take(std::uint16_t cid) {
    const auto at = std::find_if(completions_.begin(), completions_.end(),
                                 [&](const LoopCompletion& completion) { return completion.cqe.cid == cid; });
    if (at == completions_.end()) {
        return std::nullopt;
    }
    LoopCompletion completion = std::move(*at);
    completions_.erase(at);
    return completion;
}

void LoopConnection::close() { disconnect(false, "the host closed the connection"); }

// --- the target's side ---

void LoopConnection::respond(nvme::Command& command) {
    to_send_.push_back(&command);
    send_later_.schedule();
}

void LoopConnection::flush() {
    for (nvme::Command* command : std::exchange(to_send_, {})) {
        const nvme::CommandRecord& record = *command->record;
        LoopCompletion& completion = completions_.emplace_back();
        completion.cqe.dw0 = record.result0;
        completion.cqe.dw1 = record.result1;
        completion.cqe.sqhd = queue_.flow_control_off() ? std::uint16_t{0} : queue_.sq_head_after(capsules_);
        completion.cqe.cid = record.sqe.cid;
        completion.cqe.status = nvme::status_field_of(record);
        if (record.status == 0 && record.direction == nvme::DataDirection::to_host) {
            const std::byte* const data = buffers_.at(record.data_offset);
            completion.data.assign(data, data + record.data_length);
        }
        queue_.release(*command);
    }
    if (ending_) {
        end();
    }
}

// The queue pair hears of it later, from the reactor's loop.
void LoopConnection::disconnect(bool drain, const char* reason) {
    if (ending_) {
        return;
    }
    ending_ = true;
    reason_ = reason;
    if (!drain) {
        to_send_.clear();  // disconnected() frees them
    }
    send_later_.schedule();
}

void LoopConnection::end() {
    if (closed_) {
        return;
    }
    closed_ = true;
    queue_.disconnected([this] { idle_ = true; });
}

// --- restart ---

bool LoopConnection::adopt() {
    std::vector<std::uint16_t> live;
    for (std::size_t slot = 0; slot < queue_.commands().size(); ++slot) {
        if (records_[slot].state != nvme::CommandState::free) {
            live.push_back(static_cast<std::uint16_t>(slot));
            capsules_ = std::max(capsules_, records_[slot].stream_offset + 1);
        }
    }
    std::sort(live.begin(), live.end(), [&](std::uint16_t left, std::uint16_t right) {
        return records_[left].stream_offset < records_[right].stream_offset;
    });
    return queue_.adopt(live);
}

void LoopConnection::resume() {
    std::vector<nvme::Command*> ready;
    for (nvme::Command& command : queue_.commands()) {
        if (command.record->state == nvme::CommandState::done) {
            respond(command);
        } else if (command.record->state == nvme::CommandState::ready) {
            ready.push_back(&command);
        }
    }
    std::sort(ready.begin(), ready.end(), [](const nvme::Command* left, const nvme::Command* right) {
        return left->record->stream_offset < right->record->stream_offset;
    });
    using nvme::ReplayTurn;
    for (const ReplayTurn turn : {ReplayTurn::change, ReplayTurn::read_and_change, ReplayTurn::other}) {
        for (nvme::Command* command : ready) {
            if (nvme::replay_turn(queue_, command->sqe()) == turn) {
                command->again = true;
                queue_.execute(*command);
            }
        }
    }
}

}  // namespace transport
