// RunUnary: a unary call whose work blocks, so that an IoPool does it.
#ifndef QS_SERVICE_TENSORS_UNARY_CALL_H_
#define QS_SERVICE_TENSORS_UNARY_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "service/access/access.h"
#include "service/base/io_pool.h"

namespace qs {

// Asks who calls, in `access`, for at least `role`, and runs `body` on `pool`;
// the call ends with its status. `rpc` is a literal, for the log. What `body`
// refers to of the request and response lives until then.
// Errors: of access; RESOURCE_EXHAUSTED SERVER_BUSY — too much is queued.
using UnaryBody = std::function<absl::Status(const Caller&)>;
grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext* call,
                                   const char* rpc, const AccessControl& access,
                                   Role role, IoPool& pool, UnaryBody body);

// RESOURCE_EXHAUSTED SERVER_BUSY with RetryInfo.
absl::Status ServerBusyError();

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_UNARY_CALL_H_
