#include "tcmu/options.h"

#include <cstdlib>

namespace tcmu {

const char usage[] =
    R"(usage: keel-tcmu check SUBTYPE LIBRARY CONFIGURATION
Loads a tcmu-runner handler and asks it about a configuration; opens nothing.
(keel-tcmu serve … is for the server alone, which passes memory and descriptors along.)
)";

bool parse_options(int count, char** arguments, Options& options) {
    const std::string verb = count > 1 ? arguments[1] : "";
    options.serve = verb == "serve";
    if (!(options.serve && count == 9) && !(verb == "check" && count == 5)) {
        return false;
    }
    options.subtype = arguments[2];
    options.library = arguments[3];
    options.configuration = arguments[4];
    if (options.serve) {
        options.block_bytes = static_cast<std::uint32_t>(std::strtoul(arguments[5], nullptr, 10));
        options.size_bytes = std::strtoull(arguments[6], nullptr, 10);
        options.name = arguments[7];
        options.parent = static_cast<pid_t>(std::strtol(arguments[8], nullptr, 10));
    }
    return options.block_bytes == 512 || options.block_bytes == 4096;
}

}  // namespace tcmu
