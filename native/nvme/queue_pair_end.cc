// How commands are stopped, and the end of a connection: the queue pair goes when its last command has ended.

#include "base/check.h"
#include "nvme/controller.h"
#include "nvme/io_commands.h"
#include "nvme/io_steps.h"
#include "nvme/queue_pair.h"
#include "nvme/target.h"

namespace nvme {

bool QueuePair::abort(Command& command) {
    if (command.record->state == CommandState::free || command.record->state == CommandState::done) {
        return false;
    }
    if (command.abort_requested) {
        return true;
    }
    command.abort_requested = true;
    if (!command.executing) {
        if (command.waits_for_buffer()) {  // and the host was not asked for its data
            buffers_->stop_waiting(command);
            finish(command, wire::status::abort_requested, false);
        }
        return true;  // its data is not here yet: execute() ends it
    }
    if (is_fabrics(command.sqe())) {
        return true;  // ends by itself within its deadline
    }
    if (record_.qid == 0) {
        buffers_->stop_waiting(command);
        target_.cancel_question(command);
        if (controller_ != nullptr) {
            controller_->abort_admin(command);
        }
        return true;
    }
    if (command.waits_for_partner) {
        command.waits_for_partner = false;
        nvme::finish(command, wire::status::abort_requested, false);
        return true;
    }
    Command& working =
        command.sqe().fuse() == wire::Fuse::second && command.partner != nullptr ? *command.partner : command;
    if (working.waits_for_buffer()) {
        buffers_->stop_waiting(working);
        nvme::finish(working, wire::status::abort_requested, false);
        return true;
    }
    cancel_io_command(*this, command);
    return true;
}

void QueuePair::abort_all(const Command* except) {
    for (std::uint32_t i = 0; i < command_count_; ++i) {
        if (&commands_[i] != except) {
            abort(commands_[i]);
        }
    }
}

void QueuePair::disconnected(std::function<void()> when_idle) {
    EK_CHECK(!disconnected_, "a connection is disconnected twice");
    disconnected_ = true;
    target_.cancel_questions(*this);
    // What handlers do not have is free at once; nobody will be answered.
    for (std::uint32_t i = 0; i < command_count_; ++i) {
        Command& command = commands_[i];
        if (command.executing && is_fabrics(command.sqe())) {
            command.executing = false;
            --executing_;
        }
        if (!command.executing && command.record->state != CommandState::free) {
            release(command);
        }
    }
    // Detached first: the last command that is aborted makes the queue idle.
    if (controller_ != nullptr) {
        controller_->detach(*this);
    }
    abort_all();
    // Only now: releasing one half of a pair may have ended the last command that was executing.
    when_idle_ = std::move(when_idle);
    finish_if_idle();
}

// `when_idle` may destroy this object, and a handler may still be on the stack: it is called from the
// reactor's loop.
void QueuePair::finish_if_idle() {
    if (!disconnected_ || executing_ != 0 || !when_idle_) {
        return;
    }
    std::function<void()> idle = std::move(when_idle_);
    when_idle_ = nullptr;
    Controller* const controller = controller_;
    controller_ = nullptr;
    record_.controller = 0;
    if (controller != nullptr) {
        controller->queue_idle();
    }
    reactor_.post(std::move(idle));
}

}  // namespace nvme
