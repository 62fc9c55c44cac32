// Tested by tests/service/quantize_stream_test.cc.
#include "service/stream/stream_input.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"
#include "service/server/proto_convert.h"
#include "service/stream/crc32c.h"

namespace qs {
namespace {

using quant::v1::Chunk;
using quant::v1::QuantizeConfig;
using quant::v1::QuantizeRequest;
using quant::v1::TensorBegin;

constexpr size_t kMaxNameBytes = 512;
constexpr int kMaxDimensions = 8;

absl::Status Invalid(std::string reason, std::string text,
                     ErrorMetadata metadata = {}) {
  return RpcError(absl::StatusCode::kInvalidArgument, std::move(reason),
                  std::move(text), std::move(metadata));
}

// The machine has less memory than the budget promises.
absl::Status NoMemory(const absl::Status& status) {
  return RetryableError(status.code(), "MEMORY_BUDGET",
                        std::string(status.message()));
}

std::string TensorText(const TensorInfo& info) {
  return absl::StrCat("tensor \"", info.name, "\"");
}

}  // namespace

absl::Status StreamInput::OnRequest(const ParsedRequest& request) {
  const auto kind = request.is_chunk ? QuantizeRequest::kChunk
                                     : request.message.message_case();
  if (kind == QuantizeRequest::kConfig) {
    return OnConfig(request.message.config());
  }
  if (!spec_) {
    return Invalid("CONFIG_MISSING", "message: the first one must be config");
  }
  switch (kind) {
    case QuantizeRequest::kTensor:
      return OnTensor(request.message.tensor());
    case QuantizeRequest::kChunk:
      return request.is_chunk ? OnChunk(request.chunk)
                              : OnChunkMessage(request.message.chunk());
    default:
      return BadFieldError("message", "got none, allowed tensor or chunk");
  }
}

absl::Status StreamInput::OnHalfClose() const {
  if (!spec_) {
    return Invalid("CONFIG_MISSING", "stream: ended before config");
  }
  if (open_.empty()) return absl::OkStatus();
  const TensorJob& job = *open_.begin()->second;
  return Invalid(
      "TOO_FEW_BYTES",
      absl::StrCat(TensorText(job.info()), ": stream ended, ", job.missing(),
                   " bytes and the chunk marked last are missing"),
      {{"handle", absl::StrCat(job.handle())},
       {"received", absl::StrCat(job.received())},
       {"missing", absl::StrCat(job.missing())}});
}

absl::Status StreamInput::OnConfig(const QuantizeConfig& config) {
  if (spec_) {
    return Invalid("CONFIG_TWICE", "config: got a second one, allowed one");
  }
  QS_ASSIGN_OR_RETURN(spec_, SpecFromProto(config.quantization()));
  error_report_ = !config.skip_error_report();
  host_.Accepted(SpecToProto(*spec_), !config.skip_digest());
  return absl::OkStatus();
}

absl::Status StreamInput::CheckBegin(const TensorBegin& begin) const {
  if (open_.count(begin.handle()) > 0) {
    return Invalid("HANDLE_IN_USE",
                   absl::StrCat("tensor.handle: ", begin.handle(),
                                " is open, allowed a new one"),
                   {{"handle", absl::StrCat(begin.handle())}});
  }
  if (static_cast<int64_t>(open_.size()) >= limits_.max_open_tensors()) {
    return BadFieldError("tensor", absl::StrCat("got ", open_.size() + 1,
                                                " open tensors, allowed ",
                                                limits_.max_open_tensors()));
  }
  if (begin.name().empty() || begin.name().size() > kMaxNameBytes) {
    return BadFieldError("tensor.name",
                         absl::StrCat("got ", begin.name().size(),
                                      " bytes, allowed 1 to ", kMaxNameBytes));
  }
  if (begin.shape_size() < 1 || begin.shape_size() > kMaxDimensions) {
    return BadFieldError(
        "tensor.shape",
        absl::StrCat("got ", begin.shape_size(), " dimensions, allowed 1 to ",
                     kMaxDimensions));
  }
  for (int64_t dimension : begin.shape()) {
    if (dimension < 1) {
      return BadFieldError("tensor.shape",
                           absl::StrCat("got a dimension of ", dimension,
                                        ", allowed at least 1"));
    }
  }
  return absl::OkStatus();
}

absl::Status StreamInput::OnTensor(const TensorBegin& begin) {
  QS_RETURN_IF_ERROR(CheckBegin(begin));
  const std::optional<DType> dtype = DTypeFromProto(begin.dtype());
  if (!dtype || !IsFloatWeight(*dtype)) {
    return BadFieldError(
        "tensor.dtype",
        absl::StrCat("got ", quant::v1::DataType_Name(begin.dtype()),
                     ", allowed F32, F16, BF16"));
  }
  TensorInfo info{
      begin.name(), *dtype, {begin.shape().begin(), begin.shape().end()}};
  QS_ASSIGN_OR_RETURN(const int64_t bytes, RoomFor(info));
  return Reserve(bytes, begin.handle(), std::move(info));
}

absl::StatusOr<int64_t> StreamInput::RoomFor(const TensorInfo& info) const {
  const std::optional<int64_t> elements = CheckedNumElements(info.shape);
  const std::optional<int64_t> bytes =
      elements ? CheckedMul(*elements, DTypeBytes(info.dtype)) : std::nullopt;
  if (!bytes) {
    return Invalid(
        "SHAPE_OVERFLOW",
        absl::StrCat(TensorText(info), ": the product of the ",
                     info.shape.size(), " dimensions overflows 63 bits"));
  }
  const auto too_large = [&](const char* what, int64_t got, int64_t allowed) {
    return Invalid(
        "TENSOR_TOO_LARGE",
        absl::StrCat(TensorText(info), ": ", what, " ", got, " bytes, allowed ",
                     allowed),
        {{"got", absl::StrCat(got)}, {"allowed", absl::StrCat(allowed)}});
  };
  if (*bytes > limits_.max_tensor_bytes()) {
    return too_large("got", *bytes, limits_.max_tensor_bytes());
  }
  const absl::StatusOr<int64_t> estimate =
      EstimateMemoryBytes(*spec_, info, JobOptions(), TensorJob::kMaxTilesHeld);
  if (!estimate.ok()) {
    return BadFieldError("tensor", std::string(estimate.status().message()));
  }
  const int64_t room = *estimate + TensorJob::kOverhead;
  if (room > budget_.capacity()) {
    return too_large("needs memory of", room, budget_.capacity());
  }
  return room;
}

absl::Status StreamInput::Reserve(int64_t bytes, int64_t handle,
                                  TensorInfo info) {
  std::optional<Reservation> reservation;
  if (open_.empty()) {
    ByteBudget::Ticket ticket = 0;
    reservation = budget_.ReserveOrWait(bytes, host_.WhenRoom(), &ticket);
    if (!reservation) {
      parked_ = Parked{handle, std::move(info), ticket};
      return absl::OkStatus();
    }
  } else {
    reservation = budget_.TryReserve(bytes);
    if (!reservation) {
      return RetryableError(
          absl::StatusCode::kResourceExhausted, "MEMORY_BUDGET",
          absl::StrCat(TensorText(info), ": needs ", bytes,
                       " bytes while another tensor is open, and ",
                       budget_.reserved(), " of ", budget_.capacity(),
                       " are in use"),
          {{"needed", absl::StrCat(bytes)},
           {"capacity", absl::StrCat(budget_.capacity())}});
    }
  }
  return Open(handle, std::move(info), *std::move(reservation));
}

absl::Status StreamInput::OnRoom(Reservation reservation) {
  Parked parked = *std::exchange(parked_, std::nullopt);
  return Open(parked.handle, std::move(parked.info), std::move(reservation));
}

QuantizeOptions StreamInput::JobOptions() const {
  QuantizeOptions options;
  options.error_report = error_report_;
  options.tiled_input = true;
  options.streamed_output = true;
  options.cancelled = &cancelled_;
  return options;
}

absl::Status StreamInput::Open(int64_t handle, TensorInfo info,
                               Reservation reservation) {
  auto job = TensorJob::Create(handle, *spec_, std::move(info), JobOptions(),
                               std::move(reservation));
  if (job.status().code() == absl::StatusCode::kResourceExhausted) {
    return NoMemory(job.status());
  }
  if (!job.ok()) {
    return BadFieldError("tensor", std::string(job.status().message()));
  }
  open_[handle] = *std::move(job);
  host_.TensorBegun();
  return absl::OkStatus();
}

absl::StatusOr<TensorJob*> StreamInput::FindOpen(int64_t handle) const {
  const auto found = open_.find(handle);
  if (found == open_.end()) {
    return Invalid("HANDLE_UNKNOWN",
                   absl::StrCat("chunk.handle: ", handle,
                                " is not open, begin the tensor first"),
                   {{"handle", absl::StrCat(handle)}});
  }
  return found->second.get();
}

absl::Status StreamInput::CheckRoomInTensor(const TensorJob& job,
                                            int64_t bytes) const {
  if (bytes > limits_.max_chunk_bytes()) {
    return Invalid("CHUNK_TOO_LARGE",
                   absl::StrCat("chunk.data: got ", bytes, " bytes, allowed ",
                                limits_.max_chunk_bytes()));
  }
  if (bytes > job.missing()) {
    return Invalid("TOO_MANY_BYTES",
                   absl::StrCat(TensorText(job.info()), ": got ", bytes,
                                " bytes, allowed ", job.missing(),
                                " more at offset ", job.received()),
                   {{"handle", absl::StrCat(job.handle())}});
  }
  return absl::OkStatus();
}

absl::Status CheckOffset(const TensorJob& job, int64_t offset) {
  if (offset == job.received()) return absl::OkStatus();
  return RpcError(absl::StatusCode::kFailedPrecondition, "OFFSET_GAP",
                  absl::StrCat("chunk.offset: ", TensorText(job.info()),
                               ": got ", offset, ", expected ", job.received()),
                  {{"handle", absl::StrCat(job.handle())},
                   {"expected_offset", absl::StrCat(job.received())}});
}

absl::Status CheckCrc(const ChunkView& chunk) {
  if (!chunk.crc32c) return absl::OkStatus();
  uint32_t crc = 0;
  for (const ByteSpan& piece : chunk.data) crc = ExtendCrc32c(crc, piece);
  if (crc == *chunk.crc32c) return absl::OkStatus();
  return RpcError(
      absl::StatusCode::kAborted, "CHUNK_CRC_MISMATCH",
      absl::StrCat("chunk.crc32c: got ", *chunk.crc32c, ", the data gives ",
                   crc, "; send the tensor again"),
      {{"handle", absl::StrCat(chunk.handle)},
       {"offset", absl::StrCat(chunk.offset)}});
}

absl::Status StreamInput::OnChunk(const ChunkView& chunk) {
  QS_ASSIGN_OR_RETURN(TensorJob* const job, FindOpen(chunk.handle));
  QS_RETURN_IF_ERROR(CheckOffset(*job, chunk.offset));
  QS_RETURN_IF_ERROR(CheckRoomInTensor(*job, chunk.data_bytes));
  QS_RETURN_IF_ERROR(CheckCrc(chunk));
  const absl::Status filled = job->Fill(chunk.data);
  if (!filled.ok()) return NoMemory(filled);
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
  QS_ASSIGN_OR_RETURN(TensorJob* const job, FindOpen(message.handle()));
  if (message.offset() != 0) {
    QS_RETURN_IF_ERROR(CheckOffset(*job, message.offset()));
  }
  const int64_t bytes =
      message.float_values_size() * DTypeBytes(job->info().dtype);
  QS_RETURN_IF_ERROR(CheckRoomInTensor(*job, bytes));
  const absl::Status filled =
      job->FillFloats({message.float_values().data(),
                       static_cast<size_t>(message.float_values_size())});
  if (!filled.ok()) return NoMemory(filled);
  return Advance(job, message.last());
}

absl::Status StreamInput::Advance(TensorJob* job, bool last) {
  if (last && job->missing() > 0) {
    return Invalid("TOO_FEW_BYTES",
                   absl::StrCat(TensorText(job->info()), ": last came ",
                                job->missing(), " bytes early"),
                   {{"handle", absl::StrCat(job->handle())},
                    {"received", absl::StrCat(job->received())},
                    {"missing", absl::StrCat(job->missing())}});
  }
  const auto entry = open_.find(job->handle());
  if (last) job->Complete();
  while (const std::optional<int64_t> tile = job->NextDueTile()) {
    host_.TileDue(entry->second, *tile);
  }
  if (last) open_.erase(entry);
  return absl::OkStatus();
}

StreamInput::Jobs StreamInput::TakeJobs() {
  return std::exchange(open_, Jobs());
}

std::optional<ByteBudget::Ticket> StreamInput::TakeTicket() {
  if (!parked_) return std::nullopt;
  return std::exchange(parked_, std::nullopt)->ticket;
}

}  // namespace qs
