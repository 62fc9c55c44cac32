// Tested by tests/service/store/power_cut_test.cc.
#include "tests/service/store/power_cut.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPage = 4096;

struct Call {
  enum Kind {
    kMakeFile,
    kMakeFolder,
    kWrite,
    kTruncate,
    kSync,  // a file's data
    kSyncFolder,
    kSyncAll,
    kRename,  // a file, or a folder with all that is in it
    kUnlink,
  };
  Kind kind;
  std::string path;    // of names
  std::string to;      // kRename
  int file = -1;       // number of a file's bytes, whatever its name
  int64_t offset = 0;  // kTruncate: the new size
  std::string data;
};

struct OpenFile {
  int file = -1;  // -1: a folder
  std::string path;
};

// What is noted. All under `mutex`, which is also held over the calls
// themselves, so that they are noted in their order.
struct Notes {
  std::string folder;  // empty: nobody watches
  std::vector<Call> calls;
  std::map<std::string, int> names;  // of files
  std::map<int, OpenFile> open;      // by descriptor
  int files = 0;
  std::function<bool(const std::string&)> forgets;
};

std::mutex& Mutex() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}

Notes& Noted() {
  static auto* const notes = new Notes;
  return *notes;
}

// SQLite makes the index of its log anew.
bool IsWatched(std::string_view path) {
  const std::string& folder = Noted().folder;
  return !folder.empty() && path.size() > folder.size() &&
         path.substr(0, folder.size()) == folder &&
         path[folder.size()] == '/' &&
         (path.size() < 4 || path.substr(path.size() - 4) != "-shm");
}

bool IsFolder(const char* path) {
  struct stat info;
  return ::stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

std::string FolderOf(const std::string& path) {
  return path.substr(0, path.rfind('/'));
}

void Note(Call call) { Noted().calls.push_back(std::move(call)); }

void NoteOpen(int fd, const char* path, int flags, bool was_there) {
  Notes& notes = Noted();
  notes.open.erase(fd);
  const bool root = notes.folder == path;
  if (fd < 0 || (!root && !IsWatched(path))) return;
  if (root || IsFolder(path)) {
    notes.open[fd] = {-1, path};
    return;
  }
  if (!was_there) {
    notes.names[path] = notes.files++;
    Note({Call::kMakeFile, path, "", notes.names[path], 0, ""});
  }
  const int file = notes.names.at(path);
  if (was_there && (flags & O_TRUNC) != 0) {
    Note({Call::kTruncate, "", "", file, 0, ""});
  }
  notes.open[fd] = {file, path};
}

int Open(const char* path, int flags, mode_t mode) {
  const std::lock_guard lock(Mutex());
  const bool was_there = ::access(path, F_OK) == 0;
  const int fd = static_cast<int>(
      syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode));
  const int error = errno;
  NoteOpen(fd, path, flags, was_there);
  errno = error;
  return fd;
}

int Close(int fd) {
  const std::lock_guard lock(Mutex());
  Noted().open.erase(fd);
  return static_cast<int>(syscall(SYS_close, fd));
}

// Null: nobody watches it.
const OpenFile* Find(int fd) {
  const auto found = Noted().open.find(fd);
  return Noted().folder.empty() || found == Noted().open.end() ? nullptr
                                                               : &found->second;
}

ssize_t Write(int fd, const void* data, size_t count, int64_t offset) {
  const std::lock_guard lock(Mutex());
  const OpenFile* const file = Find(fd);
  if (file != nullptr && offset < 0) {
    offset = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    const long done = syscall(SYS_write, fd, data, count);
    if (done > 0) {
      Note({Call::kWrite, "", "", file->file, offset,
            std::string(static_cast<const char*>(data),
                        static_cast<size_t>(done))});
    }
    return done;
  }
  if (offset < 0) return syscall(SYS_write, fd, data, count);
  const long done = syscall(SYS_pwrite64, fd, data, count, offset);
  if (file != nullptr && done > 0) {
    Note({Call::kWrite, "", "", file->file, offset,
          std::string(static_cast<const char*>(data),
                      static_cast<size_t>(done))});
  }
  return done;
}

int Truncate(int fd, int64_t size) {
  const std::lock_guard lock(Mutex());
  const int result = static_cast<int>(syscall(SYS_ftruncate, fd, size));
  const OpenFile* const file = Find(fd);
  if (result == 0 && file != nullptr) {
    Note({Call::kTruncate, "", "", file->file, size, ""});
  }
  return result;
}

// While a folder is watched nothing need reach the real disk.
int Sync(int fd, long number) {
  const std::lock_guard lock(Mutex());
  if (Noted().folder.empty()) return static_cast<int>(syscall(number, fd));
  const OpenFile* const file = Find(fd);
  if (file == nullptr) return 0;
  if (number == SYS_syncfs) {
    Note({Call::kSyncAll, "", "", -1, 0, ""});
    return 0;
  }
  if (Noted().forgets && Noted().forgets(file->path)) return 0;
  if (file->file >= 0) {
    Note({Call::kSync, "", "", file->file, 0, ""});
  } else {
    Note({Call::kSyncFolder, file->path, "", -1, 0, ""});
  }
  return 0;
}

// `path`, which is `from` or below it, as it is called below `to`.
std::optional<std::string> Moved(const std::string& path,
                                 const std::string& from,
                                 const std::string& to) {
  const bool moves =
      path == from || path.compare(0, from.size() + 1, from + "/") == 0;
  if (!moves) return std::nullopt;
  return to + path.substr(from.size());
}

// Moves the names of files at `from` and below it.
void MoveNames(std::map<std::string, int>* names, const std::string& from,
               const std::string& to) {
  std::map<std::string, int> moved;
  for (const auto& [path, file] : *names) {
    moved[Moved(path, from, to).value_or(path)] = file;
  }
  *names = std::move(moved);
}

// Of a file or a folder.
int Rename(const char* from, const char* to, unsigned flags) {
  const std::lock_guard lock(Mutex());
  const int result = static_cast<int>(
      syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags));
  if (result != 0 || !IsWatched(from)) return result;
  Notes& notes = Noted();
  const auto found = notes.names.find(from);
  const int file = found == notes.names.end() ? -1 : found->second;
  if (file >= 0) notes.names.erase(to);
  MoveNames(&notes.names, from, to);
  for (auto& [fd, open] : notes.open) {
    open.path = Moved(open.path, from, to).value_or(open.path);
  }
  Note({Call::kRename, from, to, file, 0, ""});
  return result;
}

int Unlink(const char* path) {
  const std::lock_guard lock(Mutex());
  const int result = static_cast<int>(syscall(SYS_unlink, path));
  if (result != 0 || !IsWatched(path)) return result;
  Noted().names.erase(path);
  Note({Call::kUnlink, path, "", -1, 0, ""});
  return result;
}

int MakeFolder(const char* path, mode_t mode) {
  const std::lock_guard lock(Mutex());
  const int result = static_cast<int>(syscall(SYS_mkdir, path, mode));
  if (result == 0 && IsWatched(path)) {
    Note({Call::kMakeFolder, path, "", -1, 0, ""});
  }
  return result;
}

// A disk as it comes back.
class Image {
 public:
  Image(const std::vector<Call>& calls, size_t count, uint32_t seed)
      : calls_(calls), count_(count), random_(seed), luck_(seed % 4) {
    for (size_t i = 0; i < count_; ++i) {
      if (calls_[i].kind == Call::kSync) data_synced_[calls_[i].file] = i;
      if (calls_[i].kind == Call::kSyncFolder) {
        folder_synced_[calls_[i].path] = i;
      }
      if (calls_[i].kind == Call::kSyncAll) all_synced_ = i;
    }
    folders_.insert(Noted().folder);
    for (size_t i = 0; i < count_; ++i) Apply(i);
  }

  void WriteTo(const std::string& to) const {
    for (const std::string& folder : folders_) {
      fs::create_directories(to + folder.substr(Noted().folder.size()));
    }
    for (const auto& [path, file] : names_) {
      std::ofstream out(to + path.substr(Noted().folder.size()),
                        std::ios::binary);
      const auto bytes = bytes_.find(file);
      if (bytes != bytes_.end()) out << bytes->second;
    }
  }

 private:
  // Nothing, everything or anything of what was not synced.
  bool IsLucky() {
    if (luck_ == 0) return false;
    if (luck_ == 1) return true;
    return random_() % 2 == 0;
  }

  bool IsSynced(const std::map<std::string, size_t>& synced,
                const std::string& path, size_t at) const {
    const auto found = synced.find(path);
    return (all_synced_ && at < *all_synced_) ||
           (found != synced.end() && at < found->second);
  }

  // A folder's changes are lost from one of them on. A change that concerns
  // two of them is durable with the sync of the first.
  bool IsKept(size_t at, const std::vector<std::string>& folders) {
    if (IsSynced(folder_synced_, folders[0], at)) return true;
    const bool cut = std::any_of(
        folders.begin(), folders.end(),
        [this](const std::string& folder) { return cut_.count(folder) > 0; });
    if (!cut && IsLucky()) return true;
    cut_.insert(folders.begin(), folders.end());
    return false;
  }

  void Apply(size_t at) {
    const Call& call = calls_[at];
    switch (call.kind) {
      case Call::kMakeFile:
        if (IsKept(at, {FolderOf(call.path)})) Link(call.path, call.file);
        return;
      case Call::kMakeFolder:
        if (IsKept(at, {FolderOf(call.path)}) &&
            folders_.count(FolderOf(call.path)) > 0) {
          folders_.insert(call.path);
        }
        return;
      case Call::kRename:
        if (!IsKept(at, {FolderOf(call.to), FolderOf(call.path)})) return;
        if (call.file < 0) return MoveFolder(call.path, call.to);
        names_.erase(call.path);
        return Link(call.to, call.file);
      case Call::kUnlink:
        if (IsKept(at, {FolderOf(call.path)})) names_.erase(call.path);
        return;
      case Call::kWrite:
      case Call::kTruncate:
        return Change(at);
      case Call::kSync:
      case Call::kSyncFolder:
      case Call::kSyncAll:
        return;
    }
  }

  void Link(const std::string& path, int file) {
    if (folders_.count(FolderOf(path)) > 0) names_[path] = file;
  }

  void MoveFolder(const std::string& from, const std::string& to) {
    if (folders_.count(FolderOf(to)) == 0) return;
    MoveNames(&names_, from, to);
    std::set<std::string> folders;
    for (const std::string& folder : folders_) {
      folders.insert(Moved(folder, from, to).value_or(folder));
    }
    folders_ = std::move(folders);
  }

  void Change(size_t at) {
    const Call& call = calls_[at];
    const auto found = data_synced_.find(call.file);
    const bool synced = (all_synced_ && at < *all_synced_) ||
                        (found != data_synced_.end() && at < found->second);
    std::string& bytes = bytes_[call.file];
    if (call.kind == Call::kTruncate) {
      if (synced || IsLucky()) bytes.resize(static_cast<size_t>(call.offset));
      return;
    }
    const auto begin = static_cast<size_t>(call.offset);
    const size_t end = begin + call.data.size();
    for (size_t from = begin; from < end;) {
      const size_t to = std::min(end, (from / kPage + 1) * kPage);
      if (synced || IsLucky()) {
        if (bytes.size() < to) bytes.resize(to);
        std::copy_n(call.data.data() + (from - begin), to - from,
                    bytes.data() + from);
      }
      from = to;
    }
  }

  const std::vector<Call>& calls_;
  const size_t count_;
  std::mt19937 random_;
  const uint32_t luck_;
  std::map<int, size_t> data_synced_;            // by the last sync
  std::map<std::string, size_t> folder_synced_;  // the same
  std::optional<size_t> all_synced_;
  std::set<std::string> cut_;
  std::set<std::string> folders_;
  std::map<std::string, int> names_;
  std::map<int, std::string> bytes_;
};

}  // namespace

PowerCutDisk::PowerCutDisk(const std::string& folder) {
  const std::lock_guard lock(Mutex());
  if (!Noted().folder.empty()) std::abort();
  Noted() = Notes();
  Noted().folder = folder;
}

PowerCutDisk::~PowerCutDisk() {
  const std::lock_guard lock(Mutex());
  Noted() = Notes();
}

void PowerCutDisk::Forget(std::function<bool(const std::string&)> likes) {
  const std::lock_guard lock(Mutex());
  Noted().forgets = std::move(likes);
}

size_t PowerCutDisk::now() const {
  const std::lock_guard lock(Mutex());
  return Noted().calls.size();
}

void PowerCutDisk::RestoreTo(const std::string& to, size_t calls,
                             uint32_t seed) const {
  std::optional<Image> image;
  {
    const std::lock_guard lock(Mutex());
    image.emplace(Noted().calls, calls, seed);
  }
  fs::create_directories(to);
  image->WriteTo(to);
}

}  // namespace qs::testing

// In place of libc's, for this program and its libraries.
extern "C" {

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  return qs::testing::Open(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  return qs::testing::Open(path, flags, mode);
}
int close(int fd) { return qs::testing::Close(fd); }
ssize_t write(int fd, const void* data, size_t count) {
  return qs::testing::Write(fd, data, count, -1);
}
ssize_t pwrite(int fd, const void* data, size_t count, off_t offset) {
  return qs::testing::Write(fd, data, count, offset);
}
ssize_t pwrite64(int fd, const void* data, size_t count, off64_t offset) {
  return qs::testing::Write(fd, data, count, offset);
}
int ftruncate(int fd, off_t size) noexcept {
  return qs::testing::Truncate(fd, size);
}
int ftruncate64(int fd, off64_t size) noexcept {
  return qs::testing::Truncate(fd, size);
}
int fsync(int fd) { return qs::testing::Sync(fd, SYS_fsync); }
int fdatasync(int fd) { return qs::testing::Sync(fd, SYS_fdatasync); }
int syncfs(int fd) noexcept { return qs::testing::Sync(fd, SYS_syncfs); }
int rename(const char* from, const char* to) noexcept {
  return qs::testing::Rename(from, to, 0);
}
int renameat2(int, const char* from, int, const char* to,
              unsigned flags) noexcept {
  return qs::testing::Rename(from, to, flags);
}
int unlink(const char* path) noexcept { return qs::testing::Unlink(path); }
int mkdir(const char* path, mode_t mode) noexcept {
  return qs::testing::MakeFolder(path, mode);
}

}  // extern "C"
