// Tested by tests/e2e/quantctl_test.py.
#include "service/checkpoint/shard_source.h"

#include "service/checkpoint/fault.h"

namespace qs {

absl::Status CheckpointShards::CheckUnchanged(int shard) const {
  return InputFault(FileOf(shard).CheckUnchanged());
}

absl::StatusOr<UniqueFd> CheckpointShards::OpenSideFile(
    const CheckpointSideFile& file) const {
  const Checkpoint& files = planned_.files();
  absl::StatusOr<UniqueFd> fd =
      OpenRegularFile(files.path() + "/" + file.path, files.opener().get());
  if (!fd.ok()) return InputFault(fd.status());
  return fd;
}

}  // namespace qs
