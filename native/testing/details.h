// What a device tells of itself (Device::tell), by key. For tests with doctest.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <variant>

#include "block/device.h"

namespace testing {

// As text, also a number.
inline std::string detail(const block::Details& details, const std::string& key) {
    for (const auto& [name, value] : details) {
        if (name == key) {
            const auto* const text = std::get_if<std::string>(&value);
            return text != nullptr ? *text : std::to_string(std::get<std::uint64_t>(value));
        }
    }
    return "there is no " + key;
}

inline std::string detail(const block::Device& device, const std::string& key) {
    block::Details details;
    device.tell(details);
    return detail(details, key);
}

inline std::uint64_t number(const block::Device& device, const std::string& key) {
    block::Details details;
    device.tell(details);
    for (const auto& [name, value] : details) {
        const auto* const found = std::get_if<std::uint64_t>(&value);
        if (found != nullptr && name == key) {
            return *found;
        }
    }
    FAIL("no detail " << key);
    return 0;
}

}  // namespace testing
