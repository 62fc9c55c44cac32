// The groups and sites of a stream: StreamInput's second half.
// Tested by tests/service/solve_group_stream_test.cc.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/stream/input_errors.h"
#include "service/stream/stream_input.h"

namespace qs {
namespace {

using quant::v1::Chunk;
using quant::v1::GroupBegin;
using quant::v1::SiteBegin;
using quant::v1::TensorBegin;

std::string SiteText(const SiteJob& site) {
  return absl::StrCat("site \"", site.name(), "\"");
}

}  // namespace

absl::Status StreamInput::OnGroup(const GroupBegin& begin) {
  QS_RETURN_IF_ERROR(CheckHandle(begin.handle(), "group"));
  if (static_cast<int64_t>(groups_.size()) >= limits_.max_open_tensors()) {
    return BadFieldError("group", absl::StrCat("got ", groups_.size() + 1,
                                               " open groups, allowed ",
                                               limits_.max_open_tensors()));
  }
  QS_ASSIGN_OR_RETURN(const QuantSpec* const spec,
                      SpecOf(begin.rule(), "group"));
  QS_ASSIGN_OR_RETURN(GroupInfo info, GroupFromProto(*spec, begin));
  for (const GroupTensor& tensor : info.tensors) {
    QS_RETURN_IF_ERROR(CheckSize(tensor.info));
  }
  int64_t dequantized = 0;
  for (const GroupTensor& tensor : info.tensors) {
    dequantized += DequantizedBytes(tensor.info);
  }
  QuantizeOptions options = JobOptions();
  const absl::StatusOr<int64_t> group_room =
      GroupRoom(*spec, info, budget_.capacity() - dequantized,
                budget_.spare() - dequantized, &options);
  if (!group_room.ok()) {
    return BadFieldError("group", std::string(group_room.status().message()));
  }
  const int64_t room = *group_room + dequantized;
  if (room > budget_.capacity()) {
    return TooLargeError(absl::StrCat("group \"", info.name, "\": memory"),
                         "a need of ", room, budget_.capacity());
  }
  return Reserve(room, begin.handle(),
                 {std::move(info), begin.rule(), options.large_tiles});
}

absl::Status StreamInput::OpenGroup(int64_t handle, Wanted wanted,
                                    Reservation reservation) {
  const QuantSpec& spec = SpecOf(wanted);
  QuantizeOptions options = JobOptions();
  options.large_tiles = wanted.large_tiles;
  if (send_progress_) options.on_shared = host_.GroupProgress(handle);
  auto group = GroupJob::Create(handle, spec,
                                std::get<GroupInfo>(std::move(wanted.what)),
                                options, std::move(reservation));
  if (!group.ok()) return OpenError(group.status());
  (*group)->set_rule(wanted.rule);
  groups_[handle] = *std::move(group);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<GroupJob>> StreamInput::FindGroup(
    int64_t handle, const char* field) const {
  const auto found = groups_.find(handle);
  if (found != groups_.end()) return found->second;
  return InvalidError("HANDLE_UNKNOWN",
                      absl::StrCat(field, ".group: got ", handle,
                                   ", which is not open, allowed that of a "
                                   "group that has begun"),
                      {{"handle", absl::StrCat(handle)}});
}

absl::Status StreamInput::OnGroupTensor(const TensorBegin& begin) {
  QS_ASSIGN_OR_RETURN(std::shared_ptr<GroupJob> group,
                      FindGroup(begin.group(), "tensor"));
  auto job = group->BeginTensor(begin);
  if (!job.ok()) {
    return ErrorReason(job.status()).empty() ? OpenError(job.status())
                                             : job.status();
  }
  (*job)->set_rule(group->rule());
  open_[begin.handle()] = {*std::move(job), std::move(group)};
  host_.TensorBegun();
  return absl::OkStatus();
}

absl::Status StreamInput::OnSite(const SiteBegin& begin) {
  QS_RETURN_IF_ERROR(CheckHandle(begin.handle(), "site"));
  if (site_ != nullptr) {
    return BadFieldError("site",
                         absl::StrCat("got one while ", SiteText(*site_),
                                      " is open, allowed one at a "
                                      "time"));
  }
  QS_ASSIGN_OR_RETURN(std::shared_ptr<GroupJob> group,
                      FindGroup(begin.group(), "site"));
  auto site = group->BeginSite(begin, budget_, workers_);
  if (!site.ok()) {
    return ErrorReason(site.status()).empty() ? NoMemoryError(site.status())
                                              : site.status();
  }
  site_ = *std::move(site);
  site_group_ = std::move(group);
  return absl::OkStatus();
}

absl::Status StreamInput::CheckSiteChunk(int64_t offset, int64_t bytes) const {
  QS_RETURN_IF_ERROR(CheckOffset(SiteText(*site_), site_->handle(), offset,
                                 site_->received()));
  if (bytes > limits_.max_chunk_bytes()) {
    return InvalidError(
        "CHUNK_TOO_LARGE",
        absl::StrCat("chunk.data: got ", bytes, " bytes, allowed ",
                     limits_.max_chunk_bytes()));
  }
  const std::optional<int64_t> missing = site_->missing();
  if (!missing || bytes <= *missing) return absl::OkStatus();
  return InvalidError("TOO_MANY_BYTES",
                      absl::StrCat(SiteText(*site_), ": chunk.data: got ",
                                   bytes, " bytes, allowed ", *missing,
                                   " more at offset ", site_->received()),
                      {{"handle", absl::StrCat(site_->handle())}});
}

absl::Status StreamInput::OnSiteChunk(const ChunkView& chunk) {
  QS_RETURN_IF_ERROR(CheckSiteChunk(chunk.offset, chunk.data_bytes));
  QS_RETURN_IF_ERROR(CheckCrc(chunk));
  const absl::Status filled = site_->Fill(chunk.data);
  if (!filled.ok()) return NoMemoryError(filled);
  return AdvanceSite(chunk.last);
}

absl::Status StreamInput::OnSiteFloats(const Chunk& message) {
  QS_RETURN_IF_ERROR(
      CheckFloatValues(SiteText(*site_), site_->dtype(),
                       {message.float_values().data(),
                        static_cast<size_t>(message.float_values_size())}));
  const auto size = static_cast<size_t>(DTypeBytes(site_->dtype()));
  std::vector<uint8_t> bytes(size *
                             static_cast<size_t>(message.float_values_size()));
  for (int i = 0; i < message.float_values_size(); ++i) {
    StoreFromFloat(bytes.data(), site_->dtype(), i, message.float_values(i));
  }
  const int64_t offset =
      message.offset() == 0 ? site_->received() : message.offset();
  QS_RETURN_IF_ERROR(
      CheckSiteChunk(offset, static_cast<int64_t>(bytes.size())));
  const ByteSpan piece(bytes);
  const absl::Status filled = site_->Fill({&piece, 1});
  if (!filled.ok()) return NoMemoryError(filled);
  return AdvanceSite(message.last());
}

absl::Status StreamInput::AdvanceSite(bool last) {
  if (last && !site_->Complete()) {
    const std::optional<int64_t> missing = site_->missing();
    return InvalidError(
        "TOO_FEW_BYTES",
        absl::StrCat(SiteText(*site_), ": chunk.last: got it at ",
                     site_->received(), " bytes, allowed at ",
                     missing ? absl::StrCat(site_->received() + *missing)
                             : "one or more whole tokens"),
        {{"handle", absl::StrCat(site_->handle())},
         {"received", absl::StrCat(site_->received())}});
  }
  while (site_->TakeWork()) host_.SiteWorkDue(site_);
  if (!last) return absl::OkStatus();
  const std::shared_ptr<GroupJob> group = std::exchange(site_group_, nullptr);
  group->SiteComplete(*std::exchange(site_, nullptr));
  CloseIfComplete(group);
  return absl::OkStatus();
}

void StreamInput::CloseIfComplete(const std::shared_ptr<GroupJob>& group) {
  if (!group->complete()) return;
  if (group->solves_whole()) host_.GroupDue(group);
  groups_.erase(group->handle());
}

absl::Status StreamInput::CheckGroupsComplete() const {
  if (groups_.empty()) return absl::OkStatus();
  const GroupJob& group = *groups_.begin()->second;
  return InvalidError(
      "TOO_FEW_BYTES",
      absl::StrCat("group \"", group.name(), "\": stream ended, ",
                   group.Missing(), " is missing"),
      {{"handle", absl::StrCat(group.handle())}});
}

}  // namespace qs
