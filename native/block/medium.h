// What the system says of a file or block device: opening it, and its limits. Everything here happens when a
// device is made or resized, never on the way of a request.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/result.h"
#include "block/spec.h"

namespace block {

// An open file that closes with its owner.
class Descriptor {
  public:
    Descriptor() = default;
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(other.number_) { other.number_ = -1; }
    Descriptor& operator=(Descriptor&& other) noexcept;
    ~Descriptor() { reset(); }
    void reset();
    int number() const { return number_; }
    bool open() const { return number_ >= 0; }

  private:
    int number_ = -1;
};

struct Medium {
    Descriptor descriptor;
    bool direct = true;                  // O_DIRECT; otherwise the page cache stands between
    std::uint32_t memory_alignment = 1;  // of the data
    bool created = false;                // did not exist before
    std::string note;                    // for people: why it is not direct
};

// Opens the path of the specification, which must be of `type` (S_IFREG or S_IFBLK), O_DIRECT if that is
// possible with blocks of spec.block_bytes. Where it is not, buffered I/O is used, durable by RWF_DSYNC and
// fdatasync: there is no read-modify-write. E_NOT_FOUND, E_INVALID, E_IO.
base::Result<Medium> open_medium(const DeviceSpec& spec, mode_t type);

// What the queue of the block device `device` (for a file: the one below its file system) says in sysfs; the
// cautious answer where it says nothing.
struct QueueProperties {
    bool rotational = false;
    bool volatile_cache = true;
    bool can_discard = false;
};
QueueProperties queue_properties(dev_t device);

// An Error from errno: "device "x" (file): cannot open /y: No such file or directory; <remedy>".
base::Error system_error(const DeviceSpec& spec, const std::string& what, int error_number,
                         const std::string& remedy = {});

}  // namespace block
