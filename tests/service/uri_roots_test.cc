// UriRoots: what URIs may name, and every trick to name something else.
#include "service/access/uri_roots.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "quant/formats/checkpoint.h"
#include "quant/formats/file_opener.h"
#include "service/access/file_uri.h"
#include "service/server/error.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;

void WriteFile(const std::string& path) { std::ofstream(path) << "x"; }

// DIR/in and DIR/out are roots; DIR/secret is not.
struct Tree {
  TemporaryFolder folder;
  const std::string in = folder / "in";
  const std::string out = folder / "out";
  const std::string secret = folder / "secret";
  UriRoots roots;

  explicit Tree(Links links = Links::kRefused) {
    fs::create_directories(in + "/model/sub");
    fs::create_directories(out + "/made");
    fs::create_directories(secret);
    WriteFile(in + "/model/a.safetensors");
    WriteFile(in + "/model/sub/b.txt");
    WriteFile(secret + "/key");
    absl::StatusOr<UriRoots> opened = UriRoots::Open({in}, {out}, links);
    INFO(opened.status().ToString());
    REQUIRE(opened.ok());
    roots = *std::move(opened);
  }

  absl::StatusOr<InputPath> Input(const std::string& path) const {
    return roots.ResolveExisting("p", "file://" + path);
  }
  absl::StatusOr<std::string> Existing(const std::string& path) const {
    const auto input = Input(path);
    if (!input.ok()) return input.status();
    return input->path;
  }
  absl::Status CheckTree(const std::string& path) const {
    const auto input = Input(path);
    return input.ok() ? CheckCheckpointTree(*input) : input.status();
  }
  absl::StatusOr<std::string> New(const std::string& path) const {
    return roots.ResolveNew("p", "file://" + path);
  }
  std::string Real(const std::string& path) const {
    return fs::canonical(path).string();
  }
};

void RequireRefused(const absl::Status& status, absl::StatusCode code,
                    const std::string& reason) {
  INFO(status.ToString());
  REQUIRE(status.code() == code);
  REQUIRE(ErrorReason(status) == reason);
}

void RequireNotAllowed(const absl::Status& status) {
  RequireRefused(status, absl::StatusCode::kPermissionDenied,
                 "URI_NOT_ALLOWED");
}

TEST_CASE("files and directories below a read root", "[uri_roots]") {
  const Tree tree;
  for (const char* below : {"", "/model", "/model/a.safetensors", "/model/sub",
                            "/model/sub/b.txt"}) {
    INFO(below);
    const auto path = tree.Existing(tree.in + below);
    INFO(path.status().ToString());
    REQUIRE(path.ok());
    REQUIRE(*path == tree.Real(tree.in + below));
  }
  REQUIRE(*tree.Existing(tree.in + "/model/") == tree.Real(tree.in + "/model"));
  REQUIRE(*tree.Existing(tree.in + "/%6Dodel") ==
          tree.Real(tree.in + "/model"));
  RequireRefused(tree.Existing(tree.in + "/none").status(),
                 absl::StatusCode::kNotFound, "SOURCE_NOT_FOUND");
  RequireRefused(tree.Existing(tree.in + "/model/a.safetensors/x").status(),
                 absl::StatusCode::kNotFound, "SOURCE_NOT_FOUND");
}

TEST_CASE("what lies outside is refused, there or not, unnamed",
          "[uri_roots]") {
  const Tree tree;
  for (const std::string& path :
       {tree.secret + "/key", tree.secret + "/none", tree.in + "side",
        tree.out + "/made", std::string("/etc/passwd"), std::string("/"),
        std::string("/proc/self/root/etc/passwd"), tree.in + "/../secret/key",
        tree.in + "/model/../../secret/key", tree.in + "/%2e%2e/secret/key",
        tree.in + "/.%2E/secret/key"}) {
    INFO(path);
    const absl::Status status = tree.Existing(path).status();
    RequireNotAllowed(status);
    REQUIRE(status.ToString().find("secret") == std::string::npos);
    REQUIRE(status.ToString().find("passwd") == std::string::npos);
  }
}

TEST_CASE("links are not followed, wherever they are", "[uri_roots]") {
  const Tree tree;
  fs::create_symlink(tree.secret + "/key", tree.in + "/file_link");
  fs::create_directory_symlink(tree.secret, tree.in + "/folder_link");
  fs::create_symlink("model/a.safetensors", tree.in + "/inner_link");
  fs::create_symlink("nothing", tree.in + "/dangling");
  fs::create_directory_symlink("/proc/self/root", tree.in + "/magic");
  for (const char* below :
       {"/file_link", "/folder_link", "/folder_link/key", "/inner_link",
        "/dangling", "/magic", "/magic/etc/passwd"}) {
    INFO(below);
    RequireNotAllowed(tree.Existing(tree.in + below).status());
  }
}

TEST_CASE("links that leave their root are never followed", "[uri_roots]") {
  const Tree tree(Links::kBeneath);
  fs::create_symlink(tree.secret + "/key", tree.in + "/file_link");
  fs::create_symlink("../secret/key", tree.in + "/dots");
  // There and back again.
  fs::create_symlink("../in/model/a.safetensors", tree.in + "/detour");
  fs::create_directory_symlink(tree.secret, tree.in + "/folder_link");
  fs::create_symlink("folder_link/key", tree.in + "/by_folder");
  fs::create_directory_symlink("../..", tree.in + "/model/up");
  fs::create_symlink("up/secret/key", tree.in + "/model/by_up");
  fs::create_symlink("dots", tree.in + "/chain");
  // Absolute, though it stays below.
  fs::create_symlink(tree.in + "/model/a.safetensors", tree.in + "/absolute");
  fs::create_directory_symlink("/proc/self/root", tree.in + "/magic");
  fs::create_symlink("/proc/self/fd/0", tree.in + "/magic_file");
  for (const char* below :
       {"/file_link", "/dots", "/detour", "/folder_link", "/folder_link/key",
        "/by_folder", "/model/up", "/model/by_up", "/model/up/secret/key",
        "/chain", "/absolute", "/magic", "/magic/etc/passwd", "/magic_file"}) {
    INFO(below);
    const absl::Status status = tree.Existing(tree.in + below).status();
    RequireNotAllowed(status);
    REQUIRE(std::string(status.message()).find("out of its read root") !=
            std::string::npos);
    REQUIRE(status.ToString().find("secret") == std::string::npos);
  }
}

TEST_CASE("links that stay below their root are followed if that is wished",
          "[uri_roots]") {
  const Tree tree(Links::kBeneath);
  fs::create_directory_symlink("model", tree.in + "/folder_link");
  fs::create_symlink("../model/a.safetensors", tree.in + "/model/around");
  fs::create_symlink("folder_link/sub/b.txt", tree.in + "/by_folder");
  fs::create_symlink("by_folder", tree.in + "/chain");
  for (const char* below :
       {"/folder_link", "/folder_link/sub/b.txt", "/model/around", "/by_folder",
        "/chain", "/folder_link/around"}) {
    INFO(below);
    const auto input = tree.Input(tree.in + below);
    INFO(input.status().ToString());
    REQUIRE(input.ok());
    REQUIRE(input->path == tree.Real(tree.in) + below);
    const auto info = StatFile(input->path, input->opener.get());
    struct stat expected;
    REQUIRE(stat((tree.in + below).c_str(), &expected) == 0);
    REQUIRE(info.ok());
    REQUIRE(info->st_ino == expected.st_ino);
  }
  REQUIRE(tree.CheckTree(tree.in + "/folder_link").ok());
}

TEST_CASE("links to nothing and in a circle say so", "[uri_roots]") {
  const Tree tree(Links::kBeneath);
  fs::create_symlink("nothing", tree.in + "/dangling");
  fs::create_symlink("circle", tree.in + "/circle");
  fs::create_symlink("right", tree.in + "/left");
  fs::create_symlink("left", tree.in + "/right");
  const absl::Status dangling = tree.Existing(tree.in + "/dangling").status();
  RequireRefused(dangling, absl::StatusCode::kNotFound, "SOURCE_NOT_FOUND");
  REQUIRE(std::string(dangling.message()).find("a link to nothing") !=
          std::string::npos);
  for (const char* below : {"/circle", "/left", "/right/x"}) {
    const absl::Status status = tree.Existing(tree.in + below).status();
    RequireNotAllowed(status);
    REQUIRE(std::string(status.message()).find("in a circle") !=
            std::string::npos);
  }
}

// What is opened is resolved at that moment, not when it was checked.
TEST_CASE("a link that is put there after the check", "[uri_roots]") {
  const Tree tree(GENERATE(Links::kRefused, Links::kBeneath));
  const auto input = tree.Input(tree.in + "/model");
  REQUIRE(input.ok());
  REQUIRE(CheckCheckpointTree(*input).ok());
  const std::string file = input->path + "/a.safetensors";
  REQUIRE(OpenRegularFile(file, input->opener.get()).ok());
  SECTION("in place of a file") {
    fs::remove(file);
    fs::create_symlink(tree.secret + "/key", file);
    RequireNotAllowed(OpenRegularFile(file, input->opener.get()).status());
    RequireNotAllowed(StatFile(file, input->opener.get()).status());
    RequireNotAllowed(Checkpoint::Open(input->path, input->opener).status());
  }
  SECTION("in place of the directory") {
    fs::rename(tree.in + "/model", tree.in + "/aside");
    fs::create_directory_symlink(tree.secret, tree.in + "/model");
    RequireNotAllowed(
        OpenRegularFile(input->path + "/key", input->opener.get()).status());
    RequireNotAllowed(Checkpoint::Open(input->path, input->opener).status());
    RequireNotAllowed(VisitFolder(input->path, input->opener.get(),
                                  [](const FolderEntry&) -> absl::Status {
                                    FAIL("it was listed");
                                    return absl::OkStatus();
                                  }));
  }
  SECTION("a path that is none of it") {
    RequireNotAllowed(
        OpenRegularFile(tree.secret + "/key", input->opener.get()).status());
    RequireNotAllowed(
        OpenRegularFile(input->path + "/../../secret/key", input->opener.get())
            .status());
  }
}

TEST_CASE("devices, pipes and sockets are refused without waiting",
          "[uri_roots]") {
  const Tree tree;
  REQUIRE(mkfifo((tree.in + "/pipe").c_str(), 0600) == 0);
  RequireNotAllowed(tree.Existing(tree.in + "/pipe").status());
  const auto devices = UriRoots::Open({"/dev"}, {});
  REQUIRE(devices.ok());
  for (const char* name : {"/dev/null", "/dev/zero", "/dev/fd/0"}) {
    INFO(name);
    RequireNotAllowed(
        devices->ResolveExisting("p", std::string("file://") + name).status());
  }
  const auto proc = UriRoots::Open({"/proc"}, {});
  REQUIRE(proc.ok());
  for (const char* name :
       {"/proc/self/root", "/proc/self/exe", "/proc/self/fd/0",
        "/proc/self/cwd", "/proc/self/root/etc/passwd"}) {
    INFO(name);
    RequireNotAllowed(
        proc->ResolveExisting("p", std::string("file://") + name).status());
  }
}

TEST_CASE("URIs that are none", "[uri_roots]") {
  const Tree tree;
  for (const std::string& uri :
       {std::string(""),
        std::string("file:"),
        std::string("file://"),
        std::string("file:/a"),
        std::string("file://host/a"),
        std::string("s3://bucket/key"),
        std::string("FILE:///a"),
        tree.in,
        "file://" + tree.in + "/a b",
        "file://" + tree.in + "/a%",
        "file://" + tree.in + "/a%2",
        "file://" + tree.in + "/a%zz",
        "file://" + tree.in + "/a%00b",
        "file://" + tree.in + "/model%2fsub",
        "file://" + tree.in + "/a?b",
        "file://" + tree.in + "/a#b",
        "file://" + tree.in + "//model",
        "file://" + tree.in + "/./model",
        "file://" + tree.in + "/model//",
        "file://" + tree.in + "/\xc3\xa4",
        "file://" + tree.in + std::string("/a\0b", 4),
        "file://" + tree.in + "/" + std::string(5000, 'a')}) {
    INFO(uri);
    RequireRefused(tree.roots.ResolveExisting("p", uri, "source.uri").status(),
                   absl::StatusCode::kInvalidArgument, "BAD_FIELD");
    RequireRefused(tree.roots.ResolveNew("p", uri).status(),
                   absl::StatusCode::kInvalidArgument, "BAD_FIELD");
  }
  const absl::Status status =
      tree.roots.ResolveExisting("p", "s3://b/k", "source.uri").status();
  REQUIRE(std::string(status.message()).find("source.uri: got") == 0);
  WriteFile(tree.in + "/\xc3\xa4 b%");
  REQUIRE(tree.Existing(tree.in + "/%C3%a4%20b%25").ok());
}

TEST_CASE("the URI of a path names that path", "[uri_roots]") {
  REQUIRE(FileUriOf("/a b/\xc3\xa4%") == "file:///a%20b/%C3%A4%25");
  for (int byte = 1; byte < 256; ++byte) {
    // One letter before it, as "." alone is no name.
    const std::string path = std::string("/a") + static_cast<char>(byte) + "b";
    INFO(byte);
    REQUIRE(PathOfFileUri("uri", FileUriOf(path)).value() == path);
  }
}

TEST_CASE("new paths below a write root", "[uri_roots]") {
  const Tree tree;
  REQUIRE(*tree.New(tree.out + "/x") == tree.Real(tree.out) + "/x");
  REQUIRE(*tree.New(tree.out + "/x/") == tree.Real(tree.out) + "/x");
  REQUIRE(*tree.New(tree.out + "/made/x") == tree.Real(tree.out) + "/made/x");
  REQUIRE(*tree.New(tree.out + "/made") == tree.Real(tree.out) + "/made");
  RequireRefused(tree.New(tree.out + "/none/x").status(),
                 absl::StatusCode::kNotFound, "DESTINATION_NOT_FOUND");
  fs::create_directory_symlink(tree.secret, tree.out + "/link");
  REQUIRE(mkfifo((tree.out + "/pipe").c_str(), 0600) == 0);
  for (const std::string& path :
       {tree.out, tree.out + "/link", tree.out + "/link/x", tree.out + "/pipe",
        tree.out + "/../secret/x", tree.in + "/x", tree.secret + "/x",
        tree.out + "x"}) {
    INFO(path);
    RequireNotAllowed(tree.New(path).status());
  }
}

TEST_CASE("a parent that may not be written to", "[uri_roots]") {
  const Tree tree;
  fs::create_directory(tree.out + "/locked");
  fs::permissions(tree.out + "/locked", fs::perms(0555));
  fs::permissions(fs::path(tree.out).parent_path(), fs::perms(0755));
  // The superuser may write everywhere.
  const bool super = geteuid() == 0;
  if (super) REQUIRE(seteuid(65534) == 0);
  const absl::Status status = tree.New(tree.out + "/locked/x").status();
  if (super) REQUIRE(seteuid(0) == 0);
  RequireRefused(status, absl::StatusCode::kPermissionDenied,
                 "DESTINATION_NOT_WRITABLE");
}

TEST_CASE("a root of one project is not another's", "[uri_roots]") {
  const TemporaryFolder folder;
  for (const char* name : {"all", "a", "b"}) {
    fs::create_directory(folder / name);
    WriteFile(folder / (std::string(name) + "/f"));
  }
  const auto roots = UriRoots::Open(
      {folder / "all", "team-a=" + (folder / "a"), "b=" + (folder / "b")}, {});
  REQUIRE(roots.ok());
  const auto resolve = [&](const char* project, const std::string& name) {
    return roots->ResolveExisting(project, "file://" + (folder / name));
  };
  REQUIRE(resolve("team-a", "a/f").ok());
  REQUIRE(resolve("b", "b/f").ok());
  REQUIRE(resolve("b", "all/f").ok());
  RequireNotAllowed(resolve("b", "a/f").status());
  RequireNotAllowed(resolve("team-a", "b/f").status());
  RequireNotAllowed(resolve("other", "a/f").status());
  RequireNotAllowed(UriRoots().ResolveExisting("p", "file:///a").status());
  RequireNotAllowed(UriRoots().ResolveNew("p", "file:///a").status());
}

TEST_CASE("the operator's own links are followed once", "[uri_roots]") {
  const Tree tree;
  fs::create_directory_symlink(tree.in, tree.folder / "alias");
  const auto roots = UriRoots::Open({tree.folder / "alias"}, {tree.out});
  REQUIRE(roots.ok());
  const auto path = roots->ResolveExisting(
      "p", "file://" + (tree.folder / "alias") + "/model");
  REQUIRE(path.ok());
  REQUIRE(path->path == tree.Real(tree.in + "/model"));
  REQUIRE(CheckCheckpointTree(*path).ok());
  // It may not hide that one root lies in the other.
  fs::create_directory_symlink(tree.in + "/model", tree.folder / "hidden");
  const absl::Status hidden =
      UriRoots::Open({tree.in}, {tree.folder / "hidden"}).status();
  REQUIRE(hidden.code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("roots are plain absolute paths, apart or the same", "[uri_roots]") {
  const auto check = [](std::vector<std::string> read,
                        std::vector<std::string> write) {
    return CheckUriRoots(read, write);
  };
  REQUIRE(check({}, {}).ok());
  REQUIRE(check({"/a", "p=/a/b"}, {"/c", "p-2=/c/d"}).ok());
  REQUIRE(check({"/a"}, {"/a"}).ok());
  REQUIRE(check({"/a"}, {"/ab"}).ok());
  REQUIRE(check({"/a=b"}, {}).ok());
  for (const char* text :
       {"", "a", "/", "/a/", "//a", "/a//b", "/a/./b", "/a/..", "p=", "p=a",
        "=/a", "P=/a", "p q=/a", "./a", "p=/"}) {
    INFO(text);
    const absl::Status read = check({text}, {});
    REQUIRE(read.code() == absl::StatusCode::kInvalidArgument);
    REQUIRE(std::string(read.message()).find("read-root: got") == 0);
    const absl::Status write = check({}, {text});
    REQUIRE(std::string(write.message()).find("write-root: got") == 0);
  }
  for (const auto& [read, write] :
       std::vector<std::pair<std::string, std::string>>{
           {"/a", "/a/b"}, {"/a/b", "/a"}, {"p=/a", "q=/a/b"}}) {
    const absl::Status status = check({read}, {write});
    INFO(status.ToString());
    REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
  }
  REQUIRE(UriRoots::Open({"/nonexistent/a"}, {}).status().code() ==
          absl::StatusCode::kNotFound);
  const TemporaryFolder folder;
  WriteFile(folder / "f");
  REQUIRE_FALSE(UriRoots::Open({folder / "f"}, {}).ok());
}

TEST_CASE("a checkpoint's tree holds files and directories only",
          "[uri_roots]") {
  const bool follows = GENERATE(false, true);
  const Tree tree(follows ? Links::kBeneath : Links::kRefused);
  const std::string model = tree.in + "/model";
  REQUIRE(tree.CheckTree(model).ok());
  REQUIRE(tree.CheckTree(model + "/a.safetensors").ok());
  RequireRefused(tree.CheckTree(model + "/none"), absl::StatusCode::kNotFound,
                 "SOURCE_NOT_FOUND");
  SECTION("a link to a file") {
    fs::create_symlink(tree.secret + "/key", model + "/config.json");
    const absl::Status status = tree.CheckTree(model);
    RequireNotAllowed(status);
    REQUIRE(status.ToString().find("config.json") != std::string::npos);
    REQUIRE(status.ToString().find("secret") == std::string::npos);
    RequireNotAllowed(tree.CheckTree(model + "/config.json"));
  }
  SECTION("a link deep in it") {
    fs::create_directory_symlink(tree.secret, model + "/sub/link");
    RequireNotAllowed(tree.CheckTree(model));
  }
  SECTION("links as in a download cache") {
    fs::create_directories(tree.in + "/blobs");
    WriteFile(tree.in + "/blobs/1");
    fs::create_symlink("../blobs/1", model + "/config.json");
    fs::create_directory_symlink("../../blobs", model + "/sub/blobs");
    fs::create_directory_symlink("..", model + "/sub/up");
    const absl::Status status = tree.CheckTree(model);
    if (!follows) return RequireNotAllowed(status);
    REQUIRE(status.ok());
  }
  SECTION("a link to nothing") {
    fs::create_symlink("nothing", model + "/sub/dangling");
    const absl::Status status = tree.CheckTree(model);
    if (!follows) return RequireNotAllowed(status);
    RequireRefused(status, absl::StatusCode::kNotFound, "SOURCE_NOT_FOUND");
    REQUIRE(std::string(status.message()) ==
            "uri: got \"sub/dangling\", which is a link to nothing");
  }
  SECTION("a link to itself") {
    fs::create_symlink("circle", model + "/circle");
    const absl::Status status = tree.CheckTree(model);
    RequireNotAllowed(status);
    REQUIRE(std::string(status.message()).find("\"circle\"") !=
            std::string::npos);
  }
  SECTION("a link to a pipe") {
    REQUIRE(mkfifo((tree.in + "/pipe").c_str(), 0600) == 0);
    fs::create_symlink("../pipe", model + "/config.json");
    RequireNotAllowed(tree.CheckTree(model));
  }
  SECTION("a pipe, which nobody waits for") {
    REQUIRE(mkfifo((model + "/sub/pipe").c_str(), 0600) == 0);
    RequireNotAllowed(tree.CheckTree(model));
    RequireNotAllowed(tree.CheckTree(model + "/sub/pipe"));
  }
  SECTION("a socket") {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    (model + "/s").copy(address.sun_path, sizeof(address.sun_path) - 1);
    REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) ==
            0);
    close(fd);
    RequireNotAllowed(tree.CheckTree(model));
  }
  SECTION("below what a checkpoint looks at anything may be") {
    fs::create_directories(model + "/1/2/3/4/5");
    fs::create_symlink("x", model + "/1/2/3/4/5/link");
    REQUIRE(tree.CheckTree(model).ok());
    fs::create_symlink("x", model + "/1/2/3/4/link");
    const absl::Status status = tree.CheckTree(model);
    if (!follows) return RequireNotAllowed(status);
    RequireRefused(status, absl::StatusCode::kNotFound, "SOURCE_NOT_FOUND");
  }
}

// Somebody swaps a directory for a link and back while it is read: what is
// opened is a file of the directory, "not there" or "not allowed", never what
// the link leads to.
TEST_CASE("a directory that is swapped for a link", "[uri_roots]") {
  const Tree tree;
  const std::string place = tree.in + "/swap";
  fs::create_directory(place);
  const auto input = tree.Input(place);
  REQUIRE(input.ok());
  std::atomic<bool> stop = false;
  std::jthread swapper([&] {
    while (!stop) {
      fs::rename(place, tree.in + "/aside");
      fs::create_directory_symlink("../secret", place);
      fs::remove(place);
      fs::rename(tree.in + "/aside", place);
    }
  });
  // Only the directory behind the link has a "key".
  bool followed = false;
  for (int i = 0; i < 2000 && !followed; ++i) {
    followed = tree.Existing(place + "/key").ok() ||
               OpenRegularFile(input->path + "/key", input->opener.get()).ok();
  }
  stop = true;
  REQUIRE_FALSE(followed);
}

}  // namespace
}  // namespace qs
