// Used by tests/service/store/power_cut_test.cc.
#include "tests/service/store/power_cut_work.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "quant/formats/safetensors.h"
#include "service/jobs/job.h"
#include "service/jobs/job_output.h"
#include "service/store/calibration_sealing.h"
#include "service/store/calibration_shard.h"
#include "service/store/failpoint.h"
#include "service/store/sqlite_calibration_records.h"
#include "service/store/sqlite_job_records.h"
#include "tests/service/run_harness.h"
#include "tests/service/store/calibration_records_conformance.h"
#include "tests/service/store/job_records_conformance.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kInputs = 8;
constexpr char kSite[] = "a";

// A model of one small weight, with a file beside it and one in a folder.
void WriteModel(const std::string& folder) {
  fs::create_directories(folder + "/more");
  const std::vector<float> weight(64 * 64, 0.5f);
  REQUIRE(WriteSafetensors(folder + "/model.safetensors",
                           {{"w.weight",
                             DType::kF32,
                             {64, 64},
                             {reinterpret_cast<const uint8_t*>(weight.data()),
                              4 * 64 * 64}}})
              .ok());
  std::ofstream(folder + "/config.json") << R"({"model_type": "small"})";
  std::ofstream(folder + "/tokenizer.json") << "{}";
  std::ofstream(folder + "/more/vocabulary.txt") << "a b c";
}

SiteMoments MomentsOf(int64_t tokens) {
  auto moments = SiteMoments::Create(kSite, kInputs);
  REQUIRE(moments.ok());
  moments->set_tokens(tokens);
  for (int64_t i = 0; i < kInputs; ++i) {
    moments->second_moment()[i * kInputs + i] = static_cast<float>(tokens);
    moments->abs_sum()[i] = static_cast<float>(tokens);
  }
  return *std::move(moments);
}

// All of a site that is not sealed: whether its numbers can be read, and what
// they count.
std::string CheckTokens(Disk& disk, Backend& backend, const std::string& id,
                        int64_t tokens) {
  const auto now = disk.calibrations->Get("p", id);
  if (!now.ok()) return TextOf("calibration", now.status());
  auto sealing =
      CalibrationSealing::Open(*disk.numbers, now->key, now->sites[0]);
  if (!sealing.ok()) return TextOf("parts", sealing.status());
  int64_t sum = 0;
  const auto parts = disk.calibrations->PartsOf(now->key, kSite);
  for (const CalibrationPart& part : *parts) sum += part.tokens;
  while ((*sealing)->has_next()) {
    const absl::Status loaded = (*sealing)->Load();
    if (!loaded.ok()) return TextOf("numbers", loaded);
    if (!(*sealing)->Merge(backend).ok()) return "merge";
  }
  return sum >= tokens ? "" : "tokens are gone";
}

std::string CheckSealed(Disk& disk, const std::string& id, int64_t tokens,
                        const SiteMoments& expected) {
  const auto now = disk.calibrations->Get("p", id);
  if (!now.ok()) return TextOf("calibration", now.status());
  const CalibrationSiteRecord& site = now->sites[0];
  if (!site.sealed || site.tokens != tokens) return "a sealed site is not";
  const auto got = disk.numbers->GetSealed(site);
  if (!got.ok()) return TextOf("sealed numbers", got.status());
  return std::memcmp(got->second_moment(), expected.second_moment(),
                     sizeof(float) * kInputs * kInputs) == 0
             ? ""
             : "a sealed site has other numbers";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Disk>> Disk::Open(const std::string& path) {
  auto out = std::make_unique<Disk>();
  out->path = path;
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

std::string TextOf(const char* what, const absl::Status& status) {
  return status.ok() ? "" : std::string(what) + ": " + status.ToString();
}

Work::Work(PowerCutDisk& disk, Disk& stores, uint32_t seed)
    : disk_(disk), stores_(stores), random_(seed) {
  WriteModel(model_ / "model");
  NewCalibrationToFill();
}

void Work::Step() {
  switch (random_() % 16) {
    case 0:
      return Seal();
    case 1:
      return Publish();
    case 2:
    case 3:
      return AddMoments();
    case 4:
    case 5:
    case 6:
      return AddActivations();
    case 7:
    case 8:
    case 9:
      return Job();
    case 10:
    case 11:
    case 12:
      return Delete();
    default:
      return Upload();
  }
}

size_t Work::Acknowledge(std::function<std::string(Disk&)> check) {
  facts_.push_back({disk_.now(), Fact().until, std::move(check)});
  return facts_.size() - 1;
}

void Work::End(const std::string& id, size_t at) {
  for (const size_t fact : facts_of_[id]) facts_[fact].until = at;
}

void Work::Upload() {
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

void Work::Delete() {
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

void Work::Job() {
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

void Work::ExpectJob(const JobKey& key, int64_t revision) {
  Acknowledge([key, revision](Disk& d) -> std::string {
    const auto job = d.jobs->Get(key);
    if (!job.ok()) return TextOf("job", job.status());
    const auto events = d.jobs->Events(key, 0);
    const bool whole =
        events.ok() && static_cast<int64_t>(events->size()) == job->revision;
    return job->revision >= revision && whole ? "" : "a job went back";
  });
}

void Work::NewCalibrationToFill() {
  calibration_ = absl::StrCat("c", ++calibrations_);
  tokens_ = 0;
  CalibrationRecord made = NewCalibration(calibration_);
  made.sites.resize(1);
  MustCreate(*stores_.calibrations, made);
  Acknowledge([id = calibration_](Disk& d) {
    return TextOf("calibration", d.calibrations->Get("p", id).status());
  });
}

void Work::AddActivations() {
  const auto found = stores_.calibrations->Get("p", calibration_);
  REQUIRE(found.ok());
  const auto calibration = std::make_shared<const CalibrationRecord>(*found);
  auto shard = CalibrationShard::Open(*stores_.numbers, calibration,
                                      absl::StrCat("s", random_() % 3), 8);
  REQUIRE(shard.ok());
  const std::vector<float> row(kInputs, 1.0f);
  REQUIRE((*shard)->OpenSite(*(*shard)->FindSite(kSite), DType::kF32).ok());
  REQUIRE((*shard)
              ->Add(kSite, DType::kF32,
                    reinterpret_cast<const uint8_t*>(row.data()), 1, *backend_)
              .ok());
  REQUIRE((*shard)->Checkpoint().ok());
  ++tokens_;
  ExpectTokens();
}

void Work::AddMoments() {
  const auto found = stores_.calibrations->Get("p", calibration_);
  REQUIRE(found.ok());
  CalibrationPart part;
  part.kind = CalibrationPart::Kind::kMoments;
  part.source = absl::StrCat("m", ++moments_);
  part.site = kSite;
  part.tokens = 1 + random_() % 100;
  part.request_hash = "hash";
  std::string digest;
  const auto blob =
      stores_.numbers->PutMoments(MomentsOf(part.tokens), &digest);
  REQUIRE(blob.ok());
  part.blob = *blob;
  const auto added = stores_.calibrations->AddMoments(found->key, part, 1000);
  REQUIRE(added.ok());
  REQUIRE(*added);
  tokens_ += part.tokens;
  // The same again would not be added.
  facts_of_[calibration_].push_back(
      Acknowledge([key = found->key, part](Disk& d) -> std::string {
        const auto has = d.calibrations->HasMoments(key, part);
        return has.ok() && *has ? "" : "moments are forgotten";
      }));
  ExpectTokens();
}

void Work::ExpectTokens() {
  facts_of_[calibration_].push_back(
      Acknowledge([id = calibration_, tokens = tokens_, this](Disk& d) {
        return CheckTokens(d, *backend_, id, tokens);
      }));
}

void Work::Seal() {
  if (tokens_ == 0) return;
  const auto found = stores_.calibrations->Get("p", calibration_);
  REQUIRE(found.ok());
  const size_t begun = disk_.now();
  auto sealing =
      CalibrationSealing::Open(*stores_.numbers, found->key, found->sites[0]);
  REQUIRE(sealing.ok());
  while ((*sealing)->has_next()) {
    REQUIRE((*sealing)->Load().ok());
    REQUIRE((*sealing)->Merge(*backend_).ok());
  }
  REQUIRE((*sealing)->Store().ok());
  End(calibration_, begun);
  const auto sealed = stores_.calibrations->Get("p", calibration_);
  REQUIRE(sealed.ok());
  auto numbers = stores_.numbers->GetSealed(sealed->sites[0]);
  REQUIRE(numbers.ok());
  Acknowledge(
      [id = calibration_, tokens = tokens_,
       expected = std::make_shared<const SiteMoments>(*std::move(numbers))](
          Disk& d) { return CheckSealed(d, id, tokens, *expected); });
  NewCalibrationToFill();
}

void Work::Publish() {
  const std::string id = absl::StrCat("r", ++outputs_);
  const std::string name = absl::StrCat("../out/", id);
  const std::string destination =
      fs::path(stores_.path + "/" + name).lexically_normal();
  const std::string staging = StagingPath(destination, id);
  CheckpointRunSpec spec;
  spec.input = model_ / "model";
  spec.output = staging;
  spec.quantization.set_preset("NF4");
  Machine machine(1);
  Recorder recorder;
  REQUIRE(Finish(*Prepare(spec), machine, recorder).ok());
  const std::map<std::string, std::string> files = FilesOf(staging);
  REQUIRE(files.size() == 4);
  REQUIRE(PublishOutput(staging, destination).ok());
  Acknowledge([name, files](Disk& d) -> std::string {
    std::error_code error;
    if (!fs::is_directory(d.path + "/" + name, error)) {
      return "an output is gone";
    }
    return FilesOf(d.path + "/" + name) == files
               ? ""
               : "an output is not what it was";
  });
}

}  // namespace qs::testing
