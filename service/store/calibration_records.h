// CalibrationRecords: what is kept of calibrations beside the numbers — sites,
// the parts that came in for them, and how far each shard is durable. The
// numbers are blobs, which records name by their digests; no blob is named
// twice.
//
// An implementation is a database; all of them pass
// tests/service/store/calibration_records_conformance.h.
//
// Thread: thread-safe. Everything blocks: not in a reaction. Errors of every
// call: RESOURCE_EXHAUSTED — the disk is full, nothing was changed; DATA_LOSS;
// INTERNAL.
#ifndef QS_SERVICE_STORE_CALIBRATION_RECORDS_H_
#define QS_SERVICE_STORE_CALIBRATION_RECORDS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qs {

struct CalibrationSiteRecord {
  std::string name;
  int64_t inputs = 0;
  std::vector<std::string> modules;  // that read it
  // --- since it is sealed
  bool sealed = false;
  int64_t tokens = 0;
  std::string blob = {};    // empty: no token, all zeros
  std::string digest = {};  // of the numbers
};

struct CalibrationRecord {
  // Given by Create; never used again for another calibration.
  int64_t key = 0;
  std::string project;
  std::string id;
  std::string request_id;    // empty: none
  std::string request_hash;  // of what was asked for
  int64_t created_ms = 0;    // since 1970, UTC
  std::map<std::string, std::string> metadata;
  std::vector<CalibrationSiteRecord> sites;  // by name; List: none
  // Of all of them.
  int64_t site_count = 0;
  int64_t sealed_count = 0;
};

// Of one site, not sealed yet: what one shard has summed, or second moments
// that came summed.
struct CalibrationPart {
  // Numbers as in the database: not to be changed.
  enum class Kind { kActivations = 1, kMoments = 2 };
  Kind kind = Kind::kActivations;
  std::string source;  // shard_id; request_id
  std::string site;
  std::string blob;
  std::string dtype;  // of kActivations: "F32", "F16" or "BF16"
  int64_t tokens = 0;
  std::string request_hash;  // of kMoments
};

struct CalibrationShardRecord {
  int64_t durable_seq = 0;
  std::vector<CalibrationPart> parts;  // by site
};

// Where a sealed site's numbers are.
struct SealedSite {
  std::string name;
  int64_t tokens = 0;
  std::string blob;
  std::string digest;
};

class CalibrationRecords {
 public:
  virtual ~CalibrationRecords() = default;

  // The calibration as it is kept. One with the same project, request_id and
  // request_hash is that one, as it is now. `limit`: calibrations of the
  // project. Errors: ALREADY_EXISTS — the id, or the request_id with another
  // hash (`*request_id_reused`); OUT_OF_RANGE — the limit.
  virtual absl::StatusOr<CalibrationRecord> Create(
      const CalibrationRecord& calibration, int64_t limit,
      bool* request_id_reused) = 0;
  // Errors: NOT_FOUND.
  virtual absl::StatusOr<CalibrationRecord> Get(const std::string& project,
                                                const std::string& id) = 0;
  // At most `limit`, by id, those above `after`.
  virtual absl::StatusOr<std::vector<CalibrationRecord>> List(
      const std::string& project, const std::string& after, int64_t limit) = 0;
  // Returns the blobs that are nobody's now. Errors: NOT_FOUND.
  virtual absl::StatusOr<std::vector<std::string>> Delete(
      const std::string& project, const std::string& id) = 0;

  // A shard that is not there is at 0. Errors of the calls with a key:
  // NOT_FOUND — the calibration was deleted.
  virtual absl::StatusOr<CalibrationShardRecord> GetShard(
      int64_t key, const std::string& shard) = 0;
  // Brings the shard from `from_seq` to `to_seq` and replaces the parts of it
  // that are named, all or nothing. Returns the blobs that are nobody's now.
  // Errors: ABORTED — the shard is not at from_seq; FAILED_PRECONDITION — a
  // site is sealed; NOT_FOUND; OUT_OF_RANGE — more shards than `max_shards`.
  virtual absl::StatusOr<std::vector<std::string>> PutShard(
      int64_t key, const std::string& shard, int64_t from_seq, int64_t to_seq,
      const std::vector<CalibrationPart>& parts, int64_t max_shards) = 0;

  // True: added. False: it is there already, with the same hash. Errors:
  // ALREADY_EXISTS — with another hash; FAILED_PRECONDITION — the site is
  // sealed, and was without it; NOT_FOUND; OUT_OF_RANGE — more than `max_parts`
  // of kMoments for the site.
  virtual absl::StatusOr<bool> AddMoments(int64_t key,
                                          const CalibrationPart& part,
                                          int64_t max_parts) = 0;
  // Whether AddMoments would answer false. Errors: as AddMoments.
  virtual absl::StatusOr<bool> HasMoments(int64_t key,
                                          const CalibrationPart& part) = 0;

  // Of a site, those of kActivations first, by source. Errors: NOT_FOUND.
  virtual absl::StatusOr<std::vector<CalibrationPart>> PartsOf(
      int64_t key, const std::string& site) = 0;
  // Seals the site, which has exactly the blobs `merged` as its parts. Returns
  // the blobs that are nobody's now. Errors: ABORTED — other parts came, or it
  // is sealed; NOT_FOUND.
  virtual absl::StatusOr<std::vector<std::string>> Seal(
      int64_t key, const SealedSite& site,
      const std::vector<std::string>& merged) = 0;

  // All that are named.
  virtual absl::StatusOr<std::vector<std::string>> Blobs() = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_CALIBRATION_RECORDS_H_
