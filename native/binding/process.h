// The process itself: its keeper, and becoming another program (`keel serve` starts the keeper in its own
// place, under its own process id).
#pragma once

#include <napi.h>

#include <memory>

#include "engine/keeper_link.h"

namespace binding {

// openKeeper(): null without a keeper, else { standby, configuration }; the link goes to the engine that is
// made next.
Napi::Value open_keeper(const Napi::CallbackInfo& info, std::unique_ptr<engine::KeeperLink>& link);

// replaceProcess(path, args): never returns if it succeeds; otherwise { code, message, errorNumber }.
Napi::Value replace_process(const Napi::CallbackInfo& info);

}  // namespace binding
