// The names that a description gives to the fields of the arena's records: one list per record, used for
// writing and for reading. A name never changes its meaning; a field that goes takes its name along.
//
// Not in these lists: what binds a record to its place (slots, offsets in the pool and in the stream buffer,
// see carry.cc), and what the successor finds out anew.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/byte_order.h"
#include "engine/carry_text.h"
#include "engine/memories.h"
#include "engine/restart_history.h"
#include "nvme/command.h"
#include "nvme/controller_record.h"
#include "nvme/queue_pair.h"
#include "transport/tcp_records.h"

namespace engine {

template <typename T>
concept Number = std::integral<T> || std::is_enum_v<T>;

// Writes fields to the record that was begun last.
struct FieldWriter {
    CarryWriter& out;

    template <Number T>
    void operator()(std::string_view name, const T& value) {
        out.number(name, static_cast<std::uint64_t>(value));
    }
    void operator()(std::string_view name, const wire::Sqe& value) {
        out.bytes(name, std::as_bytes(std::span(&value, 1)));
    }
    template <std::size_t Size>
    void operator()(std::string_view name, const char (&value)[Size]) {
        out.text(name, std::string_view(value, strnlen(value, Size)));
    }
    template <std::size_t Size>
    void operator()(std::string_view name, const std::uint8_t (&value)[Size]) {
        out.bytes(name, std::as_bytes(std::span(value, used(value))));
    }
    template <Number T, std::size_t Size>
    void operator()(std::string_view name, const T (&value)[Size]) {
        std::array<base::le64, Size> stored;
        const std::size_t count = used(value);
        for (std::size_t i = 0; i < count; ++i) {
            stored[i] = static_cast<std::uint64_t>(value[i]);
        }
        out.bytes(name, std::as_bytes(std::span(stored).first(count)));
    }

  private:
    template <typename T, std::size_t Size>
    static std::size_t used(const T (&value)[Size]) {
        std::size_t count = Size;
        while (count != 0 && value[count - 1] == 0) {
            --count;
        }
        return count;
    }
};

// Sets those fields that the record has. `good` turns false if a value does not fit its field.
struct FieldReader {
    const CarryRecord& in;
    bool good = true;

    template <Number T>
    void operator()(std::string_view name, T& value) {
        if (!in.find(name)) {
            return;
        }
        const auto stored = in.number(name);
        value = static_cast<T>(stored.value_or(0));
        good = good && stored && static_cast<std::uint64_t>(value) == *stored;
    }
    void operator()(std::string_view name, wire::Sqe& value) { copy(name, &value, sizeof value); }
    template <std::size_t Size>
    void operator()(std::string_view name, char (&value)[Size]) {
        copy(name, value, Size - 1);
    }
    template <std::size_t Size>
    void operator()(std::string_view name, std::uint8_t (&value)[Size]) {
        copy(name, value, Size);
    }
    template <Number T, std::size_t Size>
    void operator()(std::string_view name, T (&value)[Size]) {
        const std::string_view stored = in.text(name);
        const std::size_t count = stored.size() / sizeof(base::le64);
        if (stored.size() % sizeof(base::le64) != 0 || count > Size) {
            good = false;
            return;
        }
        for (std::size_t i = 0; i < count; ++i) {
            base::le64 number;
            std::memcpy(&number, stored.data() + i * sizeof number, sizeof number);
            value[i] = static_cast<T>(number.value());
            good = good && static_cast<std::uint64_t>(value[i]) == number.value();
        }
    }

  private:
    void copy(std::string_view name, void* value, std::size_t bytes_max) {
        const std::string_view stored = in.text(name);
        if (stored.size() > bytes_max) {
            good = false;
        } else if (!stored.empty()) {
            std::memcpy(value, stored.data(), stored.size());
        }
    }
};

template <typename T, typename Record>
concept Of = std::same_as<std::remove_const_t<T>, Record>;

void each_field(auto& visit, Of<nvme::CommandRecord> auto& record) {
    visit("sqe", record.sqe);
    visit("stream_offset", record.stream_offset);
    visit("response_sequence", record.response_sequence);
    visit("data_offset", record.data_offset);
    visit("data_length", record.data_length);
    visit("buffer_bytes", record.buffer_bytes);
    visit("received_bytes", record.received_bytes);
    visit("result0", record.result0);
    visit("result1", record.result1);
    visit("progress", record.progress);
    visit("data_region", record.data_region);
    visit("status", record.status);
    visit("state", record.state);
    visit("direction", record.direction);
    visit("status_flags", record.status_flags);
    visit("in_capsule", record.in_capsule);
    visit("transfer_tag", record.transfer_tag);
    visit("buffer_wanted", record.buffer_wanted);
}

void each_field(auto& visit, Of<transport::ReceiveState> auto& record) {
    visit("consumed", record.consumed);
    visit("capsules", record.capsules);
    visit("remaining", record.remaining);
    visit("data_position", record.data_position);
    visit("pdu_data_begin", record.pdu_data_begin);
    visit("pdu_data_bytes", record.pdu_data_bytes);
    visit("command_received", record.command_received);
    visit("phase", record.phase);
    visit("has_digest", record.has_digest);
    visit("receiving_command", record.command);
}

void each_field(auto& visit, Of<nvme::QueueRecord> auto& record) {
    visit("qid", record.qid);
    visit("entries", record.entries);
    visit("flow_control_off", record.flow_control_off);
    visit("connect_done", record.connect_done);
}

void each_field(auto& visit, Of<transport::ConnectionRecord> auto& record) {
    visit("id", record.id);
    visit("listener", record.listener);
    visit("opened_ms", record.opened_ms);
    visit("header_digest", record.header_digest);
    visit("data_digest", record.data_digest);
    visit("host_alignment", record.host_alignment);
    visit("discovery_only", record.discovery_only);
    visit("outstanding_r2t", record.outstanding_r2t);
    visit("transmit_slots", record.transmit_slots);
    visit("transmit_tail", record.transmit_tail);
    visit("split_sequence", record.split.sequence);
    visit("split_begin", record.split.begin);
    each_field(visit, record.queue);
}

void each_field(auto& visit, Of<transport::TransmitEntry> auto& record) {
    visit("stream_offset", record.stream_offset);
    visit("data_offset", record.data_offset);
    visit("data_bytes", record.data_bytes);
    visit("data_region", record.data_region);
    visit("command", record.command);
    visit("padding_bytes", record.padding_bytes);
}

void each_field(auto& visit, Of<nvme::FeatureValues> auto& record) {
    visit("arbitration", record.arbitration);
    visit("power_management", record.power_management);
    visit("temperature_over", record.temperature_over);
    visit("temperature_under", record.temperature_under);
    visit("volatile_write_cache", record.volatile_write_cache);
    visit("queues_granted_sq", record.queues_granted_sq);
    visit("queues_granted_cq", record.queues_granted_cq);
    visit("queues_set", record.queues_set);
    visit("write_atomicity", record.write_atomicity);
    visit("async_event_configuration", record.async_event_configuration);
    visit("interrupt_coalescing", record.interrupt_coalescing);
    visit("command_set_profile", record.command_set_profile);
    visit("timestamp_ms", record.timestamp_ms);
    visit("timestamp_set_ns", record.timestamp_set_ns);
    visit("timestamp_origin", record.timestamp_origin);
    visit("host_behavior", record.host_behavior);
}

void each_field(auto& visit, Of<nvme::ErrorRecord> auto& record) {
    visit("count", record.count);
    visit("lba", record.lba);
    visit("nsid", record.nsid);
    visit("qid", record.qid);
    visit("cid", record.cid);
    visit("status", record.status);
    visit("location", record.location);
    visit("command_specific", record.command_specific);
}

void each_field(auto& visit, Of<nvme::ControllerRecord> auto& record) {
    visit("generation", record.generation);
    visit("subsystem_hash", record.subsystem_hash);
    visit("subsystem_nqn", record.subsystem_nqn);
    visit("host_nqn", record.host_nqn);
    visit("host_id", record.host_id);
    visit("cntlid", record.cntlid);
    visit("kind", record.kind);
    visit("keep_alive_expired", record.keep_alive_expired);
    visit("kato_ms", record.kato_ms);
    visit("cc", record.cc);
    visit("csts", record.csts);
    visit("last_contact_ns", record.last_contact_ns);
    visit("created_ms", record.created_ms);
    each_field(visit, record.features);
    visit("events_pending", record.events_pending);
    visit("events_masked", record.events_masked);
    visit("discovery_generation", record.discovery_generation);
    visit("error_count", record.error_count);
    visit("errors_logged", record.errors_logged);
    visit("namespace_digest", record.namespace_digest);
    visit("discovery_digest", record.discovery_digest);
    visit("changed_count", record.changed_count);
    visit("changed_namespaces", record.changed_namespaces);
    visit("error_recovery_of", record.error_recovery);
}

void each_field(auto& visit, Of<nvme::SubsystemRecord> auto& record) {
    visit("cntlid_next", record.cntlid_next);
    visit("ana_state", record.ana_state);
    visit("nqn", record.nqn);
    visit("ana_change_count", record.ana_change_count);
    visit("read_bytes", record.read_bytes);
    visit("written_bytes", record.written_bytes);
    visit("read_commands", record.read_commands);
    visit("write_commands", record.write_commands);
    visit("media_errors", record.media_errors);
    visit("error_entries", record.error_entries);
    visit("restarts", record.restarts);
    visit("unsafe_shutdowns", record.unsafe_shutdowns);
    visit("busy_ns", record.busy_ns);
    visit("created_ms", record.created_ms);
}

void each_field(auto& visit, Of<nvme::NamespaceRecord> auto& record) {
    visit("nsid", record.nsid);
    visit("write_protection", record.write_protection);
    visit("nguid", record.nguid);
}

void each_field(auto& visit, Of<MemoryRecord> auto& record) {
    visit("bytes", record.bytes);
    visit("name", record.name);
}

void each_field(auto& visit, Of<RestartRecord> auto& record) {
    visit("number", record.number);
    visit("time_ms", record.time_ms);
    visit("died_ns", record.died_ns);
    visit("go_ns", record.go_ns);
    visit("configured_ns", record.configured_ns);
    visit("served_ns", record.served_ns);
    visit("started_ns", record.started_ns);
    visit("loaded_ns", record.loaded_ns);
    visit("mapped_ns", record.mapped_ns);
    visit("barrier_ns", record.barrier_ns);
    visit("first_byte_ns", record.first_byte_ns);
    visit("previous_pid", record.previous_pid);
    visit("carried", record.carried);
    visit("begun", record.begun);
    visit("refused", record.refused);
    visit("executed", record.executed);
    visit("reason", record.reason);
    visit("exit", record.exit);
}

void each_field(auto& visit, Of<RestartTotals> auto& record) {
    visit("restarts", record.restarts);
    visit("crash", record.crash);
    visit("watchdog", record.watchdog);
    visit("upgrade", record.upgrade);
    visit("other", record.other);
    visit("carried", record.carried);
    visit("refused", record.refused);
    visit("executed", record.executed);
    visit("pause_sum_ns", record.pause_sum_ns);
    visit("pause_counts", record.pause_counts);
}

}  // namespace engine
