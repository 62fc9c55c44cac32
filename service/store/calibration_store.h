// CalibrationStore: calibrations as records and blobs — how numbers become
// bytes, and in which order the two are written, so that a process that is
// killed anywhere leaves all of a change or nothing.
//
// A blob is a head of 32 bytes, 24 of them random, and then numbers: so no two
// are alike, each is named by one record, and it can be deleted when that one
// names another. Blobs are complete before a record names them and deleted
// after none does: what a crash leaves is a blob that nobody names, which the
// sweep at the next start takes away (see CalibrationRecords::Blobs).
//
// Thread: thread-safe. Everything blocks: not in a reaction, not on a worker.
// Errors of every call: those of CalibrationRecords; RESOURCE_EXHAUSTED — the
// store's budget, the disk, or memory; DATA_LOSS — a blob is damaged or gone.
#ifndef QS_SERVICE_STORE_CALIBRATION_STORE_H_
#define QS_SERVICE_STORE_CALIBRATION_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/dtype.h"
#include "quant/calibration/site_moments.h"
#include "quant/site_accumulator.h"
#include "service/store/blob_store.h"
#include "service/store/calibration_records.h"

namespace qs {

class CalibrationStore {
 public:
  // Both must outlive it.
  CalibrationStore(CalibrationRecords& records, BlobStore& blobs)
      : records_(records), blobs_(blobs) {}

  CalibrationRecords& records() { return records_; }

  // Takes away what uploads left that a crash ended. At start, before others
  // use the store.
  absl::Status DiscardStaged();
  // Blobs that no record names. Errors are not worth one: the sweep finds them.
  void Free(const std::vector<std::string>& blobs);

  // Forgets a calibration and frees its blobs, if `check` agrees. Errors: its
  // own; NOT_FOUND.
  absl::Status Delete(const std::string& project, const std::string& id,
                      const std::function<absl::Status()>& check)
      ABSL_LOCKS_EXCLUDED(use_mutex_);
  // Held, for reading, by who has found a calibration and is about to record
  // that it is used: Delete and its check come before or after.
  absl::Mutex& use_mutex() ABSL_LOCK_RETURNED(use_mutex_) { return use_mutex_; }

  // A blob of `bytes` that `fill` appends. Returns its digest.
  using Append = std::function<absl::Status(std::span<const uint8_t>)>;
  using Fill = std::function<absl::Status(const Append&)>;
  absl::StatusOr<std::string> Put(int64_t bytes, const Fill& fill);

  // The same, piece by piece. Without Commit nothing is left.
  class Writer;
  absl::StatusOr<std::unique_ptr<Writer>> NewWriter(int64_t bytes);

  absl::StatusOr<std::string> PutAccumulator(const SiteAccumulator& sums,
                                             int64_t inputs, DType dtype);
  // `runs`: as SiteAccumulator::Create.
  absl::StatusOr<std::unique_ptr<SiteAccumulator>> GetAccumulator(
      const std::string& site, int64_t inputs, DType dtype,
      const CalibrationPart& part, int64_t runs = 1);

  // Packed upper triangle and sum |x|, F32: MomentsBytes of them.
  static int64_t MomentsBytes(int64_t inputs) {
    return 4 * (SiteMoments::PackedElements(inputs) + inputs);
  }
  // `*digest` is that of the numbers and the tokens.
  absl::StatusOr<std::string> PutMoments(const SiteMoments& moments,
                                         std::string* digest);
  absl::StatusOr<SiteMoments> GetMoments(const std::string& site,
                                         int64_t inputs, int64_t tokens,
                                         const std::string& blob);
  // Of a sealed site, also one without tokens.
  absl::StatusOr<SiteMoments> GetSealed(const CalibrationSiteRecord& site);
  // Bytes [offset, offset + data.size()) of what PutMoments wrote.
  absl::Status ReadSealed(const CalibrationSiteRecord& site, int64_t offset,
                          std::span<uint8_t> data);

  // A calibration file (quant/calibration/calibration_file.h) of the sealed
  // sites of `calibration`. Errors: also as WriteCalibration.
  absl::Status Export(const CalibrationRecord& calibration,
                      const std::string& path);

 private:
  CalibrationRecords& records_;
  BlobStore& blobs_;
  absl::Mutex use_mutex_;
};

class CalibrationStore::Writer {
 public:
  Writer(BlobStore& blobs, std::string id, std::unique_ptr<BlobWriter> writer)
      : blobs_(blobs), id_(std::move(id)), writer_(std::move(writer)) {}
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  absl::Status Append(std::span<const uint8_t> data);
  // Returns the digest.
  absl::StatusOr<std::string> Commit();

 private:
  absl::Status WriteBuffer();

  BlobStore& blobs_;
  const std::string id_;
  std::unique_ptr<BlobWriter> writer_;
  std::vector<uint8_t> buffer_;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_CALIBRATION_STORE_H_
