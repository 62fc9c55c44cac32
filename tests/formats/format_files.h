// Files and stored tensors for the tests of quant/formats.
#ifndef QS_TESTS_FORMATS_FORMAT_FILES_H_
#define QS_TESTS_FORMATS_FORMAT_FILES_H_

#include <openssl/sha.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "quant/formats/safetensors.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

// A directory that goes away with its owner.
class TempDir {
 public:
  TempDir() : path_("/tmp/quantd_formats_XXXXXX") {
    REQUIRE(mkdtemp(path_.data()) != nullptr);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  // Names of everything directly inside, sorted.
  std::vector<std::string> List() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_;
};

inline std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  INFO(path);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  INFO(path);
  REQUIRE(out.good());
}

// A file of the library, below tests/data.
inline std::string DataPath(const std::string& name) {
  return std::string(QS_TEST_DATA) + "/" + name;
}

inline std::span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// The 8 bytes of a header length.
inline std::string LengthText(uint64_t length) {
  std::string text;
  for (int i = 0; i < 8; ++i) {
    text.push_back(static_cast<char>(length >> (8 * i)));
  }
  return text;
}

// A file with this header, right or wrong, and `data_bytes` bytes of data.
inline std::string RawSafetensors(const std::string& header,
                                  size_t data_bytes) {
  return LengthText(header.size()) + header + std::string(data_bytes, '\1');
}

// `"NAME":{"dtype":...}` of a header.
inline std::string Entry(const std::string& name, const std::string& dtype,
                         const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

inline std::string Sha256Hex(std::span<const uint8_t> bytes) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(bytes.data(), bytes.size(), digest);
  std::string hex;
  for (const unsigned char byte : digest) {
    hex.push_back("0123456789abcdef"[byte >> 4]);
    hex.push_back("0123456789abcdef"[byte & 15]);
  }
  return hex;
}

// For INFO.
inline std::string Text(const absl::Status& status) {
  return status.ToString();
}

inline bool IsInvalid(const absl::Status& status, const std::string& text) {
  return absl::IsInvalidArgument(status) &&
         std::string(status.message()).find(text) != std::string::npos;
}

inline SafetensorsFile OpenOrFail(const std::string& path) {
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  INFO(path << ": " << Text(file.status()));
  REQUIRE(file.ok());
  return *std::move(file);
}

// Tensors of a file that a test may change, with the bytes they stand in.
class StoredCopy {
 public:
  StoredCopy() = default;
  explicit StoredCopy(const SafetensorsFile& file) {
    for (const SafetensorsEntry& entry : file.header().tensors) {
      const auto data = file.Data(entry);
      Set(entry.name, entry.dtype, entry.shape, {data.begin(), data.end()});
    }
  }
  StoredCopy(const StoredCopy&) = delete;
  StoredCopy& operator=(const StoredCopy&) = delete;

  void Set(const std::string& name, DType dtype, std::vector<int64_t> shape,
           std::vector<uint8_t> bytes) {
    std::vector<uint8_t>& kept = bytes_[name];
    kept = std::move(bytes);
    items_[name] = {name, dtype, std::move(shape), kept};
  }
  void SetText(const std::string& name, const std::string& text) {
    Set(name, DType::kU8, {static_cast<int64_t>(text.size())},
        {text.begin(), text.end()});
  }
  void Erase(const std::string& name) {
    items_.erase(name);
    bytes_.erase(name);
  }
  // In place; the items see the change.
  std::vector<uint8_t>& Bytes(const std::string& name) {
    return bytes_.at(name);
  }
  const std::map<std::string, SafetensorsItem>& items() const { return items_; }
  std::vector<SafetensorsItem> List() const {
    std::vector<SafetensorsItem> list;
    for (const auto& [name, item] : items_) list.push_back(item);
    return list;
  }

 private:
  std::map<std::string, std::vector<uint8_t>> bytes_;
  std::map<std::string, SafetensorsItem> items_;
};

}  // namespace qs::testing

#endif  // QS_TESTS_FORMATS_FORMAT_FILES_H_
