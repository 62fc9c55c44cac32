// Tested by tests/e2e/quantctl_test.py.
#include "service/checkpoint/shard_source.h"

#include "service/checkpoint/fault.h"

namespace qs {

absl::Status CheckpointShards::CheckUnchanged(int shard) const {
  return InputFault(FileOf(shard).CheckUnchanged());
}

}  // namespace qs
