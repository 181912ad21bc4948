// What the peer may still execute of what was sent to it before, and what therefore has to wait. See
// remote.h.

#include <algorithm>

#include "block/remote/remote.h"

namespace block::remote {

// The peer may have got the command, and execute it for a while.
void Remote::doubt(const Piece& piece) {
    const std::uint64_t end = piece.begin + piece.sent_bytes;
    const base::Nanoseconds until = environment_.reactor.now() + quiesce_;
    for (Doubt& doubt : doubts_) {
        if (doubt.sequence == piece.transfer->sequence && doubt.begin == piece.begin && doubt.end == end) {
            doubt.until = std::max(doubt.until, until);
            return;
        }
    }
    if (doubts_.size() == doubts_.capacity()) {
        Doubt& all = doubts_.front();
        for (const Doubt& doubt : doubts_) {
            all = {std::min(all.begin, doubt.begin), std::max(all.end, doubt.end),
                   std::max(all.until, doubt.until), 0};
        }
        doubts_.resize(1);
    }
    doubts_.push_back({piece.begin, end, until, piece.transfer->sequence});
}

// Whether the peer may still execute another change of the range.
bool Remote::in_doubt(const Transfer& transfer, std::uint64_t begin, std::uint64_t end) {
    const base::Nanoseconds now = environment_.reactor.now();
    std::erase_if(doubts_, [now](const Doubt& doubt) { return doubt.until <= now; });
    return std::any_of(doubts_.begin(), doubts_.end(), [&](const Doubt& doubt) {
        return doubt.sequence != transfer.sequence && begin < doubt.end && doubt.begin < end;
    });
}

// Among what waits to be sent again: changes of the same blocks.
void Remote::find_contested() {
    sorted_.clear();
    for (Piece* piece = again_first_; piece != nullptr; piece = piece->next_again) {
        piece->contested = false;
        if (changes(piece->transfer->request->action)) {
            sorted_.push_back(piece);
        }
    }
    std::sort(sorted_.begin(), sorted_.end(),
              [](const Piece* left, const Piece* right) { return left->begin < right->begin; });
    Piece* farthest = nullptr;  // of those before
    for (Piece* piece : sorted_) {
        if (farthest != nullptr && piece->begin < farthest->begin + farthest->bytes) {
            piece->contested = farthest->contested = true;
        }
        if (farthest == nullptr || piece->begin + piece->bytes > farthest->begin + farthest->bytes) {
            farthest = piece;
        }
    }
}

bool Remote::after_an_older(const Piece& piece) const {
    return std::any_of(pieces_.begin(), pieces_.end(), [&](const Piece& other) {
        return (other.at_controller || other.again) && changes(other.transfer->request->action) &&
               other.transfer->sequence < piece.transfer->sequence &&
               piece.begin < other.begin + other.bytes && other.begin < piece.begin + piece.bytes;
    });
}

}  // namespace block::remote
