// The Kernel interface with a clock of its own, a seeded order of events, faults, and power that can be cut.
//
// Descriptors are real ones. What an operation does happens when the simulation says so, at a moment of
// virtual time drawn from the seed; between submission and that moment anything else may overtake it. Time
// passes only in `wait`, at once, so a test of hours takes milliseconds.
//
// Sockets: the bytes travel through the real socket, but each attempt may be cut short.
//
// Files: a write that has completed is seen by every read, but lies in a volatile cache until `sync` or a
// durable write brings it to the real file. A power cut leaves each cached sector as it was, or as any of the
// writes since then made it, and does the same with writes still in flight: lost, torn and reordered as a
// disk may do it. After that everything fails with EIO; a new SimKernel on the same files is the machine
// after its restart.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "reactor/kernel.h"

namespace testing {

class SimKernel final : public reactor::Kernel {
  public:
    static constexpr std::uint32_t sector_bytes = 512;

    enum class Step : std::uint8_t {
        receive,
        send,
        accept,
        connect,
        read,
        write,
        durable_write,
        sync,
        allocate,
        discard,
        poll,
    };

    // What is about to happen, for whoever injects faults.
    struct Attempt {
        Step step;
        int descriptor;
        std::uint64_t offset;
        std::uint64_t length;
    };

    struct Options {
        std::uint64_t seed = 1;
        base::Nanoseconds latency_max =
            200 * base::microsecond;                 // of each operation, evenly distributed from 0
        std::uint32_t short_transfers_percent = 10;  // of sockets and files
        base::Nanoseconds start = 1'000 * base::second;
        // Asked before each step: 0, or the errno that it ends with, without effect.
        std::function<int(const Attempt&)> fault;
        // Asked when a file is written: how much longer than otherwise it takes.
        std::function<base::Nanoseconds(const Attempt&)> delay;
        // A broken disk, for tests of what is to find that out: `sync` and durable writes end well, and what
        // they promised is not so.
        bool ignores_sync = false;
        bool ignores_durable = false;
    };

    explicit SimKernel(Options options);
    ~SimKernel() override;

    // See above. Operations that are pending, and all later ones, complete with -EIO.
    void cut_power();
    bool has_power() const { return powered_; }

    // The process dies, the machine goes on: what is pending has its effect or none, and nobody is told.
    // Until `begin_process` all operations, also those, complete with -EIO, so that the dead process's
    // objects can be taken apart.
    void end_process();
    void begin_process() { process_ = true; }

    // Whether nothing of the range lies in the cache alone: then what the file holds there is what every read
    // sees, and a test that changes it plays a medium that rots.
    bool at_rest(int descriptor, std::uint64_t offset, std::uint64_t length);

    // Operations submitted and not yet completed.
    std::size_t pending() const { return pending_.size(); }
    std::uint64_t steps_done() const { return steps_done_; }

    void receive(int socket, msghdr& message, int flags, reactor::Operation& operation) override;
    void send(int socket, const msghdr& message, int flags, reactor::Operation& operation) override;
    void accept(int listener, reactor::Operation& operation) override;
    void connect(int socket, const sockaddr& address, socklen_t length,
                 reactor::Operation& operation) override;
    void read(int file, std::span<std::byte> data, std::uint64_t offset,
              reactor::Operation& operation) override;
    void write(int file, std::span<const std::byte> data, std::uint64_t offset, bool durable,
               reactor::Operation& operation) override;
    void sync(int file, reactor::Operation& operation) override;
    void allocate(int file, int mode, std::uint64_t offset, std::uint64_t length,
                  reactor::Operation& operation) override;
    void discard(int device, std::uint64_t offset, std::uint64_t length,
                 reactor::Operation& operation) override;
    void poll(int descriptor, std::uint32_t events, reactor::Operation& operation) override;
    void cancel(reactor::Operation& target) override;
    bool register_memory(std::span<std::byte>) override { return true; }
    // Without a deadline and with nothing to do it lets a millisecond pass and returns.
    void wait(base::Nanoseconds deadline) override;
    void wake() override { woken_.store(true, std::memory_order_release); }
    base::Nanoseconds now() override { return now_; }

  private:
    struct Pending {
        Step step{};
        int descriptor = -1;
        reactor::Operation* operation = nullptr;
        base::Nanoseconds due = 0;
        std::uint64_t tie = 0;  // order among those that are due
        bool cancelled = false;
        msghdr* message = nullptr;
        int flags = 0;
        std::span<std::byte> data;
        std::uint64_t offset = 0;
        std::uint64_t length = 0;
        sockaddr_storage address{};
        socklen_t address_length = 0;
    };

    using Sector = std::array<std::byte, sector_bytes>;
    // What was written to each sector since the last sync, oldest first.
    using Cache = std::map<std::uint64_t, std::vector<Sector>>;
    using Identity = std::pair<std::uint64_t, std::uint64_t>;  // device and inode

    static constexpr std::int32_t not_yet = 1 << 30;

    Pending& add(Step step, int descriptor, reactor::Operation& operation);
    bool run_due();
    std::int32_t attempt(Pending& pending);
    std::int32_t transfer_message(Pending& pending);
    std::int32_t read_file(Pending& pending);
    std::int32_t write_file(Pending& pending, bool durable);
    std::int32_t zero_file(Pending& pending);
    std::int32_t sync_file(int descriptor);
    std::uint64_t shortened(std::uint64_t length, std::uint64_t unit);
    bool chance(std::uint32_t percent) { return random_() % 100 < percent; }
    Cache& cache_of(int descriptor);
    Sector load_sector(int descriptor, const Cache& cache, std::uint64_t sector) const;
    void change(int descriptor, std::uint64_t offset, std::uint64_t length, const std::byte* data,
                bool durable);
    static void store_sector(int descriptor, std::uint64_t sector, const Sector& content);

    Options options_;
    std::mt19937_64 random_;
    base::Nanoseconds now_;
    bool powered_ = true;
    bool process_ = true;
    std::atomic<bool> woken_{false};
    std::uint64_t steps_done_ = 0;
    std::vector<std::unique_ptr<Pending>> pending_;
    std::map<Identity, Cache> caches_;
    std::map<Identity, int>
        descriptors_;  // a duplicate of ours, so that a power cut can still reach the file
};

}  // namespace testing
