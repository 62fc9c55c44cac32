// BlobStore: bytes under the name of their SHA-256. What was said to be
// persisted survives a killed process and a power cut; a blob that can be
// opened is whole; damage is found when it is read, and never served.
//
// A blob is written into a staging file of the owner's choice of name, which
// stays until it is committed or discarded, so that an upload can go on after a
// crash. Space is reserved when staging begins: the budget holds for blobs and
// reservations together.
//
// Digests are "sha256:<64 lower-case hex digits>".
// Thread: the store is thread-safe; a writer or reader has one user at a time.
#ifndef QS_SERVICE_STORE_BLOB_STORE_H_
#define QS_SERVICE_STORE_BLOB_STORE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qs {

struct BlobInfo {
  std::string digest;
  int64_t bytes = 0;
};

class BlobWriter {
 public:
  virtual ~BlobWriter() = default;
  // Bytes appended; those that a crash leaves.
  virtual int64_t size() const = 0;
  virtual int64_t persisted_size() const = 0;

  // Errors: INVALID_ARGUMENT — more than was reserved; RESOURCE_EXHAUSTED — the
  // disk is full: size() is as before, and the same bytes may be appended
  // later; INTERNAL — the disk failed: the writer is of no more use.
  virtual absl::Status Append(std::span<const uint8_t> data) = 0;
  // Then persisted_size() == size(). Errors: INTERNAL — the disk failed: what
  // lies beyond persisted_size() is unknown, the writer is of no more use.
  virtual absl::Status Flush() = 0;
  // Of all bytes: only Flush and Commit may follow. For who must record it
  // before the staging file is gone. Errors: FAILED_PRECONDITION — fewer bytes
  // than reserved.
  virtual absl::StatusOr<std::string> Digest() = 0;
  // Flushes and makes the bytes a blob; the staging file is gone then. Returns
  // the digest. `expected` empty: whatever it is.
  // Errors: FAILED_PRECONDITION — another digest, or fewer bytes than reserved
  // (the staging file is kept); Flush's.
  virtual absl::StatusOr<std::string> Commit(const std::string& expected) = 0;
};

class BlobReader {
 public:
  virtual ~BlobReader() = default;
  virtual const BlobInfo& info() const = 0;
  // Errors: OUT_OF_RANGE; DATA_LOSS — damaged: nothing of the damaged part was
  // given, and the blob is put aside and no longer there.
  virtual absl::Status ReadAt(int64_t offset, std::span<uint8_t> data) = 0;
};

class BlobStore {
 public:
  virtual ~BlobStore() = default;

  // Reserves `bytes` and begins a staging file. `id`: 1 to 64 of [A-Za-z0-9_-].
  // Errors: INVALID_ARGUMENT — id or size; ALREADY_EXISTS; RESOURCE_EXHAUSTED —
  // the budget, or the disk.
  virtual absl::StatusOr<std::unique_ptr<BlobWriter>> Create(
      const std::string& id, int64_t bytes) = 0;
  // Goes on with a staging file after a crash: what lies beyond
  // `persisted_size` is cut off. Errors: NOT_FOUND; DATA_LOSS — the file is
  // shorter; ALREADY_EXISTS — it has a writer.
  virtual absl::StatusOr<std::unique_ptr<BlobWriter>> Resume(
      const std::string& id, int64_t bytes, int64_t persisted_size) = 0;
  // Gives the reservation back. Errors: NOT_FOUND; FAILED_PRECONDITION — it has
  // a writer.
  virtual absl::Status Discard(const std::string& id) = 0;
  virtual absl::StatusOr<std::vector<std::string>> Staged() const = 0;

  // Errors: INVALID_ARGUMENT — not a digest; NOT_FOUND; DATA_LOSS.
  virtual absl::StatusOr<std::unique_ptr<BlobReader>> Open(
      const std::string& digest) = 0;
  virtual absl::StatusOr<bool> Has(const std::string& digest) const = 0;
  // The same, and what is there survives a power cut. For who finds a blob that
  // somebody made whose Commit failed or never returned.
  virtual absl::StatusOr<bool> HasDurable(const std::string& digest) = 0;
  // Open readers go on. Errors: NOT_FOUND.
  virtual absl::Status Delete(const std::string& digest) = 0;
  // All of them, in no order.
  virtual absl::StatusOr<std::vector<BlobInfo>> List() const = 0;

  // Room under the same budget for bytes that are kept elsewhere, which the
  // caller gives back. Errors: RESOURCE_EXHAUSTED — the budget.
  virtual absl::Status ReserveRoom(int64_t bytes) = 0;
  // For bytes that are there already, whatever the budget; negative: gives
  // room back.
  virtual void AddRoom(int64_t bytes) = 0;

  // Blobs, reservations and room.
  virtual int64_t bytes_used() const = 0;
  virtual int64_t bytes_allowed() const = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_BLOB_STORE_H_
