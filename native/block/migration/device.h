// Kind `migration`: a volume that is being copied to another device while it serves.
//
// The source is the truth until the end: reads come from it, and what it answers is what hosts are told.
// Writes to what was copied go to both; a region is locked against writes while it is copied (writes that
// touch it wait), and copied only when no write to it is under way. When the destination fails, the copy
// stops for good, and hosts notice nothing; likewise at a block of the source that cannot be read, which is
// looked for in ever smaller steps, so that it can be named: a copy without it would be taken for whole. A
// device that may have lost what it had not flushed (Device::losses) makes it begin all over again. When
// all is copied, flushes and forced writes go to both as well, so that either is complete.
//
// The source's memory is not lent: what a kill left half written is written again later than what was lent
// would be sent.
//
// Verbs: set_rate {bytes_per_second}; restart {} (all over again, after a failure); prepare {} answers when
// all is copied and the destination has flushed, E_NOT_READY if something is missing: for the engine, which
// suspends the volume before.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "block/kinds.h"
#include "block/migration/copy_map.h"

namespace block::migration {

class Migration final : public Device {
  public:
    Migration(const Environment& environment, const DeviceSpec& spec, Claim source, Claim destination);
    ~Migration() override;

    // The map's memory, if there is any; starts copying.
    base::Result<void> open();

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override;
    Health health() const override;
    std::uint64_t losses() const override {
        return source_.device() != nullptr ? source_.device()->losses() : 0;
    }
    std::vector<std::string> parts() const override;
    void tell(Details& details) const override;
    void command(const Command& command, CommandDone done) override;

  protected:
    void submit_checked(Request& request) override;
    void cancel_checked(Request& request) override;
    void closing_checked() override;
    void close_checked(std::function<void()> closed) override;

  private:
    struct Child;
    struct Side : Request {
        Child* child = nullptr;
        Status status = Status::ok;
    };
    // A request above and what stands for it below.
    struct Child {
        Migration* device = nullptr;
        Request* above = nullptr;
        Side source, destination;
        std::uint32_t outstanding = 0;
        std::uint64_t first = 0, last = 0;  // regions
        bool counted = false;               // its regions know of it
        bool held = false;                  // by a region's lock
        bool doubled = false;               // sent to the destination too
        Child* next = nullptr;              // free, held or doubled
        Child* previous = nullptr;
    };
    // Copies one region at a time.
    struct Copier : Request {
        Migration* owner = nullptr;
        enum class Step : std::uint8_t { idle, draining, reading, writing } step = Step::idle;
        std::uint64_t region = 0;
        std::uint64_t place = 0;  // in the volume, of this step
        std::uint64_t step_bytes = 0;
        std::uint32_t attempts = 0;
        bool in_vain = false;  // part of it may be lost again
        std::byte* memory = nullptr;
    };
    struct Flush : Request {
        Migration* owner = nullptr;
        bool under_way = false;
    };
    struct List {
        Child* first = nullptr;
        Child* last = nullptr;
        void add(Child& child);
        void remove(Child& child);
    };
    static constexpr std::size_t copiers_max = 4;
    static constexpr std::uint64_t step_bytes = 256u << 10;

    void describe_anew();
    std::string misfit() const;
    bool copying() const { return reason_.empty() && !closing() && map_.regions() != 0; }
    std::string trouble(const char* what, std::uint64_t offset, Status status) const;
    void fail(const std::string& reason);
    base::Result<void> restart();
    void copy_from_start();
    void look_for_losses();

    Child& take_child(Request& request);
    void begin_write(Child& child);
    void send(Child& child, Side& side, Claim& claim);
    void side_done(Side& side, Status status);
    void settle(Child& child);
    void release_held();
    void send_both(Child& child);
    void put_back(Child& child);
    std::uint64_t next_region() const;
    bool locked(std::uint64_t first, std::uint64_t last) const;

    void pump();
    void begin_step(Copier& copier);
    void step_done(Copier& copier, Status status);
    void end_copy(Copier& copier);
    void measure(base::Nanoseconds now);
    void finish_close();
    void answer_prepare(Status status);

    Environment environment_;
    DeviceSpec spec_;
    Claim source_, destination_;
    CopyMap map_;
    bool has_map_ = false;
    std::string reason_;  // why it failed; empty: it did not
    bool told_complete_ = false;
    std::uint64_t losses_ = 0;  // of both, as they were seen last
    std::uint64_t rate_;        // bytes per second; 0: no limit
    base::Nanoseconds next_start_ = 0;
    std::uint64_t cursor_ = 0;
    std::byte* memory_ = nullptr;  // of the copiers; private: a dead process's reads must not arrive in ours
    Copier copiers_[copiers_max];
    reactor::MemberTimer<&Migration::pump> pace_;
    std::deque<Child> children_;
    Child* free_children_ = nullptr;
    List held_;  // in the order of arrival
    List doubled_;
    bool pumping_ = false;
    Flush flush_;
    CommandDone prepared_;
    std::function<void()> closed_;
    base::Nanoseconds window_began_ = 0;
    std::uint64_t window_copied_ = 0;  // regions, since then
    std::uint64_t bytes_per_second_ = 0;
};

}  // namespace block::migration
