// Tested by tests/service/jobs/inline_calibration_test.cc and
// tests/service/jobs/job_inline_test.cc.
#include "service/jobs/inline_calibration.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"
#include "service/server/options.h"
#include "service/stream/digest.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr char kField[] = "job.calibration.inline";

absl::Status CheckNumbers(const v1::InlineSite& site,
                          const std::string& field) {
  const int64_t n = site.abs_sum_size();
  if (n < 1 || n > kMaxSiteInputs) {
    return BadFieldError(field + ".abs_sum",
                         absl::StrCat("got ", n, " values, allowed 1 to ",
                                      kMaxSiteInputs, ", one for each input"));
  }
  const int64_t packed = SiteMoments::PackedElements(n);
  const int64_t got = site.second_moment_size();
  if (got != packed && got != n * n) {
    return BadFieldError(
        field + ".second_moment",
        absl::StrCat("got ", got, " values, allowed ", packed, " or ", n * n,
                     " for the ", n, " inputs of abs_sum"));
  }
  if (site.token_count() >= 0) return absl::OkStatus();
  return BadFieldError(
      field + ".token_count",
      absl::StrCat("got ", site.token_count(), ", allowed at least 0"));
}

absl::Status CheckModules(const v1::InlineSite& site, const std::string& field,
                          std::set<std::string>* modules) {
  if (site.modules_size() == 0) {
    return BadFieldError(field + ".modules", "got none, allowed at least one");
  }
  for (const std::string& module : site.modules()) {
    if (!module.empty() && module.size() <= kMaxNameBytes &&
        modules->insert(module).second) {
      continue;
    }
    return BadFieldError(field + ".modules",
                         absl::StrCat("got \"", module.substr(0, kMaxNameBytes),
                                      "\", allowed 1 to ", kMaxNameBytes,
                                      " bytes, each module at one site"));
  }
  return absl::OkStatus();
}

// The message's own memory: it is 4 MiB at most.
class InlineSource final : public CalibrationSource {
 public:
  explicit InlineSource(v1::InlineCalibration calibration)
      : calibration_(std::move(calibration)) {
    auto* const all = calibration_.mutable_sites();
    std::sort(
        all->pointer_begin(), all->pointer_end(),
        [](const auto* a, const auto* b) { return a->name() < b->name(); });
    for (const v1::InlineSite& from : calibration_.sites()) {
      CalibrationSite& site = sites_.emplace_back();
      site.name = from.name();
      site.inputs = from.abs_sum_size();
      site.tokens = from.token_count();
      site.modules = {from.modules().begin(), from.modules().end()};
      site.packed = from.second_moment_size() != site.inputs * site.inputs;
    }
    const std::string bytes = calibration_.SerializeAsString();
    Sha256 digest;
    digest.Update(
        {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    identity_ = "inline " + digest.Finish();
  }

  const std::vector<CalibrationSite>& sites() const override { return sites_; }
  std::string Identity() const override { return identity_; }
  absl::Status Error(const std::string& text) const override {
    return absl::InvalidArgumentError("inline calibration: " + text);
  }

  absl::StatusOr<SiteMoments> Read(size_t place) const override {
    const v1::InlineSite& from = calibration_.sites(static_cast<int>(place));
    const CalibrationSite& site = sites_[place];
    QS_ASSIGN_OR_RETURN(SiteMoments moments,
                        SiteMoments::CreateUnfilled(site.name, site.inputs));
    if (site.packed) {
      moments.FillFromPacked(from.second_moment().data());
    } else {
      std::copy(from.second_moment().begin(), from.second_moment().end(),
                moments.second_moment());
    }
    std::copy(from.abs_sum().begin(), from.abs_sum().end(), moments.abs_sum());
    moments.set_tokens(site.tokens);
    return moments;
  }

 private:
  v1::InlineCalibration calibration_;
  std::vector<CalibrationSite> sites_;
  std::string identity_;
};

}  // namespace

absl::Status CheckInlineCalibration(const v1::InlineCalibration& calibration) {
  std::set<std::string> names;
  std::set<std::string> modules;
  for (int i = 0; i < calibration.sites_size(); ++i) {
    const v1::InlineSite& site = calibration.sites(i);
    const std::string field = absl::StrCat(kField, ".sites[", i, "]");
    if (site.name().empty() || site.name().size() > kMaxNameBytes ||
        !names.insert(site.name()).second) {
      return BadFieldError(
          field + ".name",
          absl::StrCat("got \"", site.name().substr(0, kMaxNameBytes),
                       "\", allowed 1 to ", kMaxNameBytes,
                       " bytes, each site once"));
    }
    QS_RETURN_IF_ERROR(CheckModules(site, field, &modules));
    QS_RETURN_IF_ERROR(CheckNumbers(site, field));
  }
  if (calibration.sites_size() > 0) return absl::OkStatus();
  return BadFieldError(absl::StrCat(kField, ".sites"),
                       "got none, allowed at least one");
}

absl::StatusOr<std::shared_ptr<const CalibrationSource>> NewInlineSource(
    v1::InlineCalibration calibration) {
  auto source = std::make_shared<const InlineSource>(std::move(calibration));
  for (size_t i = 0; i < source->sites().size(); ++i) {
    const absl::Status status = source->Load(i).status();
    if (absl::IsInvalidArgument(status)) {
      return RpcError(status.code(), "BAD_CALIBRATION",
                      std::string(status.message()));
    }
    QS_RETURN_IF_ERROR(status);
  }
  return source;
}

void DropNumbers(v1::InlineCalibration* calibration) {
  for (v1::InlineSite& site : *calibration->mutable_sites()) {
    site.set_inputs(site.abs_sum_size());
    site.clear_abs_sum();
    site.clear_second_moment();
  }
}

}  // namespace qs
