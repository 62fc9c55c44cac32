// Batches of a shard with known rows, and what the service must make of them.
#ifndef QS_TESTS_SERVICE_CALIBRATIONS_CALIBRATION_BATCHES_H_
#define QS_TESTS_SERVICE_CALIBRATIONS_CALIBRATION_BATCHES_H_

#include <string>
#include <vector>

#include "kernels/backend.h"
#include "quant/site_accumulator.h"
#include "quant/v1/calibrations.pb.h"
#include "service/stream/crc32c.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

namespace v1 = quant::v1;

constexpr char kName[] = "projects/-/calibrations/c";
constexpr int64_t kTokens = 300;

inline int64_t InputsOf(const std::string& site) { return site == "a" ? 8 : 4; }

inline std::string SiteOf(int64_t seq) { return seq % 3 == 0 ? "b" : "a"; }

inline std::vector<float> RowsOf(int64_t seq) {
  std::vector<float> rows;
  uint32_t state = static_cast<uint32_t>(77 * seq);
  for (int64_t i = 0; i < kTokens * InputsOf(SiteOf(seq)); ++i) {
    state = state * 1664525 + 1013904223;
    rows.push_back(static_cast<float>(state >> 8) / (1 << 23) - 1);
  }
  return rows;
}

inline std::string BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), 4 * values.size()};
}

inline uint32_t CrcOf(const std::string& data) {
  return Crc32c({reinterpret_cast<const uint8_t*>(data.data()), data.size()});
}

inline v1::WriteActivationsRequest OpenShard(const std::string& shard = "s") {
  v1::WriteActivationsRequest request;
  request.set_calibration(kName);
  request.set_shard_id(shard);
  return request;
}

inline v1::WriteActivationsRequest BatchRequest(int64_t seq) {
  v1::WriteActivationsRequest request;
  request.set_seq(seq);
  request.set_site(SiteOf(seq));
  request.set_dtype(v1::F32);
  request.set_data(BytesOf(RowsOf(seq)));
  request.set_crc32c(CrcOf(request.data()));
  return request;
}

// What the service must hand out for `site` after batches 1 ... `batches`.
inline std::string ReferenceBytes(const std::string& site, int64_t batches) {
  const int64_t n = InputsOf(site);
  const auto backend = NewCpuBackend(1);
  auto sums = SiteAccumulator::Create(site, n, DType::kF32);
  for (int64_t seq = 1; seq <= batches; ++seq) {
    if (SiteOf(seq) != site) continue;
    const std::vector<float> rows = RowsOf(seq);
    REQUIRE((*sums)
                ->Add(reinterpret_cast<const uint8_t*>(rows.data()), kTokens,
                      *backend)
                .ok());
  }
  auto moments = (*sums)->Finish(*backend);
  std::vector<float> values(SiteMoments::PackedElements(n));
  moments->CopyToPacked(values.data());
  values.insert(values.end(), moments->abs_sum(), moments->abs_sum() + n);
  return BytesOf(values);
}

inline v1::CreateCalibrationRequest CreateRequest(const std::string& id) {
  v1::CreateCalibrationRequest request;
  request.set_calibration_id(id);
  v1::CalibrationSite* site = request.add_sites();
  site->set_name("b");
  site->set_inputs(4);
  site->add_modules("m.b");
  site = request.add_sites();
  site->set_name("a");
  site->set_inputs(8);
  site->add_modules("m.a");
  site->add_modules("m.c");
  (*request.mutable_metadata())["data_hash"] = "d";
  return request;
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_CALIBRATIONS_CALIBRATION_BATCHES_H_
