// Tested by tests/service/store/calibration_store_test.cc.
#include "service/store/calibration_store.h"

#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/calibration/calibration_file.h"
#include "service/store/failpoint.h"
#include "service/stream/digest.h"

namespace qs {
namespace {

constexpr char kMagic[] = "QSCALIB1";
constexpr size_t kMagicBytes = 8;
constexpr size_t kRandomBytes = 24;
constexpr int64_t kHeadBytes = kMagicBytes + kRandomBytes;
constexpr char kStagingPrefix[] = "cal-";
// Rows are short: they are written and read so many bytes at a time. Reads are
// aligned to what a blob's sums cover.
constexpr size_t kPieceBytes = size_t{1} << 20;

std::span<const uint8_t> BytesOf(const void* data, int64_t bytes) {
  return {static_cast<const uint8_t*>(data), static_cast<size_t>(bytes)};
}

absl::StatusOr<std::string> RandomText() {
  std::string text(kRandomBytes, '\0');
  if (getrandom(text.data(), text.size(), 0) !=
      static_cast<ssize_t>(text.size())) {
    return absl::InternalError("getrandom: got no random bytes");
  }
  return text;
}

// Reads a blob's numbers from the front.
class SequentialReader {
 public:
  explicit SequentialReader(std::unique_ptr<BlobReader> reader)
      : reader_(std::move(reader)) {}

  int64_t bytes() const { return reader_->info().bytes - kHeadBytes; }

  absl::Status Read(std::span<uint8_t> out) {
    while (!out.empty()) {
      if (at_ == piece_.size()) QS_RETURN_IF_ERROR(NextPiece());
      const size_t n = std::min(out.size(), piece_.size() - at_);
      std::memcpy(out.data(), piece_.data() + at_, n);
      at_ += n;
      out = out.subspan(n);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status NextPiece() {
    const bool first = next_ == 0;
    const int64_t left = reader_->info().bytes - next_;
    piece_.resize(static_cast<size_t>(
        std::min<int64_t>(left, static_cast<int64_t>(kPieceBytes))));
    if (piece_.empty()) return absl::DataLossError("blob: ends too early");
    QS_RETURN_IF_ERROR(reader_->ReadAt(next_, piece_));
    next_ += static_cast<int64_t>(piece_.size());
    at_ = first ? static_cast<size_t>(kHeadBytes) : 0;
    return absl::OkStatus();
  }

  std::unique_ptr<BlobReader> reader_;
  int64_t next_ = 0;
  std::vector<uint8_t> piece_;
  size_t at_ = 0;
};

absl::StatusOr<SequentialReader> OpenNumbers(BlobStore& blobs,
                                             const std::string& blob,
                                             int64_t bytes) {
  absl::StatusOr<std::unique_ptr<BlobReader>> reader = blobs.Open(blob);
  // A record names it.
  if (absl::IsNotFound(reader.status())) {
    return absl::DataLossError(absl::StrCat("blob ", blob, " is gone"));
  }
  QS_RETURN_IF_ERROR(reader.status());
  SequentialReader numbers(*std::move(reader));
  if (numbers.bytes() != bytes) {
    return absl::DataLossError(absl::StrCat(
        "blob ", blob, ": got ", numbers.bytes(), " bytes, allowed ", bytes));
  }
  return numbers;
}

absl::Status AppendMoments(const SiteMoments& moments,
                           const CalibrationStore::Append& append) {
  const int64_t n = moments.inputs();
  for (int64_t row = 0; row < n; ++row) {
    QS_RETURN_IF_ERROR(append(BytesOf(moments.PackedRow(row), 4 * (n - row))));
  }
  return append(BytesOf(moments.abs_sum(), 4 * n));
}

}  // namespace

CalibrationStore::Writer::~Writer() {
  if (writer_ == nullptr) return;
  writer_ = nullptr;
  blobs_.Discard(id_).IgnoreError();
}

absl::Status CalibrationStore::Writer::WriteBuffer() {
  QS_RETURN_IF_ERROR(writer_->Append(buffer_));
  buffer_.clear();
  return absl::OkStatus();
}

absl::Status CalibrationStore::Writer::Append(std::span<const uint8_t> data) {
  while (!data.empty()) {
    const size_t n = std::min(data.size(), kPieceBytes - buffer_.size());
    buffer_.insert(buffer_.end(), data.begin(),
                   data.begin() + static_cast<int64_t>(n));
    data = data.subspan(n);
    if (buffer_.size() == kPieceBytes) QS_RETURN_IF_ERROR(WriteBuffer());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> CalibrationStore::Writer::Commit() {
  QS_RETURN_IF_ERROR(WriteBuffer());
  QS_ASSIGN_OR_RETURN(std::string digest, writer_->Commit(""));
  writer_ = nullptr;
  (void)QS_FAILPOINT("calibration.blob");
  return digest;
}

absl::Status CalibrationStore::DiscardStaged() {
  QS_ASSIGN_OR_RETURN(const std::vector<std::string> ids, blobs_.Staged());
  for (const std::string& id : ids) {
    if (!absl::StartsWith(id, kStagingPrefix)) continue;
    QS_RETURN_IF_ERROR(blobs_.Discard(id));
  }
  return absl::OkStatus();
}

void CalibrationStore::Free(const std::vector<std::string>& blobs) {
  (void)QS_FAILPOINT("calibration.free");
  for (const std::string& blob : blobs) blobs_.Delete(blob).IgnoreError();
}

absl::Status CalibrationStore::Delete(
    const std::string& project, const std::string& id,
    const std::function<absl::Status()>& check) {
  std::vector<std::string> freed;
  {
    absl::WriterMutexLock lock(&use_mutex_);
    QS_RETURN_IF_ERROR(check());
    QS_ASSIGN_OR_RETURN(freed, records_.Delete(project, id));
  }
  Free(freed);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<CalibrationStore::Writer>>
CalibrationStore::NewWriter(int64_t bytes) {
  QS_ASSIGN_OR_RETURN(const std::string random, RandomText());
  const std::string id =
      absl::StrCat(kStagingPrefix, absl::BytesToHexString(random));
  QS_ASSIGN_OR_RETURN(std::unique_ptr<BlobWriter> blob,
                      blobs_.Create(id, kHeadBytes + bytes));
  auto writer = std::make_unique<Writer>(blobs_, id, std::move(blob));
  QS_RETURN_IF_ERROR(writer->Append(BytesOf(kMagic, kMagicBytes)));
  QS_RETURN_IF_ERROR(writer->Append(
      BytesOf(random.data(), static_cast<int64_t>(kRandomBytes))));
  return writer;
}

absl::StatusOr<std::string> CalibrationStore::Put(int64_t bytes,
                                                  const Fill& fill) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<Writer> writer, NewWriter(bytes));
  QS_RETURN_IF_ERROR(fill(
      [&](std::span<const uint8_t> data) { return writer->Append(data); }));
  return writer->Commit();
}

absl::StatusOr<std::string> CalibrationStore::PutAccumulator(
    const SiteAccumulator& sums, int64_t inputs, DType dtype) {
  return Put(SiteAccumulator::StateBytes(inputs, dtype, sums.tokens()),
             [&](const Append& append) { return sums.Save(append); });
}

absl::StatusOr<std::unique_ptr<SiteAccumulator>>
CalibrationStore::GetAccumulator(const std::string& site, int64_t inputs,
                                 DType dtype, const CalibrationPart& part,
                                 int64_t runs) {
  QS_ASSIGN_OR_RETURN(
      SequentialReader numbers,
      OpenNumbers(blobs_, part.blob,
                  SiteAccumulator::StateBytes(inputs, dtype, part.tokens)));
  return SiteAccumulator::Restore(
      site, inputs, dtype, part.tokens,
      [&](std::span<uint8_t> out) { return numbers.Read(out); }, runs);
}

absl::StatusOr<std::string> CalibrationStore::PutMoments(
    const SiteMoments& moments, std::string* digest) {
  Sha256 hash;
  QS_ASSIGN_OR_RETURN(
      std::string blob,
      Put(MomentsBytes(moments.inputs()), [&](const Append& append) {
        return AppendMoments(moments, [&](std::span<const uint8_t> data) {
          hash.Update(data);
          return append(data);
        });
      }));
  const int64_t tokens = moments.tokens();
  hash.Update(BytesOf(&tokens, sizeof(tokens)));
  *digest = hash.Finish();
  if (digest->empty()) return absl::InternalError("OpenSSL refused SHA-256");
  return blob;
}

absl::StatusOr<SiteMoments> CalibrationStore::GetMoments(
    const std::string& site, int64_t inputs, int64_t tokens,
    const std::string& blob) {
  QS_ASSIGN_OR_RETURN(SequentialReader numbers,
                      OpenNumbers(blobs_, blob, MomentsBytes(inputs)));
  QS_ASSIGN_OR_RETURN(SiteMoments moments,
                      SiteMoments::CreateUnfilled(site, inputs));
  const auto read = [&](float* out, int64_t count) {
    return numbers.Read(
        {reinterpret_cast<uint8_t*>(out), static_cast<size_t>(4 * count)});
  };
  QS_RETURN_IF_ERROR(
      read(moments.packed_storage(), SiteMoments::PackedElements(inputs)));
  QS_RETURN_IF_ERROR(read(moments.abs_sum(), inputs));
  moments.ExpandPackedStorage();
  moments.set_tokens(tokens);
  return moments;
}

absl::StatusOr<SiteMoments> CalibrationStore::GetSealed(
    const CalibrationSiteRecord& site) {
  if (site.blob.empty()) return SiteMoments::Create(site.name, site.inputs);
  return GetMoments(site.name, site.inputs, site.tokens, site.blob);
}

absl::Status CalibrationStore::ReadSealed(const CalibrationSiteRecord& site,
                                          int64_t offset,
                                          std::span<uint8_t> data) {
  if (site.blob.empty()) {
    std::fill(data.begin(), data.end(), uint8_t{0});
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<BlobReader>> reader = blobs_.Open(site.blob);
  if (absl::IsNotFound(reader.status())) {
    return absl::DataLossError(absl::StrCat("blob ", site.blob, " is gone"));
  }
  QS_RETURN_IF_ERROR(reader.status());
  return (*reader)->ReadAt(kHeadBytes + offset, data);
}

absl::Status CalibrationStore::Export(const CalibrationRecord& calibration,
                                      const std::string& path) {
  std::vector<const CalibrationSiteRecord*> records;
  std::vector<CalibrationSite> sites;
  for (const CalibrationSiteRecord& record : calibration.sites) {
    if (!record.sealed) continue;
    records.push_back(&record);
    CalibrationSite& site = sites.emplace_back();
    site.name = record.name;
    site.inputs = record.inputs;
    site.tokens = record.tokens;
    site.packed = true;
    site.modules = record.modules;
  }
  return WriteCalibration(path, sites, calibration.metadata,
                          [&](size_t i) { return GetSealed(*records[i]); });
}

}  // namespace qs
