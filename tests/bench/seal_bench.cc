// seal_bench [--sites N] [--inputs N] [--parts N] [--dir DIR]: many small sites
// of one calibration, declared, filled and sealed by one SealSites call, with
// the names of DeepSeek-V3's experts. By RPC to a server of the same process.
// One JSON line:
//   {"name":"seal", "sites", "inputs", "with_parts" (sites that got a token),
//    "name_bytes" (of all, modules included), "create_seconds",
//    "write_seconds" (WriteActivations, one shard), "seal_seconds",
//    "ms_a_site" (of sealing), "get_seconds" (all pages),
//    "peak_mb" (of the process, client included, before and after sealing)}
#include <grpcpp/grpcpp.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/v1/calibrations.grpc.pb.h"
#include "service/server/log.h"
#include "service/server/server.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Clock = std::chrono::steady_clock;

constexpr char kName[] = "projects/-/calibrations/c";
constexpr int kExperts = 256;  // of a layer

struct Settings {
  int sites = 30'000;
  int inputs = 16;
  int parts = -1;  // the first sites get a token; below 0: all do
  std::string dir = "/tmp";
};

void Require(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "seal_bench: %s\n", what.c_str());
  std::exit(1);
}

void Require(const grpc::Status& status) {
  Require(status.ok(), status.error_message());
}

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

double PeakMegabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

std::string ModuleOf(int site) {
  const int expert = site / 2;
  return absl::StrCat("model.layers.", expert / kExperts, ".mlp.experts.",
                      expert % kExperts,
                      site % 2 == 0 ? ".gate_proj" : ".down_proj");
}

int64_t Declare(v1::CalibrationService::Stub& stub, const Settings& settings) {
  v1::CreateCalibrationRequest request;
  request.set_calibration_id("c");
  int64_t bytes = 0;
  for (int i = 0; i < settings.sites; ++i) {
    v1::CalibrationSite* const site = request.add_sites();
    site->set_name(ModuleOf(i));
    site->set_inputs(settings.inputs);
    site->add_modules(ModuleOf(i));
    bytes += static_cast<int64_t>(2 * site->name().size());
  }
  grpc::ClientContext context;
  v1::Calibration made;
  Require(stub.CreateCalibration(&context, request, &made));
  return bytes;
}

// One token for each of the first `count` sites.
void Write(v1::CalibrationService::Stub& stub, const Settings& settings,
           int count) {
  grpc::ClientContext context;
  const auto stream = stub.WriteActivations(&context);
  const std::vector<float> token(static_cast<size_t>(settings.inputs), 0.5f);
  v1::WriteActivationsRequest request;
  request.set_calibration(kName);
  request.set_shard_id("rank0");
  request.set_dtype(v1::F32);
  request.set_data(token.data(), token.size() * sizeof(float));
  for (int i = 0; i < count; ++i) {
    request.set_seq(i + 1);
    request.set_site(ModuleOf(i));
    if (!stream->Write(request)) break;
    request.clear_calibration();
    request.clear_shard_id();
  }
  stream->WritesDone();
  v1::WriteActivationsResponse response;
  while (stream->Read(&response)) continue;
  Require(stream->Finish());
  Require(response.durable_seq() == count, "WriteActivations: not durable");
}

int Seal(v1::CalibrationService::Stub& stub) {
  v1::SealSitesRequest request;
  request.set_name(kName);
  grpc::ClientContext context;
  v1::Calibration response;
  Require(stub.SealSites(&context, request, &response));
  return static_cast<int>(response.sealed_count());
}

int CountPages(v1::CalibrationService::Stub& stub) {
  v1::GetCalibrationRequest request;
  request.set_name(kName);
  int sites = 0;
  do {
    grpc::ClientContext context;
    v1::Calibration page;
    Require(stub.GetCalibration(&context, request, &page));
    sites += page.sites_size();
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return sites;
}

void Run(const Settings& settings, const std::string& folder) {
  ServerOptions options;
  options.listen = "127.0.0.1:0";
  options.data_dir = folder;
  auto server = Server::Start(options);
  Require(server.ok(), server.status().ToString());
  const auto stub = v1::CalibrationService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", (*server)->port()),
                          grpc::InsecureChannelCredentials()));
  auto began = Clock::now();
  const int64_t name_bytes = Declare(*stub, settings);
  const double create_seconds = Seconds(began);
  const int parts = settings.parts < 0 ? settings.sites : settings.parts;
  began = Clock::now();
  if (parts > 0) Write(*stub, settings, parts);
  const double write_seconds = Seconds(began);
  const double before_mb = PeakMegabytes();
  began = Clock::now();
  Require(Seal(*stub) == settings.sites, "SealSites: not all");
  const double seal_seconds = Seconds(began);
  began = Clock::now();
  Require(CountPages(*stub) == settings.sites, "GetCalibration: not all");
  std::printf(
      "{\"name\":\"seal\",\"sites\":%d,\"inputs\":%d,\"with_parts\":%d,"
      "\"name_bytes\":%lld,\"create_seconds\":%.3f,\"write_seconds\":%.3f,"
      "\"seal_seconds\":%.3f,\"ms_a_site\":%.3f,\"get_seconds\":%.3f,"
      "\"peak_mb\":[%.0f,%.0f]}\n",
      settings.sites, settings.inputs, parts,
      static_cast<long long>(name_bytes), create_seconds, write_seconds,
      seal_seconds, 1000 * seal_seconds / settings.sites, Seconds(began),
      before_mb, PeakMegabytes());
}

int Main(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const std::string value = argv[i + 1];
    if (flag == "--sites") settings.sites = std::stoi(value);
    if (flag == "--inputs") settings.inputs = std::stoi(value);
    if (flag == "--parts") settings.parts = std::stoi(value);
    if (flag == "--dir") settings.dir = value;
  }
  Require(SetLogLevel("off").ok(), "log level");
  std::string folder = settings.dir + "/seal_bench.XXXXXX";
  Require(mkdtemp(folder.data()) != nullptr, "cannot make " + folder);
  Run(settings, folder);
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace qs

int main(int argc, char** argv) { return qs::Main(argc, argv); }
