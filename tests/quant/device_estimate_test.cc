// What tasks take of a device's memory, on the emulated one, against what they
// were estimated to take.
#include "quant/device_estimate.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/affine_cuda.h"
#include "kernels/cuda/awq_cuda.h"
#include "kernels/cuda/blas_emulated.h"
#include "kernels/cuda/device_session.h"
#include "kernels/cuda/gptq_cuda.h"
#include "kernels/cuda/gram_cuda.h"
#include "kernels/cuda/hqq_cuda.h"
#include "kernels/cuda/nf4_cuda.h"
#include "kernels/cuda/staged_ops.h"
#include "kernels/cuda/stats_cuda.h"
#include "kernels/cuda/workspace_scratch.h"
#include "quant/formats/hqq_format.h"
#include "quant/site_accumulator.h"
#include "tests/quant/awq_cases.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/sanitized.h"

namespace qs::testing {
namespace {

constexpr int64_t kMany = int64_t{1} << 40;

// A worker's backend whose session the test sees.
class SeenDevice final : public Backend {
 public:
  SeenDevice()
      : session_(*cuda::DeviceSession::Create(
            std::make_shared<cuda::FakeDevice>(), kMany)),
        blas_(cuda::NewEmulatedBlas()),
        host_(NewCpuBackend(1)),
        scratch_(workspace()),
        nf4_(StageNf4(*session_, NewNf4Cuda(), host_->nf4())),
        affine_(StageAffine(*session_, NewAffineCuda(), host_->affine())),
        stats_(StageStats(*session_, NewStatsCuda(scratch_), host_->stats())),
        hqq_(StageHqq(*session_, NewHqqCuda(scratch_), host_->hqq())),
        gram_(StageGram(*session_, cuda::NewGramCuda(workspace(), *blas_),
                        host_->gram())),
        gptq_(StageGptq(*session_, cuda::NewGptqCuda(workspace(), *blas_),
                        host_->gptq())),
        awq_(StageAwq(*session_, cuda::NewAwqCuda(workspace(), *blas_),
                      host_->awq())) {}

  std::string name() const override { return "gpu:0"; }
  std::string description() const override { return "seen"; }
  Stream& stream() override { return host_->stream(); }
  Nf4Ops& nf4() override { return *nf4_; }
  AffineOps& affine() override { return *affine_; }
  StatsOps& stats() override { return *stats_; }
  HqqOps& hqq() override { return *hqq_; }
  GramOps& gram() override { return *gram_; }
  GptqOps& gptq() override { return *gptq_; }
  AwqOps& awq() override { return *awq_; }

  cuda::Workspace& workspace() { return session_->workspace(); }
  int64_t high_water() const { return session_->ledger().high_water(); }
  int64_t host_calls() const { return session_->host_calls(); }

 private:
  const std::unique_ptr<cuda::DeviceSession> session_;
  const std::unique_ptr<cuda::Blas> blas_;
  const std::unique_ptr<Backend> host_;
  cuda::WorkspaceScratch scratch_;
  const std::unique_ptr<Nf4Ops> nf4_;
  const std::unique_ptr<AffineOps> affine_;
  const std::unique_ptr<StatsOps> stats_;
  const std::unique_ptr<HqqOps> hqq_;
  const std::unique_ptr<GramOps> gram_;
  const std::unique_ptr<GptqOps> gptq_;
  const std::unique_ptr<AwqOps> awq_;
};

// `emulated`: the estimate with the emulation's tiles, which is what operations
// take; `gpu`: with a GPU's, which the session expects.
void RequireNear(SeenDevice& device, const DeviceBytes& emulated,
                 const DeviceBytes& gpu) {
  const int64_t taken = device.workspace().most_taken();
  const int64_t kept = device.workspace().kept();
  INFO("taken " << taken << " of " << emulated.taken << ", kept " << kept
                << " of " << emulated.kept);
  CHECK(taken <= emulated.taken);
  CHECK(emulated.taken <= 2 * taken);
  CHECK(kept <= emulated.kept);
  CHECK(emulated.kept <= 2 * kept);
  INFO("high water " << device.high_water() << " of " << DeviceMemoryFor(gpu));
  CHECK(device.high_water() <= DeviceMemoryFor(gpu));
  CHECK(DeviceMemoryFor(gpu) <= 2 * device.high_water());
  CHECK(device.host_calls() == 0);
}

struct Shape {
  int64_t rows;
  int64_t cols;
};
// One is a single tile, one has several slices and tiles of rows.
constexpr Shape kShapes[] = {{32, 128}, {150, 512}};

TensorInfo Info(const Shape& shape, DType dtype = DType::kBF16) {
  return {"w.weight", dtype, {shape.rows, shape.cols}};
}

void RequireTensorNear(const QuantSpec& spec, const TensorInfo& info,
                       bool large = false) {
  INFO(SpecMethodName(spec) << ", " << SpecBits(spec) << " bits, profile "
                            << static_cast<int>(spec.profile) << ", ["
                            << info.shape[0] << ", " << info.shape[1] << "]");
  SeenDevice device;
  QuantizeOptions options;
  options.large_tiles = large;
  const auto quantizer = MakeQuantizer(
      spec, info,
      Gaussian(info.shape[0] * info.shape[1], info.dtype, /*seed=*/3), options);
  FinishAll(*quantizer, device);
  const DeviceUse use = {.large_tiles = large};
  RequireNear(device, TensorDeviceBytes(spec, info, use, kEmulatedTiles),
              TensorDeviceBytes(spec, info, use));
}

TEST_CASE("the least is that of a worker", "[device_estimate]") {
  CHECK(kLeastDeviceBytes == cuda::Workspace::kLeastChunk);
}

TEST_CASE("methods that need nothing: estimate and use", "[device_estimate]") {
  for (const Shape& shape : kShapes) {
    // Bits change little: all of them on the small one.
    const bool small = shape.rows == kShapes[0].rows;
    const std::vector<int> bits_of_all =
        small ? std::vector<int>{2, 3, 4, 8} : std::vector<int>{4};
    for (const Profile profile : {Profile::kReference, Profile::kBest}) {
      for (const bool nested : {false, true}) {
        RequireTensorNear({Nf4Spec{.double_quant = nested}, profile,
                           OutputFormat::kBitsandbytes},
                          Info(shape));
      }
      for (const int bits : bits_of_all) {
        for (const bool symmetric : {false, true}) {
          RequireTensorNear({RtnSpec{bits, 64, symmetric}, profile,
                             OutputFormat::kCompressedTensors},
                            Info(shape, DType::kF32));
        }
      }
      for (const int bits : bits_of_all) {
        RequireTensorNear({HqqSpec{.bits = bits}, profile, OutputFormat::kHqq},
                          Info(shape));
      }
      RequireTensorNear({HqqSpec{}, profile, OutputFormat::kCompressedTensors},
                        Info(shape));
    }
  }
}

// hqq's format is packed whole, which is most for a tensor of many slices. 3
// bits: the last part is short, with axis 0 by whole rows of the code matrix.
TEST_CASE("hqq's packing: estimate and use", "[device_estimate]") {
  const TensorInfo info = Info({256, 2048});
  for (const int axis : {0, 1}) {
    for (const int bits : {1, 2, 3, 4, 8}) {
      const HqqSpec hqq{.bits = bits, .axis = axis};
      const HqqLayout layout =
          HqqLayoutOf(hqq, info.name, info.dtype, info.shape[0], info.shape[1]);
      INFO(bits << " bits, axis " << axis);
      SeenDevice device;
      const std::vector<uint8_t> codes(256 * 2048, 1);
      std::vector<uint8_t> again(codes.size());
      std::vector<uint8_t> packed(static_cast<size_t>(HqqPackedBytes(layout)));
      REQUIRE(PackHqqCodes(layout, codes.data(), device, packed.data()).ok());
      REQUIRE(UnpackHqqCodes(layout, packed.data(), device, again.data()).ok());
      CHECK(again == codes);
      const DeviceBytes packing = DeviceBytesOf(HqqPackArgs(layout));
      RequireNear(device, packing, packing);
      for (const Profile profile : {Profile::kReference, Profile::kBest}) {
        CHECK(packing.taken <=
              TensorDeviceBytes({hqq, profile, OutputFormat::kHqq}, info, {})
                  .taken);
      }
    }
  }
}

TEST_CASE("large slices: estimate and use", "[device_estimate]") {
  const TensorInfo info = Info({200, 512});
  RequireTensorNear(
      {RtnSpec{4, 64, true}, Profile::kBest, OutputFormat::kCompressedTensors},
      info, /*large=*/true);
  for (const OutputFormat format :
       {OutputFormat::kHqq, OutputFormat::kCompressedTensors}) {
    RequireTensorNear({HqqSpec{}, Profile::kBest, format}, info,
                      /*large=*/true);
  }
  RequireTensorNear(
      {Nf4Spec{}, Profile::kReference, OutputFormat::kBitsandbytes}, info,
      /*large=*/true);
  RequireTensorNear({Nf4Spec{.double_quant = true}, Profile::kBest,
                     OutputFormat::kBitsandbytes},
                    info, /*large=*/true);
}

// `layers` tensors that read one site.
struct Problem {
  Problem(const Shape& shape, int layers, DType dtype = DType::kBF16) {
    info.name = "block";
    info.sites = {{"in", shape.cols, {}, ""}};
    for (int i = 0; i < layers; ++i) {
      const std::string name = "up" + std::to_string(i) + ".weight";
      info.tensors.push_back({{name, dtype, {shape.rows, shape.cols}}, 0});
      weights[name] = Gaussian(shape.rows * shape.cols, dtype, 3);
    }
  }
  Moments NewMoments() const {
    const int64_t inputs = info.sites[0].inputs;
    Moments moments;
    moments.emplace("in",
                    MomentsOf("in", Tokens(4 * inputs, inputs, 5), inputs));
    return moments;
  }
  // Folded into a norm before it.
  void Fold() {
    const int64_t cols = info.sites[0].inputs;
    info.sites[0].fold.kind = FoldKind::kNorm;
    info.sites[0].fold.producer = "norm.weight";
    info.tensors.push_back(
        {{"norm.weight", DType::kBF16, {cols}}, -1, GroupRole::kFoldOnly});
    weights["norm.weight"] = Stored(
        std::vector<float>(static_cast<size_t>(cols), 1.0f), DType::kBF16);
  }

  GroupInfo info;
  Weights weights;
};

DeviceBytes OfAll(const QuantSpec& spec, const GroupInfo& info,
                  const QuantizeOptions& options, const DeviceTiles& tiles) {
  const DeviceUse use = GroupDeviceUse(spec, info, options);
  DeviceBytes most = SolveDeviceBytes(spec, info, tiles);
  for (const GroupTensor& tensor : info.tensors) {
    if (tensor.role != GroupRole::kQuantize) continue;
    most = MostOf(most, TensorDeviceBytes(spec, tensor.info, use, tiles));
  }
  return most;
}

void RequireGroupNear(const QuantSpec& spec, const Problem& problem,
                      const QuantizeOptions& options = {}) {
  INFO(SpecMethodName(spec)
       << ", " << SpecBits(spec) << " bits, profile "
       << static_cast<int>(spec.profile) << ", " << problem.info.tensors.size()
       << " tensors, inputs " << problem.info.sites[0].inputs);
  SeenDevice device;
  Solve(spec, problem.info, problem.weights, problem.NewMoments(), device,
        options);
  RequireNear(device, OfAll(spec, problem.info, options, kEmulatedTiles),
              OfAll(spec, problem.info, options, kGpuTiles));
}

// The second has several tiles and blocks of columns, the last ones short.
TEST_CASE("GPTQ: estimate and use", "[device_estimate]") {
  for (const Shape& shape : {Shape{16, 64}, Shape{72, 224}}) {
    const Problem problem(shape, 1);
    for (const Profile profile : {Profile::kReference, Profile::kBest}) {
      for (const int bits : {2, 3, 4, 8}) {
        GptqSpec gptq;
        gptq.bits = bits;
        gptq.group_size = 32;
        gptq.sweeps = 2;
        if (profile == Profile::kReference) {
          gptq.range_search = RangeSearch::kMinMax;
        }
        RequireGroupNear({gptq, profile, OutputFormat::kCompressedTensors},
                         problem);
      }
      GptqSpec ordered;  // dynamic groups, with windows
      ordered.order = ColumnOrder::kActOrder;
      ordered.range_search = RangeSearch::kMinMax;
      ordered.symmetric = false;
      RequireGroupNear({ordered, profile, OutputFormat::kGptqV2}, problem);
    }
    GptqSpec wide;  // groups wider than a block
    wide.group_size = -1;
    wide.sweeps = 2;
    RequireGroupNear({wide, Profile::kBest, OutputFormat::kCompressedTensors},
                     problem);
  }
}

TEST_CASE("GPTQ in large tiles: estimate and use", "[device_estimate]") {
  const Problem problem({600, 64}, 1);
  GptqSpec gptq;
  gptq.group_size = 32;
  gptq.sweeps = 2;
  QuantizeOptions options;
  options.large_tiles = true;
  RequireGroupNear({gptq, Profile::kBest, OutputFormat::kCompressedTensors},
                   problem, options);
}

// A tile that is larger than a unit of rows, which 1 MiB of weights makes.
TEST_CASE("AWQ in large tiles: estimate and use", "[device_estimate]") {
  if (kSanitized) return;
  const Problem problem({1040, 256}, 1, DType::kF32);
  QuantizeOptions options;
  options.large_tiles = true;
  AwqSpec awq;
  awq.group_size = 128;
  awq.grid = 1;
  RequireGroupNear(Awq(awq, Profile::kBest), problem, options);
}

TEST_CASE("AWQ, and GPTQ that scales first: estimate and use",
          "[device_estimate]") {
  for (const int layers : {1, 2}) {
    Problem problem({24, 96}, layers);
    problem.Fold();
    for (const bool solves : {false, true}) {
      AwqSpec awq;
      awq.group_size = 32;
      awq.grid = 4;
      awq.solve_codes = solves;
      RequireGroupNear(Awq(awq, Profile::kBest), problem);
    }
    AwqSpec published;
    published.group_size = 32;
    published.grid = 4;
    published.solve_codes = false;
    published.symmetric = false;
    RequireGroupNear(
        Awq(published, Profile::kReference, OutputFormat::kAwqGemm), problem);
    GptqSpec gptq;
    gptq.group_size = 32;
    gptq.sweeps = 2;
    gptq.awq_scaling = true;
    RequireGroupNear({gptq, Profile::kBest, OutputFormat::kCompressedTensors},
                     problem);
  }
}

TEST_CASE("a site that is only reported on: estimate and use",
          "[device_estimate]") {
  const Problem problem({64, 256}, 1);
  const QuantSpec spec = {RtnSpec{4, 64, true}, Profile::kBest,
                          OutputFormat::kCompressedTensors};
  RequireGroupNear(spec, problem);
}

TEST_CASE("second moments: estimate and use", "[device_estimate]") {
  for (const int64_t inputs : {16, 128}) {
    for (const int64_t runs : {1, 5}) {
      INFO(inputs << " inputs, " << runs << " runs at a time");
      SeenDevice device;
      const auto sums =
          *SiteAccumulator::Create("in", inputs, DType::kBF16, runs);
      const int64_t tokens = runs * kGramRunTokens + 10;
      const auto x = Gaussian(tokens * inputs, DType::kBF16, 7);
      REQUIRE(sums->Add(x.data(), tokens, device).ok());
      REQUIRE(sums->Finish(device).ok());
      RequireNear(device,
                  SiteDeviceBytes(inputs, DType::kBF16, runs, kEmulatedTiles),
                  SiteDeviceBytes(inputs, DType::kBF16, runs));
    }
  }
}

}  // namespace
}  // namespace qs::testing
