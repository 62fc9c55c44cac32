// Tested by tests/quant/awq_fold_test.cc.
#include "quant/awq_fold.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

int IndexOf(const GroupInfo& info, const std::string& name) {
  for (size_t i = 0; i < info.tensors.size(); ++i) {
    if (info.tensors[i].info.name == name) return static_cast<int>(i);
  }
  return -1;
}

int64_t NumElements(const TensorInfo& info) {
  return CheckedNumElements(info.shape).value_or(0);
}

absl::Status Refuse(const GroupInfo& info, const GroupSite& site,
                    const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "group \"", info.name, "\": site \"", site.name, "\": fold: ", text));
}

// The row of a linear producer that feeds an input.
int64_t RowOfInput(const Fold& fold, int64_t input) {
  if (fold.head_dim == 0) return fold.row_offset + input;
  const int64_t head = input / fold.head_dim / fold.repeat;
  return fold.row_offset + head * fold.head_dim + input % fold.head_dim;
}

absl::Status CheckLinear(const GroupInfo& info, const GroupSite& site) {
  const Fold& fold = site.fold;
  const GroupTensor& producer =
      info.tensors[static_cast<size_t>(IndexOf(info, fold.producer))];
  if (fold.head_dim > 0 && site.inputs % (fold.head_dim * fold.repeat) != 0) {
    return Refuse(info, site,
                  absl::StrCat("got ", fold.repeat, " heads of ", fold.head_dim,
                               " that share rows, allowed divisors of ",
                               site.inputs, " inputs"));
  }
  const int64_t rows = AsMatrix(producer.info.shape).rows;
  const int64_t needed = RowOfInput(fold, site.inputs - 1) + 1;
  if (rows < needed) {
    return Refuse(info, site,
                  absl::StrCat("tensor \"", fold.producer, "\": got ", rows,
                               " rows, allowed ", needed, " or more"));
  }
  if (fold.producer_bias.empty()) return absl::OkStatus();
  const GroupTensor& bias =
      info.tensors[static_cast<size_t>(IndexOf(info, fold.producer_bias))];
  if (NumElements(bias.info) == rows) return absl::OkStatus();
  return Refuse(info, site,
                absl::StrCat("tensor \"", fold.producer_bias, "\": got ",
                             NumElements(bias.info), " elements, allowed ",
                             rows, ", the rows of the producer"));
}

absl::Status CheckNorm(const GroupInfo& info, const GroupSite& site) {
  for (const std::string& name :
       {site.fold.producer, site.fold.producer_bias}) {
    if (name.empty()) continue;
    const GroupTensor& tensor =
        info.tensors[static_cast<size_t>(IndexOf(info, name))];
    if (tensor.role != GroupRole::kFoldOnly) {
      return Refuse(info, site,
                    absl::StrCat("tensor \"", name,
                                 "\": got role QUANTIZE, allowed FOLD_ONLY"));
    }
    if (NumElements(tensor.info) != site.inputs) {
      return Refuse(
          info, site,
          absl::StrCat("tensor \"", name, "\": got ", NumElements(tensor.info),
                       " elements, allowed ", site.inputs,
                       ", the inputs of the site"));
    }
  }
  return absl::OkStatus();
}

// What is multiplied by 1 / scale.
double Factor(double value, bool plus_one) {
  return plus_one ? 1 + value : value;
}

}  // namespace

absl::Status CheckAwqFolds(const GroupInfo& info) {
  for (const GroupSite& site : info.sites) {
    if (site.fold.kind == FoldKind::kNone) continue;
    if (site.fold.kind == FoldKind::kLinear) {
      QS_RETURN_IF_ERROR(CheckLinear(info, site));
    } else {
      QS_RETURN_IF_ERROR(CheckNorm(info, site));
    }
    for (const std::string& name : site.fold.scaled_only) {
      const TensorInfo& reader =
          info.tensors[static_cast<size_t>(IndexOf(info, name))].info;
      if (AsMatrix(reader.shape).cols == site.inputs) continue;
      return Refuse(
          info, site,
          absl::StrCat("tensor \"", name, "\": got ",
                       AsMatrix(reader.shape).cols, " columns, allowed ",
                       site.inputs, ", the inputs of the site"));
    }
  }
  return absl::OkStatus();
}

AwqFold::AwqFold(const GroupInfo& info, size_t site, Profile profile,
                 const Values& values)
    : info_(info),
      site_(site),
      fold_(info.sites[site].fold),
      profile_(profile) {
  // AutoAWQ scales the input of o only where v has as many rows.
  scales_ = fold_.kind != FoldKind::kNone &&
            !(profile == Profile::kReference && IsTied());
  if (!scales_) return;
  producer_ = static_cast<size_t>(IndexOf(info, fold_.producer));
  bias_ = fold_.producer_bias.empty() ? -1 : IndexOf(info, fold_.producer_bias);
  const bool linear = fold_.kind == FoldKind::kLinear;
  // Values of one input that are stored rounded, two for "many".
  int rounded = bias_ >= 0 ? 1 : 0;
  if (!linear) ++rounded;
  if (linear && info.tensors[producer_].role == GroupRole::kFoldOnly) {
    rounded += 2;
  }
  for (const GroupTensor& tensor : info.tensors) {
    if (tensor.role == GroupRole::kFoldOnly &&
        tensor.site == static_cast<int>(site)) {
      rounded += 2;
    }
  }
  if (!fold_.scaled_only.empty()) rounded += 2;
  powers_of_two_ = rounded > 1;
  if (!linear) norm_values_ = values(producer_);
  if (bias_ >= 0) bias_values_ = values(static_cast<size_t>(bias_));
}

int64_t AwqFold::RowOf(int64_t input) const {
  return fold_.kind == FoldKind::kLinear ? RowOfInput(fold_, input) : input;
}

void AwqFold::Tie(std::vector<float>& values) const {
  if (!scales_ || !IsTied()) return;
  const int64_t heads = fold_.head_dim * fold_.repeat;
  for (size_t first = 0; first < values.size();
       first += static_cast<size_t>(heads)) {
    for (int64_t d = 0; d < fold_.head_dim; ++d) {
      const auto at = [&](int64_t head) -> float& {
        return values[first + static_cast<size_t>(head * fold_.head_dim + d)];
      };
      double sum = 0;
      for (int64_t head = 0; head < fold_.repeat; ++head) sum += at(head);
      const auto mean =
          static_cast<float>(sum / static_cast<double>(fold_.repeat));
      for (int64_t head = 0; head < fold_.repeat; ++head) at(head) = mean;
    }
  }
}

float AwqFold::Rounded(size_t tensor, float value) const {
  alignas(float) unsigned char storage[sizeof(float)];
  const DType dtype = info_.tensors[tensor].info.dtype;
  StoreFromFloat(storage, dtype, 0, value);
  return LoadAsFloat(storage, dtype, 0);
}

float AwqFold::Folded(float value, float scale, bool plus_one) const {
  const double folded = Factor(value, plus_one) / static_cast<double>(scale);
  return static_cast<float>(plus_one ? folded - 1 : folded);
}

void AwqFold::MakeExact(size_t tensor, std::span<const float> values,
                        bool plus_one, std::vector<float>& scales) const {
  for (size_t i = 0; i < scales.size(); ++i) {
    const float value =
        values[static_cast<size_t>(RowOf(static_cast<int64_t>(i)))];
    const double before = Factor(value, plus_one);
    if (before == 0) continue;
    const double after =
        Factor(Rounded(tensor, Folded(value, scales[i], plus_one)), plus_one);
    const auto exact = static_cast<float>(before / after);
    scales[i] = std::isfinite(exact) && exact > 0 ? exact : 1.0f;
  }
}

void AwqFold::Adjust(std::vector<float>& scales) const {
  if (!scales_ || profile_ == Profile::kReference) return;
  if (powers_of_two_) {
    for (float& s : scales) s = std::exp2(std::round(std::log2(s)));
  }
  if (!norm_values_.empty()) {
    MakeExact(producer_, norm_values_, fold_.kind == FoldKind::kNormPlusOne,
              scales);
  } else if (!bias_values_.empty()) {
    MakeExact(static_cast<size_t>(bias_), bias_values_, false, scales);
  }
}

void AwqFold::DivideValues(size_t tensor, std::span<const float> scales,
                           bool plus_one,
                           std::vector<AwqTransform>* transforms) const {
  const bool norm = fold_.kind != FoldKind::kLinear && tensor == producer_;
  std::vector<float> values = norm ? norm_values_ : bias_values_;
  const std::vector<float> before = values;
  for (size_t i = 0; i < scales.size(); ++i) {
    const auto at = static_cast<size_t>(RowOf(static_cast<int64_t>(i)));
    if (profile_ == Profile::kReference && plus_one) {
      // AutoAWQ's three operations, each rounded.
      const float sum = Rounded(tensor, before[at] + 1);
      values[at] = Rounded(tensor, Rounded(tensor, sum / scales[i]) - 1);
    } else {
      values[at] = Rounded(tensor, Folded(before[at], scales[i], plus_one));
    }
  }
  (*transforms)[tensor].values = std::move(values);
}

void AwqFold::Apply(std::span<const float> scales,
                    std::vector<AwqTransform>* transforms) const {
  if (!scales_) return;
  for (size_t t = 0; t < info_.tensors.size(); ++t) {
    const GroupTensor& tensor = info_.tensors[t];
    const auto& only = fold_.scaled_only;
    if (tensor.site == static_cast<int>(site_) ||
        std::find(only.begin(), only.end(), tensor.info.name) != only.end()) {
      (*transforms)[t].column_scales.assign(scales.begin(), scales.end());
    }
  }
  if (fold_.kind == FoldKind::kLinear) {
    std::vector<float>& divisors = (*transforms)[producer_].row_divisors;
    divisors.resize(
        static_cast<size_t>(AsMatrix(info_.tensors[producer_].info.shape).rows),
        1.0f);
    for (size_t i = 0; i < scales.size(); ++i) {
      divisors[static_cast<size_t>(RowOf(static_cast<int64_t>(i)))] = scales[i];
    }
  } else {
    DivideValues(producer_, scales, fold_.kind == FoldKind::kNormPlusOne,
                 transforms);
  }
  if (bias_ >= 0) {
    DivideValues(static_cast<size_t>(bias_), scales, false, transforms);
  }
}

}  // namespace qs
