// An NVM subsystem (or the discovery subsystem): its identity, its namespaces, who may connect, and the
// controllers that hosts have created in it.
//
// Namespaces come and go while hosts are connected; every change is told to all controllers, which inform
// their hosts (changed namespace list, asynchronous event). Controller ids are unique here and handed out in
// a circle, so that one is not used again soon.
//
// NVM Express Base 2.0 §2.1, §3.1.1 (controllers), §3.2 (namespaces).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "base/result.h"
#include "nvme/controller_record.h"
#include "nvme/namespace.h"
#include "wire/nvme_log.h"

namespace nvme {

class Controller;
class Target;

// What becomes of commands that were in flight when the process died.
enum class InFlight : std::uint8_t {
    replay,  // executed again
    abort,   // answered with a status that hosts retry (Command Interrupted), not executed
    drop,    // their connection is closed; the host connects again and retries
};

struct SubsystemSpec {
    std::string nqn;
    std::string serial;              // 1 … 20 ASCII characters
    std::string model = "Evenkeel";  // 1 … 40
    std::string firmware = "1.0";    // 1 … 8
    bool allow_any_host = false;
    std::vector<std::string> hosts;  // NQNs; ignored if any host may connect
    InFlight in_flight = InFlight::replay;
    std::uint16_t cntlid_min = 1;
    std::uint16_t cntlid_max = limits::cntlid_max;
    std::uint32_t max_namespaces = limits::namespaces_per_subsystem_max;  // highest NSID, too: NN and MNAN
    std::array<std::uint8_t, 3> ieee_oui{};  // as in Identify: least significant byte first
};

using AnaState = wire::AnaState;

inline constexpr std::uint32_t ana_group = 1;  // all namespaces are in the one group

class Subsystem {
  public:
    Subsystem(Target& target, const SubsystemSpec& spec, SubsystemRecord& record, bool discovery);
    ~Subsystem();
    Subsystem(const Subsystem&) = delete;
    Subsystem& operator=(const Subsystem&) = delete;

    Target& target() { return target_; }
    const SubsystemSpec& spec() const { return spec_; }
    const std::string& nqn() const { return spec_.nqn; }
    SubsystemRecord& record() const { return record_; }
    bool is_discovery() const { return discovery_; }
    bool removing() const { return removing_; }
    bool allows(std::string_view host_nqn) const;

    // Active namespaces in the order of their NSID. One that is being removed is not among them.
    Namespace* find_namespace(std::uint32_t nsid) const;
    const std::map<std::uint32_t, std::unique_ptr<Namespace>>& namespaces() const { return namespaces_; }
    std::uint64_t namespace_digest() const;

    AnaState ana_state() const;
    std::uint64_t ana_change_count() const { return record_.ana_change_count; }

    const std::vector<Controller*>& controllers() const { return controllers_; }
    Controller* find_controller(std::uint16_t cntlid) const;

    // I/O commands in flight, for the controller busy time.
    void io_started(std::uint64_t now_ns) {
        if (io_in_flight_++ == 0) {
            busy_since_ns_ = now_ns;
        }
    }
    void io_ended(std::uint64_t now_ns) {
        if (--io_in_flight_ == 0 && now_ns > busy_since_ns_) {
            record_.busy_ns += now_ns - busy_since_ns_;
        }
    }
    std::uint64_t busy_ns(std::uint64_t now_ns) const {
        return record_.busy_ns +
               (io_in_flight_ != 0 && now_ns > busy_since_ns_ ? now_ns - busy_since_ns_ : 0);
    }

    // Called by a Namespace when its device changed size or writability.
    void namespace_changed(std::uint32_t nsid);
    void write_protection_changed(Namespace& changed);

    // Called by the target when a controller is gone.
    void finish_if_empty();

  private:
    friend class Target;
    friend class Controller;
    // 0 if all ids of the range are in use.
    std::uint16_t allocate_cntlid();
    void set_hosts(bool allow_any, const std::vector<std::string>& hosts);
    void set_in_flight(InFlight policy) { spec_.in_flight = policy; }
    void add(std::unique_ptr<Namespace> added);
    void remove(std::uint32_t nsid, std::function<void()> done);
    void set_ana_state(AnaState state);
    void tell_controllers_of(std::uint32_t nsid);
    // Ends everything; `done` when the last controller and namespace are gone.
    void empty(std::function<void()> done);

    Target& target_;
    SubsystemSpec spec_;
    SubsystemRecord& record_;
    bool discovery_;
    bool removing_ = false;
    std::set<std::string, std::less<>> hosts_;
    std::map<std::uint32_t, std::unique_ptr<Namespace>> namespaces_;
    std::vector<std::unique_ptr<Namespace>> leaving_;  // removed, but commands still use them
    std::vector<Controller*> controllers_;
    std::function<void()> when_empty_;
    std::uint32_t io_in_flight_ = 0;
    std::uint64_t busy_since_ns_ = 0;
};

}  // namespace nvme
