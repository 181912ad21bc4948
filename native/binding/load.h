// The project's own initiator for TypeScript: the demo's self-check.
#pragma once

#include <napi.h>

namespace binding {

// runLoad(options: LoadOptions): Promise<LoadResult>, on a thread of its own.
Napi::Value run_load(const Napi::CallbackInfo& info);

}  // namespace binding
