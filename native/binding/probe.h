// What the kernel and the processor offer, for `keel doctor` and the demo.
#pragma once

#include <napi.h>

namespace binding {

Napi::Value probe(const Napi::CallbackInfo& info);

}  // namespace binding
