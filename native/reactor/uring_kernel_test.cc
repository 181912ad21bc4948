#include "reactor/uring_kernel.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "base/check.h"

namespace {

using reactor::Operation;
using reactor::UringKernel;

struct Waiting : Operation {
    Waiting() {
        complete = [](Operation& operation, std::int32_t result_) {
            auto& self = static_cast<Waiting&>(operation);
            ++self.completed;
            self.result = result_;
        };
    }
    int completed = 0;
    std::int32_t result = 0;
};

void run(reactor::Kernel& kernel, const Waiting& operation) {
    const base::Nanoseconds deadline = base::monotonic_now() + 10 * base::second;
    while (operation.completed == 0 && base::monotonic_now() < deadline) {
        kernel.wait(deadline);
    }
    REQUIRE(operation.completed == 1);
}

struct TemporaryFile {
    TemporaryFile() { unlink(name); }
    ~TemporaryFile() { close(descriptor); }
    char name[32] = "/tmp/keel-kernel-XXXXXX";
    int descriptor = mkostemp(name, O_CLOEXEC);
};

struct Pages {
    explicit Pages(std::size_t bytes)
        : memory(static_cast<std::byte*>(
                     mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
                 bytes) {}
    ~Pages() { munmap(memory.data(), memory.size()); }
    std::span<std::byte> memory;
};

struct SocketPair {
    SocketPair() { CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0); }
    ~SocketPair() {
        close(ends[0]);
        close(ends[1]);
    }
    int ends[2];
};

std::unique_ptr<UringKernel> make(UringKernel::Mode mode, std::uint32_t submissions = 1024,
                                  std::uint32_t completions = 8192) {
    UringKernel::Options options;
    options.mode = mode;
    options.submission_entries = submissions;
    options.completion_entries = completions;
    auto kernel = UringKernel::make(options);
    if (!kernel.ok()) {
        MESSAGE("this kernel has no such mode: " << kernel.error().message);
        return nullptr;
    }
    return kernel.take();
}

constexpr UringKernel::Mode all_modes[] = {UringKernel::Mode::defer_taskrun, UringKernel::Mode::cooperative,
                                           UringKernel::Mode::plain};

TEST_CASE("files are written, synced, punched and read in every mode, with and without fixed buffers") {
    for (const UringKernel::Mode mode : all_modes) {
        for (const bool fixed : {false, true}) {
            const auto kernel = make(mode);
            if (kernel == nullptr) {
                continue;
            }
            Pages pages(64 * 1024);
            if (fixed && !kernel->register_memory(pages.memory)) {
                MESSAGE("memory cannot be registered here");
            }
            TemporaryFile file;
            std::memset(pages.memory.data(), 0x5a, 8192);
            Waiting write;
            kernel->write(file.descriptor, pages.memory.first(8192), 4096, true, write);
            CHECK(write.completed == 0);
            run(*kernel, write);
            CHECK(write.result == 8192);
            Waiting sync;
            kernel->sync(file.descriptor, sync);
            run(*kernel, sync);
            CHECK(sync.result == 0);
            Waiting punch;
            kernel->allocate(file.descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096, punch);
            run(*kernel, punch);
            CHECK(punch.result == 0);
            Waiting read;
            kernel->read(file.descriptor, pages.memory.subspan(16384, 16384), 0, read);
            run(*kernel, read);
            CHECK(read.result == 12288);
            CHECK(pages.memory[16384 + 8191] == std::byte{0});
            CHECK(pages.memory[16384 + 8192] == std::byte{0x5a});
            Waiting discard;  // not a block device: the answer of the fallback counts
            kernel->discard(file.descriptor, 8192, 4096, discard);
            run(*kernel, discard);
            CHECK(discard.result == 0);
            Waiting bad;
            kernel->read(-1, pages.memory.first(4096), 0, bad);
            run(*kernel, bad);
            CHECK(bad.result == -EBADF);
        }
    }
}

TEST_CASE("sockets connect, accept, send and receive with one buffer and with several") {
    for (const UringKernel::Mode mode : all_modes) {
        const auto kernel = make(mode);
        if (kernel == nullptr) {
            continue;
        }
        const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof(address);
        auto& generic = reinterpret_cast<sockaddr&>(address);
        REQUIRE(bind(listener, &generic, length) == 0);
        REQUIRE(listen(listener, 1) == 0);
        REQUIRE(getsockname(listener, &generic, &length) == 0);
        Waiting accepted;
        Waiting connected;
        kernel->accept(listener, accepted);
        kernel->connect(client, generic, length, connected);
        run(*kernel, accepted);
        run(*kernel, connected);
        const int server = accepted.result;
        REQUIRE(server >= 0);
        CHECK((fcntl(server, F_GETFD) & FD_CLOEXEC) != 0);

        char text[] = "abcdef";
        char left[4] = {};
        char right[4] = {};
        for (const std::size_t buffers : {std::size_t{1}, std::size_t{2}}) {
            iovec out[2] = {{text, 3}, {text + 3, 3}};
            iovec in[2] = {{left, 3}, {right, 3}};
            msghdr sent{};
            sent.msg_iov = out;
            sent.msg_iovlen = buffers;
            msghdr received{};
            received.msg_iov = in;
            received.msg_iovlen = buffers;
            Waiting receiving;
            Waiting sending;
            kernel->receive(server, received, MSG_WAITALL, receiving);
            kernel->send(client, sent, 0, sending);
            run(*kernel, sending);
            run(*kernel, receiving);
            CHECK(sending.result == static_cast<int>(3 * buffers));
            CHECK(receiving.result == static_cast<int>(3 * buffers));
            CHECK(std::string(left) == "abc");
        }
        CHECK(std::string(right) == "def");
        close(server);
        Waiting broken;  // no SIGPIPE
        iovec out{text, 3};
        msghdr sent{};
        sent.msg_iov = &out;
        sent.msg_iovlen = 1;
        Waiting hung_up;
        kernel->poll(client, POLLIN | POLLRDHUP, hung_up);
        run(*kernel, hung_up);
        CHECK((hung_up.result & POLLRDHUP) != 0);
        shutdown(client, SHUT_WR);
        kernel->send(client, sent, 0, broken);
        run(*kernel, broken);
        CHECK(broken.result == -EPIPE);
        close(client);
        close(listener);
    }
}

TEST_CASE("five thousand operations in one batch all complete once, with queues far too small") {
    for (const UringKernel::Mode mode : all_modes) {
        for (const bool from_first_wait : {true, false}) {
            const auto kernel = make(mode, 16, 32);
            if (kernel == nullptr) {
                continue;
            }
            if (!from_first_wait) {
                kernel->wait(0);  // the ring is active: submissions may go to the system early
            }
            TemporaryFile file;
            REQUIRE(ftruncate(file.descriptor, 1 << 20) == 0);
            Pages pages(4096);
            SocketPair pair;
            std::vector<Waiting> operations(5000);
            std::vector<Waiting> polls(2000);
            for (Waiting& poll : polls) {
                kernel->poll(pair.ends[0], POLLIN, poll);  // pending until the end, then all at once
            }
            for (Waiting& operation : operations) {
                kernel->read(file.descriptor, pages.memory.first(512), 0, operation);
            }
            const base::Nanoseconds deadline = base::monotonic_now() + 20 * base::second;
            const auto all = [](const std::vector<Waiting>& waiting) {
                return std::all_of(waiting.begin(), waiting.end(),
                                   [](const Waiting& w) { return w.completed == 1; });
            };
            while (!all(operations) && base::monotonic_now() < deadline) {
                kernel->wait(deadline);
            }
            CHECK(all(operations));
            CHECK(std::all_of(operations.begin(), operations.end(),
                              [](const Waiting& w) { return w.result == 512; }));
            REQUIRE(write(pair.ends[1], "x", 1) == 1);
            while (!all(polls) && base::monotonic_now() < deadline) {
                kernel->wait(deadline);
            }
            CHECK(all(polls));
        }
    }
}

TEST_CASE("a cancelled receive completes once with ECANCELED; cancelling what is done does no harm") {
    for (const UringKernel::Mode mode : all_modes) {
        const auto kernel = make(mode);
        if (kernel == nullptr) {
            continue;
        }
        SocketPair pair;
        char byte = 0;
        iovec in{&byte, 1};
        msghdr message{};
        message.msg_iov = &in;
        message.msg_iovlen = 1;
        Waiting receiving;
        kernel->receive(pair.ends[0], message, 0, receiving);
        kernel->cancel(receiving);  // in the same batch
        run(*kernel, receiving);
        CHECK(receiving.result == -ECANCELED);
        kernel->cancel(receiving);
        Waiting other;
        kernel->poll(pair.ends[1], POLLOUT, other);
        run(*kernel, other);
        CHECK(receiving.completed == 1);
    }
}

TEST_CASE("wait returns at its deadline, at once for one in the past, and when it is woken") {
    for (const UringKernel::Mode mode : all_modes) {
        const auto kernel = make(mode);
        if (kernel == nullptr) {
            continue;
        }
        const base::Nanoseconds start = base::monotonic_now();
        kernel->wait(start);
        kernel->wait(0);
        kernel->wait(start + 3 * base::millisecond);
        CHECK(base::monotonic_now() >= start + 3 * base::millisecond);
        for (int i = 0; i < 3; ++i) {
            std::thread waker([&] { kernel->wake(); });
            kernel->wait(reactor::no_deadline);
            waker.join();
        }
    }
}

TEST_CASE("memory that lies across two fixed buffers or outside of them is used all the same") {
    const auto kernel = make(UringKernel::Mode::best);
    REQUIRE(kernel != nullptr);
    Pages pages(16384);
    kernel->register_memory(pages.memory.subspan(4096, 8192));
    TemporaryFile file;
    REQUIRE(ftruncate(file.descriptor, 1 << 20) == 0);
    for (const std::size_t offset : {0u, 2048u, 4096u, 8192u, 10240u, 12288u}) {
        Waiting read;
        kernel->read(file.descriptor, pages.memory.subspan(offset, 4096), 0, read);
        run(*kernel, read);
        CHECK(read.result == 4096);
    }
}

TEST_CASE("a closed kernel leaves no descriptor behind") {
    const auto open_descriptors = [] {
        int count = 0;
        for (int i = 0; i < 256; ++i) {
            count += fcntl(i, F_GETFD) >= 0 ? 1 : 0;
        }
        return count;
    };
    make(UringKernel::Mode::best);
    const int before = open_descriptors();
    for (int i = 0; i < 10; ++i) {
        const auto kernel = make(UringKernel::Mode::best);
        REQUIRE(kernel != nullptr);
        kernel->wait(0);
    }
    CHECK(open_descriptors() == before);
}

}  // namespace
