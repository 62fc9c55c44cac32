// Tested by tests/service/plan_call_test.cc.
#include "service/server/plan_convert.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"
#include "service/server/options.h"
#include "service/server/proto_convert.h"
#include "service/server/spec_convert.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr size_t kMessageBytes = size_t{256} << 10;
constexpr size_t kFramingBytes = 5;  // gRPC's
constexpr size_t kMaxResponseBytes = size_t{kMaxMessageBytes} - kFramingBytes;
constexpr size_t kTextBytes = 32;  // tags and lengths around a text
constexpr int kMaxTensorParallel = 4096;

absl::StatusOr<Engine> EngineFromProto(v1::Engine engine) {
  switch (engine) {
    case v1::ENGINE_UNSPECIFIED:
      return Engine::kNone;
    case v1::VLLM:
      return Engine::kVllm;
    case v1::TRANSFORMERS:
      return Engine::kTransformers;
    case v1::ENGINE_BITSANDBYTES:
      return Engine::kBitsandbytes;
    case v1::ENGINE_GPTQMODEL:
      return Engine::kGptqModel;
    case v1::ENGINE_HQQ:
      return Engine::kHqq;
    default:
      return BadFieldError(
          "config.target.engine",
          absl::StrCat("got enum number ", static_cast<int>(engine),
                       ", allowed 0 to 5"));
  }
}

v1::PlanEntry::Action ActionToProto(TensorAction action) {
  switch (action) {
    case TensorAction::kQuantize:
      return v1::PlanEntry::QUANTIZE;
    case TensorAction::kCarry:
      return v1::PlanEntry::CARRY;
    case TensorAction::kTied:
      return v1::PlanEntry::TIED;
    case TensorAction::kSplit:
      return v1::PlanEntry::SPLIT;
  }
  return v1::PlanEntry::ACTION_UNSPECIFIED;
}

v1::PlanFile::Action ActionToProto(FileAction action) {
  switch (action) {
    case FileAction::kCopy:
      return v1::PlanFile::COPY;
    case FileAction::kRewrite:
      return v1::PlanFile::REWRITE;
    case FileAction::kSkip:
      return v1::PlanFile::SKIP;
  }
  return v1::PlanFile::ACTION_UNSPECIFIED;
}

void ToProto(const PlanEntry& entry, v1::PlanEntry* out) {
  out->set_name(entry.name);
  out->set_action(ActionToProto(entry.action));
  out->set_reason(entry.reason);
  out->set_site(entry.site);
  out->set_group(entry.group);
  out->set_tied_to(entry.tied_to);
  out->set_bytes_in(entry.bytes_in);
  out->set_bytes_out(entry.bytes_out);
  out->set_rows(entry.rows);
  out->set_cols(entry.cols);
  out->set_rule(entry.rule);
  if (!entry.slice) return;
  v1::TensorSlice* slice = out->mutable_slice();
  slice->set_tensor(entry.slice->tensor);
  slice->set_expert(entry.slice->expert);
  slice->set_first(entry.slice->first_row);
  slice->set_step(entry.slice->row_step);
  slice->set_transposed(entry.slice->transposed);
}

void ToProto(const PlanFile& file, v1::PlanFile* out) {
  out->set_path(file.path);
  out->set_action(ActionToProto(file.action));
  out->set_reason(file.reason);
}

void ToProto(const Finding& finding, v1::Finding* out) {
  out->set_severity(finding.severity == Severity::kError
                        ? v1::Finding::ERROR
                        : v1::Finding::WARNING);
  out->set_tensor(finding.tensor);
  out->set_rule(finding.rule);
  out->set_text(finding.text);
}

v1::Fold::Kind KindToProto(FoldKind kind) {
  switch (kind) {
    case FoldKind::kNone:
      return v1::Fold::KIND_UNSPECIFIED;
    case FoldKind::kNorm:
      return v1::Fold::NORM;
    case FoldKind::kNormPlusOne:
      return v1::Fold::NORM_PLUS_ONE;
    case FoldKind::kLinear:
      return v1::Fold::LINEAR;
  }
  return v1::Fold::KIND_UNSPECIFIED;
}

void ToProto(const PlanSite& site, v1::PlanSite* out) {
  out->set_name(site.name);
  out->set_inputs(site.inputs);
  out->mutable_consumers()->Add(site.consumers.begin(), site.consumers.end());
  v1::Fold* fold = out->mutable_fold();
  fold->set_kind(KindToProto(site.fold.kind));
  fold->set_producer(site.fold.producer);
  fold->set_producer_bias(site.fold.producer_bias);
  fold->set_row_offset(site.fold.row_offset);
  fold->set_head_dim(site.fold.head_dim);
  fold->set_repeat(site.fold.repeat);
  fold->mutable_scaled_only()->Add(site.fold.scaled_only.begin(),
                                   site.fold.scaled_only.end());
  out->set_group(site.group);
  out->set_pooled(site.pooled);
  out->set_pool(site.pool);
}

v1::PlanEntry* AddTo(v1::PlanCheckpointResponse* response, const PlanEntry&) {
  return response->mutable_entries()->add_entries();
}
v1::PlanFile* AddTo(v1::PlanCheckpointResponse* response, const PlanFile&) {
  return response->mutable_files()->add_files();
}
v1::PlanSite* AddTo(v1::PlanCheckpointResponse* response, const PlanSite&) {
  return response->mutable_sites()->add_sites();
}
v1::Finding* AddTo(v1::PlanCheckpointResponse* response, const Finding&) {
  return response->mutable_findings()->add_findings();
}

template <typename Item>
void Append(const std::vector<Item>& items,
            std::vector<v1::PlanCheckpointResponse>* out) {
  size_t room = 0;
  for (const Item& item : items) {
    if (room == 0) {
      out->emplace_back();
      room = kMessageBytes;
    }
    auto* added = AddTo(&out->back(), item);
    ToProto(item, added);
    room -= std::min(room, added->ByteSizeLong());
  }
}

void AddCarried(const Plan& plan, v1::PlanSummary* summary) {
  constexpr size_t kMostReasons = 16;
  std::map<std::string, v1::CarriedTensors> by_reason;
  for (const PlanEntry& entry : plan.entries) {
    if (entry.action != TensorAction::kCarry) continue;
    v1::CarriedTensors& sum = by_reason[entry.reason];
    sum.set_reason(entry.reason);
    sum.set_tensors(sum.tensors() + 1);
    sum.set_bytes(sum.bytes() + entry.bytes_in);
  }
  std::vector<v1::CarriedTensors> sums;
  for (auto& [reason, sum] : by_reason) sums.push_back(std::move(sum));
  std::stable_sort(sums.begin(), sums.end(), [](const auto& a, const auto& b) {
    return a.bytes() > b.bytes();
  });
  while (sums.size() > kMostReasons) {
    v1::CarriedTensors& last = sums[sums.size() - 2];
    last.set_reason("other reasons");
    last.set_tensors(last.tensors() + sums.back().tensors());
    last.set_bytes(last.bytes() + sums.back().bytes());
    sums.pop_back();
  }
  summary->mutable_carried()->Add(sums.begin(), sums.end());
}

// Without the config.
v1::PlanCheckpointResponse SummaryOf(const Plan& plan,
                                     const PlanRequest& request) {
  v1::PlanCheckpointResponse response;
  v1::PlanSummary* summary = response.mutable_summary();
  summary->set_architecture(plan.architecture);
  summary->set_tensors(std::count_if(
      plan.entries.begin(), plan.entries.end(), [](const PlanEntry& entry) {
        return entry.action != TensorAction::kSplit;
      }));
  summary->set_tensors_quantized(plan.tensors_quantized);
  summary->set_bytes_in(plan.bytes_in);
  summary->set_bytes_out(plan.bytes_out);
  summary->set_refused(plan.refused);
  *summary->mutable_resolved() = SpecToProto(request.spec);
  *summary->mutable_overrides() = OverridesToProto(request.overrides);
  for (const std::string& engine : plan.engines) summary->add_engines(engine);
  AddCarried(plan, summary);
  return response;
}

// Pieces as large as can be: clients that know of one summary only get on with
// every config that fits.
void AppendSummary(const Plan& plan, const PlanRequest& request,
                   std::vector<v1::PlanCheckpointResponse>* out) {
  v1::PlanCheckpointResponse last = SummaryOf(plan, request);
  const size_t room = kMaxResponseBytes - kTextBytes -
                      std::min(kMaxResponseBytes / 2, last.ByteSizeLong());
  // ASCII: it may be cut anywhere.
  std::string_view rest = plan.quantization_config_json;
  for (; rest.size() > room; rest.remove_prefix(room)) {
    out->emplace_back().mutable_summary()->set_quantization_config_json(
        std::string(rest.substr(0, room)));
  }
  last.mutable_summary()->set_quantization_config_json(std::string(rest));
  out->push_back(std::move(last));
}

}  // namespace

absl::Status PlanInput::Add(const v1::PlanCheckpointRequest& request) {
  bytes_ += static_cast<int64_t>(request.ByteSizeLong());
  if (bytes_ > limits_.max_bytes) {
    return RpcError(absl::StatusCode::kResourceExhausted, "PLAN_TOO_LARGE",
                    absl::StrCat("requests: got more than ", limits_.max_bytes,
                                 " bytes, which are allowed"),
                    {{"allowed", absl::StrCat(limits_.max_bytes)}});
  }
  if (request.message_case() == v1::PlanCheckpointRequest::kConfig) {
    return AddConfig(request.config());
  }
  if (!has_config_) {
    return BadFieldError("config", "the first message must be config");
  }
  switch (request.message_case()) {
    case v1::PlanCheckpointRequest::kTensors:
      return AddTensors(request.tensors());
    case v1::PlanCheckpointRequest::kFiles:
      return AddFiles(request.files());
    default:
      return BadFieldError("message", "got none, allowed tensors or files");
  }
}

absl::Status PlanInput::AddConfig(const v1::PlanConfig& config) {
  if (has_config_) return BadFieldError("config", "got it twice, allowed once");
  has_config_ = true;
  QS_ASSIGN_OR_RETURN(request_.spec, SpecFromProto(config.quantization(),
                                                   "config.quantization"));
  QS_ASSIGN_OR_RETURN(request_.overrides,
                      OverridesFromProto(config.overrides(), request_.spec,
                                         "config.overrides"));
  QS_ASSIGN_OR_RETURN(request_.engine,
                      EngineFromProto(config.target().engine()));
  if (config.target().has_tensor_parallel()) {
    request_.tensor_parallel = config.target().tensor_parallel();
  }
  if (request_.tensor_parallel < 1 ||
      request_.tensor_parallel > kMaxTensorParallel) {
    return BadFieldError("config.target.tensor_parallel",
                         absl::StrCat("got ", request_.tensor_parallel,
                                      ", allowed 1 to ", kMaxTensorParallel));
  }
  request_.config_json = config.config_json();
  request_.list_sites = config.list_sites();
  request_.max_entries = limits_.max_tensors;
  QS_RETURN_IF_ERROR(
      CheckGlobs("config.include", config.include(), config.exclude()));
  request_.include = {config.include().begin(), config.include().end()};
  request_.exclude = {config.exclude().begin(), config.exclude().end()};
  return absl::OkStatus();
}

absl::Status PlanInput::AddTensors(const v1::TensorHeaders& headers) {
  const int64_t total =
      static_cast<int64_t>(request_.tensors.size()) + headers.tensors_size();
  if (total > limits_.max_tensors) {
    return RpcError(
        absl::StatusCode::kResourceExhausted, "PLAN_TOO_LARGE",
        absl::StrCat("tensors: got ", total, ", allowed ", limits_.max_tensors),
        {{"allowed", absl::StrCat(limits_.max_tensors)}});
  }
  for (const v1::TensorHeader& header : headers.tensors()) {
    if (header.name().size() > kMaxPlanNameBytes) {
      return BadFieldError("tensors",
                           absl::StrCat("got a name of ", header.name().size(),
                                        " bytes, allowed ", kMaxPlanNameBytes));
    }
    const std::optional<DType> dtype = DTypeFromProto(header.dtype());
    if (!dtype || header.shape_size() > kMaxPlanDimensions ||
        header.begin() < 0 || header.end() < header.begin() ||
        std::any_of(header.shape().begin(), header.shape().end(),
                    [](int64_t d) { return d < 0; })) {
      return BadFieldError(
          "tensors",
          absl::StrCat("tensor \"", header.name(),
                       "\": needs a dtype, at most ", kMaxPlanDimensions,
                       " dimensions of at least 0, and 0 <= begin <= end"));
    }
    request_.tensors.push_back({header.name(),
                                *dtype,
                                {header.shape().begin(), header.shape().end()},
                                header.file(),
                                header.begin(),
                                header.end()});
  }
  return absl::OkStatus();
}

absl::Status PlanInput::AddFiles(const v1::FileList& files) {
  for (const v1::CheckpointFile& file : files.files()) {
    request_.files.push_back({file.path(), file.size_bytes()});
  }
  return absl::OkStatus();
}

absl::Status PlanInput::Complete() const {
  if (has_config_) return absl::OkStatus();
  return BadFieldError("config", "the stream ended without it");
}

absl::StatusOr<Plan> PlanWithReasons(const PlanRequest& request) {
  absl::StatusOr<Plan> plan = MakePlan(request);
  if (plan.ok()) return plan;
  const absl::Status& status = plan.status();
  if (status.code() == absl::StatusCode::kFailedPrecondition) {
    return WithReason(status, "SOURCE_QUANTIZED");
  }
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    return RpcError(status.code(), "PLAN_TOO_LARGE",
                    std::string(status.message()),
                    {{"allowed", absl::StrCat(request.max_entries)}});
  }
  if (status.code() != absl::StatusCode::kInvalidArgument) return status;
  const absl::string_view text = status.message();
  if (absl::StartsWith(text, "config.json")) {
    return WithReason(status, "BAD_CONFIG_JSON");
  }
  if (absl::StrContains(text, "twice") ||
      absl::StrContains(text, "duplicate")) {
    return WithReason(status, "DUPLICATE_TENSOR");
  }
  return WithReason(status, "BAD_FIELD");
}

std::vector<v1::PlanCheckpointResponse> PlanToProto(
    const Plan& plan, const PlanRequest& request) {
  std::vector<v1::PlanCheckpointResponse> out;
  Append(plan.entries, &out);
  Append(plan.files, &out);
  Append(plan.sites, &out);
  Append(plan.findings, &out);
  AppendSummary(plan, request, &out);
  return out;
}

absl::Status CheckSizes(
    const std::vector<v1::PlanCheckpointResponse>& responses) {
  for (const v1::PlanCheckpointResponse& response : responses) {
    const size_t bytes = response.ByteSizeLong();
    if (bytes <= kMaxResponseBytes) continue;
    return RpcError(absl::StatusCode::kResourceExhausted, "PLAN_TOO_LARGE",
                    absl::StrCat("responses: got one of ", bytes,
                                 " bytes, allowed ", kMaxResponseBytes),
                    {{"got", absl::StrCat(bytes)},
                     {"allowed", absl::StrCat(kMaxResponseBytes)}});
  }
  return absl::OkStatus();
}

}  // namespace qs
