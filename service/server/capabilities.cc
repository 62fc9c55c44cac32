// Tested by tests/service/server_test.cc.
#include "service/server/capabilities.h"

#include "quant/calibration/site_moments.h"
#include "quant/plan/plan.h"
#include "quant/quant_spec.h"
#include "quant/solve_group.h"
#include "quant/tensor_limits.h"
#include "service/calibrations/calibration_context.h"
#include "service/jobs/job_request.h"
#include "service/jobs/job_server.h"
#include "service/server/channel_arguments.h"
#include "service/server/proto_convert.h"
#include "service/server/spec_convert.h"
#include "service/server/workers.h"
#include "service/store/job_records.h"
#include "service/tensors/tensor_parts.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

void AddMethods(v1::Capabilities* out) {
  for (const MethodFacts& facts : Methods()) {
    v1::MethodInfo* method = out->add_methods();
    method->set_name(facts.name);
    for (const int bits : facts.bits) method->add_bits(bits);
    for (const int64_t size : facts.block_sizes) method->add_block_sizes(size);
    for (const OutputFormat format : facts.formats) {
      method->add_formats(FormatToProto(format));
    }
    method->set_needs_calibration(facts.needs_calibration);
  }
}

void AddPresets(v1::Capabilities* out) {
  for (const Preset& preset : Presets()) {
    v1::PresetInfo* info = out->add_presets();
    info->set_name(preset.name);
    info->set_description(preset.description);
    *info->mutable_config() = SpecToProto(preset.spec);
  }
}

void AddEngines(v1::Capabilities* out) {
  for (const EngineFacts& facts : EngineMatrix()) {
    v1::EngineInfo* engine = out->add_engines();
    engine->set_name(facts.name);
    engine->set_version(facts.version);
    engine->set_read_on(facts.read_on);
    for (const std::string& what : facts.accepts) engine->add_accepts(what);
  }
}

}  // namespace

v1::Limits LimitsOf(const ServerOptions& options) {
  v1::Limits limits;
  limits.set_max_message_bytes(kMaxMessageBytes);
  limits.set_recommended_chunk_bytes(kRecommendedChunkBytes);
  limits.set_max_chunk_bytes(kMaxChunkBytes);
  limits.set_max_tensor_bytes(options.max_tensor_bytes);
  limits.set_max_open_tensors(options.max_open_tensors);
  limits.set_max_streams(options.max_streams);
  limits.set_max_plan_tensors(options.max_plan_tensors);
  limits.set_memory_budget_bytes(options.memory_budget);
  limits.set_max_overrides(kMaxOverrides);
  limits.set_max_group_sites(static_cast<int64_t>(kMostGroupSites));
  limits.set_max_group_tensors(static_cast<int64_t>(kMostGroupTensors));
  limits.set_max_globs(kMaxGlobs);
  limits.set_max_glob_bytes(static_cast<int64_t>(kMaxGlobBytes));
  limits.set_max_plans(options.max_plans);
  limits.set_max_plan_bytes(options.max_plan_bytes);
  limits.set_max_plan_name_bytes(static_cast<int64_t>(kMaxPlanNameBytes));
  limits.set_max_plan_dimensions(kMaxPlanDimensions);
  limits.set_max_name_bytes(static_cast<int64_t>(kMaxNameBytes));
  limits.set_max_dimensions(kMaxDimensions);
  limits.set_stream_idle_timeout_seconds(options.stream_idle_timeout);
  limits.set_max_connection_streams(kMaxStreamsPerConnection);
  limits.set_max_connections(options.max_connections);
  limits.set_connection_memory_bytes(options.connection_memory);
  return limits;
}

namespace {

v1::KeptLimits KeptLimitsOf(const ServerOptions& options) {
  v1::KeptLimits kept;
  kept.set_max_store_bytes(options.max_store_bytes);
  kept.set_max_project_bytes(options.max_project_bytes);
  kept.set_max_project_tensors(TensorStoreOptions().max_tensors);
  kept.set_max_tensor_streams(options.max_tensor_streams);
  kept.set_upload_expiry_seconds(options.upload_expiry);
  const CalibrationLimits calibrations;
  kept.set_max_project_calibrations(calibrations.calibrations);
  kept.set_max_calibration_sites(kMaxCalibrationSites);
  kept.set_max_calibration_text_bytes(kMaxCalibrationText);
  kept.set_max_site_inputs(kMaxSiteInputs);
  kept.set_max_calibration_shards(calibrations.shards);
  kept.set_max_site_parts(calibrations.parts);
  kept.set_max_calibration_streams(options.max_tensor_streams);
  kept.set_max_running_jobs(options.max_running_jobs);
  kept.set_max_project_running_jobs(MaxRunningInProject(options));
  kept.set_max_project_waiting_jobs(MaxWaitingInProject(options));
  kept.set_max_project_queued_jobs(options.max_queued_jobs);
  kept.set_max_job_history(options.job_history);
  kept.set_max_job_watches(JobServerOptions().max_watches);
  kept.set_max_job_labels(kMaxJobLabels);
  kept.set_max_project_inline_bytes(JobRecords::kMaxInlineBytes);
  kept.set_max_job_spec_bytes(kMaxJobSpecBytes);
  kept.set_max_result_streams(options.max_tensor_streams);
  return kept;
}

}  // namespace

v1::Capabilities MakeCapabilities(const ServerOptions& options,
                                  const GpuProvider* gpus) {
  v1::Capabilities out;
  out.set_version(kServerVersion);
  out.set_api_version(kApiVersion);
  AddMethods(&out);
  AddPresets(&out);
  *out.mutable_limits() = LimitsOf(options);
  if (!options.data_dir.empty()) *out.mutable_kept() = KeptLimitsOf(options);
  AddEngines(&out);
  out.set_cuda(DescribeGpus(gpus));
  out.set_verified_on(GpusVerifiedOn(gpus));
  return out;
}

}  // namespace qs
