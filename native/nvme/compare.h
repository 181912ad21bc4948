// Compare, and the fused pair Compare and Write [NVM Command Set 1.0 §3.2.1; NVM Express Base 2.0 §3.4.2].
//
// The pair has its range alone from before the comparison until both halves are done, so it is atomic for all
// hosts. It must also happen once. The second half's `progress` says how far it came: nothing; compared, so
// that the write is promised and only that is repeated after a kill; or decided, with the outcome of both
// halves, so that nothing is repeated.
#pragma once

#include "nvme/command.h"
#include "nvme/queue_pair.h"

namespace nvme {

Admission admit_compare(QueuePair& queue, const wire::Sqe& sqe);
void execute_compare(QueuePair& queue, Command& command);

// A second half that is executed without its first: the outcome was decided before a restart, or there is no
// pair.
void finish_orphaned_second(Command& command);

// Ends a command that waits for its turn; a pair as a whole.
void abandon(Command& command);

}  // namespace nvme
