// What the clients of a history run do: random calls from a seed, on a few
// objects that all of them share, each recorded with its answer.
//
// Objects are numbered slots: what an upload holds, what a job asks for and how
// a calibration is named follows from the number alone, so any client may
// create, continue, repeat or delete any of them at any time.
#ifndef QS_TESTS_SERVICE_HISTORY_WORKLOAD_H_
#define QS_TESTS_SERVICE_HISTORY_WORKLOAD_H_

#include <grpcpp/grpcpp.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "quant/v1/calibrations.grpc.pb.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "quant/v1/tensors.grpc.pb.h"
#include "tests/service/history/history_checker.h"

namespace qs::testing {

namespace v1 = quant::v1;

// The objects in use: a window of numbers that moves on as they are retired.
class Slots {
 public:
  explicit Slots(size_t count);
  int Pick(std::mt19937* random);
  // A new number takes the place of one that is deleted or done with.
  void Retire(int number);
  std::vector<int> Live() const;
  int next() const;

 private:
  mutable absl::Mutex mutex_;
  std::vector<int> live_;
  int next_ = 0;
};

// What the clients share. Thread-safe.
struct Board {
  Board(std::string out_folder, std::string data_folder)
      : out(std::move(out_folder)), data(std::move(data_folder)) {}

  int64_t Now() const;  // microseconds since it was made
  void Record(Operation op);
  History Recorded() const;

  const std::string out;   // where jobs write
  const std::string data;  // tests/data
  Slots uploads{6};
  Slots jobs{6};
  Slots calibrations{3};
  // The disk fails in the server that runs: INTERNAL is no surprise.
  std::atomic<bool> disk_fails = false;

 private:
  const absl::Time began_ = absl::Now();
  mutable absl::Mutex mutex_;
  History history_;
};

// The names that follow from a number.
std::string UploadRequestId(int number);
std::string UploadBytes(int number);
std::string DigestOfBytes(const std::string& bytes);
std::string JobDestination(int number);  // "nf4-17"
std::string CalibrationId(int number);

// Thread: one user.
class HistoryClient {
 public:
  HistoryClient(Board* board, int number, uint32_t seed)
      : board_(*board), number_(number), random_(seed) {}

  // To the server at `port` from now on.
  void Connect(int port);
  // A random call, or a few on one object.
  void Act();

  // For the end of a run, without chance.
  void FinishUpload(int number);
  void ReadAllTensors();
  void SettleJobs(absl::Time limit);
  // True: both sites were read.
  bool SealAndRead(int number);
  void DeleteCalibration(const std::string& id);

 private:
  // --- upload_actions.cc
  void ActOnUpload();
  std::string CreateUpload(int number, bool* complete);
  // Writes a part and pauses, breaks off, or finishes.
  void WriteTensor(int number, const std::string& id, bool to_the_end);
  void GetUpload(const std::string& id);
  void ReadTensor(const std::string& id, const std::string& expected);
  void DeleteTensor(int number, const std::string& id);
  std::vector<v1::Tensor> ListTensors();

  // --- job_actions.cc
  void ActOnJob();
  std::string CreateJob(int number);
  void GetJob(const std::string& id);
  void CancelJob(const std::string& id);
  void DeleteJob(int number, const std::string& id);
  // Goes on over lost connections; gives up at random, or never.
  void WatchJob(const std::string& id, bool to_the_end);
  // One call; where to go on in `revision`. True: the job has ended.
  bool WatchOnce(const std::string& id, bool to_the_end, int64_t* revision);
  bool ListJobs(std::vector<JobView>* jobs);

  // --- calibration_actions.cc
  void ActOnCalibration();
  void CreateCalibration(int number);
  void WriteActivations(int number, const std::string& shard);
  void WriteMoments(int number);
  void GetCalibration(int number);
  void Seal(int number, const std::string& site);
  bool ReadSite(int number, const std::string& site);

  // True with the chance of one in `n`.
  bool OneIn(uint32_t n) { return random_() % n == 0; }
  Operation Begin(const std::string& call, const std::string& object) const;
  void End(Operation op, const grpc::Status& status);
  template <typename Stub, typename Method, typename Request, typename Response>
  grpc::Status Call(Stub& stub, Method method, const Request& request,
                    Response* response);

  Board& board_;
  const int number_;
  std::mt19937 random_;
  int port_ = 0;
  std::unique_ptr<v1::TensorService::Stub> tensors_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::CalibrationService::Stub> calibrations_;
};

constexpr absl::Duration kCallLimit = absl::Seconds(30);

template <typename Stub, typename Method, typename Request, typename Response>
grpc::Status HistoryClient::Call(Stub& stub, Method method,
                                 const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  return (stub.*method)(&context, request, response);
}

// "projects/-/KIND/ID", and back.
std::string NameOf(const std::string& kind, const std::string& id);
std::string IdOf(const std::string& name);

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_HISTORY_WORKLOAD_H_
