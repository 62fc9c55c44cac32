// Tested by tests/cli/report_test.cc.
#include "service/cli/report_json.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "service/cli/arguments.h"
#include "service/cli/exit_code.h"

namespace qs::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kSchema[] = "quantd.report/1";
// A report of 200000 tensors.
constexpr JsonLimits kLimits = {.max_bytes = int64_t{1} << 30,
                                .max_depth = 16,
                                .max_values = int64_t{64} << 20};

Json PlanJson(const PlanAnswer& plan) {
  return {{"summary", MessageToJson(plan.summary)},
          {"findings", MessagesToJson(plan.findings)},
          {"entries", MessagesToJson(plan.entries)},
          {"files", MessagesToJson(plan.files)},
          {"sites", MessagesToJson(plan.sites)}};
}

const Json& At(const Json& json, const char* key) {
  static const Json kNothing;
  const auto found = json.find(key);
  return found == json.end() ? kNothing : *found;
}

absl::Status Wrong(const std::string& where, const Json& got,
                   const std::string& allowed) {
  return absl::InvalidArgumentError(absl::StrCat(
      "report: ", where, ": got ", JsonForError(got), ", allowed ", allowed));
}

template <typename Message>
absl::Status ReadArray(const Json& json, const std::string& where,
                       std::vector<Message>* out) {
  if (!json.is_array()) return Wrong(where, json, "an array");
  for (size_t i = 0; i < json.size(); ++i) {
    out->emplace_back();
    QS_RETURN_IF_ERROR(MessageFromJson(
        json[i], absl::StrCat(where, "[", i, "]"), &out->back()));
  }
  return absl::OkStatus();
}

// One that reports of the schema's first version lack.
template <typename Message>
absl::Status ReadLaterArray(const Json& json, const char* key,
                            const std::string& where,
                            std::vector<Message>* out) {
  const Json& array = At(json, key);
  return array.is_null() ? absl::OkStatus() : ReadArray(array, where, out);
}

absl::Status ReadPlan(const Json& json, PlanAnswer* plan) {
  if (!json.is_object()) return Wrong("plan", json, "an object");
  QS_RETURN_IF_ERROR(
      MessageFromJson(At(json, "summary"), "plan.summary", &plan->summary));
  QS_RETURN_IF_ERROR(
      ReadArray(At(json, "findings"), "plan.findings", &plan->findings));
  QS_RETURN_IF_ERROR(
      ReadArray(At(json, "entries"), "plan.entries", &plan->entries));
  QS_RETURN_IF_ERROR(ReadArray(At(json, "files"), "plan.files", &plan->files));
  return ReadLaterArray(json, "sites", "plan.sites", &plan->sites);
}

absl::Status ReadText(const Json& json, const std::string& where,
                      std::string* out) {
  if (!json.is_string()) return Wrong(where, json, "a string");
  *out = json.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadSide(const Json& json, const std::string& where,
                      std::string* path, int64_t* bytes) {
  if (!json.is_object()) return Wrong(where, json, "an object");
  QS_RETURN_IF_ERROR(ReadText(At(json, "path"), where + ".path", path));
  const Json& data = At(json, "data_bytes");
  if (!data.is_number_integer()) {
    return Wrong(where + ".data_bytes", data, "an integer");
  }
  *bytes = data.get<int64_t>();
  return absl::OkStatus();
}

absl::Status ReadReport(const Json& json, RunReport* report) {
  const Json& schema = At(json, "schema");
  if (schema != kSchema) {
    return Wrong("schema", schema, QuoteForError(kSchema));
  }
  QS_RETURN_IF_ERROR(
      ReadText(At(json, "created"), "created", &report->created));
  QS_RETURN_IF_ERROR(ReadText(At(json, "server"), "server", &report->server));
  QS_RETURN_IF_ERROR(ReadSide(At(json, "input"), "input", &report->input_path,
                              &report->input_bytes));
  QS_RETURN_IF_ERROR(ReadSide(At(json, "output"), "output",
                              &report->output_path, &report->output_bytes));
  if (const Json& path = At(json, "calibration"); !path.is_null()) {
    QS_RETURN_IF_ERROR(
        ReadText(path, "calibration", &report->calibration_path));
  }
  QS_RETURN_IF_ERROR(
      MessageFromJson(At(json, "target"), "target", &report->target));
  const Json& streams = At(json, "streams");
  if (!streams.is_number_integer()) {
    return Wrong("streams", streams, "an integer");
  }
  report->streams = streams.get<int>();
  const Json& seconds = At(json, "seconds");
  if (!seconds.is_number()) return Wrong("seconds", seconds, "a number");
  report->seconds = seconds.get<double>();
  QS_RETURN_IF_ERROR(ReadPlan(At(json, "plan"), &report->plan));
  QS_RETURN_IF_ERROR(
      ReadArray(At(json, "tensors"), "tensors", &report->tensors));
  return ReadLaterArray(json, "folded", "folded", &report->folded);
}

}  // namespace

Json TotalsToJson(const RunTotals& totals) {
  quant::v1::TensorReport figures;  // for its rule on infinite figures
  figures.set_mse_ratio_to_rtn(totals.mse_ratio_to_rtn);
  Json all = MessageToJson(totals.all);
  return {{"tensors", totals.tensors},
          {"weights", totals.weights},
          {"bytes_in", totals.bytes_in},
          {"bytes_out", totals.bytes_out},
          {"bits_per_weight", totals.bits_per_weight},
          {"error", MessageToJson(totals.error)},
          {"rtn", MessageToJson(totals.rtn)},
          {"mse_ratio_to_rtn", MessageToJson(figures)["mse_ratio_to_rtn"]},
          {"histogram", totals.histogram},
          {"with_output_error", totals.with_output_error},
          {"output_error", totals.output_error},
          {"rtn_output_error", totals.rtn_output_error},
          {"worker_seconds", totals.worker_seconds},
          {"phases", MessageToJson(totals.all.phases())},
          {"memory_bytes", totals.memory_bytes},
          {"warnings", totals.warnings},
          {"worst_groups", all["worst_groups"]},
          {"solver", all.value("solver", Json())},
          {"devices", all["devices"]},
          {"algorithms", all["algorithms"]}};
}

std::string DumpJson(const Json& json) {
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string ReportToJson(const RunReport& report) {
  Json json;
  json["schema"] = kSchema;
  json["created"] = report.created;
  json["quantctl"] = kVersion;
  json["server"] = report.server;
  json["input"] = {{"path", report.input_path},
                   {"data_bytes", report.input_bytes}};
  json["output"] = {{"path", report.output_path},
                    {"data_bytes", report.output_bytes}};
  json["calibration"] = report.calibration_path;
  json["target"] = MessageToJson(report.target);
  json["streams"] = report.streams;
  json["seconds"] = report.seconds;
  json["plan"] = PlanJson(report.plan);
  json["summary"] = TotalsToJson(TotalsOf(report.tensors));
  json["tensors"] = MessagesToJson(report.tensors);
  json["folded"] = MessagesToJson(report.folded);
  return DumpJson(json);
}

absl::StatusOr<RunReport> ReportFromJson(std::string_view text) {
  absl::StatusOr<Json> json = ParseJsonObject(text, "report", kLimits);
  if (!json.ok()) return InputFault(json.status());
  RunReport report;
  const absl::Status status = ReadReport(*json, &report);
  if (!status.ok()) return InputFault(status);
  return report;
}

std::string PlanToJson(const PlanAnswer& plan) {
  return DumpJson({{"schema", "quantd.plan/1"}, {"plan", PlanJson(plan)}});
}

}  // namespace qs::cli
