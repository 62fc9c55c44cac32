// What every BlobStore must do, however it keeps its bytes. A test of a store
// calls CheckBlobStore with a way to open an empty one.
#ifndef QS_TESTS_SERVICE_STORE_BLOB_STORE_CONFORMANCE_H_
#define QS_TESTS_SERVICE_STORE_BLOB_STORE_CONFORMANCE_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "service/store/blob_store.h"
#include "service/stream/digest.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

using Bytes = std::vector<uint8_t>;

inline Bytes RandomBytes(int64_t count, uint32_t seed) {
  Bytes bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) {
    seed = seed * 1664525 + 1013904223;
    byte = static_cast<uint8_t>(seed >> 24);
  }
  return bytes;
}

inline std::string DigestOf(const Bytes& bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

// In pieces of `piece` bytes.
inline absl::Status AppendAll(BlobWriter& writer, const Bytes& bytes,
                              size_t piece) {
  for (size_t at = 0; at < bytes.size(); at += piece) {
    const size_t count = std::min(piece, bytes.size() - at);
    const absl::Status status =
        writer.Append(std::span(bytes).subspan(at, count));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

inline absl::StatusOr<std::string> PutBlob(BlobStore& store,
                                           const std::string& id,
                                           const Bytes& bytes) {
  auto writer = store.Create(id, static_cast<int64_t>(bytes.size()));
  if (!writer.ok()) return writer.status();
  const absl::Status appended = AppendAll(**writer, bytes, 1 << 18);
  if (!appended.ok()) return appended;
  return (*writer)->Commit("");
}

inline absl::StatusOr<Bytes> GetBlob(BlobStore& store,
                                     const std::string& digest) {
  auto reader = store.Open(digest);
  if (!reader.ok()) return reader.status();
  Bytes bytes(static_cast<size_t>((*reader)->info().bytes));
  const absl::Status read = (*reader)->ReadAt(0, bytes);
  if (!read.ok()) return read;
  return bytes;
}

// `allowed`: the budget to open with.
using OpenBlobStore =
    std::function<std::unique_ptr<BlobStore>(int64_t allowed)>;

inline void CheckRoundTrips(const OpenBlobStore& open) {
  const auto store = open(int64_t{1} << 30);
  int64_t used = 0;
  for (const int64_t count : {0, 1, 1000, (1 << 20) - 1, 1 << 20, 3000000}) {
    INFO(count);
    const Bytes bytes = RandomBytes(count, 5);
    const auto digest = PutBlob(*store, "up", bytes);
    REQUIRE(digest.ok());
    CHECK(*digest == DigestOf(bytes));
    CHECK(*store->Has(*digest));
    CHECK(*store->HasDurable(*digest));
    const auto got = GetBlob(*store, *digest);
    REQUIRE(got.ok());
    CHECK(*got == bytes);
    used += count;
    CHECK(store->bytes_used() == used);
  }
  CHECK(store->List()->size() == 6);
  CHECK(store->Staged()->empty());
  // The same bytes again are the same blob, and take no more.
  REQUIRE(PutBlob(*store, "again", RandomBytes(1000, 5)).ok());
  CHECK(store->bytes_used() == used);
  CHECK(store->List()->size() == 6);
}

inline void CheckParts(const OpenBlobStore& open) {
  const auto store = open(int64_t{1} << 30);
  const Bytes bytes = RandomBytes(3000000, 7);
  const auto digest = PutBlob(*store, "up", bytes);
  REQUIRE(digest.ok());
  const auto reader = store->Open(*digest);
  REQUIRE(reader.ok());
  for (const int64_t at : {0, 1, 1 << 20, (1 << 20) - 3, 2999999, 3000000}) {
    for (const int64_t count : {0, 1, 7, 1 << 20}) {
      INFO(at << " + " << count);
      Bytes part(static_cast<size_t>(count));
      const absl::Status status = (*reader)->ReadAt(at, part);
      if (at + count > 3000000) {
        CHECK(absl::IsOutOfRange(status));
        continue;
      }
      REQUIRE(status.ok());
      CHECK(std::equal(part.begin(), part.end(), bytes.begin() + at));
    }
  }
  CHECK(absl::IsOutOfRange((*reader)->ReadAt(-1, {})));
}

inline void CheckStaging(const OpenBlobStore& open) {
  const auto store = open(10000);
  const Bytes bytes = RandomBytes(6000, 9);
  auto writer = store->Create("a", 6000);
  REQUIRE(writer.ok());
  CHECK(store->bytes_used() == 6000);
  CHECK(absl::IsAlreadyExists(store->Create("a", 6000).status()));
  CHECK(absl::IsAlreadyExists(store->Resume("a", 6000, 0).status()));
  CHECK(absl::IsFailedPrecondition(store->Discard("a")));
  CHECK(absl::IsResourceExhausted(store->Create("b", 4001).status()));
  CHECK(*store->Staged() == std::vector<std::string>{"a"});
  REQUIRE((*writer)->Append(std::span(bytes).first(4000)).ok());
  CHECK((*writer)->size() == 4000);
  CHECK((*writer)->persisted_size() <= 4000);
  REQUIRE((*writer)->Flush().ok());
  CHECK((*writer)->persisted_size() == 4000);
  CHECK(absl::IsFailedPrecondition((*writer)->Commit("").status()));
  CHECK(absl::IsFailedPrecondition((*writer)->Digest().status()));
  CHECK(absl::IsInvalidArgument((*writer)->Append(bytes)));

  writer->reset();  // as after a client that went away
  CHECK(store->bytes_used() == 6000);
  writer = store->Resume("a", 6000, 3000);
  REQUIRE(writer.ok());
  CHECK(store->bytes_used() == 6000);
  CHECK((*writer)->size() == 3000);
  CHECK((*writer)->persisted_size() == 3000);
  REQUIRE((*writer)->Append(std::span(bytes).subspan(3000)).ok());
  CHECK(*(*writer)->Digest() == DigestOf(bytes));
  const std::string other = "sha256:" + std::string(64, '0');
  CHECK(absl::IsFailedPrecondition((*writer)->Commit(other).status()));
  CHECK(*store->Staged() == std::vector<std::string>{"a"});
  const auto digest = (*writer)->Commit(DigestOf(bytes));
  REQUIRE(digest.ok());
  CHECK(*GetBlob(*store, *digest) == bytes);
  CHECK(store->Staged()->empty());
  CHECK(store->bytes_used() == 6000);

  REQUIRE(store->Create("c", 4000).ok());
  CHECK(store->bytes_used() == 10000);
  REQUIRE(store->Discard("c").ok());
  CHECK(store->bytes_used() == 6000);
  CHECK(absl::IsNotFound(store->Discard("c")));
  CHECK(absl::IsNotFound(store->Resume("c", 10, 0).status()));
  REQUIRE(store->Delete(*digest).ok());
  CHECK(store->bytes_used() == 0);
  CHECK_FALSE(*store->Has(*digest));
  CHECK(absl::IsNotFound(store->Delete(*digest)));
  CHECK(absl::IsNotFound(store->Open(*digest).status()));

  // What others keep counts, too.
  REQUIRE(store->ReserveRoom(9000).ok());
  CHECK(store->bytes_used() == 9000);
  CHECK(absl::IsResourceExhausted(store->ReserveRoom(1001)));
  CHECK(absl::IsResourceExhausted(store->Create("d", 1001).status()));
  store->AddRoom(2000);
  CHECK(store->bytes_used() == 11000);
  CHECK(absl::IsResourceExhausted(store->ReserveRoom(0)));
  store->AddRoom(-11000);
  CHECK(store->Create("d", 10000).ok());
}

inline void CheckBadNames(const OpenBlobStore& open) {
  const auto store = open(1000);
  for (const std::string id : {"", "..", "a/b", "a.b", "a b", "\xff"}) {
    INFO(id);
    CHECK(absl::IsInvalidArgument(store->Create(id, 1).status()));
    CHECK(absl::IsInvalidArgument(store->Resume(id, 1, 0).status()));
    CHECK(absl::IsInvalidArgument(store->Discard(id)));
  }
  CHECK(
      absl::IsInvalidArgument(store->Create(std::string(65, 'a'), 1).status()));
  CHECK(absl::IsInvalidArgument(store->Create("a", -1).status()));
  for (const std::string& digest :
       {std::string(), std::string("sha256:"), std::string(64, 'a'),
        "sha256:" + std::string(64, 'A'), "sha256:../" + std::string(61, 'a'),
        "sha512:" + std::string(64, 'a')}) {
    INFO(digest);
    CHECK(absl::IsInvalidArgument(store->Open(digest).status()));
    CHECK(absl::IsInvalidArgument(store->Has(digest).status()));
    CHECK(absl::IsInvalidArgument(store->Delete(digest)));
  }
}

inline void CheckBlobStore(const OpenBlobStore& open) {
  SECTION("bytes go in and come out") { CheckRoundTrips(open); }
  SECTION("any part can be read") { CheckParts(open); }
  SECTION("staging, resuming, budget") { CheckStaging(open); }
  SECTION("names and digests that are none") { CheckBadNames(open); }
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_STORE_BLOB_STORE_CONFORMANCE_H_
