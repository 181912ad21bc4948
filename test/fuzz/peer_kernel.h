// The kernel of the initiator fuzzer: connections that the host makes to a peer that is the script's.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "sockets.h"

namespace fuzz {

// One connection, from the host's connect on. It stays when the host has closed it.
struct Link : Socket {
    bool gone = false;  // the host has ended it
};

class PeerKernel final : public SocketKernel {
  public:
    std::vector<std::unique_ptr<Link>> links;  // in the order in which the host made them
    bool refuses = false;                      // connections

    void connect(int descriptor, const sockaddr&, socklen_t, reactor::Operation& operation) override {
        links.push_back(std::make_unique<Link>());
        Link& link = *links.back();
        present_[descriptor] = &link;
        link.error = refuses ? ECONNREFUSED : 0;
        link.send_operation = &operation;
    }
    void cancel(reactor::Operation& target) override {
        for (const auto& link : links) {
            if (link->receive_operation == &target) {
                link->receive_cancelled = link->gone = true;
            }
            if (link->send_operation == &target) {
                link->send_cancelled = link->gone = true;
            }
        }
    }
    void wait(base::Nanoseconds) override {
        for (std::size_t i = 0; i < links.size(); ++i) {  // who is told may connect
            serve(*links[i]);
        }
    }

  private:
    Socket& socket(int descriptor) override { return *present_.at(descriptor); }

    std::map<int, Link*> present_;  // by descriptor
};

}  // namespace fuzz
