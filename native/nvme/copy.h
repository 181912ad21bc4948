// Copy, descriptor format 0: several source ranges into one destination [NVM Command Set 1.0 §3.2.2].
//
// All sources are read into the command's own buffer before anything is written, and the record says so in
// between: executed again after a kill, a copy whose destination overlaps its sources writes what it had
// read, not what it has half overwritten.
#pragma once

#include "nvme/command.h"
#include "nvme/queue_pair.h"

namespace nvme {

Admission admit_copy(QueuePair& queue, const wire::Sqe& sqe);
void execute_copy(QueuePair& queue, Command& command);

}  // namespace nvme
