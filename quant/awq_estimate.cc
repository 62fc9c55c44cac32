// Tested by tests/quant/group_memory_test.cc.
#include <algorithm>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/awq_checks.h"
#include "quant/awq_group.h"
#include "quant/group_base.h"
#include "quant/quantizer_base.h"

namespace qs {
namespace {

int64_t NumElements(const TensorInfo& info) {
  return CheckedNumElements(info.shape).value_or(0);
}

}  // namespace

absl::StatusOr<int64_t> EstimateAwqGroupBytes(const QuantSpec& spec,
                                              const GroupInfo& info,
                                              const QuantizeOptions& options,
                                              int64_t max_tiles) {
  QS_RETURN_IF_ERROR(CheckAwqTensors(spec, info));
  // All input at once: a tile's is there when another one runs.
  QuantizeOptions whole = options;
  whole.tiled_input = false;
  whole.streamed_output = false;
  int64_t bytes = GroupSiteBytes(spec, info);
  int64_t running = 0;
  int64_t largest = 0;
  for (const GroupTensor& tensor : info.tensors) {
    if (tensor.role == GroupRole::kFoldOnly) {
      bytes += 2 * NumElements(tensor.info) * DTypeBytes(tensor.info.dtype);
      continue;
    }
    QS_ASSIGN_OR_RETURN(const int64_t held,
                        EstimateMemoryBytes(spec, tensor.info, whole, 0));
    const TileScratch scratch = TileScratchOf(spec, tensor.info, whole);
    bytes += held - scratch.bytes * scratch.tiles;
    running += scratch.tiles;
    largest = std::max(largest, scratch.bytes);
  }
  // Of many experts not all run at once.
  const int64_t most = options.large_tiles
                           ? max_tiles
                           : std::max(kEstimatedTilesRunning, max_tiles);
  return bytes + largest * std::min(running, most);
}

}  // namespace qs
