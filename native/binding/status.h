// Snapshots as JavaScript objects; the shapes are those of ts/native/addon.ts.
#pragma once

#include <napi.h>

#include "engine/engine.h"

namespace binding {

Napi::Value device_value(Napi::Env env, const engine::DeviceStatus& device);
Napi::Value listener_value(Napi::Env env, const transport::ListenerStatus& listener);
Napi::Value status_value(Napi::Env env, const engine::Status& status);
Napi::Value takeover_value(Napi::Env env, const engine::Takeover& takeover);
Napi::Value adoption_value(Napi::Env env, const engine::Adoption& adoption);
Napi::Value restarts_value(Napi::Env env, const engine::RestartArea& area);
Napi::Value keeper_value(Napi::Env env, const engine::KeeperInfo& info);
Napi::Value last_pdus_value(Napi::Env env, const std::vector<engine::LastPdus>& connections);
Napi::Value event_value(Napi::Env env, const engine::Event& event);

}  // namespace binding
