// Tested by tests/service/store/calibration_store_test.cc.
#include "service/store/calibration_sealing.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/store/failpoint.h"

namespace qs {
namespace {

using Kind = CalibrationPart::Kind;

absl::StatusOr<DType> DTypeOf(const CalibrationPart& part) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (DTypeName(dtype) == part.dtype) return dtype;
  }
  return absl::DataLossError(
      absl::StrCat("record: got dtype \"", part.dtype, "\""));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CalibrationSealing>> CalibrationSealing::Open(
    CalibrationStore& store, int64_t calibration, CalibrationSiteRecord site) {
  QS_ASSIGN_OR_RETURN(std::vector<CalibrationPart> parts,
                      store.records().PartsOf(calibration, site.name));
  return std::unique_ptr<CalibrationSealing>(new CalibrationSealing(
      store, calibration, std::move(site), std::move(parts)));
}

int64_t CalibrationSealing::MemoryBytes(bool on_gpu) const {
  if (parts_.empty()) return 0;
  const int64_t n = site_.inputs;
  const int64_t moments = 4 * n * (n + 1);
  int64_t part = 0;
  for (const CalibrationPart& one : parts_) {
    const absl::StatusOr<DType> dtype = DTypeOf(one);
    int64_t held = moments;
    if (one.kind == Kind::kActivations && dtype.ok()) {
      // The moments are made when the last run was summed.
      held = std::max(SiteAccumulator::MemoryBytes(n, *dtype, 1, on_gpu),
                      SiteAccumulator::MemoryBytes(n, *dtype, 0) + moments);
    }
    part = std::max(part, held);
  }
  return moments + part;
}

absl::Status CalibrationSealing::Load() {
  const absl::Status loaded = LoadPart(parts_[next_]);
  if (!absl::IsDataLoss(loaded)) return loaded;
  QS_ASSIGN_OR_RETURN(const std::vector<CalibrationPart> now,
                      store_.records().PartsOf(calibration_, site_.name));
  const bool named =
      std::any_of(now.begin(), now.end(), [this](const CalibrationPart& one) {
        return one.blob == parts_[next_].blob;
      });
  return named ? loaded
               : absl::AbortedError("site: more came while it was sealed");
}

absl::Status CalibrationSealing::LoadPart(const CalibrationPart& part) {
  if (part.kind == Kind::kMoments) {
    QS_ASSIGN_OR_RETURN(moments_, store_.GetMoments(site_.name, site_.inputs,
                                                    part.tokens, part.blob));
    return absl::OkStatus();
  }
  QS_ASSIGN_OR_RETURN(const DType dtype, DTypeOf(part));
  QS_ASSIGN_OR_RETURN(
      sums_, store_.GetAccumulator(site_.name, site_.inputs, dtype, part));
  return absl::OkStatus();
}

absl::Status CalibrationSealing::Merge(Backend& backend) {
  ++next_;
  if (sums_ != nullptr) {
    QS_ASSIGN_OR_RETURN(moments_, sums_->Finish(backend));
    sums_ = nullptr;
  }
  if (!total_) {
    total_ = std::exchange(moments_, std::nullopt);
    return absl::OkStatus();
  }
  const SiteMoments more = *std::exchange(moments_, std::nullopt);
  return total_->Merge(more);
}

absl::Status CalibrationSealing::Check() const {
  // A site that saw no token, as an expert may, is no error.
  return total_ && total_->tokens() > 0 ? total_->Check() : absl::OkStatus();
}

absl::Status CalibrationSealing::Store() {
  SealedSite sealed;
  sealed.name = site_.name;
  std::vector<std::string> merged;
  for (const CalibrationPart& part : parts_) merged.push_back(part.blob);
  if (total_ && total_->tokens() > 0) {
    sealed.tokens = total_->tokens();
    QS_ASSIGN_OR_RETURN(sealed.blob,
                        store_.PutMoments(*total_, &sealed.digest));
  }
  (void)QS_FAILPOINT("calibration.before_seal");
  const absl::StatusOr<std::vector<std::string>> freed =
      store_.records().Seal(calibration_, sealed, merged);
  if (!freed.ok()) {
    if (!sealed.blob.empty() && !absl::IsInternal(freed.status())) {
      store_.Free({sealed.blob});
    }
    return freed.status();
  }
  (void)QS_FAILPOINT("calibration.after_seal");
  store_.Free(*freed);
  return absl::OkStatus();
}

}  // namespace qs
