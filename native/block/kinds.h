// The factories of the device kinds, for the table in kinds.cc alone. Each checks the fields of the
// specification that it reads and opens what it names.
#pragma once

#include <memory>

#include "base/result.h"
#include "block/spec.h"

namespace block {

using MadeDevice = base::Result<std::unique_ptr<Device>>;

MadeDevice make_ram(Environment& environment, const DeviceSpec& spec);
MadeDevice make_null(Environment& environment, const DeviceSpec& spec);
MadeDevice make_file(Environment& environment, const DeviceSpec& spec);
MadeDevice make_blockdev(Environment& environment, const DeviceSpec& spec);
MadeDevice make_delay(Environment& environment, const DeviceSpec& spec);
MadeDevice make_error(Environment& environment, const DeviceSpec& spec);
MadeDevice make_linear(Environment& environment, const DeviceSpec& spec);
MadeDevice make_stripe(Environment& environment, const DeviceSpec& spec);
MadeDevice make_migration(Environment& environment, const DeviceSpec& spec);
MadeDevice make_remote(Environment& environment, const DeviceSpec& spec);
MadeDevice make_tcmu(Environment& environment, const DeviceSpec& spec);
MadeDevice make_mirror(Environment& environment, const DeviceSpec& spec);

// E_INVALID unless `bytes` is a size that a device with the specification's blocks can have.
base::Result<void> check_size(const DeviceSpec& spec, std::uint64_t bytes);

// The start of every message: which device it is about.
std::string describe_device(const DeviceSpec& spec);

}  // namespace block
