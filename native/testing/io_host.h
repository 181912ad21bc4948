// A host without a network: connects to a Target through queue pairs of its own, sends commands and keeps the
// answers. For tests of what commands mean; the transport here is a copy and nothing else.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nvme/controller_record.h"
#include "nvme/io_commands.h"
#include "nvme/namespace.h"
#include "nvme/queue_pair.h"
#include "nvme/target.h"
#include "testing/block_rig.h"
#include "wire/nvme_fabrics.h"
#include "wire/nvme_io.h"

namespace testing {

struct Answer {
    wire::Status status;
    bool dnr = false;
    std::uint32_t result0 = 0;
    std::vector<std::byte> data;
    bool from_device = false;  // sent from the device's own memory
};

class IoHost;

// One queue pair and its transport.
class IoQueue final : public nvme::Connection {
  public:
    static constexpr std::uint32_t slots = 256;

    IoQueue(IoHost& host, std::uint32_t number);
    ~IoQueue() override = default;

    // Sends a command; with `data`, that is what the host transfers. The answer is kept under the CID that is
    // returned. `later`: the data arrives when deliver() is called, as by R2T.
    std::uint16_t send(wire::Sqe sqe, std::vector<std::byte> data = {}, bool later = false);
    void deliver(std::uint16_t cid);
    bool answered(std::uint16_t cid) const { return answers.contains(cid); }
    Answer take(std::uint16_t cid);

    void go_on_receiving(nvme::Command&) override {}  // none waits

    void respond(nvme::Command& command) override;
    void disconnect(bool, const char*) override {}
    const nvme::Endpoint& endpoint() const override { return endpoint_; }
    const nvme::TransportTraits& traits() const override { return traits_; }
    void queue_sized(std::uint16_t) override {}
    std::uint32_t connection_slot() const override { return number_; }
    bool needs_stable_data() const override { return stable_data; }

    // Frees the slots whose answers were taken off the "wire".
    void release_sent();
    void end();

    nvme::QueueRecord record{};
    std::vector<nvme::CommandRecord> records;
    std::unique_ptr<nvme::QueuePair> queue;
    std::map<std::uint16_t, Answer> answers;
    std::vector<std::uint16_t> order;  // of answers
    bool stable_data = false;

  private:
    struct Pending {
        nvme::Command* command;
        std::vector<std::byte> data;
    };

    IoHost& host_;
    std::uint32_t number_;
    nvme::Endpoint endpoint_;
    nvme::TransportTraits traits_{limits::transfer_bytes_max, limits::transfer_bytes_max};
    std::uint16_t next_cid_ = 0;
    std::map<std::uint16_t, Pending> pending_;
    std::vector<nvme::Command*> sent_;
};

class IoHost {
  public:
    IoHost()
        : controllers_(4),
          subsystems_(2),
          namespaces_(16),
          target(std::make_unique<nvme::Target>(
              rig.reactor, rig.buffers, nvme::Target::Records{controllers_, subsystems_, namespaces_})) {
        nvme::SubsystemSpec spec;
        spec.nqn = "nqn.2024-01.example:io";
        spec.serial = "1";
        spec.allow_any_host = true;
        REQUIRE(target->add_subsystem(spec).ok());
    }

    ~IoHost() {
        for (auto& queue : queues_) {
            queue->end();
        }
        bool removed = false;
        REQUIRE(target->remove_subsystem("nqn.2024-01.example:io", [&] { removed = true; }).ok());
        CHECK(rig.run_until([&] { return removed; }));
        queues_.clear();
        target.reset();
    }

    // A RAM device unless the specification says otherwise; then namespace `nsid` on it.
    nvme::Namespace& add(std::uint32_t nsid, block::DeviceSpec spec, bool read_only = false) {
        spec.kind = spec.kind.empty() ? "ram" : spec.kind;
        spec.name = spec.name.empty() ? "device " + std::to_string(nsid) : spec.name;
        auto device = rig.make(spec);
        INFO(spec.name);
        REQUIRE(device.ok());
        nvme::NamespaceSpec ns;
        ns.nsid = nsid;
        ns.device = spec.name;
        ns.nguid[0] = ns.uuid[0] = 1;
        ns.nguid[15] = ns.uuid[15] = static_cast<std::uint8_t>(nsid);
        ns.read_only = read_only;
        REQUIRE(target->add_namespace(nqn(), ns, *device.value()).ok());
        return *target->find(nqn())->find_namespace(nsid);
    }
    nvme::Namespace& add_ram(std::uint32_t nsid, std::uint32_t block_bytes = 512,
                             std::uint64_t size = 4 << 20) {
        block::DeviceSpec spec;
        spec.block_bytes = block_bytes;
        spec.size_bytes = size;
        return add(nsid, spec);
    }
    // A RAM device named "below" and a device of `kind` on it.
    nvme::Namespace& add_above(std::uint32_t nsid, block::DeviceSpec spec, std::uint32_t block_bytes = 512) {
        block::DeviceSpec below;
        below.name = "below " + std::to_string(nsid);
        below.kind = "ram";
        below.size_bytes = 4 << 20;
        below.block_bytes = block_bytes;
        REQUIRE(rig.make(below).ok());
        spec.base = below.name;
        spec.block_bytes = block_bytes;
        return add(nsid, spec);
    }

    const std::string& nqn() const { return nqn_; }

    // Brings a controller up and returns its first I/O queue; more queues by `join`.
    IoQueue& connect() {
        target->set_loading(false);
        IoQueue& admin = new_queue();
        cntlid_ = join_queue(admin, 0, 32, wire::cntlid_dynamic);
        controller_slot_ = admin.record.controller;
        wire::PropertySetCommand set;
        set.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::fabrics);
        set.fctype = static_cast<std::uint8_t>(wire::FabricsType::property_set);
        set.ofst = wire::property::cc;
        set.value = wire::cc::en.put(1) | wire::cc::iosqes.put(6) | wire::cc::iocqes.put(4);
        CHECK(run(admin, reinterpret_cast<const wire::Sqe&>(set)).status.ok());
        admin_ = &admin;
        next_qid_ = 1;
        return join();
    }
    IoQueue& join() {
        IoQueue& queue = new_queue();
        join_queue(queue, next_qid_++, 128, cntlid_);
        return queue;
    }
    IoQueue& admin() { return *admin_; }

    // A queue as a predecessor left it: bound to the controller, nothing received yet; see
    // IoQueue::queue->adopt.
    IoQueue& inherit() {
        IoQueue& queue = new_queue();
        queue.record.controller = controller_slot_;
        queue.record.qid = next_qid_++;
        queue.record.entries = 128;
        queue.record.connect_done = 1;
        queue.queue = std::make_unique<nvme::QueuePair>(*target, queue, rig.reactor, rig.buffers,
                                                        queue.record, queue.records);
        return queue;
    }

    Answer run(IoQueue& queue, const wire::Sqe& sqe, std::vector<std::byte> data = {}) {
        return wait(queue, queue.send(sqe, std::move(data)));
    }
    Answer wait(IoQueue& queue, std::uint16_t cid) {
        REQUIRE(rig.run_until([&] { return queue.answered(cid); }));
        return queue.take(cid);
    }
    // Lets everything that can happen now happen.
    void settle() {
        for (int i = 0; i < 8; ++i) {
            rig.reactor.run_once(0);
            rig.buffers.serve_waiters();
        }
    }

    BlockRig rig;

  private:
    IoQueue& new_queue() {
        queues_.push_back(std::make_unique<IoQueue>(*this, static_cast<std::uint32_t>(queues_.size())));
        return *queues_.back();
    }

    std::uint16_t join_queue(IoQueue& queue, std::uint16_t qid, std::uint16_t entries, std::uint16_t cntlid) {
        wire::ConnectCommand connect;
        connect.opcode = static_cast<std::uint8_t>(wire::AdminOpcode::fabrics);
        connect.fctype = static_cast<std::uint8_t>(wire::FabricsType::connect);
        connect.qid = qid;
        connect.sqsize = static_cast<std::uint16_t>(entries - 1);
        std::vector<std::byte> bytes(sizeof(wire::ConnectData));
        auto& data = reinterpret_cast<wire::ConnectData&>(*bytes.data());
        data.hostid[0] = 7;
        data.cntlid = cntlid;
        nqn().copy(data.subnqn, sizeof data.subnqn - 1);
        std::string("nqn.2024-01.example:host").copy(data.hostnqn, sizeof data.hostnqn - 1);
        const Answer answer = run(queue, reinterpret_cast<const wire::Sqe&>(connect), bytes);
        REQUIRE(answer.status.ok());
        return static_cast<std::uint16_t>(answer.result0);
    }

    std::vector<nvme::ControllerRecord> controllers_;
    std::vector<nvme::SubsystemRecord> subsystems_;
    std::vector<nvme::NamespaceRecord> namespaces_;
    const std::string nqn_ = "nqn.2024-01.example:io";

  public:
    std::unique_ptr<nvme::Target> target;

  private:
    std::vector<std::unique_ptr<IoQueue>> queues_;
    IoQueue* admin_ = nullptr;
    std::uint16_t cntlid_ = 0;
    std::uint16_t next_qid_ = 1;
    std::uint32_t controller_slot_ = 0;
};

// --- commands ----------------------------------------------------------------------------------------------

inline wire::Sqe io(wire::IoOpcode opcode, std::uint32_t nsid, std::uint64_t lba = 0,
                    std::uint32_t blocks = 1) {
    wire::Sqe sqe;
    sqe.opcode = static_cast<std::uint8_t>(opcode);
    sqe.flags = wire::sqe_flags(wire::Fuse::normal, wire::Psdt::sgl_contiguous_metadata);
    sqe.nsid = nsid;
    wire::set_starting_lba(sqe, lba);
    sqe.cdw12 = blocks - 1;
    return sqe;
}

inline wire::Sqe fused(wire::Sqe sqe, wire::Fuse fuse) {
    sqe.flags = wire::sqe_flags(fuse, wire::Psdt::sgl_contiguous_metadata);
    return sqe;
}

// `count` bytes that differ by `tag` and place.
inline std::vector<std::byte> bytes_of(std::size_t count, std::uint32_t tag) {
    std::vector<std::byte> bytes(count);
    for (std::size_t i = 0; i < count; ++i) {
        bytes[i] = static_cast<std::byte>((i * 31 + i / 512 + tag * 101) & 0xFF);
    }
    return bytes;
}

// --- IoQueue -----------------------------------------------------------------------------------------------

inline IoQueue::IoQueue(IoHost& host, std::uint32_t number) : records(slots), host_(host), number_(number) {
    endpoint_.transport = "loop";
    record.entries = limits::admin_queue_entries_min;
}

inline std::uint16_t IoQueue::send(wire::Sqe sqe, std::vector<std::byte> data, bool later) {
    if (queue == nullptr) {
        queue = std::make_unique<nvme::QueuePair>(*host_.target, *this, host_.rig.reactor, host_.rig.buffers,
                                                  record, records);
    }
    release_sent();
    nvme::Command* const command = queue->take_slot();
    REQUIRE(command != nullptr);
    const std::uint16_t cid = next_cid_++;
    sqe.cid = cid;
    sqe.dptr.identifier = later || data.empty() ? wire::sgl_transport : wire::sgl_in_capsule;
    if (!data.empty()) {
        sqe.dptr.length = static_cast<std::uint32_t>(data.size());
    } else if (sqe.dptr.length == 0) {
        sqe.dptr.length = limits::transfer_bytes_max;  // room for any answer
    }
    nvme::CommandRecord& slot = *command->record;
    slot.sqe = sqe;
    const std::uint32_t in_capsule = later ? 0 : static_cast<std::uint32_t>(data.size());
    const nvme::Admission admission = queue->admit(*command, in_capsule);
    slot.direction = admission.direction;
    slot.data_length = admission.status.ok() ? admission.length : 0;
    if (!admission.status.ok()) {
        slot.state = nvme::CommandState::ready;
        queue->fail(*command, admission.status, admission.dnr);
        return cid;
    }
    if (admission.direction == nvme::DataDirection::to_controller) {
        const std::uint32_t wanted = std::max(admission.length, admission.buffer_bytes);
        const auto buffer = queue->buffers().allocate(wanted);
        REQUIRE(buffer.has_value());
        slot.data_region = 0;
        slot.data_offset = *buffer;
        slot.buffer_bytes = wanted;
        command->data = host_.rig.buffers.at(*buffer);
    }
    slot.state = nvme::CommandState::receiving;
    pending_[cid] = {command, std::move(data)};
    if (!later) {
        deliver(cid);
    }
    return cid;
}

inline void IoQueue::deliver(std::uint16_t cid) {
    const Pending pending = std::move(pending_.at(cid));
    pending_.erase(cid);
    nvme::CommandRecord& slot = *pending.command->record;
    if (slot.direction == nvme::DataDirection::to_controller) {
        std::memcpy(pending.command->data, pending.data.data(),
                    std::min<std::size_t>(slot.data_length, pending.data.size()));
    }
    slot.state = nvme::CommandState::ready;
    queue->execute(*pending.command);
}

inline void IoQueue::respond(nvme::Command& command) {
    const nvme::CommandRecord& slot = *command.record;
    CHECK(slot.state == nvme::CommandState::done);
    Answer answer;
    answer.status = wire::Status{slot.status};
    answer.dnr = (slot.status_flags & nvme::status_flag_dnr) != 0;
    answer.result0 = slot.result0;
    if (answer.status.ok() && slot.direction == nvme::DataDirection::to_host) {
        answer.data.resize(slot.data_length);
        answer.from_device = slot.data_region != 0;
        if (!answer.from_device) {
            std::memcpy(answer.data.data(), host_.rig.buffers.at(slot.data_offset), slot.data_length);
        }
    }
    CHECK_FALSE(answers.contains(slot.sqe.cid));
    answers[slot.sqe.cid] = std::move(answer);
    order.push_back(slot.sqe.cid);
    sent_.push_back(&command);
}

inline Answer IoQueue::take(std::uint16_t cid) {
    Answer answer = std::move(answers.at(cid));
    answers.erase(cid);
    release_sent();
    return answer;
}

inline void IoQueue::release_sent() {
    for (nvme::Command* command : sent_) {
        queue->release(*command);
    }
    sent_.clear();
}

inline void IoQueue::end() {
    if (queue == nullptr) {
        return;
    }
    sent_.clear();  // disconnected() frees them
    pending_.clear();
    bool idle = false;
    queue->disconnected([&] { idle = true; });
    CHECK(host_.rig.run_until([&] { return idle; }));
}

}  // namespace testing
