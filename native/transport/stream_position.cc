#include "transport/stream_position.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace transport {

namespace {

enum TcpState : std::uint8_t {  // tcp(7), include/net/tcp_states.h
    established = 1,
    fin_wait1 = 4,
    fin_wait2 = 5,
    time_wait = 6,
    close_wait = 8,
    last_ack = 9,
    closing = 11,
};

bool read_info(int socket, tcp_info& info) {
    socklen_t length = sizeof info;
    info = {};
    return getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) == 0;
}

bool fin_received(std::uint8_t state) {
    return state == close_wait || state == last_ack || state == closing || state == time_wait;
}

bool fin_sent(std::uint8_t state) {
    return state == fin_wait1 || state == fin_wait2 || state == last_ack || state == closing ||
           state == time_wait;
}

}  // namespace

StreamPosition read_stream_position(int socket, bool actively_opened) {
    StreamPosition position;
    for (int attempt = 0; attempt < 1000; ++attempt) {
        tcp_info before;
        tcp_info after;
        int unread = 0;
        int unacknowledged = 0;
        if (!read_info(socket, before) || ioctl(socket, SIOCINQ, &unread) != 0 ||
            ioctl(socket, SIOCOUTQ, &unacknowledged) != 0 || !read_info(socket, after)) {
            return position;
        }
        if (before.tcpi_bytes_received != after.tcpi_bytes_received ||
            before.tcpi_bytes_acked != after.tcpi_bytes_acked || before.tcpi_state != after.tcpi_state) {
            continue;
        }
        position.received = after.tcpi_bytes_received - (fin_received(after.tcpi_state) ? 1 : 0) -
                            static_cast<std::uint64_t>(unread);
        position.sent = after.tcpi_bytes_acked + static_cast<std::uint64_t>(unacknowledged) -
                        (fin_sent(after.tcpi_state) ? 1 : 0) - (actively_opened ? 1 : 0);
        position.alive = after.tcpi_state == established || after.tcpi_state == close_wait;
        return position;
    }
    return position;  // the peer floods faster than it can be read a thousand times: not alive
}

}  // namespace transport
