// Errors of the control plane: a stable code, a text for people. The data path does not use these; it has the
// status codes of the standard (wire/nvme.h) and of the block contract (block/request.h).
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace base {

// Why an operation of the control plane failed. `code` is one of the E_… names that TypeScript knows
// (ts/model/errors.ts); `message` names the value, the place and the cause; `error_number` is errno or 0.
struct Error {
    std::string code;
    std::string message;
    int error_number = 0;
};

// A value or an Error. Asking for the wrong one is our own bug.
template <typename T>
class [[nodiscard]] Result {
  public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

    bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }

    T& value() {
        EK_CHECK(ok(), "value() of a failed result");
        return *std::get_if<0>(&state_);
    }
    const T& value() const {
        EK_CHECK(ok(), "value() of a failed result");
        return *std::get_if<0>(&state_);
    }
    T take() { return std::move(value()); }

    const Error& error() const {
        EK_CHECK(!ok(), "error() of a successful result");
        return *std::get_if<1>(&state_);
    }

  private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
  public:
    Result() = default;
    Result(Error error) : failed_(true), error_(std::move(error)) {}  // NOLINT

    bool ok() const { return !failed_; }
    explicit operator bool() const { return ok(); }
    const Error& error() const {
        EK_CHECK(failed_, "error() of a successful result");
        return error_;
    }

  private:
    bool failed_ = false;
    Error error_;
};

}  // namespace base
