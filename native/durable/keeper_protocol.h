// What keeper and server say to each other: one message per packet of a SOCK_SEQPACKET pair, as text:
// "VERB key=value key=value", and at most one descriptor beside it (SCM_RIGHTS). In values, bytes that are
// not printable ASCII, spaces and '%' are written %XX. Unknown verbs and keys are ignored, so that either
// side may be the newer one.
//
// Server to keeper:
//   HELLO version=          first message; without it the server gets no QUIESCE and no patience
//   STORE kind= name=       + descriptor. kind: memory, listener. replace=1 to replace one of that name;
//                           (the same file or socket again is nothing new); kept once it is sent, whatever
//                           happens to the sender afterwards
//   FORGET kind= name=      answered by FORGOTTEN; FORGET kind=connection id= is not answered
//   STANDBY layout=         warm; waits for GO. layout=other: it cannot read the arena that the active one
//   uses,
//                           only what that one describes once it has come to rest
//   READY                   serves (after GO)
//   ALIVE source=           reactor, main. A source that has reported once must go on doing so
//   STATUS text=            for people who ask systemd
//   RESTART reason=         please replace me by what is installed now; fails with RESTART-FAILED
//   QUIESCED                nothing is half-done any more; kill me
//   STOPPING                my exit with code 0 is the end of the service
//   INFO                    answered by KEEPER-INFO
//
// Keeper to server:
//   ROLE role= generation=  first message. role: active, standby
//   ITEM kind= name= id=    + descriptor. Memory files come at once, listeners and connections after GO;
//                           a connection's name is its listener's
//   GO reason= exit= died_ns= killed= previous_pid= restarts= started_ns=
//                           be the server. reason: start, keeper (which found its store in systemd), crash,
//                           watchdog, upgrade. died_ns: CLOCK_MONOTONIC at which the death was seen, or 0;
//                           started_ns: at which the process that gets this was made
//   END of= count=          of=memory: the memory files that were stored when this process started have been
//                           sent; of=all (after GO): everything has, in so many ITEM messages altogether
//   CONNECTION id= name=    + descriptor; newly accepted through listener `name`, stored before
//   FORGOTTEN kind= name=   is no longer stored
//   REFUSED verb= kind= name= reason=   a STORE, FORGET or RESTART (without kind and name) that was not begun
//   QUIESCE deadline_ms= describe=
//                           take no new work, finish or park the present one, say QUIESCED. describe=0: the
//                           successor can read the arena; otherwise it may need a description
//   RESTART-FAILED reason=  go on as before
//   KEEPER-INFO …           see docs/keeper.md
//
// Signals are passed on as signals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace durable {

inline constexpr std::uint32_t keeper_protocol_version = 1;
inline constexpr std::size_t keeper_message_bytes_max = 2048;
inline constexpr std::size_t keeper_value_bytes_max = 512;
inline constexpr std::size_t keeper_name_bytes_max = 111;
// As systemd gets it, inside a name of at most 255 bytes.
inline constexpr std::size_t keeper_name_encoded_bytes_max = 220;
inline constexpr std::size_t keeper_fields_max = 24;

// A name that may be stored: 1 … keeper_name_bytes_max bytes, any but NUL, not too many of them unprintable.
bool keeper_name_valid(std::string_view name);

// Writes bytes outside printable ASCII, spaces, '%' and those in `also` as %XX.
std::string keeper_encode(std::string_view text, std::string_view also = "");
// Nothing if a '%' is not followed by two hexadecimal digits.
std::optional<std::string> keeper_decode(std::string_view text);

class KeeperMessage {
  public:
    explicit KeeperMessage(std::string_view verb) : text_(verb), verb_bytes_(verb.size()) {}

    // Values are cut at keeper_value_bytes_max; a field that does not fit into the message is left out.
    KeeperMessage& add(std::string_view key, std::string_view value);
    KeeperMessage& add(std::string_view key, std::uint64_t value);

    // Nothing if `packet` is no message: then it must be ignored as a whole.
    static std::optional<KeeperMessage> parse(std::string_view packet);

    std::string_view verb() const { return std::string_view(text_).substr(0, verb_bytes_); }
    // Empty if absent.
    std::string value(std::string_view key) const;
    // Nothing if absent or not a decimal number of 64 bits.
    std::optional<std::uint64_t> number(std::string_view key) const;
    std::string_view packet() const { return text_; }

  private:
    std::string text_;
    std::size_t verb_bytes_;
};

// Sends a message, with `descriptor` unless it is -1. Never blocks, never raises SIGPIPE.
enum class KeeperSend : std::uint8_t {
    sent,
    again,   // the socket is full, or too many descriptors are in flight: later
    closed,  // nobody is there any more
    failed,  // this message cannot be sent (errno): the descriptor is bad
};
KeeperSend send_keeper_message(int socket, const KeeperMessage& message, int descriptor = -1);
// The same for any text: systemd's datagrams look alike.
KeeperSend send_packet(int socket, std::string_view text, int descriptor);

struct KeeperReceive {
    enum class Outcome : std::uint8_t { message, nothing, malformed, closed } outcome;
    std::optional<KeeperMessage> message;  // if outcome is message
    int descriptor = -1;                   // close-on-exec; the caller's
};
// Takes one message. Never blocks. Descriptors of a malformed message are closed.
KeeperReceive receive_keeper_message(int socket);

}  // namespace durable
