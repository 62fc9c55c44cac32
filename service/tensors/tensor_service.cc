// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/tensors/tensor_service.h"

#include <string>
#include <vector>

#include "kernels/base/status_macros.h"
#include "service/server/error.h"
#include "service/tensors/read_call.h"
#include "service/tensors/tensor_messages.h"
#include "service/tensors/unary_call.h"
#include "service/tensors/write_call.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using v1::TensorService;

// WriteTensor through raw byte buffers, the rest through messages.
using Base = TensorService::WithCallbackMethod_CreateUpload<
    TensorService::WithRawCallbackMethod_WriteTensor<
        TensorService::WithCallbackMethod_GetUpload<
            TensorService::WithCallbackMethod_GetTensor<
                TensorService::WithCallbackMethod_ListTensors<
                    TensorService::WithCallbackMethod_DeleteTensor<
                        TensorService::WithCallbackMethod_ReadTensor<
                            TensorService::Service>>>>>>>;

class TensorServiceImpl final : public Base {
 public:
  explicit TensorServiceImpl(TensorContext& context) : context_(context) {}

  ServerUnaryReactor* CreateUpload(CallbackServerContext* call,
                                   const v1::CreateUploadRequest* request,
                                   v1::Upload* response) override {
    return Run(call, "CreateUpload", Role::kUser,
               [this, request, response](const Caller& caller) {
                 return Create(caller, *request, response);
               });
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* WriteTensor(
      CallbackServerContext* call) override {
    return NewWriteCall(context_, call);
  }

  ServerUnaryReactor* GetUpload(CallbackServerContext* call,
                                const v1::GetUploadRequest* request,
                                v1::Upload* response) override {
    return Run(call, "GetUpload", Role::kReader,
               [this, request, response](const Caller& caller) {
                 return Get(caller, *request, response);
               });
  }

  ServerUnaryReactor* GetTensor(CallbackServerContext* call,
                                const v1::GetTensorRequest* request,
                                v1::Tensor* response) override {
    return Run(call, "GetTensor", Role::kReader,
               [this, request, response](const Caller& caller) {
                 return Get(caller, *request, response);
               });
  }

  ServerUnaryReactor* ListTensors(CallbackServerContext* call,
                                  const v1::ListTensorsRequest* request,
                                  v1::ListTensorsResponse* response) override {
    return Run(call, "ListTensors", Role::kReader,
               [this, request, response](const Caller& caller) {
                 return List(caller, *request, response);
               });
  }

  ServerUnaryReactor* DeleteTensor(CallbackServerContext* call,
                                   const v1::DeleteTensorRequest* request,
                                   v1::DeleteTensorResponse*) override {
    return Run(call, "DeleteTensor", Role::kUser,
               [this, request](const Caller& caller) -> absl::Status {
                 QS_ASSIGN_OR_RETURN(
                     const std::string id,
                     IdFromName(caller, "name", kTensors, request->name()));
                 return context_.store.DeleteTensor(caller.project, id);
               });
  }

  grpc::ServerWriteReactor<v1::ReadTensorResponse>* ReadTensor(
      CallbackServerContext* call,
      const v1::ReadTensorRequest* request) override {
    return NewReadCall(context_, call, *request);
  }

 private:
  ServerUnaryReactor* Run(CallbackServerContext* call, const char* rpc,
                          Role role, UnaryBody body) {
    return RunUnary(call, rpc, context_.access, role, context_.pool,
                    std::move(body));
  }

  absl::Status Create(const Caller& caller,
                      const v1::CreateUploadRequest& request,
                      v1::Upload* response) {
    if (context_.calls.draining()) return DrainingError();
    QS_RETURN_IF_ERROR(CheckParent(caller, request.parent()));
    QS_ASSIGN_OR_RETURN(const NewUpload upload, NewUploadFromProto(request));
    QS_ASSIGN_OR_RETURN(const UploadRecord made,
                        context_.store.CreateUpload(caller.project, upload));
    return SetUpload(made, response);
  }

  absl::Status SetUpload(const UploadRecord& upload, v1::Upload* response) {
    *response = UploadToProto(upload);
    if (!upload.complete) return absl::OkStatus();
    QS_ASSIGN_OR_RETURN(const StoredTensor tensor,
                        context_.store.GetTensor(upload.project, upload.id));
    *response->mutable_tensor() = TensorToProto(tensor);
    return absl::OkStatus();
  }

  absl::Status Get(const Caller& caller, const v1::GetUploadRequest& request,
                   v1::Upload* response) {
    QS_ASSIGN_OR_RETURN(const std::string id,
                        IdFromName(caller, "name", kUploads, request.name()));
    QS_ASSIGN_OR_RETURN(const UploadRecord upload,
                        context_.store.GetUpload(caller.project, id));
    return SetUpload(upload, response);
  }

  absl::Status Get(const Caller& caller, const v1::GetTensorRequest& request,
                   v1::Tensor* response) {
    QS_ASSIGN_OR_RETURN(const std::string id,
                        IdFromName(caller, "name", kTensors, request.name()));
    QS_ASSIGN_OR_RETURN(const StoredTensor tensor,
                        context_.store.GetTensor(caller.project, id));
    *response = TensorToProto(tensor);
    return absl::OkStatus();
  }

  absl::Status List(const Caller& caller, const v1::ListTensorsRequest& request,
                    v1::ListTensorsResponse* response) {
    QS_RETURN_IF_ERROR(CheckParent(caller, request.parent()));
    QS_ASSIGN_OR_RETURN(const int64_t size, ParsePageSize(request.page_size()));
    QS_ASSIGN_OR_RETURN(const TensorPosition after,
                        ParsePageToken(request.page_token()));
    QS_ASSIGN_OR_RETURN(
        const std::vector<StoredTensor> tensors,
        context_.store.ListTensors(caller.project, after, size + 1));
    for (const StoredTensor& tensor : tensors) {
      if (response->tensors_size() == size) {
        const StoredTensor& last = tensors[static_cast<size_t>(size) - 1];
        response->set_next_page_token(PageToken({last.spec.name, last.id}));
        break;
      }
      *response->add_tensors() = TensorToProto(tensor);
    }
    return absl::OkStatus();
  }

  TensorContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewTensorService(TensorContext& context) {
  return std::make_unique<TensorServiceImpl>(context);
}

}  // namespace qs
