#include "tests/bench/stream_load.h"

#include <fcntl.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <grpcpp/generic/generic_stub.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <fstream>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <thread>
#include <utility>

#include "kernels/base/dtype.h"
#include "service/stream/crc32c.h"

namespace qs {
namespace {

namespace pb = google::protobuf;
namespace v1 = quant::v1;
using Clock = std::chrono::steady_clock;

constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr int64_t kPatternBytes = int64_t{16} << 20;
constexpr int64_t kCols = 1024;
constexpr int kMaxFrameBytes = 1 << 20;

// Gaussian BF16 weights, sent again and again; a multiple of the chunk size.
const std::vector<uint8_t>& Pattern() {
  static const auto* const pattern = [] {
    auto* bytes = new std::vector<uint8_t>(kPatternBytes);
    std::mt19937 random(1);
    std::normal_distribution<float> gauss(0.0f, 0.02f);
    for (int64_t i = 0; i < kPatternBytes / 2; ++i) {
      StoreFromFloat(bytes->data(), DType::kBF16, i, gauss(random));
    }
    return bytes;
  }();
  return *pattern;
}

double ClockSeconds(clockid_t clock) {
  timespec time;
  if (clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) +
         static_cast<double>(time.tv_nsec) * 1e-9;
}

grpc::ByteBuffer ToBuffer(const v1::QuantizeRequest& request) {
  const grpc::Slice slice(request.SerializeAsString());
  return {&slice, 1};
}

// The request {chunk} whose data stays in the pattern.
grpc::ByteBuffer ChunkBuffer(const v1::Chunk& fields,
                             std::span<const uint8_t> data) {
  constexpr uint32_t kBytes = 2;  // wire type
  const std::string rest = fields.SerializeAsString();
  std::string head;
  {
    pb::io::StringOutputStream sink(&head);
    pb::io::CodedOutputStream out(&sink);
    const auto size = static_cast<uint32_t>(data.size());
    out.WriteTag(v1::QuantizeRequest::kChunkFieldNumber << 3 | kBytes);
    out.WriteVarint32(static_cast<uint32_t>(
        rest.size() + 1 + pb::io::CodedOutputStream::VarintSize32(size) +
        data.size()));
    out.WriteString(rest);
    out.WriteTag(v1::Chunk::kDataFieldNumber << 3 | kBytes);
    out.WriteVarint32(size);
  }
  const grpc::Slice slices[] = {
      grpc::Slice(head),
      grpc::Slice(data.data(), data.size(), grpc::Slice::STATIC_SLICE)};
  return {slices, 2};
}

// Writes one upload as fast as it may, and reads all answers.
class UploadCall final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit UploadCall(const Upload& upload)
      : upload_(upload), stub_(MakeChannel(upload.address)) {}

  void Start() {
    start_ = Clock::now();
    stub_.PrepareBidiStreamingCall(&context_, upload_.method,
                                   grpc::StubOptions(), this);
    WriteNext();
    StartRead(&in_);
    StartCall();
  }

  UploadResult Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return result_;
  }

  void OnWriteDone(bool ok) override {
    if (ok) WriteNext();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    result_.bytes_back += static_cast<int64_t>(in_.Length());
    in_.Clear();
    StartRead(&in_);
  }

  void OnDone(const grpc::Status& status) override {
    const std::chrono::duration<double> elapsed = Clock::now() - start_;
    std::lock_guard<std::mutex> lock(mutex_);
    result_.seconds = elapsed.count();
    result_.status = status;
    done_ = true;
    changed_.notify_one();
  }

 private:
  static std::shared_ptr<grpc::Channel> MakeChannel(
      const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMaxFrameBytes);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    auto channel = grpc::CreateCustomChannel(
        address, grpc::InsecureChannelCredentials(), arguments);
    channel->WaitForConnected(std::chrono::system_clock::now() +
                              std::chrono::seconds(10));
    return channel;
  }

  void WriteNext() {
    if (messages_ < 2) {
      out_ = ToBuffer(messages_ == 0 ? Config() : Begin());
    } else if (sent_ < upload_.bytes) {
      out_ = NextChunk();
    } else {
      if (!std::exchange(closed_, true)) StartWritesDone();
      return;
    }
    ++messages_;
    StartWrite(&out_);
  }

  v1::QuantizeRequest Config() const {
    v1::QuantizeRequest request;
    *request.mutable_config() = upload_.config;
    return request;
  }

  v1::QuantizeRequest Begin() const {
    v1::QuantizeRequest request;
    v1::TensorBegin* tensor = request.mutable_tensor();
    tensor->set_handle(1);
    tensor->set_name("bench.weight");
    tensor->set_dtype(v1::BF16);
    tensor->add_shape(upload_.bytes / 2 / kCols);
    tensor->add_shape(kCols);
    return request;
  }

  grpc::ByteBuffer NextChunk() {
    const int64_t size = std::min(kChunkBytes, upload_.bytes - sent_);
    const std::span<const uint8_t> data(
        Pattern().data() + sent_ % kPatternBytes, static_cast<size_t>(size));
    v1::Chunk chunk;
    chunk.set_handle(1);
    chunk.set_offset(sent_);
    sent_ += size;
    chunk.set_last(sent_ == upload_.bytes);
    if (upload_.crc) chunk.set_crc32c(Crc32c(data));
    return ChunkBuffer(chunk, data);
  }

  const Upload upload_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::ByteBuffer out_;
  grpc::ByteBuffer in_;
  Clock::time_point start_;
  int64_t sent_ = 0;
  int messages_ = 0;
  bool closed_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  UploadResult result_;
};

}  // namespace

std::vector<UploadResult> RunUploads(const std::vector<Upload>& uploads) {
  Pattern();
  std::vector<std::unique_ptr<UploadCall>> calls;
  for (const Upload& upload : uploads) {
    calls.push_back(std::make_unique<UploadCall>(upload));
  }
  for (const auto& call : calls) call->Start();
  std::vector<UploadResult> results;
  for (const auto& call : calls) results.push_back(call->Wait());
  return results;
}

UploadResult RunUpload(const Upload& upload) {
  return RunUploads({upload}).front();
}

ServerProcess::ServerProcess(std::vector<std::string> args,
                             std::string port_file) {
  unlink(port_file.c_str());
  pid_ = fork();
  if (pid_ == 0) {
    std::vector<char*> raw;
    for (std::string& arg : args) raw.push_back(arg.data());
    raw.push_back(nullptr);
    execv(raw[0], raw.data());
    _exit(127);
  }
  for (int i = 0; i < 500 && port_ == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::ifstream(port_file) >> port_;
  }
}

ServerProcess::~ServerProcess() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  waitpid(pid_, nullptr, 0);
}

std::string ServerProcess::address() const {
  return "127.0.0.1:" + std::to_string(port_);
}

int64_t ServerProcess::peak_memory() const {
  std::ifstream in("/proc/" + std::to_string(pid_) + "/status");
  std::string word;
  int64_t kib = 0;
  while (in >> word) {
    if (word == "VmHWM:") in >> kib;
  }
  return kib * 1024;
}

double ServerProcess::cpu_seconds() const {
  clockid_t clock;
  return clock_getcpuclockid(pid_, &clock) == 0 ? ClockSeconds(clock) : 0;
}

double OwnCpuSeconds() { return ClockSeconds(CLOCK_PROCESS_CPUTIME_ID); }

}  // namespace qs
