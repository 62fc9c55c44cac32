// Activations to moments: how they are cut into calls does not matter.
#include "quant/site_accumulator.h"

#include <cmath>
#include <string>
#include <vector>

#include "kernels/gram_ops.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

SiteMoments Sum(const std::vector<uint8_t>& rows, int64_t inputs, DType dtype,
                int64_t step, Backend& backend) {
  auto sums = SiteAccumulator::Create("site", inputs, dtype);
  REQUIRE(sums.ok());
  const int64_t row = inputs * DTypeBytes(dtype);
  const auto tokens = static_cast<int64_t>(rows.size()) / row;
  for (int64_t t = 0; t < tokens; t += step) {
    REQUIRE(
        (*sums)
            ->Add(rows.data() + t * row, std::min(step, tokens - t), backend)
            .ok());
  }
  auto moments = (*sums)->Finish(backend);
  REQUIRE(moments.ok());
  return *std::move(moments);
}

TEST_CASE("sums are of the tokens, not of the calls") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16, DType::kF16);
  const int64_t inputs = 33;
  const int64_t tokens = 2 * kGramRunTokens + 57;
  const std::vector<uint8_t> rows = Gaussian(tokens * inputs, dtype, 4, 1.0);
  const auto backend = NewCpuBackend(2);
  const SiteMoments whole = Sum(rows, inputs, dtype, tokens, *backend);
  CHECK(whole.tokens() == tokens);
  CHECK(whole.Check().ok());
  for (const int64_t step : {1, 100, 2049}) {
    const SiteMoments parts = Sum(rows, inputs, dtype, step, *backend);
    CHECK(std::memcmp(parts.second_moment(), whole.second_moment(),
                      sizeof(float) * inputs * inputs) == 0);
    CHECK(std::memcmp(parts.abs_sum(), whole.abs_sum(),
                      sizeof(float) * inputs) == 0);
  }
  double expected = 0;
  double absolute = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const double a = LoadAsFloat(rows.data(), dtype, t * inputs + 2);
    const double b = LoadAsFloat(rows.data(), dtype, t * inputs + 31);
    expected += a * b;
    absolute += std::abs(a);
  }
  CHECK(whole.second_moment()[2 * inputs + 31] ==
        Approx(expected).margin(1e-4 * tokens));
  CHECK(whole.second_moment()[31 * inputs + 2] ==
        whole.second_moment()[2 * inputs + 31]);
  CHECK(whole.abs_sum()[2] == Approx(absolute).epsilon(1e-6));
}

TEST_CASE("NaN is named by its token and input") {
  const int64_t inputs = 8;
  const int64_t tokens = kGramRunTokens + 4;
  std::vector<uint8_t> rows = Gaussian(tokens * inputs, DType::kF32, 4, 1.0);
  StoreFromFloat(rows.data(), DType::kF32, (kGramRunTokens + 1) * inputs + 3,
                 NAN);
  auto sums = SiteAccumulator::Create("site", inputs, DType::kF32);
  const auto backend = NewCpuBackend(1);
  absl::Status status = (*sums)->Add(rows.data(), tokens, *backend);
  if (status.ok()) status = (*sums)->Finish(*backend).status();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(status.message()) ==
        "site \"site\": NaN at token 2049, input 3");
}

// Saved and restored after each `step` tokens.
SiteMoments SumWithRests(const std::vector<uint8_t>& rows, int64_t inputs,
                         DType dtype, int64_t step, Backend& backend) {
  auto sums = SiteAccumulator::Create("site", inputs, dtype);
  REQUIRE(sums.ok());
  const int64_t row = inputs * DTypeBytes(dtype);
  const auto tokens = static_cast<int64_t>(rows.size()) / row;
  for (int64_t t = 0; t < tokens; t += step) {
    REQUIRE(
        (*sums)
            ->Add(rows.data() + t * row, std::min(step, tokens - t), backend)
            .ok());
    const int64_t added = (*sums)->tokens();
    REQUIRE(added == std::min(t + step, tokens));
    std::vector<uint8_t> state;
    REQUIRE((*sums)
                ->Save([&](std::span<const uint8_t> part) {
                  state.insert(state.end(), part.begin(), part.end());
                  return absl::OkStatus();
                })
                .ok());
    REQUIRE(static_cast<int64_t>(state.size()) ==
            SiteAccumulator::StateBytes(inputs, dtype, added));
    size_t at = 0;
    sums = SiteAccumulator::Restore(
        "site", inputs, dtype, added, [&](std::span<uint8_t> part) {
          std::copy_n(state.begin() + static_cast<int64_t>(at), part.size(),
                      part.begin());
          at += part.size();
          return absl::OkStatus();
        });
    REQUIRE(sums.ok());
    REQUIRE(at == state.size());
  }
  auto moments = (*sums)->Finish(backend);
  REQUIRE(moments.ok());
  return *std::move(moments);
}

TEST_CASE("a sum that rested goes on to the same bytes") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const int64_t inputs = 17;
  const int64_t tokens = 2 * kGramRunTokens + 57;
  const std::vector<uint8_t> rows = Gaussian(tokens * inputs, dtype, 4, 1.0);
  const auto backend = NewCpuBackend(1);
  const SiteMoments whole = Sum(rows, inputs, dtype, tokens, *backend);
  for (const int64_t step : {int64_t{700}, kGramRunTokens, tokens}) {
    const SiteMoments parts = SumWithRests(rows, inputs, dtype, step, *backend);
    CHECK(parts.tokens() == tokens);
    CHECK(std::memcmp(parts.second_moment(), whole.second_moment(),
                      sizeof(float) * inputs * inputs) == 0);
    CHECK(std::memcmp(parts.abs_sum(), whole.abs_sum(),
                      sizeof(float) * inputs) == 0);
  }
}

TEST_CASE("the widest sums are counted in 64 bits") {
  // 8 n (n + 1), and a run of 2048 tokens.
  CHECK(SiteAccumulator::MemoryBytes(53248, DType::kBF16) ==
        int64_t{22'683'222'016} + int64_t{218'103'808});
  CHECK(SiteAccumulator::MemoryBytes(65536, DType::kF32) ==
        int64_t{34'360'262'656} + int64_t{536'870'912});
  // The triangle and the sums of magnitudes, and what is left of a run.
  CHECK(SiteAccumulator::StateBytes(65536, DType::kF32, 4 * 2048 + 2047) ==
        8 * (int64_t{2'147'516'416} + 65536) + int64_t{2047} * 65536 * 4);
}

}  // namespace
}  // namespace qs::testing
