// EK_CHECK guards our own invariants in every build: what it finds is a bug of this program, never something
// a remote peer, a disk or a user did. It aborts, which is safe here because a restart loses nothing.
#pragma once

namespace base {

// Prints the broken invariant to stderr and aborts. Any thread.
[[noreturn]] void check_failed(const char* condition, const char* file, int line, const char* reason);

}  // namespace base

#define EK_CHECK(condition, reason)                                       \
    do {                                                                  \
        if (__builtin_expect(!(condition), 0)) {                          \
            ::base::check_failed(#condition, __FILE__, __LINE__, reason); \
        }                                                                 \
    } while (false)
