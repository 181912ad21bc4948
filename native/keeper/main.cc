// keel-keeper: see keeper.h and docs/keeper.md.

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "keeper/keeper.h"
#include "keeper/log.h"
#include "keeper/options.h"

int main(int count, char** arguments) {
    // Descriptors 0 to 2 must be taken, or one of ours would become somebody's standard output.
    int descriptor = -1;
    do {
        descriptor = open("/dev/null", O_RDWR);
    } while (descriptor >= 0 && descriptor <= 2);
    close(descriptor);
    keeper::Options options;
    std::string problem;
    bool help = false;
    if (!keeper::parse_options(count, arguments, options, problem, help)) {
        std::fprintf(stderr, "keel-keeper: %s\n", problem.c_str());
        return 2;
    }
    if (help) {
        std::fputs(keeper::usage, stdout);
        return 0;
    }
    keeper::Log log(std::getenv("JOURNAL_STREAM") != nullptr, options.log_least);
    keeper::Keeper keeper(options, log);
    return keeper.run();
}
