// Calls of ReadResult, put together and checked.
#ifndef QS_TESTS_SERVICE_JOBS_RESULT_CLIENT_H_
#define QS_TESTS_SERVICE_JOBS_RESULT_CLIENT_H_

#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "service/stream/crc32c.h"
#include "service/stream/digest.h"
#include "tests/service/jobs/job_client.h"

namespace qs::testing {

inline std::span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

inline std::string DigestOf(const std::string& bytes) {
  Sha256 digest;
  digest.Update(BytesOf(bytes));
  return digest.Finish();
}

// What a call gave, and the call while it is open. A minute at most.
class ResultCall {
 public:
  ResultCall(JobClient& client, const v1::ReadResultRequest& request,
             const std::string& token = "") {
    context_.set_deadline(In(absl::Seconds(60)));
    if (!token.empty()) {
      context_.AddMetadata("authorization", "Bearer " + token);
    }
    reader_ = client.stub().ReadResult(&context_, request);
  }

  // False: the call has ended.
  bool Next() {
    v1::ReadResultResponse response;
    if (!reader_->Read(&response)) return false;
    REQUIRE_FALSE(end);  // is the last message
    if (response.has_chunk()) Take(response.chunk());
    if (response.has_frame()) Take(response.frame());
    if (response.has_report()) reports.push_back(response.report());
    if (response.has_end()) end = response.end();
    return true;
  }
  absl::Status Finish() {
    while (Next()) {
    }
    return FromGrpcStatus(reader_->Finish());
  }
  void Cancel() { context_.TryCancel(); }

  std::vector<std::string> order;             // of files
  std::map<std::string, std::string> files;   // from their first offset on
  std::map<std::string, std::string> digest;  // of those whose `last` came
  std::map<std::string, std::string> outputs;
  std::map<std::string, v1::Frame> frames;  // the last of each output
  std::vector<v1::TensorReport> reports;
  std::optional<v1::ReadResultEnd> end;

 private:
  void Take(const v1::FileChunk& chunk) {
    REQUIRE(chunk.crc32c() == Crc32c(BytesOf(chunk.data())));
    REQUIRE(chunk.data().size() <= size_t{1} << 20);
    if (files.count(chunk.file()) == 0) {
      order.push_back(chunk.file());
      first_[chunk.file()] = chunk.offset();
    }
    std::string& file = files[chunk.file()];
    const auto at = static_cast<int64_t>(file.size());
    REQUIRE(chunk.offset() == first_[chunk.file()] + at);
    file += chunk.data();
    const bool whole =
        chunk.offset() + static_cast<int64_t>(chunk.data().size()) ==
        chunk.size_bytes();
    REQUIRE(chunk.last() == whole);
    if (chunk.last()) digest[chunk.file()] = chunk.digest();
  }
  void Take(const v1::Frame& frame) {
    REQUIRE(frame.crc32c() == Crc32c(BytesOf(frame.data())));
    std::string& output = outputs[frame.tensor()];
    REQUIRE(frame.offset() == static_cast<int64_t>(output.size()));
    output += frame.data();
    if (frame.last()) {
      REQUIRE(frames.count(frame.tensor()) == 0);
      frames[frame.tensor()] = frame;
    }
  }

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::ReadResultResponse>> reader_;
  std::map<std::string, int64_t> first_;
};

inline v1::ReadResultRequest ResultRequest(const std::string& job,
                                           bool wait = false) {
  v1::ReadResultRequest request;
  request.set_name(job);
  request.set_wait(wait);
  return request;
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_JOBS_RESULT_CLIENT_H_
