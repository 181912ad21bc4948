// A command of ours to a controller elsewhere. It belongs to whoever submits it and stays in place, with its
// data, until `done` was called: exactly once, on the reactor's thread, never from within TcpQueue::submit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "wire/nvme.h"

namespace block::initiator {

struct Completion {
    bool answered = false;  // false: the queue failed before the controller answered
    wire::Status status;
    bool do_not_retry = false;
    std::uint8_t retry_delay = 0;  // CRD: which of CRDT1..3 to wait before the command is sent again
    bool sent = false;             // unanswered: the controller may have got it
    std::uint64_t result = 0;      // dwords 0 and 1

    bool ok() const { return answered && status.ok(); }
};

struct HostCommand {
    wire::Sqe sqe;  // the queue fills in CID, PSDT and the data pointer
    wire::DataDirection direction = wire::DataDirection::none;
    std::uint32_t length = 0;  // bytes of `data`
    std::byte* data = nullptr;
    void (*done)(HostCommand& command, const Completion& completion) = nullptr;

    // The queue's own.
    enum class State : std::uint8_t {
        idle,      // the submitter's
        queued,    // its capsule is not yet handed to the socket
        sent,      // the controller's
        answered,  // before the socket took all of its data, which stay in use until then
    };
    State state = State::idle;
    bool in_capsule = false;
    bool last_seen = false;  // the controller said that it had sent all data
    std::uint16_t transfer_tag = 0;
    std::uint32_t received = 0;   // bytes from the controller
    std::uint32_t requested = 0;  // bytes that R2Ts have asked for
    std::uint32_t given = 0;      // bytes of those that were put into H2CData
    std::uint64_t batch = 0;      // of output, the last one that refers to the data
    Completion answer;            // of an answered one
    HostCommand* next = nullptr;
};

}  // namespace block::initiator
