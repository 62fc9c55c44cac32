// quality_bench CHECKPOINT CALIBRATION EVALUATION [--method gptq|rtn]
//     [--bits N] [--group-size N] [--profile best|reference] [--order ORDER]
//     [--damping D] [--sweeps N] [--asymmetric] [--threads N]
//
// Quantizes every weight that a calibration site names, solving with
// CALIBRATION and judging by EVALUATION (second moments of tokens that nothing
// was solved with). One JSON line a tensor, then their mean: tr(dW H dW^T) /
// tr(W H W^T).
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/status_macros.h"
#include "quant/calibration/calibration_file.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/site.h"
#include "quant/tensor_quantizer.h"

namespace qs {
namespace {

struct Options {
  std::string checkpoint, calibration, evaluation;
  std::string method = "gptq";
  QuantSpec spec = {GptqSpec(), Profile::kBest,
                    OutputFormat::kCompressedTensors};
  int threads = 1;
};

struct Score {
  double solved = 0;  // on CALIBRATION, as the quantizer reports
  double judged = 0;  // on EVALUATION
  double seconds = 0;
};

// Where a weight lies and which site its columns read.
struct Work {
  const CheckpointTensor* tensor = nullptr;
  size_t site = 0;
};

absl::StatusOr<std::map<std::string, size_t>> Readers(
    const CalibrationFile& file) {
  std::map<std::string, size_t> readers;
  for (size_t i = 0; i < file.sites().size(); ++i) {
    for (const std::string& module : file.sites()[i].modules) {
      readers[module + ".weight"] = i;
    }
  }
  return readers;
}

absl::StatusOr<QuantizedTensor> Quantize(const Options& options,
                                         const TensorInfo& info,
                                         std::span<const uint8_t> data,
                                         std::shared_ptr<Site> site,
                                         Backend& backend) {
  QuantizeOptions quantize;
  quantize.site = std::move(site);
  QS_ASSIGN_OR_RETURN(std::unique_ptr<TensorQuantizer> quantizer,
                      TensorQuantizer::Create(options.spec, info, quantize));
  std::memcpy(quantizer->input(), data.data(), data.size());
  for (int64_t tile = 0; tile < quantizer->num_tiles(); ++tile) {
    QS_RETURN_IF_ERROR(quantizer->RunTile(tile, backend));
  }
  return quantizer->Finish(backend);
}

// tr(dW H dW^T) / tr(W H W^T) of what a reader of the file gets.
absl::StatusOr<double> Judge(const Options& options, const TensorInfo& info,
                             std::span<const uint8_t> data,
                             const QuantizedTensor& quantized,
                             const SiteMoments& moments, Backend& backend) {
  std::map<std::string, SafetensorsItem> items;
  for (const OutputTensor& tensor : quantized.tensors) {
    items[tensor.name] = {
        tensor.name,
        tensor.dtype,
        tensor.shape,
        {tensor.data.data(), static_cast<size_t>(tensor.data.size())}};
  }
  QS_ASSIGN_OR_RETURN(
      const DecodedWeight decoded,
      DecodeCompressedTensors(SpecGrid(options.spec), items, info.name));
  const MatrixShape shape = AsMatrix(info.shape);
  std::vector<double> error(static_cast<size_t>(shape.rows));
  std::vector<double> signal(error.size());
  QS_RETURN_IF_ERROR(backend.gptq().OutputError(
      {{data.data(), info.dtype, shape.rows, shape.cols},
       {decoded.data.data(), decoded.dtype, shape.rows, shape.cols},
       moments.second_moment(),
       error.data(),
       signal.data()},
      backend.stream()));
  OutputError sums;
  for (size_t r = 0; r < error.size(); ++r) {
    sums.error += error[r];
    sums.signal += signal[r];
  }
  return RelativeOutputError(sums);
}

absl::StatusOr<Score> Run(const Options& options, const TensorInfo& info,
                          std::span<const uint8_t> data,
                          SiteMoments calibration,
                          const SiteMoments& evaluation) {
  const auto backend = NewCpuBackend(options.threads);
  const auto reference = NewReferenceBackend();
  auto site = std::make_shared<Site>(calibration.site(), calibration.inputs());
  site->Fill(std::move(calibration));
  const auto start = std::chrono::steady_clock::now();
  QS_ASSIGN_OR_RETURN(const QuantizedTensor quantized,
                      Quantize(options, info, data, site, *backend));
  Score score;
  score.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  score.solved = RelativeOutputError(quantized.report.output_error);
  QS_ASSIGN_OR_RETURN(score.judged, Judge(options, info, data, quantized,
                                          evaluation, *reference));
  return score;
}

absl::Status RunAll(const Options& options) {
  QS_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                      Checkpoint::Open(options.checkpoint));
  QS_ASSIGN_OR_RETURN(const CalibrationFile calibration,
                      CalibrationFile::Open(options.calibration));
  QS_ASSIGN_OR_RETURN(const CalibrationFile evaluation,
                      CalibrationFile::Open(options.evaluation));
  QS_ASSIGN_OR_RETURN(const auto solved_by, Readers(calibration));
  QS_ASSIGN_OR_RETURN(const auto judged_by, Readers(evaluation));
  Score sum;
  int count = 0;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const auto solve = solved_by.find(tensor.entry.name);
    const auto judge = judged_by.find(tensor.entry.name);
    if (solve == solved_by.end() || judge == judged_by.end()) continue;
    const SafetensorsFile& shard =
        checkpoint.shards()[static_cast<size_t>(tensor.shard)];
    QS_ASSIGN_OR_RETURN(SiteMoments from, calibration.Load(solve->second));
    QS_ASSIGN_OR_RETURN(const SiteMoments by, evaluation.Load(judge->second));
    QS_ASSIGN_OR_RETURN(
        const Score score,
        Run(options,
            {tensor.entry.name, tensor.entry.dtype, tensor.entry.shape},
            shard.Data(tensor.entry), std::move(from), by));
    std::printf(
        "{\"tensor\": \"%s\", \"output_error\": %.5g, \"solved_error\": %.5g, "
        "\"seconds\": %.3f}\n",
        tensor.entry.name.c_str(), score.judged, score.solved, score.seconds);
    sum.judged += score.judged;
    sum.solved += score.solved;
    sum.seconds += score.seconds;
    ++count;
  }
  if (count == 0) {
    return absl::InvalidArgumentError("no weight of the checkpoint is named");
  }
  std::printf(
      "{\"algorithm\": \"%s\", \"bits\": %d, \"tensors\": %d, "
      "\"mean_output_error\": %.5g, \"mean_solved_error\": %.5g, "
      "\"seconds\": %.3f}\n",
      SpecAlgorithm(options.spec).c_str(), SpecBits(options.spec), count,
      sum.judged / count, sum.solved / count, sum.seconds);
  return absl::OkStatus();
}

const std::map<std::string, ColumnOrder>& Orders() {
  static const auto* orders = new std::map<std::string, ColumnOrder>{
      {"none", ColumnOrder::kNone},
      {"act_order_static", ColumnOrder::kActOrderStatic},
      {"group_aware", ColumnOrder::kGroupAware}};
  return *orders;
}

// False: not understood.
bool Parse(int argc, char** argv, Options* options) {
  std::map<std::string, std::string> flags;
  std::vector<std::string> names;
  bool symmetric = true;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--asymmetric") {
      symmetric = false;
    } else if (arg.rfind("--", 0) == 0) {
      if (i + 1 == argc) return false;
      flags[arg.substr(2)] = argv[++i];
    } else {
      names.push_back(arg);
    }
  }
  if (names.size() != 3) return false;
  options->checkpoint = names[0];
  options->calibration = names[1];
  options->evaluation = names[2];
  const auto take = [&](const char* name, const std::string& fallback) {
    const auto found = flags.find(name);
    if (found == flags.end()) return fallback;
    std::string value = found->second;
    flags.erase(found);
    return value;
  };
  QuantSpec& spec = options->spec;
  spec.profile = take("profile", "best") == "reference" ? Profile::kReference
                                                        : Profile::kBest;
  const int bits = std::atoi(take("bits", "4").c_str());
  const int64_t group_size = std::atoll(take("group-size", "128").c_str());
  options->threads = std::atoi(take("threads", "1").c_str());
  const std::string method = take("method", "gptq");
  if (method == "rtn") {
    spec.method = RtnSpec{bits, group_size, symmetric};
  } else if (method == "hqq") {
    spec.method = HqqSpec{.bits = bits, .group_size = group_size};
  } else if (method == "gptq") {
    GptqSpec gptq = DefaultGptqSpec(spec.profile);
    gptq.bits = bits;
    gptq.group_size = group_size;
    gptq.symmetric = symmetric;
    const std::string order = take("order", "");
    if (!order.empty()) {
      if (!Orders().contains(order)) return false;
      gptq.order = Orders().at(order);
    }
    const std::string damping = take("damping", "");
    if (!damping.empty()) gptq.damping = std::atof(damping.c_str());
    const std::string sweeps = take("sweeps", "");
    if (!sweeps.empty()) gptq.sweeps = std::atoi(sweeps.c_str());
    spec.method = gptq;
  } else {
    return false;
  }
  return flags.empty();
}

int Main(int argc, char** argv) {
  Options options;
  if (!Parse(argc, argv, &options)) {
    std::fprintf(stderr,
                 "usage: quality_bench CHECKPOINT CALIBRATION EVALUATION "
                 "[--method gptq|hqq|rtn] [--bits N] [--group-size N] "
                 "[--profile best|reference] [--order ORDER] [--damping D] "
                 "[--sweeps N] [--asymmetric] [--threads N]\n");
    return 2;
  }
  const absl::Status status = RunAll(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "quality_bench: %s\n",
               std::string(status.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace qs

int main(int argc, char** argv) { return qs::Main(argc, argv); }
