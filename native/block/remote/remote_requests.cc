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
constexpr std::uint64_t range_bytes_least = 64u << 10;
constexpr base::Nanoseconds retry_pause = 20 * base::millisecond;
constexpr base::Nanoseconds retry_pause_longest = 10 * base::second;

enum class Then : std::uint8_t {
    end,        // that is the answer
    again,      // may be another one a moment later, unless the controller says that it is not to be retried
    reconnect,  // whatever is there now has to be looked at
};

struct Meaning {
    wire::Status status;
    Status means;
    Then then;
};

constexpr Meaning meanings[] = {
    {wire::status::aborted_power_loss, Status::internal_error, Then::again},
    {wire::status::abort_requested, Status::internal_error, Then::again},
    {wire::status::aborted_sq_deletion, Status::internal_error, Then::again},
    {wire::status::keep_alive_timer_expired, Status::internal_error, Then::again},
    {wire::status::command_interrupted, Status::busy, Then::again},
    {wire::status::transient_transport_error, Status::busy, Then::again},
    {wire::status::namespace_not_ready, Status::busy, Then::again},
    {wire::status::format_in_progress, Status::busy, Then::again},
    {wire::status::internal_path_error, Status::busy, Then::again},
    {wire::status::ana_persistent_loss, Status::gone, Then::end},
    {wire::status::ana_inaccessible, Status::busy, Then::again},
    {wire::status::ana_transition, Status::busy, Then::again},
    {wire::status::controller_pathing_error, Status::busy, Then::again},
    {wire::status::host_pathing_error, Status::busy, Then::again},
    {wire::status::aborted_by_host, Status::internal_error, Then::again},
    {wire::status::invalid_opcode, Status::not_supported, Then::end},
    {wire::status::invalid_field, Status::internal_error, Then::end},
    {wire::status::invalid_namespace_or_format, Status::gone, Then::reconnect},
    {wire::status::namespace_write_protected, Status::read_only, Then::end},
    {wire::status::write_to_read_only_range, Status::read_only, Then::end},
    {wire::status::lba_out_of_range, Status::out_of_range, Then::end},
    {wire::status::capacity_exceeded, Status::no_space, Then::end},
    {wire::status::command_size_limit_exceeded, Status::internal_error, Then::end},
    {wire::status::internal_error, Status::internal_error, Then::end},
};

Meaning meaning_of(wire::Status status) {
    for (const Meaning& meaning : meanings) {
        if (meaning.status == status) {
            return meaning;
        }
    }
    const bool of_the_medium =
        status.sct() == static_cast<std::uint8_t>(wire::StatusType::media_and_data_integrity);
    return {status, of_the_medium ? Status::medium_error : Status::internal_error, Then::end};
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
    transfer.sequence = ++sequence_;
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
        const Request& request = *present.request;
        if (!doubts_.empty() && changes(request.action) &&
            in_doubt(present, request.offset + present.issued_bytes, request.offset + request.length)) {
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
        bool waits = piece.not_before > now || (piece.contested && after_an_older(piece));
        if (!waits && !doubts_.empty() && changes(piece.transfer->request->action) &&
            in_doubt(*piece.transfer, piece.begin, piece.begin + piece.bytes)) {
            piece.transfer->begun = now;
            waits = true;
        }
        if (waits) {
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
        resent_ += piece.rest ? 0 : 1;
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
        blocks = std::min<std::uint64_t>(facts_.deallocate_blocks == 0 ? ~0u : facts_.deallocate_blocks,
                                         deallocate_bytes_max_ / block);
    } else if (request.action == Action::write_zeroes) {
        const std::uint64_t bytes =
            facts_.write_zeroes_bytes != 0 ? facts_.write_zeroes_bytes : blocks * block;
        blocks = std::max(std::min(bytes, zeroes_bytes_max_) / block, std::uint64_t{1});
    }
    return (request.action == Action::deallocate ? blocks : std::min(blocks, command_blocks_max)) * block;
}

// The command of a piece, or of as much of it as the controller takes at once.
void Remote::prepare(Piece& piece) {
    const Request& request = *piece.transfer->request;
    const std::uint64_t block = description_.block_bytes;
    const std::uint64_t lba = piece.begin / block;
    piece.sent_bytes = std::min(piece.bytes, piece_bytes_max(request));
    const auto blocks = static_cast<std::uint32_t>(piece.sent_bytes / block);
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
            piece.length = static_cast<std::uint32_t>(piece.sent_bytes);
            break;
        case Action::flush:
            piece.sqe.opcode = static_cast<std::uint8_t>(wire::IoOpcode::flush);
            piece.changes = changes_;
            break;
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

// The peer took too long, or said that it is too much at once.
void Remote::shrink_ranges(const Piece& piece) {
    const Action action = piece.transfer->request->action;
    const std::uint64_t less = std::max(piece.sent_bytes / 2, range_bytes_least);
    if (action == Action::write_zeroes) {
        zeroes_bytes_max_ = std::min(zeroes_bytes_max_, less);
    } else if (action == Action::deallocate) {
        deallocate_bytes_max_ = std::min(deallocate_bytes_max_, less);
    }
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
            doubt(piece);
        }
        piece.rest = false;
        send_again(piece, 0);
        return;
    }
    ++answers_;
    waited_ += now - piece.sent_at;
    if (!completion.status.ok()) {
        const Meaning meaning = meaning_of(completion.status);
        const Action action = transfer.request->action;
        piece.rest = false;
        if (meaning.then == Then::reconnect && !transfer.overdue) {
            send_again(piece, 0);
            lose(peer_ + ": the namespace is not there");
            return;
        }
        if (completion.status == wire::status::command_size_limit_exceeded &&
            (action == Action::write_zeroes || action == Action::deallocate) &&
            piece.sent_bytes > range_bytes_least) {
            shrink_ranges(piece);
            send_again(piece, 0);
            pump();
            return;
        }
        if (meaning.then == Then::again && !completion.do_not_retry && !transfer.overdue) {
            const std::uint8_t delay = completion.retry_delay;
            ++retried_;
            send_again(piece, now + (delay == 0 ? retry_pause
                                                : std::min(facts_.retry_delays_100ms[delay - 1] * 100 *
                                                               base::millisecond,
                                                           retry_pause_longest)));
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
    } else if (transfer.request->action == Action::flush) {
        changes_flushed_ = std::max(changes_flushed_, piece.changes);
    } else if (change &&
               (!transfer.request->force_unit_access || transfer.request->action == Action::deallocate)) {
        ++changes_;
    }
    if (completion.status.ok() && piece.sent_bytes < piece.bytes) {
        piece.begin += piece.sent_bytes;
        piece.bytes -= piece.sent_bytes;
        piece.rest = true;
        send_again(piece, 0);
        pump();
        return;
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
    piece.again = piece.rest = piece.contested = false;
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
