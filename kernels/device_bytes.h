// What one operation takes of a GPU's own memory: its arguments, which are
// copied there, and its scratch. Beside the Backend that computes it, so that
// whoever plans work can ask before there is a device
// (quant/device_estimate.h), and the device's session can take all of it at
// once.
//
// The figures depend on shapes alone: pointers are not looked at, so arguments
// that may be null count as if they were there, but for those named below. They
// are upper bounds, near what is taken: what depends on the values (a factor
// that needs F64) counts as if it were needed.
#ifndef QS_KERNELS_DEVICE_BYTES_H_
#define QS_KERNELS_DEVICE_BYTES_H_

#include <algorithm>
#include <cstdint>

#include "kernels/affine_ops.h"
#include "kernels/awq_ops.h"
#include "kernels/device_tiles.h"
#include "kernels/gptq_ops.h"
#include "kernels/gram_ops.h"
#include "kernels/hqq_ops.h"
#include "kernels/nf4_ops.h"
#include "kernels/stats_ops.h"

namespace qs {

// Bytes.
struct DeviceBytes {
  int64_t taken = 0;  // while the operation runs
  // Copies of arguments with a number (ContentId), which stay for the next
  // operations until their room is needed.
  int64_t kept = 0;

  constexpr int64_t total() const { return taken + kept; }
};

// Of operations that run one after the other and share what they keep.
constexpr DeviceBytes MostOf(const DeviceBytes& a, const DeviceBytes& b) {
  return {std::max(a.taken, b.taken), std::max(a.kept, b.kept)};
}

DeviceBytes DeviceBytesOf(const Nf4EncodeArgs& args);
DeviceBytes DeviceBytesOf(const Nf4DecodeArgs& args);
DeviceBytes DeviceBytesOf(const NestedEncodeArgs& args);
DeviceBytes DeviceBytesOf(const NestedDecodeArgs& args);
DeviceBytes DeviceBytesOf(const NestedRefineArgs& args);

DeviceBytes DeviceBytesOf(const AffineEncodeArgs& args);
DeviceBytes DeviceBytesOf(const AffineDecodeArgs& args);
DeviceBytes DeviceBytesOf(const PackRowsArgs& args);
DeviceBytes DeviceBytesOf(const UnpackRowsArgs& args);
DeviceBytes DeviceBytesOf(const PackColumnsArgs& args);
DeviceBytes DeviceBytesOf(const UnpackColumnsArgs& args);
DeviceBytes DeviceBytesOf(const PackAwqArgs& args);
DeviceBytes DeviceBytesOf(const UnpackAwqArgs& args);
DeviceBytes DeviceBytesOf(const PackPartsArgs& args);
DeviceBytes DeviceBytesOf(const UnpackPartsArgs& args);

DeviceBytes DeviceBytesOf(const ErrorSumsArgs& args);

DeviceBytes DeviceBytesOf(const HqqEncodeArgs& args);
DeviceBytes DeviceBytesOf(const HqqDecodeArgs& args);

DeviceBytes DeviceBytesOf(const GramAccumulateArgs& args,
                          const DeviceTiles& tiles = kGpuTiles);
DeviceBytes DeviceBytesOf(const GramFinishArgs& args);

// With the two matrices in one memory it may be less.
DeviceBytes DeviceBytesOf(const GptqFactorArgs& args,
                          const DeviceTiles& tiles = kGpuTiles);
// Without a factor and its number nothing of [cols, cols] is there.
DeviceBytes DeviceBytesOf(const GptqSolveArgs& args,
                          const DeviceTiles& tiles = kGpuTiles);
DeviceBytes DeviceBytesOf(const GptqRefineArgs& args,
                          const DeviceTiles& tiles = kGpuTiles);
DeviceBytes DeviceBytesOf(const GptqDecodeArgs& args);
DeviceBytes DeviceBytesOf(const GptqErrorArgs& args,
                          const DeviceTiles& tiles = kGpuTiles);

DeviceBytes DeviceBytesOf(const AwqStatisticsArgs& args);
// Of `second_moment` and `factor` one, or neither with `curvature`.
DeviceBytes DeviceBytesOf(const AwqScaleLossArgs& args,
                          const DeviceTiles& tiles = kGpuTiles);
DeviceBytes DeviceBytesOf(const AwqClipArgs& args,
                          const DeviceTiles& tiles = kGpuTiles);
DeviceBytes DeviceBytesOf(const AwqQuantizeArgs& args);

}  // namespace qs

#endif  // QS_KERNELS_DEVICE_BYTES_H_
