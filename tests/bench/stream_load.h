// What service_bench sends and to whom: raw uploads over one connection each,
// an RPC that throws everything away, and server processes to send to.
//
// The client gives gRPC slices of memory that it never copies, so that what is
// timed is the transport and the server.
#ifndef QS_TESTS_BENCH_STREAM_LOAD_H_
#define QS_TESTS_BENCH_STREAM_LOAD_H_

#include <grpcpp/grpcpp.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "quant/v1/quantization.pb.h"

namespace qs {

// A bidi method whose server reads to the end and answers nothing.
constexpr char kDiscardMethod[] = "/quant.bench.Sink/Discard";
constexpr char kQuantizeMethod[] = "/quant.v1.QuantizeService/Quantize";

struct Upload {
  std::string address;
  std::string method;
  quant::v1::QuantizeConfig config;
  int64_t bytes = 0;  // of one BF16 tensor, 1024 columns; a multiple of 2048
  bool crc = false;   // send a CRC32C with each chunk
};

struct UploadResult {
  double seconds = 0;  // from the call's start to its status
  grpc::Status status;
  int64_t bytes_back = 0;  // message bytes received
};

// Processor time of this process so far, seconds.
double OwnCpuSeconds();

// All at once, each on a connection of its own.
std::vector<UploadResult> RunUploads(const std::vector<Upload>& uploads);
UploadResult RunUpload(const Upload& upload);

// A child process that serves; killed with SIGTERM and waited for at the end.
class ServerProcess {
 public:
  // `args` with the program first; it must write its port to `port_file`.
  ServerProcess(std::vector<std::string> args, std::string port_file);
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  std::string address() const;
  // Peak resident memory so far, bytes.
  int64_t peak_memory() const;
  // Processor time of all its threads so far, seconds.
  double cpu_seconds() const;

 private:
  pid_t pid_ = -1;
  int port_ = 0;
};

// Serves kDiscardMethod with quantd's settings until SIGTERM.
int ServeDiscard(const std::string& port_file);

}  // namespace qs

#endif  // QS_TESTS_BENCH_STREAM_LOAD_H_
