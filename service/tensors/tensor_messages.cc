// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/tensors/tensor_messages.h"

#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/tensor_limits.h"
#include "service/server/error.h"
#include "service/server/options.h"
#include "service/server/proto_convert.h"
#include "service/store/blob_folder.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr size_t kMaxRequestIdBytes = 128;
constexpr int64_t kDefaultPage = 100;
constexpr int64_t kMaxPage = 1000;

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp out;
  const int64_t millis = absl::ToUnixMillis(time);
  out.set_seconds(millis / 1000);
  out.set_nanos(static_cast<int32_t>(millis % 1000) * 1'000'000);
  return out;
}

template <typename Message>
void SetSpec(const StoredTensorSpec& spec, Message* out) {
  out->set_tensor_name(spec.name);
  out->set_dtype(DTypeToProto(spec.dtype));
  for (const int64_t size : spec.shape) out->add_shape(size);
  out->set_size_bytes(spec.bytes);
}

absl::StatusOr<int64_t> BytesOf(const std::vector<int64_t>& shape,
                                DType dtype) {
  if (shape.size() > kMaxDimensions) {
    return BadFieldError(
        "shape", absl::StrCat("got ", shape.size(),
                              " dimensions, allowed 0 to ", kMaxDimensions));
  }
  for (const int64_t size : shape) {
    if (size >= 0) continue;
    return BadFieldError("shape", absl::StrCat("got a dimension of ", size,
                                               ", allowed at least 0"));
  }
  const std::optional<int64_t> count = CheckedNumElements(shape);
  const std::optional<int64_t> bytes =
      count ? CheckedMul(*count, DTypeBytes(dtype)) : std::nullopt;
  if (bytes) return *bytes;
  return RpcError(absl::StatusCode::kInvalidArgument, "SHAPE_OVERFLOW",
                  absl::StrCat("shape: got [", absl::StrJoin(shape, ", "),
                               "] of ", DTypeName(dtype),
                               ", whose bytes overflow 63 bits, allowed "
                               "max_tensor_bytes of GetCapabilities"));
}

absl::Status CheckLength(const std::string& field, const std::string& text,
                         size_t least, size_t most) {
  if (text.size() >= least && text.size() <= most) return absl::OkStatus();
  return BadFieldError(
      field, absl::StrCat("got ", text.size(), " bytes, allowed ", least,
                          " to ", most));
}

}  // namespace

v1::Tensor TensorToProto(const StoredTensor& tensor) {
  v1::Tensor out;
  out.set_name(NameFromId(tensor.project, kTensors, tensor.id));
  SetSpec(tensor.spec, &out);
  out.set_digest(tensor.digest);
  *out.mutable_create_time() = ToTimestamp(tensor.created);
  return out;
}

v1::Upload UploadToProto(const UploadRecord& upload) {
  v1::Upload out;
  out.set_name(NameFromId(upload.project, kUploads, upload.id));
  SetSpec(upload.spec, &out);
  out.set_persisted_size(upload.persisted);
  out.set_complete(upload.complete);
  out.set_recommended_chunk_bytes(kRecommendedChunkBytes);
  if (!upload.complete) {
    *out.mutable_expire_time() = ToTimestamp(upload.expires);
  }
  return out;
}

absl::StatusOr<NewUpload> NewUploadFromProto(
    const v1::CreateUploadRequest& request) {
  QS_RETURN_IF_ERROR(
      CheckLength("tensor_name", request.tensor_name(), 1, kMaxNameBytes));
  QS_RETURN_IF_ERROR(
      CheckLength("request_id", request.request_id(), 0, kMaxRequestIdBytes));
  const std::optional<DType> dtype = DTypeFromProto(request.dtype());
  if (!dtype) {
    return BadFieldError(
        "dtype",
        absl::StrCat("got enum number ", static_cast<int>(request.dtype()),
                     ", allowed 1 to ", v1::DataType_ARRAYSIZE - 1));
  }
  NewUpload upload;
  upload.spec.name = request.tensor_name();
  upload.spec.dtype = *dtype;
  upload.spec.shape = {request.shape().begin(), request.shape().end()};
  QS_ASSIGN_OR_RETURN(upload.spec.bytes, BytesOf(upload.spec.shape, *dtype));
  if (!request.sha256().empty() && !HexOfDigest(request.sha256()).ok()) {
    return BadFieldError(
        "sha256", absl::StrCat("got \"", absl::CHexEscape(request.sha256()),
                               "\", allowed sha256: and 64 hex digits"));
  }
  upload.expected = request.sha256();
  upload.request_id = request.request_id();
  return upload;
}

absl::Status CheckParent(const Caller& caller, const std::string& parent) {
  if (parent.empty()) return absl::OkStatus();
  // A name below the parent says the same about its project.
  const auto id = IdFromName(caller, "parent", kTensors, parent + "/tensors/-");
  if (id.ok() || !absl::IsInvalidArgument(id.status())) return id.status();
  return BadFieldError("parent",
                       absl::StrCat("got \"", parent,
                                    "\", allowed \"projects/PROJECT\", PROJECT "
                                    "may be \"-\""));
}

// Names have any bytes; an id has none that is not a hex digit.
std::string PageToken(const TensorPosition& position) {
  return absl::WebSafeBase64Escape(position.id + ":" + position.name);
}

absl::StatusOr<TensorPosition> ParsePageToken(const std::string& token) {
  if (token.empty()) return TensorPosition{};
  std::string text;
  const size_t colon = absl::WebSafeBase64Unescape(token, &text)
                           ? text.find(':')
                           : std::string::npos;
  if (colon == std::string::npos || colon == 0) {
    return BadFieldError("page_token",
                         "got one that no answer gave, allowed next_page_token "
                         "of the page before");
  }
  return TensorPosition{text.substr(colon + 1), text.substr(0, colon)};
}

absl::StatusOr<int64_t> ParsePageSize(int32_t page_size) {
  if (page_size == 0) return kDefaultPage;
  if (page_size > 0 && page_size <= kMaxPage) return page_size;
  return BadFieldError("page_size", absl::StrCat("got ", page_size,
                                                 ", allowed 0 to ", kMaxPage));
}

}  // namespace qs
