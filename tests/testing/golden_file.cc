#include "tests/testing/golden_file.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace qs {

int64_t GoldenTensor::count() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

GoldenFile ReadGolden(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  const std::string all((std::istreambuf_iterator<char>(in)), {});
  uint64_t header = 0;
  std::memcpy(&header, all.data(), 8);
  const nlohmann::json json = nlohmann::json::parse(all.substr(8, header));
  GoldenFile file;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      file.metadata = value;
      continue;
    }
    GoldenTensor tensor;
    tensor.dtype = value.at("dtype");
    tensor.shape = value.at("shape").get<std::vector<int64_t>>();
    const auto range = value.at("data_offsets").get<std::vector<uint64_t>>();
    const std::string data =
        all.substr(8 + header + range[0], range[1] - range[0]);
    tensor.bytes.assign(data.begin(), data.end());
    file.tensors[name] = std::move(tensor);
  }
  return file;
}

bool HasOtherGoldenData() { return std::getenv("QS_GOLDEN_DATA") != nullptr; }

std::vector<std::string> GoldenPaths(const std::string& folder) {
  std::vector<std::string> paths;
  const std::string data =
      HasOtherGoldenData() ? std::getenv("QS_GOLDEN_DATA") : QS_TEST_DATA;
  for (const auto& entry :
       std::filesystem::directory_iterator(data + "/" + folder)) {
    if (entry.path().extension() == ".safetensors") {
      paths.push_back(entry.path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace qs
