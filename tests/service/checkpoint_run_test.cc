// Runs of the small model from its files to a directory: every method, the same
// bytes whatever the workers, stopped and gone on with, and what goes wrong.
#include "service/run/checkpoint_run.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "quant/calibration/site_moments.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/safetensors.h"
#include "service/access/uri_roots.h"
#include "service/checkpoint/header_check.h"
#include "service/run/blob_input.h"
#include "service/server/error.h"
#include "service/store/dir_blob_store.h"
#include "tests/service/run_harness.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/sanitized.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;
namespace v1 = quant::v1;

const std::string kModel = std::string(QS_TEST_DATA) + "/tiny-llama";
const std::string kCalibration =
    std::string(QS_TEST_DATA) + "/tiny-llama-calibration.safetensors";

CheckpointRunSpec SpecOf(const std::string& preset, const std::string& output) {
  CheckpointRunSpec spec;
  spec.input = kModel;
  spec.output = output;
  spec.quantization.set_preset(preset);
  return spec;
}

using Presets = std::vector<std::string>;
const Presets kPresets = kSanitized ? Presets{"NF4-dq", "W4A16"}
                                    : Presets{"NF4-dq", "W4A16", "W4A16-hqq",
                                              "W4A16-gptq", "W4A16-awq"};
constexpr int kStops = kSanitized ? 3 : 12;

bool IsCalibrated(const std::string& preset) {
  return preset == "W4A16-gptq" || preset == "W4A16-awq";
}

TEST_CASE("a directory is filled, the same whatever the workers", "[run]") {
  for (const std::string& preset : kPresets) {
    INFO(preset);
    TemporaryFolder folder;
    CheckpointRunSpec spec = SpecOf(preset, folder / "one");
    if (IsCalibrated(preset)) spec.calibration = kCalibration;
    Recorder recorder;
    {
      Machine machine(1);
      const auto run = Prepare(spec);
      REQUIRE(Finish(*run, machine, recorder).ok());
      CHECK(recorder.bytes == run->size().bytes);
      CHECK(static_cast<int64_t>(recorder.reports().size()) ==
            run->size().tensors);
      CHECK(recorder.shards().size() == 2);
    }
    int64_t memory = 0;
    for (const auto& [name, report] : recorder.reports()) {
      memory = std::max(memory, report.memory_bytes());
      // One that only folds comes back under its own name.
      CHECK((report.error().count() > 0) == (report.output_tensors_size() > 1));
    }
    CHECK(memory > 0);
    CHECK(memory == Prepare(spec)->size().largest_batch_bytes);
    const auto checkpoint = Checkpoint::Open(folder / "one");
    REQUIRE(checkpoint.ok());
    CHECK(checkpoint->config_json().find("quantization_config") !=
          std::string::npos);
    const auto files = FilesOf(folder / "one");
    CHECK(files.contains("tokenizer.json"));

    Machine machine(3);
    spec.output = folder / "three";
    Recorder again;
    REQUIRE(Finish(*Prepare(spec), machine, again).ok());
    CHECK(FilesOf(folder / "three") == files);
  }
}

// Counts what is told before the first tensor is done.
class EarlyRecorder : public Recorder {
 public:
  void OnBytes(int64_t count) override {
    CHECK(count > 0);
    Recorder::OnBytes(count);
    if (!any_) ++early;
  }
  absl::Status OnTensor(int shard, const v1::TensorReport& report,
                        const QuantizedTensor& result) override {
    any_ = true;
    return Recorder::OnTensor(shard, report, result);
  }
  int early = 0;

 private:
  bool any_ = false;
};

// The codes of the first tensor alone would be one step.
TEST_CASE("bytes move while a group's scales are searched", "[run]") {
  if (!IsCalibrated(kPresets.back())) return;
  for (const std::string preset : {"W4A16-awq", "W4A16-gptq"}) {
    INFO(preset);
    CheckpointRunSpec spec = SpecOf(preset, "");
    spec.calibration = kCalibration;
    Machine machine(1);
    EarlyRecorder recorder;
    const auto run = Prepare(spec);
    REQUIRE(Finish(*run, machine, recorder).ok());
    CHECK(recorder.early >= 20);
    CHECK(recorder.bytes == run->size().bytes);
  }
}

TEST_CASE("without an output directory results go to the observer", "[run]") {
  Machine machine(2);
  Recorder recorder;
  const auto run = Prepare(SpecOf("NF4", ""));
  REQUIRE(Finish(*run, machine, recorder).ok());
  CHECK(static_cast<int64_t>(recorder.reports().size()) == run->size().tensors);
  CHECK(recorder.shards().empty());
}

// What a run without an output directory gave, by the names of the parts.
class Collector final : public Recorder {
 public:
  absl::Status OnTensor(int shard, const v1::TensorReport& report,
                        const QuantizedTensor& result) override {
    for (const OutputTensor& part : result.tensors) {
      absl::MutexLock lock(&mutex_);
      parts_[part.name].assign(part.data.data(),
                               part.data.data() + part.data.size());
    }
    return Recorder::OnTensor(shard, report, result);
  }
  std::map<std::string, std::vector<uint8_t>> parts() {
    absl::MutexLock lock(&mutex_);
    return parts_;
  }

 private:
  absl::Mutex mutex_;
  std::map<std::string, std::vector<uint8_t>> parts_;
};

// The tensors of the small model as blobs.
std::vector<RunTensor> Upload(BlobStore& store) {
  const auto checkpoint = Checkpoint::Open(kModel);
  REQUIRE(checkpoint.ok());
  std::vector<RunTensor> tensors;
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    const auto data =
        checkpoint->shards()[static_cast<size_t>(tensor.shard)].Data(
            tensor.entry);
    auto writer = store.Create("u" + std::to_string(tensors.size()),
                               static_cast<int64_t>(data.size()));
    REQUIRE(writer.ok());
    REQUIRE((*writer)->Append(data).ok());
    const auto digest = (*writer)->Commit("");
    REQUIRE(digest.ok());
    tensors.push_back(
        {tensor.entry.name, tensor.entry.dtype, tensor.entry.shape, *digest});
  }
  return tensors;
}

TEST_CASE("tensors in blobs give what the files give", "[run]") {
  TemporaryFolder folder;
  Machine machine(2);
  std::vector<std::string> presets = {"NF4"};
  if (IsCalibrated(kPresets.back())) presets.push_back("W4A16-gptq");
  for (const std::string& preset : presets) {
    INFO(preset);
    auto store = OpenDirBlobStore(folder / ("s" + preset), int64_t{1} << 30);
    REQUIRE(store.ok());
    CheckpointRunSpec spec = SpecOf(preset, "");
    // Without config.json nothing is known of folds.
    if (preset == "W4A16-gptq") {
      spec.calibration = kCalibration;
      spec.quantization.clear_preset();
      spec.quantization.mutable_gptq()->set_awq_scaling(false);
    }
    Collector from_files;
    REQUIRE(Finish(*Prepare(spec), machine, from_files).ok());
    spec.input.clear();
    spec.tensors = Upload(**store);
    spec.blobs = store->get();
    Collector from_blobs;
    REQUIRE(Finish(*Prepare(spec), machine, from_blobs).ok());
    CHECK(from_blobs.parts().size() > 20);
    CHECK(from_blobs.parts() == from_files.parts());
  }
}

// Names, forms and bytes of a checkpoint's tensors.
std::map<std::string, std::string> TensorsOf(const std::string& path) {
  std::map<std::string, std::string> tensors;
  const auto checkpoint = Checkpoint::Open(path);
  INFO(checkpoint.status().ToString());
  REQUIRE(checkpoint.ok());
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    const auto data =
        checkpoint->shards()[static_cast<size_t>(tensor.shard)].Data(
            tensor.entry);
    std::string& text = tensors[tensor.entry.name];
    text = std::string(DTypeName(tensor.entry.dtype)) + " ";
    for (const int64_t size : tensor.entry.shape) {
      text += std::to_string(size) + " ";
    }
    text.append(reinterpret_cast<const char*>(data.data()), data.size());
  }
  return tensors;
}

TEST_CASE("tensors in blobs become a checkpoint", "[run]") {
  TemporaryFolder folder;
  Machine machine(2);
  auto store = OpenDirBlobStore(folder / "s", int64_t{1} << 30);
  REQUIRE(store.ok());
  CheckpointRunSpec spec = SpecOf("NF4", folder / "files");
  Recorder files;
  REQUIRE(Finish(*Prepare(spec), machine, files).ok());
  spec.input.clear();
  spec.tensors = Upload(**store);
  spec.blobs = store->get();
  spec.config_json = FilesOf(kModel).at("config.json");
  spec.shard_bytes = 2'000'000;
  std::reverse(spec.tensors.begin(), spec.tensors.end());
  spec.output = folder / "blobs";
  // Stopped behind a shard, then to the end.
  std::set<int> committed;
  {
    const auto run = Prepare(spec);
    REQUIRE(run->size().shards > 3);
    Recorder recorder;
    recorder.on_shard = [&] { run->Stop(); };
    REQUIRE(absl::IsCancelled(Finish(*run, machine, recorder)));
    committed = recorder.shards();
    REQUIRE(committed.size() == 1);
  }
  const auto run = Prepare(spec);
  Recorder recorder;
  REQUIRE(Finish(*run, machine, recorder, committed).ok());
  CHECK(TensorsOf(folder / "blobs") == TensorsOf(folder / "files"));
  auto made = FilesOf(folder / "blobs");
  CHECK(made.at("config.json") == FilesOf(folder / "files").at("config.json"));
  CHECK(made.count("model.safetensors.index.json") == 1);
  CHECK(static_cast<int64_t>(made.size()) == run->size().shards + 2);

  // Without the model's config.json it has the quantization alone.
  spec.config_json.clear();
  spec.output = folder / "alone";
  Recorder alone;
  REQUIRE(Finish(*Prepare(spec), machine, alone).ok());
  CHECK(TensorsOf(folder / "alone") == TensorsOf(folder / "files"));
  const std::string config = FilesOf(folder / "alone").at("config.json");
  CHECK(config.rfind("{\n  \"quantization_config\": {", 0) == 0);
}

TEST_CASE("a damaged blob that is carried ends the run", "[run]") {
  TemporaryFolder folder;
  Machine machine(2);
  auto store = OpenDirBlobStore(folder / "s", int64_t{1} << 30);
  REQUIRE(store.ok());
  CheckpointRunSpec spec = SpecOf("NF4", folder / "out");
  spec.input.clear();
  spec.tensors = Upload(**store);
  spec.blobs = store->get();
  const auto run = Prepare(spec);
  const auto norm = std::find_if(
      spec.tensors.begin(), spec.tensors.end(),
      [](const RunTensor& t) { return t.name == "model.norm.weight"; });
  REQUIRE(norm != spec.tensors.end());
  REQUIRE((*store)->Delete(norm->digest).ok());
  Recorder recorder;
  CHECK(ErrorReason(Finish(*run, machine, recorder)) == "BLOB_CORRUPT");
  CHECK_FALSE(fs::exists(folder / "out/config.json"));
}

TEST_CASE("a damaged blob ends the run", "[run]") {
  TemporaryFolder folder;
  Machine machine(2);
  auto store = OpenDirBlobStore(folder / "s", int64_t{1} << 30);
  REQUIRE(store.ok());
  CheckpointRunSpec spec = SpecOf("NF4", "");
  spec.input.clear();
  spec.tensors = Upload(**store);
  spec.blobs = store->get();
  const auto run = Prepare(spec);
  for (const auto& entry : fs::recursive_directory_iterator(folder / "s")) {
    if (!entry.is_regular_file() || entry.file_size() < 100'000 ||
        entry.path().extension() == ".crc") {
      continue;
    }
    std::fstream(entry.path(), std::ios::in | std::ios::out | std::ios::binary)
        .seekp(50'000)
        .write("damaged!", 8);
  }
  Recorder recorder;
  CHECK(ErrorReason(Finish(*run, machine, recorder)) == "BLOB_CORRUPT");
}

TEST_CASE("a run that was stopped goes on from its shards", "[run]") {
  TemporaryFolder folder;
  {
    Machine machine(2);
    Recorder recorder;
    REQUIRE(Finish(*Prepare(SpecOf("NF4", folder / "whole")), machine, recorder)
                .ok());
  }
  const auto whole = FilesOf(folder / "whole");
  const CheckpointRunSpec spec = SpecOf("NF4", folder / "parts");
  std::set<int> committed;
  std::string fingerprint;
  {
    Machine machine(2);
    const auto run = Prepare(spec);
    fingerprint = run->fingerprint();
    Recorder recorder;
    recorder.on_shard = [&] { run->Stop(); };
    CHECK(Finish(*run, machine, recorder).code() ==
          absl::StatusCode::kCancelled);
    committed = recorder.shards();
    REQUIRE(committed.size() == 1);
    CHECK_FALSE(fs::exists(folder / "parts/config.json"));
  }
  Machine machine(2);
  const auto run = Prepare(spec);
  CHECK(run->fingerprint() == fingerprint);
  Recorder recorder;
  REQUIRE(Finish(*run, machine, recorder, committed).ok());
  CHECK(recorder.shards().size() == 1);
  CHECK(recorder.bytes < run->size().bytes);
  CHECK(FilesOf(folder / "parts") == whole);
}

// Shards of another fingerprint are not gone on from.
TEST_CASE("a fingerprint is of the plan, the target and the calibration",
          "[run]") {
  TemporaryFolder folder;
  CheckpointRunSpec spec = SpecOf("W4A16-gptq", folder / "out");
  spec.calibration = folder / "moments.safetensors";
  fs::copy_file(kCalibration, spec.calibration);
  const std::string fingerprint = Prepare(spec)->fingerprint();
  CheckpointRunSpec other = spec;
  other.output = folder / "elsewhere";
  CHECK(Prepare(other)->fingerprint() == fingerprint);
  other = spec;
  other.quantization.set_preset("W3A16-gptq");
  CHECK(Prepare(other)->fingerprint() != fingerprint);
  other = spec;
  other.exclude = {"*.q_proj.*"};
  CHECK(Prepare(other)->fingerprint() != fingerprint);
  other = spec;
  other.target.set_engine(v1::VLLM);
  CHECK(Prepare(other)->fingerprint() != fingerprint);
  // Overrides, whether or not they change which tensors are quantized.
  std::set<std::string> fingerprints = {fingerprint};
  v1::Override rule;
  rule.set_tensors("*.down_proj.*");
  for (const char* preset : {"", "W8A16-gptq", "W3A16-gptq"}) {
    if (*preset == 0) {
      rule.set_skip(true);
    } else {
      rule.mutable_config()->set_preset(preset);
    }
    other = spec;
    other.overrides = {rule};
    CHECK(fingerprints.insert(Prepare(other)->fingerprint()).second);
  }
  fs::last_write_time(spec.calibration, fs::last_write_time(spec.calibration) +
                                            std::chrono::seconds(5));
  CHECK(Prepare(spec)->fingerprint() != fingerprint);
}

TEST_CASE("a run goes on over whatever another has left", "[run]") {
  TemporaryFolder folder;
  const CheckpointRunSpec spec = SpecOf("NF4", folder / "out");
  Machine machine(2);
  Recorder first;
  REQUIRE(Finish(*Prepare(spec), machine, first).ok());
  const auto whole = FilesOf(folder / "out");
  // Killed while it copied, after it was complete but for its name, and while
  // it wrote.
  for (const char* file : {"tokenizer.json", "generation_config.json"}) {
    if (fs::exists(folder / "out" + std::string("/") + file)) {
      fs::resize_file(folder / "out" + std::string("/") + file, 3);
    }
  }
  std::ofstream(folder / "out/config.json.tmp") << "{";
  Recorder second;
  REQUIRE(Finish(*Prepare(spec), machine, second, first.shards()).ok());
  CHECK(second.bytes == 0);
  CHECK(FilesOf(folder / "out") == whole);
}

TEST_CASE("a run may be stopped at any time", "[run]") {
  TemporaryFolder folder;
  Machine machine(2);
  for (int i = 0; i < kStops; ++i) {
    const std::string& preset = kPresets[kPresets.size() - 2];
    CheckpointRunSpec spec = SpecOf(preset, folder / std::to_string(i));
    if (IsCalibrated(preset)) spec.calibration = kCalibration;
    const auto run = Prepare(spec);
    Recorder recorder;
    End end;
    run->Start({machine.pool, machine.budget, machine.io}, {}, recorder,
               end.Taker());
    absl::SleepFor(absl::Milliseconds(3 * i * i));
    run->Stop();
    run->Stop();
    const absl::Status result = end.Wait();
    CHECK((result.ok() || absl::IsCancelled(result)));
    CHECK(machine.budget.reserved() == 0);
  }
}

TEST_CASE("memory: one batch after the other, or never", "[run]") {
  TemporaryFolder folder;
  CheckpointRunSpec spec = SpecOf(kPresets.back(), folder / "out");
  if (IsCalibrated(kPresets.back())) spec.calibration = kCalibration;
  spec.workers = 2;
  const auto run = Prepare(spec);
  {
    Machine machine(2, run->size().largest_batch_bytes);
    Recorder recorder;
    CHECK(Finish(*run, machine, recorder).ok());
  }
  Machine machine(2, run->size().largest_batch_bytes - 1);
  Recorder recorder;
  const absl::Status status = Finish(*Prepare(spec), machine, recorder);
  CHECK(ErrorReason(status) == "NO_WORKER_FITS");
}

// One linear with the inputs of the widest models, and their moments as a hole
// on the disk.
TEST_CASE("the need of the widest inputs is named", "[run]") {
  constexpr int64_t kInputs = 53248;
  constexpr char kName[] = "model.layers.0.mlp.down_proj.weight";
  TemporaryFolder folder;
  fs::create_directories(folder / "in");
  const std::vector<uint8_t> weight(2 * 16 * kInputs);
  REQUIRE(WriteSafetensors(folder / "in/model.safetensors",
                           {{kName, DType::kBF16, {16, kInputs}, weight}}, {})
              .ok());
  std::ofstream(folder / "in/config.json") << R"({"model_type": "other"})";
  const int64_t packed = 4 * SiteMoments::PackedElements(kInputs);
  const int64_t sums = packed + 4 * kInputs;
  const std::string header = absl::StrCat(
      R"({"__metadata__":{"inputs":"{\"a\":[\"model.layers.0.mlp.down_proj\"]}"},)",
      R"("a.second_moment":{"dtype":"F32","shape":[)", packed / 4,
      R"(],"data_offsets":[0,)", packed,
      R"(]},"a.abs_sum":{"dtype":"F32","shape":[)", kInputs,
      R"(],"data_offsets":[)", packed, ",", sums,
      R"(]},"a.token_count":{"dtype":"I64","shape":[1],"data_offsets":[)", sums,
      ",", sums + 8, "]}}");
  const uint64_t length = header.size();
  {
    std::ofstream out(folder / "moments.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), 8) << header;
    out.seekp(static_cast<std::streamoff>(8 + length) + sums);
    out.write("\3\0\0\0\0\0\0", 8);
  }
  CheckpointRunSpec spec = SpecOf("W4A16-gptq", folder / "out");
  spec.input = folder / "in";
  spec.calibration = folder / "moments.safetensors";
  const auto run = Prepare(spec);
  // Moments and a factor, which may be found in F64.
  const int64_t need = run->size().largest_batch_bytes;
  CHECK(need > 12 * kInputs * kInputs);
  CHECK(need < 12 * kInputs * kInputs + (int64_t{1} << 30));
  Machine machine(1);
  Recorder recorder;
  const absl::Status status = Finish(*run, machine, recorder);
  CHECK(ErrorReason(status) == "NO_WORKER_FITS");
  CHECK(ErrorMetadataValue(status, "needed") == absl::StrCat(need));
  CHECK_FALSE(fs::exists(folder / "out/model.safetensors"));
}

TEST_CASE("what cannot run is refused before it begins", "[run]") {
  TemporaryFolder folder;
  const auto reason = [](const CheckpointRunSpec& spec) {
    return ErrorReason(CheckpointRun::Prepare(spec).status());
  };
  CheckpointRunSpec spec = SpecOf("NF4", folder / "out");
  spec.input = folder / "nothing";
  CHECK(reason(spec) == "SOURCE_NOT_FOUND");
  spec = SpecOf("W4A16-gptq", folder / "out");
  CHECK(reason(spec) == "CALIBRATION_MISSING");
  spec.calibration = kModel + "/model-00001-of-00002.safetensors";
  CHECK(reason(spec) == "BAD_CALIBRATION");
  spec = SpecOf("NF4", folder / "out");
  spec.target.set_engine(v1::ENGINE_GPTQMODEL);
  CHECK(reason(spec) == "TARGET_REFUSED");
  spec = SpecOf("no-such-preset", folder / "out");
  CHECK(reason(spec) == "BAD_FIELD");
  CHECK_FALSE(fs::exists(folder / "out"));
  fs::create_directory(folder / "in");
  spec = SpecOf("NF4", folder / "out");
  spec.input = folder / "in";
  const std::vector<uint8_t> weight(2 * 64 * 64);
  for (const size_t length : {size_t{512}, size_t{513}}) {
    const std::string name =
        "model.layers.0.mlp." + std::string(length - 26, 'n') + ".weight";
    REQUIRE(name.size() == length);
    REQUIRE(WriteSafetensors(folder / "in/model.safetensors",
                             {{name, DType::kBF16, {64, 64}, weight}}, {})
                .ok());
    CHECK(reason(spec) == (length == 512 ? "" : "BAD_CHECKPOINT"));
  }
}

// A model of `count` small linears whose names have 500 bytes, `filler` among
// them.
void WriteLongNames(const std::string& folder, int count, char filler = 'n',
                    const std::map<std::string, std::string>& metadata = {}) {
  fs::create_directories(folder);
  std::ofstream(folder + "/config.json") << R"({"model_type": "other"})";
  const std::vector<uint8_t> weight(2 * 16 * 64);
  std::vector<SafetensorsItem> items;
  for (int i = 0; i < count; ++i) {
    std::string name = absl::StrCat("model.layers.", i, ".mlp.");
    name += std::string(493 - name.size(), filler) + ".weight";
    items.push_back({std::move(name), DType::kBF16, {16, 64}, weight});
  }
  REQUIRE(
      WriteSafetensors(folder + "/model.safetensors", items, metadata).ok());
}

void CheckTooManyTensors(const CheckpointRunSpec& spec, int count) {
  const absl::Status status = CheckpointRun::Prepare(spec).status();
  CHECK(ErrorReason(status) == "BAD_CHECKPOINT");
  CHECK(std::string(status.message())
            .find(absl::StrCat(
                "model.safetensors: got ", count,
                " tensors, which become a header of at least")) == 0);
}

// Each is 19 tensors of hqq's.
TEST_CASE("a shard whose header could not be written is refused", "[run]") {
  TemporaryFolder folder;
  CheckpointRunSpec spec = SpecOf("HQQ-4", folder / "out");
  spec.input = folder / "in";
  spec.error_report = false;
  WriteLongNames(spec.input, 1650);
  CheckTooManyTensors(spec, 1650);
  WriteLongNames(spec.input, 1400);
  Machine machine(2);
  Recorder recorder;
  CHECK(Finish(*Prepare(spec), machine, recorder).ok());
  CHECK(fs::exists(folder / "out/model.safetensors"));
}

// Six of bitsandbytes' with nested absmax, four of compressed-tensors' with
// zero points, more bytes where a name has escapes or the file has metadata.
TEST_CASE("what a header holds is counted in full", "[run]") {
  TemporaryFolder folder;
  CheckpointRunSpec spec = SpecOf("NF4-dq", folder / "out");
  spec.input = folder / "in";
  spec.error_report = false;
  SECTION("of a nested absmax") {
    WriteLongNames(spec.input, 5500);
    CheckTooManyTensors(spec, 5500);
    spec.quantization.set_preset("NF4");
    CHECK(CheckpointRun::Prepare(spec).ok());
  }
  SECTION("of zero points") {
    WriteLongNames(spec.input, 8500);
    spec.quantization.clear_preset();
    spec.quantization.mutable_rtn()->set_group_size(64);
    spec.quantization.mutable_rtn()->set_symmetric(true);
    CHECK(CheckpointRun::Prepare(spec).ok());
    spec.quantization.mutable_rtn()->set_symmetric(false);
    CheckTooManyTensors(spec, 8500);
  }
  SECTION("of an override") {
    WriteLongNames(spec.input, 8500);
    spec.quantization.clear_preset();
    spec.quantization.mutable_rtn()->set_group_size(64);
    spec.quantization.mutable_rtn()->set_symmetric(true);
    v1::Override* const rule = &spec.overrides.emplace_back();
    rule->set_tensors("*.mlp.*");
    rule->mutable_config()->mutable_rtn()->set_group_size(64);
    rule->mutable_config()->mutable_rtn()->set_symmetric(false);
    CheckTooManyTensors(spec, 8500);
  }
  SECTION("of escapes") {
    WriteLongNames(spec.input, 2000);
    CHECK(CheckpointRun::Prepare(spec).ok());
    WriteLongNames(spec.input, 2000, '\x01');
    CheckTooManyTensors(spec, 2000);
  }
  SECTION("of metadata") {
    WriteLongNames(spec.input, 4500);
    CHECK(CheckpointRun::Prepare(spec).ok());
    WriteLongNames(spec.input, 4500, 'n', {{"a", std::string(4 << 20, 'x')}});
    CheckTooManyTensors(spec, 4500);
  }
}

TEST_CASE("blobs are cut into shards whose headers can be written", "[run]") {
  TemporaryFolder folder;
  auto store = OpenDirBlobStore(folder / "s", int64_t{1} << 30);
  REQUIRE(store.ok());
  std::vector<RunTensor> tensors;
  for (int i = 0; i < 3000; ++i) {
    tensors.push_back({absl::StrCat(std::string(400, 'n'), 1000 + i),
                       DType::kBF16,
                       {1, 64},
                       "sha256:"});
  }
  const BlobInput input(**store, tensors, int64_t{4} << 30);
  std::vector<int64_t> bytes(static_cast<size_t>(input.shards()));
  for (const PlannedTensor& tensor : input.tensors()) {
    bytes[static_cast<size_t>(tensor.shard)] +=
        MostHeaderBytes(tensor.entry.name);
  }
  REQUIRE(bytes.size() == 3);
  for (const int64_t shard : bytes) CHECK(shard < kMaxHeaderBytes);
  CHECK(bytes[0] > kMaxHeaderBytes / 2);
}

TEST_CASE("a run fails for what happens while it runs", "[run]") {
  TemporaryFolder folder;
  Machine machine(2);
  fs::copy(kModel, folder / "model");
  CheckpointRunSpec spec = SpecOf("NF4", folder / "out");
  spec.input = folder / "model";
  SECTION("a file changes") {
    const auto run = Prepare(spec);
    const fs::path shard = folder / "model/model-00001-of-00002.safetensors";
    fs::last_write_time(shard,
                        fs::last_write_time(shard) + std::chrono::seconds(5));
    Recorder recorder;
    CHECK(ErrorReason(Finish(*run, machine, recorder)) == "SOURCE_CHANGED");
    CHECK(Prepare(spec)->fingerprint() != run->fingerprint());
  }
  SECTION("a file behind a link changes") {
    const fs::path shard = folder / "model/model-00001-of-00002.safetensors";
    fs::rename(shard, folder / "blob");
    fs::create_symlink("../blob", shard);
    const auto run = Prepare(spec);
    fs::last_write_time(folder / "blob", fs::last_write_time(folder / "blob") +
                                             std::chrono::seconds(5));
    Recorder recorder;
    CHECK(ErrorReason(Finish(*run, machine, recorder)) == "SOURCE_CHANGED");
    CHECK(Prepare(spec)->fingerprint() != run->fingerprint());
  }
  SECTION("a carried file becomes a link out of the read root") {
    const auto roots = UriRoots::Open({folder / "model"}, {});
    REQUIRE(roots.ok());
    const auto input =
        roots->ResolveExisting("p", "file://" + (folder / "model"));
    REQUIRE(input.ok());
    spec.input_opener = input->opener;
    const auto run = Prepare(spec);
    fs::rename(folder / "model/tokenizer.json", folder / "secret");
    fs::create_symlink("../secret", folder / "model/tokenizer.json");
    Recorder recorder;
    CHECK(ErrorReason(Finish(*run, machine, recorder)) == "URI_NOT_ALLOWED");
    CHECK_FALSE(fs::exists(folder / "out/tokenizer.json"));
    CHECK(ErrorReason(CheckpointRun::Prepare(spec).status()) ==
          "URI_NOT_ALLOWED");
    return;
  }
  SECTION("a file ends early") {
    const auto run = Prepare(spec);
    fs::resize_file(folder / "model/model-00002-of-00002.safetensors", 100'000);
    Recorder recorder;
    const absl::Status status = Finish(*run, machine, recorder);
    CHECK(status.code() == absl::StatusCode::kAborted);
    CHECK(ErrorReason(status) == "SOURCE_CHANGED");
  }
  SECTION("the observer has enough") {
    Recorder recorder;
    recorder.fail_tensor = RpcError(absl::StatusCode::kAborted, "ENOUGH", "x");
    CHECK(ErrorReason(Finish(*Prepare(spec), machine, recorder)) == "ENOUGH");
  }
  SECTION("the output is no directory") {
    std::ofstream(folder / "out") << "a file";
    Recorder recorder;
    CHECK(ErrorReason(Finish(*Prepare(spec), machine, recorder)) ==
          "OUTPUT_FAILED");
  }
  SECTION("a committed shard is gone") {
    Recorder recorder;
    CHECK(ErrorReason(Finish(*Prepare(spec), machine, recorder, {0})) ==
          "OUTPUT_FAILED");
  }
  CHECK_FALSE(fs::exists(folder / "out/config.json"));
}

}  // namespace
}  // namespace qs::testing
