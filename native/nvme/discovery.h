// The discovery log page as one host sees it through one connection: this discovery service itself, every
// subsystem that the host may use at every listener, and the referrals. Entries are made one at a time, so
// that reading a long page in small pieces costs what the pieces cost.
//
// NVM Express Base 2.0 §4.5 (discovery), §5.16.1.23 (log page).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "nvme/target.h"
#include "wire/nvme_fabrics.h"

namespace nvme {

class DiscoveryView {
  public:
    DiscoveryView(const Target& target, std::string_view host_nqn, const Endpoint& endpoint);

    std::uint64_t entries() const;
    wire::DiscoveryLogEntry entry(std::uint64_t index) const;

  private:
    const std::vector<Referral>& referrals_;
    std::uint16_t queue_entries_;                    // ASQSZ
    std::vector<ListenerInfo> discovery_listeners_;  // with the wildcards replaced
    std::vector<ListenerInfo> listeners_;            // those that serve subsystems
    std::vector<const Subsystem*> subsystems_;       // that the host may use
};

}  // namespace nvme
