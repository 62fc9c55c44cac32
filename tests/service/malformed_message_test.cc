// A message that is none ends its stream with an error that says which: it is
// not taken for the end of what the client wanted to say.
#include <grpcpp/generic/generic_stub.h>

#include <string>
#include <vector>

#include "quant/v1/calibrations.grpc.pb.h"
#include "quant/v1/tensors.grpc.pb.h"
#include "service/server/error.h"
#include "service/server/message_bytes.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

const std::string kGarbage = "\xff\xff\xff\xff garbage";

// Sends `messages` and the half-close by one call; its status.
class BytesCall {
 public:
  absl::Status Run(const InProcessServer& server, const std::string& method,
                   const std::vector<std::string>& messages) {
    grpc::GenericStub stub(server.NewChannel());
    grpc::ClientContext context;
    context.set_deadline(In(absl::Seconds(30)));
    auto call = stub.PrepareCall(&context, method, &queue_);
    call->StartCall(nullptr);
    bool open = Next();
    for (const std::string& message : messages) {
      if (!open) break;
      const grpc::Slice slice(message);
      call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
      open = Next();
    }
    if (open) {
      call->WritesDone(nullptr);
      Next();
    }
    grpc::ByteBuffer answer;
    do {
      call->Read(&answer, nullptr);
    } while (Next());
    grpc::Status status;
    call->Finish(&status, nullptr);
    Next();
    return FromGrpcStatus(status);
  }

 private:
  bool Next() {
    void* tag = nullptr;
    bool ok = false;
    REQUIRE(queue_.Next(&tag, &ok));
    return ok;
  }

  grpc::CompletionQueue queue_;
};

std::string PlanConfig() {
  v1::PlanCheckpointRequest request;
  request.mutable_config()->mutable_quantization()->set_preset("NF4");
  return request.SerializeAsString();
}

std::string PlanTensor(const std::string& name) {
  v1::PlanCheckpointRequest request;
  v1::TensorHeader* tensor = request.mutable_tensors()->add_tensors();
  tensor->set_name(name);
  tensor->set_dtype(v1::BF16);
  tensor->add_shape(64);
  tensor->add_shape(64);
  tensor->set_file("model.safetensors");
  tensor->set_end(64 * 64 * 2);
  return request.SerializeAsString();
}

std::string StreamConfig() {
  v1::QuantizeRequest request;
  request.mutable_config()->mutable_quantization()->set_preset("NF4");
  return request.SerializeAsString();
}

TEST_CASE("what is no message ends its stream, whichever it is",
          "[malformed_message]") {
  TemporaryFolder folder;
  ServerOptions options = TestServerOptions();
  options.data_dir = folder / "data";
  const InProcessServer server(options);
  struct Case {
    std::string method;
    std::vector<std::string> before;
    std::string type;
  };
  const std::vector<Case> cases = {
      {"QuantizeService/PlanCheckpoint",
       {PlanConfig(), PlanTensor("a.weight")},
       "PlanCheckpointRequest"},
      {"QuantizeService/PlanCheckpoint", {}, "PlanCheckpointRequest"},
      {"QuantizeService/Quantize", {StreamConfig()}, "QuantizeRequest"},
      {"TensorService/WriteTensor", {}, "WriteTensorRequest"},
      {"CalibrationService/WriteActivations", {}, "WriteActivationsRequest"},
      {"CalibrationService/WriteSecondMoments",
       {},
       "WriteSecondMomentsRequest"},
  };
  for (const Case& one : cases) {
    std::vector<std::string> messages = one.before;
    messages.push_back(kGarbage);
    const absl::Status status =
        BytesCall().Run(server, "/quant.v1." + one.method, messages);
    INFO(one.method << ": " << status.ToString());
    const std::string number = std::to_string(messages.size());
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(ErrorReason(status) == "MALFORMED_MESSAGE");
    CHECK(ErrorMetadataValue(status, "message") == number);
    CHECK(status.message().find("message " + number + ":") == 0);
    CHECK(status.message().find(one.type) != std::string::npos);
  }
}

TEST_CASE("a name that is no UTF-8 is no message", "[malformed_message]") {
  const InProcessServer server;
  const absl::Status status =
      BytesCall().Run(server, "/quant.v1.QuantizeService/PlanCheckpoint",
                      {PlanConfig(), PlanTensor("a.\xff.weight")});
  INFO(status.ToString());
  REQUIRE(ErrorReason(status) == "MALFORMED_MESSAGE");
  REQUIRE(status.message().find("UTF-8") != std::string::npos);
}

}  // namespace
}  // namespace qs::testing
