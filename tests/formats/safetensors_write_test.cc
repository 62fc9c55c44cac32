#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <string>
#include <vector>

#include "quant/formats/posix_file.h"
#include "quant/formats/safetensors.h"
#include "tests/formats/format_files.h"
#include "tests/formats/other_user.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

SafetensorsItem Item(const std::string& name, DType dtype,
                     std::vector<int64_t> shape,
                     const std::vector<uint8_t>& data) {
  return {name, dtype, std::move(shape), data};
}

// Writes what a file holds again; the bytes.
std::string Rewritten(const std::string& path, uint64_t seed) {
  TempDir dir;
  const SafetensorsFile file = OpenOrFail(path);
  std::vector<SafetensorsItem> items;
  for (const SafetensorsEntry& entry : file.header().tensors) {
    items.push_back({entry.name, entry.dtype, entry.shape, file.Data(entry)});
  }
  std::mt19937_64 random(seed);
  std::shuffle(items.begin(), items.end(), random);
  const absl::Status status =
      WriteSafetensors(dir.File("x"), items, file.header().metadata);
  INFO(Text(status));
  REQUIRE(status.ok());
  CHECK(dir.List() == std::vector<std::string>{"x"});
  return ReadText(dir.File("x"));
}

void CheckRewrites(const std::string& name) {
  const std::string path = DataPath(name);
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    INFO(name << " seed " << seed);
    const bool same = Rewritten(path, seed) == ReadText(path);
    CHECK(same);
  }
}

// Limits the size of files for as long as it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before_) == 0);
    handler_ = signal(SIGXFSZ, SIG_IGN);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_;
  void (*handler_)(int);
};

constexpr int kSkipped = 77;

// In a child with a disk of 64 KiB of its own: 0 when the writer said that the
// disk is full and left nothing.
int FillSmallDisk(const std::string& path, const std::string& file) {
  const int flags = CLONE_NEWNS | (geteuid() == 0 ? 0 : CLONE_NEWUSER);
  if (unshare(flags) != 0 ||
      mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("tmpfs", path.c_str(), "tmpfs", 0, "size=64k") != 0) {
    return kSkipped;
  }
  const std::vector<uint8_t> data(1 << 20);
  const absl::Status full =
      WriteSafetensors(file, {Item("a", DType::kU8, {1 << 20}, data)});
  if (!absl::IsResourceExhausted(full)) return 1;
  if (!std::filesystem::is_empty(path)) return 2;
  const absl::Status fits = WriteSafetensors(
      file, {{"a", DType::kU8, {100}, std::span(data).first(100)}});
  return fits.ok() ? 0 : 3;
}

}  // namespace

TEST_CASE("files are byte-equal to the library's", "[safetensors]") {
  CheckRewrites("golden/formats/all_dtypes.safetensors");
  CheckRewrites("golden/formats/no_metadata.safetensors");
  CheckRewrites("golden/formats/no_tensors.safetensors");
  CheckRewrites("golden/formats/serialized_bf16_input.safetensors");
  for (const char* name :
       {"bf16_fp4", "bf16_fp4_dq", "bf16_nf4", "bf16_nf4_dq",
        "bf16_nf4_dq_storage_bf16", "f16_fp4", "f16_fp4_dq", "f16_nf4",
        "f16_nf4_dq", "f32_fp4", "f32_fp4_dq", "f32_nf4", "f32_nf4_dq"}) {
    CheckRewrites("golden/formats/serialized_" + std::string(name) +
                  ".safetensors");
  }
}

TEST_CASE("metadata is {format: pt} unless told otherwise", "[safetensors]") {
  TempDir dir;
  const std::vector<uint8_t> data = {1, 2, 3};
  const std::vector<SafetensorsItem> items = {Item("x", DType::kU8, {3}, data)};
  REQUIRE(WriteSafetensors(dir.File("x"), items).ok());
  CHECK(OpenOrFail(dir.File("x")).header().metadata ==
        std::map<std::string, std::string>{{"format", "pt"}});
  REQUIRE(
      WriteSafetensors(dir.File("x"), items, {{"b", "2"}, {"a", "\xc3\xa9\n"}})
          .ok());
  const std::string text = ReadText(dir.File("x"));
  const std::string want =
      "{\"__metadata__\":{\"a\":\"\xc3\xa9\\n\",\"b\":\"2\"},\"x\":";
  CHECK(text.substr(8, want.size()) == want);
}

TEST_CASE("data starts and stays aligned", "[safetensors]") {
  TempDir dir;
  const std::vector<uint8_t> data(64);
  // Names of every length move the end of the header.
  for (size_t length = 1; length <= 16; ++length) {
    const std::string name(length, 'n');
    REQUIRE(WriteSafetensors(
                dir.File("x"),
                {{name + "8", DType::kU8, {3}, std::span(data).first(3)},
                 {name + "2", DType::kBF16, {3}, std::span(data).first(6)},
                 {name + "4", DType::kF32, {3}, std::span(data).first(12)},
                 {name + "64", DType::kI64, {1}, std::span(data).first(8)}})
                .ok());
    const SafetensorsFile file = OpenOrFail(dir.File("x"));
    CHECK(file.header().data_offset % 8 == 0);
    for (const SafetensorsEntry& entry : file.header().tensors) {
      CHECK(entry.begin % DTypeBytes(entry.dtype) == 0);
    }
  }
}

TEST_CASE("items that do not fit are refused, nothing is left",
          "[safetensors]") {
  TempDir dir;
  const std::vector<uint8_t> data(8);
  const auto write = [&](std::vector<SafetensorsItem> items,
                         const std::map<std::string, std::string>& metadata) {
    const absl::Status status =
        WriteSafetensors(dir.File("x"), std::move(items), metadata);
    CHECK(dir.List().empty());
    return status;
  };
  CHECK(IsInvalid(
      write({Item("a", DType::kU8, {8}, data), Item("b", DType::kU8, {8}, data),
             Item("a", DType::kF32, {2}, data)},
            {}),
      "tensor \"a\": got the name twice, allowed: once"));
  CHECK(IsInvalid(write({Item("a", DType::kF32, {3}, data)}, {}),
                  "tensor \"a\": got 8 bytes, allowed: F32 [3]"));
  CHECK(IsInvalid(write({Item("a", DType::kU8, {-8, -1}, data)}, {}),
                  "got 8 bytes, allowed: U8 [-8, -1]"));
  const int64_t big = int64_t{1} << 32;
  CHECK(IsInvalid(write({Item("a", DType::kU8, {big, big, 8}, data)}, {}),
                  "got 8 bytes, allowed: U8 ["));
  CHECK(IsInvalid(write({Item("__metadata__", DType::kU8, {8}, data)}, {}),
                  "got the metadata's key"));
  CHECK(IsInvalid(write({Item("\xff", DType::kU8, {8}, data)}, {}),
                  "allowed: names in UTF-8"));
  CHECK(IsInvalid(write({}, {{"k", "\xc3"}}), "allowed: names in UTF-8"));
  CHECK(IsInvalid(
      write({Item(std::string(kMaxHeaderBytes, 'n'), DType::kU8, {8}, data)},
            {}),
      "bytes, allowed: at most 16777216"));
}

TEST_CASE("a file is replaced as a whole or not at all", "[safetensors]") {
  TempDir dir;
  const std::string path = dir.File("x");
  const std::vector<uint8_t> data(1 << 20);
  const std::vector<SafetensorsItem> items = {
      Item("a", DType::kU8, {1 << 20}, data)};
  WriteText(path, "old");
  SECTION("replaced") {
    REQUIRE(WriteSafetensors(path, items).ok());
    CHECK(OpenOrFail(path).Find("a")->end == 1 << 20);
  }
  SECTION("no room") {
    const FileSizeLimit limit(65536);
    const absl::Status status = WriteSafetensors(path, items);
    INFO(Text(status));
    CHECK(absl::IsResourceExhausted(status));
    CHECK(ReadText(path) == "old");
  }
  SECTION("an old temporary file is no obstacle") {
    WriteText(path + ".tmp", std::string(2 << 20, 'x'));
    REQUIRE(WriteSafetensors(path, items).ok());
    CHECK(OpenOrFail(path).Find("a")->end == 1 << 20);
  }
  CHECK(dir.List() == std::vector<std::string>{"x"});
}

TEST_CASE("a full disk is RESOURCE_EXHAUSTED and leaves nothing",
          "[safetensors]") {
  TempDir dir;
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) _exit(FillSmallDisk(dir.path(), dir.File("x")));
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kSkipped) {
    WARN("mounting is not allowed here");
    return;
  }
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("places that cannot be written", "[safetensors]") {
  TempDir dir;
  CHECK(absl::IsNotFound(WriteSafetensors(dir.File("no/x"), {})));
  SECTION("no permission") {
    const OtherUser other(dir.path());
    if (geteuid() != 65534) REQUIRE(chmod(dir.path().c_str(), 0500) == 0);
    CHECK(absl::IsPermissionDenied(WriteSafetensors(dir.File("x"), {})));
  }
  SECTION("a directory has the name") {
    REQUIRE(mkdir(dir.File("x").c_str(), 0700) == 0);
    CHECK(IsInvalid(WriteSafetensors(dir.File("x"), {}), "rename to"));
    CHECK(dir.List() == std::vector<std::string>{"x"});
  }
  SECTION("a link in place of the temporary file is not followed") {
    WriteText(dir.File("target"), "kept");
    REQUIRE(symlink(dir.File("target").c_str(), dir.File("x.tmp").c_str()) ==
            0);
    CHECK(IsInvalid(WriteSafetensors(dir.File("x"), {}), "create"));
    CHECK(ReadText(dir.File("target")) == "kept");
  }
}

TEST_CASE("an abandoned file leaves nothing", "[posix_file]") {
  TempDir dir;
  {
    absl::StatusOr<AtomicFile> file = AtomicFile::Create(dir.File("x"));
    REQUIRE(file.ok());
    REQUIRE(file->Append("half").ok());
    const AtomicFile moved = *std::move(file);
    CHECK(dir.List() == std::vector<std::string>{"x.tmp"});
  }
  CHECK(dir.List().empty());
}

TEST_CASE("small files have a limit", "[posix_file]") {
  TempDir dir;
  WriteText(dir.File("x"), std::string(40000, 'x'));
  CHECK(*ReadSmallFile(dir.File("x"), 40000) == std::string(40000, 'x'));
  CHECK(IsInvalid(ReadSmallFile(dir.File("x"), 39999).status(),
                  "got more bytes than allowed: 39999"));
}

TEST_CASE("each errno has its code", "[posix_file]") {
  using absl::StatusCode;
  struct {
    int error;
    StatusCode code;
  } const cases[] = {
      {ENOENT, StatusCode::kNotFound},
      {EACCES, StatusCode::kPermissionDenied},
      {EPERM, StatusCode::kPermissionDenied},
      {EROFS, StatusCode::kPermissionDenied},
      {ENOSPC, StatusCode::kResourceExhausted},
      {EDQUOT, StatusCode::kResourceExhausted},
      {EFBIG, StatusCode::kResourceExhausted},
      {ENOMEM, StatusCode::kResourceExhausted},
      {EEXIST, StatusCode::kAlreadyExists},
      {EISDIR, StatusCode::kInvalidArgument},
      {ENAMETOOLONG, StatusCode::kInvalidArgument},
      {EIO, StatusCode::kUnavailable},
  };
  for (const auto& [error, code] : cases) {
    INFO(error);
    CHECK(PosixError(error, "write", "/a").code() == code);
  }
  CHECK(std::string(PosixError(ENOSPC, "write", "/a\n").message()) ==
        "write \"/a\\n\": No space left on device");
}

}  // namespace qs::testing
