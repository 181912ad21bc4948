#include "nvme/subsystem.h"

#include <algorithm>

#include "base/check.h"
#include "nvme/controller.h"
#include "nvme/target.h"

namespace nvme {

Subsystem::Subsystem(Target& target, const SubsystemSpec& spec, SubsystemRecord& record, bool discovery)
    : target_(target), spec_(spec), record_(record), discovery_(discovery) {
    set_hosts(spec.allow_any_host, spec.hosts);
}

Subsystem::~Subsystem() = default;

void Subsystem::set_hosts(bool allow_any, const std::vector<std::string>& hosts) {
    spec_.allow_any_host = allow_any;
    spec_.hosts = hosts;
    hosts_ = std::set<std::string, std::less<>>(hosts.begin(), hosts.end());
}

bool Subsystem::allows(std::string_view host_nqn) const {
    return discovery_ || spec_.allow_any_host || hosts_.find(host_nqn) != hosts_.end();
}

// --- controllers ---

Controller* Subsystem::find_controller(std::uint16_t cntlid) const {
    const auto at = std::find_if(controllers_.begin(), controllers_.end(), [&](const Controller* controller) {
        return controller->cntlid() == cntlid;
    });
    return at != controllers_.end() ? *at : nullptr;
}

// In a circle, so that an id is not used again soon: a host that lost its controller may still send its id.
std::uint16_t Subsystem::allocate_cntlid() {
    const std::uint32_t count = std::uint32_t{spec_.cntlid_max} - spec_.cntlid_min + 1;
    std::uint32_t candidate = record_.cntlid_next;
    for (std::uint32_t i = 0; i < count; ++i, ++candidate) {
        if (candidate < spec_.cntlid_min || candidate > spec_.cntlid_max) {
            candidate = spec_.cntlid_min;
        }
        if (find_controller(static_cast<std::uint16_t>(candidate)) == nullptr) {
            record_.cntlid_next = static_cast<std::uint16_t>(candidate + 1);
            return static_cast<std::uint16_t>(candidate);
        }
    }
    return 0;
}

// --- namespaces ---

Namespace* Subsystem::find_namespace(std::uint32_t nsid) const {
    const auto at = namespaces_.find(nsid);
    return at != namespaces_.end() ? at->second.get() : nullptr;
}

std::uint64_t Subsystem::namespace_digest() const {
    std::uint64_t digest = 0xCBF29CE484222325;
    const auto mix = [&](std::uint64_t value) { digest = (digest ^ value) * 0x100000001B3; };
    for (const auto& [nsid, ns] : namespaces_) {
        mix(nsid);
        mix(ns->blocks());
        mix(ns->block_shift());
        mix(ns->write_protected() ? 1 : 0);
        for (const std::uint8_t byte : ns->spec().nguid) {
            mix(byte);
        }
    }
    return digest;
}

void Subsystem::add(std::unique_ptr<Namespace> added) {
    const std::uint32_t nsid = added->nsid();
    namespaces_[nsid] = std::move(added);
    tell_controllers_of(nsid);
}

void Subsystem::remove(std::uint32_t nsid, std::function<void()> done) {
    const auto at = namespaces_.find(nsid);
    EK_CHECK(at != namespaces_.end(), "a namespace is removed that does not exist");
    Namespace* const leaving = at->second.get();
    leaving_.push_back(std::move(at->second));
    namespaces_.erase(at);
    tell_controllers_of(nsid);
    leaving->remove([this, leaving, done = std::move(done)] {
        std::erase_if(leaving_, [&](const auto& entry) { return entry.get() == leaving; });
        if (done) {
            done();
        }
        finish_if_empty();
    });
}

void Subsystem::tell_controllers_of(std::uint32_t nsid) {
    if (target_.loading() || removing_) {
        return;
    }
    for (Controller* controller : controllers_) {
        controller->namespace_changed(nsid);
    }
}

void Subsystem::namespace_changed(std::uint32_t nsid) {
    if (const Namespace* const ns = find_namespace(nsid)) {
        target_.emit({.kind = TargetEventKind::namespace_resized,
                      .subsystem_nqn = spec_.nqn,
                      .nsid = nsid,
                      .value = ns->blocks() << ns->block_shift()});
        tell_controllers_of(nsid);
    }
}

void Subsystem::write_protection_changed(Namespace& changed) {
    if (NamespaceRecord* const record = target_.namespace_record(*this, changed.spec())) {
        record->write_protection = changed.write_protection_state();
    }
    target_.emit({.kind = TargetEventKind::write_protection_changed,
                  .subsystem_nqn = spec_.nqn,
                  .nsid = changed.nsid(),
                  .value = changed.write_protection_state()});
    tell_controllers_of(changed.nsid());
}

// --- asymmetric namespace access ---

AnaState Subsystem::ana_state() const {
    return record_.ana_state != 0 ? static_cast<AnaState>(record_.ana_state) : AnaState::optimized;
}

void Subsystem::set_ana_state(AnaState state) {
    if (ana_state() == state) {
        return;
    }
    record_.ana_state = static_cast<std::uint16_t>(state);
    ++record_.ana_change_count;
    for (Controller* controller : controllers_) {
        controller->raise(AsyncEvent::ana_change);
    }
}

// --- removal ---

void Subsystem::empty(std::function<void()> done) {
    removing_ = true;
    when_empty_ = std::move(done);
    const std::vector<Controller*> ending = controllers_;
    for (Controller* controller : ending) {
        controller->terminate("the subsystem is removed");
    }
    while (!namespaces_.empty()) {
        remove(namespaces_.begin()->first, nullptr);
    }
    finish_if_empty();
}

void Subsystem::finish_if_empty() {
    if (removing_ && when_empty_ && controllers_.empty() && namespaces_.empty() && leaving_.empty()) {
        std::function<void()> done = std::move(when_empty_);
        when_empty_ = nullptr;
        target_.post(std::move(done));
    }
}

}  // namespace nvme
