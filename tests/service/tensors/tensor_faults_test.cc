// TensorStore when the disk fails or the process is killed.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "service/store/failpoint.h"
#include "tests/service/tensors/store_fixture.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

StoreOnDisk Open(const std::string& path, TensorStoreOptions options = {}) {
  auto opened = StoreOnDisk::Open(path, std::move(options));
  INFO(opened.status().ToString());
  REQUIRE(opened.ok());
  return *std::move(opened);
}

void CheckError(const absl::Status& status, absl::StatusCode code,
                const std::string& reason) {
  INFO(status.ToString());
  CHECK(status.code() == code);
  CHECK(ErrorReason(status) == reason);
}

TEST_CASE("a full disk loses nothing, and the upload goes on later",
          "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  const StoredTensor other = *PutTensor(*disk.store, "p", bytes, "other");
  const std::string id = disk.store->CreateUpload("p", UploadOf(bytes, ""))->id;
  auto writer = *disk.store->OpenUpload("p", id, nullptr);
  REQUIRE(writer->Write(0, std::span(bytes).first(2000)).ok());
  REQUIRE(writer->Flush().ok());
  SECTION("for the bytes") {
    SetFailpointsForTest("blob.write=ENOSPC@1");
    const absl::Status full =
        writer->Write(2000, std::span(bytes).subspan(2000));
    CheckError(full, absl::StatusCode::kResourceExhausted, "DISK_FULL");
    CHECK(ErrorMetadataValue(full, "persisted_size") == "2000");
  }
  SECTION("for the records") {
    REQUIRE(writer->Write(2000, std::span(bytes).subspan(2000, 100)).ok());
    SetFailpointsForTest("meta.commit=ENOSPC@1");
    CheckError(writer->Flush(), absl::StatusCode::kResourceExhausted,
               "DISK_FULL");
    CHECK(writer->persisted_size() == 2000);
    CHECK(disk.store->GetUpload("p", id)->persisted == 2000);
  }
  SECTION("for the record of the tensor") {
    REQUIRE(WriteFrom(*writer, bytes, 2000).ok());
    SetFailpointsForTest("meta.commit=ENOSPC@2");
    CheckError(writer->Finish().status(), absl::StatusCode::kResourceExhausted,
               "DISK_FULL");
    writer = *disk.store->OpenUpload("p", id, nullptr);
  }
  CHECK(*ReadTensorBytes(*disk.store, "p", other.id) == bytes);
  REQUIRE(WriteFrom(*writer, bytes, writer->persisted_size()).ok());
  REQUIRE(writer->Finish().ok());
  CHECK(*ReadTensorBytes(*disk.store, "p", id) == bytes);
  CHECK(disk.blobs->bytes_used() == 9000);
}

TEST_CASE("a full disk when an upload begins", "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  SetFailpointsForTest("meta.commit=ENOSPC@1");
  CheckError(disk.store->CreateUpload("p", UploadOf(bytes, "r")).status(),
             absl::StatusCode::kResourceExhausted, "DISK_FULL");
  CHECK(disk.blobs->Staged()->empty());
  CHECK(disk.blobs->bytes_used() == 0);
  CHECK(PutTensor(*disk.store, "p", bytes, "r").ok());
}

TEST_CASE("a sync that fails acknowledges nothing", "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  const std::string id = disk.store->CreateUpload("p", UploadOf(bytes, ""))->id;
  auto writer = *disk.store->OpenUpload("p", id, nullptr);
  REQUIRE(writer->Write(0, std::span(bytes).first(2000)).ok());
  REQUIRE(writer->Flush().ok());
  absl::Status failed;
  SECTION("on demand") {
    REQUIRE(writer->Write(2000, std::span(bytes).subspan(2000, 100)).ok());
    SetFailpointsForTest("blob.sync=EIO@1");
    failed = writer->Flush();
  }
  SECTION("at the end") {
    REQUIRE(WriteFrom(*writer, bytes, 2000).ok());
    SetFailpointsForTest("blob.sync=EIO@1");
    failed = writer->Finish().status();
  }
  SECTION("while a byte is written") {
    SetFailpointsForTest("blob.write=EIO@1");
    failed = writer->Write(2000, std::span(bytes).subspan(2000, 100));
  }
  CheckError(failed, absl::StatusCode::kInternal, "STORE_FAILED");
  CHECK(writer->persisted_size() == 2000);
  CHECK(disk.store->GetUpload("p", id)->persisted == 2000);
  // It is not tried again.
  CheckError(writer->Flush(), absl::StatusCode::kInternal, "STORE_FAILED");
  CheckError(writer->Finish().status(), absl::StatusCode::kInternal,
             "STORE_FAILED");
  writer = *disk.store->OpenUpload("p", id, nullptr);
  CHECK(writer->persisted_size() == 2000);
  REQUIRE(WriteFrom(*writer, bytes, 2000).ok());
  REQUIRE(writer->Finish().ok());
  CHECK(*ReadTensorBytes(*disk.store, "p", id) == bytes);
}

fs::path BlobFile(const std::string& path, const std::string& digest) {
  const std::string hex = digest.substr(7);
  return fs::path(path) / "blobs/blobs" / hex.substr(0, 2) / hex.substr(2, 2) /
         hex;
}

TEST_CASE("damage is said, kept apart, and healed by the same bytes",
          "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  const Bytes sound = RandomBytes(9000, 4);
  const StoredTensor tensor = *PutTensor(*disk.store, "p", bytes, "");
  const StoredTensor other = *PutTensor(*disk.store, "p", sound, "");
  const fs::path file = BlobFile(folder / "s", tensor.digest);
  SECTION("a bit flipped") {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(4000).put(static_cast<char>(bytes[4000] ^ 1));
  }
  SECTION("cut short") { fs::resize_file(file, 8000); }
  SECTION("gone") { fs::remove(file); }
  auto open = disk.store->OpenForRead("p", tensor.id);
  if (open.ok()) {
    Bytes part(9000);
    CHECK(absl::IsDataLoss(open->reader->ReadAt(0, part)));
    CHECK(part == Bytes(9000, 0));
  }
  CheckError(disk.store->OpenForRead("p", tensor.id).status(),
             absl::StatusCode::kDataLoss, "BLOB_CORRUPT");
  CHECK(*ReadTensorBytes(*disk.store, "p", other.id) == sound);
  // The digest alone does not help: the bytes must come again.
  NewUpload again = UploadOf(bytes, "again");
  again.expected = tensor.digest;
  const UploadRecord upload = *disk.store->CreateUpload("p", again);
  CHECK_FALSE(upload.complete);
  auto writer = *disk.store->OpenUpload("p", upload.id, nullptr);
  REQUIRE(WriteFrom(*writer, bytes, 0).ok());
  REQUIRE(writer->Finish().ok());
  CHECK(*ReadTensorBytes(*disk.store, "p", tensor.id) == bytes);
}

constexpr int64_t kKillBytes = 5500;

// Uploads in a child that is killed at `failpoint`; tells through a pipe what
// was acknowledged. True: it came to its end.
bool RunKilledUpload(const std::string& path, const std::string& failpoint,
                     const Bytes& bytes, int64_t* acknowledged) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    SetFailpointsForTest(failpoint);
    auto disk = StoreOnDisk::Open(path);
    if (!disk.ok()) ::_exit(1);
    const auto upload = disk->store->CreateUpload("p", UploadOf(bytes, "r"));
    if (!upload.ok()) ::_exit(2);
    auto writer = disk->store->OpenUpload("p", upload->id, nullptr);
    if (!writer.ok()) ::_exit(3);
    for (size_t at = 0; at < bytes.size(); at += 1100) {
      const absl::Status written = (*writer)->Write(
          static_cast<int64_t>(at), std::span(bytes).subspan(at, 1100));
      if (!written.ok() || !(*writer)->Flush().ok()) ::_exit(4);
      const int64_t size = (*writer)->persisted_size();
      if (::write(ends[1], &size, sizeof(size)) != sizeof(size)) ::_exit(5);
    }
    if (!(*writer)->Finish().ok()) ::_exit(6);
    const int64_t done = kKillBytes + 1;
    if (::write(ends[1], &done, sizeof(done)) != sizeof(done)) ::_exit(7);
    ::_exit(0);
  }
  ::close(ends[1]);
  *acknowledged = -1;
  int64_t value = 0;
  while (::read(ends[0], &value, sizeof(value)) == sizeof(value)) {
    *acknowledged = value;
  }
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  INFO(failpoint << ": status " << status);
  const bool ended = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  REQUIRE((ended || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)));
  return ended;
}

TEST_CASE(
    "killed anywhere: what was acknowledged is there, nothing is left "
    "over",
    "[tensors]") {
  const Bytes bytes = RandomBytes(kKillBytes, 6);
  int kills = 0;
  for (const std::string name :
       {"blob.write", "blob.sync", "blob.synced", "blob.sync_folder",
        "blob.before_rename", "blob.after_rename", "meta.commit",
        "meta.committed"}) {
    bool ended = false;
    for (int hit = 1; !ended; ++hit) {
      const std::string failpoint = name + "=kill@" + std::to_string(hit);
      INFO(failpoint);
      TemporaryFolder folder;
      int64_t acknowledged = 0;
      ended = RunKilledUpload(folder / "s", failpoint, bytes, &acknowledged);
      if (!ended) ++kills;
      SetFailpointsForTest("");
      const StoreOnDisk disk = Open(folder / "s");
      const UploadRecord upload =
          *disk.store->CreateUpload("p", UploadOf(bytes, "r"));
      REQUIRE(upload.persisted >= std::min(acknowledged, kKillBytes));
      if (acknowledged > kKillBytes) REQUIRE(upload.complete);
      if (!upload.complete) {
        auto writer = *disk.store->OpenUpload("p", upload.id, nullptr);
        REQUIRE(WriteFrom(*writer, bytes, upload.persisted).ok());
        REQUIRE(writer->Finish().ok());
      }
      REQUIRE(*ReadTensorBytes(*disk.store, "p", upload.id) == bytes);
      REQUIRE(disk.store->ListTensors("p", {}, 10)->size() == 1);
      REQUIRE(disk.blobs->bytes_used() == kKillBytes);
      REQUIRE(disk.blobs->Staged()->empty());
      REQUIRE(disk.store->DeleteTensor("p", upload.id).ok());
      REQUIRE(disk.blobs->List()->empty());
    }
  }
  CHECK(kills > 30);
}

TEST_CASE("killed while a tensor is deleted: it is there or it is not",
          "[tensors]") {
  const Bytes bytes = RandomBytes(kKillBytes, 6);
  for (const std::string failpoint :
       {"meta.commit=kill@1", "meta.committed=kill@1",
        "blob.sync_folder=kill@1"}) {
    INFO(failpoint);
    TemporaryFolder folder;
    std::string id;
    {
      const StoreOnDisk disk = Open(folder / "s");
      id = PutTensor(*disk.store, "p", bytes, "r")->id;
    }
    const pid_t child = ::fork();
    if (child == 0) {
      auto disk = StoreOnDisk::Open(folder / "s");
      if (!disk.ok()) ::_exit(1);
      SetFailpointsForTest(failpoint);
      ::_exit(disk->store->DeleteTensor("p", id).ok() ? 0 : 2);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    const StoreOnDisk disk = Open(folder / "s");
    if (disk.store->GetTensor("p", id).ok()) {
      CHECK(failpoint == "meta.commit=kill@1");
      CHECK(*ReadTensorBytes(*disk.store, "p", id) == bytes);
    } else {
      CHECK(disk.blobs->List()->empty());
      CHECK(disk.blobs->bytes_used() == 0);
    }
  }
}

}  // namespace
}  // namespace qs::testing
