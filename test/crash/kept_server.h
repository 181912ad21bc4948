// A server process under the real keeper, for tests of upgrades: an engine with devices and a subsystem. The
// test program is started by the keeper as "(kept server process)", with KEEL_TEST_KEPT in its environment.
#pragma once

#include <cstdint>
#include <string>

namespace crash {

struct KeptSetup {
    std::uint16_t port = 0;
    std::string file;  // path of the file device
    std::string log;   // gets a line per event, see KeptServer
};

std::string describe(const KeptSetup& setup);

}  // namespace crash
