#include "engine/carry_text.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/byte_order.h"
#include "base/check.h"
#include "base/crc32c.h"

namespace engine {

namespace {

constexpr std::string_view first_line = "keel-carry 1\n";
constexpr std::string_view any_version = "keel-carry ";
constexpr std::size_t name_bytes_max = 255;
constexpr std::size_t end_bytes = 1 + sizeof(base::le64) + sizeof(base::le32);

base::Error invalid(std::string message) { return base::Error{"E_INVALID", std::move(message), 0}; }

std::uint32_t checksum(std::string_view text) {
    return base::crc32c(std::as_bytes(std::span<const char>(text)));
}

}  // namespace

// --- writing ---

CarryWriter::CarryWriter() : text_(first_line) {}

void CarryWriter::item(char tag, std::string_view name) {
    EK_CHECK(!name.empty() && name.size() <= name_bytes_max, "a name of 1 to 255 bytes");
    text_ += tag;
    text_ += static_cast<char>(name.size());
    text_ += name;
    ++items_;
}

void CarryWriter::begin(std::string_view kind) { item('R', kind); }

void CarryWriter::field(std::string_view name, const void* value, std::size_t bytes) {
    item('F', name);
    const base::le32 length = static_cast<std::uint32_t>(bytes);
    text_.append(reinterpret_cast<const char*>(&length), sizeof length);
    text_.append(static_cast<const char*>(value), bytes);
}

void CarryWriter::number(std::string_view name, std::uint64_t value) {
    if (value != 0) {
        const base::le64 stored = value;
        field(name, &stored, static_cast<std::size_t>(std::bit_width(value) + 7) / 8);
    }
}

void CarryWriter::bytes(std::string_view name, std::span<const std::byte> value) {
    if (!value.empty()) {
        field(name, value.data(), value.size());
    }
}

void CarryWriter::text(std::string_view name, std::string_view value) {
    bytes(name, std::as_bytes(std::span<const char>(value)));
}

std::string CarryWriter::finish() {
    text_ += 'E';
    const base::le64 items = items_;
    text_.append(reinterpret_cast<const char*>(&items), sizeof items);
    const base::le32 sum = checksum(text_);
    text_.append(reinterpret_cast<const char*>(&sum), sizeof sum);
    return std::move(text_);
}

// --- reading ---

std::optional<std::string_view> CarryRecord::find(std::string_view name) const {
    const auto found =
        std::find_if(fields_.begin(), fields_.end(), [&](const auto& field) { return field.name == name; });
    return found == fields_.end() ? std::nullopt : std::optional(found->value);
}

std::optional<std::uint64_t> CarryRecord::number(std::string_view name, std::uint64_t otherwise) const {
    const auto value = find(name);
    if (!value) {
        return otherwise;
    }
    base::le64 stored{};
    if (value->size() > sizeof stored) {
        return std::nullopt;
    }
    std::memcpy(&stored, value->data(), value->size());
    return stored.value();
}

CarryRecord CarryText::at(std::size_t index) const {
    const Place& place = records_[index];
    return {place.kind, std::span(fields_).subspan(place.first, place.count)};
}

base::Result<CarryText> CarryText::parse(std::string_view text) {
    if (!text.starts_with(first_line)) {
        return invalid(text.starts_with(any_version)
                           ? "the description is of a version that is not known here"
                           : "the description does not begin as one");
    }
    if (text.size() < first_line.size() + end_bytes) {
        return invalid("the description is cut off");
    }
    base::le32 sum;
    std::memcpy(&sum, text.data() + text.size() - sizeof sum, sizeof sum);
    if (checksum(text.substr(0, text.size() - sizeof sum)) != sum.value()) {
        return invalid("the description is damaged or cut off");
    }
    CarryText parsed;
    parsed.text_.assign(text.begin(), text.end());
    std::string_view left(parsed.text_.data() + first_line.size(),
                          text.size() - first_line.size() - end_bytes);
    const base::Error malformed = invalid("the description is malformed");
    std::uint64_t items = 0;
    while (!left.empty()) {
        const char tag = left[0];
        const std::size_t name_bytes = left.size() > 1 ? static_cast<unsigned char>(left[1]) : 0;
        if (name_bytes == 0 || left.size() - 2 < name_bytes) {
            return malformed;
        }
        const std::string_view name = left.substr(2, name_bytes);
        left.remove_prefix(2 + name_bytes);
        ++items;
        if (tag == 'R') {
            parsed.records_.push_back({name, parsed.fields_.size(), 0});
            continue;
        }
        base::le32 length;
        if (tag != 'F' || parsed.records_.empty() || left.size() < sizeof length) {
            return malformed;
        }
        std::memcpy(&length, left.data(), sizeof length);
        left.remove_prefix(sizeof length);
        if (left.size() < length.value()) {
            return malformed;
        }
        parsed.fields_.push_back({name, left.substr(0, length.value())});
        left.remove_prefix(length.value());
        ++parsed.records_.back().count;
    }
    base::le64 counted;
    const char* const end = parsed.text_.data() + parsed.text_.size() - end_bytes;
    std::memcpy(&counted, end + 1, sizeof counted);
    if (*end != 'E' || counted.value() != items) {
        return malformed;
    }
    return parsed;
}

}  // namespace engine
