// quantd killed at random moments of an upload: what it acknowledged is there,
// and the upload comes to its end.
#include <csignal>
#include <random>
#include <thread>

#include "tests/service/quantd_process.h"
#include "tests/service/tensors/tensor_client.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

constexpr int64_t kBytes = int64_t{96} << 20;

TEST_CASE("an upload outlives any number of killed servers", "[tensors]") {
  TemporaryFolder folder;
  const uint32_t seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const Bytes bytes = RandomBytes(kBytes, 7);
  const std::vector<std::string> flags = {"--data-dir", folder / "data",
                                          "--workers", "1"};
  int64_t acknowledged = 0;
  int kills = 0;
  v1::Tensor tensor;
  while (tensor.name().empty()) {
    // The later ones live longer, so that one of them gets to the end.
    QuantdProcess server(flags);
    const auto stub = v1::TensorService::NewStub(server.NewChannel());
    const auto upload = Create(*stub, CreateRequest(bytes, "r"));
    REQUIRE(upload.ok());
    INFO("kill " << kills);
    REQUIRE(upload->persisted_size() >= acknowledged);
    if (upload->complete()) {
      tensor = upload->tensor();
      break;
    }
    const auto delay = std::chrono::microseconds(
        random() % 30000 * static_cast<uint32_t>(1 + kills / 5));
    std::jthread killer([&server, delay] {
      std::this_thread::sleep_for(delay);
      server.Signal(SIGKILL);
    });
    WriteStream stream(*stub);
    if (stream.Begin(upload->name()) >= 0) {
      std::jthread sender([&] {
        int64_t at = upload->persisted_size();
        for (int i = 0; at < kBytes; ++i, at += 1 << 20) {
          v1::WriteTensorRequest piece = Piece(bytes, at, 1 << 20);
          piece.set_flush(i % 4 == 3);
          if (!stream.stream->Write(piece)) return;
        }
        v1::WriteTensorRequest finish;
        finish.set_finish(true);
        stream.stream->Write(finish);
      });
      while (stream.Next() >= 0) {
      }
    }
    stream.stream->Finish();
    acknowledged = std::max(acknowledged, stream.persisted);
    ++kills;
    if (!stream.tensor.name().empty()) acknowledged = kBytes;
  }
  CHECK(kills > 1);
  QuantdProcess server(flags);
  const auto stub = v1::TensorService::NewStub(server.NewChannel());
  CHECK(tensor.digest() == DigestOf(bytes));
  const ReadResult read = Read(*stub, tensor.name());
  REQUIRE(read.status.ok());
  CHECK(read.bytes == bytes);
  int staged = 0;
  for (const auto& file :
       std::filesystem::directory_iterator(folder / "data/blobs/staging")) {
    staged += file.exists() ? 1 : 0;
  }
  CHECK(staged == 0);
}

}  // namespace
}  // namespace qs::testing
