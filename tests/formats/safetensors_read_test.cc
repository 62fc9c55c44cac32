#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "quant/formats/safetensors.h"
#include "tests/formats/format_files.h"
#include "tests/formats/other_user.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs::testing {
namespace {

std::string SmallFile() {
  return RawSafetensors("{" + Entry("a", "U8", "[4]", "[0,4]") + "}", 4);
}

}  // namespace

TEST_CASE("the library's file with every dtype reads as it was written",
          "[safetensors]") {
  const std::string path = DataPath("golden/formats/all_dtypes.safetensors");
  const GoldenFile golden = ReadGolden(path);
  const SafetensorsFile file = OpenOrFail(path);
  CHECK(file.path() == path);
  CHECK(file.header().metadata.at("format") == "pt");
  REQUIRE(file.header().tensors.size() == golden.tensors.size());
  CHECK(golden.tensors.size() == 33);
  for (const auto& [name, want] : golden.tensors) {
    INFO(name);
    const SafetensorsEntry* entry = file.Find(name);
    REQUIRE(entry != nullptr);
    CHECK(DTypeName(entry->dtype) == want.dtype);
    CHECK(entry->shape == want.shape);
    const auto data = file.Data(*entry);
    CHECK(std::vector<uint8_t>(data.begin(), data.end()) == want.bytes);
  }
  CHECK(file.Find("no such tensor") == nullptr);
  CHECK(file.Find("") == nullptr);
}

TEST_CASE("a moved file keeps its map", "[safetensors]") {
  TempDir dir;
  WriteText(dir.File("x"), SmallFile());
  SafetensorsFile first = OpenOrFail(dir.File("x"));
  const uint8_t* data = first.Data(*first.Find("a")).data();
  SafetensorsFile second = std::move(first);
  CHECK(second.Data(*second.Find("a")).data() == data);
  WriteText(dir.File("y"), SmallFile());
  second = OpenOrFail(dir.File("y"));
  CHECK(second.path() == dir.File("y"));
  CHECK(second.Data(*second.Find("a"))[3] == 1);
}

TEST_CASE("what is no file of tensors does not open", "[safetensors]") {
  TempDir dir;
  const auto open = [&](const std::string& name) {
    return SafetensorsFile::Open(dir.File(name)).status();
  };
  CHECK(absl::IsNotFound(open("missing")));
  CHECK(IsInvalid(open("."), "got a directory or device"));
  REQUIRE(mkfifo(dir.File("fifo").c_str(), 0600) == 0);
  CHECK(IsInvalid(open("fifo"), "allowed: a regular file"));
  CHECK(IsInvalid(SafetensorsFile::Open("/dev/null").status(),
                  "allowed: a regular file"));
  WriteText(dir.File("empty"), "");
  CHECK(IsInvalid(open("empty"), "got 0 bytes, allowed: 10 at least"));
  WriteText(dir.File("text"), "not a header at all");
  CHECK(IsInvalid(open("text"), "text\": safetensors header length: got "));
  WriteText(dir.File("cut"), SmallFile().substr(0, SmallFile().size() - 1));
  CHECK(IsInvalid(open("cut"), "cut\": safetensors tensor \"a\".data_offsets"));
  WriteText(dir.File("under_a_file"), "");
  CHECK(IsInvalid(open("under_a_file/x"), "Not a directory"));
}

TEST_CASE("a file that may not be read is refused", "[safetensors]") {
  TempDir dir;
  WriteText(dir.File("x"), SmallFile());
  REQUIRE(chmod(dir.File("x").c_str(), 0) == 0);
  const OtherUser other(dir.path());
  CHECK(
      absl::IsPermissionDenied(SafetensorsFile::Open(dir.File("x")).status()));
}

TEST_CASE("a change under the map is noticed", "[safetensors]") {
  TempDir dir;
  const std::string path = dir.File("x");
  WriteText(path, SmallFile());
  const SafetensorsFile file = OpenOrFail(path);
  CHECK(file.CheckUnchanged().ok());
  std::string what;
  SECTION("longer") {
    WriteText(path, SmallFile() + "x");
    what = "got another size";
  }
  SECTION("another time") {
    const timeval times[2] = {{1000, 0}, {1000, 0}};
    REQUIRE(utimes(path.c_str(), times) == 0);
    what = "got another modification time";
  }
  SECTION("replaced") {
    WriteText(dir.File("y"), SmallFile());
    REQUIRE(rename(dir.File("y").c_str(), path.c_str()) == 0);
    what = "got another file";
    // The old bytes stay mapped.
    CHECK(file.Data(*file.Find("a"))[0] == 1);
  }
  SECTION("removed") {
    REQUIRE(unlink(path.c_str()) == 0);
    what = "No such file";
  }
  const absl::Status status = file.CheckUnchanged();
  INFO(Text(status));
  CHECK(absl::IsAborted(status));
  CHECK(std::string(status.message()).find(what) != std::string::npos);
}

}  // namespace qs::testing
