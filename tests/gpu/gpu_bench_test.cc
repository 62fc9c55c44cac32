// Every row of gpu_bench on the host emulation, on small shapes: that it runs
// and prints finite numbers, and claims nothing of a device.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/cuda/blas_emulated.h"
#include "tests/gpu/bench_rows.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/fake_device.h"

namespace qs::cuda {
namespace {

constexpr BenchShapes kSmall = {.rows = 8,
                                .cols = 128,
                                .wide = 192,
                                .group = 64,
                                .tokens = 256,
                                .tokens_a_call = 128,
                                .product = 64,
                                .copy_bytes = 1 << 12,
                                .bus_bytes = 1 << 12};

std::unique_ptr<BenchMachine> Emulated(std::shared_ptr<Device> device) {
  BenchParts parts;
  parts.device = std::move(device);
  parts.new_blas = []() -> absl::StatusOr<std::unique_ptr<Blas>> {
    return NewEmulatedBlas();
  };
  parts.copy = [](void* to, const void* from, int64_t bytes, cudaStream_t) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return absl::OkStatus();
  };
  parts.memory_bytes = int64_t{1} << 32;
  parts.emulated = true;
  auto machine = BenchMachine::Open(std::move(parts));
  INFO(machine.status().ToString());
  REQUIRE(machine.ok());
  return *std::move(machine);
}

struct Printed {
  absl::Status status;
  std::vector<std::string> lines;
};

Printed Run(BenchMachine& machine) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* const out = open_memstream(&text, &size);
  REQUIRE(out != nullptr);
  Printed printed;
  printed.status = RunGpuBench(kSmall, machine, 1, out);
  std::fclose(out);
  std::istringstream all(std::string(text, size));
  std::free(text);
  for (std::string line; std::getline(all, line);) {
    printed.lines.push_back(line);
  }
  return printed;
}

TEST_CASE("every row runs and is finite", "[gpu_bench]") {
  const auto device = std::make_shared<FakeDevice>();
  const Printed printed = Run(*Emulated(device));
  INFO(printed.status.ToString());
  REQUIRE(printed.status.ok());
  std::vector<std::string> names;
  for (const std::string& line : printed.lines) {
    INFO(line);
    CHECK(line.find("FAILED") == std::string::npos);
    if (line.empty() || line[0] != '{') continue;
    const auto row = nlohmann::json::parse(line);
    names.push_back(row["name"]);
    CHECK(row["device"] == "host emulation");
    CHECK(row["emulated_ms"].get<double>() > 0);
    CHECK(std::isfinite(row["rate"].get<double>()));
    CHECK(std::isfinite(row["share"].get<double>()));
    // Times of the host are not held against what is asked of a device.
    CHECK(row["met"] == "");
    CHECK_FALSE(row.contains("ms"));
  }
  for (const char* begin : {"device copy",
                            "host to device",
                            "device to host",
                            "BF16 product",
                            "TF32 product",
                            "F32 product",
                            "NF4 encode",
                            "NF4 encode, best",
                            "NF4 decode",
                            "NF4 absmax, nested encode",
                            "NF4 encode, nested encode, refine (best)",
                            "affine encode and pack",
                            "affine range search",
                            "pack AWQ's order",
                            "unpack AWQ's order",
                            "pack hqq's order, 4 bits",
                            "pack hqq's order, 3 bits",
                            "error sums",
                            "HQQ solver",
                            "HQQ search",
                            "second moments",
                            "GPTQ given H",
                            "GPTQ factor",
                            "GPTQ factor in F64",
                            "GPTQ factor without cuSOLVER",
                            "GPTQ codes",
                            "GPTQ output error",
                            "AWQ 20 losses and clip",
                            "AWQ clip",
                            "staged: NF4",
                            "staged: affine",
                            "staged: error sums",
                            "staged: HQQ",
                            "staged: second moments",
                            "staged: GPTQ",
                            "staged: AWQ"}) {
    INFO(begin);
    bool found = false;
    for (const std::string& name : names) {
      found = found || name.compare(0, std::strlen(begin), begin) == 0;
    }
    CHECK(found);
  }
}

TEST_CASE("a device that is lost is an error with its family", "[gpu_bench]") {
  const auto device = std::make_shared<FakeDevice>();
  const auto machine = Emulated(device);
  device->SetFaults({.lost_after_launches = 200});
  const Printed printed = Run(*machine);
  CHECK(printed.status.code() == absl::StatusCode::kInternal);
  CHECK(std::count_if(printed.lines.begin(), printed.lines.end(),
                      [](const std::string& line) {
                        return line.find("FAILED: ") == 0;
                      }) > 0);
}

}  // namespace
}  // namespace qs::cuda
