// How the checksums get from the legs and to them. See checksums.h for when they must be there.
//
// A group of pages is read from all legs that are up when something in it is first used. Pages that changed
// go out in batches, one at a time, to all legs that are written: whoever comes while one is under way is in
// the next.

#include <algorithm>
#include <utility>

#include "block/mirror/mirror.h"

namespace block::mirror {

// --- Reading

// False: the request waits until the checksums of its range are here.
bool Mirror::pages_here(Op& op) {
    if (!sums_.enabled() || sums_.has(op.offset, op.length)) {
        return true;
    }
    waiting_pages_.append(op);
    load_pages(op.offset, op.length);
    return false;
}

void Mirror::load_pages(std::uint64_t offset, std::uint64_t length) {
    const Checksums::Range groups = sums_.groups_of(offset, length);
    for (std::uint64_t group = groups.first; group <= groups.last; ++group) {
        const bool under_way = std::any_of(loads_.begin(), loads_.end(), [&](const auto& load) {
            return load->group == group && load->epoch == epoch_;
        });
        if (under_way || sums_.has_group(group)) {
            continue;
        }
        loads_.push_back(std::make_unique<Load>());
        Load& load = *loads_.back();
        load.group = group;
        load.epoch = epoch_;
        load.growths = growth_.generation;
        load.outstanding = 1;
        const std::uint64_t bytes = sums_.pages_of_group(group) * map_page_bytes;
        for (std::uint32_t slot = 0; slot < legs_max && load.epoch == epoch_; ++slot) {
            Leg* const leg = leg_of_slot(slot);
            if (leg == nullptr || leg->state != LegState::up) {
                continue;
            }
            load.asked |= leg->bit();
            load.tables[slot] = buffers_.take(bytes);
            ++load.outstanding;
            ask(*leg,
                {.offset = leg->layout.checksum_offset + group * Checksums::group_pages * map_page_bytes,
                 .length = bytes,
                 .data = load.tables[slot]->data,
                 .buffer = load.tables[slot]},
                [this, slot, load = &load](Leg& asked, Status status) {
                    if (status == Status::ok) {
                        load->ok |= 1u << slot;
                    } else {
                        ++asked.read_errors;
                        if (status == Status::gone && load->epoch == epoch_) {
                            fail_leg(asked, "read: gone");
                        }
                    }
                    if (--load->outstanding == 0) {
                        pages_loaded(*load);
                    }
                });
        }
        if (--load.outstanding == 0) {
            pages_loaded(load);
        }
    }
    arrived_.schedule();
}

void Mirror::pages_loaded(Load& load) {
    const bool again = serving_ && load.epoch == epoch_ && load.growths != growth_.generation;
    if (serving_ && load.epoch == epoch_ && !again) {
        std::vector<Checksums::Copy> copies;
        for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
            const Leg* const leg = leg_of_slot(slot);
            const std::uint32_t bit = 1u << slot;
            if (leg == nullptr || leg->state != LegState::up || (load.asked & bit) == 0) {
                continue;
            }
            const Buffer& table = *load.tables[slot];
            const bool ok = (load.ok & bit) != 0;
            copies.push_back(
                {slot, leg->uuid,
                 ok ? std::span<const std::byte>(table.data, table.bytes) : std::span<const std::byte>()});
        }
        sums_.install(load.group, copies, [this](std::uint64_t offset) {
            return map_.at(map_.range_of(offset, 1).first).has(RegionMap::unequal);
        });
    }
    for (Buffer* const table : load.tables) {
        if (table != nullptr) {
            buffers_.release(*table);
        }
    }
    const std::uint64_t group = load.group;
    std::erase_if(loads_, [&load](const auto& one) { return one.get() == &load; });
    if (again) {  // they lie elsewhere since
        load_pages(group * Checksums::group_pages * sums_per_page * geometry_.block_bytes, 1);
    }
    arrived_.schedule();
}

// Whoever waits for pages, or for an examination, looks again.
void Mirror::pages_arrived() {
    const auto lacks = [this](std::uint64_t offset, std::uint64_t length) {
        return serving_ && sums_.enabled() && !sums_.has(offset, length);
    };
    std::vector<Op*> ops;
    for (Op* op = waiting_pages_.first; op != nullptr; op = op->next) {
        ops.push_back(op);
    }
    for (Op* op : ops) {
        if (op->list != &waiting_pages_ || lacks(op->offset, op->length)) {
            continue;
        }
        waiting_pages_.remove(*op);
        if (op->above->action == Action::read) {
            begin(*op);
        } else {
            extent_held(*op);
        }
    }
    const auto look = [this, &lacks](Lane& lane) {
        if (lane.waits_for_pages && (lane.epoch != epoch_ || !lacks(lane.offset, lane.length))) {
            lane.waits_for_pages = false;
            examine(lane);
        }
    };
    std::for_each(std::begin(lanes_), std::end(lanes_), look);
    std::for_each(std::begin(examinations_), std::end(examinations_), look);
    look(scrub_.lane);
    next_examination();
    finish_close();
}

// --- Writing

// The request is not answered before the checksums of everything before it are on the legs.
void Mirror::join_sums(Op& op) {
    if (sums_.any_dirty() || sums_writing_) {
        ++op.outstanding;
        joining_sums_.append(op);
        schedule_sums();
    }
}

void Mirror::schedule_sums() { sums_start_.schedule(); }

void Mirror::run_sums() {
    sums_start_.cancel();
    const bool held = growth_.copying_piece || (growth_holds_records() && !sweep_wants_sums_);
    if (sums_writing_ || held) {
        return;  // its end begins the next
    }
    sums_writing_ = true;
    sums_epoch_ = epoch_;
    sums_for_sweep_ = std::exchange(sweep_wants_sums_, false);
    in_sums_batch_ = std::exchange(joining_sums_, {});
    for (Op* op = in_sums_batch_.first; op != nullptr; op = op->next) {
        op->list = &in_sums_batch_;
    }
    sums_outstanding_ = 1;
    sums_pages_.clear();
    if (serving_ && !read_only()) {
        sums_.take_dirty(sums_pages_);
    }
    for (std::size_t i = 0; i < sums_pages_.size() && sums_epoch_ == epoch_; ++i) {
        const std::uint64_t page = sums_pages_[i];
        for (std::uint32_t slot = 0; slot < legs_max && sums_epoch_ == epoch_; ++slot) {
            Leg* const leg = leg_of_slot(slot);
            if (leg == nullptr || !leg->writable()) {
                continue;
            }
            Buffer* const buffer = buffers_.take(map_page_bytes);
            sums_.encode(page, slot, leg->uuid,
                         std::span<std::byte, map_page_bytes>(buffer->data, map_page_bytes));
            write_sums_page(*leg, leg->layout.checksum_offset + page * map_page_bytes, *buffer);
            if (growth_copies_to(slot) && leg->writable() && sums_epoch_ == epoch_) {
                write_sums_page(*leg, growth_.layouts[slot].checksum_offset + page * map_page_bytes, *buffer);
            }
            buffers_.release(*buffer);
        }
    }
    if (--sums_outstanding_ == 0) {
        sums_written();
    }
}

void Mirror::write_sums_page(Leg& leg, std::uint64_t offset, Buffer& buffer) {
    ++sums_outstanding_;
    ask(leg,
        {.action = Action::write,
         .offset = offset,
         .length = map_page_bytes,
         .data = buffer.data,
         .buffer = &buffer,
         .force_unit_access = true},
        [this](Leg& asked, Status status) {
            if (status != Status::ok && sums_epoch_ == epoch_) {
                asked.write_errors += asked.keeps_metadata() ? 1 : 0;
                fail_leg(asked, std::string("its checksums cannot be written: ") + block::name_of(status));
            }
            if (--sums_outstanding_ == 0) {
                sums_written();
            }
        });
}

void Mirror::sums_written() {
    sums_writing_ = false;
    std::vector<Op*> ready;
    while (in_sums_batch_.first != nullptr) {
        ready.push_back(in_sums_batch_.first);
        in_sums_batch_.remove(*ready.back());
    }
    for (Op* op : ready) {
        if (--op->outstanding == 0) {
            finish_change(*op);
        }
    }
    if (std::exchange(sums_for_sweep_, false) && --sweep_outstanding_ == 0) {
        sweep_flushed();
    }
    if (!joining_sums_.empty() || sweep_wants_sums_) {
        schedule_sums();
    }
    continue_growth();
    finish_close();
}

}  // namespace block::mirror
