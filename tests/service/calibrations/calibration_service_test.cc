// CalibrationService over a connection: what is declared, written, sealed and
// read; resuming, and every refusal.
#include "service/calibrations/calibration_service.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/site_accumulator.h"
#include "service/stream/crc32c.h"
#include "tests/service/calibrations/calibration_fixture.h"
#include "tests/service/quantize_client.h"

namespace qs::testing {
namespace {

std::string MustRead(CalibrationFixture& server, const std::string& site) {
  std::string data;
  v1::CalibrationSite info;
  const absl::Status status = ReadSite(server, kName, site, 0, &data, &info);
  INFO(status.ToString());
  REQUIRE(status.ok());
  CHECK(info.name() == site);
  return data;
}

void MustCreate(CalibrationFixture& server) {
  v1::Calibration made;
  const absl::Status status = Create(server, CreateRequest("c"), &made);
  INFO(status.ToString());
  REQUIRE(status.ok());
}

// Sends batches from `first` to `last`, and returns the durable number.
int64_t SendBatches(CalibrationFixture& server, int64_t first, int64_t last) {
  ActivationsStream call(server);
  REQUIRE(call.Write(OpenShard()));
  for (int64_t seq = first; seq <= last; ++seq) {
    REQUIRE(call.Write(BatchRequest(seq)));
  }
  std::vector<v1::WriteActivationsResponse> answers;
  const absl::Status status = call.Finish(&answers);
  INFO(status.ToString());
  REQUIRE(status.ok());
  REQUIRE_FALSE(answers.empty());
  return answers.back().durable_seq();
}

TEST_CASE("a calibration is declared, found, listed and deleted",
          "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  v1::CreateCalibrationRequest request = CreateRequest("c");
  request.set_request_id("r");
  v1::Calibration made;
  REQUIRE(Create(server, request, &made).ok());
  CHECK(made.name() == "projects/p/calibrations/c");
  REQUIRE(made.sites_size() == 2);
  CHECK(made.sites(0).name() == "a");
  CHECK(made.sites(0).inputs() == 8);
  CHECK(made.sites(0).modules(1) == "m.c");
  CHECK(made.metadata().at("data_hash") == "d");
  CHECK(made.create_time().seconds() > 1'600'000'000);
  v1::Calibration again;
  REQUIRE(Create(server, request, &again).ok());
  CHECK(again.SerializeAsString() == made.SerializeAsString());
  request.mutable_sites(0)->set_inputs(5);
  CheckReason(Create(server, request, &again), absl::StatusCode::kAlreadyExists,
              "REQUEST_ID_REUSED");
  CheckReason(Create(server, CreateRequest("c"), &again),
              absl::StatusCode::kAlreadyExists, "CALIBRATION_EXISTS");
  v1::Calibration found;
  REQUIRE(Get(server, kName, &found).ok());
  CHECK(found.SerializeAsString() == made.SerializeAsString());
  REQUIRE(Create(server, CreateRequest(""), &again).ok());
  CHECK(again.name().size() > 30);
  v1::ListCalibrationsRequest list;
  list.set_page_size(1);
  std::vector<std::string> names;
  while (true) {
    v1::ListCalibrationsResponse page;
    REQUIRE(Unary([&](grpc::ClientContext* context) {
              return server.stub().ListCalibrations(context, list, &page);
            }).ok());
    for (const auto& one : page.calibrations()) {
      CHECK(one.sites().empty());
      CHECK(one.site_count() == 2);
      names.push_back(one.name());
    }
    if (page.next_page_token().empty()) break;
    list.set_page_token(page.next_page_token());
  }
  CHECK(names.size() == 2);
  v1::DeleteCalibrationRequest remove;
  remove.set_name(kName);
  google::protobuf::Empty empty;
  const auto deletes = [&](grpc::ClientContext* context) {
    return server.stub().DeleteCalibration(context, remove, &empty);
  };
  CHECK(Unary(deletes).ok());
  CheckReason(Unary(deletes), absl::StatusCode::kNotFound,
              "CALIBRATION_NOT_FOUND");
  CheckReason(Get(server, kName, &found), absl::StatusCode::kNotFound,
              "CALIBRATION_NOT_FOUND");
}

TEST_CASE("sites come in pages where they are too many", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  // The experts of a large mixture: 58 layers of 256, two inputs each.
  constexpr int kLayers = 58;
  constexpr int kExperts = 256;
  v1::CreateCalibrationRequest request;
  request.set_calibration_id("c");
  request.set_request_id("r");
  for (int layer = 0; layer < kLayers; ++layer) {
    for (int expert = 0; expert < kExperts; ++expert) {
      for (const char* module : {"gate_proj", "down_proj"}) {
        v1::CalibrationSite* site = request.add_sites();
        site->set_name(absl::StrCat(layer, "/experts.", expert, ".", module));
        site->set_inputs(2048);
        site->add_modules(absl::StrCat("model.layers.", layer, ".mlp.experts.",
                                       expert, ".", module));
      }
    }
  }
  v1::Calibration made;
  const absl::Status created = Create(server, request, &made);
  INFO(created.ToString());
  REQUIRE(created.ok());
  CHECK(made.site_count() == kLayers * kExperts * 2);
  REQUIRE(Seal(server, kName, {made.sites(0).name()}, &made).ok());
  CHECK(made.sites(0).sealed());
  v1::GetCalibrationRequest get;
  get.set_name(kName);
  get.set_page_size(20000);
  std::set<std::string> names;
  int pages = 0;
  do {
    v1::Calibration page;
    const absl::Status status = Unary([&](grpc::ClientContext* context) {
      return server.stub().GetCalibration(context, get, &page);
    });
    INFO(status.ToString());
    REQUIRE(status.ok());
    ++pages;
    for (const v1::CalibrationSite& site : page.sites()) {
      CHECK((names.empty() || *names.rbegin() < site.name()));
      names.insert(site.name());
    }
    get.set_page_token(page.next_page_token());
    // Small ones, too.
    get.set_page_size(pages == 1 ? 10 : 0);
  } while (!get.page_token().empty());
  CHECK(names.size() == kLayers * kExperts * 2);
  CHECK(pages > 1);
  get.set_page_token("%");
  v1::Calibration page;
  CheckReason(Unary([&](grpc::ClientContext* context) {
                return server.stub().GetCalibration(context, get, &page);
              }),
              absl::StatusCode::kInvalidArgument, "BAD_FIELD");
}

TEST_CASE("declarations that are refused", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  const std::vector<std::pair<
      std::string, std::function<void(v1::CreateCalibrationRequest*)>>>
      cases = {
          {"calibration_id", [](auto* r) { r->set_calibration_id("A"); }},
          {"calibration_id",
           [](auto* r) { r->set_calibration_id(std::string(64, 'a')); }},
          {"request_id",
           [](auto* r) { r->set_request_id(std::string(129, 'a')); }},
          {"sites", [](auto* r) { r->clear_sites(); }},
          {"sites", [](auto* r) { r->mutable_sites(0)->set_name("a"); }},
          {"sites[0].name", [](auto* r) { r->mutable_sites(0)->set_name(""); }},
          {"sites[0].inputs",
           [](auto* r) { r->mutable_sites(0)->set_inputs(0); }},
          {"sites[1].inputs",
           [](auto* r) { r->mutable_sites(1)->set_inputs(65537); }},
          {"sites[0].modules",
           [](auto* r) { r->mutable_sites(0)->clear_modules(); }},
          {"sites[1].modules",
           [](auto* r) { r->mutable_sites(0)->set_modules(0, "m.c"); }},
          {"metadata",
           [](auto* r) { (*r->mutable_metadata())["inputs"] = "x"; }},
          {"sites",
           [](auto* r) {
             (*r->mutable_metadata())["x"] = std::string(7 << 19, 'x');
           }},
      };
  for (const auto& [field, change] : cases) {
    INFO(field);
    v1::CreateCalibrationRequest request = CreateRequest("c");
    change(&request);
    v1::Calibration made;
    const absl::Status status = Create(server, request, &made);
    CheckReason(status, absl::StatusCode::kInvalidArgument, "BAD_FIELD");
    CHECK(std::string(status.message()).find(field + ":") == 0);
  }
}

TEST_CASE("who may do what", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  v1::Calibration made;
  CheckReason(Create(server, CreateRequest("c"), &made, "p:reader"),
              absl::StatusCode::kPermissionDenied, "ROLE_TOO_LOW");
  REQUIRE(Create(server, CreateRequest("c"), &made, "p:user").ok());
  CHECK(Get(server, kName, &made, "p:reader").ok());
  CheckReason(Get(server, "projects/p/calibrations/c", &made, "q:user"),
              absl::StatusCode::kPermissionDenied, "PROJECT_NOT_ALLOWED");
  CheckReason(Get(server, kName, &made, "q:user"), absl::StatusCode::kNotFound,
              "CALIBRATION_NOT_FOUND");
}

TEST_CASE("activations are summed once, over lost connections and restarts",
          "[calibrations]") {
  TemporaryFolder folder;
  {
    CalibrationFixture server(folder / "d");
    MustCreate(server);
    CHECK(SendBatches(server, 1, 4) == 4);
    // All again, and more.
    CHECK(SendBatches(server, 1, 6) == 6);
    ActivationsStream call(server);
    REQUIRE(call.Write(OpenShard()));
    CHECK(call.Durable() == 6);
    v1::WriteActivationsRequest request = BatchRequest(7);
    request.set_flush(true);
    REQUIRE(call.Write(request));
    CHECK(call.Durable() == 7);
    REQUIRE(call.Write(BatchRequest(8)));
    call.context.TryCancel();
    CHECK_FALSE(call.End().ok());
    // What came before the cut may count or not.
    REQUIRE(Eventually([&] { return server.calls().live() == 0; }));
    CHECK(server.budget().reserved() == 0);
  }
  CalibrationFixture server(folder / "d");
  CHECK(SendBatches(server, 8, 9) == 9);
  v1::Calibration sealed;
  REQUIRE(Seal(server, kName, {}, &sealed).ok());
  CHECK(sealed.sealed_count() == 2);
  CHECK(sealed.sites(0).token_count() == 6 * kTokens);
  CHECK(sealed.sites(1).token_count() == 3 * kTokens);
  CHECK(sealed.sites(0).digest().find("sha256:") == 0);
  CHECK(MustRead(server, "a") == ReferenceBytes("a", 9));
  CHECK(MustRead(server, "b") == ReferenceBytes("b", 9));
  CHECK(server.blobs().List()->size() == 2);
  // From the middle.
  std::string tail;
  v1::CalibrationSite info;
  REQUIRE(ReadSite(server, kName, "a", 20, &tail, &info).ok());
  CHECK(tail == ReferenceBytes("a", 9).substr(20));
}

TEST_CASE("a budget for one site at a time", "[calibrations]") {
  TemporaryFolder folder;
  const int64_t one = SiteAccumulator::MemoryBytes(8, DType::kF32);
  CalibrationFixture server(folder / "d", one + 1000);
  MustCreate(server);
  CHECK(SendBatches(server, 1, 7) == 7);
  v1::Calibration sealed;
  REQUIRE(Seal(server, kName, {}, &sealed).ok());
  CHECK(MustRead(server, "a") == ReferenceBytes("a", 7));
  CHECK(MustRead(server, "b") == ReferenceBytes("b", 7));
}

TEST_CASE("a budget for no site", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d", 1000);
  MustCreate(server);
  ActivationsStream call(server);
  REQUIRE(call.Write(OpenShard()));
  REQUIRE(call.Write(BatchRequest(1)));
  const absl::Status status = call.End();
  CheckReason(status, absl::StatusCode::kResourceExhausted, "MEMORY_BUDGET");
  CHECK_FALSE(HasRetryDelay(status));
}

TEST_CASE("a budget that others have is worth another try", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  MustCreate(server);
  const auto others = server.budget().TryReserve(server.budget().capacity());
  REQUIRE(others);
  ActivationsStream call(server);
  REQUIRE(call.Write(OpenShard()));
  REQUIRE(call.Write(BatchRequest(1)));
  const absl::Status status = call.End();
  CheckReason(status, absl::StatusCode::kResourceExhausted, "MEMORY_BUDGET");
  CHECK(HasRetryDelay(status));
}

TEST_CASE("the widest inputs are counted in 64 bits", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  v1::CreateCalibrationRequest request = CreateRequest("c");
  request.mutable_sites(0)->set_inputs(65536);
  v1::Calibration made;
  REQUIRE(Create(server, request, &made).ok());
  const std::string site = request.sites(0).name();
  {
    ActivationsStream call(server);
    REQUIRE(call.Write(OpenShard()));
    v1::WriteActivationsRequest batch = BatchRequest(1);
    batch.set_site(site);
    batch.set_data(std::string(4 * 65536, '\0'));
    batch.set_crc32c(CrcOf(batch.data()));
    REQUIRE(call.Write(batch));
    const absl::Status status = call.End();
    CheckReason(status, absl::StatusCode::kResourceExhausted, "MEMORY_BUDGET");
    CHECK(status.message() ==
          absl::StrCat("memory: got a need of ",
                       SiteAccumulator::MemoryBytes(65536, DType::kF32),
                       " bytes, allowed 1073741824"));
  }
  {
    // The store has room for 4 GiB.
    MomentsStream call(server);
    v1::WriteSecondMomentsRequest begin;
    begin.mutable_begin()->set_calibration(kName);
    begin.mutable_begin()->set_site(site);
    begin.mutable_begin()->set_request_id("r");
    call.Write(begin);
    CheckReason(call.Finish(), absl::StatusCode::kResourceExhausted,
                "DISK_FULL");
  }
  // Without a token it is sealed as zeros, which take no memory.
  REQUIRE(Seal(server, kName, {site}, &made).ok());
  constexpr int64_t kBytes = 4 * (int64_t{2'147'516'416} + 65536);
  std::string data;
  v1::CalibrationSite info;
  REQUIRE(ReadSite(server, kName, site, kBytes - 4, &data, &info).ok());
  CHECK(data == std::string(4, '\0'));
  const absl::Status status =
      ReadSite(server, kName, site, kBytes, &data, &info);
  CheckReason(status, absl::StatusCode::kOutOfRange, "OFFSET_TOO_LARGE");
  CHECK(status.message() ==
        absl::StrCat("offset: got ", kBytes, ", allowed below ", kBytes));
}

TEST_CASE("batches that are refused leave the shard as it was",
          "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  MustCreate(server);
  REQUIRE(SendBatches(server, 1, 2) == 2);
  using Code = absl::StatusCode;
  struct Case {
    Code code;
    const char* reason;
    std::function<void(v1::WriteActivationsRequest*)> change;
  };
  const std::vector<Case> cases = {
      {Code::kFailedPrecondition, "SEQUENCE_GAP",
       [](auto* r) { r->set_seq(4); }},
      {Code::kInvalidArgument, "BAD_FIELD", [](auto* r) { r->set_seq(-1); }},
      {Code::kInvalidArgument, "BAD_FIELD", [](auto* r) { r->set_site("x"); }},
      {Code::kInvalidArgument, "BAD_FIELD",
       [](auto* r) { r->set_dtype(v1::F64); }},
      {Code::kInvalidArgument, "BAD_FIELD",
       [](auto* r) {
         r->set_site("a");  // whose batches were F32
         r->set_dtype(v1::BF16);
       }},
      {Code::kInvalidArgument, "BAD_FIELD",
       [](auto* r) {
         r->clear_data();
         r->clear_crc32c();
       }},
      {Code::kInvalidArgument, "BAD_FIELD",
       [](auto* r) {
         r->mutable_data()->pop_back();
         r->clear_crc32c();
       }},
      {Code::kInvalidArgument, "BAD_FIELD",
       [](auto* r) { r->set_shard_id("other"); }},
      {Code::kInvalidArgument, "BAD_FIELD",
       [](auto* r) { r->set_calibration("projects/-/calibrations/d"); }},
      {Code::kInvalidArgument, "CHUNK_TOO_LARGE",
       [](auto* r) { r->set_data(std::string((2 << 20) + 16, '\0')); }},
      {Code::kAborted, "CHUNK_CRC_MISMATCH",
       [](auto* r) { (*r->mutable_data())[5] ^= 1; }},
  };
  for (const Case& one : cases) {
    INFO(one.reason);
    ActivationsStream call(server);
    REQUIRE(call.Write(OpenShard()));
    v1::WriteActivationsRequest request = BatchRequest(3);
    one.change(&request);
    call.Write(request);
    const absl::Status status = call.End();
    CheckReason(status, one.code, one.reason);
    CHECK(ErrorMetadataValue(status, "durable_seq") == "2");
    CHECK(ErrorMetadataValue(status, "expected") == "3");
  }
  REQUIRE(SendBatches(server, 3, 5) == 5);
  v1::Calibration sealed;
  REQUIRE(Seal(server, kName, {}, &sealed).ok());
  CHECK(MustRead(server, "a") == ReferenceBytes("a", 5));
  ActivationsStream call(server);
  REQUIRE(call.Write(OpenShard()));
  REQUIRE(call.Write(BatchRequest(6)));
  CheckReason(call.End(), Code::kFailedPrecondition, "SITE_SEALED");
}

// Batch 3, of site b, whose last but one value is NaN.
v1::WriteActivationsRequest BatchWithNaN() {
  std::vector<float> rows = RowsOf(3);
  rows[kTokens * 4 - 2] = std::numeric_limits<float>::quiet_NaN();
  v1::WriteActivationsRequest request = BatchRequest(3);
  request.set_data(BytesOf(rows));
  request.set_crc32c(CrcOf(request.data()));
  return request;
}

TEST_CASE("NaN in less than a run never becomes durable", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  MustCreate(server);
  v1::WriteActivationsRequest bad = BatchWithNaN();
  {
    ActivationsStream call(server);
    REQUIRE(call.Write(OpenShard()));
    CHECK(call.Durable() == 0);
    for (int64_t seq = 1; seq < 3; ++seq) {
      REQUIRE(call.Write(BatchRequest(seq)));
    }
    SECTION("and a flush") {
      bad.set_flush(true);
      REQUIRE(call.Write(bad));
    }
    SECTION("and the half-close") { REQUIRE(call.Write(bad)); }
    SECTION("and more of the site") {
      call.Write(bad);
      v1::WriteActivationsRequest request = BatchRequest(3);
      for (int64_t seq = 4; seq < 20; ++seq) {
        request.set_seq(seq);
        if (!call.Write(request)) break;
      }
    }
    const absl::Status status = call.Finish();
    CheckReason(status, absl::StatusCode::kInvalidArgument, "NON_FINITE_INPUT");
    CHECK(status.message() == "site \"b\": NaN at token 299, input 2");
    // Those before it are.
    CHECK(ErrorMetadataValue(status, "durable_seq") == "2");
    CHECK(ErrorMetadataValue(status, "expected") == "3");
  }
  REQUIRE(SendBatches(server, 3, 7) == 7);
  v1::Calibration sealed;
  REQUIRE(Seal(server, kName, {}, &sealed).ok());
  CHECK(MustRead(server, "a") == ReferenceBytes("a", 7));
  CHECK(MustRead(server, "b") == ReferenceBytes("b", 7));
}

TEST_CASE("NaN does not become durable when the connection is lost",
          "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  MustCreate(server);
  {
    ActivationsStream call(server);
    REQUIRE(call.Write(OpenShard()));
    CHECK(call.Durable() == 0);
    for (int64_t seq = 1; seq < 3; ++seq) {
      REQUIRE(call.Write(BatchRequest(seq)));
    }
    REQUIRE(call.Write(BatchWithNaN()));
    call.context.TryCancel();
    CHECK_FALSE(call.End().ok());
  }
  REQUIRE(Eventually([&] { return server.calls().live() == 0; }));
  {
    ActivationsStream call(server);
    REQUIRE(call.Write(OpenShard()));
    // However much of it came.
    const int64_t durable = call.Durable();
    CHECK(durable <= 2);
    REQUIRE(call.Finish().ok());
    REQUIRE(SendBatches(server, durable + 1, 7) == 7);
  }
  v1::Calibration sealed;
  REQUIRE(Seal(server, kName, {}, &sealed).ok());
  CHECK(MustRead(server, "b") == ReferenceBytes("b", 7));
}

TEST_CASE("one writer a shard, and the newer one comes in", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  MustCreate(server);
  ActivationsStream first(server);
  REQUIRE(first.Write(OpenShard()));
  CHECK(first.Durable() == 0);
  REQUIRE(first.Write(BatchRequest(1)));
  ActivationsStream other(server);
  REQUIRE(other.Write(OpenShard("t")));
  CHECK(other.Durable() == 0);
  ActivationsStream second(server);
  REQUIRE(second.Write(OpenShard()));
  CheckReason(second.End(), absl::StatusCode::kAborted, "CONCURRENT_WRITER");
  std::vector<v1::WriteActivationsResponse> answers;
  CheckReason(first.End(&answers), absl::StatusCode::kAborted,
              "CONCURRENT_WRITER");
  REQUIRE(Eventually([&] { return server.calls().live() == 1; }));
  CHECK(SendBatches(server, 1, 2) == 2);
  CHECK(other.Finish().ok());
}

v1::WriteSecondMomentsRequest BeginRequest(const std::string& site,
                                           int64_t tokens,
                                           const std::string& request_id) {
  v1::WriteSecondMomentsRequest request;
  request.mutable_begin()->set_calibration(kName);
  request.mutable_begin()->set_site(site);
  request.mutable_begin()->set_token_count(tokens);
  request.mutable_begin()->set_request_id(request_id);
  return request;
}

v1::WriteSecondMomentsRequest ChunkRequest(int64_t offset,
                                           const std::string& data, bool last) {
  v1::WriteSecondMomentsRequest request;
  request.mutable_chunk()->set_offset(offset);
  request.mutable_chunk()->set_data(data);
  request.mutable_chunk()->set_crc32c(CrcOf(data));
  request.mutable_chunk()->set_last(last);
  return request;
}

void WriteMoments(MomentsStream& call, const std::string& site,
                  const std::string& data, const std::string& request_id) {
  REQUIRE(call.Write(BeginRequest(site, 6 * kTokens, request_id)));
  call.Write(ChunkRequest(0, data.substr(0, 8), false));
  call.Write(ChunkRequest(8, data.substr(8), true));
}

TEST_CASE("second moments are added exactly once", "[calibrations]") {
  TemporaryFolder folder;
  const std::string a = ReferenceBytes("a", 9);
  const std::string b = ReferenceBytes("b", 9);
  {
    CalibrationFixture server(folder / "d");
    MustCreate(server);
    MomentsStream call(server);
    WriteMoments(call, "a", a, "ra");
    WriteMoments(call, "b", b, "rb");
    std::vector<v1::WriteSecondMomentsResponse> answers;
    REQUIRE(call.Finish(&answers).ok());
    REQUIRE(answers.size() == 2);
    CHECK(answers[0].request_id() == "ra");
    CHECK_FALSE(answers[0].already_added());
    CHECK(answers[1].request_id() == "rb");
  }
  CalibrationFixture server(folder / "d");
  {
    MomentsStream call(server);
    WriteMoments(call, "b", b, "rb");  // with its chunks
    REQUIRE(call.Write(BeginRequest("a", 6 * kTokens, "ra")));  // without
    std::vector<v1::WriteSecondMomentsResponse> answers;
    REQUIRE(call.Finish(&answers).ok());
    REQUIRE(answers.size() == 2);
    CHECK(answers[0].already_added());
    CHECK(answers[1].already_added());
  }
  v1::Calibration sealed;
  REQUIRE(Seal(server, kName, {"a"}, &sealed).ok());
  CHECK(sealed.sealed_count() == 1);
  CHECK(sealed.sites(0).token_count() == 6 * kTokens);
  CHECK(MustRead(server, "a") == a);
  std::string data;
  v1::CalibrationSite info;
  CheckReason(ReadSite(server, kName, "b", 0, &data, &info),
              absl::StatusCode::kFailedPrecondition, "SITE_NOT_SEALED");
  // A request that was served stays served when the site is sealed.
  MomentsStream served(server);
  REQUIRE(served.Write(BeginRequest("a", 6 * kTokens, "ra")));
  CHECK(served.Finish().ok());
  MomentsStream refused(server);
  REQUIRE(refused.Write(BeginRequest("a", 6 * kTokens, "new")));
  CheckReason(refused.End(), absl::StatusCode::kFailedPrecondition,
              "SITE_SEALED");
  // The same sum, by activations and by moments, has the same digest.
  REQUIRE(Seal(server, kName, {}, &sealed).ok());
  const std::string digest = sealed.sites(1).digest();
  v1::CreateCalibrationRequest request = CreateRequest("d");
  v1::Calibration made;
  REQUIRE(Create(server, request, &made).ok());
  ActivationsStream call(server);
  v1::WriteActivationsRequest open = OpenShard();
  open.set_calibration(made.name());
  REQUIRE(call.Write(open));
  for (int64_t seq = 1; seq <= 9; ++seq) {
    REQUIRE(call.Write(BatchRequest(seq)));
  }
  REQUIRE(call.Finish().ok());
  REQUIRE(Seal(server, made.name(), {}, &made).ok());
  CHECK(made.sites(0).digest() == sealed.sites(0).digest());
  CHECK(made.sites(1).digest() != digest);  // 3 * kTokens, not 6
}

TEST_CASE("second moments that are refused", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  MustCreate(server);
  const std::string a = ReferenceBytes("a", 3);
  using Code = absl::StatusCode;
  const auto refused =
      [&](const std::vector<v1::WriteSecondMomentsRequest>& all, Code code,
          const char* reason) {
        INFO(reason);
        MomentsStream call(server);
        for (const auto& request : all) call.Write(request);
        CheckReason(call.Finish(), code, reason);
      };
  const auto begin = BeginRequest("a", 5, "r");
  refused({v1::WriteSecondMomentsRequest()}, Code::kInvalidArgument,
          "BAD_FIELD");
  refused({ChunkRequest(0, a, true)}, Code::kInvalidArgument, "BAD_FIELD");
  refused({BeginRequest("x", 5, "r")}, Code::kInvalidArgument, "BAD_FIELD");
  refused({BeginRequest("a", -1, "r")}, Code::kInvalidArgument, "BAD_FIELD");
  refused({BeginRequest("a", 5, "")}, Code::kInvalidArgument, "BAD_FIELD");
  refused({begin}, Code::kInvalidArgument, "TOO_FEW_BYTES");
  refused({begin, begin}, Code::kInvalidArgument, "TOO_FEW_BYTES");
  refused({begin, ChunkRequest(0, a.substr(4), true)}, Code::kInvalidArgument,
          "TOO_FEW_BYTES");
  refused({begin, ChunkRequest(0, a + "1234", true)}, Code::kInvalidArgument,
          "TOO_MANY_BYTES");
  refused({begin, ChunkRequest(0, a.substr(1), true)}, Code::kInvalidArgument,
          "BAD_FIELD");
  refused({begin, ChunkRequest(4, a, true)}, Code::kFailedPrecondition,
          "OFFSET_GAP");
  auto corrupt = ChunkRequest(0, a, true);
  corrupt.mutable_chunk()->set_crc32c(1);
  refused({begin, corrupt}, Code::kAborted, "CHUNK_CRC_MISMATCH");
  std::string nan = a;
  nan.replace(12, 4, std::string("\0\0\xc0\x7f", 4));
  refused({begin, ChunkRequest(0, nan, true)}, Code::kInvalidArgument,
          "NON_FINITE_INPUT");
  REQUIRE(Eventually([&] { return server.calls().live() == 0; }));
  CHECK(server.blobs().bytes_used() == 0);
  // Not the moments of anything: found when it is sealed.
  std::string wrong = a;
  wrong.replace(0, 4, BytesOf({-1.0f}));
  MomentsStream call(server);
  call.Write(begin);
  call.Write(ChunkRequest(0, wrong, true));
  REQUIRE(call.Finish().ok());
  refused({BeginRequest("b", 5, "r")}, Code::kAlreadyExists,
          "REQUEST_ID_REUSED");
  v1::Calibration sealed;
  CheckReason(Seal(server, kName, {}, &sealed), Code::kInvalidArgument,
              "BAD_CALIBRATION");
  CheckReason(Seal(server, kName, {"x"}, &sealed), Code::kInvalidArgument,
              "BAD_FIELD");
}

TEST_CASE("many sites by one call, and one that is none", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  constexpr size_t kSites = 40;
  constexpr size_t kWrong = 17;
  v1::CreateCalibrationRequest request;
  request.set_calibration_id("c");
  std::vector<std::string> names;
  for (size_t i = 0; i < kSites; ++i) {
    names.push_back(absl::StrCat("site", 100 + i));
    v1::CalibrationSite* const site = request.add_sites();
    site->set_name(names.back());
    site->set_inputs(4);
    site->add_modules(names.back());
  }
  v1::Calibration sealed;
  REQUIRE(Create(server, request, &sealed).ok());
  const std::string good = ReferenceBytes("b", 3);
  std::string wrong = good;
  wrong.replace(0, 4, BytesOf({-1.0f}));
  MomentsStream call(server);
  for (size_t i = 0; i < kSites; ++i) {
    call.Write(BeginRequest(names[i], 5, "r" + names[i]));
    call.Write(ChunkRequest(0, i == kWrong ? wrong : good, true));
  }
  REQUIRE(call.Finish().ok());
  CheckReason(Seal(server, kName, {}, &sealed),
              absl::StatusCode::kInvalidArgument, "BAD_CALIBRATION");
  REQUIRE(Get(server, kName, &sealed).ok());
  for (size_t i = 0; i < kWrong; ++i)
    CHECK(sealed.sites(static_cast<int>(i)).sealed());
  CHECK_FALSE(sealed.sites(int{kWrong}).sealed());
  // The others, each named twice.
  names.erase(names.begin() + kWrong);
  const std::vector<std::string> again = names;
  names.insert(names.end(), again.begin(), again.end());
  const absl::Status status = Seal(server, kName, names, &sealed);
  INFO(status.ToString());
  REQUIRE(status.ok());
  CHECK(sealed.sealed_count() == kSites - 1);
  for (size_t i = 0; i < kSites; ++i) {
    if (i == kWrong) continue;
    CHECK(sealed.sites(static_cast<int>(i)).digest() ==
          sealed.sites(0).digest());
    CHECK(MustRead(server, sealed.sites(static_cast<int>(i)).name()) == good);
  }
  CHECK(server.blobs().List()->size() == kSites);
}

// Counts what is sealed each time it is told.
class CountingUsers final : public CalibrationUsers {
 public:
  explicit CountingUsers(CalibrationStore& store) : store_(store) {}

  absl::Status CheckUnused(const std::string&, const std::string&) override {
    return absl::OkStatus();
  }
  void Sealed(const std::string& project, const std::string& id) override {
    const auto found = store_.records().Get(project, id);
    const auto sealed =
        found.ok() ? std::count_if(found->sites.begin(), found->sites.end(),
                                   [](const auto& site) { return site.sealed; })
                   : -1;
    absl::MutexLock lock(&mutex_);
    counts_.push_back(sealed);
  }
  std::vector<int64_t> counts() {
    absl::MutexLock lock(&mutex_);
    return counts_;
  }

 private:
  CalibrationStore& store_;
  absl::Mutex mutex_;
  std::vector<int64_t> counts_;
};

TEST_CASE("jobs are told of the first sites while others are being sealed",
          "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  CountingUsers users(server.store());
  server.SetUsers(users);
  constexpr int kSites = 40;
  v1::CreateCalibrationRequest request;
  request.set_calibration_id("c");
  for (int i = 0; i < kSites; ++i) {
    v1::CalibrationSite* const site = request.add_sites();
    site->set_name(absl::StrCat("site", 100 + i));
    site->set_inputs(4);
    site->add_modules(site->name());
  }
  v1::Calibration calibration;
  REQUIRE(Create(server, request, &calibration).ok());
  MomentsStream call(server);
  for (const v1::CalibrationSite& site : request.sites()) {
    call.Write(BeginRequest(site.name(), 5, "r" + site.name()));
    call.Write(ChunkRequest(0, ReferenceBytes("b", 3), true));
  }
  REQUIRE(call.Finish().ok());
  CHECK(users.counts().empty());
  REQUIRE(Seal(server, kName, {}, &calibration).ok());
  const std::vector<int64_t> counts = users.counts();
  REQUIRE(counts.size() >= 2);
  CHECK(counts.front() >= 1);
  CHECK(counts.front() < kSites);
  CHECK(counts.back() == kSites);
  // Nothing new: nothing is told.
  REQUIRE(Seal(server, kName, {}, &calibration).ok());
  CHECK(users.counts() == counts);
}

TEST_CASE("too many streams, and a drain", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  MustCreate(server);
  std::vector<std::unique_ptr<ActivationsStream>> open;
  for (int i = 0; i < CalibrationFixture::kMaxCalls; ++i) {
    open.push_back(std::make_unique<ActivationsStream>(server));
    REQUIRE(open.back()->Write(OpenShard(absl::StrCat("s", i))));
    REQUIRE(open.back()->Durable() == 0);
    REQUIRE(open.back()->Write(BatchRequest(1)));
  }
  ActivationsStream more(server);
  CheckReason(more.End(), absl::StatusCode::kResourceExhausted,
              "TOO_MANY_STREAMS");
  server.calls().StartDraining();
  server.calls().EndAll();
  for (const auto& call : open) {
    CheckReason(call->End(), absl::StatusCode::kUnavailable, "DRAINING");
  }
  v1::Calibration made;
  CheckReason(Create(server, CreateRequest("e"), &made),
              absl::StatusCode::kUnavailable, "DRAINING");
  REQUIRE(Eventually([&] { return server.calls().live() == 0; }));
  CHECK(server.budget().reserved() == 0);
}

TEST_CASE("limits of calibrations, shards and parts", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d", int64_t{1} << 30,
                            {.calibrations = 2, .shards = 2, .parts = 2});
  constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;
  MustCreate(server);
  v1::Calibration made;
  REQUIRE(Create(server, CreateRequest("d"), &made).ok());
  const absl::Status third = Create(server, CreateRequest("e"), &made);
  CheckReason(third, kExhausted, "TOO_MANY_CALIBRATIONS");
  CHECK(ErrorMetadataValue(third, "allowed") == "2");
  for (const char* shard : {"s0", "s1", "s2"}) {
    ActivationsStream call(server);
    REQUIRE(call.Write(OpenShard(shard)));
    REQUIRE(call.Durable() == 0);
    REQUIRE(call.Write(BatchRequest(1)));
    const absl::Status status = call.Finish();
    if (shard != std::string("s2")) {
      CHECK(status.ok());
      continue;
    }
    CheckReason(status, kExhausted, "TOO_MANY_SHARDS");
  }
  const std::string zeros(4 * (10 + 4), '\0');
  for (const char* id : {"r0", "r1", "r2", "r1"}) {
    MomentsStream call(server);
    REQUIRE(call.Write(BeginRequest("b", 0, id)));
    v1::WriteSecondMomentsRequest chunk;
    chunk.mutable_chunk()->set_data(zeros);
    chunk.mutable_chunk()->set_last(true);
    call.Write(chunk);
    const absl::Status status = call.Finish();
    if (id != std::string("r2")) {
      CHECK(status.ok());  // one that was added is no third
      continue;
    }
    CheckReason(status, kExhausted, "TOO_MANY_PARTS");
  }
  // Nothing of what was refused is left: two accumulators, two parts.
  CHECK(server.blobs().List()->size() == 4);
  CHECK(server.blobs().Staged()->empty());
}

TEST_CASE("a client that says nothing loses its stream, not its batches",
          "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  MustCreate(server);
  ActivationsStream call(server);
  REQUIRE(call.Write(OpenShard()));
  CHECK(call.Durable() == 0);
  REQUIRE(call.Write(BatchRequest(1)));
  v1::WriteActivationsRequest flush;
  flush.set_flush(true);
  REQUIRE(call.Write(flush));
  CHECK(call.Durable() == 1);
  REQUIRE(call.Write(BatchRequest(2)));
  absl::SleepFor(absl::Milliseconds(200));
  server.calls().EndStalled(absl::Now() + absl::Seconds(50));
  CHECK(server.calls().live() == 1);
  server.calls().EndStalled(absl::Now() + absl::Seconds(61));
  std::vector<v1::WriteActivationsResponse> answers;
  CheckReason(call.End(&answers), absl::StatusCode::kDeadlineExceeded,
              "STREAM_STALLED");
  REQUIRE_FALSE(answers.empty());
  CHECK(answers.back().durable_seq() == 2);
  MomentsStream moments(server);
  REQUIRE(moments.Write(BeginRequest("b", 1, "r")));
  absl::SleepFor(absl::Milliseconds(200));
  server.calls().EndStalled(absl::Now() + absl::Seconds(61));
  CheckReason(moments.End(), absl::StatusCode::kDeadlineExceeded,
              "STREAM_STALLED");
  REQUIRE(Eventually([&] { return server.calls().live() == 0; }));
  CHECK(server.blobs().Staged()->empty());
}

TEST_CASE("a calibration that is deleted under a writer", "[calibrations]") {
  TemporaryFolder folder;
  CalibrationFixture server(folder / "d");
  MustCreate(server);
  ActivationsStream call(server);
  REQUIRE(call.Write(OpenShard()));
  REQUIRE(call.Durable() == 0);
  v1::DeleteCalibrationRequest remove;
  remove.set_name(kName);
  google::protobuf::Empty empty;
  REQUIRE(Unary([&](grpc::ClientContext* context) {
            return server.stub().DeleteCalibration(context, remove, &empty);
          }).ok());
  MustCreate(server);  // another one of the same name
  REQUIRE(call.Write(BatchRequest(1)));
  CheckReason(call.Finish(), absl::StatusCode::kNotFound,
              "CALIBRATION_NOT_FOUND");
  REQUIRE(Eventually([&] { return server.calls().live() == 0; }));
  CHECK(server.blobs().List()->empty());
}

}  // namespace
}  // namespace qs::testing
