#include "block/initiator/controller.h"

#include <netdb.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/limits.h"
#include "wire/nvme_io.h"
#include "wire/nvme_log.h"
#include "wire/nvme_properties.h"

namespace block::initiator {

namespace {

constexpr std::uint16_t admin_entries = 32;
constexpr std::uint32_t admin_in_capsule_bytes = 8192;
constexpr base::Nanoseconds ready_poll_interval = 10 * base::millisecond;
// Without a keep alive a controller hears of a loss from its transport only, at no certain time.
constexpr std::uint64_t quiesce_ms_without_keep_alive = 30'000;
constexpr std::uint32_t transfer_bytes_cap = 4u << 20;  // of controllers that know no limit

constexpr std::uint32_t controller_configuration = wire::cc::en.put(1) | wire::cc::iosqes.put(6) |
                                                   wire::cc::iocqes.put(4) |
                                                   wire::cc::css.put(wire::cc::css_nvm);

std::string name_of_status(wire::Status status) {
    const char* const name = wire::name_of(status);
    return (name != nullptr ? std::string(name) : std::string("unknown status")) + " (" +
           std::to_string(status.sct()) + "/" + std::to_string(status.sc()) + ")";
}

// A 0's based count of blocks as bytes, if it is one that a device can have; else 0.
std::uint32_t sensible_size(std::uint16_t blocks, std::uint32_t block_bytes) {
    const std::uint64_t bytes = (std::uint64_t{blocks} + 1) * block_bytes;
    return bytes <= (1u << 30) && (bytes & (bytes - 1)) == 0 ? static_cast<std::uint32_t>(bytes) : 0;
}

// "type.0123…", or nothing if all bytes are zero, which means that there is no such identifier.
std::string identity_text(const char* type, const std::uint8_t* bytes, std::size_t size) {
    constexpr char digits[] = "0123456789abcdef";
    std::string text = std::string(type) + ".";
    bool any = false;
    for (std::size_t i = 0; i < size; ++i) {
        any = any || bytes[i] != 0;
        text += digits[bytes[i] >> 4];
        text += digits[bytes[i] & 0xF];
    }
    return any ? text : std::string();
}

std::string serial_identity(const wire::IdentifyController& controller, std::uint32_t nsid) {
    std::string identity = "serial.";
    for (const char byte : controller.sn) {
        if (byte > ' ' && byte < 0x7f) {
            identity += byte;
        }
    }
    return identity + "." + std::to_string(nsid);
}

// By how much they tell, the best first.
struct IdentityKind {
    wire::NamespaceIdType type;
    const char* name;
};
constexpr IdentityKind identity_kinds[] = {{wire::NamespaceIdType::nguid, "nguid"},
                                           {wire::NamespaceIdType::uuid, "uuid"},
                                           {wire::NamespaceIdType::eui64, "eui64"}};
using Identities = std::array<std::string, std::size(identity_kinds)>;

// The Namespace Identification Descriptors; what does not add up ends the list.
void read_descriptors(const std::array<std::byte, wire::identify_bytes>& page, Identities& found) {
    std::size_t at = 0;
    while (page.size() - at >= sizeof(wire::NamespaceIdDescriptor)) {
        wire::NamespaceIdDescriptor descriptor;
        std::memcpy(&descriptor, page.data() + at, sizeof descriptor);
        at += sizeof descriptor;
        if (descriptor.nidl == 0 || descriptor.nidl > page.size() - at) {
            break;
        }
        for (std::size_t i = 0; i < std::size(identity_kinds); ++i) {
            if (descriptor.nidt == static_cast<std::uint8_t>(identity_kinds[i].type) &&
                descriptor.nidl == wire::namespace_id_bytes(identity_kinds[i].type)) {
                found[i] =
                    identity_text(identity_kinds[i].name,
                                  reinterpret_cast<const std::uint8_t*>(page.data() + at), descriptor.nidl);
            }
        }
        at += descriptor.nidl;
    }
}

}  // namespace

// The way from a joined admin queue to I/O queues. Each step sends one command; what it answers is taken in
// order.
struct Controller::Step {
    const char* name;
    void (Controller::*start)();
    void (Controller::*take)(std::uint64_t result);
    bool (Controller::*wanted)() const = nullptr;  // null: always
    // A controller that cannot do it is taken as it is: one that never can, or one that fails for whatever
    // reason.
    enum class Optional : std::uint8_t { no, never_can, fails } optional = Optional::no;
};

const Controller::Step Controller::steps[] = {
    {"Property Get of CAP", &Controller::start_capabilities, &Controller::take_capabilities},
    {"Property Get of VS", &Controller::start_version, &Controller::take_version},
    {"Property Set of CC", &Controller::start_enable, &Controller::take_nothing},
    {"Property Get of CSTS", &Controller::start_status, &Controller::take_status},
    {"Identify Controller", &Controller::start_identify_controller, &Controller::take_identify_controller},
    {"Identify Controller of the NVM command set", &Controller::start_command_set_limits,
     &Controller::take_command_set_limits, &Controller::learns, Controller::Step::Optional::never_can},
    {"Set Features of the host behavior", &Controller::start_host_behavior, &Controller::take_nothing,
     &Controller::retry_delays_offered, Controller::Step::Optional::fails},
    {"Set Features of the number of queues", &Controller::start_number_of_queues,
     &Controller::take_number_of_queues},
    {"Set Features of the event configuration", &Controller::start_event_configuration,
     &Controller::take_nothing},
    {"Get Log Page of changed namespaces", &Controller::start_changed_namespaces, &Controller::take_nothing,
     &Controller::looks_again, Controller::Step::Optional::fails},
    {"Identify Namespace", &Controller::start_identify_namespace, &Controller::take_identify_namespace},
    {"Namespace Identification Descriptors", &Controller::start_identification,
     &Controller::take_identification, &Controller::learns, Controller::Step::Optional::never_can},
    {"I/O queues", &Controller::finish_steps, nullptr},
};

Controller::Controller(reactor::Reactor& reactor, ControllerOptions options, ControllerOwner& owner)
    : reactor_(reactor),
      options_(std::move(options)),
      owner_(owner),
      identify_controller_(std::make_unique<wire::IdentifyController>()),
      identify_namespace_(std::make_unique<wire::IdentifyNamespace>()),
      page_(std::make_unique<std::array<std::byte, wire::identify_bytes>>()),
      deadline_(reactor, *this),
      poll_(reactor, *this),
      keep_alive_timer_(reactor, *this),
      ping_timer_(reactor, *this) {
    command_.controller = shutdown_command_.controller = keep_alive_command_.controller =
        ping_command_.controller = this;
    command_.done = [](HostCommand& command, const Completion& completion) {
        static_cast<AdminCommand&>(command).controller->step_done(completion);
    };
}

Controller::~Controller() { EK_CHECK(queues_open_ == 0, "a controller is closed before it is destroyed"); }

base::Result<void> Controller::open() {
    if (options_.io_queues == 0 || options_.depth == 0 || options_.depth > limits::queue_entries_max - 1) {
        return base::Error{"E_INVALID",
                           "a controller needs 1 to 65535 queues with a depth of 1 to " +
                               std::to_string(limits::queue_entries_max - 1),
                           0};
    }
    if (options_.subnqn.empty() || options_.subnqn.size() > limits::nqn_bytes_max ||
        options_.hostnqn.empty() || options_.hostnqn.size() > limits::nqn_bytes_max) {
        return base::Error{"E_INVALID", "NQNs have 1 to " + std::to_string(limits::nqn_bytes_max) + " bytes",
                           0};
    }
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const std::string service = std::to_string(options_.port);
    if (getaddrinfo(options_.address.c_str(), service.c_str(), &hints, &found) != 0 || found == nullptr) {
        return base::Error{"E_INVALID", "\"" + options_.address + "\" is not an IPv4 or IPv6 address", 0};
    }
    std::memcpy(&queue_options_.address, found->ai_addr, found->ai_addrlen);
    queue_options_.address_bytes = found->ai_addrlen;
    freeaddrinfo(found);

    queue_options_.header_digest = options_.header_digest;
    queue_options_.data_digest = options_.data_digest;
    queue_options_.flow_control = options_.flow_control;
    queue_options_.host_alignment = options_.host_alignment;
    queue_options_.hostid = options_.hostid;
    queue_options_.hostnqn = options_.hostnqn;
    queue_options_.subnqn = options_.subnqn;
    queue_options_.reset_on_close = options_.reset_on_close;

    QueueOptions admin = queue_options_;
    admin.entries = admin_entries;
    admin.in_capsule_bytes = admin_in_capsule_bytes;
    admin.kato_ms = options_.kato_ms;
    admin_ = std::make_unique<TcpQueue>(reactor_, std::move(admin), queue_owner());
    queues_open_ = 1;
    deadline_.start_after(options_.connect_timeout_ms * base::millisecond);
    admin_->open();
    return {};
}

// --- queues ------------------------------------------------------------------------------------------------

void Controller::queue_opened(TcpQueue& queue, std::uint16_t cntlid) {
    if (&queue == admin_.get()) {
        cntlid_ = cntlid;
        run_step();
        return;
    }
    if (cntlid != cntlid_) {
        fail("an I/O queue was joined to controller " + std::to_string(cntlid) + " instead of " +
             std::to_string(cntlid_));
        return;
    }
    if (++queues_opened_ == io_queues_.size()) {
        deadline_.stop();
        ready_ = true;
        if (options_.ping_ms != 0) {
            ping_timer_.start_after(options_.ping_ms * base::millisecond);
        }
        owner_.controller_ready();
    }
}

void Controller::queue_failed(TcpQueue&, const std::string& reason) {
    if (shutting_down_) {
        close_queues();  // the controller may end connections once it was told to shut down
        return;
    }
    fail(reason);
}

void Controller::queue_closed(TcpQueue&) {
    if (--queues_open_ != 0) {
        return;
    }
    if (failed_) {
        failed_ = false;
        owner_.controller_failed(failure_);
    }
    owner_.controller_closed();
}

void Controller::fail(std::string reason) {
    if (failure_.empty()) {
        failure_ = std::move(reason);
        failed_ = true;
    }
    close_queues();
}

void Controller::close(bool orderly) {
    if (closing_ || admin_ == nullptr) {
        return;
    }
    if (!orderly || !ready_) {
        close_queues();
        return;
    }
    ready_ = false;
    shutting_down_ = true;
    keep_alive_timer_.stop();
    ping_timer_.stop();
    for (const auto& queue : io_queues_) {
        queue->close();
    }
    wire::PropertySetCommand set;
    set.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::fabrics);
    set.fctype = static_cast<std::uint8_t>(wire::FabricsType::property_set);
    set.ofst = wire::property::cc;
    set.value = controller_configuration | wire::cc::shn.put(wire::cc::shn_normal);
    shutdown_command_.sqe = reinterpret_cast<const wire::Sqe&>(set);
    shutdown_command_.done = [](HostCommand& command, const Completion&) {
        static_cast<AdminCommand&>(command).controller->close_queues();
    };
    deadline_.start_after(options_.connect_timeout_ms * base::millisecond);
    if (!admin_->submit(shutdown_command_)) {
        close_queues();
    }
}

void Controller::close_queues() {
    closing_ = true;
    ready_ = false;
    deadline_.stop();
    poll_.stop();
    keep_alive_timer_.stop();
    ping_timer_.stop();
    for (const auto& queue : io_queues_) {
        queue->close();
    }
    admin_->close();
}

void Controller::deadline_passed() {
    fail(std::string(shutting_down_ ? "shutdown" : steps[step_].name) + " took longer than " +
         std::to_string(options_.connect_timeout_ms) + " ms");
}

// --- steps -------------------------------------------------------------------------------------------------

void Controller::run_step() {
    while (steps[step_].wanted != nullptr) {
        const auto wanted = steps[step_].wanted;
        if ((this->*wanted)()) {
            break;
        }
        ++step_;
    }
    command_.sqe = wire::Sqe{};
    command_.direction = wire::DataDirection::none;
    command_.data = nullptr;
    command_.length = 0;
    const Step& step = steps[step_];
    const auto start = step.start;
    (this->*start)();  // the last one may begin anew
    if (step.take != nullptr && !admin_->submit(command_)) {
        fail("the admin queue takes no command");
    }
}

void Controller::step_done(const Completion& completion) {
    if (!completion.answered || closing_ || shutting_down_) {
        return;
    }
    const Step& step = steps[step_];
    const bool never_can = completion.do_not_retry || completion.status == wire::status::invalid_field ||
                           completion.status == wire::status::invalid_opcode;
    if (!completion.status.ok() && (step.optional == Step::Optional::fails ||
                                    (step.optional == Step::Optional::never_can && never_can))) {
        ++step_;
        run_step();
        return;
    }
    if (!completion.status.ok()) {
        fail(std::string(step.name) + " failed: " + name_of_status(completion.status));
        return;
    }
    ++step_;
    const auto take = step.take;
    (this->*take)(completion.result);
    if (!closing_ && !poll_.running()) {
        run_step();
    }
}

void Controller::fill_property_get(std::uint32_t offset, bool eight_bytes) {
    wire::PropertyGetCommand get;
    get.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::fabrics);
    get.fctype = static_cast<std::uint8_t>(wire::FabricsType::property_get);
    get.attrib = static_cast<std::uint8_t>(eight_bytes ? wire::PropertySize::eight_bytes
                                                       : wire::PropertySize::four_bytes);
    get.ofst = offset;
    command_.sqe = reinterpret_cast<const wire::Sqe&>(get);
}

void Controller::fill_property_set(std::uint32_t offset, std::uint32_t value) {
    wire::PropertySetCommand set;
    set.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::fabrics);
    set.fctype = static_cast<std::uint8_t>(wire::FabricsType::property_set);
    set.ofst = offset;
    set.value = value;
    command_.sqe = reinterpret_cast<const wire::Sqe&>(set);
}

void Controller::fill_identify(wire::Cns cns, std::uint32_t nsid, void* data) {
    command_.sqe.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::identify);
    command_.sqe.nsid = nsid;
    command_.sqe.cdw10 = wire::identify_cdw::cns.put(static_cast<std::uint32_t>(cns));
    command_.direction = wire::DataDirection::from_controller;
    command_.data = static_cast<std::byte*>(data);
    command_.length = wire::identify_bytes;
}

void Controller::fill_set_feature(wire::FeatureId feature, std::uint32_t dword11) {
    command_.sqe.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::set_features);
    command_.sqe.cdw10 = wire::feature_cdw::fid.put(static_cast<std::uint32_t>(feature));
    command_.sqe.cdw11 = dword11;
}

void Controller::start_capabilities() { fill_property_get(wire::property::cap, true); }

void Controller::take_capabilities(std::uint64_t result) {
    capabilities_ = result;
    ready_deadline_ = reactor_.now() + (wire::cap::to.get(result) + 1) * 500 * base::millisecond;
    if (options_.adapt && wire::cap::mqes.get(result) != 0) {
        options_.depth =
            static_cast<std::uint16_t>(std::min<std::uint64_t>(options_.depth, wire::cap::mqes.get(result)));
    }
    if (wire::cap::mqes.get(result) + 1 <= options_.depth) {
        fail("queues have at most " + std::to_string(wire::cap::mqes.get(result) + 1) +
             " entries, one more than can be outstanding");
    }
}

void Controller::start_version() { fill_property_get(wire::property::vs, false); }

void Controller::take_version(std::uint64_t result) {
    if ((result >> 16) == 0) {
        fail("VS says version " + std::to_string(result));
    }
}

void Controller::start_enable() { fill_property_set(wire::property::cc, controller_configuration); }

void Controller::start_status() { fill_property_get(wire::property::csts, false); }

void Controller::take_status(std::uint64_t result) {
    const auto csts = static_cast<std::uint32_t>(result);
    if (wire::csts::cfs.test(csts)) {
        fail("the controller reports a fatal status");
    } else if (!wire::csts::rdy.test(csts)) {
        if (reactor_.now() > ready_deadline_) {
            fail("the controller did not become ready within CAP.TO");
            return;
        }
        --step_;
        poll_.start_after(ready_poll_interval);
    }
}

void Controller::poll_ready() { run_step(); }

void Controller::start_identify_controller() {
    fill_identify(wire::Cns::identify_controller, 0, identify_controller_.get());
}

void Controller::take_identify_controller(std::uint64_t) {
    const wire::IdentifyController& identity = *identify_controller_;
    if (identity.cntlid != cntlid_) {
        fail("Identify says controller " + std::to_string(identity.cntlid.value()) + ", Connect said " +
             std::to_string(cntlid_));
    } else if (identity.ioccsz < 4 || identity.iorcsz < 1 || identity.icdoff != 0) {
        fail("Identify has capsule sizes that NVMe/TCP does not know");
    } else if (wire::sgls::supported.get(identity.sgls) == 0) {
        fail("Identify says that SGLs are not supported");
    } else if (options_.kato_ms != 0 && identity.kas == 0) {
        fail("Identify says that keep alive is not supported");
    }
    const std::uint32_t in_capsule = (identity.ioccsz.value() - 4) * 16;
    queue_options_.in_capsule_bytes = std::min(in_capsule, options_.in_capsule_bytes);
    const std::uint64_t unit = std::uint64_t{4096} << wire::cap::mpsmin.get(capabilities_);
    facts_.transfer_bytes_max =
        identity.mdts == 0 || identity.mdts > 10
            ? transfer_bytes_cap
            : static_cast<std::uint32_t>(std::min<std::uint64_t>(unit << identity.mdts, transfer_bytes_cap));
    facts_.volatile_cache = (identity.vwc & wire::vwc::present) != 0;
    facts_.optional_commands = identity.oncs;
    facts_.fused = identity.fuses;
    facts_.retry_delays_100ms[0] = identity.crdt1;
    facts_.retry_delays_100ms[1] = identity.crdt2;
    facts_.retry_delays_100ms[2] = identity.crdt3;
    // The controller notices the loss of its host after KATO, which it may have rounded up; with traffic
    // based keep alive after up to twice as long; one more for a Keep Alive that was under way.
    const std::uint64_t granularity_ms = std::max<std::uint64_t>(identity.kas, 1) * 100;
    const std::uint64_t kato_ms = (options_.kato_ms + granularity_ms - 1) / granularity_ms * granularity_ms;
    const bool traffic_based = (identity.ctratt & wire::ctratt::traffic_based_keep_alive) != 0;
    facts_.quiesce_ms =
        (options_.kato_ms == 0 ? quiesce_ms_without_keep_alive : kato_ms * (traffic_based ? 3 : 2)) +
        identity.cqt;
    if (options_.adapt && identity.maxcmd != 0) {
        options_.depth = std::min(options_.depth, identity.maxcmd.value());
    }
    if (options_.kato_ms != 0 && !closing_) {
        keep_alive_timer_.start_after(options_.kato_ms * base::millisecond / 2);
    }
}

void Controller::start_number_of_queues() {
    const auto wanted = static_cast<std::uint32_t>(options_.io_queues - 1);
    fill_set_feature(wire::FeatureId::number_of_queues, wire::feature_number_of_queues::nsqr.put(wanted) |
                                                            wire::feature_number_of_queues::ncqr.put(wanted));
}

void Controller::take_number_of_queues(std::uint64_t result) {
    const auto granted = static_cast<std::uint32_t>(result);
    const std::uint32_t count = std::min(wire::feature_number_of_queues::nsqr.get(granted),
                                         wire::feature_number_of_queues::ncqr.get(granted)) +
                                1;
    if (options_.adapt) {
        options_.io_queues = static_cast<std::uint16_t>(std::min<std::uint32_t>(count, options_.io_queues));
    }
    if (count < options_.io_queues) {
        fail("the controller grants " + std::to_string(count) + " of " + std::to_string(options_.io_queues) +
             " I/O queues");
    }
}

void Controller::start_event_configuration() {
    fill_set_feature(wire::FeatureId::async_event_configuration,
                     identify_controller_->oaes & options_.events);
    const std::uint32_t count = std::min<std::uint32_t>(identify_controller_->aerl + 1u,
                                                        static_cast<std::uint32_t>(event_requests_.size()));
    for (; event_requests_used_ < count; ++event_requests_used_) {
        listen(event_requests_[event_requests_used_]);
    }
}

void Controller::start_identify_namespace() {
    fill_identify(wire::Cns::identify_namespace, options_.nsid, identify_namespace_.get());
}

void Controller::take_identify_namespace(std::uint64_t) {
    const wire::IdentifyNamespace& ns = *identify_namespace_;
    const wire::LbaFormat& format = ns.lbaf[ns.flbas & 0xF];
    if (ns.nsze == 0) {
        fail("namespace " + std::to_string(options_.nsid) + " is not active");
    } else if (format.lbads < 9 || format.lbads > 12 || format.ms != 0) {
        fail("namespace " + std::to_string(options_.nsid) + " has a block format that is not supported here");
    } else {
        facts_.blocks = ns.nsze;
        facts_.block_bytes = 1u << format.lbads;
        facts_.write_protected = (ns.nsattr & wire::nsattr_write_protected) != 0;
        facts_.zeroes_may_deallocate = wire::dlfeat::write_zeroes_deallocate.test(ns.dlfeat) &&
                                       wire::dlfeat::read_value.get(ns.dlfeat) == wire::dlfeat::read_zeroes;
        facts_.physical_block_bytes = facts_.optimal_io_bytes = 0;
        if ((ns.nsfeat & wire::nsfeat::optimal_performance) != 0) {
            facts_.physical_block_bytes = sensible_size(ns.npwg, facts_.block_bytes);
            facts_.optimal_io_bytes = sensible_size(ns.nows, facts_.block_bytes);
        }
        facts_.identities[0] = identity_text("nguid", ns.nguid, sizeof ns.nguid);
        facts_.identities[1].clear();
        facts_.identities[2] = identity_text("eui64", ns.eui64, sizeof ns.eui64);
        facts_.identities[3] = serial_identity(*identify_controller_, options_.nsid);
    }
}

void Controller::start_identification() {
    fill_identify(wire::Cns::namespace_identification_descriptors, options_.nsid, page_.get());
}

void Controller::take_identification(std::uint64_t) {
    Identities found;
    read_descriptors(*page_, found);
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (!found[i].empty()) {
            facts_.identities[i] = found[i];
        }
    }
}

void Controller::start_changed_namespaces() {
    command_.sqe.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::get_log_page);
    command_.sqe.nsid = wire::nsid_broadcast;
    command_.sqe.cdw10 =
        wire::log_cdw::lid.put(static_cast<std::uint32_t>(wire::LogPage::changed_namespace_list)) |
        wire::log_cdw::numdl.put(sizeof(wire::ChangedNamespaceList) / 4 - 1);
    command_.direction = wire::DataDirection::from_controller;
    command_.data = page_->data();
    command_.length = sizeof(wire::ChangedNamespaceList);
}

void Controller::start_command_set_limits() {
    fill_identify(wire::Cns::command_set_controller, 0, page_.get());
}

void Controller::take_command_set_limits(std::uint64_t) {
    wire::IdentifyNvmController limits;
    std::memcpy(static_cast<void*>(&limits), page_->data(), sizeof limits);
    const std::uint64_t unit = std::uint64_t{4096} << wire::cap::mpsmin.get(capabilities_);
    facts_.write_zeroes_bytes = limits.wzsl == 0 || limits.wzsl > 20 ? 0 : unit << limits.wzsl;
    facts_.deallocate_blocks = limits.dmrsl;
    if (limits.dmsl != 0 && (facts_.deallocate_blocks == 0 || limits.dmsl < facts_.deallocate_blocks)) {
        facts_.deallocate_blocks = limits.dmsl;
    }
}

bool Controller::retry_delays_offered() const { return options_.learn && identify_controller_->crdt1 != 0; }

void Controller::start_host_behavior() {
    fill_set_feature(wire::FeatureId::host_behavior_support, 0);
    wire::HostBehavior behavior;
    behavior.acre = 1;
    std::memcpy(page_.get(), &behavior, sizeof behavior);
    command_.direction = wire::DataDirection::to_controller;
    command_.data = page_->data();
    command_.length = sizeof behavior;
}

void Controller::finish_steps() {
    if (!ready_) {
        open_io_queues();
        return;
    }
    looking_ = false;
    deadline_.stop();
    if (look_once_more_) {
        look_once_more_ = false;
        look_again();
        return;
    }
    owner_.controller_looked();
}

void Controller::open_io_queues() {
    io_queues_.reserve(options_.io_queues);
    for (std::uint16_t i = 0; i < options_.io_queues; ++i) {
        QueueOptions queue = queue_options_;
        queue.qid = static_cast<std::uint16_t>(i + 1);
        queue.cntlid = cntlid_;
        queue.entries = static_cast<std::uint16_t>(options_.depth + 1);
        queue.transfer_bytes_max = facts_.transfer_bytes_max;
        io_queues_.push_back(std::make_unique<TcpQueue>(reactor_, std::move(queue), queue_owner()));
        ++queues_open_;
    }
    for (const auto& queue : io_queues_) {
        queue->open();
    }
}

// --- while it lives ----------------------------------------------------------------------------------------

void Controller::keep_alive() {
    keep_alive_timer_.start_after(options_.kato_ms * base::millisecond / 2);
    if (keep_alive_command_.state != HostCommand::State::idle) {
        if (overdue(keep_alive_command_, keep_alive_sent_at_, options_.kato_ms / 2)) {
            fail("Keep Alive was not answered in time");
        }
        return;
    }
    keep_alive_sent_at_ = reactor_.now();
    keep_alive_command_.sqe = wire::Sqe{};
    keep_alive_command_.sqe.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::keep_alive);
    keep_alive_command_.done = [](HostCommand& command, const Completion& completion) {
        Controller& controller = *static_cast<AdminCommand&>(command).controller;
        if (completion.answered && !completion.status.ok()) {
            controller.fail("Keep Alive failed: " + name_of_status(completion.status));
        }
        ++controller.keep_alives_;
    };
    if (!admin_->submit(keep_alive_command_)) {
        fail("the admin queue takes no Keep Alive");
    }
}

bool Controller::overdue(const AdminCommand& command, base::Nanoseconds sent_at,
                         std::uint32_t otherwise_ms) const {
    const std::uint32_t limit_ms =
        options_.answer_timeout_ms != 0 ? options_.answer_timeout_ms : otherwise_ms;
    return command.state != HostCommand::State::idle &&
           reactor_.now() - sent_at >= limit_ms * base::millisecond;
}

std::uint64_t Controller::bytes_received() const {
    std::uint64_t bytes = admin_->statistics().bytes_received;
    for (const auto& queue : io_queues_) {
        bytes += queue->statistics().bytes_received;
    }
    return bytes;
}

// Whether the controller is still there, asked in a silence: CSTS also tells of a reset or a fatal status.
void Controller::ping() {
    if (overdue(ping_command_, ping_sent_at_, options_.ping_ms)) {
        fail("it answers no ping");
        return;
    }
    const std::uint64_t heard = bytes_received();
    const bool silent = heard == heard_bytes_;
    heard_bytes_ = heard;
    base::Nanoseconds next = options_.ping_ms * base::millisecond;
    if (silent && ping_command_.state == HostCommand::State::idle) {
        wire::PropertyGetCommand get;
        get.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::fabrics);
        get.fctype = static_cast<std::uint8_t>(wire::FabricsType::property_get);
        get.attrib = static_cast<std::uint8_t>(wire::PropertySize::four_bytes);
        get.ofst = wire::property::csts;
        ping_command_.sqe = reinterpret_cast<const wire::Sqe&>(get);
        ping_command_.done = [](HostCommand& command, const Completion& completion) {
            Controller& controller = *static_cast<AdminCommand&>(command).controller;
            const auto csts = static_cast<std::uint32_t>(completion.result);
            if (completion.ok() && (wire::csts::cfs.test(csts) || !wire::csts::rdy.test(csts))) {
                controller.fail("the controller is not ready any more");
            }
        };
        ping_sent_at_ = reactor_.now();
        if (!admin_->submit(ping_command_)) {
            fail("the admin queue takes no ping");
            return;
        }
    }
    if (ping_command_.state != HostCommand::State::idle && options_.answer_timeout_ms != 0) {
        next =
            std::min(next, ping_sent_at_ + options_.answer_timeout_ms * base::millisecond - reactor_.now());
    }
    ping_timer_.start_after(next);
}

void Controller::look_again() {
    if (!ready_ || closing_ || shutting_down_) {
        return;
    }
    if (looking_) {
        look_once_more_ = true;
        return;
    }
    looking_ = true;
    step_ = 0;
    while (steps[step_].start != &Controller::start_changed_namespaces) {
        ++step_;
    }
    deadline_.start_after(options_.connect_timeout_ms * base::millisecond);
    run_step();
}

void Controller::listen(AdminCommand& request) {
    request.controller = this;
    request.sqe = wire::Sqe{};
    request.sqe.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::async_event_request);
    request.done = [](HostCommand& command, const Completion& completion) {
        auto& arrived = static_cast<AdminCommand&>(command);
        arrived.controller->event_arrived(arrived, completion);
    };
    if (!admin_->submit(request)) {
        fail("the admin queue takes no Asynchronous Event Request");
    }
}

void Controller::event_arrived(AdminCommand& request, const Completion& completion) {
    if (!completion.answered || closing_ || shutting_down_) {
        return;
    }
    if (!completion.status.ok()) {
        fail("Asynchronous Event Request failed: " + name_of_status(completion.status));
        return;
    }
    ++events_;
    owner_.controller_event(static_cast<std::uint32_t>(completion.result));
    listen(request);
}

}  // namespace block::initiator
