// CalibrationFile: second moments of input sites in a safetensors file.
//
// Per site NAME:
//   NAME.second_moment  F32 [in, in], or the upper triangle row by row
//                       [in (in + 1) / 2]
//   NAME.abs_sum        F32 [in]
//   NAME.token_count    I64 [1] or []
// or, for small samples, the inputs themselves, which are summed when they are
// loaded:
//   NAME                F32, F16 or BF16 [tokens, in]
// and metadata `inputs`: JSON {NAME: [modules that read it]}, where the weight
// of a module is MODULE.weight. Other metadata is kept; known are
// `model_digest`, `data_hash` and `sequence_length`.
#ifndef QS_QUANT_CALIBRATION_CALIBRATION_FILE_H_
#define QS_QUANT_CALIBRATION_CALIBRATION_FILE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/calibration/calibration_source.h"
#include "quant/calibration/site_moments.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/safetensors.h"

namespace qs {

using CalibrationMetadata = std::map<std::string, std::string>;

// Thread-safe.
class CalibrationFile final : public CalibrationSource {
 public:
  // Reads the header and the token counts. Errors: as SafetensorsFile::Open;
  // INVALID_ARGUMENT naming file, tensor, got and allowed — no `inputs`; a
  // tensor that is missing, of no site, or of another dtype or shape; a module
  // that reads two sites; a negative token count.
  static absl::StatusOr<CalibrationFile> Open(
      const std::string& path,
      std::shared_ptr<const FileOpener> opener = nullptr);

  const std::string& path() const { return file_.path(); }
  const std::vector<CalibrationSite>& sites() const override { return sites_; }
  // Without `inputs`.
  const CalibrationMetadata& metadata() const { return metadata_; }

  // Errors: ABORTED — the file has shrunk; as PosixError.
  absl::StatusOr<SiteMoments> Read(size_t site) const override;
  absl::Status Error(const std::string& text) const override;

 private:
  explicit CalibrationFile(SafetensorsFile file) : file_(std::move(file)) {}
  absl::Status ReadSites();
  absl::Status ReadSite(CalibrationSite* site) const;
  absl::Status ReadSums(CalibrationSite* site) const;
  absl::Status SumActivations(const SafetensorsEntry& entry,
                              SiteMoments* moments) const;
  absl::Status CheckModules() const;
  absl::StatusOr<const SafetensorsEntry*> Tensor(const std::string& name,
                                                 DType dtype) const;
  absl::Status ReadTensor(const std::string& name, void* out) const;

  SafetensorsFile file_;
  UniqueFd fd_;
  std::vector<CalibrationSite> sites_;  // by name
  CalibrationMetadata metadata_;
};

// Writes `sites` (of which `packed` says how), each asked for when its turn
// comes and dropped before the next. Errors: as StreamSafetensors;
// INVALID_ARGUMENT — moments of another size; those of `load`.
using LoadSite = std::function<absl::StatusOr<SiteMoments>(size_t site)>;
absl::Status WriteCalibration(const std::string& path,
                              const std::vector<CalibrationSite>& sites,
                              const CalibrationMetadata& metadata,
                              const LoadSite& load);

// Sums the files into `out`, packed, one site in memory at a time. Metadata in
// which they differ are left out, each with a line in the answer; `data_hash`
// and `tokens` are combined. `goes_on`, if any, is asked before a site of a
// file is read, and its error is the answer. Errors: as Open, Load and
// WriteCalibration; INVALID_ARGUMENT — fewer than two files, other sites, sizes
// or modules, another `model_digest`.
absl::StatusOr<std::vector<std::string>> MergeCalibrations(
    const std::string& out, std::span<const std::string> paths,
    const std::function<absl::Status()>& goes_on = nullptr);

}  // namespace qs

#endif  // QS_QUANT_CALIBRATION_CALIBRATION_FILE_H_
