// The block contract: what a device is (`describe`), what it does (`submit`), and the guard that checks every
// hop so that a device kind holds only its idea.
//
// The guard (not virtual) refuses what is out of range, misaligned, unsupported or written to a read-only
// device before the kind sees it, and CHECKs that a request completes once. Devices are claimed, whole or a
// range: one owner for writing, any number for reading only if nobody writes.
//
// The guard can hold requests back (`suspend`): they wait in it, in order, and the kind sees nothing of them.
// With that a device is exchanged for another under its users: `close_for` and `hand_over`.
//
// All functions run on the reactor's thread unless marked otherwise.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "block/request.h"

namespace block {

struct Description {
    std::uint64_t size_bytes = 0;      // a multiple of block_bytes; 0: not known yet
    std::uint32_t block_bytes = 4096;  // logical block: 512 or 4096
    std::uint32_t physical_block_bytes = 4096;
    std::uint32_t optimal_io_bytes = 0;  // 0: no preference
    bool read_only = false;
    bool volatile_cache = false;  // flush means something
    bool can_deallocate = false;
    bool deallocated_reads_zero = false;
    bool can_write_zeroes = false;  // natively; otherwise the guard answers not_supported
    bool rotational = false;
    std::uint32_t data_alignment = 1;  // what Request::data must be aligned to
    // A write completes within `submit`, takes its data from any address, and may be repeated.
    bool writes_inline = false;
};

// Memory of the server that a transport may send from without copying: `region` 0 is the data pool, others
// are given out by the engine to devices that live in memory.
struct MemoryReference {
    std::uint16_t region = 0;
    std::uint64_t offset = 0;
};

// What only one kind has to tell, for people and metrics: keys in snake_case, a repeated part's name between
// dots ("leg.left.dirty_bytes").
using Details = std::vector<std::pair<std::string, std::variant<std::string, std::uint64_t>>>;

// An operation that only one kind knows; the kind's head comment lists its verbs.
struct Command {
    std::string verb;
    std::map<std::string, std::string> arguments;
};
using CommandDone = std::function<void(base::Result<void>)>;

struct Counters {                     // since the start of this process
    std::uint64_t completed[5] = {};  // by Action
    std::uint64_t bytes[5] = {};
    std::uint64_t errors = 0;
    std::uint32_t in_flight = 0;
};

class Claim;

class Device {
  public:
    Device(std::string name, std::string kind) : name_(std::move(name)), kind_(std::move(kind)) {}
    virtual ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    const std::string& name() const { return name_; }
    const std::string& kind() const { return kind_; }
    // Constant between two calls of the resize listeners.
    const Description& describe() const { return description_; }
    const Counters& counters() const { return counters_; }
    // Who has claims on it, for people.
    std::vector<std::string> claimed_by() const;

    // The guard. Ownership of `request` goes to the device until `request.done` is called.
    void submit(Request& request);

    // Asks that `request`, which this device has, ends early (Status::aborted) if it had no effect yet. It
    // still completes exactly once.
    void cancel(Request& request);

    // Who holds requests back. Each resumes what it suspended.
    enum class Hold : std::uint8_t { operators = 1, engine = 2 };
    // Requests submitted from now on wait; those that the kind has go on.
    void suspend(Hold hold);
    void resume(Hold hold);
    bool suspended() const { return holds_ != 0; }
    bool suspended_by(Hold hold) const { return (holds_ & static_cast<std::uint8_t>(hold)) != 0; }
    // Requests that the kind has; none: the device is drained, as long as it is suspended.
    std::uint32_t inside() const { return counters_.in_flight - waiting_; }
    // Calls `drained`, once, when the kind has no request: now or later. Null: nobody wants to know any more.
    void drain(std::function<void()> drained);

    // For a read that needs no copy: where the bytes already are. Nothing if the device has no such place.
    // The content is what a read at the time of use would return.
    std::optional<MemoryReference> direct_read(std::uint64_t offset, std::uint64_t length) {
        return holds_ != 0 ? std::nullopt : direct_read_checked(offset, length);
    }
    // A write completes within `submit`, as things stand (Description::writes_inline).
    bool writes_inline() const { return description_.writes_inline && holds_ == 0; }

    // Looks at the medium again (a file that was truncated or grown, a resized block device) and tells the
    // listeners if the size changed. `bytes` asks for a new size where the kind can change it itself (ram,
    // null, file); nothing: take the medium's.
    virtual base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) = 0;

    // Stops new requests (Status::gone), waits for those in flight, releases descriptors and locks, then
    // calls `closed`. After that the object may be destroyed.
    void close(std::function<void()> closed);
    bool closing() const { return closing_; }
    // Closes it for a successor: requests that the kind ends unserved meanwhile (gone, aborted) wait too.
    // Suspended by the engine from here on. Claims stay; what the kind itself holds is released.
    void close_for_successor(std::function<void()> closed);
    // All claims, waiting requests and the operators' suspension go to `successor`, which has the same block
    // size. Nothing may be inside (drained and suspended, or closed for it).
    void hand_over(Device& successor);
    void rename(std::string name) { name_ = std::move(name); }

    // Called after the size, the writability or the availability changed, on the reactor's thread. One
    // listener per claim.
    using ChangeListener = std::function<void()>;
    // Told like the listeners, without a claim: for the engine.
    void watch(ChangeListener watcher) { watcher_ = std::move(watcher); }

    // One word for people: "ok", "waiting for lock", "gone", …, and why.
    struct Health {
        std::string state = "ok";
        std::string reason;
    };
    virtual Health health() const { return {}; }

    // What the medium is, as far as it tells ("uuid.…", "nguid.…"): another one under the same address is
    // noticed. Empty: it has none, or is not known yet.
    virtual std::string identity() const { return {}; }
    // How often writes that were acknowledged and not flushed may have been lost below, since it was made.
    // Who keeps a copy elsewhere compares it in the change listener, which is called before anything is
    // served again.
    virtual std::uint64_t losses() const { return 0; }
    virtual void tell(Details& details) const { (void)details; }
    // Names of the devices that it stands on now.
    virtual std::vector<std::string> parts() const { return {}; }
    // Answers once, from within or later. E_UNSUPPORTED: not a verb of this kind.
    virtual void command(const Command& command, CommandDone done);

  protected:
    friend class Claim;
    virtual void submit_checked(Request& request) = 0;
    virtual void cancel_checked(Request& request) { (void)request; }
    // Closing has begun: requests that wait for something (a lock, a timer) should end now.
    virtual void closing_checked() {}
    virtual std::optional<MemoryReference> direct_read_checked(std::uint64_t offset, std::uint64_t length) {
        (void)offset;
        (void)length;
        return std::nullopt;
    }
    // Nothing is in flight any more. A kind that may complete its last request from within `submit` must call
    // `closed` later, from the reactor: the device may be destroyed by it.
    virtual void close_checked(std::function<void()> closed) { closed(); }

    // The only way a kind ends a request.
    void complete(Request& request, Status status);
    void set_description(const Description& description);
    // The health is another one now: says so to who stands on it and to people.
    void tell_changed() { tell_listeners(); }

    Description description_;

  private:
    Status judge(const Request& request) const;
    void forward(Request& request);
    void wait(Request& request);
    void stop_waiting(Request& request);
    void end(Request& request, Status status);
    bool keeps(Request& request, Status status);
    void finish_if_idle();
    void tell_listeners();

    std::string name_;
    std::string kind_;
    Counters counters_;
    bool closing_ = false;
    bool keeping_ = false;      // closed for a successor
    bool ends_matter_ = false;  // somebody wants to know when nothing is inside, or requests are kept
    std::uint8_t holds_ = 0;    // bits of Hold
    std::uint32_t waiting_ = 0;
    Request* first_waiting_ = nullptr;
    Request* last_waiting_ = nullptr;
    std::function<void()> closed_;
    std::function<void()> drained_;
    ChangeListener watcher_;
    Claim* claims_ = nullptr;
};

enum class Access : std::uint8_t { read_only, read_write };

// What a claim covers. The end may lie beyond the device's: then it covers what the device grows by, too.
struct ClaimRange {
    std::uint64_t begin = 0;
    std::uint64_t end = ~std::uint64_t{0};
};

// The right to use a device or a range of it; whoever exports or stacks a device holds one. Released by the
// destructor. It follows its device when that is exchanged: `device` is always the one to use.
class Claim {
  public:
    // E_BUSY with the owner's name if the device is claimed in a way that excludes this one.
    static base::Result<Claim> take(Device& device, Access access, std::string owner, ClaimRange range = {});
    Claim() = default;
    Claim(Claim&& other) noexcept;
    Claim& operator=(Claim&& other) noexcept;
    ~Claim();

    Device* device() const { return device_; }
    Access access() const { return access_; }
    const std::string& owner() const { return owner_; }
    void on_change(Device::ChangeListener listener) { listener_ = std::move(listener); }
    void release();

  private:
    friend class Device;
    Device* device_ = nullptr;
    Access access_ = Access::read_only;
    ClaimRange range_;
    std::string owner_;
    Device::ChangeListener listener_;
    Claim* next_ = nullptr;
};

}  // namespace block
