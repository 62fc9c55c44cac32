// Tested by tests/service/store/blob_store_test.cc.
#include "service/store/dir_blob_reader.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/status_macros.h"
#include "service/stream/digest.h"

namespace qs {
namespace {

constexpr int64_t kMaxSumsFile = int64_t{64} << 20;  // of a blob of 16 TiB

class DirReader final : public BlobReader {
 public:
  DirReader(std::shared_ptr<BlobFolder> folder, std::string hex, UniqueFd fd,
            BlobSums sums)
      : folder_(std::move(folder)),
        hex_(std::move(hex)),
        info_{DigestOfHex(hex_), sums.size()},
        fd_(std::move(fd)),
        sums_(std::move(sums)) {}

  const BlobInfo& info() const override { return info_; }
  absl::Status ReadAt(int64_t offset, std::span<uint8_t> data) override;

 private:
  // The whole block into block_.
  absl::Status Load(int64_t index);

  const std::shared_ptr<BlobFolder> folder_;
  const std::string hex_;
  const BlobInfo info_;
  const UniqueFd fd_;
  const BlobSums sums_;
  std::vector<uint8_t> block_;
  int64_t loaded_ = -1;
};

absl::Status DirReader::Load(int64_t index) {
  if (loaded_ == index) return absl::OkStatus();
  loaded_ = -1;
  block_.resize(static_cast<size_t>(sums_.BlockBytes(index)));
  absl::Status read = qs::ReadAt(fd_, folder_->Blob(hex_),
                                 index * BlobSums::kBlockBytes, block_);
  if (read.ok() && sums_.Matches(index, block_)) {
    loaded_ = index;
    return absl::OkStatus();
  }
  if (!read.ok() && !absl::IsAborted(read)) return read;
  folder_->Quarantine(hex_, info_.bytes);
  return absl::DataLossError(
      absl::StrCat("blob ", info_.digest, " is damaged in its MiB ", index));
}

absl::Status DirReader::ReadAt(int64_t offset, std::span<uint8_t> data) {
  const auto count = static_cast<int64_t>(data.size());
  if (offset < 0 || offset > info_.bytes || count > info_.bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat("offset: got ", offset, " and ",
                                              count, " bytes, allowed up to ",
                                              info_.bytes));
  }
  while (!data.empty()) {
    QS_RETURN_IF_ERROR(Load(offset / BlobSums::kBlockBytes));
    const auto begin = static_cast<size_t>(offset % BlobSums::kBlockBytes);
    const size_t part = std::min(block_.size() - begin, data.size());
    std::copy_n(block_.begin() + static_cast<std::ptrdiff_t>(begin), part,
                data.begin());
    offset += static_cast<int64_t>(part);
    data = data.subspan(part);
  }
  return absl::OkStatus();
}

absl::StatusOr<BlobSums> LoadSums(BlobFolder& folder, const std::string& hex,
                                  const UniqueFd& blob) {
  const absl::StatusOr<std::string> text =
      ReadSmallFile(folder.Sums(hex), kMaxSumsFile);
  if (text.ok()) {
    absl::StatusOr<BlobSums> sums = BlobSums::FromFile(*text);
    if (sums.ok()) return sums;
  } else if (!absl::IsNotFound(text.status())) {
    return text.status();
  }
  BlobSums sums;
  Sha256 hash;
  const int64_t size = FileSize(folder.Blob(hex));
  std::vector<uint8_t> block(static_cast<size_t>(BlobSums::kBlockBytes));
  while (sums.size() < size) {
    const auto count = std::min(size - sums.size(), BlobSums::kBlockBytes);
    const auto part = std::span(block).first(static_cast<size_t>(count));
    QS_RETURN_IF_ERROR(qs::ReadAt(blob, folder.Blob(hex), sums.size(), part));
    hash.Update(part);
    sums.Append(part);
  }
  if (hash.Finish() != DigestOfHex(hex)) {
    folder.Quarantine(hex, size);
    return absl::DataLossError(
        absl::StrCat("blob ", DigestOfHex(hex), " is damaged"));
  }
  absl::MutexLock lock(&folder.MutexOf(hex));
  QS_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(folder.Sums(hex)));
  QS_RETURN_IF_ERROR(file.Append(std::string_view(sums.ToFile())));
  QS_RETURN_IF_ERROR(file.Commit());
  return sums;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlobReader>> OpenDirBlob(
    std::shared_ptr<BlobFolder> folder, const std::string& digest) {
  QS_ASSIGN_OR_RETURN(const std::string hex, HexOfDigest(digest));
  absl::StatusOr<UniqueFd> fd = OpenRegularFile(folder->Blob(hex));
  if (!fd.ok()) {
    if (!absl::IsNotFound(fd.status())) return fd.status();
    return absl::NotFoundError(absl::StrCat("blob ", digest, " is not there"));
  }
  QS_ASSIGN_OR_RETURN(BlobSums sums, LoadSums(*folder, hex, *fd));
  return std::make_unique<DirReader>(std::move(folder), hex, *std::move(fd),
                                     std::move(sums));
}

}  // namespace qs
