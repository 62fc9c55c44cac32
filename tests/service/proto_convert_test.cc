// The .proto's vocabulary to ours and back.
#include "service/server/proto_convert.h"

#include <cmath>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "service/server/error.h"
#include "service/server/error_details.h"
#include "service/server/spec_convert.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

std::string FieldOf(const absl::Status& status) {
  const auto bad = GetDetail<google::rpc::BadRequest>(status);
  return bad ? bad->field_violations(0).field() : "";
}

TEST_CASE("dtypes go there and back", "[proto_convert]") {
  std::set<DType> seen;
  for (int number = 1; number <= v1::DataType_MAX; ++number) {
    const auto proto = static_cast<v1::DataType>(number);
    const std::optional<DType> dtype = DTypeFromProto(proto);
    INFO(v1::DataType_Name(proto));
    REQUIRE(dtype);
    REQUIRE(DTypeToProto(*dtype) == proto);
    REQUIRE(seen.insert(*dtype).second);
  }
  REQUIRE_FALSE(DTypeFromProto(v1::DATA_TYPE_UNSPECIFIED));
  REQUIRE_FALSE(DTypeFromProto(static_cast<v1::DataType>(99)));
}

TEST_CASE("every preset resolves to itself", "[proto_convert]") {
  for (const Preset& preset : Presets()) {
    v1::QuantizationConfig config;
    config.set_preset(preset.name);
    const auto spec = SpecFromProto(config);
    INFO(preset.name);
    REQUIRE(spec.ok());
    REQUIRE(*spec == preset.spec);
    const v1::QuantizationConfig resolved = SpecToProto(*spec);
    REQUIRE_FALSE(resolved.has_preset());
    REQUIRE(*SpecFromProto(resolved) == *spec);
  }
}

TEST_CASE("unset options are the defaults, set ones count", "[proto_convert]") {
  v1::QuantizationConfig config;
  config.mutable_nf4();
  REQUIRE(*SpecFromProto(config) ==
          QuantSpec{Nf4Spec{}, Profile::kBest, OutputFormat::kBitsandbytes});
  config.mutable_nf4()->set_codebook(v1::Nf4Config::FP4);
  config.mutable_nf4()->set_block_size(128);
  config.mutable_nf4()->set_double_quant(true);
  config.mutable_nf4()->set_rule(v1::Nf4Config::CPU);
  config.set_profile(v1::REFERENCE);
  REQUIRE(*SpecFromProto(config) ==
          QuantSpec{Nf4Spec{Codebook::kFp4, 128, true, Nf4Rule::kCpu},
                    Profile::kReference, OutputFormat::kBitsandbytes});
  v1::QuantizationConfig rtn;
  rtn.mutable_rtn();
  REQUIRE(*SpecFromProto(rtn) == QuantSpec{RtnSpec{}, Profile::kBest,
                                           OutputFormat::kCompressedTensors});
  rtn.mutable_rtn()->set_bits(3);
  rtn.mutable_rtn()->set_group_size(-1);
  rtn.mutable_rtn()->set_symmetric(false);
  REQUIRE(*SpecFromProto(rtn) == QuantSpec{RtnSpec{3, -1, false},
                                           Profile::kBest,
                                           OutputFormat::kCompressedTensors});
}

TEST_CASE("an illegal config names its field", "[proto_convert]") {
  using Config = v1::QuantizationConfig;
  const std::vector<std::pair<std::function<void(Config&)>, std::string>>
      cases = {
          {[](Config&) {}, "q"},
          {[](Config& c) { c.set_preset("nf4"); }, "q.preset"},
          {[](Config& c) { c.set_preset("NF4"), c.mutable_rtn(); }, "q.preset"},
          {[](Config& c) { c.mutable_nf4()->set_block_size(48); },
           "q.nf4.block_size"},
          {[](Config& c) { c.mutable_nf4()->set_block_size(0); },
           "q.nf4.block_size"},
          {[](Config& c) {
             c.mutable_nf4()->set_codebook(
                 static_cast<v1::Nf4Config::Codebook>(7));
           },
           "q.nf4.codebook"},
          {[](Config& c) {
             c.mutable_nf4()->set_rule(static_cast<v1::Nf4Config::Rule>(7));
           },
           "q.nf4.rule"},
          {[](Config& c) { c.mutable_rtn()->set_bits(1); }, "q.rtn.bits"},
          {[](Config& c) { c.mutable_rtn()->set_bits(9); }, "q.rtn.bits"},
          {[](Config& c) { c.mutable_rtn()->set_group_size(0); },
           "q.rtn.group_size"},
          {[](Config& c) { c.mutable_rtn()->set_group_size(-2); },
           "q.rtn.group_size"},
          {[](Config& c) {
             c.mutable_nf4();
             c.set_profile(static_cast<v1::Profile>(9));
           },
           "q.profile"},
          {[](Config& c) {
             c.mutable_nf4();
             c.set_format(v1::COMPRESSED_TENSORS);
           },
           "q.format"},
          {[](Config& c) {
             c.mutable_rtn();
             c.set_format(v1::BITSANDBYTES);
           },
           "q.format"},
      };
  for (const auto& [fill, field] : cases) {
    v1::QuantizationConfig config;
    fill(config);
    const absl::Status status = SpecFromProto(config, "q").status();
    INFO(config.ShortDebugString() << ": " << status);
    REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
    REQUIRE(ErrorReason(status) == "BAD_FIELD");
    REQUIRE(FieldOf(status) == field);
    REQUIRE(std::string(status.message()).rfind(field, 0) == 0);
    REQUIRE(std::string(status.message()).substr(field.size(), 6) == ": got ");
  }
}

TEST_CASE("a report has all its figures", "[proto_convert]") {
  TensorReport report;
  report.name = std::string("w");
  report.shape = {2, 8};
  report.dtype = DType::kF16;
  report.bytes_in = 32;
  report.bytes_out = 12;
  double seconds = 0.25;
  for (double& phase : report.phases.seconds) phase = seconds *= 2;
  report.device = std::string("d");
  report.algorithm = "nf4-best/1";
  report.memory_bytes = int64_t{1} << 40;
  v1::TensorReport out = ReportToProto(report);
  REQUIRE(out.name() == "w");
  REQUIRE(out.shape(1) == 8);
  REQUIRE(out.dtype() == v1::F16);
  REQUIRE(out.bits_per_weight() == 6);
  REQUIRE(out.quantize_seconds() == 255.5);
  REQUIRE(out.phases().wait() == 0.5);
  REQUIRE(out.phases().prepare() == 1);
  REQUIRE(out.phases().factor() == 2);
  REQUIRE(out.phases().search() == 4);
  REQUIRE(out.phases().encode() == 8);
  REQUIRE(out.phases().refine() == 16);
  REQUIRE(out.phases().pack() == 32);
  REQUIRE(out.phases().verify() == 64);
  REQUIRE(out.phases().report() == 128);
  REQUIRE(out.phases().GetDescriptor()->field_count() == kPhases);
  REQUIRE(out.device() == "d");
  REQUIRE(out.algorithm() == "nf4-best/1");
  REQUIRE(out.memory_bytes() == int64_t{1} << 40);
  REQUIRE_FALSE(out.has_error());
  REQUIRE_FALSE(out.has_rtn());

  report.has_error = true;
  report.error.count = 16;
  report.error.squared_error = 4;
  report.error.absolute_error = 8;
  report.error.max_absolute_error = 1.5;
  report.error.weight_squared = 16;
  report.error.decoded_squared = 9;
  report.error.dot = 10.5;
  report.error.histogram[31] = 5;
  report.rtn = report.error;
  report.rtn.squared_error = 8;
  report.worst_groups = {{3, 0.25}};
  out = ReportToProto(report);
  REQUIRE(out.error().count() == 16);
  REQUIRE(out.error().mean_squared_error() == 0.25);
  REQUIRE(out.error().mean_absolute_error() == 0.5);
  REQUIRE(out.error().max_absolute_error() == 1.5);
  REQUIRE(out.error().relative_frobenius_error() == 0.5);
  REQUIRE(out.error().sqnr_db() == Approx(10 * std::log10(4.0)));
  REQUIRE(out.error().cosine_similarity() == 0.875);
  REQUIRE(out.error().weight_squared() == 16);
  REQUIRE(out.error().decoded_squared() == 9);
  REQUIRE(out.error().dot_product() == 10.5);
  REQUIRE(out.rtn().mean_squared_error() == 0.5);
  REQUIRE(out.mse_ratio_to_rtn() == 0.5);
  REQUIRE(out.worst_groups(0).group() == 3);
  REQUIRE(out.histogram().counts_size() == kHistogramBins);
  REQUIRE(out.histogram().counts(31) == 5);
}

TEST_CASE("no error is a ratio of one, an error above none infinite",
          "[proto_convert]") {
  TensorReport report;
  report.has_error = true;
  REQUIRE(ReportToProto(report).mse_ratio_to_rtn() == 1);
  report.error.squared_error = 1;
  REQUIRE(std::isinf(ReportToProto(report).mse_ratio_to_rtn()));
}

TEST_CASE("without rounding to nearest there is no figure of it",
          "[proto_convert]") {
  TensorReport report;
  report.has_error = true;
  report.error.count = 16;
  report.error.squared_error = 2;
  report.has_output_error = true;
  report.output_error = {1, 4};
  quant::v1::TensorReport out = ReportToProto(report);
  REQUIRE(out.has_error());
  REQUIRE_FALSE(out.has_rtn());
  REQUIRE(out.mse_ratio_to_rtn() == 0);
  REQUIRE(out.output_error() == 0.25);
  REQUIRE_FALSE(out.has_rtn_output_error());
  // An input or a weight of zeros has both figures.
  report.output_error = {};
  out = ReportToProto(report);
  REQUIRE(out.rtn_output_error() == 0);
}

}  // namespace
}  // namespace qs
