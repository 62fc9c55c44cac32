// Tested by tests/quant/plan_lint_test.cc.
#include "quant/plan/lint_names.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/plan/any_tree.h"
#include "quant/plan/part_search.h"
#include "quant/plan/skip_names.h"

namespace qs {
namespace {

// Where optimum looks for a model's blocks. It takes the first of these that
// some module's name begins with.
constexpr const char* kOptimumBlocks[] = {"transformer.h",
                                          "model.decoder.layers",
                                          "gpt_neox.layers",
                                          "model.layers",
                                          "model.language_model.layers",
                                          "h",
                                          "decoder.layers",
                                          "layers"};

}  // namespace

absl::Status CheckSkipNames(const Draft& draft, const EngineRules& rules,
                            FindingList* findings) {
  const NameList quantized = QuantizedModules(draft);
  const NameList skipped = NotQuantizedOrFused(draft);
  PartSearch search(skipped.names());
  for (const std::string& name : quantized.names()) {
    QS_RETURN_IF_ERROR(draft.Wanted());
    search.Read(name);
  }
  const std::vector<std::string_view> found = search.Finish();
  const std::string title = rules.Title();
  for (size_t i = 0; i < found.size(); ++i) {
    QS_RETURN_IF_ERROR(draft.Wanted());
    const std::string& name = skipped.names()[i];
    const std::string_view other = found[i];
    if (other.empty()) continue;
    findings->Add(Severity::kError, "SKIP_NAME", name + ".weight",
                  absl::StrCat("not quantized, but its name is a part of ",
                               std::string(other), ", which is: ", title,
                               " would skip both in ",
                               FormatTitle(draft.request.spec.format)));
  }
  return absl::OkStatus();
}

absl::Status CheckBlocks(const Draft& draft, const EngineRules& rules,
                         FindingList* findings) {
  const OutputFormat format = draft.request.spec.format;
  if (rules.facts.engine != Engine::kTransformers ||
      (format != OutputFormat::kGptq && format != OutputFormat::kGptqV2)) {
    return absl::OkStatus();
  }
  const bool other_trees =
      HasOtherTrees(draft) && !draft.architecture->keeps_tree;
  std::vector<std::string> names;
  for (const DraftTensor& item : draft.tensors) {
    QS_RETURN_IF_ERROR(draft.Wanted());
    names.push_back(other_trees
                        ? LanguageModelName(item.module)
                        : TransformersName(*draft.architecture, item.module));
  }
  std::string blocks;
  for (const char* const known : kOptimumBlocks) {
    const bool found = std::any_of(
        names.begin(), names.end(),
        [known](const auto& name) { return name.starts_with(known); });
    if (!found) continue;
    blocks = absl::StrCat(known, ".");
    break;
  }
  const std::string title = rules.Title();
  return draft.ForQuantized([&](size_t i) {
    if (!blocks.empty() && names[i].starts_with(blocks)) return;
    findings->Add(
        Severity::kError, "GPTQ_BLOCKS", draft.entry(i).name,
        absl::StrCat("optimum, by which ", title,
                     " loads GPTQ files, looks for the blocks of a model as ",
                     absl::StrJoin(kOptimumBlocks, ", "),
                     ", and takes the first: ",
                     blocks.empty() ? "here there is none" : blocks));
  });
}

}  // namespace qs
