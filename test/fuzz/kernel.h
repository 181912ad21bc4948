// The kernel of the connection fuzzer: two sockets, which hosts have connected.
#pragma once

#include <array>

#include "sockets.h"

namespace fuzz {

class Kernel final : public SocketKernel {
  public:
    static constexpr int socket_count = 2;
    // Numbers that are no descriptors of this process.
    static constexpr int first_descriptor = 1 << 20;

    Socket& socket(int descriptor) override {
        return sockets_.at(static_cast<std::size_t>(descriptor - first_descriptor));
    }
    void wait(base::Nanoseconds) override {
        for (Socket& s : sockets_) {
            serve(s);
        }
    }

  private:
    std::array<Socket, socket_count> sockets_;
};

}  // namespace fuzz
