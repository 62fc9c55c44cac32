// The power fails at any call that the stores make: what was acknowledged is
// there when they open again, and what is there is whole. And the test finds
// it when any one kind of sync is left out.
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "service/store/blob_folder.h"
#include "tests/service/store/power_cut_work.h"
#include "tests/testing/sanitized.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kSeeds = kSanitized ? 2 : 8;
constexpr int kSteps = 40;
constexpr int kCuts = 25;
// A run that forgets syncs is caught within so many seeds.
constexpr uint32_t kForgetfulSeeds = 20;

// Every upload that is open can be brought to its end with the right bytes.
std::string FinishUploads(Disk& disk, const Work& work) {
  for (const auto& [id, bytes] : work.uploads()) {
    const auto upload = disk.tensors->GetUpload("p", id);
    if (!upload.ok() || upload->complete) continue;
    auto writer = disk.tensors->OpenUpload("p", id, nullptr);
    if (!writer.ok()) return TextOf("open upload", writer.status());
    const absl::Status written =
        WriteFrom(**writer, bytes, (*writer)->persisted_size());
    if (!written.ok()) return TextOf("write", written);
    const auto tensor = (*writer)->Finish();
    if (!tensor.ok()) return TextOf("finish", tensor.status());
    if (tensor->digest != DigestOf(bytes)) return "persisted bytes are wrong";
  }
  return "";
}

// "" or what is wrong after a cut behind `cut` calls.
std::string CheckCut(const PowerCutDisk& power, const Work& work, size_t cut,
                     uint32_t seed) {
  TemporaryFolder after;
  power.RestoreTo(after / "live", cut, seed);
  auto disk = Disk::Open(after / "live/data");
  if (!disk.ok()) return TextOf("open", disk.status());
  for (const Fact& fact : work.facts()) {
    if (cut < fact.from || cut >= fact.until) continue;
    const std::string wrong = fact.check(**disk);
    if (!wrong.empty()) return wrong;
  }
  return FinishUploads(**disk, work);
}

// The first thing that is wrong after some cut of one run; "": nothing.
std::string CheckRun(uint32_t seed,
                     const std::function<bool(const std::string&)>& forgets) {
  TemporaryFolder folder;
  fs::create_directories(folder / "live");
  PowerCutDisk power(folder / "live");
  REQUIRE(MakeFolder(folder / "live/out").ok());
  power.Forget(forgets);
  auto disk = Disk::Open(folder / "live/data");
  REQUIRE(disk.ok());
  Work work(power, **disk, seed);
  for (int i = 0; i < kSteps; ++i) work.Step();
  const size_t all = power.now();
  std::mt19937 random(seed);
  for (int i = 0; i < kCuts; ++i) {
    const size_t cut = i == 0 ? all : 1 + random() % all;
    const uint32_t luck = random();
    const std::string wrong = CheckCut(power, work, cut, luck);
    if (wrong.empty()) continue;
    return absl::StrCat("seed ", seed, ", cut ", cut, " of ", all, ", luck ",
                        luck, ": ", wrong);
  }
  return "";
}

TEST_CASE("power cut: what was acknowledged is there", "[power_cut]") {
  for (uint32_t seed = 1; seed <= kSeeds; ++seed) {
    CHECK(CheckRun(seed, nullptr) == "");
  }
}

// What a program may forget to sync; each is needed. (Sums of blobs that are
// lost are made again.)
struct Forgotten {
  const char* what;
  std::function<bool(const std::string&)> likes;
};

TEST_CASE("power cut: a sync that is left out is found", "[power_cut]") {
  const std::vector<Forgotten> all = {
      {"an upload's bytes",
       [](const std::string& path) {
         return absl::StrContains(path, "/staging/u-");
       }},
      {"a calibration's bytes",
       [](const std::string& path) {
         return absl::StrContains(path, "/staging/cal-");
       }},
      {"the folder of staging files",
       [](const std::string& path) {
         return absl::EndsWith(path, "/staging");
       }},
      {"the folders of blobs",
       [](const std::string& path) {
         const size_t at = path.find("/blobs/blobs/");
         return at != std::string::npos && path.size() - at == 18;
       }},
      {"the folders of those",
       [](const std::string& path) {
         return absl::EndsWith(path, "/blobs/blobs");
       }},
      {"the bytes of an output",
       [](const std::string& path) {
         return absl::StrContains(path, "/out/.") &&
                absl::EndsWith(path, "/tokenizer.json");
       }},
      {"an output's folders",
       [](const std::string& path) {
         return absl::StrContains(path, "/out/.") &&
                absl::EndsWith(path, "/more");
       }},
      {"the folder of outputs",
       [](const std::string& path) { return absl::EndsWith(path, "/out"); }},
      {"the log of the records",
       [](const std::string& path) { return absl::EndsWith(path, "-wal"); }},
      {"the data directory",
       [](const std::string& path) { return absl::EndsWith(path, "/data"); }},
      {"the folder of the data directory",
       [](const std::string& path) { return absl::EndsWith(path, "/live"); }},
  };
  for (const Forgotten& forgotten : all) {
    INFO(forgotten.what);
    std::string found;
    for (uint32_t seed = 1; seed <= kForgetfulSeeds && found.empty(); ++seed) {
      found = CheckRun(seed, forgotten.likes);
    }
    INFO(found);
    CHECK_FALSE(found.empty());
  }
}

}  // namespace
}  // namespace qs::testing
