// Requests of a Quantize stream and what its answers add up to, for tests.
#ifndef QS_TESTS_SERVICE_QUANTIZE_MESSAGES_H_
#define QS_TESTS_SERVICE_QUANTIZE_MESSAGES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "quant/v1/quantization.pb.h"
#include "service/stream/crc32c.h"
#include "tests/quant/tensor_data.h"

namespace qs::testing {

namespace v1 = quant::v1;
using Requests = std::vector<v1::QuantizeRequest>;

inline v1::QuantizeRequest Config(const std::string& preset,
                                  bool skip_error_report = false,
                                  v1::Profile profile = v1::REFERENCE) {
  v1::QuantizeRequest request;
  v1::QuantizeConfig* config = request.mutable_config();
  config->mutable_quantization()->set_preset(preset);
  config->mutable_quantization()->set_profile(profile);
  config->set_skip_error_report(skip_error_report);
  return request;
}

inline v1::QuantizeRequest Begin(int64_t handle, const std::string& name,
                                 v1::DataType dtype,
                                 const std::vector<int64_t>& shape) {
  v1::QuantizeRequest request;
  v1::TensorBegin* tensor = request.mutable_tensor();
  tensor->set_handle(handle);
  tensor->set_name(name);
  tensor->set_dtype(dtype);
  tensor->mutable_shape()->Add(shape.begin(), shape.end());
  return request;
}

inline v1::QuantizeRequest Data(int64_t handle, int64_t offset,
                                const std::string& bytes, bool last) {
  v1::QuantizeRequest request;
  v1::Chunk* chunk = request.mutable_chunk();
  chunk->set_handle(handle);
  chunk->set_offset(offset);
  chunk->set_data(bytes);
  chunk->set_last(last);
  return request;
}

// One tensor of the tests: BF16, Gaussian.
struct TestWeight {
  TestWeight(int64_t handle_in, std::string name_in, int64_t rows, int64_t cols,
             uint32_t seed)
      : handle(handle_in),
        info{std::move(name_in), DType::kBF16, {rows, cols}},
        bytes(Gaussian(rows * cols, DType::kBF16, seed)) {}

  int64_t handle;
  TensorInfo info;
  std::vector<uint8_t> bytes;

  v1::QuantizeRequest BeginRequest() const {
    return Begin(handle, info.name, v1::BF16, info.shape);
  }
  v1::QuantizeRequest ChunkAt(size_t offset, size_t size) const {
    size = std::min(size, bytes.size() - offset);
    const auto* at = reinterpret_cast<const char*>(bytes.data()) + offset;
    v1::QuantizeRequest request =
        Data(handle, static_cast<int64_t>(offset), std::string(at, size),
             offset + size == bytes.size());
    request.mutable_chunk()->set_crc32c(Crc32c({bytes.data() + offset, size}));
    return request;
  }
  void AppendTo(Requests* requests, size_t chunk_bytes) const {
    requests->push_back(BeginRequest());
    for (size_t at = 0; at < bytes.size(); at += chunk_bytes) {
      requests->push_back(ChunkAt(at, chunk_bytes));
    }
  }
};

// What one stream answered. Wrong orders and wrong CRCs become `problem`.
struct Answers {
  struct Part {
    v1::DataType dtype = v1::DATA_TYPE_UNSPECIFIED;
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;
    bool complete = false;
  };
  std::optional<v1::Accepted> accepted;
  std::map<int64_t, std::map<std::string, Part>> parts;  // by handle
  std::vector<v1::TensorReport> reports;                 // as they came
  std::vector<v1::Progress> progress;                    // as they came
  std::optional<v1::Summary> summary;
  std::string all_data;  // of frames, as they came
  int messages = 0;
  std::string problem;
  absl::Status status = absl::UnknownError("the stream has not ended");

  void Add(const v1::QuantizeResponse& response) {
    ++messages;
    if (summary) problem = "a message after the summary";
    if (!accepted && !response.has_accepted()) problem = "no accepted first";
    if (response.has_accepted()) accepted = response.accepted();
    if (response.has_frame()) AddFrame(response.frame());
    if (response.has_report()) AddReport(response.report());
    if (response.has_progress()) progress.push_back(response.progress());
    if (response.has_summary()) summary = response.summary();
  }

  void AddFrame(const v1::Frame& frame) {
    Part& part = parts[frame.handle()][frame.tensor()];
    if (part.complete) problem = "a frame after the last: " + frame.tensor();
    if (frame.offset() != static_cast<int64_t>(part.bytes.size())) {
      problem = "a frame not at its offset: " + frame.tensor();
    }
    const auto* data = reinterpret_cast<const uint8_t*>(frame.data().data());
    if (frame.crc32c() != Crc32c({data, frame.data().size()})) {
      problem = "a wrong CRC: " + frame.tensor();
    }
    part.dtype = frame.dtype();
    part.shape = {frame.shape().begin(), frame.shape().end()};
    part.bytes.insert(part.bytes.end(), data, data + frame.data().size());
    part.complete = frame.last();
    all_data += frame.data();
  }

  void AddReport(const v1::TensorReport& report) {
    for (const std::string& name : report.output_tensors()) {
      if (!parts[report.handle()][name].complete) {
        problem = "a report before its frames: " + name;
      }
    }
    if (static_cast<size_t>(report.output_tensors_size()) !=
        parts[report.handle()].size()) {
      problem = "not every output is in the report: " + report.name();
    }
    reports.push_back(report);
  }

  const v1::TensorReport* ReportOf(int64_t handle) const {
    for (const v1::TensorReport& report : reports) {
      if (report.handle() == handle) return &report;
    }
    return nullptr;
  }
};

// The answers for `weight` are what TensorQuantizer gives on the CPU, byte for
// byte; the mean squared error within `tolerance` of itself, as error sums of
// other devices are.
inline void RequireSameAsDirect(const Answers& answers, const QuantSpec& spec,
                                const TestWeight& weight,
                                bool error_report = true,
                                double tolerance = 0) {
  const auto backend = NewCpuBackend(1);
  QuantizeOptions options;
  options.error_report = error_report;
  const QuantizedTensor direct =
      Quantize(spec, weight.info, weight.bytes, *backend, options);
  INFO(weight.info.name);
  const auto found = answers.parts.find(weight.handle);
  REQUIRE(found != answers.parts.end());
  REQUIRE(found->second.size() == direct.tensors.size());
  const v1::TensorReport* report = answers.ReportOf(weight.handle);
  REQUIRE(report != nullptr);
  for (size_t i = 0; i < direct.tensors.size(); ++i) {
    const OutputTensor& output = direct.tensors[i];
    INFO(output.name);
    REQUIRE(report->output_tensors(static_cast<int>(i)) == output.name);
    const Answers::Part& part = found->second.at(output.name);
    REQUIRE(part.complete);
    REQUIRE(part.shape == output.shape);
    REQUIRE(part.bytes == Bytes(output));
  }
  REQUIRE(report->bytes_in() == direct.report.bytes_in);
  REQUIRE(report->bytes_out() == direct.report.bytes_out);
  REQUIRE(report->algorithm() == direct.report.algorithm);
  REQUIRE(report->has_error() == direct.report.has_error);
  const double expected =
      error_report ? MeanSquaredError(direct.report.error) : 0;
  REQUIRE(std::abs(report->error().mean_squared_error() - expected) <=
          tolerance * expected);
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_QUANTIZE_MESSAGES_H_
