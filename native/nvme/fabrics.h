// Fabrics commands: Connect, Property Get, Property Set, Disconnect.
//
// NVM Express Base 2.0 §6.
#pragma once

#include "nvme/command.h"
#include "nvme/queue_pair.h"

namespace nvme {

Admission admit_fabrics(QueuePair& queue, const wire::Sqe& sqe);
void execute_fabrics(QueuePair& queue, Command& command);

}  // namespace nvme
