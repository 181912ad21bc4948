// What stands behind the opaque `struct tcmu_device` of the handlers: the one device of this process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tcmu/handler_abi.h"

struct tcmu_device {
    std::string configuration;  // "subtype/configuration"
    std::string serial;
    void* handler_private = nullptr;
    std::uint64_t blocks = 0;
    std::uint32_t block_bytes = 512;
    std::uint32_t transfer_blocks_max = 0;
    std::uint32_t unmap_blocks_max = 0;  // 0: any
    std::uint32_t unmap_blocks = 0;
    std::uint32_t unmap_blocks_alignment = 0;
    bool write_cache = true;
    bool solid_state = false;
    // The rbd handler reads event counters from the state that tcmu-runner keeps of a device: nothing ever
    // happened.
    alignas(16) std::byte runner_private[4096] = {};
};
