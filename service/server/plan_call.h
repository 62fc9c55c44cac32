// PlanCall: one PlanCheckpoint call. Requests are collected in reactions; the
// plan itself, up to a second for the largest, is made on a worker.
#ifndef QS_SERVICE_SERVER_PLAN_CALL_H_
#define QS_SERVICE_SERVER_PLAN_CALL_H_

#include <atomic>
#include <memory>

#include "service/server/message_bytes.h"
#include "service/server/plan_convert.h"
#include "service/server/served_call.h"
#include "service/stream/quantize_context.h"

namespace qs {

struct PlanContext {
  PlanLimits limits;
  int64_t max_calls = 0;
  std::atomic<int64_t> calls{0};  // that are open
};

// The reactor for one call; gRPC drives it from now on. Errors end the call:
// DRAINING, TOO_MANY_PLANS, MALFORMED_MESSAGE and those of PlanInput and
// MakePlan.
BytesReactor* NewPlanReactor(PlanContext& plans, QuantizeContext& context,
                             std::unique_ptr<ServedCall> served);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_PLAN_CALL_H_
