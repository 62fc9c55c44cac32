// GetCapabilities' answer but for the devices, which change while they work
// (service/server/workers.h): methods, presets, limits and engines.
#ifndef QS_SERVICE_SERVER_CAPABILITIES_H_
#define QS_SERVICE_SERVER_CAPABILITIES_H_

#include "kernels/backend.h"
#include "quant/v1/quantization.pb.h"
#include "service/server/options.h"

namespace qs {

quant::v1::Limits LimitsOf(const ServerOptions& options);

// `gpus` null: the program has none.
quant::v1::Capabilities MakeCapabilities(const ServerOptions& options,
                                         const GpuProvider* gpus);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_CAPABILITIES_H_
