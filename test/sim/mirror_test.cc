// A mirror whose legs fail, vanish and come back, whose process dies and whose power is cut, at random
// moments in virtual time. What a host was told must hold: acknowledged changes are read back while the
// machine runs, durable ones after a power cut, whatever legs are there; a leg that may be behind is not
// served from; and in the end all legs are equal. Media grow, with and without the process, and the volume
// with them: what it was told to be large it stays, and nothing of what it had is lost.
//
// KEEL_SEED: the first seed (printed). KEEL_ROUNDS: how many rounds, each with the next seed.

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "block/mirror/format.h"
#include "durability_model.h"
#include "testing/block_rig.h"
#include "testing/details.h"
#include "testing/sim_kernel.h"

namespace {

using block::Action;
using block::Status;
using simulation::DurabilityModel;
using testing::SimKernel;

constexpr std::uint32_t block_bytes = 4096;
constexpr std::uint32_t sector_bytes = SimKernel::sector_bytes;
// A medium and the volume grow in so many steps.
constexpr std::uint32_t stages = 3;
constexpr std::uint32_t blocks_of(std::uint32_t stage) { return 48 + 16 * stage; }
constexpr std::uint32_t blocks = blocks_of(0);
constexpr std::uint64_t bytes_of(std::uint32_t stage) {
    return std::uint64_t{blocks_of(stage)} * block_bytes;
}
constexpr std::uint32_t region_bytes = 16384;
constexpr std::uint32_t request_blocks_max = 5;
constexpr std::size_t depth = 8;

struct Tally {
    std::uint64_t cuts = 0;
    std::uint64_t deaths = 0;
    std::uint64_t losses = 0;
    std::uint64_t returns = 0;
    std::uint64_t hidden = 0;
    std::uint64_t refusals = 0;  // the volume was not served, rightly
    std::uint64_t acknowledged = 0;
    std::uint64_t failed = 0;
    std::uint64_t reads = 0;
    std::uint64_t rotted = 0;
    std::uint64_t grown_media = 0;
    std::uint64_t growths = 0;
    std::uint64_t too_small = 0;   // a leg was refused since the volume has grown
    std::uint64_t unfinished = 0;  // the process ended while the volume grew
    std::uint64_t witnessed = 0;   // a killed process's successor went on without a leg
};

// A leg's medium, and what is wrong with it at present.
struct Medium {
    explicit Medium(bool with_checksums)
        : descriptor(memfd_create("leg", MFD_CLOEXEC)), checksums(with_checksums) {
        grow_to(0);
        struct stat status {};
        fstat(descriptor, &status);
        inode = status.st_ino;
        const auto layout = block::mirror::place({bytes_of(0), region_bytes, block_bytes, checksums},
                                                 static_cast<std::uint64_t>(status.st_size));
        EK_CHECK(layout.has_value(), "a leg has room for what it carries");
        checksum_offset = layout->checksum_offset;
        map_offset = layout->map_offset;
    }
    Medium(const Medium&) = delete;
    Medium& operator=(const Medium&) = delete;
    ~Medium() { close(descriptor); }
    void grow_to(std::uint32_t wanted) {
        // With room for the records of before, beside those that come.
        const std::uint64_t bytes =
            block::mirror::leg_bytes_for(bytes_of(wanted), region_bytes, block_bytes, checksums) +
            std::uint64_t{wanted} * 4 * block_bytes;
        stage = wanted;
        CHECK(ftruncate(descriptor, static_cast<off_t>(bytes)) == 0);
    }
    std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor); }

    int descriptor;
    bool checksums;
    std::uint32_t stage = 0;
    ino_t inode = 0;
    std::uint64_t checksum_offset = 0;  // before it grew
    std::uint64_t map_offset = 0;
    bool dead = false;
    bool late = false;        // its checksums arrive late, all else in time
    std::uint32_t flaky = 0;  // one of so many operations fails; 0: none
};

// One life of the process.
struct Life {
    // `memory`: what outlives the process.
    Life(SimKernel& simulated, std::vector<std::unique_ptr<Medium>>& media, const block::MirrorSpec& mirror,
         std::uint64_t known_bytes, std::vector<std::byte>& memory)
        : kernel(simulated), rig(&simulated) {
        rig.environment.memory = [&memory](const std::string&, std::uint64_t bytes) {
            memory.resize(bytes);
            return base::Result<block::PersistentMemory>(block::PersistentMemory{-1, memory, 3});
        };
        rig.environment.forget_memory = [](const std::string&) {};
        block::DeviceSpec spec;
        spec.name = "volume";
        spec.kind = "mirror";
        spec.mirror = mirror;
        if (known_bytes != 0) {
            spec.known.size_bytes = known_bytes;
            spec.known.block_bytes = block_bytes;
        }
        for (std::size_t i = 0; i < media.size(); ++i) {
            block::DeviceSpec leg;
            leg.name = name_of_leg(i);
            leg.kind = "file";
            leg.path = media[i]->path();
            EK_CHECK(rig.make(leg).ok(), "a leg opens");
            spec.parts.push_back({leg.name, 0, 0});
        }
        auto made = rig.make(spec);
        EK_CHECK(made.ok(), "the mirror is made");
        volume = made.value();
    }
    static std::string name_of_leg(std::size_t index) {
        return std::string(1, static_cast<char>('a' + index));
    }

    std::string detail(const std::string& key) const { return testing::detail(*volume, key); }
    bool serves() const {
        const std::string state = volume->health().state;
        return state == "ok" || state == "degraded" || state == "resyncing";
    }

    SimKernel& kernel;
    testing::BlockRig rig;
    block::Device* volume = nullptr;
};

class Round {
  public:
    Round(std::uint64_t seed, Tally& tally)
        : seed_(seed),
          tally_(tally),
          random_(seed),
          faults_(seed ^ 0xFA),
          model_(blocks_of(stages - 1) * data_sectors) {
        const std::size_t legs = 2 + random_() % 2;
        mirror_.checksums = random_() % 3 != 0;
        rots_ = random_() % 2 == 0;
        // Each of them alone has to bring the checksums to the legs.
        forces_ = random_() % 3 != 0;
        flushes_ = !forces_ || random_() % 2 == 0;
        for (std::size_t i = 0; i < legs; ++i) {
            media_.push_back(std::make_unique<Medium>(mirror_.checksums));
        }
        mirror_.volume.fill(5);
        mirror_.region_bytes = region_bytes;
        mirror_.assume_clean = true;
        mirror_.resync_bytes_per_second = random_() % 2 == 0 ? 0 : 32 << 10;
        mirror_.when_lost =
            random_() % 2 == 0 ? block::MirrorSpec::WhenLost::freeze : block::MirrorSpec::WhenLost::fail;
        for (auto& slot : slots_) {
            slot.round = this;
        }
        changed_.fill(DurabilityModel::never);
    }

    std::vector<std::string> run() {
        const std::uint64_t powers = 2 + random_() % 3;
        for (std::uint64_t power = 0; power < powers && violations_.empty(); ++power) {
            machine(seed_ * 16 + power, power + 1 == powers);
        }
        return violations_;
    }

  private:
    static constexpr std::uint32_t data_sectors = block_bytes / sector_bytes;
    static constexpr base::Nanoseconds lateness = 2 * base::second;  // the sweep comes once a second

    struct Slot : block::Request {
        Round* round = nullptr;
        bool busy = false;
        bool counts = false;      // the one that waits for it still lives
        std::uint32_t bears = 0;  // once it is done the host uses so many blocks
        std::uint64_t value = 0;
        DurabilityModel::Moment submitted = 0;
        std::vector<DurabilityModel::Place> places;
        testing::Pages memory{request_blocks_max * block_bytes};
    };

    void violate(const std::string& text) { violations_.push_back(text); }
    bool chance(std::uint32_t one_in) { return random_() % one_in == 0; }

    int fault(const SimKernel::Attempt& attempt) {
        struct stat status {};
        if (fstat(attempt.descriptor, &status) != 0) {
            return 0;
        }
        for (const auto& medium : media_) {
            if (medium->inode == status.st_ino) {
                return medium->dead || (medium->flaky != 0 && faults_() % medium->flaky == 0) ? EIO : 0;
            }
        }
        return 0;
    }

    base::Nanoseconds delay(const SimKernel::Attempt& attempt) {
        struct stat status {};
        if (fstat(attempt.descriptor, &status) != 0) {
            return 0;
        }
        for (const auto& medium : media_) {
            if (medium->inode == status.st_ino) {
                const bool checksums =
                    attempt.offset >= medium->checksum_offset && attempt.offset < medium->map_offset;
                return medium->late && checksums ? faults_() % lateness : 0;
            }
        }
        return 0;
    }

    // From power on to power off.
    void machine(std::uint64_t seed, bool last) {
        SimKernel::Options options;
        options.seed = seed;
        options.short_transfers_percent = 5;
        options.fault = [this](const SimKernel::Attempt& attempt) { return fault(attempt); };
        options.delay = [this](const SimKernel::Attempt& attempt) { return delay(attempt); };
        SimKernel kernel(options);
        // A leg may be away when the machine comes back.
        for (auto& medium : media_) {
            medium->dead = false;
            medium->flaky = 0;
            medium->late = false;
        }
        if (known_bytes_ != 0 && chance(3) && rotted_.empty()) {
            media_[random_() % media_.size()]->dead = true;
            ++tally_.hidden;
        }
        memory_.clear();
        grow_media(nullptr);
        auto life = std::make_unique<Life>(kernel, media_, mirror_, known_bytes_, memory_);
        if (!wait_until_served(*life)) {
            finish_life(kernel, std::move(life));
            return;
        }
        look_at_size(*life);
        if (after_cut_) {
            look_at_everything(*life);
        }
        const std::uint64_t steps = 20 + random_() % 200;
        for (std::uint64_t step = 0; step < steps && violations_.empty(); ++step) {
            send_random(*life);
            run_for(*life, random_() % 400 * base::microsecond);
            disturb(*life);
            const bool grows = life->detail("growing") == "yes" && chance(4);
            if (grows || chance(60) || (std::exchange(critical_, false) && chance(2))) {
                ++tally_.deaths;
                tally_.unfinished += life->detail("growing") == "yes" ? 1 : 0;
                look_for_false_alarms(*life);
                kernel.end_process();
                forget_requests();
                const bool fragile = is_fragile(*life);
                const bool served = life->serves();
                const std::vector<std::byte> memory = memory_;
                life.reset();
                memory_ = memory;  // a process that is killed takes nothing back
                kernel.begin_process();
                // A leg that was there is gone now: the others need not wait for it.
                const bool hides = !fragile && served && legs_dead() == 0 && chance(3);
                if (hides) {
                    media_[random_() % media_.size()]->dead = true;
                }
                grow_media(nullptr);
                life = std::make_unique<Life>(kernel, media_, mirror_, known_bytes_, memory_);
                if (!wait_until_served(*life)) {
                    break;
                }
                look_at_size(*life);
                tally_.witnessed += hides && legs_dead() != 0 ? 1 : 0;
            }
            if (chance(40)) {
                // Intents may be taken back meanwhile, and checksums be under way.
                run_for(*life, (1 + random_() % 6) * base::second / 2);
                critical_ = critical_ || std::any_of(media_.begin(), media_.end(),
                                                     [](const auto& medium) { return medium->late; });
            }
        }
        if (last && violations_.empty()) {
            converge(*life);
        }
        finish_life(kernel, std::move(life));
    }

    void finish_life(SimKernel& kernel, std::unique_ptr<Life> life) {
        ++tally_.cuts;
        tally_.unfinished += life->detail("growing") == "yes" ? 1 : 0;
        look_for_false_alarms(*life);
        kernel.cut_power();
        forget_requests();
        model_.power_lost();
        after_cut_ = true;
        flushed_since_cut_ = false;
        life.reset();
    }

    void run_for(Life& life, base::Nanoseconds duration) {
        const base::Nanoseconds until = life.rig.kernel.now() + duration;
        do {
            life.rig.reactor.run_once(until);
        } while (life.rig.kernel.now() < until);
    }

    // A volume that is not served although all legs are there is a fault; with a leg away it may be right.
    bool wait_until_served(Life& life) {
        for (int second = 0; second < 8 && !life.serves(); ++second) {
            run_for(life, base::second);
        }
        if (life.serves()) {
            return true;
        }
        ++tally_.refusals;
        for (auto& medium : media_) {
            medium->dead = false;
            medium->flaky = 0;
        }
        for (int second = 0; second < 30 && !life.serves(); ++second) {
            run_for(life, base::second);
        }
        if (!life.serves()) {
            const auto health = life.volume->health();
            violate("with all legs there it is not served: " + health.state + ": " + health.reason);
            return false;
        }
        return true;
    }

    // --- what grows

    // With a life its devices are told.
    void grow_media(Life* life) {
        for (std::size_t i = 0; i < media_.size(); ++i) {
            if (media_[i]->stage + 1 < stages && chance(life != nullptr ? 2 : 30)) {
                media_[i]->grow_to(media_[i]->stage + 1);
                ++tally_.grown_media;
                if (life != nullptr) {
                    (void)life->rig.device(Life::name_of_leg(i)).resize(std::nullopt);
                }
            }
        }
    }

    void look_at_size(Life& life) {
        const std::uint64_t bytes = life.volume->describe().size_bytes;
        if (bytes < told_bytes_) {
            violate("it has " + std::to_string(bytes) + " bytes, and had " + std::to_string(told_bytes_));
        }
        told_bytes_ = bytes;
        // Who records the size may not have had the time.
        if (known_bytes_ == 0 || chance(4)) {
            known_bytes_ = bytes;
        }
    }

    // The host overwrites what is new before it uses it.
    void use_new_blocks(Life& life) {
        std::uint32_t stage = stages - 1;
        while (stage != 0 && bytes_of(stage) > told_bytes_) {
            --stage;
        }
        const bool under_way = std::any_of(slots_.begin(), slots_.end(),
                                           [](const Slot& slot) { return slot.busy && slot.bears != 0; });
        const auto free =
            std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return !slot.busy; });
        if (blocks_of(stage) <= blocks_ || under_way || free == slots_.end()) {
            return;
        }
        send(life, *free, Action::write_zeroes, blocks_, blocks_of(stage) - blocks_, blocks_of(stage));
    }

    // --- what goes wrong

    // What rotted can be told from everything else.
    static constexpr std::uint64_t rotten = 0xBADBADBADBADBAD0;

    bool is_rotten(const Medium& medium, std::uint32_t block) const {
        for (std::uint32_t sector = 0; sector < data_sectors; ++sector) {
            std::uint64_t word = 0;
            (void)!pread(medium.descriptor, &word, sizeof(word),
                         static_cast<off_t>(block * block_bytes + sector * sector_bytes));
            if (word == rotten) {
                return true;
            }
        }
        return false;
    }
    // What was mended or overwritten is forgotten.
    void look_for_rot() {
        std::erase_if(rotted_,
                      [this](const auto& place) { return !is_rotten(*media_[place.first], place.second); });
    }
    bool any_rot(std::uint32_t block) const {
        return std::any_of(rotted_.begin(), rotted_.end(),
                           [&](const auto& place) { return place.second == block; });
    }
    bool in_use(std::uint32_t block) const {
        return std::any_of(slots_.begin(), slots_.end(), [&](const Slot& slot) {
            return slot.busy && slot.length != 0 && slot.offset < (block + 1) * block_bytes &&
                   block * block_bytes < slot.offset + slot.length;
        });
    }

    void look_for_false_alarms(const Life& life) {
        for (std::size_t i = 0; i < media_.size() && !rots_; ++i) {
            if (life.detail("leg." + Life::name_of_leg(i) + ".corruptions") != "0") {
                violate("a block is called corrupt, and none is");
            }
        }
        if (life.detail("checksums.lost_blocks") != "0") {
            violate("a block is called corrupt on every leg");
        }
    }

    // Whether its checksum must be on the legs whatever happens: what a host wrote there last was flushed
    // after it had ended, or was written with forced unit access.
    bool is_stored(std::uint32_t block) const { return changed_[block] < flushed_; }
    // What was not stored when the process died or the power was cut is in doubt until it is written again.
    void doubt_what_is_not_stored() {
        for (std::uint32_t block = 0; block < changed_.size(); ++block) {
            changed_[block] = is_stored(block) ? changed_[block] : DurabilityModel::never;
        }
    }
    void note_change(const Slot& slot, DurabilityModel::Moment moment, bool stored) {
        for (std::uint64_t at = 0; at < slot.length; at += block_bytes) {
            DurabilityModel::Moment& changed = changed_[(slot.offset + at) / block_bytes];
            const bool alone = changed < slot.submitted || changed == DurabilityModel::never;
            changed = stored && alone ? 0 : moment;
        }
    }

    // Whether a leg fails, or has failed a request that has not ended everywhere: so long it counts as up.
    bool any_failing() {
        if (std::any_of(media_.begin(), media_.end(),
                        [](const auto& medium) { return medium->dead || medium->flaky != 0; })) {
            ill_at_ = model_.tick();
            return true;
        }
        return std::any_of(slots_.begin(), slots_.end(),
                           [this](const Slot& slot) { return slot.busy && slot.submitted < ill_at_; });
    }

    // A block that is at rest changes on one leg, while all are well.
    void rot(Life& life) {
        const bool failing = any_failing();
        if (failing || !mirror_.checksums || !rots_ || !chance(8) || life.volume->health().state != "ok") {
            return;
        }
        const auto block = static_cast<std::uint32_t>(random_() % blocks);
        const std::uint64_t offset = block * block_bytes;
        const bool rests = std::all_of(media_.begin(), media_.end(), [&](const auto& medium) {
            return life.kernel.at_rest(medium->descriptor, offset, block_bytes);
        });
        const std::size_t leg = random_() % media_.size();
        const Medium& medium = *media_[leg];
        if (!rests || in_use(block) || any_rot(block) || !is_stored(block)) {
            return;
        }
        const std::uint32_t sector = static_cast<std::uint32_t>(random_() % data_sectors);
        std::uint64_t words[sector_bytes / 8];
        std::fill(std::begin(words), std::end(words), rotten);
        EK_CHECK(pwrite(medium.descriptor, words, sizeof(words),
                        static_cast<off_t>(offset + sector * sector_bytes)) == sector_bytes,
                 "a medium rots");
        rotted_.emplace_back(leg, block);
        critical_ = true;
        ++tally_.rotted;
    }

    std::size_t legs_dead() const {
        return static_cast<std::size_t>(
            std::count_if(media_.begin(), media_.end(), [](const auto& medium) { return medium->dead; }));
    }

    // Whether a leg may not go. While legs may differ after a crash, losing the one that is read loses what
    // only it had, and after a power cut so it does until the others have flushed what they got from it: two
    // faults. While a block has rotted on one leg the others have to be there.
    bool is_fragile(const Life& life) {
        const bool differ = life.detail("unequal_bytes") != "0";
        flushed_since_cut_ = flushed_since_cut_ || (!differ && life.detail("dirty_bytes") == "0");
        return differ || !flushed_since_cut_ || !rotted_.empty();
    }

    void disturb(Life& life) {
        look_for_rot();
        rot(life);
        if (chance(40)) {
            grow_media(&life);
        }
        if (chance(25)) {
            const std::uint64_t before = life.volume->describe().size_bytes;
            life.volume->command({"grow", {}}, [this, before, &life](base::Result<void> result) {
                if (result.ok() && life.volume->describe().size_bytes <= before) {
                    violate("it is said to have grown, and has not");
                }
                tally_.growths += result.ok() ? 1 : 0;
            });
        }
        for (std::size_t i = 0; i < media_.size(); ++i) {
            const std::string reason = life.detail("leg." + Life::name_of_leg(i) + ".reason");
            tally_.too_small += reason.find("since the volume has grown") != std::string::npos ? 1 : 0;
        }
        look_at_size(life);
        use_new_blocks(life);
        const bool fragile = is_fragile(life);
        if (!fragile && chance(25)) {
            Medium& medium = *media_[random_() % media_.size()];
            if (chance(3)) {
                medium.flaky = medium.flaky == 0 ? 8 : 0;
            } else if (!medium.dead && (legs_dead() + 1 < media_.size() || chance(8))) {
                medium.dead = true;
                ++tally_.losses;
            }
        }
        if (chance(20)) {
            const std::size_t index = random_() % media_.size();
            media_[index]->dead = false;
            media_[index]->flaky = 0;
            ask(life, "attach", index);
            ++tally_.returns;
        }
        if (!fragile && life.serves() && chance(60)) {
            ask(life, "detach", random_() % media_.size());
        }
        if (chance(40)) {
            const bool late = chance(2);
            const std::size_t one = random_() % (2 * media_.size());  // beyond them: all
            for (std::size_t i = 0; i < media_.size(); ++i) {
                media_[i]->late = one == i || one >= media_.size() ? late : media_[i]->late;
            }
        }
        if (chance(50)) {
            life.volume->command({"scrub", {{"repair", "yes"}}}, [](base::Result<void>) {});
        }
    }

    void ask(Life& life, const char* verb, std::size_t leg) {
        life.volume->command({verb, {{"leg", Life::name_of_leg(leg)}}}, [](base::Result<void>) {});
    }

    // --- the host

    void forget_requests() {
        for (Slot& slot : slots_) {
            if (slot.busy && slot.counts) {
                for (const auto& place : slot.places) {
                    model_.ended(place, model_.tick(), false, false);
                }
                if (!slot.places.empty()) {
                    note_change(slot, model_.tick(), false);
                }
                slot.counts = false;
            }
        }
        doubt_what_is_not_stored();
    }

    void send_random(Life& life) {
        const auto free =
            std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return !slot.busy; });
        if (free == slots_.end()) {
            return;
        }
        static constexpr Action actions[] = {Action::read,  Action::read,  Action::write,       Action::write,
                                             Action::write, Action::flush, Action::write_zeroes};
        Slot& slot = *free;
        const std::uint32_t count = 1 + static_cast<std::uint32_t>(random_() % request_blocks_max);
        const auto first = static_cast<std::uint32_t>(random_() % (blocks_ - count + 1));
        Action action = actions[random_() % std::size(actions)];
        action = action == Action::flush && !flushes_ ? Action::write : action;
        bool rotted = false;
        for (std::uint32_t block = first; block < first + count && mirror_.checksums; ++block) {
            rotted = rotted || any_rot(block);
        }
        // A write that a power cut tears over what rotted would be two faults in one block.
        send(life, slot, rotted ? Action::read : action, first, count);
    }

    void send(Life& life, Slot& slot, Action action, std::uint32_t first, std::uint32_t count,
              std::uint32_t bears = 0) {
        slot.busy = slot.counts = true;
        slot.bears = bears;
        slot.action = action;
        slot.offset = std::uint64_t{first} * block_bytes;
        slot.length = action == Action::flush ? 0 : std::uint64_t{count} * block_bytes;
        slot.data = slot.memory.data();
        slot.force_unit_access =
            bears != 0 || (forces_ && action != Action::read && action != Action::flush && chance(4));
        slot.value = action == Action::write ? ++values_ : 0;
        slot.places.clear();
        slot.submitted = model_.tick();
        if (action == Action::write) {
            for (std::size_t at = 0; at < slot.length; at += 8) {
                std::memcpy(slot.data + at, &slot.value, 8);
            }
        }
        if (action == Action::write || action == Action::write_zeroes) {
            for (std::uint32_t sector = 0; sector < count * data_sectors; ++sector) {
                slot.places.push_back(
                    model_.submitted(first * data_sectors + sector, slot.value, slot.submitted));
            }
        }
        slot.done = [](block::Request& request, Status status) {
            auto& self = static_cast<Slot&>(request);
            self.busy = false;
            if (self.counts) {
                self.counts = false;
                self.round->answered(self, status);
            }
        };
        life.volume->submit(slot);
    }

    void answered(Slot& slot, Status status) {
        const bool ok = status == Status::ok;
        ++(ok ? tally_.acknowledged : tally_.failed);
        const auto moment = model_.tick();
        for (const auto& place : slot.places) {
            model_.ended(place, moment, ok, slot.force_unit_access);
        }
        if (!slot.places.empty()) {
            note_change(slot, moment, ok && slot.force_unit_access);
        }
        if (ok && slot.bears != 0) {
            blocks_ = slot.bears;
        }
        if (ok && slot.action == Action::flush) {
            model_.flushed(slot.submitted);
            flushed_ = std::max(flushed_, slot.submitted);
        }
        if (ok && slot.action == Action::read) {
            ++tally_.reads;
            each_sector(slot, [&](std::uint32_t sector, std::uint64_t value) {
                if (!model_.may_be_read(sector, value, slot.submitted)) {
                    violate("sector " + std::to_string(sector) + " reads " + std::to_string(value) +
                            ", which is not its content");
                }
            });
        }
    }

    template <typename Check>
    void each_sector(Slot& slot, Check check) {
        for (std::uint64_t at = 0; at < slot.length && violations_.empty(); at += sector_bytes) {
            std::uint64_t words[sector_bytes / 8];
            std::memcpy(words, slot.data + at, sector_bytes);
            const auto sector = static_cast<std::uint32_t>((slot.offset + at) / sector_bytes);
            if (std::any_of(std::begin(words), std::end(words),
                            [&](auto word) { return word != words[0]; })) {
                violate("sector " + std::to_string(sector) + " is a mixture");
            }
            check(sector, words[0]);
        }
    }

    // After a power cut: whatever is found must be allowed, and from then on it is the content.
    void look_at_everything(Life& life) {
        after_cut_ = false;
        // More than once: what was seen must be seen again, also before legs that differ were made equal.
        for (std::uint32_t look = 0; look < 3 * blocks_ && violations_.empty(); ++look) {
            const auto block = look < blocks_ ? look : static_cast<std::uint32_t>(random_() % blocks_);
            testing::TestRequest request;
            request.length = block_bytes;
            request.offset = std::uint64_t{block} * block_bytes;
            Slot& slot = slots_[0];
            request.data = slot.data = slot.memory.data();
            life.volume->submit(request);
            for (int i = 0; i < 1'000'000 && request.completed == 0; ++i) {
                run_for(life, 100 * base::microsecond);
            }
            if (request.completed == 0 || request.status != Status::ok) {
                violate("block " + std::to_string(block) + " cannot be read after a power cut");
                if (request.completed == 0) {
                    life.volume->cancel(request);
                    run_for(life, base::second);
                }
                return;
            }
            slot.offset = request.offset;
            slot.length = block_bytes;
            each_sector(slot, [&](std::uint32_t sector, std::uint64_t value) {
                if (!model_.may_be_on_medium(sector, value)) {
                    violate("sector " + std::to_string(sector) + " holds " + std::to_string(value) +
                            " after a power cut: what was durable is lost");
                }
                model_.found(sector, value);
            });
        }
    }

    // All legs are there again: they become equal, and hold what was acknowledged.
    void converge(Life& life) {
        for (std::size_t i = 0; i < media_.size(); ++i) {
            media_[i]->dead = false;
            media_[i]->flaky = 0;
            media_[i]->late = false;
            media_[i]->grow_to(stages - 1);
            (void)life.rig.device(Life::name_of_leg(i)).resize(std::nullopt);
        }
        for (int second = 0; second < 60; ++second) {
            for (std::size_t i = 0; i < media_.size(); ++i) {
                ask(life, "attach", i);
            }
            run_for(life, base::second);
            const bool idle =
                std::none_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.busy; });
            if (idle && life.volume->health().state == "ok" && life.detail("dirty_bytes") == "0") {
                break;
            }
        }
        if (life.volume->health().state != "ok" || life.detail("dirty_bytes") != "0") {
            violate("the legs do not become equal: " + life.volume->health().state + ", " +
                    life.volume->health().reason + ", dirty " + life.detail("dirty_bytes"));
            return;
        }
        for (const Slot& slot : slots_) {
            if (slot.busy) {
                violate("a request is never answered");
                return;
            }
        }
        if (mirror_.checksums) {
            life.volume->command({"scrub_stop", {}}, [](base::Result<void>) {});
            for (int second = 0; second < 60 && life.detail("scrub.state") != "idle"; ++second) {
                run_for(life, base::second);
            }
            const std::string runs = life.detail("scrub.runs");
            life.volume->command({"scrub", {{"repair", "yes"}}}, [](base::Result<void>) {});
            for (int second = 0; second < 60 && life.detail("scrub.runs") == runs; ++second) {
                run_for(life, base::second);
            }
            testing::TestRequest flush;
            flush.action = Action::flush;
            life.volume->submit(flush);
            for (int second = 0; second < 60 && flush.completed == 0; ++second) {
                run_for(life, base::second);
            }
            EK_CHECK(flush.completed == 1, "what was mended is flushed");
        }
        look_at_size(life);
        const std::uint64_t data_bytes = told_bytes_;
        std::vector<std::byte> contents[8];
        for (std::size_t i = 0; i < media_.size(); ++i) {
            contents[i].resize(data_bytes);
            EK_CHECK(pread(media_[i]->descriptor, contents[i].data(), data_bytes, 0) ==
                         static_cast<ssize_t>(data_bytes),
                     "a medium is read");
            if (contents[i] != contents[0]) {
                violate("legs differ in the end");
            }
        }
        for (std::uint32_t sector = 0; sector < blocks_ * data_sectors && violations_.empty(); ++sector) {
            std::uint64_t value = 0;
            std::memcpy(&value, contents[0].data() + std::size_t{sector} * sector_bytes, 8);
            if (!model_.may_be_read(sector, value, model_.tick())) {
                violate("sector " + std::to_string(sector) + " holds " + std::to_string(value) +
                        " in the end");
            }
        }
    }

    std::uint64_t seed_;
    Tally& tally_;
    std::mt19937_64 random_;
    std::mt19937_64 faults_;
    DurabilityModel model_;
    std::vector<std::unique_ptr<Medium>> media_;
    block::MirrorSpec mirror_;
    std::vector<std::byte> memory_;
    bool rots_ = false;
    bool critical_ = false;          // a death just now may show more than others
    bool forces_ = true;             // writes with forced unit access
    bool flushes_ = true;            // now and then
    std::uint64_t known_bytes_ = 0;  // that the mirror is told when it is made
    std::uint64_t told_bytes_ = 0;   // that the host has seen
    std::uint32_t blocks_ = blocks;  // that it uses
    bool after_cut_ = false;
    bool flushed_since_cut_ = true;
    std::uint64_t values_ = 0;
    std::array<Slot, depth> slots_;
    std::array<DurabilityModel::Moment, blocks_of(stages - 1)>
        changed_;                          // when the last change of a block ended
    DurabilityModel::Moment ill_at_ = 0;   // when a medium was dead or flaky last
    DurabilityModel::Moment flushed_ = 1;  // when the last flush that succeeded was submitted
    std::vector<std::pair<std::size_t, std::uint32_t>> rotted_;  // leg, block
    std::vector<std::string> violations_;
};

std::uint64_t number(const char* variable, std::uint64_t otherwise) {
    const char* const text = std::getenv(variable);
    return text != nullptr && *text != 0 ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

TEST_CASE(
    "a mirror loses nothing and mixes nothing, whatever happens to its legs, its process and its power") {
    const std::uint64_t seed = number("KEEL_SEED", std::random_device{}());
    const std::uint64_t rounds = number("KEEL_ROUNDS", 60);
    std::printf("mirror: KEEL_SEED=%llu KEEL_ROUNDS=%llu\n", static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(rounds));
    std::fflush(stdout);
    Tally tally;
    for (std::uint64_t round = 0; round < rounds; ++round) {
        CAPTURE(seed + round);
        const auto violations = Round(seed + round, tally).run();
        for (const std::string& violation : violations) {
            FAIL_CHECK("KEEL_SEED=" << seed + round << " KEEL_ROUNDS=1: " << violation);
        }
        if (!violations.empty()) {
            break;
        }
    }
    std::printf(
        "%llu cuts, %llu deaths, %llu legs lost, %llu taken back, %llu hidden at power on, "
        "%llu times rightly not served, %llu acknowledged, %llu failed, %llu reads, %llu blocks rotted, %llu "
        "times a successor went on without a leg, %llu media grown, %llu times the volume, %llu times cut "
        "short, a leg found too small %llu times\n",
        static_cast<unsigned long long>(tally.cuts), static_cast<unsigned long long>(tally.deaths),
        static_cast<unsigned long long>(tally.losses), static_cast<unsigned long long>(tally.returns),
        static_cast<unsigned long long>(tally.hidden), static_cast<unsigned long long>(tally.refusals),
        static_cast<unsigned long long>(tally.acknowledged), static_cast<unsigned long long>(tally.failed),
        static_cast<unsigned long long>(tally.reads), static_cast<unsigned long long>(tally.rotted),
        static_cast<unsigned long long>(tally.witnessed), static_cast<unsigned long long>(tally.grown_media),
        static_cast<unsigned long long>(tally.growths), static_cast<unsigned long long>(tally.unfinished),
        static_cast<unsigned long long>(tally.too_small));
    if (rounds >= 30) {
        CHECK(tally.cuts > 0);
        CHECK(tally.deaths > 0);
        CHECK(tally.losses > 0);
        CHECK(tally.returns > 0);
        CHECK(tally.refusals > 0);
        CHECK(tally.reads > 0);
        CHECK(tally.rotted > 0);
        CHECK(tally.witnessed > 0);
        CHECK(tally.growths > 0);
        CHECK(tally.unfinished > 0);
        CHECK(tally.too_small > 0);
    }
}
