// Tested by tests/service/jobs/read_result_test.cc.
#include "service/jobs/result_reader.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/plan/plan.h"
#include "service/jobs/job_log.h"
#include "service/jobs/job_messages.h"
#include "service/server/error.h"
#include "service/server/options.h"
#include "service/server/proto_convert.h"
#include "service/server/spec_convert.h"
#include "service/stream/crc32c.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr int64_t kPage = 32;
constexpr int64_t kLengthBytes = 8;  // of a header, little-endian

absl::Status NoResult(const JobRecord& job) {
  const std::string state =
      v1::Job::State_Name(static_cast<v1::Job::State>(job.state));
  std::string text = absl::StrCat("job ", job.key.id, ": ");
  if (!job.stored) {
    absl::StrAppend(&text, "its result is in its destination");
  } else {
    absl::StrAppend(&text, "it has no result: ", state);
  }
  return RpcError(absl::StatusCode::kFailedPrecondition, "NO_RESULT", text,
                  {{"state", state}});
}

absl::Status NotThere(const char* field, const std::string& got) {
  return BadFieldError(field,
                       absl::StrCat("got \"", got,
                                    "\", allowed one of the result that is "
                                    "there already"));
}

std::span<uint8_t> BytesOf(std::string* data) {
  return {reinterpret_cast<uint8_t*>(data->data()), data->size()};
}

bool AnyMatches(const google::protobuf::RepeatedPtrField<std::string>& globs,
                const std::string& name) {
  return std::any_of(globs.begin(), globs.end(), [&](const std::string& glob) {
    return GlobMatch(glob, name);
  });
}

absl::Status CheckRequest(const v1::ReadResultRequest& request, bool packed) {
  if (!v1::ReadResultRequest::View_IsValid(request.view())) {
    return BadFieldError("view", absl::StrCat("got ", request.view(),
                                              ", allowed a number of the "
                                              ".proto"));
  }
  const int globs = request.include_size() + request.exclude_size();
  QS_RETURN_IF_ERROR(
      CheckGlobs("include", request.include(), request.exclude()));
  if (packed && !request.file().empty()) {
    return BadFieldError("file", "got one with tensors, allowed with FILES");
  }
  if (!packed && (!request.tensor().empty() || globs > 0)) {
    return BadFieldError("tensor",
                         "got one, or globs, with FILES, allowed with "
                         "PACKED or DEQUANTIZED");
  }
  if (request.offset() == 0) return absl::OkStatus();
  if (request.offset() > 0 && !request.file().empty()) return absl::OkStatus();
  return BadFieldError("offset",
                       absl::StrCat("got ", request.offset(),
                                    ", allowed at least 0, and 0 without a "
                                    "file"));
}

}  // namespace

ResultReader::ResultReader(const Sources& sources, JobKey key,
                           v1::ReadResultRequest request,
                           std::function<void()> wake)
    : records_(sources.records),
      results_(sources.results),
      budget_(sources.budget),
      wake_(std::move(wake)),
      key_(std::move(key)),
      request_(std::move(request)),
      packed_(request_.view() == v1::ReadResultRequest::PACKED ||
              request_.view() == v1::ReadResultRequest::DEQUANTIZED) {}

absl::StatusOr<ReadStep> ResultReader::Next(Response* response) {
  if (!begun_) QS_RETURN_IF_ERROR(Begin());
  if (file_) return packed_ ? NextOfShard(response) : NextOfFile(response);
  QS_RETURN_IF_ERROR(Look());
  QS_ASSIGN_OR_RETURN(const std::optional<JobFileRecord> file,
                      packed_ ? ShardHere() : FileHere());
  if (!file) return EndOrWait(response);
  if (packed_) {
    QS_RETURN_IF_ERROR(FillPage());
    if (page_.empty()) {
      ++place_;
      paged_ = false;
      return ReadStep::kNothing;
    }
  }
  QS_RETURN_IF_ERROR(OpenHere(*file, std::exchange(first_offset_, 0)));
  return ReadStep::kNothing;
}

// --- where it begins

absl::Status ResultReader::Begin() {
  begun_ = true;
  QS_RETURN_IF_ERROR(CheckRequest(request_, packed_));
  QS_RETURN_IF_ERROR(Look());
  if (!request_.file().empty()) return BeginAtFile();
  if (!request_.tensor().empty()) return BeginAtTensor();
  return absl::OkStatus();
}

absl::Status ResultReader::BeginAtFile() {
  while (true) {
    QS_ASSIGN_OR_RETURN(const std::optional<JobFileRecord> file, FileHere());
    if (!file) return NotThere("file", request_.file());
    if (file->file == request_.file()) break;
    ++place_;
  }
  first_offset_ = request_.offset();
  return absl::OkStatus();
}

absl::Status ResultReader::BeginAtTensor() {
  absl::StatusOr<JobTensorRecord> tensor =
      records_.Tensor(key_, request_.tensor());
  if (absl::IsNotFound(tensor.status())) {
    return NotThere("tensor", request_.tensor());
  }
  if (!tensor.ok()) return FromRecords(tensor.status());
  place_ = tensor->shard;
  QS_ASSIGN_OR_RETURN(const std::optional<JobFileRecord> shard, ShardHere());
  if (!shard) return NotThere("tensor", request_.tensor());
  after_ = request_.tensor();
  if (Matches(tensor->name)) page_.push_back(*std::move(tensor));
  paged_ = true;
  return absl::OkStatus();
}

// --- which file

absl::Status ResultReader::Look() {
  absl::StatusOr<JobRecord> job = records_.Get(key_);
  if (!job.ok()) return FromRecords(job.status());
  job_ = *std::move(job);
  if (!job_.stored || job_.state == JobState::kFailed ||
      job_.state == JobState::kCancelled) {
    return NoResult(job_);
  }
  if (fingerprint_.empty() || job_.fingerprint == fingerprint_) {
    return absl::OkStatus();
  }
  return RpcError(absl::StatusCode::kAborted, "RESULT_RESTARTED",
                  absl::StrCat("job ", key_.id,
                               ": it began again, because its source changed: "
                               "read it from the beginning"));
}

absl::StatusOr<std::optional<JobFileRecord>> ResultReader::FileHere() {
  if (job_.state != JobState::kSucceeded) return ShardHere();
  auto files = records_.Files(key_, place_, 1);
  if (!files.ok()) return FromRecords(files.status());
  if (files->empty()) return std::nullopt;
  return std::move(files->front());
}

absl::StatusOr<std::optional<JobFileRecord>> ResultReader::ShardHere() {
  const auto shards = records_.Shards(key_);
  if (!shards.ok()) return FromRecords(shards.status());
  for (const ShardRecord& shard : *shards) {
    if (shard.shard != place_ || shard.digest.empty()) continue;
    return JobFileRecord{shard.file, -1, shard.digest};
  }
  return std::nullopt;
}

absl::StatusOr<ReadStep> ResultReader::EndOrWait(Response* response) {
  const bool complete = job_.state == JobState::kSucceeded;
  if (!complete && request_.wait()) return ReadStep::kWait;
  v1::ReadResultEnd* const end = response->mutable_end();
  end->set_complete(complete);
  end->set_files(files_);
  end->set_tensors(tensors_);
  end->set_bytes(bytes_);
  end->set_state(static_cast<v1::Job::State>(job_.state));
  v1::JobSummary summary;
  if (complete && summary.ParseFromString(job_.summary)) {
    end->set_digest(summary.digest());
  }
  return ReadStep::kLast;
}

absl::Status ResultReader::OpenHere(const JobFileRecord& record,
                                    int64_t offset) {
  absl::StatusOr<UniqueFd> fd = results_.OpenFile(key_, record.file);
  if (absl::IsNotFound(fd.status())) {
    QS_RETURN_IF_ERROR(Look());  // perhaps it was just taken away
    return RpcError(
        absl::StatusCode::kDataLoss, "RESULT_CORRUPT",
        absl::StrCat("result file \"", record.file, "\": it is not there"),
        {{"file", record.file}});
  }
  if (!fd.ok()) return fd.status();
  QS_ASSIGN_OR_RETURN(ResultFile file,
                      ResultFile::Make(*std::move(fd), record, JobLog(job_)));
  if (offset > file.size()) {
    return RpcError(
        absl::StatusCode::kOutOfRange, "OFFSET_PAST_END",
        absl::StrCat("offset: got ", offset, ", allowed 0 to ", file.size()),
        {{"size_bytes", absl::StrCat(file.size())}});
  }
  fingerprint_ = job_.fingerprint;
  at_ = offset;
  file_ = std::move(file);
  return absl::OkStatus();
}

// --- FILES

absl::StatusOr<ReadStep> ResultReader::NextOfFile(Response* response) {
  // What was sent by an earlier call is a part of the digest.
  if (file_->hashed() < at_) {
    QS_RETURN_IF_ERROR(file_->HashTo(at_));
    return ReadStep::kNothing;
  }
  v1::FileChunk* const chunk = response->mutable_chunk();
  std::string* const data = chunk->mutable_data();
  data->resize(static_cast<size_t>(
      std::min(kRecommendedChunkBytes, file_->size() - at_)));
  QS_RETURN_IF_ERROR(file_->Hash(BytesOf(data)));
  chunk->set_file(file_->name());
  chunk->set_offset(at_);
  chunk->set_crc32c(Crc32c(BytesOf(data)));
  chunk->set_size_bytes(file_->size());
  chunk->set_digest(file_->digest());
  at_ += static_cast<int64_t>(data->size());
  bytes_ += static_cast<int64_t>(data->size());
  chunk->set_last(at_ == file_->size());
  if (chunk->last()) {
    ++files_;
    ++place_;
    file_.reset();
  }
  return ReadStep::kMessage;
}

// --- PACKED and DEQUANTIZED

bool ResultReader::Matches(const std::string& tensor) const {
  return (request_.include().empty() ||
          AnyMatches(request_.include(), tensor)) &&
         !AnyMatches(request_.exclude(), tensor);
}

absl::Status ResultReader::FillPage() {
  if (!std::exchange(paged_, true)) after_.clear();
  while (page_.empty()) {
    auto page =
        records_.ShardTensors(key_, static_cast<int>(place_), after_, kPage);
    if (!page.ok()) return FromRecords(page.status());
    if (page->empty()) return absl::OkStatus();
    after_ = page->back().name;
    for (auto tensor = page->rbegin(); tensor != page->rend(); ++tensor) {
      if (Matches(tensor->name)) page_.push_back(std::move(*tensor));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ReadStep> ResultReader::NextOfShard(Response* response) {
  // The whole of it, before anything of it is sent.
  if (file_->hashed() < file_->size()) {
    QS_RETURN_IF_ERROR(file_->HashTo(file_->size()));
    return ReadStep::kNothing;
  }
  if (!header_) QS_RETURN_IF_ERROR(ReadHeader());
  QS_RETURN_IF_ERROR(FillPage());
  if (!page_.empty()) return NextOfTensor(response);
  ++place_;
  paged_ = false;
  header_.reset();
  file_.reset();
  return ReadStep::kNothing;
}

// The digest is right, so the file is as the server wrote it.
absl::Status ResultReader::ReadHeader() {
  std::vector<uint8_t> head(
      static_cast<size_t>(std::min(file_->size(), kLengthBytes)));
  QS_RETURN_IF_ERROR(file_->ReadAt(0, head));
  uint64_t length = 0;
  std::memcpy(&length, head.data(), head.size());
  length = std::min(length, static_cast<uint64_t>(kMaxHeaderBytes));
  head.resize(static_cast<size_t>(
      std::min(file_->size(), kLengthBytes + static_cast<int64_t>(length))));
  QS_RETURN_IF_ERROR(file_->ReadAt(0, head));
  absl::StatusOr<SafetensorsHeader> header =
      ParseSafetensorsHeader(head, file_->size());
  if (!header.ok()) {
    return absl::InternalError(absl::StrCat(
        file_->name(), ": ", std::string(header.status().message())));
  }
  header_ = *std::move(header);
  std::sort(header_->tensors.begin(), header_->tensors.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return a.name < b.name;
            });
  return absl::OkStatus();
}

absl::StatusOr<ReadStep> ResultReader::NextOfTensor(Response* response) {
  if (outputs_ < 0) QS_RETURN_IF_ERROR(OpenTensor());
  const int outputs = weight_ ? 1 : report_.output_tensors_size();
  if (outputs_ == outputs) {
    *response->mutable_report() = std::move(report_);
    outputs_ = -1;
    if (weight_) weight_->Reset();
    page_.pop_back();
    ++tensors_;
    return ReadStep::kMessage;
  }
  if (!weight_) {
    QS_RETURN_IF_ERROR(NextPacked(response->mutable_frame()));
    return ReadStep::kMessage;
  }
  QS_ASSIGN_OR_RETURN(const bool there, Dequantized());
  if (!there) return ReadStep::kWait;
  NextFloats(response->mutable_frame());
  return ReadStep::kMessage;
}

absl::Status ResultReader::OpenTensor() {
  const JobTensorRecord& tensor = page_.back();
  if (!report_.ParseFromString(tensor.report)) {
    return RpcError(absl::StatusCode::kDataLoss, "RESULT_CORRUPT",
                    absl::StrCat(tensor.name, ": a damaged report"));
  }
  outputs_ = 0;
  at_ = 0;
  if (request_.view() != v1::ReadResultRequest::DEQUANTIZED || weight_) {
    return absl::OkStatus();
  }
  v1::Job job;
  if (!job.ParseFromString(job_.spec)) job.Clear();
  QS_ASSIGN_OR_RETURN(const QuantSpec spec,
                      SpecFromProto(job.quantization(), "job.quantization"));
  QS_ASSIGN_OR_RETURN(
      const std::vector<PlanOverride> overrides,
      OverridesFromProto(job.overrides(), spec, "job.overrides"));
  weight_.emplace(SpecsByRule(spec, overrides), budget_, wake_);
  return absl::OkStatus();
}

absl::StatusOr<const SafetensorsEntry*> ResultReader::Find(
    const std::string& name) const {
  const auto entry = std::lower_bound(
      header_->tensors.begin(), header_->tensors.end(), name,
      [](const SafetensorsEntry& one, const std::string& wanted) {
        return one.name < wanted;
      });
  if (entry != header_->tensors.end() && entry->name == name) return &*entry;
  return absl::InternalError(absl::StrCat(name, ": not in ", file_->name()));
}

absl::Status ResultReader::NextPacked(v1::Frame* frame) {
  QS_ASSIGN_OR_RETURN(const SafetensorsEntry* const entry,
                      Find(report_.output_tensors(outputs_)));
  const int64_t size = entry->end - entry->begin;
  std::string* const data = frame->mutable_data();
  data->resize(
      static_cast<size_t>(std::min(kRecommendedChunkBytes, size - at_)));
  QS_RETURN_IF_ERROR(
      file_->ReadAt(header_->data_offset + entry->begin + at_, BytesOf(data)));
  frame->set_tensor(entry->name);
  frame->set_dtype(DTypeToProto(entry->dtype));
  frame->mutable_shape()->Add(entry->shape.begin(), entry->shape.end());
  FinishFrame(size, frame);
  return absl::OkStatus();
}

absl::StatusOr<bool> ResultReader::Dequantized() {
  if (weight_->get() != nullptr) return true;
  std::vector<const SafetensorsEntry*> entries;
  int64_t bytes = 0;
  for (const std::string& name : report_.output_tensors()) {
    QS_ASSIGN_OR_RETURN(entries.emplace_back(), Find(name));
    bytes += entries.back()->end - entries.back()->begin;
  }
  QS_ASSIGN_OR_RETURN(const bool room, weight_->Reserve(report_, bytes));
  if (!room) return false;
  std::vector<OutputTensor> outputs;
  for (const SafetensorsEntry* entry : entries) {
    QS_ASSIGN_OR_RETURN(Buffer data,
                        Buffer::Allocate(entry->end - entry->begin));
    QS_RETURN_IF_ERROR(
        file_->ReadAt(header_->data_offset + entry->begin,
                      {data.data(), static_cast<size_t>(data.size())}));
    outputs.push_back(
        {entry->name, entry->dtype, entry->shape, std::move(data)});
  }
  QS_RETURN_IF_ERROR(weight_->Decode(report_, std::move(outputs)));
  return true;
}

void ResultReader::NextFloats(v1::Frame* frame) {
  const OutputTensor& weight = *weight_->get();
  const int64_t size = weight.data.size();
  frame->set_data(
      weight.data.data() + at_,
      static_cast<size_t>(std::min(kRecommendedChunkBytes, size - at_)));
  frame->set_tensor(weight.name);
  frame->set_dtype(DTypeToProto(weight.dtype));
  frame->mutable_shape()->Add(weight.shape.begin(), weight.shape.end());
  FinishFrame(size, frame);
}

void ResultReader::FinishFrame(int64_t size, v1::Frame* frame) {
  frame->set_offset(at_);
  frame->set_crc32c(Crc32c(BytesOf(frame->mutable_data())));
  at_ += static_cast<int64_t>(frame->data().size());
  bytes_ += static_cast<int64_t>(frame->data().size());
  frame->set_last(at_ == size);
  if (!frame->last()) return;
  ++outputs_;
  at_ = 0;
}

}  // namespace qs
