// Disks that fail and files that change while they are read. This binary puts
// its own fsync, write and pread in place of the C library's.
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "quant/formats/posix_file.h"
#include "quant/formats/safetensors.h"
#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"

namespace {

// Calls that still succeed before the next fails once; negative: none fails.
struct Fault {
  int calls_left = -1;
  int error = 0;
};
Fault fsync_fault, write_fault, pread_fault;

bool Fails(Fault& fault) {
  if (fault.calls_left < 0 || fault.calls_left-- > 0) return false;
  errno = fault.error;
  return true;
}

}  // namespace

extern "C" int fsync(int fd) {
  return Fails(fsync_fault) ? -1 : static_cast<int>(syscall(SYS_fsync, fd));
}
extern "C" ssize_t write(int fd, const void* data, size_t size) {
  return Fails(write_fault) ? -1 : syscall(SYS_write, fd, data, size);
}
extern "C" ssize_t pread(int fd, void* data, size_t size, off_t offset) {
  return Fails(pread_fault) ? -1 : syscall(SYS_pread64, fd, data, size, offset);
}

namespace qs::testing {
namespace {

SafetensorsItem Item(const std::vector<uint8_t>& data) {
  return {"a", DType::kU8, {static_cast<int64_t>(data.size())}, data};
}

std::string SmallFile() {
  return RawSafetensors("{" + Entry("a", "U8", "[4]", "[0,4]") + "}", 4);
}

// Overwrites `path` while `fault` waits; the status.
absl::Status Overwrite(const std::string& path, Fault& fault, int calls_before,
                       int error) {
  fault = {calls_before, error};
  const absl::Status status =
      WriteSafetensors(path, {Item(std::vector<uint8_t>(1000))});
  CHECK(fault.calls_left == -1);  // it was met
  fault = {};
  return status;
}

}  // namespace

TEST_CASE("a failing disk leaves the old file and nothing else", "[faults]") {
  TempDir dir;
  const std::string path = dir.File("x");
  WriteText(path, "old");
  SECTION("when the header is written") {
    CHECK(absl::IsUnavailable(Overwrite(path, write_fault, 0, EIO)));
  }
  SECTION("when the data is written") {
    CHECK(absl::IsResourceExhausted(Overwrite(path, write_fault, 1, ENOSPC)));
  }
  SECTION("when it is synced") {
    CHECK(absl::IsUnavailable(Overwrite(path, fsync_fault, 0, EIO)));
  }
  SECTION("when quota ends at the sync") {
    CHECK(absl::IsResourceExhausted(Overwrite(path, fsync_fault, 0, EDQUOT)));
  }
  CHECK(ReadText(path) == "old");
  CHECK(dir.List() == std::vector<std::string>{"x"});
}

TEST_CASE("a directory that cannot be synced is told, the file is whole",
          "[faults]") {
  TempDir dir;
  const std::string path = dir.File("x");
  const absl::Status status = Overwrite(path, fsync_fault, 1, EIO);
  CHECK(absl::IsUnavailable(status));
  CHECK(std::string(status.message()).find("sync") != std::string::npos);
  CHECK(dir.List() == std::vector<std::string>{"x"});
  CHECK(OpenOrFail(path).Find("a")->end == 1000);
  // Some file systems say so of every directory.
  CHECK(Overwrite(path, fsync_fault, 1, EINVAL).ok());
}

TEST_CASE("interrupted calls go on", "[faults]") {
  TempDir dir;
  CHECK(Overwrite(dir.File("x"), write_fault, 1, EINTR).ok());
  pread_fault = {1, EINTR};
  CHECK(SafetensorsFile::Open(dir.File("x")).ok());
  CHECK(pread_fault.calls_left == -1);
}

TEST_CASE("a failing disk is no malformed file", "[faults]") {
  TempDir dir;
  WriteText(dir.File("x"), SmallFile());
  for (const int call : {0, 1}) {
    pread_fault = {call, EIO};
    const absl::Status status = SafetensorsFile::Open(dir.File("x")).status();
    INFO(Text(status));
    CHECK(absl::IsUnavailable(status));
    CHECK(pread_fault.calls_left == -1);
  }
  pread_fault = {};
  // Address 0 of this process: the kernel's own EIO.
  CHECK(absl::IsUnavailable(ReadSmallFile("/proc/self/mem", 100).status()));
}

TEST_CASE("reads past the end of a file that has shrunk", "[faults]") {
  TempDir dir;
  WriteText(dir.File("x"), "12345678");
  const absl::StatusOr<UniqueFd> fd = OpenRegularFile(dir.File("x"));
  REQUIRE(fd.ok());
  std::vector<uint8_t> data(6);
  CHECK(ReadAt(*fd, dir.File("x"), 2, data).ok());
  CHECK(data == std::vector<uint8_t>{'3', '4', '5', '6', '7', '8'});
  REQUIRE(truncate(dir.File("x").c_str(), 5) == 0);
  const absl::Status status = ReadAt(*fd, dir.File("x"), 2, data);
  INFO(Text(status));
  CHECK(absl::IsAborted(status));
  CHECK(std::string(status.message()).find("got an end at byte 5") !=
        std::string::npos);
}

TEST_CASE("a mapped file that shrinks ends the write, not the process",
          "[faults]") {
  TempDir dir;
  const std::vector<uint8_t> data(1 << 20, 7);
  REQUIRE(WriteSafetensors(dir.File("in"), {Item(data)}).ok());
  const SafetensorsFile in = OpenOrFail(dir.File("in"));
  const SafetensorsEntry& entry = *in.Find("a");
  REQUIRE(truncate(dir.File("in").c_str(), 100000) == 0);
  const absl::Status status = WriteSafetensors(
      dir.File("out"),
      {{entry.name, entry.dtype, entry.shape, in.Data(entry)}});
  INFO(Text(status));
  CHECK(absl::IsAborted(status));
  CHECK(dir.List() == std::vector<std::string>{"in"});
  CHECK(absl::IsAborted(in.CheckUnchanged()));
}

}  // namespace qs::testing
