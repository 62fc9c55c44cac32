// Groups for the tests of AWQ, and the steps from one to what comes out of it.
#ifndef QS_TESTS_QUANT_AWQ_CASES_H_
#define QS_TESTS_QUANT_AWQ_CASES_H_

#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "quant/formats/awq_format.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/formats/gptq_format.h"
#include "quant/solve_group.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

using Matrix = std::vector<double>;  // row-major

inline QuantSpec Awq(const AwqSpec& awq, Profile profile,
                     OutputFormat format = OutputFormat::kCompressedTensors) {
  return {awq, profile, format};
}

// `count` bytes' worth of `dtype` from values.
inline std::vector<uint8_t> Stored(const std::vector<float>& values,
                                   DType dtype) {
  std::vector<uint8_t> bytes(values.size() *
                             static_cast<size_t>(DTypeBytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    StoreFromFloat(bytes.data(), dtype, static_cast<int64_t>(i), values[i]);
  }
  return bytes;
}

inline Matrix Loaded(const void* data, DType dtype, int64_t count) {
  Matrix values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(LoadAsFloat(data, dtype, i));
  }
  return values;
}

// Sums over tokens x [tokens, inputs].
inline SiteMoments MomentsOf(const std::string& name, const Matrix& x,
                             int64_t inputs) {
  SiteMoments moments = *SiteMoments::Create(name, inputs);
  const auto n = static_cast<size_t>(inputs);
  const size_t tokens = x.size() / n;
  for (size_t i = 0; i < n; ++i) {
    double magnitude = 0;
    for (size_t t = 0; t < tokens; ++t) magnitude += std::fabs(x[t * n + i]);
    moments.abs_sum()[i] = static_cast<float>(magnitude);
    for (size_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (size_t t = 0; t < tokens; ++t) sum += x[t * n + i] * x[t * n + j];
      moments.second_moment()[i * n + j] = static_cast<float>(sum);
      moments.second_moment()[j * n + i] = static_cast<float>(sum);
    }
  }
  moments.set_tokens(static_cast<int64_t>(tokens));
  return moments;
}

// Correlated tokens with a few loud inputs.
inline Matrix Tokens(int64_t tokens, int64_t inputs, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> gauss;
  Matrix x(static_cast<size_t>(tokens * inputs));
  for (int64_t t = 0; t < tokens; ++t) {
    const double shared = gauss(random);
    for (int64_t k = 0; k < inputs; ++k) {
      const double loud = k % 17 == 3 ? 12 : 1;
      x[static_cast<size_t>(t * inputs + k)] =
          loud * (gauss(random) + 0.5 * shared);
    }
  }
  return x;
}

// As a reader of the file has it.
inline absl::StatusOr<DecodedWeight> DecodeAny(const QuantSpec& spec,
                                               const StoredTensors& items,
                                               const std::string& name) {
  const GridSpec grid = SpecGrid(spec);
  switch (spec.format) {
    case OutputFormat::kAwqGemm:
      return DecodeAwq(grid, items, name, DType::kF32);
    case OutputFormat::kGptq:
      return DecodeGptq(grid, GptqVersion::kV1, items, name, DType::kBF16);
    case OutputFormat::kGptqV2:
      return DecodeGptq(grid, GptqVersion::kV2, items, name, DType::kBF16);
    default:
      return DecodeCompressedTensors(grid, items, name);
  }
}

// What came out of a group.
struct SolvedGroup {
  std::map<std::string, QuantizedTensor> tensors;

  const TensorReport& report(const std::string& name) const {
    return tensors.at(name).report;
  }
  // The bytes of everything, by output name.
  std::map<std::string, std::vector<uint8_t>> AllParts() const {
    std::map<std::string, std::vector<uint8_t>> all;
    for (const auto& [name, tensor] : tensors) all.merge(Parts(tensor));
    return all;
  }
  // Values as a reader of the file sees them.
  Matrix Decoded(const QuantSpec& spec, const std::string& name) const {
    const auto items = Items(tensors.at(name));
    const auto decoded = DecodeAny(spec, items, name);
    INFO(decoded.status().ToString());
    REQUIRE(decoded.ok());
    return Loaded(decoded->data.data(), decoded->dtype,
                  decoded->data.size() / DTypeBytes(decoded->dtype));
  }
  // Of a tensor that only was changed.
  Matrix Folded(const std::string& name) const {
    const OutputTensor& out = tensors.at(name).tensors.at(0);
    REQUIRE(out.name == name);
    return Loaded(out.data.data(), out.dtype,
                  out.data.size() / DTypeBytes(out.dtype));
  }
};

using Weights = std::map<std::string, std::vector<uint8_t>>;
using Moments = std::map<std::string, SiteMoments>;

inline absl::StatusOr<SolvedGroup> TrySolve(const QuantSpec& spec,
                                            const GroupInfo& info,
                                            const Weights& weights,
                                            Moments moments, Backend& backend,
                                            QuantizeOptions options = {}) {
  auto made = SolveGroup::Create(spec, info, options);
  if (!made.ok()) return made.status();
  SolveGroup& group = **made;
  for (size_t s = 0; s < info.sites.size(); ++s) {
    group.site(s)->Fill(std::move(moments.at(info.sites[s].name)));
  }
  std::vector<std::unique_ptr<TensorQuantizer>> quantizers;
  for (size_t t = 0; t < info.tensors.size(); ++t) {
    auto quantizer = group.TakeTensor(t);
    if (!quantizer.ok()) return quantizer.status();
    const std::vector<uint8_t>& bytes = weights.at(info.tensors[t].info.name);
    REQUIRE((*quantizer)->input_bytes() == static_cast<int64_t>(bytes.size()));
    int64_t begin = 0;
    for (int64_t i = 0; i < (*quantizer)->num_tiles(); ++i) {
      const int64_t end = (*quantizer)->tile_input_end(i);
      uint8_t* to = options.tiled_input ? *(*quantizer)->BeginTileInput(i)
                                        : (*quantizer)->input() + begin;
      std::memcpy(to, bytes.data() + begin, static_cast<size_t>(end - begin));
      begin = end;
    }
    quantizers.push_back(*std::move(quantizer));
  }
  const absl::Status status = group.Solve(backend);
  if (!status.ok()) return status;
  made->reset();
  SolvedGroup solved;
  for (auto& quantizer : quantizers) {
    for (int64_t tile : TilesInOrder(*quantizer)) {
      const absl::Status ran = quantizer->RunTile(tile, backend);
      if (!ran.ok()) return ran;
    }
    auto result = quantizer->Finish(backend);
    if (!result.ok()) return result.status();
    solved.tensors[quantizer->info().name] = *std::move(result);
  }
  return solved;
}

inline SolvedGroup Solve(const QuantSpec& spec, const GroupInfo& info,
                         const Weights& weights, Moments moments,
                         Backend& backend, QuantizeOptions options = {}) {
  auto solved =
      TrySolve(spec, info, weights, std::move(moments), backend, options);
  INFO(solved.status().ToString());
  REQUIRE(solved.ok());
  return *std::move(solved);
}

// y [tokens, rows] = x [tokens, cols] W^T.
inline Matrix Apply(const Matrix& x, const Matrix& w, int64_t cols) {
  const auto n = static_cast<size_t>(cols);
  const size_t tokens = x.size() / n;
  const size_t rows = w.size() / n;
  Matrix y(tokens * rows);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (size_t k = 0; k < n; ++k) sum += x[t * n + k] * w[r * n + k];
      y[t * rows + r] = sum;
    }
  }
  return y;
}

inline double RelativeDistance(const Matrix& a, const Matrix& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += a[i] * a[i];
  }
  return std::sqrt(difference / size);
}

}  // namespace qs::testing

#endif  // QS_TESTS_QUANT_AWQ_CASES_H_
