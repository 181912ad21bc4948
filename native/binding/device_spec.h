// A device's specification as TypeScript passes it: DeviceSpec in ts/native/addon.ts.
#pragma once

#include <napi.h>

#include "block/spec.h"

namespace binding {

block::DeviceSpec device_spec_of(const Napi::Object& object);

}  // namespace binding
