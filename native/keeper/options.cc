#include "keeper/options.h"

#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

namespace keeper {

const char usage[] =
    R"(usage: keel-keeper [options] -- COMMAND [ARGUMENT…]

Starts COMMAND (a server), holds its listeners, connections and memory, and starts it again when it ends.

  --standby=auto|on|off     keep a second, warm server; auto: where 1 GiB of memory is available
  --connections-max=N       more connections than these are closed at once (2048)
  --reactor-silence=SECONDS a server whose data path says nothing for so long is replaced (5; 0: never)
  --main-silence=SECONDS    the same for its control plane (60; 0: never)
  --start-time=SECONDS      a server that has not begun by then is replaced (60; 0: never)
  --warm-time=SECONDS       a planned restart is given up if the new server is not warm by then (30)
  --quiesce-time=SECONDS    the old server has this long to come to rest in a planned restart (2)
  --stop-time=SECONDS       the server has this long to stop (15)
  --reap-warning=SECONDS    a killed server that has not ended by then is reported (10)
  --standby-delay=SECONDS   the next standby is started this long after the server is ready (0.5)
  --short-life=SECONDS      after several servers in a row that served for less, wait before the next (1; 0: never)
  --final-code=N            a server that exits with this code ends the service with it (none)
  --log=LEVEL               error, warning, notice or info: what is written to standard error (info)
  --help

Signals: TERM, INT stop; HUP goes to the server; USR2 asks for a planned restart.
)";

namespace {

struct TimeOption {
    std::string_view name;
    base::Nanoseconds Options::*field;
};

constexpr TimeOption time_options[] = {
    {"--reactor-silence", &Options::reactor_silence_max},
    {"--main-silence", &Options::main_silence_max},
    {"--start-time", &Options::start_max},
    {"--warm-time", &Options::warm_max},
    {"--quiesce-time", &Options::quiesce_max},
    {"--stop-time", &Options::stop_max},
    {"--reap-warning", &Options::reap_warning},
    {"--standby-delay", &Options::standby_delay},
    {"--short-life", &Options::short_life},
};

bool parse_seconds(const std::string& text, base::Nanoseconds& result) {
    char* end = nullptr;
    const double seconds = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(seconds >= 0) || seconds > 86400) {
        return false;
    }
    result = static_cast<base::Nanoseconds>(seconds * 1e9);
    return true;
}

bool parse_standby(std::string_view text, Standby& result) {
    if (text == "on") {
        result = Standby::on;
    } else if (text == "off") {
        result = Standby::off;
    } else if (text == "auto") {
        result = Standby::automatic;
    } else {
        return false;
    }
    return true;
}

bool parse_level(std::string_view text, Level& result) {
    constexpr std::pair<std::string_view, Level> levels[] = {{"error", Level::error},
                                                             {"warning", Level::warning},
                                                             {"notice", Level::notice},
                                                             {"info", Level::info}};
    for (const auto& [name, level] : levels) {
        if (text == name) {
            result = level;
            return true;
        }
    }
    return false;
}

bool parse_count(const std::string& text, std::uint32_t& result) {
    char* end = nullptr;
    const unsigned long count = std::strtoul(text.c_str(), &end, 10);
    if (text.empty() || text[0] == '-' || *end != '\0' || count == 0 || count > 1'000'000) {
        return false;
    }
    result = static_cast<std::uint32_t>(count);
    return true;
}

bool parse_option(std::string_view name, const std::string& value, Options& options) {
    for (const TimeOption& option : time_options) {
        if (name == option.name) {
            return parse_seconds(value, options.*option.field);
        }
    }
    if (name == "--standby") {
        return parse_standby(value, options.standby);
    }
    if (name == "--log") {
        return parse_level(value, options.log_least);
    }
    if (name == "--final-code") {
        return parse_count(value, options.final_code) && options.final_code < 256;
    }
    return name == "--connections-max" && parse_count(value, options.connections_max);
}

}  // namespace

bool parse_options(int count, char** arguments, Options& options, std::string& problem, bool& help) {
    for (int i = 1; i < count; ++i) {
        const std::string_view argument = arguments[i];
        if (argument == "--") {
            options.command = arguments + i + 1;
            break;
        }
        if (argument == "--help") {
            help = true;
            return true;
        }
        const std::size_t equals = argument.find('=');
        const std::string value(equals == std::string_view::npos ? "" : argument.substr(equals + 1));
        if (!parse_option(argument.substr(0, equals), value, options)) {
            problem = "not understood: " + std::string(argument);
            return false;
        }
    }
    if (options.command == nullptr || options.command[0] == nullptr) {
        problem = "the server's command is missing: keel-keeper [options] -- COMMAND [ARGUMENT…]";
        return false;
    }
    return true;
}

}  // namespace keeper
