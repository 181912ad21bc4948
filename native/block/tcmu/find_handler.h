// Where tcmu handlers are found, and the program that runs them.
#pragma once

#include <string>

#include "base/result.h"
#include "block/spec.h"

namespace block::tcmu {

// The path of the shared object for the specification's handler. E_NOT_FOUND names those that are there.
base::Result<std::string> find_handler(const DeviceSpec& spec, const std::string& program);

// keel-tcmu, which lies beside the addon or program that this code is in.
std::string default_program();

}  // namespace block::tcmu
