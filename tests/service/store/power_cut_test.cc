// The power fails at any call that the stores make: what was acknowledged is
// there when they open again, and what is there is whole. And the test finds
// it when any one kind of sync is left out.
#include "tests/service/store/power_cut.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "quant/formats/posix_file.h"
#include "service/jobs/job.h"
#include "service/server/stores.h"
#include "service/store/calibration_sealing.h"
#include "service/store/calibration_shard.h"
#include "service/store/failpoint.h"
#include "service/store/sqlite_calibration_records.h"
#include "service/store/sqlite_job_records.h"
#include "tests/service/store/calibration_records_conformance.h"
#include "tests/service/store/job_records_conformance.h"
#include "tests/service/tensors/store_fixture.h"
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

// All stores of a server, as it opens them.
struct Disk {
  static absl::StatusOr<std::unique_ptr<Disk>> Open(const std::string& path) {
    auto out = std::make_unique<Disk>();
    ServerOptions options;
    options.data_dir = path;
    auto stores = Stores::Open(options);
    if (!stores.ok()) return stores.status();
    out->stores = *std::move(stores);
    Stores& all = *out->stores;
    out->tensor_records = NewSqliteTensorRecords(all.records());
    out->jobs = NewSqliteJobRecords(all.records());
    out->calibrations = NewSqliteCalibrationRecords(all.records());
    auto tensors =
        TensorStore::Open({all.blobs(), *out->tensor_records, all.refs(),
                           all.keeper(), TensorStoreOptions()});
    if (!tensors.ok()) return tensors.status();
    out->tensors = *std::move(tensors);
    out->numbers =
        std::make_unique<CalibrationStore>(*out->calibrations, all.blobs());
    absl::Status status = out->numbers->DiscardStaged();
    if (status.ok()) status = all.CollectGarbage();
    if (!status.ok()) return status;
    return out;
  }

  std::unique_ptr<Stores> stores;
  std::unique_ptr<TensorRecords> tensor_records;
  std::unique_ptr<JobRecords> jobs;
  std::unique_ptr<CalibrationRecords> calibrations;
  std::unique_ptr<TensorStore> tensors;
  std::unique_ptr<CalibrationStore> numbers;
};

// What must hold after a cut at [from, until): "" or what does not.
struct Fact {
  size_t from = 0;
  size_t until = std::numeric_limits<size_t>::max();
  std::function<std::string(Disk&)> check;
};

std::string TextOf(const char* what, const absl::Status& status) {
  return status.ok() ? "" : std::string(what) + ": " + status.ToString();
}

// Calls of the stores, one after the other, and what they acknowledged.
class Work {
 public:
  Work(PowerCutDisk& disk, Disk& stores, uint32_t seed)
      : disk_(disk), stores_(stores), random_(seed) {
    MustCreate(*stores_.calibrations, NewCalibration("c"));
    Acknowledge([](Disk& d) {
      return TextOf("calibration", d.calibrations->Get("p", "c").status());
    });
  }

  void Step() {
    switch (random_() % 4) {
      case 0:
        return Upload();
      case 1:
        return Delete();
      case 2:
        return Job();
      default:
        return Calibrate();
    }
  }

  const std::vector<Fact>& facts() const { return facts_; }
  const std::map<std::string, Bytes>& uploads() const { return uploads_; }

 private:
  // The fact's number.
  size_t Acknowledge(std::function<std::string(Disk&)> check) {
    facts_.push_back({disk_.now(), Fact().until, std::move(check)});
    return facts_.size() - 1;
  }

  // What was said of an upload holds no longer.
  void End(const std::string& id, size_t at) {
    for (const size_t fact : facts_of_[id]) facts_[fact].until = at;
  }

  void Upload() {
    // Some have the bytes of another one.
    const uint32_t content = random_() % 12;
    const Bytes bytes = RandomBytes(5000 + content * 3000, content);
    const auto made = stores_.tensors->CreateUpload("p", UploadOf(bytes, ""));
    REQUIRE(made.ok());
    const std::string id = made->id;
    uploads_[id] = bytes;
    facts_of_[id].push_back(Acknowledge([id](Disk& d) {
      return TextOf("upload", d.tensors->GetUpload("p", id).status());
    }));
    auto writer = stores_.tensors->OpenUpload("p", id, nullptr);
    REQUIRE(writer.ok());
    const auto half = std::span(bytes).first(bytes.size() / 2);
    REQUIRE((*writer)->Write(0, half).ok());
    if (random_() % 2 == 0) {
      REQUIRE((*writer)->Flush().ok());
      const auto persisted = static_cast<int64_t>(half.size());
      facts_of_[id].push_back(
          Acknowledge([id, persisted](Disk& d) -> std::string {
            const auto upload = d.tensors->GetUpload("p", id);
            return upload.ok() && upload->persisted >= persisted
                       ? ""
                       : "persisted_size shrank";
          }));
    }
    if (random_() % 4 == 0) return;  // paused
    REQUIRE(WriteFrom(**writer, bytes, static_cast<int64_t>(half.size())).ok());
    if (random_() % 5 == 0) {
      // What became of the bytes is unknown; the same may come again.
      SetFailpointsForTest(
          absl::StrCat("blob.sync_folder=EIO@", 1 + random_() % 3));
    }
    const size_t finishing = disk_.now();
    const bool finished = (*writer)->Finish().ok();
    SetFailpointsForTest("");
    if (!finished) {
      End(id, finishing);
      // It goes on at once, or later, or never.
      if (random_() % 2 == 0) return;
      writer->reset();
      auto again = stores_.tensors->OpenUpload("p", id, nullptr);
      REQUIRE(again.ok());
      REQUIRE(WriteFrom(**again, bytes, (*again)->persisted_size()).ok());
      REQUIRE((*again)->Finish().ok());
    }
    tensors_[id] = Acknowledge([id, bytes](Disk& d) -> std::string {
      const auto read = ReadTensorBytes(*d.tensors, "p", id);
      if (!read.ok()) return TextOf("tensor", read.status());
      return *read == bytes ? "" : "a tensor has other bytes";
    });
  }

  void Delete() {
    if (tensors_.empty()) return;
    const auto [id, fact] = *tensors_.begin();
    tensors_.erase(tensors_.begin());
    // From here on it may be gone, and all that was said of it.
    const size_t begun = disk_.now();
    facts_of_[id].push_back(fact);
    End(id, begun);
    REQUIRE(stores_.tensors->DeleteTensor("p", id).ok());
    Acknowledge([id = id](Disk& d) -> std::string {
      return absl::IsNotFound(d.tensors->GetTensor("p", id).status())
                 ? ""
                 : "a deleted tensor is back";
    });
  }

  void Job() {
    if (jobs_ == 0 || random_() % 2 == 0) {
      const JobRecord job = NewJob(absl::StrCat("j", ++jobs_));
      REQUIRE(stores_.jobs->Create(job, 1000).ok());
      running_ = false;
      return ExpectJob(job.key, 1);
    }
    if (running_) return;
    running_ = true;
    const JobKey key{"default", absl::StrCat("j", jobs_)};
    const auto updated = stores_.jobs->Update(key, At(200), ToRunning);
    REQUIRE(updated.ok());
    ExpectJob(key, updated->job.revision);
  }

  void ExpectJob(const JobKey& key, int64_t revision) {
    Acknowledge([key, revision](Disk& d) -> std::string {
      const auto job = d.jobs->Get(key);
      if (!job.ok()) return TextOf("job", job.status());
      const auto events = d.jobs->Events(key, 0);
      const bool whole =
          events.ok() && static_cast<int64_t>(events->size()) == job->revision;
      return job->revision >= revision && whole ? "" : "a job went back";
    });
  }

  void Calibrate() {
    const auto found = stores_.calibrations->Get("p", "c");
    REQUIRE(found.ok());
    const auto calibration = std::make_shared<const CalibrationRecord>(*found);
    auto shard = CalibrationShard::Open(*stores_.numbers, calibration,
                                        absl::StrCat("s", random_() % 3), 8);
    REQUIRE(shard.ok());
    const std::vector<float> row(8, 1.0f);
    REQUIRE((*shard)->OpenSite(*(*shard)->FindSite("a"), DType::kF32).ok());
    REQUIRE((*shard)
                ->Add("a", DType::kF32,
                      reinterpret_cast<const uint8_t*>(row.data()), 1,
                      *backend_)
                .ok());
    REQUIRE((*shard)->Checkpoint().ok());
    ++tokens_;
    // Adding up what is there must give at least what was counted.
    Acknowledge([tokens = tokens_, this](Disk& d) -> std::string {
      const auto now = d.calibrations->Get("p", "c");
      if (!now.ok()) return TextOf("calibration", now.status());
      auto sealing =
          CalibrationSealing::Open(*d.numbers, now->key, now->sites[0]);
      if (!sealing.ok()) return TextOf("parts", sealing.status());
      int64_t sum = 0;
      const auto parts = d.calibrations->PartsOf(now->key, "a");
      for (const CalibrationPart& part : *parts) sum += part.tokens;
      while ((*sealing)->has_next()) {
        const absl::Status loaded = (*sealing)->Load();
        if (!loaded.ok()) return TextOf("numbers", loaded);
        if (!(*sealing)->Merge(*backend_).ok()) return "merge";
      }
      return sum >= tokens ? "" : "tokens are gone";
    });
  }

  PowerCutDisk& disk_;
  Disk& stores_;
  std::mt19937 random_;
  const std::unique_ptr<Backend> backend_ = NewCpuBackend(1);
  std::vector<Fact> facts_;
  std::map<std::string, Bytes> uploads_;   // by id
  std::map<std::string, size_t> tensors_;  // complete ones, and their facts
  std::map<std::string, std::vector<size_t>> facts_of_;  // of uploads
  int jobs_ = 0;
  bool running_ = false;
  int64_t tokens_ = 0;
};

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
