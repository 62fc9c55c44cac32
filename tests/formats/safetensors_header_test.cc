// Headers that nobody vouches for: each way to be malformed, with what the
// reader says about it.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "quant/formats/safetensors.h"
#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

absl::StatusOr<SafetensorsHeader> Parse(const std::string& file) {
  return ParseSafetensorsHeader(AsBytes(file),
                                static_cast<int64_t>(file.size()));
}

struct BadCase {
  std::string what;
  std::string header;
  size_t data_bytes;
  std::string message;
};

void CheckAll(const std::vector<BadCase>& cases) {
  for (const BadCase& bad : cases) {
    const auto header = Parse(RawSafetensors(bad.header, bad.data_bytes));
    INFO(bad.what);
    INFO("wanted: " << bad.message);
    INFO("got: " << Text(header.status()));
    CHECK(IsInvalid(header.status(), bad.message));
  }
}

// A header with one tensor "a".
std::string One(const std::string& dtype, const std::string& shape,
                const std::string& offsets) {
  return "{" + Entry("a", dtype, shape, offsets) + "}";
}

std::string Two(const std::string& offsets_a, const std::string& offsets_b) {
  return "{" + Entry("a", "U8", "[4]", offsets_a) + "," +
         Entry("b", "U8", "[4]", offsets_b) + "}";
}

}  // namespace

TEST_CASE("the header length must be there and fit", "[safetensors]") {
  const std::string body = "{}      ";
  struct {
    std::string file;
    std::string message;
  } const cases[] = {
      {"",
       "safetensors file: got 0 bytes, allowed: 10 at least, for the "
       "header's length and {}"},
      {"1234567", "safetensors file: got 7 bytes, allowed: 10 at least"},
      {LengthText(0), "safetensors file: got 8 bytes, allowed: 10 at least"},
      {LengthText(2) + "{",
       "safetensors file: got 9 bytes, allowed: 10 at "
       "least"},
      {LengthText(3) + "{}",
       "header length: got 3, allowed: 2 to 2 in a file "
       "of 10 bytes"},
      {LengthText(0) + body, "header length: got 0, allowed: 2 to 8"},
      {LengthText(1) + body, "header length: got 1, allowed: 2 to 8"},
      {LengthText(9) + body, "got 9, allowed: 2 to 8 in a file of 16 bytes"},
      {LengthText(uint64_t{1} << 63) + body,
       "header length: got 9223372036854775808, allowed: 2 to 8"},
      {LengthText(std::numeric_limits<uint64_t>::max()) + body,
       "header length: got 18446744073709551615, allowed: 2 to 8"},
      {LengthText(std::numeric_limits<uint64_t>::max() - 7) + body,
       "header length: got 18446744073709551608, allowed: 2 to 8"},
  };
  for (const auto& bad : cases) {
    const auto header = Parse(bad.file);
    INFO("wanted: " << bad.message << "\ngot: " << Text(header.status()));
    CHECK(IsInvalid(header.status(), bad.message));
  }
  CHECK(Parse(LengthText(2) + "{}").ok());  // the least there is
}

TEST_CASE("the header length has a limit of its own", "[safetensors]") {
  const std::string head = LengthText(kMaxHeaderBytes + 1) + "{}";
  const auto header = ParseSafetensorsHeader(AsBytes(head), int64_t{1} << 40);
  INFO(Text(header.status()));
  CHECK(IsInvalid(header.status(),
                  "safetensors header length: got 16777217, allowed: 2 to "
                  "16777216 in a file of 1099511627776 bytes"));
}

TEST_CASE("a head shorter than its header is truncated", "[safetensors]") {
  CHECK(IsInvalid(
      ParseSafetensorsHeader(AsBytes(LengthText(2)).first(7), 1000).status(),
      "safetensors header length: got 7 bytes, allowed: 8"));
  const std::string head = LengthText(100) + "{}";
  const auto header = ParseSafetensorsHeader(AsBytes(head), 1000);
  INFO(Text(header.status()));
  CHECK(IsInvalid(header.status(),
                  "safetensors header: got 2 bytes, allowed: 100, its length"));
}

TEST_CASE("the header must be one JSON object", "[safetensors]") {
  const std::string wrong = "safetensors header: byte ";
  CheckAll({
      {"cut off", "{\"a\":", 0, wrong + "5: got "},
      {"an array", "[]", 0, "safetensors header: got byte 91, allowed: '{'"},
      {"blank first", " {}", 0, "header: got byte 32, allowed: '{' first"},
      {"byte order mark", "\xef\xbb\xbf{}", 0, "got byte 239, allowed: '{'"},
      {"text behind", "{} x", 0, wrong + "3: got "},
      {"two objects", "{}{}", 0, wrong + "2: got "},
      {"NUL behind", std::string("{}\0\0", 4), 0,
       "safetensors header: byte 2: got NUL, allowed: JSON"},
      {"NUL in a name", std::string("{\"a\0\":1}", 8), 0, wrong + "3: got NUL"},
      {"comment", "{/* */}", 0, wrong},
      {"comma at the end", "{\"a\":1,}", 0, wrong},
      {"NaN", One("U8", "[NaN]", "[0,4]"), 4, wrong},
      {"Infinity", One("U8", "[Infinity]", "[0,4]"), 4, wrong},
      {"number beyond a double", One("U8", "[1e999]", "[0,4]"), 4, wrong},
      {"single quotes", "{'a':1}", 0, wrong},
  });
}

TEST_CASE("the header must be UTF-8", "[safetensors]") {
  const std::string wrong = "safetensors header: byte ";
  CheckAll({
      {"a stray byte", "{" + Entry("\xff", "U8", "[4]", "[0,4]") + "}", 4,
       wrong},
      {"a cut character", "{" + Entry("\xe6\x97", "U8", "[4]", "[0,4]") + "}",
       4, wrong},
      {"an overlong slash", "{" + Entry("\xc0\xaf", "U8", "[4]", "[0,4]") + "}",
       4, wrong},
      {"a surrogate", "{" + Entry("\xed\xa0\x80", "U8", "[4]", "[0,4]") + "}",
       4, wrong},
      {"beyond U+10FFFF",
       "{" + Entry("\xf4\x90\x80\x80", "U8", "[4]", "[0,4]") + "}", 4, wrong},
      {"half an escaped pair",
       "{" + Entry("\\ud800", "U8", "[4]", "[0,4]") + "}", 4, wrong},
      {"metadata", "{\"__metadata__\":{\"a\":\"\xfe\"}}", 0, wrong},
  });
}

TEST_CASE("keys stand once", "[safetensors]") {
  const std::string a = Entry("a", "U8", "[4]", "[0,4]");
  CheckAll({
      {"a tensor twice", "{" + a + "," + a + "}", 4,
       "safetensors header: key \"a\": got twice, allowed: once"},
      {"a tensor twice, once escaped",
       "{" + a + "," + Entry("\\u0061", "U8", "[4]", "[0,4]") + "}", 4,
       "safetensors header: key \"a\": got twice, allowed: once"},
      {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0,
       "key \"__metadata__\": got twice"},
      {"a metadata key twice",
       "{\"__metadata__\":{\"k\":\"1\",\"x\":\"\",\"k\":\"2\"}}", 0,
       "key \"k\": got twice"},
      {"a field twice",
       "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[4],"
       "\"data_offsets\":[0,4]}}",
       4, "key \"dtype\": got twice"},
  });
}

TEST_CASE("depth and number of values are bounded", "[safetensors]") {
  const std::string deep = "safetensors header: got more depth than allowed: 3";
  const std::string open(100000, '[');
  std::string many = "[0";
  for (int i = 0; i < (2 << 20); ++i) many += ",0";
  CheckAll({
      {"nested metadata", "{\"__metadata__\":{\"a\":{\"b\":{}}}}", 0, deep},
      {"nested shape", One("U8", "[[4]]", "[0,4]"), 4, deep},
      {"open brackets", "{\"a\":" + open, 0, deep},
      {"brackets", "{\"a\":" + open + std::string(100000, ']') + "}", 0, deep},
      {"values", One("U8", many + "]", "[0,0]"), 0,
       "safetensors header: got more values than allowed: 2097152"},
  });
}

TEST_CASE("a tensor has a dtype, a shape and a range", "[safetensors]") {
  const std::string names = "allowed: dtype, shape and data_offsets";
  CheckAll({
      {"no object", "{\"a\":7}", 0,
       "safetensors tensor \"a\": got 7, allowed: an object"},
      {"an array", "{\"a\":[]}", 0, "got an array, allowed: an object"},
      {"nothing in it", "{\"a\":{}}", 0,
       "safetensors tensor \"a\": got no dtype, " + names},
      {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 4,
       "tensor \"a\": got no shape, " + names},
      {"no range", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4,
       "tensor \"a\": got no data_offsets, " + names},
      {"one more key",
       "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],"
       "\"x\":1}}",
       4, "tensor \"a\": got key \"x\", allowed: dtype, shape, data_offsets"},
      {"unknown dtype", One("F99", "[4]", "[0,4]"), 4,
       "safetensors tensor \"a\".dtype: got \"F99\", allowed: F64, F32, F16"},
      {"lower case", One("f32", "[1]", "[0,4]"), 4, "dtype: got \"f32\""},
      {"complex", One("C64", "[1]", "[0,8]"), 8, "dtype: got \"C64\""},
      {"half a byte", One("F4", "[8]", "[0,4]"), 4, "dtype: got \"F4\""},
      {"a number for the dtype",
       "{\"a\":{\"dtype\":3,\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
       "tensor \"a\".dtype: got 3, allowed: F64"},
      {"metadata is text", "{\"__metadata__\":\"x\"}", 0,
       "safetensors __metadata__: got \"x\", allowed: an object of strings"},
      {"metadata of numbers", "{\"__metadata__\":{\"k\":1}}", 0,
       "safetensors __metadata__[\"k\"]: got 1, allowed: a string"},
      {"metadata nested", "{\"__metadata__\":{\"k\":{}}}", 0,
       "__metadata__[\"k\"]: got an object, allowed: a string"},
  });
}

TEST_CASE("sizes are integers from 0 to 2^63 - 1", "[safetensors]") {
  const std::string range =
      ", allowed: an integer from 0 to 9223372036854775807";
  const std::string shape = "safetensors tensor \"a\".shape[0]: got ";
  const std::string offset = "safetensors tensor \"a\".data_offsets[1]: got ";
  CheckAll({
      {"negative", One("U8", "[-1]", "[0,4]"), 4, shape + "-1" + range},
      {"two negative", One("U8", "[-2,-2]", "[0,4]"), 4, shape + "-2" + range},
      {"fraction", One("U8", "[4.0]", "[0,4]"), 4, shape + "4.0" + range},
      {"exponent", One("U8", "[4e0]", "[0,4]"), 4, shape + "4.0" + range},
      {"text", One("U8", "[\"4\"]", "[0,4]"), 4, shape + "\"4\"" + range},
      {"null", One("U8", "[null]", "[0,4]"), 4, shape + "null" + range},
      {"true", One("U8", "[true]", "[0,4]"), 4, shape + "true" + range},
      {"2^63", One("U8", "[9223372036854775808]", "[0,4]"), 4,
       shape + "9223372036854775808" + range},
      {"2^64", One("U8", "[18446744073709551616]", "[0,4]"), 4, shape},
      {"no array", One("U8", "4", "[0,4]"), 4,
       "tensor \"a\".shape: got 4, allowed: an array"},
      {"negative offset", One("U8", "[4]", "[0,-4]"), 4, offset + "-4" + range},
      {"offset 2^63", One("U8", "[4]", "[0,9223372036854775808]"), 4,
       offset + "9223372036854775808" + range},
  });
}

TEST_CASE("shape times dtype is the range, without overflow", "[safetensors]") {
  const std::string offsets = "safetensors tensor \"a\".data_offsets: got ";
  const std::string product =
      "safetensors tensor \"a\".shape: got a product beyond 2^63 bytes, "
      "allowed: what fits the file";
  CheckAll({
      {"too few bytes", One("F32", "[2]", "[0,4]"), 4,
       offsets + "4 bytes, allowed: 8, by dtype and shape"},
      {"too many bytes", One("BF16", "[2,2]", "[0,9]"), 9,
       offsets + "9 bytes, allowed: 8, by dtype and shape"},
      {"a scalar has one element", One("F32", "[]", "[0,0]"), 0,
       offsets + "0 bytes, allowed: 4, by dtype and shape"},
      {"product 2^64", One("U8", "[4294967296,4294967296]", "[0,0]"), 0,
       product},
      {"product 2^64 + 4", One("U8", "[18014398509481985,1024]", "[0,0]"), 0,
       product},
      {"elements fit, bytes do not",
       One("F64", "[4611686018427387904]", "[0,0]"), 0, product},
      {"hidden by a zero behind",
       One("U8", "[4294967296,4294967296,0]", "[0,0]"), 0, product},
      {"hidden by a zero in front",
       One("U8", "[0,4294967296,4294967296]", "[0,0]"), 0, product},
      {"one number", One("U8", "[4]", "[4]"), 4,
       offsets + "[4], allowed: [begin, end] with begin <= end"},
      {"three numbers", One("U8", "[4]", "[0,2,4]"), 4, offsets + "[0,2,4]"},
      {"end before begin", One("U8", "[4]", "[4,0]"), 4, offsets + "[4,0]"},
  });
}

TEST_CASE("tensors fill the data, each byte once", "[safetensors]") {
  const std::string a = "safetensors tensor \"a\".data_offsets: got ";
  const std::string b = "safetensors tensor \"b\".data_offsets: got ";
  CheckAll({
      {"overlap", Two("[0,4]", "[2,6]"), 6,
       b + "an overlap: begin 2, allowed: 4"},
      {"the same range", Two("[0,4]", "[0,4]"), 4,
       b + "an overlap: begin 0, allowed: 4"},
      {"overlap in reverse", Two("[2,6]", "[0,4]"), 6,
       a + "an overlap: begin 2, allowed: 4"},
      {"hole between", Two("[0,4]", "[6,10]"), 10,
       b + "a hole: begin 6, allowed: 4"},
      {"hole in front", One("U8", "[4]", "[2,6]"), 6,
       a + "a hole: begin 2, allowed: 0"},
      {"past the end", One("U8", "[4]", "[0,4]"), 3,
       a + "an end at 4, allowed: at most 3, the bytes behind the header"},
      {"far past the end",
       One("U8", "[9223372036854775807]", "[0,9223372036854775807]"), 8,
       a + "an end at 9223372036854775807, allowed: at most 8"},
      {"an empty tensor past the end", One("U8", "[0]", "[8,8]"), 4,
       a + "an end at 8, allowed: at most 4"},
      {"bytes left over", One("U8", "[4]", "[0,4]"), 8,
       "safetensors file: got 8 bytes behind the header, allowed: 4, the end "
       "of "
       "the last tensor"},
      {"no tensor for the bytes", "{}", 1,
       "safetensors file: got 1 bytes behind the header, allowed: 0"},
      {"an empty tensor inside another",
       "{" + Entry("a", "U8", "[4]", "[0,4]") + "," +
           Entry("b", "U8", "[0]", "[2,2]") + "}",
       4, b + "an overlap: begin 2, allowed: 4"},
  });
}

TEST_CASE("errors quote hostile names safely", "[safetensors]") {
  const std::string name(5000, 'x');
  auto header =
      Parse(RawSafetensors("{" + Entry(name, "F99", "[4]", "[0,4]") + "}", 4));
  CHECK(header.status().message().size() < 400);
  CHECK(IsInvalid(header.status(),
                  "tensor \"" + std::string(120, 'x') + "...\".dtype"));
  header = Parse(RawSafetensors(
      "{" + Entry("a\\n\\u0000\\\"b", "F99", "[4]", "[0,4]") + "}", 4));
  INFO(Text(header.status()));
  CHECK(IsInvalid(header.status(), "tensor \"a\\n\\x00\\\"b\".dtype"));
}

TEST_CASE("legal headers of every kind", "[safetensors]") {
  SECTION("nothing in it") {
    const auto header = Parse(RawSafetensors("{}", 0));
    REQUIRE(header.ok());
    CHECK(header->tensors.empty());
    CHECK(header->metadata.empty());
    CHECK(header->data_offset == 10);
  }
  SECTION("metadata alone, blanks behind") {
    const auto header =
        Parse(RawSafetensors("{\"__metadata__\":{\"format\":\"pt\"}}    ", 0));
    REQUIRE(header.ok());
    CHECK(header->metadata ==
          std::map<std::string, std::string>{{"format", "pt"}});
  }
  SECTION("scalars, empty tensors, any order of keys") {
    const auto header = Parse(RawSafetensors(
        "{\"z\":{\"data_offsets\":[4,8],\"shape\":[],\"dtype\":\"F32\"}," +
            Entry("e2", "F32", "[0,5]", "[4,4]") + "," +
            Entry("e1", "BF16", "[3,0]", "[4,4]") + "," +
            Entry("\\u00e9", "BOOL", "[2,2]", "[0,4]") + "}",
        8));
    INFO(Text(header.status()));
    REQUIRE(header.ok());
    std::vector<std::string> names;
    for (const auto& entry : header->tensors) names.push_back(entry.name);
    CHECK(names == std::vector<std::string>{"\xc3\xa9", "e1", "e2", "z"});
    CHECK(header->tensors[3].shape.empty());
    CHECK(header->tensors[3].dtype == DType::kF32);
    CHECK(header->tensors[2].shape == std::vector<int64_t>{0, 5});
  }
}

}  // namespace qs::testing
