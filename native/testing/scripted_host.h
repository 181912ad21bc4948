// What tests of the NVMe layer stand on: a Target over a fake kernel and devices that do what the test says,
// and a host that sends submission queue entries which it puts together byte by byte. Answers are looked at
// by offset, as the standard's figures give them, so that what is checked is not also what checks.
#pragma once

#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/device.h"
#include "nvme/controller.h"
#include "nvme/target.h"
#include "testing/block_rig.h"
#include "testing/fake_kernel.h"
#include "transport/loop_connection.h"

namespace testing {

// A device in memory that keeps requests while `holding`.
class HeldDevice final : public block::Device {
  public:
    HeldDevice(const std::string& name, std::uint64_t bytes, std::uint32_t block_bytes)
        : Device(name, "held"), content_(bytes) {
        block::Description description;
        description.size_bytes = bytes;
        description.block_bytes = block_bytes;
        description.physical_block_bytes = block_bytes;
        description.volatile_cache = true;
        description.can_write_zeroes = true;
        description.can_deallocate = true;
        description.deallocated_reads_zero = true;
        set_description(description);
    }

    bool holding = false;
    bool cancellable = true;
    std::uint32_t flushes = 0;
    std::vector<block::Request*> held;

    void finish_held(block::Status status = block::Status::ok) {
        for (block::Request* request : std::exchange(held, {})) {
            carry_out(*request, status);
        }
    }
    void set_read_only(bool read_only) {
        block::Description description = describe();
        description.read_only = read_only;
        set_description(description);
    }
    std::vector<std::byte>& content() { return content_; }

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override {
        block::Description description = describe();
        description.size_bytes = bytes.value_or(description.size_bytes);
        content_.resize(description.size_bytes);
        set_description(description);
        return description.size_bytes;
    }

  protected:
    void submit_checked(block::Request& request) override {
        if (holding) {
            held.push_back(&request);
        } else {
            carry_out(request, block::Status::ok);
        }
    }
    void cancel_checked(block::Request& request) override {
        if (cancellable && std::erase(held, &request) != 0) {
            complete(request, block::Status::aborted);
        }
    }

  private:
    void carry_out(block::Request& request, block::Status status) {
        std::byte* const place = content_.data() + request.offset;
        if (status == block::Status::ok) {
            switch (request.action) {
                case block::Action::read: std::memcpy(request.data, place, request.length); break;
                case block::Action::write: std::memcpy(place, request.data, request.length); break;
                case block::Action::flush: ++flushes; break;
                case block::Action::write_zeroes:
                case block::Action::deallocate: std::memset(place, 0, request.length); break;
            }
        }
        complete(request, status);
    }

    std::vector<std::byte> content_;
};

// A submission queue entry, by offsets.
class Entry {
  public:
    explicit Entry(std::uint8_t opcode) {
        bytes_[0] = opcode;
        bytes_[1] = 0x40;   // PSDT 01b
        bytes_[39] = 0x5A;  // SGL1: transport data block
    }
    Entry& put8(std::size_t at, std::uint8_t value) {
        bytes_[at] = value;
        return *this;
    }
    Entry& put16(std::size_t at, std::uint16_t value) { return put(at, value, 2); }
    Entry& put32(std::size_t at, std::uint32_t value) { return put(at, value, 4); }
    Entry& put64(std::size_t at, std::uint64_t value) { return put(at, value, 8); }
    Entry& cid(std::uint16_t value) { return put16(2, value); }
    Entry& nsid(std::uint32_t value) { return put32(4, value); }
    Entry& dword(unsigned index, std::uint32_t value) { return put32(index * std::size_t{4}, value); }
    Entry& length(std::uint32_t value) { return put32(32, value); }  // SGL1
    Entry& in_capsule(std::uint32_t bytes, std::uint64_t offset = 0) {
        return put64(24, offset).put32(32, bytes).put8(39, 0x01);
    }
    std::uint16_t cid() const { return static_cast<std::uint16_t>(bytes_[2] | (bytes_[3] << 8)); }
    wire::Sqe sqe() const {
        wire::Sqe sqe;
        std::memcpy(static_cast<void*>(&sqe), bytes_.data(), sizeof(sqe));
        return sqe;
    }

  private:
    Entry& put(std::size_t at, std::uint64_t value, std::size_t size) {
        for (std::size_t i = 0; i < size; ++i) {
            bytes_[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
        }
        return *this;
    }
    std::array<std::uint8_t, 64> bytes_{};
};

inline std::uint64_t number_at(std::span<const std::byte> data, std::size_t at, std::size_t size) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size && at + i < data.size(); ++i) {
        value |= std::uint64_t{std::to_integer<std::uint8_t>(data[at + i])} << (8 * i);
    }
    return value;
}

inline std::string text_at(std::span<const std::byte> data, std::size_t at, std::size_t size) {
    std::string text;
    for (std::size_t i = 0; i < size && at + i < data.size(); ++i) {
        text.push_back(static_cast<char>(std::to_integer<std::uint8_t>(data[at + i])));
    }
    return text;
}

inline std::vector<std::byte> filled(std::size_t bytes, std::uint8_t value) {
    return std::vector<std::byte>(bytes, std::byte{value});
}

inline constexpr const char* test_subsystem = "nqn.2026-01.test:subsystem";
inline constexpr const char* test_host = "nqn.2026-01.test:host";

class TargetRig {
  public:
    TargetRig() : reactor(kernel), memory_(std::size_t{16} << 20) { restart(); }
    ~TargetRig() { stop(); }

    // A target with one subsystem (any host) and two namespaces, of 4096 and of 512 byte blocks.
    void with_subsystem() {
        nvme::SubsystemSpec spec;
        spec.nqn = test_subsystem;
        spec.serial = "SERIAL01";
        spec.model = "Model";
        spec.firmware = "7.1";
        spec.allow_any_host = true;
        spec.max_namespaces = 32;
        spec.ieee_oui = {0x11, 0x22, 0x33};
        EK_CHECK(target->add_subsystem(spec).ok(), "add_subsystem");
        add_namespace(1, 4096);
        add_namespace(3, 512);
        target->set_loading(false);
    }

    nvme::NamespaceSpec namespace_spec(std::uint32_t nsid) {
        nvme::NamespaceSpec spec;
        spec.nsid = nsid;
        spec.device = "disk" + std::to_string(nsid);
        spec.nguid.fill(static_cast<std::uint8_t>(0xA0 + nsid));
        spec.uuid.fill(static_cast<std::uint8_t>(0xB0 + nsid));
        return spec;
    }

    HeldDevice& disk(std::uint32_t nsid, std::uint32_t block_bytes = 4096) {
        const std::string name = "disk" + std::to_string(nsid);
        for (const auto& device : devices) {
            if (device->name() == name) {
                return *device;
            }
        }
        devices.push_back(std::make_unique<HeldDevice>(name, std::uint64_t{1} << 20, block_bytes));
        return *devices.back();
    }

    void add_namespace(std::uint32_t nsid, std::uint32_t block_bytes = 4096) {
        EK_CHECK(target->add_namespace(test_subsystem, namespace_spec(nsid), disk(nsid, block_bytes)).ok(),
                 "add_namespace");
    }

    // What can happen without time passing.
    void run() {
        for (int i = 0; i < 8; ++i) {
            reactor.run_once(kernel.time);
            buffers->serve_waiters();
        }
    }
    void advance(base::Nanoseconds duration) {
        kernel.horizon = kernel.time + duration;
        while (kernel.time < kernel.horizon) {
            reactor.run_once(kernel.horizon);
            buffers->serve_waiters();
        }
        run();
    }

    // Ends the target as a kill would: the records stay, everything private goes.
    void stop() {
        if (target == nullptr) {
            return;
        }
        run();
        connections.clear();
        target.reset();
        reactor.run_once(kernel.time);
        buffers.reset();
    }
    void restart() {
        buffers = std::make_unique<reactor::BufferPool>(memory_.span());
        target = std::make_unique<nvme::Target>(reactor, *buffers,
                                                nvme::Target::Records{.controllers = controller_records,
                                                                      .subsystems = subsystem_records,
                                                                      .namespaces = namespace_records});
        target->set_event_sink([this](const nvme::TargetEvent& event) { events.push_back(event); });
    }

    // What outlives a connection's object.
    struct Slot {
        nvme::QueueRecord queue{};
        std::vector<nvme::CommandRecord> commands = std::vector<nvme::CommandRecord>(256);
    };

    transport::LoopConnection& open(std::size_t slot) {
        if (slots.size() <= slot) {
            slots.resize(slot + 1);
        }
        return make(slot);
    }
    transport::LoopConnection& open() {
        slots.emplace_back();
        return make(slots.size() - 1);
    }

    std::uint32_t count(nvme::TargetEventKind kind) const {
        std::uint32_t found = 0;
        for (const nvme::TargetEvent& event : events) {
            found += event.kind == kind ? 1 : 0;
        }
        return found;
    }

    nvme::Endpoint endpoint{"tcp", "ipv4", "192.0.2.1", "4420", "192.0.2.9", "50000", false};
    FakeKernel kernel;
    reactor::Reactor reactor;
    std::vector<nvme::ControllerRecord> controller_records = std::vector<nvme::ControllerRecord>(16);
    std::vector<nvme::SubsystemRecord> subsystem_records = std::vector<nvme::SubsystemRecord>(16);
    std::vector<nvme::NamespaceRecord> namespace_records = std::vector<nvme::NamespaceRecord>(64);
    std::deque<Slot> slots;
    std::vector<std::unique_ptr<HeldDevice>> devices;
    std::unique_ptr<reactor::BufferPool> buffers;
    std::unique_ptr<nvme::Target> target;
    std::vector<std::unique_ptr<transport::LoopConnection>> connections;
    std::vector<nvme::TargetEvent> events;

  private:
    transport::LoopConnection& make(std::size_t slot) {
        connections.push_back(std::make_unique<transport::LoopConnection>(
            *target, reactor, *buffers, slots[slot].queue, slots[slot].commands,
            transport::LoopConnection::Options{
                .slot = static_cast<std::uint32_t>(slot), .endpoint = endpoint, .traits = {}}));
        return *connections.back();
    }

    Pages memory_;
};

// One host's association with one subsystem.
class ScriptedHost {
  public:
    using Completion = transport::LoopCompletion;

    struct Names {
        std::string subsystem = test_subsystem;
        std::string host = test_host;
        std::uint8_t host_id = 0x5A;  // all sixteen bytes
    };

    explicit ScriptedHost(TargetRig& rig) : ScriptedHost(rig, Names{}) {}
    ScriptedHost(TargetRig& rig, Names names_given)
        : names(std::move(names_given)), rig_(rig), admin(&rig.open()) {}

    Names names;

    std::vector<std::byte> connect_data(std::uint16_t cntlid_asked) const {
        std::vector<std::byte> data(1024);
        std::memset(data.data(), names.host_id, 16);
        data[16] = static_cast<std::byte>(cntlid_asked & 0xFF);
        data[17] = static_cast<std::byte>(cntlid_asked >> 8);
        std::memcpy(data.data() + 256, names.subsystem.data(), names.subsystem.size());
        std::memcpy(data.data() + 512, names.host.data(), names.host.size());
        return data;
    }
    static Entry connect_entry(std::uint16_t qid, std::uint16_t sqsize, std::uint32_t kato_ms = 0) {
        return Entry(0x7F).put8(4, 0x01).in_capsule(1024).put16(42, qid).put16(44, sqsize).put32(48, kato_ms);
    }

    // Sends a command; the completion if it is there without time passing.
    std::optional<Completion> send(transport::LoopConnection& queue, Entry entry,
                                   std::span<const std::byte> data = {}) {
        const std::uint16_t cid = next_cid_++;
        if (!queue.submit(entry.cid(cid).sqe(), data)) {
            return std::nullopt;
        }
        rig_.run();
        return queue.take(cid);
    }
    // Sends a command that is not expected to end now; its CID.
    std::uint16_t start(transport::LoopConnection& queue, Entry entry, std::span<const std::byte> data = {}) {
        const std::uint16_t cid = next_cid_++;
        EK_CHECK(queue.submit(entry.cid(cid).sqe(), data), "submit");
        rig_.run();
        return cid;
    }
    // For admin commands that must be answered at once.
    Completion command(const Entry& entry, std::span<const std::byte> data = {}) {
        auto completion = send(*admin, entry, data);
        EK_CHECK(completion.has_value(), "no answer");
        return *completion;
    }

    Completion connect(std::uint32_t kato_ms = 0, std::uint16_t sqsize = 31) {
        Completion completion = command(connect_entry(0, sqsize, kato_ms), connect_data(0xFFFF));
        if (completion.status().ok()) {
            cntlid = static_cast<std::uint16_t>(completion.cqe.dw0.value() & 0xFFFF);
        }
        return completion;
    }
    // Connects and enables, as hosts do.
    void bring_up(std::uint32_t kato_ms = 0) {
        EK_CHECK(connect(kato_ms).status().ok(), "Connect");
        EK_CHECK(set_cc(0x00460001).status().ok(), "CC.EN");
        EK_CHECK((property(0x1C) & 1) == 1, "CSTS.RDY");
    }
    std::optional<Completion> connect_io(transport::LoopConnection& queue, std::uint16_t qid,
                                         std::uint16_t sqsize = 31) {
        return send(queue, connect_entry(qid, sqsize), connect_data(cntlid));
    }
    transport::LoopConnection& io(std::uint16_t qid) {
        transport::LoopConnection& queue = rig_.open();
        const auto completion = connect_io(queue, qid);
        EK_CHECK(completion && completion->status().ok(), "Connect of an I/O queue");
        return queue;
    }

    static Entry property_get(std::uint32_t offset, bool eight_bytes) {
        return Entry(0x7F).put8(4, 0x04).put8(40, eight_bytes ? 1 : 0).put32(44, offset);
    }
    static Entry property_set(std::uint32_t offset, std::uint64_t value, bool eight_bytes = false) {
        return Entry(0x7F).put8(4, 0x00).put8(40, eight_bytes ? 1 : 0).put32(44, offset).put64(48, value);
    }
    std::uint64_t property(std::uint32_t offset, bool eight_bytes = false) {
        const Completion completion = command(property_get(offset, eight_bytes));
        EK_CHECK(completion.status().ok(), "Property Get");
        return completion.cqe.dw01();
    }
    Completion set_cc(std::uint32_t value) { return command(property_set(0x14, value)); }

    Completion identify(std::uint8_t cns, std::uint32_t nsid = 0, std::uint16_t cntid = 0,
                        std::uint8_t csi = 0) {
        return command(Entry(0x06)
                           .nsid(nsid)
                           .dword(10, cns | (std::uint32_t{cntid} << 16))
                           .dword(11, std::uint32_t{csi} << 24)
                           .length(4096));
    }
    static Entry log_entry(std::uint8_t page, std::uint32_t bytes, std::uint64_t offset = 0,
                           std::uint32_t dword10_extra = 0) {
        const std::uint32_t dwords = bytes / 4 - 1;
        return Entry(0x02)
            .nsid(0xFFFFFFFF)
            .dword(10, page | (dwords << 16) | dword10_extra)
            .dword(11, dwords >> 16)
            .put64(48, offset)
            .length(bytes);
    }
    Completion log(std::uint8_t page, std::uint32_t bytes, std::uint64_t offset = 0,
                   std::uint32_t extra = 0) {
        return command(log_entry(page, bytes, offset, extra));
    }
    Completion get_feature(std::uint8_t id, std::uint8_t select = 0, std::uint32_t dword11 = 0,
                           std::uint32_t nsid = 0, std::uint32_t bytes = 0) {
        return command(Entry(0x0A)
                           .nsid(nsid)
                           .dword(10, id | (std::uint32_t{select} << 8))
                           .dword(11, dword11)
                           .length(bytes));
    }
    Completion set_feature(std::uint8_t id, std::uint32_t dword11, std::uint32_t nsid = 0,
                           std::span<const std::byte> data = {}, bool save = false) {
        return command(Entry(0x09)
                           .nsid(nsid)
                           .dword(10, id | (save ? 0x80000000u : 0u))
                           .dword(11, dword11)
                           .length(static_cast<std::uint32_t>(data.size())),
                       data);
    }
    static Entry read_entry(std::uint32_t nsid, std::uint64_t slba, std::uint16_t blocks,
                            std::uint32_t bytes) {
        return Entry(0x02).nsid(nsid).put64(40, slba).dword(12, blocks - 1u).length(bytes);
    }
    static Entry write_entry(std::uint32_t nsid, std::uint64_t slba, std::uint16_t blocks,
                             std::uint32_t bytes) {
        return Entry(0x01).nsid(nsid).put64(40, slba).dword(12, blocks - 1u).length(bytes);
    }
    std::uint16_t park() { return start(*admin, Entry(0x0C)); }

  private:
    TargetRig& rig_;
    std::uint16_t next_cid_ = 1;

  public:
    transport::LoopConnection* admin;
    std::uint16_t cntlid = 0;
};

}  // namespace testing
