// Tested by tests/formats/safetensors_read_test.cc and
// tests/formats/posix_fault_test.cc.
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/file_opener.h"
#include "quant/formats/json.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/safetensors.h"

namespace qs {

struct SafetensorsFile::Rep {
  std::string path;
  std::shared_ptr<const FileOpener> opener;
  struct stat info = {};
  void* mapping = MAP_FAILED;
  SafetensorsHeader header;
  std::unordered_map<std::string_view, const SafetensorsEntry*> by_name;

  Rep() = default;
  Rep(const Rep&) = delete;
  Rep& operator=(const Rep&) = delete;
  ~Rep() {
    if (mapping != MAP_FAILED) munmap(mapping, size());
  }
  size_t size() const { return static_cast<size_t>(info.st_size); }
  std::span<const uint8_t> bytes() const {
    return {static_cast<const uint8_t*>(mapping), size()};
  }
};

namespace {

// The length and the header, or the length alone when no header of it can be
// there. By reads, because a mapping of a file that shrinks kills the process.
absl::StatusOr<std::vector<uint8_t>> ReadHead(const UniqueFd& fd,
                                              const std::string& path,
                                              int64_t file_bytes) {
  constexpr int64_t kLengthBytes = 8;
  std::vector<uint8_t> head(
      static_cast<size_t>(std::min(file_bytes, kLengthBytes)));
  QS_RETURN_IF_ERROR(ReadAt(fd, path, 0, head));
  if (file_bytes <= kLengthBytes) return head;
  uint64_t length = 0;
  for (size_t i = 8; i > 0; --i) length = length << 8 | head[i - 1];
  const int64_t most = std::min(kMaxHeaderBytes, file_bytes - kLengthBytes);
  if (length > static_cast<uint64_t>(most)) return head;  // the parser says so
  head.resize(static_cast<size_t>(kLengthBytes) + length);
  QS_RETURN_IF_ERROR(
      ReadAt(fd, path, kLengthBytes, std::span(head).subspan(kLengthBytes)));
  return head;
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::unique_ptr<Rep> rep)
    : rep_(std::move(rep)) {}
SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept =
    default;

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(
    const std::string& path, std::shared_ptr<const FileOpener> opener) {
  QS_ASSIGN_OR_RETURN(const UniqueFd fd, OpenRegularFile(path, opener.get()));
  auto rep = std::make_unique<Rep>();
  rep->path = path;
  rep->opener = std::move(opener);
  if (fstat(fd.get(), &rep->info) != 0) return PosixError(errno, "stat", path);
  QS_ASSIGN_OR_RETURN(const std::vector<uint8_t> head,
                      ReadHead(fd, path, rep->info.st_size));
  absl::StatusOr<SafetensorsHeader> header =
      ParseSafetensorsHeader(head, rep->info.st_size);
  if (!header.ok()) {
    return absl::Status(header.status().code(),
                        absl::StrCat("file ", QuoteForError(path), ": ",
                                     header.status().message()));
  }
  rep->header = *std::move(header);
  for (const SafetensorsEntry& entry : rep->header.tensors) {
    rep->by_name.emplace(entry.name, &entry);
  }
  rep->mapping =
      mmap(nullptr, rep->size(), PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (rep->mapping == MAP_FAILED) return PosixError(errno, "map", path);
  (void)madvise(rep->mapping, rep->size(), MADV_SEQUENTIAL);
  return SafetensorsFile(std::move(rep));
}

const std::string& SafetensorsFile::path() const { return rep_->path; }

const SafetensorsHeader& SafetensorsFile::header() const {
  return rep_->header;
}

const SafetensorsEntry* SafetensorsFile::Find(std::string_view name) const {
  const auto found = rep_->by_name.find(name);
  return found == rep_->by_name.end() ? nullptr : found->second;
}

std::span<const uint8_t> SafetensorsFile::Data(
    const SafetensorsEntry& entry) const {
  return rep_->bytes().subspan(
      static_cast<size_t>(rep_->header.data_offset + entry.begin),
      static_cast<size_t>(entry.end - entry.begin));
}

absl::Status SafetensorsFile::CheckUnchanged() const {
  const absl::StatusOr<struct stat> found =
      StatFile(rep_->path, rep_->opener.get());
  if (!found.ok()) return absl::AbortedError(found.status().message());
  const struct stat& now = *found;
  const struct stat& then = rep_->info;
  const char* what = nullptr;
  if (now.st_dev != then.st_dev || now.st_ino != then.st_ino) {
    what = "another file";
  } else if (now.st_size != then.st_size) {
    what = "another size";
  } else if (now.st_mtim.tv_sec != then.st_mtim.tv_sec ||
             now.st_mtim.tv_nsec != then.st_mtim.tv_nsec) {
    what = "another modification time";
  }
  if (what == nullptr) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("file ", QuoteForError(rep_->path),
                                         ": got ", what,
                                         ", allowed: unchanged since opened"));
}

}  // namespace qs
