// Small calibrations for tests: moments of random inputs, and files of them.
#ifndef QS_TESTS_QUANT_CALIBRATION_DATA_H_
#define QS_TESTS_QUANT_CALIBRATION_DATA_H_

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "quant/calibration/calibration_file.h"
#include "tests/testing/catch_compat.h"

namespace qs {

class CalibrationFolder {
 public:
  CalibrationFolder()
      : path_(
            std::filesystem::temp_directory_path() /
            ("quantd-calibration-" + std::to_string(std::random_device()()))) {
    std::filesystem::create_directories(path_);
  }
  ~CalibrationFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const {
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

// Sums over `tokens` random inputs of different sizes.
inline SiteMoments RandomMoments(int64_t n, int64_t tokens, uint32_t seed) {
  auto moments = SiteMoments::Create("layer/input", n);
  REQUIRE(moments.ok());
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < n; ++i) {
      x[i] = normal(random) * static_cast<float>(1 << (i % 6));
    }
    for (int64_t i = 0; i < n; ++i) {
      moments->abs_sum()[i] += std::fabs(x[i]);
      for (int64_t j = 0; j < n; ++j) {
        moments->second_moment()[i * n + j] += x[i] * x[j];
      }
    }
  }
  moments->set_tokens(tokens);
  return *std::move(moments);
}

struct RandomSite {
  std::string name;
  int64_t inputs = 0;
  int64_t tokens = 0;
  std::vector<std::string> modules;
  uint32_t seed = 1;
};

inline SiteMoments MomentsOf(const RandomSite& site) {
  return RandomMoments(site.inputs, site.tokens, site.seed);
}

inline std::string WriteRandom(const std::string& path,
                               const std::vector<RandomSite>& sites,
                               bool packed = true,
                               const CalibrationMetadata& metadata = {}) {
  std::vector<CalibrationSite> infos;
  for (const RandomSite& site : sites) {
    infos.push_back(
        {site.name, site.inputs, site.tokens, packed, site.modules});
  }
  const absl::Status status = WriteCalibration(
      path, infos, metadata, [&](size_t i) -> absl::StatusOr<SiteMoments> {
        return MomentsOf(sites[i]);
      });
  INFO(status);
  REQUIRE(status.ok());
  return path;
}

inline std::vector<float> SquareOf(const SiteMoments& moments) {
  const int64_t n = moments.inputs();
  return {moments.second_moment(), moments.second_moment() + n * n};
}

inline std::vector<float> AbsOf(const SiteMoments& moments) {
  return {moments.abs_sum(), moments.abs_sum() + moments.inputs()};
}

}  // namespace qs

#endif  // QS_TESTS_QUANT_CALIBRATION_DATA_H_
