// The composition root of the data plane: builds arena, reactor, devices, target and transport, and hands
// them to each other. It knows nothing of JavaScript; the addon, the native tests and the fuzzers are its
// callers.
//
// One thread, the reactor's, owns everything here. `start` begins it; what is marked "reactor thread" is
// called through `post`. Answers arrive on the reactor's thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "block/device.h"
#include "block/spec.h"
#include "durable/arena.h"
#include "engine/huge_pages.h"
#include "engine/keeper_link.h"
#include "engine/memories.h"
#include "engine/options.h"
#include "engine/restart_history.h"
#include "nvme/target.h"
#include "reactor/data_buffers.h"
#include "reactor/reactor.h"
#include "reactor/uring_kernel.h"
#include "transport/tcp_transport.h"

namespace engine {

// Facts for the control plane. The events connect and write_protection want an answer by `admit`.
struct Event {
    enum class Kind : std::uint8_t {
        connect,
        write_protection,
        log,
        controller,
        discovery_generation,
        device,
        restart_failed,
    } kind = Kind::log;
    std::uint32_t request = 0;        // connect, write_protection
    std::string subsystem, host_nqn;  // connect, controller
    std::array<std::uint8_t, 16> host_id{};
    std::string peer_address;
    std::uint16_t peer_port = 0;
    std::string level, area, message;  // log; controller: message is the reason
    bool connected = false;            // controller
    std::uint16_t cntlid = 0;
    std::uint64_t generation = 0;
    std::string device, state, reason;
    std::uint32_t nsid = 0;                // write_protection
    std::array<std::uint8_t, 16> nguid{};  // write_protection
    std::uint32_t protection = 0;          // write_protection
};
using EventSink = std::function<void(Event&&)>;  // called on the reactor's thread

struct DeviceStatus {
    std::string name, kind, state, reason;
    block::Description description;
    block::Counters counters;
    std::vector<std::string> claimed_by;
    std::string identity;
    bool suspended = false;
    block::Details details;
    std::vector<std::string> parts;
};

struct NamespaceStatus {
    nvme::NamespaceStatus status;
    nvme::LatencyHistogram read_latency, write_latency;
};

struct SubsystemStatus {
    nvme::SubsystemStatus status;
    std::vector<NamespaceStatus> namespaces;
};

struct ConnectionStatus {
    transport::ConnectionStatus status;
    nvme::QueueRecord queue{};
    std::string subsystem, host_nqn;  // empty before Connect
    std::uint16_t cntlid = 0;
};

struct Status {
    std::vector<DeviceStatus> devices;
    std::vector<SubsystemStatus> subsystems;
    std::vector<nvme::ControllerStatus> controllers;
    std::vector<ConnectionStatus> connections;
    std::vector<transport::ListenerStatus> listeners;
    std::uint64_t discovery_generation = 0;
    std::uint64_t data_pool_bytes = 0, data_pool_used_bytes = 0;
    std::uint64_t reactor_cpu_ns = 0, reactor_iterations = 0;
    std::map<std::string, std::uint64_t> disconnects;
    std::uint64_t connections_accepted = 0, connections_refused = 0;
};

// What became of a predecessor's connections and commands.
struct Adoption {
    bool carried_arena = false;
    std::uint32_t carried = 0;         // connections that go on
    std::uint32_t begun = 0;           // accepted but unread: begun now
    std::uint32_t executed = 0;        // commands that were in flight
    std::vector<std::string> refused;  // one line per connection that could not go on
};

// This process is to serve now.
struct Takeover {
    bool kept = false;     // there is a keeper: the process may die at any moment
    bool carried = false;  // a predecessor's state is there
    KeeperGo go;
};

// The last moments of a connection of the dead predecessor.
struct LastPdus {
    std::uint64_t connection = 0;
    std::string host_nqn, peer_address;
    std::uint16_t qid = 0;
    std::uint64_t received = 0, sent = 0;  // stream positions
    std::uint32_t commands_in_flight = 0;
    std::vector<transport::FlightEntry> pdus;  // oldest first
};

class Engine {
  public:
    // Allocates everything, or maps what the keeper holds; no thread yet. Errors: E_NO_MEMORY, E_IO.
    static base::Result<std::unique_ptr<Engine>> make(const Options& options,
                                                      std::unique_ptr<KeeperLink> keeper = nullptr);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // Begins the reactor's thread. `sink` null: nobody decides admissions but the host lists.
    void start(EventSink sink);
    // Ends connections and devices in order, then the thread; `stopped` is called on the reactor's thread as
    // its last act. Any thread, once.
    void stop(std::function<void()> stopped);
    // After `stopped`, from another thread.
    void join();
    void post(reactor::Reactor::Task task) { reactor_.post(std::move(task)); }

    bool standby() const { return keeper_ && keeper_->standby(); }

    // --- reactor thread ------------------------------------------------------------------------------------
    using Done = std::function<void(base::Result<void>)>;

    base::Result<DeviceStatus> add_device(const block::DeviceSpec& spec, int memory_descriptor);
    void remove_device(const std::string& name, Done done);  // E_NOT_FOUND, E_BUSY (claimed)
    base::Result<std::uint64_t> resize_device(const std::string& name, std::optional<std::uint64_t> bytes);
    base::Result<void> suspend_device(const std::string& name);
    base::Result<void> resume_device(const std::string& name);
    void device_command(const std::string& name, const block::Command& command, Done done);
    // The device of that name is closed and made anew; whoever uses it goes on with the new one, which has
    // the same block size and at least the same size. If that fails the former is made again.
    void replace_device(const block::DeviceSpec& spec, Done done);

    // migrations.cc: device `name` is copied to another one, made of `destination`, while it serves. From
    // then on it is of kind `migration` and stands on NAME@source and NAME@destination.
    void begin_migration(const std::string& name, block::DeviceSpec destination,
                         std::uint64_t bytes_per_second, Done done);
    // All is copied and on stable media, and nothing more happens until the commit, which the caller has
    // stored before; without it the volume goes on by itself after a while.
    void prepare_migration(const std::string& name, Done done);
    void commit_migration(const std::string& name, Done done);  // the source is removed
    void cancel_migration(const std::string& name, Done done);  // the destination is

    nvme::Target& target() { return *target_; }
    transport::TcpTransport& transport() { return *transport_; }
    block::Device* find_device(const std::string& name);
    base::Result<void> add_namespace(const std::string& nqn, const nvme::NamespaceSpec& spec);

    void admit(std::uint32_t request, bool allow, std::string reason);
    std::uint32_t disconnect_host(const std::string& host_nqn, const std::string& subsystem);
    Status status();

    // `taken` is called once this process is to serve: at once without a keeper, in a standby when the
    // predecessor is dead. Nothing may be configured before.
    void take_over(std::function<void(const Takeover&)> taken);
    // A standby has nothing left to prepare. Not before: a planned replacement begins at once, and hosts
    // would wait for what is missing.
    void be_warm();
    base::Result<transport::ListenerStatus> add_listener(transport::ListenerSpec spec);
    base::Result<void> remove_listener(const std::string& id);
    KeeperLink* keeper() { return keeper_.get(); }
    const RestartArea& restart_area() { return arena_.slot<RestartArea>(restarts_region, 0); }
    // Of the predecessor that was replaced last, if it left connections.
    const std::vector<LastPdus>& last_pdus() const { return last_pdus_; }

    // A connection that a keeper held while the predecessor died; before `adopt`. Takes the descriptor.
    void offer_connection(int socket, std::uint64_t id, bool discovery_only);
    // Takes over what a predecessor left, once the configuration is in place.
    Adoption adopt();

    const Options& options() const { return options_; }
    durable::Arena& arena() { return arena_; }
    reactor::DataBuffers& buffers() { return *buffers_; }
    void log(const char* level, const char* area, std::string message);

  private:
    struct Offer {
        int socket;
        std::uint64_t id;
        bool discovery_only;
    };

    Engine(const Options& options, durable::Arena arena, durable::MemoryFile data,
           std::unique_ptr<reactor::UringKernel> kernel, std::unique_ptr<KeeperLink> keeper,
           bool other_layout);
    static constexpr std::size_t restarts_region = 8;

    // quiesce.cc: a planned replacement, perhaps by a version whose arena differs (carry.h)
    struct Rest {
        base::Nanoseconds quiet_by = 0, end_by = 0;
        bool describe = true;    // for a successor whose arena differs
        bool described = false;  // nothing may change any more
        bool over = false;       // the replacement failed
    };
    void come_to_rest(base::Nanoseconds deadline, bool describe);
    void check_rest();
    bool is_quiet(bool needs_end_only);
    void rest();
    void be_described();
    void go_on();
    void rebuild();
    void explain_loss(std::uint64_t connection, std::string& why) const;
    static std::string data_name(const durable::Arena& arena);
    static constexpr const char* data_prefix = "data-";
    static constexpr const char* description_name = "carry";

    void go(const KeeperGo& go);
    void remember_last_pdus();
    std::vector<bool> silent_controllers() const;
    void finish_stop();
    void build();
    void run();
    void hear(const nvme::TargetEvent& event);
    void close_devices();
    void forget_memory(const std::string& name, Done done);
    void forget_memories();
    void quarantine_buffers();
    void check_quarantine();
    bool waits_for_locks() const;
    void complete_record();
    void map_ahead();
    void watch_devices();
    void make_pages_huge(const block::Device& device);
    DeviceStatus status_of(block::Device& device);
    block::Device::Health health_of(const block::Device& device) const;

    // devices.cc
    struct Exchange;
    // Something that is asked again and again whether it is so, for a limited time.
    struct Patience {
        explicit Patience(Engine& owner) : engine(owner), timer(owner.reactor_, *this) {}
        void ask_again() { engine.ask_again(*this); }
        Engine& engine;
        std::function<bool()> condition;
        std::function<void(bool)> then;
        base::Nanoseconds limit = 0;
        reactor::MemberTimer<&Patience::ask_again> timer;
    };
    void wait_until(base::Nanoseconds limit, std::function<bool()> condition, std::function<void(bool)> then);
    void ask_again(Patience& patience);
    base::Result<block::Device*> migrating_device(const std::string& name);
    void begin_copy(const std::string& name, std::uint64_t bytes_per_second, const Done& done);
    void give_up(const std::string& name, const base::Error& why, const Done& done);
    void end_migration(const std::string& name, bool committed, Done done);
    using DevicePlace = std::vector<std::unique_ptr<block::Device>>::iterator;
    DevicePlace place_of(const std::string& name);
    base::Result<std::unique_ptr<block::Device>> make_device(const block::DeviceSpec& spec);
    base::Result<block::Device*> device_to_change(const std::string& name);
    void begin_change(const std::string& name);
    void end_change(const std::string& name);
    static std::vector<std::string> parts_named(const block::DeviceSpec& spec);
    bool stands_on(const std::string& upper, const std::string& lower) const;
    void make_successor(const std::shared_ptr<Exchange>& exchange);
    void restore_former(const std::shared_ptr<Exchange>& exchange, const base::Error& why);
    void put_in_place(const std::string& name, std::unique_ptr<block::Device> successor);
    bool memory_is_used(const std::string& memory) const;
    std::vector<std::string> parts_of(const block::Device& device) const;
    void discard(const std::string& name, Done done);

    Options options_;
    durable::Arena arena_;
    durable::MemoryFile data_;
    durable::MemoryFile zeroes_;
    std::unique_ptr<reactor::UringKernel> kernel_;
    std::unique_ptr<KeeperLink> keeper_;
    const bool other_layout_;  // the predecessor's arena cannot be read by this version
    reactor::Reactor reactor_;
    std::unique_ptr<reactor::DataBuffers> buffers_;
    // Gives released buffers to those who wait for one.
    std::unique_ptr<reactor::MemberDeferred<&reactor::DataBuffers::serve_waiters>> buffer_service_;
    transport::MemoryRegions regions_;
    std::unique_ptr<Memories> memories_;
    std::unique_ptr<block::Environment> environment_;
    std::vector<std::unique_ptr<block::Device>> devices_;
    std::map<std::string, block::DeviceSpec> specs_;  // by the device's name
    std::map<std::string, std::string> failed_;       // closed, and could not be made again: why
    std::set<std::string> changing_;                  // being exchanged: nobody else may begin
    std::uint64_t preparations_ = 0;
    std::map<std::string, std::uint64_t> prepared_;  // migrations that may be committed
    std::vector<std::unique_ptr<Patience>> patiences_;
    bool stop_waits_ = false;  // for the end of the exchanges
    std::vector<std::unique_ptr<block::Device>> closing_devices_;
    std::unique_ptr<nvme::Target> target_;
    std::unique_ptr<transport::TcpTransport> transport_;
    // Buffers that a dead process's device I/O may still write to: kept out of use until every device is free
    // of it.
    std::vector<std::pair<std::uint64_t, std::uint32_t>> quarantined_;
    reactor::MemberTimer<&Engine::check_quarantine> quarantine_timer_;
    // Memory of removed devices that responses are still being sent from, by name.
    std::vector<std::pair<std::string, Done>> forgotten_;
    reactor::MemberTimer<&Engine::forget_memories> forget_timer_;
    // Of the restart that made this process the server; completed as the rest becomes known.
    RestartRecord* restart_record_ = nullptr;
    reactor::MemberTimer<&Engine::complete_record> complete_timer_;
    reactor::MemberTimer<&Engine::map_ahead> map_ahead_timer_;  // of a standby: the arena may grow
    // Whose state changed: looked for now and then, and when a device says that its own may have.
    reactor::MemberTimer<&Engine::watch_devices> device_watch_;
    reactor::MemberDeferred<&Engine::watch_devices> device_news_;
    std::vector<Offer> offers_;
    std::function<void(const Takeover&)> taken_;
    bool going_ = false;
    KeeperGo go_;
    base::Nanoseconds go_at_ = 0;
    base::Nanoseconds mapped_at_ = 0;
    std::unique_ptr<Rest> rest_;
    bool rebuilt_ = false;                       // of a description that another version left
    std::string loss_;                           // why there was none
    std::map<std::uint64_t, std::string> lost_;  // connections that it does not carry, and why
    std::vector<LastPdus> last_pdus_;
    std::map<std::uint32_t, nvme::AdmissionAnswer> admissions_;  // and write protection that is being kept
    std::uint32_t next_admission_ = 1;
    EventSink sink_;
    std::thread thread_;
    std::function<void()> stopped_;
    std::map<std::string, std::string> device_states_;
    std::unique_ptr<HugePages> huge_pages_;               // from the first write to memory on
    std::map<std::string, std::uint64_t> written_bytes_;  // of devices in memory, when they were looked at
};

}  // namespace engine
