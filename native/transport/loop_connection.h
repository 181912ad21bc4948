// A transport in memory: the host's side are function calls. It moves the same records through the same
// states as TCP does, without bytes on a wire, so that the NVMe layer can be tested and explained alone.
//
// Commands with data to the controller either bring it in their capsule or are asked for it: submit() with
// `later` leaves the command `receiving` until supply().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nvme/queue_pair.h"
#include "nvme/target.h"
#include "reactor/buffer_pool.h"
#include "reactor/reactor.h"

namespace transport {

// What the host gets back for a command.
struct LoopCompletion {
    wire::Cqe cqe;
    std::vector<std::byte> data;

    wire::Status status() const { return wire::status_of(cqe.status); }
    bool dnr() const { return wire::status_bits::do_not_retry.test(cqe.status); }
};

class LoopConnection final : public nvme::Connection {
  public:
    struct Options {
        std::uint32_t slot = 0;
        nvme::Endpoint endpoint{};
        nvme::TransportTraits traits{};
    };

    LoopConnection(nvme::Target& target, reactor::Reactor& reactor, reactor::BufferPool& buffers,
                   nvme::QueueRecord& record, std::span<nvme::CommandRecord> commands, Options options);
    ~LoopConnection() override = default;

    // --- the host's side -----------------------------------------------------------------------------------

    // Sends a capsule. False: the queue has no room for another command, or the connection is closed.
    bool submit(const wire::Sqe& sqe, std::span<const std::byte> data = {}, bool later = false);
    // The data of a command that was submitted `later`.
    bool supply(std::uint16_t cid, std::span<const std::byte> data);
    // The completion of a command, once.
    std::optional<LoopCompletion> take(std::uint16_t cid);
    std::size_t completions() const { return completions_.size(); }
    void close();  // from the host
    bool closed() const { return closed_; }
    // Closed, and nothing refers to the connection any more.
    bool idle() const { return idle_; }
    const std::string& reason() const { return reason_; }

    // --- restart -------------------------------------------------------------------------------------------

    // Takes over the records that another connection object left; then resume() executes what was in flight.
    bool adopt();
    void resume();

    nvme::QueuePair& queue() { return queue_; }

    // --- nvme::Connection ----------------------------------------------------------------------------------
    void respond(nvme::Command& command) override;
    void go_on_receiving(nvme::Command&) override {}  // none waits: see submit
    void disconnect(bool drain, const char* reason) override;
    const nvme::Endpoint& endpoint() const override { return options_.endpoint; }
    const nvme::TransportTraits& traits() const override { return options_.traits; }
    void queue_sized(std::uint16_t) override {}
    std::uint32_t connection_slot() const override { return options_.slot; }
    bool needs_stable_data() const override { return true; }

  private:
    void flush();
    void end();

    reactor::BufferPool& buffers_;
    Options options_;
    std::span<nvme::CommandRecord> records_;
    nvme::QueuePair queue_;
    reactor::MemberDeferred<&LoopConnection::flush> send_later_;
    std::uint64_t capsules_ = 0;
    std::vector<nvme::Command*> to_send_;
    std::vector<LoopCompletion> completions_;
    bool ending_ = false;
    bool closed_ = false;
    bool idle_ = false;
    std::string reason_;
};

}  // namespace transport
