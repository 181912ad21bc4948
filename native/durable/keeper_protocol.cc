#include "durable/keeper_protocol.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace durable {

namespace {

constexpr std::size_t descriptors_per_packet_max = 4;  // received, to be refused if more than one

constexpr char hexadecimal[] = "0123456789ABCDEF";

int digit_of(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool is_printable(char c) { return c > ' ' && c < 0x7F; }

bool is_verb(std::string_view text) {
    return !text.empty() && text.size() <= 32 &&
           std::all_of(text.begin(), text.end(), [](char c) { return (c >= 'A' && c <= 'Z') || c == '-'; });
}

bool is_key(std::string_view text) {
    return !text.empty() && text.size() <= 32 &&
           std::all_of(text.begin(), text.end(), [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; });
}

bool is_value(std::string_view text) {
    return std::all_of(text.begin(), text.end(), is_printable) && keeper_decode(text).has_value();
}

// The next word and what follows its space; words are separated by exactly one space.
std::string_view next_word(std::string_view& rest) {
    const std::size_t space = rest.find(' ');
    const std::string_view word = rest.substr(0, space);
    rest = space == std::string_view::npos ? std::string_view() : rest.substr(space + 1);
    return word;
}

std::optional<std::string_view> raw_value(std::string_view text, std::string_view key) {
    next_word(text);
    while (!text.empty()) {
        const std::string_view word = next_word(text);
        const std::size_t equals = word.find('=');
        if (equals != std::string_view::npos && word.substr(0, equals) == key) {
            return word.substr(equals + 1);
        }
    }
    return std::nullopt;
}

}  // namespace

bool keeper_name_valid(std::string_view name) {
    return !name.empty() && name.size() <= keeper_name_bytes_max &&
           name.find('\0') == std::string_view::npos &&
           keeper_encode(name, ":").size() <= keeper_name_encoded_bytes_max;
}

std::string keeper_encode(std::string_view text, std::string_view also) {
    std::string encoded;
    for (const char c : text) {
        if (is_printable(c) && c != '%' && also.find(c) == std::string_view::npos) {
            encoded += c;
        } else {
            const auto byte = static_cast<unsigned char>(c);
            encoded += '%';
            encoded += hexadecimal[byte >> 4];
            encoded += hexadecimal[byte & 15];
        }
    }
    return encoded;
}

std::optional<std::string> keeper_decode(std::string_view text) {
    std::string decoded;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            decoded += text[i];
            continue;
        }
        const int high = i + 2 < text.size() ? digit_of(text[i + 1]) : -1;
        const int low = high >= 0 ? digit_of(text[i + 2]) : -1;
        if (low < 0) {
            return std::nullopt;
        }
        decoded += static_cast<char>(high * 16 + low);
        i += 2;
    }
    return decoded;
}

KeeperMessage& KeeperMessage::add(std::string_view key, std::string_view value) {
    const std::string encoded = keeper_encode(value.substr(0, keeper_value_bytes_max));
    if (text_.size() + key.size() + encoded.size() + 2 <= keeper_message_bytes_max) {
        text_.append(" ").append(key).append("=").append(encoded);
    }
    return *this;
}

KeeperMessage& KeeperMessage::add(std::string_view key, std::uint64_t value) {
    return add(key, std::to_string(value));
}

std::optional<KeeperMessage> KeeperMessage::parse(std::string_view packet) {
    if (packet.size() > keeper_message_bytes_max) {
        return std::nullopt;
    }
    std::string_view rest = packet;
    const std::string_view verb = next_word(rest);
    if (!is_verb(verb)) {
        return std::nullopt;
    }
    std::string_view keys[keeper_fields_max];
    std::size_t fields = 0;
    if (verb.size() < packet.size() && rest.empty()) {
        return std::nullopt;  // ends with a space
    }
    while (!rest.empty()) {
        const bool last = rest.find(' ') == std::string_view::npos;
        const std::string_view word = next_word(rest);
        const std::size_t equals = word.find('=');
        if (fields == keeper_fields_max || equals == std::string_view::npos) {
            return std::nullopt;
        }
        const std::string_view key = word.substr(0, equals);
        if (!is_key(key) || !is_value(word.substr(equals + 1)) ||
            std::find(keys, keys + fields, key) != keys + fields || (rest.empty() && !last)) {
            return std::nullopt;
        }
        keys[fields++] = key;
    }
    KeeperMessage message(verb);
    message.text_ = packet;
    return message;
}

std::string KeeperMessage::value(std::string_view key) const {
    const auto raw = raw_value(text_, key);
    return raw ? keeper_decode(*raw).value_or("") : "";
}

std::optional<std::uint64_t> KeeperMessage::number(std::string_view key) const {
    const auto raw = raw_value(text_, key);
    if (!raw || raw->empty()) {
        return std::nullopt;
    }
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(raw->data(), raw->data() + raw->size(), number);
    if (error != std::errc() || end != raw->data() + raw->size()) {
        return std::nullopt;
    }
    return number;
}

KeeperSend send_keeper_message(int socket, const KeeperMessage& message, int descriptor) {
    return send_packet(socket, message.packet(), descriptor);
}

KeeperSend send_packet(int socket, std::string_view text, int descriptor) {
    iovec part{const_cast<char*>(text.data()), text.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (descriptor >= 0) {
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(rights), &descriptor, sizeof descriptor);
    }
    for (;;) {
        if (sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
            return KeeperSend::sent;
        }
        switch (errno) {
            case EINTR: continue;
            case EAGAIN:
            case ENOBUFS:
            case ENOMEM:
            case ETOOMANYREFS: return KeeperSend::again;
            case EPIPE:
            case ECONNRESET:
            case ENOTCONN: return KeeperSend::closed;
            default: return KeeperSend::failed;
        }
    }
}

namespace {

// A packet without bytes looks like the end of the stream.
bool is_end(int socket) {
    pollfd state{socket, POLLRDHUP, 0};
    if (poll(&state, 1, 0) <= 0 || (state.revents & (POLLRDHUP | POLLHUP | POLLERR)) == 0) {
        return false;
    }
    int waiting = 0;
    return ioctl(socket, SIOCINQ, &waiting) != 0 || waiting == 0;
}

// The descriptors that came with a packet: the first, and how many there were; the others are closed.
int take_descriptor(msghdr& header, std::size_t& count) {
    int first = -1;
    count = 0;
    for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const std::size_t here = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < here; ++i) {
            int descriptor = -1;
            std::memcpy(&descriptor, CMSG_DATA(part) + i * sizeof(int), sizeof descriptor);
            if (++count == 1) {
                first = descriptor;
            } else {
                close(descriptor);
            }
        }
    }
    return first;
}

}  // namespace

KeeperReceive receive_keeper_message(int socket) {
    using Outcome = KeeperReceive::Outcome;
    char packet[keeper_message_bytes_max];
    alignas(cmsghdr) char control[CMSG_SPACE(descriptors_per_packet_max * sizeof(int))];
    iovec part{packet, sizeof packet};
    msghdr header{};
    ssize_t bytes = -1;
    do {
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        bytes = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        // A peer that died with unread messages leaves ECONNRESET, once, before the packets that it had sent.
    } while (bytes < 0 && (errno == EINTR || errno == ECONNRESET));
    if (bytes < 0) {
        const bool later = errno == EAGAIN || errno == ENOMEM || errno == ENOBUFS;
        return {later ? Outcome::nothing : Outcome::closed, std::nullopt, -1};
    }
    std::size_t count = 0;
    const int descriptor = take_descriptor(header, count);
    if (bytes == 0 && count == 0 && is_end(socket)) {
        return {Outcome::closed, std::nullopt, -1};
    }
    auto message = KeeperMessage::parse({packet, static_cast<std::size_t>(bytes)});
    if (!message || count > 1 || (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
        if (descriptor >= 0) {
            close(descriptor);
        }
        return {Outcome::malformed, std::nullopt, -1};
    }
    return {Outcome::message, std::move(message), descriptor};
}

}  // namespace durable
