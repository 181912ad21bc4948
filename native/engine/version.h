// The version of the data plane; the same as package.json's.
#pragma once

namespace engine {

inline constexpr const char* version = "0.1.0";

}  // namespace engine
