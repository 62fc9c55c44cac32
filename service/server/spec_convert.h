// QuantizationConfig to QuantSpec and back.
// Thread: pure functions.
#ifndef QS_SERVICE_SERVER_SPEC_CONVERT_H_
#define QS_SERVICE_SERVER_SPEC_CONVERT_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "quant/quant_spec.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

// Every default filled in, and legal (ValidateSpec). `field` is where the
// config lies in the request; errors are BAD_FIELD under it: neither preset
// nor method, both, an unknown preset, a value out of range.
absl::StatusOr<QuantSpec> SpecFromProto(
    const quant::v1::QuantizationConfig& config,
    std::string_view field = "config.quantization");
quant::v1::OutputFormat FormatToProto(OutputFormat format);

// Every field set; never a preset.
quant::v1::QuantizationConfig SpecToProto(const QuantSpec& spec);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_SPEC_CONVERT_H_
