// How a mirror looks at a leg: its superblocks, and where there are none, whether it is empty. Nothing is
// written to a leg here.

#include <algorithm>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr std::uint64_t superblocks_bytes = std::uint64_t{superblocks} * superblock_bytes;
// What is looked at to tell an empty leg from one that holds something.
constexpr std::uint64_t content_bytes = 64u << 10;
constexpr std::uint64_t search_bytes = 1u << 20;

bool all_zero(std::span<const std::byte> memory) {
    return std::all_of(memory.begin(), memory.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

void Mirror::begin_reading(Leg& leg) {
    if (closing() || leg.state == LegState::reading || leg.keeps_metadata() ||
        leg.state == LegState::leaving) {
        return;
    }
    if (growth_.active()) {
        leg.came_back = true;
        return;
    }
    if (leg.in_flight != 0) {
        leg.join_later = true;  // an old write that lands later would destroy newer data
        leg.reason = "requests from before have not ended yet";
        return;
    }
    leg.bytes = leg.claim.device()->describe().size_bytes;
    if (leg.bytes == 0) {
        leg.state = LegState::absent;
        leg.reason = "its size is not known yet";
        return;
    }
    if (leg.bytes < superblocks_bytes + map_page_bytes + region_bytes_min ||
        leg.claim.device()->describe().block_bytes > 4096) {
        refuse(leg, "it is too small to be a leg");
        return;
    }
    leg.state = LegState::reading;
    leg.reason.clear();
    leg.found.reset();
    leg.empty = false;
    leg.strange = nullptr;
    leg.found_nothing = false;
    leg.left.clear();
    leg.sequence = 0;
    Buffer* const buffer = buffers_.take(superblocks_bytes);
    const std::uint64_t offset = leg.bytes / 4096 * 4096 - superblocks_bytes;
    ask(leg, {.offset = offset, .length = superblocks_bytes, .data = buffer->data, .buffer = buffer},
        [this, &leg, buffer](Leg&, Status status) { superblocks_read(leg, *buffer, status); });
    buffers_.release(*buffer);
}

void Mirror::superblocks_read(Leg& leg, Buffer& buffer, Status status) {
    if (status != Status::ok) {
        leg.state = LegState::absent;
        leg.reason = std::string("its superblock cannot be read: ") + block::name_of(status);
        leg_read(leg);
        return;
    }
    bool resembles = false;
    for (std::uint32_t i = 0; i < superblocks; ++i) {
        const auto copy = std::span<const std::byte, superblock_bytes>(
            buffer.data + std::size_t{i} * superblock_bytes, superblock_bytes);
        resembles = resembles || resembles_superblock(copy);
        const auto superblock = decode(copy, leg.bytes);
        leg.sequence = std::max(leg.sequence, superblock ? superblock->sequence : 0);
        if (superblock && (!leg.found || superblock->sequence > leg.found->sequence)) {
            leg.found = superblock;
        }
    }
    if (leg.found && leg.found->volume == spec_.mirror.volume) {
        leg.recorded = leg.bytes;
        leg.state = LegState::found;
        leg.uuid = leg.found->leg;
        leg_read(leg);
        return;
    }
    leg.strange = leg.found   ? "it is a leg of another volume"
                  : resembles ? "it holds a damaged superblock"
                              : nullptr;
    leg.found.reset();
    leg.empty = all_zero({buffer.data, superblocks_bytes});
    leg.ends_tried = 0;
    if (const auto from = search_from(leg)) {
        leg.searched_to = *from;
        leg.reason = "its superblock is looked for, where its end may have been before it grew";
        search_superblocks(leg);
    } else {
        search_old_ends(leg);
    }
}

// Its device may have grown since its superblocks were written: they lie behind the data. Nothing is looked
// for on a leg that was never one of the volume, or is to be overwritten.
std::optional<std::uint64_t> Mirror::search_from(const Leg& leg) const {
    const std::uint64_t data = ever_served_ ? geometry_.data_bytes : spec_.known.size_bytes;
    const std::uint64_t end = leg.bytes / 4096 * 4096 - superblocks_bytes;
    if (data == 0 || data % 4096 != 0 || data >= end || leg.newcomer || leg.forced) {
        return std::nullopt;
    }
    return data;
}

// All of it: there may be older ones before the newest.
void Mirror::search_superblocks(Leg& leg) {
    const std::uint64_t end = leg.bytes / 4096 * 4096 - superblocks_bytes;
    if (leg.searched_to >= end) {
        leg.reason.clear();
        if (leg.found) {
            found_by_search(leg);
        } else {
            search_old_ends(leg);
        }
        return;
    }
    const std::uint64_t length = std::min(search_bytes, end - leg.searched_to);
    Buffer* const buffer = buffers_.take(length);
    ask(leg, {.offset = leg.searched_to, .length = length, .data = buffer->data, .buffer = buffer},
        [this, buffer](Leg& asked, Status status) {
            if (asked.state != LegState::reading) {
                return;
            }
            if (status != Status::ok) {
                asked.found.reset();
                asked.state = LegState::absent;
                asked.reason = std::string("its superblock cannot be read: ") + block::name_of(status);
                leg_read(asked);
                return;
            }
            const std::uint64_t last = asked.bytes / 4096 * 4096 - superblocks_bytes;
            search_piece(asked, *buffer, std::min(search_bytes, last - asked.searched_to));
            // Not from within: what lies in memory answers at once.
            environment_.reactor.post([this, searched = &asked] {
                const bool here = std::any_of(legs_.begin(), legs_.end(),
                                              [searched](const auto& one) { return one.get() == searched; });
                if (here && !closing() && searched->state == LegState::reading) {
                    search_superblocks(*searched);
                }
            });
        });
    buffers_.release(*buffer);
}

void Mirror::search_piece(Leg& leg, const Buffer& buffer, std::uint64_t length) {
    for (std::uint64_t at = 0; at < length; at += superblock_bytes) {
        const auto copy = std::span<const std::byte, superblock_bytes>(buffer.data + at, superblock_bytes);
        for (std::uint32_t i = 0; i < superblocks && resembles_superblock(copy); ++i) {
            const std::uint64_t bytes =
                leg.searched_to + at + std::uint64_t{superblocks - i} * superblock_bytes;
            const auto superblock = decode(copy, bytes);
            if (superblock && superblock->volume == spec_.mirror.volume &&
                (!leg.found || superblock->sequence > leg.found->sequence)) {
                leg.found = superblock;
                leg.sequence = superblock->sequence;
            }
        }
    }
    leg.searched_to += length;
}

// The volume may have grown as well, while the leg was away. The table says where its end was.
void Mirror::search_old_ends(Leg& leg) {
    const std::uint64_t end = leg.bytes / 4096 * 4096;
    while (leg.ends_tried < legs_max && !leg.newcomer && !leg.forced && serving_) {
        const std::uint64_t bytes = table_[leg.ends_tried].bytes / 4096 * 4096;
        const bool taken = leg_of_slot(leg.ends_tried) != nullptr && leg_of_slot(leg.ends_tried) != &leg;
        ++leg.ends_tried;
        if (taken || bytes < superblocks_bytes || bytes >= end) {
            continue;
        }
        Buffer* const buffer = buffers_.take(superblocks_bytes);
        leg.searched_to = bytes - superblocks_bytes;
        ask(leg,
            {.offset = leg.searched_to, .length = superblocks_bytes, .data = buffer->data, .buffer = buffer},
            [this, buffer](Leg& asked, Status status) {
                if (asked.state != LegState::reading) {
                    return;
                }
                if (status == Status::ok) {
                    search_piece(asked, *buffer, superblocks_bytes);
                }
                if (asked.found) {
                    found_by_search(asked);
                } else {
                    search_old_ends(asked);
                }
            });
        buffers_.release(*buffer);
        return;
    }
    not_of_this_volume(leg);
}

void Mirror::found_by_search(Leg& leg) {
    const std::uint64_t found_at = leg.found->layout.superblock_offset;
    if (!move_superblocks({0, leg.found->geometry, leg.found->layout}, leg.bytes)) {
        leg.bytes = found_at + superblocks_bytes;
    }
    leg.left.push_back({found_at, superblocks_bytes});
    leg.recorded = found_at + superblocks_bytes;
    leg.state = LegState::found;
    leg.uuid = leg.found->leg;
    leg_read(leg);
}

void Mirror::not_of_this_volume(Leg& leg) {
    leg.found_nothing = true;
    if (leg.strange != nullptr) {
        if (leg.forced) {
            leg.state = LegState::found;
            leg.empty = false;
        } else {
            refuse(leg, leg.strange);
        }
        leg_read(leg);
        return;
    }
    Buffer* const content = buffers_.take(content_bytes);
    const std::uint64_t length = std::min(content_bytes, leg.bytes / 4096 * 4096);
    ask(leg, {.length = length, .data = content->data, .buffer = content},
        [this, &leg, content](Leg&, Status result) { content_read(leg, *content, result); });
    buffers_.release(*content);
}

void Mirror::content_read(Leg& leg, Buffer& buffer, Status status) {
    if (status != Status::ok) {
        leg.state = LegState::absent;
        leg.reason = std::string("it cannot be read: ") + block::name_of(status);
    } else {
        leg.state = LegState::found;
        leg.empty = leg.empty && all_zero({buffer.data, static_cast<std::size_t>(std::min(
                                                            content_bytes, leg.bytes / 4096 * 4096))});
        if (!leg.empty && !leg.forced) {
            refuse(leg, "it holds something, and no superblock of this volume");
        }
    }
    leg_read(leg);
}

void Mirror::refuse(Leg& leg, const std::string& reason) {
    leg.state = LegState::refused;
    leg.reason = reason;
    answer(leg, base::Error{"E_INVALID", describe_device(spec_) + "\"" + leg.name + "\": " + reason +
                                             "; to overwrite it, attach it with force"});
}

void Mirror::leg_read(Leg& leg) {
    if (closing()) {
        return;
    }
    if (serving_) {
        welcome(leg);
    } else if (!starting_) {
        try_start();
    }
    retry_soon();
}

}  // namespace block::mirror
