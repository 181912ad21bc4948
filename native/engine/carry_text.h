// The form of the description that one version leaves to another (engine/carry.h): records of named values.
//
// "keel-carry 1\n", then items: a record's beginning ('R', kind), its fields ('F', name, value), and at the
// end ('E', number of items, CRC32C of everything before). Kinds and names have 1 to 255 bytes, a value any
// number of bytes; a number is a value of at most 8 bytes, little-endian. Kinds and names that a reader does
// not know are passed over, what it misses has its default; a change that this does not allow for would
// raise the number in the first line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace engine {

class CarryWriter {
  public:
    CarryWriter();
    void begin(std::string_view kind);
    // What is zero or empty is left out.
    void number(std::string_view name, std::uint64_t value);
    void bytes(std::string_view name, std::span<const std::byte> value);
    void text(std::string_view name, std::string_view value);
    std::string finish();

  private:
    void item(char tag, std::string_view name);
    void field(std::string_view name, const void* value, std::size_t bytes);

    std::string text_;
    std::uint64_t items_ = 0;
};

struct CarryField {
    std::string_view name, value;
};

// One record of a CarryText; valid as long as that.
class CarryRecord {
  public:
    CarryRecord(std::string_view kind, std::span<const CarryField> fields) : kind_(kind), fields_(fields) {}

    std::string_view kind() const { return kind_; }
    std::optional<std::string_view> find(std::string_view name) const;
    // Nothing if the value is longer than a number.
    std::optional<std::uint64_t> number(std::string_view name, std::uint64_t otherwise = 0) const;
    std::string_view text(std::string_view name) const { return find(name).value_or(std::string_view()); }

  private:
    std::string_view kind_;
    std::span<const CarryField> fields_;
};

class CarryText {
  public:
    // E_INVALID: not a description, of an unknown version, cut off or damaged.
    static base::Result<CarryText> parse(std::string_view text);

    std::size_t size() const { return records_.size(); }
    CarryRecord at(std::size_t index) const;

  private:
    struct Place {
        std::string_view kind;
        std::size_t first, count;  // fields
    };
    std::vector<char> text_;  // what all views point into
    std::vector<Place> records_;
    std::vector<CarryField> fields_;
};

}  // namespace engine
