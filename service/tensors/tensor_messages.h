// The messages of tensors.proto from and to the records. Every field of a
// request is checked here. Thread: pure functions.
#ifndef QS_SERVICE_TENSORS_TENSOR_MESSAGES_H_
#define QS_SERVICE_TENSORS_TENSOR_MESSAGES_H_

#include <string>

#include "absl/status/statusor.h"
#include "quant/v1/tensors.pb.h"
#include "service/access/access.h"
#include "service/tensors/tensor_store.h"

namespace qs {

constexpr char kUploads[] = "uploads";
constexpr char kTensors[] = "tensors";

quant::v1::Tensor TensorToProto(const StoredTensor& tensor);
// With its tensor when it is complete.
quant::v1::Upload UploadToProto(const UploadRecord& upload);

// Errors: BAD_FIELD; INVALID_ARGUMENT SHAPE_OVERFLOW.
absl::StatusOr<NewUpload> NewUploadFromProto(
    const quant::v1::CreateUploadRequest& request);

// "projects/PROJECT", empty for the caller's own. Errors: BAD_FIELD;
// PERMISSION_DENIED PROJECT_NOT_ALLOWED.
absl::Status CheckParent(const Caller& caller, const std::string& parent);

std::string PageToken(const TensorPosition& position);
// Empty: the first page. Errors: BAD_FIELD.
absl::StatusOr<TensorPosition> ParsePageToken(const std::string& token);
// Errors: BAD_FIELD.
absl::StatusOr<int64_t> ParsePageSize(int32_t page_size);

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_TENSOR_MESSAGES_H_
