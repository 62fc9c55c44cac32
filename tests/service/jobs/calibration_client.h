// A calibration on a server, with the sites of the small model's file.
#ifndef QS_TESTS_SERVICE_JOBS_CALIBRATION_CLIENT_H_
#define QS_TESTS_SERVICE_JOBS_CALIBRATION_CLIENT_H_

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "quant/calibration/calibration_file.h"
#include "quant/v1/calibrations.grpc.pb.h"
#include "tests/service/jobs/job_client.h"

namespace qs::testing {

constexpr char kName[] = "projects/default/calibrations/c";
// A site that no tensor of the checkpoint reads.
constexpr char kOtherSite[] = "zz-other";

// Open before any server is, which must leave no file behind that was not.
inline const absl::StatusOr<CalibrationFile> kFile =
    CalibrationFile::Open(std::string(QS_TEST_DATA) + "/" + kCalibration);

inline const CalibrationFile& File() {
  INFO(kFile.status().ToString());
  REQUIRE(kFile.ok());
  return *kFile;
}

// What the jobs of these tests read of a layer; see CalibratedRequest.
constexpr const char* kPart = kSanitized ? ".self_attn." : ".";

// Sites of the file that these layers need.
inline std::vector<CalibrationSite> Sites(const std::string& layers) {
  std::vector<CalibrationSite> sites;
  for (const char layer : layers) {
    const std::string prefix = std::string("model.layers.") + layer + kPart;
    for (const CalibrationSite& site : File().sites()) {
      if (site.name.rfind(prefix, 0) == 0) sites.push_back(site);
    }
  }
  return sites;
}
inline std::vector<std::string> SiteNames(const std::string& layers = "0123") {
  std::vector<std::string> names;
  for (const CalibrationSite& site : Sites(layers)) names.push_back(site.name);
  return names;
}
inline int64_t SiteCount(const std::string& layers = "0123") {
  return static_cast<int64_t>(Sites(layers).size());
}
// Tensors that are quantized with these sites.
inline int64_t TensorCount(const std::string& layers = "0123") {
  int64_t count = 0;
  for (const CalibrationSite& site : Sites(layers)) {
    count += static_cast<int64_t>(site.modules.size());
  }
  return count;
}

// Blocking calls of CalibrationService, for one calibration.
class CalibrationClient {
 public:
  explicit CalibrationClient(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::CalibrationService::NewStub(channel)) {}

  // With the file's sites and one more.
  void Create() {
    v1::CreateCalibrationRequest request;
    request.set_calibration_id("c");
    for (const CalibrationSite& site : File().sites()) {
      v1::CalibrationSite* const out = request.add_sites();
      out->set_name(site.name);
      out->set_inputs(site.inputs);
      out->mutable_modules()->Add(site.modules.begin(), site.modules.end());
    }
    v1::CalibrationSite* const other = request.add_sites();
    other->set_name(kOtherSite);
    other->set_inputs(4);
    other->add_modules("nowhere");
    grpc::ClientContext context;
    v1::Calibration made;
    Check(stub_->CreateCalibration(&context, request, &made));
  }

  // The numbers of SiteNames().
  void SendAll() {
    grpc::ClientContext context;
    context.set_deadline(In(absl::Seconds(30)));
    const auto stream = stub_->WriteSecondMoments(&context);
    const std::vector<std::string> names = SiteNames();
    for (size_t i = 0; i < File().sites().size(); ++i) {
      const std::string& name = File().sites()[i].name;
      if (std::find(names.begin(), names.end(), name) != names.end()) {
        Send(*stream, i);
      }
    }
    stream->WritesDone();
    v1::WriteSecondMomentsResponse response;
    while (stream->Read(&response)) continue;
    Check(stream->Finish());
  }

  void Seal(const std::vector<std::string>& sites) {
    v1::SealSitesRequest request;
    request.set_name(kName);
    request.mutable_sites()->Add(sites.begin(), sites.end());
    grpc::ClientContext context;
    v1::Calibration response;
    Check(stub_->SealSites(&context, request, &response));
  }

  // With all numbers; the sites of these layers are sealed.
  void Upload(const std::string& sealed_layers = "") {
    Create();
    SendAll();
    if (!sealed_layers.empty()) Seal(SiteNames(sealed_layers));
  }

  absl::Status Delete() {
    v1::DeleteCalibrationRequest request;
    request.set_name(kName);
    grpc::ClientContext context;
    google::protobuf::Empty response;
    return FromGrpcStatus(
        stub_->DeleteCalibration(&context, request, &response));
  }
  bool Exists() {
    v1::GetCalibrationRequest request;
    request.set_name(kName);
    grpc::ClientContext context;
    v1::Calibration response;
    return stub_->GetCalibration(&context, request, &response).ok();
  }

 private:
  using Stream = grpc::ClientReaderWriter<v1::WriteSecondMomentsRequest,
                                          v1::WriteSecondMomentsResponse>;

  static void Check(const grpc::Status& status) {
    INFO(status.error_message());
    REQUIRE(status.ok());
  }

  static void Send(Stream& stream, size_t site) {
    const auto moments = File().Load(site);
    REQUIRE(moments.ok());
    v1::WriteSecondMomentsRequest begin;
    begin.mutable_begin()->set_calibration(kName);
    begin.mutable_begin()->set_site(File().sites()[site].name);
    begin.mutable_begin()->set_token_count(moments->tokens());
    begin.mutable_begin()->set_request_id("r" + std::to_string(site));
    REQUIRE(stream.Write(begin));
    const int64_t n = moments->inputs();
    const auto packed = static_cast<size_t>(SiteMoments::PackedElements(n));
    std::vector<float> values(packed + static_cast<size_t>(n));
    moments->CopyToPacked(values.data());
    std::copy_n(moments->abs_sum(), n, values.data() + packed);
    v1::WriteSecondMomentsRequest chunk;
    chunk.mutable_chunk()->set_data(values.data(), 4 * values.size());
    chunk.mutable_chunk()->set_last(true);
    REQUIRE(stream.Write(chunk));
  }

  std::unique_ptr<v1::CalibrationService::Stub> stub_;
};

// A job that reads SiteNames() of the calibration's file, or of the calibration
// of CalibrationClient. The reference profile, as the bytes do not matter.
inline v1::CreateJobRequest FiledRequest(const JobFolders& folders,
                                         const std::string& out) {
  v1::CreateJobRequest request = CalibratedRequest(folders, out);
  request.mutable_job()->mutable_quantization()->set_profile(v1::REFERENCE);
  return request;
}
inline v1::CreateJobRequest NamedRequest(const JobFolders& folders,
                                         const std::string& out) {
  v1::CreateJobRequest request = FiledRequest(folders, out);
  request.mutable_job()->mutable_calibration()->set_name(
      "projects/-/calibrations/c");
  return request;
}

// Whether all that is left of the job waits for sites.
inline bool WaitsForSites(JobClient& client, const std::string& name) {
  return Eventually([&] {
    const auto job = client.Get(name);
    return job.ok() && job->progress().phase() == v1::JobProgress::WAITING;
  });
}

// For TEST_CASE_METHOD: a server, and clients of its jobs and calibrations.
struct CalibrationFixture : JobFixture {
  CalibrationClient calibration{server.NewChannel()};
};

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_JOBS_CALIBRATION_CLIENT_H_
