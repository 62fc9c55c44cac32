// What servers do before the power fails: calls of all stores, one after the
// other, and after each what must be there from then on.
#ifndef QS_TESTS_SERVICE_STORE_POWER_CUT_WORK_H_
#define QS_TESTS_SERVICE_STORE_POWER_CUT_WORK_H_

#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "service/server/stores.h"
#include "service/store/calibration_store.h"
#include "service/store/job_records.h"
#include "service/tensors/tensor_store.h"
#include "tests/service/store/power_cut.h"
#include "tests/service/tensors/store_fixture.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {

// All stores of a server, as it opens them.
struct Disk {
  static absl::StatusOr<std::unique_ptr<Disk>> Open(const std::string& path);

  std::string path;  // of the data directory
  std::unique_ptr<Stores> stores;
  std::unique_ptr<TensorRecords> tensor_records;
  std::unique_ptr<JobRecords> jobs;
  std::unique_ptr<CalibrationRecords> calibrations;
  std::unique_ptr<TensorStore> tensors;
  std::unique_ptr<CalibrationStore> numbers;
};

// What must hold after a cut at [from, until): "" or what does not.
struct Fact {
  size_t from = 0;
  size_t until = std::numeric_limits<size_t>::max();
  std::function<std::string(Disk&)> check;
};

std::string TextOf(const char* what, const absl::Status& status);

class Work {
 public:
  Work(PowerCutDisk& disk, Disk& stores, uint32_t seed);

  void Step();

  const std::vector<Fact>& facts() const { return facts_; }
  const std::map<std::string, Bytes>& uploads() const { return uploads_; }

 private:
  // The fact's number.
  size_t Acknowledge(std::function<std::string(Disk&)> check);
  // What was said of `id` holds no longer.
  void End(const std::string& id, size_t at);

  void Upload();
  void Delete();
  void Job();
  void ExpectJob(const JobKey& key, int64_t revision);

  // Of the calibration that is open, which has one site.
  void NewCalibrationToFill();
  void AddActivations();
  void AddMoments();
  void ExpectTokens();
  void Seal();

  // A run to its end: a directory that is filled and then has its name.
  void Publish();

  PowerCutDisk& disk_;
  Disk& stores_;
  std::mt19937 random_;
  const std::unique_ptr<Backend> backend_ = NewCpuBackend(1);
  std::vector<Fact> facts_;
  std::map<std::string, Bytes> uploads_;   // by id
  std::map<std::string, size_t> tensors_;  // complete ones, and their facts
  // Of uploads, and of what calibrations have before they are sealed.
  std::map<std::string, std::vector<size_t>> facts_of_;
  int jobs_ = 0;
  bool running_ = false;
  int calibrations_ = 0;
  std::string calibration_;  // the open one's id
  int64_t tokens_ = 0;       // of it
  int moments_ = 0;          // requests
  TemporaryFolder model_;    // what runs read, once there is one
  int outputs_ = 0;
};

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_STORE_POWER_CUT_WORK_H_
