// Tested by tests/service/server_test.cc.
#include "service/server/self_ping.h"

#include <grpcpp/client_context.h>

#include <chrono>

#include "absl/time/time.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace qs {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(400);
constexpr std::chrono::seconds kDeadline{2};

}  // namespace

SelfPing::SelfPing(grpc::Server* server)
    : channel_(server->InProcessChannel(grpc::ChannelArguments())),
      thread_([this] { Run(); }) {}

SelfPing::~SelfPing() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void SelfPing::Run() {
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("liveness");
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kInterval);
      if (stopping_) return;
    }
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kDeadline);
    grpc::health::v1::HealthCheckResponse response;
    // Its effect is the event; the answer does not matter.
    (void)stub->Check(&context, request, &response);
  }
}

}  // namespace qs
