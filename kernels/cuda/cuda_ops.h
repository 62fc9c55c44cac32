// Launchers of every CUDA kernel family. Plain C++: includes no CUDA header and
// compiles without a toolkit.
//
// Contract of a launcher (CUB's): returns the cudaError_t as an int (0 is
// success); enqueues on `stream` only; never allocates, synchronizes or prints;
// pointers are device memory; arguments it cannot serve are
// kCudaInvalidValue, never silence. Arguments and results: kernels/*_ops.h.
#ifndef QS_KERNELS_CUDA_CUDA_OPS_H_
#define QS_KERNELS_CUDA_CUDA_OPS_H_

#include <cstdint>

#include "kernels/affine_ops.h"
#include "kernels/hqq_ops.h"
#include "kernels/nf4_ops.h"
#include "kernels/stats_ops.h"

typedef struct CUstream_st* cudaStream_t;

namespace qs::cuda {

constexpr int kCudaInvalidValue = 1;  // cudaErrorInvalidValue
constexpr int kCudaNoMemory = 2;      // cudaErrorMemoryAllocation

// `first_non_finite` is set by the launch (all ones first, then the minimum).
// A weight whose address is not a multiple of 16 is read element by element.
int LaunchNf4Encode(const Nf4EncodeArgs& args, cudaStream_t stream);
// An empty tensor is served.
int LaunchNf4Decode(const Nf4DecodeArgs& args, cudaStream_t stream);
// `codes` holds sums until the codes are written. No blocks have no mean:
// kCudaInvalidValue.
int LaunchNestedEncode(const NestedEncodeArgs& args, cudaStream_t stream);
int LaunchNestedDecode(const NestedDecodeArgs& args, cudaStream_t stream);
// An empty tensor is served.
int LaunchNestedRefine(const NestedRefineArgs& args, cudaStream_t stream);

// `first_non_finite` is set by the launch. Finite weights give the reference's
// bytes; a group with others has some.
int LaunchAffineEncode(const AffineEncodeArgs& args, cudaStream_t stream);
int LaunchAffineDecode(const AffineDecodeArgs& args, cudaStream_t stream);
int LaunchPackRows(const PackRowsArgs& args, cudaStream_t stream);
int LaunchUnpackRows(const UnpackRowsArgs& args, cudaStream_t stream);
int LaunchPackColumns(const PackColumnsArgs& args, cudaStream_t stream);
int LaunchUnpackColumns(const UnpackColumnsArgs& args, cudaStream_t stream);
int LaunchPackAwq(const PackAwqArgs& args, cudaStream_t stream);
int LaunchUnpackAwq(const UnpackAwqArgs& args, cudaStream_t stream);
int LaunchPackParts(const PackPartsArgs& args, cudaStream_t stream);
int LaunchUnpackParts(const UnpackPartsArgs& args, cudaStream_t stream);

// What the solver did; the first bytes of its workspace.
struct HqqDeviceFacts {
  int32_t iterations;
  int32_t stopped;  // no iteration is begun any more
  float best;       // least mean error so far
  float error;      // of the last iteration
  int64_t group_iterations;
};
// `workspace`: aligned to 256 bytes. `facts` of the arguments is not used.
int64_t HqqEncodeWorkspaceBytes(const HqqEncodeArgs& args);
int LaunchHqqEncode(const HqqEncodeArgs& args, void* workspace,
                    cudaStream_t stream);
int LaunchHqqDecode(const HqqDecodeArgs& args, cudaStream_t stream);

// `sums` and `rtn` are device memory, too. `workspace`: aligned to 256 bytes.
int64_t ErrorSumsWorkspaceBytes(const ErrorSumsArgs& args);
int LaunchErrorSums(const ErrorSumsArgs& args, void* workspace,
                    cudaStream_t stream);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_CUDA_OPS_H_
