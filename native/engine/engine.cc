#include "engine/engine.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <set>
#include <utility>

#include "base/crash_point.h"
#include "block/migration/copy_map.h"
#include "block/mirror/witness_memory.h"
#include "engine/arena_layout.h"
#include "engine/version.h"
#include "nvme/controller.h"

namespace engine {

namespace {

constexpr base::Nanoseconds quarantine_poll = 2 * base::millisecond;
constexpr base::Nanoseconds part_period_min = 500 * base::microsecond;
constexpr base::Nanoseconds map_ahead_period = 1 * base::second;
constexpr base::Nanoseconds device_watch_period = 1 * base::second;
constexpr std::uint32_t closed_slots_max = 16;
constexpr std::size_t admissions_max = 4096;
constexpr const char* arena_name = "arena";

}  // namespace

base::Result<std::unique_ptr<Engine>> Engine::make(const Options& options,
                                                   std::unique_ptr<KeeperLink> keeper) {
    auto arena = durable::Arena::open(keeper ? keeper->memory(arena_name) : options.arena_descriptor,
                                      regions_for(options));
    if (!arena) {
        return arena.error();
    }
    durable::Arena opened = arena.take();
    const bool other_layout = opened.content() == durable::Arena::Content::other_layout;
    if (other_layout) {
        // A predecessor may still be using it: this version begins with an arena of its own.
        auto fresh = durable::Arena::open(-1, regions_for(options));
        if (!fresh) {
            return fresh.error();
        }
        opened = fresh.take();
    }
    auto data =
        durable::MemoryFile::open(keeper ? keeper->memory(data_name(opened)) : options.data_descriptor,
                                  "keel-data", options.data_pool_bytes, options.data_pool_bytes);
    if (!data) {
        return data.error();
    }
    auto kernel = reactor::UringKernel::make();
    if (!kernel) {
        return kernel.error();
    }
    durable::MemoryFile memory = data.take();
    if (keeper && !memory.carried()) {
        HugePages::fill(memory.descriptor(), options.data_pool_bytes);  // before it is pinned
    }
    kernel.value()->register_memory(memory.memory());
    std::unique_ptr<Engine> engine(new Engine(options, std::move(opened), std::move(memory), kernel.take(),
                                              std::move(keeper), other_layout));
    engine->build();
    engine->mapped_at_ = base::monotonic_now();
    return engine;
}

Engine::Engine(const Options& options, durable::Arena arena, durable::MemoryFile data,
               std::unique_ptr<reactor::UringKernel> kernel, std::unique_ptr<KeeperLink> keeper,
               bool other_layout)
    : options_(options),
      arena_(std::move(arena)),
      data_(std::move(data)),
      kernel_(std::move(kernel)),
      keeper_(std::move(keeper)),
      other_layout_(other_layout),
      reactor_(*kernel_),
      quarantine_timer_(reactor_, *this),
      forget_timer_(reactor_, *this),
      complete_timer_(reactor_, *this),
      map_ahead_timer_(reactor_, *this),
      device_watch_(reactor_, *this),
      device_news_(reactor_, *this) {}

void Engine::build() {
    base::arm_crash_points_from_environment();
    buffers_ = std::make_unique<reactor::DataBuffers>(data_.memory());
    buffer_service_ =
        std::make_unique<reactor::MemberDeferred<&reactor::DataBuffers::serve_waiters>>(reactor_, *buffers_);
    buffers_->serve_with(*buffer_service_);
    regions_.set(transport::MemoryRegions::data_pool, data_.memory());
    auto zeroes =
        durable::MemoryFile::open(-1, "keel-zeroes", limits::transfer_bytes_max, limits::transfer_bytes_max);
    EK_CHECK(zeroes.ok(), "a megabyte of address space");
    zeroes_ = zeroes.take();
    regions_.set(zeroes_region, zeroes_.memory());

    memories_ = std::make_unique<Memories>(
        records<MemoryRecord>(arena_, Region::memories, limits::devices_max), regions_);
    environment_ = std::make_unique<block::Environment>(block::Environment{
        .reactor = reactor_,
        .find = [this](const std::string& name) { return find_device(name); },
        .memory = [this](const std::string& name,
                         std::uint64_t bytes) { return memories_->get(name, bytes); },
        .forget_memory = [this](const std::string& name) { memories_->forget(name); },
        .zeroes = {zeroes_region, 0},
        .log = [this](const char* level, const char* area,
                      std::string message) { log(level, area, std::move(message)); },
    });

    target_ = std::make_unique<nvme::Target>(
        reactor_, buffers_->common(),
        nvme::Target::Records{
            .controllers =
                records<nvme::ControllerRecord>(arena_, Region::controllers, options_.controllers_max),
            .subsystems = records<nvme::SubsystemRecord>(arena_, Region::subsystems, limits::subsystems_max),
            .namespaces = records<nvme::NamespaceRecord>(arena_, Region::namespaces, namespace_records),
        });
    nvme::TargetLimits target_limits;
    target_limits.controllers_per_host = options_.controllers_per_host_max;
    target_limits.connections_per_host = options_.connections_per_host_max;
    target_limits.connections = options_.connections_max;
    target_limits.io_queues_per_controller = options_.io_queues_per_controller_max;
    target_limits.queue_entries = options_.max_queue_entries;
    target_limits.admission_deadline = options_.admission_timeout_ms * base::millisecond;
    target_->set_limits(target_limits);
    target_->set_event_sink([this](const nvme::TargetEvent& event) { hear(event); });

    transport::TcpOptions tcp;
    tcp.traits.in_capsule_bytes_io = options_.in_capsule_bytes_io;
    tcp.connect_timeout = options_.connect_timeout_ms * base::millisecond;
    tcp.transfer_timeout = options_.transfer_timeout_ms * base::millisecond;
    transport_ = std::make_unique<transport::TcpTransport>(
        reactor_, *target_, *buffers_, regions_, arena_,
        transport::TcpTransport::Regions{Region::connections, Region::commands, Region::transmit,
                                         Region::stream},
        tcp, transport::TransportLimits{options_.connections_max, options_.connections_per_host_max});
    transport_->log = [this](const std::string& level, const std::string& message) {
        log(level.c_str(), "transport", message);
    };
}

Engine::~Engine() { EK_CHECK(!thread_.joinable(), "the engine's thread is stopped and joined first"); }

void Engine::start(EventSink sink) {
    sink_ = std::move(sink);
    if (sink_) {
        target_->set_admission_hook([this](const nvme::ConnectRequest& request,
                                           nvme::AdmissionAnswer answer) {
            if (admissions_.size() >= admissions_max) {
                answer(false, "too many hosts wait for admission");
                return;
            }
            Event event;
            event.kind = Event::Kind::connect;
            event.request = next_admission_++;
            event.subsystem = request.subsystem_nqn;
            event.host_nqn = request.host_nqn;
            event.host_id = request.host_id;
            event.peer_address = request.endpoint.peer_address;
            event.peer_port = static_cast<std::uint16_t>(std::atoi(request.endpoint.peer_service.c_str()));
            admissions_.emplace(event.request, std::move(answer));
            sink_(std::move(event));
        });
        target_->set_protection_hook(
            [this](const nvme::ProtectionRequest& request, nvme::AdmissionAnswer answer) {
                if (admissions_.size() >= admissions_max) {
                    answer(false, "too much waits for the control plane");
                    return;
                }
                Event event;
                event.kind = Event::Kind::write_protection;
                event.request = next_admission_++;
                event.subsystem = request.subsystem_nqn;
                event.nsid = request.nsid;
                event.nguid = request.nguid;
                event.protection = request.state;
                admissions_.emplace(event.request, std::move(answer));
                sink_(std::move(event));
            });
    }
    thread_ = std::thread([this] { run(); });
}

void Engine::run() {
    pthread_setname_np(pthread_self(), "keel-reactor");
    if (keeper_) {
        keeper_->on_go = [this](const KeeperGo& told) { go(told); };
        keeper_->on_quiesce = [this](base::Nanoseconds deadline, bool describe) {
            come_to_rest(deadline, describe);
        };
        keeper_->on_restart_failed = [this](const std::string& reason) {
            go_on();
            if (sink_) {
                Event event;
                event.kind = Event::Kind::restart_failed;
                event.reason = reason;
                sink_(std::move(event));
            }
        };
        keeper_->on_lost = [this] {
            log("error", "keeper", "the keeper is gone: this process must not die now");
        };
        keeper_->attach(reactor_, *memories_);
        if (keeper_->standby()) {
            map_ahead();
        }
    } else {
        KeeperGo alone;
        alone.reason = "start";
        go(alone);
    }
    device_watch_.start_after(device_watch_period);
    reactor_.run();
    if (auto stopped = std::exchange(stopped_, nullptr)) {
        stopped();
    }
}

// This process serves from here on; what it allocated is stored before anything depends on it.
void Engine::go(const KeeperGo& told) {
    go_ = told;
    going_ = true;
    go_at_ = base::monotonic_now();
    durable::Arena::Header& header = arena_.header();
    header.counters[counter_described] = 0;
    if (keeper_) {
        if (other_layout_) {
            rebuild();
        }
        // The arena last: with it, all that it names is the truth.
        if (keeper_->memory(data_name(arena_)) < 0 || other_layout_) {
            keeper_->client().store_memory(data_name(arena_), data_.descriptor(), true);
        }
        EK_CRASH_POINT("engine.go.between_stores");
        if (keeper_->memory(arena_name) < 0 || other_layout_) {
            keeper_->client().store_memory(arena_name, arena_.descriptor(), true);
        }
    }
    target_->set_discovery_generation(
        std::max(options_.discovery_generation, header.counters[counter_generation]));
    ++header.boots;
    if (go_.previous_pid == 0 && go_.reason == "keeper") {
        go_.previous_pid = header.server_pid;  // the keeper died too: it cannot tell
    }
    header.server_pid = static_cast<std::uint64_t>(getpid());
    header.started_monotonic_ns = go_at_;
    if (taken_) {
        take_over(std::exchange(taken_, nullptr));
    }
}

void Engine::take_over(std::function<void(const Takeover&)> taken) {
    if (!going_) {
        taken_ = std::move(taken);
        return;
    }
    Takeover takeover;
    takeover.kept = keeper_ != nullptr && keeper_->client().connected();
    takeover.carried = arena_.content() == durable::Arena::Content::carried || rebuilt_;
    takeover.go = go_;
    taken(takeover);
}

void Engine::be_warm() {
    if (!going_ && keeper_ && keeper_->standby()) {
        keeper_->client().standby(other_layout_);
    }
}

base::Result<transport::ListenerStatus> Engine::add_listener(transport::ListenerSpec spec) {
    if (keeper_) {
        spec.kept = true;
        spec.descriptor = keeper_->listener(spec.id);
    }
    auto added = transport_->add_listener(spec);
    if (added && keeper_) {
        keeper_->client().store_listener(spec.id, transport_->listener_socket(spec.id));
    }
    return added;
}

base::Result<void> Engine::remove_listener(const std::string& id) {
    auto removed = transport_->remove_listener(id);
    if (removed && keeper_) {
        keeper_->forget_listener(id);
    }
    return removed;
}

void Engine::stop(std::function<void()> stopped) {
    post([this, stopped = std::move(stopped)]() mutable {
        stopped_ = std::move(stopped);
        device_watch_.stop();
        complete_timer_.stop();
        map_ahead_timer_.stop();
        if (keeper_) {
            keeper_->client().stopping();
            keeper_->on_connection = [](const KeeperLink::Connection& connection) {
                close(connection.socket);
            };
        }
        for (auto& [request, answer] : std::exchange(admissions_, {})) {
            answer(false, "the server stops");
        }
        transport_->shut_down([this] {
            post([this] {
                transport_.reset();
                target_.reset();  // releases the claims
                close_devices();
            });
        });
    });
}

void Engine::finish_stop() {
    if (!keeper_) {
        reactor_.stop();
        return;
    }
    keeper_->stop([this] { reactor_.stop(); });
}

void Engine::join() {
    if (thread_.joinable()) {
        thread_.join();
    }
}

void Engine::log(const char* level, const char* area, std::string message) {
    if (!sink_) {
        return;
    }
    Event event;
    event.kind = Event::Kind::log;
    event.level = level;
    event.area = area;
    event.message = std::move(message);
    sink_(std::move(event));
}

void Engine::hear(const nvme::TargetEvent& event) {
    using Kind = nvme::TargetEventKind;
    if (event.kind == Kind::generation_changed) {
        arena_.header().counters[counter_generation] = event.value;
    }
    if (!sink_) {
        return;
    }
    if (event.kind == Kind::generation_changed) {
        Event out;
        out.kind = Event::Kind::discovery_generation;
        out.generation = event.value;
        sink_(std::move(out));
        return;
    }
    if (event.kind == Kind::controller_created || event.kind == Kind::controller_ended) {
        Event out;
        out.kind = Event::Kind::controller;
        out.connected = event.kind == Kind::controller_created;
        out.subsystem = event.subsystem_nqn;
        out.host_nqn = event.host_nqn;
        out.cntlid = event.cntlid;
        out.message = event.text;
        sink_(std::move(out));
        return;
    }
    const bool bad = event.kind == Kind::connect_rejected || event.kind == Kind::keep_alive_expired ||
                     event.kind == Kind::adoption_refused;
    std::string text = nvme::name_of(event.kind);
    const auto add = [&](const char* label, const std::string& value) {
        if (!value.empty()) {
            text += std::string(" ") + label + " " + value;
        }
    };
    add("host", event.host_nqn);
    add("subsystem", event.subsystem_nqn);
    if (event.cntlid != 0) {
        add("controller", std::to_string(event.cntlid));
    }
    if (event.nsid != 0) {
        add("namespace", std::to_string(event.nsid));
    }
    if (!event.text.empty()) {
        text += ": " + event.text;
    }
    log(bad ? "warn" : "info", "nvme", std::move(text));
}

base::Result<void> Engine::add_namespace(const std::string& nqn, const nvme::NamespaceSpec& spec) {
    block::Device* device = find_device(spec.device);
    if (device == nullptr) {
        return base::Error{"E_NOT_FOUND", "there is no device \"" + spec.device + "\""};
    }
    return target_->add_namespace(nqn, spec, *device);
}

void Engine::admit(std::uint32_t request, bool allow, std::string reason) {
    const auto found = admissions_.find(request);
    if (found == admissions_.end()) {
        return;  // its deadline has passed
    }
    nvme::AdmissionAnswer answer = std::move(found->second);
    admissions_.erase(found);
    answer(allow, std::move(reason));
}

std::uint32_t Engine::disconnect_host(const std::string& host_nqn, const std::string& subsystem) {
    return transport_->disconnect(
        [&](transport::TcpConnection& connection) {
            nvme::Controller* controller = connection.queue().controller();
            return controller != nullptr && host_nqn == controller->host_nqn() &&
                   (subsystem.empty() || subsystem == controller->subsystem().nqn());
        },
        "disconnected by the operator");
}

Status Engine::status() {
    Status status;
    for (auto& device : devices_) {
        status.devices.push_back(status_of(*device));
    }
    for (nvme::SubsystemStatus& subsystem : target_->subsystem_status()) {
        SubsystemStatus out;
        for (const nvme::NamespaceStatus& ns : subsystem.namespaces) {
            out.namespaces.push_back({ns, *ns.read_latency, *ns.write_latency});
        }
        out.status = std::move(subsystem);
        status.subsystems.push_back(std::move(out));
    }
    status.controllers = target_->controller_status();
    for (transport::ConnectionStatus& connection : transport_->connections()) {
        ConnectionStatus out;
        out.queue = *connection.queue;
        if (transport::TcpConnection* live = transport_->connection(connection.slot); live != nullptr) {
            const nvme::Controller* controller = live->queue().controller();
            if (controller != nullptr) {
                out.subsystem = controller->subsystem().nqn();
                out.host_nqn = controller->host_nqn();
                out.cntlid = controller->cntlid();
            }
        }
        out.status = std::move(connection);
        status.connections.push_back(std::move(out));
    }
    status.listeners = transport_->listeners();
    status.discovery_generation = target_->discovery_generation();
    status.data_pool_bytes = buffers_->bytes_total();
    status.data_pool_used_bytes = buffers_->bytes_in_use();
    timespec cpu{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    status.reactor_cpu_ns =
        static_cast<std::uint64_t>(cpu.tv_sec) * base::second + static_cast<std::uint64_t>(cpu.tv_nsec);
    status.reactor_iterations = reactor_.iterations();
    status.disconnects = transport_->end_reasons();
    status.connections_accepted = transport_->accepted();
    status.connections_refused = transport_->refused();
    return status;
}

void Engine::offer_connection(int socket, std::uint64_t id, bool discovery_only) {
    offers_.push_back({socket, id, discovery_only});
}

// Command slots of connections that will not go on may name buffers into which the dead process's reads still
// arrive.
void Engine::quarantine_buffers() {
    for (std::uint32_t slot = 0; slot < options_.connections_max; ++slot) {
        if (arena_.slot<transport::ConnectionRecord>(Region::connections, slot).state !=
                transport::ConnectionState::open ||
            transport_->connection(slot) != nullptr) {
            continue;
        }
        const auto* commands = &arena_.slot<nvme::CommandRecord>(Region::commands, slot);
        for (std::uint32_t index = 0; index < limits::command_slots_max; ++index) {
            const nvme::CommandRecord& command = commands[index];
            if (command.state != nvme::CommandState::free && command.buffer_bytes != 0 &&
                command.buffer_bytes <= limits::transfer_bytes_max &&
                buffers_->pool_of(command.data_offset).reserve(command.data_offset, command.buffer_bytes)) {
                quarantined_.emplace_back(command.data_offset, command.buffer_bytes);
            }
        }
    }
    check_quarantine();
}

bool Engine::waits_for_locks() const {
    return std::any_of(devices_.begin(), devices_.end(),
                       [](const auto& device) { return device->health().state == "waiting for lock"; });
}

void Engine::check_quarantine() {
    if (quarantined_.empty()) {
        return;
    }
    if (waits_for_locks()) {
        quarantine_timer_.start_after(quarantine_poll);
        return;
    }
    for (const auto& [offset, bytes] : std::exchange(quarantined_, {})) {
        buffers_->pool_of(offset).release(offset, bytes);
    }
}

// Copies what the flight recorders hold, before the connections go on and write to them.
void Engine::remember_last_pdus() {
    for (std::uint32_t slot = 0; slot < options_.connections_max; ++slot) {
        const auto& record = arena_.slot<transport::ConnectionRecord>(Region::connections, slot);
        if (record.state != transport::ConnectionState::open) {
            continue;
        }
        LastPdus last;
        last.connection = record.id;
        last.qid = record.queue.qid;
        last.received = record.receive.current().consumed;
        if (record.transmit_tail != 0 && record.transmit_slots != 0) {
            const auto* entries = &arena_.slot<transport::TransmitEntry>(Region::transmit, slot);
            last.sent = entries[(record.transmit_tail - 1) & (record.transmit_slots - 1)].end();
        }
        if (record.queue.controller != 0 && record.queue.controller <= options_.controllers_max) {
            const auto& controller =
                arena_.slot<nvme::ControllerRecord>(Region::controllers, record.queue.controller - 1);
            last.host_nqn.assign(controller.host_nqn,
                                 strnlen(controller.host_nqn, sizeof controller.host_nqn));
        }
        const auto* commands = &arena_.slot<nvme::CommandRecord>(Region::commands, slot);
        const std::uint32_t used =
            std::min<std::uint32_t>(record.queue.entries * 2u, limits::command_slots_max);
        for (std::uint32_t index = 0; index < used; ++index) {
            last.commands_in_flight += commands[index].state != nvme::CommandState::free ? 1 : 0;
        }
        const std::uint64_t count = std::min<std::uint64_t>(record.flight_count, transport::flight_entries);
        for (std::uint64_t back = count; back != 0; --back) {
            last.pdus.push_back(record.flight[(record.flight_count - back) % transport::flight_entries]);
        }
        last_pdus_.push_back(std::move(last));
    }
}

// Controllers whose host has had no answer for longer than its keep-alive time: it may have moved on to
// another path and written there, so what it had in flight here must not be written any more.
std::vector<bool> Engine::silent_controllers() const {
    const base::Nanoseconds now = base::monotonic_now();
    std::vector<bool> silent(options_.controllers_max, false);
    for (std::uint32_t slot = 0; slot < options_.controllers_max; ++slot) {
        const auto& record = arena_.slot<nvme::ControllerRecord>(Region::controllers, slot);
        silent[slot] = record.state == nvme::RecordState::in_use && record.kato_ms != 0 &&
                       now > record.last_contact_ns + record.kato_ms * base::millisecond;
    }
    return silent;
}

Adoption Engine::adopt() {
    const base::Nanoseconds configured_at = base::monotonic_now();
    const bool locks_missing = waits_for_locks();
    Adoption adoption;
    adoption.carried_arena = arena_.content() == durable::Arena::Content::carried || rebuilt_;
    if (keeper_) {
        for (const KeeperLink::Connection& connection : keeper_->take_connections()) {
            offers_.push_back(
                {connection.socket, connection.id, transport_->is_discovery_listener(connection.listener)});
        }
        keeper_->on_connection = [this](const KeeperLink::Connection& connection) {
            transport_->take(connection.socket, connection.id,
                             transport_->is_discovery_listener(connection.listener));
        };
        transport_->closed = [this](std::uint64_t id, const std::string&) {
            keeper_->client().forget_connection(id);
        };
    }
    if (adoption.carried_arena && !rebuilt_) {
        remember_last_pdus();
    }
    const std::vector<bool> silent = adoption.carried_arena ? silent_controllers() : std::vector<bool>();
    const auto veto = [&](const transport::ConnectionRecord& record) -> std::string {
        const std::uint32_t controller = record.queue.controller;
        return controller != 0 && controller <= silent.size() && silent[controller - 1]
                   ? "its host waited longer than its keep-alive time"
                   : "";
    };
    // In memory that is new there is nothing to find, and looking would make all of it resident.
    if (adoption.carried_arena) {
        target_->adopt_controllers();
    }
    std::vector<Offer> unread;
    for (const Offer& offer : std::exchange(offers_, {})) {
        EK_CRASH_POINT("engine.adopt.connection");
        std::string why;
        switch (transport_->adopt(offer.socket, offer.id, offer.discovery_only, veto, why)) {
            case transport::TcpTransport::Adoption::carried: ++adoption.carried; break;
            case transport::TcpTransport::Adoption::unread: unread.push_back(offer); break;
            case transport::TcpTransport::Adoption::refused:
                explain_loss(offer.id, why);
                adoption.refused.push_back("connection " + std::to_string(offer.id) + ": " + why);
                break;
        }
    }
    if (adoption.carried_arena) {
        quarantine_buffers();
        transport_->forget_unadopted();
    }
    for (const Offer& offer : unread) {
        adoption.begun += transport_->take(offer.socket, offer.id, offer.discovery_only) ? 1 : 0;
    }
    target_->drop_orphans();
    adoption.executed = transport_->execute_adopted();
    if (keeper_) {
        std::set<std::string> used;
        for (const transport::ListenerStatus& listener : transport_->listeners()) {
            used.insert(listener.id);
        }
        keeper_->forget_listeners_but(used);
        keeper_->client().ready();
        // Of a migration that has ended otherwise: the next one must not go on with it. Of a mirror that is
        // no more.
        memories_->forget_unused([](const std::string& name) {
            return name.ends_with(block::migration::map_suffix) ||
                   name.ends_with(block::mirror::witness_suffix);
        });
        keeper_->forget_memories([this](const std::string& name) {
            return name == description_name || (name.starts_with(data_prefix) && name != data_name(arena_));
        });
    }
    if (go_.previous_pid != 0) {
        RestartRecord record{};
        record.time_ms = base::realtime_now_ms();
        record.died_ns = go_.died_ns;
        record.go_ns = go_at_;
        record.configured_ns = configured_at;
        record.served_ns = base::monotonic_now();
        record.previous_pid = go_.previous_pid;
        record.carried = adoption.carried;
        record.begun = adoption.begun;
        record.refused = static_cast<std::uint32_t>(adoption.refused.size());
        record.executed = adoption.executed;
        go_.reason.copy(record.reason, sizeof record.reason - 1);
        go_.exit.copy(record.exit, sizeof record.exit - 1);
        record.started_ns = go_.started_ns;
        record.loaded_ns = keeper_ ? keeper_->opened_at() : 0;
        record.mapped_ns = mapped_at_;
        record.barrier_ns = locks_missing ? 0 : configured_at;
        restart_record_ = &remember(arena_.slot<RestartArea>(Region::restarts, 0), record);
        complete_record();
    }
    return adoption;
}

// The more time has passed, the less a moment matters.
void Engine::complete_record() {
    RestartRecord& record = *restart_record_;
    const base::Nanoseconds now = base::monotonic_now();
    if (record.barrier_ns == 0 && !waits_for_locks()) {
        record.barrier_ns = now;
    }
    record.first_byte_ns = transport_ ? transport_->first_sent_at() : 0;
    if (record.barrier_ns == 0 || record.first_byte_ns == 0) {
        complete_timer_.start_after(
            std::min((now - record.served_ns) / 16 + part_period_min, device_watch_period));
    }
}

// The connections of the server that lives come and go.
void Engine::map_ahead() {
    if (going_ || other_layout_) {
        return;
    }
    arena_.map_ahead();
    // Low slots are taken first. Looking at those that never were would make them resident.
    std::size_t connections = 0;
    std::uint32_t closed = 0;
    std::uint32_t entries = limits::queue_entries_min;
    for (std::uint32_t slot = 0; slot < options_.connections_max && closed < closed_slots_max; ++slot) {
        const auto& record = arena_.slot<transport::ConnectionRecord>(Region::connections, slot);
        ++closed;
        if (record.state == transport::ConnectionState::open) {
            ++connections;
            closed = 0;
            entries = std::max<std::uint32_t>(entries, record.queue.entries);
        }
    }
    const std::size_t commands = std::min<std::size_t>(std::size_t{entries} * 2, limits::command_slots_max);
    target_->command_memory().prepare(connections, sizeof(nvme::Command) * limits::command_slots_max,
                                      sizeof(nvme::Command) * commands);
    map_ahead_timer_.start_after(map_ahead_period);
}

}  // namespace engine
