// What the control plane says to make a device. Validated and completed by TypeScript (ts/config): here every
// field has its final value. The table of kinds in block/kinds.cc says which kind reads which field.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/device.h"
#include "reactor/buffer_pool.h"
#include "reactor/reactor.h"

namespace block {

struct DeviceSpec {
    std::string name;              // unique in the server
    std::string kind;              // "ram", "file", "blockdev", "null", "delay", "error"
    std::uint64_t size_bytes = 0;  // ram, null; file: 0 takes the file's size, else created or grown to this
    std::uint32_t block_bytes = 4096;  // 512 or 4096
    bool read_only = false;
    std::string path;     // file, blockdev
    bool create = false;  // file: create if absent
    // file, blockdev: if another process holds the lock, wait for it in the background; else fail with
    // E_BUSY.
    bool wait_for_lock = true;
    std::string base;  // delay, error: the name of the device below
    // delay: added to each request of the action.
    std::uint64_t read_delay_us = 0;
    std::uint64_t write_delay_us = 0;
    std::uint64_t flush_delay_us = 0;
    // error: requests of these actions (names) that touch the range end with `status` (name), `count` times
    // (0: always).
    std::vector<std::string> error_actions;
    std::string error_status = "medium_error";
    std::uint64_t error_offset = 0;
    std::uint64_t error_length = 0;  // 0: to the end
    std::uint64_t error_count = 0;
};

// Memory that a device lives in and that outlives the process; given out by the engine.
struct PersistentMemory {
    int descriptor = -1;  // the memory file
    std::span<std::byte> memory;
    std::uint16_t region = 0;  // for MemoryReference
};

// What a kind may use of its surroundings.
struct Environment {
    reactor::Reactor& reactor;
    reactor::BufferPool& buffers;
    std::function<Device*(const std::string& name)> find;
    // ram: memory of this size under this device's name; the same content again after a restart.
    // Asked again with another size it resizes: the content stays as far as both sizes reach, the rest is
    // zeroes.
    std::function<base::Result<PersistentMemory>(const std::string& name, std::uint64_t bytes)> memory;
    std::function<void(const std::string& name)> forget_memory;
    // null: a region of zeroes of at least limits::transfer_bytes_max.
    MemoryReference zeroes;
};

// Makes and opens a device. Synchronous parts (path, type, size) fail here with E_… codes; the lock on a file
// or block device that a dead predecessor's I/O may still hold is awaited in the background: until it is
// granted, requests wait inside the device (Health says so).
base::Result<std::unique_ptr<Device>> make_device(Environment& environment, const DeviceSpec& spec);

}  // namespace block
