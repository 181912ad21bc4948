// Everything that hosts can see: subsystems with their namespaces, the discovery information, and the
// controllers that exist. The engine owns one Target; all functions run on the reactor's thread.
//
// The control plane says what there is (add, remove, change); hosts say Connect. A Connect is checked against
// the host lists first and then, on admin queues, by the admission hook, which has a deadline. While the
// control plane is still loading its configuration nobody is turned away for good: unknown subsystems and
// hosts get a status that hosts retry.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "base/result.h"
#include "block/device.h"
#include "nvme/command_memory.h"
#include "nvme/controller_record.h"
#include "nvme/latency.h"
#include "nvme/namespace.h"
#include "nvme/queue_pair.h"
#include "nvme/subsystem.h"
#include "reactor/buffer_pool.h"
#include "reactor/reactor.h"

namespace nvme {

class Controller;

// Where hosts can connect, as the discovery log says it.
struct ListenerInfo {
    std::string transport;       // "tcp"; "loop" is not shown to hosts
    std::string address_family;  // "ipv4", "ipv6"
    std::string address;  // TRADDR; a wildcard (0.0.0.0, ::) is shown as the address that the host used
    std::string service;  // TRSVCID: the port
    std::uint16_t port_id = 1;
    bool discovery_only = false;

    friend bool operator==(const ListenerInfo&, const ListenerInfo&) = default;
};

// Another discovery controller that hosts are pointed to.
struct Referral {
    std::string transport;
    std::string address_family;
    std::string address;
    std::string service;
    std::uint16_t port_id = 1;
    std::string nqn;  // empty: the well-known discovery NQN

    friend bool operator==(const Referral&, const Referral&) = default;
};

struct ConnectRequest {
    std::string subsystem_nqn;
    std::string host_nqn;
    std::array<std::uint8_t, 16> host_id{};
    bool discovery = false;
    Endpoint endpoint;
};

// Answers once, on the reactor's thread, now or later; after the deadline or the end of the connection the
// answer is ignored.
using AdmissionAnswer = std::function<void(bool allow, std::string reason)>;
using AdmissionHook = std::function<void(const ConnectRequest& request, AdmissionAnswer answer)>;

// What a host sets about a namespace and what must outlast a power cut: kept durably before it holds and
// before the host is answered. `answer` as above.
struct ProtectionRequest {
    std::string subsystem_nqn;
    std::uint32_t nsid = 0;
    std::array<std::uint8_t, 16> nguid{};
    std::uint32_t state = 0;  // of Namespace Write Protection
};
using ProtectionHook = std::function<void(const ProtectionRequest& request, AdmissionAnswer answer)>;

struct TargetLimits {
    std::uint32_t controllers_per_host = 64;
    std::uint32_t connections_per_host = limits::connections_max;
    std::uint32_t connections = limits::connections_max;
    std::uint32_t io_queues_per_controller = limits::io_queues_per_controller_max;
    std::uint32_t queue_entries = limits::queue_entries_max;  // of a submission queue: CAP.MQES + 1, MAXCMD
    base::Nanoseconds admission_deadline = 3 * base::second;
    base::Nanoseconds discovery_idle =
        120 * base::second;  // of discovery controllers without a keep alive timer
};

// Facts for the log and the dashboard. Not called on the data path.
enum class TargetEventKind : std::uint8_t {
    controller_created,
    controller_ended,
    connect_rejected,
    keep_alive_expired,
    controller_reset,
    controller_shutdown,
    host_disallowed,
    namespace_resized,
    write_protection_changed,
    generation_changed,  // of the discovery log: to be kept durably
    adoption_refused,
};
const char* name_of(TargetEventKind kind);

struct TargetEvent {
    TargetEventKind kind{};
    std::string subsystem_nqn{};
    std::string host_nqn{};
    std::uint16_t cntlid = 0;
    std::uint16_t qid = 0;
    std::uint32_t nsid = 0;
    std::uint64_t value = 0;  // size in bytes, write protection state, generation
    std::string text{};
};

// Snapshots for status and metrics.
struct QueueStatus {
    std::uint16_t qid = 0;
    std::uint16_t entries = 0;
    std::uint32_t commands = 0;  // in any state but free
    bool flow_control_off = false;
    std::uint32_t connection_slot = 0;
    Endpoint endpoint;
};

struct ControllerStatus {
    std::uint32_t slot = 0;
    std::uint16_t cntlid = 0;
    bool discovery = false;
    std::string subsystem_nqn;
    std::string host_nqn;
    std::array<std::uint8_t, 16> host_id{};
    std::uint32_t kato_ms = 0;
    std::uint64_t idle_ms = 0;  // since the last command
    std::uint64_t created_ms = 0;
    std::uint32_t cc = 0;
    std::uint32_t csts = 0;
    std::uint32_t parked_event_requests = 0;
    std::uint64_t errors = 0;
    bool adopted = false;
    std::vector<QueueStatus> queues;
};

struct NamespaceStatus {
    std::uint32_t nsid = 0;
    std::string device;
    std::array<std::uint8_t, 16> nguid{};
    std::array<std::uint8_t, 16> uuid{};
    std::uint64_t blocks = 0;
    std::uint32_t block_bytes = 0;
    bool read_only = false;
    std::uint32_t write_protection = 0;
    IoCounters counters;
    const LatencyHistogram* read_latency = nullptr;  // valid until the reactor goes on
    const LatencyHistogram* write_latency = nullptr;
};

struct SubsystemStatus {
    SubsystemSpec spec;
    bool discovery = false;
    std::uint32_t controllers = 0;
    std::uint8_t ana_state = 1;
    std::uint64_t read_bytes = 0, written_bytes = 0, read_commands = 0, write_commands = 0;
    std::vector<NamespaceStatus> namespaces;
};

class Target {
  public:
    struct Records {
        std::span<ControllerRecord> controllers;
        std::span<SubsystemRecord> subsystems;
        std::span<NamespaceRecord> namespaces;
    };

    Target(reactor::Reactor& reactor, reactor::BufferPool& buffers, const Records& records);
    ~Target();
    Target(const Target&) = delete;
    Target& operator=(const Target&) = delete;

    reactor::Reactor& reactor() { return reactor_; }
    reactor::BufferPool& buffers() { return buffers_; }

    void set_limits(const TargetLimits& target_limits) { limits_ = target_limits; }
    const TargetLimits& limits() const { return limits_; }
    void set_admission_hook(AdmissionHook hook) { hook_ = std::move(hook); }
    void set_protection_hook(ProtectionHook hook) { protection_hook_ = std::move(hook); }
    void set_event_sink(std::function<void(const TargetEvent&)> sink) { sink_ = std::move(sink); }
    // While loading: unknown is not refused for good, and changes are not announced. Ends with one
    // announcement to those whose discovery information or namespaces are no longer what they know. A new
    // Target is loading.
    void set_loading(bool loading);
    bool loading() const { return loading_; }

    // --- configuration -------------------------------------------------------------------------------------
    // E_EXISTS, E_INVALID, E_LIMIT
    base::Result<void> add_subsystem(const SubsystemSpec& spec);
    // Disconnects its hosts, waits for their commands, removes the namespaces; then `done`. E_NOT_FOUND.
    base::Result<void> remove_subsystem(const std::string& nqn, std::function<void()> done);
    // Connected hosts that are no longer allowed are disconnected. E_NOT_FOUND.
    base::Result<void> set_hosts(const std::string& nqn, bool allow_any,
                                 const std::vector<std::string>& hosts);
    // For the next death: hosts notice nothing of the change. E_NOT_FOUND.
    base::Result<void> set_in_flight(const std::string& nqn, InFlight policy);
    // E_NOT_FOUND, E_EXISTS (nsid, nguid or uuid), E_INVALID, E_LIMIT, E_BUSY (the device is claimed)
    base::Result<void> add_namespace(const std::string& nqn, const NamespaceSpec& spec,
                                     block::Device& device);
    // Hosts are told; commands in flight end; the device is released; then `done`. E_NOT_FOUND.
    base::Result<void> remove_namespace(const std::string& nqn, std::uint32_t nsid,
                                        std::function<void()> done);
    // E_NOT_FOUND, E_BUSY (the device is claimed by a reader, so that nobody may write)
    base::Result<void> set_namespace_read_only(const std::string& nqn, std::uint32_t nsid, bool read_only);
    base::Result<void> set_ana_state(const std::string& nqn, AnaState state);

    Subsystem* find(std::string_view nqn) const;
    // In the order of their NQNs, without the discovery subsystem.
    std::vector<Subsystem*> subsystems() const;
    Subsystem& discovery_subsystem() { return *discovery_; }

    // Composite temperature that hosts see, in kelvin; nominal until it is set.
    void set_temperature(std::uint16_t kelvin);
    std::uint16_t temperature() const { return temperature_; }

    // --- discovery -----------------------------------------------------------------------------------------
    void set_listeners(std::vector<ListenerInfo> listeners);
    void set_referrals(std::vector<Referral> referrals);
    const std::vector<ListenerInfo>& listeners() const { return listeners_; }
    const std::vector<Referral>& referrals() const { return referrals_; }
    // GENCTR. The caller keeps it durably (event generation_changed) and brings it back.
    std::uint64_t discovery_generation() const { return generation_; }
    void set_discovery_generation(std::uint64_t generation) { generation_ = generation; }

    // --- restart -------------------------------------------------------------------------------------------
    // Takes over the controllers that a predecessor left in the records, once the subsystems are configured
    // and before the connections' queue pairs are adopted. Records of unknown subsystems are freed.
    void adopt_controllers();
    // Ends adopted controllers whose admin queue was not adopted; after all connections were dealt with.
    void drop_orphans();
    // A predecessor's controller, for QueuePair::adopt; null if there is none.
    Controller* controller_at(std::uint32_t slot) const;

    // --- status --------------------------------------------------------------------------------------------
    std::vector<SubsystemStatus> subsystem_status() const;
    std::vector<ControllerStatus> controller_status() const;
    std::uint32_t connection_count() const { return connection_count_; }

    // --- for the NVMe layer --------------------------------------------------------------------------------
    void emit(const TargetEvent& event);
    // Runs `task` in the reactor's next iteration, unless this object is gone by then.
    void post(std::function<void()> task);
    CommandMemory& command_memory() { return command_memory_; }
    void connection_opened() { ++connection_count_; }
    void connection_closed() { --connection_count_; }
    // A new controller with a record, or null and the status to answer; the host may retry all of them.
    Controller* create_controller(Subsystem& subsystem, std::string_view host_nqn,
                                  std::span<const std::uint8_t, 16> host_id, std::uint32_t kato_ms,
                                  QueuePair& admin_queue, wire::Status& refusal);
    // Called by the controller when nothing refers to it any more; destroys it in the next iteration.
    void controller_ended(Controller& controller);
    std::uint32_t controllers_of(std::string_view host_nqn) const;
    std::uint32_t connections_of(std::string_view host_nqn) const;
    // Another controller: names of hosts are easily made up, so one address has half of them at most.
    bool has_room_for(std::string_view address) const;

    struct Decision {
        bool allow = false;
        bool timed_out = false;
        std::string reason;
    };
    using Decided = void (*)(QueuePair& queue, Command& command, const Decision& decision);
    // Asks the hook; false if there is none. `decided` is called once, perhaps from within this call, with
    // the answer or at the deadline, unless the queue cancels.
    bool ask_admission(const ConnectRequest& request, QueuePair& queue, Command& command, Decided decided);
    // The same for a write protection state.
    bool ask_protection(const ProtectionRequest& request, QueuePair& queue, Command& command,
                        Decided decided);
    void cancel_questions(const QueuePair& queue);
    void cancel_question(const Command& command);

    // Something in the discovery information changed: the generation and the hosts that watch it.
    void discovery_changed();
    // Of what a host can see there; two equal values mean that it would read the same.
    std::uint64_t discovery_digest(std::string_view host_nqn) const;
    // The record of a namespace of this identity; null if there is none (and no room for one).
    NamespaceRecord* namespace_record(const Subsystem& subsystem, const NamespaceSpec& spec);
    // What hosts had set for another namespace with this NSID, before there is a record of the new one.
    void reset_namespace_features(const Subsystem& subsystem, std::uint32_t nsid);

  private:
    struct Question;
    AdmissionAnswer open_question(QueuePair& queue, Command& command, Decided decided);
    void decide(std::uint64_t id, const Decision& decision);
    SubsystemRecord* subsystem_record(const std::string& nqn);
    std::uint32_t slot_of(const SubsystemRecord& record) const;
    void forget_records(const Subsystem& subsystem);
    void forget_stale_records();
    void announce_changes();

    reactor::Reactor& reactor_;
    reactor::BufferPool& buffers_;
    Records records_;
    TargetLimits limits_;
    CommandMemory command_memory_;
    AdmissionHook hook_;
    ProtectionHook protection_hook_;
    std::function<void(const TargetEvent&)> sink_;
    bool loading_ = true;
    std::uint16_t temperature_;
    SubsystemRecord
        discovery_record_{};  // controllers of the discovery subsystem find their ids in their records
    std::unique_ptr<Subsystem> discovery_;
    std::map<std::string, std::unique_ptr<Subsystem>, std::less<>> subsystems_;
    std::vector<std::unique_ptr<Controller>> controllers_;  // by slot
    std::vector<ListenerInfo> listeners_;
    std::vector<Referral> referrals_;
    std::uint64_t generation_ = 1;
    std::uint32_t connection_count_ = 0;
    std::vector<std::unique_ptr<Question>> questions_;  // to the control plane
    std::uint64_t question_id_next_ = 1;
    std::shared_ptr<Target*> self_;  // answers and tasks that come after the end find it gone
};

}  // namespace nvme
