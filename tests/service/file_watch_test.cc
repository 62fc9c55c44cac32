// Every way in which a file changes is noticed, and nothing else is.
#include "service/base/file_watch.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/time/clock.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(5);

void Write(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
}

// Polls until `count` has reached `least`.
bool Reaches(const std::atomic<int>& count, int least) {
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (count < least) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

TEST_CASE("changes of a file are noticed, rest is not", "[file_watch]") {
  const testing::TemporaryFolder folder;
  const std::string path = folder / "file";
  Write(path, "one");
  std::atomic<int> calls{0};
  FileWatch watch(kInterval);
  watch.Add({folder / "other", path}, [&calls] {
    ++calls;
    return true;
  });
  const auto settle = [&calls] {
    absl::SleepFor(20 * kInterval);
    return calls.load();
  };
  REQUIRE(Reaches(calls, 1));  // the first look
  REQUIRE(settle() == 1);
  Write(path, "two, longer");  // in place
  REQUIRE(Reaches(calls, 2));
  int seen = settle();  // truncated and written may be two changes
  Write(folder / "new", "three, longer");
  std::filesystem::rename(folder / "new", path);
  REQUIRE(Reaches(calls, seen + 1));
  seen = settle();
  std::filesystem::remove(path);
  REQUIRE(Reaches(calls, seen + 1));
  seen = settle();
  // Through a symbolic link, as Kubernetes mounts secrets.
  Write(folder / "target", "four");
  std::filesystem::create_symlink(folder / "target", path);
  REQUIRE(Reaches(calls, seen + 1));
  seen = settle();
  Write(folder / "other", "now it is there");
  REQUIRE(Reaches(calls, seen + 1));
}

TEST_CASE("what cannot be used is looked at again", "[file_watch]") {
  const testing::TemporaryFolder folder;
  std::atomic<int> calls{0};
  FileWatch watch(kInterval);
  watch.Add({folder / "file"}, [&calls] { return ++calls == 3; });
  REQUIRE(Reaches(calls, 3));
  absl::SleepFor(20 * kInterval);
  REQUIRE(calls == 3);
}

}  // namespace
}  // namespace qs
