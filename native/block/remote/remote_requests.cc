// The requests of a remote device: pieces, answers, and what is sent again.

#include <algorithm>
#include <new>

#include "base/check.h"
#include "block/remote/remote.h"
#include "wire/nvme_io.h"

namespace block::remote {

namespace {

constexpr std::uint64_t piece_bytes_longest = 1u << 20;
constexpr std::uint64_t command_blocks_max = 65536;
constexpr base::Nanoseconds retry_pause = 20 * base::millisecond;

bool changes(Action action) { return action != Action::read && action != Action::flush; }

struct Meaning {
    wire::Status status;
    Status means;
    bool
        passes;  // may be another one a moment later, unless the controller says that it is not to be retried
};

constexpr Meaning meanings[] = {
    {wire::status::aborted_power_loss, Status::internal_error, true},
    {wire::status::abort_requested, Status::internal_error, true},
    {wire::status::aborted_sq_deletion, Status::internal_error, true},
    {wire::status::keep_alive_timer_expired, Status::internal_error, true},
    {wire::status::command_interrupted, Status::busy, true},
    {wire::status::transient_transport_error, Status::busy, true},
    {wire::status::namespace_not_ready, Status::busy, true},
    {wire::status::format_in_progress, Status::busy, true},
    {wire::status::internal_path_error, Status::busy, true},
    {wire::status::ana_persistent_loss, Status::gone, false},
    {wire::status::ana_inaccessible, Status::busy, true},
    {wire::status::ana_transition, Status::busy, true},
    {wire::status::controller_pathing_error, Status::busy, true},
    {wire::status::host_pathing_error, Status::busy, true},
    {wire::status::aborted_by_host, Status::internal_error, true},
    {wire::status::invalid_opcode, Status::not_supported, false},
    {wire::status::invalid_field, Status::internal_error, false},
    {wire::status::invalid_namespace_or_format, Status::gone, false},
    {wire::status::namespace_write_protected, Status::read_only, false},
    {wire::status::write_to_read_only_range, Status::read_only, false},
    {wire::status::lba_out_of_range, Status::out_of_range, false},
    {wire::status::capacity_exceeded, Status::no_space, false},
    {wire::status::command_size_limit_exceeded, Status::internal_error, false},
    {wire::status::internal_error, Status::internal_error, false},
};

Meaning meaning_of(wire::Status status) {
    for (const Meaning& meaning : meanings) {
        if (meaning.status == status) {
            return meaning;
        }
    }
    const bool of_the_medium =
        status.sct() == static_cast<std::uint8_t>(wire::StatusType::media_and_data_integrity);
    return {status, of_the_medium ? Status::medium_error : Status::internal_error, false};
}

}  // namespace

Remote::Transfer& Remote::transfer_of(Request& request) {
    return *std::launder(reinterpret_cast<Transfer*>(request.scratch));
}

void Remote::submit_checked(Request& request) {
    static_assert(sizeof(Transfer) <= sizeof(Request::scratch));
    static_assert(std::is_trivially_destructible_v<Transfer>);
    auto& transfer = *::new (static_cast<void*>(request.scratch)) Transfer{.request = &request};
    transfer.begun = environment_.reactor.now();
    transfer.previous = last_;
    (last_ != nullptr ? last_->next : first_) = &transfer;
    last_ = &transfer;
    enter_line(transfer);
    pump();
}

void Remote::enter_line(Transfer& transfer) {
    transfer.in_line = true;
    transfer.line_next = nullptr;
    transfer.line_previous = line_last_;
    (line_last_ != nullptr ? line_last_->line_next : line_first_) = &transfer;
    line_last_ = &transfer;
}

void Remote::leave_line(Transfer& transfer) {
    transfer.in_line = false;
    (transfer.line_previous != nullptr ? transfer.line_previous->line_next : line_first_) =
        transfer.line_next;
    (transfer.line_next != nullptr ? transfer.line_next->line_previous : line_last_) = transfer.line_previous;
}

// --- Sending
// --------------------------------------------------------------------------------------------------

// Ends no request: so the line changes only as it is walked along here.
void Remote::pump() {
    if (state_ != State::serving || !send_waiting_pieces()) {
        return;
    }
    for (Transfer* transfer = line_first_; transfer != nullptr && !free_pieces_.empty();) {
        Transfer& present = *transfer;
        transfer = transfer->line_next;
        if (!doubts_.empty() && in_doubt(*present.request)) {
            present.begun = environment_.reactor.now();  // the peer is there: this wait is not the deadline's
            continue;
        }
        while (!present.issued) {
            if (!send_next_piece(present)) {
                return;
            }
        }
        leave_line(present);
    }
}

// False: there is no room.
bool Remote::send_waiting_pieces() {
    const base::Nanoseconds now = environment_.reactor.now();
    Piece** link = &again_first_;
    Piece* previous = nullptr;
    while (*link != nullptr) {
        Piece& piece = **link;
        if (piece.not_before > now) {
            previous = &piece;
            link = &piece.next_again;
            continue;
        }
        prepare(piece);  // the controller may be another one now
        if (!hand_out(piece)) {
            return false;
        }
        *link = piece.next_again;
        if (again_last_ == &piece) {
            again_last_ = previous;
        }
        piece.next_again = nullptr;
        piece.again = false;
        ++resent_;
    }
    return true;
}

bool Remote::send_next_piece(Transfer& transfer) {
    if (free_pieces_.empty()) {
        return false;
    }
    const Request& request = *transfer.request;
    Piece& piece = *free_pieces_.back();
    piece.transfer = &transfer;
    piece.begin = request.offset + transfer.issued_bytes;
    piece.bytes = std::min(request.length - transfer.issued_bytes, piece_bytes_max(request));
    prepare(piece);
    if (!hand_out(piece)) {
        piece.transfer = nullptr;
        return false;
    }
    free_pieces_.pop_back();
    ++transfer.pieces;
    transfer.issued_bytes += piece.bytes;
    transfer.issued = transfer.issued_bytes == request.length || request.action == Action::flush;
    return true;
}

std::uint64_t Remote::piece_bytes_max(const Request& request) const {
    const std::uint64_t block = description_.block_bytes;
    const std::uint64_t transfer = std::max(
        std::min<std::uint64_t>(facts_.transfer_bytes_max, piece_bytes_longest) / block, std::uint64_t{1});
    std::uint64_t blocks = transfer;
    if (request.action == Action::deallocate) {
        blocks = std::min<std::uint64_t>(facts_.deallocate_blocks == 0 ? ~0u : facts_.deallocate_blocks, ~0u);
    } else if (request.action == Action::write_zeroes && facts_.write_zeroes_bytes != 0) {
        blocks = std::max(facts_.write_zeroes_bytes / block, std::uint64_t{1});
    }
    return (request.action == Action::deallocate ? blocks : std::min(blocks, command_blocks_max)) * block;
}

// The command of a piece, as the controller wants it. A piece that waits since the last connection keeps its
// length: a peer that comes back takes what it took before, or is asked in vain and its answer passed on.
void Remote::prepare(Piece& piece) {
    const Request& request = *piece.transfer->request;
    const std::uint64_t block = description_.block_bytes;
    const std::uint64_t lba = piece.begin / block;
    const auto blocks = static_cast<std::uint32_t>(piece.bytes / block);
    piece.sqe = wire::Sqe{};
    piece.sqe.nsid = spec_.remote.nsid;
    piece.direction = wire::DataDirection::none;
    piece.data = nullptr;
    piece.length = 0;
    const auto range_of_blocks = [&](wire::IoOpcode opcode, std::uint32_t flags) {
        piece.sqe.opcode = static_cast<std::uint8_t>(opcode);
        wire::set_starting_lba(piece.sqe, lba);
        piece.sqe.cdw12 = wire::io_cdw12::nlb.put(blocks - 1) | flags;
    };
    const std::uint32_t fua = wire::io_cdw12::fua.put(request.force_unit_access ? 1 : 0);
    switch (request.action) {
        case Action::read:
        case Action::write:
            range_of_blocks(request.action == Action::read ? wire::IoOpcode::read : wire::IoOpcode::write,
                            fua);
            piece.direction = request.action == Action::read ? wire::DataDirection::from_controller
                                                             : wire::DataDirection::to_controller;
            piece.data = request.data + (piece.begin - request.offset);
            piece.length = static_cast<std::uint32_t>(piece.bytes);
            break;
        case Action::flush: piece.sqe.opcode = static_cast<std::uint8_t>(wire::IoOpcode::flush); break;
        case Action::write_zeroes:
            range_of_blocks(wire::IoOpcode::write_zeroes,
                            fua | wire::io_cdw12::deac.put(
                                      request.may_deallocate && facts_.zeroes_may_deallocate ? 1 : 0));
            break;
        case Action::deallocate:
            piece.sqe.opcode = static_cast<std::uint8_t>(wire::IoOpcode::dataset_management);
            piece.sqe.cdw11 = wire::dsm_cdw::ad.put(1);
            piece.range = wire::DsmRange{};
            piece.range.nlb = blocks;
            piece.range.slba = lba;
            piece.direction = wire::DataDirection::to_controller;
            piece.data = reinterpret_cast<std::byte*>(&piece.range);
            piece.length = sizeof piece.range;
            break;
    }
    piece.done = [](initiator::HostCommand& command, const initiator::Completion& completion) {
        auto& self = static_cast<Piece&>(command);
        self.remote->answered(self, completion);
    };
}

bool Remote::hand_out(Piece& piece) {
    const std::uint16_t queues = controller_->io_queue_count();
    for (std::uint16_t i = 0; i < queues; ++i) {
        next_queue_ = static_cast<std::uint16_t>((next_queue_ + 1) % queues);
        if (controller_->io_queue(next_queue_).submit(piece)) {
            piece.at_controller = true;
            piece.sent_at = environment_.reactor.now();
            ++at_controller_;
            return true;
        }
    }
    return false;
}

// Whether the peer may still execute something older than this change over its range.
bool Remote::in_doubt(const Request& request) {
    const base::Nanoseconds now = environment_.reactor.now();
    std::erase_if(doubts_, [now](const Doubt& doubt) { return doubt.until <= now; });
    return changes(request.action) && std::any_of(doubts_.begin(), doubts_.end(), [&](const Doubt& doubt) {
               return request.offset < doubt.end && doubt.begin < request.offset + request.length;
           });
}

// --- Answers
// --------------------------------------------------------------------------------------------------

void Remote::answered(Piece& piece, const initiator::Completion& completion) {
    const base::Nanoseconds now = environment_.reactor.now();
    Transfer& transfer = *piece.transfer;
    const bool change = changes(transfer.request->action);
    piece.at_controller = false;
    --at_controller_;
    if (!completion.answered) {
        if (completion.sent && change && quiesce_ != 0) {
            if (doubts_.size() == doubts_.capacity()) {
                Doubt& all = doubts_.front();
                for (const Doubt& doubt : doubts_) {
                    all = {std::min(all.begin, doubt.begin), std::max(all.end, doubt.end),
                           std::max(all.until, doubt.until)};
                }
                doubts_.resize(1);
            }
            doubts_.push_back({piece.begin, piece.begin + piece.bytes, now + quiesce_});
        }
        send_again(piece, 0);
        return;
    }
    ++answers_;
    waited_ += now - piece.sent_at;
    if (!completion.status.ok()) {
        const Meaning meaning = meaning_of(completion.status);
        if (meaning.passes && !completion.do_not_retry && !transfer.overdue) {
            const std::uint8_t delay = completion.retry_delay;
            ++retried_;
            send_again(piece,
                       now + (delay == 0 ? retry_pause
                                         : facts_.retry_delays_100ms[delay - 1] * 100 * base::millisecond));
            return;
        }
        if (transfer.status == Status::ok) {
            transfer.status = meaning.means;
        }
        if (transfer.in_line) {
            leave_line(transfer);
        }
        transfer.issued = true;  // the rest is not asked for any more
        drop_waiting_pieces(transfer);
    }
    release(piece);
    settle(transfer);
    pump();
}

void Remote::send_again(Piece& piece, base::Nanoseconds not_before) {
    Transfer& transfer = *piece.transfer;
    if (closing() || transfer.overdue || transfer.status != Status::ok) {
        transfer.status = transfer.status == Status::ok ? Status::gone : transfer.status;
        if (transfer.in_line) {
            leave_line(transfer);
        }
        transfer.issued = true;
        release(piece);
        settle(transfer);
        return;
    }
    piece.again = true;
    piece.not_before = not_before;
    piece.next_again = nullptr;
    (again_last_ != nullptr ? again_last_->next_again : again_first_) = &piece;
    again_last_ = &piece;
}

void Remote::drop_waiting_pieces(Transfer& transfer) {
    Piece** link = &again_first_;
    again_last_ = nullptr;
    while (*link != nullptr) {
        Piece& piece = **link;
        if (piece.transfer == &transfer) {
            *link = piece.next_again;
            release(piece);
        } else {
            again_last_ = &piece;
            link = &piece.next_again;
        }
    }
}

void Remote::release(Piece& piece) {
    --piece.transfer->pieces;
    piece.transfer = nullptr;
    piece.again = false;
    piece.next_again = nullptr;
    free_pieces_.push_back(&piece);
}

void Remote::settle(Transfer& transfer) {
    if (transfer.issued && transfer.pieces == 0) {
        finish(transfer, transfer.status);
    }
}

void Remote::finish(Transfer& transfer, Status status) {
    if (transfer.in_line) {
        leave_line(transfer);
    }
    (transfer.previous != nullptr ? transfer.previous->next : first_) = transfer.next;
    (transfer.next != nullptr ? transfer.next->previous : last_) = transfer.previous;
    complete(*transfer.request, status);
}

// What has waited too long. A request of which something is at the controller ends with its answer.
void Remote::end_overdue() {
    if (spec_.remote.when_lost == RemoteSpec::WhenLost::freeze) {
        return;
    }
    const base::Nanoseconds now = environment_.reactor.now();
    const base::Nanoseconds deadline = spec_.remote.deadline_ms * base::millisecond;
    for (Transfer* transfer = first_; transfer != nullptr;) {
        Transfer& late = *transfer;
        transfer = transfer->next;
        if (late.overdue || now - late.begun < deadline) {
            continue;
        }
        late.overdue = true;
        late.status = late.status == Status::ok ? Status::gone : late.status;
        late.issued = true;
        if (late.in_line) {
            leave_line(late);
        }
        drop_waiting_pieces(late);
        if (late.pieces == 0) {
            finish(late, late.status);
            transfer = first_;  // who was told may have ended or begun others
        }
    }
}

// A change that may have been executed is seen through. What is at the controller ends with its answer.
void Remote::cancel_checked(Request& request) {
    Transfer& transfer = transfer_of(request);
    const bool untouched = transfer.issued_bytes == 0 && transfer.pieces == 0;
    if (!untouched && changes(request.action)) {
        return;
    }
    drop_waiting_pieces(transfer);
    if (transfer.in_line) {
        leave_line(transfer);
    }
    transfer.issued = true;
    transfer.status = Status::aborted;
    settle(transfer);
}

}  // namespace block::remote
