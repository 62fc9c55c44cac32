// The BlobWriter of a DirBlobStore. Thread: one user at a time.
#ifndef QS_SERVICE_STORE_DIR_BLOB_WRITER_H_
#define QS_SERVICE_STORE_DIR_BLOB_WRITER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "quant/formats/posix_file.h"
#include "service/store/blob_folder.h"
#include "service/store/blob_store.h"
#include "service/store/blob_sums.h"
#include "service/stream/digest.h"

namespace qs {

class DirWriter final : public BlobWriter {
 public:
  DirWriter(std::shared_ptr<BlobFolder> folder, std::string id,
            int64_t reserved)
      : folder_(std::move(folder)), id_(std::move(id)), reserved_(reserved) {}
  ~DirWriter() override { folder_->EndWriter(id_); }

  absl::Status OpenNew();
  absl::Status OpenOld(int64_t persisted_size);

  int64_t size() const override { return sums_.size(); }
  int64_t persisted_size() const override { return persisted_; }
  absl::Status Append(std::span<const uint8_t> data) override;
  absl::Status Flush() override;
  absl::StatusOr<std::string> Digest() override;
  absl::StatusOr<std::string> Commit(const std::string& expected) override;

 private:
  std::string path() const { return folder_->Staging(id_); }
  absl::Status Write(std::span<const uint8_t> data);
  absl::Status Failed(int error, std::string_view what);
  absl::Status Publish(const std::string& hex);
  void Take(std::span<const uint8_t> data) {
    hash_.Update(data);
    sums_.Append(data);
  }

  const std::shared_ptr<BlobFolder> folder_;
  const std::string id_;
  const int64_t reserved_;
  UniqueFd fd_;
  Sha256 hash_;
  BlobSums sums_;
  std::string digest_;  // once it is complete
  int64_t persisted_ = 0;
  absl::Status failed_;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_DIR_BLOB_WRITER_H_
