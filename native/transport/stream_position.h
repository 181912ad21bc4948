// Where a TCP connection stands, by the kernel's own account: the witness of a dead process's last moments.
//
// received = tcpi_bytes_received − unread bytes, sent = tcpi_bytes_acked + unacknowledged bytes, read in a
// loop until two readings agree, and corrected for the FIN that both counters may include. Exact for
// passively opened sockets with SO_OOBINLINE, once the process that used the socket was reaped.
#pragma once

#include <cstdint>

namespace transport {

struct StreamPosition {
    std::uint64_t received = 0;  // bytes that were handed to a process
    std::uint64_t sent = 0;      // bytes that were accepted from a process
    bool alive = false;          // ESTABLISHED or CLOSE_WAIT: worth going on with
};

// `actively_opened`: this side made the connection, so its SYN counts as one acknowledged byte.
StreamPosition read_stream_position(int socket, bool actively_opened = false);

}  // namespace transport
