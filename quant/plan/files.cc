// Tested by tests/quant/plan_rules_test.cc.
#include <algorithm>
#include <unordered_set>

#include "absl/strings/ascii.h"
#include "quant/plan/draft.h"

namespace qs {
namespace {

struct Ending {
  std::string_view ending;
  const char* reason;
};

constexpr char kPickle[] =
    "may be a pickle, which runs code when read; never "
    "read, never copied";
constexpr char kOtherWeights[] =
    "the source's weights in another format: they would not be quantized";

constexpr char kOtherQuantization[] =
    "describes a quantization that the output does not have; loaders would "
    "rather read it than config.json";

constexpr Ending kSkipped[] = {
    {"quantize_config.json", kOtherQuantization},
    {"quant_config.json", kOtherQuantization},
    {".bin", kPickle},
    {".pt", kPickle},
    {".pth", kPickle},
    {".ckpt", kPickle},
    {".pkl", kPickle},
    {".pickle", kPickle},
    {".bin.index.json", "index of weights that are skipped"},
    {".safetensors.index.json", "index of weights that are not in the plan"},
    {".safetensors", "its tensors are not in the plan"},
    {".h5", kOtherWeights},
    {".msgpack", kOtherWeights},
    {".onnx", kOtherWeights},
    {".onnx_data", kOtherWeights},
    {".gguf", kOtherWeights},
    {".tflite", kOtherWeights},
    {".ot", kOtherWeights},
};

constexpr char kHidden[] =
    "in a hidden directory: what a version control or a download keeps";

constexpr char kQuantizeConfig[] = "quantize_config.json";

// Loaders of GPTQ files look there before config.json. Without that nothing
// says which model it is, and the settings are in the weights' file.
bool HasQuantizeConfig(const Draft& draft) {
  const OutputFormat format = draft.request.spec.format;
  const bool gptq =
      format == OutputFormat::kGptq || format == OutputFormat::kGptqV2;
  return gptq && draft.plan.tensors_quantized > 0 &&
         std::any_of(draft.request.files.begin(), draft.request.files.end(),
                     [](const PlanInputFile& file) {
                       return file.path == "config.json";
                     });
}

// Below a directory whose name begins with a dot.
bool IsHidden(std::string_view path) {
  for (size_t at = 0; at < path.size();) {
    const size_t slash = path.find('/', at);
    if (slash == path.npos) return false;
    if (path[at] == '.') return true;
    at = slash + 1;
  }
  return false;
}

PlanFile FileFor(const PlanInputFile& file,
                 const std::unordered_set<std::string_view>& shards) {
  if (shards.contains(file.path)) {
    return {file.path, FileAction::kRewrite, "holds tensors of the plan"};
  }
  if (file.path == "config.json") {
    return {file.path, FileAction::kRewrite, "gets quantization_config"};
  }
  if (file.path == "model.safetensors.index.json") {
    return {file.path, FileAction::kRewrite, "index of the shards"};
  }
  if (IsHidden(file.path)) return {file.path, FileAction::kSkip, kHidden};
  const std::string lower = absl::AsciiStrToLower(file.path);
  for (const Ending& skipped : kSkipped) {
    if (lower.ends_with(skipped.ending)) {
      return {file.path, FileAction::kSkip, skipped.reason};
    }
  }
  return {file.path, FileAction::kCopy, ""};
}

}  // namespace

std::vector<PlanFile> PlanFiles(const Draft& draft) {
  std::unordered_set<std::string_view> shards;
  for (const PlanTensor& tensor : draft.request.tensors) {
    shards.insert(tensor.file);
  }
  std::vector<PlanFile> files;
  const bool has_quantize_config = HasQuantizeConfig(draft);
  for (const PlanInputFile& file : draft.request.files) {
    if (has_quantize_config && file.path == kQuantizeConfig) continue;
    files.push_back(FileFor(file, shards));
  }
  if (has_quantize_config) {
    files.push_back({kQuantizeConfig, FileAction::kRewrite,
                     "quantization_config, for loaders that look there"});
  }
  return files;
}

}  // namespace qs
