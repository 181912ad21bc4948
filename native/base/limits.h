// Every bound of the server in one place, with the relations between them checked at compile time.
// A queue, table or buffer elsewhere names its bound from here.
#pragma once

#include <cstddef>
#include <cstdint>

// 2 in a build that plays the next version, with another layout of the arena, for the tests of upgrades.
#ifndef KEEL_TEST_LAYOUT
#define KEEL_TEST_LAYOUT 1
#endif

namespace limits {

// Connections and queues.
inline constexpr std::uint32_t connections_max = 2048;  // slots in the arena; configuration may allow fewer
inline constexpr std::uint32_t controllers_max = 1024;  // slots in the arena
inline constexpr std::uint32_t io_queues_per_controller_max = 64;
inline constexpr std::uint32_t queue_entries_max = 1024;  // CAP.MQES + 1
// A slot is free once its response was sent; a quick host has used the queue entry again by then.
inline constexpr std::uint32_t command_slots_max = 2 * queue_entries_max;
inline constexpr std::uint32_t queue_entries_min = 2;         // NVMe over Fabrics: SQSIZE is at least 1
inline constexpr std::uint32_t admin_queue_entries_min = 32;  // NVMe over Fabrics: minimum Admin SQ size

// Subsystems and namespaces.
inline constexpr std::uint32_t subsystems_max = 1024;
inline constexpr std::uint32_t namespaces_per_subsystem_max = 1024;
inline constexpr std::uint32_t devices_max = 4096;
inline constexpr std::uint32_t cntlid_max = 0xFFEF;

// Transfers. MDTS is a power of two of the minimum memory page size (4096 B).
inline constexpr std::uint32_t page_bytes = 4096;
inline constexpr std::uint32_t mdts_exponent = 8;
inline constexpr std::uint32_t transfer_bytes_max = page_bytes << mdts_exponent;  // 1 MiB
inline constexpr std::uint32_t in_capsule_bytes_admin = 8192;
inline constexpr std::uint32_t in_capsule_bytes_io_max = 65536;
inline constexpr std::uint32_t in_capsule_bytes_io_default = 8192;
inline constexpr std::uint32_t max_h2c_data_bytes = 1u << 20;  // MAXH2CDATA in ICResp

// Per connection.
inline constexpr std::uint32_t receive_buffer_bytes = (127 + KEEL_TEST_LAYOUT) * 1024;  // stream buffer
inline constexpr std::uint32_t transmit_entries_max = 4096 * KEEL_TEST_LAYOUT;  // of the transmit queue
inline constexpr std::uint32_t transmit_segments_per_send = 256;  // iovec entries of one sendmsg

// Controller.
inline constexpr std::uint32_t async_event_requests_max = 4;   // AERL + 1
inline constexpr std::uint32_t abort_commands_max = 4;         // ACL + 1
inline constexpr std::uint32_t error_log_entries = 64;         // ELPE + 1
inline constexpr std::uint32_t changed_namespaces_max = 1024;  // entries of log page 04h
inline constexpr std::uint32_t pending_events_max = 16;
inline constexpr std::uint32_t dsm_ranges_max = 256;
inline constexpr std::uint32_t copy_ranges_max = 128;

// Data buffers.
inline constexpr std::uint64_t data_pool_bytes_default = 64ull << 20;
inline constexpr std::uint32_t data_block_bytes_min = page_bytes;
inline constexpr std::uint32_t data_block_bytes_max = transfer_bytes_max;

// Text.
inline constexpr std::uint32_t nqn_bytes_max = 223;

static_assert((queue_entries_max & (queue_entries_max - 1)) == 0);
static_assert(transmit_entries_max >= 2 * queue_entries_max, "a C2HData and a response for each command");
static_assert(receive_buffer_bytes >= 2 * (in_capsule_bytes_admin + 4096),
              "the largest admin capsule fits twice");
static_assert(in_capsule_bytes_io_max <= transfer_bytes_max);
static_assert(max_h2c_data_bytes >= 4096 && max_h2c_data_bytes % 4 == 0, "NVMe/TCP 1.0: MAXH2CDATA");
static_assert(dsm_ranges_max * 16 <= page_bytes);
static_assert(changed_namespaces_max * 4 == page_bytes);

}  // namespace limits
