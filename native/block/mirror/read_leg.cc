// How a mirror looks at a leg: its superblocks, and where there are none, whether it is empty. Nothing is
// written to a leg here.

#include <algorithm>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

constexpr std::uint64_t superblocks_bytes = std::uint64_t{superblocks} * superblock_bytes;
// What is looked at to tell an empty leg from one that holds something.
constexpr std::uint64_t content_bytes = 64u << 10;

bool all_zero(std::span<const std::byte> memory) {
    return std::all_of(memory.begin(), memory.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

void Mirror::begin_reading(Leg& leg) {
    if (closing() || leg.state == LegState::reading || leg.keeps_metadata() ||
        leg.state == LegState::leaving) {
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
        leg.state = LegState::found;
        leg.uuid = leg.found->leg;
        leg_read(leg);
        return;
    }
    if (leg.found || resembles) {
        const bool other = leg.found.has_value();
        leg.found.reset();
        if (leg.forced) {
            leg.state = LegState::found;
            leg.empty = false;
        } else {
            refuse(leg, other ? "it is a leg of another volume" : "it holds a damaged superblock");
        }
        leg_read(leg);
        return;
    }
    leg.empty = all_zero({buffer.data, superblocks_bytes});
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
