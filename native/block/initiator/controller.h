// A controller elsewhere, seen from the host: brings its admin queue up, learns what it can, opens the I/O
// queues, keeps the association alive and listens to its events.
//
// Bring-up is a table of steps (controller.cc), one admin command at a time. There is no way back: whatever
// fails, or takes longer than its deadline, ends the controller with a text. A ready controller may be asked
// to look at its namespace again, which runs the steps of the namespace once more.
//
// NVM Express Base 2.0 §3.5 (initialization), §3.9 (keep alive), §5.2 (asynchronous events).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/initiator/tcp_queue.h"
#include "reactor/reactor.h"
#include "wire/nvme_identify.h"

namespace block::initiator {

struct ControllerOptions {
    std::string address;
    std::uint16_t port = wire::io_port;
    std::string subnqn;
    std::string hostnqn;
    std::array<std::uint8_t, 16> hostid{};
    std::uint32_t nsid = 1;
    bool header_digest = false;
    bool data_digest = false;
    bool flow_control = false;
    std::uint8_t host_alignment = 0;  // HPDA
    std::uint16_t io_queues = 1;
    std::uint16_t depth = 128;  // commands outstanding on each I/O queue
    std::uint32_t in_capsule_bytes =
        ~0u;  // on I/O queues: this or what the controller takes, whichever is less
    std::uint32_t kato_ms = 5000;
    std::uint32_t connect_timeout_ms = 10'000;
    // For a host that is to serve and not to judge: takes fewer or shallower queues than it asked for.
    bool adapt = false;
    // Reads also what a block device must know: who the namespace is, limits of commands; asks for retry
    // delays.
    bool learn = false;
    std::uint32_t events = wire::async_events::namespace_attribute | wire::async_events::ana_change;
    std::uint32_t ping_ms = 0;  // nothing came for so long: asks for CSTS; 0: never
    // Of a keep alive or ping; 0: until the next one is due.
    std::uint32_t answer_timeout_ms = 0;
    bool reset_on_close = false;
};

struct NamespaceFacts {
    std::uint64_t blocks = 0;
    std::uint32_t block_bytes = 0;
    bool volatile_cache = false;
    std::uint32_t transfer_bytes_max = 0;
    std::uint16_t optional_commands = 0;  // ONCS
    std::uint16_t fused = 0;              // FUSES
    // Only with ControllerOptions::learn, or else as if the controller had said nothing.
    // Who the namespace is, the most telling first: "nguid.…", "uuid.…", "eui64.…", "serial.….nsid". Empty:
    // it has none of that kind.
    std::array<std::string, 4> identities;
    bool write_protected = false;
    bool zeroes_may_deallocate = false;        // Write Zeroes with DEAC leaves zeroes
    std::uint32_t physical_block_bytes = 0;    // 0: the logical block
    std::uint32_t optimal_io_bytes = 0;        // 0: no preference
    std::uint64_t write_zeroes_bytes = 0;      // of one command; 0: no limit but that of transfers
    std::uint64_t deallocate_blocks = 0;       // of one command with one range; 0: no limit
    std::uint16_t retry_delays_100ms[3] = {};  // CRDT1..3
    // How long the controller may still execute commands after it was last heard of.
    std::uint64_t quiesce_ms = 0;
};

class ControllerOwner {
  public:
    virtual void controller_ready() = 0;
    virtual void controller_failed(const std::string& reason) = 0;
    // After close() or a failure: all queues are closed, the controller may be destroyed.
    virtual void controller_closed() = 0;
    virtual void controller_event(std::uint32_t dword0) { (void)dword0; }
    // After look_again(): facts() are new.
    virtual void controller_looked() {}

  protected:
    ~ControllerOwner() = default;
};

class Controller final : private QueueOwner {
  public:
    Controller(reactor::Reactor& reactor, ControllerOptions options, ControllerOwner& owner);
    ~Controller();
    Controller(const Controller&) = delete;
    Controller& operator=(const Controller&) = delete;

    // E_INVALID: an address that is none, or options out of range. Otherwise the owner hears of it.
    base::Result<void> open();
    // With `orderly` the controller is told first (CC.SHN).
    void close(bool orderly = true);

    // Reads the namespace's data again, which also lets the next event about it come. What is wrong with it
    // fails the controller.
    void look_again();

    const NamespaceFacts& facts() const { return facts_; }
    const wire::IdentifyController& identity() const { return *identify_controller_; }
    std::uint16_t cntlid() const { return cntlid_; }
    std::uint16_t io_queue_count() const { return static_cast<std::uint16_t>(io_queues_.size()); }
    TcpQueue& io_queue(std::uint16_t index) { return *io_queues_[index]; }
    TcpQueue& admin_queue() { return *admin_; }
    std::uint64_t keep_alives() const { return keep_alives_; }
    std::uint64_t events() const { return events_; }

  private:
    struct Step;
    static const Step steps[];
    struct AdminCommand : HostCommand {
        Controller* controller = nullptr;
    };

    QueueOwner& queue_owner() { return *this; }
    void queue_opened(TcpQueue& queue, std::uint16_t cntlid) override;
    void queue_failed(TcpQueue& queue, const std::string& reason) override;
    void queue_closed(TcpQueue& queue) override;

    void run_step();
    void step_done(const Completion& completion);
    void fail(std::string reason);
    void close_queues();
    void deadline_passed();
    void poll_ready();
    void keep_alive();
    void ping();
    bool overdue(const AdminCommand& command, base::Nanoseconds sent_at, std::uint32_t otherwise_ms) const;
    std::uint64_t bytes_received() const;
    void listen(AdminCommand& request);
    void event_arrived(AdminCommand& request, const Completion& completion);

    void fill_property_get(std::uint32_t offset, bool eight_bytes);
    void fill_property_set(std::uint32_t offset, std::uint32_t value);
    void fill_identify(wire::Cns cns, std::uint32_t nsid, void* data);
    void fill_set_feature(wire::FeatureId feature, std::uint32_t dword11);

    void start_capabilities();
    void take_capabilities(std::uint64_t result);
    void start_version();
    void take_version(std::uint64_t result);
    void start_enable();
    void start_status();
    void take_status(std::uint64_t result);
    void start_identify_controller();
    void take_identify_controller(std::uint64_t result);
    bool learns() const { return options_.learn; }
    bool retry_delays_offered() const;
    bool looks_again() const { return ready_; }
    void start_command_set_limits();
    void take_command_set_limits(std::uint64_t result);
    void start_host_behavior();
    void start_changed_namespaces();
    void start_identification();
    void take_identification(std::uint64_t result);
    void start_number_of_queues();
    void take_number_of_queues(std::uint64_t result);
    void start_event_configuration();
    void start_identify_namespace();
    void take_identify_namespace(std::uint64_t result);
    void take_nothing(std::uint64_t) {}
    void finish_steps();
    void open_io_queues();

    reactor::Reactor& reactor_;
    ControllerOptions options_;
    ControllerOwner& owner_;
    QueueOptions queue_options_;
    std::unique_ptr<TcpQueue> admin_;
    std::vector<std::unique_ptr<TcpQueue>> io_queues_;
    std::uint32_t queues_open_ = 0;    // objects that are not closed
    std::uint32_t queues_opened_ = 0;  // I/O queues that are ready
    std::size_t step_ = 0;
    AdminCommand command_;
    AdminCommand shutdown_command_;
    AdminCommand keep_alive_command_;
    AdminCommand ping_command_;
    std::array<AdminCommand, 4> event_requests_;
    std::uint32_t event_requests_used_ = 0;
    std::uint64_t capabilities_ = 0;
    std::uint64_t events_ = 0;
    std::uint64_t keep_alives_ = 0;
    std::uint16_t cntlid_ = 0;
    bool ready_ = false;
    bool shutting_down_ = false;
    bool closing_ = false;
    bool failed_ = false;
    bool looking_ = false;
    bool look_once_more_ = false;
    std::string failure_;
    std::unique_ptr<wire::IdentifyController> identify_controller_;
    std::unique_ptr<wire::IdentifyNamespace> identify_namespace_;
    std::unique_ptr<std::array<std::byte, wire::identify_bytes>> page_;  // of the steps without an own one
    NamespaceFacts facts_;
    reactor::MemberTimer<&Controller::deadline_passed> deadline_;
    reactor::MemberTimer<&Controller::poll_ready> poll_;
    reactor::MemberTimer<&Controller::keep_alive> keep_alive_timer_;
    reactor::MemberTimer<&Controller::ping> ping_timer_;
    base::Nanoseconds keep_alive_sent_at_ = 0;
    base::Nanoseconds ping_sent_at_ = 0;
    std::uint64_t heard_bytes_ = 0;
    base::Nanoseconds ready_deadline_ = 0;
};

}  // namespace block::initiator
