// The vocabulary of the .proto to the vocabulary of quant/ and back. Every
// request field is checked here; nothing below this line sees a proto enum.
// Thread: pure functions.
#ifndef QS_SERVICE_SERVER_PROTO_CONVERT_H_
#define QS_SERVICE_SERVER_PROTO_CONVERT_H_

#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

// Nullopt for UNSPECIFIED and for numbers that the .proto does not name.
std::optional<DType> DTypeFromProto(quant::v1::DataType dtype);
quant::v1::DataType DTypeToProto(DType dtype);

// Every default filled in, and legal (ValidateSpec). `field` is where the
// config lies in the request; errors are BAD_FIELD under it: neither preset
// nor method, both, an unknown preset, a value out of range.
absl::StatusOr<QuantSpec> SpecFromProto(
    const quant::v1::QuantizationConfig& config,
    std::string_view field = "config.quantization");
// Every field set; never a preset.
quant::v1::QuantizationConfig SpecToProto(const QuantSpec& spec);

quant::v1::ErrorStats ErrorStatsToProto(const ErrorSums& sums);

// All fields but handle and output_tensors; the statistics only when the
// report has them. mse_ratio_to_rtn is 1 when both errors are zero.
quant::v1::TensorReport ReportToProto(const TensorReport& report);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_PROTO_CONVERT_H_
