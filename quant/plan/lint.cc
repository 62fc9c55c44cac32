// Tested by tests/quant/plan_lint_test.cc.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/plan/draft.h"
#include "quant/plan/lint_names.h"

namespace qs {
namespace {

// bitsandbytes' AVX-512 dequantize handles blocks up to this size.
constexpr int64_t kAvx512MaxBlock = 1024;

// No list is no rule.
template <typename T>
bool Allows(const std::vector<T>& allowed, T value) {
  return allowed.empty() ||
         std::find(allowed.begin(), allowed.end(), value) != allowed.end();
}

class Linter {
 public:
  Linter(const Draft& draft, const EngineRules& rules)
      : draft_(draft), rules_(rules), title_(rules.Title()) {}

  absl::StatusOr<FindingList> Run();

 private:
  void CheckArchitecture();
  void CheckHeads();
  absl::Status CheckSchemes(const FormatRules& rules);
  void CheckScheme(const FormatRules& rules, const QuantSpec& spec,
                   std::string_view tensor);
  void CheckMarlinScheme(const FormatRules& rules, const QuantSpec& spec,
                         std::string_view tensor);
  void CheckGptqScheme(const FormatRules& rules, const QuantSpec& spec,
                       std::string_view tensor);
  void CheckStacks();
  void CheckTensor(const FormatRules& rules, size_t i);
  void CheckModule(const FormatRules& rules, size_t i);
  void CheckSplit(const FormatRules& rules, size_t i);
  void CheckMarlin(const FormatRules& rules, size_t i);
  void CheckLinear4bit(size_t i);
  absl::Status CountFusedRows();

  void Error(std::string_view rule, std::string_view tensor, std::string text) {
    findings_.Add(Severity::kError, rule, tensor, std::move(text));
  }
  void Warn(std::string_view rule, std::string_view tensor, std::string text) {
    findings_.Add(Severity::kWarning, rule, tensor, std::move(text));
  }
  // Of the request: format, and what all of a format have in common.
  const QuantSpec& spec() const { return draft_.request.spec; }
  int64_t tp() const { return draft_.request.tensor_parallel; }
  Parallel ParallelOf(size_t i) const {
    const LinearRule* rule = draft_.tensors[i].rule;
    return rule == nullptr ? Parallel::kColumn : rule->parallel;
  }
  bool IsExpert(size_t i) const {
    const LinearRule* rule = draft_.tensors[i].rule;
    return rule != nullptr && rule->expert;
  }
  // Of the layer that the engine makes, on one rank.
  int64_t RankCols(size_t i) const;
  int64_t RankRows(size_t i) const;

  const Draft& draft_;
  const EngineRules& rules_;
  const std::string title_;
  FindingList findings_;
  std::unordered_map<std::string_view, int64_t> fused_rows_;
};

absl::StatusOr<FindingList> Linter::Run() {
  const FormatRules* rules = rules_.Find(spec().format);
  if (rules == nullptr) {
    Error("FORMAT", "",
          absl::StrCat(title_, " does not load ", FormatTitle(spec().format)));
    return std::move(findings_);
  }
  CheckArchitecture();
  CheckHeads();
  QS_RETURN_IF_ERROR(CheckSchemes(*rules));
  QS_RETURN_IF_ERROR(CheckBlocks(draft_, rules_, &findings_));
  if (rules->substring_skips) {
    QS_RETURN_IF_ERROR(CheckSkipNames(draft_, rules_, &findings_));
  }
  if (rules->unpacks_experts) CheckStacks();
  QS_RETURN_IF_ERROR(CountFusedRows());
  QS_RETURN_IF_ERROR(
      draft_.ForQuantized([&](size_t i) { CheckTensor(*rules, i); }));
  return std::move(findings_);
}

void Linter::CheckArchitecture() {
  const std::string& packed = draft_.architecture->transformers_packed;
  if (packed.empty() || rules_.facts.engine != Engine::kTransformers) return;
  if (spec().format == OutputFormat::kBitsandbytes) return;
  Error("MODULE_CLASS", "", absl::StrCat(title_, ": ", packed));
}

// vLLM gives each rank as many heads, of keys and values at least one: some
// ranks may have the same.
void Linter::CheckHeads() {
  if (rules_.facts.engine != Engine::kVllm) return;
  const int64_t heads = draft_.config.attention_heads;
  if (heads % tp() != 0) {
    return Error("TENSOR_PARALLEL", "",
                 absl::StrCat("num_attention_heads = ", heads,
                              " are split over ranks: got tensor_parallel ",
                              tp(), ", allowed a divisor of ", heads));
  }
  const int64_t pairs = draft_.config.key_value_heads;
  if (pairs == 0 || pairs % tp() == 0 || tp() % pairs == 0) return;
  Error("TENSOR_PARALLEL", "",
        absl::StrCat("num_key_value_heads = ", pairs,
                     " are split over ranks: got tensor_parallel ", tp(),
                     ", allowed a divisor or a multiple of ", pairs));
}

// Each that is in use, once. What an override breaks is said of the first
// tensor that it holds for.
absl::Status Linter::CheckSchemes(const FormatRules& rules) {
  std::vector<std::pair<const QuantSpec*, std::string_view>> schemes;
  const auto add = [&](const QuantSpec& one, std::string_view tensor) {
    const bool known =
        std::any_of(schemes.begin(), schemes.end(),
                    [&](const auto& other) { return *other.first == one; });
    if (!known) schemes.emplace_back(&one, tensor);
  };
  if (draft_.request.overrides.empty()) add(spec(), "");
  QS_RETURN_IF_ERROR(draft_.ForQuantized([&](size_t i) {
    const QuantSpec& one = draft_.SpecOf(i);
    add(one, one == spec() ? "" : std::string_view(draft_.entry(i).name));
  }));
  for (const auto& [one, tensor] : schemes) CheckScheme(rules, *one, tensor);
  return absl::OkStatus();
}

void Linter::CheckScheme(const FormatRules& rules, const QuantSpec& spec,
                         std::string_view tensor) {
  if (spec.nf4() != nullptr) return;
  const GridSpec grid = SpecGrid(spec);
  if (rules.symmetric_only && !grid.symmetric) {
    Error("ASYMMETRIC", tensor,
          absl::StrCat(title_,
                       " fails on the zero points of an asymmetric scheme; "
                       "allowed is symmetric"));
  }
  if (!Allows(rules.bits, grid.bits)) {
    Error("BITS", tensor,
          absl::StrCat("bits: got ", grid.bits, "; ", title_, " takes ",
                       absl::StrJoin(rules.bits, ", "), " in ",
                       FormatTitle(spec.format)));
  }
  if (!Allows(rules.group_sizes, grid.group_size)) {
    Error("GROUP_SIZES", tensor,
          absl::StrCat("group_size: got ", grid.group_size, "; ", title_,
                       " takes ", absl::StrJoin(rules.group_sizes, ", "),
                       " in ", FormatTitle(spec.format)));
  }
  CheckGptqScheme(rules, spec, tensor);
  CheckMarlinScheme(rules, spec, tensor);
}

void Linter::CheckGptqScheme(const FormatRules& rules, const QuantSpec& spec,
                             std::string_view tensor) {
  const GptqSpec* gptq = spec.gptq();
  if (gptq == nullptr) return;
  if (rules.no_act_order && gptq->order == ColumnOrder::kActOrder &&
      gptq->group_size != -1) {
    Error("ACT_ORDER", tensor,
          absl::StrCat(title_,
                       " does not read the group of each column; allowed is "
                       "an order with groups as stored (ACT_ORDER_STATIC)"));
  }
  if (spec.format == OutputFormat::kGptq && !gptq->symmetric) {
    Warn("GPTQ_V1_ZERO_POINT", tensor,
         "GPTQ v1 cannot store a zero point of 0, which groups without "
         "negative weights have: such a tensor is refused; GPTQ_V2 stores it");
  }
}

void Linter::CheckMarlinScheme(const FormatRules& rules, const QuantSpec& spec,
                               std::string_view tensor) {
  const GridSpec grid = SpecGrid(spec);
  const auto& bits = rules.marlin_bits;
  if (bits.empty()) return;
  const auto& groups = rules.marlin_group_sizes;
  if (!Allows(bits, grid.bits) && Allows(rules.bits, grid.bits)) {
    Warn("MARLIN_BITS", tensor,
         absl::StrCat("bits: got ", grid.bits, "; the fast kernels of ", title_,
                      " take ", absl::StrJoin(bits, ", ")));
  }
  if (!Allows(groups, grid.group_size) &&
      Allows(rules.group_sizes, grid.group_size)) {
    Warn("MARLIN_GROUP_SIZE", tensor,
         absl::StrCat("group_size: got ", grid.group_size,
                      "; the fast kernels of ", title_, " take ",
                      absl::StrJoin(groups, ", ")));
  }
}

void Linter::CheckStacks() {
  if (draft_.architecture->transformers_experts != "unpacked") return;
  for (size_t i = 0; i < draft_.tensors.size(); ++i) {
    if (!draft_.tensors[i].is_stack) continue;
    Error("EXPERT_STACK", draft_.entry(i).name,
          absl::StrCat(title_, " makes one linear per expert of a quantized ",
                       draft_.architecture->name,
                       " and does not load experts as a 3-D tensor"));
  }
}

void Linter::CheckTensor(const FormatRules& rules, size_t i) {
  CheckModule(rules, i);
  CheckSplit(rules, i);
  if (!rules.marlin_tiles.empty()) CheckMarlin(rules, i);
  if (rules.linear4bit && !draft_.tensors[i].is_conv) CheckLinear4bit(i);
}

// What a target would have carried, quantized because there is no target.
void Linter::CheckModule(const FormatRules& rules, size_t i) {
  const std::string& name = draft_.entry(i).name;
  if (rules.linear_modules_only && draft_.tensors[i].is_conv) {
    Error("CONVOLUTION", name,
          absl::StrCat(title_, " loads ",
                       spec().nf4() != nullptr ? "4-bit" : "packed",
                       " weights into nn.Linear only, this is a "
                       "convolution"));
  }
  const Architecture& architecture = *draft_.architecture;
  if (IsExpert(i)) {
    std::string reason = WhyNoExperts(architecture, rules_, rules);
    if (!reason.empty()) Error("EXPERTS", name, std::move(reason));
  }
  if (rules.linear4bit && rules.merges_experts &&
      !architecture.transformers_bitsandbytes.empty()) {
    Error("MODULE_CLASS", name, architecture.transformers_bitsandbytes);
  }
}

void Linter::CheckSplit(const FormatRules& rules, size_t i) {
  const bool split = tp() > 1 && ParallelOf(i) == Parallel::kRow;
  if (!split && !rules.whole_groups) return;
  const PlanEntry& entry = draft_.entry(i);
  if (split && entry.cols % tp() != 0) {
    return Error("TENSOR_PARALLEL", entry.name,
                 absl::StrCat("K = ", entry.cols,
                              " is split over ranks: got tensor_parallel ",
                              tp(), ", allowed a divisor of ", entry.cols));
  }
  const int64_t group_size = SpecGrid(draft_.SpecOf(i)).group_size;
  if (spec().nf4() != nullptr || group_size < 0) return;
  const int64_t per_rank = RankCols(i);
  if (per_rank % group_size == 0) return;
  const std::string k =
      split ? absl::StrCat("K per rank = ", entry.cols, " / ", tp(), " = ")
            : "K = ";
  Error(split ? "GROUP_SIZE_PER_RANK" : "GROUP_SIZE", entry.name,
        absl::StrCat(k, per_rank, ": got group_size ", group_size,
                     ", allowed a divisor of ", per_rank));
}

absl::Status Linter::CountFusedRows() {
  return draft_.ForQuantized([&](size_t i) {
    const PlanEntry& entry = draft_.entry(i);
    if (!entry.group.empty() && !IsExpert(i)) {
      fused_rows_[entry.group] += entry.rows;
    }
  });
}

int64_t Linter::RankCols(size_t i) const {
  const int64_t cols = draft_.entry(i).cols;
  return ParallelOf(i) == Parallel::kRow ? cols / tp() : cols;
}

int64_t Linter::RankRows(size_t i) const {
  const PlanEntry& entry = draft_.entry(i);
  int64_t rows = entry.rows;
  const auto fused = fused_rows_.find(entry.group);
  if (fused != fused_rows_.end()) rows = fused->second;
  // Gate and up of an expert are fused, down is alone.
  if (IsExpert(i) && ParallelOf(i) == Parallel::kColumn) rows *= 2;
  return ParallelOf(i) == Parallel::kColumn ? rows / tp() : rows;
}

void Linter::CheckMarlin(const FormatRules& rules, size_t i) {
  const int64_t k = RankCols(i);
  const int64_t n = RankRows(i);
  for (const auto& [k_tile, n_tile] : rules.marlin_tiles) {
    if (k % k_tile == 0 && n % n_tile == 0) return;
  }
  Warn("MARLIN_SHAPE", draft_.entry(i).name,
       absl::StrCat("K = ", k, ", N = ", n, " per rank: ", title_,
                    " pads and slows down; fast are K % 128 = 0 with N % 64 = "
                    "0, or K % 64 = 0 with N % 128 = 0"));
}

void Linter::CheckLinear4bit(size_t i) {
  const PlanEntry& entry = draft_.entry(i);
  const int64_t block = spec().nf4()->block_size;
  if (entry.cols % 16 == 0 && entry.cols % block != 0 &&
      block <= kAvx512MaxBlock) {
    return Warn(
        "AVX512_DEQUANTIZE", entry.name,
        absl::StrCat("in = ", entry.cols,
                     " is a multiple of 16 but not of block_size ", block,
                     ": bitsandbytes 0.50.2 dequantizes such a "
                     "weight wrongly on an AVX-512 CPU"));
  }
  if (entry.cols % block == 0 && entry.rows % 32 == 0) return;
  Warn("LINEAR4BIT_SHAPE", entry.name,
       absl::StrCat("out = ", entry.rows, ", in = ", entry.cols,
                    ": on an AVX512-BF16 CPU Linear4bit wants out % 32 = 0 and "
                    "in % ",
                    block, " = 0"));
}

}  // namespace

absl::StatusOr<FindingList> Lint(const Draft& draft, const EngineRules& rules) {
  return Linter(draft, rules).Run();
}

}  // namespace qs
