// The command line, as the server writes it:
//   keel-tcmu serve SUBTYPE LIBRARY CONFIGURATION BLOCK_BYTES SIZE_BYTES NAME PARENT
//   keel-tcmu check SUBTYPE LIBRARY CONFIGURATION
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace tcmu {

struct Options {
    bool serve = false;
    std::string subtype;
    std::string library;
    std::string configuration;
    std::uint32_t block_bytes = 512;
    std::uint64_t size_bytes = 0;  // 0: the handler has to know
    std::string name;              // of the device
    pid_t parent = 0;
};

// False if the arguments are wrong.
bool parse_options(int count, char** arguments, Options& options);

extern const char usage[];

}  // namespace tcmu
