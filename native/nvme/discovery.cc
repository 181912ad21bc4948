#include "nvme/discovery.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "base/check.h"
#include "nvme/controller.h"

namespace nvme {

namespace {

struct TransportRow {
    std::string_view name;
    wire::TransportType type;
};
constexpr std::array transports{
    TransportRow{"tcp", wire::TransportType::tcp},
    TransportRow{"loop", wire::TransportType::intra_host},
};

struct FamilyRow {
    std::string_view name;
    wire::AddressFamily family;
    std::string_view wildcard;
};
constexpr std::array families{
    FamilyRow{"ipv4", wire::AddressFamily::ipv4, "0.0.0.0"},
    FamilyRow{"ipv6", wire::AddressFamily::ipv6, "::"},
};

std::uint8_t transport_type(std::string_view name) {
    for (const TransportRow& row : transports) {
        if (row.name == name) {
            return static_cast<std::uint8_t>(row.type);
        }
    }
    return 0;
}

std::uint8_t address_family(std::string_view name) {
    for (const FamilyRow& row : families) {
        if (row.name == name) {
            return static_cast<std::uint8_t>(row.family);
        }
    }
    return static_cast<std::uint8_t>(wire::AddressFamily::none);
}

bool is_wildcard(const ListenerInfo& listener) {
    return std::any_of(families.begin(), families.end(),
                       [&](const FamilyRow& row) { return row.wildcard == listener.address; });
}

template <std::size_t Size>
void put_text(char (&field)[Size], std::string_view text, char padding) {
    std::memset(field, padding, Size);
    std::memcpy(field, text.data(), std::min(text.size(), Size));
}

wire::DiscoveryLogEntry entry_at(std::string_view transport, std::string_view family,
                                 std::string_view address, std::string_view service, std::uint16_t port_id,
                                 std::string_view nqn, wire::SubsystemType type) {
    wire::DiscoveryLogEntry entry;
    entry.trtype = transport_type(transport);
    entry.adrfam = address_family(family);
    entry.subtype = static_cast<std::uint8_t>(type);
    // "Not required" would say that TLS is possible: nvme-cli then asks the kernel for it.
    entry.treq =
        static_cast<std::uint8_t>(wire::treq::secure_channel.put(wire::treq::secure_channel_not_specified) |
                                  wire::treq::sq_flow_control_disable_supported.put(1));
    entry.portid = port_id;
    entry.cntlid = wire::cntlid_dynamic;
    entry.asqsz = limits::queue_entries_max;
    put_text(entry.trsvcid, service, ' ');
    put_text(entry.subnqn, nqn, '\0');
    put_text(entry.traddr, address, ' ');
    entry.tsas[0] = static_cast<std::uint8_t>(wire::SecurityType::none);
    return entry;
}

wire::DiscoveryLogEntry entry_at(const ListenerInfo& listener, std::string_view nqn,
                                 wire::SubsystemType type) {
    return entry_at(listener.transport, listener.address_family, listener.address, listener.service,
                    listener.port_id, nqn, type);
}

class Digest {
  public:
    void add(std::string_view text) {
        for (const char c : text) {
            add_byte(static_cast<std::uint8_t>(c));
        }
        add_byte(0);
    }
    void add_number(std::uint64_t value) {
        for (int i = 0; i < 8; ++i) {
            add_byte(static_cast<std::uint8_t>(value >> (8 * i)));
        }
    }
    std::uint64_t value() const { return value_; }

  private:
    void add_byte(std::uint8_t byte) { value_ = (value_ ^ byte) * 0x100000001B3; }
    std::uint64_t value_ = 0xCBF29CE484222325;
};

}  // namespace

DiscoveryView::DiscoveryView(const Target& target, std::string_view host_nqn, const Endpoint& endpoint)
    : referrals_(target.referrals()),
      queue_entries_(static_cast<std::uint16_t>(target.limits().queue_entries)) {
    for (ListenerInfo listener : target.listeners()) {
        if (is_wildcard(listener)) {
            // The address by which this host came is one that works for it.
            listener.address = endpoint.local_address;
            listener.address_family = endpoint.address_family;
        }
        const auto same = [&](const ListenerInfo& other) {
            return other.transport == listener.transport && other.address == listener.address &&
                   other.service == listener.service;
        };
        // Wildcards of both families on one port become one address.
        if (std::none_of(discovery_listeners_.begin(), discovery_listeners_.end(), same)) {
            discovery_listeners_.push_back(listener);
            if (!listener.discovery_only) {
                listeners_.push_back(listener);
            }
        }
    }
    for (const Subsystem* subsystem : target.subsystems()) {
        if (!subsystem->removing() && subsystem->allows(std::string(host_nqn))) {
            subsystems_.push_back(subsystem);
        }
    }
}

std::uint64_t DiscoveryView::entries() const {
    return discovery_listeners_.size() + std::uint64_t{subsystems_.size()} * listeners_.size() +
           referrals_.size();
}

wire::DiscoveryLogEntry DiscoveryView::entry(std::uint64_t index) const {
    if (index < discovery_listeners_.size()) {
        wire::DiscoveryLogEntry own = entry_at(discovery_listeners_[index], wire::discovery_nqn,
                                               wire::SubsystemType::current_discovery);
        const std::uint16_t duplicates = discovery_listeners_.size() > 1 ? 1 : 0;
        own.asqsz = queue_entries_;
        own.eflags = static_cast<std::uint16_t>(
            wire::discovery_eflags::explicit_persistent_connection_support.put(1) |
            wire::discovery_eflags::duplicate_returned_information.put(duplicates));
        return own;
    }
    index -= discovery_listeners_.size();
    const std::uint64_t of_subsystems = std::uint64_t{subsystems_.size()} * listeners_.size();
    if (index < of_subsystems) {
        wire::DiscoveryLogEntry of_subsystem =
            entry_at(listeners_[index % listeners_.size()], subsystems_[index / listeners_.size()]->nqn(),
                     wire::SubsystemType::nvm);
        of_subsystem.asqsz = queue_entries_;
        return of_subsystem;
    }
    index -= of_subsystems;
    EK_CHECK(index < referrals_.size(), "a discovery entry beyond the last one");
    const Referral& referral = referrals_[index];
    return entry_at(referral.transport, referral.address_family, referral.address, referral.service,
                    referral.port_id,
                    referral.nqn.empty() ? std::string_view(wire::discovery_nqn) : referral.nqn,
                    wire::SubsystemType::discovery_referral);
}

// --- changes ---

std::uint64_t Target::discovery_digest(std::string_view host_nqn) const {
    Digest digest;
    for (const ListenerInfo& listener : listeners_) {
        digest.add(listener.transport);
        digest.add(listener.address_family);
        digest.add(listener.address);
        digest.add(listener.service);
        digest.add_number(listener.port_id);
        digest.add_number(listener.discovery_only ? 1 : 0);
    }
    for (const Referral& referral : referrals_) {
        digest.add(referral.transport);
        digest.add(referral.address_family);
        digest.add(referral.address);
        digest.add(referral.service);
        digest.add_number(referral.port_id);
        digest.add(referral.nqn);
    }
    for (const Subsystem* subsystem : subsystems()) {
        if (!subsystem->removing() && subsystem->allows(std::string(host_nqn))) {
            digest.add(subsystem->nqn());
        }
    }
    return digest.value();
}

void Target::discovery_changed() {
    if (loading_) {
        return;
    }
    ++generation_;
    emit({.kind = TargetEventKind::generation_changed, .value = generation_});
    for (Controller* controller : discovery_->controllers()) {
        controller->compare_with_target();
    }
}

}  // namespace nvme
