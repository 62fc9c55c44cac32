#include "tests/bench/awq_layer.h"

#include <cblas.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "absl/status/statusor.h"
#include "quant/formats/safetensors.h"

namespace qs {

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "awq_bench: %s\n",
               std::string(status.message()).c_str());
  std::exit(1);
}

Buffer Floats(int64_t count) {
  auto buffer = Buffer::Allocate(count * 4);
  Require(buffer.status());
  return *std::move(buffer);
}

AwqLayer MakeUpLayer(const AwqBenchOptions& o) {
  const int64_t n = o.cols;
  AwqLayer data{Floats(o.rows * n), {}, Floats(n * n), Floats(n * n), {}, 0};
  std::mt19937 random(1);
  std::normal_distribution<float> gauss;
  for (int64_t i = 0; i < o.rows * n; ++i) {
    data.weight.As<float>()[i] = 0.02f * gauss(random);
  }
  auto* r = data.factor.As<float>();
  for (int64_t i = 0; i < n; ++i) {
    const float loud = i % 64 == 5 ? 15.0f : 1.0f;
    for (int64_t j = 0; j < n; ++j) {
      const float part = i == j ? 30.0f + gauss(random) : gauss(random);
      r[i * n + j] = j < i ? 0.0f : loud * part;
    }
  }
  std::memcpy(data.moment.data(), r, static_cast<size_t>(data.moment.size()));
  const auto size = static_cast<blasint>(n);
  cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit,
              size, size, 1.0f, r, size, data.moment.As<float>(), size);
  for (int64_t k = 0; k < n; ++k) {
    data.x_mean.push_back(std::sqrt(data.moment.As<float>()[k * n + k]));
  }
  return data;
}

namespace {

// A copy of an F32 matrix of the file.
Buffer Matrix(const SafetensorsFile& file, const char* name, int64_t* rows,
              int64_t* cols) {
  const SafetensorsEntry* entry = file.Find(name);
  if (entry == nullptr || entry->dtype != DType::kF32 ||
      entry->shape.size() != 2) {
    Require(absl::InvalidArgumentError(file.path() + ": no F32 matrix \"" +
                                       name + "\""));
  }
  *rows = entry->shape[0];
  *cols = entry->shape[1];
  Buffer copy = Floats(*rows * *cols);
  std::memcpy(copy.data(), file.Data(*entry).data(),
              static_cast<size_t>(copy.size()));
  return copy;
}

}  // namespace

AwqLayer ReadLayer(AwqBenchOptions* o) {
  auto file = SafetensorsFile::Open(o->input);
  Require(file.status());
  AwqLayer data;
  int64_t inputs = 0;
  data.weight = Matrix(*file, "weight", &o->rows, &o->cols);
  data.x = Matrix(*file, "x", &data.tokens, &inputs);
  if (inputs != o->cols) {
    Require(absl::InvalidArgumentError(o->input +
                                       ": weight and x differ in columns"));
  }
  data.moment = Floats(inputs * inputs);
  data.factor = Floats(inputs * inputs);
  data.x_mean.resize(static_cast<size_t>(inputs));
  return data;
}

}  // namespace qs
