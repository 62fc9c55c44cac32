// Runs whose calibration is sealed site by site while they work: the same bytes
// in any order, nothing held while all that is left waits, and every race of a
// seal with the beginning, the last batch and the end.
#include <algorithm>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "quant/calibration/calibration_file.h"
#include "service/run/batch_queue.h"
#include "service/server/error.h"
#include "service/store/dir_blob_store.h"
#include "tests/quant/calibration_data.h"
#include "tests/service/run_harness.h"
#include "tests/testing/sanitized.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

namespace v1 = quant::v1;

constexpr int64_t kHidden = 128;
constexpr int kLayers = 2;
// So many that a layer is more than one group.
constexpr int kExperts = 6;
constexpr int kShards = 8;
constexpr char kConfig[] =
    R"({"model_type": "mixtral", "vocab_size": 64, "hidden_size": 128})";
using Presets = std::vector<std::string>;
constexpr int kSeeds = kSanitized ? 3 : 4;
const Presets kPresets =
    kSanitized ? Presets{"W4A16-gptq"} : Presets{"W4A16-gptq", "W4A16-awq"};
constexpr v1::Profile kProfile = kSanitized ? v1::REFERENCE : v1::BEST;

std::string Layer(int layer, const std::string& rest) {
  return absl::StrCat("model.layers.", layer, ".", rest);
}
std::string Expert(int layer, int expert, const char* w) {
  return Layer(layer,
               absl::StrCat("block_sparse_moe.experts.", expert, ".", w));
}

// The first layer's attention is recorded once a consumer. Of the experts some
// saw enough tokens; those that saw few, or none, need what the others saw.
std::vector<RandomSite> SitesOfModel() {
  constexpr int64_t kTokens[kExperts] = {600, 20, 0, 600, 20, 600};
  std::vector<RandomSite> sites;
  uint32_t seed = 1;
  const auto add = [&](const std::string& name, int64_t tokens,
                       std::vector<std::string> modules, uint32_t of) {
    sites.push_back({name, kHidden, tokens, std::move(modules), of});
  };
  for (int l = 0; l < kLayers; ++l) {
    const std::string name = absl::StrCat("l", l, ".");
    const std::string self = Layer(l, "self_attn.");
    if (l == 0) {
      for (const char* w : {"k", "q", "v"}) {
        add(name + w, 200, {self + w + "_proj"}, 99);
      }
    } else {
      add(name + "qkv", 200,
          {self + "q_proj", self + "k_proj", self + "v_proj"}, ++seed);
    }
    add(name + "o", 200, {self + "o_proj"}, ++seed);
    for (int e = 0; e < kExperts; ++e) {
      add(absl::StrCat(name, "in", e), kTokens[e],
          {Expert(l, e, "w1"), Expert(l, e, "w3")}, ++seed);
      add(absl::StrCat(name, "mid", e), kTokens[e], {Expert(l, e, "w2")},
          ++seed);
    }
  }
  std::sort(sites.begin(), sites.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return sites;
}

// A small mixture of experts as blobs, in some shards, with its calibration.
class Model {
 public:
  Model() {
    auto store = OpenDirBlobStore(folder_ / "blobs", int64_t{1} << 30);
    REQUIRE(store.ok());
    store_ = *std::move(store);
    for (int l = 0; l < kLayers; ++l) {
      for (const char* w : {"k", "o", "q", "v"}) {
        Add(Layer(l, absl::StrCat("self_attn.", w, "_proj.weight")), kHidden);
      }
      for (int e = 0; e < kExperts; ++e) {
        for (const char* w : {"w1", "w2", "w3"}) {
          Add(Expert(l, e, w) + ".weight", kHidden);
        }
      }
      Add(Layer(l, "block_sparse_moe.gate.weight"), kExperts);
      Add(Layer(l, "input_layernorm.weight"), 0);
      Add(Layer(l, "post_attention_layernorm.weight"), 0);
    }
    UseSites(SitesOfModel());
  }

  void UseSites(const std::vector<RandomSite>& sites) {
    static int files = 0;
    path_ = WriteRandom(folder_ / absl::StrCat("c", ++files), sites);
    auto file = CalibrationFile::Open(path_);
    REQUIRE(file.ok());
    file_ = std::make_shared<const CalibrationFile>(*std::move(file));
  }

  CheckpointRunSpec Spec(const std::string& preset, const std::string& output) {
    CheckpointRunSpec spec;
    spec.tensors = tensors_;
    spec.blobs = store_.get();
    spec.shard_bytes = bytes_ / kShards;
    spec.config_json = kConfig;
    spec.output = folder_ / output;
    spec.quantization.set_preset(preset);
    spec.quantization.set_profile(kProfile);
    return spec;
  }
  const std::string& path() const { return path_; }
  const std::shared_ptr<const CalibrationFile>& file() const { return file_; }
  std::string Out(const std::string& name) const { return folder_ / name; }

  // What a run gives that finds all of it sealed.
  std::map<std::string, std::string> Whole(const std::string& preset) {
    CheckpointRunSpec spec = Spec(preset, "whole-" + preset);
    spec.calibration = path_;
    Machine machine(2);
    Recorder recorder;
    const absl::Status status = Finish(*Prepare(spec), machine, recorder);
    INFO(status.ToString());
    REQUIRE(status.ok());
    return FilesOf(spec.output);
  }

 private:
  // [rows, kHidden], or [kHidden] of 0 rows.
  void Add(const std::string& name, int64_t rows) {
    std::mt19937 random(static_cast<uint32_t>(tensors_.size()));
    std::normal_distribution<float> normal;
    std::vector<float> values(
        static_cast<size_t>(std::max<int64_t>(rows, 1) * kHidden));
    for (float& value : values) value = normal(random);
    const size_t bytes = 4 * values.size();
    auto writer = store_->Create(absl::StrCat("u", tensors_.size()),
                                 static_cast<int64_t>(bytes));
    REQUIRE(writer.ok());
    REQUIRE(
        (*writer)
            ->Append({reinterpret_cast<const uint8_t*>(values.data()), bytes})
            .ok());
    const auto digest = (*writer)->Commit("");
    REQUIRE(digest.ok());
    const std::vector<int64_t> shape =
        rows == 0 ? std::vector<int64_t>{kHidden}
                  : std::vector<int64_t>{rows, kHidden};
    tensors_.push_back({name, DType::kF32, shape, *digest});
    bytes_ += static_cast<int64_t>(bytes);
  }

  TemporaryFolder folder_;
  std::unique_ptr<BlobStore> store_;
  std::vector<RunTensor> tensors_;
  int64_t bytes_ = 0;
  std::string path_;
  std::shared_ptr<const CalibrationFile> file_;
};

// A calibration's file of which some sites are not sealed yet.
class Moments final : public CalibrationSource {
 public:
  Moments(std::shared_ptr<const CalibrationFile> file,
          const std::set<size_t>& sealed)
      : file_(std::move(file)), sites_(file_->sites()) {
    for (size_t i = 0; i < sites_.size(); ++i) {
      if (sealed.contains(i)) continue;
      sites_[i].open = true;
      sites_[i].tokens = 4 * sites_[i].inputs;
    }
  }
  const std::vector<CalibrationSite>& sites() const override { return sites_; }
  absl::StatusOr<SiteMoments> Read(size_t site) const override {
    if (sites_[site].open) return absl::FailedPreconditionError("open");
    return file_->Read(site);
  }
  std::string Identity() const override { return "moments of a test"; }
  absl::Status Error(const std::string& text) const override {
    return file_->Error(text);
  }

 private:
  const std::shared_ptr<const CalibrationFile> file_;
  std::vector<CalibrationSite> sites_;
};

class Waiter final : public Recorder {
 public:
  explicit Waiter(Machine& machine) : machine_(machine) {}
  void OnWaiting(int64_t tensors, bool parked) override {
    absl::MutexLock lock(&mutex_);
    tensors_ = tensors;
    parked_ = parked;
    if (!parked) return;
    ++times_parked_;
    CHECK(tensors > 0);
    // Nobody else is at the machine.
    CHECK(machine_.budget.reserved() == 0);
    CHECK(machine_.budget.waiting() == 0);
    CHECK(machine_.pool.queued() == 0);
  }
  void WaitParked() {
    absl::MutexLock lock(&mutex_);
    const auto parked = [this] { return parked_; };
    REQUIRE(
        mutex_.AwaitWithTimeout(absl::Condition(&parked), absl::Seconds(60)));
  }
  // From now on only a later call counts.
  void Forget() {
    absl::MutexLock lock(&mutex_);
    parked_ = false;
  }
  int64_t tensors() {
    absl::MutexLock lock(&mutex_);
    return tensors_;
  }
  int times_parked() {
    absl::MutexLock lock(&mutex_);
    return times_parked_;
  }

 private:
  Machine& machine_;
  absl::Mutex mutex_;
  int64_t tensors_ = -1;
  bool parked_ = false;
  int times_parked_ = 0;
};

// A run that goes on while the test seals.
struct Running {
  Running(const CheckpointRunSpec& spec, const std::set<int>& committed = {},
          int workers = 2)
      : machine(workers), waiter(machine), run(Prepare(spec)) {
    run->Start({machine.pool, machine.budget, machine.io}, committed, waiter,
               end.Taker());
  }
  ~Running() {
    run->Stop();
    end.Wait().IgnoreError();
  }
  absl::Status Wait() {
    absl::Status status = end.Wait();
    CHECK(machine.budget.reserved() == 0);
    CHECK(machine.budget.waiting() == 0);
    return status;
  }

  Machine machine;
  Waiter waiter;
  std::shared_ptr<CheckpointRun> run;
  End end;
};

std::vector<size_t> Shuffled(size_t count, std::mt19937& random) {
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  return order;
}

// Places of the sites whose names begin so.
std::set<size_t> Named(const Model& model, const std::string& prefix) {
  std::set<size_t> places;
  for (size_t i = 0; i < model.file()->sites().size(); ++i) {
    if (model.file()->sites()[i].name.rfind(prefix, 0) == 0) places.insert(i);
  }
  return places;
}

void Seal(Running& running, const Model& model,
          const std::set<size_t>& sealed) {
  running.run->SitesSealed(std::make_shared<Moments>(model.file(), sealed));
}

TEST_CASE("sealed in any order, the result is the same", "[open_sites]") {
  Model model;
  for (const std::string& preset : kPresets) {
    const auto whole = model.Whole(preset);
    REQUIRE(whole.size() >= kShards);
    for (int seed = 0; seed < kSeeds; ++seed) {
      INFO(preset << " seed " << seed);
      std::mt19937 random(static_cast<uint32_t>(seed));
      const size_t count = model.file()->sites().size();
      const std::vector<size_t> order = Shuffled(count, random);
      std::set<size_t> sealed(order.begin(), order.begin() + random() % count);
      CheckpointRunSpec spec =
          model.Spec(preset, absl::StrCat(preset, "-", seed));
      spec.moments = std::make_shared<Moments>(model.file(), sealed);
      Running running(spec, {}, 1 + seed % 3);
      for (size_t i = sealed.size(); i < count; ++i) {
        if (random() % 3 == 0) running.waiter.WaitParked();
        if (random() % 3 == 0) absl::SleepFor(absl::Milliseconds(random() % 4));
        running.waiter.Forget();
        sealed.insert(order[i]);
        Seal(running, model, sealed);
      }
      const absl::Status status = running.Wait();
      INFO(status.ToString());
      REQUIRE(status.ok());
      CHECK(running.waiter.tensors() == 0);
      CHECK(static_cast<int64_t>(running.waiter.reports().size()) ==
            running.run->size().tensors);
      CHECK(FilesOf(spec.output) == whole);
    }
  }
}

TEST_CASE("what is sealed first is committed first", "[open_sites]") {
  Model model;
  CheckpointRunSpec spec = model.Spec("W4A16-gptq", "out");
  spec.moments = std::make_shared<Moments>(model.file(), std::set<size_t>());
  Running running(spec);
  CHECK(running.run->open_sites().size() == model.file()->sites().size());
  CHECK_FALSE(running.run->first_sites().empty());
  running.waiter.WaitParked();
  const int64_t tensors = running.run->size().tensors;
  CHECK(running.waiter.tensors() == tensors);
  CHECK(running.waiter.shards().empty());
  running.waiter.Forget();
  Seal(running, model, Named(model, "l0."));
  running.waiter.WaitParked();
  CHECK(running.waiter.tensors() == tensors / 2);
  CHECK(running.waiter.shards().size() >= kShards / 2 - 1);
  CHECK(running.waiter.shards().size() <= kShards / 2 + 1);
  const auto reports = running.waiter.reports();
  CHECK(static_cast<int64_t>(reports.size()) == tensors / 2);
  for (const auto& [name, report] : reports) {
    CHECK(name.rfind("model.layers.0.", 0) == 0);
  }
  std::set<size_t> all = Named(model, "");
  Seal(running, model, all);
  CHECK(running.Wait().ok());
  CHECK(running.waiter.times_parked() == 2);
}

TEST_CASE("an expert waits for its pool if it saw few tokens", "[open_sites]") {
  Model model;
  CheckpointRunSpec spec = model.Spec("W4A16-gptq", "out");
  spec.quantization.clear_preset();
  spec.quantization.mutable_gptq()->set_awq_scaling(false);
  spec.moments = std::make_shared<Moments>(model.file(), std::set<size_t>());
  Running running(spec);
  running.waiter.WaitParked();
  const int64_t tensors = running.waiter.tensors();
  // The last one completes the pool.
  std::set<size_t> sealed;
  std::vector<int64_t> done;
  for (const char* name :
       {"l0.mid1", "l0.mid0", "l0.mid2", "l0.mid3", "l0.mid4", "l0.mid5"}) {
    running.waiter.Forget();
    const std::set<size_t> more = Named(model, name);
    sealed.insert(more.begin(), more.end());
    Seal(running, model, sealed);
    running.waiter.WaitParked();
    done.push_back(tensors - running.waiter.tensors());
  }
  CHECK(done == std::vector<int64_t>{0, 1, 1, 2, 2, 6});
}

TEST_CASE("a run that waits goes on from its shards", "[open_sites]") {
  Model model;
  const auto whole = model.Whole("W4A16-gptq");
  CheckpointRunSpec spec = model.Spec("W4A16-gptq", "out");
  std::set<size_t> sealed = Named(model, "l0.");
  std::set<int> committed;
  std::string fingerprint;
  {
    spec.moments = std::make_shared<Moments>(model.file(), sealed);
    Running running(spec);
    running.waiter.WaitParked();
    running.run->Stop();
    CHECK(absl::IsCancelled(running.Wait()));
    committed = running.waiter.shards();
    REQUIRE(committed.size() >= 3);
    fingerprint = running.run->fingerprint();
  }
  // What is sealed meanwhile changes no fingerprint.
  for (const size_t site : Named(model, "l1.in")) sealed.insert(site);
  spec.moments = std::make_shared<Moments>(model.file(), sealed);
  Running running(spec, committed);
  CHECK(running.run->fingerprint() == fingerprint);
  running.waiter.WaitParked();
  for (const int shard : committed) {
    CHECK_FALSE(running.waiter.shards().contains(shard));
  }
  Seal(running, model, Named(model, ""));
  CHECK(running.Wait().ok());
  CHECK(FilesOf(spec.output) == whole);
}

TEST_CASE("stopped at any time, also while it waits", "[open_sites]") {
  Model model;
  for (int seed = 0; seed < kSeeds; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(static_cast<uint32_t>(seed));
    const size_t count = model.file()->sites().size();
    const std::vector<size_t> order = Shuffled(count, random);
    std::set<size_t> sealed(order.begin(), order.begin() + random() % count);
    CheckpointRunSpec spec =
        model.Spec("W4A16-gptq", absl::StrCat("out", seed));
    spec.moments = std::make_shared<Moments>(model.file(), sealed);
    Running running(spec);
    std::thread sealer([&] {
      for (size_t i = sealed.size(); i < count; ++i) {
        sealed.insert(order[i]);
        Seal(running, model, sealed);
      }
    });
    absl::SleepFor(absl::Milliseconds(random() % 30));
    running.run->Stop();
    sealer.join();
    const absl::Status status = running.Wait();
    INFO(status.ToString());
    CHECK((status.ok() || absl::IsCancelled(status)));
    // Nothing comes of what is told afterwards.
    Seal(running, model, Named(model, ""));
  }
}

TEST_CASE("sealed before it begins, and told out of order", "[open_sites]") {
  Model model;
  const auto whole = model.Whole("W4A16-gptq");
  CheckpointRunSpec spec = model.Spec("W4A16-gptq", "out");
  spec.moments = std::make_shared<Moments>(model.file(), std::set<size_t>());
  const auto run = Prepare(spec);
  run->SitesSealed(std::make_shared<Moments>(model.file(), Named(model, "")));
  // What is older is left aside.
  run->SitesSealed(std::make_shared<Moments>(model.file(), Named(model, "l0")));
  Machine machine(2);
  Waiter waiter(machine);
  CHECK(Finish(*run, machine, waiter).ok());
  CHECK(waiter.times_parked() == 0);
  CHECK(waiter.tensors() == 0);
  CHECK(FilesOf(spec.output) == whole);
}

TEST_CASE("what only the numbers tell ends the run", "[open_sites]") {
  Model model;
  std::vector<RandomSite> sites = SitesOfModel();
  const auto named = [&](const std::string& name) -> RandomSite& {
    return *std::find_if(sites.begin(), sites.end(),
                         [&](const RandomSite& s) { return s.name == name; });
  };
  SECTION("no tokens, and no pool") { named("l1.o").tokens = 0; }
  SECTION("consumers of one input that read different ones") {
    named("l0.k").seed = 7;
  }
  model.UseSites(sites);
  CheckpointRunSpec spec = model.Spec("W4A16-gptq", "out");
  spec.moments = std::make_shared<Moments>(model.file(), std::set<size_t>());
  Running running(spec);
  running.waiter.WaitParked();
  Seal(running, model, Named(model, ""));
  const absl::Status status = running.Wait();
  INFO(status.ToString());
  CHECK(ErrorReason(status) == "BAD_CALIBRATION");
  // As one that found it so.
  spec.moments = std::make_shared<Moments>(model.file(), Named(model, ""));
  CHECK(CheckpointRun::Prepare(spec).status() == status);
}

TEST_CASE("a run that waits leaves its memory to others", "[open_sites]") {
  Model model;
  CheckpointRunSpec spec = model.Spec("W4A16-gptq", "out");
  // Half of every layer: outputs wait for the rest of their shards.
  std::set<size_t> sealed;
  for (const char* name : {"l0.o", "l0.in", "l1.qkv", "l1.mid"}) {
    for (const size_t site : Named(model, name)) sealed.insert(site);
  }
  spec.moments = std::make_shared<Moments>(model.file(), sealed);
  spec.quantization.clear_preset();
  spec.quantization.mutable_gptq()->set_awq_scaling(false);
  Running running(spec);
  running.waiter.WaitParked();
  CHECK_FALSE(running.waiter.reports().empty());
  {
    // All of the memory, for as long as it likes.
    const auto taken =
        running.machine.budget.TryReserve(running.machine.budget.capacity());
    REQUIRE(taken);
    Seal(running, model, Named(model, ""));
    absl::SleepFor(absl::Milliseconds(20));
  }
  CHECK(running.Wait().ok());
  spec.output = model.Out("filed");
  spec.moments = nullptr;
  spec.calibration = model.path();
  Recorder recorder;
  REQUIRE(Finish(*Prepare(spec), running.machine, recorder).ok());
  CHECK(FilesOf(model.Out("out")) == FilesOf(spec.output));
}

}  // namespace
}  // namespace qs::testing
