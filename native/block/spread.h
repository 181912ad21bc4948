// The base of kinds whose bytes lie on several devices (linear, stripe): holds the claims, cuts requests at
// the borders that the kind draws, and merges what the parts can do.
//
// A request above becomes one piece per contiguous run; it ends when its last piece has ended, with the first
// failure. Pieces are made on demand and kept for ever. A volume with a part whose size is not known yet has
// size 0.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "block/kinds.h"

namespace block {

class Spread : public Device {
  public:
    Health health() const override;
    std::vector<std::string> parts() const override;
    std::uint64_t losses() const override;
    void tell(Details& details) const override;

  protected:
    struct Part {
        Claim claim;
        std::uint64_t start = 0;   // in its device
        std::uint64_t wanted = 0;  // as specified; 0: what there is
        std::uint64_t size = 0;    // of which the volume uses so much
        std::string trouble;       // why it cannot be what it must be
        Device& device() const { return *claim.device(); }
    };
    // What lies together, from an offset of the volume on.
    struct Run {
        std::size_t part;
        std::uint64_t offset;  // in the part's device
        std::uint64_t length;
    };

    Spread(const Environment& environment, const DeviceSpec& spec);

    // Adds the part; the volume is not described anew.
    base::Result<void> add_part(const PartSpec& part);
    // Only asked for offsets below the volume's size.
    virtual Run locate(std::uint64_t offset) const = 0;
    // The volume's size, from what the parts have now; 0 while one is unknown.
    virtual std::uint64_t lay_out() = 0;
    virtual std::uint32_t optimal_io() const { return 0; }
    void describe_anew();

    void submit_checked(Request& request) override;
    void cancel_checked(Request& request) override;
    void close_checked(std::function<void()> closed) override;
    std::optional<MemoryReference> direct_read_checked(std::uint64_t offset, std::uint64_t length) override;

    Environment environment_;
    DeviceSpec spec_;
    std::vector<Part> parts_;

  private:
    struct Whole;
    struct Piece : Request {
        Whole* whole = nullptr;
        Piece* next = nullptr;
    };
    struct Whole {
        Spread* device = nullptr;
        Request* above = nullptr;
        Piece* pieces = nullptr;
        std::uint32_t outstanding = 0;
        Status status = Status::ok;
        Whole* next_free = nullptr;
    };

    void send(Whole& whole, const Part& part, std::uint64_t offset, std::uint64_t length, std::byte* data);
    void release(Whole& whole);
    void part_changed();

    std::deque<Whole> wholes_;
    std::deque<Piece> pieces_;
    Whole* free_wholes_ = nullptr;
    Piece* free_pieces_ = nullptr;
    std::string told_state_ = "ok";
};

// Whether the device `upper` is `lower` or stands on it, however far below.
bool stands_on(const Environment& environment, const std::string& upper, const std::string& lower);

// Parts begin and end here: whatever the block size and the alignment of the devices, pieces fit.
inline constexpr std::uint64_t part_alignment = limits::page_bytes;

}  // namespace block
