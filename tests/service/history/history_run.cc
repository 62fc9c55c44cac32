// Random clients against a quantd that is killed, drained and started again,
// and the history of what they were answered against what the service promises
// (history_checker.h).
//
//   history_run [--seconds N] [--seed S] [--clients C]
//
// Ends with 0 when the history is good, 1 when it is not; then the violations
// are printed and the folder stays, with the server's log. The test command
// runs 20 s; for longer: build/release/bin/history_run --seconds 600. The
// same seed makes the same calls and faults, but threads and disks their own
// times, so a violation may need more than one try to come again.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "service/jobs/job_output.h"
#include "tests/service/history/history_checker.h"
#include "tests/service/history/history_server.h"
#include "tests/service/history/workload.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

// Longer than the grace that the server is given.
constexpr absl::Duration kStopLimit = absl::Seconds(15);
// After so long the history is looked at.
constexpr absl::Duration kRound = absl::Seconds(10);

// A longer time is cut into such runs, each with a folder and the next seed:
// the checker reads a whole history every round.
constexpr int kLongestRun = 300;

struct Arguments {
  int seconds = 20;
  uint32_t seed = 1;
  int clients = 6;
};

// Where a server may be killed, and by which of many hits.
struct Place {
  const char* name;
  uint32_t hits;
};
constexpr Place kPlaces[] = {
    {"blob.write", 60},
    {"blob.sync", 40},
    {"blob.synced", 40},
    {"blob.before_rename", 10},
    {"blob.after_rename", 10},
    {"blob.sync_folder", 20},
    {"meta.commit", 120},
    {"meta.committed", 120},
    {"calibration.blob", 20},
    {"calibration.free", 10},
    {"calibration.before_record", 20},
    {"calibration.after_record", 20},
    {"calibration.before_seal", 4},
    {"calibration.after_seal", 4},
    {"shard.before_rename", 12},
    {"shard.after_rename", 12},
    {"config.before_rename", 6},
    {"config.after_rename", 6},
    {"publish.before_rename", 6},
    {"publish.after_rename", 6},
};
// Where a disk may fail, and how.
constexpr const char* kDiskFaults[] = {"blob.write=ENOSPC",
                                       "meta.commit=ENOSPC", "blob.sync=EIO",
                                       "meta.commit=EIO"};

class Run {
 public:
  Run(const Arguments& arguments, const std::string& folder)
      : arguments_(arguments),
        folder_(folder),
        random_(arguments.seed),
        board_(folder + "/out", QS_TEST_DATA),
        server_(QUANTD_FAULTY_PATH, folder,
                {"--data-dir", folder + "/data", "--read-root", QS_TEST_DATA,
                 "--write-root", folder + "/out", "--workers", "2",
                 "--drain-timeout", "5", "--log-level", "warning"}) {
    fs::create_directory(folder + "/out");
    for (int i = 0; i < arguments.clients; ++i) {
      clients_.emplace_back(&board_, i,
                            arguments.seed * 1000 + static_cast<uint32_t>(i));
    }
  }

  // The first violations.
  std::vector<Violation> Go() {
    Restart("");
    const absl::Time end = absl::Now() + absl::Seconds(arguments_.seconds);
    while (absl::Now() < end) {
      RunRound(std::min(end, absl::Now() + kRound));
      std::vector<Violation> found = CheckHistory(board_.Recorded());
      if (!found.empty()) return found;
    }
    Settle();
    return CheckHistory(board_.Recorded());
  }

  void PrintCounts() const {
    std::map<std::string, std::array<int, 3>> calls;
    for (const Operation& op : board_.Recorded()) ++calls[op.call][op.outcome];
    for (const auto& [call, counts] : calls) {
      std::printf("%-20s %6d done %6d refused %6d unknown\n", call.c_str(),
                  counts[0], counts[1], counts[2]);
    }
    std::printf("%d kills, %d of them at a failpoint; %d drains\n", kills_,
                failpoint_kills_, drains_);
  }

 private:
  // Returns when nothing is under way: what is not answered yet would be
  // missing in the history.
  void RunRound(absl::Time end) {
    std::vector<std::jthread> threads;
    for (HistoryClient& client : clients_) {
      threads.emplace_back([this, &client](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
          client.Connect(server_.port());
          client.Act();
        }
      });
    }
    while (absl::Now() < end) DoHarm();
    // Where the disk has failed no job would end, and so would no watch.
    server_.Kill();
    ++kills_;
    Restart("");
  }

  // A server that is killed before it answers has its successor.
  void Restart(const std::string& failpoints) {
    board_.disk_fails = failpoints.find('E') != std::string::npos;
    if (server_.Start(failpoints)) return;
    if (!server_.Ended()) Die("the server neither starts nor ends");
    ++failpoint_kills_;
    ++kills_;
    board_.disk_fails = false;
    if (!server_.Start("")) Die("the server does not start");
  }

  [[noreturn]] void Die(const std::string& why) {
    std::printf("%s; its log is %s\n", why.c_str(), server_.log_path().c_str());
    std::fflush(stdout);
    server_.Kill();
    std::_Exit(1);  // clients are still at work
  }

  std::string RandomFailpoints() {
    if (random_() % 4 == 0) return "";
    if (random_() % 6 == 0) {
      return absl::StrCat(kDiskFaults[random_() % std::size(kDiskFaults)], "@",
                          1 + random_() % 30);
    }
    const Place& place = kPlaces[random_() % std::size(kPlaces)];
    return absl::StrCat(place.name, "=kill@", 1 + random_() % place.hits);
  }

  // The end of one server, and the next one.
  void DoHarm() {
    const absl::Time end =
        absl::Now() + absl::Milliseconds(50 + random_() % 1200);
    while (absl::Now() < end && !server_.Ended()) {
      absl::SleepFor(absl::Milliseconds(2));
    }
    if (server_.Ended()) {
      ++kills_;
      ++failpoint_kills_;
    } else if (random_() % 3 == 0) {
      Drain();
    } else {
      server_.Kill();
      ++kills_;
    }
    Restart(RandomFailpoints());
  }

  void Drain() {
    Operation op;
    op.start = board_.Now();
    op.call = "Drain";
    ++drains_;
    // A failpoint may kill it on its way out.
    const int code = server_.Stop(kStopLimit);
    op.end = board_.Now();
    if (code >= 0 || !server_.Ended()) {
      if (code >= 0) op.numbers = {code};
      board_.Record(op);
    }
    server_.Kill();
  }

  // Without faults everything comes to its end, and is looked at.
  void Settle() {
    server_.Kill();
    Restart("");
    HistoryClient client(&board_, arguments_.clients, arguments_.seed);
    client.Connect(server_.port());
    for (const int number : OpenUploads()) client.FinishUpload(number);
    client.ReadAllTensors();
    client.SettleJobs(absl::Now() + absl::Seconds(60));
    for (const int number : board_.calibrations.Live()) {
      client.SealAndRead(number);
    }
    Drain();
    LookAtResults();
    Restart("");
    client.Connect(server_.port());
    client.ReadAllTensors();
    for (int number = 0; number < board_.calibrations.next(); ++number) {
      client.DeleteCalibration(CalibrationId(number));
    }
    Drain();
    LookForOrphans();
  }

  // Uploads that may be there and not complete.
  std::set<int> OpenUploads() const {
    const History history = board_.Recorded();
    std::set<std::string> complete;
    for (const Operation& op : history) {
      if (!op.digest.empty()) complete.insert(op.object);
    }
    const std::vector<int> live = board_.uploads.Live();
    std::set<int> open(live.begin(), live.end());
    for (const Operation& op : history) {
      if (op.call != "CreateUpload" || complete.count(op.object) > 0) continue;
      open.insert(std::stoi(op.request.substr(op.request.find('-') + 1)));
    }
    return open;
  }

  void LookAtResults() {
    for (int number = 0; number < board_.jobs.next(); ++number) {
      Operation op;
      op.start = op.end = board_.Now();
      op.call = "Result";
      op.object = JobDestination(number);
      const std::string path = board_.out + "/" + op.object;
      if (fs::exists(path)) {
        const auto digest = DigestOutput(path, {}, [] { return false; });
        op.digest = digest.ok() ? digest->digest : "unreadable";
      }
      for (const auto& entry : fs::directory_iterator(board_.out)) {
        const std::string name = entry.path().filename();
        if (name.rfind("." + op.object + ".", 0) == 0) op.names.push_back(name);
      }
      board_.Record(op);
    }
  }

  // Bytes that no tensor has: every upload is complete, all calibrations are
  // deleted.
  void LookForOrphans() {
    std::set<std::string> wanted;
    for (int number = 0; number < board_.uploads.next(); ++number) {
      wanted.insert(DigestOfBytes(UploadBytes(number)).substr(7));
    }
    Operation op;
    op.start = op.end = board_.Now();
    op.call = "Orphans";
    const std::string blobs = folder_ + "/data/blobs";
    for (const auto& entry : fs::recursive_directory_iterator(blobs)) {
      if (!entry.is_regular_file() || entry.path().filename() == "lock") {
        continue;
      }
      const std::string hex = entry.path().stem();
      if (wanted.count(hex) == 0) op.names.push_back(entry.path());
    }
    board_.Record(op);
  }

  const Arguments arguments_;
  const std::string folder_;
  std::mt19937 random_;
  Board board_;
  HistoryServer server_;
  std::list<HistoryClient> clients_;
  int kills_ = 0;
  int failpoint_kills_ = 0;
  int drains_ = 0;
};

bool Parse(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    bool good = false;
    if (flag == "--seconds") {
      good = absl::SimpleAtoi(argv[i + 1], &arguments->seconds);
    }
    if (flag == "--seed")
      good = absl::SimpleAtoi(argv[i + 1], &arguments->seed);
    if (flag == "--clients") {
      good = absl::SimpleAtoi(argv[i + 1], &arguments->clients);
    }
    if (!good) return false;
  }
  return argc % 2 == 1;
}

// One server's folder and history. False: it is not good.
bool RunOnce(const Arguments& arguments) {
  std::printf("seed %u, %d s, %d clients\n", arguments.seed, arguments.seconds,
              arguments.clients);
  std::fflush(stdout);
  char folder[] = "/tmp/history.XXXXXX";
  if (mkdtemp(folder) == nullptr) return false;
  std::vector<Violation> violations;
  {
    Run run(arguments, folder);
    violations = run.Go();
    run.PrintCounts();
  }
  for (const Violation& violation : violations) {
    std::printf("%s: %s\n", violation.rule.c_str(), violation.text.c_str());
  }
  if (!violations.empty()) {
    std::printf("%zu violations, see %s\n", violations.size(), folder);
    return false;
  }
  fs::remove_all(folder);
  std::printf("the history is good\n");
  std::fflush(stdout);
  return true;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  if (!Parse(argc, argv, &arguments)) {
    std::printf("history_run [--seconds N] [--seed S] [--clients C]\n");
    return 2;
  }
  for (int done = 0; done < arguments.seconds;) {
    Arguments part = arguments;
    part.seconds = std::min(kLongestRun, arguments.seconds - done);
    if (!RunOnce(part)) return 1;
    done += part.seconds;
    ++arguments.seed;
  }
  return 0;
}

}  // namespace
}  // namespace qs::testing

int main(int argc, char** argv) { return qs::testing::Main(argc, argv); }
