// Launches inside of the HQQ family, and where its workspace lies.
#ifndef QS_KERNELS_CUDA_HQQ_LAUNCH_H_
#define QS_KERNELS_CUDA_HQQ_LAUNCH_H_

#include <cstdint>

#include "kernels/cuda/hqq_device.h"
#include "kernels/cuda/launch.h"
#include "kernels/hqq_ops.h"
#include "kernels/hqq_sums.h"

namespace qs::cuda {

constexpr int kColumnCount = 32;  // of a row of the error sum

// Iterations that the solver in registers can do.
constexpr int kMostKept = 20;

// Axis 1, groups of 32 to 256, a power of two.
inline bool InRegisters(const HqqParams& a) {
  return a.axis == 1 && a.iterations >= 1 && a.iterations <= kMostKept &&
         (a.group_size == 32 || a.group_size == 64 || a.group_size == 128 ||
          a.group_size == 256);
}

// The error sum's order (hqq_sums.h): 2^p rows a chunk, 2^p chunks a block.
struct ErrorShape {
  int64_t rows;
  int power;
  int64_t whole_blocks;

  explicit ErrorShape(int64_t count)
      : ErrorShape(count, hqq::CascadePower(count / kColumnCount)) {}
  ErrorShape(int64_t count, int p)
      : rows(count / kColumnCount),
        power(p),
        whole_blocks(rows >> (2 * power)) {}
};

// Pieces of the workspace, from its begin: bytes.
struct HqqLayout {
  int64_t facts = 0;
  int64_t inverse, zero, still, errors, sums, tails, bytes;

  HqqLayout(int64_t count, int64_t group_size, int iterations) {
    const int64_t groups = count / group_size;
    const ErrorShape shape(count);
    int64_t at = 256;
    const auto take = [&at](int64_t words) {
      const int64_t begin = at;
      at += CeilDiv(words * 4, 256) * 256;
      return begin;
    };
    inverse = take(groups);
    zero = take(groups);
    still = take(groups);
    const int64_t kept = iterations <= kMostKept ? iterations : 1;
    errors = take(kept);
    sums = take(kept * shape.whole_blocks * kColumnCount);
    tails = take(kept * 2 * kColumnCount);
    bytes = at;
  }
};

// Each for arguments that LaunchHqqEncode has checked; `workspace` as there.
// `shape`: that of the elements; a test may ask for a larger power.
int LaunchHqqSolve(const HqqParams& a, const ErrorShape& shape,
                   uint8_t* workspace, cudaStream_t stream);
int LaunchHqqSteps(const HqqParams& a, uint8_t* workspace, cudaStream_t stream);
int LaunchHqqSearch(const HqqParams& a, cudaStream_t stream);
// kReference with integer zero points: grids and codes of the last zeros.
int LaunchHqqIntegers(const HqqParams& a, cudaStream_t stream);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_HQQ_LAUNCH_H_
