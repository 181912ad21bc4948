// Snapshots as JavaScript objects; the shapes are those of ts/native/addon.ts.
#pragma once

#include <napi.h>

#include "engine/engine.h"

namespace binding {

Napi::Value device_value(Napi::Env env, const engine::DeviceStatus& device);
Napi::Value listener_value(Napi::Env env, const transport::ListenerStatus& listener);
Napi::Value status_value(Napi::Env env, const engine::Status& status);
Napi::Value event_value(Napi::Env env, const engine::Event& event);

}  // namespace binding
