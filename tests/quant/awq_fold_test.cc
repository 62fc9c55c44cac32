// Folding scales into producers: the values that come out, what is refused, and
// that scales are chosen so that nothing is lost.
#include "quant/awq_fold.h"

#include <cmath>
#include <functional>

#include "quant/awq_group.h"
#include "quant/awq_transform.h"
#include "tests/quant/awq_cases.h"

namespace qs::testing {
namespace {

constexpr int64_t kInputs = 64;

GroupInfo NormGroup(FoldKind kind, DType dtype, bool bias, bool router) {
  GroupInfo info;
  info.name = "block";
  info.sites = {{"in", kInputs, {}, ""}};
  info.sites[0].fold.kind = kind;
  info.sites[0].fold.producer = "norm.weight";
  info.tensors = {
      {{"norm.weight", dtype, {kInputs}}, -1, GroupRole::kFoldOnly},
      {{"q.weight", dtype, {32, kInputs}}, 0, GroupRole::kQuantize}};
  if (bias) {
    info.sites[0].fold.producer_bias = "norm.bias";
    info.tensors.push_back(
        {{"norm.bias", dtype, {kInputs}}, -1, GroupRole::kFoldOnly});
  }
  if (router) {
    info.sites[0].fold.scaled_only = {"router.weight"};
    info.tensors.push_back(
        {{"router.weight", dtype, {4, kInputs}}, 0, GroupRole::kFoldOnly});
  }
  return info;
}

std::vector<float> Random(size_t count, uint32_t seed, double middle,
                          double width) {
  std::mt19937 random(seed);
  std::normal_distribution<double> gauss;
  std::vector<float> values;
  for (size_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(middle + width * gauss(random)));
  }
  return values;
}

std::vector<float> RandomScales(uint32_t seed) {
  std::vector<float> scales = Random(kInputs, seed, 0, 1);
  for (float& s : scales) s = std::exp(s);
  return scales;
}

float Rounded(DType dtype, float x) {
  uint8_t stored[4];
  StoreFromFloat(stored, dtype, 0, x);
  return LoadAsFloat(stored, dtype, 0);
}

TEST_CASE("a norm's fold loses nothing: s is what its stored values make it") {
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (FoldKind kind : {FoldKind::kNorm, FoldKind::kNormPlusOne}) {
      const bool plus_one = kind == FoldKind::kNormPlusOne;
      const GroupInfo info = NormGroup(kind, dtype, false, false);
      std::vector<float> norm = Random(kInputs, 3, plus_one ? 0.0 : 1.0, 0.3);
      norm[5] = plus_one ? -1.0f : 0.0f;  // no scale can change its output
      for (float& v : norm) v = Rounded(dtype, v);
      const AwqFold fold(info, 0, Profile::kBest, [&](size_t) { return norm; });
      REQUIRE(fold.scales());
      std::vector<float> scales = RandomScales(4);
      const std::vector<float> wanted = scales;
      fold.Adjust(scales);
      std::vector<AwqTransform> transforms(info.tensors.size());
      fold.Apply(scales, &transforms);
      for (size_t i = 0; i < norm.size(); ++i) {
        INFO(DTypeName(dtype) << " input " << i);
        const double before = plus_one ? 1.0 + norm[i] : norm[i];
        const double after =
            plus_one ? 1.0 + transforms[0].values[i] : transforms[0].values[i];
        CHECK(std::fabs(after * scales[i] - before) <=
              1e-6 * std::fabs(before) + (plus_one ? 1e-7 * scales[i] : 0));
        // Near what was asked for: a step of the dtype, seen from 1 + w.
        CHECK(std::fabs(scales[i] / wanted[i] - 1) <= 0.02);
        CHECK(transforms[0].values[i] ==
              Rounded(dtype, transforms[0].values[i]));
      }
      CHECK(transforms[1].column_scales == scales);
    }
  }
}

TEST_CASE("with two rounded values an input, scales are powers of two") {
  for (bool bias : {true, false}) {
    const GroupInfo info =
        NormGroup(FoldKind::kNorm, DType::kBF16, bias, !bias);
    std::vector<float> norm = Random(kInputs, 3, 1.0, 0.3);
    for (float& v : norm) v = Rounded(DType::kBF16, v);
    const AwqFold fold(info, 0, Profile::kBest, [&](size_t) { return norm; });
    std::vector<float> scales = RandomScales(4);
    const std::vector<float> wanted = scales;
    fold.Adjust(scales);
    for (size_t i = 0; i < scales.size(); ++i) {
      int exponent = 0;
      CHECK(std::frexp(scales[i], &exponent) == 0.5f);
      CHECK(scales[i] / wanted[i] < 1.42f);
      CHECK(wanted[i] / scales[i] < 1.42f);
    }
    std::vector<AwqTransform> transforms(info.tensors.size());
    fold.Apply(scales, &transforms);
    if (bias) {
      for (size_t i = 0; i < norm.size(); ++i) {
        CHECK(transforms[2].values[i] == norm[i] / scales[i]);
      }
    } else {
      CHECK(transforms[2].column_scales == scales);
    }
  }
}

TEST_CASE("grouped attention shares rows: tied scales, own bias entries") {
  GroupInfo info;
  info.name = "attention";
  info.sites = {{"in", 32, {}, ""}, {"mixed", kInputs, {}, ""}};
  Fold& fold_info = info.sites[1].fold;
  fold_info = {FoldKind::kLinear, "qkv.weight", "qkv.bias", 64, 8, 2, {}};
  info.tensors = {
      {{"qkv.weight", DType::kBF16, {96, 32}}, 0, GroupRole::kQuantize},
      {{"qkv.bias", DType::kBF16, {96}}, -1, GroupRole::kFoldOnly},
      {{"o.weight", DType::kBF16, {32, kInputs}}, 1, GroupRole::kQuantize}};
  REQUIRE(CheckAwqFolds(info).ok());
  std::vector<float> bias = Random(96, 6, 0, 1);
  for (float& v : bias) v = Rounded(DType::kBF16, v);
  const auto values = [&](size_t) { return bias; };
  CHECK_FALSE(AwqFold(info, 0, Profile::kBest, values).scales());
  CHECK_FALSE(AwqFold(info, 1, Profile::kReference, values).scales());
  const AwqFold fold(info, 1, Profile::kBest, values);
  REQUIRE(fold.scales());
  std::vector<float> scales = RandomScales(8);
  fold.Tie(scales);
  fold.Adjust(scales);
  std::vector<AwqTransform> transforms(3);
  fold.Apply(scales, &transforms);
  CHECK(transforms[0].column_scales.empty());
  for (int64_t i = 0; i < kInputs; ++i) {
    const int64_t row = 64 + i / 16 * 8 + i % 8;
    CHECK(transforms[0].row_divisors[static_cast<size_t>(row)] ==
          scales[static_cast<size_t>(i)]);
    const float stored = transforms[1].values[static_cast<size_t>(row)];
    CHECK(std::fabs(stored * scales[static_cast<size_t>(i)] -
                    bias[static_cast<size_t>(row)]) <=
          1e-6f * std::fabs(bias[static_cast<size_t>(row)]));
  }
  for (size_t row = 0; row < 64; ++row) {  // q and k are not touched
    CHECK(transforms[0].row_divisors[row] == 1);
    CHECK(transforms[1].values[row] == bias[row]);
  }
}

TEST_CASE("REFERENCE rounds as a library that scales in place") {
  const GroupInfo info =
      NormGroup(FoldKind::kNormPlusOne, DType::kBF16, false, false);
  const std::vector<float> norm(kInputs, Rounded(DType::kBF16, 0.37f));
  const AwqFold fold(info, 0, Profile::kReference,
                     [&](size_t) { return norm; });
  const std::vector<float> scales(kInputs, Rounded(DType::kBF16, 1.7f));
  std::vector<float> same = scales;
  fold.Adjust(same);
  CHECK(same == scales);
  std::vector<AwqTransform> transforms(2);
  fold.Apply(scales, &transforms);
  const float sum = Rounded(DType::kBF16, norm[0] + 1);
  const float quotient = Rounded(DType::kBF16, sum / scales[0]);
  CHECK(transforms[0].values[0] == Rounded(DType::kBF16, quotient - 1));
}

TEST_CASE("transforms and their way back") {
  AwqTransform transform;
  transform.column_scales = {2, 4, 0.5f};
  transform.row_divisors = {1, 8, 1, 2};
  const std::vector<float> in = {1, 2, 3, 4, 5, 6};
  std::vector<float> out(6), back(6);
  TransformRows(transform, {in.data(), DType::kF32, 2, 3}, 1, false,
                {out.data(), DType::kF32, 2, 3});
  CHECK(out == std::vector<float>{0.25f, 1, 0.1875f, 8, 20, 3});
  RestoreRows(transform, {out.data(), DType::kF32, 2, 3}, 1,
              {back.data(), DType::kF32, 2, 3});
  CHECK(back == in);
  CHECK(GeometricMean(transform.column_scales) == Approx(std::cbrt(4.0)));
  CHECK(GeometricMean({}) == 1);
}

TEST_CASE("folds whose sizes do not match are refused by name") {
  struct Row {
    const char* text;
    std::function<void(GroupInfo*)> spoil;
  };
  const auto linear = [](GroupInfo* g) {
    g->sites[0].fold.kind = FoldKind::kLinear;
    g->sites[0].fold.producer = "q.weight";
  };
  const Row rows[] = {
      {"\"norm.weight\": got 63 elements, allowed 64",
       [](GroupInfo* g) { g->tensors[0].info.shape = {63}; }},
      {"\"norm.weight\": got role QUANTIZE",
       [](GroupInfo* g) { g->tensors[0].role = GroupRole::kQuantize; }},
      {"\"norm.bias\": got 3 elements",
       [](GroupInfo* g) { g->tensors[2].info.shape = {3}; }},
      {"\"router.weight\": got 8 columns, allowed 64",
       [](GroupInfo* g) {
         g->tensors[3].info.shape = {4, 8};
       }},
      {"\"q.weight\": got 32 rows, allowed 64 or more", linear},
      {"got 3 heads of 5",
       [&](GroupInfo* g) {
         linear(g);
         g->sites[0].fold.head_dim = 5;
         g->sites[0].fold.repeat = 3;
       }},
      {"\"norm.bias\": got 64 elements, allowed 80",
       [&](GroupInfo* g) {
         linear(g);
         g->tensors[1].info.shape = {80, kInputs};
       }},
  };
  const GroupInfo valid = NormGroup(FoldKind::kNorm, DType::kBF16, true, true);
  CHECK(CheckAwqFolds(valid).ok());
  for (const Row& row : rows) {
    GroupInfo info = valid;
    row.spoil(&info);
    const absl::Status status = CheckAwqFolds(info);
    INFO(row.text << " in " << status);
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).find(row.text) != std::string::npos);
  }
}

}  // namespace
}  // namespace qs::testing
