// Jobs on checkpoints that consist of symbolic links: those of a download
// cache, which stay below the read root, and those that would leave it.
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/service/jobs/job_client.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

// The model of the tests as the Hugging Face hub's client keeps it:
//   cache/models--org--tiny/blobs/N
//   cache/models--org--tiny/snapshots/REV/NAME -> ../../blobs/N
// and cache/latest, a link to REV; `secret` lies beside the cache.
struct Cache {
  Cache() {
    fs::create_directories(folders.folder / "cache/models--org--tiny/blobs");
    fs::create_directories(snapshot);
    const fs::path data = QS_TEST_DATA;
    for (const auto& entry : fs::directory_iterator(data / "tiny-llama")) {
      Add(entry.path());
    }
    fs::copy_file(data / kCalibration, snapshot / "../../blobs/moments");
    fs::create_symlink("../blobs/moments", snapshot / ".." / kCalibration);
    fs::create_directory_symlink("models--org--tiny/snapshots/REV",
                                 folders.folder / "cache/latest");
    std::ofstream(folders.folder / "secret") << "{\"secret\": 1}";
  }

  void Add(const fs::path& file) {
    const std::string blob = std::to_string(++blobs);
    fs::copy_file(file, snapshot / "../../blobs" / blob);
    fs::create_symlink("../../blobs/" + blob, snapshot / file.filename());
  }
  void PutLink(const std::string& name, const std::string& to) {
    fs::remove(snapshot / name);
    fs::create_symlink(to, snapshot / name);
  }
  ServerOptions Options() const {
    ServerOptions options = JobServerTestOptions(folders);
    options.read_roots = {folders.folder / "cache", QS_TEST_DATA};
    options.follow_links = true;
    return options;
  }
  std::string Uri(const std::string& name) const {
    return "file://" + (folders.folder / ("cache/" + name));
  }
  v1::CreateJobRequest Request(const std::string& out,
                               const std::string& source) const {
    v1::CreateJobRequest request = JobRequest(folders, out);
    request.mutable_job()->mutable_source()->set_uri(Uri(source));
    return request;
  }

  JobFolders folders;
  const fs::path snapshot =
      folders.folder / "cache/models--org--tiny/snapshots/REV";
  int blobs = 0;
};

constexpr char kSnapshot[] = "models--org--tiny/snapshots/REV";

TEST_CASE("links are refused unless the server follows them", "[job_links]") {
  const Cache cache;
  ServerOptions options = cache.Options();
  options.follow_links = false;
  InProcessServer server(options);
  JobClient client(server.NewChannel());
  for (const char* source : {kSnapshot, "latest"}) {
    const absl::Status status =
        client.Create(cache.Request("out", source)).status();
    INFO(status.ToString());
    REQUIRE(ErrorReason(status) == "URI_NOT_ALLOWED");
  }
}

TEST_CASE("a snapshot of a download cache is a checkpoint", "[job_links]") {
  const Cache cache;
  InProcessServer server(cache.Options());
  JobClient client(server.NewChannel());
  RequireDone(client, JobRequest(cache.folders, "plain"));
  RequireDone(client, cache.Request("snapshot", kSnapshot));
  RequireDone(client, cache.Request("latest", "latest"));
  const auto plain = ReadTree(cache.folders.Out("plain"));
  REQUIRE(plain.contains("config.json"));
  REQUIRE(plain.contains("tokenizer.json"));
  for (const char* name : {"snapshot", "latest"}) {
    INFO(name);
    REQUIRE(ReadTree(cache.folders.Out(name)) == plain);
    for (const auto& entry :
         fs::recursive_directory_iterator(cache.folders.Out(name))) {
      INFO(entry.path().string());
      REQUIRE_FALSE(entry.is_symlink());
    }
  }
}

TEST_CASE("a calibration file and a single file are links", "[job_links]") {
  const Cache cache;
  InProcessServer server(cache.Options());
  JobClient client(server.NewChannel());
  v1::CreateJobRequest request = cache.Request("gptq", "latest");
  request.mutable_job()->mutable_quantization()->set_preset("W4A16-gptq");
  request.mutable_job()->mutable_calibration()->set_uri(
      cache.Uri(std::string("models--org--tiny/snapshots/") + kCalibration));
  request.mutable_job()->mutable_source()->add_include("*.self_attn.*");
  REQUIRE(RequireDone(client, request).summary().output_error() > 0);
  const std::string file = "model-00001-of-00002.safetensors";
  RequireDone(client, cache.Request("one", "latest/" + file));
  REQUIRE(fs::is_regular_file(
      fs::symlink_status(cache.folders.Out("one") + "/" + file)));
}

TEST_CASE("a link out of the read root is refused by name", "[job_links]") {
  Cache cache;
  const std::string secret = cache.folders.folder / "secret";
  fs::create_directory_symlink("../../..", cache.snapshot / "../up");
  InProcessServer server(cache.Options());
  JobClient client(server.NewChannel());
  for (const std::string name :
       {"config.json", "tokenizer.json", "model.safetensors.index.json",
        "model-00002-of-00002.safetensors"}) {
    const std::string kept = fs::read_symlink(cache.snapshot / name);
    for (const std::string& to :
         {secret, std::string("../../../../secret"),
          std::string("../up/secret"), "/proc/self/root" + secret,
          std::string("/proc/self/fd/0")}) {
      INFO(name << " -> " << to);
      cache.PutLink(name, to);
      const absl::Status status =
          client.Create(cache.Request("out", kSnapshot)).status();
      const std::string text(status.message());
      INFO(text);
      REQUIRE(status.code() == absl::StatusCode::kPermissionDenied);
      REQUIRE(ErrorReason(status) == "URI_NOT_ALLOWED");
      REQUIRE(text.find("job.source.uri: got \"" + name + "\"") == 0);
      REQUIRE(text.find("out of its read root") != std::string::npos);
      REQUIRE(text.find("secret") == std::string::npos);
    }
    cache.PutLink(name, kept);
  }
  REQUIRE(client.Create(cache.Request("out", kSnapshot)).ok());
}

TEST_CASE("links to nothing and in a circle are named", "[job_links]") {
  Cache cache;
  const bool circle = GENERATE(false, true);
  cache.PutLink("tokenizer.json", circle ? "tokenizer.json" : "../../blobs/no");
  InProcessServer server(cache.Options());
  JobClient client(server.NewChannel());
  const absl::Status status =
      client.Create(cache.Request("out", kSnapshot)).status();
  INFO(status.ToString());
  REQUIRE(ErrorReason(status) ==
          (circle ? "URI_NOT_ALLOWED" : "SOURCE_NOT_FOUND"));
  REQUIRE(std::string(status.message())
              .find(circle
                        ? "\"tokenizer.json\", which leads over links in a "
                          "circle"
                        : "\"tokenizer.json\", which is a link to nothing") !=
          std::string::npos);
}

TEST_CASE("a calibration out of the read root is refused", "[job_links]") {
  const Cache cache;
  fs::create_symlink(std::string(QS_TEST_DATA) + "/" + kCalibration,
                     cache.folders.folder / "cache/absolute");
  InProcessServer server(cache.Options());
  JobClient client(server.NewChannel());
  v1::CreateJobRequest request = cache.Request("gptq", "latest");
  request.mutable_job()->mutable_quantization()->set_preset("W4A16-gptq");
  request.mutable_job()->mutable_calibration()->set_uri(cache.Uri("absolute"));
  const absl::Status status = client.Create(request).status();
  INFO(status.ToString());
  REQUIRE(ErrorReason(status) == "URI_NOT_ALLOWED");
  REQUIRE(std::string(status.message()).find("job.calibration.uri: ") == 0);
}

// What lies there when the job's turn comes is looked at again.
TEST_CASE("a link that appears before the job's turn", "[job_links]") {
  Cache cache;
  ServerOptions options = cache.Options();
  std::string name;
  {
    options.max_running_jobs = 0;
    InProcessServer server(options);
    JobClient client(server.NewChannel());
    const auto made = client.Create(cache.Request("out", kSnapshot));
    REQUIRE(made.ok());
    name = made->name();
  }
  cache.PutLink("tokenizer.json", "../../../../secret");
  options.max_running_jobs = 1;
  InProcessServer server(options);
  JobClient client(server.NewChannel());
  const v1::Job job = WaitDone(client, name);
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::FAILED);
  REQUIRE(job.error().message().find("tokenizer.json") != std::string::npos);
  REQUIRE(job.ShortDebugString().find("URI_NOT_ALLOWED") != std::string::npos);
  REQUIRE(cache.folders.OutFiles().empty());
}

}  // namespace
}  // namespace qs::testing
