// Becoming another program: `keel serve` starts the keeper in its own place, under its own process id.
#pragma once

#include <napi.h>

namespace binding {

// replaceProcess(path, args): never returns if it succeeds; otherwise { code, message, errorNumber }.
Napi::Value replace_process(const Napi::CallbackInfo& info);

}  // namespace binding
