// The table of device kinds. A new kind adds its factory to kinds.h and a row here.

#include "block/kinds.h"

#include <limits>

namespace block {

namespace {

struct Kind {
    const char* name;
    MadeDevice (*make)(Environment&, const DeviceSpec&);
};

constexpr Kind kinds[] = {
    {"ram", make_ram},            // size_bytes, block_bytes, read_only
    {"null", make_null},          // size_bytes, block_bytes, read_only
    {"file", make_file},          // path, create, size_bytes, block_bytes, read_only, wait_for_lock
    {"blockdev", make_blockdev},  // path, block_bytes, read_only, wait_for_lock
    {"delay", make_delay},        // base, read_only, read_delay_us, write_delay_us, flush_delay_us
    {"error", make_error},    // base, read_only, error_actions, error_status, error_offset, _length, _count
    {"linear", make_linear},  // parts, read_only, known
    {"stripe", make_stripe},  // parts (whole devices), chunk_bytes, read_only
    {"migration", make_migration},  // migration, read_only; its map lies in memory NAME@map
    {"nvme", make_remote},          // remote, read_only, known
    {"tcmu", make_tcmu},      // tcmu, read_only; size_bytes and block_bytes where the handler does not know
    {"mirror", make_mirror},  // parts, mirror, read_only, known
};

}  // namespace

std::string describe_device(const DeviceSpec& spec) {
    return "device \"" + spec.name + "\" (" + spec.kind + "): ";
}

base::Result<void> check_size(const DeviceSpec& spec, std::uint64_t bytes) {
    if (bytes == 0 || bytes % spec.block_bytes != 0) {
        return base::Error{"E_INVALID", describe_device(spec) + "the size " + std::to_string(bytes) +
                                            " is not a positive multiple of the block size " +
                                            std::to_string(spec.block_bytes)};
    }
    if (bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        return base::Error{"E_INVALID", describe_device(spec) + "the size " + std::to_string(bytes) +
                                            " is beyond what a file can have (2^63 - 1)"};
    }
    return {};
}

MadeDevice make_device(Environment& environment, const DeviceSpec& spec) {
    if (spec.block_bytes != 512 && spec.block_bytes != 4096) {
        return base::Error{"E_INVALID", describe_device(spec) + "a block has 512 or 4096 bytes, not " +
                                            std::to_string(spec.block_bytes)};
    }
    std::string names;
    for (const Kind& kind : kinds) {
        if (spec.kind == kind.name) {
            return kind.make(environment, spec);
        }
        names += names.empty() ? kind.name : std::string(", ") + kind.name;
    }
    return base::Error{"E_INVALID", "device \"" + spec.name + "\": there is no kind \"" + spec.kind +
                                        "\"; there are " + names};
}

}  // namespace block
