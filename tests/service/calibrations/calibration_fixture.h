// A gRPC server with nothing but CalibrationService, and calls to it over a
// real connection. Every call is limited to 30 s, so that no test hangs.
#ifndef QS_TESTS_SERVICE_CALIBRATIONS_CALIBRATION_FIXTURE_H_
#define QS_TESTS_SERVICE_CALIBRATIONS_CALIBRATION_FIXTURE_H_

#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "quant/v1/calibrations.grpc.pb.h"
#include "service/calibrations/calibration_service.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"
#include "service/server/log.h"
#include "service/store/dir_blob_store.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_calibration_records.h"
#include "tests/service/calibrations/calibration_batches.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/in_process_server.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {

namespace v1 = quant::v1;

// Who calls is what the metadata "who" says: PROJECT:ROLE.
class MetadataAccess final : public AccessControl {
 public:
  absl::StatusOr<Caller> Identify(
      const grpc::CallbackServerContext& call) const override {
    const auto found = call.client_metadata().find("who");
    if (found == call.client_metadata().end()) {
      return Caller{"p", Role::kUser};
    }
    const std::string who(found->second.data(), found->second.size());
    const size_t colon = who.find(':');
    return Caller{who.substr(0, colon), who.substr(colon + 1) == "reader"
                                            ? Role::kReader
                                            : Role::kUser};
  }
};

class CalibrationFixture {
 public:
  // A call has its place until gRPC is done with it, somewhat after its client.
  static constexpr int kMaxCalls = 32;

  explicit CalibrationFixture(
      const std::string& folder, int64_t budget = int64_t{1} << 30,
      CalibrationLimits limits = {},
      std::vector<std::unique_ptr<Backend>> workers = NewCpuBackends(2, 1))
      : budget_(budget), workers_(std::move(workers)) {
    REQUIRE(SetLogLevel("off").ok());
    std::filesystem::create_directories(folder);
    auto db = SqliteDatabase::Open(folder + "/db",
                                   {BlobRefsSchema(), CalibrationSchema()});
    REQUIRE(db.ok());
    db_ = *std::move(db);
    records_ = NewSqliteCalibrationRecords(*db_);
    auto blobs = OpenDirBlobStore(folder + "/blobs", int64_t{1} << 32);
    REQUIRE(blobs.ok());
    blobs_ = *std::move(blobs);
    store_ = std::make_unique<CalibrationStore>(*records_, *blobs_);
    REQUIRE(store_->DiscardStaged().ok());
    context_.reset(new CalibrationContext{*store_, access_, pool_, workers_,
                                          budget_, calls_, limits});
    service_ = NewCalibrationService(*context_);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = v1::CalibrationService::NewStub(Connect(port_));
  }
  ~CalibrationFixture() {
    calls_.StartDraining();
    calls_.EndAll();
    server_->Shutdown(In(absl::Seconds(5)));
    server_->Wait();
    // Their last steps use the pool and the store.
    while (calls_.live() > 0) absl::SleepFor(absl::Milliseconds(1));
  }

  v1::CalibrationService::Stub& stub() { return *stub_; }
  CalibrationStore& store() { return *store_; }
  BlobStore& blobs() { return *blobs_; }
  LiveCalls& calls() { return calls_; }
  ByteBudget& budget() { return budget_; }
  // Before the first call.
  void SetUsers(CalibrationUsers& users) { context_->users = &users; }

 private:
  std::unique_ptr<SqliteDatabase> db_;
  std::unique_ptr<CalibrationRecords> records_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<CalibrationStore> store_;
  MetadataAccess access_;
  ByteBudget budget_;
  LiveCalls calls_{kMaxCalls, absl::Seconds(60)};
  WorkerPool workers_;
  std::unique_ptr<CalibrationContext> context_;
  IoPool pool_{4, 64};
  std::unique_ptr<grpc::Service> service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::CalibrationService::Stub> stub_;
};

// The status of a unary call.
template <typename Call>
absl::Status Unary(const Call& call, const std::string& who = "") {
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(30)));
  if (!who.empty()) context.AddMetadata("who", who);
  return FromGrpcStatus(call(&context));
}

inline absl::Status Create(CalibrationFixture& server,
                           const v1::CreateCalibrationRequest& request,
                           v1::Calibration* response,
                           const std::string& who = "") {
  return Unary(
      [&](grpc::ClientContext* context) {
        return server.stub().CreateCalibration(context, request, response);
      },
      who);
}

inline absl::Status Get(CalibrationFixture& server, const std::string& name,
                        v1::Calibration* response,
                        const std::string& who = "") {
  v1::GetCalibrationRequest request;
  request.set_name(name);
  return Unary(
      [&](grpc::ClientContext* context) {
        return server.stub().GetCalibration(context, request, response);
      },
      who);
}

inline absl::Status Seal(CalibrationFixture& server, const std::string& name,
                         const std::vector<std::string>& sites,
                         v1::Calibration* response) {
  v1::SealSitesRequest request;
  request.set_name(name);
  for (const std::string& site : sites) request.add_sites(site);
  return Unary([&](grpc::ClientContext* context) {
    return server.stub().SealSites(context, request, response);
  });
}

// An open bidirectional call.
template <typename Request, typename Response>
struct Stream {
  using Calls = grpc::ClientReaderWriter<Request, Response>;
  using Open =
      std::function<std::unique_ptr<Calls>(grpc::ClientContext* context)>;
  explicit Stream(const Open& open) {
    context.set_deadline(In(absl::Seconds(30)));
    stream = open(&context);
  }
  bool Write(const Request& request) { return stream->Write(request); }
  bool Read(Response* response) { return stream->Read(response); }
  // The status, after all answers.
  absl::Status Finish(std::vector<Response>* answers = nullptr) {
    stream->WritesDone();
    return End(answers);
  }
  absl::Status End(std::vector<Response>* answers = nullptr) {
    Response response;
    while (stream->Read(&response)) {
      if (answers != nullptr) answers->push_back(response);
    }
    return FromGrpcStatus(stream->Finish());
  }

  grpc::ClientContext context;
  std::unique_ptr<Calls> stream;
};

struct ActivationsStream
    : Stream<v1::WriteActivationsRequest, v1::WriteActivationsResponse> {
  explicit ActivationsStream(CalibrationFixture& server)
      : Stream([&](grpc::ClientContext* client) {
          return server.stub().WriteActivations(client);
        }) {}
  // The next answer.
  int64_t Durable() {
    v1::WriteActivationsResponse response;
    REQUIRE(Read(&response));
    return response.durable_seq();
  }
};

struct MomentsStream
    : Stream<v1::WriteSecondMomentsRequest, v1::WriteSecondMomentsResponse> {
  explicit MomentsStream(CalibrationFixture& server)
      : Stream([&](grpc::ClientContext* client) {
          return server.stub().WriteSecondMoments(client);
        }) {}
};

// Reads a site from `offset` on; the first message's site in `site`.
inline absl::Status ReadSite(CalibrationFixture& server,
                             const std::string& name, const std::string& site,
                             int64_t offset, std::string* data,
                             v1::CalibrationSite* info) {
  v1::ReadSiteRequest request;
  request.set_name(name);
  request.set_site(site);
  request.set_offset(offset);
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(30)));
  const auto stream = server.stub().ReadSite(&context, request);
  v1::ReadSiteResponse response;
  bool last = false;
  while (stream->Read(&response)) {
    CHECK(response.offset() == offset + static_cast<int64_t>(data->size()));
    CHECK_FALSE(last);
    last = response.last();
    if (data->empty()) *info = response.site();
    data->append(response.data());
  }
  const absl::Status status = FromGrpcStatus(stream->Finish());
  CHECK(last == status.ok());
  return status;
}

inline void CheckReason(const absl::Status& status, absl::StatusCode code,
                        const std::string& reason) {
  INFO(status.ToString());
  CHECK(status.code() == code);
  CHECK(ErrorReason(status) == reason);
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_CALIBRATIONS_CALIBRATION_FIXTURE_H_
