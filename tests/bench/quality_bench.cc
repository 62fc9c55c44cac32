// quality_bench CHECKPOINT CALIBRATION EVALUATION [--method awq|gptq|hqq|rtn]
//     [--bits N] [--group-size N] [--profile best|reference] [--order ORDER]
//     [--damping D] [--sweeps N] [--no-awq-scaling] [--asymmetric]
//     [--threads N]
//
// Quantizes every weight that a calibration site names, solving with
// CALIBRATION and judging by EVALUATION (second moments of tokens that nothing
// was solved with). One JSON line a tensor, then their mean: tr(dW H dW^T) /
// tr(W H W^T), scaled weights put back to what the layer acts as; processor
// time of all threads.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/status_macros.h"
#include "quant/calibration/calibration_file.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/plan/plan.h"
#include "quant/site.h"
#include "quant/solve_group.h"

namespace qs {
namespace {

struct Options {
  std::string checkpoint, calibration, evaluation;
  std::string method = "gptq";
  QuantSpec spec = {GptqSpec(), Profile::kBest,
                    OutputFormat::kCompressedTensors};
  int threads = 1;
};

double ProcessSeconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) +
         1e-9 * static_cast<double>(time.tv_nsec);
}

// Sites of a calibration by the weights that read them.
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

class Bench {
 public:
  Bench(const Options& options, const Checkpoint& checkpoint,
        const CalibrationFile& calibration, const CalibrationFile& evaluation)
      : options_(options),
        checkpoint_(checkpoint),
        calibration_(calibration),
        evaluation_(evaluation),
        backend_(NewCpuBackend(options.threads)) {}

  absl::Status Run() {
    QS_ASSIGN_OR_RETURN(solved_by_, Readers(calibration_));
    QS_ASSIGN_OR_RETURN(judged_by_, Readers(evaluation_));
    for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
      by_name_[tensor.entry.name] = &tensor;
    }
    QS_ASSIGN_OR_RETURN(const Plan plan, MakePlan(Request()));
    std::map<std::string, GroupInfo> groups;
    for (const PlanSite& site : plan.sites) AddSite(site, &groups);
    for (auto& [name, group] : groups) {
      AddFolds(&group);
      QS_RETURN_IF_ERROR(SolveOne(group));
    }
    return Summary();
  }

 private:
  PlanRequest Request() const {
    PlanRequest request;
    for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
      request.tensors.push_back({tensor.entry.name, tensor.entry.dtype,
                                 tensor.entry.shape, "file", 0, 0});
    }
    std::ifstream config(options_.checkpoint + "/config.json");
    request.config_json.assign(std::istreambuf_iterator<char>(config), {});
    request.spec = options_.spec;
    request.list_sites = true;
    return request;
  }

  // With its readers; groups of tensors that are scaled together where the
  // method scales, else one for each site.
  void AddSite(const PlanSite& site, std::map<std::string, GroupInfo>* groups) {
    const std::string& reader = site.consumers.front();
    if (!solved_by_.contains(reader) || !judged_by_.contains(reader)) return;
    const bool scales = SolvesInGroups(options_.spec);
    GroupInfo& group = (*groups)[scales ? site.group : site.name];
    group.name = scales ? site.group : site.name;
    GroupSite& added = group.sites.emplace_back();
    added.name = site.name;
    added.inputs = site.inputs;
    if (scales) {
      added.fold = {site.fold.kind,          site.fold.producer,
                    site.fold.producer_bias, site.fold.row_offset,
                    site.fold.head_dim,      site.fold.repeat,
                    site.fold.scaled_only};
    }
    const auto index = static_cast<int>(group.sites.size()) - 1;
    for (const std::string& name : site.consumers) {
      group.tensors.push_back({InfoOf(name), index, GroupRole::kQuantize});
    }
  }

  // What is scaled without being quantized.
  void AddFolds(GroupInfo* group) const {
    const auto add = [&](const std::string& name, int site) {
      for (const GroupTensor& tensor : group->tensors) {
        if (tensor.info.name == name) return;
      }
      group->tensors.push_back({InfoOf(name), site, GroupRole::kFoldOnly});
    };
    for (size_t s = 0; s < group->sites.size(); ++s) {
      const Fold fold = group->sites[s].fold;
      if (fold.kind == FoldKind::kNone) continue;
      for (const std::string& name : fold.scaled_only) {
        add(name, static_cast<int>(s));
      }
      add(fold.producer, -1);
      if (!fold.producer_bias.empty()) add(fold.producer_bias, -1);
    }
  }

  TensorInfo InfoOf(const std::string& name) const {
    const CheckpointTensor& tensor = *by_name_.at(name);
    return {name, tensor.entry.dtype, tensor.entry.shape};
  }
  std::span<const uint8_t> DataOf(const std::string& name) const {
    const CheckpointTensor& tensor = *by_name_.at(name);
    return checkpoint_.shards()[static_cast<size_t>(tensor.shard)].Data(
        tensor.entry);
  }

  absl::Status SolveOne(const GroupInfo& info) {
    QS_ASSIGN_OR_RETURN(const std::unique_ptr<SolveGroup> group,
                        SolveGroup::Create(options_.spec, info, {}));
    std::vector<std::shared_ptr<Site>> sites;
    for (size_t s = 0; s < info.sites.size(); ++s) {
      QS_ASSIGN_OR_RETURN(SiteMoments moments,
                          calibration_.Load(solved_by_.at(ReaderOf(info, s))));
      sites.push_back(group->site(s));
      sites.back()->Fill(std::move(moments));
    }
    std::vector<std::unique_ptr<TensorQuantizer>> quantizers;
    for (size_t t = 0; t < info.tensors.size(); ++t) {
      QS_ASSIGN_OR_RETURN(quantizers.emplace_back(), group->TakeTensor(t));
      const auto data = DataOf(info.tensors[t].info.name);
      std::memcpy(quantizers[t]->input(), data.data(), data.size());
    }
    const double start = ProcessSeconds();
    if (group->solves_whole()) QS_RETURN_IF_ERROR(group->Solve(*backend_));
    solve_seconds_ += ProcessSeconds() - start;
    for (size_t t = 0; t < info.tensors.size(); ++t) {
      QS_RETURN_IF_ERROR(RunOne(info, t, *group, quantizers[t].get()));
    }
    seconds_ += ProcessSeconds() - start;
    return absl::OkStatus();
  }

  static const std::string& ReaderOf(const GroupInfo& info, size_t site) {
    for (const GroupTensor& tensor : info.tensors) {
      if (tensor.site == static_cast<int>(site)) return tensor.info.name;
    }
    return info.sites[site].name;
  }

  absl::Status RunOne(const GroupInfo& info, size_t t, const SolveGroup& group,
                      TensorQuantizer* quantizer) {
    for (int64_t tile = 0; tile < quantizer->num_tiles(); ++tile) {
      QS_RETURN_IF_ERROR(quantizer->RunTile(tile, *backend_));
    }
    QS_ASSIGN_OR_RETURN(const QuantizedTensor quantized,
                        quantizer->Finish(*backend_));
    const GroupTensor& tensor = info.tensors[t];
    if (tensor.role != GroupRole::kQuantize) return absl::OkStatus();
    const double before = ProcessSeconds();
    QS_ASSIGN_OR_RETURN(const double judged,
                        Judge(tensor, quantized, Scales(info, t, group)));
    seconds_ -= ProcessSeconds() - before;
    const double solved = RelativeOutputError(quantized.report.output_error);
    std::printf(
        "{\"tensor\": \"%s\", \"output_error\": %.5g, \"solved_error\": "
        "%.5g, \"rtn_error\": %.5g}\n",
        tensor.info.name.c_str(), judged, solved,
        RelativeOutputError(quantized.report.rtn_output_error));
    judged_ += judged;
    solved_ += solved;
    ++count_;
    return absl::OkStatus();
  }

  // What undoes the scaling of a tensor: its columns are divided by the first,
  // its rows multiplied by the second. Empty: 1.
  struct Undo {
    std::vector<float> columns;
    std::vector<float> rows;
  };
  static Undo Scales(const GroupInfo& info, size_t t, const SolveGroup& group) {
    Undo undo;
    if (!group.solves_whole()) return undo;
    const TensorInfo& tensor = info.tensors[t].info;
    undo.columns = group.scales(static_cast<size_t>(info.tensors[t].site));
    undo.rows.assign(static_cast<size_t>(AsMatrix(tensor.shape).rows), 1.0f);
    for (size_t s = 0; s < info.sites.size(); ++s) {
      const Fold& fold = info.sites[s].fold;
      if (fold.kind != FoldKind::kLinear || fold.producer != tensor.name) {
        continue;
      }
      const std::vector<float> scales = group.scales(s);
      for (size_t i = 0; i < scales.size(); ++i) {
        const auto input = static_cast<int64_t>(i);
        const int64_t row =
            fold.head_dim == 0
                ? input
                : input / fold.head_dim / fold.repeat * fold.head_dim +
                      input % fold.head_dim;
        undo.rows[static_cast<size_t>(fold.row_offset + row)] = scales[i];
      }
    }
    return undo;
  }

  // tr(dW H dW^T) / tr(W H W^T) of what a reader of the file gets.
  absl::StatusOr<double> Judge(const GroupTensor& tensor,
                               const QuantizedTensor& quantized,
                               const Undo& undo) const {
    std::map<std::string, SafetensorsItem> items;
    for (const OutputTensor& part : quantized.tensors) {
      items[part.name] = {
          part.name,
          part.dtype,
          part.shape,
          {part.data.data(), static_cast<size_t>(part.data.size())}};
    }
    const std::string& name = tensor.info.name;
    QS_ASSIGN_OR_RETURN(
        const DecodedWeight decoded,
        DecodeCompressedTensors(SpecGrid(options_.spec), items, name));
    const MatrixShape shape = AsMatrix(tensor.info.shape);
    std::vector<float> values;
    for (int64_t i = 0; i < shape.rows * shape.cols; ++i) {
      float value = LoadAsFloat(decoded.data.data(), decoded.dtype, i);
      if (!undo.columns.empty()) {
        value *= undo.rows[static_cast<size_t>(i / shape.cols)] /
                 undo.columns[static_cast<size_t>(i % shape.cols)];
      }
      values.push_back(value);
    }
    QS_ASSIGN_OR_RETURN(const SiteMoments moments,
                        evaluation_.Load(judged_by_.at(name)));
    std::vector<double> error(static_cast<size_t>(shape.rows));
    std::vector<double> signal(error.size());
    QS_RETURN_IF_ERROR(reference_->gptq().OutputError(
        {{DataOf(name).data(), tensor.info.dtype, shape.rows, shape.cols},
         {values.data(), DType::kF32, shape.rows, shape.cols},
         moments.second_moment(),
         error.data(),
         signal.data()},
        reference_->stream()));
    return RelativeOutputError(
        {std::accumulate(error.begin(), error.end(), 0.0),
         std::accumulate(signal.begin(), signal.end(), 0.0)});
  }

  absl::Status Summary() const {
    if (count_ == 0) {
      return absl::InvalidArgumentError("no weight of the checkpoint is named");
    }
    std::printf(
        "{\"algorithm\": \"%s\", \"bits\": %d, \"tensors\": %d, "
        "\"mean_output_error\": %.5g, \"mean_solved_error\": %.5g, "
        "\"cpu_seconds\": %.3f, \"scaling_seconds\": %.3f}\n",
        SpecAlgorithm(options_.spec).c_str(), SpecBits(options_.spec), count_,
        judged_ / count_, solved_ / count_, seconds_, solve_seconds_);
    return absl::OkStatus();
  }

  const Options& options_;
  const Checkpoint& checkpoint_;
  const CalibrationFile& calibration_;
  const CalibrationFile& evaluation_;
  const std::unique_ptr<Backend> backend_;
  const std::unique_ptr<Backend> reference_ = NewReferenceBackend();
  std::map<std::string, size_t> solved_by_, judged_by_;
  std::map<std::string, const CheckpointTensor*> by_name_;
  double judged_ = 0;  // on EVALUATION
  double solved_ = 0;  // on CALIBRATION, as the quantizers report
  double seconds_ = 0;
  double solve_seconds_ = 0;  // of the groups: scales and factors
  int count_ = 0;
};

absl::Status RunAll(const Options& options) {
  QS_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                      Checkpoint::Open(options.checkpoint));
  QS_ASSIGN_OR_RETURN(const CalibrationFile calibration,
                      CalibrationFile::Open(options.calibration));
  QS_ASSIGN_OR_RETURN(const CalibrationFile evaluation,
                      CalibrationFile::Open(options.evaluation));
  return Bench(options, checkpoint, calibration, evaluation).Run();
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
  bool scaling = true;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--asymmetric") {
      symmetric = false;
    } else if (arg == "--no-awq-scaling") {
      scaling = false;
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
  } else if (method == "awq") {
    AwqSpec awq = DefaultAwqSpec(spec.profile);
    awq.bits = bits;
    awq.group_size = group_size;
    awq.symmetric = symmetric;
    spec.method = awq;
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
    gptq.awq_scaling &= scaling;
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
                 "[--method awq|gptq|hqq|rtn] [--bits N] [--group-size N] "
                 "[--profile best|reference] [--order ORDER] [--damping D] "
                 "[--sweeps N] [--no-awq-scaling] [--asymmetric] "
                 "[--threads N]\n");
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
