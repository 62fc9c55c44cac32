// Activations where all workers want much at once: several runs wait for one
// call, and nothing else is different, whatever ends a stream.
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "quant/site_accumulator.h"
#include "service/calibrations/calibration_service.h"
#include "tests/service/calibrations/calibration_fixture.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/large_backend.h"

namespace qs::testing {
namespace {

// Sites "a", three runs a call, and "b", two; tokens of a batch: no divisor of
// a run.
constexpr int64_t kBatch = 1300;
constexpr int64_t kDeviceBytes = int64_t{1} << 40;

int64_t Inputs(const std::string& site) { return site == "a" ? 768 : 512; }
std::string Site(int64_t seq) { return seq % 4 == 0 ? "b" : "a"; }

// BF16.
std::string Rows(int64_t seq) {
  std::string rows;
  uint32_t state = static_cast<uint32_t>(77 * seq);
  for (int64_t i = 0; i < kBatch * Inputs(Site(seq)); ++i) {
    state = state * 1664525 + 1013904223;
    const float value = static_cast<float>(state >> 8) / (1 << 23) - 1;
    uint32_t bits = 0;
    std::memcpy(&bits, &value, 4);
    rows.push_back(static_cast<char>(bits >> 16));
    rows.push_back(static_cast<char>(bits >> 24));
  }
  return rows;
}

v1::WriteActivationsRequest Request(int64_t seq, std::string rows) {
  v1::WriteActivationsRequest request;
  request.set_seq(seq);
  request.set_site(Site(seq));
  request.set_dtype(v1::BF16);
  request.set_data(std::move(rows));
  request.set_crc32c(CrcOf(request.data()));
  return request;
}

// Of batches 1 to `batches`, a run a call, on one thread.
std::string Expected(const std::string& site, int64_t batches) {
  const int64_t n = Inputs(site);
  const auto backend = NewCpuBackend(1);
  auto sums = SiteAccumulator::Create(site, n, DType::kBF16);
  for (int64_t seq = 1; seq <= batches; ++seq) {
    if (Site(seq) != site) continue;
    const std::string rows = Rows(seq);
    REQUIRE((*sums)
                ->Add(reinterpret_cast<const uint8_t*>(rows.data()), kBatch,
                      *backend)
                .ok());
  }
  const auto moments = (*sums)->Finish(*backend);
  std::vector<float> values(
      static_cast<size_t>(SiteMoments::PackedElements(n)));
  moments->CopyToPacked(values.data());
  values.insert(values.end(), moments->abs_sum(), moments->abs_sum() + n);
  return BytesOf(values);
}

std::vector<std::unique_ptr<Backend>> Workers(GramCalls* calls,
                                              int64_t device_bytes) {
  if (calls == nullptr) return NewCpuBackends(2, 1);
  std::vector<std::unique_ptr<Backend>> workers;
  for (int i = 0; i < 2; ++i) {
    workers.push_back(std::make_unique<LargeBackend>(*calls, device_bytes));
  }
  return workers;
}

struct Server : CalibrationFixture {
  // `calls`: of workers that want much, with `device_bytes` of their own; null:
  // of CPUs.
  explicit Server(const TemporaryFolder& folder, GramCalls* calls,
                  int64_t budget = int64_t{1} << 30, int64_t device_bytes = 0)
      : CalibrationFixture(folder / "d", budget, {},
                           Workers(calls, device_bytes)) {}
};

void Declare(CalibrationFixture& server) {
  v1::CreateCalibrationRequest request = CreateRequest("c");
  for (v1::CalibrationSite& site : *request.mutable_sites()) {
    site.set_inputs(Inputs(site.name()));
  }
  v1::Calibration made;
  REQUIRE(Create(server, request, &made).ok());
}

// Batches from the durable one to `last`; how the stream ends is the caller's.
void Send(ActivationsStream& call, int64_t last) {
  REQUIRE(call.Write(OpenShard()));
  for (int64_t seq = call.Durable() + 1; seq <= last; ++seq) {
    REQUIRE(call.Write(Request(seq, Rows(seq))));
  }
}

void SendAll(CalibrationFixture& server, int64_t last) {
  ActivationsStream call(server);
  Send(call, last);
  std::vector<v1::WriteActivationsResponse> answers;
  const absl::Status status = call.Finish(&answers);
  INFO(status.ToString());
  REQUIRE(status.ok());
  REQUIRE_FALSE(answers.empty());
  CHECK(answers.back().durable_seq() == last);
}

void CheckSealed(CalibrationFixture& server, int64_t batches) {
  v1::Calibration sealed;
  REQUIRE(Seal(server, kName, {}, &sealed).ok());
  for (const std::string site : {"a", "b"}) {
    std::string data;
    v1::CalibrationSite info;
    REQUIRE(ReadSite(server, kName, site, 0, &data, &info).ok());
    CHECK((data == Expected(site, batches)));
  }
  CHECK(server.budget().reserved() == 0);
}

int64_t Largest(const GramCalls& calls) {
  int64_t largest = 0;
  for (const int64_t tokens : calls.tokens()) {
    largest = std::max(largest, tokens);
  }
  return largest;
}

TEST_CASE("several runs in a call give the same bytes", "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  Server server(folder, &calls);
  Declare(server);
  SendAll(server, 12);
  // What the half-close found waiting was summed for the checkpoint, what is
  // left of a run by the seal.
  CHECK(Largest(calls) == 3 * kGramRunTokens);
  CHECK(calls.tokens().size() <= 6);
  CheckSealed(server, 12);
}

TEST_CASE("sums go on elsewhere, at any run", "[calibrations]") {
  const bool large_first = GENERATE(true, false);
  TemporaryFolder folder;
  GramCalls calls;
  {
    Server server(folder, large_first ? &calls : nullptr);
    Declare(server);
    SendAll(server, 6);
  }
  {
    Server server(folder, large_first ? nullptr : &calls);
    SendAll(server, 12);
    CheckSealed(server, 12);
  }
  CHECK(Largest(calls) >= 2 * kGramRunTokens);
}

TEST_CASE("a lost connection leaves sums of whole batches", "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  Server server(folder, &calls);
  Declare(server);
  for (const int64_t last : {5, 10}) {
    ActivationsStream call(server);
    Send(call, last);
    call.context.TryCancel();
    CHECK_FALSE(call.End().ok());
    REQUIRE(Eventually([&] { return server.calls().live() == 0; }));
    CHECK(server.budget().reserved() == 0);
  }
  SendAll(server, 12);
  CheckSealed(server, 12);
}

TEST_CASE("a refused batch leaves those before it", "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  Server server(folder, &calls);
  Declare(server);
  {
    ActivationsStream call(server);
    Send(call, 3);
    REQUIRE(call.Write(Request(5, Rows(5))));
    CheckReason(call.Finish(), absl::StatusCode::kFailedPrecondition,
                "SEQUENCE_GAP");
  }
  ActivationsStream call(server);
  REQUIRE(call.Write(OpenShard()));
  CHECK(call.Durable() == 3);
  REQUIRE(call.Finish().ok());
  SendAll(server, 12);
  CheckSealed(server, 12);
}

TEST_CASE("a flush is durable with all that waits", "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  {
    Server server(folder, &calls);
    Declare(server);
    ActivationsStream call(server);
    Send(call, 5);
    v1::WriteActivationsRequest flush;
    flush.set_flush(true);
    REQUIRE(call.Write(flush));
    CHECK(call.Durable() == 5);
    v1::WriteActivationsRequest batch = Request(6, Rows(6));
    batch.set_flush(true);
    REQUIRE(call.Write(batch));
    CHECK(call.Durable() == 6);
  }
  Server server(folder, nullptr);
  SendAll(server, 12);
  CheckSealed(server, 12);
}

TEST_CASE("NaN among rows that wait ends with those before it durable",
          "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  Server server(folder, &calls);
  Declare(server);
  {
    ActivationsStream call(server);
    REQUIRE(call.Write(OpenShard()));
    CHECK(call.Durable() == 0);
    for (int64_t seq = 1; seq <= 3; ++seq) {
      std::string rows = Rows(seq);
      if (seq == 2) {
        std::memcpy(rows.data() + 2 * (10 * Inputs("a") + 7), "\xc0\x7f", 2);
      }
      // The one after it may find the call ended.
      const bool written = call.Write(Request(seq, rows));
      CHECK((written || seq == 3));
    }
    const absl::Status status = call.Finish();
    CheckReason(status, absl::StatusCode::kInvalidArgument, "NON_FINITE_INPUT");
    CHECK(status.message() == "site \"a\": NaN at token 1310, input 7");
    CHECK(ErrorMetadataValue(status, "durable_seq") == "1");
  }
  ActivationsStream call(server);
  REQUIRE(call.Write(OpenShard()));
  CHECK(call.Durable() == 1);
  REQUIRE(call.Finish().ok());
  SendAll(server, 12);
  CheckSealed(server, 12);
}

TEST_CASE("calls of one run where the budget has no more", "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  {
    Server server(folder, &calls,
                  SiteAccumulator::MemoryBytes(768, DType::kBF16) + 1000);
    Declare(server);
    SendAll(server, 12);
    CHECK(Largest(calls) == kGramRunTokens);
  }
  Server server(folder, &calls);
  CheckSealed(server, 12);
}

TEST_CASE("sums that a GPU makes are counted twice", "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  const auto refused = [&](int64_t need) {
    return absl::StrCat("memory: got a need of ", need, " bytes, allowed ",
                        need - 1);
  };
  const int64_t n = Inputs("a");
  const int64_t sums =
      SiteAccumulator::MemoryBytes(n, DType::kBF16) + 8 * n * (n + 1);
  {
    Server server(folder, &calls, sums - 1, kDeviceBytes);
    Declare(server);
    ActivationsStream call(server);
    Send(call, 1);
    const absl::Status status = call.Finish();
    CheckReason(status, absl::StatusCode::kResourceExhausted, "MEMORY_BUDGET");
    CHECK(status.message() == refused(sums));
  }
  {
    Server server(folder, &calls, sums, kDeviceBytes);
    SendAll(server, 12);
    CHECK(Largest(calls) == kGramRunTokens);
  }
  // Beside them the moments of the shards before, as F32.
  const int64_t sealed = sums + 4 * n * (n + 1);
  {
    Server server(folder, &calls, sealed - 1, kDeviceBytes);
    v1::Calibration unsealed;
    const absl::Status status = Seal(server, kName, {}, &unsealed);
    CheckReason(status, absl::StatusCode::kResourceExhausted, "MEMORY_BUDGET");
    CHECK(status.message() == refused(sealed));
  }
  Server server(folder, &calls, sealed, kDeviceBytes);
  CheckSealed(server, 12);
}

int64_t RoomOf(const std::string& site, int64_t runs) {
  return SiteAccumulator::MemoryBytes(Inputs(site), DType::kBF16, runs);
}

// Batch `seq`, and what the budget then has reserved.
int64_t ReservedAfter(CalibrationFixture& server, ActivationsStream& call,
                      int64_t seq, const std::string& site) {
  v1::WriteActivationsRequest request = Request(seq, Rows(site == "b" ? 4 : 1));
  request.set_site(site);
  request.set_flush(true);
  REQUIRE(call.Write(request));
  REQUIRE(call.Durable() == seq);
  return server.budget().reserved();
}

TEST_CASE("several runs leave half of the budget to others", "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  const int64_t half = RoomOf("a", 3);
  const int64_t less = GENERATE(0, 1);
  Server server(folder, &calls, 2 * (half - less));
  Declare(server);
  ActivationsStream call(server);
  REQUIRE(call.Write(OpenShard()));
  CHECK(call.Durable() == 0);
  const int64_t a = less == 0 ? half : RoomOf("a", 1);
  CHECK(ReservedAfter(server, call, 1, "a") == a);
  SECTION("a site more has one, where little came") {
    CHECK(ReservedAfter(server, call, 2, "b") == a + RoomOf("b", 1));
    CHECK(ReservedAfter(server, call, 3, "a") == a + RoomOf("b", 1));
  }
  SECTION("a site more has several, where much came for those before") {
    int64_t seq = 2;
    for (; seq * kBatch * Inputs("a") * 2 < a; ++seq) {
      CHECK(ReservedAfter(server, call, seq, "a") == a);
    }
    CHECK(ReservedAfter(server, call, seq, "a") == a);
    CHECK(ReservedAfter(server, call, seq + 1, "b") == RoomOf("b", 2));
    // Which leaves not enough for several of the first.
    CHECK(ReservedAfter(server, call, seq + 2, "a") ==
          RoomOf("b", 2) + RoomOf("a", 1));
  }
  REQUIRE(call.Finish().ok());
}

TEST_CASE("several runs where others have half of the budget",
          "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  Server server(folder, &calls, 4 * RoomOf("a", 3));
  Declare(server);
  const auto others = server.budget().TryReserve(2 * RoomOf("a", 3));
  REQUIRE(others);
  SendAll(server, 12);
  CHECK(Largest(calls) == kGramRunTokens);
  CHECK(server.budget().reserved() == others->bytes());
}

TEST_CASE("sites in turn that find no room together", "[calibrations]") {
  TemporaryFolder folder;
  GramCalls calls;
  Server server(folder, &calls, 2 * RoomOf("a", 3));
  Declare(server);
  {
    ActivationsStream call(server);
    REQUIRE(call.Write(OpenShard()));
    CHECK(call.Durable() == 0);
    v1::WriteActivationsRequest request = Request(1, Rows(1));
    request.set_flush(true);
    REQUIRE(call.Write(request));
    CHECK(call.Durable() == 1);
    CHECK(server.budget().reserved() == RoomOf("a", 3));
    // Room for this one, or for both with one run at a time.
    const auto others =
        server.budget().TryReserve(RoomOf("a", 3) - RoomOf("b", 1) / 2);
    REQUIRE(others);
    for (int64_t seq = 2; seq <= 12; ++seq) {
      request = Request(seq, Rows(seq));
      request.set_flush(seq == 12);
      REQUIRE(call.Write(request));
    }
    while (call.Durable() < 12) {
    }
    // The first was let go before much came, so from then on both are open.
    CHECK(server.budget().reserved() - others->bytes() ==
          RoomOf("a", 1) + RoomOf("b", 1));
    REQUIRE(call.Finish().ok());
  }
  CheckSealed(server, 12);
}

}  // namespace
}  // namespace qs::testing
