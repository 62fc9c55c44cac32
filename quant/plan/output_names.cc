// Tested by tests/quant/output_names_test.cc and
// tests/quant/plan_rules_test.cc.
#include "quant/plan/output_names.h"

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/formats/json.h"
#include "quant/plan/draft.h"

namespace qs {
namespace {

constexpr std::string_view kWeight = ".weight";

OutputNames BitsandbytesNames(const Nf4Spec& spec) {
  OutputNames names = {false, {"", ".absmax", ".quant_map"}};
  names.endings.push_back(spec.codebook == Codebook::kNf4
                              ? ".quant_state.bitsandbytes__nf4"
                              : ".quant_state.bitsandbytes__fp4");
  if (spec.double_quant) {
    names.endings.push_back(".nested_absmax");
    names.endings.push_back(".nested_quant_map");
  }
  return names;
}

OutputNames HqqNames() {
  return {
      true,
      {".W_q", ".scale", ".zero", ".nbits", ".group_size", ".shape", ".axis",
       ".packing", ".unpack_view_dtype", ".view_as_float", ".quant_scale",
       ".quant_zero", ".compute_dtype", ".offload_meta", ".encoded_state_dict",
       ".stores_quant_config", ".channel_wise", ".optimize", ".round_zero"}};
}

}  // namespace

std::string_view OutputNames::StemOf(std::string_view weight) const {
  if (of_module && weight.ends_with(kWeight)) {
    weight.remove_suffix(kWeight.size());
  }
  return weight;
}

OutputNames OutputNamesOf(const QuantSpec& spec) {
  switch (spec.format) {
    case OutputFormat::kBitsandbytes:
      return BitsandbytesNames(*spec.nf4());
    case OutputFormat::kCompressedTensors:
      if (SpecGrid(spec).symmetric) {
        return {false, {"_packed", "_scale", "_shape"}};
      }
      return {false, {"_packed", "_scale", "_zero_point", "_shape"}};
    case OutputFormat::kGptq:
    case OutputFormat::kGptqV2:
      return {true, {".qweight", ".qzeros", ".scales", ".g_idx"}};
    case OutputFormat::kAwqGemm:
      return {true, {".qweight", ".qzeros", ".scales"}};
    case OutputFormat::kHqq:
      return HqqNames();
  }
  return {};
}

OutputNames MostOutputNames() { return HqqNames(); }

void CheckOutputNames(Draft* draft) {
  // Of tensors that the output has under the name that they have now.
  std::unordered_map<std::string_view, size_t> kept;
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    if (draft->entry(i).action == TensorAction::kCarry) {
      kept.emplace(draft->entry(i).name, i);
    }
  }
  std::string name;
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    if (!draft->Quantizes(i)) continue;
    const OutputNames names = OutputNamesOf(draft->SpecOf(i));
    const std::string_view stem = names.StemOf(draft->entry(i).name);
    for (const std::string_view ending : names.endings) {
      name.assign(stem).append(ending);
      if (!kept.contains(name)) continue;
      draft->findings.Add(
          Severity::kError, "OUTPUT_NAME", draft->entry(i).name,
          absl::StrCat("its output has the name of ", QuoteForError(name),
                       ", which is carried: got two tensors of one name, "
                       "allowed one; leave one out or rename it"));
    }
  }
}

}  // namespace qs
