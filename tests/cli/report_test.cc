#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "service/cli/exit_code.h"
#include "service/cli/html_charts.h"
#include "service/cli/progress.h"
#include "service/cli/proto_json.h"
#include "service/cli/run_report.h"
#include "service/cli/text_table.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Json = nlohmann::json;

constexpr char kHostile[] = "a.layers.0.<script>\"'&.weight";

void SetStats(double mse, double relative, v1::ErrorStats* stats) {
  stats->set_count(1024);
  stats->set_mean_squared_error(mse);
  stats->set_mean_absolute_error(mse / 2);
  stats->set_max_absolute_error(mse * 3);
  stats->set_relative_frobenius_error(relative);
  stats->set_sqnr_db(mse > 0 ? 20 : std::numeric_limits<double>::infinity());
  stats->set_cosine_similarity(0.99);
  stats->set_weight_squared(relative > 0 ? mse * 1024 / (relative * relative)
                                         : 1);
  stats->set_decoded_squared(stats->weight_squared());
  stats->set_dot_product(0.99 * stats->weight_squared());
}

v1::TensorReport MakeTensor(const std::string& name, double mse, double rtn) {
  v1::TensorReport tensor;
  tensor.set_handle(1);
  tensor.set_name(name);
  tensor.add_shape(32);
  tensor.add_shape(32);
  tensor.set_dtype(v1::BF16);
  SetStats(mse, mse > 0 ? 0.1 : 0, tensor.mutable_error());
  SetStats(rtn, 0.12, tensor.mutable_rtn());
  tensor.set_mse_ratio_to_rtn(mse / rtn);
  tensor.set_bytes_in(2048);
  tensor.set_bytes_out(576);
  tensor.set_bits_per_weight(4.5);
  v1::WorstGroup* worst = tensor.add_worst_groups();
  worst->set_group(7);
  worst->set_mean_squared_error(0.25);
  for (const int64_t count : {600, 400, 24}) {
    tensor.mutable_histogram()->add_counts(count);
  }
  tensor.set_device("cpu:0");
  tensor.set_algorithm("nf4-best/1");
  tensor.set_memory_bytes(50000);
  tensor.set_quantize_seconds(0.5);
  tensor.mutable_phases()->set_encode(0.375);
  tensor.mutable_phases()->set_report(0.125);
  tensor.add_output_tensors(name);
  return tensor;
}

RunReport MakeReport() {
  RunReport report;
  report.created = "2025-11-24T10:00:00Z";
  report.server = "127.0.0.1:50051";
  report.input_path = "in";
  report.output_path = "/tmp/out";
  report.input_bytes = 10000;
  report.output_bytes = 4000;
  report.target.set_engine(v1::VLLM);
  report.target.set_tensor_parallel(2);
  report.streams = 2;
  report.seconds = 1.5;
  report.tensors = {MakeTensor("model.layers.0.a.weight", 2e-4, 3e-4),
                    MakeTensor(kHostile, 0, 1e-4)};
  for (const v1::TensorReport& tensor : report.tensors) {
    v1::PlanEntry& entry = report.plan.entries.emplace_back();
    entry.set_name(tensor.name());
    entry.set_action(v1::PlanEntry::QUANTIZE);
    entry.set_bytes_in(2048);
    entry.set_bytes_out(576);
    entry.set_site("model.layers.0/x");
  }
  v1::PlanEntry& carried = report.plan.entries.emplace_back();
  carried.set_name("norm.weight");
  carried.set_action(v1::PlanEntry::CARRY);
  carried.set_reason("1 dimension");
  carried.set_bytes_in(5904);
  v1::PlanFile& file = report.plan.files.emplace_back();
  file.set_path("tokenizer.json");
  file.set_action(v1::PlanFile::COPY);
  v1::Finding& finding = report.plan.findings.emplace_back();
  finding.set_severity(v1::Finding::WARNING);
  finding.set_rule("SLOW_KERNEL");
  finding.set_text("got 7, allowed 8");
  report.plan.summary.set_architecture("llama");
  report.plan.summary.set_bytes_in(10000);
  report.plan.summary.set_bytes_out(4000);
  report.plan.summary.add_engines("vLLM 0.33");
  report.plan.summary.mutable_resolved()->mutable_nf4()->set_block_size(64);
  return report;
}

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

size_t CountOf(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos;
       at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

TEST_CASE("JSON goes out and comes back unchanged") {
  const RunReport report = MakeReport();
  const std::string text = ReportToJson(report);
  const absl::StatusOr<RunReport> back = ReportFromJson(text);
  INFO(back.status().ToString());
  REQUIRE(back.ok());
  CHECK(ReportToJson(*back) == text);
  REQUIRE(back->tensors.size() == 2);
  CHECK(back->tensors[0].SerializeAsString() ==
        report.tensors[0].SerializeAsString());
  CHECK(std::isinf(back->tensors[1].error().sqnr_db()));
  CHECK(back->plan.entries[2].reason() == "1 dimension");
}

TEST_CASE("the JSON schema") {
  const Json json = Json::parse(ReportToJson(MakeReport()));
  CHECK(json["schema"] == "quantd.report/1");
  CHECK(json["input"]["data_bytes"] == 10000);
  CHECK(json["target"]["engine"] == "VLLM");
  CHECK(json["plan"]["entries"][2]["action"] == "CARRY");
  CHECK(json["plan"]["findings"][0]["severity"] == "WARNING");
  CHECK(json["plan"]["summary"]["resolved"]["nf4"]["block_size"] == 64);
  const Json& tensor = json["tensors"][0];
  CHECK(tensor["shape"] == Json::array({32, 32}));
  CHECK(tensor["dtype"] == "BF16");
  CHECK(tensor["error"]["mean_squared_error"] == 2e-4);
  CHECK(tensor["worst_groups"][0]["group"] == 7);
  CHECK(tensor["histogram"]["counts"] == Json::array({600, 400, 24}));
  CHECK(json["tensors"][1]["error"]["sqnr_db"].is_null());
  CHECK(json["summary"]["tensors"] == 2);
  CHECK(json["summary"]["bits_per_weight"] == 4.5);
  CHECK(json["summary"]["histogram"] == Json::array({1200, 800, 48}));
  CHECK(tensor["phases"]["encode"] == 0.375);
  CHECK(tensor["error"]["dot_product"].get<double>() == Approx(0.99 * 20.48));
  const Json& summary = json["summary"];
  CHECK(summary["worker_seconds"] == 1);
  CHECK(summary["phases"]["encode"] == 0.75);
  CHECK(summary["phases"]["wait"] == 0);
  CHECK(summary["memory_bytes"] == 50000);
  REQUIRE(summary["worst_groups"].size() == 2);
  CHECK(summary["worst_groups"][1]["tensor"] == kHostile);
  CHECK(summary["worst_groups"][1]["group"] == 7);
  CHECK(summary["error"]["cosine_similarity"].get<double>() == Approx(0.99));
  CHECK(summary["devices"] == Json::array({"cpu:0"}));
  CHECK(summary["algorithms"] == Json::array({"nf4-best/1"}));
  CHECK(summary["solver"].is_null());
}

TEST_CASE("a report that is none is bad input") {
  Json json = Json::parse(ReportToJson(MakeReport()));
  auto says = [](const std::string& text, const std::string& part) {
    const absl::Status status = ReportFromJson(text).status();
    INFO(status.ToString());
    return ExitCodeOf(status) == ExitCode::kBadInput &&
           Has(std::string(status.message()), part);
  };
  CHECK(says("not json", "report"));
  CHECK(says("{}", "schema"));
  Json other = json;
  other["schema"] = "quantd.report/2";
  CHECK(says(other.dump(), "quantd.report/1"));
  other = json;
  other["tensors"][1]["shape"] = "x";
  CHECK(says(other.dump(), "tensors[1].shape"));
  other = json;
  other["plan"]["entries"][0]["action"] = "EAT";
  CHECK(says(other.dump(), "plan.entries[0].action"));
  other = json;
  other["streams"] = 1.5;
  CHECK(says(other.dump(), "streams"));
  other = json;
  other.erase("plan");
  CHECK(says(other.dump(), "plan"));
  other = json;
  other["tensors"][0]["later"] = 1;  // unknown keys are left aside
  CHECK(ReportFromJson(other.dump()).ok());
}

TEST_CASE("totals weigh tensors by their weights") {
  const RunTotals totals = TotalsOf(MakeReport().tensors);
  CHECK(totals.weights == 2048);
  CHECK(totals.bytes_out == 1152);
  CHECK(totals.error.mean_squared_error() == Approx(1e-4));
  CHECK(totals.rtn.mean_squared_error() == Approx(2e-4));
  CHECK(totals.mse_ratio_to_rtn == Approx(0.5));
  // The first tensor's energy is mse n / 0.1^2, the other's 1.
  CHECK(totals.error.sqnr_db() == Approx(10 * std::log10(21.48 / 0.2048)));
  CHECK(totals.error.cosine_similarity() == Approx(0.99));
  CHECK(totals.error.max_absolute_error() == Approx(6e-4));
  CHECK(TotalsOf(RunReport().tensors).mse_ratio_to_rtn == 1);
}

TEST_CASE("the table has a line for every tensor and a total") {
  const std::string table = ReportTable(MakeReport());
  INFO(table);
  CHECK(Has(table, "model.layers.0.a.weight"));
  CHECK(Has(table, "32x32"));
  CHECK(Has(table, "2.000e-04"));
  CHECK(Has(table, "0.667"));
  CHECK(Has(table, "inf"));
  CHECK(Has(table, "total: 2 tensors"));
  CHECK(Has(table, "10.0 kB -> 4.00 kB (40.0%)"));
  CHECK(Has(table, "1 tensor carried (5.90 kB)"));
  CHECK(Has(table, "\nloads in: vLLM 0.33\n"));
}

TEST_CASE("below the table: figures, time, memory, the worst groups") {
  RunReport report = MakeReport();
  report.tensors[1].mutable_worst_groups(0)->set_mean_squared_error(0.5);
  for (const char* reason : {"1 dimension", "embedding"}) {
    v1::CarriedTensors& carried = *report.plan.summary.add_carried();
    carried.set_reason(reason);
    carried.set_tensors(carried.reason() == "embedding" ? 1 : 9);
    carried.set_bytes(5904);
  }
  const std::string table = ReportTable(report);
  INFO(table);
  CHECK(Has(table, "\ncarried:     5.90 kB in 9 tensors: 1 dimension\n"));
  CHECK(Has(table, "\ncarried:     5.90 kB in 1 tensor: embedding\n"));
  CHECK(Has(table,
            "\nfigures:     MSE 1.000e-04, mean |e| 5.000e-05, max |e| "
            "6.000e-04, relative 9.76%, SQNR 20.21 dB, cosine 0.99000\n"));
  CHECK(Has(table, "\nRTN's:       MSE 2.000e-04, "));
  CHECK(Has(table, "\nworker time: 1.00 s: encode 75%, report 25%\n"));
  CHECK(Has(table,
            "\nmemory:      at most 50.0 kB of the server's for a tensor or a "
            "group\n"));
  CHECK(Has(table, "\nmade by:     nf4-best/1 on cpu:0\n"));
  CHECK(Has(table, absl::StrCat("\nworst group: MSE 5.000e-01 in ", kHostile,
                                ", group 7\nworst group: MSE 2.500e-01 in "
                                "model.layers.0.a.weight, group 7\n")));
  CHECK_FALSE(Has(table, "solver:"));

  for (int i = 0; i < 20; ++i) report.tensors.push_back(report.tensors[0]);
  CHECK(CountOf(ReportTable(report), "\nworst group: ") == 5);
  const std::string bare = ReportTable(RunReport());
  for (const char* label : {"figures", "worker time", "memory", "made by",
                            "worst group", "carried: "}) {
    INFO(label);
    CHECK_FALSE(Has(bare, label));
  }
}

TEST_CASE("a cosine that is not known is a dash") {
  RunReport report = MakeReport();
  v1::ErrorStats& error = *report.tensors[1].mutable_error();
  error.clear_weight_squared();
  error.clear_decoded_squared();
  error.clear_dot_product();
  CHECK(Has(ReportTable(report), " dB, cosine -\n"));
}

// A report with everything that a calibration adds.
RunReport MakeCalibratedReport() {
  RunReport report = MakeReport();
  report.calibration_path = "moments.safetensors";
  for (size_t i = 0; i < report.tensors.size(); ++i) {
    v1::TensorReport& tensor = report.tensors[i];
    tensor.set_output_error(0.01 * static_cast<double>(i + 1));
    tensor.set_rtn_output_error(0.04);
    tensor.set_tokens(4096);
    v1::SolverFacts* solver = tensor.mutable_solver();
    solver->set_damping(0.01);
    solver->set_damping_retries(2);
    solver->set_dead_columns(3);
    solver->set_codes_changed(256);
    for (int bin = 0; bin < 10; ++bin) solver->add_clip_histogram(bin);
  }
  report.tensors[1].add_warnings(std::string("NO_CHANGE: <all> as rounded"));
  report.folded.push_back(MakeTensor("model.norm.weight", 0, 1));
  report.plan.summary.mutable_resolved()->mutable_gptq()->set_bits(3);
  return report;
}

TEST_CASE("a calibration's figures in all three forms") {
  const RunReport report = MakeCalibratedReport();
  const RunTotals totals = TotalsOf(report.tensors);
  CHECK(totals.with_output_error == 2);
  CHECK(totals.output_error == Approx(0.015));
  CHECK(totals.warnings == 1);

  const std::string table = ReportTable(report);
  INFO(table);
  CHECK(Has(table, "output error"));
  CHECK(Has(table, "1.500e-02"));
  CHECK(Has(table, "4.000e-02"));
  CHECK(Has(table, "NO_CHANGE: <all> as rounded"));
  CHECK(Has(table, "1 of them scaled"));
  CHECK(Has(table, "  4096\n"));
  CHECK(Has(table,
            "\nsolver:      damping 0.01, 4 retries, 6 dead columns, 80.0% of "
            "groups clipped below 0.9, 25.0% of codes changed\n"));
  CHECK_FALSE(Has(ReportTable(MakeReport()), "output error"));

  const std::string text = ReportToJson(report);
  const absl::StatusOr<RunReport> back = ReportFromJson(text);
  REQUIRE(back.ok());
  CHECK(ReportToJson(*back) == text);
  CHECK(back->calibration_path == report.calibration_path);
  CHECK(back->folded.size() == 1);
  CHECK(Json::parse(text)["tensors"][0]["solver"]["dead_columns"] == 3);

  const std::string html = ReportHtml(report);
  CHECK(Has(html,
            "damping 0.01, 2 retries, 3 dead columns, 80.0% of groups clipped "
            "below 0.9, 25.0% of codes"));
  CHECK(Has(html, "NO_CHANGE: &lt;all&gt;"));
  CHECK(Has(html, "model.norm.weight"));
  for (const char* chart : {"Output error of every tensor",
                            "Bits a weight against error", "clip limits"}) {
    INFO(chart);
    CHECK(Has(html, chart));
  }
  CHECK_FALSE(Has(html, "Tokens that every expert saw"));
  CHECK_FALSE(Has(html, "\"nan"));
}

TEST_CASE("a report of the first version is still read") {
  Json json = Json::parse(ReportToJson(MakeReport()));
  json.erase("calibration");
  json.erase("folded");
  json["plan"].erase("sites");
  for (Json& tensor : json["tensors"]) {
    tensor.erase("phases");
    for (const char* stats : {"error", "rtn"}) {
      for (const char* sum :
           {"weight_squared", "decoded_squared", "dot_product"}) {
        tensor[stats].erase(sum);
      }
    }
  }
  const absl::StatusOr<RunReport> report = ReportFromJson(json.dump());
  REQUIRE(report.ok());
  // Of the second tensor, which has no error, nothing is known.
  CHECK(TotalsOf(report->tensors).error.sqnr_db() == Approx(20));
  const std::string table = ReportTable(*report);
  CHECK(Has(table, ", SQNR 20.00 dB, cosine -\n"));
  CHECK(Has(table, "\nworker time: 1.00 s\n"));
  CHECK_FALSE(Has(ReportHtml(*report), "Worker time by phase"));
}

TEST_CASE("tokens of experts") {
  std::vector<v1::TensorReport> tensors;
  const auto add = [&](const std::string& name, int64_t tokens) {
    v1::TensorReport& tensor = tensors.emplace_back(MakeTensor(name, 1e-4, 1));
    tensor.set_output_error(0.1);
    tensor.set_tokens(tokens);
  };
  add("model.layers.0.self_attn.q_proj.weight", 900);
  add("model.layers.10.mlp.experts.1.down_proj.weight", 7);
  add("model.layers.2.mlp.experts.10.down_proj.weight", 30);
  add("model.layers.2.mlp.experts.2.gate_proj.weight", 900);
  add("model.layers.2.mlp.experts.2.down_proj.weight", 20);
  const std::vector<ExpertTokens> experts = ExpertTokensOf(tensors);
  REQUIRE(experts.size() == 3);
  CHECK(experts[0].layer == "10");
  CHECK(experts[1].expert == 2);
  CHECK(experts[1].tokens == 20);
  CHECK(experts[2].expert == 10);
  RunReport report;
  report.tensors = tensors;
  CHECK(Has(ReportTable(report), "experts of layer 2: 20 to 30 tokens each"));
  const std::string chart = ExpertChart(report);
  CHECK(Has(chart, "layer 2, expert 10: 30 tokens"));
  report.tensors.resize(1);
  CHECK(ExpertChart(report).empty());
}

TEST_CASE("tensors without statistics show dashes") {
  RunReport report = MakeReport();
  for (v1::TensorReport& tensor : report.tensors) {
    tensor.clear_error();
    tensor.clear_rtn();
    tensor.clear_histogram();
  }
  CHECK(Has(ReportTable(report), " -"));
  const std::string html = ReportHtml(report);
  CHECK_FALSE(Has(html, "Histogram of"));
  CHECK_FALSE(Has(html, "nan"));
}

TEST_CASE("tensors of one bit have no round to nearest beside them") {
  RunReport report = MakeReport();
  report.tensors.resize(1);  // the other one's SQNR is infinite
  for (v1::TensorReport& tensor : report.tensors) {
    tensor.clear_rtn();
    tensor.clear_mse_ratio_to_rtn();
    tensor.set_output_error(0.5);
    tensor.set_tokens(10);
  }
  const std::string table = ReportTable(report);
  INFO(table);
  CHECK(Has(table, " -"));
  CHECK_FALSE(Has(table, "RTN's:"));
  CHECK_FALSE(Has(table, "inf"));
  CHECK_FALSE(Has(table, "nan"));
  const std::string html = ReportHtml(report);
  CHECK_FALSE(Has(html, ">inf<"));
  CHECK_FALSE(Has(html, "nan"));
  CHECK_FALSE(Has(html, "circle class=\"rtn\""));
  CHECK(Has(html, "circle class=\"ours\""));
  const auto parsed = ReportFromJson(ReportToJson(report));
  REQUIRE(parsed.ok());
  CHECK(ReportTable(*parsed) == table);
}

TEST_CASE("the plan's table names actions, reasons, files and findings") {
  RunReport report = MakeReport();
  v1::PlanEntry& tied = report.plan.entries.emplace_back();
  tied.set_name("lm_head.weight");
  tied.set_action(v1::PlanEntry::TIED);
  tied.set_tied_to("embed.weight");
  CHECK(Has(PlanTable(report.plan), "loads in: vLLM 0.33"));
  report.plan.summary.set_refused(true);
  const std::string table = PlanTable(report.plan);
  INFO(table);
  CHECK(Has(table, "to embed.weight"));
  CHECK(Has(table, "1 dimension"));
  CHECK(Has(table, "tokenizer.json"));
  CHECK(Has(table, "warning SLOW_KERNEL: got 7, allowed 8"));
  CHECK(Has(table, "2 to quantize, 1 carried, 1 tied"));
  CHECK_FALSE(Has(table, "loads in"));  // nothing will be written
  CHECK(Has(table, "refused"));
}

TEST_CASE("a refused plan lists its errors only") {
  PlanAnswer plan = MakeReport().plan;
  CHECK(CheckNotRefused(plan).ok());
  v1::Finding& error = plan.findings.emplace_back();
  error.set_severity(v1::Finding::ERROR);
  error.set_rule("NO_LOADER");
  error.set_text("got x");
  plan.summary.set_refused(true);
  const absl::Status status = CheckNotRefused(plan);
  CHECK(ExitCodeOf(status) == ExitCode::kRefused);
  CHECK(Has(std::string(status.message()), "NO_LOADER: got x"));
  CHECK_FALSE(Has(std::string(status.message()), "SLOW_KERNEL"));
}

TEST_CASE("the page is self-contained and escapes what it shows") {
  const std::string html = ReportHtml(MakeReport());
  CHECK(Has(html, "<!doctype html>"));
  CHECK(Has(html, "prefers-color-scheme: dark"));
  CHECK_FALSE(Has(html, "<script"));
  CHECK_FALSE(Has(html, "http"));
  CHECK(Has(html, "&lt;script&gt;&quot;&#39;&amp;"));
  for (const char* chart :
       {"Relative error of every tensor", "Histogram of the error",
        "Size before", "Worker time by phase"}) {
    INFO(chart);
    CHECK(Has(html, chart));
  }
  CHECK_FALSE(Has(html, "\"nan"));
  CHECK_FALSE(Has(html, "\"inf"));
  CHECK_FALSE(Has(html, "\"-inf"));
}

TEST_CASE("the page has all figures, all worst groups, time and memory") {
  RunReport report = MakeReport();
  report.tensors[0].set_quantize_seconds(2);
  report.tensors[0].mutable_phases()->set_factor(1.5);
  for (int64_t group = 8; group < 12; ++group) {
    v1::WorstGroup* worst = report.tensors[0].add_worst_groups();
    worst->set_group(group);
    worst->set_mean_squared_error(0.2);
  }
  const std::string html = ReportHtml(report);
  CHECK(Has(html, "<b>50.0 kB</b><span>of the server&#39;s memory"));
  // Of all and of each tensor, and of RTN.
  CHECK(CountOf(html, "<td>this result</td>") == 3);
  CHECK(CountOf(html, "<td>RTN</td>") == 3);
  CHECK(CountOf(html, "<td class=\"n\">0.99000</td>") == 6);
  CHECK(Has(html, ">factor s</th>"));
  CHECK_FALSE(Has(html, ">search s</th>"));
  CHECK(Has(html,
            "<td class=\"name\">model.layers.0.a.weight</td>"
            "<td class=\"n\">1.500</td><td class=\"n\">0.375</td>"
            "<td class=\"n\">0.125</td><td class=\"n\">2.000</td>"
            "<td class=\"n\">50.0 kB</td><td>nf4-best/1</td><td>cpu:0</td>"));
  CHECK(Has(html, "1.5 s, 60.0%"));
  CHECK(Has(html,
            "<td class=\"n\">2.05 kB</td><td class=\"n\">576 B</td>"
            "<td class=\"n\">4.500</td>"));
  // Six groups, in both tables.
  CHECK(CountOf(html, "<td class=\"n\">11</td>") == 2);
  CHECK(CountOf(html, "<td class=\"n\">7</td><td class=\"n\">2.500e-01") == 4);
  for (const char* open : {"table", "details", "svg", "tr", "div"}) {
    INFO(open);
    CHECK(CountOf(html, absl::StrCat("<", open, ">")) +
              CountOf(html, absl::StrCat("<", open, " ")) ==
          CountOf(html, absl::StrCat("</", open, ">")));
  }
}

TEST_CASE("a chart of many tensors keeps dots in place and labels apart") {
  RunReport report;
  for (int layer = 0; layer < 80; ++layer) {
    for (const char* part : {"q", "k", "v", "o"}) {
      report.tensors.push_back(MakeTensor(
          absl::StrCat("model.layers.", layer, ".", part), 1e-4, 2e-4));
    }
  }
  const std::string chart = ErrorChart(report);
  CHECK(CountOf(chart, "<circle") == 2 * 320);
  CHECK(Has(chart, "class=\"dense\""));
  const size_t labels =
      CountOf(chart, ">75</text>") + CountOf(chart, ">76</text>") +
      CountOf(chart, ">77</text>") + CountOf(chart, ">78</text>") +
      CountOf(chart, ">79</text>");
  CHECK(labels == 1);  // every fifth
  report.tensors[7].mutable_error()->set_relative_frobenius_error(
      std::numeric_limits<double>::infinity());
  CHECK_FALSE(Has(ErrorChart(report), "\"inf"));
}

TEST_CASE("a histogram is drawn as far as errors reach") {
  RunReport report;
  RunTotals totals;
  totals.histogram.assign(32, 0);
  totals.histogram[0] = 90000;
  totals.histogram[3] = 9990;
  totals.histogram[31] = 10;  // one in ten thousand
  const std::string chart = HistogramChart(report, totals);
  CHECK(CountOf(chart, "<rect") == 8);
  CHECK(Has(chart, ">0.25</text>"));
  CHECK_FALSE(Has(chart, ">1</text>"));
  CHECK(Has(chart, "0.219 to more: 0.010%"));
  totals.histogram[31] = 10000;
  CHECK(CountOf(HistogramChart(report, totals), "<rect") == 32);
  totals.histogram.assign(3, 1);
  CHECK(CountOf(HistogramChart(report, totals), "<rect") == 3);
  CHECK(HistogramChart(report, RunTotals()).empty());
}

TEST_CASE("charts of a single perfect tensor and of none stay finite") {
  RunReport report = MakeReport();
  report.tensors = {MakeTensor("w", 0, 1e-9)};
  report.tensors[0].mutable_rtn()->set_relative_frobenius_error(0);
  CHECK_FALSE(Has(ErrorChart(report), "nan"));
  report.tensors.clear();
  CHECK(ErrorChart(report).empty());
  CHECK_FALSE(Has(ReportHtml(report), "nan"));
}

TEST_CASE("numbers as people read them") {
  CHECK(FormatBytes(0) == "0 B");
  CHECK(FormatBytes(999) == "999 B");
  CHECK(FormatBytes(1000) == "1.00 kB");
  CHECK(FormatBytes(8393216) == "8.39 MB");
  CHECK(FormatBytes(999'999) == "1.00 MB");
  CHECK(FormatBytes(16'000'000'000) == "16.0 GB");
  CHECK(FormatError(0) == "0");
  CHECK(FormatShape(std::vector<int64_t>{3}) == "3");
}

TEST_CASE("progress") {
  ProgressState state = {.bytes = 0,
                         .total_bytes = 2'000'000,
                         .tensors = 0,
                         .total_tensors = 4,
                         .seconds = 0};
  CHECK(ProgressLine(state) == "  0%  0/4 tensors  0 B of 2.00 MB");
  state.bytes = 1'000'000;
  state.tensors = 2;
  state.seconds = 5;
  CHECK(ProgressBar(state, 120) ==
        "[============>           ]  50%  2/4 tensors  1.00 MB of 2.00 MB  "
        "200 kB/s  0:05 left");
  CHECK(ProgressBar(state, 80) ==
        "[=========>        ]  50%  2/4 tensors  1.00 MB of 2.00 MB  200 kB/s  "
        "0:05 left");
  for (int columns = 1; columns <= 200; ++columns) {
    CHECK(ProgressBar(state, columns).size() < static_cast<size_t>(columns));
  }
  CHECK(ProgressBar(state, 20) == " 50%  2/4 tensors  ");
  state.bytes = state.total_bytes;
  CHECK(Has(ProgressBar(state, 120), "========================] 100%"));
  state.solving = {1, 0.429};
  CHECK(ProgressLine(state) ==
        "100%  2/4 tensors  2.00 MB of 2.00 MB  solving 1 group: 42%");
  state.solving = {2, 0};
  CHECK(Has(ProgressBar(state, 120), "solving 2 groups: 0%"));
}

TEST_CASE("groups are solved until they are through or their stream ends") {
  std::ostringstream out;
  Progress progress(out, 0, 10, 1);
  const int streams[2] = {};
  progress.SetSolving(&streams[0], 5, 0.25);
  progress.SetSolving(&streams[1], 5, 0.5);
  progress.SetSolving(&streams[1], 6, 0.75);
  CHECK(progress.solving().groups == 3);
  CHECK(progress.solving().done == Approx(0.5));
  progress.SetSolving(&streams[1], 5, 1);
  CHECK(progress.solving().groups == 2);
  progress.ForgetSolving(&streams[1]);
  CHECK(progress.solving().groups == 1);
  CHECK(progress.solving().done == Approx(0.25));
}

TEST_CASE("a note does not end up in the bar's line") {
  std::ostringstream out;
  Progress progress(out, 0, 10, 1);
  progress.Note("trying again");
  progress.Finish();
  CHECK(out.str() == "trying again\n");
}

}  // namespace
}  // namespace qs::cli
