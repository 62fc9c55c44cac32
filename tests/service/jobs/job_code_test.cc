// What a checkpoint brings that could be executed is not even opened, but for
// scripts, which are copied.
#include <sys/inotify.h>
#include <unistd.h>

#include <cstring>
#include <set>

#include "quant/formats/posix_file.h"
#include "tests/service/jobs/job_client.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

// Which files of a directory anybody opens.
class Openings {
 public:
  explicit Openings(const std::string& directory)
      : fd_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    REQUIRE(fd_.get() >= 0);
    REQUIRE(inotify_add_watch(fd_.get(), directory.c_str(), IN_OPEN) >= 0);
  }
  // Since the last call.
  std::set<std::string> Names() {
    std::set<std::string> names;
    alignas(inotify_event) char events[4096];
    ssize_t got = 0;
    while ((got = read(fd_.get(), events, sizeof(events))) > 0) {
      for (ssize_t at = 0; at < got;) {
        inotify_event event;
        std::memcpy(&event, events + at, sizeof(event));
        REQUIRE((event.mask & IN_Q_OVERFLOW) == 0);
        if (event.len > 0) names.insert(events + at + sizeof(event));
        at += static_cast<ssize_t>(sizeof(event) + event.len);
      }
    }
    return names;
  }

 private:
  const UniqueFd fd_;
};

// P10.
TEST_CASE("pickles are not opened, and scripts are only copied",
          "[job_service]") {
  JobFolders folders;
  const fs::path model = folders.folder / "model";
  fs::copy(std::string(QS_TEST_DATA) + "/tiny-llama", model);
  const std::set<std::string> pickles = {"pytorch_model.bin", "adapter.pt",
                                         "optimizer.pth", "state.pkl"};
  for (const std::string& name : pickles) std::ofstream(model / name) << "cos";
  const std::string script = "raise SystemExit('executed')\n";
  std::ofstream(model / "modeling_custom.py") << script;
  ServerOptions options = JobServerTestOptions(folders);
  options.read_roots = {model};
  InProcessServer server(options);
  JobClient jobs(server.NewChannel());
  v1::CreateJobRequest request = JobRequest(folders, "a");
  request.mutable_job()->mutable_source()->set_uri("file://" + model.string());
  Openings openings(model);
  RequireDone(jobs, request);
  const std::set<std::string> opened = openings.Names();
  CHECK(opened.contains("config.json"));
  CHECK(opened.contains("model-00001-of-00002.safetensors"));
  const auto tree = ReadTree(folders.Out("a"));
  for (const std::string& name : pickles) {
    CHECK_FALSE(opened.contains(name));
    CHECK_FALSE(tree.contains(name));
  }
  CHECK(tree.at("modeling_custom.py") == script);
  // Nothing else is there.
  for (const auto& entry : fs::directory_iterator(model)) {
    if (entry.path().extension() == ".safetensors") fs::remove(entry.path());
  }
  fs::remove(model / "model.safetensors.index.json");
  openings.Names();
  request.mutable_job()->mutable_destination()->set_uri(folders.OutUri("b"));
  RequireError(jobs.Create(request).status(), absl::StatusCode::kNotFound,
               "SOURCE_NOT_FOUND");
  for (const std::string& name : openings.Names()) {
    CHECK_FALSE(pickles.contains(name));
  }
}

}  // namespace
}  // namespace qs::testing
