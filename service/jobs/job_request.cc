// Tested by tests/service/jobs/job_request_test.cc.
#include "service/jobs/job_request.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cctype>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "service/jobs/inline_calibration.h"
#include "service/jobs/job_messages.h"
#include "service/server/error.h"
#include "service/server/spec_convert.h"
#include "service/stream/crc32c.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr size_t kMaxRequestIdBytes = 128;
constexpr size_t kMaxUriBytes = 4096;
constexpr int kMaxLabels = kMaxJobLabels;
constexpr size_t kMaxLabelBytes = 63;
constexpr size_t kMaxFilterLabels = 4;
constexpr size_t kMaxSpecBytes = kMaxJobSpecBytes;
constexpr int kMaxTensorNames = 10'000;
constexpr size_t kMaxTensorNameBytes = size_t{1} << 20;
constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr int32_t kDefaultPage = 50;
constexpr int32_t kMaxPage = 1000;
constexpr int64_t kMaxSeconds = 315'576'000'000;  // of a Duration

absl::Status CheckUri(const std::string& field, const std::string& uri) {
  if (!uri.empty() && uri.size() <= kMaxUriBytes) return absl::OkStatus();
  return BadFieldError(
      field,
      absl::StrCat("got ", uri.size(), " bytes, allowed 1 to ", kMaxUriBytes));
}

bool IsLabelText(const std::string& text, bool is_key) {
  if (text.size() > kMaxLabelBytes || (is_key && text.empty())) return false;
  return std::all_of(text.begin(), text.end(), [is_key](char c) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (u >= 128) return false;
    return std::islower(u) != 0 || std::isdigit(u) != 0 || c == '_' ||
           c == '.' || c == '-' || (!is_key && std::isupper(u) != 0);
  });
}

absl::Status CheckLabel(const std::string& field, const std::string& key,
                        const std::string& value) {
  if (IsLabelText(key, true) && IsLabelText(value, false)) {
    return absl::OkStatus();
  }
  return BadFieldError(field,
                       absl::StrCat("got \"", key, "\": \"", value,
                                    "\", allowed keys [a-z0-9_.-]{1,63} and "
                                    "values [A-Za-z0-9_.-]{0,63}"));
}

absl::Status CheckLabels(const v1::Job& job) {
  if (static_cast<int>(job.labels_size()) > kMaxLabels) {
    return BadFieldError("job.labels",
                         absl::StrCat("got ", job.labels_size(),
                                      ", allowed at most ", kMaxLabels));
  }
  for (const auto& [key, value] : job.labels()) {
    QS_RETURN_IF_ERROR(CheckLabel("job.labels", key, value));
  }
  return absl::OkStatus();
}

absl::Status CheckTimeout(const std::string& field, bool is_set,
                          const google::protobuf::Duration& duration) {
  if (!is_set) return absl::OkStatus();
  if (duration.seconds() >= 1 && duration.seconds() <= kMaxSeconds &&
      duration.nanos() >= 0 && duration.nanos() < 1'000'000'000) {
    return absl::OkStatus();
  }
  return BadFieldError(
      field, absl::StrCat("got ", duration.seconds(), " s and ",
                          duration.nanos(), " ns, allowed at least 1 s"));
}

void ClearOutputOnly(v1::Job* job) {
  job->clear_name();
  job->clear_state();
  job->clear_attempt();
  job->clear_cancelling();
  job->clear_plan();
  job->clear_progress();
  job->clear_error();
  job->clear_summary();
  job->clear_create_time();
  job->clear_start_time();
  job->clear_end_time();
  job->clear_revision();
  job->clear_waiting_for();
  if (job->calibration().has_inline_()) {
    for (v1::InlineSite& site :
         *job->mutable_calibration()->mutable_inline_()->mutable_sites()) {
      site.clear_inputs();
    }
  }
  job->DiscardUnknownFields();
}

absl::Status CheckTensors(const v1::JobTensors& tensors) {
  if ((tensors.names_size() > 0) == !tensors.glob().empty()) {
    return BadFieldError("job.source.tensors",
                         tensors.glob().empty()
                             ? "got neither names nor a glob, allowed one"
                             : "got names and a glob, allowed one");
  }
  QS_RETURN_IF_ERROR(CheckGlob("job.source.tensors.glob", tensors.glob()));
  size_t bytes = 0;
  for (const std::string& name : tensors.names()) bytes += name.size();
  if (tensors.names_size() > kMaxTensorNames || bytes > kMaxTensorNameBytes) {
    return BadFieldError(
        "job.source.tensors.names",
        absl::StrCat("got ", tensors.names_size(), " of ", bytes,
                     " bytes together, allowed at most ", kMaxTensorNames,
                     " of ", kMaxTensorNameBytes));
  }
  const std::string& config = tensors.config_json();
  if (config.empty()) return absl::OkStatus();
  const std::string field = "job.source.tensors.config_json";
  if (config.size() > kMaxConfigBytes) {
    return BadFieldError(field,
                         absl::StrCat("got ", config.size(), " bytes, allowed ",
                                      kMaxConfigBytes));
  }
  const auto json = ParseConfigJson(config, "JSON");
  if (json.ok()) return absl::OkStatus();
  return BadFieldError(field,
                       absl::CEscape(std::string(json.status().message())));
}

absl::Status CheckSource(const v1::JobSource& source) {
  QS_RETURN_IF_ERROR(
      CheckGlobs("job.source.include", source.include(), source.exclude()));
  return source.has_tensors() ? CheckTensors(source.tensors())
                              : CheckUri("job.source.uri", source.uri());
}

absl::Status CheckCalibration(const v1::Job& job) {
  if (!job.has_calibration()) return absl::OkStatus();
  const v1::JobCalibration& from = job.calibration();
  if (from.has_name()) return CheckUri("job.calibration.name", from.name());
  if (from.has_inline_()) {
    QS_RETURN_IF_ERROR(CheckInlineCalibration(from.inline_()));
  } else {
    QS_RETURN_IF_ERROR(CheckUri("job.calibration.uri", from.uri()));
  }
  if (!from.delete_after_use()) return absl::OkStatus();
  return BadFieldError("job.calibration.delete_after_use",
                       "got true without a name, allowed with a name");
}

absl::Status CheckSpec(const v1::Job& job) {
  QS_RETURN_IF_ERROR(CheckSource(job.source()));
  if (job.has_destination()) {
    QS_RETURN_IF_ERROR(
        CheckUri("job.destination.uri", job.destination().uri()));
  }
  QS_RETURN_IF_ERROR(CheckCalibration(job));
  QS_RETURN_IF_ERROR(CheckLabels(job));
  if (!v1::Job::Priority_IsValid(job.priority())) {
    return BadFieldError("job.priority",
                         absl::StrCat("got ", job.priority(),
                                      ", allowed a number of the .proto"));
  }
  QS_RETURN_IF_ERROR(CheckTimeout("job.queue_timeout", job.has_queue_timeout(),
                                  job.queue_timeout()));
  QS_RETURN_IF_ERROR(CheckTimeout("job.execution_timeout",
                                  job.has_execution_timeout(),
                                  job.execution_timeout()));
  // Uploaded tensors and inline calibrations have limits of their own.
  const size_t bytes = job.ByteSizeLong() -
                       job.source().tensors().ByteSizeLong() -
                       job.calibration().inline_().ByteSizeLong();
  if (bytes <= kMaxSpecBytes) return absl::OkStatus();
  return BadFieldError(
      "job",
      absl::StrCat("got ", bytes, " bytes, allowed at most ", kMaxSpecBytes));
}

absl::Status BadTerm(const std::string& term) {
  return BadFieldError(
      "filter",
      absl::StrCat("got \"", term,
                   "\", allowed one state=STATE, one "
                   "create_time>TIME and one create_time<TIME in RFC 3339, and "
                   "up to ",
                   kMaxFilterLabels, " labels.KEY=VALUE, separated by spaces"));
}

// "create_time>..." or "create_time<...", its time maybe in quotes.
absl::Status AddTime(const std::string& term, JobQuery* query) {
  constexpr size_t kName = sizeof("create_time") - 1;
  absl::Time* const bound =
      term[kName] == '>' ? &query->created_after : &query->created_before;
  const absl::Time unset =
      JobQuery().*(term[kName] == '>' ? &JobQuery::created_after
                                      : &JobQuery::created_before);
  std::string text = term.substr(kName + 1);
  if (text.size() > 1 && text.front() == '"' && text.back() == '"') {
    text = text.substr(1, text.size() - 2);
  }
  absl::Time time;
  std::string error;
  if (*bound != unset ||
      !absl::ParseTime(absl::RFC3339_full, text, &time, &error) ||
      time == absl::InfiniteFuture() || time == absl::InfinitePast()) {
    return BadTerm(term);
  }
  *bound = time;
  return absl::OkStatus();
}

absl::Status AddTerm(const std::string& term, JobQuery* query) {
  if (absl::StartsWith(term, "create_time>") ||
      absl::StartsWith(term, "create_time<")) {
    return AddTime(term, query);
  }
  const size_t equals = term.find('=');
  if (equals == std::string::npos) return BadTerm(term);
  const std::string name = term.substr(0, equals);
  const std::string value = term.substr(equals + 1);
  if (name == "state") {
    v1::Job::State state = v1::Job::STATE_UNSPECIFIED;
    if (query->state || !v1::Job::State_Parse(value, &state) ||
        state == v1::Job::STATE_UNSPECIFIED) {
      return BadTerm(term);
    }
    query->state = static_cast<JobState>(state);
    return absl::OkStatus();
  }
  constexpr size_t kPrefix = sizeof("labels.") - 1;
  if (name.rfind("labels.", 0) != 0 ||
      query->labels.size() >= kMaxFilterLabels) {
    return BadTerm(term);
  }
  query->labels.emplace_back(name.substr(kPrefix), value);
  return CheckLabel("filter", query->labels.back().first, value);
}

uint32_t FilterSum(const v1::ListJobsRequest& request) {
  const std::string& filter = request.filter();
  return Crc32c(
      {reinterpret_cast<const uint8_t*>(filter.data()), filter.size()});
}

absl::Status ReadToken(const v1::ListJobsRequest& request, JobQuery* query) {
  if (request.page_token().empty()) return absl::OkStatus();
  const std::vector<std::string> parts =
      absl::StrSplit(request.page_token(), '.');
  if (parts.size() == 2 && absl::SimpleAtoi(parts[0], &query->before) &&
      query->before > 0 &&
      parts[1] == absl::StrFormat("%08x", FilterSum(request))) {
    return absl::OkStatus();
  }
  return BadFieldError("page_token",
                       "got another text, allowed next_page_token of the page "
                       "before, with the same filter");
}

}  // namespace

absl::StatusOr<v1::Job> SpecFromRequest(const v1::CreateJobRequest& request) {
  if (request.request_id().size() > kMaxRequestIdBytes) {
    return BadFieldError(
        "request_id",
        absl::StrCat("got ", request.request_id().size(),
                     " bytes, allowed at most ", kMaxRequestIdBytes));
  }
  v1::Job spec = request.job();
  ClearOutputOnly(&spec);
  QS_RETURN_IF_ERROR(CheckSpec(spec));
  if (spec.priority() == v1::Job::PRIORITY_UNSPECIFIED) {
    spec.set_priority(v1::Job::NORMAL);
  }
  return spec;
}

std::string DeterministicBytes(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&out);
  }
  return bytes;
}

absl::StatusOr<JobQuery> QueryFromRequest(const v1::ListJobsRequest& request) {
  JobQuery query;
  query.limit = kDefaultPage;
  if (request.has_page_size()) {
    if (request.page_size() < 1 || request.page_size() > kMaxPage) {
      return BadFieldError("page_size",
                           absl::StrCat("got ", request.page_size(),
                                        ", allowed 1 to ", kMaxPage));
    }
    query.limit = request.page_size();
  }
  const std::vector<std::string> terms =
      absl::StrSplit(request.filter(), ' ', absl::SkipEmpty());
  for (const std::string& term : terms) {
    QS_RETURN_IF_ERROR(AddTerm(term, &query));
  }
  QS_RETURN_IF_ERROR(ReadToken(request, &query));
  return query;
}

std::string PageToken(const v1::ListJobsRequest& request, int64_t sequence) {
  return absl::StrFormat("%d.%08x", sequence, FilterSum(request));
}

std::string NewJobId(absl::Time now) {
  uint32_t random = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&random), sizeof(random));
  return absl::StrFormat("%012x%08x", absl::ToUnixMillis(now), random);
}

}  // namespace qs
