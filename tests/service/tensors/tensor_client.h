// A TensorService client for tests over a real connection.
#ifndef QS_TESTS_SERVICE_TENSORS_TENSOR_CLIENT_H_
#define QS_TESTS_SERVICE_TENSORS_TENSOR_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <memory>
#include <string>

#include "quant/v1/tensors.grpc.pb.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"
#include "service/stream/crc32c.h"
#include "tests/service/store/blob_store_conformance.h"
#include "tests/testing/in_process_server.h"

namespace qs::testing {

namespace v1 = quant::v1;
using TensorStub = v1::TensorService::Stub;

inline v1::CreateUploadRequest CreateRequest(const Bytes& bytes,
                                             const std::string& request_id) {
  v1::CreateUploadRequest request;
  request.set_parent("projects/-");
  request.set_tensor_name("layers.0.weight");
  request.set_dtype(v1::U8);
  request.add_shape(static_cast<int64_t>(bytes.size()));
  request.set_request_id(request_id);
  return request;
}

// One unary call, limited to 30 s.
template <typename Method, typename Request, typename Response>
absl::Status Call(TensorStub& stub, Method method, const Request& request,
                  Response* response) {
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(30)));
  return FromGrpcStatus((stub.*method)(&context, request, response));
}

inline absl::StatusOr<v1::Upload> Create(
    TensorStub& stub, const v1::CreateUploadRequest& request) {
  v1::Upload upload;
  const absl::Status status =
      Call(stub, &TensorStub::CreateUpload, request, &upload);
  if (!status.ok()) return status;
  return upload;
}

inline absl::StatusOr<v1::Upload> Get(TensorStub& stub,
                                      const std::string& name) {
  v1::GetUploadRequest request;
  request.set_name(name);
  v1::Upload upload;
  const absl::Status status =
      Call(stub, &TensorStub::GetUpload, request, &upload);
  if (!status.ok()) return status;
  return upload;
}

inline v1::WriteTensorRequest Piece(const Bytes& bytes, int64_t offset,
                                    int64_t count) {
  v1::WriteTensorRequest request;
  const auto rest = static_cast<int64_t>(bytes.size()) - offset;
  request.set_offset(offset);
  request.set_data(bytes.data() + offset,
                   static_cast<size_t>(std::min(count, rest)));
  const std::string& data = request.data();
  request.set_crc32c(
      Crc32c({reinterpret_cast<const uint8_t*>(data.data()), data.size()}));
  return request;
}

// An open WriteTensor call, limited to 60 s.
struct WriteStream {
  explicit WriteStream(TensorStub& stub) {
    context.set_deadline(In(absl::Seconds(60)));
    stream = stub.WriteTensor(&context);
  }
  // Opens the upload; where to go on, or -1: the call has ended.
  int64_t Begin(const std::string& upload) {
    v1::WriteTensorRequest request;
    request.set_upload(upload);
    return stream->Write(request) ? Next() : -1;
  }
  // The next persisted_size, or -1.
  int64_t Next() {
    v1::WriteTensorResponse response;
    if (!stream->Read(&response)) return -1;
    if (response.has_tensor()) tensor = response.tensor();
    persisted = std::max(persisted, response.persisted_size());
    return response.persisted_size();
  }
  bool SendFrom(const Bytes& bytes, int64_t offset, int64_t chunk = 1 << 20) {
    const auto end = static_cast<int64_t>(bytes.size());
    for (int64_t at = offset; at < end; at += chunk) {
      if (!stream->Write(Piece(bytes, at, chunk))) return false;
    }
    return true;
  }
  int64_t Flush() {
    v1::WriteTensorRequest request;
    request.set_flush(true);
    return stream->Write(request) ? Next() : -1;
  }
  // Asks for the end and reads to it.
  absl::Status Finish() {
    v1::WriteTensorRequest request;
    request.set_finish(true);
    stream->Write(request);
    return Status();
  }
  absl::Status Status() {
    stream->WritesDone();
    while (Next() >= 0) {
    }
    return FromGrpcStatus(stream->Finish());
  }

  grpc::ClientContext context;
  std::unique_ptr<
      grpc::ClientReaderWriter<v1::WriteTensorRequest, v1::WriteTensorResponse>>
      stream;
  int64_t persisted = 0;
  v1::Tensor tensor;
};

struct ReadResult {
  absl::Status status;
  Bytes bytes;
  v1::ReadTensorEnd end;
  bool sound = true;  // every offset and CRC
};

inline ReadResult Read(TensorStub& stub, const std::string& name,
                       int64_t offset = 0, int64_t limit = 0) {
  ReadResult result;
  v1::ReadTensorRequest request;
  request.set_name(name);
  request.set_offset(offset);
  request.set_limit(limit);
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(60)));
  const auto stream = stub.ReadTensor(&context, request);
  v1::ReadTensorResponse response;
  while (stream->Read(&response)) {
    const std::string& data = response.data();
    const std::span<const uint8_t> bytes(
        reinterpret_cast<const uint8_t*>(data.data()), data.size());
    result.sound =
        result.sound && response.crc32c() == Crc32c(bytes) &&
        response.offset() == offset + static_cast<int64_t>(result.bytes.size());
    result.bytes.insert(result.bytes.end(), bytes.begin(), bytes.end());
    if (response.has_end()) result.end = response.end();
  }
  result.status = FromGrpcStatus(stream->Finish());
  return result;
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_TENSORS_TENSOR_CLIENT_H_
