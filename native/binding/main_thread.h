// The way back to JavaScript: closures that run on Node's main thread, in the order in which they were sent.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <utility>

#include "base/result.h"
#include "binding/values.h"

namespace binding {

class MainThread {
  public:
    using Work = std::function<void(Napi::Env)>;

    // Keeps the event loop alive until `release`.
    MainThread(Napi::Env env, const char* name)
        : function_(Napi::ThreadSafeFunction::New(
              env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), name, 0, 1)) {}

    // Any thread.
    void run(Work work) {
        auto* held = new Work(std::move(work));
        const napi_status sent =
            function_.NonBlockingCall(held, [](Napi::Env env, Napi::Function, Work* data) {
                std::unique_ptr<Work> owned(data);
                if (env != nullptr) {
                    Napi::HandleScope scope(env);
                    (*owned)(env);
                }
            });
        if (sent != napi_ok) {
            delete held;  // the environment is being torn down
        }
    }

    void release() { function_.Release(); }

  private:
    Napi::ThreadSafeFunction function_;
};

// A promise that another thread settles, once.
class Settlement {
  public:
    Settlement(Napi::Env env, std::shared_ptr<MainThread> main)
        : deferred_(std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env))),
          main_(std::move(main)) {}

    Napi::Promise promise() const { return deferred_->Promise(); }

    // `value` makes the JavaScript value on the main thread. Any thread.
    void resolve(std::function<Napi::Value(Napi::Env)> value) const {
        main_->run([deferred = deferred_, value = std::move(value)](Napi::Env env) {
            deferred->Resolve(value(env));
        });
    }
    void resolve() const {
        resolve([](Napi::Env env) { return env.Undefined(); });
    }
    void reject(base::Error error) const {
        main_->run([deferred = deferred_, error = std::move(error)](Napi::Env env) {
            deferred->Reject(error_of(env, error));
        });
    }
    void settle(const base::Result<void>& result) const {
        if (result) {
            resolve();
        } else {
            reject(result.error());
        }
    }

  private:
    std::shared_ptr<Napi::Promise::Deferred> deferred_;
    std::shared_ptr<MainThread> main_;
};

}  // namespace binding
