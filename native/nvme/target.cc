#include "nvme/target.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "nvme/controller.h"
#include "nvme/properties.h"
#include "wire/nvme_fabrics.h"

namespace nvme {

namespace {

std::uint64_t hash_of(std::string_view text) {
    std::uint64_t hash = 0xCBF29CE484222325;
    for (const char c : text) {
        hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001B3;
    }
    return hash;
}

template <std::size_t Size>
void put_name(char (&field)[Size], std::string_view name) {
    std::memset(field, 0, Size);
    std::memcpy(field, name.data(), std::min(name.size(), Size - 1));
}

// A name that a predecessor stored; nothing if it does not end within its field.
template <std::size_t Size>
std::string_view stored_name(const char (&field)[Size]) {
    const std::size_t length = strnlen(field, Size);
    return length < Size ? std::string_view(field, length) : std::string_view();
}

base::Error error(const char* code, std::string message) { return base::Error{code, std::move(message), 0}; }

bool printable(std::string_view text, std::size_t most) {
    return !text.empty() && text.size() <= most &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7F; });
}

base::Result<void> check(const SubsystemSpec& spec) {
    if (!printable(spec.nqn, limits::nqn_bytes_max) || spec.nqn == wire::discovery_nqn) {
        return error("E_INVALID", "subsystem NQN '" + spec.nqn + "' is not 1 to 223 printable characters");
    }
    if (!printable(spec.serial, 20) || !printable(spec.model, 40) || !printable(spec.firmware, 8)) {
        return error("E_INVALID",
                     "subsystem " + spec.nqn +
                         ": serial (1 to 20), model (1 to 40) and firmware (1 to 8) are printable ASCII");
    }
    if (spec.cntlid_min == 0 || spec.cntlid_min > spec.cntlid_max || spec.cntlid_max > limits::cntlid_max) {
        return error("E_INVALID", "subsystem " + spec.nqn + ": controller ids must lie in 1 to 65519");
    }
    if (spec.max_namespaces == 0 || spec.max_namespaces > limits::namespaces_per_subsystem_max) {
        return error("E_INVALID", "subsystem " + spec.nqn + ": max_namespaces must lie in 1 to " +
                                      std::to_string(limits::namespaces_per_subsystem_max));
    }
    return {};
}

base::Error no_subsystem(const std::string& nqn) { return error("E_NOT_FOUND", "no subsystem " + nqn); }

base::Error no_namespace(const std::string& nqn, std::uint32_t nsid) {
    return error("E_NOT_FOUND", "subsystem " + nqn + " has no namespace " + std::to_string(nsid));
}

bool all_zero(const std::array<std::uint8_t, 16>& id) {
    return std::all_of(id.begin(), id.end(), [](std::uint8_t byte) { return byte == 0; });
}

template <typename Record>
void store_in_use(Record& record) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    record.state = RecordState::in_use;
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

template <typename Record>
void store_free(Record& record) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    record.state = RecordState::free;
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace

const char* name_of(TargetEventKind kind) {
    switch (kind) {
        case TargetEventKind::controller_created: return "controller_created";
        case TargetEventKind::controller_ended: return "controller_ended";
        case TargetEventKind::connect_rejected: return "connect_rejected";
        case TargetEventKind::keep_alive_expired: return "keep_alive_expired";
        case TargetEventKind::controller_reset: return "controller_reset";
        case TargetEventKind::controller_shutdown: return "controller_shutdown";
        case TargetEventKind::host_disallowed: return "host_disallowed";
        case TargetEventKind::namespace_resized: return "namespace_resized";
        case TargetEventKind::write_protection_changed: return "write_protection_changed";
        case TargetEventKind::generation_changed: return "generation_changed";
        case TargetEventKind::adoption_refused: return "adoption_refused";
    }
    return nullptr;
}

// --- life ---

struct Target::Question {
    Question(Target& owner, std::uint64_t number, QueuePair& q, Command& c, Decided callback)
        : target(owner), id(number), queue(q), command(c), decided(callback), timer(owner.reactor(), *this) {}

    void due() { target.decide(id, {.allow = false, .timed_out = true, .reason = {}}); }

    Target& target;
    std::uint64_t id;
    QueuePair& queue;
    Command& command;
    Decided decided;
    reactor::MemberTimer<&Question::due> timer;
};

Target::Target(reactor::Reactor& reactor, reactor::BufferPool& buffers, const Records& records)
    : reactor_(reactor),
      buffers_(buffers),
      records_(records),
      temperature_(temperature_nominal),
      controllers_(records.controllers.size()),
      self_(std::make_shared<Target*>(this)) {
    SubsystemSpec spec;
    spec.nqn = wire::discovery_nqn;
    spec.serial = "DISCOVERY";
    spec.allow_any_host = true;
    discovery_ = std::make_unique<Subsystem>(*this, spec, discovery_record_, true);
}

Target::~Target() {
    self_.reset();
    questions_.clear();
    controllers_.clear();
}

void Target::post(std::function<void()> task) {
    reactor_.post([alive = std::weak_ptr<Target*>(self_), task = std::move(task)] {
        if (!alive.expired()) {
            task();
        }
    });
}

void Target::emit(const TargetEvent& event) {
    if (sink_) {
        sink_(event);
    }
}

void Target::set_temperature(std::uint16_t kelvin) {
    temperature_ = kelvin;
    for (const auto& controller : controllers_) {
        if (controller != nullptr) {
            controller->check_temperature();
        }
    }
}

// --- subsystems ---

Subsystem* Target::find(std::string_view nqn) const {
    if (nqn == wire::discovery_nqn) {
        return discovery_.get();
    }
    const auto at = subsystems_.find(nqn);
    return at != subsystems_.end() ? at->second.get() : nullptr;
}

std::vector<Subsystem*> Target::subsystems() const {
    std::vector<Subsystem*> all;
    all.reserve(subsystems_.size());
    for (const auto& [nqn, subsystem] : subsystems_) {
        all.push_back(subsystem.get());
    }
    return all;
}

SubsystemRecord* Target::subsystem_record(const std::string& nqn) {
    SubsystemRecord* free = nullptr;
    for (SubsystemRecord& record : records_.subsystems) {
        if (record.state == RecordState::in_use && stored_name(record.nqn) == nqn) {
            ++record.restarts;
            return &record;
        }
        if (free == nullptr && record.state != RecordState::in_use) {
            free = &record;
        }
    }
    if (free != nullptr) {
        std::memset(static_cast<void*>(free), 0, sizeof(*free));
        put_name(free->nqn, nqn);
        free->created_ms = base::realtime_now_ms();
        store_in_use(*free);
    }
    return free;
}

std::uint32_t Target::slot_of(const SubsystemRecord& record) const {
    return static_cast<std::uint32_t>(&record - records_.subsystems.data());
}

base::Result<void> Target::add_subsystem(const SubsystemSpec& spec) {
    if (auto checked = check(spec); !checked.ok()) {
        return checked;
    }
    if (subsystems_.find(spec.nqn) != subsystems_.end()) {
        return error("E_EXISTS", "subsystem " + spec.nqn + " exists already");
    }
    SubsystemRecord* const record = subsystem_record(spec.nqn);
    if (record == nullptr) {
        return error("E_LIMIT", "there is no room for another subsystem");
    }
    subsystems_[spec.nqn] = std::make_unique<Subsystem>(*this, spec, *record, false);
    discovery_changed();
    return {};
}

base::Result<void> Target::remove_subsystem(const std::string& nqn, std::function<void()> done) {
    const auto at = subsystems_.find(nqn);
    if (at == subsystems_.end() || at->second->removing()) {
        return no_subsystem(nqn);
    }
    Subsystem& subsystem = *at->second;
    subsystem.empty([this, nqn, done = std::move(done)] {
        const auto empty = subsystems_.find(nqn);
        EK_CHECK(empty != subsystems_.end(), "a subsystem went twice");
        SubsystemRecord& record = empty->second->record();
        forget_records(*empty->second);
        subsystems_.erase(empty);
        store_free(record);
        if (done) {
            done();
        }
    });
    discovery_changed();
    return {};
}

base::Result<void> Target::set_in_flight(const std::string& nqn, InFlight policy) {
    const auto at = subsystems_.find(nqn);
    if (at == subsystems_.end() || at->second->removing()) {
        return no_subsystem(nqn);
    }
    at->second->set_in_flight(policy);
    return {};
}

base::Result<void> Target::set_hosts(const std::string& nqn, bool allow_any,
                                     const std::vector<std::string>& hosts) {
    const auto at = subsystems_.find(nqn);
    if (at == subsystems_.end() || at->second->removing()) {
        return no_subsystem(nqn);
    }
    Subsystem& subsystem = *at->second;
    subsystem.set_hosts(allow_any, hosts);
    const std::vector<Controller*> present = subsystem.controllers();
    for (Controller* controller : present) {
        if (!controller->terminating() && !subsystem.allows(controller->host_nqn())) {
            emit({.kind = TargetEventKind::host_disallowed,
                  .subsystem_nqn = nqn,
                  .host_nqn = std::string(controller->host_nqn()),
                  .cntlid = controller->cntlid()});
            controller->terminate("the host is no longer allowed");
        }
    }
    discovery_changed();
    return {};
}

base::Result<void> Target::set_ana_state(const std::string& nqn, AnaState state) {
    const auto at = subsystems_.find(nqn);
    if (at == subsystems_.end()) {
        return no_subsystem(nqn);
    }
    at->second->set_ana_state(state);
    return {};
}

// --- namespaces ---

base::Result<void> Target::add_namespace(const std::string& nqn, const NamespaceSpec& spec,
                                         block::Device& device) {
    const auto at = subsystems_.find(nqn);
    if (at == subsystems_.end() || at->second->removing()) {
        return no_subsystem(nqn);
    }
    Subsystem& subsystem = *at->second;
    const std::string what = "namespace " + std::to_string(spec.nsid) + " of " + nqn;
    if (spec.nsid == 0 || spec.nsid > subsystem.spec().max_namespaces) {
        return error("E_INVALID",
                     what + ": the NSID must lie in 1 to " + std::to_string(subsystem.spec().max_namespaces));
    }
    if (all_zero(spec.nguid)) {
        return error("E_INVALID", what + ": the NGUID must not be zero");
    }
    const std::uint32_t block_bytes = device.describe().block_bytes;
    if (device.describe().size_bytes == 0) {
        return error("E_NOT_READY", what + ": the size of device " + device.name() + " is not known yet");
    }
    if (block_bytes < 512 || block_bytes > limits::page_bytes || !std::has_single_bit(block_bytes) ||
        device.describe().size_bytes < block_bytes) {
        return error("E_INVALID", what + ": device " + device.name() + " has no blocks of 512 to 4096 bytes");
    }
    if (subsystem.find_namespace(spec.nsid) != nullptr) {
        return error("E_EXISTS", what + " exists already");
    }
    for (const auto& [other_nqn, other] : subsystems_) {
        for (const auto& [nsid, ns] : other->namespaces()) {
            const bool same_uuid = !all_zero(spec.uuid) && ns->spec().uuid == spec.uuid;
            if (ns->spec().nguid == spec.nguid || same_uuid) {
                std::string text = what + ": namespace " + std::to_string(nsid) + " of ";
                text += other_nqn;
                text += same_uuid ? " has the same UUID" : " has the same NGUID";
                return error("E_EXISTS", std::move(text));
            }
        }
    }
    const bool reads_only = spec.read_only || device.describe().read_only;
    auto claim =
        block::Claim::take(device, reads_only ? block::Access::read_only : block::Access::read_write, what);
    if (!claim.ok()) {
        return claim.error();
    }
    auto ns = std::make_unique<Namespace>(subsystem, spec, claim.take());
    NamespaceRecord* const record = namespace_record(subsystem, spec);
    if (record == nullptr) {
        return error("E_LIMIT", "there is no room for another namespace");
    }
    ns->set_write_protection(record->write_protection);
    subsystem.add(std::move(ns));
    return {};
}

NamespaceRecord* Target::namespace_record(const Subsystem& subsystem, const NamespaceSpec& spec) {
    const std::uint32_t owner = slot_of(subsystem.record()) + 1;
    NamespaceRecord* free = nullptr;
    for (NamespaceRecord& record : records_.namespaces) {
        if (record.state == RecordState::in_use && record.subsystem == owner && record.nsid == spec.nsid) {
            if (std::memcmp(record.nguid, spec.nguid.data(), sizeof(record.nguid)) == 0) {
                return &record;
            }
            store_free(record);  // another namespace had this NSID
        }
        if (free == nullptr && record.state != RecordState::in_use) {
            free = &record;
        }
    }
    if (free != nullptr) {
        *free = NamespaceRecord{};
        free->nsid = spec.nsid;
        free->subsystem = owner;
        free->write_protection = spec.write_protection;
        std::memcpy(free->nguid, spec.nguid.data(), sizeof(free->nguid));
        reset_namespace_features(subsystem, spec.nsid);
        store_in_use(*free);
    }
    return free;
}

// In the records: there may be controllers that are not adopted yet.
void Target::reset_namespace_features(const Subsystem& subsystem, std::uint32_t nsid) {
    const std::uint64_t hash = hash_of(subsystem.nqn());
    for (ControllerRecord& record : records_.controllers) {
        if (record.state == RecordState::in_use && record.subsystem_hash == hash &&
            stored_name(record.subsystem_nqn) == subsystem.nqn()) {
            record.error_recovery[nsid - 1] = 0;
        }
    }
}

base::Result<void> Target::remove_namespace(const std::string& nqn, std::uint32_t nsid,
                                            std::function<void()> done) {
    const auto at = subsystems_.find(nqn);
    if (at == subsystems_.end() || at->second->removing()) {
        return no_subsystem(nqn);
    }
    Subsystem& subsystem = *at->second;
    const Namespace* const ns = subsystem.find_namespace(nsid);
    if (ns == nullptr) {
        return no_namespace(nqn, nsid);
    }
    if (NamespaceRecord* const record = namespace_record(subsystem, ns->spec())) {
        store_free(*record);
    }
    subsystem.remove(nsid, std::move(done));
    return {};
}

base::Result<void> Target::set_namespace_read_only(const std::string& nqn, std::uint32_t nsid,
                                                   bool read_only) {
    const auto at = subsystems_.find(nqn);
    Namespace* const ns = at != subsystems_.end() ? at->second->find_namespace(nsid) : nullptr;
    if (ns == nullptr) {
        return no_namespace(nqn, nsid);
    }
    return ns->set_read_only(read_only);
}

void Target::forget_records(const Subsystem& subsystem) {
    const std::uint32_t owner = slot_of(subsystem.record()) + 1;
    for (NamespaceRecord& record : records_.namespaces) {
        if (record.state == RecordState::in_use && record.subsystem == owner) {
            store_free(record);
        }
    }
}

// Of subsystems and namespaces that the configuration no longer has.
void Target::forget_stale_records() {
    for (NamespaceRecord& record : records_.namespaces) {
        if (record.state != RecordState::in_use) {
            continue;
        }
        const bool known = std::any_of(subsystems_.begin(), subsystems_.end(), [&](const auto& entry) {
            return slot_of(entry.second->record()) + 1 == record.subsystem &&
                   entry.second->find_namespace(record.nsid) != nullptr;
        });
        if (!known) {
            store_free(record);
        }
    }
    for (SubsystemRecord& record : records_.subsystems) {
        if (record.state == RecordState::in_use &&
            subsystems_.find(stored_name(record.nqn)) == subsystems_.end()) {
            store_free(record);
        }
    }
}

// --- discovery and loading ---

void Target::set_listeners(std::vector<ListenerInfo> listeners) {
    if (listeners_ != listeners) {
        listeners_ = std::move(listeners);
        discovery_changed();
    }
}

void Target::set_referrals(std::vector<Referral> referrals) {
    if (referrals_ != referrals) {
        referrals_ = std::move(referrals);
        discovery_changed();
    }
}

void Target::set_loading(bool loading) {
    if (loading_ == loading) {
        return;
    }
    loading_ = loading;
    if (!loading_) {
        forget_stale_records();
        announce_changes();
    }
}

// What changed while it was not announced, and what changed since a predecessor died.
void Target::announce_changes() {
    bool discovery_differs = false;
    for (const Controller* controller : discovery_->controllers()) {
        generation_ = std::max(generation_, controller->record().discovery_generation);
        discovery_differs = discovery_differs ||
                            discovery_digest(controller->host_nqn()) != controller->record().discovery_digest;
    }
    if (discovery_differs) {
        ++generation_;
        emit({.kind = TargetEventKind::generation_changed, .value = generation_});
    }
    for (const auto& controller : controllers_) {
        if (controller != nullptr && !controller->terminating()) {
            controller->compare_with_target();
        }
    }
}

// --- controllers ---

Controller* Target::create_controller(Subsystem& subsystem, std::string_view host_nqn,
                                      std::span<const std::uint8_t, 16> host_id, std::uint32_t kato_ms,
                                      QueuePair& admin_queue, wire::Status& refusal) {
    refusal = wire::status::connect_controller_busy;
    std::size_t slot = 0;
    while (slot < controllers_.size() &&
           (controllers_[slot] != nullptr || records_.controllers[slot].state == RecordState::in_use)) {
        ++slot;
    }
    const std::uint16_t cntlid = slot < controllers_.size() ? subsystem.allocate_cntlid() : std::uint16_t{0};
    if (cntlid == 0) {
        return nullptr;
    }
    ControllerRecord& record = records_.controllers[slot];
    const std::uint32_t generation = record.generation + 1;
    std::memset(static_cast<void*>(&record), 0, sizeof(record));
    record.generation = generation;
    record.subsystem_hash = hash_of(subsystem.nqn());
    put_name(record.subsystem_nqn, subsystem.nqn());
    put_name(record.host_nqn, host_nqn);
    std::memcpy(record.host_id, host_id.data(), sizeof(record.host_id));
    record.cntlid = cntlid;
    record.kind = subsystem.is_discovery() ? ControllerKind::discovery : ControllerKind::io;
    record.admin_connection = admin_queue.connection().connection_slot() + 1;
    record.created_ms = base::realtime_now_ms();
    controllers_[slot] =
        std::make_unique<Controller>(*this, subsystem, record, static_cast<std::uint32_t>(slot), false);
    Controller& controller = *controllers_[slot];
    controller.set_keep_alive(kato_ms);
    controller.reset_features();
    controller.note_target_state();
    store_in_use(record);
    refusal = wire::status::success;
    return &controller;
}

void Target::controller_ended(Controller& controller) {
    store_free(controller.record());
    post([this, slot = controller.slot()] {
        Subsystem& subsystem = controllers_[slot]->subsystem();
        controllers_[slot] = nullptr;
        subsystem.finish_if_empty();
    });
}

Controller* Target::controller_at(std::uint32_t slot) const {
    return slot < controllers_.size() ? controllers_[slot].get() : nullptr;
}

std::uint32_t Target::controllers_of(std::string_view host_nqn) const {
    return static_cast<std::uint32_t>(
        std::count_if(controllers_.begin(), controllers_.end(), [&](const auto& controller) {
            return controller != nullptr && !controller->terminating() && controller->host_nqn() == host_nqn;
        }));
}

std::uint32_t Target::connections_of(std::string_view host_nqn) const {
    std::uint32_t count = 0;
    for (const auto& controller : controllers_) {
        if (controller != nullptr && controller->host_nqn() == host_nqn) {
            count += controller->io_queue_count() + (controller->queue(0) != nullptr ? 1 : 0);
        }
    }
    return count;
}

bool Target::has_room_for(std::string_view address) const {
    const auto present = std::count_if(controllers_.begin(), controllers_.end(), [&](const auto& controller) {
        QueuePair* const admin = controller != nullptr ? controller->queue(0) : nullptr;
        return admin != nullptr && admin->connection().endpoint().peer_address == address;
    });
    return static_cast<std::size_t>(present) < std::max<std::size_t>(controllers_.size() / 2, 1);
}

// --- restart ---

void Target::adopt_controllers() {
    for (std::size_t slot = 0; slot < controllers_.size(); ++slot) {
        ControllerRecord& record = records_.controllers[slot];
        if (record.state != RecordState::in_use || controllers_[slot] != nullptr) {
            continue;
        }
        const std::string_view nqn = stored_name(record.subsystem_nqn);
        Subsystem* const subsystem = find(nqn);
        const char* reason = nullptr;
        if (subsystem == nullptr) {
            reason = "its subsystem is not configured any more";
        } else if (stored_name(record.host_nqn).empty() || record.cntlid == 0 ||
                   subsystem->is_discovery() != (record.kind == ControllerKind::discovery)) {
            reason = "its record is damaged";
        } else if (subsystem->find_controller(record.cntlid) != nullptr) {
            reason = "its controller id is in use";
        }
        if (reason != nullptr) {
            emit({.kind = TargetEventKind::adoption_refused,
                  .subsystem_nqn = std::string(nqn),
                  .host_nqn = std::string(stored_name(record.host_nqn)),
                  .cntlid = record.cntlid,
                  .text = reason});
            store_free(record);
            continue;
        }
        // The keep alive timer starts anew: the pause was ours, not the host's.
        controllers_[slot] =
            std::make_unique<Controller>(*this, *subsystem, record, static_cast<std::uint32_t>(slot), true);
    }
    if (!loading_) {
        announce_changes();
    }
}

void Target::drop_orphans() {
    for (const auto& controller : controllers_) {
        if (controller == nullptr || !controller->adopted() || controller->terminating()) {
            continue;
        }
        if (!controller->subsystem().allows(controller->host_nqn())) {
            controller->terminate("the host is no longer allowed");
        } else {
            controller->resume();
        }
    }
}

// --- questions to the control plane ---

AdmissionAnswer Target::open_question(QueuePair& queue, Command& command, Decided decided) {
    const std::uint64_t id = question_id_next_++;
    questions_.push_back(std::make_unique<Question>(*this, id, queue, command, decided));
    questions_.back()->timer.start_after(limits_.admission_deadline);
    return [alive = std::weak_ptr<Target*>(self_), id](bool allow, std::string reason) {
        if (const auto target = alive.lock()) {
            (*target)->decide(id, {.allow = allow, .timed_out = false, .reason = std::move(reason)});
        }
    };
}

bool Target::ask_admission(const ConnectRequest& request, QueuePair& queue, Command& command,
                           Decided decided) {
    if (!hook_) {
        return false;
    }
    hook_(request, open_question(queue, command, decided));
    return true;
}

bool Target::ask_protection(const ProtectionRequest& request, QueuePair& queue, Command& command,
                            Decided decided) {
    if (!protection_hook_) {
        return false;
    }
    protection_hook_(request, open_question(queue, command, decided));
    return true;
}

void Target::decide(std::uint64_t id, const Decision& decision) {
    const auto at = std::find_if(questions_.begin(), questions_.end(),
                                 [&](const auto& question) { return question->id == id; });
    if (at == questions_.end()) {
        return;  // too late, or the connection is gone
    }
    const std::unique_ptr<Question> question = std::move(*at);
    questions_.erase(at);
    question->timer.stop();
    question->decided(question->queue, question->command, decision);
}

void Target::cancel_questions(const QueuePair& queue) {
    std::erase_if(questions_, [&](const auto& question) { return &question->queue == &queue; });
}

void Target::cancel_question(const Command& command) {
    std::erase_if(questions_, [&](const auto& question) { return &question->command == &command; });
}

// --- status ---

std::vector<SubsystemStatus> Target::subsystem_status() const {
    std::vector<SubsystemStatus> all;
    for (const auto& [nqn, subsystem] : subsystems_) {
        SubsystemStatus& status = all.emplace_back();
        const SubsystemRecord& record = subsystem->record();
        status.spec = subsystem->spec();
        status.controllers = static_cast<std::uint32_t>(subsystem->controllers().size());
        status.ana_state = static_cast<std::uint8_t>(subsystem->ana_state());
        status.read_bytes = record.read_bytes;
        status.written_bytes = record.written_bytes;
        status.read_commands = record.read_commands;
        status.write_commands = record.write_commands;
        for (const auto& [nsid, ns] : subsystem->namespaces()) {
            NamespaceStatus& of_namespace = status.namespaces.emplace_back();
            of_namespace.nsid = nsid;
            of_namespace.device = ns->spec().device;
            of_namespace.nguid = ns->spec().nguid;
            of_namespace.uuid = ns->spec().uuid;
            of_namespace.blocks = ns->blocks();
            of_namespace.block_bytes = ns->block_bytes();
            of_namespace.read_only = ns->write_protected();
            of_namespace.write_protection = ns->write_protection_state();
            of_namespace.counters = ns->counters;
            of_namespace.read_latency = &ns->read_latency;
            of_namespace.write_latency = &ns->write_latency;
        }
    }
    return all;
}

std::vector<ControllerStatus> Target::controller_status() const {
    std::vector<ControllerStatus> all;
    for (const auto& controller : controllers_) {
        if (controller == nullptr) {
            continue;
        }
        const ControllerRecord& record = controller->record();
        ControllerStatus& status = all.emplace_back();
        status.slot = controller->slot();
        status.cntlid = record.cntlid;
        status.discovery = controller->is_discovery();
        status.subsystem_nqn = stored_name(record.subsystem_nqn);
        status.host_nqn = stored_name(record.host_nqn);
        std::memcpy(status.host_id.data(), record.host_id, status.host_id.size());
        status.kato_ms = record.kato_ms;
        const base::Nanoseconds now = reactor_.now();
        status.idle_ms =
            now > record.last_contact_ns ? (now - record.last_contact_ns) / base::millisecond : 0;
        status.created_ms = record.created_ms;
        status.cc = record.cc;
        status.csts = record.csts;
        status.parked_event_requests = controller->parked_requests();
        status.errors = record.error_count;
        status.adopted = controller->adopted();
        for (std::uint16_t qid = 0; qid <= limits::io_queues_per_controller_max; ++qid) {
            QueuePair* const queue = controller->queue(qid);
            if (queue == nullptr) {
                continue;
            }
            QueueStatus& of_queue = status.queues.emplace_back();
            of_queue.qid = qid;
            of_queue.entries = queue->entries();
            of_queue.commands = queue->executing_count();
            of_queue.flow_control_off = queue->flow_control_off();
            of_queue.connection_slot = queue->connection().connection_slot();
            of_queue.endpoint = queue->connection().endpoint();
        }
    }
    return all;
}

}  // namespace nvme
