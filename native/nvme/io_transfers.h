// Read, Write, Flush, Write Zeroes, Dataset Management and Verify: rows of the table in io_commands.cc.
//
// NVM Express Base 2.0 §7.1 (Flush); NVM Command Set 1.0 §3.2.3 (Dataset Management), §3.2.4 (Read), §3.2.5
// (Verify), §3.2.6 (Write), §3.2.8 (Write Zeroes).
#pragma once

#include "nvme/command.h"
#include "nvme/queue_pair.h"

namespace nvme {

Admission admit_read(QueuePair& queue, const wire::Sqe& sqe);
void execute_read(QueuePair& queue, Command& command);

Admission admit_write(QueuePair& queue, const wire::Sqe& sqe);
void execute_write(QueuePair& queue, Command& command);

Admission admit_flush(QueuePair& queue, const wire::Sqe& sqe);
void execute_flush(QueuePair& queue, Command& command);

Admission admit_write_zeroes(QueuePair& queue, const wire::Sqe& sqe);
void execute_write_zeroes(QueuePair& queue, Command& command);

Admission admit_dataset_management(QueuePair& queue, const wire::Sqe& sqe);
void execute_dataset_management(QueuePair& queue, Command& command);

Admission admit_verify(QueuePair& queue, const wire::Sqe& sqe);
void execute_verify(QueuePair& queue, Command& command);

}  // namespace nvme
