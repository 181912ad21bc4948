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
#include <functional>
#include <string>
#include <string_view>
#include <vector>

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
    Controller(Target& target, Subsystem& subsystem, ControllerRecord& record, std::uint32_t slot);
    ~Controller();
    Controller(const Controller&) = delete;
    Controller& operator=(const Controller&) = delete;

    Target& target() { return target_; }
    Subsystem& subsystem() { return subsystem_; }
    ControllerRecord& record() { return record_; }
    std::uint32_t slot() const { return slot_; }
    std::uint16_t cntlid() const { return record_.cntlid; }
    bool is_discovery() const { return record_.kind == ControllerKind::discovery; }
    std::string_view host_nqn() const { return record_.host_nqn; }

    // For the I/O commands: the namespace if it is active and attached, else null.
    Namespace* find_namespace(std::uint32_t nsid) const { return subsystem_.find_namespace(nsid); }
    const FeatureValues& features() const { return record_.features; }

    // --- queues --------------------------------------------------------------------------------------------
    QueuePair* queue(std::uint16_t qid) const { return qid < queues_.size() ? queues_[qid] : nullptr; }
    std::uint32_t io_queue_count() const;
    void attach(QueuePair& queue, std::uint16_t qid);
    // The connection of a queue is gone. Without its admin queue the controller ends.
    void detach(QueuePair& queue);
    // Disconnects all queues; the object goes when the last one is idle. Nothing is answered any more.
    void terminate(const char* reason);
    bool terminating() const { return terminating_; }

    // --- properties ----------------------------------------------------------------------------------------
    bool enabled() const;  // CC.EN
    bool ready() const;    // CSTS.RDY
    // The value of a property; false if there is none at `offset` or it has another size.
    bool property_get(std::uint32_t offset, bool eight_bytes, std::uint64_t& value) const;
    wire::Status property_set(std::uint32_t offset, bool eight_bytes, std::uint64_t value);

    // --- keep alive ----------------------------------------------------------------------------------------
    void contact();  // a command of any queue arrived
    void set_keep_alive(std::uint32_t kato_ms);

    // --- events --------------------------------------------------------------------------------------------
    void namespace_changed(std::uint32_t nsid);
    void raise(AsyncEvent event);
    void clear(AsyncEvent event);       // the host has read the log page
    void park(Command& event_request);  // an Asynchronous Event Request waits
    std::uint32_t parked_requests() const { return parked_count_; }
    std::uint32_t enabled_events() const;  // AsyncEvent bits

    // --- errors --------------------------------------------------------------------------------------------
    // Adds to the error log; called after `done` was stored.
    void log_error(const Command& command, std::uint16_t status_field);

    // --- abort ---------------------------------------------------------------------------------------------
    void abort(Command& abort_command);
    // A command that somebody wants aborted has ended.
    void abort_target_ended(Command& target);

    // A queue that is attached has nothing executing any more (reset and shutdown wait for it).
    void queue_idle(QueuePair& queue);

  private:
    friend class Target;
    static void keep_alive_due(reactor::Timer& timer);
    static void abort_due(reactor::Timer& timer);
    void deliver_events();
    void enable();
    void start_reset();
    void start_shutdown();
    void continue_transition();
    void flush_namespaces();
    void flush_next();
    void reset_features();
    void fail_pending_aborts();

    struct KeepAliveTimer : reactor::Timer {
        KeepAliveTimer(reactor::Reactor& r, Controller& c) : Timer(r, keep_alive_due), controller(c) {}
        Controller& controller;
    };
    struct PendingAbort {
        Command* command = nullptr;  // the Abort command
        Command* target = nullptr;
        base::Nanoseconds deadline = 0;
    };
    struct AbortTimer : reactor::Timer {
        AbortTimer(reactor::Reactor& r, Controller& c) : Timer(r, abort_due), controller(c) {}
        Controller& controller;
    };
    struct ShutdownFlush;
    enum class Transition : std::uint8_t { none, reset, shutdown };

    Target& target_;
    Subsystem& subsystem_;
    ControllerRecord& record_;
    std::uint32_t slot_;
    std::array<QueuePair*, limits::io_queues_per_controller_max + 1> queues_{};
    std::array<Command*, limits::async_event_requests_max> parked_{};
    std::uint32_t parked_count_ = 0;
    std::array<PendingAbort, limits::abort_commands_max> aborts_{};
    KeepAliveTimer keep_alive_timer_;
    AbortTimer abort_timer_;
    Transition transition_ = Transition::none;
    bool terminating_ = false;
    std::uint32_t flushes_ = 0;
    std::string end_reason_;
};

}  // namespace nvme
