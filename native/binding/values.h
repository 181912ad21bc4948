// Conversions between JavaScript values and ours. What TypeScript passes is complete and of the declared
// types (ts/native/addon.ts); a value that is not becomes the type's zero rather than a crash.
#pragma once

#include <napi.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "nvme/latency.h"

namespace binding {

inline std::string text_of(const Napi::Object& object, const char* key) {
    const Napi::Value value = object.Get(key);
    return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string();
}

inline std::uint64_t whole_of(const Napi::Value& value) {
    if (value.IsBigInt()) {
        bool lossless = false;
        return value.As<Napi::BigInt>().Uint64Value(&lossless);
    }
    if (value.IsNumber()) {
        const double number = value.As<Napi::Number>().DoubleValue();
        return number > 0 && number < 9.2e18 ? static_cast<std::uint64_t>(number) : 0;
    }
    return 0;
}

inline std::uint64_t wide_of(const Napi::Object& object, const char* key) {
    return whole_of(object.Get(key));
}

inline std::uint32_t number_of(const Napi::Object& object, const char* key) {
    const std::uint64_t value = whole_of(object.Get(key));
    return value > 0xFFFFFFFFull ? 0xFFFFFFFFu : static_cast<std::uint32_t>(value);
}

inline bool flag_of(const Napi::Object& object, const char* key) {
    const Napi::Value value = object.Get(key);
    return value.IsBoolean() && value.As<Napi::Boolean>().Value();
}

// null is -1.
inline int descriptor_of(const Napi::Object& object, const char* key) {
    const Napi::Value value = object.Get(key);
    return value.IsNumber() ? value.As<Napi::Number>().Int32Value() : -1;
}

inline std::vector<std::string> texts_of(const Napi::Value& value) {
    std::vector<std::string> texts;
    if (value.IsArray()) {
        const auto array = value.As<Napi::Array>();
        for (std::uint32_t index = 0; index < array.Length(); ++index) {
            const Napi::Value entry = array.Get(index);
            texts.push_back(entry.IsString() ? entry.As<Napi::String>().Utf8Value() : std::string());
        }
    }
    return texts;
}

// 32 hexadecimal digits, hyphens allowed; anything else is all zero.
inline std::array<std::uint8_t, 16> id_of(const std::string& text) {
    std::array<std::uint8_t, 16> id{};
    std::size_t digits = 0;
    for (const char letter : text) {
        if (letter == '-') {
            continue;
        }
        const int digit = letter >= '0' && letter <= '9'   ? letter - '0'
                          : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10
                          : letter >= 'A' && letter <= 'F' ? letter - 'A' + 10
                                                           : -1;
        if (digit < 0 || digits == 32) {
            return {};
        }
        id[digits / 2] = static_cast<std::uint8_t>((id[digits / 2] << 4) | digit);
        ++digits;
    }
    return digits == 32 ? id : std::array<std::uint8_t, 16>{};
}

inline std::string hex_of(const std::array<std::uint8_t, 16>& id) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string text;
    for (const std::uint8_t byte : id) {
        text += digits[byte >> 4];
        text += digits[byte & 15];
    }
    return text;
}

inline Napi::Value big(Napi::Env env, std::uint64_t value) { return Napi::BigInt::New(env, value); }
inline Napi::Value number(Napi::Env env, std::uint64_t value) {
    return Napi::Number::New(env, static_cast<double>(value));
}

inline Napi::Value array_of(Napi::Env env, const std::vector<std::string>& texts) {
    Napi::Array array = Napi::Array::New(env, texts.size());
    for (std::uint32_t index = 0; index < texts.size(); ++index) {
        array.Set(index, texts[index]);
    }
    return array;
}

inline Napi::Value histogram_of(Napi::Env env, const nvme::LatencyHistogram& histogram) {
    Napi::Object object = Napi::Object::New(env);
    Napi::Array counts = Napi::Array::New(env, nvme::LatencyHistogram::bucket_count);
    for (std::uint32_t bucket = 0; bucket < nvme::LatencyHistogram::bucket_count; ++bucket) {
        counts.Set(bucket, number(env, histogram.count(bucket)));
    }
    object.Set("counts", counts);
    object.Set("total", number(env, histogram.total()));
    object.Set("sumNs", number(env, histogram.sum_ns()));
    return object;
}

// { code, message, errorNumber }, as TypeScript expects failures.
inline Napi::Value error_of(Napi::Env env, const base::Error& error) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("code", error.code);
    object.Set("message", error.message);
    object.Set("errorNumber", Napi::Number::New(env, error.error_number));
    return object;
}

}  // namespace binding
