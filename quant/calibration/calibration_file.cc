// Tested by tests/quant/calibration_file_test.cc.
#include "quant/calibration/calibration_file.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

using Json = nlohmann::ordered_json;
using Shape = std::vector<int64_t>;

constexpr char kInputs[] = "inputs";
constexpr char kMoment[] = ".second_moment";
constexpr char kAbsSum[] = ".abs_sum";
constexpr char kTokens[] = ".token_count";

std::string FormText(DType dtype, const Shape& shape) {
  return absl::StrCat(DTypeName(dtype), " [", absl::StrJoin(shape, ", "), "]");
}

std::string FormText(const SafetensorsEntry& entry) {
  return FormText(entry.dtype, entry.shape);
}

absl::StatusOr<std::vector<std::string>> ModulesFrom(
    const CalibrationFile& file, const std::string& site, const Json& value) {
  const std::string where =
      absl::StrCat("metadata inputs[", QuoteForError(site), "]: got ");
  const std::string allowed = ", allowed the names of the modules that read it";
  if (!value.is_array() || value.empty()) {
    return file.Error(absl::StrCat(
        where, value.is_array() ? "none" : JsonForError(value), allowed));
  }
  std::vector<std::string> modules;
  for (const Json& module : value) {
    if (!module.is_string()) {
      return file.Error(absl::StrCat(where, JsonForError(module), allowed));
    }
    modules.push_back(module.get<std::string>());
  }
  return modules;
}

// packed += sum over rows of x x^T.
void AddTokens(const float* x, int64_t rows, int64_t n, float* packed,
               float* abs_sum) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* token = x + r * n;
      const float factor = token[i];
      abs_sum[i] += std::fabs(factor);
      for (int64_t j = i; j < n; ++j) packed[j - i] += factor * token[j];
    }
    packed += n - i;
  }
}

}  // namespace

absl::Status CalibrationFile::Error(const std::string& text) const {
  return absl::InvalidArgumentError(
      absl::StrCat("calibration ", QuoteForError(path()), ": ", text));
}

absl::StatusOr<const SafetensorsEntry*> CalibrationFile::Tensor(
    const std::string& name, DType dtype) const {
  const SafetensorsEntry* entry = file_.Find(name);
  if (entry == nullptr) {
    return Error(absl::StrCat("tensor ", QuoteForError(name),
                              ": got none, allowed ", DTypeName(dtype)));
  }
  if (entry->dtype == dtype) return entry;
  return Error(absl::StrCat("tensor ", QuoteForError(name), ": got ",
                            FormText(*entry), ", allowed ", DTypeName(dtype)));
}

// Read, not mapped: a mapping of a file that shrinks kills the process.
absl::Status CalibrationFile::ReadTensor(const std::string& name,
                                         void* out) const {
  const SafetensorsEntry* entry = file_.Find(name);
  return ReadAt(fd_, path(), file_.header().data_offset + entry->begin,
                {static_cast<uint8_t*>(out),
                 static_cast<size_t>(entry->end - entry->begin)});
}

absl::Status CalibrationFile::ReadSite(CalibrationSite* site) const {
  const SafetensorsEntry* entry = file_.Find(site->name);
  if (entry == nullptr) return ReadSums(site);
  site->activations = true;
  if (IsFloatWeight(entry->dtype) && entry->shape.size() == 2 &&
      entry->shape[1] >= 1 && entry->shape[1] <= kMaxSiteInputs) {
    site->tokens = entry->shape[0];
    site->inputs = entry->shape[1];
    return absl::OkStatus();
  }
  return Error(absl::StrCat(
      "tensor ", QuoteForError(entry->name), ": got ", FormText(*entry),
      ", allowed F32, F16 or BF16 [tokens, 1 to ", kMaxSiteInputs, " inputs]"));
}

absl::Status CalibrationFile::ReadSums(CalibrationSite* site) const {
  QS_ASSIGN_OR_RETURN(const SafetensorsEntry* sums,
                      Tensor(site->name + kAbsSum, DType::kF32));
  if (sums->shape.size() != 1 || sums->shape[0] < 1 ||
      sums->shape[0] > kMaxSiteInputs) {
    return Error(absl::StrCat("tensor ", QuoteForError(sums->name), ": got ",
                              FormText(*sums), ", allowed F32 [1 to ",
                              kMaxSiteInputs, "]"));
  }
  const int64_t n = site->inputs = sums->shape[0];
  QS_ASSIGN_OR_RETURN(const SafetensorsEntry* moment,
                      Tensor(site->name + kMoment, DType::kF32));
  const Shape packed = {SiteMoments::PackedElements(n)};
  site->packed = moment->shape == packed;
  if (!site->packed && moment->shape != Shape{n, n}) {
    return Error(absl::StrCat("tensor ", QuoteForError(moment->name), ": got ",
                              FormText(*moment), ", allowed F32 [", n, ", ", n,
                              "] or its packed upper triangle [", packed[0],
                              "], by its abs_sum"));
  }
  QS_ASSIGN_OR_RETURN(const SafetensorsEntry* tokens,
                      Tensor(site->name + kTokens, DType::kI64));
  if (tokens->end - tokens->begin != static_cast<int64_t>(sizeof(int64_t))) {
    return Error(absl::StrCat("tensor ", QuoteForError(tokens->name), ": got ",
                              FormText(*tokens), ", allowed I64 [1]"));
  }
  QS_RETURN_IF_ERROR(ReadTensor(tokens->name, &site->tokens));
  if (site->tokens >= 0) return absl::OkStatus();
  return Error(absl::StrCat("tensor ", QuoteForError(tokens->name), ": got ",
                            site->tokens, ", allowed at least 0"));
}

absl::Status CalibrationFile::CheckModules() const {
  std::unordered_map<std::string_view, std::string_view> read;
  for (const CalibrationSite& site : sites_) {
    for (const std::string& module : site.modules) {
      const auto [found, is_new] = read.emplace(module, site.name);
      if (is_new) continue;
      return Error(
          absl::StrCat("metadata inputs: got module ", QuoteForError(module),
                       " at ", QuoteForError(found->second), " and at ",
                       QuoteForError(site.name), ", allowed at one site"));
    }
  }
  return absl::OkStatus();
}

absl::Status CalibrationFile::ReadSites() {
  metadata_ = file_.header().metadata;
  const auto found = metadata_.find(kInputs);
  if (found == metadata_.end()) {
    return Error(
        "metadata inputs: got none, allowed JSON {site: [modules that read "
        "it]}");
  }
  QS_ASSIGN_OR_RETURN(
      const Json inputs,
      ParseJsonObject(found->second,
                      absl::StrCat("calibration ", QuoteForError(path()),
                                   ": metadata inputs")));
  metadata_.erase(found);
  std::set<std::string> expected;
  for (const auto& [name, modules] : inputs.items()) {
    CalibrationSite& site = sites_.emplace_back();
    site.name = name;
    QS_ASSIGN_OR_RETURN(site.modules, ModulesFrom(*this, name, modules));
    QS_RETURN_IF_ERROR(ReadSite(&site));
    if (site.activations) {
      expected.insert(name);
      continue;
    }
    for (const char* part : {kMoment, kAbsSum, kTokens}) {
      expected.insert(name + part);
    }
  }
  for (const SafetensorsEntry& entry : file_.header().tensors) {
    if (expected.contains(entry.name)) continue;
    return Error(absl::StrCat("tensor ", QuoteForError(entry.name),
                              ": got one of no site, allowed those that "
                              "metadata inputs lists"));
  }
  std::sort(sites_.begin(), sites_.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return CheckModules();
}

absl::StatusOr<CalibrationFile> CalibrationFile::Open(
    const std::string& path, std::shared_ptr<const FileOpener> opener) {
  QS_ASSIGN_OR_RETURN(SafetensorsFile mapped,
                      SafetensorsFile::Open(path, opener));
  CalibrationFile file(std::move(mapped));
  QS_ASSIGN_OR_RETURN(file.fd_, OpenRegularFile(path, opener.get()));
  QS_RETURN_IF_ERROR(file.ReadSites());
  QS_RETURN_IF_ERROR(file.file_.CheckUnchanged());
  return file;
}

// A few tokens at a time, so that a row of the sum is touched once for all of
// them; always in the same order.
absl::Status CalibrationFile::SumActivations(const SafetensorsEntry& entry,
                                             SiteMoments* moments) const {
  constexpr int64_t kTokensAtOnce = 16;
  const int64_t n = moments->inputs();
  const int64_t row_bytes = n * DTypeBytes(entry.dtype);
  float* packed = moments->packed_storage();
  std::fill_n(packed, SiteMoments::PackedElements(n), 0.0f);
  std::fill_n(moments->abs_sum(), n, 0.0f);
  std::vector<uint8_t> raw(static_cast<size_t>(kTokensAtOnce * row_bytes));
  std::vector<float> x(static_cast<size_t>(kTokensAtOnce * n));
  for (int64_t begin = 0; begin < moments->tokens(); begin += kTokensAtOnce) {
    const int64_t rows = std::min(kTokensAtOnce, moments->tokens() - begin);
    const int64_t offset =
        file_.header().data_offset + entry.begin + begin * row_bytes;
    QS_RETURN_IF_ERROR(
        ReadAt(fd_, path(), offset,
               {raw.data(), static_cast<size_t>(rows * row_bytes)}));
    for (int64_t i = 0; i < rows * n; ++i) {
      x[i] = LoadAsFloat(raw.data(), entry.dtype, i);
    }
    AddTokens(x.data(), rows, n, packed, moments->abs_sum());
  }
  moments->ExpandPackedStorage();
  return absl::OkStatus();
}

absl::StatusOr<SiteMoments> CalibrationFile::Read(size_t site) const {
  const CalibrationSite& info = sites_[site];
  QS_ASSIGN_OR_RETURN(SiteMoments moments,
                      SiteMoments::CreateUnfilled(info.name, info.inputs));
  moments.set_tokens(info.tokens);
  if (info.activations) {
    QS_RETURN_IF_ERROR(SumActivations(*file_.Find(info.name), &moments));
    return moments;
  }
  QS_RETURN_IF_ERROR(ReadTensor(info.name + kAbsSum, moments.abs_sum()));
  if (!info.packed) {
    QS_RETURN_IF_ERROR(
        ReadTensor(info.name + kMoment, moments.second_moment()));
    return moments;
  }
  QS_RETURN_IF_ERROR(ReadTensor(info.name + kMoment, moments.packed_storage()));
  moments.ExpandPackedStorage();
  return moments;
}

}  // namespace qs
