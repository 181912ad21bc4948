// Hosts that send random commands to a Server, and hold every answer against the DurabilityModel.
//
// Each sector written is filled with a number that says when and where; copies move such numbers, zeroes are
// 0. Sources of a copy, and what a compare expects, are blocks whose content is certain at that moment.
#pragma once

#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "durability_model.h"
#include "simulated_server.h"
#include "wire/nvme_io.h"

namespace simulation {

enum class Kind : std::uint8_t { read, write, flush, write_zeroes, deallocate, copy, pair, count };

struct Statistics {
    std::uint64_t acknowledged[static_cast<std::size_t>(Kind::count)] = {};
    std::uint64_t failed = 0;
    std::uint64_t compare_failures = 0;
    std::uint64_t cuts = 0;
    std::uint64_t cuts_while_checking = 0;
    std::uint64_t deaths = 0;
    std::uint64_t resumed = 0;    // commands in flight at a death
    std::uint64_t uncertain = 0;  // sectors that a cut could leave in more than one way
    std::uint64_t torn = 0;       // blocks found in parts of different age
};

class Workload {
  public:
    // `failures_expected`: commands may end with an error.
    Workload(std::uint64_t seed, bool failures_expected, Statistics& statistics)
        : random_(seed),
          failures_expected_(failures_expected),
          statistics_(statistics),
          model_(blocks * sectors_per_block) {}

    const std::vector<std::string>& violations() const { return violations_; }
    std::uint64_t random(std::uint64_t below) { return random_() % below; }
    bool busy() const { return !sent_.empty(); }

    void send_random(Server& server) {
        static constexpr Kind dice[] = {Kind::write, Kind::write,        Kind::write,      Kind::write,
                                        Kind::flush, Kind::write_zeroes, Kind::deallocate, Kind::copy,
                                        Kind::pair,  Kind::pair,         Kind::read,       Kind::read};
        static constexpr std::uint32_t depth = 8;
        Sent sent;
        sent.kind = dice[random(std::size(dice))];
        sent.queue = static_cast<std::uint32_t>(random(queues));
        std::uint32_t in_queue = 0;
        std::uint32_t copies = 0;
        for (const Sent& other : sent_) {
            in_queue += other.queue == sent.queue ? 1u : 0u;
            copies += other.kind == Kind::copy ? 1u : 0u;
        }
        if (in_queue >= depth || (sent.kind == Kind::copy && copies >= 3)) {
            return;
        }
        sent.first = static_cast<std::uint32_t>(random(blocks));
        sent.count = 1 + static_cast<std::uint32_t>(random(std::min(4u, blocks - sent.first)));
        sent.unit_access = random(4) == 0;
        const std::size_t before = sent_.size();
        send(server, std::move(sent));
        if (sent_.size() > before && sent_.back().kind == Kind::pair && random(2) == 0) {
            // A rival that expects the same; one of them at most may have its way.
            Sent rival;
            rival.kind = Kind::pair;
            rival.queue = (sent_.back().queue + 1) % queues;
            rival.first = sent_.back().first;
            rival.expected = sent_.back().expected;
            send(server, std::move(rival));
        }
    }

    void send_read(Server& server, std::uint32_t block) {
        Sent sent;
        sent.kind = Kind::read;
        sent.queue = block % queues;
        sent.first = block;
        sent.count = 1;
        send(server, std::move(sent));
    }

    // Takes the answers that have come. `on_read` instead of the model's judgement of reads, if given.
    using OnRead = std::function<void(std::uint32_t block, const std::vector<std::uint64_t>& sectors)>;
    void collect(Server& server, const OnRead& on_read = {}) {
        for (std::size_t i = 0; i < sent_.size();) {
            Sent& sent = sent_[i];
            transport::LoopConnection& queue = server.queue(sent.queue);
            for (std::size_t half = 0; half < sent.cids.size(); ++half) {
                if (!sent.answers[half]) {
                    sent.answers[half] = queue.take(sent.cids[half]);
                }
            }
            if (sent.answers[0] && (sent.cids.size() == 1 || sent.answers[1])) {
                const Sent finished = std::move(sent);
                sent_.erase(sent_.begin() + static_cast<std::ptrdiff_t>(i));
                judge(finished, on_read);
            } else {
                ++i;
            }
        }
        for (std::uint32_t i = 0; i < queues; ++i) {
            if (server.queue(i).completions() != 0) {
                violate("an answer to no command");
            }
        }
        if (server.any_closed()) {
            violate("a connection was closed");
        }
    }

    // The hosts' commands are lost with the machine.
    void power_lost() {
        model_.power_lost();
        sent_.clear();
        pins_.clear();
        replaced_.clear();
        for (std::uint32_t sector = 0; sector < blocks * sectors_per_block; ++sector) {
            statistics_.uncertain += model_.choices_on_medium(sector) > 1 ? 1u : 0u;
        }
    }
    std::size_t in_flight() const { return sent_.size(); }

    // What a machine that came up again reads.
    void found(std::uint32_t block, const std::vector<std::uint64_t>& sectors) {
        bool torn = false;
        for (std::uint32_t i = 0; i < sectors.size(); ++i) {
            const std::uint32_t sector = block * sectors_per_block + i;
            torn = torn || (sectors[i] >> place_bits) != (sectors[0] >> place_bits);
            if (!model_.may_be_on_medium(sector, sectors[i])) {
                violate("after the cut sector " + std::to_string(sector) + " holds " + name(sectors[i]));
            }
            model_.found(sector, sectors[i]);
        }
        statistics_.torn += torn ? 1u : 0u;
    }
    void violate(std::string what) { violations_.push_back(std::move(what)); }

  private:
    static constexpr std::uint32_t place_bits = 16;
    using Moment = DurabilityModel::Moment;

    struct Sent {
        Kind kind{};
        std::uint32_t queue = 0;
        std::uint32_t first = 0;
        std::uint32_t count = 0;
        bool unit_access = false;
        std::uint32_t source = 0;             // of a copy
        std::vector<std::uint64_t> expected;  // by the first half of a pair
        Moment moment = 0;
        std::vector<DurabilityModel::Place> places;
        std::vector<std::uint16_t> cids;
        std::optional<transport::LoopCompletion> answers[2];
    };

    static std::string name(std::uint64_t value) {
        return "write " + std::to_string(value >> place_bits) + " of sector " +
               std::to_string(value & ((1u << place_bits) - 1));
    }

    bool pinned(std::uint32_t first, std::uint32_t count) const {
        for (std::uint32_t block = first; block < first + count; ++block) {
            if (pins_.contains(block)) {
                return true;
            }
        }
        return false;
    }

    // What the blocks hold, if that is certain.
    std::optional<std::vector<std::uint64_t>> settled(std::uint32_t first, std::uint32_t count) const {
        std::vector<std::uint64_t> values;
        for (std::uint32_t i = 0; i < count * sectors_per_block; ++i) {
            const auto value = model_.settled(first * sectors_per_block + i);
            if (!value) {
                return std::nullopt;
            }
            values.push_back(*value);
        }
        return values;
    }

    void send(Server& server, Sent sent) {
        using testing::Entry;
        const bool changes = sent.kind != Kind::read && sent.kind != Kind::flush;
        if (sent.kind == Kind::pair) {
            sent.count = 1;
        }
        if (changes && pinned(sent.first, sent.count)) {
            return;
        }
        const std::uint32_t bytes = sent.count * block_bytes;
        const std::uint32_t dword12 = (sent.count - 1) | (sent.unit_access ? 1u << 30 : 0u);
        Entry entry(0);
        std::vector<std::byte> data;
        std::vector<std::uint64_t> values(changes ? sent.count * sectors_per_block : 0);
        switch (sent.kind) {
            case Kind::read:
                entry = Entry(0x02).put64(40, sent.first).dword(12, dword12).length(bytes);
                break;
            case Kind::write:
                new_values(sent, values);
                data = filled(values);
                entry = Entry(0x01).put64(40, sent.first).dword(12, dword12).length(bytes);
                break;
            case Kind::flush: entry.length(0); break;
            case Kind::write_zeroes: {
                const std::uint32_t may_deallocate = random(2) == 0 ? 1u << 25 : 0u;
                entry = Entry(0x08).put64(40, sent.first).dword(12, dword12 | may_deallocate).length(0);
                break;
            }
            case Kind::deallocate: {
                sent.unit_access = false;
                wire::DsmRange range{};
                range.nlb = sent.count;
                range.slba = sent.first;
                data = bytes_of(range);
                entry = Entry(0x09).dword(11, 4).length(sizeof(range));
                break;
            }
            case Kind::copy: {
                sent.source = static_cast<std::uint32_t>(random(blocks - sent.count + 1));
                const auto held = settled(sent.source, sent.count);
                const bool overlap =
                    sent.source < sent.first + sent.count && sent.first < sent.source + sent.count;
                if (!held || overlap) {
                    return;
                }
                values = *held;
                wire::CopyRange range{};
                range.slba = sent.source;
                range.nlb = static_cast<std::uint16_t>(sent.count - 1);
                data = bytes_of(range);
                const std::uint32_t copy_dword12 = sent.unit_access ? 1u << 30 : 0u;  // one range
                entry = Entry(0x19).put64(40, sent.first).dword(12, copy_dword12).length(sizeof(range));
                break;
            }
            case Kind::pair: {
                if (sent.expected.empty()) {
                    const auto held = settled(sent.first, 1);
                    if (!held) {
                        return;
                    }
                    sent.expected = *held;
                    if (random(8) == 0) {
                        sent.expected[random(sectors_per_block)] = 1;  // held by nobody
                    }
                }
                new_values(sent, values);
                entry = Entry(0x05).put64(40, sent.first).dword(12, 0).length(bytes).put8(1, 0x41);
                data = filled(sent.expected);
                break;
            }
            case Kind::count: return;
        }
        sent.moment = model_.tick();
        for (std::uint32_t i = 0; i < values.size(); ++i) {
            sent.places.push_back(
                model_.submitted(sent.first * sectors_per_block + i, values[i], sent.moment));
        }
        if (sent.kind == Kind::copy) {
            for (std::uint32_t i = 0; i < sent.count; ++i) {
                pins_.insert(sent.source + i);
            }
            copied_.insert(values.begin(), values.end());
        }
        transport::LoopConnection& queue = server.queue(sent.queue);
        submit(queue, sent, entry, data);
        if (sent.kind == Kind::pair) {
            submit(queue, sent,
                   Entry(0x01).put64(40, sent.first).dword(12, dword12).length(bytes).put8(1, 0x42),
                   filled(values));
        }
        sent_.push_back(std::move(sent));
    }

    void submit(transport::LoopConnection& queue, Sent& sent, testing::Entry entry,
                std::span<const std::byte> data) {
        sent.cids.push_back(cid_next_);
        EK_CHECK(queue.submit(entry.nsid(nsid).cid(cid_next_).sqe(), data), "the queue has room");
        cid_next_ = static_cast<std::uint16_t>((cid_next_ + 1) % 0xF000);
    }

    void judge(const Sent& sent, const OnRead& on_read) {
        const Moment moment = model_.tick();
        const transport::LoopCompletion& last = *sent.answers[sent.cids.size() - 1];
        const bool ok = last.status().ok();
        const bool compare_failed =
            sent.kind == Kind::pair && sent.answers[0]->status() == wire::status::compare_failure;
        if (ok) {
            ++statistics_.acknowledged[static_cast<std::size_t>(sent.kind)];
        } else if (compare_failed) {
            ++statistics_.compare_failures;
        } else {
            ++statistics_.failed;
            if (!failures_expected_) {
                violate("command " + std::to_string(static_cast<unsigned>(sent.kind)) +
                        " fails with status " + std::to_string(last.status().value));
            }
        }
        for (const DurabilityModel::Place place : sent.places) {
            model_.ended(place, moment, ok, sent.unit_access);
        }
        if (sent.kind == Kind::copy) {
            for (std::uint32_t i = 0; i < sent.count; ++i) {
                pins_.erase(pins_.find(sent.source + i));
            }
        }
        if (sent.kind == Kind::pair) {
            judge_pair(sent, compare_failed);
        }
        const bool flushes = sent.kind == Kind::flush || (sent.kind == Kind::read && sent.unit_access);
        if (ok && flushes) {
            model_.flushed(sent.moment);
        }
        if (ok && sent.kind == Kind::read) {
            judge_read(sent, last.data, on_read);
        }
    }

    void judge_pair(const Sent& sent, bool compare_failed) {
        const bool written = sent.answers[1]->status().ok();
        const bool equal = sent.answers[0]->status().ok();
        if (!equal) {
            for (const DurabilityModel::Place place : sent.places) {
                model_.withdrawn(place);
            }
        }
        if (written && !equal) {
            violate("the second half of a pair was done without the first");
        }
        bool may_be_equal = true;
        bool may_differ = false;
        for (std::uint32_t i = 0; i < sectors_per_block; ++i) {
            const std::uint32_t sector = sent.first * sectors_per_block + i;
            may_be_equal = may_be_equal && model_.may_be_read(sector, sent.expected[i], sent.moment);
            may_differ = may_differ || model_.may_differ(sector, sent.expected[i], sent.moment);
        }
        if (equal && !may_be_equal) {
            violate("a compare finds equal what was not there");
        }
        if (compare_failed && !may_differ) {
            violate("a compare finds a difference where none was");
        }
        // A content that cannot come back is replaced once.
        const std::uint64_t key = sent.expected[0];
        if (written && key != 0 && !copied_.contains(key) && !replaced_.insert(key).second) {
            violate("two pairs replaced the same content of block " + std::to_string(sent.first));
        }
    }

    void judge_read(const Sent& sent, const std::vector<std::byte>& data, const OnRead& on_read) {
        std::vector<std::uint64_t> sectors;
        for (std::size_t at = 0; at < data.size(); at += testing::SimKernel::sector_bytes) {
            std::uint64_t value = 0;
            std::memcpy(&value, data.data() + at, sizeof(value));
            for (std::size_t i = 0; i < testing::SimKernel::sector_bytes; i += sizeof(value)) {
                if (std::memcmp(data.data() + at + i, &value, sizeof(value)) != 0) {
                    violate("a sector is torn: the first part is " + name(value));
                    break;
                }
            }
            sectors.push_back(value);
        }
        if (sectors.size() != std::size_t{sent.count} * sectors_per_block) {
            violate("a read brings " + std::to_string(data.size()) + " bytes");
            return;
        }
        if (on_read) {
            on_read(sent.first, sectors);
            return;
        }
        for (std::uint32_t i = 0; i < sectors.size(); ++i) {
            const std::uint32_t sector = sent.first * sectors_per_block + i;
            if (!model_.may_be_read(sector, sectors[i], sent.moment)) {
                violate("sector " + std::to_string(sector) + " reads as " + name(sectors[i]));
            }
        }
    }

    void new_values(const Sent& sent, std::vector<std::uint64_t>& values) {
        ++writes_;
        for (std::uint32_t i = 0; i < values.size(); ++i) {
            values[i] = (writes_ << place_bits) | (sent.first * sectors_per_block + i);
        }
    }
    static std::vector<std::byte> filled(const std::vector<std::uint64_t>& values) {
        std::vector<std::byte> data(values.size() * testing::SimKernel::sector_bytes);
        for (std::size_t at = 0; at < data.size(); at += sizeof(std::uint64_t)) {
            std::memcpy(data.data() + at, &values[at / testing::SimKernel::sector_bytes],
                        sizeof(std::uint64_t));
        }
        return data;
    }
    template <typename Structure>
    static std::vector<std::byte> bytes_of(const Structure& structure) {
        const auto* first = reinterpret_cast<const std::byte*>(&structure);
        return {first, first + sizeof(structure)};
    }

    std::mt19937_64 random_;
    bool failures_expected_;
    Statistics& statistics_;
    DurabilityModel model_;
    std::vector<Sent> sent_;
    std::multiset<std::uint32_t> pins_;  // blocks that copies under way read
    std::set<std::uint64_t> copied_;     // numbers that may be in more than one place or come back
    std::set<std::uint64_t> replaced_;   // by successful pairs, since power came
    std::uint64_t writes_ = 0;
    std::uint16_t cid_next_ = 1;
    std::vector<std::string> violations_;
};

}  // namespace simulation
