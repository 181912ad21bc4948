#include "block/spread.h"

#include <algorithm>
#include <limits>
#include <new>

#include "base/check.h"

namespace block {

bool stands_on(const Environment& environment, const std::string& upper, const std::string& lower) {
    if (upper == lower) {
        return true;
    }
    const Device* const device = environment.find(upper);
    if (device == nullptr) {
        return false;
    }
    const std::vector<std::string> parts = device->parts();
    return std::any_of(parts.begin(), parts.end(),
                       [&](const std::string& part) { return stands_on(environment, part, lower); });
}

Spread::Spread(const Environment& environment, const DeviceSpec& spec)
    : Device(spec.name, spec.kind), environment_(environment), spec_(spec) {
    description_.block_bytes = spec.block_bytes;
}

base::Result<void> Spread::add_part(const PartSpec& part) {
    Device* const device = environment_.find(part.device);
    if (device == nullptr) {
        return base::Error{"E_NOT_FOUND", describe_device(spec_) + "there is no device \"" + part.device +
                                              "\" to stand on; create it first"};
    }
    if (stands_on(environment_, part.device, name())) {
        return base::Error{"E_INVALID", describe_device(spec_) + "it cannot stand on \"" + part.device +
                                            "\": that stands on it itself"};
    }
    if (part.start_bytes % part_alignment != 0 || part.size_bytes % part_alignment != 0) {
        return base::Error{"E_INVALID", describe_device(spec_) + "a part begins and ends at a multiple of " +
                                            std::to_string(part_alignment) + " bytes; that of \"" +
                                            part.device + "\" has start " + std::to_string(part.start_bytes) +
                                            " and size " + std::to_string(part.size_bytes)};
    }
    const Description& has = device->describe();
    const std::uint64_t there = has.size_bytes > part.start_bytes ? has.size_bytes - part.start_bytes : 0;
    if (has.size_bytes != 0 && there < std::max(part.size_bytes, part_alignment)) {
        return base::Error{"E_INVALID", describe_device(spec_) + "the part of \"" + part.device +
                                            "\" from byte " + std::to_string(part.start_bytes) +
                                            " does not fit: the device has " +
                                            std::to_string(has.size_bytes) + " bytes"};
    }
    ClaimRange range{part.start_bytes, ~std::uint64_t{0}};
    if (part.size_bytes != 0) {
        if (part.size_bytes > ~std::uint64_t{0} - part.start_bytes) {
            return base::Error{"E_INVALID", describe_device(spec_) + "the part of \"" + part.device +
                                                "\" ends beyond what a number can say"};
        }
        range.end = part.start_bytes + part.size_bytes;
    }
    auto claim = Claim::take(*device, spec_.read_only ? Access::read_only : Access::read_write,
                             "device " + name(), range);
    if (!claim) {
        return claim.error();
    }
    parts_.push_back({claim.take(), part.start_bytes, part.size_bytes, 0, {}});
    parts_.back().claim.on_change([this] { part_changed(); });
    return {};
}

std::uint64_t Spread::losses() const {
    std::uint64_t sum = 0;
    for (const Part& part : parts_) {
        sum += part.claim.device() != nullptr ? part.device().losses() : 0;
    }
    return sum;
}

void Spread::part_changed() {
    if (closing()) {
        return;
    }
    const std::uint64_t size = description_.size_bytes;
    describe_anew();
    const std::string state = health().state;
    if (std::exchange(told_state_, state) != state && description_.size_bytes == size) {
        tell_changed();
    }
}

void Spread::describe_anew() {
    Description merged;
    merged.size_bytes = lay_out();
    merged.block_bytes = spec_.known.block_bytes != 0 ? spec_.known.block_bytes : spec_.block_bytes;
    merged.read_only = spec_.read_only;
    merged.optimal_io_bytes = optimal_io();
    merged.can_deallocate = merged.deallocated_reads_zero = merged.can_write_zeroes = true;
    std::uint32_t block_bytes = 0;
    for (const Part& part : parts_) {
        const Description& its = part.device().describe();
        block_bytes = std::max(block_bytes, its.size_bytes == 0 ? 0 : its.block_bytes);
        merged.physical_block_bytes = std::max(merged.physical_block_bytes, its.physical_block_bytes);
        merged.optimal_io_bytes = std::max(merged.optimal_io_bytes, its.optimal_io_bytes);
        merged.read_only = merged.read_only || its.read_only;
        merged.volatile_cache = merged.volatile_cache || its.volatile_cache;
        merged.rotational = merged.rotational || its.rotational;
        merged.data_alignment = std::max(merged.data_alignment, its.data_alignment);
        merged.can_deallocate = merged.can_deallocate && its.can_deallocate;
        merged.deallocated_reads_zero = merged.deallocated_reads_zero && its.deallocated_reads_zero;
        merged.can_write_zeroes = merged.can_write_zeroes && its.can_write_zeroes;
    }
    if (block_bytes != 0) {
        merged.block_bytes = block_bytes;
    }
    merged.physical_block_bytes = std::max(merged.physical_block_bytes, merged.block_bytes);
    set_description(merged);
}

Device::Health Spread::health() const {
    for (const Part& part : parts_) {
        if (!part.trouble.empty()) {
            return {"failed", part.trouble};
        }
    }
    for (const Part& part : parts_) {
        if (part.claim.device() == nullptr) {
            return {"closing", ""};
        }
        const Health its = part.device().health();
        if (its.state != "ok") {
            return {its.state, "its part \"" + part.device().name() + "\"" +
                                   (its.reason.empty() ? "" : ": " + its.reason)};
        }
    }
    if (description_.size_bytes == 0) {
        return {"waiting for size", "the size of a part is not known yet"};
    }
    return {};
}

std::vector<std::string> Spread::parts() const {
    std::vector<std::string> names;
    for (const Part& part : parts_) {
        names.push_back(part.device().name());
    }
    return names;
}

void Spread::tell(Details& details) const {
    for (std::size_t index = 0; index < parts_.size(); ++index) {
        const std::string key = "part." + std::to_string(index) + ".";
        details.emplace_back(key + "device", parts_[index].device().name());
        details.emplace_back(key + "start_bytes", parts_[index].start);
        details.emplace_back(key + "size_bytes", parts_[index].size);
    }
}

// --- requests

void Spread::submit_checked(Request& request) {
    if (free_wholes_ == nullptr) {
        wholes_.emplace_back();
        wholes_.back().device = this;
        free_wholes_ = &wholes_.back();
    }
    Whole& whole = *free_wholes_;
    free_wholes_ = whole.next_free;
    whole.above = &request;
    whole.pieces = nullptr;
    whole.outstanding = 1;  // until everything is sent
    whole.status = Status::ok;
    ::new (static_cast<void*>(request.scratch)) Whole*(&whole);
    if (request.action == Action::flush) {
        for (const Part& part : parts_) {
            send(whole, part, 0, 0, nullptr);
        }
    } else {
        for (std::uint64_t done = 0; done < request.length;) {
            const Run run = locate(request.offset + done);
            const std::uint64_t length = std::min(run.length, request.length - done);
            send(whole, parts_[run.part], run.offset, length,
                 request.data == nullptr ? nullptr : request.data + done);
            done += length;
        }
    }
    release(whole);
}

void Spread::send(Whole& whole, const Part& part, std::uint64_t offset, std::uint64_t length,
                  std::byte* data) {
    if (free_pieces_ == nullptr) {
        pieces_.emplace_back();
        free_pieces_ = &pieces_.back();
    }
    Piece& piece = *free_pieces_;
    free_pieces_ = piece.next;
    piece.whole = &whole;
    piece.next = whole.pieces;
    whole.pieces = &piece;
    ++whole.outstanding;
    const Request& above = *whole.above;
    piece.action = above.action;
    piece.force_unit_access = above.force_unit_access;
    piece.may_deallocate = above.may_deallocate;
    piece.offset = offset;
    piece.length = length;
    piece.data = data;
    piece.done = [](Request& request, Status status) {
        Whole& its = *static_cast<Piece&>(request).whole;
        if (status != Status::ok && (its.status == Status::ok || its.status == Status::aborted)) {
            its.status = status;
        }
        its.device->release(its);
    };
    part.device().submit(piece);
}

void Spread::release(Whole& whole) {
    if (--whole.outstanding != 0) {
        return;
    }
    while (Piece* const piece = whole.pieces) {
        whole.pieces = piece->next;
        piece->next = free_pieces_;
        free_pieces_ = piece;
    }
    Request& above = *whole.above;
    const Status status = whole.status;
    whole.next_free = free_wholes_;
    free_wholes_ = &whole;
    complete(above, status);
}

void Spread::cancel_checked(Request& request) {
    Whole& whole = **std::launder(reinterpret_cast<Whole**>(request.scratch));
    ++whole.outstanding;  // its pieces may end meanwhile
    for (Piece* piece = whole.pieces; piece != nullptr; piece = piece->next) {
        if (piece->phase == Request::Phase::submitted) {
            piece->device->cancel(*piece);
        }
    }
    release(whole);
}

std::optional<MemoryReference> Spread::direct_read_checked(std::uint64_t offset, std::uint64_t length) {
    if (offset >= description_.size_bytes || length > description_.size_bytes - offset) {
        return std::nullopt;
    }
    const Run run = locate(offset);
    return run.length < length ? std::nullopt : parts_[run.part].device().direct_read(run.offset, length);
}

void Spread::close_checked(std::function<void()> closed) {
    for (Part& part : parts_) {
        part.claim.release();
    }
    parts_.clear();
    environment_.reactor.post(std::move(closed));
}

}  // namespace block
