// The operation families on host memory, done on a device: every argument is
// copied in, every result out; a call has finished when it returns. The host's
// implementation takes over what the device cannot do (device_session.h).
// Thread: of the session.
#ifndef QS_KERNELS_CUDA_STAGED_OPS_H_
#define QS_KERNELS_CUDA_STAGED_OPS_H_

#include <memory>

#include "kernels/affine_ops.h"
#include "kernels/awq_ops.h"
#include "kernels/cuda/device_session.h"
#include "kernels/gptq_ops.h"
#include "kernels/gram_ops.h"
#include "kernels/hqq_ops.h"
#include "kernels/nf4_ops.h"
#include "kernels/stats_ops.h"

namespace qs::cuda {

// `session` and `host` must outlive what is made; `device` works on the
// session's memory.
std::unique_ptr<Nf4Ops> StageNf4(DeviceSession& session,
                                 std::unique_ptr<Nf4Ops> device, Nf4Ops& host);
std::unique_ptr<AffineOps> StageAffine(DeviceSession& session,
                                       std::unique_ptr<AffineOps> device,
                                       AffineOps& host);
std::unique_ptr<StatsOps> StageStats(DeviceSession& session,
                                     std::unique_ptr<StatsOps> device,
                                     StatsOps& host);
std::unique_ptr<HqqOps> StageHqq(DeviceSession& session,
                                 std::unique_ptr<HqqOps> device, HqqOps& host);
std::unique_ptr<GramOps> StageGram(DeviceSession& session,
                                   std::unique_ptr<GramOps> device,
                                   GramOps& host);
std::unique_ptr<GptqOps> StageGptq(DeviceSession& session,
                                   std::unique_ptr<GptqOps> device,
                                   GptqOps& host);
std::unique_ptr<AwqOps> StageAwq(DeviceSession& session,
                                 std::unique_ptr<AwqOps> device, AwqOps& host);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_STAGED_OPS_H_
