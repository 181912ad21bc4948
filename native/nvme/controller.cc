// A controller's queues, its keep alive timer and its error log.

#include "nvme/controller.h"

#include <algorithm>
#include <atomic>

#include "base/check.h"
#include "nvme/properties.h"
#include "nvme/target.h"
#include "wire/nvme_identify.h"
#include "wire/nvme_io.h"
#include "wire/nvme_log.h"

namespace nvme {

namespace {

constexpr std::uint32_t keep_alive_granularity_ms = keep_alive_granularity_100ms * 100;

TargetEvent event_of(const Controller& controller, TargetEventKind kind, std::string text) {
    TargetEvent event;
    event.kind = kind;
    event.subsystem_nqn = controller.record().subsystem_nqn;
    event.host_nqn = controller.record().host_nqn;
    event.cntlid = controller.cntlid();
    event.text = std::move(text);
    return event;
}

}  // namespace

Controller::Controller(Target& target, Subsystem& subsystem, ControllerRecord& record, std::uint32_t slot,
                       bool adopted)
    : target_(target),
      subsystem_(subsystem),
      record_(record),
      slot_(slot),
      adopted_(adopted),
      keep_alive_timer_(target.reactor(), *this),
      abort_timer_(target.reactor(), *this) {
    subsystem_.controllers_.push_back(this);
    record_.last_contact_ns = target.reactor().now();
    if (idle_limit() != 0) {
        keep_alive_timer_.start_after(idle_limit());
    }
}

Controller::~Controller() {
    std::erase(subsystem_.controllers_, this);
    if (flush_ != nullptr && flush_->ns != nullptr) {  // the whole target goes while a device still flushes
        flush_->ns->release();
        flush_->controller = nullptr;
        static_cast<void>(flush_.release());
    }
}

void Controller::announce() { target_.emit(event_of(*this, TargetEventKind::controller_created, "")); }

// --- queues ---

std::uint32_t Controller::io_queue_count() const {
    return static_cast<std::uint32_t>(std::count_if(queues_.begin() + 1, queues_.end(),
                                                    [](const QueuePair* queue) { return queue != nullptr; }));
}

std::uint16_t Controller::io_queues_allowed() const {
    const std::uint32_t most =
        std::min(target_.limits().io_queues_per_controller, limits::io_queues_per_controller_max);
    const std::uint32_t granted = std::uint32_t{features().queues_granted_sq} + 1;
    return static_cast<std::uint16_t>(features().queues_set != 0 ? std::min(most, granted) : most);
}

void Controller::attach(QueuePair& queue, std::uint16_t qid) {
    EK_CHECK(queues_[qid] == nullptr, "a controller gets a queue twice");
    queues_[qid] = &queue;
    if (qid == 0) {
        record_.admin_connection = queue.connection().connection_slot() + 1;
    }
}

void Controller::detach(QueuePair& queue) {
    for (QueuePair*& attached : queues_) {
        if (attached == &queue) {
            attached = nullptr;
            ++leaving_queues_;
        }
    }
    if (queue.qid() == 0 && !terminating_) {
        terminate("the admin queue's connection ended");
    }
}

void Controller::queue_idle() {
    EK_CHECK(leaving_queues_ > 0, "a queue became idle that was not detached");
    --leaving_queues_;
    continue_transition();
    end_if_unused();
}

void Controller::disconnect_io_queues(const char* reason) {
    for (std::size_t qid = 1; qid < queues_.size(); ++qid) {
        if (queues_[qid] != nullptr) {
            queues_[qid]->connection().disconnect(false, reason);
        }
    }
}

void Controller::terminate(const char* reason) {
    if (terminating_) {
        return;
    }
    terminating_ = true;
    end_reason_ = reason;
    keep_alive_timer_.stop();
    disconnect_io_queues(reason);
    if (queues_[0] != nullptr) {
        queues_[0]->connection().disconnect(false, reason);
    }
    end_if_unused();
}

void Controller::end_if_unused() {
    const bool queues_left =
        std::any_of(queues_.begin(), queues_.end(), [](const QueuePair* queue) { return queue != nullptr; });
    if (!terminating_ || ended_ || queues_left || leaving_queues_ != 0 || flush_ != nullptr) {
        return;
    }
    ended_ = true;
    if (!is_discovery() && ready() &&
        wire::csts::shst.get(record_.csts) == wire::csts::shst_normal_operation) {
        ++subsystem_.record().unsafe_shutdowns;
    }
    target_.emit(event_of(*this, TargetEventKind::controller_ended, end_reason_));
    target_.controller_ended(*this);
}

// --- keep alive ---

// A discovery controller without a keep alive timer ends after a while without commands
// [NVM Express Base 2.0 §3.9.2].
base::Nanoseconds Controller::idle_limit() const {
    if (record_.kato_ms != 0) {
        return base::Nanoseconds{record_.kato_ms} * base::millisecond;
    }
    return is_discovery() ? target_.limits().discovery_idle : 0;
}

void Controller::set_keep_alive(std::uint32_t kato_ms) {
    const std::uint64_t steps =
        (std::uint64_t{kato_ms} + keep_alive_granularity_ms - 1) / keep_alive_granularity_ms;
    const std::uint64_t rounded = steps * keep_alive_granularity_ms;
    record_.kato_ms = rounded <= 0xFFFFFFFF ? static_cast<std::uint32_t>(rounded) : kato_ms;
    record_.last_contact_ns = target_.reactor().now();
    keep_alive_timer_.stop();
    if (idle_limit() != 0 && !terminating_) {
        keep_alive_timer_.start_after(idle_limit());
    }
}

// Traffic based: every command counts. The timer is not touched here, it looks at the time when it is due.
void Controller::contact() {
    __atomic_store_n(&record_.last_contact_ns, target_.reactor().now(), __ATOMIC_RELAXED);
}

void Controller::keep_alive_due() {
    const base::Nanoseconds limit = idle_limit();
    if (limit == 0) {
        return;
    }
    const base::Nanoseconds deadline = record_.last_contact_ns + limit;
    if (target_.reactor().now() < deadline) {
        keep_alive_timer_.start(deadline);
        return;
    }
    expire();
}

void Controller::expire() {
    record_.csts |= wire::csts::cfs.put(1);
    record_.keep_alive_expired = 1;
    target_.emit(event_of(*this, TargetEventKind::keep_alive_expired,
                          "no command for " + std::to_string(idle_limit() / base::millisecond) + " ms"));
    terminate("keep alive timer expired");
}

// --- errors ---

void Controller::log_error(const Command& command, std::uint16_t status_field) {
    const wire::Sqe& sqe = command.sqe();
    const std::uint16_t qid = command.queue->qid();
    ErrorRecord& entry = record_.errors[record_.errors_logged % limits::error_log_entries];
    entry.count = record_.error_count + 1;
    entry.lba = qid != 0 ? wire::starting_lba(sqe) : 0;
    entry.nsid = sqe.opcode == static_cast<std::uint8_t>(wire::AdminOpcode::fabrics) ? 0 : sqe.nsid.value();
    entry.qid = qid;
    entry.cid = sqe.cid;
    entry.status = status_field;
    entry.location = command.error_location;
    entry.command_specific = command.record->result0;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    ++record_.error_count;
    ++record_.errors_logged;
    ++subsystem_.record().error_entries;
    const wire::Status status = wire::status_of(status_field);
    if (status.sct() == static_cast<std::uint8_t>(wire::StatusType::media_and_data_integrity) &&
        status != wire::status::compare_failure) {
        ++subsystem_.record().media_errors;
    }
}

}  // namespace nvme
