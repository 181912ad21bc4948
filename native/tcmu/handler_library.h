// Loads a handler's shared object, unmodified as it is packaged.
#pragma once

#include <string>
#include <vector>

#include "tcmu/handler_abi.h"

namespace tcmu {

// Filled by tcmur_register_handler, which has no other way to reach us.
std::vector<tcmur_handler*>& registered_handlers();

// The handler of that subtype, or null with the reason in `problem`. It stays loaded.
tcmur_handler* load_handler(const std::string& library, const std::string& subtype, std::string& problem);

}  // namespace tcmu
