// Staging, digest and the name of a job's files.
#include "service/jobs/job_output.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "service/server/error.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

void Write(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
}

bool Never() { return false; }

TEST_CASE("where a job writes until it is complete", "[job_output]") {
  REQUIRE(StagingPath("/out/a/model", "17") == "/out/a/.model.17");
}

TEST_CASE("a digest is of all files and their names", "[job_output]") {
  TemporaryFolder folder;
  const std::string out = folder / "out";
  fs::create_directories(out + "/sub");
  Write(out + "/b", "two");
  Write(out + "/a", "one");
  Write(out + "/sub/c", "");
  const auto digest = DigestOutput(out, {}, Never);
  REQUIRE(digest.ok());
  REQUIRE(digest->files.size() == 3);
  REQUIRE(digest->bytes == 6);
  // cd out; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum |
  // sha256sum
  REQUIRE(digest->digest ==
          "sha256:"
          "b5cbe8862bdef98aca34cb99a63341a9bac8c8fc935bbd3671f54022084011ff");
  // Known files are not read again.
  const auto a = DigestFile(out + "/a", Never);
  REQUIRE(a.ok());
  REQUIRE(a->bytes == 3);
  Write(out + "/a", "One");
  REQUIRE(DigestOutput(out, {{"a", *a}}, Never)->digest == digest->digest);
  REQUIRE(DigestOutput(out, {}, Never)->digest != digest->digest);
  Write(out + "/a", "one");
  fs::rename(out + "/b", out + "/d");
  REQUIRE(DigestOutput(out, {}, Never)->digest != digest->digest);
  REQUIRE(DigestOutput(out, {}, [] { return true; }).status().code() ==
          absl::StatusCode::kCancelled);
  REQUIRE(ErrorReason(DigestOutput(folder / "no", {}, Never).status()) ==
          "OUTPUT_FAILED");
}

TEST_CASE("a name is given once, and nothing is replaced", "[job_output]") {
  TemporaryFolder folder;
  const std::string staging = folder / ".a.1";
  const std::string destination = folder / "a";
  fs::create_directory(staging);
  Write(staging + "/f", "x");
  fs::create_directory(destination);
  REQUIRE(ErrorReason(PublishOutput(staging, destination)) ==
          "DESTINATION_EXISTS");
  REQUIRE(Exists(staging + "/f"));
  fs::remove(destination);
  REQUIRE(PublishOutput(staging, destination).ok());
  REQUIRE(Exists(destination + "/f"));
  REQUIRE_FALSE(Exists(staging));
  REQUIRE(ErrorReason(PublishOutput(staging, folder / "b")) == "OUTPUT_FAILED");
  const JobLog log(JobKey{"default", "a"});
  RemoveOutput(destination, log);
  REQUIRE_FALSE(Exists(destination));
  RemoveOutput(destination, log);
}

}  // namespace
}  // namespace qs::testing
