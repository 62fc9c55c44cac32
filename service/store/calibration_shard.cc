// Tested by tests/service/store/calibration_store_test.cc.
#include "service/store/calibration_shard.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/store/failpoint.h"

namespace qs {

absl::StatusOr<std::unique_ptr<CalibrationShard>> CalibrationShard::Open(
    CalibrationStore& store,
    std::shared_ptr<const CalibrationRecord> calibration, std::string shard,
    int64_t max_shards) {
  QS_ASSIGN_OR_RETURN(CalibrationShardRecord record,
                      store.records().GetShard(calibration->key, shard));
  std::unique_ptr<CalibrationShard> made(new CalibrationShard(
      store, std::move(calibration), std::move(shard), max_shards));
  made->durable_seq_ = made->last_seq_ = record.durable_seq;
  for (CalibrationPart& part : record.parts) {
    std::string site = part.site;
    made->parts_[std::move(site)] = std::move(part);
  }
  return made;
}

const CalibrationSiteRecord* CalibrationShard::FindSite(
    const std::string& name) const {
  const auto& sites = calibration_->sites;
  const auto found = std::lower_bound(
      sites.begin(), sites.end(), name,
      [](const CalibrationSiteRecord& site, const std::string& wanted) {
        return site.name < wanted;
      });
  return found == sites.end() || found->name != name ? nullptr : &*found;
}

absl::Status CalibrationShard::OpenSite(const CalibrationSiteRecord& site,
                                        DType dtype, int64_t runs) {
  Sums opened;
  opened.dtype = dtype;
  const auto part = parts_.find(site.name);
  if (part == parts_.end()) {
    QS_ASSIGN_OR_RETURN(opened.sums, SiteAccumulator::Create(
                                         site.name, site.inputs, dtype, runs));
  } else {
    if (part->second.dtype != DTypeName(dtype)) {
      return absl::InvalidArgumentError(
          absl::StrCat("got ", DTypeName(dtype), ", allowed ",
                       part->second.dtype, " as in the batches before"));
    }
    auto sums = store_.GetAccumulator(site.name, site.inputs, dtype,
                                      part->second, runs);
    if (absl::IsDataLoss(sums.status())) {
      QS_RETURN_IF_ERROR(CheckMine(part->second));
    }
    QS_ASSIGN_OR_RETURN(opened.sums, std::move(sums));
  }
  sums_[site.name] = std::move(opened);
  return absl::OkStatus();
}

absl::Status CalibrationShard::CheckMine(const CalibrationPart& part) {
  QS_ASSIGN_OR_RETURN(const CalibrationShardRecord now,
                      store_.records().GetShard(calibration_->key, shard_));
  if (now.durable_seq != durable_seq_) {
    return absl::AbortedError("shard: got another writer");
  }
  const bool named = std::any_of(
      now.parts.begin(), now.parts.end(),
      [&part](const CalibrationPart& one) { return one.blob == part.blob; });
  if (named) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("site: got \"", part.site, "\", which is sealed"));
}

absl::Status CalibrationShard::Add(const std::string& site, DType dtype,
                                   const uint8_t* rows, int64_t tokens,
                                   Backend& backend) {
  Sums& into = sums_.at(site);
  if (into.dtype != dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat("got ", DTypeName(dtype), ", allowed ",
                     DTypeName(into.dtype), " as in the batches before"));
  }
  // Found here, the batch can be sent again right. Once it is durable it could
  // not be taken out of the sums.
  QS_RETURN_IF_ERROR(into.sums->CheckFinite(rows, tokens));
  into.changed = true;
  const absl::Status added = into.sums->Add(rows, tokens, backend);
  usable_ = added.ok();
  if (!added.ok()) return added;
  ++last_seq_;
  pending_bytes_ += tokens * FindSite(site)->inputs * DTypeBytes(dtype);
  return absl::OkStatus();
}

bool CalibrationShard::has_whole_runs() const {
  return std::any_of(sums_.begin(), sums_.end(), [](const auto& site) {
    return site.second.sums->has_whole_runs();
  });
}

absl::Status CalibrationShard::SumWholeRuns(Backend& backend) {
  for (auto& [unused, sums] : sums_) {
    const absl::Status summed = sums.sums->SumWholeRuns(backend);
    if (summed.ok()) continue;
    usable_ = false;
    return summed;
  }
  return absl::OkStatus();
}

absl::Status CalibrationShard::PutChanged(std::vector<CalibrationPart>* parts) {
  for (const auto& [site, sums] : sums_) {
    if (!sums.changed) continue;
    QS_ASSIGN_OR_RETURN(
        std::string blob,
        store_.PutAccumulator(*sums.sums, FindSite(site)->inputs, sums.dtype));
    CalibrationPart& part = parts->emplace_back();
    part.source = shard_;
    part.site = site;
    part.blob = std::move(blob);
    part.dtype = std::string(DTypeName(sums.dtype));
    part.tokens = sums.sums->tokens();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> CalibrationShard::PutAll(
    std::vector<CalibrationPart>* parts) {
  QS_RETURN_IF_ERROR(PutChanged(parts));
  (void)QS_FAILPOINT("calibration.before_record");
  return store_.records().PutShard(calibration_->key, shard_, durable_seq_,
                                   last_seq_, *parts, max_shards_);
}

absl::Status CalibrationShard::Checkpoint() {
  if (!usable_) return absl::InternalError("sums: got a part of a batch");
  if (last_seq_ == durable_seq_) return absl::OkStatus();
  std::vector<CalibrationPart> parts;
  const absl::StatusOr<std::vector<std::string>> freed = PutAll(&parts);
  if (!freed.ok()) {
    // Nobody names them. (After an error whose outcome is unknown no record is
    // written any more, and a start that finds them named keeps them.)
    if (!absl::IsInternal(freed.status())) {
      std::vector<std::string> orphans;
      for (const CalibrationPart& part : parts) {
        if (!part.blob.empty()) orphans.push_back(part.blob);
      }
      store_.Free(orphans);
    }
    return freed.status();
  }
  (void)QS_FAILPOINT("calibration.after_record");
  store_.Free(*freed);
  for (CalibrationPart& part : parts) {
    std::string site = part.site;
    sums_.at(site).changed = false;
    parts_[std::move(site)] = std::move(part);
  }
  durable_seq_ = last_seq_;
  pending_bytes_ = 0;
  return absl::OkStatus();
}

}  // namespace qs
