// The command line of the keeper: its options, "--", and the command that starts the server.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "keeper/log.h"

namespace keeper {

enum class Standby : std::uint8_t {
    off,
    on,
    automatic,  // where enough memory is available
};

struct Options {
    Standby standby = Standby::automatic;
    std::uint32_t connections_max = 2048;
    // A source that has reported once must go on; 0: not watched.
    base::Nanoseconds reactor_silence_max = 5 * base::second;
    base::Nanoseconds main_silence_max = 60 * base::second;
    base::Nanoseconds start_max = 60 * base::second;     // from the start to HELLO; 0: no limit
    base::Nanoseconds warm_max = 30 * base::second;      // a restart's new server, from its start to STANDBY
    base::Nanoseconds quiesce_max = 2 * base::second;    // from QUIESCE to QUIESCED
    base::Nanoseconds stop_max = 15 * base::second;      // from SIGTERM to the end
    base::Nanoseconds reap_warning = 10 * base::second;  // from SIGKILL to the end
    base::Nanoseconds standby_delay = 500 * base::millisecond;  // after READY, so that recovery has the CPU
    base::Nanoseconds short_life = base::second;                // see RestartPolicy
    std::uint32_t final_code = 0;  // a server that exits with it ends the service; 0: none does
    Level log_least = Level::info;
    char** command = nullptr;  // ends with a null pointer
};

// False with `problem` if the arguments are wrong; `help` if they only ask for help.
bool parse_options(int count, char** arguments, Options& options, std::string& problem, bool& help);

extern const char usage[];

}  // namespace keeper
