// SiteMoments: packing and its inverse, what Check refuses, sums, pools.
#include "quant/calibration/site_moments.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/quant/calibration_data.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Catch::Matchers::Contains;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> Packed(const SiteMoments& moments) {
  std::vector<float> packed(SiteMoments::PackedElements(moments.inputs()));
  moments.CopyToPacked(packed.data());
  return packed;
}

std::string CheckText(const SiteMoments& moments) {
  const absl::Status status = moments.Check();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST_CASE("A packed triangle is the rows from the diagonal on") {
  auto moments = SiteMoments::Create("s", 3);
  REQUIRE(moments.ok());
  const float packed[] = {1, 2, 3, 4, 5, 6};
  moments->FillFromPacked(packed);
  CHECK(SquareOf(*moments) == std::vector<float>{1, 2, 3, 2, 4, 5, 3, 5, 6});
  CHECK(Packed(*moments) == std::vector<float>(packed, packed + 6));
  CHECK(*moments->PackedRow(1) == 4);
}

TEST_CASE("Packing and expanding are inverse at every size") {
  for (const int64_t n : {1, 2, 31, 32, 33, 64, 65, 97, 200}) {
    INFO(n << " inputs");
    const SiteMoments moments = RandomMoments(n, 5, 7);
    const std::vector<float> packed = Packed(moments);
    auto filled = SiteMoments::Create("s", n);
    auto in_place = SiteMoments::CreateUnfilled("s", n);
    REQUIRE(filled.ok());
    REQUIRE(in_place.ok());
    filled->FillFromPacked(packed.data());
    CHECK(SquareOf(*filled) == SquareOf(moments));
    std::memcpy(in_place->packed_storage(), packed.data(),
                packed.size() * sizeof(float));
    in_place->ExpandPackedStorage();
    CHECK(SquareOf(*in_place) == SquareOf(moments));
  }
}

TEST_CASE("Sizes beyond the limit are refused before memory is asked for") {
  for (const int64_t n : {int64_t{0}, int64_t{-1}, kMaxSiteInputs + 1}) {
    const absl::Status status = SiteMoments::Create("deep/site", n).status();
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK_THAT(std::string(status.message()), Contains("\"deep/site\"") &&
                                                  Contains(std::to_string(n)) &&
                                                  Contains("1 to 65536"));
  }
}

TEST_CASE("The triangles of the widest inputs are counted in 64 bits") {
  CHECK(SiteMoments::PackedElements(53248) == int64_t{1'417'701'376});
  CHECK(SiteMoments::PackedElements(kMaxSiteInputs) == int64_t{2'147'516'416});
}

TEST_CASE("Check accepts real sums") {
  // Also fewer tokens than inputs, and an input that is always zero.
  SiteMoments moments = RandomMoments(70, 20, 3);
  CHECK(moments.Check().ok());
  for (int64_t i = 0; i < 70; ++i) {
    moments.second_moment()[i * 70 + 41] = 0;
    moments.second_moment()[41 * 70 + i] = 0;
  }
  moments.abs_sum()[41] = 0;
  CHECK(moments.Check().ok());
  SECTION("in another order of summation") {
    for (int64_t i = 0; i < 70; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        moments.second_moment()[i * 70 + j] *= 1 + 3e-7f;
      }
    }
    CHECK(moments.Check().ok());
  }
}

TEST_CASE("Check names what is wrong and where") {
  constexpr int64_t kN = 70;
  SiteMoments moments = RandomMoments(kN, 100, 3);
  auto at = [&](int64_t i, int64_t j) -> float& {
    return moments.second_moment()[i * kN + j];
  };
  SECTION("no tokens") {
    moments.set_tokens(0);
    CHECK_THAT(CheckText(moments), Contains("token_count: got 0"));
  }
  SECTION("not finite, in either triangle and in any tile") {
    for (const float value : {kNan, kInf, -kInf}) {
      for (const auto& [i, j] : {std::pair<int64_t, int64_t>{3, 66},
                                 {66, 3},
                                 {69, 69},
                                 {0, 1},
                                 {40, 39}}) {
        const float kept = at(i, j);
        at(i, j) = value;
        CHECK_THAT(CheckText(moments),
                   Contains("\"layer/input\"") &&
                       Contains("second_moment[" + std::to_string(i) + ", " +
                                std::to_string(j) + "]"));
        at(i, j) = kept;
      }
    }
  }
  SECTION("both of a pair infinite") {
    at(3, 66) = at(66, 3) = kInf;
    CHECK_THAT(CheckText(moments), Contains("second_moment[3, 66]: got inf"));
  }
  SECTION("not symmetric") {
    at(5, 68) += 2e-3f * std::max(at(5, 5), at(68, 68));
    CHECK_THAT(CheckText(moments),
               Contains("second_moment[5, 68]") && Contains("mirror image"));
  }
  SECTION("a negative square") {
    at(68, 68) = -1;
    CHECK_THAT(CheckText(moments), Contains("second_moment[68, 68]: got -1") &&
                                       Contains("not negative"));
  }
  SECTION("more than its diagonal elements allow") {
    at(2, 67) = at(67, 2) = -1.1f * std::sqrt(at(2, 2) * at(67, 67));
    CHECK_THAT(CheckText(moments),
               Contains("second_moment[2, 67]") && Contains("no sum of x x^T"));
  }
  SECTION("the first of several in row order") {
    at(50, 3) = kNan;
    at(2, 69) = kNan;
    CHECK_THAT(CheckText(moments), Contains("second_moment[2, 69]"));
  }
  SECTION("abs_sum") {
    moments.abs_sum()[9] = -2;
    CHECK_THAT(CheckText(moments), Contains("abs_sum[9]: got -2"));
    moments.abs_sum()[9] = kNan;
    CHECK_THAT(CheckText(moments), Contains("abs_sum[9]: got nan"));
  }
  SECTION("zeros only") {
    std::fill_n(moments.second_moment(), kN * kN, 0.0f);
    CHECK_THAT(CheckText(moments), Contains("zeros only"));
  }
}

TEST_CASE("The moments of two shards add up to those of both") {
  SiteMoments one = RandomMoments(50, 30, 1);
  const SiteMoments two = RandomMoments(50, 40, 2);
  const std::vector<float> before = SquareOf(one);
  const float abs_before = one.abs_sum()[7];
  REQUIRE(one.Merge(two).ok());
  CHECK(one.tokens() == 70);
  for (int64_t i = 0; i < 50 * 50; ++i) {
    REQUIRE(one.second_moment()[i] == before[i] + two.second_moment()[i]);
  }
  CHECK(one.abs_sum()[7] == abs_before + two.abs_sum()[7]);
  CHECK(one.Check().ok());
  SECTION("of one size only") {
    const std::string text(one.Merge(RandomMoments(49, 3, 1)).message());
    CHECK_THAT(text, Contains("got a site of 49 inputs, allowed 50"));
  }
  SECTION("and no more tokens than can be counted") {
    one.set_tokens(std::numeric_limits<int64_t>::max());
    CHECK_THAT(std::string(one.Merge(two).message()), Contains("64 bits"));
  }
}

TEST_CASE("A pool helps out a site without tokens of its own") {
  const SiteMoments pool = RandomMoments(20, 200, 5);
  auto site = SiteMoments::Create("expert", 20);
  REQUIRE(site.ok());
  CHECK_FALSE(site->Check().ok());
  const double weight = PoolWeight(site->tokens(), pool.tokens(), 20);
  REQUIRE(site->BlendIn(pool, weight).ok());
  CHECK(site->tokens() == 0);
  CHECK(site->pooled_tokens() == 80);
  CHECK(site->Check().ok());
  for (int64_t i = 0; i < 400; ++i) {
    REQUIRE(site->second_moment()[i] ==
            static_cast<float>(weight) * pool.second_moment()[i]);
  }
  CHECK_FALSE(site->BlendIn(pool, -1).ok());
  CHECK_FALSE(site->BlendIn(pool, kNan).ok());
  CHECK_FALSE(site->BlendIn(RandomMoments(21, 3, 1), 1).ok());
}

TEST_CASE("A pool's weight fills up to four tokens an input") {
  CHECK(PoolWeight(400, 1000, 100) == 0);
  CHECK(PoolWeight(401, 1000, 100) == 0);
  CHECK(PoolWeight(0, 1000, 100) == 0.4);
  CHECK(PoolWeight(300, 1000, 100) == 0.1);
  CHECK(PoolWeight(0, 100, 100) == 1);  // not four times
  CHECK(PoolWeight(0, 0, 100) == 0);
}

}  // namespace
}  // namespace qs
