// The addon's entry: openKeeper, createEngine, runLoad, probe (type Addon in ts/native/addon.ts).
// Per-environment state only.

#include <napi.h>

#include "binding/engine_object.h"
#include "binding/load.h"
#include "binding/probe.h"
#include "binding/process.h"

namespace {

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
    auto keeper = std::make_shared<std::unique_ptr<engine::KeeperLink>>();
    auto constructor = std::make_shared<Napi::FunctionReference>(
        Napi::Persistent(binding::EngineObject::define(env, keeper)));
    exports.Set("openKeeper", Napi::Function::New(env, [keeper](const Napi::CallbackInfo& info) {
                    return binding::open_keeper(info, *keeper);
                }));
    exports.Set("createEngine",
                Napi::Function::New(env, [constructor](const Napi::CallbackInfo& info) -> Napi::Value {
                    const Napi::Value argument = info[0];
                    return constructor->New({argument});
                }));
    exports.Set("runLoad", Napi::Function::New(env, binding::run_load));
    exports.Set("probe", Napi::Function::New(env, binding::probe));
    exports.Set("replaceProcess", Napi::Function::New(env, binding::replace_process));
    return exports;
}

}  // namespace

NODE_API_MODULE(keel, initialize)
