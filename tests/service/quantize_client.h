// A Quantize client for tests over a real connection.
#ifndef QS_TESTS_SERVICE_QUANTIZE_CLIENT_H_
#define QS_TESTS_SERVICE_QUANTIZE_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "quant/v1/quantization.grpc.pb.h"
#include "service/server/grpc_status.h"
#include "tests/service/quantize_messages.h"
#include "tests/testing/in_process_server.h"

namespace qs::testing {

// An open Quantize call. Limited to 30 s, so that no test hangs.
struct QuantizeCall {
  explicit QuantizeCall(const std::shared_ptr<grpc::Channel>& channel,
                        absl::Duration limit = absl::Seconds(30))
      : stub(v1::QuantizeService::NewStub(channel)) {
    context.set_deadline(In(limit));
    stream = stub->Quantize(&context);
  }
  bool Write(const v1::QuantizeRequest& request) {
    return stream->Write(request);
  }
  bool WriteAll(const Requests& requests) {
    for (const v1::QuantizeRequest& request : requests) {
      if (!Write(request)) return false;
    }
    return true;
  }
  bool ReadOne() {
    v1::QuantizeResponse response;
    if (!stream->Read(&response)) return false;
    answers.Add(response);
    return true;
  }
  // Reads to the end.
  const Answers& Finish() {
    while (ReadOne()) {
    }
    answers.status = FromGrpcStatus(stream->Finish());
    return answers;
  }

  grpc::ClientContext context;
  std::unique_ptr<v1::QuantizeService::Stub> stub;
  std::unique_ptr<
      grpc::ClientReaderWriter<v1::QuantizeRequest, v1::QuantizeResponse>>
      stream;
  Answers answers;
};

// Sends everything while it reads the answers.
inline Answers Exchange(const std::shared_ptr<grpc::Channel>& channel,
                        const Requests& requests) {
  QuantizeCall call(channel);
  std::thread writer([&] {
    if (call.WriteAll(requests)) call.stream->WritesDone();
  });
  while (call.ReadOne()) {
  }
  writer.join();
  return call.Finish();
}

using HealthStub = grpc::health::v1::Health::Stub;
using HealthStatus = grpc::health::v1::HealthCheckResponse;

// The status of a health check within the time.
inline grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                                const std::string& service,
                                HealthStatus* response,
                                absl::Duration limit = absl::Seconds(10)) {
  grpc::ClientContext context;
  context.set_deadline(In(limit));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  return grpc::health::v1::Health::NewStub(channel)->Check(&context, request,
                                                           response);
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_QUANTIZE_CLIENT_H_
