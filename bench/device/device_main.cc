// A file or block device without a target in front of it: io_uring with O_DIRECT at a depth, on one core.
//
//   device --path PATH --depth N --io-bytes N --read-percent 0|100 [--sequential] --seconds N --warmup N
//   [--progress]

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "../measurement.h"
#include "base/check.h"
#include "reactor/reactor.h"
#include "reactor/uring_kernel.h"

namespace {

struct Place : reactor::Operation {
    struct Bench* bench = nullptr;
    std::byte* data = nullptr;
    base::Nanoseconds issued_at = 0;
};

struct Bench {
    reactor::Reactor& reactor;
    bench::Measurement measurement;
    bench::Random random;
    int file;
    std::uint64_t units;
    std::size_t io_bytes;
    bool reading;
    bool sequential;
    std::uint64_t cursor = 0;
    bool running = true;

    void issue(Place& place) {
        const std::uint64_t unit = sequential ? cursor++ % units : random.below(units);
        place.issued_at = reactor.now();
        if (reading) {
            reactor.kernel().read(file, {place.data, io_bytes}, unit * io_bytes, place);
        } else {
            reactor.kernel().write(file, {place.data, io_bytes}, unit * io_bytes, false, place);
        }
    }
    void ended(Place& place, std::int32_t result) {
        if (result != static_cast<std::int32_t>(io_bytes)) {
            std::fprintf(stderr, "device: an I/O ended with %d\n", result);
            std::_Exit(1);
        }
        running = measurement.add(place.issued_at, reactor.now()) && running;
        issue(place);
    }
};

}  // namespace

int main(int argc, char** argv) {
    const bench::Arguments arguments(argc, argv);
    auto kernel = reactor::UringKernel::make();
    if (!kernel) {
        std::fprintf(stderr, "device: %s\n", kernel.error().message.c_str());
        return 1;
    }
    const bool reading = arguments.number("--read-percent") != 0;
    const int file =
        open(arguments.text("--path").c_str(), (reading ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
    const off_t size = file >= 0 ? lseek(file, 0, SEEK_END) : -1;
    const std::size_t io_bytes = arguments.number("--io-bytes");
    const std::size_t depth = arguments.number("--depth");
    if (size <= 0 || io_bytes == 0 || static_cast<std::size_t>(size) < io_bytes) {
        std::perror("device: cannot be used");
        return 1;
    }
    void* const memory = mmap(nullptr, depth * io_bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    EK_CHECK(memory != MAP_FAILED, "no memory");
    kernel.value()->register_memory({static_cast<std::byte*>(memory), depth * io_bytes});
    reactor::Reactor reactor(*kernel.value());
    Bench bench{.reactor = reactor,
                .measurement = bench::Measurement(
                    std::strtod(arguments.text("--warmup", "0").c_str(), nullptr),
                    std::strtod(arguments.text("--seconds").c_str(), nullptr), arguments.has("--progress")),
                .random = {},
                .file = file,
                .units = static_cast<std::uint64_t>(size) / io_bytes,
                .io_bytes = io_bytes,
                .reading = reading,
                .sequential = arguments.has("--sequential")};
    std::vector<Place> places(depth);
    for (std::size_t i = 0; i < depth; ++i) {
        places[i].bench = &bench;
        places[i].data = static_cast<std::byte*>(memory) + i * io_bytes;
        places[i].complete = [](reactor::Operation& operation, std::int32_t result) {
            auto& place = static_cast<Place&>(operation);
            place.bench->ended(place, result);
        };
        bench.issue(places[i]);
    }
    while (bench.running) {
        reactor.run_once(reactor::no_deadline);
    }
    bench.measurement.print();
    std::fflush(stdout);
    std::_Exit(0);  // operations are under way
}
