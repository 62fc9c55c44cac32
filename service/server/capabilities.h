// GetCapabilities' answer: methods, presets, limits, devices and engines.
#ifndef QS_SERVICE_SERVER_CAPABILITIES_H_
#define QS_SERVICE_SERVER_CAPABILITIES_H_

#include <string>

#include "quant/v1/quantization.pb.h"
#include "service/server/options.h"

namespace qs {

quant::v1::Limits LimitsOf(const ServerOptions& options);

// `device` is what a worker's backend says of itself (Backend::description).
quant::v1::Capabilities MakeCapabilities(const ServerOptions& options,
                                         const std::string& device);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_CAPABILITIES_H_
