// A controller: the association between one host and one subsystem, from the Connect of its admin queue until
// that queue is gone. Dynamic controller model: each association gets a controller of its own.
//
// Its lasting state lies in a ControllerRecord; this object adds pointers and timers. All of a controller's
// queues live on one reactor thread. The admin commands are rows of one table (admin_commands.cc), split by
// topic over identify.cc, log_pages.cc, features.cc, async_events.cc and abort.cc.
//
// NVM Express Base 2.0 §3.1 (controllers, properties), §3.5–3.7 (initialization, shutdown, reset), §3.9 (keep
// alive).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "nvme/command.h"
#include "nvme/controller_record.h"
#include "nvme/queue_pair.h"
#include "nvme/subsystem.h"
#include "reactor/reactor.h"
#include "wire/nvme.h"

namespace nvme {

class Target;

class Controller {
  public:
    // `record` is filled and in use; `slot` is its index.
    Controller(Target& target, Subsystem& subsystem, ControllerRecord& record, std::uint32_t slot,
               bool adopted);
    ~Controller();
    Controller(const Controller&) = delete;
    Controller& operator=(const Controller&) = delete;

    Target& target() { return target_; }
    Subsystem& subsystem() { return subsystem_; }
    const Subsystem& subsystem() const { return subsystem_; }
    ControllerRecord& record() { return record_; }
    const ControllerRecord& record() const { return record_; }
    std::uint32_t slot() const { return slot_; }
    std::uint16_t cntlid() const { return record_.cntlid; }
    bool is_discovery() const { return record_.kind == ControllerKind::discovery; }
    bool adopted() const { return adopted_; }
    std::string_view host_nqn() const { return record_.host_nqn; }

    // For the I/O commands: the namespace if it is active and attached, else null.
    Namespace* find_namespace(std::uint32_t nsid) const { return subsystem_.find_namespace(nsid); }
    const FeatureValues& features() const { return record_.features; }
    FeatureValues& features() { return record_.features; }

    // --- queues --------------------------------------------------------------------------------------------
    QueuePair* queue(std::uint16_t qid) const { return qid < queues_.size() ? queues_[qid] : nullptr; }
    std::uint32_t io_queue_count() const;
    // Highest queue identifier that may be connected now.
    std::uint16_t io_queues_allowed() const;
    void attach(QueuePair& queue, std::uint16_t qid);
    // The connection of a queue is gone. Without its admin queue the controller ends.
    void detach(QueuePair& queue);
    // A queue that was detached has nothing executing any more (reset, shutdown and the end wait for it).
    void queue_idle();
    // Disconnects all queues; the object goes when the last one is idle. Nothing is answered any more.
    void terminate(const char* reason);
    bool terminating() const { return terminating_; }
    // Tells the event sink that the controller exists.
    void announce();
    // After a restart, when all queues were adopted: goes on with what a predecessor had begun.
    void resume();

    // --- properties (properties.cc) ------------------------------------------------------------------------
    bool enabled() const;  // CC.EN
    bool ready() const;    // CSTS.RDY
    // No reset or shutdown is under way, no fatal status.
    bool accepts_io() const;
    // The value of a property; false if there is none at `offset` or it has another size.
    bool property_get(std::uint32_t offset, bool eight_bytes, std::uint64_t& value) const;
    // `command` is the Property Set, which a reset that it causes leaves alone.
    wire::Status property_set(std::uint32_t offset, bool eight_bytes, std::uint64_t value,
                              const Command* command);
    std::uint64_t capabilities() const;
    // All features as after a Controller Level Reset.
    void reset_features();
    // Compares the temperature with the thresholds.
    void check_temperature();

    // --- keep alive ----------------------------------------------------------------------------------------
    // A command of any queue arrived.
    void contact();
    // Rounded up to the granularity that Identify reports (KAS).
    void set_keep_alive(std::uint32_t kato_ms);

    // --- events (async_events.cc) --------------------------------------------------------------------------
    void namespace_changed(std::uint32_t nsid);
    void raise(AsyncEvent event);
    void clear(AsyncEvent event);       // the host has read the log page
    void park(Command& event_request);  // an Asynchronous Event Request waits
    std::uint32_t parked_requests() const { return parked_count_; }
    // What is pending may go out now: the feature was set, or it follows from what changed over a restart.
    void events_configured() { deliver_events(); }
    void compare_with_target();  // raises what the host does not know yet
    // What the host knows, after the controller was created or told.
    void note_target_state();

    // --- errors --------------------------------------------------------------------------------------------
    // Adds to the error log; called after `done` was stored.
    void log_error(const Command& command, std::uint16_t status_field);

    // --- abort (abort.cc) ----------------------------------------------------------------------------------
    void abort(Command& abort_command);
    // A command that somebody wants aborted has ended.
    void abort_target_ended(Command& target);
    // Ends an executing admin command at once: a parked event request, an Abort, what waits for a buffer.
    void abort_admin(Command& command);

  private:
    struct PendingAbort {
        Command* command = nullptr;  // the Abort command
        Command* target = nullptr;
        base::Nanoseconds deadline = 0;
        bool target_ended = false;
        bool aborted = false;
    };
    // Why the I/O queues are being disconnected.
    enum class Transition : std::uint8_t { none, reset, shutdown };

    void keep_alive_due();
    void aborts_due();
    base::Nanoseconds idle_limit() const;
    void expire();
    void disconnect_io_queues(const char* reason);
    void end_if_unused();

    void set_configuration(std::uint32_t value, const Command* command);
    bool configuration_valid() const;
    void enable();
    void start_reset(const Command* command);
    void start_shutdown();
    void continue_transition();
    void flush_next();
    void finish_shutdown();

    void deliver_events();
    std::uint32_t enabled_events() const;
    void finish_abort(PendingAbort& pending, bool aborted);
    void answer_aborts();

    // The flush of all namespaces, one after the other, before a shutdown is reported as complete.
    struct Flush {
        explicit Flush(Controller& owner) : controller(&owner) {}

        struct Request : block::Request {
            Flush* flush = nullptr;
        };
        Controller* controller;  // null: it is gone, the last request frees this
        std::uint32_t last_nsid = 0;
        Namespace* ns = nullptr;
        Request request;
    };

    Target& target_;
    Subsystem& subsystem_;
    ControllerRecord& record_;
    std::uint32_t slot_;
    bool adopted_;
    std::array<QueuePair*, limits::io_queues_per_controller_max + 1> queues_{};
    std::uint32_t leaving_queues_ = 0;                                 // detached, not idle yet
    std::array<Command*, limits::async_event_requests_max> parked_{};  // oldest first
    std::uint32_t parked_count_ = 0;
    std::array<PendingAbort, limits::abort_commands_max> aborts_{};
    reactor::MemberTimer<&Controller::keep_alive_due> keep_alive_timer_;
    reactor::MemberTimer<&Controller::aborts_due> abort_timer_;
    Transition transition_ = Transition::none;
    std::unique_ptr<Flush> flush_;
    bool terminating_ = false;
    bool ended_ = false;
    const char* end_reason_ = "";
};

}  // namespace nvme
