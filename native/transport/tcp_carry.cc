// Coming to rest before a planned replacement: nothing more is read, so that what was received can be told
// exactly.

#include "transport/tcp_connection.h"
#include "transport/tcp_transport.h"

#include <algorithm>

namespace transport {

void TcpConnection::stop_reading() {
    if (receive_armed_) {
        around_.reactor.kernel().cancel(receive_operation_);
    }
}

void TcpTransport::stop_reading() {
    read_adopted();
    around_.reads = false;
    for (const auto& connection : connections_) {
        if (connection) {
            connection->stop_reading();
        }
    }
}

bool TcpTransport::receives() const {
    return std::any_of(connections_.begin(), connections_.end(), [](const auto& connection) {
        return connection && connection->receives() && !connection->ending();
    });
}

void TcpTransport::go_on_reading() {
    around_.reads = true;
    for (const auto& connection : connections_) {
        if (connection) {
            connection->go_on_reading();
        }
    }
}

}  // namespace transport
