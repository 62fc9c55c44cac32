// Tested by tests/service/quantize_stream_test.cc.
#include "service/stream/stream_input.h"

#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/device_estimate.h"
#include "service/server/error.h"
#include "service/server/spec_convert.h"
#include "service/stream/input_errors.h"

namespace qs {
namespace {

using quant::v1::Chunk;
using quant::v1::QuantizeConfig;
using quant::v1::QuantizeRequest;
using quant::v1::TensorBegin;

std::string TensorText(const TensorInfo& info) {
  return absl::StrCat("tensor \"", info.name, "\"");
}

// The field of the oneof that is set.
std::string KindText(QuantizeRequest::MessageCase kind) {
  const auto* field = QuantizeRequest::descriptor()->FindFieldByNumber(kind);
  return field == nullptr ? "none" : field->name();
}

std::string WantedText(const StreamInput::Wanted& wanted) {
  if (const auto* group = std::get_if<GroupInfo>(&wanted.what)) {
    return absl::StrCat("group \"", group->name, "\"");
  }
  return TensorText(std::get<TensorInfo>(wanted.what));
}

}  // namespace

absl::Status StreamInput::OnRequest(const ParsedRequest& request) {
  const auto kind = request.is_chunk ? QuantizeRequest::kChunk
                                     : request.message.message_case();
  if (kind == QuantizeRequest::kConfig) {
    return OnConfig(request.message.config());
  }
  if (specs_.empty()) {
    return InvalidError("CONFIG_MISSING",
                        absl::StrCat("message: got ", KindText(kind),
                                     " first, allowed config"));
  }
  switch (kind) {
    case QuantizeRequest::kTensor:
      return OnTensor(request.message.tensor());
    case QuantizeRequest::kGroup:
      return OnGroup(request.message.group());
    case QuantizeRequest::kSite:
      return OnSite(request.message.site());
    case QuantizeRequest::kChunk:
      return request.is_chunk ? OnChunk(request.chunk)
                              : OnChunkMessage(request.message.chunk());
    default:
      return BadFieldError("message",
                           "got none, allowed tensor, chunk, group or site");
  }
}

absl::Status StreamInput::OnHalfClose() const {
  if (specs_.empty()) {
    return InvalidError("CONFIG_MISSING",
                        "message: got none before the stream ended, allowed "
                        "config first");
  }
  if (open_.empty()) return CheckGroupsComplete();
  const TensorJob& job = *open_.begin()->second.job;
  return InvalidError(
      "TOO_FEW_BYTES",
      absl::StrCat(TensorText(job.info()), ": chunk.last: stream ended, got ",
                   job.received(), " bytes and none marked last, allowed ",
                   job.received() + job.missing(), " and a last one"),
      {{"handle", absl::StrCat(job.handle())},
       {"received", absl::StrCat(job.received())},
       {"missing", absl::StrCat(job.missing())}});
}

absl::Status StreamInput::OnConfig(const QuantizeConfig& config) {
  if (!specs_.empty()) {
    return InvalidError("CONFIG_TWICE",
                        "config: got a second one, allowed one");
  }
  QS_ASSIGN_OR_RETURN(const QuantSpec spec,
                      SpecFromProto(config.quantization()));
  QS_ASSIGN_OR_RETURN(overrides_, OverridesFromProto(config.overrides(), spec,
                                                     "config.overrides"));
  error_report_ = !config.skip_error_report();
  if (!QuantizeConfig::View_IsValid(config.view())) {
    return BadFieldError(
        "config.view",
        absl::StrCat("got enum number ", static_cast<int>(config.view()),
                     ", allowed 0 to 2"));
  }
  dequantized_ = config.view() == QuantizeConfig::DEQUANTIZED;
  send_progress_ = config.send_progress();
  specs_ = SpecsByRule(spec, overrides_);
  host_.Accepted(config, spec, overrides_);
  return absl::OkStatus();
}

absl::StatusOr<const QuantSpec*> StreamInput::SpecOf(int rule,
                                                     const char* field) const {
  const auto place = static_cast<size_t>(rule);
  if (rule >= 0 && place < specs_.size() &&
      (rule == 0 || overrides_[place - 1].spec)) {
    return &specs_[place];
  }
  return BadFieldError(
      absl::StrCat(field, ".rule"),
      absl::StrCat("got ", rule, ", allowed 0 to ", overrides_.size(),
                   ", of config.overrides one that has a config"));
}

absl::Status StreamInput::CheckHandle(int64_t handle, const char* field) const {
  const bool site = site_ != nullptr && site_->handle() == handle;
  if (!site && open_.count(handle) == 0 && groups_.count(handle) == 0) {
    return absl::OkStatus();
  }
  return InvalidError("HANDLE_IN_USE",
                      absl::StrCat(field, ".handle: got ", handle,
                                   ", which is open, allowed a new one"),
                      {{"handle", absl::StrCat(handle)}});
}

absl::Status StreamInput::OnTensor(const TensorBegin& begin) {
  QS_RETURN_IF_ERROR(CheckHandle(begin.handle(), "tensor"));
  if (static_cast<int64_t>(open_.size()) >= limits_.max_open_tensors()) {
    return BadFieldError("tensor", absl::StrCat("got ", open_.size() + 1,
                                                " open tensors, allowed ",
                                                limits_.max_open_tensors()));
  }
  if (begin.has_group()) return OnGroupTensor(begin);
  QS_ASSIGN_OR_RETURN(TensorInfo info, TensorInfoFromProto(begin, "tensor"));
  QS_ASSIGN_OR_RETURN(const QuantSpec* const spec,
                      SpecOf(begin.rule(), "tensor"));
  if (NeedsCalibration(*spec)) {
    return InvalidError(
        "CALIBRATION_MISSING",
        absl::StrCat(TensorText(info), ": tensor.group: got none, ",
                     SpecMethodName(*spec),
                     " needs the second moments of its input: begin "
                     "a group and send its site"),
        {{"method", SpecMethodName(*spec)}});
  }
  QS_ASSIGN_OR_RETURN(const int64_t bytes, RoomFor(info, *spec));
  return Reserve(bytes, begin.handle(), {std::move(info), begin.rule()});
}

absl::Status StreamInput::CheckSize(const TensorInfo& info) const {
  const std::optional<int64_t> elements = CheckedNumElements(info.shape);
  const std::optional<int64_t> bytes =
      elements ? CheckedMul(*elements, DTypeBytes(info.dtype)) : std::nullopt;
  if (!bytes) {
    return InvalidError("SHAPE_OVERFLOW",
                        absl::StrCat(TensorText(info), ": shape: got [",
                                     absl::StrJoin(info.shape, ", "), "] of ",
                                     DTypeName(info.dtype),
                                     ", whose bytes overflow 63 bits, allowed ",
                                     limits_.max_tensor_bytes(), " bytes"));
  }
  if (*bytes <= limits_.max_tensor_bytes()) return absl::OkStatus();
  return TooLargeError(TensorText(info) + ": shape", "", *bytes,
                       limits_.max_tensor_bytes());
}

// The floats, beside the packed form and the codes that they come from.
int64_t StreamInput::DequantizedBytes(const TensorInfo& info) const {
  if (!dequantized_) return 0;
  return *CheckedNumElements(info.shape) * (DTypeBytes(info.dtype) + 1);
}

absl::StatusOr<int64_t> StreamInput::RoomFor(const TensorInfo& info,
                                             const QuantSpec& spec) const {
  QS_RETURN_IF_ERROR(CheckSize(info));
  const absl::StatusOr<int64_t> estimate =
      EstimateMemoryBytes(spec, info, JobOptions(), TensorJob::kMaxTilesHeld);
  if (!estimate.ok()) {
    return BadFieldError("tensor", std::string(estimate.status().message()));
  }
  const int64_t room =
      *estimate + TensorJob::kOverhead + DequantizedBytes(info);
  if (room > budget_.capacity()) {
    return TooLargeError(TensorText(info) + ": memory", "a need of ", room,
                         budget_.capacity());
  }
  return room;
}

absl::Status StreamInput::Reserve(int64_t bytes, int64_t handle,
                                  Wanted wanted) {
  std::optional<Reservation> reservation;
  if (open_.empty() && groups_.empty()) {
    ByteBudget::Ticket ticket = 0;
    reservation = budget_.ReserveOrWait(bytes, host_.WhenRoom(), &ticket);
    if (!reservation) {
      parked_ = Parked{handle, std::move(wanted), ticket};
      return absl::OkStatus();
    }
  } else {
    reservation = budget_.TryReserve(bytes);
    if (!reservation) return NoRoomError(WantedText(wanted), bytes, budget_);
  }
  return Open(handle, std::move(wanted), *std::move(reservation));
}

absl::Status StreamInput::OnRoom(Reservation reservation) {
  Parked parked = *std::exchange(parked_, std::nullopt);
  return Open(parked.handle, std::move(parked.wanted), std::move(reservation));
}

QuantizeOptions StreamInput::JobOptions() const {
  QuantizeOptions options;
  options.error_report = error_report_;
  options.tiled_input = true;
  options.large_tiles = workers_.prefer_large;
  options.streamed_output = !dequantized_;
  options.cancelled = &cancelled_;
  return options;
}

absl::Status StreamInput::Open(int64_t handle, Wanted wanted,
                               Reservation reservation) {
  if (std::holds_alternative<GroupInfo>(wanted.what)) {
    return OpenGroup(handle, std::move(wanted), std::move(reservation));
  }
  const QuantSpec& spec = SpecOf(wanted);
  const QuantizeOptions options = JobOptions();
  auto quantizer = TensorQuantizer::Create(
      spec, std::get<TensorInfo>(std::move(wanted.what)), options);
  if (!quantizer.ok()) return OpenError(quantizer.status());
  const std::shared_ptr<TensorJob> job =
      TensorJob::Create(handle, *std::move(quantizer), std::move(reservation));
  job->set_device_bytes(DeviceClaimFor(TensorDeviceBytes(
      spec, job->info(), {.large_tiles = options.large_tiles})));
  job->set_rule(wanted.rule);
  open_[handle] = {job, nullptr};
  host_.TensorBegun();
  return absl::OkStatus();
}

absl::StatusOr<TensorJob*> StreamInput::FindOpen(int64_t handle) const {
  const auto found = open_.find(handle);
  if (found == open_.end()) {
    return InvalidError("HANDLE_UNKNOWN",
                        absl::StrCat("chunk.handle: got ", handle,
                                     ", which is not open, allowed that of a "
                                     "tensor or site that has begun"),
                        {{"handle", absl::StrCat(handle)}});
  }
  return found->second.job.get();
}

absl::Status StreamInput::CheckRoomInTensor(const TensorJob& job,
                                            int64_t bytes) const {
  if (bytes > limits_.max_chunk_bytes()) {
    return InvalidError(
        "CHUNK_TOO_LARGE",
        absl::StrCat("chunk.data: got ", bytes, " bytes, allowed ",
                     limits_.max_chunk_bytes()));
  }
  if (bytes > job.missing()) {
    return InvalidError(
        "TOO_MANY_BYTES",
        absl::StrCat(TensorText(job.info()), ": chunk.data: got ", bytes,
                     " bytes, allowed ", job.missing(), " more at offset ",
                     job.received()),
        {{"handle", absl::StrCat(job.handle())}});
  }
  return absl::OkStatus();
}

absl::Status StreamInput::OnChunk(const ChunkView& chunk) {
  if (site_ != nullptr && site_->handle() == chunk.handle) {
    return OnSiteChunk(chunk);
  }
  QS_ASSIGN_OR_RETURN(TensorJob* const job, FindOpen(chunk.handle));
  QS_RETURN_IF_ERROR(CheckOffset(TensorText(job->info()), chunk.handle,
                                 chunk.offset, job->received()));
  QS_RETURN_IF_ERROR(CheckRoomInTensor(*job, chunk.data_bytes));
  QS_RETURN_IF_ERROR(CheckCrc(chunk));
  const absl::Status filled = job->Fill(chunk.data, chunk.owner);
  if (!filled.ok()) return NoMemoryError(filled);
  return Advance(job, chunk.last);
}

absl::Status StreamInput::OnChunkMessage(const Chunk& message) {
  if (message.float_values().empty()) {
    ChunkView chunk;
    chunk.handle = message.handle();
    chunk.offset = message.offset();
    chunk.data = {{reinterpret_cast<const uint8_t*>(message.data().data()),
                   message.data().size()}};
    chunk.data_bytes = static_cast<int64_t>(message.data().size());
    if (message.has_crc32c()) chunk.crc32c = message.crc32c();
    chunk.last = message.last();
    return OnChunk(chunk);
  }
  if (!message.data().empty() || message.has_crc32c()) {
    return BadFieldError("chunk.float_values",
                         "got data or crc32c beside it, allowed one of data "
                         "and float_values");
  }
  if (site_ != nullptr && site_->handle() == message.handle()) {
    return OnSiteFloats(message);
  }
  QS_ASSIGN_OR_RETURN(TensorJob* const job, FindOpen(message.handle()));
  if (message.offset() != 0) {
    QS_RETURN_IF_ERROR(CheckOffset(TensorText(job->info()), message.handle(),
                                   message.offset(), job->received()));
  }
  const int64_t bytes =
      message.float_values_size() * DTypeBytes(job->info().dtype);
  QS_RETURN_IF_ERROR(CheckRoomInTensor(*job, bytes));
  const std::span<const float> values(
      message.float_values().data(),
      static_cast<size_t>(message.float_values_size()));
  QS_RETURN_IF_ERROR(
      CheckFloatValues(TensorText(job->info()), job->info().dtype, values));
  const absl::Status filled = job->FillFloats(values);
  if (!filled.ok()) return NoMemoryError(filled);
  return Advance(job, message.last());
}

absl::Status StreamInput::Advance(TensorJob* job, bool last) {
  if (last && job->missing() > 0) {
    return InvalidError(
        "TOO_FEW_BYTES",
        absl::StrCat(TensorText(job->info()), ": chunk.last: got it at ",
                     job->received(), " bytes, allowed at ",
                     job->received() + job->missing()),
        {{"handle", absl::StrCat(job->handle())},
         {"received", absl::StrCat(job->received())},
         {"missing", absl::StrCat(job->missing())}});
  }
  const auto entry = open_.find(job->handle());
  if (last) job->Complete();
  const OpenTensor& open = entry->second;
  if (open.group == nullptr || !open.group->solves_whole()) {
    while (std::optional<TensorJob::Due> tile = job->NextDueTile()) {
      host_.TileDue(open.job, *std::move(tile));
    }
  }
  if (!last) return absl::OkStatus();
  const OpenTensor done = std::move(entry->second);
  open_.erase(entry);
  if (done.group != nullptr) {
    done.group->TensorComplete(done.job);
    CloseIfComplete(done.group);
  }
  return absl::OkStatus();
}

StreamInput::Held StreamInput::TakeJobs() {
  return {std::exchange(open_, {}), std::exchange(groups_, {}),
          std::exchange(site_, nullptr), std::exchange(site_group_, nullptr)};
}

std::optional<ByteBudget::Ticket> StreamInput::TakeTicket() {
  if (!parked_) return std::nullopt;
  return std::exchange(parked_, std::nullopt)->ticket;
}

}  // namespace qs
