#include <nlohmann/json.hpp>
#include <string>

#include "service/cli/compare_report.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Json = nlohmann::json;

MethodRun MakeRun(const std::string& name, double error, bool with_output) {
  MethodRun run;
  run.name = name;
  run.seconds = 2;
  run.resolved.mutable_gptq()->set_bits(4);
  run.resolved.mutable_gptq()->set_group_size(128);
  for (int i = 0; i < 2; ++i) {
    v1::TensorReport& tensor = run.tensors.emplace_back();
    tensor.set_name("w" + std::to_string(i));
    tensor.add_shape(1000);
    tensor.add_shape(1000);
    tensor.set_bytes_in(2000000);
    tensor.set_bytes_out(500000);
    tensor.set_quantize_seconds(0.25);
    tensor.mutable_phases()->set_factor(i == 0 ? 0.125 : 0);
    tensor.mutable_phases()->set_encode(i == 0 ? 0.125 : 0.25);
    tensor.set_memory_bytes(i == 0 ? 34'500'000 : 12'000'000);
    for (v1::ErrorStats* stats :
         {tensor.mutable_error(), tensor.mutable_rtn()}) {
      stats->set_count(1000000);
      stats->set_mean_squared_error(error * error);
      stats->set_relative_frobenius_error(error);
      stats->set_weight_squared(1e6);
      stats->set_decoded_squared(1e6);
      stats->set_dot_product(1e6 * (1 - error));
    }
    if (with_output) {
      tensor.set_output_error(error / 2 + i * error);
      tensor.set_rtn_output_error(error);
    }
  }
  return run;
}

CompareReport MakeReport(bool with_output) {
  CompareReport report;
  report.input_path = "/models/<llama>/";
  report.bits = 4;
  report.group_size = 128;
  report.methods = {MakeRun("rtn", 0.1, with_output),
                    MakeRun("gptq", 0.05, with_output)};
  MethodRun refused;
  refused.name = "awq";
  refused.refused = "got 7 & allowed 4";
  report.methods.push_back(refused);
  return report;
}

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("speed is weights over the workers' time") {
  CHECK(WeightsPerSecond(MakeRun("rtn", 0.1, false)) == Approx(4e6));
  CHECK(WeightsPerSecond(MethodRun()) == 0);
}

TEST_CASE("the comparison's table") {
  const std::string table = CompareTable(MakeReport(true));
  INFO(table);
  CHECK(Has(table, "4.000"));      // bits a weight
  CHECK(Has(table, "1.00 MB"));    // bytes out
  CHECK(Has(table, "2.500e-03"));  // gptq's MSE
  CHECK(Has(table, "memory"));
  CHECK(Has(table, "34.5 MB"));    // of its largest tensor
  CHECK(Has(table, "5.000e-02"));  // its mean output error
  CHECK(Has(table, "0.95000"));    // its cosine
  CHECK(Has(table, "\ngptq: factor 25%, encode 75%\n"));
  CHECK(Has(table, "awq did not run: got 7 & allowed 4\n"));
}

TEST_CASE("the comparison's JSON") {
  const Json json = Json::parse(CompareToJson(MakeReport(true)));
  CHECK(json["schema"] == "quantd.compare/1");
  REQUIRE(json["methods"].size() == 3);
  const Json& gptq = json["methods"][1];
  CHECK(gptq["resolved"]["gptq"]["bits"] == 4);
  CHECK(gptq["summary"]["with_output_error"] == 2);
  CHECK(gptq["summary"]["output_error"].get<double>() == Approx(0.05));
  CHECK(gptq["summary"]["memory_bytes"] == 34'500'000);
  CHECK(gptq["weights_per_second"].get<double>() == Approx(4e6));
  CHECK(gptq["summary"]["phases"]["factor"] == 0.125);
  CHECK(gptq["tensors"].size() == 2);
  CHECK(json["methods"][2]["refused"] == "got 7 & allowed 4");
}

TEST_CASE("the comparison's page") {
  for (const bool with_output : {false, true}) {
    const std::string html = CompareHtml(MakeReport(with_output));
    CHECK(Has(html, "&lt;llama&gt;: methods compared"));
    CHECK_FALSE(Has(html, "<llama>"));
    CHECK(Has(html, "got 7 &amp; allowed 4"));
    CHECK(Has(html, "aria-label=\"Output error\"") == with_output);
    CHECK(Has(html, "aria-label=\"Speed\""));
    CHECK(Has(html, "aria-label=\"Memory\""));
    CHECK(Has(html, "34.5 MB"));
    CHECK(Has(html, ">factor 25%, encode 75%</td>"));
    CHECK_FALSE(Has(html, "<script"));
    CHECK_FALSE(Has(html, "\"nan"));
    CHECK_FALSE(Has(html, "\"inf"));
  }
}

TEST_CASE("a comparison in which nothing ran has no charts") {
  CompareReport report = MakeReport(false);
  report.methods.erase(report.methods.begin(), report.methods.begin() + 2);
  CHECK_FALSE(Has(CompareHtml(report), "<svg"));
}

}  // namespace
}  // namespace qs::cli
