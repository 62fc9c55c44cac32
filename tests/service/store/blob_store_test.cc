// The directory store: the conformance suite, and a disk that fails, a process
// that is killed at every failpoint, files that are damaged.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "service/store/dir_blob_store.h"
#include "service/store/failpoint.h"
#include "tests/service/store/blob_store_conformance.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMany = int64_t{1} << 30;

std::unique_ptr<BlobStore> Open(const std::string& path,
                                int64_t allowed = kMany) {
  auto store = OpenDirBlobStore(path, allowed);
  INFO(store.status().ToString());
  REQUIRE(store.ok());
  return *std::move(store);
}

std::vector<fs::path> Files(const std::string& path) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  return files;
}

fs::path BlobFile(const std::string& store, const std::string& digest) {
  const std::string hex = digest.substr(7);
  return fs::path(store) / "blobs" / hex.substr(0, 2) / hex.substr(2, 2) / hex;
}

void FlipByte(const fs::path& file, int64_t at) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(at);
  const int byte = stream.get();
  stream.seekp(at);
  stream.put(static_cast<char>(byte ^ 0x20));
  REQUIRE(stream.good());
}

TEST_CASE("a directory is a blob store", "[store]") {
  TemporaryFolder folder;
  CheckBlobStore([&](int64_t allowed) { return Open(folder / "s", allowed); });
}

TEST_CASE("blobs and staging are there after a restart", "[store]") {
  TemporaryFolder folder;
  const Bytes bytes = RandomBytes(2500000, 3);
  std::string digest;
  {
    const auto store = Open(folder / "s");
    digest = *PutBlob(*store, "a", bytes);
    auto writer = *store->Create("b", 5000);
    REQUIRE(writer->Append(std::span(bytes).first(3000)).ok());
    REQUIRE(writer->Flush().ok());
    const absl::Status second = OpenDirBlobStore(folder / "s", kMany).status();
    CHECK(absl::IsFailedPrecondition(second));
    CHECK(second.message().find("another process uses it") !=
          std::string::npos);
  }
  const auto store = Open(folder / "s");
  CHECK(*GetBlob(*store, digest) == bytes);
  CHECK(*store->Staged() == std::vector<std::string>{"b"});
  CHECK(store->bytes_used() == 2500000 + 3000);
  auto writer = store->Resume("b", 5000, 2000);
  REQUIRE(writer.ok());
  CHECK(store->bytes_used() == 2500000 + 5000);
  REQUIRE((*writer)->Append(std::span(bytes).subspan(2000, 3000)).ok());
  const Bytes expected(bytes.begin(), bytes.begin() + 5000);
  CHECK(*(*writer)->Commit("") == DigestOf(expected));
  writer->reset();
  CHECK(absl::IsNotFound(store->Resume("b", 5000, 6000).status()));
  auto other = *store->Create("c", 10);
  other = nullptr;
  CHECK(absl::IsDataLoss(store->Resume("c", 10, 5).status()));
}

TEST_CASE("damage is found, put aside and never served", "[store]") {
  TemporaryFolder folder;
  const auto store = Open(folder / "s");
  const Bytes bytes = RandomBytes(2500000, 3);
  const Bytes sound = RandomBytes(1000, 4);
  const std::string digest = *PutBlob(*store, "a", bytes);
  const std::string other = *PutBlob(*store, "b", sound);
  const fs::path file = BlobFile(folder / "s", digest);

  SECTION("a flipped bit: the MiB before it is served, it is not") {
    FlipByte(file, 1500000);
    const auto reader = store->Open(digest);
    REQUIRE(reader.ok());
    Bytes part(1 << 20);
    CHECK((*reader)->ReadAt(0, part).ok());
    Bytes untouched(10, 1);
    const absl::Status status = (*reader)->ReadAt(1 << 20, untouched);
    CHECK(absl::IsDataLoss(status));
    CHECK(untouched == Bytes(10, 1));
    CHECK(absl::IsDataLoss((*reader)->ReadAt(1 << 20, untouched)));
  }
  SECTION("a file that was cut short") {
    fs::resize_file(file, 2400000);
    CHECK(absl::IsDataLoss(GetBlob(*store, digest).status()));
  }
  SECTION("the sums and a byte") {
    FlipByte(file.string() + ".crc", 20);
    FlipByte(file, 5);
    CHECK(absl::IsDataLoss(store->Open(digest).status()));
  }
  CHECK_FALSE(*store->Has(digest));
  CHECK(absl::IsNotFound(store->Open(digest).status()));
  CHECK(store->bytes_used() == 1000);
  CHECK(Files(folder / "s/quarantine").size() == 2);
  CHECK(*GetBlob(*store, other) == sound);
  // It can come again.
  CHECK(*PutBlob(*store, "again", bytes) == digest);
  CHECK(*GetBlob(*store, digest) == bytes);
}

TEST_CASE("sums that are damaged or gone are made anew", "[store]") {
  TemporaryFolder folder;
  const auto store = Open(folder / "s");
  const Bytes bytes = RandomBytes(2500000, 3);
  const std::string digest = *PutBlob(*store, "a", bytes);
  const fs::path sums = BlobFile(folder / "s", digest).string() + ".crc";
  const auto size = fs::file_size(sums);
  SECTION("damaged") { FlipByte(sums, 17); }
  SECTION("gone") { fs::remove(sums); }
  CHECK(*GetBlob(*store, digest) == bytes);
  CHECK(fs::file_size(sums) == size);
}

TEST_CASE("a full disk loses nothing and can be written to later", "[store]") {
  TemporaryFolder folder;
  const auto store = Open(folder / "s");
  const Bytes bytes = RandomBytes(3000, 3);
  auto writer = *store->Create("a", 3000);
  REQUIRE(writer->Append(std::span(bytes).first(1000)).ok());
  SetFailpointsForTest("blob.write=ENOSPC@1");
  CHECK(absl::IsResourceExhausted(
      writer->Append(std::span(bytes).subspan(1000))));
  CHECK(writer->size() == 1000);
  REQUIRE(writer->Append(std::span(bytes).subspan(1000)).ok());
  CHECK(*writer->Commit("") == DigestOf(bytes));
}

TEST_CASE("a failed sync is not tried again", "[store]") {
  TemporaryFolder folder;
  const auto store = Open(folder / "s");
  const Bytes bytes = RandomBytes(3000, 3);
  auto writer = *store->Create("a", 3000);
  REQUIRE(writer->Append(std::span(bytes).first(1000)).ok());
  REQUIRE(writer->Flush().ok());
  REQUIRE(writer->Append(std::span(bytes).subspan(1000)).ok());
  SetFailpointsForTest("blob.sync=EIO@1");
  CHECK(absl::IsInternal(writer->Flush()));
  CHECK(writer->persisted_size() == 1000);
  CHECK(absl::IsInternal(writer->Flush()));
  CHECK(absl::IsInternal(writer->Append({})));
  CHECK(absl::IsInternal(writer->Commit("").status()));
  // From what was persisted it can go on.
  writer = nullptr;
  writer = *store->Resume("a", 3000, 1000);
  REQUIRE(writer->Append(std::span(bytes).subspan(1000)).ok());
  CHECK(*writer->Commit("") == DigestOf(bytes));
}

// Uploads in a child that is killed at `failpoint`; what it said was persisted
// comes back through a pipe.
int64_t PersistedByKilledChild(const std::string& path,
                               const std::string& failpoint, const Bytes& bytes,
                               bool* committed) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    SetFailpointsForTest(failpoint);
    auto store = OpenDirBlobStore(path, kMany);
    if (!store.ok()) ::_exit(1);
    auto writer = (*store)->Create("a", static_cast<int64_t>(bytes.size()));
    if (!writer.ok()) ::_exit(2);
    const auto tell = [&](int64_t value) {
      if (::write(ends[1], &value, sizeof(value)) != sizeof(value)) ::_exit(3);
    };
    for (size_t at = 0; at < bytes.size(); at += 1000) {
      const size_t count = std::min<size_t>(1000, bytes.size() - at);
      if (!(*writer)->Append(std::span(bytes).subspan(at, count)).ok()) {
        ::_exit(4);
      }
      if (!(*writer)->Flush().ok()) ::_exit(5);
      tell((*writer)->persisted_size());
    }
    if (!(*writer)->Commit("").ok()) ::_exit(6);
    tell(-1);
    ::_exit(0);
  }
  ::close(ends[1]);
  int64_t persisted = 0;
  *committed = false;
  for (int64_t value;
       ::read(ends[0], &value, sizeof(value)) == sizeof(value);) {
    if (value < 0) *committed = true;
    if (value >= 0) persisted = value;
  }
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  const bool ended = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  INFO(failpoint << ": status " << status);
  REQUIRE((killed || ended));
  REQUIRE(ended == *committed);
  return persisted;
}

TEST_CASE("killed at any failpoint: what was acknowledged is there",
          "[store]") {
  const Bytes bytes = RandomBytes(5500, 6);
  for (const std::string name :
       {"blob.write", "blob.sync", "blob.synced", "blob.sync_folder",
        "blob.before_rename", "blob.after_rename"}) {
    bool ended = false;
    for (int hit = 1; !ended; ++hit) {
      const std::string failpoint = name + "=kill@" + std::to_string(hit);
      INFO(failpoint);
      TemporaryFolder folder;
      const int64_t persisted =
          PersistedByKilledChild(folder / "s", failpoint, bytes, &ended);
      const auto store = Open(folder / "s");
      const std::string digest = DigestOf(bytes);
      if (ended) REQUIRE(*store->Has(digest));
      if (!*store->Has(digest)) {
        auto writer = store->Staged()->empty()
                          ? store->Create("a", 5500)
                          : store->Resume("a", 5500, persisted);
        INFO(writer.status().ToString());
        REQUIRE(writer.ok());
        REQUIRE((*writer)
                    ->Append(std::span(bytes).subspan(
                        static_cast<size_t>((*writer)->size())))
                    .ok());
        REQUIRE(*(*writer)->Commit(digest) == digest);
      }
      CHECK(*GetBlob(*store, digest) == bytes);
      CHECK(store->bytes_used() == 5500);
      CHECK(store->Staged()->empty());
      CHECK(Files(folder / "s/blobs").size() == 2);
    }
  }
}

}  // namespace
}  // namespace qs::testing
