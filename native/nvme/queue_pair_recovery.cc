// The queue pair of a dead predecessor, from its records. Nothing is executed yet.

#include <vector>
#include "nvme/controller.h"
#include "nvme/io_commands.h"
#include "nvme/queue_pair.h"
#include "nvme/target.h"
#include "wire/nvme_fabrics.h"

namespace nvme {

bool QueuePair::adopt(std::span<const std::uint16_t> live) {
    std::vector<bool> taken(records_.size(), false);
    bool connecting = false;
    bool possible = true;
    for (const std::uint16_t slot : live) {
        if (slot >= command_count_ || taken[slot] || !adopt_record(slot)) {
            possible = false;
            break;
        }
        taken[slot] = true;
        const wire::Sqe& sqe = records_[slot].sqe;
        connecting = connecting || (is_fabrics(sqe) && records_[slot].state != CommandState::done &&
                                    sqe.fctype() == static_cast<std::uint8_t>(wire::FabricsType::connect));
    }
    if (!possible || (record_.controller != 0 && !adopt_controller())) {
        // All or nothing: the connection will be closed.
        for (std::uint32_t slot = 0; slot < command_count_; ++slot) {
            if (taken[slot] && records_[slot].buffer_bytes != 0) {
                buffers_->release(records_[slot].data_offset, records_[slot].buffer_bytes);
            }
        }
        return false;
    }
    if (record_.controller != 0 && !connecting) {
        record_.connect_done = 1;
    }
    free_slots_.clear();
    for (std::uint32_t i = command_count_; i > 0; --i) {
        if (!taken[i - 1]) {
            store_state(records_[i - 1], CommandState::free);
            free_slots_.push_back(static_cast<std::uint16_t>(i - 1));
        }
    }
    // Neighbours among what is left of the stream; a pair whose first half ended already has no partner.
    Command* first = nullptr;
    for (const std::uint16_t slot : live) {
        Command& command = commands_[slot];
        const wire::Fuse fuse = record_.qid != 0 ? command.sqe().fuse() : wire::Fuse::normal;
        const bool open = command.record->state != CommandState::done && command.record->status == 0;
        if (fuse == wire::Fuse::second && first != nullptr && open) {
            first->partner = &command;
            command.partner = first;
        }
        first = fuse == wire::Fuse::first && open ? &command : nullptr;
    }
    if (first != nullptr) {
        fused_first_ = first;
        pair_phase_ = PairPhase::first_admitted;
    }
    if (record_.qid != 0 && controller_ != nullptr) {
        for (const std::uint16_t slot : live) {
            if (records_[slot].state == CommandState::ready && !is_fabrics(records_[slot].sqe)) {
                reclaim_io_command(*this, commands_[slot]);
            }
        }
    }
    return true;
}

bool QueuePair::adopt_controller() {
    Controller* const controller = target_.controller_at(record_.controller - 1);
    if (controller == nullptr || record_.qid > limits::io_queues_per_controller_max ||
        controller->queue(record_.qid) != nullptr || controller->terminating()) {
        return false;
    }
    controller_ = controller;
    controller->attach(*this, record_.qid);
    return true;
}

bool QueuePair::adopt_record(std::uint16_t slot) {
    CommandRecord& record = records_[slot];
    Command& command = commands_[slot];
    if (record.state != CommandState::receiving && record.state != CommandState::ready &&
        record.state != CommandState::done) {
        return false;
    }
    if (record.buffer_bytes != 0) {
        if (record.buffer_bytes > limits::data_block_bytes_max || record.data_length > record.buffer_bytes ||
            record.data_region != 0 || !buffers_->reserve(record.data_offset, record.buffer_bytes)) {
            record.buffer_bytes = 0;
            return false;
        }
        command.data = buffers_->at(record.data_offset);
    } else if (record.state == CommandState::receiving && (record.in_capsule & data_in_capsule) == 0 &&
               (record.buffer_wanted == 0 || record.buffer_wanted > limits::data_block_bytes_max ||
                record.data_length > record.buffer_wanted)) {
        return false;
    }
    command.received_at = reactor_.now();
    if (record.state != CommandState::done) {
        const bool refused = record.status != 0;  // at admission, perhaps for this very reason
        if (find(record.sqe.cid) == nullptr) {
            remember_cid(command);
        } else if (!refused) {
            if (record.buffer_bytes != 0) {
                buffers_->release(record.data_offset, record.buffer_bytes);
            }
            return false;
        }
    }
    return true;
}

}  // namespace nvme
