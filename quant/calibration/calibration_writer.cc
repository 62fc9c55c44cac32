// Tested by tests/quant/calibration_file_test.cc.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/calibration/calibration_file.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
std::span<const uint8_t> AsBytes(const T* values, int64_t count) {
  return {reinterpret_cast<const uint8_t*>(values),
          static_cast<size_t>(count) * sizeof(T)};
}

std::vector<SafetensorsItem> ItemsOf(const CalibrationSite& site) {
  const int64_t n = site.inputs;
  const std::vector<int64_t> shape =
      site.packed ? std::vector<int64_t>{SiteMoments::PackedElements(n)}
                  : std::vector<int64_t>{n, n};
  return {{site.name + ".second_moment", DType::kF32, shape, {}},
          {site.name + ".abs_sum", DType::kF32, {n}, {}},
          {site.name + ".token_count", DType::kI64, {1}, {}}};
}

// Feeds the writer, which asks tensor by tensor, from sites loaded once.
class SiteSource {
 public:
  SiteSource(const std::vector<CalibrationSite>& sites, const LoadSite& load)
      : sites_(sites), load_(load) {
    for (size_t i = 0; i < sites.size(); ++i) {
      for (const SafetensorsItem& item : ItemsOf(sites[i])) {
        by_tensor_[item.name] = i;
      }
    }
  }

  absl::Status Append(const SafetensorsItem& item, const AppendBytes& append) {
    const size_t index = by_tensor_.at(item.name);
    const CalibrationSite& site = sites_[index];
    if (item.dtype == DType::kI64) return append(AsBytes(&site.tokens, 1));
    QS_RETURN_IF_ERROR(Hold(index));
    const int64_t n = site.inputs;
    if (item.name.ends_with(".abs_sum")) {
      return append(AsBytes(moments_->abs_sum(), n));
    }
    if (!site.packed) {
      return append(AsBytes(moments_->second_moment(), n * n));
    }
    for (int64_t row = 0; row < n; ++row) {
      QS_RETURN_IF_ERROR(append(AsBytes(moments_->PackedRow(row), n - row)));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Hold(size_t index) {
    if (moments_ && held_ == index) return absl::OkStatus();
    moments_.reset();
    QS_ASSIGN_OR_RETURN(SiteMoments moments, load_(index));
    if (moments.inputs() != sites_[index].inputs ||
        moments.tokens() != sites_[index].tokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("site ", QuoteForError(sites_[index].name), ": got ",
                       moments.inputs(), " inputs and ", moments.tokens(),
                       " tokens, allowed ", sites_[index].inputs, " and ",
                       sites_[index].tokens));
    }
    moments_ = std::move(moments);
    held_ = index;
    return absl::OkStatus();
  }

  const std::vector<CalibrationSite>& sites_;
  const LoadSite& load_;
  std::map<std::string, size_t> by_tensor_;
  std::optional<SiteMoments> moments_;
  size_t held_ = 0;
};

std::vector<std::string> Sorted(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  return names;
}

// The sites must be those of the first file.
absl::Status CheckAlike(const CalibrationFile& first,
                        const CalibrationFile& other) {
  for (const CalibrationSite& site : other.sites()) {
    if (!std::binary_search(
            first.sites().begin(), first.sites().end(), site,
            [](const auto& a, const auto& b) { return a.name < b.name; })) {
      return other.Error(absl::StrCat("got site ", QuoteForError(site.name),
                                      ", allowed those of ",
                                      QuoteForError(first.path())));
    }
  }
  if (other.sites().size() != first.sites().size()) {
    return other.Error(absl::StrCat(
        "got ", other.sites().size(), " sites, allowed the ",
        first.sites().size(), " of ", QuoteForError(first.path())));
  }
  for (size_t i = 0; i < first.sites().size(); ++i) {
    const CalibrationSite& a = first.sites()[i];
    const CalibrationSite& b = other.sites()[i];
    if (a.inputs != b.inputs) {
      return other.Error(absl::StrCat("site ", QuoteForError(b.name), ": got ",
                                      b.inputs, " inputs, allowed ", a.inputs));
    }
    if (Sorted(a.modules) != Sorted(b.modules)) {
      return other.Error(
          absl::StrCat("site ", QuoteForError(b.name), ": got modules ",
                       absl::StrJoin(b.modules, ", "), ", allowed ",
                       absl::StrJoin(a.modules, ", ")));
    }
  }
  return absl::OkStatus();
}

// The values of one key; nullopt where a file has none.
using Values = std::vector<std::optional<std::string>>;

std::optional<std::string> SumOf(const Values& values) {
  int64_t sum = 0;
  for (const std::optional<std::string>& value : values) {
    int64_t number = 0;
    if (!value || !absl::SimpleAtoi(*value, &number)) return std::nullopt;
    const std::optional<int64_t> next = CheckedAdd(sum, number);
    if (!next) return std::nullopt;
    sum = *next;
  }
  return absl::StrCat(sum);
}

std::string ListOf(const Values& values, const char* none) {
  std::vector<std::string> texts;
  for (const std::optional<std::string>& value : values) {
    texts.push_back(value ? *value : none);
  }
  return absl::StrJoin(texts, ", ");
}

class MetadataMerge {
 public:
  explicit MetadataMerge(const std::vector<CalibrationFile>& files)
      : files_(files) {}

  absl::Status Run() {
    std::map<std::string, Values> all;
    for (size_t i = 0; i < files_.size(); ++i) {
      for (const auto& [key, value] : files_[i].metadata()) {
        Values& values = all[key];
        values.resize(files_.size());
        values[i] = value;
      }
    }
    for (const auto& [key, values] : all) {
      QS_RETURN_IF_ERROR(Add(key, values));
    }
    return absl::OkStatus();
  }

  CalibrationMetadata metadata;
  std::vector<std::string> conflicts;

 private:
  absl::Status Add(const std::string& key, const Values& values) {
    const bool same =
        std::all_of(values.begin(), values.end(),
                    [&](const auto& v) { return v == values[0]; });
    if (key == "data_hash") return AddData(values, same);
    const std::optional<std::string> sum = SumOf(values);
    if (key == "tokens" && sum) {
      metadata[key] = *sum;
    } else if (same) {
      metadata[key] = *values[0];
    } else if (key == "model_digest") {
      return AddModel(values);
    } else {
      conflicts.push_back(absl::StrCat("metadata ", QuoteForError(key),
                                       ": got ", ListOf(values, "none"),
                                       "; left out"));
    }
    return absl::OkStatus();
  }

  absl::Status AddData(const Values& values, bool same) {
    if (same) {
      conflicts.push_back(absl::StrCat("metadata data_hash: got ", *values[0],
                                       " from every file: the same data "
                                       "counts again"));
    }
    metadata["data_hash"] = ListOf(values, "unknown");
    return absl::OkStatus();
  }

  // One that does not say is believed.
  absl::Status AddModel(const Values& values) {
    std::optional<std::string> model;
    for (size_t i = 0; i < values.size(); ++i) {
      if (!values[i]) {
        conflicts.push_back(absl::StrCat("calibration ",
                                         QuoteForError(files_[i].path()),
                                         ": states no model_digest"));
      } else if (model && *model != *values[i]) {
        return files_[i].Error(absl::StrCat("metadata model_digest: got ",
                                            *values[i], ", allowed ", *model,
                                            " as in the others"));
      } else {
        model = values[i];
      }
    }
    metadata["model_digest"] = *model;
    return absl::OkStatus();
  }

  const std::vector<CalibrationFile>& files_;
};

absl::StatusOr<std::vector<CalibrationSite>> SummedSites(
    const std::vector<CalibrationFile>& files) {
  std::vector<CalibrationSite> sites = files[0].sites();
  for (size_t f = 1; f < files.size(); ++f) {
    QS_RETURN_IF_ERROR(CheckAlike(files[0], files[f]));
    for (size_t i = 0; i < sites.size(); ++i) {
      const std::optional<int64_t> sum =
          CheckedAdd(sites[i].tokens, files[f].sites()[i].tokens);
      if (!sum) {
        return files[f].Error(absl::StrCat("site ",
                                           QuoteForError(sites[i].name),
                                           ": more tokens than 64 bits count"));
      }
      sites[i].tokens = *sum;
    }
  }
  for (CalibrationSite& site : sites) {
    site.packed = true;
    site.activations = false;
  }
  return sites;
}

}  // namespace

absl::Status WriteCalibration(const std::string& path,
                              const std::vector<CalibrationSite>& sites,
                              const CalibrationMetadata& metadata,
                              const LoadSite& load) {
  Json inputs = Json::object();
  std::vector<SafetensorsItem> items;
  for (const CalibrationSite& site : sites) {
    inputs[site.name] = site.modules;
    for (SafetensorsItem& item : ItemsOf(site)) {
      items.push_back(std::move(item));
    }
  }
  CalibrationMetadata all = metadata;
  // Names that are no UTF-8 are refused as tensor names.
  all["inputs"] = inputs.dump(-1, ' ', false, Json::error_handler_t::replace);
  SiteSource source(sites, load);
  return StreamSafetensors(
      path, std::move(items), all,
      [&](const SafetensorsItem& item, const AppendBytes& append) {
        return source.Append(item, append);
      });
}

absl::StatusOr<std::vector<std::string>> MergeCalibrations(
    const std::string& out, std::span<const std::string> paths,
    const std::function<absl::Status()>& goes_on) {
  if (paths.size() < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "merge: got ", paths.size(), " calibrations, allowed at least 2"));
  }
  std::vector<CalibrationFile> files;
  for (const std::string& path : paths) {
    QS_ASSIGN_OR_RETURN(CalibrationFile file, CalibrationFile::Open(path));
    files.push_back(std::move(file));
  }
  QS_ASSIGN_OR_RETURN(const std::vector<CalibrationSite> sites,
                      SummedSites(files));
  MetadataMerge merge(files);
  QS_RETURN_IF_ERROR(merge.Run());
  const auto load_from = [&](const CalibrationFile& file,
                             size_t site) -> absl::StatusOr<SiteMoments> {
    if (goes_on) QS_RETURN_IF_ERROR(goes_on());
    return file.Load(site);
  };
  const auto load = [&](size_t site) -> absl::StatusOr<SiteMoments> {
    QS_ASSIGN_OR_RETURN(SiteMoments sum, load_from(files[0], site));
    for (size_t f = 1; f < files.size(); ++f) {
      QS_ASSIGN_OR_RETURN(const SiteMoments more, load_from(files[f], site));
      QS_RETURN_IF_ERROR(sum.Merge(more));
    }
    return sum;
  };
  QS_RETURN_IF_ERROR(WriteCalibration(out, sites, merge.metadata, load));
  return merge.conflicts;
}

}  // namespace qs
