// Reader of golden files, for tests only: safetensors, read without any of the
// code under test.
#ifndef QS_TESTS_TESTING_GOLDEN_FILE_H_
#define QS_TESTS_TESTING_GOLDEN_FILE_H_

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace qs {

struct GoldenTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;

  int64_t count() const;
  template <class T>
  const T* As() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
};

struct GoldenFile {
  nlohmann::json metadata;  // strings
  std::map<std::string, GoldenTensor> tensors;
};

// Throws std::runtime_error when the file is missing or malformed.
GoldenFile ReadGolden(const std::string& path);

// Every *.safetensors below a folder of tests/data, sorted; of the directory
// that the environment variable QS_GOLDEN_DATA names in its place, for sets of
// other shapes and seeds.
std::vector<std::string> GoldenPaths(const std::string& folder);
bool HasOtherGoldenData();  // whose cases are as many as they are

}  // namespace qs

#endif  // QS_TESTS_TESTING_GOLDEN_FILE_H_
