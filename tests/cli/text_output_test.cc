// Text into files, links, FIFOs, devices and descriptors. Devices are nodes of
// the test's own: a mistake must not replace the machine's.
#include "service/cli/text_output.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "service/cli/exit_code.h"
#include "tests/cli/temporary_directory.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace fs = std::filesystem;

// Longer than a pipe holds.
const std::string& LongText() {
  static const std::string& text = *new std::string(300000, 'x');
  return text;
}

absl::Status Write(const std::string& file, const std::string& text,
                   RunControl* control = nullptr) {
  absl::StatusOr<TextOutput> output = TextOutput::Open(file, {}, {});
  return output.ok() ? output->Write(text, control) : output.status();
}

std::string ReadToEnd(int fd) {
  std::string text;
  char piece[4096];
  while (true) {
    const ssize_t got = read(fd, piece, sizeof(piece));
    if (got <= 0) return text;
    text.append(piece, static_cast<size_t>(got));
  }
}

mode_t TypeOf(const std::string& path) {
  struct stat info = {};
  REQUIRE(lstat(path.c_str(), &info) == 0);
  return info.st_mode & S_IFMT;
}

TEST_CASE("no name, no text") { CHECK(Write("", "text").ok()); }

TEST_CASE("a file is made or replaced, its neighbours stay") {
  const TemporaryDirectory dir;
  WriteAll(dir / "r.json.tmp", "somebody's");
  REQUIRE(Write(dir / "r.json", "first").ok());
  REQUIRE(Write(dir / "r.json", "second").ok());
  CHECK(ReadAll(dir / "r.json") == "second");
  CHECK(ReadAll(dir / "r.json.tmp") == "somebody's");
  CHECK(dir.Names().size() == 2);
}

TEST_CASE("a FIFO in the place of the old temporary file is no obstacle") {
  const TemporaryDirectory dir;
  REQUIRE(mkfifo((dir / "r.json.tmp").c_str(), 0600) == 0);
  REQUIRE(Write(dir / "r.json", "text").ok());
  CHECK(ReadAll(dir / "r.json") == "text");
}

TEST_CASE("two of one name do not share a file") {
  const TemporaryDirectory dir;
  auto first = TextOutput::Open(dir / "r.json", {}, {});
  auto second = TextOutput::Open(dir / "r.json", {}, {});
  REQUIRE((first.ok() && second.ok()));
  absl::Status written;
  std::thread other([&] { written = second->Write(LongText(), nullptr); });
  CHECK(first->Write(LongText(), nullptr).ok());
  other.join();
  CHECK(written.ok());
  CHECK(ReadAll(dir / "r.json") == LongText());
  CHECK(dir.Names().size() == 1);
}

TEST_CASE("what a link names is replaced, the link stays") {
  const TemporaryDirectory dir;
  fs::create_directory(dir / "sub");
  fs::create_symlink("sub/link", dir / "link");
  fs::create_symlink("../file", dir / "sub/link");
  for (const char* text : {"first", "second"}) {
    REQUIRE(Write(dir / "link", text).ok());
    CHECK(TypeOf(dir / "link") == S_IFLNK);
    CHECK(TypeOf(dir / "sub/link") == S_IFLNK);
    CHECK(ReadAll(dir / "file") == text);
  }
}

TEST_CASE("a FIFO is written") {
  const TemporaryDirectory dir;
  const std::string fifo = dir / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  const bool reader_first = GENERATE(false, true);
  UniqueFd reader;
  const auto begin_reading = [&] {
    reader = UniqueFd(open(fifo.c_str(), O_RDONLY | O_NONBLOCK));
    REQUIRE(fcntl(reader.get(), F_SETFL, 0) == 0);
  };
  if (reader_first) begin_reading();
  absl::StatusOr<TextOutput> output = TextOutput::Open(fifo, {}, {});
  REQUIRE(output.ok());
  if (!reader_first) begin_reading();
  absl::Status written;
  std::thread writer([&] { written = output->Write(LongText(), nullptr); });
  while (true) {  // until the writer is there
    char first = 0;
    if (read(reader.get(), &first, 1) == 1) break;
    absl::SleepFor(absl::Milliseconds(5));
  }
  CHECK(ReadToEnd(reader.get()).size() == LongText().size() - 1);
  writer.join();
  CHECK(written.ok());
  CHECK(TypeOf(fifo) == S_IFIFO);
}

TEST_CASE("the wait for a reader ends with the run") {
  const TemporaryDirectory dir;
  const std::string fifo = dir / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  const bool reads = GENERATE(false, true);
  const UniqueFd reader(reads ? open(fifo.c_str(), O_RDONLY | O_NONBLOCK) : -1);
  RunControl control;
  std::thread end([&control] {
    absl::SleepFor(absl::Milliseconds(100));
    control.Fail(WithExitCode(absl::CancelledError("ended by a signal"),
                              ExitCode::kTerminated));
  });
  CHECK(ExitCodeOf(Write(fifo, LongText(), &control)) == ExitCode::kTerminated);
  end.join();
}

TEST_CASE("a file that takes the place of a FIFO stays") {
  const TemporaryDirectory dir;
  const std::string fifo = dir / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  auto output = TextOutput::Open(fifo, {}, {});
  REQUIRE(output.ok());
  const bool is_link = GENERATE(false, true);
  const std::string other = is_link ? dir / "other" : dir / "new";
  WriteAll(other, "somebody's");
  if (is_link) fs::create_symlink("other", dir / "new");
  fs::rename(dir / "new", fifo);
  const absl::Status status = output->Write("text", nullptr);
  CHECK(ExitCodeOf(status) == ExitCode::kOutput);
  CHECK(std::string(status.message()) ==
        "output \"" + fifo +
            "\": got another file in the place of a FIFO or device, allowed: "
            "the one that was there");
  CHECK(ReadAll(fifo) == "somebody's");
}

TEST_CASE("the place is what is written, by whatever name") {
  const TemporaryDirectory dir;
  CHECK(TextOutput::Open("", {}, {})->place().empty());
  fs::create_symlink("file", dir / "link");
  fs::create_symlink("link", dir / "second");
  for (const char* name : {"file", "link", "second"}) {
    const auto output = TextOutput::Open(dir / name, {}, {});
    REQUIRE(output.ok());
    CHECK(output->place() == dir / "file");
    for (const char* other : {"file", "link", "second"}) {
      CHECK(ExitCodeOf(TextOutput::Open(dir / other, {output->place()}, {})
                           .status()) == ExitCode::kOutput);
    }
  }
  REQUIRE(mkfifo((dir / "fifo").c_str(), 0600) == 0);
  const auto output = TextOutput::Open(dir / "fifo", {}, {});
  REQUIRE(output.ok());
  CHECK(output->place() == dir / "fifo");
}

TEST_CASE("a run that has ended writes nothing") {
  const TemporaryDirectory dir;
  RunControl control;
  control.Fail(WithExitCode(absl::CancelledError("ended by a signal"),
                            ExitCode::kTerminated));
  CHECK(Write("", "text", &control).ok());
  CHECK(ExitCodeOf(Write(dir / "r.json", "text", &control)) ==
        ExitCode::kTerminated);
  CHECK(dir.Names().empty());
  int pipe_ends[2];
  REQUIRE(pipe(pipe_ends) == 0);
  const UniqueFd reader(pipe_ends[0]);
  UniqueFd writer(pipe_ends[1]);
  CHECK(ExitCodeOf(Write(absl::StrCat("/dev/fd/", writer.get()), "text",
                         &control)) == ExitCode::kTerminated);
  writer.Close();
  CHECK(ReadToEnd(reader.get()).empty());
}

TEST_CASE("a reader that goes is an error") {
  const TemporaryDirectory dir;
  const std::string fifo = dir / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  const auto handler = signal(SIGPIPE, SIG_IGN);
  UniqueFd reader(open(fifo.c_str(), O_RDONLY | O_NONBLOCK));
  auto output = TextOutput::Open(fifo, {}, {});
  REQUIRE(output.ok());
  reader.Close();
  const absl::Status status = output->Write("text", nullptr);
  signal(SIGPIPE, handler);
  CHECK(ExitCodeOf(status) == ExitCode::kOutput);
  CHECK(std::string(status.message()) == "write \"" + fifo + "\": Broken pipe");
}

TEST_CASE("devices are written and stay") {
  const TemporaryDirectory dir;
  const auto make = [&](const char* name, int minor) {
    return mknod((dir / name).c_str(), S_IFCHR | 0600, makedev(1, minor)) == 0;
  };
  if (!make("null", 3) || !make("full", 7)) {
    WARN("making devices is not allowed here");
    return;
  }
  fs::create_symlink("full", dir / "link");
  const absl::Status nowhere = Write(dir / "null", "text");
  if (absl::IsPermissionDenied(nowhere)) {
    WARN("devices cannot be opened here");
    return;
  }
  CHECK(nowhere.ok());
  for (const char* name : {"full", "link"}) {
    const absl::Status status = Write(dir / name, "text");
    CHECK(ExitCodeOf(status) == ExitCode::kOutput);
    CHECK(std::string(status.message()) ==
          "write \"" + (dir / name) + "\": No space left on device");
  }
  CHECK(TypeOf(dir / "null") == S_IFCHR);
  CHECK(TypeOf(dir / "full") == S_IFCHR);
  CHECK(TypeOf(dir / "link") == S_IFLNK);
}

TEST_CASE("a descriptor is written where it stands") {
  const TemporaryDirectory dir;
  const std::string path = dir / "out";
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT, 0600));
  REQUIRE(write(file.get(), "table\n", 6) == 6);
  for (const char* folder : {"/dev/fd/", "/proc/self/fd/"}) {
    REQUIRE(Write(absl::StrCat(folder, file.get()), "json\n").ok());
  }
  CHECK(ReadAll(path) == "table\njson\njson\n");
  int pair[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  UniqueFd here(pair[0]);
  const UniqueFd there(pair[1]);
  REQUIRE(Write(absl::StrCat("/dev/fd/", here.get()), "json").ok());
  here.Close();
  CHECK(ReadToEnd(there.get()) == "json");
  const UniqueFd read_only(open(path.c_str(), O_RDONLY));
  const UniqueFd ours(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  for (const int fd : {read_only.get(), ours.get(), 999999}) {
    CHECK(ExitCodeOf(Write(absl::StrCat("/dev/fd/", fd), "x")) ==
          ExitCode::kOutput);
  }
  CHECK(ReadAll(path) == "table\njson\njson\n");
}

TEST_CASE("what is refused before the work") {
  const TemporaryDirectory dir;
  fs::create_directory(dir / "folder");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  (dir / "socket").copy(address.sun_path, sizeof(address.sun_path) - 1);
  const UniqueFd bound(socket(AF_UNIX, SOCK_STREAM, 0));
  REQUIRE(bind(bound.get(), reinterpret_cast<sockaddr*>(&address),
               sizeof(address)) == 0);
  const auto says = [&](const std::string& name) {
    const auto output = TextOutput::Open(dir / name, {dir / "in"}, {});
    CHECK(ExitCodeOf(output.status()) == ExitCode::kOutput);
    return std::string(output.status().message());
  };
  const std::string allowed =
      ", allowed: a regular file, a FIFO or a character device";
  CHECK(says("folder") == absl::StrCat("output \"", dir / "folder",
                                       "\": got a directory", allowed));
  CHECK(says("socket") ==
        absl::StrCat("output \"", dir / "socket", "\": got a socket", allowed));
  // No such device: it is never opened.
  if (mknod((dir / "block").c_str(), S_IFBLK | 0600, makedev(240, 255)) == 0) {
    CHECK(says("block") == absl::StrCat("output \"", dir / "block",
                                        "\": got a block device", allowed));
  }
  CHECK_FALSE(says("none/r.json").empty());
  // A temporary name of such a one would not fit.
  CHECK(absl::EndsWith(says(std::string(234, 'x')),
                       ": got a name of 234 bytes, allowed: at most 233"));
  CHECK(Write(dir / std::string(233, 'x'), "text").ok());
  fs::create_symlink("new/", dir / "to_folder");
  for (const char* name : {"new/", "to_folder"}) {
    CHECK(says(name) ==
          absl::StrCat("output \"", dir / "new/",
                       "\": got the name of a folder, allowed: one without / "
                       "at its end"));
  }
  WriteAll(dir / "in", "input");
  fs::create_symlink("in", dir / "link");
  CHECK_FALSE(says("link").empty());
  CHECK(ReadAll(dir / "in") == "input");
}

}  // namespace
}  // namespace qs::cli
