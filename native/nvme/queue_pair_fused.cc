// Fused pairs (NVM Express Base 2.0 §3.4.2): Compare and Write that are executed as one command, or not at
// all.
//
// Invariant: `partner` is set in both halves or in none, and only while both slots are taken.

#include "nvme/io_steps.h"
#include "nvme/queue_pair.h"
#include "wire/nvme_io.h"

namespace nvme {

// The halves are neighbours in the submission queue, so they are neighbours here, in whatever order their
// data comes.
void QueuePair::admit_pair(Command& command, Admission& admission) {
    const wire::Sqe& sqe = command.sqe();
    const PairPhase phase = pair_phase_;
    Command* const first = fused_first_;
    pair_phase_ = PairPhase::none;
    fused_first_ = nullptr;
    if (sqe.fuse() == wire::Fuse::second && record_.qid != 0 && !is_fabrics(sqe)) {
        if (phase == PairPhase::none) {
            admission.status = wire::status::aborted_missing_fused;
            return;
        }
        if (phase == PairPhase::first_refused) {
            if (admission.status.ok()) {
                admission.status = wire::status::aborted_failed_fused;
            }
            return;
        }
        const wire::Sqe& other = first->sqe();
        const bool fits = other.opcode == static_cast<std::uint8_t>(wire::IoOpcode::compare) &&
                          sqe.opcode == static_cast<std::uint8_t>(wire::IoOpcode::write) &&
                          other.nsid == sqe.nsid && wire::starting_lba(other) == wire::starting_lba(sqe) &&
                          wire::logical_blocks(other) == wire::logical_blocks(sqe);
        if (admission.status.ok() && !fits) {
            admission.status = wire::status::invalid_field;
            first->pair_status = wire::status::invalid_field.value;
        } else if (!admission.status.ok()) {
            first->pair_status = wire::status::aborted_failed_fused.value;
        }
        if (admission.status.ok()) {
            first->partner = &command;
            command.partner = first;
        } else if (first->waits_for_partner) {
            nvme::finish(*first, wire::Status{first->pair_status}, true);
        }
        return;
    }
    if (phase == PairPhase::first_admitted) {
        first->pair_status = wire::status::aborted_missing_fused.value;
        if (first->waits_for_partner) {
            nvme::finish(*first, wire::status::aborted_missing_fused, true);
        }
    }
    if (sqe.fuse() == wire::Fuse::first && record_.qid != 0 && !is_fabrics(sqe)) {
        pair_phase_ = admission.status.ok() ? PairPhase::first_admitted : PairPhase::first_refused;
        fused_first_ = admission.status.ok() ? &command : nullptr;
    }
}

// A half ended badly before the pair was executed. (Once it is executing, its handler ends both.)
void QueuePair::fail_partner(Command& command) {
    if (fused_first_ == &command) {
        fused_first_ = nullptr;
        pair_phase_ = PairPhase::first_refused;
    }
    Command* const partner = command.partner;
    if (partner == nullptr || partner->record->state == CommandState::done ||
        partner->record->state == CommandState::free || (partner->executing && !partner->waits_for_partner)) {
        return;
    }
    partner->pair_status = wire::status::aborted_failed_fused.value;
    if (partner->waits_for_partner) {
        nvme::finish(*partner, wire::status::aborted_failed_fused, true);
    }
}

// The transport could not take the capsule yet and will admit it again.
void QueuePair::forget_admission(Command& command) {
    if (fused_first_ == &command) {
        fused_first_ = nullptr;
        pair_phase_ = PairPhase::none;
    } else if (command.partner != nullptr) {
        fused_first_ = command.partner;
        pair_phase_ = PairPhase::first_admitted;
        command.partner->partner = nullptr;
        command.partner = nullptr;
    }
}

// A half's slot goes: the other must not find it in its next life.
void QueuePair::unlink_partner(Command& command) {
    Command* const partner = command.partner;
    if (partner != nullptr) {
        fail_partner(command);  // may end and release the partner, which then has unlinked both
        partner->partner = nullptr;
        command.partner = nullptr;
    }
}

}  // namespace nvme
