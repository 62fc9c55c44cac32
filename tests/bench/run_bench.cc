// run_bench [--bytes N] [--runs N] [--workers N] [--folder PATH]: a checkpoint
// directory to a checkpoint directory, as the job of a server does it and as a
// plain program would: read, quantize in memory, write each shard and sync it.
// One JSON line a row:
//   {"name", "bytes", "seconds" (median), "plain_seconds", "ratio" (of the
//    medians), "least_seconds", "plain_least_seconds", "gb_per_s", "workers",
//    "runs"}
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/posix_file.h"
#include "quant/tensor_quantizer.h"
#include "service/run/checkpoint_run.h"
#include "service/server/server.h"
#include "service/server/spec_convert.h"

namespace qs {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Settings {
  int64_t bytes = int64_t{1} << 30;
  int runs = 5;
  int workers = 2;
  std::string folder = fs::temp_directory_path().string();
};

constexpr int64_t kCols = 4096;
constexpr int kShards = 4;
constexpr int kTensorsPerShard = 4;

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

std::string ShardName(int shard) {
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05d-of-%05d.safetensors", shard + 1,
                kShards);
  return name;
}

// Bell-shaped bf16 weights, of linears that any architecture has.
void MakeCheckpoint(const std::string& folder, int64_t bytes) {
  const int64_t rows = bytes / (kShards * kTensorsPerShard) / kCols / 2;
  std::vector<uint16_t> values(static_cast<size_t>(rows * kCols));
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02F);
  for (uint16_t& value : values) {
    const float x = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    value = static_cast<uint16_t>(bits >> 16);
  }
  const std::span<const uint8_t> data(
      reinterpret_cast<const uint8_t*>(values.data()), values.size() * 2);
  std::map<std::string, std::string> weight_map;
  for (int s = 0; s < kShards; ++s) {
    std::vector<SafetensorsItem> items;
    for (int t = 0; t < kTensorsPerShard; ++t) {
      const std::string name = "model.layers." +
                               std::to_string(s * kTensorsPerShard + t) +
                               ".mlp.down_proj.weight";
      items.push_back({name, DType::kBF16, {rows, kCols}, data});
      weight_map[name] = ShardName(s);
    }
    Require(WriteSafetensors(folder + "/" + ShardName(s), std::move(items)));
  }
  std::ofstream(folder + "/model.safetensors.index.json")
      << SafetensorsIndexJson(weight_map, bytes);
  std::ofstream(folder + "/config.json")
      << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})";
}

quant::v1::QuantizationConfig Nf4() {
  quant::v1::QuantizationConfig config;
  config.set_preset("NF4");
  config.set_profile(quant::v1::REFERENCE);
  return config;
}

class Quiet final : public CheckpointRunObserver {
 public:
  void OnBytes(int64_t) override {}
  absl::Status OnTensor(int, const quant::v1::TensorReport&,
                        const QuantizedTensor&) override {
    return absl::OkStatus();
  }
  absl::Status OnShard(int, const std::string&, int64_t) override {
    return absl::OkStatus();
  }
};

void RunJob(const std::string& input, const std::string& output, int workers) {
  ByteBudget budget(int64_t{4} << 30);
  WorkerPool pool(NewCpuBackends(workers, 1));
  IoPool io(2, 64);
  CheckpointRunSpec spec;
  spec.input = input;
  spec.output = output;
  spec.quantization = Nf4();
  spec.error_report = false;
  auto run = CheckpointRun::Prepare(spec);
  Require(run.status());
  Quiet quiet;
  absl::Notification done;
  (*run)->Start({pool, budget, io}, {}, quiet, [&](const absl::Status& status) {
    Require(status);
    done.Notify();
  });
  done.WaitForNotification();
}

QuantizedTensor QuantizePlain(const QuantSpec& spec,
                              const CheckpointTensor& tensor,
                              const SafetensorsFile& file, const UniqueFd& fd,
                              Backend& backend) {
  QuantizeOptions options;
  options.error_report = false;
  options.tiled_input = true;
  auto made = TensorQuantizer::Create(
      spec, {tensor.entry.name, tensor.entry.dtype, tensor.entry.shape},
      options);
  Require(made.status());
  int64_t begin = 0;
  for (int64_t t = 0; t < (*made)->num_tiles(); ++t) {
    const int64_t end = (*made)->tile_input_end(t);
    const auto input = (*made)->BeginTileInput(t);
    Require(input.status());
    Require(ReadAt(fd, file.path(),
                   file.header().data_offset + tensor.entry.begin + begin,
                   {*input, static_cast<size_t>(end - begin)}));
    Require((*made)->RunTile(t, backend));
    begin = end;
  }
  auto result = (*made)->Finish(backend);
  Require(result.status());
  return *std::move(result);
}

void RunPlain(const std::string& input, const std::string& output,
              int workers) {
  const auto spec = SpecFromProto(Nf4());
  Require(spec.status());
  const auto checkpoint = Checkpoint::Open(input);
  Require(checkpoint.status());
  fs::create_directories(output);
  const auto backends = NewCpuBackends(workers, 1);
  for (int s = 0; s < kShards; ++s) {
    const SafetensorsFile& file = checkpoint->shards()[static_cast<size_t>(s)];
    const auto fd = OpenRegularFile(file.path());
    Require(fd.status());
    std::vector<const CheckpointTensor*> tensors;
    for (const CheckpointTensor& tensor : checkpoint->tensors()) {
      if (tensor.shard == s) tensors.push_back(&tensor);
    }
    std::vector<QuantizedTensor> results(tensors.size());
    std::atomic<size_t> next = 0;
    {
      std::vector<std::jthread> threads;
      for (const auto& backend : backends) {
        threads.emplace_back([&, backend = backend.get()] {
          for (size_t t = next++; t < tensors.size(); t = next++) {
            results[t] = QuantizePlain(*spec, *tensors[t], file, *fd, *backend);
          }
        });
      }
    }
    std::vector<SafetensorsItem> items;
    for (const QuantizedTensor& result : results) {
      for (const OutputTensor& part : result.tensors) {
        items.push_back(
            {part.name,
             part.dtype,
             part.shape,
             {part.data.data(), static_cast<size_t>(part.data.size())}});
      }
    }
    Require(WriteSafetensors(output + "/" + ShardName(s), std::move(items)));
  }
}

template <typename Body>
double Seconds(const Body& body) {
  const Clock::time_point start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int Main(const Settings& settings) {
  std::string work = settings.folder + "/run_bench-XXXXXX";
  if (::mkdtemp(work.data()) == nullptr) return 1;
  fs::create_directories(work + "/in");
  MakeCheckpoint(work + "/in", settings.bytes);
  std::vector<double> job;
  std::vector<double> plain;
  for (int i = 0; i < settings.runs; ++i) {
    plain.push_back(Seconds(
        [&] { RunPlain(work + "/in", work + "/plain", settings.workers); }));
    job.push_back(Seconds(
        [&] { RunJob(work + "/in", work + "/job", settings.workers); }));
    fs::remove_all(work + "/plain");
    fs::remove_all(work + "/job");
  }
  fs::remove_all(work);
  std::sort(job.begin(), job.end());
  std::sort(plain.begin(), plain.end());
  const double median = job[job.size() / 2];
  const double plain_median = plain[plain.size() / 2];
  std::printf(
      "{\"name\": \"NF4/directory\", \"bytes\": %lld, \"seconds\": %.4f, "
      "\"plain_seconds\": %.4f, \"ratio\": %.3f, \"least_seconds\": %.4f, "
      "\"plain_least_seconds\": %.4f, \"gb_per_s\": %.3f, \"workers\": %d, "
      "\"runs\": %d}\n",
      static_cast<long long>(settings.bytes), median, plain_median,
      median / plain_median, job[0], plain[0],
      static_cast<double>(settings.bytes) / median / 1e9, settings.workers,
      settings.runs);
  return 0;
}

}  // namespace
}  // namespace qs

int main(int argc, char** argv) {
  qs::Server::PrepareProcess(/*tcp_read_chunks=*/false);
  qs::Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--bytes") settings.bytes = std::atoll(argv[i + 1]);
    if (flag == "--runs") settings.runs = std::atoi(argv[i + 1]);
    if (flag == "--workers") settings.workers = std::atoi(argv[i + 1]);
    if (flag == "--folder") settings.folder = argv[i + 1];
  }
  return qs::Main(settings);
}
