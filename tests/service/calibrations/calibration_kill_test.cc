// quantd killed at random moments while activations come: no batch that it
// called durable is lost, none is counted twice.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <random>
#include <string>
#include <thread>

#include "quant/v1/calibrations.grpc.pb.h"
#include "service/server/grpc_status.h"
#include "tests/service/calibrations/calibration_batches.h"
#include "tests/service/quantd_process.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

using Stub = v1::CalibrationService::Stub;

constexpr int64_t kBatches = 60;

void Deadline(grpc::ClientContext* context) {
  context->set_deadline(In(absl::Seconds(30)));
}

// Sends what is missing until the server is gone or has it all. Returns the
// highest number that it called durable, -1: it said nothing.
int64_t SendMissing(Stub& stub, int64_t* first) {
  grpc::ClientContext context;
  Deadline(&context);
  const auto call = stub.WriteActivations(&context);
  v1::WriteActivationsResponse response;
  if (!call->Write(OpenShard()) || !call->Read(&response)) {
    context.TryCancel();
    call->Finish();
    return -1;
  }
  int64_t durable = *first = response.durable_seq();
  std::jthread sender([&] {
    for (int64_t seq = *first + 1; seq <= kBatches; ++seq) {
      v1::WriteActivationsRequest request = BatchRequest(seq);
      request.set_flush(seq % 4 == 0);
      if (!call->Write(request)) return;
    }
    call->WritesDone();
  });
  while (call->Read(&response)) {
    durable = std::max(durable, response.durable_seq());
  }
  sender.join();
  call->Finish();
  return durable;
}

std::string ReadAll(Stub& stub, const std::string& site) {
  grpc::ClientContext context;
  Deadline(&context);
  v1::ReadSiteRequest request;
  request.set_name(kName);
  request.set_site(site);
  const auto call = stub.ReadSite(&context, request);
  std::string data;
  v1::ReadSiteResponse response;
  while (call->Read(&response)) data += response.data();
  REQUIRE(call->Finish().ok());
  return data;
}

TEST_CASE("a shard outlives any number of killed servers", "[calibrations]") {
  TemporaryFolder folder;
  const uint32_t seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const std::vector<std::string> flags = {"--data-dir", folder / "data",
                                          "--workers", "1"};
  int64_t durable = 0;
  int kills = 0;
  while (durable < kBatches) {
    QuantdProcess server(flags);
    const auto stub = v1::CalibrationService::NewStub(server.NewChannel());
    v1::CreateCalibrationRequest request = CreateRequest("c");
    request.set_request_id("r");
    grpc::ClientContext context;
    Deadline(&context);
    v1::Calibration made;
    REQUIRE(stub->CreateCalibration(&context, request, &made).ok());
    // The later ones live longer, so that one of them gets to the end.
    const auto delay = std::chrono::microseconds(
        random() % 20000 * static_cast<uint32_t>(1 + kills / 5));
    std::jthread killer([&server, delay] {
      std::this_thread::sleep_for(delay);
      server.Signal(SIGKILL);
    });
    int64_t first = durable;
    const int64_t told = SendMissing(*stub, &first);
    INFO("kill " << kills);
    REQUIRE(first >= durable);
    durable = std::max(durable, told);
    ++kills;
  }
  CHECK(kills > 1);
  QuantdProcess server(flags);
  const auto stub = v1::CalibrationService::NewStub(server.NewChannel());
  grpc::ClientContext context;
  Deadline(&context);
  v1::SealSitesRequest request;
  request.set_name(kName);
  v1::Calibration sealed;
  REQUIRE(stub->SealSites(&context, request, &sealed).ok());
  CHECK(sealed.sites(0).token_count() == kBatches / 3 * 2 * kTokens);
  CHECK(ReadAll(*stub, "a") == ReferenceBytes("a", kBatches));
  CHECK(ReadAll(*stub, "b") == ReferenceBytes("b", kBatches));
  // A drained server has nothing left of the batches.
  int blobs = 0;
  for (const auto& file : std::filesystem::recursive_directory_iterator(
           folder / "data/blobs/blobs")) {
    blobs += file.is_regular_file() && !file.path().has_extension() ? 1 : 0;
  }
  CHECK(blobs == 2);
}

}  // namespace
}  // namespace qs::testing
