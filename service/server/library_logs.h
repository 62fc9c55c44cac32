// What gRPC and protobuf log themselves, as lines of our log.
#ifndef QS_SERVICE_SERVER_LIBRARY_LOGS_H_
#define QS_SERVICE_SERVER_LIBRARY_LOGS_H_

#include <string_view>

#include "service/server/log.h"

namespace qs {

// From now on gRPC's and protobuf's lines are events "grpc" and "protobuf" with
// `message` and `at` (file and line). Clients can cause such lines: after the
// first kLibraryLogBurst of one event, one a second is written, which says in
// `suppressed` how many were not. Before gRPC starts; once. Which lines gRPC
// makes at all says GRPC_VERBOSITY in the environment (its default: errors).
void LogLibraries();

constexpr int kLibraryLogBurst = 20;

}  // namespace qs

#endif  // QS_SERVICE_SERVER_LIBRARY_LOGS_H_
