// The block contract: what a device is (`describe`), what it does (`submit`), and the guard that checks every
// hop so that a device kind holds only its idea.
//
// The guard (not virtual) refuses what is out of range, misaligned, unsupported or written to a read-only
// device before the kind sees it, and CHECKs that a request completes once. Devices are claimed: one owner
// for writing, any number for reading only if nobody writes.
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

    // For a read that needs no copy: where the bytes already are. Nothing if the device has no such place.
    // The content is what a read at the time of use would return.
    virtual std::optional<MemoryReference> direct_read(std::uint64_t offset, std::uint64_t length) {
        (void)offset;
        (void)length;
        return std::nullopt;
    }

    // Looks at the medium again (a file that was truncated or grown, a resized block device) and tells the
    // listeners if the size changed. `bytes` asks for a new size where the kind can change it itself (ram,
    // null, file); nothing: take the medium's.
    virtual base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) = 0;

    // Stops new requests (Status::gone), waits for those in flight, releases descriptors and locks, then
    // calls `closed`. After that the object may be destroyed.
    void close(std::function<void()> closed);
    bool closing() const { return closing_; }

    // Called after the size or writability changed, on the reactor's thread. One listener per claim.
    using ChangeListener = std::function<void()>;

    // One word for people: "ok", "waiting for lock", "gone", …, and why.
    struct Health {
        std::string state = "ok";
        std::string reason;
    };
    virtual Health health() const { return {}; }

    // What the medium is, as far as it tells ("uuid.…", "nguid.…"): another one under the same address is
    // noticed. Empty: it has none, or is not known yet.
    virtual std::string identity() const { return {}; }
    virtual void tell(Details& details) const { (void)details; }
    // Answers once, from within or later. E_NOT_SUPPORTED: not a verb of this kind.
    virtual void command(const Command& command, CommandDone done);

  protected:
    friend class Claim;
    virtual void submit_checked(Request& request) = 0;
    virtual void cancel_checked(Request& request) { (void)request; }
    // Closing has begun: requests that wait for something (a lock, a timer) should end now.
    virtual void closing_checked() {}
    // Nothing is in flight any more. A kind that may complete its last request from within `submit` must call
    // `closed` later, from the reactor: the device may be destroyed by it.
    virtual void close_checked(std::function<void()> closed) { closed(); }

    // The only way a kind ends a request.
    void complete(Request& request, Status status);
    void set_description(const Description& description);

    Description description_;

  private:
    Status judge(const Request& request) const;
    void finish_close_if_idle();
    void tell_listeners();

    std::string name_;
    std::string kind_;
    Counters counters_;
    bool closing_ = false;
    std::function<void()> closed_;
    Claim* claims_ = nullptr;
};

enum class Access : std::uint8_t { read_only, read_write };

// The right to use a device; whoever exports or stacks a device holds one. Released by the destructor.
class Claim {
  public:
    // E_BUSY with the owner's name if the device is claimed in a way that excludes this one.
    static base::Result<Claim> take(Device& device, Access access, std::string owner);
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
    std::string owner_;
    Device::ChangeListener listener_;
    Claim* next_ = nullptr;
};

}  // namespace block
