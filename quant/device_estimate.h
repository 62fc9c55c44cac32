// What work takes of a GPU's own memory at most, from shapes alone: for
// admission, before a worker has it, and for plans.
//
// An estimate is of any one task: a tile, what is between rounds or after them,
// a whole group's Solve. Tasks of one tensor that run on several lanes take it
// once each. Upper bounds, and near: within a factor of two of what is taken,
// where that is more than the least that a worker keeps (kLeastDeviceBytes).
// Thread-safe.
#ifndef QS_QUANT_DEVICE_ESTIMATE_H_
#define QS_QUANT_DEVICE_ESTIMATE_H_

#include <algorithm>
#include <cstdint>

#include "kernels/device_bytes.h"
#include "kernels/device_tiles.h"
#include "quant/group_info.h"
#include "quant/quant_spec.h"
#include "quant/tensor_quantizer.h"

namespace qs {

// The memory that a worker takes for its first operation, however small.
constexpr int64_t kLeastDeviceBytes = int64_t{32} << 20;

// What a worker has of a device for a task that takes `need`.
inline DeviceBytes DeviceClaimFor(const DeviceBytes& need) {
  return {std::max(need.taken, kLeastDeviceBytes), need.kept};
}
inline int64_t DeviceMemoryFor(const DeviceBytes& need) {
  return DeviceClaimFor(need).total();
}

// How a tensor is worked at.
struct DeviceUse {
  bool measured = false;  // a site is there only to be reported on
  bool scaled = false;    // its group solves it as a whole, inputs scaled first
  bool large_tiles = false;  // QuantizeOptions'
};

// Of a tensor's tiles, with the factor of its site if it needs one. REQUIRES:
// ValidateSpec and ValidateSpecForShape are OK.
DeviceBytes TensorDeviceBytes(const QuantSpec& spec, const TensorInfo& info,
                              const DeviceUse& use,
                              const DeviceTiles& tiles = kGpuTiles);

// Of a group's Solve; 0 where its tensors are solved by themselves. REQUIRES:
// ValidateGroup is OK.
DeviceBytes SolveDeviceBytes(const QuantSpec& spec, const GroupInfo& info,
                             const DeviceTiles& tiles = kGpuTiles);

// How the tensors of a group are worked at.
DeviceUse GroupDeviceUse(const QuantSpec& spec, const GroupInfo& info,
                         const QuantizeOptions& options);

// Of the second moments of activations of a site, `runs` of them in one call
// (SiteAccumulator).
DeviceBytes SiteDeviceBytes(int64_t inputs, DType dtype, int64_t runs,
                            const DeviceTiles& tiles = kGpuTiles);

}  // namespace qs

#endif  // QS_QUANT_DEVICE_ESTIMATE_H_
