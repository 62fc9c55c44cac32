// The vocabulary of the .proto to the vocabulary of quant/ and back. Every
// request field is checked here; nothing below this line sees a proto enum.
// Thread: pure functions.
#ifndef QS_SERVICE_SERVER_PROTO_CONVERT_H_
#define QS_SERVICE_SERVER_PROTO_CONVERT_H_

#include <optional>
#include <string>

#include "kernels/base/dtype.h"
#include "quant/quantized_tensor.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

// Nullopt for UNSPECIFIED and for numbers that the .proto does not name.
std::optional<DType> DTypeFromProto(quant::v1::DataType dtype);
quant::v1::DataType DTypeToProto(DType dtype);
// For errors: "F32", of a number that the .proto does not name "enum number N".
std::string DTypeText(quant::v1::DataType dtype);

quant::v1::ErrorStats ErrorStatsToProto(const ErrorSums& sums);

// All fields but handle and output_tensors; the statistics only when the
// report has them. mse_ratio_to_rtn is 1 when both errors are zero;
// without rounding to nearest (1 bit) it is 0 and there is no `rtn`.
quant::v1::TensorReport ReportToProto(const TensorReport& report);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_PROTO_CONVERT_H_
