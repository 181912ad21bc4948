// A volume of which every leg has all data: reads come from one leg, writes go to all that are up.
//
// What holds at every moment:
//  - Before a write reaches any leg, the intent of its regions is on all legs that are up (region_map.h).
//  - Before a write is acknowledged, every leg that lacks it is recorded as stale on all legs that are up.
//  - A leg that was away becomes up only after it has everything, has flushed it, and a leg that was up
//  before
//    has recorded that.
//  - Nobody reads from a leg that is not up; of regions in which legs that are up may differ (after a crash),
//    one leg alone is read until the others were made equal to it.
//
// Files: read_leg.cc what a leg holds · assemble.cc which legs may be served from · start.cc from there to a
// volume that is served · membership.cc legs come and go · host_requests.cc, mirror_read.cc, mirror_write.cc
// the host's requests · leg_requests.cc · table.cc, map_writer.cc, sums_io.cc what the legs carry ·
// examine.cc which leg is right · resync.cc · scrub.cc · grow.cc · verbs.cc what can be asked of it ·
// status.cc.
//
// A write is copied before it goes to a leg that does not take it at once (see leg_io.h); with more than 64
// MiB of those under way it goes out of the host's memory, and then is acknowledged only when a leg that is
// being left has let go of it.
//
// Verbs (Device::command): detach {leg} · attach {leg, force} · invalidate {leg} · mark_clean {leg} ·
// grow · add_leg {device, force} · remove_leg {leg} · replace_leg {leg, device, force} · scrub {repair} ·
// scrub_stop · set_rate {bytes_per_second}.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/kinds.h"
#include "block/mirror/checksums.h"
#include "block/mirror/extent_lock.h"
#include "block/mirror/format.h"
#include "block/mirror/leg_io.h"
#include "block/mirror/region_map.h"
#include "block/mirror/verdict.h"
#include "block/mirror/witness_memory.h"

namespace block::mirror {

enum class LegState : std::uint8_t {
    absent,     // not reachable, or nothing is known of it yet
    reading,    // its superblock is being read
    found,      // read; what becomes of it is decided when the volume starts
    refused,    // holds something else
    diverged,   // went on without the others
    stale,      // misses what the map says
    joining,    // gets the table and the map, before any data
    resyncing,  // gets all writes, and what it misses is copied to it
    promoting,  // has everything; that is being recorded
    up,
    leaving,  // waits for its last requests, then goes
};
const char* name_of(LegState state);
Uuid new_uuid();

// How long a start that could go on waits for legs that are being read.
inline constexpr base::Nanoseconds patience = 2 * base::second;

struct Leg {
    Claim claim;
    std::string name;
    LegState state = LegState::absent;
    std::string reason;  // of its state, for people
    int slot = -1;       // in the table
    Uuid uuid{};
    std::uint64_t bytes = 0;  // of its device when it was read; its superblocks are at their end
    Layout layout;
    std::optional<Superblock> found;
    bool empty = false;             // read: zeroes where content would be
    const char* strange = nullptr;  // read: what there is instead of a superblock of this volume
    bool found_nothing = false;     // read: no superblock of this volume
    std::uint32_t ends_tried = 0;   // of the slots in the table
    std::uint64_t searched_to = 0;  // for superblocks
    bool newcomer = false;          // by command, and not a leg yet
    std::uint64_t recorded = 0;     // the end that its superblocks are known to have
    bool came_back = false;         // while the volume grows; it is looked at after that
    struct Range {
        std::uint64_t offset;
        std::uint64_t length;
    };
    std::vector<Range> left;  // where it had superblocks and records
    std::uint64_t sequence = 0;
    std::uint64_t agreed = 0;  // the last commit that it recorded; 0: none that is known
    std::uint64_t next = 0;    // a commit that it may have recorded since

    bool detached = false;    // by command: not taken back on its own
    bool wanted = false;      // by command: taken back although the table calls it detached
    bool forced = false;      // by command: whatever it holds may be overwritten, or is to be believed
    bool join_later = false;  // once its last requests have ended
    bool map_needed = false;  // the next batch brings it the whole map
    bool map_written = false;
    bool table_written = false;
    bool flushing = false;     // before it is promoted
    std::uint64_t losses = 0;  // Device::losses, as it was seen last
    Leg* replaces = nullptr;   // leaves when this one is up
    CommandDone waiter;        // of attach and its like
    // Stale, and not by command: it is tried again then.
    base::Nanoseconds failed_at = 0;
    base::Nanoseconds retry_at = 0;
    base::Nanoseconds retry_after = 0;

    LegIo* first_io = nullptr;
    LegIo* last_io = nullptr;
    std::uint32_t in_flight = 0;
    std::uint64_t next_sequential = 0;
    std::uint64_t read_errors = 0;
    std::uint64_t write_errors = 0;
    std::uint64_t repaired = 0;
    std::uint64_t corruptions = 0;  // blocks that did not have their checksum

    bool writable() const {
        return state == LegState::up || state == LegState::resyncing || state == LegState::promoting;
    }
    bool keeps_metadata() const { return writable() || state == LegState::joining; }
    std::uint32_t bit() const { return slot < 0 ? 0 : 1u << slot; }
};

class Mirror final : public Device {
  public:
    Mirror(const Environment& environment, const DeviceSpec& spec);
    ~Mirror() override;
    base::Result<void> start();

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override;
    Health health() const override;
    std::string identity() const override;
    void tell(Details& details) const override;
    std::vector<std::string> parts() const override;
    void command(const Command& command, CommandDone done) override;

  protected:
    void submit_checked(Request& request) override;
    void cancel_checked(Request& request) override;
    void closing_checked() override;
    void close_checked(std::function<void()> closed) override;

  private:
    // One request of the host, a piece at a time.
    struct Op;
    struct OpHold : ExtentHold {
        Op* op = nullptr;
    };
    struct OpList {
        Op* first = nullptr;
        Op* last = nullptr;
        void append(Op& op);
        void remove(Op& op);
        bool empty() const { return first == nullptr; }
    };
    struct Op {
        Request* above = nullptr;
        std::uint64_t done_bytes = 0;
        std::uint64_t offset = 0;  // of the piece
        std::uint64_t length = 0;
        OpHold hold;
        RegionRange regions{};
        bool counted = false;  // among the writers of its regions
        OpList* list = nullptr;
        Op* next = nullptr;
        Op* previous = nullptr;
        std::uint32_t outstanding = 0;
        std::uint32_t sent = 0;  // masks by slot
        std::uint32_t ok = 0;
        std::uint32_t alive_failures = 0;  // failed there, though the leg answers
        std::uint32_t tried = 0;
        Status failure = Status::ok;
        LegIo* reading = nullptr;
        bool cancelled = false;
        std::byte* data() const { return above->data == nullptr ? nullptr : above->data + done_bytes; }
    };
    // A copy of a piece from leg to leg, or a comparison.
    struct Lane;
    using LaneStep = void (Mirror::*)(Lane& lane);
    using LaneUnread = void (Mirror::*)(Lane& lane, Leg& leg, Status status);
    struct LaneHold : ExtentHold {
        Lane* lane = nullptr;
    };
    struct Lane {
        LaneHold hold;
        Mirror* mirror = nullptr;
        std::uint64_t offset = 0;
        std::uint64_t length = 0;
        std::uint32_t targets = 0;
        std::uint32_t tried = 0;
        std::uint32_t outstanding = 0;
        std::uint32_t failed = 0;
        bool busy = false;
        bool source_failed = false;
        base::Nanoseconds begun = 0;
        std::uint64_t epoch = 0;
        Buffer* buffer = nullptr;
        Buffer* others[legs_max] = {};  // scrub: what each leg has
        std::uint32_t read_ok = 0;
        std::uint32_t read_sent = 0;
        Leg* source = nullptr;
        Op* op = nullptr;                 // of the host, that waits for the examination
        bool repair = true;               // what is wrong is written
        bool waits_for_pages = false;     // of checksums
        std::vector<std::uint8_t> wrong;  // for each block the slots whose legs must be written
        std::uint64_t different = 0;      // blocks that were not the same everywhere
        std::uint64_t mended = 0;
        std::uint64_t hopeless = 0;   // blocks that are corrupt on every leg
        LaneUnread unread = nullptr;  // while all legs are read
        LaneStep all_read = nullptr;
        LaneStep ended = nullptr;
    };
    // A group of pages of checksums that is being read.
    struct Load {
        std::uint64_t group = 0;
        std::uint64_t epoch = 0;
        std::uint64_t growths = 0;
        std::uint32_t outstanding = 0;
        std::uint32_t asked = 0;
        std::uint32_t ok = 0;
        Buffer* tables[legs_max] = {};
    };
    // See grow.cc.
    struct Growth {
        enum class Phase : std::uint8_t { idle, copying, settling, writing, recording, cleaning, ending };
        Phase phase = Phase::idle;
        Geometry geometry;         // what it becomes
        std::uint64_t before = 0;  // bytes of data
        std::uint32_t slots = 0;   // of the legs that are up
        std::array<Layout, legs_max> layouts{};
        std::uint64_t copied = 0;  // of the checksums
        bool copying_piece = false;
        std::uint32_t outstanding = 0;
        std::uint64_t generation = 0;  // how often it has grown
        std::string trouble;           // why it does not grow
        CommandDone waiter;
        bool active() const { return phase != Phase::idle; }
        bool switched() const { return phase == Phase::recording || phase == Phase::cleaning; }
    };
    struct Repair {
        Leg* leg;
        std::uint64_t offset;
        std::uint64_t length;
    };

    // mirror.cc
    base::Result<Leg*> add_leg_object(const std::string& device);
    Leg* leg_named(const std::string& name);
    Leg* leg_of_slot(std::uint32_t slot);
    std::uint32_t mask_of(LegState state) const;
    std::uint32_t writable_mask() const;
    std::uint32_t stale_mask() const;
    std::uint32_t up_count() const;
    void describe_from_legs();
    bool read_only() const { return spec_.read_only; }
    // Whether something has to be made equal, or its checksums to be found.
    bool in_doubt() const { return map_.unequal_regions() != 0 && (sums_.enabled() || up_count() > 1); }

    // leg_requests.cc
    void ask(Leg& leg, const Wish& wish, Ended ended);
    void ask_io(Leg& leg, const Wish& wish, Ended ended, LegIo** place);
    static void io_done(Request& request, Status status);
    void abandon(Leg& leg);
    void leg_changed(Leg& leg);
    void leg_ran_dry(Leg& leg);
    void answer(Leg& leg, base::Result<void> result);
    void retry_soon();
    void retry_legs();
    void retry_later(Leg& leg);

    // host_requests.cc
    Op& take_op(Request& request);
    void begin(Op& op);
    void end_op(Op& op, Status status);
    void park(Op& op);
    void park_or_fail(Op& op);
    void run_parked();
    void finish_close();

    // read_leg.cc
    void begin_reading(Leg& leg);
    void superblocks_read(Leg& leg, Buffer& buffer, Status status);
    std::optional<std::uint64_t> search_from(const Leg& leg) const;
    void search_superblocks(Leg& leg);
    void search_piece(Leg& leg, const Buffer& buffer, std::uint64_t length);
    void search_old_ends(Leg& leg);
    void found_by_search(Leg& leg);
    void not_of_this_volume(Leg& leg);
    void content_read(Leg& leg, Buffer& buffer, Status status);
    void leg_read(Leg& leg);
    void refuse(Leg& leg, const std::string& reason);

    // assemble.cc
    void try_start();

    // start.cc
    void try_create();
    void read_maps();
    void maps_read();
    void choose_source();
    void serve();

    // membership.cc
    Superblock current_table() const;
    void welcome(Leg& leg);
    bool bind_slot(Leg& leg);
    bool carry_superblock(Leg& leg);
    std::optional<Layout> layout_for(const Leg& leg) const;
    void join(Leg& leg, bool everything);
    void fail_leg(Leg& leg, const std::string& reason);
    void lose(const std::string& reason);

    // table.cc
    void table_changed();
    void beat_witness();
    void commit();
    void commit_to(std::uint32_t slots);
    void commit_reached();
    void committed();
    void commit_settled();
    bool settled() const { return durable_version_ == wanted_version_; }

    // map_writer.cc
    void schedule_batch();
    void run_batch();
    void batch_done();
    void sweep();
    void sweep_flushed();
    void restart_sweep_timer();

    // mirror_read.cc
    void begin_read(Op& op);
    Leg* choose_leg(std::uint64_t offset, std::uint64_t length, std::uint32_t except);
    void read_ended(Op& op, Leg& leg, Status status);
    void want_repair(Leg& leg, std::uint64_t offset, std::uint64_t length);
    void repair_next();
    void repaired(Lane& lane);

    // mirror_write.cc
    void begin_change(Op& op);
    void extent_held(Op& op);
    void send_change(Op& op);
    void change_ended(Op& op, Leg& leg, Status status);
    void finish_change(Op& op);
    void release_piece(Op& op);
    void begin_flush(Op& op);
    void finish_op(Op& op, Status status);
    bool judge_failures(Op& op);

    // resync.cc
    void kick_resync();
    void resync_step();
    bool next_region();
    void start_piece(Lane& lane);
    void copy_piece(Lane& lane);
    void piece_read(Lane& lane, Leg& leg, Status status);
    void piece_written(Lane& lane, Leg& leg, Status status);
    void lane_done(Lane& lane);
    void disturb_region(std::uint32_t region);
    void resync_piece_ended(Lane& lane);
    void region_copied();
    void promote_ready();
    void retry_failed_regions();
    std::uint32_t needs(std::uint32_t region) const;
    std::uint64_t resync_left() const;

    // scrub.cc
    void start_scrub(bool repair);
    void stop_scrub();
    void scrub_step();
    void scrub_read(Lane& lane);
    void unread_in_scrub(Lane& lane, Leg& leg, Status status);
    void scrub_compare(Lane& lane);
    void scrub_piece_ended(Lane& lane);

    // examine.cc
    void examine_for(Op& op);
    void next_examination();
    void examine(Lane& lane);
    void read_all_legs(Lane& lane, std::uint32_t slots, LaneUnread unread, LaneStep all_read);
    void unread_in_examination(Lane& lane, Leg& leg, Status status);
    void examined(Lane& lane);
    void judge_block(Lane& lane, std::uint64_t at);
    void mend(Lane& lane);
    void mend_run(Lane& lane, Leg& leg, std::uint64_t at, std::uint64_t length);
    void host_examined(Lane& lane);

    // sums_io.cc
    bool pages_here(Op& op);
    void load_pages(std::uint64_t offset, std::uint64_t length);
    void pages_loaded(Load& load);
    void pages_arrived();
    void join_sums(Op& op);
    void schedule_sums();
    void run_sums();
    void write_sums_page(Leg& leg, std::uint64_t offset, Buffer& buffer);
    void sums_written();

    // grow.cc
    void move_superblocks_of(Leg& leg);
    void grow(CommandDone done);
    void continue_growth();
    void disturb_growth(const std::string& reason);
    void copy_sums();
    void sums_piece_read(Leg& leg, Buffer& buffer, Status status);
    void sums_piece_ended();
    void write_grown_map();
    void doubt_new_regions(RegionMap& map) const;
    void grown_map_written();
    void growth_recorded();
    void clean_piece();
    void end_growth();
    void abandon_growth(const std::string& reason);
    bool growth_holds_records() const;
    bool growth_copies_to(std::uint32_t slot) const;

    // verbs.cc
    void detach(Leg& leg, CommandDone done);
    void attach(Leg& leg, bool force, CommandDone done);
    void invalidate(Leg& leg, CommandDone done);
    void mark_clean(Leg& leg, CommandDone done);
    void remove_leg(Leg& leg, CommandDone done);
    void leave(Leg& leg);
    void when_settled(CommandDone done);

    Environment environment_;
    DeviceSpec spec_;
    Buffers buffers_;
    std::vector<std::unique_ptr<Leg>> legs_;
    Geometry geometry_;
    std::array<Superblock::Slot, legs_max> table_{};
    std::uint64_t events_ = 0;
    std::uint64_t commit_id_ = 0;
    std::uint64_t previous_id_ = 0;
    std::uint64_t start_events_ = 0;  // of the superblock that the volume was started from
    std::optional<Witness> witness_;
    WitnessMemory witness_memory_;
    RegionMap map_;
    Checksums sums_;
    ExtentLock extents_;

    bool serving_ = false;
    bool starting_ = false;
    bool ever_served_ = false;
    bool created_ = false;     // this start makes the volume
    std::string waiting_for_;  // why it does not serve
    bool stuck_ = false;       // it will not serve before something changes
    bool split_ = false;       // legs have diverged
    bool foreign_ = false;
    base::Nanoseconds patient_until_ = 0;  // legs that are being read are waited for until then
    Leg* source_ = nullptr;

    std::deque<Op> ops_;
    std::vector<Op*> free_ops_;
    OpList parked_;
    OpList waiting_extent_;
    OpList waiting_commit_;
    OpList joining_;        // wait for the next batch of map pages
    OpList in_batch_;       // wait for the one under way
    OpList waiting_pages_;  // of checksums, to be read
    OpList waiting_examination_;
    OpList joining_sums_;  // wait for the next batch of pages of checksums
    OpList in_sums_batch_;
    std::uint32_t host_in_flight_ = 0;
    base::Nanoseconds host_seen_ = 0;
    std::deque<LegIo> ios_;
    std::vector<LegIo*> free_ios_;
    std::uint32_t ios_in_flight_ = 0;
    std::uint32_t turn_ = 0;

    std::uint64_t wanted_version_ = 0;
    std::uint64_t durable_version_ = 0;
    std::uint64_t commit_version_ = 0;
    std::uint64_t commit_events_ = 0;
    bool committing_ = false;
    std::uint32_t commit_outstanding_ = 0;
    std::uint32_t commit_ok_ = 0;
    std::uint32_t commit_sent_ = 0;
    std::array<std::uint64_t, legs_max> commit_bytes_{};  // where each leg's superblocks end in it
    std::uint32_t commit_old_up_ = 0;
    std::uint32_t commit_promoting_ = 0;
    std::uint32_t commit_later_ = 0;
    std::array<Superblock::Slot, legs_max> commit_table_{};
    std::uint64_t epoch_ = 0;  // grows when the volume is lost: what began before counts no more
    std::uint64_t commit_epoch_ = 0;
    std::uint64_t batch_epoch_ = 0;
    std::uint64_t sweep_epoch_ = 0;
    std::vector<std::pair<std::uint64_t, CommandDone>> settling_;

    std::vector<Op*> batch_ops_;  // of the batch that just ended
    bool batching_ = false;
    std::uint32_t batch_outstanding_ = 0;
    std::uint32_t batch_sent_ = 0;
    std::uint32_t batch_failed_ = 0;
    Status batch_failure_ = Status::ok;
    std::uint32_t batch_whole_ = 0;  // slots that got all pages in it

    bool sweeping_ = false;
    std::uint32_t sweep_outstanding_ = 0;
    bool sweep_ok_ = false;
    std::uint32_t maps_outstanding_ = 0;

    static constexpr std::size_t lanes_max = 4;
    Lane lanes_[lanes_max];
    std::uint32_t region_ = 0;  // being resynced
    bool region_open_ = false;
    bool any_failed_ = false;
    bool region_failed_ = false;       // no leg could be read there
    bool region_again_ = false;        // something changed under the copy
    std::uint64_t region_offset_ = 0;  // the next piece in it
    std::uint64_t region_end_ = 0;
    std::uint32_t region_targets_ = 0;
    Leg* region_source_ = nullptr;
    std::uint32_t lanes_busy_ = 0;
    base::Nanoseconds resync_not_before_ = 0;
    std::uint64_t rate_ = 0;
    std::uint64_t resynced_bytes_ = 0;  // since the resync began
    base::Nanoseconds resync_begun_ = 0;
    bool resync_active_ = false;
    std::vector<Repair> repairs_;
    Lane repair_lane_;

    static constexpr std::size_t examinations_max = 4;
    Lane examinations_[examinations_max];
    std::vector<std::unique_ptr<Load>> loads_;
    bool sums_writing_ = false;
    bool sweep_wants_sums_ = false;
    bool sums_for_sweep_ = false;  // the batch under way
    std::uint64_t sums_epoch_ = 0;
    std::uint32_t sums_outstanding_ = 0;
    std::vector<std::uint64_t> sums_pages_;  // of the batch under way
    std::uint64_t hopeless_ = 0;             // blocks found corrupt on every leg
    base::Nanoseconds corruption_told_ = 0;

    struct Scrub {
        bool running = false;
        bool repair = false;
        bool stopping = false;
        std::uint64_t offset = 0;
        std::uint64_t differences = 0;  // blocks
        std::uint64_t repaired = 0;
        std::uint64_t runs = 0;
        Lane lane;
    } scrub_;

    Growth growth_;

    bool closing_now_ = false;
    std::function<void()> closed_;
    reactor::MemberDeferred<&Mirror::tell_changed> changed_;  // the health is another one
    reactor::MemberDeferred<&Mirror::run_batch> batch_start_;
    reactor::MemberDeferred<&Mirror::run_sums> sums_start_;
    reactor::MemberDeferred<&Mirror::pages_arrived> arrived_;
    reactor::MemberTimer<&Mirror::sweep> sweep_timer_;
    reactor::MemberTimer<&Mirror::resync_step> resync_timer_;
    reactor::MemberTimer<&Mirror::retry_legs> retry_timer_;
    reactor::MemberTimer<&Mirror::scrub_step> scrub_timer_;
    reactor::MemberTimer<&Mirror::beat_witness> beat_timer_;  // of the witness
};

}  // namespace block::mirror
