// Options: every flag, the config file, what is refused; addresses and the
// machine's limits.
#include "service/server/options.h"

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "service/server/listen_address.h"
#include "service/server/machine.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs {
namespace {

using Args = std::vector<std::string>;
using testing::TemporaryFolder;

ServerOptions Parsed(const Args& args) {
  const CommandLine command = ParseCommandLine(args);
  INFO(command.error);
  REQUIRE(command.serve);
  REQUIRE(command.exit_code == 0);
  return command.options;
}

std::string Refused(const Args& args) {
  const CommandLine command = ParseCommandLine(args);
  REQUIRE_FALSE(command.serve);
  REQUIRE(command.exit_code == 2);
  REQUIRE(command.out.empty());
  return command.error;
}

// What --check-config has to say; empty: nothing.
std::string Checked(Args args) {
  args.emplace_back("--check-config");
  const CommandLine command = ParseCommandLine(args);
  INFO(command.error);
  CHECK_FALSE(command.serve);
  CHECK(command.exit_code == (command.error.empty() ? 0 : 2));
  return command.error;
}

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A file that is there as long as the object.
class TextFile {
 public:
  explicit TextFile(const std::string& text) {
    char name[] = "/tmp/options_test.XXXXXX";
    close(mkstemp(name));
    path_ = name;
    std::ofstream(path_) << text;
  }
  ~TextFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST_CASE("without flags the defaults of this machine", "[options]") {
  const ServerOptions options = Parsed({});
  REQUIRE(options.listen == "127.0.0.1:50051");
  REQUIRE(options.workers == WorkerLayout{UsableCpus(), 1});
  REQUIRE(options.memory_budget <= int64_t{4} << 30);
  REQUIRE(options.memory_budget <= UsableMemoryBytes() / 2);
  REQUIRE(options.stream_idle_timeout == 60);
  REQUIRE_FALSE(options.tls());
}

// What a flag, the first of `args`, sets.
struct FlagCase {
  Args args;
  bool (*is_set)(const ServerOptions&);
};

const std::vector<FlagCase>& FlagCases() {
  static const auto* const cases = new std::vector<FlagCase>{
      {{"--listen", "[::1]:7"},
       [](const ServerOptions& o) { return o.listen == "[::1]:7"; }},
      {{"--port-file", "p"},
       [](const ServerOptions& o) { return o.port_file == "p"; }},
      {{"--tls-cert", "c", "--tls-key", "k"},
       [](const ServerOptions& o) { return o.tls_cert == "c"; }},
      {{"--tls-key", "k", "--tls-cert", "c"},
       [](const ServerOptions& o) { return o.tls_key == "k"; }},
      {{"--tls-client-ca", "a", "--tls-cert", "c", "--tls-key", "k"},
       [](const ServerOptions& o) { return o.tls_client_ca == "a"; }},
      {{"--insecure"}, [](const ServerOptions& o) { return o.insecure; }},
      {{"--access-file", "a"},
       [](const ServerOptions& o) { return o.access_file == "a"; }},
      {{"--max-connections", "11"},
       [](const ServerOptions& o) { return o.max_connections == 11; }},
      {{"--max-connection-age", "12.5"},
       [](const ServerOptions& o) { return o.max_connection_age == 12.5; }},
      {{"--max-connection-idle", "13"},
       [](const ServerOptions& o) { return o.max_connection_idle == 13; }},
      {{"--handshake-timeout", "2.5"},
       [](const ServerOptions& o) { return o.handshake_timeout == 2.5; }},
      {{"--connection-memory", "65MiB"},
       [](const ServerOptions& o) { return o.connection_memory == 65 << 20; }},
      {{"--bdp-probe"}, [](const ServerOptions& o) { return o.bdp_probe; }},
      {{"--tcp-read-chunks"},
       [](const ServerOptions& o) { return o.tcp_read_chunks; }},
      {{"--workers", "3x2"},
       [](const ServerOptions& o) {
         return o.workers == WorkerLayout{3, 2};
       }},
      {{"--gpu-lanes", "4"},
       [](const ServerOptions& o) { return o.gpu_lanes == 4; }},
      {{"--exit-when-lost"},
       [](const ServerOptions& o) { return o.exit_when_lost; }},
      {{"--memory-budget", "64MiB"},
       [](const ServerOptions& o) {
         return o.memory_budget == int64_t{64} << 20;
       }},
      {{"--max-tensor-bytes", "2GiB"},
       [](const ServerOptions& o) {
         return o.max_tensor_bytes == int64_t{2} << 30;
       }},
      {{"--max-streams", "5"},
       [](const ServerOptions& o) { return o.max_streams == 5; }},
      {{"--max-open-tensors", "6"},
       [](const ServerOptions& o) { return o.max_open_tensors == 6; }},
      {{"--max-plans", "7"},
       [](const ServerOptions& o) { return o.max_plans == 7; }},
      {{"--max-plan-tensors", "8"},
       [](const ServerOptions& o) { return o.max_plan_tensors == 8; }},
      {{"--max-plan-bytes", "9KiB"},
       [](const ServerOptions& o) { return o.max_plan_bytes == 9 << 10; }},
      {{"--data-dir", "d"},
       [](const ServerOptions& o) { return o.data_dir == "d"; }},
      {{"--max-store-bytes", "3GiB"},
       [](const ServerOptions& o) {
         return o.max_store_bytes == int64_t{3} << 30;
       }},
      {{"--max-project-bytes", "5MiB"},
       [](const ServerOptions& o) { return o.max_project_bytes == 5 << 20; }},
      {{"--upload-expiry", "60.5"},
       [](const ServerOptions& o) { return o.upload_expiry == 60.5; }},
      {{"--max-tensor-streams", "9"},
       [](const ServerOptions& o) { return o.max_tensor_streams == 9; }},
      {{"--io-threads", "10"},
       [](const ServerOptions& o) { return o.io_threads == 10; }},
      {{"--read-root", "/models", "--read-root", "team-a=/data/a"},
       [](const ServerOptions& o) {
         return o.read_roots == Args{"/models", "team-a=/data/a"};
       }},
      {{"--write-root", "/out"},
       [](const ServerOptions& o) { return o.write_roots == Args{"/out"}; }},
      {{"--follow-links"},
       [](const ServerOptions& o) { return o.follow_links; }},
      {{"--max-running-jobs", "14"},
       [](const ServerOptions& o) { return o.max_running_jobs == 14; }},
      {{"--max-running-jobs-per-project", "15"},
       [](const ServerOptions& o) {
         return o.max_running_jobs_per_project == 15;
       }},
      {{"--max-waiting-jobs-per-project", "16"},
       [](const ServerOptions& o) {
         return o.max_waiting_jobs_per_project == 16;
       }},
      {{"--max-queued-jobs", "17"},
       [](const ServerOptions& o) { return o.max_queued_jobs == 17; }},
      {{"--job-history", "18"},
       [](const ServerOptions& o) { return o.job_history == 18; }},
      {{"--stream-idle-timeout", "1.5"},
       [](const ServerOptions& o) { return o.stream_idle_timeout == 1.5; }},
      {{"--drain-delay", "4.5"},
       [](const ServerOptions& o) { return o.drain_delay == 4.5; }},
      {{"--drain-timeout", "0.25"},
       [](const ServerOptions& o) { return o.drain_timeout == 0.25; }},
      {{"--metrics-listen", "[::]:9"},
       [](const ServerOptions& o) { return o.metrics_listen == "[::]:9"; }},
      {{"--log-level", "debug"},
       [](const ServerOptions& o) { return o.log_level == "debug"; }}};
  return *cases;
}

// Every flag in --help, in its order, with what stands behind it: " N=64".
std::vector<std::pair<std::string, std::string>> FlagsInHelp() {
  std::vector<std::pair<std::string, std::string>> flags;
  std::istringstream help(ParseCommandLine({"--help"}).out);
  for (std::string line; std::getline(help, line);) {
    const size_t name = line.find("--");
    // What explains a flag stands further in.
    if (name == std::string::npos || line.find_first_not_of(' ') != 2) continue;
    const size_t end = std::min(line.find(' ', name), line.size());
    const size_t type_end = std::min(line.find(' ', end + 1), line.size());
    flags.emplace_back(line.substr(name, end - name),
                       line.substr(end, type_end - end));
  }
  return flags;
}

TEST_CASE("every flag sets its option", "[options]") {
  for (const FlagCase& c : FlagCases()) {
    INFO(c.args.front());
    CHECK_FALSE(c.is_set(Parsed({})));
    CHECK(c.is_set(Parsed(c.args)));
  }
}

TEST_CASE("no flag is without a test, --help has each of them", "[options]") {
  std::multiset<std::string> tested = {"--help", "--version", "--config",
                                       "--check-config"};
  for (const FlagCase& c : FlagCases()) tested.insert(c.args.front());
  std::multiset<std::string> known;
  for (const auto& [flag, unused] : FlagsInHelp()) known.insert(flag);
  CHECK(known == tested);
}

TEST_CASE("wrong values are refused by name", "[options]") {
  const std::vector<std::pair<Args, std::string>> cases = {
      {{"--max-streams", "0"},
       "--max-streams: got \"0\", allowed 1 to 100000 ("},
      {{"--max-streams", "1.5"}, "--max-streams"},
      {{"--handshake-timeout", "0"}, "got \"0\", allowed 0.1 to 1000000 ("},
      {{"--max-streams", "x"}, "--max-streams"},
      {{"--max-connections", "-1"}, "--max-connections"},
      {{"--memory-budget", "12 parsecs"}, "--memory-budget"},
      {{"--memory-budget", "1"}, "--memory-budget"},
      {{"--max-project-bytes", "-1"}, "--max-project-bytes"},
      {{"--stream-idle-timeout", "0"}, "--stream-idle-timeout"},
      {{"--drain-delay", "-1"}, "--drain-delay"},
      {{"--drain-timeout", "-1"}, "--drain-timeout"},
      {{"--log-level", "loud"}, "--log-level"},
      {{"--workers", "0"}, "workers: got \"0\""},
      {{"--workers", "2x"}, "workers: got \"2x\""},
      {{"--workers", "gpu:1,gpu:1"},
       "workers: got \"gpu:1,gpu:1\", which names gpu:1 twice"},
      {{"--listen", "nowhere"}, "listen: got \"nowhere\""},
      {{"--read-root", "models"}, "read-root: got \"models\""},
      {{"--read-root", "/a", "--write-root", "/a/b"},
       "write-root: got \"/a/b\""},
      {{"--no-such-flag"}, "--no-such-flag"},
      {{"surplus"}, "surplus"},
  };
  for (const auto& [args, text] : cases) {
    const std::string error = Refused(args);
    INFO(error);
    REQUIRE(error.find(text) != std::string::npos);
    REQUIRE(error.find("quantd: ") == 0);
  }
}

TEST_CASE("plaintext stays on loopback", "[options]") {
  for (const char* address :
       {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "128.0.0.1:1"}) {
    INFO(address);
    const std::string error = Refused({"--listen", address});
    REQUIRE(error.find("not loopback") != std::string::npos);
    REQUIRE(error.find(address) != std::string::npos);
    Parsed({"--listen", address, "--insecure"});
    Parsed({"--listen", address, "--tls-cert", "c", "--tls-key", "k"});
  }
  for (const char* address :
       {"127.0.0.1:1", "127.9.8.7:1", "[::1]:1", "localhost:1"}) {
    Parsed({"--listen", address});
  }
}

TEST_CASE("TLS options come together", "[options]") {
  REQUIRE(Refused({"--tls-cert", "c"}).find("tls-cert and tls-key") !=
          std::string::npos);
  REQUIRE(Refused({"--tls-key", "k"}).find("tls-cert and tls-key") !=
          std::string::npos);
  REQUIRE(Refused({"--tls-client-ca", "a"}).find("tls-client-ca") !=
          std::string::npos);
  REQUIRE(Refused({"--tls-cert", "c", "--tls-key", "k", "--insecure"})
              .find("insecure") != std::string::npos);
}

TEST_CASE("a config file has the flags' names, and flags win", "[options]") {
  const TextFile file(
      "max-streams = 8\nmemory-budget = \"32MiB\"\nworkers = \"2x3\"\n"
      "bdp-probe = true\nlisten = \"127.0.0.1:9\"\n");
  const ServerOptions options =
      Parsed({"--config", file.path(), "--listen", "127.0.0.1:10"});
  REQUIRE(options.max_streams == 8);
  REQUIRE(options.memory_budget == 32 << 20);
  REQUIRE(options.workers == WorkerLayout{2, 3});
  REQUIRE(options.bdp_probe);
  REQUIRE(options.listen == "127.0.0.1:10");
}

TEST_CASE("a wrong config file is refused", "[options]") {
  const TextFile unknown("max-streems = 8\n");
  REQUIRE(Refused({"--config", unknown.path()}).find("max-streems") !=
          std::string::npos);
  const TextFile illegal("max-streams = 0\n");
  REQUIRE(Refused({"--config", illegal.path()}).find("max-streams") !=
          std::string::npos);
  const TextFile open("listen = \"0.0.0.0:1\"\n");
  REQUIRE(Refused({"--config", open.path()}).find("not loopback") !=
          std::string::npos);
  REQUIRE(Refused({"--config", "/nonexistent/quantd.toml"})
              .find("/nonexistent/quantd.toml") != std::string::npos);
}

TEST_CASE("--check-config reads the access file", "[options]") {
  const TextFile good(R"({"tokens": [{"sha256":
      "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
      "project": "a", "role": "user"}]})");
  REQUIRE(ParseCommandLine({"--check-config", "--access-file", good.path()})
              .exit_code == 0);
  const TextFile bad("{}");
  REQUIRE(Refused({"--check-config", "--access-file", bad.path()})
              .find("access-file: file: got no entry") != std::string::npos);
  REQUIRE(Refused({"--check-config", "--access-file", "/nowhere/file"})
              .find("access-file: ") != std::string::npos);
}

TEST_CASE("--check-config looks at the directories", "[options]") {
  const TemporaryFolder folder;
  const TextFile file("text");
  std::filesystem::create_directory(folder / "root");
  CHECK(Checked({"--data-dir", folder / "new/below"}).empty());
  CHECK(Checked({"--data-dir", folder / "root"}).empty());
  CHECK(Has(Checked({"--data-dir", file.path()}), "data-dir: got"));
  CHECK(Has(Checked({"--data-dir", file.path() + "/below"}), "is a file"));
  CHECK(Checked({"--read-root", folder / "root"}).empty());
  CHECK(Has(Checked({"--read-root", folder / "none"}), "read-root"));
  CHECK(Checked({"--write-root", folder / "root"}).empty());
  CHECK(Has(Checked({"--write-root", folder / "none"}), "write-root"));
  CHECK(Has(Checked({"--write-root", file.path()}), "write-root"));
  CHECK(Checked({"--port-file", folder / "port"}).empty());
  CHECK(Has(Checked({"--port-file", folder / "none/port"}), "port-file: got"));
  std::filesystem::create_symlink("port", folder / "link");
  CHECK(Has(Checked({"--port-file", folder / "link"}), "is no regular file"));
  // It changes nothing.
  CHECK(std::filesystem::is_empty(folder / "root"));
  CHECK_FALSE(std::filesystem::exists(folder / "new"));
}

// As root, too, whom permissions do not stop.
TEST_CASE("--check-config finds directories on a read-only file system",
          "[options]") {
  const TemporaryFolder folder;
  for (const char* name : {"good", "disk"}) {
    std::filesystem::create_directory(folder / name);
  }
  const std::string disk = folder / "disk";
  // In a mount namespace of its own, which ends with the thread.
  std::thread([&] {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("none", disk.c_str(), "tmpfs", MS_RDONLY, "size=1m") != 0) {
      WARN("skipped: mounting a file system needs the rights to: "
           << strerror(errno));
      return;
    }
    CHECK(Checked({"--read-root", disk}).empty());
    CHECK(Checked({"--write-root", folder / "good"}).empty());
    const std::string says =
        "the directory \"" + disk + "\" (Read-only file system), allowed";
    CHECK(Has(Checked({"--write-root", disk}), "write-root: got " + says));
    // Every one, also a project's.
    CHECK(Has(Checked({"--write-root", folder / "good", "--write-root",
                       "team-a=" + disk}),
              "write-root: got " + says));
    CHECK(Has(Checked({"--data-dir", disk + "/new"}), "data-dir: got " + says));
    CHECK(Has(Checked({"--port-file", disk + "/port"}),
              "port-file: got " + says));
  }).join();
}

TEST_CASE("--check-config finds a root that may not be written to",
          "[options]") {
  const TemporaryFolder folder;
  const std::filesystem::path locked = folder / "locked";
  std::filesystem::create_directory(locked);
  std::filesystem::permissions(locked, std::filesystem::perms(0555));
  // The superuser may write everywhere; access() asks for the real user.
  const bool super = getuid() == 0;
  if (super) {
    std::filesystem::permissions(locked.parent_path(),
                                 std::filesystem::perms(0755));
    REQUIRE(setresuid(65534, 65534, 0) == 0);
  }
  const std::string error = Checked({"--write-root", locked});
  if (super) REQUIRE(setresuid(0, 0, 0) == 0);
  CHECK(Has(error, "write-root: got"));
  CHECK(Has(error, "Permission denied"));
}

// Those that are there: tests/service/tls_test.cc.
TEST_CASE("--check-config reads the certificates", "[options]") {
  const TextFile text("no PEM");
  CHECK(Has(Checked({"--tls-cert", "/nonexistent", "--tls-key", text.path()}),
            "tls-cert: cannot read"));
  CHECK(Has(Checked({"--tls-cert", text.path(), "--tls-key", "/nonexistent"}),
            "tls-key: cannot read"));
  CHECK(Has(Checked({"--tls-cert", text.path(), "--tls-key", text.path()}),
            "holds no PEM certificate"));
}

TEST_CASE("the help is for people", "[options]") {
  const std::string help = ParseCommandLine({"--help"}).out;
  CHECK(help.find("--memory-budget SIZE=") != std::string::npos);
  CHECK(help.find("(or with KiB, MiB, GiB, TiB)") != std::string::npos);
  CHECK(help.find("--max-streams N=64") != std::string::npos);
  for (const char* raw : {"INT", "FLOAT", "kb(=1024b)", "e+"}) {
    INFO(raw);
    CHECK(help.find(raw) == std::string::npos);
  }
}

TEST_CASE("--check-config prints what --config reads", "[options]") {
  const TemporaryFolder folder;
  for (const char* name : {"m", "n"}) {
    std::filesystem::create_directory(folder / name);
  }
  const Args args = {
      "--listen",        "127.0.0.1:12", "--workers",          "3x2",
      "--memory-budget", "100MiB",       "--max-streams",      "9",
      "--drain-timeout", "1.25",         "--bdp-probe",        "--read-root",
      folder / "m",      "--read-root",  "a=" + (folder / "n")};
  Args check = args;
  check.push_back("--check-config");
  const CommandLine printed = ParseCommandLine(check);
  INFO(printed.error);
  REQUIRE_FALSE(printed.serve);
  REQUIRE(printed.exit_code == 0);
  INFO(printed.out);
  const TextFile file(printed.out);
  const ServerOptions direct = Parsed(args);
  const ServerOptions read = Parsed({"--config", file.path()});
  REQUIRE(read.listen == direct.listen);
  REQUIRE(read.workers == direct.workers);
  REQUIRE(read.memory_budget == direct.memory_budget);
  REQUIRE(read.max_streams == direct.max_streams);
  REQUIRE(read.drain_timeout == direct.drain_timeout);
  REQUIRE(read.bdp_probe);
  REQUIRE(read.max_plan_bytes == direct.max_plan_bytes);
  REQUIRE(read.tls_cert == direct.tls_cert);
  REQUIRE(read.read_roots == direct.read_roots);
  REQUIRE(read.write_roots.empty());
  // Wrong options are found, too.
  Refused({"--check-config", "--listen", "0.0.0.0:1"});
}

TEST_CASE("--help has every option with its default, --version the version",
          "[options]") {
  const CommandLine help = ParseCommandLine({"--help"});
  REQUIRE(help.exit_code == 0);
  REQUIRE_FALSE(help.serve);
  const auto flags = FlagsInHelp();
  const std::map<std::string, std::string> shown(flags.begin(), flags.end());
  // Those in force: NAME=VALUE, text in quotes, "" and false for none.
  std::istringstream config(ParseCommandLine({"--check-config"}).out);
  size_t options = 0;
  for (std::string line; std::getline(config, line);) {
    const size_t equals = line.find('=');
    if (line.empty() || line[0] == '#') continue;
    REQUIRE(equals != std::string::npos);
    ++options;
    std::string value = line.substr(equals + 1);
    std::erase(value, '"');
    const auto found = shown.find("--" + line.substr(0, equals));
    INFO(line);
    REQUIRE(found != shown.end());
    const size_t in_help = found->second.find('=');
    if (value.empty() || value == "false") {
      CHECK(in_help == std::string::npos);
    } else {
      REQUIRE(in_help != std::string::npos);
      CHECK(found->second.substr(in_help + 1) == value);
    }
  }
  CHECK(options == FlagCases().size());
  REQUIRE(help.out.find("--listen TEXT=127.0.0.1:50051") != std::string::npos);
  const CommandLine version = ParseCommandLine({"--version"});
  REQUIRE(version.out == std::string("quantd ") + kServerVersion + "\n");
}

TEST_CASE("metrics have an IP address of their own", "[options]") {
  REQUIRE(Parsed({}).metrics_listen.empty());
  Parsed({"--metrics-listen", "localhost:0"});
  Parsed({"--metrics-listen", "0.0.0.0:9464"});
  REQUIRE(Refused({"--metrics-listen", "9464"})
              .find("metrics-listen: got \"9464\", allowed") !=
          std::string::npos);
}

TEST_CASE("worker layouts", "[options]") {
  REQUIRE(*ParseWorkers("4") == WorkerLayout{4, 1});
  REQUIRE(*ParseWorkers("cpu:4") == WorkerLayout{4, 1});
  REQUIRE(*ParseWorkers("cpu:4x2") == WorkerLayout{4, 2});
  REQUIRE(FormatWorkers({4, 1}) == "4");
  REQUIRE(FormatWorkers({4, 2}) == "4x2");
  REQUIRE(*ParseWorkers("gpu:0,gpu:12,cpu:4x2") == WorkerLayout{4, 2, {0, 12}});
  REQUIRE(*ParseWorkers("gpu:1") == WorkerLayout{0, 1, {1}});
  for (const char* text : {"gpu:0,gpu:12,cpu:4x2", "gpu:1", "3", "3x2"}) {
    REQUIRE(FormatWorkers(*ParseWorkers(text)) == text);
  }
  for (const char* text :
       {"", "x", "x2", "2x0", "1025", "-1", "2 ", "2x2x2", "gpu:", "gpu:x",
        "gpu:-1", "gpu:0,gpu:0", "2,cpu:2", "gpu:0,", ",2", "gpu:0;2"}) {
    INFO(text);
    REQUIRE_FALSE(ParseWorkers(text).ok());
  }
}

TEST_CASE("listen addresses", "[options]") {
  const auto v6 = ParseListenAddress("[fe80::1]:65535");
  REQUIRE(v6.ok());
  REQUIRE(v6->host == "fe80::1");
  REQUIRE(v6->port == 65535);
  for (const char* text : {"", ":1", "host", "host:", "host:x", "host:65536",
                           "host:-1", "::1:5", "[::1]", "[]:1", "[host]:1"}) {
    INFO(text);
    REQUIRE(ParseListenAddress(text).status().code() ==
            absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("cgroup limits", "[options]") {
  REQUIRE(CpusFromCgroup("150000 100000") == 2);
  REQUIRE(CpusFromCgroup("100000 100000") == 1);
  REQUIRE(CpusFromCgroup("max 100000") == 0);
  REQUIRE(CpusFromCgroup("-1 100000") == 0);
  REQUIRE(CpusFromCgroup("") == 0);
  REQUIRE(BytesFromCgroup("1073741824") == 1 << 30);
  REQUIRE(BytesFromCgroup("max") == 0);
  REQUIRE(BytesFromCgroup("9223372036854771712") == 0);
  REQUIRE(UsableCpus() >= 1);
  REQUIRE(ConfiguredCpus() >= 1);
  REQUIRE(UsableMemoryBytes() >= int64_t{256} << 20);
}

}  // namespace
}  // namespace qs
