// Tested by tests/quant/plan_rules_test.cc.
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/plan/draft.h"

namespace qs {
namespace {

void Tie(Draft* draft, size_t i, size_t target, std::string reason) {
  PlanEntry& entry = draft->entry(i);
  entry.action = TensorAction::kTied;
  entry.tied_to = draft->entry(target).name;
  entry.reason = std::move(reason);
  entry.bytes_out = 0;
  draft->tensors[i].is_linear = draft->entry(i).name.ends_with(".weight");
}

// The first name of a range keeps the bytes, and is not quantized: whoever
// reads the other name expects what is there now.
void TieEqualRanges(Draft* draft) {
  std::map<std::tuple<std::string_view, int64_t, int64_t>, size_t> first;
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    const PlanTensor& tensor = *draft->tensors[i].tensor;
    if (tensor.end <= tensor.begin) continue;
    const auto [found, is_new] = first.emplace(
        std::tuple(std::string_view(tensor.file), tensor.begin, tensor.end), i);
    if (is_new) continue;
    const size_t target = found->second;
    Tie(draft, i, target,
        absl::StrCat("same bytes as ", draft->entry(target).name));
    draft->entry(target).reason = "other tensors are tied to it";
    draft->tensors[target].is_linear =
        draft->entry(target).name.ends_with(".weight");
  }
}

using FormKey = std::pair<std::vector<int64_t>, DType>;

FormKey KeyOf(const PlanTensor& tensor) { return {tensor.shape, tensor.dtype}; }

// What a config ties are the model's own embedding and head: not those of a
// layer for multi-token prediction, nor of a tower.
bool MaybeTied(const Draft& draft, const DraftTensor& item) {
  return item.tensor->name.ends_with(".weight") &&
         !InNumberedBlock(item.module) && TowerOf(draft, item.module).empty();
}

// Embeddings by shape and dtype. Of several the one whose name stands first in
// the catalogue's list; a head of another form is not tied, whatever the config
// says.
std::map<FormKey, size_t> Embeddings(const Draft& draft) {
  std::map<FormKey, size_t> found;
  for (const std::string& glob : TheCatalogue().tied_embeddings) {
    for (size_t i = 0; i < draft.tensors.size(); ++i) {
      const DraftTensor& item = draft.tensors[i];
      if (item.tensor->shape.size() == 2 && GlobMatch(glob, item.module) &&
          MaybeTied(draft, item)) {
        found.emplace(KeyOf(*item.tensor), i);
      }
    }
  }
  return found;
}

void TieHead(Draft* draft, size_t i, size_t target) {
  const std::string& name = draft->entry(i).name;
  const std::string& embedding = draft->entry(target).name;
  Tie(draft, i, target,
      absl::StrCat("tie_word_embeddings: ", embedding, " is the head"));
  draft->findings.Add(
      Severity::kWarning, "TIED_HEAD_STORED", name,
      absl::StrCat("is stored although config.json ties it to ", embedding,
                   "; it is left out. If the two differ, set "
                   "tie_word_embeddings to false first"));
}

}  // namespace

void FindTies(Draft* draft) {
  TieEqualRanges(draft);
  if (!draft->config.tie_word_embeddings) return;
  const std::map<FormKey, size_t> embeddings = Embeddings(*draft);
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    const DraftTensor& item = draft->tensors[i];
    if (draft->entry(i).action == TensorAction::kTied ||
        !MatchesAny(TheCatalogue().heads, item.module) ||
        !MaybeTied(*draft, item)) {
      continue;
    }
    const auto embedding = embeddings.find(KeyOf(*item.tensor));
    if (embedding == embeddings.end() || embedding->second == i) continue;
    TieHead(draft, i, embedding->second);
  }
}

}  // namespace qs
