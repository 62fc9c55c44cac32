// What tensors ask of a device: how much is copied, and in how many operations.
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/blas_emulated.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/quant/awq_cases.h"
#include "tests/testing/counting_device.h"

namespace qs::testing {
namespace {

constexpr int64_t kMany = int64_t{1} << 40;

// A worker on a device that counts.
struct Worker {
  const std::shared_ptr<cuda::CountingDevice> device =
      std::make_shared<cuda::CountingDevice>();
  const std::unique_ptr<Backend> backend = *cuda::NewCudaBackend(
      device, cuda::NewEmulatedBlas(), NewCpuBackend(1), kMany);
};

// `layers` tensors [rows, cols] that read one input, behind a norm.
struct Block {
  Block(int layers, int64_t rows, int64_t cols) : inputs(cols) {
    info.name = "block";
    info.sites = {{"in", cols, {}, ""}};
    info.sites[0].fold.kind = FoldKind::kNorm;
    info.sites[0].fold.producer = "norm.weight";
    for (int i = 0; i < layers; ++i) {
      const std::string name = "up" + std::to_string(i) + ".weight";
      info.tensors.push_back({{name, DType::kBF16, {rows, cols}}, 0});
      weights[name] = Gaussian(rows * cols, DType::kBF16, 3);
    }
    info.tensors.push_back(
        {{"norm.weight", DType::kBF16, {cols}}, -1, GroupRole::kFoldOnly});
    weights["norm.weight"] = Stored(
        std::vector<float>(static_cast<size_t>(cols), 1.0f), DType::kBF16);
  }
  // Without what is folded into.
  void Unfold() {
    info.sites[0].fold = {};
    info.tensors.pop_back();
    weights.erase("norm.weight");
  }
  Moments NewMoments() const {
    Moments moments;
    moments.emplace("in",
                    MomentsOf("in", Tokens(4 * inputs, inputs, 5), inputs));
    return moments;
  }
  int64_t matrix_bytes() const { return inputs * inputs * 4; }

  int64_t inputs;
  GroupInfo info;
  Weights weights;
};

// Copies to the device of what has the size of the input's matrices.
int64_t MatricesCopied(const QuantSpec& spec, const Block& block) {
  const Worker worker;
  Solve(spec, block.info, block.weights, block.NewMoments(), *worker.backend);
  CHECK(worker.backend->memory().host_calls == 0);
  return worker.device->CopiesIn(block.matrix_bytes());
}

TEST_CASE("AWQ: an input's matrices are copied once", "[device_work]") {
  for (const int layers : {1, 3}) {
    INFO(layers << " tensors");
    const Block block(layers, 24, 96);
    AwqSpec awq;
    awq.group_size = 32;
    awq.grid = 4;
    awq.solve_codes = false;
    // To factor it for the search, that factor, the scaled moment.
    CHECK(MatricesCopied(Awq(awq, Profile::kBest), block) == 3);
    CHECK(MatricesCopied(Awq(awq, Profile::kReference, OutputFormat::kAwqGemm),
                         block) == 3);
  }
}

TEST_CASE("AWQ that solves codes: copies do not grow with tensors",
          "[device_work]") {
  AwqSpec awq;
  awq.group_size = 32;
  awq.grid = 4;
  awq.solve_codes = true;
  const QuantSpec spec = Awq(awq, Profile::kBest);
  CHECK(MatricesCopied(spec, Block(1, 24, 96)) ==
        MatricesCopied(spec, Block(3, 24, 96)));
}

TEST_CASE("a site that is only reported on is copied once", "[device_work]") {
  Block block(2, 600, 64);  // two slabs of rows each
  block.Unfold();
  const QuantSpec spec = {RtnSpec{4, 64, true}, Profile::kReference,
                          OutputFormat::kCompressedTensors};
  CHECK(MatricesCopied(spec, block) == 1);
}

}  // namespace
}  // namespace qs::testing
