// What others need of the features table.
#pragma once

#include "nvme/controller.h"
#include "wire/nvme_log.h"

namespace nvme {

// Feature Identifiers Supported and Effects, from the table in features.cc.
void fill_feature_effects(const Controller& controller, wire::FeatureEffectsLog& log);

}  // namespace nvme
