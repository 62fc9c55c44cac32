// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/tensors/read_call.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"
#include "service/server/options.h"
#include "service/stream/crc32c.h"
#include "service/tensors/reading_call.h"
#include "service/tensors/store_error.h"
#include "service/tensors/tensor_messages.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Response = v1::ReadTensorResponse;

class ReadCall final : public ReadingCall<Response> {
 public:
  ReadCall(TensorContext& context, grpc::CallbackServerContext* call,
           const v1::ReadTensorRequest& request)
      : ReadingCall("ReadTensor", call,
                    {context.access, context.pool, context.calls}),
        context_(context),
        request_(request) {}

 private:
  absl::StatusOr<ReadStep> Make(Response* response) override {
    if (tensor_.reader == nullptr) QS_RETURN_IF_ERROR(Open());
    response->set_offset(at_);
    if (at_ == end_) {
      v1::ReadTensorEnd* end = response->mutable_end();
      end->set_sent_bytes(end_ - request_.offset());
      end->set_size_bytes(tensor_.record.spec.bytes);
      end->set_digest(tensor_.record.digest);
      return ReadStep::kLast;
    }
    std::string* const data = response->mutable_data();
    data->resize(
        static_cast<size_t>(std::min(kRecommendedChunkBytes, end_ - at_)));
    const std::span<uint8_t> bytes(reinterpret_cast<uint8_t*>(data->data()),
                                   data->size());
    const absl::Status read = tensor_.reader->ReadAt(at_, bytes);
    if (absl::IsDataLoss(read)) return BlobCorruptError(tensor_.record.digest);
    if (!read.ok()) return StoreError(read);
    response->set_crc32c(Crc32c(bytes));
    at_ += static_cast<int64_t>(data->size());
    return ReadStep::kMessage;
  }

  absl::Status Open() {
    QS_ASSIGN_OR_RETURN(
        const std::string id,
        IdFromName(caller(), "name", kTensors, request_.name()));
    for (const auto& [field, value] : {std::pair("offset", request_.offset()),
                                       std::pair("limit", request_.limit())}) {
      if (value >= 0) continue;
      return BadFieldError(field,
                           absl::StrCat("got ", value, ", allowed at least 0"));
    }
    QS_ASSIGN_OR_RETURN(tensor_,
                        context_.store.OpenForRead(caller().project, id));
    const int64_t bytes = tensor_.record.spec.bytes;
    if (request_.offset() > bytes) {
      return RpcError(absl::StatusCode::kOutOfRange, "OFFSET_PAST_END",
                      absl::StrCat("offset: got ", request_.offset(),
                                   ", allowed 0 to ", bytes),
                      {{"size_bytes", absl::StrCat(bytes)}});
    }
    at_ = request_.offset();
    const int64_t rest = bytes - at_;
    end_ =
        at_ + (request_.limit() == 0 ? rest : std::min(rest, request_.limit()));
    return absl::OkStatus();
  }

  TensorContext& context_;
  const v1::ReadTensorRequest request_;

  // Of the steps alone.
  OpenTensor tensor_;
  int64_t at_ = 0;
  int64_t end_ = 0;
};

}  // namespace

grpc::ServerWriteReactor<Response>* NewReadCall(
    TensorContext& context, grpc::CallbackServerContext* call,
    const v1::ReadTensorRequest& request) {
  return ReadCall::Launch(std::make_shared<ReadCall>(context, call, request));
}

}  // namespace qs
