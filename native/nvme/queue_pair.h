// A queue pair as the controller sees it, and the narrow interface between the NVMe layer and a transport.
//
// The transport owns the connection, receives capsules into command slots and moves data; the queue pair
// decides what a command means. One queue pair per connection, one reactor thread for all of a controller.
//
//   transport                                        queue pair
//   slot = take_slot(), fill record.sqe        →     Admission admit(command): direction, length, or a status
//   brings the data to the controller          →     execute(command)
//   respond(command): data and completion      ←     complete(command, status)
//   on_sent(command): slot is free again       →     release(command)
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/limits.h"
#include "nvme/command.h"
#include "reactor/data_buffers.h"
#include "reactor/reactor.h"
#include "wire/nvme.h"

namespace nvme {

class Controller;
class Target;

// What the connection is and was told; lies in the arena beside the connection's own record.
struct QueueRecord {
    std::uint32_t controller;  // slot of the controller + 1; 0: not connected yet
    std::uint16_t qid;
    std::uint16_t
        entries;  // size of the submission queue (SQSIZE + 1); before Connect: admin_queue_entries_min
    std::uint8_t flow_control_off;  // CATTR bit 2: SQHD is not reported, C2HData may carry SUCCESS
    std::uint8_t connect_done;      // the Connect response is or will be queued
    std::uint8_t reserved[6];
};
static_assert(sizeof(QueueRecord) == 16);

// Properties of a transport that commands depend on.
struct TransportTraits {
    std::uint32_t in_capsule_bytes_io = limits::in_capsule_bytes_io_default;
    std::uint32_t in_capsule_bytes_admin = limits::in_capsule_bytes_admin;
};

// Where a connection comes from and goes to, for admission, discovery and people.
struct Endpoint {
    std::string transport;       // "tcp", "loop"
    std::string address_family;  // "ipv4", "ipv6"
    std::string local_address, local_service;
    std::string peer_address, peer_service;
    bool discovery_only = false;  // accepted by a listener that serves discovery alone
};

// The transport's side. All calls on the reactor's thread.
class Connection {
  public:
    virtual ~Connection() = default;
    // The record is `done`: queue data (direction to_host and status success: data_length bytes) and the
    // response.
    virtual void respond(Command& command) = 0;
    // A command that is `receiving` waited for its buffer (allocate_to_receive): there may be one now.
    virtual void go_on_receiving(Command& command) = 0;
    // Ends the connection as soon as what is queued was sent (`drain`) or at once. Never re-entrant: the
    // queue pair hears of it later by QueuePair::disconnected.
    virtual void disconnect(bool drain, const char* reason) = 0;
    virtual const Endpoint& endpoint() const = 0;
    virtual const TransportTraits& traits() const = 0;
    // The queue's size is known (Connect was accepted).
    virtual void queue_sized(std::uint16_t entries) = 0;
    virtual std::uint32_t connection_slot() const = 0;
    // Data to the host must not change once the command completed (a digest is computed over it): memory that
    // a device lends by direct_read will not do.
    virtual bool needs_stable_data() const = 0;
};

struct Admission {
    wire::Status status{};  // success, or why the command ends here (its in-capsule data is skipped)
    bool dnr = true;
    DataDirection direction = DataDirection::none;
    bool in_capsule = false;  // the data lies in the capsule at the SGL's offset
    std::uint32_t in_capsule_offset = 0;
    std::uint32_t length = 0;        // bytes of the transfer
    std::uint32_t buffer_bytes = 0;  // data to the controller: size of its buffer if larger than the transfer
};

class QueuePair {
  public:
    QueuePair(Target& target, Connection& connection, reactor::Reactor& reactor, reactor::BufferPool& buffers,
              QueueRecord& record, std::span<CommandRecord> command_records);
    ~QueuePair();
    QueuePair(const QueuePair&) = delete;
    QueuePair& operator=(const QueuePair&) = delete;

    // --- for the transport ---------------------------------------------------------------------------------

    // Buffers are taken from these from now on; before the first command.
    void draw_from(std::shared_ptr<reactor::HostBuffers> buffers);
    reactor::HostBuffers& buffers() { return *buffers_; }
    // The buffer that record.buffer_wanted asks for, for data that the host is to be asked for. False: none
    // now, Connection::go_on_receiving will be called.
    bool allocate_to_receive(Command& command);

    // A free slot, or null: the host has more commands outstanding than the queue has entries (its fault).
    Command* take_slot();
    // Judges the command from its SQE alone; stores nothing. `capsule_data_bytes`: data bytes that the PDU
    // carries.
    Admission admit(Command& command, std::uint32_t capsule_data_bytes);
    // Whether executing this admitted command now would only copy its data somewhere, at once, without
    // waiting and without letting others go on: then it may be executed with its data where it was received,
    // before the capsule is consumed, because executing it once more does no harm.
    bool writes_inline(const Command& command) const;
    // The record is `ready`, or `free` if the command writes inline. May complete at once.
    void execute(Command& command);
    // A command that ends before execution (rejected at admission, data transfer error).
    void fail(Command& command, wire::Status status, bool dnr);
    // The response left: the slot and its buffer are free again.
    void release(Command& command);
    // The next value of SQHD: one more entry was consumed.
    std::uint16_t sq_head_after(std::uint64_t capsules) const {
        return static_cast<std::uint16_t>(capsules % record_.entries);
    }
    // The connection is gone: aborts what is executing; `when_idle` is called once nothing refers to the
    // connection, its slots and its buffers any more (device I/O may take a while).
    void disconnected(std::function<void()> when_idle);

    // Takes over the slots that a predecessor left (restart): every record in `live`, in the order of the
    // stream, is bound to its private part and its buffer is reserved. The transport then executes, answers
    // or goes on receiving each.
    bool adopt(std::span<const std::uint16_t> live);

    // --- for the controller --------------------------------------------------------------------------------

    // Stores the final status and result, then `done`, then lets the transport respond. For commands that
    // were handed out by execute().
    void complete(Command& command, wire::Status status, bool dnr = false);
    void complete_ok(Command& command) { complete(command, wire::status::success); }

    // A buffer of `bytes` for data to the host; false: none now, the command waits and is executed again.
    bool allocate_data(Command& command, std::uint32_t bytes);

    Target& target() { return target_; }
    Controller* controller() { return controller_; }
    void bind(Controller& controller, std::uint16_t qid, std::uint16_t entries, bool flow_control_off);
    void unbind();  // the controller goes away
    std::uint16_t qid() const { return record_.qid; }
    std::uint16_t entries() const { return record_.entries; }
    bool flow_control_off() const { return record_.flow_control_off != 0; }
    bool connected() const { return record_.controller != 0; }
    Connection& connection() { return connection_; }
    QueueRecord& record() { return record_; }
    reactor::Reactor& reactor() { return reactor_; }

    // The commands that are executing or waiting, for Abort, reset and status.
    Command* find(std::uint16_t cid);
    std::span<Command> commands() { return {commands_, command_count_}; }
    // Commands that the host has outstanding and handlers are working on.
    std::uint32_t executing_count() const { return executing_; }
    // The controller ends this queue: nothing is answered any more.
    bool is_disconnected() const { return disconnected_; }
    // Aborts all that is executing but `except`, as controller reset and disconnect want it.
    void abort_all(const Command* except = nullptr);
    // Ends one command early if it can be: now, later by its own way, or when its data is there. False: it
    // ended.
    bool abort(Command& command);

  private:
    friend struct Command;
    // What of a fused pair was admitted: the next capsule must be its second half.
    enum class PairPhase : std::uint8_t { none, first_admitted, first_refused };

    void grow_to(std::uint32_t slots);
    Admission admit_first(Command& command, std::uint32_t capsule_data_bytes);
    Admission admit_checked(const wire::Sqe& sqe);
    wire::Status check_sgl(const wire::Sqe& sqe, Admission& admission,
                           std::uint32_t capsule_data_bytes) const;
    void admit_pair(Command& command, Admission& admission);
    void dispatch(Command& command);
    void resume(Command& command);
    void finish(Command& command, wire::Status status, bool dnr);
    void count_io(const Command& command);
    void fail_partner(Command& command);
    void forget_admission(Command& command);
    void unlink_partner(Command& command);
    void remember_cid(Command& command);
    void forget_cid(const Command& command);
    bool adopt_record(std::uint16_t slot);
    bool adopt_controller();
    void finish_if_idle();

    Target& target_;
    Connection& connection_;
    reactor::Reactor& reactor_;
    std::shared_ptr<reactor::HostBuffers> buffers_;
    QueueRecord& record_;
    std::span<CommandRecord> records_;
    // Address space for as many commands as there are records; constructed (and so backed by memory) as far
    // as the size of the queue asks for. They never move.
    Command* commands_ = nullptr;
    std::uint32_t command_count_ = 0;
    std::vector<std::uint16_t> free_slots_;
    std::vector<std::uint16_t> cid_heads_;  // commands that are not done, by CID: chains of slots
    std::vector<std::uint16_t> cid_next_;   // by slot
    Controller* controller_ = nullptr;
    Command* fused_first_ = nullptr;  // while pair_phase_ is first_admitted
    PairPhase pair_phase_ = PairPhase::none;
    std::uint32_t executing_ = 0;
    bool disconnected_ = false;
    std::function<void()> when_idle_;
};

}  // namespace nvme
