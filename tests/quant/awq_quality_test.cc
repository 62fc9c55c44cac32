// What AWQ takes off the output error, on tokens that the calibration did not
// see, and the scales that it chooses for it: correlated inputs with a falling
// spectrum and a few loud channels, weights with heavy tails.
#include <cmath>

#include "tests/quant/awq_cases.h"

namespace qs::testing {
namespace {

constexpr int64_t kCols = 256;
constexpr int64_t kRows = 128;

// Draws from one fixed mixture of latent directions.
class Activations {
 public:
  Activations() {
    std::mt19937 random(17);
    std::normal_distribution<double> gauss;
    for (int64_t d = 0; d < kLatent; ++d) {
      const double size = std::pow(static_cast<double>(d + 1), -0.7);
      for (int64_t k = 0; k < kCols; ++k) mix_.push_back(size * gauss(random));
    }
    for (int64_t k = 0; k < kCols; ++k) {
      gain_.push_back(std::exp(0.7 * gauss(random)) * (k % 60 == 7 ? 15 : 1));
    }
  }
  Matrix Draw(int64_t tokens, uint32_t seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<double> gauss;
    Matrix x;
    std::vector<double> latent(kLatent);
    for (int64_t t = 0; t < tokens; ++t) {
      for (double& v : latent) v = gauss(random);
      for (size_t k = 0; k < static_cast<size_t>(kCols); ++k) {
        double sum = 0.3 * gauss(random);
        for (size_t d = 0; d < latent.size(); ++d) {
          sum += latent[d] * mix_[d * static_cast<size_t>(kCols) + k];
        }
        x.push_back(sum * gain_[k]);
      }
    }
    return x;
  }

 private:
  static constexpr int64_t kLatent = 40;
  std::vector<double> mix_, gain_;
};

std::vector<float> HeavyTails(uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> gauss;
  std::vector<float> w;
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    double chi = 0;
    for (int j = 0; j < 5; ++j) chi += std::pow(gauss(random), 2);
    w.push_back(static_cast<float>(0.02 * gauss(random) / std::sqrt(chi / 5)));
  }
  return w;
}

GroupInfo NormAndLinear() {
  GroupInfo info;
  info.name = "block";
  info.sites = {{"in", kCols, {}, ""}};
  info.sites[0].fold.kind = FoldKind::kNorm;
  info.sites[0].fold.producer = "norm.weight";
  info.tensors = {
      {{"norm.weight", DType::kBF16, {kCols}}, -1, GroupRole::kFoldOnly},
      {{"w.weight", DType::kBF16, {kRows, kCols}}, 0, GroupRole::kQuantize}};
  return info;
}

struct Errors {
  double held_out = 0;
  double seen = 0;
  double rtn = 0;  // seen
};

std::vector<uint8_t> Weight() { return Stored(HeavyTails(3), DType::kBF16); }

SolvedGroup SolveOn(const QuantSpec& spec, const Matrix& x) {
  const std::vector<uint8_t> norm =
      Stored(std::vector<float>(kCols, 1.0f), DType::kBF16);
  Moments moments;
  moments.emplace("in", MomentsOf("in", x, kCols));
  return Solve(spec, NormAndLinear(),
               {{"norm.weight", norm}, {"w.weight", Weight()}},
               std::move(moments), *NewCpuBackend(2));
}

Errors Measure(const QuantSpec& spec, const Matrix& x, const Matrix& other) {
  const std::vector<uint8_t> w = Weight();
  const SolvedGroup solved = SolveOn(spec, x);
  // The norm was 1: what it is now divides the input.
  const Matrix folded = solved.Folded("norm.weight");
  Matrix scaled = other;
  for (size_t i = 0; i < scaled.size(); ++i) scaled[i] *= folded[i % kCols];
  const double distance = RelativeDistance(
      Apply(other, Loaded(w.data(), DType::kBF16, kRows * kCols), kCols),
      Apply(scaled, solved.Decoded(spec, "w.weight"), kCols));
  const TensorReport& report = solved.report("w.weight");
  return {distance * distance, RelativeOutputError(report.output_error),
          RelativeOutputError(report.rtn_output_error)};
}

TEST_CASE("AWQ against rounding and BEST against REFERENCE, held out") {
  const Activations activations;
  const Matrix x = activations.Draw(2048, 1);
  const Matrix other = activations.Draw(1024, 2);
  AwqSpec reference = DefaultAwqSpec(Profile::kReference);
  reference.symmetric = false;
  AwqSpec best = DefaultAwqSpec(Profile::kBest);
  best.symmetric = false;
  AwqSpec rounded = best;
  rounded.solve_codes = false;
  for (int bits : {4, 3}) {
    reference.bits = best.bits = rounded.bits = bits;
    const Errors of_reference =
        Measure(Awq(reference, Profile::kReference), x, other);
    const Errors of_rounded = Measure(Awq(rounded, Profile::kBest), x, other);
    const Errors of_best = Measure(Awq(best, Profile::kBest), x, other);
    INFO(bits << " bits, held out: REFERENCE " << of_reference.held_out
              << ", BEST rounded " << of_rounded.held_out << ", BEST "
              << of_best.held_out << "; seen " << of_reference.seen << " "
              << of_rounded.seen << " " << of_best.seen << ", RTN "
              << of_best.rtn);
    CHECK(of_reference.seen < of_reference.rtn);
    CHECK(of_rounded.held_out < of_reference.held_out);
    CHECK(of_best.held_out < 0.5 * of_reference.held_out);
  }
}

TEST_CASE("scales lie between the grid's ratios, and within their cap") {
  const Matrix x = Activations().Draw(1024, 1);
  AwqSpec awq = DefaultAwqSpec(Profile::kBest);
  awq.grid = 3;
  double uncapped = 0;
  for (const double cap : {0.0, 16.0, 4.0, 1.5}) {
    awq.max_scale_ratio = cap;
    const TensorReport report =
        SolveOn(Awq(awq, Profile::kBest), x).report("w.weight");
    const SolverFacts& facts = *report.solver;
    const double ratio = facts.scale_max / facts.scale_min;
    INFO("cap " << cap << ", ratio " << ratio << ", exponent "
                << facts.scale_exponent);
    if (cap == 0) {
      uncapped = ratio;
      // Golden section leaves the thirds.
      const double thirds = 3 * facts.scale_exponent;
      CHECK(std::fabs(thirds - std::round(thirds)) > 0.01);
      continue;
    }
    // A norm in BF16 rounds what it takes.
    CHECK(ratio <= cap * 1.02);
    CHECK(ratio > 1);
    CHECK(report.output_error.error <= report.rtn_output_error.error);
  }
  CHECK(uncapped > 4 * 1.02);
}

}  // namespace
}  // namespace qs::testing
