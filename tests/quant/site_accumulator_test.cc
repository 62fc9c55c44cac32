// Activations to moments: how they are cut into calls does not matter.
#include "quant/site_accumulator.h"

#include <cmath>
#include <string>
#include <vector>

#include "kernels/gram_ops.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/large_backend.h"

namespace qs::testing {
namespace {

SiteMoments Sum(const std::vector<uint8_t>& rows, int64_t inputs, DType dtype,
                int64_t step, Backend& backend, int64_t runs = 1) {
  auto sums = SiteAccumulator::Create("site", inputs, dtype, runs);
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

void RequireSame(const SiteMoments& a, const SiteMoments& b) {
  REQUIRE(a.inputs() == b.inputs());
  const auto inputs = static_cast<size_t>(a.inputs());
  CHECK(a.tokens() == b.tokens());
  CHECK(std::memcmp(a.second_moment(), b.second_moment(),
                    sizeof(float) * inputs * inputs) == 0);
  CHECK(std::memcmp(a.abs_sum(), b.abs_sum(), sizeof(float) * inputs) == 0);
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
    RequireSame(Sum(rows, inputs, dtype, step, *backend), whole);
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

TEST_CASE("several runs in a call: the same sums in fewer calls") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const int64_t inputs = 33;
  const int64_t tokens = 7 * kGramRunTokens + 57;
  const std::vector<uint8_t> rows = Gaussian(tokens * inputs, dtype, 4, 1.0);
  GramCalls one;
  LargeBackend counted(one);
  const SiteMoments single = Sum(rows, inputs, dtype, tokens, counted);
  CHECK(one.tokens().size() == 8);
  for (const int64_t step : {int64_t{613}, kGramRunTokens + 1, tokens}) {
    GramCalls several;
    LargeBackend backend(several);
    RequireSame(Sum(rows, inputs, dtype, step, backend, /*runs=*/3), single);
    CHECK(several.tokens() == std::vector<int64_t>{3 * kGramRunTokens,
                                                   3 * kGramRunTokens,
                                                   kGramRunTokens + 57});
    RequireSame(Sum(rows, inputs, dtype, step, backend, /*runs=*/100), single);
    CHECK(several.tokens().back() == tokens);
  }
}

// Of what is added with `runs` in a call, and of Finish.
std::string ErrorOf(const std::vector<uint8_t>& rows, int64_t inputs,
                    int64_t step, int64_t runs) {
  auto sums = SiteAccumulator::Create("site", inputs, DType::kF32, runs);
  const auto backend = NewCpuBackend(1);
  const int64_t row = inputs * DTypeBytes(DType::kF32);
  const auto tokens = static_cast<int64_t>(rows.size()) / row;
  absl::Status status;
  for (int64_t t = 0; t < tokens && status.ok(); t += step) {
    status = (*sums)->Add(rows.data() + t * row, std::min(step, tokens - t),
                          *backend);
  }
  if (status.ok()) status = (*sums)->Finish(*backend).status();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST_CASE("NaN is named by its token and input") {
  const int64_t inputs = 8;
  const int64_t tokens = 5 * kGramRunTokens + 4;
  // The first, in any run of a call, is named.
  for (const int64_t token :
       {int64_t{1}, kGramRunTokens + 1, 2 * kGramRunTokens,
        4 * kGramRunTokens - 1, tokens - 1}) {
    std::vector<uint8_t> rows = Gaussian(tokens * inputs, DType::kF32, 4, 1.0);
    StoreFromFloat(rows.data(), DType::kF32, token * inputs + 3, NAN);
    StoreFromFloat(rows.data(), DType::kF32, tokens * inputs - 1, INFINITY);
    for (const int64_t runs : {1, 3, 8}) {
      for (const int64_t step : {int64_t{1000}, tokens}) {
        INFO(runs << " runs in a call, " << step << " tokens at a time");
        CHECK(ErrorOf(rows, inputs, step, runs) ==
              "site \"site\": NaN at token " + std::to_string(token) +
                  ", input 3");
      }
    }
  }
}

TEST_CASE("rows are looked at before they are added") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16, DType::kF16);
  const int64_t inputs = 9;
  const int64_t tokens = kGramRunTokens + 700;
  const std::vector<uint8_t> rows = Gaussian(tokens * inputs, dtype, 4, 1.0);
  const auto backend = NewCpuBackend(1);
  auto sums = SiteAccumulator::Create("site", inputs, dtype);
  REQUIRE((*sums)->CheckFinite(rows.data(), tokens).ok());
  REQUIRE((*sums)->Add(rows.data(), tokens, *backend).ok());
  std::vector<uint8_t> bad = rows;
  StoreFromFloat(bad.data(), dtype, 12 * inputs + 4, -INFINITY);
  StoreFromFloat(bad.data(), dtype, 12 * inputs + 5, NAN);
  const absl::Status found = (*sums)->CheckFinite(bad.data(), tokens);
  CHECK(found.code() == absl::StatusCode::kInvalidArgument);
  // Counted as those that came before.
  CHECK(found.message() == "site \"site\": Inf at token 2760, input 4");
  CHECK((*sums)->CheckFinite(bad.data(), 12).ok());
  CHECK((*sums)->tokens() == tokens);
  auto moments = (*sums)->Finish(*backend);
  REQUIRE(moments.ok());
  RequireSame(*moments, Sum(rows, inputs, dtype, tokens, *backend));
}

// Saved and restored after each `step` tokens; `runs` in a call, and one in
// each second stretch.
SiteMoments SumWithRests(const std::vector<uint8_t>& rows, int64_t inputs,
                         DType dtype, int64_t step, Backend& backend,
                         int64_t runs = 1) {
  auto sums = SiteAccumulator::Create("site", inputs, dtype, runs);
  bool large = true;
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
    REQUIRE((*sums)->SumWholeRuns(backend).ok());
    REQUIRE((*sums)->tokens() == added);
    REQUIRE_FALSE((*sums)->has_whole_runs());
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
    large = !large;
    sums = SiteAccumulator::Restore(
        "site", inputs, dtype, added,
        [&](std::span<uint8_t> part) {
          std::copy_n(state.begin() + static_cast<int64_t>(at), part.size(),
                      part.begin());
          at += part.size();
          return absl::OkStatus();
        },
        large ? runs : 1);
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
  for (const int64_t step :
       {int64_t{700}, kGramRunTokens, 2 * kGramRunTokens + 5, tokens}) {
    for (const int64_t runs : {1, 4}) {
      RequireSame(SumWithRests(rows, inputs, dtype, step, *backend, runs),
                  whole);
    }
  }
}

TEST_CASE("a state has no whole run that waits") {
  const int64_t inputs = 4;
  const int64_t tokens = kGramRunTokens + 1;
  const std::vector<uint8_t> rows =
      Gaussian(tokens * inputs, DType::kF32, 4, 1.0);
  const auto backend = NewCpuBackend(1);
  auto sums = SiteAccumulator::Create("site", inputs, DType::kF32, /*runs=*/2);
  REQUIRE((*sums)->Add(rows.data(), tokens, *backend).ok());
  CHECK((*sums)->has_whole_runs());
  const auto ignore = [](std::span<const uint8_t>) { return absl::OkStatus(); };
  CHECK((*sums)->Save(ignore).code() == absl::StatusCode::kInternal);
  REQUIRE((*sums)->SumWholeRuns(*backend).ok());
  CHECK((*sums)->Save(ignore).ok());
}

TEST_CASE("rows wait for a call as long as the sums take to copy") {
  const auto bytes = [](int64_t inputs, DType dtype) {
    return SiteAccumulator::LargeRuns(inputs, dtype) * kGramRunTokens * inputs *
           DTypeBytes(dtype);
  };
  CHECK(SiteAccumulator::LargeRuns(4096, DType::kBF16) == 16);
  CHECK(SiteAccumulator::LargeRuns(4096, DType::kF32) == 8);
  CHECK(SiteAccumulator::LargeRuns(64, DType::kBF16) == 1);
  CHECK(SiteAccumulator::LargeRuns(65536, DType::kF32) == 1);
  for (const int64_t inputs : {1024, 4096, 11008, 14336, 28672, 53248}) {
    INFO(inputs << " inputs");
    const int64_t sums = 2 * 8 * inputs * (inputs + 1);
    CHECK(bytes(inputs, DType::kBF16) <= std::min(sums, int64_t{512} << 20));
    CHECK(2 * bytes(inputs, DType::kBF16) > std::min(sums, int64_t{512} << 20));
    CHECK(SiteAccumulator::MemoryBytes(
              inputs, DType::kBF16,
              SiteAccumulator::LargeRuns(inputs, DType::kBF16)) ==
          sums / 2 + bytes(inputs, DType::kBF16));
  }
}

TEST_CASE("the widest sums are counted in 64 bits") {
  // 8 n (n + 1), and a run of 2048 tokens.
  CHECK(SiteAccumulator::MemoryBytes(53248, DType::kBF16) ==
        int64_t{22'683'222'016} + int64_t{218'103'808});
  CHECK(SiteAccumulator::MemoryBytes(53248, DType::kBF16, 1, true) ==
        int64_t{2} * 22'683'222'016 + 218'103'808);
  CHECK(SiteAccumulator::MemoryBytes(65536, DType::kF32) ==
        int64_t{34'360'262'656} + int64_t{536'870'912});
  // The triangle and the sums of magnitudes, and what is left of a run.
  CHECK(SiteAccumulator::StateBytes(65536, DType::kF32, 4 * 2048 + 2047) ==
        8 * (int64_t{2'147'516'416} + 65536) + int64_t{2047} * 65536 * 4);
}

}  // namespace
}  // namespace qs::testing
