// What a plan's tensors would meet at Quantize of this server.
#ifndef QS_SERVICE_SERVER_PLAN_LIMITS_H_
#define QS_SERVICE_SERVER_PLAN_LIMITS_H_

#include "absl/status/status.h"
#include "quant/plan/plan.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

// Adds an error to `plan` of `request`, which is refused then, for each
// quantized tensor that Quantize would refuse whatever else is sent:
// TENSOR_TOO_LARGE, MEMORY_BUDGET (of the tensor alone, with its site where the
// method needs moments, and without an error report: of what may be more in a
// group, the stream tells) and NAME_TOO_LONG. `prefer_large`: WorkerPool's.
// Errors: CANCELLED — PlanRequest::cancelled, looked at for each tensor; the
// plan is as it was.
// Thread: pure function.
absl::Status CheckLimits(const PlanRequest& request,
                         const quant::v1::Limits& limits, bool prefer_large,
                         Plan* plan);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_PLAN_LIMITS_H_
