// Tested by tests/service/file_watch_test.cc.
#include "service/base/file_watch.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace qs {
namespace {

// What tells one state of a file from another. A file that is not there has
// one, too.
std::string StateOf(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return "-;";
  return absl::StrCat(info.st_dev, " ", info.st_ino, " ", info.st_size, " ",
                      info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, " ",
                      info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec, ";");
}

}  // namespace

FileWatch::FileWatch(absl::Duration interval)
    : interval_(interval), thread_([this] { Run(); }) {}

FileWatch::~FileWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void FileWatch::Add(std::vector<std::string> paths, Changed changed) {
  absl::MutexLock lock(&mutex_);
  added_.push_back({std::move(paths), std::move(changed), ""});
}

void FileWatch::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval_);
      if (stopping_) return;
      for (Watched& added : added_) watched_.push_back(std::move(added));
      added_.clear();
    }
    for (Watched& watched : watched_) Look(&watched);
  }
}

void FileWatch::Look(Watched* watched) {
  // Before the files are read: a change while they are is seen next time.
  std::string now;
  for (const std::string& path : watched->paths) now += StateOf(path);
  if (now == watched->seen) return;
  watched->seen = watched->changed() ? now : "";
}

}  // namespace qs
