// Which command comes next, what it carries, and whether its answer is right.

#include <algorithm>
#include <cstring>

#include "block/initiator/load_run.h"
#include "block/initiator/pattern.h"
#include "wire/nvme_io.h"

namespace block::initiator {

namespace {

constexpr std::uint32_t tries_for_a_free_unit = 64;

}  // namespace

// --- commands ----------------------------------------------------------------------------------------------

void LoadRun::issue(LoadIo& io) {
    if (!choose(io)) {
        make_idle(io);
        return;
    }
    fill_in(io);
    ++outstanding_;
    io.issued_at = reactor_.now();
    if (!io.queue->submit(io)) {
        --outstanding_;
        if (io.kind == LoadKind::write && options_.verify) {
            shadow_.end_write(io.unit, false, false);
        }
        make_idle(io);  // the queue has failed, its controller says so
    }
}

// What the place does next; false: nothing now.
bool LoadRun::choose(LoadIo& io) {
    switch (phase_) {
        case LoadPhase::filling:
            if (cursor_ == units_ || stopping_) {
                return false;
            }
            io.kind = LoadKind::write;
            io.unit = cursor_++;
            return true;
        case LoadPhase::warming:
        case LoadPhase::measuring: return choose_of_load(io);
        case LoadPhase::checking:
            while (cursor_ < units_ && shadow_.unit(cursor_).issued == 0) {
                ++cursor_;
            }
            if (cursor_ == units_ || stopping_) {
                return false;
            }
            io.kind = LoadKind::read;
            io.unit = cursor_++;
            return true;
        case LoadPhase::connecting:
        case LoadPhase::draining:
        case LoadPhase::leaving:
        case LoadPhase::finished: return false;
    }
    return false;
}

bool LoadRun::choose_of_load(LoadIo& io) {
    const base::Nanoseconds now = reactor_.now();
    if (now >= phase_ends_ && phase_ == LoadPhase::warming && !stopping_) {
        phase_ = LoadPhase::measuring;
        phase_began_ = now;
        phase_ends_ = options_.seconds > 0 ? now + static_cast<base::Nanoseconds>(options_.seconds * 1e9)
                                           : reactor::no_deadline;
        issued_ = 0;
        cpu_at_start_ = CpuTime::now();
    }
    if (stopping_ || now >= phase_ends_ || (options_.count != 0 && issued_ >= options_.count)) {
        return false;
    }
    if (options_.rate != 0) {
        if (next_issue_ > now) {
            if (!pace_.running()) {
                pace_.start(next_issue_);
            }
            return false;
        }
        next_issue_ =
            std::max(next_issue_ + base::second / options_.rate, now > base::second ? now - base::second : 0);
    }
    if ((options_.flush_every != 0 && writes_since_flush_ >= options_.flush_every) ||
        (options_.flush_every != 0 && options_.verify && shadow_.flush_due())) {
        writes_since_flush_ = 0;
        io.kind = LoadKind::flush;
        ++issued_;
        return true;
    }
    io.kind = options_.read_percent >= 100 || random_.below(100) < options_.read_percent ? LoadKind::read
                                                                                         : LoadKind::write;
    io.unit = options_.sequential ? cursor_++ % units_ : random_.below(units_);
    if (io.kind == LoadKind::write && options_.verify && !choose_unit_to_write(io.unit)) {
        io.kind = LoadKind::read;  // every unit that was tried is being written
    }
    writes_since_flush_ += io.kind == LoadKind::write ? 1 : 0;
    ++issued_;
    return true;
}

bool LoadRun::choose_unit_to_write(std::uint64_t& unit) {
    for (std::uint32_t tries = 0; tries < tries_for_a_free_unit; ++tries) {
        if (!shadow_.writing(unit)) {
            return true;
        }
        unit = options_.sequential ? cursor_++ % units_ : random_.below(units_);
    }
    return false;
}

void LoadRun::fill_in(LoadIo& io) {
    io.sqe = wire::Sqe{};
    io.sqe.nsid = options_.target.nsid;
    if (io.kind == LoadKind::flush) {
        io.sqe.opcode = static_cast<std::uint8_t>(wire::IoOpcode::flush);
        io.direction = wire::DataDirection::none;
        io.length = 0;
        io.flush_mark = options_.verify ? shadow_.begin_flush() : 0;
        return;
    }
    const bool write = io.kind == LoadKind::write;
    io.sqe.opcode = static_cast<std::uint8_t>(write ? wire::IoOpcode::write : wire::IoOpcode::read);
    wire::set_starting_lba(io.sqe, lba_of(io.unit));
    io.sqe.cdw12 = wire::io_cdw12::nlb.put(blocks_per_unit_ - 1) |
                   wire::io_cdw12::fua.put(write && options_.force_unit_access ? 1 : 0);
    io.direction = write ? wire::DataDirection::to_controller : wire::DataDirection::from_controller;
    io.length = options_.io_bytes;
    if (!options_.verify) {
        return;
    }
    if (!write) {
        io.oldest = shadow_.unit(io.unit).acknowledged;
        return;
    }
    io.generation = shadow_.begin_write(io.unit);
    for (std::uint32_t block = 0; block < blocks_per_unit_; ++block) {
        write_pattern({io.data + std::size_t{block} * block_bytes_, block_bytes_}, result_.seed,
                      lba_of(io.unit) + block, io.generation);
    }
}

void LoadRun::completed(LoadIo& io, const Completion& completion) {
    --outstanding_;
    const base::Nanoseconds now = reactor_.now();
    const bool ok = completion.ok();
    if (completion.answered) {
        if (!ok) {
            const char* const name = wire::name_of(completion.status);
            const char* const what = io.kind == LoadKind::read    ? "read"
                                     : io.kind == LoadKind::write ? "write"
                                                                  : "flush";
            error(std::string(what) + " of LBA " + std::to_string(lba_of(io.unit)) + ": " +
                  (name != nullptr ? name : "status " + std::to_string(completion.status.value)));
        }
        ++completed_;
        measure(io, now);
    }
    if (options_.verify) {
        if (io.kind == LoadKind::write) {
            shadow_.end_write(io.unit, ok, ok && options_.force_unit_access);
        } else if (io.kind == LoadKind::flush && ok) {
            shadow_.end_flush(io.flush_mark);
        } else if (io.kind == LoadKind::read && ok) {
            check_read(io);
        }
    }
    if (!completion.answered) {
        make_idle(io);
        return;
    }
    issue(io);
    if (outstanding_ == 0 && !pace_.running()) {
        next_phase();
    }
}

void LoadRun::measure(const LoadIo& io, base::Nanoseconds now) {
    const base::Nanoseconds gap = now - std::min(now, last_completion_);
    last_completion_ = now;
    if (phase_ != LoadPhase::measuring && phase_ != LoadPhase::draining) {
        return;
    }
    longest_gap_ = std::max(longest_gap_, gap);
    latest_gap_ = std::max(latest_gap_, gap);
    latest_latency_ = std::max(latest_latency_, now - io.issued_at);
    if (gap >= options_.pause_threshold_ms * base::millisecond && result_.pauses_ms.size() < pauses_max) {
        result_.pauses_ms.push_back(static_cast<double>(gap) / 1e6);
    }
    // What ends after the time counts for nothing but its latency's tail; what began before it does not count
    // either.
    if (io.issued_at < phase_began_ && phase_ == LoadPhase::measuring) {
        return;
    }
    const std::uint64_t latency = now - io.issued_at;
    all_.add(latency);
    (io.kind == LoadKind::read ? reads_ : io.kind == LoadKind::write ? writes_ : flushes_).add(latency);
    if (phase_ == LoadPhase::measuring && now <= phase_ends_) {
        result_.seconds = static_cast<double>(now - phase_began_) / 1e9;
        switch (io.kind) {
            case LoadKind::read:
                ++result_.reads;
                result_.read_bytes += io.length;
                break;
            case LoadKind::write:
                ++result_.writes;
                result_.written_bytes += io.length;
                break;
            case LoadKind::flush: ++result_.flushes; break;
        }
    }
}

void LoadRun::check_read(LoadIo& io) {
    const std::uint32_t newest = shadow_.unit(io.unit).issued;
    if (newest == 0) {
        result_.unverifiable_blocks += blocks_per_unit_;
        return;
    }
    for (std::uint32_t block = 0; block < blocks_per_unit_; ++block) {
        const std::uint64_t lba = lba_of(io.unit) + block;
        const PatternReading reading =
            read_pattern({io.data + std::size_t{block} * block_bytes_, block_bytes_}, result_.seed, lba);
        const bool right = reading.verdict == PatternVerdict::right && reading.generation >= io.oldest &&
                           reading.generation <= newest;
        // Before the first acknowledged write anything may be there.
        if (!right && !(io.oldest == 0 && reading.verdict == PatternVerdict::foreign)) {
            const char* const what = reading.verdict != PatternVerdict::right ? name_of(reading.verdict)
                                     : reading.generation < io.oldest         ? "stale"
                                                                              : "future";
            error("LBA " + std::to_string(lba) + " reads " + what + " (LBA " + std::to_string(reading.lba) +
                  ", generation " + std::to_string(reading.generation) + ") where generation " +
                  std::to_string(io.oldest) + " to " + std::to_string(newest) + " must be");
            return;
        }
        ++result_.verified_blocks;
    }
}

}  // namespace block::initiator
