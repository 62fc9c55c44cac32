// Tested by tests/service/solve_group_stream_test.cc.
#include "service/stream/group_job.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"
#include "service/server/proto_convert.h"
#include "service/stream/input_errors.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

absl::StatusOr<FoldKind> KindFromProto(v1::Fold::Kind kind) {
  switch (kind) {
    case v1::Fold::KIND_UNSPECIFIED:
      return FoldKind::kNone;
    case v1::Fold::NORM:
      return FoldKind::kNorm;
    case v1::Fold::NORM_PLUS_ONE:
      return FoldKind::kNormPlusOne;
    case v1::Fold::LINEAR:
      return FoldKind::kLinear;
    default:
      return BadFieldError(
          "group.sites.fold.kind",
          absl::StrCat("got enum number ", static_cast<int>(kind),
                       ", allowed 0 to 3"));
  }
}

absl::StatusOr<GroupSite> SiteFromProto(const v1::GroupSite& site) {
  GroupSite out;
  out.name = site.name();
  out.inputs = site.inputs();
  out.pool = site.pool();
  const v1::Fold& fold = site.fold();
  QS_ASSIGN_OR_RETURN(out.fold.kind, KindFromProto(fold.kind()));
  out.fold.producer = fold.producer();
  out.fold.producer_bias = fold.producer_bias();
  out.fold.row_offset = fold.row_offset();
  out.fold.head_dim = fold.head_dim();
  out.fold.repeat = fold.repeat();
  out.fold.scaled_only = {fold.scaled_only().begin(), fold.scaled_only().end()};
  return out;
}

using SiteIndex = std::unordered_map<std::string_view, int>;

absl::StatusOr<GroupTensor> TensorFromProto(const SiteIndex& sites,
                                            const v1::GroupTensor& tensor) {
  GroupTensor out;
  const v1::TensorBegin begin = [&] {
    v1::TensorBegin made;
    made.set_name(tensor.name());
    made.set_dtype(tensor.dtype());
    *made.mutable_shape() = tensor.shape();
    return made;
  }();
  QS_ASSIGN_OR_RETURN(out.info, TensorInfoFromProto(begin, "group.tensors"));
  if (!tensor.site().empty()) {
    const auto site = sites.find(tensor.site());
    if (site == sites.end()) {
      return BadFieldError(
          "group.tensors.site",
          absl::StrCat("got \"", tensor.site(), "\" for \"", tensor.name(),
                       "\", allowed a site of the group"));
    }
    out.site = site->second;
  }
  switch (tensor.role()) {
    case v1::GroupTensor::ROLE_UNSPECIFIED:
    case v1::GroupTensor::QUANTIZE:
      return out;
    case v1::GroupTensor::FOLD_ONLY:
      out.role = GroupRole::kFoldOnly;
      return out;
    default:
      return BadFieldError(
          "group.tensors.role",
          absl::StrCat("got enum number ", static_cast<int>(tensor.role()),
                       ", allowed 0 to 2"));
  }
}

}  // namespace

absl::StatusOr<GroupInfo> GroupFromProto(const QuantSpec& spec,
                                         const v1::GroupBegin& begin) {
  GroupInfo info;
  info.name = begin.name();
  SiteIndex sites;
  for (const v1::GroupSite& site : begin.sites()) {
    QS_ASSIGN_OR_RETURN(GroupSite made, SiteFromProto(site));
    sites.emplace(site.name(), static_cast<int>(info.sites.size()));
    info.sites.push_back(std::move(made));
  }
  for (const v1::GroupTensor& tensor : begin.tensors()) {
    QS_ASSIGN_OR_RETURN(GroupTensor made, TensorFromProto(sites, tensor));
    info.tensors.push_back(std::move(made));
  }
  const absl::Status valid = ValidateGroup(spec, info);
  if (!valid.ok()) return BadFieldError("group", std::string(valid.message()));
  return info;
}

absl::StatusOr<int64_t> GroupRoom(const QuantSpec& spec, const GroupInfo& info,
                                  int64_t capacity, int64_t spare,
                                  QuantizeOptions* options) {
  const auto tensors = static_cast<int64_t>(info.tensors.size());
  const auto room = [&]() -> absl::StatusOr<int64_t> {
    QS_ASSIGN_OR_RETURN(
        const int64_t bytes,
        EstimateGroupBytes(spec, info, *options, TensorJob::kMaxTilesHeld));
    return bytes + TensorJob::kOverhead * tensors;
  };
  if (options->large_tiles) {
    int64_t widest = 0;
    for (const GroupSite& site : info.sites) {
      widest = std::max(widest, site.inputs);
    }
    const int64_t most = std::min(spare, capacity - SiteJob::MostRoom(widest));
    const absl::StatusOr<int64_t> large = room();
    if (!large.ok() || *large <= most) return large;
    options->large_tiles = false;
  }
  return room();
}

absl::StatusOr<std::shared_ptr<GroupJob>> GroupJob::Create(
    int64_t handle, const QuantSpec& spec, GroupInfo info,
    const QuantizeOptions& options, Reservation reservation) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<SolveGroup> group,
                      SolveGroup::Create(spec, std::move(info), options));
  return std::shared_ptr<GroupJob>(new GroupJob(
      handle, spec, options, std::move(group), std::move(reservation)));
}

GroupJob::GroupJob(int64_t handle, const QuantSpec& spec,
                   const QuantizeOptions& options,
                   std::unique_ptr<SolveGroup> group, Reservation reservation)
    : reservation_(std::make_shared<Reservation>(std::move(reservation))),
      handle_(handle),
      spec_(spec),
      group_(std::move(group)),
      device_use_(GroupDeviceUse(spec, group_->info(), options)),
      solve_device_bytes_(
          DeviceClaimFor(SolveDeviceBytes(spec, group_->info()))),
      sites_(group_->info().sites.size()),
      tensor_begun_(group_->info().tensors.size()),
      sites_left_(sites_.size()),
      tensors_left_(tensor_begun_.size()) {
  const GroupInfo& info = group_->info();
  for (size_t i = 0; i < info.sites.size(); ++i) {
    site_index_.emplace(info.sites[i].name, i);
  }
  for (size_t i = 0; i < info.tensors.size(); ++i) {
    tensor_index_.emplace(info.tensors[i].info.name, i);
  }
}

absl::Status GroupJob::NotInGroup(const std::string& what) const {
  return RpcError(absl::StatusCode::kInvalidArgument, "NOT_IN_GROUP",
                  absl::StrCat("group \"", name(), "\": ", what),
                  {{"group", absl::StrCat(handle_)}});
}

size_t GroupJob::FindSite(const std::string& name) const {
  const auto found = site_index_.find(name);
  return found == site_index_.end() ? sites_.size() : found->second;
}

void GroupJob::SiteComplete(const SiteJob& site) {
  sites_[FindSite(site.name())] = SiteState::kComplete;
  --sites_left_;
}

absl::StatusOr<std::shared_ptr<SiteJob>> GroupJob::BeginSite(
    const v1::SiteBegin& begin, ByteBudget& budget,
    const WorkerKinds& workers) {
  const std::vector<GroupSite>& declared = group_->info().sites;
  const size_t index = FindSite(begin.name());
  if (index == declared.size()) {
    return NotInGroup(
        absl::StrCat("site \"", begin.name(), "\" is none of those declared"));
  }
  if (sites_[index] != SiteState::kNotBegun) {
    return NotInGroup(absl::StrCat("site \"", begin.name(), "\" came already"));
  }
  std::shared_ptr<Site> pool;
  if (!declared[index].pool.empty()) {
    const size_t pool_index = FindSite(declared[index].pool);
    if (sites_[pool_index] != SiteState::kComplete) {
      return NotInGroup(absl::StrCat("site \"", begin.name(), "\": its pool \"",
                                     declared[index].pool,
                                     "\" must be sent before it"));
    }
    pool = group_->site(pool_index);
  }
  auto job = OpenSite(begin, index, std::move(pool), budget, workers);
  if (job.status().code() == absl::StatusCode::kInvalidArgument) {
    const std::string text(job.status().message());
    const size_t colon = text.find(": ");
    return BadFieldError("site." + text.substr(0, colon),
                         text.substr(colon + 2));
  }
  if (job.ok()) sites_[index] = SiteState::kBegun;
  return job;
}

absl::StatusOr<std::shared_ptr<SiteJob>> GroupJob::OpenSite(
    const v1::SiteBegin& begin, size_t index, std::shared_ptr<Site> pool,
    ByteBudget& budget, const WorkerKinds& workers) {
  const int64_t inputs = group_->info().sites[index].inputs;
  int64_t runs = workers.prefer_large ? SiteJob::LargeRuns(begin, inputs) : 1;
  int64_t bytes = SiteJob::RoomFor(begin, inputs, runs, workers.any_gpu);
  std::optional<Reservation> room = budget.TryReserveSpare(bytes);
  if (!room) {
    runs = 1;
    bytes = SiteJob::RoomFor(begin, inputs, runs, workers.any_gpu);
    room = budget.TryReserve(bytes);
  }
  if (!room) {
    return NoRoomError(absl::StrCat("site \"", begin.name(), "\""), bytes,
                       budget, reservation_->bytes());
  }
  return SiteJob::Create(begin, group_->site(index), std::move(pool), runs,
                         *std::move(room));
}

absl::Status GroupJob::CheckTensor(const v1::TensorBegin& begin,
                                   size_t index) const {
  const GroupTensor& declared = group_->info().tensors[index];
  const std::string quoted = absl::StrCat("tensor \"", begin.name(), "\"");
  if (tensor_begun_[index]) return NotInGroup(quoted + " came already");
  const std::vector<int64_t> shape(begin.shape().begin(), begin.shape().end());
  if ((begin.dtype() != v1::DATA_TYPE_UNSPECIFIED &&
       begin.dtype() != DTypeToProto(declared.info.dtype)) ||
      (!shape.empty() && shape != declared.info.shape)) {
    return NotInGroup(
        absl::StrCat(quoted, ": got ", DTypeText(begin.dtype()), " [",
                     absl::StrJoin(shape, ", "), "], declared ",
                     DTypeName(declared.info.dtype), " [",
                     absl::StrJoin(declared.info.shape, ", "), "]"));
  }
  if (declared.site < 0) return absl::OkStatus();
  const auto site = static_cast<size_t>(declared.site);
  if (sites_[site] == SiteState::kComplete) return absl::OkStatus();
  const std::string& name = group_->info().sites[site].name;
  return NotInGroup(
      absl::StrCat(quoted, ": its site \"", name, "\" must be sent before it"));
}

absl::StatusOr<std::shared_ptr<TensorJob>> GroupJob::BeginTensor(
    const v1::TensorBegin& begin) {
  const auto found = tensor_index_.find(begin.name());
  if (found == tensor_index_.end()) {
    return NotInGroup(absl::StrCat("tensor \"", begin.name(),
                                   "\" is none of those declared"));
  }
  const size_t index = found->second;
  QS_RETURN_IF_ERROR(CheckTensor(begin, index));
  QS_ASSIGN_OR_RETURN(std::unique_ptr<TensorQuantizer> quantizer,
                      group_->TakeTensor(index));
  tensor_begun_[index] = true;
  const std::shared_ptr<TensorJob> job =
      TensorJob::Create(begin.handle(), std::move(quantizer), Reservation(),
                        reservation_, /*needs_all=*/solves_whole());
  const GroupTensor& declared = group_->info().tensors[index];
  if (declared.role == GroupRole::kQuantize) {
    job->set_device_bytes(
        DeviceClaimFor(TensorDeviceBytes(spec_, declared.info, device_use_)));
  }
  return job;
}

void GroupJob::TensorComplete(std::shared_ptr<TensorJob> job) {
  --tensors_left_;
  if (solves_whole()) waiting_.push_back(std::move(job));
}

std::string GroupJob::Missing() const {
  const GroupInfo& info = group_->info();
  for (size_t i = 0; i < sites_.size(); ++i) {
    if (sites_[i] != SiteState::kComplete) {
      return absl::StrCat("site \"", info.sites[i].name, "\"");
    }
  }
  for (size_t i = 0; i < tensor_begun_.size(); ++i) {
    if (!tensor_begun_[i]) {
      return absl::StrCat("tensor \"", info.tensors[i].info.name, "\"");
    }
  }
  return "";
}

}  // namespace qs
